//! Which time a report is of, as people name it, and the pieces that its charts show it in.

use jiff::civil::{Date, ISOWeekDate, Weekday};
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};

use super::super::output::Usage;
use super::super::when::{self, Clock};
use crate::store::read::period::{QUARTER_MS, Span};

const DAY_MS: i64 = 86_400_000;
/// Up to here pieces are hours, and up to there days; else months.
const HOURS_MAX_MS: i64 = 2 * DAY_MS;
const DAYS_MAX_MS: i64 = 93 * DAY_MS;
/// 1,200 months; nobody keeps chats longer.
const SPAN_MAX_MS: i64 = 36_600 * DAY_MS;

/// `--day`, `--week`, `--month`, `--since`, `--until`, `--zone`.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Period {
    /// A day: 2026-03-01.
    #[arg(long, value_name = "DATE", conflicts_with_all = ["week", "month", "since", "until"])]
    day: Option<String>,
    /// A week as ISO 8601 counts them, from Monday to Sunday: 2026-W10.
    #[arg(long, value_name = "WEEK", conflicts_with_all = ["month", "since", "until"])]
    week: Option<String>,
    /// A month: 2026-03. Without any of these: the present one.
    #[arg(long, value_name = "MONTH", conflicts_with_all = ["since", "until"])]
    month: Option<String>,
    /// From this time on: 2h or 7d (ago), 2026-11-01, "2026-11-01 14:00", or RFC 3339.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time, as --since; else now.
    #[arg(long, value_name = "TIME", requires = "since")]
    until: Option<String>,
    /// The zone that days begin in and times are shown in, such as Europe/Berlin; else the local one.
    #[arg(long, value_name = "ZONE", conflicts_with = "utc")]
    zone: Option<String>,
    /// Days and times in UTC. (Times in JSON always are.)
    #[arg(long)]
    pub utc: bool,
}

/// A time with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// `March 2026`
    pub name: String,
    /// What it spans.
    pub span: Span,
}

impl Period {
    /// The system's clock, in the zone that is wanted.
    ///
    /// # Errors
    /// A zone that is none.
    pub fn clock(&self) -> Result<Clock, Usage> {
        let clock = Clock::now(self.utc);
        let Some(name) = &self.zone else { return Ok(clock) };
        let zone = TimeZone::get(name).map_err(|_| {
            Usage(format!("--zone \"{name}\" is no zone of the system's: write Europe/Berlin, America/New_York, …"))
        })?;
        Ok(Clock { zone, ..clock })
    }

    /// Which time is meant.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn named(&self, clock: &Clock) -> Result<Named, Usage> {
        let named = match (&self.day, &self.week, &self.month, &self.since) {
            (Some(day), ..) => of_day(day, clock),
            (_, Some(week), ..) => of_week(week, clock),
            (_, _, Some(month), _) => of_month(month, clock),
            (.., Some(since)) => self.of_times(since, clock),
            _ => of_month(&clock.now.to_zoned(clock.zone.clone()).strftime("%Y-%m").to_string(), clock),
        }?;
        let Span { from, until } = named.span;
        when::in_order(from, until)?;
        if until - from >= SPAN_MAX_MS {
            return Err(Usage("that is more than a hundred years: name a shorter time".into()));
        }
        Ok(named)
    }

    fn of_times(&self, since: &str, clock: &Clock) -> Result<Named, Usage> {
        let from = when::since(since, clock)?;
        let now = clock.now.as_millisecond();
        let until = self.until.as_deref().map_or(Ok(now), |until| when::until(until, clock))?;
        let until = until.max(from); // `--since` in the future
        let name = whole_days(from, until, clock).unwrap_or_else(|| clock.stretch(from, until));
        Ok(Named { name, span: Span { from, until } })
    }
}

fn of_day(text: &str, clock: &Clock) -> Result<Named, Usage> {
    let wrong = || Usage(format!("--day \"{text}\" is no day: write 2026-03-01"));
    let day: Date = text.trim().parse().map_err(|_| wrong())?;
    let name = day.strftime("%A, %-d %B %Y").to_string();
    Ok(Named { name, span: days(day, 1.day(), clock).ok_or_else(wrong)? })
}

