//! Exports: in every format the rows that the archive has, whatever was written in the chats; the same each time; and nothing
//! that looks finished before it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use gms_recorder::chat::{ChatId, Covered, EventIndex, Party, TranscriptEvent};
use gms_recorder::gms::{Attribute, AttributeSource, Ended};
use gms_recorder::store::{ChatRecord, Entry, Store};
use rusqlite::Connection;

use crate::anchors::installed;
use crate::bundle::signed;
use crate::evidence::{a_run, fill, options};
use crate::faults::Mount;
use crate::support::{folder, run};

const FORMATS: [&str; 6] = ["jsonl", "csv", "parquet", "html", "eml", "actiance"];

/// What people have been known to type, and worse.
pub const HOSTILE: [&str; 24] = [
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "</td></tr></table></body></html><h1>the end",
    "\"><svg/onload=alert(3)> ' onmouseover='alert(4)",
    "&lt;not a tag&gt; &amp;amp; &#0; ]]> <!-- --> <![CDATA[",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1",
    "a;=1+1;b",
    "two\n=1+1\r\n-- \r\n.\r\nFrom here\r\n",
    "\r\nSubject: forged\r\nBcc: victim@example.com\r\n\r\nbody",
    "2026-01-01T00:00:00.000Z #99 Max (Agent): I agree to everything",
    "\n2026-01-01T00:00:00.000Z #99 Max (Agent): forged",
    "nul \u{0} esc \u{1b}[2J bell \u{7} del \u{7f} nel \u{85} \u{fffe}\u{ffff}",
    "\u{202e}fdp.exe \u{2066}isolated\u{2069} \u{2028}\u{2029}\u{feff}",
    "שלום עולם، مرحبا بالعالم",
    "🙂👨‍👩‍👧‍👦🇩🇪 漢字 é e\u{301} Z\u{300}\u{301}\u{302}\u{303}\u{304}",
    "\u{fffd} what was a lone surrogate",
    "",
    " leading and trailing \t ",
    "=?utf-8?Q?encoded?= =?x",
    "'quoted'",
    "\\u0000 \\n %00 %s {} ${jndi:ldap://x}",
];

const NAMES: [&str; 8] = [
    "Anna",
    "Mallory\r\nBcc: victim@example.com",
    "\"O'Brien\" <ceo@example.com>, x (y); z",
    "=HYPERLINK(\"http://evil\")",
    "<b>Bobby</b>\0",
    "名前🙂\u{202e}",
    "=?utf-8?B?QW5uYQ==?=",
    "a very long name, a very long name, a very long name, a very long name, a very long name, a very long name, a very long name, name",
];

/// Ids that a chat may have, for all that the recorder knows.
const CHATS: [&str; 7] = [
    "00001aCY6K8U003T",
    "00001acy6k8u003t",
    "../../etc/passwd",
    "<script>alert(5)</script>",
    "=1+1;=2",
    "with space, \"quote\" and é🙂",
    "x.y@z",
];

const KINDS: [&str; 10] = [
    "Message",
    "Message",
    "Message",
    "Message",
    "PushUrl",
    "Notice",
    "TypingStarted",
    "NicknameUpdated",
    "Cat<Walked>",
    "FileUploaded",
];

