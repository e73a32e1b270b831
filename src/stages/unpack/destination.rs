//! What is restored into, and what all write workers share of it: the directory's descriptor, the rules for names that
//! are taken, directories whose attributes come last, and the reports.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use super::attributes::{Attributes, Handle, Present, lock};
use super::beneath::{Beneath, DirectoryCache, FileId, OpenDirectory, look, look_at, path_of, retry};
pub(crate) use super::links::LinkRole;
use super::links::Links;
use super::place::{Name, Outcome, making, remove, restore_file, restore_node};
use super::write::RestoreFile;
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::entry::{Entry, EntryPath, EntryType};

/// How often something is tried again after descriptors were given back, or a directory was opened anew.
const ATTEMPTS: u32 = 4;
/// Directories are their owner's alone until everything in them is restored.
const CLOSED: u32 = 0o700;
/// The most descriptors of files with several pieces that are kept open, where the limit allows so many.
const MAX_KEPT: usize = 4096;
/// The most descriptors of directories that a worker keeps, where the limit allows so many.
const MAX_CACHED: usize = 64;

/// What happens to names that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OverwritePolicy {
    /// What is there is replaced, but no directory by something else.
    #[default]
    Always,
    /// What is there stays as it is.
    Never,
}

/// What is restored of an entry beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preserve {
    /// Owner and group; without it no setuid or setgid bits either.
    pub(crate) owner: bool,
    /// All mode bits as stored; without it the permissions less the umask.
    pub(crate) mode: bool,
    /// The time of the last change of content.
    pub(crate) times: bool,
    /// Extended attributes but ACLs.
    pub(crate) xattr: bool,
    /// POSIX ACLs.
    pub(crate) acl: bool,
    /// Device nodes; without it they are skipped.
    pub(crate) devices: bool,
}

impl Default for Preserve {
    fn default() -> Self {
        Self { owner: true, mode: true, times: true, xattr: true, acl: true, devices: true }
    }
}

/// The rules of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RestorePolicy {
    pub(crate) overwrite: OverwritePolicy,
    pub(crate) preserve: Preserve,
}

/// Why an entry could not be restored.
#[derive(Debug)]
pub(crate) enum RestoreError {
    /// The system refused.
    Io {
        /// What was tried.
        op: FileOp,
        /// Why it failed.
        source: io::Error,
    },
    /// Bytes of the vault that it needs are lost.
    Damaged(Malformation),
    /// It cannot be made here, in words.
    Unsupported(&'static str),
}

impl RestoreError {
    pub(super) fn io(op: FileOp, error: Errno) -> Self {
        Self::Io { op, source: error.into() }
    }

    /// The system's number for the cause, if it has one.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Io { source, .. } => Errno::from_io_error(source),
            Self::Damaged(_) | Self::Unsupported(_) => None,
        }
    }
}

// By hand, since `io::Error` is not: several names of one file can fail for one cause.
impl Clone for RestoreError {
    fn clone(&self) -> Self {
        match self {
            Self::Io { op, source } => {
                let source = match source.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(source.kind(), source.to_string()),
                };
                Self::Io { op: *op, source }
            }
            Self::Damaged(what) => Self::Damaged(what.clone()),
            Self::Unsupported(what) => Self::Unsupported(what),
        }
    }
}

/// Is told of each entry exactly once, from any worker; entries that were under way when the run was abandoned are not
/// told of.
pub(crate) trait RestoreSink: Send + Sync {
    /// It is there, as stored.
    fn restored(&self, entry: &Entry);
    /// Its name was taken and shall stay so, or entries of its type are not wanted.
    fn skipped(&self, entry: &Entry);
    /// It is not there, or (if `error` is about an attribute) not quite as stored.
    fn failed(&self, entry: &Entry, error: RestoreError);
    /// Something that concerns many entries, of which `path` is the first.
    fn note(&self, path: &EntryPath, message: String);
}

/// The directory that is restored into; everything goes through its descriptor, nothing is ever resolved outside of it.
///
/// Hard links and the attributes of directories come in [`Destination::finish`]; the rest is done when it is written.
pub(crate) struct Destination {
    pub(super) beneath: Beneath,
    pub(super) policy: RestorePolicy,
    pub(super) attributes: Attributes,
    pub(super) links: Links,
    sink: Arc<dyn RestoreSink>,
    /// The mode to give the destination at the end if it was made by this run and the vault has none for it.
    made_with: Mutex<Option<u32>>,
    directories: Mutex<Directories>,
    unfinished: Mutex<HashMap<u64, Weak<RestoreFile>>>,
    next_key: AtomicU64,
    abandoned: AtomicBool,
    /// Descriptors of files with several pieces that are open, and how many may be.
    kept: AtomicUsize,
    pub(super) max_kept: usize,
    max_cached: usize,
}

