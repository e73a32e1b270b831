//! The seam to the file system that is packed: open, stat, read a range. A test can stand in for files that fail, change
//! or stall; [`FileSystem`] is the real one.

use std::fs::File;
use std::io;

use crate::error::Result;
use crate::primitives::fs::{FsKind, Stat, data_ranges, file_system_kind, fstat, read_full_at};
use crate::primitives::mmap::copy_from_file;
use crate::stages::FileRange;
use crate::stages::pack::place::SourcePath;

/// Opens files for reading.
pub(crate) trait Source: Send + Sync {
    /// Opens a file without following a symlink, on the way to it or at its end, and without waiting where it is none any
    /// more (a FIFO).
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io); if it is gone, or something else is in its place, of the kind "not found".
    fn open(&self, path: &SourcePath) -> Result<Box<dyn SourceFile>>;
}

/// An opened file; used by several threads at once.
pub(crate) trait SourceFile: Send + Sync {
    /// Its attributes now.
    fn stat(&self) -> io::Result<Stat>;
    /// Reads until the buffer is full or the file ends.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// The same by way of a mapping; the second value says that the system does not permit that, and `read_at` was used.
    fn copy_at(&self, buf: &mut [u8], offset: u64) -> io::Result<(usize, bool)>;
    /// The ranges below `size` that hold data.
    fn data_ranges(&self, size: u64) -> io::Result<Vec<FileRange>>;
    /// What kind of file system it is on.
    fn file_system(&self) -> io::Result<FsKind>;
}

/// The file system of this machine.
#[derive(Debug, Default)]
pub(crate) struct FileSystem;

impl Source for FileSystem {
    fn open(&self, path: &SourcePath) -> Result<Box<dyn SourceFile>> {
        Ok(Box::new(path.open_read()?))
    }
}

impl SourceFile for File {
    fn stat(&self) -> io::Result<Stat> {
        fstat(self)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        read_full_at(self, buf, offset)
    }

    fn copy_at(&self, buf: &mut [u8], offset: u64) -> io::Result<(usize, bool)> {
        copy_from_file(self, buf, offset, 0).map(|outcome| (outcome.len, outcome.refused))
    }

    fn data_ranges(&self, size: u64) -> io::Result<Vec<FileRange>> {
        let ranges = data_ranges(self, size, 0)?;
        Ok(ranges.into_iter().map(|(offset, len)| FileRange { offset, len }).collect())
    }

    fn file_system(&self) -> io::Result<FsKind> {
        file_system_kind(self)
    }
}
