//! How do records whose places are known become writes of whole blocks, though they come in any order? Each is copied into the
//! blocks that it lies in, and who makes a block full writes it in one call.
//!
//! Such writes can go around the page cache (docs/adr/0011). [`Staging`](crate::engine::staging) does the same where a record's
//! place is decided when it is written.
//!
//! ```text
//! places    │ record 7 ──│────── 8 ────│── 9 ─│
//! blocks    │     full ▶ written   │  open: 8 is not there yet   │
//! ```
//!
//! Every byte between the beginning and the end is covered by exactly one record and the padding behind it, so a block is full when
//! as many bytes have come as it has. Memory: a block is open only while a record of it is under way, or is the next to be handed
//! out; a record under way lies in a few blocks of half a buffer's length, and its permit has a second buffer for those.
//!
//! Blocks hold ciphertext only.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::write_behind::WriteBehind;
use crate::error::{Error, FileOp, Result};
use crate::format::record::{RECORD_ALIGNMENT, align_up};
use crate::primitives::direct::{DIRECT_BLOCK, DIRECT_LEN};
use crate::primitives::pool::{BufferPool, PooledBuf};
use crate::stages::transfer::PlacedSink;

/// The blocks of a range of a file that is new there.
pub(super) struct Assembly<'w> {
    out: &'w WriteBehind,
    pool: BufferPool,
    block_len: u64,
    from: u64,
    end: u64,
    /// More blocks than this are never open at once.
    most_open: u64,
    open: Mutex<HashMap<u64, Arc<Mutex<Block>>>>,
}

struct Block {
    buf: PooledBuf,
    /// Bytes that are still to come.
    missing: u64,
}

impl<'w> Assembly<'w> {
    /// - `from`, `end`: the range; `from` is a multiple of 4 KiB.
    /// - `buffer_len`: the length of the buffer that each record under way has beside its own.
    /// - `under_way`: the most records that are under way at once.
    pub(super) fn new(out: &'w WriteBehind, from: u64, end: u64, buffer_len: u64, under_way: u64) -> Self {
        let half = usize::try_from(buffer_len / 2).unwrap_or(usize::MAX).min(DIRECT_LEN);
        let block_len = (half - half % DIRECT_BLOCK).max(DIRECT_BLOCK);
        let pool = BufferPool::new(block_len);
        // A record and its frame reach into three blocks at most; beside those there is the one that the next will go on in.
        let most_open = 3 * under_way + 1;
        Self { out, pool, block_len: block_len as u64, from, end, most_open, open: Mutex::default() }
    }

    /// What of a block lies within the range: its beginning and its end in the file.
    fn bounds(&self, number: u64) -> (u64, u64) {
        let at = number * self.block_len;
        (at.max(self.from), (at + self.block_len).min(self.end))
    }

