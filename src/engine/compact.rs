//! Compacting: the vault without what its kept snapshots do not need, written anew.

use std::sync::Arc;

use crate::engine::api::{CompactOptions, Keep};
use crate::engine::observe::{Compaction, Failed, Observer, PlanReport, Report, StageReport};
use crate::engine::rewrite::needed::Kept;
use crate::engine::rewrite::{Rewrite, Task, Written};
use crate::engine::run::Run;
use crate::engine::state::State;
use crate::engine::vault::Vault;
use crate::engine::verdict::{Way, judge};
use crate::error::{Error, FileOp, Result};
use crate::format::commit::{Commit, TreeRef};

impl Vault {
    /// Writes the vault anew without what the kept snapshots do not need, and puts that in the place of the old file, in one
    /// step: whatever happens, the path leads to the old file or to the new one, each whole.
    ///
    /// Sealed records are moved as they are; of a record of which less than half is needed, that is packed anew. Snapshots keep
    /// their numbers, passwords and keys stay. The vault must be to be had alone; who reads it goes on with the old file.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is more than one snapshot and [`CompactOptions::keep`] says nothing; [`Error::NoSnapshot`] for
    /// a number that there is not; [`Error::Damaged`] if something that is needed is; [`Error::Locked`];
    /// [`Error::Refused`] for a file with several names; [`Error::Io`] for lack of space. The old file is as it was then.
    pub fn compact(&self, options: &CompactOptions, observer: &dyn Observer) -> Result<Report, Failed> {
        let mut done = Done::default();
        let (result, run) = Run::conduct("compact", &self.path, &options.pipeline, observer, |run| {
            self.warnings.iter().for_each(|warning| run.note(&self.path, warning.clone()));
            if options.dry_run {
                let state = self.reader(false)?;
                let task = self.plan_compaction(run, &state, options, &mut done)?;
                return self.rehearse_replacement(run, &*state.storage, task.room());
            }
            let alone = self.alone(run)?;
            let task = self.plan_compaction(run, &alone.state, options, &mut done)?;
            let new = self.make_replacement(&alone, task.room())?;
            let rewrite = Rewrite::new(run, &self.path, &alone.state, Arc::clone(&new.storage), &self.keys, &task)?;
            done.take(rewrite.write(&alone.header, &task)?);
            self.replace_by(run, &alone, new)
        });
        done.finish("compact", result, run)
    }

    /// Looks at everything that is kept, and says what is to be done.
    fn plan_compaction(&self, run: &Run<'_>, state: &State, options: &CompactOptions, done: &mut Done) -> Result<Task> {
        let Chosen { kept, dropped } = choose(run, state, options.keep.as_ref())?;
        let task = Task::plan(run, state, kept, false)?;
        done.know(state, &task, dropped)?;
        Ok(task)
    }
}

/// What was done so far, of a run that writes a vault anew.
#[derive(Default)]
pub(crate) struct Done {
    stages: Vec<StageReport>,
    plain_bytes: u64,
    stored_bytes: u64,
    plan: Option<PlanReport>,
    compaction: Option<Compaction>,
}

impl Done {
    /// Takes in what is to be done.
    pub(crate) fn know(&mut self, state: &State, task: &Task, dropped: Vec<u64>) -> Result<()> {
        let file_len = state.storage.len().map_err(|error| Error::io(FileOp::Stat, &state.vault, error))?;
        self.plain_bytes = task.plain_bytes();
        self.plan = Some(task.plan_report());
        self.compaction = Some(task.figures(file_len, dropped));
        Ok(())
    }

    /// Takes in what was written.
    pub(crate) fn take(&mut self, written: Written) {
        self.stages = written.stages;
        self.stored_bytes = written.data_bytes;
        if let Some(compaction) = &mut self.compaction {
            compaction.bytes_after = written.file_size;
        }
    }

    /// The report of it all.
    pub(crate) fn finish(self, command: &'static str, result: Result<()>, run: Run<'_>) -> Result<Report, Failed> {
        let mut report = run.into_report(command, self.stages);
        report.snapshot = self.compaction.as_ref().and_then(|compaction| compaction.kept.last().copied());
        // Of a run that did not come so far, nothing was brought over.
        report.total_size = if result.is_ok() { self.plain_bytes } else { 0 };
        report.stored_size = self.stored_bytes;
        report.plan = self.plan;
        report.compaction = self.compaction;
        report.bottleneck = judge(&report, Way::Transfer);
        match result {
            Ok(()) => Ok(report),
            Err(error) => Err(Failed { error, report: Box::new(report) }),
        }
    }
}

