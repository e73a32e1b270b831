//! How do the bytes of records become files? Whole small files in a handful of system calls; files that are in several
//! records piece by piece, from any worker, in any order.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use rustix::fs::OFlags;

use super::attributes::{Handle, Present, lock};
use super::beneath::{DirectoryCache, FileId, look};
use super::destination::Destination;
use super::links::open_again;
use super::place::{
    Name, Outcome, PRIVATE, create_exclusive, place, remove_open, restore_file, set_len, take_place, write_all_at,
};
use super::target::{Kept, Target};
use super::told::RestoreError;
use crate::error::{FileOp, Malformation};
use crate::format::entry::{Entry, EntryType};

/// A file on its way: shared by the pieces of it that are in several records.
///
/// If the last holder lets go of it before all pieces came, what was written is removed and nothing told.
#[derive(Debug)]
pub(crate) struct RestoreFile {
    /// What it is to become; if it has other names and this one cannot be made, one of those.
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
    /// It got ACLs from its directory.
    may_have_xattrs: bool,
    complete: bool,
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
        let entry = match before {
            Progress::Over => return,
            Progress::Waiting => Arc::clone(&self.entry),
            // Removed before it is told, so that who hears of it finds it gone.
            Progress::Begun(begun) => Arc::clone(&begun.entry),
        };
        destination.settle(&entry, Err(error));
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
        let Self { destination, cache } = self;
        destination.settle_one_of(entry, |entry| destination.restore_without_data(cache, entry));
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
        if file.pieces == count {
            self.write_whole(file, &slices);
        } else if let Err(error) = self.write_part(file, &slices) {
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
        destination.settle_one_of(Arc::clone(&file.entry), |entry| {
            destination.in_parent(cache, &entry.path, FileOp::Create, |directory, leaf| {
                restore_file(&destination.attributes, overwrite, directory, leaf, entry, &mut |target| {
                    let mut reached = 0;
                    for &(bytes, offset) in slices {
                        write_all_at(target, bytes, offset)?;
                        reached = reached.max(offset + bytes.len() as u64);
                    }
                    Ok(reached)
                })
            })
        });
    }

    fn write_part(&mut self, file: &Arc<RestoreFile>, slices: &[(&[u8], u64)]) -> Result<(), RestoreError> {
        let Some(target) = self.target(file)? else {
            return Ok(());
        };
        // Registered by now, and not locked: whoever abandons the run need not wait for it.
        target.preallocate(file.entry.size, &self.destination)?;
        for &(bytes, offset) in slices {
            target.write_all_at(bytes, offset)?;
            file.reached.fetch_max(offset + bytes.len() as u64, Ordering::Relaxed);
        }
        // Before the piece is counted: who completes the file then holds the only descriptor, and sees what closing says.
        drop(target);
        let count = u32::try_from(slices.len()).unwrap_or(u32::MAX);
        let subtract = |remaining: u32| Some(remaining.saturating_sub(count));
        // Release what was reached to the worker that finds none remaining.
        let before = file.remaining.fetch_update(Ordering::AcqRel, Ordering::Acquire, subtract);
        if before.is_ok_and(|before| before > 0 && before <= count) {
            self.complete(file);
        }
        Ok(())
    }

