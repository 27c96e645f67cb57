//! The nodes through real sockets, as a client meets them.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::*;

const FORM: &str = "application/x-www-form-urlencoded";
const CHAT: &str = "/genesys/2/chat/demo";

#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// statusCode, and the indices of the events.
    fn heard(&self) -> (i64, Vec<u64>) {
        let json = self.json();
        let indices = json["messages"].as_array().into_iter().flatten().filter_map(|event| event["index"].as_u64());
        (json["statusCode"].as_i64().unwrap_or(-1), indices.collect())
    }

    /// The codes of `errors[]`.
    fn codes(&self) -> Vec<u64> {
        self.json()["errors"].as_array().into_iter().flatten().filter_map(|error| error["code"].as_u64()).collect()
    }
}

/// One request on a connection of its own. Any failure of the transport is an error.
async fn ask(to: SocketAddr, method: Method, path: &str, kind: &str, body: &[u8]) -> Result<Reply, String> {
    let said = |error: hyper::Error| format!("{error:?}");
    let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("Host", "gms").header("Content-Type", kind);
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).expect("a valid request");
    let (head, body) = sender.send_request(request).await.map_err(said)?.into_parts();
    let body = body.collect().await.map_err(said)?.to_bytes();
    Ok(Reply { status: head.status, headers: head.headers, body })
}

async fn post(to: SocketAddr, path: &str, form: &str) -> Reply {
    ask(to, Method::POST, path, FORM, form.as_bytes()).await.expect(path)
}

async fn get(to: SocketAddr, path: &str) -> Reply {
    ask(to, Method::GET, path, "", b"").await.expect(path)
}

/// A chat of one's own, opened.
struct Opened {
    at: SocketAddr,
    id: String,
    key: String,
}

impl Opened {
    async fn new(at: SocketAddr) -> Self {
        let json = post(at, CHAT, "nickname=Anna&subject=Help").await.json();
        let text = |name: &str| json[name].as_str().expect(name).to_owned();
        Self { at, id: text("chatId"), key: text("secureKey") }
    }

    async fn post(&self, operation: &str, form: &str) -> Reply {
        self.try_post(operation, form).await.expect(operation)
    }

    async fn try_post(&self, operation: &str, form: &str) -> Result<Reply, String> {
        let (path, form) = (format!("{CHAT}/{}/{operation}", self.id), format!("secureKey={}&{form}", self.key));
        ask(self.at, Method::POST, &path, FORM, form.as_bytes()).await
    }

    async fn upload(&self, name: &str, content: &str) -> Reply {
        let (path, body) = (format!("{CHAT}/{}/file", self.id), self.multipart(name, content, ""));
        ask(self.at, Method::POST, &path, "multipart/form-data; boundary=XX", body.as_bytes()).await.expect("upload")
    }

    fn multipart(&self, name: &str, content: &str, operation: &str) -> String {
        let part =
            |about: &str, value: &str| format!("--XX\r\nContent-Disposition: form-data; {about}\r\n\r\n{value}\r\n");
        let file = part(&format!("name=\"file\"; filename=\"{name}\""), content);
        let fields = [("secureKey", self.key.as_str()), ("operation", operation)];
        let fields = fields.map(|(field, value)| part(&format!("name=\"{field}\""), value)).concat();
        format!("{fields}{file}--XX--\r\n")
    }
}

async fn start(config: Config) -> (Simulator, SocketAddr) {
    let simulator = Simulator::start(config).await.expect("free ports");
    let first = simulator.addresses()[0];
    (simulator, first)
}

fn script(agent: AgentScript) -> Config {
    Config { agent, ..Config::default() }
}

