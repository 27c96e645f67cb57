//! What happens to the file: full, locked, moved, read-only, damaged; under `pass` and under `refuse`. Every fault is
//! made for real, and recovery needs no hand.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gms_recorder::simulator::{Config, Simulator};
use http::StatusCode;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::evidence::sealed;
use crate::support::{Archive, Chat, Client, Origin, Server, count, eventually, folder, get, json_answer};

const REFUSE: &str = "[recording]\nwhen_unavailable = \"refuse\"\n";

/// A file system of its own, so that it can be full or read-only. Needs the right to mount, as CI has.
pub struct Mount(pub tempfile::TempDir);

impl Mount {
    pub fn new(kib: usize) -> Self {
        let mount = Self(folder());
        mount.command(&["mount", "-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]);
        mount
    }

    pub fn command(&self, command: &[&str]) {
        let status = Command::new(command[0]).args(&command[1..]).arg(self.0.path()).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{command:?} failed: these tests mount file systems, run them as root"
        );
    }

    /// Takes all the room there is.
    pub fn fill(&self) {
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=4k"])
            .arg(format!("of={}/filler", self.0.path().display()))
            .output();
    }

    pub fn free(&self) {
        std::fs::remove_file(self.0.path().join("filler")).expect("it was filled");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

async fn simulator() -> Simulator {
    Simulator::start(Config::nodes(1)).await.expect("free ports")
}

pub async fn writable(path: &Path) -> SqliteConnection {
    let options =
        SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(10)).disable_statement_logging();
    options.connect().await.expect("there is an archive")
}

pub async fn is_down(server: &Server) -> Option<()> {
    (server.metric("gms_recorder_recording_up").await? == 0.0).then_some(())
}

pub async fn is_up(server: &Server) -> Option<()> {
    (server.metric("gms_recorder_recording_up").await? == 1.0).then_some(())
}

/// Sends until recording is noticed to be down. What was answered with 200 meanwhile.
async fn send_until_down(server: &Server, chat: &Chat, client: &mut Client) -> Vec<String> {
    let mut delivered = Vec::new();
    for n in 0.. {
        if is_down(server).await.is_some() {
            return delivered;
        }
        assert!(n < 5000, "the fault was never noticed");
        let text = format!("before-{n}");
        let reply = chat.act(client, "send", &format!("message={text}&transcriptPosition=1")).await.expect("an answer");
        if reply.status == StatusCode::OK {
            delivered.push(text);
        }
    }
    delivered
}

pub async fn texts(server: &Server, chat: &Chat) -> Vec<String> {
    let sql =
        format!("SELECT text FROM events WHERE chat_id = '{}' AND party_type = 'Client' AND text IS NOT NULL", chat.id);
    Archive::open(&server.database).await.rows(&sql).await.into_iter().map(|row| row[0].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_pass_delivers_and_writes_later() {
    let (simulator, mount, folder) = (simulator().await, Mount::new(4096), folder());
    let database = mount.0.path().join("transcripts.db");
    let server = Server::start_with_database(folder.path(), &database, &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    mount.fill();
    let mut delivered = send_until_down(&server, &chat, &mut client).await;
    for n in 0..50 {
        let began = Instant::now();
        let reply = chat
            .act(&mut client, "send", &format!("message=during-{n}&transcriptPosition=1"))
            .await
            .expect("an answer");
        assert_eq!(reply.status, StatusCode::OK);
        assert!(began.elapsed() < Duration::from_millis(700), "known to be down, and it waited {:?}", began.elapsed());
        delivered.push(format!("during-{n}"));
    }
    let (status, words) = get(server.admin, "/ready").await.expect("it runs");
    assert_eq!(status, StatusCode::OK, "under pass the store does not make it unready");
    assert!(words.contains("disk_full"), "{words}");
    mount.free();
    eventually("recording up again", async || is_up(&server).await).await;
    eventually("all written", async || (texts(&server, &chat).await.len() == delivered.len()).then_some(())).await;
    assert_eq!(texts(&server, &chat).await, delivered);
    eventually("the outage's row", async || {
        let row = Archive::open(&database)
            .await
            .rows("SELECT reason, delivered_early > 0, dropped, ended_at > started_at FROM outages")
            .await;
        (row == [["disk_full", "1", "0", "1"]]).then_some(())
    })
    .await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_gets_the_reserve_back_and_recording_goes_on() {
    let (simulator, mount, folder) = (simulator().await, Mount::new(32 << 10), folder());
    let database = mount.0.path().join("transcripts.db");
    let settings = "[recording]\nreserve = \"4MiB\"\nwhen_unavailable = \"refuse\"\n";
    let server = Server::start_with_database(folder.path(), &database, &simulator.addresses(), settings);
    let held = async |bytes: f64| (server.metric("gms_recorder_reserve_bytes ").await? == bytes).then_some(());
    eventually("the reserve is held", async || held(4_194_304.0).await).await;
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    mount.fill();
    for n in 0..60 {
        let form = format!("message=m{n}&transcriptPosition=1");
        let reply = chat.act(&mut client, "send", &form).await.expect("an answer");
        assert_eq!(reply.status, StatusCode::OK, "the reserve is in use, and recording is not down");
    }
    eventually("the reserve was needed", async || held(0.0).await).await;
    assert_eq!(server.metric("gms_recorder_recording_up").await, Some(1.0));
    let (status, words) = get(server.admin, "/ready").await.expect("it runs");
    assert!(status == StatusCode::OK && words.contains("its reserve is in use"), "{words}");
    assert!(server.log().contains("its reserve is given back"));
    mount.free();
    eventually("made anew", async || held(4_194_304.0).await).await;
    assert!(!get(server.admin, "/ready").await.expect("it runs").1.contains("reserve"));
    assert_eq!(texts(&server, &chat).await.len(), 60);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_refuse_lets_nothing_unrecorded_out() {
    let (simulator, mount, folder) = (simulator().await, Mount::new(4096), folder());
    let database = mount.0.path().join("transcripts.db");
    let server = Server::start_with_database(folder.path(), &database, &simulator.addresses(), REFUSE);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    mount.fill();
    let mut delivered = send_until_down(&server, &chat, &mut client).await;
    let before = simulator.account().requests_of("send");
    let reply = chat.act(&mut client, "send", "message=refused&transcriptPosition=1").await.expect("an answer");
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.headers.contains_key("retry-after"));
    assert!(reply.headers["proxy-status"].to_str().expect("text").contains("not forwarded"), "{:?}", reply.headers);
    assert_eq!(simulator.account().requests_of("send"), before, "it was refused before it was forwarded");
    assert_eq!(get(server.admin, "/ready").await.expect("it runs").0, StatusCode::SERVICE_UNAVAILABLE);
    let left = chat.act(&mut client, "disconnect", "").await.expect("an answer");
    assert_eq!(left.status, StatusCode::OK, "disconnect always passes");
    mount.free();
    eventually("recording up again", async || is_up(&server).await).await;
    let chat = Chat::open(&mut client, "nickname=Berta").await;
    chat.insist(&mut client, "send", "message=afterwards&transcriptPosition=1").await;
    delivered.push("afterwards".into());
    let sql = "SELECT text FROM events WHERE party_type = 'Client' AND text IS NOT NULL";
    let stored = Archive::open(&database).await.rows(sql).await.concat();
    let missing: Vec<_> = delivered.iter().filter(|text| !stored.contains(text)).collect();
    assert!(missing.is_empty(), "delivered and not stored: {missing:?}");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_database_is_waited_for() {
    for settings in ["", REFUSE] {
        let (simulator, folder) = (simulator().await, folder());
        let server = Server::start(folder.path(), &simulator.addresses(), settings);
        let mut client = Client::new(server.address);
        let chat = Chat::open(&mut client, "nickname=Anna").await;
        let mut other = writable(&server.database).await;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("the lock is free between commits");
        let reply = chat.act(&mut client, "send", "message=first&transcriptPosition=1").await.expect("an answer");
        let expected = if settings.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        assert_eq!(reply.status, expected);
        if reply.status != StatusCode::OK {
            let said = reply.headers["proxy-status"].to_str().expect("text");
            assert!(said.contains("executed"), "the node has acted, and that is said: {said}");
            assert!(!reply.headers.contains_key("retry-after"), "trying again would send the message again");
        }
        eventually("noticed", async || is_down(&server).await).await;
        tokio::time::sleep(Duration::from_secs(count("TEST_LOCK_SECONDS", 2) as u64)).await;
        sqlx::query("ROLLBACK").execute(&mut other).await.expect("it is ours");
        other.close().await.expect("it is ours");
        eventually("recording up again", async || is_up(&server).await).await;
        eventually("written", async || (texts(&server, &chat).await == ["first"]).then_some(())).await;
        simulator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_moved_away_is_missed_and_never_made_anew() {
    for settings in ["", REFUSE] {
        let (simulator, folder) = (simulator().await, folder());
        let server = Server::start(folder.path(), &simulator.addresses(), settings);
        let mut client = Client::new(server.address);
        let chat = Chat::open(&mut client, "nickname=Anna").await;
        chat.insist(&mut client, "send", "message=before&transcriptPosition=1").await;
        let aside = folder.path().join("aside.db");
        std::fs::rename(&server.database, &aside).expect("the folder is ours");
        eventually("noticed", async || is_down(&server).await).await;
        let reply = chat.act(&mut client, "send", "message=meanwhile&transcriptPosition=1").await.expect("an answer");
        assert_eq!(reply.status == StatusCode::OK, settings.is_empty());
        assert!(!server.database.exists(), "a lost archive is not made anew");
        assert_eq!(Archive::open(&aside).await.value("SELECT count(*) FROM events WHERE text = 'before'").await, "1");
        std::fs::rename(&aside, &server.database).expect("the folder is ours");
        eventually("recording up again", async || is_up(&server).await).await;
        let expected: &[&str] = if settings.is_empty() { &["before", "meanwhile"] } else { &["before"] };
        eventually("written", async || (texts(&server, &chat).await == expected).then_some(())).await;
        assert_eq!(
            Archive::open(&server.database).await.value("SELECT count(*) FROM runs").await,
            "1",
            "it is one run"
        );
        assert_eq!(Archive::open(&server.database).await.value("PRAGMA integrity_check").await, "ok");
        sealed(&server.database);
        simulator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_by_another_archive_is_gone_on_with() {
    let (simulator, folder, elsewhere) = (simulator().await, folder(), folder());
    let mut other = Server::start(elsewhere.path(), &simulator.addresses(), "");
    assert!(other.stop().success());
    let server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    chat.insist(&mut client, "send", "message=before&transcriptPosition=1").await;
    let aside = folder.path().join("aside.db");
    std::fs::rename(&server.database, &aside).expect("the folder is ours");
    std::fs::rename(&other.database, &server.database).expect("the folder is ours");
    // Nobody may open the new file before: it would be read with the old one's write-ahead log.
    eventually("noticed", async || server.log().contains("the archive is open again").then_some(())).await;
    // Every event again: the memory of the old file must not vouch for the new one.
    eventually("recorded in the new file", async || {
        chat.insist(&mut client, "refresh", "transcriptPosition=1").await;
        (texts(&server, &chat).await == ["before"]).then_some(())
    })
    .await;
    assert_eq!(Archive::open(&aside).await.value("SELECT count(*) FROM events WHERE text = 'before'").await, "1");
    for file in [&aside, &server.database] {
        assert_eq!(Archive::open(file).await.value("PRAGMA integrity_check").await, "ok");
    }
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_file_system_is_outlived() {
    let (simulator, mount, folder) = (simulator().await, Mount::new(8192), folder());
    let mut server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    assert!(server.stop().success());
    // A mount with open files cannot be made read-only: the archive moves to one that is.
    let moved = mount.0.path().join("moved.db");
    std::fs::copy(&server.database, &moved).expect("there is room");
    mount.command(&["mount", "-o", "remount,ro"]);
    server.start_again();
    std::fs::rename(&server.database, folder.path().join("aside.db")).expect("the folder is ours");
    std::os::unix::fs::symlink(&moved, &server.database).expect("the folder is ours");
    eventually("noticed", async || is_down(&server).await).await;
    let reply = chat.act(&mut Client::new(server.address), "send", "message=meanwhile&transcriptPosition=1").await;
    assert_eq!(reply.expect("an answer").status, StatusCode::OK);
    eventually("named", async || {
        ["read_only", "cannot_open"].iter().any(|reason| server.log().contains(reason)).then_some(())
    })
    .await;
    mount.command(&["mount", "-o", "remount,rw"]);
    eventually("recording up again", async || is_up(&server).await).await;
    eventually("written", async || (texts(&server, &chat).await == ["meanwhile"]).then_some(())).await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_reported_and_a_sound_one_taken() {
    let (simulator, folder) = (simulator().await, folder());
    let mut server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    assert!(server.stop().success());
    let (sound, damaged) = (folder.path().join("sound.db"), folder.path().join("damaged.db"));
    let mut bytes = std::fs::read(&server.database).expect("it is closed");
    std::fs::write(&sound, &bytes).expect("the folder is ours");
    bytes[4096..].fill(0xA5); // every page but the first
    std::fs::write(&damaged, &bytes).expect("the folder is ours");
    server.start_again();
    std::fs::rename(&damaged, &server.database).expect("the folder is ours");
    eventually("noticed", async || server.log().contains("\"reason\":\"corrupt\"").then_some(())).await;
    let reply = chat.act(&mut Client::new(server.address), "send", "message=meanwhile&transcriptPosition=1").await;
    assert_eq!(reply.expect("an answer").status, StatusCode::OK);
    assert_eq!(
        std::fs::read(&server.database).expect("it is there")[4096..],
        bytes[4096..],
        "what is left of it is not touched"
    );
    std::fs::rename(&sound, &server.database).expect("the folder is ours");
    eventually("recording up again", async || is_up(&server).await).await;
    eventually("written", async || (texts(&server, &chat).await == ["meanwhile"]).then_some(())).await;
    assert_eq!(Archive::open(&server.database).await.value("PRAGMA integrity_check").await, "ok");
    sealed(&server.database);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_database_refuses_is_kept_as_a_finding_and_the_others_go_on() {
    let (simulator, folder) = (simulator().await, folder());
    let server = Server::start(folder.path(), &simulator.addresses(), "");
    let mut other = writable(&server.database).await;
    let refusing = "ALTER TABLE events ADD COLUMN refused INTEGER CHECK (text IS NOT 'poison')";
    sqlx::query(refusing).execute(&mut other).await.expect("the lock is free between commits");
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let reply = chat.act(&mut client, "send", "message=poison&transcriptPosition=1").await.expect("an answer");
    assert_eq!(reply.status, StatusCode::OK);
    chat.insist(&mut client, "send", "message=sound&transcriptPosition=1").await;
    assert_eq!(texts(&server, &chat).await, ["sound"]);
    let findings = Archive::open(&server.database)
        .await
        .rows("SELECT kind, CAST(raw AS TEXT) LIKE '%poison%' FROM findings")
        .await;
    assert_eq!(findings, [["altered", "0"], ["unstorable", "1"]], "that the table is another one is said, too");
    assert_eq!(server.metric("gms_recorder_recording_up").await, Some(1.0));
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_drops_under_pass_and_says_so() {
    let (simulator, folder) = (simulator().await, folder());
    let server = Server::start(
        folder.path(),
        &simulator.addresses(),
        "[recording]\nqueue_bytes_max = \"8KiB\"\nbody_max = \"4KiB\"\n",
    );
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let mut other = writable(&server.database).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("the lock is free between commits");
    for n in 0..40 {
        let reply = chat
            .act(&mut client, "send", &format!("message=m{n}&transcriptPosition={}", 2 + 2 * n))
            .await
            .expect("an answer");
        assert_eq!(reply.status, StatusCode::OK, "under pass chats go on");
    }
    let dropped = server.metric("gms_recorder_events_total{fate=\"dropped\"}").await.expect("a metric");
    assert!(dropped > 0.0);
    sqlx::query("ROLLBACK").execute(&mut other).await.expect("it is ours");
    eventually("the outage's row", async || {
        let rows = Archive::open(&server.database)
            .await
            .rows("SELECT sum(dropped), min(json_array_length(chat_ids)) FROM outages")
            .await;
        (rows == [[format!("{dropped}"), "1".to_string()]]).then_some(())
    })
    .await;
    let seen = server.metric("gms_recorder_events_seen_total").await.expect("a metric");
    let new = server.metric("gms_recorder_events_total{fate=\"new\"}").await.expect("a metric");
    let duplicate = server.metric("gms_recorder_events_total{fate=\"duplicate\"}").await.expect("a metric");
    assert_eq!(seen, new + duplicate + dropped);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_content_under_a_known_key_is_kept_beside_it() {
    let body = |text: &str, more: &str| {
        json_answer(&format!(
            "{{\"statusCode\":0,\"chatId\":\"C1\",\"nextPosition\":2,\"messages\":[{{\"index\":1,\"type\":\"Message\",\"text\":\"{text}\"{more}}}]}}"
        ))
    };
    let answers = [body("one", ""), body("two", ""), body("two", ""), body("one", ",\"new\":1"), body("one", "")];
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let origin = Origin::start(move |_| {
        let n = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        crate::support::Answer { bytes: answers[n % answers.len()].clone(), close: false }
    });
    let folder = folder();
    let server = Server::start(folder.path(), &[origin.address], "");
    let mut client = Client::new(server.address);
    for _ in 0..5 {
        client.post("/genesys/2/chat/svc/C1/refresh", "transcriptPosition=1").await.expect("an answer");
    }
    let mut archive = Archive::open(&server.database).await;
    assert_eq!(archive.value("SELECT text FROM events").await, "one");
    assert_eq!(archive.rows("SELECT kind FROM event_variants ORDER BY kind").await.concat(), ["changed", "extended"]);
    assert_eq!(server.metric("gms_recorder_events_total{fate=\"variant\"}").await, Some(2.0));
    assert_eq!(server.metric("gms_recorder_events_total{fate=\"duplicate\"}").await, Some(2.0));
}
