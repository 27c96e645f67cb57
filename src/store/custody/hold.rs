//! Holds: what may not be erased or purged, whatever else is asked. A hold always wins.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Row, Statement, params};

use super::act::{begin, end};
use super::{Act, Custody};
use crate::store::audit::Snapshot;
use crate::store::seal::destroyed::RowName;
use crate::store::seal::{self, KeyValue};
use crate::store::{Error, ErrorKind};

/// How long the query of a hold may take: nothing is removed while it is not known what it holds.
const QUERY_TIME_MAX: Duration = Duration::from_secs(60);
/// How long the answer of a query counts.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(2);
/// Steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 10_000;

/// A customer, by what is known of them: `emailAddress=anna@example.com`, or a value of any attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// Of the attribute; none: any.
    pub name: Option<String>,
    /// Whole, whatever the case.
    pub value: String,
}

impl Customer {
    /// Reads `NAME=VALUE` where the name is one of an attribute, else a value.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) if is_name(name) => (Some(alias(name).to_owned()), value),
            _ => (None, text),
        };
        let value = value.trim();
        (!value.trim_matches('=').is_empty()).then(|| Self { name, value: value.to_owned() })
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.name.as_deref().is_none_or(|wanted| wanted == name)
            && value.trim().to_lowercase() == self.value.trim().to_lowercase()
    }
}

/// `email` is what everybody types.
fn alias(name: &str) -> &str {
    if name == "email" { "emailAddress" } else { name }
}

/// Whether it may be the name of an attribute.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '[' | ']' | '.'))
}

impl fmt::Display for Customer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.value),
            None => f.write_str(&self.value),
        }
    }
}

/// What a hold is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One chat.
    Chat(String),
    /// The chats of a customer, those to come included.
    Customer(Customer),
    /// The chat ids that a query gives, whenever it is asked.
    Query(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chat(chat_id) => write!(f, "chat {chat_id}"),
            Self::Customer(customer) => write!(f, "customer {customer}"),
            Self::Query(query) => write!(f, "query {query}"),
        }
    }
}

/// A row of `holds`.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Its number.
    pub id: i64,
    /// Since when, milliseconds since the epoch.
    pub at: i64,
    /// Why.
    pub reason: String,
    /// On what.
    pub scope: Scope,
    /// Until when; None: in force.
    pub released_at: Option<i64>,
    /// The act that set it: by whom, and for which case.
    pub set_by: Asker,
    /// The same of its release.
    pub released_by: Option<Asker>,
}

/// Who asked for something, as its act says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asker {
    /// The user of the operating system; who called sudo in brackets.
    pub who: String,
    /// The case or ticket.
    pub case_ref: Option<String>,
}

impl Asker {
    /// The columns of [`Asker::read`], of an act that may be missing.
    pub(super) fn columns(act: &str) -> String {
        format!("coalesce({act}.who || coalesce(' (' || {act}.via || ')', ''), ''), {act}.case_ref")
    }

    pub(super) fn read(row: &Row<'_>, column: usize) -> rusqlite::Result<Self> {
        Ok(Self { who: row.get(column)?, case_ref: row.get(column + 1)? })
    }
}

/// The holds in force, with what their queries say now.
#[derive(Debug)]
pub struct InForce {
    chats: HashMap<String, i64>,
    customers: Vec<(i64, Customer)>,
    queries: Vec<(i64, HashSet<String>)>,
    version: (i64, i64),
    read_at: Instant,
    took: Duration,
}

impl Custody {
    /// Puts something on hold. The number of the hold.
    ///
    /// # Errors
    /// The query is none; as writing goes wrong.
    pub fn hold(&self, act: &Act<'_>, scope: &Scope) -> Result<i64, Error> {
        if let Scope::Query(query) = scope {
            chats_of(&self.connection, query)?;
        }
        let connection = &self.connection;
        self.change(|pack| {
            let act_id = begin(connection, pack, act)?;
            let (chat_id, customer, query) = match scope {
                Scope::Chat(chat_id) => (Some(chat_id), None, None),
                Scope::Customer(customer) => (None, Some(customer), None),
                Scope::Query(query) => (None, None, Some(query)),
            };
            // The number of its act: one that is removed with its customer never comes again.
            let insert = "INSERT INTO holds (id, act_id, at, reason, chat_id, name, value, query) VALUES (?1, ?1, ?, ?, ?, ?, ?, ?)";
            let (name, value) = (customer.and_then(|of| of.name.as_ref()), customer.map(|of| &of.value));
            connection.execute(insert, params![act_id, act.at, act.reason, chat_id, name, value, query])?;
            pack.touch_whole(seal::HOLDS, [KeyValue::Integer(act_id)]);
            end(connection, pack, act_id, act.at, Some(1))?;
            Ok(act_id)
        })
    }

