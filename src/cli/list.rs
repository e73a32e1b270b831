//! `list`: the entries of a snapshot, or the snapshots of a vault, a line each.

use std::borrow::Cow;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flint_pipe::{EntryType, Error, ListEntry, ListOptions, SnapshotInfo, Timestamp, format_size};
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::cli::args::{AtArg, PasswordArgs, VaultArg, stored_name};
use crate::cli::exit::Status;
use crate::cli::session::Session;
use crate::cli::{escape, stdout};

/// List the entries of a vault, or its snapshots
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    flint-pipe list -v backup.flint --long photos\n  \
    flint-pipe list -v backup.flint --snapshots")]
pub(crate) struct Args {
    /// Only these entries and what is below them
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    vault: VaultArg,
    /// Show mode, owner, size and time too
    #[arg(long)]
    long: bool,
    /// List the snapshots instead of the entries
    #[arg(long, conflicts_with_all = ["paths", "long", "at"])]
    snapshots: bool,
    #[command(flatten)]
    at: AtArg,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    password: PasswordArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Status {
    let session = Session::plain("list", &args.vault.path);
    let outcome = list(args, &session);
    session.finish_plain(outcome)
}

fn list(args: &Args, session: &Session) -> Result<(), Error> {
    let vault = session.open(&args.password)?;
    if args.snapshots {
        let snapshots = vault.snapshots()?;
        if args.json {
            return write_all(snapshots.into_iter().map(Ok), |out, snapshot| {
                write_json(out, &JsonSnapshot::from(&snapshot))
            });
        }
        return stdout::print(snapshot_table(&snapshots, &TimeZone::system()));
    }
    let mut options = ListOptions::default();
    options.paths = args.paths.iter().map(|path| stored_name(path)).collect();
    options.at = args.at.at;
    let zone = TimeZone::system();
    write_all(vault.list(&options)?, |out, entry| match (args.json, args.long) {
        (true, _) => write_json(out, &JsonEntry::from(&entry)),
        (false, true) => writeln!(out, "{}", long_line(&entry, &zone)),
        (false, false) => writeln!(out, "{}", escape::path(shown_path(&entry.path))),
    })
}

/// Writes each item as it comes, until there are no more or nobody reads them.
pub(crate) fn write_all<T>(
    items: impl Iterator<Item = Result<T, Error>>,
    mut write: impl FnMut(&mut dyn Write, T) -> io::Result<()>,
) -> Result<(), Error> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    for item in items {
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                // What came before the error is shown before it; the error itself says more than a failed write.
                let _ = out.flush();
                return Err(error);
            }
        };
        if let Err(error) = write(&mut out, item) {
            return stdout::checked(Err(error));
        }
    }
    stdout::checked(out.flush())
}

pub(crate) fn write_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value)?;
    writeln!(out, "{}", escape::json(&text))
}

/// The root has an empty name; `.` is what it was packed as.
fn shown_path(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// One entry in JSON; field for field the contract.
#[derive(Debug, Serialize)]
struct JsonEntry<'a> {
    path: Cow<'a, str>,
    #[serde(rename = "type")]
    entry_type: &'static str,
    size: u64,
    mode: String,
    mtime: String,
    uid: u32,
    gid: u32,
    user: &'a str,
    group: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_bytes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
}

impl<'a> From<&'a ListEntry> for JsonEntry<'a> {
    fn from(entry: &'a ListEntry) -> Self {
        let path = shown_path(&entry.path);
        Self {
            path: path.to_string_lossy(),
            entry_type: entry.entry_type.as_str(),
            size: entry.size,
            mode: format!("{:04o}", entry.mode),
            mtime: utc(entry.mtime),
            uid: entry.uid,
            gid: entry.gid,
            user: &entry.user,
            group: &entry.group,
            target: entry.target.as_ref().map(|target| target.to_string_lossy()),
            target_bytes: entry.target.as_deref().and_then(path_bytes),
            path_bytes: path_bytes(path),
        }
    }
}

/// The bytes of a path that is not UTF-8, in base64; `None` for one that says itself what it is.
pub(crate) fn path_bytes(path: &Path) -> Option<String> {
    path.to_str().is_none().then(|| STANDARD.encode(path.as_os_str().as_encoded_bytes()))
}