#[tokio::test]
async fn a_conversation_over_rest() {
    let (simulator, at) = start(script(AgentScript { hidden_every: 1, ..AgentScript::default() })).await;
    let chat = Opened::new(at).await;
    // What is asked, and what is heard: 3 is the agent joining with the message, 5 the hidden whisper.
    let rows: [(&str, &str, &[u64]); 14] = [
        ("refresh", "", &[1]),
        ("startTyping", "message=Fir", &[]),
        ("send", "message=First", &[]),
        ("refresh", "transcriptPosition=0", &[]),
        ("refresh", "transcriptPosition=1", &[1, 3, 4, 5]),
        ("refresh/", "transcriptPosition=4", &[4, 5]),
        ("refresh", "transcriptPosition=9", &[]),
        ("send", "message=Second&transcriptPosition=7", &[7, 8]),
        ("updateNickname", "nickname=Ann&transcriptPosition=10", &[10]),
        ("pushUrl", "pushUrl=http%3A%2F%2Fexample.com&transcriptPosition=11", &[11]),
        ("customNotice", "message=x&transcriptPosition=12", &[12]),
        ("updateData", "userData%5Ba%5D=b", &[]),
        ("readReceipt", "transcriptPosition=3", &[]),
        ("disconnect", "transcriptPosition=13", &[13, 14]),
    ];
    for (operation, form, indices) in rows {
        assert_eq!(chat.post(operation, form).await.heard(), (0, indices.to_vec()), "{operation} {form}");
    }
    let account = simulator.account();
    let told = account.chat(&chat.id).expect("opened");
    let unseen: Vec<u64> = told.events.iter().filter(|event| !event.delivered).map(|event| event.index).collect();
    assert_eq!((unseen, told.ended, told.next_position), (vec![2, 6, 9], true, 15));
    assert!(told.events.iter().all(|event| event.hidden != event.delivered));
    assert_eq!((account.messages["First"], account.messages["Second"]), (1, 1));
    assert_eq!((account.requests_of("refresh"), account.requests_of("send")), (5, 2));
    assert_eq!(told.events[2].event["utcTime"], told.events[3].event["utcTime"]);
    simulator.stop().await;
}

#[tokio::test]
async fn an_answer_has_the_members_of_the_page() {
    let (_simulator, at) = start(Config::default()).await;
    let reply = post(at, &format!("{CHAT}/"), "alias=&secureKey=&userId=&firstName=First&lastName=Step").await;
    let json = reply.json();
    let members: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected = ["alias", "chatEnded", "chatId", "messages", "nextPosition", "secureKey", "statusCode", "userId"];
    assert_eq!(members, expected);
    assert_eq!((json["chatId"].as_str().map(str::len), json["nextPosition"].as_u64()), (Some(16), Some(2)));
    assert_eq!(json["messages"][0]["from"], json!({"nickname": "First Step", "participantId": 1, "type": "Client"}));
    assert_eq!(reply.headers[header::CONTENT_TYPE], "application/json;charset=UTF-8");
}

#[tokio::test]
async fn what_is_missing_or_malformed_has_its_code() {
    let (simulator, at) = start(Config::default()).await;
    let chat = format!("{CHAT}/00001aCY6K8U003T");
    let rows: [(&str, &str, u16, &[u64]); 15] = [
        (CHAT, "subject=x", 400, &[102, 103]),
        (CHAT, "firstName=x", 400, &[103]),
        (CHAT, "lastName=x&emailAddress=nobody", 400, &[102, 364]),
        ("/genesys/2/chat/nosuch", "nickname=A", 404, &[306]),
        ("/genesys/2/chat/nosuch/00001aCY6K8U003T/refresh", "secureKey=x", 404, &[306]),
        (&format!("{chat}/refresh"), "secureKey=", 400, &[153]),
        (&format!("{chat}/send"), "message=", 400, &[153, 162]),
        (&format!("{chat}/pushUrl"), "secureKey=x", 400, &[163]),
        (&format!("{chat}/updateNickname"), "secureKey=x", 400, &[161]),
        (&format!("{chat}/refresh"), "secureKey=x", 200, &[249]),
        ("/genesys/2/chat-ntf", "operation=fileGetLimits&secureKey=x", 200, &[249]),
        ("/genesys/2/chat-ntf", "secureKey=x", 400, &[240]),
        ("/genesys/2/email/demo", "fromAddress=x&firstName=a&lastName=b&subject=c", 400, &[182, 381]),
        ("/genesys/2/openmedia/demo", "mediaType=x", 400, &[192, 193, 105]),
        ("/genesys/2/openmedia/demo/nosuch/stop", "", 400, &[248]),
    ];
    for (path, form, status, codes) in rows {
        let reply = post(at, path, form).await;
        assert_eq!((reply.status.as_u16(), reply.codes()), (status, codes.to_vec()), "{path} {form}");
    }
    let account = simulator.account();
    let codes = rows.iter().flat_map(|(_, _, _, codes)| codes.iter().copied());
    assert!(codes.eq(account.errors.iter().filter_map(|error| error.code.map(u64::from))));
    assert!(account.errors.iter().all(|error| error.delivered));
    let unknown = account.errors.iter().find(|error| error.code == Some(249)).expect("issued");
    assert_eq!((unknown.reference_id.as_deref(), unknown.status_code), (Some("10016629"), Some(2)));
    assert_eq!(unknown.chat_id.as_deref(), Some("00001aCY6K8U003T"));
}

