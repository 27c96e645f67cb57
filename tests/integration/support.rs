//! What the tests stand on: a server as a process or in this one, nodes that answer as told, a client, the archive.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustix::process::Pid;
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Row, SqliteConnection};
use tempfile::TempDir;

/// Nothing here waits longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A number that CI takes small and `tests/full.sh` takes in full.
pub fn count(variable: &str, in_ci: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(in_ci)
}

/// Asks until it is so.
pub async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `gms-recorder serve` as a process of its own.
pub struct Server {
    child: Child,
    pub program: PathBuf,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub folder: PathBuf,
    pub database: PathBuf,
    pub config: PathBuf,
    hosts: Option<PathBuf>,
    environment: Vec<(String, String)>,
    runs: usize,
}

impl Server {
    /// Starts it in a folder. `settings` is TOML: whole sections, listeners and nodes are added.
    pub fn start(folder: &Path, upstreams: &[SocketAddr], settings: &str) -> Self {
        Self::start_with_database(folder, &folder.join("transcripts.db"), upstreams, settings)
    }

    /// The same with the archive elsewhere.
    pub fn start_with_database(folder: &Path, database: &Path, upstreams: &[SocketAddr], settings: &str) -> Self {
        let urls = upstreams.iter().enumerate().map(|(n, a)| format!("gms-{}=http://{a}", n + 1)).collect();
        Self::start_with_urls(folder, database, urls, settings)
    }

    /// The same with nodes as the configuration names them.
    pub fn start_with_urls(folder: &Path, database: &Path, urls: Vec<String>, settings: &str) -> Self {
        Self::start_with_hosts(folder, database, urls, settings, None)
    }

    /// The same with environment variables.
    pub fn start_with_environment(
        folder: &Path,
        upstreams: &[SocketAddr],
        settings: &str,
        environment: Vec<(String, String)>,
    ) -> Self {
        let urls = upstreams.iter().enumerate().map(|(n, a)| format!("gms-{}=http://{a}", n + 1)).collect();
        Self::launch(Path::new(PROGRAM), folder, &folder.join("transcripts.db"), urls, settings, None, environment)
    }

    /// The same with a hosts file of its own, which may be written to while it runs.
    pub fn start_with_hosts(
        folder: &Path,
        database: &Path,
        urls: Vec<String>,
        settings: &str,
        hosts: Option<&Path>,
    ) -> Self {
        Self::launch(Path::new(PROGRAM), folder, database, urls, settings, hosts, Vec::new())
    }

    /// The same from a copy of the program that may be replaced.
    pub fn start_copy(folder: &Path, upstreams: &[SocketAddr], settings: &str) -> Self {
        let program = folder.join("gms-recorder");
        std::fs::copy(PROGRAM, &program).expect("there is room");
        let urls = upstreams.iter().enumerate().map(|(n, a)| format!("gms-{}=http://{a}", n + 1)).collect();
        Self::launch(&program, folder, &folder.join("transcripts.db"), urls, settings, None, Vec::new())
    }

