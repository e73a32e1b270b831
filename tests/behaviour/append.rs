//! An `add` puts what it packed in the place of older versions and leaves all else; every snapshot stays what it was.

use std::path::{Path, PathBuf};

use flint_pipe::{EntryType, Error, ExtractOptions, VerifyOptions};

use crate::support::disk::Disk;
use crate::support::tree::{Tree, assert_same_sight, look, noise, set_mtime, text};
use crate::support::{
    Contents, add, add_with, assert_sound, contents, entries, extract, names, simple, snapshot_numbers, vault_in,
    within,
};

fn packed(pairs: &[(&str, &[u8])]) -> Contents {
    pairs.iter().map(|(name, bytes)| (PathBuf::from(name), bytes.to_vec())).collect()
}

#[test]
fn a_path_that_is_added_again_replaces_its_entry_and_all_else_stays() {
    within(60, || {
        let tree = Tree::new();
        tree.file("a/one", "first");
        tree.file("a/two", "second");
        tree.file("b/three", "third");
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["a", "b"]);

        tree.file("a/one", "first, changed");
        tree.file("c", "new");
        let report = add(&vault, tree.root(), &["a/one", "c"]);
        assert_eq!((report.snapshot, report.successful_files, report.directories), (Some(2), 2, 0));
        let expected =
            packed(&[("a/one", b"first, changed"), ("a/two", b"second"), ("b/three", b"third"), ("c", b"new")]);
        assert_eq!(contents(&vault, None).unwrap(), expected);
        assert_eq!(names(&vault, None), ["a", "a/one", "a/two", "b", "b/three", "c"]);
        assert_sound(&vault);
    });
}

#[test]
fn what_is_gone_from_a_source_stays_in_the_vault() {
    within(60, || {
        let tree = Tree::new();
        tree.file("d/kept", "1");
        tree.file("d/gone", "2");
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["d"]);
        std::fs::remove_file(tree.path("d/gone")).unwrap();
        tree.file("d/kept", "3");
        add(&vault, tree.root(), &["d"]);
        assert_eq!(contents(&vault, None).unwrap(), packed(&[("d/kept", b"3"), ("d/gone", b"2")]));
    });
}

#[test]
fn an_entry_that_changes_its_type_takes_what_was_below_it_away() {
    within(60, || {
        let tree = Tree::new();
        let vault = vault_in(Disk::new().dir());
        tree.file("x", "a file");
        add(&vault, tree.root(), &["x"]);

        std::fs::remove_file(tree.path("x")).unwrap();
        tree.file("x/below/deep", "in a directory");
        tree.file("x/beside", "too");
        add(&vault, tree.root(), &["x"]);
        assert_eq!(names(&vault, None), ["x", "x/below", "x/below/deep", "x/beside"]);

        std::fs::remove_dir_all(tree.path("x")).unwrap();
        tree.symlink("x", "elsewhere");
        add(&vault, tree.root(), &["x"]);
        let listed = entries(&vault, None).unwrap();
        assert_eq!(names(&vault, None), ["x"]);
        assert_eq!(listed[0].entry_type, EntryType::Symlink);

        std::fs::remove_file(tree.path("x")).unwrap();
        tree.file("x/again", "a directory");
        add(&vault, tree.root(), &["x/again"]);
        // Nothing can lie below a symlink.
        assert_eq!(names(&vault, None), ["x/again"]);

        std::fs::remove_dir_all(tree.path("x")).unwrap();
        tree.file("x", "a file again");
        add(&vault, tree.root(), &["x"]);
        assert_eq!(names(&vault, None), ["x"]);

        let before =
            [vec!["x"], vec!["x", "x/below", "x/below/deep", "x/beside"], vec!["x"], vec!["x/again"], vec!["x"]];
        for (at, expected) in (1..).zip(before) {
            assert_eq!(names(&vault, Some(at)), expected, "snapshot {at}");
        }
        assert_sound(&vault);
    });
}

#[test]
fn names_beside_a_replaced_one_that_only_look_as_if_they_lay_below_stay() {
    within(60, || {
        let tree = Tree::new();
        for name in ["x/in", "x.y", "x!", "x0", "xx/in", "x\u{1}"] {
            tree.file(name, name);
        }
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["."]);
        std::fs::remove_dir_all(tree.path("x")).unwrap();
        tree.file("x", "now a file");
        add(&vault, tree.root(), &["x"]);
        assert_eq!(names(&vault, None), ["", "x", "x\u{1}", "x!", "x.y", "x0", "xx", "xx/in"]);
    });
}

