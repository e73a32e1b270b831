//! docs/FORMAT.md, "Header" and "Roots": what stands at fixed places of a vault, and when may it be believed?
//!
//! A header or a root that was decoded is of a type of its own, `Unverified…`, and only the function that checks its MAC
//! makes the usable one of it.
//!
//! ```text
//! 0      header A, 16 KiB      48 K   root A, 512 bytes
//! 16 K   reserved              56 K   root B, 512 bytes
//! 32 K   header B, 16 KiB      64 K   extents
//! ```

use std::ops::Range;

use crc32c::crc32c;

use crate::crypto::aead::MAC_LEN;
use crate::crypto::derive::{SALT_LEN, VAULT_ID_LEN};
use crate::crypto::key::{HeaderKey, RootKey};
use crate::crypto::nonce::MAX_RECORDS;
use crate::error::{Error, Malformation};
use crate::format::keyslot::{
    MAX_PASSWORD_SLOTS, Slot, SlotError, check_costs, check_numbers, decode_slots, encode_slots, password_slots,
};
use crate::format::layout::{all_zero, get, put};
use crate::format::record::{
    MAX_PLAIN_LEN, RECORD_ALIGNMENT, SEGMENT_HEADER_LEN, Salt, VERSION, VaultId, WRAPPED_ROOM_LEN, sealed_len,
};
use crate::primitives::units::FileOffset;

/// The length of a header, in bytes.
pub(crate) const HEADER_LEN: usize = 16 << 10;
/// The length of a root, in bytes: one write to a disk, whatever its sectors.
pub(crate) const ROOT_LEN: usize = 512;
/// Where header A stands.
pub(crate) const HEADER_A_AT: u64 = 0;
/// Where header B stands, the same again.
pub(crate) const HEADER_B_AT: u64 = 32 << 10;
/// Where root A stands.
pub(crate) const ROOT_A_AT: u64 = 48 << 10;
/// Where root B stands.
pub(crate) const ROOT_B_AT: u64 = 56 << 10;
/// Where extents begin; no vault is shorter.
pub(crate) const EXTENTS_AT: u64 = 64 << 10;
/// What stands between headers, roots and extents: zeros.
pub(crate) const RESERVED_RANGES: [Range<u64>; 3] = [
    HEADER_A_AT + HEADER_LEN as u64..HEADER_B_AT,
    ROOT_A_AT + ROOT_LEN as u64..ROOT_B_AT,
    ROOT_B_AT + ROOT_LEN as u64..EXTENTS_AT,
];
const _: () = assert!(HEADER_B_AT + HEADER_LEN as u64 == ROOT_A_AT, "root A follows header B");
/// No byte of a vault stands at or behind this offset: the locks do. See docs/FORMAT.md, "Limits".
pub(crate) const MAX_VAULT_LEN: u64 = 1 << 62;

// ---------------------------------------------------------------------------------------------------------------------

/// docs/FORMAT.md, "Header", in file order: each offset follows from the one before it.
mod at {
    use super::{HEADER_LEN, MAC_LEN, VAULT_ID_LEN};

    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = MAGIC + 8;
    pub(super) const CRITICAL_FLAGS: usize = VERSION + 4;
    pub(super) const VAULT_ID: usize = CRITICAL_FLAGS + 4;
    pub(super) const SEQUENCE: usize = VAULT_ID + VAULT_ID_LEN;
    pub(super) const OPTIONAL_FLAGS: usize = SEQUENCE + 8;
    pub(super) const SLOT_COUNT: usize = OPTIONAL_FLAGS + 4;
    pub(super) const RESERVED: usize = SLOT_COUNT + 2;
    pub(super) const SLOTS: usize = RESERVED + 18;
    pub(super) const MAC: usize = CRC - MAC_LEN;
    pub(super) const CRC: usize = HEADER_LEN - 4;
    const _: () = assert!(VAULT_ID == super::PREAMBLE.len() && SLOTS == 64 && MAC == 16_348, "docs/FORMAT.md");
}

const HEADER: &str = "header";

/// What a vault begins with: magic number, format version, critical flags. The magic number has a byte above 127 and both
/// kinds of line end, so that a transfer as text breaks it visibly (the idea is PNG's).
pub(super) const PREAMBLE: [u8; 16] = {
    let [v0, v1, v2, v3] = VERSION.to_le_bytes();
    [0x89, b'F', b'L', b'I', b'N', b'T', 0x0d, 0x0a, v0, v1, v2, v3, 0, 0, 0, 0]
};

/// A header whose bytes are in order, but which anybody may have made.
#[derive(Debug, Clone)]
pub(crate) struct UnverifiedHeader {
    bytes: Box<[u8; HEADER_LEN]>,
    header: Header,
}

/// What a vault says of itself, and the ways to its master key. Authentic, or made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    vault_id: VaultId,
    sequence: u64,
    /// Kept as found: who knows none of them may ignore them all.
    optional_flags: u32,
    slots: Vec<Slot>,
}

