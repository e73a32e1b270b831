//! What an entry is: its name, its attributes, and where its bytes are (docs/FORMAT.md, "Entries").

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::Malformation;
use crate::primitives::fs::Timestamp;

/// The longest name of one component, in bytes.
pub(crate) const MAX_COMPONENT_LEN: usize = 255;
/// The longest path, in bytes.
pub(crate) const MAX_PATH_LEN: usize = 64 * 1024 - 1;
/// The most components of a path.
pub(crate) const MAX_DEPTH: usize = 4096;

/// The name of an entry: components joined by `/`, any bytes but NUL; empty for the root of the vault.
///
/// Ordered component by component, as if `/` were the lowest byte, so that a subtree is contiguous and follows its head.
/// A value of this type has passed [`EntryPath::parse`], wherever it came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct EntryPath(Box<[u8]>);

impl EntryPath {
    /// Checks that no component is empty, `.`, `..`, too long or holds a NUL, and that there are not too many of them.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformation> {
        let refused = Err(Malformation::Field { structure: "entry", field: "path" });
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        if bytes.len() > MAX_PATH_LEN || bytes.contains(&0) {
            return refused;
        }
        let mut depth = 0;
        for component in bytes.split(|&byte| byte == b'/') {
            depth += 1;
            let reserved = matches!(component, b"" | b"." | b"..");
            if reserved || component.len() > MAX_COMPONENT_LEN || depth > MAX_DEPTH {
                return refused;
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes of the whole path.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative path of this system; empty for the root.
    pub(crate) fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether this is the root of the vault.
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Parent and last component; `None` for the root.
    pub(crate) fn split_last(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        })
    }

    /// Whether this path lies below `ancestor`, at any depth; a path is not below itself, everything else is below the root.
    pub(crate) fn is_below(&self, ancestor: &Self) -> bool {
        is_below(&self.0, &ancestor.0)
    }

    /// The paths of the directories above it, the uppermost first, without the root.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        let slashes = self.0.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        // What a path begins with, up to a slash, is a path.
        slashes.map(|(at, _)| Self(self.0[..at].into()))
    }

    /// The path of `name` in this directory.
    pub(crate) fn join(&self, name: &[u8]) -> Result<Self, Malformation> {
        if self.is_root() {
            return Self::parse(name);
        }
        Self::parse(&[&self.0, &b"/"[..], name].concat())
    }
}

/// Whether path `bytes` lies below path `ancestor`.
pub(crate) fn is_below(bytes: &[u8], ancestor: &[u8]) -> bool {
    if ancestor.is_empty() {
        return !bytes.is_empty();
    }
    bytes.len() > ancestor.len() && bytes.starts_with(ancestor) && bytes[ancestor.len()] == b'/'
}

impl Ord for EntryPath {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_paths(&self.0, &other.0)
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of the index: bytewise, with `/` below every other byte.
pub(crate) fn compare_paths(left: &[u8], right: &[u8]) -> Ordering {
    let common = left.iter().zip(right).take_while(|(l, r)| l == r).count();
    // No path holds a NUL, so rank 0 is free for the slash.
    let rank = |path: &[u8]| path.get(common).map(|&byte| if byte == b'/' { 0 } else { byte });
    rank(left).cmp(&rank(right))
}

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum EntryType {
    File,
    Directory,
    Symlink,
    Fifo,
    CharDevice,
    BlockDevice,
}

impl EntryType {
    /// The word used in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "dir",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::CharDevice => "char",
            Self::BlockDevice => "block",
        }
    }
}

