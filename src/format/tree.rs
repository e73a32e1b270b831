//! Index trees: written once from items in order, read from any path on (docs/FORMAT.md, "Index trees").
//!
//! Where the blocks are kept is not known here: [`BlockSink`] takes them, [`BlockSource`] gives them back authenticated.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Malformation, Result};
use crate::format::entry::{EntryPath, compare_paths};
use crate::format::index::{
    BLOCK_TARGET_LEN, BlockRef, Child, Item, LeafBuilder, LeafItem, MAX_BLOCK_LEN, MAX_OVERFLOW_LEN, OVERFLOW_FROM,
    RECORDS_PER_BLOCK, RecordPlace, RecordTableRef, Replacement, SegmentSalt, TreeHead, bulk_len, decode_leaf,
    decode_node, decode_overflow, decode_record_table, encode_onto, encode_overflow,
};
use crate::format::record::RecordKind;

/// Takes the blocks of a tree: seals them, gives them a place and a number.
pub(crate) trait BlockSink {
    /// Stores one block.
    fn put(&mut self, kind: RecordKind, plain: &[u8]) -> Result<BlockRef>;
}

/// Gives blocks back, authenticated.
pub(crate) trait BlockSource: Send + Sync {
    /// Reads and opens the block of this kind, segment and number; at most [`MAX_BLOCK_LEN`] bytes but for heads and commits.
    fn get(&self, segment: &SegmentSalt, kind: RecordKind, block: &BlockRef) -> Result<Vec<u8>>;
    /// The error for a block that opened and is malformed all the same.
    fn malformed(&self, block: &BlockRef, why: Malformation) -> Error;
}

// ---- writing ------------------------------------------------------------------------------------------------------

/// Writes a tree, an item at a time; keeps one block a level in memory.
#[derive(Default)]
pub(crate) struct TreeWriter {
    leaf: LeafBuilder,
    levels: Vec<Level>,
    stored_bytes: u64,
    puts: u64,
    deletes: u64,
    content_bytes: u64,
}

#[derive(Default)]
struct Level {
    children: Vec<Child>,
    len: usize,
}

impl TreeWriter {
    /// Appends an item; items come in strictly ascending order of their paths.
    pub(crate) fn push(&mut self, item: &Item, sink: &mut dyn BlockSink) -> Result<()> {
        let mut overflow = Vec::new();
        match item {
            Item::Put(entry) => {
                self.puts += 1;
                self.content_bytes = self.content_bytes.saturating_add(entry.size);
                if bulk_len(entry) > OVERFLOW_FROM {
                    for piece in encode_overflow(entry).chunks(MAX_BLOCK_LEN) {
                        overflow.push(self.put(RecordKind::Overflow, piece, sink)?);
                    }
                }
            }
            Item::Delete(_) => self.deletes += 1,
        }
        self.leaf.push(item, overflow);
        if self.leaf.is_full() { self.seal_leaf(sink) } else { Ok(()) }
    }

    fn put(&mut self, kind: RecordKind, plain: &[u8], sink: &mut dyn BlockSink) -> Result<BlockRef> {
        let block = sink.put(kind, plain)?;
        self.stored_bytes += u64::from(block.sealed_len);
        Ok(block)
    }

    fn seal_leaf(&mut self, sink: &mut dyn BlockSink) -> Result<()> {
        let (bytes, first) = self.leaf.finish();
        let block = self.put(RecordKind::IndexLeaf, &bytes, sink)?;
        self.add_child(0, Child { first, block }, sink)
    }

    fn add_child(&mut self, level: usize, child: Child, sink: &mut dyn BlockSink) -> Result<()> {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        let node = &mut self.levels[level];
        node.len += child.first.len() + 24;
        node.children.push(child);
        // A node with one child would make no progress upwards.
        if node.len >= BLOCK_TARGET_LEN && node.children.len() > 1 { self.seal_node(level, sink) } else { Ok(()) }
    }

    fn seal_node(&mut self, level: usize, sink: &mut dyn BlockSink) -> Result<()> {
        let node = std::mem::take(&mut self.levels[level]);
        let mut bytes = Vec::with_capacity(node.len + 16);
        encode_onto(&node.children, &mut bytes);
        let block = self.put(RecordKind::IndexNode, &bytes, sink)?;
        let first = node.children.into_iter().next().expect("a node is sealed with children in it").first;
        self.add_child(level + 1, Child { first, block }, sink)
    }

