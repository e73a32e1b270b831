//! Files that change all the while they are packed: an entry that is not named as changed is what the file was at one
//! moment, the run ends, the vault is sound.
//!
//! Every block of 4 KiB says which version of the file it is of, so a mixture shows. `FLINT_TEST_SCALE` multiplies the
//! rounds.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flint_pipe::{AddOptions, EntryErrorKind, Error, Failed, ReadMode, Report, Vault};
use rustix::fs::FileType;

use crate::sources::Meddler;
use crate::support::disk::Disk;
use crate::support::tree::Tree;
use crate::support::{add_with, assert_sound, contents, simple, vault_in, within, workers};

const BLOCK: usize = 4096;

/// How many times the usual number of rounds.
fn scale() -> u64 {
    std::env::var("FLINT_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A block of a file: its version, then bytes that depend on its place alone.
fn block(version: u64, number: usize) -> [u8; BLOCK] {
    let mut block = [u8::try_from(number % 251).unwrap() + 1; BLOCK];
    block[..8].copy_from_slice(&version.to_le_bytes());
    block
}

/// The first `len` bytes of a version.
fn version(version: u64, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len.div_ceil(BLOCK)).flat_map(|number| block(version, number)).collect();
    bytes.truncate(len);
    bytes
}

/// The versions that the blocks of a file say they are of; `None` if a byte is in none. A last block of less than 8 bytes
/// says nothing.
fn versions(content: &[u8]) -> Option<Vec<u64>> {
    let mut versions = Vec::new();
    for (number, piece) in content.chunks(BLOCK).enumerate() {
        let Some(bytes) = piece.first_chunk::<8>() else { continue };
        let version = u64::from_le_bytes(*bytes);
        if piece != &block(version, number)[..piece.len()] {
            return None;
        }
        versions.push(version);
    }
    Some(versions)
}

/// What a file that is always rewritten in place from its beginning on may hold at one moment: some of the new version,
/// then the one before.
fn was_rewritten_that_far(content: &[u8]) -> bool {
    versions(content).is_some_and(|versions| {
        versions.is_sorted_by(|a, b| a >= b)
            && versions.first().zip(versions.last()).is_none_or(|(first, last)| first - last <= 1)
    })
}

/// What a file that is emptied before it is written may hold at one moment: one version, or some of it.
fn is_of_one_version(content: &[u8]) -> bool {
    versions(content).is_some_and(|versions| versions.is_sorted_by(|a, b| a == b))
}

/// Whether the times of files tell any two changes apart that somebody has looked between. Before Linux 6.13 they are
/// those of the last tick of the clock, and what happens within one tick cannot be seen by anybody.
fn every_change_shows_in_the_times(tree: &Tree) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let path = tree.file("probe", "x");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let look = || file.metadata().map(|stat| (stat.ctime(), stat.ctime_nsec())).unwrap();
    let all = (0..20).all(|_| {
        let before = look();
        file.write_all_at(b"y", 0).unwrap();
        look() != before
    });
    std::fs::remove_file(path).unwrap();
    all
}

/// What came of the runs beside a meddler.
#[derive(Debug, Default)]
struct Met {
    runs: u64,
    reported: u64,
    unreported: u64,
}

fn options_of(mode: ReadMode, count: u16) -> AddOptions {
    let mut options = simple();
    options.pipeline.workers = workers(count);
    options.read_mode = mode;
    options
}

/// Whether a report names this file, or a directory that it is in.
fn names_it(report: &Report, root: &Path, path: &Path) -> bool {
    let full = root.join(path);
    report.errors.iter().any(|error| full.starts_with(&error.path))
}

