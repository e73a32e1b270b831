//! How do directories come to be: made or accepted before what is in them, and given their attributes after it?
//!
//! One that is made is closed to others until the end. So is nothing in it open to anybody before its own attributes
//! are there, and no restored directory's own rules (setgid bit, default ACL, mode without write permission) get at what
//! is still being made in it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{Handle, Present, lock};
use super::beneath::{DirectoryCache, FileId, OpenDirectory, look, path_of, retry};
use super::destination::Destination;
use super::place::Outcome;
use super::policy::Overwrite;
use super::told::RestoreError;
use crate::error::{Error, FileOp, Result};
use crate::format::entry::Entry;

/// How often a name is tried again that something else keeps taking.
const ATTEMPTS: u32 = 4;
/// Directories are their owner's alone until everything in them is restored.
pub(super) const CLOSED: u32 = 0o700;

/// The directories of one run that are entries.
pub(super) struct Directories {
    pub(super) cache: DirectoryCache,
    /// In the order in which they were made: parents before children.
    pending: Vec<PendingDirectory>,
}

/// A directory whose attributes are still to come.
struct PendingDirectory {
    entry: Arc<Entry>,
    id: FileId,
}

impl Directories {
    pub(super) fn new(cache: DirectoryCache) -> Self {
        Self { cache, pending: Vec::new() }
    }
}

impl Destination {
    /// Makes a directory, or accepts the one that is there; its attributes come at the end. Parents come before children;
    /// those that are no entries are made with the mode that the umask leaves.
    ///
    /// For one thread (the planner).
    pub(crate) fn make_directory(&self, entry: Arc<Entry>) {
        let mut directories = lock(&self.directories);
        let Directories { cache, pending } = &mut *directories;
        let made = match entry.path.split_last() {
            // `open` has made it; what else it has to know is whether it did.
            None => self.accept_root(),
            Some((_, _)) => self.in_parent(cache, &entry.path, FileOp::CreateDirectory, |directory, leaf| {
                self.make_directory_in(directory, leaf)
            }),
        };
        match made {
            Ok(Some((opened, id))) => {
                if let Some(opened) = opened {
                    cache.put(entry.path.as_bytes(), OpenDirectory::new(opened));
                }
                pending.push(PendingDirectory { entry, id });
            }
            Ok(None) => self.settle(&entry, Ok(Outcome::Skipped)),
            Err(error) => self.settle(&entry, Err(error)),
        }
    }

    fn accept_root(&self) -> Result<Option<(Option<OwnedFd>, FileId)>, RestoreError> {
        let made = lock(&self.made_with).take().is_some();
        if !made && self.policy.overwrite == Overwrite::Never {
            return Ok(None);
        }
        let seen = look(self.beneath.root()).map_err(|error| RestoreError::io(FileOp::Stat, error))?;
        Ok(Some((None, seen.id)))
    }

    /// `None` if it was there and shall stay as it is.
    fn make_directory_in(
        &self,
        parent: &OpenDirectory,
        leaf: &[u8],
    ) -> Result<Option<(Option<OwnedFd>, FileId)>, RestoreError> {
        let op = FileOp::CreateDirectory;
        let refused = |error| RestoreError::io(op, error);
        let never = self.policy.overwrite == Overwrite::Never;
        let mut made = false;
        for _ in 0..ATTEMPTS {
            match retry(|| rustix::fs::mkdirat(parent.fd(), leaf, Mode::from_raw_mode(CLOSED))) {
                Ok(()) => made = true,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(refused(error)),
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match retry(|| rustix::fs::openat(parent.fd(), leaf, flags, Mode::empty())) {
                Ok(_) if never && !made => return Ok(None),
                Ok(opened) => {
                    let seen = look(&opened).map_err(|error| RestoreError::io(FileOp::Stat, error))?;
                    if !made && seen.mode & CLOSED != CLOSED && !rustix::process::geteuid().is_root() {
                        // It is to be written into, which its owner could not without this. If somebody else is the
                        // owner it fails, and the entries in it tell.
                        let _ = set_directory_mode(&opened, seen.mode | CLOSED);
                    }
                    return Ok(Some((Some(opened), seen.id)));
                }
                // Not a directory: a symlink is not followed, but replaced like any other thing in the way.
                Err(Errno::NOTDIR | Errno::LOOP) if never => return Err(refused(Errno::EXIST)),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    match retry(|| rustix::fs::unlinkat(parent.fd(), leaf, AtFlags::empty())) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(error) => return Err(RestoreError::io(FileOp::Remove, error)),
                    }
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(refused(error)),
            }
            made = false;
        }
        Err(refused(Errno::EXIST))
    }

