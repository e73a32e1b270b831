//! What has not changed is not read again, and the snapshot has it all the same; what may have changed is read.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use flint_pipe::{AddOptions, Report, Vault};

use crate::support::disk::Disk;
use crate::support::tree::{
    Tree, assert_same_sight, is_root, look, noise, set_mode, set_mtime, set_owner, set_xattr, text,
};
use crate::support::{add, add_with, assert_sound, contents, extract, names, simple, vault_in, within};

/// Waits until what was changed until now can be told from what changes later.
fn let_time_pass() {
    std::thread::sleep(Duration::from_millis(2200));
}

/// A tree of small files, one of several chunks and one with holes, that is no longer racy.
fn settled_tree() -> Tree {
    let tree = Tree::new();
    for number in 0..30 {
        tree.file(format!("t/d{}/small{number}", number % 3), text(number, 1000));
    }
    tree.file("t/large", noise(1, 1_500_000));
    tree.file("t/empty", "");
    let sparse = std::fs::File::create(tree.path("t/sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    tree.symlink("t/link", "large");
    let_time_pass();
    tree
}

const FILES: u64 = 34;

fn bytes_read(report: &Report) -> u64 {
    report.stages.iter().find(|stage| stage.name == "read").expect("it has read").work.bytes_out
}

/// The newest snapshot restores to what is there.
fn assert_restores(vault: &Vault, tree: &Tree, name: &str) {
    let out = Tree::new();
    extract(vault, &out.path("out"));
    assert_same_sight(&look(&tree.path(name)), &look(&out.path("out").join(name)));
}

fn forced() -> AddOptions {
    let mut options = simple();
    options.force_read = true;
    options
}

#[test]
fn a_second_add_of_the_same_tree_reads_and_stores_nothing() {
    within(60, || {
        let tree = settled_tree();
        let vault = vault_in(Disk::new().dir());
        let first = add(&vault, tree.root(), &["t"]);
        assert_eq!((first.total_files, first.unchanged_files), (FILES, 0));

        let second = add(&vault, tree.root(), &["t"]);
        assert_eq!((second.total_files, second.successful_files, second.unchanged_files), (FILES, FILES, FILES));
        assert_eq!((second.snapshot, second.directories), (Some(2), first.directories));
        assert_eq!((bytes_read(&second), second.total_size), (0, first.total_size));
        assert!(second.stored_size < 2000, "{} bytes", second.stored_size);
        assert_eq!(names(&vault, None), names(&vault, Some(1)));
        assert_restores(&vault, &tree, "t");
        assert_sound(&vault);
        let snapshots = vault.snapshots().unwrap();
        assert_eq!((snapshots[0].files, snapshots[0].bytes), (snapshots[1].files, snapshots[1].bytes));
    });
}

#[test]
fn who_asks_for_it_gets_everything_read() {
    within(60, || {
        let tree = settled_tree();
        let vault = vault_in(Disk::new().dir());
        let first = add(&vault, tree.root(), &["t"]);
        let second = add_with(&vault, tree.root(), &["t"], forced()).unwrap();
        assert_eq!((second.unchanged_files, bytes_read(&second)), (0, bytes_read(&first)));
        assert!(second.stored_size > 1_500_000);
        assert_restores(&vault, &tree, "t");
        assert_sound(&vault);
    });
}

#[test]
fn what_changed_is_stored_and_nothing_else() {
    within(60, || {
        let tree = settled_tree();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["t"]);
        tree.file("t/d1/small1", "something else");
        tree.file("t/d1/new", "new");
        let second = add(&vault, tree.root(), &["t"]);
        assert_eq!((second.total_files, second.unchanged_files), (FILES + 1, FILES - 1));
        assert_eq!(bytes_read(&second), 14 + 3);
        assert_restores(&vault, &tree, "t");
        assert_sound(&vault);
    });
}

#[test]
fn a_change_that_hides_behind_the_old_time_and_size_is_found() {
    within(60, || {
        let tree = settled_tree();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["t"]);
        let path = tree.path("t/large");
        let before = std::fs::symlink_metadata(&path).unwrap();
        std::fs::write(&path, noise(2, 1_500_000)).unwrap();
        set_mtime(&path, before.mtime(), before.mtime_nsec());
        let second = add(&vault, tree.root(), &["t"]);
        assert_eq!((second.unchanged_files, bytes_read(&second)), (FILES - 1, 1_500_000));
        assert_restores(&vault, &tree, "t");
    });
}

