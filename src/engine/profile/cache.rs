//! How is the page cache made cold? File by file, which needs no rights and disturbs nobody else; names and attributes
//! stay in the kernel's own caches.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, Mode, OFlags, fadvise, fdatasync, open, syncfs};
use rustix::io::Errno;

use crate::engine::add::scan_options;
use crate::engine::api::AddOptions;
use crate::engine::run::Run;
use crate::error::{Error, FileOp, Result};
use crate::primitives::fs::{self, StatKind};
use crate::stages::Scanned;
use crate::stages::pack::names::name_sources;
use crate::stages::pack::scan::scan;

const ALL: Option<NonZeroU64> = None;

/// Puts the content of these sources out of the page cache, as far as the kernel lets go of it.
pub(super) fn forget_sources(run: &Run<'_>, sources: &[PathBuf], options: &AddOptions) -> Result<()> {
    let roots = name_sources(sources, options.directory.as_deref())?;
    for root in &roots {
        // What is dirty is not let go of. What fails here is met again, and told, by who reads.
        if let Ok(place) = fs::open_place(&root.path) {
            let _ = syncfs(place);
        }
    }
    for scanned in scan(roots, scan_options(options, 1))? {
        run.check()?;
        if let Scanned::Entry(entry) = scanned
            && entry.stat.kind == StatKind::File
            && let Ok(file) = entry.path.open_read()
        {
            let _ = fadvise(file, 0, ALL, Advice::DontNeed);
        }
    }
    Ok(())
}

/// Puts a vault out of the page cache.
pub(super) fn forget_file(path: &Path) -> Result<()> {
    let io = |op| move |error: Errno| Error::io(op, path, error);
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(io(FileOp::Open))?;
    fdatasync(&file).map_err(io(FileOp::Sync))?;
    fadvise(&file, 0, ALL, Advice::DontNeed).map_err(io(FileOp::Sync))
}
