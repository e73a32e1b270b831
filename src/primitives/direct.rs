//! Can a file be written around the page cache? A second way into it, for whole blocks from page-aligned memory.
//!
//! What goes through the cache is copied, takes memory page by page (dear on virtual machines, where the host has to find
//! it first), and pushes out what others had there. `O_DIRECT` does none of that; docs/adr/0011 has the figures. It is
//! offered where the kernel says what it asks of offsets and memory (`STATX_DIOALIGN`, Linux 6.1: ext4, XFS, F2FS).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

/// Offsets, lengths and addresses of what is written around the cache are multiples of this: a page, and no less than what
/// any device asks for that is used at all.
pub(crate) const DIRECT_BLOCK: usize = 4096;

/// So much at once keeps a device busy: at a quarter of it, one writer reached half the rate.
pub(crate) const DIRECT_LEN: usize = 4 << 20;

/// Less than this goes by way of the cache: to wait for the device costs more than a copy.
const LEAST: usize = 64 << 10;

/// A second open file description of a file, with `O_DIRECT`.
#[derive(Debug)]
pub(crate) struct Direct {
    file: OwnedFd,
    /// The file system has refused what it said it would take.
    refused: AtomicBool,
}

impl Direct {
    /// A way around the cache into a file that is open for writing; `None` where there is none.
    pub(crate) fn of(file: impl AsFd) -> Option<Self> {
        let file = file.as_fd();
        let aligned = |align: u32| align.is_power_of_two() && align as usize <= DIRECT_BLOCK;
        let seen = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
        let is_offered = seen.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
        if !is_offered || !aligned(seen.stx_dio_mem_align) || !aligned(seen.stx_dio_offset_align) {
            return None;
        }
        // By this name it is the same file, whatever name it has, or none. Locks are the other description's.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let again = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        // What is mounted there need not be the system's: nothing else is ever written to.
        let id = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        if id(rustix::fs::fstat(&again).ok()?) != id(rustix::fs::fstat(file).ok()?) {
            return None;
        }
        Some(Self { file: again, refused: AtomicBool::new(false) })
    }

    /// Whether this way is for such a write: whole blocks, enough of them, in page-aligned memory.
    pub(crate) fn suits(buf: &[u8], offset: u64) -> bool {
        buf.len() >= LEAST
            && buf.len().is_multiple_of(DIRECT_BLOCK)
            && offset.is_multiple_of(DIRECT_BLOCK as u64)
            && buf.as_ptr().addr().is_multiple_of(DIRECT_BLOCK)
    }

    /// Writes at most `buf.len()` bytes and says how many; `None` if this is not for this way ([`Self::suits`]), or refused by
    /// the file system. Nothing is written then.
    ///
    /// # Errors
    /// The device's, and `ENOSPC`, as for any write.
    pub(crate) fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<Option<usize>> {
        if !Self::suits(buf, offset) || self.refused.load(Ordering::Relaxed) {
            return Ok(None);
        }
        loop {
            match rustix::io::pwrite(&self.file, buf, offset) {
                Ok(written) => return Ok(Some(written)),
                Err(Errno::INTR) => {}
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    self.refused.store(true, Ordering::Relaxed);
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::primitives::pool::BufferPool;

    #[test]
    fn whole_blocks_go_around_the_cache_and_all_else_is_left_to_the_caller() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        // Where the file system does not offer it, there is nothing to test.
        let Some(direct) = Direct::of(&file) else { return };
        let mut buf = BufferPool::new(4 * LEAST).take().unwrap();
        buf.set_len(4 * LEAST);
        buf.as_mut_slice().fill(7);
        let bytes = buf.as_slice();
        assert_eq!(direct.write_at(bytes, 8192).unwrap(), Some(bytes.len()));
        for (piece, offset) in [
            (&bytes[..LEAST - DIRECT_BLOCK], 0),
            (&bytes[..LEAST + 1], 0),
            (&bytes[1..=LEAST], 0),
            (&bytes[..LEAST], 512),
        ] {
            assert_eq!(direct.write_at(piece, offset).unwrap(), None);
        }
        // Through the cache it is the same file: before what was written a hole, and what is read is what was written.
        let mut there = vec![1; 8192 + 4 * LEAST];
        file.read_exact_at(&mut there, 0).unwrap();
        assert!(there[..8192].iter().all(|&byte| byte == 0) && there[8192..].iter().all(|&byte| byte == 7));
        // Both ways side by side, in one page and the next.
        file.write_all_at(&[9; 100], 8192 - 50).unwrap();
        assert_eq!(direct.write_at(&bytes[..LEAST], 8192).unwrap(), Some(LEAST));
        file.read_exact_at(&mut there, 0).unwrap();
        assert!(there[8192 - 50..8192].iter().all(|&byte| byte == 9) && there[8192] == 7);
    }

    #[test]
    fn a_file_system_without_it_offers_none() {
        assert!(Direct::of(std::fs::OpenOptions::new().read(true).open("/proc/self/status").unwrap()).is_none());
    }
}
