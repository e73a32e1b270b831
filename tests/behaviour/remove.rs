//! What is removed is gone from the newest snapshot, whole and alone; older ones keep it.

use std::path::PathBuf;

use flint_pipe::{EntryErrorKind, Error, Failed, RemoveOptions, Report, Vault};

use crate::support::disk::Disk;
use crate::support::tree::{Tree, look, noise};
use crate::support::{add, assert_sound, contents, empty_vault_on, extract, names, snapshot_numbers, vault_in, within};

fn remove(vault: &Vault, names: &[&str]) -> Result<Report, Failed> {
    let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    vault.remove(&names, &RemoveOptions::default(), &())
}

fn tree() -> Tree {
    let tree = Tree::new();
    for name in ["a/1", "a/2", "a/b/3", "a/b/c/4", "a.txt", "d/5", "e"] {
        tree.file(name, noise(name.len() as u64, 3000));
    }
    tree
}

#[test]
fn files_and_directories_go_with_what_is_below_them() {
    within(60, || {
        let tree = tree();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["a", "a.txt", "d", "e"]);
        let all = names(&vault, None);

        let report = remove(&vault, &["a/b/", "./e", "a/b/3"]).unwrap();
        assert_eq!((report.snapshot, report.removed_files, report.removed_directories), (Some(2), 3, 2));
        assert!(report.is_complete(), "{:?}", report.errors);
        assert_eq!(names(&vault, None), ["a", "a/1", "a/2", "a.txt", "d", "d/5"]);
        assert_eq!(names(&vault, Some(1)), all, "older snapshots keep it");

        // What was removed is no longer there to be unchanged.
        let again = add(&vault, tree.root(), &["a", "e"]);
        assert!(again.unchanged_files <= 2, "a/1 and a/2 at most: {again}");
        assert_eq!(names(&vault, None), all);
        assert_eq!(contents(&vault, None).unwrap(), contents(&vault, Some(1)).unwrap());
        assert_sound(&vault);
    });
}

#[test]
fn one_of_several_names_of_a_file_goes_and_the_others_keep_its_content() {
    within(60, || {
        let tree = Tree::new();
        tree.file("one", noise(1, 400_000));
        for name in ["three", "two"] {
            std::fs::hard_link(tree.path("one"), tree.path(name)).unwrap();
        }
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["one", "two", "three"]);
        remove(&vault, &["one"]).unwrap();
        let out = Tree::new();
        extract(&vault, &out.path("out"));
        std::fs::remove_file(tree.path("one")).unwrap();
        let (mut expected, mut found) = (look(tree.root()), look(&out.path("out")));
        expected.remove(std::path::Path::new(""));
        found.remove(std::path::Path::new(""));
        assert_eq!(expected, found);
        assert_sound(&vault);
    });
}

#[test]
fn names_that_stand_for_nothing_are_told_and_alone_change_nothing() {
    within(60, || {
        let tree = tree();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["a", "e"]);
        let report = remove(&vault, &["nowhere", "e"]).unwrap();
        assert_eq!((report.removed_files, report.errors.len()), (1, 1));
        assert_eq!(
            (report.errors[0].path.as_path(), report.errors[0].kind),
            ("nowhere".as_ref(), EntryErrorKind::NotFound)
        );
        assert_eq!(snapshot_numbers(&vault).unwrap(), [2, 1]);

        let refused = remove(&vault, &["nowhere", "e"]);
        assert!(matches!(refused, Err(Failed { error: Error::NoEntry { .. }, .. })), "{refused:?}");
        let refused = remove(&vault, &[]);
        assert!(matches!(refused, Err(Failed { error: Error::Usage(_), .. })), "{refused:?}");
        assert_eq!(snapshot_numbers(&vault).unwrap(), [2, 1]);
    });
}

#[test]
fn everything_can_be_removed_and_nothing_from_an_empty_vault() {
    within(60, || {
        let tree = tree();
        let disk = Disk::new();
        let vault = empty_vault_on(&disk);
        assert!(matches!(remove(&vault, &["a"]), Err(Failed { error: Error::NoEntry { .. }, .. })));
        add(&vault, tree.root(), &["a", "e"]);
        let report = remove(&vault, &["."]).unwrap();
        assert_eq!((report.removed_files, report.removed_directories), (5, 3));
        assert!(names(&vault, None).is_empty());
        add(&vault, tree.root(), &["e"]);
        assert_eq!(names(&vault, None), ["e"]);
        assert_eq!(names(&vault, Some(1)).len(), 8);
        assert_sound(&vault);
    });
}

#[test]
fn a_name_whose_parent_was_never_stored_can_be_removed_by_its_parent() {
    within(60, || {
        let tree = tree();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["a/b", "a/1", "e"]);
        assert_eq!(names(&vault, None), ["a/1", "a/b", "a/b/3", "a/b/c", "a/b/c/4", "e"]);
        remove(&vault, &["a"]).unwrap();
        assert_eq!(names(&vault, None), ["e"]);
        assert_sound(&vault);
    });
}

#[test]
fn a_dry_run_says_what_would_go_and_changes_nothing() {
    within(60, || {
        let tree = tree();
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        add(&vault, tree.root(), &["a", "e"]);
        let before = disk.bytes().unwrap();
        let mut options = RemoveOptions::default();
        options.dry_run = true;
        let report = vault.remove(&["a/b".into()], &options, &()).unwrap();
        assert_eq!((report.removed_files, report.removed_directories, report.snapshot), (2, 2, None));
        assert!(disk.bytes().unwrap() == before);
    });
}

#[test]
fn removals_outlive_a_full_index() {
    within(120, || {
        let tree = tree();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["a", "a.txt", "d", "e"]);
        remove(&vault, &["a/b", "e"]).unwrap();
        for round in 0..40 {
            tree.file("d/5", noise(round, 100));
            add(&vault, tree.root(), &["d"]);
        }
        assert_eq!(names(&vault, None), ["a", "a/1", "a/2", "a.txt", "d", "d/5"]);
        assert_sound(&vault);
    });
}
