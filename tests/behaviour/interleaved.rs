//! What a run leaves out as unchanged is there all the same, whatever others commit between its beginning and its end; and
//! what others add meanwhile stays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use flint_pipe::{AddOptions, EntryType, Observer, Progress, RemoveOptions, Report, Vault};

use crate::support::disk::{Dice, Disk};
use crate::support::tree::{Tree, set_mode};
use crate::support::{add, add_with, assert_sound, contents, entries, names, simple, vault_in, within};

/// Does something when the run has packed everything and is about to commit.
struct Between<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send> Observer for Between<F> {
    fn progress(&self, progress: &Progress) {
        if progress.phase == "commit"
            && let Some(work) = self.0.lock().unwrap().take()
        {
            work();
        }
    }
}

/// Adds; `between` happens before the commit.
fn add_around(
    vault: &Vault,
    directory: &Path,
    sources: &[&str],
    mut options: AddOptions,
    between: impl FnOnce() + Send,
) -> Report {
    options.directory = Some(directory.to_owned());
    let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
    let observer = Between(Mutex::new(Some(between)));
    let report = vault.add(&sources, &options, &observer).expect("the sources are added");
    assert!(observer.0.lock().unwrap().is_none(), "there was a moment before the commit");
    report
}

fn remove(vault: &Vault, names: &[&str]) {
    let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    vault.remove(&names, &RemoveOptions::default(), &()).expect("they are removed");
}

fn forced() -> AddOptions {
    let mut options = simple();
    options.force_read = true;
    options
}

fn mirror() -> AddOptions {
    let mut options = simple();
    options.mirror = true;
    options
}

fn let_time_pass() {
    std::thread::sleep(Duration::from_millis(2200));
}

/// What a snapshot is, as far as these tests go: directories, and files with what is in them.
type Model = BTreeMap<PathBuf, Option<Vec<u8>>>;

fn seen(vault: &Vault) -> Model {
    let files = contents(vault, None).expect("every file can be read");
    let listed = entries(vault, None).expect("it can be listed").into_iter();
    listed
        .map(|entry| {
            let content = (entry.entry_type == EntryType::File).then(|| files[&entry.path].clone());
            (entry.path, content)
        })
        .collect()
}

/// What is below some names of a directory.
fn on_disk(root: &Path, sources: &[&str]) -> Model {
    fn walk(root: &Path, name: &Path, model: &mut Model) {
        let path = root.join(name);
        if path.is_dir() {
            model.insert(name.to_owned(), None);
            for entry in std::fs::read_dir(path).unwrap() {
                walk(root, &name.join(entry.unwrap().file_name()), model);
            }
        } else if path.exists() {
            model.insert(name.to_owned(), Some(std::fs::read(path).unwrap()));
        }
    }
    let mut model = Model::new();
    sources.iter().for_each(|source| walk(root, Path::new(source), &mut model));
    model
}

fn put(model: &mut Model, path: &Path, content: Option<Vec<u8>>) {
    let is_file = content.is_some();
    model.retain(|other, held| {
        let below = is_file && other.starts_with(path) && other != path;
        let above = held.is_some() && path.starts_with(other) && other != path;
        !below && !above
    });
    model.insert(path.to_owned(), content);
}

#[test]
fn entries_that_others_removed_meanwhile_are_there_again_if_they_were_found() {
    within(60, || {
        let tree = Tree::new();
        for name in ["s/a", "s/d/1", "s/d/e/2", "s/z", "other"] {
            tree.file(name, name);
        }
        let_time_pass();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["s", "other"]);
        let all = seen(&vault);
        let report = add_around(&vault, tree.root(), &["s"], simple(), || remove(&vault, &["s/d", "s/z", "other"]));
        assert_eq!(report.unchanged_files, 4);
        let mut expected = all;
        expected.remove(Path::new("other"));
        assert_eq!(seen(&vault), expected, "what was not looked for stays removed");
        assert_sound(&vault);
    });
}

