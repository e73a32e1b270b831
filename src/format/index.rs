//! The blocks of an index tree, from structures to bytes and back (docs/FORMAT.md, "Index trees").
//!
//! Blocks are authenticated before they come here, and all the same not trusted: a vault from somebody else has valid
//! cryptography and may hold anything. Nothing is allocated on the word of a length, every path is parsed, every sum is
//! checked.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Malformation;
use crate::format::entry::{
    Entry, EntryPath, EntryType, Extent, LinkGroup, MAX_PATH_LEN, Owner, SegmentIndex, Xattr, compare_paths, is_below,
};
use crate::format::record::{MAX_PLAIN_LEN, sealed_len};
use crate::primitives::fs::Timestamp;

/// A leaf or node is sealed when it has grown to this many bytes; one that a single long name makes larger is legal.
pub(crate) const BLOCK_TARGET_LEN: usize = 64 * 1024;
/// A leaf is also sealed when its paths, written out, have grown to so many bytes; one path more is legal.
pub(crate) const PATH_BYTES_TARGET: usize = 1024 * 1024;
/// The most plain bytes of any block of an index.
pub(crate) const MAX_BLOCK_LEN: usize = 1024 * 1024;
/// An entry that takes more than this puts its extents and extended attributes into overflow blocks.
pub(crate) const OVERFLOW_FROM: usize = 32 * 1024;
/// The most bytes of extents and extended attributes that one entry may have.
pub(crate) const MAX_OVERFLOW_LEN: usize = 256 * 1024 * 1024;
/// Records that one block of the record table lists at most.
pub(crate) const RECORDS_PER_BLOCK: usize = 4096;
/// The most levels of nodes above the leaves: with at least two children a node, more could not be filled.
pub(crate) const MAX_HEIGHT: u8 = 32;

/// Where a metadata record of the same segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockRef {
    /// Its number in the segment's metadata counter.
    pub(crate) number: u64,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// Bytes in the file: header, ciphertext, tag.
    pub(crate) sealed_len: u32,
}

/// A change of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// The entry is this from now on.
    Put(Box<Entry>),
    /// There is no such entry from now on.
    Delete(EntryPath),
}

impl Item {
    /// The path that changes.
    pub(crate) fn path(&self) -> &EntryPath {
        match self {
            Self::Put(entry) => &entry.path,
            Self::Delete(path) => path,
        }
    }

    /// Whether nothing can be below it.
    pub(crate) fn puts_no_directory(&self) -> bool {
        matches!(self, Self::Put(entry) if entry.entry_type != EntryType::Directory)
    }
}

fn malformed(field: &'static str) -> Malformation {
    Malformation::Field { structure: "index block", field }
}

/// Decodes a whole block: what is left over is an error, as is anything cut short.
pub(crate) fn decode_block<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    structure: &'static str,
) -> Result<T, Malformation> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(Malformation::Field { structure, field: "length" }),
        Err(_) => Err(Malformation::Truncated { structure }),
    }
}

/// Appends a value to a block.
pub(crate) fn encode_onto<T: Serialize>(value: &T, block: &mut Vec<u8>) {
    *block = postcard::to_extend(value, std::mem::take(block)).expect("writing to a Vec cannot fail");
}

// ---- leaves -------------------------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
struct OwnerRepr<'a> {
    uid: u32,
    gid: u32,
    user: &'a str,
    group: &'a str,
}

#[derive(Serialize, Deserialize)]
struct LeafRepr<'a> {
    #[serde(borrow)]
    owners: Vec<OwnerRepr<'a>>,
    #[serde(borrow)]
    items: Vec<ItemRepr<'a>>,
}

#[derive(Serialize, Deserialize)]
struct ItemRepr<'a> {
    /// Bytes of the path that are those of the item before.
    shared: u32,
    #[serde(borrow, with = "serde_bytes")]
    suffix: &'a [u8],
    #[serde(borrow)]
    body: Option<BodyRepr<'a>>,
}

