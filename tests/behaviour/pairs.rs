//! Any two commands may run on one vault at once: both do what they are for, and afterwards the vault has what both did.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Duration;

use flint_pipe::{
    CompactOptions, Error, ErrorKind, ExtractOptions, Failed, Keep, KeyOptions, ListOptions, Password, RemoveOptions,
    Report, Vault,
};

use crate::support::tree::{Tree, noise, text};
use crate::support::{
    PASSWORD, add, add_with, assert_sound, cheap, contents, entries, password, simple, vault_at, within,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Add,
    Remove,
    List,
    Extract,
    Verify,
    Compact,
    CompactLast,
    KeyAdd,
    KeyPasswd,
    Rekey,
}

use Command::{Add, Compact, CompactLast, Extract, KeyAdd, KeyPasswd, List, Rekey, Remove, Verify};

const ALL: [Command; 10] = [Add, Remove, List, Extract, Verify, Compact, CompactLast, KeyAdd, KeyPasswd, Rekey];

/// What each of the two may be told apart by.
struct Side {
    name: &'static str,
    sources: Tree,
    out: Tree,
    /// What its new password is.
    password: String,
}

impl Side {
    fn new(name: &'static str) -> Self {
        let sources = Tree::new();
        sources.file(format!("add-{name}/text"), text(5, 40_000));
        sources.file(format!("add-{name}/noise"), noise(6, 400_000));
        Self { name, sources, out: Tree::new(), password: format!("of {name}") }
    }
}

fn key_options() -> KeyOptions {
    let mut options = KeyOptions::default();
    options.kdf_memory_kib = Some(cheap().kdf.memory_kib);
    options.kdf_passes = Some(cheap().kdf.passes);
    options
}

fn report(result: flint_pipe::Result<usize>) -> Result<Report, Failed> {
    result.map(|_| Report::default()).map_err(Failed::from)
}

fn run(command: Command, vault: &Vault, side: &Side) -> Result<Report, Failed> {
    let mut compact = CompactOptions::default();
    let mut key = key_options();
    match command {
        Add => add_with(vault, side.sources.root(), &[&format!("add-{}", side.name)], simple()),
        Remove => vault.remove(&[format!("base/{}", side.name).into()], &RemoveOptions::default(), &()),
        List => report(vault.list(&ListOptions::default()).and_then(|listed| {
            let names: Vec<PathBuf> = listed.map(|entry| entry.map(|entry| entry.path)).collect::<Result<_, _>>()?;
            assert!(names.len() >= 4, "{names:?}");
            Ok(names.len())
        })),
        Extract => {
            let report = vault.extract(&side.out.path(side.name), &ExtractOptions::default(), &())?;
            assert!(report.is_complete(), "{:?}", report.errors);
            Ok(report)
        }
        Verify => {
            let report = vault.verify(&flint_pipe::VerifyOptions::default(), &())?;
            assert!(report.is_complete(), "{:?}", report.errors);
            Ok(report)
        }
        Compact => {
            compact.keep = Some(Keep::all());
            vault.compact(&compact, &())
        }
        CompactLast => {
            compact.keep = Some(Keep::last(1));
            vault.compact(&compact, &())
        }
        KeyAdd => {
            key.label = Some(side.name.to_owned());
            vault.add_key(&Password::new(&side.password), &key, &())
        }
        KeyPasswd => vault.change_password(&Password::new(&side.password), &key, &()),
        Rekey => vault.rekey(&Password::new(&side.password), &key, &()),
    }
}

/// Another gave the vault a new master key first, or changed the very password.
fn came_too_late(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Refused | ErrorKind::WrongPassword)
}

/// A vault whose file is copied for each pair.
fn original(place: &Tree) -> PathBuf {
    let path = place.path("original.flint");
    let vault = vault_at(&path);
    let tree = Tree::new();
    for name in ["left", "right", "stays"] {
        tree.file(format!("base/{name}"), text(7, 20_000));
    }
    tree.file("base/large", noise(8, 700_000));
    add(&vault, tree.root(), &["base"]);
    add(&vault, tree.root(), &["base/stays"]);
    path
}

