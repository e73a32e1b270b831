//! What does a bench need to ask what an index of a million entries costs? Trees without files: sealed blocks in memory,
//! and a vault that has an index of entries whose content nobody stored.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::crypto::derive::{SegmentKeys, segment_keys};
use crate::crypto::key::MasterKey;
use crate::engine::commit::{Ready, about_this_run};
use crate::engine::config::{DEFAULT_CHUNK_SIZE, PipelineConfig};
use crate::engine::resolve::SegmentUnion;
use crate::engine::run::Run;
use crate::engine::segment::SegmentWriter;
use crate::engine::vault::Vault;
use crate::error::{Error, Malformation, Result};
use crate::format::entry::{Entry, EntryPath, EntryType, Extent, Owner, SegmentIndex};
use crate::format::index::{BlockRef, Item, RecordPlace, SegmentSalt};
use crate::format::merge::Merge;
use crate::format::record::{RecordId, RecordKind, Salt, VaultId, open_meta, seal_meta, sealed_len};
use crate::format::tree::{BlockSink, BlockSource, Tree, TreeCursor, TreeWriter};
use crate::primitives::fs::Timestamp;

/// So many files share a data record, each with an equal part of it.
const FILES_PER_RECORD: u64 = 512;
/// The part of one: 8 KiB.
const FILE_ROOM: u32 = DEFAULT_CHUNK_SIZE / 512;

/// An entry as `add` makes it of a small file or of a directory.
#[derive(Debug)]
pub struct IndexEntry(Item);

impl IndexEntry {
    /// - `number`: its position among all, which says where its content would be;
    /// - `noise`: size and times follow from it.
    ///
    /// # Panics
    /// If no entry can have that name.
    #[must_use]
    pub fn new(path: &str, is_directory: bool, number: u64, noise: u64) -> Self {
        let nanos = |bits: u64| u32::try_from(bits % 1_000_000_000).expect("fewer than 2^32");
        let secs = 1_700_000_000 + i64::from(nanos(noise >> 8) % 31_536_000);
        let size = if is_directory { 0 } else { 1 + noise % u64::from(FILE_ROOM) };
        let offset = u32::try_from(number % FILES_PER_RECORD).expect("fewer than 512") * FILE_ROOM;
        let content = Extent::Data {
            segment: SegmentIndex(0),
            first: number / FILES_PER_RECORD,
            count: 1,
            record_len: DEFAULT_CHUNK_SIZE,
            offset,
            len: size,
        };
        Self(Item::Put(Box::new(Entry {
            path: EntryPath::parse(path.as_bytes()).expect("the caller's names are allowed"),
            entry_type: if is_directory { EntryType::Directory } else { EntryType::File },
            mode: if is_directory { 0o755 } else { 0o644 },
            owner: Owner { uid: 1000, gid: 1000, user: "user".into(), group: "users".into() },
            mtime: Timestamp { secs, nanos: nanos(noise >> 16) },
            ctime: Timestamp { secs, nanos: nanos(noise >> 24) },
            dev: 65_024,
            ino: 1_000_000 + number,
            size,
            rdev: 0,
            target: Vec::new(),
            extents: if is_directory { Vec::new() } else { vec![content] },
            link: None,
            xattrs: Vec::new(),
            changed: false,
            racy: false,
        })))
    }
}

/// Writes entries as a tree of one segment, with a table of the records that they refer to.
fn write(
    entries: impl IntoIterator<Item = impl Borrow<IndexEntry>>,
    segment: SegmentSalt,
    sink: &mut dyn BlockSink,
) -> Result<(BlockRef, u64)> {
    let mut writer = TreeWriter::default();
    let mut records: Vec<RecordPlace> = Vec::new();
    for entry in entries {
        let IndexEntry(item) = entry.borrow();
        if let Item::Put(entry) = item
            && let Some(&Extent::Data { first: number, .. }) = entry.extents.first()
            && records.last().is_none_or(|last| last.number < number)
        {
            let len = sealed_len(DEFAULT_CHUNK_SIZE);
            let offset = number * u64::from(len);
            records.push(RecordPlace { number, offset, sealed_len: len, plain_len: DEFAULT_CHUNK_SIZE });
        }
        writer.push(item, sink)?;
    }
    writer.finish(vec![segment], BTreeMap::from([(0, records)]), Vec::new(), sink)
}

/// Sealed blocks in memory: the number of a reference is a position among them.
struct SealedBlocks {
    keys: SegmentKeys,
    salt: Salt,
    framed: Mutex<Vec<Vec<u8>>>,
}

impl SealedBlocks {
    /// Without a block, under a key of its own.
    fn new() -> Result<Arc<Self>> {
        let salt = Salt::generate()?;
        let keys = segment_keys(&MasterKey::generate()?, &salt.0, &VaultId::generate()?.0);
        Ok(Arc::new(Self { keys, salt, framed: Mutex::default() }))
    }

    fn segment(&self) -> SegmentSalt {
        SegmentSalt { salt: self.salt.0, wrapped: Vec::new() }
    }
}

impl BlockSink for &SealedBlocks {
    fn put(&mut self, kind: RecordKind, plain: &[u8]) -> Result<BlockRef> {
        let mut framed = self.framed.lock().unwrap_or_else(PoisonError::into_inner);
        let number = framed.len() as u64;
        let block = seal_meta(&self.keys, self.salt.segment_id(), kind, number, plain)?;
        let sealed_len = u32::try_from(block.len()).expect("metadata records are at most 16 MiB");
        framed.push(block);
        Ok(BlockRef { number, offset: 0, sealed_len })
    }
}

