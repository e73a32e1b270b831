//! What does the system alone take for the same work? Bare programs, the floors that `tools/compare` sets runs beside.
//!
//! ```sh
//! cargo run --release --example bare -- tree SRC DST --threads 2
//! ```
//!
//! - `tree SRC DST`: creates SRC's directories, files (with their bytes and times) and symlinks below DST, which is new, from
//!   memory: `openat` relative to the directory, `write`, `futimens`, `close`; directories shared out between threads.
//! - `walk SRC`: `lstat` of all that lies below SRC, directories shared out between threads.
//! - `write FILE BYTES HOW`: writes noise into FILE, preallocated, and makes it durable: by the page cache (`cached`), the
//!   same with writing begun behind the writer (`behind`), or around it (`direct`: `O_DIRECT`).
//! - `sync DIR`: three times four KiB and `fdatasync`, then `fsync` of the directory: what a commit cannot do without.
//! - `kdf`: one key from one password, at the default cost.
//!
//! Each prints one JSON object of seconds.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program of its own, which is asked for its answer")]

use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Params, Version};
use flint_pipe::{FileStorage, KdfParams, Storage};
use memmap2::MmapMut;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::time::{ClockId, clock_gettime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (words, threads) = match args.iter().position(|arg| arg == "--threads") {
        Some(at) => (&args[..at], args.get(at + 1).map_or(Ok(1), |threads| threads.parse())?),
        None => (&args[..], thread::available_parallelism()?.get()),
    };
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tree", src, dst] => tree(Path::new(src), Path::new(dst), threads)?,
        ["walk", src] => walk(Path::new(src), threads)?,
        ["write", file, bytes, how] => write(Path::new(file), bytes.parse()?, how)?,
        ["sync", dir] => sync(Path::new(dir))?,
        ["kdf"] => {
            let KdfParams { memory_kib, passes, lanes } = KdfParams::DEFAULT;
            let cost = Params::new(memory_kib, passes, lanes, None).map_err(|error| error.to_string())?;
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost);
            let mut key = [0; 32];
            let (took, derived) = timed(|| argon2.hash_password_into(b"a password", &[7; 32], &mut key));
            derived.map_err(|error| error.to_string())?;
            std::hint::black_box(key);
            say(&[("kdf", took)]);
        }
        _ => {
            return Err(
                "bare tree SRC DST | walk SRC | write FILE BYTES cached|behind|direct | sync DIR | kdf  [--threads N]"
                    .into(),
            );
        }
    }
    Ok(())
}

/// Wall and CPU seconds of the whole process.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

fn cpu() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.try_into().unwrap_or(0), spent.tv_nsec.try_into().unwrap_or(0))
}

fn timed<T>(work: impl FnOnce() -> T) -> (Took, T) {
    let (began, cpu_before) = (Instant::now(), cpu());
    let made = work();
    (Took { wall: began.elapsed(), cpu: cpu() - cpu_before }, made)
}

fn say(figures: &[(&str, Took)]) {
    let figure = |(name, took): &(&str, Took)| {
        format!("\"{name}\": {:.4}, \"{name}_cpu\": {:.4}", took.wall.as_secs_f64(), took.cpu.as_secs_f64())
    };
    println!("{{{}}}", figures.iter().map(figure).collect::<Vec<_>>().join(", "));
}

/// Does `work` for each index below `count`, on so many threads; the first error ends it.
fn share_out(count: usize, threads: usize, work: impl Fn(usize) -> io::Result<()> + Sync) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let one = || -> io::Result<()> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(());
            }
            work(index)?;
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        let mine = one();
        others.into_iter().map(|other| other.join().expect("it does not panic")).fold(mine, io::Result::and)
    })
}

/// A directory of the tree in memory.
struct Folder {
    /// Below the root; the root's is empty.
    path: PathBuf,
    files: Vec<(CString, Vec<u8>, Timestamps)>,
    links: Vec<(CString, CString)>,
    times: Timestamps,
}

fn tree(src: &Path, dst: &Path, threads: usize) -> io::Result<()> {
    let mut folders = Vec::new();
    load(src, PathBuf::new(), &mut folders)?;
    let at = |folder: &Folder| dst.join(&folder.path);
    let (took, made) = timed(|| -> io::Result<()> {
        // Parents come before their children.
        for folder in &folders {
            rustix::fs::mkdir(at(folder), Mode::RWXU)?;
        }
        share_out(folders.len(), threads, |index| fill(&folders[index], &at(&folders[index])))?;
        for folder in &folders {
            rustix::fs::utimensat(CWD, at(folder), &folder.times, AtFlags::empty())?;
        }
        Ok(())
    });
    made?;
    say(&[("tree", took)]);
    Ok(())
}

fn load(src: &Path, below: PathBuf, folders: &mut Vec<Folder>) -> io::Result<()> {
    let path = src.join(&below);
    let dir = open_dir(CWD, &path)?;
    let times = times(&rustix::fs::fstat(&dir)?);
    let mut folder = Folder { path: below.clone(), files: Vec::new(), links: Vec::new(), times };
    let mut children = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        match entry.file_type() {
            _ if name == c"." || name == c".." => {}
            FileType::Directory => children.push(below.join(std::ffi::OsStr::from_bytes(name.to_bytes()))),
            FileType::Symlink => folder.links.push((name.to_owned(), rustix::fs::readlinkat(&dir, name, Vec::new())?)),
            FileType::RegularFile => {
                let file =
                    File::from(rustix::fs::openat(&dir, name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())?);
                let mut bytes = Vec::new();
                io::Read::read_to_end(&mut &file, &mut bytes)?;
                folder.files.push((name.to_owned(), bytes, self::times(&rustix::fs::fstat(&file)?)));
            }
            other => eprintln!("left out, {other:?}: {}", name.to_string_lossy()),
        }
    }
    folders.push(folder);
    children.into_iter().try_for_each(|child| load(src, child, folders))
}

