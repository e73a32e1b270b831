//! What of a vault do the kept snapshots need? Each record once, and of the records that many entries share, which pieces.
//!
//! A snapshot whose predecessor is kept too is looked at by what it changed alone: the deltas of its own commit. So keeping a
//! thousand snapshots costs about what they changed, and not a thousand times all entries.
//!
//! Memory: about 100 bytes for each record, and 20 for each piece of a shared record, which is a small file's content; two or three
//! times that while pieces are brought together, and as much again while the new file is looked over.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ops::Range;
use std::sync::Arc;

use crate::engine::resolve::{Resolver, pieces};
use crate::engine::run::Run;
use crate::engine::state::State;
use crate::error::{Error, Malformation, Result};
use crate::format::commit::Commit;
use crate::format::entry::{Entry, Extent, SegmentIndex};
use crate::format::index::{Item, RecordPlace, SegmentSalt};
use crate::format::tree::{Tree, TreeCursor};

/// A commit that is kept.
pub(crate) struct Kept {
    pub(crate) commit: Commit,
    /// The commit right before it is the one that is kept before it, and it has all trees of that one: what it changed is in its
    /// own deltas.
    pub(crate) follows: bool,
}

impl Kept {
    /// The trees that make this commit's state of the state of the commit before.
    pub(crate) fn own_trees(&self, state: &State) -> Result<Vec<Arc<Tree>>> {
        let own = self.commit.deltas.iter().filter(|delta| delta.generation == self.commit.generation);
        own.map(|delta| state.tree(&self.commit, delta)).collect()
    }

    /// Bytes that its own deltas take; if it does not follow, about those that all of it takes.
    pub(crate) fn index_bytes(&self) -> u64 {
        let is_own = |generation| !self.follows || generation == self.commit.generation;
        let deltas = self.commit.deltas.iter().filter(|delta| is_own(delta.generation));
        let full = self.commit.full.iter().filter(|_| !self.follows);
        // What they say of themselves is taken as it is: it decides nothing but how much room is asked for.
        full.chain(deltas).fold(0, |sum, tree| tree.stored_bytes.saturating_add(sum))
    }
}

/// Segments by numbers that hold for all trees.
#[derive(Default)]
pub(crate) struct Segments {
    salts: Vec<SegmentSalt>,
    numbers: HashMap<SegmentSalt, u32>,
}

impl Segments {
    /// The number of a segment, which is put in if it is not there.
    pub(crate) fn number(&mut self, salt: &SegmentSalt) -> u32 {
        if let Some(number) = self.known(salt) {
            return number;
        }
        let number = u32::try_from(self.salts.len()).expect("fewer segments than bytes of a vault's index");
        self.salts.push(salt.clone());
        self.numbers.insert(salt.clone(), number);
        number
    }

    /// The number of a segment, if it is there.
    pub(crate) fn known(&self, salt: &SegmentSalt) -> Option<u32> {
        self.numbers.get(salt).copied()
    }

    /// The numbers of the segments of a tree, by the tree's own numbers.
    pub(crate) fn of(&mut self, tree: &Tree) -> Vec<u32> {
        tree.head().segments.iter().map(|salt| self.number(salt)).collect()
    }

    /// All of them, by number.
    pub(crate) fn salts(&self) -> &[SegmentSalt] {
        &self.salts
    }
}

/// A data record that is needed.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// The number of its segment.
    pub(crate) segment: u32,
    /// Where it is.
    pub(crate) place: RecordPlace,
    /// Bytes of its plain text that are needed.
    pub(crate) alive: u32,
    /// It may be taken apart: what is needed of it are pieces of single records, of which no two overlap.
    pub(crate) divisible: bool,
    /// Those pieces, in [`Needed::pieces`]; empty if it is needed as a whole.
    pub(crate) pieces: Range<usize>,
}

/// A piece of a record: of which, where it begins in the plain text, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    pub(crate) record: u32,
    pub(crate) at: u32,
    pub(crate) len: u32,
}

/// What is needed.
pub(crate) struct Needed {
    pub(crate) segments: Segments,
    /// By segment, oldest first, and in each by place in the file.
    pub(crate) records: Vec<Record>,
    /// By record and place in it.
    pub(crate) pieces: Vec<Piece>,
    /// Positions in `records`, by segment and number.
    index: HashMap<(u32, u64), u32>,
}

impl Needed {
    /// Walks through all trees of the kept commits, the oldest first.
    pub(crate) fn find(run: &Run<'_>, state: &State, kept: &[Kept]) -> Result<Self> {
        let mut gathering = Gathering::default();
        for kept in kept {
            run.check()?;
            if kept.follows {
                for tree in kept.own_trees(state)? {
                    gathering.tree(run, state, &tree)?;
                }
            } else {
                gathering.whole(run, state, &kept.commit)?;
            }
        }
        Ok(gathering.finish())
    }

    /// The position of a record.
    pub(crate) fn position(&self, segment: u32, number: u64) -> Option<usize> {
        self.index.get(&(segment, number)).map(|&at| at as usize)
    }
}

/// Pieces are brought together when there are so many more than the last time.
const PIECES_UNSORTED: usize = 1 << 20;

#[derive(Default)]
struct Gathering {
    segments: Segments,
    records: Vec<(u32, RecordPlace, bool)>,
    index: HashMap<(u32, u64), u32>,
    pieces: Vec<Piece>,
    /// How many of the pieces are known to be sorted, each once.
    sorted: usize,
}

