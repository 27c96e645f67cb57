//! What can go wrong at a node, how often, and the fate that each numbered exchange meets. It decides; it does nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dice::Dice;

/// How often something happens: `0.05` (a probability) or `{"every": 20}` (each twentieth exchange).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Chance {
    /// With this probability, 0 to 1.
    Rate(f64),
    /// At each n-th exchange; 0 is never.
    Every {
        /// n.
        every: u64,
    },
}

impl Chance {
    /// It never happens.
    pub const NEVER: Self = Self::Rate(0.0);
    /// It always happens.
    pub const ALWAYS: Self = Self::Rate(1.0);

    /// At each n-th exchange.
    pub const fn every(n: u64) -> Self {
        Self::Every { every: n }
    }

    fn strikes(self, number: u64, dice: &mut Dice) -> bool {
        // Thrown in any case, so that one fault's rate does not shift what the others meet.
        let thrown = dice.fraction();
        match self {
            Self::Rate(rate) => thrown < rate,
            Self::Every { every } => every > 0 && number.is_multiple_of(every),
        }
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::NEVER
    }
}

/// The faults of all nodes. They strike chat routes (Chat V2, chat-ntf, CometD, email, open media, Chat V1) and leave the
/// node status, storage and the simulator's own pages alone. Of several that strike one exchange, one error, one reset
/// and one way of garbling win, in the order of the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Code 240 with a ReferenceID in its advice, as HTTP 400; the operation is not executed.
    pub unexpected: Chance,
    /// Code 249 with a referenceId in its advice and statusCode 2 inside HTTP 200; the operation is not executed.
    pub media_server: Chance,
    /// A bare statusCode 1 inside HTTP 200; the operation is not executed.
    pub temporary: Chance,
    /// HTTP 500 with a page of HTML; the operation is not executed.
    pub server_error: Chance,
    /// HTTP 503 with a page of HTML; the operation is not executed.
    pub unavailable: Chance,
    /// The answer is held back, between `delay_ms_min` and `delay_ms_max`.
    pub delay: Chance,
    /// The shortest delay, in milliseconds.
    pub delay_ms_min: u64,
    /// The longest delay, in milliseconds.
    pub delay_ms_max: u64,
    /// The connection is reset (RST) once the request's head was read and before its body is.
    pub reset_before_reading: Chance,
    /// The operation is executed, then the connection is reset (RST) instead of an answer.
    pub reset_after_reading: Chance,
    /// The connection ends in the middle of the answer's body.
    pub truncated: Chance,
    /// The answer is whole but no JSON.
    pub malformed: Chance,
    /// The answer is written as Python would print it, like the example of the documentation.
    pub python: Chance,
    /// The answer is written in small pieces over `slow_ms`.
    pub slow: Chance,
    /// How long a slow answer takes, in milliseconds.
    pub slow_ms: u64,
    /// The answer is encoded with gzip, in two members at odd exchanges.
    pub gzip: Chance,
    /// The answer is encoded with deflate: a zlib stream, at odd exchanges a raw one.
    pub deflate: Chance,
    /// The answer is encoded with zstd.
    pub zstd: Chance,
    /// The answer is framed in chunks rather than by its length.
    pub chunked: Chance,
    /// One event that was delivered before comes again with a changed text.
    pub variant: Chance,
    /// A connection is closed after this many requests, announced by `Connection: close`; 0 is never.
    pub requests_per_connection: u64,
    /// An idle connection is closed after this many milliseconds, unannounced; 0 is never. Holds for new connections.
    pub idle_ms: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            unexpected: Chance::NEVER,
            media_server: Chance::NEVER,
            temporary: Chance::NEVER,
            server_error: Chance::NEVER,
            unavailable: Chance::NEVER,
            delay: Chance::NEVER,
            delay_ms_min: 50,
            delay_ms_max: 250,
            reset_before_reading: Chance::NEVER,
            reset_after_reading: Chance::NEVER,
            truncated: Chance::NEVER,
            malformed: Chance::NEVER,
            python: Chance::NEVER,
            slow: Chance::NEVER,
            slow_ms: 200,
            gzip: Chance::NEVER,
            deflate: Chance::NEVER,
            zstd: Chance::NEVER,
            chunked: Chance::NEVER,
            variant: Chance::NEVER,
            requests_per_connection: 0,
            idle_ms: 0,
        }
    }
}

