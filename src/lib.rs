//! flint-pipe: a memory-mapped streaming pipeline that packs trees of files into one encrypted, compressed, crash-safe
//! vault file, and measures every stage of itself.

mod crypto;
mod engine;
mod error;
mod format;
mod primitives;
mod stages;

pub use crate::error::{Error, ErrorKind, FileOp, Malformation, Result};
