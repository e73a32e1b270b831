//! docs/FORMAT.md, "Segments, extents and records": how does a piece of a vault stand in the file, sealed and framed?
//!
//! ```text
//! extent   ┌────────────────────────┬────────┬────────┬─ ─
//!          │ segment header, 256 B  │ record │ record │
//!          └────────────────────────┴────────┴────────┴─ ─
//! record   ┌──────────────────────┬──────────────────────────┬──────────┐
//!          │ record header, 64 B  │ ciphertext, packed length │ tag, 16 B│
//!          └──────────────────────┴──────────────────────────┴──────────┘
//! ```

use std::fmt;

use crc32c::crc32c;
use sha2::{Digest, Sha256};
use zstd::bulk::Compressor;
use zstd::zstd_safe::{self, DCtx};

use crate::crypto::aead::{RecordCipher, TAG_LEN};
use crate::crypto::derive::{SALT_LEN, SegmentKeys, VAULT_ID_LEN};
use crate::crypto::key::fill_random;
use crate::crypto::nonce::MAX_RECORDS;
use crate::error::{Error, Malformation, Result};
use crate::format::layout::{all_zero, get, put};

/// The length of a segment header, in bytes.
pub(crate) const SEGMENT_HEADER_LEN: usize = 256;
/// The length of a record header, in bytes.
pub(crate) const RECORD_HEADER_LEN: usize = 64;
/// The most plaintext, and the most ciphertext, that one record holds: 16 MiB.
pub(crate) const MAX_PLAIN_LEN: u32 = 16 << 20;
/// The multiple of bytes that the records of a version 1 writer begin at.
pub(crate) const RECORD_ALIGNMENT: u32 = 64;
/// The length of the room for a wrapped key that segment headers and roots have; zero in version 1.
pub(crate) const WRAPPED_ROOM_LEN: usize = 128;

/// The version of the format that this program reads and writes.
pub(crate) const VERSION: u32 = 1;

/// How metadata records are compressed: see [`seal_meta`].
const META_LEVEL: i32 = 3;
/// The largest window that a zstd frame may ask for, as a power of two: 16 MiB.
const MAX_WINDOW_LOG: u32 = 24;

/// What names a vault: 16 random bytes, in clear in the file and part of every key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct VaultId(pub(crate) [u8; VAULT_ID_LEN]);

/// What makes a segment's keys its own: 32 random bytes, in clear in the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Salt(pub(crate) [u8; SALT_LEN]);

/// What names a segment: the first 16 bytes of the SHA-256 of its salt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentId(pub(crate) [u8; 16]);

impl VaultId {
    /// Draws a new id.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no random numbers to give.
    pub(crate) fn generate() -> Result<Self> {
        let mut id = [0; VAULT_ID_LEN];
        fill_random(&mut id)?;
        Ok(Self(id))
    }
}

impl Salt {
    /// Draws a new salt: one for each run of a writer, never stored before it is used, never used by two runs.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no random numbers to give.
    pub(crate) fn generate() -> Result<Self> {
        let mut salt = [0; SALT_LEN];
        fill_random(&mut salt)?;
        Ok(Self(salt))
    }

    /// The id of the segment that has this salt.
    pub(crate) fn segment_id(&self) -> SegmentId {
        SegmentId(get::<0, _, _>(&digest(&self.0)))
    }
}

/// The SHA-256 of stored bytes, as roots and commit records hold it of a whole framed record.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

impl fmt::Display for VaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for VaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// The first multiple of `alignment`, a power of two, that is not below `offset`; `None` past the end of all offsets.
pub(crate) fn align_up(offset: u64, alignment: u32) -> Option<u64> {
    debug_assert!(alignment.is_power_of_two(), "alignments are checked when a segment header is decoded");
    offset.checked_next_multiple_of(u64::from(alignment))
}

// ---------------------------------------------------------------------------------------------------------------------

/// docs/FORMAT.md, "Segment header", in file order: each offset follows from the one before it.
mod segment_at {
    use super::{SALT_LEN, VAULT_ID_LEN, WRAPPED_ROOM_LEN};

    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = MAGIC + 8;
    pub(super) const FLAGS: usize = VERSION + 4;
    pub(super) const VAULT_ID: usize = FLAGS + 4;
    pub(super) const SALT: usize = VAULT_ID + VAULT_ID_LEN;
    pub(super) const ALIGNMENT: usize = SALT + SALT_LEN;
    pub(super) const EXTENT: usize = ALIGNMENT + 4;
    pub(super) const RESERVED: usize = EXTENT + 4;
    pub(super) const WRAPPED_KEY: usize = RESERVED + 48;
    pub(super) const RESERVED_2: usize = WRAPPED_KEY + WRAPPED_ROOM_LEN;
    pub(super) const CRC: usize = RESERVED_2 + 4;
    const _: () = assert!(CRC + 4 == super::SEGMENT_HEADER_LEN, "docs/FORMAT.md says 256 bytes");
}

const SEGMENT: &str = "segment header";
/// The first bytes of every segment header; what recovery looks for.
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"FLINTSG1";

/// What stands at the head of every extent of a segment, so that losing one costs one extent.
///
/// It is not authenticated by itself: what it says is believed because the records open with the keys that come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The vault that the segment was written for.
    pub(crate) vault_id: VaultId,
    /// The segment's salt.
    pub(crate) salt: Salt,
    /// The multiple of bytes that records begin at: a power of two from 64 to 65,536.
    pub(crate) alignment: u32,
    /// The number of this extent within the segment, from 0.
    pub(crate) extent: u32,
}

