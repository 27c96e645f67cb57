//! Was it recording throughout? Runs of one recorder or of several, and the times that none of them has.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::store::read::period::{Run, Span};
use crate::store::read::{Archive, Error};
use crate::units;

/// How a run came to its end, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// In order.
    Stopped,
    /// It was killed, or the power failed: another run of the recorder follows, and it never said that it stops.
    Died,
    /// The file that it wrote to was put back from a backup.
    PutBack,
    /// It goes on.
    GoesOn,
    /// No other run follows, and nobody serves the file now: it died, or this is a copy.
    LastHeard,
}

/// A run, from its start to its last sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the columns of `runs`")]
pub struct Lifetime {
    pub run_id: i64,
    pub recorder: String,
    pub instance: String,
    pub version: String,
    pub when_unavailable: String,
    pub sealing: String,
    #[serde(flatten)]
    pub span: Span,
    pub ending: Ending,
}

/// A time in which no recorder ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// When.
    #[serde(flatten)]
    pub span: Span,
    /// Why.
    pub why: Why,
}

/// Why no recorder ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The archive has nothing of before.
    NotBegun,
    /// The last one that ran was stopped.
    Stopped,
    /// The last one that ran died.
    Died,
    /// The archive was put back from a backup, and goes on from there.
    PutBack,
    /// Nobody serves this file, and what became of the last run is not in it.
    LastHeard,
}

/// When it was recorded, within a span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recording {
    /// What is asked about: the part of the span that was over when it was asked, or when the copy was made.
    #[serde(flatten)]
    pub span: Span,
    /// Milliseconds of it in which a recorder ran.
    pub on_ms: i64,
    /// When none ran.
    pub gaps: Vec<Gap>,
    /// Runs that touch it.
    pub runs: Vec<Lifetime>,
    /// How many recorders they are of.
    pub recorders: usize,
    /// Of a copy: the last moment that it knows of. What is asked about ends there.
    #[serde(serialize_with = "units::as_iso_or_none")]
    pub copied_at: Option<i64>,
}

/// Asks an archive for it. `as_of`: when that is; `served`: archives that are served then, by their ids.
///
/// # Errors
/// As SQLite.
pub async fn of_archive(
    archive: &mut Archive,
    span: Span,
    as_of: i64,
    served: &BTreeSet<String>,
) -> Result<Recording, Error> {
    Ok(Recording::of(lifetimes(archive, as_of, served).await?, span, as_of))
}

/// The same; of a copy only until the last moment that it knows of.
///
/// # Errors
/// As SQLite.
pub async fn as_known(
    archive: &mut Archive,
    span: Span,
    as_of: i64,
    served: &BTreeSet<String>,
) -> Result<Recording, Error> {
    let lifetimes = lifetimes(archive, as_of, served).await?;
    let copied_at = match archive.is_copy().await? {
        true => Some(copied_at(&lifetimes, &archive.restored_at().await?, as_of)),
        false => None,
    };
    Ok(Recording { copied_at, ..Recording::of(lifetimes, span, copied_at.unwrap_or(as_of)) })
}

async fn lifetimes(archive: &mut Archive, as_of: i64, served: &BTreeSet<String>) -> Result<Vec<Lifetime>, Error> {
    let (archive_id, _) = archive.identity().await?;
    let (runs, restored_at) = (archive.runs().await?, archive.restored_at().await?);
    let mut lifetimes = Vec::with_capacity(runs.len());
    for run in &runs {
        let next = next_of(&runs, run);
        let is_own = run.recorder.is_empty() || run.recorder == archive_id;
        let is_served = served.contains(if is_own { &archive_id } else { &run.recorder });
        let is_over = run.stopped_at.is_some() || next.is_none() && is_served;
        let signs = if is_over || !is_own { Vec::new() } else { signs_before(archive, run, next).await? };
        let restored_at = if is_own { &restored_at[..] } else { &[] };
        lifetimes.push(lifetime(run, next, is_served, as_of, &signs, restored_at));
    }
    Ok(lifetimes)
}

/// The last moment that a copy knows of.
fn copied_at(lifetimes: &[Lifetime], restored_at: &[i64], as_of: i64) -> i64 {
    let ends = lifetimes.iter().map(|life| life.span.until);
    ends.chain(restored_at.iter().copied()).max().map_or(as_of, |last| last.min(as_of))
}

