//! How does one entry come to stand under its name, complete or not at all?
//!
//! A name that is free is taken with calls that fail if it is not (`O_EXCL` and its kin). One that is taken is left
//! alone, or the entry is made under a temporary name beside it and renamed over it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{Attributes, Handle, Present};
use super::beneath::{FileId, Ids, OpenDirectory, Seen, TemporaryName, look, look_at, retry};
use super::destination::{OverwritePolicy, RestoreError};
use crate::error::FileOp;
use crate::format::entry::{Entry, EntryType};

/// How often another temporary name is drawn; the first is free unless somebody guesses them.
const NAME_ATTEMPTS: u32 = 16;
/// Files are made for their owner alone; the mode comes last.
pub(super) const PRIVATE: u32 = 0o600;

/// What became of an entry.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It stands under its name with all its content.
    Restored {
        /// Told only for entries with a link group.
        id: Option<FileId>,
        /// The first attribute that could not be set. The content is whole, so it stays: a file without an attribute
        /// is worth more than none.
        lacking: Option<RestoreError>,
    },
    /// There was something under its name, which was left alone.
    Skipped,
}

/// The name under which something was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// Its own.
    Final,
    /// One beside it; to be renamed.
    Temporary(TemporaryName),
}

impl Name {
    pub(super) fn bytes<'a>(&'a self, leaf: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Final => leaf,
            Self::Temporary(name) => name.as_bytes(),
        }
    }
}

/// The operation that makes an entry of this type.
pub(super) fn making(entry_type: EntryType) -> FileOp {
    match entry_type {
        EntryType::Directory => FileOp::CreateDirectory,
        EntryType::Symlink => FileOp::CreateSymlink,
        EntryType::Fifo => FileOp::CreateFifo,
        EntryType::File | EntryType::CharDevice | EntryType::BlockDevice => FileOp::Create,
    }
}

/// Has something made under `leaf`, or beside it if that is taken; `None` if it is taken and shall stay.
///
/// `make` must fail with `EEXIST` if the name that it is given is taken. What it made is the caller's to remove.
pub(super) fn place<T>(
    directory: BorrowedFd<'_>,
    leaf: &[u8],
    overwrite: OverwritePolicy,
    op: FileOp,
    mut make: impl FnMut(&[u8]) -> Result<T, Errno>,
) -> Result<Option<(T, Name)>, RestoreError> {
    match retry(|| make(leaf)) {
        Ok(made) => return Ok(Some((made, Name::Final))),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(RestoreError::io(op, error)),
    }
    if overwrite == OverwritePolicy::Never {
        return Ok(None);
    }
    // The rename would say so as well, but only after all the content was written.
    if look_at(directory, leaf).is_ok_and(|seen| seen.file_type.is_dir()) {
        return Err(RestoreError::io(op, Errno::ISDIR));
    }
    for _ in 0..NAME_ATTEMPTS {
        let name = TemporaryName::draw().map_err(|source| RestoreError::Io { op, source })?;
        match retry(|| make(name.as_bytes())) {
            Ok(made) => return Ok(Some((made, Name::Temporary(name)))),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(RestoreError::io(op, error)),
        }
    }
    Err(RestoreError::io(op, Errno::EXIST))
}

/// Gives what stands under `name` its own name.
pub(super) fn take_place(directory: BorrowedFd<'_>, leaf: &[u8], name: &Name) -> Result<(), RestoreError> {
    match name {
        Name::Final => Ok(()),
        Name::Temporary(temporary) => retry(|| rustix::fs::renameat(directory, temporary.as_bytes(), directory, leaf))
            .map_err(|error| RestoreError::io(FileOp::Rename, error)),
    }
}

/// Removes what was made under `name`, if it is still that; failing that there is nothing more to be done about it.
pub(super) fn remove(directory: BorrowedFd<'_>, leaf: &[u8], name: &Name, id: FileId) {
    let name = name.bytes(leaf);
    if look_at(directory, name).is_ok_and(|seen| seen.id == id) {
        // Whoever reads the report learns why the entry failed; this would only hide it.
        let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
    }
}

/// Opens a new file for writing under a name that must be free.
pub(super) fn create_exclusive(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(mode))
}

