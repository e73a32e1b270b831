//! What a commit rests on: the order of its writes and syncs, acknowledged snapshots that stay, roots that are believed.
//! Power cuts at every moment are in `power_cuts.rs`, calls that fail in `disk_faults.rs`.

use flint_pipe::{Error, ErrorKind};

use crate::support::disk::media::Left;
use crate::support::disk::{Disk, Op};
use crate::support::scenes::files_of;
use crate::support::tree::{Tree, noise, text};
use crate::support::{
    Contents, add, add_with, assert_sound, contents, simple, snapshot_numbers, vault_in, verify, within,
};

fn tree(seed: u64) -> Tree {
    let tree = Tree::new();
    tree.file("d/text", text(seed, 20_000));
    tree.file("d/noise", noise(seed, 300_000));
    tree.file(format!("d/only {seed}"), "here");
    tree
}

#[test]
fn what_was_acknowledged_survives_any_later_cut_before_the_next_sync() {
    within(60, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let mut expected = Contents::new();
        for seed in 1..=20 {
            let sources = tree(seed);
            add(&vault, sources.root(), &["d"]);
            expected.extend(files_of(&sources));
            disk.power_cycle(match seed % 3 {
                0 => Left::Nothing,
                1 => Left::Some { seed },
                _ => Left::Everything,
            });
            assert!(contents(&vault, None).unwrap() == expected, "after add {seed}");
            assert_sound(&vault);
        }
        assert_eq!(snapshot_numbers(&vault).unwrap().len(), 20);
    });
}

#[test]
fn the_order_of_writes_and_syncs_is_that_of_the_format() {
    within(60, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let sources = tree(1);
        disk.breaks([]);
        add(&vault, sources.root(), &["d"]);
        let calls: Vec<Op> = disk
            .calls()
            .into_iter()
            .filter(|op| matches!(op, Op::Write | Op::Sync | Op::DirSync))
            .fold(Vec::new(), |mut runs, op| {
                if runs.last() != Some(&op) {
                    runs.push(op);
                }
                runs
            });
        // Data; sync; directory; commit record; sync; root; sync; second copy of the root.
        use Op::{DirSync, Sync, Write};
        assert_eq!(calls, [Write, Sync, DirSync, Write, Sync, Write, Sync, Write]);
    });
}

#[test]
fn a_commit_record_that_does_not_open_is_damage_and_never_a_step_back() {
    within(60, || {
        let disk = Disk::new();
        let vault = vault_in(disk.dir());
        let (first, second) = (tree(1), tree(2));
        add(&vault, first.root(), &["d"]);
        add(&vault, second.root(), &["d"]);
        let bytes = disk.bytes().unwrap();
        // Root A at 48 KiB and root B at 56 KiB; offset 40 has where the commit record is.
        let offset = u64::from_le_bytes(bytes[(48 << 10) + 40..(48 << 10) + 48].try_into().unwrap());
        disk.flip(usize::try_from(offset).unwrap() + 70, 1);
        for result in [contents(&vault, None), contents(&vault, Some(1))] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        }
        let failed = add_with(&vault, second.root(), &["d"], simple()).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Integrity);
        let failed = verify(&vault).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Integrity);
    });
}
