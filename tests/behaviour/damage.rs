//! Whatever happens to the bytes of a vault: no panic, no wrong byte, and everything that is needed is missed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flint_pipe::{
    AddOptions, EntryError, EntryErrorKind, Error, ErrorKind, ExtractOptions, Failed, Level, Overwrite, Report, Vault,
    VerifyOptions,
};

use crate::support::disk::{Dice, Disk};
use crate::support::tree::{Tree, look, noise, text};
use crate::support::{
    Contents, add, add_with, assert_sound, cheap, contents, entries, names, password, step, vault_in, verify, within,
    workers,
};

const HEADER_A: usize = 0;
const HEADER_B: usize = 32 << 10;
pub(crate) const ROOT_A: usize = 48 << 10;
pub(crate) const ROOT_B: usize = 56 << 10;
const HEADER_LEN: usize = 16 << 10;
pub(crate) const ROOT_LEN: usize = 512;
pub(crate) const EXTENTS: usize = 64 << 10;
/// What a header with one password slot uses of its room.
const HEADER_USED: usize = 64 + 256;

/// A small vault of two snapshots.
pub(crate) struct Victim {
    pub(crate) disk: Disk,
    pub(crate) vault: Vault,
    pub(crate) bytes: Vec<u8>,
    names: Vec<String>,
    pub(crate) newest: Contents,
    pub(crate) first: Contents,
    /// The file when it had the first snapshot alone.
    pub(crate) older: Vec<u8>,
    /// Bytes behind the preamble that nothing refers to.
    unreferenced: u64,
}

fn small() -> AddOptions {
    let mut options = AddOptions::default();
    options.pipeline.workers = workers(1);
    options.level = Level::Zstd(3);
    options
}

impl Victim {
    pub(crate) fn new() -> Self {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        tree.file("d/text", text(1, 1500));
        tree.file("d/noise", noise(2, 700));
        tree.file("d/empty", "");
        tree.symlink("d/link", "text");
        add_with(&vault, tree.root(), &["d"], small()).unwrap();
        let first = contents(&vault, None).unwrap();
        let older = disk.bytes().unwrap();
        tree.file("d/text", text(3, 900));
        tree.file("e/more", noise(4, 300));
        add_with(&vault, tree.root(), &["d/text", "e"], small()).unwrap();
        let report = assert_sound(&vault);
        Self {
            bytes: disk.bytes().unwrap(),
            names: names(&vault, None),
            newest: contents(&vault, None).unwrap(),
            first,
            older,
            unreferenced: report.unreferenced_bytes.unwrap(),
            vault,
            disk,
        }
    }

    pub(crate) fn heal(&self) {
        self.disk.set_bytes(&self.bytes);
    }

    /// Uses the damaged vault in every way that reads, and checks each answer. Says whether `verify` noticed.
    pub(crate) fn use_it(&self, vault: &Vault, what: &str) -> bool {
        match entries(vault, None) {
            Ok(listed) => {
                let listed: Vec<_> = listed.iter().map(|entry| entry.path.to_str().expect("these are UTF-8")).collect();
                assert_eq!(listed, self.names, "{what}: a wrong list");
            }
            Err(error) => assert_damage(&error, what),
        }
        for (at, expected) in [(None, &self.newest), (Some(1), &self.first)] {
            let mut options = ExtractOptions::default();
            options.at = at;
            for (name, bytes) in expected {
                let mut found = Vec::new();
                match vault.copy_file(name, &options, &mut found, &()) {
                    Ok(_) => assert!(found == *bytes, "{what}: wrong bytes of {}", name.display()),
                    Err(failed) => {
                        assert_damage(&failed.error, what);
                        assert!(bytes.starts_with(&found), "{what}: wrong bytes of {}", name.display());
                    }
                }
            }
        }
        match verify(vault) {
            Ok(report) => {
                assert!(report.errors.iter().all(|error| error.kind == EntryErrorKind::Damaged), "{what}: {report:?}");
                assert_eq!(report.is_damaged(), !report.is_complete(), "{what}");
                report.is_damaged()
            }
            Err(failed) => {
                assert_damage(&failed.error, what);
                true
            }
        }
    }