/// What tells that a run was there still: the last checkpoint that it signed; where it has no account, chats too.
async fn signs_before(archive: &mut Archive, run: &Run, next: Option<&Run>) -> Result<Vec<Option<i64>>, Error> {
    let before = next.map_or(i64::MAX, |next| next.started_at);
    let signed_at = archive.signed_by_serve_before(before).await?;
    let seen_at = if run.heard_at.is_some() { None } else { archive.last_seen_before(before).await? };
    Ok(vec![signed_at, seen_at])
}

/// The run of the same recorder that began next.
fn next_of<'r>(runs: &'r [Run], run: &Run) -> Option<&'r Run> {
    runs.iter().filter(|other| other.recorder == run.recorder && other.run_id > run.run_id).min_by_key(|run| run.run_id)
}

impl Recording {
    /// Of all runs of an archive; `as_of`: when it was asked.
    pub fn of(lifetimes: Vec<Lifetime>, span: Span, as_of: i64) -> Self {
        let span = Span { until: span.until.min(as_of).max(span.from), ..span };
        let mut sorted: Vec<&Lifetime> = lifetimes.iter().collect();
        sorted.sort_by_key(|life| (life.span.from, life.run_id));
        let (mut gaps, mut reached, mut why) = (Vec::new(), i64::MIN, Why::NotBegun);
        for life in sorted {
            gap(&mut gaps, reached, life.span.from, span, why);
            if life.span.until >= reached {
                (reached, why) = (life.span.until, why_after(life.ending));
            }
        }
        gap(&mut gaps, reached, i64::MAX, span, why);
        let off_ms: i64 = gaps.iter().map(|gap| gap.span.until - gap.span.from).sum();
        let runs: Vec<Lifetime> =
            lifetimes.into_iter().filter(|life| life.span.from < span.until && life.span.until >= span.from).collect();
        let mut recorders: Vec<&str> = runs.iter().map(|life| life.recorder.as_str()).collect();
        recorders.sort_unstable();
        recorders.dedup();
        let recorders = recorders.len();
        Self { span, on_ms: span.until - span.from - off_ms, gaps, runs, recorders, copied_at: None }
    }

    /// When the first run began, where that is within the span.
    pub fn began_at(&self) -> Option<i64> {
        self.gaps.iter().find(|gap| gap.why == Why::NotBegun).map(|gap| gap.span.until)
    }

    /// Whether it was recorded at a moment.
    pub fn is_on(&self, at: i64) -> bool {
        self.gaps.iter().all(|gap| !(gap.span.from..gap.span.until).contains(&at))
    }

    /// Milliseconds of a part of the span in which a recorder ran.
    pub fn on_ms_in(&self, part: Span) -> i64 {
        let within = |span: Span| (span.until.min(part.until) - span.from.max(part.from)).max(0);
        within(self.span) - self.gaps.iter().map(|gap| within(gap.span)).sum::<i64>()
    }
}

fn why_after(ending: Ending) -> Why {
    match ending {
        Ending::Stopped => Why::Stopped,
        Ending::Died => Why::Died,
        Ending::PutBack => Why::PutBack,
        Ending::GoesOn | Ending::LastHeard => Why::LastHeard,
    }
}

/// What of a time without a run lies in the span.
fn gap(gaps: &mut Vec<Gap>, from: i64, until: i64, within: Span, why: Why) {
    let span = Span { from: from.max(within.from), until: until.min(within.until) };
    if span.from < span.until {
        gaps.push(Gap { span, why });
    }
}

