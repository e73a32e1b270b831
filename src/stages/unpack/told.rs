//! What becomes of an entry, and who is told of it?

use std::io;

use rustix::io::Errno;

use crate::error::{FileOp, Malformation};
use crate::format::entry::{Entry, EntryPath};

/// Why an entry could not be restored.
#[derive(Debug)]
pub(crate) enum RestoreError {
    /// The system refused.
    Io {
        /// What was tried.
        op: FileOp,
        /// Why it failed.
        source: io::Error,
    },
    /// Bytes of the vault that it needs are lost.
    Damaged(Malformation),
    /// It cannot be made here, in words.
    Unsupported(&'static str),
}

impl RestoreError {
    pub(super) fn io(op: FileOp, error: Errno) -> Self {
        Self::Io { op, source: error.into() }
    }

    /// The system's number for the cause, if it has one.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Io { source, .. } => Errno::from_io_error(source),
            Self::Damaged(_) | Self::Unsupported(_) => None,
        }
    }
}

// By hand, since `io::Error` is not: several names of one file can fail for one cause.
impl Clone for RestoreError {
    fn clone(&self) -> Self {
        match self {
            Self::Io { op, source } => {
                let source = match source.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(source.kind(), source.to_string()),
                };
                Self::Io { op: *op, source }
            }
            Self::Damaged(what) => Self::Damaged(what.clone()),
            Self::Unsupported(what) => Self::Unsupported(what),
        }
    }
}

/// Is told of each entry exactly once, from any worker; entries that were under way when the run was abandoned are not
/// told of.
pub(crate) trait RestoreSink: Send + Sync {
    /// It is there, as stored.
    fn restored(&self, entry: &Entry);
    /// It was there already, as far as size and time tell; its attributes are as stored.
    fn unchanged(&self, entry: &Entry);
    /// Its name was taken and shall stay so, or entries of its type are not wanted.
    fn skipped(&self, entry: &Entry);
    /// It is not there, or (if `error` is about an attribute) not quite as stored.
    fn failed(&self, entry: &Entry, error: RestoreError);
    /// Something that concerns many entries, of which `path` is the first.
    fn note(&self, path: &EntryPath, message: String);
}