/// Makes a regular file in one go.
///
/// - `fill` writes the content and says up to where it reached; what is missing of the entry's size is a hole.
pub(super) fn restore_file(
    attributes: &Attributes,
    overwrite: OverwritePolicy,
    directory: &mut OpenDirectory,
    leaf: &[u8],
    entry: &Entry,
    fill: &mut dyn FnMut(BorrowedFd<'_>) -> Result<u64, RestoreError>,
) -> Result<Outcome, RestoreError> {
    // A file whose owner will be right at once may have its mode at once: two system calls less. Never so with setuid
    // bits, nor where an ACL is to come that takes back what the mode grants.
    let mode = attributes.mode(entry);
    let owner_comes_right = directory.gives.is_some_and(|given| attributes.owner(entry, given) == given);
    let at_once =
        owner_comes_right && mode & !0o777 == 0 && entry.xattrs.is_empty() && directory.keeps_mode(mode) != Some(false);
    let mode = if at_once { mode } else { PRIVATE };
    let op = FileOp::Create;
    let Some((file, name)) =
        place(directory.fd(), leaf, overwrite, op, |name| create_exclusive(directory.fd(), name, mode))?
    else {
        return Ok(Outcome::Skipped);
    };
    match complete(attributes, directory, leaf, entry, NewFile { file: file.as_fd(), name, mode }, fill) {
        Ok((id, lacking)) => {
            // Some file systems tell of a failed write only here.
            let closed = close(file);
            Ok(Outcome::Restored { id, lacking: lacking.or(closed.err()) })
        }
        Err(error) => {
            remove_open(directory.fd(), leaf, &name, file.as_fd());
            Err(error)
        }
    }
}

/// A file that was just created.
struct NewFile<'a> {
    file: BorrowedFd<'a>,
    name: Name,
    /// The mode that was asked for.
    mode: u32,
}

