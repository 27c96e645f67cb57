//! WebSockets frame by frame, between a client and a node that say exactly what they are told: what is held, what passes
//! unread, what ends, and what a connection at rest costs.

use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::support::{Archive, PATIENCE, Server, count, eventually, folder};

/// Long enough for a frame that is not held to arrive.
const SOON: Duration = Duration::from_millis(300);
const UPGRADE: &[u8] = b"GET /genesys/cometd HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// A WebSocket through the proxy, both ends of it.
struct Joined {
    client: TcpStream,
    node: TcpStream,
}

impl Joined {
    async fn new(server: &Server, nodes: &TcpListener) -> Self {
        let mut client = TcpStream::connect(server.address).await.expect("it listens");
        client.write_all(UPGRADE).await.expect("it reads");
        let (mut node, _) = nodes.accept().await.expect("the proxy comes");
        head(&mut node).await;
        node.write_all(SWITCHED).await.expect("it reads");
        assert!(head(&mut client).await.starts_with("HTTP/1.1 101"));
        Self { client, node }
    }

    async fn node_says(&mut self, bytes: &[u8]) {
        self.node.write_all(bytes).await.expect("it reads");
    }

    /// The client receives exactly these bytes next.
    async fn client_has(&mut self, wanted: &[u8]) {
        let mut bytes = vec![0; wanted.len()];
        let read = timeout(PATIENCE, self.client.read_exact(&mut bytes)).await;
        read.expect("it comes").expect("it is not the end");
        assert!(bytes == wanted, "{} for {}", String::from_utf8_lossy(&bytes), String::from_utf8_lossy(wanted));
    }

    /// Nothing comes to the client for a while.
    async fn client_waits(&mut self) {
        assert!(timeout(SOON, self.client.read_u8()).await.is_err(), "something came to the client");
    }

    /// The client is told to go by this code, and nothing more.
    async fn client_must_go(&mut self, code: u16) {
        let [high, low] = code.to_be_bytes();
        self.client_has(&[0x88, 2, high, low]).await;
        let mut rest = Vec::new();
        timeout(PATIENCE, self.client.read_to_end(&mut rest)).await.expect("it ends").expect("without a reset");
        assert!(rest.is_empty());
    }
}

/// Reads the head of an HTTP message, byte by byte: what follows is frames.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.expect("it comes").expect("it is not the end"));
    }
    String::from_utf8(head).expect("a head is text")
}

/// A frame without a mask, as a node sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = match u8::try_from(payload.len()) {
        Ok(length @ ..=125) => vec![length],
        _ => [&[126][..], &(payload.len() as u16).to_be_bytes()].concat(),
    };
    [&[first][..], &length, payload].concat()
}

fn text(payload: &str) -> Vec<u8> {
    frame(0x81, payload.as_bytes())
}

/// A delivery of one event.
fn delivery(index: u64) -> Vec<u8> {
    text(&format!(
        r#"[{{"channel":"/service/chatV2/s","data":{{"statusCode":0,"chatId":"A","nextPosition":{},"messages":[{{"index":{index},"type":"Message","text":"t"}}]}}}}]"#,
        index + 1
    ))
}

/// A masked frame, as a client sends it. The mask is zero, so that it can be read here.
fn masked(payload: &str) -> Vec<u8> {
    let mut bytes = text(payload);
    let head = bytes.len() - payload.len();
    bytes[1] |= 0x80;
    bytes.splice(head..head, [0; 4]);
    bytes
}

async fn nodes() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports")
}

fn serve(folder: &tempfile::TempDir, nodes: &TcpListener, settings: &str) -> Server {
    Server::start(folder.path(), &[nodes.local_addr().expect("it is bound")], settings)
}

