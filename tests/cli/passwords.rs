//! Where a password comes from, and where it never goes.

use serde_json::json;

use crate::support::{PASSWORD, Place, json_of, status, stderr, stdout};

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
