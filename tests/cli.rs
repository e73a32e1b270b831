//! The command line from outside: what it refuses, what it says, and the status it ends with. The round trips that need a
//! vault are with the behaviours.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;

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
        let mut command = Command::cargo_bin("flint-pipe").expect("the program is built");
        command
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
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
        ("add -v v -s a --mirror", "--mirror"),
        ("add -v v -s a --report=a.html", "--report"),
        ("add -v v -s a -n", "-n"),
        ("extract -v v -o o --overwrite if-changed", "--overwrite if-changed"),
        ("extract -v v -o o --no-preserve owner", "--no-preserve"),
        ("verify -v v --read-data-subset 5%", "--read-data-subset"),
        ("create -v w --kdf-memory 1G", "--kdf-memory"),
        ("compact -v v", "compact"),
        ("key add -v v", "key"),
        ("man .", "man"),
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
