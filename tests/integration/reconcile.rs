//! Lists of chat ids against the archive: each difference is told, with its reason, and the numbers add up.

use std::path::Path;
use std::time::Instant;

use gms_recorder::store::Store;
use serde_json::Value;

use crate::evidence::{a_run, entries, fill, options};
use crate::support::{folder, run};

/// What it says of a list, as JSON lines; and its exit code.
fn reconcile(database: &Path, list: &str, arguments: &[&str]) -> (i32, Vec<Value>, String) {
    let path = database.with_file_name("ids.csv");
    std::fs::write(&path, list).expect("the folder is ours");
    let (path, database) = (path.display().to_string(), database.display().to_string());
    let (code, said, error) =
        run(&[&["reconcile", &path, "--utc", "--format", "json", "--database", &database], arguments].concat());
    let lines = said.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    (code, lines, error)
}

fn told(differences: &[Value]) -> Vec<String> {
    let text = |difference: &Value, name: &str| difference[name].as_str().unwrap_or_default().to_owned();
    let one = |one: &Value| format!("{} {} {}", text(one, "difference"), text(one, "chat_id"), text(one, "reason"));
    differences.iter().map(one).collect()
}

/// Chats `chat000000000000` … of thirty events, which begin three seconds after each other; the run begins with the first.
async fn archive(database: &Path) {
    fill(database, 300).await;
}

fn id(chat: u64) -> String {
    format!("chat{chat:012}")
}

#[tokio::test]
async fn both_directions_are_told_with_their_reasons() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    archive(&database).await;
    let all: String = (0..10).map(|chat| format!("{}\n", id(chat))).collect();
    let (code, differences, error) = reconcile(&database, &all, &["--column", "1"]);
    assert_eq!((code, differences.len()), (0, 0), "{error}");
    assert!(error.contains("the same chats"), "{error}");

    let name = database.display().to_string();
    let (code, _, error) = run(&["erase", "--chat", &id(9), "--reason", "asked to", "--database", &name]);
    assert_eq!(code, 0, "{error}");
    // 3 is not listed, nor are 7 and 8, which began later than everything in the list.
    let list = format!(
        "when;Interaction Id;x\n{}",
        [
            format!("2026-11-23T00:00:00Z;{};1", id(0)),
            format!(";{};1", id(1)),
            format!(";{};1", id(2)),
            format!(";{};again", id(2)),
            format!(";{};1", id(4)),
            format!(";{};1", id(5)),
            format!(";{};1", id(6)),
            ";;no id".into(),
            format!(";{};it is spelt so", id(6).to_uppercase().replace("CHAT", "CHAt")),
            format!(";{};erased", id(9)),
            "2020-01-01 00:00;00001aCY6K8U003T;before the archive".into(),
            "2290-01-01 00:00;0008TaFN3SE300QU;after its last run".into(),
            ";0008TaFN3SE300QV;never".into(),
        ]
        .map(|line| line + "\n")
        .concat()
    );
    let (code, differences, error) =
        reconcile(&database, &list, &["--time-column", "when", "--since", "2026-01-01", "--until", "2027-01-01"]);
    assert_eq!(code, 1, "{error}");
    let of = |what: &str| told(&differences).into_iter().filter(|told| told.starts_with(what)).collect::<Vec<_>>();
    assert_eq!(
        of("not_in_archive"),
        [
            "not_in_archive CHAt000000000006 other_spelling".to_owned(),
            format!("not_in_archive {} removed", id(9)),
            "not_in_archive 00001aCY6K8U003T before_the_archive".into(),
            "not_in_archive 0008TaFN3SE300QU never_seen".into(),
            "not_in_archive 0008TaFN3SE300QV never_seen".into(),
        ]
    );
    assert_eq!(
        of("not_in_list"),
        [3, 7, 8].map(|chat| format!("not_in_list {} {}", id(chat), reason(&differences, &id(chat))))
    );
    assert_eq!(differences.len(), 8);
    assert!(
        error.contains("5 ids of the list are not in the archive, 3 chats of the archive are not in the list"),
        "{error}"
    );
    assert!(differences[1]["detail"].as_str().is_some_and(|detail| detail.contains("(asked to)")), "{differences:#?}");

    let path = database.with_file_name("ids.csv").display().to_string();
    let (_, text, _) = run(&["reconcile", &path, "--utc", "--time-column", "when", "--database", &name]);
    assert!(
        text.contains("12 with an id, 1 of them repeated: 11 ids") && text.contains("the first is line 9"),
        "{text}"
    );
    assert!(text.contains("6; 5 of the list are not in the archive"), "{text}");
}

/// It depends on the clock whether a chat goes on still.
fn reason<'d>(differences: &'d [Value], chat_id: &str) -> &'d str {
    let found = differences.iter().find(|one| one["chat_id"] == chat_id).expect("it is told");
    let reason = found["reason"].as_str().expect("a text");
    assert!(["not_listed", "open"].contains(&reason), "{found}");
    reason
}