#[tokio::test]
async fn old_releases_name_fields() {
    let (simulator, at) = start(Config { error_format: ErrorFormat::Old, ..Config::default() }).await;
    let reply = post(at, CHAT, "emailAddress=x").await;
    let sentence = "either nickname or firstName and lastName should be supplied";
    let fields = json!({"nickname": sentence, "emailAddress": "invalid"});
    assert_eq!((reply.status.as_u16(), reply.json()), (400, json!({"error": "validationError", "fields": fields})));
    let fields: Vec<_> = simulator.account().errors.into_iter().map(|error| (error.code, error.field)).collect();
    assert_eq!(fields, [(None, Some("nickname".into())), (None, Some("emailAddress".into()))]);
}

#[tokio::test]
async fn a_session_that_is_over_or_not_ones_own() {
    let (_simulator, at) = start(Config::default()).await;
    let chat = Opened::new(at).await;
    let foreign = Opened { at, id: chat.id.clone(), key: "ffffffffffffffffffff".into() };
    let reply = foreign.post("refresh", "").await;
    assert_eq!((reply.heard(), reply.json().get("chatEnded")), ((2, vec![]), None));
    assert_eq!(chat.post("disconnect", "").await.json()["chatEnded"], true);
    // One refresh more, then none; nothing can be said in between.
    let rows: [(&str, &str, i64, &[u64]); 4] = [
        ("send", "message=x", 2, &[]),
        ("refresh", "", 0, &[1, 2]),
        ("refresh", "", 2, &[]),
        ("disconnect", "", 2, &[]),
    ];
    for (operation, form, status_code, indices) in rows {
        let reply = chat.post(operation, form).await;
        assert_eq!(reply.heard(), (status_code, indices.to_vec()), "{operation}");
        assert_eq!(reply.json()["chatEnded"], true, "{operation}");
    }
}

#[tokio::test]
async fn files_go_up_and_down() {
    let files = FileLimits { files_max: 2, file_bytes_max: 10, ..FileLimits::default() };
    let (_simulator, at) = start(Config { files, ..Config::default() }).await;
    let chat = Opened::new(at).await;
    assert_eq!(chat.upload("a.txt", "early").await.codes(), [261]);
    chat.post("send", "message=hi").await;
    let uploaded = chat.upload("a.txt", "content").await.json();
    let id = uploaded["userData"]["file-id"].as_str().expect("a file-id").to_owned();
    assert_eq!(chat.upload("b.exe", "more than ten bytes").await.codes(), [202, 203]);
    let downloaded = chat.post(&format!("file/{id}/download"), "").await;
    assert_eq!(
        (&downloaded.body[..], &downloaded.headers[header::CONTENT_TYPE]),
        (&b"content"[..], &"application/octet-stream".parse().expect("valid"))
    );
    let limits = chat.post("file/limits", "").await.json();
    assert_eq!(limits["messages"][0]["userData"]["used-upload-max-files"], "1");
    assert_eq!(limits["messages"][0].get("index"), None);
    chat.upload("b.txt", "b").await;
    let third = chat.upload("c.txt", "c").await;
    assert_eq!(third.json(), json!({"errors": [{"code": 201, "advice": "2"}]}));
    let rows: [(&str, &[u64]); 4] = [("delete", &[]), ("delete", &[264]), ("download", &[264]), ("nosuch", &[241])];
    for (operation, codes) in rows {
        let path = if operation == "nosuch" { "file/nosuch/delete".into() } else { format!("file/{id}/{operation}") };
        assert_eq!(chat.post(&path, "").await.codes(), codes, "{operation}");
    }
}