#[derive(Serialize, Deserialize)]
struct BodyRepr<'a> {
    entry_type: u8,
    flags: u8,
    mode: u16,
    owner: u32,
    mtime_secs: i64,
    mtime_nanos: u32,
    ctime_secs: i64,
    ctime_nanos: u32,
    dev: u64,
    ino: u64,
    rdev: u64,
    size: u64,
    #[serde(borrow, with = "serde_bytes")]
    target: &'a [u8],
    link: Option<(u32, u64)>,
    extents: Vec<ExtentRepr>,
    #[serde(borrow)]
    xattrs: Vec<XattrRepr<'a>>,
    overflow: Vec<BlockRef>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
enum ExtentRepr {
    Hole { len: u64 },
    Data { segment: u32, first: u64, count: u64, record_len: u32, offset: u32, len: u64 },
}

#[derive(Serialize, Deserialize)]
struct XattrRepr<'a> {
    #[serde(borrow, with = "serde_bytes")]
    name: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    value: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct OverflowRepr<'a> {
    extents: Vec<ExtentRepr>,
    #[serde(borrow)]
    xattrs: Vec<XattrRepr<'a>>,
}

/// Bits of `flags`.
const FLAG_CHANGED: u8 = 1;
const FLAG_RACY: u8 = 2;

fn type_code(entry_type: EntryType) -> u8 {
    match entry_type {
        EntryType::File => 1,
        EntryType::Directory => 2,
        EntryType::Symlink => 3,
        EntryType::Fifo => 4,
        EntryType::CharDevice => 5,
        EntryType::BlockDevice => 6,
    }
}

fn type_of_code(code: u8) -> Result<EntryType, Malformation> {
    Ok(match code {
        1 => EntryType::File,
        2 => EntryType::Directory,
        3 => EntryType::Symlink,
        4 => EntryType::Fifo,
        5 => EntryType::CharDevice,
        6 => EntryType::BlockDevice,
        _ => return Err(malformed("type")),
    })
}

fn extent_repr(extent: &Extent) -> ExtentRepr {
    match *extent {
        Extent::Hole { len } => ExtentRepr::Hole { len },
        Extent::Data { segment, first, count, record_len, offset, len } => {
            ExtentRepr::Data { segment: segment.0, first, count, record_len, offset, len }
        }
    }
}

fn extent_of_repr(repr: ExtentRepr) -> Extent {
    match repr {
        ExtentRepr::Hole { len } => Extent::Hole { len },
        ExtentRepr::Data { segment, first, count, record_len, offset, len } => {
            Extent::Data { segment: SegmentIndex(segment), first, count, record_len, offset, len }
        }
    }
}

fn xattr_repr(xattr: &Xattr) -> XattrRepr<'_> {
    XattrRepr { name: &xattr.name, value: &xattr.value }
}

fn xattr_of_repr(repr: &XattrRepr<'_>) -> Xattr {
    Xattr { name: repr.name.to_vec(), value: repr.value.to_vec() }
}

fn body_repr(entry: &Entry, owner: u32, overflow: Vec<BlockRef>) -> BodyRepr<'_> {
    let flags = if entry.changed { FLAG_CHANGED } else { 0 } | if entry.racy { FLAG_RACY } else { 0 };
    let inline = overflow.is_empty();
    BodyRepr {
        entry_type: type_code(entry.entry_type),
        flags,
        mode: u16::try_from(entry.mode & 0o7777).expect("twelve bits"),
        owner,
        mtime_secs: entry.mtime.secs,
        mtime_nanos: entry.mtime.nanos,
        ctime_secs: entry.ctime.secs,
        ctime_nanos: entry.ctime.nanos,
        dev: entry.dev,
        ino: entry.ino,
        rdev: entry.rdev,
        size: entry.size,
        target: &entry.target,
        link: entry.link.map(|link| (link.segment.0, link.number)),
        extents: if inline { entry.extents.iter().map(extent_repr).collect() } else { Vec::new() },
        xattrs: if inline { entry.xattrs.iter().map(xattr_repr).collect() } else { Vec::new() },
        overflow,
    }
}

/// Collects items in index order into the bytes of one leaf.
#[derive(Default)]
pub(crate) struct LeafBuilder {
    owners: Vec<Owner>,
    items: Vec<u8>,
    count: usize,
    path_bytes: usize,
    first_path: Vec<u8>,
    last_path: Vec<u8>,
}

