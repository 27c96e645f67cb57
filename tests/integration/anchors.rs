//! Anchors against real servers: moto and rclone for buckets, openssl as a time stamp authority, collectors over HTTP and
//! TLS; and servers that do wrong.

use std::fs::Permissions;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gms_recorder::archive::anchor::{Anchor, Config as Kind, News, Signed, look};
use gms_recorder::archive::note::{Checkpoint, Signer};
use gms_recorder::archive::time_stamp;
use gms_recorder::archive::verify::{Answer as Verdict, Question, verify};
use gms_recorder::simulator::{Config, Simulator};
use http::StatusCode;

use crate::support::{
    Answer, Chat, Client, Origin, PATIENCE, Server, eventually, files, find, folder, free_address, get, run, send_raw,
};
use crate::tls::{Ca, tls_node};

const TOKEN: &str = "s3cr3t-t0ken-of-the-collector";
const SECRET: &str = "s3cr3t-key-of-the-bucket";

const SIGNATURE: &str =
    "AWS4-HMAC-SHA256 Credential=access/20261126/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// A program of the environment that tests/run makes.
pub fn installed(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/anchor-servers/bin").join(name);
    assert!(path.exists(), "{} is installed by tests/run", path.display());
    path
}

/// A server of anchors, as a process of its own.
pub struct Service {
    child: Child,
    address: SocketAddr,
}

impl Service {
    fn start(address: SocketAddr, command: &mut Command) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed");
        let service = Self { child, address };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        service
    }

    /// A service with object lock, and no eye for signatures.
    pub fn moto(address: SocketAddr) -> Self {
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        Self::start(address, Command::new(installed("moto_server")).args(["-H", &host, "-p", &port]))
    }

    /// One without, that checks signatures. Its buckets are folders.
    pub fn rclone(address: SocketAddr, folder: &Path) -> Self {
        let keys = format!("access,{SECRET}");
        let mut command = Command::new(installed("rclone"));
        command.args(["serve", "s3", "--addr", &address.to_string(), "--auth-key", &keys]).arg(folder);
        Self::start(address, command.env("RCLONE_CONFIG", folder.join("none")))
    }

    /// With a signature that moto does not look at; whether it succeeded, and what was said.
    pub fn ask(&self, method: &str, path: &str, fields: &str, body: &str) -> (bool, String) {
        let (host, length) = (self.address, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: {SIGNATURE}\r\ncontent-length: {length}\r\n{fields}\r\n{body}"
        );
        let answer = String::from_utf8_lossy(&send_raw(self.address, request.as_bytes())).into_owned();
        (answer.starts_with("HTTP/1.1 2"), answer)
    }

    pub fn make_bucket(&self, name: &str, has_lock: bool) {
        let lock = if has_lock { "x-amz-bucket-object-lock-enabled: true\r\n" } else { "" };
        let (is_made, said) = self.ask("PUT", &format!("/{name}"), lock, "");
        assert!(is_made, "{said}");
    }

    /// The keys in a bucket.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let (is_told, said) = self.ask("GET", &format!("/{bucket}?list-type=2"), "", "");
        assert!(is_told, "{said}");
        between(&said, "<Key>", "</Key>")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn between(text: &str, start: &str, end: &str) -> Vec<String> {
    let parts = text.split(start).skip(1).filter_map(|rest| rest.split_once(end));
    parts.map(|(part, _)| part.to_owned()).collect()
}

/// A file that its owner alone can read.
fn private(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).expect("the folder is ours");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("the file is ours");
    path
}

pub fn credentials(folder: &Path) -> PathBuf {
    let text = format!("[default]\naws_access_key_id = access\naws_secret_access_key = {SECRET}\n");
    private(folder.join("credentials"), &text)
}

/// An anchor as the configuration has it.
fn kind(toml: &str) -> Kind {
    toml::from_str(toml).unwrap_or_else(|error| panic!("{toml}: {error}"))
}

fn start(toml: &str) -> (Anchor, Receiver<News>) {
    let (said, news) = channel();
    let anchor = Anchor::start("a".into(), kind(toml), move |one| drop(said.send(one))).expect("a thread");
    (anchor, news)
}

/// What becomes of one checkpoint at such an anchor.
#[track_caller]
fn outcome(toml: &str, signed: &Arc<Signed>) -> News {
    let (anchor, news) = start(toml);
    anchor.offer(signed.clone());
    let first = news.recv_timeout(PATIENCE).expect("news");
    Anchor::close(vec![anchor], PATIENCE);
    first
}

#[track_caller]
fn refused(toml: &str, words: &str) {
    match outcome(toml, &signed(7)) {
        News::Refused(why) => assert!(why.contains(words) && !why.contains(SECRET) && !why.contains(TOKEN), "{why}"),
        other => panic!("{toml}: {other:?}"),
    }
}

/// A checkpoint of that many leaves, of no archive.
fn signed(size: u64) -> Arc<Signed> {
    let signer = Signer::of("gms-recorder/15cd", &[9; 32]).expect("a key");
    let checkpoint = Checkpoint {
        archive_id: "15cd".into(),
        size,
        root: [7; 32],
        number: 1,
        at: jiff::Timestamp::now().as_millisecond(),
    };
    let note = signer.sign(&checkpoint);
    Arc::new(Signed { checkpoint, note })
}

