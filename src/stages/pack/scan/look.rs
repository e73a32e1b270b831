//! What is there to store of one entry, and is it wanted?
//!
//! Everything is asked through the descriptor of the directory that holds the entry, by its name alone. What is asked one
//! after another may still be answered for two things, if one took the other's place meanwhile; both were in that directory,
//! and whose content is read is checked when it is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, FileOp, Result};
use crate::format::entry::{EntryPath, Xattr};
use crate::primitives::beneath::MAX_CALL_LEN;
use crate::primitives::fs::{self, Stat, StatKind};
use crate::primitives::xattr::{self, Xattrs};
use crate::stages::pack::exclude::Excludes;
use crate::stages::pack::place::{Roots, SourcePath};
use crate::stages::{Scanned, ScannedEntry};

/// A file of this name marks a directory as a cache, if it begins with [`CACHE_SIGNATURE`] and is no symlink.
///
/// Source: bford.info/cachedir.
pub(super) const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8; 43] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The link count of a directory without directories, where the file system counts `..` of its directories.
const LEAF_LINKS: u64 = 2;
/// A directory of more bytes has names by the ten thousand, on file systems that say something of the kind. It is listed by
/// its names alone, which take less memory than its entries.
const LARGE_LEN: u64 = 2 << 20;
/// How often an entry is looked at anew that changes its type under the look.
const ATTEMPTS: u32 = 4;

/// A directory that is to be listed.
#[derive(Debug)]
pub(super) struct Dir {
    /// What it is called in the vault.
    pub(super) name: EntryPath,
    /// Where it is.
    pub(super) place: SourcePath,
    /// It has no directories in it, by its link count: a hint.
    pub(super) is_leaf: bool,
    /// It has very many names, by its size: a hint.
    is_large: bool,
    /// It was listed, and the listing let go of.
    put_off: Mutex<Option<Way>>,
}

/// How a directory is to be walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As is best.
    Any,
    /// Listed through its descriptor.
    ByDescriptor,
}

impl Dir {
    pub(super) fn new(name: EntryPath, place: SourcePath, stat: &Stat) -> Self {
        let (is_leaf, is_large) = (stat.nlink == LEAF_LINKS, stat.size > LARGE_LEN);
        Self { name, place, is_leaf, is_large, put_off: Mutex::new(None) }
    }

    /// Whether it can be walked by path, and there is no reason to do otherwise.
    pub(super) fn fits_parallel(&self) -> bool {
        !self.is_large && self.place.as_os_str().len() <= MAX_CALL_LEN
    }

    /// Notes that what was listed is not to be used: it is to be walked anew when its turn has come.
    pub(super) fn put_off(&self, way: Way) {
        *self.put_off.lock().unwrap_or_else(PoisonError::into_inner) = Some(way);
    }

    /// How it is to be walked anew, if it was put off.
    pub(super) fn take_put_off(&self) -> Option<Way> {
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// It could not be listed, or not to its end.
    pub(super) fn failed(&self, error: io::Error) -> Scanned {
        let error = Error::io(FileOp::ListDirectory, &self.place, fs::not_found_if_replaced(error));
        let path = self.place.to_path_buf();
        Scanned::Failed { path, name: Some(self.name.clone()), subtree: true, error }
    }
}

/// What came of looking at one entry.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What is to be told of it.
    pub(super) first: Option<Scanned>,
    /// What is to be told besides: an entry that is stored, though not all of it could be read.
    pub(super) second: Option<Box<Scanned>>,
    /// It is a socket: where, and what it would be called.
    pub(super) socket: Option<Box<(PathBuf, EntryPath)>>,
    /// A directory to walk when all this has been told.
    pub(super) later: Option<(Arc<Dir>, Way)>,
}

impl Found {
    /// It cannot be stored.
    pub(super) fn failed(path: PathBuf, name: Option<EntryPath>, error: Error) -> Self {
        Self { first: Some(Scanned::Failed { path, name, subtree: true, error }), ..Self::default() }
    }

    /// It is not to be stored.
    pub(super) fn note(path: PathBuf, name: EntryPath, message: &str) -> Self {
        Self { first: Some(Scanned::Note { path, name, message: message.to_owned() }), ..Self::default() }
    }
}

