//! What comes again: the same answer, to one or to many at once; the same client, after a rest.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Answer, Archive, Client, Origin, PATIENCE, Server, eventually, folder, json_answer};

const BODY: &str = include_str!("../fixtures/seed_refresh.json");
const PATH: &str = "/genesys/2/chat/customer-support/00001aCY6K8U003T/refresh";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_answer_to_many_at_once_is_stored_once_and_accounted_for_each() {
    let folder = folder();
    let origin = Origin::canned(json_answer(BODY));
    let mut server = Server::start(folder.path(), &[origin.address], "");
    let (clients, polls) = (40, 5);
    let poll = |address| async move {
        let mut client = Client::new(address);
        for _ in 0..polls {
            assert_eq!(client.post(PATH, "transcriptPosition=1").await.expect("an answer").body, BODY.as_bytes());
        }
    };
    let all: Vec<_> = (0..clients).map(|_| tokio::spawn(poll(server.address))).collect();
    for one in all {
        one.await.expect("no poll fails");
    }
    let events = |fate: &'static str| format!("gms_recorder_events_total{{fate=\"{fate}\"}}");
    eventually("the account is closed", async || {
        (server.metric("gms_recorder_events_in_flight").await? == 0.0).then_some(())
    })
    .await;
    let seen = f64::from(clients * polls * 3);
    assert_eq!(server.metric("gms_recorder_events_seen_total").await, Some(seen));
    assert_eq!(server.metric(&events("new")).await, Some(3.0));
    assert_eq!(server.metric(&events("duplicate")).await, Some(seen - 3.0));
    assert!(server.stop().success());
    assert_eq!(Archive::open(&server.database).await.value("SELECT count(*) FROM events").await, "3");
}

#[tokio::test]
async fn an_answer_from_before_a_change_is_read_again() {
    let folder = folder();
    let asked = AtomicUsize::new(0);
    let origin = Origin::start(move |_| {
        // 117, 117, 118, 117: the last one is byte for byte the first.
        let alias = if asked.fetch_add(1, Ordering::Relaxed) == 2 { "118" } else { "117" };
        Answer { bytes: json_answer(&BODY.replace("\"117\"", &format!("\"{alias}\""))), close: false }
    });
    let mut server = Server::start(folder.path(), &[origin.address], "");
    let mut client = Client::new(server.address);
    for _ in 0..4 {
        client.post(PATH, "transcriptPosition=1").await.expect("an answer");
    }
    assert!(server.stop().success());
    let aliases =
        "SELECT group_concat(value) FROM (SELECT value FROM chat_attributes WHERE name = 'alias' ORDER BY id)";
    assert_eq!(Archive::open(&server.database).await.value(aliases).await, "117,118,117");
}

/// Longer than a client is kept warm.
const REST: Duration = Duration::from_millis(1_300);

#[test]
fn a_client_at_rest_goes_on_on_its_connection() {
    let folder = folder();
    let origin = Origin::canned(json_answer(BODY));
    let server = Server::start(folder.path(), &[origin.address], "");
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let request = format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\ntranscriptPosition=1");
    let (head, tail) = request.as_bytes().split_at(40);
    let mut say = |bytes: &[u8]| stream.write_all(bytes).expect("it is open");
    say(request.as_bytes());
    std::thread::sleep(REST); // at rest with an answer unread
    say(request.as_bytes());
    std::thread::sleep(REST);
    say(head);
    std::thread::sleep(REST); // not at rest: half a head is there
    say(tail);
    std::thread::sleep(REST);
    say(&[request.as_bytes(), request.as_bytes(), head].concat());
    std::thread::sleep(REST);
    say(tail);
    let mut answers = Vec::new();
    while bodies(&answers) < 6 {
        let mut part = [0; 4_096];
        let length = stream.read(&mut part).expect("an answer");
        assert_ne!(length, 0, "closed after {} answers", bodies(&answers));
        answers.extend_from_slice(&part[..length]);
    }
    assert_eq!(origin.received().len(), 6);
}

fn bodies(answers: &[u8]) -> usize {
    String::from_utf8_lossy(answers).matches(BODY).count()
}
