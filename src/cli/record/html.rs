//! `--report FILE.html`: one page that needs nothing else, no network either: every figure as text, and charts of them.
//!
//! The charts are drawn by uPlot (`html/`, MIT), which is in the page. Whoever has no JavaScript has the tables.

use std::fmt::Write as _;
use std::time::Duration;

use flint_pipe::{Level, Profile, Report, Roofline, StageReport, Sweep, Timeline, format_rate, format_size};
use serde::Serialize;

use crate::cli::args::typed_level;
use crate::cli::escape;
use crate::cli::exit::Status;
use crate::cli::record::Ended;
use crate::cli::report::text::{brief, seconds};

const UPLOT: &str = include_str!("html/uPlot.iife.min.js");
const UPLOT_STYLE: &str = include_str!("html/uPlot.min.css");
const SCRIPT: &str = include_str!("html/report.js");
const STYLE: &str = include_str!("html/report.css");

/// Failures that are listed; the rest are counted.
const MOST_ERRORS: usize = 500;

/// The page.
pub(crate) fn page(ended: &Ended<'_>) -> String {
    let mut page = Page { text: String::with_capacity(128 << 10) };
    let title = format!("flint-pipe {} {}", ended.command, escape::path(ended.place));
    page.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    // Nothing is fetched, and nothing in the page can change that.
    page.raw(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n",
    );
    page.tag("title", &title);
    page.raw(&format!("<style>{UPLOT_STYLE}\n{STYLE}</style>\n</head>\n<body>\n"));
    page.tag("h1", &title);
    page.outcome(ended);
    page.tiles(ended.report);
    page.charts(ended);
    page.stages(ended.report);
    page.plan(ended.report);
    if let Some(profile) = ended.profile {
        page.profile(profile);
    }
    page.errors(ended.report);
    page.raw("<script type=\"application/json\" id=\"figures\">");
    page.raw(&figures(ended));
    page.raw("</script>\n<script>");
    page.raw(UPLOT);
    page.raw("</script>\n<script>");
    page.raw(SCRIPT);
    page.raw("</script>\n</body>\n</html>\n");
    page.text
}

/// The page as it comes together.
struct Page {
    text: String,
}

impl Page {
    /// What is HTML already.
    fn raw(&mut self, html: &str) {
        self.text.push_str(html);
    }

