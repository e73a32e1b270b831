//! The two seams to the system: [`Storage`], the bytes and locks of one file, and [`VaultDir`], the name it goes by.
//!
//! Everything that a vault does to a disk goes through these traits, so that a test can stand in for the disk.
//! [`FileStorage`] and [`FsVaultDir`] are the real ones.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::primitives::direct::{DIRECT_LEN, Direct};
use crate::primitives::fs::{self, FsKind, StatKind};
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

/// How many symlinks in a row are followed to a vault; the kernel's own limit.
const MAX_SYMLINKS: usize = 40;

/// How many random names are tried before giving up on a temporary file.
const MAX_NAME_TRIES: usize = 64;

/// The longest name that Linux file systems take.
const NAME_MAX: usize = 255;

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

/// A name that a file has until it gets its final one. Removed when dropped.
#[derive(Debug)]
struct TemporaryName {
    dir: Arc<OwnedFd>,
    name: OsString,
}

impl TemporaryName {
    /// The file has got another name in place of this one: there is nothing to remove any more.
    fn forget(mut self) {
        self.name.clear();
    }
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // Nobody is left to be told; what stays behind has a name that says what it is.
            let _ = rustix::fs::unlinkat(&*self.dir, &*self.name, AtFlags::empty());
        }
    }
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

/// The name of a vault in a directory of a file system.
///
/// The directory is opened once, and every name is looked up in it: whatever becomes of the path later, all operations
/// of one value meet in one directory.
#[derive(Debug)]
pub struct FsVaultDir {
    dir: Arc<OwnedFd>,
    name: OsString,
    path: PathBuf,
}

impl FsVaultDir {
    /// The vault at this path, which need not exist; its directory must. If the path is a symlink, the vault is what it
    /// leads to, now and for the life of this value: a vault that is renamed over does not replace the symlink.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a path that cannot be that of a file, such as `..` or `name/`; otherwise
    /// what the system says of the directory.
    pub fn new(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut path = path.as_ref().to_owned();
        for _ in 0..=MAX_SYMLINKS {
            let name = match path.file_name() {
                Some(name) if path.as_os_str().as_bytes().ends_with(name.as_bytes()) => name.to_owned(),
                _ => return Err(invalid("a path that does not end in the name of a file")),
            };
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            };
            let dir = open_dir(&parent)?;
            match fs::readlink_at(&dir, &name) {
                // Joined to the directory of the link, or in place of it if the target is absolute. Nothing is resolved
                // by text: a `..` in it is for the kernel to follow.
                Ok(target) => path = parent.join(OsString::from_vec(target)),
                // Not a symlink, or nothing there.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
                    return Ok(Self { dir: Arc::new(dir), name, path });
                }
                Err(error) => return Err(error),
            }
        }
        Err(Errno::LOOP.into())
    }

    /// The path of the vault itself, past all symlinks that led to its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file without a name. `None` where the file system or the system cannot do that, or could not name it
    /// later.
    fn create_nameless(&self) -> io::Result<Option<File>> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match retry_on_intr(|| rustix::fs::openat(&*self.dir, ".", flags, Mode::RUSR | Mode::WUSR)) {
            Ok(fd) => File::from(fd),
            // `EISDIR` and `EINVAL` come from what does not know the flag and sees a directory opened for writing.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT | Errno::NOSYS) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Without proc it might be impossible to give the file a name: better to know before anything is written to it.
        let seen = rustix::fs::access(proc_path(&file), rustix::fs::Access::EXISTS).is_ok();
        Ok(seen.then_some(file))
    }

    fn create_named(&self) -> io::Result<FileStorage> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (fd, temporary) = self.with_free_name(|name| {
            retry_on_intr(|| rustix::fs::openat(&*self.dir, name, flags, Mode::RUSR | Mode::WUSR))
        })?;
        let storage = FileStorage::new(File::from(fd));
        *storage.temporary() = Some(temporary);
        Ok(storage)
    }

    /// Calls `make` with one temporary name after the other until it makes something of that name.
    fn with_free_name<T>(
        &self,
        mut make: impl FnMut(&OsStr) -> rustix::io::Result<T>,
    ) -> io::Result<(T, TemporaryName)> {
        for _ in 0..MAX_NAME_TRIES {
            let name = self.temporary_name()?;
            match make(&name) {
                Ok(made) => {
                    return Ok((made, TemporaryName { dir: Arc::clone(&self.dir), name }));
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name for a temporary file"))
    }

    /// `.NAME.XXXXXXXX.tmp`: hidden, beside the vault, and told from it at a glance.
    fn temporary_name(&self) -> io::Result<OsString> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let suffix = format!(".{:08x}.tmp", u32::from_le_bytes(random));
        let name = self.name.as_bytes();
        let kept = name.len().min(NAME_MAX - 1 - suffix.len());
        Ok(OsString::from_vec([b".", &name[..kept], suffix.as_bytes()].concat()))
    }

    /// Gives a file that has no name this one, unless it is taken.
    fn link_nameless(&self, file: &File, name: &OsStr) -> rustix::io::Result<()> {
        match rustix::fs::linkat(file, "", &*self.dir, name, AtFlags::EMPTY_PATH) {
            // Without the privilege for it, or on an older kernel: it says that there is no such file.
            Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {
                rustix::fs::linkat(CWD, proc_path(file), &*self.dir, name, AtFlags::SYMLINK_FOLLOW)
            }
            result => result,
        }
    }

    /// Moves a temporary name to the vault's, unless that is taken.
    fn rename_if_free(&self, temporary: &OsStr) -> rustix::io::Result<()> {
        match rustix::fs::renameat_with(&*self.dir, temporary, &*self.dir, &*self.name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(&*self.dir, temporary, &*self.dir, &*self.name, AtFlags::empty())?;
                // The vault has its name; that it has a second one harms nobody.
                let _ = rustix::fs::unlinkat(&*self.dir, temporary, AtFlags::empty());
                Ok(())
            }
            result => result,
        }
    }
}

