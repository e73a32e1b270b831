//! What a vault holds at one commit: a full index and the deltas after it, read as one list (docs/FORMAT.md, "Merging").
//!
//! A later tree wins over an earlier one. A put of what is no directory takes away what earlier trees have below that
//! name; a put takes away ancestors that earlier trees have and that are no directories. Both are decided while the list
//! goes by, since a subtree follows its head: [`Merge::kills`] remembers the heads, [`Merge::pending`] holds an entry
//! back until it is known that nothing later came below it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, Malformation, Result};
use crate::format::entry::{Entry, EntryPath, EntryType};
use crate::format::index::Item;
use crate::format::tree::{Loss, Lost, Tree, TreeCursor};

/// The entries of one commit in index order, each with the position of the tree that it came from.
pub(crate) struct Merge {
    trees: Vec<Arc<Tree>>,
    cursors: Vec<TreeCursor>,
    /// Ancestors of the current path where some tree puts no directory, with the last such tree.
    kills: Vec<(EntryPath, usize)>,
    /// The path that was sought last, and for each of its ancestors the last tree that puts no directory there: names that
    /// are near each other share most of them. Empty if something was lost on the way.
    above: (EntryPath, Vec<Option<usize>>),
    pending: Option<(usize, Box<Entry>)>,
    /// What is lost of which tree, as far as it can matter to what is still to come.
    lost: Vec<(usize, Lost)>,
    /// Of each tree, the first put since the last range that is lost of it: what is above that was put as no file.
    first_put: Vec<Option<EntryPath>>,
    /// What was told of it.
    told: HashSet<(usize, Lost)>,
    /// What [`Merge::take_lost`] answers next.
    untold: Untold,
    vault: Arc<std::path::Path>,
}

/// What a tolerant merge left out.
#[derive(Debug, Default)]
pub(crate) struct Untold {
    /// Parts of trees that cannot be read, each told once.
    pub(crate) losses: Vec<Loss>,
    /// Entries that are there in an older tree, while what is lost of a later one may have changed or removed them.
    pub(crate) doubtful: Vec<Entry>,
}

impl Merge {
    /// `trees`: the full index, if there is one, and the deltas in the order they apply; `vault` is for errors.
    pub(crate) fn new(trees: Vec<Arc<Tree>>, vault: Arc<std::path::Path>) -> Result<Self> {
        let cursors = trees.iter().cloned().map(TreeCursor::new).collect::<Result<_>>()?;
        Ok(Self::with(trees, cursors, vault))
    }

    /// The same, but blocks of the trees that cannot be read are gone past: entries whose state is certain come, and
    /// [`Merge::take_lost`] says of the others what can be said.
    pub(crate) fn tolerant(trees: Vec<Arc<Tree>>, vault: Arc<std::path::Path>) -> Result<Self> {
        let cursors = trees.iter().cloned().map(TreeCursor::tolerant).collect::<Result<_>>()?;
        Ok(Self::with(trees, cursors, vault))
    }

    fn with(trees: Vec<Arc<Tree>>, cursors: Vec<TreeCursor>, vault: Arc<std::path::Path>) -> Self {
        let (kills, lost, told, untold) = (Vec::new(), Vec::new(), HashSet::new(), Untold::default());
        let first_put = vec![None; trees.len()];
        let above = <(EntryPath, Vec<Option<usize>>)>::default();
        Self { trees, cursors, kills, above, pending: None, lost, first_put, told, untold, vault }
    }

    /// What was left out since this was asked last.
    pub(crate) fn take_lost(&mut self) -> Untold {
        self.take_in_losses();
        std::mem::take(&mut self.untold)
    }

    fn take_in_losses(&mut self) {
        for (position, cursor) in self.cursors.iter_mut().enumerate() {
            for loss in cursor.take_losses() {
                let known = (position, loss.what.clone());
                // It is come upon again on the way to other paths.
                if self.told.insert(known.clone())
                    && !self.untold.losses.last_mut().is_some_and(|last| last.what.extend(&loss.what))
                {
                    self.untold.losses.push(loss);
                }
                let is_new = !self.lost.contains(&known);
                if is_new {
                    self.first_put[position] = None;
                }
                // A run of lost blocks is one range: what every entry is held against stays short.
                if is_new && !self.lost.last_mut().is_some_and(|last| last.0 == position && last.1.extend(&known.1)) {
                    self.lost.push(known);
                }
            }
        }
    }

