//! `access`: what people have done with the archive, and who read what. Of content it shows only what was typed to ask for it.

use std::path::Path;

use serde_json::Value;

use super::output::{self, Cell, Format, Ink, Look, Output, Table, shown};
use super::scope::Times;
use super::when::{self, Clock};
use crate::store::read::Archive;
use crate::store::read::acts::{Act, Acts};

const EXAMPLE: &str = "\
Example:
  gms-recorder access --since 30d --user anna
  gms-recorder access --kind read --case C-2026-17 --format csv

What reads the file itself (sqlite3, cp, root) is not seen, nor are reads where the archive
could not be written to.";

/// List who read what, and what was erased, purged, masked, held and released, the newest first.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    times: Times,
    /// Only what this user did, or had done by sudo
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only acts of this kind
    #[arg(long, value_parser = ["read", "erase", "purge", "mask", "hold", "unhold", "key", "restore", "merge"])]
    kind: Option<String>,
    /// Only what was done for this case, as --case of that command named it
    #[arg(long, value_name = "REF")]
    case: Option<String>,
    /// Only acts that name this chat: reads of `sql` and `snapshot` name none, or only in their words
    #[arg(long, value_name = "CHAT_ID")]
    chat: Option<String>,
    /// At most this many
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

/// Acts are read in pages of this many, so that no read lasts.
const PAGE: i64 = 500;

const NAMES: [&str; 12] =
    ["id", "kind", "at", "ended_at", "who", "via", "host", "case_ref", "found", "asked", "reason", "version"];

async fn print(args: &Args, database: &Path, clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    let (from, until) = args.times.range(clock)?;
    let (user, kind, case_ref) = (args.user.clone(), args.kind.clone(), args.case.clone());
    let wanted = Acts { from, until, user, kind, case_ref, chat_id: args.chat.clone() };
    let mut archive = Archive::open(database).await?;
    let from = format!("from {}", clock.offset());
    let mut table = Table::new(&["act>", &from, "who", "kind", "rows>", "case", "what"]).keeping(3);
    let mut left = i64::from(args.limit);
    let mut last = None;
    output.header(&NAMES)?;
    loop {
        // One more than wanted, to know whether there are more.
        let asked = PAGE.min(left + 1);
        let Some(mut page) = archive.acts(&wanted, last, asked).await? else {
            output.note("this archive is of an earlier release, which recorded nothing of this")?;
            return Ok(());
        };
        let (is_last_page, is_cut) = ((page.len() as i64) < asked, page.len() as i64 > left);
        page.truncate(usize::try_from(left)?);
        for act in &page {
            match output.format {
                Format::Text => table.push(row(act, clock)),
                Format::Json | Format::Csv => output.record(&NAMES, &record(act))?,
            }
        }
        table.print_if_long(output)?;
        left -= page.len() as i64;
        last = page.last().map(|act| act.id).or(last);
        if is_cut || is_last_page {
            table.print(output)?;
            return end(output, is_cut, args.limit, last.is_none());
        }
    }
}

fn end(output: &mut Output<'_>, is_cut: bool, limit: u32, is_empty: bool) -> anyhow::Result<()> {
    match (is_cut, is_empty) {
        (true, _) => output
            .note(&format!("only the newest {limit} are shown: narrow the question, or ask for more with --limit"))?,
        (false, true) => output.note("nothing of the kind is recorded")?,
        (false, false) => {}
    }
    Ok(())
}

fn row(act: &Act, clock: &Clock) -> Vec<String> {
    let who = match &act.via {
        Some(via) => format!("{} ({})", shown(&act.who), shown(via)),
        None => shown(&act.who),
    };
    let rows = match (act.ended_at, act.found) {
        (Some(_), Some(found)) => found.to_string(),
        _ => Ink::Yellow.on("no end"),
    };
    let reason = act.reason.as_deref().map_or(String::new(), |reason| format!(" ({})", shown(reason)));
    vec![
        act.id.to_string(),
        clock.minute(act.at),
        who,
        shown(&act.kind),
        rows,
        shown(act.case_ref.as_deref().unwrap_or_default()),
        format!("{}{reason}", shown(&asked(&act.asked))),
    ]
}

