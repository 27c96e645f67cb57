//! A little index in memory: for what the archive's does not have yet, and to show where in a text the words stand.

use rusqlite::{Connection, Row, params};

use super::TOKENIZE;
use super::document::{APART, CLOSE, OPEN};
use super::query::Query;
use crate::store::Error;

/// Words of a snippet at most.
const SNIPPET_WORDS: i64 = 40;

/// Some documents, and what is looked for in them.
#[derive(Debug)]
pub(super) struct Lens {
    connection: Connection,
}

/// A piece of a text around the words that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snippet(Vec<Piece>);

/// A piece of a snippet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// As it is in the row.
    pub text: String,
    /// It is what was looked for.
    pub is_found: bool,
}

/// A document that was looked at and found.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) id: i64,
    /// The lower the better.
    pub(super) score: f64,
    pub(super) snippet: Snippet,
}

impl Lens {
    pub(super) fn new() -> Result<Self, Error> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch(&format!("CREATE VIRTUAL TABLE lens USING fts5(text, tokenize=\"{TOKENIZE}\")"))?;
        Ok(Self { connection })
    }

    /// Those of the documents that are found, the best first.
    pub(super) fn look(&self, documents: &[(i64, String)], query: &Query) -> Result<Vec<Seen>, Error> {
        let transaction = self.connection.unchecked_transaction()?;
        let mut insert = transaction.prepare_cached("INSERT INTO lens (rowid, text) VALUES (?, ?)")?;
        for (id, text) in documents {
            insert.execute(params![id, text])?;
        }
        let sql = "SELECT rowid, rank, snippet(lens, 0, ?, ?, '…', ?) FROM lens WHERE lens MATCH ? ORDER BY rank";
        let mut select = transaction.prepare_cached(sql)?;
        let read = |row: &Row<'_>| {
            let snippet = Snippet::of(row.get_ref(2)?.as_str()?);
            Ok(Seen { id: row.get(0)?, score: row.get(1)?, snippet })
        };
        let values = params![OPEN.to_string(), CLOSE.to_string(), SNIPPET_WORDS, query.expression()];
        let seen = select.query_map(values, read)?.collect::<Result<_, _>>()?;
        drop((insert, select));
        transaction.rollback()?;
        Ok(seen)
    }
}

impl Snippet {
    fn of(marked: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = marked;
        while let Some(c) = rest.chars().next() {
            let (is_found, begin) = if c == OPEN { (true, c.len_utf8()) } else { (false, 0) };
            let end = rest[begin..].find([OPEN, CLOSE]).map_or(rest.len(), |end| begin + end);
            let text = rest[begin..end].replace(APART, "");
            if !text.is_empty() {
                pieces.push(Piece { text, is_found });
            }
            rest = rest[end..].strip_prefix(CLOSE).unwrap_or(&rest[end..]);
        }
        Self(pieces)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::apart;
    use super::*;

    fn seen(text: &str, query: &str) -> Option<String> {
        let lens = Lens::new().expect("memory");
        let query = Query::parse(query).expect("a question");
        let documents = [(7, apart(text)), (8, "nothing of it".into())];
        let seen = lens.look(&documents, &query).expect("looked");
        assert!(lens.look(&[], &query).expect("looked").is_empty(), "nothing stays");
        assert!(seen.iter().all(|seen| seen.id == 7), "{seen:?}");
        let piece = |piece: &Piece| if piece.is_found { format!("«{}»", piece.text) } else { piece.text.clone() };
        seen.first().map(|seen| seen.snippet.pieces().iter().map(piece).collect())
    }

    /// What README says is found, and what is not.
    #[test]
    fn words_are_found_and_marked() {
        let rows = [
            ("Where is my Parcel?", "parcel", Some("Where is my «Parcel»?")),
            ("Where is my parcel?", "my parcel", Some("Where is «my» «parcel»?")),
            ("Where is my parcel?", "\"my parcel\"", Some("Where is «my parcel»?")),
            ("Where is my parcel?", "\"parcel my\"", None),
            ("Where is my parcel?", "par*", Some("Where is my «parcel»?")),
            ("Where is my parcel?", "arcel", None),
            ("Where is my parcel?", "where -parcel", None),
            ("Where is my parcel?", "letter OR parcel where", Some("«Where» is my «parcel»?")),
            ("Café in Łódź, Ёлка, ΕΛΛΆΔΑ", "cafe елка ελλαδα", None), // these are letters of their own
            ("Café in Łódź, Ёлка, Ελλάδα", "CAFE ёлка ελλάδα", Some("«Café» in Łódź, «Ёлка», «Ελλάδα»")),
            ("cafe\u{301} noir", "café", Some("«cafe\u{301}» noir")),
            ("mail me: anna@example.com!", "anna@example.com", Some("mail me: «anna@example.com»!")),
            ("order A-4711/2", "a-4711", Some("order «A-4711»/2")),
            ("我要退款，谢谢", "退款", Some("我要«退款»，谢谢")),
            ("我要退款，谢谢", "款退", None),
            ("ฉันต้องการคืนเงิน", "คืนเงิน", Some("ฉันต้องการ«คืนเงิน»")),
            ("환불을 원합니다", "환불", Some("«환불»을 원합니다")),
            ("返品したいです", "返品", Some("«返品»したいです")),
            ("मुझे धनवापसी चाहिए", "धनवापसी", Some("मुझे «धनवापसी» चाहिए")),
            ("great👍🏽", "great", Some("«great»👍🏽")),
            ("great👍🏽", "👍", Some("great«👍»🏽")),
        ];
        for (text, query, wanted) in rows {
            assert_eq!(seen(text, query).as_deref(), wanted, "{query} in {text}");
        }
    }

    #[test]
    fn a_long_text_is_shown_in_part() {
        let text = format!("{} parcel {}", "before ".repeat(100), "after ".repeat(100));
        let snippet = seen(&text, "parcel").expect("found");
        assert!(snippet.contains("«parcel»") && snippet.starts_with('…') && snippet.ends_with('…'), "{snippet}");
        assert!(snippet.len() < 400, "{snippet}");
    }
}