/// From an empty file to a whole one under its own name; tells its identity if it has a link group, and the first
/// attribute that could not be set.
fn complete(
    attributes: &Attributes,
    directory: &mut OpenDirectory,
    leaf: &[u8],
    entry: &Entry,
    new: NewFile<'_>,
    fill: &mut dyn FnMut(BorrowedFd<'_>) -> Result<u64, RestoreError>,
) -> Result<(Option<FileId>, Option<RestoreError>), RestoreError> {
    let NewFile { file, name, mode } = new;
    // Files made alike in one directory come out alike, so that only the first has to be looked at.
    let alike = directory.gives.filter(|_| directory.keeps_mode(mode).is_some() && entry.link.is_none());
    let (ids, id) = match alike {
        Some(ids) => (ids, None),
        None => {
            let seen = look(file).map_err(|error| RestoreError::io(FileOp::Stat, error))?;
            directory.learn(mode, &seen);
            (seen.ids, entry.link.map(|_| seen.id))
        }
    };
    let reached = fill(file)?;
    if reached < entry.size {
        set_len(file, entry.size)?;
    }
    let present = Present { ids, mode: (directory.keeps_mode(mode) == Some(true)).then_some(mode) };
    let lacking = attributes.apply(Handle::Open(file), entry, present);
    take_place(directory.fd(), leaf, &name)?;
    Ok((id, lacking))
}

/// As [`remove`], for a file that is open.
pub(super) fn remove_open(directory: BorrowedFd<'_>, leaf: &[u8], name: &Name, file: BorrowedFd<'_>) {
    if let Ok(seen) = look(file) {
        remove(directory, leaf, name, seen.id);
    }
}

/// Closes a file that was written and says what the system says to it.
pub(super) fn close(file: OwnedFd) -> Result<(), RestoreError> {
    match nix::unistd::close(file) {
        // Interrupted, it is closed nevertheless (on Linux).
        Ok(()) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(RestoreError::Io { op: FileOp::Write, source: io::Error::from(error) }),
    }
}

/// Gives a file its length: what lies beyond its end becomes a hole.
pub(super) fn set_len(file: BorrowedFd<'_>, len: u64) -> Result<(), RestoreError> {
    retry(|| rustix::fs::ftruncate(file, len)).map_err(|error| RestoreError::io(FileOp::Truncate, error))
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_all_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> Result<(), RestoreError> {
    while !bytes.is_empty() {
        let written = match retry(|| rustix::io::pwrite(file, bytes, offset)) {
            // A file never takes nothing of something without an error; if one does, going on would not end.
            Ok(0) => return Err(RestoreError::io(FileOp::Write, Errno::IO)),
            Ok(written) => written,
            Err(error) => return Err(RestoreError::io(FileOp::Write, error)),
        };
        bytes = bytes.get(written..).unwrap_or_default();
        // No overflow: the system has just written up to there.
        offset += written as u64;
    }
    Ok(())
}

/// Makes a symlink, a FIFO or a device node.
pub(super) fn restore_node(
    attributes: &Attributes,
    overwrite: OverwritePolicy,
    directory: &mut OpenDirectory,
    leaf: &[u8],
    entry: &Entry,
) -> Result<Outcome, RestoreError> {
    let op = making(entry.entry_type);
    let private = Mode::from_raw_mode(PRIVATE);
    let fd = directory.fd();
    let node = |name: &[u8], file_type| rustix::fs::mknodat(fd, name, file_type, private, entry.rdev);
    let placed = match entry.entry_type {
        EntryType::Symlink => place(fd, leaf, overwrite, op, |name| rustix::fs::symlinkat(&entry.target[..], fd, name)),
        EntryType::Fifo => {
            place(fd, leaf, overwrite, op, |name| rustix::fs::mknodat(fd, name, FileType::Fifo, private, 0))
        }
        EntryType::CharDevice => place(fd, leaf, overwrite, op, |name| node(name, FileType::CharacterDevice)),
        EntryType::BlockDevice => place(fd, leaf, overwrite, op, |name| node(name, FileType::BlockDevice)),
        EntryType::File | EntryType::Directory => Err(RestoreError::Unsupported("not a symlink, FIFO or device")),
    };
    let is_device = matches!(entry.entry_type, EntryType::CharDevice | EntryType::BlockDevice);
    let name = match placed {
        Ok(Some(((), name))) => name,
        Ok(None) => return Ok(Outcome::Skipped),
        Err(error) if is_device && error.errno() == Some(Errno::PERM) => {
            return Err(RestoreError::Unsupported("making a device node is not permitted"));
        }
        Err(error) => return Err(error),
    };
    let made = match open_node(fd, name.bytes(leaf), entry.entry_type) {
        Ok(made) => made,
        Err(error) => {
            // What stands there is not certain to be ours, unless nobody else knows its name.
            if name != Name::Final {
                let _ = rustix::fs::unlinkat(fd, name.bytes(leaf), AtFlags::empty());
            }
            return Err(RestoreError::io(op, error));
        }
    };
    let present = Present { ids: made.ids, mode: None };
    let lacking = attributes.apply(Handle::Path(made.fd.as_fd()), entry, present);
    if let Err(error) = take_place(fd, leaf, &name) {
        remove(fd, leaf, &name, made.id);
        return Err(error);
    }
    Ok(Outcome::Restored { id: entry.link.is_some().then_some(made.id), lacking })
}

struct Node {
    fd: OwnedFd,
    id: FileId,
    ids: Ids,
}

/// Takes hold of a node that was just made. There is no call that makes one and opens it, so somebody who may write to
/// the directory can put another file there in between, a hard link to one that is not his for example: what is not as
/// a new node would be is not touched.
fn open_node(directory: BorrowedFd<'_>, name: &[u8], entry_type: EntryType) -> Result<Node, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = retry(|| rustix::fs::openat(directory, name, flags, Mode::empty()))?;
    let Seen { id, ids, file_type: found, links, .. } = look(&fd)?;
    let is_of_type = match entry_type {
        EntryType::Symlink => found == FileType::Symlink,
        EntryType::Fifo => found == FileType::Fifo,
        EntryType::CharDevice => found == FileType::CharacterDevice,
        EntryType::BlockDevice => found == FileType::BlockDevice,
        EntryType::File | EntryType::Directory => false,
    };
    if !is_of_type || links != 1 {
        return Err(Errno::STALE);
    }
    Ok(Node { fd, id, ids })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_not_as_a_new_one_would_be_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name| directory.path().join(name);
        let fd = rustix::fs::open(directory.path(), OFlags::PATH, Mode::empty()).unwrap();
        std::os::unix::fs::symlink("x", at("link")).unwrap();
        assert!(open_node(fd.as_fd(), b"link", EntryType::Symlink).is_ok());
        assert_eq!(open_node(fd.as_fd(), b"link", EntryType::Fifo).err(), Some(Errno::STALE));
        std::fs::write(at("file"), "x").unwrap();
        assert_eq!(open_node(fd.as_fd(), b"file", EntryType::Symlink).err(), Some(Errno::STALE));
        // Somebody else's symlink, linked here.
        std::fs::hard_link(at("link"), at("other")).unwrap();
        assert_eq!(open_node(fd.as_fd(), b"link", EntryType::Symlink).err(), Some(Errno::STALE));
    }
}
