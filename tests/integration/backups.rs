//! Backups, put back and merged: nothing half-done is taken for done, and what was there is as it was.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use gms_recorder::archive::verify::{Question, verify};
use gms_recorder::chat::EventIndex;
use gms_recorder::simulator::{Config, Simulator};
use gms_recorder::store::{Entry, Run, Store};
use rusqlite::Connection;
use serde_json::Value;

use crate::anchors::installed;
use crate::evidence::{a_run, busy, entries, fill, options, sealed};
use crate::faults::Mount;
use crate::removal::gone;
use crate::support::{Archive, Chat, Client, PROGRAM, Server, count, eventually, folder, run};

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Runs a command on an archive. What it says.
#[track_caller]
fn done(words: &[&str], database: &Path) -> String {
    let (code, out, error) = run(&[words, &["--database", text(database)]].concat());
    assert_eq!(code, 0, "{words:?}: {error}");
    out
}

#[track_caller]
fn refused(words: &[&str], database: &Path, why: &str) {
    let (code, _, error) = run(&[words, &["--database", text(database)]].concat());
    assert!(code == 1 && error.contains(why), "{words:?}: {code} {error}");
}

/// Begins a command that will be killed.
fn begun(words: &[&str], database: &Path) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(words).args(["--database", text(database)]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program runs")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().expect("it is there");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn events(database: &Path) -> i64 {
    let connection = Connection::open(database).expect("an archive");
    connection.query_row("SELECT count(*) FROM events", (), |row| row.get(0)).expect("it can be read")
}

/// Events of a further run.
async fn add(database: &Path, from: u64, count: u64) {
    let mut store = Store::open(&options(database), &a_run()).await.expect("an archive");
    store.append(&entries(from, count), &[], true).expect("stored");
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_archive_is_backed_up_as_it_is_and_verified() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    chat.insist(&mut client, "send", "message=before&transcriptPosition=1").await;
    std::fs::write(
        folder.path().join("transcripts.db-spool"),
        "what waits there, and is longer than the head of a spool",
    )
    .expect("the folder is ours");
    let (dest, name) = (folder.path().join("b.db"), folder.path().join("b.db.partial"));
    let said = done(&["backup", text(&dest)], &server.database);
    for words in ["as it was sealed", "transcripts.db.key", "transcripts.db-spool"] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    assert!(!name.exists() && !folder.path().join("b.db-wal").exists());
    let held = |path: PathBuf| async move { Archive::open(&path).await.value("SELECT count(*) FROM events").await };
    assert_eq!(held(dest.clone()).await, held(server.database.clone()).await);
    let bytes = std::fs::read(&dest).expect("it is there");
    let (code, _, error) = run(&["backup", text(&dest), "--database", text(&server.database)]);
    assert!(code == 2 && error.contains("exists already"), "{code} {error}");
    assert_eq!(std::fs::read(&dest).expect("it is there"), bytes);
    chat.insist(&mut client, "send", "message=after&transcriptPosition=1").await;

    let said = done(
        &["backup", "c.db", "--rate", "20MiB", "--format", "json"].map(|word| match word {
            "c.db" => text(&name),
            other => other,
        }),
        &server.database,
    );
    let said: Value = serde_json::from_str(&said).expect("an object");
    assert_eq!(said["chats"], 1);
    assert!(said["leaves"].as_i64() >= said["signed_leaves"].as_i64() && said["spool_bytes"] == 24, "{said}");
    let made =
        "SELECT group_concat(json_extract(asked, '$.command') || ' ' || found, ', ') FROM acts WHERE kind = 'read'";
    let rows =
        said["chats"].as_i64().zip(said["events"].as_i64()).map(|(chats, events)| chats + events).expect("numbers");
    let made = Archive::open(&server.database).await.value(made).await;
    assert!(made.ends_with(&format!("backup {rows}")), "{made}");
}

#[tokio::test]
async fn what_was_changed_by_hand_is_no_backup() {
    let folder = folder();
    let (database, dest) = (folder.path().join("a.db"), folder.path().join("b.db"));
    fill(&database, 300).await;
    let connection = Connection::open(&database).expect("an archive");
    connection.execute_batch("UPDATE events SET text = 'another' WHERE event_index = 3").expect("it is ours");
    drop(connection);
    refused(&["backup", text(&dest)], &database, "not as it was sealed");
    assert_eq!(names(folder.path()).iter().filter(|name| name.starts_with("b.db")).count(), 0);
}

#[tokio::test]
async fn a_backup_that_is_killed_or_has_no_room_is_none() {
    let folder = folder();
    let (database, dest) = (folder.path().join("a.db"), folder.path().join("b.db"));
    let partial = folder.path().join("b.db.partial");
    fill(&database, 5_000).await;
    let mut child = begun(&["backup", text(&dest), "--rate", "100KiB"], &database);
    while partial.metadata().map_or(0, |found| found.len()) == 0 {
        assert!(child.try_wait().expect("it is ours").is_none(), "it ended early");
        std::thread::sleep(Duration::from_millis(5));
    }
    refused(&["backup", text(&dest)], &database, "another process is writing");
    child.kill().expect("it runs");
    child.wait().expect("it is dead");
    assert!(partial.exists() && !dest.exists());
    done(&["backup", text(&dest)], &database);
    assert!(!partial.exists());
    sealed(&dest);
    assert_eq!(events(&dest), events(&database));

    let mount = Mount::new(512);
    refused(&["backup", text(&mount.0.path().join("b.db"))], &database, "copy");
    assert!(names(mount.0.path()).is_empty(), "{:?}", names(mount.0.path()));
    sealed(&database);
}

