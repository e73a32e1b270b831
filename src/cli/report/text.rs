//! The result of a command for a person: a few lines, and a table of the stages.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use flint_pipe::{Bottleneck, Compaction, RecoveredSnapshot, Report, StageReport, format_rate, format_size};
use jiff::tz::TimeZone;

use crate::cli::report::{plan, wrapped};
use crate::cli::{escape, list};

/// What `add` did, or would do.
pub(crate) fn packed(vault: &Path, dry_run: bool, report: &Report) -> String {
    let vault = escape::path(vault);
    let (title, done) = match dry_run {
        true => (format!("would add to {vault}"), "would process"),
        false => (format!("added to {vault}"), "processed"),
    };
    let mut summary = Summary::new(&title, dry_run, report);
    summary.counts(done, report);
    summary.removed(report);
    summary.line("total size", &format_size(report.total_size));
    if !dry_run {
        summary.line("stored", &format!("{}{}", format_size(report.stored_size), ratio(report)));
    }
    summary.end(dry_run, report)
}

/// What `extract` or `get` did, or would do.
pub(crate) fn restored(vault: &Path, directory: &Path, dry_run: bool, report: &Report) -> String {
    let places = format!("from {} to {}", escape::path(vault), escape::path(directory));
    let (title, done) = match dry_run {
        true => (format!("would restore {places}"), "would restore"),
        false => (format!("restored {places}"), "restored"),
    };
    let mut summary = Summary::new(&title, dry_run, report);
    summary.counts(done, report);
    summary.line("total size", &format_size(report.total_size));
    if !dry_run {
        summary.line("read", &format!("{} of the vault", format_size(report.stored_size)));
    }
    summary.end(dry_run, report)
}

/// What `remove` did, or would do.
pub(crate) fn removed(vault: &Path, dry_run: bool, report: &Report) -> String {
    let vault = escape::path(vault);
    let title = if dry_run { format!("would remove from {vault}") } else { format!("removed from {vault}") };
    let mut summary = Summary::new(&title, dry_run, report);
    let files = count(report.removed_files, "file", "files");
    let directories = count(report.removed_directories, "directory", "directories");
    summary.line(if dry_run { "would remove" } else { "removed" }, &format!("{files}, {directories}"));
    summary.errors(report);
    if !dry_run {
        summary.line("space", "comes back with compact, once no kept snapshot has them");
        summary.line("duration", &seconds(report.duration));
    }
    summary.text
}

/// What `key add`, `key remove`, `key passwd` or `key import` did, or would do.
///
/// - `title`: as `added key 3 to v`.
/// - `lines`: what else there is to say.
pub(crate) fn keys_changed(title: &str, lines: &[(&str, String)], dry_run: bool) -> String {
    let mut summary = Summary::new(title, dry_run, &Report::default());
    lines.iter().for_each(|(name, value)| summary.text.push_str(&wrapped(name, value)));
    summary.text
}

/// What `verify` found, or would read.
pub(crate) fn verified(vault: &Path, quick: bool, dry_run: bool, report: &Report) -> String {
    let vault = escape::path(vault);
    let (title, done) = match dry_run {
        true => (format!("would verify {vault}"), "would check"),
        false => (format!("verified {vault}"), "checked"),
    };
    let mut summary = Summary::new(&title, dry_run, report);
    summary.counts(done, report);
    let depth = if quick { ", the structure alone" } else { "" };
    let read = format!("{} of the vault{depth}", format_size(report.stored_size));
    summary.line(if dry_run { "would read" } else { "read" }, &read);
    if let Some(bytes) = report.unreferenced_bytes {
        summary.line("unreferenced", &format_size(bytes));
    }
    let mut summary = Summary { text: summary.end(dry_run, report) };
    if !dry_run || !report.is_complete() {
        let result = match () {
            () if report.is_damaged() => "damaged: each damage is named above",
            () if !report.is_complete() => "not all could be read: each failure is named above",
            () => "ok",
        };
        summary.line("result", result);
    }
    if report.is_damaged() {
        summary.line("next", &format!("flint-pipe recover -v {vault} says what is left"));
    }
    summary.text
}

