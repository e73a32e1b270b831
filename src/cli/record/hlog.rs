//! `--hlog`: the latencies of each second as an HdrHistogram log, version 2, a tag a stage and kind.
//!
//! Written by a thread of its own, so that a slow disk keeps nobody from working: a second that comes while it still writes
//! the last ones is waited for a little, and then dropped, which is told at the end.

use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, Sender, bounded};
use flint_pipe::{Error, FileOp, Histogram, Interval};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::cli::replace::Replacement;

/// How long the engine may be kept waiting for the writer.
const PATIENCE: Duration = Duration::from_millis(200);
/// Latencies are in nanoseconds; the greatest of each line is shown in milliseconds, as is usual.
const SHOWN_IN: f64 = 1e6;

/// What the writer is told.
enum Told {
    Second(Second),
    /// That was all, and it is to come to its place. If the channel ends without that, it is not.
    End,
}

/// One second's latencies on their way to the writer.
struct Second {
    start: Duration,
    length: Duration,
    latencies: Vec<(&'static str, &'static str, Histogram<u64>)>,
}

/// The log of one command.
#[derive(Debug)]
pub(crate) struct Hlog {
    path: PathBuf,
    began: Instant,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    to_writer: Sender<Told>,
    writer: JoinHandle<Result<(), Error>>,
    /// Seconds that the writer had no time for.
    lost: u64,
}

impl Hlog {
    /// Begins one; it comes to its place when it is finished.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn begin(path: &Path) -> Result<Self, Error> {
        let replacement = Replacement::begin(path)?;
        let (to_writer, told) = bounded(0);
        let owned = path.to_owned();
        let began_at = SystemTime::now();
        let write = move || write(replacement, &owned, began_at, &told);
        let writer = std::thread::Builder::new().name("hlog".to_owned()).spawn(write);
        let writer = writer.map_err(|error| Error::io(FileOp::StartThread, "hlog", error))?;
        let running = Mutex::new(Some(Running { to_writer, writer, lost: 0 }));
        Ok(Self { path: path.to_owned(), began: Instant::now(), running })
    }

    /// Hands one second on to the writer.
    pub(crate) fn interval(&self, interval: &Interval<'_>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = &mut *running else { return };
        // Runs of a profile each begin anew; the log goes on.
        let start = self.began.elapsed().saturating_sub(interval.length);
        let second = Second { start, length: interval.length, latencies: interval.latencies.to_vec() };
        running.lost += u64::from(running.to_writer.send_timeout(Told::Second(second), PATIENCE).is_err());
    }

    /// Ends it, and puts it in its place.
    ///
    /// # Errors
    /// What kept it from being written whole.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { to_writer, writer, lost }) = running else { return Ok(()) };
        // A writer that has ended already says why.
        let _ = to_writer.send(Told::End);
        let written =
            writer.join().unwrap_or_else(|_| Err(failed(&self.path, io::Error::other("its thread panicked"))));
        match lost {
            0 => written,
            lost => written.and(Err(failed(&self.path, io::Error::other(format!("{lost} seconds are missing"))))),
        }
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::io(FileOp::Write, path, error)
}

/// Writes what comes until no more does.
fn write(replacement: Replacement, path: &Path, began_at: SystemTime, told: &Receiver<Told>) -> Result<(), Error> {
    match write_log(&replacement, began_at, told) {
        Ok(true) => replacement.finish(),
        // Nobody wants it any more.
        Ok(false) => Ok(()),
        Err(error) => Err(failed(path, error)),
    }
}

/// Writes what comes; whether that came to its end.
fn write_log(replacement: &Replacement, began_at: SystemTime, told: &Receiver<Told>) -> io::Result<bool> {
    let mut file = BufWriter::new(&replacement.file);
    let mut serializer = V2DeflateSerializer::new();
    // Lines are written as they come, and only a comment is made before.
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(&format!("flint-pipe {}: latencies in nanoseconds", env!("CARGO_PKG_VERSION")))
        .with_start_time(began_at)
        .with_max_value_divisor(SHOWN_IN)
        .begin_log_with(&mut file, &mut serializer)?;
    let mut has_end = false;
    for told in told {
        let Told::Second(Second { start, length, latencies }) = told else {
            has_end = true;
            break;
        };
        for (stage, kind, histogram) in latencies {
            let tag = format!("{stage}.{kind}");
            let tag = Tag::new(&tag);
            log.write_histogram(&histogram, start, length, tag).map_err(|error| match error {
                hdrhistogram::serialization::interval_log::IntervalLogWriterError::IoError(error) => error,
                other => io::Error::other(format!("{other:?}")),
            })?;
        }
    }
    drop(log);
    file.flush()?;
    Ok(has_end)
}
