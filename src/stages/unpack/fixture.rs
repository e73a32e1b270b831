//! What the tests of this folder share: entries, a sink that remembers, and a destination in a temporary directory.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::attributes::lock;
use super::destination::Destination;
use super::policy::{Overwrite, RestorePolicy};
use super::told::{RestoreError, RestoreSink};
use super::write::{FileWriter, Piece, RestoreFile};
use crate::format::entry::{Entry, EntryPath, EntryType, Extent, LinkGroup, Owner, SegmentIndex};
use crate::primitives::fs::Timestamp;

/// What a sink was told of an entry.
#[derive(Debug)]
pub(super) enum Told {
    Restored,
    Unchanged,
    Skipped,
    Failed(RestoreError),
}

/// Remembers everything that it is told.
#[derive(Default)]
pub(super) struct Sink {
    told: Mutex<Vec<(Vec<u8>, Told)>>,
    notes: Mutex<Vec<(Vec<u8>, String)>>,
}

impl Sink {
    fn tell(&self, entry: &Entry, told: Told) {
        lock(&self.told).push((entry.path.as_bytes().to_vec(), told));
    }

    /// How often anything was told of `path`, and how often in all.
    pub(super) fn count(&self, path: &str) -> usize {
        lock(&self.told).iter().filter(|(known, _)| known == path.as_bytes()).count()
    }

    pub(super) fn total(&self) -> usize {
        lock(&self.told).len()
    }

    pub(super) fn all_restored(&self) -> bool {
        lock(&self.told).iter().all(|(_, told)| matches!(told, Told::Restored))
    }

    /// The one thing that was told of `path`: "restored", "skipped", or why it failed.
    pub(super) fn of(&self, path: impl AsRef<[u8]>) -> String {
        let told = lock(&self.told);
        let mut found = told.iter().filter(|(known, _)| known == path.as_ref()).map(|(_, told)| told);
        let Some(one) = found.next() else {
            return "nothing".to_owned();
        };
        assert!(found.next().is_none(), "told twice of {:?}", String::from_utf8_lossy(path.as_ref()));
        match one {
            Told::Restored => "restored".to_owned(),
            Told::Unchanged => "unchanged".to_owned(),
            Told::Skipped => "skipped".to_owned(),
            Told::Failed(RestoreError::Io { op, source }) => format!("cannot {op}: {source}"),
            Told::Failed(RestoreError::Damaged(what)) => format!("damaged: {what}"),
            Told::Failed(RestoreError::Unsupported(what)) => format!("unsupported: {what}"),
        }
    }

    pub(super) fn notes(&self) -> Vec<(Vec<u8>, String)> {
        lock(&self.notes).clone()
    }
}

impl RestoreSink for Sink {
    fn restored(&self, entry: &Entry) {
        self.tell(entry, Told::Restored);
    }

    fn unchanged(&self, entry: &Entry) {
        self.tell(entry, Told::Unchanged);
    }

    fn skipped(&self, entry: &Entry) {
        self.tell(entry, Told::Skipped);
    }

    fn failed(&self, entry: &Entry, error: RestoreError) {
        self.tell(entry, Told::Failed(error));
    }

    fn note(&self, path: &EntryPath, message: String) {
        lock(&self.notes).push((path.as_bytes().to_vec(), message));
    }
}

/// A destination in a directory of its own, with one writer.
pub(super) struct Scene {
    pub(super) outer: tempfile::TempDir,
    pub(super) root: PathBuf,
    pub(super) sink: Arc<Sink>,
    pub(super) destination: Arc<Destination>,
    pub(super) writer: FileWriter,
}

impl Scene {
    pub(super) fn new(overwrite: Overwrite) -> Self {
        Self::prepared(overwrite, |_| {})
    }

    /// `prepare` gets the destination, which is there already, before it is opened.
    pub(super) fn prepared(overwrite: Overwrite, prepare: impl FnOnce(&Path)) -> Self {
        let policy = RestorePolicy { overwrite, ..RestorePolicy::default() };
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("to");
        std::fs::create_dir(&root).unwrap();
        prepare(&root);
        Self::open(outer, root, policy)
    }