impl UnverifiedHeader {
    /// Reads a header's bytes.
    ///
    /// # Errors
    /// A [`Malformation`], looked for in this order: magic number, checksum, version and critical flags, fields, slots.
    /// [`Malformation::Version`] is no damage: the vault is another program's.
    pub(crate) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Malformation> {
        let magic: [u8; 8] = get::<{ at::MAGIC }, _, _>(bytes);
        if magic != PREAMBLE[..8] {
            return Err(Malformation::Magic { structure: HEADER });
        }
        if u32::from_le_bytes(get::<{ at::CRC }, _, _>(bytes)) != crc32c(&bytes[..at::CRC]) {
            return Err(Malformation::Checksum { structure: HEADER });
        }
        let version = u32::from_le_bytes(get::<{ at::VERSION }, _, _>(bytes));
        let critical_flags = u32::from_le_bytes(get::<{ at::CRITICAL_FLAGS }, _, _>(bytes));
        if version != VERSION || critical_flags != 0 {
            return Err(Malformation::Version { structure: HEADER, version });
        }
        if !all_zero(&bytes[at::RESERVED..at::SLOTS]) {
            return Err(Malformation::Reserved { structure: HEADER });
        }
        let sequence = u64::from_le_bytes(get::<{ at::SEQUENCE }, _, _>(bytes));
        if sequence == 0 {
            return Err(Malformation::Field { structure: HEADER, field: "sequence" });
        }
        let slot_count = u16::from_le_bytes(get::<{ at::SLOT_COUNT }, _, _>(bytes));
        let header = Header {
            vault_id: VaultId(get::<{ at::VAULT_ID }, _, _>(bytes)),
            sequence,
            optional_flags: u32::from_le_bytes(get::<{ at::OPTIONAL_FLAGS }, _, _>(bytes)),
            slots: decode_slots(&bytes[at::SLOTS..at::MAC], slot_count)?,
        };
        Ok(Self { bytes: Box::new(*bytes), header })
    }

    /// The vault's id, as anybody may have written it.
    pub(crate) fn vault_id(&self) -> VaultId {
        self.header.vault_id
    }

    /// How often the header was written, as anybody may have written it: of two good copies the higher one counts.
    pub(crate) fn sequence(&self) -> u64 {
        self.header.sequence
    }

    /// The key slots, as anybody may have written them; [`unlock`] bounds what is spent on them.
    ///
    /// [`unlock`]: crate::format::keyslot::unlock
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.header.slots
    }

    /// Checks the MAC over the whole header, every slot included.
    ///
    /// # Errors
    /// [`Malformation::Forged`].
    pub(crate) fn verify(self, key: &HeaderKey) -> Result<Header, Malformation> {
        if key.verifies(&self.bytes[..at::MAC], &get::<{ at::MAC }, _, _>(&self.bytes)) {
            Ok(self.header)
        } else {
            Err(Malformation::Forged { structure: HEADER })
        }
    }
}

impl Header {
    /// The first header of a vault.
    ///
    /// # Errors
    /// As [`Header::with_slots`].
    pub(crate) fn new(vault_id: VaultId, slots: Vec<Slot>) -> Result<Self, SlotError> {
        Self { vault_id, sequence: 0, optional_flags: 0, slots: Vec::new() }.with_slots(slots)
    }

    /// The header that follows this one: the next sequence, other slots.
    ///
    /// # Errors
    /// [`SlotError::Other`] with [`Error::Usage`] if there is no password slot, or more than 8; [`SlotError::Refused`] if
    /// they cost more, all together, than readers accept; [`SlotError::Malformed`] for two of one id, or what does not fit.
    pub(crate) fn with_slots(&self, slots: Vec<Slot>) -> Result<Self, SlotError> {
        let usage = |message: &str| Err(SlotError::Other(Error::Usage(message.to_owned())));
        match password_slots(&slots).count() {
            0 => return usage("a vault needs a password"),
            passwords if passwords > MAX_PASSWORD_SLOTS => return usage("a vault has at most 8 passwords"),
            _ => {}
        }
        check_numbers(&slots).map_err(SlotError::Malformed)?;
        check_costs(&slots)?;
        let malformed = |field| SlotError::Malformed(Malformation::Field { structure: HEADER, field });
        if !encode_slots(&slots, &mut [0; at::MAC - at::SLOTS]) {
            return Err(malformed("length of all slots"));
        }
        let sequence = self.sequence.checked_add(1).ok_or_else(|| malformed("sequence"))?;
        Ok(Self { sequence, slots, ..*self })
    }

    /// The header that follows this one and every one up to `sequence`, with the slots of this one.
    ///
    /// # Errors
    /// As [`Header::with_slots`].
    pub(crate) fn above(&self, sequence: u64) -> Result<Self, SlotError> {
        Self { sequence: self.sequence.max(sequence), slots: Vec::new(), ..*self }.with_slots(self.slots.clone())
    }

