//! Any call to the disk may fail, once or for good: no run panics, hangs or claims success wrongly, what was acknowledged
//! is whole, also after a power cut, and the next `add` works.
//!
//! `FLINT_TEST_SCALE` makes the tests longer: more orders of the calls of two writers, more outcomes of a power cut.

use std::path::Path;
use std::time::Duration;

use flint_pipe::{Error, ErrorKind, Failed, Report, Vault};

use crate::support::disk::media::{Bound, FailedSync, Left};
use crate::support::disk::{Disk, Effect, Fault, Full, Op};
use crate::support::scenes::{Acknowledged, Between, Kind, Results, Scene, scale, seeds};
use crate::support::tree::{Tree, text};
use crate::support::{add, add_with, assert_sound, contents, names, simple, snapshot_numbers, vault_in, within};

/// The scenes with one writer.
const SINGLE: [Kind; 4] = [Kind::FirstAdd, Kind::Add, Kind::Remove, Kind::SecondDelta];

fn any(_: Op) -> bool {
    true
}

/// What a file system without space says no to.
fn takes_space(op: Op) -> bool {
    matches!(op, Op::Write | Op::Allocate | Op::Create | Op::Link | Op::Sync | Op::DirSync | Op::Punch | Op::SetLen)
}

fn moves_bytes(op: Op) -> bool {
    matches!(op, Op::Read | Op::Write)
}

fn moves_no_bytes(op: Op) -> bool {
    !moves_bytes(op)
}

fn syncs(op: Op) -> bool {
    matches!(op, Op::Sync | Op::DirSync | Op::Writeback)
}

/// What goes wrong with the n-th call of some.
#[derive(Clone)]
struct Wrong {
    name: &'static str,
    on: fn(Op) -> bool,
    effect: Effect,
    forever: bool,
}

fn errno(name: &'static str, on: fn(Op) -> bool, number: i32, forever: bool) -> Wrong {
    Wrong { name, on, effect: Effect::Errno(number), forever }
}

/// Everything that goes wrong in any scene. Signals that never end may keep a read or a write from ever being done, as
/// they do everywhere: those come once.
fn all_wrongs() -> Vec<Wrong> {
    vec![
        errno("EIO once", any, libc::EIO, false),
        errno("EIO from then on", any, libc::EIO, true),
        errno("ENOSPC once", takes_space, libc::ENOSPC, false),
        errno("ENOSPC from then on", takes_space, libc::ENOSPC, true),
        errno("EINTR once", any, libc::EINTR, false),
        errno("EINTR from then on", moves_no_bytes, libc::EINTR, true),
        Wrong { name: "short once", on: moves_bytes, effect: Effect::Short, forever: false },
        Wrong { name: "short from then on", on: moves_bytes, effect: Effect::Short, forever: true },
    ]
}

/// How much was tried.
struct Tally {
    what: String,
    faults: u64,
    outcomes: u64,
}

impl Tally {
    fn of(what: impl std::fmt::Debug) -> Self {
        Self { what: format!("{what:?}"), faults: 0, outcomes: 0 }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let Self { what, faults, outcomes } = self;
        eprintln!("{what}: {faults} faults, {outcomes} outcomes of power cuts after them");
    }
}

/// Lets everything go wrong at the n-th call, for every n until the run is over before that; or for one n of `step`, a
/// different one for each thing that goes wrong. A pair of writers takes its turns by another seed each time.
fn fail_everything(kind: Kind, step: u64) {
    let step = usize::try_from(step.div_ceil(scale())).expect("a small number");
    within(170 * scale(), move || {
        let scene = Scene::new(kind);
        let mut tally = Tally::of(kind);
        for round in seeds(scale().div_ceil(8)) {
            for (number, wrong) in all_wrongs().into_iter().enumerate() {
                let Wrong { name, on, effect, forever } = wrong;
                for nth in (number % step + 1..).step_by(step).map(|nth| nth as u64) {
                    let seed = round * 1000 + nth;
                    let what = format!("{kind:?}, {name}, call {nth}, FLINT_TEST_SEED={round}");
                    let fault = Fault { on, nth, forever, effect: effect.clone() };
                    if !goes_wrong_and_survives(&scene, &fault, seed, &mut tally, &what) {
                        assert!(nth > 1, "{what}: there is no such call");
                        break;
                    }
                }
            }
        }
    });
}

