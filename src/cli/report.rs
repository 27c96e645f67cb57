//! `report`: a day, a week or a month of the archive, for the officer who signs it.

mod period;
mod words;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::output::{Format as Print, Ink, Look, Output, Table, Usage, padded, shown, wrap};
use super::progress::progress;
use super::reading::{Case, Reading};
use super::verify::keys;
use super::when::Clock;
use crate::archive::report::document::{self, Block, Document, Tone};
use crate::archive::report::{Question, Report, Verified, page, report};
use crate::archive::{self, verify};
use crate::store::inspect;
use crate::store::read::Archive;

use period::{Named, Period};

const EXAMPLE: &str = "\
Example:
  gms-recorder report --month 2026-03 --format html --output march.html --verify

The page has no script and loads nothing: open it in any browser, print it, sign it. The same period
gives the same bytes later on, but for what is told as of the time of asking. It reads while
`serve` goes on writing; an archive of millions of events takes seconds.";

/// Report on a day, a week or a month: was it recorded throughout, what was seen and what became of it, what is missing and why.
///
/// Text, one JSON document, or a page to be printed and signed. It reads while `serve` goes on writing; an archive of
/// millions of events takes seconds.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    period: Period,
    /// As what.
    #[arg(long, value_enum, default_value_t)]
    format: As,
    /// Where to; else to stdout. Nothing is overwritten.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// At most this many chats in each list of chats; how many more there are is said.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Hold the whole archive against its seals first, as `verify` does, and say what came of it: minutes, for a large one.
    #[arg(long)]
    verify: bool,
    /// For --verify: what an anchor has, a file or a folder; again for each.
    #[arg(long = "anchor", value_name = "PATH", requires = "verify")]
    anchors: Vec<PathBuf>,
    /// For --verify: a file with the public key that you were given; again for each.
    #[arg(long = "key", value_name = "FILE", requires = "verify")]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    case: Case,
}

/// `--format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum As {
    /// For eyes.
    #[default]
    Text,
    /// One JSON document.
    Json,
    /// A page, to be printed and signed.
    Html,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user. Gaps and holes are an answer, not a failure.
pub async fn run(args: Args, reading: &Reading, evidence: &archive::Config) -> anyhow::Result<()> {
    let clock = args.period.clock()?;
    let named = args.period.named(&clock)?;
    if let Some(path) = args.output.as_deref().filter(|path| path.symlink_metadata().is_ok()) {
        return Err(Usage(format!(
            "{} exists already, and a report overwrites nothing: name another file",
            path.display()
        ))
        .into());
    }
    let look = Look { format: Print::Text, utc: args.period.utc };
    let print = async |output: &mut Output<'_>| {
        let report = ask(&args, &named, &clock, reading, evidence).await?;
        output.rows = i64::try_from(report.holes.told.len() + report.errors.chats.told.len())?;
        print(&args, &report, &named.name, &clock, output)
    };
    reading.to_stdout(&args.case, look, print).await
}

async fn ask(
    args: &Args,
    named: &Named,
    clock: &Clock,
    reading: &Reading,
    evidence: &archive::Config,
) -> anyhow::Result<Report> {
    let question = Question {
        span: named.span,
        pieces: period::pieces(named.span, clock),
        as_of: clock.now.as_millisecond(),
        chats_max: args.limit as usize,
        served: served(&reading.databases).await?,
        files: reading.databases.len(),
        anchors: evidence.all_anchors().collect(),
        verified: if args.verify { Some(verified(args, reading).await?) } else { None },
    };
    let mut archive = Archive::open_all(&reading.databases).await?;
    let report = report(&mut archive, &question).await?;
    archive.close().await?;
    Ok(report)
}

/// The ids of those that are served now.
pub(super) async fn served(databases: &[PathBuf]) -> anyhow::Result<BTreeSet<String>> {
    let mut served = BTreeSet::new();
    for database in databases {
        if inspect::is_served(database).unwrap_or(false) {
            let mut archive = Archive::open(database).await?;
            served.insert(archive.identity().await?.0);
            archive.close().await?;
        }
    }
    Ok(served)
}

