//! Tools without knowledge of vaults: units, system calls, buffers, storage, histograms.

pub(crate) mod beneath;
pub(crate) mod direct;
pub(crate) mod fs;
pub(crate) mod glob;
pub(crate) mod latency;
pub(crate) mod mmap;
pub(crate) mod pool;
pub(crate) mod storage;
pub(crate) mod sys;
pub(crate) mod units;
pub(crate) mod xattr;
