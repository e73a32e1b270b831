//! docs/FORMAT.md, "Key slots": how does a password open a vault, and what does it cost to try one?
//!
//! ```text
//! slot bytes 0..128 (cost, salt, label) ─┬─────────────────────────▶ commitment 128..160 ─▶ wrapped key 160..208
//! password ─────────Argon2id─────────────┘         compared first                    opened only then
//! ```

use std::path::Path;

use subtle::ConstantTimeEq;

use crate::crypto::aead::WRAPPED_KEY_LEN;
use crate::crypto::derive::{
    COMMITMENT_LEN, KdfParams, KdfRefusal, SALT_LEN, SLOT_HEAD_LEN, SlotKeys, slot_keys, stretch,
};
use crate::crypto::key::{MasterKey, Password, fill_random};
use crate::error::{Error, Malformation, Result};
use crate::format::header::PREAMBLE;
use crate::format::layout::{all_zero, get, put};
use crate::format::record::VaultId;

/// The length of a password slot, in bytes.
pub(crate) const PASSWORD_SLOT_LEN: usize = 256;
/// The longest label, in bytes.
pub(crate) const MAX_LABEL_LEN: usize = 64;
/// The most password slots of a vault. A wrong password is tried on every one.
pub(crate) const MAX_PASSWORD_SLOTS: usize = 8;
/// The most slots of other kinds.
pub(crate) const MAX_OTHER_SLOTS: usize = 32;

/// docs/FORMAT.md, "Password slot", in file order: each offset follows from the one before it.
mod at {
    use super::{COMMITMENT_LEN, MAX_LABEL_LEN, SALT_LEN, WRAPPED_KEY_LEN};

    pub(super) const KIND: usize = 0;
    pub(super) const LEN: usize = KIND + 2;
    pub(super) const ID: usize = LEN + 2;
    pub(super) const CREATED: usize = ID + 4;
    pub(super) const MEMORY: usize = CREATED + 8;
    pub(super) const PASSES: usize = MEMORY + 4;
    pub(super) const LANES: usize = PASSES + 4;
    pub(super) const ALGORITHM: usize = LANES + 4;
    pub(super) const LABEL_LEN: usize = ALGORITHM + 2;
    pub(super) const SALT: usize = LABEL_LEN + 2;
    pub(super) const LABEL: usize = SALT + SALT_LEN;
    pub(super) const COMMITMENT: usize = LABEL + MAX_LABEL_LEN;
    pub(super) const WRAPPED: usize = COMMITMENT + COMMITMENT_LEN;
    pub(super) const RESERVED: usize = WRAPPED + WRAPPED_KEY_LEN;
    const _: () = assert!(COMMITMENT == super::SLOT_HEAD_LEN, "the keys are bound to all that stands before");
    const _: () = assert!(RESERVED + 48 == super::PASSWORD_SLOT_LEN, "docs/FORMAT.md says 256 bytes");
}

const SLOT: &str = "key slot";
const KIND_PASSWORD: u16 = 1;
const ALGORITHM_ARGON2ID: u16 = 1;
/// Kind and length, which every slot begins with.
const SLOT_MIN_LEN: usize = 8;

/// Why a password opens nothing, or a slot cannot be made.
#[derive(Debug)]
pub(crate) enum SlotError {
    /// No slot is committed to this password.
    WrongPassword,
    /// The key derivation was not begun, or the system has not the memory for it.
    Refused(KdfRefusal),
    /// The slots are damaged.
    Malformed(Malformation),
    /// Anything else.
    Other(Error),
}

impl SlotError {
    /// The error for who knows the vault, and where the header stands that the slots are from.
    pub(crate) fn into_error(self, vault: &Path, header_at: u64) -> Error {
        match self {
            Self::WrongPassword => Error::WrongPassword(vault.to_owned()),
            Self::Refused(KdfRefusal(what)) => Error::KdfRefused { vault: vault.to_owned(), what },
            Self::Malformed(malformation) => Error::malformed(vault, header_at, malformation),
            Self::Other(error) => error,
        }
    }
}

impl From<KdfRefusal> for SlotError {
    fn from(refusal: KdfRefusal) -> Self {
        Self::Refused(refusal)
    }
}

/// One way to the master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Slot {
    /// By a password.
    Password(PasswordSlot),
    /// By something that this version does not know; kept as it is.
    Other(OtherSlot),
}

