//! How does a name of the vault become a descriptor below the destination, and never one outside of it?
//!
//! Every directory is resolved by the kernel relative to the destination's descriptor, with symlinks forbidden on the
//! way; names are never joined to strings that are looked up from `/`. A leaf is only ever used with calls that do not
//! follow it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::format::entry::{Entry, EntryType};
use crate::primitives::beneath::{PASS, Resolver};
use crate::primitives::fs::Timestamp;

/// The attribute that a directory's default ACL is.
const DEFAULT_ACL: &str = "system.posix_acl_default";
/// What tells one file from another on a running system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    dev: u64,
    ino: u64,
    /// Where the file system knows it: the number of a file that is removed soon names another one.
    born: Option<(i64, u32)>,
}

impl FileId {
    /// The number of the file system.
    pub(super) fn device(&self) -> u64 {
        self.dev
    }
}

/// User and group, as numbers of this system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ids {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A look at a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) id: FileId,
    pub(super) file_type: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) ids: Ids,
    pub(super) links: u32,
    pub(super) size: u64,
    /// The last change of content.
    pub(super) mtime: Timestamp,
}

impl Seen {
    /// Whether this may well be the regular file `entry` as it was stored: it has its size and time. Never for a file with
    /// several names, there or in the vault: to set its attributes would be to reach names outside of the destination.
    pub(super) fn looks_like(&self, entry: &Entry) -> bool {
        let is_plain = self.file_type.is_file() && self.links == 1;
        let is_wanted = entry.entry_type == EntryType::File && entry.link.is_none();
        is_plain && is_wanted && self.size == entry.size && self.mtime == entry.mtime
    }
}

/// Looks at what is open.
pub(super) fn look(fd: impl AsFd) -> Result<Seen, Errno> {
    look_as(fd.as_fd(), b"", AtFlags::EMPTY_PATH)
}

/// Looks at what has the name `leaf`, which is not followed.
pub(super) fn look_at(directory: BorrowedFd<'_>, leaf: &[u8]) -> Result<Seen, Errno> {
    look_as(directory, leaf, AtFlags::SYMLINK_NOFOLLOW)
}

fn look_as(from: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<Seen, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let found = retry(|| rustix::fs::statx(from, name, flags, wanted))?;
    let born = StatxFlags::from_bits_retain(found.stx_mask)
        .contains(StatxFlags::BTIME)
        .then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
    Ok(Seen {
        id: FileId { dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor), ino: found.stx_ino, born },
        file_type: FileType::from_raw_mode(found.stx_mode.into()),
        mode: u32::from(found.stx_mode) & 0o7777,
        ids: Ids { uid: found.stx_uid, gid: found.stx_gid },
        links: found.stx_nlink,
        size: found.stx_size,
        mtime: Timestamp { secs: found.stx_mtime.tv_sec, nanos: found.stx_mtime.tv_nsec },
    })
}

/// The destination's descriptor, and the ways down from it.
#[derive(Debug)]
pub(super) struct Beneath {
    root: OwnedFd,
    resolver: Resolver,
}

impl Beneath {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, resolver: Resolver::default() }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Has everything resolved as on a kernel without `openat2`.
    #[cfg(test)]
    pub(super) fn forget_openat2(&self) {
        self.resolver.forget_openat2();
    }

    /// Opens the directory `path` to resolve from it; `path` is a path of the vault, empty for the destination itself.
    /// A symlink anywhere in it is an error.
    pub(super) fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_as(path, PASS)
    }

    /// The same with flags of one's own, which apply to the last component alone and must include `O_DIRECTORY`.
    pub(super) fn open_as(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        self.resolver.open(self.root.as_fd(), path, flags)
    }

    /// The same as [`Beneath::open`]; what is missing on the way is made, with the mode that the umask leaves.
    pub(super) fn open_or_make(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        match self.open(path) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut at = self.open(b"")?;
        for component in path.split(|&byte| byte == b'/') {
            at = match open_component(at.as_fd(), component, PASS) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&at, component, Mode::from_raw_mode(0o777)) {
                        // Another worker may have needed the same parent.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error),
                    }
                    open_component(at.as_fd(), component, PASS)?
                }
                other => other?,
            };
        }
        Ok(at)
    }
}

fn open_component(at: BorrowedFd<'_>, component: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    // With O_DIRECTORY a symlink that is not followed is refused, even for O_PATH.
    retry(|| rustix::fs::openat(at, component, flags | OFlags::NOFOLLOW, Mode::empty()))
}

/// Repeats a call for as long as a signal interrupts it.
pub(super) fn retry<T>(call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    rustix::io::retry_on_intr(call)
}

/// A directory kept open for what goes into it, and what it has taught about new files.
#[derive(Debug)]
pub(super) struct OpenDirectory {
    fd: OwnedFd,
    /// The owner that a new file gets here: learnt from the first one, since it depends on the process, on the
    /// directory's setgid bit, and on the file system.
    pub(super) gives: Option<Ids>,
    /// For modes that a file was created with: whether it came out as asked (umask, default ACL).
    modes: Vec<(u32, bool)>,
    /// Its file system is noted, if that is asked for.
    pub(super) is_noted: bool,
    /// Whether what is made here gets ACLs from it.
    gives_acls: Option<bool>,
}