impl SegmentHeader {
    /// The header of extent number `extent` as version 1 writes it.
    pub(crate) fn new(vault_id: VaultId, salt: Salt, extent: u32) -> Self {
        Self { vault_id, salt, alignment: RECORD_ALIGNMENT, extent }
    }

    /// The header's bytes.
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        put::<{ segment_at::MAGIC }, _, _>(&mut bytes, SEGMENT_MAGIC);
        put::<{ segment_at::VERSION }, _, _>(&mut bytes, VERSION.to_le_bytes());
        put::<{ segment_at::VAULT_ID }, _, _>(&mut bytes, self.vault_id.0);
        put::<{ segment_at::SALT }, _, _>(&mut bytes, self.salt.0);
        put::<{ segment_at::ALIGNMENT }, _, _>(&mut bytes, self.alignment.to_le_bytes());
        put::<{ segment_at::EXTENT }, _, _>(&mut bytes, self.extent.to_le_bytes());
        let crc = crc32c(&bytes[..segment_at::CRC]);
        put::<{ segment_at::CRC }, _, _>(&mut bytes, crc.to_le_bytes());
        bytes
    }

    /// Reads a header's bytes.
    ///
    /// # Errors
    /// A [`Malformation`], looked for in this order: magic number, checksum, version and flags, fields.
    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER_LEN]) -> Result<Self, Malformation> {
        if get::<{ segment_at::MAGIC }, _, _>(bytes) != SEGMENT_MAGIC {
            return Err(Malformation::Magic { structure: SEGMENT });
        }
        if u32::from_le_bytes(get::<{ segment_at::CRC }, _, _>(bytes)) != crc32c(&bytes[..segment_at::CRC]) {
            return Err(Malformation::Checksum { structure: SEGMENT });
        }
        let version = u32::from_le_bytes(get::<{ segment_at::VERSION }, _, _>(bytes));
        let flags = u32::from_le_bytes(get::<{ segment_at::FLAGS }, _, _>(bytes));
        // A wrapped key is a feature that is not known here: without it, the records could not be opened.
        let derived = all_zero(&bytes[segment_at::WRAPPED_KEY..segment_at::RESERVED_2]);
        if version != VERSION || flags != 0 || !derived {
            return Err(Malformation::Version { structure: SEGMENT, version });
        }
        let alignment = u32::from_le_bytes(get::<{ segment_at::ALIGNMENT }, _, _>(bytes));
        if !alignment.is_power_of_two() || !(64..=65_536).contains(&alignment) {
            return Err(Malformation::Field { structure: SEGMENT, field: "alignment" });
        }
        if !all_zero(&bytes[segment_at::RESERVED..segment_at::WRAPPED_KEY])
            || !all_zero(&bytes[segment_at::RESERVED_2..segment_at::CRC])
        {
            return Err(Malformation::Reserved { structure: SEGMENT });
        }
        Ok(Self {
            vault_id: VaultId(get::<{ segment_at::VAULT_ID }, _, _>(bytes)),
            salt: Salt(get::<{ segment_at::SALT }, _, _>(bytes)),
            alignment,
            extent: u32::from_le_bytes(get::<{ segment_at::EXTENT }, _, _>(bytes)),
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------------

/// What a record holds. The number is the stored byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum RecordKind {
    /// A chunk of entries' content; the only kind under the data key.
    Data = 1,
    /// A block of entries of an index.
    IndexLeaf = 2,
    /// A block of first paths above other blocks of an index.
    IndexNode = 3,
    /// A block of a table of records: where the data records are.
    RecordTable = 4,
    /// The head of an index tree.
    TreeHead = 5,
    /// What of an entry is too long for its index block.
    Overflow = 6,
    /// A commit record.
    Commit = 7,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Data,
            2 => Self::IndexLeaf,
            3 => Self::IndexNode,
            4 => Self::RecordTable,
            5 => Self::TreeHead,
            6 => Self::Overflow,
            7 => Self::Commit,
            _ => return None,
        })
    }

    /// The cipher for records of this kind.
    fn cipher(self, keys: &SegmentKeys) -> &RecordCipher {
        match self {
            Self::Data => &keys.data,
            _ => &keys.meta,
        }
    }
}

/// How plaintext was packed before it was sealed. The number is the stored byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Codec {
    /// As it is.
    Store = 0,
    /// One zstd frame, RFC 8878.
    Zstd = 1,
}

/// docs/FORMAT.md, "Record header", in file order: each offset follows from the one before it.
mod record_at {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = MAGIC + 4;
    pub(super) const KIND: usize = VERSION + 1;
    pub(super) const CODEC: usize = KIND + 1;
    pub(super) const FLAGS: usize = CODEC + 1;
    pub(super) const SEGMENT: usize = FLAGS + 1;
    pub(super) const NUMBER: usize = SEGMENT + 16;
    pub(super) const PLAIN_LEN: usize = NUMBER + 8;
    pub(super) const PACKED_LEN: usize = PLAIN_LEN + 4;
    pub(super) const RESERVED: usize = PACKED_LEN + 4;
    pub(super) const CRC: usize = RESERVED + 20;
    const _: () = assert!(CRC + 4 == super::RECORD_HEADER_LEN, "docs/FORMAT.md says 64 bytes");
}

const RECORD: &str = "record";
/// The first bytes of every record; what recovery looks for.
pub(crate) const RECORD_MAGIC: [u8; 4] = *b"FLRC";

