//! The page that started it all: its example answer, through the proxy, into the archive.

use crate::support::{Archive, Client, Origin, Server, files, find, folder, json_answer, send_raw};

const BODY: &str = include_str!("../fixtures/seed_refresh.json");
const KEY: &str = "e4071047872b7820630f";
const PATH: &str = "/genesys/2/chat/customer-support/00001aCY6K8U003T/refresh";

#[tokio::test]
async fn the_seed_page_s_answer_is_delivered_byte_for_byte_and_stored_once() {
    let folder = folder();
    let answer = format!(
        "HTTP/1.1 200 Alles Gut\r\nContent-Type: application/json;charset=UTF-8\r\nX-CuStoM: Case\r\nSet-Cookie: a=1\r\n\
         Set-Cookie: b=2\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let origin = Origin::canned(answer.clone());
    let mut server = Server::start(folder.path(), &[origin.address], "");

    let form = format!("secureKey={KEY}&userId=007559F34DB30001&alias=117&transcriptPosition=1");
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nHost: gms.example.com\r\nX-My-Case: kept\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{form}",
        form.len()
    );
    let received = send_raw(server.address, request.as_bytes());
    let without_connection =
        String::from_utf8_lossy(&received).replace("Connection: close\r\n", "").replace("connection: close\r\n", "");
    assert_eq!(without_connection, answer);
    let sent = &origin.received()[0];
    assert!(sent.contains("X-My-Case: kept\r\n") && sent.contains("Host: gms.example.com\r\n"), "{sent}");
    assert!(sent.ends_with(&form));

    let mut client = Client::new(server.address);
    for _ in 0..100 {
        assert_eq!(client.post(PATH, &form).await.expect("an answer").body, BODY.as_bytes());
    }
    assert!(server.stop().success(), "{}", server.log());

    let mut archive = Archive::open(&server.database).await;
    let rows = archive
        .rows(
            "SELECT chat_id, event_index, type, utc_time, participant_id, nickname, party_type, text, message_type,
                    user_data, event_attributes, node FROM events ORDER BY event_index",
        )
        .await;
    let row = |index, kind, time, party, nickname, party_type, text| {
        ["00001aCY6K8U003T", index, kind, time, party, nickname, party_type, text, "NULL", "NULL", "NULL", "gms-1"]
            .map(String::from)
            .to_vec()
    };
    assert_eq!(
        rows,
        [
            row("1", "ParticipantJoined", "1509117363000", "1", "FirstStep", "Client", "NULL"),
            row("2", "ParticipantJoined", "1509117368000", "2", "TestName", "Agent", "NULL"),
            row("3", "Message", "1509117368000", "1", "FirstStep", "Client", "First message"),
        ]
    );
    let stored: serde_json::Value =
        serde_json::from_str(&archive.value("SELECT raw FROM events WHERE event_index = 3").await).expect("JSON");
    let sent: serde_json::Value = serde_json::from_str(BODY).expect("JSON");
    assert_eq!(stored, sent["messages"][2]);
    assert_eq!(
        archive
            .value("SELECT covered_to || ',' || next_position || ',' || hidden || ',' || status FROM completeness")
            .await,
        "4,4,0,open"
    );
    assert_eq!(archive.value("SELECT clean FROM runs").await, "1");
    for (name, bytes) in files(folder.path()) {
        assert!(find(&bytes, KEY.as_bytes()).is_none(), "the secureKey is in {name}");
    }
}

#[tokio::test]
async fn an_unclean_end_leaves_no_secret_in_the_write_ahead_log() {
    let folder = folder();
    let quoting = BODY.replace("First message", &format!("my key is {KEY}"));
    let origin = Origin::canned(json_answer(&quoting));
    let mut server = Server::start(folder.path(), &[origin.address], "");
    let mut client = Client::new(server.address);
    let reply = client.post(PATH, &format!("secureKey={KEY}&transcriptPosition=1")).await.expect("an answer");
    assert_eq!(reply.body, quoting.as_bytes(), "what the client gets is never touched");
    server.kill();
    let stored = Archive::open(&server.database).await.value("SELECT text FROM events WHERE event_index = 3").await;
    assert_eq!(stored, format!("my key is {}", "*".repeat(KEY.len())));
    for (name, bytes) in files(folder.path()) {
        assert!(find(&bytes, KEY.as_bytes()).is_none(), "the secureKey is in {name}");
    }
}
