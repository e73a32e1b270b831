//! How do records of any length become writes of whole blocks? They are copied, one behind the other, into blocks of memory
//! that stand for stretches of the file, and a block that is full is written in one call.
//!
//! Such writes can go around the page cache (`Storage::preferred_write_len`); docs/adr/0011 has what that is worth.
//!
//! ```text
//! worker 1 ─ record ─┐ turn                      ┌─▶ written by the worker that filled it, without the turn
//! worker 2 ─ record ─┴─▶ block being filled ─ full ┘       │
//!                              ▲                           ▼
//!                              └────────── spare blocks ◀──┘
//! ```
//!
//! Who has the turn takes a place in the file and copies its record there, so records lie in the file in the order of turns.
//! There are so many blocks and no more: a worker that needs one while all are under way waits for it, and all that are under way
//! come back, since to write one takes no turn; a worker that has filled one itself and finds no other writes it at once and goes on
//! in it. What is in the block being filled is in no file yet:
//! [`Staging::flush`] writes that, and has to come before every sync.
//!
//! Blocks hold ciphertext only.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, FileOp, Result};
use crate::format::record::RECORD_ALIGNMENT;
use crate::primitives::direct::DIRECT_BLOCK;
use crate::primitives::pool::{BufferPool, PooledBuf};

/// Writes a piece to a place in the file.
pub(crate) type Put<'p> = &'p dyn Fn(&[u8], u64) -> Result<()>;

/// The blocks of one segment.
pub(crate) struct Staging {
    /// The block being filled. Held while a place is taken and a record is copied; never while a block is written, unless there is no spare one.
    turn: Mutex<Option<Block>>,
    /// Blocks that nobody fills or writes. The last one given back is the first one taken, so what is not needed is not touched.
    spare: Mutex<Vec<PooledBuf>>,
    given_back: Condvar,
}

/// Memory for the stretch of the file that begins at `at`, a multiple of [`DIRECT_BLOCK`].
struct Block {
    buf: PooledBuf,
    at: u64,
    /// What of it is filled.
    from: usize,
    to: usize,
}

impl Staging {
    /// - `blocks`: how many there are; at least 1.
    /// - `block_len`: how long each is, in bytes; a multiple of 4 KiB.
    pub(crate) fn new(blocks: usize, block_len: usize) -> Result<Self> {
        let pool = BufferPool::new(block_len.next_multiple_of(DIRECT_BLOCK).max(DIRECT_BLOCK));
        // Memory that nobody touches is none.
        let spare: std::io::Result<_> = (0..blocks.max(1)).map(|_| pool.take()).collect();
        let spare = spare.map_err(|error| Error::io(FileOp::Allocate, "a buffer", error))?;
        Ok(Self { turn: Mutex::default(), spare: Mutex::new(spare), given_back: Condvar::new() })
    }

    /// Takes a place for `record` and copies it to where that will be; blocks that are full by then are written.
    ///
    /// - `place`: takes the place; called with the turn held, so places come in the order of records.
    pub(crate) fn write(&self, record: &[u8], place: impl FnOnce() -> Result<u64>, put: Put<'_>) -> Result<u64> {
        let mut filling = self.turn();
        let at = place()?;
        let mut full = Vec::new();
        if let Some(block) = filling.take_if(|block| !block.goes_on_at(at)) {
            full.push(self.lent(block));
        }
        let (mut rest, mut offset) = (record, at);
        while !rest.is_empty() {
            let mut block = match filling.take() {
                Some(block) => block,
                None => Block::at(offset, self.spare_block(&mut full, put)?),
            };
            let copied = block.fill(rest, offset);
            (rest, offset) = (&rest[copied..], offset + copied as u64);
            if block.is_full() {
                full.push(self.lent(block));
            } else {
                *filling = Some(block);
            }
        }
        drop(filling);
        full.into_iter().try_for_each(|lent| lent.write(put))?;
        Ok(at)
    }

