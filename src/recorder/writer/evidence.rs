//! What the writer does for the evidence between two batches: a signed checkpoint when one is due, and a piece of sealing
//! what an earlier release has left unsealed. Neither holds a chat up, nor does what goes wrong with them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, getppid};
use tokio::time::Instant;

use super::{LAZY_INTERVAL, Writer};
use crate::archive::anchor::{Anchor, News, Signed};
use crate::archive::note::{Checkpoint, Signer};
use crate::archive::{self, key};
use crate::recorder::{Recorder, now_ms};
use crate::store::Error;
use crate::store::seal::checkpoint::Standing;
use crate::store::seal::late::Late;
use crate::telemetry::Repeated;
use crate::telemetry::metrics::Labels;

/// How long pieces are sealed one after the other while nothing waits.
const LATE_TIME: Duration = Duration::from_millis(300);
/// Between lines about it.
const LATE_TOLD: Duration = Duration::from_secs(30);
/// How long all anchors are given for the last checkpoint.
const ANCHOR_PATIENCE: Duration = Duration::from_secs(5);
/// Between lines of a kind about an anchor.
const REFUSAL_TOLD: Duration = Duration::from_secs(600);

/// What is needed for it.
#[derive(Debug)]
pub(in crate::recorder) struct Evidence {
    config: archive::Config,
    /// With the archive that it is of.
    signer: Option<(String, Signer)>,
    /// The public key of the last one.
    vkey: Option<String>,
    anchors: Vec<Anchor>,
    next_checkpoint: Instant,
    /// One of this start, at least.
    has_signed: bool,
    /// The process that started this one in its place: it may write, too, until it has ended.
    predecessor: Option<Pid>,
    late: LateSealing,
}

/// Rows of runs that did not seal them.
#[derive(Debug)]
struct LateSealing {
    next: Instant,
    rows: u64,
    last_told: Option<Instant>,
}

impl Evidence {
    pub(in crate::recorder) fn new(
        config: archive::Config,
        recorder: &Arc<Recorder>,
        is_shared: bool,
    ) -> std::io::Result<Self> {
        let anchors = config.all_anchors().map(|(name, anchor)| {
            tracing::info!(anchor = name, kind = anchor.kind(), place = anchor.place(), "checkpoints go there");
            let witness = Witness::new(name.clone(), recorder);
            Anchor::start(name, anchor, move |news| witness.note(news))
        });
        let anchors = anchors.collect::<Result<_, _>>()?;
        let now = Instant::now();
        let late = LateSealing { next: now, rows: 0, last_told: None };
        let predecessor = is_shared.then(getppid).flatten();
        Ok(Self {
            config,
            signer: None,
            vkey: None,
            anchors,
            next_checkpoint: now,
            has_signed: false,
            predecessor,
            late,
        })
    }

    /// Whether another process may write: whoever loses its parent gets another one.
    fn is_shared(&mut self) -> bool {
        self.predecessor = self.predecessor.filter(|predecessor| getppid() == Some(*predecessor));
        self.predecessor.is_some()
    }

    /// Told with the first key of an archive, and whenever it is another one.
    fn sign_with(&mut self, archive_id: &str, signer: Signer, is_first: bool) {
        let key = signer.public().vkey();
        if is_first {
            tracing::info!(
                key,
                "checkpoints are signed with this key: give it to your auditors, and keep its file in a backup of its own"
            );
        } else if self.vkey.as_ref().is_some_and(|former| *former != key) {
            tracing::info!(
                key,
                "checkpoints are signed with another key from here on: keep its file in a backup of its own"
            );
        }
        (self.vkey, self.signer) = (Some(key), Some((archive_id.into(), signer)));
    }
}

/// Who tells how an anchor fares.
#[derive(Debug)]
struct Witness {
    name: String,
    recorder: Arc<Recorder>,
    refusals: Repeated,
    conflicts: Repeated,
    passed_over: Repeated,
    /// Whether the log says that it takes none.
    is_told: AtomicBool,
}

impl Witness {
    fn new(name: String, recorder: &Arc<Recorder>) -> Self {
        let [refusals, conflicts, passed_over] = std::array::from_fn(|_| Repeated::new(1, REFUSAL_TOLD));
        let is_told = AtomicBool::new(false);
        let witness = Self { name, recorder: recorder.clone(), refusals, conflicts, passed_over, is_told };
        let metrics = &recorder.metrics;
        metrics.anchor_up.get_or_create(&witness.label()).set(1);
        for counter in [&metrics.anchor_checkpoints, &metrics.anchor_errors, &metrics.anchor_conflicts] {
            drop(counter.get_or_create(&witness.label()));
        }
        witness
    }

