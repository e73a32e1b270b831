//! What does each stage cost alone? One thread takes this very data through all stages, chunk by chunk, with nothing beside
//! it, and the time between two stages is booked to the one that has just ended.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::crypto::derive::segment_keys;
use crate::crypto::key::{MasterKey, fill_random};
use crate::engine::add::{effort, mapping, scan_options};
use crate::engine::api::AddOptions;
use crate::engine::compare::{Compared, Comparison};
use crate::engine::config::Level;
use crate::engine::device::Device;
use crate::engine::extract::record_pool;
use crate::engine::fit::{Plan, fit_pack, fit_unpack};
use crate::engine::observe::Report;
use crate::engine::plan::{Decision, Planner};
use crate::engine::profile::outcome::Kernel;
use crate::engine::run::Run;
use crate::engine::segment::write_all_at;
use crate::engine::state::State;
use crate::error::{Error, FileOp, Result};
use crate::format::index::{RecordPlace, SegmentSalt};
use crate::format::record::{RecordId, RecordKind, Salt, VaultId};
use crate::primitives::direct::DIRECT_LEN;
use crate::primitives::pool::BufferPool;
use crate::primitives::storage::VaultDir;
use crate::primitives::sys::thread_cpu_time;
use crate::stages::pack::compress::Compress;
use crate::stages::pack::encrypt::Encrypt;
use crate::stages::pack::names::name_sources;
use crate::stages::pack::read::{Intake, Read};
use crate::stages::pack::scan::scan;
use crate::stages::pack::source::FileSystem;
use crate::stages::unpack::decompress::Decompress;
use crate::stages::unpack::decrypt::Decrypt;
use crate::stages::unpack::read::{ReadRecord, RecordJob};
use crate::stages::{EntrySeq, ReadJob, Stage};

/// So much content is taken through the stages.
pub(super) const ENOUGH: u64 = 512 << 20;
/// So much is for a guess of a level.
pub(super) const SAMPLE: u64 = 48 << 20;

/// Which part of the data is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// One chunk in so many, so that they come from everywhere.
    pub(super) stride: u64,
    /// The scan ends at so many bytes of content.
    limit: u64,
    /// After this no further chunk is taken, but for the first.
    time: Duration,
}

