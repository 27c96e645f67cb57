//! For a long time at half of what the machine can do, while customers come and go, nodes fail and the configuration is
//! read anew: memory and descriptors stay flat, the account balances at every look, and the archive is whole in the end.

use std::time::{Duration, Instant};

use gms_recorder::simulator::{Chance, Faults, Simulator};
use rustix::process::Signal;

use crate::crowd::{Crowd, in_flight, nodes};
use crate::support::{Server, count, folder};

const CUSTOMERS: usize = 24;
/// From one look to the next, and from one fault to the next.
const STEP: Duration = Duration::from_secs(1);
/// By so much memory may be more after the first third than within it: the memory of what is committed, and the pages of the
/// archive that SQLite keeps.
const GROWTH_KIB_MAX: u64 = 16 << 10;
/// And by so much for each chat: its secrets and its answers are remembered, of the latest chats. Short runs do not get that
/// far, so that memory still grows.
const CHAT_KIB_MAX: u64 = 8;
const CHATS_MAX: u64 = 30_000;
/// The same of file descriptors: connections that are about to be closed.
const DESCRIPTORS_MAX: usize = 24;

/// One fault after the other, each followed by a step without.
async fn strike(n: usize, server: &Server, simulator: &Simulator) {
    let node = n / 12 % 2;
    match n % 12 {
        0 => simulator.stop_node(node).await,
        1 => simulator.start_node(node).await.expect("its port is still free"),
        2 => simulator.hang_node(node, true),
        3 => simulator.hang_node(node, false),
        4 => simulator.replace_faults(Faults { truncated: Chance::every(9), ..Faults::default() }),
        6 => simulator.replace_faults(Faults { server_error: Chance::every(7), ..Faults::default() }),
        8 => simulator.replace_faults(Faults {
            reset_after_reading: Chance::every(11),
            variant: Chance::NEVER,
            gzip: Chance::every(3),
            chunked: Chance::every(2),
            ..Faults::default()
        }),
        10 => {
            let log = server.folder.join("access.log");
            std::fs::rename(&log, server.folder.join("access.log.1")).expect("it is there");
            server.signal(Signal::HUP);
        }
        _ => simulator.replace_faults(Faults::default()),
    }
}

/// What is looked at.
#[derive(Debug, Clone, Copy)]
struct Look {
    resident_kib: u64,
    descriptors: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_leave_no_trace() {
    let length = Duration::from_secs(count("TEST_SOAK_SECONDS", 10) as u64);
    let (simulator, folder) = (nodes(2).await, folder());
    let settings = format!(
        "[proxy]\nchat_timeout = \"1s\"\nnode_retry_after = \"100ms\"\n[nodes]\npassed_over_max = \"1s\"\n\
         [recording]\nmemory_events_max = 20000\n[log]\naccess = \"json\"\naccess_file = {:?}\n",
        folder.path().join("access.log")
    );
    let mut server = Server::start(folder.path(), &simulator.addresses(), &settings);
    let crowd = Crowd::start(server.address, CUSTOMERS);
    crowd.goes_on().await;
    let (since, before) = (Instant::now(), crowd.answers());
    tokio::time::sleep(2 * STEP).await;
    let capacity = (crowd.answers() - before) as f64 / since.elapsed().as_secs_f64();
    // A customer who waits as long as an answer takes asks half as often.
    crowd.slow_down(Duration::from_secs_f64(CUSTOMERS as f64 / capacity / 2.0));

    let (began, before, mut looks) = (Instant::now(), crowd.answers(), Vec::new());
    for n in 0.. {
        strike(n, &server, &simulator).await;
        tokio::time::sleep(STEP).await;
        in_flight(&server).await; // the account balances
        looks.push(Look { resident_kib: server.resident_kib(), descriptors: server.open_files() });
        if began.elapsed() >= length && n % 12 == 11 {
            break;
        }
    }
    let chats = crowd.chats() as u64;
    let rate = (crowd.answers() - before) as f64 / began.elapsed().as_secs_f64();
    let (early, late) = looks.split_at(looks.len() / 3);
    let most = |looks: &[Look]| {
        let descriptors = looks.iter().map(|look| look.descriptors).max().unwrap_or_default();
        Look { resident_kib: looks.iter().map(|look| look.resident_kib).max().unwrap_or_default(), descriptors }
    };
    let (early, late) = (most(early), most(late));
    let held = crowd.end(&mut server, &simulator).await;
    println!(
        "soak: {:?}, {chats} chats, {held} events held by clients, 0 missing; {rate:.0} answers/s of {capacity:.0}; at most {early:?} in the \
         first third, {late:?} after it",
        began.elapsed()
    );
    let growth_kib_max = GROWTH_KIB_MAX + CHAT_KIB_MAX * chats.min(CHATS_MAX) * 2 / 3;
    assert!(late.resident_kib <= early.resident_kib + growth_kib_max, "{early:?} {late:?}: {looks:?}");
    assert!(late.descriptors <= early.descriptors + DESCRIPTORS_MAX, "{early:?} {late:?}");
    simulator.stop().await;
}
