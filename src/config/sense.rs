//! What makes sense: values against their bounds and against each other. Each objection says what would be right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::admin::control::PATH_BYTES_MAX;
use crate::archive::anchor::config::{Lock, S3, endpoint};
use crate::archive::delivery::Target;
use crate::archive::export::is_domain;
use crate::archive::{RecordReads, anchor};
use crate::gms::RouteClass;
use crate::gms::mask::{self, RULES_MAX};
use crate::proxy::affinity::Rule;
use crate::proxy::head::{FIELDS_MAX, HEAD_BYTES_MAX};
use crate::proxy::limits;
use crate::proxy::nodes::{self, NODES_MAX};
use crate::proxy::tls::connector::{self, is_server_name};
use crate::proxy::tls::server::{self, ClientCertificates};
use crate::proxy::{NodeAddress, Proxy, ProxyProtocol};
use crate::telemetry::access::Access;
use crate::{archive, proxy, recorder, telemetry, units};

use super::Config;
use super::layers::Layers;

/// Jetty, which GMS runs on, closes a connection that was idle this long; a request sent just then is lost (R2).
const NODE_CLOSES_AFTER: Duration = Duration::from_secs(300);

/// Chat widgets give up a request after this long.
const WIDGET_GIVES_UP_AFTER: Duration = Duration::from_secs(3);

/// More are hardly meant, and each has a thread and up to half a MiB of checkpoints that wait.
const ANCHORS_MAX: usize = 32;

/// Each has a thread, too, and reads all of what is new.
const TARGETS_MAX: usize = 16;

/// Object locks are counted in these.
const DAY: Duration = Duration::from_secs(86_400);

/// Schedules count in these.
const SECOND: Duration = Duration::from_secs(1);

/// Each wait would end at once, or never begin.
const ONE_MS: Duration = Duration::from_millis(1);

pub(super) fn check(config: &Config, layers: &mut Layers) {
    check_upstreams(&config.proxy, layers);
    check_routes(&config.proxy, layers);
    check_origins(&config.proxy.cors_origins, layers);
    check_proxy_bounds(&config.proxy, layers);
    check_limits(&config.limits, layers);
    check_nodes(&config.nodes, layers);
    check_tls(&config.tls, layers);
    check_node_tls(&config.node_tls, layers);
    check_database(&config.recording, layers);
    check_attributes(&config.recording.attributes, layers);
    check_file_mode(&config.recording.file_mode, layers);
    check_recording_bounds(&config.recording, layers);
    check_masking(&config.masking, layers);
    check_evidence(config, layers);
    check_export(config, layers);
    at_least_one_ms("evidence", "checkpoint_interval", config.evidence.checkpoint_interval, layers);
    check_listeners(config.proxy.listen, config.admin.listen, layers);
    if config.admin.control.as_os_str().len() > PATH_BYTES_MAX {
        let sentence = format!("is longer than the {PATH_BYTES_MAX} bytes that a Unix socket's path may have");
        layers.object("admin", "control", None, sentence);
    }
    if let Err(sentence) = telemetry::parse_level(&config.log.level) {
        layers.object("log", "level", None, sentence);
    }
    if !(0.0..=1.0).contains(&config.log.access_sample) {
        let sentence = format!("{} is out of bounds: 0 (none but errors) to 1 (all)", config.log.access_sample);
        layers.object("log", "access_sample", None, sentence);
    }
}

