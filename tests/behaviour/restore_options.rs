//! What is restored, over what, and how much of it: the options of extract.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flint_pipe::{Error, ErrorKind, ExtractOptions, Overwrite, Preserve, Report, Vault};
use rustix::fs::FileType;

use crate::support::disk::Disk;
use crate::support::tree::{
    Sight, Tree, assert_same_sight, is_root, look, noise, set_mode, set_mtime, set_owner, set_xattr, text,
};
use crate::support::{add, vault_at, vault_in, within};

fn options(change: impl FnOnce(&mut ExtractOptions)) -> ExtractOptions {
    let mut options = ExtractOptions::default();
    change(&mut options);
    options
}

fn chosen(include: &[&str], exclude: &[&str]) -> ExtractOptions {
    options(|options| {
        options.include = include.iter().map(ToString::to_string).collect();
        options.exclude = exclude.iter().map(ToString::to_string).collect();
    })
}

fn restored(vault: &Vault, destination: &Path, options: &ExtractOptions) -> Report {
    let report = vault.extract(destination, options, &()).expect("the vault is restored");
    assert!(report.is_complete(), "{:?}", report.errors);
    report
}

/// The names below a directory.
fn found(root: &Path) -> Vec<String> {
    let names = look(root).into_keys().filter(|name| !name.as_os_str().is_empty());
    names.map(|name| name.to_str().unwrap().to_owned()).collect()
}

/// A vault of `src/main.rs`, `src/deep/lib.rs`, `src/deep/lib.o`, `target/main.o`, `notes`.
fn project() -> Vault {
    let tree = Tree::new();
    tree.file("src/main.rs", text(1, 5000));
    tree.file("src/deep/lib.rs", noise(2, 300_000));
    tree.file("src/deep/lib.o", noise(3, 3000));
    tree.file("target/main.o", noise(4, 4000));
    tree.file("notes", "buy milk");
    let vault = vault_in(Disk::new().dir());
    add(&vault, tree.root(), &["src", "target", "notes"]);
    vault
}

#[test]
fn patterns_choose_among_the_entries_and_parents_are_made_where_they_are_needed() {
    within(60, || {
        let vault = project();
        for (include, exclude, expected) in [
            (&["*.rs"][..], &[][..], &["src", "src/deep", "src/deep/lib.rs", "src/main.rs"][..]),
            (&["/src/deep"], &[], &["src", "src/deep", "src/deep/lib.o", "src/deep/lib.rs"]),
            (&["deep/"], &["*.o"], &["src", "src/deep", "src/deep/lib.rs"]),
            (&["*"], &["src", "*.o"], &["notes", "target"]),
            (&[], &["target/", "deep"], &["notes", "src", "src/main.rs"]),
            (
                &[],
                &["*.o", "!main.o"],
                &["notes", "src", "src/deep", "src/deep/lib.rs", "src/main.rs", "target", "target/main.o"],
            ),
        ] {
            let out = Tree::new();
            let report = restored(&vault, &out.path("o"), &chosen(include, exclude));
            assert_eq!(found(&out.path("o")), expected, "{include:?} {exclude:?}");
            let files = expected.iter().filter(|name| out.path("o").join(name).is_file()).count();
            assert_eq!(report.total_files, files as u64);
        }
    });
}

#[test]
fn patterns_choose_among_what_is_named() {
    within(60, || {
        let vault = project();
        let out = Tree::new();
        let mut options = chosen(&["*.rs"], &["main*"]);
        options.files = vec![PathBuf::from("src"), PathBuf::from("target")];
        restored(&vault, &out.path("o"), &options);
        assert_eq!(found(&out.path("o")), ["src", "src/deep", "src/deep/lib.rs"]);
    });
}

