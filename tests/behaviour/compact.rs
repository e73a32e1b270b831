//! `compact` keeps what is chosen exactly as it was and gives the rest of the space back; the path leads to the old file or to
//! the new one at any time, and whoever reads goes on. What happens when it is cut short is in `rewriting.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crc32c::crc32c;
use flint_pipe::{
    AddOptions, CompactOptions, CreateOptions, Error, ErrorKind, Failed, Keep, KeyOptions, ListOptions, RecoverOptions,
    RemoveOptions, Report, Vault,
};

use crate::support::disk::{Dice, Disk};
use crate::support::tree::{Tree, noise, set_mode, set_xattr, text};
use crate::support::{
    add, add_with, assert_sound, cheap, contents, empty_vault_on, entries, extract, password, simple, snapshot_numbers,
    vault_at, vault_in, within, workers,
};

pub(crate) fn compact(vault: &Vault, keep: Keep) -> Result<Report, Failed> {
    let mut options = CompactOptions::default();
    options.keep = Some(keep);
    vault.compact(&options, &())
}

fn compacted(vault: &Vault, keep: Keep) -> Report {
    let report = compact(vault, keep).unwrap_or_else(|failed| panic!("{:?}", failed.error));
    assert!(report.is_complete(), "{:?}", report.errors);
    report
}

fn mirror() -> AddOptions {
    let mut options = simple();
    options.mirror = true;
    options
}

/// All that `list` and the content say of a snapshot.
fn seen(vault: &Vault, at: u64) -> String {
    let listed = entries(vault, Some(at)).unwrap_or_else(|error| panic!("snapshot {at}: {error:?}"));
    let contents = contents(vault, Some(at)).unwrap_or_else(|error| panic!("snapshot {at}: {error:?}"));
    format!("{listed:?} {contents:?}")
}

/// Changes a tree in a few ways: new files, changed ones, removed ones, directories that become files and back.
fn churn(tree: &Tree, dice: &mut Dice, day: u64) {
    for number in 0..3 {
        let name = format!("s/d{}/f{}", dice.below(4), dice.below(12));
        let path = tree.path(&name);
        match dice.below(6) {
            0 if path.is_file() => std::fs::remove_file(&path).unwrap(),
            1 if path.parent().is_some_and(Path::is_dir) => {
                let above = path.parent().unwrap();
                std::fs::remove_dir_all(above).unwrap();
                std::fs::write(above, format!("a file on day {day}")).unwrap();
            }
            _ => {
                if path.parent().is_some_and(Path::is_file) {
                    std::fs::remove_file(path.parent().unwrap()).unwrap();
                }
                tree.file(&name, text(day * 10 + number, 200 + dice.below(3000)));
            }
        }
    }
    if day.is_multiple_of(5) {
        tree.file("s/large", noise(day, 600_000));
    }
}

/// A vault with a snapshot a day, of which some are removals; what each holds, by its number.
fn history(vault: &Vault, days: u64, seed: u64) -> Vec<String> {
    let tree = Tree::new();
    let mut dice = Dice(seed);
    tree.file("s/first", "always there");
    tree.file("s/also", "two names");
    std::fs::hard_link(tree.path("s/also"), tree.path("s/linked")).unwrap();
    let mut held = vec![String::new()];
    for day in 1..=days {
        churn(&tree, &mut dice, day);
        if day > 2 && dice.below(5) == 0 {
            let names = ["s/also".into(), "s/d1".into()];
            // They may be gone already; then there is no such snapshot.
            if vault.remove(&names, &RemoveOptions::default(), &()).is_err() {
                add_with(vault, tree.root(), &["s"], simple()).unwrap();
            }
        } else {
            let options = if dice.below(3) == 0 { mirror() } else { simple() };
            add_with(vault, tree.root(), &["s"], options).unwrap();
        }
        held.push(seen(vault, day));
    }
    held
}

