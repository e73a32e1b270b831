//! Nothing outside of the destination is ever touched, and in it only what was asked for.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flint_pipe::{EntryErrorKind, Error, ErrorKind, ExtractOptions, Overwrite, Vault};

use crate::support::disk::Disk;
use crate::support::tree::{Sight, Tree, assert_same_sight, look, noise, set_mode, set_mtime, text};
use crate::support::{add, entries, names, vault_in, within};

/// A vault of `d/file`, `d/sub/deep`, `d/link` and `top`.
fn vault() -> (Vault, Tree) {
    let tree = Tree::new();
    tree.file("d/file", text(1, 5000));
    tree.file("d/sub/deep", noise(2, 6000));
    tree.symlink("d/link", "file");
    tree.file("top", "the top");
    for name in ["d/sub", "d", ""] {
        set_mtime(&tree.path(name), 1_000_000_000, 1);
    }
    let vault = vault_in(Disk::new().dir());
    add(&vault, tree.root(), &["d", "top"]);
    (vault, tree)
}

fn overwriting(overwrite: Overwrite) -> ExtractOptions {
    let mut options = ExtractOptions::default();
    options.overwrite = overwrite;
    options
}

fn only(files: &[&str]) -> ExtractOptions {
    let mut options = ExtractOptions::default();
    options.files = files.iter().map(PathBuf::from).collect();
    options
}

/// Something outside of the destination that must stay as it is.
struct Outside {
    tree: Tree,
    sight: Sight,
}

impl Outside {
    fn new() -> Self {
        let tree = Tree::new();
        tree.file("victim", "must stay");
        tree.file("directory/file", "must stay too");
        set_mode(&tree.path("victim"), 0o640);
        for name in ["victim", "directory/file", "directory", ""] {
            set_mtime(&tree.path(name), 1_111_111_111, 11);
        }
        let sight = look(tree.root());
        Self { tree, sight }
    }

    fn assert_untouched(&self) {
        assert_same_sight(&self.sight, &look(self.tree.root()));
    }
}

#[test]
fn symlinks_planted_where_files_belong_are_replaced_and_never_followed() {
    within(60, || {
        for policy in [Overwrite::Always, Overwrite::Never] {
            let (vault, _) = vault();
            let outside = Outside::new();
            let out = Tree::new();
            out.directory("d/sub");
            for name in ["d/file", "top", "d/link"] {
                out.symlink(name, outside.tree.path("victim"));
            }
            out.symlink("d/sub/deep", outside.tree.path("not there yet"));
            let report = vault.extract(out.root(), &overwriting(policy), &()).unwrap();
            assert!(report.is_complete(), "{policy:?}: {:?}", report.errors);
            outside.assert_untouched();
            let link = std::fs::symlink_metadata(out.path("d/file")).unwrap();
            match policy {
                Overwrite::Always | Overwrite::IfChanged => {
                    assert!(link.is_file() && std::fs::read(out.path("top")).unwrap() == b"the top")
                }
                Overwrite::Never => assert!(link.is_symlink(), "what is there stays"),
            }
        }
    });
}

#[test]
fn symlinks_planted_where_directories_belong_are_never_gone_through() {
    within(60, || {
        for policy in [Overwrite::Always, Overwrite::Never] {
            for planted in ["d", "d/sub"] {
                let (vault, tree) = vault();
                let outside = Outside::new();
                let out = Tree::new();
                if planted == "d/sub" {
                    out.directory("d");
                }
                out.symlink(planted, outside.tree.path("directory"));
                let result = vault.extract(out.root(), &overwriting(policy), &());
                outside.assert_untouched();
                let report = result.unwrap();
                let seen = std::fs::symlink_metadata(out.path(planted)).unwrap();
                match policy {
                    Overwrite::Always | Overwrite::IfChanged => {
                        assert!(report.is_complete(), "{:?}", report.errors);
                        assert!(seen.is_dir(), "a symlink is replaced");
                        assert_same_sight(&look(&tree.path("d/sub")), &look(&out.path("d/sub")));
                    }
                    Overwrite::Never => {
                        assert!(seen.is_symlink());
                        assert!(!report.is_complete(), "what could not be restored is named");
                    }
                }
                // Names below a planted directory that are no entries themselves.
                let report = vault.extract(out.root(), &only(&["d/sub/deep"]), &());
                drop(report);
                outside.assert_untouched();
            }
        }
    });
}

