//! Which commits are left, in which order, and what of their history is lost?
//!
//! A commit that no other one names as its predecessor is a *head*. The head that the newest root names is the state; if
//! there is no such root, or its commit record is lost, the latest head is taken for it: by generation, then time, then
//! place. The chain of the state comes last in the order, what other heads hold before it, and heads of trees whose runs
//! have no commit record any more are snapshots of what those runs had stored.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::engine::commit::about_this_run;
use crate::engine::recover::survey::{HeadPlace, Survey};
use crate::engine::run::Run;
use crate::engine::state::MetaReader;
use crate::engine::vault::FIRST_GENERATION;
use crate::error::Result;
use crate::format::commit::{Commit, SNAPSHOT_PARTIAL, SNAPSHOT_RECOVERED, SnapshotRecord, TreeRef};
use crate::format::header::{CommitPlace, Root};
use crate::format::index::{SegmentSalt, encode_onto};
use crate::format::record::{RecordKind, Salt};
use crate::format::tree::{BlockSource, Tree};
use crate::primitives::units::FileOffset;

/// A vault as long as it is may be read so many times over for records that turn out not to open.
const READS_IN_VAIN: u64 = 4;
/// So many places that do not open are named.
const UNOPENED_SHOWN: usize = 16;
/// Reading so much in vain is no matter in any vault.
const ALWAYS_IN_VAIN: u64 = 1 << 30;
/// Trees that the rebuilt commits may list, all together. A commit of this program lists some dozens; a hostile one of a few
/// KiB can list 4,095 under as many generations, of which each would be rebuilt with all before it.
const MAX_REBUILT_TREES: usize = 1 << 16;

/// The commits and heads of trees that open.
#[derive(Default)]
pub(super) struct Found {
    commits: Vec<FoundCommit>,
    trees: Vec<FoundTree>,
    by_digest: HashMap<[u8; 32], usize>,
    /// Places that look like a commit record or the head of a tree and do not open.
    unopened: Vec<HeadPlace>,
    /// So much was read for records that did not open that the rest was left alone.
    pub(super) gave_up: bool,
}

struct FoundCommit {
    place: CommitPlace,
    commit: Commit,
}

struct FoundTree {
    salt: SegmentSalt,
    place: HeadPlace,
    tree: Tree,
}

impl Found {
    /// Opens what the survey has found. Salts that come to light on the way open more.
    pub(super) fn open(run: &Run<'_>, survey: &mut Survey, reader: &Arc<MetaReader>) -> Result<Self> {
        let mut found = Self::default();
        let mut in_vain = 0;
        let limit = survey.file_len.saturating_mul(READS_IN_VAIN).max(ALWAYS_IN_VAIN);
        let mut closed = survey.heads.clone();
        loop {
            let mut has_learnt = false;
            let mut still_closed = Vec::new();
            for head in closed {
                run.check()?;
                run.counters.tick();
                let Some(salt) = survey.salt(head.segment).cloned() else {
                    still_closed.push(head);
                    continue;
                };
                if in_vain > limit {
                    found.gave_up = true;
                    continue;
                }
                match found.take(head, salt, reader) {
                    Some(salts) => salts.iter().for_each(|salt| has_learnt |= survey.learn(salt)),
                    None => {
                        in_vain += u64::from(head.block.sealed_len);
                        found.unopened.push(head);
                    }
                }
            }
            closed = still_closed;
            if !has_learnt {
                break;
            }
        }
        found.unopened.append(&mut closed);
        Ok(found)
    }

    /// Opens one head; answers the segments that it names.
    fn take(&mut self, head: HeadPlace, salt: SegmentSalt, reader: &Arc<MetaReader>) -> Option<Vec<SegmentSalt>> {
        if head.kind == RecordKind::Commit {
            let (commit, digest) = reader.commit_at(&salt, &head.block).ok()?;
            let segments = commit.segments.clone();
            let place = CommitPlace {
                offset: FileOffset(head.block.offset),
                sealed_len: head.block.sealed_len,
                number: head.block.number,
                salt: Salt(salt.salt),
                digest,
            };
            // A second place of one record is a copy.
            if self.by_digest.insert(digest, self.commits.len()).is_none() {
                self.commits.push(FoundCommit { place, commit });
            }
            return Some(segments);
        }
        let tree = Tree::open(Arc::clone(reader) as Arc<dyn BlockSource>, salt.clone(), &head.block).ok()?;
        let segments = tree.head().segments.clone();
        self.trees.push(FoundTree { salt, place: head, tree });
        Some(segments)
    }

