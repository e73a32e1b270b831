//! A disk that can be watched, broken and switched off: a file and its name in memory, with all that was written and not
//! yet synced kept apart.
//!
//! # What it may do
//!
//! These are the rules of docs/RELIABILITY.md, chapter 1; no real disk breaks all of them at once.
//!
//! - What a sync returned well for is there after a power cut. Of everything since, **any subset** is: each sector of 512
//!   bytes that a write touched, each change of the length, each punched range. So writes are torn at sectors, and land in
//!   any order: what a sector holds is what it held at the last sync, or what any write since then made of it. A write
//!   that does not fill a sector lands apart from its neighbours in that sector, which is more than a disk can do.
//! - A change of the length lands apart from the data behind it: data beyond the length that landed is not seen, a length
//!   whose data did not land shows zeros.
//! - The name leads to what it led to when the directory was last synced, or to anything that it led to since, whatever
//!   of the file has landed. A file without a name is gone.
//! - A sector of a *root* may be torn within, too: its beginning new, its end old.
//! - A sync that fails has brought any subset of what was pending to the disk. The rest never gets there, whatever later
//!   syncs return: the pages count as clean. They read as they were written, or at once as they were before
//!   ([`FailedSync`]), or from any later moment on ([`Disk::forgets`]). Every file that was open at that time is told of the failure once, at its own next sync, as Linux
//!   does since 4.13. A failed start of writing back is a failed sync. A failed sync of the directory leaves names pending.
//! - Space runs out at a preallocation, which may have lengthened the file, or where nothing was preallocated, in the
//!   middle of a write ([`Full`]).
//!
//! Not among them: a sector that was not written to changes; synced data goes away; a write lands in another place. The
//! format has checks for that, and tests/behaviour/damage.rs has the tests.
//!
//! Long writes are taken apart into their first sector, their last, and all between; see [`media`].

pub(crate) mod media;
mod turnstile;

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flint_pipe::{Lock, LockMode, Storage, VaultDir};

use self::media::{Change, Event, FailedSync, History, Left, Media, Moment};
use self::turnstile::{Turn, Turnstile};

/// Every call of the two seams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Len,
    Read,
    Write,
    Allocate,
    Punch,
    SetLen,
    Writeback,
    Sync,
    Lock,
    Unlock,
    Open,
    Create,
    Link,
    Rename,
    Unlink,
    SameFile,
    DirSync,
}

/// What happens in place of a call, or before it.
#[derive(Clone)]
pub(crate) enum Effect {
    /// It fails with this number.
    Errno(i32),
    /// A read or write moves one byte less than asked for, but at least one; other calls are as ever.
    Short,
    /// Something is done first, with the disk unlocked; then the call goes on.
    First(Arc<dyn Fn() + Send + Sync>),
    /// The call takes so much longer.
    Delay(Duration),
}

/// What goes wrong, and when.
#[derive(Clone)]
pub(crate) struct Fault {
    /// Which calls count.
    pub(crate) on: fn(Op) -> bool,
    /// The first of them that it happens to, from 1.
    pub(crate) nth: u64,
    /// It happens to all that follow, too.
    pub(crate) forever: bool,
    pub(crate) effect: Effect,
}

impl Fault {
    pub(crate) fn once(on: fn(Op) -> bool, nth: u64, effect: Effect) -> Self {
        Self { on, nth, forever: false, effect }
    }

    pub(crate) fn forever(on: fn(Op) -> bool, nth: u64, effect: Effect) -> Self {
        Self { on, nth, forever: true, effect }
    }
}

/// Numbers that look random and are the same each time (splitmix64).
#[derive(Default)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() % limit.max(1) as u64).expect("less than a usize")
    }

    fn coin(&mut self) -> bool {
        self.roll() & 1 == 0
    }
}

/// A disk with so many bytes for the vault, and no more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Full {
    pub(crate) capacity: usize,
    /// It can preallocate; one that cannot runs out of space when it is written to.
    pub(crate) preallocates: bool,
}

/// A file as the system shows it.
#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    /// Who holds which lock, and whether alone.
    locks: HashMap<Lock, HashMap<u64, LockMode>>,
    /// How many syncs have failed.
    failures: u64,
}

struct State {
    media: Media,
    files: Vec<File>,
    name: Option<usize>,
    recorded: Option<History>,
    faults: Vec<(Fault, u64)>,
    fired: u64,
    calls: Vec<Op>,
    failed_sync: FailedSync,
    full: Option<Full>,
    /// How often the power was cut; what was open before answers nothing any more.
    epoch: u64,
    handles: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            media: Media::default(),
            files: Vec::new(),
            name: None,
            recorded: None,
            faults: Vec::new(),
            fired: 0,
            calls: Vec::new(),
            failed_sync: FailedSync { left: Left::Nothing, reverts: false },
            full: None,
            epoch: 0,
            handles: 0,
        }
    }
}

