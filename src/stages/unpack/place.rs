//! How does one entry come to stand under its name, complete or not at all?
//!
//! A name that is free is taken with calls that fail if it is not (`O_EXCL` and its kin). One that is taken is left
//! alone, or the entry is made under a temporary name beside it and renamed over it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{Attributes, Handle, Present, Refusal};
use super::beneath::{FileId, Ids, OpenDirectory, Seen, TemporaryName, look, look_at, retry};
use super::policy::Overwrite;
use super::told::RestoreError;
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
    /// What was under its name looks like it, and was left alone but for attributes.
    Unchanged {
        /// The first attribute that could not be set.
        lacking: Option<RestoreError>,
    },
    /// There was something under its name, which was left alone; or it is a device node, and this user may make none.
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
    overwrite: Overwrite,
    op: FileOp,
    mut make: impl FnMut(&[u8]) -> Result<T, Errno>,
) -> Result<Option<(T, Name)>, RestoreError> {
    match retry(|| make(leaf)) {
        Ok(made) => return Ok(Some((made, Name::Final))),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(RestoreError::io(op, error)),
    }
    if overwrite == Overwrite::Never {
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

/// Leaves a regular file alone that looks like the entry; only its attributes are set. `None` if there is no such file.
pub(super) fn keep_if_unchanged(
    attributes: &Attributes,
    directory: &OpenDirectory,
    leaf: &[u8],
    entry: &Entry,
) -> Result<Option<Outcome>, RestoreError> {
    // Reaches it and no more: opening a FIFO or a device that is there instead would do something to it.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match retry(|| rustix::fs::openat(directory.fd(), leaf, flags, Mode::empty())) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(|error| RestoreError::io(FileOp::Open, error))?,
    };
    let seen = look(&fd).map_err(|error| RestoreError::io(FileOp::Stat, error))?;
    if !seen.looks_like(entry) {
        return Ok(None);
    }
    let present = Present { ids: seen.ids, mode: Some(seen.mode), has_times: true, may_have_xattrs: true };
    Ok(Some(Outcome::Unchanged { lacking: attributes.apply(Handle::Path(fd.as_fd()), entry, present) }))
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
    overwrite: Overwrite,
    directory: &mut OpenDirectory,
    leaf: &[u8],
    entry: &Entry,
    fill: &mut dyn FnMut(BorrowedFd<'_>) -> Result<u64, RestoreError>,
) -> Result<Outcome, RestoreError> {
    // A file whose owner will be right at once may have its mode at once: two system calls less. Never so with setuid
    // bits, nor where an ACL is to come that takes back what the mode grants.
    let mode = attributes.mode(entry);
    let owner_comes_right = directory.gives.is_some_and(|given| attributes.owner(entry, given) == given);
    let may_have_xattrs = attributes.inherits(directory);
    let at_once = owner_comes_right
        && mode & !0o777 == 0
        && entry.xattrs.is_empty()
        && !may_have_xattrs
        && directory.keeps_mode(mode) != Some(false);
    let mode = if at_once { mode } else { PRIVATE };
    let op = FileOp::Create;
    let Some((file, name)) =
        place(directory.fd(), leaf, overwrite, op, |name| create_exclusive(directory.fd(), name, mode))?
    else {
        return Ok(Outcome::Skipped);
    };
    match complete(
        attributes,
        directory,
        leaf,
        entry,
        NewFile { file: file.as_fd(), name, mode, may_have_xattrs },
        fill,
    ) {
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
    /// It got ACLs from its directory.
    may_have_xattrs: bool,
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
    let NewFile { file, name, mode, may_have_xattrs } = new;
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
    let present = Present {
        ids,
        mode: (directory.keeps_mode(mode) == Some(true)).then_some(mode),
        has_times: false,
        may_have_xattrs,
    };
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
    overwrite: Overwrite,
    directory: &mut OpenDirectory,
    leaf: &[u8],
    entry: &Entry,
) -> Result<Outcome, RestoreError> {
    let op = making(entry.entry_type);
    let private = Mode::from_raw_mode(PRIVATE);
    let may_have_xattrs = entry.entry_type != EntryType::Symlink && attributes.inherits(directory);
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
            attributes.count(Refusal::Device, entry);
            return Ok(Outcome::Skipped);
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
    let present = Present { ids: made.ids, mode: None, has_times: false, may_have_xattrs };
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
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, symlink as plant};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::fixture::{Scene, entry, in_pieces, read, symlink};
    use super::super::write::FileWriter;
    use super::*;

    const ALWAYS: Overwrite = Overwrite::Always;
    const NEVER: Overwrite = Overwrite::Never;

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

    #[test]
    fn a_planted_symlink_in_place_of_a_parent_is_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        for with_openat2 in [true, false] {
            for policy in [ALWAYS, NEVER] {
                let mut scene = Scene::prepared(policy, |root| plant(outside.path(), root.join("d")).unwrap());
                if !with_openat2 {
                    scene.destination.beneath.forget_openat2();
                }
                scene.file("d/file", b"x");
                scene.file("d/deep/er/file", b"x");
                scene.create(symlink("d/link", "x"));
                scene.create(entry("d/fifo", EntryType::Fifo));
                let (_, records) = in_pieces("d/large", b"0123456789", 2);
                for (plain, piece) in &records {
                    scene.writer.write(plain, std::slice::from_ref(piece));
                }
                scene.destination.finish();
                for path in ["d/file", "d/deep/er/file", "d/link", "d/fifo", "d/large"] {
                    assert!(scene.sink.of(path).starts_with("cannot create"), "{path}: {}", scene.sink.of(path));
                }
                assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
            }
        }
    }

    #[test]
    fn a_vault_that_plants_a_symlink_for_its_own_entries_fails_for_them() {
        let outside = tempfile::tempdir().unwrap();
        let mut scene = Scene::new(ALWAYS);
        scene.create(symlink("a", outside.path().as_os_str().as_bytes()));
        scene.file("a/b", b"x");
        scene.file("c/d", b"x");
        // The other way round: the directory is there first, and is not removed for the symlink.
        scene.create(symlink("c", outside.path().as_os_str().as_bytes()));
        scene.destination.finish();
        assert!(scene.sink.of("a/b").starts_with("cannot create"));
        assert_eq!(scene.sink.of("c/d"), "restored");
        assert!(scene.sink.of("c").contains("Is a directory"), "{}", scene.sink.of("c"));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert_eq!(scene.names("."), [b"a", b"c"]);
    }

    #[test]
    fn a_symlink_under_the_name_itself_is_replaced_or_left_but_never_followed() {
        for policy in [ALWAYS, NEVER] {
            let outside = tempfile::tempdir().unwrap();
            let victim = outside.path().join("victim");
            std::fs::write(&victim, "untouched").unwrap();
            let names = ["whole", "dangling", "large", "empty", "link", "fifo"];
            let mut scene = Scene::prepared(policy, |root| {
                for name in names {
                    let target = if name == "dangling" { outside.path().join("new") } else { victim.clone() };
                    plant(target, root.join(name)).unwrap();
                }
            });
            scene.file("whole", b"x");
            scene.file("dangling", b"x");
            let (_, records) = in_pieces("large", b"0123456789", 3);
            for (plain, piece) in &records {
                scene.writer.write(plain, std::slice::from_ref(piece));
            }
            scene.create(entry("empty", EntryType::File));
            scene.create(symlink("link", "elsewhere"));
            scene.create(entry("fifo", EntryType::Fifo));
            scene.destination.finish();
            let is_symlink = |name| std::fs::symlink_metadata(scene.at(name)).unwrap().is_symlink();
            for name in names {
                let (told, link) = if policy == ALWAYS { ("restored", name == "link") } else { ("skipped", true) };
                assert_eq!((scene.sink.of(name).as_str(), is_symlink(name)), (told, link), "{name}");
            }
            assert_eq!(scene.names(".").len(), names.len(), "temporary names are left");
            assert_eq!(read(&victim), b"untouched");
            assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
            if policy == ALWAYS {
                assert_eq!(read(scene.at("large")), b"0123456789");
                assert_eq!(std::fs::read_link(scene.at("link")).unwrap().as_os_str(), "elsewhere");
            }
        }
    }

    #[test]
    fn a_name_that_is_taken_is_replaced_whole_or_left_whole() {
        for policy in [ALWAYS, NEVER] {
            let mut scene = Scene::prepared(policy, |root| {
                for name in ["whole", "large", "link", "second"] {
                    std::fs::write(root.join(name), "older and longer than what comes").unwrap();
                }
                std::fs::hard_link(root.join("whole"), root.join("other name")).unwrap();
                std::fs::create_dir_all(root.join("directory/with")).unwrap();
            });
            scene.file("whole", b"new");
            let (_, records) = in_pieces("large", b"0123456789", 5);
            for (plain, piece) in &records[1..] {
                scene.writer.write(plain, std::slice::from_ref(piece));
            }
            assert_eq!(read(scene.at("large")), b"older and longer than what comes");
            scene.writer.write(&records[0].0, std::slice::from_ref(&records[0].1));
            scene.create(symlink("link", "elsewhere"));
            scene.file("directory", b"x");
            scene.destination.finish();
            let (told, whole, large) = match policy {
                Overwrite::Always | Overwrite::IfChanged => ("restored", &b"new"[..], &b"0123456789"[..]),
                Overwrite::Never => {
                    ("skipped", &b"older and longer than what comes"[..], &b"older and longer than what comes"[..])
                }
            };
            for name in ["whole", "large", "link"] {
                assert_eq!(scene.sink.of(name), told, "{name}");
            }
            assert_eq!((read(scene.at("whole")), read(scene.at("large"))), (whole.to_vec(), large.to_vec()));
            assert_eq!(read(scene.at("other name")), b"older and longer than what comes");
            assert!(scene.at("directory/with").is_dir());
            let directory = if policy == ALWAYS { "cannot create: Is a directory (os error 21)" } else { "skipped" };
            assert_eq!(scene.sink.of("directory"), directory);
            assert_eq!(scene.names(".").len(), 6);
        }
    }

    #[test]
    fn nothing_outside_changes_while_directories_are_swapped_for_symlinks() {
        for with_openat2 in [true, false] {
            let outside = tempfile::tempdir().unwrap();
            std::fs::create_dir(outside.path().join("sub")).unwrap();
            let mut scene = Scene::prepared(ALWAYS, |root| {
                std::fs::create_dir_all(root.join("d/sub")).unwrap();
                plant(outside.path(), root.join("swap")).unwrap();
            });
            if !with_openat2 {
                scene.destination.beneath.forget_openat2();
            }
            let stop = AtomicBool::new(false);
            let root = rustix::fs::open(&scene.root, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
            let before = std::fs::metadata(outside.path().join("sub")).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let exchange = rustix::fs::RenameFlags::EXCHANGE;
                        rustix::fs::renameat_with(&root, "d", &root, "swap", exchange).unwrap();
                    }
                });
                for round in 0..600 {
                    // A writer of its own: nothing is remembered from the round before.
                    scene.writer = FileWriter::new(Arc::clone(&scene.destination));
                    scene.file(&format!("d/sub/file{round}"), b"x");
                    scene.file(&format!("d/new{round}/file"), b"x");
                    scene.create(symlink(format!("d/link{round}"), "x"));
                    scene.directory(&format!("d/dir{round}"));
                    let (_, records) = in_pieces(&format!("d/large{round}"), b"0123456789", 2);
                    for (plain, piece) in &records {
                        scene.writer.write(plain, std::slice::from_ref(piece));
                    }
                }
                scene.directory("d/sub");
                scene.destination.finish();
                stop.store(true, Ordering::Relaxed);
            });
            assert_eq!(scene.sink.total(), 600 * 5 + 1);
            let names: Vec<_> =
                std::fs::read_dir(outside.path()).unwrap().map(|one| one.unwrap().file_name()).collect();
            assert_eq!(names, ["sub"]);
            assert_eq!(std::fs::read_dir(outside.path().join("sub")).unwrap().count(), 0);
            let after = std::fs::metadata(outside.path().join("sub")).unwrap();
            assert_eq!((before.mtime(), before.ctime_nsec()), (after.mtime(), after.ctime_nsec()));
        }
    }
}
