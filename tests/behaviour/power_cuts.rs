//! The power may fail at any moment, and the disk may lose, tear and reorder what it was not made to keep: what was
//! acknowledged is whole afterwards, `verify` says so, and the next `add` works.
//!
//! A run is recorded once; then every moment of it is a power cut, and every moment has many outcomes (the head of
//! `support/disk.rs` says which). `FLINT_TEST_SCALE` makes the tests longer, `FLINT_TEST_SEED` repeats one seed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flint_pipe::{Vault, VaultDir as _};

use crate::support::disk::media::{Bound, Left, Moment, Outcome};
use crate::support::disk::{Disk, Effect, Fault, Op};
use crate::support::scenes::{Kind, Scene, acknowledged, scale, seeds};
use crate::support::tree::Tree;
use crate::support::{add, assert_sound, names, password, vault_in, within};

/// All outcomes of a moment if they are so many at most, or else so many by dice beside the plain ones.
fn bound() -> Bound {
    Bound { all: 64 * usize::try_from(scale()).expect("a small number"), seeds: 8 * scale() }
}

/// How much was looked at.
#[derive(Default)]
struct Tally {
    moments: u64,
    complete: u64,
    outcomes: u64,
}

impl Tally {
    fn say(&self, what: &str) {
        let Self { moments, complete, outcomes } = self;
        eprintln!("{what}: {moments} power cuts, {outcomes} outcomes; of {complete} cuts all that the disk allows");
    }
}

/// Does it, and cuts the power at every moment of that.
fn cut_everywhere(scene: &Scene, seed: u64, bound: Bound, tally: &mut Tally) {
    scene.reset();
    let results = scene.run(seed, &|| scene.disk.record());
    for result in results {
        result.unwrap_or_else(|failed| panic!("nothing went wrong: {:?}", failed.error));
    }
    scene.disk.recorded().each_moment(|moment| {
        tally.moments += 1;
        let mut number = 0_u64;
        let is_all = moment.each_outcome(bound, seed, |outcome| {
            number += 1;
            assert_survived(scene, moment, &outcome, number, seed);
        });
        tally.outcomes += number;
        tally.complete += u64::from(is_all);
    });
}

/// What is there after one outcome of one cut.
fn assert_survived(scene: &Scene, moment: &Moment, outcome: &Outcome, number: u64, seed: u64) {
    let what = format!(
        "{:?}, FLINT_TEST_SEED={seed}, cut after {} changes of the disk, outcome {number}: {}",
        scene.kind, moment.number, outcome.what
    );
    let acknowledged = acknowledged(&moment.marks);
    scene.disk.start_with(outcome.image.clone());
    if outcome.image.is_none() {
        assert!(scene.kind.makes() && acknowledged.is_empty(), "{what}: the vault is gone");
        return;
    }
    let holds = scene.assert_whole(&acknowledged, &[], outcome.is_torn, &what);
    // Every few times the power fails again.
    let left = match number % 12 {
        0 => Some(Left::Nothing),
        4 => Some(Left::Some { seed: seed ^ number }),
        8 => Some(Left::Everything),
        _ => None,
    };
    scene.assert_next_add_works(&holds, left, &what);
}

fn cut(kind: Kind, count: u64) {
    within(150 * scale(), move || {
        let scene = Scene::new(kind);
        let mut tally = Tally::default();
        for seed in seeds(count) {
            cut_everywhere(&scene, seed, bound(), &mut tally);
        }
        assert!(tally.moments > 8, "only {} moments", tally.moments);
        tally.say(&format!("{kind:?}"));
    });
}

#[test]
fn a_first_add_may_be_cut_anywhere_whatever_that_leaves() {
    cut(Kind::FirstAdd, scale());
}

#[test]
fn a_later_add_may_be_cut_anywhere_whatever_that_leaves() {
    cut(Kind::Add, scale());
}

#[test]
fn an_add_where_the_newest_root_stands_alone_may_be_cut_anywhere() {
    cut(Kind::AddToLoneRoot, scale());
}

#[test]
fn a_removal_may_be_cut_anywhere_whatever_that_leaves() {
    cut(Kind::Remove, scale());
}

