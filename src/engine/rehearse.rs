//! What would `extract` or `add` do? The entries are walked, and the destination or the sources are looked at; nothing is
//! written anywhere, and no content is read.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::engine::add::{Done, source_device, tell};
use crate::engine::api::AddOptions;
use crate::engine::compare::Compared;
use crate::engine::fit::{Course, compress_context, fit_pack};
use crate::engine::plan::{Decision, Planner};
use crate::engine::run::{Phase, Run};
use crate::engine::select::Selection;
use crate::engine::tell::{Tally, tell_lost};
use crate::engine::vault::Vault;
use crate::error::{Error, Result};
use crate::format::entry::EntryType;
use crate::primitives::fs::StatKind;
use crate::stages::EntrySeq;
use crate::stages::pack::source::Source;
use crate::stages::unpack::glance::{Foreseen, Glance};
use crate::stages::unpack::policy::RestorePolicy;

/// Counts what restoring the selection would do; answers it at its end, and how many entries there were.
pub(crate) fn rehearse(
    run: &Run<'_>,
    mut selection: Selection,
    destination: &Path,
    policy: RestorePolicy,
    tally: &Tally,
) -> Result<(Selection, u64)> {
    run.enter(Phase::Stream);
    let mut glance = Glance::at(destination, policy)?;
    let mut selected = 0;
    let counters = &run.counters;
    loop {
        let next = selection.next()?;
        tell_lost(run, tally, selection.take_lost());
        let Some((_, entry)) = next else { break };
        run.check()?;
        selected += 1;
        let is_directory = entry.entry_type == EntryType::Directory;
        match glance.foresee(&entry) {
            Foreseen::Restored => tally.restored(is_directory, entry.size),
            Foreseen::Unchanged => tally.unchanged(),
            Foreseen::Skipped => tally.skipped(is_directory),
        }
        counters.files_known.fetch_add(u64::from(!is_directory), Ordering::Relaxed);
        counters.files_done.fetch_add(u64::from(!is_directory), Ordering::Relaxed);
        counters.tick();
    }
    counters.all_known.store(true, Ordering::Relaxed);
    Ok((selection, selected))
}

impl Vault {
    /// Counts what adding these sources would do. A file that cannot be read is not found out.
    pub(super) fn rehearse_add(
        &self,
        run: &Run<'_>,
        sources: &[PathBuf],
        options: &AddOptions,
        source: &dyn Source,
        done: &mut Done,
    ) -> Result<()> {
        let base = self.open_state(run, false)?;
        let plan = fit_pack(&options.pipeline, options.level, source_device(sources, options))?;
        done.plan = Some(plan.report(compress_context(options.level, plan.chunk_size), Course::Pack));
        let trees = base.trees(&base.commit)?;
        let (mut comparison, _) = self.compare(sources, options, &plan, &base, &trees)?;
        let mut planner = Planner::new(source, plan.chunk_size, trees);
        run.enter(Phase::Stream);
        let counters = &run.counters;
        let mut seq = 0;
        while let Some(compared) = comparison.next()? {
            run.check()?;
            counters.tick();
            match compared {
                Compared::Found(mut entry, before) => {
                    entry.keep_unknown_xattrs(before.as_ref().map(|before| &*before.entry));
                    let ordinal = before.as_ref().map(|before| before.ordinal);
                    let is_directory = entry.stat.kind == StatKind::Directory;
                    counters.files_known.fetch_add(u64::from(!is_directory), Ordering::Relaxed);
                    counters.files_done.fetch_add(u64::from(!is_directory), Ordering::Relaxed);
                    let before = before.filter(|_| !options.force_read);
                    // No content is read, so attributes are taken for all that changed.
                    match (planner.plan(EntrySeq(seq), &entry, before, &mut |_, _, _| Ok(true)), ordinal) {
                        (Ok(Decision::Keep), Some(ordinal)) => done.unchanged.count(&entry, ordinal),
                        (Ok(_), _) => done.indexed.count(is_directory, entry.content_len()),
                        (Err(error), _) => {
                            done.indexed.failed += u64::from(!is_directory);
                            run.entry_error(&entry.path, &error);
                        }
                    }
                    seq += 1;
                }
                Compared::Gone(before) if options.mirror => {
                    done.indexed.count_removed(before.entry.entry_type == EntryType::Directory);
                }
                Compared::Gone(_) => {}
                Compared::Told(told) => done.unseen += tell(run, told),
            }
        }
        counters.all_known.store(true, Ordering::Relaxed);
        if done.handled() == (0, 0) && done.indexed.removed == (0, 0) {
            return Err(Error::NothingStored(self.path.to_path_buf()));
        }
        Ok(())
    }
}
