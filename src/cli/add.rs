//! `add`: packs files and directories into a vault, which it makes where there is none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flint_pipe::{AddOptions, CreateOptions, Error, Failed, Level, Report, Vault, Workers};

use crate::cli::args::{
    self, DryRunArg, OutputArgs, PackWorkers, PasswordArgs, PipelineArgs, ReadModeArg, RecordArgs, VaultArg,
    command_line,
};
use crate::cli::exit::Status;
use crate::cli::patterns::Excludes;
use crate::cli::record::Records;
use crate::cli::report::text;
use crate::cli::session::Session;
use crate::cli::{message, rehearsal};

/// Pack files and directories into a vault
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    flint-pipe add -v backup.flint -s documents -s photos\n  \
    flint-pipe add -v backup.flint -C /home -s anna --exclude '*.o' --progress")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// A file or directory to pack; repeatable
    #[arg(short, long, value_name = "PATH", required = true)]
    source: Vec<PathBuf>,
    /// Look sources up from here, as in tar
    #[arg(short = 'C', long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// zstd level -7 to 22, store or auto [3]
    #[arg(
        short, long, value_name = "N", default_value = "3", hide_default_value = true,
        allow_negative_numbers = true, value_parser = args::level
    )]
    level: Level,
    #[command(flatten)]
    exclude: Excludes,
    /// Of directories with a CACHEDIR.TAG, only that
    #[arg(long, help_heading = "What is left out")]
    exclude_caches: bool,
    /// Stay on the file system of each source
    #[arg(long, help_heading = "What is left out")]
    one_file_system: bool,
    /// Drop entries that are in the sources no more
    #[arg(long)]
    mirror: bool,
    /// Read files that look unchanged too
    #[arg(long)]
    force_read: bool,
    /// How large files are taken in: auto, mmap or read
    #[arg(long, value_name = "MODE", default_value = "auto", hide_default_value = true, hide_possible_values = true)]
    read_mode: ReadModeArg,
    /// Refuse to make a vault that is not there
    #[arg(long)]
    no_create: bool,
    #[command(flatten)]
    dry_run: DryRunArg,
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    workers: PackWorkers,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    record: RecordArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let dry_run = args.dry_run.dry_run;
    let session = Session::reporting("add", &args.vault.path, args.output, dry_run);
    let outcome = add(args, &session);
    let report = match &outcome {
        Ok(report) => report,
        Err(failed) => &failed.report,
    };
    let base = args.directory.as_deref().unwrap_or(Path::new(""));
    let sources: Vec<PathBuf> = args.source.iter().map(|source| base.join(source)).collect();
    if !report.is_complete() {
        for hint in message::hints_of_report(report, sources.iter().map(PathBuf::as_path)) {
            session.hint(&hint);
        }
    }
    session.finish(&outcome, |report| text::packed(&args.vault.path, dry_run, report))
}

fn add(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let options = options(args, session)?;
    let base = args.directory.as_deref().unwrap_or(Path::new(""));
    let sources: Vec<PathBuf> = args.source.iter().map(|source| base.join(source)).collect();
    let others = sources.iter().map(PathBuf::as_path).chain(args.password.file()).chain(args.exclude.files());
    session.record(&args.record, &others.collect::<Vec<_>>())?;
    let is_new = !args.no_create && !session.vault_exists()?;
    let create = CreateOptions::default();
    let vault = if args.no_create {
        session.open(&args.password)?
    } else {
        session.unlock(&args.password, is_new, |password| {
            if is_new && args.dry_run.dry_run {
                return rehearsal::make(&args.vault.path, password, &create);
            }
            if is_new {
                session.opening();
            }
            Vault::open_or_create(&args.vault.path, password, &create)
        })?
    };
    session.operate(&options.pipeline, |observer| vault.add(&args.source, &options, observer))
}

fn options(args: &Args, session: &Session) -> Result<AddOptions, Error> {
    let password_from_stdin = args.password.password_file.as_deref() == Some(Path::new("-"));
    if args.exclude.stdin_count() + usize::from(password_from_stdin) > 1 {
        return Err(Error::Usage("standard input can be read once: - stands for it more than once".to_owned()));
    }
    let mut options = AddOptions::default();
    options.pipeline = args.pipeline.config(Workers::from(&args.workers), session.cancel());
    Records::ask(&args.record, &mut options.pipeline);
    options.level = args.level;
    options.read_mode = args.read_mode.into();
    options.directory.clone_from(&args.directory);
    options.exclude = args.exclude.read()?;
    options.exclude_caches = args.exclude_caches;
    options.one_file_system = args.one_file_system;
    options.mirror = args.mirror;
    options.force_read = args.force_read;
    options.dry_run = args.dry_run.dry_run;
    options.command_line = command_line(std::env::args_os());
    Ok(options)
}
