//! What is promised for a later version and not there yet: refused by name, never accepted and ignored.
//!
//! Nothing here is known to clap, so that no help names it: an argument that clap does not know is looked up in this table
//! before clap's own words are printed. What comes to be there loses its row.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Whole commands.
const COMMANDS: &[&str] = &["compact", "key", "rekey"];

/// Options, and the commands that will have them.
const OPTIONS: &[(&str, &[&str])] =
    &[("--report", PIPELINES), ("--hlog", PIPELINES), ("--trace", PIPELINES), ("--metrics", PIPELINES)];

/// The commands that run a pipeline.
const PIPELINES: &[&str] = &["add", "extract", "get", "verify", "profile"];

/// What `error` complains of, if it is something that is to come.
pub(crate) fn word(error: &clap::Error, args: &[OsString]) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = text(ContextKind::InvalidSubcommand)?;
            COMMANDS.contains(&name).then(|| name.to_owned())
        }
        ErrorKind::UnknownArgument => {
            let option = text(ContextKind::InvalidArg)?;
            let (_, commands) = OPTIONS.iter().find(|(known, _)| *known == option)?;
            // No option comes before the command, so the command is the first argument.
            let command = args.get(1)?.to_str()?;
            commands.contains(&command).then(|| option.to_owned())
        }
        _ => None,
    }
}

/// Every word of the tables that stands alone.
#[cfg(test)]
pub(crate) fn words() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().copied().chain(OPTIONS.iter().map(|(option, _)| *option))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn refused(line: &str) -> Option<String> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        word(&Cli::try_parse_from(&args).expect_err("these arguments are not accepted"), &args)
    }

    #[test]
    fn every_row_is_refused_by_its_name() {
        for command in COMMANDS {
            assert_eq!(refused(&format!("flint-pipe {command} -v x")).as_deref(), Some(*command));
        }
        for (option, commands) in OPTIONS {
            for command in *commands {
                assert_eq!(refused(&format!("flint-pipe {command} {option} -v x")).as_deref(), Some(*option));
                assert_eq!(refused(&format!("flint-pipe {command} -v x {option}")).as_deref(), Some(*option));
            }
        }
    }

    #[test]
    fn an_option_with_its_value_attached_is_found_too() {
        assert_eq!(refused("flint-pipe add -v x -s y --report=a.html").as_deref(), Some("--report"));
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
