//! A profile beside an older one that was saved: what has changed, and whether it is too slow now.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flint_pipe::{Error, FileOp, Profile, Report, format_rate, format_size};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::args::typed_level;
use crate::cli::escape;
use crate::cli::report::json::whole;
use crate::cli::report::profile_json::{self, Asked, KIND, SCHEMA_VERSION};
use crate::cli::report::text::{brief, seconds};
use crate::cli::report::wrapped;

/// No figure of a profile is larger: seconds, or microseconds, of some years.
const MAX_FIGURE: f64 = 1e14;
/// The longest saved profile that is read, in bytes: many times what one has.
const MAX_FILE_LEN: u64 = 16 << 20;
/// From this share on, other sizes are other data.
const SAME_SIZE: f64 = 0.01;

/// A profile that was saved.
#[derive(Debug)]
pub(crate) struct Baseline {
    path: PathBuf,
    saved: Saved,
    median: Median,
}

/// What tells whether the rest can be read.
#[derive(Deserialize)]
struct Head {
    schema_version: Option<u64>,
    kind: Option<String>,
}

/// The fields that are used; docs/JSON.md has all of them.
#[derive(Debug, Deserialize)]
struct Saved {
    unpack: bool,
    machine: Machine,
    config: Config,
    median: Option<Median>,
}

#[derive(Debug, Deserialize)]
struct Machine {
    cores: u64,
}

#[derive(Debug, Deserialize)]
struct Config {
    level: Option<String>,
    cold: bool,
    to: Option<String>,
    /// What else was asked for, as [`profile_json::asked_for`] has it; of an object without it nothing is said.
    #[serde(flatten)]
    asked: BTreeMap<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Median {
    total_size: u64,
    duration_secs: f64,
    throughput_bytes_per_sec: u64,
    stages: BTreeMap<String, Stage>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
struct Stage {
    cpu_secs: f64,
    utilization: f64,
    service_us: Times,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
struct Times {
    p50: f64,
    p99: f64,
}

impl Baseline {
    /// Reads a saved profile that the one which is about to be measured can be held against.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Usage`] if it is no such profile, with what it is instead.
    pub(crate) fn read(path: &Path, unpack: bool) -> Result<Self, Error> {
        let bytes = contents(path)?;
        let refused = |why: &str| Error::Usage(format!("cannot compare with: {}: {why}", escape::path(path)));
        let broken = |error: &serde_json::Error| {
            refused(&format!("it is no saved profile: {}", escape::text(&error.to_string())))
        };
        let head: Head = serde_json::from_slice(&bytes).map_err(|error| broken(&error))?;
        if head.kind.as_deref() != Some(KIND) {
            return Err(refused("it is no saved profile: its kind is another"));
        }
        match head.schema_version {
            Some(version) if version == u64::from(SCHEMA_VERSION) => {}
            Some(version) => {
                return Err(refused(&format!(
                    "its schema_version is {version}, and {SCHEMA_VERSION} is what is known here"
                )));
            }
            None => return Err(refused("it is no saved profile: it has no schema_version")),
        }
        let mut saved: Saved = serde_json::from_slice(&bytes).map_err(|error| broken(&error))?;
        if saved.unpack != unpack {
            let way = if saved.unpack { "out of a vault" } else { "into a vault" };
            return Err(refused(&format!("it is one of the way {way}")));
        }
        let measured = saved.median.take().filter(|median| median.throughput_bytes_per_sec > 0);
        let median = measured.ok_or_else(|| refused("nothing was measured in it"))?;
        let figure = |value: f64| value.is_finite() && (0.0..=MAX_FIGURE).contains(&value);
        let is_possible = |stage: &Stage| {
            (0.0..=1.0).contains(&stage.utilization)
                && [stage.cpu_secs, stage.service_us.p50, stage.service_us.p99].into_iter().all(figure)
        };
        if !figure(median.duration_secs) || !median.stages.values().all(is_possible) {
            return Err(refused("its figures cannot be"));
        }
        Ok(Self { path: path.to_owned(), saved, median })
    }
}

fn contents(path: &Path) -> Result<Vec<u8>, Error> {
    #[expect(clippy::disallowed_methods, reason = "the path and the operation are put into the error here")]
    let file = File::open(path).map_err(|error| Error::io(FileOp::Open, path, error))?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes);
    read.map_err(|error: io::Error| Error::io(FileOp::Read, path, error))?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        let why = "it has more than 16 MiB, and is hardly a saved profile";
        return Err(Error::Usage(format!("cannot compare with: {}: {why}", escape::path(path))));
    }
    Ok(bytes)
}

/// Two profiles side by side.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// Where the older one was saved.
    pub(crate) path: PathBuf,
    /// Bytes a second, as saved.
    pub(crate) throughput_then: u64,
    /// Bytes a second.
    throughput_now: f64,
    /// How much slower is too slow, as a share.
    pub(crate) threshold: f64,
    /// What makes the figures those of something else, in words.
    pub(crate) differences: Vec<String>,
    rows: Vec<Row>,
}

