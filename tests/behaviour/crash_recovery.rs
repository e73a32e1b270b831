//! The power may fail at any call to the disk: what was acknowledged is whole afterwards, and the next `add` works.

use std::path::Path;

use flint_pipe::{Error, ErrorKind, Vault};

use crate::support::disk::{Disk, Effect, Fault, Left, Op};
use crate::support::tree::{Tree, noise, text};
use crate::support::{
    Contents, add, add_with, assert_sound, cheap, contents, empty_vault_on, password, simple, snapshot_numbers,
    vault_in, verify, within,
};

/// Ways in which a power cut may leave what was not synced.
fn ways(seed: u64) -> Vec<Left> {
    let mut ways = vec![Left::Nothing, Left::Everything];
    ways.extend((0..4).map(|number| Left::Some { seed: seed * 31 + number, piece: 512 }));
    ways.push(Left::Some { seed: seed * 37, piece: 4096 });
    ways
}

fn tree(seed: u64) -> Tree {
    let tree = Tree::new();
    tree.file("d/text", text(seed, 20_000));
    tree.file("d/noise", noise(seed, 300_000));
    tree.file(format!("d/only {seed}"), "here");
    tree
}

/// What each snapshot holds, as far as it was acknowledged.
type Acknowledged = Vec<Contents>;

/// Every acknowledged snapshot is there and whole; a snapshot more may be there, whole too.
fn assert_acknowledged(vault: &Vault, acknowledged: &Acknowledged, what: &str) {
    let numbers = snapshot_numbers(vault).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let expected = acknowledged.len() as u64;
    let newest = numbers.first().copied().unwrap_or(0);
    assert!(newest == expected || newest == expected + 1, "{what}: snapshots {numbers:?}, acknowledged {expected}");
    assert_eq!(numbers, (1..=newest).rev().collect::<Vec<u64>>(), "{what}");
    for (at, expected) in (1..).zip(acknowledged) {
        let found = contents(vault, Some(at)).unwrap_or_else(|error| panic!("{what}: snapshot {at}: {error:?}"));
        assert!(&found == expected, "{what}: snapshot {at} has changed");
    }
    contents(vault, None).unwrap_or_else(|error| panic!("{what}: newest: {error:?}"));
}

/// Adds `sources`, with the power cut at each call in turn and whatever that leaves.
fn cut_an_add_everywhere(disk: &Disk, vault: &Vault, acknowledged: &Acknowledged, sources: &Tree) {
    let before = disk.bytes().expect("there is a vault");
    let mut cuts = 0;
    for nth in 1.. {
        let mut fired = 0;
        for left in ways(nth) {
            let what = format!("power cut at call {nth}, {left:?} left");
            disk.breaks([Fault::once(|_| true, nth, Effect::PowerCut)]);
            let result = add_with(vault, sources.root(), &["d"], simple());
            fired += u64::from(result.is_err());
            disk.power_cycle(left);
            let mut now = acknowledged.clone();
            if result.is_ok() {
                // Acknowledged: whatever comes after, it is there.
                let mut newest = acknowledged.last().cloned().unwrap_or_default();
                newest.extend(of(sources));
                now.push(newest);
            }
            assert_acknowledged(vault, &now, &what);
            assert_sound(vault);
            if matches!(left, Left::Nothing | Left::Some { piece: 4096, .. }) {
                let report = add_with(vault, sources.root(), &["d"], simple());
                let report = report.unwrap_or_else(|failed| panic!("{what}: the next add: {:?}", failed.error));
                assert!(report.is_complete(), "{what}");
                let packed = contents(vault, None).unwrap();
                assert!(of(sources).iter().all(|(name, bytes)| packed.get(name) == Some(bytes)), "{what}");
                assert_sound(vault);
            }
            disk.set_bytes(&before);
        }
        if fired == 0 {
            break;
        }
        cuts = nth;
    }
    assert!(cuts > 20, "only {cuts} calls");
}

/// What the files of a tree hold, by their names in a vault.
fn of(tree: &Tree) -> Contents {
    let mut contents = Contents::new();
    for entry in std::fs::read_dir(tree.path("d")).expect("it is listed") {
        let name = Path::new("d").join(entry.expect("it is listed").file_name());
        contents.insert(name.clone(), std::fs::read(tree.path(&name)).expect("it is read"));
    }
    contents
}

