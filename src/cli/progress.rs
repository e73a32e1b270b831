//! How a run looks while it goes on: a bar, or lines, and the messages between.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flint_pipe::{Notice, Observer, Progress, StageProgress, format_rate, format_size};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::args::ProgressMode;
use crate::cli::console::Console;
use crate::cli::{escape, message};

/// How many failures, and how many notes, are printed; the rest are counted.
const MAX_SHOWN: u64 = 1000;
/// The time between two lines of plain progress.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Listens to a run for a person.
#[derive(Debug)]
pub(crate) struct Listener {
    console: Console,
    plain: bool,
    heard: Mutex<Heard>,
}

/// What was heard of the run so far.
#[derive(Debug)]
struct Heard {
    latest: Option<Progress>,
    /// When a figure of `latest` last changed.
    moved_at: Instant,
    /// The run waits for a lock, and has not moved since it said so.
    waits_for_lock: bool,
    /// When a line of plain progress was last printed.
    printed_at: Instant,
    failures: u64,
    notes: u64,
}

impl Listener {
    /// A listener that shows what `mode` says.
    pub(crate) fn new(mode: ProgressMode) -> Self {
        // A terminal that cannot move its cursor would show each state of a bar in a line of its own.
        let can_draw = |name: OsString| !name.is_empty() && name != "dumb";
        let terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(can_draw);
        let (bar, plain) = match mode {
            ProgressMode::Auto => (terminal, !terminal && io::stderr().is_terminal()),
            ProgressMode::Always => (terminal, !terminal),
            ProgressMode::Never => (false, false),
            ProgressMode::Plain => (false, true),
        };
        let now = Instant::now();
        Self {
            console: Console::new(bar.then(new_bar)),
            plain,
            heard: Mutex::new(Heard {
                latest: None,
                moved_at: now,
                waits_for_lock: false,
                printed_at: now,
                failures: 0,
                notes: 0,
            }),
        }
    }

    /// Where messages go.
    pub(crate) fn console(&self) -> &Console {
        &self.console
    }

    /// Takes the bar away, prints the last line of plain progress, and says what was not printed. For the end of a run.
    pub(crate) fn finish(&self) {
        self.console.bar().finish_and_clear();
        let heard = self.heard();
        if let (true, Some(latest)) = (self.plain, &heard.latest) {
            self.console.say(&plain_line(latest));
        }
        for (count, what) in [(heard.failures, "errors"), (heard.notes, "notes")] {
            if count > MAX_SHOWN {
                self.console.note(&format!("{} more {what} are not shown", count - MAX_SHOWN));
            }
        }
    }

    /// The latest figures, if any came.
    pub(crate) fn latest(&self) -> Option<Progress> {
        self.heard().latest.clone()
    }

    /// Since when nothing has moved; `None` while that says nothing: before the first figures, and during a wait for a
    /// lock.
    pub(crate) fn unmoved_since(&self) -> Option<Instant> {
        let heard = self.heard();
        (heard.latest.is_some() && !heard.waits_for_lock).then_some(heard.moved_at)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Listener {
    fn notice(&self, notice: &Notice) {
        match notice {
            Notice::Failed(error) => {
                let is_shown = next(&mut self.heard().failures);
                if is_shown {
                    self.console.error(&message::entry(error));
                }
            }
            Notice::Note { path, message } => {
                let is_shown = next(&mut self.heard().notes);
                if is_shown {
                    self.console.note(&format!("{}: {}", escape::text(message), escape::path(path)));
                }
            }
            Notice::WaitingForLock { vault } => {
                self.heard().waits_for_lock = true;
                self.console
                    .note(&format!("waiting for the vault's lock, held by another process: {}", escape::path(vault)));
            }
            _ => {}
        }
    }

    fn progress(&self, progress: &Progress) {
        let now = Instant::now();
        let mut heard = self.heard();
        if heard.latest.as_ref().is_none_or(|latest| figures(latest) != figures(progress)) {
            heard.moved_at = now;
            heard.waits_for_lock = false;
        }
        let is_first = heard.latest.replace(progress.clone()).is_none();
        let print = self.plain && now.duration_since(heard.printed_at) >= PLAIN_EVERY;
        if print {
            heard.printed_at = now;
        }
        drop(heard);
        if print {
            self.console.say(&plain_line(progress));
        }
        let bar = self.console.bar();
        if is_first {
            // Its clock has run since the command began; the password was asked for meanwhile.
            bar.reset();
        }
        if bar.is_hidden() {
            return;
        }
        let room = Room::now();
        let stages = stage_lines(progress, room);
        bar.set_style(room.style(!stages.is_empty()));
        let known = progress.bytes_known.max(progress.bytes_done);
        bar.set_prefix(stages);
        bar.set_message(bar_message(progress));
        bar.update(|state| {
            state.set_pos(progress.bytes_done);
            if known > 0 {
                state.set_len(known);
            }
        });
    }
}

/// Counts one more, and says whether it is to be printed.
fn next(count: &mut u64) -> bool {
    *count += 1;
    *count <= MAX_SHOWN
}

/// What counts as moving.
fn figures(progress: &Progress) -> (u64, u64, u64, bool, &'static str) {
    let Progress { activity, files_known, bytes_known, all_known, phase, .. } = *progress;
    (activity, files_known, bytes_known, all_known, phase)
}

/// The bar alone; its message is cut where the terminal ends.
const BAR: &str = "[{wide_bar}] {msg}";
/// Where there is no room for a bar.
const NARROW: &str = "{wide_msg}";
/// Columns from which on there is room for a bar.
const WIDE: usize = 72;
/// Columns that a line of a stage takes.
const STAGE_COLUMNS: usize = 66;
/// Cells of a stage's own bar.
const CELLS: usize = 20;

/// What fits on the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    bar: bool,
    /// Lines beside the first.
    lines: usize,
}

impl Room {
    /// On a terminal of so many columns and rows.
    fn of(columns: usize, rows: usize) -> Self {
        // The cursor's line, and one of what was there before.
        let lines = if columns > STAGE_COLUMNS { rows.saturating_sub(3) } else { 0 };
        Self { bar: columns >= WIDE, lines }
    }

