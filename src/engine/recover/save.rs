//! Saving: a new vault file with all that authenticates, under the same keys.
//!
//! Sealed data records are moved as they are, each opened once more on its way; indexes and commits are sealed anew, since
//! they say where things are. Each snapshot is written as what it changes of the one before, and every so often whole. The
//! file has no name until it is complete and synced.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::crypto::aead::TAG_LEN;
use crate::engine::commit::write_commit;
use crate::engine::recover::check::{Entries, Ground, Next};
use crate::engine::recover::history::{History, Kept};
use crate::engine::recover::survey::{DataPlace, Survey};
use crate::engine::resolve::pieces;
use crate::engine::run::{Phase, Run};
use crate::engine::segment::{SegmentWriter, write_all_at};
use crate::engine::state::{MetaReader, read_at_most};
use crate::engine::vault::Vault;
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::commit::{Commit, Previous, SNAPSHOT_PARTIAL, TreeRef};
use crate::format::entry::{Entry, Extent, SegmentIndex};
use crate::format::header::{CommitPlace, EXTENTS_AT, HEADER_A_AT, HEADER_B_AT, Header, ROOT_A_AT, ROOT_B_AT, Root};
use crate::format::index::{BlockRef, Item, RecordPlace, SegmentSalt};
use crate::format::record::{
    RECORD_ALIGNMENT, RECORD_HEADER_LEN, RecordId, RecordKind, SEGMENT_HEADER_LEN, Salt, SegmentHeader, align_up,
    open_record,
};
use crate::format::tree::TreeWriter;
use crate::primitives::storage::{Storage, VaultDir};

/// So many snapshots in a row are written as changes; then one is written whole.
const DELTAS_BEFORE_FULL: usize = 32;

/// What is saved, and of what.
pub(super) struct Save<'a, 'c> {
    pub(super) run: &'a Run<'c>,
    pub(super) vault: &'a Vault,
    pub(super) header: &'a Header,
    pub(super) survey: &'a Survey,
    pub(super) reader: &'a Arc<MetaReader>,
    pub(super) ground: &'a Ground<'a>,
    /// Where records are read.
    pub(super) from: &'a dyn Storage,
    /// The new file.
    pub(super) to: Arc<dyn Storage>,
    /// What messages call it.
    pub(super) path: &'a Path,
}

/// Records in the new file.
struct Moved {
    /// By segment and number.
    places: Vec<DataPlace>,
    /// Where the head of each segment is.
    heads: Vec<(SegmentSalt, u64)>,
}

impl Moved {
    fn place(&self, segment: u32, number: u64) -> Option<RecordPlace> {
        let key = |data: &DataPlace| (data.segment, data.place.number);
        let at = self.places.binary_search_by_key(&(segment, number), key).ok()?;
        Some(self.places[at].place)
    }
}

/// Saves the snapshots of `history`, and what is beside it; answers the bytes of the new file.
///
/// - `dir`: names the new vault, which must not be there.
pub(super) fn save(save: &Save<'_, '_>, dir: &dyn VaultDir, history: &History) -> Result<u64> {
    let Save { to, path, .. } = save;
    let io = |op| move |error| Error::io(op, path, error);
    to.allocate(0, EXTENTS_AT).map_err(io(FileOp::Allocate))?;
    let header = save.header.encode(&save.vault.keys.header);
    for at in [HEADER_A_AT, HEADER_B_AT] {
        write_all_at(&**to, path, &header[..], at)?;
    }
    let moved = save.move_records()?;
    let segment = SegmentWriter::new(Arc::clone(to), path, &save.vault.keys, &save.run.stop, None)?;
    let (generation, place) = save.write_history(&segment, &moved, history)?;
    let end = place.offset.0 + u64::from(place.sealed_len);
    let root = Root::new(save.vault.keys.vault_id, generation, place, end);
    let root = root.map_err(|why| Error::malformed(path, ROOT_A_AT, why))?.encode(&save.vault.keys.root);
    for at in [ROOT_A_AT, ROOT_B_AT] {
        write_all_at(&**to, path, &root, at)?;
    }
    segment.trim()?;
    // The sync of a large file takes its time; the stall clock rests.
    save.run.enter(Phase::Commit);
    to.sync().map_err(io(FileOp::Sync))?;
    save.run.check()?;
    dir.link(&**to).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists(path.to_path_buf()),
        _ => Error::io(FileOp::Link, path, error),
    })?;
    dir.sync().map_err(io(FileOp::Sync))?;
    to.len().map_err(io(FileOp::Stat))
}

