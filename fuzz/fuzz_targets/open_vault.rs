//! A vault that is damaged, or hostile with valid cryptography: no panic, no wrong byte, nothing outside the destination,
//! no more memory or time than the limits of the run allow.
//!
//! The input is a vault of tests/ to begin with, what to do with it, and changes: of bytes as they are, which is damage,
//! or of what is sealed, which only somebody with the password can do.

#![no_main]
#![allow(dead_code, reason = "what is shared with the tests is more than what is needed here")]

#[path = "../../tests/behaviour/support"]
mod support {
    pub(crate) mod disk;
}
#[path = "../support/place.rs"]
mod place;
#[path = "../support/vaults.rs"]
mod vaults;
#[path = "../../tests/vector/mod.rs"]
mod vector;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use arbitrary::Unstructured;
use flint_pipe::internals::{Edit, Forge, Part, key_derivation_cost};
use flint_pipe::{
    AddOptions, EntryType, ErrorKind, ExtractOptions, ListEntry, ListOptions, Password, PipelineConfig, RecoverOptions,
    RemoveOptions, Vault, VaultDir as _, VerifyOptions, Workers,
};
use libfuzzer_sys::{Corpus, fuzz_target};

use crate::vaults::{Seed, disk_with};

/// Of every vector that opens.
const PASSWORD: &str = "correct horse";
/// Deriving a key may cost this much, in KiB times passes: what costs more is checked by vectors.
const MAX_COST: u64 = 64 << 10;
/// Entries of a list that are looked at.
const MAX_ENTRIES: usize = 5000;
/// Bytes that are copied out of one file, and that are restored in all.
const MAX_BYTES: u64 = 8 << 20;

struct Known {
    seed: Seed,
    forge: OnceLock<Option<Forge>>,
    /// What the vault holds as it is: by path, whatever any snapshot has there.
    holds: OnceLock<BTreeMap<PathBuf, BTreeSet<Vec<u8>>>>,
}

static SEEDS: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let known = |seed| Known { seed, forge: OnceLock::new(), holds: OnceLock::new() };
    vaults::all().into_iter().map(known).collect()
});

impl Known {
    fn forge(&self) -> Option<&Forge> {
        let made = || {
            let disk = disk_with(&self.seed.bytes);
            let cost = key_derivation_cost(&*disk.open(false).ok()??)?;
            let vault = (cost <= MAX_COST).then(|| self.seed.open(&disk).ok()).flatten()?;
            Some(Forge::new(&vault, &self.seed.bytes))
        };
        self.forge.get_or_init(made).as_ref()
    }

    fn holds(&self) -> &BTreeMap<PathBuf, BTreeSet<Vec<u8>>> {
        self.holds.get_or_init(|| {
            let mut holds: BTreeMap<PathBuf, BTreeSet<Vec<u8>>> = BTreeMap::new();
            let Ok(vault) = self.seed.open(&disk_with(&self.seed.bytes)) else { return holds };
            for at in snapshots(&vault) {
                for entry in list(&vault, at).0 {
                    let contents = holds.entry(entry.path.clone()).or_default();
                    if entry.entry_type == EntryType::File
                        && let Ok(bytes) = copy(&vault, &entry.path, at)
                    {
                        contents.insert(bytes);
                    }
                }
            }
            holds
        })
    }
}

/// The snapshots to look at: the newest state, and some of the others by number.
fn snapshots(vault: &Vault) -> Vec<Option<u64>> {
    let others = vault.snapshots().unwrap_or_default();
    std::iter::once(None).chain(others.iter().take(3).map(|snapshot| Some(snapshot.number))).collect()
}

/// What can be listed, and whether that is all.
fn list(vault: &Vault, at: Option<u64>) -> (Vec<ListEntry>, bool) {
    let mut options = ListOptions::default();
    options.at = at;
    let Ok(entries) = vault.list(&options) else { return (Vec::new(), false) };
    let mut listed = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) if listed.len() < MAX_ENTRIES => listed.push(entry),
            _ => return (listed, false),
        }
    }
    (listed, true)
}