/// The answer of a look at what was listed in a directory.
pub(super) enum Look {
    /// It is there.
    Found(Found),
    /// Nobody wants it, and nothing is to be said.
    LeftOut,
    /// It is not there, or no longer; what is to be said of that.
    Missing(Found),
}

/// Looks at entries; knows what is wanted.
#[derive(Debug)]
pub(super) struct Looker {
    /// What the user wants left out.
    pub(super) excludes: Excludes,
    /// See [`ScanOptions`](super::ScanOptions).
    pub(super) exclude_caches: bool,
    /// See [`ScanOptions`](super::ScanOptions).
    pub(super) one_file_system: bool,
    /// Sources that lie below another, with their devices: to name one is to want it.
    pub(super) named: Vec<(EntryPath, u64)>,
    /// What is left out besides: device and inode.
    pub(super) skip: Vec<(u64, u64)>,
    /// Nobody takes entries any more.
    pub(super) stop: AtomicBool,
}

/// How what is looked at is reached.
#[derive(Clone, Copy)]
enum Handle<'f> {
    /// By a name in a directory.
    Name(BorrowedFd<'f>, &'f [u8]),
    /// It is open.
    Itself(BorrowedFd<'f>),
}

impl Handle<'_> {
    fn stat(self) -> io::Result<Stat> {
        match self {
            Self::Name(directory, name) => fs::stat_at(directory, std::ffi::OsStr::from_bytes(name)),
            Self::Itself(fd) => fs::fstat(fd),
        }
    }

    fn target(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Name(directory, name) => fs::readlink_at(directory, std::ffi::OsStr::from_bytes(name)),
            Self::Itself(fd) => fs::readlink_at(fd, ""),
        }
    }

    fn xattrs(self) -> io::Result<Xattrs> {
        match self {
            Self::Name(directory, name) => xattr::list_xattrs_at(directory, name),
            Self::Itself(fd) => xattr::list_xattrs_of(fd),
        }
    }
}

impl Looker {
    /// Finds out what there is to store of a source; `place` is open on it. One that is a directory goes into `roots`.
    pub(super) fn root(&self, name: &EntryPath, path: &Path, place: OwnedFd, roots: &Arc<Roots>) -> Found {
        let place = Arc::new(place);
        let root = match fs::fstat(&place) {
            Ok(stat) if stat.kind == StatKind::Directory => roots.add(path, Arc::clone(&place), &stat),
            Ok(_) => SourcePath::alone(path),
            Err(error) => {
                return Found::failed(path.to_owned(), Some(name.clone()), Error::io(FileOp::Stat, path, error));
            }
        };
        match self.look(name, &root, Handle::Itself(place.as_fd())) {
            Look::Found(found) | Look::Missing(found) => found,
            Look::LeftOut => Found::default(),
        }
    }

    /// Finds out what there is to store of what was listed in `dir` by this name; `at` is open on that directory.
    pub(super) fn child(&self, dir: &Dir, at: BorrowedFd<'_>, leaf: &[u8], listed_as_dir: bool) -> Look {
        let handle = Handle::Name(at, leaf);
        let name = match dir.name.join(leaf) {
            Ok(name) if self.excludes.matches(&name, listed_as_dir) => return Look::LeftOut,
            Ok(name) => name,
            Err(_) => {
                let path = dir.place.join(leaf);
                let (is_there, error) = match handle.stat() {
                    Ok(_) => (true, io::Error::new(io::ErrorKind::InvalidFilename, "the name is too long for a vault")),
                    Err(error) => (error.kind() != io::ErrorKind::NotFound, error),
                };
                let error = Error::io(FileOp::Stat, &path, error);
                let found = Found::failed(path.to_path_buf(), None, error);
                return if is_there { Look::Found(found) } else { Look::Missing(found) };
            }
        };
        match self.look(&name, &dir.place.join(leaf), handle) {
            // Listings do not always say what is a directory, and it may have become one.
            Look::Found(found)
                if is_directory(&found)
                    .is_some_and(|is_dir| is_dir != listed_as_dir && self.excludes.matches(&name, is_dir)) =>
            {
                Look::LeftOut
            }
            look => look,
        }
    }