fn of_week(text: &str, clock: &Clock) -> Result<Named, Usage> {
    let wrong = || Usage(format!("--week \"{text}\" is no week of ISO 8601: write 2026-W10"));
    let (year, week) = text.trim().split_once("-W").ok_or_else(wrong)?;
    let (year, week) = (year.parse().map_err(|_| wrong())?, week.parse().map_err(|_| wrong())?);
    let monday = ISOWeekDate::new(year, week, Weekday::Monday).map_err(|_| wrong())?.date();
    let name = format!("Week {week} of {year}, from {}", monday.strftime("%A, %-d %B %Y"));
    Ok(Named { name, span: days(monday, 7.days(), clock).ok_or_else(wrong)? })
}

fn of_month(text: &str, clock: &Clock) -> Result<Named, Usage> {
    let wrong = || Usage(format!("--month \"{text}\" is no month: write 2026-03"));
    let first: Date = format!("{}-01", text.trim()).parse().map_err(|_| wrong())?;
    let name = first.strftime("%B %Y").to_string();
    Ok(Named { name, span: days(first, 1.month(), clock).ok_or_else(wrong)? })
}

/// `2026-01-01 to 2026-03-31`, the last day included. None where it is not of whole days.
fn whole_days(from: i64, until: i64, clock: &Clock) -> Option<String> {
    let (first, after) = (clock.zone_time(from)?, clock.zone_time(until)?);
    let begins = |at: &Zoned| at.start_of_day().is_ok_and(|start| start == *at);
    let last = after.date().yesterday().ok().filter(|last| begins(&first) && begins(&after) && *last > first.date())?;
    Some(format!("{} to {last}", first.date()))
}

/// From the first moment of a day to the first after some more.
fn days(first: Date, length: jiff::Span, clock: &Clock) -> Option<Span> {
    let begin = |day: Date| Some(day.to_zoned(clock.zone.clone()).ok()?.timestamp().as_millisecond());
    Some(Span { from: begin(first)?, until: begin(first.checked_add(length).ok()?)? })
}

/// The pieces of a time: hours of a day, days of a month, months of years. There is one at least.
pub fn pieces(span: Span, clock: &Clock) -> Vec<(String, Span)> {
    let mut pieces = Vec::new();
    let mut from = span.from;
    while from < span.until {
        let (name, next) = piece(from, span, clock);
        let until =
            next.unwrap_or(span.until).clamp(from + QUARTER_MS, span.until.max(from + QUARTER_MS)).min(span.until);
        pieces.push((name, Span { from, until }));
        from = until;
    }
    pieces
}

/// What it is called, and when the next one begins. None where no calendar goes on.
fn piece(from: i64, span: Span, clock: &Clock) -> (String, Option<i64>) {
    let Some(at) = clock.zone_time(from) else { return (from.to_string(), None) };
    let (name, next) = match span.until - span.from {
        ..=HOURS_MAX_MS => ("%m-%d %H:00", next_hour(&at)),
        length if length <= DAYS_MAX_MS => ("%Y-%m-%d", at.tomorrow().and_then(|next| next.start_of_day()).ok()),
        _ => ("%Y-%m", at.first_of_month().and_then(|first| first.checked_add(1.month())?.start_of_day()).ok()),
    };
    (at.strftime(name).to_string(), next.map(|next| next.timestamp().as_millisecond()))
}

