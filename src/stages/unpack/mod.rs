//! From the vault into files: read, decrypt, decompress, write.

mod attributes;
mod beneath;
pub(crate) mod decompress;
pub(crate) mod decrypt;
pub(crate) mod destination;
mod directories;
#[cfg(test)]
mod fixture;
pub(crate) mod glance;
pub(crate) mod links;
mod place;
pub(crate) mod policy;
pub(crate) mod read;
mod sync;
mod target;
pub(crate) mod told;
pub(crate) mod write;
