//! `extract`: restores a vault, or what is named of it, into a directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flint_pipe::{Error, Failed, Report};

use crate::cli::args::{VaultArg, stored_name};
use crate::cli::exit::Status;
use crate::cli::patterns;
use crate::cli::report::text;
use crate::cli::restore::RestoreArgs;
use crate::cli::session::Session;

/// Restore all of a vault, or the named files and directories
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    flint-pipe extract -v backup.flint -o out\n  \
    flint-pipe extract -v backup.flint -o out --files documents/,photos/cat.jpg\n  \
    flint-pipe extract -v backup.flint -o out --include '*.jpg' --exclude tmp/")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// Restore below this directory
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Only these entries, a,b/,c; repeatable
    #[arg(long, value_name = "NAMES", help_heading = "What is restored")]
    files: Vec<OsString>,
    /// Only this entry, commas and all; repeatable
    #[arg(short, long, value_name = "PATH", help_heading = "What is restored")]
    target: Vec<PathBuf>,
    /// Only what matches, as in .gitignore; repeatable
    #[arg(long, value_name = "GLOB", value_parser = patterns::glob, help_heading = "What is restored")]
    include: Vec<String>,
    /// Leave out what matches; repeatable
    #[arg(long, value_name = "GLOB", value_parser = patterns::glob, help_heading = "What is restored")]
    exclude: Vec<String>,
    #[command(flatten)]
    restore: RestoreArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let dry_run = args.restore.is_dry_run();
    let session = Session::reporting("extract", &args.vault.path, args.restore.output, dry_run);
    let outcome = extract(args, &session);
    session.finish(&outcome, |report| text::restored(&args.vault.path, &args.output, dry_run, report))
}

fn extract(args: &Args, session: &Arc<Session>) -> Result<Report, Failed> {
    let mut options = args.restore.options(names(&args.files, &args.target)?, session);
    options.include.clone_from(&args.include);
    options.exclude.clone_from(&args.exclude);
    session.record(&args.restore.record, &args.restore.password.file().into_iter().collect::<Vec<_>>())?;
    let vault = session.open(&args.restore.password)?;
    session.operate(&options.pipeline, |observer| vault.extract(&args.output, &options, observer))
}

/// The names of `--files`, between commas, and of `-t`, as they are stored.
///
/// # Errors
/// [`Error::Usage`] if `--files` names nothing: restoring everything instead would be a surprise.
fn names(files: &[OsString], targets: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut names = Vec::new();
    for list in files {
        let before = names.len();
        let parts = list.as_bytes().split(|&byte| byte == b',').filter(|part| !part.is_empty());
        names.extend(parts.map(|part| stored_name(Path::new(OsStr::from_bytes(part)))));
        if names.len() == before {
            return Err(Error::Usage("--files names nothing: give it names with commas between them".to_owned()));
        }
    }
    names.extend(targets.iter().map(|target| stored_name(target)));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(files: &[&str], targets: &[&str]) -> Result<Vec<PathBuf>, Error> {
        let files: Vec<OsString> = files.iter().map(OsString::from).collect();
        let targets: Vec<PathBuf> = targets.iter().map(PathBuf::from).collect();
        names(&files, &targets)
    }

    #[test]
    fn names_stand_between_commas_and_in_repeated_options() {
        let names = named(&["a,b/,c", "d,"], &["e,f"]).expect("these are names");
        assert_eq!(names, ["a", "b", "c", "d", "e,f"].map(PathBuf::from));
        assert_eq!(names[1].as_os_str(), "b");
    }

    #[test]
    fn names_are_bytes() {
        let list = OsStr::from_bytes(b"a\xff,b").to_owned();
        assert_eq!(names(&[list], &[]).expect("these are names")[0].as_os_str().as_bytes(), b"a\xff");
    }

    #[test]
    fn a_list_that_names_nothing_is_wrong_usage_and_no_list_is_everything() {
        for list in ["", ",", ",,"] {
            assert!(matches!(named(&["a", list], &[]), Err(Error::Usage(_))), "{list:?}");
        }
        assert!(named(&[], &[]).expect("everything").is_empty());
    }
}