#[test]
fn a_pattern_that_is_none_is_wrong_usage_and_one_that_matches_nothing_an_error() {
    within(60, || {
        let vault = project();
        let out = Tree::new();
        for options in [chosen(&["src", "a[b"], &[]), chosen(&[], &["a[b"])] {
            let failed = vault.extract(&out.path("o"), &options, &()).unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::Usage);
            assert!(failed.error.to_string().contains("a[b"), "{}", failed.error);
            assert!(!out.path("o").exists(), "nothing is begun");
        }
        let failed = vault.extract(&out.path("o"), &chosen(&["*.c", "*.h"], &[]), &()).unwrap_err();
        assert!(matches!(&failed.error, Error::NoEntry { name, .. } if name == "*.c, *.h"), "{:?}", failed.error);
        // That nothing is left is as asked.
        assert_eq!(restored(&vault, &out.path("o"), &chosen(&[], &["*"])).total_files, 0);
    });
}

#[test]
fn files_that_look_unchanged_are_left_alone_but_for_their_attributes() {
    within(60, || {
        let tree = Tree::new();
        for name in ["same", "longer", "older", "gone", "d/same"] {
            set_mtime(&tree.file(name, text(1, 5000)), 1_600_000_000, 123_456_789);
        }
        set_mode(&tree.path("same"), 0o640);
        tree.symlink("link", "same");
        tree.file("beside", "a file like others");
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["."]);
        let out = Tree::new();
        let to = out.path("o");
        restored(&vault, &to, &ExtractOptions::default());

        // Not the entry's content: only so can be seen that it is neither read nor written.
        let content = noise(9, 5000);
        std::fs::write(to.join("same"), &content).unwrap();
        set_mtime(&to.join("same"), 1_600_000_000, 123_456_789);
        set_mode(&to.join("same"), 0o600);
        if is_root() {
            set_owner(&to.join("same"), 77, 88);
        }
        std::fs::write(to.join("longer"), text(1, 5001)).unwrap();
        set_mtime(&to.join("longer"), 1_600_000_000, 123_456_789);
        set_mtime(&to.join("older"), 1_600_000_000, 123_456_788);
        std::fs::remove_file(to.join("gone")).unwrap();
        let inode = |name: &str| std::fs::symlink_metadata(to.join(name)).unwrap().ino();
        let before = ["same", "longer", "older", "d/same"].map(inode);

        let report = restored(&vault, &to, &options(|options| options.overwrite = Overwrite::IfChanged));
        assert_eq!((report.total_files, report.unchanged_files), (7, 3), "same, d/same, beside");
        let after = ["same", "longer", "older", "d/same"].map(inode);
        let kept: Vec<bool> = before.iter().zip(after).map(|(before, after)| *before == after).collect();
        assert_eq!(kept, [true, false, false, true]);
        assert!(std::fs::read(to.join("same")).unwrap() == content);
        std::fs::write(to.join("same"), text(1, 5000)).unwrap();
        set_mtime(&to.join("same"), 1_600_000_000, 123_456_789);
        assert_same_sight(&look(tree.root()), &look(&to));
    });
}

#[test]
fn a_file_with_several_names_is_never_taken_for_unchanged() {
    within(60, || {
        let tree = Tree::new();
        set_mtime(&tree.file("file", text(1, 5000)), 1_600_000_000, 5);
        set_mode(&tree.path("file"), 0o666);
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["file"]);
        // The same size and time, by chance or by design.
        let outside = Tree::new();
        set_mtime(&outside.file("victim", noise(1, 5000)), 1_600_000_000, 5);
        set_mode(&outside.path("victim"), 0o600);
        set_mtime(outside.root(), 1_600_000_001, 6);
        let out = Tree::new();
        std::fs::hard_link(outside.path("victim"), out.path("file")).unwrap();
        let changed = std::fs::metadata(outside.path("victim")).unwrap();
        restored(&vault, out.root(), &options(|options| options.overwrite = Overwrite::IfChanged));
        assert!(std::fs::read(out.path("file")).unwrap() == text(1, 5000));
        let is = std::fs::metadata(outside.path("victim")).unwrap();
        assert_eq!((is.mode() & 0o7777, is.nlink()), (0o600, 1));
        assert_eq!((is.mtime(), is.uid()), (changed.mtime(), changed.uid()));
        assert!(std::fs::read(outside.path("victim")).unwrap() == noise(1, 5000));
    });
}

