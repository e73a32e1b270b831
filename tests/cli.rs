//! The command line from outside: what it refuses, what it prints, and the status it ends with. That trees come back as
//! they were is with the behaviours.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use flint_pipe::{FileStorage, Lock, LockMode, Storage as _};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery staple";

/// A vault's directory, and the program started in it without any password and any terminal.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flint-pipe"));
        command
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .timeout(Duration::from_secs(60));
        command
    }

    /// Runs the program with a password in its environment.
    fn unlocked(&self, line: &str) -> Output {
        self.command().env("FLINT_PASSWORD", PASSWORD).args(line.split_whitespace()).output().expect("it starts")
    }

    /// The same, and expects it to succeed.
    fn succeeds(&self, line: &str) -> String {
        let output = self.unlocked(line);
        assert_eq!(status(&output), 0, "{line}: {}", stderr(&output));
        stdout(&output)
    }

    /// The program, to be started and left running.
    fn spawn(&self, line: &str) -> std::process::Child {
        std::process::Command::new(env!("CARGO_BIN_EXE_flint-pipe"))
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("FLINT_PASSWORD", PASSWORD)
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts")
    }

    /// A tree and a vault `v` of it.
    fn with_vault(self) -> Self {
        self.file("d/one", b"the first")
            .file("d/two", &[b'x'; 5000])
            .file("d/sub/three", b"")
            .succeeds("add -v v -s d");
        self
    }

    fn file(&self, name: &str, content: &[u8]) -> &Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("it lies in the place")).expect("its directory");
        std::fs::write(path, content).expect("a small file");
        self
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut file = std::fs::OpenOptions::new().read(true).open(self.path(name)).expect("it is there");
        std::io::Read::read_to_end(&mut file, &mut bytes).expect("it is read");
        bytes
    }

    /// Runs the program with these arguments, between blanks.
    fn run(&self, line: &str) -> Output {
        self.command().args(line.split_whitespace()).output().expect("the program starts")
    }

    /// A file that is in the vault's place.
    fn with_file(self, name: &str) -> Self {
        std::fs::write(self.path(name), b"not a vault").expect("a small file");
        self
    }
}

fn status(output: &Output) -> i32 {
    output.status.code().expect("the program ends by itself")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the result is UTF-8")
}

#[test]
fn help_and_version_go_to_standard_output_and_end_with_0() {
    let place = Place::new();
    for line in ["--help", "-h", "help", "help add", "add --help", "extract -h", "--version", "-V"] {
        let output = place.run(line);
        assert_eq!(status(&output), 0, "{line}");
        assert!(stdout(&output).contains("flint-pipe"), "{line}");
        assert_eq!(stderr(&output), "", "{line}");
    }
}

#[test]
fn the_help_shows_every_exit_status() {
    let help = stdout(&Place::new().run("--help"));
    for code in ["0", "1", "2", "3", "10", "11", "12", "13", "14", "130"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{code}  "))), "{code}");
    }
}

#[test]
fn wrong_usage_ends_with_2_and_prints_no_result() {
    let place = Place::new().with_file("v");
    for line in [
        "",
        "destroy -v v",
        "add -v v",
        "add -s a",
        "add -v v -s a --miror",
        "extract -v v",
        "extract -v v -o out --overwrite sometimes",
        "extract -v v -o out --files ,",
        "extract -v v -o out --scan-workers 2",
        "get -v v",
        "get -v v -t a --stdout --json",
        "get -v v -t a --stdout -o out",
        "get -v v -t a -t b --stdout",
        "list",
        "list -v v --snapshots --long",
        "list -v v --snapshots a",
        "list -v v --at first",
        "verify -v v --write-workers 2",
        "verify -v v --progress=sometimes",
        "info",
        "info -v v --long",
    ] {
        let output = place.run(line);
        assert_eq!(status(&output), 2, "{line}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{line}");
        assert!(!stderr(&output).is_empty(), "{line}");
    }
}

