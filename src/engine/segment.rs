//! One run's place in the vault file: extents taken from its end, records put into them in any order, what was not
//! needed given back.
//!
//! Who owns what: the run's [`SegmentWriter`] owns the extents it has taken; nobody else writes there. A place is handed
//! out under a mutex that is held for a few instructions, never across work; the next extent is taken by whichever worker
//! finds the current one half used, with no mutex held, while the others go on. How it ends: with
//! [`SegmentWriter::trim`] after the commit, or [`SegmentWriter::give_back`] before it; a killed writer leaves its extents
//! unreferenced, and nothing else.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::crypto::derive::{SegmentKeys, segment_keys};
use crate::engine::cancel::Stop;
use crate::engine::staging::Staging;
use crate::engine::state::VaultKeys;
use crate::engine::write_behind::WriteBehind;
use crate::error::{Error, FileOp, Result};
use crate::format::header::MAX_VAULT_LEN;
use crate::format::index::{BlockRef, SegmentSalt};
use crate::format::record::{
    RECORD_ALIGNMENT, RecordKind, SEGMENT_HEADER_LEN, Salt, SegmentHeader, SegmentId, VaultId, align_up, seal_meta,
};
use crate::format::tree::BlockSink;
use crate::primitives::storage::{Lock, LockMode, Storage};

/// The first extent of a run; each one after is twice as long, up to [`MAX_EXTENT_LEN`].
const FIRST_EXTENT_LEN: u64 = 1 << 20;
/// The longest extent, unless a single record needs more.
const MAX_EXTENT_LEN: u64 = 64 << 20;
/// Room for the index and the commit record in a last extent.
const TAIL_LEN: u64 = 256 << 10;

/// How often a busy ALLOC lock is tried.
const ALLOC_POLL: Duration = Duration::from_millis(2);
/// Others may hold the ALLOC lock for so long without being waited for in the sense of `--lock-timeout`.
const ALLOC_HOLD: Duration = Duration::from_secs(1);
/// How long a run waits for the ALLOC lock to give space back.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

/// A stretch of the file that belongs to this run.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    start: u64,
    end: u64,
}

#[derive(Default)]
struct Space {
    /// Where the next record goes, and where the current extent ends.
    cursor: u64,
    end: u64,
    /// Taken already, to be used when the current one is full.
    next: Option<Stretch>,
    /// Somebody is taking the next one.
    taking: bool,
    next_len: u64,
    /// Everything taken, adjacent extents as one; in ascending order.
    taken: Vec<Stretch>,
    /// Ends of extents that were left unused when a record did not fit.
    gaps: Vec<Stretch>,
    /// Where this run's segment headers are.
    heads: Vec<u64>,
}

/// Writes the records of one run.
pub(crate) struct SegmentWriter {
    storage: Arc<dyn Storage>,
    stop: Arc<Stop>,
    lock_timeout: Option<Duration>,
    vault: PathBuf,
    vault_id: VaultId,
    salt: Salt,
    id: SegmentId,
    keys: SegmentKeys,
    space: Mutex<Space>,
    changed: Condvar,
    next_meta: AtomicU64,
    /// Bytes of records.
    written: AtomicU64,
    out: WriteBehind,
    /// Bytes of content that the records written so far stand for, and that all of them will stand for; 0 while unknown.
    content_done: AtomicU64,
    content_total: AtomicU64,
    /// Gathers records into writes of whole blocks, where that is worth it.
    staging: Option<Staging>,
}

