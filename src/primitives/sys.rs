//! System calls that no crate wraps safely, and a few questions to the system about this process.

#![expect(unsafe_code, reason = "the place for system calls that no crate wraps")]

use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::time::ClockId;
use zeroize::Zeroize;

/// What to do with a byte-range lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeLock {
    /// Hold it together with others.
    Shared,
    /// Hold it alone.
    Exclusive,
    /// Give it back.
    Unlocked,
}

/// Sets the open-file-description lock on the one byte at `position`, which need not lie within the file; a lock that
/// is held already is converted. `false` if another open file description is in the way and `wait` is off; what was
/// held before is then still held. With `wait` on, it comes back with the lock or an error.
///
/// Such a lock belongs to the open file description: two descriptors made by `dup` share it, two made by `open` exclude
/// each other even within one process, and it ends with the last descriptor. The kernel finds no deadlocks among them.
/// `fd` must be open for reading for a shared lock, for writing for an exclusive one.
pub(crate) fn set_range_lock(fd: impl AsFd, position: u64, lock: RangeLock, wait: bool) -> io::Result<bool> {
    let start = libc::off64_t::try_from(position)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a lock beyond the largest file offset"))?;
    let kind = match lock {
        RangeLock::Shared => libc::F_RDLCK,
        RangeLock::Exclusive => libc::F_WRLCK,
        RangeLock::Unlocked => libc::F_UNLCK,
    };
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let range = libc::flock64 {
        l_type: libc::c_short::try_from(kind).map_err(invalid)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(invalid)?,
        l_start: start,
        l_len: 1,
        // Must be zero for open-file-description locks.
        l_pid: 0,
    };
    let command = if wait { libc::F_OFD_SETLKW } else { libc::F_OFD_SETLK };
    let fd = fd.as_fd();
    loop {
        // SAFETY: `fd` is open for as long as it is borrowed; these commands read one `flock64`, which `range` is, and
        // keep no pointer to it.
        if unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw const range) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EAGAIN | libc::EACCES) if !wait => return Ok(false),
            _ => return Err(error),
        }
    }
}

/// Has the kernel copy `dst.len()` bytes of this process's memory at `src` into `dst`; says how many it copied.
///
/// The count falls short where a page of the source cannot be had (not mapped, or of a file that ends before it); if
/// that is so for the very first page, it is 0. No signal is raised for it: this is why the call exists.
///
/// # Errors
/// What the system answers where it does not permit the call at all: `EPERM` or `ENOSYS`, from a seccomp filter or a
/// kernel built without it.
///
/// # Safety
/// Whatever is mapped at `src .. src + dst.len()` must not be memory that somebody holds a `&mut` to, and not `dst`.
pub(crate) unsafe fn copy_own_memory(src: *const u8, dst: &mut [u8]) -> io::Result<usize> {
    if dst.is_empty() {
        return Ok(0);
    }
    let local = libc::iovec { iov_base: dst.as_mut_ptr().cast(), iov_len: dst.len() };
    // The type has no `const` form; the kernel only reads there.
    let remote = libc::iovec { iov_base: src.cast_mut().cast(), iov_len: dst.len() };
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    loop {
        // SAFETY: one entry each, both alive during the call. The kernel writes into `dst` only, at most its length,
        // and reads the source with its own access checks: what is not there is an error, not a fault. Nobody has
        // exclusive hold of the source, by this function's contract.
        let copied = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
        if let Ok(copied) = usize::try_from(copied) {
            return Ok(copied);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // `dst` is memory that can be written, so it is the source that has no page.
            Some(libc::EFAULT) => return Ok(0),
            _ => return Err(error),
        }
    }
}

/// A secret of a type that does not wipe itself: on the heap, so that a move leaves no copy behind, and wiped when dropped.
pub(crate) struct Wiped<T>(Box<MaybeUninit<T>>);

