//! What is known of the chats going on now: their secrets, their sessions, and what is still to be written of them.
//!
//! All of it bounded and in memory only. What is lazy (R4: last seen, coverage, attributes, ended) gathers here and is
//! taken by the writer within a second.

mod facts;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tokio::sync::broadcast;

use super::memory::{AnswerKey, ByHash, Generations};
use super::pledge::{Kept, Pledge, pledge};
use crate::chat::{ChatId, ContentDigest, Covered, Secret};
use crate::gms::{Attribute, ChatAnswer, Coverage, Ended, OpenedSession};
use crate::store::{ChatRecord, Entry};

pub use facts::Fact;

/// Secrets remembered of one chat: its secureKey, and one more for each client that joined it.
const SECRETS_PER_CHAT: usize = 8;
/// Stretches of coverage that wait apart: more than one only where a client skips ground.
const STRETCHES_PER_CHAT: usize = 16;
/// Attribute names remembered of one chat, and values of them that wait to be written.
const ATTRIBUTES_PER_CHAT: usize = 256;
/// Answers recognised when they come again: the last poll of every live chat, and the one before.
const ANSWERS_PER_CHAT: usize = 2;
/// Chats let go with something still unwritten: reached only while the file takes nothing for long.
const ORPHANS_MAX: usize = 10_000;

/// One chat going on.
#[derive(Debug, Default)]
struct LiveChat {
    secrets: Vec<Secret>,
    /// Hashes of names and of the values last seen: only changes are written.
    attributes: Vec<(u64, u64)>,
    /// Counts the changes that an answer seen before could undo.
    version: u32,
    /// Ground known to be written or on its way.
    covered: Option<Covered>,
    ended: bool,
    pending: Option<Pending>,
}

/// Facts of a chat that brought no event, waiting to be written.
#[derive(Debug)]
struct Pending {
    at: i64,
    node: Option<Arc<str>>,
    service: Option<String>,
    covered: Vec<Covered>,
    next_position: Option<i64>,
    ended: Option<Ended>,
    is_async: bool,
    attributes: Vec<Attribute>,
}

/// An answer that was read, and everything of which is on disk or on its lazy way there.
#[derive(Debug, Clone)]
pub struct KnownAnswer {
    chat_id: ChatId,
    secure_key: Option<ContentDigest>,
    /// Of the chat, when the answer was read.
    version: u32,
    /// Events in it.
    events: u64,
}

/// An answer on its way to the file. The same one may come again meanwhile: it waits for the same commit.
#[derive(Debug)]
struct InFlight {
    answer: KnownAnswer,
    joined: Joined,
}

/// Those who wait for a commit that another's answer brings about.
#[derive(Debug, Default)]
pub struct Joined {
    /// Kept after the commit.
    pub pledges: Vec<Pledge>,
    /// Events in their answers, all of them duplicates.
    pub events: u64,
}

/// What is known of an answer that comes again.
#[derive(Debug)]
pub enum Again {
    /// Everything of it is on disk, so many events.
    OnDisk(u64),
    /// It is on its way there: so many events, of this chat.
    UnderWay(Kept, u64, ChatId),
}

impl KnownAnswer {
    /// Of an answer as it was read, before anything was taken from it.
    pub fn of(answer: &ChatAnswer, chat_id: &ChatId) -> Self {
        let secure_key = answer.secure_keys.first().copied();
        Self { chat_id: chat_id.clone(), secure_key, version: 0, events: answer.events.len() as u64 }
    }
}

/// The chats going on.
#[derive(Debug)]
pub struct LiveChats {
    chats: Generations<ChatId, LiveChat>,
    by_secure_key: Generations<ContentDigest, ChatId>,
    /// Where what a session was given of a chat ends, and how much it had missed then.
    session_ends: Generations<(ContentDigest, ChatId), (i64, u32)>,
    /// How often a session was given something that was not read.
    missed: Generations<ContentDigest, u32>,
    opened: Generations<ContentDigest, OpenedSession>,
    answers: ByHash<AnswerKey, KnownAnswer>,
    /// As many as the queue holds.
    in_flight: HashMap<AnswerKey, InFlight>,
    hashing: RandomState,
    /// Facts of chats that were let go before they were written.
    orphans: Vec<(ChatId, Pending)>,
    dirty: bool,
    /// While another process serves these chats, too: what it is told.
    learnt: Option<broadcast::Sender<Fact>>,
}

