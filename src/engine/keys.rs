//! The keys of a vault: how is one added, removed or changed, and how does the header come to say so?
//!
//! A change writes the two copies of the header and nothing else. Whatever fails on the way, and wherever the power is cut,
//! one whole copy is on the disk:
//!
//! ```text
//! under COMMIT        the spare copy        the newest good copy
//!                     any state             written again as it is, sync
//!                     the new header, sync
//!                     (the change holds)    the new header, sync
//! ```
//!
//! The first step is there because a copy that reads well may be in memory alone: after a sync that failed, the system
//! shows what was written and never writes it. Passwords are derived before COMMIT is taken, for the header that is there
//! then; if it is another one under the lock, all begins anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::crypto::derive::KdfParams;
use crate::crypto::key::Password;
use crate::engine::api::{KeyInfo, KeyName, KeyOptions, PasswordInfo};
use crate::engine::locks::Held;
use crate::engine::observe::{Failed, Observer, Report};
use crate::engine::run::{Phase, Run};
use crate::engine::segment::write_all_at;
use crate::engine::state::{
    HeaderCopies, OpenHeader, VaultKeys, bad_copy, read_at_most, read_headers, read_roots, unlock_header,
};
use crate::engine::vault::{REPLACED, Vault, existing_dir, open_storage, seconds_now, warn_of_network};
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::header::{EXTENTS_AT, HEADER_A_AT, HEADER_B_AT, HEADER_LEN, Header, ROOT_A_AT, UnverifiedHeader};
use crate::format::keyslot::{MAX_PASSWORD_SLOTS, PasswordSlot, Slot, SlotError, check_new_cost, password_slots};
use crate::format::record::{SEGMENT_HEADER_LEN, SegmentHeader};
use crate::primitives::fs::Timestamp;
use crate::primitives::storage::{Lock, LockMode, Storage, VaultDir};