fn check_upstreams(config: &proxy::Config, layers: &mut Layers) {
    let upstreams = &config.upstreams;
    if upstreams.is_empty() {
        let sentence =
            "no GMS node is named; add --upstream http://gms:8080, or upstreams = [\"http://gms:8080\"] under [proxy]";
        layers.object_once("proxy", "upstreams", sentence.into());
    }
    if upstreams.len() > NODES_MAX {
        let sentence = format!("{} nodes are named; at most {NODES_MAX} can be served", upstreams.len());
        layers.object_once("proxy", "upstreams", sentence);
    }
    let mut names = Vec::new();
    for (n, upstream) in upstreams.iter().enumerate() {
        match NodeAddress::parse(upstream) {
            Ok(node) if names.contains(&node.name) => {
                let sentence = format!("two nodes are named {}; rows and metrics could not tell them apart", node.name);
                layers.object("proxy", "upstreams", Some(n), sentence);
            }
            Ok(node) if node.is_tls && !is_server_name(&node.host) => {
                let sentence =
                    format!("no certificate can stand for \"{}\"; give a DNS name or an IP address", node.host);
                layers.object("proxy", "upstreams", Some(n), sentence);
            }
            Ok(node) if is_circle(config.listen, &node) => {
                let sentence = format!(
                    "{} is proxy.listen = \"{}\", our own address: requests would go round in a circle; name the GMS node's",
                    node.authority(),
                    config.listen
                );
                layers.object("proxy", "upstreams", Some(n), sentence);
            }
            Ok(node) => names.push(node.name),
            Err(sentence) => layers.object("proxy", "upstreams", Some(n), sentence),
        }
    }
}

/// Names that have to be looked up are seen to where they are.
fn is_circle(listen: SocketAddr, node: &NodeAddress) -> bool {
    let ips = match node.host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) if node.host.eq_ignore_ascii_case("localhost") => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        Err(_) => Vec::new(),
    };
    ips.into_iter().any(|ip| Proxy::is_at(listen, SocketAddr::new(ip, node.port)))
}

fn check_routes(config: &proxy::Config, layers: &mut Layers) {
    for (name, entries) in [("allow", &config.allow), ("deny", &config.deny)] {
        for (n, entry) in entries.iter().enumerate() {
            if !entry.starts_with('/') && entry.parse::<RouteClass>().is_err() {
                let classes = RouteClass::ALL.map(RouteClass::as_str).join(", ");
                let sentence =
                    format!("\"{entry}\" is neither a route class ({classes}) nor a path prefix that begins with /");
                layers.object("proxy", name, Some(n), sentence);
            } else if entry.contains(['?', '#']) {
                layers.object("proxy", name, Some(n), format!("\"{entry}\" is no path prefix: a query takes no part"));
            }
        }
    }
    let base_path = &config.base_path;
    let is_prefix = base_path.starts_with('/') && (base_path == "/" || !base_path.ends_with('/'));
    if !is_prefix || base_path.contains(['?', '#']) {
        let sentence =
            format!("\"{base_path}\" is no path such as \"/genesys\": it begins with / and does not end with one");
        layers.object("proxy", "base_path", None, sentence);
    }
}

fn check_origins(origins: &[String], layers: &mut Layers) {
    for (n, origin) in origins.iter().enumerate() {
        if !is_origin(origin) {
            let sentence =
                format!("\"{origin}\" is no origin such as \"https://www.example.com\" or \"http://localhost:3000\"");
            layers.object("proxy", "cors_origins", Some(n), sentence);
        }
    }
}

/// As a browser sends it (RFC 6454 section 6.2): scheme and host in lower case, a port unless it is the scheme's own.
fn is_origin(origin: &str) -> bool {
    let (authority, own_port) = match (origin.strip_prefix("https://"), origin.strip_prefix("http://")) {
        (Some(authority), _) => (authority, ":443"),
        (_, Some(authority)) => (authority, ":80"),
        _ => return false,
    };
    let is_lower = !origin.bytes().any(|byte| byte.is_ascii_uppercase());
    // The authority follows the rules of a node's, which `NodeAddress` knows.
    let is_authority = !authority.ends_with('/') && NodeAddress::parse(&format!("http://{authority}")).is_ok();
    is_lower && is_authority && !authority.ends_with(own_port)
}

