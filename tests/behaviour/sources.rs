//! Sources that are missing, forbidden, strange or changing: each is named, none ends the run, what is stored is sound.

use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flint_pipe::{AddOptions, EntryErrorKind, EntryType, Error, Failed, ReadMode, Report, Vault};
use rustix::fs::FileType;

use crate::support::disk::Disk;
use crate::support::tree::{Tree, is_root, noise, set_mode, text};
use crate::support::{
    PASSWORD, add, add_with, assert_sound, cheap, contents, entries, names, password, simple, snapshot_numbers,
    vault_at, vault_in, within,
};

fn in_memory() -> Vault {
    vault_in(Disk::new().dir())
}

fn kinds(report: &Report) -> Vec<(&Path, EntryErrorKind)> {
    report.errors.iter().map(|error| (&*error.path, error.kind)).collect()
}

#[test]
fn a_missing_source_alone_is_an_error_and_makes_no_snapshot() {
    within(60, || {
        let vault = in_memory();
        let tree = Tree::new();
        tree.file("f", "x");
        add(&vault, tree.root(), &["f"]);
        let failed = add_with(&vault, tree.root(), &["missing"], simple()).unwrap_err();
        assert!(matches!(failed.error, Error::NothingStored(_)), "{:?}", failed.error);
        assert_eq!(kinds(&failed.report)[0].1, EntryErrorKind::NotFound);
        assert!(failed.report.errors[0].path.ends_with("missing"));
        assert_eq!(snapshot_numbers(&vault).unwrap(), [1]);
        assert_sound(&vault);
    });
}

#[test]
fn a_missing_source_beside_another_is_named_and_the_other_is_stored() {
    within(60, || {
        let vault = in_memory();
        let tree = Tree::new();
        tree.file("f", "x");
        let report = add_with(&vault, tree.root(), &["missing", "f", "f/below a file"], simple()).unwrap();
        assert!(!report.is_complete());
        assert!(report.failed_files >= 1, "{report:?}");
        assert!(report.errors.iter().any(|error| error.path.ends_with("missing")), "{:?}", report.errors);
        assert_eq!(names(&vault, None), ["f"]);
        assert!(vault.snapshots().unwrap()[0].partial);
    });
}

#[test]
fn names_are_stored_as_tar_does() {
    within(60, || {
        let tree = Tree::new();
        tree.file("a/b/file", "x");
        tree.directory("a/other");
        let absolute = tree.path("a/b");
        let stored = absolute.to_str().unwrap().trim_start_matches('/').to_owned();
        for (source, expected) in [
            ("a/b", "a/b"),
            ("./a/b/", "a/b"),
            ("a//b/.", "a/b"),
            ("a/other/../b", "b"),
            (absolute.to_str().unwrap(), &*stored),
        ] {
            let vault = in_memory();
            let options = simple();
            add_with(&vault, tree.root(), &[source], options).unwrap();
            assert_eq!(names(&vault, None), [expected.to_owned(), format!("{expected}/file")], "{source}");
        }
    });
}

#[test]
fn a_source_that_lies_below_another_is_taken_once() {
    within(60, || {
        let tree = Tree::new();
        tree.file("a/b/file", "x");
        for sources in [&["a", "a/b"][..], &["a/b", "a"], &["a", "a"], &["a", "./a/"], &["a", "a/b/file", "a/b"]] {
            let vault = in_memory();
            let report = add_with(&vault, tree.root(), sources, simple()).unwrap();
            assert!(report.is_complete(), "{sources:?}: {:?}", report.errors);
            assert_eq!((report.total_files, report.directories), (1, 2), "{sources:?}");
            assert_eq!(names(&vault, None), ["a", "a/b", "a/b/file"], "{sources:?}");
        }
    });
}

#[test]
fn two_sources_with_one_stored_name_are_refused() {
    within(60, || {
        let tree = Tree::new();
        tree.file("a/n", "1");
        tree.file("b/n", "2");
        tree.directory("a/d");
        tree.directory("b/d");
        tree.file("other", "x");
        let vault = in_memory();
        add(&vault, tree.root(), &["other"]);
        // What stands before the last `..` is no part of a stored name, so both would be `n`.
        let failed = add_with(&vault, tree.root(), &["a/d/../n", "b/d/../n"], simple()).unwrap_err();
        assert_eq!(failed.error.kind(), flint_pipe::ErrorKind::Usage, "{:?}", failed.error);
        assert_eq!(snapshot_numbers(&vault).unwrap(), [1]);
        // The same file by two paths is one source.
        let report = add_with(&vault, tree.root(), &["a/d/../n", "a/../a/d/../n"], simple()).unwrap();
        assert_eq!((report.total_files, names(&vault, None)), (1, vec!["n".to_owned(), "other".to_owned()]));
    });
}

