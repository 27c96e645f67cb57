//! `reconcile`: chat ids from UCS or Info Mart held against the archive, in both directions.

mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::output::{Cell, Format, Ink, Look, Output, Table, Usage, counted, labelled, shown};
use super::progress::progress;
use super::reading::{Case, Reading};
use super::report::served;
use super::when::{self, Clock};
use crate::archive::reconcile::{Absence, Surplus};
use crate::archive::report::recording;
use crate::archive::report::recording::{Recording, Why};
use crate::store::read::Archive;
use crate::store::read::listing::{Missing, Overlap, Unlisted};
use crate::store::read::period::{OutageRow, Span};

use list::{Faults, List};

const EXAMPLE: &str = "\
Example:
  gms-recorder reconcile infomart-march.csv --since 2026-03-01 --until 2026-04-01

Exit codes:
  0  both have the same chats of the time compared
  1  they differ: each difference is told with its reason; or the list or the archive cannot be read
  2  wrong usage: no such column, no column that looks like chat ids, a time that is none;
     no time of --time-column that can be read

The list: CSV with commas, semicolons, tabs or bars, in UTF-8, with a line of names or without.
A title may stand above the names, and sep=; in the first line.
Times in it: seconds or milliseconds since 1970, 26.11.2026 16:43, or as --since takes them; they
say whether a recorder ran at that time.

Chats of the archive count that began in the time of the list: --since and --until, else from its
earliest to its latest time; without times in it, from the beginning of the first chat that both
have to that of the last. Those before and after it are counted, and not compared.";

/// Compare a list of chat ids, from UCS or Info Mart, with the archive: what is in one and not in the other, and why.
///
/// Chats of the archive count that began in the time of the list: --since and --until, else from its earliest to its latest time;
/// without times in it, from the beginning of the first chat that both have to that of the last.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// The list; - for stdin.
    ids: PathBuf,
    /// The column with the ids: its name in the first line, or its number. Else it is found by its name, or by looking.
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// The column with the time that a chat began at; else it is found by its name.
    #[arg(long, value_name = "NAME")]
    time_column: Option<String>,
    /// Chats of the archive that began at this time or later: 7d (ago), 2026-03-01, "2026-03-01 14:00", or RFC 3339.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// And before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// In text: at most this many differences of each direction; JSON and CSV have all.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    case: Case,
    #[command(flatten)]
    look: Look,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user; that both differ is one.
pub async fn run(args: Args, reading: &Reading) -> anyhow::Result<()> {
    let clock = Clock::now(args.look.utc);
    let mut differences = (0, Some(0));
    let print = async |output: &mut Output<'_>| {
        differences = print(&args, &reading.databases, &clock, output).await?;
        Ok(())
    };
    reading.to_stdout(&args.case, args.look, print).await?;
    let (missing, unlisted) = differences;
    let unlisted = match unlisted {
        Some(0) if missing == 0 => return Ok(()),
        Some(unlisted) => format!("{} of the archive {} not in the list", counted(unlisted, "chat"), are(unlisted)),
        None => "and of which time the list is, to look for what is not in it, cannot be told".into(),
    };
    anyhow::bail!("they differ: {} of the list {} not in the archive, {unlisted}", counted(missing, "id"), are(missing))
}

fn are(count: i64) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// Lines of the list, or differences, handled at a time.
const PAGE: i64 = 1_000;

const NAMES: [&str; 11] = [
    "difference",
    "chat_id",
    "reason",
    "detail",
    "line",
    "listed_at",
    "service",
    "first_seen_at",
    "last_seen_at",
    "status",
    "messages",
];

/// What was compared with what.
struct Compared {
    lines: i64,
    repeated: i64,
    faults: Faults,
    columns: String,
    overlap: Overlap,
    /// The time of the list.
    span: Option<Span>,
    /// Chats of the archive that began in it, and how many of them are listed.
    begun: (i64, i64),
}

impl Compared {
    /// Chats of the archive that began before or after the time of the list, and are not in it.
    fn beyond(&self) -> i64 {
        let in_it = self.begun.0 - self.begun.1;
        self.span.map_or(0, |_| self.overlap.chats - self.overlap.both - in_it)
    }
}

