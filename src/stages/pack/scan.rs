//! Which entries are there, in the order of the index?
//!
//! jwalk stays behind this file. What it is used for: it lists directories in parallel and gives them in depth-first
//! order, each sorted by the bytes of its names, which is the order of the index. What it leaves to do:
//!
//! - A root that is a symlink is followed by jwalk; here every root is looked at first, and only directories are walked.
//! - The work on an entry (attributes, symlink target, extended attributes) is done in jwalk's callback, hence in its
//!   threads, and travels as the entry's client state.
//! - jwalk lists as far ahead as it can. Here the entries that were looked at and not yet taken are counted. A callback
//!   that finds too many lets go of its listing and looks at nothing; directories found while there are too many are not
//!   entered. Either leaves a mark, and the directory is listed anew, by a walk of its own, when its turn has come. So a
//!   callback never waits, and what is queued ahead is bounded (see [`ScanOptions::look_ahead`]).
//!
//! jwalk goes by path. Hence a path of more than `PATH_MAX` bytes fails with the system's own error, and a directory that
//! is replaced by a symlink between being looked at and being listed is listed at the symlink's target.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use jwalk::rayon::{ThreadPool, ThreadPoolBuilder};
use jwalk::{Parallelism, WalkDirGeneric};

use crate::error::{Error, FileOp, Result};
use crate::format::entry::{EntryPath, Xattr};
use crate::primitives::fs::{self, StatKind};
use crate::stages::pack::exclude::Excludes;
use crate::stages::pack::names::SourceRoot;
use crate::stages::{Scanned, ScannedEntry};

/// What a scan is to do, besides its roots.
#[derive(Debug, Clone)]
pub(crate) struct ScanOptions {
    /// Threads that list directories; one or none means the thread that takes the entries.
    pub(crate) workers: usize,
    /// Patterns of what is left out, see [`Excludes`].
    pub(crate) exclude: Vec<String>,
    /// Device and inode of what is left out: the vault itself.
    pub(crate) skip: Vec<(u64, u64)>,
    /// How many entries may wait to be taken before directories are put off: that many, and one directory that goes beyond,
    /// and what is left of the directories between a root and the entry taken last, which had to be sorted as a whole.
    pub(crate) look_ahead: usize,
}

/// Starts to scan `roots`, which come from [`name_sources`](super::names::name_sources) in the order of their names.
///
/// # Errors
/// [`Error::Usage`] for a bad pattern; [`Error::Io`] if the threads cannot be started.
pub(crate) fn scan(roots: Vec<SourceRoot>, options: ScanOptions) -> Result<Scan> {
    let pool = if options.workers > 1 { Some(Pool::start(options.workers)?) } else { None };
    let shared = Shared {
        excludes: Excludes::new(&options.exclude)?,
        skip: options.skip,
        // On the taking thread a directory is listed only when its turn has come, so nothing is ever too early.
        look_ahead: if pool.is_some() { options.look_ahead } else { usize::MAX },
        queued: AtomicUsize::new(0),
        #[cfg(test)]
        peak: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        panic: Mutex::new(None),
    };
    Ok(Scan {
        roots: roots.into_iter(),
        taken: None,
        ready: VecDeque::new(),
        walks: Vec::new(),
        pool,
        shared: Arc::new(shared),
    })
}

/// The entries of some sources, in strictly ascending order of their names; what failed stands where it was come upon.
///
/// Dropped before its end it stops the threads and waits for them: at most one system call each.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The roots not yet begun.
    roots: std::vec::IntoIter<SourceRoot>,
    /// The last root that gave an entry.
    taken: Option<EntryPath>,
    /// What is to be given next.
    ready: VecDeque<Scanned>,
    /// The walk under way, above those that it interrupts: a directory that was put off has a walk of its own.
    walks: Vec<Walk>,
    /// The threads; none means that the caller's thread does it all.
    pool: Option<Pool>,
    /// What the callbacks need.
    shared: Arc<Shared>,
}

impl Iterator for Scan {
    type Item = Scanned;

    fn next(&mut self) -> Option<Scanned> {
        loop {
            if let Some(scanned) = self.ready.pop_front() {
                return Some(scanned);
            }
            if self.walks.is_empty() {
                let root = self.roots.next()?;
                self.begin(root);
            } else {
                self.advance();
            }
        }
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // A walk whose receiving end is gone ends by itself; only then do the pool's threads, which `Pool` joins.
        self.walks.clear();
        self.pool = None;
    }
}

impl Scan {
    /// Looks at a root and, if it is a directory, starts to walk it.
    fn begin(&mut self, root: SourceRoot) {
        let SourceRoot { path, name, .. } = root;
        let found = self.shared.look(&name, path.clone());
        let found = match &found.first {
            Some(Scanned::Entry(_)) if self.shared.excludes.matches(&name, found.later.is_some()) => {
                Found::note(path, name, "this source is left out by an exclude pattern")
            }
            // `name_sources` leaves no two roots in one place, but of what was not there it could not tell.
            Some(Scanned::Entry(_))
                if self.taken.as_ref().is_some_and(|taken| name == *taken || name.is_below(taken)) =>
            {
                let what = "it appeared under the name of another source after the sources had been compared";
                Found::failed(path.clone(), Some(name), Error::Refused { what, path })
            }
            Some(Scanned::Entry(_)) => {
                self.taken = Some(name);
                found
            }
            _ => found,
        };
        self.follow(found);
    }

