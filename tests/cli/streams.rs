//! What goes to which stream, and what happens when one is full, closed, or nobody reads it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Output;
use std::time::Duration;

use crate::support::{PASSWORD, Place, ended, heavy, json_of, status, stderr, stdout};

#[test]
fn messages_have_no_colour_where_nobody_would_see_it() {
    let output = Place::new().run("verify -v v");
    assert!(!output.stderr.contains(&0x1b), "{}", stderr(&output));
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

/// Runs a line of the shell in the place, with the program as `$F`.
fn shell(place: &Place, line: &str) -> Output {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", line]).current_dir(place.directory.path()).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command.env("F", env!("CARGO_BIN_EXE_flint-pipe")).env("FLINT_PASSWORD", PASSWORD);
    command.output().expect("sh starts")
}

#[test]
fn a_result_that_cannot_be_printed_is_a_failure() {
    let place = Place::new().with_vault();
    for (line, code) in [
        ("list -v v", 1),
        ("list -v v --json", 1),
        ("list -v v --snapshots", 1),
        ("info -v v", 1),
        ("verify -v v --quick", 1),
        ("verify -v v --quick --json", 1),
        ("extract -v v -o out -n", 1),
        ("get -v v -t d/one --stdout", 1),
        ("remove -v v -t d/one -n", 1),
        ("completions zsh", 1),
        ("man pages", 1),
        ("--help", 1),
        ("help add", 1),
        ("--version", 1),
        // Failing counts for more than what is incomplete, and for less than what is damaged or not there.
        ("add -v v -s d -s missing -n", 1),
        ("list -v missing", 10),
        ("verify -v missing --json", 10),
        ("list", 2),
    ] {
        let output = shell(&place, &format!("$F {line} >/dev/full"));
        assert_eq!(status(&output), code, "{line}: {}", stderr(&output));
        assert!(code == 2 || code == 10 || stderr(&output).contains("No space left"), "{line}: {}", stderr(&output));
        // Nor does a full standard error change what a command ends with.
        let said = shell(&place, &format!("$F {line} >/dev/full 2>/dev/full"));
        assert_eq!(status(&said), code, "{line}");
    }
}

#[test]
fn closed_streams_are_never_taken_for_the_vault() {
    let place = Place::new().with_vault();
    place.file("large", &heavy(2_000_000));
    for closed in ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"] {
        // It has something to say on both.
        let output = shell(&place, &format!("$F add -v v -s large -s missing --progress=plain {closed}"));
        assert_eq!(status(&output), 3, "{closed}: {}", stderr(&output));
        assert_eq!(status(&shell(&place, &format!("$F list -v v --json {closed}"))), 0, "{closed}");
        place.succeeds("verify -v v");
    }
    let output = shell(&place, "$F create -v w --password-file - <&-");
    assert_eq!(status(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("an empty password is refused"), "{}", stderr(&output));
}

#[test]
fn few_descriptors_are_enough() {
    let place = Place::new();
    for number in 0..200 {
        place.file(&format!("many/{}/{number}", number % 20), number.to_string().as_bytes());
    }
    place.file("large", &heavy(3_000_000));
    let line = "ulimit -n 64 && $F add -v v -s many -s large -w 4 && $F extract -v v -o out -w 4";
    let output = shell(&place, line);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert_eq!(status(&shell(&place, "diff -r many out/many && cmp large out/large")), 0);
}

#[test]
fn colours_are_forced_and_forbidden_by_the_environment() {
    let place = Place::new();
    for (variables, coloured) in
        [("CLICOLOR_FORCE=1", true), ("CLICOLOR_FORCE=1 TERM=dumb", true), ("NO_COLOR=1", false), ("TERM=xterm", false)]
    {
        for line in ["list -v missing", "list -v v --no-such-option"] {
            let output = shell(&place, &format!("env {variables} $F {line}"));
            assert_eq!(output.stderr.contains(&0x1b), coloured, "{variables} {line}: {}", stderr(&output));
        }
    }
}

#[test]
fn a_terminal_of_any_width_can_be_told_of_help() {
    let place = Place::new();
    for columns in ["0", "1", "20", "99999", "wide", ""] {
        for line in ["--help", "add --help", "list"] {
            let output = shell(&place, &format!("COLUMNS='{columns}' $F {line}"));
            assert_eq!(status(&output), if line == "list" { 2 } else { 0 }, "{columns} {line}: {}", stderr(&output));
        }
    }
}

#[test]
fn arguments_that_are_not_utf_8_are_names_or_wrong_usage() {
    let place = Place::new();
    let odd = OsStr::from_bytes(b"\xff\xfe");
    std::fs::write(place.path("").join(odd), b"x").expect("a file of an odd name");
    let run =
        |words: &[&OsStr]| place.command().env("FLINT_PASSWORD", PASSWORD).args(words).output().expect("it starts");
    let word = OsStr::new;
    let vault = OsStr::from_bytes(b"v\xff");
    assert_eq!(status(&run(&[word("add"), word("-v"), vault, word("-s"), odd])), 0);
    let output = run(&[word("get"), word("-v"), vault, word("-t"), odd, word("-o"), OsStr::from_bytes(b"out\xff")]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).starts_with(r"restored from v\xff to out\xff"), "{}", stdout(&output));
    assert!(place.path("").join(OsStr::from_bytes(b"out\xff/\xff\xfe")).exists());
    for option in ["--level", "--exclude", "--memory", "--progress", "--label", "--no-such-option"] {
        let output = run(&[word("add"), word("-v"), vault, word("-s"), odd, word(option), odd]);
        assert_eq!(status(&output), 2, "{option}: {}", stderr(&output));
    }
    assert_eq!(status(&run(&[odd])), 2);
}
