//! Probes and metrics, on a listener of their own: read-only, loopback unless told otherwise, never reachable through the
//! proxy's.

pub mod control;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::proxy::Nodes;
use crate::proxy::nodes::Report;
use crate::proxy::standing::State;
use crate::recorder::Recorder;
use crate::telemetry::metrics::Metrics;

/// The `[admin]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where probes and metrics are served; loopback unless told otherwise.
    pub listen: SocketAddr,
    /// The Unix socket of `gms-recorder node`; empty: beside the database.
    pub control: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 9180).into(), control: PathBuf::new() }
    }
}

/// Scrapers and probes at one time: a few monitors, not the world.
const CONNECTIONS_MAX: usize = 64;
/// For a request's head, idling included.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A thread that has given no sign of life for so long hangs. The writer is silent while the disk keeps it waiting: a
/// failover of storage takes less.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What the probes look at.
#[derive(Debug)]
pub struct Watched {
    /// What is kept.
    pub recorder: Arc<Recorder>,
    /// Where to.
    pub nodes: Arc<Nodes>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// A stop was asked for: no new traffic, please.
    pub draining: AtomicBool,
}

impl Watched {
    /// Whether traffic may be sent here, and in words what is unwell.
    ///
    /// Under `pass` a store that is down does not make the proxy unready: chats go on.
    pub fn readiness(&self) -> (bool, Vec<String>) {
        let mut ready = true;
        let mut words = Vec::new();
        let mut say = |stops: bool, sentence: String| {
            ready &= !stops;
            words.push(sentence);
        };
        if self.draining.load(Ordering::Acquire) {
            say(true, "draining: a stop was asked for".into());
        }
        let refuses = !self.recorder.passes_unrecorded();
        let fate = match (refuses, self.recorder.is_spooling()) {
            (_, true) => "chats go on, what they bring is kept in the spool and written into the archive from there",
            (true, _) => "chats are refused",
            (false, _) => "chats are passed on, what they bring is kept in memory",
        };
        let refuses = refuses && !self.recorder.is_spooling();
        if let Some((since, reason, detail)) = self.recorder.outage() {
            let since =
                jiff::Timestamp::from_millisecond(since).map_or_else(|_| since.to_string(), |at| at.to_string());
            say(refuses, format!("recording is down since {since} ({reason}: {detail}); {fate}"));
        }
        if self.recorder.is_reserve_out() {
            say(false, "the disk of the archive was full, and its reserve is in use: free space".into());
        }
        self.recorder.evidence_trouble().into_iter().for_each(|sentence| say(false, sentence));
        self.recorder.export_trouble().into_iter().for_each(|sentence| say(false, sentence));
        if !self.recorder.is_writing() {
            say(refuses, format!("the writer has ended; {fate}"));
        }
        let reports: Vec<Report> = self.nodes.iter().map(|node| self.nodes.report(node)).collect();
        let is_unwell = |report: &&Report| !matches!(report.state, State::Well | State::Returning);
        let none_left = reports.iter().filter(is_unwell).count() == reports.len();
        for report in reports.iter().filter(|report| report.drained || !report.detail.is_empty()) {
            let drained = if report.drained { ", drained" } else { "" };
            let detail = if report.detail.is_empty() { String::new() } else { format!(": {}", report.detail) };
            say(none_left, format!("node {} is {}{drained}{detail}", report.name, report.state));
        }
        (ready, words)
    }
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, watched: Arc<Watched>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let watched = watched.clone();
                tokio::spawn(async move {
                    converse(stream, watched).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await, // no descriptors left; the proxy's log says so
        }
    }
}

async fn converse(stream: TcpStream, watched: Arc<Watched>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &watched);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(CLIENT_TIMEOUT);
    let _ = builder.serve_connection(TokioIo::new(stream), service).await; // a monitor that left is no news
}

fn answer(request: &Request<Incoming>, watched: &Watched) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "this listener is read-only\n");
    }
    match request.uri().path() {
        "/live" => match watched.metrics.pulses.silent(SILENCE_MAX).join(", ") {
            silent if silent.is_empty() => text(StatusCode::OK, "alive\n"),
            silent => text(StatusCode::SERVICE_UNAVAILABLE, format!("no sign of life of {silent}\n")),
        },
        "/ready" => {
            let (ready, words) = watched.readiness();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let mut lines = vec![if ready { "ready" } else { "not ready" }.to_string()];
            lines.extend(words);
            text(status, lines.join("\n") + "\n")
        }
        "/metrics" => {
            let mut response = text(StatusCode::OK, watched.metrics.encode());
            let format = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, format);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /live, /ready and /metrics\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
