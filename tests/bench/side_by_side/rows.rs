//! The rows of the table: what is measured, and what is to come of it.

use crate::traffic::{Content, Traffic, Work};

/// One kind of work.
#[derive(Debug)]
pub struct Row {
    /// For `--only`.
    pub name: &'static str,
    pub what: &'static str,
    pub traffic: Traffic,
    pub goal: Option<Goal>,
}

/// CPU time a request, as multiples of nginx's.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    pub target: f64,
    /// The bare minimum: what is accepted at all.
    pub minimum: f64,
}

const fn goal(target: f64, minimum: f64) -> Option<Goal> {
    Some(Goal { target, minimum })
}

pub const ROWS: [Row; 15] = [
    Row {
        name: "empty",
        what: "polls that bring nothing new, 20 a chat",
        traffic: Traffic::kept_alive(Work::Polls(20)),
        goal: goal(0.9, 1.05),
    },
    Row {
        name: "empty-200",
        what: "the same, 200 a chat",
        traffic: Traffic::kept_alive(Work::Polls(200)),
        goal: goal(0.9, 1.05),
    },
    Row {
        name: "mix",
        what: "16 empty : 3 with new events : 1 whole transcript",
        traffic: Traffic::kept_alive(Work::Mix),
        goal: goal(1.4, 1.9),
    },
    Row {
        name: "r3",
        what: "every answer brings 2 new events and a known one",
        traffic: Traffic::kept_alive(Work::R3),
        goal: goal(1.4, 1.8),
    },
    Row {
        name: "t200",
        what: "transcripts of 200 events, each delivered four times",
        traffic: Traffic::kept_alive(Work::T200(4)),
        goal: goal(4.0, 5.5),
    },
    Row {
        name: "other",
        what: "a route that is not inspected, small",
        traffic: Traffic::kept_alive(Work::Other(Content::R3)),
        goal: goal(0.95, 1.05),
    },
    Row {
        name: "other-38k",
        what: "the same, 38 KB",
        traffic: Traffic::kept_alive(Work::Other(Content::T200)),
        goal: goal(0.95, 1.05),
    },
    Row {
        name: "other-ck",
        what: "the same in chunks, small",
        traffic: Traffic::chunked(Work::Other(Content::R3)),
        goal: goal(1.1, 1.4),
    },
    Row {
        name: "other-38k-ck",
        what: "the same in chunks, 38 KB",
        traffic: Traffic::chunked(Work::Other(Content::T200)),
        goal: goal(1.1, 1.4),
    },
    Row { name: "r3-ck", what: "new events (r3) in chunks", traffic: Traffic::chunked(Work::R3), goal: None },
    Row {
        name: "t200-ck",
        what: "whole transcripts (t200) in chunks",
        traffic: Traffic::chunked(Work::T200(4)),
        goal: None,
    },
    Row {
        name: "close",
        what: "a connection a request, not inspected, small",
        traffic: Traffic::closed(Work::Other(Content::R3)),
        goal: goal(0.9, 1.0),
    },
    Row {
        name: "close-empty",
        what: "a connection a request, polls that bring nothing new",
        traffic: Traffic::closed(Work::Polls(20)),
        goal: goal(0.9, 1.0),
    },
    Row {
        name: "tls",
        what: "by TLS, not inspected, small",
        traffic: Traffic::kept_alive(Work::Other(Content::R3)).by_tls(),
        goal: goal(0.95, 1.05),
    },
    Row {
        name: "tls-close",
        what: "the same, a connection with a full handshake a request",
        traffic: Traffic::closed(Work::Other(Content::R3)).by_tls(),
        goal: goal(0.7, 0.8),
    },
];

/// Every transcript is new: for ingest. Not a row of its own.
pub const ALL_NEW: Row = Row {
    name: "t200-new",
    what: "transcripts of 200 events, all new",
    traffic: Traffic::kept_alive(Work::T200(1)),
    goal: None,
};

/// A row by its name.
pub fn find(name: &str) -> Option<&'static Row> {
    static ALL_NEW_ROW: Row = ALL_NEW;
    static LISTED: [Row; 15] = ROWS;
    LISTED.iter().chain([&ALL_NEW_ROW]).find(|row| row.name == name)
}