impl BlockSource for SealedBlocks {
    fn get(&self, _segment: &SegmentSalt, kind: RecordKind, block: &BlockRef) -> Result<Vec<u8>> {
        let framed = self.framed.lock().unwrap_or_else(PoisonError::into_inner);
        let found = usize::try_from(block.number).ok().and_then(|number| framed.get(number));
        let found = found.ok_or_else(|| self.malformed(block, Malformation::Truncated { structure: "block" }))?;
        let id = RecordId { segment: self.salt.segment_id(), kind, number: block.number };
        open_meta(&self.keys, &id, found).map_err(|why| self.malformed(block, why))
    }

    fn malformed(&self, block: &BlockRef, why: Malformation) -> Error {
        Error::malformed("blocks", block.offset, why)
    }
}

/// An index in memory, in sealed blocks as they stand in a vault.
pub struct Index {
    tree: Arc<Tree>,
    /// For [`Index::seek`]: making one goes down to the first entry, which is not to be measured.
    cursor: TreeCursor,
}

impl Index {
    /// The index of these entries, which come in its order.
    ///
    /// # Errors
    /// [`Error::Io`] without random numbers.
    pub fn of(entries: impl IntoIterator<Item = impl Borrow<IndexEntry>>) -> Result<Self> {
        let blocks = SealedBlocks::new()?;
        let (head, _) = write(entries, blocks.segment(), &mut &*blocks)?;
        Self::open(blocks, &head)
    }

    fn open(blocks: Arc<SealedBlocks>, head: &BlockRef) -> Result<Self> {
        let segment = blocks.segment();
        let tree = Arc::new(Tree::open(blocks, segment, head)?);
        Ok(Self { cursor: TreeCursor::new(Arc::clone(&tree))?, tree })
    }

    /// Opens every leaf and decodes every entry; says how many there are.
    ///
    /// # Errors
    /// None that a bench meets.
    pub fn decode(&self) -> Result<usize> {
        let mut cursor = TreeCursor::new(Arc::clone(&self.tree))?;
        let mut count = 0;
        while cursor.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Goes down to one path, a block a level, and no further; says whether it is there.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that no entry can have.
    pub fn seek(&mut self, path: &str) -> Result<bool> {
        let path = parse(path)?;
        self.cursor.seek(&path)?;
        Ok(self.cursor.peek() == Some(&path))
    }

    /// Looks one path up as `get` does, with whatever is above it; says whether it is there.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that no entry can have.
    pub fn look_up(&self, path: &str) -> Result<bool> {
        let path = parse(path)?;
        let mut merge = self.merge(None)?;
        merge.seek(&path)?;
        Ok(merge.next()?.is_some_and(|(_, entry)| entry.path == path))
    }

    fn trees(&self, delta: Option<&Self>) -> Vec<Arc<Tree>> {
        [Some(self), delta].into_iter().flatten().map(|index| Arc::clone(&index.tree)).collect()
    }

    fn merge(&self, delta: Option<&Self>) -> Result<Merge> {
        Merge::new(self.trees(delta), Arc::from(Path::new("blocks")))
    }

    /// Reads this index and a delta after it as one list; says how many entries that has.
    ///
    /// # Errors
    /// None that a bench meets.
    pub fn merged(&self, delta: Option<&Self>) -> Result<usize> {
        let mut merge = self.merge(delta)?;
        let mut count = 0;
        while merge.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// This index and a delta after it as a new index, as a run writes one that is due.
    ///
    /// # Errors
    /// [`Error::Io`] without random numbers.
    pub fn written_anew(&self, delta: &Self) -> Result<Self> {
        let blocks = SealedBlocks::new()?;
        let mut sink = &*blocks;
        let mut merge = self.merge(Some(delta))?;
        let mut union = SegmentUnion::new(&self.trees(Some(delta)), Arc::from(Path::new("blocks")));
        let mut writer = TreeWriter::default();
        while let Some((tree, mut entry)) = merge.next()? {
            union.adopt(tree, &mut entry)?;
            writer.push(&Item::Put(entry), &mut sink)?;
        }
        let (segments, records) = union.finish();
        let (head, _) = writer.finish(segments, records, Vec::new(), &mut sink)?;
        Self::open(blocks, &head)
    }
}

fn parse(path: &str) -> Result<EntryPath> {
    EntryPath::parse(path.as_bytes()).map_err(|why| Error::Usage(why.to_string()))
}

/// Commits these entries to a vault as the delta of an `add`. The records that they refer to are not there: what reads the
/// index alone does not notice.
///
/// # Errors
/// As [`Vault::add`].
pub fn commit_entries(vault: &Vault, entries: impl IntoIterator<Item = IndexEntry>) -> Result<()> {
    let config = PipelineConfig::default();
    let (result, _) = Run::conduct("add", vault.path(), &config, &(), |run| {
        let writer = vault.writer(run)?;
        let base = &writer.state;
        let segment = SegmentWriter::new(Arc::clone(&base.storage), vault.path(), &vault.keys, &run.stop, None)?;
        vault.commit_segment(run, base, &segment, || {
            let delta = write(entries, segment.salt(), &mut &segment)?;
            Ok(Ready { delta, full: None, snapshot: about_this_run(&[], &[]), skipped: None })
        })
    });
    result.map(drop)
}
