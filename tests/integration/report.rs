//! Reports: what they say is what was, in all their forms; whatever was written in chats.

use std::path::Path;
use std::process::Command;

use gms_recorder::simulator::{Config, Simulator};
use gms_recorder::store::{Run, Store};
use gms_recorder::telemetry::metrics::Account;
use rusqlite::Connection;
use serde_json::Value;

use crate::bundle::signed;
use crate::evidence::{a_run, entries, options, sealed};
use crate::export::{hostile, others};
use crate::spool::lock;
use crate::support::{Archive, Chat, Client, Server, eventually, folder, free_address, run};

const HOUR_MS: i64 = 3_600_000;

/// What it prints, which must succeed.
#[track_caller]
fn printed(databases: &[&Path], arguments: &[&str]) -> String {
    let databases: Vec<String> = databases.iter().map(|path| path.display().to_string()).collect();
    let databases = databases.iter().flat_map(|path| ["--database", path]);
    let arguments: Vec<&str> =
        ["report", "--utc"].into_iter().chain(arguments.iter().copied()).chain(databases).collect();
    let (code, said, error) = run(&arguments);
    assert_eq!(code, 0, "{arguments:?}: {error}");
    said
}

fn json(databases: &[&Path], arguments: &[&str]) -> Value {
    let said = printed(databases, &[arguments, &["--format", "json"]].concat());
    serde_json::from_str(&said).expect("one document")
}

const FATES: [&str; 9] =
    ["seen", "new", "duplicate", "variant", "finding", "suppressed", "refused", "dropped", "in_flight"];

/// The account of the running server, in the order of [`FATES`].
async fn account(server: &Server) -> Vec<i64> {
    let mut account = Vec::new();
    for fate in FATES {
        let line = match fate {
            "seen" => "gms_recorder_events_seen_total".to_owned(),
            "in_flight" => "gms_recorder_events_in_flight".to_owned(),
            fate => format!("gms_recorder_events_total{{fate=\"{fate}\"}}"),
        };
        account.push(server.metric(&line).await.unwrap_or_else(|| panic!("{line}")) as i64);
    }
    account
}

fn sums(report: &Value) -> Vec<i64> {
    FATES.iter().map(|fate| report["account"][fate].as_i64().expect("a number")).collect()
}

async fn talk(server: &Server) {
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    for n in 0..5 {
        chat.insist(&mut client, "send", &format!("message=m{n}&transcriptPosition=1")).await;
    }
    chat.insist(&mut client, "disconnect", "").await;
    chat.insist(&mut client, "refresh", "transcriptPosition=1").await;
}

/// The account that the metrics had is in the file, of runs that were killed, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_has_the_account_of_each_run_and_when_it_was_there() {
    let folder = folder();
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let mut server = Server::start(folder.path(), &simulator.addresses(), "");
    let database = server.database.clone();
    let mut wanted = vec![0; FATES.len()];
    for round in 0..3 {
        talk(&server).await;
        let of_run = account(&server).await;
        assert!(of_run[0] > 0 && of_run[1] > 0 && of_run[2] > 0, "{of_run:?}");
        wanted.iter_mut().zip(&of_run).for_each(|(sum, one)| *sum += one);
        eventually("the account in the file", async || (sums(&json(&[&database], &[])) == wanted).then_some(())).await;
        let report = json(&[&database], &[]);
        assert_eq!(report["account"]["recorded"], report["account"]["new"]);
        assert_eq!(report["recording"]["runs"][round]["ending"], "goes_on", "{report:#}");
        if round < 2 {
            server.kill();
            server.start_again();
        }
    }
    assert!(server.stop().success());
    simulator.stop().await;
    sealed(&database);
    let report = json(&[&database], &[]);
    assert_eq!(sums(&report), wanted);
    let endings: Vec<&Value> =
        report["recording"]["runs"].as_array().expect("runs").iter().map(|run| &run["ending"]).collect();
    assert_eq!(endings, ["died", "died", "stopped"]);
    let gaps: Vec<&Value> =
        report["recording"]["gaps"].as_array().expect("gaps").iter().map(|gap| &gap["why"]).collect();
    assert_eq!(gaps, ["not_begun", "died", "died", "stopped"]);
    let text = printed(&[&database], &[]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("and off 3 times, for"), "{text}");
    assert!(text.contains(&format!("Of {} events that were seen, none was lost.", wanted[0])), "{text}");
    let mut archive = Archive::open(&database).await;
    let hours = "SELECT count(*) FROM accounts WHERE seen <> new + duplicate + variant + finding + suppressed + refused + dropped + in_flight";
    assert_eq!(archive.value(hours).await, "0");
    let act = archive.value("SELECT asked FROM acts WHERE kind = 'read' ORDER BY id DESC LIMIT 1").await;
    assert!(act.contains("\"command\":\"report\""), "{act}");
}