#[test]
fn a_first_add_may_be_cut_anywhere() {
    within(170, || {
        let disk = Disk::new();
        let vault = empty_vault_on(&disk);
        cut_an_add_everywhere(&disk, &vault, &Vec::new(), &tree(1));
    });
}

#[test]
fn a_second_and_a_third_add_may_be_cut_anywhere() {
    within(170, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let mut acknowledged: Acknowledged = Vec::new();
        for seed in 1..=2 {
            let sources = tree(seed);
            add(&vault, sources.root(), &["d"]);
            let mut newest = acknowledged.last().cloned().unwrap_or_default();
            newest.extend(of(&sources));
            acknowledged.push(newest);
            let next = tree(seed + 10);
            // The disk is as after the run: the second copy of the root has not been synced yet.
            if seed == 2 {
                disk.power_cycle(Left::Nothing);
                // The root that was synced stands alone; the other slot holds the one before it.
                assert_acknowledged(&vault, &acknowledged, "between two adds");
            }
            cut_an_add_everywhere(&disk, &vault, &acknowledged, &next);
        }
    });
}

#[test]
fn making_a_vault_may_be_cut_anywhere() {
    within(170, || {
        let sources = tree(1);
        for nth in 1.. {
            let mut fired = 0;
            for left in [Left::Nothing, Left::Everything, Left::Some { seed: nth, piece: 512 }] {
                let what = format!("power cut at call {nth}, {left:?} left");
                let disk = Disk::new();
                disk.breaks([Fault::once(|_| true, nth, Effect::PowerCut)]);
                let made = Vault::open_in("memory.flint", disk.dir(), &password(), Some(&cheap()));
                let result = made
                    .map_err(flint_pipe::Failed::from)
                    .and_then(|vault| add_with(&vault, sources.root(), &["d"], simple()));
                fired += u64::from(result.is_err());
                disk.power_cycle(left);
                if disk.bytes().is_none() {
                    assert!(result.is_err(), "{what}: an acknowledged vault is gone");
                    continue;
                }
                // A vault that has its name is whole, whatever it holds.
                let vault = Vault::open_in("memory.flint", disk.dir(), &password(), None);
                let vault = vault.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                let acknowledged = if result.is_ok() { vec![of(&sources)] } else { Vec::new() };
                assert_acknowledged(&vault, &acknowledged, &what);
                assert_sound(&vault);
            }
            if fired == 0 {
                break;
            }
        }
    });
}

#[test]
fn a_root_torn_within_its_sector_opens_all_the_same() {
    within(170, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let first = tree(1);
        add(&vault, first.root(), &["d"]);
        let before = disk.bytes().unwrap();
        let acknowledged = vec![of(&first)];
        let second = tree(2);
        let mut reported = 0;
        for nth in 1.. {
            let mut fired = 0;
            for number in 0..4 {
                // No disk is this bad: sectors are whole. The format holds against it all the same.
                let left = Left::Some { seed: nth * 101 + number, piece: 48 };
                let what = format!("torn at call {nth}, {number}");
                disk.breaks([Fault::once(|_| true, nth, Effect::PowerCut)]);
                let result = add_with(&vault, second.root(), &["d"], simple());
                fired += u64::from(result.is_err());
                disk.power_cycle(left);
                let mut now = acknowledged.clone();
                if result.is_ok() {
                    let mut newest = of(&first);
                    newest.extend(of(&second));
                    now.push(newest);
                }
                assert_acknowledged(&vault, &now, &what);
                // A torn copy of the root is a bad spare copy, and verify says so; nothing else may be wrong.
                let report = verify(&vault).unwrap_or_else(|failed| panic!("{what}: {:?}", failed.error));
                for error in &report.errors {
                    assert!(error.message.starts_with("the root at byte"), "{what}: {error:?}");
                }
                reported += report.errors.len();
                let report = add_with(&vault, second.root(), &["d"], simple()).unwrap();
                assert!(report.is_complete());
                disk.power_cycle(Left::Everything);
                assert_sound(&vault);
                disk.set_bytes(&before);
            }
            if fired == 0 {
                break;
            }
        }
        assert!(reported > 0, "no root was ever torn, so this test shows nothing");
    });
}

