//! A configuration as one writes it: every option by name, durations as `"800ms"`. The list of options that exist.
//!
//! The structs are taken apart without `..`: an option that is added to one of them does not compile until it is here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Value;

use crate::archive::anchor;
use crate::gms::mask;
use crate::proxy::tls::{connector, server};
use crate::recorder::{Create, Deliver, WhenUnavailable};
use crate::{admin, archive, proxy, recorder, telemetry, units};

use super::Config;

/// The name of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `proxy`, `limits`, `nodes`, `tls`, `node_tls`, `recording`, `masking`, `evidence`, `retention`,
    /// `export`, `admin` or `log`.
    pub section: &'static str,
    /// The name within its section.
    pub name: &'static str,
}

impl Key {
    /// The environment variable that sets it.
    pub(super) fn variable(self) -> String {
        format!("{}{}_{}", super::VARIABLE_PREFIX, self.section, self.name).to_ascii_uppercase()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.section, self.name)
    }
}

/// Every option with its value, in the order in which they are documented.
pub(super) fn options(config: &Config) -> Vec<(Key, Value)> {
    let Config { proxy, limits, nodes, tls, node_tls, recording, masking, evidence, retention, export, admin, log } =
        config;
    let named = |section| move |(name, value)| (Key { section, name }, value);
    let mut options: Vec<_> = proxy_options(proxy).into_iter().map(named("proxy")).collect();
    options.extend(limits_options(limits).into_iter().map(named("limits")));
    options.extend(nodes_options(nodes).into_iter().map(named("nodes")));
    options.extend(tls_options(tls).into_iter().map(named("tls")));
    options.extend(node_tls_options(node_tls).into_iter().map(named("node_tls")));
    options.extend(recording_options(recording).into_iter().map(named("recording")));
    options.extend(masking_options(masking).into_iter().map(named("masking")));
    options.extend(evidence_options(evidence).into_iter().map(named("evidence")));
    options.extend(retention_options(retention).into_iter().map(named("retention")));
    options.extend(export_options(export).into_iter().map(named("export")));
    options.extend(admin_options(admin).into_iter().map(named("admin")));
    options.extend(log_options(log).into_iter().map(named("log")));
    options
}

