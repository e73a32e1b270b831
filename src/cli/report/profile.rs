//! A profile for a person: what was measured, how fast it was, what bounds it, and what would be faster.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use flint_pipe::{
    Bottleneck, BoundKind, Kernel, Level, Profile, Report, Roofline, SweepPoint, format_rate, format_size,
};

use crate::cli::args::typed_level;
use crate::cli::escape;
use crate::cli::report::profile_json::Asked;
use crate::cli::report::text::{count, ratio, seconds, stage_table, verdict};
use crate::cli::report::{plan, wrapped};

/// One GiB and one MiB in bytes.
const GIB: f64 = (1_u64 << 30) as f64;
const MIB: f64 = (1_u64 << 20) as f64;

/// What was profiled.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What<'a> {
    /// How these are packed.
    Packing(&'a [PathBuf]),
    /// How this vault is unpacked.
    Unpacking(&'a Path),
}

/// All that was measured; nothing if nothing was.
pub(crate) fn summary(what: What<'_>, asked: &Asked, profile: &Profile) -> String {
    let mut text = String::new();
    if let Some(median) = profile.median() {
        text = format!("{}\n", title(what));
        measured(&mut text, asked, profile, median);
        speed(&mut text, profile, median);
        if !median.stages.is_empty() {
            text.push_str(&stage_table(&median.stages, median.cores));
        }
        for (stage, words) in &median.learnt {
            text.push_str(&wrapped("learnt", &format!("{stage}: {words}")));
        }
        if let Some(found) = &median.bottleneck {
            text.push_str(&verdict(found));
            text.push_str(&wrapped("workload", &workload(found, asked.unpack)));
        }
    }
    if let Some(roofline) = &profile.roofline {
        text.push_str(&roof(roofline));
    }
    if let Some(sweep) = profile.sweep.as_ref().filter(|sweep| !sweep.points.is_empty()) {
        let rows: Vec<Row> = sweep.points.iter().map(Row::from).collect();
        if let Some(bytes) = sweep.sample_bytes {
            line(
                &mut text,
                "sweep",
                &format!("with {} of the content, so that there was time for all", format_size(bytes)),
            );
        }
        text.push_str(&grid(&rows, sweep.median_error));
    }
    text
}

/// What would be run, and with what.
pub(crate) fn rehearsed(what: What<'_>, profile: &Profile) -> String {
    let Some(report) = profile.median() else { return String::new() };
    let mut text = format!("would have {} (dry run: nothing is measured)\n", title(what));
    let files = count(report.successful_files, "file", "files");
    let directories = count(report.directories, "directory", "directories");
    line(&mut text, "would measure", &format!("{files}, {directories}, {}", format_size(report.total_size)));
    if let Some(plan) = &report.plan {
        text.push_str(&plan::table(plan));
    }
    text
}

fn title(what: What<'_>) -> String {
    match what {
        What::Packing([source]) => format!("profiled packing {}", escape::path(source)),
        What::Packing([source, rest @ ..]) => {
            format!("profiled packing {} and {} more", escape::path(source), rest.len())
        }
        What::Packing([]) => "profiled packing".to_owned(),
        What::Unpacking(vault) => format!("profiled unpacking {}", escape::path(vault)),
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {name:<13} {value}");
}

fn measured(text: &mut String, asked: &Asked, profile: &Profile, median: &Report) {
    let files = count(median.successful_files, "file", "files");
    let directories = count(median.directories, "directory", "directories");
    line(text, "measured", &format!("{files}, {directories}, {}", format_size(median.total_size)));
    if !median.is_complete() {
        line(text, "failed", &format!("{}, each named above", count(errors(median), "error", "errors")));
    }
    if let Some(bytes) = profile.sample_bytes {
        line(text, "sample", &format!("each round had about {} of the content", format_size(bytes)));
    }
    let cache = match (asked.cold, asked.unpack) {
        (true, false) => "cold: the files were put out of memory before each round",
        (true, true) => "cold: the vault was put out of memory before each round",
        (false, false) => "warm: the files were in memory",
        (false, true) => "warm: the vault was in memory",
    };
    line(text, "cache", cache);
    let output = match &asked.to {
        None => "into nothing: what was made was dropped".to_owned(),
        Some(to) => format!("onto the disk of {}", escape::path(to)),
    };
    line(text, "output", &output);
    match asked.unpack {
        true => line(text, "read", &format!("{} of the vault", format_size(median.stored_size))),
        false => {
            line(text, "level", &typed_level(asked.level));
            line(text, "stored", &format!("{}{}", format_size(median.stored_size), ratio(median)));
        }
    }
}

fn errors(report: &Report) -> u64 {
    report.failed_files.max(u64::try_from(report.errors.len()).unwrap_or(u64::MAX))
}

fn speed(text: &mut String, profile: &Profile, median: &Report) {
    let rounds = match (profile.rounds.len(), profile.stable) {
        (1, _) => "1".to_owned(),
        (rounds, true) => format!("{rounds}, stable: the last differ by less than 5 %"),
        (rounds, false) => format!("{rounds}, not stable: the last differ by 5 % or more"),
    };
    line(text, "rounds", &rounds);
    line(text, "duration", &format!("{} for the median round", seconds(median.duration)));
    let rate = format_rate(median.throughput_bytes_per_sec());
    match profile.spread().filter(|_| profile.rounds.len() > 1) {
        None => line(text, "speed", &rate),
        Some((least, most)) => {
            let (least, most) = (format_rate(least), format_rate(most));
            line(text, "speed", &format!("{rate} (median; {least} to {most})"));
        }
    }
    if median.peak_memory_bytes > 0 {
        line(text, "peak memory", &format_size(median.peak_memory_bytes));
    }
}

/// The kind of load that this is, in plain words.
fn workload(found: &Bottleneck, unpack: bool) -> String {
    let sure = match found.confidence {
        sure if sure >= 0.8 => "",
        sure if sure >= 0.5 => "probably ",
        _ => "perhaps ",
    };
    let doing = found.doing();
    let class = match found.kind {
        BoundKind::Cpu => format!("CPU-bound: {doing} takes the most of it"),
        BoundKind::Device => format!("I/O-bound: {}", device(found.stage, unpack)),
        BoundKind::Memory => format!("memory-bound: {doing} waits for buffers, or has fewer threads for want of them"),
        BoundKind::SmallFiles => format!("small-file-bound: {doing} costs the same for each file, whatever is in it"),
        BoundKind::Serial => format!("serial: {doing} goes on while there is nothing to do beside it"),
        BoundKind::Stage if found.advice.is_empty() => format!("bound by one stage: {doing}"),
        BoundKind::Stage => format!("bound by one stage: {doing} has too few threads, and cores are idle"),
        _ => format!("bound by {doing}"),
    };
    format!("{sure}{class}.")
}

/// The device that a stage waits for.
fn device(stage: &str, unpack: bool) -> &'static str {
    match (stage, unpack) {
        ("scan" | "read", false) => "the disk of the sources",
        ("write", true) => "the disk that is written to",
        ("write" | "commit", false) => "the disk that is written to",
        _ => "the vault's disk",
    }
}

/// What each stage reaches alone, and what that allows.
fn roof(roofline: &Roofline) -> String {
    let mut text = format!("\n  {:<20} {:>9} {:>10}\n", "alone, on one core", "MiB/s", "CPU s/GiB");
    let rate =
        |bytes_per_sec: f64| if bytes_per_sec > 0.0 { format!("{:.0}", bytes_per_sec / MIB) } else { "-".to_owned() };
    for kernel in &roofline.kernels {
        let (speed, cost) = (rate(bytes_per_sec(kernel)), cpu_per_gib(kernel));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<20} {speed:>9} {cost:>10}", kernel.name);
    }
    if let Some(write) = roofline.write_bytes_per_sec {
        let _ = writeln!(text, "  {:<20} {:>9} {:>10}", "write alone", rate(write), "-");
    }
    text.push('\n');
    let allows = match (roofline.bound, roofline.cores) {
        ("write", _) => "that is what writing allows".to_owned(),
        (_, 0 | 1) => "that is what the one core allows".to_owned(),
        (_, cores) => format!("that is what the {cores} cores allow"),
    };
    line(&mut text, "at most", &format!("{}: {allows}", format_rate(roofline.bytes_per_sec)));
    line(&mut text, "reached", &format!("{:.0} % of that", roofline.share * 100.0));
    text
}