async fn verified(args: &Args, reading: &Reading) -> anyhow::Result<Verified> {
    let [database] = &reading.databases[..] else {
        return Err(Usage("--verify is of one --database: verify each of them by itself".into()).into());
    };
    let question =
        verify::Question { anchors: args.anchors.clone(), keys: keys(&args.keys)?, ..verify::Question::default() };
    let path = database.clone();
    let held = tokio::task::spawn_blocking(move || verify::verify(&path, &question, &mut progress("leaves")));
    let answer = match held.await? {
        Ok(answer) => answer,
        Err(error) => return Err(super::verify::in_words(error.into(), database).await),
    };
    Ok(Verified {
        rows: answer.found.rows,
        leaves: answer.found.leaves,
        signed_leaves: answer.last.as_ref().map_or(0, |last| last.size),
        faults: answer.fault_count(),
        first_faults: answer.all_faults().map(ToString::to_string).collect(),
        checkpoints: answer.checkpoints,
        anchors: args.anchors.clone(),
        anchored: answer.anchored,
        warnings: answer.warnings.clone(),
        is_of_later_key: answer.is_of_later_key && answer.fault_count() == 1,
    })
}

fn print(args: &Args, report: &Report, name: &str, clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    match args.format {
        As::Json => {
            serde_json::to_writer_pretty(&mut bytes, report)?;
            bytes.push(b'\n');
        }
        As::Html => page::page(&mut bytes, &words::document(report, name, clock))?,
        As::Text => {
            let document = words::document(report, name, clock);
            match &args.output {
                None => return text(&document, output),
                Some(_) => text(&document, &mut Output::new(&mut bytes, Print::Text, output.width, false))?,
            }
        }
    }
    match &args.output {
        Some(path) => {
            write_new(path, &bytes).map_err(|error| anyhow::Error::new(error).context(path.display().to_string()))?;
            output.line(&shown(&std::path::absolute(path)?.display().to_string()))?;
        }
        None => output.verbatim(&bytes)?,
    }
    Ok(())
}

/// Under another name until all of it is on disk.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::hard_link(&part, path));
    fs::remove_file(&part)?;
    written
}

fn text(document: &Document, output: &mut Output<'_>) -> anyhow::Result<()> {
    output.line(&Ink::Bold.on(&shown(&document.title)))?;
    facts(&document.facts, output)?;
    output.line("")?;
    for remark in &document.verdict {
        let ink = match remark.tone {
            Tone::Good => Ink::Green,
            Tone::Note => Ink::Dim,
            Tone::Bad => Ink::Red,
        };
        beside(&ink.on(&format!("{:>9}", remark.tone.word())), 11, &remark.text, output)?;
    }
    for section in &document.sections {
        heading(section.title, output)?;
        let mut is_first = true;
        for one in section.blocks.iter().filter(|one| !matches!(one, Block::Chart(_))) {
            if !std::mem::take(&mut is_first) && !matches!(one, Block::Command(_)) {
                output.line("")?;
            }
            block(one, output)?;
        }
    }
    heading("Signature", output)?;
    facts(&document.signed, output)
}

fn heading(title: &str, output: &mut Output<'_>) -> io::Result<()> {
    output.line("")?;
    output.line(&Ink::Bold.on(&title.to_uppercase()))
}

fn block(block: &Block, output: &mut Output<'_>) -> anyhow::Result<()> {
    match block {
        Block::Words(words) => wrap(&shown(words), output.width).iter().try_for_each(|line| output.line(line))?,
        Block::Facts(pairs) => facts(pairs, output)?,
        Block::Table(rows) => table(rows, output)?,
        Block::Command(command) => output.line(&format!("  {}", shown(command)))?,
        Block::Chart(_) => {} // what it shows stands in a table beside it
    }
    Ok(())
}

fn facts(facts: &[(String, String)], output: &mut Output<'_>) -> anyhow::Result<()> {
    let column = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 4;
    Ok(facts.iter().try_for_each(|(name, value)| beside(&Ink::Dim.on(&format!("  {name}")), column, value, output))?)
}

/// A text from a column on, beside what stands before it.
fn beside(before: &str, column: usize, text: &str, output: &mut Output<'_>) -> io::Result<()> {
    for (at, line) in wrap(&shown(text), output.width.saturating_sub(column)).iter().enumerate() {
        let before = if at == 0 { before } else { "" };
        output.line(&format!("{}{line}", padded(before, column)))?;
    }
    Ok(())
}

