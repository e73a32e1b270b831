//! Passwords that are added, changed and removed, headers that are saved and put back; and all of it that is refused.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use flint_pipe::{FileStorage, Lock, LockMode, Storage as _};
use serde_json::json;

use crate::support::{PASSWORD, Place, json_of, status, stderr, stdout};

/// The least that a new password may cost.
const CHEAP: &str = "--kdf-memory 19M --kdf-time 2";
const NOBODY: u32 = 65_534;

/// A vault `v` with two passwords, in `first` and `second`.
fn place() -> Place {
    let place = Place::new();
    place.file("first", PASSWORD.as_bytes()).file("second", b"the second\n").file("third", b"the third\n");
    place.file("d/one", b"the first");
    place.succeeds(&format!("create -v v {CHEAP} --label first"));
    place.succeeds("add -v v -s d");
    place.succeeds(&format!("key add -v v --new-password-file second --label second {CHEAP}"));
    place
}

/// Which of the files with passwords open the vault.
fn opening(place: &Place, vault: &str) -> Vec<&'static str> {
    let opens = |name: &&str| status(&place.run(&format!("list -v {vault} --password-file {name}"))) == 0;
    ["first", "second", "third"].into_iter().filter(opens).collect()
}

#[test]
fn a_password_that_is_added_opens_the_vault_and_one_that_is_removed_does_not() {
    let place = place();
    assert_eq!(opening(&place, "v"), ["first", "second"]);
    place.succeeds("key remove -v v --label first --password-file second");
    assert_eq!(opening(&place, "v"), ["second"]);
    place.succeeds(&format!("key passwd -v v --password-file second --new-password-file third {CHEAP}"));
    assert_eq!(opening(&place, "v"), ["third"]);
    let listed = place.succeeds("key list -v v --password-file third");
    assert!(listed.lines().count() == 2 && listed.ends_with("second\n"), "{listed}");
    place.succeeds("verify -v v --password-file third");
    place.succeeds("extract -v v -o out --password-file third");
    assert_eq!(place.bytes("out/d/one"), b"the first");
}

#[test]
fn nothing_behind_the_headers_is_written_when_keys_change() {
    let place = place();
    let before = place.bytes("v");
    place.succeeds("key export -v v --output saved");
    for line in [
        "key add -v v --new-password-file third --label third",
        "key passwd -v v --password-file third --new-password-file third",
        "key remove -v v --label third",
        "key import -v v --input saved",
    ] {
        let earlier = place.bytes("v");
        place.succeeds(line);
        let now = place.bytes("v");
        assert!(now[..48 << 10] != earlier[..48 << 10] && now[48 << 10..] == before[48 << 10..], "{line}");
    }
    assert_eq!(opening(&place, "v"), ["first", "second"]);
}

#[test]
fn what_is_refused_is_named_and_changes_no_byte() {
    let place = place();
    place.succeeds("key export -v v --output saved");
    place.file("other", b"not a header").file("cut", &place.bytes("saved")[..9000]);
    place.file("long", &[place.bytes("saved"), b"x".to_vec()].concat());
    place.succeeds(&format!("create -v w {CHEAP}"));
    place.succeeds("key export -v w --output others");
    let (before, saved) = (place.bytes("v"), place.bytes("saved"));
    for (line, code, words) in [
        ("key remove -v v --label nobody", 1, "no such key: label \"nobody\": v\nhint: flint-pipe key list -v v"),
        ("key remove -v v --id 9", 1, "no such key: id 9: v"),
        ("key remove -v w --id 1", 1, "the last password of a vault cannot be removed: w"),
        ("key remove -v v --id 1 --password-file third", 12, "wrong password: v"),
        ("key passwd -v v --password-file third --new-password-file second", 12, "wrong password: v"),
        ("key add -v v --password-file third --new-password-file second", 12, "wrong password: v"),
        ("key list -v v --password-file third", 12, "wrong password: v"),
        ("key export -v v --output e --password-file third", 12, "wrong password: v"),
        ("key add -v v --new-password-file third --label second", 1, "another key has this label already: v"),
        ("key add -v v --new-password-file missing", 1, "cannot open: missing"),
        ("key add -v v --new-password-file third --kdf-time 17", 2, "not within 2 to 16"),
        ("key add -v v", 2, "no new password: give --new-password-file FILE or --new-password-command CMD"),
        ("key passwd -v v", 2, "no new password"),
        ("key passwd -v v --password-file - --new-password-file -", 2, "cannot both be standard input"),
        ("key export -v v --output saved", 1, "this exists already, and is not overwritten: saved"),
        ("key export -v v --output v", 1, "this exists already, and is not overwritten: v"),
        ("key export -v v --output d", 1, "this exists already, and is not overwritten: d"),
        ("key export -v v --output no/such/place", 1, "cannot write: no/such/place"),
        ("key import -v v --input other", 1, "not a header that was exported from a vault: other: header: cut short"),
        ("key import -v v --input cut", 1, "not a header that was exported from a vault: cut: header: cut short"),
        ("key import -v v --input long", 1, "not a header that was exported from a vault: long"),
        ("key import -v v --input missing", 1, "cannot open: missing"),
        ("key import -v v --input d", 1, "cannot read: d"),
        ("key import -v v --input others", 1, "this header is another vault's"),
        ("key import -v v --input saved --password-file third", 12, "wrong password: saved\nhint: it takes a password"),
        ("key import -v missing --input saved", 10, "no vault: missing"),
        ("key add -v missing --new-password-file third", 10, "no vault: missing"),
    ] {
        let output = place.unlocked(line);
        assert_eq!((status(&output), stdout(&output).as_str()), (code, ""), "{line}: {}", stderr(&output));
        let text = stderr(&output);
        assert!(text.starts_with("flint-pipe: error: ") && text.contains(words), "{line}: {text}");
        if code != 2 {
            let json = json_line(line).map(|line| place.unlocked(&line));
            assert!(json.is_none_or(|output| json_of(&output)["exit_code"] == json!(code)), "{line}");
        }
    }
    assert!(place.bytes("v") == before && place.bytes("saved") == saved);
    assert!(!place.path("missing").exists() && !place.path("e").exists());
}