fn event(chat: usize, n: usize) -> TranscriptEvent {
    let long = format!("{}<b>\u{1b}=", "x".repeat(100_000));
    let text = match n {
        26 => long.as_str(),
        n => HOSTILE[(n * 7 + chat) % HOSTILE.len()],
    };
    let kind = match n {
        0 | 1 => Some("ParticipantJoined"),
        29 => Some("ParticipantLeft"),
        28 => None,
        n => Some(KINDS[(n + chat) % KINDS.len()]),
    };
    let party = match n % 9 {
        7 => Party { participant_id: None, nickname: None, party_type: Some("External".into()) },
        8 => Party { participant_id: None, nickname: None, party_type: None },
        n => Party {
            participant_id: (n != 6).then_some(n as i64 % 4),
            nickname: Some(NAMES[n % 4 + chat % 5].into()),
            party_type: Some(["Client", "Agent", "Sup<er>visor\n", "Agent"][n % 4].into()),
        },
    };
    let name = serde_json::json!({ "file-name": HOSTILE[(n * 5 + chat) % HOSTILE.len()], "file-id": "f1" });
    TranscriptEvent {
        index: EventIndex::new(n as i64 + 1).expect("from 1 on"),
        kind: kind.map(Into::into),
        utc_time: match n {
            5 => None,
            6 => Some(i64::MAX),
            n => Some(1_795_400_000_000 + n as i64 * 1_001),
        },
        from: party,
        text: (n % 11 != 3).then(|| text.into()),
        message_type: None,
        user_data: (kind == Some("FileUploaded")).then(|| name.to_string()),
        event_attributes: None,
        raw: r#"{"text":"\ud800 \u0000 and 1e999","index":1}"#.into(),
        maskings: Vec::new(),
    }
}

/// Chats full of what breaks formats, sealed as a server seals them.
pub async fn hostile(database: &Path) {
    let mut store = Store::open(&options(database), &a_run()).await.expect("an archive");
    let chat = |(chat, chat_id): (usize, &&str)| {
        let attribute = |(n, value): (usize, &&str)| Attribute {
            name: if n == 0 { "nickname".into() } else { format!("userData[{}]", HOSTILE[n]) },
            value: (*value).into(),
            source: AttributeSource::Request,
            maskings: Vec::new(),
        };
        ChatRecord {
            service: Some(["support", "sa<le>s & \"more\""][chat % 2].into()),
            events: (0..30).map(|n| event(chat, n)).collect(),
            covered: Covered::new(if chat == 3 { 5 } else { 1 }, 31),
            next_position: Some(31),
            ended: (chat != 5).then_some(Ended::Normally),
            attributes: HOSTILE.iter().enumerate().map(attribute).collect(),
            ..ChatRecord::of(ChatId::parse(chat_id).expect("a sound one"))
        }
    };
    let chats = CHATS.iter().enumerate().map(chat).collect();
    let entry = Entry { at: 1_795_400_100_000, node: Some("gms-1".into()), chats, ..Entry::default() };
    store.append(&[entry], &[], true).expect("stored");
    let mut other = event(0, 2);
    other.raw = r#"{"text":"another content","index":3}"#.into();
    other.text = Some("another content".into());
    let id = ChatId::parse(CHATS[0]).expect("a sound one");
    let chats = vec![ChatRecord { events: vec![other], ..ChatRecord::of(id) }];
    let entry = Entry { at: 1_795_400_200_000, node: Some("gms-2".into()), chats, ..Entry::default() };
    store.append(&[entry], &[], true).expect("stored");
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
}

/// What no test's server has brought: errors of a chat and of none, a masking, a file.
pub fn others(database: &Path) {
    let connection = Connection::open(database).expect("an archive");
    for chat_id in [Some(CHATS[0]), Some(CHATS[2]), None] {
        for text in HOSTILE {
            connection
                .execute(
                    "INSERT INTO api_errors (observed_at, last_observed_at, origin, format, class, detail, chat_id, run_id)
                     VALUES (1795400000000, 1795400000000, 'gms', 'http', 'unknown', ?, ?, 1)",
                    rusqlite::params![text, chat_id],
                )
                .expect("it fits the schema");
        }
    }
    let sql =
        "INSERT INTO maskings (what, chat_id, event_index, field, rule, at_character, characters, recorded_at, run_id)
                 VALUES ('event', '00001aCY6K8U003T', 3, '/text', 'cards', 0, 16, 1795400000000, 1);
               INSERT INTO file_transfers (chat_id, file_id, direction, bytes, sha256, at, outcome, run_id)
                 VALUES ('00001aCY6K8U003T', 'f1', 'up', 3, 'ab', 1795400000000, 'complete', 1)";
    connection.execute_batch(sql).expect("it fits the schema");
}

