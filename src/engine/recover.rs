//! What is left of a damaged vault, what is lost, and how is it mended?
//!
//! The whole file is looked through ([`survey`]); the commits that open are put in order ([`history`]); all trees of theirs
//! and all records that those need are read ([`check`]). Then the vault is mended in place ([`mend`]), or what authenticates
//! is saved to a new one ([`save`]), or nothing is written. The password, and a copy of the header that it opens, are all
//! that must be there.

mod check;
mod history;
mod mend;
mod save;
mod survey;

use std::path::Path;
use std::sync::Arc;

use crate::engine::api::RecoverOptions;
use crate::engine::device::Device;
use crate::engine::fit::{Course, UNPACK_CONTEXT, fit_unpack};
use crate::engine::locks::Held;
use crate::engine::observe::{
    EntryErrorKind, Failed, Observer, PlanReport, RecoveredSnapshot, Recovery, Report, StageReport,
};
use crate::engine::recover::check::Ground;
use crate::engine::recover::history::{Found, History, Kept, Origin};
use crate::engine::recover::mend::Faults;
use crate::engine::recover::save::Save;
use crate::engine::recover::survey::Survey;
use crate::engine::run::Run;
use crate::engine::state::{MetaReader, read_headers, read_roots};
use crate::engine::vault::{REPLACED, Vault, open_storage, vault_dir};
use crate::engine::verify::{ReadThrough, read_through};
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::commit::SNAPSHOT_RECOVERED;
use crate::format::header::{EXTENTS_AT, Header, Root};
use crate::format::index::SegmentSalt;
use crate::primitives::fs::Timestamp;
use crate::primitives::storage::{Lock, LockMode, Storage, VaultDir};

impl Vault {
    /// Looks through a damaged vault: says what is left of it and what is lost, by name; with
    /// [`output`](RecoverOptions::output) saves what authenticates to a new vault of the same keys, with
    /// [`in_place`](RecoverOptions::in_place) mends headers, roots and the chain of commits.
    ///
    /// What is lost is in [`Report::errors`]; what can be mended is no loss, and is in [`Report::recovery`] alone.
    ///
    /// # Errors
    /// [`Error::Damaged`] if nothing is left; [`Error::Locked`] if the vault is not to be had alone for mending,
    /// [`Error::Refused`] if the disk keeps some of it back then;
    /// [`Error::Exists`] if there is something at the path of the output. What is whole in the vault stays whole.
    pub fn recover(&self, options: &RecoverOptions, observer: &dyn Observer) -> Result<Report, Failed> {
        let mut done = Done::default();
        let (result, run) = Run::conduct("recover", &self.path, &options.pipeline, observer, |run| {
            if options.in_place && options.output.is_some() {
                return Err(Error::Usage("a vault is mended in place or saved to another file, not both".to_owned()));
            }
            self.recover_file(run, options, &mut done)
        });
        let mut report = run.into_report("recover", done.stages);
        report.stored_size = done.stored_bytes;
        report.plan = done.plan;
        report.recovery = done.recovery;
        match result {
            Ok(()) => Ok(report),
            Err(error) => Err(Failed { error, report: Box::new(report) }),
        }
    }

