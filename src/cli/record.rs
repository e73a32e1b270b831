//! The files that tell of a run in detail: made ready before it begins, written when it has ended.
//!
//! What cannot be written is an error before the work starts. What fails later, as a disk that fills up, is told, and the
//! run and its status are none the worse for it. Each file comes to its place whole, or not at all.

mod hlog;
mod html;
mod metrics;
mod trace;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flint_pipe::{Error, Interval, PipelineConfig, Profile, Report};

use crate::cli::args::RecordArgs;
use crate::cli::escape;
use crate::cli::exit::Status;
use crate::cli::message;
use crate::cli::record::hlog::Hlog;
use crate::cli::replace::{self, replace};

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
    /// What `--json` prints, with the timeline.
    pub(crate) json: String,
    /// What a person reads on the terminal.
    pub(crate) text: String,
}

impl Records {
    /// Makes ready what `args` ask for.
    ///
    /// - `vault`: what none of them may be: the vault, or what is measured.
    ///
    /// # Errors
    /// [`Error::Usage`] for a suffix that names no form, and two files in one place; whatever keeps a file from being
    /// written.
    pub(crate) fn prepare(args: &RecordArgs, vault: &Path) -> Result<Self, Error> {
        let reports = args.report.iter().map(|path| match Form::of(path) {
            Some(form) => Ok((path.clone(), form)),
            None => {
                let path = escape::path(path);
                Err(Error::Usage(format!("--report {path} names no form: its name ends in .html, .json or .txt")))
            }
        });
        let reports = reports.collect::<Result<Vec<_>, Error>>()?;
        let mut places: Vec<(PathBuf, &Path)> = vec![(place(vault), vault)];
        let others = [&args.hlog, &args.trace, &args.metrics];
        for path in reports.iter().map(|(path, _)| path).chain(others.into_iter().flatten()) {
            let own = place(path);
            if let Some((_, other)) = places.iter().find(|(other, _)| *other == own) {
                let (path, other) = (escape::path(path), escape::path(other));
                let what = if places[0].0 == own {
                    "would take the place of what is packed or read"
                } else {
                    "is asked for twice"
                };
                return Err(Error::Usage(format!("{path} {what}: {other}")));
            }
            replace::check(path)?;
            places.push((own, path));
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
                Form::Text => replace(path, ended.text.as_bytes()),
            });
        }
        if let Some(hlog) = &self.hlog {
            tell(hlog.finish());
        }
        if let Some(path) = &self.trace {
            tell(replace(path, trace::events(ended).as_bytes()));
        }
        tell(self.metrics(ended));
        lines.extend(self.trace.as_ref().and_then(|_| trace::put_together(ended.report)));
        lines
    }
}

impl Records {
    fn metrics(&self, ended: &Ended<'_>) -> Result<(), Error> {
        let Some(path) = &self.metrics else { return Ok(()) };
        // What an earlier run has left there, of which a success is remembered.
        let before = std::fs::read_to_string(path).unwrap_or_default();
        replace(path, metrics::text(ended, &before, SystemTime::now()).as_bytes())
    }

    /// Writes the metrics of a run that is being left behind.
    pub(crate) fn write_metrics(&self, command: &'static str, place: &Path, status: Status, report: &Report) {
        let (error, json, text) = (None, String::new(), String::new());
        // Nobody is left to be told.
        let _ = self.metrics(&Ended { command, place, status, error, report, profile: None, json, text });
    }
}

/// Where a path leads to, as far as there is anything.
fn place(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match (std::fs::canonicalize(parent), path.file_name()) {
            (Ok(parent), Some(name)) => parent.join(name),
            _ => path.to_owned(),
        }
    })
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
        let prepare = |reports: &[&str], trace: Option<&str>| {
            let report = reports.iter().map(|name| at(name)).collect();
            Records::prepare(&RecordArgs { report, trace: trace.map(at), ..RecordArgs::default() }, &at("v.json"))
        };
        assert!(prepare(&["a.html", "b.html", "a.json"], Some("t.json")).is_ok());
        for (reports, trace, words) in [
            (&["a.html", "a.html"][..], None, "is asked for twice"),
            (&["a.html", "link.html"], None, "is asked for twice"),
            (&["b.json"], Some("b.json"), "is asked for twice"),
            (&["v.json"], None, "would take the place of what is packed or read"),
            (&["a"], None, "names no form"),
        ] {
            let error = prepare(reports, trace).expect_err("that cannot be").to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(matches!(prepare(&["none/a.html"], None), Err(Error::Io { .. })));
        let names = std::fs::read_dir(temp.path()).expect("it is there").count();
        assert_eq!(names, 3, "nothing is left behind");
    }
}