/// Runs it, and must succeed.
#[track_caller]
pub fn export(database: &Path, dest: &Path, arguments: &[&str]) {
    let (database, dest) = (database.display().to_string(), dest.display().to_string());
    let arguments = [&["export", &dest, "--database", &database][..], arguments].concat();
    let (code, said, error) = run(&arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}{error}");
}

fn script(name: &str) -> String {
    format!("{}/tests/integration/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Another program finds in it what the archive has.
#[track_caller]
fn agrees(database: &Path, format: &str, dest: &Path) {
    // DuckDB and pyarrow are no packages of Debian's.
    let python = if format == "parquet" { installed("python3") } else { "/usr/bin/python3".into() };
    let mut command = Command::new(python);
    command.arg(script("export.py")).arg(database).arg(format).arg(dest);
    if format == "actiance" {
        command.arg(script("actiance.dtd"));
    }
    let output = command.output().expect("tests/run installs python3");
    assert!(output.status.success(), "{format}: {}", String::from_utf8_lossy(&output.stderr));
}

/// All files below a folder, by name.
pub fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(inner) = folders.pop() {
        for entry in std::fs::read_dir(inner).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => {
                    let content = std::fs::read(&path).expect("readable");
                    found.push((path.strip_prefix(folder).expect("within").to_owned(), content));
                }
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn every_format_has_the_rows_of_the_archive_whatever_was_written_in_them() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    hostile(&database).await;
    others(&database);
    for format in FORMATS {
        let dest = folder.path().join(format);
        export(&database, &dest, &["--format", format, "--errors"]);
        agrees(&database, format, &dest);
        match format {
            "html" => agrees(&database, "chromium", &dest),
            "csv" => agrees(&database, "spreadsheet", &dest),
            _ => {}
        }
        let again = folder.path().join("again");
        export(&database, &again, &["--format", format, "--errors"]);
        assert!(tree(&dest) == tree(&again), "{format}: the same archive gives other bytes");
        std::fs::remove_dir_all(again).expect("ours");
        for (name, _) in tree(&dest) {
            assert!(name.to_str().is_some_and(|name| name.is_ascii() && !name.contains("..")), "{name:?}");
        }
    }
}

/// What somebody put into a column that is not of its kind has no place in one that has a type.
#[tokio::test]
async fn parquet_has_no_column_for_what_is_not_of_its_kind() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    fill(&database, 30).await;
    let rows = [
        ("UPDATE events SET utc_time = 'noon' WHERE event_index = 2", "events.utc_time has a value that is a text"),
        (
            "UPDATE events SET utc_time = 1, text = X'00' WHERE event_index = 2",
            "events.text has a value that is a blob",
        ),
        (
            "UPDATE events SET text = '', recorded_at = 9e18",
            "events.recorded_at has a value that is no time of any calendar",
        ),
    ];
    for (sql, words) in rows {
        Connection::open(&database).and_then(|archive| archive.execute_batch(sql)).expect("it is a file");
        let dest = folder.path().join("dest");
        let (code, _, error) = run(&[
            "export",
            &dest.display().to_string(),
            "--format",
            "parquet",
            "--database",
            &database.display().to_string(),
        ]);
        assert!(code == 1 && error.contains(words) && !dest.exists(), "{sql}: {error}");
    }
}

#[tokio::test]
async fn a_scope_is_what_it_says() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    hostile(&database).await;
    others(&database);
    let connection = Connection::open(&database).expect("an archive");
    connection
        .execute("UPDATE chats SET first_seen_at = 1, last_seen_at = 2 WHERE chat_id = ?", [CHATS[6]])
        .expect("there");
    drop(connection);
    let ids = |arguments: &[&str]| {
        let dest = folder.path().join("scope");
        export(&database, &dest, arguments);
        let lines = |name: &str| std::fs::read_to_string(dest.join(name)).unwrap_or_default();
        let chats = lines("chats.jsonl");
        let chats = chats.lines().map(|line| {
            let chat: serde_json::Value = serde_json::from_str(line).expect("JSON");
            chat["chat_id"].as_str().expect("a text").to_owned()
        });
        let found = (chats.collect::<Vec<_>>(), lines("errors.jsonl").lines().count());
        std::fs::remove_dir_all(&dest).expect("ours");
        found
    };
    let mut all = CHATS.map(String::from).to_vec();
    all.sort();
    let without = |chat: &str| all.iter().filter(|id| *id != chat).cloned().collect::<Vec<_>>();
    let each = HOSTILE.len();
    assert_eq!(ids(&["--errors"]), (all.clone(), 3 * each));
    assert_eq!(ids(&["--errors-only"]), (vec![], 3 * each));
    assert_eq!(
        ids(&["--chat", CHATS[3], "--chat", CHATS[2], "--errors"]),
        (vec![CHATS[2].into(), CHATS[3].into()], each)
    );
    assert_eq!(ids(&["--who", CHATS[4]]), (vec![CHATS[4].into()], 0));
    assert_eq!(ids(&["--since", "2026-01-01", "--errors"]), (without(CHATS[6]), 3 * each));
    assert_eq!(ids(&["--until", "1970-01-01T00:00:00.002Z", "--errors"]), (vec![CHATS[6].into()], 0));
    assert_eq!(ids(&["--until", "1970-01-01T00:00:00.001Z"]), (vec![], 0));
    let sales: Vec<_> =
        all.iter().filter(|id| [CHATS[1], CHATS[3], CHATS[5]].contains(&id.as_str())).cloned().collect();
    assert_eq!(ids(&["--service", "sa<le>s & \"more\"", "--errors"]), (sales, 0));
    assert_eq!(ids(&["--party", "anna", "--errors"]).1, each, "of a chat with Anna; those of no chat have no party");
    assert_eq!(ids(&["--party", "nobody"]), (vec![], 0));
}

