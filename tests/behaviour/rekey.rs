//! `rekey` gives a vault a new master key: what it holds stays what it was, and nothing of the old keys opens anything of the new
//! file. What happens when it is cut short is in `rewriting.rs`.

use std::collections::HashSet;
use std::time::Duration;

use flint_pipe::{
    CompactOptions, ErrorKind, Keep, KeyInfo, KeyOptions, Password, RecoverOptions, RemoveOptions, Vault,
};

use crate::support::disk::Disk;
use crate::support::disk::media::Left;
use crate::support::tree::{Tree, noise, text};
use crate::support::{
    add, assert_sound, cheap, contents, entries, password, snapshot_numbers, vault_at, vault_in, within,
};

fn options() -> KeyOptions {
    let mut options = KeyOptions::default();
    options.kdf_memory_kib = Some(cheap().kdf.memory_kib);
    options.kdf_passes = Some(cheap().kdf.passes);
    options
}

fn tree() -> Tree {
    let tree = Tree::new();
    for number in 0..10 {
        tree.file(format!("s/{number}"), text(number, 5000));
    }
    tree.file("s/large", noise(3, 900_000));
    tree
}

#[test]
fn nothing_of_the_old_file_is_in_one_that_was_given_a_new_master_key() {
    within(60, || {
        let (disk, tree) = (Disk::new(), tree());
        let vault = vault_in(disk.dir());
        add(&vault, tree.root(), &["s"]);
        vault.remove(&["s/3".into()], &RemoveOptions::default(), &()).unwrap();
        let old = disk.bytes().unwrap();
        let held = contents(&vault, Some(1)).unwrap();
        let new_password = Password::new("new");
        let report = vault.rekey(&new_password, &options(), &()).unwrap();
        assert_eq!(report.compaction.as_ref().unwrap().kept, [1, 2]);
        let new = disk.bytes().unwrap();
        // Not 32 bytes of it: neither ids, nor salts, nor what is sealed. Lengths and numbers are the same, between zeros.
        let says_something = |piece: &&[u8]| piece.iter().filter(|&&byte| byte != 0).count() > 20;
        let pieces: HashSet<&[u8]> = old.windows(32).step_by(8).filter(says_something).collect();
        let same = new.windows(32).step_by(8).filter(|piece| pieces.contains(*piece)).count();
        assert_eq!(same, 0, "pieces of the old file are in the new one");
        assert!(old[16..32] != new[16..32], "the vault's id is another");

        let opened = |password| Vault::open_in("memory.flint", disk.dir(), &password, None);
        assert_eq!(opened(password()).unwrap_err().kind(), ErrorKind::WrongPassword);
        let renewed = opened(new_password).unwrap();
        assert_eq!(snapshot_numbers(&renewed).unwrap(), [2, 1]);
        assert!(contents(&renewed, Some(1)).unwrap() == held);
        assert_sound(&renewed);
        // Who has the vault open with the old keys is told, whatever he wants.
        for error in [
            entries(&vault, None).unwrap_err(),
            vault.remove(&["s".into()], &RemoveOptions::default(), &()).unwrap_err().error,
            vault.compact(&CompactOptions::default(), &()).unwrap_err().error,
            vault.add_key(&password(), &options(), &()).unwrap_err().error,
        ] {
            assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
        }
        // It is another vault now: an old header, though its password is known, is no header of it.
        disk.power_cycle(Left::Everything);
        assert_sound(&renewed);
    });
}

#[test]
fn one_password_is_left_and_the_others_are_named() {
    within(60, || {
        let (disk, tree) = (Disk::new(), tree());
        let vault = vault_in(disk.dir());
        add(&vault, tree.root(), &["s"]);
        let mut second = options();
        second.label = Some("second".to_owned());
        vault.add_key(&Password::new("two"), &second, &()).unwrap();
        // Opened with the second one, which is to stay, with its label and cost.
        let vault = Vault::open_in("memory.flint", disk.dir(), &Password::new("two"), None).unwrap();
        let report = vault.rekey(&Password::new("two"), &KeyOptions::default(), &()).unwrap();
        assert_eq!(report.notes.len(), 1, "{:?}", report.notes);
        assert!(report.notes[0].contains("password 1 (without a label) does not open it"), "{:?}", report.notes);
        let vault = Vault::open_in("memory.flint", disk.dir(), &Password::new("two"), None).unwrap();
        let keys = vault.keys().unwrap();
        let [KeyInfo::Password(only)] = &keys[..] else { panic!("{keys:?}") };
        assert_eq!((only.id, only.label.as_str(), only.current), (1, "second", true));
        assert_eq!(only.kdf.memory_kib, cheap().kdf.memory_kib);
        // A key that is added gets the next number, and the one from before does not come back.
        assert_eq!(vault.add_key(&password(), &options(), &()).unwrap().key, Some(2));
        for refused in ["", &"x".repeat(65)] {
            let mut label = options();
            label.label = Some(refused.to_owned());
            let word = if refused.is_empty() { "" } else { "fine" };
            let before = disk.bytes();
            assert_eq!(vault.rekey(&Password::new(word), &label, &()).unwrap_err().error.kind(), ErrorKind::Usage);
            assert!(disk.bytes() == before);
        }
    });
}

