//! From files to plain chunks: bytes that nobody else can change.
//!
//! Large files are mapped and copied out of the mapping by the kernel (docs/adr/0001), small ones are read. What a file
//! was before and after is compared, so that no mixture of two versions is stored unreported.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crc32c::crc32c_append;

use crate::error::{Error, FileOp, Result};
use crate::primitives::fs::{FsKind, Stat, StatKind, Timestamp, not_found_if_replaced, replaced};
use crate::primitives::pool::{BufferPool, PooledBuf};
use crate::primitives::units::ChunkSeq;
use crate::stages::pack::place::SourcePath;
use crate::stages::pack::source::{Source, SourceFile};
use crate::stages::{
    EntrySeq, FileRange, FileSlice, PartDone, PartVerdict, ReadJob, ReadPart, Stage, Weighed, WholeFile,
};

/// A ctime this near to the reading may hide a later change: the entry is never taken for unchanged.
const RACY_SECS: i64 = 2;
/// A large file that changed this lately may well grow while it is read, as logs do: then sums of its slices are kept. One
/// that grows without them is called changed.
const IN_USE_SECS: i64 = 3600;
/// Bytes read at once of what is read a second time.
const STEP: usize = 256 << 10;

/// A file of at least a chunk, shared by its slices; open as long as one of them is under way.
pub(crate) struct LargeFile {
    /// Whose bytes they are.
    pub(crate) entry: EntrySeq,
    /// Where the file is.
    pub(crate) path: SourcePath,
    /// What the scan saw.
    pub(crate) stat: Stat,
    /// It has no holes.
    is_dense: bool,
    remaining: AtomicU32,
    cut_short: AtomicBool,
    opened: OnceLock<Result<Opened, SharedError>>,
    /// Of all that was read, for a file that may grow meanwhile.
    sums: Option<Mutex<Vec<Sum>>>,
}

/// What was read of a range of a file, to find out whether it still reads the same.
#[derive(Debug, Clone, Copy)]
struct Sum {
    range: FileRange,
    crc: u32,
}

struct Opened {
    file: Box<dyn SourceFile>,
    mapped: bool,
}

/// An error that every slice of a file reports.
#[derive(Debug, Clone)]
struct SharedError {
    op: FileOp,
    kind: std::io::ErrorKind,
    raw: Option<i32>,
    message: String,
}

impl SharedError {
    fn of(error: &Error) -> Self {
        match error {
            Error::Io { op, source, .. } => {
                Self { op: *op, kind: source.kind(), raw: source.raw_os_error(), message: source.to_string() }
            }
            other => Self { op: FileOp::Open, kind: std::io::ErrorKind::Other, raw: None, message: other.to_string() },
        }
    }

    fn error(&self, path: &std::path::Path) -> Error {
        let source = match self.raw {
            Some(code) => std::io::Error::from_raw_os_error(code),
            None => std::io::Error::new(self.kind, self.message.clone()),
        };
        Error::io(self.op, path, source)
    }
}

impl LargeFile {
    /// A file that will be read in `slices` slices; `data_len` bytes of it are data, the rest holes.
    pub(crate) fn new(entry: EntrySeq, path: SourcePath, stat: Stat, slices: u32, data_len: u64) -> Self {
        let is_dense = data_len == stat.size;
        let is_in_use = stat.ctime.secs >= now().secs.saturating_sub(IN_USE_SECS);
        Self {
            entry,
            path,
            is_dense,
            sums: (is_dense && is_in_use).then(Mutex::default),
            stat,
            remaining: AtomicU32::new(slices),
            cut_short: AtomicBool::new(false),
            opened: OnceLock::new(),
        }
    }

    /// Takes note of what was read.
    fn remember(&self, ranges: &[FileRange], bytes: &[u8]) {
        if let Some(kept) = &self.sums {
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend(sums(ranges, bytes));
        }
    }
}

