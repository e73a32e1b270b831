//! When is the whole index written anew, and how? So that a run costs about what it changes, and reading begins with few
//! trees (docs/FORMAT.md, "Full index and deltas").

use std::sync::Arc;

use crate::engine::resolve::SegmentUnion;
use crate::engine::run::Run;
use crate::engine::segment::SegmentWriter;
use crate::engine::state::State;
use crate::error::Result;
use crate::format::commit::Commit;
use crate::format::index::{BlockRef, Item};
use crate::format::tree::TreeWriter;

/// A full index is due when so many deltas have gathered, or when they take a quarter of what the last one takes.
const DELTAS_BEFORE_FULL: usize = 32;

/// A written index, and the last generation that it covers.
pub(crate) struct FullIndex {
    pub(crate) head: BlockRef,
    /// Bytes of its blocks in the file.
    pub(crate) stored_bytes: u64,
    pub(crate) covers: u64,
}

/// Writes the whole index of the base generation, if the deltas that have gathered call for it.
pub(crate) fn write_full_if_due(run: &Run<'_>, base: &State, segment: &SegmentWriter) -> Result<Option<FullIndex>> {
    if !is_due(&base.commit) {
        return Ok(None);
    }
    let trees = base.trees(&base.commit)?;
    let mut merge = base.merge(&trees)?;
    let mut union = SegmentUnion::new(&trees, Arc::clone(&base.vault));
    let mut writer = TreeWriter::default();
    let mut sink = segment;
    while let Some((tree, mut entry)) = merge.next()? {
        run.check()?;
        run.counters.tick();
        union.adopt(tree, &mut entry)?;
        writer.push(&Item::Put(entry), &mut sink)?;
    }
    let (segments, records) = union.finish();
    let (head, stored_bytes) = writer.finish(segments, records, Vec::new(), &mut sink)?;
    Ok(Some(FullIndex { head, stored_bytes, covers: base.root.generation() }))
}

/// Whether the next commit after this one should have a whole index.
pub(crate) fn is_due(commit: &Commit) -> bool {
    let deltas = &commit.deltas;
    let delta_bytes: u64 = deltas.iter().map(|delta| delta.stored_bytes).sum();
    let full_bytes = commit.full.map_or(0, |full| full.stored_bytes);
    // With one delta there is nothing to bring together, and the smallest vaults would rewrite their index every time.
    deltas.len() > 1 && (deltas.len() >= DELTAS_BEFORE_FULL || (full_bytes > 0 && delta_bytes > full_bytes / 4))
}
