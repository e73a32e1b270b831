//! `profile`: measures how sources are packed, or how a vault is unpacked, and says what bounds it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ArgGroup;
use flint_pipe::{Error, Level, Profile, ProfileFailed, ProfileOptions, Report, Workers};

use crate::cli::args::{self, BothWorkers, OutputArgs, PasswordArgs, PipelineArgs, ReadModeArg, RecordArgs};
use crate::cli::exit::Status;
use crate::cli::patterns::Excludes;
use crate::cli::record::{Ended, Records};
use crate::cli::replace::{self, replace};
use crate::cli::report::comparison::{Baseline, Comparison};
use crate::cli::report::profile::{What, rehearsed, summary};
use crate::cli::report::profile_json::{self, Asked};
use crate::cli::session::Session;
use crate::cli::{escape, message, stdout};

/// How much slower than the saved profile is too slow, as a share, where nothing else is asked for.
const THRESHOLD: f64 = 0.1;

/// Measure packing, or the way out of a vault, and what bounds it
#[derive(Debug, clap::Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["source", "vault"]),
    after_help = "Examples:\n  \
        flint-pipe profile -s /home --sweep\n  \
        flint-pipe profile -v backup.flint --to /mnt --cold --roofline\n  \
        flint-pipe profile -s src --compare base.json --threshold 5%"
)]
pub(crate) struct Args {
    /// What is packed, to be measured; repeatable
    #[arg(
        short, long, value_name = "PATH",
        conflicts_with_all = ["decrypt_workers", "decompress_workers", "password_file", "password_command"]
    )]
    source: Vec<PathBuf>,
    /// A vault instead, whose way out is measured
    #[arg(
        short, long, value_name = "VAULT",
        conflicts_with_all = [
            "directory", "level", "read_mode", "exclude", "exclude_from", "sweep",
            "scan_workers", "compress_workers", "encrypt_workers"
        ]
    )]
    vault: Option<PathBuf>,
    /// Look sources up from here, as in tar
    #[arg(short = 'C', long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// zstd level -7 to 22, store or auto [3]
    #[arg(
        short, long, value_name = "N", default_value = "3", hide_default_value = true,
        allow_negative_numbers = true, value_parser = args::level
    )]
    level: Level,
    /// How large files are taken in: auto, mmap or read
    #[arg(long, value_name = "MODE", default_value = "auto", hide_default_value = true, hide_possible_values = true)]
    read_mode: ReadModeArg,
    #[command(flatten)]
    exclude: Excludes,
    #[command(flatten)]
    measuring: Measuring,
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    workers: BothWorkers,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    record: RecordArgs,
}

/// How it is measured, and what becomes of the figures.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Measuring")]
struct Measuring {
    /// Write below DIR, not into nothing
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Begin no round after this long [30s]
    #[arg(long, value_name = "TIME", value_parser = args::timeout)]
    time: Option<Duration>,
    /// Put the data out of memory before each round
    #[arg(long)]
    cold: bool,
    /// Measure each stage alone, too
    #[arg(long)]
    roofline: bool,
    /// Measure other levels and threads, too
    #[arg(long)]
    sweep: bool,
    /// Keep the figures in FILE
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Show them beside those that --save has kept
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Say what would run, and with what; measure nothing
    #[arg(short = 'n', long, conflicts_with_all = ["json", "save", "compare"])]
    dry_run: bool,
    /// How much slower is a failure [10%]
    #[arg(long, value_name = "P%", requires = "compare", value_parser = share)]
    threshold: Option<f64>,
}

/// Parses the value of `--threshold` into a share.
fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok();
    let percent = number.filter(|percent| (0.0..100.0).contains(percent));
    percent.map(|percent| percent / 100.0).ok_or_else(|| "not a share such as 10%, below 100%".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let asked = asked(args);
    let session = Session::profiling(args.place(), args.output, asked.clone());
    let (baseline, outcome) = match record(args, &session).and_then(|()| prepare(args)) {
        Ok(baseline) => (baseline, measure(args, &session)),
        Err(error) => (None, Err(error.into())),
    };
    finish(args, &asked, &session, baseline, &outcome)
}