fn check_proxy_bounds(config: &proxy::Config, layers: &mut Layers) {
    let waits = [
        ("node_idle_timeout", config.node_idle_timeout),
        ("connect_timeout", config.connect_timeout),
        ("chat_timeout", config.chat_timeout),
        ("long_poll_timeout", config.long_poll_timeout),
        ("other_timeout", config.other_timeout),
        ("body_idle_timeout", config.body_idle_timeout),
        ("websocket_idle_timeout", config.websocket_idle_timeout),
        ("client_timeout", config.client_timeout),
    ];
    for (name, wait) in waits {
        at_least_one_ms("proxy", name, wait, layers);
    }
    if config.proxy_protocol == ProxyProtocol::Required && config.trusted_proxies.is_empty() {
        let sentence = "\"required\" takes connections from proxy.trusted_proxies alone, and that is empty".into();
        layers.object("proxy", "proxy_protocol", None, sentence);
    }
    within("proxy", "threads", config.threads, 0, 1_024, layers);
    within("proxy", "http2_streams_max", config.http2_streams_max as usize, 1, 1 << 16, layers);
    within("proxy", "connections_max", config.connections_max, 1, 1 << 20, layers);
    within("proxy", "node_connections_max", config.node_connections_max, 1, 1 << 20, layers);
}

fn check_limits(config: &limits::Config, layers: &mut Layers) {
    for (name, wait) in [
        ("head_timeout", config.head_timeout),
        ("pace_time", config.pace_time),
        ("exchange_time_max", config.exchange_time_max),
    ] {
        at_least_one_ms("limits", name, wait, layers);
    }
    // What is built in for heads can be narrowed.
    for (name, size, least, most) in [
        ("head_bytes_max", config.head_bytes_max, 1 << 10, HEAD_BYTES_MAX),
        ("target_bytes_max", config.target_bytes_max, 256, HEAD_BYTES_MAX),
        ("pace_bytes", config.pace_bytes, 1, usize::MAX),
        ("body_bytes_max", config.body_bytes_max, 1 << 10, usize::MAX),
    ] {
        if !(least..=most).contains(&size) {
            let [given, least, most] = [size, least, most].map(units::format_size);
            let bounds = if name.starts_with("head") || name.starts_with("target") {
                format!("{least} to {most}")
            } else {
                format!("at least {least}")
            };
            layers.object("limits", name, None, format!("{given} is out of bounds: {bounds}"));
        }
    }
    within("limits", "head_fields_max", config.head_fields_max, 16, FIELDS_MAX, layers);
    within("limits", "reserve_percent", config.reserve_percent, 0, 90, layers);
    within("limits", "client_connections_max", config.client_connections_max, 0, 1 << 20, layers);
}

fn check_nodes(config: &nodes::Config, layers: &mut Layers) {
    let path = &config.health_path;
    let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.is_empty() && !is_path {
        let sentence = format!("\"{path}\" is no path such as \"/genesys/1/admin/node/status\"");
        layers.object("nodes", "health_path", None, sentence);
    }
    let asks_nothing = path.is_empty();
    let extras = [
        ("health_text", !config.health_text.is_empty()),
        ("health_credentials", !config.health_credentials.as_os_str().is_empty()),
    ];
    for (name, is_set) in extras {
        if asks_nothing && is_set {
            layers.object("nodes", name, None, "without health_path nothing is asked of the nodes".into());
        }
    }
    for (name, wait) in [
        ("health_interval", config.health_interval),
        ("health_timeout", config.health_timeout),
        ("passed_over_max", config.passed_over_max),
        ("resolve_interval", config.resolve_interval),
        ("wait_max", config.wait_max),
    ] {
        at_least_one_ms("nodes", name, wait, layers);
    }
    within("nodes", "health_status", config.health_status, 200, 599, layers);
    within("nodes", "health_failures", config.health_failures, 1, 100, layers);
    within("nodes", "health_passes", config.health_passes, 1, 100, layers);
    within("nodes", "refusals_max", config.refusals_max, 1, 100, layers);
    within("nodes", "server_errors_max", config.server_errors_max, 0, 10_000, layers);
    within("nodes", "waiting_max", config.waiting_max, 0, 1 << 16, layers);
    for (n, rule) in config.cookie_attributes.iter().enumerate() {
        if let Err(sentence) = Rule::parse(rule) {
            layers.object("nodes", "cookie_attributes", Some(n), sentence);
        }
    }
}