#[test]
fn parents_that_are_planted_symlinks_are_not_gone_through_for_a_single_file() {
    within(60, || {
        let (vault, _) = vault();
        let outside = Outside::new();
        for planted in ["d", "d/sub"] {
            let out = Tree::new();
            if planted == "d/sub" {
                out.directory("d");
            }
            out.symlink(planted, outside.tree.path("directory"));
            let before = look(out.root());
            let result = vault.extract(out.root(), &only(&["d/sub/deep"]), &());
            outside.assert_untouched();
            // Refused and named, or the link replaced: never a file on its other side.
            match result {
                Ok(report) if report.is_complete() => {
                    assert!(std::fs::symlink_metadata(out.path(planted)).unwrap().is_dir());
                }
                Ok(report) => assert!(!report.errors.is_empty()),
                Err(failed) => {
                    assert!(matches!(failed.error, Error::NothingRestored(_)), "{:?}", failed.error);
                    assert_same_sight(&before, &look(out.root()));
                }
            }
        }
    });
}

#[test]
fn parents_that_are_swapped_for_symlinks_while_files_are_restored_are_not_gone_through() {
    within(120, || {
        let tree = Tree::new();
        for number in 0..200 {
            tree.file(format!("d/{number}"), text(number, 500));
        }
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["d"]);
        for _ in 0..15 {
            let outside = Outside::new();
            let out = Tree::new();
            let stop = Arc::new(AtomicBool::new(false));
            let (stopped, inside, aside) = (Arc::clone(&stop), out.path("d"), out.path("aside"));
            let target = outside.tree.path("directory");
            let meddler = std::thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    if std::fs::rename(&inside, &aside).is_ok() {
                        let _ = std::os::unix::fs::symlink(&target, &inside);
                        std::thread::yield_now();
                        let _ = std::fs::remove_file(&inside);
                        let _ = std::fs::rename(&aside, &inside);
                    }
                }
            });
            let _ = vault.extract(out.root(), &ExtractOptions::default(), &());
            stop.store(true, Ordering::Relaxed);
            meddler.join().unwrap();
            outside.assert_untouched();
        }
    });
}

#[test]
fn a_symlink_of_the_vault_itself_is_not_gone_through_by_what_comes_after_it() {
    within(60, || {
        let outside = Outside::new();
        let tree = Tree::new();
        // `a` is a symlink in one snapshot, and `a/file` an entry of another one.
        tree.symlink("a", outside.tree.path("directory"));
        tree.symlink("up", "../../../../../../etc");
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["a", "up"]);
        std::fs::remove_file(tree.path("a")).unwrap();
        tree.file("a/file", "from the vault");
        add(&vault, tree.root(), &["a"]);
        let out = Tree::new();
        for at in [Some(1), Some(2), Some(1), None] {
            let mut options = ExtractOptions::default();
            options.at = at;
            let report = vault.extract(out.root(), &options, &()).unwrap();
            outside.assert_untouched();
            if at == Some(2) || at.is_none() {
                assert!(report.is_complete(), "{:?}", report.errors);
                assert_eq!(std::fs::read(out.path("a/file")).unwrap(), b"from the vault");
            } else if out.path("a").symlink_metadata().unwrap().is_dir() {
                // A directory is never removed for anything else.
                assert_eq!(report.errors.iter().map(|error| error.kind).collect::<Vec<_>>(), [EntryErrorKind::Exists]);
            }
        }
        assert_eq!(std::fs::read_link(out.path("up")).unwrap(), Path::new("../../../../../../etc"));
    });
}

