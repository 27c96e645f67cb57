//! TLS toward clients and nodes, from outside: real handshakes, real files, curl as one peer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustix::process::Signal;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{Answer, Origin, PATIENCE, Server, count, eventually, folder, json_answer, run};

const DAY: Duration = Duration::from_secs(86_400);
const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Whoever issues certificates.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate, with what stands above it, and its key.
#[derive(Clone)]
pub struct Issued {
    chain: String,
    key: String,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        Self(CertifiedIssuer::self_signed(ca_params(name), new_key()).expect("a sound CA"))
    }

    /// A CA below this one.
    fn below(&self, name: &str) -> Self {
        Self(CertifiedIssuer::signed_by(ca_params(name), new_key(), &self.0).expect("a sound CA"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For these names, and for about a year.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_until(names, SystemTime::now() + 365 * DAY)
    }

    fn issue_until(&self, names: &[&str], end: SystemTime) -> Issued {
        self.issue_during(names, SystemTime::now() - 30 * DAY, end)
    }

    fn issue_during(&self, names: &[&str], begin: SystemTime, end: SystemTime) -> Issued {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names.clone()).expect("sound names");
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("nobody", String::as_str));
        (params.not_before, params.not_after) = (begin.into(), end.into());
        let key = new_key();
        let chain = params.signed_by(&key, &self.0).expect("a sound certificate").pem();
        Issued { chain, key: key.serialize_pem() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("it is a CA");
        roots
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

impl Issued {
    /// Writes both files, the key for its owner only: their paths.
    fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        write(&certificate, &self.chain);
        write_key(&key, &self.key);
        (certificate, key)
    }

    fn ders(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<_, _>>().expect("it is PEM");
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("it is PEM"))
    }
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).expect("the folder is ours");
}

fn write_key(file: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    write(file, text);
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).expect("the file is ours");
}

/// `[tls]` with these identities.
fn tls(identities: &[&(PathBuf, PathBuf)]) -> String {
    let certificates: Vec<_> = identities.iter().map(|(certificate, _)| certificate).collect();
    let keys: Vec<_> = identities.iter().map(|(_, key)| key).collect();
    format!("[tls]\ncertificates = {certificates:?}\nkeys = {keys:?}\n")
}

fn client(ca: &Ca, shown: Option<&Issued>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(versions).expect("both are known").with_root_certificates(ca.roots());
    let config = match shown.map(Issued::ders) {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("they fit"),
        None => builder.with_no_client_auth(),
    };
    Arc::new(config)
}

/// What a client has seen of an exchange on a connection of its own.
struct Seen {
    status: StatusCode,
    body: Bytes,
    certificate: CertificateDer<'static>,
    kind: HandshakeKind,
}

/// One connection, one GET.
async fn ask(address: SocketAddr, name: &str, client: &Arc<ClientConfig>) -> Result<Seen, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = tokio::net::TcpStream::connect(address).await.map_err(|e| text(&e))?;
    let name = ServerName::try_from(name.to_string()).expect("a sound name");
    let stream = TlsConnector::from(client.clone()).connect(name, stream).await.map_err(|e| text(&e))?;
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().expect("a server shows one")[0].clone().into_owned();
    let kind = session.handshake_kind().expect("it is over");
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let driver = tokio::spawn(connection);
    let request = Request::get("/genesys/1/storage/x").header("host", "gms").header("connection", "close");
    let request = request.body(Full::<Bytes>::default()).expect("a sound request");
    let answered = async {
        let response = sender.send_request(request).await.map_err(|e| text(&e))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| text(&e))?.to_bytes();
        Ok(Seen { status, body, certificate, kind })
    };
    let seen = tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| Err("no answer".into()));
    drop(sender);
    let _ = driver.await; // so that tickets which came last are kept
    seen
}

#[tokio::test]
async fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
    let (folder, ca) = (folder(), Ca::new("CA"));
    let issued = [
        ca.issue(&["chat.example.com", "127.0.0.1"]),
        ca.issue(&["api.example.com"]),
        ca.issue(&["*.shops.example.com", "localhost"]),
    ];
    let paths: Vec<_> = issued.iter().enumerate().map(|(n, one)| one.write(folder.path(), &n.to_string())).collect();
    let origin = Origin::canned(json_answer("{}"));
    let server = Server::start(folder.path(), &[origin.address], &tls(&paths.iter().collect::<Vec<_>>()));
    let client = client(&ca, None, BOTH);
    let check = async |name: &str, wanted: Option<usize>| match (ask(server.address, name, &client).await, wanted) {
        (Ok(seen), Some(n)) => {
            assert_eq!(seen.status, StatusCode::OK, "{name}");
            assert_eq!(seen.certificate, issued[n].ders().0[0], "{name}");
        }
        (Err(error), None) => assert!(error.contains("not valid for name"), "{name}: {error}"),
        (seen, _) => panic!("{name}: {:?}", seen.map(|seen| seen.status)),
    };
    check("chat.example.com", Some(0)).await;
    check("api.example.com", Some(1)).await;
    check("API.example.com", Some(1)).await;
    check("one.shops.example.com", Some(2)).await;
    check("localhost", Some(2)).await;
    check("127.0.0.1", Some(0)).await; // an address is not named in a handshake: the first one
    check("other.example.com", None).await; // the first one again, and no client takes it for that name
}