#[tokio::test]
async fn a_time_without_a_recorder_explains_what_is_missing_of_it() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    let mut store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    store.append(&entries(0, 30), &[], true).expect("stored");
    store.finish(1_795_400_000_000 + 3_600_000, "{}").expect("noted");
    store.close().expect("closed");
    let mut later = a_run();
    later.started_at += 2 * 3_600_000;
    let store = Store::open(&options(&database), &later).await.expect("an archive");
    store.finish(later.started_at + 3_600_000, "{}").expect("noted");
    store.close().expect("closed");
    let list = "id,start\n00001aCY6K8U003T,1795405400\n00001aCY6K8U003U,1795401800000\n";
    let (_, differences, _) = reconcile(&database, list, &["--time-column", "start"]);
    let wanted = ["not_in_archive 00001aCY6K8U003T not_recording", "not_in_archive 00001aCY6K8U003U never_seen"];
    assert_eq!(told(&differences)[..2], wanted);
}

#[tokio::test]
async fn what_is_no_list_is_said() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    archive(&database).await;
    let rows = |chat| format!("{},{}\n", id(chat), if chat == 9 { "\"Eva" } else { "Bob" });
    let unclosed = format!("id,name\n{}", (0..45).map(rows).collect::<String>());
    for (list, arguments, wanted_code, words) in [
        ("", &[][..], 2, "the list is empty"),
        ("name;age\nAnna;30\n", &[], 2, "no column of the list looks like chat ids"),
        ("id\nx\n", &["--column", "chat"], 2, "the list has no such column; its first line has: id"),
        ("id\nx\n", &["--time-column", "when"], 2, "--time-column \"when\""),
        ("id\nx\n", &["--since", "never"], 2, "--since \"never\" is no time"),
        ("id\nx\n", &["--since", "2026-11-27", "--until", "2026-11-26"], 2, "--until is not after --since"),
        ("id,time\nx,2026-11-26\n", &["--until", "2026-11-26"], 2, "--until is not after 2026-11-26 00:00:00"),
        ("id,time\nx,2026-11-26\n", &["--since", "2026-11-27"], 2, "--since is not before 2026-11-26 00:00:00"),
        ("id,Start\nx,11/26/2026\n", &["--time-column", "Start"], 2, "none of its times can be read"),
        (&unclosed, &[], 1, "line 11: a quotation mark is never closed"),
    ] {
        let (code, differences, error) = reconcile(&database, list, arguments);
        assert!(code == wanted_code && differences.is_empty() && error.contains(words), "{list}: {code} {error}");
    }
    let (code, _, error) = run(&["reconcile", "/nowhere/ids.csv", "--database", &database.display().to_string()]);
    assert!(code == 1 && error.contains("/nowhere/ids.csv"), "{error}");
    let of_archive = folder.path().display().to_string();
    let (code, _, error) = run(&["reconcile", &of_archive, "--database", &database.display().to_string()]);
    assert!(code == 1 && error.contains(&of_archive) && error.contains("directory"), "{error}");
}

/// A list of some of the chats, whose time is its own, does not have the same as the archive.
#[tokio::test]
async fn what_began_before_or_after_the_list_is_counted() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    archive(&database).await;
    let list: String = (2..6).map(|chat| format!("{}\n", id(chat))).collect();
    let list = format!("List of November\nChatId\n{list}");
    let whole = ["--since", "2026-01-01", "--until", "2100-01-01"];
    let beyond = "chats of the archive began before or after that time: not compared (--since, --until)";
    for (arguments, wanted, words) in [
        (&[][..], 0, format!("of the time compared, the list and the archive have the same chats; 6 {beyond}")),
        (&whole[..2], 1, format!("4 {beyond}")),
        (&whole, 1, "6 chats of the archive are not in the list".into()),
        (&["--since", "2001-01-01", "--until", "2001-02-01"], 0, "of the archive nothing was compared".into()),
    ] {
        let (code, differences, error) = reconcile(&database, &list, arguments);
        assert!(code == wanted && error.contains(&words), "{arguments:?}: {code} {error}");
        assert!(differences.iter().all(|one| one["difference"] == "not_in_list"), "{differences:#?}");
    }
}

/// A long list goes through a temporary file, not through memory, and each of its lines counts.
#[tokio::test]
async fn a_list_of_many_lines_adds_up() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    archive(&database).await;
    let list: String = std::iter::once("ChatId\n".to_owned())
        .chain((0..50_000).map(|chat| format!("{}\n", id(chat % 40_000))))
        .collect();
    let began = Instant::now();
    let (code, differences, error) = reconcile(&database, &list, &[]);
    println!("50,000 lines in {:?}", began.elapsed());
    assert_eq!((code, differences.len()), (1, 39_990), "{error}");
    assert!(error.contains("39990 ids of the list"), "{error}");
    assert_eq!(differences[0]["line"], 12);
    assert_eq!(differences[39_989]["line"], 40_001);
}

/// A chat that another proxy has recorded is not missing.
#[tokio::test]
async fn several_archives_are_held_against_it_as_one() {
    let folder = folder();
    let [one, other] = ["one.db", "other.db"].map(|name| folder.path().join(name));
    for (database, from) in [(&one, 0), (&other, 60)] {
        let mut store = Store::open(&options(database), &a_run()).await.expect("an archive");
        store.append(&entries(from, 60), &[], true).expect("stored");
        store.close().expect("closed");
    }
    let list: String = (0..4).map(|chat| format!("{}\n", id(chat))).collect();
    let other = other.display().to_string();
    let (code, differences, error) = reconcile(&one, &list, &["--column", "1", "--database", &other]);
    assert_eq!((code, differences.len()), (0, 0), "{error}");
    let (_, differences, _) = reconcile(&one, &list, &["--column", "1"]);
    assert_eq!(told(&differences), [2, 3].map(|chat| format!("not_in_archive {} never_seen", id(chat))));
}