    /// Gives directories their attributes, the deepest first.
    pub(super) fn finish_directories(&self) {
        let mut directories = lock(&self.directories);
        directories.cache.clear();
        let pending = std::mem::take(&mut directories.pending);
        drop(directories);
        // A child is made after its parent, so backwards is deepest first.
        for directory in pending.into_iter().rev() {
            match self.finish_directory(&directory) {
                None => self.sink.restored(&directory.entry),
                Some(error) => self.sink.failed(&directory.entry, error),
            }
        }
    }

    fn finish_directory(&self, PendingDirectory { entry, id }: &PendingDirectory) -> Option<RestoreError> {
        let path = entry.path.as_bytes();
        let readable = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (opened, by_path) = match self.beneath.open_as(path, readable) {
            // One that was there before, and that its owner may not read.
            Err(Errno::ACCESS) => (self.beneath.open(path), true),
            other => (other, false),
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return Some(RestoreError::io(FileOp::Open, error)),
        };
        let seen = match look(&opened) {
            Ok(seen) => seen,
            Err(error) => return Some(RestoreError::io(FileOp::Stat, error)),
        };
        // Somebody has put another directory in its place: the attributes are not meant for that one.
        if seen.id != *id {
            return Some(RestoreError::io(FileOp::Open, Errno::STALE));
        }
        if let Err(error) = self.note_mount_of(opened.as_fd()) {
            return Some(error);
        }
        let handle = if by_path { Handle::Path(opened.as_fd()) } else { Handle::Open(opened.as_fd()) };
        self.attributes.apply(
            handle,
            entry,
            Present { ids: seen.ids, mode: Some(seen.mode), has_times: false, may_have_xattrs: true },
        )
    }
}

/// Makes the directory `path` if it is missing; says whether it did.
pub(super) fn make_with_parents(path: &Path) -> Result<bool> {
    // The mode that the umask leaves, so that it can be learnt without asking for the umask.
    let make = || retry(|| rustix::fs::mkdir(path, Mode::from_raw_mode(0o777)));
    let made = match (make(), path.parent()) {
        (Err(Errno::NOENT), Some(parent)) if !parent.as_os_str().is_empty() => {
            std::fs::create_dir_all(parent).map_err(|error| Error::io(FileOp::CreateDirectory, parent, error))?;
            make()
        }
        (made, _) => made,
    };
    match made {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // A path like `/` or one on a read-only parent may exist all the same.
        Err(_) if path.is_dir() => Ok(false),
        Err(error) => Err(Error::io(FileOp::CreateDirectory, path, error)),
    }
}