/// Content a second of wall time.
fn bytes_per_sec(kernel: &Kernel) -> f64 {
    let seconds = kernel.wall.as_secs_f64();
    if seconds > 0.0 { kernel.bytes as f64 / seconds } else { 0.0 }
}

fn cpu_per_gib(kernel: &Kernel) -> String {
    let cost = if kernel.bytes > 0 { kernel.cpu.as_secs_f64() / kernel.bytes as f64 * GIB } else { 0.0 };
    if cost > 0.0 { format!("{cost:.3}") } else { "-".to_owned() }
}

/// A point of a sweep. A type of its own, because nobody but the library can make one of its.
#[derive(Debug, Clone, Copy)]
struct Row {
    level: Level,
    workers: Option<u16>,
    predicted: f64,
    measured: Option<f64>,
    stored_share: f64,
    pareto: bool,
}

impl From<&SweepPoint> for Row {
    fn from(point: &SweepPoint) -> Self {
        Self {
            level: point.level,
            workers: point.workers,
            predicted: point.predicted_bytes_per_sec,
            measured: point.measured_bytes_per_sec,
            stored_share: point.stored_share,
            pareto: point.pareto,
        }
    }
}

impl Row {
    /// The command that would do it.
    fn command(&self) -> String {
        let level = typed_level(self.level);
        let workers = self.workers.map(|workers| format!(" --workers {workers}")).unwrap_or_default();
        format!("flint-pipe add ... --level {level}{workers}")
    }

