//! Reads of content: each is an act of the archive, begun before anything is shown and ended with how many rows that were.
//! Every command that shows what customers and agents wrote comes through here.
//!
//! Where it cannot be recorded the read goes on, and says so, unless the configuration wants it otherwise. It knows who
//! reads and how that is noted; what is read is for the commands to know.

use std::cell::Cell;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;
use serde_json::{Map, Value, json};

use super::actor;
use super::output::{self, Look, Output, Usage, plain_line};
use crate::archive::RecordReads;
use crate::config::Config;
use crate::gms::mask::Masks;
use crate::recorder::now_ms;
use crate::store::custody::{Act, Custody, Kind};
use crate::store::read::Archive;

/// `--case`, of every command that shows content.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Case {
    /// What this is for: a case, a ticket. Recorded with the read, which `gms-recorder access` lists
    #[arg(long, value_name = "REF", value_parser = parse_case)]
    pub case: Option<String>,
}

fn parse_case(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if text.is_empty() { Err("a case needs a name") } else { Ok(text.to_owned()) }
}

/// The archive that is read, and how that is recorded.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The archive; of several the first.
    pub database: PathBuf,
    /// All that are read as one.
    pub databases: Vec<PathBuf>,
    record: RecordReads,
    require_case: bool,
    /// What is masked in what is recorded of a reader's words, too.
    masks: Masks,
    /// The command, and what it was given.
    asked: Value,
}

/// A read that goes on, where it is recorded.
#[derive(Debug)]
struct Begun(Option<(Custody, i64)>);

impl Reading {
    /// As the configuration has it, of a command line that asks for this ([`asked`]). Of several archives each records it.
    pub fn new(config: Config, databases: Vec<PathBuf>, asked: Value) -> Self {
        let (record, require_case) = (config.evidence.record_reads, config.evidence.require_case);
        let (database, masks) = (config.recording.database, config.recording.masks);
        Self { database, databases, record, require_case, masks, asked }
    }

    /// Of an archive that holds nobody's content: the demo's own.
    pub fn unrecorded(database: &Path) -> Self {
        let (record, require_case) = (RecordReads::Never, false);
        let (database, masks, asked) = (database.to_owned(), Masks::default(), Value::Null);
        Self { databases: vec![database.clone()], database, record, require_case, masks, asked }
    }

