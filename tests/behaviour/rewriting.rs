//! `compact` and `rekey` may be cut short anywhere, and any call of theirs may fail: the path leads to the old file or to the new
//! one, each whole, and to the new one once that was acknowledged. Nothing is left beside it.
//!
//! `FLINT_TEST_SCALE` makes the tests longer, `FLINT_TEST_SEED` repeats one seed.

use std::sync::Arc;

use flint_pipe::{
    CompactOptions, Error, ErrorKind, Failed, Keep, KeyOptions, Password, RemoveOptions, Report, Vault, VaultDir as _,
};

use crate::support::disk::media::{Bound, FailedSync, Left};
use crate::support::disk::{Disk, Effect, Fault, Full, Op};
use crate::support::scenes::{scale, seeds};
use crate::support::tree::{Tree, noise, text};
use crate::support::{
    Contents, add, assert_sound, cheap, contents, password, snapshot_numbers, vault_in, verify, within, workers,
};

/// What is done to the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// All snapshots stay.
    CompactAll,
    /// The newest stays alone, and one of its records is packed anew.
    CompactLast,
    Rekey,
}

const KINDS: [Kind; 3] = [Kind::CompactAll, Kind::CompactLast, Kind::Rekey];

/// The password of a vault that was given a new master key.
fn new_password() -> Password {
    Password::new("another horse")
}

/// A vault with a few snapshots.
struct Scene {
    kind: Kind,
    disk: Disk,
    vault: Vault,
    before: Option<Vec<u8>>,
    /// What each snapshot holds, by number from 1.
    held: Vec<Contents>,
    next: Tree,
}

impl Scene {
    fn new(kind: Kind) -> Self {
        let (disk, tree, next) = (Disk::new(), Tree::new(), Tree::new());
        for number in 0..6 {
            tree.file(format!("d/{number}"), text(number, 700));
        }
        tree.file("d/noise", noise(1, 900));
        next.file("next", "the next add");
        let vault = vault_in(disk.dir());
        let mut held = Vec::new();
        add(&vault, tree.root(), &["d"]);
        held.push(contents(&vault, None).unwrap());
        tree.file("e/later", text(9, 1500));
        add(&vault, tree.root(), &["e"]);
        held.push(contents(&vault, None).unwrap());
        let gone: Vec<_> = (1..6).map(|number| format!("d/{number}").into()).chain(["d/noise".into()]).collect();
        vault.remove(&gone, &RemoveOptions::default(), &()).unwrap();
        held.push(contents(&vault, None).unwrap());
        disk.power_cycle(Left::Everything);
        let vault = Vault::open_in("memory.flint", disk.dir(), &password(), None).unwrap();
        let before = disk.bytes();
        Self { kind, disk, vault, before, held, next }
    }

    fn reset(&self) {
        self.disk.start_with(self.before.clone());
    }

    /// Does it; leaves a mark when it is done.
    fn run(&self) -> Result<Report, Failed> {
        self.run_on(&self.vault)
    }

    fn run_on(&self, vault: &Vault) -> Result<Report, Failed> {
        let mut options = CompactOptions::default();
        options.pipeline.workers = workers(1);
        let result = match self.kind {
            Kind::CompactAll => {
                options.keep = Some(Keep::all());
                vault.compact(&options, &())
            }
            Kind::CompactLast => {
                options.keep = Some(Keep::last(1));
                vault.compact(&options, &())
            }
            Kind::Rekey => {
                let mut rekey = KeyOptions::default();
                rekey.pipeline.workers = workers(1);
                rekey.kdf_memory_kib = Some(cheap().kdf.memory_kib);
                rekey.kdf_passes = Some(cheap().kdf.passes);
                vault.rekey(&new_password(), &rekey, &())
            }
        };
        if let Ok(report) = &result {
            let repacked = report.compaction.as_ref().unwrap().repacked_records;
            assert_eq!(repacked > 0, self.kind == Kind::CompactLast, "{:?}", report.compaction);
            self.disk.mark(1);
        }
        result
    }

    /// What the vault is now: the old file or the new one, each whole.
    ///
    /// - `must_be`: it has to be the new one, or the old one.
    fn assert_whole(&self, must_be: Option<bool>, what: &str) -> Vault {
        let is_old = self.disk.bytes().as_ref() == self.before.as_ref();
        if let Some(is_new) = must_be {
            assert_eq!(is_new, !is_old, "{what}");
        }
        let opened = |password| Vault::open_in("memory.flint", self.disk.dir(), &password, None);
        let is_rekeyed = self.kind == Kind::Rekey && !is_old;
        let vault = opened(if is_rekeyed { new_password() } else { password() });
        let vault = vault.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        if is_rekeyed {
            // What knew the old keys knows that it does no longer.
            let error = snapshot_numbers(&self.vault).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{what}: {error:?}");
        }
        let kept: &[u64] = if is_old || self.kind != Kind::CompactLast { &[3, 2, 1] } else { &[3] };
        let numbers = snapshot_numbers(&vault).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(numbers, kept, "{what}");
        for &number in kept {
            let found = contents(&vault, Some(number)).unwrap_or_else(|error| panic!("{what}: {number}: {error:?}"));
            assert!(found == self.held[usize::try_from(number).unwrap() - 1], "{what}: snapshot {number}");
        }
        let report = verify(&vault).unwrap_or_else(|failed| panic!("{what}: {:?}", failed.error));
        assert!(report.is_complete(), "{what}: {:?}", report.errors);
        vault
    }