/// What was lost is counted, and the hole that it left says why it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_outage_has_lost_is_told_and_explains_its_holes() {
    let folder = folder();
    let simulator = Simulator::start(Config::nodes(1)).await.expect("free ports");
    let small = "[recording]\nqueue_bytes_max = \"8KiB\"\nbody_max = \"4KiB\"\n";
    let server = Server::start(folder.path(), &simulator.addresses(), small);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let mut shell = lock(&server.database).await;
    let mut position = 2;
    for n in 0..40 {
        let form = format!("message=m{n}&transcriptPosition={position}");
        let reply = chat.act(&mut client, "send", &form).await.expect("an answer");
        position = reply.json()["nextPosition"].as_i64().expect("under pass chats go on");
    }
    sqlx::query("ROLLBACK").execute(&mut shell).await.expect("it is ours");
    eventually("the outage's row", async || {
        (Archive::open(&server.database).await.value("SELECT count(*) FROM outages").await == "1").then_some(())
    })
    .await;
    chat.insist(&mut client, "disconnect", "").await;
    chat.insist(&mut client, "refresh", &format!("transcriptPosition={position}")).await;
    let dropped = account(&server).await[7];
    assert!(dropped > 0);
    let told = eventually("the hole", async || {
        let report = json(&[&server.database], &[]);
        let is_told = report["account"]["dropped"] == dropped && report["chats"]["incomplete"] == 1;
        is_told.then_some(report)
    })
    .await;
    assert_eq!((&told["outages"][0]["dropped"], &told["holes"]["chats"]), (&dropped.into(), &1.into()));
    let hole = &told["holes"]["told"][0];
    assert_eq!(
        (&hole["chat_id"], &hole["reasons"][0]["reason"]),
        (&chat.id.as_str().into(), &"outage".into()),
        "{hole}"
    );
    let text = printed(&[&server.database], &[]);
    assert!(text.contains(&format!("{dropped} events were given to clients and will never be recorded")), "{text}");
    assert!(text.contains("1 chat of 1 has holes"), "{text}");
    simulator.stop().await;
}

/// All that the archive has happened so many days earlier: so that it is over, whatever the clock says.
fn earlier(database: &Path, days: i64) {
    let connection = Connection::open(database).expect("an archive");
    for (table, columns) in [
        ("runs", &["started_at", "stopped_at"][..]),
        ("chats", &["first_seen_at", "last_seen_at", "ended_at"]),
        ("events", &["recorded_at"]),
        ("event_variants", &["recorded_at"]),
        ("api_errors", &["observed_at", "last_observed_at"]),
        ("maskings", &["recorded_at"]),
        ("file_transfers", &["at"]),
    ] {
        let set: Vec<String> =
            columns.iter().map(|column| format!("{column} = {column} - {}", days * 24 * HOUR_MS)).collect();
        connection.execute(&format!("UPDATE {table} SET {}", set.join(", ")), ()).expect("its columns");
    }
}

/// 23 November 2026, 400 days earlier.
const THEN: [&str; 2] = ["--month", "2025-10"];

