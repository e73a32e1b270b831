//! A slow disk makes a run slow, not large: memory stays under the ceiling that was promised.

use std::sync::atomic::Ordering;
use std::time::Duration;

use flint_pipe::{AddOptions, ExtractOptions, Level, ReadMode};

use crate::support::slow::slow_vault;
use crate::support::tree::{Tree, noise, text};
use crate::support::{add_with, assert_sound, in_a_process_of_its_own, within, workers};

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