impl Save<'_, '_> {
    /// Moves every record that is needed and has opened, segment by segment.
    fn move_records(&self) -> Result<Moved> {
        let good = self.ground.good();
        let salts = self.survey.salts_by_segment();
        let mut moved = Moved { places: Vec::with_capacity(good.len()), heads: Vec::new() };
        let mut cursor = EXTENTS_AT;
        let room: u64 = good.iter().map(|data| aligned(data.place.sealed_len)).sum();
        let heads = good.chunk_by(|one, next| one.segment == next.segment).count() * SEGMENT_HEADER_LEN;
        // At once: if there is too little space, that is known before anything is written.
        let allocated = self.to.allocate(EXTENTS_AT, room + heads as u64);
        allocated.map_err(|error| Error::io(FileOp::Allocate, self.path, error))?;
        for of_one in good.chunk_by(|one, next| one.segment == next.segment) {
            let Some(salt) = salts[of_one[0].segment as usize].clone() else { continue };
            let head = SegmentHeader::new(self.vault.keys.vault_id, Salt(salt.salt), 0).encode();
            write_all_at(&*self.to, self.path, &head, cursor)?;
            moved.heads.push((salt.clone(), cursor));
            cursor += SEGMENT_HEADER_LEN as u64;
            for data in of_one {
                self.run.check()?;
                self.run.counters.tick();
                self.move_record(&salt, data.place, cursor)?;
                moved.places.push(DataPlace { place: RecordPlace { offset: cursor, ..data.place }, ..*data });
                cursor += aligned(data.place.sealed_len);
            }
        }
        Ok(moved)
    }

