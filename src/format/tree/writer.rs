//! How is a tree written? From items in order, a block a level in memory, from the leaves up.

use std::collections::BTreeMap;

use super::BlockSink;
use crate::error::Result;
use crate::format::index::{
    BLOCK_TARGET_LEN, BlockRef, Child, Item, LeafBuilder, MAX_BLOCK_LEN, OVERFLOW_FROM, RECORDS_PER_BLOCK, RecordPlace,
    RecordTableRef, Replacement, SegmentSalt, TreeHead, bulk_len, encode_onto, encode_overflow,
};
use crate::format::record::RecordKind;

/// Writes a tree, an item at a time; keeps one block a level in memory.
#[derive(Default)]
pub(crate) struct TreeWriter {
    leaf: LeafBuilder,
    pub(super) levels: Vec<Level>,
    stored_bytes: u64,
    puts: u64,
    deletes: u64,
    content_bytes: u64,
}

#[derive(Default)]
pub(super) struct Level {
    pub(super) children: Vec<Child>,
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

    pub(super) fn seal_leaf(&mut self, sink: &mut dyn BlockSink) -> Result<()> {
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

    pub(super) fn seal_node(&mut self, level: usize, sink: &mut dyn BlockSink) -> Result<()> {
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
