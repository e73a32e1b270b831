//! A profile measures what a backup does, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flint_pipe::{Error, Level, Notice, Observer, Profile, ProfileFailed, ProfileOptions, Progress, profile};

use crate::support::tree::{Tree, noise, text};
use crate::support::{add, vault_at, within};

const MIB: usize = 1 << 20;

fn scene() -> Tree {
    let tree = Tree::new();
    for number in 0..3 {
        tree.file(format!("text/{number}"), text(number, MIB));
        tree.file(format!("noise/{number}"), noise(number, MIB));
    }
    tree
}

fn options(directory: &Path) -> ProfileOptions {
    let mut options = ProfileOptions::default();
    options.pack.directory = Some(directory.to_owned());
    options.time = Some(Duration::from_secs(4));
    options
}

fn measured(directory: &Path, options: &ProfileOptions) -> Result<Profile, ProfileFailed> {
    assert_eq!(options.pack.directory.as_deref(), Some(directory));
    profile(&[PathBuf::from(".")], options, &())
}

fn left_in(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn rounds_have_all_the_content_whether_it_goes_into_nothing_or_onto_a_disk() {
    within(120, || {
        let (tree, out) = (scene(), Tree::new());
        for (to, cold) in [(None, false), (None, true), (Some(out.root()), false)] {
            let mut options = options(tree.root());
            options.to = to.map(Path::to_owned);
            options.cold = cold;
            options.roofline = true;
            let profile = measured(tree.root(), &options).unwrap();
            assert!(!profile.rounds.is_empty() && !profile.unpack && profile.sample_bytes.is_none());
            for round in &profile.rounds {
                assert_eq!((round.total_files, round.total_size), (6, 6 * MIB as u64));
                // Text shrinks and noise does not.
                assert!(round.stored_size > 3 * MIB as u64 && round.stored_size < 9 * MIB as u64 / 2);
                assert!(round.is_complete());
            }
            let roofline = profile.roofline.expect("it was asked for");
            let names: Vec<_> = roofline.kernels.iter().map(|kernel| kernel.name).collect();
            assert_eq!(names, ["scan", "read", "compress", "encrypt"]);
            assert!(roofline.kernels[1..].iter().all(|kernel| kernel.bytes == 6 * MIB as u64), "{roofline:?}");
            assert_eq!(roofline.write_bytes_per_sec.is_some(), to.is_some());
            assert!(roofline.bytes_per_sec > 0.0 && roofline.share > 0.0, "{roofline:?}");
        }
        assert_eq!(left_in(out.root()), 0, "the scratch vault never had a name");
    });
}

#[test]
fn the_way_out_of_a_vault_is_measured_and_what_was_restored_is_taken_away() {
    within(120, || {
        let (tree, out) = (scene(), Tree::new());
        let vault = vault_at(&out.path("vault"));
        add(&vault, tree.root(), &["text", "noise"]);
        for to in [None, Some(out.directory("to"))] {
            let mut options = ProfileOptions::default();
            options.time = Some(Duration::from_secs(4));
            options.roofline = true;
            options.cold = to.is_none();
            options.to.clone_from(&to);
            let profile = vault.profile(&options, &()).unwrap();
            assert!(profile.unpack && !profile.rounds.is_empty());
            for round in &profile.rounds {
                assert_eq!((round.total_files, round.total_size), (6, 6 * MIB as u64));
                assert_eq!(round.stages.iter().any(|stage| stage.name == "write"), to.is_some());
            }
            let kernels = profile.roofline.expect("it was asked for").kernels;
            assert!(kernels[1..].iter().all(|kernel| kernel.bytes == 6 * MIB as u64), "{kernels:?}");
        }
        assert_eq!(left_in(&out.path("to")), 0);
        let mut options = ProfileOptions::default();
        options.sweep = true;
        assert!(matches!(vault.profile(&options, &()).unwrap_err().error, Error::Refused { .. }));
    });
}

#[test]
fn where_there_is_nothing_to_measure_that_is_said() {
    let tree = Tree::new();
    let failed = measured(tree.root(), &options(tree.root())).unwrap_err();
    assert!(matches!(failed.error, Error::Refused { .. }), "{}", failed.error);
    assert!(failed.error.to_string().contains("nothing to measure"), "{}", failed.error);
    let failed = profile(&[tree.path("missing")], &options(tree.root()), &()).unwrap_err();
    assert!(failed.error.to_string().contains("nothing to measure"), "{}", failed.error);
    let mut options = options(tree.root());
    options.to = Some(tree.path("missing"));
    tree.file("a", "b");
    let failed = measured(tree.root(), &options).unwrap_err();
    assert!(matches!(failed.error, Error::Io { .. }), "{}", failed.error);
    let vault = vault_at(&tree.path("vault"));
    tree.directory("empty");
    add(&vault, tree.root(), &["empty"]);
    let failed = vault.profile(&ProfileOptions::default(), &()).unwrap_err();
    assert!(failed.error.to_string().contains("nothing to measure"), "{}", failed.error);
}

#[test]
fn a_sweep_predicts_every_point_and_measures_what_there_is_time_for() {
    within(240, || {
        let tree = scene();
        let mut options = options(tree.root());
        options.sweep = true;
        options.pack.level = Level::Zstd(2);
        options.time = Some(Duration::from_secs(20));
        let profile = measured(tree.root(), &options).unwrap();
        let sweep = profile.sweep.expect("it was asked for");
        assert!(sweep.points.len() >= 15, "five levels, three or four thread counts");
        assert!(sweep.points.iter().all(|point| point.predicted_bytes_per_sec > 0.0));
        assert!(sweep.points.iter().any(|point| point.level == Level::Zstd(2)), "the level asked for is one of them");
        let measured: Vec<_> = sweep.points.iter().filter(|point| point.measured_bytes_per_sec.is_some()).collect();
        assert!(!measured.is_empty() && sweep.median_error.is_some());
        assert!(measured.iter().any(|point| point.pareto), "something is the fastest");
        assert!(sweep.points.iter().all(|point| !point.pareto || point.measured_bytes_per_sec.is_some()));
    });
}

/// Pulls the token when so many rounds have been told of.
struct Impatient {
    cancel: flint_pipe::CancelToken,
    seen: std::sync::atomic::AtomicU64,
    after: u64,
}

impl Observer for Impatient {
    fn notice(&self, _: &Notice) {}
    fn progress(&self, progress: &Progress) {
        // Each operation tells at its end, at least.
        if progress.all_known && self.seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= self.after {
            self.cancel.cancel();
        }
    }
}

#[test]
fn a_sweep_that_is_interrupted_half_way_answers_what_was_measured() {
    within(240, || {
        let tree = scene();
        let mut options = options(tree.root());
        options.sweep = true;
        options.time = Some(Duration::from_secs(60));
        let cancel = options.pack.pipeline.cancel.clone();
        let impatient = Impatient { cancel, seen: std::sync::atomic::AtomicU64::new(0), after: 20 };
        let failed = profile(&[PathBuf::from(".")], &options, &impatient).unwrap_err();
        assert!(matches!(failed.error, Error::Interrupted), "{}", failed.error);
        assert!(failed.profile.median().is_some(), "the rounds came first");
    });
}

#[test]
fn a_deadline_is_that_of_the_whole_profile() {
    within(120, || {
        let tree = scene();
        let mut options = options(tree.root());
        options.time = Some(Duration::from_secs(60));
        options.sweep = true;
        options.pack.pipeline.timeout = Some(Duration::from_millis(700));
        let failed = measured(tree.root(), &options).unwrap_err();
        assert!(matches!(failed.error, Error::Deadline(_)), "{}", failed.error);
    });
}