/// One entry as `ls -l` shows it. Columns are fixed, so that the first line can be written before the last is known; what is
/// wider than its column moves the rest of its own line.
fn long_line(entry: &ListEntry, zone: &TimeZone) -> String {
    let size = match entry.device {
        Some((major, minor)) => format!("{major}, {minor}"),
        None => entry.size.to_string(),
    };
    let mut line = format!(
        "{} {:<8} {:<8} {size:>12} {} {}",
        mode_text(entry.entry_type, entry.mode),
        owner(&entry.user, entry.uid),
        owner(&entry.group, entry.gid),
        local(entry.mtime, zone),
        escape::path(shown_path(&entry.path)),
    );
    if let Some(target) = &entry.target {
        line.push_str(" -> ");
        line.push_str(&escape::path(target));
    }
    line
}

fn owner(name: &str, number: u32) -> String {
    if name.is_empty() { number.to_string() } else { escape::text(name) }
}

/// `-rwsr-xr-t` and the like.
fn mode_text(entry_type: EntryType, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match entry_type {
        EntryType::File => '-',
        EntryType::Directory => 'd',
        EntryType::Symlink => 'l',
        EntryType::Fifo => 'p',
        EntryType::CharDevice => 'c',
        EntryType::BlockDevice => 'b',
    });
    // For user, group and others: where their bits begin, and the special bit that shows in the place of their x.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Snapshots in aligned columns, a line each. They are few and all known, unlike entries.