#[tokio::test]
async fn a_backup_takes_the_place_of_its_archive_which_is_kept() {
    let folder = folder();
    let (database, backup) = (folder.path().join("a.db"), folder.path().join("b.db"));
    fill(&database, 600).await;
    done(&["backup", text(&backup)], &database);
    let at_backup = events(&database);
    add(&database, 2_000, 30).await;
    let later = events(&database);
    assert_eq!(later, at_backup + 30);

    // A reader would take the new archive's log away when it ends.
    let reader = Connection::open(&database).expect("an archive");
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").expect("it can be read");
    refused(&["restore", text(&backup)], &database, "open");
    drop(reader);
    assert_eq!(events(&database), later);

    let said = done(&["restore", text(&backup)], &database);
    assert_eq!(events(&database), at_backup);
    sealed(&database);
    let kept: Vec<_> = names(folder.path()).into_iter().filter(|name| name.contains(".before-")).collect();
    assert!(kept.len() == 1 && said.contains(&kept[0]), "{kept:?} {said}");
    assert_eq!(events(&folder.path().join(&kept[0])), later);
    sealed(&folder.path().join(&kept[0]));
    let acts = "SELECT kind FROM acts ORDER BY id DESC LIMIT 1";
    assert_eq!(Archive::open(&database).await.value(acts).await, "restore");
    assert_eq!(events(&backup), at_backup);
    add(&database, 3_000, 10).await;
    sealed(&database);
}

#[tokio::test]
async fn what_is_no_sound_backup_of_this_archive_replaces_nothing() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let (database, backup) = (path("a.db"), path("b.db"));
    fill(&database, 300).await;
    done(&["backup", text(&backup)], &database);
    fill(&path("other.db"), 300).await;
    std::fs::write(path("text.db"), "no database at all, and long enough for one").expect("the folder is ours");
    let before = std::fs::read(&database).expect("it is there");
    refused(&["restore", text(&path("other.db"))], &database, "of another archive");
    refused(&["restore", text(&path("text.db"))], &database, "not a SQLite database");
    refused(&["restore", text(&path("no.db"))], &database, "no archive at");
    refused(&["restore", text(&database)], &database, "the archive itself");
    let lock = std::fs::File::create(path("a.db.lock")).expect("the folder is ours");
    lock.lock().expect("nobody has it");
    refused(&["restore", text(&backup)], &database, "stop it first");
    drop(lock);
    let connection = Connection::open(&backup).expect("an archive");
    connection.execute_batch("UPDATE events SET text = 'another' WHERE event_index = 3").expect("it is ours");
    drop(connection);
    refused(&["restore", text(&backup)], &database, "not as it was sealed");
    assert_eq!(std::fs::read(&database).expect("it is there"), before);
    assert!(!names(folder.path()).iter().any(|name| name.contains(".before-") || name.contains(".restoring")));
}

/// Of a server that was killed, with all of its last commits in the log; or no database any longer.
#[tokio::test]
async fn no_log_is_left_for_the_restored_archive() {
    let folder = folder();
    let (database, backup) = (folder.path().join("a.db"), folder.path().join("b.db"));
    fill(&database, 300).await;
    done(&["backup", text(&backup)], &database);
    let mut store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    store.append(&entries(2_000, 30), &[], true).expect("stored");
    drop(store); // leaves its log behind
    assert!(folder.path().join("a.db-wal").metadata().expect("it is there").len() > 0);
    done(&["restore", text(&backup)], &database);
    assert!(!folder.path().join("a.db-wal").exists());
    assert_eq!(events(&database), 300);
    let kept =
        |folder: &Path| names(folder).into_iter().rfind(|name| name.contains(".before-") && !name.ends_with("-wal"));
    assert_eq!(events(&folder.path().join(kept(folder.path()).expect("it is kept"))), 330);

    std::fs::write(&database, "nothing that could be read, whoever did that".repeat(500)).expect("the folder is ours");
    std::fs::write(folder.path().join("a.db-wal"), "a log of something").expect("the folder is ours");
    let said = done(&["restore", text(&backup)], &database);
    assert!(said.contains("could not be read"), "{said}");
    assert_eq!(events(&database), 300);
    assert!(names(folder.path()).iter().any(|name| name.contains(".before-") && name.ends_with("-wal")));
    sealed(&database);
}