/// A figure of both.
#[derive(Debug)]
struct Row {
    stage: &'static str,
    name: &'static str,
    then: Option<f64>,
    now: f64,
    shown: fn(f64) -> String,
}

impl Comparison {
    /// `None` if nothing was measured now.
    ///
    /// - `threshold`: how much slower is too slow, as a share.
    /// - `cores`: what the profile counted with.
    pub(crate) fn of(baseline: Baseline, asked: &Asked, profile: &Profile, threshold: f64) -> Option<Self> {
        let report = profile.median()?;
        let Baseline { path, saved, median: then } = baseline;
        let mut rows = vec![
            Row {
                stage: "all",
                name: "speed",
                then: Some(then.throughput_bytes_per_sec as f64),
                now: report.throughput_bytes_per_sec(),
                shown: format_rate,
            },
            Row {
                stage: "",
                name: "duration",
                then: Some(then.duration_secs),
                now: report.duration.as_secs_f64(),
                shown: |secs| seconds(time(secs)),
            },
            Row {
                stage: "",
                name: "content",
                then: Some(then.total_size as f64),
                now: report.total_size as f64,
                shown: |bytes| format_size(whole(bytes)),
            },
        ];
        for stage in &report.stages {
            let before = then.stages.get(stage.name);
            let micros = |time: Duration| time.as_secs_f64() * 1e6;
            let mut row = |name, then: Option<f64>, now, shown| {
                let stage = if name == "busy" { stage.name } else { "" };
                rows.push(Row { stage, name, then, now, shown });
            };
            row("busy", before.map(|stage| stage.utilization), stage.utilization, |share| {
                format!("{:.0} %", share * 100.0)
            });
            row(
                "CPU s/GiB",
                before.map(|stage| per_gib(stage.cpu_secs, then.total_size)),
                per_gib(stage.work.cpu.as_secs_f64(), report.total_size),
                |secs| format!("{secs:.3}"),
            );
            let shown: fn(f64) -> String = |us| brief(time(us / 1e6));
            row("p50", before.map(|stage| stage.service_us.p50), micros(stage.service.p50), shown);
            row("p99", before.map(|stage| stage.service_us.p99), micros(stage.service.p99), shown);
        }
        let differences = differences(&saved, &then, asked, report);
        let throughput_then = then.throughput_bytes_per_sec;
        let throughput_now = report.throughput_bytes_per_sec();
        Some(Self { path, throughput_then, throughput_now, threshold, differences, rows })
    }

    /// How much faster it is now, as a share of what it was; below 0 if it is slower.
    pub(crate) fn throughput_change(&self) -> f64 {
        self.throughput_now / self.throughput_then as f64 - 1.0
    }

    /// Whether it is slower now by more than the threshold.
    pub(crate) fn is_slower(&self) -> bool {
        self.throughput_change() < -self.threshold
    }

    /// What there is to complain of, if it is slower by more than the threshold; for programs, so nothing is escaped.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.is_slower().then(|| {
            format!(
                "slower than a saved profile: {}: {} is {:.1} % less than {}, and --threshold allows {} %",
                self.path.display(),
                format_rate(self.throughput_now),
                -self.throughput_change() * 100.0,
                format_rate(self.throughput_then as f64),
                percent(self.threshold),
            )
        })
    }

    /// Both side by side; 80 columns.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("\ncompared with {}\n", escape::path(&self.path));
        for difference in &self.differences {
            text.push_str(&wrapped("not the same", &escape::text(difference)));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n  {:<10} {:<9} {:>14} {:>14} {:>9}", "stage", "figure", "then", "now", "change");
        for row in &self.rows {
            let then = row.then.map_or_else(|| "-".to_owned(), row.shown);
            let now = (row.shown)(row.now);
            let _ = writeln!(text, "  {:<10} {:<9} {then:>14} {now:>14} {:>9}", row.stage, row.name, row.change());
        }
        text
    }
}

impl Row {
    fn change(&self) -> String {
        let Some(then) = self.then.filter(|&then| then > 0.0) else { return "-".to_owned() };
        let change = (self.now / then - 1.0) * 100.0;
        match change {
            _ if change.abs() < 0.05 => "0.0 %".to_owned(),
            _ if change < 9999.5 => format!("{change:+.1} %"),
            _ => "> 9999 %".to_owned(),
        }
    }
}

