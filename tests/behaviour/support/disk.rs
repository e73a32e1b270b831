//! A disk that can be watched, broken and switched off: a file and its name in memory, with all that was written and not
//! yet synced kept apart.
//!
//! It assumes what docs/FORMAT.md assumes of a disk: what was synced stays; of what was not, any part may be there after
//! a power cut, sector by sector; a failed sync leaves pages that read as written and never reach the disk.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flint_pipe::{Lock, LockMode, Storage, VaultDir};

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
    /// The power fails: this call and all later ones fail, and nothing changes any more.
    PowerCut,
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

/// What is left after a power cut of what was written and not synced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Left {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// Each piece of this length with a chance of one half; changes of length and of the name too.
    Some { seed: u64, piece: usize },
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Len(usize),
    AtLeast(usize),
    Zero { from: usize, to: usize },
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => put(to, *offset, bytes),
            Self::Len(len) => to.resize(*len, 0),
            Self::AtLeast(len) => to.resize(to.len().max(*len), 0),
            Self::Zero { from, to: end } => {
                let end = to.len().min(*end);
                if *from < end {
                    to[*from..end].fill(0);
                }
            }
        }
    }

    fn apply_some(&self, to: &mut Vec<u8>, dice: &mut Dice, piece: usize) {
        let Self::Write { offset, bytes } = self else {
            if dice.coin() {
                self.apply(to);
            }
            return;
        };
        // Pieces lie where sectors do, whatever the offset of the write.
        let (mut at, end) = (*offset, offset + bytes.len());
        while at < end {
            let next = ((at / piece + 1) * piece).min(end);
            if dice.coin() {
                put(to, at, &bytes[at - offset..next - offset]);
            }
            at = next;
        }
    }
}

fn put(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[offset..end].copy_from_slice(bytes);
}

/// Numbers that look random and are the same each time (splitmix64).
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

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Who holds which lock, and whether alone.
    locks: HashMap<Lock, HashMap<u64, LockMode>>,
}

#[derive(Default)]
struct State {
    files: Vec<File>,
    name: Option<usize>,
    durable_name: Option<usize>,
    faults: Vec<(Fault, u64)>,
    fired: u64,
    calls: Vec<Op>,
    is_off: bool,
    /// How often the power was cut; what was open before answers nothing any more.
    epoch: u64,
    handles: u64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    unlocked: Condvar,
}

/// The disk; clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Shared>);

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
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        state.fired
    }

    /// The calls since faults were last set.
    pub(crate) fn calls(&self) -> Vec<Op> {
        self.state().calls.clone()
    }

    /// Cuts the power if that has not happened yet, and starts again with what is left on the disk.
    pub(crate) fn power_cycle(&self, left: Left) {
        let mut state = self.state();
        state.epoch += 1;
        state.is_off = false;
        state.faults.clear();
        let mut dice = Dice(if let Left::Some { seed, .. } = left { seed } else { 0 });
        for file in &mut state.files {
            let mut bytes = std::mem::take(&mut file.durable);
            for change in file.pending.drain(..) {
                match left {
                    Left::Nothing => {}
                    Left::Everything => change.apply(&mut bytes),
                    Left::Some { piece, .. } => change.apply_some(&mut bytes, &mut dice, piece),
                }
            }
            file.durable = bytes.clone();
            file.bytes = bytes;
            file.locks.clear();
        }
        let keeps_name = match left {
            Left::Nothing => false,
            Left::Everything => true,
            Left::Some { .. } => dice.coin(),
        };
        if keeps_name {
            state.durable_name = state.name;
        } else {
            state.name = state.durable_name;
        }
        drop(state);
        self.0.unlocked.notify_all();
    }

    /// The bytes of the vault as a reader would see them, if there is one.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        let state = self.state();
        state.name.map(|file| state.files[file].bytes.clone())
    }

    /// Puts other bytes in the vault's place.
    pub(crate) fn set_bytes(&self, bytes: &[u8]) {
        let mut state = self.state();
        let file = state.name.expect("there is a vault");
        let file = &mut state.files[file];
        file.bytes = bytes.to_vec();
        file.durable = bytes.to_vec();
        file.pending.clear();
    }

    /// Changes one byte of the vault.
    pub(crate) fn flip(&self, at: usize, bits: u8) {
        let mut state = self.state();
        let file = state.name.expect("there is a vault");
        state.files[file].bytes[at] ^= bits;
    }

    /// Counts a call and lets happen what is due. `Ok(true)` says that it is to move less than asked for.
    fn call(&self, op: Op, epoch: Option<u64>) -> io::Result<bool> {
        let mut state = self.state();
        if state.is_off || epoch.is_some_and(|epoch| epoch != state.epoch) {
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
        let Some(effect) = due else { return Ok(false) };
        state.fired += 1;
        match effect {
            Effect::Errno(number) => {
                if op == Op::Sync {
                    // What a failed sync leaves behind is clean to the system and was never written.
                    state.files.iter_mut().for_each(|file| file.pending.clear());
                }
                return Err(errno(number));
            }
            Effect::PowerCut => {
                state.is_off = true;
                return Err(errno(libc::EIO));
            }
            Effect::Short => return Ok(true),
            Effect::First(work) => {
                drop(state);
                work();
            }
            Effect::Delay(time) => {
                drop(state);
                std::thread::sleep(time);
            }
        }
        Ok(false)
    }

    fn handle(&self, state: &mut State, file: usize) -> Arc<dyn Storage> {
        state.handles += 1;
        Arc::new(Handle { disk: self.clone(), file, epoch: state.epoch, id: state.handles })
    }
}

