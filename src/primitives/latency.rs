//! How long did things take? One histogram of durations per worker and kind, merged at the end.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest duration that has a place of its own; longer ones are counted as this long.
pub(crate) const MAX_TRACKED: Duration = Duration::from_secs(3600);

const MAX_TRACKED_NS: u64 = 3_600_000_000_000;
const _: () = assert!(MAX_TRACKED.as_nanos() == MAX_TRACKED_NS as u128, "one limit in two units");

/// Significant decimal digits of a recorded duration.
const DIGITS: u8 = 3;

/// A histogram of durations from 1 ns to 1 h with three significant digits; the longest is exact.
///
/// Takes 264 KiB (33 buckets of 1,024 counters of 8 bytes) from the first duration that it counts, and next to nothing
/// before. Recording takes no lock and cannot fail, so every worker keeps its own and they are merged at the end. What is
/// longer than 1 h is counted as 1 h, never dropped; [`Self::beyond`] says how often.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latency {
    histogram: Option<Histogram<u64>>,
    longest: Duration,
    beyond: u64,
}

impl Latency {
    /// An empty histogram.
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn histogram(&mut self) -> &mut Histogram<u64> {
        self.histogram.get_or_insert_with(|| {
            Histogram::new_with_bounds(1, MAX_TRACKED_NS, DIGITS)
                .expect("low >= 1, high >= 2 * low and at most five digits are all that is asked")
        })
    }