    /// Restores the damaged vault to a file system: what is there is right, what is not is named.
    fn restore_it(&self, vault: &Vault, what: &str) -> Result<Report, Failed> {
        let out = Tree::new();
        let result = vault.extract(&out.path("out"), &ExtractOptions::default(), &());
        let named: BTreeSet<PathBuf> = match &result {
            Ok(report) => report.errors.iter().map(|error| error.path.clone()).collect(),
            Err(failed) => {
                assert_damage(&failed.error, what);
                return result;
            }
        };
        for (name, bytes) in &self.newest {
            match std::fs::read(out.path("out").join(name)) {
                Ok(found) => assert!(found == *bytes, "{what}: wrong bytes of {}", name.display()),
                Err(_) => {
                    let is_named = named.contains(name) || in_lost_range(&result.as_ref().unwrap().errors, name);
                    assert!(is_named, "{what}: {} is missing and not named", name.display());
                }
            }
        }
        result
    }
}

/// Whether this name is one of those that a damaged part of the index has taken along, by the first of them and the first
/// behind them.
fn in_lost_range(errors: &[EntryError], name: &Path) -> bool {
    errors.iter().any(|error| {
        let Some((_, rest)) = error.message.split_once("whatever is here and behind it") else { return false };
        let (to, _) = rest.split_once(" is lost with a part of the index").expect("it says what is lost");
        let begins = error.path == Path::new(".") || *error.path <= *name;
        begins && to.strip_prefix(" up to ").is_none_or(|to| *name < *Path::new(to))
    })
}

pub(crate) fn assert_damage(error: &Error, what: &str) {
    let kind = error.kind();
    assert!(matches!(kind, ErrorKind::Integrity | ErrorKind::Unsupported), "{what}: {error:?}");
}

#[test]
fn every_flip_behind_the_preamble_is_noticed_but_for_those_in_bytes_that_nothing_needs() {
    within(170, || {
        let victim = Victim::new();
        let mut dice = Dice(7);
        let mut unnoticed = 0;
        for at in EXTENTS..victim.bytes.len() {
            victim.disk.flip(at, 1 << dice.below(8));
            let noticed = match verify(&victim.vault) {
                Ok(report) => report.is_damaged(),
                Err(failed) => {
                    assert_damage(&failed.error, &format!("byte {at}"));
                    true
                }
            };
            unnoticed += u64::from(!noticed);
            victim.heal();
        }
        assert_eq!(unnoticed, victim.unreferenced, "as many as verify calls unreferenced");
    });
}

#[test]
fn a_flip_anywhere_never_yields_a_wrong_byte() {
    within(170, || {
        let victim = Victim::new();
        let mut dice = Dice(8);
        let mut places: Vec<usize> = (EXTENTS..victim.bytes.len()).step_by(step(7)).collect();
        for root in [ROOT_A, ROOT_B] {
            places.extend((root..root + ROOT_LEN).step_by(step(5)));
        }
        for at in places {
            victim.disk.flip(at, 1 << dice.below(8));
            let what = format!("byte {at}");
            victim.use_it(&victim.vault, &what);
            let _ = victim.restore_it(&victim.vault, &what);
            victim.heal();
        }
    });
}

#[test]
fn a_flip_in_one_root_is_noticed_and_the_other_opens_the_vault() {
    within(170, || {
        let victim = Victim::new();
        let mut dice = Dice(9);
        for root in [ROOT_A, ROOT_B] {
            for at in root..root + ROOT_LEN {
                victim.disk.flip(at, 1 << dice.below(8));
                let report = verify(&victim.vault).unwrap();
                assert!(report.is_damaged(), "byte {at}");
                assert_eq!(contents(&victim.vault, None).unwrap(), victim.newest, "byte {at}");
                victim.heal();
            }
        }
        // Both at once: nothing can be said, and nothing is made up.
        victim.disk.flip(ROOT_A + 100, 1);
        victim.disk.flip(ROOT_B + 200, 1);
        assert_eq!(verify(&victim.vault).unwrap_err().error.kind(), ErrorKind::Integrity);
        assert_eq!(contents(&victim.vault, None).unwrap_err().kind(), ErrorKind::Integrity);
    });
}

pub(crate) fn reopen(disk: &Disk) -> flint_pipe::Result<Vault> {
    Vault::open_in("memory.flint", disk.dir(), &password(), None)
}

