//! Erasing, purging, holding: what is removed is gone to the last byte, what is held stays, and the evidence stands.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gms_recorder::chat::{ChatId, Covered, EventIndex, Masking, Party, TranscriptEvent};
use gms_recorder::gms::{Attribute, AttributeSource, Finding, FindingKind};
use gms_recorder::simulator::{Config, Simulator};
use gms_recorder::store::custody::{Act, Actor, Cleaned, Custody, Customer, How, Kind, Outcome, Scope, Target};
use gms_recorder::store::{ChatRecord, Entry, Store};
use rusqlite::Connection;

use crate::bundle::signed;
use crate::evidence::{a_run, entries, fill, options, sealed, sound};
use crate::faults::Mount;
use crate::search::index;
use crate::spool::lock;
use crate::support::{Archive, Chat, Client, Server, count, eventually, folder, run};

pub fn actor() -> Actor {
    Actor { who: "officer".into(), via: None, host: "here".into(), case_ref: Some("C-7".into()) }
}

fn act<'a>(kind: Kind, actor: &'a Actor) -> Act<'a> {
    Act {
        kind,
        at: 1_795_600_000_000,
        actor,
        asked: serde_json::json!({"command": kind.as_str()}),
        reason: Some("asked for"),
    }
}

/// Erases chats, and cleans.
fn erase(database: &Path, chats: &[&str]) -> Vec<Outcome> {
    let custody = Custody::open(database).expect("an archive");
    let actor = actor();
    let act_id = custody.begin(&act(Kind::Erase, &actor)).expect("noted");
    let targets: Vec<Target> = chats.iter().map(|chat| Target::of(*chat)).collect();
    let mut outcomes = Vec::new();
    custody
        .remove(act_id, How::Erased, &targets, || 1_795_600_000_001, &mut |_, outcome| outcomes.push(outcome))
        .expect("removed");
    let rows = |outcome: &Outcome| if let Outcome::Removed { rows, .. } = outcome { *rows } else { 0 };
    custody.end(act_id, 1_795_600_000_002, outcomes.iter().map(rows).sum()).expect("noted");
    assert_eq!(custody.clean(&mut |_, _| {}).expect("cleaned"), Cleaned::All);
    outcomes
}

/// Each kind of act: a hold that is released and one that is not, a chat that waits because of it, and one that is erased.
pub fn acts(database: &Path, held: &str, erased: &str) {
    let custody = Custody::open(database).expect("an archive");
    let actor = actor();
    let released = custody.hold(&act(Kind::Hold, &actor), &Scope::Chat("x".into())).expect("held");
    assert!(custody.release(&act(Kind::Unhold, &actor), released).expect("released"));
    assert!(!custody.release(&act(Kind::Unhold, &actor), released).expect("nothing to release"));
    let customer = Customer::parse("email=ANNA@example.com").expect("a customer");
    let by = custody.hold(&act(Kind::Hold, &actor), &Scope::Customer(customer)).expect("held");
    let outcomes = erase(database, &[held, erased]);
    assert!(matches!(outcomes[..], [Outcome::Held(held_by), Outcome::Removed { .. }] if held_by == by), "{outcomes:?}");
    let erasing = custody.begin(&act(Kind::Erase, &actor)).expect("noted");
    custody.let_wait(erasing, 1_795_600_000_003, &[(held.into(), by)]).expect("noted");
    custody.end(erasing, 1_795_600_000_003, 0).expect("noted");
    assert_eq!(custody.waiting().expect("read").len(), 1);
}

/// Every file of the database.
fn files(database: &Path) -> Vec<PathBuf> {
    let name = database.file_name().expect("a file").to_string_lossy().into_owned();
    let folder = database.parent().expect("in a folder").read_dir().expect("it is there");
    let of_it = folder.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()); // no socket
    of_it.filter(|path| path.file_name().is_some_and(|found| found.to_string_lossy().starts_with(&name))).collect()
}

/// Which of these a file holds.
fn found_in(file: &Path, texts: &[String]) -> String {
    let patterns = tempfile::NamedTempFile::new().expect("there is room");
    std::fs::write(patterns.path(), texts.join("\n")).expect("there is room");
    let found =
        Command::new("grep").args(["-aoFf"]).arg(patterns.path()).arg(file).output().expect("every system has it");
    String::from_utf8_lossy(&found.stdout).into_owned()
}

/// No byte of it, in any file. A word of the full-text index stands there without the first letters that it has in common with the
/// one before.
#[track_caller]
pub fn gone(database: &Path, texts: &[String]) {
    let is_word = |text: &&String| text.len() >= 12 && text.chars().all(|c| c.is_ascii_alphanumeric());
    let ends = texts.iter().filter(is_word).map(|word| word[4..].to_lowercase());
    let sought: Vec<String> = texts.iter().cloned().chain(ends).collect();
    for file in files(database) {
        assert_eq!(found_in(&file, &sought), "", "{}", file.display());
    }
}

#[tokio::test]
async fn what_is_erased_is_gone_and_the_rest_is_as_it_was_sealed() {
    let folder = folder();
    let database = folder.path().join("a.db");
    fill(&database, 3_000).await;
    index(&database);
    let before = sealed(&database).found.leaves;
    let chats = ["chat000000000003", "chat000000000050"];
    assert_eq!(erase(&database, &chats), vec![Outcome::Removed { events: 30, rows: 32 }; 2]);
    let after = sealed(&database).found;
    assert_eq!((after.removals, after.is_unclean), ((2, 1), false));
    assert!(after.leaves > before && after.erased > 64, "{after:?}");
    let texts: Vec<String> =
        ["3", "50"].iter().flat_map(|chat| (0..30).map(move |n| format!("message {n} of chat {chat}:"))).collect();
    gone(&database, &texts);
    assert_eq!(erase(&database, &chats), vec![Outcome::GoneBefore; 2]);
    sealed(&database);

    let mut store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    let again = store.append(&entries(90, 30), &[], true).expect("stored");
    let sum = again.tallies.iter().fold(gms_recorder::store::Tally::default(), |sum, one| sum.plus(*one));
    assert_eq!((sum.suppressed, sum.new, sum.duplicate), (30, 0, 0));
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
    sealed(&database);
    gone(&database, &texts);
}

