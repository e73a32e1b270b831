//! How is what was found at a source reached again, and never what somebody has put on the way to it?
//!
//! A path as a string says where something was. What it leads to may be another thing the next time, if a directory in it
//! has become a symlink meanwhile. So everything below a source that is a directory is opened from that directory's
//! descriptor, by a way that no symlink is on; the path as a whole is for people, and there may be no bound on its length.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{Error, FileOp, Result};
use crate::primitives::beneath::Resolver;
use crate::primitives::fs::{self, FsKind, Stat};

/// Roots kept open at a time. There may be more sources than descriptors; what is read is near what was scanned last.
const MOST_HELD: usize = 8;

/// The sources of one run that are directories: those used last are kept open.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    resolver: Resolver,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// How many there have been.
    count: u64,
    /// Number and descriptor, the one used last at the end.
    open: Vec<(u64, Arc<OwnedFd>)>,
}

/// A source that is a directory.
#[derive(Debug)]
struct Root {
    roots: Arc<Roots>,
    /// Which of them it is.
    number: u64,
    /// As typed.
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl Roots {
    /// A directory that is a source; `dir` is open on it, `stat` is what it is.
    pub(crate) fn add(self: &Arc<Self>, path: &Path, dir: Arc<OwnedFd>, stat: &Stat) -> SourcePath {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let number = held.count;
        held.count += 1;
        held.keep(number, dir);
        let root = Root { roots: Arc::clone(self), number, path: path.to_owned(), id: (stat.dev, stat.ino) };
        SourcePath { root: Some(Arc::new(root)), path: path.into(), below: path.as_os_str().len() }
    }

    /// Has everything resolved as on a kernel without `openat2`.
    #[cfg(test)]
    pub(crate) fn forget_openat2(&self) {
        self.resolver.forget_openat2();
    }
}

impl Held {
    fn keep(&mut self, number: u64, dir: Arc<OwnedFd>) {
        if self.open.len() >= MOST_HELD {
            self.open.remove(0);
        }
        self.open.push((number, dir));
    }
}

impl Root {
    /// The directory, to start from.
    fn descriptor(&self) -> Result<Arc<OwnedFd>, Errno> {
        let mut held = self.roots.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = held.open.iter().position(|(number, _)| *number == self.number) {
            held.open[at..].rotate_left(1);
            return Ok(Arc::clone(&held.open[held.open.len() - 1].1));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = retry_on_intr(|| rustix::fs::open(&self.path, flags, Mode::empty()))?;
        // The path may lead elsewhere by now. Only the directory that was looked at will do.
        let stat = fs::fstat(&dir).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        if (stat.dev, stat.ino) != self.id {
            return Err(Errno::STALE);
        }
        let dir = Arc::new(dir);
        held.keep(self.number, Arc::clone(&dir));
        Ok(dir)
    }
}

/// Where something was found: a path to show, and the way to open it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SourcePath {
    /// The source that it is, or that it lies below; `None` for a source that is no directory.
    root: Option<Arc<Root>>,
    /// The whole path, as it would be typed.
    path: Arc<Path>,
    /// Where in it that which is below the root begins.
    below: usize,
}

impl SourcePath {
    /// A source that is no directory. It is opened as it was typed, so whoever opens it checks what he got.
    pub(crate) fn alone(path: &Path) -> Self {
        Self { root: None, path: path.into(), below: path.as_os_str().len() }
    }

    /// What has this name in this directory.
    pub(crate) fn join(&self, name: &[u8]) -> Self {
        let path = self.path.join(OsStr::from_bytes(name));
        let len = path.as_os_str().len();
        let is_root = self.below().is_empty();
        // The path of a root may end in a slash, so it is from the end that the rest is known.
        let below = if is_root { len - name.len() } else { self.below };
        Self { root: self.root.clone(), path: path.into(), below }
    }

    /// The part below the root: components joined by `/`, empty for the root itself.
    fn below(&self) -> &[u8] {
        &self.path.as_os_str().as_bytes()[self.below..]
    }

    /// The device of the source that it lies below; `None` for a source that is no directory.
    pub(crate) fn device_of_root(&self) -> Option<u64> {
        self.root.as_ref().map(|root| root.id.0)
    }

    /// Opens it: below its root, with no symlink on the way, itself not followed.
    ///
    /// # Errors
    /// The system's; `ESTALE` if the root has been replaced.
    pub(crate) fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        match &self.root {
            Some(root) => root.roots.resolver.open(root.descriptor()?.as_fd(), self.below(), flags),
            None => {
                let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                retry_on_intr(|| rustix::fs::openat(CWD, &*self.path, flags, Mode::empty()))
            }
        }
    }