#[tokio::test]
async fn a_restore_that_is_killed_or_has_no_room_leaves_one_of_both() {
    let folder = folder();
    let (database, backup) = (folder.path().join("a.db"), folder.path().join("b.db"));
    fill(&database, 3_000).await;
    done(&["backup", text(&backup)], &database);
    add(&database, 9_000, 30).await;
    let mut ends = [0, 0];
    for round in 0..12_u64 {
        let mut child = begun(&["restore", text(&backup)], &database);
        std::thread::sleep(Duration::from_millis(20 + round * 60));
        let _ = child.kill();
        child.wait().expect("it is dead");
        let found = events(&database);
        assert!(found == 3_000 || found == 3_030, "{found}");
        ends[usize::from(found == 3_000)] += 1;
        sealed(&database);
        if found == 3_000 {
            add(&database, 9_000, 30).await;
        }
    }
    println!("{} old, {} new", ends[0], ends[1]);

    let mount = Mount::new(8192);
    let small = mount.0.path().join("a.db");
    done(&["backup", text(&small)], &database);
    mount.fill();
    let before = std::fs::read(&small).expect("it is there");
    refused(&["restore", text(&backup)], &small, "");
    assert_eq!(std::fs::read(&small).expect("it is there"), before);
    let left: Vec<_> = names(mount.0.path()).into_iter().filter(|name| name.contains("restoring")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// An anchor knows what was recorded after the backup: of a copy that is no fault, and it is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_backup_lacks_is_said_by_the_anchor() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let anchor = folder.path().join("anchor");
    let settings = format!("[evidence]\nanchor_file = \"{}\"\ncheckpoint_interval = \"1s\"\n", anchor.display());
    let mut server = Server::start(folder.path(), &simulator.addresses(), &settings);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    chat.insist(&mut client, "send", "message=before&transcriptPosition=1").await;
    let backup = folder.path().join("b.db");
    done(&["backup", text(&backup)], &server.database);
    let key_file = folder.path().join("transcripts.db.key");
    let former = std::fs::read(&key_file).expect("it is there");
    done(&["key", "rotate"], &server.database);
    chat.insist(&mut client, "send", "message=after&transcriptPosition=1").await;
    server.stop();
    let restore = ["restore", text(&backup), "--anchor", text(&anchor)];
    let said = done(&[&restore[..], &["--format", "json"]].concat(), &server.database);
    let said: Value = serde_json::from_str(&said).expect("an object");
    // What is replaced now knows the former key alone.
    refused(&restore, &server.database, "with all public keys (`key list`)");
    let keys = folder.path().join("keys");
    let kept = Path::new(said["kept"].as_str().expect("it was there"));
    std::fs::write(&keys, done(&["key", "list"], kept)).expect("the folder is ours");
    let told = done(&[&restore[..], &["--key", text(&keys)]].concat(), &server.database);
    let beside = names(folder.path()).into_iter().find(|name| name.starts_with("transcripts.db.key."));
    let beside = folder.path().join(beside.expect("the rotation left it"));
    let told_in_one = told.split_whitespace().collect::<String>();
    assert!(told_in_one.contains(&format!("Itistheformerone,{}", beside.display())), "{told}");
    assert_eq!(std::fs::read(&beside).expect("it is there"), former);
    std::fs::rename(&beside, &key_file).expect("the folder is ours");
    assert!(said["lacks_up_to_leaf"].as_i64() > said["leaves"].as_i64(), "{said}");
    let later = events(kept) - said["events"].as_i64().expect("a number");
    assert_eq!((said["events_later"].as_i64(), &said["chats_later"]), (Some(later), &1.into()), "{said}");
    let question = |is_copy| Question {
        anchors: vec![anchor.clone()],
        is_copy,
        copy_of: is_copy.then(|| kept.to_owned()),
        ..Question::default()
    };
    let honest = verify(&backup, &question(true), &mut |_, _| {}).expect("it can be read");
    assert!(honest.fault_count() == 0 && honest.later.is_some());
    assert!(verify(&server.database, &question(false), &mut |_, _| {}).expect("it can be read").fault_count() > 0);
    server.start_again();
}

/// What people did since is undone, which is said, with what does it again; and what is restored is no copy: reads are recorded.
#[tokio::test]
async fn what_a_restore_undoes_is_said_and_done_again() {
    let folder = folder();
    let (database, backup) = (folder.path().join("a.db"), folder.path().join("b.db"));
    fill(&database, 900).await;
    let chats = texts(&database, "SELECT chat_id FROM chats ORDER BY chat_id LIMIT 30");
    let erase = |chats: &[String]| {
        let named: Vec<&str> = chats.iter().flat_map(|chat_id| ["--chat", chat_id]).collect();
        done(&[&["erase", "--reason", "asked"], &named[..]].concat(), &database);
    };
    let restored = || -> Value {
        let said = done(&["restore", text(&backup), "--format", "json"], &database);
        serde_json::from_str(&said).expect("an object")
    };
    erase(&chats[..1]);
    done(&["hold", "--chat", &chats[29], "--reason", "the court"], &database);
    let held = texts(&database, "SELECT CAST(id AS TEXT) FROM holds");
    done(&["backup", text(&backup)], &database);
    assert_eq!(restored()["again"], serde_json::json!([]), "the backup knows the first");
    erase(&chats[1..3]);
    done(&["hold", "--query", "SELECT chat_id FROM chats WHERE 'it''s' = ''", "--reason", "the court"], &database);
    let (code, _, error) = run(&["erase", "--chat", &chats[29], "--reason", "asked", "--database", text(&database)]);
    assert!(code == 1 && error.contains("not everything"), "{error}");
    done(&["unhold", &held[0], "--reason=-settled", "--case", "L 12"], &database);
    let said = restored();
    let counts = ["released_later", "waiting_later", "masked_later"].map(|name| said[name].as_i64());
    assert_eq!(counts, [Some(1), Some(1), Some(0)], "{said}");
    assert_eq!((&said["erased_later"], &said["purged_later"], &said["held_later"]), (&2.into(), &0.into(), &1.into()));
    let erased = "SELECT chat_id FROM erasures ORDER BY chat_id";
    assert_eq!(texts(&database, erased), chats[..1]);
    let (code, _, error) = run(&["chats", "--database", text(&database)]);
    assert_eq!((code, error.contains("not recorded")), (0, false), "{error}");

    for command in said["again"].as_array().expect("commands") {
        let command = command.as_str().expect("a text").replacen("gms-recorder", PROGRAM, 1);
        let done = Command::new("sh").args(["-c", &command]).output().expect("a shell");
        assert!(done.status.success(), "{command}: {done:?}");
    }
    let all = [&chats[..3], &chats[29..]].concat();
    assert_eq!(texts(&database, erased), all);
    let released = "SELECT reason || ' ' || case_ref FROM acts WHERE kind = 'unhold'";
    assert_eq!(texts(&database, released), ["-settled L 12"]);
    assert_eq!(
        texts(&database, "SELECT query FROM holds WHERE released_at IS NULL"),
        ["SELECT chat_id FROM chats WHERE 'it''s' = ''"]
    );
    sealed(&database);
    let (code, told, _) = run(&["report", "--since", "1d", "--database", text(&database)]);
    assert!(code == 0 && told.contains("put back from a backup"), "{told}");
    // More than can be named are listed.
    erase(&chats[3..29]);
    let (code, told, error) = run(&["restore", text(&backup), "--database", text(&database)]);
    assert!(code == 0 && told.contains("29 chats erased, 1 hold set, 1 hold released after"), "{told}{error}");
    let list = told.lines().find(|line| line.contains("gms-recorder sql")).expect("it lists them").trim();
    let listed = Command::new("sh").args(["-c", &list.replacen("gms-recorder", PROGRAM, 1)]).output().expect("a shell");
    let listed = String::from_utf8(listed.stdout).expect("text");
    assert!(chats[1..].iter().all(|chat_id| listed.contains(chat_id.as_str())), "{listed}");
}

/// Merges another archive. What it came to.
#[track_caller]
pub fn merged(other: &Path, database: &Path) -> Value {
    let said = done(&["merge", text(other), "--format", "json"], database);
    serde_json::from_str(&said).expect("an object")
}

fn texts(database: &Path, sql: &str) -> Vec<String> {
    let connection = Connection::open(database).expect("an archive");
    let mut select = connection.prepare(sql).expect("sound SQL");
    let rows = select.query_map((), |row| row.get(0)).expect("it runs");
    rows.map(|row| row.expect("a text")).collect()
}

fn execute(database: &Path, sql: &str) {
    Connection::open(database).expect("an archive").execute_batch(sql).expect("sound SQL");
}

#[tokio::test]
async fn another_archive_comes_in_once_and_what_was_erased_on_either_side_does_not() {
    let folder = folder();
    let (database, other) = (folder.path().join("a.db"), folder.path().join("b.db"));
    fill(&database, 300).await;
    let mut store = Store::open(&options(&other), &a_run()).await.expect("an archive");
    let mut changed = entries(0, 30);
    for event in changed.iter_mut().flat_map(|entry| &mut entry.chats).flat_map(|chat| &mut chat.events) {
        if event.index.get() == 5 {
            event.raw = event.raw.replace("parcel", "letter");
        }
    }
    store.append(&changed, &[], true).expect("stored");
    store.append(&entries(30, 600), &[], true).expect("stored");
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
    let chat = |n: u32| format!("chat{n:012}");
    // Of ours: one that they have. Of theirs: one that we have, and one that we do not.
    done(&["erase", "--chat", &chat(2), "--reason", "asked for"], &database);
    done(&["erase", "--chat", &chat(3), "--chat", &chat(15), "--reason", "asked for"], &other);

    let first = merged(&other, &database);
    // 21 chats there, two erased: 9 to 9 are known, 10 to 20 are new but for the 15th.
    let wanted = [
        ("new", 300),
        ("duplicate", 239),
        ("variant", 1),
        ("suppressed", 30),
        ("chats", 10),
        ("tombstones", 1),
        ("erased_there", 1),
        ("runs", 1),
    ];
    for (name, count) in wanted {
        assert_eq!(first[name], count, "{name}: {first}");
    }
    let found = sealed(&database).found;
    assert!(found.leaves > 600);
    let again = merged(&other, &database);
    for name in ["new", "variant", "chats", "attributes", "errors", "findings", "runs", "tombstones"] {
        assert_eq!(again[name], 0, "{name}: {again}");
    }
    let sql = format!(
        "SELECT chat_id FROM events WHERE chat_id IN ('{}', '{}', '{}') GROUP BY 1",
        chat(2),
        chat(3),
        chat(15)
    );
    assert_eq!(texts(&database, &sql), [chat(3)]);
    let provenance = "SELECT json_extract(m.runs, '$[0].archive_id') || ' ' || (SELECT archive_id FROM archive) FROM merges m WHERE ended_at IS NOT NULL LIMIT 1";
    let (theirs, ours) =
        (&texts(&other, "SELECT archive_id FROM archive")[0], &texts(&database, "SELECT archive_id FROM archive")[0]);
    assert_eq!(texts(&database, provenance), [format!("{theirs} {ours}")]);

    // What was erased there is suppressed here, too.
    let mut store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    let delivered = store.append(&entries(450, 30), &[], true).expect("stored");
    assert_eq!(
        delivered.tallies.iter().map(|tally| (tally.suppressed, tally.new)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)),
        (30, 0)
    );
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");

    // A later copy brings what is new, and back again nothing comes that was ours.
    add(&other, 3_000, 30).await;
    assert_eq!(merged(&other, &database)["new"], 30);
    let back = merged(&database, &other);
    assert_eq!(
        (&back["new"], &back["runs"], &back["suppressed"]),
        (&Value::from(0), &Value::from(2), &Value::from(30)),
        "{back}"
    );
    assert_eq!(merged(&other, &database)["runs"], 0);
    // What an act masks on one side is no other content on the other, whichever way it comes.
    let rules = folder.path().join("rules.toml");
    std::fs::write(&rules, "[masking.rules]\ngoods = '(?i)monday'\n").expect("the folder is ours");
    let goods = ["mask", "--rule", "goods", "--reason", "audit", "--config", text(&rules)];
    done(&goods, &other);
    let masked = merged(&other, &database);
    assert_eq!((&masked["new"], &masked["variant"]), (&Value::from(0), &Value::from(0)), "{masked}");
    assert_eq!(merged(&database, &other)["variant"], 0);
    // What comes from there was not masked by what was applied here.
    add(&other, 3_300, 30).await;
    done(&["mask", "--rule", "cards", "--reason", "audit"], &database);
    let said = done(&["merge", text(&other)], &database);
    assert!(said.contains("rule cards was applied here, not to what came"), "{said}");
    for database in [&database, &other] {
        sealed(database);
    }
    refused(&["merge", text(&database)], &database, "copy of this archive");
    execute(&other, "UPDATE events SET text = 'another' WHERE event_index = 3");
    refused(&["merge", text(&other)], &database, "not as it was sealed");
}

