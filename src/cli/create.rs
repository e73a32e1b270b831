//! `create`: makes an empty vault.

use flint_pipe::{CreateOptions, Error, Failed, Report, Vault};

use crate::cli::args::{JsonArg, LockArg, OutputArgs, PasswordArgs, ProgressMode, VaultOrFileArg};
use crate::cli::escape;
use crate::cli::exit::Status;
use crate::cli::session::Session;

/// Make an empty vault; a file that is there is not touched
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  flint-pipe create -v backup.flint")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultOrFileArg,
    /// Nobody else can hold the lock of a vault that is not there, so there is nothing to wait for.
    #[command(flatten)]
    _lock: LockArg,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: JsonArg,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let output = OutputArgs { progress: ProgressMode::Never, json: args.output.json };
    let session = Session::reporting("create", &args.vault.path, output);
    let outcome = create(args, &session);
    session.finish(&outcome, |_| format!("created {}\n", escape::path(&args.vault.path)))
}

fn create(args: &Args, session: &Session) -> Result<Report, Failed> {
    if session.vault_exists()? {
        return Err(Error::Exists(args.vault.path.clone()).into());
    }
    let password = session.password(&args.password, true)?;
    Vault::create(&args.vault.path, &password, &CreateOptions::default())?;
    Ok(Report::default())
}
