//! Times as people type them (`2h`, `14:02`, `2026-11-23 14:02`) and as they read them. The clock is read once, in
//! [`Clock::now`]; everything else is given it as a value. Knows nothing of archives.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

use super::output::Usage;
use crate::units;

pub use crate::units::iso;

/// What time it is, and where the reader's watch is set.
#[derive(Debug, Clone)]
pub struct Clock {
    /// The instant the command started.
    pub now: Timestamp,
    /// The zone that times are typed and shown in.
    pub zone: TimeZone,
}

impl Clock {
    /// The system's clock, in its own zone or in UTC.
    pub fn now(utc: bool) -> Self {
        let zone = if utc { TimeZone::UTC } else { zone_of_system() };
        Self { now: Timestamp::now(), zone }
    }

    /// 2026-11-23 14:30 in Berlin, UTC+1.
    #[cfg(test)]
    pub(crate) fn berlin() -> Self {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a POSIX zone");
        Self { now: "2026-11-23T13:30:00Z".parse().expect("a time"), zone }
    }

    fn zoned(&self) -> Zoned {
        self.now.to_zoned(self.zone.clone())
    }

    /// An instant of the archive, on the reader's watch. `None` for a number no calendar holds.
    pub fn zone_time(&self, ms: i64) -> Option<Zoned> {
        Timestamp::from_millisecond(ms).ok().map(|at| at.to_zoned(self.zone.clone()))
    }

    /// `2026-11-23 14:02:05 +01:00`; the bare number where no calendar holds it.
    pub fn date_time(&self, ms: i64) -> String {
        match self.zone_time(ms) {
            Some(at) => at.strftime("%Y-%m-%d %H:%M:%S %:z").to_string(),
            None => ms.to_string(),
        }
    }

    /// `14:02:05`; the bare number where no calendar holds it.
    pub fn time(&self, ms: i64) -> String {
        match self.zone_time(ms) {
            Some(at) => at.strftime("%H:%M:%S").to_string(),
            None => ms.to_string(),
        }
    }

    /// The offset from UTC that holds now: `UTC+01:00`.
    pub fn offset(&self) -> String {
        self.zoned().strftime("UTC%:z").to_string()
    }

    /// `2026-11-23 14:02`, for lists whose header says [`Clock::offset`]; with its own offset where that is another.
    pub fn minute(&self, ms: i64) -> String {
        let Some(at) = self.zone_time(ms) else { return ms.to_string() };
        let format = if at.offset() == self.zoned().offset() { "%Y-%m-%d %H:%M" } else { "%Y-%m-%d %H:%M %:z" };
        at.strftime(format).to_string()
    }

    /// The time of day where it is of the same day as `first`, else as [`Clock::minute`].
    pub fn minute_after(&self, first: i64, ms: i64) -> String {
        match (self.zone_time(first), self.zone_time(ms)) {
            (Some(first), Some(at)) if first.date() == at.date() && first.offset() == at.offset() => {
                at.strftime("%H:%M").to_string()
            }
            _ => self.minute(ms),
        }
    }

    /// From one instant to another, the date once where both are of one day.
    pub fn stretch(&self, from: i64, to: i64) -> String {
        let (from_text, to_text) = (self.date_time(from), self.date_time(to));
        match from_text.split_once(' ') {
            Some((day, _)) if to_text.starts_with(day) => format!("{from_text} to {}", self.time(to)),
            _ => format!("{from_text} to {to_text}"),
        }
    }
}

/// The zone of the system, by the link that names it. To look its name up in the zones' database all files of that would be
/// listed, which takes longer than to read a chat.
fn zone_of_system() -> TimeZone {
    const LINK: &str = "/etc/localtime";
    let linked = || {
        let target = std::fs::read_link(LINK).ok()?;
        let (_, name) = target.to_str()?.split_once("/zoneinfo/")?;
        TimeZone::tzif(name, &std::fs::read(LINK).ok()?).ok()
    };
    let is_told = std::env::var_os("TZ").is_some();
    (!is_told).then(linked).flatten().unwrap_or_else(TimeZone::system)
}

/// A length of time for people: `9 min 28 s`, the two largest units.
pub fn span(ms: i64) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)];
    let Some(largest) = units.iter().position(|(_, length)| ms >= *length) else { return format!("{ms} ms") };
    let (name, length) = units[largest];
    let whole = format!("{} {name}", ms / length);
    match units.get(largest + 1) {
        Some((next, shorter)) if ms % length >= *shorter => format!("{whole} {} {next}", ms % length / shorter),
        _ => whole,
    }
}