/// Packs again and again, in both modes and with one worker a stage to eight, while something is done to the files. What is
/// stored and not named must pass `is_a_state`.
fn pack_beside(
    tree: &Tree,
    rounds: u64,
    meddle: impl Fn(u64) + Send + Sync + Clone + 'static,
    is_a_state: impl Fn(&Path, &[u8]) -> bool,
) -> Met {
    let is_strict = every_change_shows_in_the_times(tree);
    if !is_strict {
        eprintln!("not looked for: mixtures of versions, since times of files are coarse here");
    }
    let mut met = Met::default();
    let disk = Disk::new();
    let vault = vault_in(disk.dir());
    let empty = disk.bytes().unwrap();
    let meddler = Meddler::new(meddle);
    for mode in [ReadMode::Mmap, ReadMode::Read] {
        for count in [1, 2, 4, 8] {
            for round in 0..rounds * scale() {
                // Every sixth has nothing to compare with; the others do.
                if round % 6 == 0 {
                    disk.set_bytes(&empty);
                }
                let report = match add_with(&vault, tree.root(), &["."], options_of(mode, count)) {
                    Ok(report) => report,
                    Err(Failed { error: Error::NothingStored(_), .. }) => continue,
                    Err(failed) => panic!("{mode:?} {count} {round}: {failed}: {:?}", failed.error),
                };
                met.runs += 1;
                for error in &report.errors {
                    assert!(matches!(error.kind, EntryErrorKind::Changed | EntryErrorKind::NotFound), "{error:?}");
                }
                for (path, content) in contents(&vault, None).unwrap() {
                    if names_it(&report, tree.root(), &path) {
                        met.reported += 1;
                    } else {
                        met.unreported += 1;
                        assert!(
                            !is_strict || is_a_state(&path, &content),
                            "{mode:?}, {count} workers, round {round}: {} is a mixture that it never was, of {:?}; {:?}",
                            path.display(),
                            versions(&content),
                            report.notes
                        );
                    }
                }
                if round % 12 == 5 {
                    assert_sound(&vault);
                }
            }
        }
    }
    drop(meddler);
    settled(tree, &vault);
    met
}

/// Once all is quiet the next run stores everything as it is, whatever those before have stored.
fn settled(tree: &Tree, vault: &Vault) {
    match add_with(vault, tree.root(), &["."], AddOptions::default()) {
        Ok(report) => assert!(report.is_complete(), "{:?}", report.errors),
        Err(failed) => panic!("{failed}: {:?}", failed.error),
    }
    for (path, content) in contents(vault, None).unwrap() {
        let source = tree.path(&path);
        if source.is_file() && !source.is_symlink() {
            assert!(std::fs::read(source).unwrap() == content, "{} is stale", path.display());
        }
    }
    assert_sound(vault);
}

/// Writes a version in place, a block at a time.
fn rewrite(path: &Path, number: u64, len: usize) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    for at in 0..len.div_ceil(BLOCK) {
        let piece = &block(number, at)[..BLOCK.min(len - at * BLOCK)];
        file.write_all_at(piece, u64::try_from(at * BLOCK).unwrap()).unwrap();
    }
}

/// A pause of at most 2 ms, so that some runs meet nothing.
fn pause(round: u64) {
    std::thread::sleep(Duration::from_micros(round * 7919 % 2000));
}

#[test]
fn no_two_versions_of_a_file_that_is_rewritten_are_mixed_unreported() {
    within(120 * scale(), || {
        let tree = Tree::new();
        let files: Vec<(PathBuf, usize)> = [("large", 1_200_003), ("small", 13_000), ("smaller", 5000)]
            .map(|(name, len)| (tree.file(name, version(0, len)), len))
            .into();
        let meddle = move |round: u64| {
            for (path, len) in &files {
                rewrite(path, round + 1, *len);
            }
            pause(round);
        };
        let met = pack_beside(&tree, 24, meddle, |_, content| was_rewritten_that_far(content));
        assert!(met.reported > 0, "nothing met a change: {met:?}");
    });
}

#[test]
fn no_two_versions_of_a_file_that_is_emptied_and_filled_are_mixed_unreported() {
    within(120 * scale(), || {
        let tree = Tree::new();
        let files = ["large", "small"].map(|name| tree.file(name, version(0, 9000)));
        let meddle = move |round: u64| {
            for (path, longest) in files.iter().zip([1_000_000, 20_000]) {
                std::fs::File::create(path).unwrap();
                // Longer as often as shorter than the one before.
                rewrite(path, round + 1, usize::try_from(round * 104_729).unwrap() % longest);
            }
            pause(round);
        };
        let met = pack_beside(&tree, 24, meddle, |_, content| is_of_one_version(content));
        assert!(met.reported > 0, "nothing met a change: {met:?}");
    });
}