    /// Takes note of puts that come behind what is lost. One that goes by unseen makes more doubtful, and nothing wrong.
    fn look_for_puts(&mut self) {
        if self.lost.is_empty() {
            return;
        }
        for (put, cursor) in self.first_put.iter_mut().zip(&self.cursors) {
            if put.is_none() && matches!(cursor.head(), Some(Item::Put(_))) {
                *put = cursor.peek().cloned();
            }
        }
    }

    /// Whether what is lost may have changed this entry, or took its content.
    fn is_doubtful(&self, position: usize, entry: &Entry) -> bool {
        self.lost.iter().any(|(tree, lost)| match lost {
            Lost::Put(path) => *tree == position && *path == entry.path,
            Lost::Range { from, to } => {
                let is_within = *from <= entry.path && to.as_ref().is_none_or(|to| entry.path < *to);
                // A put of that tree takes away what is above it and no directory.
                let is_above = entry.entry_type != EntryType::Directory && from.is_below(&entry.path);
                let first_put = self.first_put[*tree].as_ref();
                let is_below = lost_above(&entry.path, from, to.as_ref())
                    .any(|above| first_put.is_none_or(|put| !put.is_below(&above)));
                *tree > position && (is_within || is_above || is_below)
            }
        })
    }

    /// Moves to the first entry whose path is `path` or behind it.
    pub(crate) fn seek(&mut self, path: &EntryPath) -> Result<()> {
        self.pending = None;
        self.kills.clear();
        // Nothing is known after an error.
        let (sought, known) = std::mem::take(&mut self.above);
        let shared = sought.as_bytes().iter().zip(path.as_bytes()).take_while(|(sought, this)| sought == this).count();
        let mut above = Vec::new();
        for (depth, ancestor) in path.ancestors().enumerate() {
            let last = match known.get(depth) {
                // The slash behind it is shared, too.
                Some(&known) if ancestor.as_bytes().len() < shared => known,
                _ => self.last_without_directory(&ancestor)?,
            };
            above.push(last);
            self.kills.extend(last.map(|position| (ancestor, position)));
        }
        // What is lost is come upon again on the way to every path.
        if !self.cursors.iter().any(TreeCursor::has_losses) {
            self.above = (path.clone(), above);
        }
        self.cursors.iter_mut().try_for_each(|cursor| cursor.seek(path))
    }

    /// The last tree that puts no directory at this path.
    fn last_without_directory(&mut self, path: &EntryPath) -> Result<Option<usize>> {
        let mut last = None;
        for (position, cursor) in self.cursors.iter_mut().enumerate() {
            cursor.seek(path)?;
            if cursor.head().is_some_and(|item| item.path() == path && item.puts_no_directory()) {
                last = Some(position);
            }
        }
        Ok(last)
    }

    /// The next entry.
    pub(crate) fn next(&mut self) -> Result<Option<(usize, Box<Entry>)>> {
        loop {
            let found = self.next_known()?;
            self.take_in_losses();
            self.look_for_puts();
            let Some((position, entry)) = found else { return Ok(None) };
            self.lost.retain(|(_, lost)| match lost {
                Lost::Range { from, to } => {
                    lost.reaches(&entry.path) || lost_above(&entry.path, from, to.as_ref()).next().is_some()
                }
                Lost::Put(_) => lost.reaches(&entry.path),
            });
            if !self.is_doubtful(position, &entry) {
                return Ok(Some((position, entry)));
            }
            self.untold.doubtful.push(*entry);
        }
    }

