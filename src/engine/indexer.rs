//! Behind `write`: completes entries as their parts arrive, in any order, and seals index blocks in scan order.
//!
//! One thread. It holds the window of entries in flight, which a budget of weights bounds; an entry leaves the window, and
//! gives its permit back, when it is complete and all before it have left. It waits for nobody but its channel, so the
//! planner and the writers may wait for it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;

use crate::engine::budget::Permit;
use crate::engine::compare::entry_type;
use crate::engine::observe::EntryErrorKind;
use crate::engine::plan::{Content, Kept, Planned};
use crate::engine::recorder;
use crate::engine::resolve::SegmentUnion;
use crate::engine::run::{Gauge, Run, describe};
use crate::engine::segment::SegmentWriter;
use crate::engine::state::State;
use crate::engine::stats::WorkerStats;
use crate::error::{Error, Result};
use crate::format::entry::{Entry, EntryPath, EntryType, Extent, LinkGroup, Owner, SegmentIndex};
use crate::format::index::{BlockRef, Item, MAX_OVERFLOW_LEN, RecordPlace};
use crate::format::tree::{Tree, TreeWriter};
use crate::primitives::fs::{Stat, StatKind, Timestamp};
use crate::stages::pack::read::is_racy;
use crate::stages::pack::write::Written;
use crate::stages::{EntrySeq, PartDone, PartVerdict, ScannedEntry};

/// The run's own segment in the tables of its delta.
const OWN: SegmentIndex = SegmentIndex(0);

/// The most runs that one entry may have: their encoding stays below what a reader accepts.
const MAX_EXTENTS: usize = MAX_OVERFLOW_LEN / 64;

/// What the indexer is told.
pub(crate) enum Message {
    /// An entry comes next in scan order.
    Announced(Box<Announced>),
    /// A name comes next that the newest snapshot has and that is there no longer.
    Deleted(Deleted),
    /// A chunk has been written.
    Written(Written),
}

/// An entry as it enters the window.
pub(crate) struct Announced {
    pub(crate) entry: ScannedEntry,
    pub(crate) planned: Planned,
    pub(crate) permit: Permit,
    /// Why it cannot be stored, where that is known already.
    pub(crate) failed: Option<Error>,
}

/// A name that is deleted.
pub(crate) struct Deleted {
    pub(crate) path: EntryPath,
    pub(crate) is_directory: bool,
    pub(crate) permit: Permit,
}

/// What was indexed.
#[derive(Debug, Default)]
pub(crate) struct Indexed {
    /// The delta's head and the bytes of its blocks.
    pub(crate) delta: Option<(BlockRef, u64)>,
    /// Entries but directories that were stored, those reported as changed included.
    pub(crate) files: u64,
    /// Entries but directories that failed.
    pub(crate) failed: u64,
    /// Of the stored, changed while they were read.
    pub(crate) changed: u64,
    pub(crate) directories: u64,
    /// Bytes of content of what was stored.
    pub(crate) bytes: u64,
    /// Entries but directories that were deleted, and directories.
    pub(crate) removed: (u64, u64),
}

impl Indexed {
    /// Counts an entry that is stored, with so many bytes of content.
    pub(crate) fn count(&mut self, is_directory: bool, bytes: u64) {
        *(if is_directory { &mut self.directories } else { &mut self.files }) += 1;
        self.bytes += bytes;
    }

    /// Counts a name that is deleted.
    pub(crate) fn count_removed(&mut self, is_directory: bool) {
        let (files, directories) = &mut self.removed;
        *(if is_directory { directories } else { files }) += 1;
    }
}

/// A part that has arrived, with its record.
type ArrivedPart = (Option<RecordPlace>, PartDone);

/// A place in the window.
enum Slot {
    /// An entry on its way: announced, parts arriving.
    Entry(Box<Announced>, Vec<ArrivedPart>),
    /// Nothing is to come for it.
    Deleted(Deleted),
}

impl Slot {
    fn is_complete(&self) -> bool {
        let Self::Entry(announced, parts) = self else { return true };
        match announced.planned.content {
            Content::None | Content::SameAs(_) | Content::Kept(_) => true,
            Content::Whole => parts.len() == 1,
            Content::Slices(count) => parts.len() == count as usize,
        }
    }
}

/// What the later names of a file take over from its first.
struct FirstName {
    left: u64,
    outcome: Result<StoredContent, (EntryErrorKind, String)>,
}

#[derive(Clone)]
struct StoredContent {
    stat: Stat,
    size: u64,
    extents: Vec<Extent>,
    racy: bool,
    changed: bool,
}

