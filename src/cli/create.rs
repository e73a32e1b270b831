//! `create`: makes an empty vault.

use flint_pipe::{CreateOptions, Error, Failed, KdfParams, Report, Vault, format_size};

use crate::cli::args::{DryRunArg, JsonArg, KdfArgs, LabelArg, LockArg, PasswordArgs, VaultOrFileArg};
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
    label: LabelArg,
    #[command(flatten)]
    output: JsonArg,
}

impl Args {
    fn options(&self) -> CreateOptions {
        let mut options = CreateOptions::default();
        options.kdf.memory_kib = self.kdf.kdf_memory.unwrap_or(options.kdf.memory_kib);
        options.kdf.passes = self.kdf.kdf_time.unwrap_or(options.kdf.passes);
        options.label = self.label.label.clone().unwrap_or_default();
        options
    }
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
        let KdfParams { memory_kib, passes, .. } = args.options().kdf;
        let memory = format_size(u64::from(memory_kib) * 1024);
        format!("would create {path} (dry run: nothing is written)\n  password      {memory}, {passes} passes\n")
    })
}

fn create(args: &Args, session: &Session) -> Result<Report, Failed> {
    if session.vault_exists()? {
        return Err(Error::Exists(args.vault.path.clone()).into());
    }
    let options = args.options();
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
    use crate::cli::args::{KDF_MEMORY_KIB, KDF_PASSES};

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
    }
}
