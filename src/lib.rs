//! flint-pipe: a memory-mapped streaming pipeline that packs trees of files into one encrypted, compressed, crash-safe
//! vault file, and measures every stage of itself.
//!
//! Linux only. The same program as a command is `flint-pipe`; this is the library below it.
//!
//! - [`Vault::create`], [`Vault::open`] and [`Vault::open_or_create`] give a handle; it holds keys, no lock and no open file.
//! - [`Vault::add`] packs files and directories into a new snapshot, [`Vault::extract`] restores, [`Vault::copy_file`]
//!   streams one file, [`Vault::list`] and [`Vault::snapshots`] say what is there, [`Vault::verify`] authenticates it all,
//!   [`Vault::info`] says what can be told without the password.
//! - [`Vault::add_key`], [`Vault::keys`], [`Vault::remove_key`] and [`Vault::change_password`] are about who opens it;
//!   [`Vault::export_header`] and [`Vault::import_header`] keep what it is opened by elsewhere.
//! - [`Vault::compact`] gives back what no snapshot needs that is kept, [`Vault::rekey`] seals everything anew under a new master
//!   key: each by a new file that takes the place of the old one in one step.
//! - Each operation takes its options and an [`Observer`], and answers a [`Report`]; ended early, a [`Failed`] with the
//!   first cause and the report so far. An entry that could not be read or written ends nothing: it is named in
//!   [`Report::errors`], and [`Report::is_complete`] says whether there is any.
//! - [`PipelineConfig`] has the threads of each stage, the memory ceiling, deadlines and the [`CancelToken`]. Its default is
//!   the recommended choice.
//!
//! # Packing
//!
//! ```
//! use std::path::PathBuf;
//! use std::time::Duration;
//!
//! use flint_pipe::{AddOptions, CancelToken, CreateOptions, KdfParams, Notice, Observer, Password, Progress, Vault};
//!
//! /// Hears of everything while it happens, from the engine's threads.
//! struct Teller;
//!
//! impl Observer for Teller {
//!     fn notice(&self, notice: &Notice) {
//!         if let Notice::Failed(error) = notice {
//!             eprintln!("{}: {}", error.path.display(), error.message);
//!         }
//!     }
//!     fn progress(&self, progress: &Progress) {
//!         eprintln!("{} of {} bytes", progress.bytes_done, progress.bytes_known);
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = std::env::temp_dir().join(format!("flint-pipe-doc-add-{}", std::process::id()));
//! std::fs::create_dir_all(dir.join("notes"))?;
//! std::fs::write(dir.join("notes/today.txt"), "buy milk\n".repeat(1000))?;
//!
//! // The least that a new vault may cost whoever guesses passwords. `CreateOptions::default()` costs more.
//! let mut create = CreateOptions::default();
//! create.kdf = KdfParams { memory_kib: 19 * 1024, passes: 2, lanes: 1 };
//! let password = Password::new("correct horse");
//! let vault = Vault::open_or_create(dir.join("notes.flint"), &password, &create)?;
//!
//! let cancel = CancelToken::new(); // a clone of it in another thread can end the operation at any time
//! let mut options = AddOptions::default();
//! options.directory = Some(dir.clone()); // as tar's -C
//! options.pipeline.cancel = cancel.clone();
//! options.pipeline.timeout = Some(Duration::from_secs(600));
//! options.pipeline.memory = Some(256 << 20);
//!
//! let report = vault.add(&[PathBuf::from("notes")], &options, &Teller)?;
//! println!("{report}"); // add, snapshot 1: files, sizes, duration, average speed, workers
//! assert!(report.is_complete());
//! assert_eq!((report.snapshot, report.total_files, report.total_size), (Some(1), 1, 9000));
//!
//! // What is cancelled leaves the vault as it was.
//! cancel.cancel();
//! let failed = vault.add(&[PathBuf::from("notes")], &options, &()).unwrap_err();
//! assert!(matches!(failed.error, flint_pipe::Error::Interrupted));
//! assert_eq!(vault.snapshots()?.len(), 1);
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Restoring
//!
//! ```
//! use std::path::{Path, PathBuf};
//!
//! use flint_pipe::{ExtractOptions, ListOptions, Password, Vault, VerifyOptions};
//! # use flint_pipe::{AddOptions, CreateOptions, KdfParams};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = std::env::temp_dir().join(format!("flint-pipe-doc-extract-{}", std::process::id()));
//! # std::fs::create_dir_all(dir.join("notes/old"))?;
//! # std::fs::write(dir.join("notes/today.txt"), "buy milk")?;
//! # std::fs::write(dir.join("notes/old/list.txt"), "buy bread")?;
//! # let mut create = CreateOptions::default();
//! # create.kdf = KdfParams { memory_kib: 19 * 1024, passes: 2, lanes: 1 };
//! # let mut add = AddOptions::default();
//! # add.directory = Some(dir.clone());
//! # Vault::create(dir.join("notes.flint"), &Password::new("correct horse"), &create)?
//! #     .add(&[PathBuf::from("notes")], &add, &())?;
//! let password = Password::new("correct horse");
//! let vault = Vault::open(dir.join("notes.flint"), &password)?;
//!
//! // Entries come in the order of the index, in the memory of a few of its blocks, however many there are.
//! for entry in vault.list(&ListOptions::default())? {
//!     let entry = entry?;
//!     println!("{:?} {} {}", entry.entry_type, entry.size, entry.path.display());
//! }
//!
//! // Everything is authenticated, nothing is written.
//! assert!(vault.verify(&VerifyOptions::default(), &())?.is_complete());
//!
//! // No names would mean everything. A directory stands for all that is below it.
//! let mut options = ExtractOptions::default();
//! options.files = vec![PathBuf::from("notes/old")];
//! let report = vault.extract(&dir.join("out"), &options, &())?;
//! println!("{report}");
//! assert_eq!(report.successful_files, 1);
//! assert_eq!(std::fs::read_to_string(dir.join("out/notes/old/list.txt"))?, "buy bread");
//!
//! // One file, to anything that can be written to.
//! let mut bytes = Vec::new();
//! vault.copy_file(Path::new("notes/today.txt"), &ExtractOptions::default(), &mut bytes, &())?;
//! assert_eq!(bytes, b"buy milk");
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Passwords
//!
//! ```
//! use flint_pipe::{CreateOptions, KdfParams, KeyInfo, KeyName, KeyOptions, Password, SavedHeader, Vault};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = std::env::temp_dir().join(format!("flint-pipe-doc-keys-{}", std::process::id()));
//! # std::fs::create_dir_all(&dir)?;
//! # let mut create = CreateOptions::default();
//! # create.kdf = KdfParams { memory_kib: 19 * 1024, passes: 2, lanes: 1 };
//! # let path = dir.join("notes.flint");
//! # Vault::create(&path, &Password::new("correct horse"), &create)?;
//! let vault = Vault::open(&path, &Password::new("correct horse"))?;
//! let mut options = KeyOptions::default();
//! options.label = Some("anna".to_owned());
//! # (options.kdf_memory_kib, options.kdf_passes) = (Some(19 * 1024), Some(2));
//! vault.add_key(&Password::new("anna's own"), &options, &())?;
//! for key in vault.keys()? {
//!     if let KeyInfo::Password(password) = key {
//!         println!("{} {:?}, made at {}", password.id, password.label, password.created.secs);
//!     }
//! }
//!
//! // Kept elsewhere, it opens the vault even when the vault's own headers are lost.
//! let saved = vault.export_header()?;
//!
//! // No data is written. Older copies of the file, and of the header, still open with the old password.
//! # options.label = None;
//! vault.change_password(&Password::new("battery staple"), &options, &())?;
//! vault.remove_key(&KeyName::Label("anna".to_owned()), &KeyOptions::default(), &())?;
//! assert!(Vault::open(&path, &Password::new("correct horse")).is_err());
//!
//! let saved = SavedHeader::open("notes.header", &saved, &Password::new("anna's own"))?;
//! Vault::import_header(&path, &saved, &KeyOptions::default(), &())?;
//! assert!(Vault::open(&path, &Password::new("correct horse")).is_ok());
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok(())
//! # }
//! ```
//!
//! # A stand-in for the disk
//!
//! Everything that a vault does to a disk goes through two traits, [`Storage`] (bytes and locks of one file) and
//! [`VaultDir`] (the name it goes by). [`Vault::open_in`] takes such a directory from the caller: so a test can lose writes,
//! fail syncs or fill a disk up. [`FileStorage`] and [`FsVaultDir`] are the real ones.
//!
//! # Errors
//!
//! [`Error`] says what failed, on which path and why; [`Error::kind`] says it coarsely, for programs. Wrong password, damage,
//! and a vault of a later version are different errors. No error holds key material or content.

