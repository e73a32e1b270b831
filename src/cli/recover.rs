//! `recover`: what is left of a damaged vault, saved or mended.

use std::path::PathBuf;
use std::sync::Arc;

use flint_pipe::{Failed, RecoverOptions, Report, Workers};

use crate::cli::args::{DecodeWorkers, DryRunArg, OutputArgs, PasswordArgs, PipelineArgs, VaultArg, command_line};
use crate::cli::exit::Status;
use crate::cli::report::text;
use crate::cli::session::Session;

/// Say what of a damaged vault is left; save or mend it
#[derive(Debug, clap::Args)]
#[command(after_help = "Without --output and --in-place nothing is written.\n\nExamples:\n  \
flint-pipe recover -v backup.flint\n  \
flint-pipe recover -v backup.flint --output saved.flint\n  \
flint-pipe recover -v backup.flint --in-place")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// Save all that authenticates to a new vault
    #[arg(long, value_name = "NEW", conflicts_with = "in_place")]
    output: Option<PathBuf>,
    /// Mend headers, roots and the chain of commits
    #[arg(long)]
    in_place: bool,
    #[command(flatten)]
    dry_run: DryRunArg,
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    workers: DecodeWorkers,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    shown: OutputArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::reporting("recover", &args.vault.path, args.shown, args.dry_run.dry_run);
    let outcome = recover(args, &session);
    session.finish(&outcome, |report| {
        let aim = match (&args.output, args.in_place) {
            (Some(output), _) => text::Aim::Save(output),
            (None, true) => text::Aim::Mend,
            (None, false) => text::Aim::Look,
        };
        text::recovered(&args.vault.path, &aim, args.dry_run.dry_run, report)
    })
}

fn recover(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let mut options = RecoverOptions::default();
    options.pipeline = args.pipeline.config(Workers::from(&args.workers), session.cancel());
    options.output.clone_from(&args.output);
    options.in_place = args.in_place;
    options.dry_run = args.dry_run.dry_run;
    options.command_line = command_line(std::env::args_os());

    let vault = session.open(&args.password)?;
    session.operate(&options.pipeline, |observer| vault.recover(&options, observer))
}
