//! Which key comes from which? Argon2id from a password, HKDF-SHA256 from there on, a label for each purpose.
//!
//! ```text
//! password ──Argon2id(slot's salt)──▶ stretched ─┬─▶ KEK: opens the slot's copy of the master key
//!                                                └─▶ commitment: tells a wrong password from damage
//! master key ─┬─▶ header key, root key                            (HKDF salt: the vault id)
//!             └─▶ data key, metadata key of one segment           (HKDF salt: the segment's salt)
//! ```
//!
//! Source: docs/FORMAT.md, "Keys".

use argon2::{Algorithm, Argon2, Block, Params, Version};
use hkdf::Hkdf;
use rayon::ThreadPoolBuilder;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::aead::RecordCipher;
use crate::crypto::key::{HeaderKey, KEY_LEN, Kek, Key, MasterKey, Password, RootKey, StretchedKey, purpose};
use crate::primitives::sys::available_cores;

/// Every label of the format. No two are equal and none begins another, so no two derivations can meet.
mod label {
    pub(super) const SLOT_KEK: &[u8] = b"flint v1 slot kek";
    pub(super) const SLOT_COMMIT: &[u8] = b"flint v1 slot commit";
    pub(super) const HEADER_MAC: &[u8] = b"flint v1 header mac";
    pub(super) const ROOT: &[u8] = b"flint v1 root";
    pub(super) const DATA: &[u8] = b"flint v1 data";
    pub(super) const META: &[u8] = b"flint v1 meta";

    #[cfg(test)]
    pub(super) const ALL: [&[u8]; 6] = [SLOT_KEK, SLOT_COMMIT, HEADER_MAC, ROOT, DATA, META];
}

/// The length of a salt for Argon2id, and of a segment's salt, in bytes.
pub(crate) const SALT_LEN: usize = 32;
/// The length of a slot's key commitment, in bytes.
pub(crate) const COMMITMENT_LEN: usize = 32;
/// The length of the part of a key slot that its keys are bound to, in bytes.
pub(crate) const SLOT_HEAD_LEN: usize = 128;
/// The length of a vault id, in bytes.
pub(crate) const VAULT_ID_LEN: usize = 16;

/// What one try of a password costs: the parameters of Argon2id.
///
/// They stand in each key slot, so a vault made with a higher cost opens everywhere, without being told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Lanes. A constant of the vault: at most so many threads derive, as many as there are cores.
    pub lanes: u32,
}

/// Why a derivation was not begun or not finished; reads after "key derivation refused:".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct KdfRefusal(pub(crate) &'static str);

impl KdfParams {
    /// 64 MiB, 3 passes, 4 lanes: the second choice of RFC 9106, section 4; about 0.15 s of CPU.
    pub const DEFAULT: Self = Self { memory_kib: 64 << 10, passes: 3, lanes: 4 };

    /// As little as Argon2id can do. Protects nothing: for tests, which derive keys thousands of times.
    #[cfg(any(test, feature = "internals"))]
    #[doc(hidden)]
    pub const CHEAP_FOR_TESTS: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };

    /// The most memory that is given to a derivation, in KiB: 1 GiB.
    pub(crate) const MAX_MEMORY_KIB: u32 = 1 << 20;
    /// The most passes.
    pub(crate) const MAX_PASSES: u32 = 16;
    /// The most lanes.
    pub(crate) const MAX_LANES: u32 = 16;
    /// The most that all password slots of a vault may cost together, in KiB times passes: 4 GiB-passes. A wrong password
    /// is tried on every slot.
    pub(crate) const MAX_TOTAL_COST: u64 = 4 << 20;
    /// The least memory for a new slot, in KiB: 19 MiB. Source: OWASP Password Storage Cheat Sheet.
    pub(crate) const MIN_NEW_MEMORY_KIB: u32 = 19 << 10;
    /// The least number of passes for a new slot. Source: as above.
    pub(crate) const MIN_NEW_PASSES: u32 = 2;

    /// Whether a reader spends this much on a slot that nobody has authenticated yet.
    ///
    /// # Errors
    /// Names the parameter that is out of range.
    pub(crate) fn check(&self) -> Result<(), KdfRefusal> {
        if self.memory_kib > Self::MAX_MEMORY_KIB {
            Err(KdfRefusal("memory above 1 GiB"))
        } else if self.passes == 0 || self.passes > Self::MAX_PASSES {
            Err(KdfRefusal("passes outside 1 to 16"))
        } else if self.lanes == 0 || self.lanes > Self::MAX_LANES {
            Err(KdfRefusal("lanes outside 1 to 16"))
        } else if self.memory_kib < 8 * self.lanes {
            Err(KdfRefusal("memory below 8 KiB a lane"))
        } else {
            Ok(())
        }
    }

    /// Whether a new slot may have these parameters: what readers accept, and not below the floor.
    ///
    /// # Errors
    /// Names the parameter that is out of range.
    pub(crate) fn check_for_new_slot(&self) -> Result<(), KdfRefusal> {
        self.check()?;
        #[cfg(any(test, feature = "internals"))]
        if *self == Self::CHEAP_FOR_TESTS {
            return Ok(());
        }
        if self.memory_kib < Self::MIN_NEW_MEMORY_KIB {
            Err(KdfRefusal("memory below 19 MiB"))
        } else if self.passes < Self::MIN_NEW_PASSES {
            Err(KdfRefusal("fewer than 2 passes"))
        } else {
            Ok(())
        }
    }

    /// Memory times passes, in KiB.
    pub(crate) fn cost(&self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }
}