    /// What anybody may have written.
    fn words(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.text.push_str("&amp;"),
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '"' => self.text.push_str("&quot;"),
                '\'' => self.text.push_str("&#39;"),
                c => self.text.push(c),
            }
        }
    }

    /// - `tag`: the element's name, with its attributes.
    fn tag(&mut self, tag: &str, text: &str) {
        let name = tag.split(' ').next().unwrap_or(tag);
        // Writing to a String cannot fail.
        let _ = write!(self.text, "<{tag}>");
        self.words(text);
        let _ = writeln!(self.text, "</{name}>");
    }

    fn row(&mut self, cell: &str, cells: &[String]) {
        self.raw("<tr>");
        cells.iter().for_each(|text| self.tag(cell, text));
        self.raw("</tr>\n");
    }

    fn table(&mut self, heads: &[&str], rows: &[Vec<String>]) {
        self.raw("<div class=\"scroll\"><table>\n");
        self.row("th", &heads.iter().map(|&head| head.to_owned()).collect::<Vec<_>>());
        rows.iter().for_each(|row| self.row("td", row));
        self.raw("</table></div>\n");
    }

    fn outcome(&mut self, ended: &Ended<'_>) {
        let class = if ended.status == Status::Done { "p class=\"good\"" } else { "p class=\"bad\"" };
        let words = match (&ended.error, ended.status) {
            (Some(error), status) => format!("Ended with exit code {}: {}", status.code(), escape::text(error)),
            (None, Status::Done) => "All done.".to_owned(),
            (None, status) => format!("Exit code {}: some of it failed, as named below.", status.code()),
        };
        self.tag(class, &words);
        let report = ended.report;
        if let Some(found) = &report.bottleneck {
            self.tag("p", &format!("Bounded by: {found}."));
        }
        for (stage, words) in &report.learnt {
            self.tag("p class=\"soft\"", &format!("Learnt: {stage}: {words}."));
        }
        let began = report.began_at.and_then(|at| jiff::Timestamp::try_from(at).ok());
        let began = began.map(|at| format!("{}, ", at.strftime("%Y-%m-%d %H:%M:%S UTC"))).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        self.tag("p class=\"soft\"", &format!("{began}flint-pipe {version}, {} cores", report.cores));
    }

    fn tiles(&mut self, report: &Report) {
        self.raw("<div class=\"tiles\">\n");
        let mut tile = |name: &str, value: &str| {
            self.raw("<div>");
            self.tag("b", value);
            self.tag("span", name);
            self.raw("</div>\n");
        };
        if let Some(snapshot) = report.snapshot {
            tile("snapshot", &snapshot.to_string());
        }
        tile("files", &report.successful_files.to_string());
        tile("directories", &report.directories.to_string());
        if report.unchanged_files > 0 {
            tile("of these unchanged", &report.unchanged_files.to_string());
        }
        tile("failed", &report.failed_files.to_string());
        tile("content", &format_size(report.total_size));
        let share = report.stored_size as f64 / report.total_size as f64 * 100.0;
        let share = if share.is_finite() { format!(" ({share:.1} %)") } else { String::new() };
        tile("in the vault", &format!("{}{share}", format_size(report.stored_size)));
        tile("duration", &seconds(report.duration));
        tile("speed", &format_rate(report.throughput_bytes_per_sec()));
        tile("peak memory", &format_size(report.peak_memory_bytes));
        self.raw("</div>\n");
    }

    fn charts(&mut self, ended: &Ended<'_>) {
        let mut charts = Vec::new();
        if ended.report.timeline.samples.len() > 1 {
            charts.extend([
                ("throughput", "Throughput"),
                ("utilization", "How busy each stage was"),
                ("queues", "How full the queue before each stage was"),
                ("memory", "Memory"),
            ]);
        }
        if !curves(&ended.report.stages).is_empty() {
            charts.push(("latency", "How long a stage worked on one item"));
        }
        if ended.profile.and_then(|profile| profile.sweep.as_ref()).is_some_and(|sweep| !sweep.points.is_empty()) {
            charts.push(("pareto", "Levels and threads: speed by size"));
        }
        if charts.is_empty() {
            return;
        }
        self.raw("<noscript><p>The charts need JavaScript; the tables below have the figures.</p></noscript>\n");
        self.raw("<div class=\"grid\">\n");
        for (id, title) in charts {
            self.raw("<section>");
            self.tag("h2", title);
            self.raw(&format!("<div class=\"chart\" id=\"{id}\"></div></section>\n"));
        }
        self.raw("</div>\n");
    }

    fn stages(&mut self, report: &Report) {
        if report.stages.is_empty() {
            return;
        }
        self.raw("<section>");
        self.tag("h2", "Stages");
        let heads = [
            "stage",
            "threads",
            "busy",
            "waited for input",
            "for output",
            "for memory",
            "CPU",
            "in",
            "out",
            "items",
            "p50",
            "p90",
            "p99",
            "longest",
        ];
        let row = |stage: &StageReport| {
            let work = &stage.work;
            vec![
                stage.name.to_owned(),
                stage.workers.to_string(),
                percent(stage.utilization),
                brief(work.wait_input),
                brief(work.wait_output),
                brief(work.wait_budget),
                brief(work.cpu),
                format_size(work.bytes_in),
                format_size(work.bytes_out),
                work.chunks.to_string(),
                brief(stage.service.p50),
                brief(stage.service.p90),
                brief(stage.service.p99),
                brief(stage.service.max),
            ]
        };
        self.table(&heads, &report.stages.iter().map(row).collect::<Vec<_>>());
        self.raw("</section>\n");
    }

    fn plan(&mut self, report: &Report) {
        let Some(plan) = &report.plan else { return };
        self.raw("<section>");
        self.tag("h2", "Plan");
        let reason = |stage: &str| plan.reasons.iter().find(|(name, _)| *name == stage);
        let rows: Vec<_> = plan
            .workers
            .iter()
            .map(|&(stage, workers)| {
                let queue = plan.queue_depths.iter().find(|(name, _)| *name == stage);
                let queue = queue.map_or("–".to_owned(), |(_, depth)| depth.to_string());
                let reason = reason(stage).map(|(_, words)| words.clone()).unwrap_or_default();
                vec![stage.to_owned(), workers.to_string(), queue, reason]
            })
            .collect();
        self.raw("<div class=\"scroll\"><table>\n");
        self.raw("<tr>");
        ["stage", "threads", "queue"].into_iter().for_each(|head| self.tag("th", head));
        self.tag("th class=\"words\"", "why");
        self.raw("</tr>\n");
        for row in rows {
            self.raw("<tr>");
            row[..3].iter().for_each(|cell| self.tag("td", cell));
            self.tag("td class=\"words\"", &row[3]);
            self.raw("</tr>\n");
        }
        self.raw("</table></div>\n");
        let words = format!(
            "Chunks of {} at most, buffers of {}, {} entries in flight at most; {} of memory at most, as predicted.",
            format_size(u64::from(plan.chunk_size)),
            format_size(plan.buffer_bytes),
            plan.entries_in_flight,
            format_size(plan.peak_memory_bytes)
        );
        self.tag("p class=\"soft\"", &words);
        self.raw("</section>\n");
    }

    fn profile(&mut self, profile: &Profile) {
        self.raw("<section>");
        self.tag("h2", if profile.stable { "Rounds, stable" } else { "Rounds, not stable yet" });
        let row = |(number, round): (usize, &Report)| {
            let rate = format_rate(round.throughput_bytes_per_sec());
            vec![number.to_string(), seconds(round.duration), rate, format_size(round.total_size)]
        };
        let rows: Vec<_> = (1..).zip(&profile.rounds).map(row).collect();
        self.table(&["round", "duration", "speed", "content"], &rows);
        self.raw("</section>\n");
        if let Some(roofline) = &profile.roofline {
            self.roofline(roofline);
        }
        if let Some(sweep) = &profile.sweep {
            self.sweep(sweep);
        }
    }

    fn roofline(&mut self, roofline: &Roofline) {
        self.raw("<section>");
        self.tag("h2", "Each stage alone, on one core");
        let row = |kernel: &flint_pipe::Kernel| {
            let rate = format_rate(kernel.bytes_per_cpu_sec());
            vec![kernel.name.to_owned(), rate, format_size(kernel.bytes), seconds(kernel.cpu)]
        };
        let rows: Vec<_> = roofline.kernels.iter().map(row).collect();
        self.table(&["stage", "a second of CPU", "content", "CPU"], &rows);
        if let Some(write) = roofline.write_bytes_per_sec {
            self.tag("p", &format!("Writing alone: {}.", format_rate(write)));
        }
        let rate = format_rate(roofline.bytes_per_sec);
        let bound = if roofline.bound == "write" { "writing allows" } else { "the cores allow" };
        let reached = percent(roofline.share);
        self.tag("p", &format!("At most {rate}: that is what {bound}. Reached: {reached} of that."));
        self.raw("</section>\n");
    }

    fn sweep(&mut self, sweep: &Sweep) {
        self.raw("<section>");
        self.tag("h2", "Sweep");
        let rows: Vec<_> = sweep
            .points
            .iter()
            .map(|point| {
                vec![
                    level(point.level),
                    point.workers.map_or("auto".to_owned(), |workers| workers.to_string()),
                    format_rate(point.predicted_bytes_per_sec),
                    point.measured_bytes_per_sec.map_or("–".to_owned(), format_rate),
                    percent(point.stored_share),
                    if point.pareto { "best" } else { "" }.to_owned(),
                ]
            })
            .collect();
        self.table(&["level", "workers", "predicted", "measured", "size", ""], &rows);
        if let Some(error) = sweep.median_error {
            self.tag("p class=\"soft\"", &format!("Predictions were {} off in the median.", percent(error)));
        }
        self.raw("</section>\n");
    }

    fn errors(&mut self, report: &Report) {
        for (title, lines, count) in [
            ("Failures", failures(report), report.errors.len()),
            ("Notes", report.notes.iter().take(MOST_ERRORS).cloned().collect(), report.notes.len()),
        ] {
            if lines.is_empty() {
                continue;
            }
            self.raw("<section>");
            self.tag("h2", &format!("{title}: {count}"));
            self.raw("<ul>\n");
            lines.iter().for_each(|line: &String| self.tag("li", &escape::text(line)));
            self.raw("</ul>\n");
            if count > MOST_ERRORS {
                self.tag("p class=\"soft\"", &format!("and {} more", count - MOST_ERRORS));
            }
            self.raw("</section>\n");
        }
    }
}

