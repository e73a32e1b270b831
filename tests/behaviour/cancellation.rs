//! A run may fail, be cancelled or run out of time at any moment: the first cause is the one reported, every thread ends,
//! the vault is as it was, and the next run works.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flint_pipe::{
    AddOptions, CancelToken, Error, ErrorKind, ExtractOptions, Failed, Notice, Observer, Progress, Report, Vault,
    VerifyOptions,
};

use crate::support::disk::{Disk, Effect, Fault, Op};
use crate::support::tree::{Tree, noise, text};
use crate::support::{
    Contents, add, add_with, assert_sound, contents, in_a_process_of_its_own, simple, snapshot_numbers, vault_in,
    verify, within, workers,
};

/// A vault with one snapshot, and a tree to be added to it.
struct Scene {
    disk: Disk,
    vault: Vault,
    tree: Tree,
    before: Vec<u8>,
    contents: Contents,
}

impl Scene {
    fn new() -> Self {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        tree.file("old/kept", text(1, 5000));
        tree.file("old/replaced", noise(2, 5000));
        add(&vault, tree.root(), &["old"]);
        tree.file("old/replaced", noise(3, 6000));
        for number in 0..6 {
            tree.file(format!("old/{number}"), text(number, 3000));
        }
        tree.file("old/large", noise(4, 700_000));
        let contents = contents(&vault, None).unwrap();
        let before = disk.bytes().unwrap();
        Self { disk, vault, tree, before, contents }
    }

    fn add(&self, options: AddOptions) -> Result<Report, Failed> {
        add_with(&self.vault, self.tree.root(), &["old"], options)
    }

    /// The vault is as it was before the run, down to its bytes but for space that could not be given back.
    fn assert_as_before(&self, what: &str) {
        let now = self.disk.bytes().unwrap();
        assert!(now.len() >= self.before.len(), "{what}: bytes are gone");
        assert!(now[..self.before.len()] == self.before, "{what}: bytes have changed");
        assert_eq!(snapshot_numbers(&self.vault).unwrap(), [1], "{what}");
        assert_eq!(contents(&self.vault, None).unwrap(), self.contents, "{what}");
        assert_sound(&self.vault);
    }

    fn assert_given_back(&self, what: &str) {
        let now = self.disk.bytes().unwrap().len();
        assert_eq!(now, self.before.len(), "{what}: space was not given back");
    }

    fn assert_next_add_works(&self, what: &str) {
        let report = add_with(&self.vault, self.tree.root(), &["old"], simple());
        let report = report.unwrap_or_else(|failed| panic!("{what}: the next add: {failed}: {:?}", failed.error));
        assert!(report.is_complete(), "{what}: {:?}", report.errors);
        let packed = contents(&self.vault, None).unwrap();
        assert!(packed[Path::new("old/replaced")] == noise(3, 6000), "{what}");
        assert!(packed[Path::new("old/large")] == noise(4, 700_000), "{what}");
        assert_eq!(packed.len(), 9, "{what}");
        assert_sound(&self.vault);
    }

    fn reset(&self) {
        self.disk.heal();
        self.disk.set_bytes(&self.before);
    }
}

fn with_token(token: &CancelToken) -> AddOptions {
    let mut options = simple();
    options.pipeline.cancel = token.clone();
    options
}

#[test]
fn a_token_that_is_pulled_already_ends_a_run_before_it_begins() {
    within(60, || {
        let scene = Scene::new();
        let token = CancelToken::new();
        token.cancel();
        scene.disk.breaks([]);
        let failed = scene.add(with_token(&token)).unwrap_err();
        assert!(matches!(failed.error, Error::Interrupted), "{:?}", failed.error);
        assert!(!scene.disk.calls().contains(&Op::Write));
        scene.assert_as_before("pulled before");

        let mut options = ExtractOptions::default();
        options.pipeline.cancel = token.clone();
        let out = Tree::new();
        let failed = scene.vault.extract(&out.path("out"), &options, &()).unwrap_err();
        assert!(matches!(failed.error, Error::Interrupted), "{:?}", failed.error);
        let mut options = VerifyOptions::default();
        options.pipeline.cancel = token;
        let failed = scene.vault.verify(&options, &()).unwrap_err();
        assert!(matches!(failed.error, Error::Interrupted), "{:?}", failed.error);
    });
}

