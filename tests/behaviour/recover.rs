//! What is left of a damaged vault is found, what is lost is named, and nothing is made up.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use flint_pipe::{Error, ErrorKind, RecoverOptions, Recovery, RemoveOptions, Report, Vault};

use crate::support::disk::media::Bound;
use crate::support::disk::{Dice, Disk, Effect, Fault, Op};
use crate::support::scenes::scale;
use crate::support::tree::{Tree, noise, text};
use crate::support::{
    Contents, add, add_with, assert_sound, contents, password, simple, snapshot_numbers, vault_in, verify, within,
};

const HEADER_A: usize = 0;
const HEADER_B: usize = 32 << 10;
const ROOT_A: usize = 48 << 10;
const ROOT_B: usize = 56 << 10;
const EXTENTS: usize = 64 << 10;

/// Kinds of records, docs/FORMAT.md, 6.4.
const DATA: u8 = 1;
const LEAF: u8 = 2;
const TABLE: u8 = 4;
const TREE_HEAD: u8 = 5;
const COMMIT: u8 = 7;

/// A vault of three snapshots, and what each of them holds.
struct Victim {
    disk: Disk,
    vault: Vault,
    bytes: Vec<u8>,
    snapshots: BTreeMap<u64, Contents>,
}

impl Victim {
    fn new() -> Self {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let mut victim = Self { disk, vault, bytes: Vec::new(), snapshots: BTreeMap::new() };
        let tree = Tree::new();
        tree.file("d/text", text(1, 30_000));
        tree.file("d/noise", noise(2, 300_000));
        tree.file("d/goes", "soon");
        add(&victim.vault, tree.root(), &["d"]);
        victim.note();
        tree.file("d/text", text(3, 20_000));
        tree.file("e/more", noise(4, 10_000));
        add(&victim.vault, tree.root(), &["d/text", "e"]);
        victim.note();
        victim.vault.remove(&[PathBuf::from("d/goes")], &RemoveOptions::default(), &()).unwrap();
        victim.note();
        assert_sound(&victim.vault);
        victim
    }

    fn note(&mut self) {
        let number = snapshot_numbers(&self.vault).unwrap()[0];
        self.snapshots.insert(number, contents(&self.vault, None).unwrap());
        self.bytes = self.disk.bytes().unwrap();
    }

    fn heal(&self) {
        self.disk.set_bytes(&self.bytes);
    }

    fn destroy(&self, range: Range<usize>) {
        let mut bytes = self.disk.bytes().unwrap();
        for (at, byte) in range.clone().zip(&mut bytes[range]) {
            *byte ^= 0x5a ^ u8::try_from(at % 7).unwrap();
        }
        self.disk.set_bytes(&bytes);
    }

    /// Where records of a kind are, in the order of the file.
    fn records(&self, kind: u8) -> Vec<Range<usize>> {
        records(&self.bytes).into_iter().filter(|(_, found)| *found == kind).map(|(range, _)| range).collect()
    }

    /// Nothing that any snapshot of this vault holds is anything but what was stored, at some time, under that name.
    fn assert_nothing_is_made_up(&self, vault: &Vault, what: &str) -> BTreeMap<u64, Contents> {
        let mut found = BTreeMap::new();
        for number in snapshot_numbers(vault).unwrap_or_else(|error| panic!("{what}: {error:?}")) {
            let held = contents(vault, Some(number)).unwrap_or_else(|error| panic!("{what}: {number}: {error:?}"));
            for (name, bytes) in &held {
                let is_known = self.snapshots.values().any(|snapshot| snapshot.get(name) == Some(bytes));
                assert!(is_known, "{what}: snapshot {number}: wrong bytes of {}", name.display());
            }
            found.insert(number, held);
        }
        found
    }

    /// Whether some snapshot there holds this version of this file.
    fn saved<'f>(found: &'f BTreeMap<u64, Contents>, name: &Path, bytes: &[u8]) -> Option<&'f Contents> {
        found.values().find(|held| held.get(name).is_some_and(|held| held == bytes))
    }
}