#[test]
fn files_that_are_there_are_replaced_or_left_as_was_asked() {
    within(60, || {
        let (vault, tree) = vault();
        let out = Tree::new();
        out.file("d/file", "there before");
        out.file("d/other", "not in the vault");
        set_mode(&out.path("d/file"), 0o600);
        let inode = std::fs::metadata(out.path("d/file")).unwrap().ino();
        let report = vault.extract(out.root(), &overwriting(Overwrite::Never), &()).unwrap();
        assert!(report.is_complete(), "{:?}", report.errors);
        assert_eq!(std::fs::read(out.path("d/file")).unwrap(), b"there before");
        assert_eq!(std::fs::metadata(out.path("d/file")).unwrap().ino(), inode);
        assert_eq!(std::fs::read(out.path("top")).unwrap(), b"the top");

        let report = vault.extract(out.root(), &overwriting(Overwrite::Always), &()).unwrap();
        assert!(report.is_complete(), "{:?}", report.errors);
        assert_eq!(std::fs::read(out.path("d/other")).unwrap(), b"not in the vault");
        std::fs::remove_file(out.path("d/other")).unwrap();
        set_mtime(&out.path("d"), 1_000_000_000, 1);
        assert_same_sight(&look(&tree.path("d")), &look(&out.path("d")));
        // And once more, over itself.
        let report = vault.extract(out.root(), &overwriting(Overwrite::Always), &()).unwrap();
        assert!(report.is_complete(), "{:?}", report.errors);
        assert_same_sight(&look(&tree.path("d")), &look(&out.path("d")));
    });
}

#[test]
fn a_file_that_is_replaced_is_not_written_through_its_other_names() {
    within(60, || {
        let (vault, _) = vault();
        let out = Tree::new();
        let kept = out.file("kept", "there before");
        out.directory("d");
        std::fs::hard_link(&kept, out.path("d/file")).unwrap();
        vault.extract(out.root(), &ExtractOptions::default(), &()).unwrap();
        assert_eq!(std::fs::read(kept).unwrap(), b"there before");
        assert_eq!(std::fs::read(out.path("d/file")).unwrap(), text(1, 5000));
    });
}

#[test]
fn a_directory_is_never_removed_for_a_file() {
    within(60, || {
        let (vault, _) = vault();
        for (name, filled) in [("d/file", true), ("d/file", false), ("d/link", true)] {
            let out = Tree::new();
            out.directory(name);
            if filled {
                out.file(format!("{name}/precious"), "x");
            }
            let report = vault.extract(out.root(), &ExtractOptions::default(), &()).unwrap();
            let named: Vec<_> = report.errors.iter().map(|error| (error.path.to_str().unwrap(), error.kind)).collect();
            assert_eq!(named, [(name, EntryErrorKind::Exists)]);
            assert!(out.path(name).is_dir());
            assert_eq!(out.path(name).join("precious").exists(), filled);
            assert_eq!(std::fs::read(out.path("top")).unwrap(), b"the top", "the rest is restored");
            assert_eq!(report.failed_files, 1);
        }
    });
}