#[tokio::test]
async fn a_browser_shows_what_the_archive_has_and_runs_nothing() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    hostile(&database).await;
    others(&database);
    earlier(&database, 400);
    let page = folder.path().join("report.html");
    let name = page.display().to_string();
    let said = printed(&[&database], &[&THEN[..], &["--format", "html", "--output", &name]].concat());
    assert_eq!(said.trim(), name);
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("file://{name}"))
        .output()
        .expect("tests/run installs chromium");
    let (dom, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        !log.contains("Content Security Policy") && !log.contains("CONSOLE"),
        "the page's own policy is in its way: {log}"
    );
    assert!(!dom.to_lowercase().contains("<script") && !dom.contains("<img"), "what was written is obeyed");
    assert!(dom.contains("<title>Chat recording: October 2025</title>"));
    assert_eq!(dom.matches("<svg").count(), 4, "when, chats, events, errors");
    // 7 chats of 30 events, one with another content; 24 errors of each of two chats and of none.
    for wanted in [
        "The archive holds 210 events that were recorded in the period",
        ">recording had not begun</text>",
        "Seen in the period: 7 chats, of which 7 began in it",
        "1 hole in 1 chat",
        "<bdi>1 to 4</bdi>",
        "72 errors, by class",
        "<bdi>&lt;script&gt;alert(5)&lt;/script&gt;</bdi>",
    ] {
        assert!(dom.contains(wanted), "{wanted}");
    }
    let (code, _, error) = run(&["report", "--output", &name, "--database", &database.display().to_string()]);
    assert!(code == 2 && error.contains("a report overwrites nothing"), "{error}");
}

#[tokio::test]
async fn a_period_that_is_over_gives_the_same_bytes_again() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    hostile(&database).await;
    others(&database);
    earlier(&database, 400);
    let as_of = json(&[&database], &THEN)["as_of"].as_str().expect("a time").to_owned();
    for format in ["text", "json", "html"] {
        let without_now = || {
            let said = printed(&[&database], &[&THEN[..], &["--format", format]].concat());
            // The day and the time of day, in whatever form.
            let lines = said
                .lines()
                .filter(|line| !line.contains("As of") && !line.contains("as_of") && !line.contains("as of"));
            lines.map(|line| format!("{line}\n")).collect::<String>()
        };
        let one = without_now();
        assert!(!one.contains(&as_of[..10]), "{format}: {one}");
        assert_eq!(one, without_now(), "{format}");
    }
}

/// From `from` to `until`, hours since 2025-03-01.
async fn recorded(database: &Path, instance: &str, from: i64, until: i64) {
    let at = |hours: i64| 1_740_787_200_000 + hours * HOUR_MS;
    let begun = Run { instance: instance.into(), started_at: at(from), ..a_run() };
    let mut store = Store::open(&options(database), &begun).await.expect("an archive");
    let mut brought = entries(0, 30);
    brought.iter_mut().for_each(|entry| entry.at = at(from) + 1_000);
    store.tell_account(at(from) + 1_000, &Account { seen: 40, new: 30, duplicate: 10, ..Account::default() }, true);
    store.append(&brought, &[], true).expect("stored");
    store.finish(at(until), "{}").expect("noted");
    store.close().expect("closed");
}