#[test]
fn writers_of_two_processes_may_be_cut_together() {
    within(170, || {
        let disk = Disk::new();
        let vault = empty_vault_on(&disk);
        let before = disk.bytes().unwrap();
        let open = || Vault::open_in("memory.flint", disk.dir(), &password(), None).unwrap();
        let (one, two) = (open(), open());
        let sources = [tree(1), tree(2)];
        for round in 0..60 {
            disk.breaks([Fault::once(|_| true, 5 + 2 * round, Effect::PowerCut)]);
            let results = std::thread::scope(|scope| {
                let running: Vec<_> = [(&one, &sources[0]), (&two, &sources[1])]
                    .into_iter()
                    .map(|(vault, tree)| {
                        scope
                            .spawn(move || add_with(vault, tree.root(), &["d"], simple()).map(|report| report.snapshot))
                    })
                    .collect();
                running.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            disk.power_cycle(Left::Some { seed: round, piece: 512 });
            let what = format!("round {round}: {results:?}");
            let numbers = snapshot_numbers(&vault).unwrap_or_else(|error| panic!("{what}: {error:?}"));
            for result in results.iter().zip(&sources) {
                if let (Ok(number), tree) = result {
                    let number = number.expect("an add makes a snapshot");
                    assert!(numbers.contains(&number), "{what}: {numbers:?}");
                    let found = contents(&vault, None).unwrap();
                    let own = format!("d/only {}", if std::ptr::eq(tree, &sources[0]) { 1 } else { 2 });
                    assert!(found.contains_key(Path::new(&own)), "{what}");
                }
            }
            assert_sound(&vault);
            let third = tree(3);
            add(&vault, third.root(), &["d"]);
            assert_sound(&vault);
            disk.set_bytes(&before);
        }
    });
}

#[test]
fn what_was_acknowledged_survives_any_later_cut_before_the_next_sync() {
    within(60, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let mut expected = Contents::new();
        for seed in 1..=20 {
            let sources = tree(seed);
            add(&vault, sources.root(), &["d"]);
            expected.extend(of(&sources));
            disk.power_cycle(match seed % 3 {
                0 => Left::Nothing,
                1 => Left::Some { seed, piece: 512 },
                _ => Left::Everything,
            });
            assert!(contents(&vault, None).unwrap() == expected, "after add {seed}");
            assert_sound(&vault);
        }
        assert_eq!(snapshot_numbers(&vault).unwrap().len(), 20);
    });
}

#[test]
fn the_order_of_writes_and_syncs_is_that_of_the_format() {
    within(60, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let sources = tree(1);
        disk.breaks([]);
        add(&vault, sources.root(), &["d"]);
        let calls: Vec<Op> = disk
            .calls()
            .into_iter()
            .filter(|op| matches!(op, Op::Write | Op::Sync | Op::DirSync))
            .fold(Vec::new(), |mut runs, op| {
                if runs.last() != Some(&op) {
                    runs.push(op);
                }
                runs
            });
        // Data; sync; directory; commit record; sync; root; sync; second copy of the root.
        use Op::{DirSync, Sync, Write};
        assert_eq!(calls, [Write, Sync, DirSync, Write, Sync, Write, Sync, Write]);
    });
}

#[test]
fn a_commit_record_that_does_not_open_is_damage_and_never_a_step_back() {
    within(60, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let (first, second) = (tree(1), tree(2));
        add(&vault, first.root(), &["d"]);
        add(&vault, second.root(), &["d"]);
        let bytes = disk.bytes().unwrap();
        // Root A at 48 KiB and root B at 56 KiB; offset 40 has where the commit record is.
        let offset = u64::from_le_bytes(bytes[(48 << 10) + 40..(48 << 10) + 48].try_into().unwrap());
        disk.flip(usize::try_from(offset).unwrap() + 70, 1);
        for result in [contents(&vault, None), contents(&vault, Some(1))] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        }
        let failed = add_with(&vault, second.root(), &["d"], simple()).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Integrity);
        let failed = verify(&vault).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Integrity);
    });
}
