//! `errors`: what clients were given instead of an answer, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::output::{self, Cell, Format, Ink, Look, Output, labelled, shown};
use super::reading::{Case, Reading};
use super::scope::{Customers, Scope};
use super::when::{self, Clock};
use crate::store::read::{self, ApiError, Archive};

const EXAMPLE: &str = "\
Example:
  gms-recorder errors --at 14:02 --window 5m --who anna@example.com";

/// List the errors that clients were given, the newest first, each with what to do about it.
///
/// Requests that never got a chat (a refused requestChat) have no customer: leave out --who to see them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    scope: Scope,
    /// Only errors with this code.
    #[arg(long)]
    code: Option<i64>,
    /// Only errors of this chat.
    #[arg(long, value_name = "CHAT_ID")]
    chat: Option<String>,
    /// Only errors from nodes whose name contains this.
    #[arg(long, value_name = "TEXT")]
    node: Option<String>,
    /// At most this many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    case: Case,
    #[command(flatten)]
    look: Look,
}

impl Args {
    /// The errors of one chat, in text.
    pub fn of_chat(chat_id: &str) -> Self {
        Self { chat: Some(chat_id.into()), limit: 100, ..Self::default() }
    }
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

const PAGE: i64 = 200;

async fn print(args: &Args, databases: &[PathBuf], clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    let (from, until) = args.scope.times.range(clock)?;
    let mut archive = Archive::open_all(databases).await?;
    let who = args.scope.chat_ids(&mut archive).await?;
    let chat_ids = both(who, args.chat.clone());
    let wanted = read::Errors { from, until, chat_ids, code: args.code, node: args.node.clone() };

    let mut customers = Customers::default();
    let mut left = i64::from(args.limit);
    let mut last: Option<ApiError> = None;
    output.header(&NAMES)?;
    loop {
        // One more than wanted, to know whether there are more.
        let mut page = archive.errors(&wanted, last.as_ref(), PAGE.min(left + 1)).await?;
        let is_last_page = (page.len() as i64) < PAGE.min(left + 1);
        let is_cut = page.len() as i64 > left;
        page.truncate(usize::try_from(left)?);
        customers.learn(&mut archive, page.iter().filter_map(|error| error.chat_id.as_ref())).await?;
        for error in &page {
            let customer = error.chat_id.as_ref().and_then(|chat_id| customers.name(chat_id));
            match output.format {
                Format::Text => entry(error, customer.as_deref(), clock, output)?,
                Format::Json | Format::Csv => output.record(&NAMES, &record(error, customer))?,
            }
        }
        left -= page.len() as i64;
        last = page.pop().or(last);
        if is_cut || is_last_page {
            return end(args, output, is_cut, last.is_none());
        }
    }
}

/// `--who` and `--chat` together mean what both mean.
fn both(who: Option<Vec<String>>, chat: Option<String>) -> Option<Vec<String>> {
    match (who, chat) {
        (Some(who), Some(chat)) => Some(who.into_iter().filter(|chat_id| *chat_id == chat).collect()),
        (None, Some(chat)) => Some(vec![chat]),
        (who, None) => who,
    }
}

fn end(args: &Args, output: &mut Output<'_>, is_cut: bool, is_empty: bool) -> anyhow::Result<()> {
    let limit = args.limit;
    match (is_cut, is_empty, args.scope.who.is_some()) {
        (true, ..) => {
            output.note(&format!(
                "only the newest {limit} are shown: narrow the question, or ask for more with --limit"
            ))?;
        }
        (_, true, true) => {
            output.note("no such errors of this customer's chats; requests that never got a chat have no customer: try without --who")?;
        }
        (_, true, false) => output.note("no such errors")?,
        _ => {}
    }
    Ok(())
}

fn entry(error: &ApiError, customer: Option<&str>, clock: &Clock, output: &mut Output<'_>) -> io::Result<()> {
    output.rows += 1;
    output.line(&format!("{}  {}", Ink::Bold.on(&clock.date_time(error.observed_at)), Ink::Red.on(&got(error))))?;
    for (label, text) in [
        ("means", error.meaning.as_deref().map(shown)),
        ("field", error.field.as_deref().map(shown)),
        ("detail", error.detail.as_deref().map(shown)),
        ("advice", error.advice.as_deref().map(shown)),
        ("chat", chat(error, customer)),
        ("request", Some(request(error)).filter(|text| !text.is_empty())),
        ("repeated", repeated(error, clock)),
        ("do", Some(Ink::Bold.on(&remedy(error)))),
    ] {
        if let Some(text) = text {
            labelled(output, label, &text)?;
        }
    }
    output.line("")
}

/// What the client got: `HTTP 200, statusCode 2, code 249`.
pub(super) fn got(error: &ApiError) -> String {
    let by = match error.origin.as_str() {
        "client" => return "client left before its answer".into(),
        "proxy" => "answered by the recorder: ",
        _ => "",
    };
    let parts: Vec<_> = [("HTTP", error.http_status), ("statusCode", error.status_code), ("code", error.code)]
        .into_iter()
        .filter_map(|(name, number)| number.map(|number| format!("{name} {number}")))
        .collect();
    let said =
        if parts.is_empty() { format!("an error of the format {}", shown(&error.format)) } else { parts.join(", ") };
    format!("{by}{said}")
}

fn chat(error: &ApiError, customer: Option<&str>) -> Option<String> {
    let chat_id = shown(error.chat_id.as_deref()?);
    Some(match customer {
        Some(customer) => format!("{chat_id}, customer {}", shown(customer)),
        None => chat_id,
    })
}

fn request(error: &ApiError) -> String {
    let operation = match (&error.operation, &error.path) {
        (Some(operation), _) => Some(shown(operation)),
        (None, Some(path)) => Some(shown(&format!("{} {path}", error.method.as_deref().unwrap_or_default()))),
        (None, None) => None,
    };
    let named = |name: &str, value: &Option<String>| value.as_deref().map(|value| format!("{name} {}", shown(value)));
    let parts = [
        operation,
        named("on service", &error.service),
        named("at node", &error.node),
        named("alias", &error.alias),
        named("from client", &error.client),
        error.duration_ms.map(|ms| format!("after {}", when::span(ms))),
        named("request", &error.request_id),
        named("trace", &error.trace_id),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn repeated(error: &ApiError, clock: &Clock) -> Option<String> {
    let last = clock.time(error.last_observed_at);
    (error.repeats > 1).then(|| format!("{} times, last at {last}", error.repeats))
}

/// What to do: the reference ID in the node's log first, since that is what Genesys support asks for; then the
/// catalogue's remedy, else what holds for the whole class.
pub(super) fn remedy(error: &ApiError) -> String {
    let node = error.node.as_deref().map_or("the GMS node".into(), |node| format!("node {}", shown(node)));
    let general = error.remedy.as_deref().map_or_else(|| by_class(error, &node), shown);
    match &error.reference_id {
        Some(reference) => format!("search {} in the GMS log of {node}; {general}", shown(reference)),
        None => general,
    }
}

fn by_class(error: &ApiError, node: &str) -> String {
    let at = when::iso(error.observed_at).unwrap_or_default();
    match (error.origin.as_str(), error.class.as_str()) {
        ("client", _) => format!("see whether {node} was slow at {at}: the client gave up before the answer came"),
        ("proxy", _) => format!("see whether {node} was up and reachable from the recorder at {at}"),
        (_, "missing") => "have the page or app send the field that is missing".into(),
        (_, "limit") => "have the page or app keep to the limit, or raise it in the options of the chat service".into(),
        (_, "unexpected") => format!("look into the GMS log of {node} at {at}"),
        (_, "not_found") => "check that the id is of this session; what was asked for may be gone".into(),
        (_, "media_server") => format!("look into the Chat Server's log and the GMS log of {node} at {at}"),
        (_, "invalid") => "have the page or app send a valid value; for a service name, check the GMS options".into(),
        (_, "transport") => format!("check {node} and the network to it at {at}"),
        _ => format!("look into the GMS log of {node} at {at}"),
    }
}

/// The names of an error's fields in JSON and CSV: those of `error_audit`, the customer, and what to do.
pub(super) const NAMES: [&str; 32] = [
    "id",
    "at",
    "last_at",
    "repeats",
    "origin",
    "http_status",
    "status_code",
    "format",
    "code",
    "meaning",
    "class",
    "field",
    "detail",
    "advice",
    "reference_id",
    "service",
    "operation",
    "chat_id",
    "customer",
    "alias",
    "method",
    "path",
    "node",
    "client",
    "request_id",
    "trace_id",
    "duration_ms",
    "remedy",
    "what_to_do",
    "observed_at",
    "last_observed_at",
    "run_id",
];

/// The values to [`NAMES`].
pub(super) fn record(error: &ApiError, customer: Option<String>) -> [Cell; NAMES.len()] {
    let what_to_do = output::without_ink(&remedy(error));
    let error = error.clone();
    [
        error.id.into(),
        when::iso(error.observed_at).into(),
        when::iso(error.last_observed_at).into(),
        error.repeats.into(),
        error.origin.into(),
        error.http_status.into(),
        error.status_code.into(),
        error.format.into(),
        error.code.into(),
        error.meaning.into(),
        error.class.into(),
        error.field.into(),
        error.detail.into(),
        error.advice.into(),
        error.reference_id.into(),
        error.service.into(),
        error.operation.into(),
        error.chat_id.into(),
        customer.into(),
        error.alias.into(),
        error.method.into(),
        error.path.into(),
        error.node.into(),
        error.client.into(),
        error.request_id.into(),
        error.trace_id.into(),
        error.duration_ms.into(),
        error.remedy.into(),
        what_to_do.into(),
        error.observed_at.into(),
        error.last_observed_at.into(),
        error.run_id.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::captured;
    use crate::store::read::fixture::Fixture;

    async fn printed(args: Args, format: Format) -> String {
        let archive = Fixture::example().await;
        captured(format, 80, async |output| {
            print(&args, std::slice::from_ref(&archive.path), &Clock::berlin(), output).await
        })
        .await
        .expect("printed")
    }

    fn all() -> Args {
        Args { limit: 100, ..Args::default() }
    }

    fn scope(at: Option<&str>, who: Option<&str>) -> Scope {
        Scope::named(None, at, who)
    }

    #[tokio::test]
    async fn the_customers_error_ends_with_what_to_do() {
        let args = Args { scope: scope(Some("14:02"), Some("ANNA@example.com")), ..all() };
        let wanted = "2026-11-23 14:02:05 +01:00  HTTP 200, statusCode 2, code 249
  means     the Media Server could not execute the request
  advice    Media server was not able to execute request. referenceId[10016629]
  chat      c1, customer Anna <anna@example.com>
  request   file, on service support, at node gms-3, alias 117, from client
            10.1.2.3, after 31 ms
  repeated  3 times, last at 14:02:35
  do        search 10016629 in the GMS log of node gms-3; look into the Chat
            Server

";
        assert_eq!(printed(args, Format::Text).await, wanted);
    }

    #[tokio::test]
    async fn filters_choose_the_newest_first() {
        let rows: [(Args, &[i64]); 11] = [
            (all(), &[2, 1, 3]),
            (Args { limit: 1, ..all() }, &[2]),
            (Args { code: Some(249), ..all() }, &[1]),
            (Args { node: Some("gms-1".into()), ..all() }, &[2, 3]),
            (Args { chat: Some("c2".into()), ..all() }, &[2]),
            (Args { scope: scope(None, Some("c1")), chat: Some("c2".into()), ..all() }, &[]),
            (Args { scope: scope(None, Some("anna")), ..all() }, &[1]),
            (Args { scope: scope(None, Some("nobody")), ..all() }, &[]),
            (Args { scope: scope(Some("14:05"), None), ..all() }, &[2, 1]),
            (Args { scope: scope(Some("14:20"), None), ..all() }, &[]),
            (Args { scope: Scope::named(Some("1h"), None, None), ..all() }, &[2, 1]),
        ];
        for (args, wanted) in rows {
            let case = format!("{args:?}");
            let json = printed(args, Format::Json).await;
            let ids = json
                .lines()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an object")["id"].clone());
            assert_eq!(ids.collect::<Vec<_>>(), wanted, "{case}");
        }
    }

    #[tokio::test]
    async fn what_was_left_out_is_said() {
        let cut = printed(Args { limit: 1, ..all() }, Format::Text).await;
        assert!(cut.contains("only the newest 1 are shown"), "{cut}");
        let none = printed(Args { code: Some(1), ..all() }, Format::Text).await;
        assert_eq!(none, "no such errors\n");
        let nobody = printed(Args { scope: scope(None, Some("nobody")), ..all() }, Format::Text).await;
        assert!(nobody.contains("try without --who"), "{nobody}");
    }

    #[tokio::test]
    async fn csv_has_the_header_and_a_line_each() {
        let csv = printed(all(), Format::Csv).await;
        assert!(csv.starts_with("id,at,last_at,repeats,"), "{csv}");
        assert_eq!(csv.matches("\r\n").count(), 4);
    }

    #[test]
    fn every_error_has_something_to_do() {
        let of = |origin: &str, class: &str| ApiError {
            origin: origin.into(),
            class: class.into(),
            node: Some("gms-3".into()),
            ..ApiError::default()
        };
        let rows = [
            (
                ApiError { reference_id: Some("7".into()), ..of("gms", "unexpected") },
                "search 7 in the GMS log of node gms-3",
            ),
            (ApiError { remedy: Some("turn it off and on".into()), ..of("gms", "limit") }, "turn it off and on"),
            (of("client", "transport"), "whether node gms-3 was slow"),
            (of("proxy", "transport"), "reachable from the recorder"),
            (of("gms", "missing"), "send the field that is missing"),
            (of("gms", "invalid"), "send a valid value"),
            (of("gms", "limit"), "keep to the limit"),
            (of("gms", "not_found"), "of this session"),
            (of("chat_server", "media_server"), "Chat Server's log"),
            (of("gms", "some class of tomorrow"), "GMS log of node gms-3"),
            (ApiError { node: Some("g\u{1b}".into()), ..of("gms", "unknown") }, "node g␛"),
            (ApiError { node: None, ..of("gms", "unknown") }, "the GMS node"),
        ];
        for (error, wanted) in rows {
            let text = output::without_ink(&remedy(&error));
            assert!(text.contains(wanted), "{text}");
        }
    }
}
