//! Which nonce does a record get, and when has a key sealed enough?

use crate::error::{Error, Result};

/// The length of an AES-GCM nonce, in bytes.
pub(crate) const NONCE_LEN: usize = 12;

/// How many records one segment key may seal: their numbers are 0 to one less than this.
///
/// Not a limit of the nonce, which has 64 bits for the number, but of what one key should be asked to do.
/// Source: docs/FORMAT.md, "Limits".
pub(crate) const MAX_RECORDS: u64 = 1 << 32;

/// The nonce of the record with one number: 4 zero bytes, then the number as 8 bytes, little-endian.
///
/// No two records of a key may have the same number; the segment's fresh salt makes the key its own, so numbers begin
/// at 0 in every segment and nothing about them has to be stored or agreed upon.
/// Source: NIST SP 800-38D, 8.2.1 (deterministic construction), with the fixed field zero.
pub(crate) struct RecordNonce([u8; NONCE_LEN]);

impl RecordNonce {
    /// The nonce of record `number`.
    ///
    /// # Errors
    /// [`Error::NonceSpent`] if `number` is [`MAX_RECORDS`] or more.
    pub(crate) fn new(number: u64) -> Result<Self> {
        if number >= MAX_RECORDS {
            return Err(Error::NonceSpent);
        }
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&number.to_le_bytes());
        Ok(Self(nonce))
    }

    /// The nonce as the cipher takes it.
    pub(crate) fn as_bytes(&self) -> &[u8; NONCE_LEN] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_stands_little_endian_behind_four_zeros() {
        let nonce = RecordNonce::new(0x0403_0201).unwrap();
        assert_eq!(nonce.as_bytes(), &[0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0]);
    }

    #[test]
    fn the_last_permitted_number_is_the_limit_less_one() {
        assert!(RecordNonce::new(MAX_RECORDS - 1).is_ok());
        assert!(matches!(RecordNonce::new(MAX_RECORDS), Err(Error::NonceSpent)));
        assert!(matches!(RecordNonce::new(u64::MAX), Err(Error::NonceSpent)));
    }
}