fn check_tls(config: &server::Config, layers: &mut Layers) {
    let server::Config { certificates, keys, client_certificates, client_ca, version_min: _, handshake_timeout } =
        config;
    if certificates.len() != keys.len() {
        let sentence = format!(
            "{} for {} in tls.certificates; each has its key at the same place of the list",
            counted(keys.len(), "key"),
            counted(certificates.len(), "certificate")
        );
        layers.object_once("tls", "keys", sentence);
    }
    let asks = *client_certificates != ClientCertificates::None;
    if asks && certificates.is_empty() {
        let sentence = "only TLS shows certificates; name ours in tls.certificates, or write \"none\"";
        layers.object_once("tls", "client_certificates", sentence.into());
    }
    if asks && client_ca.as_os_str().is_empty() {
        let sentence = "no file is named; client certificates are held against the CAs in it";
        layers.object_once("tls", "client_ca", sentence.into());
    }
    at_least_one_ms("tls", "handshake_timeout", *handshake_timeout, layers);
}

fn check_node_tls(config: &connector::Config, layers: &mut Layers) {
    let connector::Config { ca: _, certificate, key, server_name } = config;
    if certificate.as_os_str().is_empty() != key.as_os_str().is_empty() {
        let sentence = "node_tls.certificate and node_tls.key belong together: name both files, or neither";
        layers.object_once("node_tls", "key", sentence.into());
    }
    if !server_name.is_empty() && !is_server_name(server_name) {
        let sentence = format!("\"{server_name}\" is neither a DNS name nor an IP address");
        layers.object("node_tls", "server_name", None, sentence);
    }
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

pub(super) fn check_database(config: &recorder::Config, layers: &mut Layers) {
    if let Some(sentence) = wrong_database(&config.database) {
        layers.object("recording", "database", None, sentence.into());
    }
}

fn wrong_database(database: &Path) -> Option<&'static str> {
    let text = database.to_string_lossy().to_ascii_lowercase();
    if text.starts_with("postgres:") || text.starts_with("postgresql:") {
        return Some(
            "the archive is a SQLite file for now, and PostgreSQL is not supported; \
             name a file such as \"transcripts.db\"",
        );
    }
    if text.contains("://") || text.starts_with("sqlite:") || text.starts_with("file:") {
        return Some("is a path and no URL; name a file such as \"/var/lib/gms-recorder/transcripts.db\"");
    }
    if text == ":memory:" {
        return Some("an archive in memory would be lost with the process; name a file such as \"transcripts.db\"");
    }
    text.is_empty().then_some("no file is named; name one such as \"transcripts.db\"")
}

fn check_attributes(attributes: &[String], layers: &mut Layers) {
    for (n, name) in attributes.iter().enumerate() {
        if name.is_empty() {
            layers.object(
                "recording",
                "attributes",
                Some(n),
                "is the name of a form field, such as \"emailAddress\"".into(),
            );
        } else if name.to_ascii_lowercase().contains("securekey") {
            let sentence = format!("\"{name}\" is a secret: it lets its holder act in the chat, and is never stored");
            layers.object("recording", "attributes", Some(n), sentence);
        }
    }
}

/// The owner reads and writes; others may read at most, since only one process writes.
fn check_file_mode(mode: &str, layers: &mut Layers) {
    let digits_fit = (3..=4).contains(&mode.len()) && mode.bytes().all(|digit| digit.is_ascii_digit());
    let bits = if digits_fit { u32::from_str_radix(mode, 8).ok() } else { None };
    let remedy = "\"0600\" keeps it to the owner, \"0640\" lets a group read";
    match bits {
        None => layers.object("recording", "file_mode", None, format!("\"{mode}\" is no octal mode; {remedy}")),
        Some(bits) if bits & !0o644 != 0 || bits & 0o600 != 0o600 => {
            let sentence = format!(
                "\"{mode}\" does not fit an archive, which its owner reads and writes and others may only read; \
                 {remedy}"
            );
            layers.object("recording", "file_mode", None, sentence);
        }
        Some(_) => {}
    }
}

