//! `when_unavailable = "spool"`: what the archive does not take is on disk before the client has it, and comes into the
//! archive once, also over kill -9, restarts and a spool that is full itself.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gms_recorder::simulator::{Config, Simulator};
use http::StatusCode;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::evidence::sealed;
use crate::faults::{Mount, is_down, is_up, texts};
use crate::support::{Archive, Chat, Client, Server, count, eventually, find, folder, get};

const SPOOL: &str = "[recording]\nwhen_unavailable = \"spool\"\n";

/// The archive's write lock, as a careless shell holds it.
pub async fn lock(database: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(database).disable_statement_logging();
    let mut shell = options.connect().await.expect("there is an archive");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut shell).await.expect("the lock is free between commits");
    shell
}

/// Sends messages and returns their texts; each of them must be answered with 200.
async fn send(chat: &Chat, client: &mut Client, name: &str, messages: usize) -> Vec<String> {
    let mut sent = Vec::new();
    for n in 0..messages {
        let text = format!("{name}-{n}");
        let form = format!("message={text}&transcriptPosition=1");
        let reply = chat.act(client, "send", &form).await.expect("an answer");
        assert_eq!(reply.status, StatusCode::OK);
        sent.push(text);
    }
    sent
}

/// Promise 4, from one scrape: the identity, and what was delivered early or dropped.
pub async fn account(server: &Server) -> (f64, f64) {
    let text = get(server.admin, "/metrics").await.expect("it runs").1;
    let number = |line: &str| line.rsplit(' ').next().and_then(|text| text.parse::<f64>().ok()).expect("a number");
    let of = |name: &str| text.lines().find(|line| line.starts_with(name)).map(number).expect("a metric");
    let fates: f64 = text.lines().filter(|line| line.starts_with("gms_recorder_events_total{")).map(number).sum();
    assert_eq!(of("gms_recorder_events_seen_total"), fates + of("gms_recorder_events_in_flight"), "{text}");
    assert!(of("gms_recorder_spool_events ") <= of("gms_recorder_events_in_flight"), "{text}");
    (of("gms_recorder_events_delivered_early_total"), of("gms_recorder_events_total{fate=\"dropped\"}"))
}

