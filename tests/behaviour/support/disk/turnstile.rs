//! Which of several writers makes the next call to the disk? The dice say, so that one seed is one order.
//!
//! The dice are thrown only when every writer that is still running stands at the turnstile: how fast each of them is
//! does not matter. The one that is chosen makes its call, to the end of it, alone. A writer that waits for a lock asks
//! for it again and again, so it comes to the turnstile too; one that is done has to say so.
//!
//! Sometimes one makes many calls in a row, as many as a whole run takes: what happens while another stands between two
//! calls is not found by throwing a coin for each.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Dice;

/// Of so many throws one gives a streak.
const STREAKS: usize = 6;
/// The longest streak; longer than a small run.
const LONGEST: usize = 200;

/// A writer that does not come for so long is not waited for any more; what then happens, no seed repeats.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Gate {
    dice: Dice,
    /// How many calls of each writer that is still running stand here.
    waiting: BTreeMap<usize, usize>,
    /// Whose turn it is.
    turn: Option<usize>,
    /// Who has so many more turns in a row.
    streak: Option<(usize, u64)>,
    is_taken: bool,
}

impl Gate {
    /// Decides whose turn it is.
    fn throw(&mut self) {
        let running = self.waiting.len();
        self.turn = match self.streak.take() {
            Some((writer, more)) => {
                self.streak = more.checked_sub(1).map(|more| (writer, more));
                Some(writer)
            }
            None => {
                let chosen = self.dice.below(running);
                let chosen = self.waiting.keys().nth(chosen).copied();
                if self.dice.below(STREAKS) == 0 {
                    let more = self.dice.below(LONGEST) as u64;
                    self.streak = chosen.map(|writer| (writer, more));
                }
                chosen
            }
        };
    }
}

/// The turnstile; open to all until [`Turnstile::set`].
#[derive(Default)]
pub(super) struct Turnstile {
    gate: Mutex<Gate>,
    moved: Condvar,
}

/// The right to make one call; given back when dropped.
pub(super) struct Turn<'t>(&'t Turnstile);

impl Turnstile {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on writers `0..count` go through by the dice.
    pub(super) fn set(&self, count: usize, seed: u64) {
        let waiting = (0..count).map(|writer| (writer, 0)).collect();
        *self.gate() = Gate { dice: Dice(seed), waiting, turn: None, streak: None, is_taken: false };
    }

    /// This writer is done: nobody waits for it, and what it still calls is let through.
    pub(super) fn retire(&self, writer: usize) {
        let mut gate = self.gate();
        gate.waiting.remove(&writer);
        if gate.turn == Some(writer) {
            gate.turn = None;
        }
        gate.streak = None;
        drop(gate);
        self.moved.notify_all();
    }

    /// A writer waits for what another has: its streak is over.
    pub(super) fn is_held_up(&self) {
        self.gate().streak = None;
    }

    /// Waits for this writer's turn; `None` for one that does not take part.
    pub(super) fn pass(&self, writer: Option<usize>) -> Option<Turn<'_>> {
        let writer = writer?;
        let mut gate = self.gate();
        *gate.waiting.get_mut(&writer)? += 1;
        loop {
            if !gate.is_taken {
                if gate.turn.is_none() && gate.waiting.values().all(|&calls| calls > 0) {
                    gate.throw();
                    self.moved.notify_all();
                }
                if gate.turn == Some(writer) {
                    gate.turn = None;
                    gate.is_taken = true;
                    *gate.waiting.get_mut(&writer)? -= 1;
                    return Some(Turn(self));
                }
            }
            let (next, timeout) = self.moved.wait_timeout(gate, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            gate = next;
            gate.waiting.get(&writer)?;
            if timeout.timed_out() && !gate.is_taken {
                gate.turn = Some(writer);
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.gate().is_taken = false;
        self.0.moved.notify_all();
    }
}
