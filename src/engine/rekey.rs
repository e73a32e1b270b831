//! Giving a vault a new master key: everything is opened and sealed anew, and what was known of the old keys opens nothing more.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::crypto::derive::KdfParams;
use crate::crypto::key::{MasterKey, Password};
use crate::engine::api::{Keep, KeyOptions};
use crate::engine::compact::{Chosen, Done, choose};
use crate::engine::keys::Copies;
use crate::engine::observe::{Failed, Observer, Report};
use crate::engine::rewrite::{Rewrite, Task};
use crate::engine::run::Run;
use crate::engine::state::{State, VaultKeys};
use crate::engine::vault::{FIRST_SLOT, Vault, seconds_now};
use crate::error::{Error, Result};
use crate::format::header::Header;
use crate::format::keyslot::{PasswordSlot, Slot, password_slots};
use crate::format::record::VaultId;

impl Vault {
    /// Writes the vault anew under a new master key, a new id and one password, and puts that in the place of the old file, in
    /// one step as [`Vault::compact`] does. All snapshots stay, with their numbers; what no snapshot needs is left out. Data is
    /// opened and sealed anew, and not packed anew.
    ///
    /// All other passwords and keys are gone, since nobody can wrap the new master key for them; a note names them. This value
    /// opens nothing any more once it is done: open the vault anew.
    ///
    /// - `password`: the only one of the new file. It may be the present one.
    /// - `options`: label and cost of that; where they say nothing, those of the password that this value was opened with.
    ///
    /// # Errors
    /// As [`Vault::compact`], and what [`Vault::add_key`] says of passwords.
    pub fn rekey(&self, password: &Password, options: &KeyOptions, observer: &dyn Observer) -> Result<Report, Failed> {
        let mut done = Done::default();
        let (result, run) = Run::conduct("rekey", &self.path, &options.pipeline, observer, |run| {
            self.warnings.iter().for_each(|warning| run.note(&self.path, warning.clone()));
            if options.dry_run {
                let state = self.reader(false)?;
                let copies = Copies::read(&*state.storage, &self.path, &self.keys, false)?;
                self.make_keys(password, options, copies.base(&self.path)?)?;
                let task = plan(run, &state, &mut done)?;
                self.name_lost_keys(run, copies.base(&self.path)?, "will not");
                return self.rehearse_replacement(run, &*state.storage, task.room());
            }
            let alone = self.alone(run)?;
            // Before anything is read: the memory that this takes is given back by then.
            let (keys, header) = self.make_keys(password, options, &alone.header)?;
            let task = plan(run, &alone.state, &mut done)?;
            let new = self.make_replacement(&alone, task.room())?;
            let rewrite = Rewrite::new(run, &self.path, &alone.state, Arc::clone(&new.storage), &keys, &task)?;
            done.take(rewrite.write(&header, &task)?);
            let replaced = self.replace_by(run, &alone, new);
            if matches!(replaced, Ok(()) | Err(Error::ReplaceUncertain { .. })) {
                self.name_lost_keys(run, &alone.header, "does not");
            }
            replaced
        });
        done.finish("rekey", result, run)
    }

    /// A new master key, and the header that wraps it for the password.
    fn make_keys(&self, password: &Password, options: &KeyOptions, old: &Header) -> Result<(Arc<VaultKeys>, Header)> {
        let opened_by = self.opened_by.load(Ordering::Acquire);
        let slot = password_slots(old.slots()).find(|slot| slot.id() == opened_by);
        // Who waits for the lock with a password that is taken away meanwhile does not bring it back.
        let gone =
            || Error::Refused { what: "this password was changed or removed meanwhile", path: self.path.to_path_buf() };
        let (costs, label) = slot.map(|slot| (slot.params(), slot.label())).ok_or_else(gone)?;
        let params = KdfParams {
            memory_kib: options.kdf_memory_kib.unwrap_or(costs.memory_kib),
            passes: options.kdf_passes.unwrap_or(costs.passes),
            lanes: costs.lanes,
        };
        let label = options.label.as_deref().unwrap_or(label);
        let (master, vault_id) = (MasterKey::generate()?, VaultId::generate()?);
        let slot = PasswordSlot::seal(&vault_id, FIRST_SLOT, seconds_now(), params, label, password, &master);
        let header = slot.and_then(|slot| Header::new(vault_id, vec![Slot::Password(slot)]));
        let header = header.map_err(|error| error.into_error(&self.path, 0))?;
        Ok((Arc::new(VaultKeys::derive(vault_id, master)), header))
    }

    /// Says which keys opened the old file and do not open the new one.
    fn name_lost_keys(&self, run: &Run<'_>, old: &Header, does_not: &str) {
        let opened_by = self.opened_by.load(Ordering::Acquire);
        for slot in password_slots(old.slots()).filter(|slot| slot.id() != opened_by) {
            let name =
                if slot.label().is_empty() { "without a label".to_owned() } else { format!("{:?}", slot.label()) };
            run.note(
                &self.path,
                format!("password {} ({name}) {does_not} open it any more; add it again if it is to", slot.id()),
            );
        }
        let others = old.slots().len() - password_slots(old.slots()).count();
        if others > 0 {
            run.note(&self.path, format!("{others} keys of a kind that is not known here do not open it any more"));
        }
    }
}

fn plan(run: &Run<'_>, state: &State, done: &mut Done) -> Result<Task> {
    let Chosen { kept, .. } = choose(run, state, Some(&Keep::all()))?;
    let task = Task::plan(run, state, kept, true)?;
    done.know(state, &task, Vec::new())?;
    Ok(task)
}
