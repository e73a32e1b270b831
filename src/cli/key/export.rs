//! `key export`: the header, to be kept where the vault is not.

use std::path::{Path, PathBuf};

use flint_pipe::{Failed, Report};

use crate::cli::args::{DryRunArg, JsonArg, LockArg, PasswordArgs, VaultArg};
use crate::cli::exit::Status;
use crate::cli::report::text;
use crate::cli::session::Session;
use crate::cli::{escape, replace};

/// Save the header: without it, all data is lost
#[derive(Debug, clap::Args)]
#[command(after_help = "It opens with the passwords of now, also when they are changed later.\n\nExample:\n  \
    flint-pipe key export -v backup.flint --output backup.header")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// Where it goes; not overwritten
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    dry_run: DryRunArg,
    /// A reader takes no lock, so there is nothing to wait for.
    #[command(flatten)]
    _lock: LockArg,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    json: JsonArg,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::reporting("key export", &args.vault.path, args.json.into(), args.dry_run.dry_run);
    let outcome = export(args, &session);
    session.finish(&outcome, |_| {
        let (vault, output) = (escape::path(&args.vault.path), escape::path(&args.output));
        let done = if args.dry_run.dry_run { "would save" } else { "saved" };
        let title = format!("{done} the header of {vault} to {output}");
        let lines = [("opens with", "the passwords of now, also when they are changed later".to_owned())];
        text::keys_changed(&title, &lines, args.dry_run.dry_run)
    })
}

fn export(args: &Args, session: &Session) -> Result<Report, Failed> {
    session.require_vault()?;
    replace::check_new(&args.output)?;
    let header = session.open(&args.password)?.export_header()?;
    write(&args.output, &header, args.dry_run.dry_run)?;
    Ok(Report::default())
}

fn write(output: &Path, header: &[u8], dry_run: bool) -> Result<(), flint_pipe::Error> {
    if dry_run { replace::check(output) } else { replace::put_new(output, header) }
}