    /// The next `add` works, and lasts.
    fn assert_next_add_works(&self, vault: &Vault, left: Left, what: &str) {
        let report = add(vault, self.next.root(), &["next"]);
        assert_eq!(report.snapshot, Some(4), "{what}");
        self.disk.power_cycle(left);
        let names = contents(vault, None).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert!(names.contains_key(std::path::Path::new("next")), "{what}, after the next add");
        assert_sound(vault);
    }
}

/// How much was looked at.
#[derive(Default)]
struct Tally {
    moments: u64,
    outcomes: u64,
    new: u64,
}

#[test]
fn the_power_may_be_cut_at_any_moment() {
    for kind in KINDS {
        within(170 * scale(), move || {
            let scene = Scene::new(kind);
            let mut tally = Tally::default();
            for seed in seeds(scale()) {
                scene.reset();
                scene.disk.record();
                scene.run().unwrap_or_else(|failed| panic!("{:?}", failed.error));
                scene.disk.recorded().each_moment(|moment| {
                    tally.moments += 1;
                    let mut number = 0_u64;
                    // Most moments leave the old file, however the new one is torn: a few outcomes of each will do.
                    let bound = Bound { all: 64, seeds: 8 * scale() };
                    moment.each_outcome(bound, seed, |outcome| {
                        number += 1;
                        let what = format!(
                            "{kind:?}, FLINT_TEST_SEED={seed}, cut after {} changes, outcome {number}: {}",
                            moment.number, outcome.what
                        );
                        assert!(outcome.image.is_some(), "{what}: the vault is gone");
                        let is_new = outcome.image != scene.before;
                        // Looking at the old file a thousand times over shows nothing.
                        tally.outcomes += 1;
                        if !is_new && !tally.outcomes.is_multiple_of(50) {
                            assert!(moment.marks.is_empty(), "{what}: it was acknowledged");
                            return;
                        }
                        tally.new += u64::from(is_new);
                        scene.disk.start_with(outcome.image.clone());
                        let acknowledged = !moment.marks.is_empty();
                        let vault = scene.assert_whole(acknowledged.then_some(true), &what);
                        if number.is_multiple_of(4) {
                            scene.assert_next_add_works(&vault, Left::Nothing, &what);
                        }
                    });
                });
            }
            let Tally { moments, outcomes, new } = tally;
            assert!(moments > 20 && new > 0, "{kind:?}: {moments} moments, {new} with the new file");
            eprintln!("{kind:?}: {moments} power cuts, {outcomes} outcomes, {new} of them with the new file");
        });
    }
}

fn any(_: Op) -> bool {
    true
}

fn moves_bytes(op: Op) -> bool {
    matches!(op, Op::Read | Op::Write)
}

fn moves_no_bytes(op: Op) -> bool {
    !moves_bytes(op)
}

fn takes_space(op: Op) -> bool {
    matches!(op, Op::Write | Op::Allocate | Op::Create | Op::Rename | Op::Sync | Op::DirSync | Op::Punch | Op::SetLen)
}

