//! How do bytes get to the disk while more of them are made? They are written, and every so often the system is asked to
//! begin bringing what was written to the disk, so that the sync at the end finds little left to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::engine::segment::write_all_at;
use crate::error::{Error, FileOp, Result};
use crate::primitives::storage::Storage;
use crate::stages::transfer::PlacedSink;

/// Write-behind is started for about so many bytes at a time.
const WRITEBACK_LEN: u64 = 8 << 20;

/// Writes to one file, from any thread.
pub(crate) struct WriteBehind {
    storage: Arc<dyn Storage>,
    vault: PathBuf,
    put: AtomicU64,
    /// Something was not written: the file is not to be synced, as if it were whole.
    has_failed: AtomicBool,
}

impl WriteBehind {
    /// - `vault`: what messages call the file.
    pub(crate) fn new(storage: Arc<dyn Storage>, vault: &Path) -> Self {
        Self { storage, vault: vault.to_owned(), put: AtomicU64::new(0), has_failed: AtomicBool::new(false) }
    }

    /// Writes bytes; now and then the system is asked to begin bringing them to the disk.
    pub(crate) fn put(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let written = write_all_at(&*self.storage, &self.vault, bytes, offset);
        written.inspect_err(|_| self.has_failed.store(true, Ordering::Relaxed))?;
        let len = bytes.len() as u64;
        let before = self.put.fetch_add(len, Ordering::Relaxed);
        if len >= WRITEBACK_LEN / 8 || before / WRITEBACK_LEN != (before + len) / WRITEBACK_LEN {
            let started = self.storage.start_writeback(offset, len);
            started.map_err(|error| Error::io(FileOp::Sync, &self.vault, error))?;
        }
        Ok(())
    }

    /// Makes all of it durable.
    ///
    /// # Errors
    /// If something was not written before, or of the sync; `sync` says what to make of that.
    pub(crate) fn sync(&self, sync: impl FnOnce(std::io::Error) -> Error) -> Result<()> {
        if self.has_failed.load(Ordering::Relaxed) {
            // Whoever was told of it should have ended the run.
            let why = std::io::Error::other("not all of its records could be written");
            return Err(Error::io(FileOp::Write, &self.vault, why));
        }
        self.storage.sync().map_err(sync)
    }
}

impl PlacedSink for WriteBehind {
    fn put(&self, framed: &[u8], offset: u64) -> Result<()> {
        Self::put(self, framed, offset)
    }
}