#[test]
fn another_file_under_the_old_name_is_read_even_if_all_its_times_could_be_the_same() {
    within(60, || {
        let tree = settled_tree();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["t"]);
        let path = tree.path("t/large");
        let before = std::fs::symlink_metadata(&path).unwrap();
        let other = tree.file("other", noise(3, 1_500_000));
        set_mtime(&other, before.mtime(), before.mtime_nsec());
        std::fs::rename(&other, &path).unwrap();
        let second = add(&vault, tree.root(), &["t"]);
        assert_eq!(bytes_read(&second), 1_500_000);
        assert_restores(&vault, &tree, "t");
    });
}

#[test]
fn a_file_that_changed_just_before_it_was_read_is_read_again() {
    within(120, || {
        for attempt in 0.. {
            let tree = Tree::new();
            let made = Instant::now();
            tree.file("f", "as it was");
            let vault = vault_in(Disk::new().dir());
            add(&vault, tree.root(), &["f"]);
            // A machine that is too slow has let the file come of age.
            if made.elapsed() > Duration::from_millis(1500) {
                assert!(attempt < 50, "this machine is too slow for this test");
                continue;
            }
            let second = add(&vault, tree.root(), &["f"]);
            assert_eq!((second.unchanged_files, bytes_read(&second)), (0, 9));
            return;
        }
    });
}

#[test]
fn a_change_of_attributes_alone_stores_attributes_alone() {
    within(60, || {
        let tree = settled_tree();
        let vault = vault_in(Disk::new().dir());
        let first = add(&vault, tree.root(), &["t"]);
        set_mode(&tree.path("t/large"), 0o600);
        set_mode(&tree.path("t/d1/small1"), 0o640);
        set_mode(&tree.path("t/sparse"), 0o400);
        set_xattr(&tree.path("t/d2/small2"), "user.colour", b"blue");
        if is_root() {
            set_owner(&tree.path("t/d0/small0"), 4711, 4712);
        }
        let second = add(&vault, tree.root(), &["t"]);
        assert_eq!((second.total_files, bytes_read(&second)), (first.total_files, 0));
        assert!(second.unchanged_files <= FILES - 3);
        assert!(second.stored_size < 10_000, "{} bytes", second.stored_size);
        assert_restores(&vault, &tree, "t");
        // The delta has the places of records that it did not write itself.
        assert_sound(&vault);

        // Once more, now that the content comes from a snapshot that did not store it.
        let_time_pass();
        set_mode(&tree.path("t/large"), 0o444);
        add_with(&vault, tree.root(), &["t"], forced()).unwrap();
        let_time_pass();
        set_mode(&tree.path("t/large"), 0o440);
        add(&vault, tree.root(), &["t"]);
        assert_restores(&vault, &tree, "t");
        assert_sound(&vault);
    });
}

#[test]
fn names_of_one_file_stay_names_of_one_file_whatever_of_them_is_unchanged() {
    within(90, || {
        let tree = Tree::new();
        tree.file("a/one", noise(1, 300_000));
        std::fs::create_dir(tree.path("b")).unwrap();
        std::fs::hard_link(tree.path("a/one"), tree.path("a/two")).unwrap();
        std::fs::hard_link(tree.path("a/one"), tree.path("b/three")).unwrap();
        let_time_pass();
        let vault = vault_in(Disk::new().dir());

        // Stored by two runs, so two files as far as the vault knows.
        add(&vault, tree.root(), &["a"]);
        add(&vault, tree.root(), &["b"]);
        // Seen together, none of them changed: one file, without its bytes being read again.
        let third = add(&vault, tree.root(), &["."]);
        assert_eq!((bytes_read(&third), third.total_files), (0, 3));
        assert_restores(&vault, &tree, "");
        // From now on nothing is left to say.
        let fourth = add(&vault, tree.root(), &["."]);
        assert_eq!((fourth.unchanged_files, fourth.total_files), (3, 3));
        assert_restores(&vault, &tree, "");

        // Attributes, of all names at once.
        set_mode(&tree.path("a/two"), 0o600);
        let fifth = add(&vault, tree.root(), &["."]);
        assert_eq!(bytes_read(&fifth), 0);
        assert_restores(&vault, &tree, "");

        // One name less, one name more.
        let_time_pass();
        std::fs::remove_file(tree.path("a/one")).unwrap();
        let mut mirror = simple();
        mirror.mirror = true;
        add_with(&vault, tree.root(), &["."], mirror).unwrap();
        assert_restores(&vault, &tree, "");
        std::fs::hard_link(tree.path("a/two"), tree.path("a/zero")).unwrap();
        add(&vault, tree.root(), &["."]);
        assert_restores(&vault, &tree, "");
        assert_sound(&vault);
    });
}

#[test]
fn a_second_name_does_not_have_the_file_read_again() {
    within(60, || {
        let tree = Tree::new();
        tree.file("a/one", noise(1, 300_000));
        let_time_pass();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["a"]);
        std::fs::hard_link(tree.path("a/one"), tree.path("a/two")).unwrap();
        let second = add(&vault, tree.root(), &["a"]);
        assert_eq!(bytes_read(&second), 0);
        assert_restores(&vault, &tree, "a");
        assert_sound(&vault);
    });
}

