//! From files into the vault: scan, read, compress, encrypt, write.

pub(crate) mod read;
pub(crate) mod scan;
