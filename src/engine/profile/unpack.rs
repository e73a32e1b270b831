//! The way out of a vault, over and over: everything that the newest snapshot needs is read, opened and unpacked; written
//! too, where there is a place to write to.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::api::{ExtractOptions, VerifyOptions};
use crate::engine::device::Device;
use crate::engine::extract::largest_record;
use crate::engine::fit::{Course, UNPACK_CONTEXT, fit_unpack};
use crate::engine::observe::{EntryErrorKind, Failed, Observer, Progress, Report};
use crate::engine::profile::outcome::{Profile, ProfileFailed, ProfileOptions, Roofline};
use crate::engine::profile::{LEAST_ROUNDS, MOST_ROUNDS, Session, alone, cache, roofline};
use crate::engine::run::Run;
use crate::engine::state::State;
use crate::engine::vault::Vault;
use crate::engine::verdict::{Way, judge};
use crate::engine::verify::{needed, read_through};
use crate::error::{Error, FileOp, Result};
use crate::format::entry::EntryType;
use crate::format::index::{RecordPlace, SegmentSalt};

impl Vault {
    /// Measures the way out of this vault: everything is read, opened and unpacked, and with [`ProfileOptions::to`] written
    /// to files below that directory, which are taken away again.
    ///
    /// # Errors
    /// As [`profile`](crate::profile()); [`Error::Refused`] for a sweep, which only packing has.
    pub fn profile(&self, options: &ProfileOptions, observer: &dyn Observer) -> Result<Profile, ProfileFailed> {
        if options.sweep {
            let what = "a sweep goes over levels, which only packing has";
            return Err(Error::Refused { what, path: self.path.to_path_buf() }.into());
        }
        let mut profile = Profile { unpack: true, cold: options.cold, ..Profile::default() };
        let session = Session::begin(options, observer);
        let measured = self.measure_unpacking(&session, &mut profile);
        session.conclude(measured, profile)
    }

    fn measure_unpacking(&self, session: &Session<'_>, profile: &mut Profile) -> Result<()> {
        let options = session.options;
        if options.pack.dry_run {
            let pipeline = session.config(Duration::MAX)?;
            let rehearsed = match &options.to {
                Some(directory) => {
                    let extract = ExtractOptions { pipeline, dry_run: true, ..ExtractOptions::default() };
                    self.extract(directory, &extract, &session.observer)?
                }
                None => {
                    let verify = VerifyOptions { pipeline, dry_run: true, ..VerifyOptions::default() };
                    self.verify(&verify, &session.observer)?
                }
            };
            profile.rounds.push(rehearsed);
            return Ok(());
        }
        let mut restored = options.to.as_deref().map(Restored::below);
        // What is restored stays until the end.
        let most = if restored.is_some() { LEAST_ROUNDS } else { MOST_ROUNDS };
        let mut is_part = false;
        let measured = session.rounds(profile, most, |_| {
            if options.cold {
                cache::forget_file(&self.path)?;
            }
            let round = match &mut restored {
                Some(restored) => self.restore_round(session, restored),
                None => self.read_round(session, &mut is_part),
            };
            let (report, is_cut) = match round {
                Ok(report) => (report, is_part),
                Err(failed) => (session.cut(failed)?, true),
            };
            let nothing = |what| Err(Error::Refused { what, path: self.path.to_path_buf() });
            match &report {
                Report { total_files: 0, .. } if !is_cut => {
                    nothing("there is nothing to measure: its newest snapshot has no files")
                }
                Report { successful_files: 0, .. } if !is_cut && !report.is_damaged() => {
                    nothing("nothing of it could be restored, so there is nothing to measure")
                }
                _ => Ok((Report { command: "profile", snapshot: None, ..report }, is_cut)),
            }
        });
        if let Some(restored) = restored {
            let cleaned = restored.clean(&session.observer);
            measured.and(cleaned)?;
        } else {
            measured?;
        }
        if options.roofline {
            profile.roofline = Some(self.unpack_roofline(session, profile)?);
        }
        Ok(())
    }

    fn restore_round(&self, session: &Session<'_>, restored: &mut Restored) -> Result<Report, Failed> {
        let directory = restored.next()?;
        let extract = ExtractOptions { pipeline: session.config(session.slice())?, ..ExtractOptions::default() };
        let report = self.extract(&directory, &extract, &session.observer)?;
        if let Some(full) = report.errors.iter().find(|error| error.kind == EntryErrorKind::NoSpace) {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(Error::io(FileOp::Write, directory.join(&full.path), source).into());
        }
        Ok(report)
    }