/// Takes so many bytes and no more.
struct Sink(Vec<u8>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() as u64 + bytes.len() as u64 > MAX_BYTES {
            return Err(io::Error::other("enough"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One thread a stage: the least that a run costs.
fn pipeline() -> PipelineConfig {
    let mut pipeline = PipelineConfig::default();
    let one = NonZeroU16::new(1);
    pipeline.workers = Workers { all: one, scan: one, ..Workers::default() };
    pipeline.chunk_size = Some(256 << 10);
    pipeline
}

/// What of a file comes out, whole or not.
fn copy(vault: &Vault, path: &Path, at: Option<u64>) -> Result<Vec<u8>, Vec<u8>> {
    let mut options = ExtractOptions::default();
    options.at = at;
    options.pipeline = pipeline();
    let mut sink = Sink(Vec::new());
    match vault.copy_file(path, &options, &mut sink, &()) {
        Ok(_) => Ok(sink.0),
        Err(_) => Err(sink.0),
    }
}

fn verify(vault: &Vault, quick: bool) {
    let mut options = VerifyOptions::default();
    options.quick = quick;
    options.pipeline = pipeline();
    let _ = vault.verify(&options, &());
}

/// Restores into a directory beside which is something that must stay as it is.
fn extract(vault: &Vault, listed: &[ListEntry]) {
    let sum = listed.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.size));
    let depth = listed.iter().map(|entry| entry.path.components().count()).max().unwrap_or(0);
    let mut options = ExtractOptions::default();
    options.pipeline = pipeline();
    options.dry_run = true;
    let _ = vault.extract(Path::new("/nowhere/at/all"), &options, &());
    if sum > MAX_BYTES || depth > 200 {
        return;
    }
    options.dry_run = false;
    let place = place::directory();
    let outside = place.path().join("outside");
    std::fs::write(&outside, "outside").expect("it is written");
    let before = std::fs::metadata(&outside).expect("it is there");
    let _ = vault.extract(&place.path().join("out"), &options, &());
    let names: BTreeSet<_> = std::fs::read_dir(place.path())
        .expect("it is there still")
        .map(|entry| entry.expect("it is listed").file_name())
        .collect();
    let unexpected: Vec<_> = names.iter().filter(|name| *name != "out" && *name != "outside").collect();
    assert!(unexpected.is_empty(), "made beside the destination: {unexpected:?}");
    assert_eq!(std::fs::read(&outside).expect("it is there still"), b"outside");
    use std::os::unix::fs::MetadataExt as _;
    let after = std::fs::symlink_metadata(&outside).expect("it is there still");
    let seen = |of: &std::fs::Metadata| (of.ino(), of.nlink(), of.mode(), of.uid(), of.gid(), of.ctime_nsec());
    assert_eq!(seen(&before), seen(&after), "what is outside has changed");
}

/// Adds to it, and takes out again; what was acknowledged is there.
fn write(vault: &Vault) {
    let place = place::directory();
    std::fs::write(place.path().join("zz added"), "here").expect("it is written");
    let mut options = AddOptions::default();
    options.directory = Some(place.path().to_owned());
    options.pipeline = pipeline();
    if let Ok(report) = vault.add(&[PathBuf::from("zz added")], &options, &())
        && report.is_complete()
    {
        assert_eq!(copy(vault, Path::new("zz added"), None).ok().as_deref(), Some(&b"here"[..]), "it was acknowledged");
        let mut options = RemoveOptions::default();
        options.pipeline = pipeline();
        let removed = vault.remove(&[PathBuf::from("zz added")], &options, &());
        if removed.is_ok() {
            assert!(copy(vault, Path::new("zz added"), None).is_err(), "it was removed");
        }
    }
}

/// Recovers what is left: into another vault, which is whole then, or in place.
fn recover(vault: &Vault, in_place: bool) {
    let place = place::directory();
    let output = place.path().join("saved.flint");
    let mut options = RecoverOptions::default();
    options.pipeline = pipeline();
    options.in_place = in_place;
    options.output = (!in_place).then(|| output.clone());
    let Ok(report) = vault.recover(&options, &()) else { return };
    if in_place {
        let _ = vault.snapshots();
        verify(vault, false);
    } else if output.exists() {
        let saved =
            Vault::open(&output, &Password::new(PASSWORD)).expect("what was saved opens with the same password");
        let mut options = VerifyOptions::default();
        options.pipeline = pipeline();
        let verified =
            saved.verify(&options, &()).unwrap_or_else(|failed| panic!("what was saved: {:?}", failed.error));
        assert!(verified.is_complete(), "what was saved: {:?}, of {:?}", verified.errors, report.recovery);
    }
}

/// What is done to the bytes: `true` if only somebody with the password could.
fn change(known: &Known, input: &mut Unstructured<'_>) -> arbitrary::Result<(Vec<u8>, bool)> {
    let (mut edits, mut raw) = (Vec::new(), Vec::new());
    let mut cut = None;
    while !input.is_empty() {
        let kind = input.arbitrary::<u8>()? % 5;
        if kind == 4 {
            let at: u32 = input.arbitrary()?;
            if at % 4 == 0 {
                cut = Some(at >> 2);
                continue;
            }
            let len = usize::from(input.arbitrary::<u8>()? % 32);
            raw.push((at >> 2, input.bytes(len.min(input.len()))?.to_vec()));
            continue;
        }
        let structure = input.arbitrary::<u8>()?.into();
        let part = [Part::Plain, Part::Plain, Part::Packed, Part::Frame][usize::from(kind)];
        let at = input.arbitrary::<u16>()?.into();
        let removed = input.arbitrary()?;
        let len = usize::from(input.arbitrary::<u8>()?);
        edits.push(Edit { structure, part, at, removed, inserted: input.bytes(len.min(input.len()))?.to_vec() });
    }
    let forged = !edits.is_empty();
    let mut bytes = match known.forge() {
        Some(forge) if forged => forge.forge(&edits),
        _ => known.seed.bytes.clone(),
    };
    for (at, other) in raw {
        let at = at as usize % bytes.len().max(1);
        bytes[at..].iter_mut().zip(&other).for_each(|(byte, other)| *byte = *other);
    }
    if let Some(cut) = cut {
        bytes.truncate(cut as usize % (bytes.len() + 1));
    }
    Ok((bytes, forged))
}

fn run(input: &[u8]) -> arbitrary::Result<Corpus> {
    let mut input = Unstructured::new(input);
    let known = &SEEDS[usize::from(input.arbitrary::<u16>()?) % SEEDS.len()];
    let uses: u8 = input.arbitrary()?;
    let (bytes, forged) = change(known, &mut input)?;
    let disk = disk_with(&bytes);
    let storage = disk.open(false).ok().flatten().expect("a disk that nothing breaks");
    if key_derivation_cost(&*storage).is_some_and(|cost| cost > MAX_COST) {
        return Ok(Corpus::Reject);
    }
    let vault = match known.seed.open(&disk) {
        Ok(vault) => vault,
        Err(error) => {
            let sane = !matches!(error.kind(), ErrorKind::Io | ErrorKind::Locked | ErrorKind::Deadline);
            assert!(sane, "{}: {error:?}", known.seed.name);
            return Ok(Corpus::Keep);
        }
    };
    let (listed, _) = list(&vault, None);
    if !forged {
        let holds = known.holds();
        for entry in &listed {
            let name = entry.path.display();
            let contents = holds.get(&entry.path).unwrap_or_else(|| panic!("{}: a wrong name {name}", known.seed.name));
            if uses & 1 != 0 && entry.entry_type == EntryType::File {
                let found = copy(&vault, &entry.path, None);
                let right = match &found {
                    Ok(bytes) => contents.contains(bytes),
                    // Cut short: the beginning of what is known, if anything is known of it.
                    Err(bytes) => contents.is_empty() || contents.iter().any(|known| known.starts_with(bytes)),
                };
                assert!(right, "{}: wrong bytes of {name}", known.seed.name);
            }
        }
    } else if uses & 1 != 0 {
        for at in snapshots(&vault) {
            for entry in list(&vault, at).0.iter().filter(|entry| entry.entry_type == EntryType::File).take(4) {
                if let Ok(bytes) = copy(&vault, &entry.path, at) {
                    assert_eq!(bytes.len() as u64, entry.size, "as long as the list says");
                }
            }
        }
    }
    if uses & 2 != 0 {
        verify(&vault, uses & 32 != 0);
    }
    if uses & 4 != 0 {
        extract(&vault, &listed);
    }
    if uses & 64 != 0 {
        recover(&vault, uses & 128 != 0);
    }
    if uses & 8 != 0 {
        write(&vault);
        if uses & 16 != 0 {
            verify(&vault, false);
        }
    }
    Ok(Corpus::Keep)
}

fuzz_target!(|input: &[u8]| -> Corpus { run(input).unwrap_or(Corpus::Reject) });
