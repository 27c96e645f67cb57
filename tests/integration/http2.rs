//! HTTP/2 from outside: curl, nghttp and h2load as peers, and floods by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gms_recorder::simulator::{Config, Simulator};

use crate::support::{Answer, Archive, Chat, Client, Origin, PATIENCE, Server, count, find, folder, json_answer};

const ALWAYS: &str = "[proxy]\nhttp2 = \"always\"\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET /` at `a`, by the static table (RFC 7541, appendix A).
const GET: &[u8] = b"\x82\x84\x86\x41\x01a";

fn curl(server: &Server, path: &str, options: &[&str]) -> Vec<u8> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--http2-prior-knowledge"])
        .args(options)
        .arg(format!("http://{}{path}", server.address))
        .output()
        .expect("curl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_request_reaches_the_node_as_http_1_and_the_answer_the_client_as_it_came() {
    let folder = folder();
    let answer = b"HTTP/1.1 207 Ganz Eigen\r\nX-CuStoM: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: X-Gone\r\nX-Gone: 1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhel\nl\r\n1\r\no\r\n0\r\nX-Sum: 7\r\n\r\n";
    let origin = Origin::canned(answer);
    let server = Server::start(folder.path(), &[origin.address], ALWAYS);
    let options = [
        "--include",
        "--data",
        "a=b",
        "--header",
        "Cookie: c=3; d=4",
        "--header",
        "TE: trailers",
        "--header",
        "X-Own: 5",
    ];
    for path in ["/genesys/2/chat/svc/C1/refresh?q=%20a", "/genesys/other?q=%20a"] {
        let received = String::from_utf8(curl(&server, path, &options)).expect("text");
        assert!(received.starts_with("HTTP/2 207"), "{received}");
        assert!(received.contains("x-custom: 1\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n"), "{received}");
        assert!(!received.contains("x-gone") && received.contains("\r\n\r\nhel\nlo"), "{received}");
        assert!(received.contains("x-sum: 7"), "{received}");
        let sent = origin.received().pop().expect("a request");
        assert!(sent.starts_with(&format!("POST {path} HTTP/1.1\r\nHost: {}\r\n", server.address)), "{sent}");
        assert!(sent.contains("cookie: c=3; d=4\r\n") && sent.contains("x-own: 5\r\n"), "{sent}");
        assert!(sent.contains("content-length: 3\r\n") && sent.ends_with("\r\n\r\na=b"), "{sent}");
        assert!(sent.contains("Via: 2.0 gms-recorder\r\n") && sent.contains("X-Forwarded-Proto: http\r\n"), "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_by_http_2_is_recorded_and_files_are_byte_true() {
    let simulator = Simulator::start(Config::nodes(2)).await.expect("free ports");
    let folder = folder();
    let mut server = Server::start(folder.path(), &simulator.addresses(), ALWAYS);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let form = format!("message=by+two&secureKey={}", chat.key);
    let sent = curl(&server, &format!("/genesys/2/chat/customer-support/{}/send", chat.id), &["--data", &form]);
    assert!(find(&sent, b"\"statusCode\":0").is_some(), "{}", String::from_utf8_lossy(&sent));
    let form = format!("transcriptPosition=1&secureKey={}", chat.key);
    let read = curl(&server, &format!("/genesys/2/chat/customer-support/{}/refresh", chat.id), &["--data", &form]);
    assert!(find(&read, b"by two").is_some(), "{}", String::from_utf8_lossy(&read));
    let bytes = 3_000_001;
    assert_eq!(curl(&server, &format!("/genesys/1/storage/{bytes}"), &[]).len(), bytes);
    let file = folder.path().join("upload");
    std::fs::write(&file, vec![b'x'; bytes]).expect("the folder is ours");
    let upload = format!("@{}", file.display());
    let answer = curl(&server, "/genesys/1/storage", &["--data-binary", &upload]);
    assert!(find(&answer, bytes.to_string().as_bytes()).is_some(), "{}", String::from_utf8_lossy(&answer));
    assert!(server.stop().success());
    let texts = Archive::open(&server.database).await.rows("SELECT text FROM events WHERE text = 'by two'").await;
    assert_eq!(texts.len(), 1);
    simulator.stop().await;
}

#[test]
fn many_streams_are_answered() {
    let folder = folder();
    let origin = Origin::canned(json_answer("{\"statusCode\":0}"));
    let server = Server::start(folder.path(), &[origin.address], ALWAYS);
    let requests = count("TEST_HTTP2_REQUESTS", 2_000).to_string();
    for (tool, options) in
        [("h2load", vec!["-n", &requests, "-c", "4", "-m", "16"]), ("nghttp", vec!["-v", "-m", "50"])]
    {
        let output = Command::new(tool)
            .args(options)
            .arg(format!("http://{}/genesys/2/chat/svc/C1/refresh", server.address))
            .output()
            .expect("nghttp2-client is installed");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = match tool {
            "h2load" => format!("status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx"),
            _ => ":status: 200".into(),
        };
        assert!(output.status.success() && said.contains(&expected), "{said}");
    }
}

#[test]
fn who_may_speak_it_is_configured() {
    let origin = Origin::canned(json_answer("{}"));
    for (settings, speaks) in [("", false), ("[proxy]\nhttp2 = \"never\"\n", false), (ALWAYS, true)] {
        let folder = folder();
        let server = Server::start(folder.path(), &[origin.address], settings);
        let mut stream = TcpStream::connect(server.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a sound timeout");
        // In two pieces: it is looked at, not guessed.
        stream.write_all(&PREFACE[..3]).expect("it reads");
        std::thread::sleep(Duration::from_millis(30));
        stream.write_all(&[&PREFACE[3..], &frame(SETTINGS, 0, 0, &[])].concat()).expect("it reads");
        let mut start = [0; 9];
        stream.read_exact(&mut start).expect("an answer");
        assert_eq!(start[3] == SETTINGS, speaks, "{settings}: {}", start.escape_ascii());
        assert_eq!(start.starts_with(b"HTTP/1.1 "), !speaks, "{settings}");
    }
}

/// A host with a path in it, a target that is no path, a method that is not forwarded: refused by a status or, where HTTP/2
/// itself forbids them, by the stream's end.
#[test]
fn requests_that_would_be_two_things_to_two_readers_are_refused() {
    let folder = folder();
    let origin = Origin::canned(json_answer("{}"));
    let server = Server::start(folder.path(), &[origin.address], ALWAYS);
    for (options, status) in [
        (["--header", "Host: a/b"], "000"),
        (["--request-target", "*"], "400"),
        (["--request", "TRACE"], "400"),
        (["--header", "X-A: 1"], "200"),
    ] {
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "20", "--http2-prior-knowledge", "--write-out", " %{http_code}"])
            .args(options)
            .arg(format!("http://{}/genesys/x", server.address))
            .output()
            .expect("curl is installed");
        let received = String::from_utf8_lossy(&output.stdout);
        assert!(received.ends_with(&format!(" {status}")), "{options:?}: {received}");
    }
    assert_eq!(origin.received().len(), 1);
}

#[test]
fn a_broken_answer_is_a_broken_stream() {
    let folder = folder();
    let origin =
        Origin::start(|_| Answer { bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec(), close: true });
    let server = Server::start(folder.path(), &[origin.address], ALWAYS);
    for path in ["/genesys/other", "/genesys/2/chat/svc/C1/refresh"] {
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "20", "--http2-prior-knowledge"])
            .arg(format!("http://{}{path}", server.address))
            .output()
            .expect("curl is installed");
        assert!(!output.status.success(), "{path}: taken for whole");
    }
}

