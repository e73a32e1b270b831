//! Profiling: the pipeline over and over, into nothing or onto a disk, until its figures are stable.

pub(crate) mod outcome;

use std::path::PathBuf;

use crate::engine::observe::Observer;
use crate::engine::profile::outcome::{Profile, ProfileFailed, ProfileOptions};
use crate::engine::vault::Vault;
use crate::error::{Error, Result};

/// Measures how these sources are packed, by [`ProfileOptions`]; nothing that exists is changed.
///
/// # Errors
/// What ended it, with what was measured until then: of a sweep that was interrupted, the points that were finished.
pub fn profile(
    sources: &[PathBuf],
    options: &ProfileOptions,
    observer: &dyn Observer,
) -> Result<Profile, ProfileFailed> {
    let _ = (sources, options, observer);
    Err(Error::Usage("not yet".to_owned()).into())
}

impl Vault {
    /// Measures the way out of this vault: everything is read, opened and unpacked, and with [`ProfileOptions::to`] written
    /// to files below that directory, which are taken away again.
    ///
    /// # Errors
    /// As [`profile`].
    pub fn profile(&self, options: &ProfileOptions, observer: &dyn Observer) -> Result<Profile, ProfileFailed> {
        let _ = (options, observer);
        Err(Error::Usage("not yet".to_owned()).into())
    }
}
