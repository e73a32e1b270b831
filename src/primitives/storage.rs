//! The two seams to the system: [`Storage`], the bytes and locks of one file, and [`VaultDir`], the name it goes by.
//!
//! Everything that a vault does to a disk goes through these traits, so that a test can stand in for the disk.
//! [`FileStorage`] and [`FsVaultDir`] are the real ones.

mod dir;

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, retry_on_intr};

pub use self::dir::FsVaultDir;
use self::dir::TemporaryName;
use crate::primitives::direct::{DIRECT_LEN, Direct};
use crate::primitives::fs;
use crate::primitives::sys::{self, RangeLock};

/// The three locks of a vault (docs/FORMAT.md, "Locks"), always taken in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lock {
    /// Shared by every writer for its life; exclusive for who wants the vault alone.
    Presence,
    /// Held while a commit is merged, written and made the state.
    Commit,
    /// Held while an extent is taken from the end of the file, or given back.
    Alloc,
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// By any number at once.
    Shared,
    /// By one alone.
    Exclusive,
}

/// The bytes and locks of one file. All positions and lengths are bytes.
///
/// Implementations may be called from many threads at once. Locks belong to the value, not to the thread: the engine
/// takes each of them at most once at a time for one value.
#[expect(
    clippy::len_without_is_empty,
    reason = "a file has a length; whether that is zero is no question of the engine's"
)]
pub trait Storage: Send + Sync + Any {
    /// The file's length.
    fn len(&self) -> io::Result<u64>;
    /// Reads at most `buf.len()` bytes; 0 means the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at most `buf.len()` bytes and says how many.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Gives the range `offset .. offset + len` disk space and makes the file at least that long. Where the file system
    /// cannot preallocate, the file is lengthened and nothing else; never by writing.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Gives the space of a range back; it reads as zeros. Where that is not supported, does nothing.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Cuts or lengthens the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length of write that suits the storage best, where it cares: a multiple of 4 KiB. The engine then gathers records
    /// into writes of that length, or of less in whole blocks of 4 KiB, from page-aligned memory to offsets that are a
    /// multiple of 4 KiB; all other writes must be as good, and lie in between.
    fn preferred_write_len(&self) -> Option<usize> {
        None
    }
    /// Asks the system to begin writing a range to the disk; does not wait, promises nothing. An error counts as a
    /// failed sync.
    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes all that was written durable (`fdatasync`). Never repeated after a failure.
    fn sync(&self) -> io::Result<()>;
    /// Takes a lock if it is free for this mode; converts the mode if it is held already.
    fn try_lock(&self, lock: Lock, mode: LockMode) -> io::Result<bool>;
    /// Takes a lock, waiting as long as it takes.
    fn lock(&self, lock: Lock, mode: LockMode) -> io::Result<()>;
    /// Gives a lock back.
    fn unlock(&self, lock: Lock) -> io::Result<()>;
    /// This value, for the [`VaultDir`] that made it.
    fn as_any(&self) -> &dyn Any;
}

/// The name of one vault: its directory and its file name.
pub trait VaultDir: Send + Sync {
    /// Opens the vault, for writing too if `write`; `None` if there is no such file.
    fn open(&self, write: bool) -> io::Result<Option<Arc<dyn Storage>>>;
    /// Makes a new empty file in the vault's directory that has no name yet, or a temporary one.
    fn create_unlinked(&self) -> io::Result<Arc<dyn Storage>>;
    /// Gives a file of `create_unlinked` the vault's name; [`io::ErrorKind::AlreadyExists`] if the name is taken.
    fn link(&self, storage: &dyn Storage) -> io::Result<()>;
    /// Gives a file of `create_unlinked` the vault's name, replacing what has it.
    fn rename(&self, storage: &dyn Storage) -> io::Result<()>;
    /// Takes the vault's name away.
    fn unlink(&self) -> io::Result<()>;
    /// Whether the vault's name still leads to this very file.
    fn is_same_file(&self, storage: &dyn Storage) -> io::Result<bool>;
    /// Makes the directory durable (`fsync`).
    fn sync(&self) -> io::Result<()>;
    /// Bytes that files in this directory may still take; `None` if nobody can say.
    fn free_space(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
    /// How many names a file has.
    fn link_count(&self, _storage: &dyn Storage) -> io::Result<u64> {
        Ok(1)
    }
    /// Gives a file of `create_unlinked` the owner, the mode and the extended attributes of another one, durably.
    fn copy_attributes(&self, _from: &dyn Storage, _to: &dyn Storage) -> io::Result<()> {
        Ok(())
    }
    /// Removes temporary files of the vault's name that ended runs have left, and names them: those whose PRESENCE is free and
    /// that are empty, begin with zeros, or as `vault` does in its first 32 bytes, which have its id, or whose name says that they
    /// were to replace it. For who holds PRESENCE of the vault itself: nobody replaces it then.
    fn remove_leftovers(&self, _vault: &dyn Storage) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    /// Whether the directory is on a file system that another machine or another process stands behind, where locks and
    /// syncs may mean less.
    fn is_remote(&self) -> bool {
        false
    }
}

/// Where the locks of a vault lie: far behind every byte that is ever written, three bytes in a row.
const LOCKS_AT: u64 = 1 << 62;

impl Lock {
    /// The byte of the file that stands for this lock.
    fn position(self) -> u64 {
        LOCKS_AT
            + match self {
                Self::Presence => 0,
                Self::Commit => 1,
                Self::Alloc => 2,
            }
    }
}

/// A file on a file system, with open-file-description locks.
///
/// The locks belong to the value, because a value is one open file description: two values of one file exclude each
/// other even within a process, and all locks of a value end with it. Threads that share a value also share its locks:
/// a second `lock` succeeds at once, and the first `unlock` gives the lock back for all. So the engine takes each lock
/// at most once at a time for one value, and has a mutex where threads have to exclude each other. A conversion from
/// shared to exclusive waits for the other sharers; two who do that wait for each other for ever, since the kernel
/// looks for no deadlock among such locks: convert with `try_lock`.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    /// The name that the file has to lose or to change; `None` for a file that has no name or its final one.
    temporary: Mutex<Option<TemporaryName>>,
    /// The way around the cache, looked for when it is wanted first.
    direct: OnceLock<Option<Direct>>,
}

