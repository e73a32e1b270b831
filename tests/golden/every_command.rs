//! Can a hostile vault bring down any command? Each golden vector through every command that takes a vault, within 2 GiB of
//! memory and 10 s of processor time: no panic, no signal, and an exit status that such a vault may have.
//!
//! Every run tries a third of the commands on each vector, all of them where `FLINT_TEST_SCALE` is above 1; `verify`, `list`
//! and `extract` are tried on each by the test beside this.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use assert_cmd::Command;

use crate::vector::Vector;
use crate::{BAD_CONTENT, BAD_SPARE, DAMAGED, GOOD, Outcome, REFUSED, WRONG_PASSWORD, for_every_vector};

/// Commands with their options. `VAULT` is the vault, `OUT` a path where there is nothing, `SOURCE` a file, `PATH` a name
/// in the vault.
const COMMANDS: &[&[&str]] = &[
    &["info", "-v", "VAULT"],
    &["info", "-v", "VAULT", "--long"],
    &["list", "-v", "VAULT", "--snapshots"],
    &["list", "-v", "VAULT", "--long"],
    &["get", "-v", "VAULT", "-t", "PATH", "--stdout"],
    &["get", "-v", "VAULT", "-t", "PATH", "-o", "OUT"],
    &["extract", "-v", "VAULT", "-o", "OUT"],
    &["extract", "-v", "VAULT", "-o", "OUT", "--dry-run"],
    &["verify", "-v", "VAULT"],
    &["verify", "-v", "VAULT", "--dry-run"],
    &["add", "-v", "VAULT", "-s", "SOURCE", "--dry-run"],
    &["remove", "-v", "VAULT", "-t", "PATH", "--dry-run"],
    &["profile", "-v", "VAULT", "--time", "100ms", "--roofline"],
    &["recover", "-v", "VAULT"],
    &["recover", "-v", "VAULT", "--output", "OUT"],
    // These change it, so they come last.
    &["add", "-v", "VAULT", "-s", "SOURCE"],
    &["remove", "-v", "VAULT", "-t", "PATH"],
    &["recover", "-v", "VAULT", "--in-place"],
];

/// Statuses that docs and help know, but for wrong usage, a vault that is missing or locked, and runs that were ended.
const POSSIBLE: [i32; 5] = [0, 1, 3, 12, 13];
/// A try at this path in a vault that has no file.
const NO_SUCH_PATH: &str = "no such path";

/// Runs the program within the limits.
fn limited(place: &Path, vector: &Vector, words: &[&str], path: &str) -> Output {
    let within = |name: &str| place.join(name).to_str().expect("ASCII").to_owned();
    let words = words.iter().map(|word| match *word {
        "VAULT" => within("vector.flint"),
        "OUT" => within("out"),
        "SOURCE" => within("source"),
        "PATH" => path.to_owned(),
        word => word.to_owned(),
    });
    Command::new("sh")
        .args(["-c", "ulimit -v 2097152 && ulimit -t 10 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_flint-pipe")])
        .args(words)
        .env_clear()
        .env("FLINT_PASSWORD", vector.one("password"))
        .current_dir(place)
        // Waiting without working is no way out of the limit.
        .timeout(Duration::from_secs(120))
        .output()
        .expect("it starts")
}

/// What may come of a command on a vault of this outcome.
fn expected(of: Outcome, words: &[&str], has_file: bool) -> &'static [i32] {
    let is = |command: &str| words[0] == command;
    let with = |option: &str| words.contains(&option);
    match of {
        // It asks for no key, so all it can see is the spare copies.
        _ if is("info") && !with("--long") => &[0, 1, 13],
        GOOD if is("recover") => &[0],
        // There may be nothing to get, to remove, or to measure.
        GOOD | BAD_SPARE if (is("get") || is("remove")) && !has_file => &[1],
        GOOD | BAD_SPARE if is("profile") => &[0, 1, 3, 13],
        GOOD => &[0, 3],
        WRONG_PASSWORD => &[12],
        // What is left may be nothing, or all; and what is of a later version may be a part that is lost.
        _ if is("recover") => &[0, 1, 3, 13],
        // It may be that a part is refused which this command has no need of.
        REFUSED if is("add") || is("remove") || with("--snapshots") => &[0, 1, 3],
        REFUSED => &[1],
        BAD_SPARE if is("verify") && !with("--dry-run") => &[13],
        BAD_SPARE => &[0, 3, 13],
        BAD_CONTENT if is("get") => &[1, 13],
        BAD_CONTENT if is("extract") && !with("--dry-run") => &[13],
        BAD_CONTENT if is("verify") && !with("--dry-run") => &[13],
        BAD_CONTENT => &[0, 1, 3, 13],
        // What is damaged may be what this command has no need of.
        DAMAGED => &[0, 1, 3, 13],
        _ => &POSSIBLE,
    }
}

