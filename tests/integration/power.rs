//! Disks that fail, are slow, or lose what was not synced: a small library (`shim.c`) is loaded into the server and does
//! that to its files, under load.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gms_recorder::simulator::{Config, Simulator};
use http::StatusCode;

use crate::evidence::sealed;
use crate::faults::{is_up, writable};
use crate::spool::{account, lock};
use crate::support::{Archive, Chat, Client, Server, count, eventually, folder};

type Held = Arc<Mutex<HashSet<(String, i64)>>>;

/// The library, built once for a folder.
pub fn shim(folder: &Path) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/shim.c");
    let library = folder.join("shim.so");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).args([source, "-ldl"]).status();
    assert!(built.is_ok_and(|status| status.success()), "a C compiler builds it, as it builds SQLite");
    library
}

fn faults(library: &Path, folder: &Path, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = [("LD_PRELOAD", library), ("SHIM_LOG", &folder.join("disk.log")), ("SHIM_SWITCH", &folder.join("on"))];
    let own = own.iter().map(|(name, path)| (name.to_string(), path.display().to_string()));
    let more = more.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    own.chain([("SHIM_FILES".to_string(), "transcripts.db".to_string())]).chain(more).collect()
}

/// Customers that note every event that they were given.
struct Crowd {
    held: Held,
    stop: Arc<AtomicBool>,
    customers: Vec<tokio::task::JoinHandle<()>>,
}

impl Crowd {
    fn gather(proxy: SocketAddr, customers: usize) -> Self {
        let (held, stop) = (Held::default(), Arc::new(AtomicBool::new(false)));
        let customers = (0..customers).map(|n| tokio::spawn(converse(proxy, n, held.clone(), stop.clone()))).collect();
        Self { held, stop, customers }
    }

    async fn leave(self) -> HashSet<(String, i64)> {
        self.stop.store(true, Ordering::Relaxed);
        for customer in self.customers {
            customer.await.expect("no customer fails");
        }
        std::mem::take(&mut *self.held.lock().expect("no panic holds it"))
    }
}

async fn converse(proxy: SocketAddr, n: usize, held: Held, stop: Arc<AtomicBool>) {
    let mut client = Client::new(proxy);
    while !stop.load(Ordering::Relaxed) {
        let path = "/genesys/2/chat/customer-support";
        let Ok(reply) = client.post(path, &format!("nickname=Customer{n}")).await else { continue };
        let (Some(id), Some(key)) =
            (reply.json()["chatId"].as_str().map(String::from), reply.json()["secureKey"].as_str().map(String::from))
        else {
            tokio::time::sleep(Duration::from_millis(10)).await; // refused
            continue;
        };
        for m in 0..20 {
            let form = format!("secureKey={key}&message=m{m}&transcriptPosition={}", 1 + m);
            let Ok(reply) = client.post(&format!("{path}/{id}/send"), &form).await else { break };
            let events = reply.json()["messages"].as_array().cloned().unwrap_or_default();
            let events = events.iter().filter_map(|event| Some((id.clone(), event["index"].as_i64()?)));
            held.lock().expect("no panic holds it").extend(events);
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// What a disk does with what was written and not synced.
#[derive(Debug, Clone, Copy)]
enum Unsynced {
    Lost,
    /// Each write is there or not, as it comes.
    Torn,
}

/// One thing that was done to a file: written, truncated, synced, synced in vain, unlinked.
struct Deed<'a> {
    what: &'a str,
    place: usize,
    path: &'a str,
    data: &'a [u8],
}

/// A kill may cut the log of the shim short in the midst of a write that was done: what is missing is in the file.
fn complete(log: &Path) {
    let bytes = std::fs::read(log).expect("the shim writes it");
    let mut at = 0;
    while let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(&bytes[at..at + end]).expect("a line of text");
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let &[_, place, length, path] = words.as_slice() else { panic!("four words, not {line}") };
        let (place, length): (u64, usize) = (place.parse().expect("a place"), length.parse().expect("a length"));
        at += end + 1;
        if let Some(missing) = (at + length).checked_sub(bytes.len()).filter(|missing| *missing > 0) {
            let mut rest = vec![0; missing];
            let of = File::open(path).expect("it was written to");
            of.read_exact_at(&mut rest, place + (length - missing) as u64).expect("it was written");
            let mut log = OpenOptions::new().append(true).open(log).expect("ours");
            return log.write_all(&rest).expect("there is room");
        }
        at += length;
    }
    OpenOptions::new().write(true).open(log).and_then(|log| log.set_len(at as u64)).expect("ours"); // a line that is none
}

/// All of them, in their order.
fn deeds(log: &[u8]) -> Vec<Deed<'_>> {
    let (mut deeds, mut at) = (Vec::new(), 0);
    while let Some(end) = log[at..].iter().position(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(&log[at..at + end]).expect("a line of text");
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let &[what, place, length, path] = words.as_slice() else { panic!("four words, not {line}") };
        at += end + 1;
        let data = &log[at..at + length.parse::<usize>().expect("a length")];
        at += data.len();
        // Whoever still has a deleted file open writes nowhere.
        if !path.ends_with(" (deleted)") {
            deeds.push(Deed { what, place: place.parse().expect("a place"), path, data });
        }
    }
    deeds
}

