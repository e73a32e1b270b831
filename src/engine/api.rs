//! The options of each operation, and what operations answer: the words of the library's interface.

use std::path::PathBuf;

use crate::crypto::derive::KdfParams;
use crate::engine::config::{Level, PipelineConfig, ReadMode};
use crate::error::{Error, Result};
use crate::format::entry::EntryType;
use crate::primitives::fs::Timestamp;
use crate::primitives::glob::Glob;
pub use crate::stages::unpack::policy::{Overwrite, Preserve};

/// Checks a pattern of the kind that [`AddOptions::exclude`] takes.
///
/// # Errors
/// [`Error::Usage`] if it can never match anything.
pub fn check_pattern(pattern: &str) -> Result<()> {
    match Glob::parse(pattern.as_bytes()) {
        Ok(_) => Ok(()),
        Err(why) => Err(Error::Usage(format!("{pattern:?} matches nothing: {why}"))),
    }
}

/// How a vault is made.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CreateOptions {
    /// The cost of turning the password into a key.
    pub kdf: KdfParams,
    /// A name for the first password, at most 64 bytes.
    pub label: String,
}

/// What `add` stores, and how.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct AddOptions {
    /// Threads, queues, memory, deadlines.
    pub pipeline: PipelineConfig,
    /// The zstd level.
    pub level: Level,
    /// How large files are taken in.
    pub read_mode: ReadMode,
    /// Source paths are looked up from here; `None`: the working directory.
    pub directory: Option<PathBuf>,
    /// What is left out, by gitignore's rules: each is what a line of such a file would be, the root of the vault stands
    /// where the file would, and the last one that matches counts. See [`check_pattern`].
    ///
    /// A pattern with a slash in it, but for one at its end, is compared with the whole name: of `-s .` the path below the
    /// working directory, of `-s /home/u` the path from `/` on. What is below an excluded directory is out with it.
    pub exclude: Vec<String>,
    /// Of directories that hold a `CACHEDIR.TAG` (bford.info/cachedir), only that file and the directory itself are stored.
    pub exclude_caches: bool,
    /// What is on another file system than the source it lies below is left out; the directory it is mounted on is stored.
    pub one_file_system: bool,
    /// Entries of the newest snapshot that lie below the sources and are there no longer are dropped. What could not be
    /// read keeps its entries; what is left out on purpose does not.
    pub mirror: bool,
    /// Files are read even if they look unchanged.
    pub force_read: bool,
    /// Nothing is written: the report says what would be done, [`Report::plan`](crate::Report::plan) with what.
    pub dry_run: bool,
    /// Words kept with the snapshot.
    pub tags: Vec<String>,
    /// The command line, kept with the snapshot as information.
    pub command_line: Vec<String>,
    /// The scan ends when it has found so many bytes of content: for a profile, never for a backup.
    pub(crate) sample_bytes: Option<u64>,
}

/// What `remove` does.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RemoveOptions {
    /// Lock timeout, deadline, cancelling; the rest has no meaning here.
    pub pipeline: PipelineConfig,
    /// Nothing is written: the report says what would be removed.
    pub dry_run: bool,
    /// Words kept with the snapshot.
    pub tags: Vec<String>,
    /// The command line, kept with the snapshot as information.
    pub command_line: Vec<String>,
}

/// What `extract` restores, and how.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ExtractOptions {
    /// Threads, queues, memory, deadlines.
    pub pipeline: PipelineConfig,
    /// Names of entries, as they are in the vault; a directory stands for all below it. Empty: everything.
    pub files: Vec<PathBuf>,
    /// The snapshot; `None`: the newest.
    pub at: Option<u64>,
    /// Patterns by gitignore's rules, matched against names in the vault: if there are any, only entries that one of them
    /// matches are restored, or that lie below a directory which does.
    pub include: Vec<String>,
    /// Patterns by the same rules: what one of them matches is left out, with what lies below it.
    pub exclude: Vec<String>,
    /// What happens to files that are there.
    pub overwrite: Overwrite,
    /// What is restored beside names and content.
    pub preserve: Preserve,
    /// What was restored is on the disk when the operation ends.
    pub sync: bool,
    /// Nothing is written: the report says what would be restored, [`Report::plan`](crate::Report::plan) with what.
    pub dry_run: bool,
}

/// What `list` shows.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ListOptions {
    /// Names of entries; a directory stands for all below it. Empty: everything.
    pub paths: Vec<PathBuf>,
    /// The snapshot; `None`: the newest.
    pub at: Option<u64>,
}

/// What `verify` reads.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Threads, queues, memory, deadlines.
    pub pipeline: PipelineConfig,
    /// The snapshot; `None`: all of them.
    pub at: Option<u64>,
    /// The structure alone: headers, roots, commits, indexes; no data.
    pub quick: bool,
    /// So many percent of the data records, above 0 and at most 100, chosen at random: so that run after run all are read.
    /// `None`: all of them.
    pub read_data_subset: Option<f64>,
    /// No data is read: the structure is looked at, as for `quick`, and the report says how much would be read,
    /// [`Report::plan`](crate::Report::plan) with what.
    pub dry_run: bool,
}

/// What `recover` does with what it finds; by default it only says it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RecoverOptions {
    /// Threads, queues, memory, deadlines.
    pub pipeline: PipelineConfig,
    /// What authenticates is saved to a new vault at this path, with the same passwords.
    pub output: Option<PathBuf>,
    /// Headers, roots and the chain of commits are mended in the vault itself.
    pub in_place: bool,
    /// Nothing is written, whatever else is asked for.
    pub dry_run: bool,
    /// The command line, kept with snapshots whose own record is lost.
    pub command_line: Vec<String>,
}