/// The indexer's state.
pub(crate) struct Indexer<'r, 'c> {
    run: &'r Run<'c>,
    segment: &'r SegmentWriter,
    writer: TreeWriter,
    window: VecDeque<Slot>,
    /// The sequence number of the window's head.
    head: u64,
    /// Records of this run, and the table of everything else that entries refer to.
    records: Vec<RecordPlace>,
    others: SegmentUnion,
    /// When the run began: what changed about then or later, and was not read, may change again under the same time.
    began: Timestamp,
    first_names: HashMap<u64, FirstName>,
    owners: OwnerNames,
    indexed: Indexed,
}

impl<'r, 'c> Indexer<'r, 'c> {
    /// An indexer whose blocks go to `segment`.
    ///
    /// - `base`: the trees of the newest snapshot, which entries may keep their content from;
    /// - `began`: a time before the first entry was looked at.
    pub(crate) fn new(
        run: &'r Run<'c>,
        segment: &'r SegmentWriter,
        base: &State,
        trees: &[Arc<Tree>],
        began: Timestamp,
    ) -> Self {
        Self {
            others: SegmentUnion::with_own(segment.salt(), trees, Arc::clone(&base.vault)),
            began,
            run,
            segment,
            writer: TreeWriter::default(),
            window: VecDeque::new(),
            head: 0,
            records: Vec::new(),
            first_names: HashMap::new(),
            owners: OwnerNames::default(),
            indexed: Indexed::default(),
        }
    }

