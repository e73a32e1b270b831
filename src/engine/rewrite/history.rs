//! How do indexes and commits get into the new file? They are sealed anew, since they say where things are; in one segment of
//! the run's own, a commit for each kept snapshot.
//!
//! A snapshot whose predecessor is kept too has the same deltas as before, item for item. Else what it changes of the one kept
//! before it is told by going through both. Every so often, by the same rule as in every other run, a whole index is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::commit::write_commit;
use crate::engine::full_index::is_due;
use crate::engine::resolve::pieces;
use crate::engine::rewrite::Rewrite;
use crate::engine::rewrite::layout::Layout;
use crate::engine::rewrite::needed::{Kept, Needed};
use crate::engine::segment::SegmentWriter;
use crate::error::{Error, Malformation, Result};
use crate::format::commit::{Commit, Previous, TreeRef};
use crate::format::entry::{Entry, Extent, SegmentIndex};
use crate::format::header::CommitPlace;
use crate::format::index::{BlockRef, Item, RecordPlace, Replacement, SegmentSalt};
use crate::format::merge::Merge;
use crate::format::tree::{Tree, TreeCursor, TreeWriter};

/// Where everything is now.
pub(super) struct Moved<'m> {
    pub(super) needed: &'m Needed,
    pub(super) layout: &'m Layout,
    /// The records made of pieces, by number.
    pub(super) new_records: &'m [RecordPlace],
    /// The vault's highest number of a snapshot.
    pub(super) highest_snapshot: u64,
    /// The newest generation of the old file.
    pub(super) generation: u64,
}

/// The segments and records of a tree under construction, by numbers of its own.
struct TreeTables<'m> {
    moved: &'m Moved<'m>,
    /// By number of the whole vault; the last place is the run's own segment.
    numbers: Vec<Option<u32>>,
    salts: Vec<SegmentSalt>,
    records: BTreeMap<u32, BTreeMap<u64, RecordPlace>>,
}

impl Rewrite<'_, '_> {
    /// Writes the trees and commits of all kept snapshots; answers the newest commit.
    pub(super) fn write_history(
        &self,
        segment: &SegmentWriter,
        moved: &Moved<'_>,
        kept: &[Kept],
    ) -> Result<(u64, CommitPlace)> {
        let used_up = || Error::Refused { what: "the vault's numbers are used up", path: self.path.to_path_buf() };
        let mut generation = moved.generation.checked_add(1).ok_or_else(used_up)?;
        let mut commit = Commit {
            flags: 0,
            generation,
            snapshot: None,
            highest_snapshot: moved.highest_snapshot,
            previous: None,
            segments: vec![segment.salt()],
            full: None,
            deltas: Vec::new(),
            heads: Vec::new(),
        };
        // The first commit is of an empty vault; it lists where the segments of the data begin.
        let salts = moved.layout.segments.iter().map(|of| self.new_salt(&moved.needed.segments, of.segment).clone());
        commit.segments.extend(salts);
        let heads: Vec<(u32, u64)> = (1..).zip(moved.layout.segments.iter().map(|of| of.head)).collect();
        let mut place = write_commit(segment, &mut commit, &heads)?;
        commit.segments.truncate(1);
        let mut before: Option<&Kept> = None;
        for kept in kept {
            self.run.check()?;
            commit.previous = Some(Previous {
                segment: 0,
                block: BlockRef { number: place.number, offset: place.offset.0, sealed_len: place.sealed_len },
                generation,
                digest: place.digest,
            });
            generation = generation.checked_add(1).ok_or_else(used_up)?;
            commit.generation = generation;
            commit.snapshot.clone_from(&kept.commit.snapshot);
            let tree = |(head, stored_bytes), generation| TreeRef { segment: 0, head, generation, stored_bytes };
            match before {
                None => {
                    let whole = tree(self.write_whole(segment, moved, kept)?, generation);
                    // Where there was no full index yet, there is none now: a quarter of the first snapshot's would soon be reached.
                    match kept.commit.full {
                        Some(_) => commit.full = Some(whole),
                        None => commit.deltas.push(whole),
                    }
                }
                Some(before) => {
                    if is_due(&commit) {
                        commit.full = Some(tree(self.write_whole(segment, moved, before)?, generation - 1));
                        commit.deltas.clear();
                    }
                    if kept.follows {
                        for own in kept.own_trees(self.from)? {
                            commit.deltas.push(tree(self.write_again(segment, moved, &own)?, generation));
                        }
                    } else {
                        commit.deltas.push(tree(self.write_changes(segment, moved, before, kept)?, generation));
                    }
                }
            }
            place = write_commit(segment, &mut commit, &[])?;
            before = Some(kept);
        }
        Ok((generation, place))
    }