    fn launch(
        program: &Path,
        folder: &Path,
        database: &Path,
        urls: Vec<String>,
        settings: &str,
        hosts: Option<&Path>,
        environment: Vec<(String, String)>,
    ) -> Self {
        let (listen, admin) = (free_address(), free_address());
        let mut sections: HashMap<&str, String> = HashMap::new();
        let mut section = "";
        for line in settings.lines().map(str::trim) {
            match line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                Some(name) => section = name,
                None => *sections.entry(section).or_default() += &format!("{line}\n"),
            }
        }
        let mut own = |name: &str| sections.remove(name).unwrap_or_default();
        let mut text = format!(
            "[proxy]\nlisten = \"{listen}\"\nupstreams = {urls:?}\ndrain_delay = \"10ms\"\n{}\n[recording]\ndatabase = {:?}\n{}\n\
             [admin]\nlisten = \"{admin}\"\n[log]\nformat = \"json\"\n{}\n",
            own("proxy"),
            database,
            own("recording"),
            own("log"),
        );
        for (section, settings) in sections.iter().filter(|(section, _)| !section.is_empty()) {
            text += &format!("[{section}]\n{settings}");
        }
        let config = folder.join("gms-recorder.toml");
        std::fs::write(&config, text).expect("the folder is ours");
        let (hosts, folder, database) = (hosts.map(Path::to_path_buf), folder.to_path_buf(), database.to_path_buf());
        let program = program.to_path_buf();
        let child = spawn(&program, &config, &folder, 0, hosts.as_deref(), &environment);
        let mut server =
            Self { child, program, address: listen, admin, folder, database, config, hosts, environment, runs: 0 };
        server.await_start();
        server
    }

    fn await_start(&mut self) {
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "serve ended at once with {ended:?}:\n{}", self.log());
            assert!(Instant::now() < until, "serve does not listen:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is our child");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// SIGTERM; the exit status.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().expect("it is our child")
    }

    /// The process that has the archive, by its lock: after an upgrade no child of ours.
    pub fn serving(&self) -> Option<Pid> {
        let lock = std::fs::read_to_string(format!("{}.lock", self.database.display())).ok()?;
        Pid::from_raw(lock.trim().parse().ok()?)
    }

    /// The process that was started here.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Starts it again after a stop or a kill, on the same addresses and the same archive.
    pub fn start_again(&mut self) {
        self.runs += 1;
        self.child =
            spawn(&self.program, &self.config, &self.folder, self.runs, self.hosts.as_deref(), &self.environment);
        self.await_start();
    }

    /// Everything it said, all runs.
    pub fn log(&self) -> String {
        (0..=self.runs)
            .filter_map(|run| std::fs::read_to_string(self.folder.join(format!("serve-{run}.log"))).ok())
            .collect()
    }

    /// A number of its metrics.
    pub async fn metric(&self, line_start: &str) -> Option<f64> {
        let text = get(self.admin, "/metrics").await?.1;
        let line = text.lines().find(|line| line.starts_with(line_start))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// From now on it may have so many files open, sockets among them.
    pub fn limit_files(&self, count: usize) {
        use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
        let limit = Rlimit { current: Some(count as u64), ..getrlimit(Resource::Nofile) };
        prlimit(Some(self.pid()), Resource::Nofile, limit).expect("it is our child");
    }

    /// Files it has open now, sockets among them.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// What it has taken of the processors so far, in user and kernel.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields = stat.rsplit(") ").next().expect("after the name").split(' ');
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 10) // a hundred a second, on every Linux
    }

    /// Resident memory now, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says so");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(successor) = self.serving().filter(|pid| runs(*pid, &self.program)) {
            let _ = rustix::process::kill_process(successor, rustix::process::Signal::KILL);
        }
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("--- the server's log ---\n{}", &log[log.len().saturating_sub(4000)..]);
        }
    }
}

/// Whether this process runs that program: its number may be another's by now.
pub fn runs(pid: Pid, program: &Path) -> bool {
    std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).is_ok_and(|exe| exe.starts_with(program))
}

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_gms-recorder");

fn spawn(
    program: &Path,
    config: &Path,
    folder: &Path,
    run: usize,
    hosts: Option<&Path>,
    environment: &[(String, String)],
) -> Child {
    let log = std::fs::File::create(folder.join(format!("serve-{run}.log"))).expect("the folder is ours");
    let mut command = match hosts {
        None => Command::new(program),
        Some(hosts) => {
            // A file system of its own, as far as this file goes.
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""])
                .arg(hosts)
                .arg(program);
            command
        }
    };
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.args(["serve", "--config"]).arg(config).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("the binary was built")
}

/// A loopback address that is given to one test only, and by the kernel to nobody who asks for any port: below what it
/// chooses from (ip_local_port_range).
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PORTS: Range<u16> = 16_000..32_000;
    let start = std::process::id() as u16; // where two suites run at once
    for _ in PORTS {
        let port = PORTS.start + start.wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().expect("it is bound");
        }
    }
    panic!("loopback has no free ports in {PORTS:?}");
}

