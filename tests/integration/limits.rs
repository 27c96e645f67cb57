//! What clients may take: each limit with its answer and its count, slow clients, and a good one beside them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::{Answer, Archive, Origin, Server, count, eventually, folder, json_answer, send_raw};

/// Limits that are reached in a moment.
const NARROW: &str = "[limits]\nhead_bytes_max = \"1KiB\"\nhead_fields_max = 16\ntarget_bytes_max = \"256B\"\n\
                      head_timeout = \"300ms\"\nbody_bytes_max = \"2KiB\"\npace_bytes = \"1KiB\"\npace_time = \"400ms\"\n";

fn status(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).split(' ').nth(1).unwrap_or("closed").into()
}

async fn reached(server: &Server, limit: &str) -> f64 {
    let line = format!("gms_recorder_limits_reached_total{{limit=\"{limit}\"}}");
    server.metric(&line).await.unwrap_or_else(|| panic!("no metric for {limit}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_has_its_answer_its_count_and_its_row() {
    let folder = folder();
    let origin = Origin::canned(json_answer("{\"statusCode\":0}"));
    let server = Server::start(folder.path(), &[origin.address], NARROW);
    let post = |head: &str, body: &str| format!("POST /x HTTP/1.1\r\nHost: a\r\n{head}\r\n{body}");
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let rows = [
        (get("/x", "Connection: close\r\n"), "200", ""),
        (get(&format!("/{}", "x".repeat(255)), "Connection: close\r\n"), "200", ""),
        (get(&format!("/{}", "x".repeat(256)), ""), "414", "target"),
        (format!("GET /{}", "x".repeat(80_000)), "414", "target"),
        (get("/x", &format!("X: {}\r\n", "x".repeat(1_000))), "431", "head"),
        (get("/x", &format!("X: {}\r\n", "x".repeat(80_000))), "431", "head"),
        (get("/x", &"X: 1\r\n".repeat(16)), "431", "head"),
        (get("/x", &"X: 1\r\n".repeat(200)), "431", "head"),
        (post("Content-Length: 2049\r\n", ""), "413", "body"),
        (post("Transfer-Encoding: chunked\r\n", &format!("801\r\n{}", "x".repeat(2_049))), "413", "body"),
        ("GET /x HT".into(), "408", "head_time"),
        (String::new(), "closed", "head_time"),
        (post("Content-Length: 10\r\n", "x"), "408", "body_pace"),
        (post("Transfer-Encoding: chunked\r\n", "1\r\nx\r\n"), "408", "body_pace"),
    ];
    for (request, expected, limit) in rows {
        let before = if limit.is_empty() { 0.0 } else { reached(&server, limit).await };
        let answer = send_raw(server.address, request.as_bytes());
        let shown = &request[..request.len().min(60)];
        assert_eq!(status(&answer), expected, "{shown:?}: {}", String::from_utf8_lossy(&answer));
        if !limit.is_empty() {
            assert_eq!(reached(&server, limit).await, before + 1.0, "{limit}: {shown:?}");
        }
    }
    let mut archive = Archive::open(&server.database).await;
    for wanted in ["408", "413", "414", "431"] {
        eventually("each is in the audit", async || {
            let sql = format!("SELECT count(*) FROM api_errors WHERE origin = 'proxy' AND http_status = {wanted}");
            (archive.value(&sql).await != "0").then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_told_so_and_places_come_free() {
    let check = async |settings: &str, expected: &str, limit: &str| {
        let folder = folder();
        let origin = Origin::canned(json_answer("{}"));
        let server = Server::start(folder.path(), &[origin.address], settings);
        let request = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let none = async || (server.metric("gms_recorder_connections ").await? == 0.0).then_some(());
        eventually("the one that looked whether it listens has left", none).await;
        let guests: Vec<_> = (0..4).map(|_| TcpStream::connect(server.address).expect("it listens")).collect();
        eventually("they are in", async || (server.metric("gms_recorder_connections ").await? >= 4.0).then_some(()))
            .await;
        let answer = send_raw(server.address, request);
        assert_eq!(status(&answer), expected, "{}", String::from_utf8_lossy(&answer));
        assert!(String::from_utf8_lossy(&answer).contains("Retry-After: 1\r\n"));
        assert!(reached(&server, limit).await >= 1.0);
        drop(guests);
        eventually("there is room again", async || (status(&send_raw(server.address, request)) == "200").then_some(()))
            .await;
        let mut archive = Archive::open(&server.database).await;
        let sql = format!("SELECT count(*) FROM api_errors WHERE http_status = {expected} AND client = '127.0.0.1'");
        eventually("a row says so", async || (archive.value(&sql).await != "0").then_some(())).await;
    };
    check("[proxy]\nconnections_max = 4", "503", "connections").await;
    check("[limits]\nclient_connections_max = 4", "429", "client_connections").await;
    // From a trusted proxy come the connections of many.
    let folder = folder();
    let origin = Origin::canned(json_answer("{}"));
    let settings = "[proxy]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[limits]\nclient_connections_max = 2";
    let server = Server::start(folder.path(), &[origin.address], settings);
    let _guests: Vec<_> = (0..4).map(|_| TcpStream::connect(server.address).expect("it listens")).collect();
    let answer = send_raw(server.address, b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&answer), "200");
}

/// A node whose answers have so many bytes.
fn verbose(bytes: usize) -> Origin {
    Origin::start(move |request| {
        let length = if request.starts_with(b"GET /big") { bytes } else { 2 };
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + length, b'x');
        Answer { bytes: answer, close: false }
    })
}

/// What a slow client does first, and from then on.
const STYLES: [(&str, &str, &str); 6] = [
    ("head", "GET /x HTTP/1.1\r\nHost: a\r\nX-a: ", "y"),
    ("body", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nx", "y"),
    ("chunked", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", "1\r\ny\r\n"),
    ("silent", "", ""),
    ("idle", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", ""),
    ("reader", "GET /big HTTP/1.1\r\nHost: a\r\n\r\n", ""),
];

/// Slow clients, those of one style. They are gone at their limit; what each took of the server's memory, in KiB.
async fn crowd(server: &Server, style: (&str, &str, &str), clients: usize, latencies: &mut Vec<Duration>) -> f64 {
    let (name, first, then) = style;
    let before = server.resident_kib();
    let mut slow: Vec<TcpStream> = (0..clients)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).expect("it listens");
            stream.write_all(first.as_bytes()).expect("it takes a little");
            stream.set_nonblocking(true).expect("a socket");
            stream
        })
        .collect();
    let (mut took, mut nudged) = (0.0_f64, Instant::now());
    let until = Instant::now() + Duration::from_secs(15);
    while !slow.is_empty() {
        assert!(Instant::now() < until, "{name}: {} of {clients} are still there", slow.len());
        took = took.max(server.resident_kib().saturating_sub(before) as f64 / clients as f64);
        latencies.push(one_good(server.address));
        let nudges = nudged.elapsed() > Duration::from_millis(200);
        if nudges {
            nudged = Instant::now();
        }
        slow.retain_mut(|stream| {
            if nudges && !then.is_empty() {
                let _ = stream.write(then.as_bytes()); // the reads below tell
            }
            if name == "reader" {
                if nudges {
                    let _ = stream.read(&mut [0; 1]);
                }
                // Behind what it has not read yet lies the reset.
                return stream.take_error().is_ok_and(|error| error.is_none());
            }
            match stream.read(&mut [0; 64]) {
                Ok(0) => false,
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took
}

fn one_good(address: SocketAddr) -> Duration {
    let began = Instant::now();
    let answer = send_raw(address, b"GET /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&answer), "200", "a good client");
    began.elapsed()
}

fn p99(latencies: &mut [Duration]) -> Duration {
    latencies.sort();
    latencies[latencies.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_of_all_kinds_are_gone_at_their_limits_and_a_good_one_notices_nothing() {
    let folder = folder();
    let clients = count("TEST_SLOW_CLIENTS", 60);
    let origin = verbose(8 << 20);
    let settings = "[proxy]\nclient_timeout = \"1s\"\n[limits]\nhead_timeout = \"1s\"\npace_time = \"1s\"\n";
    let server = Server::start(folder.path(), &[origin.address], settings);
    let mut calm: Vec<_> = (0..200).map(|_| one_good(server.address)).collect();
    let calm = p99(&mut calm);
    for style in STYLES {
        let mut latencies = Vec::new();
        let took = crowd(&server, style, clients, &mut latencies).await;
        let disturbed = p99(&mut latencies);
        println!("{clients} {}: {took:.1} KiB each; a good client's p99 {disturbed:?}, in calm {calm:?}", style.0);
        if clients >= 500 {
            assert!(took <= 10.0, "{}: {took:.1} KiB a connection", style.0);
        }
    }
    for limit in ["head_time", "body_pace", "answer_pace", "idle"] {
        assert!(reached(&server, limit).await >= clients as f64, "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_the_proxy_protocol_names_the_client_before_anything_else() {
    let folder = folder();
    let origin = Origin::canned(json_answer("{}"));
    let trusting = "[proxy]\nproxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n\
                    [limits]\nclient_connections_max = 2\nhead_timeout = \"500ms\"\n";
    let server = Server::start(folder.path(), &[origin.address], trusting);
    let request = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let version_1 = |client: &str| format!("PROXY TCP4 {client} 10.0.0.1 4711 443\r\n").into_bytes();
    let version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xcb\0\x71\x08\x0a\0\0\x01\x12\x67\x01\xbb\x04\0\0".to_vec();
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    for (header, client) in
        [(version_1("203.0.113.7"), "203.0.113.7"), (version_2, "203.0.113.8"), (local, "127.0.0.1")]
    {
        let answer = send_raw(server.address, &[&header[..], request].concat());
        assert_eq!(status(&answer), "200", "{}", header.escape_ascii());
        let told = origin.received().pop().expect("it was forwarded");
        assert!(told.contains(&format!("X-Forwarded-For: {client}\r\n")), "{told}");
    }
    // In pieces, too.
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    for piece in [&b"PRO"[..], b"XY TCP4 203.0.113.9 10.0.0.1 1", b" 2\r", b"\n", request] {
        stream.write_all(piece).expect("it reads");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    assert_eq!(status(&answer), "200");
    assert!(origin.received().pop().expect("it was forwarded").contains("X-Forwarded-For: 203.0.113.9\r\n"));
    let before = reached(&server, "proxy_protocol").await;
    let forwarded = origin.received().len();
    for nothing in [&request[..], b"PROXY TCP4 x y 1 2\r\n", b"PROXY TCP4 203.0.", b""] {
        assert_eq!(status(&send_raw(server.address, nothing)), "closed", "{}", nothing.escape_ascii());
    }
    assert_eq!(reached(&server, "proxy_protocol").await, before + 4.0);
    assert_eq!(origin.received().len(), forwarded);
    // Clients are counted by it.
    let hold = |client: &str| {
        let mut stream = TcpStream::connect(server.address).expect("it listens");
        stream.write_all(&version_1(client)).expect("it reads");
        stream
    };
    eventually("its third is turned away", async || {
        let _two = [hold("203.0.113.7"), hold("203.0.113.7")]; // anew each time: they have until `head_timeout`
        let answer = send_raw(server.address, &[&version_1("203.0.113.7")[..], request].concat());
        (status(&answer) == "closed" && reached(&server, "client_connections").await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(status(&send_raw(server.address, &[&version_1("203.0.113.6")[..], request].concat())), "200");
    // From elsewhere nobody is believed.
    let elsewhere = trusting.replace("127.0.0.0/8", "10.0.0.0/8");
    let folder = crate::support::folder();
    let server = Server::start(folder.path(), &[origin.address], &elsewhere);
    assert_eq!(status(&send_raw(server.address, &[&version_1("203.0.113.7")[..], request].concat())), "closed");
}

/// A node that answers what has `slow` in its path after a while.
fn dawdling() -> Origin {
    Origin::start(|request| {
        if crate::support::find(request, b"slow").is_some() {
            std::thread::sleep(Duration::from_millis(1_500));
        }
        Answer { bytes: json_answer("{\"statusCode\":0}"), close: false }
    })
}

fn post(path: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn under_overload_chats_in_progress_go_on_and_new_ones_wait() {
    let check = async |settings: &str, busy: usize, limit: &str| {
        let folder = folder();
        let origin = dawdling();
        let server = Server::start(folder.path(), &[origin.address], settings);
        let none = async || (server.metric("gms_recorder_connections ").await? == 0.0).then_some(());
        eventually("the one that looked whether it listens has left", none).await;
        let address = server.address;
        let slow: Vec<_> = (0..busy)
            .map(|_| std::thread::spawn(move || status(&send_raw(address, &post("/genesys/2/chat/slow/ID/refresh")))))
            .collect();
        let at_work = async || (origin.received().len() == busy).then_some(());
        eventually("all of them are at the node", at_work).await;
        for new in ["/genesys/2/chat/s", "/genesys/1/x"] {
            let answer = send_raw(address, &post(new));
            assert_eq!(status(&answer), "503", "{new}: {}", String::from_utf8_lossy(&answer));
            assert!(String::from_utf8_lossy(&answer).contains("Retry-After: 1\r\n"));
        }
        for going_on in
            ["/2/chat/s/ID/send", "/2/chat/s/ID/refresh", "/2/chat/s/ID/disconnect", "/2/chat-ntf", "/cometd"]
        {
            assert_eq!(status(&send_raw(address, &post(&format!("/genesys{going_on}")))), "200", "{going_on}");
        }
        assert!(reached(&server, limit).await >= 2.0);
        for slow in slow {
            assert_eq!(slow.join().expect("it was answered"), "200");
        }
        eventually("new ones are let in again", async || {
            (status(&send_raw(address, &post("/genesys/2/chat/s"))) == "200").then_some(())
        })
        .await;
    };
    check("[proxy]\nnode_connections_max = 10", 9, "node_connections").await;
    check("[proxy]\nconnections_max = 20", 18, "reserve").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_hold_no_connection_to_a_node() {
    let folder = folder();
    let origin = dawdling();
    let server = Server::start(folder.path(), &[origin.address], "[proxy]\nnode_connections_max = 1");
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).expect("it listens");
            let head = "POST /genesys/2/chat/s/ID/send HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nsecure";
            stream.write_all(head.as_bytes()).expect("it reads");
            stream
        })
        .collect();
    eventually("they are in", async || (server.metric("gms_recorder_connections ").await? >= 20.0).then_some(())).await;
    assert_eq!(status(&send_raw(server.address, &post("/genesys/2/chat/s/ID/send"))), "200");
    assert_eq!(*origin.connections.lock().expect("no panic holds it"), 1);
    // The rest comes, and with it the answer.
    for mut stream in slow {
        stream.write_all(b"Key=0123456789").expect("it reads");
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(status(&answer), "200");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_nothing_from_the_record() {
    let folder = folder();
    let origin = Origin::start(|_| {
        std::thread::sleep(Duration::from_millis(300));
        let event =
            "{\"index\":1,\"type\":\"Message\",\"text\":\"Hello\",\"utcTime\":1,\"from\":{\"participantId\":1}}";
        let answer = format!("{{\"statusCode\":0,\"chatId\":\"ID\",\"nextPosition\":2,\"messages\":[{event}]}}");
        Answer { bytes: json_answer(&answer), close: false }
    });
    let server = Server::start(folder.path(), &[origin.address], "");
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    stream.write_all(&post("/genesys/2/chat/s/ID/send")).expect("it reads");
    eventually("it is at the node", async || (origin.received().len() == 1).then_some(())).await;
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket");
    drop(stream); // a reset
    let mut archive = Archive::open(&server.database).await;
    let event = async || (archive.value("SELECT text FROM events").await == "Hello").then_some(());
    eventually("what the node answered is kept", event).await;
    let mut archive = Archive::open(&server.database).await;
    let row =
        async || (archive.value("SELECT count(*) FROM api_errors WHERE origin = 'client'").await == "1").then_some(());
    eventually("and that nobody got it", row).await;
}

#[test]
fn a_node_that_closes_connections_soon_loses_few_requests() {
    let folder = folder();
    let connections = std::sync::Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    // It answers once on each connection, and breaks it when more is asked.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    let seen = connections.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || {
                let mut buffer = Vec::new();
                let Some(request) = crate::support::read_message(&mut stream, &mut buffer) else { return };
                let target = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_string();
                assert!(seen.lock().expect("no panic holds it").insert(target), "a request came twice");
                let _ = stream.write_all(&json_answer("{}"));
                let _ = crate::support::read_message(&mut stream, &mut buffer);
                let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            });
        }
    });
    let server = Server::start(folder.path(), &[address], "[proxy]\nthreads = 1\n");
    let answers: Vec<_> = (0..60).map(|n| status(&send_raw(server.address, &post(&format!("/x/{n}"))))).collect();
    let lost = answers.iter().filter(|status| *status == "502").count();
    assert!(answers.iter().all(|status| status == "200" || status == "502"), "{answers:?}");
    assert!(lost <= 8, "{lost} of {} were lost", answers.len());
}