type Named = (&'static str, Value);

fn proxy_options(config: &proxy::Config) -> Vec<Named> {
    let proxy::Config {
        listen,
        upstreams,
        base_path,
        allow,
        deny,
        trusted_proxies,
        proxy_protocol,
        forwarded,
        cors_origins,
        threads,
        http2,
        http2_streams_max,
        connections_max,
        node_connections_max,
        node_idle_timeout,
        node_retry_after,
        connect_timeout,
        chat_timeout,
        long_poll_timeout,
        other_timeout,
        body_idle_timeout,
        websocket_idle_timeout,
        client_timeout,
        drain_delay,
        drain_max,
        upgrade_start_max,
        upgrade_drain_max,
    } = config;
    vec![
        ("listen", text(listen)),
        ("upstreams", list(upstreams)),
        ("base_path", text(base_path)),
        ("allow", list(allow)),
        ("deny", list(deny)),
        ("trusted_proxies", list(trusted_proxies)),
        ("proxy_protocol", text(proxy_protocol.as_str())),
        ("forwarded", Value::Boolean(*forwarded)),
        ("cors_origins", list(cors_origins)),
        ("threads", number(*threads)),
        ("http2", text(http2.as_str())),
        ("http2_streams_max", number(*http2_streams_max as usize)),
        ("connections_max", number(*connections_max)),
        ("node_connections_max", number(*node_connections_max)),
        ("node_idle_timeout", duration(*node_idle_timeout)),
        ("node_retry_after", duration(*node_retry_after)),
        ("connect_timeout", duration(*connect_timeout)),
        ("chat_timeout", duration(*chat_timeout)),
        ("long_poll_timeout", duration(*long_poll_timeout)),
        ("other_timeout", duration(*other_timeout)),
        ("body_idle_timeout", duration(*body_idle_timeout)),
        ("websocket_idle_timeout", duration(*websocket_idle_timeout)),
        ("client_timeout", duration(*client_timeout)),
        ("drain_delay", duration(*drain_delay)),
        ("drain_max", duration(*drain_max)),
        ("upgrade_start_max", duration(*upgrade_start_max)),
        ("upgrade_drain_max", duration(*upgrade_drain_max)),
    ]
}

fn limits_options(config: &proxy::limits::Config) -> Vec<Named> {
    let proxy::limits::Config {
        client_connections_max,
        reserve_percent,
        head_bytes_max,
        head_fields_max,
        target_bytes_max,
        head_timeout,
        body_bytes_max,
        pace_bytes,
        pace_time,
        exchange_time_max,
    } = config;
    vec![
        ("client_connections_max", number(*client_connections_max)),
        ("reserve_percent", number(*reserve_percent)),
        ("head_bytes_max", size(*head_bytes_max)),
        ("head_fields_max", number(*head_fields_max)),
        ("target_bytes_max", size(*target_bytes_max)),
        ("head_timeout", duration(*head_timeout)),
        ("body_bytes_max", size(*body_bytes_max)),
        ("pace_bytes", size(*pace_bytes)),
        ("pace_time", duration(*pace_time)),
        ("exchange_time_max", duration(*exchange_time_max)),
    ]
}

fn nodes_options(config: &proxy::nodes::Config) -> Vec<Named> {
    let proxy::nodes::Config {
        health_path,
        health_status,
        health_text,
        health_interval,
        health_timeout,
        health_failures,
        health_passes,
        health_credentials,
        refusals_max,
        server_errors_max,
        passed_over_max,
        slow_start,
        resolve_interval,
        waiting_max,
        wait_max,
        affinity_key,
        cookie_attributes,
    } = config;
    vec![
        ("health_path", text(health_path)),
        ("health_status", number(*health_status)),
        ("health_text", text(health_text)),
        ("health_interval", duration(*health_interval)),
        ("health_timeout", duration(*health_timeout)),
        ("health_failures", number(*health_failures)),
        ("health_passes", number(*health_passes)),
        ("health_credentials", path(health_credentials)),
        ("refusals_max", number(*refusals_max)),
        ("server_errors_max", number(*server_errors_max)),
        ("passed_over_max", duration(*passed_over_max)),
        ("slow_start", duration(*slow_start)),
        ("resolve_interval", duration(*resolve_interval)),
        ("waiting_max", number(*waiting_max)),
        ("wait_max", duration(*wait_max)),
        ("affinity_key", path(affinity_key)),
        ("cookie_attributes", list(cookie_attributes)),
    ]
}

fn tls_options(config: &server::Config) -> Vec<Named> {
    let server::Config { certificates, keys, client_certificates, client_ca, version_min, handshake_timeout } = config;
    vec![
        ("certificates", paths(certificates)),
        ("keys", paths(keys)),
        ("client_certificates", text(client_certificates.as_str())),
        ("client_ca", path(client_ca)),
        ("version_min", text(version_min.as_str())),
        ("handshake_timeout", duration(*handshake_timeout)),
    ]
}

fn node_tls_options(config: &connector::Config) -> Vec<Named> {
    let connector::Config { ca, certificate, key, server_name } = config;
    vec![("ca", path(ca)), ("certificate", path(certificate)), ("key", path(key)), ("server_name", text(server_name))]
}

fn recording_options(config: &recorder::Config) -> Vec<Named> {
    let recorder::Config {
        database,
        file_mode,
        create,
        deliver,
        when_unavailable,
        spool,
        spool_bytes_max,
        reserve,
        commit_wait_max,
        body_max,
        inspected_bytes_max,
        request_bytes_max,
        finding_bytes_max,
        queue_bytes_max,
        batch_events_max,
        memory_events_max,
        attributes,
        keep_typing_text,
        search,
        masks: _, // of `[masking]`
        quiet_after,
        async_quiet_after,
    } = config;
    vec![
        ("database", path(database)),
        ("file_mode", text(file_mode)),
        ("create", text(create_word(*create))),
        ("deliver", text(deliver_word(*deliver))),
        ("when_unavailable", text(when_unavailable_word(*when_unavailable))),
        ("spool", path(spool)),
        ("spool_bytes_max", size(*spool_bytes_max)),
        ("reserve", size(*reserve)),
        ("commit_wait_max", duration(*commit_wait_max)),
        ("body_max", size(*body_max)),
        ("inspected_bytes_max", size(*inspected_bytes_max)),
        ("request_bytes_max", size(*request_bytes_max)),
        ("finding_bytes_max", size(*finding_bytes_max)),
        ("queue_bytes_max", size(*queue_bytes_max)),
        ("batch_events_max", number(*batch_events_max)),
        ("memory_events_max", number(*memory_events_max)),
        ("attributes", list(attributes)),
        ("keep_typing_text", Value::Boolean(*keep_typing_text)),
        ("search", Value::Boolean(*search)),
        ("quiet_after", duration(*quiet_after)),
        ("async_quiet_after", duration(*async_quiet_after)),
    ]
}

fn masking_options(config: &mask::Config) -> Vec<Named> {
    let mask::Config { cards, rules } = config;
    let rules = rules.iter().map(|(name, expression)| (name.clone(), text(expression)));
    vec![("cards", Value::Boolean(*cards)), ("rules", Value::Table(rules.collect()))]
}

fn evidence_options(config: &archive::Config) -> Vec<Named> {
    let archive::Config { key_file, checkpoint_interval, anchor_file, record_reads, require_case, anchors } = config;
    let anchors = anchors.iter().map(|(name, anchor)| (name.clone(), anchor_table(anchor)));
    vec![
        ("key_file", path(key_file)),
        ("checkpoint_interval", duration(*checkpoint_interval)),
        ("anchor_file", path(anchor_file)),
        ("record_reads", text(record_reads.as_str())),
        ("require_case", Value::Boolean(*require_case)),
        ("anchors", Value::Table(anchors.collect())),
    ]
}

fn retention_options(config: &archive::retention::Config) -> Vec<Named> {
    let archive::retention::Config { keep, services, automatic } = config;
    let services = services.iter().map(|(service, keep)| (service.clone(), text(keep)));
    vec![
        ("keep", text(keep)),
        ("automatic", Value::Boolean(*automatic)),
        ("services", Value::Table(services.collect())),
    ]
}

fn export_options(config: &archive::delivery::Config) -> Vec<Named> {
    let archive::delivery::Config { purge_waits, targets } = config;
    let targets = targets.iter().map(|(name, target)| (name.clone(), target_table(target)));
    vec![("purge_waits", Value::Boolean(*purge_waits)), ("targets", Value::Table(targets.collect()))]
}

/// Of a folder without what is of buckets, and the other way round.
fn target_table(target: &archive::delivery::Target) -> Value {
    let archive::delivery::Target {
        format,
        errors,
        bundle,
        every,
        settle,
        chats_max,
        service,
        party,
        mail_domain,
        folder,
        url: _,
        bucket: _,
        region: _,
        prefix: _,
        path_style: _,
        credentials: _,
        lock: _,
        retention: _,
        ca: _,
    } = target;
    let mut options = vec![
        ("format", text(format.as_str())),
        ("errors", Value::Boolean(*errors)),
        ("bundle", Value::Boolean(*bundle)),
        ("every", duration(*every)),
        ("settle", duration(*settle)),
        ("chats_max", number(*chats_max)),
        ("service", text(service)),
        ("party", text(party)),
        ("mail_domain", text(mail_domain)),
    ];
    match target.s3() {
        Some(s3) => options.extend(s3_options(&s3).into_iter().filter(|(name, _)| *name != "interval")),
        None => options.push(("folder", path(folder))),
    }
    Value::Table(options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn anchor_table(config: &anchor::Config) -> Value {
    let options = match config {
        anchor::Config::File(file) => file_options(file),
        anchor::Config::Http(http) => http_options(http),
        anchor::Config::S3(s3) => s3_options(s3),
        anchor::Config::TimeStamp(stamp) => time_stamp_options(stamp),
    };
    let options = options.into_iter().chain([("kind", text(config.kind()))]);
    Value::Table(options.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn file_options(config: &anchor::config::File) -> Vec<Named> {
    let anchor::config::File { path: file, interval } = config;
    vec![("path", path(file)), ("interval", duration(*interval))]
}

fn http_options(config: &anchor::config::Http) -> Vec<Named> {
    let anchor::config::Http { url, token_file, ca, interval } = config;
    vec![("url", text(url)), ("token_file", path(token_file)), ("ca", path(ca)), ("interval", duration(*interval))]
}

fn s3_options(config: &anchor::config::S3) -> Vec<Named> {
    let anchor::config::S3 { url, bucket, region, prefix, path_style, credentials, lock, retention, ca, interval } =
        config;
    vec![
        ("url", text(url)),
        ("bucket", text(bucket)),
        ("region", text(region)),
        ("prefix", text(prefix)),
        ("path_style", Value::Boolean(*path_style)),
        ("credentials", path(credentials)),
        ("lock", text(lock.as_str())),
        ("retention", duration(*retention)),
        ("ca", path(ca)),
        ("interval", duration(*interval)),
    ]
}

fn time_stamp_options(config: &anchor::config::TimeStamp) -> Vec<Named> {
    let anchor::config::TimeStamp { url, folder, ca, interval } = config;
    vec![("url", text(url)), ("folder", path(folder)), ("ca", path(ca)), ("interval", duration(*interval))]
}

fn admin_options(config: &admin::Config) -> Vec<Named> {
    let admin::Config { listen, control } = config;
    vec![("listen", text(listen)), ("control", path(control))]
}

fn log_options(config: &telemetry::Config) -> Vec<Named> {
    let telemetry::Config { format, level, access, access_file, access_sample } = config;
    vec![
        ("format", text(format.as_str())),
        ("level", text(level)),
        ("access", text(access.as_str())),
        ("access_file", path(access_file)),
        ("access_sample", Value::Float(*access_sample)),
    ]
}

fn create_word(create: Create) -> &'static str {
    match create {
        Create::Missing => "missing",
        Create::Never => "never",
    }
}

fn deliver_word(deliver: Deliver) -> &'static str {
    match deliver {
        Deliver::AfterCommit => "after_commit",
        Deliver::Immediately => "immediately",
    }
}

fn when_unavailable_word(when_unavailable: WhenUnavailable) -> &'static str {
    match when_unavailable {
        WhenUnavailable::Pass => "pass",
        WhenUnavailable::Refuse => "refuse",
        WhenUnavailable::Spool => "spool",
    }
}

fn text(value: impl fmt::Display) -> Value {
    Value::String(value.to_string())
}

fn path(value: &Path) -> Value {
    text(value.display())
}

fn paths(values: &[PathBuf]) -> Value {
    Value::Array(values.iter().map(|value| path(value)).collect())
}

fn list(values: &[impl fmt::Display]) -> Value {
    Value::Array(values.iter().map(text).collect())
}

fn duration(value: Duration) -> Value {
    text(units::format_duration(value))
}

fn size(value: usize) -> Value {
    text(units::format_size(value))
}

fn number(value: usize) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

/// TOML of the options that are `shown`, with a remark behind one where `remark` has it.
pub(super) fn toml(config: &Config, shown: impl Fn(Key) -> bool, remark: impl Fn(Key) -> Option<String>) -> String {
    let mut toml = String::new();
    let mut section = "";
    for (key, value) in options(config).into_iter().filter(|(key, _)| shown(*key)) {
        if key.section != section {
            let line_break = if section.is_empty() { "" } else { "\n" };
            toml += &format!("{line_break}[{}]\n", key.section);
            section = key.section;
        }
        let remark = remark(key).map(|remark| format!("  # {remark}")).unwrap_or_default();
        match tables(&value) {
            Some(tables) => toml.extend(tables.map(|(name, table)| format!("\n[{key}.{name}]{remark}\n{table}"))),
            None => toml += &format!("{} = {value}{remark}\n", key.name),
        }
    }
    toml
}

/// Tables of a table, as one writes them: each under a header. They stand last in their section.
fn tables(value: &Value) -> Option<impl Iterator<Item = (&String, &toml::Table)>> {
    let members = value.as_table().filter(|members| !members.is_empty() && members.values().all(Value::is_table))?;
    Some(members.iter().filter_map(|(name, member)| Some((name, member.as_table()?))))
}
