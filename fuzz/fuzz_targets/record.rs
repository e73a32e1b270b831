//! Whatever stands where a record belongs, sealed by nobody or by somebody hostile: no panic, nothing opens that was not
//! sealed, and a frame unpacks within its limits or not at all.

#![no_main]

use std::sync::LazyLock;

use flint_pipe::internals::{Records, unpack};

static RECORDS: LazyLock<Records> = LazyLock::new(|| Records::new().expect("there are random numbers"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&way, bytes)) = bytes.split_first() else { return };
    match way % 4 {
        0 => RECORDS.open(bytes),
        1 => {
            if let Some((head, packed)) = bytes.split_first_chunk() {
                RECORDS.seal_and_open(head, packed);
            }
        }
        2 => {
            if let Some((len, packed)) = bytes.split_first_chunk() {
                unpack(packed, u32::from_le_bytes(*len));
            }
        }
        _ => RECORDS.there_and_back(bytes),
    }
});
