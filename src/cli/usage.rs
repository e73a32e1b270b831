//! What clap has against the arguments, in the form of every other error: what is wrong, then what there is to do about it.

use crate::cli::console::Console;
use crate::cli::escape;

/// clap's words, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Complaint {
    what: String,
    hints: Vec<String>,
    /// How the command is used, and where more is said.
    rest: Vec<String>,
}

/// Prints a complaint of clap's about arguments.
pub(crate) fn tell(error: &clap::Error, console: &Console) {
    let complaint = taken_apart(&error.render().to_string());
    console.error(&complaint.what);
    for hint in &complaint.hints {
        console.hint(hint);
    }
    for line in &complaint.rest {
        console.plain(line);
    }
}

/// Takes clap's text apart. It quotes arguments as they are, but for what colours a terminal, so each line is escaped here.
fn taken_apart(text: &str) -> Complaint {
    let mut complaint = Complaint::default();
    let mut paragraphs = text.strip_prefix("error: ").unwrap_or(text).trim_end().split("\n\n");
    // The first may list what is missing or possible, a line each.
    let listed: Vec<String> = paragraphs.next().unwrap_or_default().lines().map(|l| escape::text(l.trim())).collect();
    complaint.what = match listed.split_first() {
        Some((what, list)) if what.ends_with(':') => format!("{what} {}", list.join(", ")),
        _ => listed.join(" "),
    };
    for line in paragraphs.flat_map(str::lines) {
        let line = escape::text(line);
        match line.trim_start().strip_prefix("tip: ") {
            Some(tip) => complaint.hints.push(tip.to_owned()),
            None => complaint.rest.push(line),
        }
    }
    complaint
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn complaint(line: &str) -> Complaint {
        let error = Cli::try_parse_from(line.split(' ')).expect_err("these arguments are not accepted");
        taken_apart(&error.render().to_string())
    }

    #[test]
    fn a_misspelt_option_command_or_value_comes_with_the_nearest() {
        for (line, what, nearest) in [
            ("flint-pipe add -v v -s a --miror", "unexpected argument '--miror' found", "'--mirror'"),
            ("flint-pipe ad -v v", "unrecognized subcommand 'ad'", "'add'"),
            ("flint-pipe completions zssh", "invalid value 'zssh' for '<SHELL>'", "'zsh'"),
        ] {
            let complaint = complaint(line);
            assert!(complaint.what.starts_with(what), "{complaint:?}");
            assert!(complaint.hints[0].contains(nearest), "{complaint:?}");
        }
    }

    #[test]
    fn what_is_missing_is_told_in_one_line_with_the_usage_after_it() {
        let complaint = complaint("flint-pipe add");
        let what = "the following required arguments were not provided: --vault <VAULT>, --source <PATH>";
        assert_eq!(complaint.what, what);
        assert!(complaint.rest[0].starts_with("Usage: flint-pipe add"), "{complaint:?}");
    }

    #[test]
    fn control_characters_of_arguments_are_escaped() {
        let complaint = complaint("flint-pipe add -v v -s a --level=\u{7}\u{202e}");
        assert!(complaint.what.contains("\\u{202e}'") && !complaint.what.contains('\u{7}'), "{complaint:?}");
    }
}
