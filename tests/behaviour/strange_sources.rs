//! Sources that are hard to take: too deep, too many, made up by the kernel, closed. What can be packed is, and it ends.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::process::Command;

use flint_pipe::{AddOptions, EntryErrorKind};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::sources::as_nobody;
use crate::support::disk::Disk;
use crate::support::tree::{Tree, noise, set_mode};
use crate::support::{add_with, assert_sound, contents, names, program, simple, vault_in, within, workers};

#[test]
fn files_that_the_kernel_makes_up_end_no_run_and_none_hangs_it() {
    within(240, || {
        let place = Tree::new();
        // With the slash: the source is a symlink. Its own descriptors come and go while the program packs them; those of a
        // process that sleeps do not.
        let mut sleeper = Command::new("sleep").arg("1000").spawn().expect("it starts");
        let quiet = format!("/proc/{}", sleeper.id());
        for (number, (source, workers)) in
            [("/proc/self/", "1"), ("/proc/self/", "4"), (&quiet, "1"), (&quiet, "4")].into_iter().enumerate()
        {
            let vault = format!("v{number}");
            let arguments = ["add", "-v", &vault, "-s", source, "--timeout", "40s", "--scan-workers", workers];
            let output = program().args(arguments).arg("--json").current_dir(place.root()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            // Much of it cannot be read.
            assert!(matches!(output.status.code(), Some(0 | 3 | 14)), "{:?}: {said}", output.status);
            assert!(!said.contains("panicked"), "{said}");
            let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            for error in result["errors"].as_array().unwrap() {
                let is_replaced = error["message"].as_str().unwrap().contains("replaced");
                // Nothing has been replaced there, though files of this kind answer like what has.
                assert!(source != quiet || !is_replaced, "{error}");
                let may_be = ["/fd/", "/fdinfo/", "/map_files/"]
                    .iter()
                    .any(|part| error["path"].as_str().unwrap().contains(part));
                assert!(!is_replaced || may_be, "{error}");
            }
        }
        sleeper.kill().expect("it is this test's own");
        sleeper.wait().expect("it has ended");
    });
}

#[test]
fn few_descriptors_are_enough_for_many_sources_and_deep_trees() {
    within(120, || {
        const SOURCES: usize = 100;
        let place = Tree::new();
        let mut line = String::new();
        for number in 0..SOURCES {
            place.file(format!("s{number}/a/b/f"), "x");
            place.file(format!("s{number}/large"), noise(number as u64, 300_000));
            line += &format!(" -s s{number}");
        }
        let deep = vec!["d"; 200].join("/");
        place.file(format!("deep/{deep}/f"), "x");
        for (number, workers) in [1, 4].into_iter().enumerate() {
            let script = format!(
                "ulimit -n 64; exec \"$0\" add -v v{number} -s deep {line} --scan-workers {workers} -w 4 --chunk-size 256K"
            );
            let mut limited = std::process::Command::new("sh");
            limited.args(["-c", &script, env!("CARGO_BIN_EXE_flint-pipe")]);
            limited.env("FLINT_PASSWORD", crate::support::PASSWORD).current_dir(place.root());
            let output = limited.output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            let output =
                program().args(["list", "-v", &format!("v{number}")]).current_dir(place.root()).output().unwrap();
            let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(lines, SOURCES * 5 + 2 + 200);
        }
    });
}

#[test]
fn a_closed_directory_is_stored_and_what_was_packed_of_it_stays() {
    within(60, || {
        let place = Tree::new();
        place.file("d/closed/inside", "first");
        place.file("d/open", "x");
        set_mode(place.root(), 0o755);
        set_mode(&place.directory("v"), 0o777);
        let Some(output) = as_nobody(&place, &["add", "-v", "v/vault", "-s", "d"]) else { return };
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        place.file("d/closed/inside", "second");
        set_mode(&place.path("d/closed"), 0o000);
        for extra in [&[][..], &["--mirror"], &["--scan-workers", "4"], &["--mirror", "--scan-workers", "4"]] {
            let arguments = [&["add", "-v", "v/vault", "-s", "d"], extra].concat();
            let output = as_nobody(&place, &arguments).unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "{extra:?}: {said}");
            assert!(said.contains("d/closed") && said.contains("ermission denied"), "{said}");
            let output = as_nobody(&place, &["list", "-v", "v/vault", "--long"]).unwrap();
            let listed = String::from_utf8(output.stdout).unwrap();
            let closed = listed.lines().find(|line| line.ends_with("d/closed")).unwrap();
            assert!(closed.contains("---------"), "its new mode is stored: {closed}");
            let output = as_nobody(&place, &["get", "-v", "v/vault", "-t", "d/closed/inside", "--stdout"]).unwrap();
            assert_eq!(output.stdout, b"first", "{extra:?}");
        }
    });
}