fn check_recording_bounds(config: &recorder::Config, layers: &mut Layers) {
    for (name, wait) in [
        ("commit_wait_max", config.commit_wait_max),
        ("quiet_after", config.quiet_after),
        ("async_quiet_after", config.async_quiet_after),
    ] {
        at_least_one_ms("recording", name, wait, layers);
    }
    within("recording", "batch_events_max", config.batch_events_max, 1, 100_000, layers);
    // 100 million entries take some gigabytes; 0 remembers nothing and asks the file each time.
    within("recording", "memory_events_max", config.memory_events_max, 0, 100_000_000, layers);
    for (name, size) in [
        ("body_max", config.body_max),
        ("request_bytes_max", config.request_bytes_max),
        ("finding_bytes_max", config.finding_bytes_max),
    ] {
        if size < 1 << 10 {
            let sentence = format!("{} is too little; at least 1KiB is wanted", units::format_size(size));
            layers.object("recording", name, None, sentence);
        }
    }
    let body_max = units::format_size(config.body_max);
    if config.inspected_bytes_max < config.body_max {
        let given = units::format_size(config.inspected_bytes_max);
        let sentence =
            format!("{given} cannot hold one answer of body_max = \"{body_max}\"; raise it, or lower body_max");
        layers.object_once("recording", "inspected_bytes_max", sentence);
    }
    if config.spool_bytes_max < 4 * config.body_max {
        let given = units::format_size(config.spool_bytes_max);
        let sentence = format!(
            "{given} has no room for some answers of body_max = \"{body_max}\", whose events it keeps with all they \
             mean; at least four times that is wanted"
        );
        layers.object_once("recording", "spool_bytes_max", sentence);
    }
    let spool = config.spool_path(&config.database);
    let is_taken = ["", "-wal", "-shm", "-journal", ".lock", "-control", "-reserve"];
    if is_taken.iter().any(|suffix| crate::store::beside(&config.database, suffix) == spool) {
        layers.object("recording", "spool", None, "is a file of the archive itself; name another".into());
    }
    if config.queue_bytes_max < config.body_max {
        let given = units::format_size(config.queue_bytes_max);
        let sentence =
            format!("{given} cannot take in one answer of body_max = \"{body_max}\"; raise it, or lower body_max");
        layers.object_once("recording", "queue_bytes_max", sentence);
    }
}

/// Notes that are appended to another file of ours would spoil it, and a key that is written over it too.
fn check_evidence(config: &Config, layers: &mut Layers) {
    let (evidence, database) = (&config.evidence, &config.recording.database);
    let own = [database.clone(), config.recording.spool_path(database)];
    let is_named = |file: &Path| !file.as_os_str().is_empty();
    if is_named(&evidence.key_file) && own.contains(&evidence.key_file) {
        layers.object(
            "evidence",
            "key_file",
            None,
            "is the archive or its spool; the key needs a file of its own".into(),
        );
    }
    let is_own = own.contains(&evidence.anchor_file) || evidence.anchor_file == evidence.key_path(database);
    if is_named(&evidence.anchor_file) && is_own {
        let sentence = "is the archive, its spool or its key; checkpoints are appended to a file of their own".into();
        layers.object("evidence", "anchor_file", None, sentence);
    }
    if evidence.require_case && evidence.record_reads == RecordReads::Never {
        let sentence = "asks readers for a case that record_reads = \"never\" notes nowhere; set that to \"when_possible\" or \
                        \"required\"";
        layers.object("evidence", "require_case", None, sentence.into());
    }
    let is_taken = |file: &Path| own.iter().any(|own| own == file) || file == evidence.key_path(database);
    check_anchors(evidence, &is_taken, layers);
}

