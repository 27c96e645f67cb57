//! The steps of the program itself: inspection, the known-already check, a batch on its way to the disk.
//!
//! What they depend on in the program is in two places: `traffic` for the way through the recorder, [`entry`] for what
//! the store is given.

use std::hint::black_box;
use std::path::Path;
use std::rc::Rc;

use anyhow::ensure;
use gms_recorder::archive::verify::{Question, verify};
use gms_recorder::chat::Covered;
use gms_recorder::gms::{ChatAnswer, ChatKey, Coverage, Exchange, Observation, Policy, Route, inspect};
use gms_recorder::recorder::{AnswerKey, Recorded, Verdict, now_ms};
use gms_recorder::store::{ChatRecord, Entry, Store};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

use crate::traffic::{self, Answer, Centre, Recording};
use crate::{Case, Operation, Scratch};

/// Chats going on at one time where they are interleaved.
const LIVE_CHATS: usize = 2_000;
/// Events of a chat whose transcript comes at one time.
const TRANSCRIPT_EVENTS: u64 = 200;
/// What polls bring: in words, events, operations in a round.
const ANSWERS: [(&str, u64, usize); 3] =
    [("empty poll", 0, 20_000), ("3 events", 3, 5_000), ("200 events", TRANSCRIPT_EVENTS, 100)];
/// Events in a transaction, transactions in a round.
const BATCHES: [(u64, usize); 4] = [(1, 1_000), (10, 500), (100, 200), (1_000, 40)];
/// Of the archive that is verified.
const VERIFIED_EVENTS: u64 = 100_000;
/// Clients that converse at one time.
const CROWDS: [usize; 2] = [1, 64];
/// Answers of a chat, each with two new events and a known one.
const ANSWERS_A_CHAT: u64 = 20;
/// By what an answer would be recognised, where it does not matter.
const KEY: AnswerKey = [0; 16];
/// Chats that are not live ones.
const FIRST_OF_OTHERS: u64 = 1_000_000;

/// In which order a batch's keys come.
#[derive(Clone, Copy)]
pub enum Keys {
    /// Whole transcripts, one after another.
    Contiguous,
    /// 1 to 3 events at a time, of 2,000 chats.
    Interleaved,
}

impl Keys {
    /// As names of cases say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Contiguous => "contiguous",
            Self::Interleaved => "interleaved",
        }
    }
}

/// All of them, in the order of an answer's way.
pub fn all() -> Vec<Case> {
    let inspections = ANSWERS.map(|(what, events, times)| inspection(what, events, times));
    let known = ANSWERS.map(|(what, events, times)| known(what, events, times));
    let again = ANSWERS.map(|(what, events, times)| seen_again(what, events, times));
    let mut cases: Vec<Case> = inspections.into_iter().chain([bayeux_inspection()]).chain(known).chain(again).collect();
    cases.extend(CROWDS.map(conversations));
    for keys in [Keys::Contiguous, Keys::Interleaved] {
        cases.extend(BATCHES.map(|(events, times)| append(keys, events, times)));
    }
    cases.push(verified(VERIFIED_EVENTS));
    cases
}

/// The answer to a poll of a chat that has gone on for a while.
fn answer(events: u64) -> Answer {
    let from = 12;
    Centre::new(0).page(7, from, from + events, false)
}

fn inspection(what: &str, events: u64, times: usize) -> Case {
    let answer = answer(events);
    let name = format!("inspect, {what}, {} B", answer.body.len());
    let prepare = move |_: &Scratch, _: usize| -> anyhow::Result<Operation> {
        let (answer, policy) = (answer.clone(), policy());
        Ok(Box::new(move || {
            black_box(traffic::inspect(black_box(&answer), &policy));
            Ok(())
        }))
    };
    Case { name, rows: events as usize, times, prepare: Box::new(prepare) }
}

/// A long poll that brings an event, with what acknowledges the poll itself.
fn bayeux_inspection() -> Case {
    let answer = answer(1);
    let body = format!(
        r#"[{{"channel":"/service/chatV2/customer-support","data":{}}},{{"advice":{{"interval":0,"timeout":30000,"reconnect":"retry"}},"channel":"/meta/connect","id":"5","successful":true}}]"#,
        answer.body
    );
    let name = format!("inspect, CometD long poll, {} B", body.len());
    let prepare = move |_: &Scratch, _: usize| -> anyhow::Result<Operation> {
        let (body, policy) = (body.clone(), policy());
        Ok(Box::new(move || {
            let route = Route::parse("POST", "/genesys/cometd/connect", "/genesys");
            let exchange = Exchange {
                route: &route,
                query: None,
                request_content_type: Some("application/json"),
                request_body:
                    br#"[{"channel":"/meta/connect","connectionType":"long-polling","clientId":"5zk1","id":"5"}]"#,
                request_complete: true,
                credentials: &[],
                status: 200,
                content_encoding: None,
                body: black_box(body.as_bytes()),
                body_complete: true,
            };
            black_box(inspect(&exchange, &policy, &|_| Vec::new()));
            Ok(())
        }))
    };
    Case { name, rows: 1, times: 5_000, prepare: Box::new(prepare) }
}

