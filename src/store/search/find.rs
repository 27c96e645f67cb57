//! Finds rows by their words, out of one snapshot: in the index, and where that does not tell (rows that are newer, or that were
//! changed since) in the rows themselves.

use std::collections::{BTreeSet, HashMap, HashSet};

use rusqlite::{Row, named_params};

use super::Progress;
use super::document::Source;
use super::lens::{Lens, Seen, Snippet};
use super::query::Query;
use crate::store::audit::Snapshot;
use crate::store::{Error, ErrorKind};

/// Rows that are looked through together.
const TOGETHER_MAX: usize = 1_000;

/// What restricts a search. None: nothing. Times are milliseconds since the epoch, both included.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Rows of these chats.
    pub chat_ids: Option<Vec<String>>,
    /// Said, or observed, at this time or later.
    pub from: Option<i64>,
    /// At this time or earlier.
    pub until: Option<i64>,
    /// In a chat of this service.
    pub service: Option<String>,
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// What fits best (BM25).
    Best,
    /// What was said last.
    Newest,
}

/// A row in which it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Of which chat.
    pub chat_id: String,
    /// Which event; none of attributes.
    pub event_index: Option<i64>,
    /// When it was said, or else recorded; milliseconds since the epoch.
    pub at: i64,
    /// Its type.
    pub kind: Option<String>,
    /// Who said it.
    pub nickname: Option<String>,
    /// The same, by GMS's words.
    pub party_type: Option<String>,
    /// Which attribute.
    pub attribute: Option<String>,
    /// It is another content of the event than the one that was recorded first.
    pub is_variant: bool,
    /// The lower the better; none where that was not asked.
    pub score: Option<f64>,
    /// Where it stands.
    pub snippet: Snippet,
    /// `search.rowid`
    id: i64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// As ordered.
    pub hits: Vec<Hit>,
    /// There is more.
    pub is_cut: bool,
    /// Rows that the index does not have as they are.
    pub behind: u64,
    /// These were not looked at: there are too many.
    pub is_partial: bool,
}

/// Which row a row of `found` (id, score) is, and whether it is wanted.
const ROWS: &str = "
      FROM found
      LEFT JOIN events e ON e.rowid = CASE found.id & 3 WHEN 0 THEN found.id >> 2 END
      LEFT JOIN chat_attributes a ON a.id = CASE found.id & 3 WHEN 1 THEN found.id >> 2 END
      LEFT JOIN event_variants v ON v.rowid = CASE found.id & 3 WHEN 2 THEN found.id >> 2 END
      LEFT JOIN events o ON o.chat_id = v.chat_id AND o.event_index = v.event_index
     WHERE coalesce(e.chat_id, a.chat_id, v.chat_id) IS NOT NULL
       AND (:chat_ids IS NULL OR coalesce(e.chat_id, a.chat_id, v.chat_id) IN (SELECT value FROM json_each(:chat_ids)))
       AND (:from IS NULL OR coalesce(e.utc_time, e.recorded_at, a.observed_at, v.recorded_at) >= :from)
       AND (:until IS NULL OR coalesce(e.utc_time, e.recorded_at, a.observed_at, v.recorded_at) <= :until)
       AND (:service IS NULL OR (SELECT c.service FROM chats c
             WHERE c.chat_id = coalesce(e.chat_id, a.chat_id, v.chat_id)) = :service)";

const HIT: &str = "
    SELECT found.id, found.score, coalesce(e.chat_id, a.chat_id, v.chat_id), coalesce(e.event_index, v.event_index),
           coalesce(e.utc_time, e.recorded_at, a.observed_at, v.recorded_at) AS at, coalesce(e.type, o.type),
           coalesce(e.nickname, o.nickname), coalesce(e.party_type, o.party_type), a.name, v.chat_id IS NOT NULL";

/// What the index has, but for what it has as it was.
const INDEXED: &str = "WITH found AS (SELECT rowid AS id, NULL AS score FROM search WHERE search MATCH :found
        AND rowid NOT IN (SELECT id FROM search_changes))";
/// The same with how well it fits, which costs more than finding it.
const RANKED: &str = "WITH found AS (SELECT rowid AS id, rank AS score FROM search WHERE search MATCH :found
        AND rowid NOT IN (SELECT id FROM search_changes))";
