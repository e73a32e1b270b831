//! The result of a command as one JSON object: the fields of the contract, in its order.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use flint_pipe::{
    Advice, Bottleneck, Compaction, EntryError, Percentiles, PlanReport, RecoveredSnapshot, Recovery, Report,
    StageReport, Work,
};
use serde::{Serialize, Serializer};

use crate::cli::escape;
use crate::cli::list;
use crate::cli::list::path_bytes;

/// The version of the object's fields; what is added does not change it, what is taken away or means something else does.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) command: &'static str,
    /// Nothing was to be written.
    pub(crate) dry_run: bool,
    pub(crate) vault: &'a Path,
    pub(crate) exit_code: u8,
    /// The error that ended it, in words.
    pub(crate) error: Option<String>,
    /// What it did until then.
    pub(crate) report: &'a Report,
    /// How it went over time is in it, too.
    pub(crate) with_timeline: bool,
}

/// The object, with a line end.
pub(crate) fn object(outcome: &Outcome<'_>) -> String {
    let report = outcome.report;
    let object = Object {
        schema_version: SCHEMA_VERSION,
        command: outcome.command,
        dry_run: outcome.dry_run,
        vault: outcome.vault.to_string_lossy(),
        snapshot: report.snapshot,
        key: report.key,
        exit_code: outcome.exit_code,
        error: outcome.error.as_deref(),
        total_files: report.total_files,
        successful_files: report.successful_files,
        failed_files: report.failed_files,
        unchanged_files: report.unchanged_files,
        changed_files: report.changed_files,
        directories: report.directories,
        removed_files: report.removed_files,
        removed_directories: report.removed_directories,
        total_size: report.total_size,
        stored_size: report.stored_size,
        duration_secs: report.duration.as_secs_f64(),
        phases_secs: Phases::from(&report.phases),
        cores: report.cores,
        throughput_bytes_per_sec: whole(report.throughput_bytes_per_sec()),
        peak_memory_bytes: report.peak_memory_bytes,
        unreferenced_bytes: report.unreferenced_bytes,
        compaction: report.compaction.as_ref().map(Compacted::from),
        recovery: report.recovery.as_ref().map(Recovered::from),
        plan: report.plan.as_ref().map(Plan::from),
        workers: Workers(&report.stages),
        learnt: report.learnt.iter().map(|(stage, what)| Lesson { stage, what }).collect(),
        bottleneck: report.bottleneck.as_ref().map(Bound::from),
        stages: Stages(&report.stages),
        timeline: outcome.with_timeline.then(|| Timeline::from(&report.timeline)),
        errors: report.errors.iter().map(Failure::from).collect(),
    };
    let text = serde_json::to_string(&object).expect("these fields are numbers, strings and maps with string keys");
    format!("{}\n", escape::json(&text))
}

#[derive(Serialize)]
struct Object<'a> {
    schema_version: u32,
    command: &'static str,
    dry_run: bool,
    vault: Cow<'a, str>,
    snapshot: Option<u64>,
    /// Of `key` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<u32>,
    exit_code: u8,
    error: Option<&'a str>,
    total_files: u64,
    successful_files: u64,
    failed_files: u64,
    unchanged_files: u64,
    changed_files: u64,
    directories: u64,
    removed_files: u64,
    removed_directories: u64,
    total_size: u64,
    stored_size: u64,
    duration_secs: f64,
    phases_secs: Phases,
    cores: usize,
    throughput_bytes_per_sec: u64,
    peak_memory_bytes: u64,
    /// Of `verify` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreferenced_bytes: Option<u64>,
    /// Of `compact` and `rekey` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    compaction: Option<Compacted<'a>>,
    /// Of `recover` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<Recovered<'a>>,
    plan: Option<Plan<'a>>,
    workers: Workers<'a>,
    learnt: Vec<Lesson<'a>>,
    bottleneck: Option<Bound<'a>>,
    stages: Stages<'a>,
    /// In a report file alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<Timeline<'a>>,
    errors: Vec<Failure<'a>>,
}

/// What a vault's file was and is.
#[derive(Serialize)]
struct Compacted<'a> {
    kept: &'a [u64],
    dropped: &'a [u64],
    bytes_before: u64,
    bytes_after: u64,
    moved_records: u64,
    repacked_records: u64,
    repacked_bytes: u64,
}

