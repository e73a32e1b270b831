//! Where do the bytes of a chunk live? In page-aligned buffers of one capacity, used again and again, wiped at the end.
//!
//! A buffer has room before its data for a record header and behind it for a tag, so that a record is sealed in place
//! and written in one call. There is no unsafe code here: the memory is an anonymous mapping, which begins as zeros, so
//! every byte of it is initialised at any time.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::{Advice, MmapMut};
use zeroize::Zeroize;

/// Bytes before the data of every buffer: one page, so that the data begins on a page of its own.
pub(crate) const HEAD_ROOM: usize = 4096;

/// Bytes behind the capacity of every buffer, enough for any AEAD tag.
pub(crate) const TAIL_ROOM: usize = 64;

/// The length of an AES-GCM tag.
const TAG_LEN: usize = 16;
const _: () = assert!(TAG_LEN <= TAIL_ROOM, "a tag fits behind a full buffer");

/// A pool of buffers of one capacity; clones are handles to the same pool.
///
/// The pool has no bound of its own: who takes a buffer holds a permit of the budget for it, and there are never more
/// buffers than were once held at the same time. With the last handle goes the pool; it wipes what lies in it, and the
/// buffers still held are wiped when they are dropped.
#[derive(Debug, Clone)]
pub(crate) struct BufferPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    /// The last one given back is the first one taken: its memory is the most likely to be in a cache.
    idle: Mutex<Vec<Block>>,
}