impl Vault {
    /// Every key that opens the vault now, in the order of the header.
    ///
    /// # Errors
    /// [`Error::NoVault`]; [`Error::Refused`] if another vault is in its place; [`Error::Damaged`] if no copy of the header
    /// is good any more.
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        let storage = open_storage(&self.path, &*self.dir, false)?;
        let storage = storage.ok_or_else(|| Error::NoVault(self.path.to_path_buf()))?;
        let copies = Copies::read(&*storage, &self.path, &self.keys, false)?;
        let opened_by = self.opened_by.load(Ordering::Acquire);
        let info = |slot: &Slot| match slot {
            Slot::Password(slot) => KeyInfo::Password(PasswordInfo {
                id: slot.id(),
                label: slot.label().to_owned(),
                created: Timestamp { secs: slot.created(), nanos: 0 },
                kdf: slot.params(),
                current: slot.id() == opened_by,
            }),
            Slot::Other(slot) => KeyInfo::Unknown { kind: slot.kind() },
        };
        Ok(copies.base(&self.path)?.slots().iter().map(info).collect())
    }

    /// Adds a password; those that are there stay. The report has its id in [`Report::key`].
    ///
    /// # Errors
    /// [`Error::Refused`] if another key has the label, or there are 8 passwords already; [`Error::KdfRefused`] for a cost
    /// out of range, or if all passwords together would cost more than readers accept; [`Error::Usage`] for an empty
    /// password or a long label; what [`Vault::remove_key`] says of writing.
    pub fn add_key(&self, new: &Password, options: &KeyOptions, observer: &dyn Observer) -> Result<Report, Failed> {
        self.change_keys("key add", options, observer, |header| {
            let label = options.label.as_deref().unwrap_or_default();
            self.check_label(header, label, None)?;
            if password_slots(header.slots()).count() >= MAX_PASSWORD_SLOTS {
                return Err(Error::Refused { what: "a vault has at most 8 passwords", path: self.path.to_path_buf() });
            }
            let slot = self.seal(header, None, options, label, new)?;
            let key = slot.id();
            let slots = header.slots().iter().cloned().chain([Slot::Password(slot)]).collect();
            Ok((self.following(header, slots)?, key))
        })
    }

    /// Takes a password away, which may be the one that the vault was opened with. Older copies of the file still open with
    /// it, and who knew it may know the master key: see docs/THREAT_MODEL.md.
    ///
    /// # Errors
    /// [`Error::NoKey`] if there is none of this name; [`Error::Refused`] if several have this label, or it is the last
    /// password. [`Error::Locked`]; [`Error::Damaged`] if the vault is; [`Error::Io`] if it cannot be written: then all is
    /// as it was. [`Error::KeysUncertain`] if the change may or may not hold, [`Error::SpareKeysOld`] if it holds and
    /// the spare copy of the header has the old keys still.
    pub fn remove_key(&self, which: &KeyName, options: &KeyOptions, observer: &dyn Observer) -> Result<Report, Failed> {
        self.change_keys("key remove", options, observer, |header| {
            let key = self.find(header, which)?;
            if password_slots(header.slots()).count() == 1 {
                let what = "the last password of a vault cannot be removed";
                return Err(Error::Refused { what, path: self.path.to_path_buf() });
            }
            let stays = |slot: &&Slot| !matches!(slot, Slot::Password(slot) if slot.id() == key);
            let slots = header.slots().iter().filter(stays).cloned().collect();
            Ok((self.following(header, slots)?, key))
        })
    }

    /// Changes the password that the vault was opened with: a new key slot in the place of the old one, with its label and
    /// its cost unless the options say otherwise. Data is not touched. The report has the new id in [`Report::key`].
    ///
    /// It revokes nothing: older copies of the file open with the old password, and have the same master key.
    ///
    /// # Errors
    /// [`Error::Refused`] if somebody has changed or removed that password since, or if another key has the new label;
    /// what [`Vault::add_key`] says of passwords and [`Vault::remove_key`] of writing.
    pub fn change_password(
        &self,
        new: &Password,
        options: &KeyOptions,
        observer: &dyn Observer,
    ) -> Result<Report, Failed> {
        let opened_by = self.opened_by.load(Ordering::Acquire);
        let result = self.change_keys("key passwd", options, observer, |header| {
            let old = password_slots(header.slots()).find(|slot| slot.id() == opened_by);
            let gone = || Error::Refused {
                what: "this password was changed or removed meanwhile",
                path: self.path.to_path_buf(),
            };
            let old = old.ok_or_else(gone)?;
            let label = options.label.as_deref().unwrap_or(old.label());
            if options.label.is_some() {
                self.check_label(header, label, Some(opened_by))?;
            }
            let slot = self.seal(header, Some(old), options, label, new)?;
            let key = slot.id();
            let replaced = |other: &Slot| match other {
                Slot::Password(other) if other.id() == opened_by => Slot::Password(slot.clone()),
                other => other.clone(),
            };
            Ok((self.following(header, header.slots().iter().map(replaced).collect())?, key))
        });
        let changed = result.as_ref().map_or_else(|failed| failed.report.key, |report| report.key);
        if let (Some(key), false) = (changed, options.dry_run) {
            self.opened_by.store(key, Ordering::Release);
        }
        result
    }

    /// The newest header of the vault, 16 KiB, to be kept elsewhere: with it and one of its passwords, data can be read
    /// again whose own headers are lost. See [`Vault::import_header`].
    ///
    /// # Errors
    /// As [`Vault::keys`].
    pub fn export_header(&self) -> Result<Vec<u8>> {
        let storage = open_storage(&self.path, &*self.dir, false)?;
        let storage = storage.ok_or_else(|| Error::NoVault(self.path.to_path_buf()))?;
        let copies = Copies::read(&*storage, &self.path, &self.keys, false)?;
        Ok(copies.base(&self.path)?.encode(&self.keys.header).to_vec())
    }

    /// Gives a vault the keys that it had when its header was exported; those set since are gone, those taken away since
    /// are back. Nothing of the vault's own headers need be left.
    ///
    /// # Errors
    /// [`Error::NoVault`]; [`Error::Refused`] if the header is another vault's; [`Error::Damaged`] if there is nothing left
    /// to tell that by; what [`Vault::remove_key`] says of writing.
    pub fn import_header(
        path: impl AsRef<Path>,
        saved: &SavedHeader,
        options: &KeyOptions,
        observer: &dyn Observer,
    ) -> Result<Report, Failed> {
        let path = path.as_ref();
        Self::import_header_in(path, &*existing_dir(path)?, saved, options, observer)
    }

    /// As [`Vault::import_header`], with the file behind a [`VaultDir`] of the caller's.
    ///
    /// # Errors
    /// As that.
    pub fn import_header_in(
        path: impl AsRef<Path>,
        dir: &dyn VaultDir,
        saved: &SavedHeader,
        options: &KeyOptions,
        observer: &dyn Observer,
    ) -> Result<Report, Failed> {
        let path = path.as_ref();
        let (result, run) = Run::conduct("key import", path, &options.pipeline, observer, |run| {
            let keys = &saved.open.keys;
            let (storage, presence) = open_joined(run, path, dir, !options.dry_run)?;
            saved.check_belongs(&*storage, path)?;
            if options.dry_run {
                return Ok(());
            }
            warn_of_network(dir, path, run);
            let place = Place { path, dir, storage: &storage, keys };
            place.change(run, |copies| {
                let newest = copies.newest().map_or(0, |(_, header)| header.sequence());
                saved.open.header.above(newest).map_err(|error| error.into_error(path, 0))
            })?;
            drop(presence);
            Ok(())
        });
        let mut report = run.into_report("key import", Vec::new());
        match result {
            Ok(()) => {
                report.key = Some(saved.open.slot);
                Ok(report)
            }
            Err(error) => Err(Failed { error, report: Box::new(report) }),
        }
    }

    /// Changes the header.
    ///
    /// - `change`: makes the following header of the one that is there, and names the key that it is about. It may be asked
    ///   more than once.
    fn change_keys(
        &self,
        operation: &'static str,
        options: &KeyOptions,
        observer: &dyn Observer,
        change: impl Fn(&Header) -> Result<(Header, u32)>,
    ) -> Result<Report, Failed> {
        let mut key = None;
        let (result, run) = Run::conduct(operation, &self.path, &options.pipeline, observer, |run| {
            self.warnings.iter().for_each(|warning| run.note(&self.path, warning.clone()));
            if options.dry_run {
                // A vault that is damaged is refused in this case, too.
                let state = self.reader(false)?;
                let copies = Copies::read(&*state.storage, &self.path, &self.keys, false)?;
                key = Some(change(copies.readable_base(&self.path)?)?.1);
                return Ok(());
            }
            let writer = self.writer(run)?;
            writer.state.warnings.iter().for_each(|warning| run.note(&self.path, warning.clone()));
            let place = Place { path: &self.path, dir: &*self.dir, storage: &writer.state.storage, keys: &self.keys };
            place.change(run, |copies| {
                let (header, about) = change(copies.readable_base(&self.path)?)?;
                key = Some(about);
                Ok(header)
            })
        });
        let mut report = run.into_report(operation, Vec::new());
        if matches!(result, Ok(()) | Err(Error::SpareKeysOld { .. })) {
            report.key = key;
        }
        match result {
            Ok(()) => Ok(report),
            Err(error) => Err(Failed { error, report: Box::new(report) }),
        }
    }

    /// Wraps the master key for a new password, for the header that follows `header`.
    ///
    /// - `old`: the one that it is to replace, which has the cost that the options say nothing of.
    fn seal(
        &self,
        header: &Header,
        old: Option<&PasswordSlot>,
        options: &KeyOptions,
        label: &str,
        new: &Password,
    ) -> Result<PasswordSlot> {
        let id = header.sequence().checked_add(1).and_then(|id| u32::try_from(id).ok());
        let used_up = || Error::Refused { what: "the vault's numbers are used up", path: self.path.to_path_buf() };
        let costs = old.map_or(KdfParams::DEFAULT, PasswordSlot::params);
        let params = KdfParams {
            memory_kib: options.kdf_memory_kib.unwrap_or(costs.memory_kib),
            passes: options.kdf_passes.unwrap_or(costs.passes),
            lanes: costs.lanes,
        };
        let checked = check_new_cost(header.slots(), old.map(PasswordSlot::id), &params);
        checked.map_err(|refusal| self.slot_error(refusal.into()))?;
        let VaultKeys { vault_id, master, .. } = &*self.keys;
        let slot = PasswordSlot::seal(vault_id, id.ok_or_else(used_up)?, seconds_now(), params, label, new, master);
        slot.map_err(|error| self.slot_error(error))
    }

    fn following(&self, header: &Header, slots: Vec<Slot>) -> Result<Header> {
        header.with_slots(slots).map_err(|error| self.slot_error(error))
    }

    fn slot_error(&self, error: SlotError) -> Error {
        error.into_error(&self.path, 0)
    }

    /// Refuses a label that another key has.
    fn check_label(&self, header: &Header, label: &str, own: Option<u32>) -> Result<()> {
        let is_taken = |slot: &PasswordSlot| slot.label() == label && Some(slot.id()) != own;
        if !label.is_empty() && password_slots(header.slots()).any(is_taken) {
            return Err(Error::Refused { what: "another key has this label already", path: self.path.to_path_buf() });
        }
        Ok(())
    }

    /// The id of the key that is meant.
    fn find(&self, header: &Header, which: &KeyName) -> Result<u32> {
        let is_meant = |slot: &&PasswordSlot| match which {
            KeyName::Label(label) => slot.label() == label,
            KeyName::Id(id) => slot.id() == *id,
        };
        let mut found = password_slots(header.slots()).filter(is_meant);
        match (found.next(), found.next()) {
            (Some(slot), None) => Ok(slot.id()),
            (Some(_), Some(_)) => {
                let what = "several keys have this label: say which by its id";
                Err(Error::Refused { what, path: self.path.to_path_buf() })
            }
            (None, _) => {
                let name = match which {
                    KeyName::Label(label) => format!("label {label:?}"),
                    KeyName::Id(id) => format!("id {id}"),
                };
                Err(Error::NoKey { vault: self.path.to_path_buf(), name })
            }
        }
    }
}

