//! Of each snapshot that is left: which of its trees can be read, which of its entries have all their content?
//!
//! Data records are taken from wherever the survey has found them: no table of records is needed. A full index that cannot
//! be read whole is replaced by the trees that it was made of, as long as the commit before has them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::observe::EntryErrorKind;
use crate::engine::recover::history::{History, Kept, KeptTree};
use crate::engine::recover::survey::{DataPlace, Survey};
use crate::engine::resolve::pieces;
use crate::engine::run::{Run, describe};
use crate::engine::state::MetaReader;
use crate::error::{Error, Malformation, Result};
use crate::format::commit::MAX_DELTAS;
use crate::format::entry::Entry;
use crate::format::index::{Item, RecordPlace, SegmentSalt};
use crate::format::merge::{Merge, Untold};
use crate::format::tree::{BlockSource, Loss, Lost, Tree, TreeCursor};

/// So many numbers of snapshots are written out behind what they have lost.
const NUMBERS_SHOWN: usize = 3;

/// Why an entry is lost that can be read and may have been changed.
const DOUBTFUL: &str = "what it was is lost with a part of the index";

/// The trees of all snapshots, and what became of their records.
pub(super) struct Ground<'s> {
    survey: &'s Survey,
    vault: Arc<Path>,
    trees: HashMap<(u64, u64), Opened>,
    /// By position in [`Survey::data`]: some entry needs it.
    is_wanted: Vec<bool>,
    /// By position in [`Survey::data`]: it was read, and did not open.
    bad: HashMap<usize, Malformation>,
}

/// A tree that was looked at.
struct Opened {
    /// `None`: its head cannot be read.
    tree: Option<Arc<Tree>>,
    /// All of it can be read.
    is_whole: bool,
    /// What is wrong with it, if anything is.
    why: Option<String>,
    /// What the segments of its entries are to the survey.
    segments: Vec<Option<u32>>,
    /// Some of its entries have lost content.
    has_losses: bool,
    /// The sums in its head are wrong; saving makes them again, mending does not.
    bad_sums: bool,
}

/// What of an entry's content cannot be had.
pub(super) enum Missing {
    /// It was found nowhere.
    Nowhere,
    /// It does not open.
    Bad(Malformation),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nowhere => f.write_str("a record of its content is not there any more"),
            Self::Bad(why) => write!(f, "damaged: {why}"),
        }
    }
}

impl<'s> Ground<'s> {
    /// Reads all trees of all commits; those that cannot be read whole and can be replaced are.
    pub(super) fn walk(
        run: &Run<'_>,
        survey: &'s Survey,
        reader: &Arc<MetaReader>,
        vault: Arc<Path>,
        history: &mut History,
    ) -> Result<Self> {
        let mut ground = Self {
            survey,
            vault,
            trees: HashMap::new(),
            is_wanted: vec![false; survey.data().len()],
            bad: HashMap::new(),
        };
        for kept in history.kept.iter().chain(&history.beside) {
            for tree in &kept.trees {
                if !ground.trees.contains_key(&tree.id()) {
                    let opened = ground.open(run, reader, tree)?;
                    ground.trees.insert(tree.id(), opened);
                }
            }
        }
        ground.replace_full_indexes(&mut history.kept);
        Ok(ground)
    }

