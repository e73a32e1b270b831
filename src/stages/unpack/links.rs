//! Which names are one file, and how do the later ones come to be when the first is there?
//!
//! A name is linked only to one that this run wrote and that still is the inode it wrote; where the system makes no
//! link, the content is copied from there. If the first name cannot be made, the next one is tried with the content that
//! is at hand; where none is known yet, the first that comes has its content read once more.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::attributes::lock;
use super::beneath::{DirectoryCache, FileId, OpenDirectory, look, look_at, retry};
use super::destination::Destination;
use super::place::{Name, Outcome, place, remove, restore_file, take_place, write_all_at};
use super::told::RestoreError;
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
    /// None of the names so far could be made, for causes of their own: another one may.
    Blocked,
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
            Some(family) if matches!(family.fate, Fate::Blocked) => {
                (family.first, family.fate) = (entry, Fate::Unknown);
                LinkRole::First
            }
            Some(family) => {
                family.later.push(entry);
                LinkRole::Later
            }
            None => {
                families.push(Family { first: entry, fate: Fate::Unknown, later: Vec::new() });
                LinkRole::First
            }
        }
    }

    /// The name to make instead of `entry`, which could not be made and is told of: the next one that is known. Without
    /// one, the next that comes is [`LinkRole::First`] again.
    pub(super) fn pass_on(&self, entry: &Entry) -> Option<Arc<Entry>> {
        let mut families = lock(&self.families);
        let families = families.get_mut(&entry.link?)?;
        let family = families.iter_mut().find(|family| family.first.path == entry.path)?;
        if family.later.is_empty() {
            family.fate = Fate::Blocked;
            return None;
        }
        let next = family.later.remove(0);
        (family.first, family.fate) = (Arc::clone(&next), Fate::Unknown);
        Some(next)
    }

    /// Takes note of what became of an entry, if it is the first of a family.
    pub(super) fn learn(&self, entry: &Entry, outcome: &Result<Outcome, RestoreError>) {
        let Some(group) = entry.link else { return };
        let mut families = lock(&self.families);
        let family = families.get_mut(&group).and_then(|all| all.iter_mut().find(|one| one.first.path == entry.path));
        if let Some(family) = family {
            family.fate = match outcome {
                Ok(Outcome::Restored { id: Some(id), .. }) => Fate::Restored(*id),
                Ok(Outcome::Restored { id: None, .. }) => Fate::Unknown,
                // Never so for a name of several.
                Ok(Outcome::Unchanged { .. }) => Fate::Unknown,
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
        let mut linker =
            Linker { destination, first_cache: destination.new_cache(), later_cache: destination.new_cache() };
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
            // Blocked: then there are no later ones.
            Fate::Unknown | Fate::Blocked => {
                return self.fail_all(&later, &RestoreError::io(FileOp::Link, Errno::NOENT));
            }
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
        let Self { destination, first_cache, later_cache } = self;
        destination.in_parent(first_cache, &first.path, FileOp::Link, |from, first_leaf| {
            destination.in_parent(later_cache, &later.path, FileOp::Link, |to, later_leaf| {
                link_in(destination, from.fd(), first_leaf, id, to.fd(), later_leaf)
            })
        })
    }

    /// The content is read from the first name: the records that held it are long gone.
    fn copy(&mut self, first: &Entry, id: FileId, later: &Entry) -> Result<Outcome, RestoreError> {
        let Self { destination, first_cache, later_cache } = self;
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
    let is_first = |directory, leaf: &[u8]| look_at(directory, leaf).is_ok_and(|seen| seen.id == id);
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
        if let Ok(seen) = look_at(to, name.bytes(later_leaf)) {
            remove(to, later_leaf, &name, seen.id);
        }
        return Err(RestoreError::io(FileOp::Link, Errno::STALE));
    }
    let taken = take_place(to, later_leaf, &name);
    if name != Name::Final {
        // A rename onto a name of the same file succeeds and does nothing.
        remove(to, name.bytes(later_leaf), &Name::Final, id);
    }
    taken?;
    Ok(Outcome::Restored { id: Some(id), lacking: None })
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
    let seen = look(&file).map_err(|error| RestoreError::io(FileOp::Stat, error))?;
    if seen.id != id {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::fixture::{Scene, entry, linked, piece, sized, symlink};
    use super::super::policy::Overwrite;
    use super::super::write::RestoreFile;
    use super::*;
    use crate::error::Malformation;

    const ALWAYS: Overwrite = Overwrite::Always;
    const NEVER: Overwrite = Overwrite::Never;

    fn name_of_one(path: &str) -> Entry {
        linked(sized(entry(path, EntryType::File), 4), 1)
    }

    /// As the planner does: only the first name's content comes.
    fn restore(scene: &mut Scene, entry: Entry, content: &[u8]) -> LinkRole {
        let role = scene.destination.link_plan(Arc::new(entry.clone()));
        if role == LinkRole::First {
            scene.file_of(entry, content);
        }
        role
    }

    fn inode(scene: &Scene, path: &str) -> u64 {
        std::fs::symlink_metadata(scene.at(path)).unwrap().ino()
    }

    #[test]
    fn names_of_one_file_are_one_file_again() {
        let mut scene = Scene::new(ALWAYS);
        scene.directory("d");
        for path in ["a", "b", "d/c"] {
            restore(&mut scene, name_of_one(path), b"data");
        }
        let other = linked(sized(entry("other", EntryType::File), 4), 2);
        assert_eq!(restore(&mut scene, other, b"else"), LinkRole::First);
        scene.destination.finish();
        assert_eq!(inode(&scene, "a"), inode(&scene, "b"));
        assert_eq!(inode(&scene, "a"), inode(&scene, "d/c"));
        assert_ne!(inode(&scene, "a"), inode(&scene, "other"));
        assert_eq!((scene.sink.total(), scene.sink.all_restored()), (5, true));
        // Made before the directory got its times.
        assert_eq!(std::fs::metadata(scene.at("d")).unwrap().mtime(), 1_600_000_000);
    }

    #[test]
    fn names_whose_content_differs_are_not_linked() {
        let mut scene = Scene::new(ALWAYS);
        let mut changed = name_of_one("b");
        changed.extents = sized(entry("b", EntryType::File), 3).extents;
        changed.size = 3;
        assert_eq!(restore(&mut scene, name_of_one("a"), b"data"), LinkRole::First);
        assert_eq!(restore(&mut scene, changed, b"new"), LinkRole::First);
        scene.destination.finish();
        assert_ne!(inode(&scene, "a"), inode(&scene, "b"));
    }

    #[test]
    fn symlinks_can_be_linked_too() {
        let mut scene = Scene::new(ALWAYS);
        for path in ["a", "b"] {
            let entry = linked(symlink(path, "target"), 3);
            if scene.destination.link_plan(Arc::new(entry.clone())) == LinkRole::First {
                scene.create(entry);
            }
        }
        scene.destination.finish();
        assert_eq!(inode(&scene, "a"), inode(&scene, "b"));
        assert_eq!(std::fs::read_link(scene.at("b")).unwrap().as_os_str(), "target");
    }

    #[test]
    fn names_fail_with_the_first_for_damage() {
        let mut scene = Scene::new(ALWAYS);
        let lost = linked(sized(entry("lost", EntryType::File), 4), 9);
        scene.destination.link_plan(Arc::new(lost.clone()));
        scene.destination.link_plan(Arc::new(linked(sized(entry("lost too", EntryType::File), 4), 9)));
        let file = Arc::new(RestoreFile::new(Arc::new(lost), 1));
        scene.writer.lose(&[piece(&file, 0, 4, 0)], &Malformation::Compression);
        scene.destination.finish();
        assert!(scene.sink.of("lost").starts_with("damaged"));
        assert_eq!(scene.sink.of("lost too"), scene.sink.of("lost"));
        assert!(scene.names(".").is_empty());
    }

    #[test]
    fn a_name_that_is_blocked_hands_the_content_on_to_the_next() {
        // The names that come before the content does, and in how many pieces that comes.
        for (known, pieces) in [(1, 1), (2, 1), (3, 1), (5, 1), (1, 2), (2, 2), (3, 2), (5, 2)] {
            let mut scene = Scene::prepared(ALWAYS, |root| {
                for name in ["a", "b", "d"] {
                    std::fs::create_dir(root.join(name)).unwrap();
                }
            });
            let name = |path: &str| linked(sized(entry(path, EntryType::File), 4), 1);
            let mut first = Vec::new();
            let plan = |scene: &Scene, path: &str| scene.destination.link_plan(Arc::new(name(path)));
            let names = ["a", "b", "c", "d", "e"];
            for path in &names[..known] {
                if plan(&scene, path) == LinkRole::First {
                    first.push(name(path));
                }
            }
            for path in names[known..].iter().copied().map(Some).chain([None]) {
                for entry in first.drain(..) {
                    let file = Arc::new(RestoreFile::new(Arc::new(entry), pieces));
                    let half = if pieces == 1 { 4 } else { 2 };
                    for at in (0..4).step_by(half) {
                        scene.writer.write(&b"data"[at..at + half], &[piece(&file, 0, half, at as u64)]);
                    }
                }
                if let Some(path) = path.filter(|path| plan(&scene, path) == LinkRole::First) {
                    first.push(name(path));
                }
            }
            scene.destination.finish();
            let told: Vec<bool> = names.iter().map(|path| scene.sink.of(path) == "restored").collect();
            assert_eq!(told, [false, false, true, false, true], "{known} {pieces}");
            assert_eq!(inode(&scene, "c"), inode(&scene, "e"), "{known} {pieces}");
            assert_eq!(std::fs::read_to_string(scene.at("e")).unwrap(), "data");
            assert_eq!(scene.names(".").len(), 5);
        }
    }

    #[test]
    fn what_has_no_content_is_made_under_the_next_name_too() {
        let mut scene = Scene::prepared(ALWAYS, |root| std::fs::create_dir(root.join("a")).unwrap());
        for path in ["a", "b", "c"] {
            let entry = linked(entry(path, EntryType::Fifo), 3);
            if scene.destination.link_plan(Arc::new(entry.clone())) == LinkRole::First {
                scene.create(entry);
            }
        }
        scene.destination.finish();
        assert!(scene.sink.of("a").contains("Is a directory"));
        assert_eq!((scene.sink.of("b").as_str(), scene.sink.of("c").as_str()), ("restored", "restored"));
        assert_eq!(inode(&scene, "b"), inode(&scene, "c"));
    }

    #[test]
    fn a_name_whose_first_was_swapped_is_neither_linked_nor_copied() {
        for with_symlink in [true, false] {
            let mut scene = Scene::prepared(ALWAYS, |root| std::fs::write(root.join("secret"), "secret").unwrap());
            restore(&mut scene, name_of_one("a"), b"data");
            restore(&mut scene, name_of_one("b"), b"data");
            std::fs::rename(scene.at("a"), scene.at("moved")).unwrap();
            if with_symlink {
                std::os::unix::fs::symlink("secret", scene.at("a")).unwrap();
            } else {
                std::fs::write(scene.at("a"), "mine").unwrap();
            }
            let before = std::fs::symlink_metadata(scene.at("a")).unwrap();
            // The clock of file systems ticks every few milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(30));
            scene.destination.finish();
            assert!(scene.sink.of("b").starts_with("cannot open"), "{}", scene.sink.of("b"));
            assert!(!scene.names(".").contains(&b"b".to_vec()));
            // Not even for a moment: a link changes the ctime of what it leads to.
            let after = std::fs::symlink_metadata(scene.at("a")).unwrap();
            assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
        }
    }

    #[test]
    fn a_first_name_that_is_swapped_back_and_forth_is_linked_or_nothing_is() {
        let mut scene = Scene::prepared(ALWAYS, |root| std::fs::write(root.join("secret"), "secret").unwrap());
        restore(&mut scene, name_of_one("a"), b"data");
        let root = scene.destination.beneath.root();
        let id = look_at(root, b"a").unwrap().id;
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let exchange = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(root, "a", root, "secret", exchange).unwrap();
                }
            });
            let (mut linked, mut refused) = (0, 0);
            // Bounded, for a machine on which the other thread hardly runs.
            for _ in 0..50_000 {
                match link_in(&scene.destination, root, b"a", id, root, b"b") {
                    Ok(_) => {
                        linked += 1;
                        let found = look_at(root, b"b").unwrap().id;
                        rustix::fs::unlinkat(root, "b", AtFlags::empty()).unwrap();
                        if found != id {
                            stop.store(true, std::sync::atomic::Ordering::Relaxed);
                            panic!("another file was linked");
                        }
                    }
                    Err(_) => {
                        refused += 1;
                    }
                }
                if linked > 3_000 && refused > 3_000 {
                    break;
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn names_that_are_taken_are_replaced_by_links_or_left() {
        for policy in [ALWAYS, NEVER] {
            let mut scene = Scene::prepared(policy, |root| {
                std::fs::write(root.join("a"), "old").unwrap();
                std::fs::write(root.join("b"), "old").unwrap();
                std::fs::create_dir(root.join("d")).unwrap();
            });
            for path in ["a", "b", "c", "d", "e"] {
                restore(&mut scene, name_of_one(path), b"data");
            }
            scene.destination.finish();
            assert_eq!(inode(&scene, "c"), inode(&scene, "e"));
            let taken = if policy == ALWAYS { "restored" } else { "skipped" };
            assert_eq!((scene.sink.of("a").as_str(), scene.sink.of("b").as_str()), (taken, taken));
            assert_eq!(inode(&scene, "b") == inode(&scene, "c"), policy == ALWAYS);
            assert_eq!((scene.sink.of("c").as_str(), scene.sink.of("e").as_str()), ("restored", "restored"));
            assert!(scene.at("d").is_dir());
            assert_eq!(scene.sink.of("d").contains("Is a directory"), policy == ALWAYS);
            assert_eq!(scene.names(".").len(), 5, "temporary names are left");
        }
    }

    #[test]
    fn restoring_over_the_same_links_again_leaves_no_temporary_names() {
        let mut scene = Scene::new(ALWAYS);
        restore(&mut scene, name_of_one("a"), b"data");
        std::fs::hard_link(scene.at("a"), scene.at("b")).unwrap();
        restore(&mut scene, name_of_one("b"), b"data");
        scene.destination.finish();
        assert_eq!(scene.names("."), [b"a", b"b"]);
        assert_eq!(inode(&scene, "a"), inode(&scene, "b"));
        assert!(scene.sink.all_restored());
    }

    #[test]
    fn where_no_link_can_be_made_the_content_is_copied_with_its_holes() {
        const MIB: u64 = 1 << 20;
        let mut scene = Scene::new(ALWAYS);
        let sparse = |path: &str| Entry { size: 8 * MIB, ..name_of_one(path) };
        let file = Arc::new(RestoreFile::new(Arc::new(sparse("a")), 1));
        scene.destination.link_plan(Arc::new(sparse("a")));
        scene.writer.write(b"data", &[piece(&file, 0, 4, 4 * MIB)]);
        let id = look_at(scene.destination.beneath.root(), b"a").unwrap().id;
        let mut linker = Linker {
            destination: &scene.destination,
            first_cache: scene.destination.new_cache(),
            later_cache: scene.destination.new_cache(),
        };
        let copied = linker.copy(&sparse("a"), id, &sparse("b"));
        assert!(matches!(copied, Ok(Outcome::Restored { id: Some(copy), lacking: None }) if copy != id), "{copied:?}");
        let stat = std::fs::metadata(scene.at("b")).unwrap();
        assert!(stat.len() == 8 * MIB && stat.blocks() * 512 < MIB, "{} blocks", stat.blocks());
        let content = std::fs::read_to_string(scene.at("b")).unwrap();
        assert_eq!(content.trim_matches('\0'), "data");
        assert_eq!(content.find('d'), Some(4 << 20));

        let source = std::fs::OpenOptions::new().read(true).open(scene.at("a")).unwrap();
        let target = tempfile::NamedTempFile::new().unwrap();
        copy_range_through_memory(source.as_fd(), target.as_fd(), 3 * MIB, 5 * MIB).unwrap();
        assert_eq!(std::fs::read_to_string(target.path()).unwrap(), content[..5 << 20]);
    }

    #[test]
    fn beyond_the_most_links_of_a_file_another_copy_is_begun() {
        let mut scene = Scene::new(ALWAYS);
        restore(&mut scene, name_of_one("first"), b"data");
        // ext4 allows 65,000; a file system that allows more ends the loop.
        let mut links = 1;
        while links < 65_535 {
            match std::fs::hard_link(scene.at("first"), scene.outer.path().join(links.to_string())) {
                Ok(()) => links += 1,
                Err(_) => break,
            }
        }
        for path in ["x", "y"] {
            restore(&mut scene, name_of_one(path), b"data");
        }
        scene.destination.finish();
        assert_eq!((scene.sink.total(), scene.sink.all_restored()), (3, true));
        assert_eq!(inode(&scene, "x"), inode(&scene, "y"));
        assert_eq!(inode(&scene, "x") == inode(&scene, "first"), links == 65_535);
        assert_eq!(std::fs::read_to_string(scene.at("y")).unwrap(), "data");
    }
}
