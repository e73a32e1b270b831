//! What a vault holds at one commit: a full index and the deltas after it, read as one list (docs/FORMAT.md, "Merging").
//!
//! A later tree wins over an earlier one. A put of what is no directory takes away what earlier trees have below that
//! name; a put takes away ancestors that earlier trees have and that are no directories. Both are decided while the list
//! goes by, since a subtree follows its head: [`Merge::kills`] remembers the heads, [`Merge::pending`] holds an entry
//! back until it is known that nothing later came below it.

use std::sync::Arc;

use crate::error::{Error, Malformation, Result};
use crate::format::entry::{Entry, EntryPath, EntryType};
use crate::format::index::Item;
use crate::format::tree::{Tree, TreeCursor};

/// The entries of one commit in index order, each with the position of the tree that it came from.
pub(crate) struct Merge {
    trees: Vec<Arc<Tree>>,
    cursors: Vec<TreeCursor>,
    /// Ancestors of the current path where some tree puts no directory, with the last such tree.
    kills: Vec<(EntryPath, usize)>,
    pending: Option<(usize, Box<Entry>)>,
    vault: Arc<std::path::Path>,
}

impl Merge {
    /// `trees`: the full index, if there is one, and the deltas in the order they apply; `vault` is for errors.
    pub(crate) fn new(trees: Vec<Arc<Tree>>, vault: Arc<std::path::Path>) -> Result<Self> {
        let cursors = trees.iter().cloned().map(TreeCursor::new).collect::<Result<_>>()?;
        Ok(Self { trees, cursors, kills: Vec::new(), pending: None, vault })
    }

    /// Moves to the first entry whose path is `path` or behind it.
    pub(crate) fn seek(&mut self, path: &EntryPath) -> Result<()> {
        self.pending = None;
        self.kills.clear();
        for ancestor in path.ancestors() {
            let mut last = None;
            for (position, cursor) in self.cursors.iter_mut().enumerate() {
                cursor.seek(&ancestor)?;
                if cursor.peek() == Some(&ancestor) {
                    let item = cursor.next()?;
                    if matches!(item, Some(Item::Put(entry)) if entry.entry_type != EntryType::Directory) {
                        last = Some(position);
                    }
                }
            }
            self.kills.extend(last.map(|position| (ancestor, position)));
        }
        self.cursors.iter_mut().try_for_each(|cursor| cursor.seek(path))
    }

    /// The next entry.
    pub(crate) fn next(&mut self) -> Result<Option<(usize, Box<Entry>)>> {
        loop {
            let Some(path) = self.cursors.iter().filter_map(TreeCursor::peek).min().cloned() else {
                return Ok(self.pending.take());
            };
            if self.pending.as_ref().is_some_and(|(_, entry)| !path.is_below(&entry.path)) {
                return Ok(self.pending.take());
            }
            if let Some((position, entry)) = self.take_path(&path)? {
                if entry.entry_type == EntryType::Directory {
                    return Ok(Some((position, entry)));
                }
                self.pending = Some((position, entry));
            }
        }
    }

