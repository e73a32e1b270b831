//! What has changed since the newest snapshot? A scan and the entries of that snapshot are walked side by side, both in
//! the order of the index, and every entry that was found gets the one beside it that the snapshot has under its name.
//!
//! An entry's content counts as unchanged if its type, size, mtime and inode are as they were, and its ctime (in
//! nanoseconds) too, or if the ctime is explained by other attributes that changed: mode, owner, extended attributes, a second name. An
//! entry that was *racy* (its ctime was so near to its reading that a later change may show the same time) or that had
//! changed while it was read is never taken for unchanged (docs/adr/0006).

use crate::error::Result;
use crate::format::entry::{Entry, EntryPath, EntryType};
use crate::format::merge::Merge;
use crate::primitives::fs::StatKind;
use crate::stages::pack::names::SourceRoot;
use crate::stages::{Scanned, ScannedEntry};

/// An entry of the newest snapshot that lies in the sources.
#[derive(Debug)]
pub(crate) struct Before {
    /// Which of those entries it is, from 0, in the order of the index.
    pub(crate) ordinal: u64,
    /// The tree that it came from.
    pub(crate) tree: usize,
    /// The entry.
    pub(crate) entry: Box<Entry>,
}

/// What comes next, in the order of the index.
#[derive(Debug)]
pub(crate) enum Compared {
    /// It is there, and this is what the snapshot has under its name.
    Found(Box<ScannedEntry>, Option<Before>),
    /// Not an entry: what the scan has to tell.
    Told(Scanned),
    /// The snapshot has it, and it is there no longer: it was not found, and nothing kept it from being found.
    Gone(Before),
}

/// The names that sources have in the vault, none of them below another: where a snapshot is compared with a scan.
pub(crate) fn places(roots: &[SourceRoot]) -> Vec<EntryPath> {
    // In the order of names, as they come from `name_sources`.
    let mut places: Vec<EntryPath> = Vec::with_capacity(roots.len());
    for root in roots {
        if places.last().is_none_or(|last| root.name != *last && !root.name.is_below(last)) {
            places.push(root.name.clone());
        }
    }
    places
}

/// Walks a scan beside a snapshot.
pub(crate) struct Comparison<S> {
    scan: S,
    /// Taken from the scan, and waiting for what the snapshot has before it.
    waiting: Option<Scanned>,
    base: Option<BaseWalk>,
    /// A subtree that could not be looked at: what the snapshot has there is not gone.
    unknown: Option<EntryPath>,
}

impl<S: Iterator<Item = Scanned>> Comparison<S> {
    /// Compares with `base`, or with an empty snapshot.
    pub(crate) fn new(scan: S, base: Option<BaseWalk>) -> Self {
        Self { scan, waiting: None, base, unknown: None }
    }

    /// The scan that it goes through.
    pub(crate) fn scan(&self) -> &S {
        &self.scan
    }

    /// The next thing; `None` at the end of both.
    ///
    /// # Errors
    /// What keeps the index of the snapshot from being read.
    pub(crate) fn next(&mut self) -> Result<Option<Compared>> {
        loop {
            let scanned = self.waiting.take().or_else(|| self.scan.next());
            let name = match &scanned {
                Some(Scanned::Entry(entry)) => Some(&entry.name),
                Some(Scanned::Failed { name: Some(name), subtree: true, .. } | Scanned::Note { name, .. }) => {
                    Some(name)
                }
                // It says nothing of the entries of the snapshot.
                Some(_) => return Ok(scanned.map(Compared::Told)),
                None => None,
            };
            if let Some(before) = self.before(name)? {
                self.waiting = scanned;
                let is_unknown = |path: &EntryPath| {
                    self.unknown.as_ref().is_some_and(|unknown| path == unknown || path.is_below(unknown))
                };
                if is_unknown(&before.entry.path) {
                    continue;
                }
                return Ok(Some(Compared::Gone(before)));
            }
            return Ok(Some(match scanned {
                None => return Ok(None),
                Some(Scanned::Entry(entry)) => {
                    let same = self.base.as_mut().map_or(Ok(None), |base| base.take(&entry.name))?;
                    Compared::Found(entry, same)
                }
                Some(told) => {
                    if let Scanned::Failed { name: Some(name), .. } = &told
                        && self.unknown.as_ref().is_none_or(|unknown| !name.is_below(unknown))
                    {
                        self.unknown = Some(name.clone());
                    }
                    Compared::Told(told)
                }
            }));
        }
    }