fn records(bytes: &[u8]) -> Vec<(Range<usize>, u8)> {
    let mut found = Vec::new();
    for at in (EXTENTS..bytes.len()).step_by(64) {
        if bytes[at..].starts_with(b"FLRC") {
            let len = u32::from_le_bytes(bytes[at + 36..at + 40].try_into().unwrap());
            found.push((at..at + 80 + usize::try_from(len).unwrap(), bytes[at + 5]));
        }
    }
    found
}

fn look(vault: &Vault) -> Report {
    vault.recover(&RecoverOptions::default(), &()).unwrap_or_else(|failed| panic!("{failed}: {:?}", failed.error))
}

fn recovery(report: &Report) -> &Recovery {
    report.recovery.as_ref().expect("a recovery says what it found")
}

fn mend(vault: &Vault) -> Report {
    let mut options = RecoverOptions::default();
    options.in_place = true;
    let report = vault.recover(&options, &());
    let report = report.unwrap_or_else(|failed| panic!("{failed}: {:?}", failed.error));
    assert!(recovery(&report).mended);
    report
}

/// Saves to a new vault, which is whole whatever was lost of the old one.
fn save(vault: &Vault, place: &Tree) -> (Report, Vault) {
    let mut options = RecoverOptions::default();
    let path = place.path("saved.flint");
    options.output = Some(path.clone());
    let report = vault.recover(&options, &());
    let report = report.unwrap_or_else(|failed| panic!("{failed}: {:?}", failed.error));
    assert_eq!(recovery(&report).saved_bytes, Some(std::fs::metadata(&path).unwrap().len()));
    let saved = Vault::open(&path, &password()).unwrap();
    assert_sound(&saved);
    (report, saved)
}

/// What a report names as lost.
fn named(report: &Report) -> BTreeSet<&Path> {
    report.errors.iter().map(|error| error.path.as_path()).collect()
}

/// Everything goes on: something is added, and all is whole.
fn assert_goes_on(vault: &Vault) {
    let more = Tree::new();
    more.file("more", "to come");
    add(vault, more.root(), &["more"]);
    assert_eq!(contents(vault, None).unwrap()[Path::new("more")], b"to come");
    assert_sound(vault);
}