#[tokio::test]
async fn two_recorders_stand_in_for_each_other() {
    let folder = folder();
    let [one, other] = ["one.db", "other.db"].map(|name| folder.path().join(name));
    recorded(&one, "proxy-a", 0, 2).await;
    recorded(&one, "proxy-a", 6, 24).await;
    recorded(&other, "proxy-b", 1, 5).await;
    let gaps = |databases: &[&Path]| {
        let report = json(databases, &["--day", "2025-03-01"]);
        let gaps = report["recording"]["gaps"].as_array().expect("gaps").clone();
        assert_eq!(report["chats"]["seen"], 1);
        let runs = report["recording"]["runs"].as_array().expect("runs").len() as i64;
        assert_eq!(sums(&report)[..3], [40 * runs, 30 * runs, 10 * runs]);
        let gap = |gap: &Value| format!("{} {} {}", gap["from"], gap["until"], gap["why"]).replace('"', "");
        gaps.iter().map(gap).collect::<Vec<_>>()
    };
    let alone = ["2025-03-01T02:00:00.000Z 2025-03-01T06:00:00.000Z stopped"];
    let together = ["2025-03-01T05:00:00.000Z 2025-03-01T06:00:00.000Z stopped"];
    assert_eq!(gaps(&[&one]), alone);
    assert_eq!(gaps(&[&one, &other]), together);
    assert_eq!(gaps(&[&other]).len(), 2);
    let (code, _, error) =
        run(&["merge", &other.display().to_string(), "--reason", "a pair", "--database", &one.display().to_string()]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(gaps(&[&one]), together);
    sealed(&one);
    let (code, _, error) = run(&[
        "report",
        "--verify",
        "--database",
        &one.display().to_string(),
        "--database",
        &other.display().to_string(),
    ]);
    assert!(code == 1 || error.contains("--verify is of one --database"), "{code} {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_vouches_for_it_is_told_and_verified() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    recorded(&database, "proxy-a", 0, 24).await;
    signed(folder.path(), &database);
    let of_then = json(&[&database], &["--day", "2025-03-01", "--verify"]);
    let connection = Connection::open(&database).expect("an archive");
    let (number, note): (i64, String) = connection
        .query_row("SELECT number, note FROM checkpoints ORDER BY number LIMIT 1", (), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("the first one after that day");
    let covers = &of_then["proof"]["covers_period"];
    assert_eq!((&covers["number"], &covers["is_signed"]), (&number.into(), &true.into()));
    assert_eq!(covers["root"].as_str(), note.lines().nth(2));
    let verified = &of_then["proof"]["verified"];
    assert_eq!(verified["faults"], 0);
    assert!(verified["rows"].as_i64().is_some_and(|rows| rows > 30), "{verified}");

    // What an anchor here has is looked at, whoever else's notes lie there.
    let anchor = folder.path().join("checkpoints");
    let config = folder.path().join("report.toml");
    std::fs::write(&anchor, format!("another archive's\n\n{note}\ntorn gms-recorder/")).expect("the folder is ours");
    let stamps = folder.path().join("stamps");
    std::fs::create_dir(&stamps).expect("the folder is ours");
    std::fs::write(stamps.join("1.note"), &note).expect("the folder is ours");
    std::fs::write(stamps.join("2.note"), "no note").expect("the folder is ours");
    let tsa =
        format!("[evidence.anchors.tsa]\nkind = \"time_stamp\"\nurl = \"http://127.0.0.1:1/\"\nfolder = {stamps:?}\n");
    std::fs::write(&config, format!("[evidence]\nanchor_file = {anchor:?}\n{tsa}")).expect("the folder is ours");
    let config = config.display().to_string();
    let anchors = json(&[&database], &["--day", "2025-03-01", "--config", &config])["proof"]["anchors"].clone();
    for (at, kind) in [(0, "file"), (1, "time_stamp")] {
        let found = (&anchors[at]["kind"], &anchors[at]["last"]["number"]);
        assert_eq!(found, (&kind.into(), &number.into()), "{anchors}");
    }

    connection.execute("UPDATE events SET text = 'another' WHERE event_index = 3", ()).expect("there");
    let text = printed(&[&database], &["--day", "2025-03-01", "--verify"]);
    assert!(text.contains("NOT AS IT WAS SEALED: 1 fault") && text.contains("events, chat_id"), "{text}");
    // README shows what `verify` prints.
    connection.execute("DELETE FROM events WHERE event_index = 4", ()).expect("there");
    let (_, said, _) = run(&["verify", "--database", &database.display().to_string()]);
    let faults: Vec<String> =
        said.lines().skip(1).take(2).map(|fault| fault.replace(&chat_of(fault), "00001a57UBLW0001")).collect();
    let sample = format!("\nNOT AS IT WAS SEALED\n{}\n  …\n", faults.join("\n"));
    assert!(include_str!("../../README.md").contains(&sample), "{sample}");
    connection.execute("UPDATE checkpoints SET note = replace(note, 'number 1', 'number 7')", ()).expect("there");
    let text = printed(&[&database], &["--day", "2025-03-01"]);
    assert!(text.contains("is not signed with a key of this archive"), "{text}");
}

fn chat_of(fault: &str) -> String {
    fault.split('"').nth(1).expect("it names a chat").to_owned()
}

/// The first checkpoint after a period does not cover what came in later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_merged_later_does_not_lie_under_an_earlier_checkpoint() {
    let folder = folder();
    let (database, other) = (folder.path().join("transcripts.db"), folder.path().join("other.db"));
    recorded(&database, "proxy-a", 0, 4).await;
    signed(folder.path(), &database);
    let covering = || json(&[&database], &["--day", "2025-03-01"])["proof"]["covers_period"]["number"].as_i64();
    let before = covering().expect("it was signed after that day");
    recorded(&other, "proxy-b", 5, 7).await;
    let merge =
        ["merge", &other.display().to_string(), "--reason", "a pair", "--database", &database.display().to_string()];
    assert_eq!(run(&merge).0, 0);
    assert!(covering().is_none_or(|number| number > before));
}

/// Whoever has the page types what it prints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_line_that_a_report_prints_is_understood() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    hostile(&database).await;
    others(&database);
    let connection = Connection::open(&database).expect("an archive");
    let more = "INSERT INTO findings (kind, observed_at, last_observed_at, digest, run_id) VALUES ('too_large', 1795400000000, 1795400000000, x'01', 1);
        INSERT INTO acts (kind, at, who, host, asked, version) VALUES
        ('hold', 1795400000000, 'anna', 'h', '{}', 'v'), ('hold', 1798000000000, 'somebody later', 'h', '{}', 'v')";
    connection.execute_batch(more).expect("it fits the schema");
    std::fs::copy(signed(folder.path(), &database), folder.path().join("gms-recorder.vkey"))
        .expect("the folder is ours");
    let note: String =
        connection.query_row("SELECT note FROM checkpoints", (), |row| row.get(0)).expect("it was signed");
    std::fs::write(folder.path().join("PATH"), note).expect("the folder is ours");
    let period = ["--since", "2026-11-23T00:00", "--until", "2026-11-24T00:00"];
    let text = printed(&[&database], &period);
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  gms-recorder ")).collect();
    let page = printed(&[&database], &[&period[..], &["--format", "html"]].concat());
    assert_eq!(page.matches("<code>gms-recorder ").count(), lines.len(), "the page prints the same");
    let commands: Vec<_> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(commands, ["transcript", "holes", "errors", "sql", "transcript", "access", "verify"]);
    for line in lines {
        let line = line.replace("--code CODE", "--code 249").replace("CHAT_ID", "00001aCY6K8U003T");
        let shell = format!("'{}' {line}", env!("CARGO_BIN_EXE_gms-recorder"));
        let mut command = Command::new("sh");
        command.args(["-c", &shell]).current_dir(folder.path()).env("GMS_RECORDER_DATABASE", &database);
        let output = command.output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        // What `others` has put there by hand is found.
        let wanted = i32::from(line.starts_with("verify"));
        assert_eq!(output.status.code(), Some(wanted), "{line}: {said}");
        assert!(!line.starts_with("access") || said.contains("anna") && !said.contains("later"), "{line}: {said}");
    }
}

/// Whoever has a later key than the first accuses nobody; whoever has none of the archive's does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_key_is_told_from_a_foreign_one() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    recorded(&database, "proxy-a", 0, 24).await;
    let anchor = folder.path().join("checkpoints");
    let settings = format!("[evidence]\nanchor_file = {anchor:?}\n");
    let name = database.display().to_string();
    serve(folder.path(), &database, &settings);
    let (code, keys, error) = run(&["key", "rotate", "--database", &name]);
    assert_eq!((code, keys.lines().count()), (0, 2), "{error}");
    serve(folder.path(), &database, &settings);
    let other = tempfile::tempdir().expect("a folder");
    recorded(&other.path().join("other.db"), "proxy-b", 0, 1).await;
    let foreign = signed(other.path(), &other.path().join("other.db"));
    let key = |name: &str, line: usize| {
        let file = folder.path().join(name);
        std::fs::write(&file, keys.lines().nth(line).expect("two keys")).expect("the folder is ours");
        file
    };
    let (first, later) = (key("first", 0), key("later", 1));
    let verify = |key: &Path, more: &[&str]| {
        let (key, anchor) = (key.display().to_string(), anchor.display().to_string());
        run(&[&["verify", "--database", &name, "--key", &key, "--anchor", &anchor], more].concat())
    };
    let (code, said, error) = verify(&first, &[]);
    assert_eq!(code, 0, "{said}{error}");

    let (code, said, error) = verify(&later, &[]);
    assert!(code == 1 && error.contains("not all of the archive can be checked with this key"), "{said}{error}");
    assert!(said.starts_with("NOT ALL OF IT CAN BE CHECKED"), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("  --key: it is not the first key")).count(), 1, "{said}");
    for unwanted in ["NOT AS IT WAS", "no key that is known", "taken away"] {
        assert!(!said.contains(unwanted), "{unwanted}: {said}");
    }
    let connection = Connection::open(&database).expect("an archive");
    let id = keys.lines().nth(1).and_then(|key| Some(key.split('+').next()?.to_owned())).expect("a key");
    let notes: Vec<(i64, String)> = connection
        .prepare("SELECT number, note FROM checkpoints ORDER BY number")
        .and_then(|mut select| select.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .expect("they can be read");
    assert!(notes.len() > 1 && notes.iter().all(|(_, note)| note.contains(&id)));
    let from = said.split("it signs from checkpoint ").nth(1).and_then(|rest| rest.split(' ').next());
    let from: i64 = from.and_then(|number| number.parse().ok()).expect("a number");
    assert!(from > 1 && from <= notes.len() as i64, "{from}: {said}");
    let (_, said, _) = verify(&later, &["--format", "json"]);
    let told: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&told["sound"], told["faults"].as_array().map(Vec::len)), (&0.into(), Some(1)), "{told}");
    let text = printed(&[&database], &["--day", "2025-03-01", "--verify", "--key", &later.display().to_string()]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("Not all of it could be verified for this report with the key"), "{text}");
    assert!(!text.contains("NOT AS IT WAS SEALED"), "{text}");

    let (code, said, _) = verify(&foreign, &[]);
    assert!(
        code == 1 && said.starts_with("NOT AS IT WAS SEALED") && said.contains("--key: it is of the archive"),
        "{said}"
    );
    assert!(!said.contains("no key that is known"), "{said}");
    connection.execute("UPDATE events SET text = 'another' WHERE event_index = 3", ()).expect("there");
    let (code, said, _) = verify(&later, &[]);
    assert!(code == 1 && said.starts_with("NOT AS IT WAS SEALED") && said.contains("--key: it is not"), "{said}");
}