/// The files as a power cut after these deeds leaves them, by name.
fn after_power_cut<'a>(deeds: &[Deed<'a>], unsynced: Unsynced, mut seed: u64) -> HashMap<&'a str, Vec<u8>> {
    #[derive(Default)]
    struct Disk<'a> {
        synced: Vec<u8>,
        pending: Vec<(bool, usize, &'a [u8])>,
    }
    fn apply(bytes: &mut Vec<u8>, (is_cut, at, data): (bool, usize, &[u8])) {
        match is_cut {
            true => bytes.resize(at, 0),
            false => {
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[at..at + data.len()].copy_from_slice(data);
            }
        }
    }
    let mut disks: HashMap<&str, Disk<'a>> = HashMap::new();
    for deed in deeds {
        let disk = disks.entry(deed.path).or_default();
        match deed.what {
            "s" => disk.pending.drain(..).for_each(|change| apply(&mut disk.synced, change)),
            "e" => disk.pending.clear(), // lost, though the system's memory still shows them
            "u" => *disk = Disk::default(),
            what => disk.pending.push((what == "t", deed.place, deed.data)),
        }
    }
    for disk in disks.values_mut() {
        for change in std::mem::take(&mut disk.pending) {
            if matches!(unsynced, Unsynced::Torn) && random(&mut seed) >> 63 == 0 {
                apply(&mut disk.synced, change);
            }
        }
    }
    disks.into_iter().map(|(path, disk)| (path, disk.synced)).collect()
}

/// Knuth's MMIX generator; its high bits are the good ones.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed
}

/// A folder with what is left.
fn rebuild(files: HashMap<&str, Vec<u8>>) -> tempfile::TempDir {
    let rebuilt = folder();
    for (path, bytes) in files {
        let name = Path::new(path).file_name().expect("a file");
        std::fs::write(rebuilt.path().join(name), bytes).expect("the folder is ours");
    }
    rebuilt
}

/// Wherever the power is cut, SQLite finds an archive.
async fn check_sound(deeds: &[Deed<'_>], seed: u64) {
    let mut state = seed;
    for cut in 0..count("TEST_POWER_CUT_PLACES", 10) {
        let place = (u128::from(random(&mut state)) * deeds.len() as u128) >> 64;
        let unsynced = if cut % 2 == 0 { Unsynced::Lost } else { Unsynced::Torn };
        let rebuilt = rebuild(after_power_cut(&deeds[..place as usize], unsynced, state));
        let database = rebuilt.path().join("transcripts.db");
        if std::fs::metadata(&database).map_or(0, |file| file.len()) == 0 {
            continue; // cut before there was one
        }
        let mut archive = writable(&database).await;
        let found: String =
            sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut archive).await.expect("it reads");
        assert_eq!(found, "ok", "cut after {place} of {}, {unsynced:?}, seed {seed}", deeds.len());
    }
}