    /// Opens a directory, to be listed.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open_directory(&self) -> io::Result<OwnedFd> {
        fs::open_read_by(|flags| self.open(flags | OFlags::DIRECTORY)).map(OwnedFd::from)
    }

    /// Opens a file for reading, see [`fs::open_read_at`].
    ///
    /// # Errors
    /// The system's; if something else is there by now, that it was not found.
    pub(crate) fn open_read(&self) -> Result<File> {
        fs::open_read_by(|flags| self.open(flags)).map_err(|error| {
            let error = match error.raw_os_error() {
                // What a socket answers, and a device without a driver; but so do files of some pseudo file systems.
                Some(libc::ENXIO | libc::ENODEV) if !self.is_file() => fs::replaced(),
                _ => fs::not_found_if_replaced(error),
            };
            Error::io(FileOp::Open, &self.path, error)
        })
    }

    fn is_file(&self) -> bool {
        self.open(OFlags::PATH).is_ok_and(|place| fs::fstat(place).is_ok_and(|stat| stat.kind == fs::StatKind::File))
    }

    /// The kind of the file system that it is on.
    ///
    /// # Errors
    /// As [`SourcePath::open_read`].
    pub(crate) fn file_system(&self) -> Result<FsKind> {
        let opened = self.open(OFlags::PATH).map_err(io::Error::from);
        let kind = opened.and_then(fs::file_system_kind);
        kind.map_err(|error| Error::io(FileOp::Stat, &self.path, fs::not_found_if_replaced(error)))
    }
}

impl Deref for SourcePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for SourcePath {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl std::fmt::Debug for SourcePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn root(roots: &Arc<Roots>, path: &Path) -> SourcePath {
        let dir = Arc::new(fs::open_place(path).unwrap());
        let stat = fs::fstat(&dir).unwrap();
        roots.add(path, dir, &stat)
    }

    fn kind(error: &Error) -> io::ErrorKind {
        let Error::Io { source, .. } = error else { panic!("{error:?}") };
        source.kind()
    }

    #[test]
    fn paths_read_as_typed_and_lead_below_the_root() {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir_all(dir.path().join("s/a/b")).unwrap();
        std::fs::write(dir.path().join("s/a/b/f"), "x").unwrap();
        let roots = Arc::<Roots>::default();
        for typed in ["s", "s/", "s/.", "s//"] {
            let root = root(&roots, &dir.path().join(typed));
            let file = root.join(b"a").join(b"b").join(b"f");
            assert_eq!(file.below(), b"a/b/f", "{typed}");
            assert_eq!(&*file, dir.path().join(typed).join("a/b/f"), "{typed}");
            assert_eq!(fs::fstat(file.open_read().unwrap()).unwrap().size, 1);
            let itself = root.open(OFlags::PATH | OFlags::DIRECTORY).unwrap();
            assert_eq!(fs::fstat(itself).unwrap().ino, fs::lstat(&dir.path().join("s")).unwrap().ino);
        }
        let top = root(&roots, Path::new("/"));
        assert_eq!(
            (top.below(), top.join(b"proc").below(), &*top.join(b"proc")),
            (&b""[..], &b"proc"[..], "/proc".as_ref())
        );
        assert_eq!(top.join(b"proc").join(b"version").file_system().unwrap(), FsKind::Pseudo);
    }

    #[test]
    fn what_is_replaced_on_the_way_is_not_found() {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir_all(dir.path().join("s/a")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        for parent in ["s/a", "outside"] {
            std::fs::write(dir.path().join(parent).join("f"), "x").unwrap();
        }
        let roots = Arc::<Roots>::default();
        let root = root(&roots, &dir.path().join("s"));
        let file = root.join(b"a").join(b"f");
        for with_openat2 in [true, false] {
            if !with_openat2 {
                roots.forget_openat2();
            }
            assert!(file.open_read().is_ok());
            std::fs::rename(dir.path().join("s/a"), dir.path().join("aside")).unwrap();
            assert_eq!(kind(&file.open_read().unwrap_err()), io::ErrorKind::NotFound);
            symlink("../outside", dir.path().join("s/a")).unwrap();
            assert_eq!(kind(&file.open_read().unwrap_err()), io::ErrorKind::NotFound, "a symlink");
            std::fs::remove_file(dir.path().join("s/a")).unwrap();
            std::fs::write(dir.path().join("s/a"), "").unwrap();
            assert_eq!(kind(&file.open_read().unwrap_err()), io::ErrorKind::NotFound, "a file");
            std::fs::remove_file(dir.path().join("s/a")).unwrap();
            std::fs::rename(dir.path().join("aside"), dir.path().join("s/a")).unwrap();
        }
    }

    #[test]
    fn a_root_that_was_closed_is_opened_again_if_it_is_still_the_same() {
        let dir = TempDir::new().unwrap();
        let roots = Arc::<Roots>::default();
        let files: Vec<SourcePath> = (0..3 * MOST_HELD)
            .map(|number| {
                let path = dir.path().join(number.to_string());
                std::fs::create_dir(&path).unwrap();
                std::fs::write(path.join("f"), "x").unwrap();
                root(&roots, &path).join(b"f")
            })
            .collect();
        for file in files.iter().chain(files.iter().rev()) {
            assert!(file.open_read().is_ok());
            assert!(roots.held.lock().unwrap().open.len() <= MOST_HELD);
        }
        // The last ones are closed by now.
        let last = files.last().unwrap();
        let path = last.parent().unwrap();
        std::fs::rename(path, dir.path().join("aside")).unwrap();
        symlink("aside", path).unwrap();
        assert_eq!(kind(&last.open_read().unwrap_err()), io::ErrorKind::NotFound, "by way of a symlink");
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("f"), "another").unwrap();
        assert_eq!(kind(&last.open_read().unwrap_err()), io::ErrorKind::NotFound, "another directory");
    }
}
