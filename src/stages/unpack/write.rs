//! How do the bytes of records become files? Whole small files in a handful of system calls; files that are in several
//! records piece by piece, from any worker, in any order.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use rustix::fs::OFlags;

use super::attributes::{Handle, Present, lock};
use super::beneath::{DirectoryCache, FileId, Ids};
use super::destination::{Destination, RestoreError};
use super::links::open_again;
use super::place::{
    Name, Outcome, PRIVATE, close, create_exclusive, place, remove_open, restore_file, set_len, take_place,
    write_all_at,
};
use crate::error::{FileOp, Malformation};
use crate::format::entry::{Entry, EntryType};

/// A file on its way: shared by the pieces of it that are in several records.
///
/// If the last holder lets go of it before all pieces came, what was written is removed and nothing told.
#[derive(Debug)]
pub(crate) struct RestoreFile {
    /// What it is to become.
    pub(crate) entry: Arc<Entry>,
    /// How many pieces there are in all.
    pieces: u32,
    /// How many are still to come.
    remaining: AtomicU32,
    /// The largest end of a piece that was written.
    reached: AtomicU64,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
enum Progress {
    /// No piece has come.
    Waiting,
    /// Some have.
    Begun(Begun),
    /// It was told of, or the run was abandoned; pieces that still come are ignored.
    Over,
}

/// A file that is there in part; removed when this is dropped, unless it is complete.
struct Begun {
    destination: Arc<Destination>,
    entry: Arc<Entry>,
    key: u64,
    name: Name,
    id: FileId,
    kept: Option<Kept>,
    complete: bool,
}

/// A descriptor that is kept open between pieces.
struct Kept {
    file: Arc<OwnedFd>,
    destination: Arc<Destination>,
}

/// A piece of a file in the plain text of a record.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) file: Arc<RestoreFile>,
    /// Where it begins in the record's plain text.
    pub(crate) at: u32,
    pub(crate) len: u32,
    /// Where it belongs in the file.
    pub(crate) file_offset: u64,
}

/// One write worker's state: the directories it used last.
#[derive(Debug)]
pub(crate) struct FileWriter {
    destination: Arc<Destination>,
    cache: DirectoryCache,
}

impl RestoreFile {
    /// - `pieces`: how many [`Piece`]s will come in all; at least 1.
    pub(crate) fn new(entry: Arc<Entry>, pieces: u32) -> Self {
        Self {
            entry,
            pieces,
            remaining: AtomicU32::new(pieces),
            reached: AtomicU64::new(0),
            progress: Mutex::new(Progress::Waiting),
        }
    }

    /// Fails it, unless it is over already; what was written is removed.
    pub(super) fn fail(&self, destination: &Destination, error: RestoreError) {
        let before = std::mem::replace(&mut *lock(&self.progress), Progress::Over);
        if !matches!(before, Progress::Over) {
            // Removed before it is told, so that who hears of it finds it gone.
            drop(before);
            destination.settle(&self.entry, Err(error));
        }
    }

    /// As [`RestoreFile::fail`], untold.
    pub(super) fn abandon(&self) {
        let before = std::mem::replace(&mut *lock(&self.progress), Progress::Over);
        drop(before);
    }

    /// Closes the descriptor that is kept between pieces. A file that is just being worked on keeps it: its worker may be
    /// the one that asks.
    pub(super) fn release_descriptor(&self) {
        let mut progress = match self.progress.try_lock() {
            Ok(progress) => progress,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if let Progress::Begun(begun) = &mut *progress {
            begun.kept = None;
        }
    }
}

impl FileWriter {
    /// State for one worker.
    pub(crate) fn new(destination: Arc<Destination>) -> Self {
        let cache = destination.new_cache();
        Self { destination, cache }
    }

    /// Writes the pieces of one record; pieces of one file that stand side by side are written together.
    ///
    /// A piece that does not lie within the record and within its file makes its file fail as damaged.
    pub(crate) fn write(&mut self, plain: &[u8], pieces: &[Piece]) {
        for group in pieces.chunk_by(|left, right| Arc::ptr_eq(&left.file, &right.file)) {
            if self.destination.is_abandoned() {
                return;
            }
            self.write_group(plain, group);
        }
    }

    /// The record of these pieces is lost: their files fail as damaged.
    pub(crate) fn lose(&mut self, pieces: &[Piece], why: &Malformation) {
        for piece in pieces {
            piece.file.fail(&self.destination, RestoreError::Damaged(why.clone()));
        }
    }

