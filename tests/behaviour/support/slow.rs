//! A disk that takes its time.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flint_pipe::{FsVaultDir, Lock, LockMode, Storage, Vault, VaultDir};

use crate::support::{cheap, password};

/// A real vault on a device that takes its time over each call that moves data.
struct Slow {
    inner: Arc<dyn Storage>,
    delay: Duration,
    /// Calls under way, and the most there were.
    now: AtomicUsize,
    most: Arc<AtomicUsize>,
}

impl Slow {
    fn wait(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(self.delay);
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Storage for Slow {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if buf.len() > 100_000 {
            self.wait();
        }
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.wait();
        self.inner.write_at(buf, offset)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(offset, len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.punch(offset, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.start_writeback(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn try_lock(&self, lock: Lock, mode: LockMode) -> io::Result<bool> {
        self.inner.try_lock(lock, mode)
    }
    fn lock(&self, lock: Lock, mode: LockMode) -> io::Result<()> {
        self.inner.lock(lock, mode)
    }
    fn unlock(&self, lock: Lock) -> io::Result<()> {
        self.inner.unlock(lock)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct SlowDir {
    inner: FsVaultDir,
    delay: Duration,
    most: Arc<AtomicUsize>,
}

impl SlowDir {
    fn slow(&self, inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
        Arc::new(Slow { inner, delay: self.delay, now: AtomicUsize::new(0), most: Arc::clone(&self.most) })
    }
}

fn inner(storage: &dyn Storage) -> &dyn Storage {
    &*storage.as_any().downcast_ref::<Slow>().expect("a storage of this directory").inner
}

impl VaultDir for SlowDir {
    fn open(&self, write: bool) -> io::Result<Option<Arc<dyn Storage>>> {
        Ok(self.inner.open(write)?.map(|storage| self.slow(storage)))
    }
    fn create_unlinked(&self) -> io::Result<Arc<dyn Storage>> {
        Ok(self.slow(self.inner.create_unlinked()?))
    }
    fn link(&self, storage: &dyn Storage) -> io::Result<()> {
        self.inner.link(inner(storage))
    }
    fn rename(&self, storage: &dyn Storage) -> io::Result<()> {
        self.inner.rename(inner(storage))
    }
    fn unlink(&self) -> io::Result<()> {
        self.inner.unlink()
    }
    fn is_same_file(&self, storage: &dyn Storage) -> io::Result<bool> {
        self.inner.is_same_file(inner(storage))
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
}

/// A vault at `path` each of whose writes and larger reads takes `delay`; and the most of them that were under way at once.
pub(crate) fn slow_vault(path: &Path, delay: Duration) -> (Vault, Arc<AtomicUsize>) {
    let most = Arc::new(AtomicUsize::new(0));
    let dir = SlowDir { inner: FsVaultDir::new(path).unwrap(), delay, most: Arc::clone(&most) };
    let vault = Vault::open_in(path, Arc::new(dir), &password(), Some(&cheap())).unwrap();
    (vault, most)
}
