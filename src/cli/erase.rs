//! `erase`: chats go, and what proves that the others are whole stays.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::actor::actor;
use super::custody::{self, Why};
use super::hold;
use super::output::{self, Cell, Format, Ink, Look, Output, Usage, counted, plain_line, shown};
use super::progress::progress;
use super::prove::{Proved, prove};
use super::when::{self, Clock};
use crate::config::Config;
use crate::recorder::now_ms;
use crate::store::audit::proof::Subject;
use crate::store::custody::{Act, Custody, Customer, How, Kind, Outcome, Target, Waiting};

const EXAMPLE: &str = "\
Example:
  gms-recorder erase --who email=anna@example.com --reason \"Art. 17 GDPR\" --case 4711 --dry-run
  gms-recorder erase --who email=anna@example.com --reason \"Art. 17 GDPR\" --case 4711 --certificate 4711.json

Exit codes:
  0  everything asked for is erased, to the last byte
  1  something is not: it is held and waits, there is nothing of it, or it could not be done
  2  wrong usage";

/// Erase chats: their events, variants, attributes, errors, findings, files' hashes, coverage, and the salts of the seals.
///
/// The leaves of the tree stay, and a row says by whom and why: `verify` passes afterwards. What is delivered again of an
/// erased chat is not recorded again. What is held is not erased: it waits, and `erase --waiting` runs it afterwards. Copies
/// (snapshots, backups, exports) are yours to see to.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// A chat, by its id; again for each.
    #[arg(long = "chat", value_name = "CHAT_ID", required_unless_present_any = ["who", "waiting", "list"])]
    chats: Vec<String>,
    /// A customer: email=anna@example.com, userData[customerId]=4711, or a value of any attribute; whole, whatever the case.
    #[arg(long, value_name = "NAME=VALUE", conflicts_with_all = ["waiting", "list"])]
    who: Option<String>,
    /// What waited for a hold that has been released.
    #[arg(long, conflicts_with_all = ["chats", "list"])]
    waiting: bool,
    /// List what waits, and erase nothing.
    #[arg(long, conflicts_with_all = ["chats", "reason", "dry_run", "certificate"])]
    list: bool,
    #[command(flatten)]
    why: Why,
    /// Say what would be erased, and erase nothing.
    #[arg(long)]
    dry_run: bool,
    /// Write a certificate here: a proof, as of `prove`, of the act and of all that it erased.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    #[command(flatten)]
    look: Look,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, config: &Config) -> anyhow::Result<()> {
    if args.list {
        let waiting = custody::open_to_list(config).await?.waiting_erasures()?;
        let clock = Clock::now(args.look.utc);
        return output::to_stdout(args.look, async |output| print_waiting(&waiting, &clock, output)).await;
    }
    let custody = custody::open(config).await?;
    if !args.dry_run {
        args.why.reason()?;
    }
    let (targets, is_nobody) = targets(&args, &custody)?;
    // That somebody was looked for, and is not there, is an answer that is kept, with its certificate.
    anyhow::ensure!(!targets.is_empty() || is_nobody && !args.dry_run, nothing_found(&args));
    if args.dry_run {
        return output::to_stdout(args.look, async |output| foretell(&custody, &targets, output)).await;
    }
    if let Some(path) = args.certificate.as_deref() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let what = match (path.exists(), folder.is_none_or(Path::is_dir)) {
            (true, _) => "exists already: name another file",
            (false, false) => "cannot be made: there is no such folder",
            (false, true) => "",
        };
        if !what.is_empty() {
            return Err(Usage(format!("the certificate {} {what}", path.display())).into());
        }
    }
    custody.check_spool()?;
    let mut unerased = 0;
    output::to_stdout(args.look, async |output| {
        let act_id = erase(&args, &custody, &targets, &mut unerased, output)?;
        if is_nobody && !targets.is_empty() {
            output.note(&nothing_found(&args))?;
        }
        unerased += usize::from(is_nobody);
        let is_clean = custody::clean(&custody, output)?;
        unerased += usize::from(!is_clean);
        let is_signed = custody::sign(&custody, config)?;
        custody::tell_copies(&config.recording.database, output)?;
        let why_not = custody::unsigned_because(&config.key_file(), &custody.keys()?);
        certify(act_id, if is_signed { Ok(()) } else { Err(why_not) }, &args, config, output)
    })
    .await?;
    custody.close()?;
    match unerased {
        0 => Ok(()),
        _ if is_nobody && targets.is_empty() => anyhow::bail!("{}", nothing_found(&args)),
        _ => anyhow::bail!("not everything is erased: see above"),
    }
}

fn nothing_found(args: &Args) -> String {
    match (&args.who, args.waiting) {
        (_, true) => "nothing waits".into(),
        (Some(who), _) => {
            format!("no chat has an attribute that is {who}, whole: `gms-recorder chats --who` finds parts, too")
        }
        _ => "no chat is named".into(),
    }
}