    /// Whether nothing opened at all.
    pub(super) fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.trees.is_empty()
    }

    /// What may be of a later state than any that was found, where no root says which the newest is. Offsets in `known` are
    /// accounted for.
    fn unopened_ones(&self, known: &HashSet<u64>) -> Vec<String> {
        let trees = self.commits.iter().flat_map(|found| found.commit.full.iter().chain(&found.commit.deltas));
        let listed: HashSet<u64> = trees.map(|tree| tree.head.offset).collect();
        let mut places: Vec<&HeadPlace> = self
            .unopened
            .iter()
            .filter(|place| !known.contains(&place.block.offset) && !listed.contains(&place.block.offset))
            .collect();
        places.sort_unstable_by_key(|place| place.block.offset);
        let words = |place: &&HeadPlace| {
            let what = if place.kind == RecordKind::Commit { "a commit record" } else { "the head of an index" };
            format!("what looks like {what} at byte {}: it does not open", place.block.offset)
        };
        let mut told: Vec<String> = places.iter().take(UNOPENED_SHOWN).map(words).collect();
        if places.len() > UNOPENED_SHOWN {
            told.push(format!("{} more such places", places.len() - UNOPENED_SHOWN));
        }
        told
    }

    /// The commit that a root names.
    fn named_by(&self, root: &Root) -> Option<usize> {
        let at = *self.by_digest.get(&root.commit().digest)?;
        (self.commits[at].commit.generation == root.generation()).then_some(at)
    }

    /// The commit before, if it was found.
    fn before(&self, at: usize) -> Option<usize> {
        let previous = self.commits[at].commit.previous.as_ref()?;
        let before = *self.by_digest.get(&previous.digest)?;
        // Generations fall along a chain, so that it ends.
        (self.commits[before].commit.generation == previous.generation).then_some(before)
    }

    /// A commit and all before it that were found, the newest first.
    fn chain(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(Some(from), |&at| self.before(at))
    }

    /// The number that the snapshot of an earlier generation should have; 0 if there is no telling. Each commit but the first
    /// makes one, until a recovery leaves generations out: so a commit before it must be as far ahead of its number.
    fn number_at(&self, later: &Commit, generation: u64) -> u64 {
        let number = |commit: &Commit| commit.snapshot.as_ref().map_or(0, |snapshot| snapshot.number);
        let ahead = later.generation.checked_sub(number(later));
        let is_steady = ahead == Some(FIRST_GENERATION)
            || self.commits.iter().any(|FoundCommit { commit, .. }| {
                commit.generation < generation && commit.generation.checked_sub(number(commit)) == ahead
            });
        if is_steady { number(later).saturating_sub(later.generation - generation) } else { 0 }
    }

    /// The latest commit that leads back to this one.
    fn latest_behind(&self, earlier: usize) -> Option<usize> {
        let generation = self.commits[earlier].commit.generation;
        let is_behind = |at: usize| {
            let later = self.chain(at).take_while(|&at| self.commits[at].commit.generation > generation).last();
            later.is_some_and(|first| self.before(first) == Some(earlier))
        };
        (0..self.commits.len()).filter(|&at| is_behind(at)).max_by_key(|&at| self.age(at))
    }

    /// Later ones sort behind earlier ones.
    fn age(&self, at: usize) -> (u64, i64, u32, u64) {
        let FoundCommit { place, commit } = &self.commits[at];
        let (secs, nanos) = commit.snapshot.as_ref().map_or((i64::MIN, 0), |made| (made.time_secs, made.time_nanos));
        (commit.generation, secs, nanos, place.offset.0)
    }
}

/// Where a commit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The state, or one that leads to it.
    Chain,
    /// Another head, or one that leads to it.
    OtherHead,
    /// Its record is lost; a later one has all its trees.
    Rebuilt,
    /// The head of a tree whose run has no commit record, and that no commit lists.
    Tree,
}

