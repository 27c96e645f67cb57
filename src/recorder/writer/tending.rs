//! What the writer looks after from time to time, whatever else goes on: the reserve, the size of the
//! write-ahead log.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Writer;
use crate::store::Store;
use crate::telemetry::Repeated;

const TEND_INTERVAL: Duration = Duration::from_secs(1);
/// `journal_size_limit`, and what the writer folds by itself: a log that is larger has a reader in its way.
const WAL_LARGE_BYTES: u64 = (256 + 64) << 20;
/// Before a large one is folded and cut by force, and between attempts: it is folded beside the writer, and cut with the first
/// commit that begins it anew. Where there is none, or a reader, that is not to be had.
const FOLD_INTERVAL: Duration = Duration::from_secs(10);

static WAL_LARGE: Repeated = Repeated::new(1, Duration::from_secs(60));

/// When it was last looked after, and what was found then.
#[derive(Debug, Default)]
pub(super) struct Tended {
    last: Option<Instant>,
    /// A reserve that cannot be made is told once.
    reserve_refused: bool,
    wal_large_since: Option<Instant>,
    /// When it became large, or was last tried to be folded.
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

    /// A log grows as long as somebody reads what it held at first. Once that one is gone it is folded in and cut, here where
    /// nothing is committed.
    fn watch_wal(&mut self, now: Instant) {
        let bytes = self.store.as_ref().map_or(0, Store::wal_bytes);
        self.recorder.metrics.wal_bytes.set(bytes.cast_signed());
        let tended = &mut self.tended;
        if bytes < WAL_LARGE_BYTES {
            tended.wal_large_since = None;
            return;
        }
        let since = *tended.wal_large_since.get_or_insert_with(|| {
            tended.last_fold = Some(now);
            now
        });
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use tokio::time::advance;

    use super::*;
    use crate::recorder::Config;
    use crate::recorder::writer::log;
    use crate::store::beside;

    async fn writer(folder: &Path, reserve: usize) -> Writer {
        Writer::idle(folder, Config { reserve, ..Config::default() }, false).await
    }

    #[tokio::test]
    async fn the_reserve_is_looked_after_every_second_and_made_where_it_is_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = writer(folder.path(), 64 << 10).await;
        tokio::time::pause();
        let path = folder.path().join("a.db-reserve");
        let length = || std::fs::metadata(&path).map_or(0, |found| found.len());
        let shown = writer.recorder.metrics.clone();
        writer.tend();
        assert_eq!((length(), shown.reserve_bytes.get()), (64 << 10, 64 << 10));
        std::fs::remove_file(&path).expect("it was made");
        advance(TEND_INTERVAL - Duration::from_millis(1)).await;
        writer.tend();
        assert_eq!(length(), 0);
        advance(Duration::from_millis(1)).await;
        writer.tend();
        assert_eq!(length(), 64 << 10);
        // One that is there is let be.
        std::fs::write(&path, vec![b'x'; 64 << 10]).expect("the folder is ours");
        advance(TEND_INTERVAL).await;
        writer.tend();
        assert_eq!(std::fs::read(&path).expect("it is there"), vec![b'x'; 64 << 10]);
    }

    #[tokio::test]
    async fn no_reserve_is_left_where_none_is_wanted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db-reserve");
        std::fs::write(&path, "of an earlier run").expect("the folder is ours");
        writer(folder.path(), 0).await.tend();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_reserve_is_given_back_once_and_said_to_be_out_until_it_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = writer(folder.path(), 64 << 10).await;
        let recorder = writer.recorder.clone();
        assert!(!writer.give_back_reserve() && !recorder.is_reserve_out(), "there is none yet");
        writer.tend();
        assert!(writer.give_back_reserve() && recorder.is_reserve_out());
        assert_eq!(recorder.metrics.reserve_bytes.get(), 0);
        assert!(!folder.path().join("a.db-reserve").exists() && !writer.give_back_reserve());
        writer.tend_reserve();
        assert!(!recorder.is_reserve_out());
        assert_eq!(recorder.metrics.reserve_bytes.get(), 64 << 10);
    }

    #[tokio::test]
    async fn a_reserve_that_cannot_be_made_is_told_once_unless_it_is_in_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = writer(folder.path(), 1 << 60).await;
        let (_guard, log) = log(folder.path());
        writer.recorder.reserve_is_out.store(true, Ordering::Release);
        writer.tend_reserve();
        assert_eq!(log(), "");
        writer.recorder.reserve_is_out.store(false, Ordering::Release);
        writer.tend_reserve();
        writer.tend_reserve();
        assert_eq!(log().matches("there is no reserve").count(), 1, "{}", log());
    }

    #[tokio::test]
    async fn a_log_that_a_reader_lets_grow_is_told_and_folded_in_once_the_reader_has_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_guard, log) = log(folder.path());
        let mut writer = writer(folder.path(), 0).await;
        let other = self::writer(folder.path(), 0).await.store.take().expect("it is open");
        other.execute("BEGIN; SELECT count(*) FROM chats");
        let grow = |length| {
            let wal = beside(&folder.path().join("a.db"), "-wal");
            File::options().write(true).open(wal).and_then(|wal| wal.set_len(length)).expect("it is there");
        };
        let limit = "SELECT CAST(journal_size_limit AS TEXT) FROM pragma_journal_size_limit";
        let limit: u64 = writer.store().texts(limit).concat().parse().expect("a number");
        assert!((limit + 1..2 * limit).contains(&WAL_LARGE_BYTES), "a log that was cut back is not large");
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        grow(WAL_LARGE_BYTES - 1);
        writer.watch_wal(begin);
        assert_eq!(writer.recorder.metrics.wal_bytes.get(), WAL_LARGE_BYTES as i64 - 1);
        assert_eq!((writer.tended.wal_large_since, writer.tended.last_fold), (None, None));
        grow(WAL_LARGE_BYTES);
        // Each attempt holds commits up: there are few.
        for (now, last_fold) in [(0, 0), (9_999, 0), (10_000, 10_000)] {
            writer.watch_wal(at(now));
            assert_eq!(writer.tended.wal_large_since, Some(begin));
            assert_eq!(writer.tended.last_fold, Some(at(last_fold)), "{now} ms");
        }
        assert!(log().contains("it grows"), "{}", log());
        other.execute("COMMIT");
        writer.watch_wal(at(20_000));
        assert_eq!(writer.store().wal_bytes(), 0);
        writer.watch_wal(at(20_001));
        assert_eq!(writer.tended.wal_large_since, None);
    }
}