    /// What to write to `file` through, which is begun if need be; `None` if it is over.
    fn target(&mut self, file: &Arc<RestoreFile>) -> Result<Option<Arc<Target>>, RestoreError> {
        let mut progress = lock(&file.progress);
        match &mut *progress {
            Progress::Over => Ok(None),
            Progress::Begun(begun) => match &begun.kept {
                Some(kept) => Ok(Some(kept.target())),
                None => {
                    let opened = reopen(&mut self.cache, begun)?;
                    let (target, kept) = Kept::of(&self.destination, opened, &begun.entry);
                    begun.kept = kept;
                    Ok(Some(target))
                }
            },
            Progress::Waiting => match self.begin(Arc::clone(&file.entry)) {
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
                    Ok(None)
                }
            },
        }
    }

    /// Makes the file under its name, or under the first of its other names that can be made; `None` if there is no such
    /// name. Names that cannot be made are told of.
    fn begin(&mut self, mut entry: Arc<Entry>) -> Option<(Begun, Arc<Target>)> {
        loop {
            let outcome = match self.begin_as(&entry) {
                Ok(Some(begun)) => return Some(begun),
                Ok(None) => Ok(Outcome::Skipped),
                Err(error) => Err(error),
            };
            self.destination.settle(&entry, outcome);
            entry = self.destination.links.pass_on(&entry)?;
        }
    }

    /// `None` if the name is taken and shall stay.
    fn begin_as(&mut self, entry: &Arc<Entry>) -> Result<Option<(Begun, Arc<Target>)>, RestoreError> {
        let Self { destination, cache } = self;
        let overwrite = destination.policy.overwrite;
        let begun = destination.in_parent(cache, &entry.path, FileOp::Create, |directory, leaf| {
            let may_have_xattrs = destination.attributes.inherits(directory);
            let create = |name: &[u8]| create_exclusive(directory.fd(), name, PRIVATE);
            let Some((opened, name)) = place(directory.fd(), leaf, overwrite, FileOp::Create, create)? else {
                return Ok(None);
            };
            match look(&opened) {
                Ok(seen) => Ok(Some((opened, name, seen.id, may_have_xattrs))),
                Err(error) => {
                    remove_open(directory.fd(), leaf, &name, opened.as_fd());
                    Err(RestoreError::io(FileOp::Stat, error))
                }
            }
        })?;
        let Some((opened, name, id, may_have_xattrs)) = begun else {
            return Ok(None);
        };
        let (target, kept) = Kept::of(destination, opened, entry);
        let begun = Begun {
            destination: Arc::clone(destination),
            entry: Arc::clone(entry),
            key: destination.next_key(),
            name,
            id,
            kept,
            may_have_xattrs,
            complete: false,
        };
        Ok(Some((begun, target)))
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
        let entry = Arc::clone(&begun.entry);
        drop(begun);
        self.destination.settle(&entry, outcome);
    }

    fn complete_begun(&mut self, begun: &mut Begun, reached: u64) -> Result<Outcome, RestoreError> {
        let opened = match begun.kept.take() {
            Some(kept) => kept.target(),
            None => Arc::new(Target::new(reopen(&mut self.cache, begun)?)),
        };
        let entry = &begun.entry;
        if reached < entry.size {
            set_len(opened.as_fd(), entry.size)?;
        }
        let seen = look(&*opened).map_err(|error| RestoreError::io(FileOp::Stat, error))?;
        let present = Present { ids: seen.ids, mode: None, has_times: false, may_have_xattrs: begun.may_have_xattrs };
        let Self { destination, cache } = self;
        let lacking = destination.attributes.apply(Handle::Open(opened.as_fd()), entry, present);
        // Before it takes the place of another file: some file systems tell of a failed write only here.
        Arc::into_inner(opened).map_or(Ok(()), Target::close)?;
        destination.in_parent(cache, &entry.path, FileOp::Rename, |directory, leaf| {
            take_place(directory.fd(), leaf, &begun.name)
        })?;
        Ok(Outcome::Restored { id: entry.link.map(|_| begun.id), lacking })
    }
}

