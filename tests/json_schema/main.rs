//! What the program prints for scripts, held against `docs/json-schema/`: every kind of line, at every exit code that has
//! one. A field that is not described, one that is missing, or one of another type fails.

mod schema;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use flint_pipe::{FileStorage, Lock, LockMode, Storage as _};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::schema::Schema;

const RESULT: &str = include_str!("../../docs/json-schema/result.schema.json");
const ENTRY: &str = include_str!("../../docs/json-schema/entry.schema.json");
const SNAPSHOT: &str = include_str!("../../docs/json-schema/snapshot.schema.json");
const KEY: &str = include_str!("../../docs/json-schema/key.schema.json");
const PROFILE: &str = include_str!("../../docs/json-schema/profile.schema.json");
const DOCUMENT: &str = include_str!("../../docs/JSON.md");

fn parsed(text: &str) -> Schema {
    Schema::parse(text).expect("a schema that the validator knows all of")
}

/// A directory that the program runs in, with a password in its environment.
struct Place {
    directory: tempfile::TempDir,
    result: Schema,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory"), result: parsed(RESULT) }
    }

    /// A tree `d` and a vault `v` of it.
    fn with_vault() -> Self {
        let place = Self::new();
        place.file("d/one", b"the first").file("d/two", &[b'x'; 5000]).file("d/sub/three", b"");
        place.result("add -v v -s d --json", 0);
        place
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
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

    /// The program with these arguments, which is killed if it hangs.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::from_std(self.program(line));
        command.timeout(Duration::from_secs(60));
        command
    }

    fn program(&self, line: &str) -> std::process::Command {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_flint-pipe"));
        program
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("FLINT_PASSWORD", "correct horse")
            .args(line.split_whitespace());
        program
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().expect("the program starts")
    }

    /// The result object of a command, which has to end with `status` and to print a line that is as the schema says.
    fn result(&self, line: &str, status: i32) -> Value {
        self.checked(line, &self.run(line), status)
    }

    fn checked(&self, line: &str, output: &Output, status: i32) -> Value {
        let messages = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{line}: {messages}");
        let mut objects = lines(output);
        let object = objects.pop().unwrap_or_else(|| panic!("{line}: no object; {messages}"));
        assert_eq!(objects, [] as [Value; 0], "{line}: one object");
        assert_eq!(self.result.complaints(&object), [] as [String; 0], "{line}: {object:#}");
        assert_eq!((&object["exit_code"], &object["vault"]), (&json!(status), &json!(vault_of(line))), "{line}");
        assert_eq!(Some(object["command"].as_str()), Some(line.split(" -").next()), "{line}");
        object
    }
}

/// The vault that a command line names.
fn vault_of(line: &str) -> &str {
    line.split("-v ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it names a vault")
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).expect("JSON is UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has an end");
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// Noise that takes a high level long, and that shrinks all the same.
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

