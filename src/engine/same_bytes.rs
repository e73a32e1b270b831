//! Does a file still hold what the newest snapshot has of it?
//!
//! Asked of files whose attributes changed: that changes the ctime, which is then no witness for the content any more. The
//! file is read and compared, a record of the vault at a time; nothing is stored if it is the same. The buffers of that one
//! record are under a permit of the run's budget, which is given back before a chunk is given one: so the planner never
//! waits for a permit while holding another.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::budget::{Budget, Permit};
use crate::engine::resolve::{Resolver, pieces};
use crate::engine::run::Run;
use crate::engine::state::State;
use crate::engine::stats::Timed;
use crate::error::{Error, Result};
use crate::format::entry::{Entry, SegmentIndex};
use crate::format::record::{RecordId, RecordKind, Salt, sealed_len};
use crate::format::tree::Tree;
use crate::primitives::pool::BufferPool;
use crate::stages::pack::source::{Source, SourceFile};
use crate::stages::unpack::decompress::Decompress;
use crate::stages::unpack::decrypt::Decrypt;
use crate::stages::unpack::read::{ReadRecord, RecordBytes, RecordJob};
use crate::stages::{FileRange, ScannedEntry, Stage as _};

/// Bytes compared at once.
const STEP: usize = 256 << 10;

/// Compares files with what a snapshot has of them.
pub(crate) struct OldContent<'r, 'c> {
    run: &'r Run<'c>,
    state: &'r State,
    source: &'r dyn Source,
    resolver: Resolver,
    /// The most plain bytes of a record of the snapshot.
    largest: u32,
    budget: &'r Arc<Budget>,
    opener: Option<Opener<'r>>,
}

/// What opens records, while something is being compared.
struct Opener<'r> {
    read: ReadRecord<'r, ()>,
    decrypt: Decrypt<()>,
    decompress: Decompress<()>,
    /// The record opened last: small files lie in it side by side.
    last: Option<(Place, RecordBytes)>,
    buffer: Vec<u8>,
    /// For all of that; last, so that it is given back when the buffers are.
    _permit: Permit,
}

/// Tree, segment and number of a record.
type Place = (usize, SegmentIndex, u64);

impl<'r, 'c> OldContent<'r, 'c> {
    /// - `trees`: those of the snapshot.
    pub(crate) fn new(
        run: &'r Run<'c>,
        state: &'r State,
        trees: &[Arc<Tree>],
        source: &'r dyn Source,
        budget: &'r Arc<Budget>,
    ) -> Self {
        let largest = trees.iter().map(|tree| tree.head().max_plain_len).max().unwrap_or(0);
        let resolver = Resolver::new(trees, Arc::clone(&state.vault));
        Self { run, state, source, resolver, largest, budget, opener: None }
    }

    /// Gives back the memory; to be called before a permit is taken for anything else.
    pub(crate) fn release(&mut self) {
        self.opener = None;
    }

    /// What opens records, and the time waited for its memory; `None` if the whole budget would not do.
    fn opener(&mut self) -> Result<Option<(&mut Opener<'r>, Duration)>> {
        let mut waited = Duration::ZERO;
        if self.opener.is_none() {
            let units = 2 * u64::from(sealed_len(self.largest)) + STEP as u64;
            if units > self.budget.total() {
                return Ok(None);
            }
            let (permit, wait) = self.budget.acquire(units, &self.run.stop).ok_or(Error::Interrupted)?;
            waited = wait;
            let pool = BufferPool::new(sealed_len(self.largest) as usize);
            self.opener = Some(Opener {
                read: ReadRecord::new(&*self.state.storage, pool.clone()),
                decrypt: Decrypt::new(),
                decompress: Decompress::new(pool)?,
                last: None,
                buffer: vec![0; STEP],
                _permit: permit,
            });
        }
        Ok(self.opener.as_mut().map(|opener| (opener, waited)))
    }

