//! `hold` and `unhold`: what may not be erased or purged.

use super::actor::actor;
use super::custody::{self, Why};
use super::erase::{customer, digest_of};
use super::output::{self, Format, Ink, Look, Output, Usage, counted, shown};
use super::when::{self, Clock};
use crate::config::Config;
use crate::recorder::now_ms;
use crate::store::custody::{Act, Asker, Custody, Hold, Kind, Scope};

const EXAMPLE: &str = "\
Example:
  gms-recorder hold --who email=anna@example.com --reason \"Berg v. Example Ltd\" --case L-12
  gms-recorder hold --query \"SELECT chat_id FROM chats WHERE service = 'claims'\" --reason audit
  gms-recorder hold --list

Exit codes:
  0  it is in force, or listed
  1  it could not be done: the query failed or gave no ids, or the archive cannot be changed
  2  wrong usage: no --reason, a --query that is no SELECT of one column";

const UNHOLD_EXAMPLE: &str = "\
Example:
  gms-recorder unhold 3 --reason \"settled\" --case L-12";

/// Put chats on hold: they are neither erased nor purged until `unhold`, whatever the schedule or a customer asks.
///
/// A customer's hold and a query's are for chats to come, too.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    scope: Which,
    /// List the holds, released ones too.
    #[arg(long, conflicts_with_all = ["chat", "who", "query", "reason", "case_ref"])]
    list: bool,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    look: Look,
}

/// Exactly one of these.
#[derive(Debug, Clone, clap::Args)]
#[group(required = false, multiple = false)]
pub struct Which {
    /// A chat, by its id.
    #[arg(long, value_name = "CHAT_ID")]
    chat: Option<String>,
    /// A customer: email=anna@example.com, userData[customerId]=4711, or a value of any attribute; whole, whatever the case.
    #[arg(long, value_name = "NAME=VALUE")]
    who: Option<String>,
    /// One SELECT of one column: ids of chats. It is asked whenever something is to be erased or purged.
    #[arg(long, value_name = "SELECT")]
    query: Option<String>,
}

/// Release a hold. Erasures that waited for it are run by `erase --waiting`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = UNHOLD_EXAMPLE)]
#[group(skip)]
pub struct Unhold {
    /// The number of the hold, as `hold --list` shows it.
    id: i64,
    #[command(flatten)]
    why: Why,
}

/// Runs `hold`.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, config: &Config) -> anyhow::Result<()> {
    if args.list {
        let holds = custody::open_to_list(config).await?.holds()?;
        let clock = Clock::now(args.look.utc);
        return output::to_stdout(args.look, async |output| print(&holds, &clock, output)).await;
    }
    let custody = custody::open(config).await?;
    let scope = scope(&args.scope)?;
    let reason = args.why.reason()?;
    if let Scope::Query(query) = &scope
        && let Some(why) = custody.why_no_query(query)
    {
        return Err(Usage(output::plain_line(&why)).into());
    }
    let asked = serde_json::json!({ "command": "hold", "on": without_customer(&custody, &scope) });
    let actor = actor(args.why.case_ref.as_deref());
    let act = Act { kind: Kind::Hold, at: now_ms(), actor: &actor, asked, reason: Some(reason) };
    let id = custody.hold(&act, &scope)?;
    let covers = custody.covers(&scope)?;
    custody::sign(&custody, config)?;
    custody.close()?;
    output::to_stdout(args.look, async |output| {
        let chats = counted(i64::try_from(covers)?, "chat");
        output.note(&format!("hold {id} is in force: {scope}; {chats} now"))?;
        let names = ["hold", "on", "chats"];
        if output.format != Format::Text {
            output.header(&names)?;
            output.record(&names, &[id.into(), scope.to_string().into(), i64::try_from(covers)?.into()])?;
        }
        if covers == 0 {
            let hint = "no chat of the archive is held by it: is that spelt as the archive has it? `gms-recorder chats --who` finds \
                        customers by parts of what is known of them";
            output.note(&Ink::Yellow.on(hint))?;
        }
        Ok(())
    })
    .await
}

