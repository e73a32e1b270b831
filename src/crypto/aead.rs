//! How are bytes sealed, opened, wrapped and authenticated under a key that is already there?
//!
//! AES-256-GCM with 96-bit nonces and 128-bit tags (NIST SP 800-38D), and HMAC-SHA256 (FIPS 198-1).
//!
//! Keys are wrapped by aes-gcm, the reference. Records, of which there are many bytes, are sealed by ring where it is built in
//! (feature `ring`; docs/adr/0012); both pass the same vectors, and what one seals the other opens.

#[cfg(debug_assertions)]
use std::{collections::HashSet, sync::Mutex};

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::crypto::key::{KEY_LEN, Kek, Key, MasterKey, RecordKey, purpose};
use crate::crypto::nonce::{NONCE_LEN, RecordNonce};
use crate::error::{Error, Malformation, Result};
use crate::primitives::sys::lock_in_memory;

/// The length of a tag, in bytes.
pub(crate) const TAG_LEN: usize = 16;
/// The length of a wrapped key: ciphertext and tag.
pub(crate) const WRAPPED_KEY_LEN: usize = KEY_LEN + TAG_LEN;
/// The length of a MAC, in bytes.
pub(crate) const MAC_LEN: usize = 32;

/// An implementation of AES-256-GCM. The one seam for another backend, which must pass the vectors below.
pub(crate) trait Aead: Send + Sync + Sized {
    /// Expands a key. The value wipes what it holds when it is dropped.
    fn with_key(key: &[u8; KEY_LEN]) -> Self;

    /// Encrypts `buf` in place and gives its tag; `None` if `buf` is longer than the mode can take (64 GiB).
    fn seal_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8]) -> Option<[u8; TAG_LEN]>;

    /// Checks the tag in constant time and decrypts `buf` in place. Where it answers `false`, `buf` holds no plaintext, and
    /// what it holds is of no use.
    #[must_use]
    fn open_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8], tag: &[u8; TAG_LEN]) -> bool;
}

impl Aead for Aes256Gcm {
    fn with_key(key: &[u8; KEY_LEN]) -> Self {
        <Self as KeyInit>::new(key.into())
    }

    fn seal_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8]) -> Option<[u8; TAG_LEN]> {
        let tag = self.encrypt_inout_detached(&Nonce::from(*nonce), aad, buf.into()).ok()?;
        Some(tag.into())
    }

    fn open_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
        self.decrypt_inout_detached(&Nonce::from(*nonce), aad, buf.into(), &Tag::from(*tag)).is_ok()
    }
}

/// Seals and opens records.
#[cfg(feature = "ring")]
pub(crate) type RecordAead = ring_backend::RingAes256Gcm;
/// Seals and opens records.
#[cfg(not(feature = "ring"))]
pub(crate) type RecordAead = Aes256Gcm;

#[cfg(feature = "ring")]
mod ring_backend {
    use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

    use super::{Aead, KEY_LEN, NONCE_LEN, TAG_LEN};
    use crate::primitives::sys::Wiped;

    /// ring's AES-256-GCM. ring does not wipe its keys, so it is done here.
    pub(crate) struct RingAes256Gcm(Wiped<LessSafeKey>);

    impl Aead for RingAes256Gcm {
        fn with_key(key: &[u8; KEY_LEN]) -> Self {
            let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of AES-256 has 32 bytes");
            Self(Wiped::new(LessSafeKey::new(key)))
        }

        fn seal_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8]) -> Option<[u8; TAG_LEN]> {
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), buf).ok()?;
            tag.as_ref().try_into().ok()
        }

        fn open_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
            let (nonce, tag) = (Nonce::assume_unique_for_key(*nonce), Tag::from(*tag));
            self.0.open_in_place_separate_tag(nonce, Aad::from(aad), tag, buf, 0..).is_ok()
        }
    }
}

/// Seals and opens the records of one segment key. Has no state that changes: any number of workers may share it.
pub(crate) struct RecordCipher<A: Aead = RecordAead> {
    // Boxed, so that a move leaves no copy of the key schedule behind.
    cipher: Box<A>,
    /// The numbers sealed so far: a repeat is a defect that destroys the key, so debug builds look for it.
    #[cfg(debug_assertions)]
    sealed: Mutex<HashSet<u64>>,
}

impl<A: Aead> RecordCipher<A> {
    /// Expands a segment key.
    pub(crate) fn new(key: &RecordKey) -> Self {
        let cipher = Box::new(A::with_key(key.expose()));
        lock_in_memory(&*cipher);
        Self {
            cipher,
            #[cfg(debug_assertions)]
            sealed: Mutex::default(),
        }
    }

