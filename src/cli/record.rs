//! The files that tell of a run in detail: made ready before it begins, written when it has ended.
//!
//! What cannot be written is an error before the work starts. What fails later, as a disk that fills up, is told, and the
//! run and its status are none the worse for it. Each file comes to its place whole, or not at all.

mod hlog;
mod html;
mod metrics;
mod trace;

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flint_pipe::{Error, Interval, PipelineConfig, Profile, Report};
use rustix::fs::OFlags;

use crate::cli::args::RecordArgs;
use crate::cli::escape;
use crate::cli::exit::Status;
use crate::cli::message;
use crate::cli::record::hlog::Hlog;
use crate::cli::replace::{self, replace};

/// Failures, and notes, that a report in text has.
const MOST_LINES: usize = 1000;

/// The form that a report's suffix names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Html,
    Json,
    Text,
}

impl Form {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "html" => Some(Self::Html),
            "json" => Some(Self::Json),
            "txt" => Some(Self::Text),
            _ => None,
        }
    }
}

/// The files that were asked for.
#[derive(Debug)]
pub(crate) struct Records {
    reports: Vec<(PathBuf, Form)>,
    hlog: Option<Hlog>,
    trace: Option<PathBuf>,
    metrics: Option<PathBuf>,
}

/// How a command ended, for its files.
pub(crate) struct Ended<'a> {
    pub(crate) command: &'static str,
    /// The vault, or what was measured.
    pub(crate) place: &'a Path,
    pub(crate) status: Status,
    /// The error that ended it, in words.
    pub(crate) error: Option<String>,
    /// What was done; of a profile, the median round.
    pub(crate) report: &'a Report,
    /// All of a profile.
    pub(crate) profile: Option<&'a Profile>,
    /// What `--json` prints, with the timeline; empty where nobody asks for it ([`Records::has_json`]).
    pub(crate) json: String,
    /// What a person reads on the terminal.
    pub(crate) text: String,
}

impl Records {
    /// Makes ready what `args` ask for.
    ///
    /// - `others`: what none of them may be: the vault, and whatever else the command reads or writes.
    ///
    /// # Errors
    /// [`Error::Usage`] for a suffix that names no form, and two files in one place; whatever keeps a file from being
    /// written.
    pub(crate) fn prepare(args: &RecordArgs, others: &[&Path]) -> Result<Self, Error> {
        let reports = args.report.iter().map(|path| match Form::of(path) {
            Some(form) => Ok((path.clone(), form)),
            None => {
                let path = escape::path(path);
                Err(Error::Usage(format!("--report {path} names no form: its name ends in .html, .json or .txt")))
            }
        });
        let reports = reports.collect::<Result<Vec<_>, Error>>()?;
        let mut known: Vec<(Identity, &Path)> = others.iter().map(|path| (Identity::of(path), *path)).collect();
        let files = [&args.hlog, &args.trace, &args.metrics];
        for path in reports.iter().map(|(path, _)| path).chain(files.into_iter().flatten()) {
            let own = Identity::of(path);
            if let Some(at) = known.iter().position(|(other, _)| *other == own) {
                let (path, other) = (escape::path(path), escape::path(known[at].1));
                let what = if at < others.len() {
                    "would take the place of what is packed or read"
                } else {
                    "is asked for twice"
                };
                return Err(Error::Usage(format!("{path} {what}: {other}")));
            }
            replace::check(path)?;
            known.push((own, path));
        }
        Ok(Self {
            reports,
            hlog: args.hlog.as_deref().map(Hlog::begin).transpose()?,
            trace: args.trace.clone(),
            metrics: args.metrics.clone(),
        })
    }

    /// What the library has to record for them.
    pub(crate) fn ask(args: &RecordArgs, config: &mut PipelineConfig) {
        config.record.intervals = args.hlog.is_some();
        config.record.spans = args.trace.is_some();
    }

    /// Whether a report in JSON is among them: with many failures it is not made for nothing.
    pub(crate) fn has_json(&self) -> bool {
        self.reports.iter().any(|(_, form)| *form == Form::Json)
    }

    /// The latencies of the last second.
    pub(crate) fn interval(&self, interval: &Interval<'_>) {
        if let Some(hlog) = &self.hlog {
            hlog.interval(interval);
        }
    }

    /// Writes them all; answers what there is to say of them, a line each.
    pub(crate) fn write(&self, ended: &Ended<'_>) -> Vec<String> {
        let mut lines = Vec::new();
        let mut tell = |written: Result<(), Error>| {
            if let Err(error) = written {
                lines.push(format!("{}; what was run is none the worse for it", message::shown(&error)));
            }
        };
        for (path, form) in &self.reports {
            tell(match form {
                Form::Html => replace(path, html::page(ended).as_bytes()),
                Form::Json => replace(path, ended.json.as_bytes()),
                Form::Text => replace(path, text(ended).as_bytes()),
            });
        }
        if let Some(hlog) = &self.hlog {
            tell(hlog.finish());
        }
        if let Some(path) = &self.trace {
            tell(trace::write(path, ended));
        }
        tell(self.metrics(ended));
        lines.extend(self.trace.as_ref().and_then(|_| trace::put_together(ended.report)));
        lines
    }

