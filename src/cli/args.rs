//! The options that several commands share, each group a struct that converts once into the library's words.

use std::ffi::OsString;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use flint_pipe::{CHUNK_SIZES, CancelToken, Level, MAX_WORKERS, PipelineConfig, ReadMode, Workers};

/// The most slots a channel may be given; they are allocated when the run begins.
const MAX_QUEUE_DEPTH: usize = 65_536;
/// The stall timeout where none is given; the library's own default, which the watch over a run has to know.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);
/// The levels of zstd that are offered.
const LEVELS: RangeInclusive<i32> = -7..=22;
/// What a guess at a new password may cost, in KiB: what the library allows.
pub(crate) const KDF_MEMORY_KIB: RangeInclusive<u32> = 19 << 10..=1 << 20;
/// The same in passes over that memory.
pub(crate) const KDF_PASSES: RangeInclusive<u32> = 2..=16;

/// Where the vault is.
#[derive(Debug, clap::Args)]
pub(crate) struct VaultArg {
    /// The vault file
    #[arg(short = 'v', long = "vault", value_name = "VAULT")]
    pub(crate) path: PathBuf,
}

/// The same where `-f` says it too.
#[derive(Debug, clap::Args)]
pub(crate) struct VaultOrFileArg {
    /// The vault file
    #[arg(short = 'v', long = "vault", visible_short_alias = 'f', value_name = "VAULT")]
    pub(crate) path: PathBuf,
}

/// How the password comes in; the environment and the prompt come after these.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Password")]
pub(crate) struct PasswordArgs {
    /// The password is its first line; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// The password is the first line it prints
    #[arg(long, value_name = "CMD")]
    pub(crate) password_command: Option<OsString>,
}

/// How a password comes in that is to be valid from now on; the prompt comes after these.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Password")]
pub(crate) struct NewPasswordArgs {
    /// The new one is its first line; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) new_password_file: Option<PathBuf>,
    /// The new one is the first line it prints
    #[arg(long, value_name = "CMD")]
    pub(crate) new_password_command: Option<OsString>,
}

impl NewPasswordArgs {
    /// Whether any of them was given.
    pub(crate) fn is_given(&self) -> bool {
        self.new_password_file.is_some() || self.new_password_command.is_some()
    }
}

/// What a new password costs whoever guesses at it.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Password")]
pub(crate) struct KdfArgs {
    /// Memory of one guess, 19M to 1G [64M]
    #[arg(long, value_name = "SIZE", value_parser = kdf_memory)]
    pub(crate) kdf_memory: Option<u32>,
    /// Passes over that memory, 2 to 16 [3]
    #[arg(long, value_name = "N", value_parser = kdf_time)]
    pub(crate) kdf_time: Option<u32>,
}

/// `--label` of a new password.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Password")]
pub(crate) struct LabelArg {
    /// A name for the password, for all to read
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
}

/// How a run tells of itself.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// auto [default], always, never, or plain lines
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "always",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(crate) progress: ProgressMode,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Files that tell of a run in detail.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct RecordArgs {
    /// Write a report: .html, .json or .txt; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Vec<PathBuf>,
    /// Write the latencies as an HdrHistogram log
    #[arg(long, value_name = "FILE")]
    pub(crate) hlog: Option<PathBuf>,
    /// Write a trace for Perfetto
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Write metrics for node_exporter's textfiles
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics: Option<PathBuf>,
}

impl RecordArgs {
    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.report.is_empty() && self.hlog.is_none() && self.trace.is_none() && self.metrics.is_none()
    }
}

impl PasswordArgs {
    /// The file that the password is in.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.password_file.as_deref().filter(|path| *path != Path::new("-"))
    }
}

/// When progress is shown, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A bar, if standard error is a terminal.
    Auto,
    /// A bar, or lines where there is no terminal to draw it on.
    Always,
    /// Nothing.
    Never,
    /// A line every few seconds.
    Plain,
}