/// One of everything, through a proxy that had it all: errors, findings, outages, files, maskings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_row_comes_along_once() {
    let folder = folder();
    let (database, other) = (folder.path().join("a.db"), busy(folder.path()).await);
    add(&database, 30_000, 30).await;
    let rows = |database: &Path, what: &str| texts(database, &format!("SELECT count(*) || '' FROM {what}"))[0].clone();
    let own = ["events", "coverage", "chats"].map(|table| rows(&database, table).parse::<usize>().expect("a number"));
    let said = merged(&other, &database);
    assert!(
        ["errors", "findings", "outages", "files", "attributes", "variant"]
            .iter()
            .all(|name| said[name].as_u64() > Some(0)),
        "{said}"
    );
    for table in
        ["api_errors", "findings", "outages", "file_transfers", "chat_attributes", "maskings", "event_variants"]
    {
        assert_eq!(rows(&database, table), rows(&other, table), "{table}");
    }
    for (table, own) in ["events", "coverage", "chats"].iter().zip(own) {
        let theirs: usize = rows(&other, table).parse().expect("a number");
        assert_eq!(rows(&database, table), (own + theirs).to_string(), "{table}");
    }
    // What differs is numbers: a masking is of the row that it was of.
    let masked = "SELECT m.field || m.rule || m.at_character || coalesce(a.name, e.operation, m.event_index, '') AS x FROM maskings m
        LEFT JOIN chat_attributes a ON m.what = 'attribute' AND a.id = m.row_id
        LEFT JOIN api_errors e ON m.what = 'error' AND e.id = m.row_id ORDER BY x";
    assert_eq!(texts(&database, masked), texts(&other, masked));
    let again = merged(&other, &database);
    for name in ["new", "variant", "chats", "attributes", "errors", "findings", "outages", "files", "runs"] {
        assert_eq!(again[name], 0, "{name}: {again}");
    }
    let before = (rows(&database, "api_errors"), texts(&database, "SELECT sum(repeats) || '' FROM findings"));
    sealed(&database);
    sealed(&other);
    let third = folder.path().join("third.db");
    add(&third, 60_000, 30).await;
    merged(&database, &third);
    // By way of another one they are known, too.
    let by_way = merged(&other, &third);
    for name in ["new", "errors", "findings", "outages", "files", "runs"] {
        assert_eq!(by_way[name], 0, "{name}: {by_way}");
    }
    assert_eq!((rows(&third, "api_errors"), texts(&third, "SELECT sum(repeats) || '' FROM findings")), before);
    sealed(&third);
}

