//! Chats as a busy centre has them, and the answers in which their events come.
//!
//! Made here: ids, names, texts and JSON bodies as GMS writes them. Only [`Recording`] knows the program under test, so
//! that a benchmark need not change when the program's insides do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use gms_recorder::archive;
use gms_recorder::gms::mask::Masks;
use gms_recorder::gms::{self, Exchange, Observation, Policy, Route};
use gms_recorder::recorder::{
    AnswerKey, Config, Recorded, Recorder, Start, Verdict, WhenUnavailable, WriterThread, now_ms,
};
use gms_recorder::store::{ArchiveLock, ExchangeFacts, Options, Run, Store};
use gms_recorder::telemetry::metrics::Metrics;

/// The shortest and the longest chat, in events.
pub const EVENTS_A_CHAT: (u64, u64) = (10, 60);

/// Of the whole centre: 2,000 chats with an event every 16 seconds.
const EVENT_INTERVAL_MS: u64 = 8;

const WORDS: [&str; 40] = [
    "I",
    "you",
    "we",
    "the",
    "my",
    "order",
    "invoice",
    "Größe",
    "can",
    "please",
    "check",
    "number",
    "since",
    "yesterday",
    "delivery",
    "Straße",
    "thank",
    "very",
    "much",
    "not",
    "work",
    "für",
    "would",
    "like",
    "to",
    "know",
    "when",
    "it",
    "arrives",
    "Grüße",
    "account",
    "password",
    "moment",
    "look",
    "into",
    "that",
    "and",
    "again",
    "still",
    "tomorrow",
];

/// Turns of phrase that JSON must escape, and an emoji.
const TURNS: [&str; 4] = [" \\\"Premium\\\" ", "\\n", " C:\\\\temp ", " 👍 "];

/// A small generator of numbers (xorshift64): the same seed, the same chats.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Not zero.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Between the two, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        low + self.0 % (high - low + 1)
    }
}

/// One answer of a node to one poll, with what the poll said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The request's path.
    pub path: String,
    /// The request's form.
    pub form: String,
    /// The answer's JSON.
    pub body: String,
    /// Events in it.
    pub events: u64,
}

#[derive(Debug)]
struct Chat {
    number: u64,
    next_index: u64,
    last_index: u64,
}

/// A centre with a fixed number of chats going on at one time: one that ends is replaced by a new one.
#[derive(Debug)]
pub struct Centre {
    dice: Dice,
    live: Vec<Chat>,
    /// Chats begun so far: their numbers are 1 to this.
    pub opened: u64,
    clock_ms: u64,
}

impl Centre {
    /// Chats that are at different points of their lives, as at noon.
    pub fn new(live: usize) -> Self {
        let mut centre = Self { dice: Dice::new(0x9E37_79B9_7F4A_7C15), live: Vec::new(), opened: 0, clock_ms: 0 };
        for _ in 0..live {
            let mut chat = centre.open();
            chat.last_index = centre.dice.between(1, chat.last_index);
            centre.live.push(chat);
        }
        centre
    }

    /// The next poll of some chat that brings something: 1 to 3 new events, or at most as many as wanted.
    pub fn answer(&mut self, events_max: u64) -> Answer {
        let place = self.dice.between(0, self.live.len() as u64 - 1) as usize;
        let wanted = self.dice.between(1, 3).min(events_max);
        let chat = &self.live[place];
        let (number, from, last) = (chat.number, chat.next_index, chat.last_index);
        let next = (from + wanted).min(last + 1);
        let answer = self.page(number, from, next, next > last);
        self.live[place].next_index = next;
        if next > last {
            self.live[place] = self.open();
        }
        answer
    }

    fn open(&mut self) -> Chat {
        self.opened += 1;
        let events = self.dice.between(EVENTS_A_CHAT.0, EVENTS_A_CHAT.1);
        Chat { number: self.opened, next_index: 1, last_index: events }
    }

    /// The answer to a refresh, or to requestChat where it is the first: the events from one position up to another.
    pub fn page(&mut self, number: u64, from: u64, next: u64, ended: bool) -> Answer {
        let events: Vec<String> =
            (from..next).map(|index| self.event(number, index, ended && index + 1 == next)).collect();
        answer(number, from, &events, ended)
    }