/// A slot of a kind that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OtherSlot {
    /// The whole slot, kind and length included.
    bytes: Vec<u8>,
}

impl OtherSlot {
    /// The number of its kind.
    pub(crate) fn kind(&self) -> u16 {
        u16::from_le_bytes(self.bytes[..2].try_into().expect("a slot has at least 8 bytes"))
    }
}

/// The master key wrapped for one password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PasswordSlot {
    id: u32,
    created: i64,
    params: KdfParams,
    label: String,
    salt: [u8; SALT_LEN],
    commitment: [u8; COMMITMENT_LEN],
    wrapped: [u8; WRAPPED_KEY_LEN],
}

impl PasswordSlot {
    /// Wraps the master key for a password, under a salt of its own.
    ///
    /// - `id`: the sequence of the header that it first stands in: unique in the vault and never used again.
    /// - `created`: seconds since 1970.
    /// - `label`: at most 64 bytes; stands in clear in the file.
    ///
    /// # Errors
    /// [`SlotError::Refused`] for parameters below the floor or beyond what readers accept; [`SlotError::Other`] with
    /// [`Error::Usage`] for an empty password or a long label, with [`Error::Io`] if there are no random numbers.
    pub(crate) fn seal(
        vault_id: &VaultId,
        id: u32,
        created: i64,
        params: KdfParams,
        label: &str,
        password: &Password,
        master: &MasterKey,
    ) -> Result<Self, SlotError> {
        params.check_for_new_slot()?;
        if password.is_empty() {
            return Err(SlotError::Other(Error::Usage("the password is empty".to_owned())));
        }
        if label.len() > MAX_LABEL_LEN {
            let message = format!("the label has {} bytes, at most {MAX_LABEL_LEN} are possible", label.len());
            return Err(SlotError::Other(Error::Usage(message)));
        }
        let mut slot = Self {
            id,
            created,
            params,
            label: label.to_owned(),
            salt: [0; SALT_LEN],
            commitment: [0; COMMITMENT_LEN],
            wrapped: [0; WRAPPED_KEY_LEN],
        };
        fill_random(&mut slot.salt).map_err(SlotError::Other)?;
        let SlotKeys { kek, commitment } = slot.keys(vault_id, password)?;
        slot.commitment = commitment;
        slot.wrapped = kek.wrap(&slot.aad(vault_id), master);
        Ok(slot)
    }

    /// Its number, which no other password slot of the vault has or had.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// When it was made, in seconds since 1970, as its maker says.
    pub(crate) fn created(&self) -> i64 {
        self.created
    }

    /// What a try costs. May be anything until [`KdfParams::check`] has seen it.
    pub(crate) fn params(&self) -> KdfParams {
        self.params
    }