#[test]
fn entries_that_others_replaced_meanwhile_are_as_this_run_found_them() {
    within(60, || {
        let (tree, theirs) = (Tree::new(), Tree::new());
        for name in ["s/a", "s/d/1", "s/d/2", "s/z"] {
            tree.file(name, name);
        }
        theirs.file("s/a", "their a");
        theirs.file("s/d", "a file where a directory was");
        theirs.file("s/z/below", "a directory where a file was");
        theirs.file("s/new", "theirs alone");
        let_time_pass();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["s"]);
        let mut expected = seen(&vault);
        let report = add_around(&vault, tree.root(), &["s"], mirror(), || {
            add_with(&vault, theirs.root(), &["s"], forced()).unwrap();
        });
        assert_eq!((report.unchanged_files, report.removed_files), (4, 0));
        expected.insert("s/new".into(), Some(b"theirs alone".to_vec()));
        assert_eq!(seen(&vault), expected);
        assert_sound(&vault);
    });
}

#[test]
fn a_file_in_the_place_of_a_directory_above_the_source_gives_way() {
    within(60, || {
        let (tree, theirs) = (Tree::new(), Tree::new());
        tree.file("top/s/a", "1");
        theirs.file("top", "a file");
        let_time_pass();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["top/s"]);
        let before = seen(&vault);
        add_around(&vault, tree.root(), &["top/s"], simple(), || {
            add_with(&vault, theirs.root(), &["top"], forced()).unwrap();
        });
        assert_eq!(seen(&vault), before);
        assert_sound(&vault);
    });
}

#[test]
fn what_others_stored_under_a_name_that_this_run_drops_stays() {
    within(60, || {
        let (tree, theirs) = (Tree::new(), Tree::new());
        tree.file("s/gone", "old");
        tree.file("s/here", "1");
        tree.file("s/gone too", "old");
        theirs.file("s/gone", "back again");
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["s"]);
        std::fs::remove_file(tree.path("s/gone")).unwrap();
        std::fs::remove_file(tree.path("s/gone too")).unwrap();
        add_around(&vault, tree.root(), &["s"], mirror(), || {
            add_with(&vault, theirs.root(), &["s/gone"], forced()).unwrap();
        });
        assert_eq!(names(&vault, None), ["s", "s/gone", "s/here"]);
        assert_eq!(seen(&vault)[Path::new("s/gone")].as_deref(), Some(&b"back again"[..]));
        assert_sound(&vault);
    });
}

#[test]
fn a_full_index_that_another_wrote_meanwhile_hides_nothing() {
    within(120, || {
        let (tree, theirs) = (Tree::new(), Tree::new());
        for name in ["s/a", "s/d/1", "s/z"] {
            tree.file(name, name);
        }
        let_time_pass();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["s"]);
        for round in 0..30 {
            theirs.file("t", round.to_string());
            add(&vault, theirs.root(), &["t"]);
        }
        let mut expected = seen(&vault);
        add_around(&vault, tree.root(), &["s"], simple(), || {
            remove(&vault, &["s/d"]);
            // Somewhere among these the deltas are brought together.
            for round in 0..4 {
                theirs.file("t", round.to_string());
                add_with(&vault, theirs.root(), &["t"], forced()).unwrap();
            }
        });
        expected.insert("t".into(), Some(b"3".to_vec()));
        assert_eq!(seen(&vault), expected);
        assert_sound(&vault);
    });
}

#[test]
fn runs_on_different_trees_owe_each_other_nothing() {
    within(60, || {
        let tree = Tree::new();
        tree.file("s/a", "1");
        tree.file("t/b", "2");
        let_time_pass();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["s", "t"]);
        let report = add_around(&vault, tree.root(), &["s"], simple(), || {
            add_with(&vault, tree.root(), &["t"], forced()).unwrap();
        });
        assert!(report.stored_size < 2000);
        assert_eq!(names(&vault, None), ["s", "s/a", "t", "t/b"]);
    });
}

#[test]
fn a_hard_link_that_is_put_again_is_still_one() {
    within(60, || {
        let tree = Tree::new();
        tree.file("s/a", "content");
        std::fs::hard_link(tree.path("s/a"), tree.path("s/b")).unwrap();
        let_time_pass();
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["s"]);
        add_around(&vault, tree.root(), &["s"], simple(), || remove(&vault, &["s/b"]));
        let out = Tree::new();
        crate::support::extract(&vault, &out.path("out"));
        crate::support::tree::assert_same_sight(
            &crate::support::tree::look(&tree.path("s")),
            &crate::support::tree::look(&out.path("out/s")),
        );
        assert_sound(&vault);
    });
}