/// Runs the scene with a fault; false if the run was over before it came to that.
fn goes_wrong_and_survives(scene: &Scene, fault: &Fault, seed: u64, tally: &mut Tally, what: &str) -> bool {
    scene.reset();
    let ways = FailedSync::ways(seed);
    scene.disk.set_failed_sync(ways[usize::try_from(seed % 5).unwrap()]);
    let results = scene.run(seed, &|| scene.disk.breaks([fault.clone()]));
    if scene.disk.heal() == 0 {
        for result in results {
            result.unwrap_or_else(|failed| panic!("{what}: nothing went wrong: {:?}", failed.error));
        }
        return false;
    }
    tally.faults += 1;
    let (acknowledged, barred) = scene.assert_right_errors(&results, what);
    // The power may fail as well, right after that.
    let moment = scene.disk.moment();
    assert_goes_on(scene, &acknowledged, &barred, &results, seed, what);
    let mut number = seed;
    moment.each_outcome(Bound { all: 2, seeds: scale() }, seed, |outcome| {
        number += 1;
        if !number.is_multiple_of(16_u64.div_ceil(scale())) {
            return;
        }
        tally.outcomes += 1;
        let what = format!("{what}, then a power cut: {}", outcome.what);
        scene.disk.start_with(outcome.image.clone());
        if outcome.image.is_some() {
            scene.assert_whole(&acknowledged, &barred, outcome.is_torn, &what);
        } else {
            assert!(scene.kind.makes() && acknowledged.is_empty(), "{what}: the vault is gone");
        }
    });
    true
}

/// After a fault, and without one any more: the vault is whole, the next `add` works and lasts.
fn assert_goes_on(
    scene: &Scene,
    acknowledged: &Acknowledged,
    barred: &[usize],
    results: &Results,
    seed: u64,
    what: &str,
) {
    if scene.disk.bytes().is_none() {
        assert!(scene.kind.makes() && results.iter().all(Result::is_err), "{what}: the vault is gone");
        return;
    }
    let holds = scene.assert_whole(acknowledged, barred, false, what);
    let left = [Left::Nothing, Left::Everything, Left::Some { seed }][usize::try_from(seed % 3).unwrap()];
    scene.assert_next_add_works(&holds, Some(left), what);
}

#[test]
fn any_call_of_a_first_add_may_fail() {
    fail_everything(Kind::FirstAdd, 1);
}

#[test]
fn any_call_of_a_later_add_may_fail() {
    fail_everything(Kind::Add, 1);
}

#[test]
fn any_call_of_a_removal_may_fail() {
    fail_everything(Kind::Remove, 1);
}

#[test]
fn any_call_of_a_commit_that_catches_up_with_another_may_fail() {
    fail_everything(Kind::SecondDelta, 2);
}

#[test]
fn any_call_of_an_add_that_makes_its_vault_may_fail() {
    fail_everything(Kind::Maker, 4);
}

#[test]
fn any_call_of_two_adds_at_once_may_fail_in_any_order_of_their_calls() {
    fail_everything(Kind::TwoAdds, 5);
}

#[test]
fn any_call_of_two_who_make_one_vault_may_fail_in_any_order_of_their_calls() {
    fail_everything(Kind::TwoMakers, 40);
}

#[test]
fn every_sync_may_fail_in_every_way_and_is_never_tried_again() {
    within(170 * scale(), || {
        let mut tally = Tally::of("syncs");
        for kind in SINGLE {
            let scene = Scene::new(kind);
            let mut uncertain = 0;
            for nth in 1.. {
                let mut fired = false;
                for (number, way) in FailedSync::ways(nth).into_iter().enumerate() {
                    let what = format!("{kind:?}, sync {nth}, {way:?}");
                    scene.reset();
                    scene.disk.set_failed_sync(way);
                    let fault = Fault::once(syncs, nth, Effect::Errno(libc::EIO));
                    let results = scene.run(0, &|| scene.disk.breaks([fault.clone()]));
                    let calls = scene.disk.calls().into_iter().filter(|&op| syncs(op)).count() as u64;
                    if scene.disk.heal() == 0 {
                        break;
                    }
                    (fired, tally.faults) = (true, tally.faults + 1);
                    let failed = results[0].as_ref().expect_err("a failed sync fails the run");
                    assert_eq!(calls, nth, "{what}: a sync after one that failed");
                    uncertain += u64::from(matches!(failed.error, Error::CommitUncertain { .. }) && number == 0);
                    let (acknowledged, barred) = scene.assert_right_errors(&results, &what);
                    let moment = scene.disk.moment();
                    assert_goes_on(&scene, &acknowledged, &barred, &results, nth, &what);
                    moment.each_outcome(Bound { all: 64, seeds: 8 }, nth, |outcome| {
                        tally.outcomes += 1;
                        scene.disk.start_with(outcome.image.clone());
                        let what = format!("{what}, then a power cut: {}", outcome.what);
                        let holds = scene.assert_whole(&acknowledged, &barred, outcome.is_torn, &what);
                        scene.assert_next_add_works(&holds, None, &what);
                    });
                }
                if !fired {
                    break;
                }
            }
            assert_eq!(uncertain, 1, "{kind:?}: only the sync of the root leaves it open");
        }
    });
}