impl FileStorage {
    /// A file that is open already, for writing too if it is to be written to. Its open file description must be its
    /// own, not one that `dup` shares with other descriptors, or its locks are theirs as well.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file, temporary: Mutex::new(None), direct: OnceLock::new() }
    }

    fn temporary(&self) -> MutexGuard<'_, Option<TemporaryName>> {
        self.temporary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn direct(&self) -> Option<&Direct> {
        self.direct.get_or_init(|| Direct::of(&self.file)).as_ref()
    }

    /// What `allocate` does where the file system cannot preallocate: makes the file reach to the end of the range.
    fn lengthen(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        // The ALLOC lock is held, so nobody lengthens the file between the two calls, only to have it cut off by us.
        if end > self.len()? { self.set_len(end) } else { Ok(()) }
    }

    fn set_lock(&self, lock: Lock, how: RangeLock, wait: bool) -> io::Result<bool> {
        sys::set_range_lock(&self.file, lock.position(), how, wait)
    }
}

impl From<LockMode> for RangeLock {
    fn from(mode: LockMode) -> Self {
        match mode {
            LockMode::Shared => Self::Shared,
            LockMode::Exclusive => Self::Exclusive,
        }
    }
}

/// Repeats a call that a signal interrupted before it did anything.
fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Storage for FileStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(fs::fstat(&self.file)?.size)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        retry_interrupted(|| self.file.read_at(buf, offset))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        if Direct::suits(buf, offset)
            && let Some(direct) = self.direct()
            && let Some(written) = direct.write_at(buf, offset)?
        {
            return Ok(written);
        }
        retry_interrupted(|| self.file.write_at(buf, offset))
    }

    fn preferred_write_len(&self) -> Option<usize> {
        self.direct().map(|_| DIRECT_LEN)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match retry_on_intr(|| rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.lengthen(offset, len),
            result => Ok(result?),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| rustix::fs::fallocate(&self.file, flags, offset, len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::ftruncate(&self.file, len))?)
    }

    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            // To the kernel this is everything up to the end of the file.
            return Ok(());
        }
        match sys::start_writeback(&self.file, offset, len) {
            // A file system that cannot do this has written nothing, and has lost nothing.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ESPIPE | libc::ENOSYS)) => Ok(()),
            result => result,
        }
    }

    fn sync(&self) -> io::Result<()> {
        // An interrupted call has not consumed a write error, so it is no failure and may be repeated.
        Ok(retry_on_intr(|| rustix::fs::fdatasync(&self.file))?)
    }

    fn try_lock(&self, lock: Lock, mode: LockMode) -> io::Result<bool> {
        self.set_lock(lock, mode.into(), false)
    }

    fn lock(&self, lock: Lock, mode: LockMode) -> io::Result<()> {
        self.set_lock(lock, mode.into(), true).map(drop)
    }

    fn unlock(&self, lock: Lock) -> io::Result<()> {
        self.set_lock(lock, RangeLock::Unlocked, false).map(drop)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with a vault file, and the vault.
    fn vault() -> (tempfile::TempDir, FsVaultDir) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("v.flint"), b"0123456789").unwrap();
        let vault = FsVaultDir::new(dir.path().join("v.flint")).unwrap();
        (dir, vault)
    }

    fn open(vault: &FsVaultDir) -> Arc<dyn Storage> {
        vault.open(true).unwrap().unwrap()
    }

    #[test]
    fn two_values_of_one_file_exclude_each_other_lock_by_lock() {
        let (_dir, vault) = vault();
        let (a, b) = (open(&vault), open(&vault));
        for lock in [Lock::Presence, Lock::Commit, Lock::Alloc] {
            assert!(a.try_lock(lock, LockMode::Exclusive).unwrap(), "{lock:?}: no other lock is in the way");
            assert!(!b.try_lock(lock, LockMode::Shared).unwrap(), "{lock:?}");
            a.lock(lock, LockMode::Shared).unwrap();
            assert!(b.try_lock(lock, LockMode::Shared).unwrap(), "{lock:?}");
            assert!(!a.try_lock(lock, LockMode::Exclusive).unwrap(), "{lock:?}");
            b.unlock(lock).unwrap();
            assert!(a.try_lock(lock, LockMode::Exclusive).unwrap(), "{lock:?}");
        }
    }

    #[test]
    fn the_locks_lie_where_the_format_says() {
        let positions = [Lock::Presence, Lock::Commit, Lock::Alloc].map(Lock::position);
        assert_eq!(positions, [1 << 62, (1 << 62) + 1, (1 << 62) + 2]);
    }

    #[test]
    fn a_lock_dies_with_its_value_and_only_with_its_own() {
        let (_dir, vault) = vault();
        let (a, b, c) = (open(&vault), open(&vault), open(&vault));
        a.lock(Lock::Presence, LockMode::Exclusive).unwrap();
        drop(c);
        assert!(!b.try_lock(Lock::Presence, LockMode::Exclusive).unwrap(), "another value's end gives nothing back");
        drop(a);
        assert!(b.try_lock(Lock::Presence, LockMode::Exclusive).unwrap());
    }

    #[test]
    fn bytes_are_read_written_cut_allocated_and_punched() {
        let (_dir, vault) = vault();
        let file = open(&vault);
        assert_eq!(file.len().unwrap(), 10);
        assert_eq!(file.write_at(b"ab", 4).unwrap(), 2);
        let mut buf = [0; 20];
        assert_eq!(file.read_at(&mut buf, 3).unwrap(), 7);
        assert_eq!(&buf[..7], b"3ab6789");
        assert_eq!(file.read_at(&mut buf, 10).unwrap(), 0);
        file.set_len(5).unwrap();
        assert_eq!(file.len().unwrap(), 5);
        file.allocate(0, 3).unwrap();
        assert_eq!(file.len().unwrap(), 5, "allocating never makes a file shorter");
        file.allocate(4096, 1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 4096 + (1 << 20));
        file.allocate(u64::MAX, 0).unwrap();
        assert!(file.allocate(u64::MAX, 1).is_err());
        file.write_at(&[7; 8192], 4096).unwrap();
        file.start_writeback(0, 1 << 20).unwrap();
        file.punch(4096, 4096).unwrap();
        file.punch(0, 0).unwrap();
        let mut page = [1; 4097];
        assert_eq!(file.read_at(&mut page, 4096).unwrap(), 4097);
        assert!(page[..4096].iter().all(|&byte| byte == 0) && page[4096] == 7);
        assert_eq!(file.len().unwrap(), 4096 + (1 << 20), "punching keeps the length");
        file.sync().unwrap();
        vault.sync().unwrap();
    }

    #[test]
    fn where_nothing_can_be_preallocated_the_file_becomes_longer_and_never_shorter() {
        let file = FileStorage::new(tempfile::tempfile().unwrap());
        for (offset, len, expected) in [(10, 90, 100), (0, 50, 100), (20, 80, 100), (100, 1, 101)] {
            file.lengthen(offset, len).unwrap();
            assert_eq!(file.len().unwrap(), expected);
        }
        assert!(file.lengthen(u64::MAX, 2).is_err());
        assert!(file.lengthen(u64::MAX, 0).is_err());
        assert_eq!(file.len().unwrap(), 101);
    }

    #[test]
    fn a_vault_opened_for_reading_cannot_be_written() {
        let (_dir, vault) = vault();
        let file = vault.open(false).unwrap().unwrap();
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.try_lock(Lock::Commit, LockMode::Shared).unwrap());
        assert!(file.try_lock(Lock::Commit, LockMode::Exclusive).is_err());
    }
}
