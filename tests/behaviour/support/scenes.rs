//! What is done to a vault while its disk fails: a run or two on a small vault, and what each snapshot holds then.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flint_pipe::{
    AddOptions, Error, ErrorKind, Failed, Malformation, Observer, Progress, RemoveOptions, Report, Vault,
};

use super::disk::Disk;
use super::disk::media::Left;
use super::tree::{Tree, noise, text};
use super::{
    Contents, add_with, assert_sound, cheap, contents, empty_vault_on, password, simple, snapshot_numbers, verify,
};

/// How much longer than usual these tests are to run: a whole number in `FLINT_TEST_SCALE`.
pub(crate) fn scale() -> u64 {
    let scale = std::env::var("FLINT_TEST_SCALE").ok();
    scale.map_or(1, |scale| scale.parse().expect("FLINT_TEST_SCALE is a whole number"))
}

/// The seeds to go through: `0..count`, or that of `FLINT_TEST_SEED` alone.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("FLINT_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("FLINT_TEST_SEED is a whole number")],
        Err(_) => (0..count).collect(),
    }
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first `add` to an empty vault.
    FirstAdd,
    /// An `add` that replaces a file and brings another.
    Add,
    /// The same, where the newest root stands in one of its two places alone.
    AddToLoneRoot,
    /// A `remove` of a file and of a directory.
    Remove,
    /// An `add --mirror` that another writer overtook, from there to its end: it writes a second delta.
    SecondDelta,
    /// Two `add`s of two processes at once.
    TwoAdds,
    /// An `add` that makes its vault.
    Maker,
    /// Two `add`s of two processes at once, where there is no vault yet.
    TwoMakers,
}

impl Kind {
    /// How many writers there are.
    fn writers(self) -> usize {
        if matches!(self, Self::TwoAdds | Self::TwoMakers) { 2 } else { 1 }
    }

    /// Whether there is no vault before.
    pub(crate) fn makes(self) -> bool {
        matches!(self, Self::Maker | Self::TwoMakers)
    }
}

/// A vault in which something is to be done.
pub(crate) struct Scene {
    pub(crate) kind: Kind,
    pub(crate) disk: Disk,
    /// For looking at the vault.
    vault: Mutex<Option<Arc<Vault>>>,
    /// What each writer has opened; of makers, nothing.
    writers: Vec<Vault>,
    trees: Vec<Tree>,
    next: Tree,
    /// What the snapshots hold that are there before.
    base: Vec<Contents>,
    /// What the vault holds when [`Kind::SecondDelta`] is done, learnt by doing it once.
    learnt: Contents,
    /// The vault's bytes before, if there is one.
    before: Option<Vec<u8>>,
}

/// What came of a scene: a result for each writer.
pub(crate) type Results = Vec<Result<Report, Failed>>;

/// Does something when a run is about to commit.
pub(crate) struct Between<'f>(Mutex<Option<&'f (dyn Fn() + Sync)>>);

impl<'f> Between<'f> {
    pub(crate) fn new(work: &'f (dyn Fn() + Sync)) -> Self {
        Self(Mutex::new(Some(work)))
    }
}

impl Observer for Between<'_> {
    fn progress(&self, progress: &Progress) {
        if progress.phase == "commit"
            && let Some(work) = self.0.lock().unwrap().take()
        {
            work();
        }
    }
}

/// Reads everything: whether a file counts as unchanged would depend on how old it is.
fn options() -> AddOptions {
    let mut options = simple();
    options.force_read = true;
    options
}

/// What the files of a tree hold, by name.
pub(crate) fn files_of(tree: &Tree) -> Contents {
    fn walk(tree: &Tree, below: &PathBuf, files: &mut Contents) {
        for entry in std::fs::read_dir(tree.path(below)).unwrap() {
            let name = below.join(entry.unwrap().file_name());
            if tree.path(&name).is_dir() {
                walk(tree, &name, files);
            } else {
                files.insert(name.clone(), std::fs::read(tree.path(&name)).unwrap());
            }
        }
    }
    let mut files = Contents::new();
    walk(tree, &PathBuf::new(), &mut files);
    files
}