impl std::fmt::Debug for LargeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LargeFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A chunk as it was read.
#[derive(Debug)]
pub(crate) struct PlainChunk {
    /// The record's number.
    pub(crate) number: ChunkSeq,
    /// The bytes; empty if nothing could be read.
    pub(crate) buf: PooledBuf,
    /// Whose bytes they are.
    pub(crate) parts: Vec<PartDone>,
}

impl Weighed for ReadJob {
    fn number(&self) -> Option<u64> {
        Some(self.number.0)
    }
    fn bytes(&self) -> u64 {
        let ranges = |part: &ReadPart| match part {
            ReadPart::Whole(whole) => whole.ranges.iter().map(|range| range.len).sum::<u64>(),
            ReadPart::Slice(slice) => slice.ranges.iter().map(|range| range.len).sum(),
        };
        self.parts.iter().map(ranges).sum()
    }
}

impl Weighed for PlainChunk {
    fn number(&self) -> Option<u64> {
        Some(self.number.0)
    }
    fn bytes(&self) -> u64 {
        self.buf.len() as u64
    }
}

/// How large files are taken in by all workers of a run.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Whether to map at all, and where.
    pub(crate) mapping: Mapping,
    /// The system has refused to copy out of a mapping: said once, then every worker reads.
    pub(crate) refused: AtomicBool,
}

/// Where large files are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// Nowhere.
    Never,
    /// On local file systems.
    Local,
    /// Everywhere but on pseudo file systems, which cannot.
    Always,
}

/// One read worker.
pub(crate) struct Read<'s> {
    source: &'s dyn Source,
    intake: &'s Intake,
    pool: BufferPool,
    /// Told of every file that is taken up.
    at: &'s (dyn Fn(&std::path::Path) + Sync),
    /// Told of every step of what takes long within one item; answers whether to go on.
    step: &'s (dyn Fn() -> bool + Sync),
}

impl<'s> Read<'s> {
    /// A worker; its buffers come from `pool` and hold a chunk each.
    pub(crate) fn new(
        source: &'s dyn Source,
        intake: &'s Intake,
        pool: BufferPool,
        at: &'s (dyn Fn(&std::path::Path) + Sync),
        step: &'s (dyn Fn() -> bool + Sync),
    ) -> Self {
        Self { source, intake, pool, at, step }
    }

    /// Whether a file still holds what these sums are of. If so, that is what it held at one moment, between both
    /// readings, however it changed before and after: nothing but the size tells an appended line from a new version that
    /// is longer. What cannot be read again is not the same.
    fn still_reads(&self, file: &dyn SourceFile, sums: &[Sum]) -> bool {
        let longest = sums.iter().map(|sum| sum.range.len).max().unwrap_or(0);
        let mut buffer = vec![0; usize::try_from(longest).map_or(STEP, |longest| longest.min(STEP))];
        sums.iter().all(|sum| {
            let (mut crc, mut offset, mut left) = (0, sum.range.offset, sum.range.len);
            while left > 0 && (self.step)() {
                let len = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                let piece = &mut buffer[..len];
                if !file.read_at(piece, offset).is_ok_and(|read| read == len) {
                    return false;
                }
                crc = crc32c_append(crc, piece);
                offset += len as u64;
                left -= len as u64;
            }
            left == 0 && crc == sum.crc
        })
    }

    fn whole(&self, whole: &WholeFile, buf: &mut PooledBuf) -> PartDone {
        let at = buf.len();
        let began = now();
        let (ranges, complete, verdict, fresh) = match self.read_whole(whole, buf) {
            Ok(read) => read,
            Err(error) => {
                buf.set_len(at);
                (Vec::new(), false, PartVerdict::Failed(error), None)
            }
        };
        let ctime = fresh.as_ref().map_or(whole.stat.ctime, |stat| stat.ctime);
        PartDone {
            entry: whole.entry,
            slice: 0,
            at: u32::try_from(at).expect("chunks are at most 16 MiB"),
            ranges,
            complete,
            verdict,
            fresh: fresh.map(Box::new),
            racy: is_racy(ctime, began),
        }
    }

