//! What lies beside the program under `config/`: units, packages, alerts, dashboards. Other programs read them, and are
//! asked here what they think of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use gms_recorder::simulator::{Config, Simulator};
use http::StatusCode;
use rustix::process::Signal;

use crate::support::{Chat, Client, Origin, Server, eventually, folder, get, json_answer};

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(config(name)).expect("it is part of the source")
}

/// What a program says of them; it must be content.
fn content(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is installed by tests/run: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

#[test]
fn systemd_takes_the_units_and_finds_little_exposed() {
    let folder = folder();
    let service = text("gms-recorder.service").replace("/usr/bin/gms-recorder", env!("CARGO_BIN_EXE_gms-recorder"));
    std::fs::write(folder.path().join("gms-recorder.service"), service).expect("the folder is ours");
    std::fs::copy(config("gms-recorder.socket"), folder.path().join("gms-recorder.socket")).expect("it is there");
    let units = ["./gms-recorder.service", "./gms-recorder.socket"];
    let said = content("systemd-analyze", &[&["verify", "--man=no"], &units[..]].concat(), folder.path());
    let of_ours: Vec<&str> = said.lines().filter(|line| line.contains("gms-recorder")).collect();
    assert!(of_ours.is_empty(), "{of_ours:?}");
    // In tenths: 1.9 is "OK" in systemd's words; a unit without hardening has 9.6.
    let said = content(
        "systemd-analyze",
        &["security", "--offline=yes", "--threshold=20", "--no-pager", "./gms-recorder.service"],
        folder.path(),
    );
    println!("{}", said.lines().rfind(|line| line.contains("exposure")).unwrap_or_default());
}

#[test]
fn prometheus_takes_the_alert_rules_and_they_ring_when_they_should() {
    let folder = config("");
    content("promtool", &["check", "rules", "alerts.yml"], &folder);
    content("promtool", &["test", "rules", "alerts_test.yml"], &folder);
}

/// Names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = text.match_indices("gms_recorder_").map(|(at, _)| &text[at..]);
    starts.map(|rest| rest[..rest.find(|c| !is_of_name(c)).unwrap_or(rest.len())].to_string()).collect()
}

/// The metrics of a server with TLS whose certificate was renewed badly.
async fn with_certificates(simulator: &Simulator) -> String {
    let folder = folder();
    let (certificate, key) = (folder.path().join("a.crt"), folder.path().join("a.key"));
    let issued = rcgen::generate_simple_self_signed(["localhost".to_string()]).expect("a sound name");
    std::fs::write(&certificate, issued.cert.pem()).expect("the folder is ours");
    std::fs::write(&key, issued.signing_key.serialize_pem()).expect("the folder is ours");
    let settings = format!("[tls]\ncertificates = [{certificate:?}]\nkeys = [{key:?}]\n");
    let server = Server::start(folder.path(), &simulator.addresses(), &settings);
    std::fs::write(&certificate, "no certificate").expect("the folder is ours");
    server.signal(Signal::HUP);
    eventually("it is refused", async || {
        let exposed = get(server.admin, "/metrics").await?.1;
        exposed.contains("certificate_reloads_total").then_some(exposed)
    })
    .await
}

/// The metrics of a server whose node says what cannot be read, whose clients are refused, and whose archive is gone.
async fn in_trouble() -> String {
    let (node, folder) = (Origin::canned(json_answer("{ no JSON")), folder());
    let server = Server::start(folder.path(), &[node.address], "[proxy]\ndeny = [\"other\"]\n");
    let mut client = Client::new(server.address);
    client.post("/genesys/2/chat/customer-support/A/refresh", "").await.expect("an answer");
    assert_eq!(get(server.address, "/genesys/1/other").await.expect("an answer").0, StatusCode::FORBIDDEN);
    std::fs::remove_file(&server.database).expect("it is there");
    eventually("it is missed", async || {
        let exposed = get(server.admin, "/metrics").await?.1;
        exposed.contains("gms_recorder_store_errors_total{").then_some(exposed)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_that_is_watched_exists() {
    let simulator = Simulator::start(Config::nodes(1)).await.expect("a free port");
    let folder = folder();
    let settings = format!(
        "[evidence]\nanchor_file = {:?}\n[export.targets.t]\nformat = \"csv\"\nfolder = {:?}\n",
        folder.path().join("checkpoints"),
        folder.path()
    );
    let server = Server::start(folder.path(), &simulator.addresses(), &settings);
    let mut client = Client::new(server.address);
    Chat::open(&mut client, "nickname=Anna").await;
    let mut exposed = get(server.admin, "/metrics").await.expect("metrics").1;
    exposed += &with_certificates(&simulator).await;
    exposed += &in_trouble().await;
    // Families that have no member yet show only their type.
    let families = exposed.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let exists = |name: &str| {
        families.clone().any(|(family, kind)| match kind {
            "counter" => name.strip_suffix("_total") == Some(family),
            "histogram" => ["_bucket", "_count", "_sum"].iter().any(|part| name.strip_suffix(part) == Some(family)),
            _ => name == family,
        })
    };
    let readme = std::fs::read_to_string(config("").join("../README.md")).expect("there is one");
    for (file, text) in [
        ("alerts.yml", text("alerts.yml")),
        ("alerts_test.yml", text("alerts_test.yml")),
        ("dashboard.json", text("dashboard.json")),
        ("README.md", readme),
    ] {
        let missing: Vec<String> = named(&text).into_iter().filter(|name| !exists(name)).collect();
        assert!(missing.is_empty(), "{file} names what there is not: {missing:?}\n{exposed}");
    }
    serde_json::from_str::<serde_json::Value>(&text("dashboard.json")).expect("Grafana reads JSON");
    simulator.stop().await;
}
