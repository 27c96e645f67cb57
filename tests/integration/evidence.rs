//! The evidence: whatever is written is sealed, whatever was changed is found, and nothing else is ever reported.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gms_recorder::archive::note::{PublicKey, Signer};
use gms_recorder::archive::verify::{Answer, Question, verify};
use gms_recorder::chat::{ChatId, Covered, EventIndex, Party, TranscriptEvent};
use gms_recorder::gms::mask::Masks;
use gms_recorder::simulator::{Config, Simulator};
use gms_recorder::store::custody::Custody;
use gms_recorder::store::seal::FORMS;
use gms_recorder::store::{ChatRecord, Entry, Options, Run, Store};
use http::{Request, StatusCode};
use http_body_util::Full;
use rusqlite::types::Value;
use rusqlite::{Connection, params};
use rustix::process::{Signal, kill_process};

use crate::faults::Mount;
use crate::spool::lock;
use crate::support::{
    self, Archive, Chat, Client, Origin, Server, count, eventually, folder, get, json_answer, run, send_raw,
};
use crate::upgrade::upgrade;
use crate::{backups, deliveries, removal};

fn answer(database: &Path, anchors: &[&Path]) -> Answer {
    let question = Question {
        anchors: anchors.iter().map(|path| path.to_path_buf()).collect(),
        keys: Vec::new(),
        ..Question::default()
    };
    verify(database, &question, &mut |_, _| {}).unwrap_or_else(|error| panic!("{}: {error}", database.display()))
}

fn faults(answer: &Answer) -> String {
    answer.all_faults().map(|fault| format!("{fault}\n")).collect()
}

/// It passes, and says so.
#[track_caller]
pub fn sound(database: &Path) -> Answer {
    let answer = answer(database, &[]);
    assert_eq!(faults(&answer), "", "{}", database.display());
    answer
}

/// The same, and nothing in it was written without being sealed at once.
#[track_caller]
pub fn sealed(database: &Path) -> Answer {
    let answer = sound(database);
    assert_eq!((answer.found.unsealed, answer.found.sealed_later), (0, None));
    answer
}

pub fn options(path: &Path) -> Options {
    Options {
        path: path.into(),
        create: true,
        file_mode: 0o600,
        quiet_after: Duration::from_secs(3_600),
        async_quiet_after: Duration::from_secs(3_600),
        masks: Masks::default(),
    }
}

pub fn a_run() -> Run {
    Run {
        instance: "i".into(),
        started_at: 1_795_400_000_000,
        deliver: "after_commit",
        when_unavailable: "pass",
        settings: "{}".into(),
        config_hash: "h".into(),
        resumes: None,
    }
}

/// Answers of chats with three events each.
pub fn entries(from: u64, events: u64) -> Vec<Entry> {
    let event = |chat: u64, n: u64| {
        let text = format!("message {n} of chat {chat}: where is my parcel? It should have been here on Monday.");
        TranscriptEvent {
            index: EventIndex::new(n as i64 + 1).expect("from 1 on"),
            kind: Some("Message".into()),
            utc_time: Some(1_795_400_000_000 + n as i64),
            from: Party { participant_id: Some(1), nickname: Some("Anna".into()), party_type: Some("Client".into()) },
            text: Some(text.as_str().into()),
            message_type: None,
            user_data: None,
            event_attributes: None,
            raw: format!(
                r#"{{"from":{{"nickname":"Anna","participantId":1,"type":"Client"}},"index":{},"text":"{text}","type":"Message","utcTime":1795400000000}}"#,
                n + 1
            ),
            maskings: Vec::new(),
        }
    };
    let entry = |at: u64| {
        let (chat, n) = (at / 30, at % 30);
        let chat_id = ChatId::parse(&format!("chat{chat:012}")).expect("a sound one");
        let events = (n..n + 3).map(|n| event(chat, n)).collect();
        let covered = Covered::new(n as i64 + 1, n as i64 + 4);
        let record = ChatRecord { events, covered, next_position: Some(n as i64 + 4), ..ChatRecord::of(chat_id) };
        let at = 1_795_400_000_000 + at as i64 * 100;
        Entry { at, node: Some("gms-1".into()), chats: vec![record], ..Entry::default() }
    };
    (from..from + events).step_by(3).map(entry).collect()
}

/// Writes so many events more, in batches like the writer's.
pub async fn fill(database: &Path, events: u64) {
    let mut store = Store::open(&options(database), &a_run()).await.expect("an archive");
    for from in (0..events).step_by(300) {
        store.append(&entries(from, 300.min(events - from)), &[], from % 900 == 0).expect("stored");
    }
    store.append(&[], &[], true).expect("stored");
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
}

const PATH: &str = "/genesys/2/chat/customer-support/0001aCY6K8U003T/refresh";

fn page(text: &str) -> String {
    format!(
        r#"{{"messages":[{{"from":{{"nickname":"Max","participantId":2,"type":"Agent"}},"index":1,"text":"{text}","type":"Message","utcTime":1}}],"chatEnded":false,"statusCode":0,"chatId":"0001aCY6K8U003T","nextPosition":2}}"#
    )
}

/// An archive of a run in which everything happened: chats, errors, folded ones, variants, findings, maskings, a file, an
/// outage, a hold, chats that were erased and one that waits for it, a delivery.
pub async fn busy(folder: &Path) -> PathBuf {
    let simulator = Simulator::start(Config::nodes(2)).await.expect("free ports");
    let mut server = Server::start(folder, &simulator.addresses(), "[recording]\nwhen_unavailable = \"spool\"\n");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna&emailAddress=anna@example.com").await;
    for n in 0..20 {
        chat.insist(&mut client, "send", &format!("message=m{n}&transcriptPosition=1")).await;
    }
    for _ in 0..3 {
        chat.act(&mut client, "updateNickname", "").await.expect("an answer"); // an error, which folds
    }
    chat.insist(&mut client, "send", "message=4111+1111+1111+1111&transcriptPosition=1").await;
    upload(&chat, &mut client).await;
    let erased = Chat::open(&mut client, "nickname=Eve").await;
    erased.insist(&mut client, "send", "message=forget+me&transcriptPosition=1").await;
    let mut shell = lock(&server.database).await;
    for n in 0..5 {
        let reply = chat.act(&mut client, "send", &format!("message=during{n}&transcriptPosition=1")).await;
        assert_eq!(reply.expect("an answer").status, StatusCode::OK);
    }
    sqlx::query("ROLLBACK").execute(&mut shell).await.expect("it is ours");
    drop(shell);
    eventually("the outage's row", async || {
        let rows = Archive::open(&server.database).await.rows("SELECT id FROM outages").await;
        (!rows.is_empty()).then_some(())
    })
    .await;
    chat.insist(&mut client, "disconnect", "").await;
    chat.insist(&mut client, "refresh", "transcriptPosition=1").await;
    assert!(server.stop().success());
    simulator.stop().await;
    for text in ["one", "other"] {
        let origin = Origin::canned(json_answer(&page(text)));
        let mut server = Server::start(folder, &[origin.address], "");
        Client::new(server.address).post(PATH, "transcriptPosition=1").await.expect("an answer");
        assert!(server.stop().success());
    }
    removal::acts(&folder.join("transcripts.db"), &chat.id, &erased.id);
    let other = folder.join("other.db");
    fill(&other, 30).await;
    backups::merged(&other, &folder.join("transcripts.db"));
    deliveries::brought(folder, &folder.join("transcripts.db"));
    for _ in 0..2 {
        let origin = Origin::canned(json_answer("{ no JSON"));
        let mut server = Server::start(folder, &[origin.address], "");
        Client::new(server.address).post(PATH, "transcriptPosition=1").await.expect("an answer");
        assert!(server.stop().success());
    }
    folder.join("transcripts.db")
}

