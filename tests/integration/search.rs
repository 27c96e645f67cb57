//! Full text: what was said is found by its words, at once, whatever the index has of it; and by nothing that was removed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gms_recorder::chat::{ChatId, EventIndex, Party, TranscriptEvent};
use gms_recorder::gms::mask::{Config as Rules, Masks};
use gms_recorder::gms::{Attribute, AttributeSource};
use gms_recorder::simulator::{Config, Simulator};
use gms_recorder::store::audit::Snapshot;
use gms_recorder::store::custody::{Act, Cleaned, Custody, How, Kind, Other, Outcome, Target};
use gms_recorder::store::search::{Filter, Found, Hit, Order, Query, Step};
use gms_recorder::store::{ChatRecord, Entry, Store};
use rusqlite::Connection;

use crate::evidence::{a_run, options, sealed};
use crate::removal::{actor, gone};
use crate::support::{Archive, Chat, Client, Server, count, eventually, folder, run};

/// Brings the index up to date.
pub fn index(database: &Path) {
    let custody = Custody::open_to_index(database).expect("an archive");
    while custody.index().expect("indexed") != Step::Done {}
    assert_eq!(custody.rows_behind().expect("read"), 0);
    custody.close().expect("closed");
}

/// A draw of lots, the same each time.
struct Lots(u64);