#[tokio::test]
async fn clients_show_certificates_as_configured() {
    let (folder, ca, other) = (folder(), Ca::new("CA"), Ca::new("another CA"));
    let ours = ca.issue(&["chat.example.com"]).write(folder.path(), "ours");
    write(&folder.path().join("clients.crt"), &ca.pem());
    let origin = Origin::canned(json_answer("{}"));
    let (good, bad) = (ca.issue(&["widget"]), other.issue(&["widget"]));
    let clients = [("none", None), ("a good one", Some(&good)), ("another CA's", Some(&bad))];
    // Of no certificate, a good one, and another CA's: which are let in.
    for (mode, let_in) in [("none", [true; 3]), ("optional", [true, true, false]), ("required", [false, true, false])] {
        let run = folder.path().join(mode);
        std::fs::create_dir(&run).expect("the folder is ours");
        let settings = format!(
            "{}client_certificates = {mode:?}\nclient_ca = {:?}\n",
            tls(&[&ours]),
            folder.path().join("clients.crt")
        );
        let server = Server::start(&run, &[origin.address], &settings);
        for ((shown, identity), let_in) in clients.iter().zip(let_in) {
            for versions in [&[&TLS12][..], &[&TLS13]] {
                let seen = ask(server.address, "chat.example.com", &client(&ca, *identity, versions)).await;
                assert_eq!(seen.is_ok(), let_in, "{mode}, {shown} by {versions:?}: {:?}", seen.err());
            }
        }
    }
}

#[tokio::test]
async fn a_session_is_resumed_but_not_under_another_configuration() {
    let (folder, ca) = (folder(), Ca::new("CA"));
    let ours = ca.issue(&["chat.example.com"]).write(folder.path(), "ours");
    write(&folder.path().join("clients.crt"), &ca.pem());
    let origin = Origin::canned(json_answer("{}"));
    let server = Server::start(folder.path(), &[origin.address], &tls(&[&ours]));
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let client = client(&ca, None, versions);
        let kinds = [(); 3].map(|()| ask(server.address, "chat.example.com", &client));
        for (kind, wanted) in
            kinds.into_iter().zip([HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed])
        {
            assert_eq!(kind.await.expect("it is let in").kind, wanted, "{versions:?}");
        }
    }
    let client12 = client(&ca, None, &[&TLS12]);
    let client13 = client(&ca, None, &[&TLS13]);
    for client in [&client12, &client13] {
        ask(server.address, "chat.example.com", client).await.expect("it is let in");
    }
    let required =
        format!("[tls]\nclient_certificates = \"required\"\nclient_ca = {:?}\n", folder.path().join("clients.crt"));
    change(&server, "[tls]\n", &required);
    server.signal(Signal::HUP);
    said(&server, "were read anew").await;
    for client in [&client12, &client13] {
        let refused = ask(server.address, "chat.example.com", client).await;
        assert!(refused.is_err(), "a session from before let a client in without its certificate");
    }
}

/// Changes a line of the configuration file.
fn change(server: &Server, line: &str, other: &str) {
    let text = std::fs::read_to_string(&server.config).expect("it was written");
    assert!(text.contains(line), "{text}");
    write(&server.config, &text.replacen(line, other, 1));
}

/// Waits for words in the log.
async fn said(server: &Server, words: &str) {
    eventually(words, async || server.log().contains(words).then_some(())).await;
}