/// The same line with `--json`, where that prints a result.
fn json_line(line: &str) -> Option<String> {
    (!line.starts_with("key list")).then(|| format!("{line} --json"))
}

#[test]
fn two_changes_at_once_are_both_there_afterwards() {
    let place = place();
    let children = ["third", "fourth", "fifth"].map(|name| {
        place.file(name, format!("the {name}\n").as_bytes());
        place.spawn(&format!("key add -v v --new-password-file {name} --label {name} {CHEAP}"))
    });
    let remove = place.spawn("key remove -v v --label second");
    for child in children.into_iter().chain([remove]) {
        let output = crate::support::ended(child, std::time::Duration::from_secs(60));
        assert_eq!(status(&output), 0, "{}", stderr(&output));
    }
    let listed = place.succeeds("key list -v v");
    for label in ["first", "third", "fourth", "fifth"] {
        assert!(listed.contains(&format!("  {label}\n")), "{label}: {listed}");
    }
    assert!(!listed.contains("second"), "{listed}");
    place.succeeds("verify -v v");
}

#[test]
fn a_change_waits_for_who_has_the_vault_alone() {
    let place = place();
    place.succeeds("key export -v v --output saved");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(place.path("v")).expect("it is there");
    let other = FileStorage::new(file);
    assert!(other.try_lock(Lock::Presence, LockMode::Exclusive).expect("it can be locked"));
    let before = place.bytes("v");
    for line in [
        "key add -v v --new-password-file third",
        "key passwd -v v --new-password-file third",
        "key remove -v v --id 2",
        "key import -v v --input saved",
    ] {
        let output = place.unlocked(&format!("{line} --lock-timeout 0 --json"));
        assert_eq!((status(&output), json_of(&output)["exit_code"].clone()), (11, json!(11)), "{line}");
    }
    // Who only looks does not wait.
    place.succeeds("key list -v v");
    place.succeeds("key export -v v --output another");
    assert!(place.bytes("v") == before);
}

#[test]
fn a_bad_spare_copy_is_told_and_a_damaged_vault_is_left_alone() {
    let place = place();
    let mut bytes = place.bytes("v");
    bytes[100] ^= 1;
    place.file("v", &bytes);
    let output = place.unlocked("key add -v v --new-password-file third --label third");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("the copy of the header at byte 0 is bad"), "{}", stderr(&output));
    place.succeeds("verify -v v");
    assert_eq!(opening(&place, "v"), ["first", "second", "third"]);

    // The spare copy is bad, and then the vault is cut.
    bytes.truncate(60 << 10);
    place.file("cut", &bytes);
    let output = place.unlocked("key passwd -v cut --new-password-file third");
    assert_eq!(status(&output), 13, "{}", stderr(&output));
    assert!(stderr(&output).contains("hint: flint-pipe recover -v cut"), "{}", stderr(&output));
    assert!(place.bytes("cut") == bytes);
    bytes[(32 << 10) + 100] ^= 1;
    place.file("headless", &bytes);
    let output = place.unlocked("key add -v headless --new-password-file third");
    assert_eq!(status(&output), 13, "{}", stderr(&output));
    assert!(stderr(&output).contains("hint: flint-pipe key import -v headless"), "{}", stderr(&output));
    assert!(place.bytes("headless") == bytes);
}

