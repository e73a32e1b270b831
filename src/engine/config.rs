//! What a caller may ask of the pipeline: threads, queues, chunks, memory, time. `fit.rs` turns it into a plan.

use std::num::NonZeroU16;
use std::time::Duration;

use crate::engine::cancel::CancelToken;

/// The most threads a stage may be given.
pub const MAX_WORKERS: u16 = 1024;
/// The smallest and the largest chunk, in bytes.
pub const CHUNK_SIZES: std::ops::RangeInclusive<u32> = (256 << 10)..=(16 << 20);
/// The chunk size where none is asked for, in bytes.
pub const DEFAULT_CHUNK_SIZE: u32 = 4 << 20;
/// How long nothing may move before a run is called stalled, where nothing else is asked for.
pub const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(300);

/// How many threads each stage gets; `None` leaves the choice to flint-pipe, which is the recommended way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Workers {
    /// For each of read, compress, encrypt and write (or read, decrypt, decompress and write) that is not set by itself.
    pub all: Option<NonZeroU16>,
    /// Threads that list directories and take attributes.
    pub scan: Option<NonZeroU16>,
    /// Threads that read files, or records of the vault.
    pub read: Option<NonZeroU16>,
    /// Threads that compress (packing only).
    pub compress: Option<NonZeroU16>,
    /// Threads that encrypt (packing only).
    pub encrypt: Option<NonZeroU16>,
    /// Threads that decrypt (the way back only).
    pub decrypt: Option<NonZeroU16>,
    /// Threads that decompress (the way back only).
    pub decompress: Option<NonZeroU16>,
    /// Threads that write records, or files.
    pub write: Option<NonZeroU16>,
}

/// How the data of large files is taken in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// Mapped where that is safe and quick (local file systems), else read.
    #[default]
    Auto,
    /// Mapped windows that the kernel copies out of.
    Mmap,
    /// `pread`.
    Read,
}

/// How much work zstd puts into a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// No compression.
    Store,
    /// A zstd level, -7 to 22.
    Zstd(i32),
    /// A level for each chunk, chosen by its content alone.
    Auto,
}

impl Default for Level {
    fn default() -> Self {
        Self::Zstd(3)
    }
}

/// What is recorded of a run beside what every report has: it takes memory, which the plan counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recording {
    /// The latencies of each second, told by [`Observer::interval`](crate::Observer::interval): 25 MiB at most.
    pub intervals: bool,
    /// Each worker's work piece by piece, as [`Report::tracks`](crate::Report::tracks): 288 KiB a worker.
    pub spans: bool,
}

/// Everything about a run that is neither its input nor its output. The default is the recommended choice.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PipelineConfig {
    /// Threads of each stage.
    pub workers: Workers,
    /// Slots of each bounded channel; `None`: twice the threads of the stage behind it.
    pub queue_depth: Option<usize>,
    /// The largest chunk in bytes, within [`CHUNK_SIZES`]; `None`: [`DEFAULT_CHUNK_SIZE`].
    pub chunk_size: Option<u32>,
    /// The ceiling of the pipeline's memory in bytes.
    pub memory: Option<u64>,
    /// A deadline for the whole operation, counted from its start.
    pub timeout: Option<Duration>,
    /// How long nothing may move; `None`: [`DEFAULT_STALL_TIMEOUT`]; zero: for ever.
    pub stall_timeout: Option<Duration>,
    /// How long to wait for the vault's locks; `None`: for ever; zero: not at all.
    pub lock_timeout: Option<Duration>,
    /// What is recorded beside what every report has.
    pub record: Recording,
    /// Stops the operation when pulled.
    pub cancel: CancelToken,
}
