//! `key list`: what opens the vault.

use flint_pipe::{Error, KeyInfo, PasswordInfo, format_size};
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::cli::args::{PasswordArgs, VaultArg};
use crate::cli::exit::Status;
use crate::cli::list::{local, utc, write_all, write_json};
use crate::cli::session::Session;
use crate::cli::{escape, stdout};

/// The number of the kind of key slot that a password has.
const PASSWORD_KIND: u16 = 1;

/// List the passwords of a vault; * is the one given
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    flint-pipe key list -v backup.flint\n  \
    flint-pipe key list -v backup.flint --json")]
pub(crate) struct Args {
    #[command(flatten)]
    vault: VaultArg,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    password: PasswordArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::plain("key list", &args.vault.path);
    let outcome = list(args, &session);
    session.finish_plain(outcome)
}

fn list(args: &Args, session: &Session) -> Result<(), Error> {
    let keys = session.open(&args.password)?.keys()?;
    if args.json {
        return write_all(keys.iter().map(Ok), |out, key| write_json(out, &JsonKey::from(key)));
    }
    stdout::print(table(&keys, &TimeZone::system()))
}

/// Keys in aligned columns, a line each. The label comes last: it may be as long as it likes.
fn table(keys: &[KeyInfo], zone: &TimeZone) -> String {
    let row = |key: &KeyInfo| match key {
        KeyInfo::Password(PasswordInfo { id, label, created, kdf, current, .. }) => [
            if *current { "*" } else { "" }.to_owned(),
            id.to_string(),
            local(*created, zone),
            format_size(u64::from(kdf.memory_kib) * 1024),
            kdf.passes.to_string(),
            escape::text(label),
        ],
        KeyInfo::Unknown { kind } => {
            let dash = || "-".to_owned();
            [String::new(), dash(), dash(), dash(), dash(), format!("(of an unknown kind, {kind})")]
        }
        _ => Default::default(),
    };
    let heads = ["", "id", "created", "memory", "passes", "label"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(heads).chain(keys.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [id, created, memory, passes] = [1, 2, 3, 4].map(width);
    let mut text = String::new();
    for row in &rows {
        let line = format!(
            "{:<1} {:>id$}  {:<created$}  {:>memory$}  {:>passes$}  {}",
            row[0], row[1], row[2], row[3], row[4], row[5]
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// One key in JSON.
#[derive(Debug, Serialize)]
struct JsonKey<'a> {
    id: Option<u32>,
    kind: &'static str,
    kind_number: u16,
    label: Option<&'a str>,
    created: Option<String>,
    kdf_memory_bytes: Option<u64>,
    kdf_passes: Option<u32>,
    kdf_lanes: Option<u32>,
    current: bool,
}

impl<'a> From<&'a KeyInfo> for JsonKey<'a> {
    fn from(key: &'a KeyInfo) -> Self {
        let unknown = |kind_number| Self {
            id: None,
            kind: "unknown",
            kind_number,
            label: None,
            created: None,
            kdf_memory_bytes: None,
            kdf_passes: None,
            kdf_lanes: None,
            current: false,
        };
        match key {
            KeyInfo::Password(password) => Self {
                id: Some(password.id),
                kind: "password",
                label: Some(&password.label),
                created: Some(utc(password.created)),
                kdf_memory_bytes: Some(u64::from(password.kdf.memory_kib) * 1024),
                kdf_passes: Some(password.kdf.passes),
                kdf_lanes: Some(password.kdf.lanes),
                current: password.current,
                ..unknown(PASSWORD_KIND)
            },
            KeyInfo::Unknown { kind } => unknown(*kind),
            _ => unknown(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_unknown_kind_is_listed_as_that() {
        let keys = [KeyInfo::Unknown { kind: 7 }];
        let table = table(&keys, &TimeZone::UTC);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines,
            ["  id  created  memory  passes  label", "   -  -             -       -  (of an unknown kind, 7)"]
        );
        let json = serde_json::to_value(JsonKey::from(&keys[0])).expect("plain fields");
        assert_eq!((&json["kind"], &json["kind_number"]), (&"unknown".into(), &7.into()));
        assert!(json["id"].is_null() && json["label"].is_null());
    }
}