    /// Makes an entry without data records: an empty file, a file that is one hole, a symlink, a FIFO, a device node.
    pub(crate) fn create(&mut self, entry: Arc<Entry>) {
        if self.destination.is_abandoned() {
            return;
        }
        if entry.entry_type == EntryType::Directory {
            return self.destination.make_directory(entry);
        }
        let outcome = self.destination.restore_without_data(&mut self.cache, &entry);
        self.destination.settle(&entry, outcome);
    }

    /// - `group`: pieces of one file, at least one.
    fn write_group(&mut self, plain: &[u8], group: &[Piece]) {
        let Some(Piece { file, .. }) = group.first() else {
            return;
        };
        let slices = match slices(plain, group, file.entry.size) {
            Ok(slices) => slices,
            Err(error) => return file.fail(&self.destination, error),
        };
        let count = u32::try_from(group.len()).unwrap_or(u32::MAX);
        let result = if file.pieces == count {
            self.write_whole(file, &slices)
        } else {
            self.write_part(file, &slices)
        };
        if let Err(error) = result {
            file.fail(&self.destination, error);
        }
    }

    /// A file that is in this record from beginning to end.
    fn write_whole(&mut self, file: &RestoreFile, slices: &[(&[u8], u64)]) {
        {
            let mut progress = lock(&file.progress);
            if !matches!(*progress, Progress::Waiting) {
                return;
            }
            // Whatever becomes of it is told below.
            *progress = Progress::Over;
        }
        let Self { destination, cache } = self;
        let overwrite = destination.policy.overwrite;
        let outcome = destination.in_parent(cache, &file.entry.path, FileOp::Create, |directory, leaf| {
            restore_file(
                &destination.attributes,
                overwrite,
                directory,
                leaf,
                &file.entry,
                &mut |target| {
                    let mut reached = 0;
                    for &(bytes, offset) in slices {
                        write_all_at(target, bytes, offset)?;
                        reached = reached.max(offset + bytes.len() as u64);
                    }
                    Ok(reached)
                },
            )
        });
        destination.settle(&file.entry, outcome);
    }

    fn write_part(&mut self, file: &Arc<RestoreFile>, slices: &[(&[u8], u64)]) -> Result<(), RestoreError> {
        let Some(target) = self.target(file)? else {
            return Ok(());
        };
        for &(bytes, offset) in slices {
            write_all_at(target.as_fd(), bytes, offset)?;
            file.reached.fetch_max(offset + bytes.len() as u64, Ordering::Relaxed);
        }
        // Before the piece is counted: who completes the file then holds the only descriptor, and sees what closing says.
        drop(target);
        let count = u32::try_from(slices.len()).unwrap_or(u32::MAX);
        let subtract = |remaining: u32| Some(remaining.saturating_sub(count));
        // Release what was reached to the worker that finds none remaining.
        let before = file
            .remaining
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, subtract);
        if before.is_ok_and(|before| before > 0 && before <= count) {
            self.complete(file)
        } else {
            Ok(())
        }
    }

    /// A descriptor to write to `file` through, which is begun if need be; `None` if it is over.
    fn target(&mut self, file: &Arc<RestoreFile>) -> Result<Option<Arc<OwnedFd>>, RestoreError> {
        let mut progress = lock(&file.progress);
        match &mut *progress {
            Progress::Over => Ok(None),
            Progress::Begun(begun) => match &begun.kept {
                Some(kept) => Ok(Some(Arc::clone(&kept.file))),
                None => {
                    let opened = Arc::new(reopen(&mut self.cache, begun)?);
                    begun.kept = Kept::of(&self.destination, &opened);
                    Ok(Some(opened))
                }
            },
            Progress::Waiting => match self.begin(file)? {
                Some((begun, opened)) => {
                    // Registered while the file is locked: `abandon` waits for it, or it finds the run abandoned.
                    if !self.destination.register(begun.key, file) {
                        *progress = Progress::Over;
                        return Ok(None);
                    }
                    *progress = Progress::Begun(begun);
                    Ok(Some(opened))
                }
                None => {
                    *progress = Progress::Over;
                    drop(progress);
                    self.destination.settle(&file.entry, Ok(Outcome::Skipped));
                    Ok(None)
                }
            },
        }
    }