#[test]
fn a_disk_may_be_full_at_any_length_and_has_its_space_back() {
    within(120, || {
        let mut tally = Tally::of("full disks");
        for kind in [Kind::FirstAdd, Kind::Add, Kind::Remove] {
            let scene = Scene::new(kind);
            for preallocates in [true, false] {
                let mut fitted = 0;
                for more in (0..).map(|step| step * 192) {
                    let what = format!("{kind:?}, room for {more} bytes more, preallocation: {preallocates}");
                    scene.reset();
                    let capacity = scene.len_before() + more;
                    let results = scene.run(0, &|| scene.disk.set_full(Some(Full { capacity, preallocates })));
                    scene.disk.heal();
                    tally.faults += 1;
                    let (acknowledged, barred) = scene.assert_right_errors(&results, &what);
                    match &results[0] {
                        Ok(_) => fitted += 1,
                        Err(failed) => {
                            assert_eq!(fitted, 0, "{what}: it fitted into less");
                            let Error::Io { source, .. } = &failed.error else { panic!("{what}: {:?}", failed.error) };
                            assert_eq!(source.raw_os_error(), Some(libc::ENOSPC), "{what}");
                            scene.assert_given_back(&what);
                        }
                    }
                    assert_goes_on(&scene, &acknowledged, &barred, &results, 0, &what);
                    if fitted == 3 {
                        break;
                    }
                }
            }
        }
    });
}

/// Adds; `between` happens when everything is packed and before the commit.
fn add_around(vault: &Vault, tree: &Tree, between: &(dyn Fn() + Sync)) -> Result<Report, Failed> {
    let mut options = simple();
    options.directory = Some(tree.root().to_owned());
    vault.add(&["s".into()], &options, &Between::new(between))
}

#[test]
fn a_snapshot_that_a_failed_sync_has_lost_is_not_built_upon() {
    within(60, || {
        let tree = Tree::new();
        tree.file("s/a", text(1, 900));
        let other = Tree::new();
        other.file("t", "of another writer");
        // What is to count as unchanged has to be older than this.
        std::thread::sleep(Duration::from_millis(2200));
        for another_commits in [false, true] {
            let what = format!("another commits: {another_commits}");
            let disk = Disk::new();
            let vault = vault_in(disk.dir());
            add(&vault, other.root(), &["t"]);
            disk.breaks([Fault::once(|op| op == Op::Sync, 3, Effect::Errno(libc::EIO))]);
            let failed = add_with(&vault, tree.root(), &["s"], simple()).unwrap_err();
            assert!(matches!(failed.error, Error::CommitUncertain { .. }), "{what}: {:?}", failed.error);
            disk.heal();
            // Until the system needs the memory, the new root is read as if it were there.
            assert_eq!(snapshot_numbers(&vault).unwrap(), [2, 1], "{what}");
            tree.file("s/b", "not there the first time");
            let lost = || {
                disk.forgets();
                if another_commits {
                    other.file("u", "of another writer, later");
                    add(&vault, other.root(), &["u"]);
                }
            };
            let failed = add_around(&vault, &tree, &lost).expect_err("what it left out as unchanged is gone");
            assert_eq!(failed.error.kind(), ErrorKind::Refused, "{what}: {:?}", failed.error);
            let expected: &[&str] = if another_commits { &["t", "u"] } else { &["t"] };
            assert_eq!(names(&vault, None), expected, "{what}");
            assert_sound(&vault);
            add(&vault, tree.root(), &["s"]);
            assert_eq!(contents(&vault, None).unwrap()[Path::new("s/a")], text(1, 900), "{what}");
            disk.power_cycle(Left::Nothing);
            let held = contents(&vault, None).unwrap();
            assert!(held.contains_key(Path::new("s/a")) && held.contains_key(Path::new("s/b")), "{what}");
            assert_sound(&vault);
            std::fs::remove_file(tree.path("s/b")).unwrap();
        }
    });
}