/// Makes the files ready; a rehearsal has none.
fn record(args: &Args, session: &Session) -> Result<(), Error> {
    let base = args.directory.as_deref().unwrap_or(Path::new(""));
    let sources: Vec<PathBuf> = args.source.iter().map(|source| base.join(source)).collect();
    let kept = [&args.measuring.save, &args.measuring.compare];
    let others = sources.iter().chain(kept.into_iter().flatten()).map(PathBuf::as_path);
    let others: Vec<&Path> = others.chain(args.password.file()).chain(args.exclude.files()).collect();
    match args.measuring.dry_run {
        true => Records::prepare(&args.record, &others).map(drop),
        false => session.record(&args.record, &others),
    }
}

/// What the figures will depend on.
fn asked(args: &Args) -> Asked {
    Asked {
        unpack: args.vault.is_some(),
        level: args.level,
        read_mode: args.read_mode.into(),
        cold: args.measuring.cold,
        to: args.measuring.to.clone(),
        pipeline: args.pipeline.config(Workers::from(&args.workers), flint_pipe::CancelToken::new()),
    }
}

/// What would be bad news after minutes of measuring is found out before: the saved profile, and whether there can be one.
fn prepare(args: &Args) -> Result<Option<Baseline>, Error> {
    if let Some(path) = &args.measuring.save {
        replace::check(path)?;
    }
    args.measuring.compare.as_deref().map(|path| Baseline::read(path, args.vault.is_some())).transpose()
}

fn measure(args: &Args, session: &Arc<Session>) -> Result<Profile, ProfileFailed> {
    let mut options = ProfileOptions::default();
    options.pack.pipeline = args.pipeline.config(Workers::from(&args.workers), session.cancel());
    Records::ask(&args.record, &mut options.pack.pipeline);
    options.pack.level = args.level;
    options.pack.read_mode = args.read_mode.into();
    options.pack.directory.clone_from(&args.directory);
    options.pack.exclude = args.exclude.read()?;
    options.pack.dry_run = args.measuring.dry_run;
    options.to.clone_from(&args.measuring.to);
    options.time = args.measuring.time;
    options.cold = args.measuring.cold;
    options.roofline = args.measuring.roofline;
    options.sweep = args.measuring.sweep;
    if args.vault.is_none() {
        return session
            .operate(&options.pack.pipeline, |observer| flint_pipe::profile(&args.source, &options, observer));
    }
    let vault = session.open(&args.password)?;
    session.operate(&options.pack.pipeline, |observer| vault.profile(&options, observer))
}

/// Says, keeps and compares what was measured.
fn finish(
    args: &Args,
    asked: &Asked,
    session: &Session,
    baseline: Option<Baseline>,
    outcome: &Result<Profile, ProfileFailed>,
) -> Status {
    let (profile, error, status) = match outcome {
        Ok(profile) => (profile, None, Status::of_profile(profile)),
        Err(failed) => (&*failed.profile, Some(&failed.error), Status::of_failed_profile(failed)),
    };
    let threshold = args.measuring.threshold.unwrap_or(THRESHOLD);
    // What ended early may have been measured in another state than what did not.
    let comparable = baseline.filter(|_| error.is_none());
    let comparison = comparable.and_then(|baseline| Comparison::of(baseline, asked, profile, threshold));
    let complaint = comparison.as_ref().and_then(Comparison::complaint);
    let status = match status {
        Status::Done | Status::Incomplete if complaint.is_some() => Status::Failed,
        status => status,
    };
    session.conclude(status, error, || {
        hints(args, session, outcome);
        let object = |status: Status, error: Option<String>| {
            let comparison = comparison.as_ref();
            profile_json::object(&profile_json::Outcome { asked, exit_code: status.code(), error, profile, comparison })
        };
        let said = || error.map(message::plain).or_else(|| complaint.clone());
        let saved = save(args, session, outcome, complaint.is_some(), &object(status, said()));
        session.write_records(&Ended {
            command: "profile",
            place: args.place(),
            status,
            error: said(),
            report: profile.median().unwrap_or(&Report::default()),
            profile: Some(profile),
            json: object(status, said()),
            text: text(args, asked, profile, comparison.as_ref()),
        });
        let printed = match args.output.json {
            true if status == Status::Usage => Ok(()),
            true => match &saved {
                // As the session will have it: what could not be saved makes a success a failure.
                Err(why) if matches!(status, Status::Done | Status::Incomplete) => {
                    stdout::print(object(Status::of_kind(why.kind()), Some(message::plain(why))))
                }
                _ => stdout::print(object(status, said())),
            },
            false => stdout::print(text(args, asked, profile, comparison.as_ref())),
        };
        if let Some(complaint) = &complaint {
            session.error(&escape::text(complaint));
        }
        saved.and(printed)
    })
}