fn check_anchors(config: &archive::Config, is_taken: &dyn Fn(&Path) -> bool, layers: &mut Layers) {
    if config.anchors.len() > ANCHORS_MAX {
        let sentence = format!(
            "there are {}; each has a thread of its own, and at most {ANCHORS_MAX} can be had",
            config.anchors.len()
        );
        layers.object("evidence", "anchors", None, sentence);
    }
    let mut places = vec![config.anchor_file.clone()];
    for (n, (name, anchor)) in config.anchors.iter().enumerate() {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let sentence = match anchor {
            _ if name.is_empty() || name.len() > 40 || !name.bytes().all(is_name) => {
                Some("an anchor's name has up to 40 letters, digits, - and _; metrics and logs show it".into())
            }
            _ if name == archive::ANCHOR_FILE => {
                Some("evidence.anchor_file is called so among the anchors; choose another name".into())
            }
            anchor::Config::File(file) => wrong_file(&file.path, is_taken, &places),
            anchor::Config::Http(http) => wrong_server(&http.url, &http.ca),
            anchor::Config::S3(s3) => wrong_server(&s3.url, &s3.ca).or_else(|| wrong_bucket(s3)),
            anchor::Config::TimeStamp(stamp) => wrong_server(&stamp.url, &stamp.ca).or_else(|| {
                let is_missing = stamp.folder.as_os_str().is_empty();
                is_missing.then(|| "folder: no folder is named; time stamps are kept in one".into())
            }),
        };
        if let anchor::Config::File(file) = anchor {
            places.push(file.path.clone());
        }
        if let Some(sentence) = sentence {
            layers.object("evidence", "anchors", Some(n), format!("{name}: {sentence}"));
        }
    }
}

fn wrong_file(file: &Path, is_taken: &dyn Fn(&Path) -> bool, others: &[PathBuf]) -> Option<String> {
    match file {
        _ if file.as_os_str().is_empty() => Some("path: no file is named".into()),
        _ if is_taken(file) => {
            Some("path: is the archive, its spool or its key; checkpoints are appended to a file of their own".into())
        }
        _ if others.iter().any(|other| other == file) => Some("path: another anchor has this file".into()),
        _ => None,
    }
}

fn wrong_server(url: &str, ca: &Path) -> Option<String> {
    match endpoint(url) {
        Err(why) => Some(format!("url: {why}")),
        Ok(uri) if uri.scheme_str() == Some("http") && !ca.as_os_str().is_empty() => {
            Some("ca: certificates are for https://, and url begins with http://".into())
        }
        Ok(_) => None,
    }
}

/// Keys and hosts are made of what needs no escaping, since they are signed as they are written.
fn wrong_bucket(config: &anchor::config::S3) -> Option<String> {
    let is_of =
        |text: &str, others: &[u8]| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte));
    let has_path = endpoint(&config.url).is_ok_and(|uri| uri.path() != "/");
    match config {
        _ if has_path => Some("url: is the service's, without a path; bucket and prefix are options of their own".into()),
        S3 { bucket, .. } if !(3..=63).contains(&bucket.len()) || !is_of(bucket, b".-") => {
            Some(format!("bucket: \"{bucket}\" is no name of a bucket: 3 to 63 letters, digits, . and -"))
        }
        S3 { prefix, .. } if prefix.len() > 500 || !is_of(prefix, b"/._-") || !is_plain_path(prefix) => {
            Some(format!(
                "prefix: \"{prefix}\" is not made of up to 500 letters, digits, /, ., _ and -, without an empty or dotted part"
            ))
        }
        S3 { region, .. } if region.is_empty() || !is_of(region, b"-") => {
            Some(format!("region: \"{region}\" is none such as \"eu-central-1\""))
        }
        S3 { lock: Lock::None, retention, .. } if !retention.is_zero() => {
            Some("retention: nothing is retained with lock = \"none\"".into())
        }
        S3 { lock, retention, .. } if *lock != Lock::None && !(DAY..=100 * 366 * DAY).contains(retention) => {
            Some("retention: say how long objects are locked, \"1d\" to a hundred years, such as \"2557d\"; or lock = \"none\"".into())
        }
        _ => None,
    }
}

