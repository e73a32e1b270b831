//! How do an entry's owner, extended attributes, mode and times come onto what was made for it?
//!
//! In this order, and always through a descriptor: `chown` takes setuid bits and capabilities away, an ACL brings its own
//! mode and `chmod` changes its mask, and everything changes the times. What the system does not permit to this user, or
//! this file system does not know, is counted and told once, not an error of each entry.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::beneath::{Ids, OpenDirectory, path_of, retry};
use super::policy::Preserve;
use super::told::{RestoreError, RestoreSink};
use crate::error::FileOp;
use crate::format::entry::{Entry, EntryPath, EntryType, Owner};

/// Bits that lend the owner's or the group's rights to whoever runs the file.
const SET_ID: u32 = 0o6000;

/// The attribute that an ACL is.
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// Locks a mutex whose holders leave it whole even if they panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A descriptor to set attributes through.
#[derive(Debug, Clone, Copy)]
pub(super) enum Handle<'a> {
    /// Opened for reading or writing.
    Open(BorrowedFd<'a>),
    /// Opened with `O_PATH`: a symlink, or what must not be opened otherwise.
    Path(BorrowedFd<'a>),
}

/// What an inode has already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present {
    pub(super) ids: Ids,
    /// `None` if it has to be set in any case.
    pub(super) mode: Option<u32>,
    /// Its times are right already, and nothing of this run changed them.
    pub(super) has_times: bool,
    /// It may have attributes that the entry has not: it was there before, or got ACLs from the directory it was made in.
    pub(super) may_have_xattrs: bool,
}

/// What is restored of attributes, and what could not be: shared by all workers.
#[derive(Debug)]
pub(super) struct Attributes {
    preserve: Preserve,
    /// Looked up only where modes are not preserved.
    umask: u32,
    owners: Mutex<HashMap<Owner, Ids>>,
    refused: Mutex<Refused>,
}

/// What the system did not permit.
#[derive(Debug, Default)]
struct Refused {
    owners: HashSet<Ids>,
    tallies: BTreeMap<Refusal, Tally>,
}

/// What may not be restored by everybody or everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    Owner,
    /// Left out because the owner could not be set.
    SetId,
    /// With the system's number for the cause.
    Acl(i32),
    Xattr(i32),
    Device,
}

#[derive(Debug)]
struct Tally {
    entries: u64,
    first: EntryPath,
}

impl Attributes {
    pub(super) fn new(preserve: Preserve) -> Self {
        let umask = if preserve.mode { 0 } else { umask_of_this_process() };
        Self { preserve, umask, owners: Mutex::default(), refused: Mutex::default() }
    }

    /// The owner that `entry` shall have where a new file gets `given`.
    pub(super) fn owner(&self, entry: &Entry, given: Ids) -> Ids {
        if !self.preserve.owner {
            return given;
        }
        if let Some(&ids) = lock(&self.owners).get(&entry.owner) {
            return ids;
        }
        // Not under the lock: a directory service may take seconds to answer.
        let ids = look_up(&entry.owner);
        lock(&self.owners).insert(entry.owner.clone(), ids);
        ids
    }

    /// The mode that `entry` shall have, if its owner can be restored.
    pub(super) fn mode(&self, entry: &Entry) -> u32 {
        if self.preserve.mode { entry.mode & 0o7777 } else { entry.mode & 0o777 & !self.umask }
    }

    /// Sets everything that differs from what is `present`. What is not permitted is counted; after any other failure the
    /// rest is set nevertheless, and the first one returned.
    pub(super) fn apply(&self, handle: Handle<'_>, entry: &Entry, present: Present) -> Option<RestoreError> {
        let mut failure = None;
        let mut keep = |result: Result<(), RestoreError>| {
            if let Err(error) = result {
                failure.get_or_insert(error);
            }
        };
        let owner = self.owner(entry, present.ids);
        let mut mode = self.mode(entry);
        let changes_owner = owner != present.ids;
        let mut owner_is_right = !changes_owner && self.preserve.owner;
        if changes_owner {
            let set = self.set_owner(handle, entry, owner, present.ids);
            owner_is_right = matches!(set, Ok(true));
            keep(set.map(drop));
        }
        // On a directory these bits lend nothing: they say whose group new files get.
        if !owner_is_right && mode & SET_ID != 0 && entry.entry_type != EntryType::Directory {
            mode &= !SET_ID;
            if self.preserve.owner {
                self.count(Refusal::SetId, entry);
            }
        }
        if present.may_have_xattrs {
            // The mode stays what it is shown as.
            self.remove_xattrs(handle, entry);
        }
        let changes_xattrs = !entry.xattrs.is_empty();
        if changes_xattrs {
            let (has_acl, set) = self.set_xattrs(handle, entry);
            keep(set);
            if !has_acl {
                mode = without_acl(mode, entry);
            }
        }
        let mode_is_right = present.mode == Some(mode) && !changes_owner && !changes_xattrs;
        if !mode_is_right && entry.entry_type != EntryType::Symlink {
            keep(set_mode(handle, mode));
        }
        if self.preserve.times && !present.has_times {
            keep(set_times(handle, entry));
        }
        failure
    }

