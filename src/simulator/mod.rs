//! A set of GMS nodes with one shared state that speak the documented API: for the demo, the tests and the benchmarks.
//!
//! An independent second reading of the documentation: nothing here comes from the inspecting side, so that a
//! misunderstanding there cannot hide behind the same one here. The nodes know nothing of a proxy in front of them.
//!
//! ```text
//! node (accept) ─▶ exchange: route, fate ─▶ rest │ cometd │ other_apis ─▶ operations ─▶ chats (one lock)
//! client ◀── wire: framing, encoding, faults ◀── answer + receipt ─▶ account, once written
//! ```

mod account;
mod chats;
mod cometd;
mod dice;
mod exchange;
mod faults;
mod operations;
mod other_apis;
mod params;
mod refusal;
mod rest;
#[cfg(test)]
mod tests;
mod websocket;
mod wire;
mod world;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

pub use account::{Account, ChatAccount, EventAccount, IssuedError};
pub use faults::{Chance, Faults};

use chats::Chat;
use exchange::Site;
use websocket::WebSocket;
use wire::{Connection, Socket};
use world::World;

/// Rests after a failed accept: the usual cause is that the process is out of file descriptors.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(20);

/// What the nodes are and how they behave.
#[derive(Debug, Clone)]
pub struct Config {
    /// One address a node; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Chat ids, keys and faults follow from it. Two simulators of one seed give the same ids.
    pub seed: u64,
    /// What goes wrong from the start.
    pub faults: Faults,
    /// What agents do.
    pub agent: AgentScript,
    /// The release's way of writing validation errors.
    pub error_format: ErrorFormat,
    /// The `serviceName`s that are configured; any other is code 306.
    pub services: Vec<String>,
    /// What may be uploaded to a chat.
    pub files: FileLimits,
    /// Events that come by themselves, for load.
    pub growth: Growth,
    /// The alias of a session changes after so many answers; 0 is never.
    pub alias_every: u64,
    /// How many refreshes after a chat's end still get its transcript, with chatEnded; later ones get statusCode 2.
    pub ended_refreshes: u32,
    /// How long a CometD connect is held when there is nothing to deliver.
    pub connect_hold: Duration,
    /// WebSockets are deflated where the client offers it.
    pub websocket_deflate: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            seed: 1,
            faults: Faults::default(),
            agent: AgentScript::default(),
            error_format: ErrorFormat::New,
            services: ["customer-support", "request-chat-v2", "sales", "demo"].map(str::to_owned).to_vec(),
            files: FileLimits::default(),
            growth: Growth::default(),
            alias_every: 20,
            ended_refreshes: 1,
            connect_hold: Duration::from_secs(30),
            websocket_deflate: true,
        }
    }
}

impl Config {
    /// So many nodes on free ports of the loopback address.
    pub fn nodes(count: usize) -> Self {
        Self { listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); count], ..Self::default() }
    }
}

/// How validation errors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorFormat {
    /// 8.5.103.08 and lower: `{"error":"validationError","fields":{…}}`, without codes.
    Old,
    /// 8.5.103.09 and higher: `{"errors":[{"code":…}]}`.
    New,
}

/// What the agent of every chat does. Counts of 0 mean never, unless they say otherwise.
#[derive(Debug, Clone)]
pub struct AgentScript {
    /// The agent's name.
    pub nickname: String,
    /// The agent joins with this message of the client, and takes its time with it; 0 joins when the chat opens.
    pub joins_after: u32,
    /// What the agent says, in turn; `{text}` stands for what the client said.
    pub replies: Vec<String>,
    /// How long the agent thinks, in milliseconds; 0 answers within the client's own request.
    pub reply_delay_ms: u64,
    /// Typing is shown before each reply.
    pub typing: bool,
    /// After so many replies the agent leaves and joins again, as another participant.
    pub rejoins_every: u32,
    /// After so many replies a supervisor says something to the agent that the client never sees: a gap in the indices.
    pub hidden_every: u32,
    /// After so many replies the agent leaves and the chat is over.
    pub ends_after: u32,
}

impl Default for AgentScript {
    fn default() -> Self {
        Self {
            nickname: "TestName".into(),
            joins_after: 1,
            replies: vec!["You said: {text}".into(), "Let me look that up.".into(), "Anything else?".into()],
            reply_delay_ms: 0,
            typing: false,
            rejoins_every: 0,
            hidden_every: 4,
            ends_after: 0,
        }
    }
}

impl AgentScript {
    fn reply(&self, number: u32, said: &str) -> String {
        let turn = (number as usize).checked_rem(self.replies.len());
        turn.map_or_else(String::new, |turn| self.replies[turn].replace("{text}", said))
    }
}

/// Limits on the files of one chat.
#[derive(Debug, Clone)]
pub struct FileLimits {
    /// Code 261 until an agent has joined.
    pub need_agent: bool,
    /// Code 201 beyond so many.
    pub files_max: usize,
    /// Code 202 for a larger one.
    pub file_bytes_max: usize,
    /// Code 202 for more in sum.
    pub total_bytes_max: usize,
    /// Code 203 for a file name that ends otherwise.
    pub types: Vec<String>,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self {
            need_agent: true,
            files_max: 5,
            file_bytes_max: 10 << 20,
            total_bytes_max: 95 << 20,
            types: ["jpeg", "jpg", "pdf", "png", "txt", "zip"].map(str::to_owned).to_vec(),
        }
    }
}

impl FileLimits {
    fn allow(&self, name: &str) -> bool {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        self.types.iter().any(|allowed| allowed.eq_ignore_ascii_case(ending))
    }

