//! Mending in place: the copies of header and root, the zeros between them, the heads of segments; and if the newest root
//! does not lead through the whole history any more, commit records that do.
//!
//! Nothing that is whole is overwritten. What is written before the root is referred to by nothing; the root makes it the
//! state, as in every commit. So whenever it is interrupted, the vault is as damaged as it was, or less.

use std::sync::Arc;

use crate::engine::commit::{SegmentTable, write_commit};
use crate::engine::locks::Held;
use crate::engine::recover::history::{History, Kept};
use crate::engine::run::{Phase, Run};
use crate::engine::segment::{SegmentWriter, write_all_at};
use crate::engine::state::{read_at_most, read_roots};
use crate::engine::vault::Vault;
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::commit::{Commit, Previous, TreeRef};
use crate::format::header::{
    CommitPlace, EXTENTS_AT, HEADER_A_AT, HEADER_B_AT, HEADER_LEN, Header, RESERVED_RANGES, ROOT_A_AT, ROOT_B_AT, Root,
};
use crate::format::index::{BlockRef, SegmentSalt};
use crate::format::record::{SEGMENT_HEADER_LEN, Salt, SegmentHeader};
use crate::primitives::storage::{Lock, LockMode, Storage};

/// What can be mended without touching what is whole.
#[derive(Default)]
pub(super) struct Faults {
    /// Bytes to be written, and where.
    spare: Vec<(u64, Vec<u8>)>,
    /// Places of roots that do not hold a good one.
    roots: Vec<u64>,
    /// In words.
    pub(super) words: Vec<String>,
}

impl Faults {
    /// Looks at everything that stands at a known place.
    pub(super) fn find(
        run: &Run<'_>,
        vault: &Vault,
        storage: &dyn Storage,
        header: &Header,
        history: &History,
    ) -> Result<Self> {
        let mut faults = Self::default();
        let path = &*vault.path;
        let header = header.encode(&vault.keys.header);
        for at in [HEADER_A_AT, HEADER_B_AT] {
            let mut found = vec![0; HEADER_LEN];
            // What the disk does not give back is bad, too.
            let read = read_at_most(storage, path, &mut found, at).unwrap_or(0);
            if read < HEADER_LEN || found != header[..] {
                faults.words.push(format!("the copy of the header at byte {at} is bad"));
                faults.spare.push((at, header.to_vec()));
            }
        }
        for range in RESERVED_RANGES {
            let len = usize::try_from(range.end - range.start).expect("reserved ranges are a few KiB");
            let mut found = vec![0; len];
            let read = read_at_most(storage, path, &mut found, range.start).unwrap_or(0);
            if read < len || found.iter().any(|&byte| byte != 0) {
                faults.words.push(format!("reserved bytes from byte {} on are not zero", range.start));
                faults.spare.push((range.start, vec![0; len]));
            }
        }
        let file_len = storage.len().map_err(|error| Error::io(FileOp::Stat, path, error))?;
        for (at, root) in read_roots(storage, path, &vault.keys, false)? {
            match root {
                Ok(root) if root.end() <= file_len => continue,
                Ok(_) => faults.words.push(format!("the root at byte {at} names an end behind that of the file")),
                Err(why) => faults.words.push(format!("the root at byte {at} is bad: {why}")),
            }
            faults.roots.push(at);
        }
        for kept in &history.kept {
            run.check()?;
            faults.find_heads(vault, storage, kept, file_len);
        }
        Ok(faults)
    }

    fn find_heads(&mut self, vault: &Vault, storage: &dyn Storage, kept: &Kept, file_len: u64) {
        for (position, (segment, at)) in kept.heads.iter().enumerate() {
            let extent = kept.heads[..position].iter().filter(|(other, _)| other == segment).count();
            let extent = u32::try_from(extent).unwrap_or(u32::MAX);
            let mut found = [0; SEGMENT_HEADER_LEN];
            let read = read_at_most(storage, &vault.path, &mut found, *at).unwrap_or(0);
            let is_right = |head: SegmentHeader| head.salt.0 == segment.salt && head.vault_id == vault.keys.vault_id;
            let is_good = read == SEGMENT_HEADER_LEN && SegmentHeader::decode(&found).is_ok_and(is_right);
            // Nothing is put behind the end of a file that was cut; and two commits may list one.
            let is_within = *at >= EXTENTS_AT && *at < file_len.saturating_sub(SEGMENT_HEADER_LEN as u64);
            if !is_good && is_within && self.spare.iter().all(|(known, _)| known != at) {
                self.words.push(format!("the segment header at byte {at} is bad"));
                let head = SegmentHeader::new(vault.keys.vault_id, Salt(segment.salt), extent);
                self.spare.push((*at, head.encode().to_vec()));
            }
        }
    }

    /// Whether there is anything to do.
    fn is_none(&self, history: &History) -> bool {
        self.spare.is_empty() && self.roots.is_empty() && history.is_sound && first_other(history).is_none()
    }
}

/// The first commit that has to be written anew, since what its record says is not what is kept.
fn first_other(history: &History) -> Option<usize> {
    let mut before: Option<[u8; 32]> = None;
    let last = history.kept.len().checked_sub(1);
    history.kept.iter().enumerate().position(|(at, kept)| {
        let follows = kept.previous == before && kept.place.is_some() && !kept.is_other;
        // A later commit than the state is lost: the state gets a generation above that one's.
        let is_late = Some(at) != last || kept.generation == history.highest_generation || history.is_sound;
        before = kept.place.map(|place| place.digest);
        !follows || !is_late
    })
}