/// `--dry-run`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct DryRunArg {
    /// Say what would be done, write nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

/// `--json` alone, for commands that are over in a moment.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct JsonArg {
    /// Print the result as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

impl From<JsonArg> for OutputArgs {
    fn from(args: JsonArg) -> Self {
        Self { progress: ProgressMode::Never, json: args.json }
    }
}

/// The options of every pipeline, but for the threads of its stages.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pipeline")]
pub(crate) struct PipelineArgs {
    /// Threads of each stage but scan; 0 for auto
    #[arg(
        short = 'w', long, value_name = "N", default_value = "0", hide_default_value = true, value_parser = all_workers
    )]
    workers: AllWorkers,
    /// Slots in each channel between stages
    #[arg(long, value_name = "N", value_parser = queue_depth)]
    queue_depth: Option<usize>,
    /// The largest chunk, 256K to 16M [4M]
    #[arg(long, value_name = "SIZE", value_parser = chunk_size)]
    chunk_size: Option<u32>,
    /// The most memory the pipeline may use
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// Give up after this long, as 90s, 10m or 2h
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    timeout: Option<Duration>,
    /// Give up when nothing moves [5m]; 0 for never
    #[arg(long, value_name = "TIME", value_parser = duration)]
    stall_timeout: Option<Duration>,
    #[command(flatten)]
    lock: LockArg,
}

impl PipelineArgs {
    /// These options in the library's words; `stages` are the threads that single stages were given.
    pub(crate) fn config(&self, stages: Workers, cancel: CancelToken) -> PipelineConfig {
        let mut config = PipelineConfig::default();
        config.workers = Workers { all: self.workers.0, ..stages };
        config.queue_depth = self.queue_depth;
        config.chunk_size = self.chunk_size;
        config.memory = self.memory;
        config.timeout = self.timeout;
        config.stall_timeout = Some(self.stall_timeout.unwrap_or(STALL_TIMEOUT));
        config.lock_timeout = self.lock.lock_timeout;
        config.cancel = cancel;
        config
    }

    /// Whether `--stall-timeout` was given.
    pub(crate) fn has_stall_timeout(&self) -> bool {
        self.stall_timeout.is_some()
    }
}

/// `--lock-timeout`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LockArg {
    /// Wait so long for the vault's lock [for ever]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    lock_timeout: Option<Duration>,
}

impl LockArg {
    /// The configuration of an operation that has no pipeline.
    pub(crate) fn config(&self, cancel: CancelToken) -> PipelineConfig {
        let mut config = PipelineConfig::default();
        config.lock_timeout = self.lock_timeout;
        config.cancel = cancel;
        config
    }
}

/// The threads of each stage of the way into a vault.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pipeline")]
pub(crate) struct PackWorkers {
    /// Threads that list directories
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    scan_workers: Option<NonZeroU16>,
    /// Threads that read files
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    read_workers: Option<NonZeroU16>,
    /// Threads that compress
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    compress_workers: Option<NonZeroU16>,
    /// Threads that encrypt
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    encrypt_workers: Option<NonZeroU16>,
    /// Threads that write to the vault
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    write_workers: Option<NonZeroU16>,
}

impl From<&PackWorkers> for Workers {
    fn from(args: &PackWorkers) -> Self {
        Self {
            scan: args.scan_workers,
            read: args.read_workers,
            compress: args.compress_workers,
            encrypt: args.encrypt_workers,
            write: args.write_workers,
            ..Self::default()
        }
    }
}

/// The threads of the stages that every way back has.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pipeline")]
pub(crate) struct DecodeWorkers {
    /// Threads that read the vault
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    read_workers: Option<NonZeroU16>,
    /// Threads that decrypt
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    decrypt_workers: Option<NonZeroU16>,
    /// Threads that decompress
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    decompress_workers: Option<NonZeroU16>,
}

impl From<&DecodeWorkers> for Workers {
    fn from(args: &DecodeWorkers) -> Self {
        Self {
            read: args.read_workers,
            decrypt: args.decrypt_workers,
            decompress: args.decompress_workers,
            ..Self::default()
        }
    }
}