#[test]
fn a_token_pulled_at_any_call_to_the_disk_leaves_the_vault_as_it_was_or_the_snapshot_made() {
    within(150, || {
        let scene = Scene::new();
        let (mut cancelled, mut finished) = (0, 0);
        for nth in 1.. {
            let token = CancelToken::new();
            let pulled = token.clone();
            scene.disk.breaks([Fault::once(|_| true, nth, Effect::First(Arc::new(move || pulled.cancel())))]);
            let result = scene.add(with_token(&token));
            let fired = scene.disk.heal();
            let what = format!("cancelled at call {nth}");
            match result {
                Ok(report) => {
                    // Once the root is being written, a cancel comes too late.
                    assert_eq!(report.snapshot, Some(2), "{what}");
                    assert_eq!(snapshot_numbers(&scene.vault).unwrap(), [2, 1], "{what}");
                    assert_sound(&scene.vault);
                    finished += 1;
                }
                Err(failed) => {
                    assert!(matches!(failed.error, Error::Interrupted), "{what}: {:?}", failed.error);
                    scene.assert_as_before(&what);
                    scene.assert_given_back(&what);
                    cancelled += 1;
                }
            }
            scene.reset();
            if fired == 0 {
                break;
            }
        }
        assert!(cancelled > 10 && finished > 1, "{cancelled} cancelled, {finished} finished");
        scene.assert_next_add_works("after all");
    });
}

#[test]
fn a_token_pulled_at_any_moment_ends_a_run_soon() {
    within(120, || {
        let tree = Tree::new();
        for number in 0..40 {
            tree.file(format!("d/{number}"), text(number, 1_000_000));
        }
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        tree.file("small", "x");
        add(&vault, tree.root(), &["small"]);
        let before = disk.bytes().unwrap();
        let mut interrupted = 0;
        for round in 0..30_u64 {
            let token = CancelToken::new();
            let mut options = AddOptions::default();
            options.pipeline.cancel = token.clone();
            options.pipeline.chunk_size = Some(256 << 10);
            let puller = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(round * round * 300));
                token.cancel();
                Instant::now()
            });
            let result = add_with(&vault, tree.root(), &["d"], options);
            let ended = Instant::now();
            let pulled = puller.join().unwrap();
            if let Err(failed) = result {
                assert!(matches!(failed.error, Error::Interrupted), "{:?}", failed.error);
                assert!(ended.saturating_duration_since(pulled) < Duration::from_secs(3), "round {round}");
                assert!(disk.bytes().unwrap() == before, "round {round}");
                interrupted += 1;
            }
            disk.set_bytes(&before);
        }
        assert!(interrupted > 0);
        assert_sound(&vault);
    });
}

/// Pulls its token when the first of something is told.
struct Puller {
    token: CancelToken,
    phase: &'static str,
}

impl Observer for Puller {
    fn notice(&self, _: &Notice) {
        self.token.cancel();
    }
    fn progress(&self, progress: &Progress) {
        if progress.phase == self.phase {
            self.token.cancel();
        }
    }
}

#[test]
fn an_observer_may_pull_the_token() {
    within(60, || {
        let scene = Scene::new();
        scene.disk.breaks([Fault::forever(|op| op == Op::Write, 1, Effect::Delay(Duration::from_millis(150)))]);
        let token = CancelToken::new();
        let mut options = with_token(&token);
        options.directory = Some(scene.tree.root().to_owned());
        let failed = scene.vault.add(&["old".into()], &options, &Puller { token, phase: "pack" }).unwrap_err();
        assert!(matches!(failed.error, Error::Interrupted), "{:?}", failed.error);
        scene.disk.heal();
        scene.assert_as_before("pulled by its observer");
        scene.assert_given_back("pulled by its observer");
    });
}