/// Starts and ends, which signs.
fn serve(folder: &Path, database: &Path, settings: &str) {
    let mut server = Server::start_with_database(folder, database, &[free_address()], settings);
    assert!(server.stop().success());
}

/// What an anchor holds against a restored archive is told with the act that explains it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_is_named_where_an_anchor_knows_more() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    recorded(&database, "proxy-a", 0, 24).await;
    let anchor = folder.path().join("checkpoints");
    let settings = format!("[evidence]\nanchor_file = {anchor:?}\n");
    serve(folder.path(), &database, &settings);
    let (name, backup) = (database.display().to_string(), folder.path().join("backup.db").display().to_string());
    let done = |words: &[&str]| {
        let (code, said, error) = run(&[words, &["--database", &name]].concat());
        assert_eq!(code, 0, "{words:?}: {said}{error}");
    };
    let verify = || {
        let (code, said, _) = run(&["verify", "--database", &name, "--anchor", &anchor.display().to_string()]);
        (code, said.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    done(&["backup", &backup]);
    serve(folder.path(), &database, &settings);
    let (code, said) = verify();
    assert!(code == 0 && said.contains("cannot have been changed since") && !said.contains("restored "), "{said}");
    done(&["restore", &backup]);
    for _ in 0..2 {
        let (code, said) = verify();
        assert!(code == 1 && !said.contains("cannot have been changed since"), "{said}");
        let wanted = "from a backup: what was signed between that backup and then is missing because of it";
        assert!(said.contains(wanted) && said.contains(" by root (act "), "{said}");
        serve(folder.path(), &database, &settings);
    }
}

#[test]
fn what_cannot_be_meant_is_said() {
    let folder = folder();
    let missing = folder.path().join("missing.db").display().to_string();
    for (arguments, wanted_code, words) in [
        (&["--month", "2026-13"][..], 2, "is no month: write 2026-03"),
        (&["--month", "2026-03", "--day", "2026-03-01"], 2, "cannot be used with"),
        (&["--until", "2026-03-01"], 2, "--since"),
        (&["--zone", "Mars/Olympus"], 2, "is no zone"),
        (&["--anchor", "x"], 2, "--verify"),
        (&["--limit", "0"], 2, "--limit"),
        (&["--month", "2026-03"], 1, "there is no archive at"),
    ] {
        let (code, said, error) = run(&[&["report", "--database", &missing], arguments].concat());
        assert!(code == wanted_code && said.is_empty() && error.contains(words), "{arguments:?}: {code} {error}");
    }
}
