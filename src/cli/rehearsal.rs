//! A vault in memory: what a dry run works on where there is no vault yet, since it may not make one.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flint_pipe::{CreateOptions, Error, FileOp, FileStorage, FsVaultDir, Password, Storage, Vault, VaultDir};
use rustix::fs::{MemfdFlags, memfd_create};

/// Makes a vault at `path` for as long as the process lives, and writes nothing there.
///
/// # Errors
/// What making it would answer: for a directory that is not there, a label that is too long, and so on.
pub(crate) fn make(path: &Path, password: &Password, options: &CreateOptions) -> Result<Vault, Error> {
    FsVaultDir::new(path).map_err(|error| Error::io(FileOp::Open, path, error))?;
    Vault::open_in(path, Arc::new(Stage::default()), password, Some(options))
}

/// A directory for one vault, in memory.
#[derive(Default)]
struct Stage {
    /// What has the vault's name.
    named: Mutex<Option<Arc<dyn Storage>>>,
    /// What was made and has no name yet: only the file that was made last can be given it, which is all that a vault asks.
    nameless: Mutex<Option<Arc<dyn Storage>>>,
}

impl Stage {
    fn named(&self) -> MutexGuard<'_, Option<Arc<dyn Storage>>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, storage: &dyn Storage) -> io::Result<()> {
        let nameless = self.nameless.lock().unwrap_or_else(PoisonError::into_inner).take();
        let nameless = nameless.filter(|made| is_same(&**made, storage));
        *self.named() = Some(nameless.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?);
        Ok(())
    }
}

fn is_same(one: &dyn Storage, other: &dyn Storage) -> bool {
    std::ptr::addr_eq(one, other)
}

impl VaultDir for Stage {
    fn open(&self, _write: bool) -> io::Result<Option<Arc<dyn Storage>>> {
        Ok(self.named().clone())
    }

    fn create_unlinked(&self) -> io::Result<Arc<dyn Storage>> {
        let file = memfd_create("flint-pipe dry run", MemfdFlags::CLOEXEC)?;
        let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(file.into()));
        *self.nameless.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&storage));
        Ok(storage)
    }

    fn link(&self, storage: &dyn Storage) -> io::Result<()> {
        if self.named().is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.name(storage)
    }

    fn rename(&self, storage: &dyn Storage) -> io::Result<()> {
        self.name(storage)
    }

    fn unlink(&self) -> io::Result<()> {
        *self.named() = None;
        Ok(())
    }

    fn is_same_file(&self, storage: &dyn Storage) -> io::Result<bool> {
        Ok(self.named().as_ref().is_some_and(|named| is_same(&**named, storage)))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use flint_pipe::{AddOptions, KdfParams};

    use super::*;

    fn cheap() -> CreateOptions {
        let mut options = CreateOptions::default();
        options.kdf = KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 };
        options
    }

    #[test]
    fn a_vault_in_memory_can_be_used_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("v");
        let vault = make(&path, &Password::new("secret"), &cheap()).expect("it is made");
        let report = vault.add(&[PathBuf::from("src/main.rs")], &AddOptions::default(), &()).expect("it is used");
        assert_eq!(report.successful_files, 1);
        assert_eq!(vault.snapshots().expect("it is read").len(), 1);
        drop(vault);
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_missed_in_a_dry_run_too() {
        let error = make(Path::new("no/such/directory/v"), &Password::new("secret"), &cheap());
        assert!(matches!(error.expect_err("it cannot be made"), Error::Io { .. }));
    }
}