    /// The JSON of one event.
    pub fn event(&mut self, number: u64, index: u64, is_last: bool) -> String {
        self.clock_ms += EVENT_INTERVAL_MS;
        let utc_time = 1_798_761_600_000 + self.clock_ms;
        let (kind, who) = match index {
            1 => ("ParticipantJoined", 1),
            2 => ("ParticipantJoined", 2),
            _ if is_last => ("ParticipantLeft", 1),
            _ => match self.dice.between(0, 19) {
                0 => ("TypingStarted", 2),
                1 => ("CustomNotice", 2),
                die => ("Message", die % 2 + 1),
            },
        };
        let (nickname, party) = match who {
            1 => (CUSTOMERS[(number % 8) as usize], "Client"),
            _ => (AGENTS[(number / 8 % 8) as usize], "Agent"),
        };
        let from = format!(r#""from":{{"nickname":"{nickname}","participantId":{who},"type":"{party}"}}"#);
        match kind {
            "Message" | "CustomNotice" => format!(
                r#"{{{from},"index":{index},"text":"{}","type":"{kind}","utcTime":{utc_time},"messageType":"text"}}"#,
                self.text()
            ),
            _ => format!(r#"{{{from},"index":{index},"type":"{kind}","utcTime":{utc_time}}}"#),
        }
    }

    /// What people type: mostly a short line, now and then a paragraph.
    fn text(&mut self) -> String {
        let words = match self.dice.between(0, 9) {
            0 => self.dice.between(25, 60),
            _ => self.dice.between(2, 18),
        };
        let mut text = String::new();
        for _ in 0..words {
            text.push_str(WORDS[self.dice.between(0, WORDS.len() as u64 - 1) as usize]);
            match self.dice.between(0, 39) {
                rare @ 0..4 => text.push_str(TURNS[rare as usize]),
                _ => text.push(' '),
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// The answer with these events, the first of them at a position.
pub fn answer(number: u64, from: u64, events: &[String], ended: bool) -> Answer {
    let (chat_id, next) = (chat_id(number), from + events.len() as u64);
    let body = format!(
        r#"{{"messages":[{}],"chatEnded":{ended},"statusCode":0,"alias":"117","secureKey":"{}","userId":"007559F34DB3{:04}","chatId":"{chat_id}","nextPosition":{next}}}"#,
        events.join(","),
        secure_key(number),
        number % 10_000,
    );
    let (path, form) = match from {
        1 => ("/genesys/2/chat/customer-support".into(), opening_form(number)),
        _ => (
            format!("/genesys/2/chat/customer-support/{chat_id}/refresh"),
            format!("secureKey={}&transcriptPosition={from}", secure_key(number)),
        ),
    };
    Answer { path, form, body, events: next - from }
}

const CUSTOMERS: [&str; 8] = ["Anna", "Jürgen Müller", "M. Petrow", "guest", "Zoë", "李娜", "Mary-Ann Smith", "K."];
const AGENTS: [&str; 8] = ["Uhura", "Agent 0471", "Frau Schäfer", "Support", "Lee", "Martín", "Team Nord", "Eva B."];

/// 00001aCY6K8U003T: a high count, the letter a, when the Chat Server started, a low count that begins again at zero.
pub fn chat_id(number: u64) -> String {
    let low_counts = 36_u64.pow(4);
    format!("{}aCY6K8U{}", base36(number / low_counts + 1, 5), base36(number % low_counts, 4))
}

fn base36(mut number: u64, digits: usize) -> String {
    let mut text = vec![b'0'; digits];
    for place in text.iter_mut().rev() {
        *place = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[(number % 36) as usize];
        number /= 36;
    }
    String::from_utf8(text).expect("digits are ASCII")
}

/// What a widget says of its customer when it asks for a chat.
fn opening_form(number: u64) -> String {
    format!(
        "nickname=customer{number}&firstName=Anna&lastName=M%C3%BCller&emailAddress=customer{number}%40example.com\
         &subject=order&userData%5Bpage%5D=https%3A%2F%2Fwww.example.com%2Forders%2F{number}"
    )
}

/// 20 hex digits that differ from chat to chat, like the samples'.
fn secure_key(number: u64) -> String {
    format!("e407{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// What inspection finds in an answer: the first half of its way through the program.
pub fn inspect(answer: &Answer, policy: &Policy) -> Observation {
    with_exchange(answer, |exchange| gms::inspect(exchange, policy, &|_| Vec::new()))
}

fn with_exchange<T>(answer: &Answer, look: impl FnOnce(&Exchange<'_>) -> T) -> T {
    let route = Route::parse("POST", &answer.path, "/genesys");
    look(&Exchange {
        route: &route,
        query: None,
        request_content_type: Some("application/x-www-form-urlencoded"),
        request_body: answer.form.as_bytes(),
        request_complete: true,
        credentials: &[],
        status: 200,
        content_encoding: None,
        body: answer.body.as_bytes(),
        body_complete: true,
    })
}

/// An archive that is being written, by the same recorder that serves. Dropped, it writes what is left and closes the
/// file.
pub struct Recording {
    /// The very one of the program.
    pub recorder: Arc<Recorder>,
    writer: Option<WriterThread>,
    facts: Arc<ExchangeFacts>,
    runtime: tokio::runtime::Runtime,
    /// As `serve` holds it: commands see that somebody records.
    _lock: ArchiveLock,
}

impl Recording {
    /// Makes an archive and starts its writer: synced commits, as configured when nothing is.
    pub fn start(database: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = Config {
            database: database.to_owned(),
            // A benchmark whose file takes nothing must not go on.
            when_unavailable: WhenUnavailable::Refuse,
            queue_bytes_max: QUEUE_BYTES_MAX,
            ..Config::default()
        };
        let (options, run) = (options(database), run());
        let lock = ArchiveLock::acquire(database)?;
        let store = runtime.block_on(Store::open(&options, &run))?;
        let writer = Recorder::start(Start {
            config,
            evidence: archive::Config::default(),
            store,
            options,
            run,
            metrics: Arc::new(Metrics::default()),
        })?;
        let node = Some("http://gms-1:8080".into());
        let facts =
            ExchangeFacts { method: "POST".into(), node, client: "10.0.0.7".into(), ..ExchangeFacts::default() };
        let (recorder, facts) = (writer.recorder().clone(), Arc::new(facts));
        Ok(Self { recorder, writer: Some(writer), facts, runtime, _lock: lock })
    }

    /// How inspection is to be done for it.
    pub fn policy(&self) -> &Policy {
        self.recorder.policy()
    }

    /// By what an answer is recognised when it comes again.
    pub fn key(&self, answer: &Answer) -> AnswerKey {
        with_exchange(answer, |exchange| self.recorder.answer_key("POST", &answer.path, exchange))
    }

    /// Puts what an answer showed into the queue, where it brings something.
    pub fn observe(&self, seen: Observation, key: AnswerKey) -> Recorded {
        self.recorder.observe(seen, key, self.facts.node.as_ref(), || self.facts.clone())
    }

    /// Returns when all of it is on disk.
    pub fn wait(&self, recorded: Vec<Recorded>) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            for one in recorded {
                let verdict = self.recorder.wait(one, COMMIT_WAIT_MAX).await;
                ensure!(verdict == Verdict::Deliver, "an answer could not be recorded: {:?}", self.recorder.outage());
            }
            Ok(())
        })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.writer.take().into_iter().for_each(|writer| writer.close(COMMIT_WAIT_MAX));
    }
}

/// Long enough for the slowest disk: a benchmark measures how slow, it does not give up.
pub const COMMIT_WAIT_MAX: Duration = Duration::from_secs(60);
/// Room for some 50,000 events that wait: more than any benchmark puts in at one time.
const QUEUE_BYTES_MAX: usize = 256 << 20;

/// An archive that is made if it is missing.
pub fn options(database: &Path) -> Options {
    Options {
        path: database.to_owned(),
        create: true,
        file_mode: 0o600,
        quiet_after: Duration::from_secs(3600),
        async_quiet_after: Duration::from_secs(7 * 86_400),
        masks: Masks::default(),
    }
}

/// A run of a benchmark.
pub fn run() -> Run {
    Run {
        instance: "benchmark".into(),
        started_at: now_ms(),
        deliver: "after_commit",
        when_unavailable: "refuse",
        settings: "{}".into(),
        config_hash: String::new(),
        resumes: None,
    }
}