fn next_hour(at: &Zoned) -> Option<Zoned> {
    let hour = at.with().minute(0).second(0).subsec_nanosecond(0).build().ok()?;
    // Of an hour that comes twice the clock alone does not say which.
    let hour = if hour.timestamp() > at.timestamp() { at.clone() } else { hour };
    hour.checked_add(1.hour()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn month(text: &str) -> Period {
        Period { month: Some(text.into()), ..Period::default() }
    }

    fn shown(period: &Period) -> String {
        match period.named(&Clock::berlin()) {
            Ok(Named { name, span }) => {
                let iso = |ms| when::iso(ms).expect("a time");
                format!("{name}: {} {}", iso(span.from), iso(span.until))
            }
            Err(Usage(why)) => why,
        }
    }

    #[test]
    fn periods_begin_and_end_with_their_days() {
        let text = |text: &str| Some(text.to_owned());
        let day = |day: &str| Period { day: text(day), ..Period::default() };
        let week = |week: &str| Period { week: text(week), ..Period::default() };
        let times = |since: &str, until: Option<&str>| Period {
            since: text(since),
            until: until.map(str::to_owned),
            ..Period::default()
        };
        let rows = [
            (month("2026-03"), "March 2026: 2026-02-28T23:00:00.000Z 2026-03-31T22:00:00.000Z"),
            (Period::default(), "November 2026: 2026-10-31T23:00:00.000Z 2026-11-30T23:00:00.000Z"),
            (day("2026-10-25"), "Sunday, 25 October 2026: 2026-10-24T22:00:00.000Z 2026-10-25T23:00:00.000Z"),
            (
                week("2026-W01"),
                "Week 1 of 2026, from Monday, 29 December 2025: 2025-12-28T23:00:00.000Z 2026-01-04T23:00:00.000Z",
            ),
            (
                times("2026-11-01", Some("2026-11-02 06:00")),
                "2026-11-01 00:00:00 +01:00 to 2026-11-02 06:00:00 +01:00: 2026-10-31T23:00:00.000Z 2026-11-02T05:00:00.000Z",
            ),
            (
                times("2026-03-01", Some("2026-04-01")),
                "2026-03-01 to 2026-03-31: 2026-02-28T23:00:00.000Z 2026-03-31T22:00:00.000Z",
            ),
            (times("2026-11-02", Some("2026-11-01")), "--until is not after --since"),
            (times("1900-01-01", None), "that is more than a hundred years"),
            (month("2026-13"), "--month \"2026-13\" is no month: write 2026-03"),
            (month("March"), "--month \"March\" is no month"),
            (week("2026-W54"), "is no week of ISO 8601"),
            (week("2026-10"), "is no week of ISO 8601"),
            (day("2026-02-30"), "is no day: write 2026-03-01"),
        ];
        for (period, wanted) in rows {
            assert!(shown(&period).starts_with(wanted) || shown(&period).contains(wanted), "{}", shown(&period));
        }
        let zone = Period { zone: text("Europe/Nowhere"), ..Period::default() };
        assert!(zone.clock().is_err_and(|Usage(why)| why.contains("is no zone")));
    }

    #[test]
    fn pieces_are_without_gaps_and_as_many_as_there_are() {
        let clock = Clock::berlin();
        let of = |period: Period| period.named(&clock).expect("a period").span;
        let day = |day: &str| Period { day: Some(day.into()), ..Period::default() };
        let rows = [
            (of(day("2026-03-29")), 23, "03-29 00:00", "03-29 23:00"), // clocks go forward
            (of(day("2026-10-25")), 25, "10-25 00:00", "10-25 23:00"), // and back
            (of(month("2026-03")), 31, "2026-03-01", "2026-03-31"),
            (Span { from: of(month("2025-11")).from + 1, until: of(month("2026-03")).until }, 5, "2025-11", "2026-03"),
            (Span { from: 0, until: 1 }, 1, "01-01 01:00", "01-01 01:00"),
        ];
        for (span, count, first, last) in rows {
            let pieces = pieces(span, &clock);
            assert_eq!(pieces.len(), count, "{pieces:?}");
            assert_eq!((pieces[0].0.as_str(), pieces[count - 1].0.as_str()), (first, last));
            assert_eq!((pieces[0].1.from, pieces[count - 1].1.until), (span.from, span.until));
            assert!(pieces.windows(2).all(|pair| pair[0].1.until == pair[1].1.from));
        }
    }
}