#[tokio::test]
async fn a_merge_that_is_killed_or_has_no_room_is_gone_on_with() {
    let folder = folder();
    let (database, other) = (folder.path().join("a.db"), folder.path().join("b.db"));
    fill(&database, 300).await;
    fill(&other, 6_000).await;
    let mut halfway = 0;
    for round in 0..8_u64 {
        let before = events(&database);
        let mut child = begun(&["merge", text(&other)], &database);
        // Some before the first row is brought, the others once some are.
        while round > 1 && events(&database) == before && child.try_wait().expect("it is ours").is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(round * 3));
        let _ = child.kill();
        child.wait().expect("it is dead");
        sealed(&database);
        halfway += usize::from((before + 1..6_000).contains(&events(&database)));
    }
    println!("{halfway} of 8 ended halfway");
    assert!(halfway > 0, "no kill came while rows were brought");
    merged(&other, &database);
    assert_eq!(events(&database), 6_000);
    assert_eq!(texts(&database, "SELECT chat_id FROM completeness WHERE holes > 0"), [""; 0]);
    let sealed_now = sealed(&database).found.leaves;
    assert_eq!(merged(&other, &database)["chats"], 0);
    // An act and a merge more, begun and ended.
    assert!(sealed(&database).found.leaves - sealed_now < 10);
    sealed(&other);

    let mount = Mount::new(2_048);
    let small = mount.0.path().join("a.db");
    fill(&small, 30).await;
    refused(&["merge", text(&other)], &small, "full");
    sealed(&small);
    assert!(events(&small) < 6_000);
    mount.command(&["mount", "-o", "remount,size=32m"]);
    merged(&other, &small);
    assert_eq!(events(&small), 6_000);
    sealed(&small);
}

const RECENT: i64 = 1_795_400_000_000;
const DAY: i64 = 86_400_000;

/// A run that began then, and ended a second after the last that it saw.
async fn record(database: &Path, started_at: i64, entries: &[Entry]) {
    let mut store = Store::open(&options(database), &Run { started_at, ..a_run() }).await.expect("an archive");
    store.append(entries, &[], true).expect("stored");
    let last = entries.iter().map(|entry| entry.at).max().unwrap_or(started_at);
    store.finish(last + 1_000, "{}").expect("noted");
    store.close().expect("closed");
}

/// An error, a finding and a file of that name, of a chat or of none.
fn troubles(at: i64, name: &str, chat_id: Option<&str>) -> Entry {
    let error = serde_json::json!({
        "origin": "gms", "format": "http", "http_status": 500, "status_code": null, "code": null, "class": "unknown",
        "meaning": null, "field": null, "detail": name, "advice": null, "reference_id": null, "service": null,
        "operation": null, "chat_id": chat_id, "alias": null
    });
    let entry = serde_json::json!({
        "at": at, "node": null, "chats": [],
        "errors": [{ "error": error, "exchange": { "path": "/" } }],
        "findings": [{
            "kind": "not_json", "chat_id": chat_id, "detail": name, "raw": BASE64.encode(name), "raw_length": name.len(),
            "events": 0
        }],
        "files": [{
            "chat_id": chat_id, "file_id": name, "direction": "up", "bytes": 1, "sha256": format!("{name:0<64}"),
            "outcome": "complete"
        }]
    });
    serde_json::from_value(entry).expect("an entry")
}

/// Names of [`troubles`] that are in an archive: the same ones as errors, findings and files, each once.
#[track_caller]
fn names_in(database: &Path) -> Vec<String> {
    let of = |table: &str, name: &str| texts(database, &format!("SELECT {name} || '' AS n FROM {table} ORDER BY n"));
    let errors = of("api_errors", "detail");
    assert_eq!(of("findings", "CAST(raw AS TEXT)"), errors);
    assert_eq!(of("file_transfers", "file_id"), errors);
    let all = "SELECT count(*) || '' FROM (SELECT repeats FROM api_errors UNION ALL SELECT repeats FROM findings) WHERE repeats > 1";
    assert_eq!(texts(database, all), ["0"]);
    errors
}

fn purge(folder: &Path, database: &Path) {
    let config = folder.join("retention.toml");
    std::fs::write(&config, "[retention]\nkeep = \"30d\"\n").expect("the folder is ours");
    done(&["purge", "--config", text(&config)], database);
}

