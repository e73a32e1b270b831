//! `completions`: a script that makes a shell complete the words of this program.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::exit::Status;
use crate::cli::session::Session;
use crate::cli::{Cli, stdout};

/// Print shell completions
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    eval \"$(flint-pipe completions bash)\"\n  \
    flint-pipe completions zsh > ~/.zfunc/_flint-pipe\n  \
    flint-pipe completions fish > ~/.config/fish/completions/flint-pipe.fish")]
pub(crate) struct Args {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL", hide_possible_values = true)]
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    // Written at once, to memory: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "flint-pipe", &mut script);
    Session::plain("completions", Path::new("")).finish_plain(stdout::print(&script))
}