impl LeafBuilder {
    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether it has grown to where it is to be sealed.
    pub(crate) fn is_full(&self) -> bool {
        self.items.len() + self.owners.len() * 24 >= BLOCK_TARGET_LEN || self.path_bytes >= PATH_BYTES_TARGET
    }

    /// Appends one item; its path must be behind the last one's. `overflow` replaces its extents and extended attributes.
    pub(crate) fn push(&mut self, item: &Item, overflow: Vec<BlockRef>) {
        let path = item.path().as_bytes();
        debug_assert!(self.is_empty() || compare_paths(&self.last_path, path).is_lt(), "items come in index order");
        let shared = if self.is_empty() {
            self.first_path = path.to_vec();
            0
        } else {
            self.last_path.iter().zip(path).take_while(|(last, this)| last == this).count()
        };
        let body = match item {
            Item::Put(entry) => Some(body_repr(entry, self.owner_index(&entry.owner), overflow)),
            Item::Delete(_) => None,
        };
        let shared_len = u32::try_from(shared).expect("paths are shorter than 64 KiB");
        encode_onto(&ItemRepr { shared: shared_len, suffix: &path[shared..], body }, &mut self.items);
        self.last_path.truncate(shared);
        self.last_path.extend_from_slice(&path[shared..]);
        self.path_bytes += path.len();
        self.count += 1;
    }

    fn owner_index(&mut self, owner: &Owner) -> u32 {
        // The last one nearly always fits; a block with hundreds of owners is searched in a line, which is still short.
        let found = self.owners.iter().rposition(|known| known == owner);
        let index = found.unwrap_or_else(|| {
            self.owners.push(owner.clone());
            self.owners.len() - 1
        });
        u32::try_from(index).expect("a leaf holds fewer owners than bytes")
    }

    /// The leaf's bytes and its first path; the builder is empty again.
    pub(crate) fn finish(&mut self) -> (Vec<u8>, Vec<u8>) {
        let owners: Vec<OwnerRepr<'_>> = self
            .owners
            .iter()
            .map(|owner| OwnerRepr { uid: owner.uid, gid: owner.gid, user: &owner.user, group: &owner.group })
            .collect();
        let mut block = Vec::with_capacity(self.items.len() + 1024);
        encode_onto(&owners, &mut block);
        // postcard writes a sequence as its length and its elements, so the items encoded one by one are a `Vec` of them.
        encode_onto(&(self.count as u64), &mut block);
        block.extend_from_slice(&self.items);
        let first = std::mem::take(&mut self.first_path);
        *self = Self::default();
        (block, first)
    }
}

/// Bytes that one entry takes in a leaf, roughly but never too few: decides on overflow.
pub(crate) fn bulk_len(entry: &Entry) -> usize {
    entry.extents.len() * 40 + entry.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len() + 8).sum::<usize>()
}

/// The extents and extended attributes of an entry as the bytes that overflow blocks hold one after another.
pub(crate) fn encode_overflow(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(bulk_len(entry));
    let extents = entry.extents.iter().map(extent_repr).collect();
    let xattrs = entry.xattrs.iter().map(xattr_repr).collect();
    encode_onto(&OverflowRepr { extents, xattrs }, &mut bytes);
    bytes
}

/// Puts what overflow blocks hold into their entry and checks it.
pub(crate) fn decode_overflow(entry: &mut Entry, bytes: &[u8], segments: u32) -> Result<(), Malformation> {
    let repr: OverflowRepr<'_> = decode_block(bytes, "overflow block")?;
    entry.extents = repr.extents.into_iter().map(extent_of_repr).collect();
    entry.xattrs = repr.xattrs.iter().map(xattr_of_repr).collect();
    check_entry(entry, segments)
}

/// One decoded item; `overflow` names the blocks that the entry's extents and extended attributes are still to be read from.
#[derive(Debug, Clone)]
pub(crate) struct LeafItem {
    pub(crate) item: Item,
    pub(crate) overflow: Vec<BlockRef>,
}

