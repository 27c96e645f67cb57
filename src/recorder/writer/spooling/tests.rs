//! The writer's steps with the spool, one by one: real files, and no thread.

use std::path::Path;

use tokio::time::advance;

use super::*;
use crate::recorder::Config;
use crate::recorder::writer::log;
use crate::recorder::writer::tests::{account, answer, asked_twice, batch, config, queue, told};
use crate::store::spool::tests::full;
use crate::telemetry::metrics::Account;

async fn writer(folder: &Path, when_unavailable: WhenUnavailable) -> Writer {
    let mut writer = Writer::idle(folder, config(when_unavailable), false).await;
    writer.take_up_spool();
    writer
}

fn keep(writer: &mut Writer, entries: impl IntoIterator<Item = Entry>) {
    entries.into_iter().for_each(|entry| drop(queue(writer, entry)));
    let mut batch = batch(writer);
    assert!(writer.keep(&mut batch));
}

async fn drain(writer: &mut Writer) {
    let pulse = writer.recorder.metrics.pulses.begin("writer");
    writer.drain(&pulse).await;
}

fn backlog(writer: &Writer) -> u64 {
    writer.spool.as_ref().map_or(0, |spool| spool.backlog().records)
}

fn spool(folder: &Path) -> std::path::PathBuf {
    folder.join("a.db-spool")
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_up_to_their_bound_and_begin_anew_once_it_worked() {
    let mut pause = Pause::default();
    assert!(pause.is_over());
    for milliseconds in [50, 100, 200, 400, 800, 1_000, 1_000] {
        pause.failed();
        advance(Duration::from_millis(milliseconds - 1)).await;
        assert!(!pause.is_over(), "{milliseconds} ms");
        advance(Duration::from_millis(1)).await;
        assert!(pause.is_over(), "{milliseconds} ms");
    }
    pause.failed();
    pause.worked();
    assert!(pause.is_over());
    pause.failed();
    advance(RETRY_FIRST).await;
    assert!(pause.is_over());
}

#[tokio::test]
async fn what_is_kept_is_honoured_at_once_and_comes_into_the_archive_with_its_outage() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_guard, log) = log(folder.path());
    let mut writer = writer(folder.path(), WhenUnavailable::Spool).await;
    let recorder = writer.recorder.clone();
    assert!(recorder.is_spooling() && !recorder.is_down());
    let [first, joined] = asked_twice(&writer, 1);
    let error = queue(&writer, Entry { findings: Vec::new(), chats: Vec::new(), ..full(2) });
    recorder.outages.begin(7, "locked", "by a shell");
    let mut batch = batch(&writer);
    assert!(writer.keep(&mut batch));
    assert_eq!([first, joined, error].map(told), [Some(true); 3]);
    assert_eq!(account(&writer), Account { seen: 2, duplicate: 1, in_flight: 1, ..Account::default() });
    assert_eq!(backlog(&writer), 3, "the beginning of the outage, too");
    keep(&mut writer, [answer(2)]);
    assert_eq!(backlog(&writer), 4, "which is told once");

    drain(&mut writer).await;
    assert_eq!(account(&writer), Account { seen: 3, new: 2, duplicate: 1, ..Account::default() });
    assert!(!writer.has_backlog() && !recorder.is_down() && recorder.is_spooling());
    assert_eq!(recorder.metrics.recording_up.get(), 1);
    let outages = "SELECT concat_ws('|', reason, started_at, answers, events, spooled, delivered_early) FROM outages";
    assert_eq!(writer.store().texts(outages), ["locked|7|2|2|2|0"]);
    assert!(log().contains("recording is up again") && !log().contains("lost"), "{}", log());
}