/// What came of a flood: the frames' kinds until the end, if the proxy ends it.
fn flood(server: &Server, mut frames: impl FnMut(u32) -> Vec<u8>) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a sound timeout");
    stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a sound timeout");
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).expect("it reads");
    let began = Instant::now();
    for n in 0..count("TEST_HTTP2_FLOOD", 20_000) as u32 {
        if stream.write_all(&frames(n)).is_err() || began.elapsed() > Duration::from_secs(10) {
            break;
        }
    }
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received); // a reset is an end, too
    let mut kinds = Vec::new();
    while received.len() >= 9 {
        kinds.push(received[3]);
        let length = u32::from_be_bytes([0, received[0], received[1], received[2]]) as usize + 9;
        received.drain(..length.min(received.len()));
    }
    kinds
}

#[test]
fn floods_are_ended_and_others_go_on() {
    let folder = folder();
    let origin = Origin::canned(json_answer("{}"));
    let server = Server::start(folder.path(), &[origin.address], ALWAYS);
    let before = server.resident_kib();
    // Rapid reset (CVE-2023-44487): each stream is opened and given up at once.
    let kinds = flood(&server, |n| {
        let stream = 2 * n + 1;
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
        [open, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    assert!(kinds.contains(&GOAWAY) || kinds.len() < 10_000, "{} frames", kinds.len());
    // CONTINUATION (VU#421644): a head without an end.
    flood(&server, |n| match n {
        0 => frame(HEADERS, END_STREAM, 1, GET),
        _ => frame(CONTINUATION, 0, 1, &[b"\x00\x01x\x7f".as_slice(), &[b'y'; 127]].concat()),
    });
    // Settings, each to be acknowledged.
    flood(&server, |_| frame(SETTINGS, 0, 0, &[]));
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more");
    assert_eq!(curl(&server, "/genesys/other", &[]), b"{}");
}

#[test]
fn a_stop_ends_a_connection_between_two_requests() {
    let folder = folder();
    let origin = Origin::canned(json_answer("{}"));
    let mut server = Server::start(folder.path(), &[origin.address], ALWAYS);
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a sound timeout");
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, GET);
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &request].concat()).expect("it reads");
    let mut received = Vec::new();
    while find(&received, b"{}").is_none() {
        let mut chunk = [0; 1024];
        let length = stream.read(&mut chunk).expect("an answer");
        assert!(length > 0, "{}", received.escape_ascii());
        received.extend_from_slice(&chunk[..length]);
    }
    let began = Instant::now();
    assert!(server.stop().success());
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}