    /// Consumes what all trees say of one path; answers the entry that is there in the end.
    fn take_path(&mut self, path: &EntryPath) -> Result<Option<(usize, Box<Entry>)>> {
        self.kills.retain(|(head, _)| path.is_below(head));
        let mut winner = None;
        let mut last_non_directory = None;
        for (position, cursor) in self.cursors.iter_mut().enumerate() {
            if cursor.peek() != Some(path) {
                continue;
            }
            let item = cursor.next()?.expect("it was peeked at");
            if let Item::Put(entry) = &item {
                if self.kills.iter().any(|&(_, tree)| tree == position) {
                    let why =
                        Malformation::Field { structure: "index tree", field: "entry below what is no directory" };
                    return Err(Error::malformed(&*self.vault, 0, why));
                }
                if self.pending.as_ref().is_some_and(|&(tree, _)| tree < position) {
                    self.pending = None;
                }
                if entry.entry_type != EntryType::Directory {
                    last_non_directory = Some(position);
                }
            }
            winner = Some((position, item));
        }
        let killed_by = self.kills.iter().map(|&(_, tree)| tree).max();
        self.kills.extend(last_non_directory.map(|position| (path.clone(), position)));
        let Some((position, Item::Put(entry))) = winner else { return Ok(None) };
        let is_killed = killed_by.is_some_and(|tree| tree > position);
        let is_replaced = self.trees[position + 1..].iter().any(|later| later.head().replaces(path));
        Ok((!is_killed && !is_replaced).then_some((position, entry)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::format::entry::is_below;
    use crate::format::index::Replacement;
    use crate::format::tree::tests::{Blocks, build, build_with, entry};

    fn merged(trees: Vec<Arc<Tree>>) -> Vec<(String, u64)> {
        let mut merge = Merge::new(trees, Arc::from(std::path::Path::new("v"))).unwrap();
        std::iter::from_fn(|| merge.next().unwrap()).map(|(_, e)| (text(&e.path), e.ino)).collect()
    }

    fn text(path: &EntryPath) -> String {
        String::from_utf8(path.as_bytes().to_vec()).unwrap()
    }

    /// The rule of docs/FORMAT.md, applied to a map one delta after another.
    fn apply(model: &mut BTreeMap<EntryPath, Entry>, (replacements, delta): &(Vec<Replacement>, Vec<Item>)) {
        let covers = |head: &[u8], path: &EntryPath| path.as_bytes() == head || is_below(path.as_bytes(), head);
        for replacement in replacements {
            model.retain(|path, _| {
                !covers(&replacement.path, path) || replacement.except.iter().any(|except| covers(except, path))
            });
        }
        for item in delta {
            if let Item::Delete(path) = item {
                model.remove(path);
            }
        }
        for item in delta {
            if let Item::Put(put) = item {
                model.retain(|path, old| {
                    let below = path.is_below(&put.path) && put.entry_type != EntryType::Directory;
                    let above = put.path.is_below(path) && old.entry_type != EntryType::Directory;
                    !below && !above
                });
                model.insert(put.path.clone(), (**put).clone());
            }
        }
    }

    fn some_path() -> impl Strategy<Value = String> {
        proptest::collection::vec(prop_oneof!["a", "b", "a[.]b"], 1..4).prop_map(|parts| parts.join("/"))
    }

    fn delta() -> impl Strategy<Value = (Vec<String>, Vec<(String, u8)>)> {
        let items = proptest::collection::vec((some_path(), 0_u8..4), 0..12);
        (proptest::collection::vec(some_path(), 0..5), items)
    }

    /// Makes replacements of arbitrary paths: one within another becomes its exception.
    fn replacements(raw: Vec<String>) -> Vec<Replacement> {
        let mut paths: Vec<EntryPath> = raw.iter().map(|path| EntryPath::parse(path.as_bytes()).unwrap()).collect();
        paths.sort();
        paths.dedup();
        let mut made: Vec<Replacement> = Vec::new();
        for path in paths {
            match made.last_mut() {
                Some(last) if is_below(path.as_bytes(), &last.path) => {
                    last.except.push(serde_bytes::ByteBuf::from(path.as_bytes()));
                }
                _ => made.push(Replacement { path: path.as_bytes().to_vec(), except: Vec::new() }),
            }
        }
        made
    }

    /// Makes a legal delta of arbitrary items: in order, each path once, nothing below what the same delta puts as a file.
    fn legal(raw: Vec<(String, u8)>, tag: &mut u64) -> Vec<Item> {
        let mut items: BTreeMap<EntryPath, Item> = BTreeMap::new();
        for (path, kind) in raw {
            *tag += 1;
            let parsed = EntryPath::parse(path.as_bytes()).unwrap();
            let item = match kind {
                0 => Item::Delete(parsed.clone()),
                1 => Item::Put(Box::new(entry(&path, EntryType::File, *tag))),
                _ => Item::Put(Box::new(entry(&path, EntryType::Directory, *tag))),
            };
            let is_file = |item: &Item| matches!(item, Item::Put(e) if e.entry_type == EntryType::File);
            let is_put = matches!(item, Item::Put(_));
            let clash = items.values().any(|other| {
                (parsed.is_below(other.path()) && is_file(other) && is_put)
                    || (other.path().is_below(&parsed) && is_file(&item) && matches!(other, Item::Put(_)))
            });
            if !clash {
                items.insert(parsed, item);
            }
        }
        items.into_values().collect()
    }

    proptest! {
        #[test]
        fn merging_is_applying_one_after_another(raw in proptest::collection::vec(delta(), 1..6)) {
            let blocks = Arc::new(Blocks::default());
            let mut tag = 0;
            let deltas: Vec<(Vec<Replacement>, Vec<Item>)> =
                raw.into_iter().map(|(heads, raw)| (replacements(heads), legal(raw, &mut tag))).collect();
            let mut model = BTreeMap::new();
            deltas.iter().for_each(|delta| apply(&mut model, delta));
            let expected: Vec<(String, u64)> = model.values().map(|e| (text(&e.path), e.ino)).collect();
            let trees: Vec<Arc<Tree>> = deltas.iter().map(|(heads, items)| build_with(&blocks, items, heads.clone())).collect();
            prop_assert_eq!(merged(trees.clone()), expected.clone());
            // From every path on, the list is the same as the rest of the whole one.
            let mut merge = Merge::new(trees, Arc::from(std::path::Path::new("v"))).unwrap();
            for (position, (path, _)) in expected.iter().enumerate() {
                merge.seek(&EntryPath::parse(path.as_bytes()).unwrap()).unwrap();
                let rest: Vec<(String, u64)> =
                    std::iter::from_fn(|| merge.next().unwrap()).map(|(_, e)| (text(&e.path), e.ino)).collect();
                prop_assert_eq!(&rest[..], &expected[position..]);
            }
        }
    }

    #[test]
    fn a_tree_with_an_entry_below_its_own_file_is_refused() {
        let blocks = Arc::new(Blocks::default());
        let items = [
            Item::Put(Box::new(entry("a", EntryType::Symlink, 1))),
            Item::Put(Box::new(entry("a/b", EntryType::File, 2))),
        ];
        let mut merge = Merge::new(vec![build(&blocks, &items)], Arc::from(std::path::Path::new("v"))).unwrap();
        assert!(std::iter::from_fn(|| merge.next().transpose()).any(|next| next.is_err()));
    }
}
