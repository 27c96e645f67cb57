//! What somebody is looking for, as they write it: words, all of which are wanted, in any order.

use super::document::{apart, has_words};

/// A question is a line.
const CHARACTERS_MAX: usize = 1_000;
/// SQLite nests no deeper than 256 (SQLITE_FTS5_MAX_EXPR_DEPTH).
const TERMS_MAX: usize = 100;

/// A question that SQLite understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    expression: String,
}

/// What is wrong with one, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// A word or a phrase.
#[derive(Debug)]
struct Term {
    text: String,
    is_quoted: bool,
    is_excluded: bool,
    is_beginning: bool,
}

impl Query {
    /// Reads `word`, `"some phrase"`, `begin*`, `-without`, and `this OR that`: either of the two beside it.
    ///
    /// # Errors
    /// What cannot be meant.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.chars().count() > CHARACTERS_MAX {
            return malformed(format!("the question is longer than {CHARACTERS_MAX} characters"));
        }
        let terms = terms(&as_typed(text))?;
        if terms.len() > TERMS_MAX {
            return malformed(format!("the question has more than {TERMS_MAX} words"));
        }
        Ok(Self { expression: expression(&terms)? })
    }

    /// As `MATCH` takes it.
    pub(super) fn expression(&self) -> &str {
        &self.expression
    }
}

/// Writing programs and phones make other quotation marks and dashes of the plain ones.
fn as_typed(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let begins = text[..at].chars().next_back().is_none_or(char::is_whitespace);
        plain.push(match c {
            '“' | '”' | '„' | '‟' | '«' | '»' => '"',
            '–' | '—' | '−' if begins => '-',
            other => other,
        });
    }
    plain
}

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

fn terms(text: &str) -> Result<Vec<Term>, Malformed> {
    let (mut terms, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        let is_excluded = rest.starts_with('-');
        let begin = rest.strip_prefix('-').unwrap_or(rest);
        let (text, after, is_quoted) = match begin.strip_prefix('"') {
            Some(quoted) => match quoted.split_once('"') {
                Some((phrase, after)) => (phrase, after, true),
                None => return malformed("a quotation mark is not closed: a phrase stands between two of them"),
            },
            None => {
                let end = begin.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(begin.len());
                (&begin[..end], &begin[end..], false)
            }
        };
        let (text, after, is_beginning) = match is_quoted {
            true => (text, after.strip_prefix('*').unwrap_or(after), after.starts_with('*')),
            false => (text.trim_end_matches('*'), after, text.ends_with('*')),
        };
        let shown = || match is_quoted {
            true => format!("\"{text}\""),
            false => rest[..rest.len() - after.len()].to_owned(),
        };
        if text.contains('*') {
            let shown = shown();
            return malformed(format!(
                "{shown}: the * stands at the end of a word (refun*) or behind a phrase (\"second par\"*), and means that it goes on"
            ));
        }
        if !has_words(text) {
            let shown = shown();
            return malformed(format!("there is no letter and no digit in {shown}: nothing is found by that"));
        }
        terms.push(Term { text: text.to_owned(), is_quoted, is_excluded, is_beginning });
        rest = after.trim_start();
    }
    Ok(terms)
}

