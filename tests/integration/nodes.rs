//! A cluster of nodes behind one address: nodes die, hang, are drained and return while chats go on; connections are
//! bounded; sessions keep to their node through any proxy.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gms_recorder::simulator::{AgentScript, Config, Simulator};
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::load::compare;
use crate::support::{
    Answer, Archive, Chat, Client, Origin, Reply, Server, count, eventually, find, folder, get, json_answer, run,
};

/// Quick enough for a test, and a hung node is found by its health check well before most requests meet it.
const WATCHED: &str = "[proxy]\nchat_timeout = \"1s\"\nnode_retry_after = \"100ms\"\n[nodes]\n\
    health_path = \"/genesys/1/admin/node/status\"\nhealth_text = \"ONLINE\"\nhealth_interval = \"100ms\"\n\
    health_timeout = \"200ms\"\nhealth_failures = 2\nslow_start = \"300ms\"\npassed_over_max = \"1s\"\n";

async fn is_up(server: &Server, node: usize, up: bool) {
    let line = format!("gms_recorder_node_up{{node=\"gms-{}\"}}", node + 1);
    let wanted = if up { 1.0 } else { 0.0 };
    eventually(&format!("{line} is {wanted}"), async || (server.metric(&line).await? == wanted).then_some(())).await;
}

fn command(server: &Server, action: &[&str]) -> (i32, String, String) {
    let database = server.database.to_str().expect("a path of ours is text");
    run(&[&["node"], action, &["--database", database]].concat())
}

/// Requests that a node was sent on chat routes.
fn chat_requests(simulator: &Simulator, node: usize) -> u64 {
    let account = simulator.account();
    ["requestChat", "send", "refresh", "disconnect"]
        .iter()
        .map(|name| account.requests.get(*name).map_or(0, |by| by[node]))
        .sum()
}

