//! How is a path opened below a directory, and never outside of it?
//!
//! The kernel resolves it from the directory's descriptor, with symlinks forbidden at every step (`openat2`). Where it
//! cannot, or where a filter in front of it forbids that call, the components are opened one after another, none of them
//! followed. A path may be longer than the kernel takes in one call.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};

/// The longest path that the kernel takes in one call, without the NUL.
pub(crate) const MAX_CALL_LEN: usize = 4095;
/// A directory to resolve from: needs search permission alone.
pub(crate) const PASS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How often `openat2` is asked again when a rename elsewhere disturbed it, before the components are walked one by one.
const RESOLVE_ATTEMPTS: u32 = 32;

/// Opens paths below directories; remembers what the kernel can do.
#[derive(Debug)]
pub(crate) struct Resolver {
    /// Off once the kernel, or a filter in front of it, has refused `openat2`.
    openat2: AtomicBool,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { openat2: AtomicBool::new(true) }
    }
}

impl Resolver {
    /// Has everything resolved as on a kernel without `openat2`.
    #[cfg(test)]
    pub(crate) fn forget_openat2(&self) {
        self.openat2.store(false, Ordering::Relaxed);
    }

    /// Opens `path`, components joined by `/` without `.` and `..`, below `directory`; an empty one is the directory
    /// itself. The flags are for the last component alone, which is not followed either.
    ///
    /// # Errors
    /// The system's. `ELOOP` or `ENOTDIR` say that a symlink, or something else that is no directory, is on the way.
    pub(crate) fn open(&self, directory: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return retry_on_intr(|| rustix::fs::openat(directory, c".", flags | OFlags::CLOEXEC, Mode::empty()));
        }
        let mut at: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let (part, tail) = split_for_one_call(rest);
            let from = at.as_ref().map_or(directory, AsFd::as_fd);
            if tail.is_empty() {
                return self.open_part(from, part, flags | OFlags::CLOEXEC);
            }
            at = Some(self.open_part(from, part, PASS)?);
            rest = tail;
        }
    }

    fn open_part(&self, from: BorrowedFd<'_>, part: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW;
        if !self.openat2.load(Ordering::Relaxed) {
            return walk(from, part, flags);
        }
        for _ in 0..RESOLVE_ATTEMPTS {
            match rustix::fs::openat2(from, part, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The file's answer to this flag, more likely than a filter's.
                Err(Errno::PERM) if flags.contains(OFlags::NOATIME) => return Err(Errno::PERM),
                Err(Errno::NOSYS | Errno::PERM) => {
                    let opened = walk(from, part, flags)?;
                    self.openat2.store(false, Ordering::Relaxed);
                    return Ok(opened);
                }
                other => return other,
            }
        }
        walk(from, part, flags)
    }
}

/// Goes down component by component. Each step is a name of its own that is not followed, so that it ends beneath as
/// well; only a directory that is moved elsewhere while it is walked takes the walk along.
fn walk(from: BorrowedFd<'_>, part: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut at: Option<OwnedFd> = None;
    let mut components = part.split(|&byte| byte == b'/').peekable();
    while let Some(component) = components.next() {
        // With O_DIRECTORY a symlink that is not followed is refused, even for O_PATH.
        let flags = if components.peek().is_none() { flags } else { PASS | OFlags::NOFOLLOW };
        let from = at.as_ref().map_or(from, AsFd::as_fd);
        at = Some(retry_on_intr(|| rustix::fs::openat(from, component, flags, Mode::empty()))?);
    }
    at.ok_or(Errno::INVAL)
}

/// Splits off as many leading components as fit into one system call.
fn split_for_one_call(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= MAX_CALL_LEN {
        return (path, &[]);
    }
    // A slash may be the first byte that does not fit. Components are shorter than a call, so there is one.
    match path[..=MAX_CALL_LEN].iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (path, &[]),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::primitives::fs::fstat;

    fn open_dir(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(path, PASS, Mode::empty()).unwrap()
    }

    #[test]
    fn a_symlink_on_the_way_or_at_the_end_is_refused_with_and_without_openat2() {
        let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(outside.path().join("sub")).unwrap();
        std::fs::write(outside.path().join("file"), "x").unwrap();
        symlink(outside.path(), inside.path().join("link")).unwrap();
        symlink(".", inside.path().join("self")).unwrap();
        std::fs::create_dir(inside.path().join("real")).unwrap();
        std::fs::write(inside.path().join("real/file"), "x").unwrap();
        let root = open_dir(inside.path());
        for with_openat2 in [true, false] {
            let resolver = Resolver::default();
            if !with_openat2 {
                resolver.forget_openat2();
            }
            let open = |path: &str, flags| resolver.open(root.as_fd(), path.as_bytes(), flags);
            for path in ["link", "link/sub", "link/file", "self", "self/real", "self/real/file"] {
                assert!(open(path, OFlags::RDONLY).is_err(), "{path}");
                assert!(open(path, PASS).is_err(), "{path}");
            }
            assert!(open("real/file", OFlags::RDONLY).is_ok());
            assert!(open("real", PASS).is_ok());
            assert_eq!(fstat(open("", PASS).unwrap()).unwrap(), fstat(&root).unwrap());
            assert_eq!(open("none", OFlags::RDONLY).unwrap_err(), Errno::NOENT);
            assert_eq!(open("real/file/x", OFlags::RDONLY).unwrap_err(), Errno::NOTDIR);
        }
    }

    #[test]
    fn a_path_longer_than_one_call_takes_is_opened() {
        let inside = tempfile::tempdir().unwrap();
        let component = "x".repeat(255);
        let mut at = open_dir(inside.path());
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, component.as_str(), Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, component.as_str(), PASS, Mode::empty()).unwrap();
        }
        let path = vec![component.as_bytes(); 40].join(&b'/');
        let root = open_dir(inside.path());
        for with_openat2 in [true, false] {
            let resolver = Resolver::default();
            if !with_openat2 {
                resolver.forget_openat2();
            }
            let opened = resolver.open(root.as_fd(), &path, PASS).unwrap();
            assert_eq!(fstat(opened).unwrap(), fstat(&at).unwrap());
        }
        // Whoever removes the tree by path could not.
        for depth in (0..40_usize).rev() {
            let parent =
                Resolver::default().open(root.as_fd(), &path[..(256 * depth).saturating_sub(1)], PASS).unwrap();
            rustix::fs::unlinkat(parent, component.as_str(), rustix::fs::AtFlags::REMOVEDIR).unwrap();
        }
    }

    #[test]
    fn long_paths_are_split_at_a_slash_and_lose_nothing() {
        let long = vec![vec![b'x'; 255]; 40].join(&b'/');
        let (head, tail) = split_for_one_call(&long);
        assert!(head.len() <= MAX_CALL_LEN && head.len() > MAX_CALL_LEN - 256);
        assert_eq!([head, tail].join(&b'/'), long);
        let fits = vec![b'y'; MAX_CALL_LEN];
        assert_eq!(split_for_one_call(&fits), (&fits[..], &b""[..]));
        // The slash is the first byte that does not fit: the head may fill the call to its last byte.
        let exact = [&[b'z'; 3839][..], &[b'a'; 255], b"bbb"].join(&b'/');
        assert_eq!(split_for_one_call(&exact).0.len(), MAX_CALL_LEN);
    }
}
