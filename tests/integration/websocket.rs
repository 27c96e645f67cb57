//! CometD over WebSocket, with peers of other hands: `tests/integration/cometd`, which `tests/run` installs.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{Archive, Server, folder};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/cometd");
/// Events that the CometD client publishes.
const PUBLISHED: usize = 300;

/// A Bayeux server under node, ended with the test.
struct Peer {
    child: Child,
    address: SocketAddr,
}

impl Peer {
    fn start(kind: &str) -> Self {
        let mut node = Command::new("node");
        let node = node.args(["server.mjs", kind]).current_dir(FOLDER).stdout(Stdio::piped());
        let mut child = node.spawn().expect("node is installed, by tests/run");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it prints its port");
        let port: u16 = line.trim().parse().expect("npm packages are installed, by tests/run");
        Self { child, address: ([127, 0, 0, 1], port).into() }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of the events that the CometD client published.
fn publish(through: SocketAddr, transport: &str) -> Value {
    let url = format!("http://{through}/genesys/cometd");
    let mut node = Command::new("node");
    let node = node.args(["client.mjs", &url, transport, &PUBLISHED.to_string()]).current_dir(FOLDER);
    let output = node.output().expect("node is installed, by tests/run");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("{text} {errors}"))
}

/// All published events are acknowledged, come back in order and once, and so many of them are recorded.
async fn check(kind: &str, transport: &str, recorded: usize) {
    let peer = Peer::start(kind);
    let folder = folder();
    let server = Server::start(folder.path(), &[peer.address], "");
    let told = publish(server.address, transport);
    let all = (told["acknowledged"] == PUBLISHED, told["received"] == PUBLISHED, told["inOrder"] == true);
    assert_eq!((all, told["transport"] == transport), ((true, true, true), true), "{kind} {transport}: {told}");
    let mut archive = Archive::open(&server.database).await;
    let events = "SELECT COUNT(*), COALESCE(MIN(event_index), 0), COALESCE(MAX(event_index), 0) FROM events";
    let first = recorded.min(1).to_string();
    assert_eq!(archive.rows(events).await, [[recorded.to_string(), first, recorded.to_string()]], "{kind} {transport}");
    assert_eq!(archive.value("SELECT COUNT(*) FROM findings").await, "0", "{kind} {transport}");
    assert_eq!(archive.value("SELECT COUNT(*) FROM api_errors").await, "0", "{kind} {transport}");
    let other = server.metric("gms_recorder_other_deliveries_total").await;
    assert_eq!(other, Some((PUBLISHED - recorded) as f64), "{kind} {transport}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_and_servers_of_other_hands_do_not_notice() {
    check("faye", "websocket", PUBLISHED).await;
    check("faye-deflate", "websocket", PUBLISHED).await;
    check("faye", "long-polling", PUBLISHED).await;
    check("cometd", "long-polling", 0).await;
}
