//! `chats`: a line a chat, the last seen first.

use std::path::PathBuf;

use super::output::{Cell, Format, Ink, Look, Output, Table, counted, shown};
use super::reading::{Case, Reading};
use super::scope::{Customers, Scope};
use super::when::{self, Clock};
use crate::store::read::{self, Archive, Chat};

const EXAMPLE: &str = "\
Example:
  gms-recorder chats --since 7d --status incomplete";

/// List the chats of the archive, the last seen first.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    scope: Scope,
    /// Only chats of this status.
    #[arg(long, value_parser = ["complete", "incomplete", "unfinished", "open"])]
    status: Option<String>,
    /// At most this many.
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
/// What to tell the user.
pub async fn run(args: Args, reading: &Reading) -> anyhow::Result<()> {
    let clock = Clock::now(args.look.utc);
    let databases = &reading.databases;
    reading.to_stdout(&args.case, args.look, async |output| print(&args, databases, &clock, output).await).await
}

/// Chats are read in pages of this many, so that no read lasts.
const PAGE: i64 = 200;

const NAMES: [&str; 16] = [
    "chat_id",
    "service",
    "started_at",
    "last_seen",
    "customer",
    "events",
    "messages",
    "agents",
    "errors",
    "status",
    "holes",
    "hidden",
    "ended_how",
    "first_seen_at",
    "last_seen_at",
    "ended_at",
];

async fn print(args: &Args, databases: &[PathBuf], clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    let (from, until) = args.scope.times.range(clock)?;
    let mut archive = Archive::open_all(databases).await?;
    let chat_ids = args.scope.chat_ids(&mut archive).await?;
    let wanted = read::Chats { from, until, chat_ids, status: args.status.clone() };

    let from = format!("from {}", clock.offset());
    let names = ["chat", &from, "until", "service", "customer", "messages>", "agents", "errors>", "status"];
    let is_narrow = output.width < WIDE;
    let mut table = Table::new(&fitting(names.to_vec(), is_narrow)).keeping(2);
    let mut left = i64::from(args.limit);
    let mut last: Option<Chat> = None;
    output.header(&NAMES)?;
    loop {
        // One more than wanted, to know whether there are more.
        let mut page = archive.chats(&wanted, last.as_ref(), PAGE.min(left + 1)).await?;
        let is_last_page = (page.len() as i64) < PAGE.min(left + 1);
        let is_cut = page.len() as i64 > left;
        page.truncate(usize::try_from(left)?);
        let mut customers = Customers::default();
        customers.learn(&mut archive, page.iter().map(|chat| &chat.chat_id)).await?;
        for chat in &page {
            let customer = customers.name(&chat.chat_id);
            match output.format {
                Format::Text => table.push(fitting(row(chat, customer.as_deref(), clock), is_narrow)),
                Format::Json | Format::Csv => output.record(&NAMES, &record(chat, customer))?,
            }
        }
        table.print_if_long(output)?;
        left -= page.len() as i64;
        last = page.pop().or(last);
        if is_cut || is_last_page {
            table.print(output)?;
            return end(output, is_cut, args.limit, last.is_none());
        }
    }
}

/// All columns need this many; a narrower window is shown those of [`NARROW`].
const WIDE: usize = 100;
/// chat, from, customer, messages, errors, status
const NARROW: [usize; 6] = [0, 1, 4, 5, 7, 8];

fn fitting<T>(columns: Vec<T>, is_narrow: bool) -> Vec<T> {
    let chosen = columns.into_iter().enumerate().filter(|(at, _)| !is_narrow || NARROW.contains(at));
    chosen.map(|(_, column)| column).collect()
}

fn end(output: &mut Output<'_>, is_cut: bool, limit: u32, is_empty: bool) -> anyhow::Result<()> {
    match (is_cut, is_empty) {
        (true, _) => output
            .note(&format!("only the first {limit} are shown: narrow the question, or ask for more with --limit"))?,
        (false, true) => output.note("no such chats")?,
        (false, false) => {}
    }
    Ok(())
}

fn row(chat: &Chat, customer: Option<&str>, clock: &Clock) -> Vec<String> {
    let status = match chat.status.as_str() {
        "incomplete" => Ink::Yellow.on(&format!("incomplete, {}", counted(chat.holes, "hole"))),
        status => shown(status),
    };
    let errors = if chat.errors > 0 { Ink::Red.on(&chat.errors.to_string()) } else { "0".into() };
    vec![
        shown(&chat.chat_id),
        clock.minute(chat.first_seen_at),
        clock.minute_after(chat.first_seen_at, chat.last_seen_at),
        shown(chat.service.as_deref().unwrap_or_default()),
        shown(customer.unwrap_or_default()),
        chat.messages.to_string(),
        shown(&chat.agents.as_deref().unwrap_or_default().replace(',', ", ")),
        errors,
        status,
    ]
}