impl LiveChats {
    /// Remembers at most `chats_max` chats.
    pub fn new(chats_max: usize) -> Self {
        Self {
            chats: Generations::new(chats_max),
            by_secure_key: Generations::new(chats_max),
            session_ends: Generations::new(chats_max),
            missed: Generations::new(chats_max),
            opened: Generations::new(chats_max),
            answers: Generations::new(chats_max * ANSWERS_PER_CHAT),
            in_flight: HashMap::new(),
            hashing: RandomState::new(),
            orphans: Vec::new(),
            dirty: false,
            learnt: None,
        }
    }

    /// Secrets to scrub from an answer of this chat, besides those of the exchange itself.
    pub fn secrets(&mut self, chat_id: &ChatId) -> Vec<Secret> {
        self.chats.get_mut(chat_id).map(|chat| chat.secrets.clone()).unwrap_or_default()
    }

    /// The chat whose secureKey has this digest.
    pub fn by_secure_key(&mut self, digest: &ContentDigest) -> Option<ChatId> {
        self.by_secure_key.get_mut(digest).cloned()
    }

    /// Learns the secrets of an answer's chat.
    pub fn learn(&mut self, chat_id: &ChatId, answer: &ChatAnswer) {
        for digest in &answer.secure_keys {
            if self.by_secure_key.get_mut(digest).is_none_or(|known| known != chat_id) {
                self.by_secure_key.insert(*digest, chat_id.clone());
                self.tell(|| facts::secure_key(digest, chat_id));
            }
        }
        for secret in &answer.secrets {
            if self.keep_secret(chat_id, secret) {
                self.tell(|| Fact::Secret { chat: chat_id.clone(), secret: secret.clone() });
            }
        }
    }

    /// A CometD session asked for a chat that has no name yet.
    pub fn opened(&mut self, opened: OpenedSession) {
        self.tell(|| Fact::from(&opened));
        self.opened.insert(opened.session, opened);
    }

    /// The first delivery to such a session names its chat: what was said when it was asked for is of that chat.
    pub fn name_opened(&mut self, answer: &mut ChatAnswer) {
        let Coverage::Session { session, .. } = answer.coverage else { return };
        if let Some(opened) = self.opened.remove(&session) {
            answer.attributes.extend(opened.attributes);
            answer.is_async |= opened.is_async;
        }
    }

    /// A session was given something that was not read: where it ended before is no place to go on from.
    pub fn missed(&mut self, session: ContentDigest) {
        let before = self.missed.get_mut(&session).copied().unwrap_or_default();
        let times = before.wrapping_add(1);
        self.missed.insert(session, times);
        self.tell(|| Fact::Missed { session, times });
    }

    /// R6: the ground an answer covers, as positions.
    pub fn covered(&mut self, chat_id: &ChatId, coverage: Coverage) -> Option<Covered> {
        match coverage {
            Coverage::Nothing => None,
            Coverage::Rest { from, next } => Covered::new(from, next),
            Coverage::Session { session, lowest, next } => {
                let key = (session, chat_id.clone());
                let missed = self.missed.get_mut(&session).copied().unwrap_or_default();
                let end = self.session_ends.get_mut(&key).filter(|(_, then)| *then == missed).map(|(end, _)| *end);
                let ends = end.map_or(next, |end| end.max(next));
                self.tell(|| Fact::SessionEnd { session, chat: chat_id.clone(), next: ends, missed });
                self.session_ends.insert(key, (ends, missed));
                let from = [end, lowest].into_iter().flatten().min()?;
                Covered::new(from, next)
            }
        }
    }