    fn move_record(&self, salt: &SegmentSalt, place: RecordPlace, to: u64) -> Result<()> {
        let mut framed = vec![0; place.sealed_len as usize];
        let read = read_at_most(self.from, &self.vault.path, &mut framed, place.offset)?;
        let malformed = |why| Error::malformed(&*self.vault.path, place.offset, why);
        if read < framed.len() {
            return Err(malformed(Malformation::Truncated { structure: "record" }));
        }
        write_all_at(&*self.to, self.path, &framed, to)?;
        // It has opened a while ago; what counts is what was written just now.
        let id = RecordId { segment: Salt(salt.salt).segment_id(), kind: RecordKind::Data, number: place.number };
        let truncated = || malformed(Malformation::Truncated { structure: "record" });
        let (head, rest) = framed.split_first_chunk_mut::<RECORD_HEADER_LEN>().ok_or_else(truncated)?;
        let (ciphertext, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or_else(truncated)?;
        open_record(&self.reader.segment_keys(salt), &id, head, ciphertext, tag).map_err(malformed)?;
        Ok(())
    }

    /// Writes all snapshots and their commits; answers the newest.
    fn write_history(&self, segment: &SegmentWriter, moved: &Moved, history: &History) -> Result<(u64, CommitPlace)> {
        let used_up = || Error::Refused { what: "the vault's numbers are used up", path: self.path.to_owned() };
        let (last, others) = history.kept.split_last().map_or((None, &[][..]), |(last, others)| (Some(last), others));
        let kept: Vec<&Kept> = others.iter().chain(&history.beside).chain(last).collect();
        let mut generation = history.highest_generation.checked_add(1).ok_or_else(used_up)?;
        let mut commit = Commit {
            flags: 0,
            generation,
            snapshot: None,
            highest_snapshot: history.highest_snapshot,
            previous: None,
            segments: vec![segment.salt()],
            full: None,
            deltas: Vec::new(),
            heads: Vec::new(),
        };
        // The first commit is of an empty vault; it lists where the segments of the data begin.
        commit.segments.extend(moved.heads.iter().map(|(salt, _)| salt.clone()));
        let heads: Vec<(u32, u64)> = (1..).zip(moved.heads.iter().map(|(_, at)| *at)).collect();
        let mut place = write_commit(segment, &mut commit, &heads)?;
        commit.segments.truncate(1);
        let mut table = Table::new(segment.salt());
        let mut before: Option<&Kept> = None;
        let count = kept.len();
        for (at, kept) in kept.into_iter().enumerate() {
            let is_state = at + 1 == count;
            if kept.snapshot.is_none() && !(is_state && before.is_some()) {
                // A commit without a snapshot is that of an empty vault, which has been written.
                continue;
            }
            commit.previous = Some(Previous {
                segment: 0,
                block: BlockRef { number: place.number, offset: place.offset.0, sealed_len: place.sealed_len },
                generation,
                digest: place.digest,
            });
            generation = generation.checked_add(1).ok_or_else(used_up)?;
            commit.generation = generation;
            commit.snapshot = kept.snapshot.clone();
            if let Some(snapshot) = &mut commit.snapshot
                && self.ground.is_troubled(kept)
            {
                snapshot.flags |= SNAPSHOT_PARTIAL;
            }
            let is_whole = before.is_none() || commit.deltas.len() >= DELTAS_BEFORE_FULL;
            let since = if is_whole { None } else { before };
            let (head, stored_bytes) = self.write_tree(segment, moved, &mut table, since, kept)?;
            let tree = TreeRef { segment: 0, head, generation, stored_bytes };
            if is_whole {
                commit.full = Some(tree);
                commit.deltas.clear();
            } else {
                commit.deltas.push(tree);
            }
            place = write_commit(segment, &mut commit, &[])?;
            before = Some(kept);
        }
        Ok((generation, place))
    }

    /// Writes what a snapshot changes of another; all of it, if there is no other.
    fn write_tree(
        &self,
        segment: &SegmentWriter,
        moved: &Moved,
        table: &mut Table,
        since: Option<&Kept>,
        kept: &Kept,
    ) -> Result<(BlockRef, u64)> {
        let mut writer = TreeWriter::default();
        let mut records: BTreeMap<u32, BTreeMap<u64, RecordPlace>> = BTreeMap::new();
        let mut sink = segment;
        let mut old = since.map(|since| self.ground.entries(since)).transpose()?;
        let mut new = self.ground.entries(kept)?;
        let mut was = self.next(old.as_mut(), table)?;
        let mut is = self.next(Some(&mut new), table)?;
        loop {
            match (was.take(), is.take()) {
                (None, None) => break,
                (other, Some(entry)) if other.as_ref().is_none_or(|other| other.path >= entry.path) => {
                    let is_same_name = other.as_ref().is_some_and(|other| other.path == entry.path);
                    if other.as_deref() != Some(&*entry) {
                        self.note_records(&entry, moved, table, &mut records)?;
                        writer.push(&Item::Put(entry), &mut sink)?;
                    }
                    was = if is_same_name { self.next(old.as_mut(), table)? } else { other };
                    is = self.next(Some(&mut new), table)?;
                }
                (gone, next) => {
                    if let Some(gone) = gone {
                        writer.push(&Item::Delete(gone.path), &mut sink)?;
                    }
                    was = self.next(old.as_mut(), table)?;
                    is = next;
                }
            }
        }
        let records = records.into_iter().map(|(segment, places)| (segment, places.into_values().collect()));
        writer.finish(table.salts.clone(), records.collect(), Vec::new(), &mut sink)
    }

    /// The next entry that has all its content, with the segments of the new trees.
    fn next(&self, entries: Option<&mut Entries<'_, '_>>, table: &mut Table) -> Result<Option<Box<Entry>>> {
        let Some(entries) = entries else { return Ok(None) };
        while let Some(next) = entries.next(self.run)? {
            let Next::Whole(tree, mut entry) = next else { continue };
            let salts = &entries.trees[tree].head().segments;
            let mut adopt = |segment: &mut SegmentIndex| *segment = table.number(&salts[segment.0 as usize]);
            for extent in &mut entry.extents {
                if let Extent::Data { segment, .. } = extent {
                    adopt(segment);
                }
            }
            if let Some(link) = &mut entry.link {
                adopt(&mut link.segment);
            }
            return Ok(Some(entry));
        }
        Ok(None)
    }

    /// Puts down where the records of an entry are now.
    fn note_records(
        &self,
        entry: &Entry,
        moved: &Moved,
        table: &Table,
        records: &mut BTreeMap<u32, BTreeMap<u64, RecordPlace>>,
    ) -> Result<()> {
        for piece in pieces(&entry.extents) {
            let segment = self.survey.segment(&table.salts[piece.segment.0 as usize]);
            let place = segment.and_then(|segment| moved.place(segment, piece.number));
            let unknown = Malformation::Field { structure: "entry", field: "extent" };
            let place = place.ok_or_else(|| Error::malformed(&*self.vault.path, 0, unknown))?;
            records.entry(piece.segment.0).or_default().insert(piece.number, place);
        }
        Ok(())
    }
}

/// The segments of the new trees: one table for all of them, so that entries of different trees can be compared.
struct Table {
    salts: Vec<SegmentSalt>,
    known: HashMap<SegmentSalt, u32>,
}

impl Table {
    fn new(own: SegmentSalt) -> Self {
        Self { known: HashMap::from([(own.clone(), 0)]), salts: vec![own] }
    }

    fn number(&mut self, salt: &SegmentSalt) -> SegmentIndex {
        if let Some(&number) = self.known.get(salt) {
            return SegmentIndex(number);
        }
        let number = u32::try_from(self.salts.len()).expect("fewer segments than bytes of a vault's index");
        self.salts.push(salt.clone());
        self.known.insert(salt.clone(), number);
        SegmentIndex(number)
    }
}

/// What a record takes in the new file.
fn aligned(len: u32) -> u64 {
    align_up(u64::from(len), RECORD_ALIGNMENT).expect("a record is at most 16 MiB and its frame")
}