/// A header that was exported from a vault, opened with one of its passwords. See [`Vault::import_header`].
pub struct SavedHeader {
    open: OpenHeader,
}

impl std::fmt::Debug for SavedHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedHeader").field("vault_id", &self.open.keys.vault_id).finish_non_exhaustive()
    }
}

impl SavedHeader {
    /// The length of a header, in bytes.
    pub const LEN: usize = HEADER_LEN;

    /// Opens what [`Vault::export_header`] has given.
    ///
    /// - `path`: what messages call it.
    ///
    /// # Errors
    /// [`Error::NoHeader`] if it is something else, or damaged; [`Error::Unsupported`]; [`Error::WrongPassword`];
    /// [`Error::KdfRefused`].
    pub fn open(path: impl AsRef<Path>, bytes: &[u8], password: &Password) -> Result<Self> {
        let path = path.as_ref();
        let no_header = |source| match source {
            source @ Malformation::Version { .. } => Error::malformed(path, 0, source),
            source => Error::NoHeader { path: path.to_owned(), source },
        };
        let fixed = bytes.try_into().map_err(|_| match bytes.len() < HEADER_LEN {
            true => Malformation::Truncated { structure: "header" },
            false => Malformation::Field { structure: "header", field: "length" },
        });
        let header = fixed.and_then(UnverifiedHeader::decode).map_err(no_header)?;
        // No error of this is damage of the vault.
        let open = unlock_header(header, path, 0, password).map_err(|error| match error {
            Error::Damaged { source, .. } => no_header(source),
            error => error,
        })?;
        Ok(Self { open })
    }

