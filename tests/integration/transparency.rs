//! R1 and R2 on the wire: what is sent reaches the node, what is answered reaches the client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use gms_recorder::simulator::{Config, Simulator};
use http::StatusCode;

use crate::support::{
    Answer, Archive, Chat, Client, Origin, Server, count, eventually, find, folder, get, json_answer, send_raw,
};

const CLOSE: &str = "Connection: close\r\n";

/// What the client gets for an answer, sent raw; and what the node got for the request.
fn through(settings: &str, request: &str, answer: &[u8]) -> (String, String) {
    let folder = folder();
    let origin = Origin::canned(answer);
    let server = Server::start(folder.path(), &[origin.address], settings);
    let received = send_raw(server.address, request.as_bytes());
    let sent = origin.received().first().cloned().unwrap_or_default();
    (String::from_utf8_lossy(&received).into_owned(), sent)
}

#[test]
fn fields_keep_their_case_order_and_number_and_hop_by_hop_ones_go() {
    let request = format!(
        "GET /genesys/1/storage/x?q=%20a&b=[]|{{}} HTTP/1.1\r\nHost: gms.example.com\r\n{CLOSE}X-CuStoM: 1\r\nX-CuStoM: 2\r\nKeep-Alive: 5\r\n\
         Cookie: a=b\r\nAccept-Encoding: gzip, deflate\r\n\r\n"
    );
    let answer = b"HTTP/1.1 207 Ganz Eigen\r\nServer: Jetty\r\nSet-Cookie: a=1\r\nX-One: 1\r\nConnection: X-One\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok";
    let (received, sent) = through("", &request, answer);
    assert!(received.starts_with("HTTP/1.1 207 Ganz Eigen\r\n"), "{received}");
    assert!(received.contains("Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n"), "{received}");
    assert!(received.ends_with("\r\n\r\nok"), "{received}");
    let lower = received.to_lowercase();
    assert!(!lower.contains("x-one") && !lower.contains("\r\ndate:") && !lower.contains("\r\nvia:"), "{received}");
    assert!(sent.starts_with("GET /genesys/1/storage/x?q=%20a&b=[]|{} HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("X-CuStoM: 1\r\nX-CuStoM: 2\r\n") && sent.contains("Cookie: a=b\r\n"), "{sent}");
    let lower = sent.to_lowercase();
    assert!(!lower.contains("keep-alive") && !lower.contains("connection:"), "{sent}");
    assert!(
        lower.contains("x-forwarded-for: 127.0.0.1\r\n") && lower.contains("x-forwarded-proto: http\r\n"),
        "{sent}"
    );
    assert!(
        lower.contains("x-forwarded-host: gms.example.com\r\n") && lower.contains("via: 1.1 gms-recorder\r\n"),
        "{sent}"
    );
}

#[test]
fn the_kind_of_framing_is_kept_on_held_and_on_streamed_answers() {
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"status\r\n8\r\nCode\":0}\r\n0\r\n\r\n";
    for path in ["/genesys/2/chat/svc/C1/refresh", "/genesys/other"] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{CLOSE}Content-Length: 0\r\n\r\n");
        let (received, _) = through("", &request, chunked);
        let lower = received.to_lowercase();
        assert!(lower.contains("transfer-encoding: chunked\r\n") && !lower.contains("content-length"), "{received}");
        assert!(received.contains("0\r\n\r\n"), "{received}");
        let (received, _) = through("", &request, &json_answer("{\"statusCode\":0}"));
        assert!(received.contains("Content-Length: 16\r\n") && received.ends_with("{\"statusCode\":0}"), "{received}");
    }
}

#[test]
fn trailers_pass_where_the_client_takes_them() {
    let answer =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\n{}\r\n0\r\nX-Sum: 7\r\n\r\n";
    for path in ["/genesys/2/chat/svc/C1/refresh", "/genesys/other"] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close, TE\r\nTE: trailers\r\nContent-Length: 0\r\n\r\n"
        );
        let (received, sent) = through("", &request, answer);
        assert!(received.to_lowercase().contains("x-sum: 7\r\n"), "{received}");
        assert!(sent.to_lowercase().contains("te: trailers\r\n"), "{sent}");
    }
}