#[tokio::test]
async fn chat_ntf_says_nothing_of_the_session() {
    let (_simulator, at) = start(Config::default()).await;
    let chat = Opened::new(at).await;
    chat.post("send", "message=hi").await;
    let body = chat.multipart("a.txt", "content", "fileUpload");
    let kind = "multipart/form-data; boundary=XX";
    let ntf = "/genesys/2/chat-ntf";
    let uploaded = ask(at, Method::POST, ntf, kind, body.as_bytes()).await.expect("upload");
    assert_eq!(uploaded.heard(), (0, vec![5]));
    assert_eq!(["chatId", "secureKey", "nextPosition"].map(|name| uploaded.json().get(name).is_some()), [false; 3]);
    let id = uploaded.json()["userData"]["file-id"].as_str().expect("a file-id").to_owned();
    let form = |operation: &str| format!("operation={operation}&secureKey={}&fileId={id}", chat.key);
    assert_eq!(&post(at, ntf, &form("fileDownload")).await.body[..], b"content");
    assert_eq!(post(at, ntf, &form("fileGetsLimits")).await.heard(), (0, vec![]));
    assert_eq!(post(at, ntf, &form("fileDelete")).await.heard(), (0, vec![6]));
    assert_eq!(post(at, ntf, &form("fileDelete")).await.codes(), [264]);
}

#[tokio::test]
async fn what_else_is_on_a_node() {
    let (_simulator, at) = start(Config::default()).await;
    let status = get(at, "/genesys/1/admin/node/status").await;
    assert_eq!((&status.body[..], status.headers.contains_key(header::SET_COOKIE)), (&b"ONLINE"[..], true));
    let nowhere = get(at, "/genesys/2/chats").await;
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND);
    assert!(nowhere.body.starts_with(b"<html>\n<head>"));
    assert_eq!(get(at, CHAT).await.status, StatusCode::METHOD_NOT_ALLOWED);
    let email = "firstName=a&lastName=b&subject=c&text=d&fromAddress=a%40example.com";
    let interaction = post(at, "/genesys/2/email/demo", email).await.json()["interactionId"].clone();
    assert_eq!(interaction.as_str().map(str::len), Some(16));
    let create = post(at, "/genesys/1/service/request-chat", "").await.json()["_chatIxnAPI-CREATE-URL"].clone();
    assert!(create.as_str().is_some_and(|url| url.starts_with("/genesys/1/service/")));
    assert_eq!(get(at, "/genesys/1/storage/3000000").await.body.len(), 3_000_000);
    let sunk = ask(at, Method::POST, "/genesys/1/storage", "", &vec![1; 2_000_000]).await.expect("upload");
    assert_eq!(sunk.json(), json!({"bytes": 2_000_000}));
    assert_eq!(get(at, "/__account").await.json()["uploaded_bytes"], 2_000_000);
}

