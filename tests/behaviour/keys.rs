//! Keys are changed in the header alone, and whole: whatever fails and wherever the power is cut, the passwords from before
//! open the vault or those from after, and those from after once it was acknowledged. Two changes at once both hold.
//!
//! `FLINT_TEST_SCALE` and `FLINT_TEST_SEED` as in `power_cuts`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use flint_pipe::{
    Error, ErrorKind, Failed, KeyInfo, KeyName, KeyOptions, Malformation, Password, Report, SavedHeader, Vault,
};

use crate::support::disk::media::{Bound, FailedSync, Left};
use crate::support::disk::{Disk, Effect, Fault, Op};
use crate::support::scenes::{files_of, scale, seeds};
use crate::support::tree::{Tree, text};
use crate::support::{Contents, add, add_with, assert_sound, cheap, contents, simple, verify, within};

const HEADER_A: usize = 0;
const HEADER_B: usize = 32 << 10;
const HEADER_LEN: usize = 16 << 10;
/// Where what keys have no part in begins.
const ROOTS: usize = 48 << 10;

/// What opens a vault, of all passwords of these tests.
type Openers = BTreeSet<&'static str>;

const PASSWORDS: [&str; 4] = ["saved", "old", "second", "new"];

fn openers(words: &[&'static str]) -> Openers {
    words.iter().copied().collect()
}

fn password(word: &str) -> Password {
    Password::new(word)
}

fn options(label: Option<&str>) -> KeyOptions {
    let mut options = KeyOptions::default();
    options.label = label.map(str::to_owned);
    (options.kdf_memory_kib, options.kdf_passes) = (Some(19 << 10), Some(2));
    options
}

fn open(disk: &Disk, word: &str) -> flint_pipe::Result<Vault> {
    Vault::open_in("memory.flint", disk.dir(), &password(word), None)
}

/// What is done to the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Add,
    Remove,
    Passwd,
    Import,
    /// The same, where both copies of the header are lost.
    ImportToNothing,
}

impl Kind {
    fn before(self) -> Openers {
        if self == Self::ImportToNothing { openers(&[]) } else { openers(&["old", "second"]) }
    }

    fn after(self) -> Openers {
        openers(match self {
            Self::Add => &["old", "second", "new"],
            Self::Remove => &["old"],
            Self::Passwd => &["new", "second"],
            Self::Import | Self::ImportToNothing => &["saved"],
        })
    }
}

/// A vault whose keys are to be changed: opened by `old` and `second`, before that by `saved`.
struct Scene {
    kind: Kind,
    disk: Disk,
    vault: Vault,
    saved: SavedHeader,
    before: Vec<u8>,
    holds: Contents,
    /// By the bytes of both headers: deriving keys takes long, and they are often the same.
    known: RefCell<BTreeMap<Vec<u8>, Openers>>,
}

type Outcome = Result<Report, Failed>;

impl Scene {
    fn new(kind: Kind) -> Self {
        let (disk, tree) = (Disk::new(), Tree::new());
        tree.file("d/a", text(1, 900));
        let vault = Vault::open_in("memory.flint", disk.dir(), &password("saved"), Some(&cheap())).unwrap();
        add(&vault, tree.root(), &["d"]);
        let exported = vault.export_header().unwrap();
        let saved = SavedHeader::open("saved", &exported, &password("saved")).unwrap();
        vault.change_password(&password("old"), &options(Some("first")), &()).unwrap();
        vault.add_key(&password("second"), &options(Some("second")), &()).unwrap();
        let holds = contents(&vault, None).unwrap();
        drop(vault);
        let mut before = disk.bytes().unwrap();
        let vault = open(&disk, "old").unwrap();
        if kind == Kind::ImportToNothing {
            [HEADER_A, HEADER_B].into_iter().for_each(|at| before[at..at + HEADER_LEN].fill(0));
        }
        Self { kind, disk, vault, saved, before, holds, known: RefCell::default() }
    }

