//! What `remove` and `add --mirror` take out of the newest snapshot, and what stays in older ones.

use serde_json::json;

use crate::support::{Place, json_of, status, stderr};

#[test]
fn what_is_removed_is_in_older_snapshots_still() {
    let place = Place::new().with_vault();
    let before = place.succeeds("list -v v");
    let shown = place.succeeds("remove -v v -t ./d/sub/ -t d/one");
    assert!(shown.contains("removed from v, snapshot 2\n") && shown.contains("2 files, 1 directory"), "{shown}");
    assert_eq!(place.succeeds("list -v v"), "d\nd/two\n");
    assert_eq!(place.succeeds("list -v v --at 1"), before);
    place.succeeds("extract -v v -o out --at 1");
    assert_eq!(place.bytes("out/d/one"), b"the first");
    place.succeeds("verify -v v");
}

#[test]
fn what_is_not_there_cannot_be_removed() {
    let place = Place::new().with_vault();
    let before = place.bytes("v");
    let output = place.unlocked("remove -v v -t d/onee");
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).contains("no such entry: d/onee\nhint: there is d/one\n"), "{}", stderr(&output));
    assert!(place.bytes("v") == before, "the vault has changed");
    let output = place.unlocked("remove -v v -t d/onee -t d/two --json");
    assert_eq!(status(&output), 3, "{}", stderr(&output));
    let value = json_of(&output);
    assert_eq!((&value["command"], &value["snapshot"]), (&json!("remove"), &json!(2)));
    assert_eq!((&value["removed_files"], &value["removed_directories"]), (&json!(1), &json!(0)));
    assert_eq!((&value["errors"][0]["path"], &value["errors"][0]["kind"]), (&json!("d/onee"), &json!("not_found")));
}

#[test]
fn a_mirror_drops_what_is_gone_and_nothing_else_does() {
    let place = Place::new().with_vault();
    place.file("other", b"kept").succeeds("add -v v -s other");
    std::fs::remove_dir_all(place.path("d/sub")).expect("it is there");
    place.succeeds("add -v v -s d");
    assert!(place.succeeds("list -v v").contains("d/sub/three"));
    let shown = place.succeeds("add -v v -s d --mirror");
    assert!(shown.contains("removed       1 file, 1 directory"), "{shown}");
    assert_eq!(place.succeeds("list -v v"), "d\nd/one\nd/two\nother\n");
}