    /// The event without an index that tells a client the limits; every value is a string.
    fn notice(&self, chat: &Chat, now: i64) -> Value {
        let used: usize = chat.files.iter().map(|file| file.content.len()).sum();
        let downloads: u32 = chat.files.iter().map(|file| file.downloads).sum();
        json!({
            "from": chat.client(), "text": "file-client-cfg-get", "type": "Notice", "utcTime": now,
            "userData": {
                "download-attempts": "2", "used-download-attempts": downloads.to_string(),
                "upload-max-files": self.files_max.to_string(), "used-upload-max-files": chat.files.len().to_string(),
                "upload-max-file-size": self.file_bytes_max.to_string(),
                "upload-max-total-size": self.total_bytes_max.to_string(),
                "used-upload-max-total-size": used.to_string(), "upload-need-agent": self.need_agent.to_string(),
                "upload-file-types": self.types.join(":"), "delete-file": "odd",
            },
        })
    }
}

/// Events that a chat gets by being refreshed, so that a load test need not send for each.
#[derive(Debug, Clone, Copy, Default)]
pub struct Growth {
    /// A chat grows until it has so many events; 0 is no growth.
    pub events_per_chat: usize,
    /// So many at each refresh.
    pub events_per_poll: usize,
}

/// Running nodes. Dropping it stops them without waiting.
#[derive(Debug)]
pub struct Simulator {
    world: Arc<World>,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    number: usize,
    address: SocketAddr,
    hung: watch::Sender<bool>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    /// Dropped to stop.
    stop: oneshot::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Simulator {
    /// Binds and serves every address, in the runtime that calls.
    ///
    /// # Errors
    /// Where an address cannot be bound.
    pub async fn start(config: Config) -> io::Result<Self> {
        let world = Arc::new(World::new(&config));
        let mut nodes = Vec::with_capacity(config.listen.len());
        for (number, address) in config.listen.iter().enumerate() {
            let listener = TcpListener::bind(address).await?;
            let node = Node::new(number, listener.local_addr()?);
            node.run(&world, listener);
            nodes.push(node);
        }
        Ok(Self { world, nodes })
    }

    /// Where the nodes listen, also those that are stopped.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// What was issued so far.
    pub fn account(&self) -> Account {
        self.world.account()
    }

    /// Replaces what goes wrong, from the next exchange on.
    pub fn replace_faults(&self, faults: Faults) {
        self.world.replace_faults(faults);
    }

    /// Kills a node: its listener, its connections and its CometD sessions are gone. The chats live on at the others.
    pub async fn stop_node(&self, n: usize) {
        let Some(node) = self.nodes.get(n) else { return };
        node.stop().await;
        self.world.lock().sessions.forget(n);
    }

    /// Starts a stopped node again, on the port it had.
    ///
    /// # Errors
    /// Where the port cannot be bound, for one because the node runs.
    pub async fn start_node(&self, n: usize) -> io::Result<()> {
        let node = self.nodes.get(n).ok_or(io::ErrorKind::NotFound)?;
        let listener = TcpListener::bind(node.address).await?;
        node.run(&self.world, listener);
        Ok(())
    }

    /// A hung node accepts and reads, and answers only once it is no longer hung.
    pub fn hang_node(&self, n: usize, hung: bool) {
        if let Some(node) = self.nodes.get(n) {
            node.hung.send_replace(hung);
        }
    }

    /// Stops all nodes and waits until their connections are closed.
    pub async fn stop(self) {
        for node in &self.nodes {
            node.stop().await;
        }
    }
}

impl Node {
    fn new(number: usize, address: SocketAddr) -> Self {
        Self { number, address, hung: watch::Sender::new(false), running: Mutex::new(None) }
    }

    fn run(&self, world: &Arc<World>, listener: TcpListener) {
        let (stop, stopped) = oneshot::channel();
        let site = Site { world: Arc::clone(world), node: self.number, hung: self.hung.subscribe() };
        let accepting = tokio::spawn(accept(listener, Arc::new(site), stopped));
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(Running { stop, accepting });
    }

    async fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { stop, accepting }) = running {
            drop(stop);
            // It cannot be cancelled, and if it panicked the connections are gone as well.
            let _ended = accepting.await;
        }
    }
}

/// Accepts until told to stop, then ends the connections where they stand.
async fn accept(listener: TcpListener, site: Arc<Site>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, Arc::clone(&site)))),
                Err(_) => tokio::time::sleep(AFTER_FAILED_ACCEPT).await,
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve(stream: TcpStream, site: Arc<Site>) {
    // Without it small answers wait for the client's acknowledgement; where it cannot be set they do.
    let _slower = stream.set_nodelay(true);
    let connection = Connection::new(Arc::clone(&site.world));
    let idle_ms = site.world.faults().idle_ms;
    let mut server = http1::Builder::new();
    server.title_case_headers(true).timer(TokioTimer::new());
    server.header_read_timeout((idle_ms > 0).then(|| Duration::from_millis(idle_ms)));
    let socket = Socket::new(stream, Arc::clone(&connection));
    let service = service_fn(|request| exchange::exchange(Arc::clone(&site), Arc::clone(&connection), request));
    // How a connection ends is the client's to notice, or was fated; there is nobody here to tell.
    let _ended = server.serve_connection(socket, service).with_upgrades().await;
    if let Some((upgrade, is_deflated)) = connection.take_upgrade()
        && let Ok(stream) = upgrade.await
    {
        let mut socket = WebSocket::new(stream, is_deflated);
        let _ended = cometd::speak(&site.world, site.node, &mut socket).await;
    }
}
