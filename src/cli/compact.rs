//! `compact`: the vault without what its kept snapshots do not need.

use std::num::NonZeroU64;
use std::sync::Arc;

use flint_pipe::{CompactOptions, Error, Failed, Keep, Report, Vault, Workers};
use jiff::tz::TimeZone;

use crate::cli::args::{DryRunArg, OutputArgs, PasswordArgs, PipelineArgs, RecordArgs, TransferWorkers, VaultArg};
use crate::cli::exit::Status;
use crate::cli::list;
use crate::cli::record::Records;
use crate::cli::report::text;
use crate::cli::session::Session;

/// Give back the space that no kept snapshot needs
#[derive(Debug, clap::Args)]
#[command(after_help = "The vault is written anew beside the old file, which takes as much room,\n\
and then put in its place in one step. With more than one snapshot\n\
--keep-last, --keep-snapshot or --keep-all is required; the first two may\n\
be combined.\n\nExamples:\n  \
flint-pipe compact -v backup.flint --keep-last 30\n  \
flint-pipe compact -v backup.flint --keep-last 7 --keep-snapshot 12 --dry-run\n  \
flint-pipe compact -v backup.flint --keep-all")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// Keep the N newest snapshots
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    keep_last: Option<NonZeroU64>,
    /// Keep snapshot N; repeatable
    #[arg(long, value_name = "N")]
    keep_snapshot: Vec<u64>,
    /// Keep all snapshots
    #[arg(long, conflicts_with_all = ["keep_last", "keep_snapshot"])]
    keep_all: bool,
    #[command(flatten)]
    dry_run: DryRunArg,
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    workers: TransferWorkers,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    record: RecordArgs,
}

/// Parses the value of `--keep-last`: who wants nothing kept does not want a backup.
fn at_least_one(text: &str) -> Result<NonZeroU64, String> {
    text.parse().map_err(|_| "not a number from 1 on".to_owned())
}

impl Args {
    /// What is to be kept; `None` if nothing was said.
    fn keep(&self) -> Option<Keep> {
        if self.keep_all {
            return Some(Keep::all());
        }
        let mut keep = Keep::snapshots(self.keep_snapshot.clone());
        keep.last = self.keep_last.map_or(0, NonZeroU64::get);
        (keep.last > 0 || !keep.snapshots.is_empty()).then_some(keep)
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::reporting("compact", &args.vault.path, args.output, args.dry_run.dry_run);
    let outcome = compact(args, &session);
    session.finish(&outcome, |report| text::compacted(&args.vault.path, args.dry_run.dry_run, report))
}

fn compact(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let mut options = CompactOptions::default();
    options.pipeline = args.pipeline.config(Workers::from(&args.workers), session.cancel());
    Records::ask(&args.record, &mut options.pipeline);
    options.keep = args.keep();
    options.dry_run = args.dry_run.dry_run;
    session.record(&args.record, &args.password.file().into_iter().collect::<Vec<_>>())?;

    let vault = session.open(&args.password)?;
    if options.keep.is_none() {
        require_no_choice(&vault, session)?;
    }
    session.operate(&options.pipeline, |observer| vault.compact(&options, observer))
}

/// With more than one snapshot, which of them are kept has to be said: they are shown.
fn require_no_choice(vault: &Vault, session: &Session) -> Result<(), Error> {
    let snapshots = vault.snapshots()?;
    if snapshots.len() < 2 {
        return Ok(());
    }
    session.show(list::snapshot_table(&snapshots, &TimeZone::system()).trim_end());
    Err(Error::Usage(format!(
        "the vault has {} snapshots: say which are kept, with --keep-last N, --keep-snapshot N or --keep-all",
        snapshots.len()
    )))
}
