//! Which file is that, what does it hold, and how is it opened safely? The file calls of the program.
//!
//! Calls that take a path answer with an [`Error`] that carries the operation and the path; calls on descriptors answer
//! with the system's error alone, for the caller who knows the path. Unless it says otherwise, nothing here follows a
//! symlink in the last component of a path, and nothing waits for a FIFO.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, SeekFrom, Statx, StatxFlags, StatxTimestamp};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{Error, FileOp, Result};

/// A point in time as file systems keep it. Before 1970 the seconds are negative and the nanoseconds still count
/// forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds since 1970, rounded down.
    pub secs: i64,
    /// What is to be added: 0 to 999,999,999.
    pub nanos: u32,
}

/// What an inode is, in the words of every manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum StatKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// The attributes of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    /// What it is.
    pub kind: StatKind,
    /// Permission bits with setuid, setgid and sticky: at most 0o7777.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// The length in bytes; of a symlink that of its target, of anything else but a file whatever the system says.
    pub size: u64,
    /// Space taken, in units of 512 bytes whatever the block size is.
    pub blocks: u64,
    /// When the content was last changed, or what somebody set it to.
    pub mtime: Timestamp,
    /// When content or attributes were last changed; nobody can set it.
    pub ctime: Timestamp,
    /// The device that holds it.
    pub dev: u64,
    /// Its number on that device.
    pub ino: u64,
    /// How many names it has.
    pub nlink: u64,
    /// Which device it is, of device nodes.
    pub rdev: u64,
}

/// How far reads of a file system can be trusted to behave like reads of a local disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FsKind {
    /// A file system on a device or in memory, and every one that is not known here.
    Local,
    /// One whose reads go to another machine or another process: NFS, SMB, FUSE, 9p, AFS, Ceph, cluster file systems.
    /// An error while reading a mapping would be a signal; locks and syncs may mean less.
    Network,
    /// One whose files are made up when they are read, often with a size of 0: proc, sysfs, cgroup and their like.
    Pseudo,
}

// ---------------------------------------------------------------------------------------------------- opening, reading

/// [`open_read_at`] of a path of its own.
#[cfg(test)]
pub(crate) fn open_read(path: &Path) -> Result<File> {
    open_read_at(CWD, path).map_err(|source| Error::io(FileOp::Open, path, source))
}

/// Opens a file, by a path relative to an open directory, for reading: without following a symlink at the end of the path,
/// without waiting for the other end of a FIFO, and without moving its access time where the system lets us.
pub(crate) fn open_read_at(dir: impl AsFd, path: &Path) -> io::Result<File> {
    open_read_by(|flags| retry_on_intr(|| rustix::fs::openat(&dir, path, flags, Mode::empty())))
}

/// Opens for reading by way of `open`, which is given the flags, as [`open_read_at`] does; `open` may be called twice.
pub(crate) fn open_read_by(open: impl Fn(OFlags) -> Result<OwnedFd, Errno>) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match open(flags | OFlags::NOATIME) {
        // The flag is for the owner of the file and for root.
        Err(Errno::PERM) => open(flags),
        opened => opened,
    }?;
    Ok(File::from(fd))
}

/// Opens what is at this path only as a place to start from or to look at, a symlink itself; needs no permission on it.
pub(crate) fn open_place(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
        .map_err(|source| Error::io(FileOp::Stat, path, source))
}

/// Says "not found" where the system says that there is something else on the way to a file that was there a moment ago.
/// Any other error stays as it is.
pub(crate) fn not_found_if_replaced(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOTDIR | libc::ELOOP) => replaced(),
        Some(libc::ESTALE) => io::Error::new(io::ErrorKind::NotFound, "it is no longer there"),
        _ => error,
    }
}

/// Something else has taken a file's place.
pub(crate) fn replaced() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "it was replaced by something else since it was listed")
}

/// Reads from `offset` on until `buf` is full or the file ends; says how many bytes. Not full means: the end was there.
pub(crate) fn read_full_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        let at = u64::try_from(filled).ok().and_then(|filled| offset.checked_add(filled));
        let at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        match file.read_at(&mut buf[filled..], at) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

// ------------------------------------------------------------------------------------------------------------ listing

/// The names in a directory, in the order of their bytes, packed: some 16 bytes each beside their own.
#[derive(Debug, Default)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    /// Where each name begins, how long it is, and whether it was listed as a directory.
    places: Vec<(usize, u16, bool)>,
}