/// Runs the program to its end: exit code, stdout, stderr.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_gms-recorder")).args(arguments).output().expect("the binary was built");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A node that answers each request with bytes made for it. One thread a connection; it keeps what it was sent.
pub struct Origin {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<Vec<u8>>>>,
    pub connections: Arc<Mutex<usize>>,
    stop: Arc<AtomicBool>,
}

/// What an origin does after an answer.
pub struct Answer {
    pub bytes: Vec<u8>,
    pub close: bool,
}

impl Origin {
    /// `answer` is given each request whole (head and body); an empty answer closes the connection.
    pub fn start(answer: impl Fn(&[u8]) -> Answer + Send + Sync + 'static) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), answer)
    }

    /// The same at an address.
    pub fn at(address: SocketAddr, answer: impl Fn(&[u8]) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let origin = Self { address, requests: Arc::default(), connections: Arc::default(), stop: Arc::default() };
        let (requests, connections, stop) = (origin.requests.clone(), origin.connections.clone(), origin.stop.clone());
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                *connections.lock().expect("no panic holds it") += 1;
                let (requests, answer) = (requests.clone(), answer.clone());
                std::thread::spawn(move || converse(stream, &requests, &*answer));
            }
        });
        origin
    }

    /// Answers everything alike.
    pub fn canned(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |_| Answer { bytes: bytes.clone(), close: false })
    }

    /// The requests so far, as text.
    pub fn received(&self) -> Vec<String> {
        let requests = self.requests.lock().expect("no panic holds it");
        requests.iter().map(|request| String::from_utf8_lossy(request).into_owned()).collect()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn converse(mut stream: TcpStream, requests: &Mutex<Vec<Vec<u8>>>, answer: &dyn Fn(&[u8]) -> Answer) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(request) = read_message(&mut stream, &mut buffer) {
        requests.lock().expect("no panic holds it").push(request.clone());
        let answer = answer(&request);
        if answer.bytes.is_empty() || stream.write_all(&answer.bytes).is_err() || answer.close {
            return;
        }
    }
}

/// One message with its body, by Content-Length or chunked.
pub fn read_message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut chunk = [0; 65536];
    loop {
        if let Some(length) = message_length(buffer) {
            return Some(buffer.drain(..length).collect());
        }
        let read = stream.read(&mut chunk).ok()?;
        if read == 0 {
            return None;
        }
        buffer.extend_from_slice(&chunk[..read]);
    }
}

fn message_length(buffer: &[u8]) -> Option<usize> {
    let head = find(buffer, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    if text.contains("transfer-encoding: chunked") {
        let end = find(&buffer[head..], b"0\r\n")?;
        return Some(head + end + find(&buffer[head + end..], b"\r\n\r\n")? + 4);
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    let whole = head + length.unwrap_or(0);
    (buffer.len() >= whole).then_some(whole)
}

/// Where bytes occur in others.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Sends bytes on a connection of its own and returns all that comes back until the end, or until `PATIENCE`.
pub fn send_raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a sound timeout");
    stream.write_all(bytes).expect("it reads");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer); // a reset is an end, too
    answer
}

/// An HTTP/1.1 client with one kept-alive connection, made anew when it broke.
pub struct Client {
    address: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, sender: None }
    }

    /// Posts a form.
    pub async fn post(&mut self, path: &str, form: &str) -> Result<Reply, String> {
        let request = Request::post(path).header("host", "gms.example.com");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        self.send(request.body(Full::new(Bytes::from(form.to_string()))).expect("a sound request")).await
    }

    /// Sends a request, on a new connection where the last one broke.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, String> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = tokio::net::TcpStream::connect(self.address).await.map_err(|e| e.to_string())?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut().expect("made above");
        if sender.ready().await.is_err() {
            // It was closed after the last answer, as that said.
            self.sender = None;
            return Box::pin(self.send(request)).await;
        }
        let answered = async {
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok(Reply { status: head.status, headers: head.headers, body })
        };
        let reply = tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| Err("no answer".into()));
        if reply.is_err() {
            self.sender = None;
        }
        reply
    }
}

