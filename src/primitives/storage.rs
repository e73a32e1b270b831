//! The two seams to the system: [`Storage`], the bytes and locks of one file, and [`VaultDir`], the name it goes by.
//!
//! Everything that a vault does to a disk goes through these traits, so that a test can stand in for the disk.
//! [`FileStorage`] and [`FsVaultDir`] are the real ones.

use std::any::Any;
use std::io;
use std::sync::Arc;

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
    /// Asks the system to begin writing a range to the disk; does not wait, promises nothing. An error counts as a failed
    /// sync.
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
}
