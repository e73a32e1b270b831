//! Which extended attributes does an inode have? Asked in an open directory, so that nothing is reached by a path.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::buffer::spare_capacity;
use rustix::io::{Errno, retry_on_intr};

use crate::primitives::{fs, sys};

/// The extended attributes of an inode, name and value, sorted by name.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Off once the kernel, or a filter in front of it, has refused the calls that take a directory (Linux 6.13).
static HAS_AT: AtomicBool = AtomicBool::new(true);

/// The extended attributes of what has this name in an open directory, of a symlink itself. Empty where the file system
/// has none.
///
/// # Errors
/// The system's; [`io::ErrorKind::Unsupported`] on a kernel before 6.13 without `/proc`.
pub(crate) fn list_xattrs_at(directory: impl AsFd, name: &[u8]) -> io::Result<Xattrs> {
    let directory = directory.as_fd();
    if !HAS_AT.load(Ordering::Relaxed) {
        return list_by_proc(directory, name);
    }
    match list_at(directory, name) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            let found = list_by_proc(directory, name)?;
            HAS_AT.store(false, Ordering::Relaxed);
            Ok(found)
        }
        other => other,
    }
}

/// The extended attributes of what is open, be it only as a place (`O_PATH`).
///
/// # Errors
/// As [`list_xattrs_at`].
pub(crate) fn list_xattrs_of(fd: impl AsFd) -> io::Result<Xattrs> {
    let fd = fd.as_fd();
    if fs::fstat(fd)?.kind == fs::StatKind::Directory {
        return list_xattrs_at(fd, b".");
    }
    // This link is followed, and leads to what is open without a look at any name.
    let link = proc_link(fd);
    let listed = collect_xattrs(
        |names| match names {
            Some(names) => rustix::fs::listxattr(&link, spare_capacity(names)),
            None => rustix::fs::listxattr_query(&link),
        },
        |name, value| match value {
            Some(value) => rustix::fs::getxattr(&link, name, spare_capacity(value)),
            None => rustix::fs::getxattr_query(&link, name),
        },
    );
    listed.map_err(|error| if error.kind() == io::ErrorKind::NotFound { no_proc() } else { error })
}

fn list_at(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Xattrs> {
    collect_xattrs(
        |names| fill(names, |buf| sys::list_xattr_at(directory, name, buf)),
        |xattr, value| fill(value, |buf| sys::get_xattr_at(directory, name, xattr, buf)),
    )
}

/// The same for kernels that have no such call: the directory's descriptor as a path.
fn list_by_proc(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Xattrs> {
    use std::os::unix::ffi::OsStrExt;
    let path = proc_link(directory).join(std::ffi::OsStr::from_bytes(name));
    let listed = collect_xattrs(
        |names| match names {
            Some(names) => rustix::fs::llistxattr(&path, spare_capacity(names)),
            None => rustix::fs::llistxattr_query(&path),
        },
        |name, value| match value {
            Some(value) => rustix::fs::lgetxattr(&path, name, spare_capacity(value)),
            None => rustix::fs::lgetxattr_query(&path, name),
        },
    );
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Is it gone, or is it the way that is not there?
            fs::stat_at(directory, std::ffi::OsStr::from_bytes(name))?;
            if fs::lstat(&proc_link(directory)).is_ok() { Err(error) } else { Err(no_proc()) }
        }
        other => other,
    }
}

fn proc_link(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn no_proc() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this kernel can only do so where /proc is mounted")
}

/// Fills a vector's capacity, or asks for the size.
fn fill(buf: Option<&mut Vec<u8>>, call: impl Fn(&mut [u8]) -> io::Result<usize>) -> rustix::io::Result<usize> {
    let call = |buf: &mut [u8]| call(buf).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    match buf {
        None => call(&mut []),
        Some(buf) => {
            buf.resize(buf.capacity(), 0);
            let len = call(buf)?;
            buf.truncate(len);
            Ok(len)
        }
    }
}

/// Sets an extended attribute of what is at this path, of a symlink itself, whether it has it already or not.
#[cfg(test)]
pub(crate) fn set_xattr_path(path: &std::path::Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()))?)
}

