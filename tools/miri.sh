#!/usr/bin/env bash
# Is there undefined behaviour in what Miri can interpret? The unit tests of keys and ciphers, of the format's
# structures, of buffers, numbers and patterns, and of the engine's channels, permits and stops, under nightly Miri: this
# crate and what it calls of others, with every pointer, borrow and initialisation checked.
#
#   tools/miri.sh            all of it, in two processes beside each other; some ten minutes on two cores
#   tools/miri.sh FILTER..   the tests with these in their names, also those that are left out below
#
# Needs nightly Rust with miri and rust-src. Everything is a thousand times slower there, so random cases are few.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Temporary directories and time limits want the system's.
export MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS-}"
export PROPTEST_CASES=${PROPTEST_CASES:-2}

# Two halves of about the same length. Not here: `stages` and the rest of `primitives`, whose tests are about files,
# locks, mappings and processes, by calls of Linux that Miri has not, or has in part (its `statx` leaves fields unwritten
# that the kernel fills, and says that reading them is undefined); and `latency`, for its histograms, of which below.
readonly BYTES=(crypto:: format::entry:: format::layout:: format::header::tests::the_root format::header::tests::roots
    format::header::tests::a_root format::keyslot::tests::the_password format::record::)
readonly WORK=(engine:: format::merge:: format::tree:: primitives::glob:: primitives::pool:: primitives::units::)

readonly LEFT_OUT=(
    # Asks git.
    glob::tests::git_answers
    # zstd is C.
    record::tests::a_frame_ record::tests::metadata_ record::tests::the_highest_level
    record::tests::random_bytes_are_never
    # 16 MiB.
    record::tests::the_longest_record
    # Argon2 at any cost; the vector of RFC 9106, with 32 KiB, takes minutes.
    argon2id_passes a_stretched_key
    # Hundreds of records, or thousands of blocks of AES without its instructions.
    a_wrapped_key_opens what_was_sealed_opens_at_every_edge keys_follow_the_vault
    # Whole runs, on a file system.
    engine::add::
    # A histogram of latencies is an array of 180 KiB, made for each of 96 workers: ten seconds each.
    whichever_stage_fails
    # Tens of thousands of items and extents, or a tree for each of its blocks.
    tree::tests::an_entry_with_many_extents tree::tests::what_was_written tree::tests::blocks_that
    # A pattern that would take for ever if it were matched badly.
    glob::tests::many_stars
    # Thousands of names, each compared with all others.
    nearest::tests::a_slip nearest::tests::what_lies_deeper
)

# Runs the tests with these in their names.
check() {
    cargo +nightly miri test --locked --quiet --lib --no-default-features -- --format=pretty "$@"
}

if (($# > 0)); then
    check "$@"
    exit
fi
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/flint-pipe-miri.XXXXXX")
trap 'rm -rf -- "$scratch"' EXIT
# Once, and not in both at the same time.
cargo +nightly miri setup
check "${BYTES[@]}" "${LEFT_OUT[@]/#/--skip=}" >"$scratch/bytes" 2>&1 &
status=0
check "${WORK[@]}" "${LEFT_OUT[@]/#/--skip=}" || status=$?
wait $! || status=$?
cat "$scratch/bytes"
exit "$status"
