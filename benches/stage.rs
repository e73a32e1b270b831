//! How many bytes a second does one worker of one stage take, alone, for each kind of data and length of chunk?
//!
//! ```sh
//! cargo bench --features internals --bench stage
//! ```
//!
//! `copy_from_mapping` and `pread` fill the same buffer from the same file, which is in the page cache: the difference
//! between them is what mapping costs or gives, and each is the ceiling of the stage `read`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::hint::black_box;

use divan::Bencher;
use divan::counter::BytesCount;
use flint_pipe::Level;
use flint_pipe::internals::{self, Bench};

#[path = "support/content.rs"]
mod content;

use content::{Content, Random};

fn main() {
    divan::main();
}

/// From a small file to the largest chunk there is.
const LENGTHS: [u32; 4] = [4 << 10, 256 << 10, 4 << 20, 16 << 20];

const KINDS: [Content; 3] = [Content::Text, Content::Noise, Content::Zeros];

/// A chunk to measure with.
struct Case {
    content: Content,
    len: u32,
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        self.content.bytes(self.len as usize, Random(7).next())
    }

    fn workers(&self, level: Level) -> Bench {
        Bench::new(level, self.len).expect("there are random numbers and memory")
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Aligned, and ascending where the table is sorted by it.
        write!(f, "{:?} {:>5} KiB", self.content, self.len >> 10)
    }
}

fn cases() -> impl Iterator<Item = Case> {
    KINDS.into_iter().flat_map(|content| LENGTHS.map(|len| Case { content, len }))
}

#[divan::bench(args = cases())]
fn compress_at_3(bencher: Bencher<'_, '_>, case: &Case) {
    compress(bencher, case, Level::Zstd(3));
}

#[divan::bench(args = cases())]
fn compress_at_auto(bencher: Bencher<'_, '_>, case: &Case) {
    compress(bencher, case, Level::Auto);
}

fn compress(bencher: Bencher<'_, '_>, case: &Case, level: Level) {
    let (content, mut workers) = (case.bytes(), case.workers(level));
    let feeder = case.workers(level);
    bencher
        .counter(BytesCount::new(content.len()))
        .with_inputs(|| feeder.plain(&content).expect("there is memory"))
        .bench_local_values(|chunk| workers.compress(chunk).expect("zstd compresses anything").packed_len());
}

/// Cipher and tag do not look at what they are given: one kind of data stands for all.
#[divan::bench(args = LENGTHS)]
fn encrypt(bencher: Bencher<'_, '_>, len: u32) {
    let case = Case { content: Content::Noise, len };
    let (content, workers, mut feeder) = (case.bytes(), case.workers(Level::Store), case.workers(Level::Store));
    bencher
        .counter(BytesCount::new(content.len()))
        .with_inputs(|| {
            let chunk = feeder.plain(&content).expect("there is memory");
            feeder.compress(chunk).expect("storing cannot fail")
        })
        .bench_local_values(|chunk| workers.encrypt(chunk).expect("number 0 can be sealed"));
}

/// A record brings its keys along, so one set of workers makes the records and another opens them.
#[divan::bench(args = LENGTHS)]
fn decrypt(bencher: Bencher<'_, '_>, len: u32) {
    let case = Case { content: Content::Noise, len };
    let (content, mut workers, mut feeder) = (case.bytes(), case.workers(Level::Store), case.workers(Level::Store));
    let sealed = seal(&mut feeder, &content);
    bencher
        .counter(BytesCount::new(content.len()))
        .with_inputs(|| feeder.stored(&sealed).expect("there is memory"))
        .bench_local_values(|record| workers.decrypt(record).expect("a stage does not fail on content"));
}

#[divan::bench(args = cases())]
fn decompress(bencher: Bencher<'_, '_>, case: &Case) {
    let (content, mut workers, mut feeder) = (case.bytes(), case.workers(Level::Zstd(3)), case.workers(Level::Zstd(3)));
    let sealed = seal(&mut feeder, &content);
    let mut opened = || {
        let stored = feeder.stored(&sealed).expect("there is memory");
        feeder.decrypt(stored).expect("a stage does not fail on content")
    };
    // To fail would be quick, and measured as well.
    let restored = workers.decompress(opened()).expect("there is memory");
    assert!(restored.content() == Some(&content), "it comes back");
    bencher
        .counter(BytesCount::new(content.len()))
        .with_inputs(opened)
        .bench_local_values(|record| workers.decompress(record).expect("there is memory"));
}

fn seal(workers: &mut Bench, content: &[u8]) -> internals::Sealed {
    let plain = workers.plain(content).expect("there is memory");
    let packed = workers.compress(plain).expect("zstd compresses anything");
    workers.encrypt(packed).expect("number 0 can be sealed")
}

#[divan::bench(args = LENGTHS)]
fn copy_from_mapping(bencher: Bencher<'_, '_>, len: u32) {
    let (file, mut buf) = cached_file(len);
    let (_, mapped) = internals::copy_from_mapping(&file, &mut buf, 0).expect("a regular file can be read");
    assert_eq!(mapped, buf.len(), "the system permits copying out of mappings, and the file system maps");
    bencher
        .counter(BytesCount::new(len))
        .bench_local(|| internals::copy_from_mapping(black_box(&file), &mut buf, 0).expect("a regular file"));
}

#[divan::bench(args = LENGTHS)]
fn pread(bencher: Bencher<'_, '_>, len: u32) {
    let (file, mut buf) = cached_file(len);
    bencher
        .counter(BytesCount::new(len))
        .bench_local(|| internals::read_at(black_box(&file), &mut buf, 0).expect("a regular file can be read"));
}

/// A file of noise without a name, written just now and therefore in memory, and a buffer as long as it.
fn cached_file(len: u32) -> (File, Vec<u8>) {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let path = dir.path().join("noise");
    let content = Content::Noise.bytes(len as usize, 3);
    std::fs::write(&path, &content).expect("there is room");
    (OpenOptions::new().read(true).open(path).expect("it was written just now"), content)
}
