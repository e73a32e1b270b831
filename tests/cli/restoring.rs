//! What is restored, and over what.

use crate::support::{Place, heavy, status, stderr, stdout};

#[test]
fn files_to_restore_are_named_in_three_ways() {
    let place = Place::new();
    place.file("d/a", b"1").file("d/b/c", b"2").file("d/x,y", b"3").file("d/z", b"4");
    place.succeeds("add -v v -s d");
    place.succeeds("extract -v v -o one --files d/a,d/b/");
    place.succeeds("extract -v v -o two -t d/x,y");
    place.succeeds("extract -v v -o three --files d/a --files d/z");
    let there = |name: &str| place.path(name).exists();
    assert!(there("one/d/a") && there("one/d/b/c") && !there("one/d/z"));
    assert!(there("two/d/x,y") && !there("two/d/a"));
    assert!(there("three/d/a") && there("three/d/z") && !there("three/d/b"));
    let output = place.unlocked("extract -v v -o four --files nothing/here");
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).contains("no such entry: nothing/here"), "{}", stderr(&output));
    let output = place.unlocked("extract -v v -o five --files nothing/here,d/a");
    assert_eq!(status(&output), 3);
    assert!(there("five/d/a"));
    place.succeeds("get -v v -t d/b/c");
    assert_eq!(place.bytes("d/b/c"), b"2");
}

#[test]
fn files_that_are_there_are_replaced_unless_that_was_not_asked() {
    let place = Place::new().with_vault();
    place.file("out/d/one", b"was there");
    place.succeeds("extract -v v -o out --overwrite never");
    assert_eq!(place.bytes("out/d/one"), b"was there");
    place.succeeds("extract -v v -o out");
    assert_eq!(place.bytes("out/d/one"), b"the first");
}

#[test]
fn a_file_goes_to_standard_output_and_nothing_else_does() {
    let place = Place::new();
    place.file("large", &heavy(3_000_000)).file("d/f", b"x");
    place.succeeds("add -v v -s large -s d");
    let output = place.unlocked("get -v v -t large --stdout");
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
    assert!(output.stdout == heavy(3_000_000));
    for (target, words) in [("d", "only files"), ("missing", "no such entry")] {
        let output = place.unlocked(&format!("get -v v -t {target} --stdout"));
        assert_eq!((status(&output), stdout(&output).as_str()), (1, ""), "{target}");
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}
