//! What happens on a signal, and to a run that does not end when it should.
//!
//! The library ends a cancelled run by itself, within moments. Only a thread that hangs in the kernel, in a read from a
//! dead network file system say, can keep it from that; then the process ends without it. A vault survives that as it
//! survives a power cut.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use flint_pipe::PipelineConfig;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::cli::password;
use crate::cli::session::Session;

/// How long a run may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(2);
/// How often a run is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Takes over the signals of the process, for `session`.
///
/// SIGPIPE is ignored already, by the Rust runtime. SIGXFSZ is caught and not acted upon, so that a write beyond the limit
/// fails with `EFBIG` like any other failed write; caught, not ignored, because that needs no unsafe code and is not
/// inherited by a password command.
pub(crate) fn install(session: &Arc<Session>) -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut wanted = vec![SIGINT, SIGTERM, SIGQUIT];
    // A run that was begun with `nohup` goes on without its terminal; any other ends as if it were asked to.
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted)?;
    let session = Arc::clone(session);
    let listen = move || {
        for signal in signals.forever() {
            if signal == SIGQUIT {
                // It ends the process where it stands, as ever, but not with a terminal that shows nothing.
                password::restore_terminal();
                // If this fails, the signal is forgotten, and there are others.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            } else {
                session.interrupted(Instant::now(), signal == SIGHUP);
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
    Ok(())
}

/// Whether whoever began this process had it ignore `signal`; no, where `/proc` cannot tell.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}

/// Looks after the run of `session` until it has ended.
pub(crate) fn watch(session: &Arc<Session>) -> io::Result<()> {
    let session = Arc::clone(session);
    let look = move || {
        while session.is_running() {
            std::thread::sleep(LOOK_EVERY);
            session.look(Instant::now());
        }
    };
    std::thread::Builder::new().name("watch".to_owned()).spawn(look)?;
    Ok(())
}

/// When a run should have ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    since: Instant,
    timeout: Option<Duration>,
    /// `None`: never.
    stall: Option<Duration>,
}

/// Why a run that goes on should have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// It was interrupted.
    Interrupted,
    /// This deadline passed.
    Deadline(Duration),
    /// Nothing moved for so long.
    Stalled(Duration),
}

impl Limits {
    /// The limits of a run that begins at `since`.
    pub(crate) fn new(config: &PipelineConfig, since: Instant) -> Self {
        Self { since, timeout: config.timeout, stall: config.stall_timeout.filter(|stall| !stall.is_zero()) }
    }

    /// Whether the run should have ended before `now`, with grace.
    ///
    /// - `pulled`: when the run was interrupted.
    /// - `unmoved_since`: since when nothing has moved, where that is known.
    pub(crate) fn overdue(
        &self,
        now: Instant,
        pulled: Option<Instant>,
        unmoved_since: Option<Instant>,
    ) -> Option<Overdue> {
        // Times beyond what an Instant can hold do not come.
        let passed = |from: Instant, time: Duration| {
            from.checked_add(time).and_then(|end| end.checked_add(GRACE)).is_some_and(|end| now >= end)
        };
        if let Some(pulled) = pulled {
            return passed(pulled.max(self.since), Duration::ZERO).then_some(Overdue::Interrupted);
        }
        if let Some(timeout) = self.timeout.filter(|&timeout| passed(self.since, timeout)) {
            return Some(Overdue::Deadline(timeout));
        }
        let stall = self.stall.filter(|&stall| unmoved_since.is_some_and(|since| passed(since, stall)));
        stall.map(Overdue::Stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(timeout: Option<u64>, stall: Option<u64>) -> Limits {
        let seconds = |time: Option<u64>| time.map(Duration::from_secs);
        Limits { since: Instant::now(), timeout: seconds(timeout), stall: seconds(stall) }
    }

    #[test]
    fn a_run_has_some_grace_after_it_was_interrupted() {
        let limits = limits(Some(3600), Some(300));
        let pulled = limits.since + Duration::from_secs(10);
        assert_eq!(limits.overdue(pulled, Some(pulled), None), None);
        assert_eq!(limits.overdue(pulled + GRACE, Some(pulled), None), Some(Overdue::Interrupted));
    }

    #[test]
    fn the_grace_of_a_run_interrupted_before_it_began_counts_from_its_beginning() {
        let limits = limits(None, None);
        let Some(pulled) = limits.since.checked_sub(Duration::from_secs(60)) else {
            return;
        };
        assert_eq!(limits.overdue(limits.since, Some(pulled), None), None);
        assert_eq!(limits.overdue(limits.since + GRACE, Some(pulled), None), Some(Overdue::Interrupted));
    }

    #[test]
    fn a_deadline_counts_from_the_beginning() {
        let limits = limits(Some(5), None);
        let end = limits.since + Duration::from_secs(5);
        assert_eq!(limits.overdue(end, None, None), None);
        assert_eq!(limits.overdue(end + GRACE, None, None), Some(Overdue::Deadline(Duration::from_secs(5))));
    }

    #[test]
    fn a_stall_counts_from_the_last_movement_and_only_where_that_is_known() {
        let limits = limits(None, Some(300));
        let moved = limits.since + Duration::from_secs(1000);
        let late = moved + Duration::from_secs(300) + GRACE;
        assert_eq!(limits.overdue(late - Duration::from_secs(1), None, Some(moved)), None);
        assert_eq!(limits.overdue(late, None, Some(moved)), Some(Overdue::Stalled(Duration::from_secs(300))));
        assert_eq!(limits.overdue(late, None, None), None);
    }

    #[test]
    fn a_stall_timeout_of_zero_is_never() {
        let mut config = PipelineConfig::default();
        config.stall_timeout = Some(Duration::ZERO);
        config.timeout = Some(Duration::MAX);
        let since = Instant::now();
        let limits = Limits::new(&config, since);
        assert_eq!(limits.overdue(since + Duration::from_secs(1_000_000), None, Some(since)), None);
    }
}