/// Numbers of rows that were purged are given again: who merges takes no row for another one, and brings none back. The same
/// in an archive where an earlier release has purged, which did not note what that was.
#[tokio::test]
async fn a_number_that_is_given_again_is_another_row_s() {
    let before = RECENT - 60 * DAY;
    for is_noted in [true, false] {
        let folder = folder();
        let [database, other, third, again] = ["a.db", "b.db", "c.db", "d.db"].map(|name| folder.path().join(name));
        record(&database, before, &[]).await;
        record(&other, before, &[troubles(before, "b1", None), troubles(before + DAY, "b2", None)]).await;
        merged(&other, &database);
        assert_eq!(names_in(&database), ["b1", "b2"]);
        let known =
            "SELECT 'UPDATE merged_rows SET id = ' || id || ' WHERE form = ' || form || ' AND their_id = ' || their_id
            FROM merged_rows";
        let known = texts(&database, known).join(";");
        purge(folder.path(), &database);
        assert_eq!(names_in(&database), [""; 0]);
        if !is_noted {
            execute(&database, &known);
        }
        record(&database, RECENT, &[troubles(RECENT, "a1", None)]).await;
        for _ in 0..2 {
            let said = merged(&other, &database);
            assert_eq!(names_in(&database), ["a1"], "{said}");
        }
        for _ in 0..2 {
            merged(&database, &other);
            assert_eq!(names_in(&other), ["a1", "b1", "b2"]);
        }
        record(&third, before, &[]).await;
        for _ in 0..2 {
            merged(&database, &third);
            merged(&other, &third);
            assert_eq!(names_in(&third), ["a1", "b1", "b2"]);
        }
        // There they are given again, too.
        record(&again, before, &[troubles(before, "d1", None)]).await;
        merged(&again, &database);
        assert_eq!(names_in(&database), ["a1", "d1"]);
        for database in [&again, &database] {
            purge(folder.path(), database);
        }
        let later = RECENT + 30 * DAY;
        record(&again, later, &[troubles(later, "d2", None)]).await;
        assert_eq!(texts(&again, "SELECT id || '' FROM api_errors"), ["1"]);
        for _ in 0..2 {
            merged(&again, &database);
            assert_eq!(names_in(&database), ["a1", "d2"]);
        }
        for database in [&database, &other, &third, &again] {
            sealed(database);
        }
    }
}

/// What was masked here is not unmasked by the row that it came from, however often that comes.
#[tokio::test]
async fn what_was_masked_here_stays_so_when_it_comes_again() {
    let folder = folder();
    let [database, other] = ["a.db", "b.db"].map(|name| folder.path().join(name));
    let card = "4111111111111111";
    record(&database, RECENT, &[]).await;
    record(&other, RECENT, &[troubles(RECENT, card, None)]).await;
    merged(&other, &database);
    let rows = format!(
        "SELECT 'error ' || (detail = '{card}') || ' ' || repeats FROM api_errors
         UNION ALL SELECT 'finding ' || (CAST(raw AS TEXT) = '{card}') || ' ' || repeats FROM findings"
    );
    assert_eq!(texts(&database, &rows), ["error 1 1", "finding 1 1"]);
    done(&["mask", "--rule", "cards", "--reason", "audit"], &database);
    for _ in 0..2 {
        merged(&other, &database);
        assert_eq!(texts(&database, &rows), ["error 0 1", "finding 0 1"]);
        sealed(&database);
    }
    let again = Entry { errors: Vec::new(), files: Vec::new(), ..troubles(RECENT + DAY, card, None) };
    record(&other, RECENT + DAY, &[again]).await;
    for _ in 0..2 {
        merged(&other, &database);
        assert_eq!(texts(&database, &rows), ["error 0 1", "finding 0 2"]);
    }
    sealed(&database);
}

/// Erased here, and going on: of what the other side has of before nothing comes, of what came afterwards all.
#[tokio::test]
async fn of_a_chat_that_goes_on_nothing_comes_that_was_erased() {
    let folder = folder();
    let [database, other] = ["a.db", "b.db"].map(|name| folder.path().join(name));
    let chat_id = "chat000000000000";
    let (begin, after) = (RECENT - 60 * DAY, RECENT + 3_000 * DAY);
    // Of the chat that all of them are of: an event, and a value of an attribute.
    let said = |at: i64, index: i64, email: &str| {
        let mut entry = entries(0, 30).remove(0);
        entry.at = at;
        let chat = &mut entry.chats[0];
        assert_eq!(chat.chat_id.as_str(), chat_id);
        chat.events.truncate(1);
        chat.events[0].index = EventIndex::new(index).expect("from 1 on");
        (chat.covered, chat.next_position) = (None, Some(index + 1));
        let attribute = serde_json::json!([{ "name": "emailAddress", "value": email, "source": "request" }]);
        chat.attributes = serde_json::from_value(attribute).expect("an attribute");
        entry
    };
    record(&other, begin, &[said(begin, 1, "anna@before"), troubles(begin, "before", Some(chat_id))]).await;
    record(&database, begin, &[said(begin, 2, "anna@before")]).await;
    done(&["erase", "--chat", chat_id, "--reason", "asked for"], &database);
    record(&database, after, &[said(after, 3, "anna@here")]).await;
    let later = [said(after + 1, 4, "anna@after"), troubles(after + 1, "after", Some(chat_id))];
    record(&other, after + 1, &later).await;
    for _ in 0..2 {
        merged(&other, &database);
        let indexes = "SELECT group_concat(event_index) FROM (SELECT event_index FROM events ORDER BY 1)";
        assert_eq!(texts(&database, indexes), ["3,4"]);
        assert_eq!(texts(&database, "SELECT value FROM chat_attributes ORDER BY id"), ["anna@here", "anna@after"]);
        assert_eq!(texts(&database, "SELECT detail FROM api_errors"), ["after"]);
        assert_eq!(texts(&database, "SELECT file_id FROM file_transfers"), ["after"]);
        // As the writer keeps them then: their bytes may be of before.
        assert_eq!(texts(&database, "SELECT detail || length(raw) || repeats FROM findings"), ["after01"]);
        sealed(&database);
    }
    record(&database, after + 2, &[troubles(after + 2, "after", Some(chat_id))]).await;
    assert_eq!(texts(&database, "SELECT repeats || '' FROM findings"), ["2"]);
}