    /// Says whether it could be done; `Ok(false)` is not permitted, and counted.
    fn set_owner(&self, handle: Handle<'_>, entry: &Entry, owner: Ids, present: Ids) -> Result<bool, RestoreError> {
        // The largest number is the system's word for "leave it".
        let impossible = owner.uid == u32::MAX || owner.gid == u32::MAX;
        if impossible || lock(&self.refused).owners.contains(&owner) {
            self.count(Refusal::Owner, entry);
            return Ok(false);
        }
        // Only what differs: a user may give a file of his own to another group of his.
        let uid = (owner.uid != present.uid).then(|| Uid::from_raw(owner.uid));
        let gid = (owner.gid != present.gid).then(|| Gid::from_raw(owner.gid));
        let (Handle::Open(fd) | Handle::Path(fd)) = handle;
        match retry(|| rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)) {
            Ok(()) => Ok(true),
            // EINVAL: a number that this user namespace does not have; EOPNOTSUPP: a file system without owners.
            Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {
                lock(&self.refused).owners.insert(owner);
                self.count(Refusal::Owner, entry);
                Ok(false)
            }
            Err(error) => Err(RestoreError::io(FileOp::SetOwner, error)),
        }
    }

    /// Says whether the entry's ACL is there, if it has one (a directory's default ACL aside), and what failed first.
    fn set_xattrs(&self, handle: Handle<'_>, entry: &Entry) -> (bool, Result<(), RestoreError>) {
        let mut refused = BTreeSet::new();
        let mut failure = None;
        let mut has_acl = true;
        for xattr in &entry.xattrs {
            let is_acl = is_acl(&xattr.name);
            if !(if is_acl { self.preserve.acl } else { self.preserve.xattr }) {
                has_acl &= xattr.name != ACCESS_ACL;
                continue;
            }
            let (name, value, flags) = (&xattr.name[..], &xattr.value[..], XattrFlags::empty());
            let set = match handle {
                Handle::Open(fd) => retry(|| rustix::fs::fsetxattr(fd, name, value, flags)),
                Handle::Path(fd) => retry(|| rustix::fs::setxattr(path_of(fd), name, value, flags)),
            };
            has_acl &= set.is_ok() || xattr.name != ACCESS_ACL;
            match set {
                Ok(()) => {}
                Err(error @ (Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP)) => {
                    let code = error.raw_os_error();
                    refused.insert(if is_acl { Refusal::Acl(code) } else { Refusal::Xattr(code) });
                }
                Err(error) => {
                    failure.get_or_insert(RestoreError::io(FileOp::SetXattr, error));
                }
            }
        }
        // Once for each entry, however many attributes it has.
        refused.into_iter().for_each(|refusal| self.count(refusal, entry));
        (has_acl, failure.map_or(Ok(()), Err))
    }

    /// Whether what is made in a directory gets ACLs from it that are not the entry's.
    pub(super) fn inherits(&self, directory: &mut OpenDirectory) -> bool {
        self.preserve.acl && directory.gives_acls()
    }

    /// Removes ACLs, and attributes of the `user` namespace, that the entry has not. Other namespaces are the system's
    /// own.
    fn remove_xattrs(&self, handle: Handle<'_>, entry: &Entry) {
        for name in list_xattrs(handle) {
            let is_managed =
                if is_acl(&name) { self.preserve.acl } else { self.preserve.xattr && name.starts_with(b"user.") };
            if !is_managed || entry.xattrs.iter().any(|xattr| xattr.name == name) {
                continue;
            }
            let done = match handle {
                Handle::Open(fd) => retry(|| rustix::fs::fremovexattr(fd, &name[..])),
                Handle::Path(fd) => retry(|| rustix::fs::removexattr(path_of(fd), &name[..])),
            };
            if let Err(error) = done {
                self.count(Refusal::Xattr(error.raw_os_error()), entry);
            }
        }
    }

    /// Remembers that something of an entry was not permitted, or is not supported.
    pub(super) fn count(&self, refusal: Refusal, entry: &Entry) {
        lock(&self.refused)
            .tallies
            .entry(refusal)
            .and_modify(|tally| {
                tally.entries += 1;
                // In the order of the index, whichever worker came first.
                if entry.path < tally.first {
                    tally.first = entry.path.clone();
                }
            })
            .or_insert_with(|| Tally { entries: 1, first: entry.path.clone() });
    }

    /// Tells what was not permitted, once each, and forgets it.
    pub(super) fn tell_refused(&self, sink: &dyn RestoreSink) {
        let tallies = std::mem::take(&mut lock(&self.refused).tallies);
        for (refusal, Tally { entries, first }) in tallies {
            let counted = |one: &str, many: &str| format!("{entries} {}", if entries == 1 { one } else { many });
            let of_entries = counted("entry", "entries");
            let message = match refusal {
                Refusal::Owner => format!("owner of {of_entries} could not be restored: not permitted"),
                Refusal::SetId => {
                    format!("setuid and setgid bits of {of_entries} were left out, since the owner is another")
                }
                Refusal::Acl(code) => format!("ACLs of {of_entries} could not be restored: {}", why_refused(code)),
                Refusal::Xattr(code) => {
                    format!("extended attributes of {of_entries} could not be restored: {}", why_refused(code))
                }
                Refusal::Device => {
                    format!("{} could not be made: not permitted", counted("device node", "device nodes"))
                }
            };
            sink.note(&first, message);
        }
    }
}

