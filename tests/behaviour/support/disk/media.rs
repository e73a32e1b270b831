//! What is on the disk for good, what is on its way there, and what of that a power cut may leave. The head of
//! [`super`] has the rules.

use std::sync::Arc;

use super::Dice;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// A write of at most so many sectors is taken apart into every one of them; a longer one into its first, its last, and
/// all between.
const SINGLY: usize = 4;
/// Where the roots are: the only sectors that may be torn within.
const ROOTS: [usize; 2] = [48 << 10, 56 << 10];
/// How far a torn sector has got.
const TORN_AT: usize = 200;

/// What a call changes in a file.
#[derive(Clone)]
pub(super) enum Change {
    Write { offset: usize, bytes: Arc<[u8]> },
    Len(usize),
    AtLeast(usize),
    Zero { from: usize, to: usize },
}

impl Change {
    /// Changes bytes as the system shows them.
    pub(super) fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => put(to, *offset, bytes),
            Self::Len(len) => to.resize(*len, 0),
            Self::AtLeast(len) => to.resize(to.len().max(*len), 0),
            Self::Zero { from, to: end } => {
                let end = to.len().min(*end);
                if *from < end {
                    to[*from..end].fill(0);
                }
            }
        }
    }
}

fn put(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[offset..end].copy_from_slice(bytes);
}

/// Something that happened to a disk.
#[derive(Clone)]
pub(super) enum Event {
    /// The next file was made, without a name.
    Created,
    Changed(usize, Change),
    Synced(usize),
    /// A sync failed. This much of what was pending is on the disk; the rest never gets there.
    SyncFailed(usize, Vec<Landing>),
    /// The name leads to another file, or to none.
    Named(Option<usize>),
    DirSynced,
    /// What a test wants to remember.
    Mark(u64),
}

/// What becomes of an [`Atom`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landing {
    Lost,
    Whole,
    /// Its beginning is there and its end is not.
    Torn,
}

/// What lands by itself.
#[derive(Clone, Copy)]
pub(super) struct Atom {
    change: usize,
    /// Which bytes of the file, if the change is a write.
    from: usize,
    to: usize,
    may_tear: bool,
}

/// One file of the disk.
#[derive(Clone, Default)]
pub(super) struct Medium {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

impl Medium {
    /// A file with nothing pending.
    pub(super) fn of(durable: Vec<u8>) -> Self {
        Self { durable, pending: Vec::new() }
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// What may land or be lost by itself, in the order of the calls.
    pub(super) fn atoms(&self) -> Vec<Atom> {
        let mut atoms = Vec::new();
        for (change, pending) in self.pending.iter().enumerate() {
            let Change::Write { offset, bytes } = pending else {
                atoms.push(Atom { change, from: 0, to: 0, may_tear: false });
                continue;
            };
            let (start, end) = (*offset, offset + bytes.len());
            let mut seams: Vec<usize> = (start / SECTOR + 1..=(end - 1) / SECTOR).map(|at| at * SECTOR).collect();
            if seams.len() >= SINGLY {
                seams = vec![seams[0], seams[seams.len() - 1]];
            }
            let from = std::iter::once(start).chain(seams.iter().copied());
            let to = seams.iter().copied().chain(std::iter::once(end));
            let is_root = |at: usize| ROOTS.contains(&(at / SECTOR * SECTOR));
            atoms.extend(from.zip(to).map(|(from, to)| Atom { change, from, to, may_tear: is_root(from) }));
        }
        atoms
    }

    /// The file if this becomes of its atoms. Whatever lands beyond the length that lands is not to be seen.
    pub(super) fn image(&self, atoms: &[Atom], landings: &[Landing]) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let mut len = bytes.len();
        for (atom, landing) in atoms.iter().zip(landings).filter(|(_, landing)| **landing != Landing::Lost) {
            match &self.pending[atom.change] {
                Change::Write { offset, bytes: written } => {
                    let to = if *landing == Landing::Torn { atom.to.min(atom.from + TORN_AT) } else { atom.to };
                    put(&mut bytes, atom.from, &written[atom.from - offset..to - offset]);
                }
                Change::Len(new) => {
                    bytes.truncate(*new);
                    len = *new;
                }
                Change::AtLeast(least) => len = len.max(*least),
                zero @ Change::Zero { .. } => zero.apply(&mut bytes),
            }
        }
        bytes.resize(len, 0);
        bytes
    }

    /// The file if all that is pending lands.
    pub(super) fn synced(&self) -> Vec<u8> {
        self.landed(&vec![Landing::Whole; self.atoms().len()])
    }