    /// Encrypts `buf` in place and gives its tag.
    ///
    /// - `number`: the record's number. The caller never seals two records with the same one, not even when the first
    ///   was thrown away.
    /// - `aad`: authenticated, not hidden, and needed again to open.
    ///
    /// # Errors
    /// [`Error::NonceSpent`] once `number` is beyond what one key may seal; `buf` is untouched.
    ///
    /// # Panics
    /// In debug builds, if `number` was sealed before by this value.
    pub(crate) fn seal(&self, number: u64, aad: &[u8], buf: &mut [u8]) -> Result<[u8; TAG_LEN]> {
        let nonce = RecordNonce::new(number)?;
        #[cfg(debug_assertions)]
        {
            let fresh = self.sealed.lock().map_or(true, |mut sealed| sealed.insert(number));
            assert!(fresh, "record number {number} sealed twice under one key");
        }
        self.cipher
            .seal_in_place(nonce.as_bytes(), aad, buf)
            .ok_or_else(|| Error::Usage(format!("a record of {} bytes cannot be sealed", buf.len())))
    }

    /// Checks the tag, then decrypts `buf` in place.
    ///
    /// # Errors
    /// [`Malformation::Forged`] if key, number, associated data, bytes and tag do not belong together;
    /// [`Malformation::Field`] for a number that no record can have. Both times `buf` holds no plaintext, since none leaves
    /// here before it is authenticated, and nothing else of use.
    pub(crate) fn open(
        &self,
        number: u64,
        aad: &[u8],
        buf: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Malformation> {
        let nonce =
            RecordNonce::new(number).map_err(|_| Malformation::Field { structure: "record", field: "number" })?;
        if self.cipher.open_in_place(nonce.as_bytes(), aad, buf, tag) {
            Ok(())
        } else {
            Err(Malformation::Forged { structure: "record" })
        }
    }
}

impl Kek {
    /// Wraps the master key: ciphertext, then tag. The nonce is zero, which is right because this key is never used
    /// for anything else: it is derived from a salt that is drawn anew for each slot.
    pub(crate) fn wrap(&self, aad: &[u8], master: &MasterKey) -> [u8; WRAPPED_KEY_LEN] {
        let mut wrapped = [0; WRAPPED_KEY_LEN];
        let (key, tag) = wrapped.split_at_mut(KEY_LEN);
        key.copy_from_slice(master.expose());
        let sealed = Aes256Gcm::with_key(self.expose()).seal_in_place(&[0; NONCE_LEN], aad, key);
        tag.copy_from_slice(&sealed.expect("32 bytes are within what the mode can take"));
        wrapped
    }

    /// Opens what [`Kek::wrap`] made.
    ///
    /// # Errors
    /// [`Malformation::Forged`] if it was not made by this key with this `aad`.
    pub(crate) fn unwrap(&self, aad: &[u8], wrapped: &[u8; WRAPPED_KEY_LEN]) -> Result<MasterKey, Malformation> {
        let (ciphertext, tag) = wrapped.split_at(KEY_LEN);
        let tag = tag.try_into().expect("a wrapped key is 32 bytes of ciphertext and 16 of tag");
        MasterKey::try_fill(|key| {
            key.copy_from_slice(ciphertext);
            if Aes256Gcm::with_key(self.expose()).open_in_place(&[0; NONCE_LEN], aad, key, tag) {
                Ok(())
            } else {
                Err(Malformation::Forged { structure: "key slot" })
            }
        })
    }
}

/// A purpose whose keys authenticate by HMAC-SHA256.
pub(crate) trait MacPurpose {}
impl MacPurpose for purpose::Header {}
impl MacPurpose for purpose::Root {}

impl<P: MacPurpose> Key<P> {
    /// The MAC of `bytes`.
    pub(crate) fn mac(&self, bytes: &[u8]) -> [u8; MAC_LEN] {
        self.hmac().chain_update(bytes).finalize().into_bytes().into()
    }

    /// Whether `mac` is the MAC of `bytes`; compared in constant time.
    #[must_use]
    pub(crate) fn verifies(&self, bytes: &[u8], mac: &[u8; MAC_LEN]) -> bool {
        self.hmac().chain_update(bytes).verify_slice(mac).is_ok()
    }

