//! What somebody at a terminal sees: the prompt that hides what is typed, the bar, and a terminal that is left as it was.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::support::{PASSWORD, Place, ended, heavy, status};

/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(60);

/// A terminal with the program on it.
struct Terminal {
    /// The other end of it: what is written here was typed.
    master: File,
    child: Child,
    /// What the program writes, as it comes.
    written: Receiver<Vec<u8>>,
    seen: String,
    /// Up to where `seen` was looked at.
    looked: usize,
}

impl Terminal {
    /// Starts the program in `place` on a terminal of `columns`, without any password.
    fn start(place: &Place, line: &str, columns: u16, variables: &[(&str, &str)]) -> Self {
        let program = [env!("CARGO_BIN_EXE_flint-pipe")];
        let words: Vec<&str> = program.into_iter().chain(line.split_whitespace()).collect();
        Self::start_program(place, &words, columns, variables)
    }

    /// The same of any program.
    fn start_program(place: &Place, words: &[&str], columns: u16, variables: &[(&str, &str)]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).expect("its size");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let end = File::from(rustix::fs::open(&*name, flags, Mode::empty()).expect("the program's end of it"));
        let stream = || Stdio::from(end.try_clone().expect("another descriptor"));
        // A terminal can be the one of a process only if that leads a session: what `setsid` is for.
        let child = Command::new("setsid")
            .arg("--ctty")
            .args(words)
            .current_dir(place.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TERM", "xterm")
            .envs(variables.iter().copied())
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .expect("setsid is a part of util-linux");
        let mut master = File::from(master);
        let mut reader = master.try_clone().expect("another descriptor");
        let (sender, written) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end is an error: nobody has the other end open any more.
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        master.flush().expect("nothing is buffered");
        Self { master, child, written, seen: String::new(), looked: 0 }
    }

    /// Waits until the program has written `text`, behind what was waited for before.
    fn waits_for(&mut self, text: &str) {
        let began = Instant::now();
        while !self.seen[self.looked..].contains(text) {
            match self.written.recv_timeout(LIMIT.saturating_sub(began.elapsed())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{text:?} does not come ({error}): {:?}", self.seen),
            }
        }
        self.looked += self.seen[self.looked..].find(text).expect("it was just found") + text.len();
    }

    fn is_echoing(&self) -> bool {
        tcgetattr(&self.master).expect("it is a terminal").local_modes.contains(LocalModes::ECHO)
    }

    /// Types a line once nothing that is typed is shown any more.
    fn types_hidden(&mut self, line: &str) {
        let began = Instant::now();
        while self.is_echoing() {
            assert!(began.elapsed() < LIMIT, "what is typed is shown: {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        }
        self.master.write_all(line.as_bytes()).expect("it can be typed on");
    }

    /// Waits for the end, and answers how it was and all that was written.
    fn ends(mut self) -> (ExitStatus, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                break status;
            }
            if began.elapsed() > LIMIT {
                self.child.kill().expect("it can be ended");
                panic!("it has not ended: {:?}", self.seen);
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(self.is_echoing(), "the terminal is left without its echo");
        loop {
            match self.written.recv_timeout(LIMIT) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Disconnected) => return (status, self.seen),
                Err(RecvTimeoutError::Timeout) => panic!("the terminal is still open: {:?}", self.seen),
            }
        }
    }
}

#[test]
fn a_new_password_is_asked_for_twice_until_both_are_the_same_and_is_not_shown() {
    let place = Place::new();
    let mut terminal = Terminal::start(&place, "create -v v", 80, &[]);
    terminal.waits_for("new password of v: ");
    terminal.types_hidden("first try\n");
    terminal.waits_for("the same again: ");
    terminal.types_hidden("second try\n");
    terminal.waits_for("the two differ; new password of v: ");
    terminal.types_hidden("correct horse\n");
    terminal.waits_for("the same again: ");
    terminal.types_hidden("correct horse\n");
    let (ended, seen) = terminal.ends();
    assert_eq!(ended.code(), Some(0), "{seen}");
    assert!(seen.contains("created v"), "{seen}");
    for typed in ["first", "second", "horse"] {
        assert!(!seen.contains(typed), "{seen}");
    }
    let opened = place.command().env("FLINT_PASSWORD", "correct horse").args(["list", "-v", "v"]).output();
    assert_eq!(status(&opened.expect("it starts")), 0);
}

