//! A vault by its name: made, opened, and the operations on it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::crypto::key::{MasterKey, Password};
use crate::engine::api::{CreateOptions, SnapshotInfo, VaultInfo};
use crate::engine::commit::write_commit;
use crate::engine::locks::Held;
use crate::engine::run::Run;
use crate::engine::segment::{SegmentWriter, write_all_at};
use crate::engine::state::{
    OpenHeader, State, VaultKeys, bad_copy, claimed_generation, newest_root, read_headers, read_roots, unlock_headers,
};
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::commit::{Commit, SNAPSHOT_PARTIAL, SNAPSHOT_RECOVERED, SnapshotRecord};
use crate::format::header::{
    EXTENTS_AT, HEADER_A_AT, HEADER_B_AT, Header, ROOT_A_AT, ROOT_B_AT, Root, UnverifiedHeader,
};
use crate::format::keyslot::{PasswordSlot, Slot, password_slots};
use crate::format::record::VaultId;
use crate::primitives::fs::Timestamp;
use crate::primitives::storage::{FsVaultDir, Lock, LockMode, Storage, VaultDir};

/// The generation that a vault is made with.
pub(crate) const FIRST_GENERATION: u64 = 1;
/// The id of the key slot that a vault is made with: the sequence of its first header.
pub(crate) const FIRST_SLOT: u32 = 1;

/// An encrypted, compressed, crash-safe vault file, opened with its password.
///
/// A value holds the vault's keys and no lock and no open file: each operation opens the file by its path, so a vault that
/// another process has replaced meanwhile is noticed. It may be used from several threads at once.
pub struct Vault {
    pub(crate) path: Arc<Path>,
    pub(crate) dir: Arc<dyn VaultDir>,
    pub(crate) keys: Arc<VaultKeys>,
    pub(crate) header: Header,
    /// The id of the key slot that the password has opened, or that its password was changed to since.
    pub(crate) opened_by: AtomicU32,
    /// What to make the vault with, if it may be made.
    making: Option<Making>,
    /// Nobody had committed to the vault when it was opened, and this value has not yet: who made it may take it away.
    is_new: AtomicBool,
    /// The file that this value has made and not yet committed to, with PRESENCE held on it.
    made: Mutex<Option<Made>>,
    /// What was found wrong with a spare copy of the header when the vault was opened.
    pub(crate) warnings: Vec<String>,
}

struct Made {
    storage: Arc<dyn Storage>,
    held: Held,
}

struct Making {
    password: Password,
    options: CreateOptions,
}

/// Why an operation is refused that finds another vault's header.
pub(crate) const REPLACED: &str =
    "it was given a new master key meanwhile, or another vault was put in its place: open it anew";

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("path", &self.path).field("id", &self.keys.vault_id).finish_non_exhaustive()
    }
}

