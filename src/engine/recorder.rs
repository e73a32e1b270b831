//! What is recorded of a run only where it is asked for: each worker's work as spans of time, for a trace; and the
//! latencies of each second, for an interval log.
//!
//! Neither may make a run hold it up or grow without bound: a worker keeps its own spans without a lock, at most
//! [`MOST_SPANS`] of them, and the workers of a stage share one histogram a kind, which the monitor empties each second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::engine::config::Recording;
use crate::engine::stats::{Timed, WorkerStats};
use crate::primitives::latency::Latency;

/// Spans that one worker keeps; when there are so many, neighbours that are shorter than some time become one.
const MOST_SPANS: usize = 4096;
/// What is asked to be kept apart at least, when spans begin to be put together.
const FIRST_RESOLUTION: Duration = Duration::from_micros(100);
/// Bytes that one worker's spans take, for the plan.
pub(crate) const SPANS_LEN: u64 = (MOST_SPANS * size_of::<Span>()) as u64;
/// Bytes that the histograms of all stages take, for the plan: of six stages four each, and of each those in use, those
/// taken, those on their way to a log, and those being written there.
pub(crate) const INTERVALS_LEN: u64 = 4 * 6 * 4 * (264 << 10);

/// A worker's work on one item, or on several one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Span {
    /// When it began, since the run did.
    pub begin: Duration,
    /// From its beginning to its end; the waits between several items are in it.
    pub length: Duration,
    /// The number of the chunk, if it is one.
    pub chunk: Option<u64>,
    /// Items that it stands for.
    pub items: u64,
    /// Bytes taken in.
    pub bytes_in: u64,
    /// Bytes given on.
    pub bytes_out: u64,
}

/// The spans of one worker.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Track {
    /// The stage.
    pub stage: &'static str,
    /// Which of its workers.
    pub worker: usize,
    /// In the order of time.
    pub spans: Vec<Span>,
    /// Neighbours that together took no longer than this are one span; zero: each item is.
    pub resolution: Duration,
    /// How many items have no span of their own because of that.
    pub put_together: u64,
}

/// The latencies of one interval of time.
#[derive(Debug)]
#[non_exhaustive]
pub struct Interval<'a> {
    /// When it began, since the run did.
    pub start: Duration,
    /// How long it was.
    pub length: Duration,
    /// By stage and kind (`service`, `wait_input`, `wait_output`, `wait_budget`), in nanoseconds; those without any are
    /// left out.
    pub latencies: &'a [(&'static str, &'static str, Histogram<u64>)],
}

/// What the kinds of latencies are called, in the order of [`StageLatencies`].
pub(crate) const KINDS: [&str; 4] = ["service", "wait_input", "wait_output", "wait_budget"];

/// One kind of latencies of a stage in the interval under way.
pub(crate) type Shared = Arc<Mutex<Latency>>;

/// The latencies of one stage in the interval under way, a histogram a kind.
#[derive(Debug, Default, Clone)]
struct StageLatencies([Shared; 4]);

/// Where the tracks of workers that have ended are left.
type Tracks = Arc<Mutex<Vec<Track>>>;

/// Hands out what a worker records into, and collects it.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Instant,
    wanted: Recording,
    latencies: Mutex<Vec<(&'static str, StageLatencies)>>,
    /// The beginning of the interval under way.
    interval: Mutex<Duration>,
    tracks: Tracks,
}

impl Recorder {
    /// For a run that began then.
    pub(crate) fn new(began: Instant, wanted: Recording) -> Self {
        Self { began, wanted, latencies: Mutex::default(), interval: Mutex::default(), tracks: Tracks::default() }
    }

    /// Whether intervals are asked for.
    pub(crate) fn has_intervals(&self) -> bool {
        self.wanted.intervals
    }

    /// The figures of a worker that begins.
    pub(crate) fn worker(&self, stage: &'static str, number: usize) -> WorkerStats {
        let mut stats = WorkerStats::default();
        if self.wanted.spans {
            let track = Track { stage, worker: number, ..Track::default() };
            stats.spans = Some(Box::new(SpanLog { began: self.began, track, home: Arc::clone(&self.tracks) }));
        }
        if self.wanted.intervals {
            let mut all = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            let position = all.iter().position(|(name, _)| *name == stage).unwrap_or_else(|| {
                all.push((stage, StageLatencies::default()));
                all.len() - 1
            });
            let StageLatencies([service, input, output, budget]) = all[position].1.clone();
            stats.service = Timed::shared(service);
            stats.wait_input = Timed::shared(input);
            stats.wait_output = Timed::shared(output);
            stats.wait_budget = Timed::shared(budget);
        }
        stats
    }