/// A mark for a writer whose run has made a snapshot.
fn mark(writer: usize, number: u64) -> u64 {
    (writer as u64) << 32 | number
}

/// A snapshot that was acknowledged: by whom, and its number.
pub(crate) type Acknowledged = Vec<(usize, u64)>;

/// What marks say.
pub(crate) fn acknowledged(marks: &[u64]) -> Acknowledged {
    marks.iter().map(|mark| (usize::try_from(mark >> 32).unwrap(), mark & u64::from(u32::MAX))).collect()
}

impl Scene {
    pub(crate) fn new(kind: Kind) -> Self {
        let (first, second, third, next) = (Tree::new(), Tree::new(), Tree::new(), Tree::new());
        first.file("d/a", text(1, 900));
        first.file("d/b", noise(1, 700));
        first.file("d/gone", "not for long");
        first.file("e/c", text(2, 300));
        second.file("d/b", noise(2, 1300));
        second.file("d/new", text(3, 2500));
        third.file("d/b", noise(3, 600));
        third.file("f/theirs", text(4, 1100));
        next.file("next", "the next add");

        let disk = Disk::new();
        let mut base = Vec::new();
        if !kind.makes() {
            let vault = empty_vault_on(&disk);
            let mut add = |tree: &Tree, sources: &[&str]| {
                add_with(&vault, tree.root(), sources, options()).unwrap();
                base.push(contents(&vault, None).unwrap());
            };
            if kind == Kind::SecondDelta {
                // What is to count as unchanged has to be older than this.
                std::thread::sleep(Duration::from_millis(2200));
            }
            if kind != Kind::FirstAdd {
                add(&first, &["d", "e"]);
            }
            if kind == Kind::AddToLoneRoot {
                add(&third, &["f"]);
                disk.power_cycle(Left::Nothing);
            } else {
                disk.power_cycle(Left::Everything);
            }
        }
        let open = |writer| Vault::open_in("memory.flint", disk.seen_by(writer).dir(), &password(), None).unwrap();
        let writers = (0..if kind.makes() { 0 } else { kind.writers() }).map(open).collect();
        let before = disk.bytes();
        let trees = if kind == Kind::SecondDelta { vec![first, third] } else { vec![second, third] };
        let (vault, learnt) = (Mutex::new(None), Contents::new());
        let mut scene = Self { kind, disk, vault, writers, trees, next, base, learnt, before };
        if kind == Kind::SecondDelta {
            std::fs::remove_file(scene.trees[0].path("d/gone")).unwrap();
            for result in scene.run(0, &|| {}) {
                result.unwrap();
            }
            // What the other writer does is done already when the failures begin.
            let vault = scene.vault();
            scene.base.push(contents(&vault, Some(2)).unwrap());
            scene.learnt = contents(&vault, None).unwrap();
            let mut expected = scene.base[0].clone();
            expected.remove(Path::new("d/gone"));
            assert!(scene.learnt == expected, "one file is gone, and what the other removed is put again");
            scene.reset();
        }
        scene
    }

    /// The vault that is there now.
    pub(crate) fn vault(&self) -> Arc<Vault> {
        let mut known = self.vault.lock().unwrap();
        // Keys take long to derive; they are the same unless it is another vault.
        let fits = |vault: &Arc<Vault>| !matches!(snapshot_numbers(vault), Err(Error::Refused { .. }));
        if let Some(vault) = known.as_ref().filter(|vault| fits(vault)) {
            return Arc::clone(vault);
        }
        let vault = Vault::open_in("memory.flint", self.disk.dir(), &password(), None);
        let vault = Arc::new(vault.unwrap_or_else(|error| panic!("the vault does not open: {error:?}")));
        *known = Some(Arc::clone(&vault));
        vault
    }

    /// Everything as it was before, and nothing goes wrong.
    pub(crate) fn reset(&self) {
        self.disk.start_with(self.before.clone());
    }