    /// What of an answer is not known yet. The caller either queues it or gives it to [`LiveChats::put_off`].
    pub fn unknown(&mut self, chat_id: &ChatId, answer: &mut ChatAnswer, covered: Option<Covered>) -> ChatRecord {
        let hashing = self.hashing.clone();
        let chat = self.chat(chat_id);
        let covered =
            covered.filter(|new| !chat.covered.is_some_and(|old| old.from <= new.from && new.next <= old.next));
        // What is waited for takes along what would be lost with the process.
        let pending = chat.pending.as_ref().filter(|_| !answer.events.is_empty());
        let before = pending.and_then(|pending| pending.covered.last());
        let covered = covered.map(|new| match before {
            Some(old) if old.from <= new.from && new.from <= old.next => Covered { from: old.from, ..new },
            _ => new,
        });
        let is_known_to_end = chat.ended && pending.is_none_or(|pending| pending.ended.is_none());
        let mut attributes = std::mem::take(&mut answer.attributes);
        attributes.retain(|attribute| !chat.attributes.contains(&hashed(&hashing, attribute)));
        ChatRecord {
            chat_id: chat_id.clone(),
            service: answer.service.take(),
            events: std::mem::take(&mut answer.events),
            covered,
            next_position: answer.next_position,
            ended: answer.ended.filter(|_| !is_known_to_end),
            is_async: answer.is_async,
            attributes,
            highest_index: None,
        }
    }

    /// Notes that a record is on its way to the file, so that it is not sent again.
    pub fn sent(&mut self, record: &ChatRecord) {
        let hashing = self.hashing.clone();
        let chat = self.chat(&record.chat_id);
        chat.ended |= record.ended.is_some();
        if let Some(new) = record.covered {
            chat.covered = Some(match chat.covered {
                Some(old) if old.from <= new.from && new.from <= old.next => {
                    Covered { from: old.from, next: new.next.max(old.next) }
                }
                _ => new,
            });
        }
        chat.version = chat.version.wrapping_add(u32::from(!record.attributes.is_empty()));
        for (name, value) in record.attributes.iter().map(|attribute| hashed(&hashing, attribute)) {
            if let Some(known) = chat.attributes.iter_mut().find(|(known, _)| *known == name) {
                known.1 = value;
            } else if chat.attributes.len() < ATTRIBUTES_PER_CHAT {
                chat.attributes.push((name, value));
            }
        }
    }

    /// Ties an answer to what its chat is after it.
    pub fn renewed(&mut self, answer: KnownAnswer) -> KnownAnswer {
        let version = self.chat(&answer.chat_id).version;
        KnownAnswer { version, ..answer }
    }

    /// To be called when nothing of the answer is still to be written before a client may have it.
    pub fn remember(&mut self, key: AnswerKey, answer: KnownAnswer) {
        self.answers.insert(key, answer);
    }

    /// An answer has gone into the queue. Two threads may have read the same one: the first is waited for, and lands first.
    pub fn under_way(&mut self, key: AnswerKey, answer: KnownAnswer) {
        self.in_flight.entry(key).or_insert_with(|| InFlight { answer, joined: Joined::default() });
    }

    /// It is on disk, or `is_kept` is false. Returns who else waited for that.
    pub fn landed(&mut self, key: &AnswerKey, is_kept: bool) -> Joined {
        let Some(landed) = self.in_flight.remove(key) else { return Joined::default() };
        if is_kept {
            self.answers.insert(*key, landed.answer);
        }
        landed.joined
    }

    /// Recording is down: nobody is to wait for this commit.
    pub fn dismiss(&mut self, key: &AnswerKey) {
        if let Some(waited_for) = self.in_flight.get_mut(key) {
            waited_for.joined.pledges.clear();
        }
    }

    /// The same answer to the same request again. Its chat was seen now, and nothing else is new, unless the chat has
    /// changed meanwhile: then it must be read once more.
    pub fn seen_again(&mut self, key: &AnswerKey, at: i64, node: Option<&Arc<str>>) -> Option<Again> {
        if let Some(InFlight { answer, joined }) = self.in_flight.get_mut(key) {
            let (pledge, committed) = pledge();
            self.chats.get_mut(&answer.chat_id).filter(|chat| chat.version == answer.version)?;
            joined.pledges.push(pledge);
            joined.events += answer.events;
            return Some(Again::UnderWay(committed, answer.events, answer.chat_id.clone()));
        }
        let answer = self.answers.get_mut(key)?;
        let chat = self.chats.get_mut(&answer.chat_id).filter(|chat| chat.version == answer.version)?;
        match &mut chat.pending {
            Some(pending) => pending.at = pending.at.max(at),
            None => {
                chat.pending = Some(Pending::new(at, node.cloned()));
                self.dirty = true;
                if let Some(digest) = &answer.secure_key {
                    self.by_secure_key.get_mut(digest); // kept as long as its chat
                }
            }
        }
        Some(Again::OnDisk(answer.events))
    }

