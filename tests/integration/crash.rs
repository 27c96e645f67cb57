//! kill -9 under load, again and again: what a client had is on disk.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gms_recorder::simulator::{Config, Simulator};

use crate::evidence::sealed;
use crate::support::{Archive, Chat, Client, Server, count, eventually, folder};

/// Of fewer that clients had, a kill tells little.
const EVENTS_A_ROUND: usize = 20;

type Held = Arc<Mutex<HashSet<(String, i64)>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_that_a_client_had_is_missing_after_kill_9() {
    let rounds = count("TEST_KILLS", 10);
    let simulator = Simulator::start(Config::nodes(2)).await.expect("free ports");
    let folder = folder();
    let mut server = Server::start(folder.path(), &simulator.addresses(), "");
    let (held, stop) = (Held::default(), Arc::new(AtomicBool::new(false)));
    let customers: Vec<_> =
        (0..16).map(|n| tokio::spawn(converse(server.address, n, held.clone(), stop.clone()))).collect();
    for round in 0..rounds {
        // Spread over what the writer does: opening, first commits, full batches.
        tokio::time::sleep(Duration::from_millis(60 + (round as u64 * 137) % 400)).await;
        let load = || held.lock().expect("no panic holds it").len();
        eventually("some load", async || (load() > EVENTS_A_ROUND * (round + 1)).then_some(())).await;
        server.kill();
        server.start_again();
    }
    stop.store(true, Ordering::Relaxed);
    for customer in customers {
        customer.await.expect("no customer fails");
    }
    server.kill();

    let mut archive = Archive::open(&server.database).await;
    let held = std::mem::take(&mut *held.lock().expect("no panic holds it"));
    archive.check_holds(&held, "after the last kill").await;
    sealed(&server.database);
    println!("kill -9: {} rounds, {} events held by clients, 0 missing", rounds, held.len());
    simulator.stop().await;
}

async fn converse(proxy: SocketAddr, n: usize, held: Held, stop: Arc<AtomicBool>) {
    let mut client = Client::new(proxy);
    while !stop.load(Ordering::Relaxed) {
        let chat = Chat::open(&mut client, &format!("nickname=Customer{n}")).await;
        for m in 0..20 {
            let answered = chat.act(&mut client, "send", &format!("message=m{m}&transcriptPosition=1")).await;
            let Ok(reply) = answered else { continue };
            let indices = reply.json()["messages"].as_array().cloned().unwrap_or_default();
            let indices = indices.iter().filter_map(|event| Some((chat.id.clone(), event["index"].as_i64()?)));
            held.lock().expect("no panic holds it").extend(indices);
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}