/// A commit that is to be kept.
pub(super) struct Kept {
    pub(super) origin: Origin,
    /// Where its record is; `None` for the head of a tree.
    pub(super) place: Option<CommitPlace>,
    pub(super) generation: u64,
    /// The digest of the commit before.
    pub(super) previous: Option<[u8; 32]>,
    pub(super) snapshot: Option<SnapshotRecord>,
    /// In the order they apply; a full index is the first.
    pub(super) trees: Vec<KeptTree>,
    /// Where segment headers of its run are.
    pub(super) heads: Vec<(SegmentSalt, u64)>,
    /// It is not what its record says: it has another number, or other trees of the same content.
    pub(super) is_other: bool,
}

/// A tree of a commit.
#[derive(Clone)]
pub(super) struct KeptTree {
    pub(super) salt: SegmentSalt,
    pub(super) tree: TreeRef,
    pub(super) is_full: bool,
}

impl KeptTree {
    /// What names it among all trees.
    pub(super) fn id(&self) -> (u64, u64) {
        (self.tree.head.offset, self.tree.head.number)
    }
}

/// What is left of a vault's history.
pub(super) struct History {
    /// The oldest first; the last one is the state.
    pub(super) kept: Vec<Kept>,
    /// What is not part of the vault as its newest root has it, though it opens; only if that root stands.
    pub(super) beside: Vec<Kept>,
    /// What is known to be lost, in words.
    pub(super) lost: Vec<String>,
    /// The newest root leads to the state, and from there to the first commit.
    pub(super) is_sound: bool,
    pub(super) highest_snapshot: u64,
    pub(super) highest_generation: u64,
}

impl History {
    /// Puts what was found in order.
    ///
    /// - `root`: the newest that verifies, if there is one;
    /// - `is_one_bad`: the other place holds none that does, so that it may have held a newer one;
    /// - `command_line`: of this run, for snapshots that no commit record is left of.
    pub(super) fn new(found: &Found, root: Option<&Root>, is_one_bad: bool, command_line: &[String]) -> Self {
        let mut lost = Vec::new();
        let named = root.and_then(|root| found.named_by(root));
        if let (Some(root), None) = (root, named) {
            let (generation, at) = (root.generation(), root.commit().offset.0);
            lost.push(format!("the commit of generation {generation}, the newest: its record at byte {at} is lost"));
        }
        // A root is written into one place and synced before it is written into the other.
        let later = named.filter(|_| is_one_bad).and_then(|named| found.latest_behind(named));
        let state = later.or(named).or_else(|| (0..found.commits.len()).max_by_key(|&at| found.age(at)));
        let chain: Vec<usize> = state.map(|state| found.chain(state).collect()).unwrap_or_default();
        let on_chain: HashSet<usize> = chain.iter().copied().collect();
        let is_complete = chain.last().is_some_and(|&oldest| found.commits[oldest].commit.previous.is_none());
        let is_sound = named.is_some() && later.is_none() && is_complete;
        // What leads to nothing beside a history that is whole is what a writer has left who was killed.
        let others = (0..found.commits.len()).filter(|at| !is_sound && !on_chain.contains(at));
        let mut gaps = HashSet::new();
        let mut gaps_at: HashSet<u64> = root.iter().map(|root| root.commit().offset.0).collect();
        for found_at in chain.iter().copied().chain(others) {
            let Some(previous) = &found.commits[found_at].commit.previous else { continue };
            // The first commit of all is that of an empty vault: nothing is lost with it.
            let is_first = previous.generation == FIRST_GENERATION;
            if found.before(found_at).is_some() {
                continue;
            }
            gaps_at.insert(previous.block.offset);
            if !is_first && gaps.insert(previous.digest) {
                let (generation, at) = (previous.generation, previous.block.offset);
                lost.push(format!("the commit of generation {generation}: its record at byte {at} is lost"));
            }
        }
        if named.is_none() {
            lost.extend(found.unopened_ones(&gaps_at));
        }
        let mut history = Self {
            kept: Vec::new(),
            beside: Vec::new(),
            lost,
            is_sound,
            highest_snapshot: found.commits.iter().map(|found| found.commit.highest_snapshot).max().unwrap_or(0),
            highest_generation: found.commits.iter().map(|found| found.commit.generation).max().unwrap_or(0),
        };
        // Each of the commits that are known to have been there has given a number to a snapshot at most.
        let unseen = root.map_or(0, Root::generation).saturating_sub(history.highest_generation);
        history.highest_snapshot = history.highest_snapshot.saturating_add(unseen);
        history.highest_generation += unseen;
        history.arrange(found, &chain, &on_chain, command_line);
        history
    }

