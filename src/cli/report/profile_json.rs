//! A profile as one JSON object: what `--json` prints, and what `--save` keeps for `--compare`.

use std::borrow::Cow;
use std::num::NonZeroU16;
use std::path::PathBuf;

use flint_pipe::{Kernel, Level, PipelineConfig, Profile, ReadMode, Report, Roofline, Sweep, SweepPoint, Workers};
use serde::Serialize;
use serde_json::Value;

use crate::cli::args::typed_level;
use crate::cli::escape;
use crate::cli::report::comparison::Comparison;
use crate::cli::report::json::{Bound, Failure, Phases, Stages, Workers as Threads, whole};

/// The version of the object's fields; what is added does not change it, what is taken away or means something else does.
pub(crate) const SCHEMA_VERSION: u32 = 1;
/// What tells such an object from others.
pub(crate) const KIND: &str = "profile";

/// What was to be measured, as far as it decides what the figures mean.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The way out of a vault.
    pub(crate) unpack: bool,
    /// Packing only.
    pub(crate) level: Level,
    /// Packing only.
    pub(crate) read_mode: ReadMode,
    pub(crate) cold: bool,
    /// `None`: nothing is written.
    pub(crate) to: Option<PathBuf>,
    pub(crate) pipeline: PipelineConfig,
}

/// How a profile ended.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) exit_code: u8,
    /// The error that ended it, or what it was to be held to and was not, in words.
    pub(crate) error: Option<String>,
    /// What was measured until then.
    pub(crate) profile: &'a Profile,
    /// With `--compare`.
    pub(crate) comparison: Option<&'a Comparison>,
}

/// The object, with a line end.
pub(crate) fn object(outcome: &Outcome<'_>) -> String {
    let profile = outcome.profile;
    let object = Object {
        schema_version: SCHEMA_VERSION,
        kind: KIND,
        flint_pipe: env!("CARGO_PKG_VERSION"),
        exit_code: outcome.exit_code,
        error: outcome.error.as_deref(),
        machine: Machine { cores: cores(profile), os: std::env::consts::OS, arch: std::env::consts::ARCH },
        config: Config::of(outcome.asked, profile),
        unpack: outcome.asked.unpack,
        stable: profile.stable,
        rounds: profile.rounds.iter().map(Round::from).collect(),
        median: profile.median().map(Median::from),
        roofline: profile.roofline.as_ref().map(Roof::from),
        sweep: profile.sweep.as_ref().map(Grid::from),
        comparison: outcome.comparison.map(Compared::from),
    };
    let text = serde_json::to_string(&object).expect("these fields are numbers, strings and maps with string keys");
    format!("{}\n", escape::json(&text))
}

/// What the engine counted with; where it counted nothing, what this process may use.
fn cores(profile: &Profile) -> usize {
    let counted = profile.rounds.first().map(|round| round.cores).filter(|&cores| cores > 0);
    counted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

#[derive(Serialize)]
struct Object<'a> {
    schema_version: u32,
    kind: &'static str,
    flint_pipe: &'static str,
    exit_code: u8,
    error: Option<&'a str>,
    machine: Machine,
    config: Config<'a>,
    unpack: bool,
    stable: bool,
    rounds: Vec<Round>,
    median: Option<Median<'a>>,
    roofline: Option<Roof>,
    sweep: Option<Grid>,
    comparison: Option<Compared<'a>>,
}

#[derive(Serialize)]
struct Machine {
    cores: usize,
    os: &'static str,
    arch: &'static str,
}

#[derive(Serialize)]
struct Config<'a> {
    level: Option<String>,
    read_mode: Option<&'static str>,
    cold: bool,
    to: Option<Cow<'a, str>>,
    sample_bytes: Option<u64>,
    workers: Asking,
    queue_depth: Option<usize>,
    chunk_size: Option<u32>,
    memory: Option<u64>,
}

impl<'a> Config<'a> {
    fn of(asked: &'a Asked, profile: &Profile) -> Self {
        let packing = !asked.unpack;
        Self {
            level: packing.then(|| typed_level(asked.level)),
            read_mode: packing.then_some(match asked.read_mode {
                ReadMode::Auto => "auto",
                ReadMode::Mmap => "mmap",
                ReadMode::Read => "read",
            }),
            cold: asked.cold,
            to: asked.to.as_ref().map(|to| to.to_string_lossy()),
            sample_bytes: profile.sample_bytes,
            workers: Asking::from(&asked.pipeline.workers),
            queue_depth: asked.pipeline.queue_depth,
            chunk_size: asked.pipeline.chunk_size,
            memory: asked.pipeline.memory,
        }
    }
}