fn own(storage: &dyn Storage) -> &Handle {
    storage.as_any().downcast_ref().expect("a storage of this disk")
}

impl VaultDir for Disk {
    fn open(&self, _write: bool) -> io::Result<Option<Arc<dyn Storage>>> {
        self.call(Op::Open, None)?;
        let mut state = self.state();
        Ok(state.name.map(|file| self.handle(&mut state, file)))
    }

    fn create_unlinked(&self) -> io::Result<Arc<dyn Storage>> {
        self.call(Op::Create, None)?;
        let mut state = self.state();
        state.files.push(File::default());
        let file = state.files.len() - 1;
        Ok(self.handle(&mut state, file))
    }

    fn link(&self, storage: &dyn Storage) -> io::Result<()> {
        self.call(Op::Link, None)?;
        let mut state = self.state();
        if state.name.is_some() {
            return Err(errno(libc::EEXIST));
        }
        state.name = Some(own(storage).file);
        Ok(())
    }

    fn rename(&self, storage: &dyn Storage) -> io::Result<()> {
        self.call(Op::Rename, None)?;
        self.state().name = Some(own(storage).file);
        Ok(())
    }

    fn unlink(&self) -> io::Result<()> {
        self.call(Op::Unlink, None)?;
        self.state().name.take().map(drop).ok_or_else(|| errno(libc::ENOENT))
    }

    fn is_same_file(&self, storage: &dyn Storage) -> io::Result<bool> {
        self.call(Op::SameFile, None)?;
        Ok(self.state().name == Some(own(storage).file))
    }

    fn sync(&self) -> io::Result<()> {
        self.call(Op::DirSync, None)?;
        let mut state = self.state();
        state.durable_name = state.name;
        Ok(())
    }
}

/// One open file.
struct Handle {
    disk: Disk,
    file: usize,
    epoch: u64,
    id: u64,
}

impl Handle {
    fn call(&self, op: Op) -> io::Result<bool> {
        self.disk.call(op, Some(self.epoch))
    }

    fn change(&self, change: Change) {
        let mut state = self.disk.state();
        let file = &mut state.files[self.file];
        change.apply(&mut file.bytes);
        file.pending.push(change);
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
        self.disk.0.unlocked.notify_all();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.release(None);
    }
}

impl Storage for Handle {
    fn len(&self) -> io::Result<u64> {
        self.call(Op::Len)?;
        Ok(self.disk.state().files[self.file].bytes.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let is_short = self.call(Op::Read)?;
        let state = self.disk.state();
        let bytes = &state.files[self.file].bytes;
        let from = index(offset).min(bytes.len());
        let wanted = if is_short { buf.len().saturating_sub(1).max(1) } else { buf.len() };
        let len = wanted.min(buf.len()).min(bytes.len() - from);
        buf[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let is_short = self.call(Op::Write)?;
        let len = if is_short { (buf.len() - 1).max(1) } else { buf.len() };
        self.change(Change::Write { offset: index(offset), bytes: buf[..len].to_vec() });
        Ok(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.call(Op::Allocate)?;
        self.change(Change::AtLeast(index(offset + len)));
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.call(Op::Punch)?;
        self.change(Change::Zero { from: index(offset), to: index(offset + len) });
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(Op::SetLen)?;
        self.change(Change::Len(index(len)));
        Ok(())
    }

    fn start_writeback(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.call(Op::Writeback).map(drop)
    }

    fn sync(&self) -> io::Result<()> {
        self.call(Op::Sync)?;
        let mut state = self.disk.state();
        let File { durable, pending, .. } = &mut state.files[self.file];
        for change in pending.drain(..) {
            change.apply(durable);
        }
        Ok(())
    }

    fn try_lock(&self, lock: Lock, mode: LockMode) -> io::Result<bool> {
        self.call(Op::Lock)?;
        Ok(self.take(lock, mode))
    }

    fn lock(&self, lock: Lock, mode: LockMode) -> io::Result<()> {
        self.call(Op::Lock)?;
        while !self.take(lock, mode) {
            let state = self.disk.state();
            if state.is_off || state.epoch != self.epoch {
                return Err(errno(libc::EIO));
            }
            // Released between the two looks or not, the next look is soon.
            let wait = self.disk.0.unlocked.wait_timeout(state, Duration::from_millis(5));
            drop(wait.unwrap_or_else(PoisonError::into_inner));
        }
        Ok(())
    }

    fn unlock(&self, lock: Lock) -> io::Result<()> {
        self.call(Op::Unlock)?;
        self.release(Some(lock));
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
