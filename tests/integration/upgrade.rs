//! The program is replaced while it serves: whoever talks through it does not notice.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use gms_recorder::simulator::{Config, Simulator};
use http::{Request, StatusCode};
use http_body_util::Full;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::evidence::sealed;
use crate::load::compare;
use crate::support::{
    Archive, Chat, Client, Origin, PATIENCE, Reply, Server, count, eventually, folder, get, json_answer,
};

/// SIGUSR2, until another process serves.
pub async fn upgrade(server: &Server) -> Pid {
    let before = server.serving().expect("the lock names it");
    kill_process(before, Signal::USR2).expect("it runs");
    eventually("another process serves", async || server.serving().filter(|pid| *pid != before)).await
}

/// What goes on meanwhile, and what came of it.
#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    chats: AtomicUsize,
    requests: AtomicUsize,
    polls: AtomicUsize,
    messages: AtomicUsize,
    farewells: AtomicUsize,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }
}

/// A customer over REST. Each request is sent once, and each must be answered as if nothing happened.
async fn talk(load: Arc<Load>, proxy: SocketAddr, n: usize) {
    let mut client = Client::new(proxy);
    let act = async |chat: &Chat, client: &mut Client, operation: &str, form: &str| {
        let reply = chat.act(client, operation, form).await.unwrap_or_else(|error| panic!("{operation}: {error}"));
        assert_eq!((reply.status, &reply.json()["statusCode"]), (StatusCode::OK, &json!(0)), "{operation} {reply:?}");
        load.requests.fetch_add(1, Ordering::Relaxed);
        reply.json()
    };
    for round in 0.. {
        if !load.goes_on() {
            return;
        }
        let opened = client.post("/genesys/2/chat/customer-support", &format!("nickname=Customer{n}")).await;
        let opened = opened.expect("a chat is opened").json();
        let text = |name: &str| opened[name].as_str().unwrap_or_else(|| panic!("{name} in {opened}")).to_string();
        let chat = Chat::known(text("chatId"), text("secureKey"));
        let mut position = 1;
        for m in 0..12 {
            act(&chat, &mut client, "send", &format!("message=m{n}-{round}-{m}")).await;
            let answer = act(&chat, &mut client, "refresh", &format!("transcriptPosition={position}")).await;
            position = answer["nextPosition"].as_i64().expect("statusCode 0 has it");
            // At rest for a while, as widgets are: a connection must not be closed when its client is about to ask.
            tokio::time::sleep(Duration::from_millis((m * 7) % 40)).await;
        }
        act(&chat, &mut client, "disconnect", "").await;
        act(&chat, &mut client, "refresh", "transcriptPosition=1").await;
        load.chats.fetch_add(1, Ordering::Relaxed);
    }
}

async fn cometd(client: &mut Client, cookies: &str, body: &Value) -> Reply {
    let request = Request::post("/genesys/cometd").header("host", "gms.example.com").header("cookie", cookies);
    let request = request.header("content-type", "application/json");
    let body = Full::from(Bytes::from(body.to_string()));
    client.send(request.body(body).expect("a sound request")).await.expect("a long poll is answered")
}

/// A CometD session over long polling. Its node alone knows it: asked another one, it would be unknown.
struct Session {
    client: Client,
    id: Value,
    cookies: String,
}

