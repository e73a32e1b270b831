//! The binary root: nothing but the command line, which reaches nothing but the library's public interface.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