/// What can be done about sources that are not there, or could not be read.
fn hints(args: &Args, session: &Session, outcome: &Result<Profile, ProfileFailed>) {
    let median = match outcome {
        Ok(profile) => profile.median(),
        Err(failed) => failed.profile.median(),
    };
    let base = args.directory.as_deref().unwrap_or(Path::new(""));
    let sources: Vec<PathBuf> = args.source.iter().map(|source| base.join(source)).collect();
    if outcome.is_err() || median.is_some_and(|report| !report.is_complete()) {
        let report = median.cloned().unwrap_or_default();
        for hint in message::hints_of_report(&report, sources.iter().map(PathBuf::as_path)) {
            session.hint(&hint);
        }
    }
}

/// Keeps what was measured, if that came to its end.
///
/// - `is_slower`: than what it was compared with allows.
fn save(
    args: &Args,
    session: &Session,
    outcome: &Result<Profile, ProfileFailed>,
    is_slower: bool,
    object: &str,
) -> Result<(), Error> {
    let Some(path) = &args.measuring.save else { return Ok(()) };
    let note = |why| session.note(&format!("nothing is saved, since it {why}: {}", escape::path(path)));
    match outcome {
        Err(failed) if failed.profile.rounds.is_empty() => {}
        Err(_) => note("ended early"),
        // Else the next run would be held to this one, and pass.
        Ok(_) if is_slower && args.measuring.compare.as_ref() == Some(path) => note("is slower"),
        Ok(_) => return replace(path, object.as_bytes()),
    }
    Ok(())
}

fn text(args: &Args, asked: &Asked, profile: &Profile, comparison: Option<&Comparison>) -> String {
    let what = match &args.vault {
        Some(vault) => What::Unpacking(vault),
        None => What::Packing(&args.source),
    };
    if args.measuring.dry_run {
        return rehearsed(what, profile);
    }
    let mut text = summary(what, asked, profile);
    if let Some(comparison) = comparison {
        text.push_str(&comparison.table());
    }
    text
}

impl Args {
    /// What messages name: the vault, or the first source.
    fn place(&self) -> &Path {
        let source = || self.source.first().map(PathBuf::as_path);
        self.vault.as_deref().or_else(source).unwrap_or(Path::new(""))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn it_is_one_way_or_the_other_with_the_options_of_that_way() {
        let parse = |line: &str| Cli::try_parse_from(format!("flint-pipe profile {line}").split(' '));
        for line in [
            "-s a -s b -C / --level -1 --read-mode mmap --exclude *.o --sweep --scan-workers 2 --encrypt-workers 1",
            "-v v --decrypt-workers 2 --decompress-workers 2 --read-workers 1 --write-workers 1 --password-file p",
            "-s a --to /tmp --time 10s --cold --roofline --save f --compare f --threshold 5% --json --progress",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
        for line in [
            "",
            "--json",
            "-s a -v v",
            "-v v -v w",
            "-v v --sweep",
            "-v v --level 3",
            "-v v -C /",
            "-v v --exclude a",
            "-v v --exclude-from a",
            "-v v --read-mode read",
            "-v v --compress-workers 1",
            "-s a --decrypt-workers 1",
            "-s a --password-file p",
            "-s a --threshold 5%",
            "-s a --compare f --threshold 100%",
            "-s a --time 0s",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_threshold_is_a_percentage_below_100() {
        assert_eq!(share("10%"), Ok(0.1));
        assert_eq!(share("0"), Ok(0.0));
        for text in ["100%", "-1%", "", "ten", "NaN", "inf"] {
            assert!(share(text).expect_err(text).contains("below 100%"), "{text}");
        }
    }
}