impl Default for KdfParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Argon2id, version 0x13, of a password and a slot's salt. Its memory is wiped and given back before this returns.
///
/// # Errors
/// [`KdfRefusal`] if the parameters are beyond what a reader accepts, or the system does not give the memory.
///
/// Source: RFC 9106.
pub(crate) fn stretch(
    password: &Password,
    salt: &[u8; SALT_LEN],
    params: &KdfParams,
) -> Result<StretchedKey, KdfRefusal> {
    params.check()?;
    argon2id(password.expose(), salt, params)
}

fn argon2id(password: &[u8], salt: &[u8], params: &KdfParams) -> Result<StretchedKey, KdfRefusal> {
    let inner = Params::new(params.memory_kib, params.passes, params.lanes, Some(KEY_LEN))
        .map_err(|_| KdfRefusal("parameters out of range"))?;
    // Our own memory, because what the crate allocates by itself is not wiped.
    let count = inner.block_count();
    let mut blocks = Zeroizing::new(Vec::new());
    blocks.try_reserve_exact(count).map_err(|_| KdfRefusal("the system does not give the memory"))?;
    blocks.resize(count, Block::new());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, inner);
    let threads = available_cores().get().min(usize::try_from(params.lanes).unwrap_or(1));
    on_lane_threads(threads, || {
        Key::try_fill(|key| argon2.hash_password_into_with_memory(password, salt, key, blocks.as_mut_slice()))
            .map_err(|_| KdfRefusal("parameters out of range"))
    })?
}

/// Derives on threads of our own, told to end when that is done: the crate takes those of whoever calls it, and would else start
/// some for the whole process, for ever. Where the system starts none, this thread does all.
fn on_lane_threads<T: Send>(threads: usize, derive: impl FnOnce() -> T + Send) -> Result<T, KdfRefusal> {
    if rayon::current_thread_index().is_some() {
        // One of a pool: a caller's, or since it came by the last line here before.
        return Ok(derive());
    }
    if let Ok(pool) = ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("kdf-{n}")).build() {
        return Ok(pool.install(derive));
    }
    let alone = ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    let alone = alone.map_err(|_| KdfRefusal("the system does not start a thread"))?;
    let derived = alone.install(derive);
    // This thread belongs to it from now on.
    std::mem::forget(alone);
    Ok(derived)
}

/// What a slot's stretched password is good for.
pub(crate) struct SlotKeys {
    /// Wraps the master key.
    pub(crate) kek: Kek,
    /// Is stored in the slot and compared before the master key is unwrapped. AES-GCM does not commit to its key; this
    /// does, so a slot opens with one password only. Source: RFC 5869; docs/FORMAT.md, "Password slot".
    pub(crate) commitment: [u8; COMMITMENT_LEN],
}

/// The keys of a slot, bound to the vault and to the slot's first 128 bytes.
pub(crate) fn slot_keys(
    stretched: &StretchedKey,
    vault_id: &[u8; VAULT_ID_LEN],
    slot_head: &[u8; SLOT_HEAD_LEN],
) -> SlotKeys {
    let mut commitment = [0; COMMITMENT_LEN];
    hkdf(stretched.expose(), vault_id, &[label::SLOT_COMMIT, slot_head], &mut commitment);
    SlotKeys { kek: derive(stretched, vault_id, &[label::SLOT_KEK, slot_head]), commitment }
}

/// The key of the header's MAC.
pub(crate) fn header_key(master: &MasterKey, vault_id: &[u8; VAULT_ID_LEN]) -> HeaderKey {
    derive(master, vault_id, &[label::HEADER_MAC])
}