#[test]
fn a_vault_that_is_whole_has_lost_nothing_and_stays_as_it_is() {
    within(60, || {
        let victim = Victim::new();
        let report = look(&victim.vault);
        assert!(report.is_complete(), "{:?}", report.errors);
        let found = &recovery(&report).snapshots;
        assert_eq!(found.iter().map(|found| found.number).collect::<Vec<_>>(), [3, 2, 1]);
        assert!(found.iter().all(|found| found.whole && !found.recovered && !found.beside), "{found:?}");
        assert_eq!(found.iter().map(|found| found.newest).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(recovery(&report).faults, [""; 0]);
        mend(&victim.vault);
        assert!(victim.disk.bytes().unwrap() == victim.bytes, "there was nothing to mend");
    });
}

#[test]
fn what_is_saved_of_a_whole_vault_is_all_of_it() {
    within(60, || {
        let victim = Victim::new();
        let place = Tree::new();
        let (report, saved) = save(&victim.vault, &place);
        assert!(report.is_complete(), "{:?}", report.errors);
        assert_eq!(snapshot_numbers(&saved).unwrap(), [3, 2, 1]);
        for (number, expected) in &victim.snapshots {
            assert_eq!(&contents(&saved, Some(*number)).unwrap(), expected, "snapshot {number}");
        }
        assert!(saved.snapshots().unwrap().iter().all(|snapshot| !snapshot.recovered && !snapshot.partial));
        assert_goes_on(&saved);
        assert!(victim.disk.bytes().unwrap() == victim.bytes, "the old one is not touched");
    });
}

#[test]
fn copies_of_header_and_root_and_heads_of_segments_are_mended_in_place() {
    within(120, || {
        let victim = Victim::new();
        let heads: Vec<usize> = (EXTENTS..victim.bytes.len())
            .step_by(64)
            .filter(|&at| victim.bytes[at..].starts_with(b"FLINTSG1"))
            .collect();
        assert!(heads.len() >= 3, "{heads:?}");
        let spares = [
            HEADER_A + 100..HEADER_A + 101,
            HEADER_B..HEADER_B + 4096,
            (16 << 10) + 5..(16 << 10) + 9,
            ROOT_A..ROOT_A + 512,
            ROOT_B + 300..ROOT_B + 301,
            ROOT_B + 600..ROOT_B + 601,
        ];
        let heads = heads.into_iter().map(|at| at + 20..at + 21);
        for range in spares.into_iter().chain(heads) {
            let what = format!("{range:?}");
            victim.destroy(range);
            assert!(verify(&victim.vault).unwrap().is_damaged(), "{what}");
            let report = look(&victim.vault);
            assert!(report.is_complete(), "{what}: {:?}", report.errors);
            assert_eq!(recovery(&report).faults.len(), 1, "{what}: {:?}", recovery(&report).faults);
            mend(&victim.vault);
            assert_sound(&victim.vault);
            assert!(victim.disk.bytes().unwrap() == victim.bytes, "{what}: all is as it was");
            victim.heal();
        }
    });
}

#[test]
fn with_both_roots_gone_the_newest_commit_is_found_again() {
    within(60, || {
        let victim = Victim::new();
        for range in [ROOT_A..ROOT_A + 512, ROOT_B..ROOT_B + 512] {
            victim.destroy(range);
        }
        assert_eq!(verify(&victim.vault).unwrap_err().error.kind(), ErrorKind::Integrity);
        let report = look(&victim.vault);
        assert!(report.is_complete(), "{:?}", report.errors);
        assert_eq!(recovery(&report).faults.len(), 3, "{:?}", recovery(&report).faults);
        let place = Tree::new();
        let (_, saved) = save(&victim.vault, &place);
        mend(&victim.vault);
        for vault in [&victim.vault, &saved] {
            assert_sound(vault);
            assert_eq!(snapshot_numbers(vault).unwrap(), [3, 2, 1]);
            assert_eq!(contents(vault, None).unwrap(), victim.snapshots[&3]);
            assert_goes_on(vault);
        }
    });
}

#[test]
fn the_copy_of_the_header_that_is_left_opens_what_is_left() {
    within(60, || {
        let victim = Victim::new();
        for range in [HEADER_A..HEADER_A + 4096, ROOT_A..ROOT_A + 512, ROOT_B..ROOT_B + 512] {
            victim.destroy(range);
        }
        let vault = Vault::open_in("memory.flint", victim.disk.dir(), &password(), None).unwrap();
        mend(&vault);
        assert!(victim.disk.bytes().unwrap() == victim.bytes, "all of it is back");
        // Without any there are no keys.
        victim.destroy(HEADER_A..HEADER_A + 4096);
        victim.destroy(HEADER_B..HEADER_B + 4096);
        let error = Vault::open_in("memory.flint", victim.disk.dir(), &password(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    });
}

#[test]
fn a_commit_record_that_is_lost_costs_no_content() {
    within(170, || {
        let victim = Victim::new();
        // The first is that of the empty vault.
        let commits = victim.records(COMMIT);
        assert_eq!(commits.len(), 4);
        for (number, range) in (0..).zip(commits) {
            let what = format!("the commit record of snapshot {number}");
            victim.destroy(range.clone());
            let report = look(&victim.vault);
            let names_it = |error: &flint_pipe::EntryError| error.message.contains(&format!("at byte {}", range.start));
            // There was nothing in the first.
            let losses = usize::from(number > 0);
            assert_eq!(report.errors.iter().filter(|error| names_it(error)).count(), losses, "{what}: {report:?}");
            assert_eq!(report.errors.len(), losses, "{what}: {:?}", report.errors);
            assert!(!recovery(&report).faults.is_empty(), "{what}");
            let place = Tree::new();
            let (_, saved) = save(&victim.vault, &place);
            mend(&victim.vault);
            for vault in [&victim.vault, &saved] {
                assert_sound(vault);
                let found = victim.assert_nothing_is_made_up(vault, &what);
                // A later commit lists the trees of this one; nothing does of the last, which took something out.
                for (kept, expected) in victim.snapshots.iter().filter(|(kept, _)| (**kept, number) != (3, 3)) {
                    assert_eq!(&found[kept], expected, "{what}: snapshot {kept}");
                }
                let newest = if number == 3 { 2 } else { 3 };
                assert_eq!(contents(vault, None).unwrap(), victim.snapshots[&newest], "{what}");
                assert_goes_on(vault);
            }
            victim.heal();
        }
    });
}

#[test]
fn all_commit_records_and_roots_may_be_lost_and_what_was_stored_is_not() {
    within(60, || {
        let victim = Victim::new();
        victim.records(COMMIT).into_iter().for_each(|range| victim.destroy(range));
        for range in [ROOT_A..ROOT_A + 512, ROOT_B..ROOT_B + 512] {
            victim.destroy(range);
        }
        let place = Tree::new();
        let (report, saved) = save(&victim.vault, &place);
        assert!(recovery(&report).snapshots.iter().all(|found| found.recovered && found.without_commit));
        mend(&victim.vault);
        for vault in [&victim.vault, &saved] {
            assert_sound(vault);
            let found = victim.assert_nothing_is_made_up(vault, "no commits");
            for (name, bytes) in victim.snapshots.values().flatten() {
                assert!(Victim::saved(&found, name, bytes).is_some(), "{}", name.display());
            }
            assert_goes_on(vault);
        }
    });
}

#[test]
fn a_data_record_that_is_lost_costs_the_files_in_it_and_each_is_named() {
    within(170, || {
        let victim = Victim::new();
        for range in victim.records(DATA) {
            let what = format!("{range:?}");
            victim.destroy(range.start + 70..range.start + 71);
            let report = look(&victim.vault);
            assert!(!report.is_complete() && report.is_damaged(), "{what}");
            let place = Tree::new();
            let (report, saved) = save(&victim.vault, &place);
            let found = victim.assert_nothing_is_made_up(&saved, &what);
            let mut lost = 0;
            for (number, snapshot) in &victim.snapshots {
                for (name, bytes) in snapshot {
                    if found[number].get(name) != Some(bytes) {
                        lost += 1;
                        assert_eq!(found[number].get(name), None, "{what}: no other version in its place");
                        assert!(named(&report).contains(name.as_path()), "{what}: {} is not named", name.display());
                    }
                }
            }
            let told: u64 = recovery(&report).snapshots.iter().map(|found| found.lost_entries).sum();
            assert!(lost > 0 && told == lost, "{what}: {lost} are lost, {told} are told of");
            assert!(saved.snapshots().unwrap().iter().any(|snapshot| snapshot.partial), "{what}");
            victim.heal();
        }
    });
}

#[test]
fn a_table_of_records_is_not_needed() {
    within(60, || {
        let victim = Victim::new();
        let tables = victim.records(TABLE);
        assert!(!tables.is_empty());
        tables.into_iter().for_each(|range| victim.destroy(range));
        assert!(verify(&victim.vault).unwrap().is_damaged());
        let place = Tree::new();
        let (report, saved) = save(&victim.vault, &place);
        assert!(report.is_complete(), "{:?}", report.errors);
        for (number, expected) in &victim.snapshots {
            assert_eq!(&contents(&saved, Some(*number)).unwrap(), expected, "snapshot {number}");
        }
    });
}

#[test]
fn a_block_of_an_index_that_is_lost_costs_what_it_says_and_that_is_named() {
    within(170, || {
        let victim = Victim::new();
        for kind in [LEAF, TREE_HEAD] {
            for range in victim.records(kind) {
                let what = format!("{kind}: {range:?}");
                victim.destroy(range);
                let place = Tree::new();
                let (report, saved) = save(&victim.vault, &place);
                assert!(!report.is_complete(), "{what}");
                assert!(report.errors.iter().any(|error| error.message.contains("index")), "{what}: {report:?}");
                let found = victim.assert_nothing_is_made_up(&saved, &what);
                for (number, held) in &found {
                    // What a snapshot holds is what it held: nothing of an older one stands in for it.
                    let expected = &victim.snapshots[number];
                    assert!(held.iter().all(|(name, bytes)| expected.get(name) == Some(bytes)), "{what}: {number}");
                }
                victim.heal();
            }
        }
    });
}

#[test]
fn a_full_index_that_is_lost_is_made_again_from_what_it_was_made_of() {
    within(170, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        let mut expected = BTreeMap::new();
        for number in 1..=36 {
            tree.file(format!("d/{number}"), text(number, 200));
            tree.file("d/same", text(number, 100));
            add(&vault, tree.root(), &["d"]);
            expected.insert(number, contents(&vault, None).unwrap());
        }
        let bytes = disk.bytes().unwrap();
        // The run that wrote the full index has two heads of trees, its own changes first.
        let mut heads: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
        for (range, kind) in records(&bytes) {
            if kind == TREE_HEAD {
                heads.entry(&bytes[range.start + 8..range.start + 24]).or_default().push(range.start);
            }
        }
        let full = heads.values().filter(|heads| heads.len() == 2).map(|heads| heads[1]).max();
        let full = full.expect("a full index was due");
        disk.flip(full + 70, 1);
        assert!(contents(&vault, None).is_err());
        let report = look(&vault);
        assert!(report.is_complete(), "{:?}", report.errors);
        mend(&vault);
        assert_sound(&vault);
        assert_eq!(snapshot_numbers(&vault).unwrap().len(), 36);
        for (number, expected) in &expected {
            assert_eq!(&contents(&vault, Some(*number)).unwrap(), expected, "snapshot {number}");
        }
        assert_goes_on(&vault);
    });
}

#[test]
fn what_a_killed_run_has_left_is_told_apart_and_saved() {
    within(60, || {
        let victim = Victim::new();
        // As if the last run had been killed between its commit record and its root.
        let roots = |bytes: &[u8]| [ROOT_A, ROOT_B].map(|at| bytes[at..at + 512].to_vec());
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        tree.file("d", "one");
        add(&vault, tree.root(), &["d"]);
        let older = roots(&disk.bytes().unwrap());
        tree.file("d", "another");
        add(&vault, tree.root(), &["d"]);
        let mut bytes = disk.bytes().unwrap();
        for (at, root) in [ROOT_A, ROOT_B].into_iter().zip(older) {
            bytes[at..at + 512].copy_from_slice(&root);
        }
        disk.set_bytes(&bytes);
        assert_sound(&vault);

        let report = look(&vault);
        assert!(report.is_complete(), "{:?}", report.errors);
        let found = &recovery(&report).snapshots;
        assert_eq!(found.iter().map(|found| (found.number, found.beside)).collect::<Vec<_>>(), [(1, false), (2, true)]);
        mend(&vault);
        assert!(disk.bytes().unwrap() == bytes, "it is no part of the vault");
        let place = Tree::new();
        let (_, saved) = save(&vault, &place);
        assert_eq!(contents(&saved, None).unwrap()[Path::new("d")], b"one", "the state is what the root says");
        assert_eq!(contents(&saved, Some(2)).unwrap()[Path::new("d")], b"another");
        assert_eq!(saved.snapshots().unwrap().iter().map(|found| found.recovered).collect::<Vec<_>>(), [false, true]);
        drop(victim);
    });
}

#[test]
fn a_commit_whose_root_stood_alone_and_is_bad_is_found_again() {
    within(60, || {
        // The power fails when the root has been written into one place and synced, and that sector goes bad.
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        tree.file("d", "one");
        add(&vault, tree.root(), &["d"]);
        let older = disk.bytes().unwrap();
        tree.file("d", "another");
        add(&vault, tree.root(), &["d"]);
        for (alone, other) in [(ROOT_A, ROOT_B), (ROOT_B, ROOT_A)] {
            let mut bytes = disk.bytes().unwrap();
            bytes[other..other + 512].copy_from_slice(&older[other..other + 512]);
            bytes[alone + 100] ^= 1;
            let damaged = Disk::new();
            damaged.start_with(Some(bytes));
            let vault = Vault::open_in("memory.flint", damaged.dir(), &password(), None).unwrap();
            assert_eq!(contents(&vault, None).unwrap()[Path::new("d")], b"one", "it is all that a reader can know");
            let report = look(&vault);
            assert!(report.is_complete(), "{:?}", report.errors);
            mend(&vault);
            assert_sound(&vault);
            assert_eq!(snapshot_numbers(&vault).unwrap(), [2, 1]);
            assert_eq!(contents(&vault, None).unwrap()[Path::new("d")], b"another");
            assert_goes_on(&vault);
        }
    });
}

#[test]
fn two_heads_of_one_number_are_both_kept() {
    within(60, || {
        // Two runs that both follow snapshot 1: each believed itself to be snapshot 2.
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        tree.file("d", "one");
        add(&vault, tree.root(), &["d"]);
        let before = disk.bytes().unwrap();
        tree.file("d", "two, never acknowledged");
        add(&vault, tree.root(), &["d"]);
        let mut bytes = disk.bytes().unwrap();
        for at in [ROOT_A, ROOT_B] {
            bytes[at..at + 512].copy_from_slice(&before[at..at + 512]);
        }
        disk.set_bytes(&bytes);
        tree.file("d", "two");
        add(&vault, tree.root(), &["d"]);
        for at in [ROOT_A, ROOT_B] {
            disk.flip(at + 100, 1);
        }
        mend(&vault);
        assert_sound(&vault);
        let held: BTreeSet<Vec<u8>> =
            (1..=3).map(|number| contents(&vault, Some(number)).unwrap().remove(Path::new("d")).unwrap()).collect();
        let expected = ["one", "two", "two, never acknowledged"].map(|text| text.as_bytes().to_vec());
        assert_eq!(held, BTreeSet::from(expected));
        assert_eq!(contents(&vault, None).unwrap()[Path::new("d")], b"two", "of two heads the later one counts");
        assert_goes_on(&vault);
    });
}

#[test]
fn whatever_is_destroyed_nothing_is_made_up_and_what_is_mended_goes_on() {
    within(170, || {
        let victim = Victim::new();
        let all = records(&victim.bytes);
        let mut mended = 0;
        for seed in 0..60 {
            let mut dice = Dice(seed);
            let what = format!("seed {seed}");
            for _ in 0..=dice.below(5) {
                let range = match dice.below(4) {
                    0 => all[dice.below(all.len())].0.clone(),
                    1 => {
                        let at = dice.below(victim.bytes.len() / 4096) * 4096;
                        // One copy of the header stays.
                        if at < HEADER_B {
                            HEADER_A..4096
                        } else if at < ROOT_A {
                            ROOT_A..ROOT_A + 512
                        } else {
                            at..at + 512
                        }
                    }
                    2 => [ROOT_A, ROOT_B][dice.below(2)]..ROOT_B + 512,
                    _ => {
                        let commits = victim.records(COMMIT);
                        commits[dice.below(commits.len())].clone()
                    }
                };
                victim.destroy(range.start..range.end.min(victim.bytes.len()));
            }
            let vault = Vault::open_in("memory.flint", victim.disk.dir(), &password(), None).unwrap();
            match vault.recover(&RecoverOptions::default(), &()) {
                Ok(report) => {
                    let place = Tree::new();
                    let (_, saved) = save(&vault, &place);
                    victim.assert_nothing_is_made_up(&saved, &what);
                    assert_goes_on(&saved);
                    mend(&vault);
                    if report.is_complete() {
                        assert_sound(&vault);
                        mended += 1;
                    }
                    // What is lost is lost, and what is left can be used.
                    let more = Tree::new();
                    more.file("more", "to come");
                    assert!(
                        add_with(&vault, more.root(), &["more"], simple()).is_ok() || !report.is_complete(),
                        "{what}"
                    );
                    assert!(verify(&vault).is_ok(), "{what}");
                }
                Err(failed) => assert_eq!(failed.error.kind(), ErrorKind::Integrity, "{what}: {:?}", failed.error),
            }
            victim.heal();
        }
        assert!(mended > 5, "{mended} of 60 could be mended whole");
    });
}

#[test]
fn mending_may_be_cut_anywhere() {
    within(170, || {
        let victim = Victim::new();
        let commits = victim.records(COMMIT);
        // The chain is broken in its middle, a root is bad, and so is a copy of the header.
        for range in [commits[1].clone(), ROOT_B..ROOT_B + 512, HEADER_A..HEADER_A + 4096] {
            victim.destroy(range);
        }
        victim.disk.record();
        mend(&victim.vault);
        let (mut moments, mut outcomes) = (0_u64, 0_u64);
        victim.disk.recorded().each_moment(|moment| {
            moments += 1;
            moment.each_outcome(Bound { all: 16, seeds: scale() }, moments, |outcome| {
                outcomes += 1;
                let what = format!("power cut after {} changes of the disk: {}", moment.number, outcome.what);
                victim.disk.start_with(outcome.image);
                let vault = Vault::open_in("memory.flint", victim.disk.dir(), &password(), None);
                let vault = vault.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                mend(&vault);
                assert_sound(&vault);
                let found = victim.assert_nothing_is_made_up(&vault, &what);
                assert_eq!(found[&3], victim.snapshots[&3], "{what}");
                assert_eq!(found[&2], victim.snapshots[&2], "{what}");
                assert_eq!(contents(&vault, None).unwrap(), victim.snapshots[&3], "{what}");
            });
        });
        assert!(moments > 8, "only {moments} moments");
        eprintln!("mending: {moments} power cuts, {outcomes} outcomes");
    });
}

#[test]
fn any_call_of_mending_may_fail() {
    within(170, || {
        let victim = Victim::new();
        let commits = victim.records(COMMIT);
        for range in [commits[1].clone(), ROOT_B..ROOT_B + 512, HEADER_A..HEADER_A + 4096] {
            victim.destroy(range);
        }
        let damaged = victim.disk.bytes().unwrap();
        let mut options = RecoverOptions::default();
        options.in_place = true;
        let mut failed = 0;
        for forever in [false, true] {
            for nth in 1.. {
                let what = format!("call {nth} fails, {}", if forever { "and all after it" } else { "once" });
                let errno = if nth % 2 == 0 { libc::EIO } else { libc::ENOSPC };
                victim.disk.breaks([Fault { on: |_| true, nth, forever, effect: Effect::Errno(errno) }]);
                let result = victim.vault.recover(&options, &());
                let fired = victim.disk.heal();
                failed += u64::from(result.is_err());
                // What could not be read looks like a loss, and so nothing is mended then.
                mend(&victim.vault);
                assert_sound(&victim.vault);
                let found = victim.assert_nothing_is_made_up(&victim.vault, &what);
                assert_eq!(found[&3], victim.snapshots[&3], "{what}");
                assert_eq!(found[&2], victim.snapshots[&2], "{what}");
                victim.disk.set_bytes(&damaged);
                if fired == 0 {
                    break;
                }
            }
        }
        assert!(failed > 20, "only {failed} runs failed");
    });
}

#[test]
fn who_mends_wants_the_vault_alone_and_who_saves_does_not_overwrite() {
    within(60, || {
        let victim = Victim::new();
        let mut options = RecoverOptions::default();
        options.in_place = true;
        options.pipeline.lock_timeout = Some(std::time::Duration::ZERO);
        let other = flint_pipe::VaultDir::open(&victim.disk, true).unwrap().unwrap();
        assert!(other.try_lock(flint_pipe::Lock::Presence, flint_pipe::LockMode::Shared).unwrap());
        assert!(matches!(victim.vault.recover(&options, &()).unwrap_err().error, Error::Locked(_)));
        // Who only looks waits for nobody.
        assert!(look(&victim.vault).is_complete());
        drop(other);
        assert!(victim.vault.recover(&options, &()).is_ok());

        let place = Tree::new();
        place.file("there", "before");
        options.in_place = false;
        options.output = Some(place.path("there"));
        assert!(matches!(victim.vault.recover(&options, &()).unwrap_err().error, Error::Exists(_)));
        assert_eq!(std::fs::read(place.path("there")).unwrap(), b"before");
        options.in_place = true;
        assert_eq!(victim.vault.recover(&options, &()).unwrap_err().error.kind(), ErrorKind::Usage);
        options.output = Some(place.path("new"));
        (options.in_place, options.dry_run) = (false, true);
        assert!(victim.vault.recover(&options, &()).is_ok());
        assert!(!place.path("new").exists(), "nothing is written");
    });
}

#[test]
fn a_vault_that_was_cut_can_be_used_when_it_is_mended() {
    within(120, || {
        let victim = Victim::new();
        for commit in victim.records(COMMIT).into_iter().skip(1) {
            let what = format!("cut at byte {}", commit.start);
            victim.disk.set_bytes(&victim.bytes[..commit.start]);
            mend(&victim.vault);
            victim.assert_nothing_is_made_up(&victim.vault, &what);
            let mended = victim.disk.bytes().unwrap();
            mend(&victim.vault);
            assert!(victim.disk.bytes().unwrap() == mended, "{what}: there is nothing more to mend");
            assert_goes_on(&victim.vault);
        }
    });
}

#[test]
fn what_was_written_anew_is_no_snapshot_of_its_own() {
    within(60, || {
        let victim = Victim::new();
        victim.destroy(victim.records(COMMIT)[1].clone());
        mend(&victim.vault);
        let report = look(&victim.vault);
        let found = &recovery(&report).snapshots;
        let found: Vec<_> = found.iter().map(|found| (found.number, found.beside)).collect();
        assert_eq!(found, [(3, false), (2, false), (1, false)]);
    });
}

#[test]
fn without_a_root_a_commit_that_does_not_open_may_have_been_the_newest() {
    within(60, || {
        let victim = Victim::new();
        let newest = victim.records(COMMIT).pop().unwrap();
        let header = victim.bytes.windows(8).rposition(|bytes| bytes == b"FLINTSG1").unwrap();
        for range in [newest.start + 70..newest.start + 71, header..header + 256] {
            for range in [range, ROOT_A..ROOT_A + 512, ROOT_B..ROOT_B + 512] {
                victim.destroy(range);
            }
            let report = look(&victim.vault);
            let names_it =
                |error: &flint_pipe::EntryError| error.message.contains(&format!("at byte {}", newest.start));
            assert!(report.errors.iter().any(names_it), "{:?}", report.errors);
            victim.heal();
        }
    });
}

#[test]
fn a_copy_that_the_disk_does_not_give_back_is_as_good_as_a_bad_one() {
    within(120, || {
        let victim = Victim::new();
        for nth in 1..=9 {
            victim.disk.breaks([Fault::once(|op| op == Op::Read, nth, Effect::Errno(5))]);
            let vault = Vault::open_in("memory.flint", victim.disk.dir(), &password(), None).unwrap();
            let report = vault.recover(&RecoverOptions::default(), &()).unwrap_or_else(|failed| panic!("{failed}"));
            assert_eq!(recovery(&report).snapshots.len(), 3, "{nth}");
            assert_eq!(victim.disk.heal(), 1, "{nth}");
        }
    });
}

#[test]
fn what_is_behind_a_lost_head_of_an_index_is_named() {
    within(60, || {
        let victim = Victim::new();
        victim.destroy(victim.records(TREE_HEAD)[1].clone());
        let report = look(&victim.vault);
        assert!(named(&report).contains(Path::new("d/noise")), "{:?}", report.errors);
        let found = &recovery(&report).snapshots;
        assert!(found.iter().all(|found| (found.number == 1) == (found.lost_entries == 0)), "{found:?}");
    });
}