impl BufferPool {
    /// An empty pool of buffers that hold up to `capacity` bytes of data; takes no memory yet.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { shared: Arc::new(Shared { capacity, idle: Mutex::new(Vec::new()) }) }
    }

    /// An empty buffer (`len` 0), used before or new; the content of its memory is whatever its last user left.
    ///
    /// # Errors
    /// The system's, if it has no memory for a new one.
    pub(crate) fn take(&self) -> io::Result<PooledBuf> {
        let idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let block = match idle {
            Some(block) => block,
            None => Block::map(self.shared.capacity)?,
        };
        Ok(PooledBuf { block: Some(block), capacity: self.shared.capacity, len: 0, pool: Arc::downgrade(&self.shared) })
    }

    /// How many buffers lie in the pool.
    #[cfg(test)]
    fn idle(&self) -> usize {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// The memory of one buffer: head room, data, tail room. Wiped before it is unmapped.
#[derive(Debug)]
struct Block {
    memory: MmapMut,
    /// The end of what may have been written, from the beginning of `memory`. What lies behind it was never touched,
    /// takes no memory, and must not be given any by wiping it.
    touched: usize,
}

impl Block {
    fn map(capacity: usize) -> io::Result<Self> {
        let len = capacity
            .checked_add(HEAD_ROOM + TAIL_ROOM)
            .ok_or_else(|| io::Error::new(io::ErrorKind::OutOfMemory, "a buffer larger than the address space"))?;
        let memory = MmapMut::map_anon(len)?;
        // Plaintext has no place in a core dump. A kernel that cannot do this still gives good memory; Miri has no such call.
        if !cfg!(miri) {
            let _ = memory.advise(Advice::DontDump);
        }
        Ok(Self { memory, touched: 0 })
    }

    fn touch(&mut self, end: usize) {
        self.touched = self.touched.max(end);
    }

    fn wipe(&mut self) {
        let end = self.touched.min(self.memory.len());
        self.memory[..end].zeroize();
        self.touched = 0;
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.wipe();
        #[cfg(test)]
        tests::observe_before_unmap(&self.memory);
    }
}

/// A buffer on loan from a [`BufferPool`]: `capacity` bytes of page-aligned memory of which the first `len` are data.
///
/// Dropped, it goes back to its pool as it is, unwiped: the next to hold it is of the same run. If the pool is gone,
/// its memory is wiped and given back to the system.
#[derive(Debug)]
pub(crate) struct PooledBuf {
    /// `None` only while it is being dropped.
    block: Option<Block>,
    capacity: usize,
    len: usize,
    pool: Weak<Shared>,
}

impl PooledBuf {
    fn block(&self) -> &Block {
        self.block.as_ref().expect("taken in drop only")
    }

    /// The block, of which the caller is about to write up to `end`.
    fn block_mut(&mut self, end: usize) -> &mut Block {
        let block = self.block.as_mut().expect("taken in drop only");
        block.touch(end);
        block
    }

    /// The length of the data.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no data.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most data it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Says how many of the bytes are data. What was there before stays: bytes that become data by this are what the
    /// last writer left there, zeros in new memory.
    ///
    /// # Panics
    /// If `len` is more than the capacity.
    pub(crate) fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "a length of {len} in a buffer of {}", self.capacity);
        self.len = len;
    }

    /// The data.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.block().memory[HEAD_ROOM..HEAD_ROOM + self.len]
    }

    /// The data.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        let end = HEAD_ROOM + self.len;
        &mut self.block_mut(end).memory[HEAD_ROOM..end]
    }

    /// All memory that can become data, whatever the length is now; to be followed by [`Self::set_len`].
    pub(crate) fn whole_mut(&mut self) -> &mut [u8] {
        let end = HEAD_ROOM + self.capacity;
        &mut self.block_mut(end).memory[HEAD_ROOM..end]
    }

    /// The `head` bytes right before the data, the data, and the 16 bytes behind it: header, text and tag of a record
    /// that is sealed in place.
    ///
    /// # Panics
    /// If `head` is more than [`HEAD_ROOM`].
    pub(crate) fn head_data_and_tail_mut(&mut self, head: usize) -> (&mut [u8], &mut [u8], &mut [u8; TAG_LEN]) {
        assert!(head <= HEAD_ROOM, "{head} bytes of head");
        let (len, end) = (self.len, HEAD_ROOM + self.len + TAG_LEN);
        let (before, rest) = self.block_mut(end).memory.split_at_mut(HEAD_ROOM);
        let (data, behind) = rest.split_at_mut(len);
        let tail = behind.first_chunk_mut().expect("len <= capacity, and TAIL_ROOM bytes follow the capacity");
        (&mut before[HEAD_ROOM - head..], data, tail)
    }

    /// As [`Self::framed`], to be written to.
    ///
    /// # Panics
    /// If `head` is more than [`HEAD_ROOM`] or `tail` more than [`TAIL_ROOM`].
    pub(crate) fn framed_mut(&mut self, head: usize, tail: usize) -> &mut [u8] {
        assert!(head <= HEAD_ROOM && tail <= TAIL_ROOM, "{head} bytes of head, {tail} of tail");
        let end = HEAD_ROOM + self.len + tail;
        &mut self.block_mut(end).memory[HEAD_ROOM - head..end]
    }

    /// The data with `head` bytes before it and `tail` bytes behind it, in one piece.
    ///
    /// # Panics
    /// If `head` is more than [`HEAD_ROOM`] or `tail` more than [`TAIL_ROOM`].
    pub(crate) fn framed(&self, head: usize, tail: usize) -> &[u8] {
        assert!(head <= HEAD_ROOM && tail <= TAIL_ROOM, "{head} bytes of head, {tail} of tail");
        &self.block().memory[HEAD_ROOM - head..HEAD_ROOM + self.len + tail]
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        // Where the pool is gone, or goes right now, the block is wiped by its own drop.
        if let (Some(block), Some(pool)) = (self.block.take(), self.pool.upgrade()) {
            pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        /// What blocks dropped by this thread held just before they were unmapped: their length, and whether all was
        /// zero.
        static UNMAPPED: RefCell<Vec<(usize, bool)>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn observe_before_unmap(memory: &[u8]) {
        UNMAPPED.with_borrow_mut(|seen| seen.push((memory.len(), memory.iter().all(|&byte| byte == 0))));
    }

    fn unmapped() -> Vec<(usize, bool)> {
        UNMAPPED.take()
    }

    #[test]
    fn data_is_page_aligned_and_begins_as_zeros() {
        for capacity in [0, 1, 4095, 4096, 100_000] {
            let pool = BufferPool::new(capacity);
            let mut buf = pool.take().unwrap();
            assert_eq!((buf.len(), buf.capacity()), (0, capacity));
            assert!(buf.is_empty());
            assert_eq!(buf.whole_mut().as_ptr().addr() % 4096, 0);
            buf.set_len(capacity);
            assert!(buf.framed(HEAD_ROOM, TAIL_ROOM).iter().all(|&byte| byte == 0));
            assert_eq!(buf.framed(HEAD_ROOM, TAIL_ROOM).len(), HEAD_ROOM + capacity + TAIL_ROOM);
        }
    }

    #[test]
    fn head_data_and_tail_are_one_piece() {
        let pool = BufferPool::new(8);
        let mut buf = pool.take().unwrap();
        for len in [0, 5, 8] {
            buf.set_len(len);
            let (head, data, tail) = buf.head_data_and_tail_mut(3);
            assert_eq!(data.len(), len);
            head.copy_from_slice(b"hhh");
            data.fill(b'd');
            tail.fill(b't');
            let expected = [b"hhh".as_slice(), &vec![b'd'; len], &[b't'; 16]].concat();
            assert_eq!(buf.framed(3, 16), expected);
            assert_eq!(buf.as_slice(), &expected[3..3 + len]);
            let (head, data, tail) = buf.head_data_and_tail_mut(3);
            assert_eq!([&*head, &*data, &*tail].concat(), expected);
        }
    }

    #[test]
    fn the_last_buffer_given_back_is_the_first_one_taken() {
        let pool = BufferPool::new(10);
        let (mut first, second) = (pool.take().unwrap(), pool.take().unwrap());
        let (first_at, second_at) = (first.as_slice().as_ptr(), second.as_slice().as_ptr());
        first.whole_mut().fill(7);
        first.set_len(10);
        drop(second);
        drop(first);
        assert_eq!(pool.idle(), 2);
        let again = pool.take().unwrap();
        assert_eq!(again.as_slice().as_ptr(), first_at);
        assert_eq!(again.len(), 0, "the length does not survive");
        assert_eq!(pool.take().unwrap().as_slice().as_ptr(), second_at);
        assert!(unmapped().is_empty(), "nothing was given back to the system");
    }

    #[test]
    fn idle_buffers_are_wiped_before_they_are_unmapped() {
        let pool = BufferPool::new(5000);
        let (mut whole, mut part, untouched) = (pool.take().unwrap(), pool.take().unwrap(), pool.take().unwrap());
        whole.whole_mut().fill(0xaa);
        part.set_len(4096);
        part.as_mut_slice().fill(0xbb);
        let (head, _, tail) = part.head_data_and_tail_mut(64);
        head.fill(0xcc);
        tail.fill(0xdd);
        // A shorter use later does not make it forget how far the first one wrote.
        part.set_len(1);
        part.as_mut_slice().fill(0xee);
        drop((whole, part, untouched));
        let clone = pool.clone();
        drop(pool);
        assert!(unmapped().is_empty(), "a handle is left");
        drop(clone);
        assert_eq!(unmapped(), vec![(HEAD_ROOM + 5000 + TAIL_ROOM, true); 3]);
    }

    #[test]
    fn a_buffer_that_outlives_its_pool_is_wiped_by_its_own_drop() {
        let pool = BufferPool::new(100);
        let mut buf = pool.take().unwrap();
        drop(pool);
        buf.whole_mut().fill(0xaa);
        assert!(unmapped().is_empty());
        drop(buf);
        assert_eq!(unmapped(), [(HEAD_ROOM + 100 + TAIL_ROOM, true)]);
    }

    #[test]
    fn buffers_travel_between_threads() {
        let pool = BufferPool::new(64);
        std::thread::scope(|scope| {
            for byte in 0..8_u8 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for _ in 0..200 {
                        let mut buf = pool.take().unwrap();
                        buf.whole_mut().fill(byte);
                        buf.set_len(64);
                        assert!(buf.as_slice().iter().all(|&found| found == byte), "nobody else writes here");
                    }
                });
            }
        });
        assert!((1..=8).contains(&pool.idle()), "never more than were held at once");
    }

    #[test]
    #[should_panic(expected = "a length of 11 in a buffer of 10")]
    fn a_length_beyond_the_capacity_is_a_defect() {
        BufferPool::new(10).take().unwrap().set_len(11);
    }

    #[test]
    fn a_capacity_beyond_the_address_space_is_an_error() {
        for capacity in [usize::MAX, usize::MAX - HEAD_ROOM - TAIL_ROOM, usize::MAX / 2] {
            assert!(BufferPool::new(capacity).take().is_err());
        }
    }
}
