//! How are the bytes of a file in several records written? Through a descriptor that is kept between its pieces, if there is one to
//! spare, and a large one around the page cache (docs/adr/0011).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::beneath::retry;
use super::destination::Destination;
use super::place::{close, write_all_at};
use super::told::RestoreError;
use crate::error::FileOp;
use crate::format::entry::{Entry, Extent};
use crate::primitives::direct::{DIRECT_BLOCK, Direct};

/// Files from this size on are written around the page cache where that is possible: smaller ones fit into it.
const AROUND_CACHE_FROM: u64 = 8 << 20;

/// A file that is being written.
pub(super) struct Target {
    file: OwnedFd,
    /// For large files that are all data: a way around the page cache.
    around: Option<Around>,
}

/// A second descriptor, which counts as one that is kept.
struct Around {
    direct: Direct,
    preallocated: AtomicBool,
    destination: Arc<Destination>,
}

/// A file that is kept open between pieces.
pub(super) struct Kept {
    target: Arc<Target>,
    destination: Arc<Destination>,
}

impl Kept {
    /// None is kept where as many are as may be: the file is then opened again for each record.
    pub(super) fn of(destination: &Arc<Destination>, file: OwnedFd, entry: &Entry) -> (Arc<Target>, Option<Self>) {
        if !destination.keep() {
            return (Arc::new(Target::new(file)), None);
        }
        let around = Around::of(destination, &file, entry);
        let target = Arc::new(Target { file, around });
        let kept = Self { target: Arc::clone(&target), destination: Arc::clone(destination) };
        (target, Some(kept))
    }

    /// The file.
    pub(super) fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.destination.unkeep();
    }
}

impl Around {
    fn of(destination: &Arc<Destination>, file: &OwnedFd, entry: &Entry) -> Option<Self> {
        let data = |extent: &Extent| if let Extent::Data { len, .. } = extent { *len } else { 0 };
        let is_all_data = entry.extents.iter().map(data).fold(0, u64::saturating_add) == entry.size;
        if entry.size < AROUND_CACHE_FROM || !is_all_data || !destination.keep() {
            return None;
        }
        match Direct::of(file) {
            Some(direct) => {
                let preallocated = AtomicBool::new(false);
                Some(Self { direct, preallocated, destination: Arc::clone(destination) })
            }
            None => {
                destination.unkeep();
                None
            }
        }
    }
}

impl Drop for Around {
    fn drop(&mut self) {
        self.destination.unkeep();
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Target {
    /// By way of the page cache alone.
    pub(super) fn new(file: OwnedFd) -> Self {
        Self { file, around: None }
    }

    /// Closes it and says what the system says to it.
    pub(super) fn close(self) -> Result<(), RestoreError> {
        close(self.file)
    }

    /// Takes the space that the file will need, once, so that several can write into it side by side around the cache; piece by
    /// piece, since some file systems take their time, and a vault may claim any size.
    pub(super) fn preallocate(&self, size: u64, destination: &Destination) -> Result<(), RestoreError> {
        const PIECE: u64 = 1 << 30;
        let Some(around) = &self.around else { return Ok(()) };
        if around.preallocated.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let mut offset = 0;
        while offset < size && !destination.is_abandoned() {
            let len = PIECE.min(size - offset);
            match retry(|| rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, len)) {
                Ok(()) => offset += len,
                Err(error @ (Errno::NOSPC | Errno::DQUOT)) => return Err(RestoreError::io(FileOp::Write, error)),
                // Without it, writing is slower and nothing else.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` at `offset`.
    pub(super) fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<(), RestoreError> {
        if let Some(Around { direct, .. }) = &self.around {
            let (whole, _) = bytes.split_at(bytes.len() - bytes.len() % DIRECT_BLOCK);
            let written =
                direct.write_at(whole, offset).map_err(|source| RestoreError::Io { op: FileOp::Write, source })?;
            // What is left, or all of it, goes by way of the cache.
            let written = written.unwrap_or(0);
            (bytes, offset) = (&bytes[written..], offset + written as u64);
        }
        write_all_at(self.file.as_fd(), bytes, offset)
    }
}
