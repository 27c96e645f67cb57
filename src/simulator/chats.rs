//! The Chat Server behind the nodes: every chat, its parties and its transcript. Pure state: the time is told to it, and
//! it knows nothing of HTTP, of nodes or of how answers look around a transcript.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::account::{ChatAccount, EventAccount};
use super::dice::{Dice, base36};
use super::params::Params;
use super::{AgentScript, FileLimits, Growth};

/// The quit reason of a party that left because the session was closed (ESChat Admin/RC: removed by the server).
const QUIT_REMOVED_BY_SERVER: &str = "5";
/// The quit reason of a party that left by itself (ESChat Admin/RC: logout).
const QUIT_LOGOUT: &str = "0";

/// The reference ID of the one advice seen in the wild; later ones count up from it.
const FIRST_REFERENCE: u64 = 10_016_629;

/// Which form a session's credential has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyForm {
    /// 20 hexadecimal digits, as over REST.
    Hex,
    /// About a hundred characters of base64, as over CometD.
    Base64,
}

/// How the parties behave and what they may do: the part of the configuration that the Chat Server follows.
#[derive(Debug, Clone)]
pub(super) struct Conduct {
    pub(super) agent: AgentScript,
    pub(super) files: FileLimits,
    pub(super) growth: Growth,
    pub(super) alias_every: u64,
    pub(super) ended_refreshes: u32,
}

/// All chats.
#[derive(Debug)]
pub(super) struct Chats {
    pub(super) conduct: Conduct,
    dice: Dice,
    started: String,
    opened: u64,
    chats: BTreeMap<String, Chat>,
    by_key: HashMap<String, String>,
    due: Vec<Due>,
    references: u64,
}

/// A reply that an agent owes: to this chat, to this text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) chat_id: String,
    said: String,
}

/// One chat.
#[derive(Debug)]
pub(super) struct Chat {
    pub(super) id: String,
    pub(super) service: String,
    pub(super) secure_key: String,
    pub(super) user_id: String,
    pub(super) ended: bool,
    pub(super) files: Vec<File>,
    pub(super) user_data: BTreeMap<String, String>,
    events: Vec<Event>,
    client: Party,
    agent: Option<Party>,
    participants: u32,
    said_by_client: u32,
    replies: u32,
    answers: u64,
    alias: u64,
    refreshes_after_end: u32,
    watchers: Vec<Arc<Notify>>,
}

/// A file that the client uploaded.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) content: Bytes,
    pub(super) deleted: bool,
    pub(super) downloads: u32,
}

#[derive(Debug, Clone)]
struct Party {
    nickname: String,
    participant_id: u32,
    kind: &'static str,
}

impl Party {
    fn json(&self) -> Value {
        json!({"nickname": self.nickname, "participantId": self.participant_id, "type": self.kind})
    }
}

#[derive(Debug)]
struct Event {
    json: Map<String, Value>,
    hidden: bool,
    delivered: bool,
    variants: Vec<Value>,
}

/// An event as one answer holds it: to be noted once that answer is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Handed {
    pub(super) chat_id: String,
    pub(super) index: u64,
    /// The changed content, where the answer holds a variant.
    pub(super) variant: Option<Value>,
}

/// The part of a transcript that one answer holds.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) messages: Vec<Value>,
    pub(super) handed: Vec<Handed>,
}

impl Chats {
    pub(super) fn new(seed: u64, conduct: Conduct) -> Self {
        let mut dice = Dice::new(seed);
        let started = dice.base36(6);
        let (chats, by_key) = (BTreeMap::new(), HashMap::new());
        Self { conduct, dice, started, opened: 0, chats, by_key, due: Vec::new(), references: FIRST_REFERENCE }
    }

    /// Opens a chat for the party that these parameters name, and returns its id.
    pub(super) fn open(&mut self, service: &str, nickname: String, form: KeyForm, now: i64) -> String {
        let chat = self.blank(service, nickname, form);
        let id = chat.id.clone();
        self.by_key.insert(chat.secure_key.clone(), id.clone());
        let chat = self.chats.entry(id.clone()).or_insert(chat);
        chat.push(chat.client.clone(), "ParticipantJoined", [], now);
        if self.conduct.agent.joins_after == 0 {
            chat.join_agent(&self.conduct.agent, now);
        }
        id
    }

