//! What do fuzz targets look at that users never see? Single structures, with what must hold of each that decodes.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use zstd::zstd_safe::DCtx;

use crate::crypto::derive::{SegmentKeys, segment_keys};
use crate::crypto::key::{MasterKey, Password};
use crate::engine::state::VaultKeys;
use crate::error::{Error, Malformation, Result};
use crate::format::commit::Commit;
use crate::format::entry::EntryPath;
use crate::format::header::{HEADER_LEN, ROOT_LEN, UnverifiedHeader, UnverifiedRoot};
use crate::format::index::{
    BlockRef, Item, LeafBuilder, SegmentSalt, TreeHead, decode_leaf, decode_node, decode_record_table,
};
use crate::format::keyslot::{password_slots, unlock};
use crate::format::merge::Merge;
use crate::format::record::{
    MAX_PLAIN_LEN, RECORD_HEADER_LEN, RecordHeader, RecordId, RecordKind, SEGMENT_HEADER_LEN, Salt, SegmentHeader,
    SegmentId, VaultId, open_meta, seal_meta,
};
use crate::format::tree::{BlockSource, Tree, TreeCursor};
use crate::primitives::storage::Storage;

/// Trying a password on a header that costs more than this, in KiB times passes, is left to other tests.
const BEARABLE_COST: u64 = 256;

fn keys() -> &'static VaultKeys {
    static KEYS: OnceLock<VaultKeys> = OnceLock::new();
    KEYS.get_or_init(|| VaultKeys::derive(VaultId([7; 16]), MasterKey::generate().expect("there are random numbers")))
}

fn padded<const N: usize>(bytes: &[u8]) -> Box<[u8; N]> {
    let mut whole = bytes[..bytes.len().min(N)].to_vec();
    whole.resize(N, 0);
    whole.into_boxed_slice().try_into().expect("as many as were asked for")
}

