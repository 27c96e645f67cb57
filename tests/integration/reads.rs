//! Who read what: every command that shows content leaves an act, sealed like everything else; where it cannot, it says so.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gms_recorder::simulator::{Config, Simulator};

use crate::evidence::{fill, sealed};
use crate::faults::Mount;
use crate::spool::lock;
use crate::support::{Archive, Chat, Client, Server, eventually, folder, run};

/// Somebody who owns nothing here.
const STRANGER: &str = "65534";

const NOT_RECORDED: &str = "this read is not recorded: ";

/// Exit code, stdout, stderr.
type Said = (i32, String, String);

fn program(arguments: &[&str], database: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gms-recorder"));
    command.args(arguments).arg("--database").arg(database).env_remove("SUDO_USER").stdin(Stdio::null());
    command
}

fn said(mut command: Command) -> Said {
    let output = command.output().expect("the binary was built");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn read(arguments: &[&str], database: &Path) -> Said {
    said(program(arguments, database))
}

/// The same as another user of this machine.
fn read_as_stranger(arguments: &[&str], database: &Path) -> Said {
    let own = program(arguments, database);
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={STRANGER}")).arg(format!("--regid={STRANGER}")).arg("--clear-groups");
    command.arg(own.get_program()).args(own.get_args()).env_remove("SUDO_USER").stdin(Stdio::null());
    said(command)
}

fn allow(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("it is ours");
}

/// `kind`, `who`, `via`, `case_ref`, `found` and the command of every act, the first one first.
async fn acts(database: &Path) -> Vec<[String; 6]> {
    let sql = "SELECT kind, who, via, case_ref, found, json_extract(asked, '$.command') FROM acts ORDER BY id";
    let rows = Archive::open(database).await.rows(sql).await;
    rows.into_iter().map(|row| row.try_into().expect("six columns")).collect()
}

/// An archive of ten chats with thirty events each, and nobody serves it.
async fn unserved(folder: &Path) -> PathBuf {
    let database = folder.join("a.db");
    fill(&database, 300).await;
    database
}

const CHAT: &str = "chat000000000003";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_read_beside_a_running_serve_is_recorded_and_disturbs_nothing() {
    let folder = folder();
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let settings = "[evidence]\ncheckpoint_interval = \"100ms\"\n";
    let mut server = Server::start(folder.path(), &simulator.addresses(), settings);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    chat.insist(&mut client, "send", "message=Hello&transcriptPosition=1").await;
    let database = server.database.clone();
    let wal = || std::fs::metadata(database.with_extension("db-wal")).map(|log| log.ino()).expect("it is served");
    let before = wal();
    let events = Archive::open(&database).await.value("SELECT count(*) FROM events").await;
    eventually("a checkpoint over the chat", async || {
        let (code, ..) = read(&["prove", &chat.id, "--case", "C-0"], &database);
        (code == 0).then_some(())
    })
    .await;
    let proved = acts(&database).await.len();
    let copy = folder.path().join("copy.db");
    let bundle = folder.path().join("bundle");
    let commands: [&[&str]; 7] = [
        &["chats", "--case", "C-1"],
        &["transcript", &chat.id, "--case", "C-2"],
        &["errors", "--case", "C-3"],
        &["sql", "SELECT chat_id, event_index FROM events", "--case", "C-4"],
        &["snapshot", copy.to_str().expect("a plain path"), "--case", "C-5"],
        &["export", bundle.to_str().expect("a plain path"), "--bundle", "--case", "C-6"],
        &["transcript", "unknown", "--case", "C-7"],
    ];
    for command in commands {
        let (code, _, err) = read(command, &database);
        assert_eq!(code, i32::from(command.contains(&"unknown")), "{command:?}: {err}");
        assert!(!err.contains("recorded"), "{err}");
        chat.insist(&mut client, "send", "message=and+more&transcriptPosition=1").await;
    }
    // Not of content.
    for command in [["holes"].as_slice(), &["verify"], &["access"], &["key", "list"]] {
        assert_eq!(read(command, &database).0, 0, "{command:?}");
    }
    let found = acts(&database).await.split_off(proved);
    let all_events: i64 = events.parse().expect("a number");
    for (n, (act, command)) in found.iter().zip(commands).enumerate() {
        let [kind, who, via, case_ref, rows, asked] = act;
        assert_eq!((&**kind, &**who, &**via, &**asked), ("read", "root", "NULL", command[0]), "{act:?}");
        assert_eq!(*case_ref, format!("C-{}", n + 1));
        let rows: i64 = rows.parse().unwrap_or_else(|_| panic!("{act:?} has no end"));
        match command[0] {
            "chats" => assert_eq!(rows, 1),
            "errors" => assert_eq!(rows, 0),
            _ if command.contains(&"unknown") => assert_eq!(rows, 0),
            // One more message before each.
            _ => assert!(rows > all_events, "{act:?}"),
        }
    }
    assert_eq!(found.len(), commands.len());
    assert_eq!(wal(), before, "the log that `serve` writes to is the one beside the archive");
    let missed = "SELECT count(*) FROM outages";
    assert_eq!(Archive::open(&database).await.value(missed).await, "0");
    sealed(&database);
    assert!(server.stop().success());
    sealed(&database);
    simulator.stop().await;
}

#[tokio::test]
async fn a_read_of_an_archive_that_nobody_serves_is_recorded_and_leaves_no_log() {
    let folder = folder();
    let database = unserved(folder.path()).await;
    for (arguments, rows) in [(["transcript", CHAT].as_slice(), "30"), (&["chats", "--format", "csv"], "10")] {
        let (code, out, err) = read(arguments, &database);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert_eq!(acts(&database).await.last().expect("an act")[4], rows);
        let log = std::fs::metadata(database.with_extension("db-wal")).map_or(0, |log| log.len());
        assert_eq!(log, 0, "whoever may only read the file could not read what is in the log");
    }
    // Somebody else's log that was left behind: it would grow with each read.
    let shell = rusqlite::Connection::open(&database).expect("an archive");
    shell.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("this SQLite can");
    shell.execute_batch("PRAGMA user_version = 7").expect("it is ours");
    shell.close().expect("closed");
    let log = || std::fs::metadata(database.with_extension("db-wal")).map_or(0, |log| log.len());
    assert!(log() > 0);
    assert_eq!(read(&["errors"], &database).2, "");
    assert_eq!(log(), 0);
    sealed(&database);
    let (_, out, _) = read(&["access", "--format", "json", "--limit", "2"], &database);
    let newest: serde_json::Value = serde_json::from_str(out.lines().nth(1).expect("two lines")).expect("JSON");
    assert_eq!((&newest["found"], &newest["asked"]["format"]), (&10.into(), &"csv".into()));
    assert_eq!(out.lines().count(), 2);
}

#[tokio::test]
async fn sudo_s_caller_is_named_and_nobody_else_can_name_one() {
    let folder = folder();
    let database = unserved(folder.path()).await;
    let mut command = program(&["chats"], &database);
    command.env("SUDO_USER", "anna");
    assert_eq!(said(command).0, 0);
    let [_, who, via, ..] = &acts(&database).await[0];
    assert_eq!((&**who, &**via), ("root", "anna"));
    assert!(read(&["access", "--user", "anna"], &database).1.contains("root (anna)"));
}

/// Who may read the file reads it, and leaves nothing beside it that the owner could not use.
#[tokio::test]
async fn a_reader_who_may_not_write_reads_on_and_is_told() {
    let folder = folder();
    let database = unserved(folder.path()).await;
    let copy = folder.path().join("copy.db");
    assert_eq!(read(&["snapshot", copy.to_str().expect("a plain path")], &database).0, 0);
    assert_eq!(read(&["hold", "--chat", CHAT, "--reason", "court"], &database).0, 0);
    for suffix in ["db-wal", "db-shm"] {
        let _ = std::fs::remove_file(database.with_extension(suffix)); // an empty one may be left of readers before
    }
    let before = acts(&database).await.len();
    for suffix in ["db-wal", "db-shm"] {
        let _ = std::fs::remove_file(database.with_extension(suffix));
    }
    allow(folder.path(), 0o700);
    let (code, _, err) = read_as_stranger(&["chats"], &database);
    assert!(code == 1 && err.contains("cannot be opened for reading: Permission denied"), "{err}");
    // Folder and file: what the stranger may write to.
    for (folder_mode, file_mode, why) in
        [(0o755, 0o644, "not write"), (0o777, 0o644, "not write"), (0o777, 0o666, "owner")]
    {
        allow(folder.path(), folder_mode);
        allow(&database, file_mode);
        let (code, out, err) = read_as_stranger(&["transcript", CHAT], &database);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("message 29 of chat 3"), "{out}");
        assert!(err.starts_with(NOT_RECORDED) && err.contains(why) && err.lines().count() == 1, "{err}");
        assert_eq!(read_as_stranger(&["verify"], &database).0, 0);
        let (_, holds, _) = read_as_stranger(&["hold", "--list"], &database);
        assert!(holds.contains(CHAT) && holds.contains("court"), "{holds}");
        assert_eq!(read_as_stranger(&["erase", "--list"], &database).0, 0);
        let owners =
            folder.path().read_dir().expect("there").map(|entry| entry.expect("one").metadata().expect("one").uid());
        assert!(owners.into_iter().all(|owner| owner == 0), "{folder_mode:o} {file_mode:o}");
    }
    assert_eq!(acts(&database).await.len(), before);
    // Where `serve` has made these files the stranger who may write uses them, and does not take them away.
    let (log, index) = (database.with_extension("db-wal"), database.with_extension("db-shm"));
    assert_eq!(read(&["holes"], &database).0, 0);
    assert!(index.exists(), "an owner's reader leaves it");
    let (code, _, err) = read_as_stranger(&["chats"], &database);
    assert_eq!((code, err.as_str()), (0, ""));
    let of_log = log.metadata().expect("it stays");
    assert_eq!((of_log.uid(), of_log.len(), index.exists()), (0, 0, true));
    let [_, who, _, _, rows, _] = &acts(&database).await[before];
    assert_eq!((&**who, &**rows), ("nobody", "10"));
    // Refused where it is to be recorded.
    allow(&database, 0o644);
    let settings = folder.path().join("strict.toml");
    std::fs::write(&settings, "[evidence]\nrecord_reads = \"required\"\n").expect("ours");
    let strict = ["chats", "--config", settings.to_str().expect("a plain path")];
    let (code, out, err) = read_as_stranger(&strict, &database);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("nothing is shown") && err.contains("evidence.record_reads"), "{err}");
    let (code, out, err) = read(&strict, &database);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains(CHAT));
}