/// `transcript chat_id=c1 errors`: the command, and what it was given.
fn asked(text: &str) -> String {
    let Ok(Value::Object(given)) = serde_json::from_str(text) else { return text.into() };
    let word = |(name, value): (&String, &Value)| match value {
        Value::Bool(true) => name.clone(),
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    let command = given.get("command").and_then(Value::as_str).map(str::to_owned);
    let words = given.iter().filter(|(name, _)| *name != "command").map(word);
    command.into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

fn record(act: &Act) -> [Cell; NAMES.len()] {
    [
        act.id.into(),
        act.kind.as_str().into(),
        when::iso(act.at).into(),
        act.ended_at.and_then(when::iso).into(),
        act.who.as_str().into(),
        act.via.clone().into(),
        act.host.as_str().into(),
        act.case_ref.clone().into(),
        act.found.into(),
        Cell::Json(act.asked.clone()),
        act.reason.clone().into(),
        act.version.as_str().into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::captured;
    use crate::store::read::fixture::Fixture;

    /// 2026-11-23 14:00, 14:10 and 14:20 in Berlin.
    const ACTS: &str = r#"INSERT INTO acts VALUES
        (1, 'read', 1795438800000, 1795438801000, 'root', 'anna', 'h', 'C-7', '{"command":"transcript","chat_id":"c1","errors":true}', NULL, 13, 'v'),
        (2, 'erase', 1795439400000, 1795439400500, 'bob', NULL, 'h', NULL, '{"command":"erase"}', 'she asked', 30, 'v'),
        (3, 'read', 1795440000000, NULL, 'eve', NULL, 'h', 'C-8', '{"command":"sql","statement":"SELECT \u001b[2J"}', NULL, NULL, 'v')"#;

    async fn printed(args: Args, format: Format) -> String {
        let archive = Fixture::with(ACTS).await;
        captured(format, 100, async |output| print(&args, &archive.path, &Clock::berlin(), output).await)
            .await
            .expect("printed")
    }

    fn all() -> Args {
        Args { limit: 100, ..Args::default() }
    }

    #[tokio::test]
    async fn the_newest_act_comes_first() {
        let wanted = "\
act  from UTC+01:00    who          kind     rows  case  what
  3  2026-11-23 14:20  eve          read   no end  C-8   sql statement=SELECT ␛[2J
  2  2026-11-23 14:10  bob          erase      30        erase (she asked)
  1  2026-11-23 14:00  root (anna)  read       13  C-7   transcript chat_id=c1 errors
";
        assert_eq!(printed(all(), Format::Text).await, wanted);
    }

    #[tokio::test]
    async fn filters_choose() {
        let text = |text: &str| Some(text.to_owned());
        let at = |at: &str| Times { at: Some(at.into()), ..Times::default() };
        let rows: [(Args, &[i64]); 9] = [
            (all(), &[3, 2, 1]),
            (Args { limit: 2, ..all() }, &[3, 2]),
            (Args { user: text("anna"), ..all() }, &[1]),
            (Args { user: text("bob"), ..all() }, &[2]),
            (Args { kind: text("read"), ..all() }, &[3, 1]),
            (Args { case: text("C-7"), ..all() }, &[1]),
            (Args { chat: text("c1"), ..all() }, &[1]),
            (Args { times: at("14:10"), ..all() }, &[2]),
            (Args { times: Times { since: text("15m"), ..Times::default() }, ..all() }, &[3]),
        ];
        for (args, wanted) in rows {
            let asked = format!("{args:?}");
            let json = printed(args, Format::Json).await;
            let acts = json.lines().map(|line| serde_json::from_str::<Value>(line).expect("an object"));
            let found: Vec<_> = acts.filter_map(|act| act["id"].as_i64()).collect();
            assert_eq!(found, wanted, "{asked}");
        }
        let csv = printed(Args { case: text("C-7"), ..all() }, Format::Csv).await;
        let line = csv.lines().nth(1).expect("one");
        assert!(
            line.starts_with("1,read,2026-11-23T13:00:00.000Z,2026-11-23T13:00:01.000Z,root,anna,h,C-7,13,"),
            "{csv}"
        );
    }

    #[tokio::test]
    async fn that_there_is_nothing_is_said() {
        let nobody = Args { user: Some("nobody".into()), ..all() };
        assert_eq!(printed(nobody, Format::Text).await, "nothing of the kind is recorded\n");
        let archive = Fixture::with("DROP VIEW removals; DROP TABLE acts").await;
        let said =
            captured(Format::Text, 100, async |output| print(&all(), &archive.path, &Clock::berlin(), output).await);
        assert!(said.await.expect("printed").starts_with("this archive is of an earlier release"));
    }
}
