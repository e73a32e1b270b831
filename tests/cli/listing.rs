//! Entries and snapshots, a line each.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Place, status, stderr};

#[test]
fn entries_are_listed_a_line_each() {
    let place = Place::new().with_vault();
    assert_eq!(place.succeeds("list -v v"), "d\nd/one\nd/sub\nd/sub/three\nd/two\n");
    assert_eq!(place.succeeds("list -v v d/sub/"), "d/sub\nd/sub/three\n");
    assert_eq!(place.succeeds("list -v v ./d/one d/sub/three"), "d/one\nd/sub/three\n");
    let long = place.succeeds("list -v v --long d/two");
    assert!(long.contains("-rw") && long.contains("5000") || long.contains("4.9 KiB"), "{long}");
    let output = place.unlocked("list -v v missing");
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).contains("no such entry: missing"), "{}", stderr(&output));
}

#[test]
fn entries_are_listed_as_json_with_the_fields_of_the_contract() {
    let place = Place::new();
    place.file("d/file", b"12345");
    std::os::unix::fs::symlink("file", place.path("d/link")).expect("a link");
    let odd = OsStr::from_bytes(b"d/\xff\n");
    std::fs::write(place.path("d").join(OsStr::from_bytes(b"\xff\n")), b"").expect("a file of an odd name");
    std::fs::set_permissions(place.path("d/file"), std::os::unix::fs::PermissionsExt::from_mode(0o4640))
        .expect("its mode");
    let time = std::time::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    let file = std::fs::OpenOptions::new().write(true).open(place.path("d/file")).expect("it is there");
    file.set_modified(time).expect("its time");
    place.succeeds("add -v v -s d");
    let lines = place.succeeds("list -v v --json");
    let listed: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!(listed.len(), 4);
    assert_eq!((&listed[0]["path"], &listed[0]["type"]), (&json!("d"), &json!("dir")));
    let file = &listed[1];
    assert_eq!((&file["path"], &file["type"], &file["size"]), (&json!("d/file"), &json!("file"), &json!(5)));
    assert_eq!((&file["mode"], &file["mtime"]), (&json!("4640"), &json!("2023-11-14T22:13:20.123456789Z")));
    assert!(file["uid"].is_u64() && file["gid"].is_u64() && file["user"].is_string() && file["group"].is_string());
    assert!(file.get("target").is_none() && file.get("path_bytes").is_none(), "{file}");
    assert_eq!((&listed[2]["type"], &listed[2]["target"]), (&json!("symlink"), &json!("file")));
    assert_eq!(listed[3]["path_bytes"], json!("ZC//Cg=="), "{odd:?}");
    // Escaped for people, a line each.
    assert_eq!(place.succeeds("list -v v").lines().last(), Some("d/\\xff\\x0a"));
}

#[test]
fn snapshots_are_listed_with_their_numbers() {
    let place = Place::new().with_vault();
    place.succeeds("add -v v -s d/one");
    let shown = place.succeeds("list -v v --snapshots");
    assert_eq!(shown.lines().count(), 2, "{shown}");
    let lines = place.succeeds("list -v v --snapshots --json");
    let mut numbers: Vec<u64> = lines
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("an object a line")["snapshot"].as_u64().expect("a number")
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(place.succeeds("list -v v --at 1"), place.succeeds("list -v v"));
    let output = place.unlocked("list -v v --at 7");
    assert_eq!(status(&output), 1);
    assert!(
        stderr(&output).contains("no snapshot 7") && stderr(&output).contains("--snapshots"),
        "{}",
        stderr(&output)
    );
}
