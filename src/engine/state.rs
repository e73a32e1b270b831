//! What a vault is at one moment: keys from its header, its newest root, the commit that the root names.
//!
//! A reader takes one root when it begins and no lock: everything behind a root is never changed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::crypto::derive::{SegmentKeys, header_key, root_key, segment_keys};
use crate::crypto::key::{HeaderKey, MasterKey, Password, RootKey};
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::commit::{Commit, TreeRef};
use crate::format::header::{
    CommitPlace, EXTENTS_AT, HEADER_A_AT, HEADER_B_AT, HEADER_LEN, Header, ROOT_A_AT, ROOT_B_AT, ROOT_LEN, Root,
    UnverifiedHeader, UnverifiedRoot,
};
use crate::format::index::{BlockRef, MAX_BLOCK_LEN, SegmentSalt, check_place};
use crate::format::keyslot::unlock;
use crate::format::merge::Merge;
use crate::format::record::{MAX_PLAIN_LEN, RecordId, RecordKind, Salt, VaultId, digest, open_meta};
use crate::format::tree::{BlockSource, Tree};
use crate::primitives::storage::{Lock, LockMode, Storage};

/// How long a reader waits for a writer in its commit before it calls a bad root or header damaged.
const REREAD_PATIENCE: Duration = Duration::from_secs(10);

/// Everything secret that an opened vault needs; wiped when dropped.
pub(crate) struct VaultKeys {
    pub(crate) vault_id: VaultId,
    pub(crate) master: MasterKey,
    pub(crate) header: HeaderKey,
    pub(crate) root: RootKey,
}

impl VaultKeys {
    /// The keys that follow from a master key.
    pub(crate) fn derive(vault_id: VaultId, master: MasterKey) -> Self {
        let header = header_key(&master, &vault_id.0);
        let root = root_key(&master, &vault_id.0);
        Self { vault_id, master, header, root }
    }
}

/// Reads `buf.len()` bytes, or as many as there are.
pub(crate) fn read_at_most(storage: &dyn Storage, vault: &Path, buf: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match storage.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(FileOp::Read, vault, error)),
        }
    }
    Ok(done)
}

/// Reads a structure of fixed length that has a spare copy; too few bytes, and such as the disk does not give back, are
/// said in the inner result.
fn read_fixed<const N: usize>(
    storage: &dyn Storage,
    vault: &Path,
    offset: u64,
    structure: &'static str,
) -> Result<Result<Box<[u8; N]>, Malformation>> {
    let mut bytes: Box<[u8; N]> = vec![0; N].into_boxed_slice().try_into().expect("N bytes were allocated");
    let read = match read_at_most(storage, vault, &mut bytes[..], offset) {
        Ok(read) => read,
        Err(Error::Io { source, .. }) => return Ok(Err(Malformation::Unreadable { why: source.to_string() })),
        Err(error) => return Err(error),
    };
    Ok(if read == N { Ok(bytes) } else { Err(Malformation::Truncated { structure }) })
}

/// Runs `read`, and if something is wrong with what it finds, once more while no writer is in its commit.
fn read_twice<T>(storage: &dyn Storage, sound: impl Fn(&T) -> bool, mut read: impl FnMut() -> Result<T>) -> Result<T> {
    let first = read()?;
    if sound(&first) {
        return Ok(first);
    }
    let began = Instant::now();
    while began.elapsed() < REREAD_PATIENCE {
        // A file system without locks has no writers that take them either.
        match storage.try_lock(Lock::Commit, LockMode::Shared) {
            Ok(false) => std::thread::sleep(Duration::from_millis(10)),
            Ok(true) => {
                let second = read();
                let _ = storage.unlock(Lock::Commit);
                return second;
            }
            Err(_) => break,
        }
    }
    Ok(first)
}

/// Both copies of the header, each as far as it can be told without a key.
pub(crate) type HeaderCopies = [(u64, Result<UnverifiedHeader, Malformation>); 2];

/// Reads both headers.
///
/// - `locked`: the caller holds COMMIT, so none can be half written.
pub(crate) fn read_headers(storage: &dyn Storage, vault: &Path, locked: bool) -> Result<HeaderCopies> {
    let read_one = |at| -> Result<_> {
        let bytes = read_fixed::<HEADER_LEN>(storage, vault, at, "header")?;
        Ok((at, bytes.and_then(|bytes| UnverifiedHeader::decode(&bytes))))
    };
    let sound = |copies: &HeaderCopies| locked || copies.iter().all(|(_, copy)| copy.is_ok());
    read_twice(storage, sound, || Ok([read_one(HEADER_A_AT)?, read_one(HEADER_B_AT)?]))
}

/// A header that a password has opened.
pub(crate) struct OpenHeader {
    pub(crate) keys: VaultKeys,
    pub(crate) header: Header,
    /// The id of the slot that it opened.
    pub(crate) slot: u32,
}

