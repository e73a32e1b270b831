//! Which patterns leave something out, in the order of the command line: those of `--exclude`, and those in the files of
//! `--exclude-from`. The order matters, since the last pattern that matches counts.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Command, FromArgMatches};
use flint_pipe::{Error, FileOp, check_pattern};

use crate::cli::escape;

/// The longest file of patterns that is read, in bytes: so that a device or a disk image given by mistake is refused
/// before it fills the memory.
const MAX_FILE_LEN: u64 = 64 << 20;

/// The two options as clap sees them.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What is left out")]
struct Options {
    /// Leave out what matches, by .gitignore rules
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    exclude: Vec<String>,
    /// The same, one pattern a line; - is stdin
    #[arg(long, value_name = "FILE")]
    exclude_from: Vec<PathBuf>,
}

/// What is left out, in the order in which it was given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Excludes {
    given: Vec<Given>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Given {
    Pattern(String),
    File(PathBuf),
}

impl clap::Args for Excludes {
    fn augment_args(command: Command) -> Command {
        // The heading is for these alone, not for what comes after them.
        Options::augment_args(command).next_help_heading(None::<&'static str>)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command).next_help_heading(None::<&'static str>)
    }
}

impl FromArgMatches for Excludes {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        // clap keeps each option's values apart; their places on the command line put them in one row again.
        let places = |id| matches.indices_of(id).into_iter().flatten();
        let patterns = matches.get_many::<String>("exclude").into_iter().flatten();
        let files = matches.get_many::<PathBuf>("exclude_from").into_iter().flatten();
        let patterns = places("exclude").zip(patterns.cloned().map(Given::Pattern));
        let mut given: Vec<(usize, Given)> =
            patterns.chain(places("exclude_from").zip(files.cloned().map(Given::File))).collect();
        given.sort_by_key(|(place, _)| *place);
        Ok(Self { given: given.into_iter().map(|(_, given)| given).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Excludes {
    /// How often standard input would be read.
    pub(crate) fn stdin_count(&self) -> usize {
        self.given.iter().filter(|given| **given == Given::File(PathBuf::from("-"))).count()
    }

    /// The files that patterns are in.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.given.iter().filter_map(|given| match given {
            Given::File(path) if path != Path::new("-") => Some(path.as_path()),
            _ => None,
        })
    }

    /// The patterns, with the files read.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Usage`] naming file and line for a line that is no pattern.
    pub(crate) fn read(&self) -> Result<Vec<String>, Error> {
        let mut patterns = Vec::new();
        for given in &self.given {
            match given {
                Given::Pattern(pattern) => patterns.push(pattern.clone()),
                Given::File(path) => {
                    let is_stdin = path == Path::new("-");
                    let name = if is_stdin { Path::new("standard input") } else { path };
                    push_lines(&mut patterns, name, &contents(path, name, is_stdin)?)?;
                }
            }
        }
        Ok(patterns)
    }
}

/// - `name`: what the file is called in messages.
fn contents(path: &Path, name: &Path, is_stdin: bool) -> Result<Vec<u8>, Error> {
    let opened = if is_stdin {
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        #[expect(clippy::disallowed_methods, reason = "the path and the operation are put into the error here")]
        File::open(path)
    };
    let file = opened.map_err(|error| Error::io(FileOp::Open, name, error))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes).map_err(|error| Error::io(FileOp::Read, name, error))?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        let why = io::Error::other("it has more than 64 MiB, which are hardly patterns");
        return Err(Error::io(FileOp::Read, name, why));
    }
    Ok(bytes)
}

/// Adds the patterns of a file. Comments and blank lines say nothing and are left away; so is a byte order mark.
fn push_lines(patterns: &mut Vec<String>, name: &Path, bytes: &[u8]) -> Result<(), Error> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let bad =
            |why: &str| Error::Usage(format!("bad pattern in line {}: {}: {why}", number + 1, escape::path(name)));
        let line = std::str::from_utf8(line).map_err(|_| bad("it is not UTF-8"))?;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        patterns.push(glob(line).map_err(|why| bad(&why))?);
    }
    Ok(())
}

/// Checks a pattern, so that a bad one is told before a password is asked for.
pub(crate) fn glob(text: &str) -> Result<String, String> {
    match check_pattern(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    fn parsed(line: &[&str]) -> Vec<Given> {
        let command = Excludes::augment_args(Command::new("test").no_binary_name(true));
        Excludes::from_arg_matches(&command.get_matches_from(line)).expect("these are arguments").given
    }

    fn lines(bytes: &[u8]) -> Result<Vec<String>, Error> {
        let mut patterns = Vec::new();
        push_lines(&mut patterns, Path::new("rules"), bytes).map(|()| patterns)
    }

    #[test]
    fn patterns_and_files_keep_the_order_of_the_command_line() {
        let pattern = |text: &str| Given::Pattern(text.to_owned());
        let file = |text: &str| Given::File(PathBuf::from(text));
        let line = ["--exclude", "a", "--exclude-from", "f", "--exclude=!b", "--exclude-from=-", "--exclude", "c"];
        assert_eq!(parsed(&line), [pattern("a"), file("f"), pattern("!b"), file("-"), pattern("c")]);
        assert_eq!(parsed(&[]), []);
    }

    #[test]
    fn a_file_has_a_pattern_a_line_whatever_its_line_ends() {
        let patterns = lines(b"\xef\xbb\xbf*.o\r\n# comment\n\n   \n!keep.o\ntarget/").expect("these are patterns");
        assert_eq!(patterns, ["*.o", "!keep.o", "target/"]);
        assert!(lines(b"").expect("none").is_empty());
    }

    #[test]
    fn a_bad_line_is_named_with_its_file_and_number() {
        for (bytes, why) in [(&b"*.o\n\na[b\n"[..], "a[b"), (b"*.o\n\n\xff\n", "UTF-8")] {
            let error = lines(bytes).expect_err("line 3 is bad").to_string();
            assert!(error.starts_with("bad pattern in line 3: rules: ") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let excludes = Excludes { given: vec![Given::File("no/such/file".into())] };
        assert_eq!(excludes.read().expect_err("no such file").to_string(), "cannot open: no/such/file");
    }
}
