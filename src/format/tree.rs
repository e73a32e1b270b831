//! Index trees: written once from items in order, read from any path on (docs/FORMAT.md, "Index trees").
//!
//! Where the blocks are kept is not known here: [`BlockSink`] takes them, [`BlockSource`] gives them back authenticated.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Malformation, Result};
use crate::format::entry::{EntryPath, EntryType, compare_paths};
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
        if named.is_some_and(|named| named != found) {
            return Err(self.source.malformed(block, wrong("first path of a child")));
        }
        Ok(())
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

/// A place in a tree's items, moving forward.
pub(crate) struct TreeCursor {
    tree: Arc<Tree>,
    /// What was gone past; `None` if a block that cannot be read ends the way.
    losses: Option<Vec<Loss>>,
    /// From the top down: the children of each node on the way, those still to be visited last first.
    stack: Vec<Vec<Child>>,
    leaf: std::vec::IntoIter<LeafItem>,
    head: Option<LeafItem>,
    last: Option<EntryPath>,
    /// The last put of what is no directory, while items are below it.
    no_directory: Option<EntryPath>,
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
        let leaf = Vec::new().into_iter();
        let mut cursor = Self { tree, losses, stack: Vec::new(), leaf, head: None, last: None, no_directory: None };
        cursor.seek(&EntryPath::default())?;
        Ok(cursor)
    }

    /// What was gone past since this was asked last: known before an item behind it is answered.
    pub(crate) fn take_losses(&mut self) -> Vec<Loss> {
        self.losses.as_mut().map(std::mem::take).unwrap_or_default()
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
        let next = self.stack.iter().rev().find_map(|children| children.last());
        let from = parse(first.unwrap_or_default())?;
        let to = next.map(|child| parse(&child.first)).transpose()?;
        self.losses.get_or_insert_default().push(Loss { what: Lost::Range { from, to }, why });
        Ok(None)
    }

    /// Moves to the first item whose path is `path` or behind it.
    pub(crate) fn seek(&mut self, path: &EntryPath) -> Result<()> {
        self.stack.clear();
        self.leaf = Vec::new().into_iter();
        self.last = None;
        self.no_directory = None;
        self.head = None;
        let Some(mut block) = self.tree.head.top else { return Ok(()) };
        let mut first: Option<Vec<u8>> = None;
        let mut leaf = Some(Vec::new());
        for _ in 0..self.tree.head.height {
            let read = self.tree.node(&block, first.as_deref());
            let Some(mut children) = self.or_lost(read, first.as_deref())? else {
                leaf = None;
                break;
            };
            // The path can only be in the last child that begins at or before it.
            let behind = children.partition_point(|child| compare_paths(&child.first, path.as_bytes()).is_le());
            let mut rest = children.split_off(behind.saturating_sub(1));
            rest.reverse();
            let child = rest.pop().expect("a node has a child");
            (block, first) = (child.block, Some(child.first));
            self.stack.push(rest);
        }
        if leaf.is_some() {
            let read = self.tree.leaf(&block, first.as_deref());
            leaf = self.or_lost(read, first.as_deref())?;
        }
        self.leaf = leaf.unwrap_or_default().into_iter();
        self.advance()?;
        while self.peek().is_some_and(|next| next < path) {
            self.advance()?;
        }
        Ok(())
    }

    /// The path of the next item.
    pub(crate) fn peek(&self) -> Option<&EntryPath> {
        self.head.as_ref().map(|head| head.item.path())
    }

    /// Whether the next item is a put.
    pub(crate) fn is_at_put(&self) -> bool {
        self.head.as_ref().is_some_and(|head| matches!(head.item, Item::Put(_)))
    }

    /// The next item.
    pub(crate) fn next(&mut self) -> Result<Option<Item>> {
        let Some(head) = self.head.take() else { return Ok(None) };
        self.advance()?;
        if self.losses.is_none() || head.overflow.is_empty() {
            return self.tree.complete(head).map(Some);
        }
        let known = head.item.clone();
        match self.tree.complete(head) {
            Err(why) if why.is_damage() => {
                let what = Lost::Put(known.path().clone());
                self.losses.get_or_insert_default().push(Loss { what, why });
                Ok(Some(known))
            }
            other => other.map(Some),
        }
    }

    fn advance(&mut self) -> Result<()> {
        loop {
            if let Some(next) = self.leaf.next() {
                // Ascending across leaves too: hence an end even for a tree that refers to a block twice.
                if self.last.as_ref().is_some_and(|last| last >= next.item.path()) {
                    let top = self.tree.head.top.expect("there are items");
                    return Err(self.tree.source.malformed(&top, wrong("order of paths")));
                }
                self.check_beneath(&next.item)?;
                self.last = Some(next.item.path().clone());
                self.head = Some(next);
                return Ok(());
            }
            if !self.next_leaf()? {
                self.head = None;
                return Ok(());
            }
        }
    }

    /// No put of a tree lies below a put of what is no directory. Found here for all that lies behind where the cursor
    /// was last put; `Merge` knows of what is above that.
    fn check_beneath(&mut self, item: &Item) -> Result<()> {
        if self.no_directory.as_ref().is_some_and(|head| !item.path().is_below(head)) {
            self.no_directory = None;
        }
        let Item::Put(entry) = item else { return Ok(()) };
        if self.no_directory.is_some() {
            let top = self.tree.head.top.expect("there are items");
            return Err(self.tree.source.malformed(&top, wrong("entry below what is no directory")));
        }
        if entry.entry_type != EntryType::Directory {
            self.no_directory = Some(entry.path.clone());
        }
        Ok(())
    }

    /// The first leaf below a child of the topmost node on the stack; `None` if it, or a node before it, is lost.
    fn descend(&mut self, child: Child) -> Result<Option<Vec<LeafItem>>> {
        let Child { mut first, mut block } = child;
        for _ in self.stack.len()..usize::from(self.tree.head.height) {
            let read = self.tree.node(&block, Some(&first));
            let Some(mut children) = self.or_lost(read, Some(&first))? else { return Ok(None) };
            children.reverse();
            Child { first, block } = children.pop().expect("a node has a child");
            self.stack.push(children);
        }
        let read = self.tree.leaf(&block, Some(&first));
        self.or_lost(read, Some(&first))
    }

    /// Loads the leaf behind the current one; false at the end.
    fn next_leaf(&mut self) -> Result<bool> {
        while let Some(children) = self.stack.last_mut() {
            let Some(child) = children.pop() else {
                self.stack.pop();
                continue;
            };
            if let Some(leaf) = self.descend(child)? {
                self.leaf = leaf.into_iter();
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::format::entry::{Entry, EntryType, Extent, Owner, SegmentIndex};
    use crate::primitives::fs::Timestamp;

    /// Blocks kept in memory, unsealed.
    #[derive(Default)]
    pub(crate) struct Blocks(Mutex<Vec<(RecordKind, Vec<u8>)>>);

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
