//! Masking, on real sockets: clients get what the node said, byte for byte, and no digit of a card is in any file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sqlx::{Connection, SqliteConnection};

use crate::spool::lock;
use crate::support::{
    Answer, Archive, Client, Origin, Reply, Server, eventually, files, find, folder, get, json_answer,
};

/// A number for each place that one can stand in, told apart by four of its digits.
pub const MESSAGE: &str = "4111 1111 1111 1111";
const ESCAPED: &str = "5500\\u0020\\u0030000 0000 0004";
const NUMBER: &str = "378282246310005";
pub const NICKNAME: &str = "6011111111111117";
pub const USER_DATA: &str = "3530-1113-3330-0000";
pub const SUBJECT: &str = "4012 8888 8888 1881";
pub const ADVICE: &str = "4242424242424242";
pub const PAGE: &str = "5105 1051 0510 5100";
const PATH: &str = "2223003122003222";
pub const AGENT: &str = "6200000000000005";
pub const DELIVERY: &str = "3056 9309 0259 04";

/// What must be in no file, as bytes: the numbers, and what of them would tell.
pub const NEVER: [&str; 13] = [
    MESSAGE,
    ESCAPED,
    "\\u0030000",
    NUMBER,
    NICKNAME,
    USER_DATA,
    SUBJECT,
    ADVICE,
    PAGE,
    PATH,
    AGENT,
    DELIVERY,
    "cvv 737",
];

pub const REFRESH: &str = "/genesys/2/chat/support/C1/refresh";

pub fn transcript() -> String {
    format!(
        r#"{{"statusCode":0,"chatId":"C1","nextPosition":4,"alias":"117","messages":[
            {{"index":1,"type":"Message","utcTime":1480000000000,"from":{{"type":"Client","participantId":1,"nickname":"{NICKNAME}"}},"text":"my card is {MESSAGE}, cvv 737"}},
            {{"index":2,"type":"Message","utcTime":1480000000001,"from":{{"type":"Agent","participantId":2}},"text":"{ESCAPED}?","userData":{{"paid with":"{USER_DATA}","n":{NUMBER}}}}},
            {{"index":3,"type":"Message","utcTime":1480000000002,"from":{{"type":"Agent","participantId":2}},"text":"thank you"}}]}}"#
    )
}