    /// Writes what was not written yet. What others are just writing is not waited for: their calls are.
    pub(crate) fn flush(&self, put: Put<'_>) -> Result<()> {
        let block = self.turn().take();
        block.map_or(Ok(()), |block| self.lent(block).write(put))
    }

    /// Lets go of what was not written yet.
    pub(crate) fn forget(&self) {
        let block = self.turn().take();
        drop(block.map(|block| self.lent(block)));
    }

    fn turn(&self) -> MutexGuard<'_, Option<Block>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block to fill: a spare one, or one that was filled just now and is written for it.
    fn spare_block(&self, full: &mut Vec<Lent<'_>>, put: Put<'_>) -> Result<PooledBuf> {
        if let Some(buf) = self.spare().pop() {
            return Ok(buf);
        }
        if let Some(lent) = full.pop() {
            lent.write(put)?;
        }
        let mut spare = self.spare();
        loop {
            match spare.pop() {
                Some(buf) => return Ok(buf),
                None => spare = self.given_back.wait(spare).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<PooledBuf>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lent(&self, block: Block) -> Lent<'_> {
        Lent { block: Some(block), staging: self }
    }
}

impl Block {
    fn at(offset: u64, buf: PooledBuf) -> Self {
        let at = offset - offset % DIRECT_BLOCK as u64;
        let from = usize::try_from(offset - at).expect("below a block");
        Self { buf, at, from, to: from }
    }

    /// Whether what lies at `offset` follows what is in it: right behind, or behind padding.
    fn goes_on_at(&self, offset: u64) -> bool {
        let end = self.at + self.to as u64;
        (end..end + u64::from(RECORD_ALIGNMENT)).contains(&offset)
    }

    /// Copies as much as there is room for; what lies between two records reads as zeros, as in a file that is new there.
    fn fill(&mut self, bytes: &[u8], offset: u64) -> usize {
        let len = self.buf.capacity();
        let start = usize::try_from(offset - self.at).unwrap_or(len).min(len);
        let end = len.min(start + bytes.len());
        self.buf.set_len(end);
        let (padding, record) = self.buf.as_mut_slice()[self.to..].split_at_mut(start - self.to);
        padding.fill(0);
        record.copy_from_slice(&bytes[..end - start]);
        self.to = end;
        end - start
    }

    fn is_full(&self) -> bool {
        self.to == self.buf.capacity()
    }
}

/// A block that is to be written or let go; its memory goes back to the others either way.
struct Lent<'s> {
    /// `None` only while it is being dropped.
    block: Option<Block>,
    staging: &'s Staging,
}

impl Lent<'_> {
    /// Writes the whole blocks of the system in one call, and what lies before and behind them apart.
    fn write(mut self, put: Put<'_>) -> Result<()> {
        let block = self.block.as_mut().expect("taken in drop only");
        block.buf.set_len(block.to);
        let bytes = block.buf.as_slice();
        let first = block.from.next_multiple_of(DIRECT_BLOCK).min(block.to);
        let last = (block.to - block.to % DIRECT_BLOCK).max(first);
        for (from, to) in [(block.from, first), (first, last), (last, block.to)] {
            if from < to {
                put(&bytes[from..to], block.at + from as u64)?;
            }
        }
        Ok(())
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.staging.spare().push(block.buf);
            self.staging.given_back.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const BLOCK: usize = 4 * DIRECT_BLOCK;

    /// A file in memory, and the writes that made it.
    #[derive(Default)]
    struct Disk(Mutex<(Vec<u8>, Vec<Span>)>);

    /// Where a write went, and how long it was.
    type Span = (u64, usize);

    impl Disk {
        fn put(&self, bytes: &[u8], at: u64) -> Result<()> {
            let mut disk = self.0.lock().unwrap();
            let start = usize::try_from(at).unwrap();
            let end = start + bytes.len();
            let len = disk.0.len().max(end);
            disk.0.resize(len, 0);
            disk.0[start..end].copy_from_slice(bytes);
            disk.1.push((at, bytes.len()));
            Ok(())
        }
    }

    /// Records of many lengths, one behind the other in places that are multiples of 64, with a jump now and then.
    fn places(first: u64, count: u64) -> Vec<(u64, Vec<u8>)> {
        let (mut at, mut random) = (first, 1_u64);
        (0..count)
            .map(|number| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let len =
                    usize::try_from(random >> 33).unwrap() % (3 * BLOCK) / if number % 3 == 0 { 1 } else { 50 } + 1;
                if number % 17 == 16 {
                    at += 100_032;
                }
                let place = at;
                at = (at + len as u64).next_multiple_of(64);
                (place, vec![u8::try_from(number % 255).unwrap() + 1; len])
            })
            .collect()
    }

