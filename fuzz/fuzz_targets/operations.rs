//! A sequence of commands on a vault, with power cuts and failing calls between and within them, against a model in
//! memory: every acknowledged snapshot holds what it held, and what was not acknowledged is there whole or not at all.

#![no_main]
#![allow(dead_code, reason = "what is shared with the tests is more than what is needed here")]

#[path = "../../tests/behaviour/support"]
mod support {
    pub(crate) mod disk;
}
#[path = "../support/place.rs"]
mod place;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use arbitrary::Unstructured;
use flint_pipe::{
    AddOptions, CreateOptions, EntryType, Error, ExtractOptions, Failed, KdfParams, ListOptions, Password,
    PipelineConfig, RemoveOptions, Report, Vault, VerifyOptions, Workers,
};
use libfuzzer_sys::{Corpus, fuzz_target};

use crate::support::disk::media::Left;
use crate::support::disk::{Disk, Effect, Fault, Op};

/// What a snapshot holds: content of files, nothing for directories.
type Contents = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// The names that files and directories have: one may be either, and be below another.
const NAMES: [&str; 8] = ["a", "a/x", "a/y", "a/y/z", "b", "b.c", "b/c", "d"];
/// The names that are given to commands.
const TOPS: [&str; 8] = ["a", "b", "d", "a/x", "a/y", "b.c", "b/c", "."];
const MAX_STEPS: usize = 24;

/// Which calls of the disk count.
const COUNTED: [fn(Op) -> bool; 6] = [
    |_| true,
    |op| op == Op::Write,
    |op| op == Op::Sync,
    |op| op == Op::Read,
    |op| matches!(op, Op::Allocate | Op::SetLen | Op::Punch | Op::Writeback),
    |op| matches!(op, Op::Open | Op::Lock | Op::Unlock | Op::Len | Op::SameFile | Op::DirSync),
];

struct World {
    place: tempfile::TempDir,
    disk: Disk,
    vault: Vault,
    /// What each acknowledged snapshot holds, from snapshot 1 on.
    acknowledged: Vec<Contents>,
    /// What a run that failed may have committed all the same.
    tentative: Option<Contents>,
}

fn pipeline(workers: u16) -> PipelineConfig {
    let mut pipeline = PipelineConfig::default();
    let all = NonZeroU16::new(workers);
    pipeline.workers = Workers { all, scan: all, ..Workers::default() };
    pipeline.chunk_size = Some(256 << 10);
    pipeline
}

fn open(disk: &Disk) -> flint_pipe::Result<Vault> {
    Vault::open_in("memory.flint", disk.dir(), &Password::new("p"), None)
}

/// Bytes that look like something; the same for the same seed.
fn content(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let next = |_| {
        // Half of the seeds give what compresses.
        state = if seed & 1 == 0 { state.wrapping_mul(0x9E37_79B1).rotate_left(11) } else { state + 1 };
        state.to_le_bytes()[0]
    };
    (0..len).map(next).collect()
}

fn is_at_or_below(path: &Path, head: &Path) -> bool {
    path.starts_with(head)
}

impl World {
    fn new() -> Self {
        let disk = Disk::new();
        let mut options = CreateOptions::default();
        options.kdf = KdfParams::CHEAP_FOR_TESTS;
        let made = Vault::open_in("memory.flint", disk.dir(), &Password::new("p"), Some(&options));
        // Who made it and adds nothing takes it away again: after a power cut he is no more.
        disk.power_cycle(Left::Everything);
        drop(made);
        let vault = open(&disk).expect("a new vault opens");
        let place = place::directory();
        std::fs::create_dir(place.path().join("src")).expect("it is made");
        Self { place, disk, vault, acknowledged: Vec::new(), tentative: None }
    }

    fn source(&self) -> PathBuf {
        self.place.path().join("src")
    }

    /// The newest state, as a run that begins now finds it.
    fn newest(&self) -> Contents {
        self.tentative.as_ref().or(self.acknowledged.last()).cloned().unwrap_or_default()
    }

    // The sources.

