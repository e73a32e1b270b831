//! `get`: a few files or directories out of a vault, into a directory or to standard output.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flint_pipe::{Error, ExtractOptions, Failed, Report, Vault};

use crate::cli::args::{ProgressMode, VaultArg, stored_name};
use crate::cli::exit::Status;
use crate::cli::report::text;
use crate::cli::restore::RestoreArgs;
use crate::cli::session::Session;
use crate::cli::stdout::DataOut;

/// Restore one or a few paths, or write one file to standard output
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    flint-pipe get -v backup.flint -t photos/cat.jpg -o out\n  \
    flint-pipe get -v backup.flint -t notes.txt --stdout | less")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// A file or directory to restore; repeatable
    #[arg(short, long, value_name = "PATH", required = true)]
    target: Vec<PathBuf>,
    /// Restore below this directory [.]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Write one file to standard output
    #[arg(long, conflicts_with_all = ["output", "json", "overwrite", "no_preserve", "sync", "dry_run"])]
    stdout: bool,
    #[command(flatten)]
    restore: RestoreArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let mut output = args.restore.output;
    if args.stdout && output.progress == ProgressMode::Auto && io::stdout().is_terminal() {
        // A bar would run through the file.
        output.progress = ProgressMode::Never;
    }
    let dry_run = args.restore.is_dry_run();
    let session = Session::reporting("get", &args.vault.path, output, dry_run);
    let outcome = get(args, &session);
    if args.stdout {
        let to = Path::new("standard output");
        let report = outcome.as_ref().unwrap_or_else(|failed| &failed.report);
        return session.finish_printed(&outcome, &text::restored(&args.vault.path, to, dry_run, report));
    }
    session.finish(&outcome, |report| text::restored(&args.vault.path, directory(args), dry_run, report))
}

fn get(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    if args.stdout && args.target.len() > 1 {
        let text = format!("--stdout takes one -t, not {}: files would run into each other", args.target.len());
        return Err(Error::Usage(text).into());
    }
    let names = args.target.iter().map(|target| stored_name(target)).collect();
    let options = args.restore.options(names, session);
    session.record(&args.restore.record, &args.restore.password.file().into_iter().collect::<Vec<_>>())?;
    let vault = session.open(&args.restore.password)?;
    if args.stdout {
        to_stdout(args, &vault, options, session)
    } else {
        session.operate(&options.pipeline, |observer| vault.extract(directory(args), &options, observer))
    }
}

/// Streams the one file of `options`. That its reader goes away before the end is an end like any other.
fn to_stdout(
    args: &Args,
    vault: &Vault,
    mut options: ExtractOptions,
    session: &Arc<Session>,
) -> Result<Report, Failed> {
    let path = options.files.pop().unwrap_or_default();
    let mut out = DataOut::open()?;
    if !args.restore.pipeline.has_stall_timeout() {
        // Whoever reads along in a pager may take all day.
        options.pipeline.stall_timeout = Some(Duration::ZERO);
    }
    let result = session.operate(&options.pipeline, |observer| {
        let report = vault.copy_file(&path, &options, &mut out, observer)?;
        match out.finish() {
            Ok(()) => Ok(report),
            Err(error) => Err(Failed { error, report: Box::new(report) }),
        }
    });
    if out.is_broken() { Ok(Report::default()) } else { result }
}

fn directory(args: &Args) -> &Path {
    args.output.as_deref().unwrap_or(Path::new("."))
}
