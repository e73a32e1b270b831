//! Cutting the scanned entries into chunks: which bytes go into which record, decided in scan order by one planner, so
//! that what a vault holds does not depend on threads or timing.
//!
//! A file of at least a chunk is a sequence of chunks of its own, each a fixed range of file offsets holding the data that
//! is in it; smaller ones are put together into batches, which stay open across large files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::engine::compare::{Before, Change, change};
use crate::engine::resolve::same_content;
use crate::error::{Error, Result};
use crate::format::entry::{Entry, Extent};
use crate::format::tree::Tree;
use crate::primitives::fs::{FsKind, Stat, StatKind, Timestamp};
use crate::primitives::units::ChunkSeq;
use crate::stages::pack::read::LargeFile;
use crate::stages::pack::source::Source;
use crate::stages::{EntrySeq, FileRange, FileSlice, ReadJob, ReadPart, ScannedEntry, WholeFile};

/// The most files of a batch.
const MAX_BATCH_FILES: usize = 4096;
/// A batch is closed when this much weight has been scanned since its first file. It is half the smallest window of
/// entries in flight, so that the window can always drain without the planner.
pub(crate) const MAX_BATCH_SPAN: u64 = 8192;
/// No entry weighs more, whatever its extended attributes.
const MAX_WEIGHT: u64 = 4096;
/// Bytes of extended attributes that weigh as much as an entry.
const WEIGHT_UNIT: usize = 512;

/// Where an entry's content will come from.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// It has none, or only holes.
    None,
    /// One part of a batch.
    Whole,
    /// So many slices.
    Slices(u32),
    /// An earlier name of the same file: what that one gets.
    SameAs(EntrySeq),
    /// What the newest snapshot has: only its attributes, or its link group, are stored anew.
    Kept(Arc<Kept>),
}

/// Content of the newest snapshot that an entry keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The entry that has it, and the tree that it came from.
    pub(crate) tree: usize,
    pub(crate) entry: Entry,
    /// The link group of its names is a new one, made for the entry of this number; otherwise that of `entry`.
    pub(crate) new_group: Option<EntrySeq>,
}

/// What is done with an entry.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Nothing: the newest snapshot has it as it is.
    Keep,
    /// It is stored; the ranges are those that hold data, for [`Planner::cut`].
    Store(Planned, Vec<FileRange>),
}

/// What is known of an entry before it is read.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// Where its content comes from.
    pub(crate) content: Content,
    /// It has more names, which may come later.
    pub(crate) is_linked: bool,
}

impl Planned {
    /// How much of the window of entries in flight the entry takes.
    pub(crate) fn weight(&self, entry: &ScannedEntry) -> u64 {
        let Content::Kept(kept) = &self.content else { return weight(entry) };
        (weight(entry) + (kept.entry.extents.len() * size_of::<Extent>() / WEIGHT_UNIT) as u64).min(MAX_WEIGHT)
    }
}

/// Cuts entries into jobs.
pub(crate) struct Planner<'s> {
    source: &'s dyn Source,
    chunk_size: u64,
    next_number: u64,
    batch: Vec<WholeFile>,
    batch_len: u64,
    batch_span: u64,
    /// The trees of the newest snapshot.
    base: Vec<Arc<Tree>>,
    /// First names of files with several, by device and inode, with the names still to come.
    links: HashMap<(u64, u64), FirstSeen>,
    devices: HashMap<u64, FsKind>,
}

/// Whether a file still holds what an entry of the newest snapshot has, of the tree of that number.
pub(crate) type IsSame<'f> = dyn FnMut(&ScannedEntry, usize, &Entry) -> Result<bool> + 'f;

/// The first name of a file with several.
#[derive(Debug)]
struct FirstSeen {
    name: FirstName,
    /// Names still to come.
    left: u64,
    /// Its size and times then: an inode number may be given to another file while the scan goes on.
    size: u64,
    times: (Timestamp, Timestamp),
}

impl FirstSeen {
    fn is_file_of(&self, stat: &Stat) -> bool {
        self.size == stat.size && self.times == (stat.mtime, stat.ctime)
    }
}

/// What the later names of a file get.
#[derive(Debug, Clone)]
enum FirstName {
    /// What the first one gets, which is stored.
    Stored(EntrySeq),
    /// What the newest snapshot has for the first one.
    Kept(Arc<Kept>),
}

