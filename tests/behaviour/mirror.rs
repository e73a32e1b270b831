//! A mirror drops what is no longer under the sources, and nothing that it could not look for.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use flint_pipe::{AddOptions, Error, Failed};

use crate::support::disk::Disk;
use crate::support::tree::{Tree, assert_same_sight, is_root, look, noise, set_mode, text};
use crate::support::{
    PASSWORD, add, add_with, assert_sound, extract, names, password, program_for_all, simple, snapshot_numbers,
    vault_at, vault_in, within,
};

fn mirror() -> AddOptions {
    let mut options = simple();
    options.mirror = true;
    options
}

#[test]
fn what_is_gone_from_the_sources_is_gone_from_the_snapshot_and_stays_in_older_ones() {
    within(60, || {
        let tree = Tree::new();
        for name in ["s/a", "s/d/1", "s/d/2", "s/d/e/3", "s/f", "s/z", "other/x"] {
            tree.file(name, text(1, 500));
        }
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["s", "other"]);
        let all = names(&vault, None);
        std::fs::remove_dir_all(tree.path("s/d")).unwrap();
        std::fs::remove_file(tree.path("s/z")).unwrap();
        std::fs::remove_file(tree.path("other/x")).unwrap();

        let report = add_with(&vault, tree.root(), &["s"], mirror()).unwrap();
        assert_eq!((report.removed_files, report.removed_directories), (4, 2));
        assert!(report.is_complete());
        assert_eq!(names(&vault, None), ["other", "other/x", "s", "s/a", "s/f"], "beyond the sources nothing goes");
        assert_eq!(names(&vault, Some(1)), all);
        assert_sound(&vault);
        let out = Tree::new();
        extract(&vault, &out.path("out"));
        assert_same_sight(&look(&tree.path("s")), &look(&out.path("out/s")));

        // What comes back is stored again.
        tree.file("s/d/1", "back");
        add_with(&vault, tree.root(), &["."], mirror()).unwrap();
        assert_eq!(names(&vault, None), ["", "other", "s", "s/a", "s/d", "s/d/1", "s/f"]);
        assert_sound(&vault);
    });
}

#[test]
fn a_directory_that_became_a_file_takes_its_entries_along_and_the_other_way_round() {
    within(60, || {
        let tree = Tree::new();
        tree.file("s/x/1", "1");
        tree.file("s/x/y/2", "2");
        tree.file("s/file", "3");
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["s"]);
        std::fs::remove_dir_all(tree.path("s/x")).unwrap();
        tree.file("s/x", "now a file");
        std::fs::remove_file(tree.path("s/file")).unwrap();
        tree.file("s/file/4", "now a directory");
        let report = add_with(&vault, tree.root(), &["s"], mirror()).unwrap();
        assert_eq!((report.removed_files, report.removed_directories), (2, 1));
        assert_eq!(names(&vault, None), ["s", "s/file", "s/file/4", "s/x"]);
        assert_sound(&vault);
    });
}

#[test]
fn what_is_left_out_now_is_no_longer_in_the_snapshot() {
    within(60, || {
        let tree = Tree::new();
        tree.file("s/keep", "1");
        tree.file("s/cache/1", "2");
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["s"]);
        let mut options = mirror();
        options.exclude = vec!["cache/".to_owned()];
        add_with(&vault, tree.root(), &["s"], options).unwrap();
        assert_eq!(names(&vault, None), ["s", "s/keep"]);
    });
}

#[test]
fn a_source_that_is_missing_keeps_what_the_vault_has_of_it() {
    within(60, || {
        let tree = Tree::new();
        tree.file("disk/a", "1");
        tree.file("home/b", "2");
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["disk", "home"]);
        let all = names(&vault, None);
        std::fs::remove_dir_all(tree.path("disk")).unwrap();

        let report = add_with(&vault, tree.root(), &["disk", "home"], mirror()).unwrap();
        assert!(!report.is_complete());
        assert_eq!((names(&vault, None), report.removed_files), (all.clone(), 0));

        let alone = add_with(&vault, tree.root(), &["disk"], mirror());
        assert!(matches!(alone, Err(Failed { error: Error::NothingStored(_), .. })), "{alone:?}");
        assert_eq!((names(&vault, None), snapshot_numbers(&vault).unwrap()), (all, vec![2, 1]));
    });
}

#[test]
fn a_directory_that_may_not_be_listed_keeps_what_the_vault_has_of_it() {
    if !is_root() {
        eprintln!("skipped: only root can pack as two users");
        return;
    }
    within(60, || {
        let tree = Tree::new();
        tree.file("s/closed/1", "1");
        tree.file("s/closed/deep/2", "2");
        tree.file("s/gone", "3");
        tree.file("s/here", "4");
        tree.directory("vaults");
        set_mode(&tree.path("vaults"), 0o777);
        let path = tree.path("vaults/v");
        let program = program_for_all(&tree);
        let add_as_nobody = || {
            let mut command = Command::new(&program);
            command.env_clear().env("FLINT_PASSWORD", PASSWORD).current_dir("/");
            command.args(["add", "-v"]).arg(&path).arg("-C").arg(tree.root()).args(["-s", "s", "--mirror"]);
            command.uid(65534).gid(65534).output().unwrap()
        };
        let first = add_as_nobody();
        assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
        let before = names(&vault_at(&path), None);
        set_mode(&tree.path("s/closed"), 0);
        std::fs::remove_file(tree.path("s/gone")).unwrap();
        let second = add_as_nobody();
        assert_eq!(second.status.code(), Some(3), "{}", String::from_utf8_lossy(&second.stderr));
        let expected: Vec<String> = before.into_iter().filter(|name| name != "s/gone").collect();
        assert_eq!(names(&flint_pipe::Vault::open(&path, &password()).unwrap(), None), expected);
        set_mode(&tree.path("s/closed"), 0o755);
    });
}

#[test]
fn a_mirror_of_a_thousand_names_that_went_at_once_is_what_is_left() {
    within(60, || {
        let tree = Tree::new();
        for number in 0..1500 {
            tree.file(format!("s/{}/{number}", number % 10), noise(number, 10));
        }
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["s"]);
        for directory in (0..10).step_by(2) {
            std::fs::remove_dir_all(tree.path(format!("s/{directory}"))).unwrap();
        }
        let report = add_with(&vault, tree.root(), &["s"], mirror()).unwrap();
        assert_eq!((report.removed_files, report.removed_directories), (750, 5));
        let out = Tree::new();
        extract(&vault, &out.path("out"));
        assert_same_sight(&look(tree.root()), &{
            let mut sight = look(&out.path("out"));
            // The root was not stored.
            sight.insert(std::path::PathBuf::new(), look(tree.root())[std::path::Path::new("")].clone());
            sight
        });
        assert_sound(&vault);
    });
}