    /// How often the header was written.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The key slots, in their order.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The header's bytes, for both copies.
    pub(crate) fn encode(&self, key: &HeaderKey) -> Box<[u8; HEADER_LEN]> {
        let mut bytes = Box::new([0; HEADER_LEN]);
        let slot_count = u16::try_from(self.slots.len()).expect("at most 8 and 32 slots: checked when it was made");
        put::<0, _, _>(&mut bytes, PREAMBLE);
        put::<{ at::VAULT_ID }, _, _>(&mut bytes, self.vault_id.0);
        put::<{ at::SEQUENCE }, _, _>(&mut bytes, self.sequence.to_le_bytes());
        put::<{ at::OPTIONAL_FLAGS }, _, _>(&mut bytes, self.optional_flags.to_le_bytes());
        put::<{ at::SLOT_COUNT }, _, _>(&mut bytes, slot_count.to_le_bytes());
        let fit = encode_slots(&self.slots, &mut bytes[at::SLOTS..at::MAC]);
        assert!(fit, "that they fit was checked when the header was made");
        let mac = key.mac(&bytes[..at::MAC]);
        put::<{ at::MAC }, _, _>(&mut bytes, mac);
        let crc = crc32c(&bytes[..at::CRC]);
        put::<{ at::CRC }, _, _>(&mut bytes, crc.to_le_bytes());
        bytes
    }
}

// ---------------------------------------------------------------------------------------------------------------------

/// docs/FORMAT.md, "Root", in file order: each offset follows from the one before it.
mod root_at {
    use super::{MAC_LEN, ROOT_LEN, SALT_LEN, VAULT_ID_LEN, WRAPPED_ROOM_LEN};

    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = MAGIC + 8;
    pub(super) const RESERVED: usize = VERSION + 4;
    pub(super) const VAULT_ID: usize = RESERVED + 4;
    pub(super) const GENERATION: usize = VAULT_ID + VAULT_ID_LEN;
    pub(super) const COMMIT_OFFSET: usize = GENERATION + 8;
    pub(super) const COMMIT_LEN: usize = COMMIT_OFFSET + 8;
    pub(super) const RESERVED_2: usize = COMMIT_LEN + 4;
    pub(super) const COMMIT_NUMBER: usize = RESERVED_2 + 4;
    pub(super) const END: usize = COMMIT_NUMBER + 8;
    pub(super) const RESERVED_3: usize = END + 8;
    pub(super) const SALT: usize = RESERVED_3 + 8;
    pub(super) const DIGEST: usize = SALT + SALT_LEN;
    pub(super) const WRAPPED_KEY: usize = DIGEST + 32;
    pub(super) const RESERVED_4: usize = WRAPPED_KEY + WRAPPED_ROOM_LEN;
    pub(super) const MAC: usize = CRC - MAC_LEN;
    pub(super) const CRC: usize = ROOT_LEN - 4;
    const _: () = assert!(SALT == 80 && WRAPPED_KEY == 144 && RESERVED_4 == 272 && MAC == 476, "docs/FORMAT.md");
}

const ROOT: &str = "root";
const ROOT_MAGIC: [u8; 8] = *b"FLINTRT1";

/// Where a commit record stands, and how to know that it is the one meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommitPlace {
    /// Where its header begins.
    pub(crate) offset: FileOffset,
    /// Its length in the file: header, ciphertext and tag.
    pub(crate) sealed_len: u32,
    /// Its number among the metadata records of its segment.
    pub(crate) number: u64,
    /// The salt of its segment.
    pub(crate) salt: Salt,
    /// The SHA-256 of its `sealed_len` bytes as stored.
    pub(crate) digest: [u8; 32],
}

/// A root whose bytes are in order, but which anybody may have made.
#[derive(Debug, Clone)]
pub(crate) struct UnverifiedRoot {
    bytes: [u8; ROOT_LEN],
    root: Root,
}

/// Which commit is the vault's state. Authentic, or made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    vault_id: VaultId,
    generation: u64,
    commit: CommitPlace,
    end: u64,
}