    /// Works until all senders are gone; then writes what is left of the tree. A run that is being stopped gets no tree.
    pub(crate) fn work(mut self, input: &Receiver<Message>, gauge: &Gauge) -> Result<(Indexed, WorkerStats)> {
        let mut stats = self.run.recorder.worker("index", 0);
        loop {
            let idle = Instant::now();
            let received = input.recv();
            let began = Instant::now();
            stats.wait_input.record(began - idle);
            let Ok(message) = received else { break };
            if self.run.stop.is_stopped() {
                return Ok((self.indexed, stats));
            }
            match message {
                Message::Announced(announced) => {
                    self.window.push_back(Slot::Entry(announced, Vec::new()));
                }
                Message::Deleted(deleted) => self.window.push_back(Slot::Deleted(deleted)),
                Message::Written(written) => self.take(written),
            }
            self.complete_heads()?;
            let service = stats.serviced(began, Duration::ZERO);
            stats.span(began, service, recorder::Item::default());
            gauge.busy_ns.fetch_add(u64::try_from(service.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        if !self.run.stop.is_stopped() {
            debug_assert!(self.window.is_empty(), "every part of every entry has come");
            let Self { segment, writer, records, others, .. } = self;
            let (segments, mut table) = others.finish();
            table.insert(OWN.0, records);
            let mut sink = segment;
            self.indexed.delta = Some(writer.finish(segments, table, Vec::new(), &mut sink)?);
        }
        Ok((self.indexed, stats))
    }

    fn take(&mut self, written: Written) {
        self.records.extend(written.place);
        for part in written.parts {
            let position = usize::try_from(part.entry.0 - self.head).expect("the window holds fewer than 2^32");
            match &mut self.window[position] {
                Slot::Entry(_, parts) => parts.push((written.place, part)),
                Slot::Deleted(_) => debug_assert!(false, "nothing is read for a name that is deleted"),
            }
        }
    }

    fn complete_heads(&mut self) -> Result<()> {
        while self.window.front().is_some_and(Slot::is_complete) {
            let slot = self.window.pop_front().expect("there is a front");
            let seq = EntrySeq(self.head);
            self.head += 1;
            match slot {
                Slot::Entry(announced, parts) => self.complete(seq, *announced, parts)?,
                Slot::Deleted(deleted) => self.delete(deleted)?,
            }
            self.run.counters.tick();
        }
        Ok(())
    }

    fn delete(&mut self, Deleted { path, is_directory, permit }: Deleted) -> Result<()> {
        self.indexed.count_removed(is_directory);
        let mut sink = self.segment;
        self.writer.push(&Item::Delete(path), &mut sink)?;
        drop(permit);
        Ok(())
    }

    fn complete(&mut self, seq: EntrySeq, announced: Announced, parts: Vec<ArrivedPart>) -> Result<()> {
        let Announced { entry, planned, permit, failed } = announced;
        let is_directory = entry.stat.kind == StatKind::Directory;
        let scanned_size = entry.content_len();
        // Names of the same file, later ones of which refer to this one.
        let mut link = planned.is_linked.then_some(LinkGroup { segment: OWN, number: seq.0 });
        let outcome = match &planned.content {
            Content::SameAs(first) => {
                link = link.map(|link| LinkGroup { number: first.0, ..link });
                self.same_as(*first)
            }
            Content::Kept(kept) => {
                let (content, group) = self.keep(&entry, kept)?;
                link = link.and(group);
                Ok(content)
            }
            _ => match failed {
                Some(error) => Err(describe(&error)),
                None => self.assemble(&entry, parts),
            },
        };
        if planned.is_linked && !matches!(planned.content, Content::SameAs(_) | Content::Kept(_)) {
            let outcome = outcome.clone();
            self.first_names.insert(seq.0, FirstName { left: entry.stat.nlink - 1, outcome });
        }
        let counters = &self.run.counters;
        if !is_directory {
            counters.files_done.fetch_add(1, Ordering::Relaxed);
            counters.bytes_done.fetch_add(scanned_size, Ordering::Relaxed);
        }
        match outcome {
            Err((kind, message)) => {
                self.indexed.failed += u64::from(!is_directory);
                self.run.entry_failed(&entry.path, kind, message);
            }
            Ok(content) => {
                self.indexed.count(is_directory, content.size);
                self.indexed.changed += u64::from(content.changed);
                let stored = self.entry(entry, content, link);
                let mut sink = self.segment;
                self.writer.push(&Item::Put(Box::new(stored)), &mut sink)?;
            }
        }
        drop(permit);
        Ok(())
    }

    fn same_as(&mut self, first: EntrySeq) -> Result<StoredContent, (EntryErrorKind, String)> {
        let known = self.first_names.get_mut(&first.0).expect("the first name has left the window before this one");
        let outcome = known.outcome.clone();
        known.left -= 1;
        if known.left == 0 {
            self.first_names.remove(&first.0);
        }
        outcome
    }

    /// The content that the newest snapshot has, and the link group of the entry's names.
    fn keep(&mut self, entry: &ScannedEntry, kept: &Kept) -> Result<(StoredContent, Option<LinkGroup>)> {
        let mut old = kept.entry.clone();
        self.others.adopt(kept.tree, &mut old)?;
        let new_group = kept.new_group.map(|first| LinkGroup { segment: OWN, number: first.0 });
        let stat = entry.stat.clone();
        let racy = is_racy(stat.ctime, self.began);
        let content = StoredContent { stat, size: old.size, extents: old.extents, racy, changed: false };
        Ok((content, new_group.or(old.link)))
    }

    /// Puts the parts of an entry together.
    fn assemble(
        &mut self,
        entry: &ScannedEntry,
        mut parts: Vec<ArrivedPart>,
    ) -> Result<StoredContent, (EntryErrorKind, String)> {
        parts.sort_unstable_by_key(|(_, part)| part.slice);
        let mut content = StoredContent {
            stat: entry.stat.clone(),
            size: entry.content_len(),
            extents: Vec::new(),
            // A file of which nothing is read, since it is empty or one hole, was looked at when the run had begun.
            racy: parts.is_empty() && entry.stat.kind == StatKind::File && is_racy(entry.stat.ctime, self.began),
            changed: false,
        };
        let mut builder = ExtentBuilder::default();
        let mut cut_short = false;
        let mut changed = None;
        for (place, part) in parts {
            content.racy |= part.racy;
            match part.verdict {
                PartVerdict::Good => {}
                PartVerdict::Grew => {
                    let message = "grew while it was read; what was there at first is stored";
                    self.run.note(&entry.path, message.to_owned());
                }
                PartVerdict::Changed(what) => changed = Some(what),
                PartVerdict::Failed(error) => return Err(describe(&error)),
            }
            if let Some(fresh) = part.fresh {
                content.size = fresh.size;
                content.stat = *fresh;
            }
            if cut_short {
                continue;
            }
            let mut at = part.at;
            for range in &part.ranges {
                let place = place.expect("bytes that were read are in a record");
                builder.data(range.offset, range.len, place.number, at);
                at += u32::try_from(range.len).expect("a range of a chunk is at most 16 MiB");
            }
            cut_short |= !part.complete;
        }
        if cut_short {
            content.size = builder.end;
        }
        if let Some(what) = changed {
            self.run.entry_failed(&entry.path, EntryErrorKind::Changed, what);
            content.changed = true;
        }
        content.extents = builder.finish(content.size);
        if content.extents.len() > MAX_EXTENTS {
            let message =
                format!("it has {} runs of data and holes; {MAX_EXTENTS} are the most", content.extents.len());
            return Err((EntryErrorKind::Unsupported, message));
        }
        Ok(content)
    }

    fn entry(&mut self, scanned: ScannedEntry, content: StoredContent, link: Option<LinkGroup>) -> Entry {
        let StoredContent { stat, size, extents, racy, changed } = content;
        let entry_type = entry_type(stat.kind);
        let is_device = matches!(entry_type, EntryType::CharDevice | EntryType::BlockDevice);
        let rdev = if is_device { stat.rdev } else { 0 };
        Entry {
            path: scanned.name,
            entry_type,
            mode: stat.mode,
            owner: self.owners.of(stat.uid, stat.gid),
            mtime: stat.mtime,
            ctime: stat.ctime,
            dev: stat.dev,
            ino: stat.ino,
            size,
            rdev,
            target: scanned.target,
            extents,
            link,
            xattrs: scanned.xattrs,
            changed,
            racy,
        }
    }
}

/// Makes extents of ranges that come in file order.
#[derive(Default)]
struct ExtentBuilder {
    extents: Vec<Extent>,
    end: u64,
}

impl ExtentBuilder {
    /// `len` bytes of the file from `offset` on are in record `number` from `at` on.
    fn data(&mut self, offset: u64, len: u64, number: u64, at: u32) {
        self.hole_up_to(offset);
        self.end = offset + len;
        let share = at + u32::try_from(len).expect("a range of a chunk is at most 16 MiB");
        if let Some(Extent::Data { first, count, record_len, offset, len: run, .. }) = self.extents.last_mut() {
            // The run so far fills its records, and this is the beginning of the next one, no longer than those.
            let fills = u64::from(*offset) + *run == *count * u64::from(*record_len);
            if fills && at == 0 && number == *first + *count && share <= *record_len {
                *count += 1;
                *run += len;
                return;
            }
        }
        let (first, count, record_len) = (number, 1, share);
        self.extents.push(Extent::Data { segment: OWN, first, count, record_len, offset: at, len });
    }

    fn hole_up_to(&mut self, offset: u64) {
        if offset > self.end {
            self.extents.push(Extent::Hole { len: offset - self.end });
            self.end = offset;
        }
    }

    fn finish(mut self, size: u64) -> Vec<Extent> {
        self.hole_up_to(size);
        self.extents
    }
}

/// Owners' names, each looked up once.
#[derive(Default)]
struct OwnerNames {
    known: HashMap<(u32, u32), Owner>,
}

impl OwnerNames {
    fn of(&mut self, uid: u32, gid: u32) -> Owner {
        let owner = self.known.entry((uid, gid)).or_insert_with(|| Owner {
            uid,
            gid,
            user: user_name(uid).map_or_else(|| Arc::from(""), Arc::from),
            group: group_name(gid).map_or_else(|| Arc::from(""), Arc::from),
        });
        owner.clone()
    }
}

fn user_name(uid: u32) -> Option<String> {
    nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name)
}

fn group_name(gid: u32) -> Option<String> {
    nix::unistd::Group::from_gid(gid.into()).ok().flatten().map(|group| group.name)
}

/// The name of the user that runs this process, for the snapshot.
pub(crate) fn current_user() -> String {
    user_name(rustix::process::geteuid().as_raw()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(ranges: &[(u64, u64, u64, u32)], size: u64) -> Vec<Extent> {
        let mut builder = ExtentBuilder::default();
        for &(offset, len, number, at) in ranges {
            builder.data(offset, len, number, at);
        }
        builder.finish(size)
    }

    fn data(first: u64, count: u64, record_len: u32, offset: u32, len: u64) -> Extent {
        Extent::Data { segment: OWN, first, count, record_len, offset, len }
    }

    #[test]
    fn full_chunks_of_a_large_file_are_one_extent() {
        let extents = build(&[(0, 10, 5, 0), (10, 10, 6, 0), (20, 3, 7, 0)], 23);
        assert_eq!(extents, [data(5, 3, 10, 0, 23)]);
    }

    #[test]
    fn holes_split_extents_and_a_tail_hole_ends_them() {
        let extents = build(&[(4, 2, 1, 0), (8, 2, 1, 2), (10, 10, 2, 0)], 30);
        assert_eq!(
            extents,
            [
                Extent::Hole { len: 4 },
                data(1, 1, 2, 0, 2),
                Extent::Hole { len: 2 },
                data(1, 1, 4, 2, 2),
                data(2, 1, 10, 0, 10),
                Extent::Hole { len: 10 }
            ]
        );
    }

    #[test]
    fn a_short_record_ends_its_extent() {
        // The second chunk is longer than the first was: they are no run of equal records.
        let extents = build(&[(0, 6, 1, 0), (6, 10, 2, 0)], 16);
        assert_eq!(extents, [data(1, 1, 6, 0, 6), data(2, 1, 10, 0, 10)]);
    }
}