    /// Whether the file holds just the bytes of `old`, an entry of that tree, and did not change meanwhile. What cannot be
    /// read, in the file or in the vault, is not the same: then the file is read as any other, and what fails is told. Nor
    /// is what the budget has no room to compare. `waits` grows by what was waited for memory.
    ///
    /// # Errors
    /// That the run is to end.
    pub(crate) fn is_same(
        &mut self,
        entry: &ScannedEntry,
        tree: usize,
        old: &Entry,
        waits: &mut Timed,
    ) -> Result<bool> {
        let Some((_, waited)) = self.opener()? else { return Ok(false) };
        waits.record(waited);
        let Ok(file) = self.source.open(&entry.path) else { return Ok(false) };
        let seen = &entry.stat;
        let is_as_seen = || {
            file.stat().is_ok_and(|now| {
                (now.dev, now.ino, now.size) == (seen.dev, seen.ino, seen.size)
                    && (now.mtime, now.ctime) == (seen.mtime, seen.ctime)
            })
        };
        if seen.size != old.size || !is_as_seen() {
            return Ok(false);
        }
        let Ok(data) = file.data_ranges(seen.size) else { return Ok(false) };
        let mut position = 0;
        for piece in pieces(&old.extents) {
            self.run.check()?;
            self.run.counters.tick();
            let place = (tree, piece.segment, piece.number);
            if !self.are_zeros(&*file, &data, position, piece.file_offset)? || !self.open(place)? {
                return Ok(false);
            }
            let Some(Opener { last: Some((_, record)), buffer, .. }) = &mut self.opener else { return Ok(false) };
            let (at, len) = (piece.at as usize, piece.len as usize);
            let Some(bytes) = record.as_slice().get(at..at + len) else { return Ok(false) };
            for (step, bytes) in bytes.chunks(STEP).enumerate() {
                let found = &mut buffer[..bytes.len()];
                let read = file.read_at(found, piece.file_offset + (step * STEP) as u64);
                if !matches!(read, Ok(len) if len == bytes.len()) || *found != *bytes {
                    return Ok(false);
                }
            }
            position = piece.file_offset + u64::from(piece.len);
        }
        Ok(self.are_zeros(&*file, &data, position, seen.size)? && is_as_seen())
    }

    /// Whether there is nothing but zeros between two places of a file; where it has no data there are.
    fn are_zeros(&mut self, file: &dyn SourceFile, data: &[FileRange], from: u64, to: u64) -> Result<bool> {
        let Some(Opener { buffer, .. }) = &mut self.opener else { return Ok(false) };
        for range in data {
            let (mut at, end) = (range.offset.max(from), (range.offset + range.len).min(to));
            while at < end {
                self.run.check()?;
                self.run.counters.tick();
                let len = usize::try_from(end - at).map_or(STEP, |left| left.min(STEP));
                let found = &mut buffer[..len];
                let read = file.read_at(found, at);
                if !matches!(read, Ok(read) if read == len) || found.iter().any(|&byte| byte != 0) {
                    return Ok(false);
                }
                at += len as u64;
            }
        }
        Ok(true)
    }

    /// Makes a record of the vault the one opened last; false if it cannot be had.
    fn open(&mut self, place: Place) -> Result<bool> {
        let Some(Opener { read, decrypt, decompress, last, .. }) = &mut self.opener else { return Ok(false) };
        if last.as_ref().is_some_and(|(last, _)| *last == place) {
            return Ok(true);
        }
        *last = None;
        let (tree, segment, number) = place;
        let Ok(found) = self.resolver.place(tree, segment, number) else { return Ok(false) };
        let salt = self.resolver.segment(tree, segment);
        let keys = self.state.reader.segment_keys(salt);
        let id = RecordId { segment: Salt(salt.salt).segment_id(), kind: RecordKind::Data, number };
        let job = RecordJob { place: found, id, keys, purpose: () };
        let opened = read.process(job, &mut |sealed| {
            decrypt.process(sealed, &mut |packed| {
                decompress.process(packed, &mut |record| {
                    *last = record.bytes.ok().map(|bytes| (place, bytes));
                    Ok(())
                })
            })
        });
        Ok(opened.is_ok() && last.is_some())
    }
}
