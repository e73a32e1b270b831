//! Which entries of a snapshot are meant: all, or what a list of names stands for.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::engine::state::State;
use crate::error::{Error, Result};
use crate::format::commit::Commit;
use crate::format::entry::{Entry, EntryPath};
use crate::format::merge::Merge;
use crate::format::tree::Tree;
use std::sync::Arc;

/// The entries that some names stand for, in index order; a directory stands for all below it.
pub(crate) struct Selection {
    merge: Merge,
    /// What is still to come, last first; none of them lies below another.
    names: Vec<EntryPath>,
    /// The name that is being answered, and whether it has matched anything.
    current: Option<(EntryPath, bool)>,
    unmatched: Vec<EntryPath>,
}

impl Selection {
    /// What `names` stand for among the entries of a commit; no names stand for everything.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that no entry can have.
    pub(crate) fn new(state: &State, trees: &[Arc<Tree>], names: &[PathBuf]) -> Result<Self> {
        let mut parsed: Vec<EntryPath> = names.iter().map(|name| parse_name(name)).collect::<Result<_>>()?;
        parsed.sort();
        parsed.dedup_by(|next, kept| next == kept || next.is_below(kept));
        let everything = parsed.is_empty() || parsed[0].is_root();
        let names = if everything { Vec::new() } else { parsed.into_iter().rev().collect() };
        let current = everything.then(|| (EntryPath::default(), true));
        let merge = state.merge(trees)?;
        Ok(Self { merge, names, current, unmatched: Vec::new() })
    }

    /// The next entry, with the tree that it came from.
    pub(crate) fn next(&mut self) -> Result<Option<(usize, Box<Entry>)>> {
        loop {
            if let Some((name, matched)) = &mut self.current {
                if let Some((tree, entry)) = self.merge.next()?
                    && (entry.path == *name || entry.path.is_below(name))
                {
                    *matched = true;
                    return Ok(Some((tree, entry)));
                }
                if !*matched {
                    self.unmatched.push(name.clone());
                }
                self.current = None;
            }
            let Some(name) = self.names.pop() else { return Ok(None) };
            self.merge.seek(&name)?;
            self.current = Some((name, false));
        }
    }

    /// Names that stood for nothing, once the selection has ended.
    pub(crate) fn unmatched(&self) -> &[EntryPath] {
        &self.unmatched
    }
}

/// A name as a user gives it: `dir` and `dir/` are the same, `.` and nothing are the root.
fn parse_name(name: &Path) -> Result<EntryPath> {
    let bytes = name.as_os_str().as_bytes();
    let trimmed = bytes.strip_prefix(b"./").unwrap_or(bytes);
    let end = trimmed.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let trimmed = if &trimmed[..end] == b"." { &[][..] } else { &trimmed[..end] };
    EntryPath::parse(trimmed).map_err(|_| Error::Usage(format!("no entry can have this name: {}", name.display())))
}

/// The trees of the commit that `--at` names.
pub(crate) fn trees_at(state: &State, at: Option<u64>) -> Result<(Commit, Vec<Arc<Tree>>)> {
    let commit = state.at(at)?;
    let trees = state.trees(&commit)?;
    Ok((commit, trees))
}