/// What a new file and a new directory get from this process.
fn given_modes() -> (u32, u32) {
    let tree = Tree::new();
    tree.directory("d");
    tree.file("f", "");
    let mode = |name| std::fs::metadata(tree.path(name)).unwrap().mode() & 0o7777;
    (mode("f"), mode("d"))
}

#[test]
fn what_is_not_to_be_preserved_is_not_and_all_else_is() {
    within(120, || {
        let tree = Tree::new();
        let file = tree.file("d/file", "content");
        let has_xattrs = set_xattr(&file, "user.colour", b"green");
        // user::rwx user:1:r-x group::r-x mask::r-x other::---
        let acl = [
            2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 1, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0,
            5, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
        ];
        let has_acls = set_xattr(&file, "system.posix_acl_access", &acl);
        set_mode(&tree.file("d/open", "x"), 0o777);
        set_mode(&tree.file("d/setuid", "x"), 0o4755);
        set_mode(&tree.path("d"), 0o777);
        if is_root() {
            tree.node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
            set_owner(&tree.path("d/setuid"), 1234, 5678);
            set_mode(&tree.path("d/setuid"), 0o4755);
        }
        for name in ["d/file", "d/open", "d/setuid", "d", ""] {
            set_mtime(&tree.path(name), 1_000_000_000, 7);
        }
        let out = Tree::new();
        let vault = vault_at(&out.path("vault"));
        add(&vault, tree.root(), &["."]);
        let all = look(tree.root());
        let (_, umask_of_directories) = given_modes();
        let mut number = 0;
        let mut without = |change: fn(&mut Preserve)| -> (Sight, PathBuf) {
            number += 1;
            let to = out.path(format!("o{number}"));
            let report = restored(&vault, &to, &options(|options| change(&mut options.preserve)));
            assert!(report.notes.is_empty() || !is_root(), "{:?}", report.notes);
            (look(&to), to)
        };
        let stat = |to: &Path, name: &str| std::fs::symlink_metadata(to.join(name)).unwrap();
        let mode = |to: &Path, name: &str| stat(to, name).mode() & 0o7777;
        let has = |to: &Path, name: &str| rustix::fs::lgetxattr(to.join("d/file"), name, &mut [0_u8; 100][..]).is_ok();

        let (sight, _) = without(|_| {});
        assert_same_sight(&all, &sight);

        let (_, to) = without(|preserve| preserve.owner = false);
        let me = (rustix::process::geteuid().as_raw(), stat(&to, "d/open").gid());
        assert_eq!((stat(&to, "d/setuid").uid(), stat(&to, "d/setuid").gid()), me);
        assert_eq!((mode(&to, "d/setuid"), mode(&to, "d/open")), (0o755, 0o777), "setuid of whom?");

        let (_, to) = without(|preserve| preserve.mode = false);
        assert_eq!(mode(&to, "d/open"), umask_of_directories, "0777 less the umask");
        assert_eq!(mode(&to, "d"), umask_of_directories);
        assert_eq!(mode(&to, "d/setuid"), 0o755 & umask_of_directories);
        assert_eq!(stat(&to, "d/open").mtime(), 1_000_000_000);

        let (_, to) = without(|preserve| preserve.times = false);
        for name in ["", "d", "d/file", "d/open"] {
            assert!(stat(&to, name).mtime() > 1_500_000_000, "{name:?}");
        }
        assert_eq!(mode(&to, "d/setuid"), 0o4755);

        let (_, to) = without(|preserve| preserve.xattr = false);
        assert!(!has(&to, "user.colour"));
        assert_eq!(has(&to, "system.posix_acl_access"), has_acls);

        let (_, to) = without(|preserve| preserve.acl = false);
        assert_eq!(has(&to, "user.colour"), has_xattrs);
        assert!(!has(&to, "system.posix_acl_access"));

        let (sight, to) = without(|preserve| preserve.devices = false);
        assert!(!to.join("null").exists());
        let mut rest = all.clone();
        rest.remove(Path::new("null"));
        assert_same_sight(&rest, &sight);
    });
}