    fn blank(&mut self, service: &str, nickname: String, form: KeyForm) -> Chat {
        self.opened += 1;
        // 00001aCY6K8U003T: a high count, the letter a, when the server started, a low count.
        let (high, low) = (self.opened / 36_u64.pow(4), self.opened % 36_u64.pow(4));
        let id = format!("{}a{}{}", base36(high + 1, 5), self.started, base36(low, 4));
        Chat {
            id,
            service: service.to_owned(),
            secure_key: self.secure_key(form),
            user_id: format!("0075{}{:04X}", self.dice.hex(8).to_uppercase(), self.opened % 0x1_0000),
            ended: false,
            files: Vec::new(),
            user_data: BTreeMap::new(),
            events: Vec::new(),
            client: Party { nickname, participant_id: 1, kind: "Client" },
            agent: None,
            participants: 1,
            said_by_client: 0,
            replies: 0,
            answers: 0,
            alias: 117 + self.opened % 3,
            refreshes_after_end: 0,
            watchers: Vec::new(),
        }
    }

    fn secure_key(&mut self, form: KeyForm) -> String {
        match form {
            KeyForm::Hex => self.dice.hex(20),
            KeyForm::Base64 => BASE64_STANDARD.encode(self.dice.bytes(74)),
        }
    }

    pub(super) fn chat(&mut self, id: &str) -> Option<&mut Chat> {
        self.chats.get_mut(id)
    }

    /// The chat whose session this credential belongs to.
    pub(super) fn id_of_key(&self, secure_key: &str) -> Option<&str> {
        self.by_key.get(secure_key).map(String::as_str)
    }

    pub(super) fn file_id(&mut self) -> String {
        let groups = [8, 4, 4, 4, 12].map(|digits| self.dice.hex(digits));
        groups.join("-")
    }

    pub(super) fn interaction_id(&mut self) -> String {
        self.opened += 1;
        format!("00001a{}{}", self.started, base36(self.opened, 4))
    }

    /// A reference ID for the node's log, as advices carry it.
    pub(super) fn reference(&mut self) -> u64 {
        self.references += 1;
        self.references - 1
    }

    pub(super) fn session_id(&mut self) -> String {
        self.dice.base36(26).to_lowercase()
    }

    /// The client says something; the agent answers now, or, where the script takes its time, becomes due.
    pub(super) fn say(&mut self, id: &str, text: &str, kind: Option<&str>, now: i64) {
        let Some(chat) = self.chats.get_mut(id) else { return };
        chat.said_by_client += 1;
        let awaited = chat.said_by_client >= self.conduct.agent.joins_after.max(1);
        if awaited && chat.agent.is_none() {
            chat.join_agent(&self.conduct.agent, now);
        }
        let what = [("text", json!(text)), ("messageType", json!(kind.unwrap_or("text")))];
        chat.push(chat.client.clone(), "Message", what, now);
        match awaited {
            true if self.conduct.agent.reply_delay_ms == 0 => self.answer(id, text, now),
            true => self.due.push(Due { chat_id: id.to_owned(), said: text.to_owned() }),
            false => {}
        }
    }

    /// The replies that agents owe since this was last asked, to be given after `reply_delay_ms`.
    pub(super) fn take_due(&mut self) -> Vec<Due> {
        std::mem::take(&mut self.due)
    }

    pub(super) fn give(&mut self, due: &Due, now: i64) {
        self.answer(&due.chat_id, &due.said, now);
    }

    fn answer(&mut self, id: &str, said: &str, now: i64) {
        if let Some(chat) = self.chats.get_mut(id).filter(|chat| !chat.ended) {
            chat.reply(&self.conduct.agent, said, now);
        }
    }

    /// A load test's chats grow by themselves, a few events a poll.
    pub(super) fn grow(&mut self, id: &str, now: i64) {
        let growth = self.conduct.growth;
        let Some(chat) = self.chats.get_mut(id).filter(|chat| !chat.ended) else { return };
        let wanted = growth.events_per_chat.saturating_sub(chat.events.len()).min(growth.events_per_poll);
        for _ in 0..wanted {
            chat.grow(&self.conduct.agent, now);
        }
    }

    pub(super) fn delivered(&mut self, handed: Handed) {
        let Some(event) = self.chats.get_mut(&handed.chat_id).and_then(|chat| chat.event(handed.index)) else { return };
        match handed.variant {
            Some(variant) if !event.variants.contains(&variant) => event.variants.push(variant),
            Some(_) => {}
            None => event.delivered = true,
        }
    }

    pub(super) fn account(&self) -> Vec<ChatAccount> {
        self.chats.values().map(Chat::account).collect()
    }
}

impl Chat {
    /// The index the next event will have; what answers call nextPosition.
    pub(super) fn next_position(&self) -> u64 {
        self.events.len() as u64 + 1
    }