    fn open(&mut self, run: &Run<'_>, reader: &Arc<MetaReader>, tree: &KeptTree) -> Result<Opened> {
        let opened = Tree::open(Arc::clone(reader) as Arc<dyn BlockSource>, tree.salt.clone(), &tree.tree.head);
        let lost = |error: &Error| Opened {
            tree: None,
            is_whole: false,
            why: Some(describe(error).1),
            segments: Vec::new(),
            has_losses: false,
            bad_sums: false,
        };
        let tree = match opened {
            Ok(tree) => Arc::new(tree),
            Err(error) => return Ok(lost(&error)),
        };
        let segments: Vec<Option<u32>> = tree.head().segments.iter().map(|salt| self.survey.segment(salt)).collect();
        let mut cursor = match TreeCursor::tolerant(Arc::clone(&tree)) {
            Ok(cursor) => cursor,
            Err(error) => return Ok(lost(&error)),
        };
        let mut why = None;
        let mut has_losses = false;
        let (mut puts, mut deletes, mut content_bytes) = (0, 0, 0_u64);
        loop {
            run.check()?;
            run.counters.tick();
            match cursor.next() {
                Ok(Some(Item::Put(entry))) => {
                    (puts, content_bytes) = (puts + 1, content_bytes.saturating_add(entry.size));
                    has_losses |= !self.want(&segments, &entry);
                }
                Ok(Some(Item::Delete(_))) => deletes += 1,
                Ok(None) => break,
                Err(error) => {
                    why = Some(describe(&error).1);
                    break;
                }
            }
        }
        if let Some(loss) = cursor.take_losses().first() {
            why.get_or_insert_with(|| describe(&loss.why).1);
        }
        // What is lost is in no sum.
        let head = tree.head();
        let bad_sums = why.is_none() && (puts, deletes, content_bytes) != (head.puts, head.deletes, head.content_bytes);
        Ok(Opened { tree: Some(tree), is_whole: why.is_none(), why, segments, has_losses, bad_sums })
    }

    /// Puts down which records an entry needs; false if some are nowhere.
    fn want(&mut self, segments: &[Option<u32>], entry: &Entry) -> bool {
        for piece in pieces(&entry.extents) {
            let places = segments[piece.segment.0 as usize].map(|segment| self.survey.places(segment, piece.number));
            let end = u64::from(piece.at) + u64::from(piece.len);
            let reaches = |at: usize| u64::from(self.survey.data()[at].place.plain_len) >= end;
            let Some(places) = places.filter(|places| places.clone().any(reaches)) else {
                // The rest of a file that is lost is not wanted for it, and a hostile extent may count billions.
                return false;
            };
            self.is_wanted[places].fill(true);
        }
        true
    }

    /// A full index stands for the commit of its generation: where it cannot be read, that commit's own trees can be.
    fn replace_full_indexes(&self, kept: &mut [Kept]) {
        for at in 0..kept.len() {
            let Some(full) = kept[at].trees.first().filter(|tree| tree.is_full && !self.is_whole(tree)).cloned() else {
                continue;
            };
            let older = &kept[..at];
            // Along the chain of digests: another head may have the same generation.
            let mut wanted = kept[at].previous;
            let source = older.iter().rev().find(|commit| {
                let is_next = commit.place.is_some_and(|place| wanted == Some(place.digest));
                if is_next && commit.generation != full.tree.generation {
                    wanted = commit.previous;
                }
                is_next && commit.generation == full.tree.generation
            });
            let Some(source) = source.filter(|source| source.trees.iter().all(|tree| self.is_whole(tree))) else {
                continue;
            };
            let mut trees = source.trees.clone();
            trees.extend(kept[at].trees.iter().skip(1).cloned());
            if trees.iter().filter(|tree| !tree.is_full).count() > MAX_DELTAS {
                continue;
            }
            kept[at].trees = trees;
            kept[at].is_other = true;
        }
    }

    fn is_whole(&self, tree: &KeptTree) -> bool {
        self.trees.get(&tree.id()).is_some_and(|opened| opened.is_whole)
    }

    /// What is wrong with indexes, each once: the generation that they are of, and why.
    pub(super) fn damaged_trees(&self, kept: &[Kept]) -> Vec<String> {
        let mut named = BTreeMap::new();
        for tree in kept.iter().flat_map(|kept| &kept.trees) {
            if let Some(why) = self.trees.get(&tree.id()).and_then(|opened| opened.why.as_ref()) {
                named.entry((tree.tree.generation, tree.id())).or_insert((tree.tree.head.offset, why));
            }
        }
        let words = |((generation, _), (at, why)): (_, (u64, &String))| {
            let _: u64 = generation;
            format!("a part of the index of generation {generation} (its head is at byte {at}): {why}")
        };
        named.into_iter().map(words).collect()
    }

