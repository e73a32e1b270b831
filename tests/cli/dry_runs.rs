//! Dry runs: what would be done is said, with the plan, and nothing is written.

use serde_json::json;

use crate::support::{Place, json_of, status, stderr, stdout};

/// Every name below the place, with its bytes.
fn everything(place: &Place) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut directories = vec![place.directory.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(place.directory.path()).expect("it lies in the place").to_owned();
            if path.is_dir() {
                directories.push(path);
                found.push((name, None));
            } else {
                let bytes = place.bytes(name.to_str().expect("names of tests are UTF-8"));
                found.push((name, Some(bytes)));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn nothing_is_written_and_the_plan_is_told() {
    let place = Place::new().with_vault();
    place.file("d/new", b"added since");
    let before = everything(&place);
    for (line, title) in [
        ("add -v v -s d", "would add to v"),
        ("add -v new -s d", "would add to new"),
        ("add -v v -s d --mirror --force-read", "would add to v"),
        ("extract -v v -o out", "would restore from v to out"),
        ("extract -v v -o . --overwrite if-changed", "would restore from v to ."),
        ("get -v v -t d/one -o out", "would restore from v to out"),
        ("verify -v v", "would verify v"),
    ] {
        for option in ["-n", "--dry-run"] {
            let shown = place.succeeds(&format!("{line} {option}"));
            assert!(shown.starts_with(title) && shown.contains("nothing is written"), "{line}: {shown}");
            for words in ["threads", "queue", "chunk size", "buffers", "peak memory"] {
                assert!(shown.contains(words), "{words} in {line}: {shown}");
            }
        }
        let output = place.unlocked(&format!("{line} -n --json"));
        assert_eq!(status(&output), 0, "{line}: {}", stderr(&output));
        let value = json_of(&output);
        assert_eq!(value["dry_run"], json!(true), "{line}");
        assert!(value["plan"]["workers"]["read"].as_u64().is_some_and(|count| count > 0), "{line}: {value}");
        assert!(value["plan"]["peak_memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{line}: {value}");
        assert!(everything(&place) == before, "{line} has written something");
    }
}

#[test]
fn what_would_be_done_is_what_is_done_then() {
    let place = Place::new().with_vault();
    place.file("d/new", b"added since");
    std::fs::remove_file(place.path("d/two")).expect("it is there");
    for line in ["add -v v -s d --mirror", "extract -v v -o out", "remove -v v -t d/sub"] {
        let foretold = json_of(&place.unlocked(&format!("{line} -n --json")));
        let done = json_of(&place.unlocked(&format!("{line} --json")));
        assert_eq!(done["dry_run"], json!(false), "{line}");
        for field in
            ["total_files", "successful_files", "unchanged_files", "directories", "removed_files", "total_size"]
        {
            assert_eq!(foretold[field], done[field], "{line}: {field}");
        }
    }
}

#[test]
fn what_would_fail_fails_in_a_dry_run_too() {
    let place = Place::new().with_vault();
    for (line, code) in [
        ("create -v v", 1),
        ("create -v no/such/directory/v", 1),
        ("create -v w --kdf-memory 1M", 2),
        ("add -v v -s missing", 1),
        ("add -v v -s d -s missing", 3),
        ("add -v v -s d --memory 1M", 2),
        ("extract -v v -o out -t missing", 1),
        ("remove -v v -t missing", 1),
        ("verify -v missing", 10),
    ] {
        let output = place.unlocked(&format!("{line} -n"));
        assert_eq!(status(&output), code, "{line}: {}{}", stdout(&output), stderr(&output));
    }
    let output = place.unlocked("create -v w -n --kdf-memory 128M --kdf-time 4");
    assert!(stdout(&output).contains("128 MiB, 4 passes"), "{}", stdout(&output));
    assert!(!place.path("w").exists());
}