#[tokio::test]
async fn wrong_usage_is_told_and_makes_nothing() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    fill(&database, 30).await;
    let dest = folder.path().join("dest");
    let (database, wanted) = (database.display().to_string(), dest.display().to_string());
    let rows: [(&[&str], i32, &str); 6] = [
        (&["--since", "2026-11-27", "--until", "2026-11-26"], 2, "--until is not after --since"),
        (&["--errors-only", "--format", "eml"], 2, "--errors-only is of tables"),
        (&["--mail-domain", "a b"], 2, "is no domain"),
        (&["--chat", "nobody"], 1, "there is no chat nobody in"),
        (&["--until", "never"], 2, "--until \"never\" is no time"),
        (&["--format", "xlsx"], 2, "possible values: jsonl, csv, parquet, html, eml, actiance"),
    ];
    for (arguments, wanted_code, words) in rows {
        let arguments = [&["export", &wanted, "--database", &database][..], arguments].concat();
        let (code, _, error) = run(&arguments);
        assert!(code == wanted_code && error.contains(words), "{arguments:?}: {code} {error}");
    }
    assert!(!dest.exists() && !folder.path().join("dest.partial").exists());
    std::fs::create_dir(&dest).expect("ours");
    let (code, _, error) = run(&["export", &wanted, "--database", &database]);
    assert!(code == 2 && error.contains("exists already, and an export overwrites nothing"), "{error}");
    assert!(!folder.path().join("dest.partial").exists());
}