/// An archive that was restored goes on with the numbers that it had given before.
#[tokio::test]
async fn what_a_restored_archive_records_is_other_than_what_it_had_recorded() {
    let folder = folder();
    let [database, other, third, backup] = ["q.db", "p.db", "t.db", "b.db"].map(|name| folder.path().join(name));
    record(&database, RECENT, &[]).await;
    let mut store = Store::open(&options(&other), &a_run()).await.expect("an archive");
    store.append(&[troubles(RECENT, "p1", None)], &[], true).expect("stored");
    done(&["backup", text(&backup)], &other);
    store.finish(RECENT + 1_000, "{}").expect("noted");
    store.close().expect("closed");
    let lost = [troubles(RECENT + DAY, "p2", None), entries(0, 30).remove(0)];
    record(&other, RECENT + DAY, &lost).await;
    merged(&other, &database);
    let said = done(&["restore", text(&backup), "--format", "json"], &other);
    let said: Value = serde_json::from_str(&said).expect("an object");
    let kept = PathBuf::from(said["kept"].as_str().expect("it was there"));
    record(&other, RECENT + 2 * DAY, &[troubles(RECENT + 2 * DAY, "p3", None)]).await;
    let runs = "SELECT (started_at - 1795400000000) || ' ' || coalesce(stopped_at - started_at, 'open') FROM runs
        ORDER BY started_at, run_id";
    let day = |n: i64| format!("{} 1000", n * DAY);
    let all = ["p1", "p2", "p3"];
    for from in [&other, &other, &kept, &other, &kept] {
        merged(from, &database);
        if from == &other {
            assert_eq!(names_in(&database), all);
        }
        assert_eq!(texts(&database, runs), [day(0), day(0), day(1), day(2)]);
        sealed(&database);
    }
    record(&third, RECENT, &[]).await;
    for from in [&database, &other, &kept, &database] {
        merged(from, &third);
        assert_eq!(names_in(&third), all);
    }
    // What it has lost comes back to it, once.
    for _ in 0..2 {
        merged(&database, &other);
        assert_eq!(names_in(&other), all);
        assert_eq!(texts(&other, runs), ["0 open".into(), day(0), day(1), day(2)]);
        merged(&other, &database);
        assert_eq!(names_in(&database), all);
    }
    let of_run =
        "SELECT DISTINCT (r.started_at - 1795400000000) || '' FROM events e JOIN runs r ON r.run_id = e.run_id";
    for database in [&database, &other, &third] {
        assert_eq!(texts(database, of_run), [DAY.to_string()]);
        sealed(database);
    }
}

/// Two proxies before the same nodes, one of them killed: chats that went through both.
struct Pair {
    simulator: Simulator,
    first: Server,
    second: Server,
    _folders: [tempfile::TempDir; 2],
}

impl Pair {
    async fn recorded() -> Self {
        let simulator = Simulator::start(Config::nodes(2)).await.expect("free ports");
        let folders = [folder(), folder()];
        let [first, mut second] = [0, 1].map(|n| Server::start(folders[n].path(), &simulator.addresses(), ""));
        let chats = count("TEST_PAIR_CHATS", 20);
        for n in 0..chats {
            let (mut one, mut other) = (Client::new(first.address), Client::new(second.address));
            let chat = Chat::open(&mut one, &format!("nickname=Anna{n}&emailAddress=anna{n}@example.com")).await;
            let mut position = 1;
            for m in 0..6 {
                if (n, m) == (chats / 2, 3) {
                    second.kill();
                }
                let client =
                    if m % 2 == 1 && n <= chats / 2 && !(n == chats / 2 && m >= 3) { &mut other } else { &mut one };
                let form = format!("message=m{m}&transcriptPosition={position}");
                let answer = chat.insist(client, "send", &form).await;
                position = answer["nextPosition"].as_i64().expect("an answer with a position");
            }
            chat.insist(&mut one, "disconnect", &format!("transcriptPosition={position}")).await;
        }
        Self { simulator, first, second, _folders: folders }
    }

    /// What the simulator says that clients could see.
    fn account(&self) -> Vec<String> {
        let chats = self.simulator.account().chats;
        let of = |chat: &gms_recorder::simulator::ChatAccount| {
            chat.visible().map(|event| format!("{} {}", chat.chat_id, event.index)).collect::<Vec<_>>()
        };
        let mut events: Vec<String> = chats.iter().flat_map(of).collect();
        events.sort();
        events
    }
}

const EVENTS: &str = "SELECT chat_id || ' ' || event_index AS e FROM events ORDER BY e";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_of_proxies_has_one_account_read_together_or_merged() {
    let mut pair = Pair::recorded().await;
    let alone = texts(&pair.first.database, EVENTS);
    let account = pair.account();
    assert!(alone.len() < account.len(), "the second one would not be needed");
    let (one, other) = (text(&pair.first.database), text(&pair.second.database));
    let read = |words: &[&str]| {
        let (code, out, error) = run(&[words, &["--database", one, "--database", other]].concat());
        assert_eq!(code, 0, "{words:?}: {error}");
        out
    };
    let both = read(&["sql", EVENTS, "--format", "csv"]);
    assert_eq!(both.lines().skip(1).map(str::trim).collect::<Vec<_>>(), account);
    let open = "SELECT chat_id || ' ' || status FROM completeness WHERE holes > 0 OR covered_to < next_position";
    assert_eq!(read(&["sql", open, "--format", "csv"]).lines().count(), 1);
    assert!(read(&["holes"]).starts_with("no holes"));
    assert!(!done(&["holes"], &pair.first.database).starts_with("no holes"));
    let chats = read(&["chats", "--format", "json", "--limit", "1000"]);
    assert_eq!(chats.lines().count(), pair.simulator.account().chats.len());
    let chat: Value = serde_json::from_str(chats.lines().next().expect("a chat")).expect("an object");
    assert_eq!(chat["status"], "complete", "{chat}");
    let shown = read(&["transcript", chat["chat_id"].as_str().expect("a text"), "--format", "json"]);
    assert!((0..6).all(|m| shown.contains(&format!("\"m{m}\""))), "{shown}");
    read(&["errors"]);
    for view in ["chat_summary", "daily_summary", "error_audit", "transcript", "removals"] {
        read(&["sql", &format!("SELECT count(*) FROM {view}")]);
    }
    for (words, why) in [(["verify"], "one --database"), (["chats"], "")] {
        let twice = [&words[..], &["--database", one, "--database", one]].concat();
        let (code, _, error) = run(&twice);
        assert!(code > 0 && error.contains(why), "{words:?}: {error}");
    }
    let said = merged(&pair.second.database, &pair.first.database);
    assert!(said["new"].as_u64() > Some(0) && said["runs"] == 1, "{said}");
    pair.first.stop();
    let database = &pair.first.database;
    let (code, _, error) = run(&["chats", "--database", text(database), "--database", text(&pair.second.database)]);
    assert!(code > 0 && error.contains("in it already"), "{error}");
    assert_eq!(texts(database, EVENTS), account);
    assert_eq!(texts(database, open), [""; 0]);
    sealed(database);
    assert_eq!(events(database), account.len() as i64);
}