impl<'a> From<&'a Compaction> for Compacted<'a> {
    fn from(compaction: &'a Compaction) -> Self {
        Self {
            kept: &compaction.kept,
            dropped: &compaction.dropped,
            bytes_before: compaction.bytes_before,
            bytes_after: compaction.bytes_after,
            moved_records: compaction.moved_records,
            repacked_records: compaction.repacked_records,
            repacked_bytes: compaction.repacked_bytes,
        }
    }
}

/// How a run went over time.
#[derive(Serialize)]
pub(crate) struct Timeline<'a> {
    period_secs: f64,
    stages: &'a [&'static str],
    budget_bytes: u64,
    samples: Vec<Sample>,
}

#[derive(Serialize)]
struct Sample {
    at_secs: f64,
    length_secs: f64,
    bytes: u64,
    files: u64,
    memory_bytes: u64,
    buffer_bytes: u64,
    utilization: Vec<f64>,
    queue: Vec<f64>,
}

impl<'a> From<&'a flint_pipe::Timeline> for Timeline<'a> {
    fn from(timeline: &'a flint_pipe::Timeline) -> Self {
        let sample = |sample: &flint_pipe::Sample| Sample {
            at_secs: sample.at.as_secs_f64(),
            length_secs: sample.length.as_secs_f64(),
            bytes: sample.bytes,
            files: sample.files,
            memory_bytes: sample.memory,
            buffer_bytes: sample.buffers,
            utilization: sample.stages.iter().map(|stage| stage.utilization).collect(),
            queue: sample.stages.iter().map(|stage| stage.queue).collect(),
        };
        Self {
            period_secs: timeline.period.as_secs_f64(),
            stages: &timeline.stages,
            budget_bytes: timeline.budget,
            samples: timeline.samples.iter().map(sample).collect(),
        }
    }
}

/// What is left of a damaged vault.
#[derive(Serialize)]
struct Recovered<'a> {
    snapshots: Vec<RecoveredOne>,
    faults: &'a [String],
    mended: bool,
    saved_bytes: Option<u64>,
}

#[derive(Serialize)]
struct RecoveredOne {
    number: u64,
    time: String,
    files: u64,
    bytes: u64,
    lost_entries: u64,
    whole: bool,
    newest: bool,
    recovered: bool,
    without_commit: bool,
    one_run: bool,
    beside: bool,
}

impl<'a> From<&'a Recovery> for Recovered<'a> {
    fn from(recovery: &'a Recovery) -> Self {
        let one = |found: &RecoveredSnapshot| RecoveredOne {
            number: found.number,
            time: list::utc(found.time),
            files: found.files,
            bytes: found.bytes,
            lost_entries: found.lost_entries,
            whole: found.whole,
            newest: found.newest,
            recovered: found.recovered,
            without_commit: found.without_commit,
            one_run: found.one_run,
            beside: found.beside,
        };
        Self {
            snapshots: recovery.snapshots.iter().map(one).collect(),
            faults: &recovery.faults,
            mended: recovery.mended,
            saved_bytes: recovery.saved_bytes,
        }
    }
}

/// What the run works with, or would.
#[derive(Serialize)]
struct Plan<'a> {
    workers: ByStage<'a>,
    queue_depths: ByStage<'a>,
    chunk_size: u32,
    buffer_bytes: u64,
    entries_in_flight: u64,
    peak_memory_bytes: u64,
    reduced: ByStage<'a>,
    unreduced_memory_bytes: u64,
    reasons: Sentences<'a>,
}

impl<'a> From<&'a PlanReport> for Plan<'a> {
    fn from(plan: &'a PlanReport) -> Self {
        Self {
            workers: ByStage(&plan.workers),
            queue_depths: ByStage(&plan.queue_depths),
            chunk_size: plan.chunk_size,
            buffer_bytes: plan.buffer_bytes,
            entries_in_flight: plan.entries_in_flight,
            peak_memory_bytes: plan.peak_memory_bytes,
            reduced: ByStage(&plan.reduced),
            unreduced_memory_bytes: plan.unreduced_memory_bytes,
            reasons: Sentences(&plan.reasons),
        }
    }
}

/// Numbers by the name of the stage, in the order of the data.
struct ByStage<'a>(&'a [(&'static str, usize)]);

impl Serialize for ByStage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// Words by the name of the stage, in the order of the data.
struct Sentences<'a>(&'a [(&'static str, String)]);

impl Serialize for Sentences<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(stage, words)| (stage, words)))
    }
}

/// What was learnt, in the order of time.
#[derive(Serialize)]
struct Lesson<'a> {
    stage: &'static str,
    what: &'a str,
}