    fn arrange(&mut self, found: &Found, chain: &[usize], on_chain: &HashSet<usize>, command_line: &[String]) {
        let mut numbers: HashSet<u64> =
            chain.iter().filter_map(|&at| found.commits[at].commit.snapshot.as_ref().map(|made| made.number)).collect();
        let mut others: Vec<usize> = (0..found.commits.len())
            .filter(|at| !on_chain.contains(at) && found.commits[*at].commit.snapshot.is_some())
            .collect();
        others.sort_by_key(|&at| found.age(at));
        // A commit that was written anew by an earlier recovery: the record that it stands for is no snapshot of its own.
        let mut runs: HashSet<_> = chain.iter().filter_map(|&at| run_of(&found.commits[at].commit)).collect();
        others.retain(|&at| run_of(&found.commits[at].commit).is_none_or(|made| runs.insert(made)));
        let mut others: Vec<Kept> = others.into_iter().map(|at| kept(&found.commits[at], Origin::OtherHead)).collect();
        if !self.is_sound {
            let rebuilt = self.rebuilt(found, command_line);
            others.extend(rebuilt);
            others.sort_by_key(|other| other.generation);
        }
        others.extend(self.lost_runs(found, command_line));
        for other in &mut others {
            let Some(snapshot) = &mut other.snapshot else { continue };
            snapshot.flags |= SNAPSHOT_RECOVERED;
            if snapshot.number == 0 || !numbers.insert(snapshot.number) {
                self.highest_snapshot = self.highest_snapshot.saturating_add(1);
                snapshot.number = self.highest_snapshot;
                numbers.insert(snapshot.number);
                other.is_other = true;
            }
        }
        let own = chain.iter().rev().map(|&at| kept(&found.commits[at], Origin::Chain));
        if self.is_sound {
            self.kept = own.collect();
            self.beside = others;
            return;
        }
        // Each behind those of the chain that are older. The state stays the last, unless there is nothing in it.
        let generations: Vec<u64> = chain.iter().rev().map(|&at| found.commits[at].commit.generation).collect();
        let is_empty = |state: &usize| {
            found.commits[*state].commit.full.is_none() && found.commits[*state].commit.deltas.is_empty()
        };
        let position = |other: &Kept| {
            let older = generations.partition_point(|&generation| generation < other.generation);
            if chain.first().is_none_or(is_empty) { generations.len() } else { older.min(generations.len() - 1) }
        };
        let mut others = others.into_iter().peekable();
        for (at, own) in own.enumerate() {
            self.kept.extend(std::iter::from_fn(|| others.next_if(|other| position(other) <= at)));
            self.kept.push(own);
        }
        self.kept.extend(others);
    }

    /// Commits whose record is lost while a later one lists the trees that they had: up to the generation of a commit, those
    /// are its state.
    fn rebuilt(&mut self, found: &Found, command_line: &[String]) -> Vec<Kept> {
        let listed = |commit: &Commit, tree: &TreeRef| commit.deltas.iter().any(|other| other.head == tree.head);
        let mut of_generation: HashMap<u64, Vec<&Commit>> = HashMap::new();
        let mut states = HashSet::new();
        for FoundCommit { commit, .. } in &found.commits {
            of_generation.entry(commit.generation).or_default().push(commit);
            states.insert(commit.full.iter().chain(&commit.deltas).map(|tree| tree.head.offset).collect::<Vec<u64>>());
        }
        let mut rebuilt: BTreeMap<(u64, u64), Kept> = BTreeMap::new();
        let mut room = MAX_REBUILT_TREES;
        // What deltas say first: a full index may be of the same state.
        'commits: for (is_full, later) in
            [false, true].into_iter().flat_map(|full| found.commits.iter().map(move |at| (full, at)))
        {
            let trees = &kept(later, Origin::Rebuilt).trees;
            // The latest first: where there is no room for all, those are kept.
            for (at, last) in trees.iter().enumerate().rev().filter(|(_, tree)| tree.is_full == is_full) {
                let generation = last.tree.generation;
                // Two deltas of one generation are of one commit.
                let is_half = trees.get(at + 1).is_some_and(|next| next.tree.generation == generation);
                if is_half || generation >= later.commit.generation {
                    continue;
                }
                let key = (generation, last.tree.head.offset);
                if rebuilt.contains_key(&key) {
                    continue;
                }
                let Some(rest) = room.checked_sub(at + 1) else {
                    self.lost
                        .push("earlier commits: there are too many to rebuild from what later ones list".to_owned());
                    break 'commits;
                };
                let mut of_this = of_generation.get(&generation).into_iter().flatten();
                if of_this.any(|commit| is_full || listed(commit, &last.tree))
                    || is_full && rebuilt.range((generation, 0)..=(generation, u64::MAX)).next().is_some()
                    || states.contains(&trees[..=at].iter().map(|tree| tree.tree.head.offset).collect::<Vec<u64>>())
                {
                    continue;
                }
                room = rest;
                let snapshot = SnapshotRecord {
                    number: found.number_at(&later.commit, generation),
                    ..about_this_run(command_line, &[])
                };
                let rebuilt_commit = Kept {
                    origin: Origin::Rebuilt,
                    place: None,
                    generation,
                    previous: None,
                    snapshot: Some(snapshot),
                    trees: trees[..=at].to_vec(),
                    heads: Vec::new(),
                    is_other: true,
                };
                rebuilt.insert(key, rebuilt_commit);
            }
        }
        rebuilt.into_values().collect()
    }

