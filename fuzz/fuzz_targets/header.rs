//! Whatever stands where a header, a root, a segment header or a record header belongs: no panic, and what is accepted
//! is written again as it was read.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flint_pipe::internals::fixed_places(bytes));
