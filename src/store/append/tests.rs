use super::*;
use crate::store::{Options, Run};

fn options(folder: &tempfile::TempDir) -> Options {
    Options::plain(folder.path().join("a.db"))
}

fn answer(at: i64, index: i64, raw: &str) -> Entry {
    let chat_id = ChatId::parse("00001aCY6K8U003T").expect("valid");
    let event = TranscriptEvent::plain(index, raw);
    let covered = Covered::new(1, index + 1);
    let next_position = Some(index + 1);
    let record = ChatRecord { events: vec![event], covered, next_position, ..ChatRecord::of(chat_id) };
    Entry { at, chats: vec![record], ..Entry::default() }
}

fn of_chat(store: &Store, column: &str) -> Option<i64> {
    let sql = format!("SELECT {column} FROM chats WHERE chat_id = '00001aCY6K8U003T'");
    store.connection.query_row(&sql, (), |row| row.get(0)).expect("the chat has its row")
}

fn next_position(store: &Store) -> Option<i64> {
    of_chat(store, "next_position")
}

#[tokio::test]
async fn the_row_of_a_chat_comes_with_its_first_event_and_follows_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    store.append(&[answer(10, 1, "{}")], &[], false).expect("stored");
    assert_eq!((next_position(&store), store.has_put_off()), (Some(2), false));
    store.append(&[answer(20, 2, "{}")], &[], false).expect("stored");
    assert_eq!((next_position(&store), store.has_put_off()), (Some(2), true), "put off");
    store.append(&[], &[], true).expect("stored");
    assert_eq!((next_position(&store), store.has_put_off()), (Some(3), false), "written");

    store.append(&[answer(30, 3, "{}")], &[], false).expect("stored");
    let left = store.take_put_off();
    drop(store);
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("the same archive");
    assert_eq!(next_position(&store), Some(3));
    store.append(&left, &[], true).expect("stored");
    assert_eq!(next_position(&store), Some(4), "taken over from a store that was let go");
    assert_eq!(of_chat(&store, "highest_index"), Some(3));
}

/// What of a row of coverage was forgotten meanwhile is in the row, and so in its leaf.
#[tokio::test]
async fn coverage_is_sealed_as_it_is_whatever_is_remembered_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    let covered = |at, from, next| {
        let mut entry = answer(at, from, "{}");
        entry.chats[0].covered = Covered::new(from, next);
        entry
    };
    let answers = [covered(10, 1, 100), covered(20, 150, 160), covered(30, 1, 50), covered(40, 50, 60)];
    for (place, one) in answers.iter().enumerate() {
        store.append(std::slice::from_ref(one), &[], true).expect("stored");
        if place == 1 {
            store.memory = Memory::of(&store.connection).expect("an archive");
        }
    }
    drop(store);
    let mut snapshot = crate::store::audit::Snapshot::open(&folder.path().join("a.db")).expect("an archive");
    let found = snapshot.verify(&Default::default(), &mut |_| {}).expect("read");
    assert_eq!(found.faults.told, []);
}

#[tokio::test]
async fn the_log_is_folded_in_once_no_reader_is_in_the_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    let reader = Connection::open(folder.path().join("a.db")).expect("an archive");
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").expect("a snapshot");
    store.append(&[answer(10, 1, "{}")], &[], false).expect("a reader does not hold the writer up");
    assert!(!store.fold().expect("no trouble"));
    assert!(store.wal_bytes() > 0);
    reader.execute_batch("COMMIT").expect("it ends");
    assert!(store.fold().expect("no trouble"));
    assert_eq!(store.wal_bytes(), 0);
    store.check_still_at_path().expect("it is the same log");
}

