//! `search`: what was said, by its words.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::custody::cannot_change;
use super::output::{Cell, Format, Ink, Look, Output, Usage, counted, shown, shown_lines, wrap};
use super::progress::progress;
use super::reading::{Case, Reading};
use super::scope::{Customers, Selection};
use super::when::{self, Clock};
use crate::store::audit::Snapshot;
use crate::store::custody::Custody;
use crate::store::read::Archive;
use crate::store::search::{self, Filter, Found, Hit, Order, Query, Snippet, Step};

const EXAMPLE: &str = "\
Example:
  gms-recorder search 'refund \"second parcel\" -voucher' --since 30d --service sales

Questions:
  late parcel      both words, anywhere in the message
  \"late parcel\"    one behind the other
  refun*           words that begin so
  refund OR money  either word (of the two beside OR)
  -voucher         not this word
Small and large letters are the same, and so are letters with accents and without.";

/// Find what was said: messages, notices, pushed addresses, names of files, nicknames, and what is known of customers.
///
/// What fits best comes first. What a running `serve` has recorded within the last seconds is found too: rows that are not in
/// the index are looked through, up to 200,000 of them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// What to look for: words, in quotation marks of your shell where they have some of their own.
    #[arg(required = true)]
    query: Vec<String>,
    /// Only in this chat; again for each.
    #[arg(long = "chat", value_name = "CHAT_ID", conflicts_with = "who")]
    chats: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// The newest first, not what fits best.
    #[arg(long)]
    newest: bool,
    /// Bring the index up to date first, of an archive that nobody serves or that has just been upgraded; and make it anew
    /// where it is damaged.
    #[arg(long)]
    index: bool,
    /// At most this many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    case: Case,
    #[command(flatten)]
    look: Look,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, reading: &Reading) -> anyhow::Result<()> {
    let clock = Clock::now(args.look.utc);
    // Before the read is recorded: what cannot be meant shows nothing.
    let query = query(&args.query.join(" "))?;
    let databases = &reading.databases;
    reading.to_stdout(&args.case, args.look, async |output| print(&args, &query, databases, &clock, output).await).await
}

/// What somebody looks for.
///
/// # Errors
/// What cannot be meant.
pub fn query(text: &str) -> Result<Query, Usage> {
    Query::parse(text).map_err(|why| Usage(super::output::plain_line(&why.to_string())))
}

/// More rows than these are not looked through one by one: some seconds.
const BEHIND_MAX: u64 = 200_000;

async fn print(
    args: &Args,
    query: &Query,
    databases: &[PathBuf],
    clock: &Clock,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let (from, until) = args.selection.scope.times.range(clock)?;
    let mut archive = Archive::open_all(databases).await?;
    let of_customer = args.selection.scope.chat_ids(&mut archive).await?;
    let chat_ids = if args.chats.is_empty() { of_customer } else { Some(args.chats.clone()) };
    let filter = Filter { chat_ids, from, until, service: args.selection.service.clone() };
    if args.index {
        databases.iter().try_for_each(|database| index(database))?;
    }
    let found = find(args, query, &filter, databases)?;

    let mut customers = Customers::default();
    customers.learn(&mut archive, found.hits.iter().map(|hit| &hit.chat_id)).await?;
    output.header(&NAMES)?;
    for hit in &found.hits {
        let customer = customers.name(&hit.chat_id);
        match output.format {
            Format::Text => entry(hit, customer.as_deref(), clock, output)?,
            Format::Json | Format::Csv => output.record(&NAMES, &record(hit, customer))?,
        }
    }
    end(args, &found, output)
}

fn index(database: &Path) -> anyhow::Result<()> {
    let custody = Custody::open_to_index(database).map_err(|error| cannot_change(database, &error))?;
    custody.check_index()?;
    let all = custody.rows_behind()?;
    let (mut done, mut tell) = (0, progress("rows"));
    while let Step::Going(rows) = custody.index()? {
        done += rows;
        tell(done.min(all), all);
    }
    Ok(custody.close()?)
}

