//! An error in words: what failed, on which path, why, and what there is to do about it.

use std::error::Error as _;
use std::path::Path;

use flint_pipe::{EntryError, Error, ErrorKind};

use crate::cli::escape;

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

/// What can be done about an error, where something can.
///
/// - `password_from`: where the password was taken from, if it was.
pub(crate) fn hint(error: &Error, vault: &Path, password_from: Option<&str>) -> Option<String> {
    let vault = escape::path(vault);
    match error {
        Error::NoVault(_) => Some(format!("flint-pipe create -v {vault} makes one")),
        Error::Exists(_) => Some("choose another name; flint-pipe add packs into a vault that is there".to_owned()),
        Error::WrongPassword(_) => Some(format!("the password was taken from {}", password_from?)),
        Error::Locked(_) => Some("--lock-timeout 10m waits longer; without the option there is no limit".to_owned()),
        Error::Deadline(_) => Some("--timeout sets the deadline".to_owned()),
        Error::Stalled { .. } => Some("--stall-timeout sets how long is too long, 0 for never".to_owned()),
        Error::NoSnapshot { .. } => Some(format!("flint-pipe list -v {vault} --snapshots names them")),
        Error::NoEntry { nearest: Some(nearest), .. } => Some(format!("there is {}", escape::text(nearest))),
        Error::NoEntry { nearest: None, .. } => Some(format!("flint-pipe list -v {vault} names them all")),
        error if error.kind() == ErrorKind::Unsupported => Some("a newer flint-pipe made this vault".to_owned()),
        _ => None,
    }
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
        | Error::CommitUncertain { vault: path, .. } => Some(path),
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

    use flint_pipe::{EntryErrorKind, FileOp};

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
    fn hints_name_what_to_do() {
        let vault = Path::new("a.flint");
        let hint = |error: &Error| hint(error, vault, Some("FLINT_PASSWORD"));
        assert_eq!(hint(&Error::NoVault(vault.into())).as_deref(), Some("flint-pipe create -v a.flint makes one"));
        assert_eq!(
            hint(&Error::WrongPassword(vault.into())).as_deref(),
            Some("the password was taken from FLINT_PASSWORD")
        );
        let missing = Error::NoEntry { name: "Makfile".into(), nearest: Some("Makefile".into()) };
        assert_eq!(hint(&missing).as_deref(), Some("there is Makefile"));
        assert_eq!(hint(&Error::Interrupted), None);
    }
}