/// How much of the window of entries in flight an entry takes by itself.
fn weight(entry: &ScannedEntry) -> u64 {
    let bulk: usize = entry.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
    let bulk = bulk + entry.name.as_bytes().len() / 2 + entry.target.len();
    (1 + (bulk / WEIGHT_UNIT) as u64).min(MAX_WEIGHT)
}

/// How much a deleted name takes of it.
pub(crate) const DELETED_WEIGHT: u64 = 1;

impl<'s> Planner<'s> {
    /// A planner for chunks of so many bytes, and a newest snapshot that consists of these trees.
    pub(crate) fn new(source: &'s dyn Source, chunk_size: u32, base: Vec<Arc<Tree>>) -> Self {
        Self {
            source,
            base,
            chunk_size: u64::from(chunk_size),
            next_number: 0,
            batch: Vec::new(),
            batch_len: 0,
            batch_span: 0,
            links: HashMap::new(),
            devices: HashMap::new(),
        }
    }

    /// Makes room for an entry of this weight: closes a batch that has been open for long enough.
    pub(crate) fn before(&mut self, weight: u64, emit: &mut dyn FnMut(ReadJob) -> Result<()>) -> Result<()> {
        if !self.batch.is_empty() {
            self.batch_span += weight;
            if self.batch_span > MAX_BATCH_SPAN {
                return self.close_batch(emit);
            }
        }
        Ok(())
    }

    /// Decides where an entry's content comes from; the jobs follow with [`Planner::cut`].
    ///
    /// - `before`: what the newest snapshot has under its name, if that may be kept;
    /// - `is_same`: is asked of a file whose attributes alone seem to have changed.
    ///
    /// # Errors
    /// What concerns this entry alone: it could not be looked into for holes.
    pub(crate) fn plan(
        &mut self,
        seq: EntrySeq,
        entry: &ScannedEntry,
        before: Option<Before>,
        is_same: &mut IsSame<'_>,
    ) -> Result<Decision> {
        let is_linked = entry.is_linked();
        let store = |content| Ok(Decision::Store(Planned { content, is_linked }, Vec::new()));
        let (change, before) = match before {
            Some(before) if !self.is_pseudo_file(entry)? => (change(entry, &before.entry), Some(before)),
            _ => (Change::Content, None),
        };
        if is_linked {
            let id = (entry.stat.dev, entry.stat.ino);
            if let Some(seen) = self.links.get_mut(&id).filter(|seen| seen.is_file_of(&entry.stat)) {
                let first = seen.name.clone();
                seen.left -= 1;
                if seen.left == 0 {
                    self.links.remove(&id);
                }
                return match (first, before) {
                    (FirstName::Stored(first), _) => store(Content::SameAs(first)),
                    (FirstName::Kept(kept), Some(before))
                        if change == Change::Nothing
                            && kept.new_group.is_none()
                            && same_content(&self.base, (kept.tree, &kept.entry), (before.tree, &before.entry)) =>
                    {
                        Ok(Decision::Keep)
                    }
                    (FirstName::Kept(kept), _) => store(Content::Kept(kept)),
                };
            }
        }
        // Of what is no file there is no content to keep: it is stored as if it were new.
        let keeps = change == Change::Nothing || change == Change::Attributes && entry.stat.kind == StatKind::File;
        let before = match before.filter(|_| keeps) {
            // What changed the attributes changed the ctime, so only the content itself can tell.
            Some(before) if change == Change::Attributes => {
                let same = is_same(entry, before.tree, &before.entry)?;
                same.then_some(before)
            }
            before => before,
        };
        if let Some(Before { tree, entry: old, .. }) = before {
            if change == Change::Nothing && !is_linked {
                return Ok(Decision::Keep);
            }
            let new_group = old.link.is_none().then_some(seq);
            let kept = Arc::new(Kept { tree, entry: *old, new_group });
            self.remember(entry, FirstName::Kept(Arc::clone(&kept)));
            return if change == Change::Nothing { Ok(Decision::Keep) } else { store(Content::Kept(kept)) };
        }
        self.remember(entry, FirstName::Stored(seq));
        let (content, ranges) = self.content(entry)?;
        Ok(Decision::Store(Planned { content, is_linked }, ranges))
    }