#[test]
fn no_two_versions_of_a_file_that_is_rewritten_and_grows_are_mixed_unreported() {
    within(120 * scale(), || {
        let tree = Tree::new();
        let sizes = [300_000, 10_000];
        let files = ["large", "small"].map(|name| tree.path(name));
        for (path, len) in files.iter().zip(sizes) {
            std::fs::write(path, version(0, len)).unwrap();
        }
        let meddle = move |round: u64| {
            for (path, len) in files.iter().zip(sizes) {
                let grown = len + usize::try_from(round % 40).unwrap() * BLOCK;
                if round.is_multiple_of(40) {
                    // From here it grows anew; a new file, so that the one before ends as it is.
                    let new = path.with_extension("new");
                    std::fs::write(&new, version(round + 1, len)).unwrap();
                    std::fs::rename(new, path).unwrap();
                }
                rewrite(path, round + 1, grown);
            }
            pause(round);
        };
        let is_a_state = |path: &Path, content: &[u8]| {
            path.extension().is_some_and(|extension| extension == "new") || was_rewritten_that_far(content)
        };
        let met = pack_beside(&tree, 24, meddle, is_a_state);
        assert!(met.reported > 0, "nothing met a change: {met:?}");
    });
}

#[test]
fn whatever_becomes_of_a_tree_ends_no_run_and_leaves_every_vault_sound() {
    within(120 * scale(), || {
        let (tree, outside) = (Tree::new(), Tree::new());
        outside.file("secret", "must not be packed");
        let (root, target) = (tree.path("tree"), outside.root().to_owned());
        let meddle = move |round: u64| {
            change(&root, &target, round);
            pause(round);
        };
        let is_a_state = |_: &Path, content: &[u8]| content != b"must not be packed";
        let met = pack_beside(&tree, 24, meddle, is_a_state);
        assert!(met.runs > 0, "{met:?}");
    });
}

/// Does something else to the tree each time; what cannot be done, because of what was done before, is left.
fn change(root: &Path, outside: &Path, round: u64) {
    let name = root.join(format!("d{}", round % 3)).join(format!("f{}", round / 7 % 4));
    let parent = name.parent().expect("it is below the root");
    let _ = std::fs::create_dir_all(parent);
    let remove = || {
        let _ = std::fs::remove_file(&name).or_else(|_| std::fs::remove_dir_all(&name));
    };
    match round * 31 % 11 {
        0 | 1 => {
            remove();
            let _ = std::fs::write(&name, version(round, 600_000));
        }
        2 => {
            if let Ok(file) = std::fs::OpenOptions::new().write(true).open(&name) {
                let _ = file.set_len([0, 1, 5000, 300_000, 2_000_000][usize::try_from(round % 5).unwrap()]);
            }
        }
        3 => {
            if name.is_file() {
                rewrite(&name, round, 100_000);
            }
        }
        4 => remove(),
        5 => {
            remove();
            let _ =
                rustix::fs::mknodat(rustix::fs::CWD, &name, FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0);
        }
        6 => {
            remove();
            let _ = std::os::unix::fs::symlink(outside.join("secret"), &name);
        }
        7 => {
            remove();
            let _ = std::fs::create_dir(&name);
            let _ = std::fs::write(name.join("inside"), "x");
        }
        8 => {
            // A directory becomes a symlink to a directory elsewhere.
            let _ = std::fs::remove_dir_all(parent);
            let _ = std::os::unix::fs::symlink(outside, parent);
            pause(round);
            let _ = std::fs::remove_file(parent);
        }
        9 => {
            let _ = std::fs::remove_dir_all(root);
        }
        _ => {
            let other = root.join("d1").join("moved");
            let _ = std::fs::rename(&name, other);
        }
    }
}
