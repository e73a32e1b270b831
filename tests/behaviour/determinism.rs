//! What a snapshot holds does not depend on thread counts, queue depths, memory or timing.

use flint_pipe::{AddOptions, ExtractOptions, Level, Report, Vault, VerifyOptions, Workers};

use crate::support::disk::{Dice, Disk, Effect, Fault, Op};
use crate::support::tree::{Sight, Tree, assert_same_sight, look, noise, set_mtime, text};
use crate::support::{add_with, assert_sound, entries, vault_in, within, workers};

/// Small files in batches, large ones in ranges, and what lies between.
fn tree() -> Tree {
    let tree = Tree::new();
    for number in 0..300 {
        tree.file(format!("small/{:02}/{number}", number % 17), text(number, 90 * usize::try_from(number).unwrap()));
    }
    tree.file("large noise", noise(1, 3_000_001));
    tree.file("large text", text(2, 5_000_003));
    tree.file("middle/same as a chunk", text(3, 256 << 10));
    tree.file("middle/one less", noise(4, (256 << 10) - 1));
    std::fs::hard_link(tree.path("large text"), tree.path("middle/linked")).unwrap();
    let sparse = std::fs::File::create(tree.path("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &text(5, 400_000), 5 << 20).unwrap();
    for directory in ["small", "middle", ""] {
        set_mtime(&tree.path(directory), 1_000_000_000, 42);
    }
    tree
}

/// What a run stored, as far as it must not depend on how: the list, and chunks and bytes at each stage.
#[derive(Debug, PartialEq)]
struct Stored {
    listed: Vec<String>,
    stages: Vec<(&'static str, u64, u64)>,
}

fn stored(vault: &Vault, report: &Report) -> Stored {
    let listed = entries(vault, None).unwrap().iter().map(|entry| format!("{entry:?}")).collect();
    let data = report.stages.iter().filter(|stage| ["read", "compress", "encrypt", "write"].contains(&stage.name));
    Stored { listed, stages: data.map(|stage| (stage.name, stage.work.chunks, stage.work.bytes_in)).collect() }
}

fn pack(tree: &Tree, options: AddOptions, disk: &Disk) -> (Vault, Report) {
    let vault = vault_in(disk.dir());
    let report = add_with(&vault, tree.root(), &["."], options).unwrap();
    assert!(report.is_complete(), "{:?}", report.errors);
    (vault, report)
}

fn restored(vault: &Vault, options: &ExtractOptions) -> Sight {
    let out = Tree::new();
    let report = vault.extract(&out.path("out"), options, &()).unwrap();
    assert!(report.is_complete(), "{:?}", report.errors);
    look(&out.path("out"))
}

fn small_chunks() -> AddOptions {
    let mut options = AddOptions::default();
    options.pipeline.chunk_size = Some(256 << 10);
    options
}

#[test]
fn the_same_is_stored_and_restored_by_any_number_of_workers_and_slots() {
    within(180, || {
        let tree = tree();
        let expected = look(tree.root());
        for level in [Level::Zstd(3), Level::Auto, Level::Store] {
            let mut first = None;
            for (count, depth) in [(1, None), (2, Some(1)), (3, Some(7)), (5, Some(64)), (8, None), (8, Some(1))] {
                let mut options = small_chunks();
                options.level = level;
                options.pipeline.workers = workers(count);
                options.pipeline.queue_depth = depth;
                let disk = Disk::new();
                let (vault, report) = pack(&tree, options, &disk);
                let found = (stored(&vault, &report), disk.bytes().unwrap().len());
                let (same, len) = first.get_or_insert_with(|| (stored(&vault, &report), found.1));
                assert!(found.0.stages == same.stages, "{count} workers: {:?} and {:?}", found.0.stages, same.stages);
                assert!(found.0.listed == same.listed, "{count} workers list something else");
                // Offsets differ, and with them the length of the tables that hold them; heads of extents too.
                assert!(found.1.abs_diff(*len) < 4096, "{count} workers: {} and {len} bytes", found.1);

                let mut options = ExtractOptions::default();
                options.pipeline.workers = workers(9 - count);
                options.pipeline.queue_depth = depth;
                assert_same_sight(&expected, &restored(&vault, &options));
            }
        }
    });
}

#[test]
fn single_stages_may_have_any_number_of_workers() {
    within(120, || {
        let tree = tree();
        let expected = look(tree.root());
        let count = |n| std::num::NonZeroU16::new(n);
        let mut first = None;
        for workers in [
            Workers { read: count(6), ..Workers::default() },
            Workers { compress: count(7), all: count(1), ..Workers::default() },
            Workers { encrypt: count(5), all: count(2), ..Workers::default() },
            Workers { write: count(8), read: count(1), ..Workers::default() },
            Workers { scan: count(4), decrypt: count(3), decompress: count(6), ..Workers::default() },
        ] {
            let mut options = small_chunks();
            options.pipeline.workers = workers;
            let disk = Disk::new();
            let (vault, report) = pack(&tree, options, &disk);
            let found = stored(&vault, &report);
            assert!(&found == first.get_or_insert_with(|| stored(&vault, &report)), "{workers:?}");
            for stage in &report.stages {
                let own = match stage.name {
                    "read" => workers.read.or(workers.all),
                    "compress" => workers.compress.or(workers.all),
                    "encrypt" => workers.encrypt.or(workers.all),
                    "write" => workers.write.or(workers.all),
                    _ => None,
                };
                assert!(own.is_none_or(|own| usize::from(own.get()) == stage.workers), "{workers:?}: {stage:?}");
            }
            let mut options = ExtractOptions::default();
            options.pipeline.workers = workers;
            assert_same_sight(&expected, &restored(&vault, &options));
            let mut options = VerifyOptions::default();
            options.pipeline.workers = workers;
            assert!(vault.verify(&options, &()).unwrap().is_complete());
        }
    });
}

#[test]
fn the_same_is_stored_whatever_the_disk_does_to_the_timing() {
    within(120, || {
        let tree = tree();
        let mut first = None;
        for seed in 0..6 {
            let disk = Disk::new();
            let vault = vault_in(disk.dir());
            let mut dice = Dice(seed);
            let delays = (0..20).map(|_| {
                let time = std::time::Duration::from_millis(dice.roll() % 15);
                Fault::once(|op| op == Op::Write, dice.roll() % 40, Effect::Delay(time))
            });
            disk.breaks(delays.collect::<Vec<_>>());
            let mut options = small_chunks();
            options.pipeline.workers = workers(4);
            let report = add_with(&vault, tree.root(), &["."], options).unwrap();
            disk.heal();
            assert_sound(&vault);
            let found = stored(&vault, &report);
            assert!(&found == first.get_or_insert_with(|| stored(&vault, &report)), "seed {seed}");
        }
    });
}

#[test]
fn two_runs_over_the_same_files_share_no_ciphertext() {
    within(60, || {
        let tree = tree();
        let (first, second) = (Disk::new(), Disk::new());
        pack(&tree, small_chunks(), &first);
        pack(&tree, small_chunks(), &second);
        let blocks = |disk: &Disk| -> std::collections::HashSet<Vec<u8>> {
            let bytes = disk.bytes().unwrap();
            let all = bytes.chunks_exact(16).filter(|block| block.iter().any(|&byte| byte != 0));
            all.map(<[u8]>::to_vec).collect()
        };
        let (first, second) = (blocks(&first), blocks(&second));
        let shared: Vec<_> = first.intersection(&second).collect();
        // What is the same in every vault: magic numbers with lengths beside them.
        assert!(shared.len() < 64, "{} blocks of 16 bytes are the same", shared.len());
    });
}