    /// Remembers the first name of a file with several.
    fn remember(&mut self, entry: &ScannedEntry, name: FirstName) {
        let stat = &entry.stat;
        if entry.is_linked() {
            let seen = FirstSeen { name, left: stat.nlink - 1, size: stat.size, times: (stat.mtime, stat.ctime) };
            self.links.insert((stat.dev, stat.ino), seen);
        }
    }

    fn is_pseudo_file(&mut self, entry: &ScannedEntry) -> Result<bool> {
        Ok(entry.stat.kind == StatKind::File && self.device(entry)? == FsKind::Pseudo)
    }

    /// Where the content of an entry that is read comes from, and the ranges of the file that hold data.
    fn content(&mut self, entry: &ScannedEntry) -> Result<(Content, Vec<FileRange>)> {
        if entry.stat.kind != StatKind::File {
            return Ok((Content::None, Vec::new()));
        }
        if self.is_pseudo_file(entry)? {
            return Ok((Content::Whole, Vec::new()));
        }
        let size = entry.stat.size;
        let ranges = if size == 0 {
            Vec::new()
        } else if entry.stat.blocks.saturating_mul(512) < size {
            // Fewer blocks than bytes: there may be holes, or the file system compresses.
            let file = self.source.open(&entry.path)?;
            let ranges = file.data_ranges(size);
            ranges.map_err(|error| Error::io(crate::error::FileOp::Seek, &entry.path, error))?
        } else {
            vec![FileRange { offset: 0, len: size }]
        };
        let content = if ranges.is_empty() {
            Content::None
        } else if size < self.chunk_size {
            Content::Whole
        } else {
            Content::Slices(count_slices(&ranges, self.chunk_size, &entry.path)?)
        };
        Ok((content, ranges))
    }

    /// Emits the jobs of a planned entry, and of the batch it fills.
    pub(crate) fn cut(
        &mut self,
        seq: EntrySeq,
        entry: &ScannedEntry,
        content: &Content,
        ranges: Vec<FileRange>,
        emit: &mut dyn FnMut(ReadJob) -> Result<()>,
    ) -> Result<()> {
        let whole = |ranges: Vec<FileRange>, to_end| WholeFile {
            entry: seq,
            path: entry.path.clone(),
            stat: entry.stat.clone(),
            ranges,
            to_end,
        };
        match *content {
            Content::None | Content::SameAs(_) | Content::Kept(_) => Ok(()),
            // A file that does not say its size: a chunk of its own.
            Content::Whole if ranges.is_empty() => {
                let parts = vec![ReadPart::Whole(whole(ranges, true))];
                let number = self.number();
                emit(ReadJob { number, parts })
            }
            Content::Whole => {
                let len: u64 = ranges.iter().map(|range| range.len).sum();
                if self.batch_len + len > self.chunk_size {
                    self.close_batch(emit)?;
                }
                if self.batch.is_empty() {
                    self.batch_span = weight(entry);
                }
                self.batch_len += len;
                self.batch.push(whole(ranges, false));
                if self.batch_len == self.chunk_size || self.batch.len() == MAX_BATCH_FILES {
                    self.close_batch(emit)?;
                }
                Ok(())
            }
            Content::Slices(count) => {
                let data_len = ranges.iter().map(|range| range.len).sum();
                let file = LargeFile::new(seq, entry.path.clone(), entry.stat.clone(), count, data_len);
                let file = Arc::new(file);
                let mut index = 0;
                for_each_slice(&ranges, self.chunk_size, |ranges| {
                    let slice = FileSlice { file: Arc::clone(&file), index, ranges };
                    index += 1;
                    let number = self.number();
                    emit(ReadJob { number, parts: vec![ReadPart::Slice(slice)] })
                })
            }
        }
    }

    /// Emits the open batch.
    pub(crate) fn close_batch(&mut self, emit: &mut dyn FnMut(ReadJob) -> Result<()>) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_len = 0;
        self.batch_span = 0;
        if batch.is_empty() {
            return Ok(());
        }
        let number = self.number();
        emit(ReadJob { number, parts: batch.into_iter().map(ReadPart::Whole).collect() })
    }

    fn number(&mut self) -> ChunkSeq {
        let number = ChunkSeq(self.next_number);
        self.next_number += 1;
        number
    }

    fn device(&mut self, entry: &ScannedEntry) -> Result<FsKind> {
        if let Some(kind) = self.devices.get(&entry.stat.dev) {
            return Ok(*kind);
        }
        let kind = entry.path.file_system()?;
        self.devices.insert(entry.stat.dev, kind);
        Ok(kind)
    }
}