async fn upload(chat: &Chat, client: &mut Client) {
    let part =
        |name: &str, value: &str| format!("--XX\r\nContent-Disposition: form-data; name={name}\r\n\r\n{value}\r\n");
    let parts =
        [part("\"secureKey\"", &chat.key), part("\"file\"; filename=\"a.txt\"", "content"), "--XX--\r\n".into()];
    let upload = Request::post(format!("/genesys/2/chat/customer-support/{}/file", chat.id))
        .header("host", "gms.example.com")
        .header("content-type", "multipart/form-data; boundary=XX")
        .body(Full::new(parts.concat().into()));
    let answer = client.send(upload.expect("a sound request")).await.expect("an answer");
    assert_eq!(answer.json()["statusCode"], 0, "{}", answer.json());
}

/// A statement of an insider.
#[track_caller]
fn alter(database: &Path, sql: &str) {
    let connection = Connection::open(database).expect("an archive");
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn copy(database: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join("altered.db");
    let _ = std::fs::remove_file(&copy);
    std::fs::copy(database, &copy).expect("there is room");
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_happens_is_sealed_and_whatever_an_insider_does_is_found() {
    let folder = folder();
    let database = busy(folder.path()).await;
    let answer = sealed(&database);
    assert!(
        answer.checkpoints >= 5 && answer.last.is_some_and(|last| last.size == answer.found.leaves),
        "at each stop"
    );
    let connection = Connection::open(&database).expect("an archive");
    let mut rows = 0;
    for form in FORMS.iter().filter(|form| form.whole().is_none()) {
        let sql = format!("SELECT count(*) FROM {}", form.table);
        let count: i64 = connection.query_row(&sql, (), |row| row.get(0)).expect("a table");
        assert!(count > 0, "the run has brought nothing into {}", form.table);
        rows += count as u64;
    }
    assert_eq!(answer.found.rows, rows);
    drop(connection);
    assert_eq!((answer.found.removals, answer.found.is_unclean), ((1, 1), false));

    let other = "(SELECT chat_id FROM chats ORDER BY chat_id LIMIT 1)";
    for (sql, subject) in [
        ("UPDATE events SET text = 'no' WHERE event_index = 3", "events, chat_id"),
        ("UPDATE events SET text = text || ' ' WHERE event_index = 3", "events, chat_id"),
        ("UPDATE events SET node = NULL WHERE event_index = 3", "events, chat_id"),
        ("UPDATE events SET utc_time = CAST(utc_time AS REAL) + 0.5 WHERE event_index = 3", "events, chat_id"),
        ("DELETE FROM events WHERE event_index = 3", "it was sealed, and is gone"),
        ("DELETE FROM event_variants", "event_variants, chat_id"),
        ("UPDATE events SET event_index = event_index + 1000 WHERE event_index = 3", "it was sealed, and is gone"),
        // Two contents change places.
        (
            "UPDATE events SET raw = (SELECT raw FROM events o WHERE o.chat_id = events.chat_id AND o.event_index = 7 - events.event_index)
             WHERE event_index IN (3, 4) AND chat_id = (SELECT chat_id FROM events GROUP BY 1 ORDER BY count(*) DESC LIMIT 1)",
            "events, chat_id",
        ),
        ("INSERT INTO events (chat_id, event_index, raw, recorded_at, run_id) VALUES ('x', 1, '{}', 1, 1)", "never sealed"),
        ("INSERT INTO events SELECT chat_id, 999, type, utc_time, participant_id, nickname, party_type, text, message_type,
            user_data, event_attributes, raw, recorded_at, node, run_id FROM events LIMIT 1", "never sealed"),
        ("INSERT INTO coverage SELECT chat_id, 500, 600, node, run_id, at FROM coverage LIMIT 1", "coverage, chat_id"),
        ("UPDATE coverage SET next_position = next_position + 1", "coverage, chat_id"),
        ("DELETE FROM coverage", "coverage, chat_id"),
        ("UPDATE chats SET ended_at = NULL", "chats, chat_id"),
        ("UPDATE chats SET service = 'sales'", "chats, chat_id"),
        ("UPDATE chats SET last_seen_at = last_seen_at - 86400000", "chats, chat_id"),
        ("UPDATE chat_attributes SET value = 'eve@example.com' WHERE name = 'emailAddress'", "chat_attributes, id"),
        ("DELETE FROM api_errors", "api_errors, id"),
        ("UPDATE api_errors SET repeats = 1", "api_errors, id"),
        ("UPDATE findings SET raw = X'00'", "findings, id"),
        ("DELETE FROM outages", "outages, id"),
        ("UPDATE outages SET dropped = 0, events = 0", "outages, id"),
        ("UPDATE runs SET ledger = '{}'", "runs, run_id"),
        ("UPDATE runs SET sealing = 'nobody'", "runs, run_id"),
        ("UPDATE archive SET quiet_after_ms = 1", "archive, id"),
        ("UPDATE spools SET drained_to = 0", "spools, spool_id"),
        ("UPDATE keys SET at = 0", "keys, id"),
        ("UPDATE acts SET reason = 'no reason' WHERE kind = 'erase'", "acts, id"),
        ("DELETE FROM acts WHERE kind = 'hold'", "acts, id"),
        ("UPDATE holds SET released_at = NULL", "holds, id"),
        ("DELETE FROM holds", "holds, id"),
        ("UPDATE erasures SET at = at - 1", "erasures, id"),
        ("UPDATE erasures SET leaves = X''", "no act says by whom"),
        ("UPDATE erasures SET leaves = X'01010101'", "its salt is there still"),
        ("DELETE FROM erasures", "no act says by whom"),
        ("DELETE FROM waiting_erasures", "waiting_erasures, id"),
        ("UPDATE merges SET runs = '[]'", "merges, id"),
        ("DELETE FROM merges", "merges, id"),
        // A run that is said not to have sealed excuses only what it can have touched.
        (
            "INSERT INTO runs (run_id, instance, version, started_at, deliver, when_unavailable, settings, config_hash, sealing)
                VALUES (99, 'i', '0', 4000000000000, 'd', 'w', '{}', 'h', 'nobody'); UPDATE chats SET service = 'sales'",
            "chats, chat_id",
        ),
        // Somebody erases without saying so.
        (
            "UPDATE seals SET salts = X'', seed = zeroblob(32) WHERE first_leaf = 0",
            "its own leaf does not fit",
        ),
        ("UPDATE seals SET salts = X'' WHERE salts IS NOT NULL", "no act says by whom"),
        // The evidence itself.
        ("DELETE FROM seals WHERE first_leaf = (SELECT max(first_leaf) FROM seals)", "tree"),
        ("DELETE FROM seals WHERE first_leaf = (SELECT max(first_leaf) FROM seals WHERE first_leaf < 20)", "packs were deleted"),
        ("UPDATE seals SET first_leaf = -first_leaf - 1", "packs were deleted"),
        ("UPDATE seals SET refs = X'01'", "its own leaf does not fit"),
        ("UPDATE seals SET sealed_later_at = 1", "its own leaf does not fit"),
        ("UPDATE seals SET seed = randomblob(16)", "its own leaf does not fit"),
        ("UPDATE seals SET seed = X''", "do not go together"),
        ("UPDATE seals SET hashes = zeroblob(length(hashes))", "its own leaf does not fit"),
        ("UPDATE tree SET roots = zeroblob(length(roots))", "tree"),
        ("DELETE FROM tree", "tree"),
        ("UPDATE checkpoints SET note = replace(note, 'number', 'Number')", "checkpoint 1"),
        ("UPDATE checkpoints SET at = at + 1", "checkpoint 1"),
        ("DELETE FROM checkpoints WHERE number = 2", "checkpoints were deleted"),
        ("DELETE FROM keys", "no key that is known has signed it"),
        ("UPDATE sealed_forms SET columns = 'chat_id' WHERE tbl = 'events'", "sealed_forms, form 1"),
        // What shows something else than there is.
        ("CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events; END", "trigger t"),
        ("DROP VIEW transcript; CREATE VIEW transcript AS SELECT 'all is well' AS text", "view transcript"),
        ("DROP VIEW error_audit", "view error_audit"),
        // Rows that hide behind others: a column that has the rowid's name, a longer key.
        (
            "INSERT INTO chat_attributes (id, chat_id, name, value, source, observed_at, run_id)
                SELECT 0, chat_id, name, 'forged@example.com', source, observed_at, run_id FROM chat_attributes WHERE id = 1;
             ALTER TABLE chat_attributes ADD COLUMN rowid INTEGER AS (CASE id WHEN 0 THEN 1 ELSE id END) VIRTUAL",
            "table chat_attributes: a column of it has the name of the rowid",
        ),
        (
            "CREATE TABLE c (chat_id TEXT NOT NULL, from_position INTEGER NOT NULL, next_position INTEGER NOT NULL, node TEXT NOT NULL,
                run_id INTEGER NOT NULL, at INTEGER NOT NULL,
                PRIMARY KEY (chat_id, from_position, run_id, node, next_position)) WITHOUT ROWID;
             INSERT INTO c SELECT chat_id, from_position, next_position, node, run_id, at FROM coverage;
             INSERT INTO c SELECT chat_id, from_position, next_position + 10, node, run_id, at FROM coverage;
             PRAGMA legacy_alter_table = ON; DROP TABLE coverage; ALTER TABLE c RENAME TO coverage;
             INSERT INTO _sqlx_migrations VALUES (999, 'newer', '2026-01-01', 1, X'00', 0)",
            "table coverage: its key is another one",
        ),
        ("ALTER TABLE events ADD COLUMN extra TEXT", "table events: it is not as gms-recorder makes it"),
        (
            "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events; END; PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET type = 'TRIGGER' WHERE type = 'trigger'",
            "TRIGGER t: gms-recorder makes none",
        ),
        ("CREATE INDEX zz ON events (text)", "index zz: gms-recorder makes none such"),
        ("DELETE FROM _sqlx_migrations WHERE version = 4", "_sqlx_migrations, version 4: it is gone"),
        ("INSERT INTO _sqlx_migrations VALUES (-1, 'older', '2026-01-01', 1, X'00', 0)", "_sqlx_migrations, version -1"),
        ("UPDATE holds SET released_at = 1, released_by = 999", "no act has done that"),
        ("UPDATE waiting_erasures SET done_by = 999", "no act has done that"),
        ("UPDATE erasures SET chat_id = NULL", "says it of another chat, or of none"),
        (
            "INSERT INTO runs (run_id, instance, version, started_at, deliver, when_unavailable, settings, config_hash, sealing)
                VALUES (0, 'i', '0', 0, 'd', 'w', '{}', 'h', 'nobody'); UPDATE findings SET detail = 'nothing'",
            "runs, run_id 0: no run has such a number",
        ),
        ("CREATE VIRTUAL TABLE pragma_table_xinfo USING fts5(name)", "table pragma_table_xinfo: gms-recorder makes none such"),
        (
            "CREATE TABLE x (pgno INTEGER, data BLOB, schema); PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET name = 'sqlite_dbpage', tbl_name = 'sqlite_dbpage', sql = replace(sql, 'x', 'sqlite_dbpage') WHERE name = 'x'",
            "table sqlite_dbpage: gms-recorder makes none such",
        ),
        ("DELETE FROM _sqlx_migrations", "_sqlx_migrations, version 1: it is gone"),
        ("DELETE FROM _sqlx_migrations WHERE version > 10", "_sqlx_migrations, version 11: it is gone"),
        (
            "CREATE TABLE x AS SELECT * FROM transcript; DROP VIEW transcript; ALTER TABLE x RENAME TO transcript",
            "table transcript: it is not as gms-recorder makes it",
        ),
        ("INSERT INTO merged_rows VALUES ('other', 9, 77, 1, 0)", "it says that a merge has brought run 1, and none has"),
        (
            "INSERT INTO _sqlx_migrations VALUES (999, 'newer', '2026-01-01', 1, X'00', 0);
             INSERT INTO runs (instance, version, started_at, deliver, when_unavailable, settings, config_hash, sealing)
                VALUES ('i', '999.0.0', 4000000000000, 'd', 'w', '{}', 'h', 'nobody')",
            "_sqlx_migrations, version 999: only a newer release",
        ),
        ("DROP INDEX maskings_by_chat", "index maskings_by_chat: it was dropped"),
        ("UPDATE chats SET last_seen_at = last_seen_at || ' forged'", "its last_seen_at is no number"),
        // A run that is said to have begun long before does not excuse what was sealed since.
        (
            "INSERT INTO runs (run_id, instance, version, started_at, deliver, when_unavailable, settings, config_hash, sealing)
                VALUES (99, 'i', '0', 0, 'd', 'w', '{}', 'h', 'nobody'); UPDATE findings SET detail = 'nothing'",
            "runs, run_id 99: it is said to have begun before",
        ),
    ] {
        let altered = copy(&database, folder.path());
        alter(&altered, sql);
        let found = faults(&self::answer(&altered, &[]));
        assert!(found.contains(subject), "{sql}\nfound: {found}");
        let (code, said, error) = run(&["verify", "--database", &altered.display().to_string()]);
        assert_eq!(code, 1, "{said}{error}");
        assert!(said.starts_with("NOT AS IT WAS SEALED\n"), "{said}");
    }
    let chat: String = Connection::open(&database)
        .and_then(|archive| archive.query_row("SELECT chat_id FROM events", (), |row| row.get(0)))
        .expect("it has events");
    for table in ["events", "findings", "maskings", "file_transfers", "checkpoints", "seals", "keys", "archive"] {
        let altered = copy(&database, folder.path());
        alter(&altered, &format!("DROP TABLE {table}"));
        let altered = altered.display().to_string();
        for command in [&["verify"][..], &["prove", &chat]] {
            let (code, said, error) = run(&[command, &["--database", &altered]].concat());
            // Named among the faults where the rest can still be looked at, else instead of them.
            let told = [
                format!("the table {table} is missing, and this archive had one"),
                format!("table {table}: it was dropped"),
            ];
            let is_told = told.iter().any(|told| said.contains(told) || error.contains(told));
            assert!(code == 1 && is_told, "{table}, {command:?}: {said}{error}");
            assert!(format!("{said}{error}").contains("NOT AS IT WAS SEALED"), "{said}{error}");
        }
    }
    // Somebody says that views are a newer release's, and none has ever run here.
    let altered = copy(&database, folder.path());
    let newer = "INSERT INTO _sqlx_migrations VALUES (999, 'newer', '2026-01-01', 1, X'00', 0)";
    alter(&altered, &format!("{newer}; DROP VIEW transcript; CREATE VIEW transcript AS SELECT 'all is well' AS text"));
    let found = faults(&self::answer(&altered, &[]));
    assert!(found.contains("_sqlx_migrations, version 999") && found.contains("view transcript"), "{found}");
    // What SQLite would write into it when it is opened next.
    let altered = copy(&database, folder.path());
    let journal = PathBuf::from(format!("{}-journal", altered.display()));
    std::fs::write(&journal, "pages").expect("the folder is ours");
    assert!(faults(&self::answer(&altered, &[])).contains("a rollback journal lies beside it"));
    std::fs::remove_file(&journal).expect("it is there");
    // What is no change is none.
    for sql in ["VACUUM", "UPDATE events SET text = text", "REINDEX", "ANALYZE", &format!("SELECT {other}")] {
        let altered = copy(&database, folder.path());
        let _ = Connection::open(&altered).expect("an archive").execute_batch(sql);
        sealed(&altered);
    }
    let snapshot = folder.path().join("snapshot.db");
    let (code, _, error) =
        run(&["snapshot", &snapshot.display().to_string(), "--database", &database.display().to_string()]);
    assert_eq!(code, 0, "{error}");
    sealed(&snapshot);
    let (code, said, _) = run(&["verify", "--database", &snapshot.display().to_string()]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.starts_with("everything recorded is as it was sealed\n") && said.contains("no outside anchor"),
        "{said}"
    );
}

/// An insider who has no key lets the recorder itself seal what was changed, as if a release without seals had written it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_never_changes_is_sealed_once() {
    for (altered, run, wanted) in [
        ("UPDATE events SET text = 'forged' WHERE event_index = 3", "1", &["events, chat_id"][..]),
        // A run without events: of rows that change, what of them never does.
        (
            "UPDATE findings SET detail = 'forged'",
            "(SELECT max(run_id) FROM runs)",
            &["findings, id 1", "runs, run_id"],
        ),
    ] {
        let folder = folder();
        let database = busy(folder.path()).await;
        alter(&database, &format!("{altered}; UPDATE runs SET sealing = 'nobody' WHERE run_id = {run}"));
        let mut server = Server::start(folder.path(), &[crate::support::free_address()], "");
        eventually("sealed anew", async || {
            (Archive::open(&database).await.value("SELECT count(*) FROM runs WHERE sealing = 'later'").await != "0")
                .then_some(())
        })
        .await;
        assert!(server.stop().success());
        let answer = answer(&database, &[]);
        let mut told: Vec<&str> = answer.all_faults().map(|fault| fault.subject.as_str()).collect();
        told.dedup();
        for subject in wanted {
            assert!(told.iter().any(|told| told.starts_with(subject)), "{altered}: {subject}\n{}", faults(&answer));
        }
        assert!(faults(&answer).contains("sealed a second time"), "{}", faults(&answer));
    }
}

/// An error that is repeated is sealed anew, and stays the error that it was.
#[tokio::test]
async fn an_error_that_is_repeated_is_still_the_one_that_was_recorded() {
    for (altered, is_found) in [("SELECT 1", false), ("UPDATE api_errors SET detail = 'another'", true)] {
        let folder = folder();
        let database = folder.path().join("a.db");
        let mut store = Store::open(&options(&database), &a_run()).await.expect("an archive");
        let again = crate::deliveries::error(None, "out of order");
        store.append(std::slice::from_ref(&again), &[], true).expect("stored");
        alter(&database, altered);
        store.append(&[again], &[], true).expect("stored");
        store.finish(1_795_500_000_000, "{}").expect("noted");
        store.close().expect("closed");
        let repeats = Archive::open(&database).await.value("SELECT CAST(repeats AS TEXT) FROM api_errors").await;
        assert_eq!(repeats, "2");
        let found = faults(&answer(&database, &[]));
        assert_eq!(found.contains("api_errors, id 1: it is not as it was sealed"), is_found, "{altered}: {found}");
        assert_eq!(found.is_empty(), !is_found, "{altered}: {found}");
    }
}

/// A run goes on where the file is opened anew, if it is that file, and has it.
#[tokio::test]
async fn a_run_that_is_not_in_the_file_is_not_gone_on_with() {
    let folder = folder();
    let database = folder.path().join("a.db");
    let store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    let first = Run { resumes: Some(store.resumable()), ..a_run() };
    store.close().expect("closed");
    let store = Store::open(&options(&database), &first).await.expect("an archive");
    assert_eq!(store.run_id(), 1);
    store.close().expect("closed");
    let store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    let second = Run { resumes: Some(store.resumable()), ..a_run() };
    store.close().expect("closed");
    let store = Store::open(&options(&database), &Run { started_at: 7, ..second.clone() }).await.expect("an archive");
    assert_eq!(store.run_id(), 3, "it began at another time");
    store.close().expect("closed");
    let (copy, kept) = (folder.path().join("b.db"), folder.path().join("kept.db"));
    std::fs::copy(&database, &copy).expect("the folder is ours");
    std::fs::rename(&database, kept).and_then(|()| std::fs::rename(&copy, &database)).expect("the folder is ours");
    let store = Store::open(&options(&database), &second).await.expect("an archive");
    assert_eq!(store.run_id(), 4, "it is another file");
    store.close().expect("closed");
    sealed(&database);
}

/// Somebody's trigger, which is gone when somebody looks.
#[tokio::test]
async fn no_trigger_changes_what_is_recorded() {
    let folder = folder();
    let database = folder.path().join("a.db");
    let mut store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    alter(
        &database,
        "CREATE TRIGGER t AFTER INSERT ON api_errors BEGIN UPDATE api_errors SET detail = 'nothing' WHERE id = new.id; END",
    );
    store.append(&[crate::deliveries::error(None, "out of order")], &[], true).expect("stored");
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
    assert_eq!(Archive::open(&database).await.value("SELECT detail FROM api_errors").await, "out of order");
    assert!(faults(&answer(&database, &[])).contains("trigger t: gms-recorder makes none"));
    alter(&database, "DROP TRIGGER t");
    sealed(&database);
}

/// SQLite would take a key from its index, and not from the row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_read_from_the_row_itself() {
    const PAGE_BYTES: usize = 8_192;
    const TABLE_LEAF: u8 = 0x0d; // sqlite.org/fileformat2.html, section 1.6
    let folder = folder();
    let database = busy(folder.path()).await;
    let chat_id =
        Archive::open(&database).await.value("SELECT chat_id FROM events ORDER BY event_index DESC LIMIT 1").await;
    let bytes = std::fs::read(&database).expect("an archive");
    let mut altered_pages = 0;
    for (page, content) in bytes.chunks(PAGE_BYTES).enumerate().filter(|(_, content)| content[0] == TABLE_LEAF) {
        let Some(at) = memchr::memmem::find(content, chat_id.as_bytes()) else { continue };
        let mut altered = bytes.clone();
        altered[page * PAGE_BYTES + at] ^= 1;
        let path = folder.path().join("altered.db");
        std::fs::write(&path, altered).expect("there is room");
        let found = verify(&path, &Question::default(), &mut |_, _| {}).map_or(1, |answer| answer.fault_count());
        assert!(found > 0, "page {page}, byte {at}");
        altered_pages += 1;
    }
    assert!(altered_pages > 2, "{altered_pages} pages have the chat's id");
}