    fn look(&self, name: &EntryPath, place: &SourcePath, handle: Handle<'_>) -> Look {
        let failed = |op, error| {
            let error = Error::io(op, place, fs::not_found_if_replaced(error));
            Found::failed(place.to_path_buf(), Some(name.clone()), error)
        };
        for _ in 0..ATTEMPTS {
            let stat = match handle.stat() {
                Ok(stat) => stat,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Look::Missing(failed(FileOp::Stat, error));
                }
                Err(error) => return Look::Found(failed(FileOp::Stat, error)),
            };
            if self.skip.contains(&(stat.dev, stat.ino)) {
                let path = place.to_path_buf();
                return Look::Found(Found::note(path, name.clone(), "the vault itself is left out"));
            }
            let is_elsewhere = self.one_file_system
                && place.device_of_root().is_some_and(|device| device != stat.dev)
                && !self
                    .named
                    .iter()
                    .any(|(named, device)| *device == stat.dev && (name == named || name.is_below(named)));
            let mut target = Vec::new();
            let mut later = None;
            match stat.kind {
                StatKind::Directory if is_elsewhere => {}
                StatKind::Directory => {
                    later = Some((Arc::new(Dir::new(name.clone(), place.clone(), &stat)), Way::Any));
                }
                _ if is_elsewhere => return Look::LeftOut,
                StatKind::Socket => {
                    let socket = Some(Box::new((place.to_path_buf(), name.clone())));
                    return Look::Found(Found { socket, ..Found::default() });
                }
                StatKind::Symlink => match handle.target() {
                    Ok(read) => target = read,
                    // It was a symlink when it was looked at, and is none any more.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => continue,
                    Err(error) => return Look::Found(failed(FileOp::ReadLink, error)),
                },
                _ => {}
            }
            // Without its extended attributes an entry is worth storing, but the user is told.
            let (xattrs, second) = match handle.xattrs() {
                Ok(xattrs) => (xattrs, None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    let error = Error::io(FileOp::ReadXattr, place, error);
                    let (path, name) = (place.to_path_buf(), Some(name.clone()));
                    (Vec::new(), Some(Box::new(Scanned::Failed { path, name, subtree: false, error })))
                }
            };
            let xattrs_known = second.is_none();
            let xattrs = xattrs.into_iter().map(|(name, value)| Xattr { name, value }).collect();
            let entry = ScannedEntry { name: name.clone(), path: place.clone(), stat, target, xattrs, xattrs_known };
            return Look::Found(Found { first: Some(Scanned::Entry(Box::new(entry))), second, socket: None, later });
        }
        Look::Missing(failed(FileOp::Stat, fs::replaced()))
    }

    /// Whether a directory, in which something has the name of a cache's tag, is a cache whose content is not wanted.
    /// One that is named as a source below `dir` is: then the whole directory is stored, rather than less than was named.
    pub(super) fn is_unwanted_cache(&self, dir: &Dir, at: BorrowedFd<'_>) -> bool {
        let holds_a_source = || self.named.iter().any(|(named, _)| named.is_below(&dir.name) || *named == dir.name);
        self.exclude_caches && has_signature(at).unwrap_or(false) && !holds_a_source()
    }
}

/// Whether an entry was found to be a directory; `None` if no entry was found.
fn is_directory(found: &Found) -> Option<bool> {
    match &found.first {
        Some(Scanned::Entry(entry)) => Some(entry.stat.kind == StatKind::Directory),
        _ => None,
    }
}

fn has_signature(at: BorrowedFd<'_>) -> Result<bool, io::Error> {
    let file = fs::open_read_at(at, std::ffi::OsStr::from_bytes(CACHE_TAG).as_ref())?;
    if fs::fstat(&file)?.kind != StatKind::File {
        return Ok(false);
    }
    let mut begin = [0; CACHE_SIGNATURE.len()];
    Ok(fs::read_full_at(&file, &mut begin, 0)? == begin.len() && begin == *CACHE_SIGNATURE)
}
