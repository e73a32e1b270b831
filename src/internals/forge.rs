//! What does a vault look like that says something else, with valid cryptography all around it? For fuzz targets, which
//! would never get past a MAC by chance.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use zstd::zstd_safe::DCtx;

use crate::crypto::derive::segment_keys;
use crate::engine::state::VaultKeys;
use crate::engine::vault::Vault;
use crate::format::header::{
    EXTENTS_AT, HEADER_A_AT, HEADER_B_AT, HEADER_LEN, ROOT_A_AT, ROOT_B_AT, ROOT_LEN, UnverifiedRoot,
};
use crate::format::index::{BlockRef, RecordPlace, encode_onto};
use crate::format::record::{
    Codec, RECORD_ALIGNMENT, RECORD_HEADER_LEN, RecordHeader, RecordKind, SEGMENT_HEADER_LEN, Salt, SegmentHeader,
    SegmentId, digest, open_record, unpack,
};

/// Which bytes of a structure are changed. Of what is no record, all three are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A record's header. Nothing can be put in or taken out there.
    Frame,
    /// The packed plaintext; the codec stays, the lengths follow.
    Packed,
    /// The plaintext, which is then stored as it is; the lengths follow.
    Plain,
}

/// A change of one structure.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Which one: 0 and 1 are the headers, 2 and 3 the roots, then come segment headers and records in the order of the
    /// file. Taken modulo their number.
    pub structure: u16,
    /// What of it.
    pub part: Part,
    /// Where, modulo the length.
    pub at: u32,
    /// So many bytes go.
    pub removed: u8,
    /// These come in their place.
    pub inserted: Vec<u8>,
}

struct Record {
    place: Range<usize>,
    salt: Salt,
    header: RecordHeader,
    packed: Vec<u8>,
    /// `None` if it does not unpack, as in some vaults that are wrong on purpose.
    plain: Option<Vec<u8>>,
}

enum Structure {
    Header(usize),
    Root(usize),
    Segment(usize),
    Record(Record),
}

/// A vault taken apart, to be put together otherwise.
pub struct Forge {
    bytes: Vec<u8>,
    keys: Arc<VaultKeys>,
    structures: Vec<Structure>,
}

