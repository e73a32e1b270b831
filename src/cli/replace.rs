//! A file of results put in its place in one step: an older one is replaced, and whoever reads it meanwhile has the whole of
//! one.
//!
//! What is being written has no name where the file system can do that (`O_TMPFILE`), so that nothing is left behind
//! however the process ends; elsewhere it has one that nobody else has.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use flint_pipe::{Error, FileOp};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// How often a name for what is being written is tried before it is given up.
const ATTEMPTS: u32 = 16;

/// Puts `bytes` at `path`. A symlink stays, and what it leads to is replaced; its mode stays, too.
///
/// # Errors
/// [`Error::Refused`] if what is there is no file, so that no device is ever renamed away; [`Error::Io`].
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut replacement = Replacement::begin(path)?;
    let written = replacement.file.write_all(bytes);
    written.map_err(|error| Error::io(FileOp::Write, path, error)).and_then(|()| replacement.finish())
}

/// Puts `bytes` at `path` where nothing is, for its owner alone to read, and for good: the directory is synced, too.
///
/// # Errors
/// [`Error::Refused`] if anything is there; [`Error::Io`].
pub(crate) fn put_new(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    check_new(path)?;
    let failed = |error| Error::io(FileOp::Write, path, error);
    let mut new = Replacement::begin(path)?;
    new.file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    new.file.write_all(bytes).and_then(|()| new.file.sync_all()).map_err(failed)?;
    let own = match &new.temporary {
        Some(temporary) => temporary.clone(),
        None => new.proc_path(),
    };
    match rustix::fs::linkat(CWD, &own, CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Err(rustix::io::Errno::EXIST) => return Err(in_the_way(path)),
        linked => linked.map_err(|error| failed(error.into()))?,
    }
    // A temporary name goes before the directory is synced.
    let directory = new.directory();
    drop(new);
    let synced = rustix::fs::open(&directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    synced.and_then(rustix::fs::fsync).map_err(|error| Error::io(FileOp::Sync, &directory, error))
}

/// Whether there is nothing at `path`.
///
/// # Errors
/// As [`put_new`].
pub(crate) fn check_new(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Err(in_the_way(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(FileOp::Stat, path, error)),
    }
}

fn in_the_way(path: &Path) -> Error {
    Error::Refused { what: "this exists already, and is not overwritten", path: path.to_owned() }
}

/// A file that is being written and not yet in its place; gone, if it never gets there.
#[derive(Debug)]
pub(crate) struct Replacement {
    /// What is written.
    pub(crate) file: File,
    path: PathBuf,
    place: PathBuf,
    /// Its name, where it has one.
    temporary: Option<PathBuf>,
}

impl Replacement {
    /// Begins one beside `path`.
    ///
    /// # Errors
    /// As [`replace`].
    pub(crate) fn begin(path: &Path) -> Result<Self, Error> {
        let place = place(path)?;
        let failed = |error| Error::io(FileOp::Write, path, error);
        let directory = directory(&place);
        let unnamed = OFlags::TMPFILE.bits().cast_signed();
        // A link to it needs `/proc`.
        let has_proc = Path::new("/proc/self/fd").exists();
        let made =
            if has_proc { OpenOptions::new().write(true).custom_flags(unnamed).open(directory).ok() } else { None };
        let (file, temporary) = match made {
            Some(file) => (file, None),
            None => {
                let make = |name: &Path| OpenOptions::new().write(true).create_new(true).open(name);
                let (file, name) = with_free_name(&place, make).map_err(failed)?;
                (file, Some(name))
            }
        };
        Ok(Self { file, path: path.to_owned(), place, temporary })
    }

    /// Puts it in its place, with the mode of what is there.
    ///
    /// # Errors
    /// The system's; then what was there is there still.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        self.put().map_err(|error| Error::io(FileOp::Write, &self.path, error))
    }

    /// Where it can be linked from while it has no name.
    fn proc_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// The directory that it goes to.
    fn directory(&self) -> PathBuf {
        directory(&self.place).to_owned()
    }

    fn put(&mut self) -> io::Result<()> {
        if let Ok(old) = std::fs::metadata(&self.place) {
            self.file.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
            // Only root may do this, and it is no loss where nobody can.
            let _ = std::os::unix::fs::fchown(&self.file, Some(old.uid()), Some(old.gid()));
        }
        self.file.sync_all()?;
        if self.temporary.is_none() {
            let own = self.proc_path();
            let link = |name: &Path| Ok(rustix::fs::linkat(CWD, &own, CWD, name, AtFlags::SYMLINK_FOLLOW)?);
            self.temporary = Some(with_free_name(&self.place, link)?.1);
        }
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.place)?;
        }
        // It is that no longer.
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Whatever kept it from its place says more than a failure here.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Whether [`replace`] would do, as far as that can be known before there are any bytes: nothing is left behind.
///
/// # Errors
/// As [`replace`].
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    Replacement::begin(path).map(drop)
}

/// Does something with a name beside `place` that nobody has; tries another where somebody was faster.
fn with_free_name<T>(place: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut tries = 0;
    loop {
        // In containers all processes have one number, so the clock is part of it.
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = place.with_file_name(format!(".flint-pipe.{:x}.{nanos:x}.{count}.tmp", std::process::id()));
        tries += 1;
        match make(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < ATTEMPTS => {}
            made => return made.map(|made| (made, name)),
        }
    }
}

/// The directory of a name.
fn directory(place: &Path) -> &Path {
    place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where `path` leads to.
fn place(path: &Path) -> Result<PathBuf, Error> {
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Error::Refused { what: "this names a directory", path: path.to_owned() });
    }
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
    fn a_new_file_is_its_owners_alone_and_takes_the_place_of_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        put_new(&file, b"one").expect("it is written");
        assert_eq!(std::fs::metadata(&file).expect("it is there").mode() & 0o777, 0o600);
        std::os::unix::fs::symlink("nowhere", &link).expect("a link");
        for path in [&file, &link] {
            let error = put_new(path, b"two").expect_err("something is there").to_string();
            assert!(error.starts_with("this exists already, and is not overwritten: "), "{error}");
        }
        assert!(put_new(&directory.path().join("none/file"), b"two").is_err());
        assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "one");
        assert_eq!(names(directory.path()), ["file", "link"]);
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
