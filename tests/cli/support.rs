//! What the tests share: a directory with a vault, and the program started in it.

use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;

pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// A vault's directory, and the program started in it without any password and any terminal.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flint-pipe"));
        command
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .timeout(Duration::from_secs(60));
        command
    }

    /// Runs the program with a password in its environment.
    pub(crate) fn unlocked(&self, line: &str) -> Output {
        self.command().env("FLINT_PASSWORD", PASSWORD).args(line.split_whitespace()).output().expect("it starts")
    }

    /// The same, and expects it to succeed.
    pub(crate) fn succeeds(&self, line: &str) -> String {
        let output = self.unlocked(line);
        assert_eq!(status(&output), 0, "{line}: {}", stderr(&output));
        stdout(&output)
    }

    /// The program, to be started and left running.
    pub(crate) fn spawn(&self, line: &str) -> Child {
        std::process::Command::new(env!("CARGO_BIN_EXE_flint-pipe"))
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("FLINT_PASSWORD", PASSWORD)
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts")
    }

    /// A tree and a vault `v` of it.
    pub(crate) fn with_vault(self) -> Self {
        self.file("d/one", b"the first")
            .file("d/two", &[b'x'; 5000])
            .file("d/sub/three", b"")
            .succeeds("add -v v -s d");
        self
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> &Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("it lies in the place")).expect("its directory");
        std::fs::write(path, content).expect("a small file");
        self
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut file = std::fs::OpenOptions::new().read(true).open(self.path(name)).expect("it is there");
        std::io::Read::read_to_end(&mut file, &mut bytes).expect("it is read");
        bytes
    }

    /// Runs the program with these arguments, between blanks.
    pub(crate) fn run(&self, line: &str) -> Output {
        self.command().args(line.split_whitespace()).output().expect("the program starts")
    }

    /// A file that is in the vault's place.
    pub(crate) fn with_file(self, name: &str) -> Self {
        std::fs::write(self.path(name), b"not a vault").expect("a small file");
        self
    }
}

pub(crate) fn status(output: &Output) -> i32 {
    output.status.code().expect("the program ends by itself")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the result is UTF-8")
}

/// Text that a high level spends long on.
pub(crate) fn heavy(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(format!("{:x} ", state >> 48).as_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn json_of(output: &Output) -> Value {
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "one line: {}", stdout(output));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// Waits for a program, and ends it if that takes too long.
pub(crate) fn ended(mut child: Child, limit: Duration) -> Output {
    let began = Instant::now();
    while child.try_wait().expect("it can be waited for").is_none() {
        if began.elapsed() > limit {
            child.kill().expect("it can be ended");
            panic!("it has not ended after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("it has ended")
}

/// The first line that a program writes to this pipe, waited for a minute; what comes after it is read and dropped.
pub(crate) fn first_line(pipe: impl std::io::Read + Send + 'static) -> String {
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let lines = std::io::BufRead::lines(std::io::BufReader::new(pipe));
        // Nobody listens any more after the first.
        lines.map_while(Result::ok).for_each(|line| drop(sender.send(line)));
    });
    lines.recv_timeout(Duration::from_secs(60)).expect("it says something within a minute")
}