    /// Runs a command's printing on stdout, as [`output::to_stdout`]. What it has in [`Output::rows`] is what was shown.
    ///
    /// # Errors
    /// As the printing; what is read is no archive; the read may not be, without a case or unrecorded.
    pub async fn to_stdout(
        &self,
        case: &Case,
        look: Look,
        print: impl AsyncFnOnce(&mut Output<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let begun = self.begin(case).await?;
        let rows = Cell::new(0);
        let printed = output::to_stdout(look, async |output| {
            let printed = print(output).await;
            rows.set(output.rows);
            printed
        });
        let printed = printed.await;
        begun.into_iter().for_each(|begun| begun.end(rows.get()));
        printed
    }

    async fn begin(&self, case: &Case) -> anyhow::Result<Vec<Begun>> {
        if self.require_case && case.case.is_none() {
            let what = "nothing is shown without a case (evidence.require_case): say what this is for with --case REF";
            return Err(Usage(what.into()).into());
        }
        let mut begun = Vec::with_capacity(self.databases.len());
        for database in &self.databases {
            let noted = match self.record {
                RecordReads::Never => continue,
                _ => self.without_forgotten(database).await.and_then(|asked| Ok(self.note(database, case, asked)?)),
            };
            begun.push(self.begun(database, noted).await?);
        }
        Ok(begun)
    }

    /// Whoever looks whether a customer is really gone must not write them into the archive again.
    async fn without_forgotten(&self, database: &Path) -> anyhow::Result<Value> {
        let mut asked = self.asked.clone();
        if ["who", "query", "search", "statement"].iter().all(|question| asked[question].is_null()) {
            return Ok(asked);
        }
        let mut archive = Archive::open(database).await?;
        if let Some(who) = self.asked["who"].as_str()
            && archive.may_have_forgotten(who).await?
        {
            asked["who"] = json!(stars(who));
        }
        // A question is of words, and few of them can be a customer's alone. The numbers of a statement are most often none's.
        for question in ["query", "search", "statement"] {
            let is_sql = question == "statement";
            let ends_word = if is_sql { "\"'\\[](),;=%" } else { "\"\\[]," };
            let said = self.asked[question].to_string();
            let words = said.split(|c: char| c.is_whitespace() || ends_word.contains(c));
            for word in words.filter(|word| if is_sql { is_address(word) } else { may_name(word) }) {
                if archive.may_have_forgotten(word).await? {
                    let masked = asked[question].to_string().replace(word, &stars(word));
                    asked[question] = serde_json::from_str(&masked).unwrap_or_default();
                }
            }
        }
        archive.close().await?;
        Ok(asked)
    }

    /// A read whose beginning was noted, or could not be: then it is to be an archive at least, which has words of its own for
    /// what is none.
    async fn begun(&self, database: &Path, noted: anyhow::Result<(Custody, i64)>) -> anyhow::Result<Begun> {
        let error = match noted {
            Ok(noted) => return Ok(Begun(Some(noted))),
            Err(error) => error,
        };
        Archive::open(database).await?.close().await?;
        if self.record == RecordReads::Required {
            let what = "nothing is shown, since this read cannot be recorded (evidence.record_reads = \"required\")";
            anyhow::bail!("{what}: {}", plain_line(&error.to_string()));
        }
        remark(&format!("this read is not recorded: {error}"));
        Ok(Begun(None))
    }

    fn note(&self, database: &Path, case: &Case, asked: Value) -> Result<(Custody, i64), crate::store::Error> {
        let custody = Custody::open_to_note(database)?;
        // Somebody may look for a card number.
        let masked = |value: Value| serde_json::from_str(&self.masks.again(&value.to_string())).unwrap_or(Value::Null);
        let (asked, case_ref) = (masked(asked), masked(json!([case.case])));
        let actor = actor::actor(case_ref[0].as_str());
        let act_id = custody.begin(&Act { kind: Kind::Read, at: now_ms(), actor: &actor, asked, reason: None })?;
        custody.settle()?; // a reader may be ended in whatever way
        Ok((custody, act_id))
    }
}

impl Begun {
    /// What was shown is shown: that its number is not recorded is said, and is no failure.
    fn end(self, rows: i64) {
        let Some((custody, act_id)) = self.0 else { return };
        if let Err(error) = custody.end(act_id, now_ms(), rows).and_then(|()| custody.close()) {
            remark(&format!("this read is recorded, but not that it ended and how many rows were shown: {error}"));
        }
    }
}

fn remark(text: &str) {
    // Nobody is left to be told that stderr is closed.
    let _ = writeln!(io::stderr(), "{}", plain_line(text));
}

fn stars(text: &str) -> String {
    "*".repeat(text.chars().count())
}

/// An address, or a number that is long enough to be somebody's.
fn may_name(word: &str) -> bool {
    const DIGITS_MIN: usize = 6;
    is_address(word) || word.chars().filter(char::is_ascii_digit).count() >= DIGITS_MIN
}

fn is_address(word: &str) -> bool {
    word.contains('@')
}

/// The command and what it was given, without what it would have been anyway. The case has a column of its own.
pub(super) fn asked(matches: &ArgMatches) -> Value {
    let Some((command, given)) = matches.subcommand() else { return json!({}) };
    let mut asked = Map::from_iter([("command".to_owned(), json!(command))]);
    for id in given.ids().map(clap::Id::as_str).filter(|id| *id != "case") {
        let values = given.try_get_raw(id).ok().flatten();
        if let (Some(values), Some(ValueSource::CommandLine)) = (values, given.value_source(id)) {
            let mut values: Vec<_> = values.map(|value| json!(value.to_string_lossy())).collect();
            let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
            // A flag's value is that it is there.
            let is_flag = value == "true";
            asked.insert(id.to_owned(), if is_flag { json!(true) } else { value });
        }
    }
    Value::Object(asked)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn what_was_asked_is_what_was_given() {
        let rows = [
            ("chats", json!({"command": "chats"})),
            ("--database a.db chats --since 7d --who anna --utc", {
                json!({"command": "chats", "since": "7d", "who": "anna", "utc": true, "database": "a.db"})
            }),
            ("transcript c1 --errors --case C-7", json!({"command": "transcript", "chat_id": "c1", "errors": true})),
            ("errors --code 249 --limit 100", json!({"command": "errors", "code": "249", "limit": "100"})),
            ("search parcel --limit 5", json!({"command": "search", "query": "parcel", "limit": "5"})),
            ("sql VALUES(1)", json!({"command": "sql", "statement": "VALUES(1)"})),
            ("snapshot copy.db --mode 0640", json!({"command": "snapshot", "dest": "copy.db", "mode": "0640"})),
            ("prove c1", json!({"command": "prove", "chat_id": "c1"})),
        ];
        for (line, wanted) in rows {
            let words = std::iter::once("gms-recorder").chain(line.split(' '));
            let matches = Cli::command().try_get_matches_from(words).expect("a right command line");
            assert_eq!(asked(&matches), wanted, "{line}");
        }
    }
}
