//! An error in words: what failed, on which path, why, and what there is to do about it.

use std::error::Error as _;
use std::io::ErrorKind;
use std::path::Path;

use flint_pipe::{EntryError, EntryErrorKind, Error, FileOp, Report};

use crate::cli::{escape, nearest};

/// What to do where the system does not allow something.
const NOT_PERMITTED: &str = "the owner of the file, or root, may be allowed to do that";

/// `WHAT: PATH: WHY`: the error, then each of its causes that it does not say itself. As it is, for programs to read.
pub(crate) fn plain(error: &Error) -> String {
    with_causes(error, error.to_string())
}

/// The same for a person, with every name escaped.
pub(crate) fn shown(error: &Error) -> String {
    let mut text = error.to_string();
    if let Some(path) = path_of(error) {
        // `display` has put a replacement character where the name is not UTF-8; the bytes themselves say more.
        text = text.replace(&path.display().to_string(), &escape::path(path));
    }
    escape::text(&with_causes(error, text))
}

fn with_causes(error: &Error, mut text: String) -> String {
    let mut cause = error.source();
    while let Some(why) = cause {
        let words = why.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = why.source();
    }
    text
}

/// One entry that failed, for a person: its message is `cannot OP: WHY`, and the path belongs between the two.
pub(crate) fn entry(error: &EntryError) -> String {
    let path = escape::path(&error.path);
    match error.message.split_once(": ") {
        Some((what, why)) => format!("{}: {path}: {}", escape::text(what), escape::text(why)),
        None => format!("{}: {path}", escape::text(&error.message)),
    }
}

/// What can be done about an error, a line each.
///
/// - `password_from`: where the password was taken from, if it was.
pub(crate) fn hints(error: &Error, vault: &Path, password_from: Option<&str>) -> Vec<String> {
    let there_is = match error {
        Error::NoVault(path) => nearest::vault(path).map(|there| format!("there is {}", escape::path(&there))),
        _ => None,
    };
    there_is.into_iter().chain(remedy(error, &escape::path(vault), password_from)).collect()
}

/// - `vault`: escaped.
fn remedy(error: &Error, vault: &str, password_from: Option<&str>) -> Option<String> {
    match error {
        Error::NoVault(_) => Some(format!("flint-pipe create -v {vault} makes one")),
        Error::Exists(_) => Some("choose another name; flint-pipe add packs into a vault that is there".to_owned()),
        Error::WrongPassword(_) => Some(format!("the password was taken from {}", password_from?)),
        Error::Locked(_) => Some("--lock-timeout 10m waits longer; without the option there is no limit".to_owned()),
        Error::Deadline(_) => Some("--timeout sets the deadline".to_owned()),
        Error::Stalled { .. } => Some("--stall-timeout sets how long is too long, 0 for never".to_owned()),
        Error::NoSnapshot { newest: None, .. } => Some(format!("{vault} has no snapshot yet")),
        Error::NoSnapshot { newest: Some(newest), .. } => {
            Some(format!("the newest is {newest}; flint-pipe list -v {vault} --snapshots names them"))
        }
        Error::Io { op: FileOp::CreateBeside, .. } => {
            Some("a new file is written in the same directory, and then takes the place of the old one".to_owned())
        }
        Error::Io { op: FileOp::Replace, source, .. } if source.kind() == ErrorKind::ResourceBusy => {
            Some("it is a mount point: run it on the file that is mounted there".to_owned())
        }
        Error::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => Some(NOT_PERMITTED.to_owned()),
        Error::NoEntry { nearest: Some(nearest), .. } => Some(format!("there is {}", escape::text(nearest))),
        Error::NoEntry { nearest: None, .. } => Some(format!("flint-pipe list -v {vault} names them all")),
        Error::NoKey { .. } => Some(format!("flint-pipe key list -v {vault} names them all")),
        Error::KeysUncertain { .. } => {
            Some("keep the passwords from before and after until one of them was tried".to_owned())
        }
        Error::SpareKeysOld { .. } => {
            Some(format!("flint-pipe recover -v {vault} --in-place writes both copies, as does any change of the keys"))
        }
        // Without a header there is no key to recover anything with.
        Error::Damaged { source, .. } if source.to_string().starts_with("header: ") => {
            Some(format!("flint-pipe key import -v {vault} puts back a header that key export has saved"))
        }
        Error::Damaged { .. } => Some(format!("flint-pipe recover -v {vault} says what is left")),
        Error::Unsupported { .. } => Some("a newer flint-pipe made this vault".to_owned()),
        _ => None,
    }
}