    fn label(&self) -> Labels<1> {
        [("anchor", self.name.clone())]
    }

    fn note(&self, news: News) {
        let (metrics, label) = (&self.recorder.metrics, self.label());
        match news {
            News::Took(count) => {
                metrics.anchor_up.get_or_create(&label).set(1);
                metrics.anchor_checkpoints.get_or_create(&label).inc_by(count as u64);
                self.recorder.evidence().refusals.remove(&self.name);
                if self.is_told.swap(false, Ordering::Relaxed) {
                    tracing::info!(anchor = self.name, "the anchor takes checkpoints again");
                }
            }
            News::Refused(error) => {
                metrics.anchor_up.get_or_create(&label).set(0);
                metrics.anchor_errors.get_or_create(&label).inc();
                self.tell_refusal(&error);
                self.recorder.evidence().refusals.insert(self.name.clone(), error);
            }
            News::GaveUp(error) => {
                metrics.anchor_conflicts.get_or_create(&label).inc();
                self.tell_conflict(&error);
                self.recorder.evidence().conflicts.insert(self.name.clone(), error);
            }
            News::PassedOver(error) => self.tell_passed_over(&error),
        }
    }

    fn tell_refusal(&self, error: &str) {
        let Some(not_shown) = self.refusals.admit(std::time::Instant::now()) else { return };
        let hint = "checkpoints wait in memory and are tried again; recording goes on";
        tracing::error!(anchor = self.name, error, not_shown, hint, "the anchor takes no checkpoints");
        self.is_told.store(true, Ordering::Relaxed);
    }

    fn tell_conflict(&self, error: &str) {
        let Some(not_shown) = self.conflicts.admit(std::time::Instant::now()) else { return };
        let hint = "this checkpoint is given up, later ones go there; find out who else signs for this archive";
        tracing::error!(anchor = self.name, error, not_shown, hint, "the anchor will never take a checkpoint");
    }

    fn tell_passed_over(&self, error: &str) {
        let Some(not_shown) = self.passed_over.admit(std::time::Instant::now()) else { return };
        let hint = "this checkpoint is given up; later ones, which vouch for all before them, go there";
        tracing::error!(
            anchor = self.name,
            error,
            not_shown,
            hint,
            "the anchor refuses a checkpoint, and takes others"
        );
    }
}

/// What is wrong with the evidence, as everyone may ask.
#[derive(Debug, Default)]
pub(in crate::recorder) struct Trouble {
    /// Why there are no checkpoints.
    pub checkpoints: Option<String>,
    /// Which anchors take none, and why.
    pub refusals: BTreeMap<String, String>,
    /// Which anchors have something else in a checkpoint's place; until the next start.
    pub conflicts: BTreeMap<String, String>,
}

impl Recorder {
    fn evidence(&self) -> MutexGuard<'_, Trouble> {
        self.evidence_trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with checkpoints and anchors, in words.
    pub fn evidence_trouble(&self) -> Vec<String> {
        let trouble = self.evidence();
        let checkpoints = trouble.checkpoints.iter().map(|why| format!("no checkpoints are signed: {why}"));
        let refusals = trouble.refusals.iter();
        let refusals = refusals.map(|(name, why)| format!("the anchor {name} takes no checkpoints: {why}"));
        let conflicts = trouble.conflicts.iter();
        let conflicts = conflicts.map(|(name, why)| format!("the anchor {name} has not taken a checkpoint: {why}"));
        checkpoints.chain(refusals).chain(conflicts).collect()
    }
}

impl Writer {
    /// Does what is due of it.
    pub(super) async fn keep_evidence(&mut self) {
        if self.recorder.is_down() || self.store.is_none() {
            return;
        }
        let done = self.checkpoint_if_due().and_then(|()| self.seal_later());
        if let Err(error) = done {
            self.note_trouble(&error, Duration::ZERO).await;
        }
    }

    fn checkpoint_if_due(&mut self) -> Result<(), Error> {
        if Instant::now() < self.evidence.next_checkpoint {
            return Ok(());
        }
        self.checkpoint()?;
        self.evidence.next_checkpoint = Instant::now() + self.evidence.config.checkpoint_interval;
        Ok(())
    }

    /// Again with the next key, where that has just been changed.
    fn checkpoint(&mut self) -> Result<(), Error> {
        if !self.checkpoint_with_known_key()? {
            self.evidence.signer = None;
            self.checkpoint_with_known_key()?;
        }
        Ok(())
    }