impl State {
    /// Something happened to the disk itself.
    fn happened(&mut self, event: Event) {
        self.media.apply(&event);
        if let Some(history) = &mut self.recorded {
            history.events.push(event);
        }
    }

    fn name(&mut self, file: Option<usize>) {
        self.name = file;
        self.happened(Event::Named(file));
    }

    /// What was pending of a file is lost, as far as it is not on the disk already.
    fn sync_failed(&mut self, file: usize) {
        let FailedSync { reverts, .. } = self.failed_sync;
        let landings = self.failed_sync.landings(&self.media.files[file]);
        self.happened(Event::SyncFailed(file, landings));
        let seen = &mut self.files[file];
        seen.failures += 1;
        if reverts {
            // The length is the inode's, and stays.
            let durable = self.media.files[file].durable();
            let both = seen.bytes.len().min(durable.len());
            seen.bytes[..both].copy_from_slice(&durable[..both]);
            seen.bytes[both..].fill(0);
        }
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    unlocked: Condvar,
    turnstile: Turnstile,
}

/// The disk; clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    shared: Arc<Shared>,
    /// Which of several writers sees it like this.
    writer: Option<usize>,
}

/// A call that goes on: with the right to, if writers take turns.
struct Call<'d> {
    /// It is to move less than asked for.
    is_short: bool,
    _turn: Option<Turn<'d>>,
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a disk in memory is small")
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The disk as the engine takes it.
    pub(crate) fn dir(&self) -> Arc<dyn VaultDir> {
        Arc::new(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this goes wrong, in place of whatever was to go wrong before; calls are counted anew.
    pub(crate) fn breaks(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut state = self.state();
        state.faults = faults.into_iter().map(|fault| (fault, 0)).collect();
        state.fired = 0;
        state.calls.clear();
    }

    /// Nothing goes wrong any more. Says how often something did.
    pub(crate) fn heal(&self) -> u64 {
        let mut state = self.state();
        state.faults.clear();
        state.full = None;
        state.fired
    }

    /// The calls since faults were last set.
    pub(crate) fn calls(&self) -> Vec<Op> {
        self.state().calls.clone()
    }

    /// Cuts the power, and starts again with what is left on the disk.
    pub(crate) fn power_cycle(&self, left: Left) {
        let image = self.state().media.left(left);
        self.start_with(image);
    }

    /// Starts anew with nothing but this vault, or with none; all that was open before is dead.
    pub(crate) fn start_with(&self, image: Option<Vec<u8>>) {
        let mut state = self.state();
        let files = image.iter().map(|bytes| File { bytes: bytes.clone(), ..File::default() }).collect();
        let name = image.as_ref().map(|_| 0);
        let (epoch, handles) = (state.epoch + 1, state.handles);
        *state = State { media: Media::of(image), files, name, epoch, handles, ..State::default() };
        drop(state);
        self.shared.unlocked.notify_all();
    }

    /// From now on everything that happens is remembered.
    pub(crate) fn record(&self) {
        let mut state = self.state();
        state.recorded = Some(History { start: state.media.clone(), events: Vec::new() });
    }

    /// Puts a mark into the record.
    pub(crate) fn mark(&self, mark: u64) {
        self.state().happened(Event::Mark(mark));
    }

    /// What happened since [`Disk::record`].
    pub(crate) fn recorded(&self) -> History {
        self.state().recorded.take().expect("it was recorded")
    }

    /// The disk as it is now, with all that is pending.
    pub(crate) fn moment(&self) -> Moment {
        Moment::of(self.state().media.clone())
    }

    /// What a sync that fails leaves behind from now on.
    pub(crate) fn set_failed_sync(&self, failed_sync: FailedSync) {
        self.state().failed_sync = failed_sync;
    }

    /// The system drops what it has in memory and counts as clean: all reads as it is on the disk, but for what is pending.
    pub(crate) fn forgets(&self) {
        let mut state = self.state();
        let file = state.name.expect("there is a vault");
        let on_disk = state.media.files[file].synced();
        let seen = &mut state.files[file].bytes;
        let len = seen.len();
        *seen = on_disk;
        seen.resize(len, 0);
    }

    /// How much room there is from now on.
    pub(crate) fn set_full(&self, full: Option<Full>) {
        self.state().full = full;
    }

    /// The disk as writer number `writer` sees it.
    pub(crate) fn seen_by(&self, writer: usize) -> Self {
        Self { shared: Arc::clone(&self.shared), writer: Some(writer) }
    }

    /// From now on writers `0..count` make one call at a time, in an order that the seed decides, until they retire.
    pub(crate) fn take_turns(&self, count: usize, seed: u64) {
        self.shared.turnstile.set(count, seed);
    }

    /// A writer is done.
    pub(crate) fn retire(&self, writer: usize) {
        self.shared.turnstile.retire(writer);
    }

    /// The bytes of the vault as a reader would see them, if there is one.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        let state = self.state();
        state.name.map(|file| state.files[file].bytes.clone())
    }

    /// Puts other bytes in the vault's place, durably, under those who have it open.
    pub(crate) fn set_bytes(&self, bytes: &[u8]) {
        let mut state = self.state();
        let file = state.name.expect("there is a vault");
        state.files[file].bytes = bytes.to_vec();
        state.media.files[file] = media::Medium::of(bytes.to_vec());
    }

    /// Changes one byte of the vault.
    pub(crate) fn flip(&self, at: usize, bits: u8) {
        let mut state = self.state();
        let file = state.name.expect("there is a vault");
        state.files[file].bytes[at] ^= bits;
    }

    /// Counts a call and lets happen what is due.
    fn call(&self, op: Op, by: Option<&Handle>) -> io::Result<Call<'_>> {
        let turn = self.shared.turnstile.pass(self.writer);
        let mut state = self.state();
        if by.is_some_and(|by| by.epoch != state.epoch) {
            return Err(errno(libc::EIO));
        }
        state.calls.push(op);
        let mut due = None;
        for (fault, seen) in &mut state.faults {
            if (fault.on)(op) {
                *seen += 1;
                if *seen == fault.nth || (fault.forever && *seen > fault.nth) {
                    due = Some(fault.effect.clone());
                }
            }
        }
        let mut is_short = false;
        if let Some(effect) = due {
            state.fired += 1;
            match effect {
                Effect::Errno(number) => {
                    if let (Op::Sync | Op::Writeback, Some(by)) = (op, by) {
                        state.sync_failed(by.file);
                        by.told.store(state.files[by.file].failures, Ordering::Relaxed);
                    }
                    return Err(errno(number));
                }
                Effect::Short => is_short = true,
                Effect::First(work) => {
                    drop(state);
                    work();
                }
                Effect::Delay(time) => {
                    drop(state);
                    std::thread::sleep(time);
                }
            }
        }
        Ok(Call { is_short, _turn: turn })
    }

    fn handle(&self, state: &mut State, file: usize) -> Arc<dyn Storage> {
        state.handles += 1;
        let told = AtomicU64::new(state.files[file].failures);
        Arc::new(Handle { disk: self.clone(), file, epoch: state.epoch, id: state.handles, told })
    }
}

