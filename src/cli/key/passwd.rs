//! `key passwd`: another password in the place of the one that is given.

use std::sync::Arc;

use flint_pipe::{Failed, Report};

use crate::cli::args::{DryRunArg, JsonArg, KdfArgs, LabelArg, LockArg, NewPasswordArgs, PasswordArgs, VaultArg};
use crate::cli::escape;
use crate::cli::exit::Status;
use crate::cli::key::{NOT_REVOKED, new_key_options, options};
use crate::cli::report::text;
use crate::cli::session::Session;

/// Change a password: the one that opens the vault
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It keeps its label and its cost, unless others are given. No data is written.\n\
    Older copies of the file still open with the old password.\n\nExamples:\n  \
    flint-pipe key passwd -v backup.flint\n  \
    flint-pipe key passwd -v backup.flint --new-password-file new",
    mut_arg("kdf_memory", |arg| arg.help("Memory of one guess, 19M to 1G [as it was]")),
    mut_arg("kdf_time", |arg| arg.help("Passes over it, 2 to 16 [as it was]")),
    mut_arg("label", |arg| arg.help("Its name, for all to read [as it was]"))
)]
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
    let session = Session::reporting("key passwd", &args.vault.path, args.output.into(), args.dry_run.dry_run);
    let outcome = passwd(args, &session);
    session.finish(&outcome, |report| {
        let done = if args.dry_run.dry_run { "would change" } else { "changed" };
        let title = format!("{done} the password of {}", escape::path(&args.vault.path));
        let key = format!("{} in its place", report.key.unwrap_or_default());
        let lines = [("key", key), ("older copies", NOT_REVOKED.to_owned())];
        text::keys_changed(&title, &lines, args.dry_run.dry_run)
    })
}

fn passwd(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let mut options = options(&args.lock, args.dry_run, session.cancel());
    new_key_options(&mut options, args.kdf, &args.label);
    session.require_vault()?;
    session.expect_new_password(&args.password, &args.new_password)?;
    let vault = session.open(&args.password)?;
    let new = session.new_password(&args.new_password)?;
    session.operate(&options.pipeline, |observer| vault.change_password(&new, &options, observer))
}