    /// What nothing is lost by and no mending makes good: what heads of trees say and is not so, and tables of records
    /// that cannot be read or do not lead to the records.
    pub(super) fn left_by_mending(&self, run: &Run<'_>, kept: &[Kept]) -> Result<Vec<String>> {
        let mut seen = HashSet::new();
        let mut bad = BTreeSet::new();
        let mut elsewhere = HashMap::new();
        let trees = kept.iter().flat_map(|kept| &kept.trees);
        for kept in trees.filter(|tree| seen.insert((tree.id(), tree.is_full))) {
            run.check()?;
            let Some(Opened { tree: Some(tree), segments, bad_sums, .. }) = self.trees.get(&kept.id()) else {
                continue;
            };
            let (generation, head) = (kept.tree.generation, tree.head());
            let mut bad_field = |field| {
                let why = Malformation::Field { structure: "tree head", field };
                bad.insert((generation, "the head of an index", why.to_string()));
            };
            if *bad_sums {
                bad_field("number or size of the entries");
            }
            if kept.is_full && (head.deletes != 0 || !head.replacements.is_empty()) {
                bad_field("kind of item in a full index");
            }
            for table in &head.records {
                let why = match tree.record_table(table) {
                    Ok(places) => {
                        let segment = segments[table.segment as usize];
                        let is_wrong = |place: &RecordPlace| {
                            segment.is_some_and(|segment| self.is_misplaced(segment, *place, &mut elsewhere))
                        };
                        let wrong = places.into_iter().find(is_wrong);
                        wrong.map(|place| format!("it leads to byte {} for record {}", place.offset, place.number))
                    }
                    Err(error) => Some(describe(&error).1),
                };
                bad.extend(why.map(|why| (generation, "a table of records", why)));
            }
        }
        let words =
            |(generation, what, why)| format!("{what} of generation {generation}, though not for --output: {why}");
        Ok(bad.into_iter().map(words).collect())
    }

    /// Whether a table leads to another place than the one where a record was found that opens, or than another table.
    /// A record that was found nowhere is lost, and so are the entries that need it: that is said of them.
    fn is_misplaced(&self, segment: u32, place: RecordPlace, elsewhere: &mut HashMap<(u32, u64), RecordPlace>) -> bool {
        let places = self.survey.places(segment, place.number);
        let is_contested = places.len() > 1;
        let mut good = places.filter(|at| !self.bad.contains_key(at)).map(|at| self.survey.data()[at].place).peekable();
        if good.peek().is_none() {
            return false;
        }
        let is_there = good.any(|found| found == place);
        !is_there || is_contested && *elsewhere.entry((segment, place.number)).or_insert(place) != place
    }

    /// The records that entries need, wherever each of them seems to be.
    /// In the order of the file.
    pub(super) fn wanted(&self) -> Vec<(SegmentSalt, RecordPlace)> {
        let salts = self.survey.salts_by_segment();
        let wanted = self.survey.data().iter().zip(&self.is_wanted).filter(|(_, is_wanted)| **is_wanted);
        let mut places: Vec<(SegmentSalt, RecordPlace)> =
            wanted.filter_map(|(data, _)| Some((salts[data.segment as usize].clone()?, data.place))).collect();
        places.sort_unstable_by_key(|(_, place)| place.offset);
        places
    }

    /// The records that are wanted and have opened, one place each, by segment and number.
    pub(super) fn good(&self) -> Vec<DataPlace> {
        let mut good: Vec<DataPlace> = Vec::new();
        for (position, data) in self.survey.data().iter().enumerate() {
            let is_known =
                good.last().is_some_and(|last| (last.segment, last.place.number) == (data.segment, data.place.number));
            if self.is_wanted[position] && !self.bad.contains_key(&position) && !is_known {
                good.push(*data);
            }
        }
        good
    }

    /// Takes in which of them did not open, by their offsets.
    pub(super) fn read(&mut self, run: &Run<'_>, failed: Vec<(u64, Malformation)>) -> Result<()> {
        let mut failed: HashMap<u64, Malformation> = failed.into_iter().collect();
        for (position, data) in self.survey.data().iter().enumerate() {
            if let Some(why) = failed.remove(&data.place.offset) {
                self.bad.insert(position, why);
            }
        }
        if self.bad.is_empty() {
            return Ok(());
        }
        let ids: Vec<(u64, u64)> = self.trees.keys().copied().collect();
        for id in ids {
            let Opened { tree: Some(tree), segments, .. } = &self.trees[&id] else { continue };
            let Ok(mut cursor) = TreeCursor::tolerant(Arc::clone(tree)) else { continue };
            let mut has_losses = false;
            while let Ok(Some(item)) = cursor.next() {
                run.check()?;
                if let Item::Put(entry) = item {
                    has_losses |= self.missing_of(segments, &entry).is_some();
                }
            }
            if let Some(opened) = self.trees.get_mut(&id) {
                opened.has_losses |= has_losses;
            }
        }
        Ok(())
    }