    /// Writes what is left, the record table and the head.
    ///
    /// - `segments`: what the entries' segment indexes stand for;
    /// - `records`: every record that the entries refer to, by segment; in any order.
    ///
    /// Answers the head's place and the bytes of all blocks in the file.
    pub(crate) fn finish(
        mut self,
        segments: Vec<SegmentSalt>,
        records: BTreeMap<u32, Vec<RecordPlace>>,
        replacements: Vec<Replacement>,
        sink: &mut dyn BlockSink,
    ) -> Result<(BlockRef, u64)> {
        if !self.leaf.is_empty() {
            self.seal_leaf(sink)?;
        }
        let mut level = 0;
        let mut top = None;
        while level < self.levels.len() {
            let is_topmost = level + 1 == self.levels.len();
            match self.levels[level].children.as_slice() {
                [only] if is_topmost => {
                    top = Some(only.block);
                    break;
                }
                [] => level += 1,
                _ => {
                    self.seal_node(level, sink)?;
                    level += 1;
                }
            }
        }
        let mut tables = Vec::new();
        let max_plain_len = records.values().flatten().map(|place| place.plain_len).max().unwrap_or(0);
        for (segment, mut places) in records {
            places.sort_unstable_by_key(|place| place.number);
            places.dedup_by_key(|place| place.number);
            for block_places in places.chunks(RECORDS_PER_BLOCK) {
                let mut bytes = Vec::new();
                encode_onto(&block_places, &mut bytes);
                let block = self.put(RecordKind::RecordTable, &bytes, sink)?;
                tables.push(RecordTableRef { segment, first: block_places[0].number, block });
            }
        }
        let head = TreeHead {
            flags: 0,
            segments,
            height: u8::try_from(level).expect("levels grow with the logarithm of the entries"),
            top,
            puts: self.puts,
            deletes: self.deletes,
            content_bytes: self.content_bytes,
            records: tables,
            max_plain_len,
            replacements,
        };
        let block = self.put(RecordKind::TreeHead, &head.encode(), sink)?;
        Ok((block, self.stored_bytes))
    }
}

// ---- reading ------------------------------------------------------------------------------------------------------

/// An opened tree.
pub(crate) struct Tree {
    source: Arc<dyn BlockSource>,
    segment: SegmentSalt,
    head: TreeHead,
}

impl Tree {
    /// Reads the head of the tree whose blocks are in `segment`.
    pub(crate) fn open(source: Arc<dyn BlockSource>, segment: SegmentSalt, head: &BlockRef) -> Result<Self> {
        let bytes = source.get(&segment, RecordKind::TreeHead, head)?;
        let decoded = TreeHead::decode(&bytes).map_err(|why| source.malformed(head, why))?;
        Ok(Self { source, segment, head: decoded })
    }

    /// The head.
    pub(crate) fn head(&self) -> &TreeHead {
        &self.head
    }

    /// The records of one block of the record table.
    pub(crate) fn record_table(&self, table: &RecordTableRef) -> Result<Vec<RecordPlace>> {
        let bytes = self.source.get(&self.segment, RecordKind::RecordTable, &table.block)?;
        let places = decode_record_table(&bytes).map_err(|why| self.source.malformed(&table.block, why))?;
        if places[0].number != table.first {
            return Err(self.source.malformed(&table.block, wrong("first record number")));
        }
        if places.iter().any(|place| place.plain_len > self.head.max_plain_len) {
            return Err(self.source.malformed(&table.block, wrong("plain length of a record")));
        }
        Ok(places)
    }

    /// The items of a leaf. `first`: the first path that the node above names; none for a leaf that is the top.
    fn leaf(&self, block: &BlockRef, first: Option<&[u8]>) -> Result<Vec<LeafItem>> {
        let bytes = self.source.get(&self.segment, RecordKind::IndexLeaf, block)?;
        let items = decode_leaf(&bytes, self.head.segment_count()).map_err(|why| self.source.malformed(block, why))?;
        self.check_first(block, first, items[0].item.path().as_bytes())?;
        Ok(items)
    }

    /// The children of a node. `first`: as of a leaf.
    fn node(&self, block: &BlockRef, first: Option<&[u8]>) -> Result<Vec<Child>> {
        let bytes = self.source.get(&self.segment, RecordKind::IndexNode, block)?;
        let children = decode_node(&bytes).map_err(|why| self.source.malformed(block, why))?;
        self.check_first(block, first, &children[0].first)?;
        Ok(children)
    }

    /// A child begins with what its node says: else who looks for a path would miss what who reads all of them finds.
    fn check_first(&self, block: &BlockRef, named: Option<&[u8]>, found: &[u8]) -> Result<()> {
        if begins(found, named) { Ok(()) } else { Err(self.source.malformed(block, wrong("first path of a child"))) }
    }