    fn recover_file(&self, run: &Run<'_>, options: &RecoverOptions, done: &mut Done) -> Result<()> {
        let output = options.output.as_deref().map(|path| new_vault(path).map(|dir| (path, dir))).transpose()?;
        let mends = options.in_place && !options.dry_run;
        let storage = open_storage(&self.path, &*self.dir, mends)?;
        let storage = storage.ok_or_else(|| Error::NoVault(self.path.to_path_buf()))?;
        // Before anything is looked at: what a writer has under way would look like damage.
        let presence = if mends {
            Some(Held::take(run, &self.path, &storage, Lock::Presence, LockMode::Exclusive)?)
        } else {
            None
        };
        let is_same = self.dir.is_same_file(&*storage).map_err(|error| Error::io(FileOp::Stat, &self.path, error))?;
        if !is_same {
            return Err(Error::Refused { what: REPLACED, path: self.path.to_path_buf() });
        }
        let header = self.newest_header(&*storage)?;

        // The root first: what it leads to is in the file then, and is found, whoever writes meanwhile.
        let roots = self.good_roots(&*storage)?;
        let is_one_bad = roots.iter().any(Option::is_none);
        let root = roots.into_iter().flatten().max_by_key(Root::generation);
        let mut survey = Survey::take(run, &*storage, &self.path, &self.keys.vault_id)?;
        let reader = MetaReader::new(Arc::clone(&storage), Arc::clone(&self.path), Arc::clone(&self.keys), false);
        let reader = Arc::new(reader);
        if let Some(root) = &root {
            let salt = root.commit().salt.0;
            survey.learn(&SegmentSalt { salt, wrapped: Vec::new() });
        }
        let found = Found::open(run, &mut survey, &reader)?;
        if found.is_empty() {
            let why = Malformation::Truncated { structure: "vault" };
            return Err(Error::malformed(&*self.path, EXTENTS_AT.min(survey.file_len), why));
        }
        let mut history = History::new(&found, root.as_ref(), is_one_bad, &options.command_line);
        let mut ground = Ground::walk(run, &survey, &reader, Arc::clone(&self.path), &mut history)?;
        self.read_records(run, options, &*storage, &reader, &mut ground, done)?;

        self.name_what_is_lost(run, &survey, &found, &history, &ground);
        if options.output.is_none() {
            let lost = |what| run.entry_failed(&self.path, EntryErrorKind::Damaged, what);
            ground.left_by_mending(run, &history.kept)?.into_iter().for_each(lost);
        }
        let lost = ground.name_losses(run, &history.kept)?;
        // What is not part of the vault is no loss.
        let (lost_beside, _) = ground.losses(run, &history.beside)?;
        let faults = Faults::find(run, self, &*storage, &header, &history)?;
        let mut recovery = Recovery {
            snapshots: snapshots(&history, &ground, &lost, &lost_beside),
            faults: faults.words.clone(),
            ..Recovery::default()
        };
        recovery.faults.extend(unrooted(&history, root.as_ref()));
        done.recovery = Some(recovery);
        if mends {
            if survey.unreadable > 0 || reader.has_failed() {
                // What it keeps back for a moment would be taken for lost, and left out for good.
                return Err(Error::Refused { what: FAILING_DISK, path: self.path.to_path_buf() });
            }
            if found.gave_up {
                return Err(Error::Refused { what: TOO_MUCH_FORGED, path: self.path.to_path_buf() });
            }
            mend::mend(run, self, &storage, &history, &faults)?;
            done.recovery.as_mut().expect("set above").mended = true;
        }
        drop(presence);
        if let Some((path, dir)) = output.filter(|_| !options.dry_run) {
            let to = dir.create_unlinked().map_err(|error| Error::io(FileOp::Create, path, error))?;
            let save = Save {
                run,
                vault: self,
                header: &header,
                survey: &survey,
                reader: &reader,
                ground: &ground,
                from: &*storage,
                to,
                path,
            };
            let saved = save::save(&save, &*dir, &history)?;
            done.recovery.as_mut().expect("set above").saved_bytes = Some(saved);
        }
        Ok(())
    }

    /// The header that the password has opened, if a copy of it still stands: another that verifies may not open with it.
    /// Else the newest copy that verifies, for the password may have been changed since.
    fn newest_header(&self, storage: &dyn Storage) -> Result<Header> {
        let mut newest: Option<(u64, Header)> = None;
        for (_, copy) in read_headers(storage, &self.path, false)? {
            let Ok(copy) = copy else { continue };
            let sequence = copy.sequence();
            let Ok(header) = copy.verify(&self.keys.header) else { continue };
            if header == self.header {
                return Ok(header);
            }
            if newest.as_ref().is_none_or(|(known, _)| *known < sequence) {
                newest = Some((sequence, header));
            }
        }
        let replaced = || Error::Refused { what: REPLACED, path: self.path.to_path_buf() };
        newest.map(|(_, header)| header).ok_or_else(replaced)
    }

    /// What stands in the two places of roots, if it verifies.
    fn good_roots(&self, storage: &dyn Storage) -> Result<Vec<Option<Root>>> {
        let roots = read_roots(storage, &self.path, &self.keys, false)?;
        Ok(roots.into_iter().map(|(_, root)| root.ok()).collect())
    }