    fn speed(&self) -> f64 {
        self.measured.unwrap_or(0.0)
    }

    fn line(&self) -> String {
        let workers = self.workers.map_or_else(|| "auto".to_owned(), |workers| workers.to_string());
        let measured = self.measured.map_or_else(|| "-".to_owned(), |speed| format!("{:.1}", speed / MIB));
        let error = self
            .measured
            .filter(|&speed| speed > 0.0)
            .map_or_else(|| "-".to_owned(), |speed| format!("{:+.1} %", (self.predicted / speed - 1.0) * 100.0));
        let line = format!(
            "  {:<6} {workers:>7} {:>11.1} {measured:>11} {error:>9} {:>8} {}",
            typed_level(self.level),
            self.predicted / MIB,
            format!("{:.1} %", self.stored_share * 100.0),
            if self.pareto { "   *" } else { "" }
        );
        line.trim_end().to_owned()
    }
}

/// The points of a sweep, and which to take.
fn grid(rows: &[Row], median_error: Option<f64>) -> String {
    let mut text = format!(
        "\n  {:<6} {:>7} {:>11} {:>11} {:>9} {:>8} {}\n",
        "level", "workers", "predicted", "measured", "error", "size", "best"
    );
    for row in rows {
        text.push_str(&format!("{}\n", row.line()));
    }
    text.push_str("\n  in MiB/s; best: nothing that was measured is both faster and smaller\n");
    let error = match median_error {
        Some(error) => format!("{:.1} % off in the median", error * 100.0),
        None => "not held against anything: nothing was measured".to_owned(),
    };
    line(&mut text, "predictions", &error);
    let mut best: Vec<&Row> = rows.iter().filter(|row| row.pareto && row.measured.is_some()).collect();
    best.sort_by(|one, other| other.speed().total_cmp(&one.speed()));
    let Some(fastest) = best.first() else { return text };
    line(&mut text, "fastest", &fastest.command());
    if let Some(trade) = best_trade(&best) {
        line(&mut text, "best trade", &trade.command());
    }
    text
}

