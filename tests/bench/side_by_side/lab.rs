//! One measurement at a time: a fresh node, a fresh proxy with a fresh archive, a load, and what the proxy took for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;
use tempfile::TempDir;

use crate::archive::{Archive, Contents};
use crate::load::{Held, Report};
use crate::node::{STATS_PATH, Stats};
use crate::peers::{Peer, Started};
use crate::process::{self, Process, command};
use crate::rows::Row;
use crate::secure::Certificate;

/// The node and the load generator share a core, so that the proxy has one to itself.
const LOAD_CORE: usize = 0;
const PROXY_CORE: usize = 1;

/// What a recorder may write within a second after the answer is waited for: it is part of the cost.
const LAZY: Duration = Duration::from_millis(1_100);

/// Where measurements are made.
pub struct Lab {
    scratch: TempDir,
    certificate: Certificate,
    program: PathBuf,
}

/// How one is made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub warm_up_seconds: f64,
    pub seconds: f64,
    /// Requests a second; 0: as fast as they are answered.
    pub rate: u32,
}

/// What one found.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub row: &'static str,
    pub peer: String,
    pub repetition: usize,
    pub rate: u32,
    /// CPU time of the proxy's processes, an answer.
    pub cpu_us: f64,
    pub answers_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// At the end, and the most there ever was.
    pub resident_mib: f64,
    pub peak_mib: f64,
    pub errors: u64,
    /// Cores that processes with no part in this took.
    pub foreign_cores: f64,
    pub node_cpu_us: f64,
    pub load_cpu_us: f64,
    /// Events in the archive and events issued, where the proxy records.
    pub recorded: Option<(u64, u64)>,
    /// Variants, findings and errors in the archive: none is expected.
    pub strays: u64,
}

impl Sample {
    /// What may not be.
    pub fn is_wrong(&self) -> bool {
        self.strays > 0 || self.recorded.is_some_and(|(found, issued)| found != issued)
    }
}

/// A node that runs.
struct Node {
    process: Process,
    address: SocketAddr,
}

impl Node {
    fn stats(&self) -> anyhow::Result<Stats> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(socket, "GET {STATS_PATH} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").context("the node's answer has no end of its head")?.1;
        Ok(serde_json::from_str(body)?)
    }
}

/// Clocks at one moment.
struct Moment {
    at: Instant,
    proxy: Duration,
    node: Duration,
    /// This process and all it started.
    own: Duration,
    all: Duration,
}

impl Moment {
    fn now(node: &Node, proxy: &Started) -> Self {
        Self {
            at: Instant::now(),
            proxy: process::cpu(proxy.process.id()),
            node: process::cpu(node.process.id()),
            own: process::cpu(std::process::id()),
            all: process::cpu_of_all(),
        }
    }
}

impl Lab {
    /// Scratch files go below `target`: an archive in memory would sync for nothing.
    pub fn open(target: &Path) -> anyhow::Result<Self> {
        use gms_recorder::store::place::{FileSystemKind, Place};
        remove_leftovers(target)?;
        let scratch =
            tempfile::Builder::new().prefix(&format!("{SCRATCH}{}-", std::process::id())).tempdir_in(target)?;
        let certificate = Certificate::issue(scratch.path())?;
        let kind = Place::of(&scratch.path().join("transcripts.db"))?.file_system;
        ensure!(kind.kind != FileSystemKind::Memory, "{} is in memory ({})", target.display(), kind.name);
        Ok(Self { scratch, certificate, program: std::env::current_exe()? })
    }

    /// An empty folder, gone when dropped.
    pub fn folder(&self) -> anyhow::Result<TempDir> {
        Ok(tempfile::tempdir_in(self.scratch.path())?)
    }

    /// What `peer` takes for `row`, pinned.
    pub fn measure(&self, peer: &Peer, row: &Row, plan: Plan) -> anyhow::Result<Sample> {
        let folder = self.folder()?;
        let node = self.node(Some(LOAD_CORE))?;
        let certificate = row.traffic.is_tls.then_some(&self.certificate);
        let proxy = peer.start(node.address, folder.path(), Some(PROXY_CORE), 1, certificate)?;
        let warm_up = Plan { seconds: plan.warm_up_seconds, rate: 0, ..plan };
        self.load(proxy.address, row, warm_up, Some(LOAD_CORE))?;
        settle(&proxy, &node)?;

        let before = Moment::now(&node, &proxy);
        let report = self.load(proxy.address, row, plan, Some(LOAD_CORE))?;
        let contents = settle(&proxy, &node)?;
        if contents.is_some() && row.traffic.is_inspected() {
            std::thread::sleep(LAZY);
        }
        let after = Moment::now(&node, &proxy);

        let issued = node.stats()?.distinct;
        let mut sample = sample(&before, &after, &report);
        (sample.row, sample.peer, sample.rate) = (row.name, peer.name.clone(), plan.rate);
        let memory = process::memory(proxy.process.id());
        sample.resident_mib = memory.resident_kib as f64 / 1024.0;
        sample.peak_mib = memory.peak_kib as f64 / 1024.0;
        sample.recorded = contents.map(|contents| (contents.events, issued));
        sample.strays = contents.map_or(0, |contents| contents.strays);
        Ok(sample)
    }