/// Decodes a leaf of a tree that knows `segments` segments; the items are in strictly ascending order.
pub(crate) fn decode_leaf(bytes: &[u8], segments: u32) -> Result<Vec<LeafItem>, Malformation> {
    let repr: LeafRepr<'_> = decode_block(bytes, "index leaf")?;
    if repr.items.is_empty() {
        return Err(malformed("count"));
    }
    let owners: Vec<Owner> = repr
        .owners
        .iter()
        .map(|o| Owner { uid: o.uid, gid: o.gid, user: Arc::from(o.user), group: Arc::from(o.group) })
        .collect();
    let mut items = Vec::with_capacity(repr.items.len());
    let mut path: Vec<u8> = Vec::new();
    let mut path_bytes = 0;
    for (position, item) in repr.items.into_iter().enumerate() {
        let shared = item.shared as usize;
        if shared > path.len() || shared + item.suffix.len() > MAX_PATH_LEN {
            return Err(malformed("path"));
        }
        path_bytes += shared + item.suffix.len();
        if path_bytes > PATH_BYTES_TARGET + MAX_PATH_LEN {
            return Err(malformed("sum of the lengths of paths"));
        }
        let ascends = position == 0 || compare_paths(&path[shared..], item.suffix).is_lt();
        path.truncate(shared);
        path.extend_from_slice(item.suffix);
        if !ascends {
            return Err(malformed("order of paths"));
        }
        let parsed = EntryPath::parse(&path)?;
        items.push(match item.body {
            None => LeafItem { item: Item::Delete(parsed), overflow: Vec::new() },
            Some(body) => {
                let owner = owners.get(body.owner as usize).ok_or(malformed("owner"))?.clone();
                let overflow = body.overflow.clone();
                let entry = entry_of_repr(parsed, owner, body)?;
                if overflow.is_empty() {
                    check_entry(&entry, segments)?;
                }
                LeafItem { item: Item::Put(Box::new(entry)), overflow }
            }
        });
    }
    Ok(items)
}

fn entry_of_repr(path: EntryPath, owner: Owner, body: BodyRepr<'_>) -> Result<Entry, Malformation> {
    if body.mode > 0o7777 || body.flags & !(FLAG_CHANGED | FLAG_RACY) != 0 {
        return Err(malformed("mode or flags"));
    }
    if body.mtime_nanos >= 1_000_000_000 || body.ctime_nanos >= 1_000_000_000 {
        return Err(malformed("time"));
    }
    Ok(Entry {
        path,
        entry_type: type_of_code(body.entry_type)?,
        mode: u32::from(body.mode),
        owner,
        mtime: Timestamp { secs: body.mtime_secs, nanos: body.mtime_nanos },
        ctime: Timestamp { secs: body.ctime_secs, nanos: body.ctime_nanos },
        dev: body.dev,
        ino: body.ino,
        size: body.size,
        rdev: body.rdev,
        target: body.target.to_vec(),
        extents: body.extents.into_iter().map(extent_of_repr).collect(),
        link: body.link.map(|(segment, number)| LinkGroup { segment: SegmentIndex(segment), number }),
        xattrs: body.xattrs.iter().map(xattr_of_repr).collect(),
        changed: body.flags & FLAG_CHANGED != 0,
        racy: body.flags & FLAG_RACY != 0,
    })
}

/// What must hold of an entry whose extents are known: its type fits what it has, its runs sum up to its size.
fn check_entry(entry: &Entry, segments: u32) -> Result<(), Malformation> {
    let is_file = entry.entry_type == EntryType::File;
    if !is_file && (entry.size != 0 || !entry.extents.is_empty()) {
        return Err(malformed("extents"));
    }
    let is_symlink = entry.entry_type == EntryType::Symlink;
    if is_symlink == entry.target.is_empty() || entry.target.contains(&0) || entry.target.len() > MAX_PATH_LEN {
        return Err(malformed("symlink target"));
    }
    if entry.path.is_root() && entry.entry_type != EntryType::Directory {
        return Err(malformed("type of the root"));
    }
    if entry.size > i64::MAX.unsigned_abs() {
        return Err(malformed("size"));
    }
    if entry.link.is_some_and(|link| link.segment.0 >= segments) {
        return Err(malformed("link group"));
    }
    let mut sum: u64 = 0;
    for extent in &entry.extents {
        check_extent(extent, segments)?;
        sum = sum.checked_add(extent.len()).ok_or(malformed("extents"))?;
    }
    if sum != entry.size {
        return Err(malformed("size"));
    }
    for xattr in &entry.xattrs {
        let name_fits = (1..=255).contains(&xattr.name.len()) && !xattr.name.contains(&0);
        if !name_fits || xattr.value.len() > 64 * 1024 {
            return Err(malformed("extended attribute"));
        }
    }
    Ok(())
}