/// Runs the program as somebody who may write nothing that is another's.
fn as_nobody(place: &Place, line: &str) -> Output {
    let mut command = Command::new(place.path("flint-pipe"));
    command.args(line.split_whitespace()).current_dir(place.directory.path()).env_clear();
    command.env("FLINT_PASSWORD", PASSWORD);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.output().expect("it starts")
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

#[test]
fn where_nothing_can_be_written_nothing_changes() {
    let place = place();
    place.succeeds("key export -v v --output saved");
    std::fs::copy(env!("CARGO_BIN_EXE_flint-pipe"), place.path("flint-pipe")).expect("a copy for all");
    set_mode(&place.path("flint-pipe"), 0o755);
    for name in ["v", "saved", "third"] {
        set_mode(&place.path(name), 0o444);
    }
    set_mode(place.directory.path(), 0o555);
    let before = place.bytes("v");
    for line in [
        "key add -v v --new-password-file third",
        "key passwd -v v --new-password-file third",
        "key remove -v v --label second",
        "key import -v v --input saved",
        "key export -v v --output new",
    ] {
        let output = as_nobody(&place, line);
        assert_eq!(status(&output), 1, "{line}: {}", stderr(&output));
        let text = stderr(&output);
        assert!(text.contains("Permission denied") && text.contains("hint:"), "{line}: {text}");
    }
    let output = as_nobody(&place, "key list -v v");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    set_mode(place.directory.path(), 0o755);
    assert!(place.bytes("v") == before && !place.path("new").exists());
}

#[test]
fn a_header_that_was_saved_opens_a_vault_that_has_lost_its_own() {
    let place = place();
    place.succeeds("key export -v v --output saved");
    place.succeeds("key passwd -v v --new-password-file third");
    let whole = place.bytes("v");
    let mut bytes = whole.clone();
    bytes[..48 << 10].fill(0);
    place.file("v", &bytes);
    assert_eq!(opening(&place, "v"), [] as [&str; 0]);
    place.succeeds("key import -v v --input saved");
    assert_eq!(opening(&place, "v"), ["first", "second"]);
    place.succeeds("verify -v v");
    // All that stands in fixed places is lost: the header is put back, and what is left recovered.
    bytes[..64 << 10].fill(0);
    place.file("v", &bytes);
    place.succeeds("key import -v v --input saved --password-file second");
    place.succeeds("recover -v v --in-place");
    place.succeeds("verify -v v");
    assert_eq!(place.succeeds("get -v v -t d/one --stdout"), "the first");
}

#[test]
fn a_label_is_shown_without_what_a_terminal_acts_on() {
    let place = place();
    let mut command = place.command();
    command.args(["key", "add", "-v", "v", "--new-password-file", "third", "--label", "a\x1b[31m\nb"]);
    let output = command.env("FLINT_PASSWORD", PASSWORD).output().expect("it starts");
    assert!(stdout(&output).ends_with("label         a\\x1b[31m\\x0ab\n"), "{}", stdout(&output));
    let listed = place.succeeds("key list -v v");
    assert!(listed.ends_with("  a\\x1b[31m\\x0ab\n"), "{listed}");
    let listed = place.succeeds("key list -v v --json");
    assert!(listed.contains(r#""label":"a\u001b[31m\nb""#), "{listed}");
}

#[test]
fn the_last_of_several_labels_and_the_number_of_passwords_have_their_limits() {
    let place = place();
    for number in 3..=8 {
        place.succeeds(&format!("key add -v v --new-password-file third --label {number} {CHEAP}"));
    }
    let output = place.unlocked(&format!("key add -v v --new-password-file third {CHEAP}"));
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).contains("a vault has at most 8 passwords: v"), "{}", stderr(&output));
    // Each is bearable, and all together are not.
    place.succeeds("key remove -v v --label 8");
    let output = place.unlocked("key add -v v --new-password-file third --kdf-memory 1G --kdf-time 4 -n");
    assert_eq!(status(&output), 1, "{}", stdout(&output));
    assert!(stderr(&output).contains("all key slots together above 4 GiB times passes"), "{}", stderr(&output));
}