    /// Everything that a snapshot holds.
    fn write_whole(&self, segment: &SegmentWriter, moved: &Moved<'_>, kept: &Kept) -> Result<(BlockRef, u64)> {
        let mut tables = TreeTables::new(moved);
        let mut entries = Entries::of(self, moved, kept)?;
        let mut writer = TreeWriter::default();
        let mut sink = segment;
        while let Some((mut entry, segments)) = entries.next(self)? {
            self.adopt(&mut tables, &mut entry, &segments, segment)?;
            writer.push(&Item::Put(entry), &mut sink)?;
        }
        let (salts, records) = tables.finish();
        writer.finish(salts, records, Vec::new(), &mut sink)
    }

    /// A delta as it was, with the places as they are now.
    fn write_again(&self, segment: &SegmentWriter, moved: &Moved<'_>, tree: &Arc<Tree>) -> Result<(BlockRef, u64)> {
        let mut tables = TreeTables::new(moved);
        let segments = numbers_of(moved, tree);
        let mut cursor = TreeCursor::new(Arc::clone(tree))?;
        let mut writer = TreeWriter::default();
        let mut sink = segment;
        while let Some(mut item) = cursor.next()? {
            self.run.check()?;
            self.run.counters.tick();
            if let Item::Put(entry) = &mut item {
                self.adopt(&mut tables, entry, &segments, segment)?;
            }
            writer.push(&item, &mut sink)?;
        }
        let replacements: Vec<Replacement> = tree.head().replacements.clone();
        let (salts, records) = tables.finish();
        writer.finish(salts, records, replacements, &mut sink)
    }

    /// What a snapshot changes of an older one, found by going through both.
    fn write_changes(
        &self,
        segment: &SegmentWriter,
        moved: &Moved<'_>,
        before: &Kept,
        kept: &Kept,
    ) -> Result<(BlockRef, u64)> {
        let mut tables = TreeTables::new(moved);
        let mut writer = TreeWriter::default();
        let mut sink = segment;
        let mut old = Entries::of(self, moved, before)?;
        let mut new = Entries::of(self, moved, kept)?;
        let (mut was, mut is) = (old.next(self)?, new.next(self)?);
        loop {
            match (was.take(), is.take()) {
                (None, None) => break,
                (other, Some((mut entry, segments)))
                    if other.as_ref().is_none_or(|(other, _)| other.path >= entry.path) =>
                {
                    let is_same_name = other.as_ref().is_some_and(|(other, _)| other.path == entry.path);
                    let is_same =
                        other.as_ref().is_some_and(|(other, of)| is_same_entry((other, of), (&entry, &segments)));
                    if !is_same {
                        self.adopt(&mut tables, &mut entry, &segments, segment)?;
                        writer.push(&Item::Put(entry), &mut sink)?;
                    }
                    was = if is_same_name { old.next(self)? } else { other };
                    is = new.next(self)?;
                }
                (gone, next) => {
                    if let Some((gone, _)) = gone {
                        writer.push(&Item::Delete(gone.path), &mut sink)?;
                    }
                    was = old.next(self)?;
                    is = next;
                }
            }
        }
        let (salts, records) = tables.finish();
        writer.finish(salts, records, Vec::new(), &mut sink)
    }

    /// Makes an entry one of a new tree: with that tree's segments, and with its content where that is now.
    ///
    /// - `segments`: of the entry's old tree, by number of the whole vault.
    fn adopt(
        &self,
        tables: &mut TreeTables<'_>,
        entry: &mut Entry,
        segments: &[u32],
        own: &SegmentWriter,
    ) -> Result<()> {
        for extent in &mut entry.extents {
            let new = match *extent {
                Extent::Hole { .. } => continue,
                Extent::Data { segment, first, count, offset, .. } => {
                    self.new_extent(tables, extent, (segments[segment.0 as usize], first, count, offset), own)?
                }
            };
            *extent = new;
        }
        if let Some(link) = &mut entry.link {
            link.segment = self.number(tables, segments[link.segment.0 as usize])?;
        }
        Ok(())
    }

    fn new_extent(
        &self,
        tables: &mut TreeTables<'_>,
        extent: &Extent,
        (segment, first, count, offset): (u32, u64, u64, u32),
        own: &SegmentWriter,
    ) -> Result<Extent> {
        let Moved { needed, layout, new_records, .. } = *tables.moved;
        let unknown = || self.unknown();
        let position = |number| needed.position(segment, number).ok_or_else(unknown);
        let is_taken_apart = count == 1 && layout.place(needed, position(first)?).is_none();
        if is_taken_apart {
            let piece = pieces(std::slice::from_ref(extent)).next().ok_or_else(unknown)?;
            let new = layout.new_place(needed, position(first)?, offset, piece.len).ok_or_else(unknown)?;
            let record = *new_records.get(new.batch as usize).ok_or_else(unknown)?;
            let segment = tables.own(own);
            tables.records.entry(segment.0).or_default().insert(record.number, record);
            let record_len = new.at + piece.len;
            let len = u64::from(piece.len);
            return Ok(Extent::Data { segment, first: record.number, count: 1, record_len, offset: new.at, len });
        }
        let number = self.number(tables, segment)?;
        let places = tables.records.entry(number.0).or_default();
        for piece in pieces(std::slice::from_ref(extent)) {
            let place = layout.place(needed, position(piece.number)?).ok_or_else(unknown)?;
            places.insert(piece.number, place);
        }
        let mut moved = *extent;
        if let Extent::Data { segment, .. } = &mut moved {
            *segment = number;
        }
        Ok(moved)
    }