/// What makes the figures those of something else, in words.
fn differences(saved: &Saved, then: &Median, asked: &Asked, report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, then: &str, now: &str| {
        if then != now {
            found.push(format!("{what}: {then} then, {now} now"));
        }
    };
    if let (false, Some(level)) = (asked.unpack, &saved.config.level) {
        differ("level", level, &typed_level(asked.level));
    }
    let cache = |cold: bool| if cold { "cold" } else { "warm" };
    differ("cache", cache(saved.config.cold), cache(asked.cold));
    let output = |is_written: bool| if is_written { "onto a disk" } else { "into nothing" };
    differ("output", output(saved.config.to.is_some()), output(asked.to.is_some()));
    for (what, now) in profile_json::asked_for(asked) {
        if let Some(then) = saved.config.asked.get(what) {
            differ(what, &brief_value(then), &brief_value(&now));
        }
    }
    differ("cores", &saved.machine.cores.to_string(), &report.cores.to_string());
    let larger = then.total_size.max(report.total_size) as f64;
    if then.total_size.abs_diff(report.total_size) as f64 > larger * SAME_SIZE {
        // Two sizes that are shown alike may differ by so much all the same.
        let sizes = [then.total_size, report.total_size].map(|size| format!("{} ({size} B)", format_size(size)));
        differ("content", &sizes[0], &sizes[1]);
    }
    found
}

/// What was asked for, in a few words; from a file that anybody may have written.
fn brief_value(value: &Value) -> String {
    let text = match value {
        Value::Null => "auto".to_owned(),
        Value::Object(map) if map.is_empty() => "auto".to_owned(),
        value => value.to_string(),
    };
    escape::text(&text.chars().take(80).collect::<String>())
}

/// Seconds for a GiB of so many bytes.
fn per_gib(secs: f64, bytes: u64) -> f64 {
    if bytes > 0 { secs / bytes as f64 * f64::from(1 << 30) } else { 0.0 }
}

/// A time from a file that anybody may have written: what is none counts as none.
fn time(secs: f64) -> Duration {
    Duration::try_from_secs_f64(secs).unwrap_or_default()
}

/// A share as a percentage without needless digits.
fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

#[cfg(test)]
mod tests {
    use flint_pipe::StageReport;
    use serde_json::{Value, json};

    use super::*;
    use crate::cli::report::profile_json::{Outcome, object};

    /// A profile of one round of 64 MiB.
    fn profile(millis: u64) -> Profile {
        let mut round = Report::default();
        round.total_size = 64 << 20;
        round.duration = Duration::from_millis(millis);
        round.cores = 2;
        for name in ["read", "decompress"] {
            let mut stage = StageReport::default();
            stage.name = name;
            stage.utilization = 0.5;
            stage.work.cpu = Duration::from_millis(millis);
            stage.service.p50 = Duration::from_micros(300);
            stage.service.p99 = Duration::from_secs(9_999_999);
            round.stages.push(stage);
        }
        let mut profile = Profile::default();
        profile.rounds.push(round);
        profile
    }

    fn saved(profile: &Profile) -> Value {
        let outcome = Outcome { asked: &Asked::plain(), exit_code: 0, error: None, profile, comparison: None };
        serde_json::from_str(&object(&outcome)).expect("it is JSON")
    }

