//! `info`: what can be told of a vault without its password.

use std::fmt::Write as _;
use std::path::Path;

use flint_pipe::{Error, KdfParams, Vault, VaultInfo, format_size};

use crate::cli::args::VaultOrFileArg;
use crate::cli::exit::Status;
use crate::cli::session::Session;
use crate::cli::{escape, stdout};

/// Tell what can be told of a vault without its password
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  flint-pipe info -v backup.flint")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultOrFileArg,
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
    stdout::print(text(&args.vault.path, &info))
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

fn kdf_text(kdf: &KdfParams, label: &str) -> String {
    let memory = format_size(u64::from(kdf.memory_kib) * 1024);
    let mut text = format!("Argon2id, {memory}, {} passes, {} lanes", kdf.passes, kdf.lanes);
    if !label.is_empty() {
        text.push_str(&format!(", \"{}\"", escape::text(label)));
    }
    text
}