impl Lots {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

const WORDS: [&str; 16] = [
    "parcel",
    "refund",
    "Café",
    "late",
    "退款",
    "order",
    "A-4711",
    "where",
    "is",
    "my",
    "👍",
    "naïve",
    "ไม่เป็นไร",
    "voucher",
    "two",
    "parcels",
];

/// What is asked in every state of an index: words, phrases, beginnings, this or that, without.
const QUESTIONS: [&str; 12] = [
    "parcel",
    "PARCEL late",
    "\"my parcel\"",
    "parc*",
    "refund OR voucher",
    "order -late",
    "cafe",
    "退款",
    "a-4711",
    "👍",
    "เป็นไร",
    "anna",
];

fn entry(chat: usize, n: i64, text: &str) -> Entry {
    let kind = if n == 1 { "ParticipantJoined" } else { "Message" };
    let event = TranscriptEvent {
        index: EventIndex::new(n).expect("from 1 on"),
        kind: Some(kind.into()),
        utc_time: Some(1_795_400_000_000 + chat as i64 * 60_000 + n * 1_000),
        from: Party { participant_id: Some(1), nickname: Some("Anna".into()), party_type: Some("Client".into()) },
        text: (n > 1).then(|| text.into()),
        message_type: None,
        user_data: None,
        event_attributes: None,
        raw: serde_json::json!({"index": n, "type": kind, "text": text, "from": {"nickname": "Anna"}}).to_string(),
        maskings: Vec::new(),
    };
    let attribute = Attribute {
        name: "subject".into(),
        value: format!("about {text}"),
        source: AttributeSource::Request,
        maskings: Vec::new(),
    };
    let record = ChatRecord {
        service: Some(["sales", "claims"][chat % 2].into()),
        events: vec![event],
        next_position: Some(n + 1),
        attributes: if n == 1 { vec![attribute] } else { Vec::new() },
        ..ChatRecord::of(id(chat))
    };
    let at = 1_795_400_000_000 + chat as i64 * 60_000;
    Entry { at, node: Some("gms-1".into()), chats: vec![record], ..Entry::default() }
}

fn id(chat: usize) -> ChatId {
    ChatId::parse(&format!("chat{chat:012}")).expect("a sound one")
}

/// Of a chat and a place in it, and of nobody else.
fn secret(chat: usize, n: i64) -> String {
    format!("{:016x}", (chat as u64 * 1_000 + n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Writes chats, with words of everybody and a secret each message.
async fn record(database: &Path, chats: std::ops::Range<usize>) {
    let mut store = Store::open(&options(database), &a_run()).await.expect("an archive");
    let mut lots = Lots(chats.start as u64 + 7);
    let mut entries = Vec::new();
    for chat in chats {
        for n in 1..=6 {
            let words: Vec<&str> = (0..lots.below(6) + 1).map(|_| WORDS[lots.below(WORDS.len())]).collect();
            entries.push(entry(chat, n, &format!("{} {}", words.join(" "), secret(chat, n))));
        }
    }
    for some in entries.chunks(50) {
        store.append(some, &[], true).expect("stored");
    }
    // Some are delivered again with other text.
    let variants: Vec<Entry> = entries
        .iter()
        .step_by(40)
        .map(|first| {
            let mut other = first.clone();
            let event = &mut other.chats[0].events[0];
            event.raw = event.raw.replace("\"text\":\"", "\"text\":\"parcel otherwise ");
            other
        })
        .collect();
    store.append(&variants, &[], true).expect("stored");
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
}

fn search(database: &Path, question: &str, filter: &Filter, order: Order, limit: usize) -> Found {
    let query = Query::parse(question).expect("a question");
    let snapshot = Snapshot::open(database).expect("an archive");
    snapshot.search(&query, filter, order, limit, u64::MAX).unwrap_or_else(|error| panic!("{question}: {error}"))
}

/// Where it is found: chat, event or attribute.
fn places(database: &Path, question: &str) -> BTreeSet<String> {
    let found = search(database, question, &Filter::default(), Order::Best, 1_000_000);
    assert!(!found.is_cut);
    let place = |hit: &Hit| match hit.event_index {
        Some(index) => format!("{} {index}", hit.chat_id),
        None => format!("{} {:?} {:?}", hit.chat_id, hit.attribute, hit.snippet),
    };
    let places: BTreeSet<String> = found.hits.iter().map(place).collect();
    assert_eq!(places.len(), found.hits.len(), "{question}: each once");
    let chats =
        Snapshot::open(database).and_then(|snapshot| snapshot.chats_with(&Query::parse(question).expect("a question")));
    let of: BTreeSet<String> = found.hits.into_iter().map(|hit| hit.chat_id).collect();
    assert_eq!(chats.expect("an archive"), of, "{question}");
    places
}

fn all_places(database: &Path) -> Vec<BTreeSet<String>> {
    QUESTIONS.iter().map(|question| places(database, question)).collect()
}

/// The same in a copy whose index has nothing: what its rows say.
fn by_rows(database: &Path) -> Vec<BTreeSet<String>> {
    let folder = folder();
    let copy = folder.path().join("copy.db");
    Connection::open(database).and_then(|from| from.execute("VACUUM INTO ?", [copy.to_str()])).expect("copied");
    let sql = "INSERT INTO search (search) VALUES ('delete-all'); DELETE FROM search_changes;
        UPDATE search_progress SET events_to = 0, attributes_to = 0, variants_to = 0";
    Connection::open(&copy).and_then(|copy| copy.execute_batch(sql)).expect("it is ours");
    all_places(&copy)
}

/// The words that the index has, and the names that its pages have.
fn words(database: &Path) -> String {
    let connection = Connection::open(database).expect("an archive");
    connection.execute_batch("CREATE VIRTUAL TABLE temp.words USING fts5vocab(main, search, 'row')").expect("a list");
    connection.execute_batch("INSERT INTO search (search, rank) VALUES ('integrity-check', 0)").expect("it is sound");
    let list = |sql: &str| -> String {
        let mut select = connection.prepare(sql).expect("sound SQL");
        let rows = select.query_map((), |row| Ok(String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned()));
        rows.expect("read").map(|row| row.expect("a word") + "\n").collect()
    };
    list("SELECT term FROM temp.words") + &list("SELECT term FROM search_idx")
}

fn begin(custody: &Custody, kind: Kind) -> i64 {
    let actor = actor();
    let (at, asked, reason) = (1_795_600_000_000, serde_json::json!({"command": kind.as_str()}), Some("asked"));
    custody.begin(&Act { kind, at, actor: &actor, asked, reason }).expect("noted")
}

/// Without cleaning up.
fn erase(database: &Path, chats: impl Iterator<Item = usize>) {
    let custody = Custody::open(database).expect("an archive");
    let act_id = begin(&custody, Kind::Erase);
    let targets: Vec<Target> = chats.map(|chat| Target::of(id(chat).as_str())).collect();
    let removed = &mut |_: &Target, outcome| assert!(matches!(outcome, Outcome::Removed { .. }), "{outcome:?}");
    custody.remove(act_id, How::Erased, &targets, || 1_795_600_000_001, removed).expect("removed");
    custody.close().expect("closed");
}

fn clean(database: &Path) {
    let custody = Custody::open(database).expect("an archive");
    assert_eq!(custody.clean(&mut |_, _| {}).expect("cleaned"), Cleaned::All);
    custody.close().expect("closed");
}

#[tokio::test]
async fn the_index_finds_what_the_rows_say() {
    let folder = folder();
    let database = folder.path().join("a.db");
    record(&database, 0..150).await;
    let wanted = all_places(&database); // nothing is indexed yet
    assert!(wanted.iter().all(|places| places.len() > 5), "{wanted:?}");
    let custody = Custody::open_to_index(&database).expect("an archive");
    let mut states = 0;
    while let Step::Going(_) = custody.index().expect("indexed") {
        assert_eq!(all_places(&database), wanted, "half of it is indexed");
        states += 1;
    }
    assert!(states > 1, "{states}");
    assert_eq!((custody.rows_behind().expect("read"), all_places(&database)), (0, wanted.clone()));
    drop(custody);
    record(&database, 150..200).await;
    let more = all_places(&database);
    assert!(more.iter().zip(&wanted).all(|(more, before)| more.is_superset(before) && more.len() > before.len()));
    index(&database);
    assert_eq!(all_places(&database), more);
    sealed(&database);
}

#[tokio::test]
async fn filters_and_orders_are_kept() {
    let folder = folder();
    let database = folder.path().join("a.db");
    record(&database, 0..60).await;
    for is_indexed in [false, true] {
        if is_indexed {
            index(&database);
        }
        let all = search(&database, "parc*", &Filter::default(), Order::Newest, 10_000);
        assert!(all.hits.is_sorted_by(|a, b| a.at >= b.at) && all.hits.len() > 50);
        let best = search(&database, "parc*", &Filter::default(), Order::Best, 10_000);
        assert!(best.hits.is_sorted_by(|a, b| a.score <= b.score));
        assert_eq!(best.hits.len(), all.hits.len());
        for limit in [1, 7, all.hits.len() - 1, all.hits.len()] {
            let some = search(&database, "parc*", &Filter::default(), Order::Newest, limit);
            assert_eq!(some.hits[..], all.hits[..limit], "the first of them");
            assert_eq!(some.is_cut, limit < all.hits.len());
        }
        let middle = all.hits[all.hits.len() / 2].at;
        let chosen = |filter: &Filter, wanted: &dyn Fn(&Hit) -> bool| {
            let found = search(&database, "parc*", filter, Order::Newest, 10_000).hits;
            let wanted: Vec<_> = all.hits.iter().filter(|hit| wanted(hit)).cloned().collect();
            assert!(!wanted.is_empty() && wanted.len() < all.hits.len());
            assert_eq!(found, wanted, "{filter:?}");
        };
        chosen(&Filter { from: Some(middle), ..Filter::default() }, &|hit| hit.at >= middle);
        chosen(&Filter { until: Some(middle), ..Filter::default() }, &|hit| hit.at <= middle);
        let odd = |hit: &Hit| hit.chat_id.ends_with(['1', '3', '5', '7', '9']);
        chosen(&Filter { service: Some("claims".into()), ..Filter::default() }, &odd);
        let chats = vec![id(3).as_str().to_owned(), id(8).as_str().to_owned()];
        chosen(&Filter { chat_ids: Some(chats.clone()), ..Filter::default() }, &|hit| chats.contains(&hit.chat_id));
    }
    let hits = search(&database, &secret(5, 3), &Filter::default(), Order::Best, 5).hits;
    let hit = &hits[0];
    assert_eq!(
        (hits.len(), hit.event_index, hit.nickname.as_deref(), hit.kind.as_deref()),
        (1, Some(3), Some("Anna"), Some("Message"))
    );
    let marked: Vec<_> =
        hit.snippet.pieces().iter().filter(|piece| piece.is_found).map(|piece| piece.text.clone()).collect();
    assert_eq!(marked, [secret(5, 3)]);
    let variants = search(&database, "otherwise", &Filter::default(), Order::Best, 100).hits;
    assert!(!variants.is_empty() && variants.iter().all(|hit| hit.is_variant));
}

/// At once for who searches, and after cleaning up to the last byte; with numbers of rows that are given again.
#[tokio::test]
async fn what_is_erased_is_found_by_nothing() {
    let folder = folder();
    let database = folder.path().join("a.db");
    record(&database, 0..120).await;
    index(&database);
    for (round, chats) in [vec![117, 118, 119], (0..117).step_by(3).collect(), vec![116]].into_iter().enumerate() {
        let secrets: Vec<String> = chats.iter().flat_map(|chat| (1..=6).map(|n| secret(*chat, n))).collect();
        assert!(secrets.iter().skip(1).all(|word| !places(&database, word).is_empty()));
        erase(&database, chats.iter().copied());
        secrets.iter().for_each(|word| assert_eq!(places(&database, word), BTreeSet::new()));
        assert_eq!(all_places(&database), by_rows(&database));
        // Rows with the numbers of those at the end.
        record(&database, 200 + round * 10..203 + round * 10).await;
        if round == 1 {
            index(&database);
        }
        clean(&database);
        gone(&database, &secrets);
        let words = words(&database);
        secrets.iter().for_each(|secret| assert!(!words.contains(&secret[..8]), "{secret}"));
        assert_eq!(all_places(&database), by_rows(&database));
        index(&database);
        assert_eq!(all_places(&database), by_rows(&database));
        assert!(!places(&database, &secret(202 + round * 10, 4)).is_empty());
        sealed(&database);
    }
}

/// Names of pages are of words that are there: also where many words begin alike, and the first of a page goes.
#[tokio::test]
async fn no_page_keeps_the_name_of_a_word_that_is_gone() {
    let folder = folder();
    let database = folder.path().join("a.db");
    let mut store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    let number = |chat: usize, n: usize| format!("7{:015}", (chat * 40 + n) * 7_919 % 16_000);
    let text = |chat: usize| (0..40).map(|n| number(chat, n)).collect::<Vec<_>>().join(" ");
    let entries: Vec<Entry> = (0..400).map(|chat| entry(chat, 2, &text(chat))).collect();
    store.append(&entries, &[], true).expect("stored");
    drop(store);
    index(&database);
    let pages = words(&database).lines().filter(|line| line.starts_with("07")).count();
    assert!(pages > 20, "{pages}");
    let mut renamed = 0;
    for round in 0..2 {
        let chats = || (0..400).filter(move |chat| chat % 10 == round);
        erase(&database, chats());
        let numbers: BTreeSet<String> = chats().flat_map(|chat| (0..40).map(move |n| number(chat, n))).collect();
        let custody = Custody::open(&database).expect("an archive");
        while custody.index().expect("taken out") != Step::Done {}
        custody.close().expect("closed");
        // What a word that is gone has in common with one that is left says nothing of it.
        let left: Vec<String> =
            (0..400).filter(|chat| chat % 10 > round).flat_map(|chat| (0..40).map(move |n| number(chat, n))).collect();
        let told = || -> Vec<String> {
            let words = words(&database);
            let names = words.lines().filter_map(|line| line.strip_prefix('0')).filter(|name| name.starts_with('7'));
            let is_told = |name: &&str| {
                numbers.iter().any(|number| number.starts_with(name))
                    && !left.iter().any(|number| number.starts_with(name))
            };
            names.filter(is_told).map(str::to_owned).collect()
        };
        renamed += told().len();
        clean(&database);
        assert_eq!(told(), Vec::<String>::new());
        let words = words(&database);
        numbers.iter().for_each(|number| assert!(!words.contains(number.as_str()), "{number}"));
        left.iter().step_by(997).for_each(|number| assert_eq!(places(&database, number).len(), 1, "{number}"));
    }
    assert!(renamed > 0, "then nothing of this is needed any longer");
    sealed(&database);
}

#[tokio::test]
async fn what_is_masked_is_found_by_nothing_and_the_rest_of_it_is() {
    let folder = folder();
    let database = folder.path().join("a.db");
    record(&database, 0..40).await;
    index(&database);
    let rules = [("word".to_owned(), format!("{}|{}|voucher", secret(4, 3), secret(5, 1)))].into();
    let masks = Masks::new(&Rules { cards: false, rules }).expect("a sound rule");
    let before = all_places(&database);
    let custody = Custody::open(&database).expect("an archive");
    let act_id = begin(&custody, Kind::Mask);
    let masked = custody.mask(act_id, &masks, || 1_795_600_000_001, &mut |_, _| {}).expect("masked");
    assert!(masked.all_rows() > 10, "{masked:?}");
    custody.close().expect("closed");
    for _ in 0..2 {
        for word in [secret(4, 3), secret(5, 1), "voucher".to_owned()] {
            assert_eq!(places(&database, &word), BTreeSet::new(), "{word}");
        }
        assert_eq!(all_places(&database), by_rows(&database));
        let of = |question: &str| QUESTIONS.iter().position(|one| *one == question).expect("asked");
        assert_eq!(all_places(&database)[of("parcel")], before[of("parcel")], "the rest is as it was");
        clean(&database);
    }
    gone(&database, &[secret(4, 3), secret(5, 1)]);
    assert!(!words(&database).contains("voucher"));
    sealed(&database);
}

/// A release without search knows nothing of the index, and removes beside it.
#[tokio::test]
async fn an_index_that_did_not_follow_is_made_anew() {
    let folder = folder();
    let database = folder.path().join("a.db");
    record(&database, 0..80).await;
    index(&database);
    let old = Connection::open(&database).expect("an archive");
    old.execute_batch(&format!(
        "DELETE FROM events WHERE chat_id = '{chat}'; DELETE FROM chat_attributes WHERE chat_id = '{chat}';
         DELETE FROM event_variants WHERE chat_id = '{chat}'; DELETE FROM chats WHERE chat_id = '{chat}';
         INSERT INTO erasures (act_id, chat_id, how, at, below, events, rows, leaves)
         VALUES (1, '{chat}', 'erased', 1, 7, 6, 8, x''); INSERT INTO uncleaned VALUES (1, 1)",
        chat = id(79).as_str()
    ))
    .expect("as it does");
    drop(old);
    let secrets: Vec<String> = (1..=6).map(|n| secret(79, n)).collect();
    record(&database, 300..301).await; // with the numbers of those rows
    assert_eq!(all_places(&database), by_rows(&database));
    let custody = Custody::open_to_index(&database).expect("an archive");
    let mut states = 0;
    while custody.index().expect("indexed") != Step::Done {
        assert_eq!(all_places(&database), by_rows(&database), "state {states}");
        states += 1;
    }
    assert!(states > 3, "{states}");
    drop(custody);
    secrets.iter().for_each(|word| assert_eq!(places(&database, word), BTreeSet::new()));
    clean(&database);
    gone(&database, &secrets);
    assert_eq!(all_places(&database), by_rows(&database));
}

/// Somebody has written into it: it is made anew from the rows, by whoever meets that first.
#[tokio::test]
async fn a_damaged_index_is_made_anew() {
    let folder = folder();
    let database = folder.path().join("a.db");
    record(&database, 0..40).await;
    let wanted = all_places(&database);
    index(&database);
    let name = database.display().to_string();
    let damage = || {
        let sql = "UPDATE search_data SET block = x'0000ffff' || randomblob(500) WHERE id > 10";
        Connection::open(&database).and_then(|open| open.execute(sql, ())).expect("it is ours")
    };
    assert!(damage() > 0);
    let (code, _, error) = run(&["search", "parcel", "--database", &name]);
    assert!(code == 1 && error.contains("index is damaged") && error.contains("--index"), "{error}");
    sealed(&database);
    let (code, out, error) = run(&["search", "parcel", "--index", "--database", &name]);
    assert!(code == 0 && out.contains("«parcel»") && !out.contains("behind"), "{out}{error}");
    assert_eq!(all_places(&database), wanted);
    damage();
    let erase = ["erase", "--chat", "chat000000000007", "--reason", "asked", "--database", &name];
    let (code, out, _) = run(&erase);
    assert!(code == 1 && out.contains("not every byte"), "{out}");
    clean(&database);
    gone(&database, &(1..=6).map(|n| secret(7, n)).collect::<Vec<_>>());
    index(&database);
    assert_eq!(all_places(&database), by_rows(&database));
}

/// `kill -9` at any moment: the index says what it has.
#[tokio::test]
async fn who_indexes_may_be_killed() {
    let folder = folder();
    let database = folder.path().join("a.db");
    record(&database, 0..200).await;
    let wanted = all_places(&database);
    let mut behind = u64::MAX;
    for round in 0..count("TEST_SEARCH_KILLS", 12) {
        let program = Command::new(env!("CARGO_BIN_EXE_gms-recorder"))
            .args(["search", "parcel", "--index", "--database"])
            .arg(&database)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut program = program.expect("it is built");
        std::thread::sleep(Duration::from_millis(40 + 15 * round as u64));
        program.kill().expect("it is ours");
        program.wait().expect("it ends");
        let custody = Custody::open(&database).expect("an archive");
        let now = custody.rows_behind().expect("read");
        custody.close().expect("closed");
        assert!(now <= behind, "round {round}");
        behind = now;
        assert_eq!(all_places(&database), wanted, "round {round}");
    }
    index(&database);
    assert_eq!(all_places(&database), wanted);
    words(&database);
}

/// Numbers of rows are the same in copies, however many are missing between them.
#[tokio::test]
async fn copies_are_searched_as_the_archive_is() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let database = path("a.db");
    record(&database, 0..80).await;
    index(&database);
    erase(&database, (0..80).filter(|chat| chat % 4 == 1));
    let text = |name: &str| path(name).display().to_string();
    for words in [&["snapshot", &text("copy.db")], &["backup", &text("backup.db")]] {
        let (code, _, error) = run(&[&words[..], &["--database", &text("a.db")]].concat());
        assert_eq!(code, 0, "{error}");
    }
    record(&database, 80..90).await;
    index(&database);
    let before = by_rows(&path("copy.db"));
    assert_eq!((all_places(&path("copy.db")), all_places(&path("backup.db"))), (before.clone(), before));
    assert_eq!(all_places(&database), by_rows(&database));
}

#[tokio::test]
async fn what_is_merged_is_found_and_what_two_files_have_is_found_once() {
    let folder = folder();
    let (one, two) = (folder.path().join("one.db"), folder.path().join("two.db"));
    record(&one, 0..60).await;
    record(&two, 30..90).await;
    index(&one);
    erase(&one, 33..36);
    let search = |databases: &[&Path]| {
        let named: Vec<String> =
            databases.iter().flat_map(|path| ["--database".into(), path.display().to_string()]).collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let words = ["search", "parcel", "--limit", "10000", "--format", "json", "--newest"];
        let (code, out, error) = run(&[&words[..], &named].concat());
        assert_eq!(code, 0, "{error}");
        let key = |line: &str| {
            let hit: serde_json::Value = serde_json::from_str(line).expect("JSON");
            hit["event_index"].as_i64().map(|index| format!("{} {index}", hit["chat_id"]))
        };
        out.lines().filter_map(key).collect::<Vec<_>>()
    };
    let (of_one, of_two, of_both) = (search(&[&one]), search(&[&two]), search(&[&one, &two]));
    let each: BTreeSet<_> = of_one.iter().chain(&of_two).cloned().collect();
    assert_eq!((of_both.len(), of_both.iter().cloned().collect::<BTreeSet<_>>()), (each.len(), each));

    let other = Other::open(&two).expect("an archive");
    let custody = Custody::open(&one).expect("an archive");
    let actor = actor();
    let act =
        Act { kind: Kind::Merge, at: 1, actor: &actor, asked: serde_json::json!({"command": "merge"}), reason: None };
    custody.merge(&other, &act, &Masks::default(), || 2, &mut |_, _| {}).expect("merged");
    custody.close().expect("closed");
    assert_eq!(all_places(&one), by_rows(&one));
    index(&one);
    assert_eq!(all_places(&one), by_rows(&one));
    assert!(!places(&one, &secret(80, 4)).is_empty() && places(&one, &secret(34, 4)).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_is_found_while_it_goes_on() {
    let simulator = Simulator::start(Config { seed: 7, ..Config::nodes(1) }).await.expect("free ports");
    let folder = folder();
    let mut server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna&emailAddress=anna%40example.com&subject=Order").await;
    let database = server.database.display().to_string();
    let search = |words: &[&str]| run(&[&["search"], words, &["--database", &database]].concat());
    chat.insist(&mut client, "send", "message=Where+is+my+p%C3%A4ckchen%3F%1B%5B31m&transcriptPosition=1").await;
    let (code, out, error) = search(&["packchen", "--who", "anna@example.com", "--case", "C-7"]);
    assert_eq!(code, 0, "{error}");
    assert!(
        out.contains("│ Where is my «päckchen»?␛[31m") && out.contains("event 3  Client Anna  customer Anna"),
        "{out}"
    );
    let began = Instant::now();
    eventually("it is indexed", async || {
        let mut archive = Archive::open(&server.database).await;
        let indexed = archive.value("SELECT events_to = (SELECT max(rowid) FROM events) FROM search_progress").await;
        (indexed == "1" && server.metric("gms_recorder_search_rows_behind ").await? == 0.0).then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let (code, out, error) = search(&["packchen", "--format", "json"]);
    assert!(code == 0 && error.is_empty(), "{error}");
    let hit: serde_json::Value = serde_json::from_str(out.lines().next().expect("a hit")).expect("JSON");
    let wanted = serde_json::json!({
        "chat_id": chat.id, "event_index": 3, "type": "Message", "who": "Anna", "party_type": "Client", "attribute": null,
        "is_variant": 0, "customer": "Anna <anna@example.com>", "snippet": "Where is my «päckchen»?\u{1b}[31m"
    });
    wanted.as_object().expect("an object").iter().for_each(|(name, value)| assert_eq!(hit[name], *value, "{name}"));
    let (code, out, _) = search(&["order", "--format", "csv"]);
    assert!(code == 0 && out.contains(",subject,0,Anna <anna@example.com>,«Order»,"), "{out}");
    let (code, out, _) = search(&["päckchen -where"]);
    assert!(code == 0 && out.contains("nothing like that was said"), "{out}");
    for (wrong, why) in [("\"open", "not closed"), ("!?", "no letter"), ("OR x", "OR stands")] {
        let (code, out, error) = search(&[wrong]);
        assert!(code == 2 && out.is_empty() && error.contains(why), "{wrong}: {error}");
    }
    let (_, acts, _) = run(&["access", "--format", "json", "--database", &database]);
    let first = acts.lines().last().expect("the first read");
    assert!(first.contains("packchen") && first.contains("C-7") && first.contains("\"found\":2"), "{first}");
    assert_eq!(acts.lines().count(), 4, "nothing is recorded of what was not asked: {acts}");
    assert!(server.stop().success());
    sealed(&server.database);

    let settings = std::fs::read_to_string(&server.config).expect("there");
    std::fs::write(&server.config, settings.replace("[recording]", "[recording]\nsearch = false")).expect("ours");
    server.start_again();
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Bob").await;
    chat.insist(&mut client, "send", "message=gratitude&transcriptPosition=1").await;
    let (code, out, error) = search(&["gratitude"]);
    assert!(
        code == 0 && out.contains("«gratitude»") && out.contains("behind: these were looked through"),
        "{out}{error}"
    );
    assert!(server.stop().success());
}

#[tokio::test]
async fn chats_are_exported_by_what_was_said() {
    let folder = folder();
    let database = folder.path().join("a.db");
    record(&database, 0..40).await;
    for (round, is_indexed) in [false, true].into_iter().enumerate() {
        if is_indexed {
            index(&database);
        }
        let dest = folder.path().join(format!("out{round}"));
        let words =
            ["export", &dest.display().to_string(), "--search", "\"my parcel\" OR voucher", "--service", "sales"];
        let (code, out, error) = run(&[&words[..], &["--database", &database.display().to_string()]].concat());
        assert_eq!(code, 0, "{out}{error}");
        let wanted: BTreeSet<String> = search(
            &database,
            "\"my parcel\" OR voucher",
            &Filter { service: Some("sales".into()), ..Filter::default() },
            Order::Best,
            10_000,
        )
        .hits
        .into_iter()
        .map(|hit| hit.chat_id)
        .collect();
        let chats = std::fs::read_to_string(dest.join("chats.jsonl")).expect("exported");
        let chat_id = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["chat_id"].as_str().map(str::to_owned)
        };
        let found: BTreeSet<String> = chats.lines().filter_map(chat_id).collect();
        assert!(found.len() > 3 && found.len() < 20, "{found:?}");
        assert_eq!(found, wanted);
        let about = std::fs::read_to_string(dest.join("export.json")).expect("exported");
        assert!(about.contains("\\\"my parcel\\\" OR voucher"), "{about}");
    }
    let dest = folder.path().join("none").display().to_string();
    let (code, _, error) = run(&["export", &dest, "--search", "\"", "--database", &database.display().to_string()]);
    assert!(code == 2 && error.contains("not closed"), "{error}");
}
