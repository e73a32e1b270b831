//! What became of each entry that was to be restored: counted, and told to whoever listens.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::engine::observe::{EntryErrorKind, Report};
use crate::engine::run::{Run, describe};
use crate::format::entry::{Entry, EntryPath, EntryType};
use crate::format::merge::Untold;
use crate::format::tree::{Loss, Lost};
use crate::stages::unpack::told::{RestoreError, RestoreSink};

/// What became of the entries.
#[derive(Default)]
pub(crate) struct Tally {
    restored_files: AtomicU64,
    failed_files: AtomicU64,
    unchanged_files: AtomicU64,
    directories: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    /// An entry is there, with `size` bytes of content.
    pub(crate) fn restored(&self, is_directory: bool, size: u64) {
        if is_directory {
            self.directories.fetch_add(1, Ordering::Relaxed);
        } else {
            self.restored_files.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(size, Ordering::Relaxed);
        }
    }

    /// A file was there already.
    pub(crate) fn unchanged(&self) {
        self.restored_files.fetch_add(1, Ordering::Relaxed);
        self.unchanged_files.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry was left out as asked: handled.
    pub(crate) fn skipped(&self, is_directory: bool) {
        self.restored_files.fetch_add(u64::from(!is_directory), Ordering::Relaxed);
    }

    fn failed(&self, is_directory: bool) {
        self.failed_files.fetch_add(u64::from(!is_directory), Ordering::Relaxed);
    }

    pub(crate) fn fill(&self, report: &mut Report) {
        report.successful_files = self.restored_files.load(Ordering::Relaxed);
        report.unchanged_files = self.unchanged_files.load(Ordering::Relaxed);
        report.failed_files = self.failed_files.load(Ordering::Relaxed);
        report.total_files = report.successful_files + report.failed_files;
        report.directories = self.directories.load(Ordering::Relaxed);
        report.total_size = self.bytes.load(Ordering::Relaxed);
    }
}

/// What the destination tells, kept until somebody who knows the run passes it on: the destination outlives no run, but
/// the compiler cannot know.
#[derive(Default)]
pub(crate) struct Told {
    events: Mutex<Vec<Event>>,
}

enum Event {
    Restored { is_directory: bool, size: u64 },
    Unchanged,
    Skipped { is_directory: bool },
    Failed { path: EntryPath, is_directory: bool, error: RestoreError },
    Note { path: EntryPath, message: String },
}

impl Told {
    fn push(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

fn is_directory(entry: &Entry) -> bool {
    entry.entry_type == EntryType::Directory
}

impl RestoreSink for Told {
    fn restored(&self, entry: &Entry) {
        self.push(Event::Restored { is_directory: is_directory(entry), size: entry.size });
    }
    fn unchanged(&self, _: &Entry) {
        self.push(Event::Unchanged);
    }
    fn skipped(&self, entry: &Entry) {
        self.push(Event::Skipped { is_directory: is_directory(entry) });
    }
    fn failed(&self, entry: &Entry, error: RestoreError) {
        self.push(Event::Failed { path: entry.path.clone(), is_directory: is_directory(entry), error });
    }
    fn note(&self, path: &EntryPath, message: String) {
        self.push(Event::Note { path: path.clone(), message });
    }
}

/// Passes on what the destination told.
pub(crate) struct Telling<'r, 'c> {
    pub(crate) run: &'r Run<'c>,
    pub(crate) told: &'r Told,
    pub(crate) tally: &'r Tally,
}

impl Telling<'_, '_> {
    /// Tells of entries that the index says too little of, since parts of it are damaged.
    pub(crate) fn lost(&self, untold: Untold) {
        tell_lost(self.run, self.tally, untold);
    }

    pub(crate) fn pass_on(&self) {
        let events = std::mem::take(&mut *self.told.events.lock().unwrap_or_else(PoisonError::into_inner));
        let counters = &self.run.counters;
        let done = |is_directory: bool| counters.files_done.fetch_add(u64::from(!is_directory), Ordering::Relaxed);
        for event in events {
            match event {
                Event::Restored { is_directory, size } => {
                    self.tally.restored(is_directory, size);
                    done(is_directory);
                    counters.bytes_done.fetch_add(size, Ordering::Relaxed);
                }
                Event::Unchanged => {
                    self.tally.unchanged();
                    done(false);
                }
                Event::Skipped { is_directory } => {
                    self.tally.skipped(is_directory);
                    done(is_directory);
                }
                Event::Failed { path, is_directory, error } => {
                    self.tally.failed(is_directory);
                    done(is_directory);
                    let (kind, message) = restore_failure(&error);
                    self.run.entry_failed(path.as_path(), kind, message);
                }
                Event::Note { path, message } => self.run.note(path.as_path(), message),
            }
        }
    }
}

/// Tells of entries that the index says too little of, since parts of it are damaged.
pub(crate) fn tell_lost(run: &Run<'_>, tally: &Tally, Untold { losses, doubtful }: Untold) {
    for Loss { what, why } in losses {
        let why = describe(&why).1;
        match what {
            Lost::Range { from, to } => {
                let to = to.map_or_else(String::new, |to| format!(" up to {}", to.as_path().display()));
                let message = format!("whatever is here and behind it{to} is lost with a part of the index: {why}");
                let from = if from.is_root() { Path::new(".") } else { from.as_path() };
                run.entry_failed(from, EntryErrorKind::Damaged, message);
            }
            // Its entry follows as a doubtful one, if no later snapshot has put another in its place.
            Lost::Put(_) => {}
        }
    }
    for entry in doubtful {
        tally.failed(is_directory(&entry));
        let message = "what this snapshot has under this name is lost with a part of the index".to_owned();
        run.entry_failed(entry.path.as_path(), EntryErrorKind::Damaged, message);
    }
}

fn restore_failure(error: &RestoreError) -> (EntryErrorKind, String) {
    match error {
        RestoreError::Io { op, source } => (EntryErrorKind::of_io(source), format!("cannot {op}: {source}")),
        RestoreError::Damaged(why) => (EntryErrorKind::Damaged, format!("damaged in the vault: {why}")),
        RestoreError::Unsupported(what) => (EntryErrorKind::Unsupported, (*what).to_owned()),
    }
}
