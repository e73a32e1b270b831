//! All the ways a password comes in, in their order. Never an argument: those are there for every process to read.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use flint_pipe::{Error, FileOp, Password};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::cli::args::{NewPasswordArgs, PasswordArgs};
use crate::cli::escape;

/// The longest password that is read from a file or a command, in bytes. One buffer of this size is made and wiped, so
/// that no smaller one is left behind by growing.
const MAX_LEN: usize = 64 << 10;

/// The terminal of this process, whatever its standard streams are.
const TERMINAL: &str = "/dev/tty";

/// Where a password comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The first line of a file; `-` is standard input. The word is the option or variable that named it.
    File(&'static str, PathBuf),
    /// The first line that a command prints.
    Command(&'static str, OsString),
    /// `FLINT_PASSWORD`.
    Environment(OsString),
    /// The terminal, with the echo off.
    Prompt,
}

impl Origin {
    /// The first of the ways that was offered.
    ///
    /// - `variable`: the environment.
    /// - `terminal`: whether there is somebody to ask.
    ///
    /// # Errors
    /// [`Error::Usage`] with all the ways, if there is none.
    pub(crate) fn choose(
        args: &PasswordArgs,
        variable: impl Fn(&str) -> Option<OsString>,
        terminal: bool,
    ) -> Result<Self, Error> {
        if let Some(path) = &args.password_file {
            return Ok(Self::File("--password-file", path.clone()));
        }
        if let Some(command) = &args.password_command {
            return Ok(Self::Command("--password-command", command.clone()));
        }
        if let Some(path) = variable("FLINT_PASSWORD_FILE") {
            return Ok(Self::File("FLINT_PASSWORD_FILE", path.into()));
        }
        if let Some(command) = variable("FLINT_PASSWORD_COMMAND") {
            return Ok(Self::Command("FLINT_PASSWORD_COMMAND", command));
        }
        if let Some(password) = variable("FLINT_PASSWORD") {
            return Ok(Self::Environment(password));
        }
        if terminal {
            return Ok(Self::Prompt);
        }
        Err(Error::Usage(
            "no password: give --password-file FILE or --password-command CMD, set FLINT_PASSWORD_FILE, \
             FLINT_PASSWORD_COMMAND or FLINT_PASSWORD, or run it on a terminal"
                .to_owned(),
        ))
    }

    /// The first of the ways for a new password that was offered. The environment is none: it has the one that is valid now.
    ///
    /// # Errors
    /// As [`Self::choose`].
    pub(crate) fn choose_new(args: &NewPasswordArgs, terminal: bool) -> Result<Self, Error> {
        if let Some(path) = &args.new_password_file {
            return Ok(Self::File("--new-password-file", path.clone()));
        }
        if let Some(command) = &args.new_password_command {
            return Ok(Self::Command("--new-password-command", command.clone()));
        }
        if terminal {
            return Ok(Self::Prompt);
        }
        Err(Error::Usage(
            "no new password: give --new-password-file FILE or --new-password-command CMD, or run it on a terminal"
                .to_owned(),
        ))
    }

    /// Whether it is read from standard input, which has only one first line.
    pub(crate) fn is_stdin(&self) -> bool {
        matches!(self, Self::File(_, path) if path == Path::new("-"))
    }

    /// The way in a word, for the hint after a wrong password.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::File(name, _) | Self::Command(name, _) => name,
            Self::Environment(_) => "FLINT_PASSWORD",
            Self::Prompt => "the terminal",
        }
    }

    /// Fetches the password of `vault`.
    ///
    /// - `is_new`: it is to be valid from now on, so a prompt asks twice, and again if the two differ.
    ///
    /// # Errors
    /// [`Error::Refused`] for an empty password; [`Error::Io`] for a file or command that does
    /// not give one.
    pub(crate) fn fetch(self, vault: &Path, is_new: bool) -> Result<Password, Error> {
        let place = match &self {
            Self::File(_, path) if path != Path::new("-") => path.clone(),
            Self::Prompt => vault.to_owned(),
            Self::File(name, _) | Self::Command(name, _) => PathBuf::from(name),
            Self::Environment(_) => PathBuf::from("FLINT_PASSWORD"),
        };
        let password = match self {
            Self::File(_, path) => first_line_of_file(&path)?,
            Self::Command(name, command) => first_line_of_command(name, &command)?,
            Self::Environment(password) => Password::from_bytes(password.as_bytes().to_vec()),
            Self::Prompt => ask(vault, is_new)?,
        };
        if password.is_empty() {
            return Err(Error::Refused { what: "an empty password is refused", path: place });
        }
        Ok(password)
    }
}

/// Whether there is a terminal to ask on: who has redirected standard input is taken for a script.
pub(crate) fn is_terminal() -> bool {
    io::stdin().is_terminal()
}