/// xorshift64*
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    seed.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

/// A byte of a value, changed. None where it has none.
fn flipped(value: &Value, least_byte: usize, seed: &mut u64) -> Option<Value> {
    let bit = 1_u8 << (random(seed) % 8);
    let mut place = |length: usize| random(seed) as usize % length;
    Some(match value {
        Value::Integer(number) => {
            let byte = least_byte + place(6 - least_byte);
            Value::Integer(number ^ (i64::from(bit) << (8 * byte)))
        }
        Value::Text(text) if !text.is_empty() => {
            let mut bytes = text.clone().into_bytes();
            let at = place(bytes.len());
            bytes[at] ^= bit;
            Value::Blob(bytes)
        }
        Value::Blob(bytes) if !bytes.is_empty() => {
            let mut bytes = bytes.clone();
            let at = place(bytes.len());
            bytes[at] ^= bit;
            Value::Blob(bytes)
        }
        _ => return None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_byte_that_was_flipped_anywhere_is_found() {
    let folder = folder();
    let database = busy(folder.path()).await;
    fill(&database, count("TEST_FLIP_EVENTS", 900) as u64).await;
    sealed(&database);
    let connection = Connection::open(&database).expect("an archive");
    let tables = FORMS.iter().map(|form| form.table).chain(["seals", "tree", "checkpoints", "sealed_forms"]);
    let mut columns: Vec<(String, String)> = Vec::new();
    for table in tables {
        let mut select = connection.prepare("SELECT name FROM pragma_table_info(?)").expect("sound SQL");
        let names = select.query_map([table], |row| row.get::<_, String>(0)).expect("a table");
        columns.extend(names.map(|name| (table.to_owned(), name.expect("a name"))));
    }
    let mut seed = std::process::id() as u64 | 1 << 40;
    println!("seed {seed}");
    let (wanted, mut done) = (count("TEST_FLIPS", 40), 0);
    for _ in 0..100 * wanted {
        if done == wanted {
            break;
        }
        let (table, column) = &columns[random(&mut seed) as usize % columns.len()];
        let rowid = if table == "coverage" { "json_array(chat_id, from_position, run_id, node)" } else { "rowid" };
        let sql = format!("SELECT {rowid}, \"{column}\" FROM {table} WHERE \"{column}\" IS NOT NULL");
        let rows: Vec<(Value, Value)> = connection
            .prepare(&sql)
            .and_then(|mut select| select.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .expect("rows");
        if rows.is_empty() {
            continue;
        }
        let (row, before) = &rows[random(&mut seed) as usize % rows.len()];
        // Of last_seen_at the five minutes are sealed.
        let least_byte = if column == "last_seen_at" { 3 } else { 0 };
        let Some(after) = flipped(before, least_byte, &mut seed) else { continue };
        let is_text = matches!(before, Value::Text(_));
        let new = if is_text { "CAST(?1 AS TEXT)" } else { "?1" };
        let update = format!("UPDATE {table} SET \"{column}\" = {new} WHERE {rowid} = ?2");
        let altered = copy(&database, folder.path());
        let insider = Connection::open(&altered).expect("an archive");
        match insider.execute(&update, params![after, row]) {
            Ok(changed) => assert_eq!(changed, 1, "{update} {row:?}"),
            Err(_) => continue, // a constraint forbids it
        }
        drop(insider);
        let found = verify(&altered, &Question::default(), &mut |_, _| {});
        let is_found = found.as_ref().map_or(true, |answer| answer.fault_count() > 0);
        assert!(is_found, "{table}.{column} of {row:?}: {before:?} became {after:?}");
        done += 1;
    }
    assert_eq!(done, wanted);
    println!("{done} flips, all found");
}

/// Against an anchor, what the archive itself cannot show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_shows_a_file_that_was_rolled_back_or_swapped_or_cut() {
    let (simulator, folder, elsewhere) =
        (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder(), folder());
    let anchor = elsewhere.path().join("checkpoints");
    let settings = format!("[evidence]\ncheckpoint_interval = \"100ms\"\nanchor_file = {anchor:?}\n");
    let mut server = Server::start(folder.path(), &simulator.addresses(), &settings);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    chat.insist(&mut client, "send", "message=one").await;
    assert!(server.stop().success());
    let early = folder.path().join("early.db");
    std::fs::copy(&server.database, &early).expect("there is room");
    let in_time = self::answer(&server.database, &[&anchor]);
    assert_eq!(faults(&in_time), "");
    assert!(in_time.anchored > 0 && in_time.last_anchored == in_time.last, "the last one is at the stop");
    // Without a note it is a wrong path, and says nothing of the archive.
    for path in [&server.config, &folder.path().join("no-notes")] {
        std::fs::create_dir_all(folder.path().join("no-notes")).expect("the folder is ours");
        let arguments = ["verify", "--anchor", &path.display().to_string(), "--database"];
        let (code, said, error) = run(&[&arguments[..], &[&early.display().to_string()]].concat());
        assert!(code == 2 && said.is_empty() && error.contains("no notes in it"), "{code} {said}{error}");
    }

    server.start_again();
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    chat.insist(&mut client, "send", "message=two").await;
    // While it is written to.
    for _ in 0..5 {
        chat.insist(&mut client, "send", "message=more").await;
        assert_eq!(faults(&self::answer(&server.database, &[&anchor])), "");
    }
    assert!(server.stop().success());
    assert_eq!(faults(&self::answer(&server.database, &[&anchor])), "");

    assert!(sound(&server.database).warnings.is_empty());
    for (which, warning) in [
        ("WHERE number = (SELECT max(number) FROM checkpoints)", "no checkpoint covers it"),
        ("", "no checkpoint that holds"),
    ] {
        let altered = copy(&server.database, folder.path());
        alter(&altered, &format!("DELETE FROM checkpoints {which}"));
        let warnings = sound(&altered).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(warning), "{warnings:?}");
        let found = faults(&self::answer(&altered, &[&anchor]));
        assert!(found.contains("checkpoints were taken away"), "{found}");
    }

    sound(&early);
    let found = faults(&self::answer(&early, &[&anchor]));
    assert!(found.contains("was cut or rolled back"), "{found}");
    // Somebody who has the key goes on from there with something else.
    let mut fork = Server::start_with_database(
        folder.path(),
        &early,
        &simulator.addresses(),
        &format!("[evidence]\nkey_file = {:?}\n", folder.path().join("transcripts.db.key")),
    );
    let mut client = Client::new(fork.address);
    let chat = Chat::open(&mut client, "nickname=Eve").await;
    for n in 0..30 {
        chat.insist(&mut client, "send", &format!("message=e{n}")).await;
    }
    assert!(fork.stop().success());
    sound(&early);
    let found = faults(&self::answer(&early, &[&anchor]));
    assert!(found.contains("leaves are not those that it signs"), "{found}");
    // Or makes everything anew, without what he does not like.
    let anew = folder.path().join("anew.db");
    let mut other = Server::start_with_database(folder.path(), &anew, &simulator.addresses(), "");
    assert!(other.stop().success());
    sound(&anew);
    let found = faults(&self::answer(&anew, &[&anchor]));
    assert!(found.contains("one of the two files was swapped"), "{found}");
    // A note of it that was changed.
    let text = std::fs::read_to_string(&anchor).expect("it is there");
    std::fs::write(&anchor, text.replacen("number 1\n", "number 9\n", 1)).expect("the folder is ours");
    assert!(faults(&self::answer(&server.database, &[&anchor])).contains("its signature is wrong"));
    simulator.stop().await;
}

/// An anchor that is down holds nothing up, is reported, and gets everything later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_that_is_down_is_told_and_made_up_for() {
    let (simulator, folder, elsewhere) =
        (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder(), folder());
    let anchor = elsewhere.path().join("mnt/checkpoints");
    let settings = format!("[evidence]\ncheckpoint_interval = \"100ms\"\nanchor_file = {anchor:?}\n");
    let mut server = Server::start(folder.path(), &simulator.addresses(), &settings);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    chat.insist(&mut client, "send", "message=one").await;
    let words = async || get(server.admin, "/ready").await.expect("it runs");
    eventually("it is told", async || {
        words().await.1.contains("the anchor anchor_file takes no checkpoints").then_some(())
    })
    .await;
    assert_eq!(words().await.0, StatusCode::OK);
    assert_eq!(server.metric("gms_recorder_anchor_up{").await, Some(0.0));
    std::fs::create_dir(elsewhere.path().join("mnt")).expect("the folder is ours");
    eventually("it is well again", async || (server.metric("gms_recorder_anchor_up{").await? == 1.0).then_some(()))
        .await;
    assert!(server.stop().success());
    let answer = self::answer(&server.database, &[&anchor]);
    assert_eq!(faults(&answer), "");
    assert!(answer.anchored > 2, "those that waited, too");
    simulator.stop().await;
}

/// The key is made once. Without it recording goes on, and nothing is signed with another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_missing_is_told_and_never_made_anew() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let settings = "[evidence]\ncheckpoint_interval = \"50ms\"\n";
    let mut server = Server::start(folder.path(), &simulator.addresses(), settings);
    eventually("signed", async || (server.metric("gms_recorder_checkpoints_total ").await? > 1.0).then_some(())).await;
    assert!(server.stop().success());
    let key = folder.path().join("transcripts.db.key");
    let kept = std::fs::read(&key).expect("it is made with the archive");
    std::fs::remove_file(&key).expect("it is ours");
    server.start_again();
    eventually("it is missed", async || (server.metric("gms_recorder_checkpoints_up ").await? == 0.0).then_some(()))
        .await;
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    chat.insist(&mut client, "send", "message=one").await;
    let (status, words) = get(server.admin, "/ready").await.expect("it runs");
    assert!(
        status == StatusCode::OK && words.contains("no checkpoints are signed") && words.contains("put it back"),
        "{words}"
    );
    let (code, said, _) = run(&["check", "--config", &server.config.display().to_string()]);
    assert!(said.contains("it is not made anew"), "{code} {said}");
    assert!(!key.exists());
    assert!(sound(&server.database).last.is_some_and(|last| last.size < sound(&server.database).found.leaves));
    std::fs::write(&key, kept).expect("the folder is ours");
    eventually("signed again", async || (server.metric("gms_recorder_checkpoints_up ").await? == 1.0).then_some(()))
        .await;
    assert!(server.stop().success());
    let answer = sealed(&server.database);
    assert_eq!(answer.last.map(|last| last.size), Some(answer.found.leaves));
    simulator.stop().await;
}

