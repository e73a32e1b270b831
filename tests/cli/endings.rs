//! How a command ends that does not end well, and what it leaves behind.

use std::time::{Duration, Instant};

use flint_pipe::{FileStorage, Lock, LockMode, Storage as _};
use serde_json::{Value, json};

use crate::support::{PASSWORD, Place, ended, first_line, heavy, json_of, status, stderr, stdout};

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
fn a_vault_belongs_to_its_owner_alone() {
    let place = Place::new().with_vault();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(place.path("v")).expect("it is there"));
    assert_eq!(mode & 0o777, 0o600);
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
        let mut child = place.spawn("add -v v -s d");
        let said = first_line(child.stderr.take().expect("it is piped"));
        assert_eq!(said, "flint-pipe: note: waiting for the vault's lock, held by another process: v");
        drop(other);
        let output = ended(child, Duration::from_secs(60));
        assert_eq!(status(&output), 0, "{}", stderr(&output));
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
        let output = ended(child, Duration::from_secs(20));
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
fn a_file_that_takes_longer_than_the_stall_timeout_is_no_stall_while_it_moves() {
    let place = Place::new();
    place.file("heavy", &heavy(48_000_000));
    // Longer than the timeout and the grace behind it, in one file.
    let began = Instant::now();
    let output = place.unlocked("add -v v -s heavy --level 17 --chunk-size 256K --stall-timeout 2s");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(began.elapsed() > Duration::from_secs(4), "it was over too soon to say anything: {:?}", began.elapsed());
}