/// What `recover` is to do with what it finds.
pub(crate) enum Aim<'a> {
    /// Say it.
    Look,
    /// Mend the vault.
    Mend,
    /// Save it to this new vault.
    Save(&'a Path),
}

/// What `recover` found and did.
pub(crate) fn recovered(vault: &Path, aim: &Aim<'_>, dry_run: bool, report: &Report) -> String {
    let mut summary = Summary::new(&format!("looked through {}", escape::path(vault)), dry_run, report);
    let Some(recovery) = &report.recovery else { return summary.text };
    let name = |at: usize, name| if at == 0 { name } else { "" };
    for (at, found) in recovery.snapshots.iter().filter(|found| !found.beside).enumerate() {
        summary.line(name(at, "snapshots"), &snapshot_line(found));
    }
    for (at, found) in recovery.snapshots.iter().filter(|found| found.beside).enumerate() {
        summary.line(name(at, "unfinished"), &snapshot_line(found));
    }
    let faults = if recovery.mended { "mended" } else { "to mend" };
    for (at, fault) in recovery.faults.iter().enumerate() {
        summary.line(name(at, faults), fault);
    }
    let losses = count(u64::try_from(report.errors.len()).unwrap_or(u64::MAX), "loss", "losses");
    let lost = if report.is_complete() { "nothing is lost".to_owned() } else { format!("{losses}, each named above") };
    summary.line("lost", &lost);
    if let (Aim::Save(path), Some(bytes)) = (aim, recovery.saved_bytes) {
        summary.line("saved", &format!("{} to {}", format_size(bytes), escape::path(path)));
    }
    summary.line("duration", &seconds(report.duration));
    let hint = match aim {
        Aim::Look if !recovery.faults.is_empty() => {
            "--in-place mends what can be mended, --output NEW saves what is left"
        }
        Aim::Look if !report.is_complete() => "--output NEW saves what is left",
        _ => return summary.text,
    };
    summary.line("next", hint);
    summary.text
}

/// What `compact` did, or would do.
pub(crate) fn compacted(vault: &Path, dry_run: bool, report: &Report) -> String {
    let done = if dry_run { "would compact" } else { "compacted" };
    let mut summary = Summary::new(&format!("{done} {}", escape::path(vault)), dry_run, report);
    if let Some(compaction) = &report.compaction {
        summary.line("kept", &ranges(&compaction.kept));
        summary.line("dropped", &ranges(&compaction.dropped));
        summary.file(compaction, dry_run);
        let repacked = match compaction.repacked_records {
            0 => String::new(),
            records => format!(
                ", {records} of {} packed anew since less than half of each was needed",
                format_size(compaction.repacked_bytes)
            ),
        };
        summary.line("records", &format!("{} moved{repacked}", compaction.moved_records));
    }
    summary.end(dry_run, report)
}

/// What `rekey` did, or would do.
pub(crate) fn rekeyed(vault: &Path, dry_run: bool, report: &Report) -> String {
    let done = if dry_run { "would give" } else { "gave" };
    let mut summary = Summary::new(&format!("{done} {} a new master key", escape::path(vault)), dry_run, report);
    if let Some(compaction) = &report.compaction {
        summary.line("snapshots", &ranges(&compaction.kept));
        summary.file(compaction, dry_run);
        summary.line("records", &format!("{} sealed anew", compaction.moved_records));
        summary.line("older copies", "of the file open as before, with the old passwords");
    }
    summary.end(dry_run, report)
}

/// Numbers as people write them: `3, 7 to 12`; of many, the first and the last few.
fn ranges(numbers: &[u64]) -> String {
    const MOST_SHOWN: usize = 8;
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let one =
        |&(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first} to {last}") };
    let mut words: Vec<String> = ranges.iter().map(one).collect();
    if words.len() > MOST_SHOWN {
        let left_out = words.len() - MOST_SHOWN;
        words.splice(MOST_SHOWN / 2..MOST_SHOWN / 2 + left_out, ["...".to_owned()]);
    }
    match numbers.len() {
        0 => "none".to_owned(),
        count => format!("{} ({})", words.join(", "), count_of(count)),
    }
}