/// The storage that this implementation made, if it is one.
fn file_storage(storage: &dyn Storage) -> io::Result<&FileStorage> {
    storage.as_any().downcast_ref().ok_or_else(|| invalid("a storage that was not made by this directory"))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// The path by which the kernel leads to a file that has no other.
fn proc_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Opens a directory for looking up names, and for syncing if we may read it.
fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let open =
        |flags| retry_on_intr(|| rustix::fs::open(path, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()));
    match open(OFlags::RDONLY) {
        // A directory that we may search and not read: its vault can be opened, and syncing will say what is missing.
        Err(Errno::ACCESS) => Ok(open(OFlags::PATH)?),
        result => Ok(result?),
    }
}

fn ensure_regular(kind: StatKind) -> io::Result<()> {
    if kind == StatKind::File { Ok(()) } else { Err(invalid("not a regular file")) }
}

impl VaultDir for FsVaultDir {
    fn open(&self, write: bool) -> io::Result<Option<Arc<dyn Storage>>> {
        // Looked at before it is opened, since opening a device can do things to it, and after, since it may have
        // changed in between. A FIFO put there in between does not hang us.
        match fs::stat_at(&*self.dir, &self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => ensure_regular(found?.kind)?,
        }
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match retry_on_intr(|| rustix::fs::openat(&*self.dir, &*self.name, flags, Mode::empty())) {
            Err(Errno::NOENT) => return Ok(None),
            opened => File::from(opened?),
        };
        ensure_regular(fs::fstat(&file)?.kind)?;
        Ok(Some(Arc::new(FileStorage::new(file))))
    }

    fn create_unlinked(&self) -> io::Result<Arc<dyn Storage>> {
        Ok(Arc::new(match self.create_nameless()? {
            Some(file) => FileStorage::new(file),
            None => self.create_named()?,
        }))
    }

    fn link(&self, storage: &dyn Storage) -> io::Result<()> {
        let storage = file_storage(storage)?;
        let mut temporary = storage.temporary();
        let linked = match &*temporary {
            Some(named) => self.rename_if_free(&named.name),
            None => self.link_nameless(&storage.file, &self.name),
        };
        match linked {
            // Over a network a repeated request finds what the first one did.
            Err(Errno::EXIST) if self.is_same_file(storage)? => {}
            result => result?,
        }
        if let Some(named) = temporary.take() {
            named.forget();
        }
        Ok(())
    }

