//! Runs whose figures leave no doubt about what bounded them, and some that do.

use std::time::Duration;

use super::*;
use crate::engine::model::tests::run;
use crate::engine::observe::PlanReport;

/// A run of `stream` seconds on `cores` cores: stages by name, threads, CPU and blocked seconds.
fn report(stages: &[(&'static str, usize, f64, f64)], stream: f64, cores: usize) -> Report {
    let mut report = run(stages, stream, cores);
    for stage in &mut report.stages {
        let available = stage.workers as f64 * stream;
        stage.utilization = (stage.work.busy.as_secs_f64() / available).min(1.0);
        stage.work.chunks = 1000;
        stage.work.bytes_out = 4 << 30;
    }
    report.duration = Duration::from_secs_f64(stream);
    report.total_files = 10;
    report.total_size = 4 << 30;
    report.stored_size = 1 << 30;
    report
}

const PACK: Way = Way::Pack(Level::Zstd(3));

fn judged(report: &Report, way: Way) -> Bottleneck {
    let found = judge(report, way).expect("there is something to say");
    assert!((0.0..=1.0).contains(&found.confidence) && (0.0..=1.0).contains(&found.utilization), "{found:?}");
    found
}

/// A run that is packed with one stage busier than all others.
fn with_one_busy(name: &'static str, workers: usize, cpu: f64, blocked: f64) -> Report {
    let quiet = [("scan", 1, 0.1, 0.0), ("read", 2, 0.5, 0.0), ("compress", 4, 0.5, 0.0), ("encrypt", 4, 0.5, 0.0)];
    let mut stages: Vec<_> = quiet.into_iter().chain([("write", 2, 0.5, 0.0), ("index", 1, 0.1, 0.0)]).collect();
    let stage = stages.iter_mut().find(|stage| stage.0 == name).expect("it is one of them");
    *stage = (name, workers, cpu, blocked);
    report(&stages, 10.0, 4)
}

#[test]
fn one_thread_too_few_is_a_stage_and_more_of_them_are_advised() {
    for name in ["read", "compress", "encrypt", "write"] {
        let found = judged(&with_one_busy(name, 1, 9.9, 0.0), PACK);
        assert_eq!((found.kind, found.stage), (BoundKind::Stage, name), "{found}");
        assert!(found.advice[0].option.starts_with(&format!("--{name}-workers ")), "{found}");
        assert!(found.advice[0].predicted_speedup > 2.0 && found.confidence > 0.8, "{found:?}");
    }
}

#[test]
fn all_cores_busy_is_the_cpu_and_a_lower_level_is_advised() {
    let found = judged(&with_one_busy("compress", 4, 37.0, 0.0), PACK);
    assert_eq!((found.kind, found.stage), (BoundKind::Cpu, "compress"), "{found}");
    let advice = &found.advice[0];
    assert!(["--level 1", "--level 2"].contains(&&*advice.option), "{found}");
    assert!(advice.predicted_speedup > 1.2 && advice.predicted_size > 1.0, "{found}");
    assert!(judged(&with_one_busy("compress", 4, 37.0, 0.0), Way::Pack(Level::Store)).advice.is_empty());
}

#[test]
fn data_that_does_not_shrink_is_advised_to_be_stored() {
    let mut report = with_one_busy("compress", 4, 37.0, 0.0);
    report.stored_size = report.total_size;
    assert_eq!(judged(&report, PACK).advice[0].option, "--level store");
}

#[test]
fn a_core_that_others_had_is_not_a_device() {
    let mut report = with_one_busy("compress", 4, 18.0, 0.0);
    let compress = report.stages.iter_mut().find(|stage| stage.name == "compress").unwrap();
    for work in compress.threads.iter_mut().chain([&mut compress.work]) {
        work.busy += work.cpu;
        work.ready = Some(work.cpu);
    }
    compress.utilization = 0.93;
    let found = judged(&report, PACK);
    assert_eq!((found.kind, found.stage), (BoundKind::Cpu, "compress"), "{found}");
}

#[test]
fn busy_off_the_cpu_is_a_device_and_says_which() {
    for (name, way, words) in [
        ("read", PACK, "the disk of the sources"),
        ("write", PACK, "the vault's disk"),
        ("read", Way::Unpack, "the vault's disk"),
        ("write", Way::Unpack, "the disk that is restored to"),
    ] {
        let found = judged(&with_one_busy(name, 2, 1.0, 18.5), way);
        assert_eq!((found.kind, found.stage), (BoundKind::Device, name), "{found}");
        assert!(found.reason.starts_with(words), "{found}");
    }
}

#[test]
fn a_long_sync_of_much_data_is_the_vaults_disk_and_of_little_is_serial() {
    let mut report = with_one_busy("read", 2, 1.0, 0.0);
    report.phases.finish = Duration::from_secs(30);
    report.duration += report.phases.finish;
    let found = judged(&report, PACK);
    assert_eq!((found.kind, found.stage), (BoundKind::Device, "write"), "{found}");
    report.stored_size = 1000;
    let found = judged(&report, PACK);
    assert_eq!((found.kind, found.stage), (BoundKind::Serial, "commit"), "{found}");
    report.phases.prepare = Duration::from_secs(300);
    assert_eq!(judged(&report, PACK).stage, "open");
}

#[test]
fn threads_that_memory_took_away_are_memory() {
    let mut report = with_one_busy("write", 1, 0.5, 9.3);
    report.plan = Some(PlanReport {
        reduced: vec![("compress", 4), ("write", 4)],
        unreduced_memory_bytes: 100 << 20,
        ..PlanReport::default()
    });
    let found = judged(&report, PACK);
    assert_eq!((found.kind, found.stage), (BoundKind::Memory, "write"), "{found}");
    assert_eq!(found.advice[0].option, "--memory 100M");
    assert!(found.advice[0].predicted_speedup > 3.0, "{found:?}");
    // Of a stage that was not the bound they say nothing.
    report.plan.as_mut().unwrap().reduced.pop();
    assert_eq!(judged(&report, PACK).kind, BoundKind::Device);
}

#[test]
fn waiting_for_buffers_while_nobody_is_busy_is_memory() {
    let mut report = with_one_busy("write", 4, 0.5, 20.0);
    report.stages[0].work.wait_budget = Duration::from_secs(9);
    report.plan = Some(PlanReport::default());
    let found = judged(&report, PACK);
    assert_eq!((found.kind, found.stage), (BoundKind::Memory, "write"), "{found}");
    // If somebody is busy all the time, memory is waited for because of that.
    let mut report = with_one_busy("write", 2, 0.5, 19.0);
    report.stages[0].work.wait_budget = Duration::from_secs(9);
    report.plan = Some(PlanReport::default());
    assert_eq!(judged(&report, PACK).kind, BoundKind::Device);
}

#[test]
fn many_small_files_are_told_from_few_large_ones() {
    let mut report = with_one_busy("scan", 1, 9.5, 0.0);
    assert_eq!(judged(&report, PACK).kind, BoundKind::Serial);
    (report.total_files, report.total_size) = (40_000, 0);
    let found = judged(&report, PACK);
    assert_eq!((found.kind, found.stage), (BoundKind::SmallFiles, "scan"), "{found}");
    let mut report = with_one_busy("write", 4, 36.0, 3.0);
    (report.total_files, report.total_size) = (40_000, 40_000_000);
    let found = judged(&report, Way::Unpack);
    assert_eq!((found.kind, found.stage), (BoundKind::SmallFiles, "write"), "{found}");
    // Compressing does not care whose bytes they are.
    let mut report = with_one_busy("compress", 4, 37.0, 0.0);
    (report.total_files, report.total_size) = (40_000, 40_000_000);
    assert_eq!(judged(&report, PACK).kind, BoundKind::Cpu);
}

#[test]
fn too_few_chunks_are_serial_and_nothing_in_particular_is_a_guess() {
    let mut report = with_one_busy("compress", 4, 10.0, 0.0);
    let found = judged(&report, PACK);
    assert!(found.confidence < 0.5 && found.to_string().starts_with("perhaps: "), "{found}");
    for stage in &mut report.stages {
        stage.work.chunks = 3;
    }
    let found = judged(&report, PACK);
    assert_eq!(found.kind, BoundKind::Serial, "{found}");
    assert!(found.reason.contains("3 chunks"), "{found}");
}

#[test]
fn a_system_that_does_not_tell_of_waiting_for_cores_makes_it_less_sure() {
    let known = with_one_busy("read", 2, 1.0, 18.0);
    let mut unknown = known.clone();
    unknown.stages.iter_mut().for_each(|stage| stage.work.ready = None);
    assert!(judged(&unknown, PACK).confidence < judged(&known, PACK).confidence);
}

#[test]
fn what_did_not_run_or_was_over_at_once_has_no_bound() {
    assert_eq!(judge(&Report::default(), PACK), None);
    let mut report = with_one_busy("read", 2, 1.0, 18.0);
    report.duration = Duration::from_millis(3);
    assert_eq!(judge(&report, PACK), None);
}

#[test]
fn an_advice_reads_as_a_sentence() {
    let mut advice = Advice { option: "--level 1".to_owned(), predicted_speedup: 1.52, predicted_size: 1.09 };
    assert_eq!(advice.to_string(), "--level 1 should give about 1.5x for 9 % more space");
    advice.predicted_size = 0.9;
    assert_eq!(advice.to_string(), "--level 1 should give about 1.5x and 10 % less space");
    advice.predicted_size = 1.0;
    assert_eq!(advice.to_string(), "--level 1 should give about 1.5x");
}

#[test]
fn the_table_of_levels_ascends_and_every_level_has_a_row() {
    assert!(LEVELS.windows(2).all(|pair| {
        pair[0].level < pair[1].level && pair[0].seconds < pair[1].seconds && pair[0].ratio < pair[1].ratio
    }));
    assert_eq!((LevelCost::of(-7).level, LevelCost::of(4).level, LevelCost::of(22).level), (-7, 3, 19));
}