    fn reset(&self) {
        self.disk.start_with(Some(self.before.clone()));
    }

    fn run(&self) -> Outcome {
        match self.kind {
            Kind::Add => self.vault.add_key(&password("new"), &options(Some("new")), &()),
            Kind::Remove => self.vault.remove_key(&KeyName::Label("second".into()), &options(None), &()),
            // Opened anew where it was changed already, for it remembers what its password is now.
            Kind::Passwd => {
                let vault = Vault::open_in("memory.flint", self.disk.dir(), &password("old"), None)?;
                vault.change_password(&password("new"), &options(None), &())
            }
            Kind::Import | Kind::ImportToNothing => {
                Vault::import_header_in("memory.flint", &self.disk, &self.saved, &options(None), &())
            }
        }
    }

    /// What opens the vault now.
    fn openers(&self) -> Openers {
        let bytes = self.disk.bytes().expect("the vault is there");
        let headers = [&bytes[HEADER_A..HEADER_A + HEADER_LEN], &bytes[HEADER_B..HEADER_B + HEADER_LEN]].concat();
        if let Some(known) = self.known.borrow().get(&headers) {
            return known.clone();
        }
        let opens = |word: &&str| match open(&self.disk, word) {
            Ok(_) => true,
            Err(Error::WrongPassword(_) | Error::Damaged { .. }) => false,
            Err(error) => panic!("{word}: {error:?}"),
        };
        let found: Openers = PASSWORDS.into_iter().filter(opens).collect();
        self.known.borrow_mut().insert(headers, found.clone());
        found
    }

    /// Some of these sets of passwords open the vault, its snapshots are whole, and nothing else has changed.
    fn assert_opens_by(&self, allowed: &[Openers], what: &str) {
        let found = self.openers();
        assert!(allowed.contains(&found), "{what}: {found:?} open it, not one of {allowed:?}");
        let bytes = self.disk.bytes().expect("the vault is there");
        assert!(bytes[ROOTS..] == self.before[ROOTS..], "{what}: something behind the headers has changed");
        if found.is_empty() {
            return;
        }
        // The keys are the same whatever opens it.
        assert!(contents(&self.vault, None).unwrap() == self.holds, "{what}: the snapshot");
        let report = verify(&self.vault).unwrap_or_else(|failed| panic!("{what}: {:?}", failed.error));
        for error in &report.errors {
            assert!(error.message.starts_with("the copy of the header at byte"), "{what}: {error:?}");
        }
        assert!(report.errors.len() < 2, "{what}: {:?}", report.errors);
    }

    /// The next change works on what is there and lasts, and both copies are good then.
    fn assert_next_change_works(&self, what: &str) {
        let before = self.openers();
        let Some(word) = before.first() else { return };
        let vault = open(&self.disk, word).unwrap();
        let result = vault.add_key(&password("new"), &options(Some("next")), &());
        result.unwrap_or_else(|failed| panic!("{what}: the next change: {:?}", failed.error));
        self.disk.power_cycle(Left::Nothing);
        let mut after = before.clone();
        after.insert("new");
        assert_eq!(self.openers(), after, "{what}: the next change");
        assert_sound(&vault);
    }
}

/// Cuts the power at every moment of a change, with every outcome.
fn cut_everywhere(kind: Kind) {
    within(150 * scale(), move || {
        let scene = Scene::new(kind);
        scene.reset();
        scene.disk.record();
        scene.run().unwrap_or_else(|failed| panic!("nothing went wrong: {:?}", failed.error));
        scene.disk.mark(1);
        let (mut moments, mut outcomes) = (0, 0);
        scene.disk.recorded().each_moment(|moment| {
            moments += 1;
            let is_done = !moment.marks.is_empty();
            let allowed = if is_done { vec![kind.after()] } else { vec![kind.before(), kind.after()] };
            let is_all = moment.each_outcome(Bound { all: 64, seeds: 8 }, 0, |outcome| {
                outcomes += 1;
                let what = format!("{kind:?}, cut after {} changes: {}", moment.number, outcome.what);
                scene.disk.start_with(outcome.image.clone());
                scene.assert_opens_by(&allowed, &what);
                if outcomes % 5 == 0 {
                    scene.assert_next_change_works(&what);
                }
            });
            assert!(is_all, "a header has few sectors");
        });
        eprintln!("{kind:?}: {moments} power cuts, {outcomes} outcomes");
        assert!(moments >= 5 && outcomes > 10, "{moments} moments, {outcomes} outcomes");
    });
}