/// All commands, or every third of them, on one vector.
fn check(number: usize, vector: &Vector, outcome: Outcome) -> Result<(), String> {
    let scale = std::env::var("FLINT_TEST_SCALE").ok().and_then(|scale| scale.parse::<u64>().ok());
    let stride = if scale.unwrap_or(1) > 1 { 1 } else { 3 };
    let place = tempfile::tempdir().expect("a temporary directory");
    let vault = place.path().join("vector.flint");
    fs::write(&vault, &vector.vault).expect("it can be written");
    fs::write(place.path().join("source"), "added").expect("it can be written");
    let file = vector.all("content").next().and_then(|line| line.split_once(' ')).map(|(_, path)| path);
    let path = file.unwrap_or(NO_SUCH_PATH);
    for words in COMMANDS.iter().skip(number % stride).step_by(stride) {
        let ended = limited(place.path(), vector, words, path);
        let what = format!("{} {}", words[0], words[3..].join(" "));
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        let Some(status) = ended.status.code() else {
            return Err(format!("{what} ends with {}: {said}", ended.status));
        };
        if said.contains("panicked") {
            return Err(format!("{what} panics: {said}"));
        }
        let expected = expected(outcome, words, file.is_some());
        if !expected.contains(&status) {
            return Err(format!("{what} ends with {status}, not one of {expected:?}: {said}"));
        }
        let made = place.path().join("out");
        if made.is_file() && words[0] == "recover" {
            let verified = limited(place.path(), vector, &["verify", "-v", "OUT"], path);
            if !verified.status.success() {
                return Err(format!("what {what} saved is not whole: {}", String::from_utf8_lossy(&verified.stderr)));
            }
        }
        let _ = fs::remove_file(&made).or_else(|_| fs::remove_dir_all(&made));
        // Whatever a command that says it has changed the vault has changed: it is no worse than before.
        let writes = matches!(words[0], "add" | "remove") && !words.contains(&"--dry-run");
        if writes && status == 0 {
            let verified = limited(place.path(), vector, &["verify", "-v", "VAULT"], path);
            if !verified.status.success() && outcome.verify == 0 {
                return Err(format!("{what} has damaged it: {}", String::from_utf8_lossy(&verified.stderr)));
            }
        }
    }
    Ok(())
}

#[test]
fn no_vector_takes_any_command_beyond_its_limits() {
    let counter = std::sync::atomic::AtomicUsize::new(0);
    for_every_vector(|name, vector, outcome| {
        // By name, so that each run does the same.
        let number = name.bytes().map(usize::from).sum::<usize>();
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        check(number, vector, outcome)
    });
    assert!(counter.into_inner() > 200, "the vectors are there");
}

#[test]
fn recover_names_a_loss_or_a_fault_wherever_verify_finds_damage() {
    for_every_vector(|_, vector, outcome| {
        if outcome.verify != 13 {
            return Ok(());
        }
        let place = tempfile::tempdir().expect("a temporary directory");
        fs::write(place.path().join("vector.flint"), &vector.vault).expect("it can be written");
        let ended = limited(place.path(), vector, &["recover", "-v", "VAULT"], NO_SUCH_PATH);
        let said = String::from_utf8_lossy(&ended.stdout);
        match ended.status.code() {
            Some(0) if said.contains("to mend") => Ok(()),
            Some(1 | 3 | 13) => Ok(()),
            status => Err(format!("ends with {status:?}: {said}{}", String::from_utf8_lossy(&ended.stderr))),
        }
    });
}
