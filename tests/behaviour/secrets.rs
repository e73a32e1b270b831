//! When a run is over, the memory of the process holds neither the password nor what was packed; nor does a core file.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use flint_pipe::{ExtractOptions, Level, Password, Vault};

use crate::support::tree::Tree;
use crate::support::{add_with, cheap, in_a_process_of_its_own, program, simple, within};

/// Two halves that stand beside each other nowhere but in what is looked for.
type Halves = [&'static str; 2];

const PASSWORD: Halves = ["Zq7vK2mX9pL4", "tR8wN3bY6cJ1"];
const CONTENT: Halves = ["hG5dS0aF8kQ2", "wE7rT4yU1iO6"];

/// Has the shell write both halves, joined, `times` times: what is looked for is never put together here.
fn write_joined(halves: Halves, times: u32, path: &std::path::Path) {
    let script = "n=0; while [ $n -lt $3 ]; do printf '%s%s\\n' \"$1\" \"$2\"; n=$((n + 1)); done > \"$4\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh", halves[0], halves[1], &times.to_string()]).arg(path);
    assert!(shell.status().unwrap().success());
}

/// How often the two halves stand side by side in the memory that this process can write to.
fn found_in_memory(halves: Halves) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut window = vec![0; 1 << 20];
    let own = window.as_ptr().addr()..window.as_ptr().addr() + window.len();
    let mut found = 0;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        let (mut at, end) = (number(start), number(end));
        while at < end {
            let len = window.len().min(end - at);
            let Ok(read) = memory.read_at(&mut window[..len], at as u64) else { break };
            if read == 0 {
                break;
            }
            let bytes = &window[..read];
            for (position, _) in bytes.windows(12).enumerate().filter(|(_, bytes)| *bytes == halves[0].as_bytes()) {
                let is_joined = bytes[position + 12..].starts_with(halves[1].as_bytes());
                // What was read a moment ago lies in the window.
                found += usize::from(is_joined && !own.contains(&(at + position)));
            }
            at += if at + read < end { read.saturating_sub(32).max(1) } else { read };
        }
    }
    found
}

#[test]
fn after_a_run_the_memory_holds_neither_password_nor_content() {
    if !in_a_process_of_its_own("secrets::after_a_run_the_memory_holds_neither_password_nor_content") {
        return;
    }
    within(120, || {
        let tree = Tree::new();
        write_joined(PASSWORD, 1, &tree.path("password"));
        tree.file("s/small", "");
        write_joined(CONTENT, 10, &tree.path("s/small"));
        // Some records of its own, read through a mapping.
        write_joined(CONTENT, 60_000, &tree.path("s/large"));
        let mut bytes = std::fs::read(tree.path("password")).unwrap();
        bytes.pop();
        let password = Password::from_bytes(bytes);
        assert!(found_in_memory(PASSWORD) >= 1, "what is there is found");

        let vault = Vault::open_or_create(tree.path("v"), &password, &cheap()).unwrap();
        let mut options = simple();
        options.level = Level::Store;
        let report = add_with(&vault, tree.root(), &["s"], options).unwrap();
        assert!(report.is_complete() && report.total_size > 1_000_000, "{report}");
        let restored = vault.extract(&tree.path("out"), &ExtractOptions::default(), &()).unwrap();
        assert!(restored.is_complete());
        // A cipher leaves its last blocks, 128 bytes or so, on the stack of its worker; 60,000 copies went through buffers.
        let left = found_in_memory(CONTENT);
        assert!(left <= 10, "content is wiped with the run: {left} copies are left");
        drop(vault);
        drop(password);
        assert_eq!(found_in_memory(PASSWORD), 0, "the password is wiped with what held it");
    });
}

#[test]
fn content_that_is_in_memory_would_be_found() {
    if !in_a_process_of_its_own("secrets::content_that_is_in_memory_would_be_found") {
        return;
    }
    let tree = Tree::new();
    write_joined(CONTENT, 100, &tree.path("file"));
    let bytes = std::fs::read(tree.path("file")).unwrap();
    assert!(found_in_memory(CONTENT) >= 100);
    drop(bytes);
}

#[test]
fn a_process_that_dies_leaves_no_core_and_cannot_be_traced() {
    within(60, || {
        let tree = Tree::new();
        let mut command = program();
        // It waits for its password, with a limit on cores that would let it leave one.
        command.args(["create", "-v", "v", "--password-file", "-"]).current_dir(tree.root());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"half a pass").unwrap();
        let proc = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap();
        let is_limited = || {
            proc("limits").lines().any(|line| {
                line.starts_with("Max core file size")
                    && line.split_whitespace().filter(|word| *word == "0").count() == 2
            })
        };
        while !is_limited() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(!proc("cmdline").contains("half a pass"));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::ABORT)
            .unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.signal(), status.core_dumped()), (Some(libc::SIGABRT), false));
    });
}