    fn remove_source(&self, path: &Path) {
        match std::fs::symlink_metadata(path) {
            Ok(stat) if stat.is_dir() => std::fs::remove_dir_all(path).expect("it is removed"),
            Ok(_) => std::fs::remove_file(path).expect("it is removed"),
            Err(_) => {}
        }
    }

    fn write_source(&self, name: &str, bytes: Option<Vec<u8>>) {
        let path = self.source().join(name);
        let parents: Vec<&Path> = path.ancestors().skip(1).take_while(|up| **up != self.source()).collect();
        for parent in parents.into_iter().rev() {
            if !parent.is_dir() {
                self.remove_source(parent);
                std::fs::create_dir(parent).expect("it is made");
            }
        }
        match bytes {
            Some(bytes) => {
                if path.is_dir() {
                    self.remove_source(&path);
                }
                std::fs::write(&path, bytes).expect("it is written");
            }
            None => {
                if !path.is_dir() {
                    self.remove_source(&path);
                    std::fs::create_dir(&path).expect("it is made");
                }
            }
        }
    }

    /// What lies at a name of the sources, and below.
    fn look(&self, name: &str) -> Contents {
        let mut found = Contents::new();
        let mut left = vec![if name == "." { self.source() } else { self.source().join(name) }];
        while let Some(path) = left.pop() {
            let inner = path.strip_prefix(self.source()).expect("it is below").to_owned();
            let Ok(stat) = std::fs::symlink_metadata(&path) else { continue };
            if stat.is_dir() {
                left.extend(std::fs::read_dir(&path).expect("it is listed").map(|entry| entry.expect("listed").path()));
                found.insert(inner, None);
            } else {
                found.insert(inner, Some(std::fs::read(&path).expect("it is read")));
            }
        }
        found
    }

    // The model: docs/FORMAT.md, chapter 9.

    fn put(state: &mut Contents, path: &Path, entry: Option<Vec<u8>>) {
        if entry.is_some() {
            state.retain(|other, _| !is_at_or_below(other, path));
        }
        state.retain(|other, held| !(held.is_some() && path != other && is_at_or_below(path, other)));
        state.insert(path.to_owned(), entry);
    }

    // The commands.

    /// Runs a command that makes a snapshot, and takes in how it ended.
    fn commits(&mut self, next: Contents, run: impl FnOnce(&Vault) -> Result<Report, Failed>) {
        let result = run(&self.vault);
        match result {
            Ok(report) => {
                assert!(report.errors.is_empty(), "{:?}", report.errors);
                // What is acknowledged takes along what it stands on.
                self.acknowledged.extend(self.tentative.take());
                self.acknowledged.push(next);
                assert_eq!(report.snapshot, Some(self.acknowledged.len() as u64), "numbers have no gaps");
            }
            Err(failed) => {
                assert!(!matches!(failed.error, Error::Damaged { .. }), "{:?}", failed.error);
                // A run that failed behind one that failed: only the last state that can be seen matters.
                if self.tentative.is_none() {
                    self.tentative = Some(next);
                } else {
                    self.settle_between(next);
                }
            }
        }
    }

    /// Two runs in a row failed, each perhaps behind its commit.
    fn settle_between(&mut self, next: Contents) {
        self.disk.heal();
        let count = self.acknowledged.len() as u64;
        let newest = self.numbers().first().copied().unwrap_or(0);
        if newest == count + 2 {
            self.acknowledged.extend(self.tentative.take());
            self.tentative = Some(next);
        } else if newest == count {
            self.tentative = Some(next);
        } else if newest == count + 1 && self.tentative.as_ref().is_some_and(|first| *first != self.read(None)) {
            self.tentative = Some(next);
        }
    }

    fn add(&mut self, name: &str, mirror: bool, workers: u16) {
        let found = self.look(name);
        if found.is_empty() {
            return;
        }
        let mut next = self.newest();
        if mirror {
            let head = if name == "." { Path::new("") } else { Path::new(name) };
            next.retain(|path, _| !is_at_or_below(path, head));
        }
        for (path, entry) in found {
            Self::put(&mut next, &path, entry);
        }
        let mut options = AddOptions::default();
        options.directory = Some(self.source());
        options.mirror = mirror;
        options.pipeline = pipeline(workers);
        self.commits(next, |vault| vault.add(&[PathBuf::from(name)], &options, &()));
    }