/// The key of the roots' MAC.
pub(crate) fn root_key(master: &MasterKey, vault_id: &[u8; VAULT_ID_LEN]) -> RootKey {
    derive(master, vault_id, &[label::ROOT])
}

/// The ciphers of one segment. Two keys, because data and metadata records are numbered apart, each from 0.
pub(crate) struct SegmentKeys {
    /// For data records.
    pub(crate) data: RecordCipher,
    /// For all others.
    pub(crate) meta: RecordCipher,
}

/// The ciphers of the segment with this salt. A writer's salt is drawn for the one run: see docs/FORMAT.md, "Nonces".
pub(crate) fn segment_keys(master: &MasterKey, salt: &[u8; SALT_LEN], vault_id: &[u8; VAULT_ID_LEN]) -> SegmentKeys {
    let cipher = |label| RecordCipher::new(&derive::<_, purpose::Record>(master, salt, &[label, vault_id]));
    SegmentKeys { data: cipher(label::DATA), meta: cipher(label::META) }
}

fn derive<From, To>(from: &Key<From>, salt: &[u8], info: &[&[u8]]) -> Key<To> {
    let Ok(key) = Key::try_fill::<std::convert::Infallible>(|key| {
        hkdf(from.expose(), salt, info, key);
        Ok(())
    });
    key
}