fn times(stat: &rustix::fs::Stat) -> Timestamps {
    let at = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    #[expect(clippy::cast_possible_wrap, reason = "nanoseconds are below 10^9")]
    Timestamps {
        last_access: at(stat.st_mtime, stat.st_mtime_nsec as i64),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec as i64),
    }
}

fn open_dir(at: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn fill(folder: &Folder, path: &Path) -> io::Result<()> {
    let dir = open_dir(CWD, path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for (name, bytes, times) in &folder.files {
        let file = File::from(rustix::fs::openat(&dir, name.as_c_str(), flags, Mode::from_raw_mode(0o644))?);
        io::Write::write_all(&mut &file, bytes)?;
        rustix::fs::futimens(&file, times)?;
    }
    for (name, target) in &folder.links {
        rustix::fs::symlinkat(target.as_c_str(), &dir, name.as_c_str())?;
    }
    Ok(())
}

/// Directories that nobody has listed yet, and how many are being listed.
#[derive(Default)]
struct ToList {
    dirs: Vec<CString>,
    busy: usize,
}

fn walk(src: &Path, threads: usize) -> io::Result<()> {
    let (lock, changed) = (Mutex::new(ToList::default()), Condvar::new());
    let entries = AtomicUsize::new(0);
    let to_list = || lock.lock().unwrap_or_else(PoisonError::into_inner);
    to_list().dirs.push(CString::new(src.as_os_str().as_bytes())?);
    let lister = |_| -> io::Result<()> {
        let mut state = to_list();
        loop {
            let Some(dir) = state.dirs.pop() else {
                if state.busy == 0 {
                    changed.notify_all();
                    return Ok(());
                }
                state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            drop(state);
            let mut found = Vec::new();
            let listed = list(&dir, &mut found);
            state = to_list();
            state.busy -= 1;
            entries.fetch_add(listed?, Ordering::Relaxed);
            state.dirs.append(&mut found);
            changed.notify_all();
        }
    };
    let (took, walked) = timed(|| share_out(threads, threads, lister));
    walked?;
    eprintln!("{} entries", entries.load(Ordering::Relaxed));
    say(&[("walk", took)]);
    Ok(())
}

fn list(path: &CStr, found: &mut Vec<CString>) -> io::Result<usize> {
    let dir = open_dir(CWD, path)?;
    let mut count = 0;
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        count += 1;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            found.push(CString::new([path.to_bytes(), b"/", name.to_bytes()].concat())?);
        }
    }
    Ok(count)
}

/// So much is written at once.
const PIECE: usize = 4 << 20;
/// So much is preallocated at once.
const EXTENT: u64 = 64 << 20;

/// - `how`: `cached`, by the page cache; `behind`, the same with writing begun at once; `direct`, around it.
fn write(path: &Path, bytes: u64, how: &str) -> Result<(), Box<dyn std::error::Error>> {
    let (flags, behind) = match how {
        "cached" => (OFlags::empty(), false),
        "behind" => (OFlags::empty(), true),
        "direct" => (OFlags::DIRECT, false),
        _ => return Err("write FILE BYTES cached|behind|direct".into()),
    };
    // Page-aligned, as O_DIRECT wants it, and a whole number of blocks.
    let mut piece = MmapMut::map_anon(PIECE)?;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for word in piece.chunks_exact_mut(8) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        word.copy_from_slice(&random.to_le_bytes());
    }
    let mut options = OpenOptions::new();
    let flags = i32::try_from(flags.bits())?;
    let file = options.write(true).create(true).truncate(true).custom_flags(flags).open(path)?;
    let storage = FileStorage::new(file.try_clone()?);
    let began = (Instant::now(), cpu());
    let mut offset = 0;
    while offset < bytes {
        if offset % EXTENT == 0 {
            storage.allocate(offset, EXTENT)?;
        }
        file.write_all_at(&piece, offset)?;
        if behind {
            storage.start_writeback(offset, PIECE as u64)?;
        }
        offset += PIECE as u64;
    }
    let took = || Took { wall: began.0.elapsed(), cpu: cpu() - began.1 };
    let written = took();
    file.sync_data()?;
    say(&[("written", written), ("durable", took())]);
    Ok(std::fs::remove_file(path)?)
}

fn sync(dir: &Path) -> io::Result<()> {
    let path = dir.join(format!(".bare-sync-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let folder = open_dir(CWD, dir)?;
    let (took, synced) = timed(|| -> io::Result<()> {
        for number in 0..3 {
            file.write_all_at(&[1; 4096], number * 4096)?;
            file.sync_data()?;
        }
        Ok(rustix::fs::fsync(&folder)?)
    });
    std::fs::remove_file(&path)?;
    synced?;
    say(&[("sync", took)]);
    Ok(())
}