#[test]
fn a_flip_in_one_header_is_noticed_and_the_other_opens_the_vault() {
    within(170, || {
        let victim = Victim::new();
        let mut dice = Dice(10);
        let used = |header: usize, step: usize| {
            let end = header + HEADER_LEN;
            (header..header + HEADER_USED).step_by(step).chain((end - 36..end).step_by(step))
        };
        let places: Vec<usize> = used(HEADER_A, step(3)).chain(used(HEADER_B, step(7))).collect();
        for at in places {
            victim.disk.flip(at, 1 << dice.below(8));
            let vault = reopen(&victim.disk).unwrap_or_else(|error| panic!("byte {at}: {error:?}"));
            let report = verify(&vault).unwrap();
            assert!(report.is_damaged(), "byte {at}");
            assert_eq!(contents(&vault, None).unwrap(), victim.newest, "byte {at}");
            victim.heal();
        }
    });
}

#[test]
fn reserved_bytes_are_looked_at() {
    within(120, || {
        let victim = Victim::new();
        let mut dice = Dice(11);
        let zero = [
            HEADER_A + HEADER_USED..HEADER_A + HEADER_LEN - 36,
            HEADER_LEN..HEADER_B,
            HEADER_B + HEADER_USED..HEADER_B + HEADER_LEN - 36,
            ROOT_A + ROOT_LEN..ROOT_B,
            ROOT_B + ROOT_LEN..EXTENTS,
        ];
        for range in zero {
            let mut places: Vec<usize> = range.clone().step_by(509).collect();
            places.extend([range.start, range.end - 1]);
            for at in places {
                victim.disk.flip(at, 1 << dice.below(8));
                // The vault's own value has its header already; what is on the disk is looked at all the same.
                let report = verify(&victim.vault).unwrap();
                assert!(report.is_damaged(), "byte {at}");
                assert_eq!(contents(&victim.vault, None).unwrap(), victim.newest, "byte {at}");
                victim.heal();
            }
        }
    });
}

#[test]
fn five_hundred_random_flips_of_bits_that_are_referred_to_are_all_found() {
    within(170, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        for number in 0..40 {
            tree.file(format!("d/{number}"), noise(number, 20_000));
        }
        tree.file("large", noise(99, 1_200_000));
        add(&vault, tree.root(), &["d", "large"]);
        let unreferenced = assert_sound(&vault).unreferenced_bytes.unwrap();
        let bytes = disk.bytes().unwrap();
        let mut dice = Dice(12);
        let mut unnoticed = 0;
        for _ in 0..500 {
            let at = EXTENTS + dice.below(bytes.len() - EXTENTS);
            let bit = 1 << dice.below(8);
            disk.flip(at, bit);
            unnoticed += usize::from(verify(&vault).is_ok_and(|report| !report.is_damaged()));
            disk.flip(at, bit);
        }
        // Padding is a few bytes of hundreds of thousands.
        assert!(unreferenced < 8192, "{unreferenced} bytes are not referred to");
        assert!(unnoticed <= 8, "{unnoticed} flips were not noticed");
    });
}