    /// An open block, which is opened if it is not.
    fn block(&self, number: u64) -> Result<Arc<Mutex<Block>>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open_before = open.len();
        Ok(match open.entry(number) {
            Entry::Occupied(block) => Arc::clone(block.get()),
            Entry::Vacant(place) => {
                let buf = self.pool.take().map_err(|error| Error::io(FileOp::Allocate, "a buffer", error))?;
                let (from, end) = self.bounds(number);
                let is_bounded = (open_before as u64) < self.most_open;
                debug_assert!(
                    is_bounded,
                    "{open_before} blocks are open, of which records under way account for fewer"
                );
                Arc::clone(place.insert(Arc::new(Mutex::new(Block { buf, missing: end - from }))))
            }
        })
    }

    /// Puts bytes and the padding behind them into a block; writes it if that was all that was missing.
    fn fill(&self, number: u64, bytes: &[u8], padding: usize, offset: u64) -> Result<()> {
        let block = self.block(number)?;
        let is_full = {
            let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
            let at = usize::try_from(offset - number * self.block_len).expect("within a block");
            let room = &mut block.buf.whole_mut()[at..at + bytes.len() + padding];
            let (record, rest) = room.split_at_mut(bytes.len());
            record.copy_from_slice(bytes);
            rest.fill(0);
            block.missing -= (bytes.len() + padding) as u64;
            block.missing == 0
        };
        if !is_full {
            return Ok(());
        }
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, end) = self.bounds(number);
        let within = |offset: u64| usize::try_from(offset - number * self.block_len).expect("within a block");
        block.buf.set_len(within(end));
        // The last block may end anywhere; only whole pages go around the cache.
        let whole = (end - end % DIRECT_BLOCK as u64).max(from);
        for (from, end) in [(from, whole), (whole, end)] {
            if from < end {
                self.out.put(&block.buf.as_slice()[within(from)..within(end)], from)?;
            }
        }
        Ok(())
    }

    /// Whether everything has come, and was written.
    pub(super) fn is_complete(&self) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl PlacedSink for Assembly<'_> {
    fn put(&self, framed: &[u8], offset: u64) -> Result<()> {
        let len = framed.len() as u64;
        let padded = align_up(len, RECORD_ALIGNMENT).expect("a record is shorter than 2^32 bytes");
        let (mut at, end) = (offset, offset + padded);
        while at < end {
            let number = at / self.block_len;
            let until = end.min((number + 1) * self.block_len);
            let from = usize::try_from((at - offset).min(len)).expect("within the record");
            let to = usize::try_from((until - offset).min(len)).expect("within the record");
            let padding = usize::try_from(until - at).expect("within a block") - (to - from);
            self.fill(number, &framed[from..to], padding, at)?;
            at = until;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;

    use super::*;
    use crate::primitives::storage::FileStorage;

    #[test]
    fn records_in_any_order_end_where_they_belong_and_what_lies_between_is_zero() {
        // Lengths around a block of 8 KiB, and around padding; the places follow each other.
        let lens = [1, 63, 64, 65, 8191, 8192, 8193, 20_000, 100, 3];
        let mut places = Vec::new();
        let mut end = 4096;
        for (number, len) in (1_u8..).zip(lens) {
            places.push((end, vec![number; len]));
            end += align_up(len as u64, RECORD_ALIGNMENT).unwrap();
        }
        for turn in 0..places.len() {
            for is_backwards in [false, true] {
                let file = tempfile::tempfile_in("/var/tmp").unwrap();
                file.set_len(end).unwrap();
                file.write_all_at(&vec![0xff; usize::try_from(end).unwrap()], 0).unwrap();
                let out = WriteBehind::new(Arc::new(FileStorage::new(file.try_clone().unwrap())), Path::new("v"));
                let assembly = Assembly::new(&out, 4096, end, 16 << 10, 100);
                let mut order = places.clone();
                order.rotate_left(turn);
                if is_backwards {
                    order.reverse();
                }
                for (at, (offset, bytes)) in order.iter().enumerate() {
                    assert_eq!(assembly.is_complete(), at == 0);
                    assembly.put(bytes, *offset).unwrap();
                }
                assert!(assembly.is_complete());
                let mut expected = vec![0; usize::try_from(end).unwrap()];
                expected[..4096].fill(0xff);
                for (offset, bytes) in &places {
                    let at = usize::try_from(*offset).unwrap();
                    expected[at..at + bytes.len()].copy_from_slice(bytes);
                }
                let mut found = vec![0; expected.len()];
                file.read_exact_at(&mut found, 0).unwrap();
                assert!(found == expected, "turn {turn}, backwards: {is_backwards}");
            }
        }
    }

    #[test]
    fn from_many_threads_it_is_the_same() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        let len = 700_u64;
        let padded = align_up(len, RECORD_ALIGNMENT).unwrap();
        let count = 4000_u64;
        let out = WriteBehind::new(Arc::new(FileStorage::new(file.try_clone().unwrap())), Path::new("v"));
        let assembly = Assembly::new(&out, 0, count * padded, 64 << 10, 100);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let assembly = &assembly;
                scope.spawn(move || {
                    for number in (worker..count).step_by(4) {
                        let byte = u8::try_from(number % 251).unwrap();
                        assembly.put(&vec![byte; usize::try_from(len).unwrap()], number * padded).unwrap();
                    }
                });
            }
        });
        assert!(assembly.is_complete());
        let mut found = vec![0; usize::try_from(count * padded).unwrap()];
        file.read_exact_at(&mut found, 0).unwrap();
        for (number, record) in (0_u64..).zip(found.chunks(usize::try_from(padded).unwrap())) {
            let (bytes, rest) = record.split_at(usize::try_from(len).unwrap());
            assert!(bytes.iter().all(|&byte| u64::from(byte) == number % 251), "{number}");
            assert!(rest.iter().all(|&byte| byte == 0), "{number}");
        }
    }
}