/// And whether a customer was named of whom there is no chat.
fn targets(args: &Args, custody: &Custody) -> anyhow::Result<(Vec<Target>, bool)> {
    if args.waiting {
        return Ok((custody.waiting()?.into_iter().map(|waiting| Target::of(waiting.chat_id)).collect(), false));
    }
    let (mut chats, mut is_nobody) = (args.chats.clone(), false);
    if let Some(who) = &args.who {
        let of_customer = custody.chats_of_customer(&customer(who)?)?;
        is_nobody = of_customer.is_empty();
        chats.extend(of_customer);
    }
    chats.sort_unstable();
    chats.dedup();
    Ok((chats.into_iter().map(Target::of).collect(), is_nobody))
}

pub(super) fn customer(who: &str) -> Result<Customer, Usage> {
    Customer::parse(who).ok_or_else(|| Usage(format!("--who {who}: name a customer, such as email=anna@example.com")))
}

/// What an act says of a customer: enough to ask whether it was about one, not to know which.
pub(super) fn digest_of(archive_id: &str, customer: &Customer) -> String {
    let value = customer.value.to_lowercase();
    let hash = Sha256::new().chain_update(archive_id).chain_update([0]).chain_update(value).finalize();
    let hex: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}=sha256:{hex}", customer.name.as_deref().unwrap_or("*"))
}

const NAMES: [&str; 5] = ["chat_id", "outcome", "events", "rows", "held_by"];

fn erase(
    args: &Args,
    custody: &Custody,
    targets: &[Target],
    unerased: &mut usize,
    output: &mut Output<'_>,
) -> anyhow::Result<i64> {
    let who = args.who.as_deref().map(customer).transpose()?;
    let asked = serde_json::json!({
        "command": "erase",
        "chats": args.chats,
        "who": who.as_ref().map(|who| digest_of(custody.archive_id(), who)),
        "waiting": args.waiting,
    });
    let actor = actor(args.why.case_ref.as_deref());
    let act = Act { kind: Kind::Erase, at: now_ms(), actor: &actor, asked, reason: Some(args.why.reason()?) };
    let act_id = custody.begin(&act)?;
    let (mut outcomes, mut tell) = (Vec::with_capacity(targets.len()), progress("chats"));
    custody.remove(act_id, How::Erased, targets, now_ms, &mut |target, outcome| {
        outcomes.push((target.chat_id.clone(), outcome));
        tell(outcomes.len() as u64, targets.len() as u64);
    })?;
    custody.forget_released(act_id, How::Erased, now_ms())?;
    let held = |(chat_id, outcome): &(String, Outcome)| match outcome {
        Outcome::Held(by) => Some((chat_id.clone(), *by)),
        _ => None,
    };
    custody.let_wait(act_id, now_ms(), &outcomes.iter().filter_map(held).collect::<Vec<_>>())?;
    let rows = outcomes.iter().map(|(_, outcome)| rows_of(outcome)).sum();
    custody.end(act_id, now_ms(), rows)?;
    output.header(&NAMES)?;
    for (chat_id, outcome) in &outcomes {
        let is_done = matches!(outcome, Outcome::Removed { .. } | Outcome::GoneBefore);
        *unerased += usize::from(!is_done);
        print_outcome(chat_id, outcome, output)?;
    }
    Ok(act_id)
}

fn rows_of(outcome: &Outcome) -> i64 {
    if let Outcome::Removed { rows, .. } = outcome { *rows } else { 0 }
}

fn print_outcome(chat_id: &str, outcome: &Outcome, output: &mut Output<'_>) -> anyhow::Result<()> {
    let (word, events, rows, held_by) = match outcome {
        Outcome::Removed { events, rows } => ("erased", Some(*events), Some(*rows), None),
        Outcome::Held(by) => ("held", None, None, Some(*by)),
        Outcome::GoneBefore => ("gone_before", None, None, None),
        Outcome::Altered(_) => ("altered", None, None, None),
        Outcome::SeenAgain | Outcome::Nothing => ("nothing", None, None, None),
    };
    if output.format != Format::Text {
        let cells = [chat_id.into(), word.into(), Cell::from(events), Cell::from(rows), Cell::from(held_by)];
        return Ok(output.record(&NAMES, &cells)?);
    }
    let chat_id = shown(chat_id);
    let line = match outcome {
        Outcome::Removed { events, rows } => {
            format!("erased   {chat_id}  {}, {} of all tables", counted(*events, "event"), counted(*rows, "row"))
        }
        Outcome::Held(by) => Ink::Yellow.on(&format!(
            "held     {chat_id}  by hold {by}: it waits; once that is released: gms-recorder erase --waiting --reason …"
        )),
        Outcome::GoneBefore => {
            format!("gone     {chat_id}  it was erased or purged before: gms-recorder prove {chat_id}")
        }
        Outcome::Altered(why) => Ink::Yellow.on(&format!("altered  {chat_id}  {}", shown(why))),
        Outcome::SeenAgain | Outcome::Nothing => format!("nothing  {chat_id}  there is no such chat in the archive"),
    };
    Ok(output.line(&line)?)
}