/// While it runs; whoever had the first key believes the next one, and what the former key signs after that is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_changed_while_it_runs_and_the_former_one_counts_no_longer() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let mut server =
        Server::start(folder.path(), &simulator.addresses(), "[evidence]\ncheckpoint_interval = \"50ms\"\n");
    let signed = async || server.metric("gms_recorder_checkpoints_total ").await;
    eventually("signed", async || (signed().await? > 1.0).then_some(())).await;
    let config = server.config.display().to_string();
    let (code, first, error) = run(&["key", "list", "--utc", "--config", &config]);
    assert_eq!(code, 0, "{error}");
    let number = |vkey: &str| vkey.split('+').nth(1).expect("it has one").to_owned();
    assert!(error.starts_with(&format!("{}  signs now, since 2", number(&first))), "{error}");
    let given = folder.path().join("given");
    std::fs::write(&given, &first).expect("the folder is ours");
    let key_file = folder.path().join("transcripts.db.key");
    let former = std::fs::read(&key_file).expect("it is there");
    // As where root does it for the user of `serve`; in a namespace of our own there is nobody else.
    let _ = std::os::unix::fs::chown(&key_file, None, Some(65_534));
    std::fs::remove_file(folder.path().join("transcripts.db.key-lock")).expect("nobody rotates");
    let owner = |path: &Path| std::fs::metadata(path).map(|found| (found.uid(), found.gid())).expect("it is there");
    let wanted = owner(&key_file);
    for n in 0..2 {
        let (code, keys, error) = run(&["key", "rotate", "--config", &config]);
        assert_eq!((code, keys.lines().count()), (0, n + 2), "{error}");
        assert!(keys.starts_with(&first), "{keys}");
        let told: Vec<(String, bool)> =
            error.lines().map(|line| (line[..8].to_owned(), line.contains("  signs now, since "))).collect();
        let last = keys.lines().count() - 1;
        let wanted = keys.lines().enumerate().map(|(at, key)| (number(key), at == last));
        assert_eq!(told, wanted.collect::<Vec<_>>(), "{error}");
        let before = signed().await.expect("it runs");
        eventually("signed with it", async || (signed().await? > before + 1.0).then_some(())).await;
        let log = server.log();
        let mut told = log.lines().filter(|line| line.contains("checkpoints are signed with another key from here on"));
        let key = keys.lines().last().expect("a key");
        assert!(told.clone().count() == n + 1 && told.all(|line| line.contains("\"INFO\"")), "{log}");
        assert_eq!(log.lines().filter(|line| line.contains(key)).count(), 1, "{log}");
    }
    let files =
        std::fs::read_dir(folder.path()).expect("the folder is ours").map(|found| found.expect("a file").path());
    let keys: Vec<PathBuf> = files.filter(|file| file.to_string_lossy().contains("transcripts.db.key")).collect();
    // Three keys, and the lock of their rotations.
    assert!(keys.len() == 4 && keys.iter().all(|key| owner(key) == wanted), "{keys:?}");
    assert!(!server.log().contains("no checkpoints are signed"));
    assert!(server.stop().success());
    let answer = sealed(&server.database);
    assert_eq!(answer.last.map(|last| last.size), Some(answer.found.leaves));
    let arguments = ["verify", "--key", &given.display().to_string(), "--config", &config];
    let (code, said, error) = run(&arguments);
    assert_eq!(code, 0, "{said}{error}");
    // By the key that was given out on the first day, or by any later one; not by one of another archive.
    let proof = folder.path().join("proof.json");
    let (code, proved, error) = run(&["prove", "--act", "1", "--config", &config]);
    assert_eq!(code, 0, "{error}");
    std::fs::write(&proof, &proved).expect("the folder is ours");
    assert_eq!(prove_py(&proof, &given), (true, prove_py(&proof, &given).1));
    let stranger = folder.path().join("stranger");
    let other = Signer::of(first.split('+').next().expect("a name"), &[7; 32]).expect("a key").public().vkey();
    std::fs::write(&stranger, other).expect("the folder is ours");
    let (is_proved, told) = prove_py(&proof, &stranger);
    assert!(!is_proved && told.contains("no key of the file"), "{told}");
    let forged = proved.replace("next key ", "next  key ");
    std::fs::write(&proof, forged).expect("the folder is ours");
    assert!(!prove_py(&proof, &given).0);
    let connection = Connection::open(&server.database).expect("an archive");
    let archive_id: String =
        connection.query_row("SELECT archive_id FROM archive", (), |row| row.get(0)).expect("it has one");
    drop(connection);
    let named = format!("{}, {archive_id}", server.database.display());
    assert!(said.lines().any(|line| line.trim_start().starts_with("archive ") && line.ends_with(&named)), "{said}");
    // What it took is no result: it comes last.
    assert!(said.lines().last().is_some_and(|line| line.ends_with(" leaves a second")), "{said}");
    let (_, said, error) = run(&[&arguments[..], &["--format", "json"]].concat());
    let told: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{error}"));
    assert_eq!((&told["archive"], &told["archive_id"]), (&server.database.to_str().into(), &archive_id.into()));

    // Somebody who got hold of the former key, and takes the later ones out of the archive's present.
    let altered = copy(&server.database, folder.path());
    alter(&altered, "UPDATE keys SET statement = replace(statement, 'next', 'Next') WHERE id = 2");
    let found = faults(&self::answer(&altered, &[]));
    assert!(found.contains("has not signed that it follows"), "{found}");
    let text = String::from_utf8(former).expect("a text");
    let thief = Signer::parse(&text).expect("a key");
    let checkpoint = self::answer(&server.database, &[]).last.expect("it is signed");
    let note = thief.sign(&checkpoint);
    let altered = copy(&server.database, folder.path());
    let connection = Connection::open(&altered).expect("an archive");
    let update = "UPDATE checkpoints SET note = ? WHERE number = (SELECT max(number) FROM checkpoints)";
    connection.execute(update, [note]).expect("it is there");
    drop(connection);
    let found = faults(&self::answer(&altered, &[]));
    assert!(found.contains("signed with a key that had been replaced"), "{found}");
    simulator.stop().await;
}

