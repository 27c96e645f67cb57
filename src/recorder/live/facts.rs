//! What is known of live chats, fact by fact, for another process that serves them, too: while a binary is upgraded, a
//! chat goes on at the successor by what its predecessor knew, and the other way round.
//!
//! Kept out: what is written or on its way (the file says so), and answers that are recognised (they are read once more).

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::{LiveChats, SECRETS_PER_CHAT};
use crate::chat::{ChatId, ContentDigest, Secret};
use crate::gms::{Attribute, AttributeSource, OpenedSession};

/// Facts that wait to be told: some seconds of a busy proxy's.
const UNTOLD_MAX: usize = 16_384;

/// One thing known of a live chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A chat has a secret.
    Secret {
        /// The chat.
        #[serde(with = "chat_id")]
        chat: ChatId,
        /// What is to be scrubbed.
        #[serde(with = "exposed")]
        secret: Secret,
    },
    /// A chat is named by a secureKey.
    SecureKey {
        /// Its keyed digest.
        digest: ContentDigest,
        /// The chat.
        #[serde(with = "chat_id")]
        chat: ChatId,
    },
    /// What a session was given of a chat ends here.
    SessionEnd {
        /// The session's keyed digest.
        session: ContentDigest,
        /// The chat.
        #[serde(with = "chat_id")]
        chat: ChatId,
        /// The position after it.
        next: i64,
        /// How often the session had missed something then.
        missed: u32,
    },
    /// A session was given something that was not read.
    Missed {
        /// The session's keyed digest.
        session: ContentDigest,
        /// How often.
        times: u32,
    },
    /// A session asked for a chat that has no name yet.
    Opened {
        /// The session's keyed digest.
        session: ContentDigest,
        /// Name, value, and whether a request said so.
        attributes: Vec<(String, String, bool)>,
        /// An asynchronous chat was asked for.
        is_async: bool,
    },
}

impl LiveChats {
    /// All that is known, and from then on what is learnt.
    pub fn share(&mut self) -> (Vec<Fact>, broadcast::Receiver<Fact>) {
        let learnt = self.learnt.get_or_insert_with(|| broadcast::Sender::new(UNTOLD_MAX)).subscribe();
        let secrets = self.chats.iter_mut().flat_map(|(chat, live)| {
            live.secrets.iter().map(|secret| Fact::Secret { chat: chat.clone(), secret: secret.clone() })
        });
        let keys = self.by_secure_key.iter_mut().map(|(digest, chat)| secure_key(digest, chat));
        let missed = self.missed.iter_mut().map(|(session, times)| Fact::Missed { session: *session, times: *times });
        let ends = self.session_ends.iter_mut().map(|((session, chat), (next, missed))| Fact::SessionEnd {
            session: *session,
            chat: chat.clone(),
            next: *next,
            missed: *missed,
        });
        let opened = self.opened.iter_mut().map(|(_, opened)| Fact::from(&*opened));
        (secrets.chain(keys).chain(missed).chain(ends).chain(opened).collect(), learnt)
    }

    /// Learns what another process knows. What is news here is news for whoever else is told.
    pub fn take(&mut self, fact: Fact) {
        let is_news = match &fact {
            Fact::Secret { chat, secret } => self.keep_secret(chat, secret),
            Fact::SecureKey { digest, chat } => {
                let is_news = self.by_secure_key.get_mut(digest).is_none_or(|known| known != chat);
                self.by_secure_key.insert(*digest, chat.clone());
                is_news
            }
            Fact::SessionEnd { session, chat, next, missed } => {
                let (key, theirs) = ((*session, chat.clone()), (*missed, *next));
                let is_news = self.session_ends.get_mut(&key).is_none_or(|(next, missed)| (*missed, *next) < theirs);
                if is_news {
                    self.session_ends.insert(key, (*next, *missed));
                }
                is_news
            }
            Fact::Missed { session, times } => {
                let is_news = self.missed.get_mut(session).is_none_or(|known| *known < *times);
                if is_news {
                    self.missed.insert(*session, *times);
                }
                is_news
            }
            Fact::Opened { session, attributes, is_async } => {
                let is_news = self.opened.get_mut(session).is_none();
                if is_news {
                    self.opened.insert(*session, opened(*session, attributes, *is_async));
                }
                is_news
            }
        };
        if is_news {
            self.tell(|| fact);
        }
    }