async fn all_written(server: &Server, chat: &Chat, sent: &[String]) {
    eventually("recording up again", async || is_up(server).await).await;
    eventually("all written", async || (texts(server, chat).await.len() >= sent.len()).then_some(())).await;
    assert_eq!(texts(server, chat).await, sent, "once, and in order");
    eventually("emptied", async || (server.metric("gms_recorder_spool_records ").await? == 0.0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_locked_archive_does_not_take_survives_kill_9_and_comes_into_it_once() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let settings = "[recording]\nwhen_unavailable = \"spool\"\nfile_mode = \"0640\"\n";
    let mut server = Server::start(folder.path(), &simulator.addresses(), settings);
    let spool = folder.path().join("transcripts.db-spool");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let mut sent = send(&chat, &mut client, "before", 2).await;
    let mut shell = lock(&server.database).await;
    sent.extend(send(&chat, &mut client, "during", 20).await);
    // A row that counts its repeats: it must not be counted twice.
    chat.act(&mut client, "updateNickname", "").await.expect("an answer");
    is_down(&server).await.expect("the lock is noticed");
    assert_eq!(account(&server).await, (0.0, 0.0), "kept before it was delivered");
    assert!(server.metric("gms_recorder_spool_events ").await > Some(20.0));
    let words = get(server.admin, "/ready").await.expect("it runs");
    assert_eq!(words.0, StatusCode::OK);
    assert!(words.1.contains("locked") && words.1.contains("kept in the spool"), "{}", words.1);
    assert_eq!(texts(&server, &chat).await.len(), 2);
    let bytes = std::fs::read(&spool).expect("it is there");
    assert!(find(&bytes, b"during-19").is_some());
    assert!(find(&bytes, chat.key.as_bytes()).is_none(), "no secret is in it");
    assert_eq!(
        std::fs::metadata(&spool).expect("it is there").mode() & 0o777,
        0o640,
        "who may read the archive may read it"
    );

    server.kill();
    sqlx::query("ROLLBACK").execute(&mut shell).await.expect("it is ours");
    shell.close().await.expect("it is ours");
    // As a crash leaves it: the last record torn. Nobody was told that it is kept.
    std::fs::write(&spool, [&bytes[..], b"\nREC\x40\0\0\0torn"].concat()).expect("the folder is ours");
    server.start_again();
    let mut client = Client::new(server.address);
    sent.extend(send(&chat, &mut client, "after", 2).await);
    all_written(&server, &chat, &sent).await;
    account(&server).await;
    let mut archive = Archive::open(&server.database).await;
    let outages = "SELECT reason, spooled > 20, spooled = events, delivered_early, dropped, ended_at > started_at, chat_ids FROM outages";
    assert_eq!(archive.rows(outages).await, [["locked", "1", "1", "0", "0", "1", &format!("[\"{}\"]", chat.id)]]);
    assert_eq!(archive.value("SELECT max(repeats) FROM api_errors").await, "1");
    assert_eq!(archive.value("SELECT kind FROM findings").await, "spool_damaged");
    assert_eq!(archive.value("SELECT status FROM completeness").await, "open");
    assert_eq!(archive.value("SELECT count(*) FROM coverage_holes").await, "0");
    assert_eq!(archive.value("PRAGMA integrity_check").await, "ok");
    sealed(&server.database);
    assert!(server.log().contains("the last record of the spool was torn"));
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_does_not_matter_where_the_spool_is_on_another() {
    let (simulator, mount, folder) =
        (Simulator::start(Config::nodes(1)).await.expect("free ports"), Mount::new(4096), folder());
    let database = mount.0.path().join("transcripts.db");
    // A slow disk under the spool is not what this is about.
    let settings = format!("{SPOOL}commit_wait_max = \"5s\"\nspool = {:?}\n", folder.path().join("spool"));
    let server = Server::start_with_database(folder.path(), &database, &simulator.addresses(), &settings);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    mount.fill();
    let sent = send(&chat, &mut client, "during", count("TEST_SPOOLED", 60)).await;
    assert_eq!(account(&server).await, (0.0, 0.0));
    is_down(&server).await.expect("it is full");
    mount.free();
    all_written(&server, &chat, &sent).await;
    assert_eq!(account(&server).await, (0.0, 0.0));
    eventually("the outage's row", async || {
        let rows =
            Archive::open(&database).await.rows("SELECT reason, spooled > 50, delivered_early FROM outages").await;
        (rows == [["disk_full", "1", "0"]]).then_some(())
    })
    .await;
    simulator.stop().await;
}

/// The last resort is `pass`: kept in memory, counted, and written later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_is_full_itself_passes_and_says_so() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let settings = format!("{SPOOL}spool_bytes_max = \"16KiB\"\nbody_max = \"4KiB\"\nbatch_events_max = 1\n");
    let mut server = Server::start(folder.path(), &simulator.addresses(), &settings);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let mut shell = lock(&server.database).await;
    let mut sent = Vec::new();
    for n in 0..40 {
        // Only what is new: an answer over body_max is not read.
        let form = format!("message=m-{n}&transcriptPosition={}", 2 + 2 * n);
        assert_eq!(chat.act(&mut client, "send", &form).await.expect("an answer").status, StatusCode::OK);
        sent.push(format!("m-{n}"));
    }
    let (early, dropped) = account(&server).await;
    assert!(early > 0.0 && dropped == 0.0, "{early} early, {dropped} dropped");
    assert!(server.metric("gms_recorder_spool_errors_total{kind=\"disk_full\"}").await > Some(0.0));
    assert!(server.metric("gms_recorder_spool_bytes ").await <= Some(16_384.0));
    assert!(get(server.admin, "/ready").await.expect("it runs").1.contains("kept in memory"));
    sqlx::query("ROLLBACK").execute(&mut shell).await.expect("it is ours");
    all_written(&server, &chat, &sent).await;
    account(&server).await;
    assert!(server.stop().success());
    let said = Archive::open(&server.database).await.rows("SELECT detail, delivered_early FROM outages").await;
    assert!(said[0][0].contains("spool_bytes_max"), "{said:?}");
    assert_eq!(said[0][1], early.to_string());
    simulator.stop().await;
}

/// A stop does not wait for an archive that takes nothing, and whoever starts next finds the spool, whatever is configured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_was_left_is_drained_whatever_is_configured() {
    for settings in ["", "[recording]\nwhen_unavailable = \"refuse\"\n"] {
        let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
        let mut server = Server::start(folder.path(), &simulator.addresses(), SPOOL);
        let mut client = Client::new(server.address);
        let chat = Chat::open(&mut client, "nickname=Anna").await;
        let mut shell = lock(&server.database).await;
        let sent = send(&chat, &mut client, "during", 5).await;
        assert!(server.stop().success(), "what is in the spool is safe");
        assert!(server.log().contains("the spool keeps what the archive has not"));
        sqlx::query("ROLLBACK").execute(&mut shell).await.expect("it is ours");
        shell.close().await.expect("it is ours");
        let configured = std::fs::read_to_string(&server.config).expect("it is ours");
        let kept = SPOOL.trim_start_matches("[recording]\n").trim();
        let other = configured.replace(kept, settings.trim_start_matches("[recording]\n").trim());
        assert_ne!(other, configured);
        std::fs::write(&server.config, other).expect("it is ours");
        server.start_again();
        all_written(&server, &chat, &sent).await;
        account(&server).await;
        assert_eq!(std::fs::metadata(folder.path().join("transcripts.db-spool")).expect("it stays").len(), 32);
        simulator.stop().await;
    }
}

/// kill -9 while the archive comes and goes: every event that a client had is in the archive or the spool, and in the end
/// in the archive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_that_a_client_had_is_lost_between_archive_and_spool() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let mut server = Server::start(folder.path(), &simulator.addresses(), SPOOL);
    let mut held: HashSet<(String, i64)> = HashSet::new();
    let rounds = count("TEST_SPOOL_KILLS", 4);
    for round in 0..rounds {
        let mut client = Client::new(server.address);
        let chat = Chat::open(&mut client, "nickname=Anna").await;
        let mut shell = None;
        for n in 0..60 {
            match (n + 7 * round) % 20 {
                5 => shell = Some(lock(&server.database).await),
                15 => drop(shell.take()),
                _ => {}
            }
            let form = format!("message=m{n}&transcriptPosition=1");
            let reply = chat.act(&mut client, "send", &form).await.expect("an answer");
            let events = reply.json()["messages"].as_array().cloned().unwrap_or_default();
            held.extend(events.iter().filter_map(|event| Some((chat.id.clone(), event["index"].as_i64()?))));
            if n % 10 == 0 {
                assert_eq!(account(&server).await, (0.0, 0.0));
            }
        }
        server.kill();
        drop(shell);
        server.start_again();
    }
    eventually("recording up again", async || is_up(&server).await).await;
    account(&server).await;
    assert!(server.stop().success());
    let mut archive = Archive::open(&server.database).await;
    assert!(held.len() > 60 * rounds, "hardly any load: {}", held.len());
    archive.check_holds(&held, "in the end").await;
    assert_eq!(archive.value("SELECT count(*) FROM event_variants").await, "0");
    sealed(&server.database);
    simulator.stop().await;
}
