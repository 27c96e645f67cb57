//! The files of both sides while they are in use: read anew when they change, told of before they expire.
//!
//! They are looked at, not listened to: a look every two seconds sees what is renamed over them, what is written into them,
//! and links that change behind them (Kubernetes), on every file system.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::facts::{Facts, Urgency};
use super::files::{Problem, Problems};
use super::{Connector, Server, connector, server};
use crate::telemetry::metrics::Metrics;

/// Between two looks. A change is taken when two looks have seen the same: certificates and keys are seldom written at
/// once, and one without the other would only be complained of.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Both sides, and what is known of their files.
#[derive(Debug)]
pub struct Watch {
    server: Option<Server>,
    connector: Option<Connector>,
    metrics: Arc<Metrics>,
    /// Another configuration, until it is taken.
    asked: Mutex<Option<(server::Config, connector::Config)>>,
    /// Rung for that.
    bell: Notify,
    /// Of whoever looks.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tls: server::Config,
    node_tls: connector::Config,
    /// The files as they were when they were last read.
    read: Vec<Stamp>,
    /// The files at the last look, where they had changed.
    changing: Option<Vec<Stamp>>,
    /// What was complained of at the last reading.
    problems: Vec<Problem>,
    /// The last warning of each file, and the end that it was about.
    warned: HashMap<PathBuf, (Timestamp, Urgency)>,
}

/// What changes with a file's content; none where there is no file.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

