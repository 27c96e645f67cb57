//! The writer's steps when all is well and when it is not, one by one: real files, and no thread.

use futures_util::FutureExt;
use tokio::time::advance;

use super::*;
use crate::gms::{ChatAnswer, ChatKey, Coverage, Observation};
use crate::recorder::{AnswerKey, Config, Recorded, WhenUnavailable};
use crate::store::spool::tests::full;
use crate::telemetry::metrics::Account;

const KEY: AnswerKey = [1; 16];

pub(super) fn config(when_unavailable: WhenUnavailable) -> Config {
    Config { when_unavailable, batch_events_max: 1, ..Config::default() }
}

/// What an answer with one event brings.
pub(super) fn answer(index: i64) -> Entry {
    Entry { errors: Vec::new(), findings: Vec::new(), ..full(index) }
}

pub(super) fn queue(writer: &Writer, entry: Entry) -> Recorded {
    writer.recorder.enqueue(entry, Vec::new(), 0, None)
}

/// All that waits.
pub(super) fn batch(writer: &Writer) -> Batch {
    Batch { queued: writer.recorder.queue.take(usize::MAX, &writer.recorder.metrics), ..Batch::default() }
}

pub(super) fn account(writer: &Writer) -> Account {
    writer.recorder.metrics.ledger.read()
}

/// An answer with one event, and the same again while it is under way.
pub(super) fn asked_twice(writer: &Writer, index: i64) -> [Recorded; 2] {
    let chat = full(index).chats.remove(0);
    let seen = ChatAnswer {
        key: ChatKey::Id(chat.chat_id),
        secure_keys: Vec::new(),
        secrets: Vec::new(),
        service: None,
        events: chat.events,
        coverage: Coverage::Nothing,
        next_position: None,
        ended: None,
        is_async: false,
        attributes: Vec::new(),
    };
    let observation = Observation { chats: vec![seen], ..Observation::default() };
    let first = writer.recorder.observe(observation, KEY, None, || unreachable!("it carries no errors"));
    [first, writer.recorder.recognise(&KEY, None).expect("it is under way")]
}

/// What whoever waits has been told by now.
pub(super) fn told(recorded: Recorded) -> Option<bool> {
    let Recorded::Held(ticket) = recorded else { panic!("{recorded:?}") };
    ticket.committed.now_or_never()
}

async fn writer(folder: &tempfile::TempDir, config: Config) -> Writer {
    let mut writer = Writer::idle(folder.path(), config, false).await;
    writer.take_up_spool();
    writer
}

async fn passing(folder: &tempfile::TempDir) -> Writer {
    writer(folder, config(WhenUnavailable::Pass)).await
}

async fn write(writer: &mut Writer, batch: Batch) -> bool {
    let pulse = writer.recorder.metrics.pulses.begin("writer");
    writer.write(batch, &pulse).await
}

/// Holds the archive's write lock, as a careless shell does.
async fn lock(folder: &tempfile::TempDir) -> Store {
    let other = Writer::idle(folder.path(), Config::default(), true).await.store.take().expect("it is open");
    other.execute("BEGIN IMMEDIATE");
    other
}

fn trouble(writer: &Writer, kind: &'static str) -> u64 {
    writer.recorder.metrics.store_errors.get_or_create(&[("kind", kind.into())]).get()
}

