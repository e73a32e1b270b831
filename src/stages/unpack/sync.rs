//! Is what was restored on the disk?
//!
//! One `syncfs` for each file system that was restored into, on a descriptor that is older than everything written:
//! only such a one is told of pages that could not be written back meanwhile.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::attributes::lock;
use super::beneath::{look, retry};

/// The file systems that a run restores into.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// By device: a descriptor to sync, or why there is none.
    known: Mutex<BTreeMap<u64, Result<OwnedFd, Errno>>>,
}

impl Mounts {
    /// Takes note of the file system of a directory that is about to be restored into.
    ///
    /// # Errors
    /// Only what may be better the next time: that descriptors have run out.
    pub(super) fn note(&self, directory: impl AsFd) -> Result<(), Errno> {
        let device = look(&directory)?.id.device();
        let mut known = lock(&self.known);
        if known.contains_key(&device) {
            return Ok(());
        }
        // Directories are held by descriptors that reach them and no more; such a one cannot be synced.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match retry(|| rustix::fs::openat(&directory, c".", flags, Mode::empty())) {
            Err(error @ (Errno::MFILE | Errno::NFILE)) => Err(error),
            opened => {
                known.insert(device, opened);
                Ok(())
            }
        }
    }

    /// Waits until all of them have everything on the disk. One that fails keeps none of the others from it; the first
    /// failure is the answer.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        let known = std::mem::take(&mut *lock(&self.known));
        let synced = known.into_values().map(|opened| opened.and_then(|fd| retry(|| rustix::fs::syncfs(&fd))));
        synced.fold(Ok(()), Result::and)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &str, flags: OFlags) -> OwnedFd {
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    }

    #[test]
    fn each_file_system_is_noted_once() {
        let mounts = Mounts::default();
        for path in ["/", "/", "/proc", "/usr", "/proc"] {
            mounts.note(open(path, OFlags::PATH | OFlags::DIRECTORY)).unwrap();
        }
        let is_one =
            look(open("/", OFlags::PATH)).unwrap().id.device() == look(open("/usr", OFlags::PATH)).unwrap().id.device();
        assert_eq!(lock(&mounts.known).len(), if is_one { 2 } else { 3 });
    }

    #[test]
    fn a_file_system_that_cannot_be_synced_is_told_and_the_others_are_synced() {
        let mounts = Mounts::default();
        lock(&mounts.known).insert(1, Ok(open("/", OFlags::PATH)));
        lock(&mounts.known).insert(2, Ok(open("/proc", OFlags::RDONLY)));
        assert_eq!(mounts.sync(), Err(Errno::BADF));
        assert!(lock(&mounts.known).is_empty());
        lock(&mounts.known).insert(3, Err(Errno::ACCESS));
        assert_eq!(mounts.sync(), Err(Errno::ACCESS));
        assert_eq!(mounts.sync(), Ok(()));
    }
}