    /// Snapshots of what runs had stored that have no commit record any more, and that no other lists.
    fn lost_runs(&self, found: &Found, command_line: &[String]) -> Vec<Kept> {
        let mut committed: HashSet<[u8; 32]> = found.commits.iter().map(|found| found.place.salt.0).collect();
        for FoundCommit { commit, .. } in &found.commits {
            let trees = commit.full.iter().chain(&commit.deltas);
            committed.extend(trees.map(|tree| commit.segments[tree.segment as usize].salt));
        }
        // A tree that its own run's commit does not list was given up by that run.
        let is_lost = |found: &&FoundTree| !committed.contains(&found.salt.salt) && found.tree.head().puts > 0;
        found.trees.iter().filter(is_lost).map(|found| self.lost_run(found, command_line)).collect()
    }

    fn lost_run(&self, found: &FoundTree, command_line: &[String]) -> Kept {
        let FoundTree { salt, place, tree } = found;
        let generation = self.highest_generation.max(1);
        let snapshot = SnapshotRecord {
            files: tree.head().puts,
            bytes: tree.head().content_bytes,
            flags: SNAPSHOT_PARTIAL,
            ..about_this_run(command_line, &[])
        };
        let stored_bytes = u64::from(place.block.sealed_len);
        let tree = TreeRef { segment: 0, head: place.block, generation, stored_bytes };
        Kept {
            origin: Origin::Tree,
            place: None,
            generation,
            previous: None,
            snapshot: Some(snapshot),
            trees: vec![KeptTree { salt: salt.clone(), tree, is_full: false }],
            heads: Vec::new(),
            is_other: true,
        }
    }
}

/// What tells the run that made a commit: its last tree, and what it says of itself, but for a number that was exchanged.
fn run_of(commit: &Commit) -> Option<(Option<u64>, Vec<u8>)> {
    let told = SnapshotRecord { number: 0, flags: 0, ..commit.snapshot.clone()? };
    let mut bytes = Vec::new();
    encode_onto(&told, &mut bytes);
    Some((commit.deltas.last().or(commit.full.as_ref()).map(|tree| tree.head.offset), bytes))
}

fn kept(FoundCommit { place, commit }: &FoundCommit, origin: Origin) -> Kept {
    let salt = |segment: u32| commit.segments[segment as usize].clone();
    let tree = |tree: &TreeRef, is_full| KeptTree { salt: salt(tree.segment), tree: *tree, is_full };
    let full = commit.full.iter().map(|full| tree(full, true));
    Kept {
        origin,
        place: Some(*place),
        generation: commit.generation,
        previous: commit.previous.map(|previous| previous.digest),
        snapshot: commit.snapshot.clone(),
        trees: full.chain(commit.deltas.iter().map(|delta| tree(delta, false))).collect(),
        heads: commit.heads.iter().map(|(segment, at)| (salt(*segment), *at)).collect(),
        is_other: false,
    }
}