    fn landed(&self, landings: &[Landing]) -> Vec<u8> {
        self.image(&self.atoms(), landings)
    }
}

/// All that is on the disk or on its way.
#[derive(Clone, Default)]
pub(super) struct Media {
    pub(super) files: Vec<Medium>,
    durable_name: Option<usize>,
    /// What the name has led to since the directory was synced.
    later_names: Vec<Option<usize>>,
}

impl Media {
    /// A disk with nothing on it but a vault, or nothing at all.
    pub(super) fn of(image: Option<Vec<u8>>) -> Self {
        let durable_name = image.is_some().then_some(0);
        let files = image.map(Medium::of).into_iter().collect();
        Self { files, durable_name, later_names: Vec::new() }
    }

    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Created => self.files.push(Medium::default()),
            Event::Changed(file, change) => self.files[*file].pending.push(change.clone()),
            Event::Synced(file) => {
                let file = &mut self.files[*file];
                // In place: most syncs find little to do in a file that is large by comparison.
                for change in file.pending.drain(..) {
                    change.apply(&mut file.durable);
                }
            }
            Event::SyncFailed(file, landings) => {
                let file = &mut self.files[*file];
                file.durable = file.landed(landings);
                file.pending.clear();
            }
            Event::Named(name) => self.later_names.push(*name),
            Event::DirSynced => {
                if let Some(name) = self.later_names.drain(..).next_back() {
                    self.durable_name = name;
                }
            }
            Event::Mark(_) => {}
        }
    }

    /// The files that the name may lead to after a power cut.
    fn names(&self) -> Vec<Option<usize>> {
        let mut names = vec![self.durable_name];
        for name in &self.later_names {
            if !names.contains(name) {
                names.push(*name);
            }
        }
        names
    }

    /// What a power cut leaves, one of what it may leave.
    pub(super) fn left(&self, left: Left) -> Option<Vec<u8>> {
        let newest = self.later_names.last().copied().unwrap_or(self.durable_name);
        match left {
            Left::Nothing => self.durable_name.map(|file| self.files[file].durable.clone()),
            Left::Everything => newest.map(|file| self.files[file].synced()),
            Left::Some { seed } => {
                let mut dice = Dice(seed);
                let names = self.names();
                names[dice.below(names.len())].map(|file| {
                    let file = &self.files[file];
                    let landings: Vec<_> = file.atoms().iter().map(|_| dice.landing()).collect();
                    file.landed(&landings)
                })
            }
        }
    }
}

/// What is left after a power cut of what was written and not synced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Left {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// Each atom with a chance of one half, none of them torn; one of the names.
    Some { seed: u64 },
}

impl Dice {
    fn landing(&mut self) -> Landing {
        if self.coin() { Landing::Whole } else { Landing::Lost }
    }
}

/// What happened to a disk since some moment.
pub(crate) struct History {
    pub(super) start: Media,
    pub(super) events: Vec<Event>,
}

impl History {
    /// Calls `look` with every moment at which the power may fail: at the beginning, and after each thing that happened.
    pub(crate) fn each_moment(&self, mut look: impl FnMut(&Moment)) {
        let mut moment = Moment { media: self.start.clone(), marks: Vec::new(), number: 0, newest: None };
        look(&moment);
        for event in &self.events {
            moment.media.apply(event);
            moment.number += 1;
            moment.newest = match event {
                Event::Changed(file, _) => Some(*file),
                _ => None,
            };
            if let Event::Mark(mark) = event {
                moment.marks.push(*mark);
            }
            look(&moment);
        }
    }
}

/// A moment at which the power may fail.
pub(crate) struct Moment {
    media: Media,
    /// What was marked until then.
    pub(crate) marks: Vec<u64>,
    /// How many things have happened.
    pub(crate) number: usize,
    /// The last of them was a change of this file: what is left without it, the moment before has had.
    newest: Option<usize>,
}

/// What a power cut left.
pub(crate) struct Outcome {
    /// The vault, if its name is there.
    pub(crate) image: Option<Vec<u8>>,
    /// A root was torn within its sector.
    pub(crate) is_torn: bool,
    /// Which outcome this is, in words: an atom is `-` lost, `+` there, `~` torn.
    pub(crate) what: String,
}

/// How many outcomes of one moment are looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    /// If there are no more than this, all of them.
    pub(crate) all: usize,
    /// Else each of the plain ones, and so many by dice.
    pub(crate) seeds: u64,
}

impl Moment {
    /// A disk as it is.
    pub(super) fn of(media: Media) -> Self {
        Self { media, marks: Vec::new(), number: 0, newest: None }
    }

