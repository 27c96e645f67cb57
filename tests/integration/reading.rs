//! The commands and the contract of tables, as their users meet them: through the program, on an archive that `serve` made.

use gms_recorder::simulator::{Chance, Config, Faults, Simulator};
use serde_json::Value;

use crate::support::{Archive, Chat, Client, Server, eventually, folder, run};

/// A server that has recorded one chat with an error in it; the chat's id.
async fn recorded(folder: &std::path::Path) -> (Server, String) {
    let simulator = Simulator::start(Config { seed: 7, ..Config::nodes(1) }).await.expect("free ports");
    let server = Server::start(folder, &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna&emailAddress=anna%40example.com&subject=Order").await;
    chat.insist(&mut client, "send", "message=Hello+there&transcriptPosition=1").await;
    simulator.replace_faults(Faults { media_server: Chance::ALWAYS, ..Faults::default() });
    chat.act(&mut client, "send", "message=lost&transcriptPosition=1").await.expect("an answer");
    simulator.replace_faults(Faults::default());
    chat.insist(&mut client, "send", "message=%1B%5B31mred%E2%80%AE&transcriptPosition=1").await;
    chat.insist(&mut client, "disconnect", "").await;
    chat.insist(&mut client, "refresh", "transcriptPosition=1").await;
    eventually("the lazy facts", async || {
        let status = format!("SELECT status FROM completeness WHERE chat_id = '{}'", chat.id);
        let status = Archive::open(&server.database).await.value(&status).await;
        (status == "complete").then_some(())
    })
    .await;
    simulator.stop().await;
    (server, chat.id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reading_command_reads_a_live_archive() {
    let folder = folder();
    let (server, chat) = recorded(folder.path()).await;
    let database = server.database.to_str().expect("a plain path");
    let read = |arguments: &[&str]| {
        let all: Vec<&str> = arguments.iter().copied().chain(["--database", database]).collect();
        let (code, out, err) = run(&all);
        assert_eq!(code, 0, "{arguments:?}: {err}");
        out
    };
    let out = read(&["transcript", &chat, "--errors"]);
    assert!(
        out.contains("Anna") && out.contains("Hello there") && out.contains("complete") && out.contains("249"),
        "{out}"
    );
    assert!(!out.contains('\u{1b}') && !out.contains('\u{202e}'), "customer text drives the terminal: {out:?}");
    let out = read(&["chats", "--who", "anna@example.com", "--format", "json"]);
    let row: Value = serde_json::from_str(out.trim()).expect("one object a line");
    assert_eq!(row["chat_id"], chat.as_str());
    let out = read(&["errors", "--since", "1h", "--who", "anna@example.com"]);
    assert!(out.contains("249") && out.contains("search 10016629 in the GMS log of node gms-1"), "{out}");
    assert!(read(&["errors", "--format", "csv"]).lines().count() >= 2);
    assert!(read(&["holes"]).starts_with("no holes"));
    let out = read(&["sql", "SELECT count(*) AS n FROM events WHERE type = 'Message'", "--format", "json"]);
    assert!(serde_json::from_str::<Value>(out.trim()).expect("JSON")["n"].as_i64().is_some_and(|n| n >= 3), "{out}");
    let copy = folder.path().join("copy.db");
    read(&["snapshot", copy.to_str().expect("a plain path")]);
    let mut copied = Archive::open(&copy).await;
    assert_eq!(copied.value("PRAGMA integrity_check").await, "ok");
    let count = "SELECT count(*) FROM events";
    assert_eq!(copied.value(count).await, Archive::open(&server.database).await.value(count).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_said_with_the_right_exit_code() {
    let folder = folder();
    let (server, chat) = recorded(folder.path()).await;
    let database = server.database.to_str().expect("a plain path");
    let text = folder.path().join("text.db");
    std::fs::write(&text, "not a database at all, and long enough").expect("the folder is ours");
    let text = text.to_str().expect("a plain path");
    let missing = folder.path().join("missing.db");
    let missing_name = missing.to_str().expect("a plain path");
    for (arguments, code, said) in [
        (["transcript", "unknown", "--database", database].as_slice(), 1, "unknown"),
        (&["chats", "--database", missing_name], 1, "missing.db"),
        (&["chats", "--database", text], 1, "text.db"),
        (&["chats", "--since", "yesterday-ish", "--database", database], 2, "yesterday-ish"),
        (&["sql", "DELETE FROM events", "--database", database], 2, "DELETE"),
        (&["sql", "SELECT 1; SELECT 2", "--database", database], 2, "one statement"),
        (&["sql", "ATTACH 'x.db' AS x", "--database", database], 2, "ATTACH"),
        (&["snapshot", database, "--database", database], 2, "transcripts.db"),
        (&["transcript", &chat, "--nonsense"], 2, "nonsense"),
    ] {
        let (actual, _, err) = run(arguments);
        assert_eq!(actual, code, "{arguments:?}: {err}");
        assert!(err.to_lowercase().contains(&said.to_lowercase()), "{arguments:?}: {err}");
    }
    assert!(!missing.exists(), "readers never create");
}

/// The columns that DESIGN promises to users of SQL, table by table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_columns_that_stay_are_there() {
    let folder = folder();
    let (server, _) = recorded(folder.path()).await;
    let mut archive = Archive::open(&server.database).await;
    for (table, columns) in [
        ("chats", "chat_id, service, first_seen_at, last_seen_at, ended_at, ended_how, next_position"),
        (
            "events",
            "chat_id, event_index, type, utc_time, participant_id, nickname, party_type, text, message_type, user_data,
             event_attributes, raw, recorded_at, node, run_id",
        ),
        ("event_variants", "chat_id, event_index, kind, raw, recorded_at, node, run_id"),
        ("chat_attributes", "chat_id, name, value, source, observed_at"),
        (
            "api_errors",
            "id, observed_at, last_observed_at, repeats, origin, http_status, status_code, format, code, meaning, class,
             field, detail, advice, reference_id, service, operation, chat_id, alias, method, path, node, client,
             request_id, duration_ms, run_id",
        ),
        ("error_codes", "code, meaning, class, channels, remedy"),
        ("coverage", "chat_id, from_position, next_position, node, run_id, at"),
        ("findings", "id, observed_at, last_observed_at, repeats, kind, chat_id, detail, raw, raw_length"),
        ("file_transfers", "chat_id, file_id, direction, bytes, sha256, at, outcome"),
        ("runs", "run_id, instance, version, started_at, stopped_at, clean, deliver, when_unavailable, config_hash"),
        ("outages", "id, started_at, ended_at, reason, events, answers, chat_ids, run_id"),
        ("transcript", "chat_id, event_index, at, who, party_type, type, text, variant"),
        ("error_audit", "at, remedy"),
        ("completeness", "chat_id, covered_to, next_position, hidden, holes, ended_how, status"),
        ("chat_summary", "chat_id"),
        ("daily_summary", "day, chats, events, errors, holes"),
    ] {
        archive.rows(&format!("SELECT {columns} FROM {table} LIMIT 1")).await;
    }
    let codes = archive.value("SELECT count(*) FROM error_codes WHERE remedy <> ''").await;
    assert!(codes.parse::<i64>().is_ok_and(|n| n >= 30), "{codes} codes");
    let version = archive.value("SELECT sqlite_version()").await;
    let parts: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    assert!(parts >= vec![3, 51, 3], "SQLite {version} can corrupt a WAL file");
    for (pragma, wanted) in [("journal_mode", "wal"), ("auto_vacuum", "2"), ("application_id", "1196249938")] {
        assert_eq!(archive.value(&format!("PRAGMA {pragma}")).await, wanted, "{pragma}");
    }
}

/// Every query of the README runs, in the oldest SQLite that the contract names where one is at hand, and in ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_s_queries_run() {
    let folder = folder();
    let (mut server, _) = recorded(folder.path()).await;
    assert!(server.stop().success());
    let readme = include_str!("../../README.md");
    let block = readme.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).expect("its queries");
    let queries: Vec<String> = block
        .lines()
        .filter(|line| !line.starts_with("--"))
        .collect::<Vec<_>>()
        .join("\n")
        .split(';')
        .map(str::trim)
        .filter(|query| !query.is_empty())
        .map(String::from)
        .collect();
    assert_eq!(queries.len(), 12);
    let mut archive = Archive::open(&server.database).await;
    for query in &queries {
        archive.rows(query).await;
        let shell = std::process::Command::new("sqlite3").arg("-readonly").arg(&server.database).arg(query).output();
        let shell = shell.expect("tests/run installs sqlite3");
        assert!(shell.status.success(), "{query}: {}", String::from_utf8_lossy(&shell.stderr));
    }
}

/// A file of each past schema opens, migrates, and is recorded into.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_of_past_schemas_open() {
    for fixture in [
        "schema_0001.sql",
        "schema_0003.sql",
        "schema_0006.sql",
        "schema_0007.sql",
        "schema_0008.sql",
        "schema_0011.sql",
        "schema_0012.sql",
    ] {
        let folder = folder();
        let database = folder.path().join("transcripts.db");
        let sql = std::fs::read_to_string(format!("{}/tests/fixtures/{fixture}", env!("CARGO_MANIFEST_DIR")));
        let mut shell = std::process::Command::new("sqlite3")
            .arg(&database)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("tests/run installs sqlite3");
        let mut input = shell.stdin.take().expect("it is piped");
        std::io::Write::write_all(&mut input, sql.expect("a fixture").as_bytes()).expect("sqlite3 reads");
        drop(input);
        assert!(shell.wait().expect("it ends").success());
        let before = Archive::open(&database).await.value("SELECT count(*) FROM events").await;
        if ["schema_0006.sql", "schema_0011.sql", "schema_0012.sql"].contains(&fixture) {
            assert!(crate::evidence::sealed(&database).warnings.is_empty(), "as it is, too");
        }
        let (mut server, chat) = recorded(folder.path()).await;
        let mut archive = Archive::open(&server.database).await;
        let last = "(SELECT max(run_id) FROM runs)";
        let old = archive.value(&format!("SELECT count(*) FROM events WHERE run_id < {last}")).await;
        assert_eq!(old, before, "{fixture}");
        assert!(["8", "12", "16"].contains(&before.as_str()), "{fixture}: {before}");
        assert_ne!(
            archive.value(&format!("SELECT count(*) FROM events WHERE chat_id = '{chat}' AND run_id = {last}")).await,
            "0"
        );
        assert_eq!(archive.value("PRAGMA integrity_check").await, "ok");
        if fixture >= "schema_0007.sql" {
            assert!(server.stop().success());
            crate::evidence::sound(&server.database);
        }
    }
}
