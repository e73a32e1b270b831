//! What do the benches and the fuzz targets of this crate need that users never do?
//!
//! No part of the public interface: it is there with the feature `internals` only, and may change at any time.

mod bench;
mod forge;
mod fuzz;
mod index;

pub use self::bench::{Bench, Opened, Packed, Plain, Restored, Sealed, Stored, copy_from_mapping, read_at};
pub use self::forge::{Edit, Forge, Part};
pub use self::fuzz::{Records, fixed_places, key_derivation_cost, metadata, trees, unpack};
pub use self::index::{Index, IndexEntry, commit_entries};