#[test]
fn a_vault_cut_at_any_length_is_called_damaged() {
    within(170, || {
        let victim = Victim::new();
        let end = victim.bytes.len();
        let mut lengths: Vec<usize> = (EXTENTS..end).step_by(step(61)).collect();
        lengths.extend([EXTENTS - 1, ROOT_B + 1, ROOT_B, ROOT_A + 1, ROOT_A, end - 1]);
        for len in lengths {
            victim.disk.set_bytes(&victim.bytes[..len]);
            let what = format!("cut at {len}");
            let noticed = victim.use_it(&victim.vault, &what);
            let _ = victim.restore_it(&victim.vault, &what);
            // The last bytes are padding and what a commit record reserved and did not need.
            assert!(noticed || end - len < 192, "{what} was not noticed");
        }
        for len in [0, 1, 11, 12, 63, 64, 4096, HEADER_LEN - 1, HEADER_LEN, HEADER_B, HEADER_B + HEADER_LEN, ROOT_A] {
            victim.disk.set_bytes(&victim.bytes[..len]);
            match reopen(&victim.disk) {
                Ok(vault) => assert_eq!(verify(&vault).unwrap_err().error.kind(), ErrorKind::Integrity, "cut at {len}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Integrity, "cut at {len}: {error:?}"),
            }
        }
    });
}

#[test]
fn pages_of_zeros_or_noise_are_noticed() {
    within(120, || {
        let victim = Victim::new();
        for (number, fill) in (0..).zip([Some(0), Some(0xff), None]) {
            for page in (0..victim.bytes.len()).step_by(4096) {
                let end = victim.bytes.len().min(page + 4096);
                let mut bytes = victim.bytes.clone();
                match fill {
                    Some(byte) => bytes[page..end].fill(byte),
                    None => bytes[page..end].copy_from_slice(&noise(number, end - page)),
                }
                if bytes == victim.bytes {
                    continue;
                }
                victim.disk.set_bytes(&bytes);
                let what = format!("page at {page} filled with {fill:?}");
                let in_headers = page < HEADER_B + HEADER_LEN;
                let vault = if in_headers { reopen(&victim.disk).unwrap() } else { reopen_as_is(&victim) };
                assert!(victim.use_it(&vault, &what), "{what} was not noticed");
                let _ = victim.restore_it(&vault, &what);
            }
        }
    });
}

/// Another value of the same vault, made while it is whole.
fn reopen_as_is(victim: &Victim) -> Vault {
    let damaged = victim.disk.bytes().unwrap();
    victim.heal();
    let vault = reopen(&victim.disk).unwrap();
    victim.disk.set_bytes(&damaged);
    vault
}

/// Where records begin: at multiples of 64, with their magic number.
pub(crate) fn records(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for at in (EXTENTS..bytes.len()).step_by(64) {
        if bytes[at..].starts_with(b"FLRC") && at + 64 <= bytes.len() {
            let packed = u32::from_le_bytes(bytes[at + 36..at + 40].try_into().unwrap());
            let len = 80 + usize::try_from(packed).unwrap();
            if at + len <= bytes.len() {
                found.push((at, len));
            }
        }
    }
    found
}

#[test]
fn a_record_in_anothers_place_is_noticed() {
    within(120, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        // Records of equal length, so that each fits exactly where another was.
        for name in ["a", "b", "c", "d"] {
            tree.file(name, noise(name.len() as u64 + u64::from(name.as_bytes()[0]), 256 << 10));
        }
        for name in ["a", "b", "c", "d"] {
            add(&vault, tree.root(), &[name]);
        }
        let expected = contents(&vault, None).unwrap();
        let bytes = disk.bytes().unwrap();
        let records = records(&bytes);
        assert!(records.len() >= 12, "{records:?}");
        let mut swaps = 0;
        for (number, &(one, one_len)) in records.iter().enumerate() {
            for &(two, two_len) in &records[number + 1..] {
                if one_len != two_len {
                    continue;
                }
                swaps += 1;
                let mut swapped = bytes.clone();
                swapped[one..one + one_len].copy_from_slice(&bytes[two..two + two_len]);
                let mut copied = swapped.clone();
                swapped[two..two + two_len].copy_from_slice(&bytes[one..one + one_len]);
                copied[two..two + two_len].copy_from_slice(&bytes[two..two + two_len]);
                for damaged in [&swapped, &copied] {
                    disk.set_bytes(damaged);
                    let noticed = verify(&vault).map_or(true, |report| report.is_damaged());
                    assert!(noticed, "records at {one} and {two}");
                    if let Ok(found) = contents(&vault, None) {
                        assert!(found == expected, "records at {one} and {two}: wrong bytes");
                    }
                }
                disk.set_bytes(&bytes);
            }
        }
        assert!(swaps >= 6, "only {swaps} pairs of records of one length");
    });
}

#[test]
fn parts_of_another_vault_with_the_same_password_are_noticed() {
    within(120, || {
        let (one, other) = (Victim::new(), Victim::new());
        let range = |from: usize, to: usize| from..to.min(one.bytes.len()).min(other.bytes.len());
        for (what, part) in [
            ("the header", range(0, HEADER_LEN)),
            ("both headers", range(0, ROOT_A)),
            ("a root", range(ROOT_A, ROOT_A + ROOT_LEN)),
            ("both roots", range(ROOT_A, EXTENTS)),
            ("everything but the headers", range(ROOT_A, usize::MAX)),
            ("everything but the preamble", range(EXTENTS, usize::MAX)),
        ] {
            let mut mixed = one.bytes.clone();
            mixed[part.clone()].copy_from_slice(&other.bytes[part]);
            one.disk.set_bytes(&mixed);
            match reopen(&one.disk) {
                Ok(vault) => {
                    assert!(verify(&vault).map_or(true, |report| report.is_damaged()), "{what} was not noticed");
                    if let Ok(found) = contents(&vault, None) {
                        assert!(found == one.newest || found == other.newest, "{what}: a mixture of both");
                    }
                }
                Err(error) => assert_damage(&error, what),
            }
            // The value that was opened before knows which vault it means.
            match verify(&one.vault) {
                Ok(report) => assert!(report.is_damaged(), "{what} was not noticed by who had the vault open"),
                Err(failed) => assert_ne!(failed.error.kind(), ErrorKind::Io, "{what}: {:?}", failed.error),
            }
        }
    });
}