    #[test]
    fn every_record_lands_where_it_was_told_to_whatever_lies_between() {
        for first in [0, 64, 4096, 65_536 + 256, BLOCK as u64 - 64] {
            for blocks in [1, 2, 5] {
                let (disk, staging) = (Disk::default(), Staging::new(blocks, BLOCK).unwrap());
                let put = |bytes: &[u8], at| disk.put(bytes, at);
                let places = places(first, 60);
                let mut expected = Vec::new();
                for (at, record) in &places {
                    assert_eq!(staging.write(record, || Ok(*at), &put).unwrap(), *at);
                    let start = usize::try_from(*at).unwrap();
                    expected.resize(start + record.len(), 0);
                    expected[start..].copy_from_slice(record);
                }
                staging.flush(&put).unwrap();
                let disk = disk.0.into_inner().unwrap();
                assert!(disk.0 == expected, "first {first}, {blocks} blocks");
                // What has whole pages in it is written in whole pages, all else is shorter than one.
                let is_whole = |&(at, len): &Span| at % 4096 == 0 && len % 4096 == 0 || len < 4096;
                assert!(disk.1.iter().all(is_whole), "{:?}", disk.1);
                staging.flush(&|_, _| panic!("there is nothing left")).unwrap();
            }
        }
    }

    #[test]
    fn many_workers_and_few_blocks_get_everything_written() {
        let (disk, staging, cursor) = (Disk::default(), Staging::new(3, BLOCK).unwrap(), AtomicU64::new(256));
        let put = |bytes: &[u8], at| {
            // So that blocks are under way while others want some.
            std::thread::yield_now();
            disk.put(bytes, at)
        };
        let (start, written) = (Barrier::new(8), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for worker in 1_u8..=8 {
                let (staging, cursor, put, start, written) = (&staging, &cursor, &put, &start, &written);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..40_usize {
                        let record = vec![worker; 100 + round * 977 % (2 * BLOCK)];
                        let len = (record.len() as u64).next_multiple_of(64);
                        let place = || Ok(cursor.fetch_add(len, Ordering::Relaxed));
                        let at = staging.write(&record, place, put).unwrap();
                        written.lock().unwrap().push((at, record));
                    }
                });
            }
        });
        staging.flush(&put).unwrap();
        let disk = disk.0.into_inner().unwrap().0;
        for (at, record) in written.into_inner().unwrap() {
            let start = usize::try_from(at).unwrap();
            assert!(disk[start..start + record.len()] == record[..], "at {at}");
        }
        assert_eq!(staging.spare().len(), 3, "every block is back");
    }

    #[test]
    fn a_failing_write_is_told_and_costs_no_block() {
        let staging = Staging::new(2, BLOCK).unwrap();
        let full = |_: &[u8], _| Err(Error::io(FileOp::Write, "vault", std::io::ErrorKind::StorageFull));
        for round in 0..5 {
            assert!(staging.write(&vec![1; 3 * BLOCK], || Ok(round * 64), &full).is_err());
        }
        assert!(staging.write(&[1], || Err(Error::Interrupted), &full).is_err(), "no place, no record");
        staging.write(&[1; 100], || Ok(1 << 20), &full).unwrap();
        staging.forget();
        staging.flush(&full).unwrap();
        assert_eq!(staging.spare().len(), 2);
    }
}