    /// How many rows a second `peer` records when every transcript is new, on all cores, from the first request until all
    /// is in the archive. `then` gets to see the archive.
    pub fn ingest<T>(
        &self,
        peer: &Peer,
        row: &Row,
        seconds: f64,
        then: impl FnOnce(&Archive) -> anyhow::Result<T>,
    ) -> anyhow::Result<(f64, T)> {
        let folder = self.folder()?;
        let node = self.node(None)?;
        let cores = std::thread::available_parallelism()?.get();
        let proxy = peer.start(node.address, folder.path(), None, cores, None)?;
        let start = Instant::now();
        let report = self.load(proxy.address, row, Plan { warm_up_seconds: 0.0, seconds, rate: 0 }, None)?;
        let contents = settle(&proxy, &node)?.context("it does not record")?;
        let elapsed = start.elapsed().as_secs_f64();
        let issued = node.stats()?.distinct;
        ensure!(contents.events == issued, "{} events in the archive, {issued} issued", contents.events);
        ensure!(report.errors == 0, "{} errors", report.errors);
        let archive = proxy.archive.as_ref().context("it does not record")?;
        Ok((issued as f64 / elapsed, then(archive)?))
    }

    /// Holds `count` idle connections: KiB resident before and while they are held, and how they fared.
    pub fn hold(&self, peer: &Peer, row: &Row, count: usize) -> anyhow::Result<(u64, u64, Held)> {
        let folder = self.folder()?;
        let node = self.node(Some(LOAD_CORE))?;
        let proxy = peer.start(node.address, folder.path(), Some(PROXY_CORE), 1, None)?;
        self.load(proxy.address, row, Plan { warm_up_seconds: 0.0, seconds: 0.4, rate: 0 }, Some(LOAD_CORE))?;
        let before = process::memory(proxy.process.id()).resident_kib;
        let mut command = command(&self.program, Some(LOAD_CORE));
        command.args(["hold", &proxy.address.to_string(), row.name, &count.to_string()]);
        let mut holder = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        ensure!(holder.line()? == "held", "the holder says something else");
        let held = process::memory(proxy.process.id()).resident_kib;
        holder.go_on()?;
        Ok((before, held, serde_json::from_str(&holder.line()?)?))
    }

    fn node(&self, core: Option<usize>) -> anyhow::Result<Node> {
        let mut process = Process::start(command(&self.program, core).arg("node").stdout(Stdio::piped()))?;
        let address = process.line()?.parse()?;
        Ok(Node { process, address })
    }

    fn load(&self, proxy: SocketAddr, row: &Row, plan: Plan, core: Option<usize>) -> anyhow::Result<Report> {
        let (seconds, rate) = (plan.seconds.to_string(), plan.rate.to_string());
        let mut command = command(&self.program, core);
        command.args(["load", &proxy.to_string()]).arg(&self.certificate.chain).args([row.name, &seconds, &rate]);
        let mut generator = Process::start(command.stdout(Stdio::piped()))?;
        Ok(serde_json::from_str(&generator.line()?)?)
    }
}

/// What the scratch folders' names begin with; the process's id follows.
const SCRATCH: &str = "side-by-side-";

/// A run that was killed could not tidy up.
fn remove_leftovers(target: &Path) -> anyhow::Result<()> {
    for entry in target.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.strip_prefix(SCRATCH)?.split('-').next()) else {
            continue;
        };
        if !Path::new("/proc").join(process).exists() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Waits until a recorder has written all that the node issued; what there is then.
fn settle(proxy: &Started, node: &Node) -> anyhow::Result<Option<Contents>> {
    let Some(archive) = &proxy.archive else { return Ok(None) };
    Ok(Some(archive.await_events(node.stats()?.distinct)?))
}

fn sample(before: &Moment, after: &Moment, report: &Report) -> Sample {
    let answers = report.answers.max(1) as f64;
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6 / answers;
    let ours = after.own.saturating_sub(before.own).as_secs_f64() + report.cpu_seconds;
    let foreign = after.all.saturating_sub(before.all).as_secs_f64() - ours;
    Sample {
        row: "",
        peer: String::new(),
        repetition: 0,
        rate: 0,
        cpu_us: micros(after.proxy.saturating_sub(before.proxy)),
        answers_per_second: answers / report.seconds,
        p50_us: report.p50_us,
        p99_us: report.p99_us,
        resident_mib: 0.0,
        peak_mib: 0.0,
        errors: report.errors,
        foreign_cores: foreign.max(0.0) / (after.at - before.at).as_secs_f64(),
        node_cpu_us: micros(after.node.saturating_sub(before.node)),
        load_cpu_us: report.cpu_seconds * 1e6 / answers,
        recorded: None,
        strays: 0,
    }
}
