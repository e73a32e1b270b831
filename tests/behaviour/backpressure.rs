//! A slow disk makes a run slow, not large: memory stays under the ceiling that was promised.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flint_pipe::{AddOptions, ExtractOptions, FsVaultDir, Level, Lock, LockMode, ReadMode, Storage, Vault, VaultDir};

use crate::support::tree::{Tree, noise, text};
use crate::support::{add_with, assert_sound, cheap, in_a_process_of_its_own, password, within, workers};

/// A real vault on a device that takes its time over each call that moves data.
struct Slow {
    inner: Arc<dyn Storage>,
    delay: Duration,
    /// Calls under way, and the most there were.
    now: AtomicUsize,
    most: Arc<AtomicUsize>,
}

impl Slow {
    fn wait(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(self.delay);
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Storage for Slow {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if buf.len() > 100_000 {
            self.wait();
        }
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.wait();
        self.inner.write_at(buf, offset)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(offset, len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.punch(offset, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.start_writeback(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn try_lock(&self, lock: Lock, mode: LockMode) -> io::Result<bool> {
        self.inner.try_lock(lock, mode)
    }
    fn lock(&self, lock: Lock, mode: LockMode) -> io::Result<()> {
        self.inner.lock(lock, mode)
    }
    fn unlock(&self, lock: Lock) -> io::Result<()> {
        self.inner.unlock(lock)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct SlowDir {
    inner: FsVaultDir,
    delay: Duration,
    most: Arc<AtomicUsize>,
}

impl SlowDir {
    fn slow(&self, inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
        Arc::new(Slow { inner, delay: self.delay, now: AtomicUsize::new(0), most: Arc::clone(&self.most) })
    }
}

fn inner(storage: &dyn Storage) -> &dyn Storage {
    &*storage.as_any().downcast_ref::<Slow>().expect("a storage of this directory").inner
}

impl VaultDir for SlowDir {
    fn open(&self, write: bool) -> io::Result<Option<Arc<dyn Storage>>> {
        Ok(self.inner.open(write)?.map(|storage| self.slow(storage)))
    }
    fn create_unlinked(&self) -> io::Result<Arc<dyn Storage>> {
        Ok(self.slow(self.inner.create_unlinked()?))
    }
    fn link(&self, storage: &dyn Storage) -> io::Result<()> {
        self.inner.link(inner(storage))
    }
    fn rename(&self, storage: &dyn Storage) -> io::Result<()> {
        self.inner.rename(inner(storage))
    }
    fn unlink(&self) -> io::Result<()> {
        self.inner.unlink()
    }
    fn is_same_file(&self, storage: &dyn Storage) -> io::Result<bool> {
        self.inner.is_same_file(inner(storage))
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
}

fn slow_vault(path: &Path, delay: Duration) -> (Vault, Arc<AtomicUsize>) {
    let most = Arc::new(AtomicUsize::new(0));
    let dir = SlowDir { inner: FsVaultDir::new(path).unwrap(), delay, most: Arc::clone(&most) };
    let vault = Vault::open_in(path, Arc::new(dir), &password(), Some(&cheap())).unwrap();
    (vault, most)
}

const MIB: u64 = 1 << 20;

/// Packs 320 MB onto a slow disk under a ceiling of 64 MiB.
fn pack_slowly(mode: ReadMode, level: Level, count: u16) {
    within(120, move || {
        let tree = Tree::new();
        for number in 0..64 {
            tree.file(format!("{number}"), noise(number, 5_000_000));
        }
        for number in 0..5000 {
            tree.file(format!("small/{number}"), text(number, 2000));
        }
        let out = Tree::new();
        let (vault, _) = slow_vault(&out.path("vault"), Duration::from_millis(10));
        let mut options = AddOptions::default();
        options.pipeline.memory = Some(64 * MIB);
        options.pipeline.workers = workers(count);
        options.pipeline.queue_depth = Some(4096);
        options.read_mode = mode;
        options.level = level;
        let report = add_with(&vault, tree.root(), &["."], options).unwrap();
        assert!(report.is_complete(), "{:?}", report.errors);
        let peak = report.peak_memory_bytes;
        assert!(peak > 4 * MIB, "{peak} bytes are no measurement");
        assert!(peak <= 64 * MIB, "{peak} bytes at the peak, {mode:?} {level:?}");
        let waited: Duration = report.stages.iter().map(|stage| stage.work.wait_budget).sum();
        assert!(waited > Duration::ZERO, "the budget was the wait");
    });
}

#[test]
fn packing_mapped_files_onto_a_slow_disk_stays_under_the_memory_that_was_promised() {
    if in_a_process_of_its_own(
        "backpressure::packing_mapped_files_onto_a_slow_disk_stays_under_the_memory_that_was_promised",
    ) {
        pack_slowly(ReadMode::Mmap, Level::Store, 4);
    }
}

#[test]
fn packing_onto_a_slow_disk_with_many_workers_stays_under_the_memory_that_was_promised() {
    if in_a_process_of_its_own(
        "backpressure::packing_onto_a_slow_disk_with_many_workers_stays_under_the_memory_that_was_promised",
    ) {
        pack_slowly(ReadMode::Read, Level::Zstd(3), 16);
    }
}

#[test]
fn restoring_from_a_slow_disk_stays_under_the_memory_that_was_promised() {
    if !in_a_process_of_its_own("backpressure::restoring_from_a_slow_disk_stays_under_the_memory_that_was_promised") {
        return;
    }
    within(120, || {
        let tree = Tree::new();
        for number in 0..40 {
            tree.file(format!("{number}"), text(number, 5_000_000));
        }
        let out = Tree::new();
        let (vault, _) = slow_vault(&out.path("vault"), Duration::from_millis(3));
        let mut options = AddOptions::default();
        options.pipeline.memory = Some(64 * MIB);
        options.pipeline.chunk_size = Some(1 << 20);
        let report = add_with(&vault, tree.root(), &["."], options).unwrap();
        assert!(report.is_complete(), "{:?}", report.errors);
        let mut options = ExtractOptions::default();
        options.pipeline.memory = Some(64 * MIB);
        options.pipeline.workers = workers(8);
        options.pipeline.queue_depth = Some(4096);
        let report = vault.extract(&out.path("out"), &options, &()).unwrap();
        assert!(report.is_complete(), "{:?}", report.errors);
        let peak = report.peak_memory_bytes;
        assert!(peak <= 64 * MIB, "{peak} bytes at the peak");
    });
}

#[test]
fn as_many_writes_are_under_way_as_there_are_write_workers() {
    within(120, || {
        let tree = Tree::new();
        for number in 0..60 {
            tree.file(format!("{number}"), noise(number, 300_000));
        }
        for count in [1_u16, 4, 8] {
            let out = Tree::new();
            let (vault, most) = slow_vault(&out.path("vault"), Duration::from_millis(20));
            let mut options = AddOptions::default();
            options.pipeline.chunk_size = Some(256 << 10);
            options.pipeline.workers = workers(count);
            options.level = Level::Store;
            most.store(0, Ordering::SeqCst);
            add_with(&vault, tree.root(), &["."], options).unwrap();
            let most = most.load(Ordering::SeqCst);
            // The indexer and the taking of extents write too, each for a moment.
            let count = usize::from(count);
            assert!((count..=count + 2).contains(&most), "{most} writes at once with {count} write workers");
            assert_sound(&vault);
        }
    });
}

#[test]
fn tens_of_thousands_of_empty_entries_do_not_pile_up_behind_a_stalled_chunk() {
    if !in_a_process_of_its_own(
        "backpressure::tens_of_thousands_of_empty_entries_do_not_pile_up_behind_a_stalled_chunk",
    ) {
        return;
    }
    within(180, || {
        let tree = Tree::new();
        tree.file("0 large", noise(1, 2_000_000));
        for number in 0..60 {
            tree.directory(format!("many {number}"));
            for file in 0..1500 {
                std::fs::File::create(tree.path(format!("many {number}/{file:0>60}"))).unwrap();
            }
        }
        let out = Tree::new();
        let (vault, _) = slow_vault(&out.path("vault"), Duration::from_millis(200));
        let mut options = AddOptions::default();
        options.pipeline.memory = Some(64 * MIB);
        let report = add_with(&vault, tree.root(), &["."], options).unwrap();
        assert!(report.is_complete(), "{:?}", report.errors);
        assert_eq!(report.successful_files, 90_001);
        assert!(report.peak_memory_bytes <= 64 * MIB, "{} bytes at the peak", report.peak_memory_bytes);
    });
}

#[test]
fn too_little_memory_is_refused_before_anything_is_written() {
    within(60, || {
        let tree = Tree::new();
        tree.file("f", "x");
        let out = Tree::new();
        let (vault, _) = slow_vault(&out.path("vault"), Duration::ZERO);
        add_with(&vault, tree.root(), &["f"], AddOptions::default()).unwrap();
        let before = std::fs::read(out.path("vault")).unwrap();
        let mut options = AddOptions::default();
        options.pipeline.memory = Some(MIB);
        let failed = add_with(&vault, tree.root(), &["f"], options).unwrap_err();
        assert_eq!(failed.error.kind(), flint_pipe::ErrorKind::Usage);
        assert!(std::fs::read(out.path("vault")).unwrap() == before);
    });
}