/// The point nearest to one that would be as fast as the fastest and as small as the smallest, each counted as a share of
/// the way between the best and the worst of the front.
///
/// - `front`: from the fastest on.
fn best_trade<'r>(front: &[&'r Row]) -> Option<&'r Row> {
    let (fastest, slowest) = (front.first()?.speed(), front.last()?.speed());
    let sizes = || front.iter().map(|row| row.stored_share);
    let (smallest, largest) = (sizes().min_by(f64::total_cmp)?, sizes().max_by(f64::total_cmp)?);
    let share = |way: f64, whole: f64| if whole > 0.0 { way / whole } else { 0.0 };
    let distance = |row: &Row| {
        let slower = share(fastest - row.speed(), fastest - slowest);
        let larger = share(row.stored_share - smallest, largest - smallest);
        slower.hypot(larger)
    };
    front.iter().copied().min_by(|one, other| distance(one).total_cmp(&distance(other)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flint_pipe::{EntryError, EntryErrorKind, StageReport, Sweep};

    use super::*;

    fn bottleneck(kind: BoundKind, stage: &'static str, confidence: f64) -> Bottleneck {
        let mut found = Bottleneck::default();
        found.kind = kind;
        found.stage = stage;
        found.confidence = confidence;
        found.reason = "all 2 cores were busy, 71 % of that with compressing: more threads will not help".to_owned();
        found
    }

    fn profile(millis: &[u64]) -> Profile {
        let mut profile = Profile::default();
        for millis in millis {
            let mut round = Report::default();
            round.total_files = 78_635;
            round.successful_files = 78_635;
            round.directories = 4_871;
            round.total_size = 64 << 20;
            round.stored_size = 16 << 20;
            round.duration = Duration::from_millis(*millis);
            round.peak_memory_bytes = 81 << 20;
            round.bottleneck = Some(bottleneck(BoundKind::Cpu, "compress", 1.0));
            let mut stage = StageReport::default();
            stage.name = "decompress";
            stage.workers = 1024;
            stage.utilization = 1.0;
            round.stages.push(stage);
            profile.rounds.push(round);
        }
        profile
    }

    fn kernel(name: &'static str, wall: Duration, cpu: Duration) -> Kernel {
        let mut kernel = Kernel::default();
        kernel.name = name;
        kernel.bytes = 1 << 30;
        kernel.wall = wall;
        kernel.cpu = cpu;
        kernel
    }

    fn roofline() -> Roofline {
        let mut roofline = Roofline::default();
        roofline.kernels = vec![
            kernel("read", Duration::from_millis(250), Duration::from_millis(240)),
            kernel("compress", Duration::from_secs(4), Duration::from_secs(4)),
        ];
        roofline.cores = 2;
        roofline.bytes_per_sec = 512.0 * MIB;
        roofline.bound = "cpu";
        roofline.share = 0.914;
        roofline
    }

    fn row(level: i32, measured: Option<f64>, stored_share: f64, pareto: bool) -> Row {
        let measured = measured.map(|speed| speed * MIB);
        Row { level: Level::Zstd(level), workers: None, predicted: 500.0 * MIB, measured, stored_share, pareto }
    }

    fn shown(profile: &Profile) -> String {
        summary(What::Packing(&["src".into()]), &Asked::plain(), profile)
    }

    #[test]
    fn a_summary_says_what_was_measured_how_and_how_fast_it_was() {
        let mut profile = profile(&[1250, 1000, 1600]);
        profile.stable = true;
        let text = shown(&profile);
        for line in [
            "profiled packing src",
            "  measured      78635 files, 4871 directories, 64 MiB",
            "  cache         warm: the files were in memory",
            "  output        into nothing: what was made was dropped",
            "  level         3",
            "  stored        16 MiB (25.0% of that)",
            "  rounds        3, stable: the last differ by less than 5 %",
            "  duration      1.25 s for the median round",
            "  speed         51.2 MiB/s (median; 40 MiB/s to 64 MiB/s)",
            "  peak memory   81 MiB",
            "  workload      CPU-bound: compressing takes the most of it.",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in {text}");
        }
        assert!(text.contains("\n  stage ") && text.contains("\n  bounded by "), "{text}");
        assert!(!text.contains("sample") && !text.contains("failed"), "{text}");
    }

    #[test]
    fn a_summary_names_a_sample_failures_a_disk_and_a_cold_cache() {
        let mut profile = profile(&[1000]);
        profile.sample_bytes = Some(256 << 20);
        let kind = EntryErrorKind::PermissionDenied;
        profile.rounds[0].errors.push(EntryError { path: "a".into(), kind, message: "cannot open: no".into() });
        let asked = Asked { unpack: true, cold: true, to: Some("out\n".into()), ..Asked::plain() };
        let text = summary(What::Unpacking(Path::new("a\n.flint")), &asked, &profile);
        for line in [
            r"profiled unpacking a\x0a.flint",
            "  failed        1 error, each named above",
            "  sample        each round had about 256 MiB of the content",
            "  cache         cold: the vault was put out of memory before each round",
            r"  output        onto the disk of out\x0a",
            "  read          16 MiB of the vault",
            "  rounds        1",
            "  speed         64 MiB/s",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in {text}");
        }
        assert!(!text.contains("level"), "{text}");
    }

    #[test]
    fn everything_fits_80_columns() {
        let mut profile = profile(&[1250, 1000]);
        profile.sample_bytes = Some(u64::MAX);
        profile.roofline = Some(roofline());
        let mut sweep = Sweep::default();
        sweep.median_error = Some(0.05);
        profile.sweep = Some(sweep);
        let mut text = shown(&profile);
        text += &grid(&[row(-7, Some(99_999.9), 12.345, true), row(22, None, 0.2, false)], None);
        for kind in [BoundKind::Stage, BoundKind::Memory, BoundKind::Serial, BoundKind::SmallFiles, BoundKind::Device] {
            text += &wrapped("workload", &workload(&bottleneck(kind, "decompress", 0.1), true));
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn each_kind_of_load_has_its_plain_words() {
        for (kind, stage, unpack, confidence, words) in [
            (BoundKind::Cpu, "compress", false, 1.0, "CPU-bound: compressing takes"),
            (BoundKind::Device, "read", false, 0.7, "probably I/O-bound: the disk of the sources."),
            (BoundKind::Device, "read", true, 0.8, "I/O-bound: the vault's disk."),
            (BoundKind::Device, "write", true, 0.8, "I/O-bound: the disk that is written to."),
            (BoundKind::SmallFiles, "read", false, 0.3, "perhaps small-file-bound: reading costs"),
            (BoundKind::Memory, "write", false, 1.0, "memory-bound: "),
            (BoundKind::Serial, "commit", false, 1.0, "serial: committing"),
            (BoundKind::Stage, "encrypt", false, 1.0, "bound by one stage: encrypting."),
        ] {
            let text = workload(&bottleneck(kind, stage, confidence), unpack);
            assert!(text.starts_with(words), "{text}");
        }
    }

    #[test]
    fn a_roofline_is_an_aligned_table_with_what_it_allows_below() {
        let mut roofline = roofline();
        roofline.write_bytes_per_sec = Some(450.0 * MIB);
        let lines = [
            "",
            "  alone, on one core       MiB/s  CPU s/GiB",
            "  read                      4096      0.240",
            "  compress                   256      4.000",
            "  write alone                450          -",
            "",
            "  at most       512 MiB/s: that is what the 2 cores allow",
            "  reached       91 % of that",
        ];
        assert_eq!(roof(&roofline).lines().collect::<Vec<_>>(), lines);
        roofline.bound = "write";
        assert!(roof(&roofline).contains("MiB/s: that is what writing allows\n"));
    }

    #[test]
    fn a_sweep_is_an_aligned_table_with_what_to_take_below() {
        let rows = [
            row(-1, Some(1000.0), 0.30, true),
            row(1, Some(950.0), 0.21, true),
            Row { workers: Some(4), ..row(3, Some(400.0), 0.25, false) },
            row(9, Some(200.0), 0.20, true),
            row(19, None, 0.18, false),
        ];
        let lines = [
            "",
            "  level  workers   predicted    measured     error     size best",
            "  -1        auto       500.0      1000.0   -50.0 %   30.0 %    *",
            "  1         auto       500.0       950.0   -47.4 %   21.0 %    *",
            "  3            4       500.0       400.0   +25.0 %   25.0 %",
            "  9         auto       500.0       200.0  +150.0 %   20.0 %    *",
            "  19        auto       500.0           -         -   18.0 %",
            "",
            "  in MiB/s; best: nothing that was measured is both faster and smaller",
            "  predictions   12.0 % off in the median",
            "  fastest       flint-pipe add ... --level -1",
            "  best trade    flint-pipe add ... --level 1",
        ];
        assert_eq!(grid(&rows, Some(0.12)).lines().collect::<Vec<_>>(), lines);
        assert_eq!(rows[2].command(), "flint-pipe add ... --level 3 --workers 4");
    }

    #[test]
    fn of_one_point_it_is_the_best_of_everything_and_of_none_there_is_no_advice() {
        let one = grid(&[row(3, Some(10.0), 0.5, true)], Some(0.0));
        assert!(one.contains("fastest       flint-pipe add ... --level 3\n"), "{one}");
        assert!(one.contains("best trade    flint-pipe add ... --level 3\n"), "{one}");
        let none = grid(&[row(3, None, 0.5, false)], None);
        assert!(!none.contains("flint-pipe") && none.contains("nothing was measured"), "{none}");
    }

    #[test]
    fn nothing_that_was_measured_is_nothing_to_show_and_nothing_is_divided_by_it() {
        assert_eq!(shown(&Profile::default()), "");
        let mut empty = Profile::default();
        empty.rounds.push(Report::default());
        empty.roofline = Some(Roofline::default());
        empty.roofline.as_mut().expect("just put there").kernels.push(Kernel::default());
        empty.sweep = Some(Sweep::default());
        let text = shown(&empty) + &grid(&[row(3, Some(0.0), 0.0, true)], None);
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}