    /// Counts one duration.
    pub(crate) fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.histogram().saturating_record(nanos.min(MAX_TRACKED_NS));
        self.beyond += u64::from(nanos > MAX_TRACKED_NS);
        self.longest = self.longest.max(duration);
    }

    /// Adds all that `other` counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        let Some(counted) = &other.histogram else { return };
        self.histogram().add(counted).expect("all values have the same bounds, so each has a place in the other");
        self.longest = self.longest.max(other.longest);
        self.beyond += other.beyond;
    }

    /// What was counted since this was asked last, in nanoseconds; `None` if that is nothing. Its memory is kept.
    pub(crate) fn take(&mut self) -> Option<Histogram<u64>> {
        let histogram = self.histogram.as_mut().filter(|histogram| !histogram.is_empty())?;
        let taken = histogram.clone();
        histogram.reset();
        (self.longest, self.beyond) = (Duration::ZERO, 0);
        Some(taken)
    }

    /// The distribution as points, each the share of all (0 to 1) that took no longer than the duration: the nearer to 1,
    /// the denser. The last is the longest, at 1. Empty if nothing was recorded.
    pub(crate) fn curve(&self) -> Vec<(f64, Duration)> {
        /// Points to each halving of what is left up to 1.
        const POINTS: u32 = 5;
        let Some(histogram) = self.histogram.as_ref().filter(|histogram| !histogram.is_empty()) else {
            return Vec::new();
        };
        let points = histogram.iter_quantiles(POINTS);
        let mut curve: Vec<_> = points
            .map(|point| {
                (point.quantile_iterated_to(), Duration::from_nanos(point.value_iterated_to()).min(self.longest))
            })
            .take_while(|(share, _)| *share < 1.0)
            .collect();
        curve.push((1.0, self.longest));
        curve
    }

    /// How many durations were counted.
    pub(crate) fn count(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::len)
    }

    /// How many of them were too long to have a place of their own, and count as [`MAX_TRACKED`].
    pub(crate) fn beyond(&self) -> u64 {
        self.beyond
    }

    /// The duration that the share `quantile` (0 to 1, held to that range) of all did not exceed, to three digits; zero
    /// if nothing was recorded. Never more than [`Self::max`].
    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        let quantile = if quantile.is_nan() { 0.0 } else { quantile.clamp(0.0, 1.0) };
        let nanos = self.histogram.as_ref().map_or(0, |histogram| histogram.value_at_quantile(quantile));
        // The histogram answers with the upper end of a bucket, which may lie above everything that was recorded.
        Duration::from_nanos(nanos).min(self.longest)
    }

    /// The longest duration, exact even where it lies beyond [`MAX_TRACKED`]; zero if nothing was recorded.
    pub(crate) fn max(&self) -> Duration {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(durations: impl IntoIterator<Item = Duration>) -> Latency {
        let mut latency = Latency::new();
        for duration in durations {
            latency.record(duration);
        }
        latency
    }

    #[test]
    fn an_empty_histogram_answers_zero_everywhere() {
        let latency = Latency::default();
        assert_eq!(latency.max(), Duration::ZERO);
        for quantile in [0.0, 0.5, 1.0, f64::NAN, -1.0, 7.0] {
            assert_eq!(latency.quantile(quantile), Duration::ZERO);
        }
    }

    #[test]
    fn quantiles_have_three_digits_and_the_longest_is_exact() {
        let latency = recorded((1..=1000).map(Duration::from_micros));
        assert_eq!(latency.max(), Duration::from_micros(1000));
        for (quantile, micros) in [(0.001, 1), (0.5, 500), (0.9, 900), (0.99, 990), (1.0, 1000)] {
            let (found, exact) = (latency.quantile(quantile), Duration::from_micros(micros));
            assert!(found.abs_diff(exact) * 1000 <= exact, "{quantile}: {found:?}, not {exact:?}");
        }
        assert_eq!(latency.quantile(1.0), latency.max(), "no bucket's upper end is shown");
    }

    #[test]
    fn what_is_too_long_or_too_short_is_counted_and_seen() {
        let latency = recorded([Duration::ZERO, Duration::MAX, MAX_TRACKED, MAX_TRACKED + Duration::from_nanos(1)]);
        assert_eq!((latency.count(), latency.beyond()), (4, 2), "what was too long is counted, and said");
        assert_eq!(latency.max(), Duration::MAX);
        assert_eq!(latency.quantile(0.0), Duration::ZERO);
        assert!(latency.quantile(1.0) >= MAX_TRACKED);
    }

    #[test]
    fn merging_is_the_same_as_recording_everything_in_one() {
        let (fast, slow) = ((1..500).map(Duration::from_nanos), (1..300).map(Duration::from_secs));
        let long = [Duration::from_secs(4000)];
        let mut merged = recorded(fast.clone());
        merged.merge(&recorded(slow.clone()));
        merged.merge(&Latency::new());
        merged.merge(&recorded(long));
        let one = recorded(fast.chain(slow).chain(long));
        assert_eq!(merged.histogram, one.histogram);
        assert_eq!((merged.max(), merged.beyond()), (one.max(), one.beyond()));
    }

    #[test]
    fn a_curve_rises_to_the_longest_and_is_denser_towards_it() {
        assert!(Latency::new().curve().is_empty());
        let latency = recorded((1..=10_000).map(Duration::from_micros));
        let curve = latency.curve();
        assert!((20..200).contains(&curve.len()), "{}", curve.len());
        assert!(curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1), "{curve:?}");
        assert_eq!(curve.last(), Some(&(1.0, Duration::from_millis(10))));
        for (share, duration) in &curve {
            let exact = share * 10_000.0;
            assert!((duration.as_secs_f64() * 1e6 - exact).abs() <= exact * 0.01 + 2.0, "{share}: {duration:?}");
        }
        assert!(curve.iter().filter(|(share, _)| *share > 0.99).count() >= 10);
    }

    #[test]
    fn what_is_taken_is_what_came_since_and_the_rest_begins_anew() {
        let mut latency = recorded([Duration::from_secs(4000), Duration::from_secs(1)]);
        assert_eq!(latency.take().map(|taken| taken.len()), Some(2));
        assert_eq!((latency.count(), latency.max(), latency.beyond()), (0, Duration::ZERO, 0));
        assert!(latency.take().is_none());
        latency.record(Duration::from_secs(2));
        assert_eq!(latency.take().map(|taken| taken.len()), Some(1));
    }

    #[test]
    fn a_histogram_takes_the_memory_that_its_documentation_states() {
        assert!(Latency::new().histogram.is_none(), "what counts nothing takes nothing");
        let mut latency = recorded([Duration::ZERO]);
        assert_eq!(latency.histogram().distinct_values() * size_of::<u64>(), 264 << 10);
    }
}