    /// Takes the next thing from the walk under way.
    fn advance(&mut self) {
        let Some(walk) = self.walks.last_mut() else { return };
        let next = walk.entries.next();
        self.shared.propagate_panic();
        match next {
            None => {
                self.walks.pop();
            }
            Some(Ok(mut entry)) => {
                if entry.depth > 0 {
                    self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                }
                let failure = walk.entered(&entry);
                self.follow(std::mem::take(&mut entry.client_state));
                self.ready.extend(failure);
            }
            Some(Err(error)) => {
                if error.depth() > 0 {
                    self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                }
                self.ready.push_back(walk.failed(error));
            }
        }
    }

    /// Makes what was found ready to be given, and starts the walk that it asks for.
    fn follow(&mut self, found: Found) {
        self.ready.extend(found.first);
        self.ready.extend(found.second.map(|scanned| *scanned));
        if let Some(dir) = found.later {
            // In a directory without directories there is nothing to do side by side, and a walk on the taking thread saves
            // waking the others. For a root that is not worth relying on link counts, which some file systems make up.
            let is_alone = dir.is_leaf && !self.walks.is_empty();
            let pool = self.pool.as_ref().filter(|_| !is_alone);
            self.walks.push(Walk::start(dir, pool, &self.shared));
        }
    }
}

/// What jwalk carries for us: with each directory to list, and with each entry.
type Carried = (Listing, Found);
/// An entry of jwalk's, with what was found out about it.
type WalkEntry = jwalk::DirEntry<Carried>;

/// A directory that is to be listed.
#[derive(Debug)]
struct Dir {
    /// What it is called in the vault.
    name: EntryPath,
    /// Where it is.
    path: PathBuf,
    /// It has no directories in it, by its link count: a hint.
    is_leaf: bool,
}

/// How a directory is to be listed.
#[derive(Debug, Clone, Default)]
struct Listing {
    /// The directory; `None` only in values that jwalk makes itself and that no callback sees.
    dir: Option<Arc<Dir>>,
    /// Its turn has come, so its listing is kept however much is queued already.
    is_due: bool,
}

/// What came of looking at one entry.
#[derive(Debug, Default)]
struct Found {
    /// What is to be told of it.
    first: Option<Scanned>,
    /// What is to be told besides: an entry that is stored, though not all of it could be read.
    second: Option<Box<Scanned>>,
    /// A directory to walk when all this has been told.
    later: Option<Arc<Dir>>,
}

impl Found {
    /// It cannot be stored.
    fn failed(path: PathBuf, name: Option<EntryPath>, error: Error) -> Self {
        Self { first: Some(Scanned::Failed { path, name, subtree: true, error }), ..Self::default() }
    }

    /// It is not to be stored.
    fn note(path: PathBuf, name: EntryPath, message: &str) -> Self {
        Self { first: Some(Scanned::Note { path, name, message: message.to_owned() }), ..Self::default() }
    }
}

/// One walk of jwalk's over a directory and what is below it.
struct Walk {
    /// jwalk's own iterator. Its first item is the directory itself, of which all has been told before.
    entries: jwalk::DirEntryIter<Carried>,
    /// The directories from the walk's own down to the one listed last, for errors that come without a path.
    dirs: Vec<(PathBuf, EntryPath)>,
}

impl std::fmt::Debug for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk").field("dirs", &self.dirs).finish_non_exhaustive()
    }
}

impl Walk {
    /// Starts to list `dir`, whose turn has come.
    fn start(dir: Arc<Dir>, pool: Option<&Pool>, shared: &Arc<Shared>) -> Self {
        let entries = match pool.map(|pool| walker(&dir, pool.parallelism(), shared).try_into_iter()) {
            Some(Ok(entries)) => entries,
            // "Busy", or no pool: what the threads do not do, this one does.
            Some(Err(_)) | None => walker(&dir, Parallelism::Serial, shared).into_iter(),
        };
        Self { entries, dirs: vec![(dir.path.clone(), dir.name.clone())] }
    }

    /// Keeps track of where the walk is: what comes next is in directory `entry`, unless it could not be listed.
    fn entered(&mut self, entry: &WalkEntry) -> Option<Scanned> {
        let cause = match &entry.read_children {
            Some(children) => {
                if entry.depth > 0 {
                    self.dirs.truncate(entry.depth);
                    let name = self.dirs[self.dirs.len() - 1].1.join(entry.file_name.as_bytes());
                    // It was entered, so it had a name when it was looked at.
                    self.dirs.push((entry.path(), name.ok()?));
                }
                cause(children.error()?)
            }
            // The walk's own directory has become something else since it was looked at.
            None if entry.depth == 0 => io::ErrorKind::NotADirectory.into(),
            None => return None,
        };
        let (path, name) = self.dirs[self.dirs.len() - 1].clone();
        let error = Error::io(FileOp::ListDirectory, &path, cause);
        Some(Scanned::Failed { path, name: Some(name), subtree: true, error })
    }

