//! Standard error: errors, notes and hints, a line each, above a progress bar where there is one.

use std::io::Write as _;

use clap::builder::styling::{AnsiColor, Style};
use indicatif::ProgressBar;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const NOTE: Style = AnsiColor::Yellow.on_default();
const HINT: Style = AnsiColor::Cyan.on_default();

/// Where messages go. Lines are written whole, whatever thread they come from.
#[derive(Debug)]
pub(crate) struct Console {
    bar: ProgressBar,
}

impl Console {
    /// A console whose lines do not disturb `bar`.
    pub(crate) fn new(bar: Option<ProgressBar>) -> Self {
        Self { bar: bar.unwrap_or_else(ProgressBar::hidden) }
    }

    /// The bar, hidden where there is none.
    pub(crate) fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    /// `flint-pipe: error: MESSAGE`; the message is escaped already.
    pub(crate) fn error(&self, message: &str) {
        self.line(&format!("flint-pipe: {ERROR}error:{ERROR:#} {message}\n"));
    }

    /// `flint-pipe: note: MESSAGE`; the message is escaped already.
    pub(crate) fn note(&self, message: &str) {
        self.line(&format!("flint-pipe: {NOTE}note:{NOTE:#} {message}\n"));
    }

    /// `hint: MESSAGE`; the message is escaped already.
    pub(crate) fn hint(&self, message: &str) {
        self.line(&format!("{HINT}hint:{HINT:#} {message}\n"));
    }

    /// `flint-pipe: MESSAGE`, for progress.
    pub(crate) fn say(&self, message: &str) {
        self.line(&format!("flint-pipe: {message}\n"));
    }

    /// A line as it is.
    pub(crate) fn plain(&self, line: &str) {
        self.line(&format!("{line}\n"));
    }

    fn line(&self, line: &str) {
        // Nobody can be told that standard error is gone. Colours are taken out where nobody would see them.
        self.bar.suspend(|| {
            let _ = anstream::stderr().lock().write_all(line.as_bytes());
        });
    }
}
