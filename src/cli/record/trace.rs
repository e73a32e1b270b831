//! `--trace`: the work of each thread as a trace that Perfetto and Chrome open: a track a worker, and counters.
//!
//! The form is Chrome's "Trace Event Format": an object with `traceEvents`, times in microseconds.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use flint_pipe::{Error, FileOp, Report, Span, Track};
use serde_json::{Value, json};

use crate::cli::escape;
use crate::cli::record::Ended;
use crate::cli::replace::Replacement;

/// The one process of a trace.
const PROCESS: u32 = 1;

/// Writes the trace to `path`, event by event: all of them at once would take more memory than the run did.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write(path: &Path, ended: &Ended<'_>) -> Result<(), Error> {
    let replacement = Replacement::begin(path)?;
    let mut out = BufWriter::new(&replacement.file);
    let written = write_events(&mut out, ended).and_then(|()| out.flush());
    drop(out);
    written.map_err(|error| Error::io(FileOp::Write, path, error))?;
    replacement.finish()
}

fn write_events(out: &mut impl Write, ended: &Ended<'_>) -> io::Result<()> {
    let report = ended.report;
    let together: u64 = report.tracks.iter().map(|track| track.put_together).sum();
    let about = json!({
        "program": format!("flint-pipe {}", env!("CARGO_PKG_VERSION")),
        "command": ended.command,
        "items_without_a_span_of_their_own": together,
    });
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{about},\"traceEvents\":[")?;
    let process = format!("flint-pipe {} {}", ended.command, escape::path(ended.place));
    write!(out, "{}", json!({"ph": "M", "pid": PROCESS, "name": "process_name", "args": {"name": process}}))?;
    let order = |track: &Track| report.stages.iter().position(|stage| stage.name == track.stage);
    let mut tracks: Vec<&Track> = report.tracks.iter().filter(|track| !track.spans.is_empty()).collect();
    tracks.sort_by_key(|track| (order(track), track.worker));
    for (thread, track) in (1..).zip(tracks) {
        let name = format!("{} {}", track.stage, track.worker);
        for (kind, args) in
            [("thread_name", json!({"name": name})), ("thread_sort_index", json!({"sort_index": thread}))]
        {
            let event = json!({"ph": "M", "pid": PROCESS, "tid": thread, "name": kind, "args": args});
            write!(out, ",\n{event}")?;
        }
        for span in &track.spans {
            write!(out, ",\n{}", work(span, track, thread))?;
        }
    }
    counters(report, &mut |event| write!(out, ",\n{event}"))?;
    writeln!(out, "]}}")
}

/// What was not shown apart, in words.
pub(crate) fn put_together(report: &Report) -> Option<String> {
    let together: u64 = report.tracks.iter().map(|track| track.put_together).sum();
    let resolution = report.tracks.iter().map(|track| track.resolution).max()?;
    (together > 0).then(|| {
        let resolution = resolution.as_secs_f64() * 1e3;
        format!("in the trace, {together} items share spans of {resolution:.1} ms at most with their neighbours")
    })
}

/// A span of one worker.
fn work(span: &Span, track: &Track, thread: u32) -> Value {
    let name = match (span.chunk, span.items) {
        (Some(chunk), 1) => format!("chunk {chunk}"),
        (_, 1) => track.stage.to_owned(),
        (_, items) => format!("{items} items"),
    };
    let mut args = json!({});
    if span.items > 1 {
        args["items"] = span.items.into();
    }
    for (what, bytes) in [("bytes_in", span.bytes_in), ("bytes_out", span.bytes_out)] {
        if bytes > 0 {
            args[what] = bytes.into();
        }
    }
    json!({
        "ph": "X", "pid": PROCESS, "tid": thread, "cat": track.stage, "name": name,
        "ts": micros(span.begin), "dur": micros(span.length), "args": args,
    })
}

/// What the samples show besides: memory, speed, and the queues.
fn counters(report: &Report, emit: &mut dyn FnMut(Value) -> io::Result<()>) -> io::Result<()> {
    let timeline = &report.timeline;
    for sample in &timeline.samples {
        let at = micros(sample.at);
        let mut count =
            |name: &str, args: Value| emit(json!({"ph": "C", "pid": PROCESS, "name": name, "ts": at, "args": args}));
        let seconds = sample.length.as_secs_f64().max(1e-9);
        count("content, MB/s", json!({"MB/s": round(sample.bytes as f64 / 1e6 / seconds)}))?;
        count("memory, MiB", json!({"resident": mib(sample.memory), "buffers": mib(sample.buffers)}))?;
        for (name, stage) in timeline.stages.iter().zip(&sample.stages) {
            if report.plan.as_ref().is_some_and(|plan| plan.queue_depths.iter().any(|(queue, _)| queue == name)) {
                count(&format!("queue of {name}, %"), json!({"full": round(stage.queue * 100.0)}))?;
            }
        }
    }
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn mib(bytes: u64) -> f64 {
    round(bytes as f64 / f64::from(1 << 20))
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