    /// An error that came in place of an entry.
    fn failed(&self, error: jwalk::Error) -> Scanned {
        // A listing that breaks off has a depth and no path: it is the directory one above.
        let dir = &self.dirs[error.depth().saturating_sub(1).min(self.dirs.len() - 1)];
        let (op, path, name) = match error.path() {
            Some(path) => {
                let name = path.file_name().and_then(|name| dir.1.join(name.as_bytes()).ok());
                (FileOp::Stat, path.to_owned(), name)
            }
            None => (FileOp::ListDirectory, dir.0.clone(), Some(dir.1.clone())),
        };
        Scanned::Failed { error: Error::io(op, &path, cause(&error)), path, name, subtree: true }
    }
}

/// A walk over `dir` that looks at every entry in its callback.
fn walker(dir: &Arc<Dir>, parallelism: Parallelism, shared: &Arc<Shared>) -> WalkDirGeneric<Carried> {
    let shared = Arc::clone(shared);
    WalkDirGeneric::new(&dir.path)
        .sort(true)
        .skip_hidden(false)
        .follow_links(false)
        .parallelism(parallelism)
        .root_read_dir_state(Listing { dir: Some(Arc::clone(dir)), is_due: true })
        .process_read_dir(move |depth, _, listing: &mut Listing, children| match (depth, &listing.dir) {
            (Some(_), Some(dir)) => shared.look_at_listing(dir, listing.is_due, children),
            // The walk's own directory. jwalk would go through it if it has become a symlink meanwhile.
            _ => children.iter_mut().flatten().filter(|child| !child.file_type.is_dir()).for_each(forget_children),
        })
}

/// Keeps jwalk from listing `entry`.
fn forget_children(entry: &mut WalkEntry) {
    entry.read_children = None;
}

/// The system's error in jwalk's, which gives away only a reference.
fn cause(error: &jwalk::Error) -> io::Error {
    match error.io_error() {
        Some(io) => io.raw_os_error().map_or_else(|| io.kind().into(), io::Error::from_raw_os_error),
        None => io::Error::other(error.to_string()),
    }
}