impl Names {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The name with this number, and whether it was listed as a directory, which not every file system tells.
    pub(crate) fn get(&self, number: usize) -> Option<(&[u8], bool)> {
        let &(start, len, is_dir) = self.places.get(number)?;
        Some((&self.bytes[start..start + usize::from(len)], is_dir))
    }

    /// Keeps one name alone, if it is among them.
    pub(crate) fn retain(&mut self, name: &[u8]) {
        let Self { bytes, places } = self;
        places.retain(|&(start, len, _)| bytes[start..start + usize::from(len)] == *name);
    }

    /// Whether this name is among them.
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        self.places.binary_search_by(|&(start, len, _)| self.bytes[start..start + usize::from(len)].cmp(name)).is_ok()
    }
}

/// Lists a directory that is open for reading, from where its descriptor stands. Where the listing breaks off, what was
/// listed until then comes with the error.
pub(crate) fn list_directory(dir: impl AsFd) -> (Names, io::Result<()>) {
    let mut names = Names::default();
    let mut buf = Vec::with_capacity(LISTING_LEN);
    let mut entries = RawDir::new(dir, buf.spare_capacity_mut());
    let mut result = Ok(());
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => {
                let name = entry.file_name().to_bytes();
                if let (false, Ok(len)) = (matches!(name, b"." | b".."), u16::try_from(name.len())) {
                    names.places.push((names.bytes.len(), len, entry.file_type() == FileType::Directory));
                    names.bytes.extend_from_slice(name);
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => {
                result = Err(error.into());
                break;
            }
        }
    }
    let Names { bytes, places } = &mut names;
    let name = |&(start, len, _): &(usize, u16, bool)| &bytes[start..start + usize::from(len)];
    places.sort_unstable_by(|left, right| name(left).cmp(name(right)));
    (names, result)
}

/// Bytes asked for at a time when a directory is listed.
const LISTING_LEN: usize = 32 << 10;

// --------------------------------------------------------------------------------------------------------- attributes

/// The attributes of what is at this path, of a symlink itself.
pub(crate) fn lstat(path: &Path) -> Result<Stat> {
    stat_at(CWD, path).map_err(|source| Error::io(FileOp::Stat, path, source))
}

/// The attributes of what is open.
pub(crate) fn fstat(fd: impl AsFd) -> io::Result<Stat> {
    statx(fd, Path::new(""), AtFlags::EMPTY_PATH)
}

/// The attributes of what has this name in an open directory, of a symlink itself.
pub(crate) fn stat_at(dir: impl AsFd, name: impl AsRef<Path>) -> io::Result<Stat> {
    statx(dir, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW)
}

fn statx(dir: impl AsFd, name: &Path, flags: AtFlags) -> io::Result<Stat> {
    // To look at a directory is no reason to mount what would be mounted there.
    let flags = flags | AtFlags::NO_AUTOMOUNT;
    let found = retry_on_intr(|| rustix::fs::statx(&dir, name, flags, StatxFlags::BASIC_STATS))?;
    Stat::try_from(&found)
}

impl TryFrom<&Statx> for Stat {
    type Error = io::Error;

    fn try_from(found: &Statx) -> io::Result<Self> {
        let kind = match FileType::from_raw_mode(u32::from(found.stx_mode)) {
            FileType::RegularFile => StatKind::File,
            FileType::Directory => StatKind::Directory,
            FileType::Symlink => StatKind::Symlink,
            FileType::Fifo => StatKind::Fifo,
            FileType::Socket => StatKind::Socket,
            FileType::CharacterDevice => StatKind::CharDevice,
            FileType::BlockDevice => StatKind::BlockDevice,
            // Such as an eventfd, which has no type; no name ever leads to one.
            FileType::Unknown => return Err(io::Error::new(io::ErrorKind::Unsupported, "an inode of unknown type")),
        };
        Ok(Self {
            kind,
            mode: u32::from(found.stx_mode) & 0o7777,
            uid: found.stx_uid,
            gid: found.stx_gid,
            size: found.stx_size,
            blocks: found.stx_blocks,
            mtime: found.stx_mtime.into(),
            ctime: found.stx_ctime.into(),
            dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
            ino: found.stx_ino,
            nlink: u64::from(found.stx_nlink),
            rdev: rustix::fs::makedev(found.stx_rdev_major, found.stx_rdev_minor),
        })
    }
}