/// Locks the archive until it is dropped.
async fn lock(server: &Server) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(&server.database).busy_timeout(PATIENCE);
    let mut other = options.disable_statement_logging().connect().await.expect("there is an archive");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("the lock is free between commits");
    other
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_news_waits_for_its_commit_and_nothing_else_does() {
    let (folder, nodes) = (folder(), nodes().await);
    let server = serve(&folder, &nodes, "[recording]\ncommit_wait_max = \"20s\"\n");
    let mut joined = Joined::new(&server, &nodes).await;
    joined.node_says(&delivery(1)).await;
    joined.client_has(&delivery(1)).await;
    let locked = lock(&server).await;
    let (old, ping, reply) =
        (delivery(1), frame(0x89, b"p"), text(r#"[{"channel":"/meta/connect","successful":true}]"#));
    let news = delivery(2);
    joined.node_says(&[&reply[..], &ping, &old, &news, &ping, &reply].concat()).await;
    joined.client_has(&[&reply[..], &ping, &old].concat()).await;
    joined.client_waits().await;
    let said = masked(r#"[{"channel":"/meta/connect","clientId":"c"}]"#);
    joined.client.write_all(&said).await.expect("it reads");
    let mut came = vec![0; said.len()];
    timeout(PATIENCE, joined.node.read_exact(&mut came)).await.expect("the other way is free").expect("not the end");
    assert!(came == said);
    joined.client_waits().await;
    drop(locked);
    joined.client_has(&[&news[..], &ping, &reply].concat()).await;
    let mut archive = Archive::open(&server.database).await;
    assert_eq!(archive.rows("SELECT event_index FROM events").await.concat(), ["1", "2"]);
}

/// What happens to an event while the archive takes nothing.
async fn check_locked(settings: &str) -> (Joined, Server, tempfile::TempDir) {
    let (folder, nodes) = (folder(), nodes().await);
    let server = serve(&folder, &nodes, &format!("[recording]\ncommit_wait_max = \"200ms\"\n{settings}"));
    let mut joined = Joined::new(&server, &nodes).await;
    let locked = lock(&server).await;
    let ping = frame(0x89, b"p");
    joined.node_says(&[&ping[..], &delivery(1)].concat()).await;
    joined.client_has(&ping).await;
    if settings.is_empty() {
        joined.client_has(&delivery(1)).await;
    } else {
        joined.client_must_go(1013).await;
    }
    drop(locked);
    eventually("it is written when it can be", async || {
        (Archive::open(&server.database).await.value("SELECT COUNT(*) FROM events").await == "1").then_some(())
    })
    .await;
    (joined, server, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_recorded_passes_under_pass_and_ends_the_connection_under_refuse() {
    let (mut joined, server, _folder) = check_locked("").await;
    assert_eq!(server.metric("gms_recorder_events_delivered_early_total").await, Some(1.0));
    joined.node_says(&delivery(2)).await;
    joined.client_has(&delivery(2)).await;
    let (_joined, server, _folder) = check_locked("when_unavailable = \"refuse\"\n").await;
    let mut archive = Archive::open(&server.database).await;
    let rows = eventually("the row of the audit", async || {
        let rows = archive.rows("SELECT origin, http_status, advice FROM api_errors").await;
        (!rows.is_empty()).then_some(rows)
    });
    assert_eq!(rows.await, [["proxy", "NULL", "forwarded and executed by the node"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_refuse_nothing_but_a_disconnect_goes_to_a_node_while_recording_is_down() {
    let (folder, nodes) = (folder(), nodes().await);
    let server = serve(&folder, &nodes, "[recording]\ncommit_wait_max = \"200ms\"\nwhen_unavailable = \"refuse\"\n");
    let mut told = Joined::new(&server, &nodes).await;
    let mut refused = Joined::new(&server, &nodes).await;
    let mut leaving = Joined::new(&server, &nodes).await;
    let _locked = lock(&server).await;
    told.node_says(&delivery(1)).await;
    told.client_must_go(1013).await;
    let down = async || (server.metric("gms_recorder_recording_up").await? == 0.0).then_some(());
    eventually("it is known to be down", down).await;
    let publish = |operation: &str| {
        masked(&format!(r#"{{"channel":"/service/chatV2/s","clientId":"c","data":{{"operation":"{operation}"}}}}"#))
    };
    refused.client.write_all(&publish("sendMessage")).await.expect("it reads");
    refused.client_must_go(1013).await;
    assert_eq!(refused.node.read(&mut [0; 9]).await.unwrap_or(0), 0, "nothing, or a reset");
    leaving.client.write_all(&publish("disconnect")).await.expect("it reads");
    let mut came = vec![0; publish("disconnect").len()];
    timeout(PATIENCE, leaving.node.read_exact(&mut came)).await.expect("it comes").expect("it is not the end");
    assert!(came == publish("disconnect"));
}

/// What the node says passes unread, with a finding of this kind; events that follow are recorded or not.
async fn check_unread(unread: &[u8], kind: &str, events: &[&str], holes: &str) {
    let settings = "[recording]\nbody_max = \"4KiB\"\n";
    for (settings, passes) in
        [(settings.to_owned(), true), (format!("{settings}when_unavailable = \"refuse\"\n"), false)]
    {
        let (folder, nodes) = (folder(), nodes().await);
        let server = serve(&folder, &nodes, &settings);
        let mut joined = Joined::new(&server, &nodes).await;
        joined.client.write_all(&masked(r#"[{"channel":"/meta/connect","clientId":"c"}]"#)).await.expect("it reads");
        joined.node.read_exact(&mut [0; 40]).await.expect("the client said something");
        let all = [&delivery(1)[..], unread, &delivery(5)].concat();
        joined.node_says(&all).await;
        if !passes {
            joined.client_has(&delivery(1)).await;
            joined.client_must_go(1011).await;
            continue;
        }
        joined.client_has(&all).await;
        eventually("what was read is written, and what was not is told", async || {
            let mut archive = Archive::open(&server.database).await;
            let stored = archive.rows("SELECT event_index FROM events").await.concat();
            let found = archive.rows("SELECT kind FROM findings").await.concat();
            let uncovered = archive.value("SELECT holes FROM completeness").await;
            (stored == events && found == [kind] && uncovered == holes).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_passes_with_a_finding_under_pass() {
    let long = vec![b' '; 5_000];
    check_unread(&frame(0x81, &long), "too_large", &["1", "5"], "1").await;
    check_unread(&[frame(0x01, &long[..4_000]), frame(0x80, &long[..1_000])].concat(), "too_large", &["1", "5"], "1")
        .await;
    check_unread(&frame(0x83, b"?"), "undecodable", &["1"], "0").await;
    check_unread(&frame(0xc1, b"deflated?"), "undecodable", &["1"], "0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_does_not_come_whole_is_let_go() {
    let (folder, nodes) = (folder(), nodes().await);
    let server = serve(&folder, &nodes, "");
    let mut joined = Joined::new(&server, &nodes).await;
    let start = [frame(0x01, b"["), frame(0x89, b"p")].concat();
    joined.node_says(&start).await;
    joined.client_waits().await;
    joined.client_has(&start).await;
    let rest = [&frame(0x80, b"]")[..], &delivery(1)].concat();
    joined.node_says(&rest).await;
    joined.client_has(&rest).await;
    let mut archive = Archive::open(&server.database).await;
    assert_eq!(archive.value("SELECT event_index FROM events").await, "1");
    let found = archive.value("SELECT detail FROM findings").await;
    assert!(found.contains("took too long"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_when_its_sides_do_or_nothing_moves() {
    let (folder, nodes) = (folder(), nodes().await);
    let server = serve(&folder, &nodes, "[proxy]\nwebsocket_idle_timeout = \"1s\"\n");
    // The client has said all, the node has not.
    let mut joined = Joined::new(&server, &nodes).await;
    joined.client.shutdown().await.expect("it is open");
    assert_eq!(joined.node.read(&mut [0; 9]).await.expect("an end"), 0);
    joined.node_says(&delivery(1)).await;
    joined.client_has(&delivery(1)).await;
    drop(joined.node);
    assert_eq!(joined.client.read(&mut [0; 9]).await.expect("an end"), 0);
    // Nothing moves, between two frames and within one.
    let mut joined = Joined::new(&server, &nodes).await;
    let began = Instant::now();
    joined.node_says(&delivery(1)[..20]).await;
    joined.client_must_go(1001).await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    let mut joined = Joined::new(&server, &nodes).await;
    let part = [&frame(0x82, &[0; 100])[..50]].concat();
    joined.node_says(&part).await;
    joined.client_has(&part).await;
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, joined.client.read_to_end(&mut rest)).await.expect("it ends");
    assert!(rest.is_empty(), "no Close frame within another frame");
    eventually("all are over", async || (server.metric("gms_recorder_websockets ").await? == 0.0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_stop_a_connection_goes_on_for_a_while_and_its_client_is_told() {
    let (folder, nodes) = (folder(), nodes().await);
    let mut server = serve(&folder, &nodes, "[proxy]\ndrain_max = \"3s\"\n");
    let mut joined = Joined::new(&server, &nodes).await;
    let stopping = tokio::task::spawn_blocking(move || (server.stop(), server));
    tokio::time::sleep(SOON).await;
    joined.node_says(&delivery(1)).await;
    joined.client_has(&delivery(1)).await;
    joined.client_must_go(1001).await;
    drop(joined);
    let (status, server) = stopping.await.expect("it stops");
    assert!(status.success());
    assert_eq!(Archive::open(&server.database).await.value("SELECT COUNT(*) FROM events").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_slows_its_node() {
    const PIECE: usize = 60_000;
    let (folder, nodes) = (folder(), nodes().await);
    let server = serve(&folder, &nodes, "");
    let mut joined = Joined::new(&server, &nodes).await;
    let piece = frame(0x82, &[7; PIECE]);
    let mut written = 0;
    while let Ok(wrote) = timeout(SOON, joined.node.write(&piece[written % piece.len()..])).await {
        written += wrote.expect("it is open");
        assert!(written < 100 << 20, "nothing slows the node");
    }
    assert!(server.resident_kib() < 64 << 10, "{} KiB", server.resident_kib());
    drop(joined.node);
    let mut came = Vec::new();
    timeout(PATIENCE, joined.client.read_to_end(&mut came)).await.expect("it ends").expect("without a reset");
    assert_eq!(came.len(), written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_at_rest_costs_little() {
    let open = count("TEST_WEBSOCKETS", 300);
    let (folder, nodes) = (folder(), nodes().await);
    let server = serve(&folder, &nodes, "[proxy]\nnode_connections_max = 20000\n");
    let mut all = Vec::new();
    let mut before = 0;
    for n in 0..open + 100 {
        if n == 100 {
            before = server.resident_kib(); // what the first ones take is there once
        }
        let mut joined = Joined::new(&server, &nodes).await;
        let said =
            masked(&format!(r#"[{{"channel":"/service/chatV2/s","clientId":"c{n}","data":{{"operation":"x"}}}}]"#));
        joined.client.write_all(&said).await.expect("it reads");
        joined.node.read_exact(&mut vec![0; said.len()]).await.expect("the client said something");
        joined.node_says(&delivery(1)).await;
        joined.client_has(&delivery(1)).await;
        all.push(joined);
    }
    let each = (server.resident_kib().saturating_sub(before) << 10) as usize / open;
    println!("{open} WebSockets at rest: {each} bytes each");
    assert!(each <= 16 << 10, "{each} bytes each");
}