#[tokio::test]
async fn old_versions_and_other_protocols_are_refused() {
    let (folder, ca) = (folder(), Ca::new("CA"));
    let ours = ca.issue(&["chat.example.com"]).write(folder.path(), "ours");
    write(&folder.path().join("ca.crt"), &ca.pem());
    let origin = Origin::canned(json_answer("{\"answer\":1}"));
    for (version_min, rows) in [
        ("1.2", [("--tls-max 1.1", false), ("--tls-max 1.2", true), ("--tlsv1.3", true)]),
        ("1.3", [("--tls-max 1.1", false), ("--tls-max 1.2", false), ("--tlsv1.3", true)]),
    ] {
        let run = folder.path().join(version_min);
        std::fs::create_dir(&run).expect("the folder is ours");
        let settings = format!("{}version_min = {version_min:?}\n", tls(&[&ours]));
        let server = Server::start(&run, &[origin.address], &settings);
        for (options, is_answered) in rows {
            // HTTP/2 is offered by curl where it is not told otherwise, and chosen.
            for (protocol, version) in [("--http2", "HTTP/2"), ("--http1.1", "HTTP/1.1")] {
                let answer = curl(&server, folder.path(), &format!("{protocol} {options}"));
                let expected = format!("{{\"answer\":1}} 200 {version}");
                assert_eq!(answer == expected, is_answered, "{version_min}, {protocol} {options}: {answer}");
            }
        }
    }
}

/// The body, the status and the version that curl has seen.
fn curl(server: &Server, folder: &Path, options: &str) -> String {
    let port = server.address.port();
    let output = Command::new("curl")
        .args(["--silent", "--write-out", " %{http_code} HTTP/%{http_version}", "--cacert"])
        .arg(folder.join("ca.crt"))
        .arg("--resolve")
        .arg(format!("chat.example.com:{port}:{}", server.address.ip()))
        .args(options.split(' '))
        .arg(format!("https://chat.example.com:{port}/genesys/1/storage/x"))
        .output();
    String::from_utf8_lossy(&output.expect("curl is installed").stdout).into_owned()
}

#[tokio::test]
async fn what_cannot_be_used_is_told_before_anything_starts() {
    let ca = Ca::new("CA");
    let (ours, another) = (ca.issue(&["chat.example.com"]), ca.issue(&["chat.example.com"]));
    let half = &ours.chain[..ours.chain.len() / 2];
    // What the certificate's and the key's file hold, and the CAs'; which one is told, and why.
    let rows = [
        ("no certificate", ours.key.as_str(), ca.pem(), "ours.crt: holds no certificate in PEM"),
        (half, ours.key.as_str(), ca.pem(), "ours.crt: is no PEM"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &ours.key,
            ca.pem(),
            "ours.crt: its certificate 1 cannot be read as X.509",
        ),
        (&ours.chain, &another.key, ca.pem(), "ours.key: is not the key of the certificate in"),
        (&ours.chain, &ours.chain, ca.pem(), "ours.key: holds no private key"),
        (&ours.chain, "", ca.pem(), "ours.key: holds no private key"),
        (&ours.chain, &ours.key, String::new(), "clients.crt: holds no certificate in PEM"),
    ];
    for (certificate, key, authorities, told) in rows {
        let folder = folder();
        let issued = Issued { chain: certificate.into(), key: key.into() };
        let paths = issued.write(folder.path(), "ours");
        write(&folder.path().join("clients.crt"), &authorities);
        let secret: Vec<&str> = key.lines().filter(|line| !line.starts_with('-') && line.len() > 20).collect();
        let settings = format!(
            "{}client_certificates = \"required\"\nclient_ca = {:?}\n[proxy]\nlisten = \"127.0.0.1:0\"\n\
             upstreams = [\"http://127.0.0.1:1\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n",
            tls(&[&paths]),
            folder.path().join("clients.crt")
        );
        let config = folder.path().join("gms-recorder.toml");
        write(&config, &settings);
        let (config, database) = (config.display().to_string(), folder.path().join("transcripts.db"));
        let arguments = ["--config", &config, "--database", &database.display().to_string()];
        let (code, _, stderr) = run(&[&["serve"], &arguments[..]].concat());
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(told), "{told}: {stderr}");
        assert!(!database.exists(), "{told}");
        let (code, stdout, check_stderr) = run(&[&["check"], &arguments[..]].concat());
        assert_eq!(code, 1, "{check_stderr}");
        assert!(stdout.contains(&format!("CANNOT BE USED: {}/{told}", folder.path().display())), "{told}: {stdout}");
        let said = stdout + &stderr + &check_stderr;
        assert!(!secret.iter().any(|line| said.contains(line)), "{told}: a line of a file is told");
    }
    let missing = run(&["serve", "--upstream", "https://gms", "--config", "/dev/null/x"]);
    assert_eq!(missing.0, 2, "{}", missing.2);
}