impl Session {
    async fn begin(proxy: SocketAddr) -> Self {
        let mut client = Client::new(proxy);
        let hello =
            json!([{"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}]);
        let reply = cometd(&mut client, "", &hello).await;
        let cookies =
            reply.headers.get_all("set-cookie").iter().filter_map(|cookie| cookie.to_str().ok()?.split(';').next());
        Self { id: reply.json()[0]["clientId"].clone(), cookies: cookies.collect::<Vec<_>>().join("; "), client }
    }

    async fn poll(mut self, load: Arc<Load>) {
        while load.goes_on() {
            let connect = json!([{"channel": "/meta/connect", "clientId": self.id, "connectionType": "long-polling"}]);
            let reply = cometd(&mut self.client, &self.cookies, &connect).await;
            assert_eq!(reply.json()[0]["successful"], true, "{reply:?}");
            load.polls.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// CometD over a WebSocket, made anew when it is told to go.
async fn chatter(load: Arc<Load>, proxy: SocketAddr) {
    while load.goes_on() {
        let mut stream = TcpStream::connect(proxy).await.expect("it listens");
        let key = BASE64_STANDARD.encode([7; 16]);
        let hello = format!(
            "GET /genesys/cometd HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        );
        stream.write_all(hello.as_bytes()).await.expect("it reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a handshake is answered"));
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let mut message =
            json!([{"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]}]);
        loop {
            if stream.write_all(&masked(&message.to_string())).await.is_err() {
                break;
            }
            match frame(&mut stream).await {
                (0x81, payload) => {
                    let reply: Value = serde_json::from_slice(&payload).expect("JSON");
                    assert_eq!(reply[0]["successful"], true, "{reply}");
                    load.messages.fetch_add(1, Ordering::Relaxed);
                    let id = message[0].get("clientId").cloned().unwrap_or_else(|| reply[0]["clientId"].clone());
                    message = json!([{"channel": "/meta/connect", "clientId": id, "connectionType": "websocket",
                                      "advice": {"timeout": 0}}]);
                }
                (first, payload) => {
                    assert_eq!((first, &payload[..]), (0x88, &1001_u16.to_be_bytes()[..]), "Close, since it goes away");
                    load.farewells.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
            if !load.goes_on() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }
}

/// A client's text frame, under a mask of zero.
fn masked(payload: &str) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("it is short").to_be_bytes();
    [&[0x81, 0xfe][..], &length, &[0; 4], payload.as_bytes()].concat()
}

async fn frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let read = async {
        let (first, length) = (stream.read_u8().await?, stream.read_u8().await?);
        let length = if length == 126 { usize::from(stream.read_u16().await?) } else { length.into() };
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        std::io::Result::Ok((first, payload))
    };
    timeout(PATIENCE, read).await.expect("a frame comes").expect("no WebSocket breaks off without a Close")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_under_load_fails_no_request_and_loses_no_event() {
    let upgrades = count("TEST_UPGRADES", 3);
    let nodes = Config { connect_hold: Duration::from_millis(400), ..Config::nodes(2) };
    let simulator = Simulator::start(nodes).await.expect("free ports");
    let folder = folder();
    let settings = "[proxy]\nthreads = 2\nupgrade_drain_max = \"3s\"\n[recording]\ncommit_wait_max = \"2s\"\n";
    let mut server = Server::start_copy(folder.path(), &simulator.addresses(), settings);

    // Sessions of a node that takes no new ones: who does not know of them leads them to the other one, and who forgets
    // that it is drained leads others there.
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(Session::begin(server.address).await);
    }
    let load = Arc::new(Load::default());
    let node = format!("gms-{}", sessions_node(&simulator) + 1);
    let config = server.config.to_str().expect("UTF-8");
    let (code, _, errors) = crate::support::run(&["node", "drain", &node, "--config", config]);
    assert_eq!(code, 0, "{errors}");

    let mut going_on: Vec<JoinHandle<()>> =
        sessions.into_iter().map(|session| tokio::spawn(session.poll(load.clone()))).collect();
    going_on.extend((0..6).map(|n| tokio::spawn(talk(load.clone(), server.address, n))));
    going_on.extend((0..3).map(|_| tokio::spawn(chatter(load.clone(), server.address))));
    let mut processes = vec![server.serving().expect("the lock names it")];
    for _ in 0..upgrades {
        tokio::time::sleep(Duration::from_millis(700)).await;
        processes.push(upgrade(&server).await);
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    load.is_over.store(true, Ordering::Relaxed);
    for task in going_on {
        task.await.expect("no request fails");
    }
    let (_, list, _) = crate::support::run(&["node", "list", "--format", "json", "--config", config]);
    let drained = list.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let drained: Vec<Value> = drained.filter(|line| line["drained"] == true).map(|line| line["node"].clone()).collect();
    assert_eq!(drained, [node.as_str()], "a successor knows it: {list}");

    let last = processes.pop().expect("there is one");
    eventually("the predecessors end", async || {
        let _ = server.child().try_wait();
        processes.iter().all(|pid| !crate::support::runs(*pid, &server.program)).then_some(())
    })
    .await;
    assert!(server.child().wait().expect("it is our child").success());
    kill_process(last, Signal::TERM).expect("it runs");
    eventually("the last one ends", async || (!crate::support::runs(last, &server.program)).then_some(())).await;

    let mut archive = Archive::open(&server.database).await;
    compare(&simulator, load.chats.load(Ordering::Relaxed), &mut archive).await;
    let runs = archive.rows("SELECT count(*), sum(clean), count(stopped_at) FROM runs").await;
    let all = (upgrades + 1).to_string();
    assert_eq!(runs, [[all.clone(), all.clone(), all]], "each run has its end");
    for table in ["event_variants", "findings", "outages"] {
        assert_eq!(archive.value(&format!("SELECT count(*) FROM {table}")).await, "0", "{table}");
    }
    assert_eq!(archive.value("SELECT count(*) FROM api_errors WHERE origin <> 'client'").await, "0");
    assert_eq!(archive.value("PRAGMA integrity_check").await, "ok");
    sealed(&server.database);
    let numbers = [&load.chats, &load.requests, &load.polls, &load.messages, &load.farewells];
    let [chats, requests, polls, messages, farewells] = numbers.map(|number| number.load(Ordering::Relaxed));
    println!(
        "{upgrades} upgrades: {requests} REST requests of {chats} chats, {polls} long polls, {messages} messages over \
         WebSockets and {farewells} Close 1001; 0 failed"
    );
    assert!(requests > 30 * upgrades && polls > 2 * upgrades && farewells > 0, "hardly any load");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_goes_to_the_successor_too() {
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let folder = folder();
    let settings = "[proxy]\nupgrade_drain_max = \"1s\"\n[recording]\nwhen_unavailable = \"spool\"\n";
    let server = Server::start_copy(folder.path(), &simulator.addresses(), settings);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    for n in 0..2 {
        upgrade(&server).await;
        eventually("the spool is its own", async || {
            let locks = std::fs::read_to_string("/proc/locks").expect("Linux says so");
            let inode = std::fs::metadata(folder.path().join("transcripts.db-spool")).ok()?.ino();
            let pid = server.serving()?.as_raw_nonzero();
            locks
                .lines()
                .any(|line| line.contains(&format!(" {pid} ")) && line.contains(&format!(":{inode} ")))
                .then_some(())
        })
        .await;
        std::fs::rename(&server.database, folder.path().join("aside.db")).expect("the folder is ours");
        eventually("noticed", async || (server.metric("gms_recorder_recording_up").await? == 0.0).then_some(())).await;
        // On a new connection: the one of before is the predecessor's.
        let mut client = Client::new(server.address);
        chat.insist(&mut client, "send", &format!("message=kept{n}&transcriptPosition=1")).await;
        let spooled = std::fs::metadata(folder.path().join("transcripts.db-spool")).expect("it is there").len();
        assert!(spooled > 32, "more than its head: {spooled}");
        std::fs::rename(folder.path().join("aside.db"), &server.database).expect("the folder is ours");
        eventually("written", async || {
            let sql = format!("SELECT count(*) FROM events WHERE text = 'kept{n}'");
            (server.metric("gms_recorder_recording_up").await? == 1.0).then_some(())?;
            (Archive::open(&server.database).await.value(&sql).await == "1").then_some(())
        })
        .await;
    }
    simulator.stop().await;
}

/// Which node has the CometD sessions: it alone was asked for something.
fn sessions_node(simulator: &Simulator) -> usize {
    let requests = simulator.account().requests;
    let was_asked =
        |node: &usize| requests.values().any(|of_nodes| of_nodes.get(*node).is_some_and(|count| *count > 0));
    (0..2).find(was_asked).expect("one was asked")
}

/// The program is another one from now on.
fn replace(server: &Server, by: &str) {
    let new = server.folder.join("new");
    std::fs::write(&new, by).expect("the folder is ours");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    std::fs::rename(&new, &server.program).expect("the same folder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_does_not_come_to_serve_changes_nothing() {
    let (node, folder) = (Origin::canned(json_answer("{}")), folder());
    let server = Server::start_copy(folder.path(), &[node.address], "[proxy]\nupgrade_start_max = \"2s\"\n");
    let process = server.serving().expect("the lock names it");
    let ask = async || get(server.address, "/genesys/1").await.expect("an answer").0;
    let mut failed = 0.0;
    let mut fails = async |why: &str| {
        failed += 1.0;
        eventually(why, async || {
            assert_eq!(ask().await, StatusCode::OK, "{why}");
            (server.metric("gms_recorder_upgrades_failed_total").await? == failed).then_some(())
        })
        .await;
        assert_eq!(server.serving(), Some(process), "{why}");
        assert!(server.log().contains(why), "{why}");
    };
    let ask_for_upgrade = || kill_process(process, Signal::USR2).expect("it runs");

    let program = std::fs::read(&server.program).expect("it is there");
    replace(&server, "#!/bin/sh\nexit 3\n");
    ask_for_upgrade();
    fails("it ended with exit status: 3").await;
    replace(&server, "#!/bin/sh\nexec sleep 60\n");
    ask_for_upgrade();
    eventually("it starts", async || {
        (server.log().matches("upgrading: a successor starts").count() == 2).then_some(())
    })
    .await;
    ask_for_upgrade();
    eventually("a second one is not begun", async || {
        server.log().contains("an upgrade is under way already").then_some(())
    })
    .await;
    fails("it did not serve within proxy.upgrade_start_max = 2s").await;
    replace(&server, "no program\n");
    ask_for_upgrade();
    fails("cannot be started").await;
    std::fs::remove_file(&server.program).expect("it is there");
    ask_for_upgrade();
    fails("No such file or directory").await;

    std::fs::write(folder.path().join("again"), &program).expect("there is room");
    std::fs::set_permissions(folder.path().join("again"), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    std::fs::rename(folder.path().join("again"), &server.program).expect("the same folder");
    let config = std::fs::read_to_string(&server.config).expect("it is there");
    std::fs::write(&server.config, config.replace("[proxy]", "[proxy]\nlisen = 1")).expect("the folder is ours");
    ask_for_upgrade();
    fails("it ended with exit status: 2").await;
    std::fs::write(&server.config, &config).expect("the folder is ours");
    for _ in 0..3 {
        ask_for_upgrade();
        let children = format!("/proc/{0}/task/{0}/children", process.as_raw_nonzero());
        let child = eventually("a successor", async || {
            let children = std::fs::read_to_string(&children).ok()?;
            Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
        })
        .await;
        kill_process(child, Signal::KILL).expect("it has just begun");
        fails("it ended with signal: 9").await;
    }
    // And what did not come to serve has left no trace in the way of one that does.
    let successor = upgrade(&server).await;
    assert_eq!((ask().await, successor == process), (StatusCode::OK, false));
    let held = Command::new(&server.program).args(["serve", "--config"]).arg(&server.config).output().expect("it runs");
    let words = String::from_utf8_lossy(&held.stderr).into_owned();
    assert!(!held.status.success() && words.contains("another gms-recorder serves"), "{words}");
}
