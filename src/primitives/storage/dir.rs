//! The name of a vault on a file system: how is a file made that has none yet, and how does it get it, all at once?

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32c::crc32c;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{FileStorage, Lock, LockMode, Storage, VaultDir, retry_interrupted};
use crate::primitives::fs::{self, FsKind, StatKind};
use crate::primitives::xattr;

/// How many symlinks in a row are followed to a vault; the kernel's own limit.
const MAX_SYMLINKS: usize = 40;

/// How many random names are tried before giving up on a temporary file.
const MAX_NAME_TRIES: usize = 64;

/// The longest name that Linux file systems take.
const NAME_MAX: usize = 255;

/// What a temporary name ends with, and how long all of it is that is not the vault's own name.
const TEMPORARY_END: &str = ".tmp";
const TEMPORARY_FRAME_LEN: usize = 1 + 1 + 8 + TEMPORARY_END.len();

/// So much of a vault's beginning tells it from every other one.
const BEGINNING_LEN: usize = 32;

/// Extended attributes that say something of the very bytes of a file: another file has its own.
const OF_THE_BYTES: [&[u8]; 2] = [b"security.ima", b"security.evm"];

/// A name that a file has until it gets its final one. Removed when dropped.
#[derive(Debug)]
pub(super) struct TemporaryName {
    dir: Arc<OwnedFd>,
    name: OsString,
}

impl TemporaryName {
    /// The file has got another name in place of this one: there is nothing to remove any more.
    fn forget(mut self) {
        self.name.clear();
    }
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // Nobody is left to be told; what stays behind has a name that says what it is.
            let _ = rustix::fs::unlinkat(&*self.dir, &*self.name, AtFlags::empty());
        }
    }
}

/// The name of a vault in a directory of a file system.
///
/// The directory is opened once, and every name is looked up in it: whatever becomes of the path later, all operations
/// of one value meet in one directory.
#[derive(Debug)]
pub struct FsVaultDir {
    dir: Arc<OwnedFd>,
    name: OsString,
    path: PathBuf,
}

