//! A run says what bounded it: work of which that is known, and the name that it is given. Never how long it took.

use std::num::NonZeroU16;
use std::time::Duration;

use flint_pipe::{AddOptions, Bottleneck, BoundKind, Error, Level, Report, Workers};

use crate::support::slow::slow_vault;
use crate::support::tree::{Tree, noise, text};
use crate::support::{add_with, vault_at, within, workers};

const MIB: usize = 1 << 20;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn bound(report: &Report) -> Bottleneck {
    assert!(report.is_complete(), "{:?}", report.errors);
    let found = report.bottleneck.clone().expect("it ran for long enough");
    eprintln!("{found} ({:?} {}, {:.2}, sure {:.2})", found.kind, found.stage, found.utilization, found.confidence);
    found
}

fn assert_bound(report: &Report, kind: BoundKind, stage: &str) -> Bottleneck {
    let found = bound(report);
    assert_eq!((found.kind, found.stage), (kind, stage), "{found}\n{:#?}", report.stages);
    found
}

fn noisy_tree() -> Tree {
    let tree = Tree::new();
    for number in 0..16 {
        tree.file(format!("{number}"), noise(number, 4 * MIB));
    }
    tree
}

#[test]
fn a_disk_that_takes_its_time_is_a_device_where_it_is_written() {
    within(120, || {
        let (tree, out) = (noisy_tree(), Tree::new());
        let (vault, _) = slow_vault(&out.path("vault"), Duration::from_millis(30));
        let mut options = AddOptions::default();
        options.level = Level::Store;
        options.pipeline.chunk_size = Some(1 << 20);
        let report = add_with(&vault, tree.root(), &["."], options).unwrap();
        assert_bound(&report, BoundKind::Device, "write");
    });
}

#[test]
fn a_vault_that_takes_its_time_is_a_device_where_it_is_read() {
    within(120, || {
        let (tree, out) = (noisy_tree(), Tree::new());
        let (vault, _) = slow_vault(&out.path("vault"), Duration::from_millis(30));
        let mut options = AddOptions::default();
        options.level = Level::Store;
        options.pipeline.chunk_size = Some(1 << 20);
        options.pipeline.workers = workers(8);
        add_with(&vault, tree.root(), &["."], options).unwrap();
        let report = vault.verify(&flint_pipe::VerifyOptions::default(), &()).unwrap();
        assert_bound(&report, BoundKind::Device, "read");
    });
}

#[test]
fn text_at_a_high_level_is_the_cpu() {
    within(300, || {
        let (tree, out) = (Tree::new(), Tree::new());
        for number in 0..4 * cores() as u64 {
            tree.file(format!("{number}"), text(number, 3 * MIB / 2));
        }
        let vault = vault_at(&out.path("vault"));
        let mut options = AddOptions::default();
        options.level = Level::Zstd(17);
        options.pipeline.chunk_size = Some(512 << 10);
        let report = add_with(&vault, tree.root(), &["."], options).unwrap();
        let found = assert_bound(&report, BoundKind::Cpu, "compress");
        assert!(found.advice[0].option.starts_with("--level "), "{found}");
        assert!(found.advice[0].predicted_speedup > 1.2, "{found}");
    });
}

#[test]
fn one_compressor_among_many_others_is_a_stage() {
    within(300, || {
        let (tree, out) = (Tree::new(), Tree::new());
        for number in 0..16 {
            tree.file(format!("{number}"), text(number, MIB));
        }
        let vault = vault_at(&out.path("vault"));
        let mut options = AddOptions::default();
        options.level = Level::Zstd(12);
        options.pipeline.chunk_size = Some(512 << 10);
        options.pipeline.workers = Workers { compress: NonZeroU16::new(1), ..workers(4) };
        let report = add_with(&vault, tree.root(), &["."], options).unwrap();
        if cores() == 1 {
            assert_bound(&report, BoundKind::Cpu, "compress");
        } else {
            let found = assert_bound(&report, BoundKind::Stage, "compress");
            assert!(found.advice[0].option.starts_with("--compress-workers "), "{found}");
        }
    });
}

#[test]
fn as_little_memory_as_there_can_be_before_a_slow_disk_is_memory() {
    within(120, || {
        if cores() == 1 {
            eprintln!("skipped: with one core memory takes no thread away");
            return;
        }
        let (tree, out) = (noisy_tree(), Tree::new());
        let (vault, _) = slow_vault(&out.path("vault"), Duration::from_millis(20));
        let mut options = AddOptions::default();
        options.level = Level::Store;
        options.pipeline.memory = Some(1);
        let refused = add_with(&vault, tree.root(), &["."], options.clone()).unwrap_err().error;
        let Error::Usage(words) = &refused else { panic!("{refused}") };
        let least = words.rsplit_once("at least ").expect(words).1.split('M').next().expect(words);
        options.pipeline.memory = Some(least.parse::<u64>().expect(words) << 20);
        let report = add_with(&vault, tree.root(), &["."], options).unwrap();
        let found = assert_bound(&report, BoundKind::Memory, "write");
        assert!(found.advice[0].option.starts_with("--memory "), "{found}");
    });
}

#[test]
fn forty_thousand_empty_files_are_small_files() {
    within(300, || {
        let (tree, out) = (Tree::new(), Tree::new());
        for number in 0..40_000 {
            if number % 1000 == 0 {
                tree.directory(format!("{}", number / 1000));
            }
            std::fs::File::create(tree.path(format!("{}/{number}", number / 1000))).unwrap();
        }
        let vault = vault_at(&out.path("vault"));
        let report = add_with(&vault, tree.root(), &["."], AddOptions::default()).unwrap();
        let found = bound(&report);
        assert_eq!(found.kind, BoundKind::SmallFiles, "{found}\n{:#?}", report.stages);
        assert!(["scan", "read"].contains(&found.stage), "{found}");
        let report = vault.extract(&out.path("out"), &flint_pipe::ExtractOptions::default(), &()).unwrap();
        assert_bound(&report, BoundKind::SmallFiles, "write");
    });
}

#[test]
fn what_was_over_at_once_has_no_verdict_and_every_run_says_where_its_time_went() {
    let (tree, out) = (Tree::new(), Tree::new());
    tree.file("a", "b");
    let vault = vault_at(&out.path("vault"));
    let report = add_with(&vault, tree.root(), &["."], AddOptions::default()).unwrap();
    assert!(report.phases.stream > Duration::ZERO && report.phases.finish > Duration::ZERO, "{:?}", report.phases);
    let all = report.phases.prepare + report.phases.stream + report.phases.finish;
    assert_eq!(all, report.duration);
    for stage in &report.stages {
        assert!(stage.threads.len() >= stage.workers, "{}: every thread has figures", stage.name);
        assert!((0.0..=1.0).contains(&stage.utilization), "{}", stage.name);
        assert!(stage.service.count >= stage.work.chunks, "{}: every item has a time", stage.name);
        let busy: Duration = stage.threads.iter().map(|thread| thread.busy).sum();
        assert_eq!(busy, stage.work.busy, "{}", stage.name);
    }
}