    fn begin(&mut self, file: &RestoreFile) -> Result<Option<(Begun, Arc<OwnedFd>)>, RestoreError> {
        let Self { destination, cache } = self;
        let overwrite = destination.policy.overwrite;
        let begun = destination.in_parent(cache, &file.entry.path, FileOp::Create, |directory, leaf| {
            let create = |name: &[u8]| create_exclusive(directory.fd(), name, PRIVATE);
            let Some((opened, name)) = place(directory.fd(), leaf, overwrite, FileOp::Create, create)? else {
                return Ok(None);
            };
            match rustix::fs::fstat(&opened) {
                Ok(stat) => Ok(Some((opened, name, FileId::from(&stat)))),
                Err(error) => {
                    remove_open(directory.fd(), leaf, &name, opened.as_fd());
                    Err(RestoreError::io(FileOp::Stat, error))
                }
            }
        })?;
        let Some((opened, name, id)) = begun else {
            return Ok(None);
        };
        let opened = Arc::new(opened);
        let begun = Begun {
            destination: Arc::clone(destination),
            entry: Arc::clone(&file.entry),
            key: destination.next_key(),
            name,
            id,
            kept: Kept::of(destination, &opened),
            complete: false,
        };
        Ok(Some((begun, opened)))
    }

    /// All pieces are written: length, attributes, name.
    fn complete(&mut self, file: &RestoreFile) {
        let mut begun = match std::mem::replace(&mut *lock(&file.progress), Progress::Over) {
            Progress::Begun(begun) => begun,
            // It failed or was abandoned meanwhile.
            Progress::Waiting | Progress::Over => return,
        };
        let reached = file.reached.load(Ordering::Relaxed);
        let outcome = self.complete_begun(&mut begun, reached);
        begun.complete = outcome.is_ok();
        drop(begun);
        self.destination.settle(&file.entry, outcome);
    }

    fn complete_begun(&mut self, begun: &mut Begun, reached: u64) -> Result<Outcome, RestoreError> {
        let opened = match begun.kept.take() {
            Some(kept) => Arc::clone(&kept.file),
            None => Arc::new(reopen(&mut self.cache, begun)?),
        };
        let entry = &begun.entry;
        if reached < entry.size {
            set_len(opened.as_fd(), entry.size)?;
        }
        let stat = rustix::fs::fstat(&*opened).map_err(|error| RestoreError::io(FileOp::Stat, error))?;
        let present = Present {
            ids: Ids::from(&stat),
            mode: None,
        };
        let Self { destination, cache } = self;
        let lacking = destination
            .attributes
            .apply(Handle::Open(opened.as_fd()), entry, present);
        // Before it takes the place of another file: some file systems tell of a failed write only here.
        Arc::into_inner(opened).map_or(Ok(()), close)?;
        destination.in_parent(cache, &entry.path, FileOp::Rename, |directory, leaf| {
            take_place(directory.fd(), leaf, &begun.name)
        })?;
        Ok(Outcome::Restored {
            id: entry.link.map(|_| begun.id),
            lacking,
        })
    }
}

/// Opens a file for writing that was begun, and whose descriptor was not kept.
fn reopen(cache: &mut DirectoryCache, begun: &Begun) -> Result<OwnedFd, RestoreError> {
    begun
        .destination
        .in_parent(cache, &begun.entry.path, FileOp::Open, |directory, leaf| {
            open_again(directory, begun.name.bytes(leaf), begun.id, OFlags::WRONLY)
        })
}

/// The bytes of pieces, each with its place in the file.
fn slices<'a>(plain: &'a [u8], pieces: &[Piece], size: u64) -> Result<Vec<(&'a [u8], u64)>, RestoreError> {
    let slice = |piece: &Piece| {
        let start = usize::try_from(piece.at).ok()?;
        let bytes = plain.get(start..start.checked_add(usize::try_from(piece.len).ok()?)?)?;
        let end = piece.file_offset.checked_add(u64::from(piece.len))?;
        (end <= size).then_some((bytes, piece.file_offset))
    };
    let damaged = || {
        RestoreError::Damaged(Malformation::Field {
            structure: "entry",
            field: "extents",
        })
    };
    pieces.iter().map(|piece| slice(piece).ok_or_else(damaged)).collect()
}

impl Kept {
    /// `None` where as many are kept as may be: the file is then opened again for each record.
    fn of(destination: &Arc<Destination>, file: &Arc<OwnedFd>) -> Option<Self> {
        destination.keep().then(|| Self {
            file: Arc::clone(file),
            destination: Arc::clone(destination),
        })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.destination.unkeep();
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.destination.unregister(self.key);
        if !self.complete {
            // Closed first, so that there is a descriptor to reach the directory with.
            self.kept = None;
            self.destination
                .remove_incomplete(&self.entry.path, &self.name, self.id);
        }
    }
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun")
            .field("name", &self.name)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