/// When a run was last known to be there. `signs` are moments before the next run of its recorder; `restored_at`: when the
/// archive was put back from a backup.
fn lifetime(
    run: &Run,
    next: Option<&Run>,
    is_served: bool,
    as_of: i64,
    signs: &[Option<i64>],
    restored_at: &[i64],
) -> Lifetime {
    let last = signs.iter().chain([&run.heard_at]).flatten().copied().max().unwrap_or(run.started_at);
    let last = last.max(run.started_at).min(next.map_or(i64::MAX, |next| next.started_at.max(run.started_at)));
    let before_next = last..=next.map_or(i64::MAX, |next| next.started_at);
    let is_put_back = restored_at.iter().any(|at| before_next.contains(at));
    let (until, ending) = match (run.stopped_at, next) {
        (Some(stopped_at), _) => (stopped_at, Ending::Stopped),
        (None, None) if is_served => (as_of.max(run.started_at), Ending::GoesOn),
        (None, _) if is_put_back => (last, Ending::PutBack),
        (None, Some(_)) => (last, Ending::Died),
        (None, None) => (last, Ending::LastHeard),
    };
    let Run { run_id, recorder, instance, version, when_unavailable, sealing, .. } = run.clone();
    let span = Span { from: run.started_at, until };
    Lifetime { run_id, recorder, instance, version, when_unavailable, sealing, span, ending }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(run_id: i64, recorder: &str, started_at: i64, stopped_at: Option<i64>) -> Run {
        let text = String::new;
        let (instance, version, when_unavailable, sealing) = (text(), text(), text(), text());
        let recorder = recorder.into();
        let (ledger, heard_at) = (None, None);
        Run { run_id, recorder, instance, version, started_at, stopped_at, when_unavailable, sealing, ledger, heard_at }
    }

    #[test]
    fn an_archive_that_was_put_back_did_not_die() {
        let all = [run(1, "", 0, None), run(2, "", 50, None)];
        for (restored_at, next, wanted) in [
            (&[45][..], Some(&all[1]), Ending::PutBack),
            (&[45], None, Ending::PutBack),
            (&[10, 60], Some(&all[1]), Ending::Died),
            (&[10], None, Ending::LastHeard),
            (&[], Some(&all[1]), Ending::Died),
        ] {
            let life = lifetime(&all[0], next, false, 90, &[Some(30)], restored_at);
            assert_eq!((life.span.until, life.ending), (30, wanted), "{restored_at:?}");
        }
    }

    /// (run_id, recorder, start, stop, last sign of one that did not stop), what is asked, whether it is served, gaps.
    #[test]
    fn what_no_run_has_is_a_gap_and_says_why() {
        type Runs = &'static [(i64, &'static str, i64, Option<i64>, Option<i64>)];
        type Gaps = &'static [(i64, i64, Why)];
        type Row = (&'static str, Runs, (i64, i64), bool, Gaps);
        let rows: [Row; 9] = [
            ("throughout", &[(1, "", 0, None, None)], (10, 90), true, &[]),
            ("it begins", &[(1, "", 20, None, None)], (10, 90), true, &[(10, 20, Why::NotBegun)]),
            ("nothing at all", &[], (10, 90), false, &[(10, 90, Why::NotBegun)]),
            (
                "stopped, then died, then on",
                &[(1, "", 0, Some(20), None), (2, "", 30, None, Some(40)), (3, "", 50, None, None)],
                (10, 90),
                true,
                &[(20, 30, Why::Stopped), (40, 50, Why::Died)],
            ),
            ("a handover overlaps", &[(1, "", 0, Some(50), None), (2, "", 40, None, None)], (10, 90), true, &[]),
            (
                "another recorder was there",
                &[(1, "", 0, Some(30), None), (3, "", 60, None, None), (2, "b", 5, Some(70), None)],
                (10, 90),
                true,
                &[],
            ),
            (
                "both were down",
                &[(1, "", 0, Some(30), None), (3, "", 60, None, None), (2, "b", 5, Some(50), None)],
                (10, 90),
                true,
                &[(50, 60, Why::Stopped)],
            ),
            ("a copy", &[(1, "", 0, None, Some(70))], (10, 90), false, &[(70, 90, Why::LastHeard)]),
            ("the future is not asked about", &[(1, "", 0, None, None)], (10, 1_000), true, &[]),
        ];
        for (what, runs, (from, until), is_served, wanted) in rows {
            let all: Vec<Run> = runs.iter().map(|(id, of, start, stop, _)| run(*id, of, *start, *stop)).collect();
            let as_of = 90;
            let lives = all
                .iter()
                .zip(runs)
                .map(|(run, (.., sign))| lifetime(run, next_of(&all, run), is_served, as_of, &[*sign], &[]));
            let recording = Recording::of(lives.collect(), Span { from, until }, as_of);
            let found: Vec<_> = recording.gaps.iter().map(|gap| (gap.span.from, gap.span.until, gap.why)).collect();
            assert_eq!(found, wanted, "{what}");
            let off: i64 = wanted.iter().map(|(from, until, _)| until - from).sum();
            assert_eq!(recording.on_ms, 80 - off, "{what}");
            let halves = [Span { from, until: 47 }, Span { from: 47, until }].map(|half| recording.on_ms_in(half));
            assert_eq!(halves.iter().sum::<i64>(), recording.on_ms, "{what}");
        }
    }
}
