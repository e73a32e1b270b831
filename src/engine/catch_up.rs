//! What did other writers do to the entries that this run took for unchanged?
//!
//! A run compares its sources with the snapshot that is the newest when it begins, and stores nothing for an entry that is
//! the same. If others commit before it does, their deltas apply before the run's own. An entry that they touched would
//! then not be as this run found it; a second delta puts it there again, as it was. And a name that the run deletes,
//! because its base had it and the sources do not, is put again if another writer stored it meanwhile: what others added
//! stays.
//!
//! Memory: a bit for each entry of the base that lies in the sources, and the blocks of the trees that are walked.

use std::path::Path;
use std::sync::Arc;

use crate::engine::compare::{BaseWalk, Before, Ordinals};
use crate::engine::resolve::SegmentUnion;
use crate::engine::run::Run;
use crate::engine::segment::SegmentWriter;
use crate::engine::state::State;
use crate::error::Result;
use crate::format::commit::{Commit, TreeRef};
use crate::format::entry::{Entry, EntryPath, EntryType};
use crate::format::index::{BlockRef, Item};
use crate::format::merge::Merge;
use crate::format::tree::{Tree, TreeCursor, TreeWriter};

/// What a run left out because its base has it, as far as it must know that to catch up with others.
#[derive(Default)]
pub(crate) struct Skipped {
    /// The trees of the run's base.
    pub(crate) trees: Vec<Arc<Tree>>,
    /// Where the base was compared with the sources, as [`BaseWalk`] takes it.
    pub(crate) places: Vec<EntryPath>,
    /// Which of its entries there were taken for unchanged.
    pub(crate) unchanged: Ordinals,
    /// The run's delta has deletes.
    pub(crate) deletes: bool,
}

/// Writes the second delta of a run, if it needs one; answers its head and the bytes of its blocks.
///
/// - `newest`: the commit that the run's own will follow; COMMIT is held;
/// - `own`: the head of the run's delta.
pub(crate) fn second_delta(
    run: &Run<'_>,
    base: &State,
    newest: &Commit,
    skipped: &Skipped,
    own: &BlockRef,
    segment: &SegmentWriter,
) -> Result<Option<(BlockRef, u64)>> {
    if skipped.unchanged.is_empty() && !skipped.deletes {
        return Ok(None);
    }
    let between = deltas_between(base, newest)?;
    if !touches(&between, &skipped.places)? {
        return Ok(None);
    }
    let own = Tree::open(Arc::clone(&base.reader) as _, segment.salt(), own)?;
    let mut trees = skipped.trees.clone();
    trees.extend(between.iter().cloned());
    let mut union = SegmentUnion::with_own(segment.salt(), &trees, Arc::clone(&base.vault));
    let mut writer = TreeWriter::default();
    let mut count = 0_u64;
    let mut put = |tree: usize, mut entry: Box<Entry>| -> Result<()> {
        union.adopt(tree, &mut entry)?;
        count += 1;
        let mut sink = segment;
        writer.push(&Item::Put(entry), &mut sink)
    };

    let mut walk = BaseWalk::new(base.merge(&skipped.trees)?, skipped.places.clone());
    let mut touched = Touched::new(&between)?;
    let mut theirs = Theirs::new(&between, Arc::new(own), &base.vault)?;
    while let Some(Before { ordinal, tree, entry }) = walk.next()? {
        run.check()?;
        // Both are told of every entry, since they walk along.
        let was_touched = touched.is(&entry)?;
        let stored_by_them = theirs.instead_of_a_delete(&entry.path)?;
        if skipped.unchanged.contains(ordinal) {
            if was_touched {
                put(tree, entry)?;
            }
        } else if let Some((tree, entry)) = stored_by_them {
            put(skipped.trees.len() + tree, entry)?;
        }
    }
    if count == 0 {
        return Ok(None);
    }
    let (segments, records) = union.finish();
    let mut sink = segment;
    writer.finish(segments, records, Vec::new(), &mut sink).map(Some)
}

/// The deltas of every commit after the base, in the order they apply. Commits are asked one after another: the newest
/// alone may have a full index in the place of some of them.
fn deltas_between(base: &State, newest: &Commit) -> Result<Vec<Arc<Tree>>> {
    let mut commits = Vec::new();
    let mut next = Some(newest.clone());
    while let Some(commit) = next.filter(|commit| commit.generation > base.commit.generation) {
        next = base.previous(&commit)?;
        commits.push(commit);
    }
    let mut trees = Vec::new();
    for commit in commits.iter().rev() {
        let own = |tree: &&TreeRef| tree.generation == commit.generation;
        for tree in commit.deltas.iter().filter(own) {
            trees.push(base.tree(commit, tree)?);
        }
    }
    Ok(trees)
}

