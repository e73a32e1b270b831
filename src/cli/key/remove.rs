//! `key remove`: a password less.

use std::sync::Arc;

use flint_pipe::{Error, Failed, KeyName, Report};

use crate::cli::args::{DryRunArg, JsonArg, LockArg, PasswordArgs, VaultArg};
use crate::cli::escape;
use crate::cli::exit::Status;
use crate::cli::key::{NOT_REVOKED, options};
use crate::cli::report::text;
use crate::cli::session::Session;

/// Remove a password; never the last one
#[derive(Debug, clap::Args)]
#[command(after_help = "It may be the one that opens the vault now.\n\
    Older copies of the file still open with it.\n\nExamples:\n  \
    flint-pipe key remove -v backup.flint --label 'Anna, at work'\n  \
    flint-pipe key remove -v backup.flint --id 3")]
#[group(id = "which", required = true, multiple = false, args = ["label", "id"])]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// The name of the password
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Its number, as key list shows it
    #[arg(long, value_name = "N")]
    id: Option<u32>,
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
    let session = Session::reporting("key remove", &args.vault.path, args.output.into(), args.dry_run.dry_run);
    let outcome = remove(args, &session);
    session.finish(&outcome, |report| {
        let done = if args.dry_run.dry_run { "would remove" } else { "removed" };
        let key = report.key.unwrap_or_default();
        let title = format!("{done} key {key} from {}", escape::path(&args.vault.path));
        text::keys_changed(&title, &[("older copies", NOT_REVOKED.to_owned())], args.dry_run.dry_run)
    })
}

fn remove(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let options = options(&args.lock, args.dry_run, session.cancel());
    let which = match (&args.label, args.id) {
        (Some(label), None) => KeyName::Label(label.clone()),
        (None, Some(id)) => KeyName::Id(id),
        _ => return Err(Error::Usage("one of --label and --id says which key".to_owned()).into()),
    };
    let vault = session.open(&args.password)?;
    session.operate(&options.pipeline, |observer| vault.remove_key(&which, &options, observer))
}
