//! What can go wrong, in one enum: what failed, on which path, and why.
//!
//! Code that sees only bytes answers with a [`Malformation`]; the layer that knows file and offset wraps it into an
//! [`Error`]. A message covers its own layer (`what: path`); the cause travels through `source()`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::primitives::units::FileOffset;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The operation that the system refused; reads after "cannot".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is its own words, see Display")]
pub enum FileOp {
    Open,
    Create,
    CreateBeside,
    Read,
    Write,
    Sync,
    Stat,
    Lock,
    Allocate,
    Truncate,
    Link,
    Rename,
    Replace,
    Remove,
    ListDirectory,
    ReadLink,
    CreateDirectory,
    CreateSymlink,
    CreateFifo,
    SetOwner,
    SetMode,
    SetTimes,
    ReadXattr,
    SetXattr,
    Map,
    StartThread,
    Seek,
}

impl std::fmt::Display for FileOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Create => "create",
            Self::CreateBeside => "create a new file beside",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Stat => "get the attributes of",
            Self::Lock => "lock",
            Self::Allocate => "allocate space for",
            Self::Truncate => "set the length of",
            Self::Link => "link",
            Self::Rename => "rename",
            Self::Replace => "replace",
            Self::Remove => "remove",
            Self::ListDirectory => "list directory",
            Self::ReadLink => "read symlink",
            Self::CreateDirectory => "create directory",
            Self::CreateSymlink => "create symlink",
            Self::CreateFifo => "create FIFO",
            Self::SetOwner => "set the owner of",
            Self::SetMode => "set the mode of",
            Self::SetTimes => "set the times of",
            Self::ReadXattr => "read extended attributes of",
            Self::SetXattr => "set extended attributes of",
            Self::Map => "map",
            Self::StartThread => "start a thread for",
            Self::Seek => "look for holes in",
        })
    }
}

/// What is wrong with some bytes, told by code that sees nothing but those bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformation {
    /// The magic number is another one.
    #[error("{structure}: wrong magic number")]
    Magic {
        /// Which structure, in the words of docs/FORMAT.md.
        structure: &'static str,
    },
    /// The checksum does not match: damage.
    #[error("{structure}: checksum mismatch")]
    Checksum {
        /// Which structure.
        structure: &'static str,
    },
    /// The MAC or tag does not match: damage or tampering.
    #[error("{structure}: authentication failed")]
    Forged {
        /// Which structure.
        structure: &'static str,
    },
    /// There are fewer bytes than the structure needs.
    #[error("{structure}: cut short")]
    Truncated {
        /// Which structure.
        structure: &'static str,
    },
    /// A field has a value that the format does not allow.
    #[error("{structure}: {field} is out of range")]
    Field {
        /// Which structure.
        structure: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// Bytes that must be zero are not.
    #[error("{structure}: reserved bytes are not zero")]
    Reserved {
        /// Which structure.
        structure: &'static str,
    },
    /// A part of it is: which, was reported already, or says `verify`.
    #[error("{structure}: a part of it is damaged; `verify` says which")]
    Part {
        /// Which structure.
        structure: &'static str,
    },
    /// It was made by a later version, or needs a feature unknown here.
    #[error("{structure}: format version {version} is not supported")]
    Version {
        /// Which structure.
        structure: &'static str,
        /// The version found.
        version: u32,
    },
    /// The disk does not give the bytes back.
    #[error("record: cannot be read: {why}")]
    Unreadable {
        /// What the system says.
        why: String,
    },
    /// A compressed record does not decode to the length that was promised.
    #[error("record: compressed data does not decode")]
    Compression,
}

