//! `chats`: a line a chat, the last seen first.

use std::path::Path;

use super::output::{self, Cell, Format, Ink, Look, Output, Table, shown};
use super::scope::{Customers, Scope};
use super::when::{self, Clock};
use crate::store::read::{self, Archive, Chat};

/// List the chats of the archive, the last seen first.
#[derive(Debug, Clone, clap::Args)]
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
    look: Look,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, database: &Path) -> anyhow::Result<()> {
    let clock = Clock::now(args.look.utc);
    output::to_stdout(args.look, async |output| print(&args, database, &clock, output).await).await
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

async fn print(args: &Args, database: &Path, clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    let (from, until) = args.scope.times(clock)?;
    let mut archive = Archive::open(database).await?;
    let chat_ids = args.scope.chat_ids(&mut archive).await?;
    let wanted = read::Chats { from, until, chat_ids, status: args.status.clone() };

    let mut table = Table::new(&[
        "chat",
        "started",
        "last seen",
        "service",
        "customer",
        "messages>",
        "agents",
        "errors>",
        "status",
    ]);
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
                Format::Text => table.push(row(chat, customer.as_deref(), clock)),
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
        "incomplete" => Ink::Yellow.on(&format!("incomplete, {}", holes(chat.holes))),
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

/// `1 hole`, `2 holes`.
pub(super) fn holes(count: i64) -> String {
    format!("{count} hole{}", if count == 1 { "" } else { "s" })
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