fn table(of: &document::Table, output: &mut Output<'_>) -> anyhow::Result<()> {
    let rows = output.rows;
    output.line(&Ink::Dim.on(&shown(&of.caption)))?;
    let mut table = Table::new(&of.columns).keeping(1);
    of.rows.iter().for_each(|row| table.push(row.iter().map(|cell| shown(cell)).collect()));
    table.print(output)?;
    if let Some(left_out) = &of.left_out {
        output.line(&Ink::Dim.on(&shown(left_out)))?;
    }
    output.rows = rows; // what is counted of a read are chats
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::captured;
    use crate::store::read::fixture::{EXAMPLE, Fixture};
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// The words of the example, on one line.
    async fn told(more: &str, line: &str) -> String {
        let fixture = Fixture::with(&format!("{EXAMPLE};{more}")).await;
        let clock = Clock::berlin();
        let args = Line::try_parse_from(std::iter::once("report").chain(line.split(' '))).expect("right").args;
        let named = args.period.named(&clock).expect("a period");
        let reading = Reading::unrecorded(&fixture.path);
        let report = ask(&args, &named, &clock, &reading, &archive::Config::default()).await.expect("asked");
        let printed = captured(Print::Text, 2_000, async |output| print(&args, &report, &named.name, &clock, output));
        printed.await.expect("printed").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn what_the_archive_knows_is_told_in_sentences() {
        let told = told("", "--day 2026-11-23").await;
        for wanted in [
            "Chat recording: Monday, 23 November 2026",
            "Recording began at 2026-11-23 03:13:20 +01:00, and was not on throughout from then until now (2026-11-23 14:30:00 +01:00): it was on for 97.29 % of the time, and off 2 times",
            "2026-11-23 14:11:40 +01:00 2026-11-23 14:20:00 +01:00 8 min 20 s the recorder died, or its machine did",
            "Runs 1, 2 have no account by the hour",
            "1 chat of 2 has holes",
            "complete 1 it ended, and everything up to its end was covered",
            "1 hole in 1 chat, by the most certain reason of each reason holes an outage that names the chat 1",
            "c2 sales 2026-11-23 14:03:20 +01:00 to 14:11:40 6 to 9 an outage that names the chat (the disk was full, 2026-11-23 14:05:00 +01:00 to 14:06:00)",
            "249 3 1 gms the Media Server could not execute the request look into the Chat Server",
            "gms-recorder transcript c2 --errors",
            "Nothing of this archive is signed.",
        ] {
            assert!(told.contains(wanted), "{wanted}: {told}");
        }
    }

    /// What is in the archive beside the example, what is asked, what is told, and what is not.
    #[tokio::test]
    async fn what_is_told_is_of_this_period_and_no_more_than_is_known() {
        type Row<'r> = (&'r str, &'r str, &'r [&'r str], &'r [&'r str]);
        const ACTS: &str = "INSERT INTO acts (id, kind, at, who, host, asked, version) VALUES
            (1, 'erase', 1795440100000, 'anna', 'h', '{}', 'v'), (2, 'hold', 1795440100000, 'anna', 'h', '{}', 'v');
            INSERT INTO erasures (act_id, chat_id, how, at, first_seen_at, last_seen_at, events, rows, leaves) VALUES
            (1, 'c9', 'erased', 1795440100000, 1795438800000, 1795439000000, 5, 6, x''),
            (1, NULL, 'masked', 1795440100000, NULL, NULL, 0, 3, x'');";
        const WHOLE: &str = "DELETE FROM coverage WHERE chat_id = 'c2'; DELETE FROM chats WHERE chat_id = 'c2'";
        let removed = "1 was removed since (see \"Masked, removed, held, read\")";
        let removed_of_whole = format!("{ACTS}{WHOLE}");
        let rows: [Row; 10] = [
            (
                ACTS,
                "--day 2026-11-23",
                &[
                    "1 chat of 2 has holes",
                    removed,
                    "words in acts 1 0 0 3",
                    "; 1 more was set in it",
                    "What is left shows nothing that was masked before it was recorded",
                ],
                &["masked 1", "Nothing was masked."],
            ),
            (
                &removed_of_whole,
                "--day 2026-11-23",
                &["The one chat of the period that is in the archive has no hole", removed],
                &["seen has"],
            ),
            (
                "",
                "--day 2026-11-23",
                &["holes --since 2026-11-22T23:00:00.000Z --until 2026-11-23T23:00:00.000Z"],
                &["30d", "removed since"],
            ),
            (
                "",
                "--day 2026-11-23",
                &[
                    "since it began at 2026-11-23 03:13:20 +01:00",
                    "11-23 02:00 0 0 0 not begun",
                    "recording had not begun",
                ],
                &[],
            ),
            (
                "PRAGMA journal_mode = DELETE",
                "--day 2026-11-23",
                &[
                    "until this copy of the archive was made (2026-11-23 14:20:00 +01:00)",
                    "off once",
                    "ends at 2026-11-23 14:20:00 +01:00",
                ],
                &["of that recorder nothing later is in this archive", "until now"],
            ),
            (
                "PRAGMA journal_mode = DELETE",
                "--since 2026-11-23T14:25",
                &["This is a copy, which ends at 2026-11-23 14:20:00 +01:00, before the period"],
                &["still to come:"],
            ),
            (
                "INSERT INTO checkpoints VALUES (1, 1, 1795440100000, '')",
                "--day 2026-11-23",
                &["Checkpoint 1 is not signed with a key of this archive"],
                &["since the period ended", "lies under"],
            ),
            (
                "INSERT INTO checkpoints VALUES (1, 1, 1795440100000, '')",
                "--day 2026-11-24",
                &["still to come"],
                &["since the period ended", "not signed"],
            ),
            (
                "INSERT INTO checkpoints VALUES (1, 1, 1795440100000, '')",
                "--month 2025-01",
                &[
                    "Nothing was recorded in January 2025",
                    "Recorded for no time",
                    "The archive has no chat of the period.",
                ],
                &["good ", "0 ms", "lies under", "Checkpoint 1 is not"],
            ),
            (
                "INSERT INTO acts (kind, at, who, host, asked, version) VALUES ('restore', 1795439900000, 'anna', 'h', '{}', 'v')",
                "--day 2026-11-23",
                &[
                    "8 min 20 s the archive was put back from a backup",
                    "put back from a backup; last heard of 2026-11-23 14:11:40",
                ],
                &["or its machine did"],
            ),
        ];
        for (more, line, wanted, unwanted) in rows {
            let told = told(more, line).await;
            wanted.iter().for_each(|wanted| assert!(told.contains(wanted), "{more} {line}: {wanted}: {told}"));
            unwanted.iter().for_each(|no| assert!(!told.contains(no), "{more} {line}: {no}: {told}"));
        }
    }

    #[tokio::test]
    async fn lists_are_bounded_and_say_what_they_leave_out() {
        let chats = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 40)";
        let holes = format!(
            "INSERT INTO chats SELECT 'h' || n, NULL, 1795439000000, 1795439000000 + n, 1, 'chat_ended', 100, 0, NULL FROM ({chats} SELECT n FROM n);
             INSERT INTO coverage SELECT 'h40', 2 * n, 2 * n + 1, 'gms-1', 1, 1 FROM ({chats} SELECT n FROM n)"
        );
        let told = told(&holes, "--day 2026-11-23 --limit 3").await;
        for wanted in ["81 holes in 41 chats", "and 38 chats more: `--limit`", "the first ten are told: 31 holes more"]
        {
            assert!(told.contains(wanted), "{wanted}: {told}");
        }
    }

    #[tokio::test]
    async fn the_account_is_that_of_the_hours_of_the_period() {
        // Two hours of the day, and one of the day before.
        let hours = "INSERT INTO accounts VALUES
            (1, 1795435200000, 1, 20, 5, 11, 1, 1, 1, 0, 1, 0, 2), (2, 1795438800000, 1, 6, 3, 3, 0, 0, 0, 0, 0, 0, 0),
            (1, 1795345200000, 1, 100, 100, 0, 0, 0, 0, 0, 0, 0, 0)";
        let told = told(hours, "--day 2026-11-23").await;
        for wanted in [
            "seen 26 events in answers",
            "new 8 stored",
            "duplicate 14 stored before",
            "dropped 1 given to clients, and lost",
            "The account adds up",
            "2 events had their clients before they were on disk.",
            "1 event were given to clients and will never be recorded",
        ] {
            assert!(told.contains(wanted), "{wanted}: {told}");
        }
    }
}