#[test]
fn results_of_success_are_as_the_schema_says() {
    let place = Place::new();
    place.file("d/one", b"the first").file("d/two", &[b'x'; 5000]).file("d/sub/three", b"");
    place.file("new", b"new\n").file("newer", b"newer\n");
    let mut stages = Vec::new();
    let mut plans = 0;
    for line in [
        "create -v v --json",
        "add -v v -s d --json",
        "add -v v -s d --json --level store --workers 2 --chunk-size 256K",
        "extract -v v -o out --json",
        "extract -v v -o some --files d/sub/ --at 1 --json",
        "get -v v -t d/one -o got --json",
        "verify -v v --json",
        "verify -v v --quick --json",
        "verify -v v --at 1 --json",
        "recover -v v --json",
        "recover -v v --in-place --json",
        "recover -v v --output saved --json",
        "add -v v -s d/one --mirror --json",
        "remove -v v -t d/two -t d/sub --json",
        "create -v w --dry-run --json",
        "add -v v -s d --dry-run --json",
        "add -v w -s d --dry-run --json",
        "extract -v v -o dry -n --json",
        "get -v v -t d/one -o dry -n --json",
        "remove -v v -t d/one -n --json",
        "key add -v v --new-password-file new --label new -n --json",
        "key add -v v --new-password-file new --label new --json",
        "key passwd -v v --password-file new --new-password-file newer --json",
        "key remove -v v --label new -n --json",
        "key export -v v --output saved-header --json",
        "key remove -v v --label new --json",
        "key import -v v --input saved-header -n --json",
        "key import -v v --input saved-header --json",
    ] {
        let before = place.path("v").exists().then(|| place.bytes("v"));
        let result = place.result(line, 0);
        stages.extend(result["stages"].as_object().expect("an object").keys().cloned());
        let is_dry = line.contains("-n ") || line.contains("--dry-run");
        assert_eq!(result["dry_run"], is_dry, "{line}");
        assert!(!is_dry || before.is_some_and(|before| before == place.bytes("v")), "{line}: the vault has changed");
        if is_dry && ["add", "extract", "get"].iter().any(|command| line.starts_with(command)) {
            plans += 1;
            assert!(result["plan"].is_object(), "{line}");
        }
        if !is_dry {
            let is_expected = line.starts_with("verify") && !line.contains("--at");
            assert_eq!(result.get("unreferenced_bytes").is_some(), is_expected, "{line}");
        }
        let has_key = line.starts_with("key ") && !line.starts_with("key export");
        assert_eq!(result.get("key").is_some_and(Value::is_u64), has_key, "{line}");
        if line.starts_with("remove") {
            assert_ne!(result["removed_files"], 0, "{line}");
        }
    }
    assert_eq!(plans, 4);
    assert!(!place.path("w").exists() && !place.path("dry").exists());
    // Nothing of the schema about stages was passed over because there were none.
    for stage in ["scan", "read", "compress", "encrypt", "write", "plan", "decrypt", "decompress"] {
        assert!(stages.iter().any(|name| name == stage), "{stage}");
    }
}

#[test]
fn results_of_partial_success_and_of_each_failure_are_as_the_schema_says() {
    let place = Place::with_vault();
    assert_eq!(place.result("add -v v -s missing -s d --json", 3)["errors"][0]["kind"], "not_found");
    place.result("add -v v -s missing --json", 1);
    place.result("create -v v --json", 1);
    place.result("extract -v v -o out --files nothing/here --json", 1);
    place.result("extract -v v -o out --at 77 --json", 1);
    place.result("extract -v v -o out --files nothing/here,d/one --json", 3);
    for line in
        ["extract -v nowhere -o out --json", "add -v nowhere -s d --no-create --json", "verify -v nowhere --json"]
    {
        place.result(line, 10);
    }
    place.file("wrong", b"not this one\n");
    place.result("verify -v v --password-file wrong --json", 12);
    place.result("key passwd -v v --password-file wrong --new-password-file wrong --json", 12);
    place.result("key remove -v v --id 1 --json", 1);
    place.result("key import -v v --input wrong --json", 1);
}

#[test]
fn a_result_names_what_is_not_utf_8_by_its_bytes() {
    let place = Place::with_vault();
    let mut command = place.command("add -v v --json -s d -s");
    let output = command.arg(OsStr::from_bytes(b"m\xffissing")).output().expect("the program starts");
    let result = place.checked("add -v v --json", &output, 3);
    assert_eq!(result["errors"][0]["path_bytes"], "bf9pc3Npbmc=");
}

#[test]
fn results_of_writing_a_vault_anew_are_as_the_schema_says() {
    let place = Place::with_vault();
    place.result("compact -v v -n --json", 0);
    place.result("compact -v v --json", 0);
    place.file("d/more", b"more");
    place.result("add -v v -s d --json", 0);
    let compaction = &place.result("compact -v v --keep-last 1 --json", 0)["compaction"];
    assert_eq!((&compaction["kept"][0], &compaction["dropped"][0]), (&2.into(), &1.into()));
    assert_eq!(compaction["bytes_after"], place.bytes("v").len());
    place.file("new", b"new");
    place.result("rekey -v v -n --json", 0);
    let result = place.result("rekey -v v --new-password-file new --json", 0);
    assert_eq!((&result["snapshot"], &result["compaction"]["moved_records"]), (&2.into(), &1.into()));
    assert!(place.result("compact -v v --json", 12).get("compaction").is_none());
    assert!(place.result("compact -v v --keep-snapshot 9 --password-file new --json", 1).get("compaction").is_none());
}