    /// Does it; `armed` is called at the moment from which failures count. Who is done leaves a mark.
    pub(crate) fn run(&self, seed: u64, armed: &(dyn Fn() + Sync)) -> Results {
        match self.kind {
            Kind::FirstAdd | Kind::Add | Kind::AddToLoneRoot => {
                armed();
                vec![self.add(0)]
            }
            Kind::Remove => {
                armed();
                let names = ["d/b".into(), "e".into()];
                vec![self.done(0, self.writers[0].remove(&names, &RemoveOptions::default(), &()))]
            }
            Kind::SecondDelta => {
                let between = || {
                    let other = self.writers[0].remove(&["d/a".into()], &RemoveOptions::default(), &());
                    other.expect("nothing goes wrong yet");
                    armed();
                };
                let mut mirror = simple();
                mirror.mirror = true;
                mirror.directory = Some(self.trees[0].root().to_owned());
                let observer = Between::new(&between);
                vec![self.done(0, self.writers[0].add(&["d".into()], &mirror, &observer))]
            }
            Kind::Maker => {
                armed();
                vec![self.make(0)]
            }
            Kind::TwoAdds => self.both(seed, armed, Self::add),
            Kind::TwoMakers => self.both(seed, armed, Self::make),
        }
    }

    fn add(&self, writer: usize) -> Result<Report, Failed> {
        self.done(writer, add_with(&self.writers[writer], self.trees[writer].root(), &["."], options()))
    }

    fn make(&self, writer: usize) -> Result<Report, Failed> {
        let dir = self.disk.seen_by(writer).dir();
        let vault = Arc::new(Vault::open_in("memory.flint", dir, &password(), Some(&cheap()))?);
        // Its keys, once derived, are good for looking at it afterwards.
        *self.vault.lock().unwrap() = Some(Arc::clone(&vault));
        self.done(writer, add_with(&vault, self.trees[writer].root(), &["."], options()))
    }

    fn done(&self, writer: usize, result: Result<Report, Failed>) -> Result<Report, Failed> {
        if let Ok(report) = &result {
            self.disk.mark(mark(writer, report.snapshot.expect("it made a snapshot")));
        }
        result
    }

