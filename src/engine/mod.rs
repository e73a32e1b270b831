//! What the program does, an operation a file; the only layer with threads and channels.

pub(crate) mod api;
pub(crate) mod cancel;
pub(crate) mod config;
pub(crate) mod observe;
