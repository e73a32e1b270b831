//! From the vault into files: read, decrypt, decompress, write.
