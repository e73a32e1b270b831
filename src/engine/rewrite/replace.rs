//! How does a new file take the place of a vault? Alone, with all that the old one was, and in one step.
//!
//! 1. PRESENCE of the old file, exclusive; is the path still this file? Only then its state is read.
//! 2. Has the file one name alone? Is there room beside it? May the directory be synced?
//! 3. The new file, without a name. PRESENCE of it, exclusive: whoever opens it under its name waits until the name is durable.
//!    May it have the owner, mode and attributes of the old one?
//! 4. It is written and synced.
//! 5. Is the path still the old file, and that its only name? Rename; sync of the directory. Only then both locks are given back.
//!
//! Who waited for PRESENCE of the old file finds that the path is another one, and opens that.

use std::sync::Arc;

use crate::engine::keys::Copies;
use crate::engine::locks::Held;
use crate::engine::run::{Phase, Run, describe};
use crate::engine::state::State;
use crate::engine::vault::{Vault, open_storage};
use crate::error::{Error, FileOp, Result};
use crate::format::header::Header;
use crate::primitives::storage::{Lock, LockMode, Storage};
use crate::primitives::units::format_size;

/// A vault that nobody else writes to until this is dropped.
pub(crate) struct Alone {
    pub(crate) state: State,
    /// The newest header.
    pub(crate) header: Header,
    /// Given back when dropped.
    _presence: Held,
}

/// A file that is to replace a vault. It has no name yet; PRESENCE is held on it, so that nobody takes it for a leftover where it
/// needs a temporary one, and whoever opens it under its final name waits until that is durable.
pub(crate) struct Replacement {
    pub(crate) storage: Arc<dyn Storage>,
    held: Held,
}

/// Why a file is not put in the place of another than the one that it was made of.
const MOVED: &str = "it was removed, renamed or replaced meanwhile, so the new file was not put there";

/// Why a vault with several names is not written anew.
const SEVERAL_NAMES: &str = "the file has several names (hard links), and a new one could only take one of them";

impl Vault {
    /// Waits until the vault is to be had alone, and reads its newest state.
    pub(crate) fn alone(&self, run: &Run<'_>) -> Result<Alone> {
        // One that this value has just made holds PRESENCE by itself.
        self.forget_made();
        loop {
            run.check()?;
            let storage = open_storage(&self.path, &*self.dir, true)?;
            let storage = storage.ok_or_else(|| Error::NoVault(self.path.to_path_buf()))?;
            let presence = Held::take(run, &self.path, &storage, Lock::Presence, LockMode::Exclusive)?;
            if !self.is_this(&*storage)? {
                // Another has replaced it meanwhile.
                continue;
            }
            self.remove_leftovers(run, &*storage);
            self.check_names(&*storage)?;
            let state = self.state(Arc::clone(&storage), false)?;
            let copies = Copies::read(&*storage, &self.path, &self.keys, false)?;
            let header = copies.readable_base(&self.path)?.clone();
            state.warnings.iter().for_each(|warning| run.note(&self.path, warning.clone()));
            self.warn_of_network(run);
            return Ok(Alone { state, header, _presence: presence });
        }
    }

    fn is_this(&self, storage: &dyn Storage) -> Result<bool> {
        self.dir.is_same_file(storage).map_err(|error| Error::io(FileOp::Stat, &self.path, error))
    }

    /// Removes what killed runs have left beside the vault; PRESENCE is held.
    pub(crate) fn remove_leftovers(&self, run: &Run<'_>, vault: &dyn Storage) {
        match self.dir.remove_leftovers(vault) {
            Ok(removed) => {
                for path in removed {
                    run.note(&path, "what a run that was killed had left has been removed".to_owned());
                }
            }
            // Neither does it keep anybody from anything, nor is it lost.
            Err(error) => run.note(&self.path, format!("temporary files beside it could not be looked for ({error})")),
        }
    }