fn first_line_of_file(path: &Path) -> Result<Password, Error> {
    let is_stdin = path == Path::new("-");
    let name = if is_stdin { Path::new("standard input") } else { path };
    let opened = if is_stdin {
        // Not `io::stdin()`, whose buffer would keep a copy.
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        #[expect(clippy::disallowed_methods, reason = "the path and the operation are put into the error here")]
        File::open(path)
    };
    let mut file = opened.map_err(|error| Error::io(FileOp::Open, name, error))?;
    first_line(&mut file).map_err(|error| Error::io(FileOp::Read, name, error))
}

/// - `name`: the option or variable that gave the command; the command itself may hold secrets and is not printed.
fn first_line_of_command(name: &'static str, command: &OsStr) -> Result<Password, Error> {
    let failed = |error: io::Error| Error::io(FileOp::Read, name, error);
    let mut child = Command::new("sh").arg("-c").arg(command).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut output = child.stdout.take().expect("standard output is piped above");
    let line = first_line(&mut output).and_then(|line| {
        // Who is cut off while printing fails, and that failure would be ours.
        drain(&mut output)?;
        Ok(line)
    });
    drop(output);
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        return Err(failed(io::Error::other(format!("the command failed: {status}"))));
    }
    line.map_err(failed)
}

/// The bytes before the first line feed (or before CR LF), or all if there is none.
fn first_line(input: &mut dyn Read) -> io::Result<Password> {
    let mut buffer = Zeroizing::new(vec![0; MAX_LEN + 2]);
    let mut filled = 0;
    let end = loop {
        let read = match input.read(&mut buffer[filled..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let new = &buffer[filled..filled + read];
        if let Some(at) = new.iter().position(|&byte| byte == b'\n') {
            let end = filled + at;
            break if buffer[..end].ends_with(b"\r") { end - 1 } else { end };
        }
        filled += read;
        if read == 0 {
            break filled;
        }
    };
    if end > MAX_LEN {
        return Err(io::Error::other(format!("the password is longer than {MAX_LEN} bytes")));
    }
    Ok(Password::from_bytes(buffer[..end].to_vec()))
}

/// Reads to the end and forgets it.
fn drain(input: &mut dyn Read) -> io::Result<()> {
    let mut buffer = Zeroizing::new([0; 4096]);
    loop {
        match input.read(&mut buffer[..]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Asks on the terminal; for a new vault until it was given the same twice, or nothing.
fn ask(vault: &Path, is_new: bool) -> Result<Password, Error> {
    let name = escape::path(vault);
    let _saved = SavedTerminal::save();
    if !is_new {
        return Ok(Password::new(prompt(&format!("password of {name}: "))?));
    }
    let mut question = format!("new password of {name}: ");
    loop {
        let first = Zeroizing::new(prompt(&question)?);
        if first.is_empty() || *first == *Zeroizing::new(prompt("the same again: ")?) {
            return Ok(Password::from_bytes(first.as_bytes().to_vec()));
        }
        question = format!("the two differ; new password of {name}: ");
    }
}

/// Reads one hidden line; the caller wipes it.
fn prompt(question: &str) -> Result<String, Error> {
    rpassword::prompt_password(question).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Error::Interrupted,
        _ => Error::io(FileOp::Read, TERMINAL, error),
    })
}

/// The terminal's settings from before a prompt, for who ends the process in the middle of it.
static BEFORE_PROMPT: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// While this lives, [`restore_terminal`] knows what to restore.
struct SavedTerminal;

impl SavedTerminal {
    fn save() -> Self {
        // Without a terminal there is nothing to restore, and the prompt itself will say so.
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(TERMINAL);
        let saved = opened.ok().and_then(|terminal| {
            let settings = tcgetattr(&terminal).ok()?;
            Some((terminal, settings))
        });
        *BEFORE_PROMPT.lock().unwrap_or_else(PoisonError::into_inner) = saved;
        Self
    }
}

impl Drop for SavedTerminal {
    fn drop(&mut self) {
        *BEFORE_PROMPT.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Turns the echo on again if a prompt has turned it off, and leaves its line; for the thread that ends the process on a signal.
pub(crate) fn restore_terminal() {
    if let Some((terminal, settings)) = &mut *BEFORE_PROMPT.lock().unwrap_or_else(PoisonError::into_inner) {
        // There is nobody left to tell if this fails. The line of the prompt is ended, as the prompt itself would.
        let _ = tcsetattr(&*terminal, OptionalActions::Now, settings);
        let _ = terminal.write_all(b"\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIABLES: [&str; 3] = ["FLINT_PASSWORD_FILE", "FLINT_PASSWORD_COMMAND", "FLINT_PASSWORD"];

    fn chosen(args: &PasswordArgs, variables: &[&str], terminal: bool) -> Result<&'static str, Error> {
        let variable = |name: &str| variables.contains(&name).then(|| OsString::from("value"));
        Origin::choose(args, variable, terminal).map(|origin| origin.name())
    }

    #[test]
    fn the_ways_are_tried_in_the_order_of_the_contract() {
        let mut args = PasswordArgs { password_file: Some("file".into()), password_command: Some("command".into()) };
        assert_eq!(chosen(&args, &VARIABLES, true).expect("a way"), "--password-file");
        args.password_file = None;
        assert_eq!(chosen(&args, &VARIABLES, true).expect("a way"), "--password-command");
        args.password_command = None;
        assert_eq!(chosen(&args, &VARIABLES, true).expect("a way"), "FLINT_PASSWORD_FILE");
        assert_eq!(chosen(&args, &VARIABLES[1..], true).expect("a way"), "FLINT_PASSWORD_COMMAND");
        assert_eq!(chosen(&args, &VARIABLES[2..], true).expect("a way"), "FLINT_PASSWORD");
        assert_eq!(chosen(&args, &[], true).expect("a way"), "the terminal");
    }

    #[test]
    fn without_any_way_all_of_them_are_named() {
        let error = chosen(&PasswordArgs::default(), &[], false).expect_err("there is no way");
        assert_eq!(error.kind(), flint_pipe::ErrorKind::Usage);
        for way in VARIABLES.into_iter().chain(["--password-file", "--password-command", "terminal"]) {
            assert!(error.to_string().contains(way), "{way}");
        }
    }

    #[test]
    fn a_new_password_comes_from_its_own_ways_alone() {
        let mut args =
            NewPasswordArgs { new_password_file: Some("-".into()), new_password_command: Some("command".into()) };
        let chosen = |args: &NewPasswordArgs, terminal| Origin::choose_new(args, terminal).map(|origin| origin.name());
        assert!(args.is_given() && Origin::choose_new(&args, true).is_ok_and(|origin| origin.is_stdin()));
        assert_eq!(chosen(&args, true).expect("a way"), "--new-password-file");
        args.new_password_file = None;
        assert_eq!(chosen(&args, true).expect("a way"), "--new-password-command");
        args.new_password_command = None;
        assert!(!args.is_given());
        assert_eq!(chosen(&args, true).expect("a way"), "the terminal");
        let error = chosen(&args, false).expect_err("there is no way");
        assert_eq!(error.kind(), flint_pipe::ErrorKind::Usage);
        for way in ["--new-password-file", "--new-password-command", "terminal"] {
            assert!(error.to_string().contains(way), "{way}");
        }
    }

    fn line(input: &[u8]) -> io::Result<Password> {
        first_line(&mut &*input)
    }

    /// Whether the first line of `input` is `expected`. A password shows nothing of itself, so its length stands for it:
    /// empty or not, and the limit.
    fn is_empty(input: &[u8]) -> bool {
        line(input).expect("a short line").is_empty()
    }

    #[test]
    fn the_line_end_is_no_part_of_the_password() {
        assert!(is_empty(b""));
        assert!(is_empty(b"\n"));
        assert!(is_empty(b"\r\n"));
        assert!(is_empty(b"\nsecond line"));
        assert!(!is_empty(b" "));
        assert!(!is_empty(b"\r"));
        assert!(!is_empty(b"secret"));
    }

    #[test]
    fn a_line_is_read_to_its_limit_and_no_further() {
        let mut long = vec![b'x'; MAX_LEN];
        assert!(line(&long).is_ok());
        long.extend_from_slice(b"\r\n");
        assert!(line(&long).is_ok());
        long.insert(0, b'x');
        assert!(line(&long).is_err());
        assert!(line(&vec![b'x'; 2 * MAX_LEN]).is_err());
    }

    #[test]
    fn an_empty_password_is_refused_wherever_it_comes_from() {
        let vault = Path::new("a.flint");
        for (origin, place) in [
            (Origin::Environment(OsString::new()), "FLINT_PASSWORD"),
            (Origin::Command("--password-command", "echo".into()), "--password-command"),
            (Origin::File("--new-password-file", "/dev/null".into()), "/dev/null"),
        ] {
            let error = origin.clone().fetch(vault, false).expect_err("it is empty");
            assert_eq!(error.to_string(), format!("an empty password is refused: {place}"), "{origin:?}");
        }
    }

    #[test]
    fn a_command_gives_its_first_line_whatever_it_prints_after_it() {
        let origin = |command: &str| Origin::Command("--password-command", command.into());
        let vault = Path::new("a.flint");
        assert!(origin("echo secret; head -c 1000000 /dev/zero").fetch(vault, false).is_ok());
        assert!(origin("echo; echo secret").fetch(vault, false).is_err());
    }

    #[test]
    fn a_command_that_fails_gives_no_password_and_is_not_printed() {
        let origin = Origin::Command("FLINT_PASSWORD_COMMAND", "echo secret; exit 3".into());
        let error = origin.fetch(Path::new("a.flint"), false).expect_err("it failed");
        let text = crate::cli::message::plain(&error);
        assert_eq!(text, "cannot read: FLINT_PASSWORD_COMMAND: the command failed: exit status: 3");
    }

    #[test]
    fn a_password_file_that_is_not_there_is_named() {
        let error = Origin::File("--password-file", "no/such/file".into()).fetch(Path::new("v"), false);
        assert!(error.expect_err("no such file").to_string().contains("cannot open: no/such/file"));
    }
}