#[test]
fn a_value_out_of_range_is_named_with_the_range() {
    let place = Place::new().with_file("v");
    for (option, value, range) in [
        ("--read-workers", "0", "1 to 1024"),
        ("--read-workers", "1025", "1 to 1024"),
        ("--scan-workers", "99999", "1 to 1024"),
        ("--encrypt-workers", "many", "1 to 1024"),
        ("--workers", "1025", "0 (auto) to 1024"),
        ("--queue-depth", "0", "1 to 65536"),
        ("--chunk-size", "255K", "256K to 16M"),
        ("--chunk-size", "17M", "256K to 16M"),
        ("--level", "23", "-7 to 22"),
        ("--level", "-8", "-7 to 22"),
        ("--level", "best", "-7 to 22"),
        ("--timeout", "soon", "90s"),
        ("--stall-timeout", "5", "90s"),
        ("--lock-timeout", "1", "90s"),
        ("--memory", "0", "0"),
        ("--read-mode", "fast", "auto, mmap, read"),
    ] {
        let output = place.run(&format!("add -v v -s a {option} {value}"));
        assert_eq!(status(&output), 2, "{option} {value}");
        let text = stderr(&output);
        assert!(text.contains(&format!("'{value}'")) && text.contains(range), "{option} {value}: {text}");
        assert!(text.contains(option), "{option} {value}: {text}");
    }
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let place = Place::new().with_file("v");
    for (line, word) in [
        ("add -v v -s a --report=a.html", "--report"),
        ("verify -v v --read-data-subset 5%", "--read-data-subset"),
        ("compact -v v", "compact"),
        ("key add -v v", "key"),
    ] {
        let output = place.run(line);
        assert_eq!(status(&output), 2, "{line}");
        assert_eq!(stderr(&output), format!("flint-pipe: error: not yet: {word}\n"), "{line}");
        assert_eq!(stdout(&output), "", "{line}");
    }
    assert!(!place.path("w").exists());
}

#[test]
fn without_a_password_and_a_terminal_all_the_ways_are_named() {
    let place = Place::new().with_file("v");
    for line in [
        "create -v w",
        "add -v w -s a",
        "add -v v -s a",
        "extract -v v -o o",
        "get -v v -t a",
        "list -v v",
        "verify -v v",
    ] {
        let output = place.run(line);
        assert_eq!(status(&output), 2, "{line}");
        for way in ["--password-file", "--password-command", "FLINT_PASSWORD_FILE", "FLINT_PASSWORD_COMMAND"] {
            assert!(stderr(&output).contains(way), "{line}: {}", stderr(&output));
        }
    }
    assert!(!place.path("w").exists());
}

#[test]
fn a_vault_that_is_not_there_is_missed_before_a_password_is_asked_for() {
    let place = Place::new();
    for line in [
        "add -v v -s a --no-create",
        "extract -v v -o o",
        "get -v v -t a",
        "get -v v -t a --stdout",
        "list -v v",
        "list -v v --snapshots",
        "verify -v v",
        "info -f v",
    ] {
        let output = place.run(line);
        assert_eq!(status(&output), 10, "{line}");
        let text = stderr(&output);
        assert!(text.starts_with("flint-pipe: error: no vault: v\n"), "{line}: {text}");
        assert!(text.contains("hint: flint-pipe create -v v"), "{line}: {text}");
        assert_eq!(stdout(&output), "", "{line}");
    }
}

#[test]
fn create_refuses_a_path_that_is_taken() {
    let place = Place::new().with_file("v");
    let output = place.run("create -f v");
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).starts_with("flint-pipe: error: exists already: v\n"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(place.path("v")).expect("it is there"), "not a vault");
}

