//! What does an index of a million entries cost: to write, to read, to look one name up, to bring a change into?
//!
//! ```sh
//! cargo bench --features internals --bench index
//! ```
//!
//! The first half has blocks in memory, packed and sealed as they are in a vault: `encode`, `decode`, `seek` and `look_up`
//! over 10,000 to a million entries, `merge` and `write_anew` with a delta of a thousand after a million. `seek` goes down
//! the tree to one path; `look_up` is the way of `list` and `extract`, which ask for all directories above it, too. `merge`
//! without a delta is what a listing adds to `decode`.
//!
//! The second half has a vault on the disk and in the page cache, by the public interface: listing one file, a thousand
//! from all over, one directory, all. An opened vault keeps keys and no state, so each of them reads root, commit and head of
//! the tree first; `vault_list_first` is little else. `vault_open` derives the key with the least parameters that a new
//! vault may have, 19 MiB and 2 passes, and that is nearly all of it. The content of these entries is nowhere: nothing here
//! would read it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use divan::Bencher;
use divan::counter::ItemsCount;
use flint_pipe::internals::{self, Index, IndexEntry};
use flint_pipe::{CreateOptions, Entries, KdfParams, ListOptions, Password, Vault};
use tempfile::TempDir;

#[path = "support/names.rs"]
mod names;
#[path = "support/random.rs"]
mod random;

use names::{Name, names};
use random::Random;

fn main() {
    divan::main();
    // It has a directory on the disk, and what is static is never dropped.
    drop(STORED.lock().unwrap_or_else(PoisonError::into_inner).take());
}

const COUNTS: [usize; 3] = [10_000, 100_000, MILLION];

const MILLION: usize = 1_000_000;

/// Of so many entries one is changed by a delta: of a million, a thousand.
const STEP: usize = 1000;

/// The entries of these names. Another seed makes other times and sizes: all of them have changed then.
fn entries(names: &[Name], seed: u64) -> impl Iterator<Item = IndexEntry> {
    let mut random = Random(seed);
    (0..).zip(names).map(move |(number, name)| IndexEntry::new(&name.path, name.is_directory, number, random.next()))
}

/// A change of every [`STEP`]th entry.
fn changes(names: &[Name]) -> impl Iterator<Item = IndexEntry> {
    entries(names, 2).step_by(STEP)
}

fn index(names: &[Name]) -> Index {
    Index::of(entries(names, 1)).expect("there are random numbers")
}

#[divan::bench(args = COUNTS, sample_count = 5, sample_size = 1)]
fn encode(bencher: Bencher<'_, '_>, count: usize) {
    let entries: Vec<IndexEntry> = entries(&names(count), 1).collect();
    bencher.counter(ItemsCount::new(count)).bench_local(|| Index::of(&entries).expect("there are random numbers"));
}

#[divan::bench(args = COUNTS, sample_count = 5, sample_size = 1)]
fn decode(bencher: Bencher<'_, '_>, count: usize) {
    let index = index(&names(count));
    assert_eq!(index.decode().expect("it was written just now"), count, "all of them come back");
    bencher.counter(ItemsCount::new(count)).bench_local(|| index.decode().expect("it was written just now"));
}

#[divan::bench(args = COUNTS)]
fn seek(bencher: Bencher<'_, '_>, count: usize) {
    let names = names(count);
    let (mut index, mut random) = (index(&names), Random(3));
    bencher
        .with_inputs(|| &names[random.below(count)].path)
        .bench_local_values(|path| assert!(index.seek(path).expect("it was written just now"), "it is there"));
}

#[divan::bench(args = COUNTS)]
fn look_up(bencher: Bencher<'_, '_>, count: usize) {
    let names = names(count);
    let (index, mut random) = (index(&names), Random(3));
    bencher
        .with_inputs(|| &names[random.below(count)].path)
        .bench_local_values(|path| assert!(index.look_up(path).expect("it was written just now"), "it is there"));
}

/// A million entries, with or without what came after them.
#[derive(Debug, Clone, Copy)]
enum Delta {
    No,
    OfAThousand,
}

impl fmt::Display for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "1000000",
            Self::OfAThousand => "1000000 and a delta of 1000",
        })
    }
}

const DELTAS: [Delta; 2] = [Delta::No, Delta::OfAThousand];

#[divan::bench(args = DELTAS, sample_count = 5, sample_size = 1)]
fn merge(bencher: Bencher<'_, '_>, delta: Delta) {
    let names = names(MILLION);
    let index = index(&names);
    let delta = match delta {
        Delta::No => None,
        Delta::OfAThousand => Some(Index::of(changes(&names)).expect("there are random numbers")),
    };
    let merged = || index.merged(delta.as_ref()).expect("it was written just now");
    assert_eq!(merged(), MILLION, "a change adds none");
    bencher.counter(ItemsCount::new(MILLION)).bench_local(merged);
}

