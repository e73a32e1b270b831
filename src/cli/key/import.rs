//! `key import`: a header that was exported, in the place of those that the vault has.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flint_pipe::{Error, Failed, FileOp, Report, SavedHeader, Vault};

use crate::cli::args::{DryRunArg, JsonArg, LockArg, PasswordArgs, VaultArg};
use crate::cli::escape;
use crate::cli::exit::Status;
use crate::cli::key::options;
use crate::cli::report::text;
use crate::cli::session::Session;

/// Restore the header from what key export saved
#[derive(Debug, clap::Args)]
#[command(after_help = "The passwords are those of the export again: later ones are gone, and those\n\
    that were removed since are back. It takes one of them.\n\nExample:\n  \
    flint-pipe key import -v backup.flint --input backup.header")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// What was saved
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
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
    let session = Session::reporting("key import", &args.vault.path, args.output.into(), args.dry_run.dry_run);
    let outcome = import(args, &session);
    session.finish(&outcome, |_| {
        let (vault, input) = (escape::path(&args.vault.path), escape::path(&args.input));
        let done = if args.dry_run.dry_run { "would restore" } else { "restored" };
        let lines = [("opens with", "the passwords of the export, and no others".to_owned())];
        text::keys_changed(&format!("{done} the header of {vault} from {input}"), &lines, args.dry_run.dry_run)
    })
}

fn import(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let options = options(&args.lock, args.dry_run, session.cancel());
    session.require_vault()?;
    let bytes = read(&args.input)?;
    let saved = session.unlock(&args.password, false, |password| SavedHeader::open(&args.input, &bytes, password))?;
    session.operate(&options.pipeline, |observer| Vault::import_header(&args.vault.path, &saved, &options, observer))
}

/// All of a file that may be a header: a longer one is none, and need not be read to its end.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    #[expect(clippy::disallowed_methods, reason = "the path and the operation are put into the error here")]
    let file = std::fs::File::open(path).map_err(|error| Error::io(FileOp::Open, path, error))?;
    let mut bytes = Vec::with_capacity(SavedHeader::LEN + 1);
    let read = file.take(SavedHeader::LEN as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::io(FileOp::Read, path, error))?;
    Ok(bytes)
}
