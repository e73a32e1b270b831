//! `info`: what can be told of a vault without its password.

use std::fmt::Write as _;
use std::path::Path;

use flint_pipe::{Error, KdfParams, Vault, VaultInfo, VaultUsage, format_size};

use crate::cli::args::{PasswordArgs, VaultOrFileArg};
use crate::cli::exit::Status;
use crate::cli::session::Session;
use crate::cli::{escape, stdout};

/// Tell what can be told of a vault without its password
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  flint-pipe info -v backup.flint")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultOrFileArg,
    /// With the password: what the file's bytes are for
    #[arg(long)]
    long: bool,
    #[command(flatten)]
    password: PasswordArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::plain("info", &args.vault.path);
    let outcome = info(args, &session);
    session.finish_plain(outcome)
}

fn info(args: &Args, session: &Session) -> Result<(), Error> {
    session.require_vault()?;
    let info = Vault::info(&args.vault.path)?;
    for warning in &info.warnings {
        session.note(&format!("{}: {}", escape::text(warning), escape::path(&args.vault.path)));
    }
    let mut lines = text(&args.vault.path, &info);
    if args.long {
        lines.push_str(&usage_text(&session.open(&args.password)?.usage()?));
    }
    stdout::print(lines)
}

fn text(vault: &Path, info: &VaultInfo) -> String {
    let mut id = String::new();
    for byte in info.vault_id {
        // Writing to a String cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    let mut lines = vec![
        ("vault", escape::path(vault)),
        ("format", format!("version {}", info.format_version)),
        ("id", id),
        ("size", format!("{} ({} bytes)", format_size(info.file_size), info.file_size)),
        ("generation", format!("{} (how often it was committed to)", info.generation)),
        ("keys", format!("version {} of the header", info.sequence)),
    ];
    for (number, (kdf, label)) in info.password_slots.iter().enumerate() {
        lines.push(("password", format!("{}: {}", number + 1, kdf_text(kdf, label))));
    }
    if info.other_slots > 0 {
        lines.push(("other keys", info.other_slots.to_string()));
    }
    lines.into_iter().map(|(name, value)| format!("{name:<12}{value}\n")).collect()
}

/// The bytes of the file by use, and what they sum up to.
fn usage_text(usage: &VaultUsage) -> String {
    let lines = [
        ("data, newest snapshot", usage.newest_data),
        ("data, older ones alone", usage.older_data),
        ("indexes", usage.index),
        ("headers", usage.headers),
        ("unreferenced", usage.unreferenced),
    ];
    let share = |bytes: u64| bytes as f64 * 100.0 / usage.file_size.max(1) as f64;
    // To the byte, too: their sum is the file's length.
    let line = |(name, bytes)| format!("  {name:<24}{:>10} {:>5.1}% {bytes:>16}\n", format_size(bytes), share(bytes));
    format!("use of its bytes\n{}", lines.into_iter().map(line).collect::<String>())
}

fn kdf_text(kdf: &KdfParams, label: &str) -> String {
    let memory = format_size(u64::from(kdf.memory_kib) * 1024);
    let mut text = format!("Argon2id, {memory}, {} passes, {} lanes", kdf.passes, kdf.lanes);
    if !label.is_empty() {
        text.push_str(&format!(", \"{}\"", escape::text(label)));
    }
    text
}