impl Vault {
    /// Makes an empty vault.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is anything at `path`, which is left alone; [`Error::Io`]; [`Error::KdfRefused`] and
    /// [`Error::Usage`] for parameters and passwords that are not allowed. No file is left behind.
    pub fn create(path: impl AsRef<Path>, password: &Password, options: &CreateOptions) -> Result<Self> {
        let path = path.as_ref();
        let dir = vault_dir(path)?;
        // The name is only taken when the vault is complete; this check spares the key derivation.
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(Error::Exists(path.to_owned()));
        }
        let vault = Self::make(path, dir, password, options)?.ok_or_else(|| Error::Exists(path.to_owned()))?;
        vault.forget_made();
        Ok(vault)
    }

    /// Opens a vault with its password.
    ///
    /// # Errors
    /// [`Error::NoVault`], [`Error::WrongPassword`], [`Error::Damaged`], [`Error::Unsupported`], [`Error::KdfRefused`],
    /// [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, password: &Password) -> Result<Self> {
        let path = path.as_ref();
        Self::open_file(path, existing_dir(path)?, password)
    }

    /// Opens a vault, or makes it if there is none. One that was made for an `add` which then fails is taken away again.
    ///
    /// # Errors
    /// As [`Vault::create`] and [`Vault::open`].
    pub fn open_or_create(path: impl AsRef<Path>, password: &Password, options: &CreateOptions) -> Result<Self> {
        let path = path.as_ref();
        Self::open_in(path, vault_dir(path)?, password, Some(options))
    }

    /// As [`Vault::open`], or with `make` as [`Vault::open_or_create`], with the file behind a [`VaultDir`] of the
    /// caller's: a test's stand-in for a disk. `path` is what messages call it.
    ///
    /// # Errors
    /// As those.
    pub fn open_in(
        path: impl AsRef<Path>,
        dir: Arc<dyn VaultDir>,
        password: &Password,
        make: Option<&CreateOptions>,
    ) -> Result<Self> {
        let path = path.as_ref();
        loop {
            let opened = Self::open_file(path, Arc::clone(&dir), password);
            let mut vault = match (opened, make) {
                (Err(Error::NoVault(_)), Some(options)) => {
                    match Self::make(path, Arc::clone(&dir), password, options)? {
                        Some(vault) => vault,
                        // Who loses the race for the name opens the winner's.
                        None => continue,
                    }
                }
                (opened, _) => opened?,
            };
            let making = |options: &CreateOptions| Making { password: password.duplicate(), options: options.clone() };
            vault.making = make.map(making);
            return Ok(vault);
        }
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_file(path: &Path, dir: Arc<dyn VaultDir>, password: &Password) -> Result<Self> {
        let storage = open_storage(path, &*dir, false)?.ok_or_else(|| Error::NoVault(path.to_owned()))?;
        let (OpenHeader { keys, header, slot }, warnings) = unlock_headers(&*storage, path, password)?;
        Ok(Self {
            path: Arc::from(path),
            dir,
            keys: Arc::new(keys),
            header,
            opened_by: AtomicU32::new(slot),
            making: None,
            is_new: AtomicBool::new(claimed_generation(&*storage, path)? <= FIRST_GENERATION),
            made: Mutex::new(None),
            warnings,
        })
    }

    /// Makes a vault under its name; `None` if the name was taken meanwhile.
    fn make(path: &Path, dir: Arc<dyn VaultDir>, password: &Password, options: &CreateOptions) -> Result<Option<Self>> {
        let master = MasterKey::generate()?;
        let vault_id = VaultId::generate()?;
        let slot =
            PasswordSlot::seal(&vault_id, FIRST_SLOT, seconds_now(), options.kdf, &options.label, password, &master)
                .map_err(|error| error.into_error(path, 0))?;
        let header = Header::new(vault_id, vec![Slot::Password(slot)]).map_err(|error| error.into_error(path, 0))?;
        let vault = Self {
            path: Arc::from(path),
            dir,
            keys: Arc::new(VaultKeys::derive(vault_id, master)),
            header,
            opened_by: AtomicU32::new(FIRST_SLOT),
            making: None,
            is_new: AtomicBool::new(true),
            made: Mutex::new(None),
            warnings: Vec::new(),
        };
        let Some(made) = vault.make_file()? else { return Ok(None) };
        *vault.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        Ok(Some(vault))
    }

    /// Builds the file without a name, complete and synced, then links it; `None` if the name is taken.
    fn make_file(&self) -> Result<Option<Made>> {
        let path = &*self.path;
        let io = |op| move |error| Error::io(op, path, error);
        let storage = self.dir.create_unlinked().map_err(io(FileOp::Create))?;
        // At once: where it needs a temporary name, nobody is to take it for what a killed run has left.
        let held = Held::try_take(path, &storage, Lock::Presence, LockMode::Shared)?;
        let held = held.ok_or_else(|| Error::Locked(path.to_owned()))?;
        storage.allocate(0, EXTENTS_AT).map_err(io(FileOp::Allocate))?;
        let segment = SegmentWriter::new(Arc::clone(&storage), path, &self.keys, &Arc::default(), None)?;
        let mut commit = Commit {
            flags: 0,
            generation: FIRST_GENERATION,
            snapshot: None,
            highest_snapshot: 0,
            previous: None,
            segments: vec![segment.salt()],
            full: None,
            deltas: Vec::new(),
            heads: Vec::new(),
        };
        let place = write_commit(&segment, &mut commit, &[])?;
        let end = place.offset.0 + u64::from(place.sealed_len);
        let root = Root::new(self.keys.vault_id, FIRST_GENERATION, place, end);
        let root = root.map_err(|why| Error::malformed(path, ROOT_A_AT, why))?.encode(&self.keys.root);
        write_all_at(&*storage, path, &root, ROOT_A_AT)?;
        write_all_at(&*storage, path, &root, ROOT_B_AT)?;
        // Last: where it has a temporary name, what begins with zeros is known for what it is, if this run is killed.
        let header = self.header.encode(&self.keys.header);
        write_all_at(&*storage, path, &header[..], HEADER_A_AT)?;
        write_all_at(&*storage, path, &header[..], HEADER_B_AT)?;
        segment.trim()?;
        storage.sync().map_err(io(FileOp::Sync))?;
        match self.dir.link(&*storage) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(Error::io(FileOp::Link, path, error)),
        }
        if let Err(error) = self.dir.sync() {
            self.unmake(&storage, held);
            return Err(Error::io(FileOp::Sync, path, error));
        }
        Ok(Some(Made { storage, held }))
    }

    /// Opens the file for an operation that only reads, and its newest state; no lock.
    pub(crate) fn reader(&self, track: bool) -> Result<State> {
        let storage = open_storage(&self.path, &*self.dir, false)?;
        let storage = storage.ok_or_else(|| Error::NoVault(self.path.to_path_buf()))?;
        self.state(storage, track)
    }

    /// Opens the file for an operation that writes: PRESENCE is held, the path is this file, the state is the newest.
    pub(crate) fn writer(&self, run: &Run<'_>) -> Result<Writer> {
        loop {
            run.check()?;
            let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).take();
            let is_made = made.is_some();
            let (storage, presence) = match made {
                Some(made) => (made.storage, made.held),
                None => {
                    let Some(storage) = open_storage(&self.path, &*self.dir, true)? else {
                        if !self.may_make() {
                            return Err(Error::NoVault(self.path.to_path_buf()));
                        }
                        // Its maker has failed and taken it away: this run makes it then.
                        let made = self.make_file()?;
                        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = made;
                        continue;
                    };
                    let presence = Held::take(run, &self.path, &storage, Lock::Presence, LockMode::Shared)?;
                    (storage, presence)
                }
            };
            let same = self.dir.is_same_file(&*storage);
            let state = match same.map_err(|error| Error::io(FileOp::Stat, &self.path, error)) {
                Ok(true) => self.state(Arc::clone(&storage), false),
                // It was replaced or taken away between opening and locking.
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            return match state {
                Ok(state) => {
                    self.warn_of_network(run);
                    self.warn_of_no_name(run, &*storage);
                    self.remove_leftovers(run, &*storage);
                    Ok(Writer { state, presence, is_made })
                }
                Err(error) => {
                    if is_made {
                        self.unmake(&storage, presence);
                    }
                    Err(error)
                }
            };
        }
    }

    /// As [`warn_of_network`].
    pub(crate) fn warn_of_network(&self, run: &Run<'_>) {
        warn_of_network(&*self.dir, &self.path, run);
    }

    pub(crate) fn state(&self, storage: Arc<dyn Storage>, track: bool) -> Result<State> {
        let headers = read_headers(&*storage, &self.path, false)?;
        let replaced = |copy: &(u64, Result<_, _>)| {
            copy.1.as_ref().is_ok_and(|header: &UnverifiedHeader| header.vault_id() != self.keys.vault_id)
        };
        if headers.iter().all(replaced) {
            return Err(Error::Refused { what: REPLACED, path: self.path.to_path_buf() });
        }
        State::newest(storage, Arc::clone(&self.path), Arc::clone(&self.keys), track)
    }

    /// Whether the vault may be made where there is none.
    pub(crate) fn may_make(&self) -> bool {
        self.making.is_some()
    }

    /// For an operation that found another vault at its path: that one, if the password is known here. It may be this one under a
    /// new master key; or this was new, its maker has taken it away meanwhile, and somebody else has made the next, which may be
    /// gone as well by now and made again.
    pub(crate) fn successor(&self) -> Option<Result<Self>> {
        let making = self.making.as_ref()?;
        let may_make = self.is_new.load(Ordering::Acquire).then_some(&making.options);
        Some(Self::open_in(&self.path, Arc::clone(&self.dir), &making.password, may_make).map(|mut successor| {
            successor.making = Some(Making { password: making.password.duplicate(), options: making.options.clone() });
            successor
        }))
    }

    /// A run has committed.
    pub(crate) fn has_committed(&self) {
        self.is_new.store(false, Ordering::Release);
    }

    /// A run that wants the vault alone gives up what this value holds of it.
    pub(crate) fn forget_made(&self) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Takes the vault away that this value has made and that no run has begun on.
    pub(crate) fn unmake_new(&self) {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Made { storage, held }) = made {
            self.unmake(&storage, held);
        }
    }

    /// Takes away a vault that this run has made and that nobody has committed to.
    pub(crate) fn unmake(&self, storage: &Arc<dyn Storage>, presence: Held) {
        // Converts the lock that `presence` holds; another writer's shared one makes this fail, and the vault stays.
        let alone = storage.try_lock(Lock::Presence, LockMode::Exclusive).unwrap_or(false);
        let untouched = || {
            let is_own = |(_, copy): (u64, Result<UnverifiedHeader, _>)| {
                copy.is_ok_and(|header| header.sequence() == self.header.sequence())
            };
            // Who has changed its keys counts on it.
            read_headers(&**storage, &self.path, true).ok()?.into_iter().all(is_own).then_some(())?;
            let roots = read_roots(&**storage, &self.path, &self.keys, true).ok()?;
            let (_, root) = newest_root(&self.path, &roots).ok()?;
            (root.generation() == FIRST_GENERATION && self.dir.is_same_file(&**storage).ok()?).then_some(())
        };
        if alone && untouched().is_some() {
            // What fails here leaves an empty vault behind, which is a whole one.
            let _ = self.dir.unlink();
            let _ = self.dir.sync();
        }
        drop(presence);
    }

    /// Every snapshot, the newest first.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a commit record on the way is.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let state = self.reader(false)?;
        let mut snapshots = Vec::new();
        let mut next = Some(state.commit.clone());
        while let Some(commit) = next {
            snapshots.extend(commit.snapshot.as_ref().map(snapshot_info));
            next = state.previous(&commit)?;
        }
        Ok(snapshots)
    }

    /// What can be told of a vault without its password.
    ///
    /// # Errors
    /// [`Error::NoVault`]; [`Error::Damaged`] if both copies of the header are.
    pub fn info(path: impl AsRef<Path>) -> Result<VaultInfo> {
        let path = path.as_ref();
        let dir = existing_dir(path)?;
        let storage = open_storage(path, &*dir, false)?.ok_or_else(|| Error::NoVault(path.to_owned()))?;
        let file_size = storage.len().map_err(|error| Error::io(FileOp::Stat, path, error))?;
        let mut warnings = Vec::new();
        let mut newest: Option<UnverifiedHeader> = None;
        let mut first_error = None;
        for (at, copy) in read_headers(&*storage, path, false)? {
            match copy {
                Ok(header) if newest.as_ref().is_none_or(|best| header.sequence() > best.sequence()) => {
                    newest = Some(header);
                }
                Ok(_) => {}
                Err(why) => {
                    warnings.push(format!("the copy of the header at byte {at} is bad: {why}"));
                    first_error.get_or_insert(bad_copy(path, at, why));
                }
            }
        }
        let Some(header) = newest else {
            let nothing = || Error::malformed(path, 0, Malformation::Truncated { structure: "header" });
            return Err(first_error.unwrap_or_else(nothing));
        };
        let slots = header.slots();
        let password_slots: Vec<_> =
            password_slots(slots).map(|slot| (slot.params(), slot.label().to_owned())).collect();
        Ok(VaultInfo {
            format_version: crate::format::record::VERSION,
            vault_id: header.vault_id().0,
            sequence: header.sequence(),
            generation: claimed_generation(&*storage, path)?,
            file_size,
            other_slots: slots.len() - password_slots.len(),
            password_slots,
            warnings,
        })
    }
}