fn check_extent(extent: &Extent, segments: u32) -> Result<(), Malformation> {
    if extent.len() == 0 {
        return Err(malformed("extent length"));
    }
    let Extent::Data { segment, first, count, record_len, offset, len } = *extent else { return Ok(()) };
    if segment.0 >= segments || !(1..=MAX_PLAIN_LEN).contains(&record_len) || offset >= record_len {
        return Err(malformed("extent"));
    }
    // The run ends in its last record: it reaches past all before, and not past the end.
    let before = count.checked_sub(1).and_then(|n| n.checked_mul(u64::from(record_len))).ok_or(malformed("extent"))?;
    let end = len.checked_add(u64::from(offset)).ok_or(malformed("extent"))?;
    first.checked_add(count).ok_or(malformed("extent"))?;
    if end <= before || end - before > u64::from(record_len) {
        return Err(malformed("extent"));
    }
    Ok(())
}

// ---- nodes --------------------------------------------------------------------------------------------------------

/// One child of a node: the first path below it, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Child {
    /// The first path in the child.
    #[serde(with = "serde_bytes")]
    pub(crate) first: Vec<u8>,
    /// The child.
    pub(crate) block: BlockRef,
}

/// Decodes a node: at least one child, in ascending order.
pub(crate) fn decode_node(bytes: &[u8]) -> Result<Vec<Child>, Malformation> {
    let children: Vec<Child> = decode_block(bytes, "index node")?;
    let ascending = children.windows(2).all(|pair| compare_paths(&pair[0].first, &pair[1].first).is_lt());
    if children.is_empty() || !ascending {
        return Err(malformed("order of children"));
    }
    Ok(children)
}

// ---- record table -------------------------------------------------------------------------------------------------

/// Where a data record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordPlace {
    /// Its number in its segment.
    pub(crate) number: u64,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// Bytes in the file: header, ciphertext, tag.
    pub(crate) sealed_len: u32,
    /// Bytes of plain text; the record's own header must say the same.
    pub(crate) plain_len: u32,
}

/// Decodes a block of the record table: numbers ascend, lengths are those of records, ends do not overflow.
pub(crate) fn decode_record_table(bytes: &[u8]) -> Result<Vec<RecordPlace>, Malformation> {
    let places: Vec<RecordPlace> = decode_block(bytes, "record table")?;
    let ascending = places.windows(2).all(|pair| pair[0].number < pair[1].number);
    if places.is_empty() || places.len() > RECORDS_PER_BLOCK || !ascending {
        return Err(malformed("record numbers"));
    }
    for place in &places {
        check_place(place.offset, place.sealed_len, MAX_PLAIN_LEN)?;
        if !(1..=MAX_PLAIN_LEN).contains(&place.plain_len) {
            return Err(malformed("plain length of a record"));
        }
    }
    Ok(places)
}

/// What must hold of the place of any record whose plain text is at most `max_plain` bytes.
pub(crate) fn check_place(offset: u64, len: u32, max_plain: u32) -> Result<(), Malformation> {
    let lens = sealed_len(0)..=sealed_len(max_plain);
    if !lens.contains(&len) || offset.checked_add(u64::from(len)).is_none() {
        return Err(malformed("place of a record"));
    }
    Ok(())
}

// ---- tree head ----------------------------------------------------------------------------------------------------

/// A segment that a tree or a commit refers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct SegmentSalt {
    /// Makes the segment's keys; its SHA-256 begins with the segment's id.
    pub(crate) salt: [u8; 32],
    /// A wrapped key, reserved for writers without the master key; empty: the key is derived.
    #[serde(with = "serde_bytes")]
    pub(crate) wrapped: Vec<u8>,
}