#[tokio::test]
async fn a_case_can_be_made_obligatory_and_recording_given_up() {
    let folder = folder();
    let database = unserved(folder.path()).await;
    let copy = folder.path().join("copy.db");
    let copy = copy.to_str().expect("a plain path");
    let strict = |arguments: &[&str]| {
        let mut command = program(arguments, &database);
        command.env("GMS_RECORDER_EVIDENCE_REQUIRE_CASE", "true");
        said(command)
    };
    for arguments in [
        ["chats"].as_slice(),
        &["transcript", CHAT],
        &["errors"],
        &["sql", "SELECT 1"],
        &["snapshot", copy],
        &["prove", CHAT],
        &["export", copy],
    ] {
        let (code, out, err) = strict(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains("--case REF"), "{err}");
    }
    assert_eq!(strict(&["chats", "--case", " "]).0, 2);
    assert!(acts(&database).await.is_empty() && !Path::new(copy).exists());
    assert_eq!(strict(&["chats", "--case", "C-7"]).0, 0);
    assert_eq!(strict(&["holes"]).0, 0);
    assert_eq!(acts(&database).await[0][3], "C-7");
    let mut command = program(&["chats"], &database);
    command.env("GMS_RECORDER_EVIDENCE_RECORD_READS", "never");
    assert_eq!(said(command).0, 0);
    assert_eq!(acts(&database).await.len(), 1);
}