/// Asks without end, half of it on a connection each; counts what failed.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    failures: Arc<std::sync::Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr, ca: &Ca) -> Self {
        let load = Self { stop: Arc::default(), asked: Arc::default(), failures: Arc::default(), tasks: Vec::new() };
        let tasks = (0..4).map(|n| {
            let client = client(ca, None, BOTH);
            let (stop, asked, failures) = (load.stop.clone(), load.asked.clone(), load.failures.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let exchanged = if n % 2 == 0 {
                        ask_once(address, &client, &asked).await
                    } else {
                        keep_asking(address, &client, &stop, &asked).await
                    };
                    if let Err(error) = exchanged {
                        failures.lock().expect("no panic holds it").push(error);
                    }
                }
            })
        });
        let tasks = tasks.collect();
        Self { tasks, ..load }
    }

    /// Waits for ten more answers.
    async fn goes_on(&self) {
        let wanted = self.asked.load(Ordering::Relaxed) + 10;
        eventually("ten more answers", async || (self.asked.load(Ordering::Relaxed) >= wanted).then_some(())).await;
    }

    /// None may have failed.
    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a task does not panic");
        }
        assert_eq!(*self.failures.lock().expect("no panic holds it"), Vec::<String>::new());
    }
}

async fn ask_once(address: SocketAddr, client: &Arc<ClientConfig>, asked: &AtomicUsize) -> Result<(), String> {
    let status = ask(address, "chat.example.com", client).await?.status;
    asked.fetch_add(1, Ordering::Relaxed);
    (status == 200).then_some(()).ok_or_else(|| status.to_string())
}

