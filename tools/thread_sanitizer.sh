#!/usr/bin/env bash
# Do two threads ever use the same memory unordered? ThreadSanitizer over what starts threads, stops them and bounds
# them: the unit tests of channels, permits, stops and buffers, and the behaviour of cancelled and failing runs, of slow
# disks and of runs beside each other.
#
#   tools/thread_sanitizer.sh           all of it; half an hour on two cores, a third of it to build
#   tools/thread_sanitizer.sh FILTER..  the behaviour tests with these in their names, and no unit tests
#
# Needs nightly Rust with rust-src, since the standard library is built with the checker, too; and gcc or clang, whose
# -fsanitize=thread calls the same runtime, for zstd. Nothing is suppressed: what is reported is a race, and ends the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TARGET=x86_64-unknown-linux-gnu
# Apart from what other builds have made, which is of no use here.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/thread-sanitizer
export RUSTFLAGS=-Zsanitizer=thread
export CFLAGS_x86_64_unknown_linux_gnu=-fsanitize=thread
# The tests' time limits are for what runs ten times as fast.
export FLINT_TEST_PATIENCE=${FLINT_TEST_PATIENCE:-10}
export TSAN_OPTIONS="halt_on_error=1 ${TSAN_OPTIONS-}"

readonly UNITS=(engine::pipeline engine::budget engine::cancel engine::locks engine::add primitives::pool
    stages::pack::scan)
readonly BEHAVIOURS=(cancellation:: backpressure:: concurrent:: interleaved:: determinism::)
readonly LEFT_OUT=(
    # Memory of this process against a promise in bytes: the checker takes several times as much for itself.
    stays_under_the_memory_that_was_promised do_not_pile_up_behind_a_stalled_chunk
    # Eight threads that have to come to the same 20 ms: under the checker they do not.
    as_many_writes_are_under_way
)

# Runs a test binary ($1: --lib, or --test NAME) with the arguments for it.
check() {
    local binary=$1
    shift
    # shellcheck disable=SC2086 # two words
    cargo +nightly test --locked -Zbuild-std --target "$TARGET" $binary -- --test-threads=2 "$@"
}

if (($# > 0)); then
    check '--test behaviour' "$@"
    exit
fi
check --lib "${UNITS[@]}"
check '--test behaviour' "${BEHAVIOURS[@]}" "${LEFT_OUT[@]/#/--skip=}"