    /// Puts a record without events off until the writer comes by.
    pub fn put_off(&mut self, at: i64, node: Option<&Arc<str>>, record: ChatRecord) {
        self.sent(&record);
        let chat_id = record.chat_id;
        let pending = self.chat(&chat_id).pending.get_or_insert_with(|| Pending::new(at, node.cloned()));
        pending.at = pending.at.max(at);
        pending.service = record.service.or(pending.service.take());
        pending.next_position = pending.next_position.max(record.next_position);
        pending.ended = pending.ended.or(record.ended);
        pending.is_async |= record.is_async;
        pending.attributes.extend(record.attributes);
        pending.covered.extend(record.covered);
        // Only neighbours are joined here; the file joins the rest.
        pending.covered.dedup_by(|new, old| {
            let joins = old.from <= new.from && new.from <= old.next;
            if joins {
                old.next = old.next.max(new.next);
            }
            joins
        });
        pending.attributes.truncate(ATTRIBUTES_PER_CHAT);
        let overfull = pending.covered.len() > STRETCHES_PER_CHAT;
        pending.covered.truncate(STRETCHES_PER_CHAT);
        if overfull {
            // Let go rather than guessed at: it shows as a hole unless it is covered again.
            let chat = self.chat(&chat_id);
            chat.covered = None;
            chat.version = chat.version.wrapping_add(1);
        }
        self.dirty = true;
    }

    /// Takes everything put off, as entries to write.
    pub fn take_pending(&mut self) -> Vec<Entry> {
        if !std::mem::take(&mut self.dirty) {
            return Vec::new();
        }
        let mut taken = std::mem::take(&mut self.orphans);
        taken.extend(self.chats.take_pending());
        taken.into_iter().flat_map(|(chat_id, pending)| pending.into_entries(chat_id)).collect()
    }

    /// Whether anything was put off.
    pub fn has_pending(&self) -> bool {
        self.dirty
    }

    /// The file was opened again, and may be another one: what was written before may have to be written anew.
    pub fn forget_written(&mut self) {
        for (_, chat) in self.chats.iter_mut() {
            chat.attributes.clear();
            chat.covered = None;
            chat.ended = false;
            chat.version = chat.version.wrapping_add(1); // answers still in flight do not hold what is forgotten here
        }
        self.answers.clear();
    }

    fn chat(&mut self, chat_id: &ChatId) -> &mut LiveChat {
        if self.chats.get_mut(chat_id).is_none() {
            let forgotten = self.chats.insert(chat_id.clone(), LiveChat::default());
            let unwritten = forgotten.into_iter().filter_map(|(id, chat)| Some((id, chat.pending?)));
            self.orphans.extend(unwritten);
            self.orphans.truncate(ORPHANS_MAX);
        }
        self.chats.get_mut(chat_id).expect("the line above put it in")
    }
}

impl Generations<ChatId, LiveChat> {
    fn take_pending(&mut self) -> Vec<(ChatId, Pending)> {
        self.iter_mut().filter_map(|(id, chat)| Some((id.clone(), chat.pending.take()?))).collect()
    }
}

impl Pending {
    fn new(at: i64, node: Option<Arc<str>>) -> Self {
        Self {
            at,
            node,
            service: None,
            covered: Vec::new(),
            next_position: None,
            ended: None,
            is_async: false,
            attributes: Vec::new(),
        }
    }

    fn into_entries(self, chat_id: ChatId) -> Vec<Entry> {
        let mut stretches = self.covered.into_iter();
        let first = Entry {
            at: self.at,
            node: self.node.clone(),
            chats: vec![ChatRecord {
                chat_id: chat_id.clone(),
                service: self.service,
                events: Vec::new(),
                covered: stretches.next(),
                next_position: self.next_position,
                ended: self.ended,
                is_async: self.is_async,
                attributes: self.attributes,
                highest_index: None,
            }],
            ..Entry::default()
        };
        let further = stretches.map(|covered| Entry {
            at: self.at,
            node: self.node.clone(),
            chats: vec![ChatRecord { covered: Some(covered), ..ChatRecord::of(chat_id.clone()) }],
            ..Entry::default()
        });
        std::iter::once(first).chain(further).collect()
    }
}

