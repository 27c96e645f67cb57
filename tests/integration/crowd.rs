//! Customers who talk while something happens to the nodes or to the server: what they held is held against the archive.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gms_recorder::simulator::{AgentScript, Config, Simulator};
use tokio::task::JoinHandle;

use crate::evidence::sealed;
use crate::load::compare;
use crate::support::{Archive, Chat, Client, Server, eventually, get};

/// Messages of one chat; then the customer leaves and opens the next.
const MESSAGES: usize = 12;

/// Nodes whose chats can still be read when some of the answers to that were lost.
pub async fn nodes(count: usize) -> Simulator {
    let agent = AgentScript { rejoins_every: 5, hidden_every: 4, ..AgentScript::default() };
    Simulator::start(Config { agent, ended_refreshes: 300, ..Config::nodes(count) }).await.expect("free ports")
}

/// What all customers share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Microseconds between two requests of a customer.
    pause: AtomicU64,
    answers: AtomicUsize,
    chats: AtomicUsize,
    held: Mutex<HashSet<(String, i64)>>,
}

/// Customers at work, each with one chat after another.
pub struct Crowd {
    shared: Arc<Shared>,
    customers: Vec<JoinHandle<()>>,
}

impl Crowd {
    pub fn start(proxy: SocketAddr, customers: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let talk = |n| tokio::spawn(talk(proxy, n, shared.clone()));
        Self { customers: (0..customers).map(talk).collect(), shared }
    }

    /// Answers with statusCode 0 so far.
    pub fn answers(&self) -> usize {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// Chats that are over.
    pub fn chats(&self) -> usize {
        self.shared.chats.load(Ordering::Relaxed)
    }

    /// From now on each customer waits so long between two requests.
    pub fn slow_down(&self, pause: Duration) {
        self.shared.pause.store(pause.as_micros() as u64, Ordering::Relaxed);
    }

    /// Waits until every customer was answered some times more. How long the first answer took.
    pub async fn goes_on(&self) -> Duration {
        let (since, before) = (Instant::now(), self.answers());
        let mut first = None;
        eventually("chats go on", async || {
            let more = self.answers() - before;
            if more > 0 {
                first.get_or_insert_with(|| since.elapsed());
            }
            (more > 5 * self.customers.len()).then_some(())
        })
        .await;
        first.expect("there was one")
    }

    /// Everyone finishes. Then the metrics balance, what any customer held is in the archive, and the archive equals the
    /// simulator's account: nothing lost, nothing twice. Returns what was held.
    pub async fn end(self, server: &mut Server, simulator: &Simulator) -> usize {
        self.shared.stop.store(true, Ordering::Relaxed);
        for customer in self.customers {
            customer.await.expect("no customer fails");
        }
        eventually("everything written", async || (in_flight(server).await == 0).then_some(())).await;
        assert!(server.stop().success());
        let mut archive = Archive::open(&server.database).await;
        let held = std::mem::take(&mut *self.shared.held.lock().expect("no panic holds it"));
        archive.check_holds(&held, "in the end").await;
        compare(simulator, self.shared.chats.load(Ordering::Relaxed), &mut archive).await;
        sealed(&server.database);
        held.len()
    }
}

/// Promise 4, as one snapshot of the metrics. Events that are on their way.
pub async fn in_flight(server: &Server) -> u64 {
    let text = get(server.admin, "/metrics").await.expect("it runs").1;
    let number = |start: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start} in {text}"));
        line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    };
    let fates = text.lines().filter(|line| line.starts_with("gms_recorder_events_total{"));
    let sum: u64 =
        fates.map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number")).sum();
    let in_flight = number("gms_recorder_events_in_flight");
    assert_eq!(number("gms_recorder_events_seen_total"), sum + in_flight, "{text}");
    assert_eq!(number("gms_recorder_events_total{fate=\"dropped\"}"), 0, "{text}");
    in_flight
}

async fn talk(proxy: SocketAddr, n: usize, shared: Arc<Shared>) {
    let mut client = Client::new(proxy);
    for number in 0.. {
        let chat = Chat::open(&mut client, &format!("nickname=Customer{n}&subject=Test")).await;
        let mut position = 1;
        for m in 0..MESSAGES {
            // A send whose answer was lost is not repeated here: that would be another message.
            let _ = chat.act(&mut client, "send", &format!("message=m{n}-{number}-{m}")).await;
            shared.rest().await;
            let answer = chat.insist(&mut client, "refresh", &format!("transcriptPosition={position}")).await;
            shared.hold(&chat, &answer);
            position = answer["nextPosition"].as_i64().expect("statusCode 0 has it");
            shared.rest().await;
            if shared.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        leave(&chat, &mut client).await;
        let answer = chat.insist(&mut client, "refresh", "transcriptPosition=1").await;
        shared.hold(&chat, &answer);
        shared.chats.fetch_add(1, Ordering::Relaxed);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if number % 3 == 2 {
            client = Client::new(proxy); // another customer would come on a connection of their own
        }
    }
}

/// Until a node has said so. Where the first answer was lost, the second says that there is no such chat any more.
async fn leave(chat: &Chat, client: &mut Client) {
    for _ in 0..300 {
        match chat.act(client, "disconnect", "").await {
            Ok(reply) if [0, 2].iter().any(|code| reply.json()["statusCode"] == *code) => return,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("{} could not be left", chat.id);
}

impl Shared {
    async fn rest(&self) {
        let pause = Duration::from_micros(self.pause.load(Ordering::Relaxed));
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    fn hold(&self, chat: &Chat, answer: &serde_json::Value) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        let events = answer["messages"].as_array().into_iter().flatten();
        let events = events.filter_map(|event| Some((chat.id.clone(), event["index"].as_i64()?)));
        self.held.lock().expect("no panic holds it").extend(events);
    }
}