fn collect_xattrs(
    mut list: impl FnMut(Option<&mut Vec<u8>>) -> rustix::io::Result<usize>,
    mut get: impl FnMut(&[u8], Option<&mut Vec<u8>>) -> rustix::io::Result<usize>,
) -> io::Result<Xattrs> {
    let names = match read_growing(&mut list) {
        Ok(names) => names,
        // `ENOTSUP` and `EOPNOTSUPP` are one number on Linux.
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut xattrs = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        match read_growing(|value| get(name, value)) {
            Ok(value) => xattrs.push((name.to_vec(), value)),
            // It vanished since it was listed; or it is listed, but not by the file system that is to give it.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Reads something whose size has to be asked for first (`None`) and may have grown when it is read.
fn read_growing(
    mut call: impl FnMut(Option<&mut Vec<u8>>) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    loop {
        let size = retry_on_intr(|| call(None))?;
        if size == 0 {
            return Ok(Vec::new());
        }
        // The kernel holds names and values to 64 KiB each, so this size is bounded.
        let mut content = Vec::with_capacity(size);
        match retry_on_intr(|| call(Some(&mut content))) {
            Ok(_) => return Ok(content),
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    /// What all ways of asking answer.
    fn try_list(path: &Path) -> io::Result<Xattrs> {
        let directory = open(&path.parent().unwrap().canonicalize().unwrap());
        let name = path.file_name().unwrap().as_bytes();
        let listed = list_xattrs_at(&directory, name);
        for other in [list_at(directory.as_fd(), name), list_by_proc(directory.as_fd(), name)] {
            match (&listed, other) {
                (Ok(listed), Ok(other)) => assert_eq!(*listed, other),
                (_, Err(other)) if other.raw_os_error() == Some(libc::ENOSYS) => {}
                (listed, other) => assert_eq!(listed.as_ref().unwrap_err().kind(), other.unwrap_err().kind()),
            }
        }
        listed
    }

    fn listed(path: &Path) -> Xattrs {
        let listed = try_list(path).unwrap();
        assert_eq!(list_xattrs_of(open(path)).unwrap(), listed);
        listed
    }

    #[test]
    fn directories_and_other_kinds_have_them_too() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        set_xattr_path(&sub, b"user.d", b"1").unwrap();
        assert_eq!(listed(&sub), [(b"user.d".to_vec(), b"1".to_vec())]);
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo"), Mode::RUSR).unwrap();
        assert_eq!(listed(&dir.path().join("fifo")), []);
    }

    #[test]
    fn a_file_system_without_them_has_none() {
        assert_eq!(listed("/proc/self/status".as_ref()), []);
        assert_eq!(listed("/proc/self".as_ref()), [], "of a symlink itself");
    }

    #[test]
    fn extended_attributes_come_sorted_and_with_their_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(listed(&path), []);
        let long = vec![b'v'; 2000];
        set_xattr_path(&path, b"user.b", &long).unwrap();
        set_xattr_path(&path, b"user.a", b"first").unwrap();
        set_xattr_path(&path, b"user.a", b"\0second\xff").unwrap();
        set_xattr_path(&path, b"user.empty", b"").unwrap();
        let expected: Xattrs = [("user.a", b"\0second\xff".as_slice()), ("user.b", &long), ("user.empty", b"")]
            .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()))
            .into();
        assert_eq!(listed(&path), expected);
        let link = dir.path().join("link");
        symlink("file", &link).unwrap();
        assert_eq!(listed(&link), [], "those of the symlink, not of its target");
        assert!(set_xattr_path(&link, b"user.c", b"").is_err(), "symlinks have no user attributes");
        assert!(set_xattr_path(&path, b"user.nul\0byte", b"").is_err());
        assert_eq!(try_list(&dir.path().join("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_list_that_grows_is_asked_for_again_and_one_that_shrinks_is_not_missed() {
        let mut sizes = [3, 5].into_iter();
        let list = |names: Option<&mut Vec<u8>>| match names {
            None => Ok(sizes.next().unwrap()),
            Some(names) if names.capacity() < 4 => Err(Errno::RANGE),
            Some(names) => {
                names.extend_from_slice(b"b\0a\0");
                Ok(4)
            }
        };
        let get = |name: &[u8], value: Option<&mut Vec<u8>>| match (name, value) {
            (b"a", _) => Err(Errno::NODATA),
            (_, None) => Ok(1),
            (_, Some(value)) => {
                value.push(b'v');
                Ok(1)
            }
        };
        assert_eq!(collect_xattrs(list, get).unwrap(), [(b"b".to_vec(), b"v".to_vec())]);
        let none = collect_xattrs(|_| Err(Errno::NOTSUP), |_, _| Err(Errno::NOTSUP));
        assert_eq!(none.unwrap(), []);
        assert!(collect_xattrs(|_| Err(Errno::IO), |_, _| Err(Errno::NOTSUP)).is_err());
    }
}