    fn hmac(&self) -> Hmac<Sha256> {
        <Hmac<Sha256> as KeyInit>::new_from_slice(self.expose()).expect("HMAC takes keys of any length")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::key::tests::hex;
    use crate::crypto::key::{HeaderKey, RootKey};

    struct Vector {
        key: &'static str,
        nonce: &'static str,
        aad: &'static str,
        plain: &'static str,
        sealed: &'static str,
        tag: &'static str,
    }

    /// NIST CAVS `gcmEncryptExtIV256.rsp` (the first) and test cases 13 to 16 of "The Galois/Counter Mode of Operation"
    /// by McGrew and Viega.
    const VECTORS: [Vector; 5] = [
        Vector {
            key: "b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4",
            nonce: "516c33929df5a3284ff463d7",
            aad: "",
            plain: "",
            sealed: "",
            tag: "bdc1ac884d332457a1d2664f168c76f0",
        },
        Vector {
            key: "0000000000000000000000000000000000000000000000000000000000000000",
            nonce: "000000000000000000000000",
            aad: "",
            plain: "",
            sealed: "",
            tag: "530f8afbc74536b9a963b4f1c4cb738b",
        },
        Vector {
            key: "0000000000000000000000000000000000000000000000000000000000000000",
            nonce: "000000000000000000000000",
            aad: "",
            plain: "00000000000000000000000000000000",
            sealed: "cea7403d4d606b6e074ec5d3baf39d18",
            tag: "d0d1c8a799996bf0265b98b5d48ab919",
        },
        Vector {
            key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            nonce: "cafebabefacedbaddecaf888",
            aad: "",
            plain: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b1\
                    6aedf5aa0de657ba637b391aafd255",
            sealed: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c\
                     5f61e6393ba7a0abcc9f662898015ad",
            tag: "b094dac5d93471bdec1a502270e3cc6c",
        },
        Vector {
            key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            nonce: "cafebabefacedbaddecaf888",
            aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            plain: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b1\
                    6aedf5aa0de657ba637b39",
            sealed: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c\
                     5f61e6393ba7a0abcc9f662",
            tag: "76fc6ece0f4e1768cddf8853bb2d551b",
        },
    ];

    fn passes_the_published_vectors<A: Aead>() {
        for vector in &VECTORS {
            let cipher = A::with_key(&hex(vector.key).try_into().unwrap());
            let nonce: [u8; NONCE_LEN] = hex(vector.nonce).try_into().unwrap();
            let (aad, mut buf) = (hex(vector.aad), hex(vector.plain));
            let tag = cipher.seal_in_place(&nonce, &aad, &mut buf).unwrap();
            assert_eq!(buf, hex(vector.sealed));
            assert_eq!(tag[..], hex(vector.tag));
            assert!(cipher.open_in_place(&nonce, &aad, &mut buf, &tag));
            assert_eq!(buf, hex(vector.plain));
        }
    }

    #[test]
    fn aes_gcm_passes_the_published_vectors() {
        passes_the_published_vectors::<Aes256Gcm>();
    }

    #[test]
    fn what_records_are_sealed_with_passes_the_published_vectors_too() {
        passes_the_published_vectors::<RecordAead>();
    }

    #[test]
    fn what_one_backend_seals_the_other_opens() {
        let key = [0x5A; KEY_LEN];
        let (reference, records) = (Aes256Gcm::with_key(&key), RecordAead::with_key(&key));
        for len in [0_usize, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1023, 4096, 70_001] {
            let plain: Vec<u8> = (0_u8..241).cycle().take(len).collect();
            let aad = &plain[..len.min(64)];
            let (mut by_reference, mut by_records) = (plain.clone(), plain.clone());
            let tag = reference.seal_in_place(&[3; NONCE_LEN], aad, &mut by_reference).unwrap();
            assert_eq!(records.seal_in_place(&[3; NONCE_LEN], aad, &mut by_records), Some(tag), "{len}");
            assert!(by_reference == by_records, "{len}");
            assert!(reference.open_in_place(&[3; NONCE_LEN], aad, &mut by_records, &tag) && by_records == plain);
            assert!(records.open_in_place(&[3; NONCE_LEN], aad, &mut by_reference, &tag) && by_reference == plain);
        }
    }

    #[test]
    fn hmac_passes_a_published_vector() {
        // NIST CAVS has none for 32-byte keys that is short; this is RFC 4231, test case 2, whose key HMAC pads with
        // zeros as it would any shorter than a block.
        let mut key = [0; KEY_LEN];
        key[..4].copy_from_slice(b"Jefe");
        let mac = HeaderKey::from_test_bytes(key).mac(b"what do ya want for nothing?");
        assert_eq!(mac[..], hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"));
    }

    fn cipher() -> RecordCipher {
        RecordCipher::new(&RecordKey::from_test_bytes([7; KEY_LEN]))
    }

    #[test]
    fn what_was_sealed_opens_at_every_edge_length() {
        let cipher = cipher();
        for (number, len) in [0_usize, 1, 15, 16, 17, 4095, 4096, 4097].into_iter().enumerate() {
            let number = number as u64;
            let plain: Vec<u8> = (0_u8..251).cycle().take(len).collect();
            let mut buf = plain.clone();
            let tag = cipher.seal(number, b"aad", &mut buf).unwrap();
            assert!(len == 0 || buf != plain);
            cipher.open(number, b"aad", &mut buf, &tag).unwrap();
            assert_eq!(buf, plain);
        }
    }

    #[test]
    fn a_failed_open_leaves_no_plaintext() {
        fn fails<A: Aead>() {
            let cipher = RecordCipher::<A>::new(&RecordKey::from_test_bytes([7; KEY_LEN]));
            let plain = *b"some bytes that are longer than one block of the cipher";
            let mut sealed = plain;
            let tag = cipher.seal(3, b"aad", &mut sealed).unwrap();
            let mut wrong_tag = tag;
            wrong_tag[15] ^= 1;
            let mut flipped = sealed;
            flipped[0] ^= 0x80;
            for (number, aad, bytes, tag) in [
                (3, b"aad", &sealed[..], &wrong_tag),
                (4, b"aad", &sealed[..], &tag),
                (3, b"aae", &sealed[..], &tag),
                (3, b"aad", &sealed[1..], &tag),
                (3, b"aad", &flipped[..], &tag),
            ] {
                let mut buf = bytes.to_vec();
                let opened = cipher.open(number, aad, &mut buf, tag);
                assert_eq!(opened, Err(Malformation::Forged { structure: "record" }));
                assert!(!buf.windows(8).any(|bytes| plain.windows(8).any(|part| part == bytes)));
            }
        }
        fails::<Aes256Gcm>();
        fails::<RecordAead>();
    }

    #[test]
    fn another_key_opens_nothing() {
        let mut buf = [1; 40];
        let tag = cipher().seal(0, b"", &mut buf).unwrap();
        let other: RecordCipher = RecordCipher::new(&RecordKey::from_test_bytes([8; KEY_LEN]));
        assert!(other.open(0, b"", &mut buf, &tag).is_err());
    }

    #[test]
    fn a_number_beyond_the_limit_seals_and_opens_nothing() {
        let mut buf = [5; 8];
        assert!(matches!(cipher().seal(1 << 32, b"", &mut buf), Err(Error::NonceSpent)));
        assert_eq!(buf, [5; 8]);
        let field = Malformation::Field { structure: "record", field: "number" };
        assert_eq!(cipher().open(1 << 32, b"", &mut buf, &[0; TAG_LEN]), Err(field));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "record number 9 sealed twice under one key")]
    fn debug_builds_notice_a_repeated_number() {
        let cipher = cipher();
        cipher.seal(9, b"", &mut [0; 4]).unwrap();
        let _ = cipher.seal(9, b"", &mut [1; 4]);
    }

    #[test]
    fn a_wrapped_key_opens_only_with_its_kek_and_its_associated_data() {
        let kek = Kek::from_test_bytes([1; KEY_LEN]);
        let wrapped = kek.wrap(b"slot", &MasterKey::from_test_bytes([2; KEY_LEN]));
        assert_eq!(kek.unwrap(b"slot", &wrapped).unwrap().expose(), &[2; KEY_LEN]);

        let forged = Malformation::Forged { structure: "key slot" };
        assert_eq!(kek.unwrap(b"slat", &wrapped).unwrap_err(), forged);
        assert_eq!(Kek::from_test_bytes([3; KEY_LEN]).unwrap(b"slot", &wrapped).unwrap_err(), forged);
        for bit in 0..WRAPPED_KEY_LEN * 8 {
            let mut flipped = wrapped;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(kek.unwrap(b"slot", &flipped).unwrap_err(), forged);
        }
    }

    #[test]
    fn a_mac_verifies_only_for_its_bytes_and_its_key() {
        let key = RootKey::from_test_bytes([1; KEY_LEN]);
        let mac = key.mac(b"root");
        assert!(key.verifies(b"root", &mac));
        assert!(!key.verifies(b"boot", &mac));
        assert!(!RootKey::from_test_bytes([2; KEY_LEN]).verifies(b"root", &mac));
        let mut flipped = mac;
        flipped[31] ^= 0x80;
        assert!(!key.verifies(b"root", &flipped));
    }
}
