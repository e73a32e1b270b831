//! `rekey`: a new master key; everything is sealed anew.

use std::sync::Arc;

use flint_pipe::{Failed, KeyOptions, Password, Report, Vault, Workers};

use crate::cli::args::{
    DryRunArg, KdfArgs, LabelArg, NewPasswordArgs, OutputArgs, PasswordArgs, PipelineArgs, RecordArgs, TransferWorkers,
    VaultArg,
};
use crate::cli::exit::Status;
use crate::cli::record::Records;
use crate::cli::report::text;
use crate::cli::session::Session;

/// Give the vault a new master key, and seal everything anew
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What was known of the old keys opens nothing of the new file; older copies of\n\
    the file are as they were. The vault is written anew beside the old file,\n\
    which takes as much room, and then put in its place in one step. All\n\
    snapshots stay. The new file has one password: the new one, or the one that\n\
    it was opened with where none is given; all others are gone.\n\nExamples:\n  \
    flint-pipe rekey -v backup.flint\n  \
    flint-pipe rekey -v backup.flint --new-password-file new",
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
    pipeline: PipelineArgs,
    #[command(flatten)]
    workers: TransferWorkers,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    new_password: NewPasswordArgs,
    #[command(flatten)]
    kdf: KdfArgs,
    #[command(flatten)]
    label: LabelArg,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    record: RecordArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::reporting("rekey", &args.vault.path, args.output, args.dry_run.dry_run);
    let outcome = rekey(args, &session);
    session.finish(&outcome, |report| text::rekeyed(&args.vault.path, args.dry_run.dry_run, report))
}

fn rekey(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let mut options = KeyOptions::default();
    options.pipeline = args.pipeline.config(Workers::from(&args.workers), session.cancel());
    Records::ask(&args.record, &mut options.pipeline);
    options.dry_run = args.dry_run.dry_run;
    options.label.clone_from(&args.label.label);
    (options.kdf_memory_kib, options.kdf_passes) = (args.kdf.kdf_memory, args.kdf.kdf_time);
    session.record(&args.record, &args.password.file().into_iter().collect::<Vec<_>>())?;

    session.require_vault()?;
    let is_new = args.new_password.is_given();
    if is_new {
        session.expect_new_password(&args.password, &args.new_password)?;
    }
    let open = |password: &Password| Ok((Vault::open(&args.vault.path, password)?, password.duplicate()));
    let (vault, present) = session.unlock(&args.password, false, open)?;
    let password = if is_new { session.new_password(&args.new_password)? } else { present };
    session.operate(&options.pipeline, |observer| vault.rekey(&password, &options, observer))
}
