//! What every command has around its own work: messages, the password, the run that can be interrupted, the result, and
//! the status that the process ends with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use flint_pipe::{
    CancelToken, Error, Failed, FileOp, Interval, Notice, Observer, Password, PipelineConfig, Profile, Progress,
    Report, Vault,
};

use crate::cli::args::{NewPasswordArgs, OutputArgs, PasswordArgs, ProgressMode, RecordArgs};
use crate::cli::exit::Status;
use crate::cli::password::{self, Origin};
use crate::cli::progress::Listener;
use crate::cli::record::{Ended, Records};
use crate::cli::report::json;
use crate::cli::report::profile_json::{self, Asked};
use crate::cli::signals::{self, Limits, Overdue};
use crate::cli::{message, stdout};

/// How long a process that is being left waits for its metrics to be written.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);
/// How often a password may be typed at a prompt.
const PROMPT_TRIES: u32 = 3;

/// One command from its arguments to its status.
#[derive(Debug)]
pub(crate) struct Session {
    command: &'static str,
    vault: PathBuf,
    json: bool,
    /// Nothing is to be written.
    dry_run: bool,
    /// What is to be measured; of `profile` alone, whose object it is part of.
    asked: Option<Asked>,
    listener: Listener,
    /// The files that tell of the run, once they are made ready.
    records: OnceLock<Arc<Records>>,
    cancel: CancelToken,
    password_from: OnceLock<&'static str>,
    life: Mutex<Life>,
}

/// How far the command is, as far as a signal is concerned.
#[derive(Debug)]
struct Life {
    stage: Stage,
    /// When the first signal came.
    pulled: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Nothing is under way that would have to be undone: the process may end at any moment.
    Idle,
    /// A vault is being made: the run that follows will see that it was cancelled, and undo it.
    Opening,
    /// The library is at work.
    Running(Limits),
    /// The outcome is there.
    Ended,
}

impl Session {
    /// Begins a command that ends with a report: with `output.json` it prints an object at any end but wrong usage.
    ///
    /// - `dry_run`: the object says so.
    pub(crate) fn reporting(command: &'static str, vault: &Path, output: OutputArgs, dry_run: bool) -> Arc<Self> {
        Self::begin(command, vault, output, dry_run, None)
    }

    /// Begins `profile`, which ends with an object of its own.
    ///
    /// - `place`: what messages name: the vault, or the first source.
    pub(crate) fn profiling(place: &Path, output: OutputArgs, asked: Asked) -> Arc<Self> {
        Self::begin("profile", place, output, false, Some(asked))
    }

    /// Begins a command that prints something of its own.
    pub(crate) fn plain(command: &'static str, vault: &Path) -> Arc<Self> {
        Self::begin(command, vault, OutputArgs { progress: ProgressMode::Never, json: false }, false, None)
    }

    fn begin(
        command: &'static str,
        vault: &Path,
        output: OutputArgs,
        dry_run: bool,
        asked: Option<Asked>,
    ) -> Arc<Self> {
        let session = Arc::new(Self {
            command,
            vault: vault.to_owned(),
            json: output.json,
            dry_run,
            asked,
            listener: Listener::new(output.progress),
            records: OnceLock::new(),
            cancel: CancelToken::new(),
            password_from: OnceLock::new(),
            life: Mutex::new(Life { stage: Stage::Idle, pulled: None }),
        });
        if let Err(error) = signals::install(&session) {
            // The run itself is none the worse; a signal ends it as it ends any process.
            session.listener.console().note(&format!("signals cannot be handled: {error}"));
        }
        session
    }