impl FsVaultDir {
    /// The vault at this path, which need not exist; its directory must. If the path is a symlink, the vault is what it
    /// leads to, now and for the life of this value: a vault that is renamed over does not replace the symlink.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a path that cannot be that of a file, such as `..` or `name/`; otherwise
    /// what the system says of the directory.
    pub fn new(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut path = path.as_ref().to_owned();
        for _ in 0..=MAX_SYMLINKS {
            let name = match path.file_name() {
                Some(name) if path.as_os_str().as_bytes().ends_with(name.as_bytes()) => name.to_owned(),
                _ => return Err(invalid("a path that does not end in the name of a file")),
            };
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            };
            let dir = open_dir(&parent)?;
            match fs::readlink_at(&dir, &name) {
                // Joined to the directory of the link, or in place of it if the target is absolute. Nothing is resolved
                // by text: a `..` in it is for the kernel to follow.
                Ok(target) => path = parent.join(OsString::from_vec(target)),
                // Not a symlink, or nothing there.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
                    return Ok(Self { dir: Arc::new(dir), name, path });
                }
                Err(error) => return Err(error),
            }
        }
        Err(Errno::LOOP.into())
    }

    /// The path of the vault itself, past all symlinks that led to its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file without a name. `None` where the file system or the system cannot do that, or could not name it
    /// later.
    fn create_nameless(&self) -> io::Result<Option<File>> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match retry_on_intr(|| rustix::fs::openat(&*self.dir, ".", flags, Mode::RUSR | Mode::WUSR)) {
            Ok(fd) => File::from(fd),
            // `EISDIR` and `EINVAL` come from what does not know the flag and sees a directory opened for writing.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT | Errno::NOSYS) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Without proc it might be impossible to give the file a name: better to know before anything is written to it.
        let seen = rustix::fs::access(proc_path(&file), rustix::fs::Access::EXISTS).is_ok();
        Ok(seen.then_some(file))
    }

    fn create_named(&self) -> io::Result<FileStorage> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (fd, temporary) = self.with_free_name(|name| {
            retry_on_intr(|| rustix::fs::openat(&*self.dir, name, flags, Mode::RUSR | Mode::WUSR))
        })?;
        let storage = FileStorage::new(File::from(fd));
        *storage.temporary() = Some(temporary);
        Ok(storage)
    }

    /// Calls `make` with one temporary name after the other until it makes something of that name.
    fn with_free_name<T>(
        &self,
        mut make: impl FnMut(&OsStr) -> rustix::io::Result<T>,
    ) -> io::Result<(T, TemporaryName)> {
        // What is to replace a vault is called after it first, so that it is known for what it is if its maker is killed.
        let mut tag = self.tag();
        for _ in 0..MAX_NAME_TRIES {
            let name = match tag.take() {
                Some(tag) => self.temporary_name(tag),
                None => self.random_name()?,
            };
            match make(&name) {
                Ok(made) => {
                    return Ok((made, TemporaryName { dir: Arc::clone(&self.dir), name }));
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name for a temporary file"))
    }

    /// `.NAME.XXXXXXXX.tmp`: hidden, beside the vault, and told from it at a glance.
    fn temporary_name(&self, number: u32) -> OsString {
        let suffix = format!("{number:08x}{TEMPORARY_END}");
        OsString::from_vec([&self.temporary_prefix(), suffix.as_bytes()].concat())
    }

    fn random_name(&self) -> io::Result<OsString> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(self.temporary_name(u32::from_le_bytes(random)))
    }

    /// What stands for the vault that has the name now; `None` if there is none that can be read.
    fn tag(&self) -> Option<u32> {
        let vault = self.open(false).ok()??;
        let mut beginning = [0; BEGINNING_LEN];
        let len = vault.read_at(&mut beginning, 0).ok()?;
        Some(crc32c(&beginning[..len]))
    }

    /// What every temporary name of this vault begins with.
    fn temporary_prefix(&self) -> Vec<u8> {
        let name = self.name.as_bytes();
        let kept = name.len().min(NAME_MAX - TEMPORARY_FRAME_LEN);
        [b".", &name[..kept], b"."].concat()
    }

    /// Whether a name is one that [`Self::temporary_name`] makes.
    fn is_temporary(&self, name: &[u8]) -> bool {
        let random =
            name.strip_prefix(&*self.temporary_prefix()).and_then(|rest| rest.strip_suffix(TEMPORARY_END.as_bytes()));
        let is_digit = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        random.is_some_and(|random| random.len() == 8 && random.iter().all(is_digit))
    }

    /// Removes what has this name, if it is to replace this vault, or is this very one, or the beginning of one, and nobody is at
    /// work on it.
    ///
    /// - `vault`: what the vault begins with.
    fn remove_leftover(&self, name: &OsStr, vault: &[u8]) -> io::Result<bool> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(retry_on_intr(|| rustix::fs::openat(&*self.dir, name, flags, Mode::empty()))?);
        let found = fs::fstat(&file)?;
        ensure_regular(found.kind)?;
        // A second name of the vault itself, from a link that was to be a rename. Its lock is held, by us.
        let is_vault =
            fs::stat_at(&*self.dir, &self.name).is_ok_and(|vault| (vault.dev, vault.ino) == (found.dev, found.ino));
        let mut beginning = [0; BEGINNING_LEN];
        let len = retry_interrupted(|| file.read_at(&mut beginning, 0))?;
        let is_like_it = beginning[..len].iter().all(|&byte| byte == 0) || beginning[..len] == *vault;
        let is_ours = is_like_it || *name == self.temporary_name(crc32c(vault));
        if !is_ours || !(is_vault || FileStorage::new(file).try_lock(Lock::Presence, LockMode::Exclusive)?) {
            return Ok(false);
        }
        rustix::fs::unlinkat(&*self.dir, name, AtFlags::empty())?;
        Ok(true)
    }

    /// Gives a file that has no name this one, unless it is taken.
    fn link_nameless(&self, file: &File, name: &OsStr) -> rustix::io::Result<()> {
        match rustix::fs::linkat(file, "", &*self.dir, name, AtFlags::EMPTY_PATH) {
            // Without the privilege for it, or on an older kernel: it says that there is no such file.
            Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {
                rustix::fs::linkat(CWD, proc_path(file), &*self.dir, name, AtFlags::SYMLINK_FOLLOW)
            }
            result => result,
        }
    }

    /// Moves a temporary name to the vault's, unless that is taken.
    fn rename_if_free(&self, temporary: &OsStr) -> rustix::io::Result<()> {
        match rustix::fs::renameat_with(&*self.dir, temporary, &*self.dir, &*self.name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(&*self.dir, temporary, &*self.dir, &*self.name, AtFlags::empty())?;
                // The vault has its name; that it has a second one harms nobody.
                let _ = rustix::fs::unlinkat(&*self.dir, temporary, AtFlags::empty());
                Ok(())
            }
            result => result,
        }
    }
}