/// The same answer to the same request again: recognised, and not read.
fn seen_again(what: &str, events: u64, times: usize) -> Case {
    let prepare = move |scratch: &Scratch, _: usize| -> anyhow::Result<Operation> {
        let recording = Recording::start(&scratch.fresh())?;
        let answer = answer(events);
        let key = recording.key(&answer);
        recording.wait(vec![recording.observe(traffic::inspect(&answer, recording.policy()), key)])?;
        Ok(Box::new(move || {
            let key = recording.key(black_box(&answer));
            ensure!(recording.recorder.recognise(&key, None).is_some(), "an answer that is on disk was not recognised");
            Ok(())
        }))
    };
    Case { name: format!("seen again, {what}"), rows: events as usize, times, prepare: Box::new(prepare) }
}

/// An answer that was inspected, and all of it is committed.
fn known(what: &str, events: u64, times: usize) -> Case {
    let prepare = move |scratch: &Scratch, times: usize| -> anyhow::Result<Operation> {
        let recording = Recording::start(&scratch.fresh())?;
        let answer = answer(events);
        recording.wait(vec![recording.observe(traffic::inspect(&answer, recording.policy()), KEY)])?;
        let mut seen: Vec<Observation> = (0..times).map(|_| traffic::inspect(&answer, recording.policy())).collect();
        Ok(Box::new(move || {
            let recorded = recording.observe(seen.pop().expect("one was prepared for each"), KEY);
            ensure!(matches!(black_box(recorded), Recorded::Nothing), "an answer that is on disk counted as news");
            Ok(())
        }))
    };
    Case { name: format!("known already, {what}"), rows: events as usize, times, prepare: Box::new(prepare) }
}

/// The whole way of answers, from the node's bytes to the commit: clients with a chat each, and the writer beside them.
fn conversations(clients: usize) -> Case {
    let prepare = move |scratch: &Scratch, times: usize| -> anyhow::Result<Operation> {
        let recording = Rc::new(Recording::start(&scratch.fresh())?);
        // As the proxy's threads have it.
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        let mut centre = Centre::new(0);
        let numbers = 0..(times * clients) as u64;
        let mut chats = numbers.map(|number| polls(&mut centre, number)).collect::<Vec<_>>().into_iter();
        Ok(Box::new(move || {
            runtime.block_on(async {
                let begun = chats.by_ref().take(clients).map(|polls| spawn_local(converse(recording.clone(), polls)));
                for client in begun.collect::<Vec<_>>() {
                    client.await??;
                }
                Ok(())
            })
        }))
    };
    let answers = clients * ANSWERS_A_CHAT as usize;
    Case { name: format!("record, {clients} at once"), rows: answers, times: 40, prepare: Box::new(prepare) }
}

/// Answers in the midst of a chat, each with the last event of the one before and two new ones.
fn polls(centre: &mut Centre, number: u64) -> Vec<Answer> {
    const FROM: u64 = 3;
    let events: Vec<String> = (0..=2 * ANSWERS_A_CHAT).map(|at| centre.event(number, FROM + at, false)).collect();
    let poll = |at: u64| traffic::answer(number, FROM + 2 * at, &events[2 * at as usize..][..3], false);
    (0..ANSWERS_A_CHAT).map(poll).collect()
}

async fn converse(recording: Rc<Recording>, polls: Vec<Answer>) -> anyhow::Result<()> {
    let recorder = &recording.recorder;
    for answer in polls {
        let key = recording.key(&answer);
        let recorded = recording.observe(traffic::inspect(&answer, recording.policy()), key);
        let verdict = recorder.wait(recorded, recorder.config().commit_wait_max).await;
        ensure!(verdict == Verdict::Deliver, "an answer could not be recorded: {:?}", recorder.outage());
    }
    Ok(())
}