fn stamp(file: &Path) -> Stamp {
    let found = fs::metadata(file).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

impl State {
    fn stamps(&self) -> Vec<Stamp> {
        self.tls.files().chain(self.node_tls.files()).map(|file| stamp(file)).collect()
    }
}

impl Watch {
    /// Reads the files of each side that is on: clients' where certificates are configured, nodes' where one is reached by
    /// `https://`. `protocols` are offered to clients, the best first.
    ///
    /// # Errors
    /// Every file that cannot be used.
    pub fn start(
        tls: &server::Config,
        node_tls: &connector::Config,
        has_tls_nodes: bool,
        protocols: &'static [&'static [u8]],
        metrics: Arc<Metrics>,
    ) -> Result<Self, Problems> {
        let mut state = State {
            tls: tls.clone(),
            node_tls: if has_tls_nodes { node_tls.clone() } else { connector::Config::default() },
            read: Vec::new(),
            changing: None,
            problems: Vec::new(),
            warned: HashMap::new(),
        };
        state.read = state.stamps(); // before they are read: what changes in between is seen
        let server = tls.is_on().then(|| Server::new(tls, protocols)).transpose();
        let connector = has_tls_nodes.then(|| Connector::new(node_tls)).transpose();
        let (server, connector) = match (server, connector) {
            (Ok(server), Ok(connector)) => (server, connector),
            (server, connector) => {
                let problems = [server.err(), connector.err()].into_iter().flatten().flat_map(|problems| problems.0);
                return Err(Problems(problems.collect()));
            }
        };
        let (asked, bell) = (Mutex::default(), Notify::new());
        let watch = Self { server, connector, metrics, asked, bell, state: Mutex::new(state) };
        watch.tell_doubts(Timestamp::now());
        watch.look_at_ends(&mut lock(&watch.state), Timestamp::now());
        Ok(watch)
    }

    /// TLS toward clients, where it is on.
    pub fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// TLS toward nodes, where one is reached so.
    pub fn connector(&self) -> Option<&Connector> {
        self.connector.as_ref()
    }

    /// Looks at the files until dropped; without TLS there is nothing to look at.
    pub async fn run(self: Arc<Self>) {
        if self.server.is_none() && self.connector.is_none() {
            return;
        }
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.bell.notified() => {}
            }
            let watch = self.clone();
            // A file system that hangs must hold up neither the probes nor the signals.
            let looked = tokio::task::spawn_blocking(move || watch.look(Timestamp::now())).await;
            if looked.is_err() {
                tracing::error!("a look at the certificates went wrong");
            }
        }
    }

    /// Has [`Watch::run`] take another configuration and read all its files at once, changed or not. Which sides are on
    /// stays as it is.
    pub fn configure(&self, tls: server::Config, node_tls: connector::Config) {
        *lock(&self.asked) = Some((tls, node_tls));
        self.bell.notify_one();
    }

    fn adopt(&self, state: &mut State, tls: server::Config, node_tls: connector::Config) {
        if self.server.is_some() && tls.is_on() {
            state.tls = tls;
        }
        if self.connector.is_some() {
            state.node_tls = node_tls;
        }
        state.problems.clear(); // whoever asks is told again
    }

    fn look(&self, now: Timestamp) {
        let mut state = lock(&self.state);
        let asked = lock(&self.asked).take();
        let stamps = state.stamps();
        if let Some((tls, node_tls)) = asked {
            self.adopt(&mut state, tls, node_tls);
            self.read(&mut state);
        } else if stamps == state.read {
            state.changing = None;
        } else if state.changing.as_ref() == Some(&stamps) {
            self.read(&mut state);
        } else {
            state.changing = Some(stamps);
        }
        self.look_at_ends(&mut state, now);
    }

    fn read(&self, state: &mut State) {
        (state.read, state.changing) = (state.stamps(), None);
        let mut problems = self.server.as_ref().map(|server| server.reload(&state.tls)).unwrap_or_default();
        problems.extend(self.connector.iter().flat_map(|connector| connector.reload(&state.node_tls)));
        for Problem { file, reason } in problems.iter().filter(|problem| !state.problems.contains(problem)) {
            let file = file.display();
            tracing::error!(%file, reason, "a TLS file cannot be used; what was read of it before stays in use");
        }
        let outcome = if problems.is_empty() { "taken" } else { "refused" };
        self.metrics.certificate_reloads.get_or_create(&[("outcome", outcome.into())]).inc();
        if problems.is_empty() {
            tracing::info!("certificates, keys and CAs were read anew; new connections have them");
        }
        state.problems = problems;
        self.tell_doubts(Timestamp::now());
    }

    fn tell_doubts(&self, now: Timestamp) {
        let server = self.server.iter().flat_map(|side| doubts(side.identities(), side.authorities(), now));
        let connector = self.connector.iter().flat_map(|side| doubts(side.identity(), side.authorities(), now));
        for Problem { file, reason } in server.chain(connector) {
            tracing::warn!(file = %file.display(), reason, "a TLS file is in use, but something is wrong with it");
        }
    }

    /// Keeps the metric, and warns once at each step toward a certificate's end.
    fn look_at_ends(&self, state: &mut State, now: Timestamp) {
        let ends = self.ends();
        let gone: Vec<PathBuf> = state.warned.keys().filter(|file| !ends.contains_key(*file)).cloned().collect();
        for file in gone {
            state.warned.remove(&file);
            self.metrics.certificate_days_left.remove(&label(&file));
        }
        for (file, facts) in ends {
            let (days_left, urgency) = (facts.days_left(now), facts.urgency(now));
            self.metrics.certificate_days_left.get_or_create(&label(&file)).set(days_left);
            let before = state.warned.insert(file.clone(), (facts.not_after, urgency));
            if !is_news(before, facts.not_after, urgency) {
                continue;
            }
            let (file, subject, not_after) = (file.display(), &facts.subject, facts.not_after);
            match urgency {
                Urgency::None => {}
                Urgency::Weeks | Urgency::Week => {
                    tracing::warn!(%file, subject, days_left, %not_after, "a certificate expires soon");
                }
                Urgency::Expired => tracing::error!(%file, subject, %not_after, "a certificate has expired"),
            }
        }
    }

    /// What ends first, by file.
    fn ends(&self) -> HashMap<PathBuf, Facts> {
        let identities = self.server.iter().flat_map(Server::identities);
        let identities = identities.chain(self.connector.iter().filter_map(Connector::identity));
        let authorities = self.server.iter().filter_map(Server::authorities);
        let authorities = authorities.chain(self.connector.iter().filter_map(Connector::authorities));
        let identities = identities.map(|one| (one.certificate.clone(), one.ends_first().clone()));
        identities.chain(authorities.map(|one| (one.file.clone(), one.ends_first().clone()))).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether to warn: a step nearer to the same end, or another end that is near.
fn is_news(before: Option<(Timestamp, Urgency)>, end: Timestamp, urgency: Urgency) -> bool {
    !before.is_some_and(|(told_end, told)| told_end == end && told >= urgency)
}

fn doubts(
    identities: impl IntoIterator<Item = super::Identity>,
    authorities: Option<super::Authorities>,
    now: Timestamp,
) -> Vec<Problem> {
    let identities = identities.into_iter().flat_map(|one| one.doubts(now));
    identities.chain(authorities.iter().flat_map(|one| one.doubts(now))).collect()
}

fn label(file: &Path) -> [(&'static str, String); 1] {
    [("file", file.display().to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_toward_an_end_is_told_once() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let rows = [
            (None, 1, Urgency::Weeks, true),
            (Some((1, Urgency::None)), 1, Urgency::Weeks, true),
            (Some((1, Urgency::Weeks)), 1, Urgency::Weeks, false),
            (Some((1, Urgency::Weeks)), 1, Urgency::Week, true),
            (Some((1, Urgency::Week)), 1, Urgency::Week, false),
            (Some((1, Urgency::Week)), 1, Urgency::Expired, true),
            (Some((1, Urgency::Expired)), 1, Urgency::Expired, false),
            (Some((1, Urgency::Expired)), 2, Urgency::Weeks, true), // renewed, and not for long
        ];
        for (before, end, urgency, news) in rows {
            let told = before.map(|(end, urgency)| (at(end), urgency));
            assert_eq!(is_news(told, at(end), urgency), news, "{before:?}, then {urgency:?} of {end}");
        }
    }
}
