//! Live recording while a command goes over the archive that it is recorded into: does it go on as if nobody did?

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use gms_recorder::recorder::Verdict;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::program::{self, PROGRAM};
use super::traffic::{self, COMMIT_WAIT_MAX, Centre, Recording};

/// One answer each, whether the ones before are on disk or not: 2,000 events a second, 200,000 chats of 35 events in an hour.
const ANSWER_INTERVAL: Duration = Duration::from_millis(1);
const EVENTS_AN_ANSWER_MAX: u64 = 3;
/// With nothing beside.
const ALONE: Duration = Duration::from_secs(10);
/// A command that is done sooner is run again, so that there is something to measure.
const BESIDE_MIN: Duration = Duration::from_secs(5);

/// What of a recording at a fixed rate came through.
pub struct Recorded {
    /// Answers that came to disk.
    pub answers_a_second: f64,
    /// From when an answer was due until it was on disk.
    pub p50_us: f64,
    pub p99_us: f64,
}

/// A command beside it.
pub struct Beside {
    pub what: &'static str,
    /// How long the command took, once.
    pub seconds: f64,
    pub recorded: Recorded,
}

/// With nothing beside.
pub fn alone(recording: &Recording, centre: &mut Centre) -> anyhow::Result<Recorded> {
    let until = Instant::now() + ALONE;
    record(recording, centre, || Ok(Instant::now() >= until))
}

/// Records until the command is done.
pub fn beside(
    what: &'static str,
    words: &[&str],
    database: &Path,
    (recording, centre): (&Recording, &mut Centre),
) -> anyhow::Result<Beside> {
    let start = || {
        let mut command = Command::new(PROGRAM);
        command.args(words).arg("--database").arg(database).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    };
    eprintln!("  {what} …");
    let began = Instant::now();
    let (mut running, mut seconds) = (start()?, None);
    let recorded = record(recording, centre, || {
        let Some(status) = running.try_wait()? else { return Ok(false) };
        ensure!(status.success(), "{words:?}, beside a recording: {status}");
        seconds.get_or_insert(began.elapsed().as_secs_f64());
        if began.elapsed() >= BESIDE_MIN {
            return Ok(true);
        }
        running = start()?;
        Ok(false)
    })?;
    Ok(Beside { what, seconds: seconds.unwrap_or(f64::NAN), recorded })
}

fn record(
    recording: &Recording,
    centre: &mut Centre,
    mut is_over: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Recorded> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let began = Instant::now();
        let mut ticks = interval(ANSWER_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut waiting, mut latencies, mut due) = (JoinSet::new(), Vec::new(), 0_u64);
        while due % 16 != 0 || !is_over()? {
            let then = ticks.tick().await;
            let answer = centre.answer(EVENTS_AN_ANSWER_MAX);
            let seen = traffic::inspect(&answer, recording.policy());
            let recorded = recording.observe(seen, recording.key(&answer));
            let recorder = recording.recorder.clone();
            waiting.spawn(async move {
                let verdict = recorder.wait(recorded, COMMIT_WAIT_MAX).await;
                (verdict == Verdict::Deliver).then(|| then.elapsed())
            });
            due += 1;
            while let Some(done) = waiting.try_join_next() {
                latencies.extend(done?);
            }
        }
        while let Some(done) = waiting.join_next().await {
            latencies.extend(done?);
        }
        let mut latencies: Vec<f64> = latencies.into_iter().map(|took| took.as_secs_f64() * 1e6).collect();
        ensure!(!latencies.is_empty(), "nothing was recorded");
        Ok(Recorded {
            answers_a_second: latencies.len() as f64 / began.elapsed().as_secs_f64(),
            p50_us: program::quantile(&mut latencies, 0.5),
            p99_us: program::quantile(&mut latencies, 0.99),
        })
    })
}