#[test]
fn an_older_state_of_the_same_file_is_a_whole_vault() {
    within(60, || {
        // Known and documented: an old copy of the whole file cannot be told from the file.
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        tree.file("f", "old");
        add(&vault, tree.root(), &["f"]);
        let old = disk.bytes().unwrap();
        tree.file("f", "new");
        add(&vault, tree.root(), &["f"]);
        disk.set_bytes(&old);
        assert_sound(&vault);
        assert_eq!(contents(&vault, None).unwrap()[Path::new("f")], b"old");
        // But not older roots beside newer data.
        add(&vault, tree.root(), &["f"]);
        assert_sound(&vault);
    });
}

#[test]
fn a_wrong_password_is_told_from_damage() {
    within(60, || {
        let victim = Victim::new();
        let wrong = flint_pipe::Password::new("wrong horse");
        let right = password();
        let open = |password| Vault::open_in("memory.flint", victim.disk.dir(), password, None).map(drop);
        assert!(matches!(open(&wrong), Err(Error::WrongPassword(_))));
        assert!(open(&right).is_ok());
        // A slot that was changed without its checksum is damage, in whichever copy; one good copy is enough to tell.
        victim.disk.flip(HEADER_A + 64 + 130, 1);
        assert!(matches!(open(&wrong), Err(Error::WrongPassword(_))));
        assert!(open(&right).is_ok());
        victim.disk.flip(HEADER_B + 64 + 130, 1);
        assert!(matches!(open(&wrong), Err(Error::Damaged { .. })));
        assert!(matches!(open(&right), Err(Error::Damaged { .. })));
    });
}

#[test]
fn what_is_no_vault_is_called_damaged_and_left_alone() {
    within(60, || {
        for (name, bytes) in [
            ("empty", Vec::new()),
            ("text", b"#!/bin/sh\necho hello\n".to_vec()),
            ("zeros", vec![0; 200_000]),
            ("noise", noise(5, 200_000)),
        ] {
            let tree = Tree::new();
            let path = tree.file(name, &bytes);
            let error = Vault::open_or_create(&path, &password(), &cheap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Integrity, "{name}: {error:?}");
            assert!(std::fs::read(&path).unwrap() == bytes, "{name} has changed");
        }
    });
}

#[test]
fn costs_that_a_header_asks_for_are_bounded_before_they_are_paid() {
    within(60, || {
        let victim = Victim::new();
        // Memory, passes and lanes of the slot, in both copies, with right checksums.
        for (field, value) in [(16, u32::MAX), (16, 2 << 20), (20, 1 << 20), (24, 1000), (24, 0), (20, 0)] {
            let mut bytes = victim.bytes.clone();
            for header in [HEADER_A, HEADER_B] {
                let at = header + 64 + field;
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                let crc = crc32c::crc32c(&bytes[header..header + HEADER_LEN - 4]);
                bytes[header + HEADER_LEN - 4..header + HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
            }
            victim.disk.set_bytes(&bytes);
            let error = reopen(&victim.disk).map(drop).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Refused | ErrorKind::Integrity),
                "field {field} of {value}: {error:?}"
            );
        }
    });
}