    /// Calls `look` with what a cut at this moment may leave, and the moment before may not; says whether that was all.
    pub(crate) fn each_outcome(&self, bound: Bound, seed: u64, mut look: impl FnMut(Outcome)) -> bool {
        let mut is_all = true;
        for name in self.media.names() {
            let Some(number) = name else {
                if self.newest.is_none() {
                    look(Outcome { image: None, is_torn: false, what: "no name".to_owned() });
                }
                continue;
            };
            let file = &self.media.files[number];
            let atoms = file.atoms();
            let (choices, all) = choices(&atoms, bound, seed);
            is_all &= all;
            for landings in choices {
                let last_change = file.pending.len().wrapping_sub(1);
                let mut fresh = atoms.iter().zip(&landings).filter(|(atom, _)| atom.change == last_change);
                if self.newest == Some(number) && fresh.all(|(_, landing)| *landing == Landing::Lost) {
                    continue;
                }
                if self.newest.is_some_and(|newest| newest != number) {
                    continue;
                }
                let sign = |landing: &Landing| match landing {
                    Landing::Lost => '-',
                    Landing::Whole => '+',
                    Landing::Torn => '~',
                };
                // A root that two calls wrote may be torn between them.
                let in_parts = atoms.iter().any(|atom| atom.may_tear && atom.to - atom.from < SECTOR);
                look(Outcome {
                    image: Some(file.image(&atoms, &landings)),
                    is_torn: in_parts || landings.contains(&Landing::Torn),
                    what: format!("file {number} [{}]", landings.iter().map(sign).collect::<String>()),
                });
            }
        }
        is_all
    }
}

/// Which combinations of landings are looked at, and whether those are all.
fn choices(atoms: &[Atom], bound: Bound, seed: u64) -> (Vec<Vec<Landing>>, bool) {
    use Landing::{Lost, Torn, Whole};
    let ways = |atom: &Atom| if atom.may_tear { 3 } else { 2 };
    let count = atoms.iter().try_fold(1_usize, |count, atom| count.checked_mul(ways(atom)));
    if let Some(count) = count.filter(|&count| count <= bound.all) {
        let nth = |mut number: usize| {
            let digit = |atom: &Atom| {
                let digit = number % ways(atom);
                number /= ways(atom);
                [Lost, Whole, Torn][digit]
            };
            atoms.iter().map(digit).collect()
        };
        return ((0..count).map(nth).collect(), true);
    }
    let len = atoms.len();
    let with = |rest: Landing, at: usize, own: Landing| {
        let mut landings = vec![rest; len];
        landings[at] = own;
        landings
    };
    let mut chosen = vec![vec![Lost; len], vec![Whole; len]];
    for (at, atom) in atoms.iter().enumerate() {
        chosen.push(with(Lost, at, Whole));
        chosen.push(with(Whole, at, Lost));
        // All before it and none after it, and the other way round: what comes later lands, what came before does not.
        let side = |before, after| (0..len).map(|other| if other < at { before } else { after }).collect();
        chosen.push(side(Whole, Lost));
        chosen.push(side(Lost, Whole));
        if atom.may_tear {
            chosen.push(with(Lost, at, Torn));
            chosen.push(with(Whole, at, Torn));
        }
    }
    let mut dice = Dice(seed);
    chosen.extend((0..bound.seeds).map(|_| atoms.iter().map(|_| dice.landing()).collect()));
    chosen.sort_unstable_by_key(|landings: &Vec<Landing>| landings.iter().map(|l| *l as u8).collect::<Vec<_>>());
    chosen.dedup();
    (chosen, false)
}

/// How a sync fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailedSync {
    /// What of the pending changes is on the disk all the same.
    pub(crate) left: Left,
    /// What is not is read as it was before, at once; else it goes on being read as it was written.
    pub(crate) reverts: bool,
}

impl FailedSync {
    /// Each way, as far as they differ in kind.
    pub(crate) fn ways(seed: u64) -> [Self; 5] {
        let way = |left, reverts| Self { left, reverts };
        [
            way(Left::Nothing, false),
            way(Left::Nothing, true),
            way(Left::Everything, false),
            way(Left::Some { seed }, false),
            way(Left::Some { seed }, true),
        ]
    }

    pub(super) fn landings(self, medium: &Medium) -> Vec<Landing> {
        let atoms = medium.atoms();
        let mut dice = Dice(if let Left::Some { seed } = self.left { seed } else { 0 });
        let landing = |_: &Atom| match self.left {
            Left::Nothing => Landing::Lost,
            Left::Everything => Landing::Whole,
            Left::Some { .. } => dice.landing(),
        };
        atoms.iter().map(landing).collect()
    }
}