#[test]
fn reading_runs_can_be_cancelled_at_any_call_to_the_disk() {
    within(120, || {
        let scene = Scene::new();
        add(&scene.vault, scene.tree.root(), &["old"]);
        for nth in 1.. {
            let token = CancelToken::new();
            let pulled = token.clone();
            let pull = || {
                let pulled = pulled.clone();
                [Fault::once(|_| true, nth, Effect::First(Arc::new(move || pulled.cancel())))]
            };
            scene.disk.breaks(pull());
            let out = Tree::new();
            let mut options = ExtractOptions::default();
            options.pipeline.cancel = token.clone();
            options.pipeline.workers = workers(1);
            let extracted = scene.vault.extract(&out.path("out"), &options, &());
            let fired = scene.disk.heal();
            if let Err(failed) = extracted {
                assert!(matches!(failed.error, Error::Interrupted), "{nth}: {:?}", failed.error);
            }
            // Whatever has its final name is whole.
            for (name, expected) in contents(&scene.vault, None).unwrap() {
                if let Ok(found) = std::fs::read(out.path("out").join(&name)) {
                    assert!(found == expected, "{}: half a file after a cancel at {nth}", name.display());
                }
            }
            let token = CancelToken::new();
            let pulled = token.clone();
            scene.disk.breaks([Fault::once(|_| true, nth, Effect::First(Arc::new(move || pulled.cancel())))]);
            let mut options = VerifyOptions::default();
            options.pipeline.cancel = token;
            options.pipeline.workers = workers(1);
            let verified = scene.vault.verify(&options, &());
            let fired = fired + scene.disk.heal();
            match verified {
                Ok(report) => assert!(report.is_complete(), "{nth}: {:?}", report.errors),
                Err(failed) => assert!(matches!(failed.error, Error::Interrupted), "{nth}: {:?}", failed.error),
            }
            if fired == 0 {
                break;
            }
        }
    });
}

#[test]
fn a_deadline_ends_a_run_that_a_slow_disk_holds_up() {
    within(60, || {
        let scene = Scene::new();
        scene.disk.breaks([Fault::forever(|op| op == Op::Write, 1, Effect::Delay(Duration::from_millis(200)))]);
        let mut options = simple();
        options.pipeline.timeout = Some(Duration::from_millis(300));
        let began = Instant::now();
        let failed = scene.add(options).unwrap_err();
        assert!(matches!(failed.error, Error::Deadline(_)), "{:?}", failed.error);
        assert_eq!(failed.error.kind(), ErrorKind::Deadline);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        scene.disk.heal();
        scene.assert_as_before("after a deadline");
        scene.assert_given_back("after a deadline");
        scene.assert_next_add_works("after a deadline");
    });
}