#[tokio::test]
async fn agents_leave_and_come_again_and_end_chats() {
    let agent =
        AgentScript { rejoins_every: 1, ends_after: 2, hidden_every: 0, typing: true, ..AgentScript::default() };
    let (simulator, at) = start(Config { alias_every: 1, ..script(agent) }).await;
    let chat = Opened::new(at).await;
    let aliases = [chat.post("send", "message=1").await, chat.post("send", "message=2").await];
    assert_ne!(aliases[0].json()["alias"], aliases[1].json()["alias"]);
    let account = simulator.account();
    let events = &account.chat(&chat.id).expect("opened").events;
    let joined = |event: &&EventAccount| event.event["type"] == "ParticipantJoined";
    let ids: Vec<&Value> = events.iter().filter(joined).map(|event| &event.event["from"]["participantId"]).collect();
    assert_eq!(ids, [1, 2, 3]);
    let last = &events.last().expect("events").event;
    assert_eq!(last["eventAttributes"], json!({"GCTI_SYSTEM": {"quit-reason-code": "5"}}));
    assert!(account.chat(&chat.id).expect("opened").ended);
}

#[tokio::test]
async fn a_chat_grows_by_being_refreshed() {
    let growth = Growth { events_per_chat: 50, events_per_poll: 20 };
    let (simulator, at) = start(Config { growth, ..Config::default() }).await;
    let chat = Opened::new(at).await;
    for next in [22, 42, 51, 51] {
        assert_eq!(chat.post("refresh", "transcriptPosition=1").await.json()["nextPosition"], next);
    }
    let account = simulator.account();
    let told = account.chat(&chat.id).expect("opened");
    assert!(told.visible().all(|event| event.delivered));
    assert!(told.visible().count() < 50, "some are hidden");
}

fn always(set: impl FnOnce(&mut Faults)) -> Faults {
    let mut faults = Faults::default();
    set(&mut faults);
    faults
}

#[tokio::test]
async fn faults_are_true_on_the_wire() {
    let (simulator, at) = start(Config::default()).await;
    let chat = Opened::new(at).await;
    let yes = Chance::ALWAYS;
    // What is said in place of an answer, or inside it.
    let rows = [
        (always(|f| f.unexpected = yes), "240"),
        (always(|f| f.media_server = yes), "referenceId["),
        (always(|f| f.temporary = yes), "{\"statusCode\":1}"),
        (always(|f| f.server_error = yes), "HTTP ERROR 500"),
        (always(|f| f.unavailable = yes), "HTTP ERROR 503"),
        (always(|f| f.reset_before_reading = yes), "ConnectionReset"),
        (always(|f| f.reset_after_reading = yes), "ConnectionReset"),
        (always(|f| f.truncated = yes), "UnexpectedEof"),
        (always(|f| (f.truncated, f.chunked) = (yes, yes)), "UnexpectedEof"),
        (always(|f| f.malformed = yes), ",]"),
        (always(|f| f.python = yes), "'chatEnded': False"),
        (always(|f| f.variant = yes), "(changed "),
        (always(|f| f.slow = yes), "\"statusCode\":0"),
        (always(|f| (f.delay, f.delay_ms_max) = (yes, 60)), "\"statusCode\":0"),
        (always(|f| f.chunked = yes), "\"statusCode\":0"),
    ];
    for (faults, said) in rows {
        simulator.replace_faults(faults.clone());
        let heard = match chat.try_post("refresh", "").await {
            Ok(reply) => String::from_utf8_lossy(&reply.body).into_owned(),
            Err(error) => error,
        };
        assert!(heard.contains(said), "{said} in {heard} under {faults:?}");
    }
    let account = simulator.account();
    assert_eq!((account.errors.len(), account.resets_before_reading), (5, 1));
    assert_eq!(account.chat(&chat.id).expect("opened").events[0].variants.len(), 1);
}

