//! What do the behaviours stand on? Vaults that open quickly, runs that cannot hang a test, and what a vault holds.

pub(crate) mod disk;
pub(crate) mod scenes;
pub(crate) mod slow;
pub(crate) mod tree;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use flint_pipe::{
    AddOptions, CreateOptions, EntryType, ExtractOptions, Failed, KdfParams, ListEntry, ListOptions, Password, Report,
    Vault, VaultDir, VerifyOptions, Workers,
};

use self::disk::Disk;
use self::disk::media::Left;

/// The password of every vault in these tests.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// As little as a new vault's key derivation may cost.
const CHEAPEST: KdfParams = KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 };

pub(crate) fn password() -> Password {
    Password::new(PASSWORD)
}

pub(crate) fn cheap() -> CreateOptions {
    let mut options = CreateOptions::default();
    options.kdf = CHEAPEST;
    options
}

/// A vault on a real file system: opened, or made where there is none.
pub(crate) fn vault_at(path: &Path) -> Vault {
    Vault::open_or_create(path, &password(), &cheap()).expect("the vault opens")
}

/// A vault in a stand-in for a disk, made.
pub(crate) fn vault_in(dir: Arc<dyn VaultDir>) -> Vault {
    Vault::open_in("memory.flint", dir, &password(), Some(&cheap())).expect("the vault is made")
}

/// An empty vault in a stand-in for a disk, on it for good: one that was made and not added to goes with its maker.
pub(crate) fn empty_vault_on(disk: &Disk) -> Vault {
    let maker = vault_in(disk.dir());
    // The maker's hold on the file ends here.
    disk.power_cycle(Left::Everything);
    drop(maker);
    Vault::open_in("memory.flint", disk.dir(), &password(), None).expect("the vault opens")
}

/// Runs `work` in a thread of its own and fails the test if that takes longer than anything sane.
pub(crate) fn within<T: Send + 'static>(limit_secs: u64, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = channel();
    let worker = std::thread::spawn(move || {
        let _ = send.send(work());
    });
    // Under a checker that makes everything ten times slower, what is slow does not hang.
    let patience = std::env::var("FLINT_TEST_PATIENCE").ok().and_then(|factor| factor.parse::<u64>().ok());
    let limit_secs = limit_secs * patience.unwrap_or(1);
    match receive.recv_timeout(Duration::from_secs(limit_secs)) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("it hangs: not done after {limit_secs} s"),
        Err(RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it ended without an answer"),
        },
    }
}

/// Every so manieth of many cases; each of them where `FLINT_TEST_SCALE` asks for longer tests.
pub(crate) fn step(usual: usize) -> usize {
    let scale = std::env::var("FLINT_TEST_SCALE").ok().and_then(|scale| scale.parse::<u64>().ok());
    if scale.unwrap_or(1) > 1 { 1 } else { usual }
}

/// Runs the test `name` (as `module::test`) again in a process of its own, so that what it measures of the process is its
/// own doing. True in that process, where the test goes on; false in the first, where all is done then.
pub(crate) fn in_a_process_of_its_own(name: &str) -> bool {
    const ALONE: &str = "FLINT_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let own = std::env::current_exe().expect("the test knows its program");
    let output = Command::new(own).args([name, "--exact", "--nocapture"]).env(ALONE, "1").output();
    let output = output.expect("the test's program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// The program itself.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flint-pipe"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("FLINT_PASSWORD", PASSWORD);
    command
}

/// The program where anybody can run it.
pub(crate) fn program_for_all(place: &tree::Tree) -> PathBuf {
    tree::set_mode(place.root(), 0o755);
    let copy = place.path("flint-pipe");
    std::fs::copy(program().get_program(), &copy).unwrap();
    tree::set_mode(&copy, 0o755);
    copy
}

pub(crate) fn workers(count: u16) -> Workers {
    let all = NonZeroU16::new(count);
    Workers { all, scan: all, ..Workers::default() }
}

/// One worker a stage and the smallest chunks: many records from little data, in an order that hardly varies.
pub(crate) fn simple() -> AddOptions {
    let mut options = AddOptions::default();
    options.pipeline.workers = workers(1);
    options.pipeline.chunk_size = Some(256 << 10);
    options
}

/// Adds what lies at `directory`, with these names in it, as it is.
pub(crate) fn add_with(
    vault: &Vault,
    directory: &Path,
    sources: &[&str],
    mut options: AddOptions,
) -> Result<Report, Failed> {
    options.directory = Some(directory.to_owned());
    let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
    vault.add(&sources, &options, &())
}

/// Adds and expects everything to be stored.
pub(crate) fn add(vault: &Vault, directory: &Path, sources: &[&str]) -> Report {
    let report = add_with(vault, directory, sources, simple()).expect("the sources are added");
    assert!(report.is_complete(), "{:?}", report.errors);
    report
}

/// Restores everything of the newest snapshot.
pub(crate) fn extract(vault: &Vault, destination: &Path) -> Report {
    let report = vault.extract(destination, &ExtractOptions::default(), &()).expect("the vault is restored");
    assert!(report.is_complete(), "{:?}", report.errors);
    report
}

pub(crate) fn verify(vault: &Vault) -> Result<Report, Failed> {
    vault.verify(&VerifyOptions::default(), &())
}

/// Everything that any snapshot needs is whole.
pub(crate) fn assert_sound(vault: &Vault) -> Report {
    let report = verify(vault).unwrap_or_else(|failed| panic!("verify: {failed}: {:?}", failed.error));
    assert!(report.is_complete(), "{:?}", report.errors);
    report
}

pub(crate) fn entries(vault: &Vault, at: Option<u64>) -> flint_pipe::Result<Vec<ListEntry>> {
    let mut options = ListOptions::default();
    options.at = at;
    vault.list(&options)?.collect()
}

/// The names of a snapshot, in the order of the list.
pub(crate) fn names(vault: &Vault, at: Option<u64>) -> Vec<String> {
    let listed = entries(vault, at).expect("the vault is listed");
    listed.into_iter().map(|entry| String::from_utf8_lossy(entry.path.as_os_str().as_bytes()).into_owned()).collect()
}

/// What the files of a snapshot hold, by name.
pub(crate) type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// Reads every file of a snapshot.
pub(crate) fn contents(vault: &Vault, at: Option<u64>) -> flint_pipe::Result<Contents> {
    let mut options = ExtractOptions::default();
    options.at = at;
    let mut contents = Contents::new();
    for entry in entries(vault, at)? {
        if entry.entry_type == EntryType::File {
            let mut bytes = Vec::new();
            vault.copy_file(&entry.path, &options, &mut bytes, &())?;
            contents.insert(entry.path, bytes);
        }
    }
    Ok(contents)
}

/// The numbers of the snapshots, the newest first.
pub(crate) fn snapshot_numbers(vault: &Vault) -> flint_pipe::Result<Vec<u64>> {
    Ok(vault.snapshots()?.into_iter().map(|snapshot| snapshot.number).collect())
}
