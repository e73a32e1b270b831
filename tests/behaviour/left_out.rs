//! What the user does not want packed is not, and nothing else is missing: patterns, caches, other file systems.

use std::path::Path;
use std::process::Command;

use flint_pipe::{AddOptions, ErrorKind, check_pattern};

use crate::support::disk::Disk;
use crate::support::tree::Tree;
use crate::support::{add_with, names, program, simple, vault_in, within, workers};

const CACHE_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n";

/// The names that a new vault has after these sources were added.
fn packed(directory: &Path, sources: &[&str], options: AddOptions) -> Vec<String> {
    let vault = vault_in(Disk::new().dir());
    let report = add_with(&vault, directory, sources, options).unwrap();
    assert!(report.is_complete(), "{:?}", report.errors);
    names(&vault, None)
}

fn excluding(patterns: &[&str]) -> AddOptions {
    let mut options = simple();
    options.exclude = patterns.iter().map(ToString::to_string).collect();
    options
}

#[test]
fn patterns_are_compared_with_names_in_the_vault() {
    within(60, || {
        let tree = Tree::new();
        for name in ["a/tmp/x", "b/a/tmp/y", "b/{n}", "top"] {
            tree.file(name, "x");
        }
        let of = |source: &str, patterns: &[&str]| packed(tree.root(), &[source], excluding(patterns));
        // The contents of `.` stand at the root of the vault.
        assert_eq!(of(".", &["/a", "/top"]), ["", "b", "b/a", "b/a/tmp", "b/a/tmp/y", "b/{n}"]);
        assert_eq!(of(".", &["a/tmp", "{n}"]), ["", "a", "b", "b/a", "b/a/tmp", "b/a/tmp/y", "top"]);
        assert_eq!(of(".", &["**/a/tmp/"]), ["", "a", "b", "b/a", "b/{n}", "top"]);
        // An absolute source keeps its path, so an absolute pattern is what it looks like.
        let absolute = tree.root().to_str().unwrap();
        let pattern = format!("{absolute}/b");
        let found = of(absolute, &[&pattern, "x"]);
        let below: Vec<&str> = found.iter().map(|name| name.strip_prefix(&absolute[1..]).unwrap()).collect();
        assert_eq!(below, ["", "/a", "/a/tmp", "/top"]);
    });
}

#[test]
fn a_pattern_that_matches_nothing_ever_is_wrong_usage() {
    within(60, || {
        let tree = Tree::new();
        tree.file("f", "x");
        let failed = add_with(&vault_in(Disk::new().dir()), tree.root(), &["f"], excluding(&["a", "b["])).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Usage);
        assert!(failed.error.to_string().contains("b["), "{}", failed.error);
        assert_eq!(check_pattern("b[").unwrap_err().kind(), ErrorKind::Usage);
        assert!(check_pattern("b[c]/**/{d").is_ok());
    });
}

#[test]
fn of_a_cache_only_the_directory_and_its_tag_are_packed_if_that_is_asked_for() {
    within(60, || {
        let tree = Tree::new();
        for (name, content) in [
            ("t/cache/CACHEDIR.TAG", CACHE_TAG),
            ("t/cache/data", "x"),
            ("t/cache/sub/data", "x"),
            ("t/none/CACHEDIR.TAG", "Signature: something else"),
            ("t/none/data", "x"),
        ] {
            tree.file(name, content);
        }
        for count in [1, 3] {
            let mut options = AddOptions::default();
            options.pipeline.workers = workers(count);
            options.exclude_caches = true;
            let kept = ["t", "t/cache", "t/cache/CACHEDIR.TAG", "t/none", "t/none/CACHEDIR.TAG", "t/none/data"];
            assert_eq!(packed(tree.root(), &["t"], options.clone()), kept);
            assert_eq!(packed(tree.root(), &["t/cache"], options.clone()), kept[1..3]);
            options.exclude_caches = false;
            assert_eq!(packed(tree.root(), &["t/cache"], options).len(), 5);
        }
    });
}

#[test]
fn of_another_file_system_only_the_directory_it_is_mounted_on_is_packed_if_that_is_asked_for() {
    within(120, || {
        let tree = Tree::new();
        tree.file("t/f", "x");
        tree.file("t/bound", "what is bound over");
        tree.file("t/mounted/hidden", "x");
        let mount = "mount -t tmpfs none t/mounted && mkdir t/mounted/d && echo x > t/mounted/d/f && \
                     mount --bind t/mounted/d/f t/bound";
        let try_it = Command::new("unshare").args(["-m", "sh", "-c", mount]).current_dir(tree.root()).output();
        if !try_it.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: there is no right to mount");
            return;
        }
        for (option, workers, expected) in [
            ("--one-file-system", "1", "t\nt/f\nt/mounted\n"),
            ("--one-file-system", "4", "t\nt/f\nt/mounted\n"),
            // To name it is to want it, also below another source.
            ("--one-file-system -s t/mounted", "1", "t\nt/f\nt/mounted\nt/mounted/d\nt/mounted/d/f\n"),
            ("--one-file-system -s t/mounted", "4", "t\nt/f\nt/mounted\nt/mounted/d\nt/mounted/d/f\n"),
            ("--progress=never", "1", "t\nt/bound\nt/f\nt/mounted\nt/mounted/d\nt/mounted/d/f\n"),
        ] {
            let own = env!("CARGO_BIN_EXE_flint-pipe");
            let vault = format!("vault{workers}{option}").replace(['/', ' '], "");
            let add = format!("{mount} && {own} add -v {vault} -s t --scan-workers {workers} {option}");
            let mut unshared = Command::new("unshare");
            unshared.args(["-m", "sh", "-c", &add]).env("FLINT_PASSWORD", crate::support::PASSWORD);
            let output = unshared.current_dir(tree.root()).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            let output = program().args(["list", "-v", &vault]).current_dir(tree.root()).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{option}, {workers} workers");
        }
    });
}
