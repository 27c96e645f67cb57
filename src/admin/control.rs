//! What an operator may change while the proxy runs: which nodes are given something new. Over a Unix socket beside the
//! archive, which only the archive's owner and root can use; probes and metrics stay on a listener that changes nothing.
//!
//! A connection is one request and its answer, each a line of JSON: `{"command":"drain","node":"gms-1"}`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::proxy::Nodes;
use crate::proxy::nodes::Report;

/// A socket's path is kept in 108 bytes with a zero at its end (unix(7)).
pub const PATH_BYTES_MAX: usize = 107;
/// Operators at one time.
const CONNECTIONS_MAX: usize = 8;
/// A request is a word and a name of at most 300 bytes.
const REQUEST_BYTES_MAX: u64 = 4 << 10;
/// An answer tells of 64 nodes, with up to 8 addresses each.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// For a request and its answer. Both sides are on one machine, and nothing is waited for.
const WAIT: Duration = Duration::from_secs(5);
/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who answers.
    Serving,
    /// How all nodes fare.
    List,
    /// A node is to be given nothing new.
    Drain {
        /// Its name.
        node: String,
    },
    /// A node is to be given its share again.
    Restore {
        /// Its name.
        node: String,
    },
}

/// The `serve` that has the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Its process.
    pub pid: u32,
    /// Where its clients connect.
    pub listen: SocketAddr,
    /// Its probes and metrics.
    pub admin: SocketAddr,
    /// It was told to stop, and finishes what is in flight.
    pub draining: bool,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The nodes asked for, as they are now.
    Nodes(Vec<Report>),
    /// Who answers.
    Serving(Serving),
    /// Why nothing was done.
    Error(String),
}

/// A bound socket. Dropped, its file goes.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    is_left: Arc<AtomicBool>,
}

/// What another process needs to go on at the same socket.
#[derive(Debug)]
pub struct Share {
    /// The socket.
    pub descriptor: OwnedFd,
    is_left: Arc<AtomicBool>,
}

impl Share {
    /// The other process has it now: the file stays.
    pub fn leave(&self) {
        self.is_left.store(true, Ordering::Release);
    }
}

impl Control {
    /// Binds the socket for its owner alone. What a process that is gone has left there is replaced.
    ///
    /// # Errors
    /// Where somebody answers there, or the path holds something else or is too long.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there"));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            Ok(_) => std::fs::remove_file(path)?,
            Err(_) => {} // nothing is there, or binding says what is wrong
        }
        let control = Self { listener: UnixListener::bind(path)?, path: path.into(), is_left: Arc::default() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(control)
    }

    /// Goes on at a socket that another process has bound. One at another path is given up.
    ///
    /// # Errors
    /// As [`Control::bind`].
    pub fn inherit(listener: std::os::unix::net::UnixListener, path: &Path) -> io::Result<Self> {
        let bound = listener.local_addr()?;
        if bound.as_pathname() != Some(path) {
            bound.as_pathname().into_iter().for_each(|path| drop(std::fs::remove_file(path)));
            return Self::bind(path);
        }
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, path: path.into(), is_left: Arc::default() })
    }

    /// For [`Control::inherit`] in another process.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn share(&self) -> io::Result<Share> {
        Ok(Share { descriptor: self.listener.as_fd().try_clone_to_owned()?, is_left: self.is_left.clone() })
    }

    /// Serves until dropped. `serving` says who answers.
    pub async fn serve(self, nodes: Arc<Nodes>, serving: impl Fn() -> Serving + Clone + Send + 'static) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) if is_allowed(&stream) => {
                    let (nodes, serving) = (nodes.clone(), serving.clone());
                    tokio::spawn(async move {
                        let _ = timeout(WAIT, converse(stream, &nodes, serving)).await; // whoever left knows that
                        drop(place);
                    });
                }
                Ok(_) => {} // between binding and `set_permissions` it was open to more
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if !self.is_left.load(Ordering::Acquire) {
            let _ = std::fs::remove_file(&self.path); // gone already, or the next start replaces it
        }
    }
}

/// Our own user, or root.
fn is_allowed(stream: &UnixStream) -> bool {
    let user = stream.peer_cred().map(|peer| peer.uid());
    user.is_ok_and(|user| user == 0 || user == rustix::process::geteuid().as_raw())
}

async fn converse(stream: UnixStream, nodes: &Nodes, serving: impl FnOnce() -> Serving) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let answer = match read(&mut stream, REQUEST_BYTES_MAX).await {
        Ok(request) => answer(&request, nodes, serving),
        Err(error) => Answer::Error(error.to_string()),
    };
    write(stream.get_mut(), &answer).await
}