impl SegmentWriter {
    /// A writer with a fresh salt, and no extent yet.
    ///
    /// - `stop`, `lock_timeout`: end the wait for the ALLOC lock.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        vault: &Path,
        keys: &VaultKeys,
        stop: &Arc<Stop>,
        lock_timeout: Option<Duration>,
    ) -> Result<Self> {
        let salt = Salt::generate()?;
        Ok(Self {
            out: WriteBehind::new(Arc::clone(&storage), vault),
            storage,
            stop: Arc::clone(stop),
            lock_timeout,
            vault: vault.to_owned(),
            vault_id: keys.vault_id,
            salt,
            id: salt.segment_id(),
            keys: segment_keys(&keys.master, &salt.0, &keys.vault_id.0),
            space: Mutex::new(Space { next_len: FIRST_EXTENT_LEN, ..Space::default() }),
            changed: Condvar::new(),
            next_meta: AtomicU64::new(0),
            written: AtomicU64::new(0),
            content_done: AtomicU64::new(0),
            content_total: AtomicU64::new(0),
            staging: None,
        })
    }

    /// Gathers records in so many blocks of such a length, if the storage asks for such writes; then nothing is in the file for
    /// certain before [`Self::sync`].
    pub(crate) fn staged(self, (blocks, block_len): (usize, usize)) -> Self {
        let preferred = self.storage.preferred_write_len().filter(|_| blocks > 0);
        // Where there is no memory for it, records are written one by one.
        let staging = preferred.and_then(|len| Staging::new(blocks, len.min(block_len)).ok());
        Self { staging, ..self }
    }

    /// The segment's id, for record headers.
    pub(crate) fn id(&self) -> SegmentId {
        self.id
    }

    /// The segment's keys.
    pub(crate) fn keys(&self) -> &SegmentKeys {
        &self.keys
    }

    /// The segment as trees and commits name it.
    pub(crate) fn salt(&self) -> SegmentSalt {
        SegmentSalt { salt: self.salt.0, wrapped: Vec::new() }
    }

    /// Bytes of records written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The scan is over: records will stand for so many bytes of content in all. From now on extents are as long as what
    /// is left should need, so that several writers of one vault leave little between each other.
    pub(crate) fn expect_content(&self, bytes: u64) {
        self.content_total.store(bytes, Ordering::Relaxed);
    }

    /// A record for so many bytes of content has been written.
    pub(crate) fn content_written(&self, bytes: u64) {
        self.content_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What is left to be written, as far as that can be told from how the content shrank so far.
    fn left(&self) -> Option<u64> {
        let total = self.content_total.load(Ordering::Relaxed);
        let done = self.content_done.load(Ordering::Relaxed);
        if total == 0 {
            return None;
        }
        let share = if done == 0 { 1.0 } else { (self.written() as f64 / done as f64).min(1.0) };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate of a length, not negative"
        )]
        let left = (total.saturating_sub(done) as f64 * share) as u64;
        Some(left + left / 16 + TAIL_LEN)
    }

    /// Where the segment headers written so far are.
    pub(crate) fn heads(&self) -> Vec<u64> {
        self.space().heads.clone()
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one framed record to a place of its own and says where that is.
    pub(crate) fn write(&self, framed: &[u8]) -> Result<u64> {
        let len = framed.len() as u64;
        let offset = match &self.staging {
            Some(staging) => staging.write(framed, || self.reserve(len), &|bytes, at| self.out.put(bytes, at))?,
            None => {
                let offset = self.reserve(len)?;
                self.out.put(framed, offset)?;
                offset
            }
        };
        self.written.fetch_add(len, Ordering::Relaxed);
        Ok(offset)
    }

    /// Writes bytes to a place that was reserved.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.out.put(bytes, offset)?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Makes all records durable. For when no other thread writes any more: a record may lie in a block that another thread has
    /// filled and is just writing.
    ///
    /// # Errors
    /// Of writing, or of the sync; `sync` says what to make of the second.
    pub(crate) fn sync(&self, sync: impl FnOnce(std::io::Error) -> Error) -> Result<()> {
        if let Some(staging) = &self.staging {
            staging.flush(&|bytes, at| self.out.put(bytes, at))?;
        }
        // What failed may be a record whose own writing had returned, gathered in a block of another worker's.
        self.out.sync(sync)
    }

    /// Takes a place for so many bytes.
    pub(crate) fn reserve(&self, len: u64) -> Result<u64> {
        let len = align_up(len, RECORD_ALIGNMENT).expect("records are shorter than 2^32 bytes");
        let mut space = self.space();
        loop {
            if space.end - space.cursor >= len {
                let offset = space.cursor;
                space.cursor += len;
                let half_used = space.next.is_none() && space.end - space.cursor < space.next_len / 4;
                // Once what is left is known, an extent ahead of need would be one too many at the end.
                if half_used && !space.taking && self.left().is_none() {
                    // Ahead of need: if there is no more space, the record that needs it will say so.
                    drop(self.take_extent(space, len));
                }
                return Ok(offset);
            }
            if let Some(next) = space.next.take() {
                self.move_to(&mut space, next);
            } else if space.taking {
                space = self.changed.wait(space).unwrap_or_else(PoisonError::into_inner);
            } else {
                space = self.take_extent(space, len)?;
            }
        }
    }

    fn move_to(&self, space: &mut Space, next: Stretch) {
        if next.start == space.end && space.end > 0 {
            // It prolongs the current one: no head, and a record may lie across the seam.
            space.end = next.end;
            return;
        }
        if space.cursor < space.end {
            let gap = Stretch { start: space.cursor, end: space.end };
            space.gaps.push(gap);
        }
        // Only now: an extent that no record went into is given back, head and all.
        space.heads.push(next.start);
        space.cursor = next.start + SEGMENT_HEADER_LEN as u64;
        space.end = next.end;
        self.changed.notify_all();
    }

    /// Takes the next extent from the end of the file, with room for its head and `len` bytes at least.
    fn take_extent<'s>(&'s self, mut space: MutexGuard<'s, Space>, len: u64) -> Result<MutexGuard<'s, Space>> {
        space.taking = true;
        let wanted = self.left().map_or(space.next_len, |left| left.min(space.next_len));
        let wanted = align_up(wanted, RECORD_ALIGNMENT).unwrap_or(space.next_len);
        let extent_len = wanted.max(len + SEGMENT_HEADER_LEN as u64);
        let (own_end, extent_number) = (space.end, space.heads.len());
        drop(space);
        let least = len + SEGMENT_HEADER_LEN as u64;
        let taken = match self.allocate(extent_len, own_end, extent_number) {
            // No room for an extent of that length: there may be some for the record that asks.
            Err(error) if is_no_space(&error) && extent_len > least => self.allocate(least, own_end, extent_number),
            taken => taken,
        };
        let mut space = self.space();
        space.taking = false;
        self.changed.notify_all();
        let stretch = taken?;
        space.next_len = (space.next_len * 2).min(MAX_EXTENT_LEN);
        match space.taken.last_mut() {
            Some(last) if last.end == stretch.start => last.end = stretch.end,
            _ => space.taken.push(stretch),
        }
        space.next = Some(stretch);
        Ok(space)
    }

    /// Lengthens the file under the ALLOC lock and writes the head of the new extent, unless it prolongs the current one.
    fn allocate(&self, len: u64, own_end: u64, extent_number: usize) -> Result<Stretch> {
        let io = |op| move |error| Error::io(op, &self.vault, error);
        self.lock_alloc(|began| {
            self.stop.is_stopped() || self.lock_timeout.is_some_and(|timeout| began.elapsed() > timeout.max(ALLOC_HOLD))
        })?;
        let allocated = (|| -> Result<Stretch> {
            let file_len = self.storage.len().map_err(io(FileOp::Stat))?;
            let start = align_up(file_len, RECORD_ALIGNMENT).unwrap_or(u64::MAX);
            let end = start.checked_add(len).filter(|&end| end <= MAX_VAULT_LEN);
            let end = end.ok_or_else(|| Error::Refused { what: "the vault is too long", path: self.vault.clone() })?;
            if let Err(error) = self.storage.allocate(start, len) {
                // A file system may have lengthened the file before it ran out of space.
                let _ = self.storage.set_len(file_len);
                return Err(Error::io(FileOp::Allocate, &self.vault, error));
            }
            Ok(Stretch { start, end })
        })();
        self.storage.unlock(Lock::Alloc).map_err(io(FileOp::Lock))?;
        let stretch = allocated?;
        if stretch.start != own_end {
            let number = u32::try_from(extent_number).unwrap_or(u32::MAX);
            let head = SegmentHeader::new(self.vault_id, self.salt, number).encode();
            if let Err(error) = write_all_at(&*self.storage, &self.vault, &head, stretch.start) {
                // Known to nobody yet, so it must be remembered here for `give_back`.
                self.space().taken.push(stretch);
                return Err(error);
            }
        }
        Ok(stretch)
    }

    /// Gives back what lies behind the last record of each extent, after the commit.
    pub(crate) fn trim(&self) -> Result<()> {
        let mut space = self.space();
        let mut unused = std::mem::take(&mut space.gaps);
        if space.cursor < space.end {
            unused.push(Stretch { start: space.cursor, end: space.end });
        }
        unused.extend(space.next.take());
        space.end = space.cursor;
        drop(space);
        self.release(unused)
    }

    /// Gives everything back: nothing of this run is referred to by any root.
    pub(crate) fn give_back(&self) -> Result<()> {
        if let Some(staging) = &self.staging {
            staging.forget();
        }
        let mut space = self.space();
        let all = std::mem::take(&mut space.taken);
        *space = Space { next_len: FIRST_EXTENT_LEN, ..Space::default() };
        drop(space);
        self.release(all)
    }

    /// Cuts stretches off where they end the file, and punches holes where they do not.
    fn release(&self, mut unused: Vec<Stretch>) -> Result<()> {
        let io = |op| move |error| Error::io(op, &self.vault, error);
        unused.retain(|stretch| stretch.start < stretch.end);
        if unused.is_empty() {
            return Ok(());
        }
        unused.sort_unstable_by_key(|stretch| std::cmp::Reverse(stretch.start));
        // A run that is ending gives its space back all the same, if the lock is to be had soon.
        self.lock_alloc(|began| began.elapsed() > RELEASE_PATIENCE)?;
        let released = unused.iter().try_for_each(|stretch| {
            if self.storage.len().map_err(io(FileOp::Stat))? == stretch.end {
                self.storage.set_len(stretch.start).map_err(io(FileOp::Truncate))
            } else {
                self.storage.punch(stretch.start, stretch.end - stretch.start).map_err(io(FileOp::Allocate))
            }
        });
        self.storage.unlock(Lock::Alloc).map_err(io(FileOp::Lock))?;
        released
    }

    /// Takes the ALLOC lock, which others hold for moments only, unless `give_up` says that it took too long.
    fn lock_alloc(&self, give_up: impl Fn(Instant) -> bool) -> Result<()> {
        let began = Instant::now();
        loop {
            let taken = self.storage.try_lock(Lock::Alloc, LockMode::Exclusive);
            if taken.map_err(|error| Error::io(FileOp::Lock, &self.vault, error))? {
                return Ok(());
            }
            if give_up(began) {
                return Err(Error::Locked(self.vault.clone()));
            }
            std::thread::sleep(ALLOC_POLL);
        }
    }

    /// Seals one metadata record under the next number, without writing it.
    pub(crate) fn seal_meta(&self, kind: RecordKind, plain: &[u8]) -> Result<(u64, Vec<u8>)> {
        let number = self.next_meta.fetch_add(1, Ordering::Relaxed);
        Ok((number, seal_meta(&self.keys, self.id, kind, number, plain)?))
    }
}