/// In all archives.
fn find(args: &Args, query: &Query, filter: &Filter, databases: &[PathBuf]) -> anyhow::Result<Found> {
    let order = if args.newest { Order::Newest } else { Order::Best };
    let limit = usize::try_from(args.limit)?;
    let mut all = Found::default();
    for database in databases {
        let found = Snapshot::open(database)?.search(query, filter, order, limit, BEHIND_MAX)?;
        all.hits.extend(found.hits);
        all.behind += found.behind;
        all.is_cut |= found.is_cut;
        all.is_partial |= found.is_partial;
    }
    search::sort(&mut all.hits, order);
    let mut events = HashSet::new();
    all.hits.retain(|hit| hit.event_index.is_none_or(|index| events.insert((hit.chat_id.clone(), index))));
    all.is_cut |= all.hits.len() > limit;
    all.hits.truncate(limit);
    Ok(all)
}

fn entry(hit: &Hit, customer: Option<&str>, clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    output.rows += 1;
    let of = match (&hit.attribute, hit.event_index) {
        (Some(attribute), _) => shown(attribute),
        (None, Some(index)) => format!("event {index}{}", if hit.is_variant { ", other content" } else { "" }),
        (None, None) => String::new(),
    };
    let who = [&hit.party_type, &hit.nickname].into_iter().flatten().map(|text| shown(text)).collect::<Vec<_>>();
    let customer = customer.map_or(String::new(), |customer| format!("customer {}", shown(customer)));
    let parts = [Ink::Bold.on(&clock.date_time(hit.at)), shown(&hit.chat_id), of, who.join(" "), customer];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    wrap(&parts.join("  "), output.width).iter().try_for_each(|line| output.line(line))?;
    let text: String = hit.snippet.pieces().iter().fold(String::new(), |text, piece| {
        let piece_text = shown_lines(&piece.text);
        text + &if piece.is_found { output.found(&piece_text) } else { piece_text }
    });
    for line in wrap(&text, output.width.saturating_sub(BAR.chars().count())) {
        output.line(&format!("{BAR}{line}"))?;
    }
    Ok(output.line("")?)
}

/// As in `transcript`: no text can pass for a line of ours.
const BAR: &str = "  │ ";

fn end(args: &Args, found: &Found, output: &mut Output<'_>) -> anyhow::Result<()> {
    let limit = args.limit;
    let behind = counted(i64::try_from(found.behind).unwrap_or(i64::MAX), "row");
    match (found.is_cut, found.hits.is_empty(), args.newest) {
        (true, _, true) => output
            .note(&format!("only the newest {limit} are shown: narrow the question, or ask for more with --limit"))?,
        (true, _, false) => output
            .note(&format!("only the best {limit} are shown: narrow the question, or ask for more with --limit"))?,
        (false, true, _) => output.note("nothing like that was said")?,
        (false, false, _) => {}
    }
    match (found.is_partial, found.behind) {
        (true, _) => output.note(&format!(
            "the index is {behind} behind, and these were not looked at: a running `serve` indexes them, or --index does it now"
        ))?,
        (false, 1..) => output.note(&format!("the index is {behind} behind: these were looked through"))?,
        (false, 0) => {}
    }
    Ok(())
}

const NAMES: [&str; 12] = [
    "chat_id",
    "event_index",
    "at",
    "type",
    "party_type",
    "who",
    "attribute",
    "is_variant",
    "customer",
    "snippet",
    "score",
    "at_ms",
];

fn record(hit: &Hit, customer: Option<String>) -> [Cell; NAMES.len()] {
    let hit = hit.clone();
    [
        hit.chat_id.into(),
        hit.event_index.into(),
        when::iso(hit.at).into(),
        hit.kind.into(),
        hit.party_type.into(),
        hit.nickname.into(),
        hit.attribute.into(),
        i64::from(hit.is_variant).into(),
        customer.into(),
        marked(&hit.snippet).into(),
        hit.score.map_or(Cell::Null, Cell::Real),
        hit.at.into(),
    ]
}

fn marked(snippet: &Snippet) -> String {
    let piece = |piece: &search::Piece| if piece.is_found { format!("«{}»", piece.text) } else { piece.text.clone() };
    snippet.pieces().iter().map(piece).collect()
}
