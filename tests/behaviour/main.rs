//! What flint-pipe promises, a module for each promise; seen from outside, through the library and the program.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the calls that clippy.toml names are for the program, whose errors need paths; here a panic says enough"
)]
#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

mod append;
mod backpressure;
mod bottleneck;
mod cancellation;
mod changing_sources;
mod checking;
mod compact;
mod concurrent;
mod crash_recovery;
mod damage;
mod determinism;
mod disk_faults;
mod every_byte;
mod extraction_race;
mod extraction_safety;
mod interleaved;
mod keys;
mod left_out;
mod mirror;
mod pairs;
mod power_cuts;
mod profiling;
mod recover;
mod rekey;
mod remove;
mod restore_options;
mod restore_rights;
mod rewriting;
mod roundtrip;
mod secrets;
mod sources;
mod strange_sources;
mod support;
mod unchanged;
