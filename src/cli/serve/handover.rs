//! The upgrade of a running program: a process hands its listening sockets, the archive's lock and what it knows of live
//! chats to another one, the successor, which it starts from the same path.
//!
//! ```text
//! predecessor                                   successor
//!   descriptors, inheritance      ──────────▶     reads its configuration, opens the archive
//!                                 ◀──────────   prepared
//!   all facts, begin              ──────────▶     knows them, accepts
//!                                 ◀──────────   serving
//!   main; accepts no more         ──────────▶     writes its number into the lock
//!   facts learnt                  ◀─────────▶   facts learnt
//!   (ends with its last connection)
//! ```
//!
//! Until `serving` the predecessor goes on as before, and whatever goes wrong with the successor ends that one only. Both
//! talk over a socket pair that is the successor's standard input: nobody else has it, and nothing of it is in a file, an
//! argument or the environment. A message is a line of JSON; what one does not know of another release's it leaves out.

use std::env;
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream as StdStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::sockets::Sockets;
use crate::proxy::Nodes;
use crate::proxy::nodes::Session;
use crate::recorder::{Fact, Recorder};

/// Names the process that started this one to hand over to it. Not one of the configuration's.
const PREDECESSOR: &str = "PREDECESSOR_OF_GMS_RECORDER";
/// Facts in one line.
const FACTS_MAX: usize = 500;
/// What the other process says at once when it says it at all.
const WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Inheritance(Inheritance),
    Prepared,
    Facts { chats: Vec<serde_json::Value>, sessions: Vec<(u64, String)> },
    Begin { drained: Vec<String> },
    Serving,
    Main,
}

/// What a successor gets before it starts. The descriptors come in this order, after the archive's lock.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Inheritance {
    proxy: usize,
    admin: bool,
    control: bool,
    /// By the service manager: they are used whatever the configuration says.
    are_activated: bool,
    digest_key: [u8; 32],
}

/// How this program was started, found out before its file is replaced.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Of this process. The path as it was called, so that a link that is changed leads to the new program.
    ///
    /// # Errors
    /// Where it cannot be known.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let called = PathBuf::from(arguments.next().unwrap_or_default());
        let has_folder = called.components().nth(1).is_some() || called.is_absolute();
        let path = if has_folder { std::path::absolute(called)? } else { env::current_exe()? };
        Ok(Self { path, arguments: arguments.collect() })
    }

    /// Starts it with a socket as its standard input.
    fn start(&self, link: StdStream) -> anyhow::Result<Starting> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).stdin(Stdio::from(OwnedFd::from(link)));
        command.env(PREDECESSOR, std::process::id().to_string());
        // They are meant for this process, by number.
        for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        let child = command.spawn().with_context(|| format!("{} cannot be started", self.path.display()))?;
        Ok(Starting(Some(child)))
    }
}

/// A process that is to take over. Dropped before it has, it is ended.
#[derive(Debug)]
struct Starting(Option<Child>);

impl Starting {
    fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// How it ended, if it has.
    fn end(&mut self) -> String {
        let status = self.0.as_mut().and_then(|child| child.try_wait().ok().flatten());
        status.map_or_else(|| "it closed the connection".into(), |status| format!("it ended with {status}"))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill(); // it has ended already
            let _ = child.wait();
        }
    }
}

/// What is handed over.
#[derive(Debug)]
pub struct Estate {
    /// The archive's lock.
    pub lock: OwnedFd,
    /// Where clients connect.
    pub proxy: Vec<OwnedFd>,
    /// Where probes and metrics are.
    pub admin: OwnedFd,
    /// Where operators connect.
    pub control: Option<OwnedFd>,
    /// The service manager opened them.
    pub are_activated: bool,
    /// What is known of live chats.
    pub recorder: Arc<Recorder>,
    /// And of sessions.
    pub nodes: Arc<Nodes>,
}

/// A successor that serves.
#[derive(Debug)]
pub struct Successor {
    /// Its number.
    pub pid: u32,
    link: Link,
    news: News,
}

/// Starts a successor and hands over to it. When this returns it accepts clients, and so does this process still.
///
/// # Errors
/// Where it did not come to that; then it has ended, and nothing has changed.
pub async fn upgrade(program: Program, estate: Estate, start_max: Duration) -> anyhow::Result<Successor> {
    ensure!(
        std::process::id() != 1,
        "as process 1 of its container it cannot go on without this one; start another container"
    );
    let (ours, theirs) = StdStream::pair()?;
    let mut starting = program.start(theirs)?;
    tracing::info!(program = %program.path.display(), pid = starting.id(), "upgrading: a successor starts");
    let outcome = timeout(start_max, hand_over(ours, &estate)).await;
    let (link, news) = match outcome {
        Ok(Ok(handed_over)) => handed_over,
        Ok(Err(error)) => {
            // Its end is seen on the socket a little before it can be waited for.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Err(error.context(format!("{}; its log says why", starting.end())));
        }
        Err(_) => bail!("it did not serve within proxy.upgrade_start_max = {start_max:?}"),
    };
    let pid = starting.id();
    starting.0 = None; // it lives on
    Ok(Successor { pid, link, news })
}