#[test]
fn forty_nights_cost_what_changed_and_the_last_one_has_it_all() {
    within(120, || {
        let tree = settled_tree();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["t"]);
        let mut largest = 0;
        for night in 0..40 {
            tree.file(format!("t/d{}/log{}", night % 3, night % 7), text(night, 500));
            let report = add(&vault, tree.root(), &["t"]);
            assert!(report.unchanged_files >= FILES - 8, "{report}");
            largest = largest.max(report.stored_size);
        }
        // A full index of this tree is what a night costs at most.
        assert!(largest < 20_000, "{largest} bytes");
        assert_restores(&vault, &tree, "t");
        assert_sound(&vault);
        assert_eq!(contents(&vault, Some(1)).unwrap().len() as u64, FILES - 1);
    });
}

#[test]
fn files_of_a_pseudo_file_system_are_always_read() {
    within(60, || {
        let vault = vault_in(Disk::new().dir());
        let add_one = || add_with(&vault, Path::new("/proc/sys/kernel"), &["ostype", "pid_max"], simple()).unwrap();
        assert_eq!(add_one().unchanged_files, 0);
        let second = add_one();
        assert_eq!(second.unchanged_files, 0);
        assert!(bytes_read(&second) > 0);
    });
}

#[test]
fn a_dry_run_says_what_would_be_stored_and_writes_nothing() {
    within(60, || {
        let tree = settled_tree();
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let first = add(&vault, tree.root(), &["t"]);
        tree.file("t/d1/small1", "something else");
        std::fs::remove_file(tree.path("t/empty")).unwrap();
        let before = disk.bytes().unwrap();
        let mut options = simple();
        (options.dry_run, options.mirror) = (true, true);
        let report = add_with(&vault, tree.root(), &["t"], options.clone()).unwrap();
        assert!(disk.bytes().unwrap() == before);
        assert_eq!((report.total_files, report.unchanged_files, report.removed_files), (FILES - 1, FILES - 2, 1));
        assert_eq!((report.snapshot, report.stored_size), (None, 0));
        assert_eq!(report.total_size, first.total_size - 1000 + 14);
        let plan = report.plan.expect("a dry run says what it would work with");
        assert_eq!(plan.chunk_size, 256 << 10);
        assert!(plan.peak_memory_bytes > plan.buffer_bytes);

        options.dry_run = false;
        let real = add_with(&vault, tree.root(), &["t"], options).unwrap();
        assert_eq!(real.plan, Some(plan), "what was foretold is what is done");
        assert_eq!((real.total_files, real.unchanged_files), (report.total_files, report.unchanged_files));
        assert_eq!((real.removed_files, real.total_size), (report.removed_files, report.total_size));
    });
}

#[test]
fn a_change_of_content_does_not_hide_behind_one_of_attributes() {
    within(60, || {
        let tree = settled_tree();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["t"]);
        for name in ["t/large", "t/d1/small1", "t/sparse"] {
            let path = tree.path(name);
            let before = std::fs::symlink_metadata(&path).unwrap();
            use std::os::unix::fs::FileExt as _;
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"!", before.len() - 1).unwrap();
            set_mode(&path, 0o600);
            set_mtime(&path, before.mtime(), before.mtime_nsec());
        }
        let second = add(&vault, tree.root(), &["t"]);
        assert_eq!(second.unchanged_files, FILES - 3);
        assert!(bytes_read(&second) > 1_500_000, "{} bytes", bytes_read(&second));
        assert_restores(&vault, &tree, "t");
        assert_sound(&vault);
    });
}

#[test]
fn comparing_and_storing_in_turn_go_on_in_the_least_memory() {
    within(120, || {
        let tree = Tree::new();
        for number in 0..40 {
            tree.file(format!("t/{number:02}-old"), noise(number, 300_000));
        }
        let_time_pass();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["t"]);
        for number in 0..40 {
            set_mode(&tree.path(format!("t/{number:02}-old")), 0o600);
            tree.file(format!("t/{number:02}-new"), noise(100 + number, 300_000));
        }
        let mut options = simple();
        // Two permits and not much more.
        options.pipeline.memory = Some(44 << 20);
        let second = add_with(&vault, tree.root(), &["t"], options).unwrap();
        assert!(second.is_complete(), "{:?}", second.errors);
        assert_eq!(
            (second.total_files, bytes_read(&second)),
            (80, 40 * 300_000),
            "what is the same is not stored again"
        );
        assert_restores(&vault, &tree, "t");
        assert_sound(&vault);
    });
}
