//! flint-pipe: a memory-mapped streaming pipeline that packs trees of files into one encrypted, compressed, crash-safe
//! vault file, and measures every stage of itself.

mod crypto;
mod engine;
mod error;
mod format;
mod primitives;
mod stages;

pub use crate::crypto::derive::KdfParams;
pub use crate::crypto::key::Password;
pub use crate::engine::api::{
    AddOptions, CreateOptions, ExtractOptions, ListEntry, ListOptions, Overwrite, SnapshotInfo, VaultInfo,
    VerifyOptions,
};
pub use crate::engine::cancel::CancelToken;
pub use crate::engine::config::{
    CHUNK_SIZES, DEFAULT_CHUNK_SIZE, DEFAULT_STALL_TIMEOUT, Level, MAX_WORKERS, PipelineConfig, ReadMode, Workers,
};
pub use crate::engine::list::Entries;
pub use crate::engine::observe::{
    EntryError, EntryErrorKind, Failed, Notice, Observer, Progress, Report, ServiceTimes, StageReport,
};
pub use crate::engine::vault::Vault;
pub use crate::error::{Error, ErrorKind, FileOp, Malformation, Result};
pub use crate::format::entry::EntryType;
pub use crate::primitives::fs::Timestamp;
pub use crate::primitives::storage::{FileStorage, FsVaultDir, Lock, LockMode, Storage, VaultDir};
pub use crate::primitives::units::{FileOffset, format_rate, format_size, parse_size};

/// Makes this process's memory unreadable to others of the same user, and keeps it out of core files: for a binary that
/// handles passwords, at its very start.
pub fn harden_process() {
    // Best effort: where the system refuses, the program works all the same.
    let _ = primitives::sys::set_not_dumpable();
}