/// Of a chat and a place in it, and of nobody else: what must not be found again.
fn secret(chat: usize, n: usize) -> String {
    format!("{:016x}", (chat as u64 * 1_000 + n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn name_of(chat: usize) -> String {
    format!("chat{chat:012}")
}

fn address_of(chat: usize) -> String {
    format!("{}@example.com", secret(chat, 900))
}

const SERVICES: [&str; 3] = ["sales", "claims", "news"];
/// A long time ago.
const THEN: i64 = 1_700_000_000_000;

/// Chats with attributes, in the order of nobody, so that the trees are balanced again and again.
async fn many(database: &Path, chats: usize) {
    let mut store = Store::open(&options(database), &a_run()).await.expect("an archive");
    let answer = |chat: usize, n: usize| {
        let text = secret(chat, n);
        let long = "y".repeat([10, 60, 9_000][(chat + n) % 3]);
        let event = TranscriptEvent {
            index: EventIndex::new(n as i64 + 1).expect("from 1 on"),
            kind: Some("Message".into()),
            utc_time: Some(THEN),
            from: Party::default(),
            text: Some(text.as_str().into()),
            message_type: None,
            user_data: None,
            event_attributes: None,
            raw: format!(r#"{{"text":"{text}","x":"{long}"}}"#),
            maskings: Vec::new(),
        };
        let attribute = Attribute {
            name: "emailAddress".into(),
            value: address_of(chat),
            source: AttributeSource::Request,
            maskings: Vec::new(),
        };
        let subject = Attribute {
            name: "subject".into(),
            value: secret(chat, 901) + &"v".repeat(chat * 37 % 1_000),
            source: AttributeSource::Request,
            maskings: Vec::new(),
        };
        let record = ChatRecord {
            service: Some(SERVICES[chat % 3].into()),
            events: vec![event],
            covered: Covered::new(n as i64 + 1, n as i64 + 2),
            next_position: Some(n as i64 + 2),
            attributes: if n == 0 { vec![attribute, subject] } else { Vec::new() },
            ..ChatRecord::of(ChatId::parse(&name_of(chat)).expect("a sound one"))
        };
        Entry { at: THEN + chat as i64 * 1_000, node: Some("gms-1".into()), chats: vec![record], ..Entry::default() }
    };
    // Strides that have no divisor in common with the number of chats.
    for n in 0..4 {
        let order = (0..chats).map(|place| (place * 7_919 + n * 13) % chats);
        let answers: Vec<Entry> = order.map(|chat| answer(chat, n)).collect();
        for batch in answers.chunks(20) {
            store.append(batch, &[], n == 3).expect("stored");
        }
    }
    let finding = Finding {
        kind: FindingKind::NotJson,
        chat_id: None,
        detail: "no JSON".into(),
        raw: OF_NO_CHAT.into(),
        raw_length: OF_NO_CHAT.len(),
        events: 0,
        maskings: Vec::new(),
    };
    let entry = Entry { at: THEN, findings: vec![finding], ..Entry::default() };
    store.append(&[entry], &[], true).expect("stored");
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
    index(database);
}

/// In a finding that is of no chat.
const OF_NO_CHAT: &str = "nobody knows whose words these are";

fn secrets(chats: impl Iterator<Item = usize>) -> Vec<String> {
    chats.flat_map(|chat| (0..4).chain([900, 901]).map(move |n| secret(chat, n))).collect()
}

/// A `serve` cleans beside a command: whoever comes to the end second finds it done.
#[tokio::test]
async fn what_another_has_cleaned_meanwhile_is_clean() {
    let folder = folder();
    let database = folder.path().join("a.db");
    many(&database, 30).await;
    let [custody, other] = [(); 2].map(|()| Custody::open(&database).expect("an archive"));
    let actor = actor();
    let act_id = custody.begin(&act(Kind::Erase, &actor)).expect("noted");
    let targets = [Target::of(name_of(3))];
    custody.remove(act_id, How::Erased, &targets, || 1_795_600_000_001, &mut |_, _| {}).expect("removed");
    let mut others = Vec::new();
    let own = custody.clean(&mut |_, _| others.push(other.clean(&mut |_, _| {}).expect("cleaned")));
    assert_eq!((others.first(), own.expect("cleaned")), (Some(&Cleaned::All), Cleaned::All));
    gone(&database, &secrets([3].into_iter()));
}

/// SQLite alone leaves copies in pages that it has balanced: this test is to see them, and then not any longer.
#[tokio::test]
async fn no_copy_is_left_where_pages_were_balanced() {
    let folder = folder();
    let database = folder.path().join("a.db");
    many(&database, 1_000).await;
    let custody = Custody::open(&database).expect("an archive");
    let actor = actor();
    let mut left_by_sqlite = 0;
    let fold = Connection::open(&database).expect("an archive");
    for round in 0..3 {
        let chats = || (0..1_000).filter(move |chat| chat % 3 == round);
        let act_id = custody.begin(&act(Kind::Erase, &actor)).expect("noted");
        let mut in_no_order: Vec<usize> = chats().collect();
        in_no_order.sort_by_key(|chat| secret(*chat, 1));
        let targets: Vec<Target> = in_no_order.into_iter().map(|chat| Target::of(name_of(chat))).collect();
        custody.remove(act_id, How::Erased, &targets, || 1_795_600_000_001, &mut |_, _| {}).expect("removed");
        fold.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("nobody reads");
        left_by_sqlite += found_in(&database, &secrets(chats())).lines().count();
        assert_eq!(custody.clean(&mut |_, _| {}).expect("cleaned"), Cleaned::All);
        gone(&database, &secrets(chats()));
        sealed(&database);
        let sound: String =
            fold.query_row("PRAGMA integrity_check", (), |row| row.get(0)).expect("it can be looked at");
        assert_eq!(sound, "ok");
    }
    println!("{left_by_sqlite} copies were left by SQLite");
    assert!(left_by_sqlite > 0, "then nothing of this is needed any longer");
    let length = || std::fs::metadata(&database).expect("it is there").len();
    let before = length();
    assert!(custody.give_space_back().expect("given back") > 500);
    fold.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("nobody reads");
    assert!(length() < before / 2, "{before} bytes before, {} now", length());
    sealed(&database);
}

fn command(database: &Path, words: &[&str]) -> (i32, String, String) {
    run(&[words, &["--database", &database.display().to_string()]].concat())
}

#[tokio::test]
async fn what_is_held_stays_whatever_is_asked() {
    let folder = folder();
    let database = folder.path().join("a.db");
    many(&database, 60).await;
    let email = format!("email={}@EXAMPLE.com", secret(6, 900));
    let query = "SELECT chat_id FROM chats WHERE service = 'claims'";
    for (on, chats) in [(["--chat", "chat000000000003"], 1), (["--who", &email], 1), (["--query", query], 20)] {
        let asked = ["hold", on[0], on[1], "--reason", "court", "--case", "L-1", "--format", "json"];
        let (code, said, error) = command(&database, &asked);
        assert!(code == 0 && said.contains(&format!("\"chats\":{chats}}}")), "{said}{error}");
    }
    let (code, _, error) = command(&database, &["hold", "--list", "--chat", "chat000000000003"]);
    assert!(code == 2 && error.contains("'--list' cannot be used with"), "{error}");
    for (wrong, wanted_code, why) in [
        ("DELETE FROM chats", 2, "it is to be one SELECT"),
        ("SELECT chat_id, service FROM chats", 2, "it is to be one SELECT"),
        ("SELECT nobody FROM chats", 2, "no such column"),
        ("SELECT 1 FROM chats", 1, "it gave Integer values"),
        ("SELECT json(chat_id) FROM chats", 1, "it failed when it was run"),
    ] {
        let (code, _, error) = command(&database, &["hold", "--query", wrong, "--reason", "court"]);
        assert!(code == wanted_code && error.contains(&format!("its query: {why}")), "{wrong}: {error}");
    }
    let config = folder.path().join("retention.toml");
    std::fs::write(
        &config,
        "[retention]\nkeep = \"forever\"\n[retention.services]\nsales = \"7y\"\nclaims = \"90d\"\nnews = \"30d\"\n",
    )
    .expect("the folder is ours");
    let config = config.display().to_string();
    let before = sealed(&database).found;
    let (code, said, error) = command(&database, &["purge", "--dry-run", "--format", "json", "--config", &config]);
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("nothing was removed"), "{error}");
    let wanted = [
        "\"service\":\"claims\",\"keep\":\"90d\"",
        "\"chats\":0,\"held\":20",
        "\"service\":\"news\"",
        "\"chats\":20,\"held\":0",
    ];
    wanted.iter().for_each(|part| assert!(said.contains(part), "{part}: {said}"));
    assert_eq!(sealed(&database).found.leaves, before.leaves, "nothing was done, and nothing is noted");

    let (code, said, error) = command(&database, &["purge", "--config", &config]);
    assert_eq!(code, 0, "{error}");
    assert!(said.contains("20 chats removed"), "{said}");
    let news = || (0..60).filter(|chat| chat % 3 == 2);
    gone(&database, &secrets(news()));
    let chats = ["chat000000000003", "chat000000000004", "chat000000000006", "chat000000000009"];
    let named: Vec<&str> = chats.iter().flat_map(|chat| ["--chat", *chat]).collect();
    let erase = [&["erase", "--reason", "asked", "--format", "csv"], &named[..]].concat();
    let (code, said, error) = command(&database, &erase);
    assert_eq!(code, 1, "{error}");
    let wanted = [
        "chat000000000003,held,,,1",
        "chat000000000004,held,,,3",
        "chat000000000006,held,,,2",
        "chat000000000009,erased,4,",
    ];
    wanted.iter().for_each(|line| assert!(said.contains(line), "{line}: {said}"));
    sealed(&database);

    let (_, waiting, _) = command(&database, &["erase", "--list", "--utc"]);
    assert!(waiting.lines().count() == 3 && waiting.contains("chat000000000006"), "{waiting}");
    assert!(waiting.lines().all(|line| line.contains(" +00:00, by hold ")), "{waiting}");
    let (code, said, _) = command(&database, &["unhold", "2", "--reason", "settled"]);
    assert!(code == 0 && said.contains("3 erasures wait for holds"), "{said}");
    let (code, said, _) = command(&database, &["erase", "--waiting", "--reason", "now", "--format", "csv"]);
    assert!(code == 1 && said.contains("chat000000000006,erased,4,"), "{said}");
    gone(&database, &secrets([6, 9].into_iter()));
    // Of the customer nothing is left but the hold that was released, and that goes with the customer.
    let (code, _, error) = command(&database, &["erase", "--who", &email, "--reason", "asked"]);
    assert!(code == 1 && error.contains("no chat has an attribute"), "{error}");
    assert_eq!(command(&database, &["unhold", "1", "--reason", "settled", "--case", "L-9"]).0, 0);
    assert_eq!(command(&database, &["unhold", "1", "--reason", "settled"]).0, 1);
    let (_, holds, _) = command(&database, &["hold", "--list", "--format", "json"]);
    let released: Vec<bool> = holds.lines().map(|hold| hold.contains("\"released_case\":\"L-9\"")).collect();
    assert!(released.first() == Some(&true) && released.iter().filter(|is| **is).count() == 1, "{holds}");
    sealed(&database);
    let (code, said, _) = command(&database, &["verify"]);
    assert!(
        code == 0 && said.contains("removed") && said.contains("22 chats removed, rows of 0 chats masked, by 3 acts"),
        "{said}"
    );
    let (code, _, error) = command(&database, &["transcript", "chat000000000006"]);
    assert!(code == 1 && error.contains("was erased at 20") && error.contains("(now)"), "{error}");
}

/// The word of mouth about a customer goes with the last chat: attributes, and holds that were released.
#[tokio::test]
async fn a_customer_is_erased_with_a_certificate() {
    let folder = folder();
    let database = folder.path().join("a.db");
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let mut server = Server::start_with_database(folder.path(), &database, &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let form = "nickname=Anna&firstName=Anna&lastName=Berg&emailAddress=anna.berg@example.com&subject=Order";
    let chat = Chat::open(&mut client, form).await;
    let other = Chat::open(&mut client, "nickname=Bob&emailAddress=bob@example.com").await;
    for (chat, text) in [(&chat, "my+name+is+Berg"), (&other, "keep+me")] {
        chat.insist(&mut client, "send", &format!("message={text}&transcriptPosition=1")).await;
    }
    let held = command(&database, &["hold", "--who", "anna.berg@example.com", "--reason", "court"]);
    assert_eq!((held.0, command(&database, &["unhold", "1", "--reason", "settled"]).0), (0, 0));
    let sql = "SELECT chat_id FROM chat_attributes WHERE value = 'anna.berg@example.com'";
    let held = command(&database, &["hold", "--query", sql, "--reason", "asked for by anna.berg@example.com"]);
    assert_eq!((held.0, command(&database, &["unhold", "3", "--reason", "settled"]).0), (0, 0));
    // Somebody has asked after her: that stays, and her name does not.
    for words in [&["chats", "--who", "anna.berg@example.com"][..], &["sql", sql]] {
        assert_eq!(command(&database, words).0, 0);
    }
    let certificate = folder.path().join("certificate.json").display().to_string();
    let asked = ["erase", "--who", "email=Anna.Berg@example.com", "--reason", "Art. 17", "--case", "4711"];
    let (code, said, error) = command(&database, &[&asked[..], &["--certificate", &certificate]].concat());
    assert_eq!(code, 0, "{said}{error}");
    let mode = std::fs::metadata(&certificate).expect("it is made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let texts = ["anna.berg@example.com", "my name is Berg", "Anna.Berg"].map(String::from);
    gone(&database, &texts);
    let nothing = folder.path().join("nothing.json").display().to_string();
    let (code, said, error) = command(&database, &[&asked[..], &["--certificate", &nothing]].concat());
    assert!(
        code == 1 && error.contains("no chat has an attribute") && said.contains("it erased nothing"),
        "{said}{error}"
    );
    assert!(std::fs::exists(&nothing).is_ok_and(|exists| exists), "that she is not there is certified");
    // Whoever looks whether she is really gone does not write her down again.
    assert_eq!(command(&database, &["chats", "--who", "anna.berg@example.com"]).0, 0);
    assert_eq!(command(&database, &["search", "anna.berg@example.com", "parcel"]).0, 0);
    assert_eq!(command(&database, &["sql", "SELECT 1765432 WHERE 'anna.berg@example.com' LIKE '%x%'"]).0, 0);

    // Everything again, from the client, while it is served: delivered, and not recorded.
    let mut events = 0.0;
    eventually("what is suppressed is counted", async || {
        let again = chat.insist(&mut client, "refresh", "transcriptPosition=1").await;
        events = again["messages"].as_array().expect("a list").len() as f64;
        let counted = server.metric("gms_recorder_events_total{fate=\"suppressed\"}").await;
        counted.filter(|counted| *counted >= events)
    })
    .await;
    // What is said after the erasure is recorded.
    chat.insist(&mut client, "send", "message=news&transcriptPosition=1").await;
    other.insist(&mut client, "refresh", "transcriptPosition=1").await;
    let (code, said, error) = command(&database, &["transcript", &chat.id]);
    assert!(code == 0 && said.contains("(Art. 17)") && said.contains("news"), "{said}{error}");
    assert!(said.contains("× erased: 1 to ") && !said.contains("hidden by GMS"), "{said}");
    assert!(server.stop().success());
    gone(&database, &texts);
    let mut archive = Archive::open(&database).await;
    let texts_of = |chat: &Chat| format!("SELECT group_concat(text) FROM events WHERE chat_id = '{}'", chat.id);
    assert!(archive.value(&texts_of(&chat)).await.starts_with("news"));
    assert!(archive.value(&texts_of(&other)).await.contains("keep me"));
    assert_eq!(archive.value("SELECT count(*) FROM coverage_holes").await, "0");
    sealed(&database);
    let ledger = archive.value("SELECT ledger FROM runs ORDER BY run_id DESC LIMIT 1").await;
    let account: serde_json::Value = serde_json::from_str(&ledger).expect("JSON");
    assert!(account["suppressed"].as_f64() >= Some(events), "{account}");
    let sum: f64 = ["new", "duplicate", "variant", "finding", "suppressed", "refused", "dropped", "in_flight"]
        .iter()
        .filter_map(|name| account[*name].as_f64())
        .sum();
    assert_eq!(account["seen"].as_f64(), Some(sum), "{account}");

    let key = folder.path().join("vkey");
    std::fs::write(&key, archive.value("SELECT vkey FROM keys").await).expect("the folder is ours");
    let (is_proved, told) = crate::evidence::prove_py(Path::new(&certificate), &key);
    assert!(is_proved && told.contains("rows of act 7"), "{told}");
    assert_eq!(archive.value("SELECT count(*) FROM acts WHERE asked LIKE '%**********%'").await, "6");
    assert_eq!(archive.value("SELECT count(*) FROM acts WHERE asked LIKE '%SELECT 1765432 %'").await, "1");
    let held = "SELECT query || ' ' || reason FROM holds";
    let stars = "*".repeat("anna.berg@example.com".len());
    let wanted = format!("SELECT chat_id FROM chat_attributes WHERE value = '{stars}' asked for by {stars}");
    assert_eq!(archive.value(held).await, wanted);
    simulator.stop().await;
}

/// Whoever calls himself like a word that officers use takes it out of no act of theirs.
#[tokio::test]
async fn a_name_that_is_a_word_leaves_the_words_of_others() {
    let folder = folder();
    let database = folder.path().join("a.db");
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let mut server = Server::start_with_database(folder.path(), &database, &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let form = "nickname=GDPR&firstName=events&lastName=court&emailAddress=zoe@example.com&subject=Order+of+Zoe";
    let chat = Chat::open(&mut client, form).await;
    let other = Chat::open(&mut client, "nickname=Bob").await;
    chat.insist(&mut client, "refresh", "transcriptPosition=1").await;
    for words in [
        &["sql", "SELECT count(*) FROM events", "--case", "GDPR"][..],
        &["sql", "SELECT count(*) FROM events WHERE nickname = 'GDPR'"],
        &["chats", "--who", "gdpr"],
        &["chats", "--who", "nickname=GDPR"],
        &["search", "gdpr"],
        &["search", "gdpr parcel"],
        &["hold", "--query", "SELECT chat_id FROM events WHERE text = 'court'", "--reason", "court"],
        &["unhold", "7", "--reason", "of zoe@example.com, order of zoe, GDPR"],
        &["erase", "--chat", &other.id, "--reason", "Art. 17 GDPR", "--case", "court"],
    ] {
        let (code, _, error) = command(&database, words);
        assert!(code == 0, "{words:?}: {error}");
    }
    assert_eq!(command(&database, &["erase", "--chat", &chat.id, "--reason", "Art. 17 GDPR"]).0, 0);
    assert!(server.stop().success());
    gone(&database, &["zoe@example.com", "order of zoe"].map(String::from));
    sealed(&database);
    let mut archive = Archive::open(&database).await;
    let said = "SELECT coalesce(asked ->> 'statement', asked ->> 'who', asked ->> 'query', asked ->> 'on', kind), reason, case_ref
        FROM acts ORDER BY id";
    let acts: Vec<String> = archive.rows(said).await.into_iter().map(|act| act.join("|")).collect();
    let wanted = [
        "SELECT count(*) FROM events|NULL|GDPR",
        "SELECT count(*) FROM events WHERE nickname = '****'|NULL|NULL",
        "****|NULL|NULL",
        "nickname=****|NULL|NULL",
        "****|NULL|NULL",
        "gdpr parcel|NULL|NULL",
        "query SELECT chat_id FROM events WHERE text = '*****'|court|NULL",
        "unhold|of ***************, ***** ** ***, GDPR|NULL",
        "erase|Art. 17 GDPR|court",
        "erase|Art. 17 GDPR|NULL",
    ];
    assert_eq!(acts, wanted);
    let held = archive.value("SELECT reason || ': ' || query FROM holds").await;
    assert_eq!(held, "court: SELECT chat_id FROM events WHERE text = '*****'");
    simulator.stop().await;
}

/// A certificate says what was done, where that is nothing, too; and where there is none, why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_nothing_says_so_and_a_missing_key_is_named() {
    let folder = folder();
    let database = folder.path().join("a.db");
    fill(&database, 90).await;
    let vkey = signed(folder.path(), &database);
    let erase = |chat: &str, certificate: &Path| {
        let certificate = certificate.display().to_string();
        command(&database, &["erase", "--chat", chat, "--reason", "asked", "--certificate", &certificate])
    };
    let path = |name: &str| folder.path().join(name);
    for (chat, name, nothing) in [("nobody0000000001", "1.json", true), ("chat000000000001", "2.json", false)] {
        let (code, said, error) = erase(chat, &path(name));
        assert_eq!((code, said.contains("it erased nothing")), (i32::from(nothing), nothing), "{said}{error}");
        let certificate = std::fs::read(path(name)).expect("it is made");
        let certificate: serde_json::Value = serde_json::from_slice(&certificate).expect("JSON");
        let act = certificate["act_id"].to_string();
        let (code, _, error) = command(&database, &["prove", "--act", &act]);
        assert_eq!((code, error.contains(&format!("act {act} erased nothing"))), (0, nothing), "{error}");
        let (is_proved, told) = crate::evidence::prove_py(&path(name), &vkey);
        assert_eq!((is_proved, told.contains(&format!("act {act} erased nothing"))), (true, nothing), "{told}");
    }
    // What had to wait leads back to who had asked for it.
    assert_eq!(command(&database, &["hold", "--chat", "chat000000000002", "--reason", "court"]).0, 0);
    let asked = ["erase", "--chat", "chat000000000002", "--reason", "Art. 17", "--case", "UW"];
    assert_eq!(command(&database, &asked).0, 1);
    let last = || {
        let connection = Connection::open(&database).expect("an archive");
        connection.query_row("SELECT max(id) FROM acts", (), |row| row.get::<_, i64>(0)).expect("there are some")
    };
    let request = last();
    let hold = (request - 1).to_string();
    assert_eq!(command(&database, &["unhold", &hold, "--reason", "settled"]).0, 0);
    let certificate = path("3.json").display().to_string();
    let waiting = ["erase", "--waiting", "--reason", "free now", "--certificate", &certificate];
    assert_eq!(command(&database, &waiting).0, 0);
    let (is_proved, told) = crate::evidence::prove_py(&path("3.json"), &vkey);
    let leads = [
        format!(
            "chat chat000000000002 was to be erased by act {request}, and hold {hold} was in the way; done by act {}",
            last()
        ),
        format!("act {request}: erase by "),
        "case UW, because: Art. 17".into(),
        "because: free now".into(),
    ];
    assert!(is_proved && leads.iter().all(|words| told.contains(words)), "{told}");
    // Who is told to wait for a `serve` waits in vain where it has no key.
    let (key, elsewhere) = (path("a.db.key"), tempfile::tempdir().expect("there is room"));
    let other = elsewhere.path().join("other.db");
    fill(&other, 30).await;
    signed(elsewhere.path(), &other);
    let foreign = elsewhere.path().join("other.db.key");
    for (from, why) in
        [(None, "is missing, and this archive was signed with it"), (Some(foreign), "is another one than this archive")]
    {
        match from {
            None => std::fs::rename(&key, elsewhere.path().join("kept")).expect("ours"),
            Some(from) => drop(std::fs::copy(from, &key).expect("ours")),
        }
        let (code, said, error) = erase("nobody0000000002", &path("none.json"));
        assert!(code == 1 && error.contains(why) && !error.contains("this user cannot sign"), "{said}{error}");
        let (_, said, error) = command(&database, &["erase", "--chat", "nobody0000000003", "--reason", "asked"]);
        assert!(said.contains(why), "{said}{error}");
        let newest = Connection::open(&database).expect("an archive");
        let act: i64 = newest.query_row("SELECT max(id) FROM acts", (), |row| row.get(0)).expect("there are some");
        let (code, _, error) = command(&database, &["prove", "--act", &act.to_string()]);
        assert!(code == 1 && error.contains(why) && !error.contains("running `serve`"), "{error}");
    }
}

/// What `restore` has left beside the archive has what was removed, and whoever removes it is told.
#[tokio::test]
async fn copies_beside_the_archive_are_named_once_something_is_removed() {
    let folder = folder();
    let database = folder.path().join("a.db");
    fill(&database, 90).await;
    let config = folder.path().join("a.toml");
    std::fs::write(&config, "[retention]\nkeep = \"1d\"\n").expect("the folder is ours");
    let config = config.display().to_string();
    let commands: [&[&str]; 3] = [
        &["erase", "--chat", "chat000000000001", "--reason", "asked"],
        &["mask", "--rule", "cards", "--reason", "asked"],
        &["purge", "--config", &config],
    ];
    for (n, words) in commands.into_iter().enumerate() {
        let told = |told: &str| told.matches("copies beside the archive").count();
        if n == 0 {
            let (_, said, error) = command(&database, &["erase", "--chat", "chat000000000002", "--reason", "asked"]);
            assert_eq!(told(&said), 0, "{said}{error}");
            for name in ["a.db.before-20261127T031500Z", "a.db.restoring", "a.db.other", "b.db.before-20261127T031500Z"]
            {
                std::fs::write(folder.path().join(name), "a copy").expect("the folder is ours");
            }
        }
        let (code, said, error) = command(&database, words);
        assert_eq!((code, told(&said)), (0, 1), "{words:?}: {said}{error}");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.ends_with(": a.db.before-20261127T031500Z, a.db.restoring") || n == 0, "{said}");
        assert!(said.contains(": a.db.before-20261127T031500Z, a.db.restoring"), "{said}");
    }
    let (_, said, _) = command(&database, &["mask", "--rule", "cards", "--dry-run"]);
    assert!(!said.contains("a.db.before-"), "{said}");
}

/// What helps depends on what is in the way.
#[tokio::test]
async fn what_is_in_the_way_of_a_change_is_told_from_want_of_permission() {
    let mount = Mount::new(20_000);
    let database = mount.0.path().join("a.db");
    fill(&database, 90).await;
    let hold = ["hold", "--chat", "chat000000000001", "--reason", "court"];
    let erase = ["erase", "--chat", "chat000000000001", "--reason", "asked"];
    let refused = |words: &[&str], why: &str| {
        let (code, said, error) = command(&database, words);
        assert!(code == 1 && error.contains(why) && !error.contains("permission"), "{words:?}: {said}{error}");
    };
    let shell = lock(&database).await;
    refused(&hold, "Another process keeps the lock: try again");
    refused(&erase, "Another process keeps the lock: try again");
    sqlx::Connection::close(shell).await.expect("closed");
    let reader = Connection::open(&database).expect("an archive");
    reader.query_row("SELECT count(*) FROM chats", (), |_| Ok(())).expect("its files are made");
    mount.fill();
    refused(&hold, "free some, and try again");
    mount.free();
    assert_eq!(command(&database, &hold).0, 0);
    sealed(&database);
}

#[tokio::test]
async fn a_long_reader_is_waited_for_and_that_is_said() {
    let folder = folder();
    let database = folder.path().join("a.db");
    many(&database, 60).await;
    let reader = Connection::open(&database).expect("an archive");
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").expect("a snapshot");
    let (code, said, _) = command(&database, &["erase", "--chat", &name_of(5), "--reason", "asked"]);
    assert!(code == 1 && said.contains("a reader has"), "{said}");
    assert!(sealed(&database).found.is_unclean);
    reader.execute_batch("COMMIT").expect("it ends");
    assert_eq!(Custody::open(&database).expect("an archive").clean(&mut |_, _| {}).expect("cleaned"), Cleaned::All);
    gone(&database, &secrets([5].into_iter()));
    assert!(!sealed(&database).found.is_unclean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_and_a_full_disk_in_the_midst_of_a_purge_leave_nothing_half_done() {
    let folder = folder();
    let config = folder.path().join("retention.toml");
    std::fs::write(&config, "[retention]\nkeep = \"30d\"\n").expect("the folder is ours");
    let gone = cut_short(&["purge", "--config", &config.display().to_string()]).await;
    assert!(gone, "what is of no chat is due as well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_and_a_full_disk_in_the_midst_of_an_erasure_leave_nothing_half_done() {
    let chats: Vec<String> = (0..CUT_SHORT).map(|chat| format!("--chat={}", name_of(chat))).collect();
    let words: Vec<&str> = ["erase", "--reason", "asked"].into_iter().chain(chats.iter().map(String::as_str)).collect();
    let gone = cut_short(&words).await;
    assert!(!gone, "what is of no chat was not asked for");
}

const CUT_SHORT: usize = 600;

/// Whatever cuts it short, what was noted is done, the rest is as it was, and the next time goes on from there. Whether
/// what is of no chat is gone, too.
async fn cut_short(words: &[&str]) -> bool {
    let mount = Mount::new(64 << 10);
    let database = mount.0.path().join("a.db");
    let chats = CUT_SHORT;
    many(&database, chats).await;
    // Somebody has asked after many of them: no purge leaves their names, wherever it is cut short.
    let custody = Custody::open(&database).expect("an archive");
    let actor = actor();
    for chat in (0..chats).step_by(7) {
        let asked = serde_json::json!({ "command": "chats", "who": address_of(chat) });
        custody.note(&Act { asked, ..act(Kind::Read, &actor) }, 1).expect("noted");
    }
    custody.close().expect("closed");
    let rounds = count("TEST_PURGE_KILLS", 6) as u64;
    for round in 0..rounds {
        if round % 2 == 1 {
            mount.fill();
        }
        let mut removing = Command::new(env!("CARGO_BIN_EXE_gms-recorder"))
            .args(words)
            .arg("--database")
            .arg(&database)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary was built");
        std::thread::sleep(Duration::from_millis(20 + round * 977 % 300));
        let _ = removing.kill(); // it may have ended
        let _ = removing.wait().expect("ours");
        if round % 2 == 1 {
            mount.free();
        }
        let found = sound(&database).found;
        let archive = Connection::open(&database).expect("an archive");
        let left: i64 = archive.query_row("SELECT count(*) FROM chats", (), |row| row.get(0)).expect("a number");
        assert_eq!(left + found.removals.0, chats as i64, "round {round}");
        let named = "SELECT count(*) FROM acts WHERE asked ->> 'who' NOT LIKE '*%'
            AND asked ->> 'who' NOT IN (SELECT value FROM chat_attributes)";
        let named: i64 = archive.query_row(named, (), |row| row.get(0)).expect("a number");
        assert_eq!(named, 0, "round {round}: acts name customers of whom there is no chat");
    }
    let began = Instant::now();
    let (code, said, error) = command(&database, words);
    assert_eq!(code, 0, "{said}{error}");
    println!("the rest in {:?}: {said}", began.elapsed());
    assert_eq!(sealed(&database).found.removals.0, chats as i64);
    gone(&database, &secrets(0..chats));
    files(&database).iter().all(|file| found_in(file, &[OF_NO_CHAT.into()]).is_empty())
}

/// `serve` purges by itself, and cleans up after others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_purges_and_cleans_by_itself() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    many(&database, 90).await;
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let settings = "[retention]\nautomatic = true\nkeep = \"forever\"\n[retention.services]\nsales = \"30d\"\n";
    let mut server = Server::start(folder.path(), &simulator.addresses(), settings);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    eventually("what is due goes", async || {
        chat.insist(&mut client, "send", "message=m&transcriptPosition=1").await;
        server.log().contains("overwritten to the last byte").then_some(())
    })
    .await;
    assert!(
        server.log().contains("\"chats\":30,") && server.log().contains("purged what the schedule says"),
        "{}",
        server.log()
    );
    gone(&database, &secrets((0..90).filter(|chat| chat % 3 == 0)));
    assert!(server.stop().success());
    sealed(&database);
    let mut archive = Archive::open(&database).await;
    assert_eq!(archive.value("SELECT count(*) FROM chats").await, "61");
    assert_eq!(archive.value("SELECT who FROM acts WHERE kind = 'purge'").await, "serve");
    simulator.stop().await;
}

/// What an insider without the key would have an officer's command remove, mask or seal for him: it is refused, and nothing
/// is done.
#[tokio::test]
async fn what_was_done_by_hand_is_neither_removed_nor_sealed_anew() {
    let folder = folder();
    let database = folder.path().join("a.db");
    many(&database, 12).await;
    let config = folder.path().join("rules.toml");
    std::fs::write(&config, "[masking.rules]\nys = 'y(yy)y'\n").expect("the folder is ours");
    let config = config.display().to_string();
    for words in [&["hold", "--chat", "chat000000000003"][..], &["hold", "--who", "email=nobody@example.com"]] {
        assert_eq!(command(&database, &[words, &["--reason", "court"]].concat()).0, 0);
    }
    assert_eq!(command(&database, &["erase", "--chat", "chat000000000003", "--reason", "asked"]).0, 1);
    assert_eq!(command(&database, &["sql", "SELECT 1"]).0, 0);
    sealed(&database);
    let erase = ["erase", "--chat", "chat000000000001", "--reason", "asked"];
    let mask = ["mask", "--rule", "ys", "--reason", "asked", "--config", &config];
    for (sql, words, subject) in [
        ("UPDATE events SET text = 'no' WHERE chat_id = 'chat000000000001' AND event_index = 2", &erase[..], "event_index 2"),
        ("UPDATE events SET raw = '{\"x\":\"yyyy\"}' WHERE event_index = 2", &mask, "event_index 2"),
        ("INSERT INTO events (chat_id, event_index, text, raw, recorded_at, run_id) VALUES ('chat000000000001', 9, 'yyyy',
            '{\"text\":\"yyyy\"}', 1, 1)", &mask, "event_index 9"),
        ("UPDATE holds SET released_at = 1, released_by = 1", &["erase", "--waiting", "--reason", "now"], "holds, id"),
        ("DELETE FROM holds", &["erase", "--waiting", "--reason", "now"], "holds, id"),
        ("INSERT INTO waiting_erasures (act_id, chat_id, held_by, at) VALUES (1, 'chat000000000005', 1, 1)",
            &["erase", "--waiting", "--reason", "now"], "waiting_erasures, id"),
        ("UPDATE waiting_erasures SET chat_id = 'chat000000000005'", &["erase", "--waiting", "--reason", "now"],
            "waiting_erasures, id"),
    ] {
        let altered = folder.path().join("altered.db");
        std::fs::copy(&database, &altered).expect("there is room");
        Connection::open(&altered).expect("an archive").execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let before = Connection::open(&altered).expect("an archive");
        let count = |sql: &str| before.query_row(sql, (), |row| row.get::<_, i64>(0)).expect("a number");
        let events = count("SELECT count(*) FROM events");
        let (code, said, error) = command(&altered, words);
        assert!(code == 1 && (said + &error).contains(subject), "{sql}\n{error}");
        assert_eq!((count("SELECT count(*) FROM events"), count("SELECT count(*) FROM erasures")), (events, 0), "{sql}");
        let (code, said, _) = command(&altered, &["verify"]);
        assert!(code == 1 && said.contains(subject), "{sql}\n{said}");
    }
}

/// A finding of a chat that no node knew, or of none, with something masked in it.
fn finding(chat_id: Option<&str>, words: &str) -> Finding {
    let masking = Masking { rule: "cards".into(), field: String::new(), at: 0, characters: 16 };
    Finding {
        kind: FindingKind::NotJson,
        chat_id: chat_id.and_then(ChatId::parse),
        detail: "no JSON".into(),
        raw: words.into(),
        raw_length: words.len(),
        events: 0,
        maskings: vec![masking],
    }
}

/// One row that somebody has changed keeps its chat, and no other one; what is of no chat goes too, with what tells of its maskings.
#[tokio::test]
async fn a_purge_takes_all_that_is_due_but_what_was_changed_by_hand() {
    let folder = folder();
    let database = folder.path().join("a.db");
    many(&database, 12).await;
    let mut store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    let findings = [(Some("unknown00001"), "one"), (Some("unknown00002"), "two"), (None, "three")]
        .map(|(chat_id, words)| finding(chat_id, words));
    store.append(&[Entry { at: THEN, findings: findings.into(), ..Entry::default() }], &[], true).expect("stored");
    store.close().expect("closed");
    let config = folder.path().join("retention.toml");
    std::fs::write(&config, "[retention]\nkeep = \"30d\"\n").expect("the folder is ours");
    let config = config.display().to_string();
    let purge = ["purge", "--config", &config];
    assert_eq!(command(&database, &["hold", "--chat", "unknown00002", "--reason", "court"]).0, 0);
    // A released hold on a customer of whom nothing is left goes with a purge, too.
    let who = format!("email={}", address_of(6));
    assert_eq!(command(&database, &["hold", "--who", &who, "--reason", "court"]).0, 0);
    assert_eq!(command(&database, &["unhold", "2", "--reason", "settled"]).0, 0);
    let alter = |sql: &str| {
        Connection::open(&database).expect("an archive").execute(sql, ()).expect("sound SQL");
    };
    let is = "WHERE chat_id = 'chat000000000001' AND event_index = 2";
    let was: String = Connection::open(&database)
        .expect("an archive")
        .query_row(&format!("SELECT text FROM events {is}"), (), |row| row.get(0))
        .expect("a text");
    alter(&format!("UPDATE events SET text = 'no' {is}"));
    let (code, said, error) = command(&database, &purge);
    assert!(code == 1 && said.contains("11 chats removed"), "{said}{error}");
    assert!(error.contains("1 of the chats and rows that are due stay"), "{error}");
    let left = |sql: &str| {
        let connection = Connection::open(&database).expect("an archive");
        connection.query_row(sql, (), |row| row.get::<_, String>(0)).expect("a text")
    };
    assert_eq!(left("SELECT group_concat(chat_id) FROM chats"), "chat000000000001");
    assert_eq!(left("SELECT group_concat(chat_id) FROM findings"), "unknown00002");
    assert_eq!(left("SELECT count(*) || ' of ' || max(chat_id) FROM maskings"), "1 of unknown00002");
    assert_eq!(left("SELECT group_concat(chat_id) FROM holds"), "unknown00002");
    // What was changed is put back as it was: then all is as it was sealed, and goes.
    alter(&format!("UPDATE events SET text = '{was}' {is}"));
    sealed(&database);
    let (code, said, error) = command(&database, &purge);
    assert!(code == 0 && said.contains("1 chat removed"), "{said}{error}");
    sealed(&database);
}

/// Removals that no act of ours makes.
#[tokio::test]
async fn a_removal_that_was_made_up_is_found() {
    let folder = folder();
    let database = folder.path().join("a.db");
    many(&database, 6).await;
    assert_eq!(erase(&database, &["chat000000000001"]).len(), 1);
    assert_eq!(command(&database, &["sql", "SELECT 1"]).0, 0);
    sealed(&database);
    let drop = |table: &str| {
        format!(
            "DROP VIEW IF EXISTS removals; DROP TABLE {table}; DELETE FROM sealed_forms WHERE form >= 15; DELETE FROM _sqlx_migrations WHERE version = 7"
        )
    };
    for (sql, subject) in [
        ("UPDATE erasures SET act_id = 99".to_owned(), "no act that would have removed"),
        ("UPDATE erasures SET how = 'masked'".to_owned(), "it was not sealed anew after that"),
        (drop("acts"), "rows of it are sealed, and it was dropped"),
        (drop("erasures"), "rows of it are sealed, and it was dropped"),
        ("INSERT INTO late_sealing VALUES (1, 1, 0)".to_owned(), "no run is waiting"),
    ] {
        let altered = folder.path().join("altered.db");
        std::fs::copy(&database, &altered).expect("there is room");
        Connection::open(&altered)
            .expect("an archive")
            .execute_batch(&sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let (code, said, error) = command(&altered, &["verify"]);
        assert!(code == 1 && said.contains(subject), "{sql}\n{said}{error}");
    }
}

/// With this program's own code: what is sealed anew is what is told to be so, and an act that has ended removes nothing.
#[tokio::test]
async fn an_act_that_was_is_not_made_another_one() {
    let folder = folder();
    let database = folder.path().join("a.db");
    many(&database, 6).await;
    assert_eq!(erase(&database, &["chat000000000001"]).len(), 1);
    let custody = Custody::open(&database).expect("an archive");
    let actor = actor();
    let held = custody.hold(&act(Kind::Hold, &actor), &Scope::Chat(name_of(2))).expect("held");
    let read = custody.begin(&act(Kind::Read, &actor)).expect("noted");
    drop(custody);
    sealed(&database);
    let altered = folder.path().join("altered.db");
    let open = |sql: &str| {
        std::fs::copy(&database, &altered).expect("there is room");
        Connection::open(&altered).expect("an archive").execute_batch(sql).expect(sql);
        Custody::open(&altered).expect("an archive")
    };
    let found = |subject: &str| {
        let (code, said, error) = command(&altered, &["verify"]);
        assert!(code == 1 && said.contains(subject), "{subject}\n{said}{error}");
    };
    // Another one is said to have read; what is on hold is another chat.
    let custody = open("UPDATE acts SET who = 'somebody' WHERE kind = 'read'");
    custody.end(read, 1_795_600_000_000, 7).expect("sealed anew");
    drop(custody);
    found("it was sealed as something else before");
    let custody = open("UPDATE holds SET chat_id = 'chat000000000004'");
    assert!(custody.release(&act(Kind::Unhold, &actor), held).expect("sealed anew"));
    drop(custody);
    found("it was sealed as something else before");
    // Chats are removed in the name of an erasure that was: it is refused, and found where somebody had it go on for that moment.
    let custody = open("SELECT 1");
    let targets = [Target::of(name_of(3))];
    let erase = |custody: &Custody| custody.remove(1, How::Erased, &targets, || 1_795_600_000_001, &mut |_, _| {});
    assert!(erase(&custody).is_err_and(|error| error.message.contains("has ended it")));
    drop(custody);
    let end = "SELECT 'UPDATE acts SET ended_at = ' || ended_at || ', found = ' || found || ' WHERE id = 1' FROM acts WHERE id = 1";
    let end: String =
        Connection::open(&altered).and_then(|it| it.query_row(end, (), |row| row.get(0))).expect("it ended");
    let custody = open("UPDATE acts SET ended_at = NULL, found = NULL WHERE id = 1");
    erase(&custody).expect("removed");
    drop(custody);
    Connection::open(&altered).expect("an archive").execute_batch(&end).expect("sound SQL");
    found("act 1, which it names, had ended by then");
    found("it says that it removed");
}

/// Chats go on while they are erased, in an archive whose seals take a while to look through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_is_erased_while_it_goes_on() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    many(&database, 30).await;
    let mut store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    for entry in entries(3_000, 30_000) {
        store.append(&[entry], &[], false).expect("stored"); // a pack each
    }
    store.append(&[], &[], true).expect("stored");
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let mut server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    for round in 0..3 {
        let chat = Chat::open(&mut client, "nickname=Anna").await;
        chat.insist(&mut client, "send", "message=first&transcriptPosition=1").await;
        let (path, id) = (database.clone(), chat.id.clone());
        let erasing = std::thread::spawn(move || command(&path, &["erase", "--chat", &id, "--reason", "asked"]));
        let mut sent = 0;
        while !erasing.is_finished() {
            sent += 1;
            chat.insist(&mut client, "send", &format!("message=more{sent}&transcriptPosition=1")).await;
        }
        let (code, said, error) = erasing.join().expect("no panic");
        assert_eq!(code, 0, "{said}{error}");
        sound(&database);
        println!("round {round}: {sent} messages while it was erased");
    }
    assert!(server.stop().success());
    sealed(&database);
    // Hidden is what was not delivered; what was erased, was.
    let hidden = "SELECT group_concat(hidden - (c.next_position - x.below - (SELECT count(*) FROM events e WHERE e.chat_id = c.chat_id)))
        FROM completeness c JOIN erasures x USING (chat_id)";
    assert_eq!(Archive::open(&database).await.value(hidden).await, "0,0,0");
    simulator.stop().await;
}

/// What is in the spool would come into the archive after the erasure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_erased_while_something_of_it_may_be_in_the_spool() {
    let folder = folder();
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let settings = "[recording]\nwhen_unavailable = \"spool\"\n";
    let mut server = Server::start(folder.path(), &simulator.addresses(), settings);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    chat.insist(&mut client, "send", "message=opening+words&transcriptPosition=1").await;
    let mut shell = crate::spool::lock(&server.database).await;
    chat.insist(&mut client, "send", "message=in+the+spool&transcriptPosition=1").await;
    server.kill();
    sqlx::query("ROLLBACK").execute(&mut shell).await.expect("it is ours");
    std::mem::drop(shell);
    let (code, said, error) = command(&server.database, &["erase", "--chat", &chat.id, "--reason", "asked"]);
    assert!(code == 1 && error.contains("the spool"), "{said}{error}");
    let (code, said, error) = command(&server.database, &["mask", "--rule", "cards", "--reason", "asked"]);
    assert!(code == 1 && error.contains("the spool"), "{said}{error}");
    server.start_again();
    eventually("the spool is in the archive", async || {
        let (code, ..) = command(&server.database, &["erase", "--chat", &chat.id, "--reason", "asked"]);
        (code == 0).then_some(())
    })
    .await;
    assert!(server.stop().success());
    gone(&server.database, &["in the spool".into(), "opening words".into()]);
    sealed(&server.database);
    simulator.stop().await;
}

/// What somebody puts there is sealed when one of our commands changes it, and is found by what it lacks.
#[tokio::test]
async fn what_was_put_there_is_found_when_a_command_has_sealed_it() {
    let folder = folder();
    let database = folder.path().join("a.db");
    many(&database, 6).await;
    let altered = folder.path().join("altered.db");
    let actor = actor();
    let put = |sql: &str| {
        std::fs::copy(&database, &altered).expect("there is room");
        Connection::open(&altered).expect("an archive").execute_batch(sql).expect(sql);
        Custody::open(&altered).expect("an archive")
    };
    let found = |subject: &str| {
        let (code, said, error) = command(&altered, &["verify"]);
        let what = "it was not sealed when it came, but when it was changed";
        assert!(code == 1 && said.contains(&format!("{subject}: {what}")), "{subject}\n{said}{error}");
    };
    let custody = put(
        "INSERT INTO acts (id, kind, at, who, host, asked, version) VALUES (7, 'erase', 1, 'another', 'h', '{}', 'v')",
    );
    assert_eq!(custody.end_killed().expect("ended"), 1);
    drop(custody);
    found("acts, id 7");
    let custody =
        put("INSERT INTO holds (id, act_id, at, reason, chat_id) VALUES (7, 7, 1, 'since long', 'chat000000000001')");
    assert!(custody.release(&act(Kind::Unhold, &actor), 7).expect("released"));
    drop(custody);
    found("holds, id 7");
    let words = finding(None, "one");
    let mut store = Store::open(&options(&altered), &a_run()).await.expect("an archive");
    store.append(&[Entry { at: THEN, findings: vec![words.clone()], ..Entry::default() }], &[], true).expect("stored");
    store.finish(THEN + 1, "{}").expect("noted");
    store.close().expect("closed");
    let digest: String = Connection::open(&altered)
        .and_then(|it| it.query_row("SELECT hex(digest) FROM findings ORDER BY id DESC LIMIT 1", (), |row| row.get(0)))
        .expect("it was stored");
    drop(put(&format!(
        "INSERT INTO findings (id, observed_at, last_observed_at, kind, raw, raw_length, digest, run_id)
            VALUES (77, 1, 1, 'truncated', X'00', 1, X'{digest}', (SELECT max(run_id) FROM runs))"
    )));
    let mut store = Store::open(&options(&altered), &a_run()).await.expect("an archive");
    store.append(&[Entry { at: THEN, findings: vec![words], ..Entry::default() }], &[], true).expect("stored");
    store.finish(THEN + 1, "{}").expect("noted");
    store.close().expect("closed");
    found("findings, id 77");
}

/// Nothing can be removed later in the name of an act that was killed: whoever looks next ends it, unless it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_that_was_killed_gets_an_end() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    many(&database, 6).await;
    let actor = actor();
    let begun = |custody: &Custody| custody.begin(&act(Kind::Erase, &actor)).expect("noted");
    let remove = |custody: &Custody, act_id: i64, chat: usize| {
        let targets = [Target::of(name_of(chat))];
        custody.remove(act_id, How::Erased, &targets, || 1_795_600_000_000, &mut |_, _| {})
    };
    let ends = || {
        let connection = Connection::open(&database).expect("an archive");
        let sql = "SELECT group_concat(coalesce(ended_at, '-') || ' ' || coalesce(found, '-'), ', ') FROM acts WHERE kind = 'erase'";
        connection.query_row(sql, (), |row| row.get::<_, String>(0)).expect("there are some")
    };
    let killed = Custody::open(&database).expect("an archive");
    let first = begun(&killed);
    remove(&killed, first, 1).expect("removed");
    // While it goes on nobody takes it for killed.
    let other = Custody::open(&database).expect("an archive");
    assert_eq!(other.end_killed().expect("looked"), 0);
    let warnings = sound(&database).warnings;
    assert!(
        warnings.len() == 1 && warnings[0].contains("act 1 of erasing, purging, masking or merging has no end"),
        "{warnings:?}"
    );
    remove(&killed, first, 2).expect("removed");
    drop(killed);
    // Then it is ended as it was, by whoever looks next, … (A process that another test begins just now has the lock, too, for a moment.)
    eventually("it is ended", async || (other.end_killed().expect("looked") == 1).then_some(())).await;
    let second = begun(&other);
    remove(&other, second, 3).expect("removed");
    assert_eq!(ends(), "1795600000000 -, - -");
    assert!(remove(&other, first, 4).is_err_and(|error| error.message.contains("took act 1 for killed")));
    drop(other);
    // … or by a `serve`.
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let mut server = Server::start(folder.path(), &simulator.addresses(), "");
    eventually("it is ended", async || server.log().contains("acts that were killed have an end now").then_some(()))
        .await;
    assert!(server.stop().success());
    assert_eq!(ends(), "1795600000000 -, 1795600000000 -");
    sealed(&database);
    let (code, said, error) = command(&database, &["access", "--kind", "erase", "--utc"]);
    assert!(code == 0 && said.matches("no end").count() == 2, "{said}{error}");
    simulator.stop().await;
}