/// However many do it at once, beside a `serve` that takes each: every key lies in a file, and the one before vouches for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_changed_at_once_are_changed_one_after_the_other() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let settings = "[evidence]\ncheckpoint_interval = \"5ms\"\n";
    let mut server = Server::start(folder.path(), &simulator.addresses(), settings);
    let signed = async || server.metric("gms_recorder_checkpoints_total ").await;
    eventually("signed", async || (signed().await? > 1.0).then_some(())).await;
    let config = server.config.display().to_string();
    for _ in 0..4 {
        let rotate = || {
            let config = config.clone();
            tokio::task::spawn_blocking(move || run(&["key", "rotate", "--config", &config]))
        };
        for rotated in [rotate(), rotate(), rotate()] {
            let (code, said, error) = rotated.await.expect("no panic");
            assert_eq!(code, 0, "{said}{error}");
        }
    }
    let (code, said, error) = run(&["key", "list", "--config", &config]);
    let keys: Vec<PublicKey> = said.lines().filter_map(PublicKey::parse).collect();
    assert_eq!((code, keys.len()), (0, 13), "{error}");
    let key_file = folder.path().join("transcripts.db.key");
    let read = |path: &Path| Signer::parse(&std::fs::read_to_string(path).ok()?);
    for (n, key) in keys.iter().enumerate() {
        let aside = folder.path().join(format!("transcripts.db.key.{}", key.id_in_hex()));
        let signer = read(if n == 12 { &key_file } else { &aside });
        assert_eq!(signer.as_ref().map(Signer::public), Some(key), "of key {n}");
    }
    assert!(server.stop().success());
    assert!(!server.log().contains("no checkpoints are signed"));
    sealed(&server.database);
    // The word of a key that is none of the present counts for nothing.
    let custody = Custody::open(&server.database).expect("an archive");
    let is_added = custody.add_key(&keys[11].vkey(), "another", 1, "its statement").expect("it can be written");
    assert_eq!((is_added, custody.keys().expect("they can be read").len()), (false, 13));
    custody.close().expect("closed");
    sealed(&server.database);
    simulator.stop().await;
}

