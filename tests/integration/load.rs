//! Many chats at once through several nodes, one of which dies and returns: the archive equals the simulator's account.

use std::time::{Duration, Instant};

use gms_recorder::simulator::{AgentScript, Config, Simulator};
use serde_json::Value;

use crate::support::{Archive, Chat, Client, Server, count, eventually, folder};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_archive_equals_the_simulator_s_account() {
    let (chats, messages) = (count("TEST_CHATS", 200), 16);
    let agent = AgentScript { rejoins_every: 5, hidden_every: 4, ..AgentScript::default() };
    let simulator = Simulator::start(Config { agent, ..Config::nodes(3) }).await.expect("free ports");
    let folder = folder();
    let mut server = Server::start(folder.path(), &simulator.addresses(), "");

    let talks: Vec<_> = (0..chats).map(|n| tokio::spawn(talk(server.address, n, messages))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    simulator.stop_node(1).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    simulator.start_node(1).await.expect("its port is still free");
    for talk in talks {
        talk.await.expect("no chat fails");
    }
    eventually("everything written", async || {
        (server.metric("gms_recorder_events_in_flight").await? == 0.0).then_some(())
    })
    .await;
    check_account(&server).await;
    let written = Instant::now();
    eventually("all of it is indexed", async || {
        let behind = "SELECT max(rowid) - (SELECT events_to FROM search_progress) FROM events";
        (Archive::open(&server.database).await.value(behind).await == "0").then_some(())
    })
    .await;
    assert!(written.elapsed() < Duration::from_secs(5), "the index is {:?} behind", written.elapsed());
    assert!(server.stop().success());
    compare(&simulator, chats, &mut Archive::open(&server.database).await).await;
    simulator.stop().await;
}

/// A customer who writes, and reads with two overlapping views; at the end the whole transcript once more.
async fn talk(proxy: std::net::SocketAddr, n: usize, messages: usize) {
    let (mut first, mut second) = (Client::new(proxy), Client::new(proxy));
    let chat =
        Chat::open(&mut first, &format!("nickname=Customer{n}&emailAddress=c{n}%40example.com&subject=Test")).await;
    let mut position = 1;
    for m in 0..messages {
        // A send whose answer was lost is not repeated here: that would be another message.
        let _ = chat.act(&mut first, "send", &format!("message=m{n}-{m}")).await;
        let answer = chat.insist(&mut first, "refresh", &format!("transcriptPosition={position}")).await;
        position = answer["nextPosition"].as_i64().expect("statusCode 0 has it");
        let behind = (position - 5).max(1);
        chat.insist(&mut second, "refresh", &format!("transcriptPosition={behind}")).await;
    }
    chat.insist(&mut first, "disconnect", "").await;
    chat.insist(&mut first, "refresh", "transcriptPosition=1").await;
}

/// Promise 4, from the metrics.
async fn check_account(server: &Server) {
    let text = crate::support::get(server.admin, "/metrics").await.expect("metrics").1;
    let number = |start: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start} in {text}"));
        line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
    };
    let fate = |name: &str| number(&format!("gms_recorder_events_total{{fate=\"{name}\"}}"));
    let fates = ["new", "duplicate", "variant", "finding", "suppressed", "refused", "dropped"];
    let sum: u64 = fates.iter().map(|name| fate(name)).sum::<u64>() + number("gms_recorder_events_in_flight");
    assert_eq!(number("gms_recorder_events_seen_total"), sum);
    assert_eq!(fate("dropped") + fate("refused") + fate("variant"), 0);
}

/// The archive holds of every ended chat what the simulator says a client could see, and no message was sent twice.
pub async fn compare(simulator: &Simulator, chats: usize, archive: &mut Archive) {
    let account = simulator.account();
    // A chat whose opening answer died with its node was opened again: nobody ever had it, and it never ended.
    let held: Vec<_> = account.chats.iter().filter(|chat| chat.ended).collect();
    assert_eq!(held.len(), chats);
    for chat in held {
        let id = &chat.chat_id;
        let rows = archive
            .rows(&format!("SELECT event_index, raw FROM events WHERE chat_id = '{id}' ORDER BY event_index"))
            .await;
        let stored: Vec<(String, Value)> =
            rows.into_iter().map(|row| (row[0].clone(), serde_json::from_str(&row[1]).expect("JSON"))).collect();
        let issued: Vec<(String, Value)> =
            chat.visible().map(|event| (event.index.to_string(), event.event.clone())).collect();
        assert_eq!(stored, issued, "chat {id}");
        let status =
            archive.rows(&format!("SELECT status, holes, hidden FROM completeness WHERE chat_id = '{id}'")).await;
        let hidden = chat.events.iter().filter(|event| event.hidden).count();
        assert_eq!(status, [["complete".to_string(), "0".into(), hidden.to_string()]], "chat {id}");
    }
    let twice: Vec<_> = account.messages.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "sent twice: {twice:?}");
}
