//! The bounded channels between stages, whose fill can be seen from outside.
//!
//! Nobody but the stages at its ends may hold an end of a channel: that is how a stage learns that its neighbour has ended.
//! So who only wants to look has a [`Fill`], which both ends keep up to date.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crossbeam::channel::{Receiver, RecvError, Sender, bounded};

use crate::engine::pipeline::{Envelope, Gone, Outlet};

/// How many items a channel holds.
#[derive(Debug)]
pub(crate) struct Fill {
    /// Less than nothing for a moment, where an item is taken before its sender has counted it.
    len: AtomicI64,
    slots: usize,
}

impl Fill {
    /// Items in it now, and how many there is room for.
    pub(crate) fn now(&self) -> (usize, usize) {
        let len = usize::try_from(self.len.load(Ordering::Relaxed)).unwrap_or(0);
        (len.min(self.slots), self.slots)
    }
}

/// The end that items go into.
pub(crate) struct Feed<T> {
    sender: Sender<Envelope<T>>,
    fill: Arc<Fill>,
}

impl<T> Clone for Feed<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), fill: Arc::clone(&self.fill) }
    }
}

impl<T: Send> Outlet<T> for Feed<T> {
    fn send(&self, envelope: Envelope<T>) -> Result<(), Gone> {
        self.sender.send(envelope).map_err(|_| Gone)?;
        self.fill.len.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// The end that items are taken from.
pub(crate) struct Supply<T> {
    receiver: Receiver<Envelope<T>>,
    fill: Arc<Fill>,
}

impl<T> Clone for Supply<T> {
    fn clone(&self) -> Self {
        Self { receiver: self.receiver.clone(), fill: Arc::clone(&self.fill) }
    }
}

impl<T> Supply<T> {
    /// Waits for an item.
    ///
    /// # Errors
    /// The stage before has ended, and the channel is empty.
    pub(crate) fn recv(&self) -> Result<Envelope<T>, RecvError> {
        let envelope = self.receiver.recv()?;
        self.fill.len.fetch_sub(1, Ordering::Relaxed);
        Ok(envelope)
    }

    /// To look at from outside.
    pub(crate) fn fill(&self) -> Arc<Fill> {
        Arc::clone(&self.fill)
    }
}

/// A channel of so many slots.
pub(crate) fn queue<T>(slots: usize) -> (Feed<T>, Supply<T>) {
    let (sender, receiver) = bounded(slots);
    let fill = Arc::new(Fill { len: AtomicI64::new(0), slots });
    (Feed { sender, fill: Arc::clone(&fill) }, Supply { receiver, fill })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(item: u64) -> Envelope<u64> {
        Envelope { item, permit: None }
    }

    #[test]
    fn who_looks_sees_what_is_in_it_and_keeps_nobody_waiting() {
        let (feed, supply) = queue(3);
        let fill = supply.fill();
        assert_eq!(fill.now(), (0, 3));
        for item in 0..3 {
            feed.clone().send(envelope(item)).unwrap();
        }
        assert_eq!(fill.now(), (3, 3));
        assert_eq!(supply.clone().recv().unwrap().item, 0);
        assert_eq!(fill.now(), (2, 3));
        drop(feed);
        assert_eq!((supply.recv().unwrap().item, supply.recv().unwrap().item), (1, 2));
        assert!(supply.recv().is_err(), "the sending end is gone, whoever looks");
        let (feed, supply) = queue(1);
        let fill = supply.fill();
        drop(supply);
        assert!(feed.send(envelope(0)).is_err(), "the receiving end is gone, whoever looks");
        assert_eq!(fill.now(), (0, 1));
    }
}
