//! `holes`: which ground of which chats no answer covered, and what may explain it.

use std::io;
use std::path::PathBuf;

use super::output::{self, Cell, Format, Ink, Look, Output, counted, labelled, shown};
use super::scope::{Customers, Scope};
use super::when::{self, Clock};
use crate::store::read::{self, Archive, Hole, Interruption};

const EXAMPLE: &str = "\
Example:
  gms-recorder holes --since 30d";

/// List the chats whose transcript has holes: positions that no answer through this recorder covered.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    scope: Scope,
    /// At most this many holes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    look: Look,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user. Holes are an answer, not a failure.
pub async fn run(args: Args, databases: &[PathBuf]) -> anyhow::Result<()> {
    let clock = Clock::now(args.look.utc);
    output::to_stdout(args.look, async |output| print(&args, databases, &clock, output).await).await
}

const NAMES: [&str; 10] = [
    "chat_id",
    "from",
    "to",
    "status",
    "service",
    "customer",
    "first_seen_at",
    "last_seen_at",
    "explained_by",
    "positions",
];

async fn print(args: &Args, databases: &[PathBuf], clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    let (from, until) = args.scope.times.range(clock)?;
    let mut archive = Archive::open_all(databases).await?;
    let chat_ids = args.scope.chat_ids(&mut archive).await?;
    let wanted = read::Chats { from, until, chat_ids, status: None };
    // One more than wanted, to know whether there are more.
    let mut holes = archive.holes(&wanted, i64::from(args.limit) + 1).await?;
    let is_cut = holes.len() > args.limit as usize;
    holes.truncate(args.limit as usize);
    let mut customers = Customers::default();
    customers.learn(&mut archive, holes.iter().map(|hole| &hole.chat_id)).await?;
    let interruptions = archive.interruptions().await?;

    output.header(&NAMES)?;
    for of_chat in holes.chunk_by(|one, next| one.chat_id == next.chat_id) {
        let chat = &of_chat[0];
        let why: Vec<_> = interruptions.iter().filter(|interruption| interruption.may_explain(chat)).collect();
        let customer = customers.name(&chat.chat_id);
        match output.format {
            Format::Text => entry(of_chat, customer.as_deref(), &why, clock, output)?,
            Format::Json | Format::Csv => {
                of_chat.iter().try_for_each(|hole| output.record(&NAMES, &record(hole, customer.clone(), &why)))?;
            }
        }
    }
    end(&mut archive, args, holes.is_empty(), is_cut, output).await
}

async fn end(
    archive: &mut Archive,
    args: &Args,
    is_empty: bool,
    is_cut: bool,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let is_filtered = args.scope.times.are_named() || args.scope.who.is_some();
    match (is_empty, is_cut) {
        (true, _) if is_filtered => output.note("no holes in the chats asked for")?,
        (true, _) => {
            let chats = counted(archive.totals().await?.chats, "chat");
            output.note(&format!("no holes: {chats} covered, as delivered to the clients behind this recorder"))?;
        }
        (_, true) => {
            let limit = args.limit;
            output.note(&format!(
                "only the first {limit} are shown: narrow the question, or ask for more with --limit"
            ))?;
        }
        _ => {}
    }
    Ok(())
}

fn entry(
    holes: &[Hole],
    customer: Option<&str>,
    why: &[&Interruption],
    clock: &Clock,
    output: &mut Output<'_>,
) -> io::Result<()> {
    let chat = &holes[0];
    let seen = clock.stretch(chat.first_seen_at, chat.last_seen_at);
    output.line(&format!("{}  {seen}  {}", Ink::Bold.on(&shown(&chat.chat_id)), shown(&chat.status)))?;
    let of = [chat.service.as_deref().map(shown), customer.map(shown)];
    let of = of.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if !of.is_empty() {
        labelled(output, "of", &of)?;
    }
    for hole in holes {
        labelled(output, "hole", &Ink::Yellow.on(&ground(hole)))?;
    }
    explanations(why, chat, clock, output)?;
    output.line("")
}

fn explanations(why: &[&Interruption], chat: &Hole, clock: &Clock, output: &mut Output<'_>) -> io::Result<()> {
    if why.is_empty() {
        let text =
            "no outage and no restart at that time: the clients may have asked for no transcript, or by another route";
        return labelled(output, "see", text);
    }
    for interruption in why {
        let time = match interruption.to {
            Some(to) => clock.stretch(interruption.from, to),
            None => format!("since {}", clock.date_time(interruption.from)),
        };
        let detail = interruption.detail.as_deref().map_or(String::new(), |detail| format!(" ({})", shown(detail)));
        let named = if interruption.names(&chat.chat_id) { ", which names this chat" } else { "" };
        labelled(output, "see", &format!("{}{detail}, {time}{named}", shown(&interruption.why)))?;
    }
    Ok(())
}

/// The positions, both ends included.
fn ground(hole: &Hole) -> String {
    match hole.ground.next - hole.ground.from {
        1 => hole.ground.from.to_string(),
        _ => format!("{} to {}", hole.ground.from, hole.ground.next - 1),
    }
}

const WHY_NAMES: [&str; 5] = ["why", "detail", "from", "to", "names_chat"];