    /// The number that a segment of the vault has in a new tree.
    fn number(&self, tables: &mut TreeTables<'_>, segment: u32) -> Result<SegmentIndex> {
        if segment == NOT_NEEDED {
            return Err(self.unknown());
        }
        let salt = self.new_salt(&tables.moved.needed.segments, segment);
        Ok(tables.number(segment as usize, || salt.clone()))
    }

    /// The error for an entry that says of its content what the trees that were walked through do not.
    fn unknown(&self) -> Error {
        Error::malformed(&**self.path, 0, Malformation::Field { structure: "entry", field: "extent" })
    }
}

impl<'m> TreeTables<'m> {
    fn new(moved: &'m Moved<'m>) -> Self {
        let numbers = vec![None; moved.needed.segments.salts().len() + 1];
        Self { moved, numbers, salts: Vec::new(), records: BTreeMap::new() }
    }

    fn number(&mut self, at: usize, salt: impl FnOnce() -> SegmentSalt) -> SegmentIndex {
        let Self { numbers, salts, .. } = self;
        SegmentIndex(*numbers[at].get_or_insert_with(|| {
            salts.push(salt());
            u32::try_from(salts.len() - 1).expect("fewer segments than bytes of a vault's index")
        }))
    }

    /// The number of the run's own segment.
    fn own(&mut self, own: &SegmentWriter) -> SegmentIndex {
        self.number(self.numbers.len() - 1, || own.salt())
    }

    /// For [`TreeWriter::finish`].
    fn finish(self) -> (Vec<SegmentSalt>, BTreeMap<u32, Vec<RecordPlace>>) {
        let records = self.records.into_iter().map(|(segment, places)| (segment, places.into_values().collect()));
        (self.salts, records.collect())
    }
}

/// The number of a segment that no kept snapshot needs. A full index from before a kept snapshot may have entries in such.
const NOT_NEEDED: u32 = u32::MAX;

/// The segments of a tree, by number of the whole vault.
fn numbers_of(moved: &Moved<'_>, tree: &Tree) -> Arc<[u32]> {
    let number = |salt| moved.needed.segments.known(salt).unwrap_or(NOT_NEEDED);
    tree.head().segments.iter().map(number).collect()
}

/// An entry, and the segments of its tree by number of the whole vault.
type Placed = (Box<Entry>, Arc<[u32]>);

/// What a snapshot holds.
struct Entries {
    merge: Merge,
    /// Of each tree, its segments.
    segments: Vec<Arc<[u32]>>,
}

impl Entries {
    fn of(rewrite: &Rewrite<'_, '_>, moved: &Moved<'_>, kept: &Kept) -> Result<Self> {
        let trees = rewrite.from.trees(&kept.commit)?;
        let segments = trees.iter().map(|tree| numbers_of(moved, tree)).collect();
        Ok(Self { merge: rewrite.from.merge(&trees)?, segments })
    }

    /// The next entry, and the segments of its tree.
    fn next(&mut self, rewrite: &Rewrite<'_, '_>) -> Result<Option<Placed>> {
        rewrite.run.check()?;
        rewrite.run.counters.tick();
        let next = self.merge.next()?;
        Ok(next.map(|(tree, entry)| (entry, Arc::clone(&self.segments[tree]))))
    }
}

/// Whether two entries say the same, each with the segments of its tree.
fn is_same_entry((left, of_left): (&Entry, &[u32]), (right, of_right): (&Entry, &[u32])) -> bool {
    if left.extents.len() != right.extents.len() {
        return false;
    }
    let in_vault = |entry: &Entry, segments: &[u32]| {
        let mut entry = entry.clone();
        for extent in &mut entry.extents {
            if let Extent::Data { segment, .. } = extent {
                *segment = SegmentIndex(segments[segment.0 as usize]);
            }
        }
        if let Some(link) = &mut entry.link {
            link.segment = SegmentIndex(segments[link.segment.0 as usize]);
        }
        entry
    };
    in_vault(left, of_left) == in_vault(right, of_right)
}