impl UnverifiedRoot {
    /// Reads a root's bytes.
    ///
    /// # Errors
    /// A [`Malformation`], looked for in this order: magic number, checksum, version, fields.
    pub(crate) fn decode(bytes: &[u8; ROOT_LEN]) -> Result<Self, Malformation> {
        if get::<{ root_at::MAGIC }, _, _>(bytes) != ROOT_MAGIC {
            return Err(Malformation::Magic { structure: ROOT });
        }
        if u32::from_le_bytes(get::<{ root_at::CRC }, _, _>(bytes)) != crc32c(&bytes[..root_at::CRC]) {
            return Err(Malformation::Checksum { structure: ROOT });
        }
        let version = u32::from_le_bytes(get::<{ root_at::VERSION }, _, _>(bytes));
        // A wrapped key is a feature that is not known here: without it, the commit record could not be opened.
        if version != VERSION || !all_zero(&bytes[root_at::WRAPPED_KEY..root_at::RESERVED_4]) {
            return Err(Malformation::Version { structure: ROOT, version });
        }
        let reserved = [
            root_at::RESERVED..root_at::VAULT_ID,
            root_at::RESERVED_2..root_at::COMMIT_NUMBER,
            root_at::RESERVED_3..root_at::SALT,
            root_at::RESERVED_4..root_at::MAC,
        ];
        if !reserved.into_iter().all(|range| all_zero(&bytes[range])) {
            return Err(Malformation::Reserved { structure: ROOT });
        }
        let root = Root {
            vault_id: VaultId(get::<{ root_at::VAULT_ID }, _, _>(bytes)),
            generation: u64::from_le_bytes(get::<{ root_at::GENERATION }, _, _>(bytes)),
            commit: CommitPlace {
                offset: FileOffset(u64::from_le_bytes(get::<{ root_at::COMMIT_OFFSET }, _, _>(bytes))),
                sealed_len: u32::from_le_bytes(get::<{ root_at::COMMIT_LEN }, _, _>(bytes)),
                number: u64::from_le_bytes(get::<{ root_at::COMMIT_NUMBER }, _, _>(bytes)),
                salt: Salt(get::<{ root_at::SALT }, _, _>(bytes)),
                digest: get::<{ root_at::DIGEST }, _, _>(bytes),
            },
            end: u64::from_le_bytes(get::<{ root_at::END }, _, _>(bytes)),
        };
        root.check()?;
        Ok(Self { bytes: *bytes, root })
    }

    /// The generation, as anybody may have written it.
    pub(crate) fn generation(&self) -> u64 {
        self.root.generation
    }

    /// Checks the MAC, and that the root is this vault's.
    ///
    /// # Errors
    /// [`Malformation::Forged`].
    pub(crate) fn verify(self, key: &RootKey, vault_id: &VaultId) -> Result<Root, Malformation> {
        let mac = get::<{ root_at::MAC }, _, _>(&self.bytes);
        if key.verifies(&self.bytes[..root_at::MAC], &mac) && self.root.vault_id == *vault_id {
            Ok(self.root)
        } else {
            Err(Malformation::Forged { structure: ROOT })
        }
    }
}

impl Root {
    /// The root that makes a commit the state.
    ///
    /// - `end`: one more than the offset of the highest byte that the commit refers to, directly or not.
    ///
    /// # Errors
    /// [`Malformation::Field`] for what no root may say: see docs/FORMAT.md, "Root".
    pub(crate) fn new(vault_id: VaultId, generation: u64, commit: CommitPlace, end: u64) -> Result<Self, Malformation> {
        let root = Self { vault_id, generation, commit, end };
        root.check()?;
        Ok(root)
    }

    /// The number of the state, from 1.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The commit record. Its place lies behind the preamble and before [`Root::end`], which the file's length bounds.
    pub(crate) fn commit(&self) -> &CommitPlace {
        &self.commit
    }

