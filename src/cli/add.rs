//! `add`: packs files and directories into a vault, which it makes where there is none.

use std::path::PathBuf;
use std::sync::Arc;

use flint_pipe::{AddOptions, CreateOptions, Failed, Level, Report, Vault, Workers};

use crate::cli::args::{self, OutputArgs, PackWorkers, PasswordArgs, PipelineArgs, ReadModeArg, VaultArg};
use crate::cli::exit::Status;
use crate::cli::report::text;
use crate::cli::session::Session;

/// Pack files and directories into a vault
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    flint-pipe add -v backup.flint -s documents -s photos\n  \
    flint-pipe add -v backup.flint -C /home -s anna --exclude '*.o' --progress")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// A file or directory to pack; repeatable
    #[arg(short, long, value_name = "PATH", required = true)]
    source: Vec<PathBuf>,
    /// Look sources up from here, as in tar
    #[arg(short = 'C', long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// zstd level -7 to 22, store or auto [3]
    #[arg(
        short, long, value_name = "N", default_value = "3", hide_default_value = true,
        allow_negative_numbers = true, value_parser = args::level
    )]
    level: Level,
    /// Leave out what matches, as in .gitignore; repeatable
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// How large files are taken in: auto, mmap or read
    #[arg(long, value_name = "MODE", default_value = "auto", hide_default_value = true, hide_possible_values = true)]
    read_mode: ReadModeArg,
    /// Refuse to make a vault that is not there
    #[arg(long)]
    no_create: bool,
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    workers: PackWorkers,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::reporting("add", &args.vault.path, args.output);
    let outcome = add(args, &session);
    session.finish(&outcome, |report| text::packed(&args.vault.path, report))
}

fn add(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let is_new = !session.vault_exists()?;
    if args.no_create {
        session.require_vault()?;
    }
    let password = session.password(&args.password, is_new)?;
    let vault = if args.no_create {
        Vault::open(&args.vault.path, &password)?
    } else {
        if is_new {
            session.opening();
        }
        Vault::open_or_create(&args.vault.path, &password, &CreateOptions::default())?
    };
    drop(password);
    let options = options(args, session);
    session.operate(&options.pipeline, |observer| vault.add(&args.source, &options, observer))
}

fn options(args: &Args, session: &Session) -> AddOptions {
    let mut options = AddOptions::default();
    options.pipeline = args.pipeline.config(Workers::from(&args.workers), session.cancel());
    options.level = args.level;
    options.read_mode = args.read_mode.into();
    options.directory.clone_from(&args.directory);
    options.exclude.clone_from(&args.exclude);
    options.command_line = command_line(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()));
    options
}

/// The command line as the snapshot keeps it: without the password command, which may hold a secret that outlives a change
/// of the password.
fn command_line(args: impl Iterator<Item = String>) -> Vec<String> {
    const OPTION: &str = "--password-command";
    let mut kept = Vec::new();
    let mut args = args;
    while let Some(arg) = args.next() {
        if arg == OPTION {
            args.next();
        } else if !arg.strip_prefix(OPTION).is_some_and(|rest| rest.starts_with('=')) {
            kept.push(arg);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_command_is_not_kept() {
        let kept = |line: &str| command_line(line.split(' ').map(str::to_owned)).join(" ");
        assert_eq!(kept("flint-pipe add --password-command secret -s a"), "flint-pipe add -s a");
        assert_eq!(kept("flint-pipe add --password-command=secret -s a"), "flint-pipe add -s a");
        assert_eq!(kept("flint-pipe add -s a --password-command"), "flint-pipe add -s a");
        assert_eq!(kept("flint-pipe add --password-file f"), "flint-pipe add --password-file f");
    }
}