#[cfg_attr(not(feature = "ring"), expect(dead_code, reason = "it is ring's keys that do not wipe themselves"))]
impl<T> Wiped<T> {
    /// Takes the value over. The place that it comes from is the caller's, and not wiped.
    pub(crate) fn new(value: T) -> Self {
        const { assert!(!std::mem::needs_drop::<T>(), "what is overwritten cannot be dropped") };
        let value = Box::new(MaybeUninit::new(value));
        lock_in_memory(&*value);
        Self(value)
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: written in `new`, and overwritten in `drop` alone, after which nobody has a reference to this.
        unsafe { self.0.assume_init_ref() }
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Asks the kernel to begin writing the dirty pages of a range to the device; does not wait for them and makes nothing
/// durable. `len` 0 means to the end of the file.
pub(crate) fn start_writeback(fd: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, "a range beyond the largest file offset");
    let (offset, len) = (i64::try_from(offset).map_err(invalid)?, i64::try_from(len).map_err(invalid)?);
    let fd = fd.as_fd();
    loop {
        // SAFETY: no memory is passed; `fd` is open for as long as it is borrowed. A WAIT flag would consume a write
        // error that a later sync has to see, so there is none.
        if unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The calls that name a file by a directory and a name in it: one number on all platforms since 5.1 (Linux 6.13).
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;

/// The longest name in a directory, in bytes.
const MAX_NAME_LEN: usize = 255;

/// `name` with a NUL behind it.
fn with_nul(name: &[u8]) -> io::Result<[u8; MAX_NAME_LEN + 1]> {
    let mut buf = [0; MAX_NAME_LEN + 1];
    if name.len() > MAX_NAME_LEN {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    if name.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    buf[..name.len()].copy_from_slice(name);
    Ok(buf)
}

/// Lists the names of the extended attributes of what has this name in an open directory, of a symlink itself, each with a
/// NUL behind it; says how many bytes. An empty buffer asks for the size alone.
///
/// # Errors
/// The system's; `ENOSYS` where the kernel has no such call, `ERANGE` if the buffer is too small.
pub(crate) fn list_xattr_at(directory: BorrowedFd<'_>, name: &[u8], buf: &mut [u8]) -> io::Result<usize> {
    let name = with_nul(name)?;
    // SAFETY: `directory` is open for as long as it is borrowed; `name` ends in a NUL and is only read; the kernel writes
    // into `buf` alone, and no more than its length.
    let len = unsafe {
        libc::syscall(
            SYS_LISTXATTRAT,
            directory.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            buf.as_mut_ptr(),
            buf.len(),
        )
    };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// The arguments of `getxattrat`, as the kernel has them.
#[repr(C, align(8))]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// Reads the extended attribute `xattr` of what has this name in an open directory, of a symlink itself; says how many
/// bytes. An empty buffer asks for the size alone.
///
/// # Errors
/// As [`list_xattr_at`]; `ENODATA` if there is no such attribute.
pub(crate) fn get_xattr_at(directory: BorrowedFd<'_>, name: &[u8], xattr: &[u8], buf: &mut [u8]) -> io::Result<usize> {
    let (name, xattr) = (with_nul(name)?, with_nul(xattr)?);
    let args = XattrArgs {
        value: u64::try_from(buf.as_mut_ptr().expose_provenance()).expect("an address is at most 64 bits wide"),
        // No value is longer than 64 KiB.
        size: u32::try_from(buf.len()).unwrap_or(u32::MAX),
        flags: 0,
    };
    // SAFETY: `directory` is open for as long as it is borrowed; both names end in a NUL and are only read; `args` has the
    // kernel's layout and is of the size that is told; the kernel writes into `buf` alone, and no more than its length.
    let len = unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            directory.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            xattr.as_ptr(),
            &raw const args,
            size_of::<XattrArgs>(),
        )
    };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// The CPU time, user and system, that the calling thread has used.
pub(crate) fn thread_cpu_time() -> Duration {
    // Miri has no such clock, and every worker looks at it.
    if cfg!(miri) {
        return Duration::ZERO;
    }
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    // Neither is ever negative for this clock, and nanoseconds are below 10^9.
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The CPU time, user and system, that all threads of this process have used, those that ended included.
pub(crate) fn process_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    // As for a thread's clock.
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// How long the calling thread could have run and no core was free for it; `None` where the system does not tell.
pub(crate) fn thread_run_delay() -> Option<Duration> {
    // Nanoseconds on a core, nanoseconds waiting for one, times it was given one (Documentation/scheduler/sched-stats.rst).
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// The most memory that this process ever had resident, in bytes; `None` where the system does not tell.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    // `ru_maxrss` survives `exec`, so that a program started by a large one (a test runner) would answer with its
    // parent's size. `VmHWM` belongs to the address space, which is new.
    peak_rss_of_status().or_else(peak_rss_of_rusage)
}

/// The process's resident memory now; `None` where `/proc` is not mounted.
pub(crate) fn rss_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

fn peak_rss_of_status() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn peak_rss_of_rusage() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the kernel fills one `rusage`, for which there is room.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so all of it is filled.
    let usage = unsafe { usage.assume_init() };
    u64::try_from(usage.ru_maxrss).ok()?.checked_mul(1024)
}

/// Keeps this process's memory, which holds keys, out of core dumps and away from debuggers of the same user.
///
/// For a binary to call once at its start: it changes the whole process, so a library has no business with it.
///
/// # Errors
/// Of the first of the two settings (no dumps and no tracing; a core size limit of 0) that failed; both are tried.
pub(crate) fn set_not_dumpable() -> io::Result<()> {
    let dumpable = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // The hard limit as well: a child that changes its identity becomes dumpable again, and inherits this.
    let core = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    Ok(dumpable.and(core)?)
}

/// Keeps the pages that this value lies on out of the swap, where the system allows so much locked memory; best effort.
///
/// They stay locked until their memory is given back to the system: locks of a page do not nest, and what shares the page
/// may be a secret too.
pub(crate) fn lock_in_memory<T: ?Sized>(value: &T) {
    // Miri has no such call, and every key comes by here.
    if cfg!(miri) {
        return;
    }
    let at = std::ptr::from_ref(value).cast::<libc::c_void>().cast_mut();
    // SAFETY: the range is that of a value that is borrowed, so it is mapped; locking changes no byte of it.
    let locked = unsafe { rustix::mm::mlock(at, size_of_val(value)) };
    // Without the right to lock more, everything works as before.
    let _ = locked;
}

/// How many cores this process may use, counting its affinity and the quota of its cgroup; 1 where nobody knows.
pub(crate) fn available_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const AT: u64 = 1 << 62;

    /// Two open file descriptions of one file.
    fn two_descriptions() -> (std::fs::File, std::fs::File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        (file.reopen().unwrap(), file.reopen().unwrap())
    }

    #[test]
    fn locks_of_two_descriptions_exclude_each_other_and_conversion_keeps_what_it_cannot_raise() {
        let (a, b) = two_descriptions();
        assert!(set_range_lock(&a, AT, RangeLock::Shared, false).unwrap());
        assert!(set_range_lock(&b, AT, RangeLock::Shared, false).unwrap());
        assert!(!set_range_lock(&a, AT, RangeLock::Exclusive, false).unwrap(), "b shares it");
        assert!(!set_range_lock(&b, AT, RangeLock::Exclusive, false).unwrap(), "a still shares it");
        assert!(set_range_lock(&b, AT + 1, RangeLock::Exclusive, false).unwrap(), "the next byte is another lock");
        assert!(set_range_lock(&b, AT, RangeLock::Unlocked, false).unwrap());
        assert!(set_range_lock(&a, AT, RangeLock::Exclusive, false).unwrap());
        assert!(!set_range_lock(&b, AT, RangeLock::Shared, false).unwrap());
    }

    #[test]
    fn a_waiter_gets_the_lock_when_its_holder_is_gone() {
        let (a, b) = two_descriptions();
        assert!(set_range_lock(&a, AT, RangeLock::Exclusive, true).unwrap());
        let given_back = Arc::new(AtomicBool::new(false));
        let waiter = std::thread::spawn({
            let given_back = Arc::clone(&given_back);
            move || {
                assert!(set_range_lock(&b, AT, RangeLock::Exclusive, true).unwrap());
                given_back.load(Ordering::SeqCst)
            }
        });
        given_back.store(true, Ordering::SeqCst);
        drop(a);
        assert!(waiter.join().unwrap(), "the waiter came back before the lock was free");
    }

    #[test]
    fn a_position_beyond_file_offsets_is_an_error() {
        let (a, _) = two_descriptions();
        let error = set_range_lock(&a, u64::MAX, RangeLock::Shared, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(start_writeback(&a, u64::MAX, 1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn own_memory_is_copied_and_what_is_not_mapped_counts_as_nothing() {
        let src: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let mut dst = vec![0; src.len()];
        // SAFETY: `src` is a live vector to which only shared references exist.
        let copied = unsafe { copy_own_memory(src.as_ptr(), &mut dst) };
        assert_eq!(copied.unwrap(), src.len());
        assert!(src == dst);
        // SAFETY: nothing is ever mapped on the first page.
        let copied = unsafe { copy_own_memory(std::ptr::without_provenance(8), &mut dst) };
        assert_eq!(copied.unwrap(), 0);
        // SAFETY: nothing is copied.
        let copied = unsafe { copy_own_memory(std::ptr::null(), &mut []) };
        assert_eq!(copied.unwrap(), 0);
        assert!(src == dst, "what failed wrote nothing");
    }

    #[test]
    fn cpu_time_of_a_thread_grows_with_its_work() {
        let before = thread_cpu_time();
        // Until the clock moves: that it does is what is tested, not when.
        let mut work = 1_u64;
        while thread_cpu_time() == before {
            work = std::hint::black_box(work.wrapping_mul(work | 3));
        }
        assert!(thread_cpu_time() > before);
    }

    #[test]
    fn the_peak_of_memory_grows_with_what_is_touched() {
        const LEN: usize = 64 << 20;
        let before = peak_rss_bytes().unwrap();
        let touched = vec![1_u8; LEN];
        std::hint::black_box(&touched);
        let after = peak_rss_bytes().unwrap();
        assert!(after >= u64::try_from(LEN).unwrap() && after >= before, "{before} then {after}");
        assert!(peak_rss_of_rusage().unwrap() > 0);
    }

    /// Runs the test `name` again in a process of its own, where nothing else goes on, and checks that it
    /// passed there; true in that process.
    fn in_its_own_process(name: &str) -> bool {
        const CHILD: &str = "FLINT_TEST_IN_ITS_OWN_PROCESS";
        if std::env::var_os(CHILD).is_some() {
            return true;
        }
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.arg(name).arg("--nocapture").env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        false
    }

    /// In a process of its own, since there is no way back for a hard limit.
    #[test]
    fn a_process_that_is_not_dumpable_still_reads_its_own_memory_and_descriptors() {
        if !in_its_own_process("a_process_that_is_not_dumpable_still_reads_its_own_memory_and_descriptors") {
            return;
        }
        set_not_dumpable().unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let core = rustix::process::getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
        let (src, mut dst) = ([7; 10], [0; 10]);
        // SAFETY: `src` is alive, and only shared references to it exist.
        assert_eq!(unsafe { copy_own_memory(src.as_ptr(), &mut dst) }.unwrap(), 10);
        assert_eq!(src, dst);
        let (file, _) = two_descriptions();
        let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::access(by_descriptor.as_str(), rustix::fs::Access::EXISTS).unwrap();
        assert!(peak_rss_of_status().is_some());
    }

    /// In a process of its own, since other tests lock keys, and free what was locked, at the same time.
    #[test]
    fn what_is_locked_is_counted_by_the_kernel() {
        if !in_its_own_process("what_is_locked_is_counted_by_the_kernel") {
            return;
        }
        let locked_kib = || -> u64 {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
            line.trim().trim_end_matches("kB").trim().parse().unwrap()
        };
        if rustix::process::getrlimit(Resource::Memlock).current.is_some_and(|limit| limit < 64 << 10) {
            return;
        }
        let bytes = vec![1_u8; 3 * 4096];
        let before = locked_kib();
        lock_in_memory(&bytes[..]);
        assert!(locked_kib() >= before + 8, "{before} KiB before");
        assert!(bytes.iter().all(|&byte| byte == 1));
        lock_in_memory::<[u8]>(&[]);
    }

    #[test]
    fn there_is_at_least_one_core() {
        assert!(available_cores().get() >= 1);
    }
}
