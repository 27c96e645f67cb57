//! Files that go up and down: passed through as they are, and their hashes kept.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use gms_recorder::simulator::{Config, Simulator};
use serde_json::Value;

use crate::support::{Answer, Archive, Chat, Client, Origin, PATIENCE, Server, eventually, folder, json_answer};

/// What curl's answer says.
fn curl(address: SocketAddr, path: &str, options: &[&str]) -> Vec<u8> {
    let url = format!("http://{address}{path}");
    let output = Command::new("curl").args(["--silent", "--max-time", "20"]).args(options).arg(url).output();
    output.expect("tests/run installs curl").stdout
}

fn sha256sum(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().expect("coreutils has it");
    String::from_utf8_lossy(&output.stdout)[..64].to_string()
}

/// What no text is, what looks like a form's delimiter, and more than is read at a time.
fn content() -> Vec<u8> {
    let noise = (0_u32..90_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes());
    [b"\r\n--\r\n------WebKitFormBoundary\r\n\r\n{\"".to_vec(), noise.collect()].concat()
}

async fn with_agent(client: &mut Client) -> Chat {
    let chat = Chat::open(client, "nickname=Anna").await;
    chat.insist(client, "send", "message=hello").await;
    chat
}

const ROWS: &str = "SELECT direction, outcome, file_id, bytes, sha256, chat_id, node FROM file_transfers ORDER BY id";