    /// Takes the snapshot's next entry if it comes before `name`, or at all if there is none.
    fn before(&mut self, name: Option<&EntryPath>) -> Result<Option<Before>> {
        let Some(base) = &mut self.base else { return Ok(None) };
        match (base.peek()?, name) {
            (Some(next), Some(name)) if next < name => base.next(),
            (Some(_), None) => base.next(),
            _ => Ok(None),
        }
    }
}

/// The entries of a snapshot that lie in some places, numbered.
pub(crate) struct BaseWalk {
    merge: Merge,
    places: std::vec::IntoIter<EntryPath>,
    place: Option<EntryPath>,
    next: Option<Before>,
    count: u64,
}

impl BaseWalk {
    /// `places`: in ascending order, none below another; see [`places`].
    pub(crate) fn new(merge: Merge, places: Vec<EntryPath>) -> Self {
        Self { merge, places: places.into_iter(), place: None, next: None, count: 0 }
    }

    fn peek(&mut self) -> Result<Option<&EntryPath>> {
        while self.next.is_none() {
            if let Some(place) = &self.place {
                if let Some((tree, entry)) = self.merge.next()?
                    && (entry.path == *place || entry.path.is_below(place))
                {
                    self.next = Some(Before { ordinal: self.count, tree, entry });
                    self.count += 1;
                    break;
                }
                self.place = None;
            }
            let Some(place) = self.places.next() else { return Ok(None) };
            self.merge.seek(&place)?;
            self.place = Some(place);
        }
        Ok(self.next.as_ref().map(|next| &next.entry.path))
    }

    /// The next entry.
    pub(crate) fn next(&mut self) -> Result<Option<Before>> {
        self.peek()?;
        Ok(self.next.take())
    }

    /// The next entry, if that is its name.
    fn take(&mut self, name: &EntryPath) -> Result<Option<Before>> {
        if self.peek()? == Some(name) { self.next() } else { Ok(None) }
    }
}

/// How an entry differs from what the snapshot has under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Not at all.
    Nothing,
    /// In its attributes; the content is that of the snapshot.
    Attributes,
    /// Its content has to be read.
    Content,
}

/// Compares an entry with an older one of the same name, by what the scan saw.
pub(crate) fn change(entry: &ScannedEntry, before: &Entry) -> Change {
    let stat = &entry.stat;
    if entry_type(stat.kind) != before.entry_type {
        return Change::Content;
    }
    let same_attributes = stat.mode == before.mode
        && (stat.uid, stat.gid) == (before.owner.uid, before.owner.gid)
        && entry.is_linked() == before.link.is_some()
        && entry.xattrs == before.xattrs;
    if before.entry_type == EntryType::File {
        let same = stat.size == before.size && stat.mtime == before.mtime && stat.ino == before.ino;
        let ctime_is_explained = stat.ctime == before.ctime || !same_attributes;
        if !same || !ctime_is_explained || before.racy || before.changed {
            return Change::Content;
        }
        return if same_attributes { Change::Nothing } else { Change::Attributes };
    }
    // Of all other types everything there is to know has been looked at; their times of change need not be trusted.
    let rdev = if matches!(before.entry_type, EntryType::CharDevice | EntryType::BlockDevice) { stat.rdev } else { 0 };
    let is_same = same_attributes && stat.mtime == before.mtime && entry.target == before.target && rdev == before.rdev;
    if is_same { Change::Nothing } else { Change::Attributes }
}

/// The type that an entry gets in the vault.
pub(crate) fn entry_type(kind: StatKind) -> EntryType {
    match kind {
        StatKind::File => EntryType::File,
        StatKind::Directory => EntryType::Directory,
        StatKind::Symlink => EntryType::Symlink,
        // The scan leaves sockets out.
        StatKind::Fifo | StatKind::Socket => EntryType::Fifo,
        StatKind::CharDevice => EntryType::CharDevice,
        StatKind::BlockDevice => EntryType::BlockDevice,
    }
}

/// A set of ordinals: a bit each.
#[derive(Debug, Default)]
pub(crate) struct Ordinals {
    words: Vec<u64>,
    count: u64,
}

impl Ordinals {
    /// Puts one in.
    pub(crate) fn insert(&mut self, ordinal: u64) {
        let word = usize::try_from(ordinal / 64).expect("the entries of a vault are fewer than 2^63");
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.count += u64::from(!self.contains(ordinal));
        self.words[word] |= 1 << (ordinal % 64);
    }

