//! What stands in a vault's file, wherever that is?
//!
//! Nothing is followed, no root and no length: every place at which a record or a segment header may begin is looked at, and
//! what looks like one is put down. What it says of itself is believed when it opens, not before. So a part of the file
//! that is destroyed, or that the disk does not give back, takes with it only what lies in it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use crate::engine::run::Run;
use crate::engine::state::read_at_most;
use crate::error::{Error, FileOp, Result};
use crate::format::header::EXTENTS_AT;
use crate::format::index::{BlockRef, RecordPlace, SegmentSalt};
use crate::format::record::{
    RECORD_ALIGNMENT, RECORD_HEADER_LEN, RECORD_MAGIC, RecordHeader, RecordKind, SEGMENT_HEADER_LEN, SEGMENT_MAGIC,
    Salt, SegmentHeader, SegmentId, VaultId, sealed_len,
};
use crate::primitives::storage::Storage;

/// So much of the file is looked at at a time; a multiple of every alignment of records.
const WINDOW: usize = 1 << 20;
/// Where the disk fails, it is asked for so much at a time.
const PATIENT_READ: usize = 4 << 10;
/// So many places are kept of one record: a second one is a copy, or a forgery that does not open.
const PLACES_OF_ONE: usize = 4;

/// What was found, and not opened yet.
#[derive(Default)]
pub(super) struct Survey {
    salts: HashMap<SegmentId, SegmentSalt>,
    /// The segments that have data records, by position.
    segments: HashMap<SegmentId, u32>,
    /// Of data records: by segment, number and offset.
    data: Vec<DataPlace>,
    /// Commit records and heads of trees, in the order of the file.
    pub(super) heads: Vec<HeadPlace>,
    /// The file's length in bytes.
    pub(super) file_len: u64,
    /// Bytes that the disk does not give back.
    pub(super) unreadable: u64,
}

/// Where a data record seems to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct DataPlace {
    /// A position among the segments that have data.
    pub(super) segment: u32,
    pub(super) place: RecordPlace,
}

/// Where a commit record or the head of a tree seems to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadPlace {
    pub(super) kind: RecordKind,
    pub(super) segment: SegmentId,
    pub(super) block: BlockRef,
}

impl Survey {
    /// Looks at the whole file behind its preamble.
    pub(super) fn take(run: &Run<'_>, storage: &dyn Storage, vault: &Path, vault_id: &VaultId) -> Result<Self> {
        let file_len = storage.len().map_err(|error| Error::io(FileOp::Stat, vault, error))?;
        let mut survey = Self { file_len, ..Self::default() };
        let mut buf = vec![0; WINDOW + SEGMENT_HEADER_LEN];
        let mut at = EXTENTS_AT;
        while at < file_len {
            run.check()?;
            run.counters.tick();
            let len = usize::try_from(file_len - at).map_or(buf.len(), |left| left.min(buf.len()));
            let found = read_patiently(run, storage, vault, &mut buf[..len], at, &mut survey.unreadable)?;
            survey.look_through(&buf[..found], at, vault_id);
            at += WINDOW as u64;
        }
        survey.data.sort_unstable_by_key(|data| (data.segment, data.place.number, data.place.offset));
        let mut run_of_one = (0, 0, 0);
        survey.data.retain(|data| {
            let (segment, number, count) = run_of_one;
            let is_same = (segment, number) == (data.segment, data.place.number);
            run_of_one = (data.segment, data.place.number, if is_same { count + 1 } else { 1 });
            run_of_one.2 <= PLACES_OF_ONE
        });
        Ok(survey)
    }

