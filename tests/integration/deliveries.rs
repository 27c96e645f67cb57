//! Continuous exports: all deliveries together are the archive, each event once, whatever is killed, refused or erased meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gms_recorder::chat::{ChatId, EventIndex};
use gms_recorder::gms::{ApiError, Ended, ErrorClass, ErrorFormat, Origin};
use gms_recorder::simulator::{Config, Simulator};
use gms_recorder::store::{ChatRecord, Entry, ErrorRecord, ExchangeFacts, Store};
use http::StatusCode;
use rusqlite::Connection;
use serde_json::Value;

use crate::anchors::{Service, credentials};
use crate::bundle::signed;
use crate::evidence::{a_run, entries, fill, options, sound};
use crate::export::tree;
use crate::faults::Mount;
use crate::support::{Chat, Client, Server, eventually, folder, free_address, get, run};

/// A configuration with one target, `t`, of which this is more.
fn configured(folder: &Path, database: &Path, target: &str) -> PathBuf {
    let file = folder.join("deliver.toml");
    let text = format!("[recording]\ndatabase = {database:?}\n[export.targets.t]\nsettle = \"0s\"\n{target}");
    std::fs::write(&file, text).expect("the folder is ours");
    file
}

fn deliver(config: &Path) -> (i32, String, String) {
    run(&["--config", &config.display().to_string(), "export", "--continue", "t"])
}

#[track_caller]
fn delivered(config: &Path, words: &str) {
    let (code, said, error) = deliver(config);
    assert!(code == 0 && (said.clone() + &error).contains(words), "{code}: {said}{error}");
}

/// All that there is goes to a folder beside the archive.
pub fn brought(folder: &Path, database: &Path) {
    let out = folder.join("deliveries");
    std::fs::create_dir(&out).expect("the folder is ours");
    delivered(&configured(folder, database, &format!("format = \"jsonl\"\nfolder = {out:?}")), "delivery 1: ");
}