#[test]
fn a_symlink_named_as_a_source_is_stored_as_the_link_it_is() {
    within(60, || {
        let tree = Tree::new();
        tree.file("d/inside", "x");
        tree.symlink("link", "d");
        let vault = in_memory();
        add(&vault, tree.root(), &["link"]);
        let listed = entries(&vault, None).unwrap();
        assert_eq!((listed.len(), listed[0].entry_type), (1, EntryType::Symlink));
    });
}

#[test]
fn fifos_sockets_and_devices_are_never_opened() {
    within(60, || {
        let tree = Tree::new();
        tree.file("f", "x");
        tree.node("fifo", FileType::Fifo, 0);
        let _listener = UnixListener::bind(tree.path("socket")).unwrap();
        let mut expected = vec!["", "f", "fifo"];
        if is_root() {
            // A terminal that would make us wait, and a tape that would wind.
            tree.node("tty", FileType::CharacterDevice, rustix::fs::makedev(4, 0));
            expected.push("tty");
        }
        for source in [".", "fifo"] {
            let vault = in_memory();
            let report = add_with(&vault, tree.root(), &[source], simple()).unwrap();
            assert!(report.is_complete(), "{:?}", report.errors);
            if source == "." {
                assert_eq!(names(&vault, None), expected, "a socket is left out");
                assert!(report.notes.iter().any(|note| note.contains("socket")), "{:?}", report.notes);
            }
        }
    });
}

#[test]
fn a_vault_inside_its_own_source_is_left_out_and_grows_by_what_is_new_alone() {
    within(60, || {
        let tree = Tree::new();
        tree.file("d/f", noise(1, 500_000));
        let path = tree.path("d/vault.flint");
        let vault = vault_at(&path);
        for _ in 0..3 {
            let report = add(&vault, tree.root(), &["d"]);
            assert_eq!(report.total_files, 1);
        }
        assert_eq!(names(&vault, None), ["d", "d/f"]);
        std::fs::hard_link(&path, tree.path("d/linked.flint")).unwrap();
        add(&vault, tree.root(), &["d"]);
        assert_eq!(names(&vault, None), ["d", "d/f"], "nor under another name");
        assert!(std::fs::metadata(&path).unwrap().len() < 3_000_000);
        let vault = vault_at(&path);
        assert_sound(&vault);
    });
}

#[test]
fn files_of_a_pseudo_file_system_are_read_to_their_end() {
    within(60, || {
        for source in ["/proc/version", "/proc/cpuinfo", "/sys/kernel/mm/transparent_hugepage/enabled"] {
            let Ok(expected) = std::fs::read(source) else { continue };
            for mode in [ReadMode::Auto, ReadMode::Mmap, ReadMode::Read] {
                let vault = in_memory();
                let mut options = simple();
                options.read_mode = mode;
                let report = add_with(&vault, Path::new("/"), &[source], options).unwrap();
                // A size that the system made up may be called a change; the content is what was there.
                assert!(report.failed_files == report.changed_files, "{source}: {:?}", report.errors);
                let packed = contents(&vault, None).unwrap();
                let found = &packed[Path::new(source.trim_start_matches('/'))];
                if source == "/proc/cpuinfo" {
                    assert_eq!(found.is_empty(), expected.is_empty(), "{source}");
                } else {
                    assert_eq!(found, &expected, "{source} by {mode:?}");
                }
                assert_eq!(entries(&vault, None).unwrap()[0].size, found.len() as u64);
            }
        }
    });
}

#[test]
fn a_file_that_the_system_refuses_to_read_is_named() {
    within(60, || {
        // EIO, EINVAL or EPERM on reading, for root too.
        let Some(source) =
            ["/proc/self/mem", "/proc/self/clear_refs"].into_iter().find(|path| std::fs::read(path).is_err())
        else {
            eprintln!("skipped: everything can be read here");
            return;
        };
        let tree = Tree::new();
        let good = tree.file("good", "x");
        let vault = in_memory();
        let report = add_with(&vault, Path::new("/"), &[source, good.to_str().unwrap()], simple()).unwrap();
        assert_eq!((report.successful_files, report.failed_files), (1, 1), "{report:?}");
        assert_eq!(report.errors[0].path, Path::new(source));
        assert_eq!(contents(&vault, None).unwrap().len(), 1);
        assert_sound(&vault);
    });
}