#[test]
fn adding_a_key_may_be_cut_anywhere() {
    cut_everywhere(Kind::Add);
}

#[test]
fn removing_a_key_may_be_cut_anywhere() {
    cut_everywhere(Kind::Remove);
}

#[test]
fn changing_a_password_may_be_cut_anywhere() {
    cut_everywhere(Kind::Passwd);
}

#[test]
fn importing_a_header_may_be_cut_anywhere() {
    cut_everywhere(Kind::Import);
}

#[test]
fn importing_a_header_where_none_is_left_may_be_cut_anywhere() {
    cut_everywhere(Kind::ImportToNothing);
}

/// Something that goes wrong with a call.
struct Wrong {
    name: &'static str,
    on: fn(Op) -> bool,
    effect: Effect,
    /// To all calls that follow, too.
    forever: bool,
}

fn wrongs() -> Vec<Wrong> {
    let any: fn(Op) -> bool = |_| true;
    let takes_space: fn(Op) -> bool = |op| matches!(op, Op::Write | Op::Sync | Op::DirSync);
    let moves_bytes: fn(Op) -> bool = |op| matches!(op, Op::Read | Op::Write);
    let moves_no_bytes: fn(Op) -> bool = |op| !matches!(op, Op::Read | Op::Write);
    let wrong = |name, on, effect, forever| Wrong { name, on, effect, forever };
    vec![
        wrong("EIO once", any, Effect::Errno(libc::EIO), false),
        wrong("EIO from then on", any, Effect::Errno(libc::EIO), true),
        wrong("ENOSPC once", takes_space, Effect::Errno(libc::ENOSPC), false),
        wrong("ENOSPC from then on", takes_space, Effect::Errno(libc::ENOSPC), true),
        wrong("EINTR once", any, Effect::Errno(libc::EINTR), false),
        wrong("EINTR from then on", moves_no_bytes, Effect::Errno(libc::EINTR), true),
        wrong("short once", moves_bytes, Effect::Short, false),
        wrong("short from then on", moves_bytes, Effect::Short, true),
    ]
}

/// What may open the vault after this, as long as the power holds, and if it is cut.
fn allowed_after(kind: Kind, outcome: &Outcome, what: &str) -> Vec<Openers> {
    match outcome {
        Ok(_) => vec![kind.after()],
        Err(Failed { error, .. }) => {
            let unreadable = matches!(error, Error::Damaged { source: Malformation::Unreadable { .. }, .. });
            assert!(unreadable || error.kind() == ErrorKind::Io, "{what}: {error:?}");
            match error {
                Error::KeysUncertain { .. } => vec![kind.before(), kind.after()],
                Error::SpareKeysOld { .. } => vec![kind.after()],
                _ => vec![kind.before()],
            }
        }
    }
}