/// The threads of each stage of the way out of a vault into files.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pipeline")]
pub(crate) struct RestoreWorkers {
    #[command(flatten)]
    decode: DecodeWorkers,
    /// Threads that write files
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    write_workers: Option<NonZeroU16>,
}

impl From<&RestoreWorkers> for Workers {
    fn from(args: &RestoreWorkers) -> Self {
        Self { write: args.write_workers, ..Self::from(&args.decode) }
    }
}

/// The threads of each stage of both ways.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pipeline")]
pub(crate) struct BothWorkers {
    #[command(flatten)]
    pack: PackWorkers,
    /// Threads that decrypt
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    decrypt_workers: Option<NonZeroU16>,
    /// Threads that decompress
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    decompress_workers: Option<NonZeroU16>,
}

impl From<&BothWorkers> for Workers {
    fn from(args: &BothWorkers) -> Self {
        Self { decrypt: args.decrypt_workers, decompress: args.decompress_workers, ..Self::from(&args.pack) }
    }
}

/// The threads of each stage of the way from one vault file into another.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pipeline")]
pub(crate) struct TransferWorkers {
    /// Threads that read the old file
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    read_workers: Option<NonZeroU16>,
    /// Threads that decrypt
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    decrypt_workers: Option<NonZeroU16>,
    /// Threads that encrypt
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    encrypt_workers: Option<NonZeroU16>,
    /// Threads that write the new file
    #[arg(long, value_name = "N", value_parser = stage_workers)]
    write_workers: Option<NonZeroU16>,
}

impl From<&TransferWorkers> for Workers {
    fn from(args: &TransferWorkers) -> Self {
        Self {
            read: args.read_workers,
            decrypt: args.decrypt_workers,
            encrypt: args.encrypt_workers,
            write: args.write_workers,
            ..Self::default()
        }
    }
}

/// `--at`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct AtArg {
    /// Snapshot N instead of the newest
    #[arg(long, value_name = "N")]
    pub(crate) at: Option<u64>,
}

/// `--read-mode`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ReadModeArg {
    /// Whatever is safe and quick.
    Auto,
    /// Mapped windows.
    Mmap,
    /// Plain reads.
    Read,
}

impl From<ReadModeArg> for ReadMode {
    fn from(mode: ReadModeArg) -> Self {
        match mode {
            ReadModeArg::Auto => Self::Auto,
            ReadModeArg::Mmap => Self::Mmap,
            ReadModeArg::Read => Self::Read,
        }
    }
}

/// The threads of `--workers`: none is auto. A type of its own because clap takes an `Option` for an option left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AllWorkers(Option<NonZeroU16>);

/// Parses the value of `--workers`.
fn all_workers(text: &str) -> Result<AllWorkers, String> {
    let number = text.parse::<u16>().ok().filter(|&number| number <= MAX_WORKERS);
    number
        .map(|number| AllWorkers(NonZeroU16::new(number)))
        .ok_or_else(|| format!("not within 0 (auto) to {MAX_WORKERS}"))
}

/// Parses the threads of one stage.
fn stage_workers(text: &str) -> Result<NonZeroU16, String> {
    let number = text.parse::<NonZeroU16>().ok().filter(|number| number.get() <= MAX_WORKERS);
    number.ok_or_else(|| format!("not within 1 to {MAX_WORKERS}"))
}

/// Parses the value of `--queue-depth`.
fn queue_depth(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| (1..=MAX_QUEUE_DEPTH).contains(number));
    number.ok_or_else(|| format!("not within 1 to {MAX_QUEUE_DEPTH}"))
}

/// Parses the value of `--chunk-size`.
fn chunk_size(text: &str) -> Result<u32, String> {
    let bytes = flint_pipe::parse_size(text)?;
    let size = u32::try_from(bytes).ok().filter(|size| CHUNK_SIZES.contains(size));
    size.ok_or_else(|| "not within 256K to 16M".to_owned())
}