/// The storage that this implementation made, if it is one.
fn file_storage(storage: &dyn Storage) -> io::Result<&FileStorage> {
    storage.as_any().downcast_ref().ok_or_else(|| invalid("a storage that was not made by this directory"))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// The path by which the kernel leads to a file that has no other.
fn proc_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Opens a directory for looking up names, and for syncing if we may read it.
fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let open =
        |flags| retry_on_intr(|| rustix::fs::open(path, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()));
    match open(OFlags::RDONLY) {
        // A directory that we may search and not read: its vault can be opened, and syncing will say what is missing.
        Err(Errno::ACCESS) => Ok(open(OFlags::PATH)?),
        result => Ok(result?),
    }
}

fn ensure_regular(kind: StatKind) -> io::Result<()> {
    if kind == StatKind::File { Ok(()) } else { Err(invalid("not a regular file")) }
}

/// Gives a file the extended attributes that another one has, and takes away those that it was born with.
fn copy_xattrs(from: &File, to: &File) -> io::Result<()> {
    let (wanted, found) = (xattr::list_xattrs_of(from)?, xattr::list_xattrs_of(to)?);
    for (name, _) in found.iter().filter(|(name, _)| wanted.iter().all(|(other, _)| other != name)) {
        match retry_on_intr(|| rustix::fs::fremovexattr(to, &**name)) {
            // Labels that the system gives to every new file stay.
            Err(error) if !name.starts_with(b"security.") => return Err(error.into()),
            _ => {}
        }
    }
    for attribute in wanted.iter().filter(|attribute| !found.contains(attribute)) {
        let (name, value) = attribute;
        if OF_THE_BYTES.contains(&&**name) {
            continue;
        }
        match retry_on_intr(|| rustix::fs::fsetxattr(to, &**name, value, XattrFlags::empty())) {
            // A label is the system's to give, and it has given the new file one.
            Err(_) if name.starts_with(b"security.") => {}
            result => result.map_err(|error| {
                let name = String::from_utf8_lossy(name);
                let error = io::Error::from(error);
                io::Error::new(error.kind(), format!("a new file cannot be given its attribute {name}: {error}"))
            })?,
        }
    }
    Ok(())
}

impl VaultDir for FsVaultDir {
    fn open(&self, write: bool) -> io::Result<Option<Arc<dyn Storage>>> {
        // Looked at before it is opened, since opening a device can do things to it, and after, since it may have
        // changed in between. A FIFO put there in between does not hang us.
        match fs::stat_at(&*self.dir, &self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => ensure_regular(found?.kind)?,
        }
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match retry_on_intr(|| rustix::fs::openat(&*self.dir, &*self.name, flags, Mode::empty())) {
            Err(Errno::NOENT) => return Ok(None),
            opened => File::from(opened?),
        };
        ensure_regular(fs::fstat(&file)?.kind)?;
        Ok(Some(Arc::new(FileStorage::new(file))))
    }

    fn create_unlinked(&self) -> io::Result<Arc<dyn Storage>> {
        Ok(Arc::new(match self.create_nameless()? {
            Some(file) => FileStorage::new(file),
            None => self.create_named()?,
        }))
    }