/// `--since`: a moment, or how long ago.
///
/// # Errors
/// A sentence that says what would be right.
pub fn since(text: &str, clock: &Clock) -> Result<i64, Usage> {
    if let Ok(ago) = units::parse_duration(text) {
        return before(clock.now, ago).ok_or_else(|| Usage(format!("--since {text}: that is before all calendars")));
    }
    moment(text, clock).ok_or_else(|| {
        Usage(format!(
            "--since \"{text}\" is no time: write 2h or 7d (ago), 2026-11-01, \"2026-11-01 14:00\", or RFC 3339"
        ))
    })
}

/// `--until`: as [`since`].
///
/// # Errors
/// A sentence that says what would be right.
pub fn until(text: &str, clock: &Clock) -> Result<i64, Usage> {
    since(text, clock).map_err(|Usage(why)| Usage(why.replace("--since", "--until")))
}

/// What `--since` and `--until` are to each other.
///
/// # Errors
/// A sentence that says what would be right.
pub fn in_order(since: i64, until: i64) -> Result<(), Usage> {
    if since < until { Ok(()) } else { Err(Usage("--until is not after --since".into())) }
}

/// `--at`: a moment, or a time of day: today's, or the most recent where today's is still to come. Today's may lie up to
/// `window` ahead, so that clocks that differ a little do not turn "just now" into yesterday.
///
/// # Errors
/// A sentence that says what would be right.
pub fn at(text: &str, window: Duration, clock: &Clock) -> Result<i64, Usage> {
    let found = match text.trim().parse::<Time>() {
        Ok(time) if is_time_of_day(text) => most_recent(time, window, clock),
        _ => moment(text, clock),
    };
    found.ok_or_else(|| Usage(format!("--at \"{text}\" is no time: write 14:02, 2026-11-23T14:02, or RFC 3339")))
}

/// What `--at` and `--window` name: `[from, until]` in milliseconds.
///
/// # Errors
/// As [`at`].
pub fn around(text: &str, window: Duration, clock: &Clock) -> Result<(i64, i64), Usage> {
    let middle = at(text, window, clock)?;
    let reach = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
    // A time such as 14:02 stands for that whole minute.
    let width = if text.matches(':').count() == 1 { 59_999 } else { 0 };
    Ok((middle.saturating_sub(reach), middle.saturating_add(width).saturating_add(reach)))
}

fn before(now: Timestamp, ago: Duration) -> Option<i64> {
    let ago = SignedDuration::try_from(ago).ok()?;
    now.checked_sub(ago).ok().map(Timestamp::as_millisecond)
}

fn is_time_of_day(text: &str) -> bool {
    !text.contains(['-', 'T', 't']) && text.contains(':')
}

fn most_recent(time: Time, window: Duration, clock: &Clock) -> Option<i64> {
    let today = clock.zoned().date();
    let ahead = i64::try_from(window.as_millis()).ok()?;
    let latest = clock.now.as_millisecond().saturating_add(ahead);
    let candidates = [Some(today), today.checked_sub(1.day()).ok()];
    candidates.into_iter().flatten().filter_map(|day| local(day.to_datetime(time), clock)).find(|ms| *ms <= latest)
}

/// An instant with its offset, or a date or date and time on the reader's watch. A time that a change of the clocks
/// made ambiguous is the earlier one; with an offset (RFC 3339) it is not ambiguous.
pub fn moment(text: &str, clock: &Clock) -> Option<i64> {
    let text = text.trim();
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant.as_millisecond());
    }
    match text.parse::<DateTime>() {
        Ok(civil) => local(civil, clock),
        Err(_) => local(text.parse::<Date>().ok()?.to_datetime(Time::midnight()), clock),
    }
}

/// `26.11.2026 16:43`, with seconds or without, or the day alone, on the reader's watch; since 1970.
pub fn dotted(text: &str, clock: &Clock) -> Option<i64> {
    let formats = ["%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y"];
    let civil = formats.iter().find_map(|format| DateTime::strptime(format, text.trim()).ok())?;
    local(civil, clock).filter(|at| *at >= 0)
}

