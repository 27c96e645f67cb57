//! What was found, as Markdown for the README.

use std::fmt::Write;

use crate::lab::Sample;
use crate::load::Held;
use crate::peers::Peer;
use crate::rows::{Goal, ROWS};

/// Everything that was measured.
#[derive(Default)]
pub struct Findings {
    pub samples: Vec<Sample>,
    /// At a fixed rate.
    pub paced: Vec<Sample>,
    /// A synced commit on this disk.
    pub commit_us: f64,
    pub ingest: Vec<Ingest>,
    pub held: Vec<Hold>,
    /// What could not be measured, or came out as it must not.
    pub troubles: Vec<String>,
}

/// Rows a second, through a program and bare.
pub struct Ingest {
    pub peer: String,
    pub rows_per_second: f64,
    pub bare_rows_per_second: f64,
}

/// Idle connections.
pub struct Hold {
    pub peer: String,
    pub is_ours: bool,
    pub before_kib: u64,
    pub held_kib: u64,
    pub count: usize,
    pub held: Held,
}

/// Connections under load, for the bound on memory.
const CONNECTIONS: f64 = 64.0;

/// Resident memory, at most: a base and so much a connection.
const RESIDENT_MIB: f64 = 40.0;
const CONNECTION_KIB: f64 = 10.0;

/// More than this, taken by others, and a measurement counts as disturbed.
const FOREIGN_CORES: f64 = 0.2;

/// The share of the bare loop's rows a second that is to be reached.
const INGEST_SHARE: f64 = 0.6;

/// Polls and new events at a fixed rate: the rows' names.
pub const PACED: [&str; 2] = ["empty", "r3"];

impl Findings {
    /// All of it. `peers` begins with the one that is 1.00.
    pub fn markdown(&self, peers: &[Peer]) -> String {
        let mut out = String::new();
        if !self.samples.is_empty() {
            self.costs(peers, &mut out);
            self.details(peers, &mut out);
        }
        if !self.paced.is_empty() {
            self.latencies(peers, &mut out);
        }
        if !self.ingest.is_empty() || !self.held.is_empty() {
            self.rest(peers, &mut out);
        }
        for trouble in &self.troubles {
            let _ = writeln!(out, "\n**WRONG: {trouble}**");
        }
        out
    }

    fn costs(&self, peers: &[Peer], out: &mut String) {
        let base = &peers[0].name;
        let _ = write!(
            out,
            "CPU time a request. {base} = 1.00 in each repetition; the median (least .. most) of all\n\n\
             | work | {base}, µs |"
        );
        for peer in &peers[1..] {
            let _ = write!(out, " {} |", peer.name);
        }
        let _ = writeln!(out, " target | minimum |\n|---|---|{}---|---|", "---|".repeat(peers.len() - 1));
        for row in &ROWS {
            let Some(of_base) = Spread::of(self.of(row.name, base).map(|s| s.cpu_us)) else { continue };
            let _ = write!(out, "| {} (`{}`) | {of_base:.1} |", row.what, row.name);
            for peer in &peers[1..] {
                let ratios = self.of(row.name, &peer.name).filter_map(|sample| self.ratio(sample, base));
                let goal = row.goal.filter(|_| peer.is_ours());
                let _ = write!(out, " {} |", ratio_cell(Spread::of(ratios), goal));
            }
            let goal = row.goal.map_or(" | |".into(), |goal| format!(" ≤ {} | ≤ {} |", goal.target, goal.minimum));
            let _ = writeln!(out, "{goal}");
        }
        self.disturbances(out);
    }

    /// Against the base in the same repetition: a machine whose speed changes with time changes both.
    fn ratio(&self, sample: &Sample, base: &str) -> Option<f64> {
        let of_base = self.of(sample.row, base).find(|other| other.repetition == sample.repetition)?;
        Some(sample.cpu_us / of_base.cpu_us)
    }

    fn disturbances(&self, out: &mut String) {
        let disturbed = self.samples.iter().filter(|sample| sample.foreign_cores > FOREIGN_CORES).count();
        if disturbed > 0 {
            let all = self.samples.len();
            let _ = writeln!(
                out,
                "\nDuring {disturbed} of {all} measurements other processes took more than {FOREIGN_CORES} cores."
            );
        }
    }

    fn details(&self, peers: &[Peer], out: &mut String) {
        let _ = writeln!(
            out,
            "\nBeside it\n\n| work | proxy | CPU µs | answers/s | p50 µs | p99 µs | resident MiB (peak) | errors | recorded | foreign cores |\n|---|---|---|---|---|---|---|---|---|---|"
        );
        for row in &ROWS {
            for peer in peers {
                let samples = || self.of(row.name, &peer.name);
                let median = |value: fn(&Sample) -> f64| Spread::of(samples().map(value)).map(|spread| spread.median);
                let Some(cpu) = Spread::of(samples().map(|s| s.cpu_us)) else { continue };
                let [rate, p50, p99, resident, peak, foreign] = [
                    (|s| s.answers_per_second) as fn(&Sample) -> f64,
                    |s| s.p50_us,
                    |s| s.p99_us,
                    |s| s.resident_mib,
                    |s| s.peak_mib,
                    |s| s.foreign_cores,
                ]
                .map(|value| median(value).unwrap_or_default());
                let bound = RESIDENT_MIB + CONNECTIONS * CONNECTION_KIB / 1024.0;
                let mark = if peer.is_ours() { passed(peak <= bound) } else { "" };
                let errors: u64 = samples().map(|s| s.errors).sum();
                let recorded = recorded(samples());
                let _ = writeln!(
                    out,
                    "| {} | {} | {cpu:.1} | {rate:.0} | {p50:.0} | {p99:.0} | {resident:.1} ({peak:.1}){mark} | {errors} | {recorded} | {foreign:.2} |",
                    row.name, peer.name
                );
            }
        }
    }