impl Part {
    /// About `enough` bytes of what a run had, which ended at `limit` bytes of content, in so much time at most.
    pub(super) fn of(median: &Report, limit: u64, enough: u64, time: Duration) -> Self {
        let stride = median.total_size.div_ceil(enough.max(1)).max(1);
        Self { stride, limit, time }
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Alone {
    /// The stages, in the order of the data. `scan` counts all content, the others that of the chunks that were taken.
    pub(super) kernels: Vec<Kernel>,
    /// Bytes of records for a byte of content.
    pub(super) stored_share: f64,
}

impl Alone {
    /// CPU seconds for a byte of content, of one stage.
    pub(super) fn cost(&self, name: &str) -> f64 {
        let kernel = self.kernels.iter().find(|kernel| kernel.name == name);
        kernel.filter(|kernel| kernel.bytes > 0).map_or(0.0, |kernel| kernel.cpu.as_secs_f64() / kernel.bytes as f64)
    }
}

/// Time by stage.
struct Laps<const N: usize> {
    kernels: [Kernel; N],
    last: (Instant, Duration),
}

impl<const N: usize> Laps<N> {
    fn new(names: [&'static str; N]) -> Self {
        let kernels = names.map(|name| Kernel { name, ..Kernel::default() });
        Self { kernels, last: (Instant::now(), thread_cpu_time()) }
    }

    /// What has passed since the last one belongs to this stage, which has done so many bytes of content.
    fn lap(&mut self, stage: usize, bytes: u64) {
        let now = (Instant::now(), thread_cpu_time());
        let kernel = &mut self.kernels[stage];
        kernel.bytes += bytes;
        kernel.wall += now.0 - self.last.0;
        kernel.cpu += now.1.saturating_sub(self.last.1);
        self.last = now;
    }
}

/// Something has moved; an error if the run is to end.
fn step(run: &Run<'_>, bytes: u64) -> Result<()> {
    run.counters.tick();
    run.counters.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    run.check()
}

/// Takes a part of these sources through scan, read, compress and encrypt.
pub(super) fn pack(
    run: &Run<'_>,
    sources: &[PathBuf],
    options: &AddOptions,
    level: Level,
    part: Part,
) -> Result<Alone> {
    let began = Instant::now();
    let plan = fit_pack(&options.pipeline, level, Device::Unknown)?;
    let pool = BufferPool::new(plan.chunk_size as usize);
    let intake = Intake { mapping: mapping(options.read_mode), refused: AtomicBool::new(false) };
    let (master, mut id) = (MasterKey::generate()?, [0; 16]);
    fill_random(&mut id)?;
    let salt = Salt::generate()?;
    let keys = segment_keys(&master, &salt.0, &VaultId(id).0);
    let (at, goes_on) = (|_: &Path| {}, || !run.stop.is_stopped());
    let mut read = Read::new(&FileSystem, &intake, pool.clone(), &at, &goes_on);
    let mut compress = Compress::new(effort(level)?, pool)?;
    let mut encrypt = Encrypt::new(&keys, salt.segment_id());

    const SCAN: usize = 0;
    let laps = RefCell::new(Laps::new(["scan", "read", "compress", "encrypt"]));
    let (mut number, mut stored, mut taken) = (0, 0, 0);
    let mut through = |job: ReadJob| {
        laps.borrow_mut().lap(SCAN, 0);
        number += 1;
        let is_over = taken > 0 && (began.elapsed() >= part.time || taken >= part.limit);
        if is_over || !(number - 1_u64).is_multiple_of(part.stride) {
            return Ok(());
        }
        read.process(job, &mut |plain| {
            let bytes = plain.buf.len() as u64;
            taken += bytes;
            step(run, bytes)?;
            laps.borrow_mut().lap(1, bytes);
            compress.process(plain, &mut |packed| {
                laps.borrow_mut().lap(2, bytes);
                encrypt.process(packed, &mut |sealed| {
                    stored += sealed.framed().map_or(0, |framed| framed.len() as u64);
                    laps.borrow_mut().lap(3, bytes);
                    Ok(())
                })
            })
        })
    };

    let roots = name_sources(sources, options.directory.as_deref())?;
    let mut comparison = Comparison::new(scan(roots, scan_options(options, 1))?, None);
    let mut planner = Planner::new(&FileSystem, plan.chunk_size, Vec::new());
    let (mut seq, mut known) = (0, 0);
    while let Some(next) = comparison.next()? {
        // What cannot be looked at was told of in the rounds.
        let Compared::Found(entry, _) = next else { continue };
        let planned = planner.plan(EntrySeq(seq), &entry, None, &mut |_, _, _| Ok(false));
        if let Ok(Decision::Store(planned, ranges)) = planned {
            planner.before(planned.weight(&entry), &mut through)?;
            planner.cut(EntrySeq(seq), &entry, &planned.content, ranges, &mut through)?;
            seq += 1;
            known += entry.content_len();
        }
        if known >= part.limit || began.elapsed() >= part.time {
            break;
        }
    }
    planner.close_batch(&mut through)?;
    let mut laps = laps.into_inner();
    laps.lap(SCAN, known);
    Ok(Alone { kernels: laps.kernels.into(), stored_share: stored as f64 / (taken as f64).max(1.0) })
}

/// Takes a part of these records through read, decrypt and decompress.
pub(super) fn unpack(
    run: &Run<'_>,
    state: &State,
    options: &AddOptions,
    wanted: &[(SegmentSalt, RecordPlace)],
    part: Part,
) -> Result<Alone> {
    let began = Instant::now();
    let largest = wanted.iter().map(|(_, place)| place.plain_len).max().unwrap_or(0);
    let plan: Plan = fit_unpack(&options.pipeline, largest, false, Device::Unknown)?;
    let pool = record_pool(&plan);
    let mut read = ReadRecord::<()>::new(&*state.storage, pool.clone());
    let mut decrypt = Decrypt::<()>::new();
    let mut decompress = Decompress::<()>::new(pool)?;
    let laps = RefCell::new(Laps::new(["plan", "read", "decrypt", "decompress"]));
    let (mut stored, mut taken) = (0, 0);
    for (salt, place) in wanted.iter().step_by(usize::try_from(part.stride).unwrap_or(usize::MAX)) {
        if taken > 0 && began.elapsed() >= part.time {
            break;
        }
        step(run, u64::from(place.plain_len))?;
        let keys = state.reader.segment_keys(salt);
        let id = RecordId { segment: Salt(salt.salt).segment_id(), kind: RecordKind::Data, number: place.number };
        let job = RecordJob { place: *place, id, keys, purpose: () };
        let bytes = u64::from(place.plain_len);
        (stored, taken) = (stored + u64::from(place.sealed_len), taken + bytes);
        laps.borrow_mut().lap(0, bytes);
        read.process(job, &mut |sealed| {
            laps.borrow_mut().lap(1, bytes);
            decrypt.process(sealed, &mut |packed| {
                laps.borrow_mut().lap(2, bytes);
                decompress.process(packed, &mut |_| {
                    laps.borrow_mut().lap(3, bytes);
                    Ok(())
                })
            })
        })?;
    }
    let laps = laps.into_inner();
    Ok(Alone { kernels: laps.kernels.into(), stored_share: stored as f64 / (taken as f64).max(1.0) })
}

/// Bytes a second that a file of this place takes, preallocated, in writes of a chunk.
///
/// - `durable`: the sync at the end counts, as it does for a vault; restoring leaves that to the system.
pub(super) fn write(run: &Run<'_>, path: &Path, place: &dyn VaultDir, bytes: u64, durable: bool) -> Result<f64> {
    // As a vault is written: whole blocks from aligned memory, around the cache where the storage has such a way.
    const PIECE: usize = DIRECT_LEN;
    let io = |op| move |error| Error::io(op, path, error);
    let storage: Arc<_> = place.create_unlinked().map_err(io(FileOp::Create))?;
    let pool = BufferPool::new(PIECE);
    let mut piece = pool.take().map_err(io(FileOp::Allocate))?;
    piece.set_len(PIECE);
    fill_random(piece.as_mut_slice())?;
    let began = Instant::now();
    let mut offset = 0;
    while offset < bytes {
        step(run, PIECE as u64)?;
        if offset % (64 << 20) == 0 {
            storage.allocate(offset, 64 << 20).map_err(io(FileOp::Allocate))?;
        }
        write_all_at(&*storage, path, piece.as_slice(), offset)?;
        storage.start_writeback(offset, PIECE as u64).map_err(io(FileOp::Sync))?;
        offset += PIECE as u64;
    }
    if durable {
        storage.sync().map_err(io(FileOp::Sync))?;
    }
    Ok(offset as f64 / began.elapsed().as_secs_f64())
}