/// Whatever was done to the evidence: recording goes on, and it stays visible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_evidence_keeps_nobody_from_recording_and_is_never_made_good() {
    let folder = folder();
    let sound = folder.path().join("transcripts.db");
    fill(&sound, 90).await;
    for (sql, is_seen) in [
        ("DELETE FROM tree", false), // it is the packs' own sum
        ("UPDATE tree SET size = size - 1", false),
        ("UPDATE tree SET size = 3, roots = zeroblob(64)", false),
        ("DELETE FROM seals WHERE first_leaf = (SELECT max(first_leaf) FROM seals)", true),
        ("DELETE FROM seals WHERE first_leaf = (SELECT max(first_leaf) FROM seals WHERE first_leaf < 30)", true),
        ("DELETE FROM seals", true),
        ("UPDATE seals SET hashes = X'00'", true),
    ] {
        let altered = copy(&sound, folder.path());
        alter(&altered, sql);
        fill(&altered, 120).await;
        let answer = self::answer(&altered, &[]);
        assert_eq!(answer.fault_count() > 0, is_seen, "{sql}\n{}", faults(&answer));
    }
}

/// What an older release writes is told apart from what somebody inserts, and sealed by the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_release_without_seals_writes_is_sealed_later() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let mut server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    chat.insist(&mut client, "send", "message=one").await;
    assert!(server.stop().success());
    // As the release before seals ran on this schema: 2,500 events, a chat and a finding that were there before.
    alter(
        &server.database,
        &format!(
            "INSERT INTO runs (instance, version, started_at, deliver, when_unavailable, settings, config_hash)
                 VALUES ('i', '0.1.0', strftime('%s', 'now') * 1000, 'after_commit', 'pass', '{{}}', 'h');
             WITH RECURSIVE n(n) AS (SELECT 100 UNION ALL SELECT n + 1 FROM n WHERE n < 2599)
             INSERT INTO events (chat_id, event_index, raw, recorded_at, run_id)
                 SELECT '{id}', n, '{{}}', 1795400000000, (SELECT max(run_id) FROM runs) FROM n;
             INSERT INTO coverage SELECT '{id}', 100, 2600, 'gms-1', max(run_id), 1795400000000 FROM runs;
             UPDATE chats SET next_position = 2600, highest_index = 2599 WHERE chat_id = '{id}';",
            id = chat.id
        ),
    );
    let answer = sound(&server.database);
    assert_eq!(answer.found.unsealed, 2_500 + 1 + 1 + 1, "events, coverage, the chat, the run");
    let (code, said, _) = run(&["verify", "--database", &server.database.display().to_string()]);
    assert!(code == 0 && said.contains("2503 rows not sealed: a release without seals"), "{said}");
    assert!(said.starts_with("NOT EVERYTHING IS SEALED"), "{said}");

    // Killed in the midst of it, and again.
    for _ in 0..3 {
        server.start_again();
        server.kill();
        sound(&server.database);
    }
    server.start_again();
    let settled = "SELECT group_concat(DISTINCT sealing) FROM runs WHERE sealing != 'itself'";
    eventually("sealed", async || {
        (Archive::open(&server.database).await.value(settled).await == "later").then_some(())
    })
    .await;
    assert!(server.stop().success());
    let answer = sound(&server.database);
    assert_eq!(answer.found.unsealed, 0);
    let (leaves, first, last) = answer.found.sealed_later.expect("it was");
    assert!(leaves >= 2_503 && first <= last && first > 1_795_400_000_000, "{leaves} {first} {last}");
    assert!(server.log().contains("what a release without seals has written is sealed now"));
    // From now on a change of it is one.
    alter(&server.database, "UPDATE events SET raw = '{ }' WHERE event_index = 700");
    assert!(faults(&self::answer(&server.database, &[])).contains("event_index 700: it is not as it was sealed"));
    simulator.stop().await;
}