    fn read(text: &str) -> Result<Baseline, Error> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("base.json");
        std::fs::write(&path, text).expect("a small file");
        Baseline::read(&path, false)
    }

    fn compared(then: &Value, now: &Profile) -> Comparison {
        let mut baseline = read(&then.to_string()).expect("it is a saved profile");
        baseline.path = "base.json".into();
        Comparison::of(baseline, &Asked::plain(), now, 0.1).expect("something was measured")
    }

    #[test]
    fn what_is_no_saved_profile_is_refused_with_what_it_is() {
        let good = saved(&profile(1000));
        let with = |change: &dyn Fn(&mut Value)| {
            let mut changed = good.clone();
            change(&mut changed);
            changed.to_string()
        };
        for (text, words) in [
            ("not JSON".to_owned(), "it is no saved profile: expected"),
            (String::new(), "it is no saved profile: EOF"),
            ("[".repeat(100_000), "it is no saved profile: "),
            ("{}".to_owned(), "its kind is another"),
            (with(&|o| o["kind"] = json!("result")), "its kind is another"),
            (with(&|o| o["schema_version"] = json!(2)), "its schema_version is 2, and 1 is what is known here"),
            (with(&|o| o["schema_version"] = Value::Null), "it has no schema_version"),
            (with(&|o| o["unpack"] = json!(true)), "it is one of the way out of a vault"),
            (with(&|o| o["median"] = Value::Null), "nothing was measured in it"),
            (with(&|o| o["median"]["throughput_bytes_per_sec"] = json!(0)), "nothing was measured in it"),
            (with(&|o| o["machine"] = json!("\u{1b}[2J")), "it is no saved profile: invalid type"),
            (with(&|o| o["median"]["stages"]["read"]["utilization"] = json!(-1e300)), "its figures cannot be"),
            (with(&|o| o["median"]["duration_secs"] = json!(1e308)), "its figures cannot be"),
            (" ".repeat(17 << 20), "more than 16 MiB"),
        ] {
            let error = read(&text).expect_err(words);
            assert!(matches!(error, Error::Usage(_)));
            let said = error.to_string();
            assert!(said.starts_with("cannot compare with: ") && said.contains(words), "{said}");
            assert!(!said.contains('\u{1b}'), "{said}");
        }
        assert!(matches!(Baseline::read(Path::new("no/such/file"), false), Err(Error::Io { .. })));
    }

    #[test]
    fn fields_that_a_later_version_adds_are_passed_over() {
        let mut later = saved(&profile(1000));
        later["machine"]["model"] = json!("new");
        assert!(read(&later.to_string()).is_ok());
    }

    #[test]
    fn slower_by_more_than_the_threshold_is_a_complaint_and_by_less_is_none() {
        let then = saved(&profile(1000));
        for (millis, slower) in [(500, false), (1000, false), (1100, false), (1112, true), (3000, true)] {
            let comparison = compared(&then, &profile(millis));
            assert_eq!(comparison.is_slower(), slower, "{millis}");
            assert_eq!(comparison.complaint().is_some(), slower, "{millis}");
        }
        let complaint = compared(&then, &profile(2000)).complaint().expect("it is slower");
        let words = "slower than a saved profile: base.json: 32 MiB/s is 50.0 % less than 64 MiB/s, and --threshold allows 10 %";
        assert_eq!(complaint, words);
    }

    #[test]
    fn the_table_is_aligned_and_has_what_has_changed_in_percent() {
        let text = compared(&saved(&profile(1000)), &profile(1250)).table();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "compared with base.json");
        assert_eq!(lines[2], "");
        assert!(lines[3..].iter().all(|line| line.chars().count() == 62), "{text}");
        for line in [
            "  all        speed           64 MiB/s     51.2 MiB/s   -20.0 %",
            "             duration          1.00 s         1.25 s   +25.0 %",
            "             content           64 MiB         64 MiB     0.0 %",
            "  decompress busy                50 %           50 %     0.0 %",
            "             CPU s/GiB         16.000         20.000   +25.0 %",
            "             p50                300us          300us     0.0 %",
        ] {
            assert!(lines.contains(&line), "{line} in {text}");
        }
    }

    #[test]
    fn a_stage_that_was_not_there_then_has_nothing_to_be_compared_with() {
        let mut then = saved(&profile(1000));
        then["median"]["stages"] = json!({});
        let text = compared(&then, &profile(1000)).table();
        assert!(text.contains("  read       busy                   -           50 %         -\n"), "{text}");
    }

    #[test]
    fn what_makes_the_figures_those_of_something_else_is_said() {
        let good = saved(&profile(1000));
        assert!(compared(&good, &profile(1000)).differences.is_empty());
        for (at, value, words) in [
            ("/config/level", json!("19\u{1b}"), "level: 19"),
            ("/config/cold", json!(true), "cache: cold then, warm now"),
            ("/config/to", json!("/mnt"), "output: onto a disk then, into nothing now"),
            ("/machine/cores", json!(64), "cores: 64 then, 2 now"),
            ("/median/total_size", json!(100 << 20), "content: 100 MiB"),
        ] {
            let mut then = good.clone();
            *then.pointer_mut(at).expect("it is there") = value;
            let comparison = compared(&then, &profile(1000));
            assert!(
                comparison.differences.len() == 1 && comparison.differences[0].starts_with(words),
                "{comparison:?}"
            );
            let text = comparison.table();
            assert!(text.contains(&format!("  not the same  {words}")) && !text.contains('\u{1b}'), "{text}");
        }
        let mut then = good;
        then["median"]["total_size"] = json!((64 << 20) + (1 << 19));
        assert!(compared(&then, &profile(1000)).differences.is_empty(), "less than 1 % is the same");
    }
}
