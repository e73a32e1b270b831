//! The one table of exit statuses: what each means, and which of them an outcome has.

use std::fmt::Write as _;
use std::process::ExitCode;

use flint_pipe::{ErrorKind, Failed, Profile, ProfileFailed, Report};

/// How the process ends; the numbers are restic's where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Incomplete = 3,
    NoVault = 10,
    Locked = 11,
    WrongPassword = 12,
    Damaged = 13,
    Deadline = 14,
    Interrupted = 130,
}

/// Every status with its meaning, as the help prints it.
const TABLE: &[(Status, &str)] = &[
    (Status::Done, "all done"),
    (Status::Failed, "failed; the vault is as it was"),
    (Status::Usage, "wrong usage"),
    (Status::Incomplete, "done, but some files failed or changed meanwhile; each is named"),
    (Status::NoVault, "the vault does not exist"),
    (Status::Locked, "locked, past --lock-timeout"),
    (Status::WrongPassword, "wrong password"),
    (Status::Damaged, "the vault is damaged, or was tampered with"),
    (Status::Deadline, "--timeout or --stall-timeout passed; the vault is as it was"),
    (Status::Interrupted, "interrupted; the vault is as it was"),
];

impl Status {
    /// The number that the process ends with.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// The status of an error that ended a command.
    pub(crate) fn of_kind(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Io | ErrorKind::Refused | ErrorKind::Unsupported => Self::Failed,
            ErrorKind::Usage => Self::Usage,
            ErrorKind::NoVault => Self::NoVault,
            ErrorKind::Locked => Self::Locked,
            ErrorKind::WrongPassword => Self::WrongPassword,
            ErrorKind::Integrity => Self::Damaged,
            ErrorKind::Deadline => Self::Deadline,
            ErrorKind::Interrupted => Self::Interrupted,
        }
    }

    /// The status of a run that came to its end. That a vault is damaged is no news to who recovers it: what is lost is.
    pub(crate) fn of_report(report: &Report) -> Self {
        if report.is_damaged() && report.recovery.is_none() {
            Self::Damaged
        } else if report.is_complete() {
            Self::Done
        } else {
            Self::Incomplete
        }
    }

    /// The status of a profile that came to its end: what any of its rounds met counts.
    pub(crate) fn of_profile(profile: &Profile) -> Self {
        let statuses: Vec<Self> = profile.rounds.iter().map(Self::of_report).collect();
        let met = |status: &Self| statuses.contains(status);
        [Self::Damaged, Self::Incomplete].into_iter().find(met).unwrap_or(Self::Done)
    }

    /// The status of a profile that ended early.
    pub(crate) fn of_failed_profile(failed: &ProfileFailed) -> Self {
        match Self::of_kind(failed.error.kind()) {
            Self::Failed if Self::of_profile(&failed.profile) == Self::Damaged => Self::Damaged,
            status => status,
        }
    }

    /// The status of a run that ended early. Damage that it met counts for more than a plain failure: "nothing could be
    /// restored" from a damaged vault is damage.
    pub(crate) fn of_failed(failed: &Failed) -> Self {
        match Self::of_kind(failed.error.kind()) {
            Self::Failed if failed.report.is_damaged() => Self::Damaged,
            status => status,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}

/// The table as the help prints it.
pub(crate) fn table() -> String {
    let mut text = String::from("Exit status:\n");
    for (status, meaning) in TABLE {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:>3}  {meaning}", status.code());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use flint_pipe::{EntryError, EntryErrorKind, Error};

    use super::*;

    fn report_with(kinds: &[EntryErrorKind]) -> Report {
        let mut report = Report::default();
        for &kind in kinds {
            report.errors.push(EntryError { path: PathBuf::from("a"), kind, message: "cannot read: why".into() });
        }
        report
    }

    #[test]
    fn each_kind_of_error_has_the_number_of_the_contract() {
        let expected = [
            (ErrorKind::Io, 1),
            (ErrorKind::Usage, 2),
            (ErrorKind::Refused, 1),
            (ErrorKind::Unsupported, 1),
            (ErrorKind::NoVault, 10),
            (ErrorKind::Locked, 11),
            (ErrorKind::WrongPassword, 12),
            (ErrorKind::Integrity, 13),
            (ErrorKind::Deadline, 14),
            (ErrorKind::Interrupted, 130),
        ];
        for (kind, code) in expected {
            assert_eq!(Status::of_kind(kind).code(), code, "{kind:?}");
        }
    }

    #[test]
    fn a_report_is_done_incomplete_or_damaged() {
        assert_eq!(Status::of_report(&report_with(&[])).code(), 0);
        assert_eq!(Status::of_report(&report_with(&[EntryErrorKind::Changed])).code(), 3);
        assert_eq!(Status::of_report(&report_with(&[EntryErrorKind::Io, EntryErrorKind::Damaged])).code(), 13);
    }

    #[test]
    fn what_is_lost_for_good_makes_a_recovery_incomplete() {
        let mut report = report_with(&[EntryErrorKind::Damaged]);
        report.recovery = Some(flint_pipe::Recovery::default());
        assert_eq!(Status::of_report(&report).code(), 3);
        report.errors.clear();
        assert_eq!(Status::of_report(&report).code(), 0);
    }

    #[test]
    fn damage_counts_for_more_than_a_plain_failure_and_less_than_an_interruption() {
        let failed = |error| Failed { error, report: Box::new(report_with(&[EntryErrorKind::Damaged])) };
        assert_eq!(Status::of_failed(&failed(Error::NothingRestored("out".into()))).code(), 13);
        assert_eq!(Status::of_failed(&failed(Error::Interrupted)).code(), 130);
    }

    #[test]
    fn what_any_round_of_a_profile_met_counts() {
        let mut profile = Profile::default();
        assert_eq!(Status::of_profile(&profile).code(), 0);
        profile.rounds = vec![report_with(&[EntryErrorKind::Io]), report_with(&[])];
        assert_eq!(Status::of_profile(&profile).code(), 3);
        profile.rounds.push(report_with(&[EntryErrorKind::Damaged]));
        assert_eq!(Status::of_profile(&profile).code(), 13);
        let failed = |error| ProfileFailed { error, profile: Box::new(profile.clone()) };
        assert_eq!(Status::of_failed_profile(&failed(Error::NothingRestored("out".into()))).code(), 13);
        assert_eq!(Status::of_failed_profile(&failed(Error::Interrupted)).code(), 130);
    }

    #[test]
    fn the_help_shows_every_status() {
        let text = table();
        for code in [0, 1, 2, 3, 10, 11, 12, 13, 14, 130] {
            assert!(text.contains(&format!("\n  {code:>3}  ")), "{code}");
        }
    }
}