    /// Reads every record that some entry needs.
    fn read_records(
        &self,
        run: &Run<'_>,
        options: &RecoverOptions,
        storage: &dyn Storage,
        reader: &MetaReader,
        ground: &mut Ground<'_>,
        done: &mut Done,
    ) -> Result<()> {
        let wanted = ground.wanted();
        let largest = wanted.iter().map(|(_, place)| place.plain_len).max().unwrap_or(0);
        let plan = fit_unpack(&options.pipeline, largest, false, Device::of(&self.path))?;
        done.plan = Some(plan.report(UNPACK_CONTEXT, Course::Unpack));
        let ReadThrough { stages, stored_bytes, failed } = read_through(run, storage, reader, &plan, wanted)?;
        (done.stages, done.stored_bytes) = (stages, stored_bytes);
        ground.read(run, failed.into_iter().map(|(_, place, why)| (place.offset, why)).collect())
    }

    /// Names what is lost and belongs to no entry.
    fn name_what_is_lost(&self, run: &Run<'_>, survey: &Survey, found: &Found, history: &History, ground: &Ground<'_>) {
        let lost = |what: String| run.entry_failed(&self.path, EntryErrorKind::Damaged, what);
        if survey.unreadable > 0 {
            lost(format!("{} bytes of the file cannot be read", survey.unreadable));
        }
        if found.gave_up {
            lost("there is more that looks like commit records and does not open than is looked at".to_owned());
        }
        history.lost.iter().cloned().for_each(lost);
        ground.damaged_trees(&history.kept).into_iter().for_each(lost);
    }
}

/// Why nothing is mended.
const FAILING_DISK: &str = "the disk does not give all of it back: copy the file, or save what is left with --output";

/// The same.
const TOO_MUCH_FORGED: &str = "more of it looks like commit records and is none than is looked at: save what is left";

/// What was done so far.
#[derive(Default)]
struct Done {
    stages: Vec<StageReport>,
    stored_bytes: u64,
    plan: Option<PlanReport>,
    recovery: Option<Recovery>,
}

/// The name of a vault that is to be made: nothing is there yet.
fn new_vault(path: &Path) -> Result<Arc<dyn VaultDir>> {
    let dir = vault_dir(path)?;
    // The name is only taken when the vault is complete; this look spares the work.
    if std::fs::symlink_metadata(path).is_ok() { Err(Error::Exists(path.to_owned())) } else { Ok(dir) }
}

/// What is to be said where no root leads to the state.
fn unrooted(history: &History, root: Option<&Root>) -> Option<String> {
    let state = history.kept.last()?;
    match root {
        _ if history.is_sound => None,
        None => Some(format!(
            "no root is good: the latest commit that was found, of generation {}, is taken for the newest",
            state.generation
        )),
        Some(root) if root.generation() < state.generation => Some(format!(
            "a root is bad: the commit of generation {}, which follows the one that the other root names, is taken for the newest",
            state.generation
        )),
        Some(_) => Some("the newest root does not lead through the whole history".to_owned()),
    }
}

/// The newest first, then what is beside the vault.
fn snapshots(history: &History, ground: &Ground<'_>, lost: &[u64], lost_beside: &[u64]) -> Vec<RecoveredSnapshot> {
    let one = |(kept, lost): (&Kept, &u64), is_newest: bool, is_beside: bool| {
        let snapshot = kept.snapshot.as_ref()?;
        Some(RecoveredSnapshot {
            number: snapshot.number,
            time: Timestamp { secs: snapshot.time_secs, nanos: snapshot.time_nanos.min(999_999_999) },
            files: snapshot.files,
            bytes: snapshot.bytes,
            lost_entries: *lost,
            whole: !ground.is_troubled(kept),
            newest: is_newest,
            recovered: snapshot.flags & SNAPSHOT_RECOVERED != 0,
            without_commit: matches!(kept.origin, Origin::Rebuilt | Origin::Tree),
            one_run: kept.origin == Origin::Tree,
            beside: is_beside,
        })
    };
    let kept = history.kept.iter().zip(lost).rev().enumerate();
    let beside = history.beside.iter().zip(lost_beside).rev();
    kept.filter_map(|(at, pair)| one(pair, at == 0, false))
        .chain(beside.filter_map(|pair| one(pair, false, true)))
        .collect()
}