fn count_of(snapshots: usize) -> String {
    count(u64::try_from(snapshots).unwrap_or(u64::MAX), "snapshot", "snapshots")
}

/// A snapshot in a line: number, time, what is lost of it, where it stands.
fn snapshot_line(found: &RecoveredSnapshot) -> String {
    let mut line = format!("{:>4}  {}  ", found.number, list::local(found.time, &TimeZone::system()));
    line.push_str(&match (found.whole, found.lost_entries) {
        (true, _) => "whole".to_owned(),
        (false, 0) => "not whole".to_owned(),
        (false, lost) => format!("{} lost", count(lost, "name", "names")),
    });
    let marks = [
        (found.newest, "newest"),
        (found.recovered && !found.beside, "recovered"),
        (found.without_commit, "its commit record is lost"),
        (found.one_run, "what one run had stored alone"),
    ];
    for (_, mark) in marks.iter().filter(|(is_so, _)| *is_so) {
        line.push_str(", ");
        line.push_str(mark);
    }
    line
}

/// The lines as they come together.
struct Summary {
    text: String,
}

impl Summary {
    /// - `title`: what was done to what; the snapshot is added.
    fn new(title: &str, dry_run: bool, report: &Report) -> Self {
        let snapshot = report.snapshot.map(|number| format!(", snapshot {number}")).unwrap_or_default();
        let nothing = if dry_run { " (dry run: nothing is written)" } else { "" };
        Self { text: format!("{title}{snapshot}{nothing}\n") }
    }

    fn line(&mut self, name: &str, value: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "  {name:<13} {value}");
    }

    fn counts(&mut self, done: &str, report: &Report) {
        let files = count(report.successful_files, "file", "files");
        let directories = count(report.directories, "directory", "directories");
        self.line(done, &format!("{files}, {directories}"));
        if report.unchanged_files > 0 {
            self.line("unchanged", &format!("{} of these, left as they were", report.unchanged_files));
        }
        let failed = count(report.failed_files, "file", "files");
        match report.changed_files {
            0 => self.line("failed", &failed),
            changed => self.line("failed", &format!("{failed}, {changed} of them stored while changing")),
        }
        self.errors(report);
    }

    /// Directories and missing sources count as no file, and would go unnoticed among those.
    fn errors(&mut self, report: &Report) {
        let errors = u64::try_from(report.errors.len()).unwrap_or(u64::MAX);
        if errors > report.failed_files {
            self.line("errors", &errors.to_string());
        }
    }

    /// What `--mirror` took out of the snapshot.
    fn removed(&mut self, report: &Report) {
        if report.removed_files + report.removed_directories > 0 {
            let files = count(report.removed_files, "file", "files");
            let directories = count(report.removed_directories, "directory", "directories");
            self.line("removed", &format!("{files}, {directories}, gone from the sources"));
        }
    }

    /// The lengths of the old and the new file; before that is written, an estimate.
    fn file(&mut self, compaction: &Compaction, dry_run: bool) {
        let Compaction { bytes_before, bytes_after, .. } = *compaction;
        let change = match bytes_before.cmp(&bytes_after) {
            Ordering::Equal => "as before".to_owned(),
            Ordering::Greater => format!("{} less", format_size(bytes_before - bytes_after)),
            Ordering::Less => format!("{} more", format_size(bytes_after - bytes_before)),
        };
        let about = if dry_run { "about " } else { "" };
        self.line("file", &format!("{} to {about}{}, {change}", format_size(bytes_before), format_size(bytes_after)));
    }

    /// What it took, or the plan of what would be done.
    fn end(mut self, dry_run: bool, report: &Report) -> String {
        match &report.plan {
            _ if !dry_run => self.performance(report),
            Some(plan) => self.text.push_str(&plan::table(plan)),
            None => {}
        }
        self.text
    }

    fn performance(&mut self, report: &Report) {
        self.line("duration", &seconds(report.duration));
        self.line("speed", &format_rate(report.throughput_bytes_per_sec()));
        if report.peak_memory_bytes > 0 {
            self.line("peak memory", &format_size(report.peak_memory_bytes));
        }
        if report.stages.is_empty() {
            return;
        }
        let workers: Vec<String> =
            report.stages.iter().map(|stage| format!("{} {}", stage.name, stage.workers)).collect();
        self.line("workers", &workers.join(", "));
        self.text.push_str(&stage_table(&report.stages, report.cores));
        for (stage, words) in &report.learnt {
            self.text.push_str(&wrapped("learnt", &format!("{stage}: {words}")));
        }
        if let Some(found) = &report.bottleneck {
            self.text.push_str(&verdict(found));
        }
    }
}