#[tokio::test]
async fn what_is_committed_is_counted_honoured_and_remembered() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_guard, log) = log(folder.path());
    let mut writer = passing(&folder).await;
    let before = Account { seen: 4, new: 1, duplicate: 1, variant: 1, finding: 1, ..Account::default() };
    writer.recorder.metrics.ledger.enter(|account| *account = before);
    let [first, joined] = asked_twice(&writer, 1);
    let mut changed = answer(1);
    changed.chats[0].events[0].raw = "{\"index\":1,\"text\":\"other\"}".into();
    let others = [changed, full(1), full(2), full(3)].map(|entry| queue(&writer, entry));
    writer.recorder.outages.begin(7, "locked", "by a shell");
    let batch = batch(&writer);
    assert!(write(&mut writer, batch).await);
    assert_eq!([first, joined].map(told), [Some(true); 2]);
    assert_eq!(others.map(told), [Some(true); 4]);
    // Of the full ones an event and two of a finding each.
    let expected = Account { seen: 16, new: 4, duplicate: 3, variant: 2, finding: 7, ..Account::default() };
    assert_eq!(account(&writer), expected);
    assert!(!writer.recorder.is_down() && writer.recorder.outages.has_finished());
    assert!(log().contains("other content than before") && log().contains("recording is up again"), "{}", log());
    assert!(write(&mut writer, Batch::default()).await);
    assert_eq!(writer.store().texts("SELECT reason FROM outages"), ["locked"]);
    assert!(write(&mut writer, Batch::default()).await);
    assert_eq!(writer.store().texts("SELECT reason FROM outages").len(), 1, "once");
    let [again, _] = asked_twice(&writer, 1);
    assert!(matches!(again, Recorded::Nothing), "{again:?}");
}

#[tokio::test]
async fn an_outage_is_said_to_be_over_with_its_length() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_guard, log) = log(folder.path());
    let outage = Outage { started_at: 1_000, ended_at: 3_500, ..crate::recorder::outage::tests::row() };
    passing(&folder).await.say_up(&outage);
    assert!(log().contains("seconds=2.5"), "{}", log());
}

#[tokio::test]
async fn a_lock_is_waited_for_before_recording_counts_as_down() {
    for (when_unavailable, patience) in [(WhenUnavailable::Pass, 800), (WhenUnavailable::Spool, 200)] {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config { reserve: 64 << 10, ..config(when_unavailable) };
        let mut writer = writer(&folder, config).await;
        writer.tend();
        let shell = lock(&folder).await;
        drop(queue(&writer, answer(1)));
        let mut batch = batch(&writer);
        let error = writer.attempt(&mut batch).await.expect_err("it is locked");
        assert_eq!((error.kind, batch.queued[0].entry.events()), (ErrorKind::Busy, 1), "the batch stays");
        writer.note_trouble(&error, Duration::from_millis(patience - 1)).await;
        assert!(!writer.recorder.is_down() && writer.store.is_some());
        writer.note_trouble(&error, Duration::from_millis(patience)).await;
        assert!(writer.recorder.is_down() && writer.store.is_some(), "the same connection tries again");
        assert_eq!(writer.recorder.outage().map(|(_, reason, _)| reason), Some("locked".into()));
        assert_eq!((trouble(&writer, "locked"), writer.recorder.metrics.recording_up.get()), (2, 0));
        assert!(!writer.recorder.is_reserve_out(), "that is for a full disk");
        shell.execute("ROLLBACK");
        writer.attempt(&mut batch).await.expect("it is free");
    }
}

#[tokio::test]
async fn pauses_between_attempts_grow() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = passing(&folder).await;
    let shell = lock(&folder).await;
    drop(queue(&writer, answer(1)));
    let batch = batch(&writer);
    tokio::time::pause();
    let began = Instant::now();
    let free = async {
        sleep(Duration::from_millis(340)).await;
        shell.execute("ROLLBACK");
    };
    let (is_written, ()) = tokio::join!(write(&mut writer, batch), free);
    assert!(is_written);
    assert!((350..360).contains(&began.elapsed().as_millis()), "after 50, 100 and 200 ms: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_full_disk_gets_the_reserve_before_recording_counts_as_down() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = writer(&folder, Config { reserve: 64 << 10, ..Config::default() }).await;
    writer.tend();
    let error = Error::new(ErrorKind::Full, "no room");
    writer.note_trouble(&error, Duration::ZERO).await;
    assert!(writer.recorder.is_reserve_out() && !writer.recorder.is_down());
    writer.note_trouble(&error, Duration::ZERO).await;
    assert!(writer.recorder.is_down() && writer.store.is_some());
}

