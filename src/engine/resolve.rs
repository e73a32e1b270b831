//! From an entry's extents to places in the file, by the record tables of the tree that the entry came from.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::{Error, Malformation, Result};
use crate::format;
use crate::format::entry::{Extent, SegmentIndex};
use crate::format::index::{RecordPlace, SegmentSalt};
use crate::format::tree::Tree;

/// Looks records up; reads each block of a record table once.
pub(crate) struct Resolver {
    trees: Vec<Arc<Tree>>,
    /// Blocks by tree and position in its head.
    tables: HashMap<(usize, usize), Vec<RecordPlace>>,
    vault: Arc<std::path::Path>,
}

impl Resolver {
    /// A resolver for the trees of one commit.
    pub(crate) fn new(trees: &[Arc<Tree>], vault: Arc<std::path::Path>) -> Self {
        Self { trees: trees.to_vec(), tables: HashMap::new(), vault }
    }

    /// The segment that an index of this tree stands for.
    pub(crate) fn segment(&self, tree: usize, segment: SegmentIndex) -> &SegmentSalt {
        &self.trees[tree].head().segments[segment.0 as usize]
    }

    /// Where a record is.
    pub(crate) fn place(&mut self, tree: usize, segment: SegmentIndex, number: u64) -> Result<RecordPlace> {
        let tables = &self.trees[tree].head().records;
        let behind = tables.partition_point(|table| (table.segment, table.first) <= (segment.0, number));
        let position = behind.checked_sub(1).filter(|&position| tables[position].segment == segment.0);
        let Some(position) = position else { return Err(self.unknown()) };
        let table = match self.tables.entry((tree, position)) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(self.trees[tree].record_table(&tables[position])?)
            }
        };
        match table.binary_search_by_key(&number, |place| place.number) {
            Ok(found) => Ok(table[found]),
            Err(_) => Err(self.unknown()),
        }
    }

    fn unknown(&self) -> Error {
        let why = Malformation::Field { structure: "record table", field: "a record that an entry refers to" };
        Error::malformed(&*self.vault, 0, why)
    }
}

/// A piece of an entry's content that lies in one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordPiece {
    pub(crate) segment: SegmentIndex,
    pub(crate) number: u64,
    /// Where it begins in the record's plain text, and how long it is.
    pub(crate) at: u32,
    pub(crate) len: u32,
    /// Where it goes in the file.
    pub(crate) file_offset: u64,
}

/// The pieces of an entry's content in the order of the file; lazily, since a hostile extent may count billions.
pub(crate) fn pieces(extents: &[Extent]) -> impl Iterator<Item = RecordPiece> + '_ {
    let starts = extents.iter().scan(0_u64, |end, extent| {
        let start = *end;
        *end += extent.len();
        Some((start, extent))
    });
    starts.flat_map(|(start, extent)| {
        let (segment, first, count, record_len, offset, len) = match *extent {
            Extent::Data { segment, first, count, record_len, offset, len } => {
                (segment, first, count, record_len, offset, len)
            }
            Extent::Hole { .. } => (SegmentIndex(0), 0, 0, 1, 0, 0),
        };
        (0..count).map(move |n| {
            // Checked when the extent was decoded: the run reaches past all records but the last, and not past that.
            let begin = (n * u64::from(record_len)).saturating_sub(u64::from(offset));
            let at = if n == 0 { offset } else { 0 };
            let piece_len = u64::from(record_len - at).min(len - begin);
            RecordPiece {
                segment,
                number: first + n,
                at,
                len: u32::try_from(piece_len).expect("no longer than a record"),
                file_offset: start + begin,
            }
        })
    })
}

/// Whether two entries, each of the tree of that number, have the same link group and the same bytes, told by where the
/// bytes are.
pub(crate) fn same_content(
    trees: &[Arc<Tree>],
    (left_tree, left): (usize, &format::entry::Entry),
    (right_tree, right): (usize, &format::entry::Entry),
) -> bool {
    let salt = |tree: usize, segment: SegmentIndex| &trees[tree].head().segments[segment.0 as usize];
    let same_segment = |left, right| salt(left_tree, left) == salt(right_tree, right);
    let same_group = match (left.link, right.link) {
        (Some(left), Some(right)) => left.number == right.number && same_segment(left.segment, right.segment),
        (left, right) => left.is_none() && right.is_none(),
    };
    let same_extent = |(left, right): (&Extent, &Extent)| match (*left, *right) {
        (
            Extent::Data { segment: of_left, first, count, record_len, offset, len },
            Extent::Data { segment: of_right, .. },
        ) => {
            // The rest is compared as a whole, as if both were of one segment.
            let moved = Extent::Data { segment: of_right, first, count, record_len, offset, len };
            same_segment(of_left, of_right) && moved == *right
        }
        (left, right) => left == right,
    };
    same_group && left.extents.len() == right.extents.len() && left.extents.iter().zip(&right.extents).all(same_extent)
}