#[test]
fn any_choice_of_snapshots_is_kept_as_it_was() {
    within(240, || {
        for seed in 1..=3 {
            let disk = Disk::new();
            let vault = vault_in(disk.dir());
            let held = history(&vault, 40, seed);
            let before = disk.bytes();
            let mut dice = Dice(seed ^ 77);
            let some: Vec<u64> = (1..=40).filter(|_| dice.below(4) == 0).chain([40]).collect();
            let choices = [
                Keep::all(),
                Keep::last(1),
                Keep::last(17),
                Keep::snapshots([1]),
                Keep::snapshots([1, 40]),
                Keep::snapshots(some),
            ];
            for keep in choices {
                disk.start_with(before.clone());
                let report = compacted(&vault, keep.clone());
                let what = format!("seed {seed}, {keep:?}");
                let compaction = report.compaction.unwrap();
                let mut kept = snapshot_numbers(&vault).unwrap();
                kept.reverse();
                assert_eq!(kept, compaction.kept, "{what}");
                let wanted = |number: &u64| keep.all || *number > 40 - keep.last || keep.snapshots.contains(number);
                assert_eq!(kept, (1..=40).filter(wanted).collect::<Vec<u64>>(), "{what}");
                for &number in &kept {
                    assert_eq!(seen(&vault, number), held[usize::try_from(number).unwrap()], "{what}: {number}");
                }
                assert_eq!(disk.bytes().unwrap().len() as u64, compaction.bytes_after, "{what}");
                let sound = assert_sound(&vault);
                assert!(sound.unreferenced_bytes.unwrap() < 64 * (sound.total_files + 200), "{what}: {sound:?}");
                // Once more changes nothing but the places: what is there is needed.
                let again = compacted(&vault, Keep::all()).compaction.unwrap();
                assert!(again.bytes_after <= compaction.bytes_after + 4096, "{what}: {again:?}");
                for &number in &kept {
                    assert_eq!(seen(&vault, number), held[usize::try_from(number).unwrap()], "{what}: {number}, again");
                }
            }
        }
    });
}

#[test]
fn numbers_and_generations_go_on_and_the_next_add_skips_what_is_unchanged() {
    within(60, || {
        let tree = Tree::new();
        for name in ["s/a", "s/b", "s/c"] {
            tree.file(name, text(3, 2000));
        }
        std::thread::sleep(Duration::from_millis(2200));
        let place = Tree::new();
        let path = place.path("v.flint");
        let vault = vault_at(&path);
        for _ in 0..3 {
            add(&vault, tree.root(), &["s"]);
        }
        let generation = Vault::info(&path).unwrap().generation;
        compacted(&vault, Keep::last(1));
        assert_eq!(snapshot_numbers(&vault).unwrap(), [3]);
        assert!(Vault::info(&path).unwrap().generation > generation);
        let report = add(&vault, tree.root(), &["s"]);
        assert_eq!((report.snapshot, report.unchanged_files), (Some(4), 3));
        // A number that was given once is never given again.
        vault.remove(&["s/a".into()], &RemoveOptions::default(), &()).unwrap();
        compacted(&vault, Keep::snapshots([3]));
        assert_eq!(snapshot_numbers(&vault).unwrap(), [3]);
        assert_eq!(add(&vault, tree.root(), &["s"]).snapshot, Some(6));
        assert_sound(&vault);
    });
}

/// Removes files from a tree, and from the newest snapshot.
fn drop_files(vault: &Vault, tree: &Tree, names: impl Iterator<Item = String>) {
    let names: Vec<PathBuf> = names.map(PathBuf::from).collect();
    names.iter().for_each(|name| std::fs::remove_file(tree.path(name)).unwrap());
    vault.remove(&names, &RemoveOptions::default(), &()).unwrap();
}

#[test]
fn a_record_is_packed_anew_if_less_than_half_of_it_is_needed() {
    within(60, || {
        for (left, repacked) in [(4, 1), (16, 0)] {
            let tree = Tree::new();
            for number in 0..20 {
                tree.file(format!("s/{number:02}"), noise(number, 3000));
            }
            std::fs::hard_link(tree.path("s/00"), tree.path("s/link")).unwrap();
            let disk = Disk::new();
            let vault = vault_in(disk.dir());
            add(&vault, tree.root(), &["s"]);
            drop_files(&vault, &tree, (left..20).map(|number| format!("s/{number:02}")));
            let all = compacted(&vault, Keep::all()).compaction.unwrap();
            assert_eq!((all.moved_records, all.repacked_records), (1, 0), "the first snapshot needs all of it");
            let before = seen(&vault, 2);
            let one = compacted(&vault, Keep::last(1)).compaction.unwrap();
            assert_eq!((one.moved_records, one.repacked_records), (1 - repacked, repacked), "{left} of 20 are left");
            let saved = all.bytes_after - one.bytes_after;
            assert_eq!(saved > 45_000, repacked == 1, "{saved} bytes saved");
            assert_eq!(seen(&vault, 2), before);
            assert_sound(&vault);
            let out = Tree::new();
            extract(&vault, &out.path("out"));
            let inode = |name: &str| std::fs::metadata(out.path("out/s").join(name)).unwrap().ino();
            assert_eq!(inode("00"), inode("link"), "two names of one file are still that");
            // What was packed anew may become little again.
            drop_files(&vault, &tree, (1..left).map(|number| format!("s/{number:02}")));
            let last = compacted(&vault, Keep::last(1)).compaction.unwrap();
            assert_eq!(last.repacked_records, 1, "one file of {left}");
            assert_eq!(contents(&vault, None).unwrap()[Path::new("s/link")], noise(0, 3000));
            assert_sound(&vault);
        }
    });
}