    pub(super) fn open(outer: tempfile::TempDir, root: PathBuf, policy: RestorePolicy) -> Self {
        let sink = Arc::new(Sink::default());
        let destination = Arc::new(Destination::open(&root, policy, Arc::clone(&sink) as _).unwrap());
        let writer = FileWriter::new(Arc::clone(&destination));
        Self { outer, root, sink, destination, writer }
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(super) fn directory(&self, path: &str) {
        self.destination.make_directory(Arc::new(entry(path, EntryType::Directory)));
    }

    /// Restores a whole file of one piece.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.file_of(sized(entry(path, EntryType::File), content.len()), content);
    }

    pub(super) fn file_of(&mut self, entry: Entry, content: &[u8]) {
        let file = Arc::new(RestoreFile::new(Arc::new(entry), 1));
        self.writer.write(content, &[piece(&file, 0, content.len(), 0)]);
    }

    pub(super) fn create(&mut self, entry: Entry) {
        self.writer.create(Arc::new(entry));
    }

    /// The names in a directory of the destination, sorted.
    pub(super) fn names(&self, path: &str) -> Vec<Vec<u8>> {
        let entries = std::fs::read_dir(self.at(path)).unwrap();
        let mut names: Vec<Vec<u8>> = entries.map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
        names.sort();
        names
    }
}

/// What a file holds, which is text.
pub(super) fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read_to_string(path).unwrap().into_bytes()
}

/// A file of `content` cut into `pieces` records of equal length (but the last).
pub(super) fn in_pieces(path: &str, content: &[u8], pieces: usize) -> (Arc<RestoreFile>, Vec<(Vec<u8>, Piece)>) {
    let count = u32::try_from(pieces).unwrap();
    let file = Arc::new(RestoreFile::new(Arc::new(sized(entry(path, EntryType::File), content.len())), count));
    let len = content.len().div_ceil(pieces);
    let records = content.chunks(len).enumerate().map(|(index, chunk)| {
        // A record holds other things before the piece.
        let plain = [b"before", chunk, b"after"].concat();
        (plain, piece(&file, 6, chunk.len(), (index * len) as u64))
    });
    let records: Vec<_> = records.collect();
    assert_eq!(records.len(), pieces);
    (file, records)
}

pub(super) fn piece(file: &Arc<RestoreFile>, at: usize, len: usize, file_offset: u64) -> Piece {
    let (at, len) = (u32::try_from(at).unwrap(), u32::try_from(len).unwrap());
    Piece { file: Arc::clone(file), at, len, file_offset }
}

/// An entry of whoever runs the test.
pub(super) fn entry(path: impl AsRef<[u8]>, entry_type: EntryType) -> Entry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Entry {
        path: EntryPath::parse(path.as_ref()).unwrap(),
        entry_type,
        mode: if entry_type == EntryType::Directory { 0o755 } else { 0o644 },
        owner: Owner { uid, gid, ..Owner::default() },
        mtime: Timestamp { secs: 1_600_000_000, nanos: 123_456_789 },
        ctime: Timestamp { secs: 0, nanos: 0 },
        dev: 0,
        ino: 0,
        size: 0,
        rdev: 0,
        target: Vec::new(),
        extents: Vec::new(),
        link: None,
        xattrs: Vec::new(),
        changed: false,
        racy: false,
    }
}

/// With content of one record.
pub(super) fn sized(mut entry: Entry, len: usize) -> Entry {
    entry.size = len as u64;
    if len > 0 {
        let record_len = u32::try_from(len).unwrap();
        let (segment, len) = (SegmentIndex(0), len as u64);
        entry.extents = vec![Extent::Data { segment, first: 7, count: 1, record_len, offset: 0, len }];
    }
    entry
}

pub(super) fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry { target: target.as_ref().to_vec(), ..entry(path, EntryType::Symlink) }
}

pub(super) fn linked(mut entry: Entry, number: u64) -> Entry {
    entry.link = Some(LinkGroup { segment: SegmentIndex(0), number });
    entry
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs `work` in a thread that is nobody, with nobody's rights; the rest of the process keeps its own.
pub(super) fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    const NOBODY: u32 = 65_534;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            rustix::thread::set_thread_gid(rustix::process::Gid::from_raw(NOBODY)).unwrap();
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(NOBODY)).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}