/// Runs the program as nobody, from a copy that nobody may run.
pub(crate) fn as_nobody(place: &Tree, arguments: &[&str]) -> Option<Output> {
    if !is_root() {
        return None;
    }
    set_mode(place.root(), 0o755);
    let program = place.path("program");
    if !program.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_flint-pipe"), &program).unwrap();
    }
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(program)
        .args(arguments)
        .current_dir(place.root())
        .env("FLINT_PASSWORD", PASSWORD)
        .output();
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: setpriv: {error}");
            None
        }
    }
}

#[test]
fn what_may_not_be_read_is_named_and_ends_with_3_or_with_1_if_it_was_all() {
    within(60, || {
        let place = Tree::new();
        place.file("d/open", "everybody's");
        set_mode(&place.file("d/locked", "nobody's"), 0o600);
        place.file("d/closed/inside", "unseen");
        set_mode(&place.path("d/closed"), 0o700);
        let vault = place.path("v");
        std::fs::create_dir(&vault).unwrap();
        std::fs::set_permissions(&vault, std::fs::Permissions::from_mode(0o777)).unwrap();
        let arguments = ["add", "-v", "v/vault", "-s", "d", "--json"];
        let Some(output) = as_nobody(&place, &arguments) else { return };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("d/locked") && said.contains("d/closed"), "{said}");
        assert!(!said.contains("d/open"), "{said}");
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&result["successful_files"], &result["failed_files"]), (&1.into(), &1.into()), "{result}");
        let errors: Vec<_> = result["errors"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
        assert_eq!(errors, ["permission_denied", "permission_denied"]);

        let output = as_nobody(&place, &["add", "-v", "v/vault", "-s", "d/locked"]).unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        let output = as_nobody(&place, &["list", "-v", "v/vault", "--snapshots", "--json"]).unwrap();
        assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "no second snapshot");
        // What was stored once stays when it can no longer be read.
        let output = as_nobody(&place, &["list", "-v", "v/vault"]).unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        assert!(listed.contains("d/open") && !listed.contains("inside"), "{listed}");
    });
}

#[test]
fn a_file_that_can_no_longer_be_read_keeps_its_older_version() {
    within(60, || {
        let place = Tree::new();
        place.file("d/f", "first");
        let directory = place.directory("v");
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
        let Some(output) = as_nobody(&place, &["add", "-v", "v/vault", "-s", "d"]) else { return };
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        place.file("d/f", "second");
        place.file("d/g", "new");
        set_mode(&place.path("d/f"), 0o600);
        let output = as_nobody(&place, &["add", "-v", "v/vault", "-s", "d"]).unwrap();
        assert_eq!(output.status.code(), Some(3));
        let output = as_nobody(&place, &["get", "-v", "v/vault", "-t", "d/f", "--stdout"]).unwrap();
        assert_eq!(output.stdout, b"first");
    });
}