/// What can be done about what a run could not do with single entries, each kind of it once.
///
/// - `sources`: the files and directories that were named, where they were to be read.
pub(crate) fn hints_of_report<'a>(report: &Report, sources: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let mut hints = Vec::new();
    for source in sources {
        let missing = std::fs::symlink_metadata(source).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if let (true, Some(there)) = (missing, nearest::file(source)) {
            hints.push(format!("there is {}", escape::path(&there)));
        }
    }
    if report.errors.iter().any(|error| error.kind == EntryErrorKind::PermissionDenied) {
        hints.push(NOT_PERMITTED.to_owned());
    }
    hints
}

/// The path that the error's own message names.
fn path_of(error: &Error) -> Option<&Path> {
    match error {
        Error::Io { path, .. }
        | Error::NoVault(path)
        | Error::Exists(path)
        | Error::WrongPassword(path)
        | Error::Locked(path)
        | Error::NothingStored(path)
        | Error::NothingRestored(path)
        | Error::Refused { path, .. }
        | Error::Stalled { path, .. }
        | Error::Unsupported { vault: path, .. }
        | Error::Damaged { vault: path, .. }
        | Error::KdfRefused { vault: path, .. }
        | Error::NoSnapshot { vault: path, .. }
        | Error::CommitUncertain { vault: path, .. }
        | Error::ReplaceUncertain { vault: path, .. }
        | Error::KeysUncertain { vault: path, .. }
        | Error::SpareKeysOld { vault: path, .. }
        | Error::NoKey { vault: path, .. }
        | Error::NoHeader { path, .. } => Some(path),
        _ => None,
    }
    // An empty path is found everywhere.
    .filter(|path| !path.as_os_str().is_empty())
    .map(|path| path.as_path())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::io;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::PathBuf;

    use flint_pipe::FileOp;

    use super::*;

    #[test]
    fn an_error_says_what_where_and_why_each_once() {
        let error = Error::io(FileOp::Open, "a/b", io::Error::other("it is gone"));
        assert_eq!(plain(&error), "cannot open: a/b: it is gone");
        assert_eq!(shown(&error), "cannot open: a/b: it is gone");
        let twice = Error::io(FileOp::Open, "it is gone", io::Error::other("it is gone"));
        assert_eq!(plain(&twice), "cannot open: it is gone");
    }

    #[test]
    fn names_in_errors_are_escaped_byte_by_byte() {
        let error = Error::NoVault(PathBuf::from(OsStr::from_bytes(b"a\xff\n.flint")));
        assert_eq!(shown(&error), r"no vault: a\xff\x0a.flint");
        assert_eq!(shown(&Error::NoVault(PathBuf::new())), "no vault: ");
    }

    #[test]
    fn the_path_of_an_entry_stands_between_what_and_why() {
        let mut error = EntryError {
            path: PathBuf::from("a\x1b"),
            kind: EntryErrorKind::Io,
            message: "cannot read: it is: gone".into(),
        };
        assert_eq!(entry(&error), r"cannot read: a\x1b: it is: gone");
        error.message = "changed while it was read".into();
        assert_eq!(entry(&error), r"changed while it was read: a\x1b");
    }

    #[test]
    fn what_single_entries_met_is_explained_once() {
        let mut report = Report::default();
        assert!(hints_of_report(&report, std::iter::empty()).is_empty());
        for name in ["a", "b"] {
            let kind = EntryErrorKind::PermissionDenied;
            report.errors.push(EntryError { path: name.into(), kind, message: "cannot open: no".into() });
        }
        let sources = ["Cargo.tom", "src", "nothing-like-it"].map(Path::new);
        assert_eq!(hints_of_report(&report, sources.into_iter()), ["there is Cargo.toml", NOT_PERMITTED]);
    }

    #[test]
    fn hints_name_what_to_do() {
        let vault = Path::new("a.flint");
        let hint = |error: &Error| hints(error, vault, Some("FLINT_PASSWORD")).pop();
        assert_eq!(hint(&Error::NoVault(vault.into())).as_deref(), Some("flint-pipe create -v a.flint makes one"));
        assert_eq!(
            hint(&Error::WrongPassword(vault.into())).as_deref(),
            Some("the password was taken from FLINT_PASSWORD")
        );
        let missing = Error::NoEntry { name: "Makfile".into(), nearest: Some("Makefile".into()) };
        assert_eq!(hint(&missing).as_deref(), Some("there is Makefile"));
        assert_eq!(hint(&Error::Interrupted), None);
        let snapshot = |newest| hint(&Error::NoSnapshot { vault: vault.into(), number: 9, newest }).expect("a hint");
        assert_eq!(snapshot(Some(3)), "the newest is 3; flint-pipe list -v a.flint --snapshots names them");
        assert_eq!(snapshot(None), "a.flint has no snapshot yet");
        let denied = Error::io(FileOp::Open, vault, io::Error::from(ErrorKind::PermissionDenied));
        assert_eq!(hint(&denied).as_deref(), Some(NOT_PERMITTED));
    }
}
