//! From the vault into files: read, decrypt, decompress, write.

pub(crate) mod write;
