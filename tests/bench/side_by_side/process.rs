//! Other processes: started on a core, measured through `/proc`, and never left behind.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long a process may take until it listens.
const START_MAX: Duration = Duration::from_secs(15);

/// A process and what it started, in a group of its own. Killed when dropped.
pub struct Process(Child);

/// A command bound to one core, or to none. It is told to end if this process dies, however that happens.
pub fn command(program: impl AsRef<OsStr>, core: Option<usize>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    if let Some(core) = core {
        command.args(["taskset", "-c", &core.to_string()]);
    }
    command.arg(program).stdin(Stdio::null()).process_group(0);
    command
}

impl Process {
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.spawn();
        Ok(Self(child.with_context(|| format!("cannot start {command:?}"))?))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The next line it prints. Its output must be piped.
    pub fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        // A reader a call: whoever prints here prints one line and waits.
        BufReader::new(self.0.stdout.as_mut().context("its output is not piped")?).read_line(&mut line)?;
        ensure!(!line.is_empty(), "it ended without a word");
        Ok(line.trim().to_owned())
    }

    /// Says to go on to one that waits for it. Its input must be piped.
    pub fn go_on(&mut self) -> anyhow::Result<()> {
        Ok(self.0.stdin.as_mut().context("its input is not piped")?.write_all(b"\n")?)
    }

    /// Waits until it listens.
    pub fn await_port(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_MAX {
            if let Some(status) = self.0.try_wait()? {
                bail!("it ended at once: {status}");
            }
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("it does not listen at {address} after {START_MAX:?}")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL); // gone already is as good
        }
        let _ = self.0.wait();
    }
}

/// CPU time, user and system, of a process and its descendants.
///
/// `schedstat` counts in nanoseconds but forgets threads that ended; `stat` remembers them but counts in ticks and rounds
/// down. So the larger of the two is nearest to the truth.
pub fn cpu(process: u32) -> Duration {
    tree(process).into_iter().map(|process| by_schedstat(process).max(by_stat(process))).sum()
}

fn by_schedstat(process: u32) -> Duration {
    let of_thread = |thread: u32| {
        let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
    };
    Duration::from_nanos(threads(process).into_iter().map(of_thread).sum())
}

fn by_stat(process: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything; of what follows, user and system time are numbers 12 and 13.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks(fields.filter_map(|field| field.parse::<u64>().ok()).sum())
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100)
}

/// CPU time that everything on this machine took, other guests' share included.
pub fn cpu_of_all() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal
    let fields: Vec<u64> = first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    ticks([0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum())
}

/// Resident memory of a process and its descendants.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub resident_kib: u64,
    /// The most there ever was.
    pub peak_kib: u64,
}

pub fn memory(process: u32) -> Memory {
    let processes = tree(process);
    let sum = |file, field| processes.iter().map(|process| kib(*process, file, field)).sum();
    // `status` has the resident size, too, but is behind by what each thread has not yet added to it.
    Memory { resident_kib: sum("smaps_rollup", "Rss:"), peak_kib: sum("status", "VmHWM:") }
}

fn kib(process: u32, file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    value.trim().trim_end_matches("kB").trim().parse().unwrap_or(0)
}

/// A process and its descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(process) = found.get(next).copied() {
        next += 1;
        for thread in threads(process) {
            let children = fs::read_to_string(format!("/proc/{process}/task/{thread}/children"));
            found.extend(children.unwrap_or_default().split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
    }
    found
}

fn threads(process: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