    /// Completes an item whose bulk is in overflow blocks.
    fn complete(&self, leaf_item: LeafItem) -> Result<Item> {
        let LeafItem { mut item, overflow } = leaf_item;
        let (Item::Put(entry), Some(first)) = (&mut item, overflow.first()) else { return Ok(item) };
        let mut bytes = Vec::new();
        for block in &overflow {
            bytes.extend(self.source.get(&self.segment, RecordKind::Overflow, block)?);
            if bytes.len() > MAX_OVERFLOW_LEN {
                return Err(self.source.malformed(block, wrong("overflow length")));
            }
        }
        decode_overflow(entry, &bytes, self.head.segment_count()).map_err(|why| self.source.malformed(first, why))?;
        Ok(item)
    }
}

/// Whether the first path of a block is the one that the node above names, if there is one.
fn begins(found: &[u8], named: Option<&[u8]>) -> bool {
    named.is_none_or(|named| named == found)
}

fn wrong(field: &'static str) -> Malformation {
    Malformation::Field { structure: "index tree", field }
}

/// Items of a tree that cannot be read.
#[derive(Debug)]
pub(crate) struct Loss {
    pub(crate) what: Lost,
    pub(crate) why: Error,
}

/// Which items are lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Lost {
    /// All from the path `from` on, up to but without `to`, or up to the end: how many and which, nobody knows.
    Range { from: EntryPath, to: Option<EntryPath> },
    /// One put: what it says beside its path and type.
    Put(EntryPath),
}

impl Lost {
    /// Takes `next` in if it is the range right behind this one; says whether it did.
    pub(crate) fn extend(&mut self, next: &Self) -> bool {
        match (self, next) {
            (Self::Range { to, .. }, Self::Range { from, to: end }) if to.as_ref() == Some(from) => {
                to.clone_from(end);
                true
            }
            _ => false,
        }
    }

    /// Whether anything of it may be at `path` or behind.
    pub(crate) fn reaches(&self, path: &EntryPath) -> bool {
        match self {
            Self::Range { to, .. } => to.as_ref().is_none_or(|to| path < to),
            Self::Put(lost) => path <= lost,
        }
    }
}

/// A place in a tree's items: moves forward item by item, and to any path.
///
/// The nodes on the way and the leaf that was sought last stay in memory, so that looking for names that are near each other
/// reads and decodes each block once.
pub(crate) struct TreeCursor {
    tree: Arc<Tree>,
    /// What was gone past; `None` if a block that cannot be read ends the way.
    losses: Option<Vec<Loss>>,
    /// The nodes on the way, from the top down.
    stack: Vec<Node>,
    /// The items of the current leaf; without those that were answered, unless it was sought.
    leaf: std::vec::IntoIter<LeafItem>,
    /// The next item among these.
    at: usize,
    /// The current leaf, if [`TreeCursor::seek`] came to it: it stays whole, and what is answered of it are copies.
    sought: Option<BlockRef>,
    /// The last path of the current leaf.
    last: Option<EntryPath>,
    /// The last put of what is no directory, while items are below it.
    no_directory: Option<EntryPath>,
}

/// A node on the way.
struct Node {
    block: BlockRef,
    children: Vec<Child>,
    /// The first child that is still to be visited.
    next: usize,
}

impl TreeCursor {
    /// Before the first item.
    pub(crate) fn new(tree: Arc<Tree>) -> Result<Self> {
        Self::with(tree, None)
    }

    /// The same; blocks that cannot be read are gone past, and [`TreeCursor::take_losses`] says what was in them.
    pub(crate) fn tolerant(tree: Arc<Tree>) -> Result<Self> {
        Self::with(tree, Some(Vec::new()))
    }

    fn with(tree: Arc<Tree>, losses: Option<Vec<Loss>>) -> Result<Self> {
        let (stack, leaf) = (Vec::new(), Vec::new().into_iter());
        let mut cursor = Self { tree, losses, stack, leaf, at: 0, sought: None, last: None, no_directory: None };
        cursor.seek(&EntryPath::default())?;
        Ok(cursor)
    }