/// A backup outlives releases: one of the schema before merges is verified, backed up and put back as any other.
#[tokio::test]
async fn backups_of_the_release_before_are_sound_and_come_back() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schema_0007.sql");
    let shell =
        Command::new("sqlite3").arg(path("old.db")).arg(format!(".read {fixture}")).stdout(Stdio::null()).status();
    assert!(shell.expect("tests/run installs sqlite3").success());
    done(&["backup", text(&path("b.db"))], &path("old.db"));
    done(&["restore", text(&path("b.db"))], &path("new.db"));
    let of_the_act = 2; // that of the backup, and its pack's
    assert_eq!((events(&path("new.db")), sealed(&path("new.db")).found.leaves), (12, 46 + of_the_act));
    refused(&["merge", text(&path("b.db"))], &path("new.db"), "copy of this archive");
    fill(&path("other.db"), 30).await;
    refused(&["merge", text(&path("other.db"))], &path("new.db"), "earlier release");
    assert_eq!(merged(&path("b.db"), &path("other.db"))["new"], 12);
    sealed(&path("other.db"));
}

/// Litestream beside a live archive: what it has is an earlier state, which says so; and while it reads, nothing that is erased is
/// overwritten, which is said.
#[tokio::test]
async fn what_litestream_has_is_an_earlier_state_of_the_archive() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let (anchor, shipped) = (folder.path().join("anchor"), folder.path().join("shipped"));
    let settings = format!("[evidence]\nanchor_file = {anchor:?}\ncheckpoint_interval = \"1s\"\n");
    let mut server = Server::start(folder.path(), &simulator.addresses(), &settings);
    let litestream = |words: &[&str]| {
        let mut command = Command::new(installed("litestream"));
        command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let url = format!("file://{}", shipped.display());
    let mut shipper =
        litestream(&["replicate", text(&server.database), &url]).spawn().expect("tests/run has installed it");
    let mut client = Client::new(server.address);
    let (chat, other) = (Chat::open(&mut client, "nickname=Anna").await, Chat::open(&mut client, "nickname=Bob").await);
    for (chat, said) in [(&chat, "the+first+thing"), (&other, "a+secret+between+us")] {
        chat.insist(&mut client, "send", &format!("message={said}&transcriptPosition=1")).await;
    }
    let copy = folder.path().join("copy.db");
    let is_there = || {
        let restored = litestream(&["restore", "-force", "-o", text(&copy), &url]).status().expect("it runs");
        let has = "SELECT count(*) FROM events WHERE text = 'the first thing'";
        restored.success()
            && Connection::open(&copy).is_ok_and(|file| file.query_row(has, (), |row| row.get(0)) == Ok(1))
    };
    eventually("litestream has shipped it", async || is_there().then_some(())).await;

    let erase = ["erase", "--chat", &other.id, "--reason", "asked", "--database", text(&server.database)];
    let (code, said, error) = run(&erase);
    assert!(code == 1 && said.contains("a reader has"), "{said}{error}");
    shipper.kill().expect("it runs");
    shipper.wait().expect("it has ended");
    let checkpoints = || std::fs::read_to_string(&anchor).expect("it is there").matches("\n\n").count();
    let before = checkpoints();
    chat.insist(&mut client, "send", "message=the+last+thing&transcriptPosition=1").await;
    eventually("what came after it is signed", async || (checkpoints() > before + 1).then_some(())).await;
    server.kill();
    // Unless `serve` has come to it before, between two transactions of litestream.
    let (code, _, error) = run(&["purge", "--database", text(&server.database)]);
    assert!(code == 0 || error.contains("no schedule is configured"), "{error}");
    gone(&server.database, &["a secret between us".into()]);
    sealed(&server.database);

    let restored = litestream(&["restore", "-force", "-o", text(&copy), &url]).status().expect("it runs");
    let question = Question { anchors: vec![anchor.clone()], is_copy: true, ..Question::default() };
    let found = verify(&copy, &question, &mut |_, _| {}).expect("it can be read");
    assert!(restored.success() && found.fault_count() == 0 && found.later.is_some(), "{found:?}");
    let said = done(&["restore", text(&copy), "--anchor", text(&anchor)], &server.database);
    assert!(said.contains("is not in this backup"), "{said}");
    server.start_again();
    simulator.stop().await;
}

/// Whoever has the archive open while another file takes its place writes nothing more: the log beside it is that one's by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_and_a_merge_across_a_replacement_leave_the_new_file_whole() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let other = folder.path().join("other.db");
    fill(&other, 9_000).await;
    let server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let (backup, new) = (folder.path().join("b.db"), folder.path().join("n.db"));
    for words in [
        &[
            "sql",
            "--timeout",
            "60s",
            "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c LIMIT 3000000) SELECT count(*) FROM c",
        ][..],
        &["merge", text(&other)],
    ] {
        chat.insist(&mut client, "send", "message=before&transcriptPosition=1").await;
        done(&["backup", text(&backup)], &server.database);
        let mut command = begun(words, &server.database);
        let acts = "SELECT CAST(count(*) AS TEXT) FROM acts WHERE ended_at IS NULL";
        eventually("it has begun", async || (texts(&server.database, acts) == ["1"]).then_some(())).await;
        std::fs::rename(&backup, &new).and_then(|()| std::fs::rename(&new, &server.database)).expect("ours");
        for _ in 0..200 {
            chat.insist(&mut client, "send", "message=meanwhile&transcriptPosition=1").await;
        }
        command.wait().expect("it ends");
        chat.insist(&mut client, "send", "message=after&transcriptPosition=1").await;
        eventually("it is recorded", async || server.metric("gms_recorder_recording_up").await.filter(|up| *up == 1.0))
            .await;
        let connection = Connection::open(&server.database).expect("an archive");
        let found: String =
            connection.query_row("PRAGMA integrity_check", (), |row| row.get(0)).expect("it can be read");
        assert_eq!(found, "ok", "{words:?}");
        sealed(&server.database);
    }
    simulator.stop().await;
}