    fn rename(&self, storage: &dyn Storage) -> io::Result<()> {
        let storage = file_storage(storage)?;
        let mut temporary = storage.temporary();
        if temporary.is_none() {
            // Only what has a name can be renamed over another; if that fails, the value keeps the name and removes it.
            let ((), named) = self.with_free_name(|name| self.link_nameless(&storage.file, name))?;
            *temporary = Some(named);
        }
        if let Some(named) = &*temporary {
            rustix::fs::renameat(&*self.dir, &*named.name, &*self.dir, &*self.name)?;
        }
        if let Some(named) = temporary.take() {
            named.forget();
        }
        Ok(())
    }

    fn unlink(&self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&*self.dir, &*self.name, AtFlags::empty())?)
    }

    fn is_same_file(&self, storage: &dyn Storage) -> io::Result<bool> {
        let ours = fs::fstat(&file_storage(storage)?.file)?;
        match fs::stat_at(&*self.dir, &self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            found => found.map(|there| (there.dev, there.ino) == (ours.dev, ours.ino)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match retry_on_intr(|| rustix::fs::fsync(self.dir.as_fd())) {
            // Opened for looking up names only, because we may not read it.
            Err(Errno::BADF) => Err(Errno::ACCESS.into()),
            result => Ok(result?),
        }
    }

    fn is_remote(&self) -> bool {
        // What cannot be asked is taken for a file system like others.
        fs::file_system_kind(self.dir.as_fd()).is_ok_and(|kind| kind == FsKind::Network)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn temp() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A directory with a vault file, and the vault.
    fn vault() -> (tempfile::TempDir, FsVaultDir) {
        let dir = temp();
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

    #[test]
    fn a_missing_vault_is_none_and_a_missing_directory_an_error() {
        let dir = temp();
        assert!(FsVaultDir::new(dir.path().join("none")).unwrap().open(true).unwrap().is_none());
        let error = FsVaultDir::new(dir.path().join("no/such/vault")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        for path in ["", ".", "..", "/", "dir/", "dir/.", "a/.."] {
            assert_eq!(FsVaultDir::new(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path:?}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_does_not_hang() {
        let dir = temp();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        rustix::fs::mkfifoat(CWD, dir.path().join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        symlink("/dev/null", dir.path().join("device")).unwrap();
        for name in ["directory", "fifo", "socket", "device"] {
            let vault = FsVaultDir::new(dir.path().join(name)).unwrap();
            for write in [true, false] {
                let Err(error) = vault.open(write) else { panic!("{name} opened") };
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
                assert_eq!(error.to_string(), "not a regular file");
            }
        }
    }

    #[test]
    fn a_symlink_leads_to_the_vault_for_making_and_replacing_too() {
        let dir = temp();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        symlink("sub/second", at("first")).unwrap();
        symlink("../sub/./target", at("sub/second")).unwrap();
        let vault = FsVaultDir::new(at("first")).unwrap();
        assert_eq!(vault.path().file_name().unwrap(), "target");
        assert!(vault.open(true).unwrap().is_none(), "the symlink dangles");
        vault.link(&*vault.create_unlinked().unwrap()).unwrap();
        vault.rename(&*vault.create_unlinked().unwrap()).unwrap();
        assert_eq!(
            (names(dir.path()), names(&at("sub"))),
            (vec!["first".into(), "sub".into()], vec!["second".into(), "target".into()])
        );
        assert!(at("first").is_symlink() && !at("sub/target").is_symlink());
        symlink("loop", at("loop")).unwrap();
        assert_eq!(FsVaultDir::new(at("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    /// Both ways of making a file that has no final name yet.
    fn unlinked(vault: &FsVaultDir) -> [Arc<dyn Storage>; 2] {
        [vault.create_unlinked().unwrap(), Arc::new(vault.create_named().unwrap())]
    }

    #[test]
    fn of_all_who_link_one_wins_and_nothing_is_left_of_the_others() {
        for round in 0..2 {
            let dir = temp();
            let vault = FsVaultDir::new(dir.path().join("v.flint")).unwrap();
            let made = [unlinked(&vault), unlinked(&vault), unlinked(&vault)].concat();
            assert!(!dir.path().join("v.flint").exists());
            let results: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = made
                    .iter()
                    .skip(round)
                    .map(|file| scope.spawn(|| vault.link(&**file).map_err(|error| error.kind())))
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
            assert!(
                results.iter().all(|result| matches!(result, Ok(()) | Err(io::ErrorKind::AlreadyExists))),
                "{results:?}"
            );
            let same = made.iter().filter(|file| vault.is_same_file(&***file).unwrap()).count();
            assert_eq!(same, 1, "the name leads to the winner");
            drop(made);
            assert_eq!(names(dir.path()), ["v.flint"]);
        }
    }

    #[test]
    fn linking_and_renaming_give_a_private_file_its_name() {
        for which in 0..2 {
            for replace in [false, true] {
                let dir = temp();
                let vault = FsVaultDir::new(dir.path().join("v.flint")).unwrap();
                if replace {
                    std::fs::write(vault.path(), b"old").unwrap();
                }
                let old = vault.open(true).unwrap();
                let file = Arc::clone(&unlinked(&vault)[which]);
                file.write_at(b"new", 0).unwrap();
                assert!(file.try_lock(Lock::Presence, LockMode::Exclusive).unwrap(), "locks work before it has a name");
                if replace { vault.rename(&*file) } else { vault.link(&*file) }.unwrap();
                assert_eq!(std::fs::read_to_string(vault.path()).unwrap(), "new");
                assert_eq!(std::fs::metadata(vault.path()).unwrap().permissions().mode() & 0o7777, 0o600);
                assert!(vault.is_same_file(&*file).unwrap());
                assert!(old.is_none_or(|old| !vault.is_same_file(&*old).unwrap()), "who holds the old file can tell");
                drop(file);
                assert_eq!(names(dir.path()), ["v.flint"], "its end does not take the name");
                vault.unlink().unwrap();
                assert!(vault.open(false).unwrap().is_none());
            }
        }
    }

    #[test]
    fn a_file_that_never_got_its_name_leaves_none() {
        let dir = temp();
        let vault = FsVaultDir::new(dir.path().join("v.flint")).unwrap();
        let [nameless, named] = unlinked(&vault);
        let found = names(dir.path());
        assert!(found.iter().all(|name| name.starts_with(".v.flint.") && name.ends_with(".tmp")), "{found:?}");
        assert!(!found.is_empty());
        assert!(!vault.is_same_file(&*named).unwrap());
        // Nothing can be renamed over a directory.
        std::fs::create_dir(vault.path()).unwrap();
        assert!(vault.rename(&*nameless).is_err());
        assert!(vault.rename(&*named).is_err());
        assert_eq!(vault.link(&*nameless).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop((nameless, named));
        assert_eq!(names(dir.path()), ["v.flint"]);
    }

    #[test]
    fn the_longest_name_still_has_room_for_a_temporary_one() {
        let dir = temp();
        let vault = FsVaultDir::new(dir.path().join("v".repeat(NAME_MAX))).unwrap();
        let [_, named] = unlinked(&vault);
        vault.link(&*named).unwrap();
        assert_eq!(names(dir.path()), ["v".repeat(NAME_MAX)]);
    }

    #[test]
    fn a_vault_that_was_replaced_is_not_the_same_file() {
        let (dir, vault) = vault();
        let file = open(&vault);
        assert!(vault.is_same_file(&*file).unwrap());
        std::fs::rename(vault.path(), dir.path().join("moved")).unwrap();
        assert!(!vault.is_same_file(&*file).unwrap(), "nothing has the name");
        std::fs::write(vault.path(), b"").unwrap();
        assert!(!vault.is_same_file(&*file).unwrap(), "another file has it");
    }

    #[test]
    fn a_storage_of_another_make_is_refused() {
        struct Other;
        impl Storage for Other {
            fn len(&self) -> io::Result<u64> {
                Ok(0)
            }
            fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
                Ok(0)
            }
            fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
                Ok(0)
            }
            fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn punch(&self, _: u64, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn set_len(&self, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn start_writeback(&self, _: u64, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn sync(&self) -> io::Result<()> {
                Ok(())
            }
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
        let (_dir, vault) = vault();
        assert_eq!(vault.link(&Other).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(vault.rename(&Other).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