    /// False where the key is not the present one any longer.
    fn checkpoint_with_known_key(&mut self) -> Result<bool, Error> {
        let Some(store) = &self.store else { return Ok(true) };
        let archive_id = store.archive_id();
        if self.evidence.signer.as_ref().is_none_or(|(of, _)| of != archive_id) {
            let known = store.keys()?;
            let path = self.evidence.config.key_path(&self.options.path);
            match key::open(&path, archive_id, &known) {
                Ok(signer) => {
                    let vkey = signer.public().vkey();
                    let is_first = !known.contains(&vkey);
                    // The archive knows every key that signs for it from its first checkpoint on.
                    if is_first && !store.add_key(&vkey, now_ms())? {
                        return Ok(false); // it has got another one meanwhile
                    }
                    self.evidence.sign_with(archive_id, signer, is_first);
                }
                Err(error) => {
                    self.note_no_checkpoints(&error);
                    return Ok(true);
                }
            }
        }
        let Some((_, signer)) = &self.evidence.signer else { return Ok(true) };
        let at = now_ms();
        let mut said = None;
        let note = store.checkpoint(at, &signer.public().vkey(), |standing| {
            let Standing { number, size, root, before } = *standing;
            if !self.evidence.has_signed {
                say_first(size, before);
            }
            let checkpoint = said.insert(Checkpoint { archive_id: archive_id.into(), size, root, number, at });
            signer.sign(checkpoint)
        })?;
        let (Some(note), Some(checkpoint)) = (note, said) else { return Ok(false) };
        self.evidence.has_signed = true;
        let signed = Arc::new(Signed { checkpoint, note });
        self.evidence.anchors.iter().for_each(|anchor| anchor.offer(signed.clone()));
        self.recorder.metrics.checkpoints.inc();
        self.recorder.metrics.checkpoints_up.set(1);
        if self.recorder.evidence().checkpoints.take().is_some() {
            tracing::info!("checkpoints are signed again");
        }
        Ok(true)
    }

    /// Told when it begins, and when it is something else.
    fn note_no_checkpoints(&self, error: &key::Error) {
        self.recorder.metrics.checkpoints_up.set(0);
        let error = error.to_string();
        let mut trouble = self.recorder.evidence();
        if trouble.checkpoints.as_ref() != Some(&error) {
            tracing::error!(error, "no checkpoints are signed; recording goes on");
            trouble.checkpoints = Some(error);
        }
    }

    /// Some pieces while nothing waits, one now and then in any case.
    fn seal_later(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        let Some(store) = &self.store else { return Ok(()) };
        if began < self.evidence.late.next {
            return Ok(());
        }
        let is_shared = self.evidence.is_shared();
        let late = &mut self.evidence.late;
        late.next = began + LAZY_INTERVAL;
        while began.elapsed() < LATE_TIME {
            match store.seal_later(now_ms(), is_shared)? {
                Late::Nothing => {
                    late.next = began + self.evidence.config.checkpoint_interval;
                    break;
                }
                Late::Going(rows) => late.rows += rows,
                Late::Done => {
                    tracing::info!(rows = late.rows, "what a release without seals has written is sealed now");
                    late.rows = 0;
                    late.last_told = None;
                }
            }
            if late.rows > 0 && late.last_told.is_none_or(|told| began - told >= LATE_TOLD) {
                late.last_told = Some(began);
                tracing::info!(rows = late.rows, "sealing what a release without seals has written");
            }
            if !self.recorder.queue.is_empty() || self.recorder.is_closing() {
                break;
            }
            late.next = began;
        }
        Ok(())
    }

    /// The last checkpoint, over everything, and on its way.
    pub(super) fn close_evidence(&mut self) -> Result<(), Error> {
        let signed = self.checkpoint();
        for (anchor, checkpoints) in Anchor::close(std::mem::take(&mut self.evidence.anchors), ANCHOR_PATIENCE) {
            tracing::warn!(
                anchor,
                checkpoints,
                "the anchor did not take the last checkpoints; the first one of the next start vouches for them"
            );
        }
        signed
    }
}

/// What the first checkpoint of a start vouches for, and no earlier one did: whoever has an anchor can compare.
fn say_first(size: u64, before: Option<(u64, i64)>) {
    let (signed, at) = before.unwrap_or_default();
    let newly_signed = size - signed.min(size);
    tracing::info!(leaves = size, newly_signed, last_checkpoint_at_ms = at, "checkpoints are signed from here on");
}