/// What ended without saying so may write still, as long as the process does that an upgrade has replaced: and no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_seals_what_has_no_end_once_its_predecessor_has_ended() {
    let (folder, is_answered) = (folder(), Arc::new(AtomicBool::new(false)));
    let answers = is_answered.clone();
    let is_held = |request: &[u8]| request.starts_with(b"GET /held ");
    let node = Origin::start(move |request| {
        while is_held(request) && !answers.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        support::Answer { bytes: json_answer("{}"), close: false }
    });
    let settings = "[evidence]\ncheckpoint_interval = \"1h\"\n";
    let mut server = Server::start_copy(folder.path(), &[node.address], settings);
    let signed = async || server.metric("gms_recorder_checkpoints_total ").await;
    eventually("signed, and nothing else is due for an hour", async || (signed().await? == 1.0).then_some(())).await;
    alter(
        &server.database,
        "INSERT INTO runs (instance, version, started_at, deliver, when_unavailable, settings, config_hash)
             VALUES ('former', '0.1.0', 1795400000000, 'after_commit', 'pass', '{}', 'h')",
    );
    let address = server.address;
    let held = tokio::task::spawn_blocking(move || {
        send_raw(address, b"GET /held HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    });
    let received = || node.requests.lock().expect("no panic holds it").iter().any(|request| is_held(request));
    eventually("it keeps the predecessor up", async || received().then_some(())).await;
    let config = std::fs::read_to_string(&server.config).expect("it is there");
    std::fs::write(&server.config, config.replace("\"1h\"", "\"50ms\"")).expect("the folder is ours");
    let successor = upgrade(&server).await;
    eventually("the successor signs", async || (signed().await? > 3.0).then_some(())).await;
    let sealing = "SELECT sealing FROM runs WHERE instance = 'former'";
    assert_eq!(Archive::open(&server.database).await.value(sealing).await, "nobody");
    is_answered.store(true, Ordering::Relaxed);
    assert!(held.await.expect("no panic").starts_with(b"HTTP/1.1 200"));
    assert!(server.child().wait().expect("it is our child").success());
    eventually("sealed", async || {
        (Archive::open(&server.database).await.value(sealing).await == "later").then_some(())
    })
    .await;
    let custody = Custody::open(&server.database).expect("an archive");
    custody.check_all_is_sealed().expect("nothing keeps anybody from erasing");
    custody.close().expect("closed");
    kill_process(successor, Signal::TERM).expect("it runs");
    eventually("it ends", async || (!support::runs(successor, &server.program)).then_some(())).await;
    sound(&server.database);
}

/// Whenever it is killed, and whenever there is no room: rows and seals go together, and a checkpoint is there or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_and_a_full_disk_in_the_midst_of_it_leave_nothing_half_sealed() {
    let (simulator, mount) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), Mount::new(8192));
    let (folder, elsewhere) = (folder(), folder());
    let database = mount.0.path().join("transcripts.db");
    let (key, anchor) = (folder.path().join("key"), elsewhere.path().join("checkpoints"));
    let settings = format!(
        "[recording]\nreserve = \"0B\"\n[evidence]\ncheckpoint_interval = \"5ms\"\nkey_file = {key:?}\nanchor_file = {anchor:?}\n"
    );
    let mut server = Server::start_with_database(folder.path(), &database, &simulator.addresses(), &settings);
    for round in 0..count("TEST_SEALED_KILLS", 6) {
        let mut client = Client::new(server.address);
        let chat = Chat::open(&mut client, "nickname=Anna").await;
        for n in 0..20 {
            if round % 2 == 1 && n == 5 {
                mount.fill();
            }
            let _ = chat.act(&mut client, "send", &format!("message=m{n}&transcriptPosition=1")).await;
        }
        server.kill();
        if round % 2 == 1 {
            mount.free();
        }
        let answer = self::answer(&database, &[&anchor]);
        assert_eq!(faults(&answer), "", "round {round}");
        assert!(answer.checkpoints > round as u64 && answer.anchored > 0, "round {round}");
        server.start_again();
    }
    assert!(server.stop().success());
    sealed(&database);
    simulator.stop().await;
}