    /// The token that a signal pulls.
    pub(crate) fn cancel(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// The listener's console and what else a command may want to say on its way.
    pub(crate) fn note(&self, message: &str) {
        self.listener.console().note(message);
    }

    /// Says what failed where that is no [`Error`] of the library.
    pub(crate) fn error(&self, message: &str) {
        self.listener.console().error(message);
    }

    /// Shows lines that an error is about, on standard error and escaped already.
    pub(crate) fn show(&self, lines: &str) {
        self.listener.console().plain(lines);
    }

    /// Says what can be done about something that was told already.
    pub(crate) fn hint(&self, message: &str) {
        self.listener.console().hint(message);
    }

    /// Whether there is anything at the vault's path; asked before the password is.
    pub(crate) fn vault_exists(&self) -> Result<bool, Error> {
        match std::fs::symlink_metadata(&self.vault) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io(FileOp::Stat, &self.vault, error)),
        }
    }

    /// # Errors
    /// [`Error::NoVault`] if there is nothing at the vault's path.
    pub(crate) fn require_vault(&self) -> Result<(), Error> {
        if self.vault_exists()? { Ok(()) } else { Err(Error::NoVault(self.vault.clone())) }
    }

    /// Opens the vault, which has to be there, with its password.
    pub(crate) fn open(&self, args: &PasswordArgs) -> Result<Vault, Error> {
        self.require_vault()?;
        self.unlock(args, false, |password| Vault::open(&self.vault, password))
    }

    /// Gives the password to `open`: from the first of the ways that was offered. A prompt asks twice for a new vault, and
    /// again where the password of an old one was wrong.
    pub(crate) fn unlock<T>(
        &self,
        args: &PasswordArgs,
        is_new: bool,
        open: impl Fn(&Password) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let origin = Origin::choose(args, |name| std::env::var_os(name), password::is_terminal())?;
        // Set once: a command asks for one password.
        let _ = self.password_from.set(origin.name());
        let mut tries_left = if origin == Origin::Prompt { PROMPT_TRIES } else { 1 };
        loop {
            tries_left -= 1;
            match open(&origin.clone().fetch(&self.vault, is_new)?) {
                Err(error @ Error::WrongPassword(_)) if tries_left > 0 => {
                    self.listener.console().error(&message::shown(&error));
                }
                opened => return opened,
            }
        }
    }

    /// Whether there will be a new password, as far as that can be known before the one that is valid now is asked for.
    ///
    /// # Errors
    /// [`Error::Usage`] if nobody gives one, or if both are to be the first line of standard input.
    pub(crate) fn expect_new_password(&self, args: &PasswordArgs, new: &NewPasswordArgs) -> Result<(), Error> {
        let new = Origin::choose_new(new, password::is_terminal())?;
        let now = Origin::choose(args, |name| std::env::var_os(name), password::is_terminal())?;
        if new.is_stdin() && now.is_stdin() {
            let message = format!("{} and {} cannot both be standard input", now.name(), new.name());
            return Err(Error::Usage(message));
        }
        Ok(())
    }

    /// The password that is to be valid from now on; a prompt asks for it twice.
    ///
    /// # Errors
    /// [`Error::Usage`] without any way, [`Error::Refused`] for an empty one, [`Error::Io`] where it cannot be fetched.
    pub(crate) fn new_password(&self, new: &NewPasswordArgs) -> Result<Password, Error> {
        Origin::choose_new(new, password::is_terminal())?.fetch(&self.vault, true)
    }

    /// Makes the files ready that are to tell of the run.
    ///
    /// - `others`: what the command reads or writes beside the vault.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub(crate) fn record(&self, args: &RecordArgs, others: &[&Path]) -> Result<(), Error> {
        let others: Vec<&Path> = [&*self.vault].into_iter().chain(others.iter().copied()).collect();
        let records = Records::prepare(args, &others)?;
        if self.dry_run || args.is_empty() {
            // They would tell of a run that there was not; what is wrong with them has been said.
            return Ok(());
        }
        // Set once: a command has one run.
        let _ = self.records.set(Arc::new(records));
        Ok(())
    }

    /// Writes these files. What cannot be written any more is told, and changes nothing else.
    pub(crate) fn write_records(&self, ended: &Ended<'_>) {
        let Some(records) = self.records.get() else { return };
        records.write(ended).iter().for_each(|line| self.note(line));
    }

    /// Says that a vault is about to be made for the run that follows: from here on a signal no longer ends the process
    /// at once.
    pub(crate) fn opening(&self) {
        self.life().stage = Stage::Opening;
    }

    /// Runs the operation itself, with signals, deadline and stalls looked after.
    pub(crate) fn operate<T, E>(
        self: &Arc<Self>,
        config: &PipelineConfig,
        operation: impl FnOnce(&dyn Observer) -> Result<T, E>,
    ) -> Result<T, E> {
        self.life().stage = Stage::Running(Limits::new(config, Instant::now()));
        if let Err(error) = signals::watch(self) {
            self.note(&format!("nobody looks after this run: {error}"));
        }
        let result = operation(&Ears { listener: &self.listener, records: self.records.get().map(Arc::as_ref) });
        self.end();
        result
    }

    /// Prints the outcome of a reporting command, and writes the files that tell of it.
    ///
    /// - `summary`: what a person reads where `--json` is not asked for.
    pub(crate) fn finish(&self, outcome: &Result<Report, Failed>, summary: impl FnOnce(&Report) -> String) -> Status {
        let (report, error) = parts(outcome);
        let summary = summary(report);
        self.finish_printing(outcome, &summary, |status| match outcome {
            _ if self.json && status != Status::Usage => stdout::print(self.object(status, error, report, false)),
            Ok(_) => stdout::print(summary.clone()),
            Err(_) => Ok(()),
        })
    }

    /// The same of a command whose result is printed already; its files say `summary`.
    pub(crate) fn finish_printed(&self, outcome: &Result<Report, Failed>, summary: &str) -> Status {
        self.finish_printing(outcome, summary, |_| Ok(()))
    }

    fn finish_printing(
        &self,
        outcome: &Result<Report, Failed>,
        summary: &str,
        print: impl FnOnce(Status) -> Result<(), Error>,
    ) -> Status {
        self.end();
        self.listener.finish();
        let (report, error) = parts(outcome);
        let status = match outcome {
            Ok(report) => Status::of_report(report),
            Err(failed) => {
                self.tell(&failed.error);
                Status::of_failed(failed)
            }
        };
        let status = self.with_printed(status, print(status));
        if let Some(records) = self.records.get() {
            let told = error.map(|error| format!("{}\n", message::shown(error))).unwrap_or_default();
            self.write_records(&Ended {
                command: self.command,
                place: &self.vault,
                status,
                error: error.map(message::plain),
                report,
                profile: None,
                json: if records.has_json() { self.object(status, error, report, true) } else { String::new() },
                text: format!("{told}{summary}"),
            });
        }
        status
    }

    /// Ends a command whose outcome is no report.
    ///
    /// - `error`: what ended it early, if anything did.
    /// - `print`: prints the outcome.
    pub(crate) fn conclude(
        &self,
        status: Status,
        error: Option<&Error>,
        print: impl FnOnce() -> Result<(), Error>,
    ) -> Status {
        self.end();
        self.listener.finish();
        if let Some(error) = error {
            self.tell(error);
        }
        self.with_printed(status, print())
    }

    /// Prints the outcome of a command that has printed its own result.
    pub(crate) fn finish_plain(&self, outcome: Result<(), Error>) -> Status {
        self.end();
        self.with_printed(Status::Done, outcome)
    }

    /// A signal came: the first asks the run to end, the second ends the process.
    ///
    /// - `hung_up`: by a terminal that is gone; it says so more than once, through whoever is between, and means one thing.
    pub(crate) fn interrupted(&self, now: Instant, hung_up: bool) {
        let mut life = self.life();
        if hung_up && life.pulled.is_some() {
            return;
        }
        match (life.stage, life.pulled) {
            // The result is being printed; whoever does not want to wait for that says it twice.
            (Stage::Opening | Stage::Running(_) | Stage::Ended, None) => {
                life.pulled = Some(now);
                self.cancel.cancel();
            }
            // Past this point "the vault is as it was" could be untrue.
            (Stage::Running(_), Some(_)) if self.commits() => {
                self.leave(&life, &self.left_while_committing());
            }
            (Stage::Idle, _) | (Stage::Opening | Stage::Running(_), Some(_)) => self.leave(&life, &Error::Interrupted),
            (Stage::Ended, Some(_)) => signal_hook::low_level::exit(Status::Interrupted.code().into()),
        }
    }

    /// What is to be said of the vault by who does not wait for the end of a commit.
    fn left_while_committing(&self) -> Error {
        let source = std::io::Error::new(std::io::ErrorKind::Interrupted, "interrupted while it was committed");
        let vault = self.vault.clone();
        match self.command {
            "compact" | "rekey" => Error::ReplaceUncertain { vault, source },
            keys if keys.starts_with("key ") => Error::KeysUncertain { vault, source },
            _ => Error::CommitUncertain { vault, source },
        }
    }

    /// Ends the process if the run should have ended and has not.
    pub(crate) fn look(&self, now: Instant) {
        let life = self.life();
        let Stage::Running(limits) = life.stage else { return };
        let phase = self.listener.latest().map_or("", |latest| latest.phase);
        if phase == "clean" {
            // What a profile has restored is taken away, which is worth waiting for; a second signal ends this, too.
            return;
        }
        if phase == "commit" {
            // What is being committed may be there in the next moment: to end here with "the vault is as it was" could be
            // a lie. Waiting for a disk that is slow to sync is the better answer; a second signal ends this too.
            return;
        }
        let error = match limits.overdue(now, life.pulled, self.listener.unmoved_since()) {
            None => return,
            Some(Overdue::Interrupted) => Error::Interrupted,
            Some(Overdue::Deadline(timeout)) => Error::Deadline(timeout),
            Some(Overdue::Stalled(after)) => Error::Stalled { stage: phase, path: self.vault.clone(), after },
        };
        self.leave(&life, &error);
    }

    /// Whether the run is making a snapshot the newest, its change of the keys valid, or its file the vault, at this moment.
    fn commits(&self) -> bool {
        (matches!(self.command, "add" | "remove" | "recover" | "compact" | "rekey") || self.command.starts_with("key "))
            && self.listener.latest().is_some_and(|latest| latest.phase == "commit")
    }

    /// Whether the run goes on.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.life().stage, Stage::Running(_))
    }

    /// Ends the process without waiting for the run. `_life` is held to the end, so that a run which ends in this very
    /// moment does not print its outcome too.
    fn leave(&self, _life: &MutexGuard<'_, Life>, error: &Error) -> ! {
        password::restore_terminal();
        self.listener.finish();
        self.tell(error);
        let status = Status::of_kind(error.kind());
        let mut report = Report::default();
        if let Some(latest) = self.listener.latest() {
            report.total_files = latest.files_done;
            report.successful_files = latest.files_done;
            report.total_size = latest.bytes_done;
            report.duration = latest.elapsed;
        }
        if let Some(records) = self.records.get() {
            // Not the rest: what they tell of is in the hands of a run that does not answer. Nor is this one waited for long: the disk
            // that it goes to may be the one that does not.
            let (records, command, vault) = (Arc::clone(records), self.command, self.vault.clone());
            let report = report.clone();
            let (done, ended) = std::sync::mpsc::channel();
            let write = move || {
                records.write_metrics(command, &vault, status, &report);
                // Nobody waits any more, perhaps.
                let _ = done.send(());
            };
            if std::thread::Builder::new().name("metrics".to_owned()).spawn(write).is_ok() {
                let _ = ended.recv_timeout(LAST_WORDS);
            }
        }
        if self.json {
            // The status says enough where this cannot be printed.
            let _ = stdout::print(self.object(status, Some(error), &report, false));
        }
        // Not `process::exit`: its handlers would run beside threads that hang.
        signal_hook::low_level::exit(status.code().into())
    }

    /// From here on the outcome stands. If the process is being ended by [`Self::leave`], this never returns.
    fn end(&self) {
        self.life().stage = Stage::Ended;
    }

    /// `status`, or a failure if the result could not be printed.
    fn with_printed(&self, status: Status, printed: Result<(), Error>) -> Status {
        match printed {
            Ok(()) => status,
            Err(error) => {
                self.tell(&error);
                // Failing counts for more than what is incomplete, and for less than what ended the command.
                if matches!(status, Status::Done | Status::Incomplete) { Status::of_kind(error.kind()) } else { status }
            }
        }
    }

    fn tell(&self, error: &Error) {
        let console = self.listener.console();
        console.error(&message::shown(error));
        if self.command == "recover" && matches!(error, Error::Damaged { .. }) {
            // There is nothing further to be tried.
            return;
        }
        if self.command == "key import" && matches!(error, Error::WrongPassword(_)) {
            console.hint("it takes a password that opened the vault when the header was exported");
        }
        for hint in message::hints(error, &self.vault, self.password_from.get().copied()) {
            console.hint(&hint);
        }
    }

    /// - `with_timeline`: how it went over time is in it, too.
    fn object(&self, status: Status, error: Option<&Error>, report: &Report, with_timeline: bool) -> String {
        if let Some(asked) = &self.asked {
            // What was measured is in the hands of a run that does not answer.
            return profile_json::object(&profile_json::Outcome {
                asked,
                exit_code: status.code(),
                error: error.map(message::plain),
                profile: &Profile::default(),
                comparison: None,
            });
        }
        json::object(&json::Outcome {
            command: self.command,
            dry_run: self.dry_run,
            vault: &self.vault,
            exit_code: status.code(),
            error: error.map(message::plain),
            report,
            with_timeline,
        })
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was done, and what ended it.
fn parts(outcome: &Result<Report, Failed>) -> (&Report, Option<&Error>) {
    match outcome {
        Ok(report) => (report, None),
        Err(failed) => (&failed.report, Some(&failed.error)),
    }
}

/// Hears what a run tells, for the person and for the files.
struct Ears<'s> {
    listener: &'s Listener,
    records: Option<&'s Records>,
}

impl Observer for Ears<'_> {
    fn notice(&self, notice: &Notice) {
        self.listener.notice(notice);
    }

    fn progress(&self, progress: &Progress) {
        self.listener.progress(progress);
    }

    fn interval(&self, interval: &Interval<'_>) {
        if let Some(records) = self.records {
            records.interval(interval);
        }
    }
}
