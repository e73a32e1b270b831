//! Does a file still hold what the newest snapshot has of it?
//!
//! Asked of files whose attributes changed: that changes the ctime, which is then no witness for the content any more. The
//! file is read and compared, a record of the vault at a time; nothing is stored if it is the same. Takes the buffers of one
//! record beside the budget.

use std::sync::Arc;

use crate::engine::resolve::{Resolver, pieces};
use crate::engine::run::Run;
use crate::engine::state::State;
use crate::error::Result;
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
    read: ReadRecord<'r, ()>,
    decrypt: Decrypt<()>,
    decompress: Decompress<()>,
    /// The record opened last: small files lie in it side by side.
    last: Option<(Place, RecordBytes)>,
    buffer: Vec<u8>,
}

/// Tree, segment and number of a record.
type Place = (usize, SegmentIndex, u64);

impl<'r, 'c> OldContent<'r, 'c> {
    /// - `trees`: those of the snapshot.
    pub(crate) fn new(run: &'r Run<'c>, state: &'r State, trees: &[Arc<Tree>], source: &'r dyn Source) -> Result<Self> {
        let largest = trees.iter().map(|tree| tree.head().max_plain_len).max().unwrap_or(0);
        let pool = BufferPool::new(sealed_len(largest) as usize);
        Ok(Self {
            run,
            state,
            source,
            resolver: Resolver::new(trees, Arc::clone(&state.vault)),
            read: ReadRecord::new(&*state.storage, pool.clone()),
            decrypt: Decrypt::new(),
            decompress: Decompress::new(pool)?,
            last: None,
            buffer: vec![0; STEP],
        })
    }

    /// Whether the file holds just the bytes of `old`, an entry of that tree, and did not change meanwhile. What cannot be
    /// read, in the file or in the vault, is not the same: then the file is read as any other, and what fails is told.
    ///
    /// # Errors
    /// That the run is to end.
    pub(crate) fn is_same(&mut self, entry: &ScannedEntry, tree: usize, old: &Entry) -> Result<bool> {
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
            let Some((_, record)) = &self.last else { return Ok(false) };
            let (at, len) = (piece.at as usize, piece.len as usize);
            let Some(bytes) = record.as_slice().get(at..at + len) else { return Ok(false) };
            for (step, bytes) in bytes.chunks(STEP).enumerate() {
                let found = &mut self.buffer[..bytes.len()];
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
        for range in data {
            let (mut at, end) = (range.offset.max(from), (range.offset + range.len).min(to));
            while at < end {
                self.run.check()?;
                self.run.counters.tick();
                let len = usize::try_from(end - at).map_or(STEP, |left| left.min(STEP));
                let found = &mut self.buffer[..len];
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
        if self.last.as_ref().is_some_and(|(last, _)| *last == place) {
            return Ok(true);
        }
        self.last = None;
        let (tree, segment, number) = place;
        let Ok(found) = self.resolver.place(tree, segment, number) else { return Ok(false) };
        let salt = self.resolver.segment(tree, segment);
        let keys = self.state.reader.segment_keys(salt);
        let id = RecordId { segment: Salt(salt.salt).segment_id(), kind: RecordKind::Data, number };
        let Self { read, decrypt, decompress, last, .. } = self;
        let job = RecordJob { place: found, id, keys, purpose: () };
        let opened = read.process(job, &mut |sealed| {
            decrypt.process(sealed, &mut |packed| {
                decompress.process(packed, &mut |record| {
                    *last = record.bytes.ok().map(|bytes| (place, bytes));
                    Ok(())
                })
            })
        });
        Ok(opened.is_ok() && self.last.is_some())
    }
}
