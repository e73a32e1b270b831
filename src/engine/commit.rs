//! Making a run's work the state of the vault: the order of writes and syncs (docs/FORMAT.md, "Order of syncs").
//!
//! 1. Data and index are in the file; `fdatasync`, with no lock held. Before a writer's first commit, `fsync` of the
//!    directory: it may have joined a vault that another has just linked.
//! 2. Under COMMIT: the newest root is read again; if it has moved, the run catches up with what others did; the commit
//!    record goes on top of what the root names, `fdatasync`.
//! 3. The root goes into the slot that does not hold the newest, `fdatasync`; then the same root into the other slot,
//!    without a sync of its own: that of the next commit's step 2 comes before the slot is needed.
//!
//! A failed sync is never tried again. Until the first root is being written nothing refers to what this run wrote.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::catch_up::{Skipped, second_delta};
use crate::engine::full_index::FullIndex;
use crate::engine::indexer::current_user;
use crate::engine::locks::Held;
use crate::engine::run::{Phase, Run};
use crate::engine::segment::{SegmentWriter, write_all_at};
use crate::engine::state::{State, bad_copy, newest_root, read_commit, read_roots};
use crate::engine::vault::Vault;
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::commit::{Commit, MAX_DELTAS, Previous, SnapshotRecord, TreeRef};
use crate::format::header::{CommitPlace, ROOT_A_AT, ROOT_B_AT, Root};
use crate::format::index::{BlockRef, SegmentSalt};
use crate::format::record::{RecordKind, Salt, digest, sealed_len};
use crate::primitives::storage::{Lock, LockMode, VaultDir};
use crate::primitives::units::FileOffset;

/// What a run wrote, ready to become a generation.
pub(crate) struct Ready<'r> {
    /// The run's delta, its segment 0 being the run's own.
    pub(crate) delta: (BlockRef, u64),
    /// A new full index.
    pub(crate) full: Option<FullIndex>,
    /// The snapshot, but for its number.
    pub(crate) snapshot: SnapshotRecord,
    /// What the run left out because its base had it, to be compared with what others have committed since.
    pub(crate) skipped: Option<&'r Skipped>,
}

/// The snapshot of a run that stores nothing, made now.
pub(crate) fn about_this_run(command_line: &[String], tags: &[String]) -> SnapshotRecord {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    SnapshotRecord {
        number: 0,
        time_secs: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        time_nanos: now.subsec_nanos(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        user: current_user(),
        command_line: command_line.iter().map(|word| serde_bytes::ByteBuf::from(word.as_bytes())).collect(),
        sources: Vec::new(),
        tags: tags.to_vec(),
        files: 0,
        directories: 0,
        bytes: 0,
        stored_bytes: 0,
        flags: 0,
    }
}

impl Vault {
    /// Commits what `ready` makes of a segment, and gives back the space that the segment does not need; all of it if no
    /// root was touched. Answers the snapshot's number.
    pub(crate) fn commit_segment<'r>(
        &self,
        run: &Run<'_>,
        base: &State,
        segment: &SegmentWriter,
        ready: impl FnOnce() -> Result<Ready<'r>>,
    ) -> Result<u64> {
        let ready = ready().map_err(|error| (Reached::NoRoot, error));
        let committed = ready.and_then(|ready| commit(run, base, &*self.dir, segment, ready));
        let released = match &committed {
            Ok(_) => {
                self.has_committed();
                segment.trim()
            }
            Err((Reached::Root, _)) => segment.trim(),
            Err((Reached::NoRoot, _)) => segment.give_back(),
        };
        if let Err(error) = released {
            // The space is lost until the vault is compacted; nothing else is.
            run.note(&self.path, format!("unused space could not be given back ({error})"));
        }
        committed.map_err(|(_, error)| error)
    }
}

/// How far a commit came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// No root was touched: what the run wrote may be given back.
    NoRoot,
    /// A root was written, or may have been.
    Root,
}