#[tokio::test]
async fn the_file_decides_what_is_new_also_within_a_batch() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    let batch = [(1, r#"{"a":1}"#), (1, r#"{"a":1}"#), (1, r#"{ "a": 1.0 }"#), (1, r#"{"a":2}"#), (1, r#"{"a":2}"#)];
    let entries: Vec<Entry> = batch.iter().map(|(index, raw)| answer(1, *index, raw)).collect();
    let appended = store.append(&entries, &[], false).expect("stored");
    let sum = appended.tallies.iter().fold(Tally::default(), |sum, one| sum.plus(*one));
    assert_eq!(sum, Tally { new: 1, duplicate: 3, variant: 1, ..Tally::default() });
    let page_bytes: i64 = store.connection.query_row("PRAGMA page_size", (), |row| row.get(0)).expect("a pragma");
    assert_eq!(page_bytes, 8_192);
}

/// What `verify` tells of an archive.
fn faults(folder: &tempfile::TempDir) -> Vec<String> {
    let mut snapshot = crate::store::audit::Snapshot::open(&folder.path().join("a.db")).expect("an archive");
    let found = snapshot.verify(&Default::default(), &mut |_| {}).expect("read");
    found.faults.told.iter().map(ToString::to_string).collect()
}

fn finding(at: i64) -> Entry {
    let chat_id = ChatId::parse("00001aCY6K8U003T");
    let (kind, detail, raw) = (gms::FindingKind::NotJson, "no JSON".into(), b"{".to_vec());
    let finding = Finding { kind, chat_id, detail, raw_length: raw.len(), raw, events: 0, maskings: Vec::new() };
    Entry { at, findings: vec![finding], ..Entry::default() }
}

/// Somebody with SQL, beside.
fn by_hand(folder: &tempfile::TempDir, sql: &str) {
    Connection::open(folder.path().join("a.db")).and_then(|by_hand| by_hand.execute_batch(sql)).expect("sound SQL");
}

#[tokio::test]
async fn what_is_altered_by_hand_of_a_row_that_goes_on_is_put_right_and_not_sealed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    store.append(&[answer(10, 1, "{}"), finding(10)], &[], true).expect("stored");
    by_hand(
        &folder,
        "UPDATE chats SET service = 'other', highest_index = 99, ended_at = 5, ended_how = 'chat_ended';
        UPDATE coverage SET next_position = 90, at = 1; UPDATE findings SET repeats = 70, last_observed_at = 1",
    );
    assert_eq!(faults(&folder).len(), 3);
    store.append(&[answer(20, 2, "{}"), finding(20)], &[], true).expect("stored");
    let row = "SELECT concat_ws(' ', service, highest_index, ended_at, (SELECT next_position FROM coverage),
        (SELECT concat(repeats, 'x', last_observed_at) FROM findings)) FROM chats";
    assert_eq!(store.texts(row), ["2 3 2x20"]);
    assert_eq!(faults(&folder), [""; 0]);

    by_hand(&folder, "DELETE FROM chats; DELETE FROM coverage");
    store.append(&[answer(30, 3, "{}")], &[], true).expect("stored");
    assert_eq!(store.texts(row), ["3 4 2x20"]);
    assert_eq!(faults(&folder), [""; 0]);
}

#[tokio::test]
async fn a_row_that_was_altered_while_nobody_looked_is_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    store.append(&[answer(10, 1, "{}")], &[], true).expect("stored");
    store.close().expect("closed");
    by_hand(&folder, "UPDATE chats SET service = 'other'");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("the same archive");
    store.append(&[answer(20, 2, "{}")], &[], true).expect("stored");
    assert_eq!((next_position(&store), of_chat(&store, "highest_index")), (Some(2), Some(1)));
    let fault = "chats, chat_id \"00001aCY6K8U003T\": it is not as it was sealed";
    assert_eq!(faults(&folder), [fault]);

    // So it is where a value is none of its column's, whoever is to write there.
    by_hand(&folder, "UPDATE chats SET next_position = 'many'");
    store.append(&[answer(30, 3, "{}")], &[], true).expect("stored");
    store.close().expect("closed");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("the same archive");
    store.append(&[answer(40, 4, "{}")], &[], true).expect("stored");
    assert_eq!(faults(&folder), [fault]);
}

#[tokio::test]
async fn what_another_process_has_sealed_is_taken_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    let mut other = Store::open(&options(&folder), &Run::plain()).await.expect("as after an upgrade");
    store.append(&[answer(10, 1, "{}")], &[], true).expect("stored");
    let mut ended = answer(20, 2, "{}");
    (ended.chats[0].ended, ended.chats[0].service) = (Some(crate::gms::Ended::Normally), Some("sales".into()));
    other.append(&[ended], &[], true).expect("stored");
    store.append(&[answer(15, 3, "{}")], &[], true).expect("stored");
    let row =
        "SELECT concat_ws(' ', service, first_seen_at, last_seen_at, ended_at, ended_how, highest_index) FROM chats";
    assert_eq!(store.texts(row), ["sales 10 20 20 chat_ended 3"]);

    // Between its leaf and the next look of the writer.
    other.append(&[answer(700_000, 4, "{}")], &[], true).expect("stored");
    by_hand(&folder, "UPDATE chats SET service = 'other'");
    store.append(&[answer(700_001, 5, "{}")], &[], true).expect("stored");
    assert_eq!(store.texts(row), ["other 10 700000 20 chat_ended 4"]);
    assert_eq!(faults(&folder), ["chats, chat_id \"00001aCY6K8U003T\": it is not as it was sealed"]);
}