    /// What its maker called it: any text, so a terminal must not be given it as it is.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    fn keys(&self, vault_id: &VaultId, password: &Password) -> Result<SlotKeys, KdfRefusal> {
        let stretched = stretch(password, &self.salt, &self.params)?;
        Ok(slot_keys(&stretched, &vault_id.0, &self.head()))
    }

    /// The first 128 bytes: what the slot's keys are bound to.
    fn head(&self) -> [u8; SLOT_HEAD_LEN] {
        get::<0, _, _>(&self.encode())
    }

    /// What the wrapped key is bound to: magic number, version and critical flags of the header, vault id, slot.
    fn aad(&self, vault_id: &VaultId) -> Vec<u8> {
        [&PREAMBLE[..], &vault_id.0, &self.head()].concat()
    }

    /// The slot's bytes.
    pub(crate) fn encode(&self) -> [u8; PASSWORD_SLOT_LEN] {
        let mut bytes = [0; PASSWORD_SLOT_LEN];
        let slot_len = u16::try_from(PASSWORD_SLOT_LEN).expect("256 fits");
        let label_len = u16::try_from(self.label.len()).expect("checked to be at most 64 when the slot was made");
        put::<{ at::KIND }, _, _>(&mut bytes, KIND_PASSWORD.to_le_bytes());
        put::<{ at::LEN }, _, _>(&mut bytes, slot_len.to_le_bytes());
        put::<{ at::ID }, _, _>(&mut bytes, self.id.to_le_bytes());
        put::<{ at::CREATED }, _, _>(&mut bytes, self.created.to_le_bytes());
        put::<{ at::MEMORY }, _, _>(&mut bytes, self.params.memory_kib.to_le_bytes());
        put::<{ at::PASSES }, _, _>(&mut bytes, self.params.passes.to_le_bytes());
        put::<{ at::LANES }, _, _>(&mut bytes, self.params.lanes.to_le_bytes());
        put::<{ at::ALGORITHM }, _, _>(&mut bytes, ALGORITHM_ARGON2ID.to_le_bytes());
        put::<{ at::LABEL_LEN }, _, _>(&mut bytes, label_len.to_le_bytes());
        put::<{ at::SALT }, _, _>(&mut bytes, self.salt);
        bytes[at::LABEL..at::LABEL + self.label.len()].copy_from_slice(self.label.as_bytes());
        put::<{ at::COMMITMENT }, _, _>(&mut bytes, self.commitment);
        put::<{ at::WRAPPED }, _, _>(&mut bytes, self.wrapped);
        bytes
    }

    /// Reads a slot's bytes. The cost is taken as it is: whether it is bearable, [`unlock`] asks.
    ///
    /// # Errors
    /// A [`Malformation`].
    pub(crate) fn decode(bytes: &[u8; PASSWORD_SLOT_LEN]) -> Result<Self, Malformation> {
        let field = |field| Malformation::Field { structure: SLOT, field };
        if u16::from_le_bytes(get::<{ at::KIND }, _, _>(bytes)) != KIND_PASSWORD {
            return Err(field("kind"));
        }
        if usize::from(u16::from_le_bytes(get::<{ at::LEN }, _, _>(bytes))) != PASSWORD_SLOT_LEN {
            return Err(field("length"));
        }
        if u16::from_le_bytes(get::<{ at::ALGORITHM }, _, _>(bytes)) != ALGORITHM_ARGON2ID {
            return Err(field("algorithm"));
        }
        let label_len = usize::from(u16::from_le_bytes(get::<{ at::LABEL_LEN }, _, _>(bytes)));
        if label_len > MAX_LABEL_LEN {
            return Err(field("label length"));
        }
        let (label, padding) = bytes[at::LABEL..at::COMMITMENT].split_at(label_len);
        if !all_zero(padding) || !all_zero(&bytes[at::RESERVED..]) {
            return Err(Malformation::Reserved { structure: SLOT });
        }
        Ok(Self {
            id: u32::from_le_bytes(get::<{ at::ID }, _, _>(bytes)),
            created: i64::from_le_bytes(get::<{ at::CREATED }, _, _>(bytes)),
            params: KdfParams {
                memory_kib: u32::from_le_bytes(get::<{ at::MEMORY }, _, _>(bytes)),
                passes: u32::from_le_bytes(get::<{ at::PASSES }, _, _>(bytes)),
                lanes: u32::from_le_bytes(get::<{ at::LANES }, _, _>(bytes)),
            },
            label: std::str::from_utf8(label).map_err(|_| field("label"))?.to_owned(),
            salt: get::<{ at::SALT }, _, _>(bytes),
            commitment: get::<{ at::COMMITMENT }, _, _>(bytes),
            wrapped: get::<{ at::WRAPPED }, _, _>(bytes),
        })
    }
}

/// Reads `count` slots from the beginning of `area`, whose rest must be zero. `area` is as long as the header allows, so
/// what is allocated here is bounded by it.
///
/// # Errors
/// A [`Malformation`].
pub(super) fn decode_slots(area: &[u8], count: u16) -> Result<Vec<Slot>, Malformation> {
    let field = |field| Malformation::Field { structure: SLOT, field };
    let mut slots = Vec::new();
    let mut rest = area;
    for _ in 0..count {
        let Some(&[kind_0, kind_1, len_0, len_1]) = rest.first_chunk() else {
            return Err(Malformation::Truncated { structure: SLOT });
        };
        let len = usize::from(u16::from_le_bytes([len_0, len_1]));
        if len < SLOT_MIN_LEN || !len.is_multiple_of(4) {
            return Err(field("length"));
        }
        let Some((slot, behind)) = rest.split_at_checked(len) else {
            return Err(Malformation::Truncated { structure: SLOT });
        };
        slots.push(match u16::from_le_bytes([kind_0, kind_1]) {
            0 => return Err(field("kind")),
            KIND_PASSWORD => Slot::Password(PasswordSlot::decode(slot.try_into().map_err(|_| field("length"))?)?),
            _ => Slot::Other(OtherSlot { bytes: slot.to_vec() }),
        });
        rest = behind;
        check_numbers(&slots)?;
    }
    if !all_zero(rest) {
        return Err(Malformation::Reserved { structure: "header" });
    }
    Ok(slots)
}