#[test]
fn an_empty_password_is_refused() {
    let place = Place::new().with_file("empty");
    std::fs::write(place.path("empty"), "\nsecond line\n").expect("a small file");
    for option in ["--password-file empty", "--password-file -", "--password-command true"] {
        let output = place.run(&format!("create -v w {option}"));
        assert_eq!(status(&output), 1, "{option}");
        assert!(stderr(&output).contains("an empty password is refused"), "{option}: {}", stderr(&output));
    }
    let output = place.command().args(["create", "-v", "w"]).env("FLINT_PASSWORD", "").output().expect("it starts");
    assert_eq!(status(&output), 1);
    assert!(!place.path("w").exists());
}

#[test]
fn a_password_that_cannot_be_fetched_is_an_error_and_its_command_is_not_printed() {
    let place = Place::new();
    let output = place.run("create -v w --password-file missing");
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).starts_with("flint-pipe: error: cannot open: missing: "), "{}", stderr(&output));

    let mut command = place.command();
    let output = command.args(["create", "-v", "w", "--password-command", "echo secret; exit 7"]).output();
    let output = output.expect("it starts");
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).contains("exit status: 7"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("secret"), "{}", stderr(&output));
    assert!(!place.path("w").exists());
}

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
fn messages_have_no_colour_where_nobody_would_see_it() {
    let output = Place::new().run("verify -v v");
    assert!(!output.stderr.contains(&0x1b), "{}", stderr(&output));
}

