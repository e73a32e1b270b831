//! Whatever stands in index blocks and commit records: no panic, no path that leads up, entries in their order, and who
//! looks for a path finds what who reads everything finds.

#![no_main]

use flint_pipe::internals::{metadata, trees};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&way, bytes)) = bytes.split_first() else { return };
    if way % 8 < 6 {
        return metadata(way % 8, bytes);
    }
    // Blocks, each behind its length; the first of them are heads of trees.
    let heads = usize::from(way >> 3) % 4 + 1;
    let mut blocks = Vec::new();
    let mut rest = bytes;
    while let Some((len, behind)) = rest.split_first_chunk() {
        let (block, behind) = behind.split_at(behind.len().min(usize::from(u16::from_le_bytes(*len))));
        blocks.push(block.to_vec());
        rest = behind;
    }
    trees(blocks, heads);
});