fn verdict(database: &Path, anchors: &[&Path]) -> Verdict {
    let question = Question {
        anchors: anchors.iter().map(|path| path.to_path_buf()).collect(),
        keys: Vec::new(),
        ..Question::default()
    };
    let verdict = verify(database, &question, &mut |_, _| {}).expect("all of it can be read");
    let faults: Vec<String> = verdict.all_faults().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "{faults:?}");
    verdict
}

/// A run whose anchor `a` is down, then comes back; the other one, a file, is not touched by that. `up` brings it back, and
/// what it returns lives until the stop.
async fn outage<T>(folder: &Path, anchor: &str, environment: &[(&str, &str)], up: impl FnOnce() -> T) -> (Server, T) {
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let file = folder.join("checkpoints");
    let settings = format!(
        "[evidence]\ncheckpoint_interval = \"100ms\"\nanchor_file = {file:?}\n[log]\nlevel = \"trace\"\n[evidence.anchors.a]\n{anchor}"
    );
    let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let mut server = Server::start_with_environment(folder, &simulator.addresses(), &settings, environment);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let words = async || get(server.admin, "/ready").await.expect("it runs");
    eventually("it is told", async || words().await.1.contains("the anchor a takes no checkpoints: ").then_some(()))
        .await;
    let began = Instant::now();
    for n in 0..5 {
        chat.insist(&mut client, "send", &format!("message=m{n}")).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "chats wait for an anchor");
    assert_eq!(words().await.0, StatusCode::OK);
    assert_eq!(server.metric("gms_recorder_anchor_up{anchor=\"a\"}").await, Some(0.0));
    assert_eq!(server.metric("gms_recorder_anchor_up{anchor=\"anchor_file\"}").await, Some(1.0));
    let service = up();
    eventually("it is well again", async || {
        (server.metric("gms_recorder_anchor_up{anchor=\"a\"}").await? == 1.0).then_some(())
    })
    .await;
    assert!(!words().await.1.contains("the anchor a "), "{}", words().await.1);
    chat.insist(&mut client, "send", "message=after").await;
    assert!(server.stop().success());
    simulator.stop().await;
    let log = server.log();
    assert!(log.contains("the anchor takes no checkpoints") && log.contains("the anchor takes checkpoints again"));
    assert!(!log.contains(TOKEN) && !log.contains(SECRET), "a secret is in the log");
    for (name, bytes) in files(folder).iter().filter(|(name, _)| name.starts_with("transcripts.db")) {
        assert!(find(bytes, TOKEN.as_bytes()).or(find(bytes, SECRET.as_bytes())).is_none(), "a secret is in {name}");
    }
    // What a client over HTTP says at `trace` is what it sends, a line for each few bytes.
    let others = |level: &str| log.lines().any(|line| line.contains(level) && line.contains("\"target\":\"ureq"));
    assert!(others("\"DEBUG\"") && !others("\"TRACE\""), "the token's bytes are in the log");
    (server, service)
}

/// Every checkpoint that went to the file went there, too; and they are the archive's.
fn all_arrived(folder: &Path, database: &Path, arrived: &str) {
    let file = std::fs::read_to_string(folder.join("checkpoints")).expect("it is there");
    let notes: Vec<&str> = file.split("\n\n").map(str::trim).filter(|part| part.starts_with("— ")).collect();
    assert!(notes.len() > 3, "{file}");
    let missing = notes.iter().filter(|signature| !arrived.contains(**signature)).count();
    assert_eq!(missing, 0, "of {} checkpoints", notes.len());
    let elsewhere = folder.join("arrived");
    std::fs::write(&elsewhere, arrived).expect("the folder is ours");
    assert!(verdict(database, &[&elsewhere]).anchored > 1);
}

fn body(request: &[u8]) -> &[u8] {
    let head = find(request, b"\r\n\r\n").expect("a whole request");
    &request[head + 4..]
}

fn answer(status: &str, body: &[u8]) -> Answer {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
    Answer { bytes: [head.as_bytes(), body].concat(), close: false }
}