impl From<StatxTimestamp> for Timestamp {
    fn from(time: StatxTimestamp) -> Self {
        Self { secs: time.tv_sec, nanos: time.tv_nsec }
    }
}

/// The target of the symlink that has this name in an open directory, as bytes.
pub(crate) fn readlink_at(dir: impl AsFd, name: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let target = retry_on_intr(|| rustix::fs::readlinkat(&dir, name.as_ref(), Vec::new()))?;
    Ok(target.into_bytes())
}

/// The kind of the file system that an open file or directory is on.
pub(crate) fn file_system_kind(fd: impl AsFd) -> io::Result<FsKind> {
    Ok(kind_of_magic(retry_on_intr(|| rustix::fs::fstatfs(&fd))?.f_type))
}

/// Source: `linux/magic.h` and the file systems' own headers; statfs(2) lists most.
fn kind_of_magic(magic: impl Into<i64>) -> FsKind {
    // 32 bits that some platforms extend with their sign.
    match magic.into() & 0xffff_ffff {
        0x6969 // NFS
        | 0x517b // SMB
        | 0xff53_4d42 // CIFS
        | 0xfe53_4d42 // SMB2
        | 0x6573_5546 // FUSE, virtiofs
        | 0x0102_1997 // 9p
        | 0x5346_414f // AFS
        | 0x6b41_4653 // kAFS
        | 0x7375_7245 // Coda
        | 0x564c // NCP
        | 0x00c3_6400 // Ceph
        | 0x7461_636f // OCFS2
        | 0x0116_1970 // GFS2
        | 0x0bd0_0bd0 // Lustre
        | 0x4750_4653 // GPFS
        | 0x1983_0326 // BeeGFS
        | 0x2003_0528 // OrangeFS
        | 0xaad7_aaea // PanFS
        | 0xbeef_dead // SNFS
        | 0x786f_4256 // VirtualBox shared folders
        | 0xbacb_acbc // VMware shared folders
        => FsKind::Network,
        0x9fa0 // proc
        | 0x9fa1 // openprom
        | 0x9fa2 // usbfs
        | 0x6265_6572 // sysfs
        | 0x0027_e0eb // cgroup
        | 0x6367_7270 // cgroup2
        | 0x6462_6720 // debugfs
        | 0x7472_6163 // tracefs
        | 0x7363_6673 // securityfs
        | 0xcafe_4a11 // bpf
        | 0x6165_676c // pstore
        | 0xde5e_81e4 // efivarfs
        | 0x6265_6570 // configfs
        | 0x6573_5543 // fusectl
        | 0x1cd1 // devpts
        | 0x1980_0202 // mqueue
        | 0x4249_4e4d // binfmt_misc
        | 0xf97c_ff8c // selinuxfs
        | 0x4341_5d53 // smackfs
        | 0x5a3c_69f0 // apparmorfs
        | 0x6759_6969 // rpc_pipefs
        | 0x6e66_7364 // nfsd
        | 0x6e73_6673 // nsfs
        | 0xabba_1974 // xenfs
        | 0x0765_5821 // resctrl
        | 0x6c6f_6f70 // binderfs
        | 0x0187 // autofs
        => FsKind::Pseudo,
        _ => FsKind::Local,
    }
}

// -------------------------------------------------------------------------------------------------------------- holes

/// The next range of a file that holds data, from `from` on and up to `size`, as offset and length; `None` if what is
/// left is a hole. Where the file system cannot tell, all that is left is one range. Moves the descriptor's position.
pub(crate) fn next_data_range(fd: impl AsFd, size: u64, from: u64) -> io::Result<Option<(u64, u64)>> {
    if from >= size {
        return Ok(None);
    }
    let seek = |to| match retry_on_intr(|| rustix::fs::seek(&fd, to)) {
        Ok(found) => Ok(Some(found.min(size))),
        // The end of the file, or nothing but a hole up to it.
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    };
    let begin = match seek(SeekFrom::Data(from)) {
        Ok(Some(begin)) if begin < size => begin.max(from),
        Ok(_) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Some((from, size - from))),
        Err(error) => return Err(error.into()),
    };
    let end = match seek(SeekFrom::Hole(begin))? {
        Some(end) if end > begin => end,
        // The file became shorter or was punched in between. Reading will tell what is there now; to stop here, or to
        // answer with an empty range, would hide it.
        _ => size,
    };
    Ok(Some((begin, end - begin)))
}

