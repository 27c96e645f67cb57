//! A rule of masking that comes later: what it finds in stored rows is gone to the last byte, and the evidence stands.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gms_recorder::chat::{ChatId, EventIndex};
use gms_recorder::simulator::{Config, Simulator};
use gms_recorder::store::Store;
use gms_recorder::store::custody::{Act, Custody, Kind, Scope};
use serde_json::Value;

use crate::evidence::{a_run, entries, fill, options, prove_py, sealed};
use crate::faults::Mount;
use crate::masking::{
    ADVICE, AGENT, DELIVERY, MESSAGE, NEVER, NICKNAME, PAGE, REFRESH, SUBJECT, USER_DATA, ask, page, transcript,
};
use crate::removal::{actor, gone};
use crate::support::{Answer, Archive, Chat, Client, Origin, Server, count, eventually, folder, json_answer, run};

/// Of the other content that event 3 comes with.
const OTHER: &str = "4000 0000 0000 0002";

fn other_transcript() -> String {
    transcript().replace("thank you", &format!("thank you, {OTHER}"))
}

/// Answers with the transcript, then with its other content, and so on.
fn node() -> Origin {
    let asked = Arc::new(AtomicUsize::new(0));
    Origin::start(move |request| {
        let text = String::from_utf8_lossy(request);
        let body = match text.split(' ').nth(1).unwrap_or_default() {
            path if path.ends_with("/refresh") => match asked.fetch_add(1, Ordering::SeqCst) % 2 {
                0 => transcript(),
                _ => other_transcript(),
            },
            path if path.ends_with("/send") => {
                format!(r#"{{"statusCode":2,"errors":[{{"code":249,"advice":"no such {ADVICE}"}}]}}"#)
            }
            path if path.ends_with("/startTyping") => page(),
            path if path.ends_with("/cometd") => format!(
                r#"[{{"channel":"/service/chatV2/support","data":{{"statusCode":0,"chatId":"C2","nextPosition":2,"messages":[{{"index":1,"type":"Message","text":"{DELIVERY}"}}]}}}}]"#
            ),
            _ => r#"{"statusCode":0,"chatId":"C1","secureKey":"0123456789abcdef0123","userId":"U1"}"#.into(),
        };
        Answer { bytes: json_answer(&body), close: false }
    })
}

async fn ask_all(client: &mut Client) {
    let opened = format!("nickname={NICKNAME}&subject={SUBJECT}&userData[card]={USER_DATA}").replace(' ', "+");
    ask(client, "/genesys/2/chat/support", opened).await;
    for _ in 0..2 {
        ask(client, REFRESH, "transcriptPosition=1".into()).await;
    }
    ask(client, "/genesys/2/chat/support/C1/send", "message=hi".into()).await;
    ask(client, "/genesys/2/chat/support/C1/startTyping", "x=1".into()).await;
    let connect = r#"[{"channel":"/meta/connect","clientId":"c1","id":"1"}]"#;
    ask(client, "/genesys/cometd", connect.into()).await;
}

/// Events, variants, findings and attributes of requests.
async fn counts(archive: &mut Archive) -> String {
    let of = |table: &str| format!("(SELECT count(*) FROM {table})");
    let attributes = "(SELECT count(*) FROM chat_attributes WHERE source = 'request')";
    let all = ["events", "event_variants", "findings", "api_errors"].map(of).join(" || ' ' || ");
    archive.value(&format!("SELECT {all} || ' ' || {attributes}")).await
}

fn rules(folder: &Path, rules: &str) -> PathBuf {
    let config = folder.join("rules.toml");
    std::fs::write(&config, format!("[masking.rules]\n{rules}\n")).expect("the folder is ours");
    config
}

fn mask(rule: &str, config: &Path, database: &Path, more: &[&str]) -> (i32, String, String) {
    let (config, database) = (config.to_str().expect("a plain path"), database.to_str().expect("a plain path"));
    let reason: &[&str] = if more.contains(&"--reason") { &[] } else { &["--reason", "a later rule"] };
    run(&[&["mask", "--rule", rule, "--config", config, "--database", database][..], reason, more].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_recorded_before_a_rule_is_masked_beside_a_running_serve() {
    let (node, folder) = (node(), folder());
    let settings =
        "[recording]\nreserve = \"0B\"\n[masking]\ncards = false\n[evidence]\ncheckpoint_interval = \"100ms\"\n";
    let mut server = Server::start(folder.path(), &[node.address], settings);
    let mut client = Client::new(server.address);
    ask_all(&mut client).await;
    let mut archive = Archive::open(&server.database).await;
    let all = "4 1 1 1 3";
    eventually("all is written", async || (counts(&mut archive).await == all).then_some(())).await;
    let digest = "SELECT hex(digest) FROM event_variants";
    let digest_before = archive.value(digest).await;
    sqlx::Connection::close(archive.0).await.expect("closed");
    assert!(server.stop().success());
    // From now on cards are masked when they are recorded.
    let config = std::fs::read_to_string(&server.config).expect("there").replace("cards = false", "cards = true");
    std::fs::write(&server.config, config).expect("ours");
    server.start_again();
    let (config, database) = (server.config.clone(), server.database.clone());

    let (code, out, err) = mask("cards", &config, &database, &["--dry-run", "--format", "json"]);
    assert_eq!(code, 0, "{err}");
    let told: Value = serde_json::from_str(&out).expect("JSON");
    for (name, rows) in [("events", 3), ("variants", 1), ("attributes", 3), ("errors", 1), ("findings", 1), ("rows", 9)]
    {
        assert_eq!(told[name], rows, "{name}: {out}");
    }
    assert_eq!((&told["chats"], &told["dry_run"]), (&2.into(), &true.into()));
    assert!(NEVER.iter().all(|never| !out.contains(never) && !err.contains(never)));
    assert_eq!(Archive::open(&database).await.value("SELECT count(*) FROM acts").await, "0");

    for (rule, rows) in [("cvv", "1 row "), ("cards", "9 rows ")] {
        let (code, out, err) = mask(rule, &config, &database, &["--case", "C-7", "--reason", "an audit"]);
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.starts_with(rows), "{out}");
        let (code, out, _) = mask(rule, &config, &database, &[]);
        assert_eq!(code, 0);
        assert!(out.starts_with("0 rows "), "what does not change is not touched: {out}");
    }
    let never: Vec<String> = NEVER.iter().chain([&OTHER]).map(|text| text.to_string()).collect();
    gone(&database, &never);
    let found = sealed(&database).found;
    assert!(found.erased >= 10, "{found:?}");

    let mut archive = Archive::open(&database).await;
    let text = archive.value("SELECT text FROM events WHERE chat_id = 'C1' AND event_index = 1").await;
    assert_eq!(text, "my card is **** **** **** ****, cvv ***");
    assert_ne!(archive.value(digest).await, digest_before);
    let evidence = "SELECT rule, field, at_character, characters, run_id FROM maskings
        WHERE what = 'event' AND chat_id = 'C1' AND event_index = 1 ORDER BY id";
    let of_acts = archive.rows(evidence).await;
    assert_eq!(of_acts[0][..4], ["cvv", "/text", "36", "3"]);
    assert_eq!(of_acts[1][..4], ["cards", "/from/nickname", "0", "16"]);
    assert!(of_acts.iter().all(|row| row[4].starts_with('-')), "{of_acts:?}");
    let acts = "SELECT kind, case_ref, reason, found FROM acts WHERE found > 0 ORDER BY id";
    let wanted = [["mask", "C-7", "an audit", "1"], ["mask", "C-7", "an audit", "9"]];
    assert_eq!(archive.rows(acts).await, wanted);
    assert_eq!(archive.value("SELECT count(*) FROM erasures WHERE how <> 'masked' OR below IS NOT NULL").await, "0");

    // What is delivered again is known, masked as it is now.
    ask_all(&mut client).await;
    eventually("the error is counted", async || {
        (archive.value("SELECT sum(repeats) FROM api_errors").await == "2").then_some(())
    })
    .await;
    assert!(counts(&mut archive).await.starts_with("4 1 1 "));
    sqlx::Connection::close(archive.0).await.expect("closed");
    gone(&database, &never);
    sealed(&database);

    let key = folder.path().join("key.vkey");
    let vkey = run(&["key", "list", "--database", database.to_str().expect("plain")]).1;
    std::fs::write(&key, vkey.lines().last().expect("a key")).expect("ours");
    let proof = folder.path().join("proof.json");
    eventually("a proof of all of the chat", async || {
        let (code, out, err) = run(&["prove", "C1", "--database", database.to_str().expect("plain")]);
        std::fs::write(&proof, out).expect("ours");
        (code == 0 && err.is_empty()).then_some(())
    })
    .await;
    let (proves, said) = prove_py(&proof, &key);
    assert!(proves, "{said}");
    assert!(server.stop().success());
    assert!(counts(&mut Archive::open(&database).await).await.starts_with("4 1 1 "), "nothing new came of it");
    sealed(&database);
}

/// A hold preserves what is there.
#[tokio::test]
async fn a_held_chat_is_left_and_listed() {
    let folder = folder();
    let database = folder.path().join("a.db");
    fill(&database, 300).await;
    let config = rules(folder.path(), "goods = 'par[c]el'");
    let custody = Custody::open(&database).expect("an archive");
    let actor = actor();
    let act = |kind| Act { kind, at: 1, actor: &actor, asked: Value::Null, reason: Some("a court") };
    let hold = custody.hold(&act(Kind::Hold), &Scope::Chat("chat000000000003".into())).expect("held");
    for more in [&["--dry-run"][..], &[]] {
        let (code, out, err) = mask("goods", &config, &database, more);
        assert_eq!(code, 1, "{err}");
        assert!(out.contains("270 rows") && out.contains("chat000000000003, by hold 1"), "{out}");
        assert!(err.contains("unhold"), "{err}");
    }
    assert!(custody.release(&act(Kind::Unhold), hold).expect("released"));
    let (code, out, err) = mask("goods", &config, &database, &[]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("30 rows"), "{out}");
    gone(&database, &["parcel".into()]);
    sealed(&database);
    let (code, out, err) = mask("other", &config, &database, &[]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("cards, cvv, goods"), "{err}");
}

/// What was masked is as much evidence as what was not.
#[tokio::test]
async fn what_an_insider_does_to_masked_rows_is_found() {
    let folder = folder();
    let database = folder.path().join("a.db");
    fill(&database, 90).await;
    assert_eq!(mask("goods", &rules(folder.path(), "goods = 'par[c]el'"), &database, &[]).0, 0);
    sealed(&database);
    for (n, (sql, fault)) in [
        (
            "UPDATE events SET text = replace(text, '******', 'cheque') WHERE event_index = 7",
            "event_index 7: it is not as it",
        ),
        ("DELETE FROM events WHERE event_index = 7", "event_index 7: it was sealed, and is gone"),
        ("DELETE FROM maskings WHERE id = 3", "maskings, id 3: it was sealed, and is gone"),
        ("UPDATE maskings SET rule = 'other' WHERE id = 3", "maskings, id 3: it is not as it was sealed"),
        ("DELETE FROM erasures WHERE id = 2", "its salt was destroyed, and no act says"),
        ("UPDATE erasures SET how = 'erased' WHERE id = 2", "erasures, id 2: it is not as it was sealed"),
        ("UPDATE acts SET who = 'somebody else' WHERE kind = 'mask'", "acts, id 1: it is not as it was sealed"),
        ("UPDATE acts SET asked = '{}'", "acts, id 1: it is not as it was sealed"),
        ("DELETE FROM acts", "acts, id 1: it was sealed, and is gone"),
    ]
    .into_iter()
    .enumerate()
    {
        let copy = folder.path().join(format!("copy-{n}.db"));
        std::fs::copy(&database, &copy).expect("there is room");
        rusqlite::Connection::open(&copy).and_then(|insider| insider.execute_batch(sql)).expect("sound SQL");
        let (code, out, _) = run(&["verify", "--database", copy.to_str().expect("a plain path")]);
        assert!(code == 1 && out.contains(fault), "{sql}: {out}");
    }
}

/// In pieces, so that `serve` gets its turn; each is an erasure of its own.
#[tokio::test]
async fn a_long_chat_is_masked_in_pieces() {
    let folder = folder();
    let database = folder.path().join("a.db");
    let mut store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    let mut all = entries(0, 450);
    for (index, event) in
        all.iter_mut().flat_map(|entry| &mut entry.chats).flat_map(|chat| &mut chat.events).enumerate()
    {
        event.index = EventIndex::new(index as i64 + 1).expect("from 1 on");
    }
    let chats = all.iter_mut().flat_map(|entry| &mut entry.chats);
    chats.for_each(|chat| chat.chat_id = ChatId::parse("long").expect("a sound one"));
    store.append(&all, &[], true).expect("stored");
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
    let (code, out, err) = mask("goods", &rules(folder.path(), "goods = 'par[c]el'"), &database, &[]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("450 rows masked by rule goods, in 1 chat"), "{out}");
    let pieces = Archive::open(&database).await.rows("SELECT events FROM erasures ORDER BY id").await;
    assert_eq!(pieces, [["200"], ["200"], ["50"]]);
    gone(&database, &["parcel".into()]);
    sealed(&database);
}

/// No client waits for longer than it would be made to (`commit_wait_max`), and nothing is missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chats_are_recorded_while_a_large_archive_is_masked() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    fill(&database, 6_000).await;
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let rule = "[masking.rules]\ngoods = 'par[c]el'\n";
    let mut server = Server::start(folder.path(), &simulator.addresses(), rule);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let config = rules(folder.path(), "goods = 'par[c]el'");
    let masking = {
        let database = database.clone();
        tokio::task::spawn_blocking(move || mask("goods", &config, &database, &[]))
    };
    let (mut sent, mut longest) = (0, Duration::ZERO);
    while !masking.is_finished() {
        let began = Instant::now();
        chat.insist(&mut client, "send", &format!("message=m{sent}&transcriptPosition=1")).await;
        (sent, longest) = (sent + 1, longest.max(began.elapsed()));
    }
    let (code, out, err) = masking.await.expect("it ran");
    println!("{sent} messages meanwhile, the longest took {longest:?}");
    assert_eq!(code, 0, "{out}{err}");
    assert!(sent > 20, "{sent}");
    assert_eq!(server.metric("gms_recorder_events_delivered_early_total").await, Some(0.0), "{longest:?}");
    // A rule that the server does not have is applied, and is not all that is needed.
    let config = rules(folder.path(), "others = 'par[c]els'");
    let (code, out, err) = mask("others", &config, &database, &[]);
    assert!(
        code == 1 && err.contains("does not mask by this rule") && out.contains("has no such rule others"),
        "{out}{err}"
    );
    assert!(server.stop().success());
    let mut archive = Archive::open(&database).await;
    let messages = format!("SELECT count(*) FROM events WHERE chat_id = '{}' AND text GLOB 'm[0-9]*'", chat.id);
    assert_eq!(archive.value(&messages).await, sent.to_string());
    assert_eq!(archive.value("SELECT count(*) FROM outages").await, "0");
    sqlx::Connection::close(archive.0).await.expect("closed");
    gone(&database, &["parcel".into()]);
    sealed(&database);
    simulator.stop().await;
}

#[tokio::test]
async fn a_card_that_somebody_looks_for_is_not_recorded_with_the_read() {
    let folder = folder();
    let database = folder.path().join("a.db");
    fill(&database, 30).await;
    let statement = format!("SELECT 1 FROM events WHERE text LIKE '%{MESSAGE}%'");
    let database_name = database.to_str().expect("plain");
    for arguments in [["sql", &statement, "--case", AGENT], ["chats", "--who", SUBJECT, "--utc"]] {
        assert_eq!(run(&[&arguments[..], &["--database", database_name]].concat()).0, 0);
    }
    gone(&database, &[MESSAGE, AGENT, SUBJECT, PAGE].map(str::to_owned));
    assert!(run(&["access", "--database", database_name]).1.contains("LIKE '%**** **** **** ****%'"));
}

#[tokio::test]
async fn a_kill_and_a_full_disk_in_the_midst_of_masking_leave_nothing_half_done() {
    // As many as there is something left to mask for.
    const KILLS_TOGETHER: u64 = 5;
    let kills = count("TEST_MASK_KILLS", 5) as u64;
    for from in (0..kills).step_by(KILLS_TOGETHER as usize) {
        masking_is_cut_short(KILLS_TOGETHER.min(kills - from)).await;
    }
}

async fn masking_is_cut_short(kills: u64) {
    let (mount, elsewhere) = (Mount::new(16_000), folder());
    let database = mount.0.path().join("a.db");
    fill(&database, 6_000).await;
    let config = rules(elsewhere.path(), "goods = 'par[c]el'");
    let left = "SELECT count(*) FROM events WHERE text LIKE '%parcel%'";
    let mut before = 6_000;
    for round in 0..kills {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gms-recorder"));
        command
            .args(["mask", "--rule", "goods", "--reason", "a later rule", "--config"])
            .arg(&config)
            .arg("--database")
            .arg(&database);
        let mut masking = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary was built");
        // Until it is in the midst of it, a little longer each time.
        eventually("some is masked", async || {
            let now: i64 = Archive::open(&database).await.value(left).await.parse().expect("a number");
            (now < before).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(7 * round)).await;
        masking.kill().expect("it is our child");
        masking.wait().expect("it is our child");
        let now = Archive::open(&database).await.value(left).await.parse().expect("a number");
        assert!(0 < now && now < before, "round {round}: {now} of {before}");
        before = now;
        sealed(&database);
    }
    mount.fill();
    let (code, _, err) = mask("goods", &config, &database, &[]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("full") || err.contains("I/O"), "{err}");
    mount.free();
    sealed(&database);
    let (code, out, err) = mask("goods", &config, &database, &[]);
    assert_eq!(code, 0, "{out}{err}");
    gone(&database, &["parcel".into()]);
    let found = sealed(&database).found;
    assert_eq!((found.erased, found.is_unclean), (6_000, false));
}