/// A customer who writes and reads until told to stop, and leaves.
async fn talk(proxy: std::net::SocketAddr, n: usize, stop: Arc<AtomicBool>) {
    let mut client = Client::new(proxy);
    let chat = Chat::open(&mut client, &format!("nickname=Customer{n}&subject=Test")).await;
    let (mut position, mut m) = (1, 0);
    while !stop.load(Ordering::Relaxed) {
        // A send whose answer was lost is not repeated here: that would be another message.
        let _ = chat.act(&mut client, "send", &format!("message=m{n}-{m}")).await;
        let answer = chat.insist(&mut client, "refresh", &format!("transcriptPosition={position}")).await;
        position = answer["nextPosition"].as_i64().expect("statusCode 0 has it");
        m += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    chat.insist(&mut client, "disconnect", "").await;
    chat.insist(&mut client, "refresh", "transcriptPosition=1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_in_turn_dies_hangs_is_drained_and_returns_while_chats_go_on() {
    let chats = count("TEST_NODES_CHATS", 24);
    let agent = AgentScript { rejoins_every: 5, hidden_every: 4, ..AgentScript::default() };
    // A chat that is refused twice by nodes that died must still be readable after its end.
    let config = Config { agent, ended_refreshes: 5, ..Config::nodes(3) };
    let simulator = Simulator::start(config).await.expect("free ports");
    let folder = folder();
    let mut server = Server::start(folder.path(), &simulator.addresses(), WATCHED);
    let stop = Arc::new(AtomicBool::new(false));
    let talks: Vec<_> = (0..chats).map(|n| tokio::spawn(talk(server.address, n, stop.clone()))).collect();
    eventually("all nodes at work", async || (0..3).all(|node| chat_requests(&simulator, node) > 0).then_some(()))
        .await;

    for node in 0..3 {
        simulator.stop_node(node).await;
        is_up(&server, node, false).await;
        simulator.start_node(node).await.expect("its port is still free");
        is_up(&server, node, true).await;

        simulator.hang_node(node, true);
        is_up(&server, node, false).await;
        let ready = get(server.admin, "/ready").await.expect("it runs");
        assert_eq!(ready.0, StatusCode::OK, "two are well: {}", ready.1);
        assert!(ready.1.contains(&format!("node gms-{} is ", node + 1)), "{}", ready.1);
        simulator.hang_node(node, false);
        is_up(&server, node, true).await;

        drain(&server, &simulator, node).await;
    }
    stop.store(true, Ordering::Relaxed);
    for talk in talks {
        talk.await.expect("no chat fails");
    }
    eventually("everything written", async || {
        (server.metric("gms_recorder_events_in_flight").await? == 0.0).then_some(())
    })
    .await;
    assert!(server.stop().success());
    compare(&simulator, chats, &mut Archive::open(&server.database).await).await;
    simulator.stop().await;
}

/// What is wanting here is no node's fault: they were not asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_check_that_lacks_descriptors_says_nothing_of_a_node() {
    let (simulator, folder) = (Simulator::start(Config::nodes(2)).await.expect("free ports"), folder());
    let server = Server::start(folder.path(), &simulator.addresses(), WATCHED);
    let checks = async |outcome: &str| {
        let of = |n: usize| format!("gms_recorder_node_health_checks_total{{node=\"gms-{n}\",outcome=\"{outcome}\"}}");
        Some(server.metric(&of(1)).await? + server.metric(&of(2)).await?)
    };
    eventually("they are well", async || (checks("passed").await? >= 4.0).then_some(())).await;
    server.limit_files(1);
    eventually("no connection can be made", async || {
        server.log().contains("no connection to a node can be made here").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(600)).await; // three times what passes a node over
    server.limit_files(1024);
    let before = eventually("it can be asked again", async || checks("passed").await).await;
    eventually("they are asked again", async || (checks("passed").await? >= before + 4.0).then_some(())).await;
    assert_eq!(checks("failed").await, Some(0.0));
    let log = server.log();
    assert!(!log.contains("fails its health check") && !log.contains("does not take connections"), "{log}");
    simulator.stop().await;
}

/// A drained node is left alone by REST chats, while the others serve them; restored, it serves again.
async fn drain(server: &Server, simulator: &Simulator, node: usize) {
    let name = format!("gms-{}", node + 1);
    let (code, said, errors) = command(server, &["drain", &name]);
    assert!(code == 0 && said.contains("drained"), "{said}{errors}");
    let mut before = u64::MAX;
    eventually("nothing goes on there", async || {
        let sent = std::mem::replace(&mut before, chat_requests(simulator, node));
        let (_, said, _) = command(server, &["list", "--format", "json"]);
        let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let found = lines.into_iter().find(|line| line["node"] == name.as_str()).expect("it is listed");
        assert_eq!(found["drained"], true);
        (found["exchanges"] == 0 && before == sent).then_some(())
    })
    .await;
    let others: u64 = (0..3).filter(|other| *other != node).map(|other| chat_requests(simulator, other)).sum();
    eventually("chats go on elsewhere", async || {
        let now: u64 = (0..3).filter(|other| *other != node).map(|other| chat_requests(simulator, other)).sum();
        (now > others + 50).then_some(())
    })
    .await;
    assert_eq!(chat_requests(simulator, node), before, "{name} is drained");
    let (code, said, errors) = command(server, &["restore", &name]);
    assert!(code == 0 && !said.contains("drained"), "{said}{errors}");
    eventually("chats come back", async || (chat_requests(simulator, node) > before).then_some(())).await;
}

/// A node is given another address under its name: the next requests go there, and none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_name_moves_is_followed() {
    let named = |name: &'static str| {
        let body = format!("{{\"statusCode\":0,\"userId\":\"{name}\"}}");
        move |_: &[u8]| Answer { bytes: json_answer(&body), close: false }
    };
    let before = Origin::at(([127, 0, 0, 2], 0).into(), named("before"));
    let port = before.address.port();
    let after = Origin::at(([127, 0, 0, 3], port).into(), named("after"));
    let folder = folder();
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.2 gms-moving\n").expect("the folder is ours");
    let server = Server::start_with_hosts(
        folder.path(),
        &folder.path().join("transcripts.db"),
        vec![format!("gms-1=http://gms-moving:{port}")],
        "[nodes]\nresolve_interval = \"1s\"\n",
        Some(&hosts),
    );
    let mut client = Client::new(server.address);
    let mut ask = async || {
        let reply = client.post("/genesys/2/chat/svc/C1/refresh", "").await.expect("an answer");
        assert_eq!(reply.status, StatusCode::OK);
        reply.json()["userId"].as_str().map(String::from)
    };
    assert_eq!(ask().await.as_deref(), Some("before"));
    std::fs::write(&hosts, "127.0.0.3 gms-moving\n").expect("the folder is ours");
    eventually("the new address is asked", async || (ask().await.as_deref() == Some("after")).then_some(())).await;
    assert!(!after.received().is_empty());
}

