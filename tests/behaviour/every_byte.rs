//! Is there a byte of a vault that can be changed, or a record that can be put elsewhere, without anybody noticing what
//! matters? All of them, one after another; where one costs too much for every run, every so manieth, and all where
//! `FLINT_TEST_SCALE` is above 1.

use std::sync::atomic::{AtomicUsize, Ordering};

use flint_pipe::VerifyOptions;

use crate::damage::{EXTENTS, ROOT_A, ROOT_B, ROOT_LEN, Victim, assert_damage, records, reopen};
use crate::support::disk::Dice;
use crate::support::{contents, step, verify, within};

/// Does `work` for all numbers up to `count`, in two threads with a vault of their own each.
fn for_all(count: usize, work: impl Fn(&Victim, usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let victim = Victim::new();
                loop {
                    // A few at a time: which thread has which says nothing.
                    let from = next.fetch_add(64, Ordering::Relaxed);
                    if from >= count {
                        break;
                    }
                    (from..count.min(from + 64)).for_each(|number| work(&victim, number));
                }
            });
        }
    });
}

#[test]
fn every_byte_of_the_preamble_is_noticed_when_it_changes() {
    within(400, || {
        let mut options = VerifyOptions::default();
        options.quick = true;
        let stride = step(3);
        for_all(EXTENTS.div_ceil(stride), |victim, number| {
            // Neighbours take turns from one power of two to the next, so no range of reserved bytes is gone past.
            let at = (number * stride + number % stride).min(EXTENTS - 1);
            victim.disk.flip(at, 1 << (number % 8));
            let report = victim.vault.verify(&options, &()).unwrap_or_else(|failed| panic!("byte {at}: {failed:?}"));
            assert!(report.is_damaged(), "byte {at}");
            victim.disk.flip(at, 1 << (number % 8));
        });
    });
}

#[test]
fn no_change_of_a_byte_gives_a_wrong_byte_or_a_wrong_name() {
    within(400, || {
        let stride = step(11);
        let len = Victim::new().bytes.len() - EXTENTS + 2 * ROOT_LEN;
        for_all(len.div_ceil(stride), |victim, number| {
            let number = number * stride;
            let at = match number {
                _ if number < ROOT_LEN => ROOT_A + number,
                _ if number < 2 * ROOT_LEN => ROOT_B + number - ROOT_LEN,
                // Two vaults of one content need not be of one length, to the byte.
                _ => (EXTENTS + number - 2 * ROOT_LEN).min(victim.bytes.len() - 1),
            };
            for bits in [0x01, 0x80, 0xff] {
                victim.disk.flip(at, bits);
                victim.use_it(&victim.vault, &format!("byte {at} ^ {bits:#x}"));
                victim.heal();
            }
        });
    });
}

#[test]
fn every_record_in_every_others_place_is_noticed() {
    within(170, || {
        let victim = Victim::new();
        let records = records(&victim.bytes);
        assert!(records.len() >= 10, "{records:?}");
        let mut pairs = 0;
        for (number, &(one, one_len)) in records.iter().enumerate() {
            for &(two, two_len) in &records[number + 1..] {
                pairs += 1;
                // As much of each as there is room for: of unlike lengths, the longer one is cut.
                let len = one_len.min(two_len);
                let mut swapped = victim.bytes.clone();
                swapped[one..one + len].copy_from_slice(&victim.bytes[two..two + len]);
                swapped[two..two + len].copy_from_slice(&victim.bytes[one..one + len]);
                victim.disk.set_bytes(&swapped);
                let what = format!("records at {one} and {two} swapped");
                assert!(victim.use_it(&victim.vault, &what) || is_superseded(&victim, [one, two]), "{what}");
            }
        }
        assert!(pairs >= 45, "only {pairs} pairs");
        victim.heal();
    });
}

/// Whether nobody refers to either record: `verify` finds nothing wrong if both are gone.
fn is_superseded(victim: &Victim, places: [usize; 2]) -> bool {
    let mut bytes = victim.bytes.clone();
    places.into_iter().for_each(|at| bytes[at..at + 64].fill(0));
    victim.disk.set_bytes(&bytes);
    verify(&victim.vault).is_ok_and(|report| !report.is_damaged())
}

#[test]
fn no_record_of_another_vault_of_the_same_password_is_taken() {
    within(170, || {
        let (victim, other) = (Victim::new(), Victim::new());
        let (own, others) = (records(&victim.bytes), records(&other.bytes));
        let mut spliced = 0;
        for &(at, len) in &own {
            for &(from, other_len) in &others {
                if victim.bytes[at + 5] != other.bytes[from + 5] {
                    continue; // of another kind
                }
                spliced += 1;
                let mut bytes = victim.bytes.clone();
                let len = len.min(other_len);
                bytes[at..at + len].copy_from_slice(&other.bytes[from..from + len]);
                victim.disk.set_bytes(&bytes);
                let what = format!("record at {at} from another vault's {from}");
                assert!(victim.use_it(&victim.vault, &what) || is_superseded(&victim, [at, at]), "{what}");
            }
        }
        assert!(spliced >= 20, "only {spliced} records of one kind");
        victim.heal();
    });
}

#[test]
fn older_roots_that_are_put_back_give_one_of_the_two_states_and_nothing_between() {
    within(60, || {
        let victim = Victim::new();
        for roots in [&[ROOT_A][..], &[ROOT_B], &[ROOT_A, ROOT_B]] {
            let mut bytes = victim.bytes.clone();
            for &root in roots {
                bytes[root..root + ROOT_LEN].copy_from_slice(&victim.older[root..root + ROOT_LEN]);
            }
            victim.disk.set_bytes(&bytes);
            let vault = reopen(&victim.disk).unwrap();
            let found = contents(&vault, None).unwrap();
            // One old root of two is what a crash leaves; both are the documented rollback.
            let expected = if roots.len() == 2 { &victim.first } else { &victim.newest };
            assert!(found == *expected, "roots at {roots:?}");
            assert!(verify(&vault).is_ok_and(|report| !report.is_damaged()), "roots at {roots:?}");
            // Beside a commit record that is damaged, an old root is no way back to the old state.
            let commit = usize::try_from(u64::from_le_bytes(bytes[ROOT_A + 40..ROOT_A + 48].try_into().unwrap()));
            bytes[commit.unwrap() + 70] ^= 1;
            victim.disk.set_bytes(&bytes);
            if roots != [ROOT_A] {
                assert_damage(&contents(&vault, None).unwrap_err(), "a damaged commit record");
            }
        }
        victim.heal();
    });
}

#[test]
fn every_byte_is_thrown_at_a_password() {
    within(400, || {
        // Each costs a key derivation or two.
        let victim = Victim::new();
        let mut dice = Dice(3);
        for at in (0..EXTENTS).step_by(step(997)) {
            victim.disk.flip(at, 1 << dice.below(8));
            let vault = reopen(&victim.disk).unwrap_or_else(|error| panic!("byte {at}: {error:?}"));
            assert!(contents(&vault, None).unwrap() == victim.newest, "byte {at}");
            victim.heal();
        }
    });
}