/// Parses the value of `--memory`; how little is too little depends on the plan, so the library says it.
fn memory(text: &str) -> Result<u64, String> {
    match flint_pipe::parse_size(text)? {
        0 => Err("not more than 0".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Parses a time: a number with its unit, or 0.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "not a time such as 90s, 10m or 2h".to_owned())
}

/// Parses a time that has to be more than none: a deadline that has passed already is a slip.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("not more than 0".to_owned()),
        time => Ok(time),
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

/// Parses the value of `--level`.
pub(crate) fn level(text: &str) -> Result<Level, String> {
    match text {
        "store" => Ok(Level::Store),
        "auto" => Ok(Level::Auto),
        number => {
            let level = number.parse::<i32>().ok().filter(|level| LEVELS.contains(level));
            level
                .map(Level::Zstd)
                .ok_or_else(|| format!("not within {} to {}, nor store or auto", LEVELS.start(), LEVELS.end()))
        }
    }
}

/// A level as it is typed.
pub(crate) fn typed_level(level: Level) -> String {
    match level {
        Level::Store => "store".to_owned(),
        Level::Auto => "auto".to_owned(),
        Level::Zstd(number) => number.to_string(),
    }
}

/// The command line as a snapshot keeps it: without password commands, which may hold a secret that outlives a change of
/// the password.
pub(crate) fn command_line(args: impl Iterator<Item = OsString>) -> Vec<String> {
    const OPTIONS: [&str; 2] = ["--password-command", "--new-password-command"];
    let mut kept = Vec::new();
    let mut args = args.map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        if OPTIONS.contains(&arg.as_str()) {
            args.next();
        } else if !arg.split_once('=').is_some_and(|(option, _)| OPTIONS.contains(&option)) {
            kept.push(arg);
        }
    }
    kept
}

