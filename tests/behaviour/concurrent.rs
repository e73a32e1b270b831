//! Several writers and readers at once: nobody loses anything, nobody sees a half of anything, no space is wasted.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use flint_pipe::{AddOptions, CancelToken, Error, Report, Vault};

use crate::support::disk::{Disk, Effect, Fault, Op};
use crate::support::tree::{Tree, assert_same_sight, look, noise, text};
use crate::support::{
    PASSWORD, add, add_with, assert_sound, cheap, contents, entries, extract, names, password, program, simple,
    snapshot_numbers, vault_at, vault_in, within,
};

/// Trees `0/`, `1/`, ... of different sizes, small files and one that takes several extents.
fn trees(count: u64) -> Tree {
    let tree = Tree::new();
    for number in 0..count {
        for file in 0..20 {
            tree.file(
                format!("{number}/small/{file}"),
                text(number * 100 + file, 700 * usize::try_from(file).unwrap()),
            );
        }
        tree.file(format!("{number}/large"), noise(number, 2_500_000 + 300_000 * usize::try_from(number).unwrap()));
    }
    tree
}

const MIB: u64 = 1 << 20;

/// The disk space that nothing refers to is less than 1 MiB, whatever the file's length says.
fn assert_no_slack(path: &Path, report: &Report) {
    let stat = std::fs::metadata(path).unwrap();
    let unreferenced = report.unreferenced_bytes.expect("verify counts them");
    let needed = stat.len() - unreferenced;
    let taken = stat.blocks() * 512;
    assert!(taken < needed + MIB, "{taken} bytes of the disk for {needed} that are needed, length {}", stat.len());
}

fn assert_all_there(vault: &Vault, tree: &Tree, count: u64) {
    let out = Tree::new();
    extract(vault, &out.path("out"));
    for number in 0..count {
        let name = number.to_string();
        assert_same_sight(&look(&tree.path(&name)), &look(&out.path("out").join(&name)));
    }
}

#[test]
fn four_adds_at_once_make_one_vault_that_holds_all_four_trees() {
    within(120, || {
        for _ in 0..3 {
            let tree = Arc::new(trees(4));
            let out = Tree::new();
            let path = out.path("vault");
            let start = Arc::new(Barrier::new(4));
            let writers: Vec<_> = (0..4)
                .map(|number| {
                    let (tree, path, start) = (Arc::clone(&tree), path.clone(), Arc::clone(&start));
                    std::thread::spawn(move || {
                        start.wait();
                        let vault = vault_at(&path);
                        add(&vault, tree.root(), &[&number.to_string()]).snapshot.expect("it made a snapshot")
                    })
                })
                .collect();
            let numbers: BTreeSet<u64> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            assert_eq!(numbers, BTreeSet::from([1, 2, 3, 4]));
            let vault = Vault::open(&path, &password()).unwrap();
            assert_eq!(snapshot_numbers(&vault).unwrap(), [4, 3, 2, 1]);
            let report = assert_sound(&vault);
            assert_no_slack(&path, &report);
            assert_all_there(&vault, &tree, 4);
            assert_eq!(std::fs::read_dir(out.root()).unwrap().count(), 1, "nothing else is left in the directory");
        }
    });
}