/// The script knows nothing of this program.
pub fn prove_py(proof: &Path, key: &Path) -> (bool, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/prove.py");
    let output = Command::new("/usr/bin/python3").arg(script).arg(proof).arg(key).output();
    let output = output.expect("tests/run installs python3");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

/// It has to know which name belongs to which value: only values are hashed.
#[test]
fn the_script_knows_the_columns() {
    let script = include_str!("prove.py");
    let flat: String = script.split("\"\n        \"").collect();
    for form in FORMS.iter().filter(|form| form.whole().is_none()) {
        let known = flat.contains(&format!("\"{}\": \"{}\",", form.table, form.columns.join(",")));
        let is_of_whole_archive =
            ["outages", "runs", "archive", "spools", "keys", "merges", "stagings", "deliveries", "accounts"]
                .contains(&form.table);
        assert!(known || is_of_whole_archive, "{}", form.table);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_convinces_a_program_in_another_language_and_no_byte_of_it_may_change() {
    let folder = folder();
    let database = busy(folder.path()).await;
    fill(&database, 900).await;
    // The chat with the variant, and one that is only in the last checkpoint's tree.
    let connection = Connection::open(&database).expect("an archive");
    let vkey: String = connection.query_row("SELECT vkey FROM keys", (), |row| row.get(0)).expect("a key");
    let signed: String = connection
        .query_row("SELECT chat_id FROM events GROUP BY 1 ORDER BY count(*) DESC LIMIT 1", (), |row| row.get(0))
        .expect("a chat");
    drop(connection);
    let (key, proof) = (folder.path().join("vkey"), folder.path().join("proof.json"));
    std::fs::write(&key, vkey).expect("the folder is ours");
    let database = database.display().to_string();
    let (code, _, error) = run(&["prove", "chat000000000001", "--database", &database]);
    assert!(code == 1 && error.contains("rows is signed yet"), "{error}");
    for chat in ["0001aCY6K8U003T", &signed] {
        let (code, said, error) = run(&["prove", chat, "--database", &database]);
        assert_eq!(code, 0, "{error}");
        std::fs::write(&proof, &said).expect("the folder is ours");
        let (is_proved, told) = prove_py(&proof, &key);
        assert!(is_proved, "{told}");
        assert!(told.contains(&format!("rows of {chat} are among the")), "{told}");
        let document: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        let rows = document["rows"].as_array().expect("a list");
        for (what, change) in changes(rows) {
            let mut changed = document.clone();
            change(&mut changed);
            std::fs::write(&proof, changed.to_string()).expect("the folder is ours");
            let (is_proved, told) = prove_py(&proof, &key);
            assert!(!is_proved && told.contains("NOT PROVED"), "{what}: {told}");
        }
        // Which rows were sealed later no hash of the proof tells, and nobody says that it is proved.
        for (at, said) in [(serde_json::json!(1_795_439_368_001_i64), 1), (serde_json::Value::Null, 0)] {
            let mut changed = document.clone();
            changed["rows"][0]["sealed_later_at"] = at;
            std::fs::write(&proof, changed.to_string()).expect("the folder is ours");
            let told = prove_py(&proof, &key);
            let wanted = format!("not proved, only said: {said} rows were sealed later");
            assert!(told.0 && told.1.contains(&wanted), "{}", told.1);
        }
    }
    let (code, _, error) = run(&["prove", "nobody", "--database", &database]);
    assert!(code == 1 && error.contains("there is no chat nobody in"), "{error}");
}

type Change = Box<dyn Fn(&mut serde_json::Value)>;

/// One flipped bit in each kind of thing that a proof has.
fn changes(rows: &[serde_json::Value]) -> Vec<(&'static str, Change)> {
    let event = rows.iter().position(|row| row["table"] == "events").expect("an event");
    let flip = |text: &str, at: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] ^= 1;
        String::from_utf8(bytes).expect("ASCII")
    };
    vec![
        (
            "content",
            Box::new(move |proof| {
                let raw = &mut proof["rows"][event]["fields"][11][2];
                *raw = flip(raw.as_str().expect("raw"), 5).into();
            }),
        ),
        (
            "number",
            Box::new(move |proof| {
                let index = &mut proof["rows"][event]["fields"][1][2];
                *index = (index.as_i64().expect("an index") ^ 4).into();
            }),
        ),
        (
            "names",
            Box::new(move |proof| {
                let fields = &mut proof["rows"][event]["fields"];
                let (one, other) = (fields[5][0].clone(), fields[7][0].clone());
                (fields[5][0], fields[7][0]) = (other, one);
            }),
        ),
        (
            "twice",
            Box::new(move |proof| {
                let row = proof["rows"][event].clone();
                proof["rows"].as_array_mut().expect("a list").push(row);
            }),
        ),
        (
            "salt",
            Box::new(move |proof| {
                let salt = &mut proof["rows"][event]["salt"];
                *salt = flip(salt.as_str().expect("a salt"), 3).into();
            }),
        ),
        (
            "leaf",
            Box::new(move |proof| {
                let leaf = &mut proof["rows"][event]["leaf"];
                *leaf = (leaf.as_i64().expect("a leaf") ^ 1).into();
            }),
        ),
        (
            "path",
            Box::new(move |proof| {
                let sibling = &mut proof["rows"][event]["path"][1];
                *sibling = flip(sibling.as_str().expect("a hash"), 3).into();
            }),
        ),
        (
            "note",
            Box::new(|proof| {
                let note = &mut proof["checkpoint"];
                *note = note.as_str().expect("a note").replacen("number ", "number 1", 1).into();
            }),
        ),
    ]
}

/// Prints its figures; `tests/full` has a million events, and `cargo test --release` shows the rate that counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_archive_is_verified_in_one_pass() {
    let (folder, events) = (folder(), count("TEST_SEALED_EVENTS", 30_000) as u64);
    let database = folder.path().join("transcripts.db");
    fill(&database, events).await;
    let began = Instant::now();
    let answer = sealed(&database);
    let (seconds, bytes) = (began.elapsed().as_secs_f64(), std::fs::metadata(&database).expect("it is there").len());
    assert!(answer.found.rows >= events);
    let leaves = answer.found.leaves;
    let connection = Connection::open(&database).expect("an archive");
    let sql = "SELECT sum(length(refs) + length(seed) + length(hashes)) FROM seals";
    let proof_bytes: i64 = connection.query_row(sql, (), |row| row.get(0)).expect("packs");
    println!(
        "verify: {events} events, {leaves} leaves, {} MiB in {seconds:.2} s: {:.0} events/s, {:.0} MiB/s; proofs {:.0} bytes an event",
        bytes >> 20,
        events as f64 / seconds,
        bytes as f64 / seconds / f64::from(1 << 20),
        proof_bytes as f64 / events as f64
    );
}
