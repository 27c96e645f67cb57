//! What is noticed of an exchange on its way, for its line in the access log. The line is written when the trail ends,
//! however that comes about: so there is one for each exchange.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::forward::Gate;
use super::framing::Framing;
use super::head::Head;
use super::headers::{Noted, Peer};
use crate::chat::Secret;
use crate::gms::mask::Masks;
use crate::gms::request::secrets_of_query;
use crate::gms::scrub::{scrub_path_parameters, scrub_words};
use crate::gms::{ChatKey, Observation, Route};
use crate::recorder::now_ms;
use crate::telemetry::access::{End, Line, Pen};

/// nginx's status for a client that left before its answer.
const LEFT: u16 = 499;

/// The trail of one exchange.
#[derive(Debug)]
pub struct Trail {
    pen: Rc<Pen>,
    masks: Masks,
    began: Instant,
    protocol: &'static str,
    method: String,
    trace_id: Option<String>,
    client: Cell<IpAddr>,
    words: RefCell<Words>,
    secrets: RefCell<Vec<Secret>>,
    route: Cell<Option<&'static str>>,
    node: RefCell<Option<Arc<str>>>,
    asked: Cell<Option<Instant>>,
    node_took: Cell<Option<Duration>>,
    held: Cell<Option<Duration>>,
    status: Cell<Option<u16>>,
    /// What the client was sent so far.
    sent: Cell<u64>,
    is_whole: Cell<bool>,
    is_audited: Cell<bool>,
}

/// What a client made up, and perhaps put a secret into.
#[derive(Debug, Default)]
struct Words {
    path: Option<String>,
    chat_id: Option<String>,
    request_id: Option<String>,
    referer: Option<String>,
    user_agent: Option<String>,
}

impl Words {
    fn all(&mut self) -> impl Iterator<Item = &mut String> {
        let Self { path, chat_id, request_id, referer, user_agent } = self;
        [path, chat_id, request_id, referer, user_agent].into_iter().flatten()
    }

    /// Masks them; that is evident from the stars, and leaves no other trace. A chat is named as it is in the archive.
    fn mask(&mut self, masks: &Masks) {
        self.chat_id = self.chat_id.take().filter(|id| !masks.is_card(id));
        let Self { path, chat_id: _, request_id, referer, user_agent } = self;
        let words = [path, request_id, referer, user_agent].into_iter().flatten();
        masks.words(words.map(|word| ("", word)));
    }
}

impl Trail {
    /// Of a request, or of what was none; none where no access log is written.
    pub fn begin(
        gate: &Gate,
        peer: &Peer,
        head: Option<&Head>,
        protocol: &'static str,
        began: Instant,
    ) -> Option<Box<Self>> {
        let pen = gate.access_log.clone()?;
        let client = head.map_or(peer.address(), |head| peer.client(head, &gate.config.trusted_proxies));
        let trail = Box::new(Self {
            pen,
            masks: gate.recorder.policy().masks.clone(),
            began,
            protocol,
            method: head.map_or_else(String::new, |head| head.method().into()),
            trace_id: None,
            client: Cell::new(client),
            words: RefCell::default(),
            secrets: RefCell::default(),
            route: Cell::default(),
            node: RefCell::default(),
            asked: Cell::default(),
            node_took: Cell::default(),
            held: Cell::default(),
            status: Cell::default(),
            sent: Cell::new(0),
            is_whole: Cell::new(false),
            is_audited: Cell::new(false),
        });
        Some(match head {
            Some(head) => trail.of(head),
            None => trail,
        })
    }

