//! Index trees: written once from items in order (`tree/writer.rs`), read from any path on (`tree/cursor.rs`), block by block
//! (docs/FORMAT.md, "Index trees").
//!
//! Where the blocks are kept is not known here: [`BlockSink`] takes them, [`BlockSource`] gives them back authenticated.

mod cursor;
mod writer;

use std::sync::Arc;

pub(crate) use self::cursor::TreeCursor;
pub(crate) use self::writer::TreeWriter;

use crate::error::{Error, Malformation, Result};
use crate::format::entry::EntryPath;
use crate::format::index::{
    BlockRef, Child, Item, LeafItem, MAX_OVERFLOW_LEN, RecordPlace, RecordTableRef, SegmentSalt, TreeHead, decode_leaf,
    decode_node, decode_overflow, decode_record_table,
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

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::format::entry::{Entry, EntryType, Extent, Owner, SegmentIndex};
    use crate::format::index::{LeafBuilder, Replacement, encode_onto};
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
