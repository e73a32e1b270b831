//! Transcripts: what each command prints, to the letter, errors included; `transcripts/COMMAND.txt`.
//!
//! ```text
//! # a comment
//! $ a line for sh, in a directory of the transcript's own
//! what it writes to standard output
//! ! what it writes to standard error
//! ? its exit status, if that is not 0
//! ```
//!
//! `[..]` stands for any characters of a line, a line `[...]` for any lines. The password is `secret`, the time zone UTC.
//! With `FLINT_TRANSCRIPTS=rewrite` in the environment, what does not match is written anew instead of failing.
//!
//! A runner of our own, because the crate that does this (trycmd) takes longer to build than all tests here take to run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Place, status, stderr, stdout};

/// One line for the shell, and what is expected of it.
#[derive(Debug, Default)]
struct Step {
    /// Comments and blank lines before it.
    before: String,
    line: String,
    stdout: Vec<String>,
    stderr: Vec<String>,
    status: i32,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut before = String::new();
    for line in text.lines() {
        let step = steps.last_mut().filter(|_| before.is_empty());
        match (line.split_at_checked(2), step) {
            (Some(("$ ", command)), _) => {
                let line = command.to_owned();
                steps.push(Step { before: std::mem::take(&mut before), line, ..Step::default() });
            }
            (Some(("! ", said)), Some(step)) => step.stderr.push(said.to_owned()),
            (Some(("? ", code)), Some(step)) => step.status = code.parse().expect("an exit status"),
            (_, Some(step)) if !line.starts_with('#') => step.stdout.push(line.to_owned()),
            _ => before.push_str(&format!("{line}\n")),
        }
    }
    steps
}

/// The places of transcripts, by the names of what they are about.
fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/transcripts");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn run(place: &Place, line: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_flint-pipe")).parent().expect("it lies in a directory");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(program.to_owned()).chain(std::env::split_paths(&path)));
    Command::new("sh")
        .args(["-c", line])
        .current_dir(place.directory.path())
        .env_clear()
        .env("PATH", path.expect("paths without colons"))
        .env("FLINT_PASSWORD", "secret")
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("sh starts")
}

/// Whether lines are what is expected of them.
fn are(lines: &[&str], expected: &[String]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((any, rest)) if any == "[...]" => (0..=lines.len()).any(|skipped| are(&lines[skipped..], rest)),
        Some((first, rest)) => lines.first().is_some_and(|line| is(line, first)) && are(&lines[1..], rest),
    }
}

/// Whether a line is what is expected of it.
fn is(line: &str, expected: &str) -> bool {
    match expected.split_once("[..]") {
        None => line == expected,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|left| {
            left.char_indices().map(|(at, _)| at).chain([left.len()]).any(|at| is(&left[at..], rest))
        }),
    }
}

/// A step as it stands in a transcript, with what came of it.
fn shown(step: &Step, output: &Output) -> String {
    let mut text = format!("{}$ {}\n", step.before, step.line);
    for line in stdout(output).lines() {
        let _ = writeln!(text, "{line}");
    }
    for line in stderr(output).lines() {
        let _ = writeln!(text, "! {line}");
    }
    if status(output) != 0 {
        let _ = writeln!(text, "? {}", status(output));
    }
    text
}

fn kept(step: &Step) -> String {
    let mut text = format!("{}$ {}\n", step.before, step.line);
    step.stdout.iter().for_each(|line| text.push_str(&format!("{line}\n")));
    step.stderr.iter().for_each(|line| text.push_str(&format!("! {line}\n")));
    if step.status != 0 {
        let _ = writeln!(text, "? {}", step.status);
    }
    text
}

#[test]
fn every_transcript_is_what_happens() {
    let rewrite = std::env::var_os("FLINT_TRANSCRIPTS").is_some_and(|word| word == "rewrite");
    for file in files() {
        let place = Place::new();
        let mut rewritten = String::new();
        for step in steps(&std::fs::read_to_string(&file).expect("it is text")) {
            let output = run(&place, &step.line);
            let (out, err) = (stdout(&output), stderr(&output));
            let (out, err): (Vec<&str>, Vec<&str>) = (out.lines().collect(), err.lines().collect());
            let matches = are(&out, &step.stdout) && are(&err, &step.stderr) && status(&output) == step.status;
            rewritten += &if matches { kept(&step) } else { shown(&step, &output) };
            assert!(
                matches || rewrite,
                "{}: expected\n\n{}\nand this happened:\n\n{}",
                file.display(),
                kept(&step),
                shown(&step, &output)
            );
        }
        if rewrite {
            std::fs::write(&file, rewritten).expect("it can be written");
        }
    }
}

#[test]
fn every_command_has_a_transcript() {
    let help = stdout(&Place::new().run("--help"));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"add"), "{commands:?}");
    let files: Vec<String> =
        files().iter().filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned())).collect();
    for command in commands {
        assert!(files.iter().any(|file| file == command), "no transcript of {command}");
    }
}

#[test]
fn a_transcript_is_matched_to_the_letter_but_for_what_stands_for_anything() {
    assert!(is("it took 0.31 s", "it took [..] s") && is("", "[..]") && is("a", "a"));
    assert!(!is("it took 0.31 s ", "it took [..] s") && !is("a", "b") && !is("ab", "a"));
    let expected = |lines: &[&str]| -> Vec<String> { lines.iter().map(ToString::to_string).collect() };
    assert!(are(&["a", "b", "c"], &expected(&["a", "[...]"])) && are(&["a"], &expected(&["[...]", "a", "[...]"])));
    assert!(!are(&["a", "b"], &expected(&["a"])) && !are(&[], &expected(&["a"])));
}
