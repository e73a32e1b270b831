//! The commit record: what one generation consists of, and the snapshot that it makes (docs/FORMAT.md, "Commit records").

use serde::{Deserialize, Serialize};

use crate::error::Malformation;
use crate::format::index::{BlockRef, SegmentSalt, decode_block, encode_onto};

/// The most deltas that a commit may list.
pub(crate) const MAX_DELTAS: usize = 4095;

/// A tree of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TreeRef {
    /// The segment that all blocks of the tree are in, as a position in the commit's table.
    pub(crate) segment: u32,
    /// Its head.
    pub(crate) head: BlockRef,
    /// The generation: of a delta the one it makes, of a full index the last one it covers.
    pub(crate) generation: u64,
    /// Bytes of all its blocks in the file; decides when a new full index is due.
    pub(crate) stored_bytes: u64,
}

/// The commit before, by place and digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Previous {
    /// Its segment, as a position in the commit's table.
    pub(crate) segment: u32,
    /// The record.
    pub(crate) block: BlockRef,
    /// Its generation.
    pub(crate) generation: u64,
    /// SHA-256 of the record's stored bytes.
    pub(crate) digest: [u8; 32],
}

/// Some of the sources could not be stored.
pub(crate) const SNAPSHOT_PARTIAL: u32 = 1;
/// It was found by `recover`: its place in the history is a guess, and its number may be a new one.
pub(crate) const SNAPSHOT_RECOVERED: u32 = 2;

/// What is known of a snapshot beside its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    /// Never used twice in a vault.
    pub(crate) number: u64,
    /// When the commit was made, Unix time.
    pub(crate) time_secs: i64,
    /// Its fraction.
    pub(crate) time_nanos: u32,
    /// The machine's name.
    pub(crate) host: String,
    /// The user's name.
    pub(crate) user: String,
    /// The command line, as given.
    pub(crate) command_line: Vec<serde_bytes::ByteBuf>,
    /// The sources, as given.
    pub(crate) sources: Vec<serde_bytes::ByteBuf>,
    /// Words of the user's.
    pub(crate) tags: Vec<String>,
    /// Entries but directories that this run stored.
    pub(crate) files: u64,
    /// Directories that this run stored.
    pub(crate) directories: u64,
    /// Bytes of content that this run stored.
    pub(crate) bytes: u64,
    /// Bytes that this run wrote to the file.
    pub(crate) stored_bytes: u64,
    /// [`SNAPSHOT_PARTIAL`], [`SNAPSHOT_RECOVERED`].
    pub(crate) flags: u32,
}

/// One generation of the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Commit {
    /// Must be 0.
    pub(crate) flags: u32,
    /// One more than the commit before.
    pub(crate) generation: u64,
    /// The snapshot that this commit makes, if it makes one.
    pub(crate) snapshot: Option<SnapshotRecord>,
    /// The highest number ever given to a snapshot of this vault, 0 for none.
    pub(crate) highest_snapshot: u64,
    /// The commit before, if there is one.
    pub(crate) previous: Option<Previous>,
    /// The segments of everything that this record refers to, by position.
    pub(crate) segments: Vec<SegmentSalt>,
    /// The index up to some generation.
    pub(crate) full: Option<TreeRef>,
    /// What changed since, in the order it applies.
    pub(crate) deltas: Vec<TreeRef>,
    /// Where this run's segment headers are, each with its segment.
    pub(crate) heads: Vec<(u32, u64)>,
}

impl Commit {
    /// The record's plain bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_onto(self, &mut bytes);
        bytes
    }

    /// Decodes a commit record and checks what can be checked without reading anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformation> {
        let commit: Self = decode_block(bytes, "commit record")?;
        let wrong = |field| Err(Malformation::Field { structure: "commit record", field });
        if commit.flags != 0 {
            // Room for a later version, authenticated: no damage.
            return Err(Malformation::Version { structure: "flags of a commit record", version: 1 });
        }
        if commit.segments.iter().any(|segment| !segment.wrapped.is_empty()) {
            return Err(Malformation::Version { structure: "wrapped segment key", version: 1 });
        }
        let known = |segment: u32| (segment as usize) < commit.segments.len();
        let trees_known = commit.full.iter().chain(&commit.deltas).all(|tree| known(tree.segment));
        let others_known = commit.previous.is_none_or(|previous| known(previous.segment))
            && commit.heads.iter().all(|&(segment, _)| known(segment));
        if !trees_known || !others_known {
            return wrong("segments");
        }
        if commit.previous.is_some_and(|previous| previous.generation >= commit.generation) {
            return wrong("generation of the commit before");
        }
        // Each generation after the full index has one delta at least, at most two; none is later than the commit itself.
        let mut last = commit.full.map_or(0, |full| full.generation);
        if last > commit.generation {
            return wrong("generation of the full index");
        }
        for (position, delta) in commit.deltas.iter().enumerate() {
            let before_last = position.checked_sub(2).map(|before| commit.deltas[before].generation);
            let repeats = position > 0 && delta.generation == last && before_last != Some(last);
            if (delta.generation <= last && !repeats) || delta.generation > commit.generation {
                return wrong("generations of the deltas");
            }
            last = delta.generation;
        }
        if commit.deltas.len() > MAX_DELTAS {
            return wrong("number of deltas");
        }
        if commit.snapshot.as_ref().is_some_and(|snapshot| snapshot.number > commit.highest_snapshot) {
            return wrong("snapshot number");
        }
        Ok(commit)
    }
}