/// Whether any of these deltas says anything of what is in these places. Runs side by side mostly store different trees:
/// then a look into each is all there is to do.
fn touches(between: &[Arc<Tree>], places: &[EntryPath]) -> Result<bool> {
    for tree in between {
        let mut cursor = TreeCursor::new(Arc::clone(tree))?;
        for place in places {
            let overlaps = |path: &EntryPath| path == place || path.is_below(place) || place.is_below(path);
            if tree.head().replacements.iter().any(|r| EntryPath::parse(&r.path).is_ok_and(|path| overlaps(&path))) {
                return Ok(true);
            }
            // What stands above a place may be a file now, which takes away what was below.
            for ancestor in place.ancestors() {
                cursor.seek(&ancestor)?;
                if cursor.peek() == Some(&ancestor) {
                    return Ok(true);
                }
            }
            cursor.seek(place)?;
            if cursor.peek().is_some_and(overlaps) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Tells of entries, in ascending order, whether some deltas touch them: put or delete them, take them away with a subtree,
/// or put what cannot be beside them.
struct Touched {
    trees: Vec<Arc<Tree>>,
    cursors: Vec<TreeCursor>,
    /// Where, above the current path, they put what is no directory.
    kills: Vec<EntryPath>,
}

impl Touched {
    fn new(trees: &[Arc<Tree>]) -> Result<Self> {
        let cursors = trees.iter().cloned().map(TreeCursor::new).collect::<Result<_>>()?;
        Ok(Self { trees: trees.to_vec(), cursors, kills: Vec::new() })
    }

    fn is(&mut self, entry: &Entry) -> Result<bool> {
        let path = &entry.path;
        let mut touched = self.trees.iter().any(|tree| tree.head().replaces(path));
        for cursor in &mut self.cursors {
            while cursor.peek().is_some_and(|next| next <= path) {
                let Some(item) = cursor.next()? else { break };
                touched |= item.path() == path;
                if let Item::Put(put) = item
                    && put.entry_type != EntryType::Directory
                {
                    self.kills.push(put.path);
                }
            }
            // A put below what is no directory takes that away. A delete there does not; one put too many does no harm.
            let is_below = cursor.peek().is_some_and(|next| next.is_below(path));
            touched |= is_below && entry.entry_type != EntryType::Directory;
        }
        self.kills.retain(|kill| path == kill || path.is_below(kill));
        touched |= self.kills.iter().any(|kill| path.is_below(kill));
        Ok(touched)
    }
}

/// What other writers stored under names that this run deletes.
struct Theirs {
    merge: Merge,
    next: Option<(usize, Box<Entry>)>,
    own: TreeCursor,
    /// Where, above the current path, this run puts what is no directory: nothing can be below.
    kills: Vec<EntryPath>,
}

impl Theirs {
    fn new(between: &[Arc<Tree>], own: Arc<Tree>, vault: &Arc<Path>) -> Result<Self> {
        let mut merge = Merge::new(between.to_vec(), Arc::clone(vault))?;
        let next = merge.next()?;
        Ok(Self { merge, next, own: TreeCursor::new(own)?, kills: Vec::new() })
    }

    /// Their entry of this name, with its tree among theirs, if this run deletes the name and they put it.
    fn instead_of_a_delete(&mut self, path: &EntryPath) -> Result<Option<(usize, Box<Entry>)>> {
        let mut is_deleted = false;
        while self.own.peek().is_some_and(|next| next <= path) {
            match self.own.next()? {
                Some(Item::Delete(deleted)) => is_deleted = deleted == *path,
                Some(Item::Put(put)) if put.entry_type != EntryType::Directory => self.kills.push(put.path),
                _ => {}
            }
        }
        self.kills.retain(|kill| path.is_below(kill));
        while self.next.as_ref().is_some_and(|(_, entry)| entry.path < *path) {
            self.next = self.merge.next()?;
        }
        let is_theirs = self.next.as_ref().is_some_and(|(_, entry)| entry.path == *path);
        if !is_deleted || !is_theirs || !self.kills.is_empty() {
            return Ok(None);
        }
        let following = self.merge.next()?;
        Ok(std::mem::replace(&mut self.next, following))
    }
}