    fn latencies(&self, peers: &[Peer], out: &mut String) {
        let rate = self.paced[0].rate;
        let two = 2.0 * self.commit_us;
        let _ = writeln!(
            out,
            "\nLatency at {rate} requests a second, from when each was due; a synced commit takes {:.0} µs here\n\n\
             | work | proxy | p50 µs | p99 µs | at most | errors |\n|---|---|---|---|---|---|",
            self.commit_us
        );
        for row in PACED {
            let of = |peer: &Peer, value: fn(&Sample) -> f64| {
                let samples = self.paced.iter().filter(|s| s.row == row && s.peer == peer.name);
                Spread::of(samples.map(value)).map(|spread| spread.median)
            };
            let base = &peers[0];
            let (Some(p50_base), Some(p99_base)) = (of(base, |s| s.p50_us), of(base, |s| s.p99_us)) else { continue };
            // New events may wait for two commits: the one that is under way and their own.
            let grace = if row == "r3" { two } else { 0.0 };
            for peer in peers {
                let (Some(p50), Some(p99)) = (of(peer, |s| s.p50_us), of(peer, |s| s.p99_us)) else { continue };
                let mark = |value: f64, base: f64| if peer.is_ours() { passed(value <= base + grace) } else { "" };
                let most = if peer.is_ours() {
                    format!("{:.0}, {:.0}", p50_base + grace, p99_base + grace)
                } else {
                    String::new()
                };
                let errors =
                    self.paced.iter().filter(|s| s.row == row && s.peer == peer.name).map(|s| s.errors).sum::<u64>();
                let _ = writeln!(
                    out,
                    "| {row} | {} | {p50:.0}{} | {p99:.0}{} | {most} | {errors} |",
                    peer.name,
                    mark(p50, p50_base),
                    mark(p99, p99_base)
                );
            }
        }
    }

    fn rest(&self, peers: &[Peer], out: &mut String) {
        let _ = writeln!(out, "\nBesides\n\n| what | proxy | found | wanted |\n|---|---|---|---|");
        for Peer { name: peer, .. } in peers {
            let of = |value: fn(&Ingest) -> f64| {
                let of_peer = self.ingest.iter().filter(|ingest| ingest.peer == *peer);
                Spread::of(of_peer.map(value)).map_or(0.0, |spread| spread.median)
            };
            let share = of(|i| i.rows_per_second / i.bare_rows_per_second);
            if share == 0.0 {
                continue; // it does not record
            }
            let _ = writeln!(
                out,
                "| synced ingest, all new, every core | {peer} | {:.0} rows/s: {:.0} % of the bare loop's {:.0}{} | ≥ {:.0} % |",
                of(|i| i.rows_per_second),
                100.0 * share,
                of(|i| i.bare_rows_per_second),
                passed(share >= INGEST_SHARE),
                100.0 * INGEST_SHARE
            );
        }
        for hold in &self.held {
            let resident = hold.held_kib as f64 / 1024.0;
            let bound = RESIDENT_MIB + (hold.count as f64 + CONNECTIONS) * CONNECTION_KIB / 1024.0;
            let each = hold.held_kib.saturating_sub(hold.before_kib) as f64 / hold.held.opened.max(1) as f64;
            let is_held = hold.held.alive == hold.count as u64;
            let mark = if hold.is_ours { passed(resident <= bound && is_held) } else { "" };
            let _ = writeln!(
                out,
                "| {} idle connections | {} | {} held, {} alive after; {resident:.1} MiB, {each:.1} KiB each{mark} | {} |",
                hold.count,
                hold.peer,
                hold.held.opened,
                hold.held.alive,
                if hold.is_ours { format!("≤ {bound:.1} MiB") } else { String::new() }
            );
        }
    }

    fn of<'a>(&'a self, row: &'a str, peer: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.row == row && sample.peer == peer)
    }
}

fn ratio_cell(spread: Option<Spread>, goal: Option<Goal>) -> String {
    let Some(spread) = spread else { return "–".into() };
    let mark = goal.map_or("", |goal| mark(spread.median, goal));
    format!("**{:.2}** ({:.2} .. {:.2}){mark}", spread.median, spread.least, spread.most)
}

fn mark(ratio: f64, goal: Goal) -> &'static str {
    match ratio {
        _ if ratio <= goal.target => " ok",
        _ if ratio <= goal.minimum => " minimum only",
        _ => " MISSES",
    }
}

fn passed(is_so: bool) -> &'static str {
    if is_so { " ok" } else { " MISSES" }
}

fn recorded<'a>(samples: impl Iterator<Item = &'a Sample>) -> String {
    let counts: Vec<(u64, u64)> = samples.filter_map(|sample| sample.recorded).collect();
    match counts.iter().find(|(found, issued)| found != issued) {
        Some((found, issued)) => format!("**{found} of {issued}**"),
        None if counts.is_empty() => String::new(),
        None => format!("all {}", counts.iter().map(|(found, _)| found).sum::<u64>()),
    }
}

/// The middle of several numbers, and how far they lie apart.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    /// None of none.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { least, median, most })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ({:.digits$} .. {:.digits$})", self.median, self.least, self.most)
    }
}