fn why_refused(code: i32) -> &'static str {
    if code == Errno::OPNOTSUPP.raw_os_error() { "not supported" } else { "not permitted" }
}

fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// What is permitted without an entry's ACL. With one, the middle bits of the mode are the most that anybody but owner and
/// others may; the group itself may be granted less.
fn without_acl(mode: u32, entry: &Entry) -> u32 {
    const GROUP: [u8; 2] = [4, 0];
    const HEAD_LEN: usize = 4;
    let Some(acl) = entry.xattrs.iter().find(|xattr| xattr.name == ACCESS_ACL) else { return mode };
    // A version, then of each entry: tag, permissions, id.
    let entries = acl.value.get(HEAD_LEN..).unwrap_or_default().chunks_exact(8);
    let group = entries.filter(|entry| entry.starts_with(&GROUP)).map(|entry| u32::from(entry[2] & 7)).next();
    mode & !0o070 | mode & (group.unwrap_or(0) << 3)
}

/// The names of what a file has; none if they cannot be had, as on file systems without extended attributes.
fn list_xattrs(handle: Handle<'_>) -> Vec<Vec<u8>> {
    let list = |buffer: &mut [u8]| match handle {
        Handle::Open(fd) => retry(|| rustix::fs::flistxattr(fd, &mut *buffer)),
        Handle::Path(fd) => retry(|| rustix::fs::listxattr(path_of(fd), &mut *buffer)),
    };
    let mut small = [0; 1024];
    let mut large = Vec::new();
    let names = match list(&mut small) {
        Ok(len) => &small[..len],
        Err(Errno::RANGE) => {
            // The most that the system gives.
            large.resize(65_536, 0);
            let len = list(&mut large).unwrap_or(0);
            &large[..len]
        }
        Err(_) => &[],
    };
    names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

fn set_mode(handle: Handle<'_>, mode: u32) -> Result<(), RestoreError> {
    let mode = Mode::from_raw_mode(mode);
    match handle {
        Handle::Open(fd) => retry(|| rustix::fs::fchmod(fd, mode)),
        Handle::Path(fd) => retry(|| rustix::fs::chmodat(CWD, path_of(fd), mode, AtFlags::empty())),
    }
    .map_err(|error| RestoreError::io(FileOp::SetMode, error))
}

fn set_times(handle: Handle<'_>, entry: &Entry) -> Result<(), RestoreError> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        // Larger values are the system's words for "now" and "leave it".
        last_modification: Timespec { tv_sec: entry.mtime.secs, tv_nsec: entry.mtime.nanos.min(999_999_999).into() },
    };
    match handle {
        Handle::Open(fd) => retry(|| rustix::fs::futimens(fd, &times)),
        Handle::Path(fd) => retry(|| rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)),
    }
    .map_err(|error| RestoreError::io(FileOp::SetTimes, error))
}