#[test]
fn a_password_that_is_taken_away_meanwhile_does_not_come_back() {
    within(60, || {
        let (disk, tree) = (Disk::new(), tree());
        let vault = vault_in(disk.dir());
        add(&vault, tree.root(), &["s"]);
        let other = Vault::open_in("memory.flint", disk.dir(), &password(), None).unwrap();
        other.change_password(&Password::new("new"), &options(), &()).unwrap();
        let before = disk.bytes();
        let mut dry = options();
        dry.dry_run = true;
        for options in [options(), dry] {
            let failed = vault.rekey(&password(), &options, &()).unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::Refused, "{failed}");
            assert!(disk.bytes() == before);
        }
    });
}

#[test]
fn a_dry_run_writes_nothing() {
    within(60, || {
        let (disk, tree) = (Disk::new(), tree());
        let vault = vault_in(disk.dir());
        add(&vault, tree.root(), &["s"]);
        let before = disk.bytes();
        let mut dry = options();
        dry.dry_run = true;
        let said = vault.rekey(&Password::new("new"), &dry, &()).unwrap().compaction.unwrap();
        assert!(disk.bytes() == before);
        let done = vault.rekey(&Password::new("new"), &options(), &()).unwrap().compaction.unwrap();
        assert_eq!(said.moved_records, done.moved_records);
        assert!(said.bytes_after.abs_diff(done.bytes_after) < 4096, "{said:?} {done:?}");
    });
}

#[test]
fn what_was_written_anew_can_be_added_to_compacted_recovered_and_written_anew_again() {
    within(120, || {
        let (place, tree) = (Tree::new(), tree());
        std::fs::hard_link(tree.path("s/1"), tree.path("s/link")).unwrap();
        // What is to count as unchanged has to be older than this.
        std::thread::sleep(Duration::from_millis(2200));
        let path = place.path("v.flint");
        let mut vault = vault_at(&path);
        for round in 0..3_u64 {
            let report = add(&vault, tree.root(), &["s"]);
            assert_eq!(report.unchanged_files, if round == 0 { 0 } else { 10 }, "round {round}");
            vault.remove(&["s/5".into(), "s/6".into()], &RemoveOptions::default(), &()).unwrap();
            let held = contents(&vault, None).unwrap();
            let word = Password::new(format!("of round {round}"));
            vault.rekey(&word, &options(), &()).unwrap();
            vault = Vault::open(&path, &word).unwrap();
            assert!(contents(&vault, None).unwrap() == held, "round {round}");
            // Nothing is lost, and nothing is left to mend: as recovery sees it, too.
            let recovered = vault.recover(&RecoverOptions::default(), &()).unwrap();
            assert!(recovered.is_complete(), "{:?}", recovered.errors);
            assert_eq!(recovered.recovery.unwrap().faults, [""; 0]);
            let mut compact = CompactOptions::default();
            compact.keep = Some(Keep::last(2));
            vault.compact(&compact, &()).unwrap();
            assert!(contents(&vault, None).unwrap() == held, "round {round}, compacted");
            let recovered = vault.recover(&RecoverOptions::default(), &()).unwrap();
            assert!(recovered.is_complete(), "{:?}", recovered.errors);
            assert_eq!(recovered.recovery.unwrap().faults, [""; 0]);
            // With both roots gone, recovery finds the newest commit all the same.
            let mut damaged = std::fs::read(&path).unwrap();
            damaged[48 << 10..(48 << 10) + 512].fill(0);
            damaged[56 << 10..(56 << 10) + 512].fill(0);
            let copy = place.path(format!("damaged-{round}"));
            std::fs::write(&copy, damaged).unwrap();
            let broken = Vault::open(&copy, &word).unwrap();
            let mut save = RecoverOptions::default();
            save.output = Some(place.path(format!("saved-{round}")));
            let report = broken.recover(&save, &()).unwrap();
            assert!(report.is_complete(), "{:?}", report.errors);
            let saved = Vault::open(save.output.unwrap(), &word).unwrap();
            assert!(contents(&saved, None).unwrap() == held, "round {round}, saved");
            let mut expected = snapshot_numbers(&vault).unwrap();
            expected.sort_unstable();
            let mut found = snapshot_numbers(&saved).unwrap();
            found.sort_unstable();
            assert_eq!(found, expected, "round {round}");
            // And what recovery has saved can be compacted.
            compact.keep = Some(Keep::last(1));
            saved.compact(&compact, &()).unwrap();
            assert!(contents(&saved, None).unwrap() == held, "round {round}, saved and compacted");
            assert_sound(&saved);
            assert_sound(&vault);
        }
    });
}
