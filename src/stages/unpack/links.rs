//! Which names are one file, and how do the later ones come to be when the first is there?
//!
//! A name is linked only to one that this run wrote and that still is the inode it wrote; where the system makes no
//! link, the content is copied from there.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::attributes::lock;
use super::beneath::{DirectoryCache, FileId, OpenDirectory, retry, stat_leaf};
use super::destination::{Destination, RestoreError};
use super::place::{Name, Outcome, place, remove, restore_file, take_place, write_all_at};
use crate::error::FileOp;
use crate::format::entry::{Entry, EntryType, LinkGroup};

/// What to do with an entry that has a link group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkRole {
    /// Restore it from its content.
    First,
    /// Nothing: it is taken care of.
    Later,
}

/// The names of hard-linked files.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// One group has more than one family where its content was stored anew between two of its names.
    families: Mutex<HashMap<LinkGroup, Vec<Family>>>,
}

/// Names that become one file.
#[derive(Debug)]
struct Family {
    first: Arc<Entry>,
    fate: Fate,
    later: Vec<Arc<Entry>>,
}

/// What became of the first name.
#[derive(Debug)]
enum Fate {
    /// Nothing was told of it.
    Unknown,
    Restored(FileId),
    Failed(RestoreError),
}

impl Links {
    /// Takes in a name; the first with its content is the one to restore.
    pub(super) fn plan(&self, entry: Arc<Entry>) -> LinkRole {
        let Some(group) = entry.link else {
            return LinkRole::First;
        };
        let mut families = lock(&self.families);
        let families = families.entry(group).or_default();
        match families.iter_mut().find(|family| is_same_file(&family.first, &entry)) {
            Some(family) => {
                family.later.push(entry);
                LinkRole::Later
            }
            None => {
                families.push(Family {
                    first: entry,
                    fate: Fate::Unknown,
                    later: Vec::new(),
                });
                LinkRole::First
            }
        }
    }

    /// Takes note of what became of an entry, if it is the first of a family.
    pub(super) fn learn(&self, entry: &Entry, outcome: &Result<Outcome, RestoreError>) {
        let Some(group) = entry.link else { return };
        let mut families = lock(&self.families);
        let family = families
            .get_mut(&group)
            .and_then(|all| all.iter_mut().find(|one| one.first.path == entry.path));
        if let Some(family) = family {
            family.fate = match outcome {
                Ok(Outcome::Restored { id: Some(id), .. }) => Fate::Restored(*id),
                Ok(Outcome::Restored { id: None, .. }) => Fate::Unknown,
                // Taken in the moment between the plan and the writing.
                Ok(Outcome::Skipped) => Fate::Failed(RestoreError::io(FileOp::Link, Errno::EXIST)),
                Err(error) => Fate::Failed(error.clone()),
            };
        }
    }

    /// Makes all later names, and tells of them.
    pub(super) fn make_all(&self, destination: &Destination) {
        let families = std::mem::take(&mut *lock(&self.families));
        let mut families: Vec<Family> = families.into_values().flatten().collect();
        // Neighbours in the tree one after another: their directories are open then.
        families.sort_by(|left, right| left.first.path.cmp(&right.first.path));
        let mut linker = Linker {
            destination,
            first_cache: destination.new_cache(),
            later_cache: destination.new_cache(),
        };
        for family in families {
            linker.make_family(family);
        }
    }
}

/// Whether two entries of one link group have one content.
fn is_same_file(left: &Entry, right: &Entry) -> bool {
    left.entry_type == right.entry_type
        && left.size == right.size
        && left.rdev == right.rdev
        && left.extents == right.extents
        && left.target == right.target
}

struct Linker<'a> {
    destination: &'a Destination,
    /// Apart, since both names' directories are needed at once.
    first_cache: DirectoryCache,
    later_cache: DirectoryCache,
}

impl Linker<'_> {
    fn make_family(&mut self, Family { mut first, fate, later }: Family) {
        let mut id = match fate {
            Fate::Restored(id) => id,
            Fate::Unknown => return self.fail_all(&later, &RestoreError::io(FileOp::Link, Errno::NOENT)),
            Fate::Failed(error) => return self.fail_all(&later, &error),
        };
        for entry in later {
            let outcome = match self.link(&first, id, &entry) {
                Err(error) if error.errno() == Some(Errno::ISDIR) => Err(error),
                Err(error) => {
                    let copied = self.copy(&first, id, &entry);
                    if let (Ok(Outcome::Restored { id: Some(copy), .. }), Some(Errno::MLINK)) = (&copied, error.errno())
                    {
                        // The first has all the links it may have; the rest can be linked to the copy.
                        (first, id) = (Arc::clone(&entry), *copy);
                    }
                    copied
                }
                done => done,
            };
            self.destination.settle(&entry, outcome);
        }
    }

    fn fail_all(&self, later: &[Arc<Entry>], error: &RestoreError) {
        for entry in later {
            self.destination.settle(entry, Err(error.clone()));
        }
    }

    fn link(&mut self, first: &Entry, id: FileId, later: &Entry) -> Result<Outcome, RestoreError> {
        let Self {
            destination,
            first_cache,
            later_cache,
        } = self;
        destination.in_parent(first_cache, &first.path, FileOp::Link, |from, first_leaf| {
            destination.in_parent(later_cache, &later.path, FileOp::Link, |to, later_leaf| {
                link_in(destination, from.fd(), first_leaf, id, to.fd(), later_leaf)
            })
        })
    }

    /// The content is read from the first name: the records that held it are long gone.
    fn copy(&mut self, first: &Entry, id: FileId, later: &Entry) -> Result<Outcome, RestoreError> {
        let Self {
            destination,
            first_cache,
            later_cache,
        } = self;
        if later.entry_type != EntryType::File {
            return destination.restore_without_data(later_cache, later);
        }
        let source = destination.in_parent(first_cache, &first.path, FileOp::Open, |from, leaf| {
            open_again(from, leaf, id, OFlags::RDONLY)
        })?;
        destination.in_parent(later_cache, &later.path, FileOp::Create, |to, leaf| {
            let overwrite = destination.policy.overwrite;
            restore_file(&destination.attributes, overwrite, to, leaf, later, &mut |file| {
                copy_content(source.as_fd(), file, later.size)
            })
        })
    }
}