/// Does something to a file over and over beside a run.
pub(crate) struct Meddler {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Meddler {
    pub(crate) fn new(work: impl Fn(u64) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for round in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                work(round);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(std::thread::JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Packs again and again while something is done to the files; every vault must be whole, nothing else may fail.
fn pack_beside(tree: &Tree, rounds: u64, meddle: impl Fn(u64) + Send + Sync + Clone + 'static) -> u64 {
    let mut changed = 0;
    for mode in [ReadMode::Mmap, ReadMode::Read] {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let empty = disk.bytes().unwrap();
        let meddler = Meddler::new(meddle.clone());
        for round in 0..rounds {
            let mut options = AddOptions::default();
            options.pipeline.chunk_size = Some(256 << 10);
            options.read_mode = mode;
            let result = add_with(&vault, tree.root(), &["."], options);
            let report = match result {
                Ok(report) => report,
                Err(Failed { error: Error::NothingStored(_), .. }) => continue,
                Err(failed) => panic!("{mode:?} {round}: {failed}: {:?}", failed.error),
            };
            for error in &report.errors {
                assert!(matches!(error.kind, EntryErrorKind::Changed | EntryErrorKind::NotFound), "{error:?}");
            }
            assert_eq!(
                report.changed_files,
                report.errors.iter().filter(|error| error.kind == EntryErrorKind::Changed).count() as u64
            );
            changed += report.changed_files;
            if round % 8 == 0 {
                assert_sound(&vault);
                // The size that is listed is that of what was read.
                let packed = contents(&vault, None).unwrap();
                for entry in entries(&vault, None).unwrap() {
                    if entry.entry_type == EntryType::File {
                        assert_eq!(packed[&entry.path].len() as u64, entry.size);
                    }
                }
                disk.set_bytes(&empty);
            }
        }
        drop(meddler);
        disk.set_bytes(&empty);
        let report = add_with(&vault, tree.root(), &["."], simple()).unwrap();
        assert!(report.is_complete(), "once all is quiet: {:?}", report.errors);
    }
    changed
}

#[test]
fn a_file_that_is_truncated_while_it_is_packed_is_reported_and_the_run_goes_on() {
    within(120, || {
        let tree = Tree::new();
        tree.file("quiet", text(1, 300_000));
        let content = noise(2, 3_000_000);
        let path = tree.file("large", &content);
        let changed = pack_beside(&tree, 100, move |round| {
            use std::os::unix::fs::FileExt as _;
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            let len = [0, 3_000_000, 1, 1_500_000, 4096][usize::try_from(round % 5).unwrap()];
            file.set_len(len).unwrap();
            // Without data there would be nothing to read, and nothing that could change under it.
            file.write_all_at(&content, 0).unwrap();
        });
        assert!(changed > 0, "not one of hundreds of runs met a change");
    });
}

#[test]
fn a_file_that_grows_while_it_is_packed_is_stored_as_it_was_at_first() {
    within(120, || {
        let tree = Tree::new();
        let path = tree.file("log", noise(1, 400_000));
        pack_beside(&tree, 100, move |round| {
            use std::io::Write as _;
            let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
            if file.metadata().unwrap().len() < 20_000_000 {
                file.write_all(&round.to_le_bytes()).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_micros(200));
        });
    });
}

#[test]
fn growth_alone_is_no_failure() {
    within(60, || {
        let tree = Tree::new();
        let first = noise(1, 4_000_000);
        let path = tree.file("log", &first);
        let vault = in_memory();
        let appended = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&appended);
        let meddler = Meddler::new(move |_| {
            use std::io::Write as _;
            let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(b"a line\n").unwrap();
            done.store(true, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_micros(500));
        });
        while !appended.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        for mode in [ReadMode::Mmap, ReadMode::Read] {
            let mut options = AddOptions::default();
            options.pipeline.chunk_size = Some(256 << 10);
            options.read_mode = mode;
            let report = add_with(&vault, tree.root(), &["log"], options).unwrap();
            assert!(report.is_complete(), "{mode:?}: {:?}", report.errors);
            let packed = contents(&vault, None).unwrap();
            assert!(packed[Path::new("log")].starts_with(&first));
        }
        drop(meddler);
    });
}

#[test]
fn a_file_that_is_rewritten_while_it_is_packed_is_reported() {
    within(120, || {
        let tree = Tree::new();
        let large = tree.file("large", noise(1, 2_000_000));
        let small = tree.file("small", noise(2, 3000));
        let changed = pack_beside(&tree, 100, move |round| {
            use std::os::unix::fs::FileExt as _;
            for path in [&large, &small] {
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                let len = file.metadata().unwrap().len();
                file.write_all_at(&round.to_le_bytes(), round * 4099 % (len - 8)).unwrap();
            }
        });
        assert!(changed > 0, "not one of hundreds of runs met a change");
    });
}

#[test]
fn files_that_come_go_and_change_their_type_end_no_run() {
    within(120, || {
        let tree = Tree::new();
        tree.file("quiet", text(1, 100_000));
        let (file, directory, outside) = (tree.path("switch"), tree.path("directory"), Tree::new());
        outside.file("secret", "must not be packed");
        let target = outside.root().to_owned();
        tree.directory("directory");
        std::fs::write(&file, noise(2, 300_000)).unwrap();
        pack_beside(&tree, 60, move |round| {
            let _ = std::fs::remove_file(&file).or_else(|_| std::fs::remove_dir_all(&file));
            match round % 4 {
                0 => std::fs::write(&file, noise(round, 300_000)).unwrap(),
                1 => {
                    std::fs::create_dir(&file).unwrap();
                    std::fs::write(file.join("inside"), "x").unwrap();
                }
                2 => std::os::unix::fs::symlink(&target, &file).unwrap(),
                _ => rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &file,
                    FileType::Fifo,
                    rustix::fs::Mode::from_raw_mode(0o600),
                    0,
                )
                .unwrap(),
            }
            // A directory that becomes a symlink to the outside under the scan's feet.
            let _ = std::fs::remove_file(&directory).or_else(|_| std::fs::remove_dir_all(&directory));
            if round % 2 == 0 {
                std::os::unix::fs::symlink(&target, &directory).unwrap();
            } else {
                std::fs::create_dir(&directory).unwrap();
                std::fs::write(directory.join("mine"), "x").unwrap();
            }
        });
    });
}

#[test]
fn nothing_outside_of_the_sources_is_packed_through_a_directory_that_is_swapped_for_a_symlink() {
    within(120, || {
        let tree = Tree::new();
        let outside = Tree::new();
        let inside = tree.directory("tree/swapped");
        for number in 0..50 {
            tree.file(format!("tree/swapped/{number}"), "inside");
            outside.file(format!("{number}"), "SECRET");
        }
        let (target, aside) = (outside.root().to_owned(), tree.path("aside"));
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let empty = disk.bytes().unwrap();
        let meddler = Meddler::new(move |_| {
            std::fs::rename(&inside, &aside).unwrap();
            std::os::unix::fs::symlink(&target, &inside).unwrap();
            std::thread::sleep(std::time::Duration::from_micros(150));
            std::fs::remove_file(&inside).unwrap();
            std::fs::rename(&aside, &inside).unwrap();
            std::thread::sleep(std::time::Duration::from_micros(150));
        });
        for round in 0..150 {
            let mut options = AddOptions::default();
            options.pipeline.workers.scan = NonZeroU16::new([1, 4][round % 2]);
            match add_with(&vault, tree.root(), &["tree"], options) {
                Ok(_) => {
                    for (name, bytes) in contents(&vault, None).unwrap() {
                        assert!(bytes != b"SECRET", "{} came from outside", name.display());
                    }
                }
                Err(Failed { error: Error::NothingStored(_), .. }) => {}
                Err(failed) => panic!("{failed}: {:?}", failed.error),
            }
            disk.set_bytes(&empty);
        }
        drop(meddler);
    });
}

#[test]
fn what_is_excluded_is_left_out_by_the_rules_of_gitignore() {
    within(60, || {
        let tree = Tree::new();
        for name in ["a.o", "a.c", "d/b.o", "d/b.c", "target/x", "d/target/y", "keep/target.c"] {
            tree.file(name, "x");
        }
        let vault = in_memory();
        let mut options = simple();
        options.exclude = vec!["*.o".into(), "target/".into()];
        add_with(&vault, tree.root(), &["."], options).unwrap();
        assert_eq!(names(&vault, None), ["", "a.c", "d", "d/b.c", "keep", "keep/target.c"]);
        let vault = in_memory();
        let mut options = simple();
        options.exclude = vec!["/d".into(), "!d/b.c".into()];
        add_with(&vault, tree.root(), &["."], options).unwrap();
        assert!(!names(&vault, None).iter().any(|name| name.starts_with("d/")), "a parent that is out keeps all out");
    });
}

#[test]
fn sources_are_looked_up_from_the_directory_that_was_named() {
    within(60, || {
        let tree = Tree::new();
        tree.file("in/here/f", "x");
        let vault = in_memory();
        let mut options = simple();
        options.directory = Some(tree.path("in"));
        vault.add(&[PathBuf::from("here")], &options, &()).unwrap();
        assert_eq!(names(&vault, None), ["here", "here/f"]);
        options.directory = Some(tree.path("not there"));
        let failed = vault.add(&[PathBuf::from("here")], &options, &()).unwrap_err();
        assert!(matches!(failed.error.kind(), flint_pipe::ErrorKind::Io | flint_pipe::ErrorKind::Refused));
    });
}

#[test]
fn a_vault_that_is_swapped_for_another_under_a_run_is_noticed() {
    within(60, || {
        let tree = Tree::new();
        tree.file("f", noise(1, 100_000));
        let path = tree.path("vault");
        let vault = Vault::create(&path, &password(), &cheap()).unwrap();
        add(&vault, tree.root(), &["f"]);
        let other = tree.path("other");
        drop(Vault::create(&other, &password(), &cheap()).unwrap());
        std::fs::rename(&other, &path).unwrap();
        let failed = add_with(&vault, tree.root(), &["f"], simple()).unwrap_err();
        assert!(matches!(failed.error, Error::Refused { .. }), "{:?}", failed.error);
        assert_sound(&Vault::open(&path, &password()).unwrap());
    });
}
