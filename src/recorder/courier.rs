//! Continuous exports while `serve` runs: a thread a target, so that one that is down holds no other up, below the proxy and the
//! writer. It decides when; what is due and how it is brought is `archive::delivery`'s.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::background::{Background, Turns};
use super::{Recorder, now_ms};
use crate::archive::delivery::{Config, Courier, Error, News, Target};
use crate::telemetry::Repeated;
use crate::telemetry::metrics::Labels;

/// After the start, when there is most to do.
const FIRST_AFTER: Duration = Duration::from_secs(5);
/// Between looks at the clock, at least: it may be set.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// While recording is down, which comes first.
const UNWELL_INTERVAL: Duration = Duration::from_secs(10);
/// Between attempts.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// Between lines about one that does not succeed.
const TOLD: Duration = Duration::from_secs(600);

/// The threads.
#[derive(Debug)]
pub struct Couriers(Vec<Background>);

impl Couriers {
    /// Delivers what is recorded in the archive at `path`.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn start(path: &Path, config: &Config, recorder: &Arc<Recorder>) -> std::io::Result<Self> {
        let mut threads = Vec::with_capacity(config.targets.len());
        for (name, target) in &config.targets {
            let (place, every) = (target.place(), target.every);
            tracing::info!(
                target_name = name,
                format = target.format.as_str(),
                place,
                ?every,
                "chats are exported there"
            );
            let rounds = Rounds::new(path, name, target, recorder);
            threads.push(Background::start("courier", move |turns| rounds.run(&turns))?);
        }
        Ok(Self(threads))
    }

    /// Ends them within a chat or a file. One that is busy with something longer is left to itself: it ends with the process, and
    /// what it did is gone on with.
    pub fn stop(self) {
        Background::stop_all(self.0);
    }
}

struct Rounds {
    path: PathBuf,
    name: String,
    target: Target,
    recorder: Arc<Recorder>,
    retry: Option<Duration>,
    refusals: Repeated,
}

impl Rounds {
    fn new(path: &Path, name: &str, target: &Target, recorder: &Arc<Recorder>) -> Self {
        let rounds = Self {
            path: path.to_owned(),
            name: name.to_owned(),
            target: target.clone(),
            recorder: recorder.clone(),
            retry: None,
            refusals: Repeated::new(1, TOLD),
        };
        let (metrics, label) = (&recorder.metrics, rounds.label());
        metrics.export_up.get_or_create(&label).set(1);
        for counter in [&metrics.export_deliveries, &metrics.export_errors, &metrics.export_given_up] {
            drop(counter.get_or_create(&label));
        }
        rounds
    }

    fn label(&self) -> Labels<1> {
        [("target", self.name.clone())]
    }

    fn run(mut self, turns: &Turns) {
        let mut pause = FIRST_AFTER;
        while turns.next(pause) {
            pause = if self.recorder.is_down() { UNWELL_INTERVAL } else { self.round(turns) };
        }
    }

    /// Delivers where that is due; how long to wait then.
    fn round(&mut self, turns: &Turns) -> Duration {
        let courier =
            Courier { database: &self.path, name: &self.name, target: &self.target, who: "serve", stop: &turns.stop };
        let attempt = || match self.retry.is_some() || self.is_due(courier.looked_at()?) {
            true => courier.deliver(&now_ms, &mut |_, _| {}).map(Some),
            false => Ok(None),
        };
        let attempt = attempt();
        match attempt {
            Err(_) if turns.is_over() => LOOK_INTERVAL, // it ends
            Err(Error::UnderWay(_)) => LOOK_INTERVAL,   // a command, or the process before or after this one
            Err(error) => self.failed(&with_sources(&error)),
            Ok(news) => {
                self.succeeded();
                news.and_then(|news| self.told(news)).unwrap_or_else(|| self.next_pause())
            }
        }
    }

    /// On the clock, so that a restart shifts nothing; and at once where that was ahead the last time.
    fn is_due(&self, looked_at: Option<i64>) -> bool {
        let every = self.every_ms();
        looked_at.is_none_or(|at| at.div_euclid(every) != now_ms().div_euclid(every))
    }

    fn every_ms(&self) -> i64 {
        i64::try_from(self.target.every.as_millis()).unwrap_or(i64::MAX).max(1)
    }

    fn next_pause(&self) -> Duration {
        let every = self.every_ms();
        let left = every - now_ms().rem_euclid(every);
        Duration::from_millis(left.unsigned_abs()).min(LOOK_INTERVAL)
    }

    /// Where there is more to be done: how long to wait first.
    fn told(&self, news: News) -> Option<Duration> {
        let (metrics, label) = (&self.recorder.metrics, self.label());
        match news {
            News::Nothing => {}
            News::Delivered(delivery) => {
                metrics.export_deliveries.get_or_create(&label).inc();
                tracing::info!(
                    target_name = self.name,
                    number = delivery.number,
                    destination = delivery.destination,
                    chats = delivery.chats,
                    additions = delivery.additions,
                    removals = delivery.removals,
                    rows = delivery.rows,
                    "delivered"
                );
                if self.target.is_full(&delivery) {
                    return Some(Duration::ZERO);
                }
            }
            News::GivenUp(delivery, why) => {
                metrics.export_given_up.get_or_create(&label).inc();
                let hint = "what was in it goes with the next delivery";
                tracing::error!(
                    target_name = self.name,
                    number = delivery.number,
                    why,
                    hint,
                    "a delivery was given up"
                );
                return Some(RETRY_FIRST);
            }
        }
        metrics.export_delivered_to.get_or_create(&label).set(now_ms() / 1_000);
        None
    }

    fn failed(&mut self, why: &str) -> Duration {
        let (metrics, label) = (&self.recorder.metrics, self.label());
        metrics.export_up.get_or_create(&label).set(0);
        metrics.export_errors.get_or_create(&label).inc();
        self.recorder.note_export(&self.name, Some(why));
        if let Some(not_shown) = self.refusals.admit(Instant::now()) {
            let hint = "it is tried again; recording goes on, and nothing is left out";
            tracing::error!(target_name = self.name, why, not_shown, hint, "chats cannot be exported");
        }
        let pause = self.retry.map_or(RETRY_FIRST, |pause| (pause * 2).min(RETRY_MAX));
        self.retry = Some(pause);
        pause
    }

    fn succeeded(&mut self) {
        self.recorder.metrics.export_up.get_or_create(&self.label()).set(1);
        if self.retry.take().is_some() {
            self.recorder.note_export(&self.name, None);
            tracing::info!(target_name = self.name, "chats are exported again");
        }
    }
}

/// An error, and what it comes from.
fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |source| source.source());
    sources.fold(error.to_string(), |text, source| {
        let source = source.to_string();
        if text.ends_with(&source) { text } else { format!("{text}: {source}") }
    })
}

impl Recorder {
    fn note_export(&self, target: &str, why: Option<&str>) {
        let mut trouble = self.export_trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(trouble.insert(target.to_owned(), why.to_owned())),
            None => drop(trouble.remove(target)),
        }
    }

    /// Which targets of exports take nothing, and why, in words.
    pub fn export_trouble(&self) -> Vec<String> {
        let trouble = self.export_trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.iter().map(|(name, why)| format!("the target {name} gets no exports: {why}")).collect()
    }
}