/// Exchange after exchange on one connection, across many reloads.
async fn keep_asking(
    address: SocketAddr,
    client: &Arc<ClientConfig>,
    stop: &AtomicBool,
    asked: &AtomicUsize,
) -> Result<(), String> {
    let stream = tokio::net::TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let name = ServerName::try_from("chat.example.com").expect("a sound name");
    let stream = TlsConnector::from(client.clone()).connect(name, stream).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    while !stop.load(Ordering::Relaxed) {
        let request = Request::get("/genesys/1/storage/x").header("host", "gms");
        let request = request.body(Full::<Bytes>::default()).expect("a sound request");
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        if response.status() != 200 {
            return Err(response.status().to_string());
        }
        response.into_body().collect().await.map_err(|e| e.to_string())?;
        asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(2)).await; // so that the others get a turn
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_read_anew_under_load_and_bad_ones_are_told() {
    let (folder, ca) = (folder(), Ca::new("CA"));
    let mut good = ca.issue(&["chat.example.com"]);
    let ours = good.write(folder.path(), "ours");
    let origin = Origin::canned(json_answer("{}"));
    let server = Server::start(folder.path(), &[origin.address], &tls(&[&ours]));
    let load = Load::start(server.address, &ca);
    let reloads = count("TEST_TLS_RELOADS", 20);
    let (mut taken, mut refused) = (0.0, 0.0);
    for n in 0..reloads {
        let next = ca.issue(&["chat.example.com"]);
        // Every other one is bad: a key that does not fit, no PEM, no file.
        match n % 6 {
            1 => write_key(&ours.1, &next.key),
            3 => write(&ours.0, "-----BEGIN CERTIFICATE-----\n"),
            5 => std::fs::remove_file(&ours.0).expect("it is there"),
            _ => {
                next.write(folder.path(), "ours");
                good = next;
            }
        }
        if n % 2 == 0 {
            taken += 1.0
        } else {
            refused += 1.0
        }
        server.signal(Signal::HUP);
        let (outcome, wanted) = if n % 2 == 0 { ("taken", taken) } else { ("refused", refused) };
        let line = format!("gms_recorder_certificate_reloads_total{{outcome=\"{outcome}\"}}");
        eventually(&line, async || (server.metric(&line).await? >= wanted).then_some(())).await;
        load.goes_on().await;
        // At the latest now: a slow machine may have looked at the files by itself, before the signal.
        eventually("the last good certificate", async || {
            let seen = ask(server.address, "chat.example.com", &client(&ca, None, BOTH)).await;
            (seen.expect("it is let in").certificate == good.ders().0[0]).then_some(())
        })
        .await;
    }
    load.stop().await;
    let log = server.log();
    for (file, reason) in [
        ("ours.key", "is not the key of the certificate in"),
        ("ours.crt", "is no PEM: a section in it is damaged or not whole"),
        ("ours.crt", "cannot be read: No such file or directory"),
    ] {
        let lines =
            log.lines().filter(|line| line.contains("a TLS file cannot be used")).filter(|line| line.contains(reason));
        assert!(lines.clone().count() > 0 && lines.clone().all(|line| line.contains(file)), "{file}, {reason}: {log}");
    }
}

#[tokio::test]
async fn files_that_change_are_taken_without_a_signal_and_bad_ones_told_once() {
    let (folder, ca) = (folder(), Ca::new("CA"));
    let ours = ca.issue(&["chat.example.com"]).write(folder.path(), "ours");
    let also = ca.issue(&["api.example.com"]).write(folder.path(), "also");
    let origin = Origin::canned(json_answer("{}"));
    let server = Server::start(folder.path(), &[origin.address], &tls(&[&ours, &also]));
    write(&also.0, "damaged");
    said(&server, "also.crt").await;
    // The other one is renewed all the same, by links that change as in Kubernetes.
    let next = ca.issue(&["chat.example.com"]);
    let (certificate, key) = next.write(folder.path(), "next");
    for (link, target) in [(&ours.0, &certificate), (&ours.1, &key)] {
        let new = link.with_extension("new");
        std::os::unix::fs::symlink(target, &new).expect("the folder is ours");
        std::fs::rename(&new, link).expect("the folder is ours");
    }
    let client = client(&ca, None, BOTH);
    eventually("the new certificate", async || {
        let seen = ask(server.address, "chat.example.com", &client).await.ok()?;
        (seen.certificate == next.ders().0[0]).then_some(())
    })
    .await;
    assert_eq!(ask(server.address, "api.example.com", &client).await.expect("it is let in").status, 200);
    assert_eq!(server.log().matches("a TLS file cannot be used").count(), 1, "{}", server.log());
}

#[tokio::test]
async fn days_left_are_counted_and_warned_of() {
    let (folder, ca) = (folder(), Ca::new("CA"));
    let between = ca.below("CA between");
    let whole = |mut issued: Issued| {
        issued.chain += &ca.pem();
        issued
    };
    let end = |days: u32| SystemTime::now() + days * DAY + DAY / 2;
    let mut chained = between.issue_until(&["chained.example.com"], end(90));
    chained.chain += &between.pem();
    let mut broken = between.issue_until(&["broken.example.com"], end(90));
    broken.chain += &ca.pem();
    let mut forged = ca.below("CA between").issue_until(&["forged.example.com"], end(90));
    forged.chain += &between.pem();
    let early = whole(ca.issue_during(&["early.example.com"], SystemTime::now() + DAY, end(90)));
    // Days left, what the log says of its file, and what `check` does; nothing where nothing is wrong.
    let rows = [
        ("far", whole(ca.issue_until(&["far.example.com"], end(22))), 22.0, "", ""),
        ("weeks", whole(ca.issue_until(&["weeks.example.com"], end(21))), 21.0, "expires soon", "expires soon"),
        ("week", whole(ca.issue_until(&["week.example.com"], end(7))), 7.0, "expires soon", "expires soon"),
        (
            "over",
            whole(ca.issue_until(&["over.example.com"], SystemTime::now() - DAY / 2)),
            -1.0,
            "has expired",
            "has expired",
        ),
        ("chained", chained, 90.0, "", ""),
        ("broken", broken, 90.0, "its chain does not build: certificate 1 was issued by", "its chain does not build"),
        ("forged", forged, 90.0, "its chain does not build: ", "its chain does not build: "),
        ("early", early, 90.0, "is not valid before", "is not valid before"),
        ("nameless", whole(ca.issue_until(&[], end(90))), 90.0, "stands for no name", "stands for no name"),
        (
            "open",
            whole(ca.issue_until(&["open.example.com"], end(90))),
            90.0,
            "everybody on this machine may read",
            "everybody",
        ),
        (
            "lone",
            between.issue_until(&["lone.example.com"], end(90)),
            90.0,
            "does not hold the certificate of \\\"CN=CA between",
            "does not hold the certificate of \"CN=CA between",
        ),
    ];
    let paths: Vec<_> = rows.iter().map(|(name, issued, ..)| issued.write(folder.path(), name)).collect();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&paths[9].1, open).expect("the file is ours");
    let origin = Origin::canned(json_answer("{}"));
    let server = Server::start(folder.path(), &[origin.address], &tls(&paths.iter().collect::<Vec<_>>()));
    let (code, stdout, stderr) = run(&["check", "--config", &server.config.display().to_string()]);
    assert_eq!(code, 0, "{stderr}"); // doubts keep nobody from serving
    for ((name, _, days_left, logged, checked), (certificate, _)) in rows.iter().zip(&paths) {
        let line = format!("gms_recorder_certificate_days_left{{file={certificate:?}}}");
        assert_eq!(server.metric(&line).await, Some(*days_left), "{name}");
        let about = format!("/{name}.");
        let log = server.log();
        let warnings: Vec<_> = log.lines().filter(|line| line.contains(&about)).collect();
        let is_told = warnings.iter().filter(|line| line.contains(logged)).count();
        assert_eq!((warnings.len(), is_told), if logged.is_empty() { (0, 0) } else { (1, 1) }, "{name}: {warnings:?}");
        let warnings: Vec<_> =
            stdout.lines().filter(|line| line.starts_with("warning: ") && line.contains(&about)).collect();
        let is_told = warnings.iter().filter(|line| line.contains(checked)).count();
        assert_eq!((warnings.len(), is_told), if checked.is_empty() { (0, 0) } else { (1, 1) }, "{name}: {stdout}");
        assert!(*name == "nameless" || stdout.contains(&format!("for {name}.example.com  ")), "{name}: {stdout}");
    }
}

