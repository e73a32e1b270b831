//! Where do targets put files? In memory if there is a file system there, since some of them make thousands a second.

use std::path::Path;

/// A directory of its own, gone at the end.
pub(crate) fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("there is room for a directory")
}
