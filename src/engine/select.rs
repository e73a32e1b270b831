//! Which entries of a snapshot are meant: all, or what a list of names stands for, and of these what patterns leave.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::nearest::nearest;
use crate::engine::state::State;
use crate::error::{Error, Result};
use crate::format::commit::Commit;
use crate::format::entry::{Entry, EntryPath, EntryType};
use crate::format::merge::{Merge, Untold};
use crate::format::tree::{Loss, Lost, Tree};
use crate::stages::pack::exclude::Excludes;

/// The entries that some names stand for, in index order; a directory stands for all below it.
pub(crate) struct Selection {
    merge: Merge,
    /// What is still to come, last first; none of them lies below another.
    names: Vec<EntryPath>,
    /// The name that is being answered, and whether it has matched anything.
    current: Option<(EntryPath, bool)>,
    unmatched: Vec<EntryPath>,
    filter: Option<Filter>,
    /// What is lost, as far as no name so far was concerned, and what of it was told.
    unclaimed: Vec<Loss>,
    claimed: Vec<Lost>,
    /// What [`Selection::take_lost`] answers next.
    untold: Untold,
}

impl Selection {
    /// What `names` stand for among the entries of a commit; no names stand for everything.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that no entry can have.
    pub(crate) fn new(state: &State, trees: &[Arc<Tree>], names: &[PathBuf]) -> Result<Self> {
        let names = parse_names(names)?;
        Ok(Self::of(state.merge(trees)?, names))
    }

    /// The same, going past parts of the index that are damaged: [`Selection::take_lost`] says what is missing of what was
    /// asked for.
    ///
    /// # Errors
    /// As [`Selection::new`].
    pub(crate) fn tolerant(state: &State, trees: &[Arc<Tree>], names: &[PathBuf]) -> Result<Self> {
        let names = parse_names(names)?;
        Ok(Self::of(state.tolerant_merge(trees)?, names))
    }

    /// - `names`: none of them below another, in the order of the index; the root alone for everything.
    fn of(merge: Merge, mut names: Vec<EntryPath>) -> Self {
        let everything = names.first().is_some_and(EntryPath::is_root);
        if everything {
            names.clear();
        }
        names.reverse();
        let current = everything.then(|| (EntryPath::default(), true));
        Self {
            merge,
            names,
            current,
            unmatched: Vec::new(),
            filter: None,
            unclaimed: Vec::new(),
            claimed: Vec::new(),
            untold: Untold::default(),
        }
    }

    /// What was lost of what was asked for, since this was asked last.
    pub(crate) fn take_lost(&mut self) -> Untold {
        std::mem::take(&mut self.untold)
    }

    /// Takes note of what the merge could not say, as far as it concerns the name that is being answered.
    fn take_in_losses(&mut self) {
        let Untold { losses, doubtful } = self.merge.take_lost();
        // It reads ahead: what it found lost may be another name's.
        self.unclaimed.extend(losses);
        let Some((name, matched)) = &mut self.current else { return };
        let name: &EntryPath = name;
        let concerns = |lost: &Lost| match lost {
            Lost::Put(path) => path == name || path.is_below(name),
            Lost::Range { from, to } => (from <= name || from.is_below(name)) && to.as_ref().is_none_or(|to| name < to),
        };
        let claimed: Vec<Loss> = self.unclaimed.extract_if(.., |loss| concerns(&loss.what)).collect();
        self.claimed.extend(claimed.iter().map(|loss| loss.what.clone()));
        self.untold.losses.extend(claimed);
        let is_meant = |entry: &Entry| entry.path == *name || entry.path.is_below(name);
        for entry in doubtful.into_iter().filter(|entry| is_meant(entry)) {
            *matched = true;
            if self.filter.as_mut().is_none_or(|filter| filter.lets_through(&entry)) {
                self.untold.doubtful.push(entry);
            }
        }
        // Whether there is anything of this name, nobody can say.
        *matched = *matched || self.claimed.iter().any(concerns);
    }

    /// Leaves of these entries what `filter` lets through.
    pub(crate) fn filtered(self, filter: Option<Filter>) -> Self {
        Self { filter, ..self }
    }