/// Commits; answers the snapshot's number. The error says whether a root may have been written.
fn commit(
    run: &Run<'_>,
    base: &State,
    dir: &dyn VaultDir,
    segment: &SegmentWriter,
    ready: Ready<'_>,
) -> Result<u64, (Reached, Error)> {
    let before = |error| (Reached::NoRoot, error);
    let storage = &base.storage;
    let vault = &*base.vault;
    let sync = || segment.sync(|error| Error::io(FileOp::Sync, vault, error));

    run.check().map_err(before)?;
    run.enter(Phase::Commit);
    sync().map_err(before)?;
    dir.sync().map_err(|error| (Reached::NoRoot, Error::io(FileOp::Sync, vault, error)))?;

    let held = Held::take(run, vault, storage, Lock::Commit, LockMode::Exclusive).map_err(before)?;
    let Prepared { only_in_a, number, root } = prepare(run, base, segment, ready).map_err(before)?;
    run.check().map_err(before)?;
    sync().map_err(before)?;

    // From here on a cancel waits: the commit record is durable, and the root is one write away.
    let bytes = root.encode(&base.keys.root);
    let (first, second) = if only_in_a { (ROOT_B_AT, ROOT_A_AT) } else { (ROOT_A_AT, ROOT_B_AT) };
    let uncertain = |source| (Reached::Root, Error::CommitUncertain { vault: vault.to_owned(), source });
    write_all_at(&**storage, vault, &bytes, first).map_err(|error| match error {
        Error::Io { source, .. } => uncertain(source),
        error => (Reached::Root, error),
    })?;
    storage.sync().map_err(uncertain)?;
    // The snapshot is there now. A second copy that cannot be written is a warning, no failure.
    if let Err(error) = write_all_at(&**storage, vault, &bytes, second) {
        run.note(vault, format!("the second copy of the root could not be written ({error})"));
    }
    drop(held);
    Ok(number)
}

/// A commit whose record is written.
struct Prepared {
    /// The newest root stands in slot A and not in slot B.
    only_in_a: bool,
    /// The snapshot's number.
    number: u64,
    /// The root that makes it the state.
    root: Root,
}

/// Merges with the newest commit, writes the commit record, and makes the root that names it.
fn prepare(run: &Run<'_>, base: &State, segment: &SegmentWriter, ready: Ready<'_>) -> Result<Prepared> {
    let vault = &*base.vault;
    let roots = read_roots(&*base.storage, vault, &base.keys, true)?;
    // A root that is damaged was never synced, or is gone for good. One that the disk does not give back just now may be the
    // newest, and a commit on top of an older one would undo it.
    for (at, root) in &roots {
        if let Err(why @ Malformation::Unreadable { .. }) = root {
            return Err(bad_copy(vault, *at, why.clone()));
        }
    }
    let (newest_at, newest) = newest_root(vault, &roots)?;
    let before = if newest.commit().digest == base.root.commit().digest {
        base.commit.clone()
    } else {
        let before = read_commit(&base.reader, newest.commit(), newest.generation())?;
        if !follows(base, &before)? {
            return Err(Error::Refused { what: BASE_LOST, path: vault.to_owned() });
        }
        before
    };
    let used_up = || Error::Refused { what: "the vault's numbers are used up", path: vault.to_owned() };
    let generation = newest.generation().checked_add(1).ok_or_else(used_up)?;
    let mut table = SegmentTable::default();
    let own = table.add(segment.salt());

    let mut full = before.full.map(|tree| table.tree(&before, tree));
    if let Some(FullIndex { head, stored_bytes, covers }) = ready.full
        && full.is_none_or(|old| covers > old.generation)
    {
        full = Some(TreeRef { segment: own, head, generation: covers, stored_bytes });
    }
    let covered = full.map_or(0, |full| full.generation);
    let later = before.deltas.iter().filter(|delta| delta.generation > covered);
    let mut deltas: Vec<TreeRef> = later.map(|&tree| table.tree(&before, tree)).collect();
    let second = match ready.skipped {
        Some(skipped) if before.generation != base.commit.generation => {
            second_delta(run, base, &before, skipped, &ready.delta.0, segment)?
        }
        _ => None,
    };
    for (head, stored_bytes) in [Some(ready.delta), second].into_iter().flatten() {
        deltas.push(TreeRef { segment: own, head, generation, stored_bytes });
    }
    if deltas.len() > MAX_DELTAS {
        return Err(Error::Refused { what: "the vault has too many deltas for one commit", path: vault.to_owned() });
    }

    let number = before.highest_snapshot.checked_add(1).ok_or_else(used_up)?;
    let place = newest.commit();
    let mut commit = Commit {
        flags: 0,
        generation,
        snapshot: Some(SnapshotRecord { number, stored_bytes: segment.written(), ..ready.snapshot }),
        highest_snapshot: number,
        previous: Some(Previous {
            segment: table.add(SegmentSalt { salt: place.salt.0, wrapped: Vec::new() }),
            block: BlockRef { number: place.number, offset: place.offset.0, sealed_len: place.sealed_len },
            generation: newest.generation(),
            digest: place.digest,
        }),
        segments: table.segments,
        full,
        deltas,
        heads: Vec::new(),
    };
    let place = write_commit(segment, &mut commit, &[])?;
    let end = (place.offset.0 + u64::from(place.sealed_len)).max(newest.end());
    let root =
        Root::new(base.keys.vault_id, generation, place, end).map_err(|why| Error::malformed(vault, newest_at, why))?;
    let holds = |slot: &(u64, Result<Root, _>)| {
        slot.1.as_ref().is_ok_and(|root: &Root| root.generation() == newest.generation())
    };
    let only_in_a = holds(&roots[0]) && !holds(&roots[1]);
    Ok(Prepared { only_in_a, number, root })
}