/// What was found without it: JSON, [[id, score], ...].
const SEEN: &str = "WITH found AS (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS score
        FROM json_each(:found))";

impl Snapshot {
    /// Rows in which it is found, `limit` at most. Where more than `behind_max` rows are not in the index as they are, they are
    /// left out.
    ///
    /// # Errors
    /// The archive is of an earlier release; as reading goes wrong.
    pub fn search(
        &self,
        query: &Query,
        filter: &Filter,
        order: Order,
        limit: usize,
        behind_max: u64,
    ) -> Result<Found, Error> {
        let progress = Progress::of(&self.connection)?.ok_or_else(too_old)?;
        let (lens, mut best) = (Lens::new()?, Best { order, limit, hits: Vec::new(), is_cut: false });
        if progress.is_sound() {
            let source = if order == Order::Best { RANKED } else { INDEXED };
            let indexed = self.each_hit(source, query.expression(), filter, Some(order), |hit| {
                best.hits.push(hit);
                best.is_full()
            });
            indexed.map_err(damaged)?;
            best.cut();
        }
        let behind = progress.behind(&self.connection)?;
        if behind <= behind_max {
            self.each_behind(&progress, |documents| {
                let seen = lens.look(&documents, query)?;
                let found = found(&seen);
                let mut snippets: HashMap<_, _> = seen.into_iter().map(|seen| (seen.id, seen.snippet)).collect();
                self.each_hit(SEEN, &found, filter, None, |hit| {
                    let snippet = snippets.remove(&hit.id).unwrap_or_default();
                    best.hits.push(Hit { snippet, ..hit });
                    false
                })?;
                best.cut();
                Ok(())
            })?;
        }
        let Best { mut hits, is_cut, .. } = best;
        self.show(&mut hits, &lens, query)?;
        Ok(Found { hits, is_cut, behind, is_partial: behind > behind_max })
    }

    /// All chats in which it is found, whether the index has it or not.
    ///
    /// # Errors
    /// As [`Snapshot::search`].
    pub fn chats_with(&self, query: &Query) -> Result<BTreeSet<String>, Error> {
        let progress = Progress::of(&self.connection)?.ok_or_else(too_old)?;
        let (lens, mut chats, filter) = (Lens::new()?, BTreeSet::new(), Filter::default());
        let mut add = |hit: Hit| {
            chats.insert(hit.chat_id);
            false
        };
        if progress.is_sound() {
            self.each_hit(INDEXED, query.expression(), &filter, None, &mut add).map_err(damaged)?;
        }
        self.each_behind(&progress, |documents| {
            let seen = lens.look(&documents, query)?;
            self.each_hit(SEEN, &found(&seen), &filter, None, &mut add)
        })?;
        Ok(chats)
    }

    /// Hands on hits, without snippets, until `take` has enough.
    fn each_hit(
        &self,
        source: &str,
        found: &str,
        filter: &Filter,
        order: Option<Order>,
        mut take: impl FnMut(Hit) -> bool,
    ) -> Result<(), Error> {
        let order = match order {
            Some(Order::Best) => "ORDER BY found.score",
            Some(Order::Newest) => "ORDER BY at DESC, found.id DESC",
            None => "",
        };
        let chat_ids = filter.chat_ids.as_ref().map(|ids| serde_json::Value::from(ids.as_slice()).to_string());
        let mut select = self.connection.prepare_cached(&format!("{source}{HIT}{ROWS} {order}"))?;
        let mut rows = select.query(named_params! {
            ":found": found, ":chat_ids": chat_ids, ":from": filter.from, ":until": filter.until, ":service": filter.service,
        })?;
        while let Some(row) = rows.next()? {
            if take(Hit::of(row)?) {
                break;
            }
        }
        Ok(())
    }