/// What servers on the way could shorten: the signature would not fit.
fn is_plain_path(prefix: &str) -> bool {
    let parts = prefix.strip_suffix('/').unwrap_or(prefix).split('/');
    prefix.is_empty() || parts.into_iter().all(|part| !["", ".", ".."].contains(&part))
}

pub(super) fn check_export(config: &Config, layers: &mut Layers) {
    let targets = &config.export.targets;
    if targets.len() > TARGETS_MAX {
        let sentence = format!("there are {}; at most {TARGETS_MAX} can be had", targets.len());
        layers.object("export", "targets", None, sentence);
    }
    let mut places = Vec::new();
    for (n, (name, target)) in targets.iter().enumerate() {
        let sentence = match wrong_target(name, target) {
            None if places.contains(&target.place()) && target.url.is_empty() => {
                Some("folder: another target has this folder".into())
            }
            sentence => sentence,
        };
        places.push(target.place());
        if let Some(sentence) = sentence {
            layers.object("export", "targets", Some(n), format!("{name}: {sentence}"));
        }
    }
}

fn wrong_target(name: &str, target: &Target) -> Option<String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match (target.folder.as_os_str().is_empty(), target.s3()) {
        _ if name.is_empty() || name.len() > 40 || !name.bytes().all(is_name) => {
            Some("a target's name has up to 40 letters, digits, - and _; files and metrics show it".into())
        }
        _ if target.every < SECOND => Some("every: at least 1s is wanted, such as \"1h\" or \"1d\"".into()),
        _ if !(1..=1_000_000).contains(&target.chats_max) => {
            Some(format!("chats_max: {} is out of bounds: 1 to 1000000", target.chats_max))
        }
        _ if !is_domain(&target.mail_domain) => {
            Some(format!("mail_domain: \"{}\" is no domain such as archive.example.com", target.mail_domain))
        }
        (true, None) => Some("name a folder, or a bucket with url and bucket".into()),
        (false, Some(_)) => Some("folder and url are both named: a target is one of them".into()),
        (false, None) => None,
        (true, Some(s3)) => wrong_server(&s3.url, &s3.ca).or_else(|| wrong_bucket(&s3)),
    }
}

pub(super) fn check_masking(config: &mask::Config, layers: &mut Layers) {
    if config.rules.len() > RULES_MAX {
        let sentence = format!(
            "there are {} rules; each looks at every text, and at most {RULES_MAX} can be had",
            config.rules.len()
        );
        layers.object("masking", "rules", None, sentence);
    }
    for (n, (name, expression)) in config.rules.iter().enumerate() {
        if let Err(sentence) = mask::Rule::new(name, expression) {
            layers.object("masking", "rules", Some(n), sentence);
        }
    }
}

fn check_listeners(proxy: SocketAddr, admin: SocketAddr, layers: &mut Layers) {
    let is_any = proxy.ip().is_unspecified() || admin.ip().is_unspecified();
    let is_same = proxy.port() != 0 && proxy.port() == admin.port() && (is_any || proxy.ip() == admin.ip());
    if is_same {
        let sentence =
            format!("{admin} is taken by proxy.listen = \"{proxy}\"; probes and metrics need a port of their own");
        layers.object_once("admin", "listen", sentence);
    }
}

fn at_least_one_ms(section: &str, name: &str, wait: Duration, layers: &mut Layers) {
    if wait < ONE_MS {
        layers.object(section, name, None, "0 would be over before it begins; at least 1ms is wanted".into());
    }
}

fn within(section: &str, name: &str, value: usize, least: usize, most: usize, layers: &mut Layers) {
    if !(least..=most).contains(&value) {
        layers.object(section, name, None, format!("{value} is out of bounds: {least} to {most}"));
    }
}