/// Threads by the name of the stage, in the order of the data.
pub(crate) struct Workers<'a>(pub(crate) &'a [StageReport]);

impl Serialize for Workers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|stage| (stage.name, stage.workers)))
    }
}

/// Figures by the name of the stage, in the order of the data.
pub(crate) struct Stages<'a>(pub(crate) &'a [StageReport]);

impl Serialize for Stages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|stage| (stage.name, Stage::from(stage))))
    }
}

#[derive(Serialize)]
pub(crate) struct Phases {
    prepare: f64,
    stream: f64,
    finish: f64,
}

impl From<&flint_pipe::Phases> for Phases {
    fn from(phases: &flint_pipe::Phases) -> Self {
        Self {
            prepare: phases.prepare.as_secs_f64(),
            stream: phases.stream.as_secs_f64(),
            finish: phases.finish.as_secs_f64(),
        }
    }
}

/// What kept the run from being faster.
#[derive(Serialize)]
pub(crate) struct Bound<'a> {
    kind: &'static str,
    stage: &'static str,
    utilization: f64,
    confidence: f64,
    reason: &'a str,
    advice: Vec<Change<'a>>,
}

#[derive(Serialize)]
struct Change<'a> {
    option: &'a str,
    predicted_speedup: f64,
    predicted_size: f64,
}

impl<'a> From<&'a Bottleneck> for Bound<'a> {
    fn from(found: &'a Bottleneck) -> Self {
        let change = |advice: &'a Advice| Change {
            option: &advice.option,
            predicted_speedup: advice.predicted_speedup,
            predicted_size: advice.predicted_size,
        };
        Self {
            kind: found.kind.as_str(),
            stage: found.stage,
            utilization: found.utilization,
            confidence: found.confidence,
            reason: &found.reason,
            advice: found.advice.iter().map(change).collect(),
        }
    }
}

#[derive(Serialize)]
struct Stage {
    #[serde(flatten)]
    work: Done,
    utilization: f64,
    service_us: Times,
    wait_input_us: Times,
    wait_output_us: Times,
    wait_budget_us: Times,
    threads: Vec<Done>,
}

/// What one thread did, or several together.
#[derive(Serialize)]
struct Done {
    chunks: u64,
    chunks_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    busy_secs: f64,
    cpu_secs: f64,
    ready_secs: Option<f64>,
    wait_input_secs: f64,
    wait_output_secs: f64,
    wait_budget_secs: f64,
}

impl From<&StageReport> for Stage {
    fn from(stage: &StageReport) -> Self {
        Self {
            work: Done::from(&stage.work),
            utilization: stage.utilization,
            service_us: Times::from(&stage.service),
            wait_input_us: Times::from(&stage.input),
            wait_output_us: Times::from(&stage.output),
            wait_budget_us: Times::from(&stage.budget),
            threads: stage.threads.iter().map(Done::from).collect(),
        }
    }
}

impl From<&Work> for Done {
    fn from(work: &Work) -> Self {
        Self {
            chunks: work.chunks,
            chunks_out: work.chunks_out,
            bytes_in: work.bytes_in,
            bytes_out: work.bytes_out,
            busy_secs: work.busy.as_secs_f64(),
            cpu_secs: work.cpu.as_secs_f64(),
            ready_secs: work.ready.map(|ready| ready.as_secs_f64()),
            wait_input_secs: work.wait_input.as_secs_f64(),
            wait_output_secs: work.wait_output.as_secs_f64(),
            wait_budget_secs: work.wait_budget.as_secs_f64(),
        }
    }
}

