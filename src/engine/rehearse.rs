//! What would `extract` do? The entries are walked and the destination is looked at; nothing is written anywhere, and no
//! content is read.

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::engine::run::{Phase, Run};
use crate::engine::select::Selection;
use crate::engine::tell::Tally;
use crate::error::Result;
use crate::format::entry::EntryType;
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
    while let Some((_, entry)) = selection.next()? {
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