#[tokio::test]
async fn what_a_commit_that_seemed_to_fail_has_brought_is_not_brought_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = writer(folder.path(), WhenUnavailable::Spool).await;
    writer
        .recorder
        .metrics
        .ledger
        .enter(|account| *account = Account { seen: 4, new: 1, duplicate: 1, variant: 1, finding: 1, ..*account });
    let mut changed = answer(2);
    changed.chats[0].events[0].raw = "{\"index\":2,\"text\":\"other\"}".into();
    let finding = Entry { chats: Vec::new(), errors: Vec::new(), ..full(3) };
    let entries = [full(1), answer(2), answer(2), changed, finding];
    keep(&mut writer, entries);
    let spool = writer.spool.as_ref().expect("it is wanted");
    let first = spool.read(1).expect("it is sound").remove(0);
    let mark = Mark { spool_id: spool.id(), drained_to: first.end, at: 1 };
    writer.store().append_marked(&[full(1)], &[], true, Some(&mark)).expect("stored");
    drain(&mut writer).await;
    // Of the first one an event and two of its finding.
    let expected = Account { seen: 12, new: 2, duplicate: 5, variant: 2, finding: 3, ..Account::default() };
    assert_eq!(account(&writer), expected);
    assert_eq!(writer.store().texts("SELECT concat_ws(' ', count(*), max(event_index)) FROM events"), ["2 2"]);
    assert_eq!(writer.store().texts("SELECT group_concat(repeats) FROM findings"), ["2"], "the same twice, not thrice");
}

#[tokio::test]
async fn what_an_earlier_run_has_left_counts_as_seen_and_is_drained_whatever_is_configured() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut earlier = writer(folder.path(), WhenUnavailable::Spool).await;
    earlier.recorder.outages.begin(7, "disk_full", "no room");
    keep(&mut earlier, [answer(1), answer(2)]);
    drop(earlier);
    let mut bytes = std::fs::read(spool(folder.path())).expect("it is there");
    bytes.extend_from_slice(b"\nREC\x40\0\0\0torn");
    std::fs::write(spool(folder.path()), bytes).expect("the folder is ours");

    let mut writer = writer(folder.path(), WhenUnavailable::Pass).await;
    let recorder = writer.recorder.clone();
    assert_eq!(recorder.outage(), Some((7, "disk_full".into(), "no room".into())));
    assert!(recorder.is_spooling() && recorder.metrics.recording_up.get() == 0);
    assert_eq!(account(&writer), Account { seen: 2, in_flight: 2, ..Account::default() });
    let torn: Vec<_> = writer.left_over.iter().flat_map(|entry| &entry.findings).map(|found| found.raw.len()).collect();
    assert_eq!(torn, [12]);
    assert!(writer.left_over[0].at > 0);
    keep(&mut writer, [answer(3)]); // nothing overtakes what is in the spool
    drain(&mut writer).await;
    assert_eq!(account(&writer), Account { seen: 3, new: 3, ..Account::default() });
    assert_eq!(
        writer.store().texts("SELECT concat_ws('|', reason, started_at, events) FROM outages"),
        ["disk_full|7|3"]
    );
    assert_eq!(writer.store().texts("SELECT kind FROM findings"), ["spool_damaged"]);
    assert!(!recorder.is_spooling() && !recorder.is_down());
    drop(queue(&writer, answer(4)));
    let mut batch = batch(&writer);
    assert!(!writer.keep(&mut batch), "from here on it is not wanted");
}

#[tokio::test]
async fn a_sound_spool_leaves_nothing_to_be_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut earlier = writer(folder.path(), WhenUnavailable::Spool).await;
    keep(&mut earlier, [answer(1)]);
    drop(earlier);
    let writer = writer(folder.path(), WhenUnavailable::Refuse).await;
    assert!(writer.left_over.is_empty() && writer.recorder.is_spooling());
}

#[tokio::test]
async fn the_spool_is_passed_on_once_it_is_empty_and_taken_up_once_it_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut former = writer(folder.path(), WhenUnavailable::Spool).await;
    let mut later = Writer::idle(folder.path(), config(WhenUnavailable::Spool), true).await;
    later.take_up_spool();
    former.pass_spool_on();
    assert!(former.spool.is_some(), "nobody wants it yet");
    keep(&mut former, [answer(1)]);
    former.recorder.leave_spool();
    former.pass_spool_on();
    later.pass_spool_on();
    assert!(former.spool.is_some() && later.spool.is_none() && later.awaits_spool, "something is still in it");
    drain(&mut former).await;
    former.pass_spool_on();
    assert!(former.spool.is_none() && !former.recorder.is_spooling());
    assert!(!later.recorder.is_spooling());
    later.pass_spool_on();
    assert!(later.spool.is_some() && !later.awaits_spool && later.recorder.is_spooling());

    let mut last = Writer::idle(folder.path(), config(WhenUnavailable::Spool), true).await;
    drop(later);
    std::fs::write(spool(folder.path()), "something else, which is longer than the head of a spool")
        .expect("it is ours");
    last.pass_spool_on();
    assert!(last.spool.is_none() && !last.awaits_spool, "it is not waited for what will not come");
    assert_eq!(trouble(&last, "not_an_archive"), 1);
}

