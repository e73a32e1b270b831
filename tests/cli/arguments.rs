//! What is asked for wrongly is refused, by name and with what would do.

use crate::support::{Place, status, stderr, stdout};

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
        "info -v v --short",
        "verify -v v --quick --read-data-subset 5%",
        "verify -v v --read-data-subset 101%",
        "key",
        "key add",
        "key add -v v",
        "key passwd -v v",
        "key remove -v v",
        "key remove -v v --id 1 --label x",
        "key remove -v v --id first",
        "key export -v v",
        "key import -v v",
        "key list -v v --label x",
        "key destroy -v v",
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
fn too_little_memory_is_wrong_usage_and_says_what_would_do() {
    let place = Place::new().with_vault();
    let output = place.unlocked("add -v v -s d --memory 10M");
    assert_eq!(status(&output), 2);
    let text = stderr(&output);
    let least = text.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it names the least");
    place.succeeds(&format!("add -v v -s d --memory {least}"));
}