    fn read_whole(
        &self,
        whole: &WholeFile,
        buf: &mut PooledBuf,
    ) -> Result<(Vec<FileRange>, bool, PartVerdict, Option<Stat>)> {
        let at = buf.len();
        let file = self.source.open(&whole.path)?;
        let io = |error| Error::io(FileOp::Read, &whole.path, not_found_if_replaced(error));
        let opened = file.stat().map_err(|error| Error::io(FileOp::Stat, &whole.path, error))?;
        same_file(&opened, &whole.stat, &whole.path)?;
        if whole.to_end {
            let len = read_to_end(&*file, buf).map_err(io)?;
            let ranges = if len == 0 { Vec::new() } else { vec![FileRange { offset: 0, len }] };
            return Ok((ranges, true, PartVerdict::Good, Some(Stat { size: len, ..opened })));
        }
        let planned: u64 = whole.ranges.iter().map(|range| range.len).sum();
        let got = read_ranges(&*file, &whole.ranges, buf).map_err(io)?;
        let after = file.stat().map_err(|error| Error::io(FileOp::Stat, &whole.path, error))?;
        let all = total(&got) == planned;
        if all && unchanged(&whole.stat, &after) {
            return Ok((got, true, PartVerdict::Good, None));
        }
        // Of a file with holes it cannot be told whether it only grew: they may have been filled.
        let is_dense = planned == whole.stat.size;
        if all
            && is_dense
            && after.size > whole.stat.size
            && self.still_reads(&*file, &sums(&got, &buf.as_slice()[at..]))
        {
            return Ok((got, true, PartVerdict::Grew, None));
        }
        // Changed since the scan, or while it was read: once more, from the attributes of now, never more than planned.
        buf.set_len(at);
        let before = after;
        let available = if before.blocks * 512 < before.size {
            file.data_ranges(before.size).map_err(io)?
        } else if before.size == 0 {
            Vec::new()
        } else {
            vec![FileRange { offset: 0, len: before.size }]
        };
        // What does not fit into the chunk that was planned ends the file: it is as if it had come later.
        let clipped = total(&available) > planned;
        let ranges = clip(available, planned);
        let wanted = total(&ranges);
        let end = ranges.last().map_or(0, |range| range.offset + range.len);
        let got = read_ranges(&*file, &ranges, buf).map_err(io)?;
        let after = file.stat().map_err(|error| Error::io(FileOp::Stat, &whole.path, error))?;
        let all = total(&got) == wanted;
        let only_grew = is_dense && end >= whole.stat.size && after.size >= before.size;
        let is_of_one_moment =
            || unchanged(&before, &after) || self.still_reads(&*file, &sums(&got, &buf.as_slice()[at..]));
        let verdict = match () {
            () if all && !clipped && unchanged(&before, &after) => PartVerdict::Good,
            () if all && clipped && only_grew && is_of_one_moment() => PartVerdict::Grew,
            () => PartVerdict::Changed(what_changed(&whole.stat, &after)),
        };
        Ok((got, all && !clipped, verdict, Some(before)))
    }

    fn slice(&self, slice: &FileSlice, buf: &mut PooledBuf) -> PartDone {
        let file = &slice.file;
        let began = now();
        let read = self.read_slice(slice, buf);
        // The worker that ends the last slice compares the file with what it was.
        let is_last = file.remaining.fetch_sub(1, Ordering::AcqRel) == 1;
        let (ranges, complete, verdict) = match read {
            Err(error) => {
                buf.set_len(0);
                (Vec::new(), false, PartVerdict::Failed(error))
            }
            Ok((ranges, complete)) => {
                let verdict = if is_last { self.judge(file) } else { PartVerdict::Good };
                (ranges, complete, verdict)
            }
        };
        PartDone {
            entry: file.entry,
            slice: slice.index,
            at: 0,
            ranges,
            complete,
            verdict,
            fresh: None,
            racy: is_racy(file.stat.ctime, began),
        }
    }