/// What each stage did, summed over its workers: how busy it was and what it waited for, how fast it was while it
/// worked, and how long it took for one item; 80 columns.
pub(crate) fn stage_table(stages: &[StageReport], cores: usize) -> String {
    let mut text = format!(
        "\n  {:<10} {:>4} {:>4} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}\n",
        "stage", "thr", "util", "wait<", "wait>", "waitM", "MiB/s", "p50", "p90", "p99", "max"
    );
    for stage in stages {
        let bytes = stage.work.bytes_in.max(stage.work.bytes_out);
        let busy = stage.work.busy.as_secs_f64();
        // Threads that work on a core do so side by side only as far as there are cores.
        let on_cores = stage.blocked() * 2 < stage.work.busy;
        let at_once = if on_cores { stage.workers.min(cores.max(1)) } else { stage.workers };
        let rate = if bytes > 0 && busy > 0.0 {
            format!("{:.0}", bytes as f64 / busy * at_once as f64 / f64::from(1 << 20))
        } else {
            "-".to_owned()
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {:<10} {:>4} {:>3.0}% {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}",
            stage.name,
            stage.workers,
            stage.utilization * 100.0,
            brief(stage.work.wait_input),
            brief(stage.work.wait_output),
            brief(stage.work.wait_budget),
            rate,
            brief(stage.service.p50),
            brief(stage.service.p90),
            brief(stage.service.p99),
            brief(stage.service.max),
        );
    }
    text.push('\n');
    text
}

/// What bounded the run, in lines of at most 80 columns.
pub(crate) fn verdict(found: &Bottleneck) -> String {
    wrapped("bounded by", &format!("{found}."))
}

/// ` (76.8% of that)`, or nothing where there is no size to compare with, or so little that the names outweigh it.
pub(crate) fn ratio(report: &Report) -> String {
    let ratio = report.stored_size as f64 / report.total_size as f64;
    if ratio.is_finite() && ratio < 10.0 { format!(" ({:.1}% of that)", ratio * 100.0) } else { String::new() }
}

pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Seconds to the hundredth while that says something.
pub(crate) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1000.0 { format!("{seconds:.2} s") } else { format!("{seconds:.0} s") }
}