/// Opens a header with a password.
///
/// - `vault`, `at`: where it is from, for errors.
pub(crate) fn unlock_header(
    header: UnverifiedHeader,
    vault: &Path,
    at: u64,
    password: &Password,
) -> Result<OpenHeader> {
    let vault_id = header.vault_id();
    let unlocked = unlock(header.slots(), &vault_id, password).map_err(|error| error.into_error(vault, at))?;
    let keys = VaultKeys::derive(vault_id, unlocked.master);
    let header = header.verify(&keys.header).map_err(|why| Error::malformed(vault, at, why))?;
    Ok(OpenHeader { keys, header, slot: unlocked.slot })
}

/// Opens a vault's header with a password; says what is wrong with the spare copy.
pub(crate) fn unlock_headers(
    storage: &dyn Storage,
    vault: &Path,
    password: &Password,
) -> Result<(OpenHeader, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut first_error = None;
    let mut candidates = Vec::new();
    for (at, copy) in read_headers(storage, vault, false)? {
        match copy {
            Ok(header) => candidates.push((at, header)),
            Err(why) => {
                warnings.push(format!("the copy of the header at byte {at} is bad: {why}"));
                first_error.get_or_insert(bad_copy(vault, at, why));
            }
        }
    }
    // Of two good copies the higher sequence counts.
    candidates.sort_by_key(|(at, header)| (std::cmp::Reverse(header.sequence()), *at));
    for (at, header) in candidates {
        match unlock_header(header, vault, at, password) {
            Ok(open) => return Ok((open, warnings)),
            // The slots are as they were written (the checksum holds): what opens an older copy was taken away since.
            Err(error @ Error::WrongPassword(_)) => return Err(error),
            Err(error) => {
                warnings.push(format!("the copy of the header at byte {at} is bad: {error}"));
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.unwrap_or_else(|| Error::malformed(vault, 0, Malformation::Truncated { structure: "header" })))
}

/// Both roots, each verified or not.
pub(crate) type Roots = [(u64, Result<Root, Malformation>); 2];

/// Reads and verifies both roots.
///
/// - `locked`: the caller holds COMMIT, so no root can be half written.
pub(crate) fn read_roots(storage: &dyn Storage, vault: &Path, keys: &VaultKeys, locked: bool) -> Result<Roots> {
    let read_one = |at| -> Result<_> {
        let bytes = read_fixed::<ROOT_LEN>(storage, vault, at, "root")?;
        let root = bytes.and_then(|bytes| UnverifiedRoot::decode(&bytes));
        Ok((at, root.and_then(|root| root.verify(&keys.root, &keys.vault_id))))
    };
    let read = || Ok([read_one(ROOT_A_AT)?, read_one(ROOT_B_AT)?]);
    let sound = |roots: &Roots| locked || roots.iter().all(|(_, root)| root.is_ok());
    read_twice(storage, sound, read)
}

/// The newest root that verifies: it *is* the state.
pub(crate) fn newest_root(vault: &Path, roots: &Roots) -> Result<(u64, Root)> {
    let good = roots.iter().filter_map(|(at, root)| root.as_ref().ok().map(|root| (*at, root.clone())));
    // The first of equals: both slots hold the same root after an undisturbed commit.
    good.reduce(|best, next| if next.1.generation() > best.1.generation() { next } else { best }).ok_or_else(|| {
        let (at, why) = match &roots[0] {
            (at, Err(why)) => (*at, why.clone()),
            (at, Ok(_)) => (*at, Malformation::Forged { structure: "root" }),
        };
        bad_copy(vault, at, why)
    })
}

/// The error for a copy of a header or root that there is nothing else to go by.
pub(crate) fn bad_copy(vault: &Path, at: u64, why: Malformation) -> Error {
    match why {
        // That the disk does not give it back is no damage to it.
        Malformation::Unreadable { why } => Error::io(FileOp::Read, vault, std::io::Error::other(why)),
        why => Error::malformed(vault, at, why),
    }
}

/// Reads metadata records; keeps the keys of each segment it has met.
pub(crate) struct MetaReader {
    storage: Arc<dyn Storage>,
    vault: Arc<Path>,
    keys: Arc<VaultKeys>,
    segments: Mutex<HashMap<[u8; 32], Arc<SegmentKeys>>>,
    /// Every place that was read, where somebody wants to know (`verify`).
    visited: Option<Mutex<Vec<(u64, u32)>>>,
    /// The disk did not give something back.
    has_failed: AtomicBool,
}

impl MetaReader {
    /// - `track`: the places that are read are put down, for [`MetaReader::visited`].
    pub(crate) fn new(storage: Arc<dyn Storage>, vault: Arc<Path>, keys: Arc<VaultKeys>, track: bool) -> Self {
        Self {
            storage,
            vault,
            keys,
            segments: Mutex::default(),
            visited: track.then(Mutex::default),
            has_failed: AtomicBool::new(false),
        }
    }

    /// The keys of a segment.
    pub(crate) fn segment_keys(&self, segment: &SegmentSalt) -> Arc<SegmentKeys> {
        let mut known = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = known
            .entry(segment.salt)
            .or_insert_with(|| Arc::new(segment_keys(&self.keys.master, &segment.salt, &self.keys.vault_id.0)));
        Arc::clone(keys)
    }

    /// Reads a framed metadata record, without opening it.
    fn framed(&self, block: &BlockRef, max_plain: u32) -> Result<Vec<u8>> {
        check_place(block.offset, block.sealed_len, max_plain).map_err(|why| self.malformed(block, why))?;
        let mut framed = vec![0; block.sealed_len as usize];
        let read = read_at_most(&*self.storage, &self.vault, &mut framed, block.offset);
        let read = read.inspect_err(|_| self.has_failed.store(true, Ordering::Relaxed))?;
        if read < framed.len() {
            return Err(self.malformed(block, Malformation::Truncated { structure: "record" }));
        }
        if let Some(visited) = &self.visited {
            visited.lock().unwrap_or_else(PoisonError::into_inner).push((block.offset, block.sealed_len));
        }
        Ok(framed)
    }

    fn open(&self, segment: &SegmentSalt, kind: RecordKind, block: &BlockRef, framed: &[u8]) -> Result<Vec<u8>> {
        let id = RecordId { segment: Salt(segment.salt).segment_id(), kind, number: block.number };
        open_meta(&self.segment_keys(segment), &id, framed).map_err(|why| self.malformed(block, why))
    }

    /// Reads a commit record and compares it with the digest that refers to it.
    pub(crate) fn commit(&self, segment: &SegmentSalt, block: &BlockRef, expected: &[u8; 32]) -> Result<Commit> {
        let framed = self.framed(block, MAX_PLAIN_LEN)?;
        if digest(&framed) != *expected {
            return Err(self.malformed(block, Malformation::Forged { structure: "commit record" }));
        }
        self.open_commit(segment, block, &framed)
    }

    /// Reads the commit record that stands there, whichever that is; answers its digest, too.
    pub(crate) fn commit_at(&self, segment: &SegmentSalt, block: &BlockRef) -> Result<(Commit, [u8; 32])> {
        let framed = self.framed(block, MAX_PLAIN_LEN)?;
        Ok((self.open_commit(segment, block, &framed)?, digest(&framed)))
    }

    fn open_commit(&self, segment: &SegmentSalt, block: &BlockRef, framed: &[u8]) -> Result<Commit> {
        let plain = self.open(segment, RecordKind::Commit, block, framed)?;
        Commit::decode(&plain).map_err(|why| self.malformed(block, why))
    }

    /// Whether the disk has failed to give something back.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Every place that was read so far.
    pub(crate) fn visited(&self) -> Vec<(u64, u32)> {
        self.visited.as_ref().map_or_else(Vec::new, |v| v.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl BlockSource for MetaReader {
    fn get(&self, segment: &SegmentSalt, kind: RecordKind, block: &BlockRef) -> Result<Vec<u8>> {
        let max = if kind == RecordKind::TreeHead { MAX_PLAIN_LEN } else { MAX_BLOCK_PLAIN };
        let framed = self.framed(block, max)?;
        let plain = self.open(segment, kind, block, &framed)?;
        // A few packed bytes may hold more than the place could.
        if plain.len() > max as usize {
            return Err(self.malformed(block, Malformation::Field { structure: "index block", field: "plain length" }));
        }
        Ok(plain)
    }

    fn malformed(&self, block: &BlockRef, why: Malformation) -> Error {
        Error::malformed(&*self.vault, block.offset, why)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a constant of 1 MiB")]
const MAX_BLOCK_PLAIN: u32 = MAX_BLOCK_LEN as u32;

/// A vault at one generation.
pub(crate) struct State {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) vault: Arc<Path>,
    pub(crate) keys: Arc<VaultKeys>,
    pub(crate) reader: Arc<MetaReader>,
    pub(crate) root: Root,
    pub(crate) commit: Commit,
    /// What is wrong with a spare copy, if anything is.
    pub(crate) warnings: Vec<String>,
}

impl State {
    /// The newest state of an opened file.
    pub(crate) fn newest(
        storage: Arc<dyn Storage>,
        vault: Arc<Path>,
        keys: Arc<VaultKeys>,
        track: bool,
    ) -> Result<Self> {
        let reaches = |end: u64| -> Result<()> {
            let file_len = storage.len().map_err(|error| Error::io(FileOp::Stat, &vault, error))?;
            let short = || Error::malformed(&*vault, file_len, Malformation::Truncated { structure: "vault" });
            if file_len < end { Err(short()) } else { Ok(()) }
        };
        reaches(EXTENTS_AT)?;
        let roots = read_roots(&*storage, &vault, &keys, false)?;
        let warnings = roots
            .iter()
            .filter_map(|(at, root)| root.as_ref().err().map(|why| format!("the root at byte {at} is bad: {why}")));
        let warnings = warnings.collect();
        let (_, root) = newest_root(&vault, &roots)?;
        // Asked for again now: whoever has committed since the first time has made the file longer.
        reaches(root.end())?;
        let reader = Arc::new(MetaReader::new(Arc::clone(&storage), Arc::clone(&vault), Arc::clone(&keys), track));
        let commit = read_commit(&reader, root.commit(), root.generation())?;
        Ok(Self { storage, vault, keys, reader, root, commit, warnings })
    }

    /// The commit before `commit`, if there is one.
    pub(crate) fn previous(&self, commit: &Commit) -> Result<Option<Commit>> {
        let Some(previous) = &commit.previous else { return Ok(None) };
        let segment = &commit.segments[previous.segment as usize];
        let before = self.reader.commit(segment, &previous.block, &previous.digest)?;
        if before.generation != previous.generation {
            let why = Malformation::Field { structure: "commit record", field: "generation" };
            return Err(self.reader.malformed(&previous.block, why));
        }
        Ok(Some(before))
    }

    /// The commit that made snapshot `number`.
    pub(crate) fn snapshot(&self, number: u64) -> Result<Commit> {
        let mut commit = self.commit.clone();
        let mut newest = None;
        loop {
            let found = commit.snapshot.as_ref().map(|snapshot| snapshot.number);
            if found == Some(number) {
                return Ok(commit);
            }
            newest = newest.or(found);
            let missing = || Error::NoSnapshot { vault: self.vault.to_path_buf(), number, newest };
            commit = self.previous(&commit)?.ok_or_else(missing)?;
        }
    }

    /// The commit that `--at` names, or the newest.
    pub(crate) fn at(&self, snapshot: Option<u64>) -> Result<Commit> {
        snapshot.map_or_else(|| Ok(self.commit.clone()), |number| self.snapshot(number))
    }

    /// Opens one tree of a commit.
    pub(crate) fn tree(&self, commit: &Commit, tree: &TreeRef) -> Result<Arc<Tree>> {
        let segment = commit.segments[tree.segment as usize].clone();
        let opened = Tree::open(Arc::clone(&self.reader) as Arc<dyn BlockSource>, segment, &tree.head)?;
        let head = opened.head();
        if commit.full.as_ref() == Some(tree) && (head.deletes != 0 || !head.replacements.is_empty()) {
            let why = Malformation::Field { structure: "tree head", field: "kind of item in a full index" };
            return Err(self.reader.malformed(&tree.head, why));
        }
        Ok(Arc::new(opened))
    }

    /// The trees of a commit in the order they apply.
    pub(crate) fn trees(&self, commit: &Commit) -> Result<Vec<Arc<Tree>>> {
        commit.full.iter().chain(&commit.deltas).map(|tree| self.tree(commit, tree)).collect()
    }

    /// What a commit holds, as one list.
    pub(crate) fn merge(&self, trees: &[Arc<Tree>]) -> Result<Merge> {
        Merge::new(trees.to_vec(), Arc::clone(&self.vault))
    }

    /// The same, going past what is damaged; see [`Merge::tolerant`].
    pub(crate) fn tolerant_merge(&self, trees: &[Arc<Tree>]) -> Result<Merge> {
        Merge::tolerant(trees.to_vec(), Arc::clone(&self.vault))
    }
}

/// Reads the commit record that a root names.
pub(crate) fn read_commit(reader: &MetaReader, place: &CommitPlace, generation: u64) -> Result<Commit> {
    let segment = SegmentSalt { salt: place.salt.0, wrapped: Vec::new() };
    let block = BlockRef { number: place.number, offset: place.offset.0, sealed_len: place.sealed_len };
    let commit = reader.commit(&segment, &block, &place.digest)?;
    if commit.generation != generation {
        let why = Malformation::Field { structure: "commit record", field: "generation" };
        return Err(reader.malformed(&block, why));
    }
    Ok(commit)
}

/// The newest generation that a root claims, as far as it can be told without a key.
pub(crate) fn claimed_generation(storage: &dyn Storage, vault: &Path) -> Result<u64> {
    let mut newest = 0;
    for at in [ROOT_A_AT, ROOT_B_AT] {
        let bytes = read_fixed::<ROOT_LEN>(storage, vault, at, "root")?;
        if let Ok(root) = bytes.and_then(|bytes| UnverifiedRoot::decode(&bytes)) {
            newest = newest.max(root.generation());
        }
    }
    Ok(newest)
}