    /// The next entry, with the tree that it came from.
    pub(crate) fn next(&mut self) -> Result<Option<(usize, Box<Entry>)>> {
        loop {
            if self.current.is_some() {
                let next = self.merge.next()?;
                self.take_in_losses();
                let Some((name, matched)) = &mut self.current else { continue };
                if let Some((tree, entry)) = next
                    && (entry.path == *name || entry.path.is_below(name))
                {
                    *matched = true;
                    if self.filter.as_mut().is_none_or(|filter| filter.lets_through(&entry)) {
                        return Ok(Some((tree, entry)));
                    }
                    continue;
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

    /// The error for the first name that stood for nothing, once the selection has ended.
    pub(crate) fn no_entry(&mut self) -> Option<Error> {
        let name = self.unmatched.first()?;
        let nearest = nearest(&mut self.merge, name);
        Some(Error::NoEntry { name: name.as_path().display().to_string(), nearest })
    }

    /// Names that stood for nothing, once the selection has ended.
    pub(crate) fn unmatched(&self) -> &[EntryPath] {
        &self.unmatched
    }
}

/// Patterns that choose among entries by their names in the vault, by gitignore's rules.
///
/// What an exclude pattern matches is left out; so is what lies below it, whether the directory is an entry or only part
/// of names. If there are include patterns, the rest is what one of them matches, or lies below what one of them does.
pub(crate) struct Filter {
    /// `None`: everything.
    includes: Option<Excludes>,
    excludes: Excludes,
    /// The directory that was asked about last.
    directory: Vec<u8>,
    /// The ends of its components with what is to be said of the name up to there; ascending.
    verdicts: Vec<(usize, Verdict)>,
}

/// What patterns say of a name and all that is above it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Excluded, with all that is below.
    Out,
    /// Not included so far.
    NotYet,
    /// Included, with all that is below but for what is excluded there.
    In,
}

impl Filter {
    /// `None` if there are no patterns.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the pattern that is none.
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Option<Self>> {
        if include.is_empty() && exclude.is_empty() {
            return Ok(None);
        }
        let includes = match include {
            [] => None,
            some => Some(Excludes::compile("include", some)?),
        };
        let excludes = Excludes::compile("exclude", exclude)?;
        Ok(Some(Self { includes, excludes, directory: Vec::new(), verdicts: Vec::new() }))
    }

    fn lets_through(&mut self, entry: &Entry) -> bool {
        // The root of the vault has no name that a pattern could match.
        let Some((parent, _)) = entry.path.split_last() else { return self.includes.is_none() };
        let above = self.verdict_on_directory(parent);
        self.verdict(above, &entry.path, entry.entry_type == EntryType::Directory) == Verdict::In
    }

    /// What is to be said of the directory `path`, by all components of its name.
    fn verdict_on_directory(&mut self, path: &[u8]) -> Verdict {
        // Entries come directory by directory: most of what was asked before holds on.
        if path != self.directory {
            let is_kept =
                |end: usize| path.starts_with(&self.directory[..end]) && matches!(path.get(end), None | Some(b'/'));
            let kept = self.verdicts.partition_point(|&(end, _)| is_kept(end));
            self.verdicts.truncate(kept);
            let known = self.verdicts.last().map_or(0, |&(end, _)| end);
            let mut above = self.last_verdict();
            let slashes = path.iter().enumerate().skip(known + 1).filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
            for end in slashes.chain((path.len() > known).then_some(path.len())) {
                let name = EntryPath::parse(&path[..end]).expect("a directory above a name that is allowed is allowed");
                above = self.verdict(above, &name, true);
                self.verdicts.push((end, above));
            }
            self.directory = path.to_vec();
        }
        self.last_verdict()
    }

    fn last_verdict(&self) -> Verdict {
        let at_the_root = if self.includes.is_some() { Verdict::NotYet } else { Verdict::In };
        self.verdicts.last().map_or(at_the_root, |&(_, verdict)| verdict)
    }

    /// - `above`: the verdict on the directory that it is in.
    fn verdict(&self, above: Verdict, path: &EntryPath, is_dir: bool) -> Verdict {
        match above {
            Verdict::Out => Verdict::Out,
            _ if self.excludes.matches(path, is_dir) => Verdict::Out,
            Verdict::NotYet if self.includes.as_ref().is_some_and(|includes| includes.matches(path, is_dir)) => {
                Verdict::In
            }
            above => above,
        }
    }
}

/// The names, none of them below another, in the order of the index; the root for no names.
fn parse_names(names: &[PathBuf]) -> Result<Vec<EntryPath>> {
    if names.is_empty() {
        return Ok(vec![EntryPath::default()]);
    }
    let mut parsed: Vec<EntryPath> = names.iter().map(|name| parse_name(name)).collect::<Result<_>>()?;
    parsed.sort();
    parsed.dedup_by(|next, kept| next == kept || next.is_below(kept));
    Ok(parsed)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(ToString::to_string).collect()
    }

    /// Asks in this order, as entries of a vault come; a name that ends in `/` is a directory.
    fn left(include: &[&str], exclude: &[&str], names: &[&'static str]) -> Vec<&'static str> {
        let mut filter = Filter::new(&strings(include), &strings(exclude)).unwrap().expect("there are patterns");
        let mut entry = |name: &str| {
            let path = EntryPath::parse(name.trim_end_matches('/').as_bytes()).unwrap();
            let entry_type =
                if name.is_empty() || name.ends_with('/') { EntryType::Directory } else { EntryType::File };
            let mut entry = crate::format::tree::tests::entry("x", entry_type, 1);
            entry.path = path;
            filter.lets_through(&entry)
        };
        names.iter().copied().filter(|name| entry(name)).collect()
    }

    const NAMES: [&str; 9] = ["", "a/", "a/b/", "a/b/c.o", "a/b/d", "a/b2", "a/c.o", "ab/", "ab/b/x"];

    #[test]
    fn what_is_excluded_is_left_out_with_all_below_it() {
        assert_eq!(left(&[], &["*.o"], &NAMES), ["", "a/", "a/b/", "a/b/d", "a/b2", "ab/", "ab/b/x"]);
        assert_eq!(left(&[], &["b/"], &NAMES), ["", "a/", "a/b2", "a/c.o", "ab/"]);
        assert_eq!(left(&[], &["/a/b"], &NAMES), ["", "a/", "a/b2", "a/c.o", "ab/", "ab/b/x"]);
        assert_eq!(left(&[], &["a", "!a/b/d"], &NAMES), ["", "ab/", "ab/b/x"], "not even by an exclamation mark");
        assert_eq!(
            left(&[], &["*.o", "!/a/c.o"], &NAMES),
            ["", "a/", "a/b/", "a/b/d", "a/b2", "a/c.o", "ab/", "ab/b/x"]
        );
    }

    #[test]
    fn what_is_included_comes_with_all_below_it_and_nothing_else_does() {
        assert_eq!(left(&["b"], &[], &NAMES), ["a/b/", "a/b/c.o", "a/b/d", "ab/b/x"]);
        assert_eq!(left(&["*.o", "/ab"], &[], &NAMES), ["a/b/c.o", "a/c.o", "ab/", "ab/b/x"]);
        assert_eq!(left(&["*"], &[], &NAMES), &NAMES[1..]);
        assert_eq!(left(&["b2/"], &[], &NAMES), [""; 0], "that is no directory");
    }

    #[test]
    fn exclusion_wins_over_inclusion() {
        assert_eq!(left(&["b"], &["*.o"], &NAMES), ["a/b/", "a/b/d", "ab/b/x"]);
        assert_eq!(left(&["c.o"], &["/a/b"], &NAMES), ["a/c.o"]);
    }

    #[test]
    fn directories_that_are_no_entries_count_as_much() {
        let names = ["x/y/z/1", "x/y/z/2", "x/y2/3", "x/y", "x/y/z"];
        assert_eq!(left(&[], &["y"], &names), ["x/y2/3"]);
        assert_eq!(left(&["z/"], &[], &names), ["x/y/z/1", "x/y/z/2"]);
    }

    #[test]
    fn a_pattern_that_is_none_is_named_with_its_kind() {
        for (include, exclude, kind) in [(&["a", "b["][..], &[][..], "include"), (&["a"], &["b["], "exclude")] {
            match Filter::new(&strings(include), &strings(exclude)) {
                Err(Error::Usage(message)) => assert!(message.contains(kind) && message.contains("b["), "{message}"),
                _ => panic!("{include:?} {exclude:?}"),
            }
        }
        assert!(Filter::new(&[], &[]).unwrap().is_none());
    }
}
