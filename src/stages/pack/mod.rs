//! From files into the vault: scan, read, compress, encrypt, write.

pub(crate) mod compress;
pub(crate) mod encrypt;
pub(crate) mod exclude;
pub(crate) mod names;
pub(crate) mod place;
pub(crate) mod read;
pub(crate) mod scan;
pub(crate) mod source;
pub(crate) mod write;
