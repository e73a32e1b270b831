//! A file of results put in its place in one step: an older one is replaced, and whoever reads it meanwhile has the whole of
//! one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flint_pipe::{Error, FileOp};

/// Puts `bytes` at `path`. A symlink stays, and what it leads to is replaced.
///
/// # Errors
/// [`Error::Refused`] if what is there is no file, so that no device is ever renamed away; [`Error::Io`].
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut replacement = Replacement::begin(path)?;
    let written = replacement.file.write_all(bytes);
    written.map_err(|error| Error::io(FileOp::Write, path, error)).and_then(|()| replacement.finish())
}

/// A file that is being written and not yet in its place; gone, if it never gets there.
#[derive(Debug)]
pub(crate) struct Replacement {
    /// What is written.
    pub(crate) file: File,
    path: PathBuf,
    place: PathBuf,
    temporary: PathBuf,
}

impl Replacement {
    /// Begins one beside `path`.
    ///
    /// # Errors
    /// As [`replace`].
    pub(crate) fn begin(path: &Path) -> Result<Self, Error> {
        let place = place(path)?;
        let temporary = temporary(&place);
        let made = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = made.map_err(|error| Error::io(FileOp::Write, path, error))?;
        Ok(Self { file, path: path.to_owned(), place, temporary })
    }

    /// Puts it in its place.
    pub(crate) fn finish(self) -> Result<(), Error> {
        std::fs::rename(&self.temporary, &self.place).map_err(|error| Error::io(FileOp::Write, &self.path, error))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // Gone already where it is in its place. Else whatever kept it from there says more than a failure here.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Whether [`replace`] would do, as far as that can be known before there are any bytes: nothing is left behind.
///
/// # Errors
/// As [`replace`].
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    Replacement::begin(path).map(drop)
}

/// Where `path` leads to.
fn place(path: &Path) -> Result<PathBuf, Error> {
    let found = std::fs::metadata(path).and_then(|found| std::fs::canonicalize(path).map(|place| (found, place)));
    match found {
        Ok((found, _)) if found.is_dir() => {
            Err(Error::Refused { what: "a directory is in the way", path: path.to_owned() })
        }
        Ok((found, _)) if !found.is_file() => {
            Err(Error::Refused { what: "what is in the way is no file", path: path.to_owned() })
        }
        Ok((_, place)) => Ok(place),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            Err(Error::Refused { what: "a symlink that leads nowhere is in the way", path: path.to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(Error::io(FileOp::Write, path, error)),
    }
}

/// A name of its own, since several may be written at once.
fn temporary(place: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    place.with_file_name(format!(".flint-pipe.{}.{number}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).expect("it is there");
        let name = |entry: io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<String> = entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_through_a_symlink() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        std::os::unix::fs::symlink("file", &link).expect("a link");
        for (path, text) in [(&file, "one"), (&file, "two"), (&link, "three")] {
            check(path).expect("it can be written");
            replace(path, text.as_bytes()).expect("it is written");
            assert_eq!(std::fs::read_to_string(&file).expect("it is there"), text);
        }
        assert_eq!(names(directory.path()), ["file", "link"]);
        assert!(link.is_symlink());
    }

    #[test]
    fn what_cannot_be_written_is_told_beforehand_and_nothing_is_left() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let dangling = tempfile::tempdir().expect("another");
        std::os::unix::fs::symlink("nowhere", dangling.path().join("link")).expect("a link");
        for (path, words) in [
            (directory.path().join("none/file"), "cannot write: "),
            (directory.path().to_owned(), "a directory is in the way: "),
            ("/dev/null".into(), "what is in the way is no file: "),
            (dangling.path().join("link"), "a symlink that leads nowhere is in the way: "),
        ] {
            for error in [check(&path), replace(&path, b"text")] {
                let error = error.expect_err("there is no writing here").to_string();
                assert!(error.starts_with(words), "{error}");
            }
        }
        assert_eq!(names(directory.path()), [] as [&str; 0]);
    }
}
