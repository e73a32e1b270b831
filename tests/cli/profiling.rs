//! `profile`: what it refuses before it measures, what it says of what it measured, and what it is held to.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Place, ended, first_line, heavy, json_of, status, stderr, stdout};

/// A small tree.
fn with_tree() -> Place {
    let place = Place::new();
    place.file("d/one", &heavy(2_000_000)).file("d/two", &[b'x'; 5000]).file("d/sub/three", b"");
    place
}

fn names(place: &Place) -> Vec<String> {
    let entries = std::fs::read_dir(place.directory.path()).expect("it is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_would_fail_at_the_end_fails_before_anything_is_measured() {
    let place = with_tree();
    place.file("base.json", br#"{"schema_version":2,"kind":"profile"}"#).file("other.json", b"{}");
    for (options, code, words) in [
        ("--compare missing.json", 1, "cannot open: missing.json: "),
        ("--compare base.json", 2, "cannot compare with: base.json: its schema_version is 2"),
        ("--compare other.json", 2, "cannot compare with: other.json: it is no saved profile"),
        ("--compare d", 1, "cannot read: d: "),
        ("--save missing/base.json", 1, "cannot write: missing/base.json: "),
        ("--save d", 1, "a directory is in the way: d\n"),
        ("--exclude-from missing", 1, "cannot open: missing: "),
    ] {
        let output = place.run(&format!("profile -s d --time 1s {options}"));
        assert_eq!(status(&output), code, "{options}: {}", stderr(&output));
        assert!(stderr(&output).starts_with(&format!("flint-pipe: error: {words}")), "{options}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{options}");
    }
    assert_eq!(names(&place), ["base.json", "d", "other.json"]);
}

#[test]
fn wrong_usage_prints_no_object() {
    let place = with_tree();
    place.file("other.json", b"{}");
    for line in ["profile -s d --json --compare other.json", "profile -v v --sweep --json", "profile --json"] {
        let output = place.run(line);
        assert_eq!((status(&output), stdout(&output).as_str()), (2, ""), "{line}: {}", stderr(&output));
    }
}

#[test]
fn a_vault_is_looked_for_before_its_password_and_opened_with_the_right_one() {
    let place = Place::new().with_vault();
    assert_eq!(status(&place.run("profile -v missing --time 1s")), 10);
    let output = place.command().env("FLINT_PASSWORD", "wrong").args(["profile", "-v", "v"]).output().expect("it runs");
    assert_eq!(status(&output), 12, "{}", stderr(&output));
}

#[test]
fn an_empty_tree_is_nothing_to_measure() {
    let place = Place::new();
    std::fs::create_dir(place.path("empty")).expect("a directory");
    let output = place.run("profile -s empty --time 1s");
    assert_eq!(status(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing to measure"), "{}", stderr(&output));
}

#[test]
fn a_source_that_is_not_there_is_named_and_alone_it_is_a_failure() {
    let place = with_tree();
    let output = place.run("profile -s dd --time 1s");
    assert_eq!(status(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("dd") && stderr(&output).contains("hint: there is d\n"), "{}", stderr(&output));
    let output = place.run("profile -s dd -s d --time 8s");
    assert_eq!(status(&output), 3, "{}", stderr(&output));
    assert!(stdout(&output).contains("failed        1 error, each named above\n"), "{}", stdout(&output));
}

#[test]
fn packing_is_measured_without_a_password_and_without_leaving_anything() {
    let place = with_tree();
    let output = place.run("profile -s d --time 1s");
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
    let text = stdout(&output);
    for words in
        ["profiled packing d\n", "3 files, 2 directories", "into nothing", "rounds", "speed", "stage", "compress"]
    {
        assert!(text.contains(words), "{words} in {text}");
    }
    let output = place.run("profile -s d --time 1s --to . --cold");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(
        stdout(&output).contains("onto the disk of .") && stdout(&output).contains("cold: "),
        "{}",
        stdout(&output)
    );
    assert_eq!(names(&place), ["d"]);
}

#[test]
fn a_dry_run_says_with_what_it_would_be_measured_and_measures_nothing() {
    let place = with_tree().with_vault();
    for line in ["profile -s d -n --workers 3", "profile -v v --dry-run --workers 3", "profile -v v -n -w 3 --to ."] {
        let text = place.succeeds(line);
        assert!(text.starts_with("would have profiled "), "{text}");
        assert!(text.contains("(dry run: nothing is measured)\n") && text.contains("  would measure "), "{text}");
        assert!(text.contains("  read             3 ") && text.contains("as asked for"), "{text}");
        assert!(!text.contains("rounds"), "{text}");
    }
    for (line, code) in [("profile -s missing -n", 1), ("profile -v missing -n", 10)] {
        let output = place.run(line);
        assert_eq!((status(&output), stdout(&output).as_str()), (code, ""), "{line}");
        assert!(stderr(&output).ends_with(": missing\n") || code == 10, "{}", stderr(&output));
    }
    for line in ["profile -s d -n --json", "profile -s d -n --save f", "profile -s d -n --compare f"] {
        assert_eq!(status(&place.run(line)), 2, "{line}");
    }
}

#[test]
fn the_way_out_is_measured_without_leaving_anything_or_changing_the_vault() {
    let place = Place::new().with_vault();
    let before = place.bytes("v");
    for options in ["", " --to ."] {
        let text = place.succeeds(&format!("profile -v v --time 1s{options}"));
        assert!(text.contains("profiled unpacking v\n") && text.contains("decompress"), "{text}");
    }
    assert_eq!((names(&place), place.bytes("v") == before), (vec!["d".to_owned(), "v".to_owned()], true));
}

#[test]
fn rooflines_and_sweeps_are_tables_with_what_to_take() {
    let place = with_tree();
    let output = place.run("profile -s d --time 2s --roofline --sweep");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    for words in ["alone, on one core", "reached", "level  workers", "predictions", "flint-pipe add ... --level"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn a_saved_profile_is_what_json_prints_and_can_be_compared_with() {
    let place = with_tree();
    let output = place.run("profile -s d --time 1s --save base.json --json");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert_eq!(output.stdout, place.bytes("base.json"));
    let value = json_of(&output);
    assert_eq!(
        (&value["kind"], &value["unpack"], &value["comparison"]),
        (&json!("profile"), &json!(false), &Value::Null)
    );

    let output = place.run("profile -s d --time 1s --compare base.json --threshold 99% --level 1");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("compared with base.json\n") && text.contains("level: 3 then, 1 now"), "{text}");

    let output = place.unlocked("profile -v v --compare base.json");
    assert_eq!(status(&output), 2, "{}", stderr(&output));
    assert!(stderr(&output).contains("it is one of the way into a vault"), "{}", stderr(&output));
}

#[test]
fn slower_than_a_saved_profile_by_more_than_the_threshold_is_a_failure_and_not_saved_over_it() {
    let place = with_tree();
    assert_eq!(status(&place.run("profile -s d --time 1s --save base.json")), 0);
    let mut base: Value = serde_json::from_slice(&place.bytes("base.json")).expect("an object");
    base["median"]["throughput_bytes_per_sec"] = json!(u64::MAX);
    place.file("base.json", base.to_string().as_bytes());
    let before = place.bytes("base.json");
    let output = place.run("profile -s d --time 1s --compare base.json --save base.json --json");
    assert_eq!(status(&output), 1, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("flint-pipe: error: slower than a saved profile: base.json: "), "{said}");
    assert!(said.contains("flint-pipe: note: nothing is saved, since it is slower: base.json\n"), "{said}");
    let value = json_of(&output);
    assert_eq!((&value["exit_code"], &value["comparison"]["slower"]), (&json!(1), &json!(true)));
    assert!(value["error"].as_str().is_some_and(|error| error.starts_with("slower than a saved profile: ")));
    assert_eq!(place.bytes("base.json"), before);
}

#[test]
fn what_was_measured_until_an_interruption_is_shown() {
    let place = with_tree();
    place.file("d/much", &heavy(20_000_000));
    let mut child = place.spawn("profile -s d --time 10m --sweep --progress=plain --save base.json");
    // The first line of progress comes after seconds: a round is over by then, and the sweep is not.
    first_line(child.stderr.take().expect("it is piped"));
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is running");
    let output = ended(child, Duration::from_secs(60));
    assert_eq!(status(&output), 130);
    assert!(stdout(&output).contains("profiled packing d\n"), "{}", stdout(&output));
    assert!(!place.path("base.json").exists());
}