    /// Both writers at once, in an order that the seed decides.
    fn both(
        &self,
        seed: u64,
        armed: &(dyn Fn() + Sync),
        run: impl Fn(&Self, usize) -> Result<Report, Failed> + Sync,
    ) -> Results {
        let run = &run;
        self.disk.take_turns(2, seed);
        armed();
        std::thread::scope(|scope| {
            let start = |writer| {
                scope.spawn(move || {
                    // Also if it panics, lest the other waits for it.
                    let retires = Retires(&self.disk, writer);
                    let result = run(self, writer);
                    drop(retires);
                    result
                })
            };
            let running = [0, 1].map(start);
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// What a snapshot of this writer holds on top of another.
    fn on_top(&self, writer: usize, before: &Contents) -> Contents {
        let mut after = before.clone();
        match self.kind {
            Kind::Remove => after.retain(|name, _| !(name.starts_with("e") || name == Path::new("d/b"))),
            Kind::SecondDelta => after = self.learnt.clone(),
            _ => after.extend(files_of(&self.trees[writer])),
        }
        after
    }

    /// Who has failed, and how: the kind of the error is right, and it says what the vault is now.
    pub(crate) fn assert_right_errors(&self, results: &Results, what: &str) -> (Acknowledged, Vec<usize>) {
        let (mut acknowledged, mut barred) = (Acknowledged::new(), Vec::new());
        for (writer, result) in results.iter().enumerate() {
            match result {
                Ok(report) => {
                    assert!(report.is_complete(), "{what}: {:?}", report.errors);
                    acknowledged.push((writer, report.snapshot.expect("it made a snapshot")));
                }
                Err(Failed { error, .. }) => {
                    // What cannot be read of the vault is damage, until it can be read again.
                    let unreadable = matches!(error, Error::Damaged { source: Malformation::Unreadable { .. }, .. });
                    assert!(unreadable || error.kind() == ErrorKind::Io, "{what}: {error:?}");
                    if matches!(error, Error::CommitUncertain { .. }) {
                        assert!(error.to_string().contains("may or may not be there"), "{what}: {error}");
                    } else {
                        barred.push(writer);
                    }
                }
            }
        }
        (acknowledged, barred)
    }

    /// Every snapshot is whole: those from before; those acknowledged, by their numbers; and those of others, but of
    /// nobody who is `barred`, since his error said that he has made none. Answers what the newest holds.
    pub(crate) fn assert_whole(
        &self,
        acknowledged: &Acknowledged,
        barred: &[usize],
        is_torn: bool,
        what: &str,
    ) -> Contents {
        let vault = self.vault();
        let numbers = snapshot_numbers(&vault).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let newest = numbers.first().copied().unwrap_or(0);
        assert_eq!(numbers, (1..=newest).rev().collect::<Vec<u64>>(), "{what}");
        let at = |number| contents(&vault, Some(number)).unwrap_or_else(|error| panic!("{what}: {number}: {error:?}"));
        for (number, expected) in (1..).zip(&self.base) {
            assert!(newest >= number && at(number) == *expected, "{what}: snapshot {number} of {newest}");
        }
        let mut last = self.base.last().cloned().unwrap_or_default();
        let mut done = Vec::new();
        for number in self.base.len() as u64 + 1..=newest {
            let found = at(number);
            let fits = |writer: &usize| !done.contains(writer) && found == self.on_top(*writer, &last);
            let by = (0..self.kind.writers()).find(fits);
            let by = by.unwrap_or_else(|| panic!("{what}: snapshot {number} is nobody's: {:?}", found.keys()));
            assert!(!barred.contains(&by), "{what}: snapshot {number} is there, and its writer has failed");
            done.push(by);
            last = found;
        }
        for &(writer, number) in acknowledged {
            let by = usize::try_from(number).unwrap().checked_sub(self.base.len() + 1).and_then(|at| done.get(at));
            assert_eq!(by, Some(&writer), "{what}: snapshot {number} was acknowledged; {newest} are there");
        }
        let report = verify(&vault).unwrap_or_else(|failed| panic!("{what}: {:?}", failed.error));
        for error in &report.errors {
            // A torn root is a bad spare copy, and that is said.
            assert!(is_torn && error.message.starts_with("the root at byte"), "{what}: {error:?}");
        }
        last
    }

    /// The next `add` works, on top of what is there; and lasts, if the power is cut after it and leaves this.
    pub(crate) fn assert_next_add_works(&self, holds: &Contents, left: Option<Left>, what: &str) {
        let next = self.add_next(holds, what);
        let Some(left) = left else { return };
        self.disk.power_cycle(left);
        let vault = self.vault();
        let found = contents(&vault, None).unwrap_or_else(|error| panic!("{what}, after the next add: {error:?}"));
        assert!(found == next, "{what}: what the next add acknowledged is gone, {left:?} left: {:?}", found.keys());
        assert_sound(&vault);
    }

    fn add_next(&self, holds: &Contents, what: &str) -> Contents {
        let vault = self.vault();
        let report = add_with(&vault, self.next.root(), &["next"], options());
        let report = report.unwrap_or_else(|failed| panic!("{what}: the next add: {:?}", failed.error));
        assert!(report.is_complete(), "{what}: {:?}", report.errors);
        let mut next = holds.clone();
        next.extend(files_of(&self.next));
        assert!(contents(&vault, None).unwrap() == next, "{what}: the next add");
        next
    }

    /// A run that made nothing has given back what it took.
    pub(crate) fn assert_given_back(&self, what: &str) {
        let len = |bytes: Option<Vec<u8>>| bytes.map(|bytes| bytes.len());
        assert_eq!(len(self.disk.bytes()), len(self.before.clone()), "{what}: space was not given back");
    }

    /// How long the vault is before.
    pub(crate) fn len_before(&self) -> usize {
        self.before.as_ref().map_or(0, Vec::len)
    }
}

struct Retires<'d>(&'d Disk, usize);

impl Drop for Retires<'_> {
    fn drop(&mut self) {
        self.0.retire(self.1);
    }
}