#[test]
fn a_name_of_a_hard_linked_file_that_cannot_be_restored_does_not_take_the_others_along() {
    within(60, || {
        for len in [0, 1000, 400_000] {
            let tree = Tree::new();
            let data = noise(1, len);
            let first = tree.file("a", &data);
            std::fs::hard_link(&first, tree.path("b")).unwrap();
            // So far behind that the first has failed when it is planned.
            for number in 0..20 {
                tree.file(format!("between/{number}"), noise(number, 300_000));
            }
            std::fs::hard_link(&first, tree.path("c")).unwrap();
            let vault = vault_in(Disk::new().dir());
            add(&vault, tree.root(), &["."]);
            for blocked in [&["a"][..], &["b"], &["c"], &["a", "b"]] {
                let out = Tree::new();
                for name in blocked {
                    out.directory(name);
                }
                let report = vault.extract(out.root(), &ExtractOptions::default(), &()).unwrap();
                let named: Vec<_> = report.errors.iter().map(|error| error.path.to_str().unwrap()).collect();
                assert_eq!(named, blocked);
                let rest: Vec<_> = ["a", "b", "c"].into_iter().filter(|name| !blocked.contains(name)).collect();
                for name in &rest {
                    assert!(std::fs::read(out.path(name)).unwrap() == data, "{name} beside {blocked:?}");
                    let links = std::fs::metadata(out.path(name)).unwrap().nlink();
                    assert_eq!(links, rest.len() as u64, "{name} beside {blocked:?}");
                }
            }
        }
    });
}

#[test]
fn a_file_in_the_way_of_a_directory_is_replaced_or_left_as_was_asked() {
    within(60, || {
        let (vault, tree) = vault();
        let out = Tree::new();
        out.file("d", "in the way");
        let report = vault.extract(out.root(), &overwriting(Overwrite::Never), &()).unwrap();
        assert!(!report.is_complete());
        assert_eq!(std::fs::read(out.path("d")).unwrap(), b"in the way");
        assert_eq!(std::fs::read(out.path("top")).unwrap(), b"the top");
        let report = vault.extract(out.root(), &overwriting(Overwrite::Always), &()).unwrap();
        assert!(report.is_complete(), "{:?}", report.errors);
        assert_same_sight(&look(&tree.path("d/sub")), &look(&out.path("d/sub")));
    });
}

#[test]
fn a_part_of_the_tree_can_be_named() {
    within(60, || {
        let (vault, _) = vault();
        for (files, expected) in [
            (&["d/sub"][..], &["", "d", "d/sub", "d/sub/deep"][..]),
            (&["d/sub/"], &["", "d", "d/sub", "d/sub/deep"]),
            (&["./d/sub", "top"], &["", "d", "d/sub", "d/sub/deep", "top"]),
            (&["d/sub/deep", "d/sub", "d/sub/deep"], &["", "d", "d/sub", "d/sub/deep"]),
            (&["top"], &["", "top"]),
            (&["."], &["", "d", "d/file", "d/link", "d/sub", "d/sub/deep", "top"]),
        ] {
            let out = Tree::new();
            let report = vault.extract(&out.path("o"), &only(files), &()).unwrap();
            assert!(report.is_complete(), "{files:?}: {:?}", report.errors);
            let found: Vec<_> =
                look(&out.path("o")).into_keys().map(|name| name.to_str().unwrap().to_owned()).collect();
            assert_eq!(found, expected, "{files:?}");
        }
    });
}

#[test]
fn names_that_stand_for_nothing_are_named_and_alone_they_are_an_error() {
    within(60, || {
        let (vault, _) = vault();
        for files in [&["missing"][..], &["top/below a file"], &["d/file/x"], &["D"], &["d/fil"], &["missing", "too"]] {
            let out = Tree::new();
            let failed = vault.extract(&out.path("o"), &only(files), &()).unwrap_err();
            assert!(matches!(failed.error, Error::NoEntry { .. }), "{files:?}: {:?}", failed.error);
            assert_eq!(failed.error.kind(), ErrorKind::Refused);
        }
        let out = Tree::new();
        let report = vault.extract(&out.path("o"), &only(&["missing", "top", "d/file/x"]), &()).unwrap();
        let mut named: Vec<_> = report.errors.iter().map(|error| (error.path.to_str().unwrap(), error.kind)).collect();
        named.sort_unstable_by_key(|(path, _)| *path);
        assert_eq!(named, [("d/file/x", EntryErrorKind::NotFound), ("missing", EntryErrorKind::NotFound)]);
        assert!(out.path("o/top").exists());
        for files in [&["../top"][..], &["d/../top"], &["a//b"]] {
            let failed = vault.extract(&out.path("o"), &only(files), &()).unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::Usage, "{files:?}: {:?}", failed.error);
        }
    });
}

