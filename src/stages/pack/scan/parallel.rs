//! How are directories listed side by side, ahead of who takes the entries? With jwalk, which stays behind this file.
//!
//! What it is used for: it lists directories in a pool of threads and gives them in depth-first order, each sorted by the
//! bytes of its names, which is the order of the index. What it leaves to do:
//!
//! - The work on an entry is done in jwalk's callback, hence in its threads, and travels as the entry's client state.
//! - jwalk goes by path: what it listed may be another directory than the one meant. The callback opens that one by its
//!   descriptor and looks at every name there. If one is missing, all that was listed is let go of, and the directory is
//!   listed by descriptor when its turn has come. A listing from elsewhere all of whose names are there as well passes;
//!   what is missing then was not under that path when it was listed.
//! - jwalk lists as far ahead as it can. Here the entries that were looked at and not yet taken are counted. A callback
//!   that finds too many lets go of its listing and looks at nothing; directories found while there are too many are not
//!   entered. Either is walked anew when its turn has come. So a callback never waits, and what is queued ahead is bounded
//!   (see [`ScanOptions::look_ahead`](super::ScanOptions)).
//! - Its own errors are not believed: what it could not list is listed by descriptor, which says what is true.

use std::any::Any;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use jwalk::rayon::{ThreadPool, ThreadPoolBuilder};
use jwalk::{Parallelism, WalkDirGeneric};

use crate::error::{Error, FileOp, Result};
use crate::primitives::beneath::PASS;
use crate::stages::pack::scan::look::{CACHE_TAG, Dir, Found, Look, Looker, Way};
use crate::stages::pack::scan::meter::{self, ScanMeter};

/// A directory of more names is let go of and listed by its names alone.
const MOST_NAMES: usize = 32_768;

/// What jwalk carries for us: with each directory to list, and with each entry.
type Carried = (Order, Found);
/// An entry of jwalk's, with what was found out about it.
type WalkEntry = jwalk::DirEntry<Carried>;

/// Which directory is to be listed.
#[derive(Debug, Clone, Default)]
struct Order {
    /// The directory; `None` only in values that jwalk makes itself and that no callback sees.
    dir: Option<Arc<Dir>>,
    /// Its turn has come, so its listing is kept however much is queued already.
    is_due: bool,
}

/// One walk of jwalk's over a directory and what is below it.
pub(super) struct Parallel {
    /// jwalk's own iterator. Its first item is the directory itself, of which all has been told before.
    entries: jwalk::DirEntryIter<Carried>,
    /// The directories from the walk's own down to the one listed last.
    dirs: Vec<Arc<Dir>>,
}

impl std::fmt::Debug for Parallel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parallel").field("dirs", &self.dirs).finish_non_exhaustive()
    }
}

impl Parallel {
    /// Starts to list `dir`, whose turn has come, and all below it; `None` if the pool does not take it.
    pub(super) fn start(dir: &Arc<Dir>, pool: &Pool, ahead: &Arc<Ahead>) -> Option<Self> {
        let parallelism = pool.parallelism()?;
        let ahead = Arc::clone(ahead);
        let walker = WalkDirGeneric::new(&*dir.place)
            .sort(true)
            .skip_hidden(false)
            .follow_links(false)
            .parallelism(parallelism)
            .root_read_dir_state(Order { dir: Some(Arc::clone(dir)), is_due: true })
            .process_read_dir(move |depth, _, order: &mut Order, children| match (depth, &order.dir) {
                (Some(_), Some(dir)) => ahead.callback(dir, order.is_due, children),
                // The walk's own directory. jwalk would go through it if it has become a symlink meanwhile.
                _ => children.iter_mut().flatten().filter(|child| !child.file_type.is_dir()).for_each(forget_children),
            });
        Some(Self { entries: walker.try_into_iter().ok()?, dirs: vec![Arc::clone(dir)] })
    }

    /// What there is next. Lets a panic of a callback go on here.
    pub(super) fn next(&mut self, ahead: &Ahead) -> Option<Found> {
        let next = self.entries.next();
        ahead.propagate_panic();
        Some(match next? {
            Ok(mut entry) => {
                if entry.depth > 0 {
                    ahead.queued.fetch_sub(1, Ordering::Relaxed);
                }
                let mut found = std::mem::take(&mut entry.client_state);
                if let Some(anew) = self.entered(&mut entry) {
                    found.later = Some(anew);
                }
                found
            }
            // Only the walk's own directory is left to fail: callbacks keep no errors.
            Err(_) => Found { later: Some((Arc::clone(&self.dirs[0]), Way::ByDescriptor)), ..Found::default() },
        })
    }

