//! Listing: the entries of a snapshot, one after another, in the memory of a few index blocks.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::engine::api::{ListEntry, ListOptions};
use crate::engine::select::{Selection, trees_at};
use crate::engine::vault::Vault;
use crate::error::Result;
use crate::format::entry::{Entry, EntryType};

/// The entries that `list` answers, in the order of the index: a directory before what is in it.
pub struct Entries {
    selection: Selection,
    failed: bool,
}

impl Vault {
    /// The entries of a snapshot.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`](crate::Error::NoSnapshot), [`Error::Damaged`](crate::Error::Damaged); the iterator ends after its first error. A name in `options.paths` that
    /// stands for nothing is an [`Error::NoEntry`](crate::Error::NoEntry) at the end.
    pub fn list(&self, options: &ListOptions) -> Result<Entries> {
        let state = self.reader(false)?;
        let (_, trees) = trees_at(&state, options.at)?;
        Ok(Entries { selection: Selection::new(&state, &trees, &options.paths)?, failed: false })
    }
}

impl Iterator for Entries {
    type Item = Result<ListEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.selection.next() {
            Ok(Some((_, entry))) => Some(Ok(list_entry(*entry))),
            Ok(None) => {
                self.failed = true;
                self.selection.no_entry().map(Err)
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

fn list_entry(entry: Entry) -> ListEntry {
    let is_device = matches!(entry.entry_type, EntryType::CharDevice | EntryType::BlockDevice);
    ListEntry {
        size: if entry.entry_type == EntryType::Symlink { entry.target.len() as u64 } else { entry.size },
        target: (!entry.target.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(&entry.target))),
        device: is_device.then(|| (rustix::fs::major(entry.rdev), rustix::fs::minor(entry.rdev))),
        path: entry.path.as_path().to_owned(),
        entry_type: entry.entry_type,
        mode: entry.mode,
        mtime: entry.mtime,
        uid: entry.owner.uid,
        gid: entry.owner.gid,
        user: entry.owner.user.to_string(),
        group: entry.owner.group.to_string(),
        changed: entry.changed,
    }
}
