//! Removing: a new snapshot without some names. What older snapshots have stays, and so does the space it takes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::engine::api::RemoveOptions;
use crate::engine::commit::{Ready, about_this_run};
use crate::engine::full_index::write_full_if_due;
use crate::engine::observe::{EntryErrorKind, Failed, Observer, Report};
use crate::engine::run::Run;
use crate::engine::segment::SegmentWriter;
use crate::engine::select::Selection;
use crate::engine::state::State;
use crate::engine::vault::Vault;
use crate::error::{Error, Result};
use crate::format::entry::{EntryPath, EntryType};
use crate::format::index::{BlockRef, Item, Replacement};
use crate::format::tree::TreeWriter;

impl Vault {
    /// Takes entries out: a new snapshot has all that the newest one had, but for these names and what is below them.
    /// Other names of a hard-linked file stay, and keep its content.
    ///
    /// The report counts them in [`Report::removed_files`] and [`Report::removed_directories`], as they were when the
    /// operation began: what others store below a removed directory until it commits goes, too.
    ///
    /// # Errors
    /// [`Error::NoEntry`] if the names stand for nothing at all; one that stands for nothing beside others that do is named
    /// in the report. Else whatever ended the operation; the vault is as it was (but see [`Error::CommitUncertain`]).
    pub fn remove(
        &self,
        names: &[PathBuf],
        options: &RemoveOptions,
        observer: &dyn Observer,
    ) -> Result<Report, Failed> {
        let mut removed = Removed::default();
        let (result, run) = Run::conduct("remove", &self.path, &options.pipeline, observer, |run| {
            self.warnings.iter().for_each(|warning| run.note(&self.path, warning.clone()));
            if names.is_empty() {
                return Err(Error::Usage("nothing was named to be removed".to_owned()));
            }
            if options.dry_run {
                removed = Removed::find(run, &self.reader(false)?, names)?;
                return Ok(());
            }
            let writer = self.writer(run)?;
            let base = &writer.state;
            base.warnings.iter().for_each(|warning| run.note(&self.path, warning.clone()));
            removed = Removed::find(run, base, names)?;
            self.commit_removal(run, base, options, &mut removed)
        });
        let mut report = run.into_report("remove", Vec::new());
        report.snapshot = removed.snapshot;
        (report.removed_files, report.removed_directories) = (removed.files, removed.directories);
        (report.total_files, report.successful_files) = (removed.files, removed.files);
        report.directories = removed.directories;
        report.total_size = removed.bytes;
        report.stored_size = removed.stored_size;
        match result {
            Ok(()) => Ok(report),
            Err(error) => Err(Failed { error, report: Box::new(report) }),
        }
    }

    fn commit_removal(
        &self,
        run: &Run<'_>,
        base: &State,
        options: &RemoveOptions,
        removed: &mut Removed,
    ) -> Result<()> {
        let (storage, timeout) = (base.storage.clone(), run.config.lock_timeout);
        let segment = SegmentWriter::new(storage, &self.path, &self.keys, &run.stop, timeout)?;
        self.commit_segment(run, base, &segment, || {
            let delta = removed.write_delta(&segment)?;
            let full = write_full_if_due(run, base, &segment)?;
            let snapshot = about_this_run(&options.command_line, &options.tags);
            Ok(Ready { delta, full, snapshot, skipped: None })
        })
        .map(|number| removed.snapshot = Some(number))
        .inspect(|()| removed.stored_size = segment.written())
    }
}

/// What is removed.
#[derive(Default)]
struct Removed {
    /// Entries that go by themselves, and directories that go with what is below them.
    names: Vec<(EntryPath, EntryType)>,
    files: u64,
    directories: u64,
    bytes: u64,
    snapshot: Option<u64>,
    stored_size: u64,
}

impl Removed {
    /// Finds what the names stand for in the newest snapshot.
    fn find(run: &Run<'_>, state: &State, names: &[PathBuf]) -> Result<Self> {
        let trees = state.trees(&state.commit)?;
        let mut selection = Selection::new(state, &trees, names)?;
        let mut removed = Self::default();
        while let Some((_, entry)) = selection.next()? {
            run.check()?;
            match entry.entry_type {
                EntryType::Directory => removed.directories += 1,
                _ => removed.files += 1,
            }
            removed.bytes += entry.size;
            // The entries below a directory come right behind it. Those below a parent that is none are named one by one.
            if removed.names.last().is_none_or(|(last, _)| !entry.path.is_below(last)) {
                removed.names.push((entry.path, entry.entry_type));
            }
        }
        if let (true, Some(error)) = (removed.names.is_empty(), selection.no_entry()) {
            return Err(error);
        }
        for name in selection.unmatched() {
            let message = "the newest snapshot has no such entry".to_owned();
            run.entry_failed(name.as_path(), EntryErrorKind::NotFound, message);
        }
        Ok(removed)
    }

    /// Writes the delta that takes it out.
    fn write_delta(&self, segment: &SegmentWriter) -> Result<(BlockRef, u64)> {
        let mut writer = TreeWriter::default();
        let mut replacements = Vec::new();
        let mut sink = segment;
        for (path, entry_type) in &self.names {
            if *entry_type == EntryType::Directory {
                replacements.push(Replacement { path: path.as_bytes().to_vec(), except: Vec::new() });
            } else {
                writer.push(&Item::Delete(path.clone()), &mut sink)?;
            }
        }
        writer.finish(vec![segment.salt()], BTreeMap::new(), replacements, &mut sink)
    }
}