#[test]
fn small_records_of_many_runs_become_one() {
    within(60, || {
        let tree = Tree::new();
        let vault = vault_in(Disk::new().dir());
        for day in 0..12 {
            for number in 0..5 {
                tree.file(format!("s/{day}-{number}"), text(day * 5 + number, 2000));
            }
            let names: Vec<String> = (0..5).map(|number| format!("s/{day}-{number}")).collect();
            add(&vault, tree.root(), &names.iter().map(String::as_str).collect::<Vec<&str>>());
        }
        let gone = (0..12).flat_map(|day| (1..5).map(move |number| format!("s/{day}-{number}")));
        drop_files(&vault, &tree, gone);
        let before = seen(&vault, 13);
        let compaction = compacted(&vault, Keep::last(1)).compaction.unwrap();
        assert_eq!((compaction.moved_records, compaction.repacked_records), (0, 12));
        assert_eq!(seen(&vault, 13), before);
        let again = compacted(&vault, Keep::last(1)).compaction.unwrap();
        assert_eq!((again.moved_records, again.repacked_records), (1, 0));
        assert_sound(&vault);
    });
}

#[test]
fn what_is_kept_has_to_be_said_where_there_is_a_choice() {
    within(60, || {
        let tree = Tree::new();
        tree.file("a", "1");
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        add(&vault, tree.root(), &["a"]);
        vault.compact(&CompactOptions::default(), &()).expect("one snapshot is no choice");
        add(&vault, tree.root(), &["a"]);
        let before = disk.bytes();
        let failed = vault.compact(&CompactOptions::default(), &()).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Usage, "{failed}");
        for nothing in [Keep::default(), Keep::snapshots([])] {
            assert_eq!(compact(&vault, nothing).unwrap_err().error.kind(), ErrorKind::Usage);
        }
        let failed = compact(&vault, Keep::snapshots([2, 7])).unwrap_err();
        assert!(matches!(failed.error, Error::NoSnapshot { number: 7, newest: Some(2), .. }), "{failed}");
        assert!(disk.bytes() == before);
        assert_eq!(snapshot_numbers(&vault).unwrap(), [2, 1]);
    });
}

#[test]
fn many_segments_take_no_more_memory_than_few() {
    within(60, || {
        let (disk, tree) = (Disk::new(), Tree::new());
        let vault = vault_in(disk.dir());
        for number in 0..40 {
            tree.file("f", noise(number, 180_000));
            add(&vault, tree.root(), &["f"]);
        }
        let mut options = CompactOptions::default();
        options.keep = Some(Keep::all());
        options.pipeline.workers = workers(1);
        // With so few workers six records are under way at most; that the blocks of the new file are as few is asserted in there.
        let report = vault.compact(&options, &()).unwrap();
        assert_eq!(report.compaction.unwrap().moved_records, 40);
        assert_sound(&vault);
    });
}

#[test]
fn an_empty_vault_stays_one() {
    within(60, || {
        let disk = Disk::new();
        let vault = empty_vault_on(&disk);
        for keep in [Keep::all(), Keep::last(3)] {
            compacted(&vault, keep);
            assert_eq!(snapshot_numbers(&vault).unwrap(), [0_u64; 0]);
            assert_sound(&vault);
        }
        let tree = Tree::new();
        tree.file("a", "1");
        assert_eq!(add(&vault, tree.root(), &["a"]).snapshot, Some(1));
    });
}

#[test]
fn a_dry_run_writes_nothing_and_says_about_what_would_come_back() {
    within(60, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        history(&vault, 12, 5);
        let before = disk.bytes();
        let mut options = CompactOptions::default();
        options.keep = Some(Keep::last(2));
        options.dry_run = true;
        let said = vault.compact(&options, &()).unwrap().compaction.unwrap();
        assert!(disk.bytes() == before);
        let done = compacted(&vault, Keep::last(2)).compaction.unwrap();
        assert_eq!((said.kept, said.dropped), (done.kept, done.dropped));
        assert_eq!((said.moved_records, said.repacked_records), (done.moved_records, done.repacked_records));
        let wrong = said.bytes_after.abs_diff(done.bytes_after);
        assert!(wrong < 100_000, "{} bytes were said, {} they are", said.bytes_after, done.bytes_after);
    });
}