fn own(storage: &dyn Storage) -> &Handle {
    storage.as_any().downcast_ref().expect("a storage of this disk")
}

impl VaultDir for Disk {
    fn open(&self, _write: bool) -> io::Result<Option<Arc<dyn Storage>>> {
        let _call = self.call(Op::Open, None)?;
        let mut state = self.state();
        Ok(state.name.map(|file| self.handle(&mut state, file)))
    }

    fn create_unlinked(&self) -> io::Result<Arc<dyn Storage>> {
        let _call = self.call(Op::Create, None)?;
        let mut state = self.state();
        state.files.push(File::default());
        state.happened(Event::Created);
        let file = state.files.len() - 1;
        Ok(self.handle(&mut state, file))
    }

    fn link(&self, storage: &dyn Storage) -> io::Result<()> {
        let _call = self.call(Op::Link, None)?;
        let mut state = self.state();
        if state.name.is_some() {
            return Err(errno(libc::EEXIST));
        }
        state.name(Some(own(storage).file));
        Ok(())
    }

    fn rename(&self, storage: &dyn Storage) -> io::Result<()> {
        let _call = self.call(Op::Rename, None)?;
        self.state().name(Some(own(storage).file));
        Ok(())
    }

    fn unlink(&self) -> io::Result<()> {
        let _call = self.call(Op::Unlink, None)?;
        let mut state = self.state();
        if state.name.is_none() {
            return Err(errno(libc::ENOENT));
        }
        state.name(None);
        Ok(())
    }

    fn is_same_file(&self, storage: &dyn Storage) -> io::Result<bool> {
        let _call = self.call(Op::SameFile, None)?;
        Ok(self.state().name == Some(own(storage).file))
    }

    fn sync(&self) -> io::Result<()> {
        let _call = self.call(Op::DirSync, None)?;
        self.state().happened(Event::DirSynced);
        Ok(())
    }
}

/// One open file.
struct Handle {
    disk: Disk,
    file: usize,
    epoch: u64,
    id: u64,
    /// Of how many failed syncs of the file it has been told, or was before it was opened.
    told: AtomicU64,
}

