//! A part of the data can be checked, chosen anew each time; and what the file's bytes are for can be told.

use flint_pipe::{Error, Failed, RemoveOptions, VerifyOptions};

use crate::support::disk::Disk;
use crate::support::tree::{Tree, noise};
use crate::support::{add, assert_sound, vault_in, within};

fn subset(percent: f64) -> VerifyOptions {
    let mut options = VerifyOptions::default();
    options.read_data_subset = Some(percent);
    options
}

#[test]
fn a_tenth_of_the_data_is_a_tenth_of_the_reading_and_another_tenth_each_time() {
    within(60, || {
        let tree = Tree::new();
        tree.file("large", noise(1, 40 * (256 << 10)));
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        add(&vault, tree.root(), &["large"]);
        let whole = assert_sound(&vault).stored_size;
        let part = vault.verify(&subset(10.0), &()).unwrap();
        assert!(part.is_complete() && part.stored_size < whole / 8, "{} of {whole}", part.stored_size);
        assert!(part.notes.iter().any(|note| note.contains("4 of 40 data records")), "{:?}", part.notes);
        assert_eq!(vault.verify(&subset(100.0), &()).unwrap().stored_size, whole);

        // One damaged record of forty is found sooner or later, and not every time.
        disk.flip(disk.bytes().unwrap().len() / 2, 1);
        let found = (0..200).filter(|_| vault.verify(&subset(25.0), &()).unwrap().is_damaged()).count();
        assert!((1..200).contains(&found), "{found} of 200");
    });
}

#[test]
fn a_share_that_is_none_is_wrong_usage() {
    within(60, || {
        let tree = Tree::new();
        tree.file("f", "1");
        let vault = vault_in(Disk::new().dir());
        add(&vault, tree.root(), &["f"]);
        for percent in [0.0, -1.0, 100.5, f64::NAN] {
            let refused = vault.verify(&subset(percent), &());
            assert!(matches!(refused, Err(Failed { error: Error::Usage(_), .. })), "{percent}: {refused:?}");
        }
    });
}

#[test]
fn every_byte_of_the_file_is_for_something_or_for_nothing() {
    within(60, || {
        let tree = Tree::new();
        tree.file("large", noise(1, 1_000_000));
        tree.file("small", noise(2, 100_000));
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        add(&vault, tree.root(), &["large"]);
        add(&vault, tree.root(), &["small"]);
        let before = vault.usage().unwrap();
        assert!(before.newest_data > 1_100_000 && before.older_data == 0, "{before:?}");

        vault.remove(&["large".into()], &RemoveOptions::default(), &()).unwrap();
        let after = vault.usage().unwrap();
        assert!((100_000..110_000).contains(&after.newest_data), "{after:?}");
        assert_eq!(after.newest_data + after.older_data, before.newest_data);
        let sum = after.newest_data + after.older_data + after.index + after.headers + after.unreferenced;
        assert_eq!((sum, after.file_size), (disk.bytes().unwrap().len() as u64, sum));
        assert_eq!(Some(after.unreferenced), assert_sound(&vault).unreferenced_bytes);
    });
}