    /// As `verify`, of the newest snapshot alone and without looking at anything but its data; of that no more than
    /// [`ROUND_BYTES`], which `is_part` then says.
    fn read_round(&self, session: &Session<'_>, is_part: &mut bool) -> Result<Report, Failed> {
        let mut through = None;
        let config = session.config(Duration::MAX)?;
        let (result, run) = Run::conduct("profile", &self.path, &config, &session.observer, |run| {
            let state = self.open_state(run, true)?;
            let largest = largest_record(&state.trees(&state.commit)?);
            let plan = fit_unpack(run.config, largest, false, Device::of(&self.path))?;
            let mut wanted = self.newest_records(run, &state)?;
            let (files, directories, bytes) = count(run, &state)?;
            let ends = wanted.iter().scan(0, |sum, (_, place)| {
                *sum += u64::from(place.plain_len);
                Some(*sum)
            });
            let enough = ends.take_while(|end| *end <= ROUND_BYTES).count().max(1);
            *is_part = enough < wanted.len();
            wanted.truncate(enough);
            let bytes = if *is_part { wanted.iter().map(|(_, place)| u64::from(place.plain_len)).sum() } else { bytes };
            let read = read_through(run, &*state.storage, &state.reader, &plan, wanted)?;
            if let Some((_, place, why)) = read.failed.first() {
                let message = format!("damaged at byte {}: {why}", place.offset);
                run.entry_failed(&self.path, EntryErrorKind::Damaged, message);
            }
            through = Some((read, plan.report(UNPACK_CONTEXT, Course::Unpack), (files, directories, bytes)));
            Ok(())
        });
        result?;
        let (read, plan, (files, directories, bytes)) = through.ok_or(Error::Interrupted)?;
        let mut report = run.into_report("profile", read.stages);
        (report.total_files, report.successful_files) = (files, files);
        (report.directories, report.total_size) = (directories, bytes);
        report.stored_size = read.stored_bytes;
        report.plan = Some(plan);
        report.bottleneck = judge(&report, Way::Unpack);
        Ok(report)
    }

    /// The data records of the newest snapshot, in the order of the file.
    fn newest_records(&self, run: &Run<'_>, state: &State) -> Result<Vec<(SegmentSalt, RecordPlace)>> {
        let mut wanted = needed(run, state, &state.commit)?;
        wanted.sort_unstable_by_key(|(_, place)| place.offset);
        Ok(wanted)
    }

    fn unpack_roofline(&self, session: &Session<'_>, profile: &Profile) -> Result<Roofline> {
        let median = profile.median().ok_or(Error::Interrupted)?;
        let pack = session.pack_options(Duration::MAX)?;
        let alone = session.conduct(&self.path, |run| {
            let state = self.open_state(run, true)?;
            let wanted = self.newest_records(run, &state)?;
            let part = alone::Part::of(median, u64::MAX, alone::ENOUGH, session.slice());
            alone::unpack(run, &state, &pack, &wanted, part)
        })?;
        let write = match &session.options.to {
            Some(directory) => {
                let bytes = median.total_size.clamp(64 << 20, 1 << 30);
                session.write_alone(directory, bytes, false)?
            }
            None => None,
        };
        // What is written is the content, and not what it was packed to.
        let alone = alone::Alone { stored_share: 1.0, ..alone };
        Ok(roofline(alone, write, median))
    }
}

/// So much content is read in a round, where nothing is written.
const ROUND_BYTES: u64 = 2 << 30;

/// Entries but directories, directories, and bytes of content of the newest snapshot.
fn count(run: &Run<'_>, state: &State) -> Result<(u64, u64, u64)> {
    let trees = state.trees(&state.commit)?;
    let mut merge = state.merge(&trees)?;
    let (mut files, mut directories, mut bytes) = (0, 0, 0);
    while let Some((_, entry)) = merge.next()? {
        run.check()?;
        if entry.entry_type == EntryType::Directory {
            directories += 1;
        } else {
            files += 1;
            bytes += entry.size;
        }
    }
    Ok((files, directories, bytes))
}

/// Directories that rounds restore to, a new one each; taken away together at the end, since some file systems are slow
/// for a while where much was removed.
struct Restored {
    directory: PathBuf,
    made: Option<PathBuf>,
    rounds: u32,
}

impl Restored {
    fn below(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), made: None, rounds: 0 }
    }

    fn next(&mut self) -> Result<PathBuf> {
        let own = match &self.made {
            Some(own) => own.clone(),
            None => {
                let own = self.directory.join(format!("flint-pipe-profile-{}", std::process::id()));
                // For nobody else: what was private in the vault may lie below directories that are not there yet.
                let made = std::fs::DirBuilder::new().mode(0o700).create(&own);
                made.map_err(|error| Error::io(FileOp::CreateDirectory, &own, error))?;
                self.made.insert(own).clone()
            }
        };
        self.rounds += 1;
        Ok(own.join(self.rounds.to_string()))
    }
}

impl Restored {
    /// Takes them away, also what was restored without the right to do so.
    fn clean(mut self, observer: &dyn Observer) -> Result<()> {
        let Some(own) = self.made.take() else { return Ok(()) };
        // Whoever watches over the run has to know that this may take a while, and is worth waiting for.
        observer.progress(&Progress { phase: "clean", ..Progress::default() });
        remove(&own).map_err(|error| Error::io(FileOp::Remove, &own, error))
    }
}

/// Removes a directory and all that is below it.
fn remove(directory: &Path) -> std::io::Result<()> {
    if std::fs::remove_dir_all(directory).is_ok() {
        return Ok(());
    }
    open_up(directory)?;
    std::fs::remove_dir_all(directory)
}

/// Gives its owner all rights on a directory and on those below it.
fn open_up(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(own) = &self.made {
            // Only after a panic: what is left behind has a name that says what it is.
            let _ = remove(own);
        }
    }
}
