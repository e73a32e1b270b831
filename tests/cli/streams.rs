//! What goes to which stream, and what happens when one is full, closed, or nobody reads it.

use std::process::Stdio;
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