fn mend_checksum(bytes: &mut [u8]) {
    if let Some((head, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32c::crc32c(head).to_le_bytes();
    }
}

/// Decodes the bytes as header, root, segment header and record header, as they are and with the right MAC and checksum:
/// what decodes and is authentic is written again as the same bytes.
///
/// # Panics
/// If that does not hold.
pub fn fixed_places(bytes: &[u8]) {
    let keys = keys();
    let mut header = padded::<HEADER_LEN>(bytes);
    let _ = UnverifiedHeader::decode(&header);
    let mac_at = HEADER_LEN - 36;
    let mac = keys.header.mac(&header[..mac_at]);
    header[mac_at..HEADER_LEN - 4].copy_from_slice(&mac);
    mend_checksum(&mut header[..]);
    if let Ok(decoded) = UnverifiedHeader::decode(&header) {
        if cost_of_all_slots(&decoded) <= BEARABLE_COST {
            let found = unlock(decoded.slots(), &decoded.vault_id(), &Password::new("fuzz"));
            assert!(found.is_err(), "no slot was made for this password");
        }
        let slots = decoded.slots().to_vec();
        let verified = decoded.verify(&keys.header).expect("its MAC was just made");
        assert!(verified.encode(&keys.header) == header, "a header is written as it was read");
        if let Ok(next) = verified.with_slots(slots) {
            let next = next.encode(&keys.header);
            UnverifiedHeader::decode(&next).expect("what is written can be read");
        }
    }

    let mut root = padded::<ROOT_LEN>(bytes);
    let _ = UnverifiedRoot::decode(&root);
    let mac_at = ROOT_LEN - 36;
    let mac = keys.root.mac(&root[..mac_at]);
    root[mac_at..ROOT_LEN - 4].copy_from_slice(&mac);
    mend_checksum(&mut root[..]);
    if let Ok(verified) = UnverifiedRoot::decode(&root).and_then(|root| root.verify(&keys.root, &keys.vault_id)) {
        assert!(verified.encode(&keys.root) == *root, "a root is written as it was read");
    }

    let mut segment = padded::<SEGMENT_HEADER_LEN>(bytes);
    let _ = SegmentHeader::decode(&segment);
    mend_checksum(&mut segment[..]);
    if let Ok(decoded) = SegmentHeader::decode(&segment) {
        assert!(decoded.encode() == *segment, "a segment header is written as it was read");
    }

    let mut record = padded::<RECORD_HEADER_LEN>(bytes);
    let _ = RecordHeader::decode(&record);
    mend_checksum(&mut record[..]);
    if let Ok(decoded) = RecordHeader::decode(&record) {
        assert!(decoded.encode() == *record, "a record header is written as it was read");
    }
}

/// What trying a password on all slots costs. Nobody has checked the parameters yet: they may be anything.
fn cost_of_all_slots(header: &UnverifiedHeader) -> u64 {
    password_slots(header.slots()).fold(0, |sum, slot| sum.saturating_add(slot.params().cost()))
}

/// What trying a password on this vault costs, in KiB times passes, by the dearer copy of its header; `None` if neither
/// copy decodes.
#[must_use]
pub fn key_derivation_cost(storage: &dyn Storage) -> Option<u64> {
    let copies = crate::engine::state::read_headers(storage, Path::new("vault"), false).ok()?;
    copies.iter().filter_map(|(_, copy)| copy.as_ref().ok().map(cost_of_all_slots)).max()
}

/// A segment's records, sealed and opened with keys of their own.
pub struct Records {
    master: MasterKey,
    salt: Salt,
    segment: SegmentId,
}

impl Records {
    /// With a key drawn at random.
    ///
    /// # Errors
    /// [`Error::Io`] without random numbers.
    pub fn new() -> Result<Self> {
        let salt = Salt([9; 32]);
        Ok(Self { master: MasterKey::generate()?, salt, segment: salt.segment_id() })
    }

    /// New for each record: debug builds count the numbers that one value has sealed.
    fn keys(&self) -> SegmentKeys {
        segment_keys(&self.master, &self.salt.0, &keys().vault_id.0)
    }

    fn id(&self, kind: RecordKind, number: u64) -> RecordId {
        RecordId { segment: self.segment, kind, number }
    }

    /// Opens bytes that nobody sealed, with a right checksum.
    ///
    /// # Panics
    /// If they open.
    pub fn open(&self, framed: &[u8]) {
        let mut framed = framed.to_vec();
        if let Some(head) = framed.first_chunk_mut::<RECORD_HEADER_LEN>() {
            // Near enough to get past the first checks.
            head[..5].copy_from_slice(b"FLRC\x01");
            head[8..24].copy_from_slice(&self.segment.0);
            mend_checksum(head);
        }
        let head = framed.first_chunk::<RECORD_HEADER_LEN>().map(RecordHeader::decode);
        let id = match head {
            Some(Ok(head)) => head.id(),
            _ => self.id(RecordKind::IndexLeaf, 0),
        };
        assert!(open_meta(&self.keys(), &id, &framed).is_err(), "it opened without having been sealed");
    }

    /// Seals `packed` under this header, as a hostile writer does, and opens it: what opens has the length that the header
    /// says.
    ///
    /// # Panics
    /// If it has not.
    pub fn seal_and_open(&self, head: &[u8; RECORD_HEADER_LEN], packed: &[u8]) {
        let mut head = *head;
        head[..5].copy_from_slice(b"FLRC\x01");
        head[8..24].copy_from_slice(&self.segment.0);
        head[36..40].copy_from_slice(&u32::try_from(packed.len()).unwrap_or(u32::MAX).to_le_bytes());
        mend_checksum(&mut head);
        let Ok(header) = RecordHeader::decode(&head) else { return };
        let keys = self.keys();
        let cipher = if header.kind == RecordKind::Data { &keys.data } else { &keys.meta };
        let mut ciphertext = packed.to_vec();
        let Ok(tag) = cipher.seal(header.number, &header.aad(), &mut ciphertext) else { return };
        let framed: Vec<u8> = head.iter().chain(&ciphertext).chain(&tag).copied().collect();
        if let Ok(plain) = open_meta(&self.keys(), &header.id(), &framed) {
            assert_eq!(u32::try_from(plain.len()), Ok(header.plain_len), "as long as it says");
        }
        let other = RecordId { number: header.number ^ 1, ..header.id() };
        assert!(open_meta(&self.keys(), &other, &framed).is_err(), "a record opened in another's place");
    }

    /// Seals a metadata record as the program does, and opens it.
    ///
    /// # Panics
    /// If it is not what it was.
    pub fn there_and_back(&self, plain: &[u8]) {
        let framed = seal_meta(&self.keys(), self.segment, RecordKind::IndexLeaf, 0, plain);
        let framed = framed.expect("it is short and its number is fresh");
        let opened = open_meta(&self.keys(), &self.id(RecordKind::IndexLeaf, 0), &framed);
        assert!(opened.expect("it was sealed with this key") == plain, "a record holds what was put in");
    }
}

/// Unpacks a zstd frame that nobody vouches for, into as many bytes as it is said to have.
pub fn unpack(packed: &[u8], plain_len: u32) {
    let mut plain = vec![0; usize::try_from(plain_len.min(MAX_PLAIN_LEN)).unwrap_or_default()];
    if let Some(mut decompressor) = DCtx::try_create() {
        let _ = crate::format::record::unpack(&mut decompressor, packed, &mut plain);
    }
}

/// Decodes the plaintext of a metadata record of a kind: what decodes, decodes again as the same when it is written.
///
/// # Panics
/// If that does not hold.
pub fn metadata(kind: u8, bytes: &[u8]) {
    const SEGMENTS: u32 = 3;
    match kind % 6 {
        0 => {
            let Ok(items) = decode_leaf(bytes, SEGMENTS) else { return };
            let mut leaf = LeafBuilder::default();
            for item in &items {
                check_path(item.item.path());
                leaf.push(&item.item, item.overflow.clone());
            }
            let (again, first) = leaf.finish();
            assert_eq!(first, items[0].item.path().as_bytes());
            let again = decode_leaf(&again, SEGMENTS).expect("what is written can be read");
            let same = items.iter().zip(&again).all(|(one, other)| {
                // The lists beside a reference to overflow blocks are ignored, and written as they were ignored.
                one.overflow == other.overflow && (one.item == other.item || !one.overflow.is_empty())
            });
            assert!(same && items.len() == again.len(), "a leaf is read as it was written");
        }
        1 => {
            if let Ok(children) = decode_node(bytes) {
                assert!(!children.is_empty(), "a node has a child");
            }
        }
        2 => {
            if let Ok(places) = decode_record_table(bytes) {
                assert!(places.windows(2).all(|pair| pair[0].number < pair[1].number));
                assert!(places.iter().all(|place| place.offset.checked_add(place.sealed_len.into()).is_some()));
            }
        }
        3 => {
            if let Ok(head) = TreeHead::decode(bytes) {
                let again = TreeHead::decode(&head.encode()).expect("what is written can be read");
                assert!(head == again, "a tree head is read as it was written");
            }
        }
        4 => {
            if let Ok(commit) = Commit::decode(bytes) {
                let again = Commit::decode(&commit.encode()).expect("what is written can be read");
                assert!(commit == again, "a commit record is read as it was written");
            }
        }
        _ => {
            if let Ok(path) = EntryPath::parse(bytes) {
                check_path(&path);
            }
        }
    }
}

/// No path that is accepted leads anywhere but down.
fn check_path(path: &EntryPath) {
    use std::path::Component;
    assert!(path.as_path().components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
    assert!(!path.as_bytes().contains(&0), "{path:?}");
}

/// Blocks that are in memory: the number of a reference is a position among them.
struct Blocks(Vec<Vec<u8>>);

impl BlockSource for Blocks {
    fn get(&self, _segment: &SegmentSalt, _kind: RecordKind, block: &BlockRef) -> Result<Vec<u8>> {
        let found = usize::try_from(block.number).ok().and_then(|number| self.0.get(number));
        found.cloned().ok_or_else(|| self.malformed(block, Malformation::Truncated { structure: "block" }))
    }

    fn malformed(&self, block: &BlockRef, why: Malformation) -> Error {
        Error::malformed("blocks", block.offset, why)
    }
}

/// Reads and merges the trees whose heads are the first `heads` of these blocks. Entries come in strictly ascending order
/// of their paths, whatever the blocks say; looking for a path finds what reading all of them finds.
///
/// # Panics
/// If that does not hold.
pub fn trees(blocks: Vec<Vec<u8>>, heads: usize) {
    let vault: Arc<Path> = Arc::from(Path::new("blocks"));
    let source: Arc<dyn BlockSource> = Arc::new(Blocks(blocks));
    let segment = SegmentSalt { salt: [1; 32], wrapped: Vec::new() };
    let head = |number: usize| BlockRef { number: number as u64, offset: 0, sealed_len: 80 };
    let open = |number| Tree::open(Arc::clone(&source), segment.clone(), &head(number));
    let Ok(trees) = (0..heads).map(|number| open(number).map(Arc::new)).collect::<Result<Vec<_>>>() else { return };
    for tree in &trees {
        for table in &tree.head().records {
            let _ = tree.record_table(table);
        }
        check_cursor(tree);
    }
    for tolerant in [false, true] {
        let merge = if tolerant { Merge::tolerant } else { Merge::new };
        let Ok(mut merge) = merge(trees.clone(), Arc::clone(&vault)) else { continue };
        let mut paths: Vec<EntryPath> = Vec::new();
        let whole = loop {
            match merge.next() {
                Ok(Some((position, entry))) => {
                    assert!(position < trees.len());
                    assert!(paths.last().is_none_or(|last| *last < entry.path), "entries ascend: {:?}", entry.path);
                    paths.push(entry.path);
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        let _ = merge.take_lost();
        if whole && !tolerant {
            for path in &paths {
                merge.seek(path).expect("all of it was read");
                let found = merge.next().expect("all of it was read").map(|(_, entry)| entry.path);
                assert_eq!(found.as_ref(), Some(path), "who looks for a path finds it");
            }
        }
    }
}

fn check_cursor(tree: &Arc<Tree>) {
    let Ok(mut cursor) = TreeCursor::new(Arc::clone(tree)) else { return };
    let mut paths: Vec<EntryPath> = Vec::new();
    loop {
        match cursor.next() {
            Ok(Some(item)) => {
                if let Item::Put(entry) = &item {
                    let sum = entry.extents.iter().map(|extent| u128::from(extent.len())).sum::<u128>();
                    assert!(sum == u128::from(entry.size), "extents make up the size");
                }
                assert!(paths.last().is_none_or(|last| last < item.path()), "items ascend");
                paths.push(item.path().clone());
            }
            Ok(None) => break,
            Err(_) => return,
        }
    }
    for path in &paths {
        cursor.seek(path).expect("all of it was read");
        assert_eq!(cursor.peek(), Some(path), "who looks for a path finds it");
    }
}
