//! Another process swaps directories of the destination for symlinks while it is restored to: is anything outside changed?

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use flint_pipe::{ExtractOptions, Overwrite};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};

use crate::support::disk::Disk;
use crate::support::tree::{Tree, assert_same_sight, look, text};
use crate::support::{add, step, vault_in, within};

/// Where the swapping process is to swap: what it is told by its parent.
const SWAP_BELOW: &str = "FLINT_TEST_SWAP_BELOW";
/// Directories of the destination that are swapped, each with a symlink beside the destination.
const SWAPPED: [&str; 3] = ["d", "d/sub", "d/sub/deep"];

/// Not a test: what [`swapper`] runs in a process of its own, and nothing in a usual run.
#[test]
fn swaps_directories_when_it_is_told_to() {
    let Some(place) = std::env::var_os(SWAP_BELOW).map(PathBuf::from) else { return };
    let open = |path: &Path| rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let links = open(&place.join("links"));
    // By descriptors of the parents: the way to a name must not lead through a symlink that this process put there.
    let parents: Vec<_> = SWAPPED.iter().map(|name| open(place.join("out").join(name).parent().unwrap())).collect();
    let parent = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    std::io::stdout().write_all(b"ready\n").unwrap();
    while !parent.is_finished() {
        for (number, (name, parent)) in SWAPPED.iter().zip(&parents).enumerate() {
            let leaf = Path::new(name).file_name().unwrap();
            let link = number.to_string();
            let _ = rustix::fs::renameat_with(parent, leaf, &links, link.as_str(), RenameFlags::EXCHANGE);
        }
    }
}

fn swapper(place: &Path) -> Child {
    let own = std::env::current_exe().expect("the test knows its program");
    let mut command = Command::new(own);
    command.args(["extraction_race::swaps_directories_when_it_is_told_to", "--exact", "--nocapture"]);
    command.env(SWAP_BELOW, place).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the test's program starts");
    // Until it says that it has begun.
    let mut said = Vec::new();
    let stdout = child.stdout.as_mut().unwrap();
    let mut byte = [0];
    while !said.ends_with(b"ready\n") {
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "it ended: {}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    child
}

#[test]
fn a_process_that_swaps_directories_for_symlinks_leads_nothing_outside() {
    within(170, || {
        let sources = Tree::new();
        for number in 0..40 {
            for directory in SWAPPED {
                sources.file(format!("{directory}/{number}"), text(number, 300));
            }
            sources.symlink(format!("d/sub/link {number}"), "0");
        }
        std::fs::hard_link(sources.path("d/0"), sources.path("d/sub/deep/linked")).unwrap();
        let vault = vault_in(Disk::new().dir());
        add(&vault, sources.root(), &["d"]);

        let outside = Tree::new();
        for directory in SWAPPED {
            for number in [0, 20] {
                outside.file(format!("{directory}/{number}"), "must stay");
            }
        }
        let before = look(outside.root());
        let place = Tree::new();
        place.directory("links");
        for (number, name) in SWAPPED.iter().enumerate() {
            place.directory(format!("out/{name}"));
            place.symlink(format!("links/{number}"), outside.path(name));
        }
        let mut child = swapper(place.root());
        let rounds = if step(2) == 1 { 3000 } else { 60 };
        let (mut round, mut refused) = (0, 0);
        // Until a run has come upon a symlink, at least: the other process may have to wait for its turn.
        while round < rounds || refused == 0 {
            round += 1;
            let mut options = ExtractOptions::default();
            options.overwrite = if round % 3 == 0 { Overwrite::Never } else { Overwrite::Always };
            if let Ok(report) = vault.extract(&place.path("out"), &options, &()) {
                refused += u64::from(!report.is_complete());
            }
        }
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        assert_same_sight(&before, &look(outside.root()));
    });
}
