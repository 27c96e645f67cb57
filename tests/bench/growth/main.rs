//! Growth: does an archive of millions of events still take new ones as quickly, open as quickly, and give a chat as
//! quickly as a small one, and how large does it become?
//!
//! ```text
//! cargo bench --bench growth                                      5 million events, some 15 GB in target/
//! cargo bench --bench growth -- --events 50000000 --json FILE
//! ```
//!
//! The answers of 2,000 chats at a time go the way of real ones: inspected, observed, queued, written by the one writer
//! in synced groups. Bodies are made, and inspected, outside of the time that is measured, so that what is left is what a
//! growing file can slow down. The rest is measured on the program itself, as a process. It refuses to know SQL.

mod beside;
mod program;
mod traffic;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use serde_json::json;

use beside::{Beside, Recorded};
use program::{Cache, Latencies};
use traffic::{Centre, Dice, EVENTS_A_CHAT, Recording};

/// Chats going on at one time, as the busiest centres have.
const LIVE_CHATS: usize = 2_000;
/// New events that one poll brings.
const EVENTS_AN_ANSWER_MAX: u64 = 3;
/// One line of the report.
const EVENTS_A_STEP: u64 = 500_000;
/// Made, then timed, at one time: ten of the writer's groups, some 20 MB of bodies.
const EVENTS_A_BLOCK: u64 = 10_000;
/// An estimate on the high side, for the look at the free space: the archive, a backup, exports, another archive with all of it.
const BYTES_AN_EVENT_MAX: u64 = 4_000;
/// For the WAL, which is cut back to this size, and for others on the file system.
const BYTES_SPARE: u64 = 1 << 30;

/// What it must show.
const SLOWDOWN_MAX: f64 = 0.30;
const READY_MS_MAX: f64 = 150.0;
const TRANSCRIPT_MS_MAX: f64 = 10.0;

/// Fills an archive and measures what its size costs.
#[derive(Parser)]
#[command(name = "growth")]
struct Args {
    /// How many events.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(2 * EVENTS_A_STEP..))]
    events: u64,
    /// Where the figures are written too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the archive is made, and removed again.
    #[arg(long, value_name = "FOLDER", default_value = env!("CARGO_TARGET_TMPDIR"))]
    folder: PathBuf,
    /// As `cargo bench` says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A line of the report.
struct Step {
    /// So far.
    events: u64,
    /// In this step. The last one may be a short one.
    rows: u64,
    rows_a_second: f64,
    bytes: u64,
}

/// A full archive.
struct Grown {
    events: u64,
    steps: Vec<Step>,
    chats: u64,
    /// After the end of the run, with the WAL folded in.
    bytes: u64,
}

impl Grown {
    fn bytes_a_row(&self) -> f64 {
        self.bytes as f64 / self.events as f64
    }
}

/// A figure, and whether it is as it must be.
struct Finding {
    what: &'static str,
    value: String,
    target: String,
    is_met: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    program::check_built()?;
    check_space(&args)?;
    let scratch = tempfile::Builder::new().prefix("growth-").tempdir_in(&args.folder)?;
    let database = scratch.path().join("transcripts.db");

    let mut centre = Centre::new(LIVE_CHATS);
    let grown = grow(&database, args.events, &mut centre)?;
    eprintln!("starting the program on it …");
    let ready = program::time_to_ready(&database)?;
    eprintln!("reading transcripts …");
    let mut dice = Dice::new(42);
    // Not the youngest: those may wait for their first poll.
    let mut any_chat = || traffic::chat_id(dice.between(1, grown.chats - LIVE_CHATS as u64));
    // Warm ones first: what was written lately is still in the kernel's memory.
    let warm = program::transcripts(&database, &mut any_chat, Cache::Warm)?;
    let cold = program::transcripts(&database, &mut any_chat, Cache::Cold)?;
    eprintln!("searching …");
    let found = find(&database, &grown)?;
    eprintln!("reading all of it …");
    let passes = pass(&database, scratch.path())?;
    eprintln!("recording beside all that …");
    let (alone, besides) = record_beside(&database, scratch.path(), &mut centre)?;