#[tokio::test]
async fn a_file_that_is_moved_away_is_let_go_and_taken_again_once_it_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = passing(&folder).await;
    let pulse = writer.recorder.metrics.pulses.begin("writer");
    for index in [1, 2] {
        let mut entry = answer(index);
        entry.chats[0].ended = None;
        drop(queue(&writer, entry));
        let batch = batch(&writer);
        assert!(write(&mut writer, batch).await);
    }
    assert!(writer.has_put_off() && writer.left_over.is_empty());
    let run_id = writer.store().run_id();
    let [database, aside] = ["a.db", "aside.db"].map(|name| folder.path().join(name));
    std::fs::rename(&database, &aside).expect("the folder is ours");
    writer.note_trouble(&Error::new(ErrorKind::Io, "a disk"), Duration::ZERO).await;
    assert!(writer.store.is_none() && writer.recorder.is_down());
    assert_eq!(writer.recorder.outage().map(|(_, reason, _)| reason), Some("file_missing".into()));
    assert!(writer.has_put_off() && !writer.left_over.is_empty(), "what was put off is not lost with it");
    let [again, _] = asked_twice(&writer, 1);
    assert!(matches!(again, Recorded::Held(_)), "what the file held is not known any more: {again:?}");
    writer.look_after_file(&pulse).await;
    assert_eq!((trouble(&writer, "file_missing"), writer.store.is_some(), database.exists()), (2, false, false));
    std::fs::rename(&aside, &database).expect("the folder is ours");
    writer.look_after_file(&pulse).await;
    assert!(!writer.recorder.is_down());
    assert_eq!(writer.store().run_id(), run_id, "the same run goes on");
}

#[tokio::test]
async fn a_file_at_rest_is_let_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = writer(&folder, config(WhenUnavailable::Spool)).await;
    let pulse = writer.recorder.metrics.pulses.begin("writer");
    let shell = lock(&folder).await;
    writer.look_after_file(&pulse).await;
    assert_eq!(trouble(&writer, "locked"), 0);
    shell.execute("ROLLBACK");
    drop(queue(&writer, answer(1)));
    let mut batch = batch(&writer);
    assert!(writer.keep(&mut batch) && !writer.recorder.is_down() && writer.has_backlog());
    writer.look_after_file(&pulse).await;
    assert!(!writer.has_backlog());
}

#[tokio::test]
async fn whoever_waits_in_vain_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let writer = passing(&folder).await;
    let waiting = asked_twice(&writer, 1);
    let mut batch = batch(&writer);
    writer.break_pledges(&mut batch);
    assert_eq!(waiting.map(told), [Some(false); 2]);
    assert_eq!(batch.queued.len(), 1, "the batch stays");
}

/// Time for a drain is over.
fn hurry(writer: &Writer) {
    writer.recorder.drain_until.set(std::time::Instant::now() - Duration::from_secs(1)).expect("it runs");
}

#[tokio::test]
async fn what_cannot_be_written_at_the_end_of_a_drain_is_dropped_and_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_guard, log) = log(folder.path());
    let mut writer = passing(&folder).await;
    let _shell = lock(&folder).await;
    writer.recorder.metrics.ledger.enter(|account| (account.seen, account.dropped) = (1, 1));
    let waiting = asked_twice(&writer, 1);
    let batch = batch(&writer);
    drop(queue(&writer, full(2)));
    hurry(&writer);
    assert!(!write(&mut writer, batch).await);
    assert_eq!(account(&writer), Account { seen: 6, dropped: 6, ..Account::default() });
    assert_eq!(waiting.map(told), [Some(false); 2]);
    assert!(log().contains("these events could not be written"), "{}", log());
}

/// Also where the archive was locked too lately for an outage.
#[tokio::test]
async fn nothing_is_dropped_at_the_end_of_a_drain_where_the_spool_takes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config { commit_wait_max: Duration::from_secs(3_600), ..config(WhenUnavailable::Spool) };
    let mut writer = writer(&folder, config).await;
    let _shell = lock(&folder).await;
    for index in [1, 2] {
        drop(queue(&writer, answer(index)));
    }
    hurry(&writer);
    let batch = batch(&writer);
    assert!(write(&mut writer, batch).await);
    assert_eq!(account(&writer), Account { seen: 2, in_flight: 2, ..Account::default() });
    assert_eq!(writer.spool.as_ref().map(|spool| spool.backlog().events), Some(2));
}