#[test]
fn a_node_that_is_not_there_is_named() {
    let (node, folder) = (Origin::canned("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), folder());
    let mut server = Server::start(folder.path(), &[node.address], "");
    let socket = folder.path().join("transcripts.db-control");
    assert_eq!(std::fs::metadata(&socket).expect("it is there").permissions().mode() & 0o777, 0o600);
    let (code, _, errors) = command(&server, &["drain", "gms-7"]);
    assert_eq!((code, &*errors), (1, "error: no node is named gms-7; there are gms-1\n"));
    assert!(server.stop().success());
    assert!(!socket.exists());
    let (code, _, errors) = command(&server, &["list"]);
    assert!(code == 1 && errors.contains("no `serve` answers at"), "{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_gives_server_errors_is_passed_over_and_the_last_one_is_not() {
    let error = "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n";
    let well = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    // Where both err, one of them still is asked.
    for answers in [[error, well], [error, error]] {
        let (nodes, folder) = (answers.map(Origin::canned), folder());
        let settings = "[proxy]\nnode_retry_after = \"1m\"\n[nodes]\nserver_errors_max = 5\n";
        let server = Server::start(folder.path(), &nodes.each_ref().map(|node| node.address), settings);
        for _ in 0..100 {
            get(server.address, "/genesys/1/other").await.expect("an answer");
        }
        let (_, said, _) = command(&server, &["list", "--format", "json"]);
        let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let mut found: Vec<String> = lines.map(|line| line["state"].as_str().expect("text").into()).collect();
        found.sort();
        assert_eq!(found, ["erring", "well"]);
        let passed_over = nodes.iter().map(|node| node.received().len()).min().expect("two nodes");
        assert!((5..20).contains(&passed_over), "{passed_over} of 100 requests to the one that is passed over");
        assert_eq!(get(server.admin, "/ready").await.expect("it runs").0, StatusCode::OK);
    }
}

/// Answers after a while; so many at a time as there are connections.
fn slow_node() -> Origin {
    Origin::start(|_| {
        std::thread::sleep(Duration::from_millis(100));
        Answer { bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), close: false }
    })
}

async fn ask_at_once(server: &Server, clients: usize) -> Vec<StatusCode> {
    let asks: Vec<_> = (0..clients)
        .map(|_| {
            let address = server.address;
            tokio::spawn(async move { get(address, "/genesys/1/other").await.expect("an answer").0 })
        })
        .collect();
    let mut statuses = Vec::new();
    for ask in asks {
        statuses.push(ask.await.expect("no client fails"));
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_a_node_are_bounded_and_waited_for() {
    let (node, folder) = (slow_node(), folder());
    let settings = "[proxy]\nthreads = 2\nnode_connections_max = 4\n[nodes]\nwaiting_max = 8\nwait_max = \"5s\"\n";
    let server = Server::start(folder.path(), &[node.address], settings);
    // Four at the node, eight wait. After that the four are idle, perhaps at the other thread, which lets them go for those
    // that wait.
    for clients in [12, 8, 8, 8] {
        let statuses = ask_at_once(&server, clients).await;
        assert!(statuses.iter().all(|status| *status == StatusCode::OK), "{statuses:?}");
        let open = server.metric("gms_recorder_node_waiting{node=\"gms-1\"}").await;
        assert_eq!(open, Some(0.0));
    }
    let statuses = ask_at_once(&server, 40).await;
    let refused = statuses.iter().filter(|status| **status == StatusCode::SERVICE_UNAVAILABLE).count();
    // Eight wait in any case; four more have room where nothing is idle at the other thread.
    assert!(refused > 0 && refused <= 32, "{refused} of 40");
    assert!(statuses.iter().all(|status| matches!(status.as_u16(), 200 | 503)), "{statuses:?}");
    eventually("the node is listed with its connections", async || {
        let (_, said, _) = command(&server, &["list", "--format", "json"]);
        let line: Value = serde_json::from_str(said.trim()).expect("JSON");
        (line["connections"].as_u64()? <= 4 && line["waiting"] == 0).then_some(())
    })
    .await;
}

const HELLO: &str = r#"[{"channel":"/meta/handshake","version":"1.0","supportedConnectionTypes":["long-polling"]}]"#;

/// On behalf of a client at an address, over TLS up to the proxy in front.
async fn cometd(client: &mut Client, address: &str, cookies: &str, body: &str) -> Reply {
    let request = Request::post("/genesys/cometd").header("host", "gms.example.com").header("cookie", cookies);
    let request = request.header("x-forwarded-for", address).header("x-forwarded-proto", "https");
    let request = request.header("content-type", "application/json");
    client.send(request.body(Full::from(body.to_string())).expect("a sound request")).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_to_its_node_through_any_proxy_of_the_cluster() {
    let config = Config { connect_hold: Duration::from_millis(50), ..Config::nodes(3) };
    let simulator = Simulator::start(config).await.expect("free ports");
    let folders = [folder(), folder()];
    let servers = folders.each_ref().map(|folder| {
        let key = folder.path().join("affinity.key");
        std::fs::write(&key, [b'k'; 48]).expect("the folder is ours");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("the file is ours");
        let settings = format!(
            "[proxy]\ntrusted_proxies = [\"127.0.0.1/32\"]\n[nodes]\naffinity_key = {key:?}\n\
             cookie_attributes = [\"BAYEUX_BROWSER; SameSite=None; Secure\"]\n"
        );
        Server::start(folder.path(), &simulator.addresses(), &settings)
    });
    // Without a cookie the client's address leads to a node: twelve of them lead to all three.
    for n in 0..12 {
        let (here, there) = (format!("192.0.2.{n}"), format!("198.51.100.{n}"));
        let (mut first, mut second) = (Client::new(servers[0].address), Client::new(servers[1].address));
        let reply = cometd(&mut first, &here, "", HELLO).await;
        let id = reply.json()[0]["clientId"].as_str().expect("a session").to_string();
        let given: Vec<&str> =
            reply.headers.get_all("set-cookie").iter().map(|value| value.to_str().expect("text")).collect();
        let [gms, ours] = given[..] else { panic!("two cookies: {given:?}") };
        assert!(gms.starts_with("BAYEUX_BROWSER=") && gms.ends_with("; SameSite=None; Secure"), "{gms}");
        assert!(ours.ends_with("; Path=/genesys; HttpOnly; SameSite=None; Secure; Partitioned"), "{ours}");
        let pair = |cookie: &str| cookie.split(';').next().expect("a pair").to_string();
        let cookies = format!("{}; {}", pair(gms), pair(ours));
        // At the other proxy, which never saw the session begin, and is asked on behalf of another address.
        let connect =
            json!([{"channel": "/meta/connect", "clientId": id, "connectionType": "long-polling"}]).to_string();
        for _ in 0..2 {
            let reply = cometd(&mut second, &there, &cookies, &connect).await;
            assert_eq!(reply.json()[0]["successful"], true, "{}", String::from_utf8_lossy(&reply.body));
            assert!(!reply.headers.contains_key("set-cookie"), "it has its cookies");
        }
        // Drained, its node keeps the session and gets no new one.
        let (_, value) = ours.split_once('=').expect("a pair");
        let (node, _) = value.split_once('~').expect("a node and its MAC");
        assert_eq!(command(&servers[1], &["drain", node]).0, 0);
        let reply = cometd(&mut second, &there, &cookies, &connect).await;
        assert_eq!(reply.json()[0]["successful"], true, "{}", String::from_utf8_lossy(&reply.body));
        for address in [&here, &there] {
            let reply = cometd(&mut second, address, "", HELLO).await;
            let mut given = reply.headers.get_all("set-cookie").iter().map(|value| value.to_str().expect("text"));
            let ours =
                given.find_map(|cookie| cookie.strip_prefix("gms_recorder_node=")).expect("it has no cookie yet");
            assert!(!ours.starts_with(&format!("{node}~")), "{node} is drained: {ours}");
        }
        assert_eq!(command(&servers[1], &["restore", node]).0, 0);
        let forged = format!("{}; {}x", pair(gms), pair(ours));
        let reply = cometd(&mut second, &there, &forged, HELLO).await;
        let given = reply.headers.get_all("set-cookie").iter().any(|v| v.as_bytes().starts_with(b"gms_recorder_node="));
        assert!(given, "a cookie that was not ours is replaced");
    }
    simulator.stop().await;
}

#[test]
fn check_asks_the_nodes_how_they_are_and_sees_files_that_others_can_read() {
    let answers =
        ["HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nONLINE", "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"];
    let (nodes, folder) = (answers.map(Origin::canned), folder());
    let key = folder.path().join("affinity.key");
    std::fs::write(&key, [b'k'; 48]).expect("the folder is ours");
    let check = |mode: u32, code: i32, stdout: &str, stderr: &str| {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("the file is ours");
        let config = folder.path().join("check.toml");
        let text = format!(
            "[proxy]\nlisten = \"127.0.0.1:0\"\nupstreams = [\"http://{}\", \"http://{}\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[nodes]\naffinity_key = {key:?}\n\
             health_path = \"/genesys/1/admin/node/status\"\nhealth_text = \"ONLINE\"\n",
            nodes[0].address, nodes[1].address
        );
        std::fs::write(&config, text).expect("the folder is ours");
        let database = folder.path().join("a.db");
        let paths = [&config, &database].map(|path| path.to_str().expect("a path of ours is text"));
        let (exit, out, errors) = run(&["check", "--config", paths[0], "--database", paths[1]]);
        assert_eq!(exit, code, "{out}{errors}");
        assert!(out.contains(stdout) && errors.contains(stderr), "{out}{errors}");
    };
    check(0o600, 1, "NOT WELL: it answered 401, not 200", "error: 1 of 2 nodes are not well\n");
    check(0o644, 1, "CANNOT BE USED: ", "can be used by others (mode 0644); `chmod 0600` it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_the_health_check_reach_the_node_and_nothing_else() {
    let (password, encoded) = ("pa55word-of-the-monitor", "bW9uaXRvcjpwYTU1d29yZC1vZi10aGUtbW9uaXRvcg==");
    let node = Origin::canned("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n");
    let folder = folder();
    let secret = folder.path().join("monitor");
    std::fs::write(&secret, format!("monitor:{password}\n")).expect("the folder is ours");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("the file is ours");
    let settings = format!(
        "[log]\nlevel = \"trace\"\n[nodes]\nhealth_path = \"/status\"\nhealth_interval = \"50ms\"\n\
         health_credentials = {secret:?}\n"
    );
    let mut server = Server::start(folder.path(), &[node.address], &settings);
    is_up(&server, 0, false).await;
    assert!(node.received()[0].contains(&format!("Basic {encoded}")), "{:?}", node.received()[0]);
    let ready = get(server.admin, "/ready").await.expect("it runs");
    assert_eq!(ready.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.1.contains("node gms-1 is failing: it answered 401, not 200"), "{}", ready.1);
    let metrics = get(server.admin, "/metrics").await.expect("it runs").1;
    let listed = command(&server, &["list", "--format", "json"]).1;
    assert!(server.stop().success());
    for (place, text) in [("log", server.log()), ("ready", ready.1), ("metrics", metrics), ("list", listed)] {
        assert!(!text.contains(password) && !text.contains(encoded), "{place}");
    }
    let archive = std::fs::read(&server.database).expect("it is closed");
    assert!(find(&archive, password.as_bytes()).is_none() && find(&archive, encoded.as_bytes()).is_none());
}