    /// Whether this is a header of the vault. Its id is the same where a copy of a header tells it; and a header, a root, or
    /// where nothing is left of those at least the head of the first segment has to be of this vault.
    fn check_belongs(&self, storage: &dyn Storage, vault: &Path) -> Result<()> {
        const ANOTHERS: &str = "this header is another vault's, or from before the vault was given a new master key";
        let keys = &self.open.keys;
        let anothers = || Err(Error::Refused { what: ANOTHERS, path: vault.to_owned() });
        let headers = read_headers(storage, vault, false)?;
        if headers.iter().flat_map(|(_, copy)| copy).any(|copy| copy.vault_id() != keys.vault_id) {
            return anothers();
        }
        let roots = read_roots(storage, vault, keys, false)?;
        let verifies = |copy: UnverifiedHeader| copy.verify(&keys.header).is_ok();
        if roots.iter().any(|(_, root)| root.is_ok()) || headers.into_iter().any(|(_, copy)| copy.is_ok_and(verifies)) {
            return Ok(());
        }
        // A root whose checksum holds is a root, though of other keys.
        if roots.iter().any(|(_, root)| matches!(root, Err(Malformation::Forged { .. }))) {
            return anothers();
        }
        let mut head = [0; SEGMENT_HEADER_LEN];
        if read_at_most(storage, vault, &mut head, EXTENTS_AT)? == head.len()
            && let Ok(head) = SegmentHeader::decode(&head)
        {
            return if head.vault_id == keys.vault_id { Ok(()) } else { anothers() };
        }
        let [(_, root), _] = roots;
        Err(bad_copy(vault, ROOT_A_AT, root.err().unwrap_or(Malformation::Forged { structure: "root" })))
    }
}

