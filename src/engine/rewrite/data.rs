//! How do the data records get into the new file? Through the pipeline, in the order of the old one.
//!
//! ```text
//! as they are:   plan ──▶ read ──▶ write ──▶ decrypt                 each is opened once it is written, and then forgotten
//! sealed anew:   plan ──▶ read ──▶ decrypt ──▶ encrypt ──▶ write     the packed bytes stay what they are
//! packed anew:   plan ──▶ repack ──▶ encrypt ──▶ write               pieces of several become one record
//! ```
//!
//! So no record reaches the new file that does not open: the first that does not ends the run, and the old file stays. Permits
//! bound the bytes under way, as in every pipeline.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::crypto::derive::segment_keys;
use crate::engine::budget::Budget;
use crate::engine::extract::record_pool;
use crate::engine::fit::{Plan, REPACK_LEVEL};
use crate::engine::front::Front;
use crate::engine::observe::StageReport;
use crate::engine::pipeline::{Envelope, Gone, Outlet, StageHandle, spawn_one, spawn_stage};
use crate::engine::queue::queue;
use crate::engine::rewrite::Rewrite;
use crate::engine::rewrite::assembly::Assembly;
use crate::engine::rewrite::layout::{Layout, MovedSegment};
use crate::engine::rewrite::needed::Needed;
use crate::engine::run::{Phase, Run};
use crate::engine::segment::SegmentWriter;
use crate::engine::stats::stage_report;
use crate::engine::write_behind::WriteBehind;
use crate::error::{Error, FileOp, Result};
use crate::format::header::EXTENTS_AT;
use crate::format::index::RecordPlace;
use crate::format::record::{RecordId, RecordKind, Salt, SegmentHeader};
use crate::primitives::units::ChunkSeq;
use crate::stages::pack::encrypt::Encrypt;
use crate::stages::pack::write::{Write, Written};
use crate::stages::transfer::{
    Destination, PlacedSink, PutRecord, Repack, RepackJob, RepackSource, SealAnew, Sealing, lost_record,
};
use crate::stages::unpack::decrypt::Decrypt;
use crate::stages::unpack::read::{ReadRecord, RecordInHand, RecordJob};

/// Where records end that were moved; the first that is lost ends the run.
#[derive(Clone)]
struct Arrivals<'r, 'c> {
    run: &'r Run<'c>,
    vault: &'r Path,
    bytes: &'r AtomicU64,
    count: &'r AtomicU64,
}

impl Outlet<RecordInHand<Destination>> for Arrivals<'_, '_> {
    fn send(&self, envelope: Envelope<RecordInHand<Destination>>) -> Result<(), Gone> {
        let RecordInHand { job, bytes } = envelope.item;
        if let Err(why) = bytes {
            self.run.stop.fail(lost_record(self.vault, &job.place, why));
            return Err(Gone);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(u64::from(job.place.sealed_len), Ordering::Relaxed);
        self.run.counters.bytes_done.fetch_add(u64::from(job.place.sealed_len), Ordering::Relaxed);
        Ok(())
    }
}

/// Where new records end that were made of pieces.
#[derive(Clone)]
struct NewRecords<'r, 'c> {
    run: &'r Run<'c>,
    places: &'r Mutex<Vec<RecordPlace>>,
    /// Bytes of the old records that each is made of.
    old_bytes: &'r [u64],
}

impl Outlet<Written> for NewRecords<'_, '_> {
    fn send(&self, envelope: Envelope<Written>) -> Result<(), Gone> {
        if let Some(place) = envelope.item.place {
            let old = usize::try_from(place.number).ok().and_then(|number| self.old_bytes.get(number));
            self.run.counters.bytes_done.fetch_add(old.copied().unwrap_or(0), Ordering::Relaxed);
            self.places.lock().unwrap_or_else(PoisonError::into_inner).push(place);
        }
        Ok(())
    }
}

/// The error for a file that has not got all that it was to get: whoever did not bring it should have ended the run.
fn not_all_written(path: &Path) -> Error {
    let why = std::io::Error::other("not all of its records could be written");
    Error::io(FileOp::Write, path, why)
}

/// What was done with the data.
#[derive(Default)]
pub(super) struct Transferred {
    pub(super) stages: Vec<StageReport>,
    /// Bytes of the records that were moved.
    pub(super) moved_bytes: u64,
    /// The new records, by number.
    pub(super) new_records: Vec<RecordPlace>,
}

impl Rewrite<'_, '_> {
    /// Brings everything to the new file, and says what became of it.
    ///
    /// - `segment`: takes the new records.
    pub(super) fn transfer(
        &self,
        plan: &Plan,
        needed: &Needed,
        layout: &Layout,
        segment: &SegmentWriter,
    ) -> Result<Transferred> {
        let run = self.run;
        run.enter(Phase::Stream);
        // Progress counts what is read of the old file.
        let known = needed.records.iter().map(|record| u64::from(record.place.sealed_len)).sum();
        run.counters.bytes_known.store(known, Ordering::Relaxed);
        run.counters.all_known.store(true, Ordering::Relaxed);
        let mut done = Transferred::default();
        self.move_records(plan, needed, layout, &mut done)?;
        if !layout.batches.is_empty() {
            self.repack(plan, needed, layout, segment, &mut done)?;
        }
        Ok(done)
    }