/// Which record: its identity within a vault, and what it is expected to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RecordId {
    /// The segment.
    pub(crate) segment: SegmentId,
    /// Data and other records are numbered apart; so of the kind, only that difference is part of the identity.
    pub(crate) kind: RecordKind,
    /// The number within the segment.
    pub(crate) number: u64,
}

/// What is in clear in front of each record, and authenticated with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// What the record holds.
    pub(crate) kind: RecordKind,
    /// How it was packed.
    pub(crate) codec: Codec,
    /// The segment it belongs to.
    pub(crate) segment: SegmentId,
    /// Its number within the segment: with its kind, its nonce. Below 2^32.
    pub(crate) number: u64,
    /// Length of the plaintext, at most [`MAX_PLAIN_LEN`].
    pub(crate) plain_len: u32,
    /// Length of the packed plaintext and of the ciphertext, at most `plain_len`.
    pub(crate) packed_len: u32,
}

/// What a record of that many packed bytes takes in the file: header, ciphertext and tag.
pub(crate) const fn sealed_len(packed_len: u32) -> u32 {
    const FRAME_LEN: u32 = 80;
    const _: () = assert!(FRAME_LEN as usize == RECORD_HEADER_LEN + TAG_LEN, "64 bytes of header, 16 of tag");
    // The saturation is for lengths nobody has checked; checked ones are at most MAX_PLAIN_LEN.
    packed_len.saturating_add(FRAME_LEN)
}

impl RecordHeader {
    /// Which record this says it is.
    pub(crate) fn id(&self) -> RecordId {
        RecordId { segment: self.segment, kind: self.kind, number: self.number }
    }

    /// The header's bytes as they stand in the file.
    pub(crate) fn encode(&self) -> [u8; RECORD_HEADER_LEN] {
        let mut bytes = self.aad();
        let crc = crc32c(&bytes[..record_at::CRC]);
        put::<{ record_at::CRC }, _, _>(&mut bytes, crc.to_le_bytes());
        bytes
    }

    /// The associated data of the record: the header's bytes with the checksum zero.
    pub(crate) fn aad(&self) -> [u8; RECORD_HEADER_LEN] {
        let mut bytes = [0; RECORD_HEADER_LEN];
        put::<{ record_at::MAGIC }, _, _>(&mut bytes, RECORD_MAGIC);
        put::<{ record_at::VERSION }, _, _>(&mut bytes, [VERSION_BYTE]);
        put::<{ record_at::KIND }, _, _>(&mut bytes, [self.kind as u8]);
        put::<{ record_at::CODEC }, _, _>(&mut bytes, [self.codec as u8]);
        put::<{ record_at::SEGMENT }, _, _>(&mut bytes, self.segment.0);
        put::<{ record_at::NUMBER }, _, _>(&mut bytes, self.number.to_le_bytes());
        put::<{ record_at::PLAIN_LEN }, _, _>(&mut bytes, self.plain_len.to_le_bytes());
        put::<{ record_at::PACKED_LEN }, _, _>(&mut bytes, self.packed_len.to_le_bytes());
        bytes
    }

    /// Reads a header's bytes. They are not authenticated yet: until the record has opened, the lengths may be used to
    /// find its end, within the file, and for nothing else.
    ///
    /// # Errors
    /// A [`Malformation`], looked for in this order: magic number, checksum, version and flags, fields.
    pub(crate) fn decode(bytes: &[u8; RECORD_HEADER_LEN]) -> Result<Self, Malformation> {
        if get::<{ record_at::MAGIC }, _, _>(bytes) != RECORD_MAGIC {
            return Err(Malformation::Magic { structure: RECORD });
        }
        if u32::from_le_bytes(get::<{ record_at::CRC }, _, _>(bytes)) != crc32c(&bytes[..record_at::CRC]) {
            return Err(Malformation::Checksum { structure: RECORD });
        }
        let version = bytes[record_at::VERSION];
        if version != VERSION_BYTE || bytes[record_at::FLAGS] != 0 {
            return Err(Malformation::Version { structure: RECORD, version: version.into() });
        }
        if !all_zero(&bytes[record_at::RESERVED..record_at::CRC]) {
            return Err(Malformation::Reserved { structure: RECORD });
        }
        let field = |field| Malformation::Field { structure: RECORD, field };
        let header = Self {
            kind: RecordKind::from_byte(bytes[record_at::KIND]).ok_or_else(|| field("kind"))?,
            codec: match bytes[record_at::CODEC] {
                0 => Codec::Store,
                1 => Codec::Zstd,
                _ => return Err(field("codec")),
            },
            segment: SegmentId(get::<{ record_at::SEGMENT }, _, _>(bytes)),
            number: u64::from_le_bytes(get::<{ record_at::NUMBER }, _, _>(bytes)),
            plain_len: u32::from_le_bytes(get::<{ record_at::PLAIN_LEN }, _, _>(bytes)),
            packed_len: u32::from_le_bytes(get::<{ record_at::PACKED_LEN }, _, _>(bytes)),
        };
        header.check()?;
        Ok(header)
    }