#[test]
fn the_result_of_a_locked_vault_is_as_the_schema_says() {
    let place = Place::with_vault();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(place.path("v")).expect("it is there");
    let other = FileStorage::new(file);
    assert!(other.try_lock(Lock::Presence, LockMode::Exclusive).expect("it can be locked"));
    place.result("add -v v -s d --lock-timeout 0 --json", 11);
}

#[test]
fn results_of_a_damaged_vault_are_as_the_schema_says() {
    let place = Place::new();
    place.file("d/a", &heavy(600_000)).file("d/b", b"whole");
    place.result("add -v v -s d --level store --chunk-size 256K --json", 0);
    let mut bytes = place.bytes("v");
    let middle = bytes.len() / 4;
    bytes[middle] ^= 1;
    place.file("v", &bytes);
    for line in ["verify -v v --json", "extract -v v -o out --json", "get -v v -t d/a -o got --json"] {
        let result = place.result(line, 13);
        assert!(
            result["errors"].as_array().is_some_and(|errors| errors.iter().any(|error| error["kind"] == "damaged"))
        );
    }
    for line in ["recover -v v --json", "recover -v v --output saved --json", "recover -v v --in-place -n --json"] {
        let recovery = &place.result(line, 3)["recovery"];
        assert_eq!(recovery["snapshots"][0]["whole"], false);
        assert_eq!(recovery["saved_bytes"].is_number(), line.contains("--output"));
    }
    // Too short to hold a root: the error is one of the whole vault.
    place.file("v", &bytes[..50_000]);
    assert!(place.result("verify -v v --json", 13)["error"].is_string());
    assert!(place.result("recover -v v --json", 13)["error"].is_string());
}

#[test]
fn the_result_of_a_deadline_is_as_the_schema_says() {
    let place = Place::with_vault();
    place.file("heavy", &heavy(30_000_000));
    place.result("add -v v -s heavy --level 22 --timeout 1s --json", 14);
}