    /// One more than the offset of the highest byte that the state needs: a shorter file was cut.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    fn check(&self) -> Result<(), Malformation> {
        let CommitPlace { offset: FileOffset(offset), sealed_len: len, number, .. } = self.commit;
        let first = EXTENTS_AT + SEGMENT_HEADER_LEN as u64;
        let wrong = if self.generation == 0 {
            "generation"
        } else if offset < first || !offset.is_multiple_of(u64::from(RECORD_ALIGNMENT)) {
            "commit record offset"
        } else if !(sealed_len(0)..=sealed_len(MAX_PLAIN_LEN)).contains(&len) {
            "commit record length"
        } else if number >= MAX_RECORDS {
            "commit record number"
        } else if self.end > MAX_VAULT_LEN || offset.checked_add(u64::from(len)).is_none_or(|end| end > self.end) {
            "end"
        } else {
            return Ok(());
        };
        Err(Malformation::Field { structure: ROOT, field: wrong })
    }

    /// The root's bytes.
    pub(crate) fn encode(&self, key: &RootKey) -> [u8; ROOT_LEN] {
        let mut bytes = [0; ROOT_LEN];
        put::<{ root_at::MAGIC }, _, _>(&mut bytes, ROOT_MAGIC);
        put::<{ root_at::VERSION }, _, _>(&mut bytes, VERSION.to_le_bytes());
        put::<{ root_at::VAULT_ID }, _, _>(&mut bytes, self.vault_id.0);
        put::<{ root_at::GENERATION }, _, _>(&mut bytes, self.generation.to_le_bytes());
        put::<{ root_at::COMMIT_OFFSET }, _, _>(&mut bytes, self.commit.offset.0.to_le_bytes());
        put::<{ root_at::COMMIT_LEN }, _, _>(&mut bytes, self.commit.sealed_len.to_le_bytes());
        put::<{ root_at::COMMIT_NUMBER }, _, _>(&mut bytes, self.commit.number.to_le_bytes());
        put::<{ root_at::END }, _, _>(&mut bytes, self.end.to_le_bytes());
        put::<{ root_at::SALT }, _, _>(&mut bytes, self.commit.salt.0);
        put::<{ root_at::DIGEST }, _, _>(&mut bytes, self.commit.digest);
        let mac = key.mac(&bytes[..root_at::MAC]);
        put::<{ root_at::MAC }, _, _>(&mut bytes, mac);
        let crc = crc32c(&bytes[..root_at::CRC]);
        put::<{ root_at::CRC }, _, _>(&mut bytes, crc.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::derive::{KdfParams, header_key, root_key, segment_keys};
    use crate::crypto::key::Password;
    use crate::crypto::key::tests::hex;
    use crate::format::keyslot::tests::{VAULT, master, slot};
    use crate::format::keyslot::{PasswordSlot, unlock};
    use crate::format::record::tests::fix_crc;
    use crate::format::record::{Codec, RecordHeader, RecordKind, SegmentHeader, digest, seal_meta, seal_record};
    use proptest::prelude::*;

    fn key() -> HeaderKey {
        header_key(&master(), &VAULT.0)
    }

    fn header() -> Header {
        Header::new(VAULT, vec![Slot::Password(slot(1, "one"))]).unwrap()
    }

    fn decoded(bytes: &[u8; HEADER_LEN]) -> Result<Header, Malformation> {
        UnverifiedHeader::decode(bytes)?.verify(&key())
    }

    #[test]
    fn the_header_stands_as_the_format_says() {
        let slots = vec![Slot::Password(slot(1, "one")), Slot::Password(slot(2, "two"))];
        let header = header().with_slots(slots.clone()).unwrap();
        let bytes = header.encode(&key());
        assert_eq!(bytes[..8], *b"\x89FLINT\r\n");
        assert_eq!(bytes[8..16], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..32], VAULT.0);
        assert_eq!(bytes[32..48], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        assert!(all_zero(&bytes[48..64]));
        assert_eq!(bytes[64..320], slot_bytes(&slots[0]));
        assert_eq!(bytes[320..576], slot_bytes(&slots[1]));
        assert!(all_zero(&bytes[576..16_348]));
        assert_eq!(bytes[16_348..16_380], key().mac(&bytes[..16_348]));
        assert_eq!(bytes[16_380..], crc32c(&bytes[..16_380]).to_le_bytes());
        assert_eq!(decoded(&bytes), Ok(header));
    }

    fn slot_bytes(slot: &Slot) -> [u8; 256] {
        let Slot::Password(slot) = slot else { panic!("a password slot") };
        slot.encode()
    }

    #[test]
    fn a_password_opens_a_header_that_then_verifies() {
        let bytes = header().encode(&key());
        let unverified = UnverifiedHeader::decode(&bytes).unwrap();
        let master = unlock(unverified.slots(), &unverified.vault_id(), &Password::new("one")).unwrap().master;
        let key = header_key(&master, &unverified.vault_id().0);
        assert_eq!(unverified.verify(&key), Ok(header_as_decoded(&bytes)));
    }

    fn header_as_decoded(bytes: &[u8; HEADER_LEN]) -> Header {
        UnverifiedHeader::decode(bytes).unwrap().header
    }

    #[test]
    fn one_flipped_bit_anywhere_in_a_header_is_refused() {
        let bytes = header().encode(&key());
        for bit in 0..HEADER_LEN * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(UnverifiedHeader::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_changed_header_with_the_right_checksum_does_not_verify() {
        let bytes = header().encode(&key());
        let forged = Err(Malformation::Forged { structure: HEADER });
        // Vault id, sequence, optional flags, the slot's time and cost, its commitment and wrapped key, the MAC.
        for at in [16, 33, 40, 72, 80, 192, 224, 16_348, 16_379] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            fix_crc(&mut changed[..]);
            assert_eq!(decoded(&changed), forged, "byte {at}");
        }
        assert_eq!(UnverifiedHeader::decode(&bytes).unwrap().verify(&header_key(&master(), &[0; 16])), forged);
    }

    #[test]
    fn what_a_later_version_may_write_is_unsupported_and_not_damage() {
        let refusal = |at: usize, value: u8| {
            let mut bytes = header().encode(&key());
            bytes[at] = value;
            fix_crc(&mut bytes[..]);
            UnverifiedHeader::decode(&bytes).unwrap_err()
        };
        assert_eq!(refusal(8, 2), Malformation::Version { structure: HEADER, version: 2 });
        assert_eq!(refusal(8, 0), Malformation::Version { structure: HEADER, version: 0 });
        assert_eq!(refusal(15, 0x80), Malformation::Version { structure: HEADER, version: 1 });
        assert_eq!(refusal(0, b'F'), Malformation::Magic { structure: HEADER });
        for at in [46, 48, 63, 320, 16_347] {
            assert_eq!(refusal(at, 1), Malformation::Reserved { structure: HEADER }, "byte {at}");
        }
        assert_eq!(refusal(32, 0), Malformation::Field { structure: HEADER, field: "sequence" });
        assert_eq!(refusal(44, 0), Malformation::Reserved { structure: HEADER });
        assert_eq!(refusal(44, 2), Malformation::Field { structure: "key slot", field: "length" });
    }

    #[test]
    fn optional_flags_and_unknown_slots_are_kept() {
        let mut bytes = header().encode(&key());
        bytes[40] = 0xaa;
        bytes[44] = 2;
        bytes[320..332].copy_from_slice(&[0x34, 0x12, 12, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let mac = key().mac(&bytes[..16_348]);
        bytes[16_348..16_380].copy_from_slice(&mac);
        fix_crc(&mut bytes[..]);
        let header = decoded(&bytes).unwrap();
        assert!(matches!(&header.slots[1], Slot::Other(_)));
        assert_eq!(header.encode(&key()), bytes);
        let next = header.with_slots(header.slots.clone()).unwrap();
        assert_eq!((next.optional_flags, &next.slots), (0xaa, &header.slots));
    }

    #[test]
    fn every_following_header_has_the_next_sequence_as_long_as_there_is_one() {
        let first = header();
        assert_eq!(first.sequence, 1);
        let second = first.with_slots(vec![Slot::Password(slot(2, "two"))]).unwrap();
        assert_eq!(second.sequence, 2);
        let last = Header { sequence: u64::MAX, ..first.clone() };
        assert!(last.with_slots(first.slots).is_err());
    }

    #[test]
    fn a_header_that_no_reader_would_accept_is_not_made() {
        let new = |slots| Header::new(VAULT, slots).map(drop);
        let usage = |result| matches!(result, Err(SlotError::Other(Error::Usage(_))));
        let cheap: Vec<Slot> = (1..=9).map(|id| Slot::Password(slot(id, "p"))).collect();
        assert!(usage(new(Vec::new())));
        assert!(usage(new(cheap.clone())));
        assert!(new(cheap[..8].to_vec()).is_ok());
        assert!(matches!(new(vec![cheap[0].clone(), cheap[0].clone()]), Err(SlotError::Malformed(_))));

        let params = KdfParams { memory_kib: 1 << 20, passes: 3, lanes: 1 };
        let heavy = |id| {
            let mut bytes = slot(id, "p").encode();
            bytes[16..20].copy_from_slice(&params.memory_kib.to_le_bytes());
            bytes[20..24].copy_from_slice(&params.passes.to_le_bytes());
            Slot::Password(PasswordSlot::decode(&bytes).unwrap())
        };
        assert!(new(vec![heavy(1)]).is_ok());
        assert!(matches!(new(vec![heavy(1), heavy(2)]), Err(SlotError::Refused(_))));

        let mut area = vec![0; 60_000];
        area[..4].copy_from_slice(&[9, 0, 0x60, 0xea]);
        let long = decode_slots(&area, 1).unwrap().remove(0);
        assert!(matches!(new(vec![cheap[0].clone(), long]), Err(SlotError::Malformed(_))));
    }

    fn commit() -> CommitPlace {
        CommitPlace {
            offset: FileOffset(0x0002_0040),
            sealed_len: 0x0304,
            number: 5,
            salt: Salt([6; 32]),
            digest: [7; 32],
        }
    }

    fn root() -> Root {
        Root::new(VAULT, 8, commit(), 0x0002_0040 + 0x0304).unwrap()
    }

    fn root_k() -> RootKey {
        root_key(&master(), &VAULT.0)
    }

    #[test]
    fn the_root_stands_as_the_format_says() {
        let bytes = root().encode(&root_k());
        assert_eq!(bytes[..16], *b"FLINTRT1\x01\0\0\0\0\0\0\0");
        assert_eq!(bytes[16..32], VAULT.0);
        assert_eq!(bytes[32..48], [8, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 2, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[48..64], [4, 3, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[64..80], [0x44, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[80..112], [6; 32]);
        assert_eq!(bytes[112..144], [7; 32]);
        assert!(all_zero(&bytes[144..476]));
        assert_eq!(bytes[476..508], root_k().mac(&bytes[..476]));
        assert_eq!(bytes[508..], crc32c(&bytes[..508]).to_le_bytes());
        assert_eq!(UnverifiedRoot::decode(&bytes).unwrap().verify(&root_k(), &VAULT), Ok(root()));
    }

    #[test]
    fn one_flipped_bit_anywhere_in_a_root_is_refused() {
        let bytes = root().encode(&root_k());
        for bit in 0..ROOT_LEN * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(UnverifiedRoot::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_changed_root_with_the_right_checksum_does_not_verify() {
        // With room behind the commit record, so that a changed offset is still one that a root may have.
        let bytes = Root::new(VAULT, 8, commit(), 1 << 20).unwrap().encode(&root_k());
        let forged = Err(Malformation::Forged { structure: ROOT });
        for at in [16, 33, 42, 56, 66, 80, 112, 476, 507] {
            let mut changed = bytes;
            changed[at] ^= 4;
            fix_crc(&mut changed);
            assert_eq!(UnverifiedRoot::decode(&changed).unwrap().verify(&root_k(), &VAULT), forged, "byte {at}");
        }
        let other_key = root_key(&master(), &[0; 16]);
        assert_eq!(UnverifiedRoot::decode(&bytes).unwrap().verify(&other_key, &VAULT), forged);
        assert_eq!(UnverifiedRoot::decode(&bytes).unwrap().verify(&root_k(), &VaultId([0; 16])), forged);
    }

    #[test]
    fn a_root_with_a_field_out_of_range_is_refused() {
        let refusal = |at: usize, value: u8| {
            let mut bytes = root().encode(&root_k());
            bytes[at] = value;
            fix_crc(&mut bytes);
            UnverifiedRoot::decode(&bytes).unwrap_err()
        };
        let field = |field| Malformation::Field { structure: ROOT, field };
        assert_eq!(refusal(0, 0), Malformation::Magic { structure: ROOT });
        assert_eq!(refusal(8, 2), Malformation::Version { structure: ROOT, version: 2 });
        assert_eq!(refusal(144, 2), Malformation::Version { structure: ROOT, version: 1 });
        assert_eq!(refusal(271, 2), Malformation::Version { structure: ROOT, version: 1 });
        for at in [12, 52, 55, 72, 79, 272, 475] {
            assert_eq!(refusal(at, 1), Malformation::Reserved { structure: ROOT }, "byte {at}");
        }
        assert_eq!(refusal(32, 0), field("generation"));
        assert_eq!(refusal(40, 0x41), field("commit record offset"));
        assert_eq!(refusal(42, 0), field("commit record offset"));
        assert_eq!(refusal(49, 0), field("commit record length"));
        assert_eq!(refusal(51, 1), field("commit record length"));
        assert_eq!(refusal(60, 1), field("commit record number"));
        assert_eq!(refusal(64, 0x43), field("end"));
        assert_eq!(refusal(71, 0x80), field("end"));
        assert_eq!(refusal(47, 0xff), field("end"));
    }

    /// The values of docs/FORMAT.md, "Example values", computed from its text by a program that shares no code with this
    /// crate (Python's `cryptography` 48 over OpenSSL).
    #[test]
    fn what_another_program_computed_from_the_format_is_read_and_written_the_same() {
        let counting = |from: u8| std::array::from_fn::<u8, 32, _>(|at| from + u8::try_from(at).unwrap());
        let vault_id = VaultId(get::<0, _, _>(&counting(0x10)));

        let mut slot = [0; 256];
        slot[..4].copy_from_slice(&[1, 0, 0, 1]);
        slot[4] = 1;
        slot[8..16].copy_from_slice(&1_700_000_000_u64.to_le_bytes());
        (slot[16], slot[20], slot[24], slot[28], slot[30]) = (64, 2, 2, 1, 6);
        slot[32..64].copy_from_slice(&counting(0x40));
        slot[64..70].copy_from_slice(b"golden");
        slot[128..160].copy_from_slice(&hex("22b84aad7b149e66d75d520066e0182b211c3b61cb12d12951c38b28f73ef87c"));
        slot[160..208].copy_from_slice(&hex(
            "b32798c25bc686cef1d3d99ad36f67fe0e371ddee1f34965ba488ef55db76d3dc4a52e5303b7fab27fbf93cd3a5733f7",
        ));
        let slots = vec![Slot::Password(PasswordSlot::decode(&slot).unwrap())];
        let master = unlock(&slots, &vault_id, &Password::new("correct horse")).unwrap().master;
        let header = Header::new(vault_id, slots).unwrap().encode(&header_key(&master, &vault_id.0));
        assert_eq!(digest(&header[..])[..], hex("c757cb21ea3c5c6f8cc40de34c16ce62cdef4c5b104f163025bb913cb20bd17c"));

        let salt = Salt(counting(0x60));
        let segment = SegmentHeader::new(vault_id, salt, 3).encode();
        assert_eq!(digest(&segment)[..], hex("a85d28287f56508e785b73bff161b6707d3b4b6bd024092f189c79ccea2def9c"));

        let keys = segment_keys(&master, &salt.0, &vault_id.0);
        let number = 0x0102_0304;
        let data = RecordHeader {
            kind: RecordKind::Data,
            codec: Codec::Store,
            segment: salt.segment_id(),
            number,
            plain_len: 4,
            packed_len: 4,
        };
        let mut buf = *b"data";
        let (head, tag) = seal_record(&keys, &data, &mut buf).unwrap();
        assert_eq!(
            [&head[..], &buf, &tag].concat(),
            hex("464c5243010100004d8d274ff7e176af977a95a0055c8c5f0403020100000000040000000400000000000000000000000000\
                 0000000000000000000050cd0e4caebd4252520de268802c5ee5117f1e2c48daceb5")
        );
        let commit = seal_meta(&keys, salt.segment_id(), RecordKind::Commit, number, b"data").unwrap();
        assert_eq!(
            commit,
            hex("464c5243010700004d8d274ff7e176af977a95a0055c8c5f0403020100000000040000000400000000000000000000000000\
                 000000000000000000007a28ff9980aaa7ea2d4196f3bb5a581381efb629e5fc9c46")
        );

        let place = CommitPlace { offset: FileOffset(65_792), sealed_len: 84, number, salt, digest: digest(&commit) };
        let root = Root::new(vault_id, 5, place, 65_792 + 84).unwrap();
        let root = root.encode(&root_key(&master, &vault_id.0));
        assert_eq!(digest(&root)[..], hex("4367f12bc1dcdaa0bf81e5d776c836ea07a5fc9f7770ed83961032cc23c4a31c"));
    }

    #[test]
    fn what_lies_between_headers_and_roots_is_reserved() {
        let mut ranges = RESERVED_RANGES.to_vec();
        ranges.extend([HEADER_A_AT..16 << 10, HEADER_B_AT..48 << 10, ROOT_A_AT..49_664, ROOT_B_AT..57_856]);
        ranges.sort_by_key(|range| range.start);
        assert_eq!(ranges.first().unwrap().start, 0);
        assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(ranges.last().unwrap().end, EXTENTS_AT);
    }

    proptest! {
        #[test]
        fn roots_come_back_as_they_were(
            id: [u8; 16], generation in 1_u64.., block in 1025_u64..1 << 55, len in 80_u32..=16_777_296,
            number in 0..MAX_RECORDS, behind in 0_u64..1 << 60, salt: [u8; 32], digest: [u8; 32],
        ) {
            let offset = FileOffset(block * 64);
            let commit = CommitPlace { offset, sealed_len: len, number, salt: Salt(salt), digest };
            let end = offset.0 + u64::from(len) + behind;
            let root = Root::new(VaultId(id), generation, commit, end);
            let root = if offset.0 < 65_792 { prop_assert!(root.is_err()); return Ok(()) } else { root.unwrap() };
            let bytes = root.encode(&root_k());
            prop_assert_eq!(UnverifiedRoot::decode(&bytes).unwrap().verify(&root_k(), &VaultId(id)), Ok(root));
        }

        #[test]
        fn random_roots_are_refused_or_encode_as_they_were(random in prop::collection::vec(any::<u8>(), 512)) {
            let mut bytes: [u8; 512] = random.try_into().unwrap();
            prop_assert!(UnverifiedRoot::decode(&bytes).is_err());
            bytes[..16].copy_from_slice(b"FLINTRT1\x01\0\0\0\0\0\0\0");
            for range in [46..48, 51..56, 60..64, 70..80, 144..476] {
                bytes[range].fill(0);
            }
            fix_crc(&mut bytes);
            if let Ok(unverified) = UnverifiedRoot::decode(&bytes) {
                let again = unverified.root.encode(&root_k());
                prop_assert_eq!(again[..476].to_vec(), bytes[..476].to_vec());
            }
        }

        #[test]
        fn random_headers_are_refused_or_encode_as_they_were(
            id: [u8; 16], sequence: u64, flags: u32, count in 0_u16..4,
            slots in prop::collection::vec((0_u16..4, 0_u16..80), 4), random in prop::collection::vec(any::<u8>(), 400),
        ) {
            let mut bytes = Box::new([0; HEADER_LEN]);
            bytes[..400].copy_from_slice(&random);
            prop_assert!(UnverifiedHeader::decode(&bytes).is_err());
            bytes[..16].copy_from_slice(&PREAMBLE);
            bytes[46..64].fill(0);
            fix_crc(&mut bytes[..]);
            let _ = UnverifiedHeader::decode(&bytes);

            bytes[16..32].copy_from_slice(&id);
            bytes[32..40].copy_from_slice(&sequence.to_le_bytes());
            bytes[40..44].copy_from_slice(&flags.to_le_bytes());
            bytes[44..46].copy_from_slice(&count.to_le_bytes());
            let mut at = 64;
            for (kind, len) in slots.into_iter().take(count.into()) {
                bytes[at..at + 2].copy_from_slice(&kind.to_le_bytes());
                bytes[at + 2..at + 4].copy_from_slice(&len.to_le_bytes());
                at += usize::from(len.max(4));
            }
            bytes[at..].fill(0);
            let mac = key().mac(&bytes[..16_348]);
            bytes[16_348..16_380].copy_from_slice(&mac);
            fix_crc(&mut bytes[..]);
            if let Ok(header) = decoded(&bytes) {
                prop_assert_eq!(header.encode(&key()), bytes);
            }
        }
    }
}