/// The offset as a position in memory.
fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("a vault that is in memory is no longer than that")
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Puts the checksum of all before it at the end.
fn mend_checksum(bytes: &mut [u8]) {
    if let Some((head, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32c::crc32c(head).to_le_bytes();
    }
}

/// Puts other bytes in the place of as many.
fn overwrite(bytes: &mut [u8], edit: &Edit) {
    let at = edit.at as usize % bytes.len().max(1);
    bytes[at..].iter_mut().zip(&edit.inserted).for_each(|(byte, other)| *byte = *other);
}

fn splice(bytes: &mut Vec<u8>, edit: &Edit) {
    let at = edit.at as usize % (bytes.len() + 1);
    let end = bytes.len().min(at + usize::from(edit.removed));
    bytes.splice(at..end, edit.inserted.iter().copied());
}

/// Puts each of `known` in the place of what it replaces; says whether there was any.
fn substitute(bytes: &mut Vec<u8>, known: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let mut changed = false;
    for (old, new) in known {
        let mut from = 0;
        while let Some(at) = bytes[from..].windows(old.len()).position(|w| w[0] == old[0] && w == old) {
            bytes.splice(from + at..from + at + old.len(), new.iter().copied());
            from += at + new.len();
            changed = true;
        }
    }
    changed
}

impl Forge {
    /// Takes a vault apart. What does not open as it is cannot be changed later.
    #[must_use]
    pub fn new(vault: &Vault, bytes: &[u8]) -> Self {
        let keys = Arc::clone(&vault.keys);
        let mut structures: Vec<_> =
            [HEADER_A_AT, HEADER_B_AT].into_iter().map(|at| Structure::Header(position(at))).collect();
        structures.extend([ROOT_A_AT, ROOT_B_AT].into_iter().map(|at| Structure::Root(position(at))));
        let mut forge = Self { bytes: bytes.to_vec(), keys, structures };
        let mut salts: HashMap<SegmentId, Salt> = HashMap::new();
        for at in (position(EXTENTS_AT)..bytes.len()).step_by(RECORD_ALIGNMENT as usize) {
            if let Some(head) = bytes[at..].first_chunk::<SEGMENT_HEADER_LEN>()
                && let Ok(head) = SegmentHeader::decode(head)
            {
                salts.insert(head.salt.segment_id(), head.salt);
                forge.structures.push(Structure::Segment(at));
            } else if let Some(record) = forge.record(at, &salts) {
                forge.structures.push(Structure::Record(record));
            }
        }
        forge
    }

    /// How many structures there are.
    #[must_use]
    pub fn structures(&self) -> usize {
        self.structures.len()
    }

    fn record(&self, at: usize, salts: &HashMap<SegmentId, Salt>) -> Option<Record> {
        let (head, rest) = self.bytes[at..].split_first_chunk::<RECORD_HEADER_LEN>()?;
        let header = RecordHeader::decode(head).ok()?;
        let salt = *salts.get(&header.segment)?;
        let len = position(header.packed_len.into());
        let mut packed = rest.get(..len)?.to_vec();
        let tag = rest[len..].first_chunk()?;
        let keys = segment_keys(&self.keys.master, &salt.0, &self.keys.vault_id.0);
        open_record(&keys, &header.id(), head, &mut packed, tag).ok()?;
        let plain = match header.codec {
            Codec::Store => Some(packed.clone()),
            Codec::Zstd => {
                let mut plain = vec![0; position(header.plain_len.into())];
                let mut decompressor = DCtx::try_create()?;
                unpack(&mut decompressor, &packed, &mut plain).ok().map(|()| plain)
            }
        };
        Some(Record { place: at..at + RECORD_HEADER_LEN + len + tag.len(), salt, header, packed, plain })
    }

    /// The vault with these changes. Whatever refers to a record that became longer or shorter, or by its digest, follows
    /// it to its new place; then everything is sealed again.
    #[must_use]
    pub fn forge(&self, edits: &[Edit]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let mut known = Vec::new();
        let mut moved = HashMap::new();
        let of = |number: usize| {
            let count = self.structures.len();
            edits.iter().filter(move |edit| usize::from(edit.structure) % count == number)
        };
        for (number, structure) in self.structures.iter().enumerate() {
            match structure {
                Structure::Record(record) => self.forge_record(record, of(number), &mut bytes, &mut known, &mut moved),
                Structure::Segment(at) => {
                    let head = &mut bytes[*at..*at + SEGMENT_HEADER_LEN];
                    let mut edits = of(number).peekable();
                    if edits.peek().is_some() {
                        edits.for_each(|edit| overwrite(head, edit));
                        mend_checksum(head);
                    }
                }
                Structure::Header(_) | Structure::Root(_) => {}
            }
        }
        // The preamble last: roots follow their commit records.
        for (number, structure) in self.structures.iter().enumerate() {
            match structure {
                Structure::Header(at) if of(number).next().is_some() && bytes.len() >= at + HEADER_LEN => {
                    let header = &mut bytes[*at..*at + HEADER_LEN];
                    of(number).for_each(|edit| overwrite(header, edit));
                    let mac_at = HEADER_LEN - 36;
                    let mac = self.keys.header.mac(&header[..mac_at]);
                    header[mac_at..mac_at + mac.len()].copy_from_slice(&mac);
                    mend_checksum(header);
                }
                Structure::Root(at) if bytes.len() >= at + ROOT_LEN => {
                    self.forge_root(*at, of(number), &mut bytes, &moved);
                }
                _ => {}
            }
        }
        bytes
    }

    fn forge_record<'e>(
        &self,
        record: &Record,
        edits: impl Iterator<Item = &'e Edit>,
        bytes: &mut Vec<u8>,
        known: &mut Vec<(Vec<u8>, Vec<u8>)>,
        moved: &mut HashMap<u64, BlockRef>,
    ) {
        let (mut header, mut packed) = (record.header, record.packed.clone());
        let mut plain = record.plain.clone();
        // Content refers to nothing.
        let refers = header.kind != RecordKind::Data;
        let mut changed = plain.as_mut().is_some_and(|plain| refers && substitute(plain, known));
        let edits: Vec<_> = edits.collect();
        let of = |part: Part| edits.iter().filter(move |edit| edit.part == part);
        if let Some(plain) = &mut plain {
            changed |= of(Part::Plain).map(|edit| splice(plain, edit)).count() > 0;
            if changed {
                packed.clone_from(plain);
                header.codec = Codec::Store;
                header.plain_len = length(plain);
            }
        }
        let packed_edits = of(Part::Packed).map(|edit| splice(&mut packed, edit)).count();
        header.packed_len = length(&packed);
        if packed_edits > 0 && header.codec == Codec::Store {
            header.plain_len = header.packed_len;
        }
        let mut head = header.encode();
        let frame_edits = of(Part::Frame).map(|edit| overwrite(&mut head, edit)).count();
        if !changed && packed_edits + frame_edits == 0 {
            return;
        }
        let mut aad = head;
        aad[RECORD_HEADER_LEN - 4..].fill(0);
        mend_checksum(&mut head);
        // New for each record: debug builds count the numbers that one value has sealed.
        let keys = segment_keys(&self.keys.master, &record.salt.0, &self.keys.vault_id.0);
        let cipher = if record.header.kind == RecordKind::Data { &keys.data } else { &keys.meta };
        let Ok(tag) = cipher.seal(header.number, &aad, &mut packed) else { return };
        let sealed: Vec<u8> = head.iter().chain(&packed).chain(&tag).copied().collect();
        let at = if sealed.len() == record.place.len() {
            record.place.start
        } else {
            bytes.len().next_multiple_of(RECORD_ALIGNMENT as usize)
        };
        bytes.resize(bytes.len().max(at + sealed.len()), 0);
        bytes[at..at + sealed.len()].copy_from_slice(&sealed);

        let number = header.number;
        let old = BlockRef {
            number,
            offset: record.place.start as u64,
            sealed_len: length(&self.bytes[record.place.clone()]),
        };
        let new = BlockRef { number, offset: at as u64, sealed_len: length(&sealed) };
        let encoded = |value: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            value(&mut bytes);
            bytes
        };
        match header.kind {
            RecordKind::Data => {
                let place = |block: BlockRef, plain_len| RecordPlace {
                    number,
                    offset: block.offset,
                    sealed_len: block.sealed_len,
                    plain_len,
                };
                let (old, new) = (place(old, record.header.plain_len), place(new, header.plain_len));
                if old != new {
                    known.push((encoded(&|to| encode_onto(&old, to)), encoded(&|to| encode_onto(&new, to))));
                }
            }
            kind => {
                if old != new {
                    known.push((encoded(&|to| encode_onto(&old, to)), encoded(&|to| encode_onto(&new, to))));
                }
                if kind == RecordKind::Commit {
                    known.push((digest(&self.bytes[record.place.clone()]).to_vec(), digest(&sealed).to_vec()));
                    moved.insert(old.offset, new);
                }
            }
        }
    }

    /// Makes a root follow its commit record, and changes it.
    fn forge_root<'e>(
        &self,
        at: usize,
        edits: impl Iterator<Item = &'e Edit>,
        bytes: &mut [u8],
        moved: &HashMap<u64, BlockRef>,
    ) {
        // docs/FORMAT.md, chapter 5.1.
        const COMMIT: Range<usize> = 40..52;
        const END: Range<usize> = 64..72;
        const DIGEST: Range<usize> = 112..144;
        const MAC_AT: usize = ROOT_LEN - 36;
        let Ok(mut root) = <[u8; ROOT_LEN]>::try_from(&bytes[at..at + ROOT_LEN]) else { return };
        let is_whole =
            UnverifiedRoot::decode(&root).is_ok_and(|r| r.verify(&self.keys.root, &self.keys.vault_id).is_ok());
        let mut edits = edits.peekable();
        if !is_whole && edits.peek().is_none() {
            return;
        }
        let offset = u64::from_le_bytes(root[COMMIT.start..COMMIT.start + 8].try_into().expect("eight bytes"));
        if let Some(new) = moved.get(&offset).filter(|_| is_whole) {
            let record = &bytes[position(new.offset)..position(new.offset) + position(new.sealed_len.into())];
            root[COMMIT][..8].copy_from_slice(&new.offset.to_le_bytes());
            root[COMMIT][8..].copy_from_slice(&new.sealed_len.to_le_bytes());
            root[DIGEST].copy_from_slice(&digest(record));
        }
        if bytes.len() > self.bytes.len() {
            root[END].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        }
        edits.for_each(|edit| overwrite(&mut root, edit));
        let mac = self.keys.root.mac(&root[..MAC_AT]);
        root[MAC_AT..MAC_AT + mac.len()].copy_from_slice(&mac);
        mend_checksum(&mut root);
        bytes[at..at + ROOT_LEN].copy_from_slice(&root);
    }
}
