//! `create`: makes an empty vault.

use flint_pipe::{CreateOptions, Error, Failed, KdfParams, Report, Vault, format_size};

use crate::cli::args::{DryRunArg, JsonArg, LockArg, PasswordArgs, VaultOrFileArg};
use crate::cli::exit::Status;
use crate::cli::session::Session;
use crate::cli::{escape, rehearsal};

/// Make an empty vault; a file that is there is not touched
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    flint-pipe create -v backup.flint\n  \
    flint-pipe create -v backup.flint --kdf-memory 512M --label 'Anna, at home'")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultOrFileArg,
    #[command(flatten)]
    dry_run: DryRunArg,
    /// Nobody else can hold the lock of a vault that is not there, so there is nothing to wait for.
    #[command(flatten)]
    _lock: LockArg,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    kdf: KdfArgs,
    #[command(flatten)]
    output: JsonArg,
}

/// What a new password costs whoever guesses at it, and what it is called.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Password")]
struct KdfArgs {
    /// Memory that one guess takes, 19M to 1G [64M]
    #[arg(long, value_name = "SIZE", value_parser = kdf_memory)]
    kdf_memory: Option<u32>,
    /// Passes over that memory, 2 to 16 [3]
    #[arg(long, value_name = "N")]
    kdf_time: Option<u32>,
    /// A name for the password, for all to read
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    label: String,
}

impl KdfArgs {
    fn options(&self) -> CreateOptions {
        let mut options = CreateOptions::default();
        options.kdf.memory_kib = self.kdf_memory.unwrap_or(options.kdf.memory_kib);
        options.kdf.passes = self.kdf_time.unwrap_or(options.kdf.passes);
        options.label.clone_from(&self.label);
        options
    }
}

/// Parses the value of `--kdf-memory`, into KiB; the library says what is too little and too much.
fn kdf_memory(text: &str) -> Result<u32, String> {
    let bytes = flint_pipe::parse_size(text)?;
    if bytes % 1024 != 0 {
        return Err("not a multiple of 1K".to_owned());
    }
    u32::try_from(bytes / 1024).map_err(|_| "not within 19M to 1G".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::reporting("create", &args.vault.path, args.output.into(), args.dry_run.dry_run);
    let outcome = create(args, &session);
    session.finish(&outcome, |_| {
        let path = escape::path(&args.vault.path);
        if !args.dry_run.dry_run {
            return format!("created {path}\n");
        }
        let KdfParams { memory_kib, passes, .. } = args.kdf.options().kdf;
        let memory = format_size(u64::from(memory_kib) * 1024);
        format!("would create {path} (dry run: nothing is written)\n  password      {memory}, {passes} passes\n")
    })
}

fn create(args: &Args, session: &Session) -> Result<Report, Failed> {
    if session.vault_exists()? {
        return Err(Error::Exists(args.vault.path.clone()).into());
    }
    let options = args.kdf.options();
    session.unlock(&args.password, true, |password| {
        if args.dry_run.dry_run {
            return rehearsal::make(&args.vault.path, password, &options);
        }
        Vault::create(&args.vault.path, password, &options)
    })?;
    Ok(Report::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_guess_is_counted_in_kib() {
        assert_eq!(kdf_memory("64M"), Ok(64 << 10));
        assert_eq!(kdf_memory("1G"), Ok(1 << 20));
        assert!(kdf_memory("1000").is_err());
        assert!(kdf_memory("8E").is_err());
    }
}