/// What the callbacks of all walks of one scan share.
#[derive(Debug)]
struct Shared {
    /// What the user wants left out.
    excludes: Excludes,
    /// What is left out besides: device and inode.
    skip: Vec<(u64, u64)>,
    /// See [`ScanOptions::look_ahead`].
    look_ahead: usize,
    /// Entries in listings that were kept, less those that were taken: only a count, nothing is ordered by it.
    queued: AtomicUsize,
    /// The most that `queued` has been.
    #[cfg(test)]
    peak: AtomicUsize,
    /// Nobody takes entries any more.
    stop: AtomicBool,
    /// The first panic in a callback. In jwalk's threads it would end the process, or leave jwalk waiting for ever.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Shared {
    /// The callback: looks at every entry of a listing, or puts the directory off.
    fn look_at_listing(&self, dir: &Arc<Dir>, is_due: bool, children: &mut Vec<jwalk::Result<WalkEntry>>) {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            if self.stop.load(Ordering::Relaxed) {
                children.clear();
                return;
            }
            let listed = children.len();
            let before = self.queued.fetch_add(listed, Ordering::Relaxed);
            if before >= self.look_ahead && !is_due && put_off(dir, children) {
                self.queued.fetch_sub(listed - children.len(), Ordering::Relaxed);
                return;
            }
            #[cfg(test)]
            self.peak.fetch_max(before + listed, Ordering::Relaxed);
            let is_room = before.saturating_add(listed) < self.look_ahead;
            children.retain_mut(|child| child.as_mut().map_or(true, |child| self.look_at_child(dir, child, is_room)));
            self.queued.fetch_sub(listed - children.len(), Ordering::Relaxed);
        }));
        if let Err(panic) = caught {
            children.clear();
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }

    /// Looks at an entry of `dir`; the answer is whether it is to be kept. A directory is entered by the walk under way if
    /// there `is_room`, else by one of its own.
    fn look_at_child(&self, dir: &Dir, child: &mut WalkEntry, is_room: bool) -> bool {
        let children = child.read_children.take();
        if self.stop.load(Ordering::Relaxed) {
            return false;
        }
        let path = dir.path.join(&child.file_name);
        let mut found = match dir.name.join(child.file_name.as_bytes()) {
            Ok(name) if self.excludes.matches(&name, child.file_type.is_dir()) => return false,
            Ok(name) => self.look(&name, path),
            Err(_) => {
                let error = io::Error::new(io::ErrorKind::InvalidFilename, "the name is too long for a vault");
                Found::failed(path.clone(), None, Error::io(FileOp::Stat, path, error))
            }
        };
        // What has become a directory since it was listed has no `children`: that takes a walk of its own.
        if let (true, Some(mut children), true) = (is_room, children, found.later.is_some()) {
            children.client_read_state = Some(Listing { dir: found.later.take(), is_due: false });
            child.read_children = Some(children);
        }
        child.client_state = found;
        true
    }

    /// Finds out what there is to store of one entry.
    fn look(&self, name: &EntryPath, path: PathBuf) -> Found {
        let stat = match fs::lstat(&path) {
            Ok(stat) => stat,
            Err(error) => return Found::failed(path, Some(name.clone()), error),
        };
        if self.skip.contains(&(stat.dev, stat.ino)) {
            return Found::note(path, name.clone(), "the vault itself is left out");
        }
        let mut target = Vec::new();
        let mut later = None;
        match stat.kind {
            StatKind::Socket => return Found::note(path, name.clone(), "a socket is left out"),
            StatKind::Symlink => match fs::readlink(&path) {
                Ok(read) => target = read,
                Err(error) => return Found::failed(path, Some(name.clone()), error),
            },
            StatKind::Directory => {
                let is_leaf = stat.nlink == LEAF_LINKS;
                later = Some(Arc::new(Dir { name: name.clone(), path: path.clone(), is_leaf }));
            }
            _ => {}
        }
        // Without its extended attributes an entry is worth storing, but the user is told.
        let (xattrs, second) = match read_xattrs(&path) {
            Ok(xattrs) => (xattrs, None),
            Err(error) => {
                let failed = Scanned::Failed { path: path.clone(), name: Some(name.clone()), subtree: false, error };
                (Vec::new(), Some(Box::new(failed)))
            }
        };
        let entry = ScannedEntry { name: name.clone(), path, stat, target, xattrs };
        Found { first: Some(Scanned::Entry(Box::new(entry))), second, later }
    }

    /// Lets a panic of a callback go on in the thread that takes the entries.
    fn propagate_panic(&self) {
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// The link count of a directory without directories, where the file system counts `..` of its directories.
const LEAF_LINKS: u64 = 2;

/// Replaces a listing by one mark that says "list `dir` anew". Refused, and nothing changed, if there is nothing to make
/// the mark of, since entries of its own cannot be given to jwalk.
fn put_off(dir: &Arc<Dir>, children: &mut Vec<jwalk::Result<WalkEntry>>) -> bool {
    let Some(at) = children.iter().position(Result::is_ok) else {
        return false;
    };
    children.swap(0, at);
    children.truncate(1);
    for mark in children.iter_mut().flatten() {
        mark.read_children = None;
        mark.client_state = Found { later: Some(Arc::clone(dir)), ..Found::default() };
    }
    true
}

/// The extended attributes, sorted by name.
fn read_xattrs(path: &Path) -> Result<Vec<Xattr>> {
    let listed = fs::list_xattrs(path).map_err(|error| Error::io(FileOp::ReadXattr, path, error))?;
    let mut xattrs: Vec<Xattr> = listed.into_iter().map(|(name, value)| Xattr { name, value }).collect();
    xattrs.sort_unstable_by(|left, right| left.name.cmp(&right.name));
    Ok(xattrs)
}

/// The threads that list directories, for all walks of a scan: starting some for each walk would cost more than the walk.
///
/// jwalk hangs if its pool has no thread to spare. This one always has: only walks of this scan run on it, a walk waits for
/// nothing but its own listings (callbacks never wait, jwalk's queues are unbounded), and so every walk before the one that
/// is waited for ends. The thread that waits is none of the pool's. Hence no timeout, and no "busy".
struct Pool {
    /// The only owner, but while a walk is being started; rayon's threads end when it goes.
    threads: Option<Arc<ThreadPool>>,
    /// To wait for their end, which rayon does not offer.
    handles: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.handles.len()).finish()
    }
}

impl Pool {
    /// Starts the threads.
    fn start(workers: usize) -> Result<Self> {
        let mut handles = Vec::with_capacity(workers);
        let built = ThreadPoolBuilder::new()
            .num_threads(workers)
            .spawn_handler(|thread| {
                let name = format!("scan-{}", thread.index());
                handles.push(std::thread::Builder::new().name(name).spawn(|| thread.run())?);
                Ok(())
            })
            .build();
        match built {
            Ok(threads) => Ok(Self { threads: Some(Arc::new(threads)), handles }),
            // Those that did start end by themselves.
            Err(error) => Err(Error::io(FileOp::StartThread, "scan", io::Error::other(error))),
        }
    }