/// Writes slots to the beginning of `area`; `false` if they do not fit, and then `area` is partly written.
#[must_use]
pub(super) fn encode_slots(slots: &[Slot], area: &mut [u8]) -> bool {
    let mut at = 0;
    for slot in slots {
        let password_slot;
        let bytes = match slot {
            Slot::Password(slot) => {
                password_slot = slot.encode();
                &password_slot[..]
            }
            Slot::Other(slot) => &slot.bytes,
        };
        let Some(room) = area.get_mut(at..at + bytes.len()) else {
            return false;
        };
        room.copy_from_slice(bytes);
        at += bytes.len();
    }
    true
}

/// The password slots among all.
pub(crate) fn password_slots(slots: &[Slot]) -> impl Iterator<Item = &PasswordSlot> {
    slots.iter().filter_map(|slot| match slot {
        Slot::Password(slot) => Some(slot),
        Slot::Other(_) => None,
    })
}

/// How many slots there may be, and that no two password slots have one id.
pub(super) fn check_numbers(slots: &[Slot]) -> Result<(), Malformation> {
    let field = |field| Err(Malformation::Field { structure: "header", field });
    let passwords = password_slots(slots).count();
    if passwords > MAX_PASSWORD_SLOTS {
        return field("number of password slots");
    }
    if slots.len() - passwords > MAX_OTHER_SLOTS {
        return field("number of other slots");
    }
    for (at, slot) in password_slots(slots).enumerate() {
        if password_slots(slots).skip(at + 1).any(|other| other.id == slot.id) {
            return field("slot id");
        }
    }
    Ok(())
}

/// Whether it is bearable to try a password on all slots: each by itself, and their sum.
///
/// # Errors
/// Names the parameter that is out of range.
pub(super) fn check_costs(slots: &[Slot]) -> Result<(), KdfRefusal> {
    let mut total = 0;
    for slot in password_slots(slots) {
        slot.params.check()?;
        total += slot.params.cost();
    }
    check_total(total)
}

/// Whether it is bearable to try a password on all slots but `except` and on one more of this cost: for who is about to make
/// that one, which costs time.
///
/// # Errors
/// As [`unlock`] and [`PasswordSlot::seal`] would refuse it.
pub(crate) fn check_new_cost(slots: &[Slot], except: Option<u32>, params: &KdfParams) -> Result<(), KdfRefusal> {
    params.check_for_new_slot()?;
    let others = password_slots(slots).filter(|slot| Some(slot.id) != except);
    check_total(others.fold(params.cost(), |total, slot| total.saturating_add(slot.params.cost())))
}

fn check_total(cost: u64) -> Result<(), KdfRefusal> {
    match cost > KdfParams::MAX_TOTAL_COST {
        true => Err(KdfRefusal("all key slots together above 4 GiB times passes")),
        false => Ok(()),
    }
}

/// What a password opens.
pub(crate) struct Unlocked {
    pub(crate) master: MasterKey,
    /// The id of the slot that it opened.
    pub(crate) slot: u32,
}