struct Directories {
    cache: DirectoryCache,
    /// In the order in which they were made: parents before children.
    pending: Vec<PendingDirectory>,
}

/// A directory whose attributes are still to come.
struct PendingDirectory {
    entry: Arc<Entry>,
    id: FileId,
}

impl Destination {
    /// Opens the directory, and makes it and its parents where they are missing; a symlink to a directory is followed,
    /// here only. One that is made is closed to others until [`Destination::finish`].
    ///
    /// Raises this process's soft limit of open files to the hard one.
    pub(crate) fn open(path: &Path, policy: RestorePolicy, sink: Arc<dyn RestoreSink>) -> Result<Self> {
        let made = make_with_parents(path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = retry(|| rustix::fs::open(path, flags, Mode::empty()));
        let root = opened.map_err(|error| Error::io(FileOp::Open, path, error))?;
        let mut made_with = None;
        if made {
            let seen = look(&root).map_err(|error| Error::io(FileOp::Stat, path, error))?;
            made_with = Some(seen.mode);
            set_directory_mode(&root, CLOSED).map_err(|error| Error::io(FileOp::SetMode, path, error))?;
        }
        let limit = raise_open_file_limit();
        let max_cached = (limit / 64).clamp(4, MAX_CACHED);
        Ok(Self {
            beneath: Beneath::new(root),
            policy,
            attributes: Attributes::new(policy.preserve),
            links: Links::default(),
            sink,
            made_with: Mutex::new(made_with),
            directories: Mutex::new(Directories { cache: DirectoryCache::new(max_cached), pending: Vec::new() }),
            unfinished: Mutex::default(),
            next_key: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            kept: AtomicUsize::new(0),
            // The rest is for directories, the vault, and whatever else the process has open.
            max_kept: (limit / 4).min(MAX_KEPT),
            max_cached,
        })
    }

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
        if !made && self.policy.overwrite == OverwritePolicy::Never {
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
        let never = self.policy.overwrite == OverwritePolicy::Never;
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

    /// Says whether an entry with a link group is restored from its content ([`LinkRole::First`]; also what has none), or
    /// linked to the first of its names at the end, which needs nothing more of the caller.
    ///
    /// For one thread (the planner), before the entry's content comes.
    pub(crate) fn link_plan(&self, entry: Arc<Entry>) -> LinkRole {
        if entry.link.is_none() {
            return LinkRole::First;
        }
        // The name whose content is read must be one that will be written, or the others had nothing to be made from.
        if self.policy.overwrite == OverwritePolicy::Never && self.is_taken(&entry.path) {
            self.settle(&entry, Ok(Outcome::Skipped));
            return LinkRole::Later;
        }
        self.links.plan(entry)
    }

    fn is_taken(&self, path: &EntryPath) -> bool {
        let Some((parent, leaf)) = path.split_last() else {
            return false;
        };
        match self.beneath.open(parent) {
            Ok(directory) => look_at(directory.as_fd(), leaf).is_ok(),
            Err(_) => false,
        }
    }

    /// After everything was written: hard links, then the attributes of directories, deepest first, then the notes.
    ///
    /// Files that still lack pieces fail as damaged and are removed; a sound plan leaves none.
    pub(crate) fn finish(&self) {
        for file in self.take_unfinished() {
            file.fail(self, RestoreError::Damaged(Malformation::Truncated { structure: "entry" }));
        }
        self.links.make_all(self);
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
        let closed = lock(&self.made_with).take().map(|mode| set_directory_mode(self.beneath.root(), mode));
        if let Some(Err(error)) = closed {
            self.sink.note(&EntryPath::default(), format!("the destination stays closed to others: {error}"));
        }
        self.attributes.tell_refused(&*self.sink);
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
        let handle = if by_path { Handle::Path(opened.as_fd()) } else { Handle::Open(opened.as_fd()) };
        self.attributes.apply(handle, entry, Present { ids: seen.ids, mode: Some(seen.mode) })
    }

    /// Removes what is half written; from then on nothing more is written. Also done when the last holder of a file that
    /// lacks pieces lets go of it.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        for file in self.take_unfinished() {
            file.abandon();
        }
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    /// Tells of an entry, and remembers it if others are linked to it.
    pub(super) fn settle(&self, entry: &Entry, outcome: Result<Outcome, RestoreError>) {
        self.links.learn(entry, &outcome);
        match outcome {
            Ok(Outcome::Restored { lacking: None, .. }) => self.sink.restored(entry),
            Ok(Outcome::Restored { lacking: Some(error), .. }) | Err(error) => self.sink.failed(entry, error),
            Ok(Outcome::Skipped) => self.sink.skipped(entry),
        }
    }

    /// Makes an entry without records: an empty file, one that is a hole, a symlink, a FIFO, a device node.
    pub(super) fn restore_without_data(
        &self,
        cache: &mut DirectoryCache,
        entry: &Entry,
    ) -> Result<Outcome, RestoreError> {
        let Self { attributes, policy, .. } = self;
        if matches!(entry.entry_type, EntryType::CharDevice | EntryType::BlockDevice) && !policy.preserve.devices {
            return Ok(Outcome::Skipped);
        }
        self.in_parent(cache, &entry.path, making(entry.entry_type), |directory, leaf| match entry.entry_type {
            EntryType::File => restore_file(attributes, policy.overwrite, directory, leaf, entry, &mut |_| Ok(0)),
            _ => restore_node(attributes, policy.overwrite, directory, leaf, entry),
        })
    }

    /// Does something in the directory that `path` is in. If descriptors have run out, it is tried again after some were
    /// given back; if the directory is gone, in one that is opened anew. `act` leaves nothing behind when it fails.
    pub(super) fn in_parent<T>(
        &self,
        cache: &mut DirectoryCache,
        path: &EntryPath,
        op: FileOp,
        mut act: impl FnMut(&mut OpenDirectory, &[u8]) -> Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        // Only a directory can stand for the root.
        let (parent, leaf) = path.split_last().ok_or_else(|| RestoreError::io(op, Errno::ISDIR))?;
        let mut attempt = 1;
        loop {
            let result = match cache.get(&self.beneath, parent) {
                Ok(directory) => act(directory, leaf),
                Err(error) => Err(RestoreError::io(op, error)),
            };
            let Err(error) = result else { return result };
            let again = match error.errno() {
                Some(Errno::MFILE | Errno::NFILE) => {
                    cache.clear();
                    self.release_descriptors();
                    attempt < ATTEMPTS
                }
                Some(Errno::NOENT | Errno::STALE) => cache.forget(parent) && attempt == 1,
                _ => false,
            };
            if !again {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// Removes a file that is not complete.
    pub(super) fn remove_incomplete(&self, path: &EntryPath, name: &Name, id: FileId) {
        let Some((parent, leaf)) = path.split_last() else {
            return;
        };
        let opened = match self.beneath.open(parent) {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.release_descriptors();
                self.beneath.open(parent)
            }
            other => other,
        };
        // If the directory cannot be opened any more, the file is where nobody will take it for a whole one.
        if let Ok(directory) = opened {
            remove(directory.as_fd(), leaf, name, id);
        }
    }

    /// A cache for one worker, of a size that the limit of open files allows.
    pub(super) fn new_cache(&self) -> DirectoryCache {
        DirectoryCache::new(self.max_cached)
    }

    /// A number to register a file under that has begun and lacks pieces.
    pub(super) fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes a file that has begun and lacks pieces; `false` if the run was abandoned.
    pub(super) fn register(&self, key: u64, file: &Arc<RestoreFile>) -> bool {
        let mut unfinished = lock(&self.unfinished);
        // Under the lock: either `abandon` finds the file, or the file finds the run abandoned.
        if self.is_abandoned() {
            return false;
        }
        unfinished.insert(key, Arc::downgrade(file));
        true
    }

    pub(super) fn unregister(&self, key: u64) {
        lock(&self.unfinished).remove(&key);
    }

    fn take_unfinished(&self) -> Vec<Arc<RestoreFile>> {
        let unfinished = std::mem::take(&mut *lock(&self.unfinished));
        unfinished.into_values().filter_map(|file| file.upgrade()).collect()
    }

    /// Asks to keep a descriptor open between the pieces of a file; if granted, it is owed to [`Destination::unkeep`].
    pub(super) fn keep(&self) -> bool {
        let kept = self
            .kept
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| (kept < self.max_kept).then_some(kept + 1));
        kept.is_ok()
    }

    pub(super) fn unkeep(&self) {
        self.kept.fetch_sub(1, Ordering::Relaxed);
    }

    /// Closes descriptors that are kept only to save opening them again.
    fn release_descriptors(&self) {
        let unfinished: Vec<_> = lock(&self.unfinished).values().filter_map(Weak::upgrade).collect();
        for file in unfinished {
            file.release_descriptor();
        }
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Destination")
            .field("beneath", &self.beneath)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Makes the directory `path` if it is missing; says whether it did.
fn make_with_parents(path: &Path) -> Result<bool> {
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
fn set_directory_mode(directory: impl AsFd, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    retry(|| rustix::fs::chmodat(rustix::fs::CWD, path_of(directory.as_fd()), mode, AtFlags::empty()))
}

/// Raises the soft limit of open files to the hard one, as far as that goes; says what it is then.
fn raise_open_file_limit() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        // The old limit will do: what does not fit is closed and opened again.
        Err(_) => limit.current,
    };
    current.map_or(usize::MAX, |current| usize::try_from(current).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as plant};

    use super::super::fixture::{Scene, Sink, as_nobody, entry, is_root};
    use super::*;
    use crate::primitives::fs::Timestamp;

    const ALWAYS: OverwritePolicy = OverwritePolicy::Always;
    const NEVER: OverwritePolicy = OverwritePolicy::Never;

    fn mode(path: impl AsRef<Path>) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_destination_that_is_missing_is_made_and_is_closed_until_the_end() {
        let outer = tempfile::tempdir().unwrap();
        let umask = outer.path().join("umask");
        std::fs::create_dir(&umask).unwrap();
        let root = outer.path().join("a/b/c");
        let scene = Scene::open(outer, root, RestorePolicy::default());
        assert_eq!(mode(&scene.root), 0o700);
        scene.destination.finish();
        assert_eq!(mode(&scene.root), mode(&umask));
    }

    #[test]
    fn a_symlink_that_the_user_names_is_followed_and_a_file_refused() {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir(outer.path().join("real")).unwrap();
        plant("real", outer.path().join("link")).unwrap();
        let root = outer.path().join("link");
        let mut scene = Scene::open(outer, root, RestorePolicy::default());
        scene.file("f", b"x");
        assert!(scene.outer.path().join("real/f").is_file());
        let file = scene.outer.path().join("real/f");
        let sink = || Arc::new(Sink::default()) as Arc<dyn RestoreSink>;
        assert!(Destination::open(&file, RestorePolicy::default(), sink()).is_err());
        assert!(Destination::open(Path::new("/"), RestorePolicy::default(), sink()).is_ok());
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

    #[test]
    fn running_out_of_descriptors_gives_back_those_that_are_kept() {
        let mut scene = Scene::new(ALWAYS);
        let file = Arc::new(RestoreFile::new(Arc::new(Entry { size: 2, ..entry("large", EntryType::File) }), 2));
        scene.writer.write(b"a", &[super::super::fixture::piece(&file, 0, 1, 0)]);
        assert_eq!(scene.destination.kept.load(Ordering::Relaxed), 1);
        let mut cache = scene.destination.new_cache();
        let path = EntryPath::parse(b"f").unwrap();
        let mut calls = 0;
        let result = scene.destination.in_parent(&mut cache, &path, FileOp::Create, |_, _| {
            calls += 1;
            if calls == 1 { Err(RestoreError::io(FileOp::Create, Errno::MFILE)) } else { Ok(()) }
        });
        assert!(result.is_ok() && calls == 2);
        assert_eq!(scene.destination.kept.load(Ordering::Relaxed), 0);
        scene.writer.write(b"b", &[super::super::fixture::piece(&file, 0, 1, 1)]);
        assert_eq!(std::fs::read_to_string(scene.at("large")).unwrap(), "ab");
        let mut calls = 0;
        let result = scene.destination.in_parent(&mut cache, &path, FileOp::Create, |_, _| -> Result<(), _> {
            calls += 1;
            Err(RestoreError::io(FileOp::Create, Errno::MFILE))
        });
        assert!(result.is_err() && calls == ATTEMPTS);
    }
}