impl OpenDirectory {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, gives: None, modes: Vec::new(), is_noted: false, gives_acls: None }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether what is made here gets ACLs from the directory, since it has default ones: one that was there before, or was
    /// made in such a one. Restored default ACLs come when all is made.
    pub(super) fn gives_acls(&mut self) -> bool {
        let fd = &self.fd;
        *self.gives_acls.get_or_insert_with(|| {
            // Without room for it: only whether there is one. A file system without ACLs has none.
            retry(|| rustix::fs::getxattr(path_of(fd.as_fd()), DEFAULT_ACL, &mut [0_u8; 0][..])).is_ok()
        })
    }

    /// Whether a file created with `mode` gets that mode; `None` if it was not tried yet.
    pub(super) fn keeps_mode(&self, mode: u32) -> Option<bool> {
        self.modes.iter().find(|(known, _)| *known == mode).map(|&(_, kept)| kept)
    }

    /// Remembers what became of a file that was created with `mode`.
    pub(super) fn learn(&mut self, mode: u32, seen: &Seen) {
        self.gives = Some(seen.ids);
        if self.keeps_mode(mode).is_none() {
            self.modes.push((mode, seen.mode == mode));
        }
    }
}

/// The directories that were used last, open; belongs to one worker.
#[derive(Debug)]
pub(super) struct DirectoryCache {
    capacity: usize,
    /// The most recent first.
    held: Vec<(Box<[u8]>, OpenDirectory)>,
}

impl DirectoryCache {
    /// Keeps at most `capacity` descriptors, at least one.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), held: Vec::new() }
    }

    /// The directory `path`, made with its parents if it is missing.
    pub(super) fn get(&mut self, beneath: &Beneath, path: &[u8]) -> Result<&mut OpenDirectory, Errno> {
        match self.held.iter().position(|(known, _)| **known == *path) {
            Some(place) => self.held[..=place].rotate_right(1),
            None => {
                let opened = OpenDirectory::new(beneath.open_or_make(path)?);
                self.put(path, opened);
            }
        }
        Ok(&mut self.held[0].1)
    }

    /// Takes in a directory that was opened otherwise.
    pub(super) fn put(&mut self, path: &[u8], directory: OpenDirectory) {
        self.forget(path);
        self.held.truncate(self.capacity - 1);
        self.held.insert(0, (path.into(), directory));
    }

    /// Closes the directory `path`; says whether it was held.
    pub(super) fn forget(&mut self, path: &[u8]) -> bool {
        let before = self.held.len();
        self.held.retain(|(known, _)| **known != *path);
        self.held.len() < before
    }

    /// Closes all of them.
    pub(super) fn clear(&mut self) {
        self.held.clear();
    }
}

/// The name of a descriptor for calls that know only paths; reaches exactly what the descriptor is open on, symlinks
/// included, without looking at any name again.
pub(super) fn path_of(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A random name for a file that is not complete yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TemporaryName([u8; Self::LEN]);

impl TemporaryName {
    const PREFIX: &[u8] = b".flint-";
    const RANDOM_LEN: usize = 12;
    const LEN: usize = Self::PREFIX.len() + Self::RANDOM_LEN;

    /// Draws a name; it may exist, which `O_EXCL` tells.
    pub(super) fn draw() -> io::Result<Self> {
        const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut random = [0; Self::RANDOM_LEN];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let mut name = [0; Self::LEN];
        name[..Self::PREFIX.len()].copy_from_slice(Self::PREFIX);
        for (digit, byte) in name[Self::PREFIX.len()..].iter_mut().zip(random) {
            *digit = DIGITS[usize::from(byte & 31)];
        }
        Ok(Self(name))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beneath(directory: &std::path::Path) -> Beneath {
        Beneath::new(rustix::fs::open(directory, PASS, Mode::empty()).unwrap())
    }

    #[test]
    fn a_symlink_on_the_way_is_refused_with_and_without_openat2() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join("sub")).unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
        std::os::unix::fs::symlink(".", inside.path().join("self")).unwrap();
        std::fs::create_dir(inside.path().join("real")).unwrap();
        for with_openat2 in [true, false] {
            let beneath = beneath(inside.path());
            if !with_openat2 {
                beneath.forget_openat2();
            }
            for path in ["link", "link/sub", "self", "self/real", "real/../link"] {
                assert!(beneath.open(path.as_bytes()).is_err(), "{path}");
                assert!(beneath.open_or_make(path.as_bytes()).is_err(), "{path}");
            }
            assert!(beneath.open(b"real").is_ok());
            assert!(beneath.open(b"").is_ok());
            assert!(beneath.open_or_make(b"link/new").is_err());
            assert_eq!(beneath.open(b"none").unwrap_err(), Errno::NOENT);
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_cache_keeps_no_more_than_it_may_and_the_latest() {
        let inside = tempfile::tempdir().unwrap();
        let beneath = beneath(inside.path());
        let mut cache = DirectoryCache::new(2);
        for path in ["a", "b", "a", "c"] {
            cache.get(&beneath, path.as_bytes()).unwrap();
        }
        let held: Vec<&[u8]> = cache.held.iter().map(|(path, _)| &**path).collect();
        assert_eq!(held, [b"c", b"a"]);
        assert!(cache.forget(b"a") && !cache.forget(b"a"));
    }

    #[test]
    fn temporary_names_differ() {
        let (one, two) = (TemporaryName::draw().unwrap(), TemporaryName::draw().unwrap());
        assert_ne!(one, two);
        assert!(one.as_bytes().starts_with(b".flint-") && one.as_bytes().len() == 19);
    }

    #[test]
    fn a_file_that_got_the_number_of_a_removed_one_is_another() {
        let inside = tempfile::tempdir().unwrap();
        let beneath = beneath(inside.path());
        let make = || {
            std::fs::write(inside.path().join("f"), "x").unwrap();
            look_at(beneath.root(), b"f").unwrap().id
        };
        let first = make();
        assert_eq!(look_at(beneath.root(), b"f").unwrap().id, first);
        std::fs::remove_file(inside.path().join("f")).unwrap();
        // The clock of file systems ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let second = make();
        assert!(second != first || second.born.is_none());
    }
}
