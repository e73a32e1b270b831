//! How is a large file read through a mapping without trusting it? The kernel copies out of the mapping, we never touch
//! it.
//!
//! A file can be shortened by anybody while it is mapped, and who then touches a page behind its end dies of SIGBUS; it
//! can be written to, and a `&[u8]` over changing memory is undefined behaviour. So there is no reference into a
//! mapping here and no access to it: `process_vm_readv` on our own process copies out of it, and comes back short where
//! a page is missing (docs/adr/0001).

#![expect(unsafe_code, reason = "passes the address of a mapping to the kernel")]

use std::fs::File;
use std::io;

use memmap2::{MmapOptions, MmapRaw};

use crate::primitives::{fs, sys};

/// The most that [`copy_from_file`] maps at once, unless the caller says otherwise.
pub(crate) const DEFAULT_WINDOW_LEN: usize = 4 << 20;

/// A range of a file, mapped for reading; unmapped when dropped. Its memory can be copied out of and not be borrowed.
#[derive(Debug)]
pub(crate) struct MappedWindow {
    map: MmapRaw,
}

impl MappedWindow {
    /// Maps `len` bytes from `offset` on; neither need be a multiple of a page, and the file may be shorter.
    ///
    /// # Errors
    /// The system's: files of some file systems cannot be mapped (`ENODEV`), and an empty window cannot either.
    pub(crate) fn map(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty window"));
        }
        let map = MmapOptions::new().offset(offset).len(len).map_raw_read_only(file)?;
        Ok(Self { map })
    }

    /// The length of the window.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Copies from `offset_in_window` on into `dst`, as much as both have; says how many bytes.
    ///
    /// Short, down to 0, where the file has no page: it ends before, was shortened, or cannot be read there. Behind the
    /// end of a file its last page reads as zeros, and they are counted: who needs the end asks for the file's length
    /// **after** the copy, as [`copy_from_file`] does.
    ///
    /// # Errors
    /// [`is_refused`] tells a system that does not permit the call from all others.
    pub(crate) fn copy_out(&self, offset_in_window: usize, dst: &mut [u8]) -> io::Result<usize> {
        let len = self.len().saturating_sub(offset_in_window).min(dst.len());
        if len == 0 {
            return Ok(0);
        }
        let src = self.map.as_ptr().wrapping_add(offset_in_window);
        // SAFETY: `src .. src + len` lies inside the mapping that `self` owns and unmaps on drop, so it is neither
        // `dst` nor memory that any reference leads to: this type makes none. Only the kernel reads it: if another
        // process shortens the file, the call answers short and nothing here touches a missing page (docs/adr/0001).
        // What other processes write there meanwhile decides which bytes arrive, and bytes are valid whatever they are.
        unsafe { sys::copy_own_memory(src, &mut dst[..len]) }
    }
}

/// Whether an error of [`MappedWindow::copy_out`] means that the system does not permit copying out of a mapping at
/// all, so that there is no use in trying again in this run.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS))
}

/// What [`copy_from_file`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CopyOutcome {
    /// Bytes that are now in `dst`; less than its length only at the end of the file.
    pub(crate) len: usize,
    /// How many of them came by way of a mapping; the others were read with `pread`.
    pub(crate) mapped: usize,
    /// The system does not permit copying out of a mapping: the caller does well to use `pread` from now on.
    pub(crate) refused: bool,
}

/// Reads the file from `offset` on into `dst` by way of mapped windows of at most `window_len` bytes (0: the default).
///
/// What a mapping does not yield is read with `pread`, so that an error is the true one and a short count is the end of
/// the file. The bytes are those that reading would have given; never zeros from behind the end of a file that was
/// shortened meanwhile.
pub(crate) fn copy_from_file(file: &File, dst: &mut [u8], offset: u64, window_len: usize) -> io::Result<CopyOutcome> {
    let window_len = if window_len == 0 { DEFAULT_WINDOW_LEN } else { window_len };
    let (copied, refused) = copy_windows(file, dst, offset, window_len);
    complete(file, dst, offset, copied, refused)
}

