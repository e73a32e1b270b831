//! Who restores, and with what limits: another user than the one who packed, few descriptors, directories that are closed.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::FileType;

use crate::support::tree::{
    Tree, assert_same_sight, is_root, look, noise, set_mode, set_mtime, set_owner, set_xattr, text,
};
use crate::support::{add, program, program_for_all, vault_at, within};

const NOBODY: u32 = 65_534;

fn extract_as_nobody(program_copy: &Path, vault: &Path, out: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(program_copy);
    command.args(["extract", "--json", "-v"]).arg(vault).arg("-o").arg(out);
    command.env_clear().env("FLINT_PASSWORD", crate::support::PASSWORD).current_dir("/");
    let output = command.uid(NOBODY).gid(NOBODY).output().expect("the program starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_password_opens_a_vault_where_no_thread_can_be_started() {
    within(60, || {
        let (tree, place) = (Tree::new(), Tree::new());
        tree.file("a", "b");
        let copy = program_for_all(&place);
        let vault = vault_at(&place.path("vault"));
        add(&vault, tree.root(), &["."]);
        set_mode(&place.path("vault"), 0o644);
        let mut command = Command::new("prlimit");
        command.args(["--nproc=0"]).arg(&copy).args(["list", "-v"]).arg(place.path("vault"));
        command.env("FLINT_PASSWORD", crate::support::PASSWORD).current_dir("/");
        if is_root() {
            // To root the limit means nothing.
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().expect("prlimit is a part of util-linux");
        let said = String::from_utf8_lossy(&output.stderr);
        // That signals cannot be handled is noted.
        assert!(output.status.success() && !said.contains("error:"), "{said}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), ".\na\n");
    });
}

#[test]
fn another_user_restores_what_he_may_and_is_told_once_what_he_may_not() {
    within(120, || {
        if !is_root() {
            eprintln!("skipped: only root can be another user");
            return;
        }
        let tree = Tree::new();
        for number in 0..30 {
            tree.file(format!("theirs/{number}"), text(number, 500));
        }
        set_mode(&tree.file("setuid", "#!"), 0o4755);
        set_owner(&tree.file("own", "x"), NOBODY, NOBODY);
        set_mode(&tree.path("own"), 0o6755);
        set_owner(&tree.symlink("link", "own"), 1, 1);
        tree.node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        tree.node("loop", FileType::BlockDevice, rustix::fs::makedev(7, 77));
        tree.node("fifo", FileType::Fifo, 0);
        tree.file("closed/below/file", "in a closed directory");
        let has_xattrs = set_xattr(&tree.path("own"), "trusted.flint", b"1");
        set_xattr(&tree.path("own"), "user.flint", b"1");
        let mut expected = look(tree.root());
        for name in ["closed/below", "closed"] {
            set_mode(&tree.path(name), 0o000);
        }
        let place = Tree::new();
        let copy = program_for_all(&place);
        let vault = vault_at(&place.path("vault"));
        add(&vault, tree.root(), &["."]);
        set_mode(&place.path("vault"), 0o644);
        let out = place.directory("out");
        set_owner(&out, NOBODY, NOBODY);

        for _ in 0..2 {
            let (status, said) = extract_as_nobody(&copy, &place.path("vault"), &out);
            assert_eq!(status, Some(0), "{said}");
            let notes = [
                Some("owner of 38 entries could not be restored: not permitted"),
                Some("setuid and setgid bits of 1 entry were left out, since the owner is another"),
                Some("2 device nodes could not be made: not permitted"),
                has_xattrs.then_some("extended attributes of 1 entry could not be restored: not permitted"),
            ];
            for note in notes.into_iter().flatten() {
                assert_eq!(said.matches(note).count(), 1, "{note:?} in\n{said}");
            }
            for name in ["closed", "closed/below"] {
                assert_eq!(std::fs::metadata(out.join(name)).unwrap().mode() & 0o7777, 0);
            }
        }
        // Open, so that what is in them can be compared.
        for name in ["closed", "closed/below"] {
            set_mode(&out.join(name), 0o755);
            set_mtime(&out.join(name), 1, 1);
        }
        let mode = |name: &str| std::fs::symlink_metadata(out.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("setuid"), mode("own")), (0o755, 0o6755));
        assert_eq!(std::fs::read(out.join("closed/below/file")).unwrap(), b"in a closed directory");
        for device in ["null", "loop"] {
            assert!(!out.join(device).exists());
            expected.remove(Path::new(device));
        }
        assert_eq!(expected.keys().collect::<Vec<_>>(), look(&out).keys().collect::<Vec<_>>());
    });
}

#[test]
fn few_descriptors_are_enough_for_deep_trees_and_many_files_at_once() {
    within(180, || {
        let tree = Tree::new();
        let mut deep = String::new();
        for level in 0..80 {
            deep = format!("{deep}{level}/");
            tree.file(format!("{deep}file"), text(level, 300));
            tree.file(format!("wide/{level}/file"), text(level, 300));
        }
        // Each of several records, more of them than there are descriptors; and links whose names are far apart.
        for number in 0..100 {
            tree.file(format!("large/{number:03}"), noise(number, 300_000));
        }
        tree.directory("z");
        for number in 0..100 {
            std::fs::hard_link(tree.path(format!("large/{number:03}")), tree.path(format!("z/{number}"))).unwrap();
        }
        set_mtime(tree.root(), 1_000_000_000, 3);
        let out = Tree::new();
        let vault = vault_at(&out.path("vault"));
        add(&vault, tree.root(), &["."]);
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""]).arg(program().get_program());
        command.args(["extract", "-v"]).arg(out.path("vault")).arg("-o").arg(out.path("out"));
        let output = command.env("FLINT_PASSWORD", crate::support::PASSWORD).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_same_sight(&look(tree.root()), &look(&out.path("out")));
    });
}
