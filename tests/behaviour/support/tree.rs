//! Trees of files: made with everything that a file system knows, and compared the same way.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use sha2::{Digest as _, Sha256};

use super::disk::Dice;

/// A directory that is a tree's root, removed at the end.
pub(crate) struct Tree {
    directory: tempfile::TempDir,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.root().join(name.as_ref())
    }

    /// Writes a file, and makes the directories that lead to it.
    pub(crate) fn file(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("it has a parent")).expect("its parents are made");
        std::fs::write(&path, content).expect("it is written");
        path
    }

    pub(crate) fn directory(&self, name: impl AsRef<OsStr>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("it is made");
        path
    }

    pub(crate) fn symlink(&self, name: impl AsRef<OsStr>, target: impl AsRef<OsStr>) -> PathBuf {
        let path = self.path(name);
        std::os::unix::fs::symlink(target.as_ref(), &path).expect("it is made");
        path
    }

    pub(crate) fn node(&self, name: impl AsRef<OsStr>, kind: FileType, device: u64) -> PathBuf {
        let path = self.path(name);
        rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o640), device).expect("it is made");
        path
    }
}

/// Sets the time of the last change; a symlink's own.
pub(crate) fn set_mtime(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("its time is set");
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty()).expect("its mode is set");
}

pub(crate) fn set_owner(path: &Path, uid: u32, gid: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).expect("its owner is set");
}

/// Says whether the file system takes this attribute.
pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).is_ok()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Bytes that no compressor makes shorter; the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Bytes that a compressor likes.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut bytes = Vec::with_capacity(len + 32);
    while bytes.len() < len {
        let word = ["lorem", "ipsum", "dolor", "sit", "amet", "return", "struct", "0x1f"][dice.below(8)];
        bytes.extend_from_slice(word.as_bytes());
        bytes.push(if dice.below(12) == 0 { b'\n' } else { b' ' });
    }
    bytes.truncate(len);
    bytes
}

/// Everything that can be seen of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    size: u64,
    device: u64,
    target: Option<PathBuf>,
    /// Of what is not zero, and where it is.
    content: Option<[u8; 32]>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same inode, for files with several.
    same_as: Option<PathBuf>,
}

impl Seen {
    pub(crate) fn is_file(&self) -> bool {
        self.content.is_some()
    }
}

pub(crate) type Sight = BTreeMap<PathBuf, Seen>;

/// Looks at a whole tree. The root has the empty name.
pub(crate) fn look(root: &Path) -> Sight {
    let mut sight = Sight::new();
    let mut inodes = HashMap::new();
    look_below(root, Path::new(""), &mut sight, &mut inodes);
    sight
}

fn look_below(root: &Path, name: &Path, sight: &mut Sight, inodes: &mut HashMap<(u64, u64), PathBuf>) {
    let path = if name.as_os_str().is_empty() { root.to_owned() } else { root.join(name) };
    let stat = std::fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let same_as = (!stat.is_dir() && stat.nlink() > 1)
        .then(|| inodes.entry((stat.dev(), stat.ino())).or_insert_with(|| name.to_owned()).clone());
    sight.insert(
        name.to_owned(),
        Seen {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            size: if stat.is_dir() { 0 } else { stat.size() },
            device: stat.rdev(),
            target: stat.is_symlink().then(|| std::fs::read_link(&path).expect("its target is read")),
            content: stat.is_file().then(|| content_of(&path, stat.size())),
            xattrs: xattrs_of(&path),
            same_as,
        },
    );
    if stat.is_dir() {
        let listed = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut below: Vec<_> = listed.map(|entry| entry.expect("it is listed").file_name()).collect();
        below.sort();
        for leaf in below {
            look_below(root, &name.join(leaf), sight, inodes);
        }
    }
}

/// A digest of the blocks that are not all zero, with their places: holes and zeros are the same, and cost nothing.
fn content_of(path: &Path, size: u64) -> [u8; 32] {
    use std::os::unix::fs::FileExt as _;
    const BLOCK: usize = 4096;
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut digest = Sha256::new();
    let mut block = vec![0; 64 * BLOCK];
    let mut at = 0;
    while at < size {
        match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => at = at.max(data / BLOCK as u64 * BLOCK as u64),
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => {}
        }
        let read = file.read_at(&mut block, at).expect("it is read");
        if read == 0 {
            break;
        }
        for (number, bytes) in block[..read].chunks(BLOCK).enumerate() {
            if bytes.iter().any(|&byte| byte != 0) {
                // The last block of a file may be shorter; zeros behind it would be another file only by size.
                digest.update((at + (number * BLOCK) as u64).to_le_bytes());
                digest.update(bytes);
            }
        }
        // Reads at other than block ends would shift the blocks of the next one.
        at += (read.div_ceil(BLOCK) * BLOCK) as u64;
    }
    digest.finalize().into()
}

fn xattrs_of(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65_536];
    let Ok(len) = rustix::fs::llistxattr(path, &mut list[..]) else { return BTreeMap::new() };
    let mut xattrs = BTreeMap::new();
    for name in list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65_536];
        if let Ok(len) = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]) {
            value.truncate(len);
            xattrs.insert(name.to_vec(), value);
        }
    }
    xattrs
}

/// Fails with the first differences of two sights.
pub(crate) fn assert_same_sight(expected: &Sight, found: &Sight) {
    let mut differences = Vec::new();
    for (name, seen) in expected {
        match found.get(name) {
            Some(other) if other == seen => {}
            Some(other) => differences.push(format!("{}:\n  was {seen:?}\n  is  {other:?}", name.display())),
            None => differences.push(format!("{} is missing", name.display())),
        }
    }
    let extra = found.keys().filter(|name| !expected.contains_key(*name));
    differences.extend(extra.map(|name| format!("{} is too much", name.display())));
    let count = differences.len();
    differences.truncate(8);
    assert!(count == 0, "{count} differences:\n{}", differences.join("\n"));
}

/// Two trees are the same in everything that this walker sees, and in everything that rsync sees where it is installed.
pub(crate) fn assert_same_trees(expected: &Path, found: &Path) {
    assert_same_sight(&look(expected), &look(found));
    assert_same_for_rsync(expected, found);
}

pub(crate) fn assert_same_for_rsync(expected: &Path, found: &Path) {
    let mut paths = [expected, found].map(|path| path.as_os_str().to_owned());
    paths.iter_mut().for_each(|path| path.push("/"));
    let rsync =
        Command::new("rsync").args(["-aHAXSn", "--delete", "--checksum", "--itemize-changes"]).args(paths).output();
    match rsync {
        Ok(output) => {
            assert!(output.status.success(), "rsync: {}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout.is_empty(), "rsync sees: {}", String::from_utf8_lossy(&output.stdout));
        }
        Err(_) => eprintln!("rsync is not installed: compared without it"),
    }
}

/// Bytes that a file takes on the disk.
pub(crate) fn disk_usage(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).expect("it is there").blocks() * 512
}