/// All ranges of a file that hold data, from `from` on and up to `size`, as offset and length, ascending and apart.
///
/// A file can have a range for every second block: who needs bounded memory asks for one after another with
/// [`next_data_range`].
pub(crate) fn data_ranges(fd: impl AsFd, size: u64, from: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut at = from;
    while let Some((begin, len)) = next_data_range(&fd, size, at)? {
        ranges.push((begin, len));
        at = begin + len;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::error::ErrorKind;

    fn temp() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn write(path: &Path, content: &[u8]) {
        std::fs::write(path, content).unwrap();
    }

    #[test]
    fn attributes_are_those_that_the_standard_library_sees() {
        let dir = temp();
        let path = dir.path().join("file");
        write(&path, &[7; 5000]);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o4751)).unwrap();
        std::fs::hard_link(&path, dir.path().join("other")).unwrap();
        let (found, expected) = (lstat(&path).unwrap(), std::fs::metadata(&path).unwrap());
        assert_eq!((found.kind, found.mode, found.size, found.nlink), (StatKind::File, 0o4751, 5000, 2));
        assert_eq!((found.uid, found.gid), (expected.uid(), expected.gid()));
        assert_eq!((found.dev, found.ino, found.rdev), (expected.dev(), expected.ino(), expected.rdev()));
        assert_eq!(found.blocks, expected.blocks());
        assert_eq!((found.mtime.secs, i64::from(found.mtime.nanos)), (expected.mtime(), expected.mtime_nsec()));
        assert_eq!((found.ctime.secs, i64::from(found.ctime.nanos)), (expected.ctime(), expected.ctime_nsec()));
        assert_eq!(fstat(open_read(&path).unwrap()).unwrap(), found);
        assert_eq!(
            stat_at(File::from(rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap()), "file").unwrap(),
            found
        );
    }

    #[test]
    fn every_kind_of_inode_is_told() {
        let dir = temp();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("directory")).unwrap();
        symlink("nowhere", at("symlink")).unwrap();
        rustix::fs::mkfifoat(CWD, at("fifo"), Mode::RUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(lstat(&at("directory")).unwrap().kind, StatKind::Directory);
        assert_eq!(lstat(&at("symlink")).unwrap().kind, StatKind::Symlink);
        assert_eq!(lstat(&at("fifo")).unwrap().kind, StatKind::Fifo);
        assert_eq!(lstat(&at("socket")).unwrap().kind, StatKind::Socket);
        let null = lstat("/dev/null".as_ref()).unwrap();
        assert_eq!((null.kind, null.rdev), (StatKind::CharDevice, rustix::fs::makedev(1, 3)));
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds_and_their_order() {
        let dir = temp();
        let path = dir.path().join("old");
        write(&path, b"");
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH - Duration::from_millis(1250)).unwrap();
        let mtime = lstat(&path).unwrap().mtime;
        assert_eq!(mtime, Timestamp { secs: -2, nanos: 750_000_000 });
        assert!(mtime < Timestamp { secs: -1, nanos: 0 } && mtime > Timestamp { secs: -2, nanos: 0 });
    }

    #[test]
    fn an_error_says_what_was_tried_on_which_path() {
        let missing = Path::new("/nonexistent/file");
        for (error, op) in [
            (lstat(missing).unwrap_err(), FileOp::Stat),
            (open_read(missing).unwrap_err(), FileOp::Open),
            (open_place(missing).unwrap_err(), FileOp::Stat),
        ] {
            assert_eq!(error.kind(), ErrorKind::Io);
            assert_eq!(error.to_string(), format!("cannot {op}: /nonexistent/file"));
        }
    }

    #[test]
    fn opening_does_not_follow_and_does_not_wait() {
        let dir = temp();
        let (link, fifo) = (dir.path().join("link"), dir.path().join("fifo"));
        symlink("/etc/passwd", &link).unwrap();
        let Error::Io { source, .. } = open_read(&link).unwrap_err() else { panic!("an I/O error") };
        assert_eq!(source.raw_os_error(), Some(libc::ELOOP));
        rustix::fs::mkfifoat(CWD, &fifo, Mode::RUSR).unwrap();
        assert_eq!(fstat(open_read(&fifo).unwrap()).unwrap().kind, StatKind::Fifo);
    }

    #[test]
    fn reading_leaves_the_access_time_alone() {
        let dir = temp();
        let path = dir.path().join("file");
        write(&path, b"content");
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let times = std::fs::FileTimes::new().set_accessed(old);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_times(times).unwrap();
        let file = open_read(&path).unwrap();
        assert_eq!(read_full_at(&file, &mut [0; 7], 0).unwrap(), 7);
        assert_eq!(std::fs::metadata(&path).unwrap().accessed().unwrap(), old);
    }

    #[test]
    fn reading_fills_the_buffer_or_ends_with_the_file() {
        let dir = temp();
        let path = dir.path().join("file");
        write(&path, b"0123456789");
        let file = open_read(&path).unwrap();
        for (offset, len, expected) in [(0, 10, "0123456789"), (3, 4, "3456"), (8, 9, "89"), (10, 1, ""), (99, 5, "")] {
            let mut buf = vec![0; len];
            let read = read_full_at(&file, &mut buf, offset).unwrap();
            assert_eq!(&buf[..read], expected.as_bytes());
        }
        assert_eq!(read_full_at(&file, &mut [], u64::MAX).unwrap(), 0);
        // A file of proc gives a page at a time; this one has a few hundred lines.
        let smaps = open_read("/proc/self/smaps".as_ref()).unwrap();
        assert!(read_full_at(&smaps, &mut vec![0; 1 << 20], 0).unwrap() > 3 * 4096);
        assert!(read_full_at(&file, &mut [0], u64::MAX).is_err());
    }

    #[test]
    fn the_target_of_a_symlink_is_bytes() {
        let dir = temp();
        let link = dir.path().join("link");
        let target = b"no\xffutf-8/".repeat(200);
        symlink(OsStr::from_bytes(&target), &link).unwrap();
        assert_eq!(readlink_at(CWD, &link).unwrap(), target);
        assert_eq!(readlink_at(open_place(&link).unwrap(), "").unwrap(), target);
    }

    #[test]
    fn file_systems_are_told_apart() {
        let kind_of = |path: &str| file_system_kind(open_place(path.as_ref()).unwrap()).unwrap();
        assert_eq!((kind_of("/proc/self/status"), kind_of("/sys")), (FsKind::Pseudo, FsKind::Pseudo));
        assert_eq!(file_system_kind(tempfile::tempfile().unwrap()).unwrap(), FsKind::Local);
        assert_eq!(kind_of_magic(0x6969_i64), FsKind::Network);
        assert_eq!(kind_of_magic(0xff53_4d42_i64), FsKind::Network);
        assert_eq!(kind_of_magic(i64::from(0xff53_4d42_u32.cast_signed())), FsKind::Network, "extended by its sign");
        assert_eq!(kind_of_magic(0xef53_i64), FsKind::Local, "ext4");
    }

    #[test]
    fn ranges_of_data_leave_the_holes_out() {
        const MIB: u64 = 1 << 20;
        let file = tempfile::tempfile().unwrap();
        let size = 8 * MIB;
        file.set_len(size).unwrap();
        assert_eq!(data_ranges(&file, size, 0).unwrap(), [], "nothing but a hole");
        file.write_all_at(&vec![1; 1 << 20], MIB).unwrap();
        file.write_all_at(&vec![1; 1 << 20], 7 * MIB).unwrap();
        assert_eq!(data_ranges(&file, size, 0).unwrap(), [(MIB, MIB), (7 * MIB, MIB)]);
        assert_eq!(data_ranges(&file, size, MIB + 5).unwrap(), [(MIB + 5, MIB - 5), (7 * MIB, MIB)]);
        assert_eq!(data_ranges(&file, 7 * MIB + 3, 2 * MIB).unwrap(), [(7 * MIB, 3)], "not beyond the size asked for");
        assert_eq!(data_ranges(&file, 7 * MIB, 2 * MIB).unwrap(), []);
        assert_eq!(data_ranges(&file, 20 * MIB, 7 * MIB).unwrap(), [(7 * MIB, MIB)], "the file is shorter");
        assert_eq!(data_ranges(&file, size, size).unwrap(), []);
        assert_eq!(data_ranges(&file, size, u64::MAX).unwrap(), []);
    }

    #[test]
    fn where_holes_are_unknown_everything_is_one_range() {
        // A FIFO cannot seek (`ESPIPE`), which is an error; a file of proc answers `EINVAL`.
        let status = open_read("/proc/self/status".as_ref()).unwrap();
        assert_eq!(data_ranges(&status, 100, 10).unwrap(), [(10, 90)]);
        let (reader, _writer) = io::pipe().unwrap();
        assert!(data_ranges(&reader, 100, 0).is_err());
    }
}
