//! What is in one directory, asked through its descriptor?
//!
//! Only names are listed, and each is looked at when its turn has come. So there is no look ahead to be bounded, and a
//! directory of a million names takes the memory of its names alone.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::primitives::beneath::PASS;
use crate::primitives::fs::{self, Names};
use crate::stages::Scanned;
use crate::stages::pack::scan::look::{CACHE_TAG, Dir, Found, Look, Looker};

/// A directory that was listed, and of which some names are still to be looked at.
#[derive(Debug)]
pub(super) struct Listing {
    dir: Arc<Dir>,
    /// Open on it, unless it was closed meanwhile.
    at: Option<OwnedFd>,
    names: Names,
    /// The number of the next name.
    next: usize,
}

impl Listing {
    /// Lists `dir`; what could not be listed is answered beside what could.
    pub(super) fn start(dir: Arc<Dir>, looker: &Looker) -> (Option<Self>, Option<Scanned>) {
        let at = match dir.place.open_directory() {
            Ok(at) => at,
            Err(error) => return (None, Some(dir.failed(error))),
        };
        let (mut names, result) = fs::list_directory(&at);
        if names.contains(CACHE_TAG) && looker.is_unwanted_cache(&dir, at.as_fd()) {
            names.retain(CACHE_TAG);
        }
        let failure = result.err().map(|error| dir.failed(error));
        (Some(Self { dir, at: Some(at), names, next: 0 }), failure)
    }

    /// What there is next.
    pub(super) fn next(&mut self, looker: &Looker) -> Option<Found> {
        while !looker.stop.load(Ordering::Relaxed) {
            let (name, is_dir) = self.names.get(self.next)?;
            let at = match self.at.take() {
                Some(at) => at,
                None => match self.dir.place.open(PASS) {
                    Ok(at) => at,
                    Err(error) => {
                        self.next = self.names.len();
                        return Some(Found { first: Some(self.dir.failed(error.into())), ..Found::default() });
                    }
                },
            };
            let look = looker.child(&self.dir, at.as_fd(), name, is_dir);
            self.at = Some(at);
            self.next += 1;
            match look {
                Look::Found(found) | Look::Missing(found) => return Some(found),
                Look::LeftOut => {}
            }
        }
        None
    }

    /// Gives the descriptor back until the next entry is asked for.
    pub(super) fn close(&mut self) {
        self.at = None;
    }
}