/// GET, on a connection of its own: status and text.
pub async fn get(address: SocketAddr, path: &str) -> Option<(StatusCode, String)> {
    let request = Request::get(path).header("host", "localhost").body(Full::default()).ok()?;
    let reply = Client::new(address).send(request).await.ok()?;
    Some((reply.status, String::from_utf8_lossy(&reply.body).into_owned()))
}

/// A chat as a widget has it.
pub struct Chat {
    pub id: String,
    pub key: String,
    service: &'static str,
}

impl Chat {
    /// Opens one, trying again while the nodes fail.
    pub async fn open(client: &mut Client, form: &str) -> Self {
        let service = "customer-support";
        for _ in 0..200 {
            if let Ok(reply) = client.post(&format!("/genesys/2/chat/{service}"), form).await
                && let (Some(id), Some(key)) = (reply.json()["chatId"].as_str(), reply.json()["secureKey"].as_str())
            {
                return Self { id: id.into(), key: key.into(), service };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no chat could be opened");
    }

    /// One that is open already.
    pub fn known(id: String, key: String) -> Self {
        Self { id, key, service: "customer-support" }
    }

    /// Does an operation.
    pub async fn act(&self, client: &mut Client, operation: &str, form: &str) -> Result<Reply, String> {
        let path = format!("/genesys/2/chat/{}/{}/{operation}", self.service, self.id);
        client.post(&path, &format!("secureKey={}&{form}", self.key)).await
    }

    /// Does an operation until it is answered with statusCode 0.
    pub async fn insist(&self, client: &mut Client, operation: &str, form: &str) -> Value {
        let mut last = String::new();
        for _ in 0..300 {
            match self.act(client, operation, form).await {
                Ok(reply) if reply.status == StatusCode::OK && reply.json()["statusCode"] == 0 => return reply.json(),
                Ok(reply) => last = format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body)),
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{operation} of {} never succeeded; at last: {last}", self.id);
    }
}

/// The archive, read the way an analyst reads it.
pub struct Archive(pub SqliteConnection);

impl Archive {
    pub async fn open(path: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).disable_statement_logging();
        Self(options.connect().await.expect("there is an archive"))
    }

    /// One value, as text.
    pub async fn value(&mut self, sql: &str) -> String {
        self.rows(sql).await.into_iter().next().and_then(|row| row.into_iter().next()).unwrap_or_default()
    }

    /// All values, as text; NULL is "NULL".
    pub async fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        let rows = sqlx::query(AssertSqlSafe(sql.to_string())).fetch_all(&mut self.0).await;
        rows.unwrap_or_else(|e| panic!("{sql}: {e}")).iter().map(texts).collect()
    }

    /// Every event that clients held, by chat and index, is in it; and SQLite finds it sound.
    pub async fn check_holds(&mut self, held: &HashSet<(String, i64)>, occasion: &str) {
        let rows = self.rows("SELECT chat_id, event_index FROM events").await;
        let stored: HashSet<(String, i64)> =
            rows.into_iter().map(|row| (row[0].clone(), row[1].parse().expect("an index"))).collect();
        let missing: Vec<_> = held.difference(&stored).collect();
        assert!(missing.is_empty(), "{occasion}: {} of {} events are missing: {missing:?}", missing.len(), held.len());
        assert_eq!(self.value("PRAGMA integrity_check").await, "ok", "{occasion}");
    }
}

fn texts(row: &sqlx::sqlite::SqliteRow) -> Vec<String> {
    let text = |column: usize| {
        let integer = || row.try_get_unchecked::<Option<i64>, _>(column).ok().flatten().map(|n| n.to_string());
        row.try_get::<Option<String>, _>(column).ok().flatten().or_else(integer).unwrap_or_else(|| "NULL".into())
    };
    (0..row.len()).map(text).collect()
}

/// A folder that goes with the test.
pub fn folder() -> TempDir {
    tempfile::tempdir().expect("there is room for temporary files")
}

/// Every byte of every file in a folder, by name.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("the folder is ours").flatten();
    entries
        .filter_map(|entry| Some((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).ok()?)))
        .collect()
}

/// An HTTP/1.1 answer with a JSON body and a Content-Length.
pub fn json_answer(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=UTF-8\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}