    fn read_slice(&self, slice: &FileSlice, buf: &mut PooledBuf) -> Result<(Vec<FileRange>, bool)> {
        let file = &slice.file;
        let opened = file.opened.get_or_init(|| self.open_large(file).map_err(|error| SharedError::of(&error)));
        let opened = opened.as_ref().map_err(|shared| shared.error(&file.path))?;
        let mapped = opened.mapped && !self.intake.refused.load(Ordering::Relaxed);
        let read = if mapped {
            copy_ranges(&*opened.file, &slice.ranges, buf, &self.intake.refused)
        } else {
            read_ranges(&*opened.file, &slice.ranges, buf)
        };
        let got = read.map_err(|error| Error::io(FileOp::Read, &file.path, not_found_if_replaced(error)))?;
        let complete = total(&got) == total(&slice.ranges);
        if !complete {
            file.cut_short.store(true, Ordering::Release);
        }
        file.remember(&got, buf.as_slice());
        Ok((got, complete))
    }

    fn open_large(&self, file: &LargeFile) -> Result<Opened> {
        let opened = self.source.open(&file.path)?;
        let stat = opened.stat().map_err(|error| Error::io(FileOp::Stat, &file.path, error))?;
        same_file(&stat, &file.stat, &file.path)?;
        let mapped = match self.intake.mapping {
            Mapping::Never => false,
            Mapping::Local => opened.file_system().is_ok_and(|kind| kind == FsKind::Local),
            Mapping::Always => opened.file_system().is_ok_and(|kind| kind != FsKind::Pseudo),
        };
        Ok(Opened { file: opened, mapped })
    }

    fn judge(&self, file: &LargeFile) -> PartVerdict {
        let Some(Ok(opened)) = file.opened.get() else { return PartVerdict::Good };
        let after = match opened.file.stat() {
            Ok(after) => after,
            Err(error) => return PartVerdict::Failed(Error::io(FileOp::Stat, &file.path, error)),
        };
        let cut_short = file.cut_short.load(Ordering::Acquire);
        let reads_the_same = || {
            let sums = file.sums.as_ref().map(|sums| sums.lock().unwrap_or_else(PoisonError::into_inner));
            sums.is_some_and(|sums| self.still_reads(&*opened.file, &sums))
        };
        if !cut_short && unchanged(&file.stat, &after) {
            PartVerdict::Good
        } else if !cut_short && file.is_dense && after.size > file.stat.size && reads_the_same() {
            PartVerdict::Grew
        } else {
            PartVerdict::Changed(what_changed(&file.stat, &after))
        }
    }
}

impl Stage for Read<'_> {
    type In = ReadJob;
    type Out = PlainChunk;
    const NAME: &'static str = "read";

    fn process(&mut self, job: ReadJob, emit: &mut dyn FnMut(PlainChunk) -> Result<()>) -> Result<()> {
        let mut buf = self.pool.take().map_err(|error| Error::io(FileOp::Allocate, "a buffer", error))?;
        let mut parts = Vec::with_capacity(job.parts.len());
        for part in &job.parts {
            parts.push(match part {
                ReadPart::Whole(whole) => {
                    (self.at)(&whole.path);
                    self.whole(whole, &mut buf)
                }
                ReadPart::Slice(slice) => {
                    (self.at)(&slice.file.path);
                    self.slice(slice, &mut buf)
                }
            });
        }
        emit(PlainChunk { number: job.number, buf, parts })
    }
}

/// The sums of ranges that lie one behind the other in `bytes`.
fn sums(ranges: &[FileRange], mut bytes: &[u8]) -> Vec<Sum> {
    let mut sums = Vec::with_capacity(ranges.len());
    for range in ranges {
        let len = usize::try_from(range.len).map_or(bytes.len(), |len| len.min(bytes.len()));
        let (own, rest) = bytes.split_at(len);
        sums.push(Sum { range: *range, crc: crc32c_append(0, own) });
        bytes = rest;
    }
    sums
}