/// Tries a password on each slot, once, in file order, until one is committed to it: the master key that this one wraps.
/// The header must verify under it before anything is believed.
///
/// No memory is taken and nothing derived before the cost of all slots has been checked: they are not authenticated yet.
///
/// # Errors
/// [`SlotError::WrongPassword`] if no slot is committed to it; [`SlotError::Malformed`] if one is, and its wrapped key does
/// not open; [`SlotError::Refused`] if the cost is beyond the limits, or the memory is not there.
pub(crate) fn unlock(slots: &[Slot], vault_id: &VaultId, password: &Password) -> Result<Unlocked, SlotError> {
    check_costs(slots)?;
    for slot in password_slots(slots) {
        let SlotKeys { kek, commitment } = slot.keys(vault_id, password)?;
        if bool::from(commitment.ct_eq(&slot.commitment)) {
            let master = kek.unwrap(&slot.aad(vault_id), &slot.wrapped).map_err(SlotError::Malformed)?;
            return Ok(Unlocked { master, slot: slot.id });
        }
    }
    Err(SlotError::WrongPassword)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const VAULT: VaultId = VaultId([0x44; 16]);

    pub(crate) fn master() -> MasterKey {
        MasterKey::from_test_bytes([0x55; 32])
    }

    /// A slot of an unknown kind.
    pub(crate) fn other_slot() -> Slot {
        Slot::Other(OtherSlot { bytes: vec![9, 0, 8, 0, 1, 2, 3, 4] })
    }

    pub(crate) fn slot(id: u32, password: &str) -> PasswordSlot {
        slot_of(id, password, &master())
    }

    fn slot_of(id: u32, password: &str, master: &MasterKey) -> PasswordSlot {
        let params = KdfParams::CHEAP_FOR_TESTS;
        PasswordSlot::seal(&VAULT, id, 1_700_000_000, params, "label", &Password::new(password), master).unwrap()
    }

    /// A master key seen through what it derives: its bytes show themselves to nobody.
    fn seen(master: &MasterKey) -> [u8; 32] {
        crate::crypto::derive::header_key(master, &VAULT.0).mac(b"")
    }

    fn opened(slots: &[Slot], password: &str) -> Result<[u8; 32], SlotError> {
        unlock(slots, &VAULT, &Password::new(password)).map(|unlocked| seen(&unlocked.master))
    }

    #[test]
    fn the_password_slot_stands_as_the_format_says() {
        let slot = PasswordSlot {
            id: 0x0102,
            created: -2,
            params: KdfParams { memory_kib: 0x0001_0000, passes: 3, lanes: 4 },
            label: "büro".to_owned(),
            salt: [6; 32],
            commitment: [7; 32],
            wrapped: [8; 48],
        };
        let bytes = slot.encode();
        assert_eq!(bytes[..8], [1, 0, 0, 1, 2, 1, 0, 0]);
        assert_eq!(bytes[8..16], [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(bytes[16..32], [0, 0, 1, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1, 0, 5, 0]);
        assert_eq!(bytes[32..64], [6; 32]);
        assert_eq!(&bytes[64..69], "büro".as_bytes());
        assert!(all_zero(&bytes[69..128]));
        assert_eq!(bytes[128..160], [7; 32]);
        assert_eq!(bytes[160..208], [8; 48]);
        assert!(all_zero(&bytes[208..]));
        assert_eq!(PasswordSlot::decode(&bytes), Ok(slot));
    }

    #[test]
    fn each_of_several_passwords_opens_its_own_slot() {
        let other = OtherSlot { bytes: vec![9, 0, 8, 0, 1, 2, 3, 4] };
        // No header that verifies has slots of different master keys; here they tell which slot was opened.
        let second = MasterKey::from_test_bytes([0x66; 32]);
        let slots = [Slot::Password(slot(1, "one")), Slot::Other(other), Slot::Password(slot_of(7, "zwei", &second))];
        assert_eq!(opened(&slots, "one").unwrap(), seen(&master()));
        assert_eq!(opened(&slots, "zwei").unwrap(), seen(&second));
        let which = |password| unlock(&slots, &VAULT, &Password::new(password)).map(|unlocked| unlocked.slot);
        assert_eq!((which("one").unwrap(), which("zwei").unwrap()), (1, 7));
        for wrong in ["", "One", "one ", "three"] {
            assert!(matches!(opened(&slots, wrong), Err(SlotError::WrongPassword)));
        }
        assert!(matches!(opened(&[], "one"), Err(SlotError::WrongPassword)));
    }

    #[test]
    fn two_slots_of_one_password_have_nothing_secret_in_common() {
        let (one, other) = (slot(1, "same"), slot(1, "same"));
        assert_ne!(one.salt, other.salt);
        assert_ne!(one.commitment, other.commitment);
        assert_ne!(one.wrapped, other.wrapped);
    }

    #[test]
    fn a_slot_of_another_vault_does_not_open() {
        let slots = [Slot::Password(slot(1, "one"))];
        let elsewhere = unlock(&slots, &VaultId([0; 16]), &Password::new("one"));
        assert!(matches!(elsewhere, Err(SlotError::WrongPassword)));
    }

    #[test]
    fn a_commitment_that_matches_over_a_wrapped_key_that_does_not_open_is_damage() {
        for at in [at::WRAPPED, at::RESERVED - 1] {
            let mut bytes = slot(1, "one").encode();
            bytes[at] ^= 1;
            let slots = [Slot::Password(PasswordSlot::decode(&bytes).unwrap()), Slot::Password(slot(2, "one"))];
            let forged = Malformation::Forged { structure: SLOT };
            // The second slot would open, but is not tried: the first is committed to this password.
            assert!(matches!(opened(&slots, "one"), Err(SlotError::Malformed(found)) if found == forged));
        }
    }

    #[test]
    fn every_byte_of_the_head_is_bound_to_the_keys() {
        let bytes = slot(1, "one").encode();
        for at in [at::ID, at::CREATED, at::PASSES, at::SALT, at::LABEL, at::COMMITMENT] {
            let mut changed = bytes;
            changed[at] ^= 3;
            let slots = [Slot::Password(PasswordSlot::decode(&changed).unwrap())];
            assert!(matches!(opened(&slots, "one"), Err(SlotError::WrongPassword)), "byte {at}");
        }
    }

    fn with_params(params: KdfParams) -> Slot {
        Slot::Password(PasswordSlot { params, ..slot(1, "one") })
    }

    #[test]
    fn absurd_costs_are_refused_before_any_slot_is_tried() {
        let cheap = Slot::Password(slot(1, "one"));
        let refused = |slots: &[Slot]| match opened(slots, "one") {
            Err(SlotError::Refused(KdfRefusal(what))) => what,
            other => panic!("{other:?}"),
        };
        let huge = with_params(KdfParams { memory_kib: u32::MAX, passes: 1, lanes: 1 });
        assert_eq!(refused(&[cheap.clone(), huge]), "memory above 1 GiB");
        let long = with_params(KdfParams { memory_kib: 8, passes: 1000, lanes: 1 });
        assert_eq!(refused(&[cheap.clone(), long]), "passes outside 1 to 16");

        // Each is bearable: 2 GiB-passes and 2 KiB.
        let heavy = with_params(KdfParams { memory_kib: 1 << 20, passes: 2, lanes: 1 });
        let total = "all key slots together above 4 GiB times passes";
        assert_eq!(refused(&[cheap.clone(), heavy.clone(), heavy.clone()]), total);
        assert_eq!(check_costs(&[heavy.clone(), heavy.clone()]), Ok(()));
        assert_eq!(check_costs(&[heavy.clone(), heavy.clone(), cheap]), Err(KdfRefusal(total)));

        // Before it is made as well; not beside the one that it is to replace.
        let params = KdfParams { memory_kib: 1 << 20, passes: 3, lanes: 1 };
        assert_eq!(check_new_cost(std::slice::from_ref(&heavy), None, &params), Err(KdfRefusal(total)));
        assert_eq!(check_new_cost(&[heavy], Some(1), &params), Ok(()));
    }

    #[test]
    fn a_new_slot_wants_a_password_a_short_label_and_parameters_above_the_floor() {
        let seal = |params, label: &str, password: &str| {
            PasswordSlot::seal(&VAULT, 1, 0, params, label, &Password::new(password), &master())
        };
        let cheap = KdfParams::CHEAP_FOR_TESTS;
        assert!(seal(cheap, &"x".repeat(64), "p").is_ok());
        assert!(matches!(seal(cheap, &"x".repeat(65), "p"), Err(SlotError::Other(Error::Usage(_)))));
        assert!(matches!(seal(cheap, "", ""), Err(SlotError::Other(Error::Usage(_)))));
        let low = KdfParams { memory_kib: 1024, passes: 2, lanes: 1 };
        assert!(matches!(seal(low, "", "p"), Err(SlotError::Refused(_))));
    }

    #[test]
    fn errors_name_the_vault() {
        let error = |slot_error: SlotError| slot_error.into_error(Path::new("v.flint"), 32 << 10).to_string();
        assert_eq!(error(SlotError::WrongPassword), "wrong password: v.flint");
        assert_eq!(
            error(SlotError::Refused(KdfRefusal("memory above 1 GiB"))),
            "key derivation refused (memory above 1 GiB): v.flint"
        );
        let forged = Malformation::Forged { structure: SLOT };
        assert_eq!(error(SlotError::Malformed(forged)), "damaged at byte 32768: v.flint");
    }

    #[test]
    fn a_malformed_password_slot_is_refused() {
        let wrong = |at: usize, value: u8| {
            let mut bytes = slot(1, "one").encode();
            bytes[at] = value;
            PasswordSlot::decode(&bytes).unwrap_err()
        };
        let field = |field| Malformation::Field { structure: SLOT, field };
        assert_eq!(wrong(0, 2), field("kind"));
        assert_eq!(wrong(2, 4), field("length"));
        assert_eq!(wrong(28, 2), field("algorithm"));
        assert_eq!(wrong(30, 65), field("label length"));
        assert_eq!(wrong(31, 1), field("label length"));
        assert_eq!(wrong(64, 0xff), field("label"));
        assert_eq!(wrong(69, 1), Malformation::Reserved { structure: SLOT });
        assert_eq!(wrong(30, 4), Malformation::Reserved { structure: SLOT });
        assert_eq!(wrong(208, 1), Malformation::Reserved { structure: SLOT });
        assert_eq!(wrong(255, 1), Malformation::Reserved { structure: SLOT });
    }

    #[test]
    fn a_malformed_list_of_slots_is_refused() {
        let field = |structure, field| Err(Malformation::Field { structure, field });
        let truncated = Err(Malformation::Truncated { structure: SLOT });
        let other = [9, 0, 8, 0, 1, 2, 3, 4];
        let mut area = [0; 24];
        area[..8].copy_from_slice(&other);
        area[8..16].copy_from_slice(&other);
        let two = decode_slots(&area, 2).unwrap();
        let mut again = [0; 24];
        assert!(encode_slots(&two, &mut again));
        assert_eq!(again, area);
        assert!(!encode_slots(&two, &mut again[..15]));

        assert_eq!(decode_slots(&area, 1), Err(Malformation::Reserved { structure: "header" }));
        assert_eq!(decode_slots(&area, 3), field(SLOT, "length"));
        assert_eq!(decode_slots(&area[..16], 3), truncated);
        assert_eq!(decode_slots(&area[..15], 2), truncated);
        for (len, kind) in [(0, 9), (4, 9), (7, 9), (10, 9)] {
            assert_eq!(decode_slots(&[kind, 0, len, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1), field(SLOT, "length"));
        }
        assert_eq!(decode_slots(&[0, 0, 8, 0, 0, 0, 0, 0], 1), field(SLOT, "kind"));
        assert_eq!(decode_slots(&[1, 0, 8, 0, 0, 0, 0, 0], 1), field(SLOT, "length"));
        assert_eq!(decode_slots(&[9, 0, 0xfc, 0xff, 0, 0, 0, 0], 1), truncated);
        assert_eq!(decode_slots(&other.repeat(33), 33), field("header", "number of other slots"));
        assert!(decode_slots(&other.repeat(32), 32).is_ok());

        let passwords: Vec<u8> = (1..=9).flat_map(|id| slot(id, "p").encode()).collect();
        assert_eq!(decode_slots(&passwords, 9), field("header", "number of password slots"));
        assert!(decode_slots(&passwords[..8 * 256], 8).is_ok());
        assert_eq!(decode_slots(&passwords[..256].repeat(2), 2), field("header", "slot id"));
    }

    proptest! {
        #[test]
        fn random_slots_are_refused_or_encode_as_they_were(
            head in prop::collection::vec(any::<u8>(), 128),
            label_len in 0_u16..70,
            random in prop::collection::vec(any::<u8>(), 0..300),
            count: u16,
        ) {
            let _ = decode_slots(&random, count);
            let mut bytes = [0; 256];
            bytes[..128].copy_from_slice(&head);
            bytes[..4].copy_from_slice(&[1, 0, 0, 1]);
            bytes[28..30].copy_from_slice(&[1, 0]);
            bytes[30..32].copy_from_slice(&label_len.to_le_bytes());
            let label = 64 + usize::from(label_len).min(64);
            bytes[64..label].iter_mut().for_each(|byte| *byte &= 0x7f);
            bytes[label..128].fill(0);
            match PasswordSlot::decode(&bytes) {
                Ok(slot) => prop_assert_eq!(slot.encode(), bytes),
                Err(_) => prop_assert!(label_len > 64),
            }
        }
    }
}