fn count_slices(ranges: &[FileRange], chunk_size: u64, path: &Path) -> Result<u32> {
    let mut count: u64 = 0;
    for_each_slice(ranges, chunk_size, |_| {
        count += 1;
        Ok(())
    })?;
    u32::try_from(count).map_err(|_| {
        let message = "too large for chunks of this size; a larger --chunk-size takes it";
        Error::Usage(format!("{message}: {}", path.display()))
    })
}

/// Cuts data ranges at multiples of the chunk size; every call gets what lies between two of them.
fn for_each_slice(
    ranges: &[FileRange],
    chunk_size: u64,
    mut slice: impl FnMut(Vec<FileRange>) -> Result<()>,
) -> Result<()> {
    let mut current: Vec<FileRange> = Vec::new();
    let mut current_cell = 0;
    for range in ranges {
        let (mut offset, end) = (range.offset, range.offset + range.len);
        while offset < end {
            let cell = offset / chunk_size;
            if cell != current_cell && !current.is_empty() {
                slice(std::mem::take(&mut current))?;
            }
            current_cell = cell;
            let len = end.min((cell + 1) * chunk_size) - offset;
            current.push(FileRange { offset, len });
            offset += len;
        }
    }
    if current.is_empty() { Ok(()) } else { slice(current) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::entry::EntryPath;
    use crate::stages::pack::place::SourcePath;
    use crate::stages::pack::source::FileSystem;

    fn slices(ranges: &[(u64, u64)], chunk: u64) -> Vec<Vec<(u64, u64)>> {
        let ranges: Vec<FileRange> = ranges.iter().map(|&(offset, len)| FileRange { offset, len }).collect();
        let mut out = Vec::new();
        for_each_slice(&ranges, chunk, |slice| {
            out.push(slice.iter().map(|range| (range.offset, range.len)).collect());
            Ok(())
        })
        .unwrap();
        out
    }

    #[test]
    fn a_file_is_cut_at_fixed_offsets_whatever_its_holes() {
        assert_eq!(slices(&[(0, 25)], 10), [vec![(0, 10)], vec![(10, 10)], vec![(20, 5)]]);
        assert_eq!(slices(&[(5, 10)], 10), [vec![(5, 5)], vec![(10, 5)]]);
        assert_eq!(slices(&[(0, 2), (4, 2), (40, 1)], 10), [vec![(0, 2), (4, 2)], vec![(40, 1)]]);
        assert!(slices(&[], 10).is_empty());
    }

    /// A name of a FIFO that has two.
    fn one_of_two(name: &str, ctime_secs: i64) -> ScannedEntry {
        let stat = Stat {
            kind: StatKind::Fifo,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            blocks: 0,
            mtime: Timestamp { secs: 1, nanos: 0 },
            ctime: Timestamp { secs: ctime_secs, nanos: 0 },
            dev: 1,
            ino: 7,
            nlink: 2,
            rdev: 0,
        };
        ScannedEntry {
            name: EntryPath::parse(name.as_bytes()).unwrap(),
            path: SourcePath::alone(Path::new(name)),
            stat,
            target: Vec::new(),
            xattrs: Vec::new(),
            xattrs_known: true,
        }
    }

    #[test]
    fn an_inode_number_that_was_given_to_another_file_during_the_scan_is_another_file() {
        let mut planner = Planner::new(&FileSystem, 256 << 10, Vec::new());
        let mut content = |seq, entry: &ScannedEntry| match planner
            .plan(EntrySeq(seq), entry, None, &mut |_, _, _| Ok(true))
            .unwrap()
        {
            Decision::Store(planned, _) => planned.content,
            Decision::Keep => panic!("there is nothing to keep"),
        };
        assert!(matches!(content(0, &one_of_two("a", 5)), Content::None));
        assert!(matches!(content(1, &one_of_two("b", 6)), Content::None), "it has other times");
        assert!(matches!(content(2, &one_of_two("c", 6)), Content::SameAs(EntrySeq(1))));
    }
}