/// Index blocks go where the data goes.
impl BlockSink for &SegmentWriter {
    fn put(&mut self, kind: RecordKind, plain: &[u8]) -> Result<BlockRef> {
        let (number, framed) = self.seal_meta(kind, plain)?;
        let offset = self.write(&framed)?;
        let sealed_len = u32::try_from(framed.len()).expect("metadata records are at most 16 MiB");
        Ok(BlockRef { number, offset, sealed_len })
    }
}

fn is_no_space(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
}

/// Writes all of `bytes`, however many calls that takes.
pub(crate) fn write_all_at(storage: &dyn Storage, vault: &Path, mut bytes: &[u8], mut offset: u64) -> Result<()> {
    while !bytes.is_empty() {
        match storage.write_at(bytes, offset) {
            Ok(0) => return Err(Error::io(FileOp::Write, vault, std::io::ErrorKind::WriteZero)),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(FileOp::Write, vault, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::key::MasterKey;
    use crate::primitives::storage::FileStorage;

    #[test]
    fn a_segment_of_which_something_was_not_written_is_never_synced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault");
        std::fs::write(&path, "").unwrap();
        // Open for reading alone: every write fails, a sync would not.
        let file = std::fs::OpenOptions::new().read(true).open(&path).unwrap();
        let keys = VaultKeys::derive(VaultId::generate().unwrap(), MasterKey::generate().unwrap());
        let segment =
            SegmentWriter::new(Arc::new(FileStorage::new(file)), &path, &keys, &Arc::default(), None).unwrap();
        let sync = || segment.sync(|error| panic!("it was synced: {error}"));
        sync().unwrap();
        assert!(segment.write_at(b"a record", 0).is_err());
        let error = sync().unwrap_err();
        assert!(matches!(&error, Error::Io { op: FileOp::Write, .. }), "{error}");
    }
}