/// Copies window by window until one does not come whole: how many bytes, and whether the system refused. What went
/// wrong goes wrong again, and truly, when the rest is read.
fn copy_windows(file: &File, dst: &mut [u8], offset: u64, window_len: usize) -> (usize, bool) {
    let mut copied = 0;
    for part in dst.chunks_mut(window_len) {
        let Some(at) = position(offset, copied) else { break };
        let Ok(window) = MappedWindow::map(file, at, part.len()) else {
            break;
        };
        // Not populated: warm it costs 3 to 9 % (two cores, ext4, windows of 4 MiB), and cold the readahead is the
        // same.
        match window.copy_out(0, part) {
            Ok(n) => {
                copied += n;
                if n < part.len() {
                    break;
                }
            }
            Err(error) => return (copied, is_refused(&error)),
        }
    }
    (copied, false)
}

/// Decides how much of what was copied counts, and reads the rest.
fn complete(file: &File, dst: &mut [u8], offset: u64, copied: usize, refused: bool) -> io::Result<CopyOutcome> {
    // The last page of a file reads as zeros behind its end. If the file ends before the end of what was copied, those
    // zeros may be among it. If it does not end there now, any zeros were a part of it at some time: it grew again.
    let mapped = if copied == 0 { 0 } else { copied.min(bytes_from(offset, fs::fstat(file)?.size)) };
    if mapped == dst.len() {
        return Ok(CopyOutcome { len: mapped, mapped, refused });
    }
    let at = position(offset, mapped).ok_or(io::ErrorKind::InvalidInput)?;
    let read = fs::read_full_at(file, &mut dst[mapped..], at)?;
    Ok(CopyOutcome { len: mapped + read, mapped, refused })
}

/// The position `len` bytes behind `offset`, if files go that far.
fn position(offset: u64, len: usize) -> Option<u64> {
    offset.checked_add(u64::try_from(len).ok()?)
}