    /// What of an entry's content cannot be had, if anything.
    fn missing_of(&self, segments: &[Option<u32>], entry: &Entry) -> Option<Missing> {
        pieces(&entry.extents).find_map(|piece| {
            let segment = segments.get(piece.segment.0 as usize).copied().flatten();
            match segment.map(|segment| self.good_place(segment, piece.number)) {
                None => Some(Missing::Nowhere),
                Some(Err(missing)) => Some(missing),
                Some(Ok(place)) if u64::from(piece.at) + u64::from(piece.len) > u64::from(place.plain_len) => {
                    Some(Missing::Bad(Malformation::Field { structure: "entry", field: "extent" }))
                }
                Some(Ok(_)) => None,
            }
        })
    }

    /// Where a record is that opened.
    fn good_place(&self, segment: u32, number: u64) -> Result<RecordPlace, Missing> {
        let mut missing = Missing::Nowhere;
        for position in self.survey.places(segment, number) {
            match self.bad.get(&position) {
                None => return Ok(self.survey.data()[position].place),
                Some(why) => missing = Missing::Bad(why.clone()),
            }
        }
        Err(missing)
    }

    /// The trees of a snapshot that its entries can be taken from: what was stored before a tree whose head is lost may
    /// have been changed by it, so that such entries are in older snapshots alone.
    pub(super) fn readable(&self, kept: &Kept) -> Vec<Arc<Tree>> {
        let mut readable = Vec::new();
        for tree in &kept.trees {
            match self.trees.get(&tree.id()).and_then(|opened| opened.tree.as_ref()) {
                Some(tree) => readable.push(Arc::clone(tree)),
                None => readable.clear(),
            }
        }
        readable
    }

    /// Whether a snapshot lacks anything.
    pub(super) fn is_troubled(&self, kept: &Kept) -> bool {
        let opened = |tree: &KeptTree| self.trees.get(&tree.id());
        kept.trees.iter().any(|tree| opened(tree).is_none_or(|opened| !opened.is_whole || opened.has_losses))
    }

    /// The entries of a snapshot that have all their content, each with the number of its tree among `trees`.
    pub(super) fn entries(&self, kept: &Kept) -> Result<Entries<'_, 's>> {
        let trees = self.readable(kept);
        let segments = trees.iter().map(|tree| self.segments_of(tree)).collect();
        let merge = Merge::tolerant(trees.clone(), Arc::clone(&self.vault))?;
        Ok(Entries { ground: self, trees, segments, merge, over: None })
    }