/// TLS in front of a node that speaks clear text: its address.
pub async fn tls_node(node: SocketAddr, identity: &Issued, client_ca: Option<&Ca>) -> SocketAddr {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let verifier = match client_ca {
        Some(ca) => WebPkiClientVerifier::builder_with_provider(Arc::new(ca.roots()), provider).build().expect("a CA"),
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let (chain, key) = identity.ders();
    let builder = builder.expect("both versions are known").with_client_cert_verifier(verifier);
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).expect("they fit")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("free ports");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let (Ok(mut outer), Ok(mut inner)) =
                    (acceptor.accept(stream).await, tokio::net::TcpStream::connect(node).await)
                else {
                    return;
                };
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await; // either side may leave
            });
        }
    });
    address
}

/// A node that knows no TLS and says so, as Jetty does.
fn clear_node() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free ports");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]); // whoever leaves is not answered
            let _ = stream.write_all(b"HTTP/1.1 400 Illegal character CNTL=0x16\r\nConnection: close\r\n\r\n");
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_verified_and_refused_before_anything_is_sent() {
    let (folder, ca, other) = (folder(), Ca::new("CA"), Ca::new("another CA"));
    let origin = Origin::canned(json_answer("{\"node\":1}"));
    let by_address = tls_node(origin.address, &ca.issue(&["127.0.0.1"]), None).await;
    let by_name = tls_node(origin.address, &ca.issue(&["gms.example.com"]), None).await;
    let clear = clear_node();
    let expired = tls_node(origin.address, &ca.issue_until(&["127.0.0.1"], SystemTime::now() - DAY), None).await;
    let asking = tls_node(origin.address, &ca.issue(&["127.0.0.1"]), Some(&other)).await;
    for (name, authority) in [("ca", &ca), ("other", &other)] {
        write(&folder.path().join(format!("{name}.crt")), &authority.pem());
    }
    let ours = other.issue(&["recorder"]).write(folder.path(), "ours");
    // Longer than a handshake takes on a machine at full load.
    let patient = "[proxy]\nconnect_timeout = \"10s\"\n";
    let ca_file = |name: &str| format!("{patient}[node_tls]\nca = {:?}\n", folder.path().join(format!("{name}.crt")));
    let shown = format!("certificate = {:?}\nkey = {:?}\n", ours.0, ours.1);
    let rows = [
        ("all is right", by_address, ca_file("ca"), None),
        ("another name", by_name, ca_file("ca"), Some("not valid for name")),
        ("the name it should have", by_name, ca_file("ca") + "server_name = \"gms.example.com\"\n", None),
        ("another CA", by_address, ca_file("other"), Some("UnknownIssuer")),
        ("the system's CAs", by_address, patient.into(), Some("UnknownIssuer")),
        ("expired", expired, ca_file("ca"), Some("expired")),
        (
            "no TLS at all",
            clear,
            ca_file("ca"),
            Some("what answers there is no TLS (if it speaks clear text, write http://)"),
        ),
        ("it asks for our certificate", asking, ca_file("ca") + &shown, None),
    ];
    for (n, (what, node, settings, problem)) in rows.into_iter().enumerate() {
        let run_folder = folder.path().join(n.to_string());
        std::fs::create_dir(&run_folder).expect("the folder is ours");
        let before = origin.received().len();
        let database = run_folder.join("transcripts.db");
        let server = Server::start_with_urls(&run_folder, &database, vec![format!("gms-1=https://{node}")], &settings);
        let request = b"GET /genesys/1/storage/x HTTP/1.1\r\nhost: gms\r\nconnection: close\r\n\r\n";
        let answer = String::from_utf8_lossy(&crate::support::send_raw(server.address, request)).into_owned();
        let (code, stdout, _) = run(&["check", "--config", &server.config.display().to_string()]);
        let Some(problem) = problem else {
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("{\"node\":1}"), "{what}: {answer}");
            assert_eq!((code, origin.received().len()), (0, before + 1), "{what}: {stdout}");
            assert!(stdout.contains("in use by the serve that runs on this archive (process "), "{stdout}");
            continue;
        };
        let answer = answer.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 502 "), "{what}: {answer}");
        let status = answer.lines().find(|line| line.starts_with("proxy-status: ")).unwrap_or_default();
        let kind = if node == clear { "tls_protocol_error" } else { "tls_certificate_error" };
        assert!(status.contains(&format!("error={kind}; details=\"not forwarded\"")), "{what}: {answer}");
        let log = server.log();
        let told = log.lines().find(|line| line.contains("a node does not take connections")).unwrap_or_default();
        assert!(told.contains(problem), "{what}: {log}");
        assert_eq!(code, 1, "{what}");
        assert!(
            stdout.contains("NOT REACHED: its TLS is not accepted: ") && stdout.contains(problem),
            "{what}: {stdout}"
        );
        // Wherever somebody may look.
        let config = server.config.display().to_string();
        let listed = run(&["node", "list", "--format", "json", "--config", &config]).1;
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        for field in ["detail", "last_failure"] {
            assert!(listed[field].as_str().is_some_and(|text| text.contains(problem)), "{what}: {listed}");
        }
        let (_, ready) = crate::support::get(server.admin, "/ready").await.expect("it runs");
        assert!(ready.contains(problem), "{what}: {ready}");
        let audited = eventually("a row in the audit", async || {
            let rows = run(&["errors", "--format", "json", "--config", &config]).1;
            rows.contains("\"proxy\"").then_some(rows)
        });
        let audited = audited.await;
        assert!(audited.contains(&format!("{kind}: ")) && audited.contains(problem), "{what}: {audited}");
        let requests = origin.received();
        assert!(!requests[before..].iter().any(|request| request.contains("storage")), "{what}: {requests:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_spoken_to_otherwise_than_it_speaks_is_told_so() {
    let (folder, ca, other) = (folder(), Ca::new("CA"), Ca::new("another CA"));
    let origin = Origin::canned(json_answer("{}"));
    let node = tls_node(origin.address, &ca.issue(&["127.0.0.1"]), None).await;
    // TLS 1.3: it refuses when the handshake is over for us.
    let asking = tls_node(origin.address, &ca.issue(&["127.0.0.1"]), Some(&other)).await;
    let file = folder.path().join("ca.crt");
    write(&file, &ca.pem());
    let node_tls = format!("[proxy]\nconnect_timeout = \"10s\"\n[node_tls]\nca = {file:?}\n");
    let health = "[nodes]\nhealth_path = \"/status\"\nhealth_interval = \"50ms\"\n";
    let rows = [
        (format!("http://{node}"), String::new(), "it speaks TLS: write https://", "http_response_incomplete"),
        (format!("http://{node}"), health.into(), "it speaks TLS: write https://", "http_response_incomplete"),
        (format!("https://{asking}"), node_tls.clone(), "it wants a certificate of ours", "tls_alert_received"),
        (format!("https://{asking}"), node_tls + health, "it wants a certificate of ours", "tls_alert_received"),
    ];
    for (n, (url, settings, problem, kind)) in rows.into_iter().enumerate() {
        let run_folder = folder.path().join(n.to_string());
        std::fs::create_dir(&run_folder).expect("the folder is ours");
        let database = run_folder.join("transcripts.db");
        let server = Server::start_with_urls(&run_folder, &database, vec![format!("gms-1={url}")], &settings);
        let config = server.config.display().to_string();
        // It gives a node a second, which on a machine at full load may pass.
        eventually(problem, async || {
            let (code, stdout, _) = run(&["check", "--config", &config]);
            (code == 1 && stdout.contains(problem)).then_some(())
        })
        .await;
        if settings.contains("health_path") {
            said(&server, problem).await;
        }
        let request = b"GET /genesys/1/storage/x HTTP/1.1\r\nhost: gms\r\nconnection: close\r\n\r\n";
        let answer = String::from_utf8_lossy(&crate::support::send_raw(server.address, request)).into_owned();
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains(kind), "{url}: {answer}");
        let listed = run(&["node", "list", "--format", "json", "--config", &config]).1;
        assert!(listed.contains(problem), "{url}: {listed}");
    }
    assert_eq!(origin.received().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_s_health_is_asked_over_its_tls() {
    let (folder, ca) = (folder(), Ca::new("CA"));
    let origin = Origin::canned(json_answer("{}"));
    let node = tls_node(origin.address, &ca.issue(&["127.0.0.1"]), None).await;
    let file = folder.path().join("ca.crt");
    write(&file, &ca.pem());
    let settings =
        format!("[node_tls]\nca = {file:?}\n[nodes]\nhealth_path = \"/status\"\nhealth_interval = \"50ms\"\n");
    let database = folder.path().join("transcripts.db");
    let server = Server::start_with_urls(folder.path(), &database, vec![format!("gms-1=https://{node}")], &settings);
    let line = "gms_recorder_node_health_checks_total{node=\"gms-1\",outcome=\"passed\"}";
    eventually(line, async || (server.metric(line).await? >= 2.0).then_some(())).await;
    assert!(origin.received()[0].to_ascii_lowercase().starts_with("get /status http/1.1\r\n"));
    assert_eq!(run(&["check", "--config", &server.config.display().to_string()]).0, 0);
}

#[tokio::test]
async fn whoever_says_nothing_is_closed_at_the_handshake_timeout() {
    let (folder, ca) = (folder(), Ca::new("CA"));
    let ours = ca.issue(&["chat.example.com"]).write(folder.path(), "ours");
    let origin = Origin::canned(json_answer("{}"));
    let settings = format!("{}handshake_timeout = \"300ms\"\n", tls(&[&ours]));
    let server = Server::start(folder.path(), &[origin.address], &settings);
    // A ClientHello that never ends, and not even that.
    for beginning in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut stream = TcpStream::connect(server.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a sound timeout");
        stream.write_all(beginning).expect("it reads");
        let began = Instant::now();
        let read = stream.read(&mut [0; 16]);
        let waited = began.elapsed();
        assert!(matches!(read, Ok(0)), "{beginning:?}: {read:?}");
        assert!((Duration::from_millis(200)..Duration::from_secs(5)).contains(&waited), "{beginning:?}: {waited:?}");
    }
    let line = "gms_recorder_tls_handshake_errors_total";
    eventually(line, async || (server.metric(line).await? >= 2.0).then_some(())).await;
    said(&server, "no TLS handshake within tls.handshake_timeout").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_unchanged_by_tls_both_ways() {
    let (folder, ca) = (folder(), Ca::new("CA"));
    let ours = ca.issue(&["chat.example.com"]).write(folder.path(), "ours");
    write(&folder.path().join("ca.crt"), &ca.pem());
    let body: Vec<u8> = (0..6_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    let origin = Origin::start(move |_| Answer { bytes: bytes.clone(), close: false });
    let node = tls_node(origin.address, &ca.issue(&["127.0.0.1"]), None).await;
    let settings = format!("{}[node_tls]\nca = {:?}\n", tls(&[&ours]), folder.path().join("ca.crt"));
    let urls = vec![format!("https://{node}")];
    let server = Server::start_with_urls(folder.path(), &folder.path().join("transcripts.db"), urls, &settings);
    let seen = ask(server.address, "chat.example.com", &client(&ca, None, BOTH)).await.expect("it is answered");
    assert!(seen.body == body, "{} bytes of {} came, or others", seen.body.len(), body.len());
    let slow = curl_bytes(&server, folder.path(), &["--limit-rate", "4M"]); // slower than what comes
    assert!(slow == body, "{} bytes of {} came, or others", slow.len(), body.len());
}

fn curl_bytes(server: &Server, folder: &Path, options: &[&str]) -> Vec<u8> {
    let port = server.address.port();
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "20", "--cacert"])
        .arg(folder.join("ca.crt"))
        .args(["--resolve", &format!("chat.example.com:{port}:{}", server.address.ip())])
        .args(options)
        .arg(format!("https://chat.example.com:{port}/genesys/1/storage/x"))
        .output();
    output.expect("curl is installed").stdout
}

#[tokio::test]
async fn a_hangup_takes_what_can_be_taken_and_names_the_rest() {
    let folder = folder();
    let origin = Origin::canned(json_answer("{}"));
    let server = Server::start(folder.path(), &[origin.address], "[log]\nlevel = \"warn\"\n");
    let hang_up = async |words: &str| {
        server.signal(Signal::HUP);
        said(&server, words).await;
    };
    change(&server, "level = \"warn\"", "level = \"info\"");
    hang_up("\"changed\":\"log.level\"").await; // at a level that was silent before
    change(&server, "[proxy]\n", "[proxy]\nthreads = 7\n");
    hang_up("\"options\":\"proxy.threads\"").await;
    change(&server, "threads = 7", "threads = \"many\"");
    hang_up("proxy.threads: a whole number from 0 is wanted").await;
    assert_eq!(crate::support::get(server.address, "/genesys/1/storage/x").await.expect("it serves").0, 200);
}
