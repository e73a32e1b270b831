//! What a run did, a form a file.

pub(crate) mod json;
mod plan;
pub(crate) mod text;