#[test]
fn each_snapshot_can_be_restored_by_its_number() {
    within(60, || {
        let tree = Tree::new();
        let vault = vault_in(Disk::new().dir());
        let mut sights = Vec::new();
        for round in 0..4 {
            tree.file("d/changing", text(round, 300_000));
            tree.file(format!("d/{round}"), noise(round, 10_000));
            set_mtime(&tree.path("d"), 1_000 + i64::try_from(round).unwrap(), 1);
            set_mtime(tree.root(), 5, 5);
            let report = add(&vault, tree.root(), &["."]);
            assert_eq!(report.snapshot, Some(round + 1));
            sights.push(look(tree.root()));
        }
        for (at, sight) in (1..).zip(&sights) {
            let out = Tree::new();
            let mut options = ExtractOptions::default();
            options.at = Some(at);
            let report = vault.extract(&out.path("out"), &options, &()).unwrap();
            assert_eq!((report.snapshot, report.is_complete()), (Some(at), true));
            assert_same_sight(sight, &look(&out.path("out")));
            let mut options = VerifyOptions::default();
            options.at = Some(at);
            assert!(vault.verify(&options, &()).unwrap().is_complete());
        }
        assert_eq!(snapshot_numbers(&vault).unwrap(), [4, 3, 2, 1]);
        for at in [0, 5, u64::MAX] {
            let mut options = ExtractOptions::default();
            options.at = Some(at);
            let failed = vault.extract(Path::new("/nowhere"), &options, &()).unwrap_err();
            assert!(matches!(failed.error, Error::NoSnapshot { number, .. } if number == at), "{:?}", failed.error);
        }
    });
}

#[test]
fn forty_adds_in_a_row_leave_a_vault_that_is_whole_after_each() {
    within(120, || {
        let tree = Tree::new();
        let vault = vault_in(Disk::new().dir());
        let mut expected = Contents::new();
        for round in 0..40_u64 {
            // One file that is there each time, one that comes, one that was there ten rounds ago.
            for name in ["always".to_owned(), format!("d/{round}"), format!("d/{}", round.saturating_sub(10))] {
                let bytes = text(round, 1000 + usize::try_from(round).unwrap());
                tree.file(&name, &bytes);
                let report = add(&vault, tree.root(), &[&name]);
                assert!(report.snapshot.is_some());
                expected.insert(PathBuf::from(name), bytes);
            }
            if round % 10 == 9 {
                assert_eq!(contents(&vault, None).unwrap(), expected, "round {round}");
                assert_sound(&vault);
            }
        }
        assert_eq!(snapshot_numbers(&vault).unwrap(), (1..=120).rev().collect::<Vec<u64>>());
        // Snapshots from before the index was written anew are still there.
        assert_eq!(contents(&vault, Some(1)).unwrap(), packed(&[("always", &text(0, 1000))]));
        let out = Tree::new();
        extract(&vault, &out.path("out"));
        assert_eq!(std::fs::read(out.path("out/always")).unwrap(), expected[Path::new("always")]);
    });
}

#[test]
fn a_snapshot_tells_who_made_it_of_what() {
    within(60, || {
        let tree = Tree::new();
        tree.file("f", "x");
        tree.file("g", "yy");
        let vault = vault_in(Disk::new().dir());
        assert!(snapshot_numbers(&vault).unwrap().is_empty(), "a new vault has no snapshot");
        let mut options = simple();
        options.tags = vec!["weekly".into()];
        options.command_line = vec!["flint-pipe".into(), "add".into()];
        add_with(&vault, tree.root(), &["f", "g"], options).unwrap();
        let snapshots = vault.snapshots().unwrap();
        let [snapshot] = &snapshots[..] else { panic!("{snapshots:?}") };
        assert_eq!((snapshot.number, snapshot.files, snapshot.bytes, snapshot.partial), (1, 2, 3, false));
        assert_eq!(
            (&snapshot.tags[..], &snapshot.command_line[..]),
            (&["weekly".into()][..], &["flint-pipe".into(), "add".into()][..])
        );
        assert_eq!(snapshot.sources, [PathBuf::from("f"), PathBuf::from("g")]);
        assert!(!snapshot.host.is_empty() && !snapshot.user.is_empty());
    });
}