/// Lets every call of a change fail in every way.
fn fail_everything(kind: Kind) {
    within(170 * scale(), move || {
        let scene = Scene::new(kind);
        let (mut faults, mut kinds_of_end) = (0, BTreeSet::new());
        for Wrong { name, on, effect, forever } in wrongs() {
            for nth in 1.. {
                let what = format!("{kind:?}, {name}, call {nth}");
                scene.reset();
                scene.disk.set_failed_sync(FailedSync::ways(nth)[usize::try_from(nth % 5).unwrap()]);
                scene.disk.breaks([Fault { on, nth, forever, effect: effect.clone() }]);
                let outcome = scene.run();
                if scene.disk.heal() == 0 {
                    outcome.unwrap_or_else(|failed| panic!("{what}: nothing went wrong: {:?}", failed.error));
                    assert!(nth > 1, "{what}: there is no such call");
                    break;
                }
                faults += 1;
                kinds_of_end.insert(outcome.as_ref().map_or_else(|failed| failed.to_string(), |_| String::new()));
                let allowed = allowed_after(kind, &outcome, &what);
                let moment = scene.disk.moment();
                scene.assert_opens_by(&allowed, &what);
                if nth % 7 == 0 {
                    scene.assert_next_change_works(&what);
                }
                moment.each_outcome(Bound { all: 16, seeds: 2 }, nth, |cut| {
                    scene.disk.start_with(cut.image.clone());
                    scene.assert_opens_by(&allowed, &format!("{what}, then a power cut: {}", cut.what));
                });
            }
        }
        eprintln!("{kind:?}: {faults} faults");
        let ends = ["may or may not hold", "the spare copy of the header still has the old ones"];
        for end in ends {
            assert!(kinds_of_end.iter().any(|error| error.contains(end)), "{end}: {kinds_of_end:?}");
        }
    });
}

#[test]
fn any_call_of_adding_a_key_may_fail() {
    fail_everything(Kind::Add);
}

#[test]
fn any_call_of_removing_a_key_may_fail() {
    fail_everything(Kind::Remove);
}

#[test]
fn any_call_of_changing_a_password_may_fail() {
    fail_everything(Kind::Passwd);
}

#[test]
fn any_call_of_importing_a_header_may_fail() {
    fail_everything(Kind::Import);
}

#[test]
fn any_call_of_importing_a_header_where_none_is_left_may_fail() {
    fail_everything(Kind::ImportToNothing);
}

#[test]
fn a_copy_that_a_failed_sync_left_in_memory_alone_is_not_relied_upon() {
    within(170, || {
        let scene = Scene::new(Kind::Add);
        let mut cuts = 0;
        for nth in 1..=3 {
            for way in FailedSync::ways(nth) {
                scene.reset();
                scene.disk.set_failed_sync(way);
                scene.disk.breaks([Fault::once(|op| op == Op::Sync, nth, Effect::Errno(libc::EIO))]);
                let failed = scene.run().expect_err("a failed sync fails it");
                // What was said to hold holds, whatever becomes of the next change.
                let holds = matches!(failed.error, Error::SpareKeysOld { .. });
                assert_eq!(holds, nth == 3, "sync {nth}, {way:?}: {:?}", failed.error);
                scene.disk.heal();
                // What is on the disk may be less than what is read now; the next change may be cut anywhere all the same.
                scene.disk.record();
                let next = scene.vault.remove_key(&KeyName::Label("second".into()), &options(None), &());
                next.unwrap_or_else(|failed| panic!("sync {nth}, {way:?}: {:?}", failed.error));
                scene.disk.recorded().each_moment(|moment| {
                    moment.each_outcome(Bound { all: 64, seeds: 8 }, nth, |outcome| {
                        cuts += 1;
                        scene.disk.start_with(outcome.image.clone());
                        for word in if holds { &["old", "new"][..] } else { &["old"] } {
                            let what = format!("sync {nth}, {way:?}, {}", outcome.what);
                            open(&scene.disk, word).unwrap_or_else(|error| panic!("{what}: {word}: {error:?}"));
                        }
                    });
                });
            }
        }
        assert!(cuts > 100, "only {cuts}");
    });
}

/// Does two things at once, each through a view of the disk of its own, in an order of their calls that the seed decides.
fn both<A: Send, B: Send>(
    disk: &Disk,
    seed: u64,
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    disk.take_turns(2, seed);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| {
            let retires = Retires(disk, 0);
            let result = one();
            drop(retires);
            result
        });
        let other = scope.spawn(|| {
            let retires = Retires(disk, 1);
            let result = other();
            drop(retires);
            result
        });
        (one.join().unwrap(), other.join().unwrap())
    })
}