    /// Whether it was not known, and there was room for it.
    pub(super) fn keep_secret(&mut self, chat: &ChatId, secret: &Secret) -> bool {
        let secrets = &mut self.chat(chat).secrets;
        let is_news = !secrets.contains(secret) && secrets.len() < SECRETS_PER_CHAT;
        if is_news {
            secrets.push(secret.clone());
        }
        is_news
    }

    /// Something was learnt. Nothing is made of it while nobody listens.
    pub(super) fn tell(&self, fact: impl FnOnce() -> Fact) {
        if let Some(learnt) = self.learnt.as_ref().filter(|learnt| learnt.receiver_count() > 0) {
            let _ = learnt.send(fact()); // whoever listened may just have gone
        }
    }
}

pub(super) fn secure_key(digest: &ContentDigest, chat: &ChatId) -> Fact {
    Fact::SecureKey { digest: *digest, chat: chat.clone() }
}

impl From<&OpenedSession> for Fact {
    fn from(opened: &OpenedSession) -> Self {
        let told = |attribute: &Attribute| {
            (attribute.name.clone(), attribute.value.clone(), attribute.source == AttributeSource::Request)
        };
        let attributes = opened.attributes.iter().map(told).collect();
        Self::Opened { session: opened.session, attributes, is_async: opened.is_async }
    }
}

fn opened(session: ContentDigest, attributes: &[(String, String, bool)], is_async: bool) -> OpenedSession {
    let attribute = |(name, value, is_requested): &(String, String, bool)| Attribute {
        name: name.clone(),
        value: value.clone(),
        source: if *is_requested { AttributeSource::Request } else { AttributeSource::Answer },
        maskings: Vec::new(),
    };
    OpenedSession { session, attributes: attributes.iter().map(attribute).collect(), is_async }
}

/// A chat's name as text.
mod chat_id {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use crate::chat::ChatId;

    pub fn serialize<S: Serializer>(chat: &ChatId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(chat.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ChatId, D::Error> {
        ChatId::parse(&String::deserialize(from)?).ok_or_else(|| D::Error::custom("no chat has such a name"))
    }
}

/// A secret in the clear: between two processes of ours, over a socket that only they have.
mod exposed {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use crate::chat::Secret;

    pub fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        Secret::new(String::deserialize(from)?).ok_or_else(|| D::Error::custom("an empty secret is none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gms::Coverage;

    fn chat() -> ChatId {
        ChatId::parse("00001aCY6K8U003T").expect("valid")
    }

    fn all() -> Vec<Fact> {
        let secret = Secret::new("e4071047872b7820630f").expect("not empty");
        vec![
            Fact::Secret { chat: chat(), secret },
            Fact::SecureKey { digest: [1; 16], chat: chat() },
            Fact::Missed { session: [2; 16], times: 3 },
            Fact::SessionEnd { session: [2; 16], chat: chat(), next: 5, missed: 3 },
            Fact::Opened {
                session: [4; 16],
                attributes: vec![("nickname".into(), "Anna".into(), true)],
                is_async: true,
            },
        ]
    }

    #[test]
    fn what_one_process_knows_another_learns_and_tells_once() {
        let mut live = LiveChats::new(10);
        let (before, mut learnt) = live.share();
        assert_eq!(before, []);
        for fact in all() {
            let line = serde_json::to_string(&fact).expect("plain values");
            live.take(serde_json::from_str(&line).expect(&line));
            assert_eq!(learnt.try_recv().as_ref(), Ok(&fact), "it is news");
            live.take(fact);
            assert!(learnt.try_recv().is_err(), "it is none any more: two processes do not tell each other for ever");
        }
        assert_eq!(live.share().0, all());
        assert_eq!((live.secrets(&chat()).len(), live.by_secure_key(&[1; 16])), (1, Some(chat())));
        let goes_on = Coverage::Session { session: [2; 16], lowest: Some(7), next: 8 };
        let covered = live.covered(&chat(), goes_on).map(|covered| (covered.from, covered.next));
        assert_eq!(covered, Some((5, 8)), "where the other process left off");
        let end = Fact::SessionEnd { session: [2; 16], chat: chat(), next: 8, missed: 3 };
        assert_eq!(learnt.try_recv(), Ok(end));
        live.take(Fact::SessionEnd { session: [2; 16], chat: chat(), next: 6, missed: 3 });
        assert!(live.share().0.contains(&Fact::SessionEnd { session: [2; 16], chat: chat(), next: 8, missed: 3 }));
    }

    #[test]
    fn a_fact_does_not_print_its_secret() {
        assert!(!format!("{:?}", all()).contains("e407"));
    }
}