    pub(super) fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    pub(super) fn client(&self) -> Value {
        self.client.json()
    }

    /// The Chat Server's name, which changes after each `every` answers (0: never), as it does when a server is replaced.
    pub(super) fn alias(&mut self, every: u64) -> String {
        self.answers += 1;
        let changes = self.answers.saturating_sub(1).checked_div(every).unwrap_or(0);
        (self.alias + changes).to_string()
    }

    /// The events from this position on that the client may see; nothing without a position.
    /// `variant`, a number, changes the text of one that was delivered before.
    pub(super) fn page(&self, from: Option<u64>, variant: Option<u64>) -> Page {
        let Some(from) = from else { return Page::default() };
        let first = usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX).min(self.events.len());
        let mut page = Page::default();
        let mut variant = variant;
        for (event, index) in self.events[first..].iter().zip(first as u64 + 1..).filter(|(event, _)| !event.hidden) {
            let changed = variant.take_if(|_| event.delivered).map(|number| event.changed(number));
            page.messages.push(changed.clone().unwrap_or_else(|| Value::Object(event.json.clone())));
            page.handed.push(Handed { chat_id: self.id.clone(), index, variant: changed });
        }
        page
    }

    /// After the end the transcript can be read a few times more; false once that is over.
    pub(super) fn may_refresh(&mut self, ended_refreshes: u32) -> bool {
        if self.ended {
            self.refreshes_after_end = self.refreshes_after_end.saturating_add(1);
        }
        self.refreshes_after_end <= ended_refreshes
    }

    /// Wakes whoever waits for events of this chat.
    pub(super) fn watch(&mut self, wake: &Arc<Notify>) {
        self.unwatch(wake);
        self.watchers.push(Arc::clone(wake));
    }

    pub(super) fn unwatch(&mut self, wake: &Arc<Notify>) {
        self.watchers.retain(|watcher| !Arc::ptr_eq(watcher, wake));
    }

    /// The client types, or stops: an event that the other parties see and the client does not.
    pub(super) fn client_types(&mut self, starts: bool, preview: Option<&str>, now: i64) {
        let kind = if starts { "TypingStarted" } else { "TypingStopped" };
        let text = preview.map(|text| ("text", json!(text)));
        self.push(self.client.clone(), kind, text, now).hidden = true;
    }

    pub(super) fn client_pushes_url(&mut self, url: &str, now: i64) {
        self.push(self.client.clone(), "PushUrl", [("text", json!(url))], now);
    }

    pub(super) fn client_notices(&mut self, text: &str, now: i64) {
        self.push(self.client.clone(), "CustomNotice", [("text", json!(text))], now);
    }

    /// The event carries the new name; those before it keep the old one.
    pub(super) fn client_renames(&mut self, nickname: &str, now: i64) {
        nickname.clone_into(&mut self.client.nickname);
        self.push(self.client.clone(), "NicknameUpdated", [("text", json!(nickname))], now);
    }

    pub(super) fn client_updates(&mut self, params: &Params) {
        self.user_data.extend(params.user_data().map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    pub(super) fn client_uploads(
        &mut self,
        id: String,
        name: &str,
        content: Bytes,
        description: Option<&str>,
        now: i64,
    ) {
        let mut about = json!({
            "file-id": id, "file-name": name, "file-size": content.len().to_string(), "file-source": "ucs",
            "file-document-id": format!("{:08}", self.files.len() + 1), "file-upload-type": "file-system",
        });
        if let Some(description) = description {
            about["file-description"] = json!(description);
        }
        let what = [("text", json!(id)), ("userData", about)];
        self.push(self.client.clone(), "FileUploaded", what, now);
        self.files.push(File { id, name: name.to_owned(), content, deleted: false, downloads: 0 });
    }

    pub(super) fn client_deletes(&mut self, file_id: &str, now: i64) {
        let Some(file) = self.files.iter_mut().find(|file| file.id == file_id) else { return };
        file.deleted = true;
        let about = json!({"file-id": file.id, "file-name": file.name, "file-source": "ucs"});
        let what = [("text", json!(file_id)), ("userData", about)];
        self.push(self.client.clone(), "FileDeleted", what, now);
    }

    /// The client leaves, the agent is removed, the chat is over.
    pub(super) fn client_leaves(&mut self, now: i64) {
        self.part(self.client.clone(), QUIT_LOGOUT, now);
        if let Some(agent) = self.agent.take() {
            self.part(agent, QUIT_REMOVED_BY_SERVER, now);
        }
        self.end();
    }

    fn end(&mut self) {
        self.ended = true;
        self.wake();
    }

    fn join_agent(&mut self, script: &AgentScript, now: i64) {
        self.participants += 1;
        let agent = Party { nickname: script.nickname.clone(), participant_id: self.participants, kind: "Agent" };
        self.push(agent.clone(), "ParticipantJoined", [], now);
        self.agent = Some(agent);
    }

    fn reply(&mut self, script: &AgentScript, said: &str, now: i64) {
        let Some(agent) = self.agent.clone() else { return };
        if script.typing {
            self.push(agent.clone(), "TypingStarted", [], now);
            self.push(agent.clone(), "TypingStopped", [], now);
        }
        let text = script.reply(self.replies, said);
        self.push(agent, "Message", [("text", json!(text)), ("messageType", json!("text"))], now);
        self.replies += 1;
        self.after_reply(script, now);
    }

    fn after_reply(&mut self, script: &AgentScript, now: i64) {
        let turn = |every: u32| every > 0 && self.replies.is_multiple_of(every);
        let (whispers, rejoins, ends) =
            (turn(script.hidden_every), turn(script.rejoins_every), turn(script.ends_after));
        if whispers {
            self.whisper(now);
        }
        if rejoins || ends {
            self.agent_leaves(if ends { QUIT_REMOVED_BY_SERVER } else { QUIT_LOGOUT }, now);
        }
        match ends {
            true => self.end(),
            false if rejoins => self.join_agent(script, now),
            false => {}
        }
    }

    /// A supervisor tells the agent something that the client must not see: the index is used, the event hidden.
    fn whisper(&mut self, now: i64) {
        let supervisor = Party { nickname: "Supervisor".into(), participant_id: 0, kind: "Supervisor" };
        self.push(supervisor, "Message", [("text", json!("for the agent only"))], now).hidden = true;
    }

    fn agent_leaves(&mut self, reason: &str, now: i64) {
        if let Some(agent) = self.agent.take() {
            self.part(agent, reason, now);
        }
    }

    fn part(&mut self, party: Party, reason: &str, now: i64) {
        let attributes = json!({"GCTI_SYSTEM": {"quit-reason-code": reason}});
        self.push(party, "ParticipantLeft", [("eventAttributes", attributes)], now);
    }

    fn grow(&mut self, script: &AgentScript, now: i64) {
        if self.agent.is_none() {
            return self.join_agent(script, now);
        }
        let hides = script.hidden_every > 0 && self.next_position().is_multiple_of(u64::from(script.hidden_every) * 5);
        match self.agent.clone() {
            Some(agent) if !hides => {
                let text = format!("{} of {}", self.next_position(), self.id);
                self.push(agent, "Message", [("text", json!(text)), ("messageType", json!("text"))], now);
            }
            _ => self.whisper(now),
        }
    }

    fn push<I>(&mut self, from: Party, kind: &str, what: I, now: i64) -> &mut Event
    where
        I: IntoIterator<Item = (&'static str, Value)>,
    {
        let index = self.next_position();
        let mut json = Map::new();
        json.insert("from".into(), from.json());
        json.insert("index".into(), json!(index));
        json.extend(what.into_iter().map(|(name, value)| (name.to_owned(), value)));
        json.insert("type".into(), json!(kind));
        json.insert("utcTime".into(), json!(now));
        self.wake();
        let at = self.events.len();
        self.events.push(Event { json, hidden: false, delivered: false, variants: Vec::new() });
        &mut self.events[at]
    }

    fn wake(&self) {
        self.watchers.iter().for_each(|watcher| watcher.notify_waiters());
    }

    fn event(&mut self, index: u64) -> Option<&mut Event> {
        let at = usize::try_from(index.checked_sub(1)?).ok()?;
        self.events.get_mut(at)
    }

    fn account(&self) -> ChatAccount {
        ChatAccount {
            chat_id: self.id.clone(),
            service: self.service.clone(),
            secure_key: self.secure_key.clone(),
            ended: self.ended,
            next_position: self.next_position(),
            events: self.events.iter().zip(1..).map(|(event, index)| event.account(index)).collect(),
        }
    }
}

impl Event {
    /// Another content under the same index; each number gives another.
    fn changed(&self, number: u64) -> Value {
        let mut json = self.json.clone();
        let text = json.get("text").and_then(Value::as_str).unwrap_or_default();
        let text = format!("{text} (changed {number})");
        json.insert("text".into(), json!(text));
        Value::Object(json)
    }

    fn account(&self, index: u64) -> EventAccount {
        EventAccount {
            index,
            hidden: self.hidden,
            delivered: self.delivered,
            event: Value::Object(self.json.clone()),
            variants: self.variants.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chats(agent: AgentScript) -> Chats {
        let (files, growth) = (FileLimits::default(), Growth::default());
        Chats::new(1, Conduct { agent, files, growth, alias_every: 0, ended_refreshes: 1 })
    }

    /// `index kind party participant`, a star where the event is hidden.
    fn lines(chats: &mut Chats, id: &str) -> Vec<String> {
        let account = chats.chat(id).expect("just opened").account();
        let line = |event: &EventAccount| {
            let (json, star) = (&event.event, if event.hidden { "*" } else { "" });
            let from = &json["from"];
            let party = format!("{}{}", from["type"].as_str().unwrap_or("?"), from["participantId"]);
            format!("{}{star} {} {party}", event.index, json["type"].as_str().unwrap_or("?"))
        };
        account.events.iter().map(line).collect()
    }

    #[test]
    fn a_conversation_by_the_script() {
        let script = AgentScript { hidden_every: 1, rejoins_every: 2, typing: false, ..AgentScript::default() };
        let mut chats = chats(script);
        let id = chats.open("demo", "Anna".into(), KeyForm::Hex, 1000);
        chats.say(&id, "First message", None, 2000);
        chats.say(&id, "Second", None, 3000);
        chats.chat(&id).expect("open").client_leaves(4000);
        let expected = [
            "1 ParticipantJoined Client1",
            "2 ParticipantJoined Agent2",
            "3 Message Client1",
            "4 Message Agent2",
            "5* Message Supervisor0",
            "6 Message Client1",
            "7 Message Agent2",
            "8* Message Supervisor0",
            "9 ParticipantLeft Agent2",
            "10 ParticipantJoined Agent3",
            "11 ParticipantLeft Client1",
            "12 ParticipantLeft Agent3",
        ];
        assert_eq!(lines(&mut chats, &id), expected);
    }

    #[test]
    fn ids_and_keys_have_the_forms_of_gms() {
        let mut chats = chats(AgentScript::default());
        let ids: Vec<String> = (0..50).map(|_| chats.open("demo", "A".into(), KeyForm::Hex, 0)).collect();
        assert!(ids.iter().all(|id| id.len() == 16 && id.chars().all(|c| c.is_ascii_alphanumeric())), "{ids:?}");
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 50);
        let key = |chats: &mut Chats, id: &str| chats.chat(id).expect("open").secure_key.clone();
        assert_eq!(key(&mut chats, &ids[0]).len(), 20);
        let comet = chats.open("demo", "A".into(), KeyForm::Base64, 0);
        assert_eq!(key(&mut chats, &comet).len(), 100);
    }

    #[test]
    fn a_page_holds_what_was_asked_for_and_may_be_seen() {
        let mut chats = chats(AgentScript { hidden_every: 1, typing: false, ..AgentScript::default() });
        let id = chats.open("demo", "Anna".into(), KeyForm::Hex, 0);
        chats.say(&id, "hi", None, 0);
        let rows: [(Option<u64>, &[u64]); 6] = [
            (None, &[]),
            (Some(1), &[1, 2, 3, 4]),
            (Some(3), &[3, 4]),
            (Some(5), &[]),
            (Some(6), &[]),
            (Some(u64::MAX), &[]),
        ];
        let chat = chats.chat(&id).expect("open");
        for (from, indices) in rows {
            let page = chat.page(from, None);
            assert_eq!(page.handed.iter().map(|handed| handed.index).collect::<Vec<_>>(), indices, "{from:?}");
        }
        assert_eq!(chat.next_position(), 6);
    }

    #[test]
    fn only_what_was_delivered_is_changed() {
        let mut chats = chats(AgentScript::default());
        let id = chats.open("demo", "Anna".into(), KeyForm::Hex, 0);
        let page = chats.chat(&id).expect("open").page(Some(1), Some(9));
        assert_eq!(page.handed[0].variant, None);
        page.handed.into_iter().for_each(|handed| chats.delivered(handed));
        let again = chats.chat(&id).expect("open").page(Some(1), Some(9));
        assert_eq!(again.messages[0]["text"], " (changed 9)");
        again.handed.into_iter().for_each(|handed| chats.delivered(handed));
        let account = chats.account();
        assert!(account[0].events[0].delivered);
        assert_eq!(account[0].events[0].variants.len(), 1);
    }
}