fn record(hole: &Hole, customer: Option<String>, why: &[&Interruption]) -> [Cell; NAMES.len()] {
    let objects: Vec<_> = why
        .iter()
        .map(|interruption| {
            let named = interruption.names(&hole.chat_id);
            let cells = [
                interruption.why.as_str().into(),
                interruption.detail.clone().into(),
                when::iso(interruption.from).into(),
                interruption.to.and_then(when::iso).into(),
                Cell::Json(named.to_string()),
            ];
            output::json_object(&WHY_NAMES, &cells)
        })
        .collect();
    [
        hole.chat_id.as_str().into(),
        hole.ground.from.into(),
        (hole.ground.next - 1).into(),
        hole.status.as_str().into(),
        hole.service.clone().into(),
        customer.into(),
        when::iso(hole.first_seen_at).into(),
        when::iso(hole.last_seen_at).into(),
        output::json_array(&objects),
        (hole.ground.next - hole.ground.from).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::captured;
    use crate::store::read::fixture::Fixture;

    async fn printed(args: Args, format: Format, archive: &Fixture) -> String {
        captured(format, 100, async |output| {
            print(&args, std::slice::from_ref(&archive.path), &Clock::berlin(), output).await
        })
        .await
        .expect("printed")
    }

    fn all() -> Args {
        Args { limit: 100, ..Args::default() }
    }

    #[tokio::test]
    async fn holes_are_listed_with_what_may_explain_them() {
        let wanted = "\
c2  2026-11-23 14:03:20 +01:00 to 14:11:40  incomplete
  of        sales, Åsa Berg
  hole      6 to 9
  see       the recorder died, 2026-11-23 14:11:40 +01:00 to 14:20:00
  see       the disk was full (SQLITE_FULL), 2026-11-23 14:05:00 +01:00 to 14:06:00, which names
            this chat

";
        assert_eq!(printed(all(), Format::Text, &Fixture::example().await).await, wanted);
    }

    #[tokio::test]
    async fn records_say_the_same() {
        let json = printed(all(), Format::Json, &Fixture::example().await).await;
        let hole: serde_json::Value = serde_json::from_str(&json).expect("one object");
        assert_eq!((&hole["from"], &hole["to"], &hole["positions"]), (&6.into(), &9.into(), &4.into()));
        assert_eq!(hole["explained_by"][1]["names_chat"], true);
        assert_eq!(hole["explained_by"][0]["names_chat"], false);
    }

    #[tokio::test]
    async fn every_hole_of_a_chat_is_found_and_none_is_said_too() {
        let none = Fixture::with("INSERT INTO chats VALUES ('c', NULL, 1, 2, NULL, NULL, NULL, 0, NULL)").await;
        assert!(printed(all(), Format::Text, &none).await.starts_with("no holes: 1 chat covered"));
        let who = Args { scope: Scope { who: Some("x".into()), ..Scope::default() }, ..all() };
        assert_eq!(printed(who, Format::Text, &none).await, "no holes in the chats asked for\n");

        // (rows of coverage, nextPosition) to holes: before, between, after; overlapping and touching rows make none.
        type Stretches = &'static [(i64, i64)];
        let rows: [(Stretches, i64, Stretches); 6] = [
            (&[], 1, &[]),
            (&[], 4, &[(1, 3)]),
            (&[(3, 5)], 5, &[(1, 2)]),
            (&[(1, 3), (3, 5), (2, 4)], 5, &[]),
            (&[(1, 9), (2, 3), (12, 14)], 14, &[(9, 11)]),
            (&[(1, 2), (4, 5), (7, 8)], 10, &[(2, 3), (5, 6), (8, 9)]),
        ];
        for (coverage, next, wanted) in rows {
            let stretches = coverage
                .iter()
                .map(|(from, next)| format!("INSERT INTO coverage VALUES ('c', {from}, {next}, 'n', 1, 1);"));
            let chat = format!("INSERT INTO chats VALUES ('c', NULL, 1, 2, NULL, NULL, {next}, 0, NULL);");
            let archive = Fixture::with(&format!("{chat}{}", stretches.collect::<String>())).await;
            let json = printed(all(), Format::Json, &archive).await;
            let objects = json.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an object"));
            let found: Vec<_> = objects.map(|hole| (hole["from"].as_i64(), hole["to"].as_i64())).collect();
            let wanted: Vec<_> = wanted.iter().map(|(from, to)| (Some(*from), Some(*to))).collect();
            assert_eq!(found, wanted, "{coverage:?} to {next}");
        }
    }

    #[test]
    fn only_what_overlaps_a_chats_life_may_explain_its_holes() {
        let hole = Hole {
            chat_id: "c".into(),
            ground: read::Stretch { from: 1, next: 2 },
            service: None,
            first_seen_at: 100_000,
            last_seen_at: 200_000,
            status: "incomplete".into(),
        };
        let rows = [
            (0, Some(99_999), false),
            (0, Some(100_000), true),
            (150_000, Some(160_000), true),
            (150_000, None, true),
            (200_000 + Interruption::SLACK_MS, None, true),
            (200_001 + Interruption::SLACK_MS, None, false),
        ];
        for (from, to, wanted) in rows {
            let interruption = Interruption { from, to, why: String::new(), detail: None, chat_ids: "[]".into() };
            assert_eq!(interruption.may_explain(&hole), wanted, "{from} to {to:?}");
        }
    }
}
