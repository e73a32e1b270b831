//! What is restored into, and what all write workers share of it: the directory's descriptor, the rules, what is not
//! complete yet, and who is told.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use super::attributes::{Attributes, lock};
use super::beneath::{Beneath, DirectoryCache, FileId, OpenDirectory, look, look_at, retry};
use super::directories::{CLOSED, Directories, make_with_parents, set_directory_mode};
pub(crate) use super::links::LinkRole;
use super::links::Links;
use super::place::{Name, Outcome, keep_if_unchanged, making, remove, restore_file, restore_node};
use super::policy::{Overwrite, RestorePolicy};
use super::sync::Mounts;
use super::told::{RestoreError, RestoreSink};
use super::write::RestoreFile;
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::entry::{Entry, EntryPath, EntryType};

/// How often something is tried again after descriptors were given back, or a directory was opened anew.
const ATTEMPTS: u32 = 4;
/// The most descriptors of files with several pieces that are kept open, where the limit allows so many.
const MAX_KEPT: usize = 4096;
/// The most descriptors of directories that a worker keeps, where the limit allows so many.
const MAX_CACHED: usize = 64;

/// The directory that is restored into; everything goes through its descriptor, nothing is ever resolved outside of it.
///
/// Hard links and the attributes of directories come in [`Destination::finish`]; the rest is done when it is written.
pub(crate) struct Destination {
    pub(super) beneath: Beneath,
    pub(super) policy: RestorePolicy,
    pub(super) attributes: Attributes,
    pub(super) links: Links,
    pub(super) sink: Arc<dyn RestoreSink>,
    /// What is to be synced at the end, if anything is.
    mounts: Option<Mounts>,
    /// The mode to give the destination at the end if it was made by this run and the vault has none for it.
    pub(super) made_with: Mutex<Option<u32>>,
    pub(super) directories: Mutex<Directories>,
    unfinished: Mutex<HashMap<u64, Weak<RestoreFile>>>,
    next_key: AtomicU64,
    abandoned: AtomicBool,
    /// Descriptors of files with several pieces that are open, and how many may be.
    kept: AtomicUsize,
    pub(super) max_kept: usize,
    max_cached: usize,
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
        let mounts = policy.sync.then(Mounts::default);
        if let Some(mounts) = &mounts {
            mounts.note(&root).map_err(|error| Error::io(FileOp::Open, path, error))?;
        }
        let limit = raise_open_file_limit();
        let max_cached = (limit / 64).clamp(4, MAX_CACHED);
        Ok(Self {
            beneath: Beneath::new(root),
            policy,
            attributes: Attributes::new(policy.preserve),
            links: Links::default(),
            sink,
            mounts,
            made_with: Mutex::new(made_with),
            directories: Mutex::new(Directories::new(DirectoryCache::new(max_cached))),
            unfinished: Mutex::default(),
            next_key: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            kept: AtomicUsize::new(0),
            // The rest is for directories, the vault, and whatever else the process has open.
            max_kept: (limit / 4).min(MAX_KEPT),
            max_cached,
        })
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
        if self.policy.overwrite == Overwrite::Never && self.is_taken(&entry.path) {
            self.settle(&entry, Ok(Outcome::Skipped));
            return LinkRole::Later;
        }
        self.links.plan(entry)
    }

    /// Whether an entry need not be restored since the file that is there looks like it: the same type, size and time of
    /// the last change. Its attributes are set then, and it is told of. Always `false` where another rule holds for names
    /// that are taken.
    ///
    /// For one thread (the planner), before the entry's content comes.
    pub(crate) fn keep_unchanged(&self, entry: &Entry) -> bool {
        if self.policy.overwrite != Overwrite::IfChanged || entry.entry_type != EntryType::File || entry.link.is_some()
        {
            return false;
        }
        let mut directories = lock(&self.directories);
        let kept = self.in_parent(&mut directories.cache, &entry.path, FileOp::Open, |directory, leaf| {
            keep_if_unchanged(&self.attributes, directory, leaf, entry)
        });
        drop(directories);
        // What keeps it from being looked at keeps it from being restored as well, and is told then.
        let Ok(Some(outcome)) = kept else { return false };
        self.settle(entry, Ok(outcome));
        true
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
        self.finish_directories();
        let closed = lock(&self.made_with).take().map(|mode| set_directory_mode(self.beneath.root(), mode));
        if let Some(Err(error)) = closed {
            self.sink.note(&EntryPath::default(), format!("the destination stays closed to others: {error}"));
        }
        self.attributes.tell_refused(&*self.sink);
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

    /// Has an entry made, or one of its other names if it cannot be; tells of each that was tried.
    pub(super) fn settle_one_of(
        &self,
        mut entry: Arc<Entry>,
        mut make: impl FnMut(&Entry) -> Result<Outcome, RestoreError>,
    ) {
        loop {
            let outcome = make(&entry);
            let is_made = matches!(outcome, Ok(Outcome::Restored { .. }));
            self.settle(&entry, outcome);
            if is_made {
                return;
            }
            match self.links.pass_on(&entry) {
                Some(next) => entry = next,
                None => return,
            }
        }
    }

    /// Tells of an entry, and remembers it if others are linked to it.
    pub(super) fn settle(&self, entry: &Entry, outcome: Result<Outcome, RestoreError>) {
        self.links.learn(entry, &outcome);
        match outcome {
            Ok(Outcome::Restored { lacking: None, .. }) => self.sink.restored(entry),
            Ok(Outcome::Unchanged { lacking: None }) => self.sink.unchanged(entry),
            Ok(Outcome::Restored { lacking: Some(error), .. } | Outcome::Unchanged { lacking: Some(error) })
            | Err(error) => self.sink.failed(entry, error),
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
                Ok(directory) => self.note_mount(directory).and_then(|()| act(directory, leaf)),
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

    fn note_mount(&self, directory: &mut OpenDirectory) -> Result<(), RestoreError> {
        if !directory.is_noted {
            self.note_mount_of(directory.fd())?;
            directory.is_noted = true;
        }
        Ok(())
    }

    /// Takes note of the file system of a directory, if it is to be synced.
    pub(super) fn note_mount_of(&self, directory: BorrowedFd<'_>) -> Result<(), RestoreError> {
        let noted = self.mounts.as_ref().map_or(Ok(()), |mounts| mounts.note(directory));
        noted.map_err(|error| RestoreError::io(FileOp::Open, error))
    }

    /// Waits until everything is on the disk, on every file system that was restored into, if the policy asks for it;
    /// to be called after [`Destination::finish`].
    ///
    /// # Errors
    /// The first of the file systems that failed. What could not be written is not known then, nor is it asked for again:
    /// the system forgets it.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        self.mounts.as_ref().map_or(Ok(()), Mounts::sync)
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
    use std::os::unix::fs::{MetadataExt, symlink as plant};

    use super::super::fixture::{Scene, Sink, entry};
    use super::*;

    const ALWAYS: Overwrite = Overwrite::Always;

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