#[test]
fn a_vault_of_which_something_is_damaged_that_is_needed_is_left_alone() {
    within(60, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        tree.file("a", noise(1, 400_000));
        add(&vault, tree.root(), &["a"]);
        tree.file("b", noise(2, 400_000));
        add(&vault, tree.root(), &["b"]);
        let whole = disk.bytes().unwrap();
        // In the middle of each of the two files' records, and in what lies before the end: the index.
        for at in [100_000, 600_000, whole.len() - 700] {
            disk.start_with(Some(whole.clone()));
            disk.flip(at, 4);
            let damaged = disk.bytes();
            let failed = compact(&vault, Keep::all()).unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::Integrity, "byte {at}: {failed}");
            assert!(disk.bytes() == damaged, "byte {at}");
        }
        // What is needed no more may be damaged.
        disk.start_with(Some(whole));
        vault.remove(&["a".into()], &RemoveOptions::default(), &()).unwrap();
        disk.flip(100_000, 4);
        assert_eq!(compact(&vault, Keep::all()).unwrap_err().error.kind(), ErrorKind::Integrity);
        compacted(&vault, Keep::last(1));
        assert_sound(&vault);
    });
}

/// Where a vault's commit records are, the oldest first.
fn commit_records(bytes: &[u8]) -> Vec<usize> {
    let is_commit = |at: &usize| bytes[*at..].starts_with(b"FLRC") && bytes[at + 5] == 7;
    (64 << 10..bytes.len() - 64).step_by(64).filter(is_commit).collect()
}

#[test]
fn a_vault_that_was_mended_loses_nothing_when_it_is_written_anew() {
    within(120, || {
        for damaged in [1, 3, 6] {
            let disk = Disk::new();
            let vault = vault_in(disk.dir());
            history(&vault, 8, 11);
            let record = commit_records(&disk.bytes().unwrap())[damaged];
            disk.flip(record + 100, 1);
            let mut mend = RecoverOptions::default();
            mend.in_place = true;
            vault.recover(&mend, &()).unwrap();
            let tree = Tree::new();
            tree.file("later", "on top of what was mended");
            add(&vault, tree.root(), &["later"]);
            let mut numbers = snapshot_numbers(&vault).unwrap();
            numbers.sort_unstable();
            let held: BTreeMap<u64, String> = numbers.iter().map(|&number| (number, seen(&vault, number))).collect();
            assert!(held.values().collect::<BTreeSet<_>>().len() > 5, "they differ");
            let mended = disk.bytes();
            let last = numbers[numbers.len() - 4..].to_vec();
            for keep in [Keep::all(), Keep::last(4), Keep::last(1), Keep::snapshots([numbers[1], numbers[4]])] {
                disk.start_with(mended.clone());
                let report = compacted(&vault, keep.clone());
                for number in report.compaction.unwrap().kept {
                    assert_eq!(seen(&vault, number), held[&number], "commit {damaged}, {keep:?}: snapshot {number}");
                }
                assert_sound(&vault);
            }
            disk.start_with(mended);
            vault.rekey(&password(), &KeyOptions::default(), &()).unwrap();
            let vault = Vault::open_in("memory.flint", disk.dir(), &password(), None).unwrap();
            for number in last {
                assert_eq!(seen(&vault, number), held[&number], "commit {damaged}, rekey: snapshot {number}");
            }
        }
    });
}

#[test]
fn a_bad_spare_copy_is_told_of_and_good_afterwards() {
    within(60, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let tree = Tree::new();
        tree.file("a", "1");
        add(&vault, tree.root(), &["a"]);
        for at in [100, (48 << 10) + 50, (56 << 10) + 50] {
            disk.flip(at, 1);
            let vault = Vault::open_in("memory.flint", disk.dir(), &password(), None).unwrap();
            let report = compacted(&vault, Keep::all());
            assert!(report.notes.iter().any(|note| note.contains("is bad")), "{:?}", report.notes);
            assert_sound(&vault);
        }
    });
}