/// Opens a vault of which only the headers are to be written: PRESENCE is held, and the path is this file; to look at it, no
/// lock is taken.
fn open_joined(
    run: &Run<'_>,
    path: &Path,
    dir: &dyn VaultDir,
    write: bool,
) -> Result<(Arc<dyn Storage>, Option<Held>)> {
    loop {
        run.check()?;
        let storage = open_storage(path, dir, write)?.ok_or_else(|| Error::NoVault(path.to_owned()))?;
        if !write {
            return Ok((storage, None));
        }
        let presence = Held::take(run, path, &storage, Lock::Presence, LockMode::Shared)?;
        if dir.is_same_file(&*storage).map_err(|error| Error::io(FileOp::Stat, path, error))? {
            return Ok((storage, Some(presence)));
        }
    }
}

/// Both copies of a header, each with its place: of this vault, or bad.
pub(crate) struct Copies([(u64, Result<Header, Malformation>); 2]);

impl Copies {
    /// - `locked`: the caller holds COMMIT.
    pub(crate) fn read(storage: &dyn Storage, vault: &Path, keys: &VaultKeys, locked: bool) -> Result<Self> {
        let headers: HeaderCopies = read_headers(storage, vault, locked)?;
        let is_replaced = |(_, copy): &(u64, Result<UnverifiedHeader, _>)| {
            copy.as_ref().is_ok_and(|header| header.vault_id() != keys.vault_id)
        };
        if headers.iter().all(is_replaced) {
            return Err(Error::Refused { what: REPLACED, path: vault.to_owned() });
        }
        Ok(Self(headers.map(|(at, copy)| (at, copy.and_then(|header| header.verify(&keys.header))))))
    }

    /// The newest good one and its place; of two equal ones the second, so that the first is written first.
    fn newest(&self) -> Option<(u64, &Header)> {
        let good = self.0.iter().filter_map(|(at, copy)| copy.as_ref().ok().map(|header| (*at, header)));
        good.max_by_key(|(_, header)| header.sequence())
    }

