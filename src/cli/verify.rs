//! `verify`: reads and authenticates what snapshots need, and writes nothing.

use std::sync::Arc;

use flint_pipe::{Failed, Report, VerifyOptions, Workers};

use crate::cli::args::{DecodeWorkers, DryRunArg, OutputArgs, PasswordArgs, PipelineArgs, VaultArg};
use crate::cli::exit::Status;
use crate::cli::report::text;
use crate::cli::session::Session;

/// Read and authenticate everything that any snapshot needs
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  flint-pipe verify -v backup.flint")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// Snapshot N instead of all of them
    #[arg(long, value_name = "N")]
    at: Option<u64>,
    /// Check the structure alone, read no data
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    dry_run: DryRunArg,
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    workers: DecodeWorkers,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::reporting("verify", &args.vault.path, args.output, args.dry_run.dry_run);
    let outcome = verify(args, &session);
    session.finish(&outcome, |report| text::verified(&args.vault.path, args.quick, args.dry_run.dry_run, report))
}

fn verify(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let mut options = VerifyOptions::default();
    options.pipeline = args.pipeline.config(Workers::from(&args.workers), session.cancel());
    options.at = args.at;
    options.quick = args.quick;
    options.dry_run = args.dry_run.dry_run;

    let vault = session.open(&args.password)?;
    session.operate(&options.pipeline, |observer| vault.verify(&options, observer))
}
