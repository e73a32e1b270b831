//! Packing with a stand-in for the files: readers that meet, files that fail in a reader's hands.
#![expect(
    clippy::disallowed_methods,
    reason = "the calls that clippy.toml names are for errors that need paths; here a panic says enough"
)]

use std::io;
use std::num::NonZeroU16;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::crypto::derive::KdfParams;
use crate::crypto::key::Password;
use crate::engine::api::CreateOptions;
use crate::engine::verdict::BoundKind;
use crate::primitives::fs::{FsKind, Stat};
use crate::stages::FileRange;
use crate::stages::pack::place::SourcePath;
use crate::stages::pack::source::SourceFile;

/// What happens to whoever reads.
type OnRead = dyn Fn() -> io::Result<()> + Send + Sync;

/// The files of this machine, with something done before each read.
struct Staged(Arc<OnRead>);

struct StagedFile(Box<dyn SourceFile>, Arc<OnRead>);

impl Source for Staged {
    fn open(&self, path: &SourcePath) -> Result<Box<dyn SourceFile>> {
        Ok(Box::new(StagedFile(FileSystem.open(path)?, Arc::clone(&self.0))))
    }
}

impl SourceFile for StagedFile {
    fn stat(&self) -> io::Result<Stat> {
        self.0.stat()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1()?;
        self.0.read_at(buf, offset)
    }
    fn copy_at(&self, buf: &mut [u8], offset: u64) -> io::Result<(usize, bool)> {
        self.1()?;
        self.0.copy_at(buf, offset)
    }
    fn data_ranges(&self, size: u64) -> io::Result<Vec<FileRange>> {
        self.0.data_ranges(size)
    }
    fn file_system(&self) -> io::Result<FsKind> {
        self.0.file_system()
    }
}

/// A vault, and a file of many chunks beside it.
fn scene() -> (TempDir, Vault) {
    let dir = TempDir::new().unwrap();
    let bytes: Vec<u8> = (0_u32..).flat_map(u32::to_le_bytes).take(16 * CHUNK as usize).collect();
    std::fs::write(dir.path().join("large"), bytes).unwrap();
    let kdf = KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 };
    let create = CreateOptions { kdf, ..CreateOptions::default() };
    let vault = Vault::create(dir.path().join("v"), &Password::new("p"), &create).unwrap();
    (dir, vault)
}

const CHUNK: u32 = 256 << 10;

fn options(dir: &TempDir, readers: u16) -> AddOptions {
    let mut options = AddOptions { directory: Some(dir.path().to_owned()), ..AddOptions::default() };
    options.pipeline.chunk_size = Some(CHUNK);
    options.pipeline.workers.read = NonZeroU16::new(readers);
    options
}

fn pack(dir: &TempDir, vault: &Vault, readers: u16, on_read: Arc<OnRead>) -> Result<Report, Failed> {
    vault.add_from(&[PathBuf::from("large")], &options(dir, readers), &(), &Staged(on_read))
}

#[test]
fn as_many_files_are_read_at_once_as_there_are_readers() {
    for readers in [1_u16, 3, 8] {
        let (dir, vault) = scene();
        let reading = Arc::new((Mutex::new(0_u16), Condvar::new()));
        let meet = Arc::clone(&reading);
        let on_read = move || {
            let (count, changed) = &*meet;
            let mut count = count.lock().unwrap();
            *count += 1;
            changed.notify_all();
            // Whoever comes first waits until all are there; later reads find that they were.
            let waited = changed.wait_timeout_while(count, Duration::from_secs(30), |count| *count < readers);
            if waited.unwrap().1.timed_out() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
        };
        let report = pack(&dir, &vault, readers, Arc::new(on_read)).unwrap();
        assert!(report.is_complete(), "{readers} readers: {:?}", report.errors);
    }
}

#[test]
fn a_file_that_fails_in_a_readers_hands_is_named_and_ends_no_run() {
    let (dir, vault) = scene();
    std::fs::write(dir.path().join("small"), "fine").unwrap();
    let reads = AtomicU64::new(0);
    let on_read = move || match reads.fetch_add(1, Ordering::Relaxed) {
        3 => Err(io::Error::from_raw_os_error(5)),
        _ => Ok(()),
    };
    let sources = [PathBuf::from("large"), PathBuf::from("small")];
    let report = vault.add_from(&sources, &options(&dir, 1), &(), &Staged(Arc::new(on_read))).unwrap();
    assert_eq!((report.successful_files, report.failed_files, report.errors.len()), (1, 1, 1));
    assert!(report.errors[0].path.ends_with("large"), "{:?}", report.errors);
}

#[test]
fn a_panic_in_a_reader_ends_the_run_and_leaves_the_vault_as_it_was() {
    let (dir, vault) = scene();
    let before = std::fs::read(dir.path().join("v")).unwrap();
    let failed = pack(&dir, &vault, 2, Arc::new(|| panic!("a defect"))).unwrap_err();
    assert!(matches!(failed.error, Error::WorkerPanicked { stage: "read", .. }), "{}", failed.error);
    assert!(std::fs::read(dir.path().join("v")).unwrap() == before);
}

#[test]
fn files_that_take_their_time_are_a_device_where_they_are_read() {
    let (dir, vault) = scene();
    let on_read = || {
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    };
    let mut options = AddOptions { level: Level::Store, ..options(&dir, 1) };
    options.pipeline.workers.all = NonZeroU16::new(2);
    let staged = Staged(Arc::new(on_read));
    let report = vault.add_from(&[PathBuf::from("large")], &options, &(), &staged).unwrap();
    let found = report.bottleneck.expect("it ran for long enough");
    assert_eq!((found.kind, found.stage), (BoundKind::Device, "read"), "{found}");
    assert!(found.reason.starts_with("the disk of the sources"), "{found}");
    assert!(found.advice[0].option.starts_with("--read-workers "), "{found}");
}