/// A copy, a lock that somebody keeps, a full disk, an archive of an earlier release.
#[tokio::test]
async fn a_read_that_cannot_be_recorded_goes_on() {
    let mount = Mount::new(40_000);
    let folder = mount.0.path();
    let database = unserved(folder).await;
    let copy = folder.join("copy.db");
    assert_eq!(read(&["snapshot", copy.to_str().expect("a plain path")], &database).0, 0);
    let bytes = std::fs::read(&copy).expect("there");
    let goes_on = |database: &Path, why: &str| {
        let (code, out, err) = read(&["chats"], database);
        assert_eq!(code, 0, "{err}");
        assert!(err.starts_with(NOT_RECORDED) && err.contains(why), "{err}");
        assert!(!out.is_empty());
    };
    goes_on(&copy, "this is a copy");
    assert_eq!(std::fs::read(&copy).expect("there"), bytes, "a copy stays what it was");
    assert!(!copy.with_extension("db-wal").exists() && !copy.with_extension("db-shm").exists());

    let shell = lock(&database).await;
    goes_on(&database, "locked");
    sqlx::Connection::close(shell).await.expect("closed");

    mount.fill();
    goes_on(&database, "");
    mount.free();
    assert_eq!(read(&["chats"], &database).2, "");
    sealed(&database);

    let old = folder.join("old.db");
    let sql = include_str!("../fixtures/schema_0006.sql");
    rusqlite::Connection::open(&old).and_then(|old| old.execute_batch(sql)).expect("a fixture");
    goes_on(&old, "earlier release");
    let (code, _, err) = run(&["access", "--database", old.to_str().expect("a plain path")]);
    assert_eq!(code, 0, "{err}");
}
