//! What are the bytes of a vault's file used for?

use std::collections::BTreeMap;

use crate::engine::api::VaultUsage;
use crate::engine::config::PipelineConfig;
use crate::engine::run::Run;
use crate::engine::vault::Vault;
use crate::engine::verify::{Checked, Records, Walk, check_tree, needed};
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::header::EXTENTS_AT;
use crate::format::record::SEGMENT_HEADER_LEN;

impl Vault {
    /// Counts the bytes of the file by what they are for. Reads every index, and no data.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an index is; [`Error::Io`].
    pub fn usage(&self) -> Result<VaultUsage> {
        let config = PipelineConfig::default();
        Run::conduct("verify", &self.path, &config, &(), |run| self.count_usage(run)).0
    }

    fn count_usage(&self, run: &Run<'_>) -> Result<VaultUsage> {
        let state = self.reader(true)?;
        let mut walk = Walk::new(run, &state);
        walk.chain()?;
        let (trees, heads) = walk.finish();
        let mut records = Records::default();
        for tree in &trees {
            records.list(tree, &state)?;
            // Reads all blocks of the index, which are counted where they are read.
            check_tree(run, tree, &state, &mut Checked::default())?;
        }
        let len = |places: &[(_, crate::format::index::RecordPlace)]| -> u64 {
            places.iter().map(|(_, place)| u64::from(place.sealed_len)).sum()
        };
        let all = len(&records.into_places());
        let newest_data = len(&needed(run, &state, &state.commit)?);
        // What was damaged on the way has been put down as such; a count that leaves it out would be wrong.
        if run.error_count() > 0 {
            let at = state.root.commit().offset.0;
            return Err(Error::malformed(&*self.path, at, Malformation::Part { structure: "index" }));
        }
        let blocks: BTreeMap<u64, u32> = state.reader.visited().into_iter().collect();
        let index = blocks.values().map(|len| u64::from(*len)).sum();
        let heads = (heads.len() * SEGMENT_HEADER_LEN) as u64;
        let file_size = state.storage.len().map_err(|error| Error::io(FileOp::Stat, &self.path, error))?;
        let used = EXTENTS_AT + all + index + heads;
        Ok(VaultUsage {
            file_size,
            newest_data,
            older_data: all.saturating_sub(newest_data),
            index,
            headers: EXTENTS_AT + heads,
            unreferenced: file_size.saturating_sub(used),
        })
    }
}
