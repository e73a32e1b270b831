//! What would restoring an entry do to what is there? Looks, and changes nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::beneath::{Beneath, look_at, retry};
use super::policy::{Overwrite, RestorePolicy};
use crate::error::{Error, FileOp, Result};
use crate::format::entry::{Entry, EntryType};

/// What would become of an entry, as far as can be told without trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreseen {
    /// It would be made, or take the place of what is there.
    Restored,
    /// What is there has its size and time, and would be left alone but for attributes.
    Unchanged,
    /// It would not be touched.
    Skipped,
}

/// A destination that is looked at.
#[derive(Debug)]
pub(crate) struct Glance {
    policy: RestorePolicy,
    /// `None` where it is not there yet.
    beneath: Option<Beneath>,
    /// The directory that was looked into last; entries come directory by directory.
    last: (Vec<u8>, Option<OwnedFd>),
}

impl Glance {
    /// Opens the destination if it is there; one that is no directory is refused, as it would be for real.
    pub(crate) fn at(path: &Path, policy: RestorePolicy) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beneath = match retry(|| rustix::fs::open(path, flags, Mode::empty())) {
            Ok(root) => Some(Beneath::new(root)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(Error::io(FileOp::Open, path, error)),
        };
        // No parent is as long as this, so that the first one is looked for.
        Ok(Self { policy, beneath, last: (vec![0], None) })
    }

    /// What would become of `entry`.
    pub(crate) fn foresee(&mut self, entry: &Entry) -> Foreseen {
        let is_device = matches!(entry.entry_type, EntryType::CharDevice | EntryType::BlockDevice);
        if is_device && !self.policy.preserve.devices {
            return Foreseen::Skipped;
        }
        let Some(beneath) = self.beneath.as_ref().filter(|_| self.policy.overwrite != Overwrite::Always) else {
            return Foreseen::Restored;
        };
        let seen = match entry.path.split_last() {
            None => look_at(beneath.root(), b"."),
            Some((parent, leaf)) => {
                if self.last.0 != parent {
                    self.last = (parent.to_vec(), beneath.open(parent).ok());
                }
                self.last.1.as_ref().ok_or(Errno::NOENT).and_then(|directory| look_at(directory.as_fd(), leaf))
            }
        };
        match (seen, self.policy.overwrite) {
            (Err(_), _) | (_, Overwrite::Always) => Foreseen::Restored,
            (Ok(_), Overwrite::Never) => Foreseen::Skipped,
            (Ok(seen), Overwrite::IfChanged) if seen.looks_like(entry) => Foreseen::Unchanged,
            (Ok(_), Overwrite::IfChanged) => Foreseen::Restored,
        }
    }
}