#[tokio::test]
async fn nothing_is_suppressed_by_an_erasure_that_nobody_has_sealed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    store.append(&[answer(10, 1, "{}")], &[], true).expect("stored");
    let erasure = "INSERT INTO erasures (act_id, chat_id, how, at, below, events, rows, leaves)
        VALUES (1, '00001aCY6K8U003T', 'erased', 11, 100, 0, 0, X'')";
    by_hand(&folder, erasure);
    assert!(!store.has_been_erased_from());
    let appended = store.append(&[answer(20, 2, "{}")], &[], true).expect("stored");
    assert_eq!(appended.tallies, [Tally { new: 1, ..Tally::default() }]);
    store.close().expect("closed");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("the same archive");
    let appended = store.append(&[answer(30, 3, "{}")], &[], true).expect("stored");
    assert_eq!(appended.tallies, [Tally { new: 1, ..Tally::default() }]);
    by_hand(&folder, "DELETE FROM erasures");
    assert_eq!(faults(&folder), [""; 0]);
}

#[tokio::test]
async fn how_far_a_spool_was_drained_is_believed_as_it_was_sealed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    by_hand(&folder, "INSERT INTO spools VALUES ('s', 900, 1, 1)");
    assert_eq!(store.drained_to("s").expect("read"), 0, "nobody has sealed that");
    let mark = |drained_to| Mark { spool_id: "s".into(), drained_to, at: 10 };
    store.append_marked(&[answer(10, 1, "{}")], &[], true, Some(&mark(300))).expect("stored");
    by_hand(&folder, "UPDATE spools SET drained_to = 900");
    assert_eq!(store.drained_to("s").expect("read"), 300);
    store.close().expect("closed");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("the same archive");
    assert_eq!(store.drained_to("s").expect("read"), 0);
    store.append_marked(&[answer(20, 2, "{}")], &[], true, Some(&mark(400))).expect("stored");
    assert_eq!(store.drained_to("s").expect("read"), 400);
    assert_eq!(faults(&folder), [""; 0]);
    store.close().expect("closed");
    let store = Store::open(&options(&folder), &Run::plain()).await.expect("the same archive");
    assert_eq!(store.drained_to("s").expect("read"), 400);
}

#[tokio::test]
async fn who_made_the_archive_is_not_sealed_anew_with_each_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    store.close().expect("closed");
    by_hand(&folder, "UPDATE archive SET created_at = 0");
    let store = Store::open(&options(&folder), &Run::plain()).await.expect("the same archive");
    assert_eq!(faults(&folder), ["archive, id 1: it is not as it was sealed"]);
    drop(store);
}

#[tokio::test]
async fn whatever_somebody_puts_into_a_row_recording_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let changed = |at| [answer(at, 1, "{\"a\":1}"), answer(at, 2, "{}"), finding(at)];
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    store.append(&[answer(10, 1, "{}"), answer(10, 1, "{\"a\":2}"), finding(10)], &[], true).expect("stored");
    store.close().expect("closed");
    for value in ["'many'", "X'ff00'", "1.5", "-9223372036854775808", "9223372036854775807", "NULL"] {
        for (table, column) in [
            ("events", "raw"),
            ("event_variants", "raw"),
            ("variant_keys", "key"),
            ("chats", "first_seen_at"),
            ("chats", "highest_index"),
            ("chats", "ended_how"),
            ("coverage", "next_position"),
            ("coverage", "run_id"),
            ("findings", "repeats"),
            ("findings", "last_observed_at"),
            ("spools", "drained_to"),
            ("accounts", "seen"),
            ("erasures", "below"),
        ] {
            by_hand(&folder, "INSERT OR IGNORE INTO spools VALUES ('s', 900, 1, 1)");
            let by_hand = Connection::open(folder.path().join("a.db")).expect("an archive");
            by_hand.execute_batch("PRAGMA ignore_check_constraints = ON").expect("a pragma");
            // What the table does not take nobody can put there.
            let was_put = by_hand.execute(&format!("UPDATE {table} SET {column} = {value}"), ()).is_ok();
            drop(by_hand);
            let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("the same archive");
            let what = format!("{table}.{column} = {value}: {was_put}");
            let _ = store.drained_to("s").expect(&what);
            let mark = Mark { spool_id: "s".into(), drained_to: 300, at: 20 };
            store.tell_account(20, &Default::default(), true);
            store.append_marked(&changed(20), &[], true, Some(&mark)).expect(&what);
            store.append(&changed(30), &[], true).expect(&what);
            store.close().expect("closed");
        }
    }
}

#[tokio::test]
async fn what_was_held_against_another_file_covers_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    store.distrust_before(20);
    store.append(&[answer(19, 7, "{}")], &[], true).expect("stored");
    let covered = "SELECT concat(from_position, '-', next_position) FROM coverage";
    assert_eq!((store.texts(covered), of_chat(&store, "highest_index")), (Vec::new(), Some(7)));
    store.append(&[answer(20, 8, "{}")], &[], true).expect("stored");
    assert_eq!(store.texts(covered), ["1-9"]);
}