impl Gathering {
    /// Everything that a commit holds.
    fn whole(&mut self, run: &Run<'_>, state: &State, commit: &Commit) -> Result<()> {
        let trees = state.trees(commit)?;
        let segments: Vec<Vec<u32>> = trees.iter().map(|tree| self.segments.of(tree)).collect();
        let mut resolver = Resolver::new(&trees, Arc::clone(&state.vault));
        let mut merge = state.merge(&trees)?;
        while let Some((tree, entry)) = merge.next()? {
            run.check()?;
            run.counters.tick();
            self.entry(&entry, &segments[tree], |segment, number| resolver.place(tree, segment, number), state)?;
        }
        Ok(())
    }

    /// Everything that a delta puts.
    fn tree(&mut self, run: &Run<'_>, state: &State, tree: &Arc<Tree>) -> Result<()> {
        let segments = self.segments.of(tree);
        let mut resolver = Resolver::new(std::slice::from_ref(tree), Arc::clone(&state.vault));
        let mut cursor = TreeCursor::new(Arc::clone(tree))?;
        while let Some(item) = cursor.next()? {
            run.check()?;
            run.counters.tick();
            let Item::Put(entry) = item else { continue };
            self.entry(&entry, &segments, |segment, number| resolver.place(0, segment, number), state)?;
        }
        Ok(())
    }

    /// - `segments`: numbers of the segments of the entry's tree.
    /// - `place`: finds a record by the numbers of that tree.
    fn entry(
        &mut self,
        entry: &Entry,
        segments: &[u32],
        mut place: impl FnMut(SegmentIndex, u64) -> Result<RecordPlace>,
        state: &State,
    ) -> Result<()> {
        for extent in &entry.extents {
            let is_run = matches!(extent, Extent::Data { count: 2.., .. });
            for piece in pieces(std::slice::from_ref(extent)) {
                let key = (segments[piece.segment.0 as usize], piece.number);
                let record = match self.index.entry(key) {
                    Slot::Occupied(known) => *known.get(),
                    Slot::Vacant(new) => {
                        let place = place(piece.segment, piece.number)?;
                        self.records.push((key.0, place, true));
                        let position = u32::try_from(self.records.len() - 1).expect("a vault has fewer records");
                        *new.insert(position)
                    }
                };
                let (_, place, divisible) = &mut self.records[record as usize];
                if u64::from(piece.at) + u64::from(piece.len) > u64::from(place.plain_len) {
                    let why = Malformation::Field { structure: "entry", field: "extent" };
                    return Err(Error::malformed(&*state.vault, place.offset, why));
                }
                // A run says where all its records are at once, so none of them may go elsewhere.
                *divisible &= !is_run && piece.len < place.plain_len;
                if *divisible {
                    self.pieces.push(Piece { record, at: piece.at, len: piece.len });
                }
            }
        }
        if self.pieces.len() > 2 * self.sorted + PIECES_UNSORTED {
            self.sort_pieces();
        }
        Ok(())
    }

    fn sort_pieces(&mut self) {
        self.pieces.sort_unstable();
        self.pieces.dedup();
        self.sorted = self.pieces.len();
    }

    fn finish(mut self) -> Needed {
        let mut order: Vec<u32> = (0..).take(self.records.len()).collect();
        order.sort_unstable_by_key(|&at| {
            let (segment, place, _) = &self.records[at as usize];
            (*segment, place.offset)
        });
        let mut new_position = vec![0; order.len()];
        for (new, &old) in (0..).zip(&order) {
            new_position[old as usize] = new;
        }
        // Of a record that turned out to be needed as a whole, no pieces.
        self.pieces.retain(|piece| self.records[piece.record as usize].2);
        self.pieces.iter_mut().for_each(|piece| piece.record = new_position[piece.record as usize]);
        self.sort_pieces();
        self.index.values_mut().for_each(|at| *at = new_position[*at as usize]);
        let pieces = self.pieces;
        let whole = |&old: &u32| {
            let (segment, place, divisible) = self.records[old as usize];
            Record { segment, place, alive: place.plain_len, divisible, pieces: 0..0 }
        };
        let mut records: Vec<Record> = order.iter().map(whole).collect();
        let mut from = 0;
        for of_one in pieces.chunk_by(|one, next| one.record == next.record) {
            let record = &mut records[of_one[0].record as usize];
            let (alive, overlaps) = covered(of_one);
            (record.alive, record.divisible) = (alive, !overlaps);
            record.pieces = from..from + of_one.len();
            from += of_one.len();
        }
        Needed { segments: self.segments, records, pieces, index: self.index }
    }
}

/// Bytes that some piece covers, and whether two pieces share any. The pieces are of one record, in order.
fn covered(pieces: &[Piece]) -> (u32, bool) {
    let (mut alive, mut end, mut overlaps) = (0, 0, false);
    for piece in pieces {
        let piece_end = piece.at + piece.len;
        overlaps |= piece.at < end;
        alive += piece_end.saturating_sub(piece.at.max(end));
        end = end.max(piece_end);
    }
    (alive, overlaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pieces: &[(u32, u32)]) -> (u32, bool) {
        let pieces: Vec<Piece> = pieces.iter().map(|&(at, len)| Piece { record: 0, at, len }).collect();
        covered(&pieces)
    }

    #[test]
    fn bytes_that_pieces_share_are_alive_once() {
        assert_eq!(of(&[(0, 5), (5, 5), (20, 1)]), (11, false));
        assert_eq!(of(&[(0, 5), (4, 5)]), (9, true));
        assert_eq!(of(&[(0, 10), (2, 3), (9, 4)]), (13, true));
        assert_eq!(of(&[(3, 2)]), (2, false));
    }
}