#[test]
fn a_commit_that_catches_up_with_another_may_be_cut_anywhere() {
    cut(Kind::SecondDelta, scale());
}

#[test]
fn two_adds_at_once_may_be_cut_anywhere_in_any_order_of_their_calls() {
    cut(Kind::TwoAdds, 3 * scale());
}

#[test]
fn making_a_vault_may_be_cut_anywhere() {
    cut(Kind::Maker, scale());
}

#[test]
fn two_who_make_one_vault_may_be_cut_anywhere_in_any_order_of_their_calls() {
    cut(Kind::TwoMakers, scale());
}

#[test]
fn who_joins_a_vault_before_its_name_is_synced_loses_nothing() {
    within(60, || {
        let tree = Tree::new();
        tree.file("f", "of the one who joined");
        let (root, disk) = (tree.root().to_owned(), Disk::new());
        let joined = Arc::new(AtomicBool::new(false));
        let joins = {
            let (disk, joined) = (disk.clone(), Arc::clone(&joined));
            move || {
                // The maker has linked it; its own sync of the directory is what this comes before.
                let vault = Vault::open_in("memory.flint", disk.dir(), &password(), None).unwrap();
                add(&vault, &root, &["f"]);
                let mut outcomes = 0;
                let elsewhere = Disk::new();
                disk.moment().each_outcome(bound(), 0, |outcome| {
                    outcomes += 1;
                    elsewhere.start_with(outcome.image.clone());
                    assert!(elsewhere.bytes().is_some(), "an acknowledged vault may be gone");
                    let vault = Vault::open_in("memory.flint", elsewhere.dir(), &password(), None).unwrap();
                    assert_eq!(names(&vault, None), ["f"]);
                    if !outcome.is_torn {
                        assert_sound(&vault);
                    }
                });
                assert!(outcomes > 1);
                joined.store(true, Ordering::SeqCst);
            }
        };
        disk.breaks([Fault::once(|op| op == Op::DirSync, 1, Effect::First(Arc::new(joins)))]);
        drop(vault_in(disk.dir()));
        assert!(joined.load(Ordering::SeqCst));
    });
}

/// What a cut after these calls may leave of a file that was synced before, all of it.
fn outcomes(len: u64, calls: impl Fn(&dyn flint_pipe::Storage)) -> BTreeSet<Vec<u8>> {
    let disk = Disk::new();
    let storage = disk.create_unlinked().unwrap();
    storage.allocate(0, len).unwrap();
    storage.sync().unwrap();
    disk.link(&*storage).unwrap();
    disk.sync().unwrap();
    calls(&*storage);
    let mut seen = BTreeSet::new();
    let is_all = disk.moment().each_outcome(Bound { all: 1000, seeds: 0 }, 0, |outcome| {
        seen.insert(outcome.image.unwrap());
    });
    assert!(is_all);
    seen
}

#[test]
fn the_disk_loses_tears_and_reorders_what_was_not_synced() {
    let with = |len: usize, places: &[(usize, usize, u8)]| {
        let mut bytes = vec![0; len];
        places.iter().for_each(|&(from, to, byte)| bytes[from..to].fill(byte));
        bytes
    };
    // One write over two sectors, then another over one of them: what comes later may land alone.
    let found = outcomes(2048, |storage| {
        storage.write_at(&[1; 1024], 512).unwrap();
        storage.write_at(&[2; 100], 600).unwrap();
    });
    let expected = [
        with(2048, &[]),
        with(2048, &[(512, 1024, 1)]),
        with(2048, &[(1024, 1536, 1)]),
        with(2048, &[(512, 1536, 1)]),
        with(2048, &[(600, 700, 2)]),
        with(2048, &[(512, 1024, 1), (600, 700, 2)]),
        with(2048, &[(1024, 1536, 1), (600, 700, 2)]),
        with(2048, &[(512, 1536, 1), (600, 700, 2)]),
    ];
    assert_eq!(found, expected.into());
    // A length without its data, and data without its length; a punched range that is back.
    let found = outcomes(512, |storage| {
        storage.write_at(&[3; 8], 0).unwrap();
        storage.sync().unwrap();
        storage.write_at(&[4; 512], 512).unwrap();
        storage.punch(0, 512).unwrap();
    });
    let whole = [(0, 8, 3)];
    let expected = [
        with(512, &whole),
        with(1024, &whole),
        with(1024, &[(0, 8, 3), (512, 1024, 4)]),
        with(512, &[]),
        with(1024, &[]),
        with(1024, &[(512, 1024, 4)]),
    ];
    assert_eq!(found, expected.into());
    // A root may be torn within its sector; a long write is taken apart into its ends and all between.
    assert_eq!(outcomes(64 << 10, |storage| drop(storage.write_at(&[5; 512], 56 << 10))).len(), 3);
    assert_eq!(outcomes(64 << 10, |storage| drop(storage.write_at(&[6; 8192], 0))).len(), 8);
}