/// By hand, at an index to come, or moved there from another one.
#[tokio::test]
async fn an_event_that_nobody_has_recorded_gives_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    let mut other = Store::open(&options(&folder), &Run::plain()).await.expect("as after an upgrade");
    store.append(&[answer(10, 1, "{}")], &[], true).expect("stored");
    by_hand(
        &folder,
        "INSERT INTO events (chat_id, event_index, raw, recorded_at, run_id) VALUES ('00001aCY6K8U003T', 2, '{\"a\":1}', 1, 1);
        CREATE UNIQUE INDEX u ON event_variants (chat_id)",
    );
    let appended = store.append(&[answer(20, 2, "{}")], &[], true).expect("stored");
    by_hand(&folder, "DROP INDEX u");
    assert_eq!(appended.tallies, [Tally { new: 1, ..Tally::default() }]);
    assert_eq!(faults(&folder), [""; 0]);
    let told = "SELECT concat(kind, ' ', chat_id, ' ', detail) FROM findings ORDER BY id";
    let forged = "altered 00001aCY6K8U003T event_index 2: an event was there that was not recorded: what the node delivered has taken its place";
    let index = "altered  index u: gms-recorder makes none such on its tables: rows are found by it, or refused";
    assert_eq!(store.texts(told), [forged, index]);

    // What another process has recorded meanwhile is there.
    other.append(&[answer(30, 5, "{}")], &[], false).expect("stored");
    let appended = store.append(&[answer(31, 5, "{}"), answer(32, 4, "{}"), answer(33, 4, "{}")], &[], true);
    let sum = appended.expect("stored").tallies.iter().fold(Tally::default(), |sum, one| sum.plus(*one));
    assert_eq!(sum, Tally { new: 1, duplicate: 2, ..Tally::default() });
    store.close().expect("closed");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("the same archive");
    let appended = store.append(&[answer(41, 5, "{}"), answer(42, 4, "{\"a\":2}")], &[], true).expect("stored");
    let sum = appended.tallies.iter().fold(Tally::default(), |sum, one| sum.plus(*one));
    assert_eq!(sum, Tally { duplicate: 1, variant: 1, ..Tally::default() });
    assert_eq!(faults(&folder), [""; 0]);
}

#[tokio::test]
async fn a_row_that_was_altered_at_the_start_goes_on_once_it_is_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    store.append(&[answer(10, 1, "{}")], &[], true).expect("stored");
    store.close().expect("closed");
    by_hand(&folder, "UPDATE chats SET is_async = 1; INSERT INTO runs (instance, version, started_at, deliver, when_unavailable, settings,
        config_hash, sealing) VALUES ('i', '0', 1, 'd', 'w', '{}', 'h', 'pending')");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("the same archive");
    by_hand(&folder, "DELETE FROM runs WHERE sealing = 'pending'");
    let mut ended = answer(20, 2, "{}");
    ended.chats[0].ended = Some(crate::gms::Ended::Normally);
    store.append(&[ended], &[], true).expect("stored");
    store.append(&[], &[], true).expect("stored");
    assert_eq!((next_position(&store), store.has_put_off()), (Some(2), false), "a stop does not wait for it");
    by_hand(&folder, "UPDATE chats SET is_async = 0");
    store.append(&[], &[], true).expect("stored");
    assert_eq!((next_position(&store), of_chat(&store, "ended_at")), (Some(3), Some(20)));
    store.append(&[answer(30, 3, "{}")], &[], true).expect("stored");
    assert_eq!(next_position(&store), Some(4), "and from then on");
    let told = ["00001aCY6K8U003T the row of the chat is not as it was sealed"];
    assert_eq!(store.texts("SELECT concat(chat_id, ' ', detail) FROM findings WHERE kind = 'altered'"), told);
    assert_eq!(faults(&folder), [""; 0]);
}

#[tokio::test]
async fn packs_that_are_none_of_ours_do_not_misplace_the_tree() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("a new archive");
    store.append(&[answer(10, 1, "{}")], &[], true).expect("stored");
    store.close().expect("closed");
    let packs = "INSERT INTO seals (first_leaf, leaves, refs, seed, hashes) VALUES (-1, 1, X'', X'', X''),
        (9000000000000000000, 1, X'', X'', X'')";
    by_hand(&folder, &format!("{packs}; UPDATE tree SET size = 'many'"));
    let mut store = Store::open(&options(&folder), &Run::plain()).await.expect("the same archive");
    store.append(&[answer(20, 2, "{}")], &[], true).expect("stored");
    by_hand(&folder, "DELETE FROM seals WHERE first_leaf NOT BETWEEN 0 AND 1000000");
    assert_eq!(faults(&folder), [""; 0]);
}