#[test]
fn a_password_is_changed_at_the_prompt_the_old_one_first() {
    let place = Place::new().with_vault();
    let mut terminal = Terminal::start(&place, "key passwd -v v", 80, &[]);
    for (question, answer) in [
        ("password of v: ", "wrong"),
        ("password of v: ", PASSWORD),
        ("new password of v: ", "first try"),
        ("the same again: ", "second try"),
        ("the two differ; new password of v: ", "another horse"),
        ("the same again: ", "another horse"),
    ] {
        terminal.waits_for(question);
        terminal.types_hidden(&format!("{answer}\n"));
    }
    let (ended, seen) = terminal.ends();
    assert_eq!(ended.code(), Some(0), "{seen}");
    assert!(seen.contains("changed the password of v") && !seen.contains("another horse"), "{seen}");
    let list = |password: &str| {
        let output = place.command().env("FLINT_PASSWORD", password).args(["list", "-v", "v"]).output();
        status(&output.expect("it starts"))
    };
    assert_eq!((list(PASSWORD), list("another horse")), (12, 0));
}

#[test]
fn a_wrong_password_can_be_typed_again_twice() {
    let place = Place::new().with_vault();
    for (right_at, code) in [(2, 0), (4, 12)] {
        let mut terminal = Terminal::start(&place, "list -v v", 80, &[]);
        for attempt in 1..=right_at.min(3) {
            terminal.waits_for("password of v: ");
            terminal.types_hidden(if attempt == right_at { PASSWORD } else { "wrong" });
            terminal.types_hidden("\n");
            if attempt < right_at {
                terminal.waits_for("wrong password: v");
            }
        }
        let (ended, seen) = terminal.ends();
        assert_eq!(ended.code(), Some(code), "{seen}");
        assert_eq!(seen.contains("d/one"), code == 0, "{seen}");
        assert_eq!(seen.contains("taken from the terminal"), code == 12, "{seen}");
    }
}

#[test]
fn an_empty_password_at_the_prompt_is_refused() {
    let place = Place::new();
    let mut terminal = Terminal::start(&place, "create -v v", 80, &[]);
    terminal.waits_for("new password of v: ");
    terminal.types_hidden("\n");
    let (ended, seen) = terminal.ends();
    assert_eq!(ended.code(), Some(1), "{seen}");
    assert!(seen.contains("an empty password is refused"), "{seen}");
    assert!(!place.path("v").exists());
}

#[test]
fn whatever_ends_a_prompt_leaves_the_terminal_as_it_was() {
    let place = Place::new();
    // Ctrl-C, and what others may send.
    for signal in [None, Some(Signal::INT), Some(Signal::TERM), Some(Signal::QUIT)] {
        let mut terminal = Terminal::start(&place, "add -v v -s .", 80, &[]);
        terminal.waits_for("new password of v: ");
        terminal.types_hidden("half a passw");
        match signal {
            None => terminal.types_hidden("\x03"),
            Some(signal) => kill_process(Pid::from_child(&terminal.child), signal).expect("it is running"),
        }
        // That the terminal echoes again is looked at there.
        let (ended, seen) = terminal.ends();
        match signal {
            Some(Signal::QUIT) => assert_eq!(ended.signal(), Some(Signal::QUIT.as_raw()), "{seen}"),
            _ => {
                assert_eq!(ended.code(), Some(130), "{signal:?}: {seen}");
                assert!(seen.contains("error:") && seen.contains("interrupted"), "{signal:?}: {seen}");
            }
        }
        assert!(!seen.contains("passw\r") && !seen.contains("half"), "{seen}");
        assert!(!place.path("v").exists());
    }
}

/// Whether anything of a bar stands here: figures, or what erases them.
fn rest_of_bar(text: &str) -> bool {
    text.contains('[') && (text.contains("\x1b[2K") || text.contains("files"))
}

#[test]
fn a_bar_is_drawn_on_a_terminal_and_taken_away_before_the_result() {
    let place = Place::new();
    place.file("heavy", &heavy(3_000_000));
    for columns in [80, 20] {
        place.file("v", b"");
        std::fs::remove_file(place.path("v")).expect("it is there");
        let (ended, seen) =
            Terminal::start(&place, "add -v v -s heavy", columns, &[("FLINT_PASSWORD", PASSWORD)]).ends();
        assert_eq!(ended.code(), Some(0), "{seen}");
        let (before, result) = seen.split_once("added to v").expect("the result");
        assert!(before.contains('['), "a bar: {before:?}");
        // What stood on the line of the bar, or on its lines, was erased last of all.
        let after = before.rfind("\x1b[2K").map(|at| &before[at + 4..]).expect("something is erased");
        assert!(!rest_of_bar(after), "{after:?} is left");
        assert!(!rest_of_bar(result), "{result:?}");
    }
}