    fn move_records(&self, plan: &Plan, needed: &Needed, layout: &Layout, done: &mut Transferred) -> Result<()> {
        let (run, from, path) = (self.run, &*self.from.storage, self.path);
        let out = WriteBehind::new(Arc::clone(&self.to), path);
        // Where the storage does not care for whole blocks, to gather them is not worth a copy.
        let is_gathered = self.to.preferred_write_len().is_some();
        let assembly = Assembly::new(&out, EXTENTS_AT, layout.end, plan.permit() / 2, plan.budget / plan.permit());
        let sink: &dyn PlacedSink = if is_gathered { &assembly } else { &out };
        let began = Instant::now();
        let budget = Budget::new(plan.budget);
        run.buffers_of(&budget);
        let pool = record_pool(plan);
        let bytes = AtomicU64::new(0);
        let make_read = || Ok(ReadRecord::<Destination>::new(from, pool.clone()));
        let make_decrypt = || Ok(Decrypt::new());
        let make_encrypt = || Ok(SealAnew);
        let make_write = || Ok(PutRecord::new(sink));
        let arrived = AtomicU64::new(0);
        let arrivals = Arrivals { run, vault: path, bytes: &bytes, count: &arrived };
        // In the order of the file, heads and all: of what is behind the records under way, no block is open.
        let jobs = layout.segments.iter().flat_map(|moved| {
            let sealing = self.begin_segment(sink, needed, moved);
            let salt = &needed.segments.salts()[moved.segment as usize];
            let keys = self.from.reader.segment_keys(salt);
            let segment = Salt(salt.salt).segment_id();
            moved.records.clone().filter_map(move |at| {
                let place = needed.records[at].place;
                let id = RecordId { segment, kind: RecordKind::Data, number: place.number };
                let offset = layout.place(needed, at)?.offset;
                let purpose = Destination { offset, sealing: sealing.clone() };
                Some(RecordJob { place, id, keys: Arc::clone(&keys), purpose })
            })
        });
        let stages = std::thread::scope(|scope| {
            let (to_read, for_read) = queue(plan.depth(plan.read));
            let (to_decrypt, for_decrypt) = queue(plan.depth(plan.third));
            let (to_encrypt, for_encrypt) = queue(plan.depth(plan.fourth.max(1)));
            let (to_write, for_write) = queue(plan.depth(plan.write));
            let front = Front { run, budget: Arc::clone(&budget), permit: plan.permit() };
            let mut stages = Vec::new();
            let started = (|| {
                stages.push(spawn_one(scope, run, "plan", move || Ok(front.hand_out(jobs, &to_read)))?);
                if self.reseals() {
                    stages.push(spawn_stage(
                        scope,
                        run,
                        plan.readers(run, "decrypt"),
                        &make_read,
                        for_read,
                        to_decrypt,
                    )?);
                    stages.push(spawn_stage(scope, run, plan.third, &make_decrypt, for_decrypt, to_encrypt)?);
                    stages.push(spawn_stage(scope, run, plan.fourth, &make_encrypt, for_encrypt, to_write)?);
                    stages.push(spawn_stage(scope, run, plan.write, &make_write, for_write, arrivals)?);
                } else {
                    stages.push(spawn_stage(scope, run, plan.readers(run, "write"), &make_read, for_read, to_write)?);
                    stages.push(spawn_stage(scope, run, plan.write, &make_write, for_write, to_decrypt)?);
                    stages.push(spawn_stage(scope, run, plan.third, &make_decrypt, for_decrypt, arrivals)?);
                }
                Ok(())
            })();
            if let Err(error) = started {
                run.stop.fail(error);
            }
            stages.into_iter().map(StageHandle::join).collect::<Vec<_>>()
        });
        let wall = began.elapsed();
        run.check()?;
        let wanted = (0..needed.records.len()).filter(|&at| layout.place(needed, at).is_some()).count() as u64;
        if arrived.into_inner() != wanted || !assembly.is_complete() {
            return Err(not_all_written(path));
        }
        done.stages = stages.into_iter().map(|(name, workers)| stage_report(name, workers, wall)).collect();
        done.moved_bytes = bytes.into_inner();
        Ok(())
    }