/// A time in six columns at most, in the unit that suits it.
pub(crate) fn brief(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        0.0 => "0".to_owned(),
        _ if seconds < 1e-6 => format!("{:.0}ns", seconds * 1e9),
        _ if seconds < 1e-3 => format!("{:.0}us", seconds * 1e6),
        _ if seconds < 0.09995 => format!("{:.1}ms", seconds * 1e3),
        _ if seconds < 0.9995 => format!("{:.0}ms", seconds * 1e3),
        _ if seconds < 99.95 => format!("{seconds:.1}s"),
        _ if seconds < 99_999.5 => format!("{seconds:.0}s"),
        _ => format!("{:.0}h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use flint_pipe::{EntryError, EntryErrorKind};

    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.snapshot = Some(3);
        report.total_files = 246;
        report.successful_files = 245;
        report.failed_files = 1;
        report.directories = 1;
        report.total_size = 1000;
        report.stored_size = 768;
        report.duration = Duration::from_secs(2);
        for name in ["scan", "decompress"] {
            let mut stage = StageReport::default();
            stage.name = name;
            stage.workers = 1024;
            stage.utilization = 1.0;
            stage.work.busy = Duration::from_secs(9_999_999);
            stage.service.p99 = Duration::from_secs(999);
            report.stages.push(stage);
        }
        report
    }

    #[test]
    fn a_summary_names_what_was_done() {
        let text = packed(Path::new("a\n.flint"), false, &report());
        for part in [
            "added to a\\x0a.flint, snapshot 3\n",
            "245 files, 1 directory\n",
            "failed        1 file\n",
            "(76.8% of that)",
            "duration      2.00 s\n",
            "workers       scan 1024, decompress 1024\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_summary_fits_80_columns_and_its_table_is_aligned() {
        let text = packed(Path::new("a.flint"), false, &report());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let widths: Vec<usize> =
            text.lines().skip_while(|line| !line.starts_with("  stage")).map(|line| line.chars().count()).collect();
        assert_eq!(widths[0], widths[1], "{text}");
        assert_eq!(widths[1], widths[2], "{text}");
    }

    #[test]
    fn a_dry_run_says_what_would_be_done_and_with_what() {
        let mut report = report();
        report.plan = Some(flint_pipe::PlanReport::default());
        report.removed_files = 2;
        for text in [
            packed(Path::new("v"), true, &report),
            restored(Path::new("v"), Path::new("out"), true, &report),
            removed(Path::new("v"), true, &report),
        ] {
            assert!(text.starts_with("would ") && text.contains("(dry run: nothing is written)\n"), "{text}");
            assert!(!text.contains("duration") && text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
        assert!(packed(Path::new("v"), true, &report).contains("peak memory"));
        assert!(packed(Path::new("v"), false, &report).contains("removed       2 files, 0 directories"));
        assert!(removed(Path::new("v"), false, &report).contains("removed       2 files, 0 directories"));
    }

    #[test]
    fn verify_says_whether_it_is_well() {
        let mut found = Report::default();
        found.unreferenced_bytes = Some(0);
        let vault = Path::new("a.flint");
        assert!(verified(vault, false, false, &found).ends_with("result        ok\n"));
        assert!(verified(vault, true, false, &found).contains("the structure alone"));
        let error = |kind| EntryError { path: "a".into(), kind, message: "cannot read: why".into() };
        found.errors.push(error(EntryErrorKind::Io));
        assert!(verified(vault, false, false, &found).contains("result        not all"));
        found.errors.push(error(EntryErrorKind::Damaged));
        assert!(verified(vault, false, false, &found).contains("result        damaged"));
    }

    #[test]
    fn times_have_a_unit_that_suits_them() {
        for (nanos, shown) in [
            (0, "0"),
            (40, "40ns"),
            (999_400, "999us"),
            (1_500_000, "1.5ms"),
            (99_960_000, "100ms"),
            (999_600_000, "1.0s"),
            (99_960_000_000, "100s"),
            (86_400_000_000_000, "86400s"),
            (360_000_000_000_000, "100h"),
        ] {
            assert_eq!(brief(Duration::from_nanos(nanos)), shown);
            assert!(brief(Duration::from_nanos(nanos)).len() <= 6);
        }
        assert_eq!(seconds(Duration::from_secs(1000)), "1000 s");
    }

    #[test]
    fn a_verdict_stands_below_the_table_in_lines_that_fit() {
        let mut report = report();
        assert!(!packed(Path::new("a"), false, &report).contains("bounded by"));
        report.bottleneck = Some(Bottleneck::default());
        let found = report.bottleneck.as_mut().expect("just put there");
        found.confidence = 1.0;
        found.reason = "compressing was the bound: its one thread was busy 97 % of the time, and so on".to_owned();
        let text = packed(Path::new("a"), false, &report);
        let lines: Vec<&str> = text.lines().skip_while(|line| !line.contains("bounded by")).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("  bounded by    compressing was the bound: its"), "{text}");
        assert!(lines[1].starts_with("                ") && lines[1].ends_with("and so on."), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn nothing_is_divided_by_an_empty_run() {
        let text = packed(Path::new("a"), false, &Report::default());
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}
