//! Which secrets are there, and who wipes them? Each kind of key is a type of its own, lives in one place on the heap,
//! and is overwritten when it is dropped. Its page is kept out of the swap where the system allows it.
//!
//! What wiping can mean: the bytes held by these types are gone after a drop, also after a panic that unwinds. Copies
//! that the compiler or a cipher crate left in registers and on the stack, swap, and a process that was killed are out
//! of reach: best effort.

use std::fmt;
use std::io;
use std::marker::PhantomData;

use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, FileOp, Result};
use crate::primitives::sys::lock_in_memory;

/// The length of every key, in bytes.
pub(crate) const KEY_LEN: usize = 32;

/// A 256-bit key for one purpose.
///
/// It is boxed, so that moving the value moves a pointer and leaves no copy behind, and it has neither `Clone` nor
/// `Default` nor a `Debug` that shows bytes.
pub(crate) struct Key<Purpose> {
    bytes: Box<Zeroizing<[u8; KEY_LEN]>>,
    purpose: PhantomData<fn() -> Purpose>,
}

/// The purposes of keys; types without values.
pub(crate) mod purpose {
    /// Root of all other keys of a vault.
    pub(crate) enum Master {}
    /// What Argon2id makes of a password.
    pub(crate) enum Stretched {}
    /// Wraps the master key in one slot.
    pub(crate) enum Kek {}
    /// Authenticates the header.
    pub(crate) enum Header {}
    /// Authenticates the roots.
    pub(crate) enum Root {}
    /// Seals records of one segment: those of data, or those of metadata.
    pub(crate) enum Record {}
}

/// 32 random bytes, made once per vault; stored only wrapped; never used by a cipher itself.
pub(crate) type MasterKey = Key<purpose::Master>;
/// What Argon2id makes of a password and a slot's salt; only ever an input of HKDF.
pub(crate) type StretchedKey = Key<purpose::Stretched>;
/// Wraps the master key in one slot. Used with one nonce, once: a slot that is sealed again has another salt.
pub(crate) type Kek = Key<purpose::Kek>;
/// The key of the header's MAC.
pub(crate) type HeaderKey = Key<purpose::Header>;
/// The key of the roots' MAC.
pub(crate) type RootKey = Key<purpose::Root>;
/// The AES-256-GCM key of the data records, or of the metadata records, of one segment.
pub(crate) type RecordKey = Key<purpose::Record>;

impl<P> Key<P> {
    /// Makes a key by filling it in its final place. If `fill` fails, what it wrote is wiped.
    pub(super) fn try_fill<E>(fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = Self { bytes: Box::new(Zeroizing::new([0; KEY_LEN])), purpose: PhantomData };
        lock_in_memory(&**key.bytes);
        fill(&mut key.bytes)?;
        Ok(key)
    }

    /// The key's bytes, for the functions of `crypto` alone.
    pub(super) fn expose(&self) -> &[u8; KEY_LEN] {
        &self.bytes
    }

    /// A key with known bytes.
    #[cfg(test)]
    pub(crate) fn from_test_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self { bytes: Box::new(Zeroizing::new(bytes)), purpose: PhantomData }
    }
}

impl MasterKey {
    /// Draws a new master key from the system's random numbers.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has none to give.
    pub(crate) fn generate() -> Result<Self> {
        Self::try_fill(|bytes| fill_random(bytes))
    }
}

impl<P> ZeroizeOnDrop for Key<P> {}

impl<P> fmt::Debug for Key<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A password, as bytes: no encoding is asked for, and none is normalised. Wiped when dropped.
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Takes the text over; if it was a `String`, its memory is wiped when the password is dropped.
    pub fn new(password: impl Into<String>) -> Self {
        Self::from_bytes(password.into().into_bytes())
    }

    /// Takes the bytes over, and wipes their memory when the password is dropped.
    #[must_use]
    pub fn from_bytes(password: Vec<u8>) -> Self {
        lock_in_memory(&password[..]);
        Self(Zeroizing::new(password))
    }

    /// Whether it has no bytes. An empty password opens nothing and is refused for new key slots.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A second copy, which wipes itself too.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self::from_bytes(self.0.to_vec())
    }

    /// The password's bytes, for the key derivation alone.
    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Fills `bytes` from the system's random numbers, waiting until they have been seeded.
///
/// # Errors
/// [`Error::Io`] if the system refuses; `bytes` must not be used then.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| {
        let source = match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other(error.to_string()),
        };
        // There is no file in this story; the call stands where the path would.
        Error::io(FileOp::Read, "getrandom(2)", source)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The bytes that a string of hexadecimal digits stands for.
    pub(crate) fn hex(digits: &str) -> Vec<u8> {
        assert!(digits.len().is_multiple_of(2), "an odd number of digits");
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn two_master_keys_differ_and_neither_is_zero() {
        let (one, other) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
        assert_ne!(one.expose(), other.expose());
        assert_ne!(one.expose(), &[0; KEY_LEN]);
    }

    #[test]
    fn debug_shows_no_byte_of_a_secret() {
        assert_eq!(format!("{:?}", MasterKey::from_test_bytes([0x41; KEY_LEN])), "Key(..)");
        assert_eq!(format!("{:?}", Password::new("AAAA")), "Password(..)");
    }

    #[test]
    fn a_password_is_its_bytes() {
        assert_eq!(Password::new("naïve").expose(), "naïve".as_bytes());
        assert_eq!(Password::from_bytes(vec![0xff, 0, 0xfe]).expose(), [0xff, 0, 0xfe]);
        assert!(Password::new("").is_empty());
        assert!(!Password::new(" ").is_empty());
    }

    #[test]
    fn a_failed_fill_gives_no_key() {
        assert!(RecordKey::try_fill(|_| Err(())).is_err());
    }

    #[test]
    fn keys_wipe_themselves() {
        // Looking into freed memory is not for safe code; that the fields are of a type that wipes itself, is.
        fn wipes<T: ZeroizeOnDrop>(_: &T) {}
        wipes(&*MasterKey::from_test_bytes([1; KEY_LEN]).bytes);
        wipes(&Password::new("secret").0);
        wipes(&<aes_gcm::Aes256Gcm as aes_gcm::KeyInit>::new(&[1; KEY_LEN].into()));
    }
}