/// What is not signed yet comes with why nobody does, where that is known.
fn certify(
    act_id: i64,
    signed: Result<(), Option<String>>,
    args: &Args,
    config: &Config,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let Some(path) = &args.certificate else {
        let when = match &signed {
            Ok(()) => String::new(),
            Err(None) => ", once a running `serve` has signed it".into(),
            Err(Some(why)) => format!(", once a `serve` that has the key has signed it: {}", plain_line(why)),
        };
        output.note(&format!("act {act_id}; its certificate: gms-recorder prove --act {act_id}{when}"))?;
        return Ok(());
    };
    if let Err(why) = signed {
        let (cannot, signs) = match why {
            None => (
                "this user cannot sign it (evidence.key_file)".to_owned(),
                "a running `serve` signs it within evidence.checkpoint_interval",
            ),
            Some(why) => (format!("nothing is signed: {}", plain_line(&why)), "a `serve` that has the key signs it"),
        };
        anyhow::bail!(
            "act {act_id} is done, but {cannot}; so there is no {}: {signs}; then `gms-recorder prove --act {act_id}` is the certificate",
            path.display()
        );
    }
    let Proved { proof, has_erased_nothing, .. } =
        prove(&Subject::Act(act_id), &config.recording.database, &config.key_file())?;
    let mut file = new_file(path)?;
    let path = path.display();
    serde_json::to_writer_pretty(&mut file, &proof).map_err(std::io::Error::from)?;
    writeln!(file)?;
    file.sync_all()?;
    let nothing = if has_erased_nothing { ", which says that it erased nothing" } else { "" };
    output.note(&format!("act {act_id}; its certificate is {path}{nothing}"))?;
    Ok(())
}

fn new_file(path: &Path) -> anyhow::Result<std::fs::File> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.map_err(|error| {
        anyhow::Error::new(error).context(format!("the certificate {} cannot be made", path.display()))
    })
}

fn foretell(custody: &Custody, targets: &[Target], output: &mut Output<'_>) -> anyhow::Result<()> {
    let in_force = custody.holds_in_force()?;
    output.header(&NAMES)?;
    let (mut free, mut held, mut rows_in_all) = (0, 0, 0);
    for target in targets {
        let (events, rows) = custody.extent(&target.chat_id)?;
        let held_by = custody.held_by(&in_force, &target.chat_id)?;
        let would = match (held_by, rows) {
            (Some(_), _) => "would_be_held",
            (None, 0) if custody.was_removed(&target.chat_id)? => "gone_before",
            (None, 0) => "nothing",
            (None, _) => "would_be_erased",
        };
        if held_by.is_some() {
            held += 1;
        } else if rows > 0 {
            (free, rows_in_all) = (free + 1, rows_in_all + rows);
        }
        let cells = [target.chat_id.as_str().into(), would.into(), events.into(), rows.into(), Cell::from(held_by)];
        match output.format {
            Format::Text => {
                let by = held_by.map_or(String::new(), |by| format!(", by hold {by}"));
                let of = format!("{}, {} of all tables", counted(events, "event"), counted(rows, "row"));
                output.line(&format!("{:<16} {}  {of}{by}", would.replace('_', " "), shown(&target.chat_id)))?;
            }
            Format::Json | Format::Csv => output.record(&NAMES, &cells)?,
        }
    }
    let held = if held > 0 { format!(", and {} would wait for holds", counted(held, "chat")) } else { String::new() };
    output.note(&format!(
        "nothing was erased (--dry-run): {} with {} would go{held}",
        counted(free, "chat"),
        counted(rows_in_all, "row")
    ))?;
    Ok(())
}

fn print_waiting(waiting: &[Waiting], clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    let names = ["chat_id", "act_id", "held_by", "since", "reason", "who", "case"];
    output.header(&names)?;
    for Waiting { chat_id, act_id, held_by, is_released, at, reason, asked_by, .. } in waiting {
        let released =
            if *is_released { ", released since (--waiting runs it, unless another one is on it)" } else { "" };
        match output.format {
            Format::Text => output.line(&format!(
                "{}  since {}, by hold {held_by}{released}; act {act_id}: {}{}",
                shown(chat_id),
                clock.date_time(*at),
                shown(reason),
                hold::asked_by(asked_by)
            ))?,
            Format::Json | Format::Csv => {
                let cells = [
                    chat_id.as_str().into(),
                    (*act_id).into(),
                    (*held_by).into(),
                    when::iso(*at).into(),
                    reason.as_str().into(),
                    asked_by.who.as_str().into(),
                    asked_by.case_ref.clone().into(),
                ];
                output.record(&names, &cells)?;
            }
        }
    }
    if waiting.is_empty() {
        output.note("nothing waits")?;
    }
    Ok(())
}