/// Cuts the power under load, lets the server go on with what the disk has, and counts.
async fn check_power_cut(settings: &str, more: &[(&str, &str)], locks: bool, seed: u64) -> usize {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let library = shim(folder.path());
    let mut server = Server::start_with_environment(
        folder.path(),
        &simulator.addresses(),
        settings,
        faults(&library, folder.path(), more),
    );
    let (on, log) = (folder.path().join("on"), folder.path().join("disk.log"));
    std::fs::write(&on, "").expect("the folder is ours");
    let crowd = Crowd::gather(server.address, 8);
    for _ in 0..3 {
        let shell = if locks { Some(lock(&server.database).await) } else { None };
        tokio::time::sleep(Duration::from_millis(400 + seed % 300)).await;
        drop(shell);
        tokio::time::sleep(Duration::from_millis(200)).await;
        // Whoever starts after a crash sees what the disk has not.
        assert_eq!(account(&server).await, (0.0, 0.0), "none is delivered early or dropped");
        server.kill();
        complete(&log);
        std::fs::remove_file(&on).expect("it is ours");
        server.start_again();
        std::fs::write(&on, "").expect("the folder is ours");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(account(&server).await, (0.0, 0.0), "none is delivered early or dropped");
    server.kill();
    complete(&log);
    let held = crowd.leave().await;

    let log = std::fs::read(&log).expect("it was written");
    let deeds = deeds(&log);
    check_sound(&deeds, seed).await;
    for (unsynced, seed) in [(Unsynced::Lost, 0), (Unsynced::Torn, seed), (Unsynced::Torn, seed + 1)] {
        let rebuilt = rebuild(after_power_cut(&deeds, unsynced, seed));
        let mut server = Server::start(rebuilt.path(), &simulator.addresses(), settings);
        eventually("drained", async || (server.metric("gms_recorder_spool_events ").await? == 0.0).then_some(())).await;
        assert!(server.stop().success());
        let mut archive = Archive::open(&server.database).await;
        archive.check_holds(&held, &format!("{settings}{more:?}, {unsynced:?}, seed {seed}")).await;
        sealed(&server.database);
    }
    simulator.stop().await;
    held.len()
}

/// A busy machine may hold a commit up; that is not what is looked for here.
fn settings(when_unavailable: &str) -> String {
    format!("[recording]\nwhen_unavailable = \"{when_unavailable}\"\ncommit_wait_max = \"2500ms\"\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_no_event_that_a_client_had() {
    let settings = ["refuse", "spool"].map(settings);
    let mut held = 0;
    for seed in 0..count("TEST_POWER_CUTS", 1) as u64 {
        for (settings, locks) in settings.iter().zip([false, true]) {
            held += check_power_cut(settings, &[], locks, seed).await;
        }
    }
    assert!(held > 100, "hardly any load: {held}");
    println!("power cut: {held} events held by clients, 0 missing");
}

/// A sync that fails has lost the pages, and the next one that works does not bring them back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_that_fail_and_a_power_cut_take_no_event_that_a_client_had() {
    let mut held = 0;
    for seed in 0..count("TEST_POWER_CUTS", 1) as u64 {
        for mode in ["refuse", "spool"] {
            let settings = settings(mode);
            // Where the spool's syncs failed too, `spool` would pass.
            let faults = [("SHIM_EIO_PERCENT", "40"), ("SHIM_EIO_NOT", "-spool"), ("SHIM_SEED", &seed.to_string())];
            held += check_power_cut(&settings, &faults, false, seed).await;
        }
    }
    assert!(held > 20, "hardly any load: {held}");
    println!("40 % of syncs fail, then a power cut: {held} events held by clients, 0 missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_a_second_to_sync_holds_nobody_longer_than_that_is_allowed() {
    let (simulator, folder) = (Simulator::start(Config::nodes(1)).await.expect("free ports"), folder());
    let library = shim(folder.path());
    let environment = faults(&library, folder.path(), &[("SHIM_SYNC_MS", "1000")]);
    let mut server = Server::start_with_environment(folder.path(), &simulator.addresses(), "", environment);
    let mut client = Client::new(server.address);
    let chat = Chat::open(&mut client, "nickname=Anna").await;
    std::fs::write(folder.path().join("on"), "").expect("the folder is ours");
    for n in 0..4 {
        let began = Instant::now();
        let form = format!("message=m{n}&transcriptPosition=1");
        let reply = chat.act(&mut client, "send", &form).await.expect("an answer");
        assert_eq!(reply.status, StatusCode::OK);
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    }
    let (early, dropped) = account(&server).await;
    assert!(early > 0.0 && dropped == 0.0, "{early} early, {dropped} dropped");
    std::fs::remove_file(folder.path().join("on")).expect("it is ours");
    eventually("recording up", async || is_up(&server).await).await;
    assert!(server.stop().success());
    let mut archive = Archive::open(&server.database).await;
    assert_eq!(archive.value("SELECT count(*) FROM events WHERE text LIKE 'm_'").await, "4");
    simulator.stop().await;
}
