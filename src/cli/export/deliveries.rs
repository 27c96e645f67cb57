//! `export --continue` and `export --list`: everything since the last time, for whoever runs it from cron, and what went where.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{As, until_interrupted};
use crate::archive::delivery::{Courier, News, Target};
use crate::cli::actor::actor;
use crate::cli::output::{self, Cell, Format, Look, Output, Table, Usage, counted, plain_line, shown};
use crate::cli::progress::progress;
use crate::cli::when::{self, Clock};
use crate::config::Config;
use crate::recorder::now_ms;
use crate::store::audit::Snapshot;
use crate::store::audit::part::Made;
use crate::store::custody::delivery::Delivery;
use crate::store::read::Archive;

const NAMES: [&str; 15] = [
    "target",
    "number",
    "started_at",
    "finished_at",
    "who",
    "destination",
    "format",
    "chats",
    "additions",
    "removals",
    "rows",
    "files",
    "bytes",
    "outcome",
    "detail",
];

/// Delivers to a target until it has everything that is due.
///
/// # Errors
/// What to tell the user.
pub async fn deliver(name: &str, config: &Config) -> anyhow::Result<()> {
    let Some(target) = config.export.targets.get(name) else {
        let known: Vec<_> = config.export.targets.keys().map(|name| plain_line(name)).collect();
        let known = if known.is_empty() { "there is none".into() } else { format!("there is {}", known.join(", ")) };
        let what = format!("[export.targets] of the configuration has no {}: {known}", plain_line(name));
        return Err(Usage(what).into());
    };
    let database = &config.recording.database;
    // Opened once beforehand, for its words about what is no archive.
    Archive::open(database).await?.close().await?;
    output::to_stdout(Look::default(), async |output| {
        loop {
            let (database, name, to) = (database.clone(), name.to_owned(), target.clone());
            let news = until_interrupted(move |stop| attempt(&database, &name, &to, stop)).await?;
            match news {
                News::Nothing => return Ok(output.note("nothing is due")?),
                News::GivenUp(delivery, why) => {
                    let number = delivery.number;
                    output.line(&format!("delivery {number} was given up: {}", plain_line(&why)))?;
                }
                News::Delivered(delivery) => {
                    output.line(&told(&delivery))?;
                    if !target.is_full(&delivery) {
                        return Ok(());
                    }
                }
            }
        }
    })
    .await
}

fn attempt(database: &std::path::Path, name: &str, target: &Target, stop: Arc<AtomicBool>) -> anyhow::Result<News> {
    let who = actor(None).who;
    let courier = Courier { database, name, target, who: &who, stop: &stop };
    Ok(courier.deliver(&now_ms, &mut progress("chats, then leaves"))?)
}

fn told(delivery: &Delivery) -> String {
    let of = |number: u64, noun: &str| counted(i64::try_from(number).unwrap_or(i64::MAX), noun);
    let mut what = vec![of(delivery.chats, "chat")];
    if delivery.additions > 0 {
        what.push(of(delivery.additions, "addition"));
    }
    if delivery.removals > 0 {
        what.push(of(delivery.removals, "removal"));
    }
    let place = plain_line(&delivery.destination);
    format!("{place}  delivery {}: {}, {} in all", delivery.number, what.join(", "), of(delivery.rows, "row"))
}

/// Lists what was delivered, the last one last.
///
/// # Errors
/// What to tell the user.
pub async fn list(format: Option<As>, utc: bool, config: &Config) -> anyhow::Result<()> {
    let format = match format {
        None => Format::Text,
        Some(As::Jsonl) => Format::Json,
        Some(As::Csv) => Format::Csv,
        Some(_) => return Err(Usage("--list is told as text, or with --format jsonl or csv".into()).into()),
    };
    let database = &config.recording.database;
    Archive::open(database).await?.close().await?;
    let made = Snapshot::open(database)?.deliveries(None)?;
    output::to_stdout(Look { format, utc }, async |output| print(&made, &Clock::now(utc), output)).await
}

fn print(made: &[Made], clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    output.header(&NAMES)?;
    if output.format == Format::Text {
        let mut table =
            Table::new(&["target", "number>", "delivered", "chats>", "added>", "removed>", "rows>", "where"]);
        for one in made {
            let number = |value: i64| value.to_string();
            let place = match &one.detail {
                None => shown(&one.destination),
                Some(why) => format!("GIVEN UP: {}", shown(why)),
            };
            let counts = [one.chats, one.additions, one.removals, one.rows].map(number);
            let mut row = vec![shown(&one.target), number(one.number), clock.minute(one.finished_at)];
            row.extend(counts);
            row.push(place);
            table.push(row);
        }
        table.print(output)?;
        if made.is_empty() {
            output.note("nothing was delivered yet")?;
        }
        return Ok(());
    }
    for one in made {
        let cells: [Cell; 15] = [
            one.target.clone().into(),
            one.number.into(),
            when::iso(one.started_at).into(),
            when::iso(one.finished_at).into(),
            one.who.clone().into(),
            one.destination.clone().into(),
            one.format.clone().into(),
            one.chats.into(),
            one.additions.into(),
            one.removals.into(),
            one.rows.into(),
            one.files.into(),
            one.bytes.into(),
            one.outcome.clone().into(),
            one.detail.clone().into(),
        ];
        output.record(&NAMES, &cells)?;
    }
    Ok(())
}