#[test]
fn a_name_is_sure_only_when_its_directory_is_synced() {
    let disk = Disk::new();
    let storage = disk.create_unlinked().unwrap();
    storage.write_at(&[1], 0).unwrap();
    let seen = |disk: &Disk| {
        let mut seen = BTreeSet::new();
        disk.moment().each_outcome(Bound { all: 100, seeds: 0 }, 0, |outcome| {
            seen.insert(outcome.image);
        });
        seen
    };
    assert_eq!(seen(&disk), [None].into());
    disk.link(&*storage).unwrap();
    assert_eq!(seen(&disk), [None, Some(vec![]), Some(vec![0]), Some(vec![1])].into(), "its name before its bytes");
    storage.sync().unwrap();
    assert_eq!(seen(&disk), [None, Some(vec![1])].into());
    disk.sync().unwrap();
    assert_eq!(seen(&disk), [Some(vec![1])].into());
    disk.unlink().unwrap();
    assert_eq!(seen(&disk), [None, Some(vec![1])].into());
}

#[test]
fn what_a_failed_sync_dropped_stays_away_whatever_later_syncs_return() {
    let disk = Disk::new();
    let storage = disk.create_unlinked().unwrap();
    disk.link(&*storage).unwrap();
    disk.sync().unwrap();
    let other = disk.open(true).unwrap().unwrap();
    storage.write_at(&[1; 512], 0).unwrap();
    storage.sync().unwrap();
    other.write_at(&[2; 512], 0).unwrap();
    disk.breaks([Fault::once(|op| op == Op::Sync, 1, Effect::Errno(libc::EIO))]);
    storage.sync().unwrap_err();
    assert_eq!(disk.bytes().unwrap(), [2; 512], "it reads as it was written");
    other.sync().expect_err("whoever had it open is told, once");
    other.sync().unwrap();
    disk.open(true).unwrap().unwrap().sync().unwrap();
    disk.power_cycle(Left::Everything);
    assert_eq!(disk.bytes().unwrap(), [1; 512]);
}

#[test]
fn one_seed_is_one_order_of_the_calls_of_two_writers() {
    within(60, || {
        let order = |seed| {
            let disk = Disk::new();
            let storage = disk.create_unlinked().unwrap();
            disk.link(&*storage).unwrap();
            disk.breaks([]);
            let views = [disk.seen_by(0), disk.seen_by(1)];
            disk.take_turns(2, seed);
            std::thread::scope(|scope| {
                for (writer, view) in views.iter().enumerate() {
                    scope.spawn(move || {
                        for _ in 0..30 {
                            // Each by another call, to tell them apart.
                            if writer == 0 {
                                drop(view.open(true).unwrap());
                            } else {
                                view.sync().unwrap();
                            }
                        }
                        view.retire(writer);
                    });
                }
            });
            disk.calls()
        };
        let orders: BTreeSet<Vec<bool>> =
            (0..8).map(|seed| order(seed).into_iter().map(|op| op == Op::Open).collect()).collect();
        assert!(orders.len() > 4, "different seeds, different orders");
        for seed in 0..8 {
            assert_eq!(order(seed), order(seed), "seed {seed}");
        }
    });
}