    let mut text = report(&grown, &findings(&grown, ready, &warm, &cold), &found, &passes);
    text.push_str(&beside_report(&alone, &besides));
    print!("{text}");
    if let Some(path) = &args.json {
        std::fs::write(path, as_json(&grown, ready, &warm, &cold, &found, &passes, &besides))?;
    }
    Ok(())
}

/// What full text costs.
struct Search {
    /// The pass over everything.
    index_seconds: f64,
    /// What the file grew by.
    bytes: u64,
    /// By what was looked for.
    latencies: Vec<(&'static str, Latencies)>,
}

fn find(database: &Path, grown: &Grown) -> anyhow::Result<Search> {
    let length = || Ok::<_, std::io::Error>(std::fs::metadata(database)?.len());
    let index_seconds = program::index(database)?;
    let bytes = length()?.saturating_sub(grown.bytes);
    let mut dice = Dice::new(42);
    let (mut latencies, last) = (Vec::new(), grown.chats - LIVE_CHATS as u64);
    // As the form says of its customer that opens a chat.
    let mut rare = || format!("customer{}@example.com", dice.between(1, last));
    latencies.push(("an address, of one chat", program::searches(database, &mut rare)?));
    for (what, question) in [
        ("a word that a third of all messages have", "order"),
        ("two of them", "order invoice"),
        ("a phrase", "\"my order number\""),
        ("the beginning of one", "deliv*"),
    ] {
        latencies.push((what, program::searches(database, &mut || question.into())?));
    }
    Ok(Search { index_seconds, bytes, latencies })
}

/// Commands that go over the whole archive, and how many seconds each took.
fn pass(database: &Path, scratch: &Path) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let name = |name: &str| scratch.join(name).display().to_string();
    let (json, csv, parquet, copy) = (name("jsonl"), name("csv"), name("parquet"), name("backup.db"));
    let mut passes = Vec::new();
    for (what, words) in [
        ("`verify`", &["verify"][..]),
        ("`report` of all days", &["report", "--since", "7d"]),
        ("`export --format jsonl`", &["export", &json, "--format", "jsonl"]),
        ("`export --format csv`", &["export", &csv, "--format", "csv"]),
        ("`export --format parquet`", &["export", &parquet, "--format", "parquet"]),
        ("`backup`, verified", &["backup", &copy]),
    ] {
        eprintln!("  {what} …");
        passes.push((what, program::once(database, words)?));
    }
    for folder in [json, csv, parquet] {
        std::fs::remove_dir_all(folder)?;
    }
    let other = scratch.join("other.db");
    program::make_empty(&other)?;
    eprintln!("  merge …");
    passes.push(("`merge` into an empty one", program::once(&other, &["merge", &copy])?));
    Ok(passes)
}

/// Live recording into the archive, at a fixed rate, while commands go over it; at last, while the whole of it is merged
/// into the one that is recorded into.
fn record_beside(database: &Path, scratch: &Path, centre: &mut Centre) -> anyhow::Result<(Recorded, Vec<Beside>)> {
    let name = |name: &str| scratch.join(name).display().to_string();
    let (json, parquet, copy) = (name("beside-jsonl"), name("beside-parquet"), name("beside.db"));
    let mut all = Vec::new();
    let recording = Recording::start(database)?;
    let alone = beside::alone(&recording, centre)?;
    for (what, words, made) in [
        ("`export --format jsonl`", &["export", &json, "--format", "jsonl"][..], Some(&json)),
        ("`export --format parquet`", &["export", &parquet, "--format", "parquet"], Some(&parquet)),
        ("`search`, again and again", &["search", "order invoice"], None),
        ("`report` of all days", &["report", "--since", "7d"], None),
        ("`verify`", &["verify"], None),
        ("`backup`, verified", &["backup", &copy], None),
    ] {
        all.push(beside::beside(what, words, database, (&recording, centre))?);
        made.map_or(Ok(()), std::fs::remove_dir_all)?;
    }
    drop(recording);
    let other = scratch.join("beside-other.db");
    let recording = Recording::start(&other)?;
    all.push(beside::beside("`merge` of all of it", &["merge", &copy], &other, (&recording, centre))?);
    Ok((alone, all))
}

fn beside_report(alone: &Recorded, besides: &[Beside]) -> String {
    let mut text = String::from(
        "\n## Live recording beside it\n\n| beside | took | answers/s on disk | p50 | p99 |\n|---|---|---|---|---|\n",
    );
    let mut line = |what: &str, took: String, recorded: &Recorded| {
        let Recorded { answers_a_second, p50_us, p99_us } = recorded;
        let _ = writeln!(text, "| {what} | {took} | {answers_a_second:.0} | {p50_us:.0} µs | {p99_us:.0} µs |");
    };
    line("nothing", String::new(), alone);
    besides.iter().for_each(|one| line(one.what, format!("{:.1} s", one.seconds), &one.recorded));
    text
}

fn check_space(args: &Args) -> anyhow::Result<()> {
    let space = rustix::fs::statvfs(&args.folder)?;
    let free = space.f_bavail * space.f_frsize;
    let needed = args.events * BYTES_AN_EVENT_MAX + BYTES_SPARE;
    ensure!(
        free >= needed,
        "{} events may take {} GB, and {} has {} GB free: ask for fewer with --events, or name another place with --folder",
        args.events,
        gigabytes(needed),
        args.folder.display(),
        gigabytes(free),
    );
    Ok(())
}

fn grow(database: &Path, events: u64, centre: &mut Centre) -> anyhow::Result<Grown> {
    let recording = Recording::start(database)?;
    let mut steps: Vec<Step> = Vec::new();
    let (mut written, mut in_step, mut spent) = (0, 0, Duration::ZERO);
    eprintln!("{:>12} {:>12} {:>12} {:>12}", "events", "rows/s", "file MB", "bytes/row");
    while written < events {
        let (block, took) = write_block(&recording, centre)?;
        (written, in_step, spent) = (written + block, in_step + block, spent + took);
        if in_step >= EVENTS_A_STEP || written >= events {
            let step = Step {
                events: written,
                rows: in_step,
                rows_a_second: in_step as f64 / spent.as_secs_f64(),
                bytes: std::fs::metadata(database)?.len(),
            };
            eprintln!("{}", line(&step));
            steps.push(step);
            (in_step, spent) = (0, Duration::ZERO);
        }
    }
    drop(recording);
    Ok(Grown { events: written, steps, chats: centre.opened, bytes: std::fs::metadata(database)?.len() })
}

/// How many events were written, and how long it took from the first one's way into the queue to the last one's commit.
fn write_block(recording: &Recording, centre: &mut Centre) -> anyhow::Result<(u64, Duration)> {
    let mut events = 0;
    let mut observations = Vec::new();
    while events < EVENTS_A_BLOCK {
        let answer = centre.answer(EVENTS_AN_ANSWER_MAX);
        events += answer.events;
        observations.push((traffic::inspect(&answer, recording.policy()), recording.key(&answer)));
    }
    let began = Instant::now();
    let recorded = observations.into_iter().map(|(seen, key)| recording.observe(seen, key)).collect();
    recording.wait(recorded)?;
    Ok((events, began.elapsed()))
}

fn findings(grown: &Grown, ready_ms: f64, warm: &Latencies, cold: &Latencies) -> Vec<Finding> {
    // A short step has more noise than growth.
    let full: Vec<f64> =
        grown.steps.iter().filter(|step| step.rows >= EVENTS_A_STEP).map(|step| step.rows_a_second).collect();
    let (first, last) = (full.first().copied().unwrap_or(f64::NAN), full.last().copied().unwrap_or(f64::NAN));
    let bound = |what, value: f64, max: f64| Finding {
        what,
        value: format!("{value:.1} ms"),
        target: format!("< {max} ms"),
        is_met: value < max,
    };
    vec![
        Finding {
            what: "ingest, last step against first",
            value: format!("{:+.0} % ({first:.0} to {last:.0} rows/s)", (last / first - 1.0) * 100.0),
            target: format!("within {:.0} %", SLOWDOWN_MAX * 100.0),
            is_met: last / first >= 1.0 - SLOWDOWN_MAX,
        },
        bound("start to ready, median", ready_ms, READY_MS_MAX),
        bound("transcript CHAT_ID, p50", warm.p50_ms, TRANSCRIPT_MS_MAX),
        bound("transcript CHAT_ID, p99", warm.p99_ms, TRANSCRIPT_MS_MAX),
        bound("the same, file not in memory, p50", cold.p50_ms, TRANSCRIPT_MS_MAX),
        bound("the same, file not in memory, p99", cold.p99_ms, TRANSCRIPT_MS_MAX),
    ]
}

fn report(grown: &Grown, findings: &[Finding], found: &Search, passes: &[(&str, f64)]) -> String {
    let millions = grown.events as f64 / 1e6;
    let mut text = format!("\n## Growth to {millions:.1} million events of {} chats\n\n", grown.chats);
    let _ = writeln!(text, "| | | target | |\n|---|---|---|---|");
    for finding in findings {
        let Finding { what, value, target, is_met } = finding;
        let _ = writeln!(text, "| {what} | {value} | {target} | {} |", if *is_met { "ok" } else { "MISSED" });
    }
    let _ = writeln!(text, "| bytes a row of file | {:.0} | | |", grown.bytes_a_row());
    let _ = writeln!(text, "\n## Full text\n\n| | |\n|---|---|");
    let a_second = grown.events as f64 / found.index_seconds;
    let _ = writeln!(text, "| the pass over everything | {:.0} s, {a_second:.0} events/s |", found.index_seconds);
    let _ = writeln!(text, "| bytes an event | {:.0} |", found.bytes as f64 / grown.events as f64);
    for (what, Latencies { p50_ms, p99_ms }) in &found.latencies {
        let _ = writeln!(text, "| {what} | p50 {p50_ms:.0} ms, p99 {p99_ms:.0} ms |");
    }
    let _ = writeln!(text, "\n## All of it\n\n| | |\n|---|---|");
    for (what, seconds) in passes {
        let _ = writeln!(text, "| {what} | {seconds:.1} s, {:.0} events/s |", grown.events as f64 / seconds);
    }
    let _ = write!(text, "\n## Sizing\n\n{}", sizing(grown, found));
    text
}

/// How large an archive becomes. From bytes an event, so that chats which were still going on at the end do not count
/// as whole ones.
fn sizing(grown: &Grown, found: &Search) -> String {
    let mean = (EVENTS_A_CHAT.0 + EVENTS_A_CHAT.1) as f64 / 2.0;
    let bytes_an_event = grown.bytes_a_row() + found.bytes as f64 / grown.events as f64;
    let bytes_a_chat = bytes_an_event * mean;
    let mut text = String::from("| chats a day | 1 year | 5 years | 7 years |\n|---|---|---|---|\n");
    for chats in [1_000_u64, 10_000, 100_000] {
        let _ = write!(text, "| {chats} |");
        for years in [1.0, 5.0, 7.0] {
            let gb = chats as f64 * 365.0 * years * bytes_a_chat / 1e9;
            let _ = write!(text, " {} |", if gb < 10.0 { format!("{gb:.1} GB") } else { format!("{gb:.0} GB") });
        }
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "\nFor chats of {mean:.0} events: {bytes_an_event:.0} bytes an event, {:.1} KB a chat, with its attributes, coverage, seals and \
         indexes. Half the events, half the size.",
        bytes_a_chat / 1e3
    );
    text
}

fn line(step: &Step) -> String {
    let (rows, megabytes) = (step.rows_a_second, step.bytes as f64 / 1e6);
    let bytes_a_row = step.bytes as f64 / step.events as f64;
    format!("{:>12} {rows:>12.0} {megabytes:>12.1} {bytes_a_row:>12.0}", step.events)
}

fn as_json(
    grown: &Grown,
    ready_ms: f64,
    warm: &Latencies,
    cold: &Latencies,
    found: &Search,
    passes: &[(&str, f64)],
    besides: &[Beside],
) -> String {
    let recorded =
        |of: &Recorded| json!({ "answers_a_second": of.answers_a_second, "p50_us": of.p50_us, "p99_us": of.p99_us });
    let step = |step: &Step| json!({ "events": step.events, "rows_a_second": step.rows_a_second.round(), "bytes": step.bytes });
    let latencies = |of: &Latencies| json!({ "p50_ms": of.p50_ms, "p99_ms": of.p99_ms });
    let figures = json!({
        "events": grown.events,
        "chats": grown.chats,
        "bytes": grown.bytes,
        "bytes_a_row": grown.bytes_a_row(),
        "ready_ms": ready_ms,
        "transcript": latencies(warm),
        "transcript_cold": latencies(cold),
        "index_seconds": found.index_seconds,
        "index_bytes": found.bytes,
        "search": found.latencies.iter().map(|(what, of)| json!({ "what": what, "ms": latencies(of) })).collect::<Vec<_>>(),
        "passes": passes.iter().map(|(what, seconds)| json!({ "what": what, "seconds": seconds })).collect::<Vec<_>>(),
        "besides": besides.iter().map(|one| json!({ "what": one.what, "recorded": recorded(&one.recorded) })).collect::<Vec<_>>(),
        "steps": grown.steps.iter().map(step).collect::<Vec<_>>(),
    });
    format!("{figures:#}\n")
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e9)
}