#[tokio::test]
async fn nothing_overtakes_the_spool_and_what_it_does_not_take_goes_into_the_archive_behind_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config { spool_bytes_max: 2_500, ..config(WhenUnavailable::Spool) };
    let mut writer = writer(&folder, config).await;
    let shell = lock(&folder).await;
    drop(queue(&writer, answer(1)));
    let mut first = batch(&writer);
    assert!(writer.keep(&mut first));
    drop(queue(&writer, answer(2)));
    let second = batch(&writer);
    assert!(write(&mut writer, second).await, "kept behind the first, while the archive is locked");
    assert!(writer.recorder.is_down());
    let mut large = answer(3);
    large.chats[0].events[0].raw = format!("\"{}\"", "x".repeat(2_500));
    drop(queue(&writer, large));
    let third = batch(&writer);
    shell.execute("ROLLBACK");
    tokio::time::pause();
    writer.drain_pause = Pause::default();
    let began = Instant::now();
    assert!(write(&mut writer, third).await);
    assert_eq!(began.elapsed(), Duration::ZERO, "without a pause");
    assert_eq!(
        writer.store().texts("SELECT group_concat(event_index) FROM (SELECT * FROM events ORDER BY rowid)"),
        ["1,2,3"]
    );
}

#[tokio::test(start_paused = true)]
async fn lazy_facts_are_due_twice_a_second_and_nothing_else_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = writer(&folder, Config::default()).await;
    writer.left_over.push(answer(9));
    let mut gather = async |queued: i64, is_closing: bool| {
        (0..queued).for_each(|index| drop(queue(&writer, answer(index + 1))));
        writer.recorder.closing.store(is_closing, Ordering::Release);
        let began = Instant::now();
        let batch = writer.gather().await;
        (batch.queued.len(), batch.lazy.len(), batch.whole, began.elapsed().as_millis(), writer.is_crowded)
    };
    assert_eq!(gather(1, false).await, (1, 0, false, 0, false));
    assert_eq!(gather(0, false).await, (0, 0, false, 0, false), "woken by what has been taken already");
    advance(Duration::from_millis(100)).await;
    assert_eq!(gather(0, false).await, (0, 1, true, 400, false));
    assert_eq!(gather(7, true).await, (7, 0, true, 0, false));
    assert_eq!(gather(0, true).await, (0, 0, true, 0, false));
}

#[tokio::test]
async fn eight_answers_are_a_crowd_and_more_are_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = writer(&folder, Config::default()).await;
    (1..9).for_each(|index| drop(queue(&writer, answer(index))));
    assert_eq!((writer.gather().await.queued.len(), writer.is_crowded), (8, true));
    drop(queue(&writer, answer(9)));
    let began = std::time::Instant::now();
    assert_eq!((writer.gather().await.queued.len(), writer.is_crowded), (1, false));
    assert!(began.elapsed() >= 2 * LINGER_STEP);
}

#[tokio::test]
async fn the_end_of_a_run_is_noted_once_the_lock_is_free() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_guard, log) = log(folder.path());
    let mut writer = writer(&folder, config(WhenUnavailable::Spool)).await;
    let run_id = writer.store().run_id();
    let shell = lock(&folder).await;
    assert!(!writer.gives_up_waiting());
    tokio::join!(writer.finish(), async { shell.execute("ROLLBACK") });
    let noted = format!("SELECT CAST(clean AS TEXT) FROM runs WHERE run_id = {run_id}");
    assert_eq!(shell.texts(&noted), ["1"]);
    assert!(!log().contains("the spool keeps") && !log().contains("could not be noted"), "{}", log());
}