/// Sets the mode of a directory that is open in any way.
pub(super) fn set_directory_mode(directory: impl AsFd, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    retry(|| rustix::fs::chmodat(rustix::fs::CWD, path_of(directory.as_fd()), mode, AtFlags::empty()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as plant};

    use super::super::fixture::{Scene, as_nobody, entry, is_root};
    use super::super::policy::RestorePolicy;
    use super::*;
    use crate::format::entry::EntryType;
    use crate::primitives::fs::Timestamp;

    const ALWAYS: Overwrite = Overwrite::Always;
    const NEVER: Overwrite = Overwrite::Never;

    fn mode(path: impl AsRef<Path>) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn directories_get_their_attributes_at_the_end_whatever_comes_into_them() {
        let mut scene = Scene::new(ALWAYS);
        let time = |secs| Timestamp { secs, nanos: 5 };
        let directory =
            |path: &str, mode, secs| Arc::new(Entry { mode, mtime: time(secs), ..entry(path, EntryType::Directory) });
        scene.destination.make_directory(directory("", 0o751, -7));
        scene.destination.make_directory(directory("a", 0o555, 1));
        scene.destination.make_directory(directory("a/b", 0o3777, 2));
        assert_eq!((mode(scene.at("a")), mode(scene.at("a/b"))), (0o700, 0o700));
        scene.file("a/b/f", b"x");
        scene.file("g", b"x");
        assert_eq!(scene.sink.total(), 2);
        scene.destination.finish();
        for (path, expected, secs) in [("", 0o751, -7), ("a", 0o555, 1), ("a/b", 0o3777, 2)] {
            let stat = std::fs::metadata(scene.at(path)).unwrap();
            assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (expected, secs, 5), "{path}");
        }
        assert_eq!((scene.sink.total(), scene.sink.all_restored()), (5, true));
    }

    #[test]
    fn a_directory_that_is_there_is_kept_and_gets_attributes_unless_nothing_is_overwritten() {
        for (policy, expected) in [(ALWAYS, 0o750), (NEVER, 0o711)] {
            let mut scene = Scene::prepared(policy, |root| {
                std::fs::create_dir(root.join("d")).unwrap();
                std::fs::write(root.join("d/theirs"), "x").unwrap();
                std::fs::set_permissions(root.join("d"), std::fs::Permissions::from_mode(0o711)).unwrap();
                std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o711)).unwrap();
            });
            for path in ["", "d", "d/new"] {
                let directory = Entry { mode: 0o750, ..entry(path, EntryType::Directory) };
                scene.destination.make_directory(Arc::new(directory));
            }
            scene.file("d/f", b"x");
            scene.destination.finish();
            assert_eq!((mode(scene.at("")), mode(scene.at("d")), mode(scene.at("d/new"))), (expected, expected, 0o750));
            let told = if policy == ALWAYS { "restored" } else { "skipped" };
            assert_eq!((scene.sink.of(""), scene.sink.of("d")), (told.to_owned(), told.to_owned()));
            assert_eq!((scene.sink.of("d/new").as_str(), scene.sink.of("d/f").as_str()), ("restored", "restored"));
            assert_eq!(scene.names("d"), [&b"f"[..], b"new", b"theirs"]);
        }
    }

    #[test]
    fn what_is_in_the_way_of_a_directory_is_replaced_or_left_but_never_followed() {
        for policy in [ALWAYS, NEVER] {
            let outside = tempfile::tempdir().unwrap();
            std::fs::set_permissions(outside.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
            let mut scene = Scene::prepared(policy, |root| {
                plant(outside.path(), root.join("link")).unwrap();
                std::fs::write(root.join("file"), "x").unwrap();
            });
            for name in ["link", "file"] {
                scene.directory(name);
                scene.file(&format!("{name}/f"), b"x");
            }
            scene.destination.finish();
            for name in ["link", "file"] {
                let is_dir = std::fs::symlink_metadata(scene.at(name)).unwrap().is_dir();
                assert_eq!(is_dir, policy == ALWAYS, "{name}");
                let (directory, file) = (scene.sink.of(name), scene.sink.of(format!("{name}/f")));
                if policy == ALWAYS {
                    assert_eq!((directory.as_str(), file.as_str()), ("restored", "restored"));
                } else {
                    assert!(directory.starts_with("cannot create directory: File exists"), "{directory}");
                    assert!(file.starts_with("cannot create"), "{file}");
                }
            }
            assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
            assert_eq!(mode(outside.path()), 0o711);
        }
    }

    #[test]
    fn attributes_do_not_go_to_a_directory_that_came_in_place_of_ours() {
        let outside = tempfile::tempdir().unwrap();
        for link in [false, true] {
            let scene = Scene::new(ALWAYS);
            scene.directory("d");
            std::fs::rename(scene.at("d"), scene.at("moved")).unwrap();
            if link {
                plant(outside.path(), scene.at("d")).unwrap();
            } else {
                std::fs::create_dir(scene.at("d")).unwrap();
                std::fs::set_permissions(scene.at("d"), std::fs::Permissions::from_mode(0o711)).unwrap();
            }
            let before = mode(outside.path());
            scene.destination.finish();
            assert!(scene.sink.of("d").starts_with("cannot open"), "{}", scene.sink.of("d"));
            assert_eq!(mode(outside.path()), before);
            assert!(link || mode(scene.at("d")) == 0o711);
        }
    }

    #[test]
    fn a_user_can_restore_into_directories_of_his_own_that_are_read_only() {
        if !is_root() {
            return;
        }
        let outer = tempfile::tempdir().unwrap();
        std::fs::set_permissions(outer.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let _removed_by_root = as_nobody(move || {
            let root = outer.path().join("to");
            std::fs::create_dir_all(root.join("d")).unwrap();
            std::fs::set_permissions(root.join("d"), std::fs::Permissions::from_mode(0o111)).unwrap();
            let mut scene = Scene::open(outer, root, RestorePolicy::default());
            let directory = Entry { mode: 0o311, ..entry("d", EntryType::Directory) };
            scene.destination.make_directory(Arc::new(directory));
            scene.file("d/f", b"x");
            scene.destination.finish();
            assert_eq!((scene.sink.of("d").as_str(), scene.sink.of("d/f").as_str()), ("restored", "restored"));
            assert_eq!(mode(scene.at("d")), 0o311);
            scene
        });
    }

    #[test]
    fn directories_that_shut_their_own_user_out_are_finished_from_the_deepest_on() {
        if !is_root() {
            return;
        }
        let outer = tempfile::tempdir().unwrap();
        std::fs::set_permissions(outer.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let scene = as_nobody(move || {
            let root = outer.path().join("to");
            let scene = Scene::open(outer, root, RestorePolicy::default());
            for path in ["d", "d/e", "d/e/f"] {
                let closed = Entry { mode: 0, ..entry(path, EntryType::Directory) };
                scene.destination.make_directory(Arc::new(closed));
            }
            scene.destination.finish();
            scene
        });
        assert_eq!((scene.sink.total(), scene.sink.all_restored()), (3, true));
        assert_eq!((mode(scene.at("d/e")), mode(scene.at("d/e/f"))), (0, 0));
    }
}