    fn link(&self, storage: &dyn Storage) -> io::Result<()> {
        let storage = file_storage(storage)?;
        let mut temporary = storage.temporary();
        let linked = match &*temporary {
            Some(named) => self.rename_if_free(&named.name),
            None => self.link_nameless(&storage.file, &self.name),
        };
        match linked {
            // Over a network a repeated request finds what the first one did.
            Err(Errno::EXIST) if self.is_same_file(storage)? => {}
            // Its temporary name was taken for a leftover by who has won the race for the final one.
            Err(Errno::NOENT) if fs::stat_at(&*self.dir, &self.name).is_ok() => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            result => result?,
        }
        if let Some(named) = temporary.take() {
            named.forget();
        }
        Ok(())
    }

    fn rename(&self, storage: &dyn Storage) -> io::Result<()> {
        let storage = file_storage(storage)?;
        let mut temporary = storage.temporary();
        if temporary.is_none() {
            // Only what has a name can be renamed over another; if that fails, the value keeps the name and removes it.
            let ((), named) = self.with_free_name(|name| self.link_nameless(&storage.file, name))?;
            *temporary = Some(named);
        }
        if let Some(named) = &*temporary {
            match rustix::fs::renameat(&*self.dir, &*named.name, &*self.dir, &*self.name) {
                // Over a network a repeated request finds what the first one did.
                Err(_) if self.is_same_file(storage)? => {}
                result => result?,
            }
        }
        if let Some(named) = temporary.take() {
            named.forget();
        }
        Ok(())
    }