/// What goes wrong: its name, with which calls, how, and whether from then on.
type Wrong = (&'static str, fn(Op) -> bool, Effect, bool);

#[test]
fn any_call_may_fail_and_the_old_file_or_the_new_one_is_there() {
    let wrongs: [Wrong; 8] = [
        ("EIO once", any, Effect::Errno(libc::EIO), false),
        ("EIO from then on", any, Effect::Errno(libc::EIO), true),
        ("ENOSPC once", takes_space, Effect::Errno(libc::ENOSPC), false),
        ("ENOSPC from then on", takes_space, Effect::Errno(libc::ENOSPC), true),
        ("EINTR once", any, Effect::Errno(libc::EINTR), false),
        ("EINTR from then on", moves_no_bytes, Effect::Errno(libc::EINTR), true),
        ("short once", moves_bytes, Effect::Short, false),
        ("short from then on", moves_bytes, Effect::Short, true),
    ];
    for kind in KINDS {
        let wrongs = wrongs.clone();
        within(170 * scale(), move || {
            let scene = Scene::new(kind);
            let (mut faults, mut outcomes, mut uncertain) = (0_u64, 0_u64, 0_u64);
            let step = usize::try_from(2_u64.div_ceil(scale())).unwrap();
            for (number, (name, on, effect, forever)) in wrongs.into_iter().enumerate() {
                for nth in (number % step + 1..).step_by(step).map(|nth| nth as u64) {
                    let what = format!("{kind:?}, {name}, call {nth}");
                    scene.reset();
                    scene.disk.set_failed_sync(FailedSync::ways(nth)[usize::try_from(nth % 5).unwrap()]);
                    scene.disk.breaks([Fault { on, nth, forever, effect: effect.clone() }]);
                    let result = scene.run();
                    if scene.disk.heal() == 0 {
                        assert!(result.is_ok(), "{what}: nothing went wrong: {:?}", result.err());
                        assert!(nth > 20, "{what}: there are so few calls");
                        break;
                    }
                    faults += 1;
                    let must_be = match &result {
                        Ok(report) => {
                            assert!(report.is_complete(), "{what}: {:?}", report.errors);
                            Some(true)
                        }
                        Err(Failed { error: Error::ReplaceUncertain { .. }, .. }) => {
                            uncertain += 1;
                            // Where nothing can be asked any more, nobody knows whether a rename that failed was done.
                            None
                        }
                        Err(failed) => {
                            // What cannot be read is no damage.
                            assert_eq!(failed.error.kind(), ErrorKind::Io, "{what}: {:?}", failed.error);
                            Some(false)
                        }
                    };
                    let moment = scene.disk.moment();
                    let vault = scene.assert_whole(must_be, &what);
                    scene.assert_next_add_works(&vault, Left::Nothing, &what);
                    moment.each_outcome(Bound { all: 4, seeds: scale() }, nth, |outcome| {
                        outcomes += 1;
                        scene.disk.start_with(outcome.image.clone());
                        let what = format!("{what}, then a power cut: {}", outcome.what);
                        scene.assert_whole(result.is_ok().then_some(true), &what);
                    });
                }
            }
            assert!(uncertain > 0, "{kind:?}: the sync of the directory has failed");
            eprintln!("{kind:?}: {faults} faults, {outcomes} outcomes of power cuts after them");
        });
    }
}

#[test]
fn a_disk_may_be_full_at_any_length() {
    for kind in KINDS {
        within(120, move || {
            let scene = Scene::new(kind);
            for preallocates in [true, false] {
                let mut fitted = 0;
                for more in (0..).map(|step| step * 256) {
                    let what = format!("{kind:?}, room for {more} bytes, preallocation: {preallocates}");
                    scene.reset();
                    scene.disk.set_full(Some(Full { capacity: more, preallocates }));
                    let result = scene.run();
                    scene.disk.heal();
                    match result {
                        Ok(_) => fitted += 1,
                        Err(failed) => {
                            assert_eq!(fitted, 0, "{what}: it fitted into less");
                            let Error::Io { source, .. } = &failed.error else { panic!("{what}: {:?}", failed.error) };
                            assert_eq!(source.raw_os_error(), Some(libc::ENOSPC), "{what}");
                        }
                    }
                    if fitted > 0 || more.is_multiple_of(2048) {
                        scene.assert_whole(Some(fitted > 0), &what);
                    } else {
                        assert!(scene.disk.bytes() == scene.before, "{what}");
                    }
                    if fitted == 2 {
                        break;
                    }
                }
            }
        });
    }
}

#[test]
fn the_new_file_is_on_the_disk_before_it_has_the_name_and_the_name_before_anybody_writes() {
    for kind in KINDS {
        within(60, move || {
            let scene = Scene::new(kind);
            scene.reset();
            scene.disk.breaks([]);
            scene.run().unwrap();
            let calls = scene.disk.calls();
            let last = |wanted: Op| calls.iter().rposition(|&op| op == wanted).unwrap();
            let order = [last(Op::Write), last(Op::Sync), last(Op::Rename), last(Op::DirSync)];
            assert!(order.is_sorted(), "{kind:?}: {order:?}");
            // Locks of the old and the new file are given back after that.
            assert!(calls[last(Op::DirSync)..].contains(&Op::Unlock), "{kind:?}");
            assert!(!calls[last(Op::Rename)..last(Op::DirSync)].contains(&Op::Unlock), "{kind:?}");
            // Somebody who opens the new file before its name is durable has to wait.
            scene.reset();
            let disk = scene.disk.clone();
            let looks = Arc::new(move || {
                let new = disk.open(true).unwrap().unwrap();
                let free = new.try_lock(flint_pipe::Lock::Presence, flint_pipe::LockMode::Shared).unwrap();
                assert!(!free, "PRESENCE of the new file is held");
            });
            scene.disk.breaks([Fault::once(|op| op == Op::DirSync, 2, Effect::First(looks))]);
            scene.run().unwrap();
            assert_eq!(scene.disk.heal(), 1);
        });
    }
}