    /// The newest good one.
    pub(crate) fn base(&self, vault: &Path) -> Result<&Header> {
        let [(at, first), _] = &self.0;
        let why = || first.as_ref().err().cloned().unwrap_or(Malformation::Forged { structure: "header" });
        self.newest().map(|(_, header)| header).ok_or_else(|| bad_copy(vault, *at, why()))
    }

    /// The same, for a change. A copy that the disk does not give back just now may be a newer one, and a change of an older
    /// one would undo it.
    pub(crate) fn readable_base(&self, vault: &Path) -> Result<&Header> {
        for (at, copy) in &self.0 {
            if let Err(why @ Malformation::Unreadable { .. }) = copy {
                return Err(bad_copy(vault, *at, why.clone()));
            }
        }
        self.base(vault)
    }
}

/// A vault whose header is to be changed; PRESENCE is held.
struct Place<'p> {
    path: &'p Path,
    dir: &'p dyn VaultDir,
    storage: &'p Arc<dyn Storage>,
    keys: &'p VaultKeys,
}

impl Place<'_> {
    /// Puts the header that `next` makes of those that are there into their place.
    fn change(&self, run: &Run<'_>, mut next: impl FnMut(&Copies) -> Result<Header>) -> Result<()> {
        // The vault may have been joined before who made it has synced its name.
        self.dir.sync().map_err(|error| Error::io(FileOp::Sync, self.path, error))?;
        loop {
            run.check()?;
            let seen = self.copies(false)?;
            let header = next(&seen)?;
            let held = Held::take(run, self.path, self.storage, Lock::Commit, LockMode::Exclusive)?;
            let found = self.copies(true)?;
            if found.newest().map(|(_, header)| header) != seen.newest().map(|(_, header)| header) {
                drop(held);
                continue;
            }
            run.check()?;
            run.enter(Phase::Commit);
            return self.write(&found, &header);
        }
    }

    fn copies(&self, locked: bool) -> Result<Copies> {
        Copies::read(&**self.storage, self.path, self.keys, locked)
    }

    /// Writes both copies; the head of this file says in which order and why.
    fn write(&self, found: &Copies, next: &Header) -> Result<()> {
        let newest_at = match found.newest() {
            Some((at, newest)) => {
                self.put(newest, at)?;
                at
            }
            None => HEADER_B_AT,
        };
        let spare_at = if newest_at == HEADER_A_AT { HEADER_B_AT } else { HEADER_A_AT };
        let vault = || PathBuf::from(self.path);
        let failed = |error: Error, wrap: fn(PathBuf, std::io::Error) -> Error| match error {
            Error::Io { source, .. } => wrap(vault(), source),
            error => error,
        };
        self.put(next, spare_at)
            .map_err(|error| failed(error, |vault, source| Error::KeysUncertain { vault, source }))?;
        self.put(next, newest_at).map_err(|error| failed(error, |vault, source| Error::SpareKeysOld { vault, source }))
    }

    /// Writes one copy, for good.
    fn put(&self, header: &Header, at: u64) -> Result<()> {
        write_all_at(&**self.storage, self.path, &header.encode(&self.keys.header)[..], at)?;
        self.storage.sync().map_err(|error| Error::io(FileOp::Sync, self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::api::CreateOptions;
    use crate::format::keyslot::tests::other_slot;

    fn cheap() -> KdfParams {
        KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 }
    }

    fn options() -> KeyOptions {
        KeyOptions { kdf_memory_kib: Some(19 << 10), kdf_passes: Some(2), ..KeyOptions::default() }
    }

    fn vault(directory: &Path) -> Vault {
        let create = CreateOptions { kdf: cheap(), ..CreateOptions::default() };
        Vault::create(directory.join("v"), &Password::new("one"), &create).unwrap()
    }

    /// Writes a header with a slot that this version does not know.
    fn with_other_slot(vault: &Vault) {
        let storage = open_storage(&vault.path, &*vault.dir, true).unwrap().unwrap();
        let slots = [other_slot()].into_iter().chain(vault.header.slots().iter().cloned());
        let header = vault.header.with_slots(slots.collect()).unwrap().encode(&vault.keys.header);
        for at in [HEADER_A_AT, HEADER_B_AT] {
            write_all_at(&*storage, &vault.path, &header[..], at).unwrap();
        }
    }

    fn kinds(vault: &Vault) -> Vec<Option<String>> {
        let kind = |key| match key {
            KeyInfo::Password(password) => Some(password.label),
            KeyInfo::Unknown { kind } => {
                assert_eq!(kind, 9);
                None
            }
        };
        vault.keys().unwrap().into_iter().map(kind).collect()
    }

    #[test]
    fn slots_of_unknown_kinds_are_kept_in_their_places_and_are_no_password() {
        let directory = tempfile::tempdir().unwrap();
        let one = vault(directory.path());
        with_other_slot(&one);
        let label = |label: &str| Some(label.to_owned());
        assert_eq!(kinds(&one), [None, label("")]);
        // There is another slot, and yet it is the last password.
        let last = one.remove_key(&KeyName::Id(1), &options(), &()).unwrap_err().error;
        assert!(matches!(last, Error::Refused { .. }), "{last:?}");
        let named = KeyOptions { label: label("two"), ..options() };
        assert_eq!(one.add_key(&Password::new("two"), &named, &()).unwrap().key, Some(3));
        one.change_password(&Password::new("new"), &options(), &()).unwrap();
        assert_eq!(kinds(&one), [None, label(""), label("two")]);
        one.remove_key(&KeyName::Label("two".into()), &options(), &()).unwrap();
        assert_eq!(kinds(&one), [None, label("")]);
        assert!(Vault::open(&*one.path, &Password::new("new")).is_ok());
    }

    #[test]
    fn a_bad_copy_that_is_looked_at_twice_does_not_let_go_of_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let one = vault(directory.path());
        let open = || open_storage(&one.path, &*one.dir, true).unwrap().unwrap();
        let (own, others) = (open(), open());
        write_all_at(&*own, &one.path, b"bad", HEADER_B_AT).unwrap();
        assert!(own.try_lock(Lock::Commit, LockMode::Exclusive).unwrap());
        let copies = Copies::read(&*own, &one.path, &one.keys, true).unwrap();
        assert_eq!(copies.newest().map(|(at, _)| at), Some(HEADER_A_AT));
        assert!(!others.try_lock(Lock::Commit, LockMode::Exclusive).unwrap());
    }

    #[test]
    fn a_vault_that_is_another_meanwhile_is_left_alone() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, other) = (vault(here.path()), vault(there.path()));
        std::fs::rename(&other.path, &one.path).unwrap();
        let refused = |error| assert!(matches!(error, Error::Refused { what: REPLACED, .. }), "{error:?}");
        refused(one.add_key(&Password::new("two"), &options(), &()).unwrap_err().error);
        refused(one.keys().unwrap_err());
        refused(one.export_header().unwrap_err());
        std::fs::remove_file(&one.path).unwrap();
        assert!(matches!(one.keys(), Err(Error::NoVault(_))));
        let gone = one.change_password(&Password::new("two"), &options(), &()).unwrap_err().error;
        assert!(matches!(gone, Error::NoVault(_)), "{gone:?}");
    }

    #[test]
    fn a_maker_leaves_a_vault_whose_keys_somebody_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v");
        let create = CreateOptions { kdf: cheap(), ..CreateOptions::default() };
        for changes in [false, true] {
            let maker = Vault::open_or_create(&path, &Password::new("one"), &create).unwrap();
            if changes {
                let other = Vault::open(&path, &Password::new("one")).unwrap();
                other.add_key(&Password::new("two"), &options(), &()).unwrap();
            }
            // Nothing can be stored, so its vault is taken away again.
            maker.add(&[PathBuf::from("/no/such/source")], &crate::AddOptions::default(), &()).unwrap_err();
            assert_eq!(path.exists(), changes);
        }
        assert!(Vault::open(&path, &Password::new("two")).is_ok());
    }
}