struct Retires<'d>(&'d Disk, usize);

impl Drop for Retires<'_> {
    fn drop(&mut self) {
        self.0.retire(self.1);
    }
}

fn seen_by(disk: &Disk, writer: usize, word: &str) -> Vault {
    Vault::open_in("memory.flint", disk.seen_by(writer).dir(), &password(word), None).unwrap()
}

#[test]
fn two_changes_at_once_both_hold_in_any_order_of_their_calls() {
    within(170 * scale(), || {
        let scene = Scene::new(Kind::Add);
        scene.reset();
        let vaults = [seen_by(&scene.disk, 0, "old"), seen_by(&scene.disk, 1, "old")];
        for seed in seeds(24 * scale()) {
            scene.reset();
            if seed % 2 == 1 {
                // A bad copy is looked at twice, which must not let go of the lock that is held.
                scene.disk.flip(HEADER_B + 70, 1);
            }
            let [one, other] = &vaults;
            let remove = KeyName::Label("second".into());
            let (added, removed) = both(
                &scene.disk,
                seed,
                || one.add_key(&password("new"), &options(Some("new")), &()),
                || other.remove_key(&remove, &options(None), &()),
            );
            added.unwrap();
            removed.unwrap();
            assert_eq!(scene.openers(), openers(&["old", "new"]), "seed {seed}");

            scene.reset();
            let second = seen_by(&scene.disk, 1, "second");
            let (added, changed) = both(
                &scene.disk,
                seed,
                || one.add_key(&password("new"), &options(Some("new")), &()),
                || second.change_password(&password("saved"), &options(None), &()),
            );
            let ids = [added.unwrap().key.unwrap(), changed.unwrap().key.unwrap()];
            assert_ne!(ids[0], ids[1], "seed {seed}");
            assert_eq!(scene.openers(), openers(&["old", "new", "saved"]), "seed {seed}");
            scene.disk.power_cycle(Left::Nothing);
            assert_eq!(scene.openers(), openers(&["old", "new", "saved"]), "seed {seed}");
            assert_sound(&scene.vault);
        }
    });
}

#[test]
fn of_two_who_change_one_password_at_once_the_second_is_told() {
    within(100 * scale(), || {
        let scene = Scene::new(Kind::Passwd);
        for seed in seeds(8 * scale()) {
            scene.reset();
            let vaults = [seen_by(&scene.disk, 0, "old"), seen_by(&scene.disk, 1, "old")];
            let [one, other] = &vaults;
            let (one, other) = both(
                &scene.disk,
                seed,
                || one.change_password(&password("new"), &options(None), &()),
                || other.change_password(&password("saved"), &options(None), &()),
            );
            let (word, refused) = match (one, other) {
                (Ok(_), Err(failed)) => ("new", failed.error),
                (Err(failed), Ok(_)) => ("saved", failed.error),
                both => panic!("seed {seed}: {both:?}"),
            };
            assert!(matches!(refused, Error::Refused { .. }), "seed {seed}: {refused:?}");
            assert_eq!(scene.openers(), openers(&[word, "second"]), "seed {seed}");
        }
    });
}

#[test]
fn a_change_of_the_keys_beside_an_add_leaves_both() {
    within(170 * scale(), || {
        let scene = Scene::new(Kind::Add);
        let tree = Tree::new();
        tree.file("e/more", text(2, 700));
        scene.reset();
        let vaults = [seen_by(&scene.disk, 0, "old"), seen_by(&scene.disk, 1, "old")];
        for seed in seeds(12 * scale()) {
            scene.reset();
            let [keys, data] = &vaults;
            let (changed, added) = both(
                &scene.disk,
                seed,
                || keys.add_key(&password("new"), &options(Some("new")), &()),
                || add_with(data, tree.root(), &["e"], simple()),
            );
            changed.unwrap();
            assert!(added.unwrap().is_complete());
            scene.disk.power_cycle(Left::Nothing);
            assert_eq!(scene.openers(), openers(&["old", "second", "new"]), "seed {seed}");
            let mut expected = scene.holds.clone();
            expected.extend(files_of(&tree));
            assert!(contents(&scene.vault, None).unwrap() == expected, "seed {seed}");
            assert_sound(&scene.vault);
        }
    });
}