#[test]
fn a_rehearsal_counts_as_the_real_run_does_and_writes_nothing() {
    within(60, || {
        let vault = project();
        let out = Tree::new();
        let to = out.path("o");
        let counts = |report: &Report| {
            (report.total_files, report.successful_files, report.unchanged_files, report.directories, report.total_size)
        };
        let mut options = ExtractOptions::default();
        for (overwrite, include) in [
            (Overwrite::Always, None),
            (Overwrite::Always, Some("*.o")),
            (Overwrite::Never, Some("src")),
            (Overwrite::IfChanged, None),
            (Overwrite::Never, None),
        ] {
            options.overwrite = overwrite;
            options.include = include.iter().map(ToString::to_string).collect();
            options.dry_run = true;
            let before = to.exists().then(|| look(&to));
            let rehearsed = restored(&vault, &to, &options);
            assert_eq!(to.exists(), before.is_some());
            if let Some(before) = before {
                assert_same_sight(&before, &look(&to));
            }
            options.dry_run = false;
            let report = restored(&vault, &to, &options);
            assert_eq!(counts(&rehearsed), counts(&report), "{overwrite:?} {include:?}");
            assert_eq!((rehearsed.snapshot, rehearsed.stored_size), (report.snapshot, 0));
            assert!(rehearsed.plan.is_some() && rehearsed.plan == report.plan);
        }
        let plan = restored(&vault, &to, &options).plan.expect("there is a plan");
        let stages: Vec<_> = plan.workers.iter().map(|(name, _)| *name).collect();
        assert_eq!(stages, ["plan", "read", "decrypt", "decompress", "write"]);
        assert!(plan.peak_memory_bytes > plan.buffer_bytes && plan.buffer_bytes > u64::from(plan.chunk_size));

        options.dry_run = true;
        options.files = vec![PathBuf::from("missing")];
        let failed = vault.extract(&to, &options, &()).unwrap_err();
        assert!(matches!(failed.error, Error::NoEntry { .. }), "{:?}", failed.error);
        options.files.clear();
        let failed = vault.extract(&to.join("notes"), &options, &()).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Io, "a destination that is a file is refused, as for real");
    });
}

const SYNC_TEST: &str = "restore_options::what_is_restored_is_synced_at_the_end_if_that_is_asked_for";

#[test]
fn what_is_restored_is_synced_at_the_end_if_that_is_asked_for() {
    within(120, || {
        const ASKED: &str = "FLINT_TEST_SYNC";
        if let Some(asked) = std::env::var_os(ASKED) {
            let (vault, out) = (project(), Tree::new());
            restored(&vault, &out.path("o"), &options(|options| options.sync = asked == "yes"));
            return;
        }
        for asked in ["no", "yes"] {
            let out = Tree::new();
            let log = out.path("log");
            let own = std::env::current_exe().unwrap();
            let mut strace = Command::new("strace");
            strace.args(["-f", "-e", "trace=syncfs,utimensat,fchmod"]).arg("-o").arg(&log).arg(own);
            let output = strace.args([SYNC_TEST, "--exact", "--nocapture"]).env(ASKED, asked).output();
            let is_traced =
                output.as_ref().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("1 passed"));
            if !is_traced {
                eprintln!("skipped: strace cannot be had: {output:?}");
                return;
            }
            let calls = std::fs::read_to_string(&log).unwrap();
            // The last time that is set is the one of the last directory.
            let last = calls.lines().rfind(|line| line.contains("syncfs(") || line.contains("utimensat(")).unwrap();
            assert_eq!(last.contains("syncfs("), asked == "yes", "{calls}");
            assert_eq!(calls.contains("syncfs("), asked == "yes");
        }
    });
}