fn link_in(
    destination: &Destination,
    from: BorrowedFd<'_>,
    first_leaf: &[u8],
    id: FileId,
    to: BorrowedFd<'_>,
    later_leaf: &[u8],
) -> Result<Outcome, RestoreError> {
    let is_first = |directory, leaf: &[u8]| stat_leaf(directory, leaf).is_ok_and(|stat| FileId::from(&stat) == id);
    if !is_first(from, first_leaf) {
        return Err(RestoreError::io(FileOp::Link, Errno::STALE));
    }
    let placed = place(to, later_leaf, destination.policy.overwrite, FileOp::Link, |name| {
        // Without flags: if the first name has become a symlink, the symlink is linked, and not kept.
        rustix::fs::linkat(from, first_leaf, to, name, AtFlags::empty())
    })?;
    let Some(((), name)) = placed else {
        return Ok(Outcome::Skipped);
    };
    if !is_first(to, name.bytes(later_leaf)) {
        // Another file came under the first name after it was looked at. What was made now is a mere name of that.
        if let Ok(stat) = stat_leaf(to, name.bytes(later_leaf)) {
            remove(to, later_leaf, &name, FileId::from(&stat));
        }
        return Err(RestoreError::io(FileOp::Link, Errno::STALE));
    }
    let taken = take_place(to, later_leaf, &name);
    if name != Name::Final {
        // A rename onto a name of the same file succeeds and does nothing.
        remove(to, name.bytes(later_leaf), &Name::Final, id);
    }
    taken?;
    Ok(Outcome::Restored {
        id: Some(id),
        lacking: None,
    })
}

/// Opens a file that this run wrote, if the name still is that file.
pub(super) fn open_again(
    directory: &OpenDirectory,
    name: &[u8],
    id: FileId,
    access: OFlags,
) -> Result<OwnedFd, RestoreError> {
    // What has come in its place may be a FIFO, and opening that would wait for somebody at its other end.
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = retry(|| rustix::fs::openat(directory.fd(), name, flags, Mode::empty()))
        .map_err(|error| RestoreError::io(FileOp::Open, error))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| RestoreError::io(FileOp::Stat, error))?;
    if FileId::from(&stat) != id {
        return Err(RestoreError::io(FileOp::Open, Errno::STALE));
    }
    Ok(file)
}

/// Copies what is no hole of the first `size` bytes; says how far it reached.
fn copy_content(source: BorrowedFd<'_>, target: BorrowedFd<'_>, size: u64) -> Result<u64, RestoreError> {
    let mut reached = 0;
    while reached < size {
        let start = match retry(|| rustix::fs::seek(source, SeekFrom::Data(reached))) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => break,
            // A file system that does not know holes has none.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => reached,
            Err(error) => return Err(RestoreError::io(FileOp::Seek, error)),
        };
        let end = match retry(|| rustix::fs::seek(source, SeekFrom::Hole(start))) {
            Ok(end) => end.min(size),
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(error) => return Err(RestoreError::io(FileOp::Seek, error)),
        };
        copy_range(source, target, start, end)?;
        reached = end;
    }
    Ok(reached)
}

fn copy_range(source: BorrowedFd<'_>, target: BorrowedFd<'_>, start: u64, end: u64) -> Result<(), RestoreError> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let len = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
        match retry(|| rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), len)) {
            Ok(0) => return Err(cut_short()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return copy_range_through_memory(source, target, from, end);
            }
            Err(error) => return Err(RestoreError::io(FileOp::Write, error)),
        }
    }
    Ok(())
}

fn copy_range_through_memory(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    mut from: u64,
    end: u64,
) -> Result<(), RestoreError> {
    const BUFFER_LEN: usize = 256 << 10;
    let mut buffer = vec![0; BUFFER_LEN];
    while from < end {
        let len = usize::try_from(end - from).unwrap_or(usize::MAX).min(BUFFER_LEN);
        let read = retry(|| rustix::io::pread(source, &mut buffer[..len], from))
            .map_err(|error| RestoreError::io(FileOp::Read, error))?;
        if read == 0 {
            return Err(cut_short());
        }
        write_all_at(target, &buffer[..read], from)?;
        from += read as u64;
    }
    Ok(())
}

/// The first name lost bytes after it was restored.
fn cut_short() -> RestoreError {
    RestoreError::io(FileOp::Read, Errno::IO)
}