    /// The entries that a snapshot may have, of trees before one whose head is lost.
    fn shadowed(&self, run: &Run<'_>, kept: &Kept, mut tell: impl FnMut(&Entry)) -> Result<()> {
        let opened = |tree: &KeptTree| self.trees.get(&tree.id()).and_then(|opened| opened.tree.clone());
        let trees: Vec<Arc<Tree>> = kept.trees.iter().filter_map(opened).collect();
        let shadowed = trees.len() - self.readable(kept).len();
        if shadowed == 0 {
            return Ok(());
        }
        let mut merge = Merge::tolerant(trees, Arc::clone(&self.vault))?;
        loop {
            run.check()?;
            run.counters.tick();
            match merge.next() {
                Ok(Some((tree, entry))) if tree < shadowed => tell(&entry),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) if error.is_damage() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn segments_of(&self, tree: &Tree) -> Vec<Option<u32>> {
        tree.head().segments.iter().map(|salt| self.survey.segment(salt)).collect()
    }

    /// Names everything that snapshots have lost, a line a name; answers how many entries each of them has.
    pub(super) fn name_losses(&self, run: &Run<'_>, kept: &[Kept]) -> Result<Vec<u64>> {
        let (counts, lost) = self.losses(run, kept)?;
        for (path, (why, mut numbers)) in lost {
            numbers.sort_unstable();
            numbers.dedup();
            run.entry_failed(&path, EntryErrorKind::Damaged, format!("{why} ({})", of_snapshots(&numbers)));
        }
        Ok(counts)
    }

    /// What snapshots have lost: how many names of each; and by name why, and in which snapshots.
    pub(super) fn losses(&self, run: &Run<'_>, kept: &[Kept]) -> Result<(Vec<u64>, Losses)> {
        let mut lost = Losses::new();
        let mut counts = Vec::with_capacity(kept.len());
        for kept in kept {
            let mut count = 0;
            if self.is_troubled(kept) {
                let number = kept.snapshot.as_ref().map_or(0, |snapshot| snapshot.number);
                let mut tell = |path: &Path, why: String| {
                    count += 1;
                    lost.entry(path.to_owned()).or_insert_with(|| (why, Vec::new())).1.push(number);
                };
                let mut entries = self.entries(kept)?;
                while let Some(next) = entries.next(run)? {
                    if let Next::Lost(entry, missing) = next {
                        tell(entry.path.as_path(), missing.to_string());
                    }
                }
                let Untold { losses, doubtful } = entries.merge.take_lost();
                for Loss { what, why } in losses {
                    if let Lost::Range { from, to } = what {
                        let to = to.map_or_else(String::new, |to| format!(" up to {}", to.as_path().display()));
                        let why = describe(&why).1;
                        let why = format!("whatever is here and behind it{to} is lost with a part of the index: {why}");
                        tell(if from.is_root() { Path::new(".") } else { from.as_path() }, why);
                    }
                }
                if let Some(why) = entries.over {
                    tell(Path::new("."), format!("the rest of the index contradicts itself: {why}"));
                }
                for entry in doubtful {
                    tell(entry.path.as_path(), DOUBTFUL.to_owned());
                }
                self.shadowed(run, kept, |entry| tell(entry.path.as_path(), DOUBTFUL.to_owned()))?;
            }
            counts.push(count);
        }
        Ok((counts, lost))
    }
}

/// By name: why, and the numbers of the snapshots.
type Losses = BTreeMap<PathBuf, (String, Vec<u64>)>;

/// `snapshot 3`, `snapshots 1, 2 and 3`, `snapshots 1, 2, 3 and 40 more`.
fn of_snapshots(numbers: &[u64]) -> String {
    let words: Vec<String> = numbers.iter().take(NUMBERS_SHOWN).map(u64::to_string).collect();
    match (numbers.len(), words.as_slice()) {
        (0 | 1, [only]) => format!("snapshot {only}"),
        (len, words) if len > NUMBERS_SHOWN => {
            format!("snapshots {} and {} more", words.join(", "), len - NUMBERS_SHOWN)
        }
        (_, [others @ .., last]) => format!("snapshots {} and {last}", others.join(", ")),
        (_, []) => String::new(),
    }
}

/// The entries of one snapshot, in order.
pub(super) struct Entries<'g, 's> {
    ground: &'g Ground<'s>,
    pub(super) trees: Vec<Arc<Tree>>,
    segments: Vec<Vec<Option<u32>>>,
    merge: Merge,
    /// Why nothing is known from there on: a tree contradicts itself.
    over: Option<String>,
}

/// What comes next.
pub(super) enum Next {
    /// An entry with all its content, and the number of its tree.
    Whole(usize, Box<Entry>),
    /// One that has lost some.
    Lost(Box<Entry>, Missing),
}

impl Entries<'_, '_> {
    pub(super) fn next(&mut self, run: &Run<'_>) -> Result<Option<Next>> {
        run.check()?;
        run.counters.tick();
        if self.over.is_some() {
            return Ok(None);
        }
        match self.merge.next() {
            Ok(None) => Ok(None),
            Ok(Some((tree, entry))) => Ok(Some(match self.ground.missing_of(&self.segments[tree], &entry) {
                None => Next::Whole(tree, entry),
                Some(missing) => Next::Lost(entry, missing),
            })),
            Err(error) if error.is_damage() => {
                self.over = Some(describe(&error).1);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