/// One transaction, synced.
fn append(keys: Keys, events: u64, times: usize) -> Case {
    let prepare = move |scratch: &Scratch, times: usize| -> anyhow::Result<Operation> {
        let mut archive = Archive::make(&scratch.fresh())?;
        let mut batches: Vec<Vec<Entry>> = batches(keys, events, times);
        Ok(Box::new(move || archive.append(&batches.pop().expect("one was prepared for each"))))
    };
    let name = format!("append, {events} {}", keys.as_str());
    Case { name, rows: events as usize, times, prepare: Box::new(prepare) }
}

/// Every row held against its seal, out of the system's memory.
fn verified(events: u64) -> Case {
    let prepare = move |scratch: &Scratch, _: usize| -> anyhow::Result<Operation> {
        let path = scratch.fresh();
        let mut archive = Archive::make(&path)?;
        batches(Keys::Interleaved, 100, events as usize / 100)
            .iter()
            .rev()
            .try_for_each(|batch| archive.append(batch))?;
        archive.close()?;
        Ok(Box::new(move || {
            let answer = verify(&path, &Question::default(), &mut |_, _| {})?;
            ensure!(answer.fault_count() == 0, "an archive that nobody touched was found unsound");
            black_box(answer);
            Ok(())
        }))
    };
    Case { name: format!("verify, {events} events"), rows: events as usize, times: 2, prepare: Box::new(prepare) }
}

/// An archive that takes batches as the writer's does, without a thread or a queue before it.
pub struct Archive {
    store: Store,
}

impl Archive {
    /// An empty one.
    pub fn make(path: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let store = runtime.block_on(Store::open(&traffic::options(path), &traffic::run()))?;
        Ok(Self { store })
    }

    /// One transaction, synced.
    pub fn append(&mut self, batch: &[Entry]) -> anyhow::Result<()> {
        black_box(self.store.append(batch, &[], true)?);
        Ok(())
    }

    /// Folds the WAL into the file.
    pub fn close(self) -> anyhow::Result<()> {
        Ok(self.store.finish(now_ms(), "{}")?)
    }
}

/// Batches of exactly so many events, the last one first.
pub fn batches(keys: Keys, events: u64, count: usize) -> Vec<Vec<Entry>> {
    let policy = policy();
    let mut stream = Stream::new(keys);
    let mut batch = || stream.batch(events).iter().map(|answer| entry(traffic::inspect(answer, &policy))).collect();
    let mut batches: Vec<Vec<Entry>> = (0..count).map(|_| batch()).collect();
    batches.reverse();
    batches
}

/// Answers in the wanted order of keys.
struct Stream {
    keys: Keys,
    centre: Centre,
    /// Of whole transcripts: the chat, and its next event.
    next: (u64, u64),
}

impl Stream {
    /// From the beginning, the same at each time.
    fn new(keys: Keys) -> Self {
        Self { keys, centre: Centre::new(LIVE_CHATS), next: (FIRST_OF_OTHERS, 1) }
    }

    /// Answers with exactly so many events.
    fn batch(&mut self, events: u64) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut left = events;
        while left > 0 {
            let answer = match self.keys {
                Keys::Interleaved => self.centre.answer(left),
                Keys::Contiguous => self.go_on(left),
            };
            left -= answer.events;
            answers.push(answer);
        }
        answers
    }

    fn go_on(&mut self, events_max: u64) -> Answer {
        let (chat, from) = self.next;
        let next = (from + events_max).min(TRANSCRIPT_EVENTS + 1);
        self.next = if next > TRANSCRIPT_EVENTS { (chat + 1, 1) } else { (chat, next) };
        self.centre.page(chat, from, next, false)
    }
}

/// What the store is given of an answer in the midst of a chat: attributes came with an earlier one.
fn entry(seen: Observation) -> Entry {
    let chats = seen.chats.into_iter().map(record).collect();
    Entry { at: now_ms(), node: Some("http://gms-1:8080".into()), chats, ..Entry::default() }
}

fn record(answer: ChatAnswer) -> ChatRecord {
    let ChatKey::Id(chat_id) = answer.key else { unreachable!("every answer made here names its chat") };
    let covered = match answer.coverage {
        Coverage::Rest { from, next } => Covered::new(from, next),
        _ => None,
    };
    ChatRecord {
        service: answer.service,
        events: answer.events,
        covered,
        next_position: answer.next_position,
        ended: answer.ended,
        ..ChatRecord::of(chat_id)
    }
}

/// As configured when nothing is.
fn policy() -> Policy {
    let config = gms_recorder::recorder::Config::default();
    Policy {
        decoded_bytes_max: config.body_max,
        finding_bytes_max: config.finding_bytes_max,
        attributes: config.attributes,
        keep_typing_text: config.keep_typing_text,
        masks: config.masks,
        digest_key: [7; 32],
    }
}