/// The name that an entry has in the vault when it was packed as `typed`: no leading `/`, `./` or `../` (up to the last
/// `..`), no trailing `/`. Empty for the root of `-s .`.
pub(crate) fn stored_name(typed: &Path) -> PathBuf {
    let mut name = PathBuf::new();
    for component in typed.components() {
        match component {
            Component::Normal(part) => name.push(part),
            Component::ParentDir => name.clear(),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_of_all_stages_may_be_auto_and_those_of_one_may_not() {
        assert_eq!(all_workers("0"), Ok(AllWorkers(None)));
        assert_eq!(all_workers("1024"), Ok(AllWorkers(NonZeroU16::new(1024))));
        assert_eq!(stage_workers("1").map(NonZeroU16::get), Ok(1));
        assert_eq!(stage_workers("1024").map(NonZeroU16::get), Ok(1024));
        for text in ["1025", "-1", "65536", "", "two", "1.5"] {
            assert!(all_workers(text).expect_err(text).contains("0 (auto) to 1024"), "{text}");
            assert!(stage_workers(text).expect_err(text).contains("1 to 1024"), "{text}");
        }
        assert!(stage_workers("0").is_err());
    }

    #[test]
    fn a_queue_has_at_least_one_slot() {
        assert_eq!(queue_depth("1"), Ok(1));
        assert_eq!(queue_depth("65536"), Ok(65_536));
        for text in ["0", "65537", "-1", "x"] {
            assert!(queue_depth(text).expect_err(text).contains("1 to 65536"), "{text}");
        }
    }

    #[test]
    fn chunks_are_between_256_kib_and_16_mib() {
        assert_eq!(chunk_size("256K"), Ok(256 << 10));
        assert_eq!(chunk_size("16M"), Ok(16 << 20));
        for text in ["255K", "17M", "0", "8G"] {
            assert!(chunk_size(text).expect_err(text).contains("256K to 16M"), "{text}");
        }
        assert!(chunk_size("big").is_err());
        assert!(memory("0").is_err());
        assert_eq!(memory("1M"), Ok(1 << 20));
    }

    #[test]
    fn times_have_a_unit_and_only_a_deadline_may_not_be_zero() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(timeout("10m"), Ok(Duration::from_secs(600)));
        assert!(timeout("0s").is_err());
        for text in ["90", "", "-1s", "soon"] {
            assert!(duration(text).expect_err(text).contains("90s"), "{text}");
        }
    }

    #[test]
    fn levels_are_words_or_numbers_of_zstd() {
        assert_eq!(level("store"), Ok(Level::Store));
        assert_eq!(level("auto"), Ok(Level::Auto));
        assert_eq!(level("-7"), Ok(Level::Zstd(-7)));
        assert_eq!(level("22"), Ok(Level::Zstd(22)));
        for text in ["store", "auto", "-7", "22"] {
            assert_eq!(level(text).map(typed_level).as_deref(), Ok(text));
        }
        for text in ["-8", "23", "", "fast"] {
            assert!(level(text).expect_err(text).contains("-7 to 22"), "{text}");
        }
    }

    #[test]
    fn the_memory_of_a_guess_is_counted_in_kib() {
        assert_eq!(kdf_memory("64M"), Ok(64 << 10));
        assert_eq!(kdf_memory("1G"), Ok(1 << 20));
        for text in ["1000", "8E", "18M", "1025M", "much"] {
            assert!(kdf_memory(text).is_err(), "{text}");
        }
        assert_eq!(kdf_time("2"), Ok(2));
        for text in ["1", "17", "many", "-3"] {
            assert!(kdf_time(text).expect_err(text).contains("2 to 16"), "{text}");
        }
    }

    #[test]
    fn the_password_command_is_not_kept() {
        let kept = |line: &str| command_line(line.split(' ').map(OsString::from)).join(" ");
        assert_eq!(kept("flint-pipe add --password-command secret -s a"), "flint-pipe add -s a");
        assert_eq!(kept("flint-pipe add --password-command=secret -s a"), "flint-pipe add -s a");
        assert_eq!(kept("flint-pipe add -s a --password-command"), "flint-pipe add -s a");
        assert_eq!(kept("flint-pipe add --password-file f"), "flint-pipe add --password-file f");
        assert_eq!(kept("flint-pipe rekey --new-password-command secret -v a"), "flint-pipe rekey -v a");
        assert_eq!(kept("flint-pipe rekey --new-password-command=secret=1 -v a"), "flint-pipe rekey -v a");
        assert_eq!(kept("flint-pipe rekey --new-password-file f"), "flint-pipe rekey --new-password-file f");
    }

    #[test]
    fn a_name_is_looked_for_as_it_was_stored() {
        for (typed, stored) in [
            ("dir/", "dir"),
            ("dir", "dir"),
            ("./dir//sub/.", "dir/sub"),
            ("/etc/hosts", "etc/hosts"),
            ("../../a/b", "a/b"),
            ("a/../b", "b"),
            (".", ""),
            ("/", ""),
        ] {
            let name = stored_name(Path::new(typed));
            assert_eq!(name.as_os_str(), stored, "{typed}");
        }
    }

    #[test]
    fn threads_of_a_stage_stand_beside_those_of_all() {
        let args = PipelineArgs {
            workers: AllWorkers(NonZeroU16::new(3)),
            queue_depth: Some(7),
            chunk_size: None,
            memory: None,
            timeout: None,
            stall_timeout: None,
            lock: LockArg { lock_timeout: Some(Duration::ZERO) },
        };
        let config = args.config(Workers { read: NonZeroU16::new(2), ..Workers::default() }, CancelToken::new());
        assert_eq!(config.workers.all, NonZeroU16::new(3));
        assert_eq!(config.workers.read, NonZeroU16::new(2));
        assert_eq!(config.workers.write, None);
        assert_eq!(config.queue_depth, Some(7));
        assert_eq!(config.stall_timeout, Some(STALL_TIMEOUT));
        assert_eq!(config.lock_timeout, Some(Duration::ZERO));
    }
}