    fn metrics(&self, ended: &Ended<'_>) -> Result<(), Error> {
        let Some(path) = &self.metrics else { return Ok(()) };
        let before = earlier(path).unwrap_or_default();
        replace(path, metrics::text(ended, &before, SystemTime::now()).as_bytes())
    }

    /// Writes the metrics of a run that is being left behind.
    pub(crate) fn write_metrics(&self, command: &'static str, place: &Path, status: Status, report: &Report) {
        let (error, json, text) = (None, String::new(), String::new());
        // Nobody is left to be told.
        let _ = self.metrics(&Ended { command, place, status, error, report, profile: None, json, text });
    }
}

/// What an earlier run has left at this path, of which a success is remembered; a little of it, and only of a file: what
/// else may stand there could keep the reader waiting.
fn earlier(path: &Path) -> Option<String> {
    const MOST: u64 = 1 << 20;
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(nonblock).open(path).ok()?;
    let mut text = String::new();
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// What a person reads on the terminal: the summary, and what failed.
fn text(ended: &Ended<'_>) -> String {
    let mut text = ended.text.clone();
    let report = ended.report;
    let failures = report.errors.iter().map(message::entry);
    for line in failures.take(MOST_LINES) {
        text.push_str(&format!("error: {line}\n"));
    }
    for line in report.notes.iter().take(MOST_LINES) {
        text.push_str(&format!("note: {}\n", escape::text(line)));
    }
    for (count, what) in [(report.errors.len(), "errors"), (report.notes.len(), "notes")] {
        if count > MOST_LINES {
            text.push_str(&format!("{} more {what} are not shown\n", count - MOST_LINES));
        }
    }
    text
}

/// Which file a path leads to, whatever it is called.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// Device and inode of what is there.
    There(u64, u64),
    /// Those of the directory in which it would be made, and its name there.
    Missing(u64, u64, OsString),
    /// There is not even a directory.
    Nowhere(PathBuf),
}

/// A symlink that leads through more others leads nowhere.
const MOST_LINKS: usize = 40;

impl Identity {
    fn of(path: &Path) -> Self {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            if let Ok(found) = std::fs::metadata(&path) {
                return Self::There(found.dev(), found.ino());
            }
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            // What would be written is where a link leads that leads nowhere yet.
            if let Ok(target) = std::fs::read_link(&path) {
                path = parent.join(target);
                continue;
            }
            return match (std::fs::metadata(parent), path.file_name()) {
                (Ok(parent), Some(name)) => Self::Missing(parent.dev(), parent.ino(), name.to_owned()),
                _ => Self::Nowhere(path),
            };
        }
        Self::Nowhere(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_names_the_form() {
        for (name, form) in [
            ("a.html", Some(Form::Html)),
            ("a.b.HTML", Some(Form::Html)),
            ("a.json", Some(Form::Json)),
            ("a.txt", Some(Form::Text)),
            ("a", None),
            ("a.md", None),
            (".html", None),
        ] {
            assert_eq!(Form::of(Path::new(name)), form, "{name}");
        }
    }

    #[test]
    fn no_two_files_have_one_place_and_none_is_the_vault() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| temp.path().join(name);
        std::os::unix::fs::symlink("a.html", at("link.html")).expect("a link");
        std::fs::write(at("a.html"), "").expect("written");
        std::fs::write(at("v.json"), "").expect("written");
        std::os::unix::fs::symlink("new.json", at("dangling")).expect("a link");
        let prepare = |reports: &[&str], trace: Option<&str>| {
            let report = reports.iter().map(|name| at(name)).collect();
            let args = RecordArgs { report, trace: trace.map(at), ..RecordArgs::default() };
            Records::prepare(&args, &[&at("v.json"), &at("dangling")])
        };
        assert!(prepare(&["a.html", "b.html", "a.json"], Some("t.json")).is_ok());
        for (reports, trace, words) in [
            (&["a.html", "a.html"][..], None, "is asked for twice"),
            (&["a.html", "link.html"], None, "is asked for twice"),
            (&["b.json"], Some("b.json"), "is asked for twice"),
            (&["new.json"], None, "would take the place of what is packed or read"),
            (&["v.json"], None, "would take the place of what is packed or read"),
            (&["a"], None, "names no form"),
        ] {
            let error = prepare(reports, trace).expect_err("that cannot be").to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(matches!(prepare(&["none/a.html"], None), Err(Error::Io { .. })));
        let names = std::fs::read_dir(temp.path()).expect("it is there").count();
        assert_eq!(names, 4, "nothing is left behind");
    }
}