/// The first of them, as many as are listed.
fn failures(report: &Report) -> Vec<String> {
    let errors = report.errors.iter().take(MOST_ERRORS);
    errors.map(|error| format!("{}: {}", escape::path(&error.path), error.message)).collect()
}

fn percent(share: impl Into<f64>) -> String {
    format!("{:.1} %", share.into() * 100.0)
}

fn level(level: Level) -> String {
    typed_level(level)
}

/// What the charts are drawn from.
#[derive(Serialize)]
struct Figures {
    /// Seconds since the run began, of each sample.
    t: Vec<f64>,
    /// Content, bytes a second.
    rate: Vec<f64>,
    memory: Vec<u64>,
    buffers: Vec<u64>,
    budget: u64,
    planned: u64,
    stages: Vec<StageFigures>,
    curves: Vec<Curve>,
    sweep: Vec<Point>,
}

#[derive(Serialize)]
struct StageFigures {
    name: &'static str,
    utilization: Option<Vec<f64>>,
    queue: Option<Vec<f64>>,
}

/// A distribution as HdrHistogram plots it.
#[derive(Serialize)]
struct Curve {
    name: &'static str,
    /// `1 / (1 - share)`.
    at: Vec<f64>,
    us: Vec<f64>,
}

#[derive(Serialize)]
struct Point {
    size: f64,
    rate: Option<f64>,
    predicted: f64,
    pareto: bool,
}