#[test]
fn each_stage_has_a_line_where_the_terminal_has_room() {
    let place = Place::new();
    place.file("heavy", &heavy(30_000_000));
    let line = "add -v v -s heavy --level 12 --chunk-size 512K";
    let mut terminal = Terminal::start(&place, line, 80, &[("FLINT_PASSWORD", PASSWORD)]);
    for part in ["pack ", "  compress ", "] queue ", "  buffers "] {
        terminal.waits_for(part);
    }
    // What does not fit any more goes, and the whole stays.
    tcsetwinsize(&terminal.master, Winsize { ws_row: 4, ws_col: 30, ws_xpixel: 0, ws_ypixel: 0 }).expect("its size");
    let (ended, seen) = terminal.ends();
    assert_eq!(ended.code(), Some(0), "{seen}");
    assert!(!rest_of_bar(seen.rsplit("added to v").next().expect("a part")), "{seen:?}");
}

#[test]
fn a_terminal_that_goes_away_ends_a_run_as_if_it_were_asked_to_unless_it_was_begun_to_go_on() {
    for (line, code) in [("add -v v -s heavy", Some(130)), ("nohup", Some(0))] {
        let place = Place::new();
        place.file("heavy", &heavy(20_000_000));
        let run = "add -v v -s heavy --level 12 --chunk-size 512K";
        let program = env!("CARGO_BIN_EXE_flint-pipe");
        let script = format!("trap '' HUP; exec {program} {run} >result");
        let words: Vec<&str> = if line == "nohup" {
            vec!["sh", "-c", &script]
        } else {
            [program].into_iter().chain(run.split(' ')).collect()
        };
        let mut terminal = Terminal::start_program(&place, &words, 80, &[("FLINT_PASSWORD", PASSWORD)]);
        terminal.waits_for("pack ");
        let Terminal { master, child, written, .. } = terminal;
        drop(master);
        // Its copy in the thread that reads is the last: it ends when nobody takes what is read.
        drop(written);
        let mut child = child;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("it can be waited for") {
                break status;
            }
            assert!(began.elapsed() < LIMIT, "{line}: it has not ended");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), code, "{line}");
        assert_eq!(place.path("v").exists(), code == Some(0), "{line}: what was not finished is taken away");
    }
}

#[test]
fn a_terminal_that_cannot_draw_gets_lines_and_one_that_is_not_asked_nothing() {
    let place = Place::new();
    place.file("heavy", &heavy(1_000_000));
    for (line, term, has_lines) in
        [("add -v v -s heavy", "dumb", true), ("add -v v -s heavy --progress=never", "xterm", false)]
    {
        let variables = [("FLINT_PASSWORD", PASSWORD), ("TERM", term)];
        let (ended, seen) = Terminal::start(&place, line, 80, &variables).ends();
        assert_eq!(ended.code(), Some(0), "{seen}");
        assert_eq!(seen.contains("flint-pipe: pack: ") || seen.contains("flint-pipe: commit: "), has_lines, "{seen}");
        assert!(!seen.contains('\x1b'), "{seen:?}");
    }
}

#[test]
fn messages_have_colours_on_a_terminal_unless_somebody_does_not_want_them() {
    let place = Place::new();
    for (variables, coloured) in [(&[][..], true), (&[("NO_COLOR", "1")], false), (&[("TERM", "dumb")], false)] {
        let (ended, seen) = Terminal::start(&place, "list -v missing", 80, variables).ends();
        assert_eq!(ended.code(), Some(10), "{seen}");
        assert_eq!(seen.contains('\x1b'), coloured, "{variables:?}: {seen:?}");
    }
}

#[test]
fn ctrl_c_in_the_middle_of_a_run_takes_the_bar_away_and_ends_with_130() {
    let place = Place::new();
    place.file("heavy", &heavy(60_000_000));
    let line = "add -v v -s heavy --level 19 --chunk-size 512K";
    let mut terminal = Terminal::start(&place, line, 80, &[("FLINT_PASSWORD", PASSWORD)]);
    terminal.waits_for("pack ");
    terminal.master.write_all(b"\x03").expect("it can be typed on");
    let (ended, seen) = terminal.ends();
    assert_eq!(ended.code(), Some(130), "{seen}");
    assert!(seen.contains("interrupted"), "{seen}");
    assert!(!rest_of_bar(seen.rsplit("interrupted").next().expect("a part")), "{seen:?}");
}

#[test]
fn plain_progress_goes_to_a_pipe_as_lines() {
    let place = Place::new();
    place.file("heavy", &heavy(1_000_000));
    for option in ["--progress", "--progress=plain"] {
        let output = ended(place.spawn(&format!("add -v v -s heavy {option}")), LIMIT);
        let said = String::from_utf8(output.stderr).expect("messages are UTF-8");
        let last = said.lines().last().expect("a line at least, at the end");
        assert!(last.starts_with("flint-pipe: ") && last.contains(" of 1 files, "), "{said}");
        assert!(!said.contains('\x1b'), "{said:?}");
    }
}
