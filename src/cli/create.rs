//! `create`: makes an empty vault.

use std::ops::RangeInclusive;

use flint_pipe::{CreateOptions, Error, Failed, KdfParams, Report, Vault, format_size};

use crate::cli::args::{DryRunArg, JsonArg, LockArg, PasswordArgs, VaultOrFileArg};
use crate::cli::exit::Status;
use crate::cli::session::Session;
use crate::cli::{escape, rehearsal};

/// What a guess at a new password may cost, in KiB: what the library allows.
const KDF_MEMORY_KIB: RangeInclusive<u32> = 19 << 10..=1 << 20;
/// The same in passes over that memory.
const KDF_PASSES: RangeInclusive<u32> = 2..=16;

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
    #[arg(long, value_name = "N", value_parser = kdf_time)]
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

/// Parses the value of `--kdf-memory`, into KiB.
fn kdf_memory(text: &str) -> Result<u32, String> {
    let bytes = flint_pipe::parse_size(text)?;
    if bytes % 1024 != 0 {
        return Err("not a multiple of 1K".to_owned());
    }
    let kib = u32::try_from(bytes / 1024).ok().filter(|kib| KDF_MEMORY_KIB.contains(kib));
    kib.ok_or_else(|| "not within 19M to 1G".to_owned())
}

/// Parses the value of `--kdf-time`.
fn kdf_time(text: &str) -> Result<u32, String> {
    let passes = text.parse().ok().filter(|passes| KDF_PASSES.contains(passes));
    passes.ok_or_else(|| format!("not within {} to {}", KDF_PASSES.start(), KDF_PASSES.end()))
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
        for text in ["1000", "8E", "18M", "1025M", "much"] {
            assert!(kdf_memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_ranges_are_those_of_the_library() {
        let is_taken = |memory_kib: u32, passes: u32| {
            let mut options = CreateOptions::default();
            (options.kdf.memory_kib, options.kdf.passes) = (memory_kib, passes);
            rehearsal::make(std::path::Path::new("v"), &flint_pipe::Password::new("x"), &options).is_ok()
        };
        let (memory, passes) = (&KDF_MEMORY_KIB, &KDF_PASSES);
        assert!(is_taken(*memory.start(), *passes.start()));
        assert!(!is_taken(memory.start() - 1, *passes.start()) && !is_taken(*memory.start(), passes.start() - 1));
        // The upper ends would take seconds.
        assert!(!is_taken(memory.end() + 1, *passes.start()) && !is_taken(*memory.start(), passes.end() + 1));
        assert_eq!(kdf_time("2"), Ok(2));
        for text in ["1", "17", "many", "-3"] {
            assert!(kdf_time(text).expect_err(text).contains("2 to 16"), "{text}");
        }
    }
}
