//! `mask`: applies a rule of the present configuration to what was recorded before it.

use serde_json::json;

use super::actor::actor;
use super::custody;
use super::output::{self, Cell, Format, Look, Output, Usage, counted, labelled, plain_line};
use super::progress::progress;
use super::reading::Case;
use crate::config::Config;
use crate::gms::mask::Masks;
use crate::gms::remask::Stored;
use crate::recorder::now_ms;
use crate::store::custody::{Act, Cleaned, Custody, Kind, Remasked};

const EXAMPLE: &str = "\
Example:
  gms-recorder mask --rule account --dry-run
  gms-recorder mask --rule account --reason 'audit of May' --case C-2026-17

Put the rule into the configuration and let `serve` take it (a restart) before: what it
records meanwhile is masked by its own rules. Held chats are never masked, since a hold preserves
what is there; they are listed, and the command ends with 1: `unhold` them first.

Exit codes:
  0  every row that the rule finds something in is masked, and nothing of it is left in the files
  1  not so: chats are held, a reader keeps the old pages for now, or the `serve` that runs does
     not have the rule: run it again then
  2  wrong usage: there is no such rule";

/// Apply a rule of masking to what is stored, beside a running `serve`: events, variants, attributes, errors, findings.
///
/// Texts keep their length. Each row that is changed is sealed anew, what it was sealed as before is destroyed, and the act
/// says so: `verify` passes. There is no way back. Interrupted, it can be run again and goes on.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// A rule in force: cards (and the values beside them), cvv, or one of masking.rules
    #[arg(long, value_name = "NAME")]
    rule: String,
    /// Only say how many rows that would be; nothing of them is shown
    #[arg(long)]
    dry_run: bool,
    /// Why; recorded with the act, as the rule's expression is
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    case: Case,
    #[command(flatten)]
    look: Look,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, config: Config) -> anyhow::Result<()> {
    let masks = &config.recording.masks;
    let Some(rule) = masks.only(&args.rule) else {
        let (rule, names) = (plain_line(&args.rule), masks.names().join(", "));
        let names = if names.is_empty() { "none" } else { &names };
        return Err(
            Usage(format!("--rule \"{rule}\": the configuration has no such rule in force; there is {names}")).into()
        );
    };
    if args.reason.is_none() && !args.dry_run {
        return Err(Usage("it needs a --reason, which is kept with the act: there is no way back".into()).into());
    }
    let custody = custody::open(&config).await?;
    let (look, asked, database) = (args.look, args.clone(), config.recording.database.clone());
    let told = tokio::task::spawn_blocking(move || mask(&asked, custody, &config, &rule)).await??;
    output::to_stdout(look, async |output| {
        told.print(&args, output)?;
        if args.dry_run { Ok(()) } else { custody::tell_copies(&database, output) }
    })
    .await?;
    told.verdict()
}

fn mask(args: &Args, custody: Custody, config: &Config, rule: &Masks) -> anyhow::Result<Told> {
    let serve_lacks_rule = custody.masking_of_serve()?.is_some_and(|masking| !has_rule(&masking, &args.rule, rule));
    if args.dry_run {
        let found = custody.would_mask(rule, &mut progress("rows"))?;
        return Ok(Told { found, unclean: None, serve_lacks_rule });
    }
    custody.check_spool()?;
    let actor = actor(args.case.case.as_deref());
    let asked = json!({ "command": "mask", "rule": args.rule, "expression": rule.expression(&args.rule) });
    let reason = args.reason.as_deref();
    let act_id = custody.begin(&Act { kind: Kind::Mask, at: now_ms(), actor: &actor, asked, reason })?;
    let found = custody.mask(act_id, rule, now_ms, &mut progress("rows"))?;
    custody.end(act_id, now_ms(), found.all_rows())?;
    // Also what a run before this one has left.
    let unclean = match custody.clean(&mut progress("pages"))? {
        Cleaned::All => None,
        Cleaned::NotYet(why) => Some(why),
    };
    custody::sign(&custody, config)?;
    custody.close()?;
    Ok(Told { found, unclean, serve_lacks_rule })
}

/// Whether the `serve` that runs masks by this rule, too.
fn has_rule(masking: &serde_json::Value, name: &str, rule: &Masks) -> bool {
    match rule.expression(name) {
        Some(expression) => masking["rules"][name] == expression,
        None => masking["cards"] == true,
    }
}

const LACKS: &str = "what it is delivered again, or from now on, it keeps as it comes. Give it the rule, start it anew, and run this again";

/// What was done, or would be.
struct Told {
    found: Remasked,
    /// Why something may be left.
    unclean: Option<String>,
    /// What is delivered again is kept as it is then.
    serve_lacks_rule: bool,
}

const NAMES: [&str; 12] = [
    "rule",
    "dry_run",
    "rows",
    "chats",
    "events",
    "variants",
    "attributes",
    "errors",
    "findings",
    "held",
    "not_clean_yet",
    "serve_lacks_rule",
];

impl Told {
    fn rows(&self, what: Stored) -> i64 {
        self.found.rows.get(&what).copied().unwrap_or_default()
    }

    fn print(&self, args: &Args, output: &mut Output<'_>) -> anyhow::Result<()> {
        match output.format {
            Format::Text => self.text(args, output),
            Format::Json | Format::Csv => self.record(args, output),
        }
    }

    fn record(&self, args: &Args, output: &mut Output<'_>) -> anyhow::Result<()> {
        let held = self.found.held.iter().map(|(chat_id, by)| json!({ "chat_id": chat_id, "hold": by }).to_string());
        let mut cells = vec![
            args.rule.as_str().into(),
            Cell::Json(args.dry_run.to_string()),
            self.found.all_rows().into(),
            self.found.chats.into(),
        ];
        cells.extend(Stored::ALL.map(|what| Cell::from(self.rows(what))));
        cells.extend([output::json_array(&held.collect::<Vec<_>>()), self.unclean.clone().into()]);
        cells.push(Cell::Json(self.serve_lacks_rule.to_string()));
        output.header(&NAMES)?;
        Ok(output.record(&NAMES, &cells)?)
    }

    fn text(&self, args: &Args, output: &mut Output<'_>) -> anyhow::Result<()> {
        let (rows, chats) = (counted(self.found.all_rows(), "row"), counted(self.found.chats, "chat"));
        let would = if args.dry_run { "would be " } else { "" };
        output.line(&format!("{rows} {would}masked by rule {}, in {chats}", args.rule))?;
        for what in Stored::ALL.into_iter().filter(|what| self.rows(*what) > 0) {
            labelled(output, what.as_str(), &counted(self.rows(what), "row"))?;
        }
        for (chat_id, by) in &self.found.held {
            labelled(output, "held", &format!("chat {}, by hold {by}: left as it is", output::shown(chat_id)))?;
        }
        if let Some(why) = &self.unclean {
            labelled(output, "not yet", why)?;
        }
        if self.serve_lacks_rule {
            let words = format!("the `serve` that runs has no such rule {}: {LACKS}", args.rule);
            labelled(output, "serve", &words)?;
        }
        Ok(())
    }

    fn verdict(&self) -> anyhow::Result<()> {
        if !self.found.held.is_empty() {
            let chats = counted(i64::try_from(self.found.held.len())?, "held chat");
            anyhow::bail!("{chats} not masked: `unhold` releases, and then run this again");
        }
        anyhow::ensure!(!self.serve_lacks_rule, "the `serve` that runs does not mask by this rule: {LACKS}");
        match &self.unclean {
            Some(_) => anyhow::bail!("what was masked may still be in unused space of the files: run this again later"),
            None => Ok(()),
        }
    }
}