    /// Hands on what the index does not have as it is, in pieces.
    fn each_behind(
        &self,
        progress: &Progress,
        mut take: impl FnMut(Vec<(i64, String)>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut documents = Vec::new();
        let mut add = |documents: &mut Vec<_>, id, document: Option<String>| {
            documents.extend(document.map(|document| (id, document)));
            if documents.len() < TOGETHER_MAX { Ok(()) } else { take(std::mem::take(documents)) }
        };
        let mut select = self.connection.prepare("SELECT id FROM search_changes ORDER BY id")?;
        let mut changes = select.query(())?;
        while let Some(change) = changes.next()? {
            let id = change.get(0)?;
            if let Some((source, rowid)) = Source::of_id(id).filter(|(source, rowid)| progress.has(*source, *rowid)) {
                add(&mut documents, id, source.read(&self.connection, rowid)?)?;
            }
        }
        for source in Source::ALL {
            let sql = format!("{} WHERE rowid > ? ORDER BY rowid", source.select());
            let mut select = self.connection.prepare(&sql)?;
            let mut rows = select.query([progress.reach(source)])?;
            while let Some(row) = rows.next()? {
                add(&mut documents, source.id(row.get(0)?), source.document(row)?)?;
            }
        }
        take(documents)
    }

    /// Finds where it stands in those hits of which that is not known yet.
    fn show(&self, hits: &mut Vec<Hit>, lens: &Lens, query: &Query) -> Result<(), Error> {
        let unseen: Vec<i64> = hits.iter().filter(|hit| hit.snippet.is_empty()).map(|hit| hit.id).collect();
        let mut snippets = HashMap::new();
        for some in unseen.chunks(TOGETHER_MAX) {
            let mut documents = Vec::with_capacity(some.len());
            for id in some {
                let (source, rowid) = Source::of_id(*id).expect("a hit is of a row");
                documents.extend(source.read(&self.connection, rowid)?.map(|document| (*id, document)));
            }
            snippets.extend(lens.look(&documents, query)?.into_iter().map(|seen| (seen.id, seen.snippet)));
        }
        for hit in hits.iter_mut().filter(|hit| hit.snippet.is_empty()) {
            hit.snippet = snippets.remove(&hit.id).unwrap_or_default();
        }
        // What does not say it is none, whatever somebody did to the index.
        hits.retain(|hit| !hit.snippet.is_empty());
        Ok(())
    }
}

fn too_old() -> Error {
    let what = "this archive is of a release that does not search: start `serve` of this one with it once, which brings it up to date";
    Error::new(ErrorKind::Other, what)
}

fn damaged(error: Error) -> Error {
    match error.kind {
        ErrorKind::Corrupt => {
            let what =
                "the full-text index is damaged: `gms-recorder search QUERY --index` makes it anew, from the rows";
            Error::new(ErrorKind::Corrupt, what)
        }
        _ => error,
    }
}

fn found(seen: &[Seen]) -> String {
    let pairs = seen.iter().map(|seen| serde_json::json!([seen.id, seen.score])).collect::<Vec<_>>();
    serde_json::Value::from(pairs).to_string()
}

/// The best hits so far.
struct Best {
    order: Order,
    limit: usize,
    hits: Vec<Hit>,
    is_cut: bool,
}

impl Best {
    /// Whether more than is wanted has come, in its order.
    fn is_full(&mut self) -> bool {
        if self.hits.len() > self.limit {
            self.distinct();
        }
        self.hits.len() > self.limit
    }

    /// An event and its variants are one hit: the first of them.
    fn distinct(&mut self) {
        let mut keys = HashSet::new();
        self.hits.retain(|hit| {
            let key = hit.event_index.map(|index| (hit.chat_id.clone(), index));
            key.is_none_or(|key| keys.insert(key))
        });
    }

    fn cut(&mut self) {
        sort(&mut self.hits, self.order);
        self.distinct();
        self.is_cut |= self.hits.len() > self.limit;
        self.hits.truncate(self.limit);
    }
}

/// In their order; of several archives, too.
pub fn sort(hits: &mut [Hit], order: Order) {
    let score = |hit: &Hit| hit.score.unwrap_or_default();
    match order {
        Order::Best => hits.sort_by(|a, b| score(a).total_cmp(&score(b)).then(b.at.cmp(&a.at))),
        Order::Newest => hits.sort_by_key(|hit| std::cmp::Reverse((hit.at, hit.id))),
    }
}

impl Hit {
    fn of(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            id: row.get(0)?,
            score: row.get(1)?,
            chat_id: row.get(2)?,
            event_index: row.get(3)?,
            at: row.get(4)?,
            kind: row.get(5)?,
            nickname: row.get(6)?,
            party_type: row.get(7)?,
            attribute: row.get(8)?,
            is_variant: row.get(9)?,
            snippet: Snippet::default(),
        })
    }
}