    /// On the terminal of standard error, as it is now.
    fn now() -> Self {
        let size = rustix::termios::tcgetwinsize(io::stderr());
        let (columns, rows) = size.map_or((0, 0), |size| (usize::from(size.ws_col), usize::from(size.ws_row)));
        // One that does not say how large it is, is taken for the smallest that there was.
        if columns == 0 || rows == 0 { Self::of(80, 24) } else { Self::of(columns, rows) }
    }

    fn style(self, has_stages: bool) -> ProgressStyle {
        let line = if self.bar { BAR } else { NARROW };
        let template = if has_stages { format!("{line}\n{{prefix}}") } else { line.to_owned() };
        let style =
            ProgressStyle::with_template(&template).expect("the templates are constants, and a test draws them");
        style.progress_chars("=> ")
    }
}

fn new_bar() -> ProgressBar {
    let style = Room::of(80, 24).style(false);
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style)
}

/// What the bar says beside itself.
fn bar_message(progress: &Progress) -> String {
    let mut text = format!("{} of {}", format_size(progress.bytes_done), format_size(progress.bytes_known));
    if progress.bytes_per_sec > 0.0 {
        text.push_str(&format!(" {}", format_rate(progress.bytes_per_sec)));
    }
    push_left(&mut text, progress);
    text.push_str(&format!(", {}{}", progress.phase, files(progress, " ")));
    text
}

/// How many files are done; nothing of a run that counts none.
fn files(progress: &Progress, before: &str) -> String {
    match progress.files_known {
        0 => String::new(),
        known => format!("{before}{} of {known} files", progress.files_done),
    }
}

/// A line for each stage: how busy it is, and how full the queue before it. So one sees where it jams. Nothing where there is
/// no room for all of them.
fn stage_lines(progress: &Progress, room: Room) -> String {
    let mut lines: Vec<String> = progress.stages.iter().map(stage_line).collect();
    if let Some((used, total)) = progress.buffers.filter(|(_, total)| *total > 0) {
        let share = used as f64 / total as f64;
        let words = format!("{} of {}", format_size(used), format_size(total));
        lines.push(format!("  {:<10} {:>3.0}% [{}] {words}", "buffers", share * 100.0, cells(share)));
    }
    let cut = |line: &String| line.chars().take(STAGE_COLUMNS).collect();
    let lines: Vec<String> = lines.iter().map(cut).collect();
    if lines.len() > room.lines { String::new() } else { lines.join("\n") }
}

fn stage_line(stage: &StageProgress) -> String {
    let queue = stage.queue.map(|(len, slots)| format!(" queue {len}/{slots}")).unwrap_or_default();
    let share = stage.utilization;
    format!("  {:<10} {:>3.0}% [{}]{queue}", stage.name, share * 100.0, cells(share))
}

/// A share as a bar.
fn cells(share: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "held between 0 and the number of cells"
    )]
    let full = (share.clamp(0.0, 1.0) * CELLS as f64).round() as usize;
    format!("{}{}", "#".repeat(full), ".".repeat(CELLS - full))
}