async fn print(
    args: &Args,
    databases: &[PathBuf],
    clock: &Clock,
    output: &mut Output<'_>,
) -> anyhow::Result<(i64, Option<i64>)> {
    let since = args.since.as_deref().map(|since| when::since(since, clock)).transpose()?;
    let until = args.until.as_deref().map(|until| when::until(until, clock)).transpose()?;
    if let (Some(since), Some(until)) = (since, until) {
        when::in_order(since, until)?;
    }
    let mut archive = Archive::open_all(databases).await?;
    let mut compared = read(args, &mut archive, clock).await?;
    compared.span = span(since, until, compared.overlap.span, clock)?;
    if let Some(span) = compared.span {
        compared.begun = archive.begun_and_listed(span).await?;
    }
    output.header(&NAMES)?;
    if output.format == Format::Text {
        head(&compared, &args.ids, clock, output)?;
    }
    missing(args, databases, &mut archive, &compared, clock, output).await?;
    unlisted(args, &mut archive, &compared, clock, output).await?;
    archive.close().await?;
    let beyond = compared.beyond();
    let Compared { overlap, begun, span, .. } = compared;
    let differences = (overlap.listed - overlap.both, span.map(|_| begun.0 - begun.1));
    let is_open = since.is_none() || until.is_none();
    verdict(differences == (0, Some(0)), begun.0, beyond, is_open, output)?;
    Ok(differences)
}

/// The time named, and of the list where it is open; None where neither says one.
fn span(since: Option<i64>, until: Option<i64>, of_list: Option<Span>, clock: &Clock) -> Result<Option<Span>, Usage> {
    let begin = since.or(of_list.map(|span| span.from));
    let end = until.or(of_list.map(|span| span.until)).or(since.map(|_| clock.now.as_millisecond()));
    let Some((from, until)) = begin.zip(end) else { return Ok(None) };
    match since {
        _ if from < until => Ok(Some(Span { from, until })),
        Some(_) => Err(Usage(format!(
            "--since is not before {}, where the time compared ends: name --until too",
            clock.date_time(until)
        ))),
        None => Err(Usage(format!(
            "--until is not after {}, where the time compared begins: name --since too",
            clock.date_time(from)
        ))),
    }
}

/// That both are the same is said of no more than was compared.
fn verdict(is_same: bool, begun: i64, beyond: i64, is_open: bool, output: &mut Output<'_>) -> std::io::Result<()> {
    const SAME: &str = "the list and the archive have the same chats";
    const NONE: &str =
        "what the list has is in the archive; of the archive nothing was compared: no chat began in that time";
    let options = if is_open { " (--since, --until)" } else { "" };
    let not_compared =
        format!("{} of the archive began before or after that time: not compared{options}", counted(beyond, "chat"));
    match (is_same, beyond) {
        (true, 1..) if begun == 0 => output.note(&format!("{NONE}; {not_compared}")),
        (true, 0) => output.note(SAME),
        (true, _) => output.note(&format!("of the time compared, {SAME}; {not_compared}")),
        (false, 0) => Ok(()),
        (false, _) => output.note(&not_compared),
    }
}

/// The whole list, into the archive's temporary table.
async fn read(args: &Args, archive: &mut Archive, clock: &Clock) -> anyhow::Result<Compared> {
    let mut list = List::open(&args.ids, args.column.as_deref(), args.time_column.as_deref())?;
    archive.begin_list().await?;
    let (mut lines, mut repeated, mut some) = (0, 0, Vec::new());
    let mut tell = progress("lines");
    while let Some(line) = list.next(clock)? {
        lines += 1;
        some.push(line);
        if some.len() as i64 == PAGE {
            repeated += archive.list(&some).await? as i64;
            some.clear();
            tell(lines as u64, lines as u64 + 1);
        }
    }
    repeated += archive.list(&some).await? as i64;
    tell(lines as u64, lines as u64);
    let overlap = archive.end_list().await?;
    let (faults, columns) = (list.faults, list.columns);
    Ok(Compared { lines, repeated, faults, columns, overlap, span: None, begun: (0, 0) })
}