    fn remove(&mut self, name: &str) {
        let mut next = self.newest();
        let head = if name == "." { Path::new("") } else { Path::new(name) };
        let before = next.len();
        next.retain(|path, _| !is_at_or_below(path, head));
        let mut options = RemoveOptions::default();
        options.pipeline = pipeline(1);
        let names = [PathBuf::from(name)];
        // Everything may be removed where nothing is.
        if next.len() == before && name != "." {
            let failed = self.vault.remove(&names, &options, &()).expect_err("there is nothing of that name");
            assert!(!matches!(failed.error, Error::Damaged { .. }), "{:?}", failed.error);
        } else {
            self.commits(next, |vault| vault.remove(&names, &options, &()));
        }
    }

    // What a reader finds, with a disk that works.

    fn numbers(&self) -> Vec<u64> {
        let snapshots = self.vault.snapshots().unwrap_or_else(|error| panic!("snapshots: {error:?}"));
        snapshots.into_iter().map(|snapshot| snapshot.number).collect()
    }

    fn read(&self, at: Option<u64>) -> Contents {
        let mut options = ListOptions::default();
        options.at = at;
        let entries = self.vault.list(&options).unwrap_or_else(|error| panic!("list {at:?}: {error:?}"));
        let mut found = Contents::new();
        for entry in entries {
            let entry = entry.unwrap_or_else(|error| panic!("list {at:?}: {error:?}"));
            let bytes = (entry.entry_type == EntryType::File).then(|| {
                let mut options = ExtractOptions::default();
                options.at = at;
                options.pipeline = pipeline(1);
                let mut bytes = Vec::new();
                let copied = self.vault.copy_file(&entry.path, &options, &mut bytes, &());
                copied.unwrap_or_else(|failed| panic!("{}: {:?}", entry.path.display(), failed.error));
                bytes
            });
            found.insert(entry.path, bytes);
        }
        found
    }

    /// Compares all snapshots with the model, or the newest alone.
    fn check(&mut self, all: bool) {
        self.disk.heal();
        let numbers = self.numbers();
        let count = self.acknowledged.len() as u64;
        let newest = numbers.first().copied().unwrap_or(0);
        assert_eq!(numbers, (1..=newest).rev().collect::<Vec<_>>());
        match &self.tentative {
            Some(tentative) if newest == count + 1 => assert!(self.read(None) == *tentative, "neither old nor new"),
            _ => {
                assert_eq!(newest, count, "snapshots of the acknowledged");
                self.tentative = None;
                let expected = self.acknowledged.last().cloned().unwrap_or_default();
                assert!(self.read(None) == expected, "the newest snapshot has changed");
            }
        }
        if all {
            for (at, expected) in (1..).zip(&self.acknowledged) {
                assert!(self.read(Some(at)) == *expected, "snapshot {at} has changed");
            }
        }
    }

    fn verify(&self) -> Result<Report, Failed> {
        let mut options = VerifyOptions::default();
        options.pipeline = pipeline(1);
        self.vault.verify(&options, &())
    }

    /// Everything is whole but for what a power cut may leave of a root that was never acknowledged.
    fn assert_sound(&self) {
        let report = self.verify().unwrap_or_else(|failed| panic!("verify: {:?}", failed.error));
        assert!(report.is_complete(), "{:?}", report.errors);
    }

    fn extract(&self) {
        let out = self.place.path().join("out");
        self.remove_source(&out);
        let mut options = ExtractOptions::default();
        options.pipeline = pipeline(1);
        let Ok(report) = self.vault.extract(&out, &options, &()) else { return };
        let newest = self.newest();
        for (path, bytes) in &newest {
            let found = std::fs::read(out.join(path)).ok();
            let right = bytes.is_none() || found == *bytes || !report.is_complete();
            assert!(right, "{}: restored otherwise", path.display());
        }
    }
}