async fn hand_over(stream: StdStream, estate: &Estate) -> anyhow::Result<(Link, News)> {
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    let optional = [Some(&estate.admin), estate.control.as_ref()];
    for descriptor in std::iter::once(&estate.lock).chain(&estate.proxy).chain(optional.into_iter().flatten()) {
        send_descriptor(&stream, Some(descriptor.as_fd())).await?;
    }
    send_descriptor(&stream, None).await?;
    let mut link = Link::new(stream);
    let inheritance = Inheritance {
        proxy: estate.proxy.len(),
        admin: true,
        control: estate.control.is_some(),
        are_activated: estate.are_activated,
        digest_key: estate.recorder.policy().digest_key,
    };
    link.say(&Message::Inheritance(inheritance)).await?;
    let Message::Prepared = link.hear().await? else { bail!("it did not say that it is prepared") };
    let news = News::begin(&mut link, &estate.recorder, &estate.nodes).await?;
    let drained = estate.nodes.iter().map(|node| estate.nodes.report(node)).filter(|report| report.drained);
    link.say(&Message::Begin { drained: drained.map(|report| report.name).collect() }).await?;
    let Message::Serving = link.hear().await? else { bail!("it did not say that it serves") };
    Ok((link, news))
}

impl Successor {
    /// Tells it that it is the one from now on.
    ///
    /// # Errors
    /// Where it has died.
    pub async fn leave_to(mut self) -> io::Result<Exchange> {
        self.link.say(&Message::Main).await?;
        Ok(Exchange { link: self.link, news: self.news })
    }
}

/// The process that started this one to hand over to it.
#[derive(Debug)]
pub struct Predecessor {
    link: Link,
    /// The key of its digests: what it knows is keyed with it.
    pub digest_key: [u8; 32],
    news: Option<News>,
}

impl Predecessor {
    /// Where there is one, and what is inherited from it.
    ///
    /// # Errors
    /// Where what it says makes no sense.
    pub async fn of_this_process() -> anyhow::Result<Option<(Self, Sockets)>> {
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
        if env::var(PREDECESSOR).ok().is_none_or(|pid| Some(pid) != parent) {
            return Ok(None);
        }
        let stream = StdStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        stream.set_nonblocking(true)?;
        let inherited = timeout(WAIT, Self::inherit(UnixStream::from_std(stream)?)).await;
        Ok(Some(inherited.context("the predecessor hands nothing over")??))
    }

    async fn inherit(stream: UnixStream) -> anyhow::Result<(Self, Sockets)> {
        let mut descriptors = Vec::new();
        while let Some(descriptor) = receive_descriptor(&stream).await? {
            descriptors.push(descriptor);
        }
        let mut link = Link::new(stream);
        let Message::Inheritance(inheritance) = link.hear().await? else {
            bail!("the predecessor says not what it hands over")
        };
        let mut descriptors = descriptors.into_iter();
        let lock = descriptors.next();
        let proxy: Vec<TcpListener> = descriptors.by_ref().take(inheritance.proxy).map(Into::into).collect();
        let admin = descriptors.by_ref().take(usize::from(inheritance.admin)).next().map(Into::into);
        let control: Option<UnixListener> =
            descriptors.by_ref().take(usize::from(inheritance.control)).next().map(Into::into);
        ensure!(lock.is_some() && proxy.len() == inheritance.proxy, "the predecessor hands less over than it says");
        let are_activated = inheritance.are_activated;
        let sockets = Sockets { proxy, admin, control, lock: lock.map(Into::into), are_activated };
        Ok((Self { link, digest_key: inheritance.digest_key, news: None }, sockets))
    }

    /// Says that all is ready, and learns what there is to know. When this returns, it is time to accept clients.
    ///
    /// # Errors
    /// Where the predecessor says something else.
    pub async fn prepared(&mut self, recorder: &Recorder, nodes: &Nodes) -> anyhow::Result<()> {
        self.link.say(&Message::Prepared).await?;
        loop {
            match timeout(WAIT, self.link.hear()).await.context("the predecessor does not go on")?? {
                Message::Facts { chats, sessions } => learn(chats, sessions, recorder, nodes),
                Message::Begin { drained } => {
                    drained.iter().for_each(|name| drop(nodes.set_drained(name, true)));
                    break;
                }
                _ => bail!("the predecessor does not say when to begin"),
            }
        }
        self.news = Some(News::listen(recorder, nodes).0);
        Ok(())
    }

    /// Says that clients are served. When this returns, this process is the one that counts: the predecessor has said so,
    /// or has died.
    pub async fn serving(mut self) -> Option<Exchange> {
        let told = async {
            self.link.say(&Message::Serving).await?;
            self.link.hear().await
        };
        match timeout(WAIT, told).await {
            Ok(Ok(Message::Main)) => {}
            outcome => {
                tracing::warn!(?outcome, "the predecessor does not say that it has handed over; going on without it")
            }
        }
        Some(Exchange { link: self.link, news: self.news? })
    }
}