/// Brings the entries of several trees into one, which gets one table of segments and one of records.
pub(crate) struct SegmentUnion {
    resolver: Resolver,
    segments: Vec<SegmentSalt>,
    known: HashMap<SegmentSalt, SegmentIndex>,
    /// What the indexes of each tree are in the new one, as far as they were met.
    numbers: Vec<Vec<Option<SegmentIndex>>>,
    records: BTreeMap<u32, BTreeMap<u64, RecordPlace>>,
}

impl SegmentUnion {
    /// For the entries of these trees.
    pub(crate) fn new(trees: &[Arc<Tree>], vault: Arc<std::path::Path>) -> Self {
        let resolver = Resolver::new(trees, vault);
        let numbers = trees.iter().map(|tree| vec![None; tree.head().segments.len()]).collect();
        Self { resolver, segments: Vec::new(), known: HashMap::new(), numbers, records: BTreeMap::new() }
    }

    /// The same for a tree that has entries of a run's own, too: that run's segment is number 0, and its records come to
    /// the table by the caller.
    pub(crate) fn with_own(own: SegmentSalt, trees: &[Arc<Tree>], vault: Arc<std::path::Path>) -> Self {
        let mut union = Self::new(trees, vault);
        union.known.insert(own.clone(), SegmentIndex(0));
        union.segments.push(own);
        union
    }

    fn number(&mut self, tree: usize, segment: SegmentIndex) -> SegmentIndex {
        // The entries of a tree are many, its segments few: their salts are hashed once.
        *self.numbers[tree][segment.0 as usize].get_or_insert_with(|| {
            let salt = self.resolver.segment(tree, segment);
            *self.known.entry(salt.clone()).or_insert_with(|| {
                let number = u32::try_from(self.segments.len()).expect("fewer segments than bytes of a vault's index");
                self.segments.push(salt.clone());
                SegmentIndex(number)
            })
        })
    }

    /// Makes an entry of tree number `tree` one of the new tree.
    pub(crate) fn adopt(&mut self, tree: usize, entry: &mut format::entry::Entry) -> Result<()> {
        for piece in pieces(&entry.extents) {
            let segment = self.number(tree, piece.segment);
            if let Entry::Vacant(vacant) = self.records.entry(segment.0).or_default().entry(piece.number) {
                vacant.insert(self.resolver.place(tree, piece.segment, piece.number)?);
            }
        }
        for extent in &mut entry.extents {
            if let Extent::Data { segment, .. } = extent {
                *segment = self.number(tree, *segment);
            }
        }
        if let Some(link) = &mut entry.link {
            link.segment = self.number(tree, link.segment);
        }
        Ok(())
    }

    /// The tables of segments and records for [`TreeWriter::finish`](crate::format::tree::TreeWriter::finish).
    pub(crate) fn finish(self) -> (Vec<SegmentSalt>, BTreeMap<u32, Vec<RecordPlace>>) {
        let records = self.records.into_iter().map(|(segment, places)| (segment, places.into_values().collect()));
        (self.segments, records.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(extents: &[Extent]) -> Vec<(u64, u32, u32, u64)> {
        pieces(extents).map(|piece| (piece.number, piece.at, piece.len, piece.file_offset)).collect()
    }

    #[test]
    fn pieces_follow_the_runs_and_skip_the_holes() {
        let segment = SegmentIndex(0);
        let run = Extent::Data { segment, first: 5, count: 3, record_len: 10, offset: 4, len: 19 };
        let one = Extent::Data { segment, first: 9, count: 1, record_len: 7, offset: 3, len: 4 };
        let extents = [Extent::Hole { len: 100 }, run, Extent::Hole { len: 1 }, one];
        assert_eq!(all(&extents), [(5, 4, 6, 100), (6, 0, 10, 106), (7, 0, 3, 116), (9, 3, 4, 120)]);
    }
}
