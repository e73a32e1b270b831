//! `verify`: reads and authenticates what snapshots need, and writes nothing.

use std::sync::Arc;

use flint_pipe::{Failed, Report, VerifyOptions, Workers};

use crate::cli::args::{DecodeWorkers, DryRunArg, OutputArgs, PasswordArgs, PipelineArgs, RecordArgs, VaultArg};
use crate::cli::exit::Status;
use crate::cli::record::Records;
use crate::cli::report::text;
use crate::cli::session::Session;

/// Read and authenticate everything that any snapshot needs
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  flint-pipe verify -v backup.flint\n  \
flint-pipe verify -v backup.flint --read-data-subset 5%")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// Snapshot N instead of all of them
    #[arg(long, value_name = "N")]
    at: Option<u64>,
    /// Check the structure alone, read no data
    #[arg(long)]
    quick: bool,
    /// Read P% of the data, chosen at random
    #[arg(long, value_name = "P%", value_parser = percent, conflicts_with = "quick")]
    read_data_subset: Option<f64>,
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
    #[command(flatten)]
    record: RecordArgs,
}

/// Parses the value of `--read-data-subset`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok();
    let percent = number.filter(|percent| *percent > 0.0 && *percent <= 100.0);
    percent.ok_or_else(|| "not a share such as 5%, above 0 and at most 100%".to_owned())
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
    Records::ask(&args.record, &mut options.pipeline);
    options.at = args.at;
    options.quick = args.quick;
    options.read_data_subset = args.read_data_subset;
    options.dry_run = args.dry_run.dry_run;
    session.record(&args.record, &args.password.file().into_iter().collect::<Vec<_>>())?;

    let vault = session.open(&args.password)?;
    session.operate(&options.pipeline, |observer| vault.verify(&options, observer))
}