fn list(config: &Path) -> Vec<Value> {
    let (code, said, error) = run(&["--config", &config.display().to_string(), "export", "--list", "--format", "json"]);
    assert_eq!(code, 0, "{error}");
    said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// As the writer does.
pub async fn append(database: &Path, entries: &[Entry]) {
    let mut store = Store::open(&options(database), &a_run()).await.expect("an archive");
    store.append(entries, &[], true).expect("stored");
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
}

/// One more event of a chat of [`fill`]'s; with other words of one that is there a variant.
pub fn event(chat: u64, index: i64, text: &str) -> Entry {
    let [mut entry] = <[Entry; 1]>::try_from(entries(chat * 30, 3)).expect("three events make one");
    let mut event = entry.chats[0].events[0].clone();
    event.index = EventIndex::new(index).expect("from 1 on");
    event.text = Some(text.into());
    event.raw = format!(r#"{{"index":{index},"text":"{text}","type":"Message"}}"#);
    let id = entry.chats[0].chat_id.clone();
    entry.chats = vec![ChatRecord { events: vec![event], ..ChatRecord::of(id) }];
    entry
}

pub fn error(chat: Option<u64>, detail: &str) -> Entry {
    let error = ApiError {
        origin: Origin::Gms,
        format: ErrorFormat::Http,
        http_status: Some(500),
        status_code: None,
        code: None,
        class: ErrorClass::Unknown,
        meaning: None,
        field: None,
        detail: Some(detail.into()),
        advice: None,
        reference_id: None,
        service: None,
        operation: None,
        chat_id: chat.and_then(|chat| ChatId::parse(&chat_id(chat))),
        alias: None,
        maskings: Vec::new(),
    };
    let exchange = ExchangeFacts {
        method: "GET".into(),
        path: "/".into(),
        node: None,
        client: "10.0.0.1".into(),
        request_id: None,
        trace_id: None,
        duration_ms: 1,
        maskings: Vec::new(),
    };
    let errors = vec![ErrorRecord { error, exchange: exchange.into() }];
    Entry { at: 1_795_400_000_000, errors, ..Entry::default() }
}

fn chat_id(chat: u64) -> String {
    format!("chat{chat:012}")
}

/// Rows of a table in all deliveries below a folder, in their order.
fn rows(above: &Path, table: &str) -> Vec<Value> {
    let name = Path::new(table).with_extension("jsonl");
    let files = tree(above).into_iter().filter(|(path, _)| path.file_name() == name.file_name());
    let lines = files
        .flat_map(|(_, bytes)| String::from_utf8(bytes).expect("UTF-8").lines().map(str::to_owned).collect::<Vec<_>>());
    lines.map(|line| serde_json::from_str(&line).expect("JSON")).collect()
}

fn text(row: &Value, column: &str) -> String {
    row[column].as_str().map_or_else(|| row[column].to_string(), str::to_owned)
}

/// All that was delivered is what the archive has: events, variants and attributes each once; of what changes the last.
#[track_caller]
fn is_the_archive(above: &Path, database: &Path) {
    let archive = Connection::open(database).expect("an archive");
    let wanted = |sql: &str| {
        let mut select = archive.prepare(sql).expect("sound SQL");
        let rows = select.query_map((), |row| row.get::<_, String>(0)).expect("it runs");
        rows.map(|row| row.expect("a text")).collect::<Vec<_>>()
    };
    let found = |table: &str, columns: &[&str]| {
        let of = |row: &Value| columns.iter().map(|column| text(row, column)).collect::<Vec<_>>().join("|");
        let mut found: Vec<_> = rows(above, table).iter().map(of).collect();
        found.sort();
        found
    };
    let events = "SELECT chat_id || '|' || event_index || '|' || raw FROM events ORDER BY 1";
    assert_eq!(found("events", &["chat_id", "event_index", "raw"]), wanted(events));
    let variants = "SELECT chat_id || '|' || event_index || '|' || raw FROM event_variants ORDER BY 1";
    assert_eq!(found("variants", &["chat_id", "event_index", "raw"]), wanted(variants));
    let last = |table: &str, key: &str, column: &str| {
        let rows = rows(above, table);
        rows.iter().map(|row| (text(row, key), text(row, column))).collect::<BTreeMap<_, _>>()
    };
    let chats = last("chats", "chat_id", "highest_index").into_iter().map(|(id, index)| format!("{id}|{index}"));
    assert_eq!(chats.collect::<Vec<_>>(), wanted("SELECT chat_id || '|' || highest_index FROM chats ORDER BY 1"));
}

#[tokio::test]
async fn all_deliveries_together_are_the_archive() {
    let (folder, out) = (folder(), folder());
    let database = folder.path().join("transcripts.db");
    fill(&database, 900).await;
    let config =
        configured(folder.path(), &database, &format!("format = \"jsonl\"\nerrors = true\nfolder = {:?}", out.path()));
    append(&database, &[error(Some(2), "early"), error(None, "of nobody")]).await;
    delivered(&config, "delivery 1: 30 chats, 932 rows in all");
    is_the_archive(out.path(), &database);
    assert_eq!(rows(out.path(), "errors").len(), 2);
    // Nothing new: nothing is written, neither here nor there.
    let before = (tree(out.path()), list(&config));
    delivered(&config, "nothing is due");
    assert_eq!((tree(out.path()), list(&config)), before);
    // Late events, a variant, errors, new chats; and what is here already.
    let mut more = entries(900, 60);
    more.extend([
        event(3, 31, "late"),
        event(4, 2, "otherwise"),
        error(Some(5), "late"),
        error(None, "late, of nobody"),
    ]);
    more.extend(entries(0, 30));
    append(&database, &more).await;
    // What was delivered again counts as coverage by another run.
    delivered(&config, "delivery 2: 2 chats, 4 additions");
    is_the_archive(out.path(), &database);
    let second = out.path().join("t-0000002");
    let of = |table: &str| rows(&second, table).iter().map(|row| text(row, "chat_id")).collect::<Vec<_>>();
    assert_eq!(of("chats"), [0, 3, 4, 5, 30, 31].map(chat_id));
    assert_eq!(of("events").len(), 61);
    assert_eq!(of("variants"), [chat_id(4)]);
    assert_eq!(of("errors"), [chat_id(5), "null".into()]);
    assert_eq!(of("removals"), Vec::<String>::new());
    for number in [1, 2] {
        let place = out.path().join(format!("t-000000{number}"));
        let checked =
            Command::new("sha256sum").args(["-c", "--quiet", "manifest-sha256.txt"]).current_dir(place).status();
        assert!(checked.expect("it is there").success());
    }
    let made = list(&config);
    let leaves = |n: usize| (made[n]["number"].as_i64(), made[n]["outcome"].as_str());
    assert_eq!([leaves(0), leaves(1)], [(Some(1), Some("delivered")), (Some(2), Some("delivered"))]);
    let archive = Connection::open(&database).expect("an archive");
    let gaps = "SELECT count(*) FROM deliveries d WHERE from_leaf <> coalesce((SELECT to_leaf FROM deliveries WHERE number = d.number - 1), 0)";
    assert_eq!(archive.query_row(gaps, (), |row| row.get::<_, i64>(0)), Ok(0));
    assert!(sound(&database).found.rows > 0);
    // What was acknowledged cannot be made up, or taken back.
    archive.execute("UPDATE deliveries SET rows = rows + 1 WHERE number = 2", ()).expect("it is a file");
    drop(archive);
    let (code, said, _) = run(&["verify", "--database", &database.display().to_string()]);
    assert!(code == 1 && said.contains("deliveries, id 2: it is not as it was sealed"), "{said}");
}

#[tokio::test]
async fn a_chat_waits_until_it_is_over_and_for_its_turn() {
    let (folder, out) = (folder(), folder());
    let database = folder.path().join("transcripts.db");
    let target = format!("format = \"jsonl\"\nchats_max = 4\nfolder = {:?}", out.path());
    let config = configured(folder.path(), &database, &target);
    let now = gms_recorder::recorder::now_ms();
    let live = |chat: u64, ended: Option<Ended>| {
        let mut entry = event(chat, 1, "hello");
        entry.at = now;
        entry.chats[0].ended = ended;
        entry
    };
    append(&database, &[live(0, None), live(1, Some(Ended::Normally))]).await;
    delivered(&config, "delivery 1: 1 chat,");
    assert_eq!(text(&rows(out.path(), "chats")[0], "chat_id"), chat_id(1));
    delivered(&config, "nothing is due");
    append(&database, &[live(0, Some(Ended::Normally))]).await;
    append(&database, &entries(60, 300)).await;
    let (code, said, error) = deliver(&config);
    assert!(code == 0 && said.lines().count() == 3, "{said}{error}");
    assert!(said.contains("delivery 2: 4 chats") && said.contains("delivery 4: 3 chats"), "{said}");
    is_the_archive(out.path(), &database);
    // Not yet, for somebody who wants chats to have settled.
    let config = configured(folder.path(), &database, &target.replace("chats_max", "#"));
    let settled = std::fs::read_to_string(&config).expect("ours").replace("\"0s\"", "\"1h\"");
    std::fs::write(&config, settled.replace("targets.t]", "targets.u]").replace("jsonl", "csv")).expect("ours");
    let (code, said, error) = run(&["--config", &config.display().to_string(), "export", "--continue", "u"]);
    assert!(code == 0 && said.contains("u-0000001  delivery 1: 10 chats"), "{said}{error}");
}

/// What is erased before is never there; what is erased afterwards is told, to whom it was delivered.
#[tokio::test]
async fn what_is_removed_is_followed() {
    let (folder, out) = (folder(), folder());
    let database = folder.path().join("transcripts.db");
    fill(&database, 300).await;
    let config = configured(folder.path(), &database, &format!("format = \"jsonl\"\nfolder = {:?}", out.path()));
    let flags =
        ["--config", &config.display().to_string(), "erase", "--reason", "Art. 17", "--chat"].map(str::to_owned);
    let erase = |chat: u64| {
        let line: Vec<_> = flags.iter().cloned().chain([chat_id(chat)]).collect();
        let (code, said, error) = run(&line.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(code, 0, "{said}{error}");
    };
    erase(1);
    delivered(&config, "delivery 1: 9 chats");
    assert!(!rows(out.path(), "events").iter().any(|row| text(row, "chat_id") == chat_id(1)));
    assert_eq!(rows(out.path(), "removals"), Vec::<Value>::new());
    erase(2);
    delivered(&config, "delivery 2: 0 chats, 1 removal");
    let removals = rows(out.path(), "removals");
    let told = |column: &str| text(&removals[0], column);
    assert_eq!(
        (removals.len(), told("chat_id"), told("how"), told("reason")),
        (1, chat_id(2), "erased".into(), "Art. 17".into())
    );
    assert_eq!(text(&removals[0], "at_utc"), told("at"), "{removals:?}");
    // Masked later: as it is now, and why.
    let masking = std::fs::read_to_string(&config).expect("ours") + "\n[masking.rules]\nparcel = 'parcel'\n";
    std::fs::write(&config, masking).expect("ours");
    let line =
        ["--config", &config.display().to_string(), "mask", "--rule", "parcel", "--reason", "audit"].map(str::to_owned);
    let (code, _, error) = run(&line.each_ref().map(String::as_str));
    assert_eq!(code, 0, "{error}");
    delivered(&config, "delivery 3: 0 chats, 8 additions, 8 removals");
    let third = out.path().join("t-0000003");
    let masked = rows(&third, "events");
    assert!(masked.len() == 240 && masked.iter().all(|row| text(row, "text").contains("******")), "{}", masked.len());
    assert!(rows(&third, "removals").iter().all(|row| text(row, "how") == "masked"));
    sound(&database);
}

/// Every format, whole and as an addition; bundles prove themselves.
#[tokio::test]
async fn every_format_can_be_continued() {
    for (format, bundle) in
        [("csv", false), ("parquet", false), ("html", false), ("eml", true), ("actiance", false), ("jsonl", true)]
    {
        let (folder, out) = (folder(), folder());
        let database = folder.path().join("transcripts.db");
        fill(&database, 90).await;
        let key = signed(folder.path(), &database);
        let target = format!("format = \"{format}\"\nerrors = true\nbundle = {bundle}\nfolder = {:?}", out.path());
        let config = configured(folder.path(), &database, &target);
        delivered(&config, "delivery 1: 3 chats");
        append(&database, &[event(1, 31, "late"), error(None, "of nobody")]).await;
        signed(folder.path(), &database);
        delivered(&config, "delivery 2: 0 chats, 1 addition");
        let second = out.path().join("t-0000002");
        let all: String = tree(&second).iter().map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect();
        let all = all.replace("=\r\n", ""); // as mails break lines
        assert!(format == "parquet" || all.contains("late"), "{format}");
        let says_so = matches!(format, "html" | "eml");
        assert!(
            !says_so || all.contains("an addition: what else there is of this chat was delivered before"),
            "{format}"
        );
        assert!(format != "eml" || all.contains("(addition)"), "{all}");
        if bundle {
            for number in [1, 2] {
                let place = out.path().join(format!("t-000000{number}")).display().to_string();
                let (code, said, error) = run(&["verify", "--bundle", &place, "--key", &key.display().to_string()]);
                assert_eq!(code, 0, "{format}: {said}{error}");
            }
        }
        sound(&database);
    }
}

/// Killed as soon as it is so far, or in the end; whether it was so far.
fn killed_when(config: &Path, is_so_far: impl Fn() -> bool) -> bool {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gms-recorder"))
        .args(["--config", &config.display().to_string(), "export", "--continue", "t"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let was_so_far = loop {
        match (is_so_far(), child.try_wait().expect("ours")) {
            (true, _) => break true,
            (false, Some(_)) => break false,
            (false, None) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    child.kill().expect("ours");
    child.wait().expect("ours");
    was_so_far
}

/// Different moments of its life; there is no wrong one.
fn killed_after(config: &Path, pause: Duration) {
    let until = Instant::now() + pause;
    killed_when(config, || Instant::now() >= until);
}

/// Numbers are without a gap, and nothing is there that was not acknowledged.
#[track_caller]
fn acknowledged(config: &Path, names: &[String]) {
    let mut made = list(config);
    assert!(made.iter().all(|one| one["outcome"] == "delivered"), "{made:?}");
    let wanted: Vec<i64> = (1..).take(made.len()).collect();
    assert_eq!(made.iter().filter_map(|one| one["number"].as_i64()).collect::<Vec<_>>(), wanted);
    let last = made.pop().expect("one at least");
    assert_eq!(names.last(), Some(&format!("t-{:07}", last["number"].as_i64().unwrap_or_default())));
    assert_eq!(names.len(), wanted.len(), "{names:?}");
}

fn names(above: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(above).expect("a folder").flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_folder_gets_each_event_once_however_often_it_is_killed() {
    let (folder, out) = (folder(), folder());
    let database = folder.path().join("transcripts.db");
    let target = format!("format = \"jsonl\"\nchats_max = 40\nfolder = {:?}", out.path());
    let config = configured(folder.path(), &database, &target);
    let mut left = 0;
    for round in 0..16_u64 {
        append(&database, &entries(round * 900, 900)).await;
        append(&database, &[event(round, 31, "late")]).await;
        let is_partial = || names(out.path()).iter().any(|name| name.ends_with(".partial"));
        match round % 2 {
            0 => killed_after(&config, Duration::from_millis(20 * round)),
            _ => drop(killed_when(&config, is_partial)),
        }
        left += usize::from(is_partial());
    }
    let (code, _, error) = deliver(&config);
    assert_eq!(code, 0, "{error}");
    is_the_archive(out.path(), &database);
    acknowledged(&config, &names(out.path()));
    assert!(left > 0, "none was killed while it wrote");
    assert_eq!(names(&folder.path().join("transcripts.db-outbox")), ["t.lock"]);
    sound(&database);
}

/// Everything in a bucket, as somebody downloads it.
#[tokio::test]
async fn what_a_killed_attempt_has_left_goes_with_what_was_erased() {
    let (folder, out) = (folder(), folder());
    let database = folder.path().join("transcripts.db");
    fill(&database, 3_000).await;
    let config = configured(folder.path(), &database, &format!("format = \"jsonl\"\nfolder = {:?}", out.path()));
    let is_partial = || names(out.path()).iter().any(|name| name.ends_with(".partial"));
    assert!(killed_when(&config, is_partial) && is_partial());
    let chats: Vec<String> = (0..100).map(|chat| format!("--chat={}", chat_id(chat))).collect();
    let words = ["erase", "--reason", "Art. 17", "--config", config.to_str().expect("a text")];
    let (code, said, error) = run(&words.into_iter().chain(chats.iter().map(String::as_str)).collect::<Vec<_>>());
    assert_eq!(code, 0, "{said}{error}");
    assert_eq!(deliver(&config).0, 0);
    assert!(!is_partial(), "{:?}", names(out.path()));
    sound(&database);
}

fn download(moto: &Service, bucket: &str, to: &Path) -> Vec<String> {
    let keys = moto.keys(bucket);
    for key in &keys {
        let (is_there, said) = moto.ask("GET", &format!("/{bucket}/{key}"), "", "");
        let (head, body) = said.split_once("\r\n\r\n").expect("a whole answer");
        assert!(is_there && head.to_ascii_lowercase().contains("x-amz-object-lock-mode: compliance"), "{head}");
        let file = to.join(key);
        std::fs::create_dir_all(file.parent().expect("it has one")).expect("the folder is ours");
        std::fs::write(file, body).expect("the folder is ours");
    }
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_gets_each_object_once_locked_however_often_it_is_killed() {
    let (folder, address) = (folder(), free_address());
    let database = folder.path().join("transcripts.db");
    let credentials = credentials(folder.path());
    let target = format!(
        "format = \"jsonl\"\nchats_max = 40\nurl = \"http://{address}\"\nbucket = \"chats\"\nprefix = \"a/\"\ncredentials = {credentials:?}\nretention = \"30d\"\n"
    );
    let config = configured(folder.path(), &database, &target);
    fill(&database, 90).await;
    let (code, _, error) = deliver(&config);
    assert!(code == 1 && error.contains(&address.to_string()), "{error}");
    let moto = Service::moto(address);
    moto.make_bucket("open", false);
    moto.make_bucket("chats", true);
    let to_open = configured(folder.path(), &database, &target.replace("\"chats\"", "\"open\""));
    let (code, _, error) = deliver(&to_open);
    assert!(code == 1 && error.contains("NO OBJECT LOCK") && moto.keys("open").is_empty(), "{error}");
    let config = configured(folder.path(), &database, &target);
    let mut sent = 0;
    for round in 1..13_u64 {
        append(&database, &entries(round * 900, 900)).await;
        let archive = Connection::open(&database).expect("an archive");
        let sql = "SELECT count(*) FROM delivering WHERE is_sent AND staged IS NOT NULL";
        let is_sent = || archive.query_row(sql, (), |row| row.get::<_, i64>(0)).is_ok_and(|count| count > 0);
        match round % 2 {
            0 => killed_after(&config, Duration::from_millis(60 * round)),
            _ => drop(killed_when(&config, is_sent)),
        }
        sent += usize::from(is_sent());
    }
    let (code, _, error) = deliver(&config);
    assert_eq!(code, 0, "{error}");
    assert!(sent > 0, "none was killed on its way");
    let downloaded = folder.path().join("downloaded");
    let keys = download(&moto, "chats", &downloaded);
    is_the_archive(&downloaded, &database);
    let above =
        std::fs::read_dir(downloaded.join("a")).expect("a folder").flatten().next().expect("the archive's").path();
    acknowledged(&config, &names(&above));
    // Once: no key has a second version.
    let (_, said) = moto.ask("GET", "/chats?versions", "", "");
    assert_eq!(said.matches("<Version>").count(), keys.len());
    // Something was erased while one is half there: it is given up, and the next one knows of it.
    append(&database, &entries(20_000, 900)).await;
    let (_, said) = moto.ask("PUT", &format!("/{}", keys[0]), "", ""); // a bucket that is there still
    assert!(!said.is_empty());
    drop(moto);
    let archive = Connection::open(&database).expect("an archive");
    let (code, ..) = deliver(&config);
    assert_eq!(code, 1);
    archive.execute("UPDATE delivering SET is_sent = 1 WHERE staged IS NOT NULL", ()).expect("bookkeeping");
    drop(archive);
    let erased = chat_id(20_000 / 30 + 1);
    let line = ["erase", "--chat", &erased, "--reason", "Art. 17", "--database", &database.display().to_string()]
        .map(str::to_owned);
    assert_eq!(run(&line.each_ref().map(String::as_str)).0, 0);
    let moto = Service::moto(address);
    moto.make_bucket("chats", true);
    delivered(&config, "was given up: something of it was erased or masked after it was made");
    let last = list(&config);
    let outcomes: Vec<_> = last.iter().rev().take(2).map(|one| text(one, "outcome")).collect();
    assert_eq!(outcomes, ["delivered", "given_up"]);
    assert!(
        moto.keys("chats").len() > 8
            && !names(&folder.path().join("transcripts.db-outbox")).iter().any(|name| name.contains("-0"))
    );
    sound(&database);
}

/// Somebody makes a folder like that of a delivery, and notes it as being on its way.
#[tokio::test]
async fn a_delivery_that_was_never_made_is_not_acknowledged() {
    let (folder, out) = (folder(), folder());
    let database = folder.path().join("transcripts.db");
    fill(&database, 300).await;
    let config = configured(folder.path(), &database, &format!("format = \"jsonl\"\nfolder = {:?}", out.path()));
    delivered(&config, "delivery 1: 10 chats");
    append(&database, &[event(3, 31, "late")]).await;
    let (first, second) = (out.path().join("t-0000001"), out.path().join("t-0000002"));
    let copied = Command::new("cp").arg("-r").args([&first, &second]).status();
    assert!(copied.expect("there is one").success());
    let by_hand = Connection::open(&database).expect("an archive");
    let changed = by_hand.execute(
        "UPDATE delivering SET is_sent = 1, staged = (SELECT json_set(made, '$.number', 2, '$.chats', 999,
            '$.destination', replace(made ->> 'destination', '0000001', '0000002')) FROM stagings)",
        (),
    );
    assert_eq!(changed, Ok(1));
    drop(by_hand);
    let (code, said, error) = deliver(&config);
    assert!(code == 0 && said.contains("is there already"), "{said}{error}");
    assert!(said.contains("delivery 3: 0 chats, 1 addition"), "{said}");
    let told: Vec<_> = list(&config).iter().map(|row| (row["number"].clone(), row["chats"].clone())).collect();
    assert_eq!(told, [(1.into(), 10.into()), (2.into(), 0.into()), (3.into(), 0.into())]);
    std::fs::remove_dir_all(&second).expect("the folder is ours");
    is_the_archive(out.path(), &database);
    sound(&database);
}

/// What waits for a bucket, and has something that is erased meanwhile, is made anew: without that, with all the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_and_not_sent_is_made_anew_without_what_was_erased() {
    let (folder, address) = (folder(), free_address());
    let database = folder.path().join("transcripts.db");
    fill(&database, 300).await;
    let credentials = credentials(folder.path());
    let target = format!(
        "format = \"jsonl\"\nurl = \"http://{address}\"\nbucket = \"chats\"\ncredentials = {credentials:?}\nretention = \"30d\"\n"
    );
    let config = configured(folder.path(), &database, &target);
    let moto = Service::moto(address);
    moto.make_bucket("chats", true);
    delivered(&config, "delivery 1: 10 chats");
    drop(moto);
    append(&database, &[event(3, 31, "late")]).await;
    append(&database, &entries(300, 60)).await;
    assert_eq!(deliver(&config).0, 1);
    let outbox = folder.path().join("transcripts.db-outbox");
    assert_eq!(names(&outbox), ["t-0000002", "t.lock"]);
    let (erased, archive) = (chat_id(11), database.display().to_string());
    append(&database, &[event(40, 1, "of another chat")]).await;
    assert_eq!(run(&["erase", "--chat", &chat_id(40), "--reason", "Art. 17", "--database", &archive]).0, 0);
    assert_eq!(names(&outbox), ["t-0000002", "t.lock"], "nothing of it was erased");
    assert_eq!(run(&["erase", "--chat", &erased, "--reason", "Art. 17", "--database", &archive]).0, 0);
    assert_eq!(names(&outbox), ["t.lock"], "not even beside the archive");
    let moto = Service::moto(address);
    moto.make_bucket("chats", true);
    delivered(&config, "delivery 2: 1 chat, 1 addition, 33 rows in all");
    let downloaded = folder.path().join("downloaded");
    download(&moto, "chats", &downloaded);
    let found = rows(&downloaded, "events");
    assert!(found.len() == 31 && !found.iter().any(|row| text(row, "chat_id") == erased));
    assert_eq!(names(&outbox), ["t.lock"]);
    sound(&database);
}

/// moto takes any signature; this one does not. Its buckets are folders, and it locks nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_checks_signatures_takes_files_and_is_not_believed_to_lock() {
    let (folder, buckets, address) = (folder(), folder(), free_address());
    std::fs::create_dir(buckets.path().join("chats")).expect("the folder is ours");
    let database = folder.path().join("transcripts.db");
    fill(&database, 300).await;
    let credentials = credentials(folder.path());
    let target = format!(
        "format = \"html\"\nurl = \"http://{address}\"\nbucket = \"chats\"\ncredentials = {credentials:?}\nlock = \"none\"\n"
    );
    let _rclone = Service::rclone(address, buckets.path());
    let locks = target.replace("lock = \"none\"", "retention = \"30d\"");
    let (code, _, error) = deliver(&configured(folder.path(), &database, &locks));
    assert!(code == 1 && error.contains("LOCK"), "{error}");
    let other = format!("chats_max = 3\n{}", target.replace("/credentials", "/wrong"));
    std::fs::write(folder.path().join("wrong"), "aws_access_key_id=access\naws_secret_access_key=wrong\n")
        .expect("ours");
    std::fs::set_permissions(folder.path().join("wrong"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("ours");
    let (code, _, error) = deliver(&configured(folder.path(), &database, &other));
    assert!(code == 1 && error.contains("SignatureDoesNotMatch") && !error.contains("wrong\n"), "{error}");
    let config = configured(folder.path(), &database, &target);
    delivered(&config, "10 chats");
    let made = tree(&buckets.path().join("chats"));
    assert!(made.iter().filter(|(path, _)| path.extension().is_some_and(|ending| ending == "html")).count() == 11);
    let manifest = made.iter().find(|(path, _)| path.ends_with("manifest-sha256.txt")).expect("it is last");
    let place = buckets.path().join("chats").join(manifest.0.parent().expect("it has one"));
    let checked = Command::new("sha256sum").args(["-c", "--quiet", "manifest-sha256.txt"]).current_dir(place).status();
    assert!(checked.expect("it is there").success());
}

#[tokio::test]
async fn a_full_disk_a_foreign_folder_and_an_older_archive_are_told() {
    let (folder, mount) = (folder(), Mount::new(400));
    let database = folder.path().join("transcripts.db");
    fill(&database, 3_000).await;
    let target = format!("format = \"html\"\nfolder = {:?}", mount.0.path());
    let config = configured(folder.path(), &database, &target);
    let (code, _, error) = deliver(&config);
    assert!(code == 1 && error.contains("No space left"), "{error}");
    assert_eq!(names(mount.0.path()), Vec::<String>::new());
    let config = configured(folder.path(), &database, &format!("{target}\nchats_max = 1"));
    let (code, said, error) = deliver(&config);
    assert!(code == 1 && said.contains("delivery 3: 1 chat") && error.contains("No space left"), "{said}{error}");
    let made = names(mount.0.path());
    acknowledged(&config, &made);
    drop(mount);
    // Where the archive was restored its numbers are given again: nothing is overwritten.
    let out = crate::support::folder();
    std::fs::create_dir(out.path().join(format!("t-{:07}", made.len() + 1))).expect("ours");
    let target = format!("format = \"jsonl\"\nfolder = {:?}", out.path());
    let config = configured(folder.path(), &database, &target);
    let (code, said, error) = deliver(&config);
    assert!(code == 0 && said.contains("was given up") && said.contains("is there already"), "{said}{error}");
    assert!(said.contains(&format!("delivery {}: {} chats", made.len() + 2, 100 - made.len())), "{said}");
    let config = configured(folder.path(), &database, &target.replace(&out.path().display().to_string(), "/nowhere"));
    append(&database, &[event(1, 32, "late")]).await;
    let (code, _, error) = deliver(&config);
    assert!(code == 1 && error.contains("/nowhere"), "{error}");
    let old = folder.path().join("old.db");
    let fixture = include_str!("../fixtures/schema_0007.sql");
    Connection::open(&old).and_then(|old| old.execute_batch(fixture)).expect("a fixture");
    let (code, _, error) = deliver(&configured(folder.path(), &old, &target));
    assert!(code == 1 && error.contains("of an earlier release"), "{error}");
    let (code, _, error) = run(&["export", "--continue", "t", "--database", &database.display().to_string()]);
    assert!(code == 2 && error.contains("[export.targets] of the configuration has no t: there is none"), "{error}");
}

/// What `serve` does by itself, beside its work; a target that is down is told, and gets all of it later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_delivers_by_itself_and_says_what_is_down() {
    let (folder, out, address) = (folder(), folder(), free_address());
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let credentials = credentials(folder.path());
    let settings = format!(
        "[export]\npurge_waits = true\n[retention]\nkeep = \"1d\"\n[export.targets.near]\nformat = \"jsonl\"\nevery = \"1s\"\nsettle = \"0s\"\nfolder = {:?}\n\
         [export.targets.far]\nformat = \"eml\"\nevery = \"1s\"\nsettle = \"0s\"\nurl = \"http://{address}\"\nbucket = \"chats\"\ncredentials = {credentials:?}\nretention = \"30d\"\n",
        out.path()
    );
    let mut server = Server::start(folder.path(), &simulator.addresses(), &settings);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    chat.insist(&mut client, "send", "message=hello").await;
    chat.act(&mut client, "disconnect", "").await.expect("an answer");
    chat.insist(&mut client, "refresh", "transcriptPosition=1").await;
    eventually("it is delivered", async || {
        (server.metric("gms_recorder_export_deliveries_total{target=\"near\"}").await? >= 1.0).then_some(())
    })
    .await;
    let down = "the target far gets no exports: ";
    let ready = async || get(server.admin, "/ready").await.expect("it runs");
    eventually("it is told", async || ready().await.1.contains(down).then_some(())).await;
    assert_eq!(ready().await.0, StatusCode::OK);
    assert_eq!(server.metric("gms_recorder_export_up{target=\"far\"}").await, Some(0.0));
    assert_eq!(server.metric("gms_recorder_export_up{target=\"near\"}").await, Some(1.0));
    let moto = Service::moto(address);
    moto.make_bucket("chats", true);
    eventually("it is well again", async || {
        (server.metric("gms_recorder_export_deliveries_total{target=\"far\"}").await? >= 1.0).then_some(())
    })
    .await;
    assert!(!ready().await.1.contains(down), "{}", ready().await.1);
    // A purge waits for what is not delivered; this chat is.
    let config = server.config.display().to_string();
    let (code, said, error) = run(&["--config", &config, "purge", "--dry-run"]);
    assert!(code == 0 && said.contains("0 chats due"), "{said}{error}");
    assert!(server.stop().success());
    simulator.stop().await;
    is_the_archive(out.path(), &server.database);
    assert!(moto.keys("chats").iter().any(|key| key.ends_with(".eml")));
    let log = server.log();
    assert!(log.contains("chats cannot be exported") && log.contains("chats are exported again"), "{log}");
    sound(&server.database);
}

/// Old chats that a target has not got are kept; those that it has go.
#[tokio::test]
async fn a_purge_waits_for_deliveries_where_it_is_told_to() {
    let (folder, out) = (folder(), folder());
    let database = folder.path().join("transcripts.db");
    fill(&database, 300).await;
    let target = format!(
        "format = \"jsonl\"\nchats_max = 4\nfolder = {:?}\n[retention]\nkeep = \"1d\"\n[export]\npurge_waits = true\n",
        out.path()
    );
    let config = configured(folder.path(), &database, &target);
    let flags = ["--config", &config.display().to_string(), "purge"].map(str::to_owned);
    let purge = || run(&flags.each_ref().map(String::as_str));
    let (code, said, error) = purge();
    assert!(code == 0 && said.contains("10 chats more wait until all targets have them"), "{said}{error}");
    delivered(&config, "delivery 3: 2 chats");
    let (code, said, error) = purge();
    assert!(code == 0 && said.contains("10 chats due"), "{said}{error}");
    delivered(&config, "delivery 4: 0 chats, 10 removals");
    assert!(rows(out.path(), "removals").iter().all(|row| text(row, "how") == "purged"));
}