/// The labels of the passwords, with their ids.
fn labels(vault: &Vault) -> Vec<(u32, String)> {
    let label = |key| match key {
        KeyInfo::Password(password) => Some((password.id, password.label)),
        _ => None,
    };
    vault.keys().unwrap().into_iter().filter_map(label).collect()
}

#[test]
fn what_cannot_be_done_to_the_keys_changes_no_byte() {
    within(100, || {
        let scene = Scene::new(Kind::Add);
        scene.reset();
        let vault = &scene.vault;
        let before = scene.disk.bytes().unwrap();
        let remove = |which| vault.remove_key(&which, &options(None), &()).unwrap_err().error;
        assert!(matches!(remove(KeyName::Label("none".into())), Error::NoKey { .. }));
        assert!(matches!(remove(KeyName::Id(77)), Error::NoKey { .. }));
        let add = |word: &str, options: &KeyOptions| vault.add_key(&password(word), options, &()).unwrap_err().error;
        assert!(matches!(add("new", &options(Some("second"))), Error::Refused { .. }));
        assert!(matches!(add("new", &options(Some(&"x".repeat(65)))), Error::Usage(_)));
        assert!(matches!(add("", &options(None)), Error::Usage(_)));
        let mut cheap = options(None);
        cheap.kdf_passes = Some(1);
        assert!(matches!(add("new", &cheap), Error::KdfRefused { .. }));
        let taken = vault.change_password(&password("new"), &options(Some("second")), &()).unwrap_err().error;
        assert!(matches!(taken, Error::Refused { .. }));
        let mut dry = options(Some("new"));
        dry.dry_run = true;
        vault.add_key(&password("new"), &dry, &()).unwrap();
        vault.change_password(&password("new"), &dry, &()).unwrap();
        vault.remove_key(&KeyName::Label("second".into()), &dry, &()).unwrap();
        Vault::import_header_in("memory.flint", &scene.disk, &scene.saved, &dry, &()).unwrap();
        assert!(scene.disk.bytes().unwrap() == before);
        vault.remove_key(&KeyName::Label("second".into()), &options(None), &()).unwrap();
        let before = scene.disk.bytes().unwrap();
        assert!(matches!(remove(KeyName::Label("first".into())), Error::Refused { .. }), "the last one");
        assert!(scene.disk.bytes().unwrap() == before);
    });
}

#[test]
fn eight_passwords_open_a_vault_and_no_ninth() {
    within(100, || {
        let scene = Scene::new(Kind::Add);
        scene.reset();
        for number in 3..=8 {
            scene.vault.add_key(&password(&number.to_string()), &options(None), &()).unwrap();
        }
        let before = scene.disk.bytes().unwrap();
        let ninth = scene.vault.add_key(&password("9"), &options(None), &()).unwrap_err().error;
        assert!(matches!(ninth, Error::Refused { .. }), "{ninth:?}");
        assert!(scene.disk.bytes().unwrap() == before);
        // Several without a label: only an id says which.
        let several = scene.vault.remove_key(&KeyName::Label(String::new()), &options(None), &()).unwrap_err().error;
        assert!(matches!(several, Error::Refused { .. }), "{several:?}");
        let id = labels(&scene.vault).last().unwrap().0;
        assert!(open(&scene.disk, "8").is_ok());
        assert_eq!(scene.vault.remove_key(&KeyName::Id(id), &options(None), &()).unwrap().key, Some(id));
        assert!(matches!(open(&scene.disk, "8"), Err(Error::WrongPassword(_))));
    });
}

