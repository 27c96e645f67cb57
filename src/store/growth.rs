//! How fast an archive grows, and so when its disk is full. Steps of a monotonic clock: the wall clock may jump.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What does not grow, or has not been watched for long, lasts this many days: a hundred years.
pub const DAYS_MAX: i64 = 36_500;
/// A sample so often, and as many: a day's, so that a night or a busy hour does not decide.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(60);
const SAMPLES_MAX: usize = 24 * 60;
/// Before, a single checkpoint would look like a rate.
const WATCHED_MIN: Duration = Duration::from_secs(600);
/// Days at which it is told that there are fewer left.
const THRESHOLDS: [i64; 3] = [30, 7, 1];

/// Sizes of the last day.
#[derive(Debug, Default)]
pub struct Growth {
    samples: VecDeque<(Instant, u64)>,
    /// The lowest threshold that was told.
    told: Option<i64>,
}

impl Growth {
    /// Takes a size in. Too early for another sample it is the newest one's.
    pub fn note(&mut self, now: Instant, bytes: u64) {
        let is_due =
            self.samples.back().is_none_or(|(last, _)| now.saturating_duration_since(*last) >= SAMPLE_INTERVAL);
        if !is_due {
            return;
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, bytes));
    }

    /// Days until `free_bytes` are used up at the rate of the last day, or of as long as it was watched.
    pub fn days_left(&self, free_bytes: u64) -> i64 {
        let (Some((since, first)), Some((until, last))) = (self.samples.front(), self.samples.back()) else {
            return DAYS_MAX;
        };
        let watched = until.saturating_duration_since(*since);
        let grown = last.saturating_sub(*first);
        if watched < WATCHED_MIN || grown == 0 {
            return DAYS_MAX;
        }
        let days = free_bytes as f64 / grown as f64 * watched.as_secs_f64() / 86_400.0;
        (days as i64).min(DAYS_MAX)
    }

    /// The threshold that so many days have come below and that was not told yet. It may be told again once there are more.
    pub fn news(&mut self, days_left: i64) -> Option<i64> {
        let below = THRESHOLDS.into_iter().filter(|threshold| days_left < *threshold).min();
        let is_news = below.is_some_and(|below| self.told.is_none_or(|told| below < told));
        self.told = below;
        below.filter(|_| is_news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A size for each so many seconds, to days left with so much free.
    fn check(rows: &[(u64, u64)], free_bytes: u64, wanted: i64) {
        let (start, mut growth) = (Instant::now(), Growth::default());
        for (seconds, bytes) in rows {
            growth.note(start + Duration::from_secs(*seconds), *bytes);
        }
        assert_eq!(growth.days_left(free_bytes), wanted, "{rows:?}");
    }

    #[test]
    fn days_left_follow_from_the_rate() {
        check(&[], 1_000, DAYS_MAX);
        check(&[(0, 0), (599, 1_000_000)], 1_000, DAYS_MAX); // not long enough
        check(&[(0, 0), (600, 1_000)], 0, 0);
        check(&[(0, 500), (3_600, 1_500)], 24_000 * 3, 3);
        check(&[(0, 500), (3_600, 500)], 1_000, DAYS_MAX);
        check(&[(0, 5_000), (3_600, 500)], 1_000, DAYS_MAX); // a purge
        check(&[(0, 0), (30, 7_000), (3_600, 1_000)], 24_000, 1); // no sample between
        check(&[(0, 0), (3_600, 1)], u64::MAX, DAYS_MAX);
    }

    #[test]
    fn a_day_is_looked_back_on() {
        let (start, mut growth) = (Instant::now(), Growth::default());
        for minute in 0..3 * SAMPLES_MAX as u64 {
            // A restored backup at the start, then 1,000 bytes a minute.
            let bytes = if minute == 0 { 0 } else { 1 << 40 } + 1_000 * minute;
            growth.note(start + Duration::from_secs(60 * minute), bytes);
        }
        assert_eq!(growth.samples.len(), SAMPLES_MAX);
        assert_eq!(growth.days_left(1_440_000 * 5 + 1), 5);
    }

    #[test]
    fn each_threshold_is_told_once_until_there_is_more() {
        let mut growth = Growth::default();
        let rows = [
            (100, None),
            (29, Some(30)),
            (28, None),
            (6, Some(7)),
            (29, None),
            (6, Some(7)),
            (0, Some(1)),
            (0, None),
            (DAYS_MAX, None),
            (0, Some(1)),
        ];
        for (days, wanted) in rows {
            assert_eq!(growth.news(days), wanted, "{days}");
        }
    }
}