/// Takes what comes with the token.
fn collector(address: SocketAddr) -> Origin {
    Origin::at(address, |request| {
        let has_token = String::from_utf8_lossy(request).contains(&format!("Bearer {TOKEN}\r\n"));
        answer(if has_token { "204 No Content" } else { "401 Unauthorized" }, b"")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_every_checkpoint_those_of_its_outage_too() {
    let (folder, address) = (folder(), free_address());
    let token = private(folder.path().join("token"), &format!("{TOKEN}\n"));
    let anchor = format!("kind = \"http\"\nurl = \"http://{address}/checkpoints\"\ntoken_file = {token:?}\n");
    let (server, collector) = outage(folder.path(), &anchor, &[], || collector(address)).await;
    let posted = collector.requests.lock().expect("no panic holds it").concat();
    all_arrived(folder.path(), &server.database, &String::from_utf8_lossy(&posted));
    assert_eq!(look(&kind(&anchor)).map(|said| said.contains("reached")), Ok(true));
    // With a token that is not taken, or that others can read.
    private(token.clone(), "another");
    refused(&anchor, "401 Unauthorized");
    assert!(look(&kind(&anchor)).expect_err("a wrong token").contains("see token_file"));
    std::fs::set_permissions(&token, Permissions::from_mode(0o644)).expect("the file is ours");
    refused(&anchor, "can be used by others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_s_certificate_is_held_against_its_ca() {
    let (folder, ca) = (folder(), Ca::new("audit"));
    let collector = Origin::start(|_| answer("200 OK", b""));
    let address = tls_node(collector.address, &ca.issue(&["localhost"]), None).await;
    let (file, other) = (folder.path().join("ca.crt"), folder.path().join("other.crt"));
    std::fs::write(&file, ca.pem()).expect("the folder is ours");
    std::fs::write(&other, Ca::new("other").pem()).expect("the folder is ours");
    let anchor =
        move |host: &str, ca: &str| format!("kind = \"http\"\nurl = \"https://{host}:{}/\"\n{ca}", address.port());
    let with = |ca: &Path| format!("ca = {ca:?}\n");
    tokio::task::spawn_blocking(move || {
        assert_eq!(outcome(&anchor("localhost", &with(&file)), &signed(7)), News::Took(1));
        refused(&anchor("127.0.0.1", &with(&file)), "certificate");
        refused(&anchor("localhost", &with(&other)), "certificate");
        refused(&anchor("localhost", ""), "certificate"); // the system's
        std::fs::write(&file, "no PEM").expect("the folder is ours");
        refused(&anchor("localhost", &with(&file)), "holds no certificate");
        refused(&anchor("localhost", &with(Path::new("/none"))), "/none: cannot be read");
    })
    .await
    .expect("no panic");
}

/// An answer that never ends, in time or in bytes; one that breaks off; a redirect; no HTTP.
#[test]
fn an_answer_is_bounded_in_time_and_bytes_and_has_to_be_whole() {
    let check = |bytes: Vec<u8>, words: &str| {
        let origin = Origin::start(move |_| Answer { bytes: bytes.clone(), close: true });
        refused(&format!("kind = \"http\"\nurl = \"http://{}/\"\n", origin.address), words);
    };
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let endless = format!("{head}{}", format!("ffff\r\n{}\r\n", "x".repeat(0xffff)).repeat(64));
    check(endless.into_bytes(), "longer than 65536 bytes");
    check(format!("{head}5\r\nab").into_bytes(), "");
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab".to_vec(), "");
    check(
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_vec(),
        "307",
    );
    check(b"SSH-2.0-OpenSSH\r\n".to_vec(), "");
    check([b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'x'; 100_000]].concat(), "");
    // Nothing at all, and a byte now and then.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("free ports");
    let slow = std::net::TcpListener::bind("127.0.0.1:0").expect("free ports");
    let addresses = [&silent, &slow].map(|listener| listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        let (mut stream, _) = slow.accept().expect("somebody asks");
        let mut answer = head.bytes().chain("1\r\nx\r\n".bytes().cycle());
        while stream.write_all(&[answer.next().expect("it has no end")]).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let began = Instant::now();
    let asked = addresses.map(|address| start(&format!("kind = \"http\"\nurl = \"http://{address}/\"\n")));
    asked.iter().for_each(|(anchor, _)| anchor.offer(signed(7)));
    for (anchor, news) in asked {
        let said = news.recv_timeout(PATIENCE);
        assert!(matches!(&said, Ok(News::Refused(why)) if why.contains("within 10 s")), "{said:?}");
        Anchor::close(vec![anchor], Duration::ZERO);
    }
    assert!(began.elapsed() < Duration::from_secs(18), "they are asked at one time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_with_object_lock_gets_every_checkpoint_locked() {
    let (folder, address) = (folder(), free_address());
    let credentials = credentials(folder.path());
    let anchor = format!(
        "kind = \"s3\"\nurl = \"http://{address}\"\nbucket = \"audit\"\nprefix = \"a/b/\"\ncredentials = {credentials:?}\nretention = \"30d\"\n"
    );
    let up = || {
        let moto = Service::moto(address);
        moto.make_bucket("audit", true);
        moto
    };
    let (server, moto) = outage(folder.path(), &anchor, &[], up).await;
    let keys = moto.keys("audit");
    assert!(keys.iter().all(|key| key.starts_with("a/b/") && key.ends_with(".note")), "{keys:?}");
    // As somebody downloads it.
    let downloaded = folder.path().join("downloaded");
    let mut arrived = String::new();
    for key in &keys {
        let (is_there, said) = moto.ask("GET", &format!("/audit/{key}"), "", "");
        let (head, note) = said.split_once("\r\n\r\n").expect("a whole answer");
        assert!(is_there && head.to_ascii_lowercase().contains("x-amz-object-lock-mode: compliance"), "{head}");
        let file = downloaded.join(key);
        std::fs::create_dir_all(file.parent().expect("it has one")).expect("the folder is ours");
        std::fs::write(file, note).expect("the folder is ours");
        arrived += note;
    }
    all_arrived(folder.path(), &server.database, &arrived);
    assert!(verdict(&server.database, &[&downloaded]).anchored as usize >= keys.len() - 1);
    // Nobody takes one away, or replaces it.
    let key = &keys[0];
    let (_, said) = moto.ask("GET", "/audit?versions", "", "");
    let version = &between(&said, "<VersionId>", "</VersionId>")[0];
    let (is_gone, said) = moto.ask("DELETE", &format!("/audit/{key}?versionId={version}"), "", "");
    assert!(!is_gone && said.contains("AccessDenied"), "{said}");
    tokio::task::spawn_blocking(move || buckets_that_refuse(&moto, &anchor)).await.expect("no panic");
}

/// The same one again is success; another one in its place never is, and what follows goes on.
fn buckets_that_refuse(moto: &Service, anchor: &str) {
    let first = signed(7);
    assert_eq!(outcome(anchor, &first), News::Took(1));
    assert_eq!(outcome(anchor, &first), News::Took(1));
    let other = Arc::new(Signed { note: "another\n".into(), ..Signed::clone(&first) });
    let (thread, news) = start(anchor);
    thread.offer(other);
    thread.offer(signed(8));
    let said = news.recv_timeout(PATIENCE);
    assert!(matches!(&said, Ok(News::GaveUp(why)) if why.contains("ANOTHER CHECKPOINT IS AT")), "{said:?}");
    assert_eq!(news.recv_timeout(PATIENCE), Ok(News::Took(1)));
    Anchor::close(vec![thread], PATIENCE);
    // A bucket without lock; one that is not there; locks that are not wanted.
    moto.make_bucket("open", false);
    let open = anchor.replace("\"audit\"", "\"open\"");
    refused(&open, "NO OBJECT LOCK");
    assert_eq!(moto.keys("open"), Vec::<String>::new(), "nothing is put there");
    assert!(look(&kind(&open)).expect_err("no lock").contains("NO OBJECT LOCK"));
    refused(&anchor.replace("\"audit\"", "\"nowhere\""), "NoSuchBucket");
    let unlocked = open.replace("retention = \"30d\"", "lock = \"none\"");
    assert_eq!(outcome(&unlocked, &first), News::Took(1));
    assert_eq!(outcome(&format!("{anchor}lock = \"governance\"\n"), &signed(9)), News::Took(1));
    assert!(look(&kind(anchor)).expect("reached").contains("it has object lock"));
    assert!(look(&kind(&unlocked)).expect("reached").contains("without a lock"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_checks_signatures_takes_ours_and_one_without_locks_is_not_believed() {
    let (folder, address, buckets) = (folder(), free_address(), folder());
    std::fs::create_dir(buckets.path().join("audit")).expect("the folder is ours");
    let anchor = format!(
        "kind = \"s3\"\nurl = \"http://{address}\"\nbucket = \"audit\"\nlock = \"none\"\nregion = \"eu-west-1\"\n"
    );
    let environment = [("AWS_ACCESS_KEY_ID", "access"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let up = || Service::rclone(address, buckets.path());
    let (server, _rclone) = outage(folder.path(), &anchor, &environment, up).await;
    let bucket = buckets.path().join("audit");
    let file = std::fs::read_to_string(folder.path().join("checkpoints")).expect("it is there");
    let verdict = verdict(&server.database, &[&bucket]);
    assert_eq!(verdict.anchored as usize, file.matches("— ").count());
    tokio::task::spawn_blocking(move || {
        let ours = credentials(folder.path());
        let right = format!("{anchor}credentials = {ours:?}\n");
        assert_eq!(outcome(&right, &signed(7)), News::Took(1));
        assert!(look(&kind(&right)).is_ok());
        let wrong = private(folder.path().join("wrong"), "aws_access_key_id=access\naws_secret_access_key=wrong\n");
        let wrong = format!("{anchor}credentials = {wrong:?}\n");
        refused(&wrong, "403 Forbidden: SignatureDoesNotMatch");
        assert!(look(&kind(&wrong)).is_err());
        refused(&anchor, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set");
        // It takes the lock's fields, and locks nothing.
        refused(&right.replace("lock = \"none\"", "retention = \"30d\""), "LOCK");
    })
    .await
    .expect("no panic");
}

/// It goes away in the middle, and comes back: what it has missed arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_that_goes_away_for_a_while_misses_nothing() {
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let (folder, address, buckets) = (folder(), free_address(), folder());
    std::fs::create_dir(buckets.path().join("audit")).expect("the folder is ours");
    let rclone = Service::rclone(address, buckets.path());
    let settings = format!(
        "[evidence]\ncheckpoint_interval = \"100ms\"\nanchor_file = {:?}\n[evidence.anchors.a]\nkind = \"s3\"\n\
         url = \"http://{address}\"\nbucket = \"audit\"\nlock = \"none\"\ncredentials = {:?}\n",
        folder.path().join("checkpoints"),
        credentials(folder.path())
    );
    let mut server = Server::start(folder.path(), &simulator.addresses(), &settings);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let up = async |wanted: f64| (server.metric("gms_recorder_anchor_up{anchor=\"a\"}").await? == wanted).then_some(());
    let taken = async || server.metric("gms_recorder_anchor_checkpoints_total{anchor=\"a\"}").await;
    eventually("it takes some", async || taken().await.filter(|taken| *taken >= 1.0)).await;
    drop(rclone);
    chat.insist(&mut client, "send", "message=meanwhile").await;
    eventually("it is missed", async || up(0.0).await).await;
    chat.insist(&mut client, "send", "message=still").await;
    let _rclone = Service::rclone(address, buckets.path());
    eventually("it is back", async || up(1.0).await).await;
    assert!(server.stop().success());
    let file = std::fs::read_to_string(folder.path().join("checkpoints")).expect("it is there");
    let found = verdict(&server.database, &[&buckets.path().join("audit")]);
    assert_eq!(found.anchored as usize, file.matches("— ").count());
    simulator.stop().await;
}

/// A bucket that is asked for its lock with `asked`, and for an object's with `shown` (an answer's fields).
fn bucket(asked: &'static str, shown: String) -> Origin {
    Origin::start(move |request| match &request[..4] {
        b"GET " => answer(asked, b"<Error><Code>AccessDenied</Code></Error>"),
        b"HEAD" => {
            Answer { bytes: format!("HTTP/1.1 200 OK\r\n{shown}content-length: 0\r\n\r\n").into(), close: false }
        }
        _ => answer("200 OK", b""),
    })
}

/// Whoever may not ask the bucket has to see the lock of the first object.
#[test]
fn a_bucket_that_does_not_say_whether_it_locks_has_to_show_it() {
    let folder = folder();
    let credentials = credentials(folder.path());
    let anchor = |origin: &Origin| {
        let url = format!("http://{}", origin.address);
        format!(
            "kind = \"s3\"\nurl = {url:?}\nbucket = \"audit\"\ncredentials = {credentials:?}\nretention = \"30d\"\n"
        )
    };
    let day = |days: i64| jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
    let lock = |mode: &str, days: i64| {
        let until = day(days).strftime("%Y-%m-%dT%H:%M:%SZ");
        format!("x-amz-object-lock-mode: {mode}\r\nx-amz-object-lock-retain-until-date: {until}\r\n")
    };
    for asked in ["403 Forbidden", "501 Not Implemented"] {
        let origin = bucket(asked, lock("COMPLIANCE", 31));
        assert_eq!(outcome(&anchor(&origin), &signed(7)), News::Took(1));
        let methods: Vec<_> = origin.received().iter().map(|request| request[..4].to_owned()).collect();
        assert_eq!(methods, ["GET ", "PUT ", "HEAD"]);
        assert!(look(&kind(&anchor(&origin))).expect("reached").contains("it does not say whether it has object lock"));
    }
    let words = "NOTHING SHOWS THAT ITS OBJECTS ARE LOCKED";
    for shown in
        [String::new(), lock("GOVERNANCE", 31), lock("COMPLIANCE", 29), "x-amz-object-lock-mode: COMPLIANCE\r\n".into()]
    {
        refused(&anchor(&bucket("403 Forbidden", shown)), words);
    }
    refused(&anchor(&bucket("500 Internal Server Error", String::new())), "500 Internal Server Error: AccessDenied");
    refused(&anchor(&bucket("200 OK", String::new())), "NO OBJECT LOCK");
    // One that takes nothing.
    let refusing = Origin::start(|_| answer("403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>"));
    refused(&anchor(&refusing), "403 Forbidden: AccessDenied");
}

/// A bucket that locks nothing until a time that is over. A checkpoint may be from before: of a clock that was years behind, or
/// since it has waited for longer than it is to be kept.
#[test]
fn an_object_is_locked_from_now_on_where_its_checkpoint_is_older() {
    let folder = folder();
    let until = |request: &[u8]| {
        let request = String::from_utf8_lossy(request).into_owned();
        let field = between(&request, "x-amz-object-lock-retain-until-date: ", "\r\n");
        field.first().map(|until| until.parse::<jiff::Timestamp>().expect("a time"))
    };
    let origin = Origin::start(move |request| match (&request[..4], until(request)) {
        (b"GET ", _) => answer("200 OK", b"<ObjectLockEnabled>Enabled</ObjectLockEnabled>"),
        (_, Some(until)) if until > jiff::Timestamp::now() => answer("200 OK", b""),
        _ => answer("400 Bad Request", b"<Error><Code>InvalidArgument</Code></Error>"),
    });
    let anchor = format!(
        "kind = \"s3\"\nurl = \"http://{}\"\nbucket = \"audit\"\ncredentials = {:?}\nretention = \"30d\"\n",
        origin.address,
        credentials(folder.path())
    );
    let mut old = Signed::clone(&signed(7));
    old.checkpoint.at = 0;
    assert_eq!(outcome(&anchor, &Arc::new(old)), News::Took(1));
    let mut early = Signed::clone(&signed(8));
    // Of a clock that was ahead: as long as it says.
    early.checkpoint.at = (early.checkpoint.at / 1_000 + 3_600) * 1_000;
    let wanted = jiff::Timestamp::from_millisecond(early.checkpoint.at).expect("a time");
    assert_eq!(outcome(&anchor, &Arc::new(early)), News::Took(1));
    let asked = origin.requests.lock().expect("no panic holds it").last().and_then(|last| until(last));
    assert_eq!(asked, Some(wanted + jiff::SignedDuration::from_hours(24 * 30)));
}

/// What a server has against one checkpoint keeps no other one away; what it has against all of them takes none away.
#[test]
fn a_checkpoint_that_is_refused_for_what_it_is_blocks_no_other_one() {
    let folder = folder();
    let is_of = |request: &[u8], leaves: &str| {
        find(request, format!("\n{leaves}\n").as_bytes()).or(find(request, format!("/{leaves}-").as_bytes())).is_some()
    };
    let refusing = move |status: &'static str, leaves: &'static str| {
        Origin::start(move |request| match &request[..4] {
            b"GET " => answer("403 Forbidden", b""),
            _ => answer(if is_of(request, leaves) { status } else { "200 OK" }, b""),
        })
    };
    let http = |origin: &Origin| format!("kind = \"http\"\nurl = \"http://{}/\"\n", origin.address);
    let s3 = |origin: &Origin| {
        let credentials = credentials(folder.path());
        format!(
            "kind = \"s3\"\nurl = \"http://{}\"\nbucket = \"audit\"\ncredentials = {credentials:?}\nlock = \"none\"\n",
            origin.address
        )
    };
    // At the stop: what the anchor said, in order, and what is left.
    let at_the_stop = |toml: &str| {
        let (thread, news) = start(toml);
        thread.offer(signed(7));
        assert!(matches!(news.recv_timeout(PATIENCE), Ok(News::Refused(_))));
        thread.offer(signed(8));
        thread.offer(signed(9));
        let left = Anchor::close(vec![thread], PATIENCE).first().map_or(0, |(_, left)| *left);
        (news.iter().filter(|one| !matches!(one, News::Refused(_))).collect::<Vec<_>>(), left)
    };
    let check = |toml: &str, words: &str| {
        let (said, left) = at_the_stop(toml);
        let [News::Took(1), News::PassedOver(why), News::Took(1)] = &said[..] else { panic!("{toml}: {said:?}") };
        assert!(why.contains(words) && left == 0, "{why} {left}");
    };
    check(&http(&refusing("400 Bad Request", "7")), "it answers 400 Bad Request");
    check(&http(&refusing("413 Payload Too Large", "7")), "413");
    check(&s3(&refusing("400 Bad Request", "00000000000000000007")), "400");
    // It is there, and cannot be compared.
    check(&s3(&refusing("412 Precondition Failed", "00000000000000000007")), "403 Forbidden");
    // All are refused, for what they are or for who we are.
    for status in ["404 Not Found", "401 Unauthorized", "429 Too Many Requests", "503 Service Unavailable"] {
        let origin = Origin::start(move |_| answer(status, b""));
        assert_eq!(at_the_stop(&http(&origin)), (vec![], 3), "{status}");
    }
    // While it runs: after some attempts, the last one first.
    let origin = refusing("400 Bad Request", "7");
    let (thread, news) = start(&http(&origin));
    (7..10).for_each(|leaves| thread.offer(signed(leaves)));
    let said: Vec<News> = (0..6).map(|_| news.recv_timeout(PATIENCE).expect("news")).collect();
    let [News::Refused(_), News::Refused(_), News::Refused(_), News::Took(1), News::PassedOver(_), News::Took(1)] =
        &said[..]
    else {
        panic!("{said:?}")
    };
    assert_eq!(Anchor::close(vec![thread], PATIENCE), []);
    let posted = origin.requests.lock().expect("no panic holds it").clone();
    let taken: Vec<&str> = posted.iter().filter_map(|one| ["8", "9"].into_iter().find(|n| is_of(one, n))).collect();
    assert_eq!(taken, ["9", "8"]);
}

/// An authority made of openssl.
struct Authority(PathBuf);

impl Authority {
    fn new(folder: &Path) -> Self {
        let folder = folder.join("authority");
        std::fs::create_dir(&folder).expect("the folder is ours");
        let config = "[tsa]\ndefault_tsa = t\n[t]\nserial = serial\nsigner_cert = tsa.crt\nsigner_key = tsa.key\ncerts = ca.crt\n\
                      signer_digest = sha256\ndefault_policy = 1.2.3.4.1\ndigests = sha256\naccuracy = millisecs:500\nordering = yes\n\
                      tsa_name = yes\nclock_precision_digits = 3\ness_cert_id_chain = no\n";
        std::fs::write(folder.join("tsa.cnf"), config).expect("the folder is ours");
        std::fs::write(folder.join("ext"), "extendedKeyUsage = critical,timeStamping\n").expect("the folder is ours");
        let authority = Self(folder);
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        authority.openssl(&format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=CA -days 9"));
        authority.openssl(&format!("req {key} -keyout tsa.key -out tsa.csr -subj /CN=TSA"));
        authority.openssl(
            "x509 -req -in tsa.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out tsa.crt -days 9 -extfile ext",
        );
        authority
    }

    fn openssl(&self, arguments: &str) -> String {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(&self.0).output();
        let output = output.expect("tests/run installs it");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {said}");
        said
    }

    fn reply(&self, query: &[u8]) -> Vec<u8> {
        std::fs::write(self.0.join("query"), query).expect("the folder is ours");
        self.openssl("ts -reply -config tsa.cnf -section t -queryfile query -out reply");
        std::fs::read(self.0.join("reply")).expect("it was made")
    }

    /// What the README tells the auditor to do.
    fn verify(&self, stamp: &Path) -> bool {
        let readme = include_str!("../../README.md");
        let command = readme.lines().find(|line| line.starts_with("openssl ts -verify ")).expect("it says how");
        let file = |ending: &str| stamp.with_extension(ending).display().to_string();
        let command = command.replace("X.note", &file("note")).replace("X.tsr", &file("tsr"));
        let command = command.replace("tsa-ca.pem", &self.0.join("ca.crt").display().to_string());
        let output = Command::new("sh").args(["-c", &command]).output().expect("there is a shell");
        output.status.success()
    }
}

/// One at a time: it has one serial number.
fn serve(authority: Arc<Mutex<Authority>>, address: SocketAddr) -> Origin {
    Origin::at(address, move |request| {
        let reply = authority.lock().expect("no panic holds it").reply(body(request));
        answer("200 OK\r\ncontent-type: application/timestamp-reply", &reply)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_are_stamped_and_openssl_believes_the_stamps() {
    let (folder, address) = (folder(), free_address());
    let authority = Arc::new(Mutex::new(Authority::new(folder.path())));
    let stamps = folder.path().join("stamps");
    std::fs::create_dir(&stamps).expect("the folder is ours");
    let anchor = format!("kind = \"time_stamp\"\nurl = \"http://{address}/tsr\"\nfolder = {stamps:?}\n");
    let up = || serve(authority.clone(), address);
    let (server, _origin) = outage(folder.path(), &anchor, &[], up).await;
    let mut kept: Vec<PathBuf> = std::fs::read_dir(&stamps).expect("it is there").flatten().map(|e| e.path()).collect();
    kept.sort();
    // The one that waited for the authority, and the last one at the stop: not each of them.
    assert_eq!(kept.len(), 4, "{kept:?}");
    let last = kept.iter().rfind(|file| file.extension().is_some_and(|ending| ending == "tsr")).expect("a stamp");
    let authority = authority.lock().expect("no panic holds it");
    assert!(authority.verify(&kept[1]) && authority.verify(last), "{kept:?}");
    let found = verdict(&server.database, &[&stamps]);
    assert_eq!((found.stamps, found.anchored), (2, 2));
    assert_eq!(found.last_anchored, found.last, "the last one is at the stop");
    let stamped = found.last_stamp.expect("there are two");
    assert!(stamped.file == *last && (stamped.at - found.last.expect("signed").at).abs() < 60_000, "{stamped:?}");
    let arguments =
        ["verify", "--database", &server.database.display().to_string(), "--anchor", &stamps.display().to_string()];
    let (code, said, error) = run(&arguments);
    assert!(code == 0 && said.contains("2 time stamps; by the last ") && error.is_empty(), "{said}{error}");
    assert!(said.contains(&format!("openssl ts -verify -data {}", last.with_extension("note").display())), "{said}");

    // One that was cut short by a crash is none; of another note, or changed, it is a fault.
    let whole = std::fs::read(last).expect("it is there");
    for cut in 0..whole.len() {
        assert!(time_stamp::read(&whole[..cut]).is_err() && time_stamp::is_torn(&whole[..cut]), "cut after {cut}");
        let mut changed = whole.clone();
        changed[cut] ^= 0xff;
        let _ = time_stamp::read(&changed); // whatever it makes of it, it ends
    }
    std::fs::write(last, &whole[..100]).expect("the folder is ours");
    assert_eq!(verdict(&server.database, &[&stamps]).stamps, 1);
    std::fs::copy(&kept[1], last).expect("the folder is ours");
    let (code, said, _) = run(&arguments);
    assert!(code == 1 && said.contains("it is the time stamp of something else than the note beside it"), "{said}");
    assert!(!authority.verify(last));
    std::fs::write(last, "no stamp").expect("the folder is ours");
    let (code, said, _) = run(&arguments);
    assert!(code == 1 && said.contains("it is no time stamp response"), "{said}");
}

/// What an authority is made to answer to a question.
type Reply = Box<dyn Fn(&Authority, &[u8]) -> Vec<u8> + Send + Sync>;

#[test]
fn an_authority_that_answers_something_else_is_not_believed() {
    let folder = folder();
    let authority = Arc::new(Authority::new(folder.path()));
    let stamps = folder.path().join("stamps");
    std::fs::create_dir(&stamps).expect("the folder is ours");
    let anchor =
        |origin: &Origin| format!("kind = \"time_stamp\"\nurl = \"http://{}/\"\nfolder = {stamps:?}\n", origin.address);
    let check = |reply: Reply, words: &str| {
        let authority = Mutex::new(authority.clone());
        let origin = Origin::start(move |request| {
            let authority = authority.lock().expect("no panic holds it");
            answer("200 OK", &reply(&authority, body(request)))
        });
        refused(&anchor(&origin), words);
        assert!(look(&kind(&anchor(&origin))).expect_err(words).contains(words));
        assert_eq!(std::fs::read_dir(&stamps).expect("it is there").count(), 0, "{words}");
    };
    let imprint = time_stamp::imprint(b"something else");
    check(
        Box::new(move |authority, query| {
            // The nonce of the question, over another hash.
            let at = find(query, &[0x04, 0x20]).expect("an imprint") + 2;
            authority.reply(&[&query[..at], &imprint, &query[at + 32..]].concat())
        }),
        "it stamps something else than this checkpoint",
    );
    check(
        Box::new(|authority, query| {
            // As if it had been asked before.
            let at = find(query, &[0x02, 0x08]).expect("a nonce") + 2;
            authority.reply(&[&query[..at], &[0x40, 1, 2, 3, 4, 5, 6, 7], &query[at + 8..]].concat())
        }),
        "it does not have the nonce of our request",
    );
    check(
        Box::new(|authority, query| {
            let reply = authority.reply(query);
            reply[..reply.len() - 1].to_vec()
        }),
        "it is no time stamp response",
    );
    check(Box::new(|authority, _| authority.reply(b"no question")), "the authority refuses (status 2)");
    check(Box::new(|_, _| b"<html>It works!</html>".to_vec()), "it is no time stamp response");
    let origin = Origin::start(|_| answer("500 Internal Server Error", b""));
    refused(&anchor(&origin), "500 Internal Server Error");

    // A right one, and files that are there already are not written to.
    let (asked, served) = (Mutex::new(authority), Mutex::new(0));
    let origin = Origin::start(move |request| {
        *served.lock().expect("no panic holds it") += 1;
        answer("200 OK", &asked.lock().expect("no panic holds it").reply(body(request)))
    });
    let first = signed(7);
    std::fs::write(stamps.join(format!("{}.note", first.stem())), "another").expect("the folder is ours");
    let said = outcome(&anchor(&origin), &first);
    assert!(matches!(&said, News::Refused(why) if why.contains("File exists")), "{said:?}");
    let second = signed(8);
    assert_eq!(outcome(&anchor(&origin), &second), News::Took(1));
    assert_eq!(std::fs::read_to_string(stamps.join(format!("{}.note", first.stem()))).expect("it is there"), "another");
    // As where the folder's sync failed after that: it is asked for no other stamp.
    let kept = |signed: &Signed| std::fs::read(stamps.join(format!("{}.tsr", signed.stem())));
    let (stamp, asked) = (kept(&second).expect("it is kept"), origin.received().len());
    assert_eq!(outcome(&anchor(&origin), &second), News::Took(1));
    assert_eq!((kept(&second).expect("it is kept"), origin.received().len()), (stamp, asked));
    // What has the place of one keeps no later one away.
    let (thread, news) = start(&anchor(&origin));
    thread.offer(first.clone());
    assert!(matches!(news.recv_timeout(PATIENCE), Ok(News::Refused(why)) if why.contains("File exists")));
    thread.offer(signed(9));
    assert_eq!(Anchor::close(vec![thread], PATIENCE), []);
    let before = std::fs::read_dir(&stamps).expect("it is there").count();
    assert!(look(&kind(&anchor(&origin))).is_ok());
    assert_eq!(std::fs::read_dir(&stamps).expect("it is there").count(), before, "a look leaves nothing behind");
}

/// `check` says of each what it is and how it does, in text and JSON, and shows no secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_how_each_anchor_does_and_leaves_nothing_there() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let (token, collector) = (private(folder.path().join("token"), TOKEN), collector(([127, 0, 0, 1], 0).into()));
    let (file, down) = (folder.path().join("missing/checkpoints"), free_address());
    let settings = |file: &Path| {
        format!(
            "[proxy]\nlisten = \"127.0.0.1:0\"\nupstreams = [\"http://{}\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [recording]\ndatabase = {:?}\n[evidence]\nanchor_file = {file:?}\n\
             [evidence.anchors.collector]\nkind = \"http\"\nurl = \"http://{}/\"\ntoken_file = {token:?}\n",
            simulator.addresses()[0],
            folder.path().join("transcripts.db"),
            collector.address
        )
    };
    let config = folder.path().join("check.toml");
    let check = async |text: String, format: &str| {
        std::fs::write(&config, text).expect("the folder is ours");
        let arguments =
            ["check".to_owned(), "--config".into(), config.display().to_string(), "--format".into(), format.into()];
        let run = move || self::run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let (code, said, error) = tokio::task::spawn_blocking(run).await.expect("no panic");
        assert!(!said.contains(TOKEN) && !error.contains(TOKEN), "{said}{error}");
        (code, said)
    };
    let (code, said) = check(settings(&file), "text").await;
    assert!(code == 1 && said.contains("1 of 2 anchors take no checkpoints"), "{said}");
    assert!(said.contains("missing: No such file") && said.contains("collector  http  http://127.0.0.1:"), "{said}");
    let key = private(folder.path().join("transcripts.db.key"), "no key of signed notes");
    std::fs::set_permissions(&key, Permissions::from_mode(0o640)).expect("the file is ours");
    let (code, said) = check(settings(&folder.path().join("checkpoints")), "text").await;
    assert!(code == 0 && said.contains("  would be made") && said.contains("  reached; "), "{said}");
    assert!(said.contains("can be used by others (mode 0640)"), "{said}");
    assert!(!folder.path().join("checkpoints").exists());
    let stamp = format!(
        "[evidence.anchors.tsa]\nkind = \"time_stamp\"\nurl = \"http://{down}/\"\nfolder = {:?}\n",
        folder.path()
    );
    let (code, said) = check(settings(&folder.path().join("checkpoints")) + &stamp, "json").await;
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let problems: Vec<bool> =
        said["anchors"].as_array().expect("a list").iter().map(|anchor| anchor["problem"].is_string()).collect();
    assert_eq!((code, problems), (1, vec![false, false, true]), "{said}");
    let methods: Vec<String> =
        collector.received().iter().map(|r| r.split(' ').next().unwrap_or_default().into()).collect();
    assert_eq!(methods, ["HEAD", "HEAD", "HEAD"]);
    simulator.stop().await;
}