    /// How many chats it is on now.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn covers(&self, scope: &Scope) -> Result<usize, Error> {
        let connection = &self.connection;
        Ok(match scope {
            Scope::Chat(chat_id) => {
                usize::from(connection.prepare_cached("SELECT 1 FROM chats WHERE chat_id = ?")?.exists([chat_id])?)
            }
            Scope::Customer(customer) => chats_of_customer(connection, customer)?.len(),
            Scope::Query(query) => chats_of(connection, query)?.len(),
        })
    }

    /// Releases a hold. False where there is none of that number in force.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn release(&self, act: &Act<'_>, id: i64) -> Result<bool, Error> {
        let connection = &self.connection;
        let is_in_force =
            connection.prepare("SELECT 1 FROM holds WHERE id = ? AND released_at IS NULL")?.exists([id])?;
        if !is_in_force {
            return Ok(false);
        }
        self.change(|pack| {
            let act_id = begin(connection, pack, act)?;
            let update = "UPDATE holds SET released_at = ?, released_by = ? WHERE id = ?";
            connection.execute(update, params![act.at, act_id, id])?;
            pack.touch(seal::HOLDS, [KeyValue::Integer(id)]);
            end(connection, pack, act_id, act.at, Some(1))?;
            Ok(true)
        })
    }

    /// The hold on a chat.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn held_by(&self, in_force: &InForce, chat_id: &str) -> Result<Option<i64>, Error> {
        in_force.on(&self.connection, chat_id)
    }

    /// Why a query can be none of a hold: it is no SELECT of one column. None where it is one, whatever it gives.
    pub fn why_no_query(&self, query: &str) -> Option<String> {
        select_of(&self.connection, query).err().map(|what| what_of(&what))
    }

    /// The chats of a customer.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn chats_of_customer(&self, customer: &Customer) -> Result<Vec<String>, Error> {
        chats_of_customer(&self.connection, customer)
    }

    /// The holds in force, and what their queries say now.
    ///
    /// # Errors
    /// A query fails or takes too long: then it is not known what is held, and nothing may be removed.
    pub fn holds_in_force(&self) -> Result<InForce, Error> {
        InForce::read(&self.connection)
    }
}

impl Snapshot {
    /// All holds, released ones too.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn holds(&self) -> Result<Vec<Hold>, Error> {
        holds(&self.connection)
    }
}

pub(super) fn holds(connection: &Connection) -> Result<Vec<Hold>, Error> {
    let sql = format!(
        "SELECT h.id, h.at, h.reason, h.released_at, h.chat_id, h.name, h.value, h.query, {}, {}
         FROM holds h LEFT JOIN acts a ON a.id = h.act_id LEFT JOIN acts r ON r.id = h.released_by ORDER BY h.id",
        Asker::columns("a"),
        Asker::columns("r")
    );
    let mut select = connection.prepare_cached(&sql)?;
    let read = |row: &Row<'_>| {
        let (chat_id, value, query): (Option<String>, Option<String>, Option<String>) =
            (row.get(4)?, row.get(6)?, row.get(7)?);
        let scope = match (chat_id, value) {
            (Some(chat_id), _) => Scope::Chat(chat_id),
            (None, Some(value)) => Scope::Customer(Customer { name: row.get(5)?, value }),
            (None, None) => Scope::Query(query.unwrap_or_default()),
        };
        let (id, at, reason, released_at): (_, _, _, Option<i64>) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let released_by = released_at.map(|_| Asker::read(row, 10)).transpose()?;
        Ok(Hold { id, at, reason, scope, released_at, set_by: Asker::read(row, 8)?, released_by })
    };
    let found = select.query_map((), read)?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// All holds, as rows.
pub(super) fn rows(connection: &Connection) -> Result<Vec<RowName>, Error> {
    let mut select = connection.prepare_cached("SELECT id FROM holds")?;
    let ids = select.query_map((), |row| row.get(0))?;
    Ok(ids.map(|id| id.map(|id| (seal::HOLDS, vec![KeyValue::Integer(id)]))).collect::<Result<_, _>>()?)
}

/// Grows with each hold, and with each release.
fn version(connection: &Connection) -> Result<(i64, i64), Error> {
    let sql = "SELECT coalesce(max(id), 0), count(released_at) FROM holds";
    Ok(connection.prepare_cached(sql)?.query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?)
}

impl InForce {
    pub(super) fn read(connection: &Connection) -> Result<Self, Error> {
        let began = Instant::now();
        let (chats, customers, queries) = (HashMap::new(), Vec::new(), Vec::new());
        let (version, took) = (version(connection)?, Duration::ZERO);
        let mut read = Self { chats, customers, queries, version, read_at: began, took };
        for hold in holds(connection)?.into_iter().filter(|hold| hold.released_at.is_none()) {
            match hold.scope {
                Scope::Chat(chat_id) => drop(read.chats.entry(chat_id).or_insert(hold.id)),
                Scope::Customer(customer) => read.customers.push((hold.id, customer)),
                Scope::Query(query) => {
                    let held = chats_of(connection, &query).map_err(|error| {
                        let what = format!(
                            "hold {0}: {1}; nothing is removed or masked while it is not known what is held (`unhold {0}` releases it)",
                            hold.id, error.message
                        );
                        Error::new(error.kind, what)
                    })?;
                    read.queries.push((hold.id, held));
                }
            }
        }
        (read.read_at, read.took) = (Instant::now(), began.elapsed());
        Ok(read)
    }