fn figures(ended: &Ended<'_>) -> String {
    let report = ended.report;
    let Timeline { samples, stages, budget, .. } = &report.timeline;
    // What is known from both are the stages of the pipeline, in its order.
    let position = |name: &str| stages.iter().position(|stage| *stage == name);
    let queued = |name: &str| {
        let plan = report.plan.as_ref();
        plan.is_some_and(|plan| plan.queue_depths.iter().any(|(queue, _)| *queue == name))
    };
    let stage = |stage: &StageReport| {
        let place = position(stage.name);
        let over_time = |pick: fn(&flint_pipe::StageSample) -> f64| {
            let place = place?;
            let at = |sample: &flint_pipe::Sample| sample.stages.get(place).map_or(0.0, pick);
            Some(samples.iter().map(|sample| short(at(sample))).collect::<Vec<_>>())
        };
        StageFigures {
            name: stage.name,
            utilization: over_time(|stage| stage.utilization),
            queue: queued(stage.name).then(|| over_time(|stage| stage.queue)).flatten(),
        }
    };
    let points = ended.profile.and_then(|profile| profile.sweep.as_ref()).map_or(&[][..], |sweep| &sweep.points);
    let figures = Figures {
        t: samples.iter().map(|sample| short(sample.at.as_secs_f64())).collect(),
        rate: samples.iter().map(|sample| short(sample.bytes as f64 / sample.length.as_secs_f64().max(1e-9))).collect(),
        memory: samples.iter().map(|sample| sample.memory).collect(),
        buffers: samples.iter().map(|sample| sample.buffers).collect(),
        budget: *budget,
        planned: report.plan.as_ref().map_or(0, |plan| plan.peak_memory_bytes),
        stages: report.stages.iter().map(stage).collect(),
        curves: curves(&report.stages),
        sweep: points
            .iter()
            .map(|point| Point {
                size: point.stored_share,
                rate: point.measured_bytes_per_sec,
                predicted: point.predicted_bytes_per_sec,
                pareto: point.pareto,
            })
            .collect(),
    };
    let text = serde_json::to_string(&figures).expect("these fields are numbers and fixed names");
    // So that no text can end the element that this stands in.
    text.replace('<', "\\u003c")
}