/// Mends the vault; PRESENCE is held alone.
pub(super) fn mend(
    run: &Run<'_>,
    vault: &Vault,
    storage: &Arc<dyn Storage>,
    history: &History,
    faults: &Faults,
) -> Result<()> {
    if faults.is_none(history) {
        return Ok(());
    }
    let path = &*vault.path;
    let sync = || storage.sync().map_err(|error| Error::io(FileOp::Sync, path, error));
    run.check()?;
    run.enter(Phase::Commit);
    let held = Held::take(run, path, storage, Lock::Commit, LockMode::Exclusive)?;
    for (at, bytes) in &faults.spare {
        write_all_at(&**storage, path, bytes, *at)?;
        // One after the other: what was good stays good if the power fails.
        sync()?;
    }
    // Before it is lengthened for the commit records: what is not needed of that is cut off again.
    let file_len = storage.len().map_err(|error| Error::io(FileOp::Stat, path, error))?;
    let segment = SegmentWriter::new(Arc::clone(storage), path, &vault.keys, &run.stop, run.config.lock_timeout)?;
    let newest = commit_anew(vault, &segment, history).and_then(|newest| sync().map(|()| newest));
    let (generation, place) = match newest {
        Ok(newest) => newest,
        Err(error) => {
            // The first cause is what counts; space that is not given back now is counted as unreferenced.
            let _ = segment.give_back();
            return Err(error);
        }
    };
    let uncertain = |error| match error {
        Error::Io { source, .. } => Error::CommitUncertain { vault: path.to_owned(), source },
        error => error,
    };
    let rooted = write_roots(vault, &**storage, history, (generation, &place), faults, file_len).map_err(uncertain);
    drop(held);
    rooted?;
    if let Err(error) = segment.trim() {
        run.note(path, format!("unused space could not be given back ({error})"));
    }
    Ok(())
}

/// Writes commit records where the old ones do not do; answers the newest commit.
fn commit_anew(vault: &Vault, segment: &SegmentWriter, history: &History) -> Result<(u64, CommitPlace)> {
    let path = &*vault.path;
    let used_up = || Error::Refused { what: "the vault's numbers are used up", path: path.to_owned() };
    let first = first_other(history).unwrap_or(history.kept.len());
    let known = first.checked_sub(1).and_then(|last| Some((history.kept[last].generation, history.kept[last].place?)));
    let mut newest = known;
    for kept in &history.kept[first..] {
        let above = newest.map_or(0, |(generation, _)| generation).max(history.highest_generation);
        let generation = above.checked_add(1).ok_or_else(used_up)?;
        let mut table = SegmentTable::default();
        let own = table.add(segment.salt());
        let mut commit = Commit {
            flags: 0,
            generation,
            snapshot: kept.snapshot.clone(),
            highest_snapshot: history.highest_snapshot,
            previous: newest.map(|(generation, place)| Previous {
                segment: table.add(SegmentSalt { salt: place.salt.0, wrapped: Vec::new() }),
                block: BlockRef { number: place.number, offset: place.offset.0, sealed_len: place.sealed_len },
                generation,
                digest: place.digest,
            }),
            segments: Vec::new(),
            full: None,
            deltas: Vec::new(),
            heads: Vec::new(),
        };
        debug_assert_eq!(own, 0, "the first of a table");
        for tree in &kept.trees {
            let of = TreeRef { segment: table.add(tree.salt.clone()), ..tree.tree };
            if tree.is_full { commit.full = Some(of) } else { commit.deltas.push(of) }
        }
        let heads: Vec<(u32, u64)> = kept.heads.iter().map(|(salt, at)| (table.add(salt.clone()), *at)).collect();
        commit.segments = table.into_segments();
        newest = Some((generation, write_commit(segment, &mut commit, &heads)?));
    }
    newest.ok_or_else(|| Error::malformed(path, EXTENTS_AT, Malformation::Truncated { structure: "vault" }))
}

/// Writes the root into both places: first into one that does not hold the newest good root.
fn write_roots(
    vault: &Vault,
    storage: &dyn Storage,
    history: &History,
    (generation, place): (u64, &CommitPlace),
    faults: &Faults,
    file_len: u64,
) -> Result<()> {
    let path = &*vault.path;
    let ends = history.kept.iter().filter_map(|kept| kept.place).chain([*place]);
    let mut end = ends.map(|place| place.offset.0 + u64::from(place.sealed_len)).max().unwrap_or(EXTENTS_AT);
    let roots = read_roots(storage, path, &vault.keys, true)?;
    let good = || roots.iter().filter_map(|(at, root)| root.as_ref().ok().map(|root| (*at, root)));
    // As far as the old one reached, if the file still did.
    end = end.max(good().map(|(_, root)| root.end()).filter(|&end| end <= file_len).max().unwrap_or(0));
    let root = Root::new(vault.keys.vault_id, generation, *place, end);
    let root = root.map_err(|why| Error::malformed(path, place.offset.0, why))?;
    let newest_good = good().max_by_key(|(at, root)| (root.generation(), std::cmp::Reverse(*at)));
    if newest_good.is_some_and(|(_, good)| *good == root) && faults.roots.is_empty() {
        return Ok(());
    }
    let first = if newest_good.is_some_and(|(at, _)| at == ROOT_A_AT) { ROOT_B_AT } else { ROOT_A_AT };
    let second = if first == ROOT_A_AT { ROOT_B_AT } else { ROOT_A_AT };
    let bytes = root.encode(&vault.keys.root);
    for at in [first, second] {
        write_all_at(storage, path, &bytes, at)?;
        storage.sync().map_err(|error| Error::io(FileOp::Sync, path, error))?;
    }
    Ok(())
}