#[test]
fn versions_and_critical_flags_that_are_not_known_are_refused_as_such() {
    within(60, || {
        let victim = Victim::new();
        let with_crc = |place: usize, len: usize, field: usize, value: u32| {
            let mut bytes = victim.disk.bytes().unwrap();
            bytes[place + field..place + field + 4].copy_from_slice(&value.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[place..place + len - 4]);
            bytes[place + len - 4..place + len].copy_from_slice(&crc.to_le_bytes());
            victim.disk.set_bytes(&bytes);
        };
        for (field, value) in [(8, 2), (12, 1)] {
            with_crc(HEADER_A, HEADER_LEN, field, value);
            with_crc(HEADER_B, HEADER_LEN, field, value);
            let error = reopen(&victim.disk).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
            victim.heal();
        }
        with_crc(ROOT_A, ROOT_LEN, 8, 2);
        with_crc(ROOT_B, ROOT_LEN, 8, 2);
        let error = contents(&victim.vault, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert_eq!(verify(&victim.vault).unwrap_err().error.kind(), ErrorKind::Unsupported);
    });
}

#[test]
fn what_is_whole_of_a_damaged_vault_is_restored_and_the_rest_is_named() {
    within(120, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        for number in 0..8 {
            tree.file(format!("{number}"), noise(number, 400_000));
        }
        std::fs::hard_link(tree.path("3"), tree.path("3 too")).unwrap();
        add(&vault, tree.root(), &["."]);
        let expected = contents(&vault, None).unwrap();
        let bytes = disk.bytes().unwrap();
        // Data records are the long ones.
        let data: Vec<_> = records(&bytes).into_iter().filter(|(_, len)| *len > 100_000).collect();
        assert_eq!(data.len(), 16, "two records a file");
        for &(at, len) in &data {
            disk.flip(at + len / 2, 0x10);
            let out = Tree::new();
            let report = vault.extract(&out.path("out"), &ExtractOptions::default(), &()).unwrap();
            assert!(report.is_damaged());
            let named: BTreeSet<_> = report.errors.iter().map(|error| error.path.clone()).collect();
            assert_eq!(report.failed_files, named.len() as u64);
            assert!(named.len() == 1 || named == BTreeSet::from(["3".into(), "3 too".into()]), "{named:?}");
            for (name, bytes) in &expected {
                match std::fs::read(out.path("out").join(name)) {
                    Ok(found) => assert!(found == *bytes && !named.contains(name), "{}", name.display()),
                    Err(_) => assert!(named.contains(name), "{} is missing and not named", name.display()),
                }
            }
            // What is there is not lost to a damaged file of the same name.
            let place = out.path("again");
            std::fs::create_dir(&place).unwrap();
            expected.keys().for_each(|name| std::fs::write(place.join(name), "was there").unwrap());
            let mut options = ExtractOptions::default();
            options.overwrite = Overwrite::Always;
            vault.extract(&place, &options, &()).unwrap();
            for name in &named {
                assert_eq!(std::fs::read(place.join(name)).unwrap(), b"was there", "{}", name.display());
            }
            assert!(std::fs::read_dir(&place).unwrap().count() == expected.len(), "no temporary file is left");
            let report = verify(&vault).unwrap();
            assert_eq!(report.errors.iter().map(|error| error.path.clone()).collect::<BTreeSet<_>>(), named);
            // The structure is whole.
            let mut options = VerifyOptions::default();
            options.quick = true;
            assert!(vault.verify(&options, &()).unwrap().is_complete());
            disk.set_bytes(&bytes);
        }
    });
}

/// Where the records of a kind begin.
fn of_kind(bytes: &[u8], kind: u8) -> Vec<usize> {
    records(bytes).into_iter().map(|(at, _)| at).filter(|at| bytes[at + 5] == kind).collect()
}