async fn rows(server: &Server, count: usize) -> Vec<Vec<String>> {
    eventually("its rows", async || {
        let rows = Archive::open(&server.database).await.rows(ROWS).await;
        (rows.len() >= count).then_some(rows)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_goes_up_and_down_is_known_by_its_hash() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let mut server = Server::start(folder.path(), &simulator.addresses(), "");
    let chat = with_agent(&mut Client::new(server.address)).await;
    let content = content();
    let (source, hash) = (folder.path().join("photo of me.jpg"), {
        let source = folder.path().join("photo of me.jpg");
        std::fs::write(&source, &content).expect("the folder is ours");
        sha256sum(&source)
    });
    let key = format!("secureKey={}", chat.key);
    let file = format!("file=@{}", source.display());
    let mut expected = Vec::new();
    let mut expect = |direction: &str, outcome: &str, id: &str, bytes: usize, hash: &str| {
        let row = [direction, outcome, id, &bytes.to_string(), hash, &chat.id, "gms-1"];
        expected.push(row.map(String::from).to_vec());
    };

    let path = format!("/genesys/2/chat/customer-support/{}/file", chat.id);
    let ntf = "/genesys/2/chat-ntf";
    for chunked in [false, true] {
        let header = if chunked { "Transfer-Encoding: chunked" } else { "X-A: b" };
        // By REST, and as CometD clients do, who name the chat by its key only.
        for by_ntf in [false, true] {
            let form = ["--header", header, "--form", &key, "--form", "operation=fileUpload", "--form", &file];
            let answer: Value =
                serde_json::from_slice(&curl(server.address, if by_ntf { ntf } else { &path }, &form)).expect("JSON");
            let id = answer["userData"]["file-id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_string();
            expect("up", "complete", &id, content.len(), &hash);
            let down = match by_ntf {
                false => curl(server.address, &format!("{path}/{id}/download"), &["--data", &key]),
                true => curl(
                    server.address,
                    ntf,
                    &["--data", &key, "--data", "operation=fileDownload", "--data", &format!("fileId={id}")],
                ),
            };
            assert_eq!(down, content, "as it went up");
            expect("down", "complete", &id, content.len(), &hash);
        }
    }
    // A file that looks like an answer is read as one, and is a file all the same.
    let json = folder.path().join("notes.txt");
    std::fs::write(&json, "{\"statusCode\":0,\"mine\":true}").expect("the folder is ours");
    let answer: Value = serde_json::from_slice(&curl(
        server.address,
        &path,
        &["--form", &key, "--form", &format!("file=@{}", json.display())],
    ))
    .expect("JSON");
    let id = answer["userData"]["file-id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_string();
    expect("up", "complete", &id, 28, &sha256sum(&json));
    curl(server.address, &format!("{path}/{id}/download"), &["--data", &key]);
    expect("down", "complete", &id, 28, &sha256sum(&json));
    // The node takes no programs, and has no such file: a row of the first, none of the second.
    let program = folder.path().join("b.exe");
    std::fs::write(&program, "MZ").expect("the folder is ours");
    curl(server.address, &path, &["--form", &key, "--form", &format!("file=@{}", program.display())]);
    expect("up", "refused", "NULL", 2, &sha256sum(&program));
    curl(server.address, &format!("{path}/nosuch/download"), &["--data", &key]);

    assert_eq!(rows(&server, expected.len()).await, expected);
    assert_eq!(
        server.metric("gms_recorder_file_transfers_total{direction=\"up\",outcome=\"complete\"}").await,
        Some(5.0)
    );
    assert!(server.stop().success());
    simulator.stop().await;
}

/// What breaks off is told by what of it came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_breaks_off_is_no_whole_one() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let mut server = Server::start(folder.path(), &simulator.addresses(), "");
    let chat = with_agent(&mut Client::new(server.address)).await;
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a sound timeout");
    let part = "Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"";
    let head = format!(
        "POST /genesys/2/chat/customer-support/{}/file HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\n\r\n--XX\r\n{part}\r\n\r\n",
        chat.id
    );
    let came = vec![b'x'; 300_000]; // more than is waited for before a node is asked
    stream.write_all(&[head.as_bytes(), &came].concat()).expect("it reads");
    stream.shutdown(std::net::Shutdown::Write).expect("it is open");
    let _ = stream.read_to_end(&mut Vec::new());
    let found = rows(&server, 1).await;
    let start = folder.path().join("start");
    std::fs::write(&start, &came).expect("the folder is ours");
    assert_eq!(found[0][..2], ["up", "unanswered"]);
    assert_eq!(found[0][3..6], ["300000".to_string(), sha256sum(&start), chat.id.clone()]);
    assert!(server.stop().success());
    simulator.stop().await;
}

/// A node that takes whatever comes for a file, and gives files in gzip: `broken` as an answer that breaks off, `bad` as one that
/// is no gzip.
fn node() -> Origin {
    Origin::start(|request| {
        let text = String::from_utf8_lossy(request);
        let path = text.split(' ').nth(1).unwrap_or_default();
        let taken = r#"{"statusCode":0,"userData":{"file-id":"f1"}}"#;
        let encoded = |body: &[u8]| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
            [head.as_bytes(), body].concat()
        };
        let (bytes, close) = match path {
            path if path.contains("/gone/") => {
                (b"HTTP/1.1 404 Not Found\r\nContent-Length: 14\r\n\r\n<html>Not here".to_vec(), false)
            }
            path if path.contains("/gone-encoded/") => {
                let page = encoded(&gzip(b"<html>Not here"));
                ([b"HTTP/1.1 404 No", &page["HTTP/1.1 200 OK".len()..]].concat(), false)
            }
            path if path.contains("/bad/") => (encoded(b"no gzip"), false),
            path if path.ends_with("/download") => (encoded(&gzip(&content())), false),
            path if path.contains("/broken/") => {
                (format!("HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{taken}").into_bytes(), true)
            }
            path if path.contains("/page/") => (json_answer("<html>Sign in"), false),
            path if path.contains("/refused/") => (json_answer(r#"{"statusCode":2,"errors":[{"code":201}]}"#), false),
            _ => (json_answer(taken), false),
        };
        Answer { bytes, close }
    })
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).and_then(|()| encoder.finish()).expect("in memory")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_may_be_the_body_itself_and_is_complete_only_when_the_node_says_so() {
    let (node, folder) = (node(), folder());
    let server = Server::start(folder.path(), &[node.address], "");
    let source = folder.path().join("photo.jpg");
    std::fs::write(&source, content()).expect("the folder is ours");
    let (data, form) = (format!("@{}", source.display()), format!("file=@{}", source.display()));
    let image = ["--header", "Content-Type: image/jpeg", "--data-binary", &data];
    let undeclared = ["--header", "Content-Type;", "--data-binary", &data];
    let fields = ["--data-binary", &data];
    let mut expected = Vec::new();
    for (path, options, told) in [
        ("/genesys/2/chat/s/C1/file", &image[..], Some("complete")),
        ("/genesys/2/chat/s/C1/file", &undeclared, Some("complete")),
        ("/genesys/2/chat/s/C1/file", &fields, Some("complete")), // the node took it
        ("/genesys/2/chat/s/refused/file", &image, Some("refused")),
        ("/genesys/2/chat/s/refused/file", &fields, None), // fields that were none
        ("/genesys/2/chat/s/broken/file", &["--form", &form], Some("unanswered")),
        ("/genesys/2/chat/s/page/file", &["--form", &form], Some("unanswered")),
        ("/genesys/2/chat-ntf?operation=fileDelete", &image, None),
        ("/genesys/2/chat/s/C1/send", &image, None),
        ("/genesys/2/chat-ntf?operation=fileUpload", &image, Some("complete")),
    ] {
        curl(server.address, path, options);
        expected.extend(told.map(|outcome| outcome.to_string()));
        let found = rows(&server, expected.len()).await;
        let outcomes: Vec<&String> = found.iter().map(|row| &row[1]).collect();
        assert_eq!(outcomes, expected.iter().collect::<Vec<_>>(), "{path}");
    }
    let hash = sha256sum(&source);
    assert!(rows(&server, 1).await.iter().all(|row| row[0] == "up" && row[4] == hash));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_comes_encoded_is_known_by_the_hash_of_what_is_kept() {
    let (node, folder) = (node(), folder());
    let server = Server::start(folder.path(), &[node.address], "");
    let kept = folder.path().join("kept");
    let path = "/genesys/2/chat/s/C1/file/f1/download";
    // A browser keeps what was encoded; `curl --compressed` does, too.
    let output = ["--compressed", "--data", "secureKey=0123456789abcdef", "--output", kept.to_str().expect("UTF-8")];
    curl(server.address, path, &output);
    assert_eq!(std::fs::read(&kept).expect("it came"), content());
    let bad = curl(server.address, "/genesys/2/chat/s/C1/file/bad/download", &["--data", "secureKey=0123456789abcdef"]);
    let as_it_came = folder.path().join("bad");
    std::fs::write(&as_it_came, &bad).expect("the folder is ours");
    let found = rows(&server, 2).await;
    let told: Vec<[&str; 4]> = found.iter().map(|row| [0, 1, 3, 4].map(|column| &*row[column])).collect();
    let (length, hash, hash_of_bad) = (content().len().to_string(), sha256sum(&kept), sha256sum(&as_it_came));
    assert_eq!(told, [["down", "complete", &length, &hash], ["down", "encoded", "7", &hash_of_bad]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_a_files_place_is_audited() {
    let (node, folder) = (node(), folder());
    let server = Server::start(folder.path(), &[node.address], "");
    for id in ["gone", "gone-encoded"] {
        curl(
            server.address,
            &format!("/genesys/2/chat/s/C1/file/{id}/download"),
            &["--data", "secureKey=0123456789abcdef"],
        );
    }
    // The same error, told twice.
    let audited = "SELECT http_status, format, detail, repeats FROM api_errors";
    let wanted = [["404", "http", "Not here", "2"]];
    eventually("they are told", async || {
        (Archive::open(&server.database).await.rows(audited).await == wanted).then_some(())
    })
    .await;
    assert_eq!(Archive::open(&server.database).await.value("SELECT count(*) FROM file_transfers").await, "0");
}
