//! One file of a snapshot to a pipe: the stages of the way back, without threads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::api::ExtractOptions;
use crate::engine::device::Device;
use crate::engine::extract::{largest_record, record_pool};
use crate::engine::fit::{Course, UNPACK_CONTEXT, fit_unpack};
use crate::engine::observe::{Failed, Observer, PlanReport, Report};
use crate::engine::resolve::{Resolver, pieces};
use crate::engine::run::{Phase, Run};
use crate::engine::select::{Selection, trees_at};
use crate::engine::state::State;
use crate::engine::vault::Vault;
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::entry::EntryType;
use crate::format::record::{RecordId, RecordKind, Salt};
use crate::stages::Stage;
use crate::stages::unpack::decompress::Decompress;
use crate::stages::unpack::decrypt::Decrypt;
use crate::stages::unpack::read::{ReadRecord, RecordJob};

impl Vault {
    /// Writes the content of one file of a snapshot to `out`, holes as zeros.
    ///
    /// # Errors
    /// [`Error::NoEntry`]; [`Error::Refused`] for what is no file; [`Error::Damaged`], with the bytes before the damage
    /// written already; [`Error::Io`] if `out` fails.
    pub fn copy_file(
        &self,
        path: &Path,
        options: &ExtractOptions,
        out: &mut (dyn std::io::Write + Send),
        observer: &dyn Observer,
    ) -> Result<Report, Failed> {
        let mut copied = Copied::default();
        let (result, run) = Run::conduct("restore", &self.path, &options.pipeline, observer, |run| {
            let state = self.open_state(run, false)?;
            run.enter(Phase::Stream);
            copied = copy_file(run, &state, path, options, out)?;
            Ok(())
        });
        let mut report = run.into_report("get", Vec::new());
        (report.snapshot, report.plan) = (copied.snapshot, copied.plan);
        match result {
            Ok(()) => {
                (report.total_files, report.successful_files) = (1, 1);
                (report.total_size, report.stored_size) = (copied.bytes, copied.stored);
                Ok(report)
            }
            Err(error) => {
                (report.total_files, report.failed_files) = (1, 1);
                Err(Failed { error, report: Box::new(report) })
            }
        }
    }
}

/// What was copied.
#[derive(Default)]
struct Copied {
    snapshot: Option<u64>,
    bytes: u64,
    /// Bytes of the vault that were read for it.
    stored: u64,
    plan: Option<PlanReport>,
}

/// Streams one file in order, a record at a time: a pipe takes the bytes one after another anyway.
fn copy_file(
    run: &Run<'_>,
    state: &State,
    path: &Path,
    options: &ExtractOptions,
    out: &mut (dyn std::io::Write + Send),
) -> Result<Copied> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let (commit, trees) = trees_at(state, options.at)?;
    let mut selection = Selection::new(state, &trees, &[path.to_owned()])?;
    let Some((tree, entry)) = selection.next()? else {
        let no_entry = || Error::NoEntry { name: path.display().to_string(), nearest: None };
        return Err(selection.no_entry().unwrap_or_else(no_entry));
    };
    if entry.entry_type != EntryType::File {
        return Err(Error::Refused { what: "only files can be written to standard output", path: path.to_owned() });
    }
    let mut resolver = Resolver::new(&trees, Arc::clone(&state.vault));
    let plan = fit_unpack(&options.pipeline, largest_record(&trees), false, Device::Unknown)?;
    let pool = record_pool(&plan);
    let mut read = ReadRecord::new(&*state.storage, pool.clone());
    let mut decrypt = Decrypt::new();
    let mut decompress = Decompress::new(pool)?;
    let failed = |error| Error::io(FileOp::Write, "standard output", error);
    run.counters.files_known.store(1, Ordering::Relaxed);
    run.counters.bytes_known.store(entry.size, Ordering::Relaxed);
    run.counters.all_known.store(true, Ordering::Relaxed);
    let (mut position, mut stored) = (0, 0);
    let zeros = |upto: u64, position: &mut u64, out: &mut (dyn std::io::Write + Send)| -> Result<()> {
        while *position < upto {
            let len = usize::try_from(upto - *position).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            run.check()?;
            out.write_all(&ZEROS[..len]).map_err(failed)?;
            *position += len as u64;
            run.counters.tick();
        }
        Ok(())
    };
    for piece in pieces(&entry.extents) {
        run.check()?;
        zeros(piece.file_offset, &mut position, out)?;
        let place = resolver.place(tree, piece.segment, piece.number)?;
        stored += u64::from(place.sealed_len);
        let salt = resolver.segment(tree, piece.segment);
        let keys = state.reader.segment_keys(salt);
        let id = RecordId { segment: Salt(salt.salt).segment_id(), kind: RecordKind::Data, number: piece.number };
        let mut plain = None;
        let job = RecordJob { place, id, keys, purpose: () };
        read.process(job, &mut |sealed| {
            decrypt.process(sealed, &mut |packed| {
                decompress.process(packed, &mut |record| {
                    plain = Some(record.bytes);
                    Ok(())
                })
            })
        })?;
        let damaged = |why| Error::malformed(&*state.vault, place.offset, why);
        let plain = plain.expect("one record in, one record out").map_err(damaged)?;
        let (at, len) = (piece.at as usize, piece.len as usize);
        let bytes = plain.as_slice().get(at..at + len);
        let bytes = bytes.ok_or_else(|| damaged(Malformation::Field { structure: "entry", field: "extent" }))?;
        out.write_all(bytes).map_err(failed)?;
        position += bytes.len() as u64;
        run.counters.bytes_done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        run.counters.tick();
    }
    zeros(entry.size, &mut position, out)?;
    out.flush().map_err(failed)?;
    let snapshot = commit.snapshot.map(|snapshot| snapshot.number);
    Ok(Copied { snapshot, bytes: position, stored, plan: Some(plan.report(UNPACK_CONTEXT, Course::Unpack)) })
}