/// Names that get in each other's way.
const NAMES: [&str; 14] = [
    "s/a", "s/a/b", "s/a/b/c", "s/a/d", "s/a.x", "s/b", "s/b/a", "s/b/b/b", "s/c", "s/c/c", "s/d", "s/e/f/g", "s/e/f",
    "s/z",
];

/// A tree of some of these names, as far as they go together.
fn random_tree(dice: &mut Dice, mark: &str) -> Tree {
    let tree = Tree::new();
    tree.directory("s");
    for name in NAMES {
        if dice.below(3) > 0 {
            continue;
        }
        let path = tree.path(name);
        if path.exists() || path.ancestors().any(|above| above.is_file()) {
            continue;
        }
        tree.file(name, format!("{mark} {name}"));
    }
    tree
}

/// Changes some of what is there.
fn meddle(dice: &mut Dice, tree: &Tree) {
    for name in NAMES {
        let path = tree.path(name);
        match dice.below(8) {
            0 if path.is_file() => std::fs::remove_file(path).unwrap(),
            0 if path.is_dir() => std::fs::remove_dir_all(path).unwrap(),
            1 if path.is_file() => std::fs::write(path, format!("changed {name}")).unwrap(),
            2 if path.is_file() => set_mode(&path, 0o600),
            3 if path.is_file() => {
                std::fs::remove_file(&path).unwrap();
                tree.file(format!("{name}/turned"), "into a directory");
            }
            4 if path.is_dir() => {
                std::fs::remove_dir_all(&path).unwrap();
                std::fs::write(path, "turned into a file").unwrap();
            }
            _ => {}
        }
    }
}

#[test]
fn any_interleaving_of_two_writers_ends_as_the_rules_say() {
    const CASES: u64 = 150;
    within(300, || {
        let mut dice = Dice(7);
        let cases: Vec<_> =
            (0..CASES).map(|_| (random_tree(&mut dice, "ours"), random_tree(&mut dice, "theirs"))).collect();
        let_time_pass();
        for (case, (ours, theirs)) in cases.iter().enumerate() {
            let vault = vault_in(Disk::new().dir());
            add(&vault, ours.root(), &["s"]);
            let base = seen(&vault);
            meddle(&mut dice, ours);
            let is_mirror = dice.below(2) == 0;
            let removed: Vec<&str> = NAMES.into_iter().filter(|_| dice.below(6) == 0).collect();
            let options = if is_mirror { mirror() } else { simple() };

            let between = Mutex::new((Model::new(), Model::new()));
            let report = add_around(&vault, ours.root(), &["s"], options, || {
                add_with(&vault, theirs.root(), &["s"], forced()).unwrap();
                // Names that stand for nothing are no harm beside one that does not.
                let removed: Vec<&str> = removed.iter().copied().chain(["s/z", "s/a"]).collect();
                let names: Vec<PathBuf> = removed.iter().map(PathBuf::from).collect();
                let _ = vault.remove(&names, &RemoveOptions::default(), &());
                let mut stored = on_disk(theirs.root(), &["s"]);
                stored.retain(|path, _| !removed.iter().any(|name| path.starts_with(name)));
                *between.lock().unwrap() = (seen(&vault), stored);
            });
            assert!(report.is_complete(), "case {case}: {:?}", report.errors);

            let (mut expected, stored) = between.into_inner().unwrap();
            let found = on_disk(ours.root(), &["s"]);
            if is_mirror {
                expected.retain(|path, _| {
                    found.contains_key(path) || !base.contains_key(path) || stored.contains_key(path)
                });
            }
            for (path, content) in &found {
                put(&mut expected, path, content.clone());
            }
            assert_eq!(seen(&vault), expected, "case {case}, mirror {is_mirror}, removed {removed:?}");
            assert_sound(&vault);
        }
    });
}