    /// For a walk of jwalk's.
    fn parallelism(&self) -> Parallelism {
        match &self.threads {
            Some(pool) => Parallelism::RayonExistingPool { pool: Arc::clone(pool), busy_timeout: None },
            None => Parallelism::Serial,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.threads = None;
        for handle in self.handles.drain(..) {
            // A thread's panic has been told by `Shared::propagate_panic`, or nobody is left to tell.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;
    use std::time::Duration;

    use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};
    use tempfile::TempDir;

    use super::*;
    use crate::error::ErrorKind;
    use crate::stages::pack::names::name_sources;

    const FAR: usize = 1 << 20;

    fn options(workers: usize, look_ahead: usize) -> ScanOptions {
        ScanOptions { workers, exclude: Vec::new(), skip: Vec::new(), look_ahead }
    }

    /// A scan of `sources` in `dir`.
    fn start(dir: &Path, sources: &[&str], options: ScanOptions) -> Scan {
        let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
        scan(name_sources(&sources, Some(dir)).unwrap(), options).unwrap()
    }

    /// The names of the entries, one that failed as `! path`, one left out as `# path`, both below `dir`.
    fn told(dir: &Path, scan: impl Iterator<Item = Scanned>) -> Vec<String> {
        let below = |path: PathBuf| path.strip_prefix(dir).unwrap().display().to_string();
        scan.map(|scanned| match scanned {
            Scanned::Entry(entry) => entry.name.as_bytes().escape_ascii().to_string(),
            Scanned::Failed { path, .. } => format!("! {}", below(path)),
            Scanned::Note { path, .. } => format!("# {}", below(path)),
        })
        .collect()
    }

    fn make_dir(path: impl AsRef<Path>) {
        std::fs::create_dir_all(path).unwrap();
    }

    fn make_file(path: impl AsRef<Path>) {
        std::fs::write(path, b"x").unwrap();
    }

    /// A tree of three levels, `width` directories and `width` files in each directory of the upper two.
    fn make_tree(dir: &Path, width: usize) {
        for a in 0..width {
            for b in 0..width {
                make_dir(dir.join(format!("t/d{a}/d{b}")));
                make_file(dir.join(format!("t/d{a}/d{b}/f")));
                make_file(dir.join(format!("t/d{a}/f{b}")));
            }
            make_file(dir.join(format!("t/f{a}")));
        }
    }

    /// Fails, rather than hang, if `work` does.
    fn within_a_minute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || sender.send(work()));
        receiver.recv_timeout(Duration::from_secs(60)).expect("hangs")
    }

    #[test]
    fn a_scan_travels_to_another_thread() {
        fn assert_send<T: Send>() {}
        assert_send::<Scan>();
    }

    #[test]
    fn entries_come_in_the_order_of_the_index_whatever_their_names() {
        let dir = TempDir::new().unwrap();
        let names = [&b"a"[..], b"a.b", b"a-", b"a\x01", b"a b", b"A", b".hidden", b"\xFF\xFE", b"\xC3\xA4", b"z"];
        for name in names {
            let below = dir.path().join("s").join(OsStr::from_bytes(name));
            make_dir(&below);
            for name in names {
                make_file(below.join(OsStr::from_bytes(name)));
            }
        }
        for workers in [1, 2, 4] {
            let found: Vec<EntryPath> = start(dir.path(), &["s"], options(workers, FAR))
                .map(|scanned| match scanned {
                    Scanned::Entry(entry) => entry.name,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(found.len(), 1 + names.len() + names.len() * names.len());
            assert!(found.is_sorted_by(|left, right| left < right), "{found:?}");
        }
    }

    #[test]
    fn what_is_told_does_not_depend_on_workers_or_look_ahead() {
        let dir = TempDir::new().unwrap();
        make_tree(dir.path(), 9);
        let expected = format!("{:?}", start(dir.path(), &["t"], options(1, FAR)).collect::<Vec<_>>());
        for workers in [1, 2, 5] {
            for look_ahead in [0, 1, 7, 20, 100, FAR] {
                let path = dir.path().to_owned();
                let (found, queued) = within_a_minute(move || {
                    let mut scan = start(&path, &["t"], options(workers, look_ahead));
                    let found: Vec<Scanned> = scan.by_ref().collect();
                    (format!("{found:?}"), scan.shared.queued.load(Ordering::Relaxed))
                });
                assert!(found == expected, "{workers} workers, look-ahead {look_ahead}");
                assert_eq!(queued, 0, "{workers} workers, look-ahead {look_ahead}");
            }
        }
    }

    #[test]
    fn what_is_queued_ahead_is_bounded_while_nobody_takes_entries() {
        const WIDTH: usize = 40;
        let dir = TempDir::new().unwrap();
        for d in 0..WIDTH {
            make_dir(dir.path().join(format!("t/d{d}")));
            for f in 0..WIDTH {
                make_file(dir.path().join(format!("t/d{d}/f{f}")));
            }
        }
        for (look_ahead, most) in [
            // The root's listing is within the bound, so all directories are entered; one goes beyond it, and one that was put
            // off may be due while those after it are queued.
            (100, 100 + WIDTH + WIDTH),
            // The root's listing goes beyond it, so directories are put off until their turn has come.
            (10, WIDTH + WIDTH),
        ] {
            let mut scan = start(dir.path(), &["t"], options(2, look_ahead));
            assert!(scan.next().is_some());
            assert!(scan.next().is_some());
            // Time enough to run away; a bound that holds does so however long this is.
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(scan.by_ref().count(), WIDTH + WIDTH * WIDTH - 1);
            let peak = scan.shared.peak.load(Ordering::Relaxed);
            assert!(peak <= most, "look-ahead {look_ahead}: {peak}");
        }
    }

    #[test]
    fn dropping_a_scan_early_ends_it() {
        let dir = TempDir::new().unwrap();
        make_tree(dir.path(), 12);
        for workers in [1, 2, 4] {
            for look_ahead in [0, 30, FAR] {
                for taken in [0, 1, 2, 100] {
                    let path = dir.path().to_owned();
                    within_a_minute(move || {
                        let mut scan = start(&path, &["t"], options(workers, look_ahead));
                        assert_eq!(scan.by_ref().take(taken).count(), taken);
                    });
                }
            }
        }
    }

    #[test]
    fn a_scan_that_is_stopped_looks_at_nothing_more() {
        let dir = TempDir::new().unwrap();
        make_tree(dir.path(), 3);
        for workers in [1, 2] {
            let mut scan = start(dir.path(), &["t"], options(workers, FAR));
            scan.shared.stop.store(true, Ordering::Relaxed);
            assert_eq!(told(dir.path(), scan.by_ref()), ["t"]);
        }
    }

    #[test]
    fn the_threads_asked_for_are_there_and_end_with_the_scan() {
        let pool = Pool::start(3).unwrap();
        let barrier = Arc::new(std::sync::Barrier::new(4));
        for _ in 0..3 {
            let barrier = Arc::clone(&barrier);
            pool.threads.as_ref().unwrap().spawn(move || {
                barrier.wait();
            });
        }
        // Passes only if three threads wait at once.
        within_a_minute(move || {
            barrier.wait();
            drop(pool);
        });
    }

    #[test]
    fn a_root_is_stored_with_its_attributes_and_contents() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("e"));
        make_file(dir.path().join("f"));
        assert_eq!(told(dir.path(), start(dir.path(), &["."], options(2, FAR))), ["", "e", "f"]);
        assert_eq!(told(dir.path(), start(dir.path(), &["f", "e"], options(2, FAR))), ["e", "f"]);
        let entry = start(dir.path(), &["f"], options(1, FAR)).next();
        let Some(Scanned::Entry(entry)) = entry else { panic!("{entry:?}") };
        assert_eq!((entry.stat.kind, entry.stat.size), (StatKind::File, 1));
        assert_eq!(entry.path, dir.path().join("f"));
    }

