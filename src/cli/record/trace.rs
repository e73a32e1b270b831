//! `--trace`: the work of each thread as a trace that Perfetto and Chrome open: a track a worker, and counters.
//!
//! The form is Chrome's "Trace Event Format": an object with `traceEvents`, times in microseconds.

use std::time::Duration;

use flint_pipe::{Report, Span, Track};
use serde_json::{Value, json};

use crate::cli::record::Ended;

/// The one process of a trace.
const PROCESS: u32 = 1;

/// The trace as text.
pub(crate) fn events(ended: &Ended<'_>) -> String {
    let report = ended.report;
    let mut events = vec![json!({
        "ph": "M", "pid": PROCESS, "name": "process_name",
        "args": {"name": format!("flint-pipe {} {}", ended.command, ended.place.display())},
    })];
    let order = |track: &Track| report.stages.iter().position(|stage| stage.name == track.stage);
    let mut tracks: Vec<&Track> = report.tracks.iter().filter(|track| !track.spans.is_empty()).collect();
    tracks.sort_by_key(|track| (order(track), track.worker));
    for (thread, track) in (1..).zip(tracks) {
        let name = format!("{} {}", track.stage, track.worker);
        for (kind, args) in
            [("thread_name", json!({"name": name})), ("thread_sort_index", json!({"sort_index": thread}))]
        {
            events.push(json!({"ph": "M", "pid": PROCESS, "tid": thread, "name": kind, "args": args}));
        }
        events.extend(track.spans.iter().map(|span| work(span, track, thread)));
    }
    events.extend(counters(report));
    let together: u64 = report.tracks.iter().map(|track| track.put_together).sum();
    let trace = json!({
        "displayTimeUnit": "ms",
        "otherData": {
            "program": format!("flint-pipe {}", env!("CARGO_PKG_VERSION")),
            "command": ended.command,
            "items_without_a_span_of_their_own": together,
        },
        "traceEvents": events,
    });
    format!("{trace}\n")
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
fn counters(report: &Report) -> Vec<Value> {
    let timeline = &report.timeline;
    let mut events = Vec::new();
    for sample in &timeline.samples {
        let at = micros(sample.at);
        let mut count = |name: &str, args: Value| {
            events.push(json!({"ph": "C", "pid": PROCESS, "name": name, "ts": at, "args": args}));
        };
        let seconds = sample.length.as_secs_f64().max(1e-9);
        count("content, MB/s", json!({"MB/s": round(sample.bytes as f64 / 1e6 / seconds)}));
        count("memory, MiB", json!({"resident": mib(sample.memory), "buffers": mib(sample.buffers)}));
        for (name, stage) in timeline.stages.iter().zip(&sample.stages) {
            if report.plan.as_ref().is_some_and(|plan| plan.queue_depths.iter().any(|(queue, _)| queue == name)) {
                count(&format!("queue of {name}, %"), json!({"full": round(stage.queue * 100.0)}));
            }
        }
    }
    events
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