    /// Puts down what begins in the first [`WINDOW`] bytes.
    fn look_through(&mut self, bytes: &[u8], at: u64, vault_id: &VaultId) {
        for (position, offset) in
            (0..bytes.len().min(WINDOW)).step_by(RECORD_ALIGNMENT as usize).zip((at..).step_by(64))
        {
            let rest = &bytes[position..];
            if rest.starts_with(&RECORD_MAGIC)
                && let Some(Ok(header)) = rest.first_chunk::<RECORD_HEADER_LEN>().map(RecordHeader::decode)
            {
                self.record(&header, offset);
            } else if rest.starts_with(&SEGMENT_MAGIC)
                && let Some(Ok(header)) = rest.first_chunk::<SEGMENT_HEADER_LEN>().map(SegmentHeader::decode)
                && header.vault_id == *vault_id
            {
                self.learn(&SegmentSalt { salt: header.salt.0, wrapped: Vec::new() });
            }
        }
    }

    fn record(&mut self, header: &RecordHeader, offset: u64) {
        let sealed_len = sealed_len(header.packed_len);
        if offset.checked_add(u64::from(sealed_len)).is_none_or(|end| end > self.file_len) {
            return;
        }
        let RecordHeader { kind, segment, number, plain_len, .. } = *header;
        match kind {
            RecordKind::Data => {
                let next = u32::try_from(self.segments.len()).unwrap_or(u32::MAX);
                let segment = *self.segments.entry(segment).or_insert(next);
                self.data.push(DataPlace { segment, place: RecordPlace { number, offset, sealed_len, plain_len } });
            }
            RecordKind::Commit | RecordKind::TreeHead => {
                self.heads.push(HeadPlace { kind, segment, block: BlockRef { number, offset, sealed_len } });
            }
            // Blocks of an index are reached from its head, and mean nothing without it.
            _ => {}
        }
    }

    /// Takes a salt in; says whether it is new.
    pub(super) fn learn(&mut self, salt: &SegmentSalt) -> bool {
        self.salts.insert(Salt(salt.salt).segment_id(), salt.clone()).is_none()
    }

    /// The salt of a segment, if it was found anywhere.
    pub(super) fn salt(&self, segment: SegmentId) -> Option<&SegmentSalt> {
        self.salts.get(&segment)
    }

    /// The salts of the segments that have data records, by position.
    pub(super) fn salts_by_segment(&self) -> Vec<Option<SegmentSalt>> {
        let mut salts = vec![None; self.segments.len()];
        for (id, position) in &self.segments {
            salts[*position as usize] = self.salt(*id).cloned();
        }
        salts
    }

    /// The position of a segment that has data records.
    pub(super) fn segment(&self, salt: &SegmentSalt) -> Option<u32> {
        self.segments.get(&Salt(salt.salt).segment_id()).copied()
    }

    /// Every data record that was found.
    pub(super) fn data(&self) -> &[DataPlace] {
        &self.data
    }

    /// Where in [`Survey::data`] the places of one record are.
    pub(super) fn places(&self, segment: u32, number: u64) -> Range<usize> {
        let key = |data: &DataPlace| (data.segment, data.place.number);
        let start = self.data.partition_point(|data| key(data) < (segment, number));
        let len = self.data[start..].partition_point(|data| key(data) == (segment, number));
        start..start + len
    }
}

/// Fills `buf` as far as the file goes; what the disk does not give back is zeros, and counted.
fn read_patiently(
    run: &Run<'_>,
    storage: &dyn Storage,
    vault: &Path,
    buf: &mut [u8],
    at: u64,
    unreadable: &mut u64,
) -> Result<usize> {
    if let Ok(len) = read_at_most(storage, vault, buf, at) {
        return Ok(len);
    }
    for (piece, offset) in buf.chunks_mut(PATIENT_READ).zip((at..).step_by(PATIENT_READ)) {
        // A disk that fails may take half a minute for each.
        run.check()?;
        run.counters.tick();
        match read_at_most(storage, vault, piece, offset) {
            Ok(len) => piece[len..].fill(0),
            Err(_) => {
                // What lies behind the window is read, and counted, with the next one.
                *unreadable += if offset < at + WINDOW as u64 { piece.len() as u64 } else { 0 };
                piece.fill(0);
            }
        }
    }
    Ok(buf.len())
}
