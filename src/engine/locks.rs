//! Taking a vault's locks: polled, so that a deadline, a cancel and `--lock-timeout` end the wait.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::observe::Notice;
use crate::engine::run::Run;
use crate::error::{Error, FileOp, Result};
use crate::primitives::storage::{Lock, LockMode, Storage};

/// The first and the longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// How long a wait goes on before it is mentioned, and before it is mentioned again.
const MENTIONS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// When a wait is to be mentioned.
struct Mentions {
    /// The time waited at which the next is due.
    due: Duration,
}

impl Mentions {
    fn new() -> Self {
        Self { due: MENTIONS.0 }
    }

    /// Whether one is due after so long.
    fn is_due(&mut self, waited: Duration) -> bool {
        let is_due = waited >= self.due;
        if is_due {
            self.due = waited + MENTIONS.1;
        }
        is_due
    }
}

/// A lock that is held; given back when dropped.
pub(crate) struct Held {
    storage: Arc<dyn Storage>,
    lock: Lock,
}

impl Held {
    /// Waits for the lock as long as the run's configuration allows; says so when it takes longer than a moment, and
    /// again every half a minute.
    pub(crate) fn take(
        run: &Run<'_>,
        vault: &Path,
        storage: &Arc<dyn Storage>,
        lock: Lock,
        mode: LockMode,
    ) -> Result<Self> {
        let began = Instant::now();
        let mut pause = PAUSES.0;
        let mut mentions = Mentions::new();
        loop {
            if let Some(held) = Self::try_take(vault, storage, lock, mode)? {
                return Ok(held);
            }
            if run.config.lock_timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                return Err(Error::Locked(vault.to_owned()));
            }
            if mentions.is_due(began.elapsed()) {
                run.observer.notice(&Notice::WaitingForLock { vault: vault.to_owned() });
            }
            run.check()?;
            run.stop.sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Takes the lock if it is free now.
    pub(crate) fn try_take(
        vault: &Path,
        storage: &Arc<dyn Storage>,
        lock: Lock,
        mode: LockMode,
    ) -> Result<Option<Self>> {
        let taken = storage.try_lock(lock, mode).map_err(|error| Error::io(FileOp::Lock, vault, error))?;
        Ok(taken.then(|| Self { storage: Arc::clone(storage), lock }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A lock that cannot be given back dies with the file's description.
        let _ = self.storage.unlock(self.lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_mentioned_after_a_second_and_then_every_half_a_minute() {
        let mut mentions = Mentions::new();
        let mentioned: Vec<u64> =
            (0..100_000).step_by(50).filter(|&ms| mentions.is_due(Duration::from_millis(ms))).collect();
        assert_eq!(mentioned, [1_000, 31_000, 61_000, 91_000]);
    }
}