    /// Says so where what is written would be lost: the file was replaced where it lies, and is mounted here.
    pub(crate) fn warn_of_no_name(&self, run: &Run<'_>, vault: &dyn Storage) {
        if self.dir.link_count(vault).is_ok_and(|count| count == 0) {
            let why = "the file has no name any more where it lies, and what is added to it is lost with the last who has it open: \
                       mount it anew";
            run.note(&self.path, why.to_owned());
        }
    }

    /// Makes the file that is to replace the vault, if it may.
    ///
    /// - `bytes`: about what it will take.
    pub(crate) fn make_replacement(&self, alone: &Alone, bytes: u64) -> Result<Replacement> {
        let (path, old) = (&*self.path, &*alone.state.storage);
        let io = |op| move |error| Error::io(op, path, error);
        self.check_names(old)?;
        self.check_room(bytes)?;
        // Who may not sync the directory is told before anything is done.
        self.dir.sync().map_err(io(FileOp::Sync))?;
        let new = self.dir.create_unlinked().map_err(io(FileOp::CreateBeside))?;
        let held = Held::try_take(path, &new, Lock::Presence, LockMode::Exclusive)?;
        let held = held.ok_or_else(|| Error::Locked(path.to_owned()))?;
        self.dir.copy_attributes(old, &*new).map_err(io(FileOp::Replace))?;
        Ok(Replacement { storage: new, held })
    }

    /// What of that can be said without doing anything.
    pub(crate) fn rehearse_replacement(&self, run: &Run<'_>, old: &dyn Storage, bytes: u64) -> Result<()> {
        self.check_names(old)?;
        if let Err(error) = self.check_room(bytes) {
            let (_, why) = describe(&error);
            run.note(&self.path, why);
        }
        Ok(())
    }

    /// Refuses a file of which the new one could not take all names.
    fn check_names(&self, old: &dyn Storage) -> Result<()> {
        let count = self.dir.link_count(old).map_err(|error| Error::io(FileOp::Stat, &self.path, error))?;
        if count > 1 {
            return Err(Error::Refused { what: SEVERAL_NAMES, path: self.path.to_path_buf() });
        }
        Ok(())
    }

    fn check_room(&self, bytes: u64) -> Result<()> {
        // Where nobody can say, the file system itself will.
        let free = self.dir.free_space().ok().flatten().unwrap_or(u64::MAX);
        if bytes <= free {
            return Ok(());
        }
        let words = format!("{} are needed beside it, and {} are free", format_size(bytes), format_size(free));
        let full = std::io::Error::new(std::io::ErrorKind::StorageFull, words);
        Err(Error::io(FileOp::Replace, &self.path, full))
    }

    /// Gives the vault's name to a file that is written and synced.
    ///
    /// # Errors
    /// [`Error::ReplaceUncertain`] if the new file has the name and the directory could not be synced; with any other the old
    /// file has it.
    pub(crate) fn replace_by(&self, run: &Run<'_>, alone: &Alone, new: Replacement) -> Result<()> {
        let path = &*self.path;
        let Replacement { storage, held } = new;
        let old = &*alone.state.storage;
        // Once more: much may have happened while it was written.
        self.check_names(old)?;
        self.dir.copy_attributes(old, &*storage).map_err(|error| Error::io(FileOp::Replace, path, error))?;
        if !self.is_this(old)? {
            return Err(Error::Refused { what: MOVED, path: path.to_owned() });
        }
        run.check()?;
        run.enter(Phase::Commit);
        let uncertain = |source| Error::ReplaceUncertain { vault: path.to_owned(), source };
        if let Err(error) = self.dir.rename(&*storage) {
            // Over a network what was refused may have been done.
            return Err(match self.dir.is_same_file(&*storage) {
                Ok(false) => Error::io(FileOp::Replace, path, error),
                _ => uncertain(error),
            });
        }
        // From here on it is done; a cancel comes too late.
        let synced = self.dir.sync();
        drop(held);
        synced.map_err(uncertain)
    }
}
