//! `man`: the manual, a page for the program and one for each of its commands.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_mangen::Man;
use flint_pipe::{Error, FileOp};

use crate::cli::exit::Status;
use crate::cli::replace::replace;
use crate::cli::session::Session;
use crate::cli::{Cli, escape, stdout};

/// Write man pages, one for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  flint-pipe man ~/.local/share/man/man1")]
pub(crate) struct Args {
    /// Where they go; made where it does not exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::plain("man", Path::new(""));
    session.finish_plain(write(&args.directory))
}

fn write(directory: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(directory).map_err(|error| Error::io(FileOp::CreateDirectory, directory, error))?;
    for (name, page) in pages()? {
        let path = directory.join(name);
        replace(&path, &page)?;
        stdout::print(format!("{}\n", escape::path(&path)))?;
    }
    Ok(())
}

/// Each page with the name of its file.
fn pages() -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    for command in with_inner(root) {
        let man = Man::new(command).manual("flint-pipe").source(concat!("flint-pipe ", env!("CARGO_PKG_VERSION")));
        let mut page = Vec::new();
        man.render(&mut page).map_err(|error| Error::io(FileOp::Write, man.get_filename(), error))?;
        pages.push((man.get_filename(), page));
    }
    Ok(pages)
}

/// A command and all that is below it.
fn with_inner(command: clap::Command) -> Vec<clap::Command> {
    let is_own = |inner: &&clap::Command| inner.get_name() != "help";
    let inner: Vec<clap::Command> = command.get_subcommands().filter(is_own).cloned().flat_map(with_inner).collect();
    std::iter::once(command).chain(inner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_the_program_and_one_for_each_command() {
        let pages = pages().expect("they are rendered");
        assert_eq!(pages[0].0, "flint-pipe.1");
        for command in Cli::command().get_subcommands() {
            let name = format!("flint-pipe-{}.1", command.get_name());
            let (_, page) = pages.iter().find(|(page, _)| *page == name).expect("a page of this name");
            let page = String::from_utf8_lossy(page);
            // roff writes a hyphen as \-.
            assert!(page.contains(&format!("flint\\-pipe {}", command.get_name())), "{name}: {page}");
        }
        assert!(pages.iter().any(|(name, _)| name == "flint-pipe-key-add.1"));
        assert!(!pages.iter().any(|(name, _)| name.contains("help")));
    }
}