/// Everything that can end an operation of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused an operation on a file.
    #[error("cannot {op}: {}", path.display())]
    Io {
        /// What was tried.
        op: FileOp,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no vault at this path.
    #[error("no vault: {}", .0.display())]
    NoVault(PathBuf),
    /// There is already something at this path.
    #[error("exists already: {}", .0.display())]
    Exists(PathBuf),
    /// The file is a vault of a version, or with a feature, that this program does not know.
    #[error("unsupported vault: {}", vault.display())]
    Unsupported {
        /// The vault.
        vault: PathBuf,
        /// What is not known here.
        source: Malformation,
    },
    /// Bytes of the vault are not what was written there.
    #[error("damaged at byte {}: {}", offset.0, vault.display())]
    Damaged {
        /// The vault.
        vault: PathBuf,
        /// Where the damaged structure begins.
        offset: FileOffset,
        /// What is wrong with it.
        source: Malformation,
    },
    /// No key slot opens with this password.
    #[error("wrong password: {}", .0.display())]
    WrongPassword(PathBuf),
    /// The key derivation that the vault asks for is beyond what this program allows.
    #[error("key derivation refused ({what}): {}", vault.display())]
    KdfRefused {
        /// The vault.
        vault: PathBuf,
        /// Which parameter.
        what: &'static str,
    },
    /// Another process holds the vault's lock, past the time allowed for waiting.
    #[error("locked by another process: {}", .0.display())]
    Locked(PathBuf),
    /// The deadline passed.
    #[error("the deadline of {} s passed", .0.as_secs_f64())]
    Deadline(Duration),
    /// Nothing moved for as long as the stall timeout allows.
    #[error("nothing moved for {} s, last in {stage}: {}", after.as_secs_f64(), path.display())]
    Stalled {
        /// The stage that had an item in its hands.
        stage: &'static str,
        /// The file it was last seen with, or the vault.
        path: PathBuf,
        /// The timeout.
        after: Duration,
    },
    /// The operation was cancelled.
    #[error("interrupted")]
    Interrupted,
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The operation was refused so that nothing is lost.
    #[error("{what}: {}", path.display())]
    Refused {
        /// What was refused and why.
        what: &'static str,
        /// For which file.
        path: PathBuf,
    },
    /// None of the sources could be stored; the report names the causes.
    #[error("nothing could be stored in: {}", .0.display())]
    NothingStored(PathBuf),
    /// None of the entries could be restored; the report names the causes.
    #[error("nothing could be restored to: {}", .0.display())]
    NothingRestored(PathBuf),
    /// The vault has no such snapshot.
    #[error("no snapshot {number}: {}", vault.display())]
    NoSnapshot {
        /// The vault.
        vault: PathBuf,
        /// The number asked for.
        number: u64,
        /// The newest that it has; `None` if it has none at all.
        newest: Option<u64>,
    },
    /// No entry of the snapshot has this name.
    #[error("no such entry: {name}")]
    NoEntry {
        /// The name asked for, as it would be printed.
        name: String,
        /// The stored name that is most like it.
        nearest: Option<String>,
    },
    /// The sync of a root failed: the new snapshot may be there after a power cut, or not.
    #[error("cannot write the root durably, so the new snapshot may or may not be there: {}", vault.display())]
    CommitUncertain {
        /// The vault.
        vault: PathBuf,
        /// Why the sync failed.
        source: io::Error,
    },
    /// A new file was given the vault's name, and that may not last: the old file may be there after a power cut, or the new
    /// one, either of them whole.
    #[error("the new file may or may not take the place of the old one, and either is whole: {}", vault.display())]
    ReplaceUncertain {
        /// The vault.
        vault: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A copy of the header could not be written for good while keys were changed: after a power cut the change may be
    /// there, or not.
    #[error("cannot write the header durably, so the change of the keys may or may not hold: {}", vault.display())]
    KeysUncertain {
        /// The vault.
        vault: PathBuf,
        /// Why the write or its sync failed.
        source: io::Error,
    },
    /// The keys are changed, and the spare copy of the header is not: should the other one be lost, the keys from before
    /// open the vault.
    #[error("the keys are changed, but the spare copy of the header still has the old ones: {}", vault.display())]
    SpareKeysOld {
        /// The vault.
        vault: PathBuf,
        /// Why the write or its sync failed.
        source: io::Error,
    },
    /// The vault has no such key.
    #[error("no such key: {name}: {}", vault.display())]
    NoKey {
        /// The vault.
        vault: PathBuf,
        /// What was asked for, as it would be printed.
        name: String,
    },
    /// What is to be imported is no header of a vault, or is damaged.
    #[error("not a header that was exported from a vault: {}", path.display())]
    NoHeader {
        /// What is no header.
        path: PathBuf,
        /// What is wrong with it.
        source: Malformation,
    },
    /// A segment key has sealed as many records as it may.
    #[error("the segment key has sealed its last permitted record")]
    NonceSpent,
    /// A worker ended by a panic: a defect of this program.
    #[error("internal error: a {stage} worker panicked: {message}")]
    WorkerPanicked {
        /// The stage.
        stage: &'static str,
        /// The panic's own words.
        message: String,
    },
}

/// Coarse cause, for callers that act on it. Exhaustive on purpose: a new kind does not compile until `cli/exit.rs` has
/// chosen an exit status for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it; docs are at the variants of Error")]
pub enum ErrorKind {
    Io,
    Usage,
    Refused,
    Unsupported,
    NoVault,
    Locked,
    WrongPassword,
    Integrity,
    Deadline,
    Interrupted,
}

impl Error {
    /// The system refused `op` on `path`.
    pub fn io(op: FileOp, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Io { op, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// Bytes of `vault` at `offset` are malformed; an unknown version is [`Error::Unsupported`].
    pub fn malformed(vault: impl AsRef<Path>, offset: u64, source: Malformation) -> Self {
        let vault = vault.as_ref().to_owned();
        match source {
            Malformation::Version { .. } => Self::Unsupported { vault, source },
            source => Self::Damaged { vault, offset: FileOffset(offset), source },
        }
    }

    /// Whether bytes of a vault are not what was written there, or are not given back by the disk: what can be gone past.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Io { op: FileOp::Read, .. })
    }

    /// Whether something was done all the same, or may have been: no other cause of a run's end says more.
    pub(crate) fn is_uncertain(&self) -> bool {
        matches!(
            self,
            Self::CommitUncertain { .. }
                | Self::ReplaceUncertain { .. }
                | Self::KeysUncertain { .. }
                | Self::SpareKeysOld { .. }
        )
    }

    /// The coarse cause.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. }
            | Self::CommitUncertain { .. }
            | Self::ReplaceUncertain { .. }
            | Self::KeysUncertain { .. }
            | Self::SpareKeysOld { .. }
            | Self::NonceSpent
            | Self::WorkerPanicked { .. } => ErrorKind::Io,
            Self::NoVault(_) => ErrorKind::NoVault,
            Self::Exists(_)
            | Self::Refused { .. }
            | Self::KdfRefused { .. }
            | Self::NothingStored(_)
            | Self::NothingRestored(_)
            | Self::NoSnapshot { .. }
            | Self::NoEntry { .. }
            | Self::NoKey { .. }
            | Self::NoHeader { .. } => ErrorKind::Refused,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Damaged { .. } => ErrorKind::Integrity,
            Self::WrongPassword(_) => ErrorKind::WrongPassword,
            Self::Locked(_) => ErrorKind::Locked,
            Self::Deadline(_) | Self::Stalled { .. } => ErrorKind::Deadline,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Usage(_) => ErrorKind::Usage,
        }
    }
}