fn pair(left: Command, right: Command, original: &Path, lead: Duration) {
    let what = format!("{left:?} and {right:?}, {lead:?} apart");
    let place = Tree::new();
    let path = place.path("v.flint");
    std::fs::copy(original, &path).unwrap();
    let sides = [Side::new("left"), Side::new("right")];
    let vaults = [(); 2].map(|()| Vault::open(&path, &password()).unwrap());
    let barrier = Barrier::new(2);
    let results: Vec<Result<Report, Failed>> = std::thread::scope(|scope| {
        let start = |at: usize, command: Command| {
            let (vault, side, barrier) = (&vaults[at], &sides[at], &barrier);
            scope.spawn(move || {
                barrier.wait();
                if at == 1 {
                    std::thread::sleep(lead);
                }
                run(command, vault, side)
            })
        };
        let running = [start(0, left), start(1, right)];
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panic!("{what}"))).collect()
    });
    let commands = [left, right];
    let changes_password = |command| matches!(command, KeyPasswd | Rekey);
    for (at, result) in results.iter().enumerate() {
        let other = commands[1 - at];
        let Err(failed) = result else { continue };
        // Who was opened without a password that is kept is told to open it anew.
        let may_be_late = other == Rekey || (changes_password(commands[at]) && changes_password(other));
        assert!(may_be_late && came_too_late(&failed.error), "{what}: {:?}: {:?}", commands[at], failed.error);
        assert!(results[1 - at].is_ok(), "{what}: one of the two is done");
    }
    // Which passwords open it now? Of those that should, one at least; and what each side did is there.
    let candidates = [&sides[0].password, &sides[1].password].map(String::as_str).into_iter().chain([PASSWORD]);
    let opened = candidates.map(|word| (word, Vault::open(&path, &Password::new(word))));
    let opened: Vec<(&str, Vault)> = opened.filter_map(|(word, vault)| Some((word, vault.ok()?))).collect();
    assert!(!opened.is_empty(), "{what}: no password opens it");
    let vault = &opened[0].1;
    let newest = contents(vault, None).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let rekeyed = commands.iter().zip(&results).any(|(&command, result)| command == Rekey && result.is_ok());
    for ((&command, result), side) in commands.iter().zip(&results).zip(&sides) {
        if result.is_err() {
            continue;
        }
        match command {
            Add => {
                assert!(newest.contains_key(Path::new(&format!("add-{}/noise", side.name))), "{what}: what was added")
            }
            Remove => {
                assert!(!newest.contains_key(Path::new(&format!("base/{}", side.name))), "{what}: what was removed")
            }
            // A new master key leaves one password alone.
            KeyAdd | KeyPasswd if rekeyed => {}
            KeyAdd | KeyPasswd | Rekey => {
                assert!(opened.iter().any(|(word, _)| *word == side.password), "{what}: the new password");
            }
            Extract => {
                let out = side.out.path(side.name).join("base/stays");
                assert_eq!(std::fs::read(out).unwrap(), text(7, 20_000), "{what}");
            }
            List | Verify | Compact | CompactLast => {}
        }
    }
    assert!(newest.contains_key(Path::new("base/stays")), "{what}");
    let kept = vault.snapshots().unwrap().len();
    let drops = |command: &Command| *command == CompactLast;
    let makes = |command: &Command| matches!(command, Add | Remove);
    let made = commands.iter().zip(&results).filter(|(command, result)| makes(command) && result.is_ok()).count();
    match commands.iter().zip(&results).any(|(command, result)| drops(command) && result.is_ok()) {
        true => assert!((1..=1 + made).contains(&kept), "{what}: {kept} snapshots"),
        false => assert_eq!(kept, 2 + made, "{what}"),
    }
    assert_sound(vault);
    assert!(entries(vault, None).unwrap().len() >= 3, "{what}");
    let left: Vec<_> = std::fs::read_dir(place.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["v.flint"], "{what}");
}

#[test]
fn an_add_that_waits_behind_a_new_master_key_goes_on_with_the_same_password() {
    within(60, || {
        let place = Tree::new();
        let path = original(&place);
        let side = Side::new("left");
        // As the program opens it, which may have to make it.
        let adds = vault_at(&path);
        let rekeys = Vault::open(&path, &password()).unwrap();
        rekeys.rekey(&password(), &key_options(), &()).unwrap();
        run(Add, &adds, &side).unwrap();
        let vault = Vault::open(&path, &password()).unwrap();
        assert!(contents(&vault, None).unwrap().contains_key(Path::new("add-left/noise")));
        // With another password it is told so.
        vault.rekey(&Password::new("another"), &key_options(), &()).unwrap();
        assert_eq!(run(Add, &adds, &side).unwrap_err().error.kind(), ErrorKind::WrongPassword);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(run(Add, &vault, &side).unwrap_err().error.kind(), ErrorKind::NoVault);
    });
}

#[test]
fn any_two_commands_may_run_at_once() {
    within(280, || {
        let place = Tree::new();
        let original = original(&place);
        let mut pairs = 0;
        for left in ALL {
            for right in ALL {
                for lead in [0, 3, 12].map(Duration::from_millis) {
                    pair(left, right, &original, lead);
                    pairs += 1;
                }
            }
        }
        eprintln!("{pairs} pairs of commands");
    });
}
