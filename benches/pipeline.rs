//! How fast is a whole `add`, for many small files and for a few large ones, with how many workers?
//!
//! ```sh
//! cargo bench --bench pipeline
//! ```
//!
//! Bytes of content a second, from a tree in the page cache into a new vault, everything included but the key derivation:
//! scan, read, compress, encrypt, write, index, commit, and its syncs. `Copy` is the ceiling of the same minutes: the
//! same bytes read and written to one file and synced, with nothing done to them.

use std::fmt;
use std::fs;
use std::io::Write;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use divan::Bencher;
use divan::counter::BytesCount;
use flint_pipe::{AddOptions, CreateOptions, KdfParams, Password, Vault, Workers};
use tempfile::TempDir;

#[path = "support/content.rs"]
mod content;
#[path = "support/corpus.rs"]
mod corpus;

use corpus::Corpus;

fn main() {
    divan::main();
}

/// What is done with a tree.
#[derive(Debug, Clone, Copy)]
enum Run {
    /// Read and written, the ceiling.
    Copy,
    /// Packed with this many workers for each stage; 0 is flint-pipe's own choice.
    Add(u16),
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy => f.write_str("copy"),
            Self::Add(0) => f.write_str("add, workers auto"),
            Self::Add(workers) => write!(f, "add, workers {workers}"),
        }
    }
}

const RUNS: [Run; 5] = [Run::Copy, Run::Add(0), Run::Add(1), Run::Add(2), Run::Add(4)];

#[divan::bench(args = RUNS, sample_count = 10, sample_size = 1)]
fn many_small(bencher: Bencher<'_, '_>, run: Run) {
    measure(bencher, Corpus::ManySmall, run);
}

#[divan::bench(args = RUNS, sample_count = 10, sample_size = 1)]
fn few_large(bencher: Bencher<'_, '_>, run: Run) {
    measure(bencher, Corpus::FewLarge, run);
}

fn measure(bencher: Bencher<'_, '_>, corpus: Corpus, run: Run) {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).expect("the directory is new");
    let total = corpus.write(&tree);
    let bencher = bencher.counter(BytesCount::new(total));
    match run {
        Run::Copy => bencher
            .with_inputs(|| fs::File::create_new(fresh(&dir)).expect("the name is new"))
            .bench_local_values(|mut out| {
                copy_tree(&tree, &mut out);
                out.sync_all().expect("there is room");
            }),
        Run::Add(workers) => bencher.with_inputs(|| new_vault(&fresh(&dir))).bench_local_values(|vault| {
            let mut options = AddOptions::default();
            options.pipeline.workers = Workers { all: NonZeroU16::new(workers), ..Workers::default() };
            options.directory = Some(dir.path().to_owned());
            let report = vault.add(&[PathBuf::from("tree")], &options, &()).expect("the tree can be packed");
            assert_eq!((report.failed_files, report.total_size), (0, total as u64), "all of it was stored");
            // To be dropped outside the measured time.
            vault
        }),
    }
}

/// A name that no run had before: a new file costs less where none was deleted.
fn fresh(dir: &TempDir) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    dir.path().join(format!("out{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

fn new_vault(path: &Path) -> Vault {
    let mut options = CreateOptions::default();
    // The least that a new vault may have; it is not what is measured.
    options.kdf = KdfParams { memory_kib: 19_456, passes: 2, lanes: 1 };
    Vault::create(path, &Password::new("bench"), &options).expect("a new vault")
}

fn copy_tree(dir: &Path, out: &mut fs::File) {
    for entry in fs::read_dir(dir).expect("the corpus was written just now") {
        let path = entry.expect("the corpus was written just now").path();
        if path.is_dir() {
            copy_tree(&path, out);
        } else {
            let content = fs::OpenOptions::new().read(true).open(path).expect("the corpus was written just now");
            std::io::copy(&mut &content, out).expect("there is room");
        }
    }
    out.flush().expect("files have nothing to flush");
}