/// Which snapshots `compact` keeps: those that any of these names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Keep {
    /// All of them.
    pub all: bool,
    /// So many, from the newest on.
    pub last: u64,
    /// Those of these numbers.
    pub snapshots: Vec<u64>,
}

impl Keep {
    /// Keeps all snapshots.
    #[must_use]
    pub fn all() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Keeps so many, from the newest on.
    #[must_use]
    pub fn last(count: u64) -> Self {
        Self { last: count, ..Self::default() }
    }

    /// Keeps those of these numbers.
    #[must_use]
    pub fn snapshots(numbers: impl Into<Vec<u64>>) -> Self {
        Self { snapshots: numbers.into(), ..Self::default() }
    }
}

/// What `compact` keeps.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CompactOptions {
    /// Threads, queues, memory, deadlines.
    pub pipeline: PipelineConfig,
    /// The snapshots that are kept. `None` will do where there is one at most.
    pub keep: Option<Keep>,
    /// Nothing is written: the report says what would be kept and about what would come back,
    /// [`Report::plan`](crate::Report::plan) with what.
    pub dry_run: bool,
}

/// How keys are changed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct KeyOptions {
    /// Lock timeout, deadline, cancelling; the rest has no meaning here.
    pub pipeline: PipelineConfig,
    /// Nothing is written: the report says whether it could be.
    pub dry_run: bool,
    /// Of a password that is added or changed, its name: at most 64 bytes, for all to read, and no other key's unless it is
    /// empty. `None`: a new one has none, a changed one keeps its own.
    pub label: Option<String>,
    /// Memory that one guess at it takes, in KiB. `None`: that of [`KdfParams::DEFAULT`], or as it was.
    pub kdf_memory_kib: Option<u32>,
    /// Passes over that memory. `None`: the same.
    pub kdf_passes: Option<u32>,
}

/// Which key is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyName {
    /// The one of this label; empty for one without.
    Label(String),
    /// The one of this id.
    Id(u32),
}

/// One way to open a vault, as [`Vault::keys`](crate::Vault::keys) answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyInfo {
    /// A password.
    Password(PasswordInfo),
    /// A key slot of a kind that this version does not know, and keeps as it is.
    Unknown {
        /// The number of its kind.
        kind: u16,
    },
}

/// A password of a vault, as far as anybody may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PasswordInfo {
    /// Its id: no other key of the vault has it or had it.
    pub id: u32,
    /// Its name; any text, so a terminal must not be given it as it is.
    pub label: String,
    /// When it was set.
    pub created: Timestamp,
    /// What one guess at it costs.
    pub kdf: KdfParams,
    /// It is the one that this [`Vault`](crate::Vault) was opened with.
    pub current: bool,
}

/// One entry of a snapshot, as `list` answers it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListEntry {
    /// Its name in the vault; bytes on Unix. Empty for the root of `-s .`.
    pub path: PathBuf,
    /// What it is.
    pub entry_type: EntryType,
    /// Bytes of content; for a symlink, of its target.
    pub size: u64,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Time of the last change of its content.
    pub mtime: Timestamp,
    /// Owner, as a number.
    pub uid: u32,
    /// Group, as a number.
    pub gid: u32,
    /// Owner's name where it had one when it was stored.
    pub user: String,
    /// Group's name where it had one.
    pub group: String,
    /// A symlink's target.
    pub target: Option<PathBuf>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// It changed while it was read.
    pub changed: bool,
}

/// One snapshot, as `list --snapshots` answers it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// Its number, never used twice.
    pub number: u64,
    /// When its commit was made.
    pub time: Timestamp,
    /// The machine.
    pub host: String,
    /// The user.
    pub user: String,
    /// The command line that made it.
    pub command_line: Vec<String>,
    /// The sources, as given.
    pub sources: Vec<PathBuf>,
    /// Words kept with it.
    pub tags: Vec<String>,
    /// Entries but directories that this run stored.
    pub files: u64,
    /// Bytes of content that this run stored.
    pub bytes: u64,
    /// Some sources could not be stored, or some of what was stored is lost.
    pub partial: bool,
    /// It was found by `recover` and does not lead to the snapshots after it; its number may be a new one.
    pub recovered: bool,
}

/// What the bytes of a vault's file are used for, as [`Vault::usage`](crate::Vault::usage) counts them. All in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VaultUsage {
    /// The file's length: the sum of all that follows.
    pub file_size: u64,
    /// Data that the newest snapshot needs.
    pub newest_data: u64,
    /// Data that only older snapshots need.
    pub older_data: u64,
    /// Indexes and commit records.
    pub index: u64,
    /// Headers, roots and the heads of segments, with the room reserved between them.
    pub headers: u64,
    /// What no snapshot refers to: padding, and what ended runs have left.
    pub unreferenced: u64,
}

/// What can be told of a vault without its password.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VaultInfo {
    /// The version of its format.
    pub format_version: u32,
    /// Its id.
    pub vault_id: [u8; 16],
    /// The header's sequence number: how often its keys were changed.
    pub sequence: u64,
    /// The newest generation: how often it was committed to.
    pub generation: u64,
    /// The file's length in bytes.
    pub file_size: u64,
    /// Each password's key derivation and label.
    pub password_slots: Vec<(KdfParams, String)>,
    /// Slots of other kinds.
    pub other_slots: usize,
    /// What is wrong with the spare copy of a header or a root, if anything is.
    pub warnings: Vec<String>,
}