fn record(chat: &Chat, customer: Option<String>) -> [Cell; NAMES.len()] {
    [
        chat.chat_id.as_str().into(),
        chat.service.clone().into(),
        when::iso(chat.first_seen_at).into(),
        when::iso(chat.last_seen_at).into(),
        customer.into(),
        chat.events.into(),
        chat.messages.into(),
        chat.agents.clone().into(),
        chat.errors.into(),
        chat.status.as_str().into(),
        chat.holes.into(),
        chat.hidden.into(),
        chat.ended_how.clone().into(),
        chat.first_seen_at.into(),
        chat.last_seen_at.into(),
        chat.ended_at.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::captured;
    use crate::store::read::fixture::Fixture;

    async fn printed(args: Args, format: Format, archive: &Fixture) -> String {
        captured(format, 120, async |output| {
            print(&args, std::slice::from_ref(&archive.path), &Clock::berlin(), output).await
        })
        .await
        .expect("printed")
    }

    fn all() -> Args {
        Args { scope: Scope::default(), status: None, limit: 100, case: Case::default(), look: Look::default() }
    }

    fn who(text: &str) -> Args {
        Args { scope: Scope { who: Some(text.into()), ..Scope::default() }, ..all() }
    }

    #[tokio::test]
    async fn chats_are_listed_for_eyes() {
        let wanted = "\
chat  from UTC+01:00    until  service  customer                 messages  agents  errors  status
c2    2026-11-23 14:03  14:11  sales    Åsa Berg                        3               1  incomplete, 1 hole
c1    2026-11-23 14:00  14:09  support  Anna <anna@example.com>         3  Max          3  complete
c3    2026-11-21 23:26  23:26                                           1               0  unfinished
";
        assert_eq!(printed(all(), Format::Text, &Fixture::example().await).await, wanted);
    }

    #[tokio::test]
    async fn a_narrow_window_is_shown_what_matters() {
        let archive = Fixture::example().await;
        let text = captured(Format::Text, 90, async |output| {
            print(&all(), std::slice::from_ref(&archive.path), &Clock::berlin(), output).await
        });
        let wanted = "\
chat  from UTC+01:00    customer                 messages  errors  status
c2    2026-11-23 14:03  Åsa Berg                        3       1  incomplete, 1 hole
";
        assert_eq!(
            text.await.expect("printed").lines().take(2).map(|line| format!("{line}\n")).collect::<String>(),
            wanted
        );
    }

    #[tokio::test]
    async fn filters_choose() {
        let archive = Fixture::example().await;
        let at = |at: &str| Args { scope: Scope::named(None, Some(at), None), ..all() };
        let rows: [(Args, &[&str]); 15] = [
            (all(), &["c2", "c1", "c3"]),
            (Args { limit: 2, ..all() }, &["c2", "c1"]),
            (Args { status: Some("complete".into()), ..all() }, &["c1"]),
            (Args { status: Some("open".into()), ..all() }, &[]),
            (who("ANNA@Example.com"), &["c1"]),
            (who("anna"), &["c1"]),
            (who("åsa"), &["c2"]),
            (who("ÅSA"), &["c2"]),
            (who("a_100%"), &["c2"]),
            (who("A_1"), &["c2"]),
            (who("axb"), &[]),
            (who("c3"), &["c3"]),
            (at("14:11"), &["c2", "c1"]),
            (at("14:20"), &[]),
            (Args { scope: Scope::named(Some("1h"), None, None), ..all() }, &["c2", "c1"]),
        ];
        for (args, wanted) in rows {
            let case = format!("{args:?}");
            let json = printed(args, Format::Json, &archive).await;
            let ids = json
                .lines()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an object")["chat_id"].clone());
            assert_eq!(ids.collect::<Vec<_>>(), wanted, "{case}");
        }
    }

    #[tokio::test]
    async fn long_lists_are_read_in_pages_and_cut_where_asked() {
        let rows = (1..=450).map(|n| format!("('x{n:03}', NULL, {}, {}, NULL, NULL, NULL, 0, NULL)", n / 2, n / 2));
        let archive = Fixture::with(&format!("INSERT INTO chats VALUES {}", rows.collect::<Vec<_>>().join(","))).await;
        for (limit, wanted) in [(1, 1), (199, 199), (200, 200), (201, 201), (400, 400), (450, 450), (1_000, 450)] {
            let csv = printed(Args { limit, ..all() }, Format::Csv, &archive).await;
            let mut ids: Vec<_> = csv.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
            ids.dedup();
            assert_eq!(ids.len(), wanted, "--limit {limit}");
            let text = printed(Args { limit, ..all() }, Format::Text, &archive).await;
            assert_eq!(text.contains("are shown"), limit < 450, "--limit {limit}");
        }
    }
}
