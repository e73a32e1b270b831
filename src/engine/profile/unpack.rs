//! The way out of a vault, over and over: everything that the newest snapshot needs is read, opened and unpacked; written
//! too, where there is a place to write to.

use std::path::{Path, PathBuf};

use crate::engine::api::ExtractOptions;
use crate::engine::device::Device;
use crate::engine::extract::largest_record;
use crate::engine::fit::{UNPACK_CONTEXT, fit_unpack};
use crate::engine::observe::{EntryErrorKind, Observer, Report};
use crate::engine::profile::outcome::{Profile, ProfileFailed, ProfileOptions, Roofline};
use crate::engine::profile::{Session, alone, cache, roofline, scratch};
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
        match self.measure_unpacking(&session, &mut profile) {
            Ok(()) => Ok(profile),
            Err(error) => Err(ProfileFailed { error, profile: Box::new(profile) }),
        }
    }

    fn measure_unpacking(&self, session: &Session<'_>, profile: &mut Profile) -> Result<()> {
        let options = session.options;
        let mut restored = options.to.as_deref().map(Restored::below);
        session.rounds(profile, |_| {
            if options.cold {
                cache::forget_file(&self.path)?;
            }
            let report = match &mut restored {
                Some(restored) => self.restore_round(session, restored),
                None => self.read_round(session),
            }?;
            if report.total_files == 0 {
                let what = "there is nothing to measure: its newest snapshot has no files";
                return Err(Error::Refused { what, path: self.path.to_path_buf() });
            }
            Ok(Report { command: "profile", snapshot: None, ..report })
        })?;
        // All of it has to be read each time, whatever its length.
        profile.sample_bytes = None;
        if options.roofline {
            profile.roofline = Some(self.unpack_roofline(session, profile)?);
        }
        Ok(())
    }

    fn restore_round(&self, session: &Session<'_>, restored: &mut Restored) -> Result<Report> {
        let directory = restored.next()?;
        let extract = ExtractOptions { pipeline: session.config()?, ..ExtractOptions::default() };
        Ok(self.extract(&directory, &extract, session.listener())?)
    }

    /// As `verify`, of the newest snapshot alone and without looking at anything but its data.
    fn read_round(&self, session: &Session<'_>) -> Result<Report> {
        let mut through = None;
        let config = session.config()?;
        let (result, run) = Run::conduct("profile", &self.path, &config, session.listener(), |run| {
            let state = self.open_state(run, true)?;
            let largest = largest_record(&state.trees(&state.commit)?);
            let plan = fit_unpack(run.config, largest, false, Device::of(&self.path))?;
            let wanted = self.newest_records(run, &state)?;
            let (files, directories, bytes) = count(run, &state)?;
            let read = read_through(run, &*state.storage, &state.reader, &plan, wanted)?;
            if let Some((_, place, why)) = read.failed.first() {
                let message = format!("damaged at byte {}: {why}", place.offset);
                run.entry_failed(&self.path, EntryErrorKind::Damaged, message);
            }
            through = Some((read, plan.report(UNPACK_CONTEXT, false), (files, directories, bytes)));
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
        let pack = session.pack_options()?;
        let alone = session.conduct(&self.path, |run| {
            let state = self.open_state(run, true)?;
            let wanted = self.newest_records(run, &state)?;
            let all = wanted.iter().map(|(_, place)| u64::from(place.plain_len)).sum();
            alone::unpack(run, &state, &pack, &wanted, alone::stride(all, alone::ENOUGH))
        })?;
        let write = match &session.options.to {
            Some(directory) => {
                let place = scratch(Some(directory))?;
                let bytes = median.total_size.clamp(64 << 20, 1 << 30);
                Some(session.conduct(directory, |run| alone::write(run, directory, &place, bytes))?)
            }
            None => None,
        };
        // What is written is the content, and not what it was packed to.
        let alone = alone::Alone { stored_share: 1.0, ..alone };
        Ok(roofline(alone, write, median))
    }
}

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
                std::fs::create_dir(&own).map_err(|error| Error::io(FileOp::CreateDirectory, &own, error))?;
                self.made.insert(own).clone()
            }
        };
        self.rounds += 1;
        Ok(own.join(self.rounds.to_string()))
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(own) = &self.made {
            // What is left behind has a name that says what it is.
            let _ = std::fs::remove_dir_all(own);
        }
    }
}