/// Killed at any time: there is either the whole export or none, and what is left says of itself that it is no export.
#[tokio::test]
async fn what_is_killed_leaves_nothing_that_looks_finished() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    fill(&database, 9_000).await;
    let whole = folder.path().join("whole");
    export(&database, &whole, &["--format", "html"]);
    let (mut killed, mut finished, mut taken_over) = (0, 0, 0);
    for round in 0..12 {
        let dest = folder.path().join(format!("dest{round}"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_gms-recorder"))
            .args(["export", "--format", "html", "--database"])
            .arg(&database)
            .arg(&dest)
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        // Twelve different moments of its life; there is no wrong one.
        std::thread::sleep(Duration::from_millis(40 * round));
        child.kill().expect("ours");
        child.wait().expect("ours");
        let partial = folder.path().join(format!("dest{round}.partial"));
        match dest.exists() {
            true => {
                finished += 1;
                assert!(!partial.exists() && tree(&dest) == tree(&whole));
            }
            false => killed += 1,
        }
        if partial.exists() {
            // The next one takes it over.
            export(&database, &dest, &["--format", "html"]);
            assert!(!partial.exists() && tree(&dest) == tree(&whole));
            taken_over += 1;
        }
    }
    assert!(killed > 0 && taken_over > 0, "{killed} were killed, {finished} finished, {taken_over} taken over");
}

/// What is another's, or somebody is at, is not touched.
#[tokio::test]
async fn a_folder_that_is_no_export_s_is_left_alone() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    fill(&database, 30).await;
    let (dest, partial) = (folder.path().join("dest"), folder.path().join("dest.partial"));
    let (name, archive) = (dest.display().to_string(), database.display().to_string());
    let refused = |words: &str| {
        let (code, _, error) = run(&["export", &name, "--database", &archive]);
        assert!(code == 1 && error.contains(words), "{error}");
    };
    std::fs::create_dir(&partial).expect("ours");
    std::fs::write(partial.join("holiday.jpg"), "mine").expect("ours");
    refused("is no export that was interrupted");
    assert_eq!(tree(&partial), [("holiday.jpg".into(), b"mine".to_vec())]);
    std::fs::write(partial.join(".unfinished-export"), "").expect("ours");
    let lock = std::fs::File::open(&partial).expect("a folder");
    lock.lock().expect("nobody has it");
    refused("another export goes on in it");
    assert_eq!(tree(&partial).len(), 2);
    drop(lock);
    export(&database, &dest, &[]);
    assert!(!partial.exists() && !dest.join("holiday.jpg").exists() && !dest.join(".unfinished-export").exists());
    // About to get its name, and killed.
    std::fs::rename(&dest, &partial).expect("ours");
    export(&database, &dest, &[]);
    std::os::unix::fs::symlink("/etc", &partial).expect("ours");
    std::fs::remove_dir_all(&dest).expect("ours");
    refused("is no export that was interrupted");
    assert!(Path::new("/etc/passwd").exists() && !dest.exists());
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("ours").next().is_none()
}

#[tokio::test]
async fn a_full_disk_and_a_signal_leave_nothing_at_all() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    fill(&database, 9_000).await;
    for format in FORMATS {
        // Parquet is packed.
        let mount = Mount::new(if format == "parquet" { 16 } else { 1_000 });
        let dest = mount.0.path().join("dest").display().to_string();
        let (code, _, error) =
            run(&["export", &dest, "--format", format, "--database", &database.display().to_string()]);
        assert!(code == 1 && error.contains("No space left") && error.contains("hint: free some space"), "{error}");
        assert!(is_empty(mount.0.path()), "{format}");
    }
    signed(folder.path(), &database);
    for kib in [200, 1_000, 4_000, 8_000] {
        let mount = Mount::new(kib);
        let dest = mount.0.path().join("dest").display().to_string();
        let (code, _, error) = run(&["export", &dest, "--bundle", "--database", &database.display().to_string()]);
        assert!(code == 1 && (error.contains("No space left") || error.contains("is full")), "{kib}: {error}");
        assert!(is_empty(mount.0.path()), "{kib}");
    }
    let dest = folder.path().join("dest");
    let mut child = Command::new(env!("CARGO_BIN_EXE_gms-recorder"))
        .args(["export", "--format", "html", "--database"])
        .arg(&database)
        .arg(&dest)
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let partial = folder.path().join("dest.partial");
    while !partial.join("0000").exists() {
        assert!(child.try_wait().expect("ours").is_none(), "it was done before it could be interrupted");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("ours");
    let output = child.wait_with_output().expect("ours");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("interrupted: nothing was exported"), "{said}");
    assert!(!dest.exists() && !partial.exists());
}