/// Two processes that serve the same chats and tell each other what they learn of them.
#[derive(Debug)]
pub struct Exchange {
    link: Link,
    news: News,
}

impl Exchange {
    /// Goes on until the other process has ended.
    pub async fn run(mut self, recorder: Arc<Recorder>, nodes: Arc<Nodes>) {
        let hear = async {
            while let Ok(message) = self.link.hear_from.next().await {
                if let Message::Facts { chats, sessions } = message {
                    learn(chats, sessions, &recorder, &nodes);
                }
            }
        };
        let tell = async {
            while let Some(facts) = self.news.next().await {
                if self.link.say_to.say(&facts).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = hear => tracing::debug!("the other process of the upgrade has ended"),
            () = tell => {}
        }
    }
}

fn learn(chats: Vec<serde_json::Value>, sessions: Vec<(u64, String)>, recorder: &Recorder, nodes: &Nodes) {
    // Another release may know facts that this one does not.
    recorder.learn(chats.into_iter().filter_map(|fact| serde_json::from_value(fact).ok()));
    sessions.into_iter().for_each(|(cookie, node)| nodes.sessions().learn((cookie, node.into())));
}

/// What this process learns while another one listens.
#[derive(Debug)]
struct News {
    chats: broadcast::Receiver<Fact>,
    sessions: broadcast::Receiver<Session>,
}

impl News {
    fn listen(recorder: &Recorder, nodes: &Nodes) -> (Self, Vec<Fact>, Vec<Session>) {
        let (facts, chats) = recorder.share();
        let (known, sessions) = nodes.sessions().share();
        (Self { chats, sessions }, facts, known)
    }

    /// Tells all that is known now.
    async fn begin(link: &mut Link, recorder: &Recorder, nodes: &Nodes) -> io::Result<Self> {
        let (news, facts, sessions) = Self::listen(recorder, nodes);
        for facts in facts.chunks(FACTS_MAX) {
            link.say(&message(facts.iter(), Vec::new())).await?;
        }
        for sessions in sessions.chunks(FACTS_MAX) {
            link.say(&message([].iter(), sessions.to_vec())).await?;
        }
        Ok(news)
    }

    /// What was learnt since. None where nothing can be learnt any more.
    async fn next(&mut self) -> Option<Message> {
        let (mut facts, mut sessions) = (Vec::new(), Vec::new());
        tokio::select! {
            fact = self.chats.recv() => facts.extend(received(fact)?),
            session = self.sessions.recv() => sessions.extend(received(session)?),
        }
        facts.extend(std::iter::from_fn(|| self.chats.try_recv().ok()).take(FACTS_MAX));
        sessions.extend(std::iter::from_fn(|| self.sessions.try_recv().ok()).take(FACTS_MAX));
        Some(message(facts.iter(), sessions))
    }
}

/// Where there was more than could be told, what is left of it.
fn received<T>(received: Result<T, RecvError>) -> Option<Option<T>> {
    match received {
        Ok(news) => Some(Some(news)),
        Err(RecvError::Lagged(lost)) => {
            tracing::warn!(lost, "more was learnt of live chats than the other process could be told");
            Some(None)
        }
        Err(RecvError::Closed) => None,
    }
}

fn message<'a>(facts: impl Iterator<Item = &'a Fact>, sessions: Vec<Session>) -> Message {
    let chats = facts.filter_map(|fact| serde_json::to_value(fact).ok()).collect();
    let sessions = sessions.into_iter().map(|(cookie, node)| (cookie, node.to_string())).collect();
    Message::Facts { chats, sessions }
}

/// Messages both ways.
#[derive(Debug)]
struct Link {
    hear_from: Ear,
    say_to: Mouth,
}

#[derive(Debug)]
struct Ear(Lines<BufReader<OwnedReadHalf>>);

#[derive(Debug)]
struct Mouth(OwnedWriteHalf);

impl Link {
    fn new(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self { hear_from: Ear(BufReader::new(read).lines()), say_to: Mouth(write) }
    }

    async fn say(&mut self, message: &Message) -> io::Result<()> {
        self.say_to.say(message).await
    }

    async fn hear(&mut self) -> io::Result<Message> {
        self.hear_from.next().await
    }
}

impl Mouth {
    async fn say(&mut self, message: &Message) -> io::Result<()> {
        let mut line = serde_json::to_string(message)?;
        line.push('\n');
        self.0.write_all(line.as_bytes()).await
    }
}

impl Ear {
    async fn next(&mut self) -> io::Result<Message> {
        let line = self.0.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// A byte with a descriptor, or one without: there are no more.
async fn send_descriptor(stream: &UnixStream, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        Ok(sendmsg(stream, &[IoSlice::new(b".")], &mut control, SendFlags::NOSIGNAL)?)
    };
    stream.async_io(Interest::WRITABLE, send).await.map(drop)
}

async fn receive_descriptor(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let receive = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        if received.bytes == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(descriptor) }
    };
    stream.async_io(Interest::READABLE, receive).await
}