#[test]
fn four_processes_at_once_make_one_vault_that_holds_all_four_trees() {
    within(120, || {
        let tree = trees(4);
        let out = Tree::new();
        let path = out.path("vault");
        let start = |number: u64| {
            let mut command = program();
            command.args(["add", "-v"]).arg(&path).arg("-C").arg(tree.root()).args(["-s", &number.to_string()]);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let children: Vec<_> = (0..4).map(start).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let vault = Vault::open(&path, &password()).unwrap();
        assert_eq!(snapshot_numbers(&vault).unwrap(), [4, 3, 2, 1]);
        assert_no_slack(&path, &assert_sound(&vault));
        assert_all_there(&vault, &tree, 4);
    });
}

#[test]
fn readers_beside_eight_writers_see_whole_snapshots_only() {
    within(180, || {
        let tree = Arc::new(trees(8));
        let out = Tree::new();
        let path = out.path("vault");
        drop(Vault::create(&path, &password(), &cheap()).unwrap());
        let done = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (path, done) = (path.clone(), Arc::clone(&done));
                std::thread::spawn(move || {
                    let vault = Vault::open(&path, &password()).unwrap();
                    let mut rounds = 0;
                    let mut most = 0;
                    while !done.load(Ordering::Relaxed) || rounds == 0 {
                        let listed = names(&vault, None);
                        // 24 entries a tree, or none of it.
                        for number in 0..8 {
                            let prefix = format!("{number}");
                            let own = listed.iter().filter(|name| name.split('/').next() == Some(&prefix)).count();
                            assert!(own == 0 || own == 23, "{own} entries of tree {number}");
                        }
                        assert!(listed.len() >= most, "a newer snapshot holds less");
                        most = listed.len();
                        assert_sound(&vault);
                        rounds += 1;
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..8)
            .map(|number| {
                let (tree, path) = (Arc::clone(&tree), path.clone());
                std::thread::spawn(move || {
                    let vault = Vault::open(&path, &password()).unwrap();
                    add(&vault, tree.root(), &[&number.to_string()]);
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        let vault = Vault::open(&path, &password()).unwrap();
        assert_eq!(snapshot_numbers(&vault).unwrap().len(), 8);
        assert_no_slack(&path, &assert_sound(&vault));
        assert_all_there(&vault, &tree, 8);
    });
}

#[test]
fn writers_that_fail_take_nothing_from_those_that_go_on() {
    within(120, || {
        let tree = Arc::new(trees(6));
        let out = Tree::new();
        let path = out.path("vault");
        let start = Arc::new(Barrier::new(6));
        let writers: Vec<_> = (0..6)
            .map(|number| {
                let (tree, path, start) = (Arc::clone(&tree), path.clone(), Arc::clone(&start));
                std::thread::spawn(move || {
                    start.wait();
                    let vault = vault_at(&path);
                    let mut options = simple();
                    let is_to_fail = number % 2 == 1;
                    let token = CancelToken::new();
                    options.pipeline.cancel = token.clone();
                    let puller = is_to_fail.then(|| {
                        std::thread::spawn(move || {
                            std::thread::sleep(std::time::Duration::from_millis(5 * number));
                            token.cancel();
                        })
                    });
                    let result = add_with(&vault, tree.root(), &[&number.to_string()], options);
                    puller.into_iter().for_each(|puller| puller.join().unwrap());
                    match result {
                        Ok(report) => report.snapshot,
                        Err(failed) if is_to_fail => {
                            assert!(matches!(failed.error, Error::Interrupted), "{:?}", failed.error);
                            None
                        }
                        Err(failed) => panic!("writer {number}: {failed}: {:?}", failed.error),
                    }
                })
            })
            .collect();
        let made: Vec<Option<u64>> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        let vault = Vault::open(&path, &password()).unwrap();
        let report = assert_sound(&vault);
        assert_no_slack(&path, &report);
        let listed = names(&vault, None);
        for (number, snapshot) in made.iter().enumerate() {
            assert_eq!(listed.contains(&number.to_string()), snapshot.is_some(), "tree {number}");
            assert!(number % 2 == 1 || snapshot.is_some());
        }
        let mut expected: Vec<u64> = made.into_iter().flatten().collect();
        expected.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
        assert_eq!(snapshot_numbers(&vault).unwrap(), expected, "each snapshot has a number of its own, none is lost");
    });
}

#[test]
fn a_commit_of_another_between_any_two_calls_to_the_disk_harms_nothing() {
    within(120, || {
        let (tree, theirs) = (Tree::new(), Arc::new(Tree::new()));
        tree.file("d/ours", text(1, 500));
        // As many extents as that takes, so that the file is longer afterwards.
        theirs.file("t", noise(1, 200_000));
        let add_theirs = |vault: &Vault, theirs: &Tree| {
            let mut options = simple();
            options.force_read = true;
            // Who holds a lock at that moment cannot be waited for.
            options.pipeline.lock_timeout = Some(Duration::ZERO);
            match add_with(vault, theirs.root(), &["t"], options) {
                Err(failed) => assert!(matches!(failed.error, Error::Locked(_)), "{:?}", failed.error),
                Ok(report) => assert!(report.is_complete()),
            }
        };
        type Reading = fn(&Vault, &Path);
        let runs: [(&str, Reading); 3] = [
            ("reading", |vault, _| assert!(contents(vault, None).unwrap().contains_key(Path::new("d/ours")))),
            ("verify", |vault, _| drop(assert_sound(vault))),
            ("add", |vault, root| drop(add(vault, root, &["d"]))),
        ];
        for (name, run) in runs {
            let disk = Disk::new();
            let vault = Arc::new(vault_in(disk.dir()));
            add(&vault, tree.root(), &["d"]);
            let before = disk.bytes().unwrap();
            for nth in 1.. {
                let (other, theirs) = (Arc::clone(&vault), Arc::clone(&theirs));
                let commits = move || add_theirs(&other, &theirs);
                disk.breaks([Fault::once(|_| true, nth, Effect::First(Arc::new(commits)))]);
                run(&vault, tree.root());
                if disk.heal() == 0 {
                    assert!(nth > 10, "{name}: only {nth} calls");
                    break;
                }
                assert_sound(&vault);
                disk.start_with(Some(before.clone()));
            }
        }
    });
}

#[test]
fn two_writers_of_one_path_leave_one_of_the_two_whole() {
    within(120, || {
        for round in 0..10 {
            let disk = Disk::new();
            let vault = Arc::new(vault_in(disk.dir()));
            let writers: Vec<_> = (0..2)
                .map(|number| {
                    let vault = Arc::clone(&vault);
                    std::thread::spawn(move || {
                        let tree = Tree::new();
                        tree.file("x/same", noise(round * 2 + number, 400_000));
                        tree.file(format!("x/own {number}"), "x");
                        add(&vault, tree.root(), &["x"]).snapshot.unwrap()
                    })
                })
                .collect();
            let numbers: Vec<u64> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            let last = if numbers[0] > numbers[1] { 0 } else { 1 };
            let packed = contents(&vault, None).unwrap();
            assert_eq!(packed.len(), 3, "what either packed alone is there");
            assert!(packed[Path::new("x/same")] == noise(round * 2 + last, 400_000), "the later commit wins");
            assert_sound(&vault);
        }
    });
}

#[test]
fn a_file_against_a_directory_of_the_same_name_leaves_one_of_the_two() {
    within(120, || {
        for _ in 0..10 {
            let vault = Arc::new(vault_in(Disk::new().dir()));
            let as_file = Tree::new();
            as_file.file("x", "a file");
            let as_directory = Tree::new();
            as_directory.file("x/in", "a directory");
            let writers: Vec<_> = [as_file, as_directory]
                .into_iter()
                .map(|tree| {
                    let vault = Arc::clone(&vault);
                    std::thread::spawn(move || {
                        add(&vault, tree.root(), &["x"]);
                    })
                })
                .collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            let listed = names(&vault, None);
            assert!(listed == ["x"] || listed == ["x", "x/in"], "{listed:?}");
            assert_sound(&vault);
        }
    });
}

#[test]
fn a_maker_that_fails_takes_its_vault_away_and_one_that_others_joined_stays() {
    within(120, || {
        let tree = Tree::new();
        tree.file("f", noise(1, 300_000));
        // Alone: nothing is left.
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        disk.breaks([Fault::forever(|op| op == Op::Allocate, 1, Effect::Errno(libc::ENOSPC))]);
        add_with(&vault, tree.root(), &["f"], simple()).unwrap_err();
        assert!(disk.bytes().is_none(), "the empty vault is taken away again");
        disk.heal();
        // The same value makes it anew.
        add(&vault, tree.root(), &["f"]);
        assert_sound(&vault);

        // Joined by another, which has committed when the maker fails.
        let disk = Disk::new();
        let maker = vault_in(disk.dir());
        let joiner = Vault::open_in("memory.flint", disk.dir(), &password(), Some(&cheap())).unwrap();
        let (root, source) = (tree.root().to_owned(), PathBuf::from("f"));
        let joins = move || {
            let mut options = AddOptions::default();
            options.directory = Some(root.clone());
            joiner.add(std::slice::from_ref(&source), &options, &()).unwrap();
        };
        // The first write is the maker's; the joiner's own calls are not counted again.
        let joined = Arc::new(AtomicBool::new(false));
        let once = Arc::clone(&joined);
        disk.breaks([
            Fault::once(
                |op| op == Op::Write,
                1,
                Effect::First(Arc::new(move || {
                    if !once.swap(true, Ordering::SeqCst) {
                        joins();
                    }
                })),
            ),
            Fault::once(|op| op == Op::DirSync, 2, Effect::Errno(libc::EIO)),
        ]);
        add_with(&maker, tree.root(), &["f"], simple()).unwrap_err();
        assert!(joined.load(Ordering::SeqCst));
        disk.heal();
        let vault = Vault::open_in("memory.flint", disk.dir(), &password(), None).unwrap();
        assert_eq!(snapshot_numbers(&vault).unwrap(), [1]);
        assert_eq!(entries(&vault, None).unwrap().len(), 1);
        assert_sound(&vault);
    });
}

#[test]
fn killed_writers_leave_a_vault_that_is_whole() {
    within(180, || {
        let tree = trees(4);
        let out = Tree::new();
        let path = out.path("vault");
        let start = |number: usize| {
            let mut command = program();
            command.args(["add", "-v"]).arg(&path).arg("-C").arg(tree.root()).args(["-s", &(number % 4).to_string()]);
            command.env("FLINT_PASSWORD", PASSWORD).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let mut acknowledged = 0;
        for round in 0..12_u64 {
            let mut victims = [start(0), start(1), start(2)];
            std::thread::sleep(std::time::Duration::from_millis(60 + 37 * round % 500));
            victims[0].kill().unwrap();
            victims[1].kill().unwrap();
            for mut victim in victims {
                acknowledged += usize::from(victim.wait().unwrap().success());
            }
            if path.exists() {
                let vault = Vault::open(&path, &password()).unwrap();
                assert_sound(&vault);
                assert!(snapshot_numbers(&vault).unwrap().len() >= acknowledged, "an acknowledged snapshot is lost");
            }
        }
        assert!(acknowledged >= 12, "those that were not killed succeed");
        let leftovers: Vec<_> =
            std::fs::read_dir(out.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(leftovers, ["vault"]);
    });
}
