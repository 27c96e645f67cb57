//! Micro-benchmarks: what the steps of an answer's way cost, each alone.
//!
//! ```text
//! cargo bench --bench micro                 time and CPU, medians
//! cargo bench --bench micro -- append       only what has this in its name
//! tests/bench/instructions                  the same steps counted by callgrind, which is repeatable
//! ```
//!
//! A case prepares its inputs first and then does one thing many times. To be counted, it is run twice on the same
//! preparation, N times and 2N times: the difference is the thing alone.

mod cases;
#[path = "../growth/traffic.rs"]
mod traffic;
mod yardstick;

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};

/// Of each case; the median is shown.
const ROUNDS: usize = 7;
/// Under callgrind everything takes fifty times as long.
const COUNTED_SHARE: usize = 10;

/// Times the steps of an answer's way, or does one of them a number of times for a counter of instructions.
#[derive(Parser)]
#[command(name = "micro")]
struct Args {
    /// Only cases that have this in their name.
    #[arg(default_value = "")]
    name: String,
    /// Print each case's name, how often it is to be run to be counted, and the rows that it is about.
    #[arg(long)]
    list: bool,
    /// Prepare the case of exactly this name, to be run …
    #[arg(long, value_name = "NAME", requires_all = ["times", "of"])]
    case: Option<String>,
    /// … so many times …
    #[arg(long, value_name = "N")]
    times: Option<usize>,
    /// … of so many that it is prepared for.
    #[arg(long, value_name = "N")]
    of: Option<usize>,
    /// As `cargo bench` says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One thing to measure.
struct Case {
    name: String,
    /// Events or rows that one operation is about.
    rows: usize,
    /// Operations in a round.
    times: usize,
    prepare: Prepare,
}

/// Makes inputs for so many operations.
type Prepare = Box<dyn Fn(&Scratch, usize) -> anyhow::Result<Operation>>;

/// Does the thing once, on the next input.
type Operation = Box<dyn FnMut() -> anyhow::Result<()>>;

/// A folder for files that are removed at the end.
struct Scratch {
    folder: tempfile::TempDir,
    files: Cell<u32>,
}

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("micro-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        Ok(Self { folder, files: Cell::new(0) })
    }

    /// Where no file is yet.
    fn fresh(&self) -> PathBuf {
        self.files.set(self.files.get() + 1);
        self.folder.path().join(format!("{}.db", self.files.get()))
    }
}

/// What one operation took: the time, and the CPU of all threads of this process.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

impl Cost {
    fn of(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let (began, cpu_before) = (Instant::now(), cpu_time());
        work()?;
        Ok(Self { wall: began.elapsed(), cpu: cpu_time() - cpu_before })
    }
}

fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let scratch = Scratch::new()?;
    let mut cases = cases::all();
    cases.extend(yardstick::cases());
    if let (Some(name), Some(times), Some(of)) = (&args.case, args.times, args.of) {
        let case = cases.iter().find(|case| case.name == *name);
        return run(case.with_context(|| format!("there is no case {name}: see --list"))?, &scratch, times, of);
    }
    cases.retain(|case| case.name.contains(&args.name));
    if args.list {
        cases.iter().for_each(|case| println!("{}\t{}\t{}", case.name, (case.times / COUNTED_SHARE).max(2), case.rows));
        return Ok(());
    }
    println!("| step | rows | µs | CPU µs | CPU µs a row |\n|---|---|---|---|---|");
    for case in &cases {
        println!("{}", timed(case, &scratch)?);
    }
    if "layouts".contains(&args.name) {
        println!("\n{}", yardstick::compare_layouts(&scratch)?);
    }
    Ok(())
}

fn run(case: &Case, scratch: &Scratch, times: usize, of: usize) -> anyhow::Result<()> {
    let mut operation = (case.prepare)(scratch, of)?;
    (0..times.min(of)).try_for_each(|_| operation())
}

fn timed(case: &Case, scratch: &Scratch) -> anyhow::Result<String> {
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut operation = (case.prepare)(scratch, case.times)?;
        let cost = Cost::of(|| (0..case.times).try_for_each(|_| operation()))?;
        walls.push(cost.wall.as_secs_f64() * 1e6 / case.times as f64);
        cpus.push(cost.cpu.as_secs_f64() * 1e6 / case.times as f64);
    }
    let (wall, cpu) = (median(walls), median(cpus));
    let a_row = if case.rows == 0 { String::new() } else { format!("{:.2}", cpu / case.rows as f64) };
    Ok(format!("| {} | {} | {wall:.2} | {cpu:.2} | {a_row} |", case.name, case.rows))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
