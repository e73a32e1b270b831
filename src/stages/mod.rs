//! One step of work each, single-threaded, testable without a pipeline; and what travels between the steps.
//!
//! The type says how far data has come: a pipeline that skips encryption does not compile.

pub(crate) mod pack;
pub(crate) mod transfer;
pub(crate) mod unpack;

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Result;
use crate::format::entry::{Entry, EntryPath, Xattr};
use crate::primitives::fs::{Stat, StatKind};
use crate::primitives::units::ChunkSeq;
use crate::stages::pack::place::SourcePath;

/// One step of a pipeline: takes an item, emits none, one or many. A stage knows its work and
/// nothing of threads or channels: the engine owns those, stops on the first error, and times
/// each call, counting what is spent inside `emit` as wait on output, the rest as service.
/// One value per worker, so a stage may keep a compressor or cipher context for itself.
pub(crate) trait Stage: Send {
    /// What it takes.
    type In: Send;
    /// What it gives on.
    type Out: Send;
    /// Thread-name prefix, histogram label and `--<name>-workers`.
    const NAME: &'static str;
    /// Does the work for one item. An error ends the whole run: what concerns one file alone travels in the item.
    fn process(&mut self, item: Self::In, emit: &mut dyn FnMut(Self::Out) -> Result<()>) -> Result<()>;
}

/// An entry as the scan found it.
#[derive(Debug, Clone)]
pub(crate) struct ScannedEntry {
    /// Its name in the vault.
    pub(crate) name: EntryPath,
    /// Where it is.
    pub(crate) path: SourcePath,
    /// Its attributes.
    pub(crate) stat: Stat,
    /// A symlink's target; empty for all else.
    pub(crate) target: Vec<u8>,
    /// Extended attributes, sorted by name.
    pub(crate) xattrs: Vec<Xattr>,
    /// They could be read; if not, there are none here.
    pub(crate) xattrs_known: bool,
}

impl ScannedEntry {
    /// Whether it has more names than this one, in the sources or elsewhere.
    pub(crate) fn is_linked(&self) -> bool {
        self.stat.kind != StatKind::Directory && self.stat.nlink > 1
    }

    /// Takes the extended attributes over that an older entry of its name has, if its own could not be read: the user was
    /// told, and what was stored once is not lost by that.
    pub(crate) fn keep_unknown_xattrs(&mut self, before: Option<&Entry>) {
        if let (false, Some(before)) = (self.xattrs_known, before) {
            self.xattrs.clone_from(&before.xattrs);
        }
    }

    /// Bytes of content, as far as the scan can tell; 0 for what has none.
    pub(crate) fn content_len(&self) -> u64 {
        if self.stat.kind == StatKind::File { self.stat.size } else { 0 }
    }
}

/// What the scan tells, in the order of the index.
#[derive(Debug)]
pub(crate) enum Scanned {
    /// An entry to store.
    Entry(Box<ScannedEntry>),
    /// Something that could not be looked at.
    Failed {
        /// Where.
        path: PathBuf,
        /// What it is called in the vault; `None` if it is too long to be there.
        name: Option<EntryPath>,
        /// What is below it is unknown, too: it could not be listed, or not even be looked at. If not, it was stored as an
        /// entry, and only something that belongs to it is missing.
        subtree: bool,
        /// What was tried and why it failed.
        error: crate::error::Error,
    },
    /// Something left out on purpose, with what is below it, that the user should know of.
    Note {
        /// Where.
        path: PathBuf,
        /// What it would be called in the vault.
        name: EntryPath,
        /// Why, in words.
        message: String,
    },
}

/// The place of an entry in scan order, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntrySeq(pub(crate) u64);

/// A range of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileRange {
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// How long it is; at least 1. Ranges of one chunk sum up to no more than a chunk.
    pub(crate) len: u64,
}

/// One chunk's worth of reading: becomes the data record of the same number.
#[derive(Debug)]
pub(crate) struct ReadJob {
    /// The record's number.
    pub(crate) number: ChunkSeq,
    /// What goes into it, one after another.
    pub(crate) parts: Vec<ReadPart>,
}

/// A piece of a chunk: a whole small file, or a slice of a large one.
#[derive(Debug)]
pub(crate) enum ReadPart {
    /// A file shorter than a chunk.
    Whole(WholeFile),
    /// A slice of a file of at least a chunk.
    Slice(FileSlice),
}

/// A file that is read in one go.
#[derive(Debug)]
pub(crate) struct WholeFile {
    /// Whose bytes they are.
    pub(crate) entry: EntrySeq,
    /// Where the file is.
    pub(crate) path: SourcePath,
    /// What the scan saw.
    pub(crate) stat: Stat,
    /// The ranges that hold data.
    pub(crate) ranges: Vec<FileRange>,
    /// A file of size 0 on a pseudo file system: read to its end, at most a chunk.
    pub(crate) to_end: bool,
}

/// A slice of a large file.
#[derive(Debug)]
pub(crate) struct FileSlice {
    /// The file, shared by its slices.
    pub(crate) file: Arc<pack::read::LargeFile>,
    /// Which slice, from 0, of those that hold data.
    pub(crate) index: u32,
    /// The ranges of this slice that hold data.
    pub(crate) ranges: Vec<FileRange>,
}

/// What became of a part: told to the indexer, which completes the entry.
#[derive(Debug)]
pub(crate) struct PartDone {
    /// Whose part.
    pub(crate) entry: EntrySeq,
    /// Which slice; 0 for a whole file.
    pub(crate) slice: u32,
    /// Where its bytes begin in the record's plain text.
    pub(crate) at: u32,
    /// The ranges that were really read, one after another from `at` on.
    pub(crate) ranges: Vec<FileRange>,
    /// All that was there was read; if not, the file ends where the last range does.
    pub(crate) complete: bool,
    /// How the reading went.
    pub(crate) verdict: PartVerdict,
    /// The attributes to store, where they are newer than the scan's.
    pub(crate) fresh: Option<Box<Stat>>,
    /// The file's ctime was not earlier than 2 s before the reading.
    pub(crate) racy: bool,
}

/// How the reading of a part went.
#[derive(Debug)]
pub(crate) enum PartVerdict {
    /// As planned.
    Good,
    /// The file grew while it was read; what was there at first is stored, and was read twice: it is of one moment.
    Grew,
    /// The file changed while it was read; what was read is stored.
    Changed(String),
    /// Nothing of it is stored.
    Failed(crate::error::Error),
}

/// What a buffer takes of a permit.
pub(crate) fn footprint(buf: &crate::primitives::pool::PooledBuf) -> u64 {
    (buf.capacity() + crate::primitives::pool::HEAD_ROOM + crate::primitives::pool::TAIL_ROOM) as u64
}

/// What the engine has to know of anything that travels: how much it is.
pub(crate) trait Weighed {
    /// Bytes of content that it stands for, for the figures of its stage.
    fn bytes(&self) -> u64;
    /// The number of its chunk, if it is one.
    fn number(&self) -> Option<u64> {
        None
    }
    /// Bytes of buffers that it keeps; what its permit has beyond that is given back.
    fn held(&self) -> u64 {
        u64::MAX
    }
}