/// An opened vault that a run writes to.
pub(crate) struct Writer {
    pub(crate) state: State,
    pub(crate) presence: Held,
    /// This run has made the file.
    pub(crate) is_made: bool,
}

/// Says so where the file system may not keep what [`Storage`] promises.
pub(crate) fn warn_of_network(dir: &dyn VaultDir, vault: &Path, run: &Run<'_>) {
    if dir.is_remote() {
        let why = "it is on a network file system or behind FUSE, where locks and syncs may mean little";
        run.note(vault, why.to_owned());
    }
}

/// The directory of a vault's name, and that name.
pub(crate) fn vault_dir(path: &Path) -> Result<Arc<dyn VaultDir>> {
    Ok(Arc::new(FsVaultDir::new(path).map_err(|error| Error::io(FileOp::Open, path, error))?))
}

/// As [`vault_dir`], for a vault that has to be there: no directory, no vault.
pub(crate) fn existing_dir(path: &Path) -> Result<Arc<dyn VaultDir>> {
    vault_dir(path).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Error::NoVault(path.to_owned()),
        error => error,
    })
}

/// Opens the file of a vault; `None` if there is none.
pub(crate) fn open_storage(path: &Path, dir: &dyn VaultDir, write: bool) -> Result<Option<Arc<dyn Storage>>> {
    dir.open(write).map_err(|error| Error::io(FileOp::Open, path, error))
}

/// The time that a key slot is made at.
pub(crate) fn seconds_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(now).unwrap_or(i64::MAX)
}

fn snapshot_info(record: &SnapshotRecord) -> SnapshotInfo {
    SnapshotInfo {
        number: record.number,
        time: Timestamp { secs: record.time_secs, nanos: record.time_nanos.min(999_999_999) },
        host: record.host.clone(),
        user: record.user.clone(),
        command_line: record.command_line.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect(),
        sources: record.sources.iter().map(|source| PathBuf::from(OsStr::from_bytes(source))).collect(),
        tags: record.tags.clone(),
        files: record.files,
        bytes: record.bytes,
        partial: record.flags & SNAPSHOT_PARTIAL != 0,
        recovered: record.flags & SNAPSHOT_RECOVERED != 0,
    }
}