    #[test]
    fn a_symlink_named_as_a_source_is_stored_as_a_link_unless_a_slash_follows() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("d"));
        make_file(dir.path().join("d/f"));
        symlink("d", dir.path().join("link")).unwrap();
        symlink("nowhere", dir.path().join("dangling")).unwrap();
        for workers in [1, 2] {
            let found: Vec<Scanned> = start(dir.path(), &["link", "dangling"], options(workers, FAR)).collect();
            let targets: Vec<&[u8]> = found
                .iter()
                .map(|scanned| match scanned {
                    Scanned::Entry(entry) if entry.stat.kind == StatKind::Symlink => &entry.target[..],
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(targets, [&b"nowhere"[..], b"d"]);
            assert_eq!(told(dir.path(), start(dir.path(), &["link/"], options(workers, FAR))), ["link", "link/f"]);
        }
    }

    #[test]
    fn links_below_a_root_are_not_followed() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("d"));
        symlink(".", dir.path().join("d/loop")).unwrap();
        assert_eq!(told(dir.path(), start(dir.path(), &["d"], options(2, FAR))), ["d", "d/loop"]);
    }

    #[test]
    fn special_files_are_entries_and_sockets_are_noted() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("s"));
        mknodat(CWD, dir.path().join("s/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        // Only root may make a device node.
        let null = rustix::fs::makedev(1, 3);
        let is_root = mknodat(CWD, dir.path().join("s/null"), FileType::CharacterDevice, Mode::RUSR, null).is_ok();
        let _listener = UnixListener::bind(dir.path().join("s/socket")).unwrap();
        for workers in [1, 2] {
            let mut expected = vec!["s", "s/fifo", "s/null", "# s/socket"];
            expected.retain(|name| is_root || *name != "s/null");
            assert_eq!(told(dir.path(), start(dir.path(), &["s"], options(workers, FAR))), expected);
            assert_eq!(told(dir.path(), start(dir.path(), &["s/fifo"], options(workers, FAR))), ["s/fifo"]);
            assert_eq!(told(dir.path(), start(dir.path(), &["s/socket"], options(workers, FAR))), ["# s/socket"]);
        }
    }

    #[test]
    fn the_vault_itself_is_left_out_wherever_it_is_met() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("s"));
        make_file(dir.path().join("s/vault"));
        make_file(dir.path().join("s/w"));
        std::fs::hard_link(dir.path().join("s/vault"), dir.path().join("s/x")).unwrap();
        let vault = fs::lstat(&dir.path().join("s/vault")).unwrap();
        let options = ScanOptions { skip: vec![(vault.dev, vault.ino)], ..options(2, FAR) };
        assert_eq!(told(dir.path(), start(dir.path(), &["s"], options.clone())), ["s", "# s/vault", "s/w", "# s/x"]);
        assert_eq!(told(dir.path(), start(dir.path(), &["s/vault"], options)), ["# s/vault"]);
    }

    #[test]
    fn extended_attributes_come_sorted() {
        let dir = TempDir::new().unwrap();
        make_file(dir.path().join("f"));
        let path = dir.path().join("f");
        if fs::set_xattr_path(&path, b"user.b", b"2").is_err() {
            // This file system has none.
            return;
        }
        fs::set_xattr_path(&path, b"user.a", b"1").unwrap();
        let entry = start(dir.path(), &["f"], options(1, FAR)).next();
        let Some(Scanned::Entry(entry)) = entry else { panic!("{entry:?}") };
        let ours: Vec<_> = entry.xattrs.iter().filter(|xattr| xattr.name.starts_with(b"user.")).cloned().collect();
        let xattr = |name: &[u8], value: &[u8]| Xattr { name: name.to_vec(), value: value.to_vec() };
        assert_eq!(ours, [xattr(b"user.a", b"1"), xattr(b"user.b", b"2")]);
    }

    #[test]
    fn excluded_directories_are_not_entered() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("s/target/keep"));
        make_dir(dir.path().join("s/src"));
        make_file(dir.path().join("s/src/a.o"));
        make_file(dir.path().join("s/src/keep.o"));
        make_file(dir.path().join("s/src/target"));
        // A look into the directory would tell of this.
        let _listener = UnixListener::bind(dir.path().join("s/target/socket")).unwrap();
        for (workers, look_ahead) in [(1, FAR), (2, FAR), (2, 0)] {
            let exclude = ["target/", "!keep", "*.o", "!keep.o"].map(str::to_owned).to_vec();
            let mut scan = start(dir.path(), &["s"], ScanOptions { exclude, ..options(workers, look_ahead) });
            assert_eq!(told(dir.path(), scan.by_ref()), ["s", "s/src", "s/src/keep.o", "s/src/target"]);
            assert_eq!(scan.shared.queued.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn a_source_is_excluded_only_by_its_own_name_and_that_is_said() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("a/b"));
        make_file(dir.path().join("a/b/c"));
        let scan = |pattern: &str| {
            let options = ScanOptions { exclude: vec![pattern.to_owned()], ..options(1, FAR) };
            told(dir.path(), start(dir.path(), &["a/b"], options))
        };
        assert_eq!(scan("a"), ["a/b", "a/b/c"]);
        assert_eq!(scan("b/"), ["# a/b"]);
        assert_eq!(scan("c"), ["a/b"]);
    }

    #[test]
    fn a_bad_pattern_is_wrong_usage() {
        let options = ScanOptions { exclude: vec!["{".to_owned()], ..options(1, FAR) };
        assert_eq!(scan(Vec::new(), options).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn what_is_not_there_fails_and_the_rest_is_told() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("b"));
        make_file(dir.path().join("c"));
        let found: Vec<Scanned> = start(dir.path(), &["a", "b", "b/gone", "c/"], options(2, FAR)).collect();
        let Scanned::Failed { error: Error::Io { op: FileOp::Stat, source, .. }, .. } = &found[0] else {
            panic!("{found:?}")
        };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
        assert_eq!(told(dir.path(), found.into_iter()), ["! a", "b", "! b/gone", "! c"]);
    }

    #[test]
    fn what_appears_below_another_source_after_the_naming_is_not_told_twice() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("b"));
        let roots = name_sources(&["b".into(), "b/late".into()], Some(dir.path())).unwrap();
        make_file(dir.path().join("b/late"));
        let scan = scan(roots, options(1, FAR)).unwrap();
        assert_eq!(told(dir.path(), scan), ["b", "b/late", "! b/late"]);
    }

    #[test]
    fn a_directory_that_cannot_be_listed_is_an_entry_followed_by_its_failure() {
        let dir = TempDir::new().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["s/a", "s/b", "s/c"] {
            make_dir(dir.path().join(name));
            make_file(dir.path().join(name).join("f"));
        }
        std::fs::set_permissions(dir.path().join("s/b"), std::fs::Permissions::from_mode(0o000)).unwrap();
        let path = dir.path().to_owned();
        let found = within_a_minute(move || {
            // Root may list anything, so this thread, and those it starts, become somebody else.
            let nobody = rustix::process::Uid::from_raw(65534);
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            [(1, FAR), (2, FAR), (2, 0)]
                .map(|(workers, look_ahead)| start(&path, &["s"], options(workers, look_ahead)).collect::<Vec<_>>())
        });
        std::fs::set_permissions(dir.path().join("s/b"), std::fs::Permissions::from_mode(0o700)).unwrap();
        for found in found {
            let Scanned::Failed { error: Error::Io { op: FileOp::ListDirectory, source, .. }, .. } = &found[4] else {
                panic!("{found:?}")
            };
            assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(told(dir.path(), found.into_iter()), ["s", "s/a", "s/a/f", "s/b", "! s/b", "s/c", "s/c/f"]);
        }
    }

    #[test]
    fn a_directory_that_became_a_link_or_went_away_is_not_walked() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("d"));
        make_file(dir.path().join("d/f"));
        symlink("d", dir.path().join("link")).unwrap();
        for workers in [1, 2] {
            for (path, kind) in [("link", io::ErrorKind::NotADirectory), ("gone", io::ErrorKind::NotFound)] {
                let mut scan = scan(Vec::new(), options(workers, FAR)).unwrap();
                let name = EntryPath::parse(b"d").unwrap();
                let later = Arc::new(Dir { name, path: dir.path().join(path), is_leaf: false });
                scan.follow(Found { later: Some(later), ..Found::default() });
                let found: Vec<Scanned> = scan.collect();
                let [Scanned::Failed { path: failed, subtree: true, error: Error::Io { source, .. }, .. }] = &found[..]
                else {
                    panic!("{found:?}")
                };
                assert_eq!((failed, source.kind()), (&dir.path().join(path), kind));
            }
        }
    }

    #[test]
    fn paths_longer_than_the_system_takes_fail_one_by_one() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("s"));
        let component = "x".repeat(250);
        let mut here = openat(CWD, dir.path().join("s"), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        for _ in 0..20 {
            mkdirat(&here, component.as_str(), Mode::RWXU).unwrap();
            here = openat(&here, component.as_str(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        }
        make_file(dir.path().join("s/y"));
        for workers in [1, 2] {
            let found: Vec<Scanned> = start(dir.path(), &["s"], options(workers, FAR)).collect();
            let failed: Vec<&Error> = found
                .iter()
                .filter_map(|scanned| match scanned {
                    Scanned::Failed { error, .. } => Some(error),
                    _ => None,
                })
                .collect();
            let [Error::Io { source, .. }] = &failed[..] else { panic!("{failed:?}") };
            assert_eq!(source.raw_os_error(), Some(rustix::io::Errno::NAMETOOLONG.raw_os_error()));
            assert!(matches!(found.last(), Some(Scanned::Entry(entry)) if entry.name.as_bytes() == b"s/y"));
        }
        // `TempDir` goes by path, too.
        drop(here);
        remove_long(&dir.path().join("s"), &component, 20);
    }

    /// Removes `depth` directories named `component`, each in the one before, going by descriptors.
    fn remove_long(top: &Path, component: &str, depth: usize) {
        let mut chain = vec![openat(CWD, top, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()];
        for _ in 1..depth {
            let last = chain.last().unwrap();
            chain.push(openat(last, component, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap());
        }
        for parent in chain.iter().rev() {
            rustix::fs::unlinkat(parent, component, AtFlags::REMOVEDIR).unwrap();
        }
    }

    #[test]
    fn a_name_too_long_for_a_vault_fails() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("d/e"));
        make_file(dir.path().join("d/f"));
        // As near to the longest path as components allow, so that no child has a name.
        let name = vec![vec![b'x'; 255]; 256].join(&b'/');
        let name = EntryPath::parse(&name).unwrap();
        let root = SourceRoot { given: "d".into(), path: dir.path().join("d"), name };
        let found: Vec<Scanned> = scan(vec![root], options(2, FAR)).unwrap().collect();
        assert_eq!(told(dir.path(), found.into_iter())[1..], ["! d/e", "! d/f"]);
    }

    #[test]
    fn a_directory_of_fifty_thousand_files_is_told_in_full() {
        const FILES: usize = 50_000;
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("s"));
        let name = |number: usize| format!("s/{number:05}");
        // Names of one file: quicker to make than so many files.
        make_file(dir.path().join(name(0)));
        for number in 1..FILES {
            std::fs::hard_link(dir.path().join(name(0)), dir.path().join(name(number))).unwrap();
        }
        let mut expected = vec!["s".to_owned()];
        expected.extend((0..FILES).map(name));
        for (workers, look_ahead) in [(1, FAR), (2, FAR), (2, 10)] {
            assert!(told(dir.path(), start(dir.path(), &["s"], options(workers, look_ahead))) == expected);
        }
    }

    #[test]
    fn a_panic_in_a_callback_goes_on_in_the_thread_that_takes_entries() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("s"));
        let mut scan = start(dir.path(), &["s"], options(2, FAR));
        *scan.shared.panic.lock().unwrap() = Some(Box::new("a defect"));
        let panic = catch_unwind(AssertUnwindSafe(|| scan.by_ref().count())).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"a defect"));
    }

    #[test]
    fn what_a_listing_showed_as_a_file_and_is_a_directory_now_is_walked() {
        let dir = TempDir::new().unwrap();
        make_dir(dir.path().join("s/d"));
        make_file(dir.path().join("s/d/f"));
        let scan = start(dir.path(), &["s"], options(1, FAR));
        let mut listed: Vec<_> =
            WalkDirGeneric::<Carried>::new(dir.path().join("s")).min_depth(1).max_depth(1).into_iter().collect();
        let child = listed[0].as_mut().unwrap();
        forget_children(child);
        let parent = Dir { name: EntryPath::parse(b"s").unwrap(), path: dir.path().join("s"), is_leaf: false };
        assert!(scan.shared.look_at_child(&parent, child, true));
        assert!(child.read_children.is_none() && child.client_state.later.is_some());
    }
}