    /// Whether it is in there.
    pub(crate) fn contains(&self, ordinal: u64) -> bool {
        let word = usize::try_from(ordinal / 64).ok().and_then(|word| self.words.get(word));
        word.is_some_and(|word| word & (1 << (ordinal % 64)) != 0)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use super::*;
    use crate::error::{Error, FileOp};
    use crate::format::entry::Xattr;
    use crate::format::index::Item;
    use crate::format::tree::tests::{Blocks, build, entry};
    use crate::primitives::fs::{Stat, Timestamp};
    use crate::stages::pack::place::SourcePath;

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text.as_bytes()).unwrap()
    }

    fn stat(kind: StatKind) -> Stat {
        Stat {
            kind,
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime: Timestamp { secs: -5, nanos: 1 },
            ctime: Timestamp { secs: 5, nanos: 1 },
            dev: 1,
            ino: 7,
            nlink: 1,
            size: 0,
            blocks: 0,
            rdev: 0,
        }
    }

    fn found(name: &str) -> Scanned {
        let stat = stat(StatKind::File);
        let entry = ScannedEntry {
            xattrs_known: true,
            name: path(name),
            path: SourcePath::alone(name.as_ref()),
            stat,
            target: Vec::new(),
            xattrs: Vec::new(),
        };
        Scanned::Entry(Box::new(entry))
    }

    fn failed(name: &str, subtree: bool) -> Scanned {
        let error = Error::io(FileOp::ListDirectory, name, std::io::ErrorKind::PermissionDenied);
        Scanned::Failed { path: PathBuf::from(name), name: Some(path(name)), subtree, error }
    }

    /// What a comparison says: `=` for what both have, `+` for what is new, `-` for what is gone, `!` for what failed.
    fn compare(base: &[&str], roots: &[&str], scan: Vec<Scanned>) -> Vec<String> {
        let items: Vec<Item> = base.iter().map(|n| Item::Put(Box::new(entry(n, EntryType::Directory, 1)))).collect();
        let merge = Merge::new(vec![build(&Arc::new(Blocks::default()), &items)], Arc::from(Path::new("v"))).unwrap();
        let walk = BaseWalk::new(merge, roots.iter().map(|root| path(root)).collect());
        let mut comparison = Comparison::new(scan.into_iter(), Some(walk));
        let mut told = Vec::new();
        let mut next_ordinal = 0;
        while let Some(compared) = comparison.next().unwrap() {
            let text = |path: &EntryPath| path.as_path().display().to_string();
            told.push(match compared {
                Compared::Found(entry, None) => format!("+{}", text(&entry.name)),
                Compared::Found(entry, Some(before)) => {
                    assert!(before.entry.path == entry.name && before.ordinal >= next_ordinal);
                    next_ordinal = before.ordinal + 1;
                    format!("={}", text(&entry.name))
                }
                Compared::Told(Scanned::Failed { path, .. }) => format!("!{}", path.display()),
                Compared::Told(other) => panic!("{other:?}"),
                Compared::Gone(before) => format!("-{}", text(&before.entry.path)),
            });
        }
        told
    }

    #[test]
    fn what_is_new_the_same_and_gone_is_told_in_one_order() {
        let scan = ["a", "a/b", "a/c", "d"].map(found).into();
        let told = compare(&["Z", "a", "a/aa", "a/c", "a/c/x", "c", "d", "d.x"], &["a", "d"], scan);
        assert_eq!(told, ["=a", "-a/aa", "+a/b", "=a/c", "-a/c/x", "=d"], "beyond the sources nothing is compared");
    }

    #[test]
    fn what_could_not_be_looked_at_is_not_gone() {
        let scan = vec![found("a"), failed("a/b", true), found("a/d"), failed("a/d", false), failed("e", true)];
        let base = ["a", "a/a", "a/b", "a/b/x", "a/b/x/y", "a/c", "a/d", "a/d/e", "e", "e/f"];
        let told = compare(&base, &["a", "e"], scan);
        assert_eq!(told, ["=a", "-a/a", "!a/b", "-a/c", "=a/d", "!a/d", "-a/d/e", "!e"]);
    }

    #[test]
    fn what_is_found_below_a_directory_that_was_listed_in_part_does_not_end_the_doubt() {
        let scan = vec![found("a"), failed("a", true), found("a/c"), failed("a/e", true), found("b")];
        let told = compare(&["a", "a/b", "a/c", "a/d", "a/f", "b"], &["a", "b"], scan);
        assert_eq!(told, ["=a", "!a", "=a/c", "!a/e", "=b"]);
    }

    #[test]
    fn without_a_scan_everything_in_the_places_is_gone() {
        assert_eq!(compare(&["a", "b"], &[""], Vec::new()), ["-a", "-b"]);
        assert_eq!(compare(&["a", "b"], &["b"], Vec::new()), ["-b"]);
    }

    fn scanned(alter: impl FnOnce(&mut ScannedEntry)) -> ScannedEntry {
        let Scanned::Entry(mut entry) = found("f") else { unreachable!() };
        alter(&mut entry);
        *entry
    }

    #[test]
    fn a_file_is_unchanged_if_type_size_times_and_inode_are() {
        let before = entry("f", EntryType::File, 7);
        let changed = |alter: fn(&mut ScannedEntry)| change(&scanned(alter), &before);
        assert_eq!(changed(|_| {}), Change::Nothing);
        assert_eq!(changed(|e| e.stat.dev = 9), Change::Nothing, "devices are numbered anew at every boot");
        assert_eq!(changed(|e| e.stat.size = 1), Change::Content);
        assert_eq!(changed(|e| e.stat.mtime.nanos += 1), Change::Content);
        assert_eq!(changed(|e| e.stat.ctime.nanos += 1), Change::Content);
        assert_eq!(changed(|e| e.stat.ino += 1), Change::Content);
        assert_eq!(changed(|e| e.stat.kind = StatKind::Symlink), Change::Content);
    }

    #[test]
    fn a_change_of_attributes_alone_explains_the_ctime_and_nothing_else() {
        let before = entry("f", EntryType::File, 7);
        let chmod = |e: &mut ScannedEntry| (e.stat.mode, e.stat.ctime.secs) = (0o600, 9);
        assert_eq!(change(&scanned(chmod), &before), Change::Attributes);
        let xattr = |e: &mut ScannedEntry| e.xattrs.push(Xattr { name: b"user.a".to_vec(), value: Vec::new() });
        assert_eq!(change(&scanned(xattr), &before), Change::Attributes);
        assert_eq!(change(&scanned(|e| e.stat.uid = 9), &before), Change::Attributes);
        let and_content = |e: &mut ScannedEntry| (e.stat.mode, e.stat.mtime.secs) = (0o600, 9);
        assert_eq!(change(&scanned(and_content), &before), Change::Content);
    }

    #[test]
    fn what_was_racy_or_changed_while_it_was_read_is_read_again() {
        for (racy, changed) in [(true, false), (false, true)] {
            let before = Entry { racy, changed, ..entry("f", EntryType::File, 7) };
            assert_eq!(change(&scanned(|_| {}), &before), Change::Content);
        }
    }

    #[test]
    fn extended_attributes_that_could_not_be_read_are_those_that_are_known() {
        let colour = Xattr { name: b"user.colour".to_vec(), value: b"blue".to_vec() };
        let before = Entry { xattrs: vec![colour.clone()], ..entry("f", EntryType::File, 7) };
        for (known, expected) in [(true, vec![]), (false, vec![colour])] {
            let mut now = scanned(|e| e.xattrs_known = known);
            now.keep_unknown_xattrs(Some(&before));
            assert_eq!(now.xattrs, expected);
            now.keep_unknown_xattrs(None);
            assert_eq!(now.xattrs, expected, "what is not in the snapshot adds nothing");
        }
    }

    #[test]
    fn a_directory_has_attributes_only() {
        let before = entry("f", EntryType::Directory, 3);
        let changed = |alter: fn(&mut ScannedEntry)| {
            change(
                &scanned(|e| {
                    e.stat.kind = StatKind::Directory;
                    alter(e);
                }),
                &before,
            )
        };
        assert_eq!(changed(|e| (e.stat.size, e.stat.ctime.secs) = (4096, 99)), Change::Nothing);
        assert_eq!(changed(|e| e.stat.mtime.secs = 9), Change::Attributes);
        assert_eq!(changed(|e| e.stat.mode = 0o700), Change::Attributes);
    }

    #[test]
    fn ordinals_are_remembered_one_by_one() {
        let mut set = Ordinals::default();
        assert!(set.is_empty() && !set.contains(0));
        for ordinal in [0, 63, 64, 1000] {
            set.insert(ordinal);
        }
        let there: Vec<u64> = (0..2000).filter(|&ordinal| set.contains(ordinal)).collect();
        assert_eq!(there, [0, 63, 64, 1000]);
        assert!(!set.contains(u64::MAX));
    }
}