/// As tar does: the names count where this system knows them, since the numbers are another system's.
fn look_up(owner: &Owner) -> Ids {
    // A directory service that fails is one that does not know the name.
    let uid = match &*owner.user {
        "" => None,
        name => nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()),
    };
    let gid = match &*owner.group {
        "" => None,
        name => nix::unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()),
    };
    Ids { uid: uid.unwrap_or(owner.uid), gid: gid.unwrap_or(owner.gid) }
}

/// Read, not asked for: the system call that tells it sets it as well, for all threads.
fn umask_of_this_process() -> u32 {
    const USUAL: u32 = 0o022;
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return USUAL;
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))
        .and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok())
        .unwrap_or(USUAL)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::sync::Arc;

    use super::super::fixture::{Scene, as_nobody, entry, is_root, read, sized, symlink};
    use super::super::policy::{Overwrite, RestorePolicy};
    use super::*;
    use crate::format::entry::Xattr;
    use crate::primitives::fs::Timestamp;

    const ALWAYS: Overwrite = Overwrite::Always;

    #[test]
    fn a_name_that_is_known_here_wins_over_the_number() {
        let root = Owner { uid: 4711, gid: 4712, user: "root".into(), group: "root".into() };
        assert_eq!(look_up(&root), Ids { uid: 0, gid: 0 });
        let strange = Owner { user: "no such user".into(), group: "".into(), ..root.clone() };
        assert_eq!(look_up(&strange), Ids { uid: 4711, gid: 4712 });
        let hostile = Owner { user: "ro\0ot".into(), group: "\n:".into(), ..root };
        assert_eq!(look_up(&hostile), Ids { uid: 4711, gid: 4712 });
    }

    #[test]
    fn modes_are_as_stored_whatever_they_are_and_in_whatever_order() {
        let mut scene = Scene::new(ALWAYS);
        let modes = [0o644, 0o600, 0o666, 0o777, 0o4755, 0o644, 0o666, 0o2711, 0o000, 0o1644, 0o444, 0o6777, 0o222];
        for (index, mode) in modes.into_iter().enumerate() {
            scene.file_of(Entry { mode, ..sized(entry(format!("f{index}"), EntryType::File), 1) }, b"x");
        }
        for (index, mode) in modes.into_iter().enumerate() {
            let stat = std::fs::metadata(scene.at(&format!("f{index}"))).unwrap();
            assert_eq!(stat.mode() & 0o7777, mode, "{index}: {mode:o}");
        }
        assert!(scene.sink.all_restored());
    }

    #[test]
    fn times_before_1970_and_far_from_now_come_back_to_the_nanosecond() {
        let mut scene = Scene::new(ALWAYS);
        for (name, secs, nanos) in [("a", -1, 999_999_999), ("b", -2_000_000_000, 1), ("c", 4_000_000_000, 5)] {
            let mtime = Timestamp { secs, nanos };
            scene.file_of(Entry { mtime, ..sized(entry(name, EntryType::File), 1) }, b"x");
            let link = format!("{name}-link");
            scene.create(Entry { mtime, ..symlink(&link, "x") });
            for path in [name, &link] {
                let stat = std::fs::symlink_metadata(scene.at(path)).unwrap();
                assert_eq!((stat.mtime(), stat.mtime_nsec()), (secs, i64::from(nanos)), "{path}");
            }
        }
    }

    #[test]
    fn owners_and_setuid_bits_come_back_as_root() {
        if !is_root() {
            return;
        }
        let mut scene = Scene::new(ALWAYS);
        let owner = Owner { uid: 12_345, gid: 23_456, ..Owner::default() };
        let of = |entry: Entry| Entry { owner: owner.clone(), ..entry };
        scene.destination.make_directory(Arc::new(of(Entry { mode: 0o2750, ..entry("d", EntryType::Directory) })));
        for name in ["d/a", "d/b"] {
            scene.file_of(of(Entry { mode: 0o6755, ..sized(entry(name, EntryType::File), 1) }), b"x");
        }
        scene.create(of(symlink("d/link", "a")));
        scene.create(of(entry("d/fifo", EntryType::Fifo)));
        scene.destination.finish();
        for path in ["d", "d/a", "d/b", "d/link", "d/fifo"] {
            let stat = std::fs::symlink_metadata(scene.at(path)).unwrap();
            assert_eq!((stat.uid(), stat.gid()), (12_345, 23_456), "{path}");
        }
        assert_eq!(std::fs::metadata(scene.at("d/b")).unwrap().mode() & 0o7777, 0o6755);
        assert_eq!(std::fs::metadata(scene.at("d")).unwrap().mode() & 0o7777, 0o2750);
        assert!(scene.sink.notes().is_empty());
    }

    #[test]
    fn the_group_of_a_setgid_directory_does_not_stick_to_files_of_another() {
        if !is_root() {
            return;
        }
        let mut scene = Scene::prepared(ALWAYS, |root| {
            std::fs::create_dir(root.join("d")).unwrap();
            std::os::unix::fs::chown(root.join("d"), None, Some(4242)).unwrap();
            std::fs::set_permissions(root.join("d"), std::fs::Permissions::from_mode(0o2777)).unwrap();
        });
        for name in ["d/a", "d/b", "d/c"] {
            scene.file(name, b"x");
            assert_eq!(std::fs::metadata(scene.at(name)).unwrap().gid(), rustix::process::getegid().as_raw());
        }
    }

    #[test]
    fn who_may_not_give_files_away_gets_one_note_and_no_setuid_bits() {
        if !is_root() {
            return;
        }
        let outer = tempfile::tempdir().unwrap();
        std::fs::set_permissions(outer.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let _removed_by_root = as_nobody(move || {
            let root = outer.path().join("to");
            let mut scene = Scene::open(outer, root, RestorePolicy::default());
            let owner = Owner { uid: 0, gid: 0, ..Owner::default() };
            for name in ["a", "b", "c"] {
                let file = Entry { owner: owner.clone(), mode: 0o6755, ..sized(entry(name, EntryType::File), 1) };
                scene.file_of(file, b"x");
            }
            let own = Entry { mode: 0o4755, ..sized(entry("own", EntryType::File), 1) };
            scene.file_of(own, b"x");
            let capability = Xattr { name: b"trusted.flint".to_vec(), value: vec![1] };
            let caps = Entry { xattrs: vec![capability], ..sized(entry("caps", EntryType::File), 1) };
            scene.file_of(caps, b"x");
            scene.create(Entry { rdev: 259, ..entry("dev", EntryType::CharDevice) });
            scene.destination.finish();
            assert_eq!(std::fs::metadata(scene.at("c")).unwrap().mode() & 0o7777, 0o755);
            assert_eq!(std::fs::metadata(scene.at("own")).unwrap().mode() & 0o7777, 0o4755);
            assert_eq!(scene.sink.of("a"), "restored");
            assert_eq!(scene.sink.of("dev"), "skipped");
            let expected = [
                ("a", "owner of 3 entries could not be restored: not permitted"),
                ("a", "setuid and setgid bits of 3 entries were left out, since the owner is another"),
                ("caps", "extended attributes of 1 entry could not be restored: not permitted"),
                ("dev", "1 device node could not be made: not permitted"),
            ];
            let notes = scene.sink.notes();
            let notes: Vec<_> = notes.iter().map(|(path, note)| (str::from_utf8(path).unwrap(), &note[..])).collect();
            assert_eq!(notes, expected);
            scene
        });
    }

    #[test]
    fn extended_attributes_come_back_and_one_that_cannot_be_kept_is_told() {
        let mut scene = Scene::new(ALWAYS);
        let xattr = |name: &str, len: usize| Xattr { name: name.into(), value: vec![7; len] };
        let good = Entry { xattrs: vec![xattr("user.one", 3)], ..sized(entry("good", EntryType::File), 1) };
        scene.file_of(Entry { mode: 0o444, ..good }, b"x");
        // Larger than the kernel takes.
        let bad = vec![xattr("user.big", 70_000), xattr("user.small", 1)];
        scene.file_of(Entry { xattrs: bad, ..sized(entry("bad", EntryType::File), 1) }, b"x");
        let value = |path, name: &str| {
            let mut value = Vec::with_capacity(16);
            rustix::fs::getxattr(scene.at(path), name, rustix::buffer::spare_capacity(&mut value)).map(|_| value)
        };
        if scene.sink.of("good") == "restored" && value("good", "user.one").is_err() {
            return; // a file system without extended attributes
        }
        assert_eq!(value("good", "user.one").unwrap(), [7; 3]);
        assert!(scene.sink.of("bad").starts_with("cannot set extended attributes"), "{}", scene.sink.of("bad"));
        assert_eq!(value("bad", "user.small").unwrap(), [7]);
        assert_eq!(read(scene.at("bad")), b"x");
    }

    #[test]
    fn what_is_not_to_be_preserved_is_not() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("to");
        let preserve = Preserve { owner: false, mode: false, times: false, xattr: false, acl: false, devices: false };
        let mut scene = Scene::open(outer, root, RestorePolicy { preserve, ..RestorePolicy::default() });
        let owner = Owner { uid: 12_345, gid: 23_456, ..Owner::default() };
        let xattrs = vec![Xattr { name: b"user.one".to_vec(), value: vec![7] }];
        let file = sized(entry("f", EntryType::File), 1);
        scene.file_of(Entry { owner, xattrs, mode: 0o6700, mtime: Timestamp { secs: 5, nanos: 0 }, ..file }, b"x");
        scene.create(Entry { rdev: 259, ..entry("dev", EntryType::CharDevice) });
        scene.destination.finish();
        let stat = std::fs::metadata(scene.at("f")).unwrap();
        assert_eq!((stat.uid(), stat.mode() & 0o7777), (rustix::process::geteuid().as_raw(), 0o700));
        assert!(stat.mtime() > 5);
        assert_eq!(scene.sink.of("dev"), "skipped");
        assert!(scene.sink.notes().is_empty());
    }

    /// An ACL: owner, user 1, group, mask, others, of these permissions.
    fn acl(owner: u8, user: u8, group: u8, mask: u8, others: u8) -> Vec<u8> {
        let any = [255; 4];
        let entries = [(1, owner, any), (2, user, [1, 0, 0, 0]), (4, group, any), (16, mask, any), (32, others, any)];
        let entries = entries.into_iter().flat_map(|(tag, may, id)| [&[tag, 0, may, 0][..], &id].concat());
        [2, 0, 0, 0].into_iter().chain(entries).collect()
    }

    fn with(entry: Entry, xattrs: &[(&str, &[u8])]) -> Entry {
        let xattr = |(name, value): &(&str, &[u8])| Xattr { name: name.as_bytes().to_vec(), value: value.to_vec() };
        Entry { xattrs: xattrs.iter().map(xattr).collect(), ..entry }
    }

    fn names_of(path: impl AsRef<std::path::Path>) -> Vec<String> {
        let fd = rustix::fs::open(path.as_ref(), rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
        let mut names: Vec<_> = list_xattrs(Handle::Path(fd.as_fd()))
            .into_iter()
            .map(|name| String::from_utf8(name).unwrap())
            // Labels of the system's own.
            .filter(|name| !name.starts_with("security."))
            .collect();
        names.sort();
        names
    }

    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";

    /// Whether the file system of temporary files has ACLs.
    fn has_acls(path: &std::path::Path) -> bool {
        let has = rustix::fs::setxattr(path, DEFAULT, &acl(7, 7, 5, 7, 5), XattrFlags::empty()).is_ok();
        if has {
            rustix::fs::removexattr(path, DEFAULT).unwrap();
        }
        has
    }

    #[test]
    fn default_acls_do_not_get_at_what_is_restored_below_them() {
        // Those that are restored, and those that are there.
        for there in [false, true] {
            let default = acl(7, 7, 5, 7, 0);
            let mut can = false;
            let mut scene = Scene::prepared(ALWAYS, |root| {
                can = has_acls(root);
                if can && there {
                    rustix::fs::setxattr(root, DEFAULT, &default, XattrFlags::empty()).unwrap();
                }
            });
            if !can {
                return;
            }
            let own = with(entry("d", EntryType::Directory), &[(ACCESS, &acl(7, 5, 5, 5, 0)), (DEFAULT, &default)]);
            scene.destination.make_directory(Arc::new(Entry { mode: 0o750, ..own }));
            scene.directory("d/e");
            scene.directory("plain");
            for parent in ["d", "d/e", "plain", "no entry"] {
                scene.file(&format!("{parent}/file"), b"x");
                scene
                    .file_of(Entry { mode: 0o777, ..sized(entry(format!("{parent}/open"), EntryType::File), 1) }, b"x");
                scene.create(entry(format!("{parent}/empty"), EntryType::File));
                scene.create(entry(format!("{parent}/fifo"), EntryType::Fifo));
                scene.create(symlink(format!("{parent}/link"), "x"));
                let (_, records) = super::super::fixture::in_pieces(&format!("{parent}/large"), b"0123456789", 2);
                for (plain, piece) in &records {
                    scene.writer.write(plain, std::slice::from_ref(piece));
                }
                let kept = sized(entry(format!("{parent}/own"), EntryType::File), 1);
                scene.file_of(with(Entry { mode: 0o640, ..kept }, &[(ACCESS, &acl(6, 4, 0, 4, 0))]), b"x");
            }
            scene.destination.finish();
            assert!(scene.sink.all_restored());
            for parent in ["d", "d/e", "plain", "no entry"] {
                for name in ["file", "open", "empty", "fifo", "large"] {
                    let path = scene.at(&format!("{parent}/{name}"));
                    assert_eq!(names_of(&path), [""; 0], "{}", path.display());
                    let mode = std::fs::metadata(&path).unwrap().mode() & 0o7777;
                    assert_eq!(mode, if name == "open" { 0o777 } else { 0o644 }, "{}", path.display());
                }
                assert_eq!(names_of(scene.at(&format!("{parent}/own"))), [ACCESS]);
            }
            assert_eq!(names_of(scene.at("d")), [ACCESS, DEFAULT]);
            for path in ["d/e", "plain"] {
                assert_eq!(names_of(scene.at(path)), [""; 0], "{path}");
                assert_eq!(std::fs::metadata(scene.at(path)).unwrap().mode() & 0o7777, 0o755);
            }
        }
    }

    #[test]
    fn a_directory_that_was_there_keeps_no_attributes_that_the_entry_has_not() {
        let mut can = false;
        let scene = Scene::prepared(ALWAYS, |root| {
            can = has_acls(root);
            std::fs::create_dir(root.join("d")).unwrap();
            for (name, value) in [(ACCESS, &acl(7, 7, 7, 7, 7)), (DEFAULT, &acl(7, 7, 7, 7, 7)), ("user.old", &vec![1])]
            {
                let _ = rustix::fs::setxattr(root.join("d"), name, value, XattrFlags::empty());
            }
        });
        if !can {
            return;
        }
        let directory = with(entry("d", EntryType::Directory), &[("user.new", b"1"), (DEFAULT, &acl(7, 5, 5, 5, 0))]);
        scene.destination.make_directory(Arc::new(directory));
        scene.destination.finish();
        assert_eq!(names_of(scene.at("d")), [DEFAULT, "user.new"]);
        assert_eq!(std::fs::metadata(scene.at("d")).unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn without_its_acl_a_file_grants_its_group_no_more_than_the_acl_did() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("to");
        let preserve = Preserve { acl: false, ..Preserve::default() };
        let mut scene = Scene::open(outer, root, RestorePolicy { preserve, ..RestorePolicy::default() });
        // The mask is what the mode shows as the group's: rwx, of which the group itself has r.
        let file = Entry { mode: 0o674, ..sized(entry("f", EntryType::File), 1) };
        scene.file_of(with(file.clone(), &[(ACCESS, &acl(6, 7, 4, 7, 4))]), b"x");
        scene.file_of(Entry { path: entry("no acl", EntryType::File).path, ..file.clone() }, b"x");
        let broken = with(Entry { path: entry("broken", EntryType::File).path, ..file }, &[(ACCESS, &[2, 0, 0])]);
        scene.file_of(broken, b"x");
        scene.destination.finish();
        let mode = |path| std::fs::metadata(scene.at(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("f"), mode("no acl"), mode("broken")), (0o644, 0o674, 0o604));
    }
}