/// One line of plain progress.
fn plain_line(progress: &Progress) -> String {
    let seconds = progress.elapsed.as_secs_f64();
    let average = if seconds > 0.0 { progress.bytes_done as f64 / seconds } else { 0.0 };
    let rate = if progress.bytes_per_sec > 0.0 { progress.bytes_per_sec } else { average };
    let mut text = format!(
        "{}: {} of {}{}, {}",
        progress.phase,
        format_size(progress.bytes_done),
        format_size(progress.bytes_known),
        files(progress, ", "),
        format_rate(rate),
    );
    push_left(&mut text, progress);
    if let Some((stage, utilization)) = progress.busiest {
        text.push_str(&format!(", {stage} {:.0}%", utilization * 100.0));
    }
    text
}

/// The time that is left; rounded up, so that it is 0 only at the end.
fn push_left(text: &mut String, progress: &Progress) {
    if let Some(left) = progress.remaining.filter(|_| progress.bytes_known > progress.bytes_done) {
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        text.push_str(&format!(", {} left", humantime::format_duration(Duration::from_secs(seconds))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halfway() -> Progress {
        let mut progress = Progress::default();
        progress.phase = "pack";
        progress.files_done = 3;
        progress.files_known = 6;
        progress.bytes_done = 50 << 20;
        progress.bytes_known = 100 << 20;
        progress.all_known = true;
        progress.elapsed = Duration::from_secs(10);
        progress.busiest = Some(("compress", 0.974));
        progress.bytes_per_sec = 5_242_880.0;
        progress.remaining = Some(Duration::from_millis(9_500));
        progress
    }

    #[test]
    fn the_bar_can_be_drawn() {
        let bar = new_bar();
        bar.set_draw_target(ProgressDrawTarget::hidden());
        bar.set_message(bar_message(&halfway()));
        assert_eq!(bar.message(), "50 MiB of 100 MiB 5 MiB/s, 10s left, pack 3 of 6 files");
        for (columns, rows) in [(0, 0), (20, 5), (80, 24), (200, 50)] {
            [true, false].into_iter().for_each(|has_stages| bar.set_style(Room::of(columns, rows).style(has_stages)));
        }
    }

    #[test]
    fn a_plain_line_names_phase_figures_time_left_and_busiest_stage() {
        let line = plain_line(&halfway());
        for part in ["pack: ", "3 of 6 files", ", 10s left", ", compress 97%"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn no_time_left_is_told_while_the_end_is_not_known() {
        let mut progress = halfway();
        progress.remaining = None;
        assert!(!plain_line(&progress).contains("left"));
        assert!(!plain_line(&Progress::default()).contains("left"));
    }

    #[test]
    fn each_stage_has_a_line_where_there_is_room_for_all() {
        let mut progress = halfway();
        let mut stage = StageProgress::default();
        (stage.name, stage.utilization) = ("scan", 0.0);
        progress.stages.push(stage.clone());
        (stage.name, stage.utilization, stage.queue) = ("decompress", 1.0, Some((65_536, 65_536)));
        progress.stages.push(stage);
        progress.buffers = Some((48 << 20, 96 << 20));
        let lines = stage_lines(&progress, Room::of(80, 24));
        let expected = [
            "  scan         0% [....................]",
            "  decompress 100% [####################] queue 65536/65536",
            "  buffers     50% [##########..........] 48 MiB of 96 MiB",
        ];
        let lines: Vec<_> = lines.lines().collect();
        assert_eq!(lines, expected);
        assert!(lines.iter().all(|line| line.len() <= STAGE_COLUMNS));
        for (columns, rows) in [(STAGE_COLUMNS, 24), (80, 5)] {
            assert_eq!(stage_lines(&progress, Room::of(columns, rows)), "", "{columns} x {rows}");
        }
    }

    #[test]
    fn only_figures_that_change_count_as_moving() {
        let listener = Listener::new(ProgressMode::Never);
        assert_eq!(listener.unmoved_since(), None);
        listener.progress(&halfway());
        let first = listener.unmoved_since().expect("figures came");
        let mut later = halfway();
        later.elapsed += Duration::from_secs(1);
        listener.progress(&later);
        assert_eq!(listener.unmoved_since(), Some(first));
        later.activity += 1;
        listener.progress(&later);
        assert_ne!(listener.unmoved_since(), Some(first));
    }

    #[test]
    fn a_wait_for_a_lock_is_no_stall() {
        let listener = Listener::new(ProgressMode::Never);
        listener.progress(&halfway());
        listener.notice(&Notice::WaitingForLock { vault: "a.flint".into() });
        assert_eq!(listener.unmoved_since(), None);
        let mut later = halfway();
        later.activity += 1;
        listener.progress(&later);
        assert!(listener.unmoved_since().is_some());
    }

    #[test]
    fn of_many_failures_the_first_thousand_are_shown() {
        let mut count = 0;
        let shown = (0..2500).filter(|_| next(&mut count)).count();
        assert_eq!((shown, count), (1000, 2500));
    }
}