fn answer(request: &Request, nodes: &Nodes, serving: impl FnOnce() -> Serving) -> Answer {
    let (name, changed) = match request {
        Request::Serving => return Answer::Serving(serving()),
        Request::List => return Answer::Nodes(nodes.iter().map(|node| nodes.report(node)).collect()),
        Request::Drain { node } => (node, nodes.set_drained(node, true)),
        Request::Restore { node } => (node, nodes.set_drained(node, false)),
    };
    match changed {
        Some(report) => Answer::Nodes(vec![report]),
        None => {
            let names: Vec<&str> = nodes.iter().map(|node| &*node.name).collect();
            Answer::Error(format!("no node is named {name}; there are {}", names.join(", ")))
        }
    }
}

/// Asks a running proxy.
///
/// # Errors
/// Where none answers at this path, or not in time.
pub async fn ask(path: &Path, request: &Request) -> io::Result<Answer> {
    let asked = async {
        let mut stream = BufReader::new(UnixStream::connect(path).await?);
        write(stream.get_mut(), request).await?;
        read(&mut stream, ANSWER_BYTES_MAX).await
    };
    timeout(WAIT, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn read<T: DeserializeOwned>(stream: &mut BufReader<UnixStream>, bytes_max: u64) -> io::Result<T> {
    let mut line = String::new();
    stream.take(bytes_max).read_line(&mut line).await?;
    serde_json::from_str(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn write(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(message)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{self, NodeAddress};
    use crate::telemetry::metrics::Metrics;

    fn nodes() -> Arc<Nodes> {
        let addresses = ["gms-1=http://127.0.0.1:1", "gms-2=http://127.0.0.1:2"];
        let addresses = addresses.map(|text| NodeAddress::parse(text).expect("an address"));
        let (proxy, nodes) = (proxy::Config::default(), proxy::nodes::Config::default());
        Arc::new(Nodes::new(addresses.into(), None, &proxy, &Default::default(), &nodes, &Metrics::default()))
    }

    /// What comes back for a line, as it stands on the wire.
    async fn say(path: &Path, line: &str) -> String {
        let mut stream = UnixStream::connect(path).await.expect("it is served");
        stream.write_all(line.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    #[tokio::test]
    async fn a_line_is_answered_by_a_line() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("transcripts.db-control");
        let serving = tokio::spawn(Control::bind(&path).expect("a free path").serve(nodes(), || Serving {
            pid: 7,
            listen: ([127, 0, 0, 1], 1).into(),
            admin: ([127, 0, 0, 1], 2).into(),
            draining: true,
        }));
        let long = format!("{{\"command\":\"drain\",\"node\":\"{}\"}}\n", "x".repeat(5000));
        let rows = [
            ("{\"command\":\"list\"}\n", "{\"nodes\":[{\"name\":\"gms-1\",\"state\":\"well\",\"drained\":false,"),
            (
                "{\"command\":\"drain\",\"node\":\"gms-1\"}\n",
                "{\"nodes\":[{\"name\":\"gms-1\",\"state\":\"well\",\"drained\":true,",
            ),
            (
                "{\"command\":\"restore\",\"node\":\"gms-1\"}\n",
                "{\"nodes\":[{\"name\":\"gms-1\",\"state\":\"returning\",\"drained\":false,",
            ),
            (
                "{\"command\":\"drain\",\"node\":\"gms-3\"}\n",
                "{\"error\":\"no node is named gms-3; there are gms-1, gms-2\"}",
            ),
            (
                "{\"command\":\"serving\"}\n",
                "{\"serving\":{\"pid\":7,\"listen\":\"127.0.0.1:1\",\"admin\":\"127.0.0.1:2\",\"draining\":true}}",
            ),
            ("{\"command\":\"kill\"}\n", "{\"error\":\"unknown variant `kill`"),
            ("GET / HTTP/1.1\r\n\r\n", "{\"error\":\"expected value"),
            (&long, "{\"error\":\"EOF while parsing"),
        ];
        for (line, start) in rows {
            let answer = say(&path, line).await;
            assert!(answer.starts_with(start) && answer.ends_with("}\n"), "{line}: {answer}");
        }
        let answer = ask(&path, &Request::List).await.expect("it is served");
        assert!(matches!(answer, Answer::Nodes(nodes) if nodes.len() == 2));
        serving.abort();
        let _ = serving.await;
        assert!(!path.exists(), "its file goes with it");
    }

    #[tokio::test]
    async fn the_socket_is_its_owner_s_and_nothing_else_is_replaced() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("control");
        let _served = Control::bind(&path).expect("a free path");
        assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(Control::bind(&path).expect_err("it is served").kind(), io::ErrorKind::AddrInUse);
        let left = std::os::unix::net::UnixListener::bind(folder.path().join("left")).expect("a free path");
        drop(left); // its file stays, as after kill -9
        Control::bind(&folder.path().join("left")).expect("it is replaced");
        std::fs::write(folder.path().join("file"), "").expect("the folder is ours");
        let refused = Control::bind(&folder.path().join("file")).expect_err("it is a file");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        let long = folder.path().join("x".repeat(PATH_BYTES_MAX));
        assert_eq!(Control::bind(&long).expect_err("it is too long").kind(), io::ErrorKind::InvalidInput);
    }
}