#[test]
fn the_new_file_is_what_the_old_one_was() {
    within(60, || {
        let place = Tree::new();
        place.directory("real");
        let path = place.path("real/v.flint");
        let link = place.path("link.flint");
        symlink("real/v.flint", &link).unwrap();
        let tree = Tree::new();
        tree.file("a", "1");
        let vault = vault_at(&link);
        add(&vault, tree.root(), &["a"]);
        set_mode(&path, 0o640);
        let has_xattrs = set_xattr(&path, "user.note", b"keep me");
        let before = std::fs::metadata(&path).unwrap();
        compacted(&vault, Keep::all());
        let after = std::fs::metadata(&path).unwrap();
        assert_ne!(before.ino(), after.ino(), "it is a new file");
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
        assert!(link.is_symlink(), "the symlink stays one");
        if has_xattrs {
            let mut value = [0; 20];
            let len = rustix::fs::getxattr(&path, "user.note", &mut value[..]).unwrap();
            assert_eq!(&value[..len], b"keep me");
        }
        let left: Vec<_> = std::fs::read_dir(place.path("real")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");

        std::fs::hard_link(&path, place.path("second")).unwrap();
        let failed = compact(&vault, Keep::all()).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Refused, "{failed}");
        assert!(failed.error.to_string().contains("hard links"), "{failed}");
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), after.ino());
    });
}

#[test]
fn who_reads_goes_on_with_the_old_file() {
    within(60, || {
        let place = Tree::new();
        let tree = Tree::new();
        for number in 0..200 {
            tree.file(format!("s/{number:03}"), "content");
        }
        let vault = vault_at(&place.path("v.flint"));
        add(&vault, tree.root(), &["s"]);
        let mut listed = vault.list(&ListOptions::default()).unwrap();
        assert!(listed.next().unwrap().is_ok());
        vault.remove(&["s".into()], &RemoveOptions::default(), &()).unwrap();
        compacted(&vault, Keep::last(1));
        assert_eq!(listed.by_ref().map(Result::unwrap).count(), 200, "of 201, one was taken before");
        assert_eq!(entries(&vault, None).unwrap().len(), 0);
    });
}

#[test]
fn what_a_killed_run_has_left_beside_the_vault_is_removed_by_the_next() {
    within(60, || {
        let place = Tree::new();
        let tree = Tree::new();
        tree.file("a", "1");
        let path = place.path("v.flint");
        let vault = vault_at(&path);
        add(&vault, tree.root(), &["a"]);
        let first = place.file(".v.flint.0123abcd.tmp", [0; 100]);
        // Not ours: other names, and what somebody is at work on.
        let others =
            [".v.flint.0123abcg.tmp", ".v.flint.0123abcd.bak", ".w.flint.0123abcd.tmp", "v.flint.0123abcd.tmp"];
        others.iter().for_each(|name| drop(place.file(name, "another's")));
        drop(vault_at(&place.path(".v.flint.bbbbbbbb.tmp")));
        let others = others.into_iter().chain([".v.flint.bbbbbbbb.tmp"]).collect::<Vec<_>>();
        let report = compacted(&vault, Keep::all());
        assert!(
            report.notes.iter().any(|note| note.contains("what a run that was killed had left")),
            "{:?}",
            report.notes
        );
        assert!(!first.exists());
        let second = place.file(".v.flint.76543210.tmp", &std::fs::read(&path).unwrap()[..66_000]);
        add(&vault, tree.root(), &["a"]);
        assert!(!second.exists(), "an add does so as well");
        assert!(others.iter().all(|name| place.path(name).exists()));
        // What was to replace this vault, and has another id: of a new master key, killed before the rename.
        let beginning = std::fs::read(&path).unwrap()[..32].to_vec();
        let third = place.file(
            format!(".v.flint.{:08x}.tmp", crc32c(&beginning)),
            std::fs::read(place.path(".v.flint.bbbbbbbb.tmp")).unwrap(),
        );
        add(&vault, tree.root(), &["a"]);
        assert!(!third.exists());
        // A second name of the vault itself, from a link that was to be a rename.
        std::fs::hard_link(&path, place.path(".v.flint.0123abcd.tmp")).unwrap();
        compacted(&vault, Keep::last(1));
        assert!(!place.path(".v.flint.0123abcd.tmp").exists());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    });
}

#[test]
fn a_vault_that_its_maker_still_holds_can_be_compacted() {
    within(60, || {
        let disk = Disk::new();
        let vault = Vault::open_in("memory.flint", disk.dir(), &password(), Some(&cheap())).unwrap();
        compacted(&vault, Keep::all());
        let _: CreateOptions = cheap();
        let tree = Tree::new();
        tree.file("a", "1");
        add(&vault, tree.root(), &["a"]);
        assert_sound(&vault);
    });
}