    /// Whether its queries may say something else by now. One that takes long is not asked all the time.
    pub(super) fn is_stale(&self) -> bool {
        !self.queries.is_empty() && self.read_at.elapsed() > ANSWER_AGE_MAX.max(self.took * 10)
    }

    /// Whether no hold came or went since.
    pub(super) fn is_current(&self, connection: &Connection) -> Result<bool, Error> {
        Ok(version(connection)? == self.version)
    }

    /// Whether a chat is held, and by which one.
    pub(super) fn on(&self, connection: &Connection, chat_id: &str) -> Result<Option<i64>, Error> {
        let by_query = self.queries.iter().find(|(_, held)| held.contains(chat_id)).map(|(id, _)| *id);
        let first = [self.chats.get(chat_id).copied(), by_query].into_iter().flatten().min();
        if self.customers.is_empty() || first.is_some() {
            return Ok(first);
        }
        let mut select = connection.prepare_cached("SELECT name, value FROM chat_attributes WHERE chat_id = ?")?;
        let mut rows = select.query([chat_id])?;
        while let Some(row) = rows.next()? {
            let (name, value) =
                (row.get_ref(0)?.as_str().unwrap_or_default(), row.get_ref(1)?.as_str().unwrap_or_default());
            if let Some((by, _)) = self.customers.iter().find(|(_, customer)| customer.is(name, value)) {
                return Ok(Some(*by));
            }
        }
        Ok(None)
    }
}

/// Released holds on customers of whom there is no chat.
pub(super) fn released_on_nobody(connection: &Connection) -> Result<Vec<i64>, Error> {
    let mut found = Vec::new();
    for hold in holds(connection)?.into_iter().filter(|hold| hold.released_at.is_some()) {
        if let Scope::Customer(customer) = &hold.scope
            && chats_of_customer(connection, customer)?.is_empty()
        {
            found.push(hold.id);
        }
    }
    Ok(found)
}

/// The chats of a customer, by what is known of them.
pub(super) fn chats_of_customer(connection: &Connection, customer: &Customer) -> Result<Vec<String>, Error> {
    let mut select =
        connection.prepare("SELECT DISTINCT chat_id, name, value FROM chat_attributes ORDER BY chat_id")?;
    let mut rows = select.query(())?;
    let mut chats: Vec<String> = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, value) =
            (row.get_ref(1)?.as_str().unwrap_or_default(), row.get_ref(2)?.as_str().unwrap_or_default());
        if customer.is(name, value) {
            let chat_id: String = row.get(0)?;
            if chats.last() != Some(&chat_id) {
                chats.push(chat_id);
            }
        }
    }
    Ok(chats)
}

/// What the query of a hold gives: one column of chat ids, read-only, in bounded time.
fn chats_of(connection: &Connection, query: &str) -> Result<HashSet<String>, Error> {
    let refuse = |what: String| Error::new(ErrorKind::Other, what_of(&what));
    let mut select = select_of(connection, query).map_err(refuse)?;
    let until = Instant::now() + QUERY_TIME_MAX;
    connection.progress_handler(STEPS, Some(move || Instant::now() > until))?;
    let found: Result<HashSet<String>, _> = select.query_map((), |row| row.get(0)).and_then(Iterator::collect);
    connection.progress_handler(0, None::<fn() -> bool>)?;
    found.map_err(|error| refuse(failure(&error)))
}

fn what_of(what: &str) -> String {
    format!("its query: {what}")
}

/// One SELECT of one column; else why it is none.
fn select_of<'c>(connection: &'c Connection, query: &str) -> Result<Statement<'c>, String> {
    let wanted = || "it is to be one SELECT of one column, with the ids of chats".to_owned();
    let first = query.trim_start().split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    if !["SELECT", "WITH", "VALUES"].iter().any(|word| first.eq_ignore_ascii_case(word)) {
        return Err(wanted());
    }
    let select = connection.prepare(query).map_err(|error| error.to_string())?;
    if select.readonly() && select.column_count() == 1 { Ok(select) } else { Err(wanted()) }
}

/// Not in SQLite's words, which may be those of a customer.
fn failure(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::InvalidColumnType(_, _, found) => {
            format!("it gave {found} values: the ids of chats are text")
        }
        other if other.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) => {
            format!("it took longer than {} s", QUERY_TIME_MAX.as_secs())
        }
        _ => "it failed when it was run: a function in it cannot take what a row has, or the archive is damaged".into(),
    }
}
