//! What is packed and restored of what there is: patterns, and what stands for the same.

use crate::support::{Place, status, stderr};

/// The names in vault `v`, after `d` was added to a new one with these options.
fn packed(place: &Place, options: &str) -> Vec<String> {
    let _ = std::fs::remove_file(place.path("v"));
    place.succeeds(&format!("add -v v -s d {options}"));
    let listed = place.succeeds("list -v v");
    listed.lines().filter(|name| *name != "d").map(|name| name.trim_start_matches("d/").to_owned()).collect()
}

#[test]
fn the_last_pattern_that_matches_counts_whether_it_stands_in_a_file_or_not() {
    let place = Place::new();
    for name in ["d/a.o", "d/b.o", "d/c.c"] {
        place.file(name, b"x");
    }
    place.file("objects", b"# what compilers leave\r\n\r\n*.o\r\n").file("keep", b"!b.o\n");
    assert_eq!(packed(&place, ""), ["a.o", "b.o", "c.c"]);
    assert_eq!(packed(&place, "--exclude-from objects"), ["c.c"]);
    assert_eq!(packed(&place, "--exclude *.o --exclude-from keep"), ["b.o", "c.c"]);
    assert_eq!(packed(&place, "--exclude-from keep --exclude *.o"), ["c.c"]);
    assert_eq!(packed(&place, "--exclude-from objects --exclude !b.o"), ["b.o", "c.c"]);
    assert_eq!(packed(&place, "--exclude !b.o --exclude-from objects"), ["c.c"]);
}

#[test]
fn patterns_come_from_standard_input_too_but_not_beside_a_password() {
    let place = Place::new();
    place.file("d/a", b"x").file("d/b", b"x");
    let mut command = place.command();
    command.env("FLINT_PASSWORD", "x").args("add -v v -s d --exclude-from -".split(' ')).write_stdin("a\n");
    assert_eq!(status(&command.output().expect("it starts")), 0);
    let mut command = place.command();
    let listed = command.env("FLINT_PASSWORD", "x").args(["list", "-v", "v"]).output().expect("it starts");
    assert_eq!(listed.stdout, b"d\nd/b\n");
    for line in ["--exclude-from - --password-file -", "--exclude-from - --exclude-from -"] {
        let output = place.unlocked(&format!("add -v v -s d {line}"));
        assert_eq!(status(&output), 2, "{line}");
        assert!(stderr(&output).contains("standard input can be read once"), "{}", stderr(&output));
    }
}

#[test]
fn a_bad_pattern_is_named_with_its_file_and_line_before_a_password_is_asked_for() {
    let place = Place::new();
    place.file("d/a", b"x").file("rules", b"*.o\n\na[b\n").file("bytes", b"\xff\n");
    for (line, words) in [
        ("add -v v -s d --exclude-from rules", "bad pattern in line 3: rules: "),
        ("add -v v -s d --exclude-from bytes", "bad pattern in line 1: bytes: it is not UTF-8"),
        ("add -v v -s d --exclude a[b", "invalid value 'a[b' for '--exclude <GLOB>'"),
        ("extract -v v -o o --include a[b", "invalid value 'a[b' for '--include <GLOB>'"),
    ] {
        let output = place.run(line);
        assert_eq!(status(&output), 2, "{line}");
        assert!(stderr(&output).contains(words), "{line}: {}", stderr(&output));
    }
    let output = place.run("add -v v -s d --exclude-from missing");
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).starts_with("flint-pipe: error: cannot open: missing: "), "{}", stderr(&output));
    assert!(!place.path("v").exists());
}

#[test]
fn caches_are_left_out_where_that_is_asked_for() {
    let place = Place::new();
    place.file("d/cache/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n").file("d/cache/x", b"x");
    place.file("d/y", b"y");
    assert_eq!(packed(&place, ""), ["cache", "cache/CACHEDIR.TAG", "cache/x", "y"]);
    assert_eq!(packed(&place, "--exclude-caches"), ["cache", "cache/CACHEDIR.TAG", "y"]);
}

#[test]
fn what_is_restored_is_chosen_by_patterns() {
    let place = Place::new().with_vault();
    place.succeeds("extract -v v -o one --include t* --exclude three");
    assert!(place.path("one/d/two").exists() && !place.path("one/d/one").exists());
    assert!(!place.path("one/d/sub/three").exists());
    place.succeeds("extract -v v -o two --exclude sub/");
    assert!(place.path("two/d/one").exists() && !place.path("two/d/sub").exists());
    let output = place.unlocked("extract -v v -o three --include nothing-like-it");
    assert_eq!(status(&output), 1, "{}", stderr(&output));
}

#[test]
fn files_that_look_like_the_entry_are_left_where_that_is_asked_for() {
    let place = Place::new().with_vault();
    place.succeeds("extract -v v -o out");
    place.file("out/d/two", b"another content");
    let ino =
        |name: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(place.path(name)).expect("it is there"));
    let before = ino("out/d/one");
    let shown = place.succeeds("extract -v v -o out --overwrite if-changed --sync");
    assert_eq!(ino("out/d/one"), before, "{shown}");
    assert_eq!(place.bytes("out/d/two"), [b'x'; 5000]);
}

#[test]
fn what_is_not_to_be_preserved_is_not() {
    let place = Place::new();
    place.file("f", b"x");
    let file = std::fs::OpenOptions::new().write(true).open(place.path("f")).expect("it is there");
    file.set_modified(std::time::UNIX_EPOCH).expect("its time");
    place.succeeds("add -v v -s f");
    let modified = |name: &str| std::fs::metadata(place.path(name)).expect("it is there").modified().expect("a time");
    place.succeeds("extract -v v -o with");
    assert_eq!(modified("with/f"), std::time::UNIX_EPOCH);
    place.succeeds("extract -v v -o without --no-preserve owner,times");
    assert!(modified("without/f") > std::time::UNIX_EPOCH);
    let output = place.unlocked("extract -v v -o o --no-preserve owner,colour");
    assert_eq!(status(&output), 2);
    assert!(stderr(&output).contains("'colour'"), "{}", stderr(&output));
}

#[test]
fn a_file_that_looks_unchanged_is_read_only_where_that_is_asked_for() {
    let place = Place::new().with_vault();
    assert!(!place.succeeds("add -v v -s d --force-read").contains("unchanged"));
}