    fn unlink(&self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&*self.dir, &*self.name, AtFlags::empty())?)
    }

    fn is_same_file(&self, storage: &dyn Storage) -> io::Result<bool> {
        let ours = fs::fstat(&file_storage(storage)?.file)?;
        match fs::stat_at(&*self.dir, &self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            found => found.map(|there| (there.dev, there.ino) == (ours.dev, ours.ino)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match retry_on_intr(|| rustix::fs::fsync(self.dir.as_fd())) {
            // Opened for looking up names only, because we may not read it.
            Err(Errno::BADF) => Err(Errno::ACCESS.into()),
            result => Ok(result?),
        }
    }

    fn free_space(&self) -> io::Result<Option<u64>> {
        let found = retry_on_intr(|| rustix::fs::fstatvfs(&*self.dir))?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    fn link_count(&self, storage: &dyn Storage) -> io::Result<u64> {
        Ok(fs::fstat(&file_storage(storage)?.file)?.nlink)
    }

    fn copy_attributes(&self, from: &dyn Storage, to: &dyn Storage) -> io::Result<()> {
        let (from, to) = (&file_storage(from)?.file, &file_storage(to)?.file);
        let (wanted, found) = (fs::fstat(from)?, fs::fstat(to)?);
        let failed = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
        if (wanted.uid, wanted.gid) != (found.uid, found.gid) {
            let owner = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
            retry_on_intr(|| rustix::fs::fchown(to, Some(owner.0), Some(owner.1)))
                .map_err(|error| failed("a new file cannot be given its owner and group", error.into()))?;
        }
        // After the owner, whose change takes bits away.
        retry_on_intr(|| rustix::fs::fchmod(to, Mode::from_raw_mode(wanted.mode & 0o7777)))
            .map_err(|error| failed("a new file cannot be given its mode", error.into()))?;
        // After the mode, which a list of access rights has a part of.
        copy_xattrs(from, to)?;
        // The sync of the data later on need not take attributes along.
        Ok(retry_on_intr(|| rustix::fs::fsync(to))?)
    }

    fn remove_leftovers(&self, vault: &dyn Storage) -> io::Result<Vec<PathBuf>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = retry_on_intr(|| rustix::fs::openat(&*self.dir, ".", flags, Mode::empty()))?;
        let (names, listed) = fs::list_directory(&listed);
        let mut beginning = [0; BEGINNING_LEN];
        let len = vault.read_at(&mut beginning, 0)?;
        let mut removed = Vec::new();
        for number in 0..names.len() {
            let Some((name, _)) = names.get(number).filter(|(name, _)| self.is_temporary(name)) else { continue };
            let name = OsStr::from_bytes(name);
            // What cannot be removed is another user's, or gone by now; it is no reason to leave the others.
            if self.remove_leftover(name, &beginning[..len]).unwrap_or(false) {
                removed.push(self.path.with_file_name(name));
            }
        }
        listed.map(|()| removed)
    }

    fn is_remote(&self) -> bool {
        // What cannot be asked is taken for a file system like others.
        fs::file_system_kind(self.dir.as_fd()).is_ok_and(|kind| kind == FsKind::Network)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use std::any::Any;

    use super::*;

    fn temp() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A directory with a vault file, and the vault.
    fn vault() -> (tempfile::TempDir, FsVaultDir) {
        let dir = temp();
        std::fs::write(dir.path().join("v.flint"), b"0123456789").unwrap();
        let vault = FsVaultDir::new(dir.path().join("v.flint")).unwrap();
        (dir, vault)
    }

    fn open(vault: &FsVaultDir) -> Arc<dyn Storage> {
        vault.open(true).unwrap().unwrap()
    }

    #[test]
    fn a_missing_vault_is_none_and_a_missing_directory_an_error() {
        let dir = temp();
        assert!(FsVaultDir::new(dir.path().join("none")).unwrap().open(true).unwrap().is_none());
        let error = FsVaultDir::new(dir.path().join("no/such/vault")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        for path in ["", ".", "..", "/", "dir/", "dir/.", "a/.."] {
            assert_eq!(FsVaultDir::new(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path:?}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_does_not_hang() {
        let dir = temp();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        rustix::fs::mkfifoat(CWD, dir.path().join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        symlink("/dev/null", dir.path().join("device")).unwrap();
        for name in ["directory", "fifo", "socket", "device"] {
            let vault = FsVaultDir::new(dir.path().join(name)).unwrap();
            for write in [true, false] {
                let Err(error) = vault.open(write) else { panic!("{name} opened") };
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
                assert_eq!(error.to_string(), "not a regular file");
            }
        }
    }

    #[test]
    fn a_symlink_leads_to_the_vault_for_making_and_replacing_too() {
        let dir = temp();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        symlink("sub/second", at("first")).unwrap();
        symlink("../sub/./target", at("sub/second")).unwrap();
        let vault = FsVaultDir::new(at("first")).unwrap();
        assert_eq!(vault.path().file_name().unwrap(), "target");
        assert!(vault.open(true).unwrap().is_none(), "the symlink dangles");
        vault.link(&*vault.create_unlinked().unwrap()).unwrap();
        vault.rename(&*vault.create_unlinked().unwrap()).unwrap();
        assert_eq!(
            (names(dir.path()), names(&at("sub"))),
            (vec!["first".into(), "sub".into()], vec!["second".into(), "target".into()])
        );
        assert!(at("first").is_symlink() && !at("sub/target").is_symlink());
        symlink("loop", at("loop")).unwrap();
        assert_eq!(FsVaultDir::new(at("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    /// Both ways of making a file that has no final name yet.
    fn unlinked(vault: &FsVaultDir) -> [Arc<dyn Storage>; 2] {
        [vault.create_unlinked().unwrap(), Arc::new(vault.create_named().unwrap())]
    }

    #[test]
    fn of_all_who_link_one_wins_and_nothing_is_left_of_the_others() {
        for round in 0..2 {
            let dir = temp();
            let vault = FsVaultDir::new(dir.path().join("v.flint")).unwrap();
            let made = [unlinked(&vault), unlinked(&vault), unlinked(&vault)].concat();
            assert!(!dir.path().join("v.flint").exists());
            let results: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = made
                    .iter()
                    .skip(round)
                    .map(|file| scope.spawn(|| vault.link(&**file).map_err(|error| error.kind())))
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
            assert!(
                results.iter().all(|result| matches!(result, Ok(()) | Err(io::ErrorKind::AlreadyExists))),
                "{results:?}"
            );
            let same = made.iter().filter(|file| vault.is_same_file(&***file).unwrap()).count();
            assert_eq!(same, 1, "the name leads to the winner");
            drop(made);
            assert_eq!(names(dir.path()), ["v.flint"]);
        }
    }

    #[test]
    fn linking_and_renaming_give_a_private_file_its_name() {
        for which in 0..2 {
            for replace in [false, true] {
                let dir = temp();
                let vault = FsVaultDir::new(dir.path().join("v.flint")).unwrap();
                if replace {
                    std::fs::write(vault.path(), b"old").unwrap();
                }
                let old = vault.open(true).unwrap();
                let file = Arc::clone(&unlinked(&vault)[which]);
                file.write_at(b"new", 0).unwrap();
                assert!(file.try_lock(Lock::Presence, LockMode::Exclusive).unwrap(), "locks work before it has a name");
                if replace { vault.rename(&*file) } else { vault.link(&*file) }.unwrap();
                assert_eq!(std::fs::read_to_string(vault.path()).unwrap(), "new");
                assert_eq!(std::fs::metadata(vault.path()).unwrap().permissions().mode() & 0o7777, 0o600);
                assert!(vault.is_same_file(&*file).unwrap());
                assert!(old.is_none_or(|old| !vault.is_same_file(&*old).unwrap()), "who holds the old file can tell");
                drop(file);
                assert_eq!(names(dir.path()), ["v.flint"], "its end does not take the name");
                vault.unlink().unwrap();
                assert!(vault.open(false).unwrap().is_none());
            }
        }
    }

    #[test]
    fn a_file_that_never_got_its_name_leaves_none() {
        let dir = temp();
        let vault = FsVaultDir::new(dir.path().join("v.flint")).unwrap();
        let [nameless, named] = unlinked(&vault);
        let found = names(dir.path());
        assert!(found.iter().all(|name| name.starts_with(".v.flint.") && name.ends_with(".tmp")), "{found:?}");
        assert!(!found.is_empty());
        assert!(!vault.is_same_file(&*named).unwrap());
        // Nothing can be renamed over a directory.
        std::fs::create_dir(vault.path()).unwrap();
        assert!(vault.rename(&*nameless).is_err());
        assert!(vault.rename(&*named).is_err());
        assert_eq!(vault.link(&*nameless).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop((nameless, named));
        assert_eq!(names(dir.path()), ["v.flint"]);
    }

    #[test]
    fn the_longest_name_still_has_room_for_a_temporary_one() {
        let dir = temp();
        let vault = FsVaultDir::new(dir.path().join("v".repeat(NAME_MAX))).unwrap();
        let [_, named] = unlinked(&vault);
        vault.link(&*named).unwrap();
        assert_eq!(names(dir.path()), ["v".repeat(NAME_MAX)]);
    }

    #[test]
    fn a_vault_that_was_replaced_is_not_the_same_file() {
        let (dir, vault) = vault();
        let file = open(&vault);
        assert!(vault.is_same_file(&*file).unwrap());
        std::fs::rename(vault.path(), dir.path().join("moved")).unwrap();
        assert!(!vault.is_same_file(&*file).unwrap(), "nothing has the name");
        std::fs::write(vault.path(), b"").unwrap();
        assert!(!vault.is_same_file(&*file).unwrap(), "another file has it");
    }

    #[test]
    fn a_storage_of_another_make_is_refused() {
        struct Other;
        impl Storage for Other {
            fn len(&self) -> io::Result<u64> {
                Ok(0)
            }
            fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
                Ok(0)
            }
            fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
                Ok(0)
            }
            fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn punch(&self, _: u64, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn set_len(&self, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn start_writeback(&self, _: u64, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn sync(&self) -> io::Result<()> {
                Ok(())
            }
            fn try_lock(&self, _: Lock, _: LockMode) -> io::Result<bool> {
                Ok(true)
            }
            fn lock(&self, _: Lock, _: LockMode) -> io::Result<()> {
                Ok(())
            }
            fn unlock(&self, _: Lock) -> io::Result<()> {
                Ok(())
            }
            fn as_any(&self) -> &dyn Any {
                self
            }
        }
        let (_dir, vault) = vault();
        assert_eq!(vault.link(&Other).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(vault.rename(&Other).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
