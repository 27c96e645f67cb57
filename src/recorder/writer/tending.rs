//! What the writer looks after from time to time, whatever else goes on: the reserve, the size of the
//! write-ahead log.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Writer;
use crate::store::Store;
use crate::telemetry::Repeated;

const TEND_INTERVAL: Duration = Duration::from_secs(1);
/// `journal_size_limit`, and a checkpoint's worth: a log that is larger has a reader in its way.
const WAL_LARGE_BYTES: u64 = (64 + 16) << 20;
/// Between attempts to fold a large one in: each may hold commits up for the 100 ms that it waits for the reader.
const FOLD_INTERVAL: Duration = Duration::from_secs(10);

static WAL_LARGE: Repeated = Repeated::new(1, Duration::from_secs(60));

/// When it was last looked after, and what was found then.
#[derive(Debug, Default)]
pub(super) struct Tended {
    last: Option<Instant>,
    /// A reserve that cannot be made is told once.
    reserve_refused: bool,
    wal_large_since: Option<Instant>,
    last_fold: Option<Instant>,
}

impl Writer {
    pub(super) fn tend(&mut self) {
        let now = Instant::now();
        if self.tended.last.is_some_and(|last| now - last < TEND_INTERVAL) {
            return;
        }
        self.tended.last = Some(now);
        self.tend_reserve();
        self.watch_wal(now);
    }

    fn tend_reserve(&mut self) {
        let (recorder, reserve) = (&self.recorder, &self.reserve);
        let held = reserve.held();
        recorder.metrics.reserve_bytes.set(held.cast_signed());
        if held >= reserve.bytes() && reserve.bytes() > 0 {
            return;
        }
        match reserve.make() {
            Ok(()) => {
                recorder.metrics.reserve_bytes.set(reserve.held().cast_signed());
                if recorder.reserve_is_out.swap(false, Ordering::AcqRel) {
                    tracing::info!(bytes = reserve.bytes(), "there is room again; the reserve is made anew");
                }
                self.tended.reserve_refused = false;
            }
            Err(error) if !self.tended.reserve_refused && !recorder.reserve_is_out.load(Ordering::Acquire) => {
                self.tended.reserve_refused = true;
                tracing::warn!(%error, bytes = reserve.bytes(), "there is no reserve for a full disk");
            }
            Err(_) => {}
        }
    }

    /// The disk is full: true where the reserve was there to be given back.
    pub(super) fn give_back_reserve(&mut self) -> bool {
        let bytes = self.reserve.held();
        if bytes == 0 || self.reserve.give_back().is_err() {
            return false;
        }
        self.recorder.metrics.reserve_bytes.set(0);
        self.recorder.reserve_is_out.store(true, Ordering::Release);
        let hint = "free space on the file system of the archive before that is used up; the reserve is then made anew";
        tracing::error!(bytes, hint, "the disk is full; its reserve is given back and recording goes on");
        true
    }

    /// A log grows as long as somebody reads what it held at first. Once that one is gone it is folded in and cut.
    fn watch_wal(&mut self, now: Instant) {
        let bytes = self.store.as_ref().map_or(0, Store::wal_bytes);
        self.recorder.metrics.wal_bytes.set(bytes.cast_signed());
        let tended = &mut self.tended;
        if bytes < WAL_LARGE_BYTES {
            tended.wal_large_since = None;
            return;
        }
        let since = *tended.wal_large_since.get_or_insert(now);
        if tended.last_fold.is_some_and(|last| now - last < FOLD_INTERVAL) {
            return;
        }
        tended.last_fold = Some(now);
        let is_folded = self.store.as_ref().is_none_or(|store| store.fold().unwrap_or(false)); // an error shows at the next commit
        if !is_folded && let Some(not_shown) = WAL_LARGE.admit(std::time::Instant::now()) {
            let seconds = (now - since).as_secs();
            let hint = "look for a long query or an open sqlite3 shell: ls -l /proc/*/fd/* | grep -e -wal";
            tracing::warn!(
                bytes,
                seconds,
                not_shown,
                hint,
                "a reader keeps the write-ahead log from being folded in; it grows"
            );
        }
    }
}