/// The curves of the stages that have one, to the last item that there was.
fn curves(stages: &[StageReport]) -> Vec<Curve> {
    let curve = |stage: &StageReport| {
        let last = stage.service.count as f64;
        let points = stage.service_curve.iter();
        let points: Vec<_> =
            points.map(|(share, time)| ((1.0 / (1.0 - share)).min(last).max(1.0), micros(*time))).collect();
        Curve {
            name: stage.name,
            at: points.iter().map(|(at, _)| short(*at)).collect(),
            us: points.iter().map(|(_, us)| short(*us)).collect(),
        }
    };
    stages.iter().filter(|stage| stage.service.count > 1).map(curve).collect()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// To five digits: more are not seen in a chart.
fn short(value: f64) -> f64 {
    let text = format!("{value:.4e}");
    text.parse().ok().filter(|value: &f64| value.is_finite()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use flint_pipe::{EntryError, EntryErrorKind};

    use super::*;

    #[test]
    fn nothing_that_anybody_may_have_named_is_taken_for_html() {
        let hostile = "</script><img src=x onerror=alert(1)>'\"&\u{202e}";
        let mut report = Report::default();
        let (path, message) = (hostile.into(), hostile.to_owned());
        report.errors.push(EntryError { path, kind: EntryErrorKind::Io, message });
        report.notes.push(hostile.to_owned());
        let ended = Ended {
            command: "add",
            place: Path::new(hostile),
            status: Status::Failed,
            error: Some(hostile.to_owned()),
            report: &report,
            profile: None,
            json: String::new(),
            text: String::new(),
        };
        let page = page(&ended);
        assert!(!page.contains("<img") && !page.contains('\u{202e}'));
        assert_eq!(page.matches("</script>").count(), 3, "the page's own");
        assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;&#39;&quot;&amp;"));
    }

    #[test]
    fn of_many_failures_the_first_are_listed_and_all_are_counted() {
        let mut report = Report::default();
        for number in 0..=MOST_ERRORS {
            let (path, message) = (format!("file {number}").into(), "cannot open: no".to_owned());
            report.errors.push(EntryError { path, kind: EntryErrorKind::Io, message });
        }
        let mut page = Page { text: String::new() };
        page.errors(&report);
        assert_eq!(page.text.matches("<li>").count(), MOST_ERRORS);
        assert!(page.text.contains("<h2>Failures: 501</h2>") && page.text.contains("and 1 more"), "{}", page.text);
    }

    #[test]
    fn figures_are_shown_to_five_digits() {
        for (value, shown) in [(0.0, 0.0), (1.234_567_8, 1.2346), (123_456_789.0, 123_460_000.0), (f64::NAN, 0.0)] {
            assert_eq!(short(value), shown);
        }
    }
}
