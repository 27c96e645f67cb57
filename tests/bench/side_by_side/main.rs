//! What the proxy costs beside nginx and HAProxy, in one run: CPU time a request, latency, memory, ingest.
//!
//! Each cell of the table has a fresh node, a fresh proxy and, where it records, a fresh archive. The proxy has one core
//! and one worker; node and load generator share the other. Repetitions are interleaved, and every other one goes through
//! the proxies backwards, so that what disturbs the machine disturbs them alike. What a recorder does after the last answer
//! counts too, and afterwards its archive must hold exactly what the node issued.
//!
//! Start it with `tests/bench/side-by-side`, which installs what is missing.

mod archive;
mod bare;
mod lab;
mod load;
mod node;
mod peers;
mod process;
mod rows;
mod secure;
mod table;
mod traffic;
mod wire;

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};

use archive::Archive;
use lab::{Lab, Plan, Sample};
use peers::Peer;
use rows::{ALL_NEW, ROWS, Row};
use table::{Findings, Hold, Ingest, PACED};

/// Compares this program with nginx and HAProxy, and prints tables in Markdown.
#[derive(Parser)]
#[command(name = "side-by-side", bin_name = "tests/bench/side-by-side")]
struct Options {
    /// Two minutes instead of fifteen: fewer and shorter repetitions
    #[arg(long)]
    quick: bool,
    /// Another build to measure instead of this one; again for each
    #[arg(long = "bin", value_name = "NAME=PATH")]
    programs: Vec<String>,
    /// Rows to measure, separated by commas; besides those of the table: latency, ingest, idle
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    only: Vec<String>,
    /// Repetitions [default: 5, quick 2; fewer if time runs out]
    #[arg(long)]
    reps: Option<usize>,
    /// Length of one measurement [default: 2, quick 0.5]
    #[arg(long, value_name = "SECONDS")]
    secs: Option<f64>,
    /// Appends every measurement to this file, a JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`. Without it, `cargo test` is at work, and nothing is measured
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program does when it starts itself.
#[derive(Subcommand)]
#[command(hide = true)]
enum Role {
    Node,
    Load { proxy: SocketAddr, certificate: PathBuf, row: String, seconds: f64, rate: u32 },
    Hold { proxy: SocketAddr, row: String, count: usize },
}

/// How much is done.
struct Extent {
    reps: usize,
    plan: Plan,
    /// After this no further repetition is begun.
    time_max: Duration,
    /// At a fixed rate.
    paced: Plan,
    paced_reps: usize,
    ingest_seconds: f64,
    ingest_reps: usize,
}

/// Idle connections to hold, and files that are open besides.
const IDLE_CONNECTIONS: usize = 10_000;
const OTHER_FILES: u64 = 300;

const RATE: u32 = 4_000;

impl Extent {
    fn of(options: &Options) -> Self {
        let (reps, seconds, warm_up_seconds, time_max) =
            if options.quick { (2, 0.5, 0.25, 95) } else { (5, 2.0, 0.4, 600) };
        let plan = Plan { warm_up_seconds, seconds: options.secs.unwrap_or(seconds), rate: 0 };
        Self {
            reps: options.reps.unwrap_or(reps),
            plan,
            time_max: Duration::from_secs(time_max),
            paced: Plan { seconds: if options.quick { 1.0 } else { 3.0 }, rate: RATE, ..plan },
            paced_reps: if options.quick { 1 } else { 3 },
            ingest_seconds: if options.quick { 2.0 } else { 5.0 },
            ingest_reps: if options.quick { 1 } else { 3 },
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.role {
        Some(role) => play(role).map(|()| true),
        None if options.bench => compare(&options),
        None => {
            eprintln!("measures only under `cargo bench`: see tests/bench/side-by-side");
            Ok(true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(role: &Role) -> anyhow::Result<()> {
    let row = |name: &str| rows::find(name).context("no such row");
    match role {
        Role::Node => node::run(),
        Role::Load { proxy, certificate, row: name, seconds, rate } => {
            let report = load::run(*proxy, certificate, row(name)?.traffic, *seconds, *rate)?;
            print_line(&serde_json::to_string(&report)?)
        }
        Role::Hold { proxy, row: name, count } => {
            let held = load::hold(*proxy, row(name)?.traffic, *count)?;
            print_line(&serde_json::to_string(&held)?)
        }
    }
}

fn print_line(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Measures and prints. False: something came out as it must not.
fn compare(options: &Options) -> anyhow::Result<bool> {
    set_parent_process_death_signal(Some(Signal::TERM))?; // who started this and is gone wants no table
    ensure!(std::thread::available_parallelism()?.get() >= 2, "two cores are needed");
    for name in &options.only {
        let is_known = ROWS.iter().any(|row| row.name == name) || ["latency", "ingest", "idle"].contains(&&**name);
        ensure!(is_known, "there is no row {name}");
    }
    let files = raise_file_limit()?;
    let program = Path::new(env!("CARGO_BIN_EXE_gms-recorder"));
    let target = program.parent().and_then(Path::parent).context("the program lies in no target folder")?;
    let mut bench = Bench {
        lab: Lab::open(target)?,
        peers: peers(options, program)?,
        extent: Extent::of(options),
        only: options.only.clone(),
        json: options.json.as_ref().map(|path| File::options().create(true).append(true).open(path)).transpose()?,
        found: Findings::default(),
    };
    bench.hold(files);
    bench.ingest();
    bench.pace();
    bench.costs();
    print_line(&bench.found.markdown(&bench.peers))?;
    Ok(bench.found.troubles.is_empty())
}

fn peers(options: &Options, program: &Path) -> anyhow::Result<Vec<Peer>> {
    let mut peers = vec![Peer::nginx(), Peer::haproxy()];
    if options.programs.is_empty() {
        peers.push(Peer::ours("gms-recorder", program));
    }
    for named in &options.programs {
        let (name, path) = named.split_once('=').context("--bin takes NAME=PATH")?;
        let path = std::fs::canonicalize(path).with_context(|| format!("there is no {path}"))?;
        peers.push(Peer::ours(name, &path));
    }
    Ok(peers)
}

/// Idle connections take a file each, here and in the proxy, which inherits the limit.
fn raise_file_limit() -> anyhow::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// A run.
struct Bench {
    lab: Lab,
    /// nginx first.
    peers: Vec<Peer>,
    extent: Extent,
    only: Vec<String>,
    json: Option<File>,
    found: Findings,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// CPU time a request, row by row, all again in each repetition.
    fn costs(&mut self) {
        let start = Instant::now();
        let mut longest = Duration::ZERO;
        for repetition in 0..self.extent.reps {
            let begun = Instant::now();
            if repetition > 0 && start.elapsed() + longest > self.extent.time_max {
                eprintln!("no time for repetition {} of {}", repetition + 1, self.extent.reps);
                break;
            }
            for row in ROWS.iter().filter(|row| self.wants(row.name)).collect::<Vec<_>>() {
                for peer in self.in_order(repetition) {
                    let plan = self.extent.plan;
                    if let Some(sample) = self.measure(&peer, row, plan, repetition) {
                        self.found.samples.push(sample);
                    }
                }
            }
            longest = longest.max(begun.elapsed());
        }
    }

    /// Latency at a fixed rate.
    fn pace(&mut self) {
        if !self.wants("latency") {
            return;
        }
        for repetition in 0..self.extent.paced_reps {
            for row in PACED.iter().filter_map(|name| rows::find(name)) {
                for peer in self.in_order(repetition) {
                    let plan = self.extent.paced;
                    if let Some(sample) = self.measure(&peer, row, plan, repetition) {
                        self.found.paced.push(sample);
                    }
                }
            }
        }
        let timed = self.lab.folder().and_then(|folder| bare::commit_time(folder.path()));
        match timed {
            Ok(time) => self.found.commit_us = time.as_secs_f64() * 1e6,
            Err(error) => self.trouble(format!("a commit cannot be timed: {error:#}")),
        }
    }

    /// The proxies, backwards every other time.
    fn in_order(&self, repetition: usize) -> Vec<Peer> {
        let mut peers = self.peers.clone();
        if repetition % 2 == 1 {
            peers.reverse();
        }
        peers
    }

    fn measure(&mut self, peer: &Peer, row: &Row, plan: Plan, repetition: usize) -> Option<Sample> {
        let mut sample = match self.lab.measure(peer, row, plan) {
            Ok(sample) => sample,
            Err(error) => {
                self.trouble(format!("{}, {}: {error:#}", row.name, peer.name));
                return None;
            }
        };
        sample.repetition = repetition;
        eprintln!(
            "{:<12} {:<14} {:>7.2} us {:>6.0}/s p50 {:>6.0} p99 {:>7.0} {:>6.1} MiB, foreign {:.2}, node {:.1} load {:.1} us",
            row.name,
            peer.name,
            sample.cpu_us,
            sample.answers_per_second,
            sample.p50_us,
            sample.p99_us,
            sample.resident_mib,
            sample.foreign_cores,
            sample.node_cpu_us,
            sample.load_cpu_us
        );
        self.note(&sample);
        if sample.is_wrong() {
            let (found, issued) = sample.recorded.unwrap_or_default();
            let strays = sample.strays;
            let what = format!("{found} events of {issued} in the archive, {strays} variants, findings and errors");
            self.trouble(format!("{}, {}: {what}", row.name, peer.name));
        }
        if sample.errors > 0 && peer.is_ours() {
            self.trouble(format!("{}, {}: {} errors", row.name, peer.name, sample.errors));
        }
        Some(sample)
    }

    fn note(&mut self, sample: &Sample) {
        let Some(json) = &mut self.json else { return };
        let written = serde_json::to_writer(&mut *json, sample).map_err(anyhow::Error::from);
        if let Err(error) = written.and_then(|()| Ok(writeln!(json)?)) {
            self.trouble(format!("a measurement was not written down: {error:#}"));
        }
    }

    /// Rows a second, all new, beside a bare loop for the same rows.
    fn ingest(&mut self) {
        if !self.wants("ingest") {
            return;
        }
        for repetition in 0..self.extent.ingest_reps {
            for peer in self.in_order(repetition).into_iter().filter(Peer::is_ours) {
                let bare = |archive: &Archive| bare::rows_per_second(&archive.open()?, self.lab.folder()?.path());
                match self.lab.ingest(&peer, &ALL_NEW, self.extent.ingest_seconds, bare) {
                    Ok((rows_per_second, bare_rows_per_second)) => {
                        eprintln!(
                            "ingest       {:<14} {rows_per_second:.0} rows/s, bare {bare_rows_per_second:.0}",
                            peer.name
                        );
                        let peer = peer.name;
                        self.found.ingest.push(Ingest { peer, rows_per_second, bare_rows_per_second });
                    }
                    Err(error) => self.trouble(format!("ingest, {}: {error:#}", peer.name)),
                }
            }
        }
    }

    /// Idle connections held.
    fn hold(&mut self, files: u64) {
        if !self.wants("idle") {
            return;
        }
        let count = IDLE_CONNECTIONS.min(files.saturating_sub(OTHER_FILES) as usize);
        let row = &ROWS[0];
        // HAProxy takes two files for each connection that it may have, more than many machines allow.
        for peer in self.peers.clone().into_iter().filter(|peer| peer.name != "HAProxy") {
            match self.lab.hold(&peer, row, count) {
                Ok((before_kib, held_kib, held)) => {
                    eprintln!(
                        "idle         {:<14} {held_kib} KiB with {} connections, {before_kib} before",
                        peer.name, held.opened
                    );
                    if held.alive < count as u64 && peer.is_ours() {
                        self.trouble(format!("idle, {}: {} of {count} connections are alive", peer.name, held.alive));
                    }
                    let is_ours = peer.is_ours();
                    self.found.held.push(Hold { peer: peer.name, is_ours, before_kib, held_kib, count, held });
                }
                Err(error) => self.trouble(format!("idle, {}: {error:#}", peer.name)),
            }
        }
    }

    fn trouble(&mut self, what: String) {
        eprintln!("WRONG: {what}");
        self.found.troubles.push(what);
    }
}