/// No JSON, though it begins so.
pub fn page() -> String {
    format!(r#"{{"statusCode":0,"text":"{PAGE}""#)
}

fn node() -> Origin {
    Origin::start(|request| {
        let text = String::from_utf8_lossy(request);
        let answer = match text.split(' ').nth(1).unwrap_or_default() {
            path if path.ends_with("/refresh") => json_answer(&transcript()),
            path if path.ends_with("/send") => {
                json_answer(&format!(r#"{{"statusCode":2,"errors":[{{"code":249,"advice":"no such {ADVICE}"}}]}}"#))
            }
            path if path.ends_with("/startTyping") => json_answer(&page()),
            path if path.ends_with("/cometd") => json_answer(&format!(
                r#"[{{"channel":"/service/chatV2/support","data":{{"statusCode":0,"chatId":"C2","nextPosition":2,"messages":[{{"index":1,"type":"Message","text":"{DELIVERY}"}}]}}}}]"#
            )),
            path if path.ends_with("/support") => {
                json_answer(r#"{"statusCode":0,"chatId":"C1","secureKey":"0123456789abcdef0123","userId":"U1"}"#)
            }
            _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        };
        Answer { bytes: answer, close: false }
    })
}

fn settings(folder: &Path, more: &str) -> String {
    let log = folder.join("access.log");
    format!(
        "[log]\nlevel = \"debug\"\naccess = \"combined\"\naccess_file = {log:?}\n[recording]\nreserve = \"0B\"\n{more}"
    )
}

pub async fn ask(client: &mut Client, path: &str, body: String) -> Reply {
    let request = Request::post(path).header("host", "gms").header("x-request-id", AGENT);
    let request = request.header("user-agent", format!("Agent {AGENT}")).header("referer", format!("http://a/{PATH}"));
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    client.send(request.body(Full::new(Bytes::from(body))).expect("a sound request")).await.expect("an answer")
}

/// Asks for everything; whatever the node says comes as it is.
async fn ask_all(client: &mut Client) {
    let opened = format!("nickname={NICKNAME}&subject={SUBJECT}&userData[card]={USER_DATA}").replace(' ', "+");
    ask(client, "/genesys/2/chat/support", opened).await;
    let got = ask(client, REFRESH, "transcriptPosition=1".into()).await;
    assert_eq!(got.body, transcript());
    let failed = ask(client, "/genesys/2/chat/support/C1/send", "message=hi".into()).await;
    assert!(find(&failed.body, ADVICE.as_bytes()).is_some());
    let broken = ask(client, "/genesys/2/chat/support/C1/startTyping", "x=1".into()).await;
    assert_eq!(broken.body, page());
    let connect = r#"[{"channel":"/meta/connect","clientId":"c1","id":"1"}]"#;
    let delivered = ask(client, "/genesys/cometd", connect.into()).await;
    assert!(find(&delivered.body, DELIVERY.as_bytes()).is_some());
    ask(client, &format!("/genesys/2/chat/support/{PATH}/send"), "message=hi".into()).await;
    ask(client, &format!("/genesys/elsewhere/2/chat/{PATH}"), String::new()).await;
}

fn check_files(folder: &Path) {
    for (name, bytes) in files(folder) {
        for never in NEVER {
            let place = find(&bytes, never.as_bytes());
            let around = place.map(|at| {
                String::from_utf8_lossy(&bytes[at.saturating_sub(200)..bytes.len().min(at + 60)]).into_owned()
            });
            assert!(around.is_none(), "{never} is in {name}: {around:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_card_is_in_any_file_and_clients_get_what_the_node_said() {
    let (node, folder) = (node(), folder());
    let mut server = Server::start(folder.path(), &[node.address], &settings(folder.path(), ""));
    let mut client = Client::new(server.address);
    ask_all(&mut client).await;
    let mut archive = Archive::open(&server.database).await;
    eventually("all is written", async || {
        let counted = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM findings) + (SELECT count(*) FROM chat_attributes WHERE source = 'request')";
        (archive.value(counted).await == "8").then_some(())
    })
    .await;
    check_files(folder.path());
    let text = archive.value("SELECT text FROM events WHERE chat_id = 'C1' AND event_index = 1").await;
    assert_eq!(text, "my card is **** **** **** ****, cvv ***");
    let of_event = "SELECT event_index, field, rule, at_character, characters FROM maskings WHERE what = 'event' AND chat_id = 'C1' ORDER BY id";
    assert_eq!(
        archive.rows(of_event).await,
        [
            ["1", "/from/nickname", "cards", "0", "16"],
            ["1", "/text", "cards", "11", "19"],
            ["1", "/text", "cvv", "36", "3"],
            ["2", "/text", "cards", "0", "19"],
            ["2", "/userData/paid with", "cards", "0", "19"],
            ["2", "/userData/n", "cards", "0", "15"],
        ]
    );
    let of_others = "SELECT DISTINCT what, field FROM maskings WHERE what <> 'event' ORDER BY 1, 2";
    assert_eq!(
        archive.rows(of_others).await,
        [["attribute", "value"], ["error", "/advice"], ["error", "path"], ["error", "request_id"], ["finding", ""],]
    );
    let stored =
        "SELECT json_extract(raw, '$.text') || '|' || user_data FROM events WHERE chat_id = 'C1' AND event_index = 2";
    assert_eq!(
        archive.value(stored).await,
        "**** **** **** ****?|{\"paid with\":\"****-****-****-****\",\"n\":111111111111111}"
    );
    let metrics = get(server.admin, "/metrics").await.expect("it runs").1;
    assert!(metrics.contains("gms_recorder_maskings_total{rule=\"cvv\"} 1\n"), "{metrics}");
    archive.0.close().await.expect("it is ours");
    assert!(server.stop().success());
    check_files(folder.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_holds_no_card_and_brings_the_evidence_along() {
    let (node, folder) = (node(), folder());
    let settings = settings(folder.path(), "[recording]\nwhen_unavailable = \"spool\"\n");
    let server = Server::start(folder.path(), &[node.address], &settings);
    let mut shell: SqliteConnection = lock(&server.database).await;
    ask_all(&mut Client::new(server.address)).await;
    eventually("it is in the spool", async || {
        (server.metric("gms_recorder_spool_events ").await? >= 4.0).then_some(())
    })
    .await;
    check_files(folder.path());
    sqlx::query("ROLLBACK").execute(&mut shell).await.expect("it is ours");
    shell.close().await.expect("it is ours");
    let mut archive = Archive::open(&server.database).await;
    let evidence = "SELECT count(*) FROM maskings WHERE what = 'event' AND chat_id = 'C1'";
    eventually("it is drained", async || (archive.value(evidence).await == "6").then_some(())).await;
    check_files(folder.path());
}

/// What was stored under other rules is the same event, and one that differs is a variant still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_rule_makes_no_variant_of_what_is_stored() {
    let asked = Arc::new(AtomicUsize::new(0));
    let times = asked.clone();
    let node = Origin::start(move |_| {
        let text = if times.load(Ordering::Relaxed) < 2 { "Patient 123456 is here" } else { "Patient 123456 is gone" };
        let event = format!(r#"{{"index":1,"type":"Message","text":"{text}"}}"#);
        let body = format!(r#"{{"statusCode":0,"chatId":"C1","nextPosition":2,"messages":[{event}]}}"#);
        times.fetch_add(1, Ordering::Relaxed);
        Answer { bytes: json_answer(&body), close: false }
    });
    let folder = folder();
    let rows = async |server: &Server| {
        let counted = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM event_variants), (SELECT count(*) FROM maskings WHERE rule = 'patient')";
        Archive::open(&server.database).await.rows(counted).await.concat()
    };
    let mut server = Server::start(folder.path(), &[node.address], "");
    ask(&mut Client::new(server.address), REFRESH, "transcriptPosition=1".into()).await;
    assert_eq!(rows(&server).await, ["1", "0", "0"]);
    assert!(server.stop().success());
    let config = std::fs::read_to_string(&server.config).expect("it is there");
    std::fs::write(&server.config, config + "[masking.rules]\npatient = 'Patient (\\d+)'\n")
        .expect("the folder is ours");
    server.start_again();
    let mut client = Client::new(server.address);
    ask(&mut client, REFRESH, "transcriptPosition=1".into()).await;
    assert_eq!(rows(&server).await, ["1", "0", "0"], "the same event");
    ask(&mut client, REFRESH, "transcriptPosition=1".into()).await;
    assert_eq!(rows(&server).await, ["1", "1", "1"], "another content");
    let variant = Archive::open(&server.database).await.value("SELECT kind || ' ' || raw FROM event_variants").await;
    assert_eq!(variant, r#"changed {"index":1,"type":"Message","text":"Patient ****** is gone"}"#);
}

/// A cap within a number or a secret: what is kept of a request and its answer has no part of them. A value is known by the
/// name of its field; a file by its id, which may look like a card.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_named_or_a_files_id_is_in_no_file() {
    const CUT: &str = "453917882275797";
    const SECRET: &str = "k5b1dd0c4e9a2f7730";
    const DATA: &str =
        r#"{"card_cvv":"\u0037\u0033\u0037","cvv":["737"],"security_code":{"value":" 737 "},"cvvNumber":737.0}"#;
    let node = Origin::start(|request| {
        let text = String::from_utf8_lossy(request);
        let answer = match text.split(' ').nth(1).unwrap_or_default() {
            path if path.ends_with("/download") => {
                b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\nContent-Length: 4\r\n\r\n%PDF".to_vec()
            }
            path if path.ends_with("/refresh") => json_answer(&format!(
                r#"{{"statusCode":0,"chatId":"C1","nextPosition":2,"messages":[{{"index":1,"type":"Message","text":"x","userData":{DATA}}}]}}"#
            )),
            path if path.ends_with("/startTyping") => json_answer(&format!("{{bad {SECRET}")),
            _ => json_answer(r#"{"statusCode":0,"chatId":"C1","userId":"U1"}"#),
        };
        Answer { bytes: answer, close: false }
    });
    let folder = folder();
    let capped = "[recording]\nrequest_bytes_max = '1KiB'\n";
    let server = Server::start(folder.path(), &[node.address], capped);
    let mut client = Client::new(server.address);
    let up_to_cap = |last: &str, known: usize| {
        let begun = format!("userData[card_cvv]=+737+&subject=x&text={{}}&{last}");
        let fill = (1 << 10) + 2 - begun.len() - known;
        begun.replace("{}", &"x".repeat(fill))
    };
    ask(&mut client, "/genesys/2/chat/support", up_to_cap("nickname=", CUT.len()) + CUT + "3").await;
    let got = ask(&mut client, REFRESH, "transcriptPosition=1".into()).await;
    assert!(find(&got.body, DATA.as_bytes()).is_some(), "clients get what the node said");
    for known in [0, 3, 12] {
        let form = up_to_cap("secureKey=", known) + SECRET;
        ask(&mut client, "/genesys/2/chat/support/C1/startTyping", form).await;
    }
    ask(&mut client, &format!("/genesys/2/chat/support/C1/file/{ADVICE}/download"), "x=1".into()).await;
    let mut archive = Archive::open(&server.database).await;
    eventually("all is written", async || {
        let counted = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM file_transfers) + (SELECT count(*) FROM findings)
            + (SELECT count(*) FROM chat_attributes WHERE source = 'request')";
        (archive.value(counted).await == "5").then_some(())
    })
    .await;
    for (name, bytes) in files(folder.path()) {
        for never in [&CUT[..7], &SECRET[3..], " 737 ", "\"737", "+737+", "737.0", "u0037", ADVICE] {
            assert!(find(&bytes, never.as_bytes()).is_none(), "{never} is in {name}");
        }
    }
    let attributes = "SELECT name || '=' || value FROM chat_attributes WHERE source = 'request' ORDER BY 1";
    assert_eq!(archive.rows(attributes).await.concat(), ["subject=x", "userData[card_cvv]= *** "]);
    let evidence = "SELECT field, at_character, characters FROM maskings WHERE what = 'event' ORDER BY id";
    assert_eq!(
        archive.rows(evidence).await,
        [
            ["/userData/card_cvv", "0", "3"],
            ["/userData/cvv/0", "0", "3"],
            ["/userData/security_code/value", "1", "3"],
            ["/userData/cvvNumber", "0", "3"],
        ]
    );
    assert_eq!(archive.value("SELECT file_id FROM file_transfers").await, "*".repeat(ADVICE.len()));
}