    /// What the types of the fields do not say.
    fn check(&self) -> Result<(), Malformation> {
        let packed_fits = match self.codec {
            Codec::Store => self.packed_len == self.plain_len,
            // A chunk that does not shrink is stored, so no record is longer than its plaintext and a frame.
            Codec::Zstd => self.packed_len <= self.plain_len,
        };
        let wrong = if self.number >= MAX_RECORDS {
            "number"
        } else if self.plain_len > MAX_PLAIN_LEN {
            "plain length"
        } else if !packed_fits {
            "packed length"
        } else {
            return Ok(());
        };
        Err(Malformation::Field { structure: RECORD, field: wrong })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a constant, and 1")]
const VERSION_BYTE: u8 = VERSION as u8;

/// Encrypts one packed chunk in place.
///
/// - `buf`: exactly `header.packed_len` bytes; on return the ciphertext.
///
/// Gives the header and the tag as they will stand in the file, before and behind `buf`.
///
/// # Errors
/// [`Error::NonceSpent`] if the number is beyond what one key may seal, [`Error::Usage`] if header and buffer do not fit
/// each other or the format. `buf` is untouched then.
pub(crate) fn seal_record(
    keys: &SegmentKeys,
    header: &RecordHeader,
    buf: &mut [u8],
) -> Result<([u8; RECORD_HEADER_LEN], [u8; TAG_LEN])> {
    if header.number >= MAX_RECORDS {
        return Err(Error::NonceSpent);
    }
    header.check().map_err(unsealable)?;
    if u32::try_from(buf.len()) != Ok(header.packed_len) {
        return Err(unsealable(Malformation::Field { structure: RECORD, field: "packed length" }));
    }
    let tag = header.kind.cipher(keys).seal(header.number, &header.aad(), buf)?;
    Ok((header.encode(), tag))
}

fn unsealable(malformation: Malformation) -> Error {
    Error::Usage(format!("cannot seal: {malformation}"))
}

/// Decrypts one record in place.
///
/// - `expected`: the record that is being asked for. One that stands in its place and is authentic, but is another, is
///   refused as forged: its header names it, and is authenticated with it.
/// - `buf`: the ciphertext, without header and tag; on return the packed plaintext.
///
/// # Errors
/// A [`Malformation`]; `buf` holds no plaintext, and nothing else of use.
pub(crate) fn open_record(
    keys: &SegmentKeys,
    expected: &RecordId,
    header: &[u8; RECORD_HEADER_LEN],
    buf: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Result<RecordHeader, Malformation> {
    let header = RecordHeader::decode(header)?;
    if header.id() != *expected {
        return Err(Malformation::Forged { structure: RECORD });
    }
    if u32::try_from(buf.len()) != Ok(header.packed_len) {
        return Err(Malformation::Field { structure: RECORD, field: "packed length" });
    }
    header.kind.cipher(keys).open(header.number, &header.aad(), buf, tag)?;
    Ok(header)
}

/// Packs, seals and frames one metadata record: zstd level 3 if that makes it shorter, else as it is.
///
/// Gives the record as it will stand in the file.
///
/// # Errors
/// As [`seal_record`]; [`Error::Usage`] also for data records, which are not made here, and for more than 16 MiB.
pub(crate) fn seal_meta(
    keys: &SegmentKeys,
    segment: SegmentId,
    kind: RecordKind,
    number: u64,
    plain: &[u8],
) -> Result<Vec<u8>> {
    let wrong = |field| unsealable(Malformation::Field { structure: RECORD, field });
    if kind == RecordKind::Data {
        return Err(wrong("kind"));
    }
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| wrong("plain length"));
    // If the compressor fails, storing is the answer too.
    let packed = Compressor::new(META_LEVEL).and_then(|mut compressor| compressor.compress(plain)).ok();
    let (codec, packed) = match &packed {
        Some(packed) if packed.len() < plain.len() => (Codec::Zstd, packed.as_slice()),
        _ => (Codec::Store, plain),
    };
    let header = RecordHeader { kind, codec, segment, number, plain_len: length(plain)?, packed_len: length(packed)? };

    let mut framed = vec![0; RECORD_HEADER_LEN];
    framed.reserve_exact(packed.len() + TAG_LEN);
    framed.extend_from_slice(packed);
    let (head, tag) = seal_record(keys, &header, &mut framed[RECORD_HEADER_LEN..])?;
    framed[..RECORD_HEADER_LEN].copy_from_slice(&head);
    framed.extend_from_slice(&tag);
    Ok(framed)
}

/// Opens and unpacks what [`seal_meta`] made: the plaintext of the record `expected`.
///
/// - `framed`: exactly one record. Nothing is allocated for it but a copy of it, until it has opened.
///
/// # Errors
/// A [`Malformation`].
pub(crate) fn open_meta(keys: &SegmentKeys, expected: &RecordId, framed: &[u8]) -> Result<Vec<u8>, Malformation> {
    let truncated = Malformation::Truncated { structure: RECORD };
    let Some((head, rest)) = framed.split_first_chunk::<RECORD_HEADER_LEN>() else {
        return Err(truncated);
    };
    let Some((ciphertext, tag)) = rest.split_last_chunk::<TAG_LEN>() else {
        return Err(truncated);
    };
    let mut packed = ciphertext.to_vec();
    let header = open_record(keys, expected, head, &mut packed, tag)?;
    match header.codec {
        Codec::Store => Ok(packed),
        Codec::Zstd => {
            // Authenticated and at most 16 MiB, so this length may be given memory.
            let len = usize::try_from(header.plain_len).expect("at most 16 MiB");
            let mut plain = vec![0; len];
            // Panics where these 100 KB are not to be had, as every small allocation ends the process then; to call that
            // damage would be worse.
            unpack(&mut DCtx::create(), &packed, &mut plain)?;
            Ok(plain)
        }
    }
}

/// Decompresses one zstd frame into exactly `plain`.
///
/// A record's lengths are authentic when this is called, but the vault may be from somebody else, so the frame is not
/// trusted: it must be one frame, all of `packed`, that states `plain`'s length, needs no dictionary and asks for a window
/// of at most 16 MiB.
///
/// # Errors
/// [`Malformation::Compression`]; `plain` may be partly written then and is not to be used.
pub(crate) fn unpack(context: &mut DCtx<'_>, packed: &[u8], plain: &mut [u8]) -> Result<(), Malformation> {
    let one_frame = zstd_safe::find_frame_compressed_size(packed) == Ok(packed.len());
    let stated = zstd_safe::get_frame_content_size(packed).ok().flatten();
    if !one_frame || stated != u64::try_from(plain.len()).ok() || !window_allowed(packed) {
        return Err(Malformation::Compression);
    }
    match context.decompress(plain, packed) {
        Ok(len) if len == plain.len() => Ok(()),
        _ => Err(Malformation::Compression),
    }
}

/// Whether a zstd frame's window is within the limit. Source: RFC 8878, 3.1.1.1.1 and 3.1.1.1.2.
fn window_allowed(frame: &[u8]) -> bool {
    const DESCRIPTOR_AT: usize = 4;
    const SINGLE_SEGMENT: u8 = 1 << 5;
    let Some([descriptor, window]) = frame.get(DESCRIPTOR_AT..DESCRIPTOR_AT + 2) else {
        return false;
    };
    if descriptor & SINGLE_SEGMENT != 0 {
        // No window descriptor: the window is the content, whose length has been compared with the record's.
        return true;
    }
    let (exponent, mantissa) = (u32::from(window >> 3), window & 7);
    let log = 10 + exponent;
    log < MAX_WINDOW_LOG || (log == MAX_WINDOW_LOG && mantissa == 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::crypto::derive::segment_keys;
    use crate::crypto::key::MasterKey;
    use proptest::prelude::*;
    use std::io::Write;

    pub(crate) const SALT: Salt = Salt([0x22; SALT_LEN]);

    pub(crate) fn keys() -> SegmentKeys {
        segment_keys(&MasterKey::from_test_bytes([0x11; 32]), &SALT.0, &[0x33; VAULT_ID_LEN])
    }

    fn id(kind: RecordKind, number: u64) -> RecordId {
        RecordId { segment: SALT.segment_id(), kind, number }
    }

    fn data_header(number: u64, len: u32) -> RecordHeader {
        RecordHeader {
            kind: RecordKind::Data,
            codec: Codec::Store,
            segment: SALT.segment_id(),
            number,
            plain_len: len,
            packed_len: len,
        }
    }

    /// Puts the right checksum over whatever stands before the last four bytes.
    pub(crate) fn fix_crc(bytes: &mut [u8]) {
        let at = bytes.len() - 4;
        let crc = crc32c(&bytes[..at]);
        bytes[at..].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn the_segment_header_stands_as_the_format_says() {
        let header = SegmentHeader::new(VaultId([1; 16]), Salt([2; 32]), 0x0403);
        let bytes = header.encode();
        assert_eq!(&bytes[..8], b"FLINTSG1");
        assert_eq!(bytes[8..16], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..32], [1; 16]);
        assert_eq!(bytes[32..64], [2; 32]);
        assert_eq!(bytes[64..72], [64, 0, 0, 0, 3, 4, 0, 0]);
        assert!(all_zero(&bytes[72..252]));
        assert_eq!(bytes[252..], crc32c(&bytes[..252]).to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
    }

    #[test]
    fn the_record_header_stands_as_the_format_says() {
        let header = RecordHeader {
            kind: RecordKind::Commit,
            codec: Codec::Zstd,
            segment: SegmentId([9; 16]),
            number: 0x0102_0304,
            plain_len: 0x0010_0203,
            packed_len: 0x0000_0506,
        };
        let bytes = header.encode();
        assert_eq!(&bytes[..4], b"FLRC");
        assert_eq!(bytes[4..8], [1, 7, 1, 0]);
        assert_eq!(bytes[8..24], [9; 16]);
        assert_eq!(bytes[24..32], [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[32..40], [3, 2, 0x10, 0, 6, 5, 0, 0]);
        assert!(all_zero(&bytes[40..60]));
        assert_eq!(bytes[60..], crc32c(&bytes[..60]).to_le_bytes());
        assert_eq!(header.aad()[..60], bytes[..60]);
        assert_eq!(header.aad()[60..], [0; 4]);
        assert_eq!(RecordHeader::decode(&bytes), Ok(header));
        assert_eq!(sealed_len(header.packed_len), 64 + 0x0506 + 16);
    }

    #[test]
    fn one_flipped_bit_anywhere_in_a_header_is_refused() {
        let segment = SegmentHeader::new(VaultId([1; 16]), SALT, 7).encode();
        for bit in 0..SEGMENT_HEADER_LEN * 8 {
            let mut flipped = segment;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        let record = data_header(5, 100).encode();
        for bit in 0..RECORD_HEADER_LEN * 8 {
            let mut flipped = record;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(RecordHeader::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_a_later_version_may_write_is_unsupported_and_not_damage() {
        let unsupported = |at: usize, value: u8| {
            let mut bytes = SegmentHeader::new(VaultId([1; 16]), SALT, 0).encode();
            bytes[at] = value;
            fix_crc(&mut bytes);
            SegmentHeader::decode(&bytes).unwrap_err()
        };
        assert_eq!(unsupported(8, 2), Malformation::Version { structure: SEGMENT, version: 2 });
        assert_eq!(unsupported(15, 0x80), Malformation::Version { structure: SEGMENT, version: 1 });
        assert_eq!(unsupported(120, 1), Malformation::Version { structure: SEGMENT, version: 1 });
        assert_eq!(unsupported(247, 1), Malformation::Version { structure: SEGMENT, version: 1 });
        assert_eq!(unsupported(72, 1), Malformation::Reserved { structure: SEGMENT });
        assert_eq!(unsupported(119, 1), Malformation::Reserved { structure: SEGMENT });
        assert_eq!(unsupported(251, 1), Malformation::Reserved { structure: SEGMENT });
        let alignment = Malformation::Field { structure: SEGMENT, field: "alignment" };
        for (at, value) in [(64, 0), (64, 32), (64, 65), (66, 2)] {
            assert_eq!(unsupported(at, value), alignment);
        }
    }

    #[test]
    fn a_record_header_with_a_field_out_of_range_is_refused() {
        let wrong = |change: &dyn Fn(&mut [u8; 64])| {
            let mut bytes = data_header(5, 100).encode();
            change(&mut bytes);
            fix_crc(&mut bytes);
            RecordHeader::decode(&bytes).unwrap_err()
        };
        let field = |field| Malformation::Field { structure: RECORD, field };
        let version = |version| Malformation::Version { structure: RECORD, version };
        assert_eq!(wrong(&|bytes| bytes[4] = 2), version(2));
        assert_eq!(wrong(&|bytes| bytes[7] = 1), version(1));
        assert_eq!(wrong(&|bytes| bytes[5] = 0), field("kind"));
        assert_eq!(wrong(&|bytes| bytes[5] = 8), field("kind"));
        assert_eq!(wrong(&|bytes| bytes[6] = 2), field("codec"));
        assert_eq!(wrong(&|bytes| bytes[28] = 1), field("number"));
        assert_eq!(wrong(&|bytes| bytes[35] = 1), field("plain length"));
        assert_eq!(wrong(&|bytes| bytes[36] = 99), field("packed length"));
        assert_eq!(wrong(&|bytes| (bytes[6], bytes[36]) = (1, 101)), field("packed length"));
        assert_eq!(wrong(&|bytes| bytes[40] = 1), Malformation::Reserved { structure: RECORD });
        assert_eq!(wrong(&|bytes| bytes[59] = 1), Malformation::Reserved { structure: RECORD });
    }

    #[test]
    fn the_longest_record_is_16_mib_and_no_byte_more() {
        assert_eq!(RecordHeader::decode(&data_header(0, 16 << 20).encode()), Ok(data_header(0, 16 << 20)));
        assert!(RecordHeader::decode(&data_header(0, (16 << 20) + 1).encode()).is_err());
    }

    #[test]
    fn a_record_opens_as_itself_and_as_no_other() {
        let keys = keys();
        let plain = *b"a chunk of somebody's files";
        let mut sealed = plain;
        let (header, tag) = seal_record(&keys, &data_header(5, 27), &mut sealed).unwrap();
        assert_ne!(sealed, plain);

        let mut buf = sealed;
        assert_eq!(open_record(&keys, &id(RecordKind::Data, 5), &header, &mut buf, &tag), Ok(data_header(5, 27)));
        assert_eq!(buf, plain);

        let forged = Err(Malformation::Forged { structure: RECORD });
        let mut buf = sealed;
        let mut open_as = |expected: RecordId| open_record(&keys, &expected, &header, &mut buf, &tag);
        assert_eq!(open_as(id(RecordKind::Data, 6)), forged);
        assert_eq!(open_as(id(RecordKind::IndexLeaf, 5)), forged);
        assert_eq!(open_as(RecordId { segment: SegmentId([0; 16]), ..id(RecordKind::Data, 5) }), forged);
        assert_eq!(buf, sealed);
    }

    #[test]
    fn swapped_records_fail_authentication() {
        let keys = keys();
        let (mut one, mut other) = ([1; 20], [2; 20]);
        let (one_header, one_tag) = seal_record(&keys, &data_header(1, 20), &mut one).unwrap();
        let (_, other_tag) = seal_record(&keys, &data_header(2, 20), &mut other).unwrap();
        let forged = Err(Malformation::Forged { structure: RECORD });
        let expected = id(RecordKind::Data, 1);
        // Another's ciphertext and tag behind one's header, and another's ciphertext behind one's header and tag.
        assert_eq!(open_record(&keys, &expected, &one_header, &mut other, &other_tag), forged);
        assert_eq!(open_record(&keys, &expected, &one_header, &mut other, &one_tag), forged);
    }

    #[test]
    fn every_field_of_the_header_is_authenticated() {
        // An attacker can compute the checksum, so he can put any header that is well-formed.
        let keys = keys();
        let mut sealed = [7; 40];
        let header =
            RecordHeader { kind: RecordKind::IndexLeaf, plain_len: 50, codec: Codec::Zstd, ..data_header(1, 40) };
        let (_, tag) = seal_record(&keys, &header, &mut sealed).unwrap();
        let lies = [
            RecordHeader { kind: RecordKind::IndexNode, ..header },
            RecordHeader { kind: RecordKind::Data, ..header },
            RecordHeader { codec: Codec::Store, plain_len: 40, ..header },
            RecordHeader { segment: SegmentId([0; 16]), ..header },
            RecordHeader { number: 2, ..header },
            RecordHeader { plain_len: 51, ..header },
        ];
        for lie in lies {
            let mut buf = sealed;
            let opened = open_record(&keys, &lie.id(), &lie.encode(), &mut buf, &tag);
            assert_eq!(opened, Err(Malformation::Forged { structure: RECORD }), "{lie:?}");
            assert!(!buf.windows(4).any(|bytes| bytes == [7; 4]), "no plaintext comes out");
        }
        open_record(&keys, &header.id(), &header.encode(), &mut sealed, &tag).unwrap();
    }

    #[test]
    fn a_header_that_does_not_fit_its_buffer_seals_nothing() {
        let keys = keys();
        let mut buf = [1; 10];
        assert!(matches!(seal_record(&keys, &data_header(0, 11), &mut buf), Err(Error::Usage(_))));
        assert!(matches!(seal_record(&keys, &data_header(1 << 32, 10), &mut buf), Err(Error::NonceSpent)));
        let longer = RecordHeader { codec: Codec::Zstd, plain_len: 9, ..data_header(0, 10) };
        assert!(matches!(seal_record(&keys, &longer, &mut buf), Err(Error::Usage(_))));
        assert_eq!(buf, [1; 10]);
        // None of the three has used the number up.
        assert!(seal_record(&keys, &data_header(0, 10), &mut buf).is_ok());
    }

    #[test]
    fn data_and_metadata_of_one_number_have_different_keys() {
        let keys = keys();
        let (mut data, mut meta) = ([0; 32], [0; 32]);
        seal_record(&keys, &data_header(1, 32), &mut data).unwrap();
        seal_record(&keys, &RecordHeader { kind: RecordKind::Commit, ..data_header(1, 32) }, &mut meta).unwrap();
        assert_ne!(data, meta);
    }

    #[test]
    fn metadata_comes_back_compressed_or_stored() {
        let keys = keys();
        let kind = RecordKind::TreeHead;
        let noise: Vec<u8> = (0..1000_u32).map(|i| digest(&i.to_le_bytes())[0]).collect();
        for (number, plain, codec) in [
            (0, Vec::new(), Codec::Store),
            (1, vec![7], Codec::Store),
            (2, noise, Codec::Store),
            (3, vec![7; 100_000], Codec::Zstd),
        ] {
            let framed = seal_meta(&keys, SALT.segment_id(), kind, number, &plain).unwrap();
            let header = RecordHeader::decode(framed.first_chunk().unwrap()).unwrap();
            assert_eq!(header.codec, codec);
            assert_eq!(sealed_len(header.packed_len) as usize, framed.len());
            assert_eq!(open_meta(&keys, &id(kind, number), &framed), Ok(plain));
        }
    }

    #[test]
    fn metadata_cut_short_or_with_a_bit_flipped_does_not_open() {
        let keys = keys();
        let framed = seal_meta(&keys, SALT.segment_id(), RecordKind::IndexLeaf, 0, &[b'x'; 300]).unwrap();
        let expected = id(RecordKind::IndexLeaf, 0);
        for len in 0..framed.len() {
            assert!(open_meta(&keys, &expected, &framed[..len]).is_err());
        }
        let mut longer = framed.clone();
        longer.push(0);
        assert!(open_meta(&keys, &expected, &longer).is_err());
        for bit in 0..framed.len() * 8 {
            let mut flipped = framed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open_meta(&keys, &expected, &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn metadata_is_no_data_and_at_most_16_mib() {
        let keys = keys();
        let seal = |kind, plain: &[u8]| seal_meta(&keys, SALT.segment_id(), kind, 0, plain);
        assert!(matches!(seal(RecordKind::Data, b"x"), Err(Error::Usage(_))));
        assert!(matches!(seal(RecordKind::Commit, &vec![0; (16 << 20) + 1]), Err(Error::Usage(_))));
        assert!(seal(RecordKind::Commit, &vec![0; 16 << 20]).is_ok());
    }

    fn zstd_record(keys: &SegmentKeys, number: u64, frame: &[u8], plain_len: u32) -> Result<Vec<u8>, Malformation> {
        let packed_len = u32::try_from(frame.len()).unwrap();
        let kind = RecordKind::IndexLeaf;
        let header = RecordHeader { kind, codec: Codec::Zstd, plain_len, packed_len, ..data_header(number, 0) };
        let mut buf = frame.to_vec();
        let (head, tag) = seal_record(keys, &header, &mut buf).unwrap();
        open_meta(keys, &id(kind, number), &[&head[..], &buf, &tag].concat())
    }

    #[test]
    fn a_frame_that_is_not_what_the_record_says_does_not_unpack() {
        // Sealed correctly by somebody who has the password: authentic, and still hostile.
        let keys = keys();
        let frame = zstd::bulk::compress(&[5; 1000], 3).unwrap();
        assert_eq!(zstd_record(&keys, 0, &frame, 1000), Ok(vec![5; 1000]));
        let wrong = Err(Malformation::Compression);
        assert_eq!(zstd_record(&keys, 1, &frame, 999), wrong);
        assert_eq!(zstd_record(&keys, 2, &frame, 1001), wrong);
        assert_eq!(zstd_record(&keys, 3, &[&frame[..], &frame].concat(), 2000), wrong);
        assert_eq!(zstd_record(&keys, 4, &frame[..frame.len() - 1], 1000), wrong);
        assert_eq!(zstd_record(&keys, 5, &[], 1000), wrong);
        assert_eq!(zstd_record(&keys, 6, b"no frame at all", 1000), wrong);
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(zstd_record(&keys, 7, &[&skippable[..], &frame].concat(), 1000), wrong);
        // The decoder would take these two: something behind the frame, and a frame that keeps its length to itself.
        assert_eq!(zstd_record(&keys, 8, &[&frame[..], &skippable].concat(), 1000), wrong);
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.write_all(&[5; 1000]).unwrap();
        encoder.flush().unwrap();
        assert_eq!(zstd_record(&keys, 9, &encoder.finish().unwrap(), 1000), wrong);
    }

    #[test]
    fn a_frame_that_asks_for_a_huge_window_does_not_unpack() {
        // Magic number, descriptor (4 bytes of content size, no single segment), window, size 64, one RLE block of 64.
        let frame = |window| [0x28, 0xb5, 0x2f, 0xfd, 0x80, window, 64, 0, 0, 0, 0x03, 2, 0, 9];
        let keys = keys();
        assert_eq!(zstd_record(&keys, 0, &frame(14 << 3), 64), Ok(vec![9; 64]));
        assert_eq!(zstd_record(&keys, 1, &frame(14 << 3 | 1), 64), Err(Malformation::Compression));
        assert_eq!(zstd_record(&keys, 2, &frame(21 << 3), 64), Err(Malformation::Compression));
    }

    #[test]
    fn a_frame_made_with_a_dictionary_does_not_unpack() {
        let text: Vec<u8> = (0..2000_u32).flat_map(|i| digest(&i.to_le_bytes())[..4].to_vec()).collect();
        let mut compressor = Compressor::with_dictionary(3, &text).unwrap();
        let frame = compressor.compress(&text).unwrap();
        assert!(frame.len() < text.len());
        assert_eq!(zstd_record(&keys(), 0, &frame, 8000), Err(Malformation::Compression));
    }

    #[test]
    fn the_highest_level_stays_within_the_window_that_readers_allow() {
        let plain = vec![1; 16 << 20];
        let frame = zstd::bulk::compress(&plain, 22).unwrap();
        assert!(window_allowed(&frame));
    }

    #[test]
    fn align_up_gives_the_next_multiple_or_nothing() {
        assert_eq!(align_up(0, 64), Some(0));
        assert_eq!(align_up(1, 64), Some(64));
        assert_eq!(align_up(64, 64), Some(64));
        assert_eq!(align_up(65, 4096), Some(4096));
        assert_eq!(align_up(u64::MAX, 64), None);
    }

    #[test]
    fn a_segment_id_is_the_beginning_of_the_hash_of_its_salt() {
        // SHA-256 of 32 zero bytes.
        let id = Salt([0; 32]).segment_id();
        assert_eq!(id.to_string(), "66687aadf862bd776c8fc18b8e9f8e20");
        assert_ne!(Salt::generate().unwrap(), Salt::generate().unwrap());
        assert_ne!(VaultId::generate().unwrap(), VaultId::generate().unwrap());
    }

    fn any_record_header() -> impl Strategy<Value = RecordHeader> {
        (1_u8..=7, any::<bool>(), any::<[u8; 16]>(), 0..MAX_RECORDS, 0..=MAX_PLAIN_LEN, any::<prop::sample::Index>())
            .prop_map(|(kind, stored, segment, number, plain_len, packed)| RecordHeader {
                kind: RecordKind::from_byte(kind).unwrap(),
                codec: if stored { Codec::Store } else { Codec::Zstd },
                segment: SegmentId(segment),
                number,
                plain_len,
                packed_len: if stored {
                    plain_len
                } else {
                    u32::try_from(packed.index(plain_len as usize + 1)).unwrap()
                },
            })
    }

    proptest! {
        #[test]
        fn record_headers_come_back_as_they_were(header in any_record_header()) {
            prop_assert_eq!(RecordHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn segment_headers_come_back_as_they_were(id: [u8; 16], salt: [u8; 32], log in 6_u32..=16, extent: u32) {
            let header = SegmentHeader { vault_id: VaultId(id), salt: Salt(salt), alignment: 1 << log, extent };
            prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn random_bytes_are_never_more_than_refused(mut bytes: [u8; 64], framed: Vec<u8>, window: Vec<u8>) {
            prop_assert!(RecordHeader::decode(&bytes).is_err());
            // With magic number, version, flags and checksum put right, the fields are what is left to be refused.
            bytes[..4].copy_from_slice(b"FLRC");
            bytes[4] = 1;
            bytes[7] = 0;
            bytes[40..].fill(0);
            bytes[5] %= 9;
            bytes[6] %= 3;
            fix_crc(&mut bytes);
            if let Ok(header) = RecordHeader::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
            prop_assert!(open_meta(&keys(), &id(RecordKind::Commit, 0), &framed).is_err());
            window_allowed(&window);
            let _ = unpack(&mut DCtx::create(), &window, &mut [0; 64]);
        }

        #[test]
        fn random_bytes_in_a_segment_header_are_refused_or_encode_as_they_were(head: [u8; 64], tail: [u8; 8]) {
            let mut bytes = [0; 256];
            bytes[..64].copy_from_slice(&head);
            bytes[64..72].copy_from_slice(&tail);
            let _ = SegmentHeader::decode(&bytes);
            bytes[..16].copy_from_slice(b"FLINTSG1\x01\0\0\0\0\0\0\0");
            bytes[65..68].fill(0);
            fix_crc(&mut bytes);
            if let Ok(header) = SegmentHeader::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }

        #[test]
        fn metadata_of_any_content_comes_back(plain in prop::collection::vec(any::<u8>(), 0..5000)) {
            let keys = keys();
            let framed = seal_meta(&keys, SALT.segment_id(), RecordKind::Overflow, 3, &plain).unwrap();
            prop_assert_eq!(open_meta(&keys, &id(RecordKind::Overflow, 3), &framed), Ok(plain));
        }
    }
}