#[test]
fn a_password_keeps_its_label_and_cost_and_its_place_when_it_is_changed() {
    within(100, || {
        let scene = Scene::new(Kind::Passwd);
        scene.reset();
        let vault = open(&scene.disk, "old").unwrap();
        let listed = |vault: &Vault| {
            let password = |key| match key {
                KeyInfo::Password(password) => password,
                other => panic!("{other:?}"),
            };
            vault.keys().unwrap().into_iter().map(password).collect::<Vec<_>>()
        };
        let before = listed(&vault);
        assert!(before[0].current && !before[1].current);
        let plain = KeyOptions::default();
        let id = vault.change_password(&password("new"), &plain, &()).unwrap().key.unwrap();
        let after = listed(&vault);
        assert_eq!((after[0].id, after[0].label.as_str(), after[0].kdf), (id, "first", before[0].kdf));
        assert!(after[0].current && after[0].id > before[1].id && after[1] == before[1]);
        // The value goes on with what its password is now.
        let mut dearer = KeyOptions::default();
        (dearer.label, dearer.kdf_passes) = (Some("renamed".into()), Some(3));
        vault.change_password(&password("old"), &dearer, &()).unwrap();
        let after = listed(&vault);
        assert_eq!((after[0].label.as_str(), after[0].kdf.passes), ("renamed", 3));
        assert_eq!(after[0].kdf.memory_kib, before[0].kdf.memory_kib);
        assert_eq!(scene.openers(), openers(&["old", "second"]));
    });
}

#[test]
fn a_bad_spare_copy_is_mended_by_the_next_change_and_never_counts() {
    within(100, || {
        let scene = Scene::new(Kind::Add);
        for at in [HEADER_A, HEADER_B] {
            scene.reset();
            scene.disk.flip(at + 70, 1);
            let vault = open(&scene.disk, "old").unwrap();
            let report = vault.add_key(&password("new"), &options(Some("new")), &()).unwrap();
            assert!(report.notes.iter().any(|note| note.contains("copy of the header")), "{:?}", report.notes);
            assert_eq!(scene.openers(), openers(&["old", "second", "new"]));
            assert_sound(&vault);
        }
        // Both are bad: nothing is written over what may be mended.
        scene.reset();
        [HEADER_A, HEADER_B].into_iter().for_each(|at| scene.disk.flip(at + 70, 1));
        let before = scene.disk.bytes().unwrap();
        let failed = scene.vault.add_key(&password("new"), &options(Some("new")), &()).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Integrity, "{:?}", failed.error);
        assert!(scene.disk.bytes().unwrap() == before);
        // Nor in a vault whose roots are lost.
        scene.reset();
        [ROOTS + 20, ROOTS + (8 << 10) + 20].into_iter().for_each(|at| scene.disk.flip(at, 1));
        let before = scene.disk.bytes().unwrap();
        let failed = scene.vault.add_key(&password("new"), &options(Some("new")), &()).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Integrity, "{:?}", failed.error);
        assert!(scene.disk.bytes().unwrap() == before);
    });
}

#[test]
fn a_change_that_was_cut_short_between_the_copies_is_mentioned_and_holds() {
    within(60, || {
        let scene = Scene::new(Kind::Add);
        for (kept_at, place) in [(HEADER_A, "byte 0 "), (HEADER_B, "byte 32768 ")] {
            scene.reset();
            scene.run().unwrap();
            let mut bytes = scene.disk.bytes().unwrap();
            bytes[kept_at..kept_at + HEADER_LEN].copy_from_slice(&scene.before[kept_at..kept_at + HEADER_LEN]);
            scene.disk.set_bytes(&bytes);
            assert_eq!(scene.openers(), openers(&["old", "second", "new"]));
            let report = assert_sound(&open(&scene.disk, "new").unwrap());
            let note = report.notes.first().expect("it is mentioned");
            assert!(note.contains("cut short") && note.contains(place), "{note}");
            // The next one writes both, whichever of them is older.
            let remove = KeyName::Label("second".into());
            scene.vault.remove_key(&remove, &options(None), &()).unwrap();
            assert_eq!(scene.openers(), openers(&["old", "new"]));
            assert_eq!(assert_sound(&scene.vault).notes, [] as [String; 0]);
        }
    });
}