/// Opens a file for writing that was begun, and whose descriptor was not kept.
fn reopen(cache: &mut DirectoryCache, begun: &Begun) -> Result<OwnedFd, RestoreError> {
    begun.destination.in_parent(cache, &begun.entry.path, FileOp::Open, |directory, leaf| {
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
    let damaged = || RestoreError::Damaged(Malformation::Field { structure: "entry", field: "extents" });
    pieces.iter().map(|piece| slice(piece).ok_or_else(damaged)).collect()
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.destination.unregister(self.key);
        if !self.complete {
            // Closed first, so that there is a descriptor to reach the directory with.
            self.kept = None;
            self.destination.remove_incomplete(&self.entry.path, &self.name, self.id);
        }
    }
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun").field("name", &self.name).field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::super::fixture::{Scene, Sink, entry, in_pieces, is_root, piece, read, sized, symlink};
    use super::super::policy::{Overwrite, RestorePolicy};
    use super::*;
    use crate::format::entry::Extent;

    const ALWAYS: Overwrite = Overwrite::Always;
    const LOST: Malformation = Malformation::Compression;

    #[test]
    fn every_type_comes_back_with_mode_and_times() {
        let mut scene = Scene::new(ALWAYS);
        scene.directory("d");
        scene.file("d/file", b"content");
        scene.create(entry("d/empty", EntryType::File));
        scene.create(symlink("d/link", b"/no/such/../target\xFF"));
        scene.create(Entry { mode: 0o620, ..entry("d/fifo", EntryType::Fifo) });
        scene.create(Entry { rdev: rustix::fs::makedev(1, 3), ..entry("d/null", EntryType::CharDevice) });
        scene.create(Entry { rdev: rustix::fs::makedev(7, 9), ..entry("d/loop", EntryType::BlockDevice) });
        scene.destination.finish();
        let stat = |path| std::fs::symlink_metadata(scene.at(path)).unwrap();
        assert_eq!(read(scene.at("d/file")), b"content");
        assert_eq!(stat("d/empty").len(), 0);
        assert_eq!(std::fs::read_link(scene.at("d/link")).unwrap().as_os_str().as_bytes(), b"/no/such/../target\xFF");
        assert!(stat("d/fifo").file_type().is_fifo() && stat("d/fifo").mode() & 0o7777 == 0o620);
        for path in ["d", "d/file", "d/empty", "d/link", "d/fifo"] {
            assert_eq!(scene.sink.of(path), "restored");
            assert_eq!((stat(path).mtime(), stat(path).mtime_nsec()), (1_600_000_000, 123_456_789), "{path}");
        }
        assert_eq!((stat("d").mode() & 0o7777, stat("d/file").mode() & 0o7777), (0o755, 0o644));
        if is_root() {
            assert!(stat("d/null").file_type().is_char_device() && stat("d/null").rdev() == rustix::fs::makedev(1, 3));
            assert!(stat("d/loop").file_type().is_block_device());
        } else {
            assert_eq!(scene.sink.of("d/null"), "skipped");
        }
    }

    #[test]
    fn a_lost_record_takes_its_files_with_it_and_no_other() {
        for taken in [false, true] {
            let mut scene = Scene::prepared(ALWAYS, |root| {
                if taken {
                    std::fs::write(root.join("large"), "older").unwrap();
                }
            });
            let (_, records) = in_pieces("large", b"0123456789", 5);
            scene.writer.write(&records[3].0, std::slice::from_ref(&records[3].1));
            scene.writer.write(&records[0].0, std::slice::from_ref(&records[0].1));
            assert_eq!(scene.names(".").len(), 1 + usize::from(taken), "it is not begun");
            let small = Arc::new(RestoreFile::new(Arc::new(sized(entry("small", EntryType::File), 3)), 1));
            scene.writer.lose(&[piece(&small, 0, 3, 0), records[1].1.clone(), records[2].1.clone()], &LOST);
            assert_eq!(scene.names("."), if taken { vec![b"large".to_vec()] } else { Vec::new() });
            // What comes later is ignored, and told no more.
            scene.writer.write(&records[4].0, std::slice::from_ref(&records[4].1));
            scene.writer.lose(std::slice::from_ref(&records[2].1), &LOST);
            scene.file("other", b"x");
            scene.destination.finish();
            assert!(scene.sink.of("large").starts_with("damaged"), "{}", scene.sink.of("large"));
            assert!(scene.sink.of("small").starts_with("damaged"));
            assert_eq!((scene.sink.of("other").as_str(), scene.sink.total()), ("restored", 3));
            if taken {
                assert_eq!(read(scene.at("large")), b"older");
            }
            assert_eq!(scene.names(".").len(), 1 + usize::from(taken));
        }
    }

    #[test]
    fn what_is_half_written_goes_when_the_run_is_abandoned_or_forgotten() {
        for forgotten in [false, true] {
            let mut scene = Scene::new(ALWAYS);
            let (file, records) = in_pieces("large", b"0123456789", 2);
            scene.writer.write(&records[0].0, std::slice::from_ref(&records[0].1));
            assert_eq!(scene.names("."), [b"large"]);
            if forgotten {
                drop((file, records));
            } else {
                scene.destination.abandon();
                scene.writer.write(&records[1].0, std::slice::from_ref(&records[1].1));
                scene.file("late", b"x");
                scene.create(entry("empty", EntryType::File));
            }
            assert_eq!((scene.names(".").len(), scene.sink.total()), (0, 0));
        }
    }

    #[test]
    fn a_file_whose_pieces_never_came_fails_at_the_end() {
        let mut scene = Scene::new(ALWAYS);
        let (_file, records) = in_pieces("large", b"0123456789", 2);
        scene.writer.write(&records[0].0, std::slice::from_ref(&records[0].1));
        scene.destination.finish();
        assert!(scene.sink.of("large").starts_with("damaged"));
        assert!(scene.names(".").is_empty());
    }

    #[test]
    fn a_file_that_somebody_put_in_place_of_a_half_written_one_is_not_removed() {
        let mut scene = Scene::new(ALWAYS);
        let (_, records) = in_pieces("large", b"0123456789", 2);
        scene.writer.write(&records[0].0, std::slice::from_ref(&records[0].1));
        std::fs::rename(scene.at("large"), scene.at("moved")).unwrap();
        std::fs::write(scene.at("large"), "theirs").unwrap();
        scene.writer.lose(std::slice::from_ref(&records[1].1), &LOST);
        assert_eq!(read(scene.at("large")), b"theirs");
    }

    #[test]
    fn pieces_beyond_their_record_or_their_file_are_damage() {
        let mut scene = Scene::new(ALWAYS);
        let cases = [("a", 0, 11, 0), ("b", 11, 0, 0), ("c", 5, 6, 0), ("d", 0, 10, 1), ("e", 0, 10, u64::MAX)];
        for (name, at, len, file_offset) in cases {
            let file = Arc::new(RestoreFile::new(Arc::new(sized(entry(name, EntryType::File), 10)), 1));
            let mut bad = piece(&file, at, len, file_offset);
            scene.writer.write(b"0123456789", std::slice::from_ref(&bad));
            assert!(scene.sink.of(name).starts_with("damaged"), "{name}");
            bad.at = u32::MAX;
            scene.writer.write(b"0123456789", &[bad]);
        }
        assert!(scene.names(".").is_empty());
        assert_eq!(scene.sink.total(), cases.len());
    }

    #[test]
    fn holes_take_no_space_and_read_as_zeros() {
        const MIB: u64 = 1 << 20;
        let mut scene = Scene::new(ALWAYS);
        let hole =
            Entry { size: 64 * MIB, extents: vec![Extent::Hole { len: 64 * MIB }], ..entry("h", EntryType::File) };
        scene.create(hole);
        // Two pieces in one record, hole before, between and behind.
        let sparse = Arc::new(Entry { size: 64 * MIB, ..entry("s", EntryType::File) });
        let file = Arc::new(RestoreFile::new(Arc::clone(&sparse), 2));
        scene.writer.write(b"abcdef", &[piece(&file, 0, 3, MIB), piece(&file, 3, 3, 32 * MIB)]);
        // The same from two records.
        let file = Arc::new(RestoreFile::new(Arc::new(Entry { size: 64 * MIB, ..entry("t", EntryType::File) }), 2));
        scene.writer.write(b"def", &[piece(&file, 0, 3, 32 * MIB)]);
        scene.writer.write(b"abc", &[piece(&file, 0, 3, MIB)]);
        for name in ["h", "s", "t"] {
            let stat = std::fs::metadata(scene.at(name)).unwrap();
            assert_eq!(stat.len(), 64 * MIB, "{name}");
            assert!(stat.blocks() * 512 < MIB, "{name}: {}", stat.blocks());
            assert_eq!(scene.sink.of(name), "restored");
            if name != "h" {
                let content = read(scene.at(name));
                assert_eq!(content.iter().filter(|&&byte| byte != 0).count(), 6);
                assert_eq!((&content[1 << 20..][..3], &content[32 << 20..][..3]), (&b"abc"[..], &b"def"[..]));
            }
        }
    }

    #[test]
    fn pieces_from_several_threads_make_whole_files() {
        for (kept, files) in [(usize::MAX, 8), (2, 40)] {
            let scene = Scene::new(ALWAYS);
            let sink = Arc::new(Sink::default());
            let mut destination =
                Destination::open(&scene.root, RestorePolicy::default(), Arc::clone(&sink) as _).unwrap();
            destination.max_kept = destination.max_kept.min(kept);
            let destination = Arc::new(destination);
            let contents: Vec<Vec<u8>> = (0..files).map(|seed| noise(seed, 300_000 + usize::from(seed))).collect();
            let mut records = Vec::new();
            for (index, content) in contents.iter().enumerate() {
                records.extend(in_pieces(&format!("d{}/f{index}", index % 3), content, 30).1);
            }
            // An order in which neighbours are of different files.
            records.sort_by_key(|(_, piece)| (piece.file_offset.wrapping_mul(0x9E37_79B9) >> 7) & 0xFF);
            let next = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut writer = FileWriter::new(Arc::clone(&destination));
                        loop {
                            let index = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                            let Some((plain, piece)) = records.get(index) else {
                                break;
                            };
                            writer.write(plain, std::slice::from_ref(piece));
                        }
                    });
                }
            });
            destination.finish();
            assert_eq!((sink.total(), sink.all_restored()), (usize::from(files), true));
            for (index, content) in contents.iter().enumerate() {
                let mut found =
                    std::fs::OpenOptions::new().read(true).open(scene.at(&format!("d{}/f{index}", index % 3))).unwrap();
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut found, &mut bytes).unwrap();
                assert!(bytes == *content, "file {index}");
            }
        }
    }

    fn noise(seed: u8, len: usize) -> Vec<u8> {
        let mut state = u64::from(seed) + 1;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[7]
        })
        .take(len)
        .collect()
    }

    #[test]
    fn more_large_files_at_once_than_descriptors_are_no_hindrance() {
        // Alone in a process of its own, the limit could be lowered for real; here, many files over few kept ones.
        let scene = Scene::new(ALWAYS);
        let sink = Arc::new(Sink::default());
        let mut destination = Destination::open(&scene.root, RestorePolicy::default(), Arc::clone(&sink) as _).unwrap();
        destination.max_kept = 0;
        let destination = Arc::new(destination);
        let mut writer = FileWriter::new(Arc::clone(&destination));
        let files: Vec<_> = (0..300).map(|index| in_pieces(&format!("f{index}"), b"0123456789", 3).1).collect();
        for part in [2, 0, 1] {
            for records in &files {
                writer.write(&records[part].0, std::slice::from_ref(&records[part].1));
            }
        }
        assert_eq!((sink.total(), sink.all_restored()), (300, true));
        assert_eq!(read(scene.at("f299")), b"0123456789");
    }

    #[test]
    fn a_file_whose_name_was_taken_over_is_not_written_to() {
        let scene = Scene::new(ALWAYS);
        let sink = Arc::new(Sink::default());
        let mut destination = Destination::open(&scene.root, RestorePolicy::default(), Arc::clone(&sink) as _).unwrap();
        destination.max_kept = 0;
        let mut writer = FileWriter::new(Arc::new(destination));
        let (_, records) = in_pieces("large", b"0123456789", 2);
        writer.write(&records[0].0, std::slice::from_ref(&records[0].1));
        std::fs::rename(scene.at("large"), scene.at("moved")).unwrap();
        std::fs::write(scene.at("large"), "theirs, and longer").unwrap();
        writer.write(&records[1].0, std::slice::from_ref(&records[1].1));
        assert!(sink.of("large").starts_with("cannot open"), "{}", sink.of("large"));
        assert_eq!(read(scene.at("large")), b"theirs, and longer");
    }

    #[test]
    fn names_are_bytes_and_directories_hold_many() {
        let mut scene = Scene::new(ALWAYS);
        let odd = b"d/\xFF\xFE\n \\\x01*";
        let content = b"x";
        let file = Arc::new(RestoreFile::new(Arc::new(sized(entry(odd, EntryType::File), 1)), 1));
        scene.writer.write(content, &[piece(&file, 0, 1, 0)]);
        assert_eq!(scene.names("d"), [&odd[2..]]);
        scene.directory("many");
        for index in 0..20_000 {
            scene.file(&format!("many/{index}"), content);
        }
        scene.destination.finish();
        assert_eq!(scene.names("many").len(), 20_000);
        assert_eq!((scene.sink.total(), scene.sink.all_restored()), (20_002, true));
    }

    #[test]
    fn paths_longer_than_one_system_call_takes_work_for_every_type() {
        let mut scene = Scene::new(ALWAYS);
        let component = "x".repeat(200);
        let deep = vec![component.as_str(); 30].join("/");
        assert!(deep.len() > 6000);
        let at = |name: &str| format!("{deep}/{name}");
        let xattr = |entry: Entry| Entry {
            xattrs: vec![crate::format::entry::Xattr { name: b"user.deep".to_vec(), value: b"yes".to_vec() }],
            ..entry
        };
        // The second time over what the first has made, and without openat2.
        for turn in 0..2 {
            let mut parent = String::new();
            for _ in 0..30 {
                parent = if parent.is_empty() { component.clone() } else { format!("{parent}/{component}") };
                let directory = xattr(Entry { mode: 0o700 + turn, ..entry(&parent, EntryType::Directory) });
                scene.destination.make_directory(Arc::new(directory));
            }
            scene.file_of(xattr(Entry { mode: 0o4711, ..sized(entry(at("file"), EntryType::File), 4) }), b"deep");
            let (_, records) = in_pieces(&at("large"), b"0123456789", 2);
            for (plain, piece) in &records {
                scene.writer.write(plain, std::slice::from_ref(piece));
            }
            scene.create(symlink(at("symlink"), "x".repeat(4000)));
            scene.create(Entry { mode: 0o620, ..entry(at("fifo"), EntryType::Fifo) });
            scene.create(Entry { rdev: rustix::fs::makedev(1, 3), ..entry(at("null"), EntryType::CharDevice) });
            for (number, name) in ["first", "second", "third"].into_iter().enumerate() {
                let name = super::super::fixture::linked(sized(entry(at(name), EntryType::File), 4), 1);
                let role = scene.destination.link_plan(Arc::new(name.clone()));
                assert_eq!(role == super::super::links::LinkRole::First, number == 0);
                if number == 0 {
                    scene.file_of(name, b"link");
                }
            }
            // Below directories that are no entries.
            scene.file(&format!("{}/bare", deep.replace('x', "y")), b"bare");
            scene.destination.finish();
            assert_eq!((scene.sink.total(), scene.sink.all_restored()), ((30 + 8 + 1) * (turn as usize + 1), true));

            let directory = scene.destination.beneath.open(deep.as_bytes()).unwrap();
            let stat =
                |name: &str| rustix::fs::statat(&directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
            for (name, mode) in [("file", 0o104_711), ("symlink", 0o120_777), ("fifo", 0o010_620), ("large", 0o100_644)]
            {
                let found = stat(name);
                assert_eq!(
                    (found.st_mode, found.st_mtime, found.st_mtime_nsec),
                    (mode, 1_600_000_000, 123_456_789),
                    "{name}"
                );
            }
            assert_eq!((stat("file").st_size, stat("large").st_size, stat("symlink").st_size), (4, 10, 4000));
            assert!(stat("first").st_ino == stat("third").st_ino && stat("third").st_nlink == 3);
            assert!(!is_root() || stat("null").st_rdev == rustix::fs::makedev(1, 3));
            let own = stat(".");
            assert_eq!((own.st_mode & 0o7777, own.st_mtime), (0o700 + turn, 1_600_000_000));
            let by_descriptor = super::super::beneath::path_of(directory.as_fd());
            for path in [by_descriptor.clone(), format!("{by_descriptor}/file")] {
                let mut value = [0; 8];
                match rustix::fs::getxattr(&path, "user.deep", &mut value[..]) {
                    Ok(len) => assert_eq!(&value[..len], b"yes"),
                    Err(error) => assert_eq!(error, rustix::io::Errno::OPNOTSUPP, "a file system without them"),
                }
            }
            scene.destination.beneath.forget_openat2();
        }
    }

    #[test]
    fn a_directory_that_is_removed_while_it_is_cached_is_made_again() {
        let mut scene = Scene::new(ALWAYS);
        scene.file("d/one", b"1");
        std::fs::remove_dir_all(scene.at("d")).unwrap();
        scene.file("d/two", b"2");
        assert_eq!((scene.names("d"), scene.sink.of("d/two").as_str()), (vec![b"two".to_vec()], "restored"));
        assert_eq!(scene.sink.count("d/one"), 1);
    }
}
