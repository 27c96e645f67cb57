//! Chats over CometD long polling, and a session that changes to WebSocket and back: what a client is delivered is
//! recorded, whatever else shares the envelope.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use gms_recorder::simulator::{AgentScript, Config, Simulator};
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Answer, Archive, Client, Origin, PATIENCE, Server, eventually, find, folder, json_answer};

const CHANNEL: &str = "/service/chatV2/customer-support";

/// A CometD client as the widgets have one: one for publishing, one for the long poll.
struct Session {
    publisher: Client,
    poller: Client,
    id: String,
    cookie: String,
    chat: Option<(String, String)>,
    messages: u64,
}

impl Session {
    async fn open(proxy: SocketAddr) -> Self {
        let (publisher, poller) = (Client::new(proxy), Client::new(proxy));
        let mut session = Self { publisher, poller, id: String::new(), cookie: String::new(), chat: None, messages: 0 };
        let hello =
            json!([{"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}]);
        let request = envelope(&hello, "");
        let reply = session.publisher.send(request).await.expect("an answer");
        session.cookie =
            reply.headers["set-cookie"].to_str().expect("text").split(';').next().expect("a cookie").into();
        session.id = reply.json()[0]["clientId"].as_str().expect("a session").into();
        let subscribe = json!([{"channel": "/meta/subscribe", "clientId": session.id, "subscription": CHANNEL}]);
        session.publish(subscribe).await;
        session
    }

    async fn publish(&mut self, messages: Value) -> Value {
        let reply = self.publisher.send(envelope(&messages, &self.cookie)).await.expect("an answer").json();
        self.note(&reply);
        reply
    }

    async fn say(&mut self, operation: &str, fields: Value) -> Value {
        let mut data = fields;
        data["operation"] = operation.into();
        if let Some((_, key)) = &self.chat {
            data["secureKey"] = key.as_str().into();
        }
        self.publish(json!([{"channel": CHANNEL, "clientId": self.id, "id": "7", "data": data}])).await
    }

    async fn poll(&mut self) {
        let connect = json!([{"channel": "/meta/connect", "clientId": self.id, "connectionType": "long-polling"}]);
        let reply = self.poller.send(envelope(&connect, &self.cookie)).await.expect("an answer").json();
        self.note(&reply);
    }

    fn note(&mut self, reply: &Value) {
        for delivery in reply.as_array().into_iter().flatten().filter(|message| message["channel"] == CHANNEL) {
            let data = &delivery["data"];
            self.messages += data["messages"].as_array().map_or(0, |messages| messages.len() as u64);
            if let (Some(id), Some(key)) = (data["chatId"].as_str(), data["secureKey"].as_str()) {
                self.chat = Some((id.into(), key.into()));
            }
        }
    }
}

fn envelope(messages: &Value, cookie: &str) -> Request<Full<Bytes>> {
    let request =
        Request::post("/genesys/cometd").header("host", "gms.example.com").header("content-type", "application/json");
    let request = if cookie.is_empty() { request } else { request.header("cookie", cookie) };
    request.body(Full::from(messages.to_string())).expect("a sound request")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_over_long_polling_is_recorded_as_the_simulator_issued_it() {
    let agent = AgentScript { hidden_every: 2, ..AgentScript::default() };
    let config = Config { agent, connect_hold: std::time::Duration::from_millis(200), ..Config::nodes(3) };
    let simulator = Simulator::start(config).await.expect("free ports");
    let folder = folder();
    let server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut session = Session::open(server.address).await;
    session.say("requestChat", json!({"nickname": "Anna", "emailAddress": "anna@example.com", "subject": "Hi"})).await;
    for _ in 0..20 {
        session.poll().await;
        if session.chat.is_some() {
            break;
        }
    }
    let (chat, key) = session.chat.clone().expect("a delivery names the chat");
    for n in 0..5 {
        session.say("sendMessage", json!({"message": format!("m{n}")})).await;
        session.poll().await;
    }
    // All of it once more, as after a reconnect: replayed, and stored once.
    session.say("requestNotifications", json!({"transcriptPosition": 0})).await;
    session.poll().await;
    session.say("disconnect", json!({})).await;
    for _ in 0..3 {
        session.poll().await;
    }
    let account = simulator.account();
    let issued = account.chat(&chat).expect("the simulator has it");
    let wanted: Vec<String> =
        issued.visible().filter(|event| event.delivered).map(|event| event.index.to_string()).collect();
    assert!(
        wanted.len() >= 10 && session.messages > wanted.len() as u64,
        "{} events, {} delivered",
        wanted.len(),
        session.messages
    );
    let mut archive = Archive::open(&server.database).await;
    let stored = archive
        .rows(&format!("SELECT event_index FROM events WHERE chat_id = '{chat}' ORDER BY event_index"))
        .await
        .concat();
    assert_eq!(stored, wanted);
    eventually("the lazy facts", async || {
        let mut archive = Archive::open(&server.database).await;
        let holes = archive.rows("SELECT status, holes, next_position = covered_to FROM completeness").await;
        let customer = archive.value("SELECT value FROM chat_attributes WHERE name = 'emailAddress'").await;
        (holes == [["complete", "0", "1"]] && customer == "anna@example.com").then_some(())
    })
    .await;
    assert_eq!(server.metric("gms_recorder_events_total{fate=\"variant\"}").await, Some(0.0));
    assert!(!server.log().contains(&key));
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_client_is_audited() {
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let folder = folder();
    let server = Server::start(folder.path(), &simulator.addresses(), "");
    let publish = json!({"channel": CHANNEL, "clientId": "nobody", "id": 1, "data": {"operation": "sendMessage", "message": "x"}});
    Client::new(server.address).send(envelope(&publish, "")).await.expect("an answer");
    let rows =
        Archive::open(&server.database).await.rows("SELECT format, detail, operation, service FROM api_errors").await;
    assert_eq!(rows, [["bayeux", "402::Unknown client", "sendMessage", "customer-support"]]);
    simulator.stop().await;
}

/// Says something on a WebSocket of the session, and reads until all of this came.
async fn over_websocket(proxy: SocketAddr, cookie: &str, say: &Value, until: &str) {
    let mut stream = TcpStream::connect(proxy).await.expect("it listens");
    let head = format!(
        "GET /genesys/cometd HTTP/1.1\r\nHost: gms.example.com\r\nCookie: {cookie}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let text = say.to_string();
    let length = u16::try_from(text.len()).expect("a short message").to_be_bytes();
    let masked = [&[0x81, 0xfe][..], &length, &[0; 4], text.as_bytes()].concat();
    stream.write_all(&[head.as_bytes(), &masked].concat()).await.expect("it reads");
    let mut came = Vec::new();
    while find(&came, until.as_bytes()).is_none() {
        let read = timeout(PATIENCE, stream.read_buf(&mut came)).await.expect("it comes").expect("it is open");
        assert!(read > 0, "{}", String::from_utf8_lossy(&came));
    }
    // The accept key of RFC 6455, section 1.3.
    assert!(find(&came, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").is_some(), "{}", String::from_utf8_lossy(&came));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_changes_to_websocket_and_back_covers_all_of_its_chat() {
    let agent = AgentScript { hidden_every: 1, ..AgentScript::default() };
    let config = Config { agent, connect_hold: std::time::Duration::from_millis(200), ..Config::nodes(3) };
    let simulator = Simulator::start(config).await.expect("free ports");
    let folder = folder();
    let server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut session = Session::open(server.address).await;
    session.say("requestChat", json!({"nickname": "Anna"})).await;
    for _ in 0..20 {
        session.poll().await;
        if session.chat.is_some() {
            break;
        }
    }
    let (chat, key) = session.chat.clone().expect("a delivery names the chat");
    for n in 0..3 {
        let data = json!({"operation": "sendMessage", "secureKey": key, "message": format!("over websocket {n}")});
        let say = json!([{"channel": CHANNEL, "clientId": session.id, "id": n.to_string(), "data": data}]);
        over_websocket(server.address, &session.cookie, &say, &format!("over websocket {n}")).await;
        session.say("sendMessage", json!({"message": format!("over long polling {n}")})).await;
        session.poll().await;
    }
    session.say("disconnect", json!({})).await;
    session.poll().await;
    let account = simulator.account();
    let issued = account.chat(&chat).expect("the simulator has it");
    let wanted: Vec<String> =
        issued.visible().filter(|event| event.delivered).map(|event| event.index.to_string()).collect();
    let mut archive = Archive::open(&server.database).await;
    let stored = archive.rows("SELECT event_index FROM events ORDER BY event_index").await.concat();
    assert_eq!(stored, wanted);
    eventually("the lazy facts", async || {
        let mut archive = Archive::open(&server.database).await;
        let holes = archive.rows("SELECT status, holes, hidden > 0 FROM completeness").await;
        (holes == [["complete", "0", "1"]]).then_some(())
    })
    .await;
    simulator.stop().await;
}

/// One event of chat A, as an answer to a poll.
fn delivery(index: u64) -> String {
    let data = json!({
        "statusCode": 0, "chatId": "A", "nextPosition": index + 1,
        "messages": [{"index": index, "type": "Message", "text": "t"}],
    });
    json!([{"channel": CHANNEL, "data": data}]).to_string()
}

/// Asks, and is gone before the answer.
async fn leave(server: &Server, node: &Origin, messages: &Value) {
    let mut stream = TcpStream::connect(server.address).await.expect("it listens");
    let body = messages.to_string();
    let head = format!(
        "POST /genesys/cometd HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.expect("it reads");
    eventually("the node has it", async || (node.received().len() == 2).then_some(())).await;
    stream.set_zero_linger().expect("it is open");
    drop(stream);
    let left = "gms_recorder_requests_total{route=\"cometd\",status=\"left\"}";
    eventually(left, async || (server.metric(left).await? == 1.0).then_some(())).await;
}

/// Of three polls the second one's answer is not read: what it may have held is not covered by what comes after it.
async fn check_unread(second: &'static str) {
    let polls = AtomicU64::new(0);
    let node = Origin::start(move |_| match polls.fetch_add(1, Ordering::Relaxed) {
        0 => Answer { bytes: json_answer(&delivery(1)), close: false },
        1 if second == "too large" => Answer { bytes: json_answer(&(delivery(3) + &" ".repeat(8_000))), close: false },
        1 if second == "left" => {
            std::thread::sleep(std::time::Duration::from_secs(1));
            Answer { bytes: json_answer(&delivery(3)), close: true }
        }
        1 => Answer { bytes: Vec::new(), close: true },
        _ => Answer { bytes: json_answer(&delivery(5)), close: false },
    });
    let folder = folder();
    let server = Server::start(folder.path(), &[node.address], "[recording]\nbody_max = \"4KiB\"\n");
    let connect = json!([{"channel": "/meta/connect", "clientId": "c", "connectionType": "long-polling"}]);
    let mut client = Client::new(server.address);
    for n in 0..3 {
        if n == 1 && second == "left" {
            leave(&server, &node, &connect).await;
        } else {
            let _ = client.send(envelope(&connect, "")).await; // what breaks off is no answer
        }
    }
    eventually(second, async || {
        let mut archive = Archive::open(&server.database).await;
        let stored = archive.rows("SELECT event_index FROM events ORDER BY event_index").await.concat();
        let uncovered = archive.rows("SELECT holes FROM completeness").await.concat();
        (stored == ["1", "5"] && uncovered == ["1"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_an_answer_that_was_not_read_does_not_cover_it() {
    check_unread("too large").await;
    check_unread("broken").await;
    check_unread("left").await;
}
