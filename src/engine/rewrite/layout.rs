//! Where does each record go? Those that stay as they are one behind the other, segment by segment; those of which little is
//! needed are taken apart, and what is needed of several becomes a new record.

use std::ops::Range;

use crate::engine::rewrite::needed::{Needed, Record};
use crate::format::header::EXTENTS_AT;
use crate::format::index::RecordPlace;
use crate::format::record::{RECORD_ALIGNMENT, SEGMENT_HEADER_LEN, align_up, sealed_len};

/// Whether records of which little is needed are taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repacking {
    /// None are.
    Never,
    /// Those are of which less than half is needed: taking them apart writes fewer bytes than it saves (docs/adr/0015).
    BelowHalf,
}

/// A new record is made of old ones of at most so many times its length: whoever makes it is not seen for so long.
const SOURCES_PER_BATCH: u64 = 16;

/// A new record out of pieces of old ones.
pub(crate) struct Batch {
    /// Positions of the old records.
    pub(crate) sources: Vec<usize>,
    /// Its length before it is packed.
    pub(crate) plain_len: u32,
    /// Plain bytes of the old records.
    source_len: u64,
}

/// Where a piece of a record is that was taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewPlace {
    /// The number of the new record.
    pub(crate) batch: u32,
    /// Where the piece begins in its plain text.
    pub(crate) at: u32,
}

/// A segment of the new file that holds records of the old one.
pub(crate) struct MovedSegment {
    /// Its number.
    pub(crate) segment: u32,
    /// Where its header goes.
    pub(crate) head: u64,
    /// Positions of its records; those among them that are taken apart are not in it.
    pub(crate) records: Range<usize>,
}

/// The plan of the new file.
pub(crate) struct Layout {
    /// Of each record, where it goes; `None`: it is taken apart.
    offsets: Vec<Option<u64>>,
    pub(crate) segments: Vec<MovedSegment>,
    pub(crate) batches: Vec<Batch>,
    /// Of each piece, where it goes, if its record is taken apart.
    new_places: Vec<NewPlace>,
    /// Where the last record that is moved ends.
    pub(crate) end: u64,
    /// About what the new records will take.
    pub(crate) repacked_estimate: u64,
}

impl Layout {
    /// - `batch_len`: the most plain bytes of a new record, unless a single old one needs more.
    pub(crate) fn plan(needed: &Needed, repacking: Repacking, batch_len: u32) -> Self {
        let mut layout = Self {
            offsets: Vec::with_capacity(needed.records.len()),
            segments: Vec::new(),
            batches: Vec::new(),
            new_places: Vec::new(),
            end: EXTENTS_AT,
            repacked_estimate: 0,
        };
        if repacking == Repacking::BelowHalf {
            layout.new_places = vec![NewPlace { batch: 0, at: 0 }; needed.pieces.len()];
        }
        for (position, record) in needed.records.iter().enumerate() {
            if repacking == Repacking::BelowHalf && is_worth_it(record) {
                layout.take_apart(needed, position, batch_len);
                layout.offsets.push(None);
                continue;
            }
            match layout.segments.last_mut() {
                Some(last) if last.segment == record.segment => last.records.end = position + 1,
                _ => {
                    let moved =
                        MovedSegment { segment: record.segment, head: layout.end, records: position..position + 1 };
                    layout.segments.push(moved);
                    layout.end += SEGMENT_HEADER_LEN as u64;
                }
            }
            layout.offsets.push(Some(layout.end));
            layout.end += aligned(record.place.sealed_len);
        }
        layout
    }

    /// Puts what is needed of a record into the last batch, or into a new one.
    fn take_apart(&mut self, needed: &Needed, position: usize, batch_len: u32) {
        let record = &needed.records[position];
        let most = u64::from(batch_len) * SOURCES_PER_BATCH;
        let has_room = |batch: &Batch| {
            let left = batch_len.checked_sub(batch.plain_len);
            left.is_some_and(|left| left >= record.alive) && batch.source_len < most
        };
        if !self.batches.last().is_some_and(has_room) {
            self.batches.push(Batch { sources: Vec::new(), plain_len: 0, source_len: 0 });
        }
        let number = u32::try_from(self.batches.len() - 1).expect("fewer than there are records");
        let batch = self.batches.last_mut().expect("there is one by now");
        batch.sources.push(position);
        batch.source_len += u64::from(record.place.plain_len);
        for at in record.pieces.clone() {
            self.new_places[at] = NewPlace { batch: number, at: batch.plain_len };
            batch.plain_len += needed.pieces[at].len;
        }
        let share = u64::from(record.place.sealed_len) * u64::from(record.alive);
        self.repacked_estimate += share / u64::from(record.place.plain_len.max(1)) + u64::from(sealed_len(0));
    }

    /// Where a record goes that stays as it is; `None` if it is taken apart.
    pub(crate) fn place(&self, needed: &Needed, position: usize) -> Option<RecordPlace> {
        self.offsets[position].map(|offset| RecordPlace { offset, ..needed.records[position].place })
    }

    /// Where a piece goes of a record that is taken apart; `None` if there is no such piece.
    pub(crate) fn new_place(&self, needed: &Needed, position: usize, at: u32, len: u32) -> Option<NewPlace> {
        let pieces = needed.records[position].pieces.clone();
        let found =
            needed.pieces[pieces.clone()].binary_search_by_key(&(at, len), |piece| (piece.at, piece.len)).ok()?;
        Some(self.new_places[pieces.start + found])
    }

    /// Records that are taken apart.
    pub(crate) fn taken_apart(&self) -> impl Iterator<Item = usize> + '_ {
        self.offsets.iter().enumerate().filter(|(_, offset)| offset.is_none()).map(|(position, _)| position)
    }
}

/// Whether taking a record apart writes less than it saves.
fn is_worth_it(record: &Record) -> bool {
    record.divisible && !record.pieces.is_empty() && u64::from(record.alive) * 2 < u64::from(record.place.plain_len)
}

/// What a record takes in a file.
pub(crate) fn aligned(len: u32) -> u64 {
    align_up(u64::from(len), RECORD_ALIGNMENT).expect("a record is at most 16 MiB and its frame")
}