fn expression(terms: &[Term]) -> Result<String, Malformed> {
    let is_plain = |term: &Term| !term.is_quoted && !term.is_excluded && !term.is_beginning;
    let is_or = |term: &Term| term.text == "OR" && is_plain(term);
    // All words are wanted anyway.
    let is_and = |term: &Term| term.text == "AND" && is_plain(term);
    if terms.iter().any(|term| term.text == "NOT" && is_plain(term)) {
        return malformed("a word that is not wanted is written -word; to find the word NOT itself write \"NOT\"");
    }
    let terms: Vec<&Term> = terms.iter().filter(|term| !is_and(term)).collect();
    let (mut wanted, mut excluded): (Vec<Vec<String>>, Vec<String>) = Default::default();
    let mut joins = false;
    for (at, term) in terms.iter().enumerate() {
        if is_or(term) {
            let next = terms.get(at + 1).filter(|next| !is_or(next) && !next.is_excluded);
            if at == 0 || joins || terms[at - 1].is_excluded || next.is_none() {
                return malformed(
                    "OR stands between two words, either of which is wanted; to find the word itself write \"OR\"",
                );
            }
            joins = true;
            continue;
        }
        let phrase = phrase(term);
        match (term.is_excluded, joins) {
            (true, _) => excluded.push(phrase),
            (false, true) => wanted.last_mut().expect("a word stands before OR").push(phrase),
            (false, false) => wanted.push(vec![phrase]),
        }
        joins = false;
    }
    if wanted.is_empty() {
        return malformed(match excluded.is_empty() {
            true => "there is nothing to look for: write a word",
            false => "there is nothing to look for but what is not wanted (-word): write a word that is",
        });
    }
    let all = wanted.iter().map(|either| format!("({})", either.join(" OR "))).collect::<Vec<_>>().join(" AND ");
    match excluded.is_empty() {
        true => Ok(all),
        false => Ok(format!("({all}) NOT ({})", excluded.join(" OR "))),
    }
}

/// In quotation marks nothing but the marks themselves means anything to SQLite, and none is left.
fn phrase(term: &Term) -> String {
    let star = if term.is_beginning { " *" } else { "" };
    format!("\"{}\"{star}", apart(&term.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_understood() {
        let rows = [
            ("refund", Ok(r#"("refund")"#)),
            (" late  parcel ", Ok(r#"("late") AND ("parcel")"#)),
            (r#""late parcel""#, Ok(r#"("late parcel")"#)),
            (r#"say"late parcel"now"#, Ok(r#"("say") AND ("late parcel") AND ("now")"#)),
            ("refun*", Ok(r#"("refun" *)"#)),
            (r#""late par"*"#, Ok(r#"("late par" *)"#)),
            ("a OR b c", Ok(r#"("a" OR "b") AND ("c")"#)),
            ("a b OR c OR d", Ok(r#"("a") AND ("b" OR "c" OR "d")"#)),
            ("a -b -\"c d\"", Ok(r#"(("a")) NOT ("b" OR "c d")"#)),
            ("-b a", Ok(r#"(("a")) NOT ("b")"#)),
            ("\"OR\" and \"NOT\" NEAR( text:x ^y {z}", {
                Ok(r#"("OR") AND ("and") AND ("NOT") AND ("NEAR(") AND ("text:x") AND ("^y") AND ("{z}")"#)
            }),
            ("a AND b", Ok(r#"("a") AND ("b")"#)),
            ("“late parcel” –voucher a–b", Ok(r#"(("late parcel") AND ("a–b")) NOT ("voucher")"#)),
            ("«late parcel»", Ok(r#"("late parcel")"#)),
            ("a NOT b", Err("is written -word")),
            ("re*und", Err("re*und: the * stands at the end")),
            ("*fund", Err("*fund: the * stands at the end")),
            ("\"second par*\"", Err("behind a phrase")),
            ("anna@example.com", Ok(r#"("anna@example.com")"#)),
            ("退款*", Ok("(\"退\u{1f}款\" *)")),
            ("", Err("nothing to look for: write")),
            ("  ", Err("nothing to look for: write")),
            ("-a", Err("but what is not wanted")),
            ("\"a", Err("not closed")),
            ("a \"", Err("not closed")),
            ("a !?", Err("no digit in !?:")),
            ("*", Err("no digit in *:")),
            ("\"\"", Err("no digit in \"\":")),
            ("a -", Err("no digit in -:")),
            ("OR a", Err("OR stands between")),
            ("a OR", Err("OR stands between")),
            ("a OR OR b", Err("OR stands between")),
            ("a OR -b", Err("OR stands between")),
            ("-a OR b", Err("OR stands between")),
        ];
        for (text, wanted) in rows {
            match (Query::parse(text), wanted) {
                (Ok(query), Ok(wanted)) => assert_eq!(query.expression(), wanted, "{text}"),
                (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        assert!(Query::parse(&"x".repeat(1_001)).is_err());
        assert!(Query::parse(&"x ".repeat(101)).is_err());
        assert!(Query::parse(&"x ".repeat(100)).is_ok());
    }
}
