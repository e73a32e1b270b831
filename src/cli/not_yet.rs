//! What is promised for a later version and not there yet: refused by name, never accepted and ignored.
//!
//! Nothing here is known to clap, so that no help names it: an argument that clap does not know is looked up in this table
//! before clap's own words are printed. What comes to be there loses its row.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Whole commands.
const COMMANDS: &[&str] = &["compact", "rekey"];

/// What `error` complains of, if it is something that is to come.
pub(crate) fn word(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let is_to_come = error.kind() == ErrorKind::InvalidSubcommand && COMMANDS.contains(&name.as_str());
    is_to_come.then(|| name.clone())
}

/// Every word of the table.
#[cfg(test)]
pub(crate) fn words() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().copied()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn refused(line: &str) -> Option<String> {
        word(&Cli::try_parse_from(line.split(' ')).expect_err("these arguments are not accepted"))
    }

    #[test]
    fn every_row_is_refused_by_its_name() {
        for command in COMMANDS {
            assert_eq!(refused(&format!("flint-pipe {command} -v x")).as_deref(), Some(*command));
        }
    }

    #[test]
    fn what_nobody_promised_is_left_to_clap() {
        assert_eq!(refused("flint-pipe add -v x -s y --miror"), None);
        assert_eq!(refused("flint-pipe list -v x --report"), None);
        assert_eq!(refused("flint-pipe destroy"), None);
        assert_eq!(refused("flint-pipe extract -v x -o y --overwrite sometimes"), None);
        assert_eq!(refused("flint-pipe add -v x"), None);
    }
}