/// Which commits are kept.
pub(crate) struct Chosen {
    /// The oldest first.
    pub(crate) kept: Vec<Kept>,
    /// Numbers of the snapshots that are not, the oldest first.
    pub(crate) dropped: Vec<u64>,
}

/// Goes along the chain of commits and keeps what is chosen.
///
/// - `keep`: `None` where nothing was said, which does where there is nothing to choose.
pub(crate) fn choose(run: &Run<'_>, state: &State, keep: Option<&Keep>) -> Result<Chosen> {
    let mut next = Some(state.commit.clone());
    let mut kept: Vec<Kept> = Vec::new();
    let mut dropped = Vec::new();
    let (mut snapshots, mut is_newest, mut is_behind_kept) = (0_u64, true, false);
    let mut missing: Vec<u64> = keep.map_or_else(Vec::new, |keep| keep.snapshots.clone());
    while let Some(commit) = next {
        run.check()?;
        let before = state.previous(&commit)?;
        let number = commit.snapshot.as_ref().map(|snapshot| snapshot.number);
        snapshots += u64::from(number.is_some());
        missing.retain(|wanted| Some(*wanted) != number);
        let is_kept = match number {
            Some(number) => keep.is_none_or(|keep| keep.wants(number, snapshots)),
            // What the vault holds now, which is no snapshot: only a mended vault has that. An empty one is written anyway.
            None => is_newest && has_trees(&commit),
        };
        if is_behind_kept && let Some(later) = kept.last_mut() {
            later.follows = is_kept && is_told_by_own_deltas(&later.commit, &commit);
        }
        is_behind_kept = is_kept;
        if is_kept {
            // Where heads are is not asked of the old file.
            kept.push(Kept { commit: Commit { heads: Vec::new(), ..commit }, follows: false });
        } else {
            dropped.extend(number);
        }
        is_newest = false;
        next = before;
    }
    if let Some(&number) = missing.first() {
        let newest = state.commit.snapshot.as_ref().map(|snapshot| snapshot.number);
        return Err(Error::NoSnapshot { vault: state.vault.to_path_buf(), number, newest });
    }
    if keep.is_none() && snapshots > 1 {
        return Err(Error::Usage(format!("the vault has {snapshots} snapshots: say which of them are kept")));
    }
    if snapshots > 0 && kept.iter().all(|kept| kept.commit.snapshot.is_none()) {
        return Err(Error::Usage("none of the vault's snapshots would be kept".to_owned()));
    }
    kept.reverse();
    dropped.reverse();
    Ok(Chosen { kept, dropped })
}

/// Whether a commit lists the very trees of the one before it, and behind them deltas of its own: then these say what it changed.
/// By the trees, since generations alone do not tell: a commit that was mended has another than its trees.
fn is_told_by_own_deltas(later: &Commit, before: &Commit) -> bool {
    let tree = |commit: &Commit, tree: &TreeRef| (commit.segments[tree.segment as usize].clone(), tree.head);
    let own = later.deltas.iter().filter(|delta| delta.generation == later.generation).count();
    let (inherited, _) = later.deltas.split_at(later.deltas.len() - own);
    let is_inherited = |(left, right): (&TreeRef, &TreeRef)| tree(later, left) == tree(before, right);
    let same_full = match (&later.full, &before.full) {
        (None, None) => true,
        (Some(left), Some(right)) => is_inherited((left, right)),
        _ => false,
    };
    own > 0
        && same_full
        && inherited.len() == before.deltas.len()
        && inherited.iter().zip(&before.deltas).all(is_inherited)
}

fn has_trees(commit: &Commit) -> bool {
    commit.full.is_some() || !commit.deltas.is_empty()
}

impl Keep {
    /// Whether a snapshot is kept: by its number, and its place from the newest, which is 1.
    fn wants(&self, number: u64, place: u64) -> bool {
        self.all || place <= self.last || self.snapshots.contains(&number)
    }
}
