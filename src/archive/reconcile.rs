//! Why a chat is in a list from elsewhere and not here, or here and not there: the most certain reason of each. Pure.

use super::report::recording::{Recording, Why};
use crate::chat::ChatId;
use crate::store::read::listing::{Missing, Unlisted};
use crate::store::read::period::{OutageRow, Span};

/// Clocks of two systems differ, and they count a chat from different moments: so near its ends a span says little.
const EDGE_MS: i64 = 3_600_000;

/// Why an id of the list is no chat of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// It was erased or purged: how, when, why.
    Removed(String),
    /// The archive has it in other letters.
    OtherSpelling(String),
    /// It cannot be the id of a chat.
    NoId,
    /// Clients were given errors under it, and never a transcript: so many.
    OnlyErrors(i64),
    /// Answers with it could not be read: so many findings.
    OnlyFindings(i64),
    /// The archive has nothing of that time.
    BeforeTheArchive,
    /// No recorder ran at that time.
    NotRecording(Why),
    /// There was an outage at that time, in which events were lost.
    Outage(String),
    /// None of these: it did not come through this recorder, as far as the archive knows.
    NeverSeen,
}

impl Absence {
    /// As programs name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Removed(_) => "removed",
            Self::OtherSpelling(_) => "other_spelling",
            Self::NoId => "no_id",
            Self::OnlyErrors(_) => "only_errors",
            Self::OnlyFindings(_) => "only_findings",
            Self::BeforeTheArchive => "before_the_archive",
            Self::NotRecording(_) => "not_recording",
            Self::Outage(_) => "outage",
            Self::NeverSeen => "never_seen",
        }
    }

    /// Of a missing id, by when the list says it was.
    pub fn of(missing: &Missing, recording: &Recording, outages: &[OutageRow]) -> Self {
        let gap = missing.listed.at.and_then(|at| {
            recording.gaps.iter().find(|gap| (gap.span.from..gap.span.until).contains(&at)).map(|gap| gap.why)
        });
        let outage = missing.listed.at.and_then(|at| {
            let is_then = |outage: &&OutageRow| outage.started_at <= at && outage.ended_at.is_none_or(|end| at <= end);
            outages.iter().filter(|outage| outage.dropped + outage.refused > 0).find(is_then)
        });
        match (missing, gap, outage) {
            (Missing { removed: Some(how), .. }, ..) => Self::Removed(how.clone()),
            (Missing { other_spelling: Some(other), .. }, ..) => Self::OtherSpelling(other.clone()),
            (Missing { errors: 1.., .. }, ..) => Self::OnlyErrors(missing.errors),
            (Missing { findings: 1.., .. }, ..) => Self::OnlyFindings(missing.findings),
            _ if ChatId::parse(&missing.listed.chat_id).is_none() => Self::NoId,
            (_, Some(Why::NotBegun), _) => Self::BeforeTheArchive,
            (_, Some(why), _) => Self::NotRecording(why),
            (_, None, Some(outage)) => Self::Outage(outage.reason.clone()),
            (_, None, None) => Self::NeverSeen,
        }
    }
}

/// Why a chat of the archive is not in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surplus {
    /// It began within an hour of the beginning or the end of the list's time.
    AtTheEdge,
    /// Nobody wrote anything: it may not count as an interaction there.
    NothingSaid,
    /// It goes on: there it may not be written yet.
    Open,
    /// None of these.
    NotListed,
}

impl Surplus {
    /// As programs name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AtTheEdge => "at_the_edge",
            Self::NothingSaid => "nothing_said",
            Self::Open => "open",
            Self::NotListed => "not_listed",
        }
    }

    /// Of a chat that began in the list's time.
    pub fn of(chat: &Unlisted, span: Span) -> Self {
        let (after, before) = (chat.first_seen_at - span.from, span.until - chat.first_seen_at);
        match chat {
            Unlisted { status, .. } if status == "open" => Self::Open,
            Unlisted { messages: 0, .. } => Self::NothingSaid,
            _ if after.min(before) < EDGE_MS && span.until - span.from > 4 * EDGE_MS => Self::AtTheEdge,
            _ => Self::NotListed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::report::recording::Gap;
    use crate::store::read::listing::Listed;

    fn missing(chat_id: &str, at: Option<i64>) -> Missing {
        let listed = Listed { line: 1, chat_id: chat_id.into(), at };
        Missing { listed, removed: None, other_spelling: None, errors: 0, findings: 0 }
    }

    #[test]
    fn each_missing_id_has_the_most_certain_reason() {
        let gap = |from, until, why| Gap { span: Span { from, until }, why };
        let gaps = vec![gap(0, 100, Why::NotBegun), gap(200, 300, Why::Died)];
        let span = Span { from: 0, until: 1_000 };
        let recording = Recording { span, on_ms: 0, gaps, runs: Vec::new(), recorders: 1, copied_at: None };
        let outage = |dropped| OutageRow {
            started_at: 400 + 100 * dropped,
            ended_at: Some(450 + 100 * dropped),
            reason: "disk_full".into(),
            detail: None,
            events: 1,
            answers: 1,
            delivered_early: 1,
            refused: 0,
            dropped,
            spooled: 0,
        };
        let outages = [outage(0), outage(1)];
        let text = |text: &str| Some(text.to_owned());
        let rows = [
            (missing("c", Some(50)), "before_the_archive"),
            (missing("c", Some(250)), "not_recording"),
            (missing("c", Some(300)), "never_seen"),
            (missing("c", Some(420)), "never_seen"), // nothing was lost in that one
            (missing("c", Some(520)), "outage"),
            (missing("c", None), "never_seen"),
            (missing("a\tb", Some(50)), "no_id"),
            (Missing { removed: text("erased"), errors: 3, ..missing("c", Some(50)) }, "removed"),
            (Missing { other_spelling: text("C"), ..missing("c", Some(50)) }, "other_spelling"),
            (Missing { errors: 3, findings: 1, ..missing("c", Some(250)) }, "only_errors"),
            (Missing { findings: 1, ..missing("c", Some(250)) }, "only_findings"),
        ];
        for (missing, wanted) in rows {
            assert_eq!(Absence::of(&missing, &recording, &outages).name(), wanted, "{missing:?}");
        }
    }

    #[test]
    fn each_unlisted_chat_has_one_too() {
        let day = Span { from: 0, until: 24 * EDGE_MS };
        let chat = |first_seen_at, status: &str, messages| Unlisted {
            chat_id: "c".into(),
            service: None,
            first_seen_at,
            last_seen_at: first_seen_at,
            status: status.into(),
            messages,
        };
        let noon = 12 * EDGE_MS;
        let rows = [
            (chat(noon, "complete", 3), day, "not_listed"),
            (chat(noon, "complete", 0), day, "nothing_said"),
            (chat(noon, "open", 0), day, "open"),
            (chat(5, "complete", 3), day, "at_the_edge"),
            (chat(day.until - 5, "complete", 3), day, "at_the_edge"),
            (chat(5, "complete", 3), Span { from: 0, until: EDGE_MS }, "not_listed"),
        ];
        for (chat, span, wanted) in rows {
            assert_eq!(Surplus::of(&chat, span).name(), wanted, "{chat:?}");
        }
    }
}