/// Text that a high level spends long on.
fn heavy(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(format!("{:x} ", state >> 48).as_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn json_of(output: &Output) -> Value {
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "one line: {}", stdout(output));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
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
        assert_eq!((&value["bottleneck"], &value["errors"]), (&Value::Null, &json!([])), "{line}");
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

#[test]
fn a_reader_that_goes_away_ends_get_quietly() {
    let place = Place::new();
    place.file("large", &heavy(8_000_000));
    place.succeeds("add -v v -s large");
    let mut child = place.spawn("get -v v -t large --stdout");
    let mut first = [0; 10];
    let mut pipe = child.stdout.take().expect("it is piped");
    std::io::Read::read_exact(&mut pipe, &mut first).expect("ten bytes come");
    drop(pipe);
    let output = ended(child, Duration::from_secs(20));
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
    assert_eq!(first[..], heavy(10)[..]);
    let mut child = place.spawn("list -v v --json");
    drop(child.stdout.take());
    let output = ended(child, Duration::from_secs(20));
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
}

/// Waits for a program, and ends it if that takes too long.
fn ended(mut child: std::process::Child, limit: Duration) -> Output {
    let began = Instant::now();
    while child.try_wait().expect("it can be waited for").is_none() {
        if began.elapsed() > limit {
            child.kill().expect("it can be ended");
            panic!("it has not ended after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("it has ended")
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

#[test]
fn a_vault_belongs_to_its_owner_alone() {
    let place = Place::new().with_vault();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(place.path("v")).expect("it is there"));
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_wrong_password_ends_with_12() {
    let place = Place::new().with_vault();
    place.file("wrong", b"not this one\n");
    let before = place.bytes("v");
    for line in ["add -v v -s d", "extract -v v -o o", "get -v v -t d/one --stdout", "list -v v", "verify -v v"] {
        let output = place.unlocked(&format!("{line} --password-file wrong"));
        assert_eq!((status(&output), stdout(&output).as_str()), (12, ""), "{line}");
        let text = stderr(&output);
        assert!(text.starts_with("flint-pipe: error: wrong password: v\n") && text.contains("hint:"), "{line}: {text}");
    }
    let output = place.unlocked("verify -v v --password-file wrong --json");
    assert_eq!((status(&output), json_of(&output)["exit_code"].clone()), (12, json!(12)));
    assert!(place.bytes("v") == before);
    assert!(!place.path("o").exists());
}

#[test]
fn passwords_come_from_the_first_of_the_ways_in_order() {
    let place = Place::new().with_vault();
    place.file("right", format!("{PASSWORD}\nmore\n").as_bytes()).file("wrong", b"wrong\n");
    let run = |line: &str, variables: &[(&str, &str)]| {
        let mut command = place.command();
        command.args(line.split_whitespace()).envs(variables.iter().copied()).write_stdin(format!("{PASSWORD}\n"));
        status(&command.output().expect("it starts"))
    };
    let all_wrong =
        [("FLINT_PASSWORD", "wrong"), ("FLINT_PASSWORD_FILE", "wrong"), ("FLINT_PASSWORD_COMMAND", "echo wrong")];
    assert_eq!(run("list -v v --password-file right", &all_wrong), 0);
    assert_eq!(run("list -v v --password-file -", &all_wrong), 0);
    let output =
        place.command().args(["list", "-v", "v", "--password-command", "cat right"]).output().expect("it starts");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert_eq!(run("list -v v", &[("FLINT_PASSWORD_FILE", "right"), ("FLINT_PASSWORD", "wrong")]), 0);
    assert_eq!(run("list -v v", &[("FLINT_PASSWORD_COMMAND", "cat right"), ("FLINT_PASSWORD", "wrong")]), 0);
    assert_eq!(run("list -v v", &[("FLINT_PASSWORD_FILE", "right"), ("FLINT_PASSWORD_COMMAND", "echo wrong")]), 0);
    assert_eq!(run("list -v v", &[("FLINT_PASSWORD", PASSWORD)]), 0);
    assert_eq!(run("list -v v", &all_wrong), 12);
    // A password may be any bytes but a line end.
    std::fs::write(place.path("bytes"), b"\xff\xfe \x00x\n").expect("a small file");
    assert_eq!(status(&place.run("create -v w --password-file bytes")), 0);
    assert_eq!(status(&place.run("verify -v w --password-file bytes")), 0);
    assert_eq!(status(&place.run("verify -v w --password-file wrong")), 12);
}

#[test]
fn damage_ends_with_13_and_what_is_whole_is_restored() {
    let place = Place::new();
    let noise: Vec<u8> = heavy(2_000_000);
    place.file("d/a", &noise).file("d/b", &noise[..1_500_000]);
    place.succeeds("add -v v -s d --level store --chunk-size 256K");
    let mut bytes = place.bytes("v");
    let middle = bytes.len() / 4;
    bytes[middle] ^= 1;
    place.file("v", &bytes);
    let output = place.unlocked("verify -v v --json");
    assert_eq!(status(&output), 13);
    let value = json_of(&output);
    assert_eq!((&value["exit_code"], &value["errors"][0]["kind"]), (&json!(13), &json!("damaged")));
    assert_eq!(value["errors"][0]["path"], "d/a");
    assert!(stderr(&output).contains("d/a"), "{}", stderr(&output));
    let output = place.unlocked("extract -v v -o out");
    assert_eq!(status(&output), 13);
    assert!(stderr(&output).contains("d/a") && !place.path("out/d/a").exists());
    assert!(place.bytes("out/d/b") == noise[..1_500_000]);
    assert_eq!(status(&place.unlocked("verify -v v --quick")), 0);
    let output = place.unlocked("get -v v -t d/a --stdout");
    assert_eq!(status(&output), 13);
    assert!(noise.starts_with(&output.stdout));

    bytes[middle] ^= 1;
    bytes[40_000] ^= 1;
    place.file("v", &bytes);
    assert_eq!(status(&place.unlocked("verify -v v")), 13, "a bad spare copy is damage to verify");
    let output = place.unlocked("list -v v");
    assert_eq!(status(&output), 0, "and nothing to the others: {}", stderr(&output));
    place.file("v", &bytes[..50_000]);
    assert_eq!(status(&place.unlocked("list -v v")), 13);
    place.file("v", b"not a vault");
    assert_eq!(status(&place.unlocked("list -v v")), 13);
}

#[test]
fn a_locked_vault_ends_with_11_past_the_time_to_wait() {
    let place = Place::new().with_vault();
    let before = place.bytes("v");
    for lock in [Lock::Presence, Lock::Commit] {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(place.path("v")).expect("it is there");
        let other = FileStorage::new(file);
        assert!(other.try_lock(lock, LockMode::Exclusive).expect("it can be locked"));
        for time in ["0", "300ms"] {
            let output = place.unlocked(&format!("add -v v -s d --lock-timeout {time} --json"));
            assert_eq!(status(&output), 11, "{lock:?} {time}: {}", stderr(&output));
            assert!(stderr(&output).contains("--lock-timeout"), "{}", stderr(&output));
            assert_eq!(json_of(&output)["exit_code"], 11);
        }
        // Readers do not ask.
        place.succeeds("verify -v v");
        // Without a limit the run waits, and says so.
        let child = place.spawn("add -v v -s d");
        std::thread::sleep(Duration::from_millis(1500));
        drop(other);
        let output = ended(child, Duration::from_secs(20));
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        assert!(stderr(&output).contains("waiting"), "{}", stderr(&output));
        place.file("v", &before);
    }
}

#[test]
fn a_deadline_ends_with_14_and_leaves_the_vault_as_it_was() {
    let place = Place::new().with_vault();
    place.file("heavy", &heavy(30_000_000));
    let before = place.bytes("v");
    let output = place.unlocked("add -v v -s heavy --level 22 --timeout 1s --json");
    assert_eq!(status(&output), 14, "{}", stderr(&output));
    let value = json_of(&output);
    assert_eq!((&value["exit_code"], &value["snapshot"]), (&json!(14), &Value::Null));
    assert!(value["error"].as_str().is_some_and(|error| error.contains("deadline")), "{value}");
    assert!(place.bytes("v") == before, "the vault has changed");
    place.succeeds("verify -v v");
}

#[test]
fn a_run_that_nobody_reads_from_is_stalled_and_ends_with_14() {
    let place = Place::new();
    place.file("large", &heavy(8_000_000));
    place.succeeds("add -v v -s large");
    let mut child = place.spawn("get -v v -t large --stdout --stall-timeout 500ms");
    // Held open and never read.
    let pipe = child.stdout.take();
    let output = ended(child, Duration::from_secs(20));
    drop(pipe);
    assert_eq!(status(&output), 14, "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing moved"), "{}", stderr(&output));
}

#[test]
fn signals_end_a_run_with_130_and_leave_the_vault_as_it_was() {
    use rustix::process::{Pid, Signal, kill_process};
    let place = Place::new().with_vault();
    place.file("heavy", &heavy(60_000_000));
    let before = place.bytes("v");
    for (signal, vault) in [(Signal::INT, "v"), (Signal::TERM, "v"), (Signal::INT, "new")] {
        let child = place.spawn(&format!("add -v {vault} -s heavy --level 19 --chunk-size 512K --json"));
        std::thread::sleep(Duration::from_millis(1500));
        let pid = Pid::from_child(&child);
        kill_process(pid, signal).expect("it is running");
        let pulled = Instant::now();
        let output = ended(child, Duration::from_secs(20));
        assert!(pulled.elapsed() < Duration::from_secs(4), "{:?} from signal to end", pulled.elapsed());
        assert_eq!(status(&output), 130, "{}", stderr(&output));
        assert!(stderr(&output).contains("flint-pipe: error: interrupted"), "{}", stderr(&output));
        let value = json_of(&output);
        assert_eq!((&value["exit_code"], &value["error"]), (&json!(130), &json!("interrupted")));
        assert!(place.bytes("v") == before, "the vault has changed");
    }
    assert!(!place.path("new").exists(), "a vault that was made for a run that was interrupted is taken away");
    place.succeeds("verify -v v");
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn no_space_ends_with_1_and_the_space_is_given_back() {
    let place = Place::new();
    place.file("noise", &heavy(9_000_000)).file("small", b"x");
    std::fs::create_dir(place.path("disk")).expect("a mount point");
    let program = env!("CARGO_BIN_EXE_flint-pipe");
    let script = format!(
        "mount -t tmpfs -o size=4m tmpfs disk || exit 77
         {program} add -v disk/v -s small >/dev/null || exit 70
         cp disk/v before; before=$(stat -c %b disk/v)
         {program} add -v disk/v -s noise --level store; [ $? = 1 ] || exit 71
         cmp disk/v before || exit 72
         [ $(stat -c %b disk/v) -le $before ] || exit 73
         {program} verify -v disk/v >/dev/null || exit 74
         {program} add -v disk/w -s noise --level store; [ $? = 1 ] || exit 75
         [ ! -e disk/w ] || exit 76
         {program} add -v disk/v -s small >/dev/null || exit 78"
    );
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(place.directory.path())
        .env("FLINT_PASSWORD", PASSWORD)
        .output();
    match output {
        Ok(output) if status(&output) == 0 => {
            assert!(stderr(&output).contains("No space left"), "{}", stderr(&output));
        }
        Ok(output) if status(&output) != 77 && !stderr(&output).starts_with("unshare") => {
            panic!("step {}: {}", status(&output), stderr(&output));
        }
        _ => eprintln!("skipped: no file system can be mounted here"),
    }
}

#[test]
fn a_limit_on_file_sizes_is_a_failed_write_and_no_death() {
    let place = Place::new().with_vault();
    place.file("noise", &heavy(9_000_000));
    let before = place.bytes("v");
    let output = std::process::Command::new("prlimit")
        .args([
            "--fsize=3000000",
            env!("CARGO_BIN_EXE_flint-pipe"),
            "add",
            "-v",
            "v",
            "-s",
            "noise",
            "--level",
            "store",
        ])
        .current_dir(place.directory.path())
        .env("FLINT_PASSWORD", PASSWORD)
        .output();
    let output = output.expect("prlimit is a part of util-linux");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("File too large"), "{}", stderr(&output));
    assert!(place.bytes("v") == before, "the vault has changed");
}

#[test]
fn too_little_memory_is_wrong_usage_and_says_what_would_do() {
    let place = Place::new().with_vault();
    let output = place.unlocked("add -v v -s d --memory 10M");
    assert_eq!(status(&output), 2);
    let text = stderr(&output);
    let least = text.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it names the least");
    place.succeeds(&format!("add -v v -s d --memory {least}"));
}

#[test]
fn progress_goes_to_standard_error_and_the_result_to_standard_output() {
    let place = Place::new();
    place.file("heavy", &heavy(3_000_000));
    let output = place.unlocked("add -v v -s heavy --progress=plain --json");
    assert_eq!(status(&output), 0);
    json_of(&output);
    let output = place.unlocked("extract -v v -o out --progress=never");
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
    assert!(stdout(&output).contains("restored from v to out, snapshot 1"), "{}", stdout(&output));
}

#[test]
fn a_result_that_cannot_be_printed_is_a_failure() {
    let place = Place::new().with_vault();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_flint-pipe"))
        .args(["list", "-v", "v"])
        .current_dir(place.directory.path())
        .env("FLINT_PASSWORD", PASSWORD)
        .stdout(Stdio::from(full))
        .output()
        .expect("it starts");
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).contains("No space left"), "{}", stderr(&output));
}

#[test]
fn the_password_is_nowhere_in_the_vault_nor_in_what_is_printed() {
    let place = Place::new().with_vault();
    let vault = place.bytes("v");
    let contains = |bytes: &[u8]| bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes());
    assert!(!contains(&vault));
    for word in [&b"the first"[..], b"d/one", b"three"] {
        assert!(!vault.windows(word.len()).any(|window| window == word), "names and content are sealed");
    }
    for line in ["list -v v --snapshots --json", "info -v v", "verify -v v --json"] {
        let output = place.unlocked(line);
        assert!(!contains(&output.stdout) && !contains(&output.stderr), "{line}");
    }
}