#[test]
fn a_run_in_which_nothing_moves_is_ended_and_the_stage_that_hangs_is_named() {
    within(60, || {
        let scene = Scene::new();
        let blocked = Arc::new(AtomicBool::new(true));
        let (gate, stalled) = (Arc::clone(&blocked), Duration::from_millis(300));
        let wait = move || {
            let began = Instant::now();
            while gate.load(Ordering::SeqCst) && began.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        // Data records are the long ones; the third write is no head and no index block.
        scene.disk.breaks([Fault::once(|op| op == Op::Write, 3, Effect::First(Arc::new(wait)))]);
        let mut options = simple();
        options.pipeline.stall_timeout = Some(stalled);
        let began = Instant::now();
        let failed = scene.add(options).unwrap_err();
        blocked.store(false, Ordering::SeqCst);
        match failed.error {
            Error::Stalled { stage, after, .. } => assert_eq!((stage, after), ("write", stalled)),
            other => panic!("{other:?}"),
        }
        // The library returns only when its threads do, and that was when the disk answered again.
        assert!(began.elapsed() < Duration::from_secs(4));
        scene.disk.heal();
        scene.assert_as_before("after a stall");
        scene.assert_given_back("after a stall");
    });
}

#[test]
fn a_stall_timeout_of_zero_and_waits_that_are_none_end_nothing() {
    within(60, || {
        let scene = Scene::new();
        scene.disk.breaks([Fault::once(|op| op == Op::Write, 3, Effect::Delay(Duration::from_millis(700)))]);
        let mut options = simple();
        options.pipeline.stall_timeout = Some(Duration::ZERO);
        scene.add(options).unwrap();
        scene.reset();
        // A disk that takes long to sync is slow, not dead.
        scene.disk.breaks([Fault::forever(|op| op == Op::Sync, 1, Effect::Delay(Duration::from_millis(400)))]);
        let mut options = simple();
        options.pipeline.stall_timeout = Some(Duration::from_millis(200));
        scene.add(options).unwrap();
    });
}

#[test]
fn the_first_cause_is_kept_whatever_comes_after_it() {
    within(60, || {
        let scene = Scene::new();
        let token = CancelToken::new();
        let pulled = token.clone();
        // A write fails for good; what follows are failures too, and a pulled token.
        scene.disk.breaks([
            Fault::once(|op| op == Op::Write, 2, Effect::Errno(libc::EDQUOT)),
            Fault::forever(|op| op == Op::Write, 3, Effect::Errno(libc::EIO)),
            Fault::once(|op| op == Op::SetLen, 1, Effect::First(Arc::new(move || pulled.cancel()))),
        ]);
        let mut options = with_token(&token);
        options.pipeline.workers = workers(4);
        let failed = scene.add(options).unwrap_err();
        match &failed.error {
            Error::Io { source, .. } => assert_eq!(source.raw_os_error(), Some(libc::EDQUOT)),
            other => panic!("{other:?}"),
        }
        scene.disk.heal();
        scene.assert_as_before("after two causes");
    });
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn no_thread_is_left_by_a_run_however_it_ends() {
    if !in_a_process_of_its_own("cancellation::no_thread_is_left_by_a_run_however_it_ends") {
        return;
    }
    within(120, || {
        let scene = Scene::new();
        let settled = || {
            // A joined thread is gone from the list a moment later.
            let began = Instant::now();
            let mut now = threads();
            while began.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(20));
                let next = threads();
                if next == now {
                    break;
                }
                now = next;
            }
            now
        };
        let before = settled();
        for nth in 1..40 {
            let token = CancelToken::new();
            let pulled = token.clone();
            let effect =
                if nth % 2 == 0 { Effect::Errno(libc::EIO) } else { Effect::First(Arc::new(move || pulled.cancel())) };
            scene.disk.breaks([Fault::once(|_| true, nth, effect)]);
            let mut options = with_token(&token);
            options.pipeline.workers = workers(6);
            let _ = scene.add(options);
            scene.reset();
            assert_eq!(settled(), before, "after a run that ended at call {nth}");
        }
        scene.vault.verify(&VerifyOptions::default(), &()).unwrap();
        assert_eq!(settled(), before, "after a verify");
    });
}

#[test]
fn a_failed_start_of_writing_behind_counts_as_a_failed_sync() {
    within(60, || {
        let scene = Scene::new();
        // It is begun every 8 MiB.
        let data = noise(9, 20_000_000);
        scene.tree.file("huge", &data);
        for nth in 1..=2 {
            scene.disk.breaks([Fault::once(|op| op == Op::Writeback, nth, Effect::Errno(libc::EIO))]);
            let mut options = AddOptions::default();
            options.pipeline.chunk_size = Some(1 << 20);
            let failed = add_with(&scene.vault, scene.tree.root(), &["huge"], options).unwrap_err();
            assert_eq!(scene.disk.heal(), 1);
            assert_eq!(failed.error.kind(), ErrorKind::Io, "{:?}", failed.error);
            scene.assert_as_before("after a failed writing behind");
            scene.assert_given_back("after a failed writing behind");
        }
    });
}

#[test]
fn short_reads_and_writes_and_interrupted_ones_are_gone_on_with() {
    within(120, || {
        for (effect, name) in [(Effect::Short, "short"), (Effect::Errno(libc::EINTR), "interrupted")] {
            let scene = Scene::new();
            // Every one that is short is followed by the rest, which is shorter by one: the last byte goes alone.
            for nth in 1..60 {
                let fault = Fault::once(|op| matches!(op, Op::Read | Op::Write), nth, effect.clone());
                scene.disk.breaks([fault]);
                let report = scene.add(simple()).unwrap_or_else(|failed| panic!("{name} {nth}: {:?}", failed.error));
                assert!(report.is_complete());
                scene.disk.breaks([Fault::once(|op| op == Op::Read, nth, effect.clone())]);
                assert_sound(&scene.vault);
                assert!(contents(&scene.vault, None).unwrap()[Path::new("old/large")] == noise(4, 700_000));
                scene.reset();
            }
        }
    });
}