#[divan::bench(args = [Delta::OfAThousand], sample_count = 5, sample_size = 1)]
fn write_anew(bencher: Bencher<'_, '_>, _: Delta) {
    let names = names(MILLION);
    let index = index(&names);
    let delta = Index::of(changes(&names)).expect("there are random numbers");
    // What it answers is dropped outside the measured time.
    let written = || index.written_anew(&delta).expect("it was written just now");
    assert_eq!(written().decode().expect("it was written just now"), MILLION, "a change adds none");
    bencher.counter(ItemsCount::new(MILLION)).bench_local(written);
}

/// A vault with a million entries in its first snapshot; the second changes a thousand of them.
struct Stored {
    vault: Vault,
    /// A directory in the midst, and what is in it: files alone.
    directory: Vec<PathBuf>,
    /// A thousand files from everywhere.
    scattered: Vec<PathBuf>,
    _place: TempDir,
}

/// Made by whoever needs it first.
static STORED: Mutex<Option<Stored>> = Mutex::new(None);

const PASSWORD: &str = "bench";

impl Stored {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("there is a place for temporary files");
        let mut options = CreateOptions::default();
        options.kdf = KdfParams { memory_kib: 19_456, passes: 2, lanes: 1 };
        let vault = Vault::create(place.path().join("vault"), &Password::new(PASSWORD), &options);
        let vault = vault.expect("a new vault");
        let names = names(MILLION);
        internals::commit_entries(&vault, entries(&names, 1)).expect("there is room");
        internals::commit_entries(&vault, changes(&names)).expect("there is room");
        let files = names.iter().filter(|name| !name.is_directory);
        let scattered = files.step_by(MILLION / 1200).take(1000).map(|name| (&name.path).into()).collect();
        let directory = plain_directory(&names[MILLION / 2..]).iter().map(|name| (&name.path).into()).collect();
        Self { vault, directory, scattered, _place: place }
    }

    fn list(&self, delta: Delta, paths: &[PathBuf]) -> Entries {
        let mut options = ListOptions::default();
        options.paths = paths.to_vec();
        options.at = match delta {
            Delta::No => Some(1),
            Delta::OfAThousand => None,
        };
        self.vault.list(&options).expect("there are two snapshots")
    }
}

/// The first directory that has a dozen files or more and nothing else, and these.
fn plain_directory(names: &[Name]) -> &[Name] {
    let subtree = |at: usize| {
        let below = names[at + 1..].iter().take_while(|name| name.is_below(&names[at])).count();
        &names[at..=at + below]
    };
    let is_plain = |subtree: &&[Name]| subtree.len() > 12 && subtree[1..].iter().all(|name| !name.is_directory);
    (0..names.len()).map(subtree).find(is_plain).expect("most directories are such")
}

fn with_stored(work: impl FnOnce(&Stored)) {
    let mut stored = STORED.lock().unwrap_or_else(PoisonError::into_inner);
    work(stored.get_or_insert_with(Stored::new));
}

#[divan::bench]
fn vault_open(bencher: Bencher<'_, '_>) {
    with_stored(|stored| {
        bencher
            .bench_local(|| Vault::open(stored.vault.path(), &Password::new(PASSWORD)).expect("the password is right"));
    });
}

#[divan::bench(args = DELTAS)]
fn vault_list_first(bencher: Bencher<'_, '_>, delta: Delta) {
    with_stored(|stored| bencher.bench_local(|| stored.list(delta, &[]).next()));
}

#[divan::bench(args = DELTAS)]
fn vault_list_file(bencher: Bencher<'_, '_>, delta: Delta) {
    with_stored(|stored| list_all_of(bencher, 1, || stored.list(delta, &stored.directory[1..2])));
}

#[divan::bench(args = DELTAS, sample_count = 5, sample_size = 1)]
fn vault_list_files(bencher: Bencher<'_, '_>, delta: Delta) {
    with_stored(|stored| list_all_of(bencher, stored.scattered.len(), || stored.list(delta, &stored.scattered)));
}

#[divan::bench(args = DELTAS)]
fn vault_list_directory(bencher: Bencher<'_, '_>, delta: Delta) {
    with_stored(|stored| {
        list_all_of(bencher, stored.directory.len(), || stored.list(delta, &stored.directory[..1]));
    });
}

#[divan::bench(args = DELTAS, sample_count = 5, sample_size = 1)]
fn vault_list_all(bencher: Bencher<'_, '_>, delta: Delta) {
    with_stored(|stored| list_all_of(bencher, MILLION, || stored.list(delta, &[])));
}

/// Lists to the end, which is to come after so many.
fn list_all_of(bencher: Bencher<'_, '_>, count: usize, list: impl Fn() -> Entries) {
    let listed = || list().inspect(|entry| assert!(entry.is_ok(), "nothing is damaged")).count();
    assert_eq!(listed(), count, "all of them are listed, and no other");
    bencher.counter(ItemsCount::new(count)).bench_local(listed);
}