#[test]
fn only_a_header_of_the_vault_itself_can_be_imported_into_it() {
    within(100, || {
        let scene = Scene::new(Kind::Import);
        let another = Scene::new(Kind::Import);
        let import = || Vault::import_header_in("memory.flint", &scene.disk, &another.saved, &options(None), &());
        let whole = scene.before.clone();
        let mut headless = whole.clone();
        [HEADER_A, HEADER_B].into_iter().for_each(|at| headless[at..at + HEADER_LEN].fill(0));
        let mut preambleless = whole.clone();
        preambleless[..64 << 10].fill(0);
        for (what, image) in [("whole", &whole), ("no header", &headless), ("no preamble", &preambleless)] {
            scene.disk.start_with(Some(image.clone()));
            let error = import().unwrap_err().error;
            assert!(matches!(error, Error::Refused { .. }), "{what}: {error:?}");
            assert!(scene.disk.bytes().unwrap() == *image, "{what}");
        }
        // Its own is, even where nothing else of the preamble is left; and then the vault can be recovered.
        scene.disk.start_with(Some(preambleless));
        Vault::import_header_in("memory.flint", &scene.disk, &scene.saved, &options(None), &()).unwrap();
        assert_eq!(scene.openers(), openers(&["saved"]));
        let vault = open(&scene.disk, "saved").unwrap();
        let mut recover = flint_pipe::RecoverOptions::default();
        recover.in_place = true;
        assert!(vault.recover(&recover, &()).unwrap().is_complete());
        assert!(contents(&vault, None).unwrap() == scene.holds);
        assert_sound(&vault);
        // Where there is no vault at all, none comes to be.
        scene.disk.start_with(Some(vec![0; 128 << 10]));
        let error = import().unwrap_err().error;
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error:?}");
        scene.disk.start_with(None);
        assert!(matches!(import().unwrap_err().error, Error::NoVault(_)));
    });
}

#[test]
fn what_is_no_header_or_opens_by_another_password_is_not_taken_for_one() {
    within(60, || {
        let scene = Scene::new(Kind::Import);
        let bytes = scene.vault.export_header().unwrap();
        assert_eq!(bytes.len(), SavedHeader::LEN);
        let refused = |bytes: &[u8], word: &str| SavedHeader::open("f", bytes, &password(word)).unwrap_err();
        for wrong in [&bytes[..100], &[&bytes[..], b"x"].concat(), &[0; SavedHeader::LEN], b""] {
            assert!(matches!(refused(wrong, "old"), Error::NoHeader { .. }));
        }
        for at in [0, 100, 16_000, SavedHeader::LEN - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(matches!(refused(&flipped, "old"), Error::NoHeader { .. }), "byte {at}");
        }
        assert!(matches!(refused(&bytes, "new"), Error::WrongPassword(path) if *path == *"f"));
        assert!(SavedHeader::open("f", &bytes, &password("second")).is_ok());
    });
}

#[test]
fn a_header_that_is_imported_counts_for_more_than_every_one_before() {
    within(60, || {
        let scene = Scene::new(Kind::Import);
        scene.reset();
        // Imported twice, and changed in between: the newest is what was done last.
        scene.run().unwrap();
        assert_eq!(scene.openers(), openers(&["saved"]));
        let vault = open(&scene.disk, "saved").unwrap();
        vault.change_password(&password("new"), &options(None), &()).unwrap();
        assert_eq!(scene.openers(), openers(&["new"]));
        scene.run().unwrap();
        assert_eq!(scene.openers(), openers(&["saved"]));
        let bytes = scene.disk.bytes().unwrap();
        assert!(bytes[HEADER_A..HEADER_A + HEADER_LEN] == bytes[HEADER_B..HEADER_B + HEADER_LEN]);
        assert_eq!(bytes[32..40], 6_u64.to_le_bytes(), "1 to 3 before, then one more each time");
    });
}
