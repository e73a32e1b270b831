//! What a command says at its end: for people, and as JSON.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Place, json_of, status, stderr, stdout};

#[test]
fn a_failed_run_prints_its_json_object_and_wrong_usage_does_not() {
    let place = Place::new();
    for command in ["extract -o o", "get -t a", "verify", "add -s a --no-create"] {
        let output = place.run(&format!("{command} -v v --json"));
        assert_eq!(status(&output), 10, "{command}");
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(value["schema_version"], 1);
        assert_eq!(value["command"], command.split(' ').next().expect("a first word"));
        assert_eq!(value["vault"], "v");
        assert_eq!(value["exit_code"], 10);
        assert_eq!(value["error"], "no vault: v");
        assert_eq!(value["bottleneck"], serde_json::Value::Null);
        assert_eq!(value["errors"], serde_json::json!([]));
    }
    let place = place.with_file("v");
    let output = place.run("extract -v v -o o --json");
    assert_eq!((status(&output), stdout(&output).as_str()), (2, ""));
}

#[test]
fn names_in_messages_are_escaped_and_in_json_are_not() {
    let place = Place::new();
    let name = OsStr::from_bytes(b"a\x1b[31m\xff\xe2\x80\xae");
    let output = place.command().arg("verify").arg("-v").arg(name).arg("--json").output().expect("it starts");
    assert_eq!(status(&output), 10);
    assert!(
        stderr(&output).starts_with("flint-pipe: error: no vault: a\\x1b[31m\\xff\\u{202e}\n"),
        "{}",
        stderr(&output)
    );
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(value["vault"], Path::new(name).to_string_lossy().as_ref());
}

#[test]
fn add_says_what_it_did() {
    let place = Place::new();
    place.file("d/one", b"the first").file("d/two", &[b'x'; 5000]).file("d/sub/three", b"");
    let summary = place.succeeds("add -v v -s d");
    for words in
        ["added to v, snapshot 1", "3 files, 2 directories", "4.9 KiB", "duration", "speed", "workers", "compress"]
    {
        assert!(summary.contains(words), "{words} in {summary}");
    }
    let again = place.succeeds("add -v v -s d/one");
    assert!(again.contains("snapshot 2") && again.contains("1 file, 0 directories"), "{again}");
}

#[test]
fn a_successful_run_prints_the_json_object_of_the_contract() {
    let place = Place::new().with_vault();
    for (line, snapshot, files, stages) in [
        ("add -v v -s d --json", json!(2), 3, vec!["scan", "read", "compress", "encrypt", "write"]),
        ("extract -v v -o out --json", json!(2), 3, vec!["read", "decrypt", "decompress", "write"]),
        ("get -v v -t d/one -o got --json", json!(2), 1, vec!["read", "decrypt", "decompress", "write"]),
        ("verify -v v --json", Value::Null, 6, vec!["read", "decrypt", "decompress"]),
        ("verify -v v --at 1 --json", json!(1), 3, vec!["read", "decrypt", "decompress"]),
    ] {
        let output = place.unlocked(line);
        assert_eq!((status(&output), stderr(&output).as_str()), (0, ""), "{line}");
        let value = json_of(&output);
        assert_eq!(value["schema_version"], 1, "{line}");
        assert_eq!(value["command"], line.split(' ').next().expect("a first word"), "{line}");
        assert_eq!((&value["vault"], &value["exit_code"], &value["error"]), (&json!("v"), &json!(0), &Value::Null));
        assert_eq!(value["snapshot"], snapshot, "{line}");
        assert_eq!((&value["total_files"], &value["successful_files"]), (&json!(files), &json!(files)), "{line}");
        for field in ["failed_files", "unchanged_files", "changed_files"] {
            assert_eq!(value[field], 0, "{line} {field}");
        }
        for field in ["directories", "total_size", "stored_size", "throughput_bytes_per_sec", "peak_memory_bytes"] {
            assert!(value[field].is_u64(), "{line} {field}");
        }
        assert!(value["duration_secs"].as_f64().is_some_and(|time| time > 0.0), "{line}");
        // So little is over in a moment, on most days.
        assert!(value["bottleneck"].is_null() || value["bottleneck"]["reason"].is_string(), "{line}");
        assert_eq!(value["errors"], json!([]), "{line}");
        for stage in stages {
            assert!(value["workers"][stage].as_u64().is_some_and(|count| count > 0), "{line} {stage}");
            let figures = &value["stages"][stage];
            for field in ["chunks", "bytes_in", "bytes_out"] {
                assert!(figures[field].is_u64(), "{line} {stage} {field}");
            }
            for field in ["busy_secs", "cpu_secs", "wait_input_secs", "wait_output_secs", "wait_budget_secs"] {
                assert!(figures[field].as_f64().is_some_and(|time| time >= 0.0), "{line} {stage} {field}");
            }
            assert!(
                figures["utilization"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)),
                "{line} {stage}"
            );
            for field in ["p50", "p90", "p99", "p999", "max"] {
                assert!(figures["service_us"][field].is_number(), "{line} {stage} {field}");
            }
        }
    }
}

#[test]
fn what_could_not_be_stored_is_named_and_ends_with_3_or_alone_with_1() {
    let place = Place::new();
    place.file("f", b"x");
    let output = place.unlocked("add -v v -s missing -s f --json");
    assert_eq!(status(&output), 3);
    assert!(stderr(&output).contains("missing"), "{}", stderr(&output));
    let value = json_of(&output);
    assert_eq!((&value["exit_code"], &value["snapshot"], &value["error"]), (&json!(3), &json!(1), &Value::Null));
    assert_eq!((&value["successful_files"], &value["failed_files"]), (&json!(1), &json!(1)));
    assert_eq!((&value["errors"][0]["path"], &value["errors"][0]["kind"]), (&json!("missing"), &json!("not_found")));
    assert!(value["errors"][0]["message"].as_str().is_some_and(|message| message.starts_with("cannot ")));

    let output = place.unlocked("add -v w -s missing");
    assert_eq!(status(&output), 1);
    assert!(
        stderr(&output).contains("flint-pipe: error: ") && stderr(&output).contains("missing"),
        "{}",
        stderr(&output)
    );
    assert!(!place.path("w").exists(), "a vault that was made for nothing is taken away");
}

#[test]
fn what_a_vault_is_can_be_told_without_its_password() {
    let place = Place::new().with_vault();
    for line in ["info -v v", "info -f v"] {
        let output = place.run(line);
        assert_eq!((status(&output), stderr(&output).as_str()), (0, ""), "{line}");
        let text = stdout(&output);
        for word in ["version", "1", "Argon2id", "64"] {
            assert!(text.contains(word), "{word} in {text}");
        }
    }
}