pub(super) fn warnings(config: &Config) -> Vec<String> {
    let Config { proxy, nodes, tls, node_tls, recording, masking, evidence, retention, export, log, .. } = config;
    let duration = units::format_duration;
    let mut warnings = Vec::new();
    let mut warn = |applies, sentence| {
        if applies {
            warnings.push(sentence)
        }
    };
    warn(
        recording.commit_wait_max >= proxy.chat_timeout,
        format!(
            "recording.commit_wait_max ({}) is not below proxy.chat_timeout ({}): a slow disk looks like a dead node",
            duration(recording.commit_wait_max),
            duration(proxy.chat_timeout)
        ),
    );
    warn(
        proxy.chat_timeout >= WIDGET_GIVES_UP_AFTER,
        format!(
            "proxy.chat_timeout ({}): chat widgets give up after 3s and will not see our answer",
            duration(proxy.chat_timeout)
        ),
    );
    warn(
        proxy.connect_timeout >= proxy.chat_timeout,
        format!(
            "proxy.connect_timeout ({}) is not below proxy.chat_timeout ({}): no time is left to try another node",
            duration(proxy.connect_timeout),
            duration(proxy.chat_timeout)
        ),
    );
    warn(
        proxy.node_idle_timeout >= NODE_CLOSES_AFTER,
        format!(
            "proxy.node_idle_timeout ({}): nodes close idle connections after 5m, perhaps just as a request is sent",
            duration(proxy.node_idle_timeout)
        ),
    );
    warn(
        nodes.wait_max >= proxy.chat_timeout,
        format!(
            "nodes.wait_max ({}) is not below proxy.chat_timeout ({}): whoever waits for a connection has no time left for an answer",
            duration(nodes.wait_max),
            duration(proxy.chat_timeout)
        ),
    );
    warn(
        recording.deliver == recorder::Deliver::Immediately,
        "recording.deliver is \"immediately\": after a crash clients may hold events that the archive does not".into(),
    );
    warn(
        recording.when_unavailable != recorder::WhenUnavailable::Spool && !recording.spool.as_os_str().is_empty(),
        "recording.spool names a file, and recording.when_unavailable is not \"spool\": it is only drained".into(),
    );
    warn(
        recording.keep_typing_text,
        "recording.keep_typing_text: what customers typed and did not send is stored".into(),
    );
    warn(!masking.cards, "masking.cards is off: card numbers that customers type are stored".into());
    warn(
        tls.client_certificates == ClientCertificates::None && !tls.client_ca.as_os_str().is_empty(),
        "tls.client_ca names a file, and tls.client_certificates is \"none\": no client is asked for one".into(),
    );
    let is_https = |url: &String| NodeAddress::parse(url).is_ok_and(|node| node.is_tls);
    warn(
        *node_tls != connector::Config::default() && !proxy.upstreams.iter().any(is_https),
        "[node_tls] is set, and no node is reached by https://: it is not used".into(),
    );
    let defaults = telemetry::Config::default();
    let tunes = log.access_file != defaults.access_file || log.access_sample != defaults.access_sample;
    warn(
        log.access == Access::None && tunes,
        "log.access_file or log.access_sample is set, and log.access is \"none\": no access log is written".into(),
    );
    warn(
        export.purge_waits && !(retention.automatic && retention.is_limited()),
        "export.purge_waits is set, and `serve` purges nothing (retention.automatic): nothing waits".into(),
    );
    warnings.extend(export.targets.iter().filter(|(_, target)| target.s3().is_some_and(|s3| s3.lock == Lock::None)).map(
        |(name, _)| {
            format!("export.targets.{name}: lock is \"none\": whoever has its credentials can replace and delete deliveries there")
        },
    ));
    warnings.extend(evidence.anchors.iter().filter_map(|(name, anchor)| anchor_warning(name, anchor)));
    warnings
}

fn anchor_warning(name: &str, anchor: &anchor::Config) -> Option<String> {
    let is_clear = |url: &str| url.starts_with("http://");
    let option = format!("evidence.anchors.{name}");
    match anchor {
        anchor::Config::Http(http) if is_clear(&http.url) && !http.token_file.as_os_str().is_empty() => {
            Some(format!("{option}: its token goes over the wire in clear text; say https://"))
        }
        anchor::Config::S3(s3) if s3.lock == Lock::None => Some(format!(
            "{option}: lock is \"none\": whoever has its credentials can replace and delete checkpoints there"
        )),
        _ => None,
    }
}