fn total(ranges: &[FileRange]) -> u64 {
    ranges.iter().map(|range| range.len).sum()
}

/// The first `room` bytes of some ranges.
fn clip(ranges: Vec<FileRange>, mut room: u64) -> Vec<FileRange> {
    let mut clipped = Vec::with_capacity(ranges.len());
    for range in ranges {
        let len = range.len.min(room);
        room -= len;
        if len > 0 {
            clipped.push(FileRange { len, ..range });
        }
    }
    clipped
}

/// Appends ranges of a file to the buffer; stops at the first that is cut short. Answers what was got.
fn read_ranges(file: &dyn SourceFile, ranges: &[FileRange], buf: &mut PooledBuf) -> std::io::Result<Vec<FileRange>> {
    append_ranges(ranges, buf, |dst, offset| file.read_at(dst, offset))
}

/// The same by way of mappings; sets `refused` when the system does not permit that.
fn copy_ranges(
    file: &dyn SourceFile,
    ranges: &[FileRange],
    buf: &mut PooledBuf,
    refused: &AtomicBool,
) -> std::io::Result<Vec<FileRange>> {
    append_ranges(ranges, buf, |dst, offset| {
        let (len, was_refused) = file.copy_at(dst, offset)?;
        if was_refused {
            refused.store(true, Ordering::Relaxed);
        }
        Ok(len)
    })
}

fn append_ranges(
    ranges: &[FileRange],
    buf: &mut PooledBuf,
    mut read: impl FnMut(&mut [u8], u64) -> std::io::Result<usize>,
) -> std::io::Result<Vec<FileRange>> {
    let mut got = Vec::with_capacity(ranges.len());
    for range in ranges {
        let at = buf.len();
        let room = buf.capacity() - at;
        let len = usize::try_from(range.len).map_or(room, |len| len.min(room));
        let read = read(&mut buf.whole_mut()[at..at + len], range.offset)?;
        buf.set_len(at + read);
        if read > 0 {
            got.push(FileRange { offset: range.offset, len: read as u64 });
        }
        if (read as u64) < range.len {
            break;
        }
    }
    Ok(got)
}

/// Reads a file that does not say its size; an error if it does not end within the buffer.
fn read_to_end(file: &dyn SourceFile, buf: &mut PooledBuf) -> std::io::Result<u64> {
    let at = buf.len();
    let room = buf.capacity();
    let read = file.read_at(&mut buf.whole_mut()[at..room], 0)?;
    if at + read == room && file.read_at(&mut [0], read as u64)? > 0 {
        return Err(std::io::Error::other("a file without a size that does not end within a chunk"));
    }
    buf.set_len(at + read);
    Ok(read as u64)
}

/// A file that another has been put in the place of is not the one that was to be stored.
fn same_file(opened: &Stat, planned: &Stat, path: &std::path::Path) -> Result<()> {
    if opened.kind == StatKind::File && (opened.dev, opened.ino) == (planned.dev, planned.ino) {
        return Ok(());
    }
    Err(Error::io(FileOp::Read, path, replaced()))
}

fn unchanged(before: &Stat, after: &Stat) -> bool {
    (before.size, before.mtime, before.ctime) == (after.size, after.mtime, after.ctime)
}

fn what_changed(before: &Stat, after: &Stat) -> String {
    let what = if before.size == after.size {
        "its content or attributes changed".to_owned()
    } else {
        format!("its size went from {} to {} bytes", before.size, after.size)
    };
    format!("changed while it was read ({what}); stored as it was read")
}

/// The time by the clock that file systems go by.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

/// Whether a change after `began` may show the same time as this one.
pub(crate) fn is_racy(ctime: Timestamp, began: Timestamp) -> bool {
    ctime >= Timestamp { secs: began.secs - RACY_SECS, ..began }
}