#[test]
fn an_empty_vault_restores_to_an_empty_directory() {
    within(60, || {
        let vault = vault_in(Disk::new().dir());
        let out = Tree::new();
        let report = vault.extract(&out.path("a/b/c"), &ExtractOptions::default(), &()).unwrap();
        assert_eq!((report.total_files, report.is_complete()), (0, true));
        assert_eq!(std::fs::read_dir(out.path("a/b/c")).unwrap().count(), 0);
        assert!(entries(&vault, None).unwrap().is_empty());
        assert!(names(&vault, None).is_empty());
    });
}

#[test]
fn a_destination_that_cannot_be_is_an_error() {
    within(60, || {
        let (vault, _) = vault();
        let out = Tree::new();
        out.file("file", "x");
        out.symlink("dangling", "nowhere");
        for destination in ["file", "file/below", "dangling"] {
            let failed = vault.extract(&out.path(destination), &ExtractOptions::default(), &()).unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::Io, "{destination}: {:?}", failed.error);
        }
        assert_eq!(std::fs::read(out.path("file")).unwrap(), b"x");
        // A destination that is a symlink to a directory is what the user named.
        out.directory("real");
        out.symlink("alias", "real");
        let report = vault.extract(&out.path("alias"), &ExtractOptions::default(), &()).unwrap();
        assert!(report.is_complete() && out.path("real/top").exists());
    });
}

#[test]
fn a_read_only_destination_is_named_for_each_file() {
    within(60, || {
        let (vault, _) = vault();
        // Nothing can be made here, not even by root.
        let destination = Path::new("/proc/self/fd");
        let failed = vault.extract(destination, &ExtractOptions::default(), &()).unwrap_err();
        assert!(matches!(failed.error, Error::NothingRestored(_)), "{:?}", failed.error);
        assert!(failed.report.errors.len() >= 3, "{:?}", failed.report.errors);
    });
}

#[test]
fn directories_without_a_way_in_are_filled_before_they_are_closed() {
    within(60, || {
        let tree = Tree::new();
        tree.file("closed/inside/file", "x");
        set_mode(&tree.path("closed/inside"), 0o000);
        set_mode(&tree.path("closed"), 0o500);
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["closed"]);
        let out = Tree::new();
        let report = vault.extract(out.root(), &ExtractOptions::default(), &()).unwrap();
        assert!(report.is_complete(), "{:?}", report.errors);
        let mode = |name: &str| std::fs::metadata(out.path(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("closed"), mode("closed/inside")), (0o500, 0o000));
        assert_eq!(std::fs::read(out.path("closed/inside/file")).unwrap(), b"x");
    });
}

#[test]
fn many_extracts_at_once_into_one_destination_end_well() {
    within(60, || {
        let (vault, tree) = vault();
        let (vault, out) = (Arc::new(vault), Arc::new(Tree::new()));
        let runs: Vec<_> = (0..4)
            .map(|_| {
                let (vault, out) = (Arc::clone(&vault), Arc::clone(&out));
                std::thread::spawn(move || drop(vault.extract(out.root(), &ExtractOptions::default(), &())))
            })
            .collect();
        runs.into_iter().for_each(|run| run.join().unwrap());
        vault.extract(out.root(), &ExtractOptions::default(), &()).unwrap();
        for name in ["d/file", "d/sub/deep", "top"] {
            assert_eq!(std::fs::read(out.path(name)).unwrap(), std::fs::read(tree.path(name)).unwrap());
        }
        assert_eq!(look(out.root()).len(), 7, "no temporary name is left");
    });
}
