//! `key`: the passwords of a vault, a command of its own for each thing that can be done with them.

mod add;
mod export;
mod import;
mod list;
mod passwd;
mod remove;

use clap::Subcommand;
use flint_pipe::{CancelToken, KeyOptions};

use crate::cli::args::{DryRunArg, KdfArgs, LabelArg, LockArg};
use crate::cli::exit::Status;

/// Add, list, remove and change the passwords of a vault
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Older copies of the file keep the passwords that they have.\n\nExamples:\n  \
    flint-pipe key add -v backup.flint --label 'Anna, at work'\n  \
    flint-pipe key list -v backup.flint"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What can be done with keys, each in the file of its name.
#[derive(Debug, Subcommand)]
enum Command {
    Add(add::Args),
    List(list::Args),
    Remove(remove::Args),
    Passwd(passwd::Args),
    Export(export::Args),
    Import(import::Args),
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    match &args.command {
        Command::Add(args) => add::run(args),
        Command::List(args) => list::run(args),
        Command::Remove(args) => remove::run(args),
        Command::Passwd(args) => passwd::run(args),
        Command::Export(args) => export::run(args),
        Command::Import(args) => import::run(args),
    }
}

/// What every change of keys is told.
fn options(lock: &LockArg, dry_run: DryRunArg, cancel: CancelToken) -> KeyOptions {
    let mut options = KeyOptions::default();
    options.pipeline = lock.config(cancel);
    options.dry_run = dry_run.dry_run;
    options
}

/// The same of one that sets a password.
fn new_key_options(options: &mut KeyOptions, kdf: KdfArgs, label: &LabelArg) {
    options.kdf_memory_kib = kdf.kdf_memory;
    options.kdf_passes = kdf.kdf_time;
    options.label.clone_from(&label.label);
}

/// What has to be said wherever a password stops being valid.
const NOT_REVOKED: &str = "of the file still open with the old password; who knew it may know the master key";