/// One entry of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) path: EntryPath,
    /// What it is.
    pub(crate) entry_type: EntryType,
    /// Permission bits with setuid, setgid and sticky: `0o0000` to `0o7777`.
    pub(crate) mode: u32,
    /// Owner, as number and, where it had one, as name.
    pub(crate) owner: Owner,
    /// Change of the content.
    pub(crate) mtime: Timestamp,
    /// Change of the attributes; only compared, never restored.
    pub(crate) ctime: Timestamp,
    /// Device it was found on; information.
    pub(crate) dev: u64,
    /// Inode it was found as; compared to tell an unchanged file.
    pub(crate) ino: u64,
    /// Bytes of content: what was read, holes counted; 0 for what has no content.
    pub(crate) size: u64,
    /// Major and minor number of a device, as the system packs them; 0 for all else.
    pub(crate) rdev: u64,
    /// A symlink's target, any bytes but NUL; empty for all else.
    pub(crate) target: Vec<u8>,
    /// Where the bytes are, in order; they sum up to `size`.
    pub(crate) extents: Vec<Extent>,
    /// The same for every name of one hard-linked file.
    pub(crate) link: Option<LinkGroup>,
    /// Extended attributes, sorted by name.
    pub(crate) xattrs: Vec<Xattr>,
    /// It changed while it was read; the user was told.
    pub(crate) changed: bool,
    /// Its ctime was so near to the reading that a later change may show the same time: never taken for unchanged.
    pub(crate) racy: bool,
}

/// Owner and group, by number and by name; the names are empty where the numbers had none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) user: std::sync::Arc<str>,
    pub(crate) group: std::sync::Arc<str>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Xattr {
    /// Full name with its namespace, no NUL, 1 to 255 bytes.
    pub(crate) name: Vec<u8>,
    /// Value, at most 64 KiB.
    pub(crate) value: Vec<u8>,
}

/// The segments that a tree refers to are numbered in the tree's own table; this is such a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentIndex(pub(crate) u32);

/// A run of an entry's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Bytes that are in data records with consecutive numbers.
    Data {
        /// The records' segment.
        segment: SegmentIndex,
        /// Number of the first record.
        first: u64,
        /// How many records; at least 1.
        count: u64,
        /// Plain bytes of every record but the last, at least 1; of a single record this is the record's own share up to its end.
        record_len: u32,
        /// Where in the first record the run begins.
        offset: u32,
        /// Bytes of the run, at least 1.
        len: u64,
    },
    /// Zeros that take no space.
    Hole {
        /// How many, at least 1.
        len: u64,
    },
}

impl Extent {
    /// Bytes of content.
    pub(crate) fn len(&self) -> u64 {
        match *self {
            Self::Data { len, .. } | Self::Hole { len } => len,
        }
    }
}

/// Names one hard-linked file within a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkGroup {
    /// The segment of the run that stored it first.
    pub(crate) segment: SegmentIndex,
    /// A number of that run's.
    pub(crate) number: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subtree_is_contiguous_and_follows_its_head() {
        let mut paths: Vec<EntryPath> = ["b", "a.b", "a", "a/z", "a/b/c", "a/b", "", "a\u{1}"]
            .iter()
            .map(|path| EntryPath::parse(path.as_bytes()).unwrap())
            .collect();
        paths.sort();
        let sorted: Vec<&[u8]> = paths.iter().map(EntryPath::as_bytes).collect();
        assert_eq!(sorted, [&b""[..], b"a", b"a/b", b"a/b/c", b"a/z", b"a\x01", b"a.b", b"b"]);
    }

    #[test]
    fn names_that_could_climb_are_refused() {
        for bad in ["/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b"] {
            assert!(EntryPath::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(EntryPath::parse(&[b'x'; 256]).is_err());
        assert!(EntryPath::parse(&[b'x'; 255]).is_ok());
        assert!(EntryPath::parse(&[0xFF, 0x80, b'\n']).is_ok());
    }

    #[test]
    fn ancestors_come_from_the_top() {
        let above = |path: &str| -> Vec<String> {
            let path = EntryPath::parse(path.as_bytes()).unwrap();
            path.ancestors().map(|above| above.as_path().display().to_string()).collect()
        };
        assert_eq!(above("a/bc/d"), ["a", "a/bc"]);
        assert!(above("a").is_empty() && above("").is_empty());
    }

    #[test]
    fn below_means_a_whole_component() {
        assert!(is_below(b"a/b", b"a"));
        assert!(!is_below(b"ab", b"a"));
        assert!(!is_below(b"a", b"a"));
        assert!(is_below(b"a", b""));
        assert!(!is_below(b"", b""));
    }
}
