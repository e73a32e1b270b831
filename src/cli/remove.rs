//! `remove`: takes entries out of the newest snapshot; older ones keep them.

use std::path::PathBuf;
use std::sync::Arc;

use flint_pipe::{Error, Failed, RemoveOptions, Report};

use crate::cli::args::{DryRunArg, JsonArg, LockArg, PasswordArgs, VaultArg, command_line, stored_name};
use crate::cli::exit::Status;
use crate::cli::report::text;
use crate::cli::session::Session;

/// Take entries out of the newest snapshot
#[derive(Debug, clap::Args)]
#[command(after_help = "Older snapshots keep what is removed.\n\nExamples:\n  \
    flint-pipe remove -v backup.flint -t photos/blurred -t notes.txt\n  \
    flint-pipe remove -v backup.flint -t photos --dry-run")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// A file or directory to remove; repeatable
    #[arg(short, long, value_name = "PATH", required = true)]
    target: Vec<PathBuf>,
    #[command(flatten)]
    dry_run: DryRunArg,
    #[command(flatten)]
    lock: LockArg,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: JsonArg,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::reporting("remove", &args.vault.path, args.output.into(), args.dry_run.dry_run);
    let outcome = remove(args, &session);
    session.finish(&outcome, |report| text::removed(&args.vault.path, args.dry_run.dry_run, report))
}

fn remove(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let mut options = RemoveOptions::default();
    options.pipeline = args.lock.config(session.cancel());
    options.dry_run = args.dry_run.dry_run;
    options.command_line = command_line(std::env::args_os());
    let mut names = Vec::with_capacity(args.target.len());
    for target in &args.target {
        let name = stored_name(target);
        // Only who says so wants everything gone: not who has an empty variable behind a slash.
        if name.as_os_str().is_empty() && !matches!(target.as_os_str().as_encoded_bytes(), b"." | b"./") {
            let everything = format!("{}: that names everything; `.` does so on purpose", target.display());
            return Err(Error::Usage(everything).into());
        }
        names.push(name);
    }

    let vault = session.open(&args.password)?;
    session.operate(&options.pipeline, |observer| vault.remove(&names, &options, observer))
}
