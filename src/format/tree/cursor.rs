//! How are a tree's items read? From any path on, going past what is lost if that is asked for.

use std::sync::Arc;

use super::{Loss, Lost, Tree, begins, wrong};
use crate::error::{Error, Result};
use crate::format::entry::{EntryPath, compare_paths};
use crate::format::index::{BlockRef, Child, Item, LeafItem};

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
