//! The terminal: what the program is asked for, and how it answers. Every clap type lives below this folder.

mod add;
mod args;
mod compact;
mod completions;
mod console;
mod create;
mod escape;
mod exit;
mod extract;
mod get;
mod info;
mod key;
mod list;
mod man;
mod message;
mod nearest;
mod password;
mod patterns;
mod profile;
mod progress;
mod record;
mod recover;
mod rehearsal;
mod rekey;
mod remove;
mod replace;
mod report;
mod restore;
mod session;
mod signals;
mod stdout;
mod usage;
mod verify;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::cli::console::Console;
use crate::cli::exit::Status;

/// What the help says of the ways a password comes in; `password.rs` has them in code.
const PASSWORDS: &str = "\
Password, from the first of:
  --password-file, --password-command, FLINT_PASSWORD_FILE,
  FLINT_PASSWORD_COMMAND, FLINT_PASSWORD, a prompt on the terminal
";

/// Encrypted, compressed, crash-safe backups in one vault file
#[derive(Debug, Parser)]
#[command(
    name = "flint-pipe",
    version,
    max_term_width = 80,
    arg_required_else_help = true,
    disable_help_subcommand = false,
    after_help = format!("{PASSWORDS}\n{}", exit::table())
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the program can be asked for, each in the file of its name.
#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Args),
    Add(Box<add::Args>),
    Extract(Box<extract::Args>),
    Get(Box<get::Args>),
    List(list::Args),
    Remove(remove::Args),
    Verify(Box<verify::Args>),
    Compact(Box<compact::Args>),
    Recover(Box<recover::Args>),
    Profile(Box<profile::Args>),
    Info(info::Args),
    Key(key::Args),
    Rekey(Box<rekey::Args>),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the program: arguments in, exit status out.
pub(crate) fn main() -> ExitCode {
    flint_pipe::harden_process();
    match Cli::try_parse() {
        Ok(cli) => dispatch(cli.command).into(),
        Err(error) => refuse(&error).into(),
    }
}

fn dispatch(command: Command) -> Status {
    match command {
        Command::Create(args) => create::run(&args),
        Command::Add(args) => add::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::Get(args) => get::run(&args),
        Command::List(args) => list::run(&args),
        Command::Remove(args) => remove::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Compact(args) => compact::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Rekey(args) => rekey::run(&args),
        Command::Key(args) => key::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// Answers arguments that clap did not turn into a command: help and version among them.
fn refuse(error: &clap::Error) -> Status {
    let console = Console::new(None);
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match stdout::checked(error.print()) {
            Ok(()) => Status::Done,
            Err(error) => {
                console.error(&message::shown(&error));
                Status::of_kind(error.kind())
            }
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Nobody can be told that standard error is gone.
            let _ = error.print();
            Status::Usage
        }
        _ => {
            usage::tell(error, &console);
            Status::Usage
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Every command with what is typed for it, those of `key` too.
    fn commands(root: &clap::Command, typed: &str) -> Vec<(String, clap::Command)> {
        let of = |command: &clap::Command| {
            let typed = format!("{typed} {}", command.get_name());
            let inner = commands(command, &typed);
            std::iter::once((typed, command.clone())).chain(inner).collect::<Vec<_>>()
        };
        root.get_subcommands().filter(|command| command.get_name() != "help").flat_map(of).collect()
    }

    fn all_commands() -> Vec<(String, clap::Command)> {
        let all = commands(&Cli::command(), "flint-pipe");
        assert!(all.iter().any(|(typed, _)| typed == "flint-pipe key add"));
        all
    }

    /// The help of the program and of each command, as a terminal of `width` columns shows it.
    fn helps(width: usize) -> Vec<String> {
        let mut root = Cli::command().term_width(width).max_term_width(width);
        root.build();
        let mut helps: Vec<String> = commands(&root, "flint-pipe")
            .into_iter()
            .map(|(_, mut command)| command.render_help().to_string())
            .collect();
        helps.push(root.render_help().to_string());
        helps
    }

    #[test]
    fn long_and_short_help_are_the_same_and_leave_nothing_out() {
        for (_, command) in all_commands() {
            assert!(command.get_long_about().is_none(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_long_help().is_none(), "{} {}", command.get_name(), arg.get_id());
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_fits_80_columns() {
        for help in helps(80) {
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
            }
        }
    }

    #[test]
    fn every_option_is_one_line_of_help() {
        for (narrow, wide) in helps(80).iter().zip(helps(1000)) {
            assert_eq!(narrow.lines().count(), wide.lines().count(), "{narrow}");
        }
    }

    #[test]
    fn every_command_shows_an_example() {
        for (typed, command) in all_commands() {
            let after = command.get_after_help().expect("an after_help").to_string();
            assert!(after.contains(&format!("\n  {typed} ")), "{typed}");
        }
    }
}