mod crypto;
mod engine;
mod error;
mod format;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod primitives;
mod stages;

pub use crate::crypto::derive::KdfParams;
pub use crate::crypto::key::Password;
pub use crate::engine::api::{
    AddOptions, CompactOptions, CreateOptions, ExtractOptions, Keep, KeyInfo, KeyName, KeyOptions, ListEntry,
    ListOptions, Overwrite, PasswordInfo, Preserve, RecoverOptions, RemoveOptions, SnapshotInfo, VaultInfo, VaultUsage,
    VerifyOptions, check_pattern,
};
pub use crate::engine::cancel::CancelToken;
pub use crate::engine::config::{
    CHUNK_SIZES, DEFAULT_CHUNK_SIZE, DEFAULT_STALL_TIMEOUT, Level, MAX_WORKERS, PipelineConfig, ReadMode, Recording,
    Workers,
};
pub use crate::engine::keys::SavedHeader;
pub use crate::engine::list::Entries;
pub use crate::engine::observe::{
    Compaction, EntryError, EntryErrorKind, Failed, Notice, Observer, Percentiles, Phases, PlanReport, Progress,
    RecoveredSnapshot, Recovery, Report, StageProgress, StageReport, Work,
};
pub use crate::engine::profile::outcome::{
    Kernel, Profile, ProfileFailed, ProfileOptions, Roofline, Sweep, SweepPoint,
};
pub use crate::engine::profile::profile;
pub use crate::engine::recorder::{Interval, Span, Track};
pub use crate::engine::timeline::{Sample, StageSample, Timeline};
pub use crate::engine::vault::Vault;
pub use crate::engine::verdict::{Advice, Bottleneck, BoundKind};
pub use crate::error::{Error, ErrorKind, FileOp, Malformation, Result};
pub use crate::format::entry::EntryType;
pub use crate::primitives::fs::Timestamp;
pub use crate::primitives::storage::{FileStorage, FsVaultDir, Lock, LockMode, Storage, VaultDir};
pub use crate::primitives::units::{FileOffset, format_rate, format_size, parse_size};

/// The guide's examples, compiled and run with the others.
#[cfg(doctest)]
#[doc = include_str!("../docs/GUIDE.md")]
struct Guide;

/// What [`Interval`] is made of: version 7 of the crate hdrhistogram.
pub use hdrhistogram::Histogram;

/// Makes this process's memory unreadable to others of the same user, and keeps it out of core files: for a binary that
/// handles passwords, at its very start.
pub fn harden_process() {
    // Best effort: where the system refuses, the program works all the same.
    let _ = primitives::sys::set_not_dumpable();
}