/// What a command prints that is interrupted while it asks for its password.
fn interrupted(place: &Place, line: &str) -> Output {
    // Signals are looked after from before the password is asked for, and this says when it is.
    let mut child = place
        .program(line)
        .args(["--password-command", "touch asked; exec sleep 60 2>/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let began = Instant::now();
    let mut is_pulled = false;
    while child.try_wait().expect("it can be waited for").is_none() {
        if !is_pulled && place.path("asked").exists() {
            kill_process(Pid::from_child(&child), Signal::INT).expect("it is running");
            is_pulled = true;
        }
        if began.elapsed() > Duration::from_secs(50) {
            child.kill().expect("it can be ended");
            panic!("it has not ended; asked for its password: {is_pulled}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(is_pulled, "it waited for its password");
    child.wait_with_output().expect("it has ended")
}

#[test]
fn the_result_of_an_interruption_is_as_the_schema_says() {
    let place = Place::with_vault();
    let line = "verify -v v --json";
    let output = interrupted(&place, line);
    assert_eq!(place.checked(line, &output, 130)["error"], "interrupted");
}

/// The object of a profile, which has to end with `status` and to print a line that is as its schema says.
fn profiled(line: &str, output: &Output, status: i32) -> Value {
    let messages = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{line}: {messages}");
    let objects = lines(output);
    assert_eq!(objects.len(), 1, "{line}: one object; {messages}");
    assert_eq!(parsed(PROFILE).complaints(&objects[0]), [] as [String; 0], "{line}: {:#}", objects[0]);
    assert_eq!(objects[0]["exit_code"], json!(status), "{line}");
    objects[0].clone()
}

#[test]
fn profiles_that_measured_nothing_are_as_the_schema_says() {
    let place = Place::with_vault();
    place.file("wrong", b"not this one\n");
    for (line, status) in [
        ("profile -v nowhere --json --to . --cold --workers 3", 10),
        ("profile -v v --password-file wrong --json --decrypt-workers 1", 12),
        ("profile -s d --compare nowhere --json --level store --read-mode mmap", 1),
        ("profile -s d --save no/where --json --level -7 --memory 64M --chunk-size 1M --queue-depth 2", 1),
    ] {
        let profile = profiled(line, &place.run(line), status);
        assert_eq!(profile["unpack"], line.contains("-v"), "{line}");
        assert_eq!((&profile["rounds"], &profile["median"]), (&json!([]), &Value::Null), "{line}");
        every_change_is_seen(&parsed(PROFILE), &profile, &["all", "decrypt"]);
    }
    let line = "profile -v v --json";
    assert_eq!(profiled(line, &interrupted(&place, line), 130)["error"], "interrupted");
}

#[test]
fn profiles_that_measured_something_are_as_the_schema_says() {
    let place = Place::with_vault();
    place.file("d/much", &heavy(3_000_000));
    place.result("add -v v -s d --json", 0);
    for line in [
        "profile -s d --time 1s --roofline --sweep --save base.json --json",
        "profile -s d --time 1s --compare base.json --threshold 99% --json --level 1",
        "profile -v v --time 1s --roofline --to . --json",
    ] {
        let profile = profiled(line, &place.run(line), 0);
        assert!(profile["rounds"].as_array().is_some_and(|rounds| !rounds.is_empty()), "{line}");
        assert_eq!(profile["roofline"].is_object(), line.contains("--roofline"), "{line}");
        assert_eq!(profile["sweep"].is_object(), line.contains("--sweep"), "{line}");
        assert_eq!(profile["comparison"].is_object(), line.contains("--compare"), "{line}");
        every_change_is_seen(&parsed(PROFILE), &profile, &["path_bytes"]);
    }
    let saved: Value = serde_json::from_slice(&place.bytes("base.json")).expect("an object");
    assert_eq!(parsed(PROFILE).complaints(&saved), [] as [String; 0], "{saved:#}");
    let line = "profile -s missing -s d --time 1s --json";
    assert_eq!(profiled(line, &place.run(line), 3)["median"]["errors"][0]["kind"], "not_found");
}

#[test]
fn what_the_schemas_of_results_and_profiles_both_define_is_the_same() {
    let (result, profile) = (parsed(RESULT), parsed(PROFILE));
    let defined = |schema: &Schema| schema.document()["$defs"].as_object().cloned().expect("definitions");
    let (result, profile) = (defined(&result), defined(&profile));
    let both: Vec<&String> = result.keys().filter(|name| profile.contains_key(*name)).collect();
    assert!(both.len() >= 10, "{both:?}");
    for name in both {
        assert_eq!(result[name], profile[name], "{name}");
    }
}

#[test]
fn entries_of_every_type_are_as_the_schema_says() {
    let place = Place::new();
    place.file("d/file", b"12345");
    std::os::unix::fs::symlink("file", place.path("d/link")).expect("a link");
    std::fs::write(place.path(OsStr::from_bytes(b"d/\xff\n")), b"").expect("a file of an odd name");
    let mut types = vec!["dir", "file", "symlink", "fifo"];
    mknodat(CWD, place.path("d/fifo"), FileType::Fifo, Mode::RUSR, 0).expect("a FIFO");
    // Only root may make these.
    for (name, file_type) in [("char", FileType::CharacterDevice), ("block", FileType::BlockDevice)] {
        if mknodat(CWD, place.path("d").join(name), file_type, Mode::RUSR, rustix::fs::makedev(1, 3)).is_ok() {
            types.push(name);
        }
    }
    // Before RFC 3339 has years, before 1970, and after its last year; the file system may bring them nearer.
    for (name, secs) in [("old", -86_400), ("future", 253_402_300_800_i64)] {
        place.file(&format!("d/{name}"), b"");
        let time = rustix::fs::Timespec { tv_sec: secs, tv_nsec: 7 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, place.path("d").join(name), &times, rustix::fs::AtFlags::empty()).expect("its time");
    }
    place.result("add -v v -C d -s . --json", 0);
    let schema = parsed(ENTRY);
    let output = place.run("list -v v --json");
    let entries = lines(&output);
    for entry in &entries {
        assert_eq!(schema.complaints(entry), [] as [String; 0], "{entry}");
    }
    assert_eq!(entries[0]["path"], ".");
    for entry_type in types {
        assert!(entries.iter().any(|entry| entry["type"] == entry_type), "{entry_type}");
    }
    assert!(entries.iter().any(|entry| entry.get("path_bytes").is_some()));
    every_change_is_seen(&schema, &entries[1], &[]);
}

#[test]
fn snapshots_are_as_the_schema_says() {
    let place = Place::with_vault();
    place.result("add -v v -s missing -s d --json", 3);
    let schema = parsed(SNAPSHOT);
    let snapshots = lines(&place.run("list -v v --snapshots --json"));
    assert_eq!(snapshots.len(), 2);
    for snapshot in &snapshots {
        assert_eq!(schema.complaints(snapshot), [] as [String; 0], "{snapshot}");
    }
    every_change_is_seen(&schema, &snapshots[0], &[]);
}

#[test]
fn keys_are_as_the_schema_says() {
    let place = Place::with_vault();
    place.file("new", b"new\n");
    place.result("key add -v v --new-password-file new --json", 0);
    let schema = parsed(KEY);
    let keys = lines(&place.run("key list -v v --json"));
    assert_eq!(keys.len(), 2);
    for key in &keys {
        assert_eq!(schema.complaints(key), [] as [String; 0], "{key}");
    }
    every_change_is_seen(&schema, &keys[0], &[]);
}

#[test]
fn a_result_with_a_field_too_few_too_many_or_of_another_type_is_refused() {
    let place = Place::with_vault();
    let optional = ["unreferenced_bytes", "path_bytes"];
    for (line, status) in
        [("add -v v -s d -s missing --json", 3), ("verify -v v --json", 0), ("extract -v v -o out --json", 0)]
    {
        every_change_is_seen(&place.result, &place.result(line, status), &optional);
    }
    let mut result = place.result("verify -v v --json", 0);
    result["error"] = json!("something");
    assert_ne!(place.result.complaints(&result), [] as [String; 0], "success has no error");
}

/// Changes `instance`, which is as `schema` says, in every member of every object, and expects each change to be refused.
///
/// - `optional`: members that may be missing.
fn every_change_is_seen(schema: &Schema, instance: &Value, optional: &[&str]) {
    assert_eq!(schema.complaints(instance), [] as [String; 0], "{instance}");
    for place in places(instance) {
        // Stages and their threads are by name, and no name has to be there.
        let by_name =
            ["/stages", "/workers", "/queue_depths", "/reasons", "/reduced"].iter().any(|map| place.ends_with(map));
        let members = instance.pointer(&place).and_then(Value::as_object).expect("a place is that of an object");
        for name in members.keys() {
            let changed = |change: &dyn Fn(&mut Value)| {
                let mut changed = instance.clone();
                change(changed.pointer_mut(&place).expect("it is a copy"));
                !schema.complaints(&changed).is_empty()
            };
            let at = format!("{place}/{name}");
            // No member may be a list in a list, be it as it may.
            assert!(changed(&|object| object[name] = json!([[]])), "{at} of another type");
            if !by_name && !optional.contains(&name.as_str()) {
                let without = |object: &mut Value| _ = object.as_object_mut().and_then(|members| members.remove(name));
                assert!(changed(&without), "without {at}");
            }
            assert!(changed(&|object| object["not_described"] = json!(1)), "{place} with one more");
        }
    }
}

/// JSON pointers to `value` and to every object in it.
fn places(value: &Value) -> Vec<String> {
    let parts: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, part)| (name.clone(), part)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(index, part)| (index.to_string(), part)).collect(),
        _ => return Vec::new(),
    };
    let own = value.is_object().then(String::new);
    let inner = parts.iter().flat_map(|(name, part)| places(part).into_iter().map(move |at| format!("/{name}{at}")));
    own.into_iter().chain(inner).collect()
}

#[test]
fn the_examples_of_the_document_are_as_the_schemas_say() {
    let mut seen = 0;
    for part in DOCUMENT.split("\n## ") {
        let Some(example) = part.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()) else { continue };
        let schema = match part.split(':').next() {
            Some("The result") => RESULT,
            Some("Entries") => ENTRY,
            Some("Snapshots") => SNAPSHOT,
            Some("Keys") => KEY,
            Some("The profile") => PROFILE,
            _ => panic!("an example under a heading of its own: {part}"),
        };
        let example: Value = serde_json::from_str(example).expect("an example is JSON");
        assert_eq!(parsed(schema).complaints(&example), [] as [String; 0], "{example}");
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn the_document_names_every_field_and_every_word_of_the_schemas() {
    fn named(schema: &Value, missing: &mut Vec<String>) {
        if let Value::Object(rules) = schema {
            let fields = rules.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name);
            let words = rules.get("enum").and_then(Value::as_array).into_iter().flatten();
            for name in fields.map(String::as_str).chain(words.filter_map(Value::as_str)) {
                if !DOCUMENT.contains(&format!("`{name}`")) {
                    missing.push(name.to_owned());
                }
            }
            rules.values().for_each(|part| named(part, missing));
        }
        schema.as_array().into_iter().flatten().for_each(|part| named(part, missing));
    }
    for schema in [RESULT, ENTRY, SNAPSHOT, KEY, PROFILE] {
        let mut missing = Vec::new();
        named(parsed(schema).document(), &mut missing);
        assert_eq!(missing, [] as [String; 0]);
    }
}

#[test]
fn a_schema_with_a_keyword_that_is_not_known_is_refused() {
    for (text, words) in [
        (r#"{"properties": {"a": {"minimun": 1}}}"#, "#/properties/a/minimun is not a keyword"),
        (r#"{"allOf": [{"oneOf": []}]}"#, "#/allOf/0/oneOf is not a keyword"),
        (r##"{"$ref": "#/$defs/missing"}"##, "#/$ref makes no sense"),
        (r#"{"type": "int"}"#, "#/type makes no sense"),
        (r#"{"pattern": "("}"#, "#/pattern makes no sense"),
        (r#"{"items": 1}"#, "#/items is no schema"),
    ] {
        let error = Schema::parse(text).expect_err(text);
        assert!(error.starts_with(words), "{text}: {error}");
    }
}

#[test]
fn each_rule_of_a_schema_is_applied() {
    for (schema, good, bad) in [
        (r#"{"type": ["integer", "null"]}"#, json!([null, 1, -1]), json!(["", 1.5, true])),
        (r#"{"const": 1}"#, json!([1]), json!([2, "1", null])),
        (r#"{"enum": [1, "a"]}"#, json!([1, "a"]), json!([2, "b"])),
        (r#"{"minimum": 0, "maximum": 1}"#, json!([0, 0.5, 1, "2"]), json!([-1, 1.1])),
        (r#"{"minLength": 2}"#, json!(["ab", "öä", 1]), json!(["", "a"])),
        (r#"{"pattern": "^[0-7]{4}$"}"#, json!(["0644", 1]), json!(["644", "06449", "0648"])),
        (r#"{"minItems": 1, "maxItems": 2}"#, json!([[1], [1, 2], {}]), json!([[], [1, 2, 3]])),
        (r#"{"items": {"type": "string"}}"#, json!([[], ["a"], 1]), json!([[1], ["a", null]])),
        (r#"{"required": ["a"]}"#, json!([{"a": 1}, 1]), json!([{}, {"b": 1}])),
        (
            r#"{"properties": {"a": {"type": "null"}}, "additionalProperties": false}"#,
            json!([{}, {"a": null}]),
            json!([{"a": 1}, {"b": null}]),
        ),
        (r#"{"additionalProperties": {"minimum": 1}}"#, json!([{"a": 1}]), json!([{"a": 0}])),
        (r#"{"propertyNames": {"enum": ["a"]}}"#, json!([{"a": 1}]), json!([{"b": 1}])),
        (r#"{"not": {"type": "null"}}"#, json!([1]), json!([null])),
        (r#"{"allOf": [{"minimum": 1}, {"maximum": 2}]}"#, json!([1, 2]), json!([0, 3])),
        (r#"{"anyOf": [{"minimum": 5}, {"maximum": 2}]}"#, json!([1, 6]), json!([3])),
        (r#"{"if": {"minimum": 5}, "then": {"maximum": 7}, "else": {"minimum": 1}}"#, json!([6, 2]), json!([8, 0])),
        (r##"{"$defs": {"a": {"minimum": 1}}, "$ref": "#/$defs/a"}"##, json!([1]), json!([0])),
        (r#"{"properties": {"a": false}}"#, json!([{}]), json!([{"a": 1}])),
    ] {
        let parsed = parsed(schema);
        for (instances, fits) in [(&good, true), (&bad, false)] {
            for instance in instances.as_array().expect("a list of instances") {
                assert_eq!(parsed.complaints(instance).is_empty(), fits, "{schema} {instance}");
            }
        }
    }
}
