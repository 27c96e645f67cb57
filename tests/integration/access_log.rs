//! The access log: a line an exchange, whatever became of it; no secret in it or anywhere else; moved away and made anew.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gms_recorder::simulator::{Config, Simulator};
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use crate::support::{
    Answer, Archive, Chat, Client, Origin, PATIENCE, Server, eventually, files, find, folder, get, json_answer,
    send_raw,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn settings(folder: &Path, format: &str, more: &str) -> String {
    format!("[log]\naccess = \"{format}\"\naccess_file = {:?}\n{more}\n", folder.join("access.log"))
}

/// The lines so far, as JSON.
fn lines(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("access.log")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The one line for a path, when it is there.
async fn line(folder: &Path, path: &str) -> Value {
    eventually(&format!("a line for {path}"), async || {
        let mut of_path: Vec<Value> = lines(folder).into_iter().filter(|line| line["path"] == path).collect();
        assert!(of_path.len() < 2, "{of_path:?}");
        of_path.pop()
    })
    .await
}

fn raw(server: &Server, head: &str) -> String {
    String::from_utf8_lossy(&send_raw(server.address, head.as_bytes())).into_owned()
}

/// Answers by path: a poll, a file in chunks, one that breaks off, one that takes its time.
fn node() -> Origin {
    Origin::start(|request| {
        let at = |path: &str| find(request, path.as_bytes()).is_some();
        let bytes = match () {
            () if at("/refresh") => json_answer(
                "{\"statusCode\":0,\"chatId\":\"C1\",\"nextPosition\":2,\"messages\":[{\"index\":1,\"type\":\"Message\",\"text\":\"a\"}]}",
            ),
            () if at("/breaks") => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec(),
            () if at("/slow") => {
                std::thread::sleep(Duration::from_secs(1));
                json_answer("{}")
            }
            () if at("/not-there") => b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno".to_vec(),
            () => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
        };
        Answer { bytes, close: at("/breaks") }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_exchange_has_its_line_whatever_became_of_it() {
    let (node, folder) = (node(), folder());
    let proxy = "[proxy]\nhttp2 = \"always\"\ndeny = [\"/denied\"]\ntrusted_proxies = [\"127.0.0.1/32\"]\n";
    let mut server = Server::start(folder.path(), &[node.address], &settings(folder.path(), "json", proxy));

    let poll = "/genesys/2/chat/svc/C1/refresh";
    let head = format!(
        "POST {poll}?a=b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-For: 198.51.100.9\r\n\
         X-Request-Id: r-7\r\ntraceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\nUser-Agent: \"Wid\\get\"\r\n\
         Referer: https://shop.example/a?session=1#x\r\nContent-Length: 0\r\n\r\n"
    );
    assert!(raw(&server, &head).starts_with("HTTP/1.1 200"));
    let written = line(folder.path(), poll).await;
    let wanted = [
        ("client", "198.51.100.9"),
        ("method", "POST"),
        ("protocol", "HTTP/1.1"),
        ("node", "gms-1"),
        ("route", "chat"),
        ("chat_id", "C1"),
        ("request_id", "r-7"),
        ("trace_id", TRACE),
        ("referer", "https://shop.example/a"),
        ("user_agent", "\"Wid\\get\""),
        ("end", "whole"),
    ];
    for (name, value) in wanted {
        assert_eq!(written[name], value, "{written}");
    }
    assert_eq!((written["status"].as_u64(), written["audited"].as_bool()), (Some(200), Some(false)), "{written}");
    let (took, node_took, held) = (&written["duration_ms"], &written["node_ms"], &written["held_ms"]);
    let (took, held) = (took.as_f64().expect("a number"), held.as_f64().expect("it waited for its commit"));
    assert!(took >= held && took >= node_took.as_f64().expect("a node was asked") && held > 0.0, "{written}");
    let answer = raw(&server, &head.replace("?a=b", "?again"));
    eventually("its second line", async || (lines(folder.path()).len() >= 2).then_some(())).await;
    let again = lines(folder.path()).into_iter().rfind(|line| line["path"] == poll).expect("seen");
    assert_eq!(again["bytes"], answer.split_once("\r\n\r\n").expect("a body").1.len(), "{again}");
    assert!(again["held_ms"].is_null(), "nothing new: {again}");

    // Each is one line: path, status, how it ended, whether the audit has it, the route.
    let check = async |path: &str, status: u64, bytes: u64, end: &str, audited: bool, route: &str| {
        let line = line(folder.path(), path).await;
        let found = (&line["status"], &line["bytes"], &line["end"], &line["audited"], &line["route"]);
        let expected = (status.into(), bytes.into(), end.into(), audited.into(), route.into());
        let expected: (Value, Value, Value, Value, Value) = expected;
        assert_eq!(found, (&expected.0, &expected.1, &expected.2, &expected.3, &expected.4), "{line}");
    };
    let ask = |path: &str| raw(&server, &format!("GET {path}?q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    ask("/file");
    check("/file", 200, 15, "whole", false, "other").await; // with its chunks, as it went out
    ask("/not-there");
    check("/not-there", 404, 2, "whole", false, "other").await;
    ask("/breaks");
    check("/breaks", 200, 4, "broken", false, "other").await;
    ask("/genesys/2/chat/svc/C2/breaks");
    check("/genesys/2/chat/svc/C2/breaks", 200, 4, "broken", false, "chat").await;
    let refused = ask("/denied");
    let length = refused.split_once("\r\n\r\n").expect("a body").1.len() as u64;
    check("/denied", 403, length, "whole", true, "other").await;
    {
        let mut leaving = TcpStream::connect(server.address).expect("it listens");
        leaving.write_all(b"GET /genesys/2/chat/svc/C1/slow HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
        std::thread::sleep(Duration::from_millis(100));
        rustix::net::sockopt::set_socket_linger(&leaving, Some(Duration::ZERO)).expect("it is open"); // with a reset
    }
    check("/genesys/2/chat/svc/C1/slow", 499, 0, "left", true, "chat").await;
    raw(&server, "no request\r\n\r\n");
    let refused = raw(&server, "TRACE /traced HTTP/1.1\r\nHost: a\r\n\r\n");
    let length = refused.split_once("\r\n\r\n").expect("a body").1.len() as u64;
    let unrouted = line(folder.path(), "/traced").await;
    assert_eq!((&unrouted["status"], &unrouted["bytes"]), (&501.into(), &length.into()), "{unrouted}");
    let bad = lines(folder.path()).into_iter().filter(|line| line["path"].is_null()).collect::<Vec<_>>();
    assert!(bad.len() == 1 && bad[0]["status"] == 400, "{bad:?}");

    let url = format!("http://{}/by-http-2?x", server.address);
    let output = Command::new("curl").args(["--silent", "--http2-prior-knowledge", &url]).output();
    assert_eq!(output.expect("curl is installed").stdout, b"hello");
    check("/by-http-2", 200, 5, "whole", false, "other").await;
    assert_eq!(line(folder.path(), "/by-http-2").await["protocol"], "HTTP/2.0");

    assert!(server.stop().success());
    let all = lines(folder.path());
    assert_eq!(all.len(), 11, "{all:#?}");
    assert!(!std::fs::read_to_string(folder.path().join("access.log")).expect("it is there").contains('?'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_has_its_line_at_its_end() {
    let nodes = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let folder = folder();
    let address = nodes.local_addr().expect("it is bound");
    let mut server = Server::start(folder.path(), &[address], &settings(folder.path(), "json", ""));
    for path in ["/genesys/cometd", "/other"] {
        let mut client = TcpStream::connect(server.address).expect("it listens");
        client.set_read_timeout(Some(PATIENCE)).expect("sound");
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        client.write_all(head.as_bytes()).expect("it reads");
        let (mut node, _) = nodes.accept().expect("the proxy comes");
        let _ = node.read(&mut [0; 4096]).expect("a head");
        let switched =
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x89\x01p\x89\x01q";
        node.write_all(switched).expect("it reads");
        let mut received = Vec::new();
        while find(&received, b"\x89\x01q").is_none() {
            let mut part = [0; 256];
            let length = client.read(&mut part).expect("it comes");
            received.extend_from_slice(&part[..length]);
        }
        assert!(lines(folder.path()).iter().all(|line| line["path"] != path), "it goes on");
        drop(node);
        drop(client);
        let line = line(folder.path(), path).await;
        assert_eq!((&line["status"], &line["bytes"]), (&101.into(), &6.into()), "{line}");
    }
    assert!(server.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_moved_away_is_made_anew_on_sighup_and_nothing_is_lost() {
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let folder = folder();
    let mut server = Server::start(folder.path(), &simulator.addresses(), &settings(folder.path(), "combined", ""));
    let (now, before) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let rounds = 40;
    for round in 0..rounds {
        if round == rounds / 2 {
            std::fs::rename(&now, &before).expect("it is there");
            server.signal(rustix::process::Signal::HUP);
            eventually("the new file", async || now.exists().then_some(())).await;
        }
        chat.insist(&mut client, "refresh", "transcriptPosition=1").await;
    }
    assert!(server.stop().success());
    let texts = [&before, &now].map(|path| std::fs::read_to_string(path).expect("it is there"));
    assert!(texts.iter().all(|text| text.lines().count() > 5), "{texts:?}");
    assert_eq!(texts.concat().lines().count(), rounds + 1);
    for line in texts.concat().lines() {
        let (before, after) = line.split_once("] \"").expect("as Apache writes it");
        assert!(before.starts_with("127.0.0.1 - - ["), "{line}");
        let asked = format!("POST /genesys/2/chat/customer-support/{}/refresh HTTP/1.1\" 200 ", chat.id);
        assert!(after.starts_with(&asked) || after.starts_with("POST /genesys/2/chat/customer-support HTTP"), "{line}");
        assert!(after.ends_with(" \"-\" \"-\""), "{line}");
    }
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_found_by_their_trace() {
    let answer = json_answer("{\"statusCode\":2,\"errors\":[{\"code\":249,\"advice\":\"referenceId[7]\"}]}");
    let (node, folder) = (Origin::canned(answer), folder());
    let server = Server::start(folder.path(), &[node.address], "");
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let request = Request::post("/genesys/2/chat/svc/C1/refresh").header("host", "a").header("traceparent", &parent);
    let request = request.header("tracestate", "a=1").body(Full::default()).expect("a sound request");
    Client::new(server.address).send(request).await.expect("an answer");
    eventually("its row", async || {
        let sql = format!("SELECT code, trace_id FROM error_audit WHERE trace_id = '{TRACE}'");
        (Archive::open(&server.database).await.rows(&sql).await == [["249", TRACE]]).then_some(())
    })
    .await;
    let sent = node.received().concat();
    assert!(sent.contains(&format!("traceparent: {parent}\r\ntracestate: a=1\r\n")), "as it came: {sent}");
    assert!(server.log().contains(&format!("\"trace_id\":\"{TRACE}\"")), "{}", server.log());
}

/// Secrets in every place that a client or a node can put one; then every output, byte by byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_any_output() {
    for (format, when_unavailable) in [("json", "pass"), ("combined", "refuse")] {
        let folder = folder();
        let more = format!(
            "level = \"trace\"\n[proxy]\nhttp2 = \"always\"\ndeny = [\"/denied\"]\nchat_timeout = \"1s\"\n\
             [recording]\nwhen_unavailable = \"{when_unavailable}\"\nbody_max = \"4KiB\"\n"
        );
        let node = telling_node();
        let mut server = Server::start(folder.path(), &[node.address], &settings(folder.path(), format, &more));
        let address = server.address;
        tokio::task::spawn_blocking(move || plant(address)).await.expect("all is asked");
        let by_http_2 = Command::new("curl")
            .args(["--silent", "--http2-prior-knowledge", "--data", &format!("secureKey={}", secret("h2-form"))])
            .args(["--header", &format!("cookie: s={}", secret("h2-cookie"))])
            .arg(format!("http://{address}/genesys/2/chat/svc/C9/refresh?secureKey={}", secret("h2-query")))
            .output();
        assert!(by_http_2.expect("curl is installed").status.success());
        websocket(address);
        let ready = get(server.admin, "/ready").await.expect("it runs").1;
        let metrics = get(server.admin, "/metrics").await.expect("it runs").1;
        assert!(server.stop().success());

        let mut outputs = files(folder.path());
        outputs.extend([("ready".to_string(), ready.into_bytes()), ("metrics".into(), metrics.into_bytes())]);
        let text = |name: &str| {
            let (_, bytes) = outputs.iter().find(|(known, _)| known == name).expect("it is an output");
            String::from_utf8_lossy(bytes).into_owned()
        };
        // What should be there is: else nothing was looked at.
        let (access, log) = (text("access.log"), text("serve-0.log"));
        assert!(access.lines().count() > 30 && access.contains("/genesys/cometd"), "{access}");
        assert!(log.contains("api error"), "{log}");
        assert!(
            find(&outputs.iter().find(|(name, _)| name == "transcripts.db").expect("closed").1, b"visible-text")
                .is_some()
        );
        for (name, bytes) in &outputs {
            for form in [&b"Zq7"[..], b"WnE3", b"pxNz", b"acTc", b"5a7137", b"%5Aq7", b"%5aq7"] {
                let place = find(bytes, form)
                    .map(|at| String::from_utf8_lossy(&bytes[at.saturating_sub(300)..(at + 400).min(bytes.len())]));
                assert!(place.is_none(), "{format}: a secret in {name}: {place:?}");
            }
        }
    }
}

/// Each begins alike, so that a search for its start, or what base64 makes of that, finds any.
fn secret(place: &str) -> String {
    format!("Zq7Zq7-{place}-sEcReT")
}

/// Errors, variants, cookies and keys of a node's own.
fn telling_node() -> Origin {
    Origin::start(|request| {
        let text = String::from_utf8_lossy(request).into_owned();
        let cookie = format!(
            "Set-Cookie: JSESSIONID={}; Path=/\r\nX-Auth: {}\r\n",
            secret("set-cookie"),
            secret("answer-field")
        );
        let answer = |status: &str, body: &str| {
            let length = body.len();
            format!(
                "HTTP/1.1 {status}\r\n{cookie}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        };
        let key = secret("answer-key");
        // It quotes its client: that is a secret of this exchange.
        let said = if text.contains(&secret("form")) { secret("form") } else { String::new() };
        let bytes = match () {
            () if text.contains("boom") => String::new(),
            () if text.contains("late") => {
                std::thread::sleep(Duration::from_millis(1_500));
                answer("200 OK", "{}")
            }
            () if text.contains("torn") => answer("200 OK", &format!("{{\"secureKey\":\"{key}")),
            () if text.contains("huge") => {
                answer("200 OK", &format!("{{\"secureKey\":\"{key}\",\"x\":\"{}\"}}", "y".repeat(9_000)))
            }
            () if text.contains("html") => answer("502 Bad Gateway", &format!("<p>secureKey={key} was refused</p>")),
            () if text.contains("Upgrade: websocket") => {
                let told = format!(
                    "[{{\"channel\":\"/service/chatV2/s\",\"data\":{{\"statusCode\":2,\"secureKey\":\"{key}\",\"errors\":[{{\"code\":249,\"advice\":\"{key}\"}}]}}}}]"
                );
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\n{cookie}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
                );
                return Answer {
                    bytes: [head.as_bytes(), &[0x81, 126], &(told.len() as u16).to_be_bytes(), told.as_bytes()]
                        .concat(),
                    close: false,
                };
            }
            () if text.contains("/cometd") => answer(
                "200 OK",
                &format!(
                    "[{{\"channel\":\"/meta/connect\",\"successful\":false,\"error\":\"402::{key}\",\"clientId\":\"{}\",\"data\":{{\"secureKey\":\"{key}\"}}}}]",
                    secret("client-id")
                ),
            ),
            () if text.contains("bad") => answer(
                "400 Bad Request",
                &format!(
                    "{{\"statusCode\":2,\"secureKey\":\"{key}\",\"errors\":[{{\"code\":249,\"advice\":\"of {said} and {key}\"}}]}}"
                ),
            ),
            () => answer(
                "200 OK",
                &format!(
                    "{{\"statusCode\":0,\"chatId\":\"C1\",\"secureKey\":\"{key}\",\"nextPosition\":2,\"messages\":[{{\"index\":1,\"type\":\"Message\",\"text\":\"visible-text {key} {said}\"}}]}}"
                ),
            ),
        };
        Answer { bytes: bytes.into_bytes(), close: false }
    })
}

fn plant(address: std::net::SocketAddr) {
    let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("u:{}", secret("basic")));
    let fields = [
        format!("Authorization: Bearer {}", secret("bearer")),
        format!("Authorization: Basic {basic}"),
        format!("Cookie: JSESSIONID={}; BAYEUX_BROWSER={}", secret("cookie"), secret("session")),
        format!("X-Api-Key: {}", secret("api-key")),
        format!("Proxy-Authorization: Basic {basic}"),
        format!("Referer: https://shop.example/?secureKey={}", secret("referer")),
        "X-Plain: 1".into(),
    ];
    let form = format!("secureKey={}&userId=1&apikey={}&message=hi", secret("form"), secret("form-api-key"));
    let json = format!(
        "[{{\"channel\":\"/service/chatV2/s\",\"clientId\":\"c\",\"data\":{{\"operation\":\"x\",\"secureKey\":\"{}\"}}}}]",
        secret("json")
    );
    let paths = [
        "/genesys/2/chat/svc",
        "/genesys/2/chat/svc/C1/refresh",
        "/genesys/2/chat/svc/C1/bad",
        "/genesys/2/chat/svc/C1/torn",
        "/genesys/2/chat/svc/C1/huge",
        "/genesys/2/chat/svc/C1/html",
        "/genesys/2/chat/svc/C1/boom",
        "/genesys/2/chat-ntf",
        "/genesys/2/email/svc/bad",
        "/genesys/1/service/s7/ixn/chat/refresh",
        "/genesys/cometd",
        "/genesys/2/unknown/chat",
        "/denied",
        "/other/boom",
        "/nope",
    ];
    let asked = |path: &str, field: &str, body: &str| {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        send_raw(address, head.as_bytes());
    };
    for (n, path) in paths.iter().enumerate() {
        // A client that puts its key into the path, too, as a session or in place of a chat.
        let query = format!("{path}?secureKey={}&x=1", secret("query"));
        asked(&query, &fields[n % fields.len()], &form);
        asked(&format!("{path};jsessionid={}", secret("path-session")), &fields[(n + 1) % fields.len()], &json);
        let operation = ["bad", "boom", "huge", "torn"][n % 4];
        asked(
            &format!("/genesys/2/chat/svc/{}/{operation}", secret("form")),
            &format!("X-Request-Id: {}", secret("form")),
            &form,
        );
        asked(&format!("/nope/{}?secureKey={0}", secret("path")), "User-Agent: Zq7Zq7-path-sEcReT", "");
    }
    asked("/genesys/2/chat/svc/C1/late", &fields[0], &form);
    let malformed = [
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: zz\r\nX-Api-Key: {}\r\n\r\n", secret("malformed")),
        format!("GET /?secureKey={} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", secret("two-hosts")),
        format!("GET /?secureKey={} HTTP/9\r\n\r\n", secret("version")),
        format!("Cookie: {}\r\n\r\n", secret("no-request")),
        format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {} \x01\r\n\r\n", secret("control")),
    ];
    malformed.iter().for_each(|bytes| drop(send_raw(address, bytes.as_bytes())));
}

/// A CometD session over WebSocket: keys in the handshake, in a message of the client, and in one of the node.
fn websocket(address: std::net::SocketAddr) {
    let mut client = TcpStream::connect(address).expect("it listens");
    client.set_read_timeout(Some(PATIENCE)).expect("sound");
    let head = format!(
        "GET /genesys/cometd?secureKey={} HTTP/1.1\r\nHost: a\r\nCookie: s={}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        secret("ws-query"),
        secret("ws-cookie")
    );
    client.write_all(head.as_bytes()).expect("it reads");
    let mut received = Vec::new();
    while find(&received, b"\"code\":249").is_none() {
        let mut part = [0; 1024];
        let length = client.read(&mut part).expect("it comes");
        assert!(length > 0, "{}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&part[..length]);
    }
    let said = format!("[{{\"channel\":\"/service/chatV2/s\",\"data\":{{\"secureKey\":\"{}\"}}}}]", secret("ws-said"));
    let frame = [&[0x81, 0x80 | 126][..], &(said.len() as u16).to_be_bytes(), &[0; 4], said.as_bytes()].concat();
    client.write_all(&frame).expect("it reads");
    std::thread::sleep(Duration::from_millis(200)); // it is read before the connection ends
}
