//! What a run did, a form a file.

pub(crate) mod json;
pub(crate) mod text;