fn head(compared: &Compared, ids: &Path, clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    let Compared { lines, repeated, faults, columns, overlap, span, begun } = compared;
    labelled(output, "list", &format!("{}: {}", shown(&ids.display().to_string()), shown(columns)))?;
    let listed = counted(overlap.listed, "id");
    labelled(output, "lines", &format!("{lines} with an id, {repeated} of them repeated: {listed}"))?;
    if let Some((count, first)) = faults.blank {
        labelled(
            output,
            "no id",
            &Ink::Yellow.on(&format!("in {}, the first is line {first}", counted(count as i64, "more line"))),
        )?;
    }
    if let Some((count, first)) = faults.times {
        labelled(
            output,
            "no time",
            &Ink::Yellow.on(&format!("in {}, the first is line {first}", counted(count as i64, "line"))),
        )?;
    }
    labelled(
        output,
        "both have",
        &format!(
            "{}; {} of the list {} not in the archive",
            overlap.both,
            overlap.listed - overlap.both,
            are(overlap.listed - overlap.both)
        ),
    )?;
    match span {
        Some(span) => {
            let (all, listed) = begun;
            labelled(output, "time", &clock.stretch(span.from, span.until))?;
            labelled(
                output,
                "in it",
                &format!("{}; {listed} of them listed, {} not", counted(*all, "chat"), all - listed),
            )?;
        }
        None => labelled(
            output,
            "time",
            "none is known: chats of the archive that are not in the list cannot be told; name it with --since and --until",
        )?,
    }
    Ok(())
}