/// How many bytes a file of `size` has from `offset` on, as far as memory can hold them.
fn bytes_from(offset: u64, size: u64) -> usize {
    usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const PAGE: usize = 4096;

    /// A file of `len` bytes none of which is zero, open for reading and writing, and its content.
    fn file_of(len: usize) -> (File, Vec<u8>) {
        let content: Vec<u8> = (0..len).map(|n| u8::try_from(n * 7 % 251).unwrap() + 1).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        (file, content)
    }

    #[test]
    fn the_content_is_what_reading_gives_for_any_offset_length_and_window() {
        let (file, content) = file_of(5 * PAGE + 123);
        for offset in [0, 1, PAGE - 1, PAGE, 2 * PAGE + 77, 5 * PAGE, 5 * PAGE + 123, 9 * PAGE] {
            for len in [0, 1, 100, PAGE, 3 * PAGE + 5, 6 * PAGE] {
                for window_len in [0, 1000, PAGE, 2 * PAGE + 1] {
                    let mut dst = vec![0; len];
                    let offset_u64 = u64::try_from(offset).unwrap();
                    let outcome = copy_from_file(&file, &mut dst, offset_u64, window_len).unwrap();
                    let expected = &content[offset.min(content.len())..(offset + len).min(content.len())];
                    let whole = CopyOutcome { len: expected.len(), mapped: expected.len(), refused: false };
                    assert_eq!(outcome, whole, "offset {offset}, length {len}, windows of {window_len}");
                    assert!(dst[..outcome.len] == *expected, "offset {offset}, length {len}, windows of {window_len}");
                }
            }
        }
    }

    #[test]
    fn a_file_truncated_after_mapping_gives_a_short_count_and_no_signal() {
        let (file, content) = file_of(8 * PAGE);
        let window = MappedWindow::map(&file, 0, 8 * PAGE).unwrap();
        file.set_len(u64::try_from(3 * PAGE).unwrap()).unwrap();
        let mut dst = vec![0; 8 * PAGE];
        assert_eq!(window.copy_out(0, &mut dst).unwrap(), 3 * PAGE);
        assert!(dst[..3 * PAGE] == content[..3 * PAGE]);
        assert_eq!(window.copy_out(5 * PAGE, &mut dst).unwrap(), 0, "the first page is missing already");
        assert_eq!(window.copy_out(2 * PAGE + 1, &mut dst).unwrap(), PAGE - 1);
        assert_eq!(window.copy_out(8 * PAGE, &mut dst).unwrap(), 0);
        assert_eq!(window.copy_out(usize::MAX, &mut dst).unwrap(), 0);
        file.set_len(0).unwrap();
        assert_eq!(window.copy_out(0, &mut dst).unwrap(), 0);
    }

    #[test]
    fn zeros_behind_the_end_of_a_file_are_never_given_out() {
        let (file, content) = file_of(2 * PAGE + 10);
        // A mapping has a whole last page: the zeros are there to be copied.
        let window = MappedWindow::map(&file, 0, 3 * PAGE).unwrap();
        assert_eq!(window.copy_out(0, &mut vec![1; 3 * PAGE]).unwrap(), 3 * PAGE);
        let own = CopyOutcome { len: 2 * PAGE + 10, mapped: 2 * PAGE + 10, refused: false };
        let mut dst = vec![1; 3 * PAGE];
        assert_eq!(copy_from_file(&file, &mut dst, 0, 0).unwrap(), own);
        assert!(dst[..own.len] == content);
        // Shortened while it was copied, and copied whole all the same.
        assert_eq!(complete(&file, &mut dst, 0, 3 * PAGE, false).unwrap(), own);
        file.set_len(5).unwrap();
        let five = CopyOutcome { len: 5, mapped: 5, refused: false };
        assert_eq!(complete(&file, &mut dst, 0, 3 * PAGE, false).unwrap(), five);
        let none = CopyOutcome { len: 0, mapped: 0, refused: false };
        assert_eq!(complete(&file, &mut dst, u64::try_from(PAGE).unwrap(), PAGE, false).unwrap(), none);
    }

    #[test]
    fn what_the_mapping_did_not_yield_is_read() {
        let (file, content) = file_of(3 * PAGE);
        let mut dst = vec![0; 3 * PAGE];
        dst[..PAGE].copy_from_slice(&content[..PAGE]);
        let outcome = complete(&file, &mut dst, 0, PAGE, true).unwrap();
        assert_eq!(outcome, CopyOutcome { len: 3 * PAGE, mapped: PAGE, refused: true });
        assert!(dst == content);
    }

    #[test]
    fn a_file_truncated_at_any_moment_yields_its_own_bytes_and_the_process_lives() {
        const LEN: usize = 64 * PAGE;
        const ROUNDS: usize = 400;
        let (file, content) = file_of(LEN);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Ends with the reader, also when that ends by a failed assertion.
            struct End<'a>(&'a AtomicBool);
            impl Drop for End<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            scope.spawn(|| {
                for round in 0_usize.. {
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                    // Only ever shorter or by the same content longer, never a hole: any zero is one from behind the
                    // end.
                    let keep = round * 4099 % LEN;
                    file.set_len(u64::try_from(keep).unwrap()).unwrap();
                    for start in (keep..LEN).step_by(1021) {
                        let part = &content[start..(start + 1021).min(LEN)];
                        file.write_all_at(part, u64::try_from(start).unwrap()).unwrap();
                    }
                }
            });
            let _end = End(&ended);
            let mut dst = vec![0; LEN];
            for round in 0..ROUNDS {
                dst.fill(0);
                let outcome = copy_from_file(&file, &mut dst, 0, 16 * PAGE).unwrap();
                assert!(!outcome.refused);
                let wrong = (0..outcome.len).find(|&n| dst[n] != content[n] && dst[n] != 0);
                assert_eq!(wrong, None, "round {round}: a byte that was never in the file");
            }
        });
    }

    #[test]
    fn what_cannot_be_mapped_is_read() {
        let file = fs::open_read("/proc/self/status".as_ref()).unwrap();
        assert!(MappedWindow::map(&file, 0, PAGE).is_err(), "proc has no mappings of this file");
        let mut dst = vec![0; 64 * PAGE];
        let outcome = copy_from_file(&file, &mut dst, 0, 0).unwrap();
        assert!(outcome.len > 100 && outcome.mapped == 0 && !outcome.refused, "{outcome:?}");
        assert!(dst.starts_with(b"Name:"));
    }

    #[test]
    fn an_error_is_that_of_reading() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), [1; 100]).unwrap();
        let write_only = std::fs::OpenOptions::new().write(true).open(path.path()).unwrap();
        let error = copy_from_file(&write_only, &mut [0; 100], 0, 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn only_a_refused_call_counts_as_refused() {
        assert!(is_refused(&io::Error::from_raw_os_error(libc::EPERM)));
        assert!(is_refused(&io::Error::from_raw_os_error(libc::ENOSYS)));
        assert!(!is_refused(&io::Error::from_raw_os_error(libc::EIO)));
        assert!(!is_refused(&io::Error::from(io::ErrorKind::PermissionDenied)));
    }
}