/// HKDF-SHA256 with an output of one hash; `info` is taken piece after piece. Source: RFC 5869.
fn hkdf(input: &[u8], salt: &[u8], info: &[&[u8]], output: &mut [u8; KEY_LEN]) {
    let (mut pseudorandom, hkdf) = Hkdf::<Sha256>::extract(Some(salt), input);
    pseudorandom.as_mut_slice().zeroize();
    hkdf.expand_multi_info(info, output).expect("32 bytes are less than 255 hashes");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::key::tests::hex;

    #[test]
    fn argon2id_passes_the_reference_vectors() {
        // From the reference implementation's test.c: version 0x13, t=2, m=2^8, "password", "somesalt".
        let derive = |lanes| argon2id(b"password", b"somesalt", &KdfParams { memory_kib: 256, passes: 2, lanes });
        let one = "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe";
        let two = "6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037";
        assert_eq!(derive(1).unwrap().expose()[..], hex(one));
        assert_eq!(derive(2).unwrap().expose()[..], hex(two));
    }

    #[test]
    fn argon2id_passes_the_vector_of_rfc_9106() {
        // Section 5.3 has a secret and associated data, which the format does not use, so this asks the crate itself.
        let mut params = argon2::ParamsBuilder::new();
        params.m_cost(32).t_cost(3).p_cost(4).data(argon2::AssociatedData::new(&[4; 12]).unwrap());
        let params = params.build().unwrap();
        let argon2 = Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params).unwrap();
        let mut tag = [0; 32];
        let mut blocks = vec![Block::new(); 32];
        argon2.hash_password_into_with_memory(&[1; 32], &[2; 16], &mut tag, blocks.as_mut_slice()).unwrap();
        assert_eq!(tag[..], hex("0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"));
    }

    #[test]
    fn hkdf_passes_the_first_vectors_of_rfc_5869() {
        // Test cases 1 and 3; the format takes only the first 32 bytes of their output.
        let mut key = [0; KEY_LEN];
        let info = hex("f0f1f2f3f4f5f6f7f8f9");
        hkdf(&[0x0b; 22], &hex("000102030405060708090a0b0c"), &[&info], &mut key);
        assert_eq!(key[..], hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"));
        hkdf(&[0x0b; 22], &hex("000102030405060708090a0b0c"), &[&info[..3], &info[3..]], &mut key);
        assert_eq!(key[..], hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"));
        hkdf(&[0x0b; 22], &[], &[], &mut key);
        assert_eq!(key[..], hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"));
    }

    #[test]
    fn no_label_begins_another() {
        for (at, one) in label::ALL.iter().enumerate() {
            for other in &label::ALL[at + 1..] {
                assert!(!one.starts_with(other) && !other.starts_with(one));
            }
        }
    }

    #[test]
    fn every_derived_key_is_another() {
        let master = MasterKey::from_test_bytes([1; KEY_LEN]);
        let stretched = StretchedKey::from_test_bytes([1; KEY_LEN]);
        let id = [2; VAULT_ID_LEN];
        let slot = slot_keys(&stretched, &id, &[3; SLOT_HEAD_LEN]);
        let salt = [2; SALT_LEN];
        let keys = [
            *header_key(&master, &id).expose(),
            *root_key(&master, &id).expose(),
            *slot.kek.expose(),
            slot.commitment,
            *derive::<_, purpose::Record>(&master, &salt, &[label::DATA, &id]).expose(),
            *derive::<_, purpose::Record>(&master, &salt, &[label::META, &id]).expose(),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[at + 1..].contains(key));
        }
    }

    #[test]
    fn keys_follow_the_vault_the_slot_and_the_salt() {
        let master = MasterKey::from_test_bytes([1; KEY_LEN]);
        assert_ne!(header_key(&master, &[0; 16]).expose(), header_key(&master, &[1; 16]).expose());
        assert_ne!(root_key(&master, &[0; 16]).expose(), root_key(&master, &[1; 16]).expose());
        let stretched = StretchedKey::from_test_bytes([1; KEY_LEN]);
        let commitment = |id, head| slot_keys(&stretched, &id, &head).commitment;
        assert_ne!(commitment([0; 16], [0; 128]), commitment([1; 16], [0; 128]));
        assert_ne!(commitment([0; 16], [0; 128]), commitment([0; 16], [1; 128]));

        let tag = |salt, id, meta: bool| {
            let keys = segment_keys(&master, &salt, &id);
            let cipher = if meta { keys.meta } else { keys.data };
            cipher.seal(0, b"", &mut [0; 8]).unwrap()
        };
        let first = tag([0; 32], [0; 16], false);
        assert_eq!(first, tag([0; 32], [0; 16], false));
        assert_ne!(first, tag([1; 32], [0; 16], false));
        assert_ne!(first, tag([0; 32], [1; 16], false));
        assert_ne!(first, tag([0; 32], [0; 16], true));
    }

    #[test]
    fn a_stretched_key_follows_password_salt_and_every_parameter() {
        let base = KdfParams { memory_kib: 32, passes: 1, lanes: 1 };
        let key = |password, salt: u8, params: KdfParams| {
            *stretch(&Password::new(password), &[salt; SALT_LEN], &params).unwrap().expose()
        };
        let first = key("password", 0, base);
        assert_eq!(first, key("password", 0, base));
        assert_ne!(first, key("passwort", 0, base));
        assert_ne!(first, key("password", 1, base));
        assert_ne!(first, key("password", 0, KdfParams { memory_kib: 64, ..base }));
        assert_ne!(first, key("password", 0, KdfParams { passes: 2, ..base }));
        assert_ne!(first, key("password", 0, KdfParams { lanes: 2, ..base }));
    }

    #[test]
    fn a_reader_refuses_absurd_parameters_before_it_takes_memory() {
        let refused = |memory_kib, passes, lanes| {
            let params = KdfParams { memory_kib, passes, lanes };
            stretch(&Password::new("x"), &[0; SALT_LEN], &params).map(drop).unwrap_err().0
        };
        assert_eq!(refused(u32::MAX, 1, 1), "memory above 1 GiB");
        assert_eq!(refused((1 << 20) + 1, 1, 1), "memory above 1 GiB");
        assert_eq!(refused(64, 0, 1), "passes outside 1 to 16");
        assert_eq!(refused(64, 17, 1), "passes outside 1 to 16");
        assert_eq!(refused(256, 1, 0), "lanes outside 1 to 16");
        assert_eq!(refused(256, 1, u32::MAX), "lanes outside 1 to 16");
        assert_eq!(refused(256, 1, 17), "lanes outside 1 to 16");
        assert_eq!(refused(31, 1, 4), "memory below 8 KiB a lane");
        assert_eq!(refused(0, 1, 1), "memory below 8 KiB a lane");
        assert!(KdfParams { memory_kib: 1 << 20, passes: 16, lanes: 16 }.check().is_ok());
    }

    #[test]
    fn a_writer_keeps_to_the_floor() {
        let new = |memory_kib, passes| KdfParams { memory_kib, passes, lanes: 1 }.check_for_new_slot();
        assert_eq!(new(19 << 10, 2), Ok(()));
        assert_eq!(new((19 << 10) - 1, 2), Err(KdfRefusal("memory below 19 MiB")));
        assert_eq!(new(19 << 10, 1), Err(KdfRefusal("fewer than 2 passes")));
        assert_eq!(new(8, 2), Err(KdfRefusal("memory below 19 MiB")));
        assert_eq!(KdfParams::DEFAULT.check_for_new_slot(), Ok(()));
        assert_eq!(KdfParams::DEFAULT.cost(), 192 << 10);
    }
}