#[test]
fn a_damaged_part_of_the_index_takes_along_what_it_says_and_no_more() {
    const LEAF: u8 = 2;
    const NODE: u8 = 3;
    within(170, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        let name = |number: u64| format!("{}/{number:05}{}", number / 100, "n".repeat(200));
        for number in 0..3000 {
            tree.file(name(number), "");
        }
        tree.file("a/file", text(1, 1000));
        add(&vault, tree.root(), &["."]);
        let first: BTreeSet<PathBuf> = names(&vault, None).into_iter().map(PathBuf::from).collect();
        let bytes = disk.bytes().unwrap();
        let leaves = of_kind(&bytes, LEAF);
        assert!(leaves.len() > 3 && of_kind(&bytes, NODE).len() == 1, "{} leaves", leaves.len());
        let restored = |options: &ExtractOptions| {
            let out = Tree::new();
            let report = vault.extract(&out.path("out"), options, &()).unwrap();
            let found: BTreeSet<PathBuf> = look(&out.path("out")).into_keys().collect();
            (found, report)
        };
        for (number, at) in leaves.iter().enumerate() {
            disk.flip(at + 70, 1);
            let (found, report) = restored(&ExtractOptions::default());
            assert!(report.is_damaged() && found.is_subset(&first));
            assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
            let missing: Vec<_> = first.difference(&found).collect();
            assert!(!missing.is_empty() && found.len() > first.len() / 2, "leaf {number}: {} missing", missing.len());
            for name in missing {
                assert!(in_lost_range(&report.errors, name), "{}: {:?}", name.display(), report.errors);
            }
            // What is named and lies elsewhere has nothing to do with it; what may have been there is not said to be not there.
            let mut one = ExtractOptions::default();
            one.files = vec![PathBuf::from("a")];
            let mut none = ExtractOptions::default();
            none.files = vec![PathBuf::from(name(1500)), PathBuf::from("a/file")];
            let (of_one, of_none) = (restored(&one), restored(&none));
            assert_eq!(of_one.1.is_damaged(), !of_one.0.contains(Path::new("a/file")));
            assert!(
                of_none.1.errors.iter().all(|error| error.kind == EntryErrorKind::Damaged),
                "{:?}",
                of_none.1.errors
            );
            assert_eq!(of_none.1.is_damaged(), !of_none.0.contains(Path::new(&name(1500))) || of_one.1.is_damaged());
            disk.set_bytes(&bytes);
        }
        // The node above them is lost: everything is.
        disk.flip(of_kind(&bytes, NODE)[0] + 70, 1);
        let (found, report) = restored(&ExtractOptions::default());
        assert_eq!((found.len(), report.errors.len()), (1, 1), "the destination alone");
        assert!(report.is_damaged() && report.errors[0].path == Path::new("."), "{:?}", report.errors);
        disk.set_bytes(&bytes);

        // A later snapshot's delta: of what it may have changed, nothing old comes in its place.
        tree.file(name(1500), "changed");
        std::fs::remove_file(tree.path(name(1501))).unwrap();
        add(&vault, tree.root(), &[&name(1500), "a"]);
        let bytes = disk.bytes().unwrap();
        let of_delta = *of_kind(&bytes, LEAF).last().unwrap();
        disk.flip(of_delta + 70, 1);
        let (found, report) = restored(&ExtractOptions::default());
        assert!(report.is_damaged() && !found.contains(Path::new(&name(1500))));
        let named: BTreeSet<_> = report.errors.iter().map(|error| error.path.clone()).collect();
        for name in first.difference(&found) {
            assert!(named.contains(name), "{} is missing and not named", name.display());
        }
        let mut older = ExtractOptions::default();
        older.at = Some(1);
        let (found, report) = restored(&older);
        assert!(report.is_complete() && found == first, "the snapshot before is whole");
    });
}

#[test]
fn damage_in_an_older_snapshot_does_not_keep_the_newest_from_anything() {
    within(60, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        tree.file("f", noise(1, 200_000));
        add(&vault, tree.root(), &["f"]);
        let (at, len) = *records(&disk.bytes().unwrap()).iter().find(|(_, len)| *len > 100_000).unwrap();
        tree.file("f", noise(2, 200_000));
        add(&vault, tree.root(), &["f"]);
        disk.flip(at + len / 2, 1);
        assert!(contents(&vault, None).unwrap()[Path::new("f")] == noise(2, 200_000));
        let mut options = VerifyOptions::default();
        options.at = Some(2);
        let report = vault.verify(&options, &()).unwrap();
        assert!(report.is_complete(), "{:?}", report.errors);
        options.at = Some(1);
        assert!(vault.verify(&options, &()).unwrap().is_damaged());
        assert!(verify(&vault).unwrap().is_damaged());
        assert!(contents(&vault, Some(1)).is_err());
        // An add goes on.
        add(&vault, tree.root(), &["f"]);
    });
}

#[test]
fn a_reader_of_a_bad_root_does_not_wait_for_ever_for_a_writer_in_its_commit() {
    within(60, || {
        use flint_pipe::{Lock, LockMode, VaultDir as _};
        let victim = Victim::new();
        victim.disk.flip(ROOT_A + 50, 1);
        let writer = victim.disk.open(true).unwrap().expect("there is a vault");
        assert!(writer.try_lock(Lock::Commit, LockMode::Exclusive).unwrap());
        let release = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(writer);
        });
        assert_eq!(contents(&victim.vault, None).unwrap(), victim.newest);
        release.join().unwrap();
    });
}