#[test]
fn a_thousand_sockets_are_one_note() {
    within(60, || {
        let tree = Tree::new();
        tree.file("d/f", "x");
        let _listener = UnixListener::bind(tree.path("d/s")).unwrap();
        for number in 0..1000 {
            std::fs::hard_link(tree.path("d/s"), tree.path(format!("d/s{number}"))).unwrap();
        }
        for count in [1, 2] {
            let mut options = AddOptions::default();
            options.pipeline.workers = workers(count);
            let vault = vault_in(Disk::new().dir());
            let report = add_with(&vault, tree.root(), &["d"], options).unwrap();
            assert!(report.is_complete());
            let notes: Vec<&String> = report.notes.iter().filter(|note| note.contains("socket")).collect();
            assert!(matches!(notes[..], [note] if note.contains("1001") && note.ends_with("d/s")), "{notes:?}");
            assert_eq!(names(&vault, None), ["d", "d/f"]);
        }
    });
}

#[test]
fn names_of_any_bytes_are_packed_by_any_number_of_workers() {
    within(60, || {
        let tree = Tree::new();
        let strange = [&b"new\nline"[..], b"\x1b[31mred", b"\xff\xfe", b"\xc3\xa4", b" ", b"-rf", b"\\", b"*"];
        for directory in strange {
            let directory = std::ffi::OsStr::from_bytes(directory);
            for file in strange {
                tree.file(std::path::Path::new("t").join(directory).join(std::ffi::OsStr::from_bytes(file)), file);
            }
        }
        for count in [1, 4] {
            let mut options = AddOptions::default();
            options.pipeline.workers = workers(count);
            let vault = vault_in(Disk::new().dir());
            assert!(add_with(&vault, tree.root(), &["t"], options).unwrap().is_complete());
            let contents = contents(&vault, None).unwrap();
            assert_eq!(contents.len(), strange.len() * strange.len());
            assert!(contents.iter().all(|(name, bytes)| name.file_name().unwrap().as_bytes() == *bytes));
        }
    });
}

#[test]
fn paths_beyond_what_the_system_takes_are_packed_and_what_fails_there_is_named_in_full() {
    within(120, || {
        const DEPTH: usize = 30;
        let tree = Tree::new();
        let component = "c".repeat(220);
        let open = |at: &std::os::fd::OwnedFd, name: &str, flags| {
            rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o644)).unwrap()
        };
        let mut at = rustix::fs::openat(CWD, tree.root(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&at, component.as_str(), Mode::RWXU).unwrap();
            at = open(&at, &component, OFlags::DIRECTORY);
        }
        let large = noise(1, 700_000);
        for (name, content) in [("large", &large[..]), ("small", b"x")] {
            let file = open(&at, name, OFlags::CREATE | OFlags::WRONLY);
            let mut written = 0;
            while written < content.len() {
                written += rustix::io::write(&file, &content[written..]).unwrap();
            }
        }
        let sparse = open(&at, "sparse", OFlags::CREATE | OFlags::WRONLY);
        rustix::fs::ftruncate(&sparse, 10_000_000).unwrap();
        for count in [1, 4] {
            let mut options = simple();
            options.pipeline.workers = workers(count);
            let vault = vault_in(Disk::new().dir());
            let report = add_with(&vault, tree.root(), &["."], options).unwrap();
            assert!(report.is_complete(), "{:?}", report.errors);
            let contents = contents(&vault, None).unwrap();
            let found = |name: &str| contents.iter().find(|(path, _)| path.ends_with(name)).unwrap();
            assert!(found("small").0.as_os_str().len() > 6000);
            assert!(*found("large").1 == large && found("sparse").1.len() == 10_000_000);
            assert_sound(&vault);
        }
        // Removing by path could not.
        drop(sparse);
        for name in ["large", "small", "sparse"] {
            rustix::fs::unlinkat(&at, name, AtFlags::empty()).unwrap();
        }
    });
}

#[test]
fn a_file_that_was_replaced_since_it_was_listed_is_not_found() {
    within(120, || {
        let tree = Tree::new();
        let path = tree.file("f", noise(1, 200_000));
        let swapper = crate::sources::Meddler::new(move |round| {
            let _ = std::fs::remove_file(&path);
            match round % 3 {
                0 => std::fs::write(&path, noise(round, 200_000)).unwrap(),
                1 => drop(UnixListener::bind(&path).unwrap()),
                _ => std::os::unix::fs::symlink("/etc/passwd", &path).unwrap(),
            }
        });
        let vault = vault_in(Disk::new().dir());
        tree.file("quiet", "x");
        for round in 0..150 {
            let mut options = AddOptions::default();
            options.pipeline.workers = workers([1, 3][round % 2]);
            let report = add_with(&vault, tree.root(), &["."], options).unwrap();
            for error in &report.errors {
                assert!(matches!(error.kind, EntryErrorKind::NotFound | EntryErrorKind::Changed), "{error:?}");
            }
        }
        drop(swapper);
    });
}
