//! What the program does, an operation a file; the only layer with threads and channels.

pub(crate) mod add;
pub(crate) mod api;
pub(crate) mod budget;
pub(crate) mod cancel;
pub(crate) mod catch_up;
pub(crate) mod commit;
pub(crate) mod compare;
pub(crate) mod config;
pub(crate) mod extract;
pub(crate) mod fit;
pub(crate) mod full_index;
pub(crate) mod indexer;
pub(crate) mod list;
pub(crate) mod locks;
pub(crate) mod observe;
pub(crate) mod pipeline;
pub(crate) mod plan;
pub(crate) mod remove;
pub(crate) mod resolve;
pub(crate) mod run;
pub(crate) mod segment;
pub(crate) mod select;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod vault;
pub(crate) mod verify;