/// Runs `unhold`.
///
/// # Errors
/// What to tell the user.
pub async fn release(args: Unhold, config: &Config) -> anyhow::Result<()> {
    let custody = custody::open(config).await?;
    let asked = serde_json::json!({ "command": "unhold", "hold": args.id });
    let actor = actor(args.why.case_ref.as_deref());
    let act = Act { kind: Kind::Unhold, at: now_ms(), actor: &actor, asked, reason: Some(args.why.reason()?) };
    anyhow::ensure!(
        custody.release(&act, args.id)?,
        "there is no hold {} in force: `gms-recorder hold --list` lists them",
        args.id
    );
    custody::sign(&custody, config)?;
    let waiting = custody.waiting()?.len();
    custody.close()?;
    output::to_stdout(Look::default(), async |output| {
        output.note(&format!("hold {} is released", args.id))?;
        if waiting > 0 {
            let verb = if waiting == 1 { "waits" } else { "wait" };
            let waiting = counted(i64::try_from(waiting)?, "erasure");
            output.note(&format!(
                "{waiting} {verb} for holds: gms-recorder erase --waiting --reason … runs those that are free"
            ))?;
        }
        Ok(())
    })
    .await
}

fn scope(which: &Which) -> Result<Scope, Usage> {
    let nothing = || Usage("say what to hold: --chat CHAT_ID, --who NAME=VALUE or --query SELECT".into());
    match which {
        Which { chat: Some(chat_id), .. } => Ok(Scope::Chat(chat_id.clone())),
        Which { who: Some(who), .. } => Ok(Scope::Customer(customer(who)?)),
        Which { query: Some(query), .. } => Ok(Scope::Query(query.clone())),
        _ => Err(nothing()),
    }
}

/// The customer stands in the hold, for as long as it is there; the act stays.
fn without_customer(custody: &Custody, scope: &Scope) -> String {
    match scope {
        Scope::Customer(customer) => format!("customer {}", digest_of(custody.archive_id(), customer)),
        other => other.to_string(),
    }
}

/// ` (root (anna), case L-12)`.
pub(super) fn asked_by(asker: &Asker) -> String {
    let case_ref = asker.case_ref.as_ref().map(|case_ref| format!("case {}", shown(case_ref)));
    let who = (!asker.who.is_empty()).then(|| shown(&asker.who));
    let parts: Vec<String> = who.into_iter().chain(case_ref).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn print(holds: &[Hold], clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    let names = ["hold", "on", "reason", "since", "released_at", "who", "case", "released_by", "released_case"];
    output.header(&names)?;
    for Hold { id, at, reason, scope, released_at, set_by, released_by } in holds {
        match output.format {
            Format::Text => {
                let by = released_by.as_ref().map(asked_by).unwrap_or_default();
                let until = released_at.map_or(String::new(), |at| format!(", released {}{by}", clock.date_time(at)));
                let (scope, reason, by) = (shown(&scope.to_string()), shown(reason), asked_by(set_by));
                output.line(&format!("{id}  {scope}  since {}: {reason}{by}{until}", clock.date_time(*at)))?;
            }
            Format::Json | Format::Csv => {
                let cells = [
                    (*id).into(),
                    scope.to_string().into(),
                    reason.as_str().into(),
                    when::iso(*at).into(),
                    released_at.and_then(when::iso).into(),
                    set_by.who.as_str().into(),
                    set_by.case_ref.clone().into(),
                    released_by.as_ref().map(|asker| asker.who.clone()).into(),
                    released_by.as_ref().and_then(|asker| asker.case_ref.clone()).into(),
                ];
                output.record(&names, &cells)?;
            }
        }
    }
    if holds.is_empty() {
        output.note("nothing is on hold")?;
    }
    Ok(())
}