fn trouble(writer: &Writer, kind: &'static str) -> u64 {
    writer.recorder.metrics.spool_errors.get_or_create(&[("kind", kind.into())]).get()
}

#[tokio::test]
async fn a_spool_that_takes_nothing_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config { spool_bytes_max: 64, ..config(WhenUnavailable::Spool) };
    let mut writer = Writer::idle(folder.path(), config, false).await;
    writer.take_up_spool();
    writer.recorder.outages.begin(7, "locked", "by a shell");
    drop(queue(&writer, answer(1)));
    let mut batch = batch(&writer);
    assert!(!writer.keep(&mut batch) && !writer.keep(&mut batch));
    assert!(!writer.recorder.is_spooling());
    assert_eq!(trouble(&writer, "disk_full"), 2);
    let outage = writer.recorder.outages.end(9).expect("it is down");
    assert_eq!(outage.detail.matches("spool_bytes_max").count(), 1, "{}", outage.detail);
}

#[tokio::test]
async fn the_spool_is_drained_while_that_works_and_time_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = writer(folder.path(), WhenUnavailable::Spool).await;
    assert!(!writer.has_backlog() && !writer.drains_at_stop());
    keep(&mut writer, (1..4).map(answer));
    assert!(writer.has_backlog() && writer.drains_at_stop());
    tokio::time::pause();
    writer.drain_pause.failed();
    assert!(writer.has_backlog() && !writer.drains_at_stop());
    drain(&mut writer).await;
    assert_eq!(backlog(&writer), 3);
    writer.drain_pause.worked();
    writer.read_pause.failed();
    assert!(!writer.has_backlog() && !writer.drains_at_stop(), "it holds nobody up while it cannot be read");
    writer.read_pause.worked();

    drop(queue(&writer, answer(4)));
    drain(&mut writer).await;
    assert_eq!(backlog(&writer), 2, "something newer waits, and gets its turn");
    drop(batch(&writer));
    writer.recorder.drain_until.set(std::time::Instant::now() - Duration::from_secs(1)).expect("it runs");
    assert!(writer.has_backlog() && !writer.drains_at_stop());
    drain(&mut writer).await;
    assert_eq!(backlog(&writer), 2, "it is safe where it is");
}

#[tokio::test]
async fn what_a_damaged_spool_has_lost_is_counted_said_and_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_guard, log) = log(folder.path());
    let mut writer = writer(folder.path(), WhenUnavailable::Spool).await;
    writer.recorder.metrics.ledger.enter(|account| (account.seen, account.dropped) = (1, 1));
    keep(&mut writer, [answer(1), answer(2)]);
    let mut bytes = std::fs::read(spool(folder.path())).expect("it is there");
    bytes[100] ^= 1; // in the first record
    std::fs::write(spool(folder.path()), bytes).expect("the folder is ours");
    drain(&mut writer).await;
    assert_eq!(account(&writer), Account { seen: 3, new: 1, dropped: 2, ..Account::default() });
    let findings = "SELECT concat_ws('|', kind, observed_at > 1700000000000, length(raw) > 100) FROM findings";
    assert_eq!(writer.store().texts(findings), ["spool_damaged|1|1"]);
    assert!(log().contains("these events are lost"), "{}", log());
}

#[tokio::test]
async fn how_much_is_in_the_spool_and_since_when_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = writer(folder.path(), WhenUnavailable::Spool).await;
    keep(&mut writer, [Entry { at: now_ms() - 90_000, ..full(1) }, full(2)]);
    writer.show_spool();
    let metrics = &writer.recorder.metrics;
    assert_eq!((metrics.spool_records.get(), metrics.spool_events.get()), (2, 6));
    assert_eq!(metrics.spool_bytes.get(), std::fs::metadata(spool(folder.path())).expect("it is there").len() as i64);
    assert!((90..150).contains(&metrics.spool_oldest_seconds.get()), "{}", metrics.spool_oldest_seconds.get());
}
