//! `key add`: one more password.

use std::sync::Arc;

use flint_pipe::{Failed, Report};

use crate::cli::args::{DryRunArg, JsonArg, KdfArgs, LabelArg, LockArg, NewPasswordArgs, PasswordArgs, VaultArg};
use crate::cli::escape;
use crate::cli::exit::Status;
use crate::cli::key::{new_key_options, options};
use crate::cli::report::text;
use crate::cli::session::Session;

/// Add a password; those that are there stay
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    flint-pipe key add -v backup.flint --label 'Anna, at work'\n  \
    flint-pipe key add -v backup.flint --new-password-file anna.txt")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    #[command(flatten)]
    dry_run: DryRunArg,
    #[command(flatten)]
    lock: LockArg,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    new_password: NewPasswordArgs,
    #[command(flatten)]
    kdf: KdfArgs,
    #[command(flatten)]
    label: LabelArg,
    #[command(flatten)]
    output: JsonArg,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::reporting("key add", &args.vault.path, args.output.into(), args.dry_run.dry_run);
    let outcome = add(args, &session);
    session.finish(&outcome, |report| {
        let (done, key) = (if args.dry_run.dry_run { "would add" } else { "added" }, report.key.unwrap_or_default());
        let title = format!("{done} key {key} to {}", escape::path(&args.vault.path));
        let label = args.label.label.iter().map(|label| ("label", escape::text(label)));
        text::keys_changed(&title, &label.collect::<Vec<_>>(), args.dry_run.dry_run)
    })
}

fn add(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let mut options = options(&args.lock, args.dry_run, session.cancel());
    new_key_options(&mut options, args.kdf, &args.label);
    session.require_vault()?;
    session.expect_new_password(&args.password, &args.new_password)?;
    let vault = session.open(&args.password)?;
    let new = session.new_password(&args.new_password)?;
    session.operate(&options.pipeline, |observer| vault.add_key(&new, &options, observer))
}