fn hashed(hashing: &RandomState, attribute: &Attribute) -> (u64, u64) {
    (hashing.hash_one(&attribute.name), hashing.hash_one(&attribute.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::TranscriptEvent;
    use crate::gms::ChatKey;

    const KEY: AnswerKey = [1; 16];

    fn answer(chat_id: &ChatId) -> KnownAnswer {
        KnownAnswer { chat_id: chat_id.clone(), secure_key: None, version: 0, events: 3 }
    }

    #[test]
    fn whoever_waits_for_an_answer_is_not_lost_when_it_is_queued_twice() {
        let mut live = LiveChats::new(10);
        let chat_id = ChatId::parse("00001aCY6K8U003T").expect("valid");
        live.chat(&chat_id);
        live.under_way(KEY, answer(&chat_id));
        let again = live.seen_again(&KEY, 1, None);
        assert!(matches!(again, Some(Again::UnderWay(_, 3, _))), "{again:?}");
        live.under_way(KEY, answer(&chat_id));
        let joined = live.landed(&KEY, true);
        assert_eq!((joined.pledges.len(), joined.events), (1, 3));
        assert_eq!(live.landed(&KEY, true).events, 0, "the second one lands too");
        assert!(matches!(live.seen_again(&KEY, 2, None), Some(Again::OnDisk(3))));
    }

    #[test]
    fn a_session_that_missed_something_covers_from_what_it_is_given_next() {
        let mut live = LiveChats::new(10);
        let chat_id = ChatId::parse("00001aCY6K8U003T").expect("valid");
        let session = [1; 16];
        let mut covered = |missed: bool, lowest, next| {
            if missed {
                live.missed(session);
            }
            let covered = live.covered(&chat_id, Coverage::Session { session, lowest: Some(lowest), next });
            covered.map(|covered| (covered.from, covered.next))
        };
        assert_eq!(covered(false, 1, 3), Some((1, 3)));
        assert_eq!(covered(false, 5, 6), Some((3, 6)), "what is between is hidden from this client");
        assert_eq!(covered(true, 9, 10), Some((9, 10)), "what is between may have been in what was not read");
        assert_eq!(covered(false, 12, 13), Some((10, 13)));
    }

    #[test]
    fn an_answer_in_flight_is_read_again_after_the_file_was_opened_again() {
        let mut live = LiveChats::new(10);
        let chat_id = ChatId::parse("00001aCY6K8U003T").expect("valid");
        live.chat(&chat_id);
        live.under_way(KEY, answer(&chat_id));
        live.forget_written();
        live.landed(&KEY, true);
        assert!(live.seen_again(&KEY, 1, None).is_none());
    }

    /// A process that is killed loses what was put off, but for what an answer that is waited for takes along.
    #[test]
    fn an_answer_with_events_takes_along_what_was_put_off() {
        let mut live = LiveChats::new(10);
        let chat_id = ChatId::parse("00001aCY6K8U003T").expect("valid");
        let answer = |has_event: bool| {
            let event = TranscriptEvent::plain(9, "{}");
            ChatAnswer {
                key: ChatKey::Id(chat_id.clone()),
                secure_keys: Vec::new(),
                secrets: Vec::new(),
                service: None,
                events: if has_event { vec![event] } else { Vec::new() },
                coverage: Coverage::Nothing,
                next_position: None,
                ended: Some(Ended::Normally),
                is_async: false,
                attributes: Vec::new(),
            }
        };
        let empty = live.unknown(&chat_id, &mut answer(false), Covered::new(5, 8));
        live.put_off(1, None, empty);
        let again = live.unknown(&chat_id, &mut answer(false), Covered::new(8, 9));
        assert_eq!((again.covered, again.ended), (Covered::new(8, 9), None));
        let full = live.unknown(&chat_id, &mut answer(true), Covered::new(8, 10));
        assert_eq!((full.covered, full.ended), (Covered::new(5, 10), Some(Ended::Normally)));
        live.sent(&full);
        assert_eq!(live.take_pending().len(), 1);
        let later = live.unknown(&chat_id, &mut answer(true), Covered::new(10, 11));
        assert_eq!((later.covered, later.ended), (Covered::new(10, 11), None));
    }
}