pub(crate) fn snapshot_table(snapshots: &[SnapshotInfo], zone: &TimeZone) -> String {
    let rows: Vec<[String; 5]> = snapshots
        .iter()
        .map(|snapshot| {
            [
                snapshot.number.to_string(),
                local(snapshot.time, zone),
                escape::text(&snapshot.host),
                format!("{} {}", snapshot.files, if snapshot.files == 1 { "file" } else { "files" }),
                format_size(snapshot.bytes),
            ]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [number, _, host, files, size] = [0, 1, 2, 3, 4].map(width);
    let mut text = String::new();
    for (snapshot, row) in snapshots.iter().zip(&rows) {
        let sources: Vec<String> = snapshot.sources.iter().map(|source| escape::path(source)).collect();
        let partial = match (snapshot.partial, snapshot.recovered) {
            (false, false) => "",
            (true, false) => "  (partial)",
            (false, true) => "  (recovered)",
            (true, true) => "  (recovered, partial)",
        };
        let line = format!(
            "{:>number$}  {}  {:<host$}  {:>files$}  {:>size$}  {}{partial}",
            row[0],
            row[1],
            row[2],
            row[3],
            row[4],
            sources.join(" "),
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// One snapshot in JSON.
#[derive(Debug, Serialize)]
struct JsonSnapshot<'a> {
    snapshot: u64,
    time: String,
    host: &'a str,
    user: &'a str,
    files: u64,
    size: u64,
    sources: Vec<Cow<'a, str>>,
    tags: &'a [String],
    command_line: &'a [String],
    partial: bool,
    recovered: bool,
}

impl<'a> From<&'a SnapshotInfo> for JsonSnapshot<'a> {
    fn from(info: &'a SnapshotInfo) -> Self {
        Self {
            snapshot: info.number,
            time: utc(info.time),
            host: &info.host,
            user: &info.user,
            files: info.files,
            size: info.bytes,
            sources: info.sources.iter().map(|source| source.to_string_lossy()).collect(),
            tags: &info.tags,
            command_line: &info.command_line,
            partial: info.partial,
            recovered: info.recovered,
        }
    }
}

/// A time as RFC 3339 has it, in UTC with nanoseconds. File systems hold years that it has not; those are written the same
/// way with as many digits as they need.
pub(crate) fn utc(time: Timestamp) -> String {
    match instant(time) {
        Some(instant) => format!("{instant:.9}"),
        None => {
            let (date, time_of_day) = far_away(time.secs);
            format!("{date}T{time_of_day}.{:09}Z", time.nanos)
        }
    }
}

/// A time to the second in the zone of the reader.
pub(crate) fn local(time: Timestamp, zone: &TimeZone) -> String {
    match instant(time) {
        Some(instant) => instant.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => {
            let (date, time_of_day) = far_away(time.secs);
            format!("{date} {time_of_day}")
        }
    }
}

/// The time in the calendar's own type, if it is in the years 0 to 9999 and makes sense.
fn instant(time: Timestamp) -> Option<jiff::Timestamp> {
    let nanos = i32::try_from(time.nanos).ok()?;
    let instant = jiff::Timestamp::new(time.secs, nanos).ok()?;
    // RFC 3339 knows no years before 0.
    (time.secs >= -62_167_219_200).then_some(instant)
}

/// Date and time of day, in UTC, of a second that is beyond the calendar's own type.
///
/// Source: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn far_away(secs: i64) -> (String, String) {
    let (days, second) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    // Days since 0000-03-01, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let date = format!("{year:+05}-{month:02}-{day:02}");
    (date, format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn at(secs: i64, nanos: u32) -> Timestamp {
        Timestamp { secs, nanos }
    }

    #[test]
    fn times_are_utc_to_the_nanosecond_before_1970_too() {
        assert_eq!(utc(at(1_795_334_400, 123_456_789)), "2026-11-22T08:00:00.123456789Z");
        assert_eq!(utc(at(0, 0)), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(utc(at(-1, 999_999_999)), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(utc(at(253_402_207_200, 0)), "9999-12-30T22:00:00.000000000Z");
    }

    #[test]
    fn years_beyond_the_calendar_are_written_all_the_same() {
        assert_eq!(utc(at(253_402_300_800, 7)), "+10000-01-01T00:00:00.000000007Z");
        assert_eq!(utc(at(-62_167_219_201, 0)), "-0001-12-31T23:59:59.000000000Z");
        assert_eq!(local(at(253_402_300_800, 0), &TimeZone::UTC), "+10000-01-01 00:00:00");
        for secs in [i64::MIN, i64::MAX] {
            assert!(!utc(at(secs, u32::MAX)).is_empty());
            assert!(!local(at(secs, u32::MAX), &TimeZone::UTC).is_empty());
        }
    }

    #[test]
    fn the_own_calendar_agrees_with_the_other_where_both_reach() {
        for day in (-700_000..2_900_000).step_by(379) {
            let secs = i64::from(day) * 86_400 + 3_723;
            let Some(instant) = instant(at(secs, 0)) else { continue };
            let (date, time) = far_away(secs);
            assert_eq!(format!("{}T{time}Z", date.trim_start_matches('+')), instant.to_string());
        }
    }

    #[test]
    fn modes_are_shown_as_ls_shows_them() {
        assert_eq!(mode_text(EntryType::File, 0o644), "-rw-r--r--");
        assert_eq!(mode_text(EntryType::File, 0o4755), "-rwsr-xr-x");
        assert_eq!(mode_text(EntryType::File, 0o6644), "-rwSr-Sr--");
        assert_eq!(mode_text(EntryType::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text(EntryType::Directory, 0o3770), "drwxrws--T");
        assert_eq!(mode_text(EntryType::Symlink, 0o777), "lrwxrwxrwx");
        assert_eq!(mode_text(EntryType::Fifo, 0), "p---------");
    }

    #[test]
    fn owners_without_a_name_are_numbers() {
        assert_eq!(owner("root", 0), "root");
        assert_eq!(owner("", 1000), "1000");
        assert_eq!(owner("a\x1b", 1000), r"a\x1b");
    }

    #[test]
    fn only_a_path_that_is_not_utf_8_has_its_bytes_beside_it() {
        assert_eq!(path_bytes(Path::new("größe")), None);
        assert_eq!(path_bytes(Path::new(OsStr::from_bytes(b"a\xff"))).as_deref(), Some("Yf8="));
    }

    #[test]
    fn the_root_is_shown_as_what_it_was_packed_as() {
        assert_eq!(shown_path(Path::new("")), Path::new("."));
        assert_eq!(shown_path(Path::new("a")), Path::new("a"));
    }
}
