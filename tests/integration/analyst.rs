//! Snapshots as analysts have them: a star whose queries give the same in SQLite and DuckDB, with dates as dates.

use std::path::Path;
use std::process::Command;

use gms_recorder::store::Store;
use rusqlite::Connection;

use crate::evidence::{a_run, options};
use crate::support::{folder, run};

/// Twelve chats, one every six hours from Monday, 3 March 2025, 9:00 UTC on: each fourth without an agent, the sixth with a
/// hole, the last without an end; an error in each third one, and one of no chat.
const ROWS: &str = "
    CREATE TEMP TABLE n AS WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 11)
        SELECT n, printf('00001aCY6K8U%04d', n) AS id, 1740992400000 + n * 21600000 AS at FROM n;
    CREATE TEMP TABLE e (i, type, party, nickname, seconds, a, text);
    INSERT INTO e VALUES (1, 'ParticipantJoined', 'Client', 'Anna', 0, 0, NULL), (2, 'Message', 'Client', 'Anna', 5, 0, 'Where is my parcel?'),
        (3, 'ParticipantJoined', 'Agent', 'Max', 10, 1, NULL), (4, 'Message', 'Agent', 'Max', 20, 1, 'On its way.'),
        (5, 'Message', 'Client', 'Anna', 60, 0, 'Thank you!'), (6, 'ParticipantLeft', 'Client', 'Anna', 120, 10, NULL);
    INSERT INTO chats SELECT id, iif(n % 2, 'sales', 'support'), at, at + 240000, iif(n = 11, NULL, at + 240000),
        iif(n = 11, NULL, 'chat_ended'), 7, 0, 6 FROM n;
    INSERT INTO events SELECT id, i, type, at + (seconds + a * n) * 1000, iif(party = 'Agent', 2, 1),
        iif(party = 'Agent' AND n > 5, 'Eva', nickname), party, text, NULL, NULL, NULL, '{}', at + 1, 'gms-1', 1
        FROM n JOIN e WHERE NOT (party = 'Agent' AND n % 4 = 3);
    INSERT INTO coverage SELECT id, 1, iif(n = 5, 4, 7), 'gms-1', 1, at FROM n;
    INSERT INTO chat_attributes (chat_id, name, value, source, observed_at, run_id)
        SELECT id, 'emailAddress', 'anna@example.com', 'request', at, 1 FROM n;
    INSERT INTO api_errors (observed_at, last_observed_at, repeats, origin, http_status, format, code, meaning, class, chat_id, node, run_id)
        SELECT at, at, 1 + n % 2, 'gms', 200, 'errors', 249, 'The Media Server was not able to execute the request', 'media_server', id, 'gms-1', 1
        FROM n WHERE n % 3 = 0;
    INSERT INTO api_errors (observed_at, last_observed_at, origin, http_status, format, class, node, run_id)
        VALUES (1740992400000, 1740992400000, 'proxy', 503, 'http', 'transport', 'gms-2', 1);
    INSERT INTO accounts SELECT 1, at / 3600000 * 3600000, at, 30, 6, 24, 0, 0, 0, 0, 0, 0, 0 FROM n";

async fn archive(database: &Path) {
    let store = Store::open(&options(database), &a_run()).await.expect("an archive");
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
    Connection::open(database).and_then(|connection| connection.execute_batch(ROWS)).expect("they fit the schema");
}

#[tokio::test]
async fn the_readme_s_queries_give_what_it_says_in_sqlite_and_duckdb() {
    let folder = folder();
    let [database, star] = ["transcripts.db", "star.db"].map(|name| folder.path().join(name));
    archive(&database).await;
    let names = [&star, &database].map(|path| path.display().to_string());
    let (code, _, error) = run(&["snapshot", &names[0], "--star", "--database", &names[1]]);
    assert_eq!(code, 0, "{error}");
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(format!("{root}/target/anchor-servers/bin/python"))
        .arg(format!("{root}/tests/integration/analyst.py"))
        .args([&names[0], &format!("{root}/README.md")])
        .output()
        .expect("tests/run installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (code, said, error) = run(&["chats", "--database", &names[0]]);
    assert!(code == 0 && said.contains("00001aCY6K8U0011"), "it is an archive still: {error}");
    // No erasure would know of the copies of texts in it.
    let (code, _, error) = run(&["restore", &names[0], "--database", &names[1]]);
    assert!(code == 1 && error.contains("the analyst's tables"), "{error}");
}

#[tokio::test]
async fn there_is_no_star_of_an_archive_of_an_earlier_release() {
    let folder = folder();
    let [database, star] = ["transcripts.db", "star.db"].map(|name| folder.path().join(name));
    archive(&database).await;
    Connection::open(&database).and_then(|connection| connection.execute_batch("DROP TABLE accounts")).expect("there");
    let names = [&star, &database].map(|path| path.display().to_string());
    let (code, _, error) = run(&["snapshot", &names[0], "--star", "--database", &names[1]]);
    assert!(code == 1 && error.contains("of an earlier release"), "{error}");
    let left = std::fs::read_dir(folder.path()).expect("ours").flatten().map(|entry| entry.file_name());
    assert!(left.into_iter().all(|name| name.to_string_lossy().starts_with("transcripts.db")));
}