#[test]
fn answers_without_a_body_stay_without() {
    for (request, answer) in [
        (
            format!("HEAD /genesys/2/chat/svc HTTP/1.1\r\nHost: a\r\n{CLOSE}\r\n"),
            "HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n",
        ),
        (
            format!("POST /genesys/2/chat/svc/C/send HTTP/1.1\r\nHost: a\r\n{CLOSE}Content-Length: 0\r\n\r\n"),
            "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
        ),
        (
            format!("GET /genesys/x HTTP/1.1\r\nHost: a\r\n{CLOSE}\r\n"),
            "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
        ),
    ] {
        let (received, _) = through("", &request, answer.as_bytes());
        let without_close = received.replace("connection: close\r\n", "").replace(CLOSE, "");
        assert_eq!(without_close, answer, "{request}");
    }
}

#[test]
fn a_truncated_answer_stays_visibly_truncated_and_leaves_a_finding() {
    let folder = folder();
    let origin = Origin::start(|_| {
        Answer {
        bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"statusCode\":0,\"chatId\":\"C1\",\"messages\":[{\"index\":4".to_vec(),
        close: true,
    }
    });
    let mut server = Server::start(folder.path(), &[origin.address], "");
    let received = send_raw(
        server.address,
        b"POST /genesys/2/chat/svc/C1/refresh HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    );
    let received = String::from_utf8_lossy(&received);
    assert!(received.contains("Content-Length: 500\r\n") && received.ends_with("\"index\":4"), "{received}");
    assert!(server.stop().success());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let findings = runtime.block_on(async {
        let mut archive = Archive::open(&server.database).await;
        assert_eq!(archive.value("SELECT count(*) FROM events").await, "0");
        archive.rows("SELECT kind FROM findings").await
    });
    assert_eq!(findings, [["truncated"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_refuses_is_passed_over_and_no_node_is_said() {
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let nobody = crate::support::free_address();
    let folder = folder();
    let mut server = Server::start(folder.path(), &[nobody, simulator.addresses()[0], nobody], "");
    let mut client = Client::new(server.address);
    for n in 0..20 {
        let chat = Chat::open(&mut client, &format!("nickname=c{n}")).await;
        assert_eq!(chat.act(&mut client, "send", "message=x").await.expect("an answer").status, StatusCode::OK);
    }
    simulator.stop().await;
    let reply = client
        .post("/genesys/2/chat/customer-support/C1/send", "message=x&secureKey=0123456789abcdef")
        .await
        .expect("an answer");
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    let said = reply.headers["proxy-status"].to_str().expect("text").to_string();
    assert!(said.contains("destination_unavailable") && said.contains("not forwarded"), "{said}");
    assert_eq!(get(server.admin, "/ready").await.expect("it runs").0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(server.stop().success());
    let rows = Archive::open(&server.database)
        .await
        .rows("SELECT origin, http_status, class, operation, chat_id FROM api_errors")
        .await;
    assert!(rows.contains(&["proxy", "502", "transport", "send", "C1"].map(String::from).to_vec()), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_node_is_answered_for_before_the_client_gives_up_and_no_post_is_sent_twice() {
    let simulator = Simulator::start(Config::nodes(2)).await.expect("free ports");
    let folder = folder();
    let server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    simulator.hang_node(0, true);
    simulator.hang_node(1, true);
    let began = Instant::now();
    let reply = chat.act(&mut client, "send", "message=once").await.expect("an answer");
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(began.elapsed() < Duration::from_secs(3), "widgets give up after 3 s; this took {:?}", began.elapsed());
    assert!(reply.headers["proxy-status"].to_str().expect("text").contains("may have acted"));
    simulator.hang_node(0, false);
    simulator.hang_node(1, false);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(simulator.account().messages.get("once").is_none_or(|times| *times <= 1));
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_is_a_row_of_the_audit() {
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let folder = folder();
    let server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    simulator.hang_node(0, true);
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    let request = format!(
        "POST /genesys/2/chat/customer-support/{}/refresh HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        chat.id
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(stream);
    eventually("the row", async || {
        let rows = Archive::open(&server.database)
            .await
            .rows("SELECT chat_id, operation, http_status FROM api_errors WHERE origin = 'client'")
            .await;
        (rows == [[chat.id.clone(), "refresh".into(), "NULL".into()]]).then_some(())
    })
    .await;
    simulator.hang_node(0, false);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_v1_passes_and_leaves_one_finding_a_session() {
    let origin = Origin::canned(json_answer("{\"chatIxnState\":\"TRANSCRIPT\"}"));
    let folder = folder();
    let mut server = Server::start(folder.path(), &[origin.address], "");
    let mut client = Client::new(server.address);
    for session in ["s-1", "s-1", "s-1", "s-2"] {
        let path = format!("/genesys/1/service/{session}/ixn/chat/refresh");
        assert_eq!(client.post(&path, "transcriptPosition=1").await.expect("an answer").status, StatusCode::OK);
    }
    assert!(server.stop().success());
    let rows = Archive::open(&server.database)
        .await
        .rows("SELECT kind, chat_id, repeats FROM findings ORDER BY chat_id")
        .await;
    assert_eq!(rows, [["chat_v1", "s-1", "3"], ["chat_v1", "s-2", "1"]]);
}

#[test]
fn allow_and_deny_hold_for_the_path_a_node_reads() {
    let settings = "[proxy]\nallow = [\"chat\", \"/genesys/1/storage\"]\ndeny = [\"/genesys/1/storage/secret\"]\ncors_origins = [\"https://shop.example.com\"]\n";
    for (path, passes) in [
        ("/genesys/2/chat/svc/C/send", true),
        ("/genesys/1/storage/x", true),
        ("/genesys/1/storage/secret/x", false),
        ("/genesys/1/storage/%73ecret/x", false),
        ("/genesys/1/storage/../admin", false),
        ("/genesys/admin", false),
    ] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\n{CLOSE}Origin: https://shop.example.com\r\nContent-Length: 0\r\n\r\n"
        );
        let (received, sent) = through(settings, &request, &json_answer("{\"statusCode\":0}"));
        assert_eq!(!sent.is_empty(), passes, "{path}");
        assert_eq!(received.starts_with("HTTP/1.1 200"), passes, "{path}: {received}");
        if !passes {
            let lower = received.to_lowercase();
            assert!(lower.contains("access-control-allow-origin: https://shop.example.com\r\n"), "{received}");
            assert!(lower.contains("proxy-status: gms-recorder; error=http_request_denied"), "{received}");
        }
    }
}

#[test]
fn an_upgrade_passes_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free ports");
    let node = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the proxy comes");
        let request = crate::support::read_message(&mut stream, &mut Vec::new()).expect("a request");
        let text = String::from_utf8_lossy(&request).to_lowercase();
        assert!(text.contains("upgrade: websocket\r\n") && text.contains("connection: upgrade\r\n"), "{text}");
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
            .expect("it reads");
        let mut ping = [0; 4];
        stream.read_exact(&mut ping).expect("the client speaks");
        stream.write_all(&ping).expect("it reads");
    });
    let folder = folder();
    let server = Server::start(folder.path(), &[node], "");
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    stream
        .write_all(b"GET /genesys/cometd HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .expect("it reads");
    let mut received = Vec::new();
    while find(&received, b"hello").is_none() {
        let mut chunk = [0; 1024];
        let read = stream.read(&mut chunk).expect("it answers");
        assert!(read > 0, "{}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&chunk[..read]);
    }
    let text = String::from_utf8_lossy(&received).to_lowercase();
    assert!(text.starts_with("http/1.1 101") && text.contains("upgrade: websocket\r\n"), "{text}");
    stream.write_all(b"ping").expect("it is joined");
    let mut pong = [0; 4];
    stream.read_exact(&mut pong).expect("it is joined");
    assert_eq!(&pong, b"ping");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upload_is_not_taken_for_a_late_answer() {
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let folder = folder();
    let server = Server::start(folder.path(), &simulator.addresses(), "[proxy]\nother_timeout = \"400ms\"\n");
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    stream
        .write_all(b"POST /genesys/1/storage HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10\r\n\r\n")
        .expect("it reads");
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(120)).await;
        stream.write_all(b"x").expect("it reads");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    simulator.stop().await;
}

/// 1 GiB each way, in memory that does not grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_files_stream_in_constant_memory() {
    let bytes = count("TEST_STREAM_MIB", 1024) << 20;
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let folder = folder();
    let server = Server::start(folder.path(), &simulator.addresses(), "");
    let address = server.address;
    let download = tokio::task::spawn_blocking(move || download(address, bytes));
    let peak = watch_memory(&server, &download).await;
    assert_eq!(download.await.expect("no panic"), bytes);
    let upload = tokio::task::spawn_blocking(move || upload(address, bytes));
    let peak = peak.max(watch_memory(&server, &upload).await);
    let answer = upload.await.expect("no panic");
    assert!(answer.contains(&bytes.to_string()), "{answer}");
    assert!(peak < 64 * 1024, "{peak} KiB resident");
    println!("{} MiB each way: at most {} KiB resident", bytes >> 20, peak);
    simulator.stop().await;
}

async fn watch_memory<T>(server: &Server, work: &tokio::task::JoinHandle<T>) -> u64 {
    let mut peak = 0;
    while !work.is_finished() {
        peak = peak.max(server.resident_kib());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    peak
}

fn download(proxy: SocketAddr, bytes: usize) -> usize {
    let mut stream = TcpStream::connect(proxy).expect("it listens");
    let request = format!("GET /genesys/1/storage/{bytes} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let (mut chunk, mut received, mut head) = (vec![0; 1 << 20], 0, Vec::new());
    loop {
        let read = stream.read(&mut chunk).expect("it sends");
        if read == 0 {
            let body = head.len() - find(&head, b"\r\n\r\n").expect("a head") - 4;
            return body + received;
        }
        match find(&head, b"\r\n\r\n") {
            None => head.extend_from_slice(&chunk[..read]),
            Some(_) => received += read,
        }
    }
}

fn upload(proxy: SocketAddr, bytes: usize) -> String {
    let mut stream = TcpStream::connect(proxy).expect("it listens");
    let head =
        format!("POST /genesys/1/storage HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it reads");
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..bytes >> 20 {
        stream.write_all(&chunk).expect("it reads");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

/// A node may answer before it has the whole request. The client gets that answer, what it still sends goes nowhere, and
/// nobody else's request follows it on the node's connection.
#[tokio::test]
async fn a_node_that_answers_early_leaves_no_connection_behind() {
    let folder = folder();
    let node = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = node.local_addr().expect("it is bound");
    let connections = std::thread::spawn(move || {
        let mut answered = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = node.accept().expect("a connection");
            let mut start = [0; 1_024];
            let _ = std::io::Read::read(&mut stream, &mut start).expect("a request");
            let answer = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n";
            std::io::Write::write_all(&mut stream, answer).expect("it is open");
            answered.push(stream);
        }
        answered.len()
    });
    let mut server = Server::start(folder.path(), &[address], "");
    for _ in 0..2 {
        let request = b"POST /genesys/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nonly the start";
        let mut client = std::net::TcpStream::connect(server.address).expect("it listens");
        client.set_read_timeout(Some(crate::support::PATIENCE)).expect("a socket");
        std::io::Write::write_all(&mut client, request).expect("it is open");
        let mut start = [0; 12];
        std::io::Read::read_exact(&mut client, &mut start).expect("the node's answer");
        assert_eq!(&start, b"HTTP/1.1 413");
    }
    assert_eq!(connections.join().expect("the node answers twice"), 2, "each on a connection of its own");
    assert!(server.stop().success(), "{}", server.log());
}

/// Its connection is over with the answer's head: nothing is left to drive.
#[test]
fn a_101_that_nobody_asked_for_is_refused_and_breaks_nothing() {
    let folder = folder();
    let bytes = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let origin = Origin::start(|_| Answer { bytes: bytes.to_vec(), close: true });
    let mut server = Server::start(folder.path(), &[origin.address], "");
    for _ in 0..3 {
        let request = b"POST /genesys/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let received = send_raw(server.address, request);
        assert!(received.starts_with(b"HTTP/1.1 502"), "{}", String::from_utf8_lossy(&received));
    }
    assert!(server.stop().success());
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// What it says itself to HEAD has no body, or the body would be taken for the next answer.
#[test]
fn the_proxys_own_answer_to_head_has_no_body() {
    let folder = folder();
    let server = Server::start(folder.path(), &[crate::support::free_address()], "");
    let request =
        format!("HEAD /genesys/x HTTP/1.1\r\nHost: a\r\n\r\nHEAD /genesys/y HTTP/1.1\r\nHost: a\r\n{CLOSE}\r\n");
    let received = String::from_utf8(send_raw(server.address, request.as_bytes())).expect("text");
    assert_eq!(received.matches("HTTP/1.1 502 Bad Gateway\r\n").count(), 2, "{received}");
    assert!(received.contains("Content-Length: ") && !received.contains('{'), "{received}");
}

/// A client of HTTP/1.0 is told the end of an unsized answer by the end of the connection: one that broke off is reset.
#[test]
fn an_answer_that_breaks_off_is_reset_for_a_client_of_http_1_0() {
    let folder = folder();
    let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let origin = Origin::start(|_| Answer { bytes: bytes.to_vec(), close: true });
    let server = Server::start(folder.path(), &[origin.address], "");
    for path in ["/genesys/other", "/genesys/2/chat/svc/C1/refresh"] {
        let mut stream = TcpStream::connect(server.address).expect("it listens");
        stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("a socket");
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("it reads");
        let mut received = Vec::new();
        let ended = stream.read_to_end(&mut received);
        assert_eq!(ended.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset), "{path}");
    }
}

/// Some clients end a form with one line too many; it may come in pieces.
#[test]
fn an_empty_line_before_a_request_is_ignored() {
    let folder = folder();
    let origin = Origin::canned(json_answer("{}"));
    let server = Server::start(folder.path(), &[origin.address], "");
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    for piece in ["\r", "\n", "GET /genesys/x HTTP/1.1\r\nHost: a\r\nConnection: close\r", "\n\r\n"] {
        stream.write_all(piece.as_bytes()).expect("it reads");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut received = String::new();
    stream.read_to_string(&mut received).expect("it answers");
    assert!(received.starts_with("HTTP/1.1 200 OK\r\n"), "{received}");
}

/// More idle connections than a task may look at in one go (tokio's budget is 128), all of them closed by the node: the next
/// request is sent on a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_that_the_node_closed_are_not_used() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let (listener, folder) = (TcpListener::bind("127.0.0.1:0").expect("free ports"), folder());
    let node = listener.local_addr().expect("it is bound");
    let closes = Arc::new(AtomicBool::new(false));
    let told = closes.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let closes = told.clone();
            std::thread::spawn(move || {
                let mut buffer = Vec::new();
                let _ = crate::support::read_message(&mut stream, &mut buffer).expect("a request");
                // Slow, so that all clients are there at one time.
                std::thread::sleep(Duration::from_millis(if closes.load(Ordering::Relaxed) { 0 } else { 1_000 }));
                stream.write_all(&json_answer("{}")).expect("the proxy reads");
                while !closes.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        }
    });
    let server = Server::start(folder.path(), &[node], "[proxy]\nthreads = 1\n");
    // No more than the listener of std has room for while its thread is busy: a further one waits a second, which is too long.
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let mut client = Client::new(server.address);
            tokio::spawn(async move { client.post("/genesys/x", "").await.expect("an answer").status })
        })
        .collect();
    for status in asked {
        assert_eq!(status.await.expect("no panic"), StatusCode::OK);
    }
    closes.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut client = Client::new(server.address);
    assert_eq!(client.post("/genesys/x", "").await.expect("an answer").status, StatusCode::OK);
}