/// What is listed and not in the archive.
async fn missing(
    args: &Args,
    databases: &[PathBuf],
    archive: &mut Archive,
    compared: &Compared,
    clock: &Clock,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let mut left = compared.overlap.listed - compared.overlap.both;
    if left == 0 {
        return Ok(());
    }
    let (recording, outages) = then(archive, served(databases).await?, clock).await?;
    let mut table = Table::new(&["line>", "not in the archive", "time", "because"]).keeping(2);
    let mut counts: BTreeMap<&'static str, i64> = BTreeMap::new();
    let mut after = -1;
    while left > 0 {
        let page = archive.missing(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        (after, left) = (last.listed.line, left - page.len() as i64);
        for missing in &page {
            let absence = Absence::of(missing, &recording, &outages);
            *counts.entry(absence.name()).or_default() += 1;
            let is_shown = counts.values().sum::<i64>() <= i64::from(args.limit);
            match output.format {
                Format::Text if is_shown => table.push(missing_row(missing, &absence, clock)),
                Format::Text => {}
                Format::Json | Format::Csv => output.record(&NAMES, &missing_record(missing, &absence))?,
            }
        }
    }
    end(&mut table, "reason", &counts, args.limit, output)
}

/// When it was recorded, from the first run until now.
async fn then(
    archive: &mut Archive,
    served: BTreeSet<String>,
    clock: &Clock,
) -> anyhow::Result<(Recording, Vec<OutageRow>)> {
    let always = Span { from: i64::MIN / 2, until: i64::MAX / 2 };
    let recording = recording::of_archive(archive, always, clock.now.as_millisecond(), &served).await?;
    Ok((recording, archive.outages(always, i64::from(i32::MAX)).await?))
}

fn end(
    table: &mut Table,
    what: &str,
    counts: &BTreeMap<&'static str, i64>,
    limit: u32,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    if output.format != Format::Text {
        return Ok(());
    }
    output.line("")?;
    table.print(output)?;
    let all: i64 = counts.values().sum();
    if all > i64::from(limit) {
        output.note(&format!(
            "and {} more: ask for more with --limit, or all with --format json or csv",
            all - i64::from(limit)
        ))?;
    }
    let told: Vec<_> = counts.iter().map(|(name, count)| format!("{count} {}", name.replace('_', " "))).collect();
    labelled(output, what, &told.join(", "))?;
    Ok(())
}

fn missing_row(missing: &Missing, absence: &Absence, clock: &Clock) -> Vec<String> {
    let at = missing.listed.at.map_or(String::new(), |at| clock.date_time(at));
    vec![missing.listed.line.to_string(), shown(&missing.listed.chat_id), at, shown(&absent(absence))]
}

fn absent(absence: &Absence) -> String {
    match absence {
        Absence::Removed(how) => format!("it was {how}"),
        Absence::OtherSpelling(other) => format!("the archive has {other}: the same in other letters"),
        Absence::NoId => "no chat can have this id".into(),
        Absence::OnlyErrors(count) => {
            format!("its clients were given {} and no transcript: `errors --chat`", counted(*count, "error"))
        }
        Absence::OnlyFindings(count) => {
            format!("what was seen of it could not be read ({})", counted(*count, "finding"))
        }
        Absence::BeforeTheArchive => "the archive has nothing of that time: it began later".into(),
        Absence::NotRecording(Why::Stopped) => "no recorder ran then: it was stopped".into(),
        Absence::NotRecording(Why::PutBack) => {
            "no recorder ran then, or the archive was put back from an earlier backup".into()
        }
        Absence::NotRecording(_) => "no recorder ran then: it had died, or what became of it is not known".into(),
        Absence::Outage(reason) => format!("events were lost then, in an outage ({reason})"),
        Absence::NeverSeen => {
            "the archive has never seen it: another way to GMS, another recorder, or nobody asked for its transcript"
                .into()
        }
    }
}

fn missing_record(missing: &Missing, absence: &Absence) -> [Cell; NAMES.len()] {
    [
        "not_in_archive".into(),
        missing.listed.chat_id.as_str().into(),
        absence.name().into(),
        absent(absence).into(),
        missing.listed.line.into(),
        missing.listed.at.and_then(when::iso).into(),
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null,
    ]
}

/// What is in the archive and not listed.
async fn unlisted(
    args: &Args,
    archive: &mut Archive,
    compared: &Compared,
    clock: &Clock,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let Some(span) = compared.span.filter(|_| compared.begun.0 > compared.begun.1) else { return Ok(()) };
    let mut table = Table::new(&["not in the list", "service", "seen", "messages>", "status", "because"]).keeping(1);
    let mut counts: BTreeMap<&'static str, i64> = BTreeMap::new();
    let mut last: Option<Unlisted> = None;
    loop {
        let mut page = archive.unlisted(span, last.as_ref(), PAGE).await?;
        for chat in &page {
            let surplus = Surplus::of(chat, span);
            *counts.entry(surplus.name()).or_default() += 1;
            let is_shown = counts.values().sum::<i64>() <= i64::from(args.limit);
            match output.format {
                Format::Text if is_shown => table.push(unlisted_row(chat, surplus, clock)),
                Format::Text => {}
                Format::Json | Format::Csv => output.record(&NAMES, &unlisted_record(chat, surplus))?,
            }
        }
        match page.pop() {
            Some(of_page) => last = Some(of_page),
            None => return end(&mut table, "reason", &counts, args.limit, output),
        }
    }
}

fn superfluous(surplus: Surplus) -> &'static str {
    match surplus {
        Surplus::AtTheEdge => "it began within an hour of the time's beginning or end: the list may count it elsewhere",
        Surplus::NothingSaid => "no message was written in it",
        Surplus::Open => "it goes on: the list may have only chats that are over",
        Surplus::NotListed => "nothing here says why: look for it there",
    }
}

fn unlisted_row(chat: &Unlisted, surplus: Surplus, clock: &Clock) -> Vec<String> {
    vec![
        shown(&chat.chat_id),
        shown(chat.service.as_deref().unwrap_or_default()),
        clock.stretch(chat.first_seen_at, chat.last_seen_at),
        chat.messages.to_string(),
        shown(&chat.status),
        superfluous(surplus).into(),
    ]
}

fn unlisted_record(chat: &Unlisted, surplus: Surplus) -> [Cell; NAMES.len()] {
    [
        "not_in_list".into(),
        chat.chat_id.as_str().into(),
        surplus.name().into(),
        superfluous(surplus).into(),
        Cell::Null,
        Cell::Null,
        chat.service.clone().into(),
        when::iso(chat.first_seen_at).into(),
        when::iso(chat.last_seen_at).into(),
        chat.status.as_str().into(),
        chat.messages.into(),
    ]
}
