//! CometD over WebSocket, with peers of other hands: `tests/integration/cometd`, which `tests/run` installs.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gms_recorder::simulator::{AgentScript, Config, Simulator};
use serde_json::Value;

use crate::support::{Archive, Server, eventually, folder};

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

/// What a script says at its end, run against this address; by TLS with this certificate.
async fn run(script: &'static str, through: SocketAddr, argument: &'static str, certificate: Option<&Path>) -> Value {
    let certificate = certificate.map(Path::to_path_buf);
    let ran = tokio::task::spawn_blocking(move || run_to_end(script, through, argument, certificate.as_deref()));
    ran.await.expect("it panics where it fails")
}

fn run_to_end(script: &str, through: SocketAddr, argument: &str, certificate: Option<&Path>) -> Value {
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://localhost:{}/genesys/cometd", through.port());
    let mut node = Command::new("node");
    let node = node.args([script, &url, argument, &PUBLISHED.to_string()]).current_dir(FOLDER);
    node.envs(certificate.map(|certificate| ("NODE_EXTRA_CA_CERTS", certificate)));
    let output = node.output().expect("node is installed, by tests/run");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("{text} {errors}"))
}

/// All published events are acknowledged, come back in order and once, and so many of them are recorded.
async fn check(kind: &'static str, transport: &'static str, is_tls: bool, recorded: usize) {
    let peer = Peer::start(kind);
    let folder = folder();
    let (certificate, key) = (folder.path().join("localhost.crt"), folder.path().join("localhost.key"));
    let issued = rcgen::generate_simple_self_signed(["localhost".to_string()]).expect("a sound name");
    std::fs::write(&certificate, issued.cert.pem()).expect("the folder is ours");
    std::fs::write(&key, issued.signing_key.serialize_pem()).expect("the folder is ours");
    let tls = format!("[tls]\ncertificates = [{certificate:?}]\nkeys = [{key:?}]\n");
    let server = Server::start(folder.path(), &[peer.address], if is_tls { &tls } else { "" });
    let direct = run("client.mjs", peer.address, transport, None).await;
    let told = run("client.mjs", server.address, transport, is_tls.then_some(&*certificate)).await;
    let by_tls = if is_tls { ", by TLS" } else { "" };
    println!("{kind} over {transport}{by_tls}: {} ms direct, {} ms through the proxy", direct["ms"], told["ms"]);
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
    check("faye", "websocket", false, PUBLISHED).await;
    check("faye-deflate", "websocket", true, PUBLISHED).await;
    check("faye", "websocket", true, PUBLISHED).await;
    check("faye", "long-polling", true, PUBLISHED).await;
    check("cometd", "long-polling", false, 0).await;
    check("cometd", "long-polling", true, 0).await;
}

/// A chat in these legs is recorded as the simulator issued it, and nothing of it twice.
async fn check_chat(legs: &'static str, websocket_deflate: bool) {
    let agent = AgentScript { hidden_every: 2, ..AgentScript::default() };
    let simulator =
        Simulator::start(Config { agent, websocket_deflate, ..Config::nodes(2) }).await.expect("free ports");
    let folder = folder();
    let server = Server::start(folder.path(), &simulator.addresses(), "");
    let told = run("chat.mjs", server.address, legs, None).await;
    let chat = told["id"].as_str().expect("a delivery names the chat");
    let used: Vec<&str> = told["used"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(used.join(","), legs);

    let account = simulator.account();
    let delivered = account.chat(chat).expect("the simulator has it").visible().filter(|event| event.delivered);
    let wanted: Vec<String> = delivered.map(|event| event.index.to_string()).collect();
    let given: Vec<String> = told["indices"].as_array().into_iter().flatten().map(Value::to_string).collect();
    assert_eq!(given, wanted, "{legs}");
    let mut archive = Archive::open(&server.database).await;
    let stored = format!("SELECT event_index FROM events WHERE chat_id = '{chat}' ORDER BY event_index");
    assert_eq!(archive.rows(&stored).await.concat(), wanted, "{legs}");
    assert_eq!(archive.value("SELECT COUNT(*) FROM event_variants").await, "0", "{legs}");
    eventually("the lazy facts", async || {
        let mut archive = Archive::open(&server.database).await;
        let holes = archive.rows("SELECT status, holes, next_position = covered_to FROM completeness").await;
        let customer = archive.value("SELECT value FROM chat_attributes WHERE name = 'emailAddress'").await;
        (holes == [["complete", "0", "1"]] && customer == "anna@example.com").then_some(())
    })
    .await;
    // A client that ends a session may let go of a long poll before its answer, and its last one may come behind the end:
    // these are rows of their own.
    let errors = "SELECT format, http_status, detail, operation, service FROM api_errors
        WHERE origin <> 'client' AND NOT (operation = '/meta/connect' AND detail = '402::Unknown client')";
    let errors = archive.rows(errors).await;
    assert_eq!(errors, [["bayeux", "NULL", "402::Unknown client", "sendMessage", "customer-support"]], "{legs}");
    assert_eq!(told["refused"], "402::Unknown client");
    assert!(!server.log().contains(told["key"].as_str().expect("a delivery has the key")), "{legs}");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_is_recorded_as_issued_whatever_it_goes_over() {
    check_chat("websocket", true).await;
    check_chat("websocket", false).await;
    check_chat("long-polling,websocket,long-polling,websocket", true).await;
}
