//! Where does a profile write? Into nothing, or into a file that never has a name.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::format::header::EXTENTS_AT;
use crate::format::record::{RECORD_HEADER_LEN, RecordHeader, RecordKind};
use crate::primitives::storage::{FsVaultDir, Lock, LockMode, Storage, VaultDir};

/// A storage that drops data records and index blocks, and keeps what is needed to go on: headers, roots, heads of trees
/// and segments, commit records. Reading what was dropped gives zeros, which authenticate as nothing.
#[derive(Debug, Default)]
pub(super) struct NullStorage {
    len: AtomicU64,
    kept: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl NullStorage {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<u8>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether these bytes are a record that no run looks at again before it has ended.
fn is_dropped(bytes: &[u8]) -> bool {
    let header = bytes.first_chunk::<RECORD_HEADER_LEN>().map(RecordHeader::decode);
    matches!(header, Some(Ok(header)) if !matches!(header.kind, RecordKind::TreeHead | RecordKind::Commit))
}

impl Storage for NullStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::Acquire))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len()?.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let buf = &mut buf[..wanted];
        buf.fill(0);
        for (&at, bytes) in self.kept().range(..offset + wanted as u64) {
            let end = at + bytes.len() as u64;
            if end > offset {
                let from = offset.max(at);
                let (Ok(within), Ok(into)) = (usize::try_from(from - at), usize::try_from(from - offset)) else {
                    continue;
                };
                let len = (bytes.len() - within).min(wanted - into);
                buf[into..into + len].copy_from_slice(&bytes[within..within + len]);
            }
        }
        Ok(wanted)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.len.fetch_max(offset + buf.len() as u64, Ordering::AcqRel);
        if offset < EXTENTS_AT || !is_dropped(buf) {
            self.kept().insert(offset, buf.to_vec());
        }
        Ok(buf.len())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.len.fetch_max(offset + len, Ordering::AcqRel);
        Ok(())
    }

    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn start_writeback(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    // One run alone knows of it, and takes each lock once.
    fn try_lock(&self, _: Lock, _: LockMode) -> io::Result<bool> {
        Ok(true)
    }

    fn lock(&self, _: Lock, _: LockMode) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self, _: Lock) -> io::Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The place of one vault that is never given a name: in memory, or on a file system.
#[derive(Default)]
pub(super) struct Scratch {
    /// Makes the file; `None`: a [`NullStorage`].
    on: Option<FsVaultDir>,
    made: Mutex<Option<Arc<dyn Storage>>>,
}

impl Scratch {
    /// Nowhere, or without a name in a directory.
    pub(super) fn new(directory: Option<&Path>) -> io::Result<Self> {
        // The name is only for a file system that cannot make files without one, and goes with the file.
        let on = directory.map(|directory| FsVaultDir::new(directory.join("flint-pipe-profile"))).transpose()?;
        Ok(Self { on, made: Mutex::default() })
    }

    fn made(&self) -> MutexGuard<'_, Option<Arc<dyn Storage>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VaultDir for Scratch {
    fn open(&self, _write: bool) -> io::Result<Option<Arc<dyn Storage>>> {
        Ok(self.made().clone())
    }

    fn create_unlinked(&self) -> io::Result<Arc<dyn Storage>> {
        let made: Arc<dyn Storage> = match &self.on {
            Some(directory) => directory.create_unlinked()?,
            None => Arc::new(NullStorage::default()),
        };
        *self.made() = Some(Arc::clone(&made));
        Ok(made)
    }

    fn link(&self, _: &dyn Storage) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _: &dyn Storage) -> io::Result<()> {
        Ok(())
    }

    fn unlink(&self) -> io::Result<()> {
        *self.made() = None;
        Ok(())
    }

    fn is_same_file(&self, _: &dyn Storage) -> io::Result<bool> {
        Ok(true)
    }

    fn sync(&self) -> io::Result<()> {
        self.on.as_ref().map_or(Ok(()), VaultDir::sync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_what_is_dropped_is_zeros() {
        let storage = NullStorage::default();
        storage.write_at(&[1; 100], 10).unwrap();
        storage.write_at(&[2; 8], 200).unwrap();
        storage.write_at(&[3; 8], EXTENTS_AT).unwrap();
        let mut buf = [9; 300];
        assert_eq!(storage.read_at(&mut buf, 50).unwrap(), 300);
        assert!(buf[..60].iter().all(|&byte| byte == 1) && buf[60..150].iter().all(|&byte| byte == 0));
        assert!(buf[150..158].iter().all(|&byte| byte == 2) && buf[158..].iter().all(|&byte| byte == 0));
        assert_eq!(storage.read_at(&mut buf, EXTENTS_AT + 4).unwrap(), 4, "up to the end");
        assert_eq!(buf[..4], [3; 4]);
        assert_eq!(storage.read_at(&mut buf, EXTENTS_AT + 8).unwrap(), 0);
    }
}