/// Microseconds.
#[derive(Serialize)]
struct Times {
    count: u64,
    beyond_range: u64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl From<&Percentiles> for Times {
    fn from(times: &Percentiles) -> Self {
        Self {
            count: times.count,
            beyond_range: times.beyond_range,
            p50: micros(times.p50),
            p90: micros(times.p90),
            p99: micros(times.p99),
            p999: micros(times.p999),
            max: micros(times.max),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Failure<'a> {
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    kind: &'static str,
    message: &'a str,
}

impl<'a> From<&'a EntryError> for Failure<'a> {
    fn from(error: &'a EntryError) -> Self {
        Self {
            path: error.path.to_string_lossy(),
            path_bytes: path_bytes(&error.path),
            kind: error.kind.as_str(),
            message: &error.message,
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive; `as` saturates")]
pub(crate) fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::PathBuf;

    use flint_pipe::EntryErrorKind;
    use serde_json::{Value, json};

    use super::*;

    fn parsed(report: &Report, error: Option<String>) -> Value {
        let outcome = Outcome {
            command: "add",
            dry_run: false,
            vault: Path::new("a.flint"),
            exit_code: 3,
            error,
            report,
            with_timeline: false,
        };
        serde_json::from_str(&object(&outcome)).expect("it is JSON")
    }

    #[test]
    fn the_fields_are_those_of_the_contract_in_its_order() {
        let outcome = Outcome {
            command: "add",
            dry_run: false,
            vault: Path::new("a"),
            exit_code: 0,
            error: None,
            report: &Report::default(),
            with_timeline: false,
        };
        let text = object(&outcome);
        let mut last = 0;
        for field in [
            "schema_version",
            "command",
            "vault",
            "snapshot",
            "exit_code",
            "error",
            "total_files",
            "successful_files",
            "failed_files",
            "unchanged_files",
            "changed_files",
            "directories",
            "total_size",
            "stored_size",
            "duration_secs",
            "throughput_bytes_per_sec",
            "peak_memory_bytes",
            "workers",
            "bottleneck",
            "stages",
            "errors",
        ] {
            let at = text.find(&format!("\"{field}\":")).unwrap_or_else(|| panic!("{field} in {text}"));
            assert!(at > last || field == "schema_version", "{field} comes too early in {text}");
            last = at;
        }
        assert!(text.contains("\"bottleneck\":null"));
        assert!(text.ends_with("}\n"));
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn stages_keep_the_order_of_the_data_and_their_figures() {
        let mut report = Report::default();
        report.total_size = 3_000;
        report.duration = Duration::from_millis(1500);
        for (name, workers) in [("scan", 1), ("read", 2), ("compress", 8)] {
            let mut stage = StageReport::default();
            stage.name = name;
            stage.workers = workers;
            stage.work.busy = Duration::from_millis(400);
            stage.service.p50 = Duration::from_nanos(310_500);
            report.stages.push(stage);
        }
        let value = parsed(&report, None);
        assert_eq!(value["workers"], json!({"scan": 1, "read": 2, "compress": 8}));
        assert_eq!(value["stages"]["read"]["busy_secs"], json!(0.4));
        assert_eq!(value["stages"]["read"]["service_us"]["p50"], json!(310.5));
        assert_eq!(value["throughput_bytes_per_sec"], json!(2000));
        let text = object(&Outcome {
            command: "add",
            dry_run: false,
            vault: Path::new("a"),
            exit_code: 0,
            error: None,
            report: &report,
            with_timeline: false,
        });
        assert!(text.contains(r#""workers":{"scan":1,"read":2,"compress":8}"#), "{text}");
    }

    #[test]
    fn a_plan_is_there_where_the_report_has_one() {
        let mut report = Report::default();
        assert_eq!(parsed(&report, None)["plan"], Value::Null);
        let mut plan = PlanReport::default();
        plan.workers = vec![("scan", 1), ("read", 2)];
        plan.queue_depths = vec![("read", 4)];
        plan.chunk_size = 4 << 20;
        report.plan = Some(plan);
        let value = parsed(&report, None);
        assert_eq!(value["plan"]["workers"], json!({"scan": 1, "read": 2}));
        assert_eq!(value["plan"]["queue_depths"], json!({"read": 4}));
        assert_eq!(value["plan"]["chunk_size"], json!(4 << 20));
    }

    #[test]
    fn errors_carry_the_bytes_of_names_that_are_not_utf_8() {
        let mut report = Report::default();
        for name in [&b"data/locked"[..], b"a\xff\n"] {
            report.errors.push(EntryError {
                path: PathBuf::from(OsStr::from_bytes(name)),
                kind: EntryErrorKind::PermissionDenied,
                message: "cannot open: no".into(),
            });
        }
        let value = parsed(&report, Some("interrupted".into()));
        assert_eq!(value["error"], json!("interrupted"));
        assert_eq!(
            value["errors"][0],
            json!({"path": "data/locked", "kind": "permission_denied", "message": "cannot open: no"})
        );
        assert_eq!(value["errors"][1]["path_bytes"], json!("Yf8K"));
    }

    #[test]
    fn a_run_without_time_has_no_infinite_rate() {
        let value = parsed(&Report::default(), None);
        assert_eq!(value["throughput_bytes_per_sec"], json!(0));
        assert_eq!(value["snapshot"], Value::Null);
        assert_eq!(value["error"], Value::Null);
        assert_eq!(value.get("unreferenced_bytes"), None);
    }
}