impl Handle {
    fn call(&self, op: Op) -> io::Result<Call<'_>> {
        self.disk.call(op, Some(self))
    }

    fn change(&self, change: Change) {
        let mut state = self.disk.state();
        // Who was overtaken by a power cut changes nothing any more.
        if state.epoch == self.epoch {
            change.apply(&mut state.files[self.file].bytes);
            state.happened(Event::Changed(self.file, change));
        }
    }

    fn take(&self, lock: Lock, mode: LockMode) -> bool {
        let mut state = self.disk.state();
        let holders = state.files[self.file].locks.entry(lock).or_default();
        let free =
            holders.iter().all(|(&id, &held)| id == self.id || (held == LockMode::Shared && mode == LockMode::Shared));
        if free {
            holders.insert(self.id, mode);
        }
        free
    }

    fn release(&self, lock: Option<Lock>) {
        let mut state = self.disk.state();
        if state.epoch == self.epoch {
            for (held, holders) in &mut state.files[self.file].locks {
                if lock.is_none_or(|lock| lock == *held) {
                    holders.remove(&self.id);
                }
            }
        }
        drop(state);
        self.disk.shared.unlocked.notify_all();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.release(None);
    }
}

impl Storage for Handle {
    fn len(&self) -> io::Result<u64> {
        let _call = self.call(Op::Len)?;
        Ok(self.disk.state().files[self.file].bytes.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let call = self.call(Op::Read)?;
        let state = self.disk.state();
        let bytes = &state.files[self.file].bytes;
        let from = index(offset).min(bytes.len());
        let wanted = if call.is_short { buf.len().saturating_sub(1).max(1) } else { buf.len() };
        let len = wanted.min(buf.len()).min(bytes.len() - from);
        buf[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let call = self.call(Op::Write)?;
        let offset = index(offset);
        let mut len = if call.is_short { (buf.len() - 1).max(1) } else { buf.len() };
        let (full, seen) = {
            let state = self.disk.state();
            (state.full, state.files[self.file].bytes.len())
        };
        if let Some(Full { capacity, preallocates: false }) = full {
            len = len.min(capacity.saturating_sub(offset));
            if len == 0 {
                return Err(errno(libc::ENOSPC));
            }
        }
        if offset + len > seen {
            self.change(Change::AtLeast(offset + len));
        }
        self.change(Change::Write { offset, bytes: buf[..len].into() });
        Ok(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let _call = self.call(Op::Allocate)?;
        let end = index(offset + len);
        let full = self.disk.state().full;
        if let Some(Full { capacity, preallocates: true }) = full
            && end > capacity
        {
            self.change(Change::AtLeast(capacity));
            return Err(errno(libc::ENOSPC));
        }
        self.change(Change::AtLeast(end));
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let _call = self.call(Op::Punch)?;
        self.change(Change::Zero { from: index(offset), to: index(offset + len) });
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _call = self.call(Op::SetLen)?;
        self.change(Change::Len(index(len)));
        Ok(())
    }

    /// Short, so that small trees have records that cross from one write to the next.
    fn preferred_write_len(&self) -> Option<usize> {
        Some(128 << 10)
    }

    fn start_writeback(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.call(Op::Writeback).map(drop)
    }

    fn sync(&self) -> io::Result<()> {
        let _call = self.call(Op::Sync)?;
        let mut state = self.disk.state();
        if state.epoch != self.epoch {
            return Err(errno(libc::EIO));
        }
        state.happened(Event::Synced(self.file));
        let failures = state.files[self.file].failures;
        // What could be written is; that something before could not is said once.
        if self.told.swap(failures, Ordering::Relaxed) < failures { Err(errno(libc::EIO)) } else { Ok(()) }
    }

    fn try_lock(&self, lock: Lock, mode: LockMode) -> io::Result<bool> {
        let _call = self.call(Op::Lock)?;
        let taken = self.take(lock, mode);
        if !taken {
            self.disk.shared.turnstile.is_held_up();
        }
        Ok(taken)
    }

    fn lock(&self, lock: Lock, mode: LockMode) -> io::Result<()> {
        drop(self.call(Op::Lock)?);
        while !self.take(lock, mode) {
            let state = self.disk.state();
            if state.epoch != self.epoch {
                return Err(errno(libc::EIO));
            }
            // Released between the two looks or not, the next look is soon.
            let wait = self.disk.shared.unlocked.wait_timeout(state, Duration::from_millis(5));
            drop(wait.unwrap_or_else(PoisonError::into_inner));
        }
        Ok(())
    }

    fn unlock(&self, lock: Lock) -> io::Result<()> {
        let _call = self.call(Op::Unlock)?;
        self.release(Some(lock));
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