    /// Keeps track of where the walk is: what comes next is in directory `entry`. Answers how it is to be walked anew, if
    /// nothing comes because it could not be listed or was put off.
    fn entered(&mut self, entry: &mut WalkEntry) -> Option<(Arc<Dir>, Way)> {
        let own = Arc::clone(&self.dirs[0]);
        let Some(children) = &mut entry.read_children else {
            // The walk's own directory has become something else since it was looked at.
            return (entry.depth == 0).then_some((own, Way::ByDescriptor));
        };
        let dir = match entry.depth {
            0 => own,
            depth => {
                let dir = children.client_read_state.take()?.dir?;
                self.dirs.truncate(depth);
                self.dirs.push(Arc::clone(&dir));
                dir
            }
        };
        let way = if children.error().is_some() { Some(Way::ByDescriptor) } else { dir.take_put_off() };
        way.map(|way| (dir, way))
    }
}

/// Keeps jwalk from listing `entry`.
fn forget_children(entry: &mut WalkEntry) {
    entry.read_children = None;
}

/// What the callbacks of all walks of one scan share.
#[derive(Debug)]
pub(super) struct Ahead {
    looker: Arc<Looker>,
    /// See [`ScanOptions::look_ahead`](super::ScanOptions).
    look_ahead: usize,
    /// Entries in listings that were kept, less those that were taken: only a count, nothing is ordered by it.
    pub(super) queued: AtomicUsize,
    /// The most that `queued` has been.
    #[cfg(test)]
    pub(super) peak: AtomicUsize,
    /// The first panic in a callback. In jwalk's threads it would end the process, or leave jwalk waiting for ever.
    pub(super) panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Ahead {
    pub(super) fn new(looker: Arc<Looker>, look_ahead: usize) -> Self {
        Self {
            looker,
            look_ahead,
            queued: AtomicUsize::new(0),
            #[cfg(test)]
            peak: AtomicUsize::new(0),
            panic: Mutex::new(None),
        }
    }

    /// Looks at every entry of a listing, or puts the directory off.
    fn callback(&self, dir: &Dir, is_due: bool, children: &mut Vec<jwalk::Result<WalkEntry>>) {
        let began = Instant::now();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let listed = children.len();
            let before = self.queued.fetch_add(listed, Ordering::Relaxed);
            if let Some(way) = self.look_at_listing(dir, is_due, before, children) {
                dir.put_off(way);
                children.clear();
            }
            self.queued.fetch_sub(listed - children.len(), Ordering::Relaxed);
        }));
        meter::listed(began);
        if let Err(panic) = caught {
            children.clear();
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }

    /// Looks at every entry of a listing, while `before` others are queued. The answer says how to walk the directory anew,
    /// if this is not to be kept.
    fn look_at_listing(
        &self,
        dir: &Dir,
        is_due: bool,
        before: usize,
        children: &mut Vec<jwalk::Result<WalkEntry>>,
    ) -> Option<Way> {
        if self.looker.stop.load(Ordering::Relaxed) {
            children.clear();
            return None;
        }
        if before >= self.look_ahead && !is_due {
            return Some(Way::Any);
        }
        if children.len() > MOST_NAMES || children.iter().any(Result::is_err) {
            return Some(Way::ByDescriptor);
        }
        #[cfg(test)]
        self.peak.fetch_max(before + children.len(), Ordering::Relaxed);
        let Ok(at) = dir.place.open(PASS) else { return Some(Way::ByDescriptor) };
        let is_tag = |child: &WalkEntry| child.file_name.as_bytes() == CACHE_TAG;
        if children.iter().flatten().any(is_tag) && self.looker.is_unwanted_cache(dir, at.as_fd()) {
            children.retain(|child| child.as_ref().is_ok_and(is_tag));
        }
        let is_room = before.saturating_add(children.len()) < self.look_ahead;
        let mut is_doubtful = false;
        children.retain_mut(|child| {
            let Ok(child) = child else { return false };
            if is_doubtful || self.looker.stop.load(Ordering::Relaxed) {
                return false;
            }
            let is_dir = child.file_type.is_dir();
            match self.looker.child(dir, at.as_fd(), child.file_name.as_bytes(), is_dir) {
                Look::Found(found) => {
                    carry(child, found, is_room);
                    true
                }
                Look::LeftOut => false,
                Look::Missing(_) => {
                    is_doubtful = true;
                    false
                }
            }
        });
        is_doubtful.then_some(Way::ByDescriptor)
    }

    /// Lets a panic of a callback go on in the thread that takes the entries.
    fn propagate_panic(&self) {
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Gives `child` what was found of it. A directory is entered by the walk under way if there `is_room`, else by one of its
/// own, as is what has become a directory since it was listed.
fn carry(child: &mut WalkEntry, mut found: Found, is_room: bool) {
    let children = child.read_children.take().filter(|_| is_room);
    let fits = found.later.as_ref().is_some_and(|(dir, _)| dir.fits_parallel());
    if let (Some(mut children), true) = (children, fits) {
        let dir = found.later.take().map(|(dir, _)| dir);
        children.client_read_state = Some(Order { dir, is_due: false });
        child.read_children = Some(children);
    }
    child.client_state = found;
}

/// The threads that list directories, for all walks of a scan: starting some for each walk would cost more than the walk.
///
/// jwalk hangs if its pool has no thread to spare. This one always has: only walks of this scan run on it, a walk waits for
/// nothing but its own listings (callbacks never wait, jwalk's queues are unbounded), and so every walk before the one that
/// is waited for ends. The thread that waits is none of the pool's. Hence no timeout, and no "busy".
pub(super) struct Pool {
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
    pub(super) fn start(workers: usize, meter: &Arc<ScanMeter>) -> Result<Self> {
        let mut handles = Vec::with_capacity(workers);
        let built = ThreadPoolBuilder::new()
            .num_threads(workers)
            .spawn_handler(|thread| {
                let name = format!("scan-{}", thread.index());
                let meter = Arc::clone(meter);
                let body = move || {
                    thread.run();
                    meter.close();
                };
                handles.push(std::thread::Builder::new().name(name).spawn(body)?);
                Ok(())
            })
            .build();
        match built {
            Ok(threads) => Ok(Self { threads: Some(Arc::new(threads)), handles }),
            // Those that did start end by themselves.
            Err(error) => Err(Error::io(FileOp::StartThread, "scan", std::io::Error::other(error))),
        }
    }

    /// For a walk of jwalk's.
    fn parallelism(&self) -> Option<Parallelism> {
        let pool = Arc::clone(self.threads.as_ref()?);
        Some(Parallelism::RayonExistingPool { pool, busy_timeout: None })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.threads = None;
        for handle in self.handles.drain(..) {
            // A thread's panic has been told by `Ahead::propagate_panic`, or nobody is left to tell.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::format::entry::EntryPath;
    use crate::primitives::fs;
    use crate::stages::pack::place::SourcePath;

    #[test]
    fn what_a_listing_showed_as_a_file_and_is_a_directory_now_has_a_walk_of_its_own() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("d")).unwrap();
        let mut listed: Vec<_> =
            WalkDirGeneric::<Carried>::new(temp.path()).min_depth(1).max_depth(1).into_iter().collect();
        let child = listed[0].as_mut().unwrap();
        let dir = |path: &Path| {
            let stat = fs::lstat(path).unwrap();
            Arc::new(Dir::new(EntryPath::parse(b"d").unwrap(), SourcePath::alone(path), &stat))
        };
        let found = || Found { later: Some((dir(&temp.path().join("d")), Way::Any)), ..Found::default() };
        carry(child, found(), true);
        assert!(child.read_children.is_some() && child.client_state.later.is_none(), "as it was listed");
        forget_children(child);
        carry(child, found(), true);
        assert!(child.read_children.is_none() && child.client_state.later.is_some());
    }

    #[test]
    fn the_threads_asked_for_are_there_and_end_with_the_scan() {
        let pool = Pool::start(3, &Arc::default()).unwrap();
        let barrier = Arc::new(std::sync::Barrier::new(4));
        for _ in 0..3 {
            let barrier = Arc::clone(&barrier);
            pool.threads.as_ref().unwrap().spawn(move || {
                barrier.wait();
            });
        }
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            barrier.wait();
            drop(pool);
            sender.send(())
        });
        // Passes only if three threads wait at once.
        ended.recv_timeout(std::time::Duration::from_secs(60)).expect("hangs");
    }
}