fn local(civil: DateTime, clock: &Clock) -> Option<i64> {
    civil.to_zoned(clock.zone.clone()).ok().map(|at| at.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(found: Result<i64, Usage>) -> String {
        match found {
            Ok(ms) => iso(ms).expect("a time"),
            Err(Usage(why)) => why,
        }
    }

    #[test]
    fn since_reads_moments_and_ages() {
        let rows = [
            ("2h", "2026-11-23T11:30:00.000Z"),
            ("7d", "2026-11-16T13:30:00.000Z"),
            ("90s", "2026-11-23T13:28:30.000Z"),
            ("2026-11-01", "2026-10-31T23:00:00.000Z"),
            ("2026-11-01 14:00", "2026-11-01T13:00:00.000Z"),
            ("2026-11-01T14:00:05", "2026-11-01T13:00:05.000Z"),
            ("2026-11-01T14:00:00Z", "2026-11-01T14:00:00.000Z"),
            ("2026-11-01T14:00:00+05:30", "2026-11-01T08:30:00.000Z"),
            ("2026-07-01 14:00", "2026-07-01T12:00:00.000Z"), // summer time
        ];
        for (text, wanted) in rows {
            assert_eq!(shown(since(text, &Clock::berlin())), wanted, "{text}");
        }
    }

    #[test]
    fn at_means_today_else_the_most_recent() {
        let rows = [
            ("14:02", "2026-11-23T13:02:00.000Z"),
            ("14:33", "2026-11-23T13:33:00.000Z"), // within the window ahead: the customer's clock is fast
            ("14:40", "2026-11-22T13:40:00.000Z"),
            ("23:59:30", "2026-11-22T22:59:30.000Z"),
            ("00:00", "2026-11-22T23:00:00.000Z"),
            ("2026-11-20T14:02", "2026-11-20T13:02:00.000Z"),
            ("2026-11-20 14:02", "2026-11-20T13:02:00.000Z"),
            ("2026-11-20T14:02:00Z", "2026-11-20T14:02:00.000Z"),
        ];
        for (text, wanted) in rows {
            assert_eq!(shown(at(text, Duration::from_secs(300), &Clock::berlin())), wanted, "{text}");
        }
    }

    #[test]
    fn dates_with_dots_begin_with_the_day() {
        let rows = [
            ("26.11.2026 16:43", Some("2026-11-26T15:43:00.000Z")),
            (" 01.07.2026 16:43:07 ", Some("2026-07-01T14:43:07.000Z")),
            ("26.11.2026", Some("2026-11-25T23:00:00.000Z")),
            ("26.11.26 16:43", None),
            ("11.26.2026 16:43", None),
            ("26.11.2026 16:43 PM", None),
        ];
        for (text, wanted) in rows {
            assert_eq!(dotted(text, &Clock::berlin()).and_then(iso).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_said() {
        for text in ["", "yesterday", "14", "25:00", "2026-13-01", "2026-02-30", "-2h", "99999999999999999d"] {
            assert!(shown(since(text, &Clock::berlin())).contains("--since"), "{text}");
            assert!(shown(at(text, Duration::ZERO, &Clock::berlin())).contains("--at"), "{text}");
        }
    }

    #[test]
    fn a_minute_is_meant_whole() {
        let five = Duration::from_secs(300);
        let (from, until) = around("14:02", five, &Clock::berlin()).expect("a time");
        assert_eq!((iso(from), iso(until)), (iso(1_795_438_620_000), iso(1_795_439_279_999)));
        let (from, until) = around("14:02:10", five, &Clock::berlin()).expect("a time");
        assert_eq!(until - from, 600_000);
    }

    #[test]
    fn times_are_shown_on_the_readers_watch() {
        let clock = Clock::berlin();
        assert_eq!(clock.date_time(1_795_438_920_000), "2026-11-23 14:02:00 +01:00");
        assert_eq!(clock.stretch(1_795_438_920_000, 1_795_438_980_000), "2026-11-23 14:02:00 +01:00 to 14:03:00");
        assert_eq!((clock.minute(1_795_438_920_000), clock.offset()), ("2026-11-23 14:02".into(), "UTC+01:00".into()));
        assert_eq!(clock.minute(1_782_900_000_000), "2026-07-01 12:00 +02:00");
        assert_eq!(clock.date_time(i64::MAX), i64::MAX.to_string());
        assert_eq!(iso(i64::MIN), None);
        for (ms, wanted) in [(0, "0 ms"), (999, "999 ms"), (1_000, "1 s"), (568_000, "9 min 28 s"), (3_600_000, "1 h")]
        {
            assert_eq!(span(ms), wanted);
        }
    }
}
