//! Which entries are there, in the order of the index?
//!
//! A [`Scan`] is a stack of walks: the one on top gives the next entry, and a directory that it does not go through itself
//! is walked by one of its own, above it, when its turn has come. There are two ways to walk:
//!
//! - [`parallel`]: jwalk lists in several threads, ahead of who takes the entries, and goes by path;
//! - [`listing`]: one directory is listed through its descriptor, on the thread that takes the entries. So is everything
//!   if there is one worker, and whatever the other way cannot take or got wrong.
//!
//! Both have every entry looked at by [`look`], in its directory's descriptor. Hence a path that leads elsewhere by now
//! may give names that are not there, and nothing else (docs/adr/0007).

mod listing;
mod look;
pub(crate) mod meter;
mod parallel;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::format::entry::EntryPath;
use crate::primitives::fs;
use crate::stages::Scanned;
use crate::stages::pack::exclude::Excludes;
use crate::stages::pack::names::SourceRoot;
use crate::stages::pack::place::Roots;
use crate::stages::pack::scan::listing::Listing;
use crate::stages::pack::scan::look::{Dir, Found, Looker, Way};
use crate::stages::pack::scan::meter::ScanMeter;
use crate::stages::pack::scan::parallel::{Ahead, Parallel, Pool};

/// What a scan is to do, besides its roots.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScanOptions {
    /// Threads that list directories; one or none means the thread that takes the entries.
    pub(crate) workers: usize,
    /// Patterns of what is left out, see [`Excludes`].
    pub(crate) exclude: Vec<String>,
    /// Of a directory with a cache's tag, only that tag is told of; see [`look::CACHE_TAG`].
    pub(crate) exclude_caches: bool,
    /// What is on another device than its source is left out, but for directories, which are told of and not entered.
    pub(crate) one_file_system: bool,
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
    let looker = Arc::new(Looker {
        excludes: Excludes::new(&options.exclude)?,
        exclude_caches: options.exclude_caches,
        one_file_system: options.one_file_system,
        named: roots.iter().flat_map(|root| root.within.iter().cloned()).collect(),
        skip: options.skip,
        stop: AtomicBool::new(false),
    });
    let meter = Arc::<ScanMeter>::default();
    let pool = if options.workers > 1 { Some(Pool::start(options.workers, &meter)?) } else { None };
    Ok(Scan {
        roots: roots.into_iter(),
        places: Arc::default(),
        taken: None,
        ready: VecDeque::new(),
        sockets: Sockets::default(),
        walks: Vec::new(),
        pool,
        ahead: Arc::new(Ahead::new(Arc::clone(&looker), options.look_ahead)),
        looker,
        meter,
    })
}

/// The entries of some sources, in strictly ascending order of their names; what failed stands where it was come upon.
///
/// Dropped before its end it stops the threads and waits for them: at most one system call each.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The roots not yet begun.
    roots: std::vec::IntoIter<SourceRoot>,
    /// Those that are directories.
    places: Arc<Roots>,
    /// The last root that gave an entry.
    taken: Option<EntryPath>,
    /// What is to be given next.
    ready: VecDeque<Scanned>,
    /// What is told of at the very end.
    sockets: Sockets,
    /// The walk under way, above those that it interrupts.
    walks: Vec<Walk>,
    /// The threads; none means that the caller's thread does it all.
    pool: Option<Pool>,
    /// What the threads share.
    ahead: Arc<Ahead>,
    /// Looks at entries.
    looker: Arc<Looker>,
    /// How busy the threads are.
    meter: Arc<ScanMeter>,
}

/// A way to go through a directory.
#[derive(Debug)]
enum Walk {
    Parallel(Parallel),
    Listing(Listing),
}

/// Sockets come by the thousand where they come at all, and nobody can do anything about them: one line for all.
#[derive(Debug, Default)]
struct Sockets {
    count: u64,
    first: Option<(PathBuf, EntryPath)>,
}

impl Sockets {
    fn add(&mut self, socket: (PathBuf, EntryPath)) {
        self.count += 1;
        self.first.get_or_insert(socket);
    }

    fn note(&mut self) -> Option<Scanned> {
        let (path, name) = self.first.take()?;
        let message = match self.count {
            1 => "a socket is left out".to_owned(),
            count => format!("{count} sockets are left out, the first of them"),
        };
        Some(Scanned::Note { path, name, message })
    }
}

impl Iterator for Scan {
    type Item = Scanned;

    fn next(&mut self) -> Option<Scanned> {
        loop {
            if let Some(scanned) = self.ready.pop_front() {
                return Some(scanned);
            }
            if !self.walks.is_empty() {
                self.advance();
            } else if let Some(root) = self.roots.next() {
                self.begin(root);
            } else {
                return self.sockets.note();
            }
        }
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.looker.stop.store(true, Ordering::Relaxed);
        // A walk whose receiving end is gone ends by itself; only then do the pool's threads, which `Pool` joins.
        self.walks.clear();
        self.pool = None;
    }
}

impl Scan {
    /// How busy its threads were; complete once the scan has been dropped.
    pub(crate) fn meter(&self) -> Arc<ScanMeter> {
        Arc::clone(&self.meter)
    }

    /// Looks at a root and, if it is a directory, starts to walk it.
    fn begin(&mut self, root: SourceRoot) {
        let SourceRoot { path, name, .. } = root;
        let found = match fs::open_place(&path) {
            Ok(place) => self.looker.root(&name, &path, place, &self.places),
            Err(error) => Found::failed(path.clone(), Some(name.clone()), error),
        };
        let found = match &found.first {
            Some(Scanned::Entry(_)) if self.looker.excludes.matches(&name, found.later.is_some()) => {
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
        let found = match self.walks.last_mut() {
            Some(Walk::Parallel(walk)) => {
                let began = Instant::now();
                let next = walk.next(&self.ahead);
                self.meter.waited(began);
                next
            }
            Some(Walk::Listing(listing)) => listing.next(&self.looker),
            None => None,
        };
        match found {
            Some(found) => self.follow(found),
            None => drop(self.walks.pop()),
        }
    }

    /// Makes what was found ready to be given, and starts the walk that it asks for.
    fn follow(&mut self, found: Found) {
        self.ready.extend(found.first);
        self.ready.extend(found.second.map(|scanned| *scanned));
        if let Some(socket) = found.socket {
            self.sockets.add(*socket);
        }
        if let Some((dir, way)) = found.later {
            self.walk(dir, way);
        }
    }

    /// Starts to walk a directory whose turn has come.
    fn walk(&mut self, dir: Arc<Dir>, way: Way) {
        // In a directory without directories there is nothing to do side by side, and to list it here saves waking the
        // threads. For a root that is not worth relying on link counts, which some file systems make up.
        let is_alone = dir.is_leaf && !self.walks.is_empty();
        // One descriptor a level would be too many.
        if let Some(Walk::Listing(listing)) = self.walks.last_mut() {
            listing.close();
        }
        let pool = self.pool.as_ref().filter(|_| way == Way::Any && !is_alone && dir.fits_parallel());
        if let Some(walk) = pool.and_then(|pool| Parallel::start(&dir, pool, &self.ahead)) {
            self.walks.push(Walk::Parallel(walk));
            return;
        }
        let (listing, failure) = Listing::start(dir, &self.looker);
        self.ready.extend(failure);
        self.walks.extend(listing.map(Walk::Listing));
    }
}