    /// The next of what the trees say, as far as they can be read.
    fn next_known(&mut self) -> Result<Option<(usize, Box<Entry>)>> {
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

/// The names above this one that are lost. If one of them was put as no directory, everything below it was taken away, also
/// what lies behind the range.
fn lost_above(path: &EntryPath, from: &EntryPath, to: Option<&EntryPath>) -> impl Iterator<Item = EntryPath> {
    path.ancestors().filter(move |above| from <= above && to.is_none_or(|to| above < to))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::format::entry::is_below;
    use crate::format::index::Replacement;
    use crate::format::record::RecordKind;
    use crate::format::tree::tests::{Blocks, build, build_of_small_blocks, build_with, entry};

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
        fn what_is_lost_makes_nothing_else_of_the_rest(
            raw in proptest::collection::vec(delta(), 1..5),
            lost in proptest::collection::vec(any::<proptest::sample::Index>(), 1..4),
            from in proptest::collection::vec(some_path(), 0..8),
        ) {
            let blocks = Arc::new(Blocks::default());
            let mut tag = 0;
            let deltas: Vec<Vec<Item>> = raw.into_iter().map(|(_, raw)| legal(raw, &mut tag)).collect();
            let trees: Vec<Arc<Tree>> =
                deltas.iter().map(|items| build_of_small_blocks(&blocks, items, 2)).collect();
            let expected = merged(trees.clone());
            let leaves = blocks.of_kind(RecordKind::IndexLeaf);
            prop_assume!(!leaves.is_empty());
            lost.iter().for_each(|lost| blocks.lose(*lost.get(&leaves)));
            let mut merge = Merge::tolerant(trees, Arc::from(std::path::Path::new("v"))).unwrap();
            let mut found = Vec::new();
            let mut untold = Untold::default();
            loop {
                let next = merge.next().unwrap();
                let Untold { losses, doubtful } = merge.take_lost();
                untold.losses.extend(losses);
                untold.doubtful.extend(doubtful);
                let Some((_, entry)) = next else { break };
                found.push((text(&entry.path), entry.ino));
            }
            prop_assert!(!untold.losses.is_empty());
            // From any path on, too, nothing comes that would not have come.
            for from in from {
                merge.seek(&EntryPath::parse(from.as_bytes()).unwrap()).unwrap();
                for _ in 0..3 {
                    let Some((_, entry)) = merge.next().unwrap() else { break };
                    let found = (text(&entry.path), entry.ino);
                    prop_assert!(expected.contains(&found), "{:?} of {:?}", found, expected);
                }
            }
            // Nothing comes that would not have come.
            prop_assert!(found.iter().all(|entry| expected.contains(entry)), "{:?} of {:?}", found, expected);
            // And of what does not, it is said.
            let is_told = |path: &EntryPath| {
                let in_range = untold.losses.iter().any(|loss| match &loss.what {
                    Lost::Range { from, to } => from <= path && to.as_ref().is_none_or(|to| path < to),
                    Lost::Put(_) => false,
                });
                in_range || untold.doubtful.iter().any(|entry| entry.path == *path)
            };
            for entry in &untold.doubtful {
                let explains = |loss: &Loss| match &loss.what {
                    Lost::Range { from, to } => {
                        let within = |path: &EntryPath| from <= path && to.as_ref().is_none_or(|to| path < to);
                        from.is_below(&entry.path) || within(&entry.path) || entry.path.ancestors().any(|a| within(&a))
                    }
                    Lost::Put(_) => false,
                };
                prop_assert!(untold.losses.iter().any(explains), "{}", text(&entry.path));
            }
            for (name, _) in expected.iter().filter(|entry| !found.contains(entry)) {
                prop_assert!(is_told(&EntryPath::parse(name.as_bytes()).unwrap()), "{}", name);
            }
        }

        #[test]
        fn whoever_seeks_finds_what_whoever_reads_all_finds(
            raw in proptest::collection::vec(delta(), 1..5),
            steps in proptest::collection::vec((some_path(), 0_usize..4), 1..16),
        ) {
            let blocks = Arc::new(Blocks::default());
            let mut tag = 0;
            let trees: Vec<Arc<Tree>> =
                raw.into_iter().map(|(_, raw)| build_of_small_blocks(&blocks, &legal(raw, &mut tag), 2)).collect();
            let all = merged(trees.clone());
            let mut merge = Merge::new(trees, Arc::from(std::path::Path::new("v"))).unwrap();
            for (from, count) in steps {
                let from = EntryPath::parse(from.as_bytes()).unwrap();
                let expected = all.iter().filter(|(path, _)| EntryPath::parse(path.as_bytes()).unwrap() >= from);
                merge.seek(&from).unwrap();
                for expected in expected.map(Some).chain([None]).take(count) {
                    let found = merge.next().unwrap().map(|(_, entry)| (text(&entry.path), entry.ino));
                    prop_assert_eq!(found.as_ref(), expected);
                }
            }
        }

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
    fn what_lay_below_a_name_that_is_lost_is_doubtful_behind_the_lost_part_too() {
        let blocks = Arc::new(Blocks::default());
        let older = build(&blocks, &[Item::Put(Box::new(entry("d/x/y", EntryType::File, 1)))]);
        // In blocks of two items: a file in the place of the directory, and behind it what else goes.
        let path = |path: &str| EntryPath::parse(path.as_bytes()).unwrap();
        let file = Item::Put(Box::new(entry("d", EntryType::File, 2)));
        let known = blocks.of_kind(RecordKind::IndexLeaf).len();
        let items = [Item::Delete(path("a")), file, Item::Delete(path("d/a")), Item::Delete(path("e"))];
        let later = build_of_small_blocks(&blocks, &items, 2);
        blocks.lose(blocks.of_kind(RecordKind::IndexLeaf)[known]);
        let mut merge = Merge::tolerant(vec![older, later], Arc::from(std::path::Path::new("v"))).unwrap();
        assert!(merge.next().unwrap().is_none());
        let doubtful: Vec<String> = merge.take_lost().doubtful.iter().map(|entry| text(&entry.path)).collect();
        assert_eq!(doubtful, ["d/x/y"]);
    }

    #[test]
    fn what_is_above_many_names_is_looked_for_once() {
        let names = ["a", "a/b", "a/b/c", "a/b/c/1", "a/b/c/2", "a/b/c/3", "a/b/d", "a/b/d/1"];
        let items = names.map(|name| Item::Put(Box::new(entry(name, EntryType::Directory, 1))));
        let blocks = Arc::new(Blocks::default());
        let trees = vec![build_of_small_blocks(&blocks, &items, 1), build_of_small_blocks(&blocks, &items, 1)];
        let levels = usize::from(trees[0].head().height) + 1;
        let mut merge = Merge::new(trees, Arc::from(std::path::Path::new("v"))).unwrap();
        let mut reads_to = |name: &str| {
            blocks.take_reads();
            merge.seek(&EntryPath::parse(name.as_bytes()).unwrap()).unwrap();
            blocks.take_reads()
        };
        assert!((3 * 2..=4 * 2 * levels).contains(&reads_to("a/b/c/1")), "each in a leaf of its own");
        assert!((2..=2 * levels).contains(&reads_to("a/b/c/3")));
        assert!((2..=2 * levels).contains(&reads_to("a/b/c/2")));
        assert!((2 * 2..=2 * 2 * levels).contains(&reads_to("a/b/d/1")), "one directory is another");
    }

    #[test]
    fn what_could_not_be_read_above_one_name_is_not_taken_for_read_at_the_next() {
        let file = |name: &str| Item::Put(Box::new(entry(name, EntryType::File, 1)));
        let blocks = Arc::new(Blocks::default());
        let older = build(&blocks, &["d/1", "d/2", "e"].map(file));
        let later = build_of_small_blocks(&blocks, &["c", "d", "e"].map(file), 1);
        let lost = blocks.of_kind(RecordKind::IndexLeaf)[2];
        blocks.lose(lost);
        let vault: Arc<std::path::Path> = Arc::from(std::path::Path::new("v"));
        let path = |name: &str| EntryPath::parse(name.as_bytes()).unwrap();
        let mut strict = Merge::new(vec![older.clone(), later.clone()], vault.clone()).unwrap();
        let mut tolerant = Merge::tolerant(vec![older, later], vault).unwrap();
        for name in ["d/1", "d/2", "d/1"] {
            assert!(strict.seek(&path(name)).is_err());
            tolerant.seek(&path(name)).unwrap();
            let next = tolerant.next().unwrap().map(|(_, entry)| text(&entry.path));
            assert_eq!(next.as_deref(), Some("e"), "a file may have taken the place of its directory");
            assert_eq!(tolerant.take_lost().doubtful[0].path, path(name));
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
