//! Faults of the nodes and of the process itself, under load: nothing delivered is lost, nothing is there twice, and it
//! recovers without a hand. Nodes that die, hang and return are in `nodes`, the file's faults in `faults`.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use gms_recorder::simulator::{Chance, Config, Faults, Simulator};
use http::StatusCode;
use rustix::process::Signal;

use crate::crowd::{Crowd, nodes};
use crate::power::shim;
use crate::spool::account;
use crate::support::{Archive, Chat, Client, Server, count, eventually, folder, get};

const CUSTOMERS: usize = 16;
/// Quick enough for a test.
const QUICK: &str = "[proxy]\nchat_timeout = \"1s\"\nnode_retry_after = \"100ms\"\n[nodes]\npassed_over_max = \"1s\"\n";

/// Faults of both nodes for a while, again and again. What was held, and the longest that chats stood still afterwards.
async fn check(name: &str, faults: Faults) {
    let (simulator, folder) = (nodes(2).await, folder());
    let mut server = Server::start(folder.path(), &simulator.addresses(), QUICK);
    let crowd = Crowd::start(server.address, CUSTOMERS);
    crowd.goes_on().await;
    let mut longest = Duration::ZERO;
    for _ in 0..count("TEST_FAULT_ROUNDS", 2) {
        simulator.replace_faults(faults.clone());
        tokio::time::sleep(Duration::from_millis(700)).await;
        simulator.replace_faults(Faults::default());
        longest = longest.max(crowd.goes_on().await);
    }
    assert!(longest < Duration::from_secs(3), "chats stood still for {longest:?}");
    assert_eq!(get(server.admin, "/ready").await.expect("it runs").0, StatusCode::OK);
    let held = crowd.end(&mut server, &simulator).await;
    println!("{name}: {held} events held by clients, 0 missing, the first answer {longest:?} after the fault at most");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_reset_in_the_midst_of_an_answer_lose_nothing() {
    let faults = Faults { truncated: Chance::every(3), reset_after_reading: Chance::every(5), ..Faults::default() };
    check("resets in mid-answer", faults).await;
    let faults = Faults { reset_before_reading: Chance::every(2), chunked: Chance::every(2), ..Faults::default() };
    check("resets before reading", Faults { truncated: Chance::every(3), ..faults }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_server_errors_is_outlived() {
    check("every answer a 500", Faults { server_error: Chance::ALWAYS, ..Faults::default() }).await;
    check("every answer a 503", Faults { unavailable: Chance::ALWAYS, ..Faults::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_stopped_for_seconds_goes_on_where_it_was() {
    let (simulator, folder) = (nodes(2).await, folder());
    let mut server = Server::start(folder.path(), &simulator.addresses(), QUICK);
    let crowd = Crowd::start(server.address, CUSTOMERS);
    crowd.goes_on().await;
    let mut longest = Duration::ZERO;
    for _ in 0..count("TEST_FAULT_ROUNDS", 2) {
        server.signal(Signal::STOP);
        tokio::time::sleep(Duration::from_secs(count("TEST_STOPPED_SECONDS", 2) as u64)).await;
        server.signal(Signal::CONT);
        longest = longest.max(crowd.goes_on().await);
    }
    assert!(longest < Duration::from_secs(3), "chats stood still for {longest:?}");
    let held = crowd.end(&mut server, &simulator).await;
    println!("SIGSTOP: {held} events held by clients, 0 missing, the first answer {longest:?} after SIGCONT at most");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_file_descriptors_it_waits_at_rest_and_goes_on_by_itself() {
    let (simulator, folder) = (nodes(2).await, folder());
    // No connection to a node is kept, so that each request wants a descriptor.
    let settings = format!("{QUICK}[proxy]\nnode_idle_timeout = \"1ms\"\n");
    let mut server = Server::start(folder.path(), &simulator.addresses(), &settings);
    let crowd = Crowd::start(server.address, CUSTOMERS);
    crowd.goes_on().await;
    for _ in 0..count("TEST_FAULT_ROUNDS", 2) {
        server.limit_files(server.open_files() + 30);
        let idle: Vec<TcpStream> =
            (0..80).map(|_| TcpStream::connect(server.address).expect("the kernel accepts")).collect();
        eventually("no descriptor is left", async || {
            server.log().contains("a connection could not be accepted").then_some(())
        })
        .await;
        crowd.slow_down(Duration::from_millis(200));
        let (before, since) = (server.cpu_time(), Instant::now());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let busy = (server.cpu_time() - before).as_secs_f64() / since.elapsed().as_secs_f64();
        drop(idle);
        crowd.slow_down(Duration::ZERO);
        let stood_still = crowd.goes_on().await;
        println!(
            "no descriptors: {:.0} % of a core, the first answer {stood_still:?} after they were back",
            busy * 100.0
        );
        assert!(stood_still < Duration::from_secs(3), "chats stood still for {stood_still:?}");
        assert!(busy < 0.5, "it spins: {busy}");
        let passed_over = server.metric("gms_recorder_node_passed_over_total").await;
        assert_eq!(passed_over.unwrap_or_default(), 0.0, "what is wanting here is no node's fault");
    }
    let lines = server.log().matches("a connection could not be accepted").count();
    assert!(lines <= 2, "{lines} lines of one kind within a minute");
    crowd.end(&mut server, &simulator).await;
    simulator.stop().await;
}

/// A day forth, a week back, beyond what 32 bits of seconds hold: rows bear the times that the clock shows, and nothing else
/// goes by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_changes_the_times_in_the_rows_and_nothing_else() {
    const DAY: i64 = 86_400;
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let clock = folder.path().join("clock");
    let environment = [("LD_PRELOAD", shim(folder.path())), ("SHIM_CLOCK", clock.clone())];
    let environment = environment.map(|(name, path)| (name.to_string(), path.display().to_string()));
    let mut server = Server::start_with_environment(folder.path(), &simulator.addresses(), "", environment.into());
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    let jumps = [0, DAY, -7 * DAY, 30_000 * DAY, 0];
    for (n, seconds) in jumps.into_iter().enumerate() {
        std::fs::write(&clock, seconds.to_string()).expect("the folder is ours");
        let form = format!("message=m{n}&transcriptPosition=1");
        let began = Instant::now();
        let reply = chat.act(&mut client, "send", &form).await.expect("an answer");
        assert_eq!(reply.status, StatusCode::OK, "{seconds} s off");
        assert!(began.elapsed() < Duration::from_secs(2), "{seconds} s off: {:?}", began.elapsed());
        let (ready, said) = get(server.admin, "/ready").await.expect("it runs");
        assert_eq!(ready, StatusCode::OK, "{seconds} s off: {said}");
    }
    assert_eq!(account(&server).await, (0.0, 0.0), "none is delivered early or dropped");
    assert!(server.stop().success());

    let mut archive = Archive::open(&server.database).await;
    let rows =
        archive.rows("SELECT text, recorded_at / 86400000 FROM events WHERE text LIKE 'm_' ORDER BY event_index").await;
    let days: Vec<i64> = rows.iter().map(|row| row[1].parse().expect("a day")).collect();
    let expected: Vec<String> = (0..jumps.len()).map(|n| format!("m{n}")).collect();
    assert_eq!(rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), expected, "once, and in order");
    for (day, seconds) in days.iter().zip(jumps) {
        assert!((day - days[0] - seconds / DAY).abs() <= 1, "{days:?}"); // midnight may come between
    }
    for (what, sql) in [
        ("outages", "SELECT count(*) FROM outages"),
        ("variants", "SELECT count(*) FROM event_variants"),
        ("findings", "SELECT count(*) FROM findings"),
        ("holes", "SELECT count(*) FROM coverage_holes"),
        (
            "chats seen last before they were seen first",
            "SELECT count(*) FROM chats WHERE last_seen_at < first_seen_at",
        ),
    ] {
        assert_eq!(archive.value(sql).await, "0", "{what}");
    }
    simulator.stop().await;
}