#[tokio::test]
async fn encodings_and_framing_follow_the_faults() {
    let (simulator, at) = start(Config::default()).await;
    let chat = Opened::new(at).await;
    let gunzip = |body: &[u8]| {
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(body).read_to_string(&mut text).map(|_| text).expect("gzip")
    };
    simulator.replace_faults(always(|f| (f.gzip, f.chunked) = (Chance::ALWAYS, Chance::every(2))));
    for _ in 0..4 {
        let reply = chat.post("refresh", "").await;
        assert_eq!(reply.headers[header::CONTENT_ENCODING], "gzip");
        assert!(gunzip(&reply.body).contains("\"statusCode\":0"));
        let chunked = reply.headers.contains_key(header::TRANSFER_ENCODING);
        assert_ne!(chunked, reply.headers.contains_key(header::CONTENT_LENGTH));
    }
    simulator.replace_faults(always(|f| f.zstd = Chance::ALWAYS));
    let reply = chat.post("refresh", "").await;
    let text = zstd::decode_all(&reply.body[..]).expect("zstd");
    assert!(text.starts_with(b"{\"alias\""));
}

#[tokio::test]
async fn what_was_not_written_whole_was_not_delivered() {
    let agent = AgentScript { hidden_every: 0, ..AgentScript::default() };
    let (simulator, at) = start(script(agent)).await;
    let chat = Opened::new(at).await;
    let delivered = |index: usize| simulator.account().chat(&chat.id).expect("opened").events[index].delivered;
    let rows = [
        always(|f| f.reset_after_reading = Chance::ALWAYS),
        always(|f| f.truncated = Chance::ALWAYS),
        always(|f| f.malformed = Chance::ALWAYS),
    ];
    for (faults, number) in rows.into_iter().zip(0_usize..) {
        simulator.replace_faults(faults);
        let form = format!("message=say{number}&transcriptPosition=2");
        let _lost = chat.try_post("send", &form).await;
        assert_eq!(simulator.account().messages[&format!("say{number}")], 1);
        assert!(!delivered(2), "under the fault number {number}");
    }
    simulator.replace_faults(Faults::default());
    chat.post("refresh", "").await;
    assert!(delivered(2));
}

/// Whoever has read an answer finds it in the account, also when the nodes run on other threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_is_accounted_for() {
    let growth = Growth { events_per_chat: 40, events_per_poll: 10 };
    let simulator = Simulator::start(Config { growth, ..Config::nodes(3) }).await.expect("free ports");
    let simulator = Arc::new(simulator);
    let chats = (0..20).map(|n| {
        let simulator = Arc::clone(&simulator);
        async move {
            let chat = Opened::new(simulator.addresses()[n % 3]).await;
            for _ in 0..6 {
                let (_, heard) = chat.post("refresh", "").await.heard();
                let account = simulator.account();
                let told = account.chat(&chat.id).expect("opened");
                let delivered: Vec<u64> = told.visible().filter(|event| event.delivered).map(|e| e.index).collect();
                assert_eq!(delivered, heard);
            }
        }
    });
    let all: JoinSet<()> = chats.collect();
    all.join_all().await;
    assert_eq!(simulator.account().requests["refresh"].iter().sum::<u64>(), 120);
}

#[tokio::test]
async fn connections_close_when_they_have_served_enough() {
    let faults = Faults { requests_per_connection: 2, idle_ms: 50, ..Faults::default() };
    let (_simulator, at) = start(Config { faults, ..Config::default() }).await;
    let stream = TcpStream::connect(at).await.expect("listens");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("connected");
    let closed = tokio::spawn(connection);
    let request = || Request::get("/genesys/1/node").header("Host", "gms").body(Full::<Bytes>::default());
    for closes in [false, true] {
        let reply = sender.send_request(request().expect("valid")).await.expect("answered");
        assert_eq!(reply.headers().contains_key(header::CONNECTION), closes);
        reply.into_body().collect().await.expect("whole");
    }
    assert!(closed.await.expect("no panic").is_ok());
    let silent = TcpStream::connect(at).await.expect("listens");
    silent.readable().await.expect("readable at the end");
    assert_eq!(silent.try_read(&mut [0; 8]).expect("end"), 0);
}

