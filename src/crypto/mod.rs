//! Keys and bytes: from a password to keys, from keys to sealed bytes. Knows no record, no header, no file.

pub(crate) mod aead;
pub(crate) mod derive;
pub(crate) mod key;
pub(crate) mod nonce;
