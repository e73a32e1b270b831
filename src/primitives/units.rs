//! Quantities that could be taken for one another, each a type; sizes and durations to and from text.

/// A position in a vault file, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileOffset(pub u64);

/// The number of a data record within its segment: the planner's count of chunks, and the record's nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkSeq(pub u64);

/// One KiB, one MiB, one GiB in bytes.
pub(crate) const KIB: u64 = 1 << 10;
/// One MiB in bytes.
pub(crate) const MIB: u64 = 1 << 20;
/// One GiB in bytes.
pub(crate) const GIB: u64 = 1 << 30;
