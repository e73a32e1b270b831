//! docs/FORMAT.md in code: same chapters, same order, same words. Bytes in, structures out, and back; no file, no thread.

pub(crate) mod commit;
pub(crate) mod entry;
pub(crate) mod header;
pub(crate) mod index;
pub(crate) mod keyslot;
mod layout;
pub(crate) mod merge;
pub(crate) mod record;
pub(crate) mod tree;