/// What was asked for of the pipeline, beside what a comparison looks at anyway, by the names that it has in the object.
pub(crate) fn asked_for(asked: &Asked) -> Vec<(&'static str, Value)> {
    let config = Config::of(asked, &Profile::default());
    let config = serde_json::to_value(config).expect("these fields are numbers, strings and maps with string keys");
    let names = ["read_mode", "workers", "queue_depth", "chunk_size", "memory"];
    names.into_iter().map(|name| (name, config[name].clone())).collect()
}

/// The threads that were asked for; what is not there is auto.
#[derive(Serialize)]
struct Asking {
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scan: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compress: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encrypt: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decrypt: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decompress: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write: Option<u16>,
}

impl From<&Workers> for Asking {
    fn from(workers: &Workers) -> Self {
        let number = |count: Option<NonZeroU16>| count.map(NonZeroU16::get);
        Self {
            all: number(workers.all),
            scan: number(workers.scan),
            read: number(workers.read),
            compress: number(workers.compress),
            encrypt: number(workers.encrypt),
            decrypt: number(workers.decrypt),
            decompress: number(workers.decompress),
            write: number(workers.write),
        }
    }
}

#[derive(Serialize)]
struct Round {
    duration_secs: f64,
    total_size: u64,
    throughput_bytes_per_sec: u64,
}

impl From<&Report> for Round {
    fn from(report: &Report) -> Self {
        Self {
            duration_secs: report.duration.as_secs_f64(),
            total_size: report.total_size,
            throughput_bytes_per_sec: whole(report.throughput_bytes_per_sec()),
        }
    }
}

#[derive(Serialize)]
struct Median<'a> {
    total_files: u64,
    failed_files: u64,
    directories: u64,
    total_size: u64,
    stored_size: u64,
    duration_secs: f64,
    phases_secs: Phases,
    throughput_bytes_per_sec: u64,
    peak_memory_bytes: u64,
    workers: Threads<'a>,
    bottleneck: Option<Bound<'a>>,
    stages: Stages<'a>,
    errors: Vec<Failure<'a>>,
}

impl<'a> From<&'a Report> for Median<'a> {
    fn from(report: &'a Report) -> Self {
        Self {
            total_files: report.total_files,
            failed_files: report.failed_files,
            directories: report.directories,
            total_size: report.total_size,
            stored_size: report.stored_size,
            duration_secs: report.duration.as_secs_f64(),
            phases_secs: Phases::from(&report.phases),
            throughput_bytes_per_sec: whole(report.throughput_bytes_per_sec()),
            peak_memory_bytes: report.peak_memory_bytes,
            workers: Threads(&report.stages),
            bottleneck: report.bottleneck.as_ref().map(Bound::from),
            stages: Stages(&report.stages),
            errors: report.errors.iter().map(Failure::from).collect(),
        }
    }
}

#[derive(Serialize)]
struct Roof {
    kernels: Vec<Alone>,
    write_bytes_per_sec: Option<u64>,
    cores: usize,
    bytes_per_sec: u64,
    bound: &'static str,
    share: f64,
}

#[derive(Serialize)]
struct Alone {
    name: &'static str,
    bytes: u64,
    wall_secs: f64,
    cpu_secs: f64,
}

impl From<&Roofline> for Roof {
    fn from(roofline: &Roofline) -> Self {
        let alone = |kernel: &Kernel| Alone {
            name: kernel.name,
            bytes: kernel.bytes,
            wall_secs: kernel.wall.as_secs_f64(),
            cpu_secs: kernel.cpu.as_secs_f64(),
        };
        Self {
            kernels: roofline.kernels.iter().map(alone).collect(),
            write_bytes_per_sec: roofline.write_bytes_per_sec.map(whole),
            cores: roofline.cores,
            bytes_per_sec: whole(roofline.bytes_per_sec),
            bound: roofline.bound,
            share: roofline.share,
        }
    }
}

#[derive(Serialize)]
struct Grid {
    median_error: Option<f64>,
    sample_bytes: Option<u64>,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    level: String,
    workers: Option<u16>,
    predicted_bytes_per_sec: u64,
    measured_bytes_per_sec: Option<u64>,
    stored_share: f64,
    pareto: bool,
}