fn fault(input: &mut Unstructured<'_>) -> arbitrary::Result<Fault> {
    let on = *input.choose(&COUNTED)?;
    let nth = u64::from(input.arbitrary::<u8>()?) + 1;
    let effect = match input.arbitrary::<u8>()? % 8 {
        0 => Effect::Errno(libc::EIO),
        1 => Effect::Errno(libc::ENOSPC),
        2 => Effect::Errno(libc::EINTR),
        3 => Effect::Short,
        // Nothing changes any more: as far as the program can see, the power is cut.
        _ => return Ok(Fault::forever(|_| true, nth, Effect::Errno(libc::EIO))),
    };
    // What is interrupted for ever is tried for ever: no system is like that.
    let forever = !matches!(effect, Effect::Errno(libc::EINTR)) && input.arbitrary()?;
    Ok(if forever { Fault::forever(on, nth, effect) } else { Fault::once(on, nth, effect) })
}

fn left(input: &mut Unstructured<'_>) -> arbitrary::Result<Left> {
    Ok(match input.arbitrary::<u8>()? % 4 {
        0 => Left::Nothing,
        1 => Left::Everything,
        _ => Left::Some { seed: u64::from(input.arbitrary::<u16>()?) },
    })
}

fn run(input: &[u8]) -> arbitrary::Result<()> {
    let mut input = Unstructured::new(input);
    let mut world = World::new();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        match input.arbitrary::<u8>()? % 12 {
            0 | 1 => {
                let name = *input.choose(&NAMES)?;
                let len = usize::from(input.arbitrary::<u16>()?);
                let len = if len > 65_000 { 300_000 } else { len % 3000 };
                let bytes = content(input.arbitrary()?, len);
                world.write_source(name, (len % 7 != 0).then_some(bytes));
            }
            2 => world.remove_source(&world.source().join(input.choose(&NAMES)?)),
            3 => {
                let (name, mirror) = (*input.choose(&TOPS)?, input.arbitrary()?);
                let workers = if input.arbitrary()? { 1 } else { 3 };
                world.add(name, mirror, workers);
                world.check(false);
            }
            4 | 5 => {
                world.disk.breaks([fault(&mut input)?]);
                let (name, mirror) = (*input.choose(&TOPS)?, input.arbitrary()?);
                world.add(name, mirror, 1);
                end_of_faults(&mut world, &mut input)?;
            }
            6 => {
                let name = *input.choose(&TOPS)?;
                world.remove(name);
                world.check(false);
            }
            7 => {
                let name = *input.choose(&TOPS)?;
                if world.newest().keys().any(|path| name == "." || is_at_or_below(path, Path::new(name))) {
                    world.disk.breaks([fault(&mut input)?]);
                    world.remove(name);
                    end_of_faults(&mut world, &mut input)?;
                }
            }
            8 => {
                world.disk.breaks([fault(&mut input)?]);
                // What cannot be read is reported as damaged, and is whole once it can be read again.
                let _ = world.verify();
                end_of_faults(&mut world, &mut input)?;
                world.assert_sound();
            }
            9 => world.extract(),
            10 => {
                world.disk.power_cycle(left(&mut input)?);
                world.check(true);
                world.assert_sound();
            }
            _ => {
                world.disk.heal();
                world.vault = open(&world.disk).expect("the vault opens");
            }
        }
    }
    world.check(true);
    world.disk.power_cycle(left(&mut input).unwrap_or(Left::Nothing));
    world.check(true);
    world.assert_sound();
    world.write_source("d", Some(b"the last".to_vec()));
    world.add("d", false, 1);
    world.check(true);
    world.assert_sound();
    Ok(())
}

/// The power comes back if it was cut; or the faults end, and the process goes on.
fn end_of_faults(world: &mut World, input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    if input.arbitrary()? {
        world.disk.power_cycle(left(input)?);
    }
    world.check(false);
    Ok(())
}

fuzz_target!(|input: &[u8]| -> Corpus { if run(input).is_ok() { Corpus::Keep } else { Corpus::Reject } });