    fn of(mut self: Box<Self>, head: &Head) -> Box<Self> {
        let noted = Noted::of(head, Framing::None);
        self.trace_id = noted.trace_id.map(String::from);
        let (path, query) = head.target().split_once('?').unwrap_or((head.target(), ""));
        let mut words =
            Words { path: Some(path.into()), request_id: noted.request_id.map(String::from), ..Words::default() };
        words.path.as_mut().into_iter().for_each(scrub_path_parameters);
        let secrets = self.secrets.get_mut();
        secrets.extend(noted.request_credentials());
        secrets.extend(secrets_of_query(query));
        for (_, name, value) in head.fields() {
            let text = || std::str::from_utf8(value).ok().map(String::from);
            match name {
                name if name.eq_ignore_ascii_case(b"user-agent") => words.user_agent = text(),
                // A page's address has secrets where ours has them: in its query, and in what follows.
                name if name.eq_ignore_ascii_case(b"referer") => {
                    words.referer = text().map(|page| page[..page.find(['?', '#']).unwrap_or(page.len())].into());
                    words.referer.as_mut().into_iter().for_each(scrub_path_parameters);
                }
                _ => {}
            }
        }
        *self.words.get_mut() = words;
        self
    }

    /// Which API, and which chat if the path says so.
    pub fn routed(&self, route: &Route<'_>) {
        self.route.set(Some(route.class.as_str()));
        let chat_id = &mut self.words.borrow_mut().chat_id;
        *chat_id = chat_id.take().or_else(|| route.chat_id.as_deref().map(String::from));
    }

    /// What the request's body calls secret.
    pub fn learn(&self, secrets: Vec<Secret>) {
        self.secrets.borrow_mut().extend(secrets);
    }

    /// What the answer tells: whose it is, and whether something in it could not be read.
    pub fn read(&self, observation: &Observation) {
        if !observation.findings.is_empty() {
            self.audited();
        }
        if let [answer] = &observation.chats[..]
            && let ChatKey::Id(chat_id) = &answer.key
        {
            self.words.borrow_mut().chat_id = Some(chat_id.as_str().into());
        }
    }

    /// A node is asked from now on.
    pub fn asks(&self) {
        self.asked.set(Some(Instant::now()));
    }

    /// The asking is over: this node was asked last, and may have answered.
    pub fn asked(&self, node: Option<&Arc<str>>, has_answered: bool) {
        *self.node.borrow_mut() = node.cloned();
        let since = self.asked.get().filter(|_| has_answered);
        self.node_took.set(since.map(|since| since.elapsed()));
    }

    /// The answer waited for its commit, since then.
    pub fn held(&self, since: Instant) {
        self.held.set(Some(since.elapsed()));
    }

    /// The audit or the findings have it.
    pub fn audited(&self) {
        self.is_audited.set(true);
    }

    /// The client is answered so.
    pub fn answers(&self, status: u16) {
        self.status.set(Some(status));
    }

    /// Counts what the client is sent.
    pub fn sent(&self) -> &Cell<u64> {
        &self.sent
    }

    /// Whether the client was sent all of it.
    pub fn ends(&self, is_whole: bool) {
        self.is_whole.set(is_whole);
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        let words = self.words.get_mut();
        scrub_words(words.all(), self.secrets.get_mut());
        words.mask(&self.masks);
        self.masks.words([("", &mut self.method)]);
        let took = self.began.elapsed();
        let end = match (self.status.get(), self.is_whole.get()) {
            (None, _) => End::Left,
            (_, true) => End::Whole,
            (_, false) => End::Broken,
        };
        self.pen.write(&Line {
            at: now_ms() - took.as_millis() as i64,
            client: self.client.get(),
            method: &self.method,
            path: words.path.as_deref().unwrap_or_default(),
            protocol: self.protocol,
            status: self.status.get().unwrap_or(LEFT),
            bytes: self.sent.get(),
            took,
            node: self.node.get_mut().as_deref(),
            node_took: self.node_took.get(),
            held: self.held.get(),
            route: self.route.get(),
            chat_id: words.chat_id.as_deref(),
            request_id: words.request_id.as_deref(),
            trace_id: self.trace_id.as_deref(),
            referer: words.referer.as_deref(),
            user_agent: words.user_agent.as_deref(),
            end,
            is_audited: self.is_audited.get(),
        });
    }
}