impl From<&Sweep> for Grid {
    fn from(sweep: &Sweep) -> Self {
        let point = |point: &SweepPoint| Point {
            level: typed_level(point.level),
            workers: point.workers,
            predicted_bytes_per_sec: whole(point.predicted_bytes_per_sec),
            measured_bytes_per_sec: point.measured_bytes_per_sec.map(whole),
            stored_share: point.stored_share,
            pareto: point.pareto,
        };
        Self {
            median_error: sweep.median_error,
            sample_bytes: sweep.sample_bytes,
            points: sweep.points.iter().map(point).collect(),
        }
    }
}

#[derive(Serialize)]
struct Compared<'a> {
    baseline: Cow<'a, str>,
    baseline_throughput_bytes_per_sec: u64,
    throughput_change: f64,
    threshold: f64,
    slower: bool,
    differences: &'a [String],
}

impl<'a> From<&'a Comparison> for Compared<'a> {
    fn from(comparison: &'a Comparison) -> Self {
        Self {
            baseline: comparison.path.to_string_lossy(),
            baseline_throughput_bytes_per_sec: comparison.throughput_then,
            throughput_change: comparison.throughput_change(),
            threshold: comparison.threshold,
            slower: comparison.is_slower(),
            differences: &comparison.differences,
        }
    }
}

#[cfg(test)]
impl Asked {
    /// What is asked for where nothing is: packing at level 3, for the tests of all reports.
    pub(crate) fn plain() -> Self {
        Self {
            unpack: false,
            level: Level::Zstd(3),
            read_mode: ReadMode::Auto,
            cold: false,
            to: None,
            pipeline: PipelineConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flint_pipe::StageReport;
    use serde_json::{Value, json};

    use super::*;

    fn parsed(asked: &Asked, profile: &Profile, error: Option<&str>) -> Value {
        let error = error.map(str::to_owned);
        let text = object(&Outcome { asked, exit_code: 0, error, profile, comparison: None });
        assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
        serde_json::from_str(&text).expect("it is JSON")
    }

    #[test]
    fn a_profile_of_nothing_says_what_was_asked_for() {
        let value = parsed(&Asked::plain(), &Profile::default(), Some("interrupted"));
        assert_eq!((&value["schema_version"], &value["kind"]), (&json!(1), &json!("profile")));
        assert_eq!((&value["error"], &value["unpack"]), (&json!("interrupted"), &json!(false)));
        assert_eq!((&value["config"]["level"], &value["config"]["workers"]), (&json!("3"), &json!({})));
        assert!(value["machine"]["cores"].as_u64().is_some_and(|cores| cores > 0));
        assert_eq!(value["rounds"], json!([]));
        for field in ["median", "roofline", "sweep", "comparison"] {
            assert_eq!(value[field], Value::Null, "{field}");
        }
    }

    #[test]
    fn the_way_out_has_no_level() {
        let mut asked = Asked { unpack: true, to: Some("out".into()), ..Asked::plain() };
        asked.pipeline.workers.all = NonZeroU16::new(4);
        let value = parsed(&asked, &Profile::default(), None);
        assert_eq!((&value["config"]["level"], &value["config"]["read_mode"]), (&Value::Null, &Value::Null));
        assert_eq!((&value["config"]["to"], &value["config"]["workers"]), (&json!("out"), &json!({"all": 4})));
    }

    #[test]
    fn rounds_are_in_their_order_and_the_median_one_has_its_stages() {
        let mut profile = Profile::default();
        for (size, cores) in [(3000, 2), (1000, 2), (2000, 2)] {
            let mut round = Report::default();
            round.total_size = size;
            round.duration = Duration::from_secs(1);
            round.cores = cores;
            let mut stage = StageReport::default();
            stage.name = "compress";
            stage.workers = 2;
            round.stages.push(stage);
            profile.rounds.push(round);
        }
        let value = parsed(&Asked::plain(), &profile, None);
        assert_eq!(value["machine"]["cores"], 2);
        let sizes: Vec<&Value> = value["rounds"].as_array().expect("a list").iter().map(|r| &r["total_size"]).collect();
        assert_eq!(sizes, [&json!(3000), &json!(1000), &json!(2000)]);
        assert_eq!(value["median"]["throughput_bytes_per_sec"], 2000);
        assert_eq!(value["median"]["workers"], json!({"compress": 2}));
        assert!(value["median"]["stages"]["compress"]["service_us"]["p99"].is_number());
    }
}