/// Why a run is refused whose base is not among the predecessors of the newest commit.
const BASE_LOST: &str =
    "the snapshot that this run began from is gone, since it could not be written durably; run it again";

/// Whether the run's base is a predecessor of `newest`.
///
/// It is not if another's sync of that root failed: the root is read as if it were there until the system lets go of the
/// page. What this run left out as unchanged would be lost with it.
fn follows(base: &State, newest: &Commit) -> Result<bool> {
    let own = (base.commit.generation, base.root.commit().digest);
    let mut commit = newest.clone();
    loop {
        match &commit.previous {
            Some(previous) if previous.generation > own.0 => {}
            previous => return Ok(previous.as_ref().is_some_and(|p| (p.generation, p.digest) == own)),
        }
        match base.previous(&commit)? {
            Some(previous) => commit = previous,
            None => return Ok(false),
        }
    }
}

/// Writes a commit record whose own segment is number 0 of its table; fills in where the segment's heads are.
///
/// - `others`: heads of other segments that it is to list, too.
pub(crate) fn write_commit(segment: &SegmentWriter, commit: &mut Commit, others: &[(u32, u64)]) -> Result<CommitPlace> {
    // Taking the place may take an extent, whose head is then to be listed too: so room for some more heads is reserved.
    const SPARE_HEADS_LEN: usize = 64;
    let heads = || segment.heads().into_iter().map(|at| (0, at)).chain(others.iter().copied()).collect();
    commit.heads = heads();
    let bound = u32::try_from(commit.encode().len() + SPARE_HEADS_LEN).unwrap_or(u32::MAX);
    let offset = segment.reserve(u64::from(sealed_len(bound)))?;
    commit.heads = heads();
    let (number, framed) = segment.seal_meta(RecordKind::Commit, &commit.encode())?;
    let sealed = u32::try_from(framed.len()).expect("sealed within the limit of a record");
    debug_assert!(sealed <= sealed_len(bound), "two more heads fit into the spare room");
    segment.write_at(&framed, offset)?;
    Ok(CommitPlace {
        offset: FileOffset(offset),
        sealed_len: sealed,
        number,
        salt: Salt(segment.salt().salt),
        digest: digest(&framed),
    })
}

/// The segments of a commit under construction, each once.
#[derive(Default)]
pub(crate) struct SegmentTable {
    segments: Vec<SegmentSalt>,
}

impl SegmentTable {
    /// The position of a segment, which is put in if it is not there.
    pub(crate) fn add(&mut self, segment: SegmentSalt) -> u32 {
        let known = self.segments.iter().position(|known| *known == segment);
        let position = known.unwrap_or_else(|| {
            self.segments.push(segment);
            self.segments.len() - 1
        });
        u32::try_from(position).expect("a commit has fewer than 2^32 trees")
    }

    /// All of them, by position.
    pub(crate) fn into_segments(self) -> Vec<SegmentSalt> {
        self.segments
    }

    fn tree(&mut self, before: &Commit, tree: TreeRef) -> TreeRef {
        TreeRef { segment: self.add(before.segments[tree.segment as usize].clone()), ..tree }
    }
}