    /// Ends the interval under way, at this time since the run began, and shows it to `show`.
    pub(crate) fn end_interval(&self, now: Duration, show: impl FnOnce(&Interval<'_>)) {
        let mut begin = self.interval.lock().unwrap_or_else(PoisonError::into_inner);
        let start = std::mem::replace(&mut *begin, now);
        let mut latencies = Vec::new();
        for (stage, StageLatencies(kinds)) in &*self.latencies.lock().unwrap_or_else(PoisonError::into_inner) {
            for (kind, shared) in KINDS.into_iter().zip(kinds) {
                let taken = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
                latencies.extend(taken.map(|histogram| (*stage, kind, histogram)));
            }
        }
        show(&Interval { start, length: now.saturating_sub(start), latencies: &latencies });
    }

    /// The tracks of all workers, in the order of their stages and numbers; whole when these have ended.
    pub(crate) fn take_tracks(&self) -> Vec<Track> {
        std::mem::take(&mut *self.tracks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a worker had in its hands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Item {
    /// The number of its chunk, if it is one.
    pub(crate) chunk: Option<u64>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// What a worker keeps its spans in; leaves them to the recorder when it goes.
#[derive(Debug)]
pub(crate) struct SpanLog {
    began: Instant,
    track: Track,
    home: Tracks,
}

impl SpanLog {
    /// Work that began then and took so long.
    pub(crate) fn push(&mut self, began: Instant, length: Duration, item: Item) {
        let begin = began.saturating_duration_since(self.began);
        let Item { chunk, bytes_in, bytes_out } = item;
        self.track.push(Span { begin, length, chunk, items: 1, bytes_in, bytes_out });
    }
}

impl Drop for SpanLog {
    fn drop(&mut self) {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.track));
    }
}

impl Track {
    fn push(&mut self, span: Span) {
        if let Some(last) = self.spans.last_mut()
            && let Some(both) = last.with(&span, self.resolution)
        {
            *last = both;
            self.put_together += 1;
            return;
        }
        self.spans.push(span);
        while self.spans.len() >= MOST_SPANS {
            self.coarsen();
        }
    }

    /// Doubles what is put together.
    fn coarsen(&mut self) {
        self.resolution = (self.resolution * 2).max(FIRST_RESOLUTION);
        let resolution = self.resolution;
        let before = self.spans.len();
        self.spans.dedup_by(|next, kept| kept.with(next, resolution).map(|both| *kept = both).is_some());
        self.put_together += (before - self.spans.len()) as u64;
    }
}

impl Span {
    /// Both as one, if that is no longer than `resolution`.
    fn with(&self, next: &Self, resolution: Duration) -> Option<Self> {
        let length = (next.begin + next.length).saturating_sub(self.begin);
        (length <= resolution).then(|| Self {
            begin: self.begin,
            length,
            chunk: self.chunk.filter(|_| next.chunk == self.chunk),
            items: self.items + next.items,
            bytes_in: self.bytes_in + next.bytes_in,
            bytes_out: self.bytes_out + next.bytes_out,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(at: Duration, length: Duration) -> Span {
        Span { begin: at, length, chunk: Some(1), items: 1, bytes_in: 3, bytes_out: 2 }
    }

    #[test]
    fn however_many_items_a_worker_has_its_track_is_bounded_and_nothing_is_lost() {
        const MICROSECOND: Duration = Duration::from_micros(1);
        for items in [10, 4095, 4096, 100_000, 1_000_000_u32] {
            let mut track = Track::default();
            for item in 0..items {
                track.push(span(MICROSECOND * 10 * item, MICROSECOND * 3));
            }
            assert!(track.spans.len() < MOST_SPANS, "{items}: {}", track.spans.len());
            assert_eq!(track.spans.iter().map(|span| span.items).sum::<u64>(), u64::from(items));
            assert_eq!(track.put_together + track.spans.len() as u64, u64::from(items));
            assert_eq!(track.spans.iter().map(|span| span.bytes_in).sum::<u64>(), u64::from(items) * 3);
            assert_eq!(track.resolution.is_zero(), items < 4096, "only where there are too many");
            assert!(track.spans.windows(2).all(|pair| pair[0].begin + pair[0].length <= pair[1].begin));
        }
    }

    #[test]
    fn a_long_span_keeps_its_own_however_coarse_its_neighbours_are() {
        let mut track = Track::default();
        for item in 0..100_000 {
            track.push(span(Duration::from_micros(10) * item, Duration::from_micros(3)));
        }
        let long = span(Duration::from_secs(2), Duration::from_secs(1));
        track.push(long);
        assert_eq!(track.spans.last(), Some(&long));
    }

    #[test]
    fn an_interval_has_what_came_since_the_last_one() {
        let recorder = Recorder::new(Instant::now(), Recording { intervals: true, spans: false });
        let mut one = recorder.worker("read", 0);
        let mut other = recorder.worker("read", 1);
        let mut counts = Vec::new();
        let end = |at, counts: &mut Vec<(u64, usize)>| {
            recorder.end_interval(Duration::from_secs(at), |interval| {
                assert_eq!(interval.start + interval.length, Duration::from_secs(at));
                let service = interval.latencies.iter().find(|(stage, kind, _)| (*stage, *kind) == ("read", "service"));
                counts.push((service.map_or(0, |(_, _, histogram)| histogram.len()), interval.latencies.len()));
            });
        };
        one.service.record(Duration::from_millis(1));
        other.service.record(Duration::from_millis(2));
        end(1, &mut counts);
        end(2, &mut counts);
        other.service.record(Duration::from_millis(3));
        one.wait_input.record(Duration::from_millis(3));
        end(3, &mut counts);
        assert_eq!(counts, [(2, 1), (0, 0), (1, 2)]);
        assert_eq!(one.service.total + other.service.total, Duration::from_millis(6), "the sums are the workers' own");
    }

    #[test]
    fn nothing_is_recorded_that_was_not_asked_for() {
        let recorder = Recorder::new(Instant::now(), Recording::default());
        let stats = recorder.worker("read", 0);
        assert!(stats.spans.is_none() && !recorder.has_intervals());
        drop(stats);
        assert!(recorder.take_tracks().is_empty());
        let recorder = Recorder::new(Instant::now(), Recording { spans: true, intervals: false });
        let mut stats = recorder.worker("read", 3);
        stats.span(Instant::now(), Duration::ZERO, Item { chunk: Some(5), bytes_in: 10, bytes_out: 4 });
        drop(stats);
        let tracks = recorder.take_tracks();
        assert_eq!((tracks[0].stage, tracks[0].worker, tracks[0].spans[0].chunk), ("read", 3, Some(5)));
    }
}