/// An error in place of the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Unexpected,
    MediaServer,
    Temporary,
    Page(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reset {
    BeforeReading,
    AfterReading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Garble {
    Truncated,
    Malformed,
    Python,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
    Zstd,
}

/// What one exchange meets.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Fate {
    pub(super) number: u64,
    pub(super) failure: Option<Failure>,
    pub(super) delay: Duration,
    pub(super) reset: Option<Reset>,
    pub(super) garble: Option<Garble>,
    pub(super) slow: Option<Duration>,
    pub(super) encoding: Option<Encoding>,
    pub(super) chunked: bool,
    pub(super) variant: bool,
}

impl Faults {
    /// The fate of the exchange of this number: the same for the same seed, number and faults.
    pub(super) fn fate(&self, seed: u64, number: u64) -> Fate {
        let dice = &mut Dice::at(seed, number);
        let mut strikes = |chance: Chance| chance.strikes(number, dice);
        let failure = first([
            (strikes(self.unexpected), Failure::Unexpected),
            (strikes(self.media_server), Failure::MediaServer),
            (strikes(self.temporary), Failure::Temporary),
            (strikes(self.server_error), Failure::Page(500)),
            (strikes(self.unavailable), Failure::Page(503)),
        ]);
        let reset = first([
            (strikes(self.reset_before_reading), Reset::BeforeReading),
            (strikes(self.reset_after_reading), Reset::AfterReading),
        ]);
        let garble = first([
            (strikes(self.truncated), Garble::Truncated),
            (strikes(self.malformed), Garble::Malformed),
            (strikes(self.python), Garble::Python),
        ]);
        let encoding = first([
            (strikes(self.gzip), Encoding::Gzip),
            (strikes(self.deflate), Encoding::Deflate),
            (strikes(self.zstd), Encoding::Zstd),
        ]);
        let slow = strikes(self.slow).then(|| Duration::from_millis(self.slow_ms));
        let (chunked, variant) = (strikes(self.chunked), strikes(self.variant));
        let delayed = strikes(self.delay);
        let delay = if delayed { dice.between(self.delay_ms_min, self.delay_ms_max) } else { 0 };
        let delay = Duration::from_millis(delay);
        Fate { number, failure, delay, reset, garble, slow, encoding, chunked, variant }
    }
}

fn first<T, const N: usize>(candidates: [(bool, T); N]) -> Option<T> {
    candidates.into_iter().find_map(|(struck, what)| struck.then_some(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_repeat_and_keep_their_rate() {
        let faults = Faults { unexpected: Chance::Rate(0.25), truncated: Chance::every(10), ..Faults::default() };
        let fates: Vec<Fate> = (1..=4000).map(|n| faults.fate(42, n)).collect();
        assert_eq!(fates, (1..=4000).map(|n| faults.fate(42, n)).collect::<Vec<_>>());
        let failed = fates.iter().filter(|fate| fate.failure == Some(Failure::Unexpected)).count();
        assert!((900..1100).contains(&failed), "{failed} of 4000 at a rate of a quarter");
        assert_eq!(fates.iter().filter(|fate| fate.garble == Some(Garble::Truncated)).count(), 400);
    }

    #[test]
    fn both_ways_of_saying_how_often_are_read() {
        let faults: Faults = serde_json::from_str(r#"{"gzip": 0.5, "malformed": {"every": 7}}"#).expect("valid");
        assert_eq!((faults.gzip, faults.malformed), (Chance::Rate(0.5), Chance::every(7)));
        assert!(serde_json::from_str::<Faults>(r#"{"gzp": 1}"#).is_err());
    }
}