/// One block of the record table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordTableRef {
    /// The segment whose records it lists.
    pub(crate) segment: u32,
    /// The number of the first.
    pub(crate) first: u64,
    /// The block.
    pub(crate) block: BlockRef,
}

/// A subtree that is taken away before the tree's items apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replacement {
    /// The head of the subtree; it goes too.
    #[serde(with = "serde_bytes")]
    pub(crate) path: Vec<u8>,
    /// Subtrees that stay.
    pub(crate) except: Vec<serde_bytes::ByteBuf>,
}

/// The head of a tree: everything else of the tree is found from here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TreeHead {
    /// Must be 0.
    pub(crate) flags: u32,
    /// The segments that entries and record table refer to, by position.
    pub(crate) segments: Vec<SegmentSalt>,
    /// Levels of nodes above the leaves.
    pub(crate) height: u8,
    /// The topmost block of the entries, if there is any entry.
    pub(crate) top: Option<BlockRef>,
    /// Items that put an entry.
    pub(crate) puts: u64,
    /// Items that delete one.
    pub(crate) deletes: u64,
    /// Bytes of content of all entries put.
    pub(crate) content_bytes: u64,
    /// The record table, ascending by segment and first number.
    pub(crate) records: Vec<RecordTableRef>,
    /// The most plain bytes of a record in the table: what a reader needs buffers for.
    pub(crate) max_plain_len: u32,
    /// Subtrees taken away first.
    pub(crate) replacements: Vec<Replacement>,
}

impl TreeHead {
    /// The block's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_onto(self, &mut bytes);
        bytes
    }

    /// Decodes and checks a head.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformation> {
        let head: Self = decode_block(bytes, "tree head")?;
        let wrong = |field| Err(Malformation::Field { structure: "tree head", field });
        if head.flags != 0 {
            // Room for a later version, authenticated: no damage.
            return Err(Malformation::Version { structure: "flags of a tree head", version: 1 });
        }
        if head.height > MAX_HEIGHT {
            return wrong("height");
        }
        if head.segments.iter().any(|segment| !segment.wrapped.is_empty()) {
            return Err(Malformation::Version { structure: "wrapped segment key", version: 1 });
        }
        if head.max_plain_len > MAX_PLAIN_LEN {
            return wrong("largest record");
        }
        let known = |table: &RecordTableRef| (table.segment as usize) < head.segments.len();
        let ascending =
            head.records.windows(2).all(|pair| (pair[0].segment, pair[0].first) < (pair[1].segment, pair[1].first));
        if !head.records.iter().all(known) || !ascending {
            return wrong("record table");
        }
        for replacement in &head.replacements {
            EntryPath::parse(&replacement.path)?;
            for except in &replacement.except {
                EntryPath::parse(except)?;
            }
            if replacement.except.iter().any(|except| !is_below(except, &replacement.path)) {
                return wrong("exceptions of a replacement");
            }
        }
        // One subtree after another, none within another: so the last that begins at or before a path decides.
        let apart = |pair: &[Replacement]| {
            compare_paths(&pair[0].path, &pair[1].path).is_lt() && !is_below(&pair[1].path, &pair[0].path)
        };
        if !head.replacements.windows(2).all(apart) {
            return wrong("order of replacements");
        }
        Ok(head)
    }

    /// How many segments entries may refer to.
    pub(crate) fn segment_count(&self) -> u32 {
        u32::try_from(self.segments.len()).unwrap_or(u32::MAX)
    }

    /// Whether a replacement takes this path away.
    pub(crate) fn replaces(&self, path: &EntryPath) -> bool {
        let covers = |head: &[u8]| path.as_bytes() == head || is_below(path.as_bytes(), head);
        let behind = self.replacements.partition_point(|r| compare_paths(&r.path, path.as_bytes()).is_le());
        let last = behind.checked_sub(1).map(|last| &self.replacements[last]);
        last.is_some_and(|r| covers(&r.path) && !r.except.iter().any(|except| covers(except)))
    }
}
