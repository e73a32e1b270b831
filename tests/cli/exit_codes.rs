//! Every exit code that the help promises, each produced here: a code without a way to come by it fails.

use std::collections::BTreeMap;
use std::time::Duration;

use flint_pipe::{FileStorage, Lock, LockMode, Storage as _};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Place, ended, first_line, status, stdout};

/// How to come by a code, in a place with the vault `v` of `d`; answers the code that came.
type Way = fn(&Place) -> i32;

/// A way for each code.
const WAYS: &[(i32, Way)] = &[
    (0, |place| status(&place.unlocked("list -v v"))),
    (1, |place| status(&place.unlocked("create -v v"))),
    (2, |place| status(&place.unlocked("list -v v --no-such-option"))),
    (3, |place| status(&place.unlocked("add -v v -s d -s missing"))),
    (10, |place| status(&place.unlocked("list -v missing"))),
    (11, |place| locked(place, |place| status(&place.unlocked("add -v v -s d --lock-timeout 0")))),
    (12, |place| {
        status(&place.command().env("FLINT_PASSWORD", "wrong").args(["list", "-v", "v"]).output().expect("it runs"))
    }),
    (13, |place| {
        place.file("v", &place.bytes("v")[..50_000]);
        status(&place.unlocked("list -v v"))
    }),
    // It has passed before anything is done.
    (14, |place| status(&place.unlocked("add -v v -s d --timeout 1ns"))),
    (130, |place| locked(place, interrupted_while_waiting)),
];

/// Does something while another process, as it seems, holds the vault's lock.
fn locked(place: &Place, then: Way) -> i32 {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(place.path("v")).expect("it is there");
    let other = FileStorage::new(file);
    assert!(other.try_lock(Lock::Presence, LockMode::Exclusive).expect("it can be locked"));
    then(place)
}

fn interrupted_while_waiting(place: &Place) -> i32 {
    let mut child = place.spawn("add -v v -s d");
    first_line(child.stderr.take().expect("it is piped"));
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is running");
    status(&ended(child, Duration::from_secs(60)))
}

#[test]
fn every_code_of_the_help_comes_in_its_own_way() {
    let help = stdout(&Place::new().run("--help"));
    let table = help.lines().skip_while(|line| *line != "Exit status:").skip(1);
    let promised: Vec<i32> = table.map_while(|line| line.split_whitespace().next()?.parse().ok()).collect();
    let ways: BTreeMap<i32, Way> = WAYS.iter().copied().collect();
    assert_eq!(promised, ways.keys().copied().collect::<Vec<_>>(), "the help and the ways to come by a code differ");
    for (code, way) in ways {
        assert_eq!(way(&Place::new().with_vault()), code);
    }
}