#[tokio::test]
async fn nodes_die_hang_and_return() {
    let (simulator, at) = start(Config::nodes(2)).await;
    let other = simulator.addresses()[1];
    let chat = Opened::new(at).await;
    let there = Opened { at: other, id: chat.id.clone(), key: chat.key.clone() };
    simulator.stop_node(0).await;
    assert!(chat.try_post("refresh", "").await.is_err());
    assert_eq!(there.post("refresh", "").await.heard(), (0, vec![1]));
    simulator.start_node(0).await.expect("the same port is free");
    assert!(simulator.start_node(0).await.is_err(), "it runs already");
    assert_eq!(chat.post("refresh", "").await.heard(), (0, vec![1]));
    simulator.hang_node(0, true);
    let waiting = tokio::time::timeout(Duration::from_millis(80), chat.try_post("send", "message=hello")).await;
    assert!(waiting.is_err(), "no answer while it hangs");
    assert_eq!(simulator.account().messages["hello"], 1);
    simulator.hang_node(0, false);
    assert_eq!(chat.post("refresh", "transcriptPosition=0").await.heard(), (0, vec![]));
    simulator.stop().await;
    assert!(TcpStream::connect(at).await.is_err());
}

#[tokio::test]
async fn faults_are_replaced_over_http() {
    let (_simulator, at) = start(Config::default()).await;
    let set = |body: &'static str| ask(at, Method::POST, "/__faults", "application/json", body.as_bytes());
    assert_eq!(set(r#"{"unexpectd": 1}"#).await.expect("answered").status, StatusCode::BAD_REQUEST);
    assert_eq!(set(r#"{"unexpected": {"every": 1}}"#).await.expect("answered").status, StatusCode::OK);
    assert_eq!(post(at, CHAT, "nickname=A").await.codes(), [240]);
}

/// A CometD client.
struct Comet {
    at: SocketAddr,
    id: String,
}

const CHANNEL: &str = "/service/chatV2/demo";

impl Comet {
    async fn new(at: SocketAddr) -> Self {
        let mut comet = Self { at, id: String::new() };
        let handshake = json!([{"channel": "/meta/handshake", "id": "1", "version": "1.0"}]);
        let reply = comet.ask(&handshake).await;
        assert!(reply.headers[header::SET_COOKIE].to_str().is_ok_and(|cookie| cookie.starts_with("BAYEUX_BROWSER=")));
        comet.id = reply.json()[0]["clientId"].as_str().expect("a clientId").to_owned();
        comet
    }

    async fn ask(&self, messages: &Value) -> Reply {
        let body = messages.to_string();
        ask(self.at, Method::POST, "/genesys/cometd", "application/json", body.as_bytes()).await.expect("cometd")
    }

    async fn send(&self, channel: &str, what: Value) -> Value {
        let mut message = json!({"channel": channel, "id": "7", "clientId": self.id});
        message.as_object_mut().expect("an object").extend(what.as_object().cloned().unwrap_or_default());
        self.ask(&json!([message])).await.json()
    }

    async fn publish(&self, data: Value) -> Value {
        self.send(CHANNEL, json!({"data": data})).await
    }

    async fn connect(&self) -> Value {
        self.send("/meta/connect", json!({"connectionType": "long-polling"})).await
    }
}

/// Channel and event indices of each message of an array.
fn heard(array: &Value) -> Vec<String> {
    let line = |message: &Value| {
        let indices =
            message["data"]["messages"].as_array().into_iter().flatten().map(|event| event["index"].to_string());
        let indices: Vec<String> = indices.collect();
        format!("{} {}", message["channel"].as_str().unwrap_or("?"), indices.join(",")).trim_end().to_owned()
    };
    array.as_array().expect("an array").iter().map(line).collect()
}

#[tokio::test]
async fn a_conversation_over_cometd() {
    let (simulator, at) = start(Config { connect_hold: Duration::from_secs(5), ..Config::default() }).await;
    let comet = Comet::new(at).await;
    let open = json!({"operation": "requestChat", "nickname": "Anna"});
    let opened = comet.publish(open.clone()).await;
    assert_eq!(heard(&opened), [format!("{CHANNEL} 1"), CHANNEL.to_owned()]);
    assert_eq!(opened[1], json!({"channel": CHANNEL, "id": "7", "successful": true}));
    let key = opened[0]["data"]["secureKey"].as_str().expect("a key").to_owned();
    assert_eq!(key.len(), 100);
    comet.publish(open).await;
    assert_eq!(heard(&comet.connect().await), ["/meta/connect"], "the first is answered at once");
    let say = json!({"operation": "sendMessage", "message": "hi", "secureKey": key});
    let held = async { tokio::join!(comet.connect(), comet.publish(say)) };
    let started = Instant::now();
    let (connected, published) = held.await;
    assert!(started.elapsed() < Duration::from_secs(4), "woken, not timed out");
    let both = [heard(&connected), heard(&published)].concat();
    assert!(both.contains(&format!("{CHANNEL} 2,3,4")), "{both:?}");
    let again = json!({"operation": "requestNotifications", "secureKey": key, "transcriptPosition": 3});
    assert_eq!(heard(&comet.publish(again).await)[0], format!("{CHANNEL} 3,4"));
    let unknown = json!({"operation": "sendMessage", "message": "x", "secureKey": "nosuch"});
    assert_eq!(comet.publish(unknown).await[0]["data"]["errors"][0]["code"], 249);
    let over = comet.publish(json!({"operation": "disconnect", "secureKey": key})).await;
    assert_eq!((heard(&over)[0].as_str(), &over[0]["data"]["chatEnded"]), ("/service/chatV2/demo 5,6", &json!(true)));
    assert_eq!(heard(&comet.send("/meta/disconnect", json!({})).await), ["/meta/disconnect"]);
    assert_eq!(comet.connect().await[0]["error"], "402::Unknown client");
    let account = simulator.account();
    assert_eq!((account.chats.len(), account.messages["hi"]), (2, 1));
    assert!(account.chats.iter().flat_map(ChatAccount::visible).all(|event| event.delivered));
}

#[tokio::test]
async fn cometd_batches_and_affinity() {
    let hold = Duration::from_millis(30);
    let (simulator, at) = start(Config { connect_hold: hold, ..Config::nodes(2) }).await;
    let comet = Comet::new(at).await;
    comet.connect().await;
    assert_eq!(heard(&comet.connect().await), ["/meta/connect"], "held until the time is up");
    let message = |channel: &str, id: u64| json!({"channel": channel, "id": id, "clientId": comet.id});
    let mut publish = message(CHANNEL, 2);
    publish["data"] = json!({"operation": "requestChat", "nickname": "Anna"});
    let batch = json!([message("/meta/subscribe", 1), publish, message("/meta/connect", 3)]);
    let expected = ["/service/chatV2/demo 1", "/meta/subscribe", CHANNEL, "/meta/connect"];
    assert_eq!(heard(&comet.ask(&batch).await.json()), expected);
    let elsewhere = Comet { at: simulator.addresses()[1], id: comet.id.clone() };
    let single = elsewhere.ask(&message(CHANNEL, 4)).await.json();
    let unknown = json!([{"channel": CHANNEL, "id": 4, "error": "402::Unknown client", "successful": false}]);
    assert_eq!(single, unknown);
    assert_eq!(get(at, "/genesys/cometd").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(simulator.account().errors[0].bayeux.as_deref(), Some("402::Unknown client"));
}

#[tokio::test]
async fn agents_who_think_first_answer_later() {
    let agent = AgentScript { reply_delay_ms: 40, ..AgentScript::default() };
    let (_simulator, at) = start(script(agent)).await;
    let comet = Comet::new(at).await;
    let opened = comet.publish(json!({"operation": "requestChat", "nickname": "Anna", "text": "hello"})).await;
    assert_eq!(heard(&opened)[0], format!("{CHANNEL} 1,2,3"));
    comet.connect().await;
    let connected = comet.connect().await;
    assert_eq!(connected[0]["data"]["messages"][0]["text"], "You said: hello");
}