    /// Writes the header of a segment that records are moved to; answers what those are to be sealed with, if they are.
    fn begin_segment(&self, sink: &dyn PlacedSink, needed: &Needed, moved: &MovedSegment) -> Option<Arc<Sealing>> {
        let salt = Salt(self.new_salt(&needed.segments, moved.segment).salt);
        let head = SegmentHeader::new(self.keys.vault_id, salt, 0).encode();
        if let Err(error) = sink.put(&head, moved.head) {
            self.run.stop.fail(error);
        }
        self.reseals().then(|| {
            let keys = segment_keys(&self.keys.master, &salt.0, &self.keys.vault_id.0);
            Arc::new(Sealing { segment: salt.segment_id(), keys })
        })
    }

    /// Makes new records of pieces of old ones.
    fn repack(
        &self,
        plan: &Plan,
        needed: &Needed,
        layout: &Layout,
        segment: &SegmentWriter,
        done: &mut Transferred,
    ) -> Result<()> {
        let (run, from, path) = (self.run, &*self.from.storage, self.path);
        let began = Instant::now();
        let budget = Budget::new(plan.budget);
        run.buffers_of(&budget);
        let pool = record_pool(plan);
        let permit = plan.permit() / 2 * Repack::BUFFERS;
        let workers = plan.third.min(usize::try_from(plan.budget / permit).unwrap_or(usize::MAX)).max(1);
        let places = Mutex::default();
        let make_repack = || Repack::new(from, path, REPACK_LEVEL, pool.clone());
        let make_encrypt = || Ok(Encrypt::new(segment.keys(), segment.id()));
        let make_write = || Ok(Write::new(segment));
        let old_len = |&at: &usize| u64::from(needed.records[at].place.sealed_len);
        let old_bytes: Vec<u64> = layout.batches.iter().map(|batch| batch.sources.iter().map(old_len).sum()).collect();
        let new_records = NewRecords { run, places: &places, old_bytes: &old_bytes };
        let jobs = (0..).zip(&layout.batches).map(|(number, batch)| RepackJob {
            number: ChunkSeq(number),
            plain_len: batch.plain_len,
            sources: batch.sources.iter().map(|&at| self.source(needed, at)).collect(),
        });
        let stages = std::thread::scope(|scope| {
            let (to_repack, for_repack) = queue(plan.depth(workers));
            let (to_encrypt, for_encrypt) = queue(plan.depth(1));
            let (to_write, for_write) = queue(plan.depth(1));
            let front = Front { run, budget: Arc::clone(&budget), permit };
            let mut stages = Vec::new();
            let started = (|| {
                stages.push(spawn_one(scope, run, "plan", move || Ok(front.hand_out(jobs, &to_repack)))?);
                stages.push(spawn_stage(scope, run, workers, &make_repack, for_repack, to_encrypt)?);
                stages.push(spawn_stage(scope, run, 1, &make_encrypt, for_encrypt, to_write)?);
                stages.push(spawn_stage(scope, run, 1, &make_write, for_write, new_records)?);
                Ok(())
            })();
            if let Err(error) = started {
                run.stop.fail(error);
            }
            stages.into_iter().map(StageHandle::join).collect::<Vec<_>>()
        });
        let wall = began.elapsed();
        run.check()?;
        // Of the stages that both pipelines have, those of the first tell more.
        let is_new = |name: &str| name == "repack";
        let repack = stages.into_iter().filter(|(name, _)| is_new(name));
        done.stages.extend(repack.map(|(name, workers)| stage_report(name, workers, wall)));
        done.new_records = places.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.new_records.sort_unstable_by_key(|place| place.number);
        if done.new_records.len() != layout.batches.len() {
            return Err(not_all_written(path));
        }
        Ok(())
    }

    fn source(&self, needed: &Needed, at: usize) -> RepackSource {
        let record = &needed.records[at];
        let salt = &needed.segments.salts()[record.segment as usize];
        let number = record.place.number;
        RepackSource {
            place: record.place,
            id: RecordId { segment: Salt(salt.salt).segment_id(), kind: RecordKind::Data, number },
            keys: self.from.reader.segment_keys(salt),
            pieces: needed.pieces[record.pieces.clone()].iter().map(|piece| (piece.at, piece.len)).collect(),
        }
    }
}