    /// What was gone past since this was asked last: known before an item behind it is answered.
    pub(crate) fn take_losses(&mut self) -> Vec<Loss> {
        self.losses.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether [`TreeCursor::take_losses`] would answer any.
    pub(crate) fn has_losses(&self) -> bool {
        self.losses.as_ref().is_some_and(|losses| !losses.is_empty())
    }

    /// What was read of the block whose first path is `first`, with all that follows it on the stack already; `None` if it
    /// is lost and gone past.
    fn or_lost<T>(&mut self, read: Result<T>, first: Option<&[u8]>) -> Result<Option<T>> {
        let why = match (read, &self.losses) {
            (Err(why), Some(_)) if why.is_damage() => why,
            (read, _) => return read.map(Some),
        };
        let parse = |bytes: &[u8]| {
            let top = self.tree.head.top.expect("a block of it was read");
            EntryPath::parse(bytes).map_err(|why| self.tree.source.malformed(&top, why))
        };
        let next = self.stack.iter().rev().find_map(|node| node.children.get(node.next));
        let from = parse(first.unwrap_or_default())?;
        let to = next.map(|child| parse(&child.first)).transpose()?;
        self.losses.get_or_insert_default().push(Loss { what: Lost::Range { from, to }, why });
        Ok(None)
    }

    /// Moves to the first item whose path is `path` or behind it.
    pub(crate) fn seek(&mut self, path: &EntryPath) -> Result<()> {
        // Gone until it is known to be the one: after an error there is no next item.
        let (sought, leaf) = (self.sought.take(), std::mem::take(&mut self.leaf));
        self.at = 0;
        self.last = None;
        self.no_directory = None;
        let Some(top) = self.tree.head.top else { return Ok(()) };
        if let Some((block, first)) = self.descend(top, None, 0, path)? {
            let is_here = sought == Some(block) && begins(leaf.as_slice()[0].item.path().as_bytes(), first.as_deref());
            let found = if is_here {
                Some(leaf)
            } else {
                drop(leaf);
                let read = self.tree.leaf(&block, first.as_deref());
                self.or_lost(read, first.as_deref())?.map(Vec::into_iter)
            };
            if let Some(leaf) = found {
                self.at = leaf.as_slice().partition_point(|item| item.item.path() < path);
                self.enter(leaf, Some(block));
            }
        }
        // What follows on the stack begins behind the path.
        if self.head().is_none() { self.next_leaf() } else { Ok(()) }
    }

    /// The next item, but for what its overflow blocks hold.
    pub(crate) fn head(&self) -> Option<&Item> {
        self.leaf.as_slice().get(self.at).map(|next| &next.item)
    }

    /// The path of the next item.
    pub(crate) fn peek(&self) -> Option<&EntryPath> {
        self.head().map(Item::path)
    }

    /// The next item.
    pub(crate) fn next(&mut self) -> Result<Option<Item>> {
        let Some(next) = self.take() else { return Ok(None) };
        if self.head().is_none() {
            self.next_leaf()?;
        }
        self.check_beneath(&next.item)?;
        if self.losses.is_none() || next.overflow.is_empty() {
            return self.tree.complete(next).map(Some);
        }
        let known = next.item.clone();
        match self.tree.complete(next) {
            Err(why) if why.is_damage() => {
                let what = Lost::Put(known.path().clone());
                self.losses.get_or_insert_default().push(Loss { what, why });
                Ok(Some(known))
            }
            other => other.map(Some),
        }
    }

    fn take(&mut self) -> Option<LeafItem> {
        if self.sought.is_none() {
            return self.leaf.next();
        }
        let next = self.leaf.as_slice().get(self.at)?.clone();
        self.at += 1;
        Some(next)
    }

    /// No put of a tree lies below a put of what is no directory. Found here for all that lies behind where the cursor
    /// was last put; `Merge` knows of what is above that. `before`: the item in front of the next one.
    fn check_beneath(&mut self, before: &Item) -> Result<()> {
        let Some(LeafItem { item: next, .. }) = self.leaf.as_slice().get(self.at) else { return Ok(()) };
        if !self.no_directory.as_ref().is_some_and(|head| next.path().is_below(head)) {
            let is_head = before.puts_no_directory() && next.path().is_below(before.path());
            self.no_directory = is_head.then(|| before.path().clone());
        }
        if self.no_directory.is_some() && matches!(next, Item::Put(_)) {
            self.leaf = Vec::new().into_iter();
            self.sought = None;
            return Err(self.malformed("entry below what is no directory"));
        }
        Ok(())
    }

    /// Goes down to the leaf where `path` is, if it is anywhere below `block`; answers where that is, and its first path.
    /// `None` if a node on the way is lost.
    ///
    /// - `level`: how many nodes are above `block`, all of them on the stack;
    /// - `first`: as of a leaf.
    fn descend(
        &mut self,
        mut block: BlockRef,
        mut first: Option<Vec<u8>>,
        level: usize,
        path: &EntryPath,
    ) -> Result<Option<(BlockRef, Option<Vec<u8>>)>> {
        for level in level..usize::from(self.tree.head.height) {
            // That it begins with what is said of it must hold for each that says so.
            let is_here = |node: &Node| node.block == block && begins(&node.children[0].first, first.as_deref());
            if !self.stack.get(level).is_some_and(is_here) {
                self.stack.truncate(level);
                let read = self.tree.node(&block, first.as_deref());
                let Some(children) = self.or_lost(read, first.as_deref())? else { return Ok(None) };
                self.stack.push(Node { block, children, next: 0 });
            }
            let Node { children, next, .. } = &mut self.stack[level];
            // The path can only be in the last child that begins at or before it.
            *next = children.partition_point(|child| compare_paths(&child.first, path.as_bytes()).is_le()).max(1);
            let child = &children[*next - 1];
            (block, first) = (child.block, Some(child.first.clone()));
        }
        Ok(Some((block, first)))
    }

    /// Loads the leaf behind the current one; there is no next item if there is none.
    fn next_leaf(&mut self) -> Result<()> {
        while let Some(node) = self.stack.last_mut() {
            let Some(Child { first, block }) = node.children.get(node.next).cloned() else {
                self.stack.pop();
                continue;
            };
            node.next += 1;
            let to_the_first = EntryPath::default();
            let Some((block, first)) = self.descend(block, Some(first), self.stack.len(), &to_the_first)? else {
                continue;
            };
            let read = self.tree.leaf(&block, first.as_deref());
            let Some(leaf) = self.or_lost(read, first.as_deref())? else { continue };
            // Ascending across leaves too: hence an end even for a tree that refers to a block twice.
            if self.last.as_ref().is_some_and(|last| last >= leaf[0].item.path()) {
                return Err(self.malformed("order of paths"));
            }
            self.at = 0;
            self.enter(leaf.into_iter(), None);
            return Ok(());
        }
        Ok(())
    }

    /// Makes a leaf the current one.
    fn enter(&mut self, leaf: std::vec::IntoIter<LeafItem>, sought: Option<BlockRef>) {
        self.last = leaf.as_slice().last().map(|last| last.item.path().clone());
        self.leaf = leaf;
        self.sought = sought;
    }

    fn malformed(&self, field: &'static str) -> Error {
        let top = self.tree.head.top.expect("there are items");
        self.tree.source.malformed(&top, wrong(field))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::format::entry::{Entry, EntryType, Extent, Owner, SegmentIndex};
    use crate::primitives::fs::Timestamp;

    /// Blocks kept in memory, unsealed, and how many were asked for.
    #[derive(Default)]
    pub(crate) struct Blocks(Mutex<Vec<(RecordKind, Vec<u8>)>>, AtomicUsize);

    impl BlockSink for Arc<Blocks> {
        fn put(&mut self, kind: RecordKind, plain: &[u8]) -> Result<BlockRef> {
            let mut blocks = self.0.lock().unwrap();
            blocks.push((kind, plain.to_vec()));
            let number = blocks.len() as u64 - 1;
            Ok(BlockRef { number, offset: number * 64, sealed_len: u32::try_from(plain.len()).unwrap() + 80 })
        }
    }

    impl BlockSource for Blocks {
        fn get(&self, _: &SegmentSalt, kind: RecordKind, block: &BlockRef) -> Result<Vec<u8>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let blocks = self.0.lock().unwrap();
            let (stored, plain) = &blocks[usize::try_from(block.number).unwrap()];
            assert_eq!(*stored, kind);
            Ok(plain.clone())
        }
        fn malformed(&self, block: &BlockRef, why: Malformation) -> Error {
            Error::malformed("blocks", block.offset, why)
        }
    }

    impl Blocks {
        /// The numbers of all blocks of a kind.
        pub(crate) fn of_kind(&self, kind: RecordKind) -> Vec<usize> {
            let blocks = self.0.lock().unwrap();
            (0..blocks.len()).filter(|&number| blocks[number].0 == kind).collect()
        }

        /// How many blocks were read since this was asked last.
        pub(crate) fn take_reads(&self) -> usize {
            self.1.swap(0, Ordering::Relaxed)
        }

        /// From now on there is nothing to be read in this block.
        pub(crate) fn lose(&self, number: usize) {
            self.0.lock().unwrap()[number].1.clear();
        }
    }

    /// A tree of leaves of so many items at most, with nodes of two children.
    pub(crate) fn build_of_small_blocks(blocks: &Arc<Blocks>, items: &[Item], per_leaf: usize) -> Arc<Tree> {
        let mut sink = blocks.clone();
        let mut writer = TreeWriter::default();
        for items in items.chunks(per_leaf) {
            items.iter().for_each(|item| writer.push(item, &mut sink).unwrap());
            writer.seal_leaf(&mut sink).unwrap();
            let mut level = 0;
            while level < writer.levels.len() {
                if writer.levels[level].children.len() == 2 {
                    writer.seal_node(level, &mut sink).unwrap();
                }
                level += 1;
            }
        }
        let (head, _) = writer.finish(vec![salt()], BTreeMap::new(), Vec::new(), &mut sink).unwrap();
        Arc::new(Tree::open(blocks.clone(), salt(), &head).unwrap())
    }

    pub(crate) fn salt() -> SegmentSalt {
        SegmentSalt { salt: [7; 32], wrapped: Vec::new() }
    }

    pub(crate) fn entry(path: &str, entry_type: EntryType, tag: u64) -> Entry {
        Entry {
            path: EntryPath::parse(path.as_bytes()).unwrap(),
            entry_type,
            mode: 0o644,
            owner: Owner { uid: 1, gid: 2, user: "u".into(), group: "g".into() },
            mtime: Timestamp { secs: -5, nanos: 1 },
            ctime: Timestamp { secs: 5, nanos: 1 },
            dev: 1,
            ino: tag,
            size: 0,
            rdev: 0,
            target: if entry_type == EntryType::Symlink { b"t".to_vec() } else { Vec::new() },
            extents: Vec::new(),
            link: None,
            xattrs: Vec::new(),
            changed: false,
            racy: false,
        }
    }

    pub(crate) fn build(blocks: &Arc<Blocks>, items: &[Item]) -> Arc<Tree> {
        build_with(blocks, items, Vec::new())
    }

    pub(crate) fn build_with(blocks: &Arc<Blocks>, items: &[Item], replacements: Vec<Replacement>) -> Arc<Tree> {
        let mut sink = blocks.clone();
        let mut writer = TreeWriter::default();
        for item in items {
            writer.push(item, &mut sink).unwrap();
        }
        let (head, _) = writer.finish(vec![salt()], BTreeMap::new(), replacements, &mut sink).unwrap();
        Arc::new(Tree::open(blocks.clone(), salt(), &head).unwrap())
    }

    fn all(cursor: &mut TreeCursor) -> Vec<Item> {
        std::iter::from_fn(|| cursor.next().unwrap()).collect()
    }

    #[test]
    fn what_was_written_comes_back_from_any_path_on() {
        for count in [0_u64, 1, 2, 700, 20_000] {
            let items: Vec<Item> = (0..count)
                .map(|n| {
                    let path = format!("dir{:03}/a name that is a little long {n:06}", n / 100);
                    if n % 7 == 3 {
                        Item::Delete(EntryPath::parse(path.as_bytes()).unwrap())
                    } else {
                        Item::Put(Box::new(entry(&path, EntryType::File, n)))
                    }
                })
                .collect();
            let blocks = Arc::new(Blocks::default());
            let tree = build(&blocks, &items);
            assert_eq!(tree.head().puts + tree.head().deletes, count);
            assert!(count < 20_000 || tree.head().height >= 1, "many leaves need a node");
            let mut cursor = TreeCursor::new(tree).unwrap();
            assert_eq!(all(&mut cursor), items);
            for from in (0..items.len()).step_by(997) {
                cursor.seek(items[from].path()).unwrap();
                assert_eq!(cursor.next().unwrap().as_ref(), Some(&items[from]));
                assert_eq!(cursor.peek(), items.get(from + 1).map(Item::path));
            }
        }
    }

    proptest! {
        #[test]
        fn whoever_seeks_finds_what_a_map_has_from_there_on(
            names in proptest::collection::btree_set("[a-c]{1,4}", 1..60),
            per_leaf in 1_usize..8,
            steps in proptest::collection::vec(("[a-c]{1,4}", 0_usize..12), 1..40),
        ) {
            let item = |name: &String| Item::Put(Box::new(entry(name, EntryType::Directory, 1)));
            let items: Vec<Item> = names.iter().map(item).collect();
            let map: BTreeMap<EntryPath, Item> = items.iter().map(|item| (item.path().clone(), item.clone())).collect();
            let blocks = Arc::new(Blocks::default());
            let tree = build_of_small_blocks(&blocks, &items, per_leaf);
            let mut cursor = TreeCursor::new(tree.clone()).unwrap();
            for (name, count) in steps {
                let path = EntryPath::parse(name.as_bytes()).unwrap();
                blocks.take_reads();
                cursor.seek(&path).unwrap();
                // One leaf more if what is behind the path begins there, and a node on the way to it.
                prop_assert!(blocks.take_reads() <= 2 * usize::from(tree.head().height) + 2);
                let mut expected = map.range(path..).map(|(_, item)| item);
                for _ in 0..count {
                    prop_assert_eq!(cursor.peek(), expected.clone().next().map(Item::path));
                    let next = cursor.next().unwrap();
                    prop_assert_eq!(next.as_ref(), expected.next());
                }
            }
        }
    }

    fn numbered(count: u64) -> Vec<Item> {
        (0..count).map(|n| Item::Put(Box::new(entry(&format!("{n:03}"), EntryType::File, n)))).collect()
    }

    #[test]
    fn a_path_costs_a_block_a_level_and_one_near_it_none() {
        let items = numbered(100);
        let blocks = Arc::new(Blocks::default());
        let tree = build_of_small_blocks(&blocks, &items, 5);
        let levels = usize::from(tree.head().height) + 1;
        assert!(levels >= 4);
        blocks.take_reads();
        let mut cursor = TreeCursor::new(tree).unwrap();
        assert_eq!(blocks.take_reads(), levels);
        // From one end to the other and back.
        for n in (0..50).flat_map(|n| [n, 99 - n]) {
            cursor.seek(items[n].path()).unwrap();
            assert!(blocks.take_reads() <= levels);
            let others = n / 5 * 5..n / 5 * 5 + 5;
            for other in others.clone().chain(others.rev()) {
                cursor.seek(items[other].path()).unwrap();
                assert_eq!(cursor.peek(), Some(items[other].path()));
                if other % 5 < 4 {
                    assert_eq!(cursor.next().unwrap().as_ref(), Some(&items[other]), "a copy: it can be found again");
                }
            }
            assert_eq!(blocks.take_reads(), 0);
        }
    }

    #[test]
    fn a_leaf_that_is_lost_is_told_whenever_it_is_needed_and_only_then() {
        let items = numbered(20);
        for lost in 0..4_usize {
            let blocks = Arc::new(Blocks::default());
            let tree = build_of_small_blocks(&blocks, &items, 5);
            let (mut strict, mut tolerant) =
                (TreeCursor::new(tree.clone()).unwrap(), TreeCursor::tolerant(tree).unwrap());
            // The first is in memory already.
            if lost == 0 {
                strict.seek(items[19].path()).unwrap();
                tolerant.seek(items[19].path()).unwrap();
            }
            blocks.lose(blocks.of_kind(RecordKind::IndexLeaf)[lost]);
            for n in (0..20).rev().chain(0..20).chain([7, 12, 7, 2, 2, 17, 17]) {
                let is_lost = n / 5 == lost;
                assert_eq!(strict.seek(items[n].path()).is_err(), is_lost, "{n} of {lost}");
                assert_eq!(strict.peek(), (!is_lost).then(|| items[n].path()), "after an error there is nothing");
                tolerant.seek(items[n].path()).unwrap();
                assert_eq!(tolerant.take_losses().len(), usize::from(is_lost));
                let found = if is_lost { lost * 5 + 5 } else { n };
                assert_eq!(tolerant.peek(), items.get(found).map(Item::path));
            }
        }
    }

    #[test]
    fn a_block_that_two_children_name_is_refused_though_it_was_read_as_the_first() {
        let blocks = Arc::new(Blocks::default());
        let mut sink = blocks.clone();
        let mut leaf = LeafBuilder::default();
        numbered(3).iter().for_each(|item| leaf.push(item, Vec::new()));
        let mut below = sink.put(RecordKind::IndexLeaf, &leaf.finish().0).unwrap();
        for height in 1..3 {
            let child = |first: &str| Child { first: first.into(), block: below };
            let mut node = Vec::new();
            encode_onto(&vec![child("000"), child("002")], &mut node);
            below = sink.put(RecordKind::IndexNode, &node).unwrap();
            let head = TreeHead { height, top: Some(below), ..TreeHead::default() };
            let head = sink.put(RecordKind::TreeHead, &head.encode()).unwrap();
            let tree = Arc::new(Tree::open(blocks.clone(), salt(), &head).unwrap());
            let mut cursor = TreeCursor::new(tree).unwrap();
            let path = |name: &str| EntryPath::parse(name.as_bytes()).unwrap();
            cursor.seek(&path("001")).unwrap();
            for name in ["002", "003"] {
                assert!(cursor.seek(&path(name)).is_err());
                assert!(cursor.peek().is_none() && cursor.next().unwrap().is_none());
                cursor.seek(&path("001")).unwrap();
                assert_eq!(cursor.next().unwrap().as_ref(), Some(&numbered(3)[1]));
            }
            assert!(cursor.next().is_err(), "nor is there a way on");
            assert!(cursor.next().unwrap().is_none());
        }
    }

    #[test]
    fn an_entry_with_many_extents_goes_through_overflow_blocks() {
        let mut big = entry("sparse", EntryType::File, 1);
        for n in 0..100_000 {
            let data = Extent::Data { segment: SegmentIndex(0), first: n, count: 1, record_len: 10, offset: 3, len: 7 };
            big.extents.extend([Extent::Hole { len: 4096 }, data]);
        }
        big.size = big.extents.iter().map(Extent::len).sum();
        let items = [Item::Put(Box::new(big)), Item::Put(Box::new(entry("tail", EntryType::Fifo, 2)))];
        let blocks = Arc::new(Blocks::default());
        assert_eq!(all(&mut TreeCursor::new(build(&blocks, &items)).unwrap()), items);
    }

    #[test]
    fn blocks_that_are_lost_are_gone_past_and_told_with_their_range() {
        let item = |n: u64| Item::Put(Box::new(entry(&format!("{n:02}"), EntryType::File, n)));
        let items: Vec<Item> = (0..23).map(item).collect();
        let path = |n: u64| item(n).path().clone();
        let range = |from: u64, to: Option<u64>| {
            let from = if from == 0 { path(0) } else { path(from) };
            Lost::Range { from, to: to.map(path) }
        };
        for kind in [RecordKind::IndexLeaf, RecordKind::IndexNode] {
            let count = {
                let blocks = Arc::new(Blocks::default());
                build_of_small_blocks(&blocks, &items, 3);
                blocks.of_kind(kind).len()
            };
            assert!(count >= 4, "{kind:?} {count}");
            for lost in 0..count {
                let blocks = Arc::new(Blocks::default());
                let tree = build_of_small_blocks(&blocks, &items, 3);
                blocks.lose(blocks.of_kind(kind)[lost]);
                let strict = TreeCursor::new(tree.clone()).and_then(|mut cursor| {
                    while cursor.next()?.is_some() {}
                    Ok(())
                });
                assert!(strict.is_err());
                let mut cursor = TreeCursor::tolerant(tree).unwrap();
                let found = all(&mut cursor);
                let losses = cursor.take_losses();
                let [Loss { what: Lost::Range { from, to }, why }] = &losses[..] else { panic!("{losses:?}") };
                assert!(why.is_damage());
                let is_lost = |item: &&Item| item.path() >= from && to.as_ref().is_none_or(|to| item.path() < to);
                let missing: Vec<&Item> = items.iter().filter(|item| !found.contains(item)).collect();
                assert_eq!(items.iter().filter(is_lost).collect::<Vec<_>>(), missing, "{kind:?} {lost}");
                assert!(!missing.is_empty() && missing.len() + found.len() == items.len());
                if kind == RecordKind::IndexLeaf {
                    let first = lost as u64 * 3;
                    assert_eq!(losses[0].what, range(first, (first < 21).then_some(first + 3)));
                }
                // The same from any path on.
                for item in &items {
                    cursor.seek(item.path()).unwrap();
                    let rest: Vec<&Item> = found.iter().filter(|other| other.path() >= item.path()).collect();
                    assert_eq!(all(&mut cursor).iter().collect::<Vec<_>>(), rest);
                }
            }
        }
    }

    #[test]
    fn an_entry_whose_overflow_is_lost_comes_with_what_is_known_of_it() {
        let mut big = entry("big", EntryType::File, 1);
        let xattr = |n: u8| crate::format::entry::Xattr { name: vec![b'a' + n], value: vec![n; 60_000] };
        big.xattrs = (0..5).map(xattr).collect();
        let items = [Item::Put(Box::new(big)), Item::Put(Box::new(entry("tail", EntryType::Fifo, 2)))];
        let blocks = Arc::new(Blocks::default());
        let tree = build(&blocks, &items);
        blocks.lose(blocks.of_kind(RecordKind::Overflow)[0]);
        assert!(TreeCursor::new(tree.clone()).unwrap().next().is_err());
        let mut cursor = TreeCursor::tolerant(tree).unwrap();
        assert_eq!(cursor.next().unwrap().map(|item| item.path().clone()), Some(items[0].path().clone()));
        let losses = cursor.take_losses();
        assert!(matches!(&losses[..], [Loss { what: Lost::Put(path), .. }] if path == items[0].path()), "{losses:?}");
        assert_eq!(cursor.next().unwrap().as_ref(), Some(&items[1]));
    }

    #[test]
    fn extents_that_lie_are_refused() {
        let good = Extent::Data { segment: SegmentIndex(0), first: 5, count: 2, record_len: 100, offset: 50, len: 100 };
        let with = |extent: Extent, size: u64| {
            let mut file = entry("f", EntryType::File, 1);
            file.extents = vec![extent];
            file.size = size;
            let mut leaf = LeafBuilder::default();
            leaf.push(&Item::Put(Box::new(file)), Vec::new());
            decode_leaf(&leaf.finish().0, 1)
        };
        assert!(with(good, 100).is_ok());
        assert!(with(good, 99).is_err(), "the size is not the sum");
        let Extent::Data { segment, first, .. } = good else { unreachable!() };
        let data = |count, record_len, offset, len| Extent::Data { segment, first, count, record_len, offset, len };
        for bad in [
            data(2, 100, 50, 50),
            data(2, 100, 50, 151),
            data(0, 100, 0, 1),
            data(1, 0, 0, 1),
            data(1, 100, 100, 1),
            data(u64::MAX, 100, 0, 100),
            data(1, u32::MAX, 0, 100),
            Extent::Data { segment: SegmentIndex(1), first, count: 1, record_len: 100, offset: 0, len: 100 },
            Extent::Hole { len: 0 },
        ] {
            assert!(with(bad, bad.len()).is_err(), "{bad:?}");
        }
    }
}