#[tokio::test]
async fn a_stop_waits_neither_for_an_archive_that_is_down_nor_beyond_its_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_guard, log) = log(folder.path());
    let mut writer = writer(&folder, config(WhenUnavailable::Spool)).await;
    let _shell = lock(&folder).await;
    drop(queue(&writer, answer(1)));
    let mut batch = batch(&writer);
    assert!(writer.keep(&mut batch));
    writer.recorder.outages.begin(7, "locked", "by a shell");
    assert!(writer.gives_up_waiting());
    writer.finish().await;
    assert!(log().contains("the spool keeps what the archive has not"), "{}", log());
    assert!(log().contains("the end of the run could not be noted"), "{}", log());
    writer.recorder.outages.end_written();
    assert!(!writer.gives_up_waiting());
    hurry(&writer);
    assert!(writer.gives_up_waiting());
}

/// Not in a loop about what cannot be written any longer.
#[test]
fn a_stop_ends_whatever_is_left_behind_a_spool() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let folder = tempfile::tempdir().expect("a folder");
            let mut writer = writer(&folder, config(WhenUnavailable::Spool)).await;
            drop(queue(&writer, answer(1)));
            let mut kept = batch(&writer);
            assert!(writer.keep(&mut kept));
            let put_off = [2, 3].map(answer).map(|mut entry| {
                entry.chats[0].ended = None;
                entry
            });
            for entry in put_off {
                writer.store.as_mut().expect("it is open").append(&[entry], &[], false).expect("stored");
            }
            assert!(writer.has_put_off());
            writer.recorder.outages.begin(7, "locked", "by a shell");
            writer.recorder.outages.end(8);
            let _shell = lock(&folder).await;
            hurry(&writer);
            writer.recorder.closing.store(true, Ordering::Release);
            writer.run().await;
        });
        let _ = done.send(()); // nobody waits any longer
    });
    ended.recv_timeout(Duration::from_secs(20)).expect("it ends");
}

#[tokio::test]
async fn there_is_work_while_anything_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = writer(&folder, config(WhenUnavailable::Spool)).await;
    assert!(!writer.has_work());
    drop(queue(&writer, answer(1)));
    assert!(writer.has_work());
    let mut kept = batch(&writer);
    assert!(!writer.has_work());
    assert!(writer.keep(&mut kept) && writer.has_work());
    let pulse = writer.recorder.metrics.pulses.begin("writer");
    writer.drain(&pulse).await;
    assert!(!writer.has_work());
    writer.recorder.outages.begin(7, "locked", "by a shell");
    writer.recorder.outages.end(8);
    assert!(writer.has_work());
    assert!(write(&mut writer, Batch::default()).await && !writer.has_work());
    writer.left_over.push(answer(2));
    assert!(writer.has_work());
}

#[test]
fn a_batch_is_empty_where_nothing_is_in_it() {
    assert!(Batch::default().is_empty());
    assert!(!Batch { lazy: vec![answer(1)], ..Batch::default() }.is_empty());
    assert!(!Batch { queued: vec![Queued::new(answer(1), Vec::new(), None)], ..Batch::default() }.is_empty());
}

#[tokio::test]
async fn a_writer_that_is_closed_writes_all_that_is_left_and_says_that_it_has_ended() {
    let check = async |written: &[i64], queued: &[i64], outage: Option<&str>, sql: &str, expected: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = passing(&folder).await;
        for index in written {
            let mut entry = answer(*index);
            entry.chats[0].ended = None;
            drop(queue(&writer, entry));
            let batch = batch(&writer);
            assert!(write(&mut writer, batch).await);
        }
        queued.iter().for_each(|index| drop(queue(&writer, answer(*index))));
        let recorder = writer.recorder.clone();
        if let Some(reason) = outage {
            recorder.outages.begin(7, reason, "");
            recorder.outages.end(8);
        }
        recorder.closing.store(true, Ordering::Release);
        assert!(recorder.is_writing());
        writer.run().await;
        assert!(!recorder.is_writing());
        assert_eq!(passing(&folder).await.store().texts(sql), [expected]);
    };
    check(&[1, 2], &[], None, "SELECT CAST(next_position AS TEXT) FROM chats", "3").await;
    check(&[], &[1, 2, 3], None, "SELECT group_concat(event_index) FROM events", "1,2,3").await;
    check(&[], &[], Some("locked"), "SELECT reason FROM outages", "locked").await;
    check(&[], &[], None, "SELECT group_concat(clean) FROM runs", "1,0").await;
}