/// A node that answers before it has the request, but for the last byte, and what came to it.
fn early_node() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free ports");
    let (address, had) = (listener.local_addr().expect("it is bound"), Arc::new(Mutex::new(Vec::new())));
    let kept = had.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut came, mut part) = (Vec::new(), [0; 4096]);
            let mut until = |mark: &[u8], stream: &mut TcpStream| {
                while find(&came, mark).is_none() {
                    match stream.read(&mut part) {
                        Ok(length @ 1..) => came.extend_from_slice(&part[..length]),
                        _ => return,
                    }
                }
                *kept.lock().expect("no panic holds it") = came.clone();
            };
            until(b"\r\n\r\n", &mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nearly"); // it may be gone
            until(b"the end", &mut stream);
            let _ = stream.write_all(b"!");
        }
    });
    (address, had)
}

#[test]
fn an_answer_that_began_early_goes_on_for_as_long_as_its_request_comes() {
    let (folder, (node, had)) = (folder(), early_node());
    let settings = "[proxy]\nhttp2 = \"always\"\nbody_idle_timeout = \"1500ms\"\n";
    let server = Server::start(folder.path(), &[node], settings);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let mut curl = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "20",
                version,
                "--upload-file",
                ".",
                "--header",
                "Expect:",
            ])
            .arg(format!("http://{}/genesys/1/storage", server.address))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl is installed");
        let mut body = curl.stdin.take().expect("it is piped");
        for part in [&b"part "[..]; 10].into_iter().chain([&b"the end"[..]]) {
            std::thread::sleep(Duration::from_millis(250));
            body.write_all(part).expect("curl reads");
        }
        drop(body);
        let output = curl.wait_with_output().expect("it ends");
        assert!(output.status.success() && output.stdout == b"early!", "{version}: {output:?}");
        assert!(find(&had.lock().expect("no panic holds it"), b"the end").is_some(), "{version}");
    }
}
