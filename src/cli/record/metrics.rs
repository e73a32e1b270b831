//! `--metrics`: the run in Prometheus' text format, for node_exporter's textfile collector.

use std::fmt::{Display, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::escape;
use crate::cli::exit::Status;
use crate::cli::record::Ended;

/// When a run with these labels last ended with exit code 0; what a run that failed takes over from the file before it.
const LAST_SUCCESS: &str = "flint_pipe_last_success_timestamp_seconds";

/// The metrics as text.
///
/// - `before`: what is in the file, of which the last success is kept;
/// - `now`: when the run ended.
pub(crate) fn text(ended: &Ended<'_>, before: &str, now: SystemTime) -> String {
    let report = ended.report;
    let now = now.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    // The same file has one name, wherever it is called from.
    let place = std::fs::canonicalize(ended.place).or_else(|_| std::path::absolute(ended.place));
    let place = place.unwrap_or_else(|_| ended.place.to_owned());
    let labels = format!("command=\"{}\",vault=\"{}\"", ended.command, escaped(&escape::path(&place)));
    let mut metrics = Metrics { text: String::new(), labels };
    let last_success = match ended.status {
        Status::Done => Some(now),
        _ => metrics.last_success(before),
    };
    metrics.gauge("last_run_timestamp_seconds", "When the last run ended.", now);
    if let Some(last_success) = last_success {
        metrics.gauge("last_success_timestamp_seconds", "When a run last ended with exit code 0.", last_success);
    }
    metrics.gauge("exit_code", "How it ended: 0 all done, 3 some files failed.", ended.status.code());
    metrics.gauge("duration_seconds", "How long it took.", report.duration.as_secs_f64());
    metrics.gauge("content_bytes", "Bytes of file content handled.", report.total_size);
    metrics.gauge("vault_bytes", "Bytes written to the vault, or read from it.", report.stored_size);
    metrics.gauge("throughput_bytes_per_second", "Content a second.", report.throughput_bytes_per_sec());
    metrics.gauge("peak_memory_bytes", "The process's peak of resident memory.", report.peak_memory_bytes);
    metrics.family("files", "gauge", "Entries but directories, by what became of them.");
    for (state, files) in [
        ("successful", report.successful_files),
        ("failed", report.failed_files),
        ("unchanged", report.unchanged_files),
        ("changed", report.changed_files),
        ("removed", report.removed_files),
    ] {
        metrics.sample("files", &format!("state=\"{state}\""), files);
    }
    metrics.gauge("directories", "Directories handled.", report.directories);
    metrics.gauge("errors", "Everything that failed, missing sources and directories too.", report.errors.len());
    if report.stages.is_empty() {
        return metrics.text;
    }
    metrics.family("stage_workers", "gauge", "Threads of each stage.");
    for stage in &report.stages {
        metrics.sample("stage_workers", &of(stage.name), stage.workers);
    }
    metrics.family("stage_busy_seconds", "gauge", "Time of all its threads in a stage's own work.");
    for stage in &report.stages {
        metrics.sample("stage_busy_seconds", &of(stage.name), stage.work.busy.as_secs_f64());
    }
    metrics.family("stage_wait_seconds", "gauge", "Time of all its threads waiting, by what for.");
    for stage in &report.stages {
        let work = &stage.work;
        for (what, time) in [("input", work.wait_input), ("output", work.wait_output), ("memory", work.wait_budget)] {
            let labels = format!("{},for=\"{what}\"", of(stage.name));
            metrics.sample("stage_wait_seconds", &labels, time.as_secs_f64());
        }
    }
    metrics.family("stage_service_seconds", "summary", "A stage's own work on one item.");
    for stage in &report.stages {
        for (quantile, time) in [("0.5", stage.service.p50), ("0.99", stage.service.p99)] {
            let labels = format!("{},quantile=\"{quantile}\"", of(stage.name));
            metrics.sample("stage_service_seconds", &labels, time.as_secs_f64());
        }
        metrics.sample("stage_service_seconds_sum", &of(stage.name), stage.work.busy.as_secs_f64());
        metrics.sample("stage_service_seconds_count", &of(stage.name), stage.service.count);
    }
    metrics.text
}

fn of(stage: &str) -> String {
    format!("stage=\"{stage}\"")
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The text as it comes together.
struct Metrics {
    text: String,
    /// Those that every sample has.
    labels: String,
}

impl Metrics {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP flint_pipe_{name} {help}\n# TYPE flint_pipe_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let (own, comma) = (&self.labels, if labels.is_empty() { "" } else { "," });
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "flint_pipe_{name}{{{own}{comma}{labels}}} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, "", value);
    }

    /// The last success that `before` tells of, of the same command and vault.
    fn last_success(&self, before: &str) -> Option<f64> {
        let begin = format!("{LAST_SUCCESS}{{{}}} ", self.labels);
        before.lines().find_map(|line| line.strip_prefix(begin.as_str())?.trim().parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use flint_pipe::Report;

    use super::*;

    fn run(status: Status, before: &str, at: u64) -> String {
        let report = Report::default();
        let (error, json, text_of) = (None, String::new(), String::new());
        let place = Path::new("/nowhere/a\"b\\c\nd.flint");
        let ended = Ended { command: "add", place, status, error, report: &report, profile: None, json, text: text_of };
        text(&ended, before, UNIX_EPOCH + Duration::from_secs(at))
    }

    #[test]
    fn a_failed_run_remembers_the_last_success_of_the_same_vault() {
        let success = |text: &str| text.lines().find(|line| line.starts_with(LAST_SUCCESS)).map(str::to_owned);
        let none = run(Status::Locked, "", 50);
        assert_eq!(success(&none), None, "there has been none");
        let first = run(Status::Done, &none, 100);
        let line = "flint_pipe_last_success_timestamp_seconds{command=\"add\",vault=\"/nowhere/a\\\"b\\\\c\\\\x0ad.flint\"} 100";
        assert_eq!(success(&first).as_deref(), Some(line));
        let failed = run(Status::Incomplete, &first, 200);
        assert_eq!(success(&failed).as_deref(), Some(line));
        assert!(failed.contains("flint_pipe_last_run_timestamp_seconds{") && failed.contains("} 200\n"));
        assert!(failed.contains("flint_pipe_exit_code{") && failed.contains("} 3\n"));
        assert_eq!(success(&run(Status::Failed, &first.replace("a\\\"b", "other"), 200)), None, "another vault's");
    }
}