#[test]
fn reading_runs_say_what_failed_and_never_give_wrong_bytes() {
    within(150, || {
        let scene = Scene::new();
        add(&scene.vault, scene.tree.root(), &["old"]);
        let expected = contents(&scene.vault, None).unwrap();
        for forever in [false, true] {
            for nth in 1.. {
                let broken = || Fault { on: |_| true, nth, forever, effect: Effect::Errno(libc::EIO) };
                let out = Tree::new();
                scene.disk.breaks([broken()]);
                let mut options = ExtractOptions::default();
                options.pipeline.workers = workers(1);
                let result = scene.vault.extract(&out.path("out"), &options, &());
                let fired = scene.disk.heal();
                let is_complete = result.as_ref().is_ok_and(Report::is_complete);
                for (name, bytes) in &expected {
                    match std::fs::read(out.path("out").join(name)) {
                        Ok(found) => assert!(found == *bytes, "{}: wrong bytes at {nth}", name.display()),
                        Err(_) => assert!(!is_complete, "{} is missing and nobody says so: {nth}", name.display()),
                    }
                }
                scene.disk.breaks([broken()]);
                let listed = contents(&scene.vault, None);
                let fired = fired + scene.disk.heal();
                if let Ok(listed) = listed {
                    assert!(listed == expected, "call {nth}");
                }
                scene.disk.breaks([broken()]);
                // Locks are asked for only when something looks wrong, so a read that fails is all that can happen.
                let verified = verify(&scene.vault);
                let fired_at_verify = scene.disk.heal();
                if forever {
                    let whole = verified.is_ok_and(|report| report.is_complete());
                    assert!(!whole || fired_at_verify == 0, "verify calls a disk that cannot be read whole: {nth}");
                }
                if fired + fired_at_verify == 0 {
                    break;
                }
            }
        }
    });
}

/// Counts what is told.
#[derive(Default)]
struct Waits(AtomicU64);

impl Observer for Waits {
    fn notice(&self, notice: &Notice) {
        if matches!(notice, Notice::WaitingForLock { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_lock_that_another_holds_is_waited_for_as_long_as_was_asked_and_said_once() {
    within(60, || {
        use flint_pipe::{Lock, LockMode, VaultDir as _};
        let scene = Scene::new();
        for lock in [Lock::Presence, Lock::Commit] {
            let other = scene.disk.open(true).unwrap().expect("there is a vault");
            assert!(other.try_lock(lock, LockMode::Exclusive).unwrap());
            let add = |timeout, cancel: &CancelToken, observer: &dyn Observer| {
                let mut options = with_token(cancel);
                options.pipeline.lock_timeout = timeout;
                options.directory = Some(scene.tree.root().to_owned());
                scene.vault.add(&["old".into()], &options, observer)
            };
            let failed = add(Some(Duration::ZERO), &CancelToken::new(), &()).unwrap_err();
            assert!(matches!(failed.error, Error::Locked(_)), "{:?}", failed.error);
            let waits = Waits::default();
            let failed = add(Some(Duration::from_millis(1500)), &CancelToken::new(), &waits).unwrap_err();
            assert!(matches!(failed.error, Error::Locked(_)), "{:?}", failed.error);
            assert_eq!(waits.0.load(Ordering::Relaxed), 1);
            // A cancel ends the wait, and so does a deadline.
            let token = CancelToken::new();
            let pulled = token.clone();
            let puller = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(200));
                pulled.cancel();
            });
            let failed = add(None, &token, &()).unwrap_err();
            puller.join().unwrap();
            assert!(matches!(failed.error, Error::Interrupted), "{:?}", failed.error);
            drop(other);
            scene.assert_as_before("after locks");
            scene.assert_given_back("after locks");
        }
        scene.assert_next_add_works("after locks");
    });
}
