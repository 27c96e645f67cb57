//! The program as its users meet it: a process that is started on an archive and timed from outside.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal};

/// The one that was built with this benchmark, optimised as it is.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_gms-recorder");

const STARTS: usize = 15;
const TRANSCRIPTS: usize = 400;
const SEARCHES: usize = 50;
/// A start that takes longer is none.
const START_MAX: Duration = Duration::from_secs(10);
/// Between two looks: a hundredth of what is allowed.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Whether the archive's pages are in the kernel's memory when a process is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// As after a reboot.
    Cold,
    /// As in daily use.
    Warm,
}

/// Of many runs of a process.
pub struct Latencies {
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// # Errors
/// Where there is no program to measure.
pub fn check_built() -> anyhow::Result<()> {
    ensure!(Path::new(PROGRAM).exists(), "there is no {PROGRAM}: run `cargo build --release` first");
    Ok(())
}

/// From the start of `serve` until clients can connect and `/ready` says yes: the median, in milliseconds.
pub fn time_to_ready(database: &Path) -> anyhow::Result<f64> {
    // A node that takes connections; none is needed to be ready.
    let node = TcpListener::bind(("127.0.0.1", 0))?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(start_once(database, node.local_addr()?)?);
    }
    Ok(quantile(&mut starts, 0.5))
}

fn start_once(database: &Path, node: SocketAddr) -> anyhow::Result<f64> {
    let (listen, admin) = (free_address()?, free_address()?);
    let began = Instant::now();
    let mut server = Command::new(PROGRAM)
        .args(["serve", "--upstream", &format!("http://{node}"), "--listen", &listen.to_string()])
        .args(["--admin", &admin.to_string(), "--database"])
        .arg(database)
        .env("GMS_RECORDER_PROXY_DRAIN_DELAY", "0s")
        .stderr(Stdio::null())
        .spawn()?;
    let became_ready = loop {
        if TcpStream::connect(listen).is_ok() && is_ready(admin) {
            break Some(began.elapsed());
        }
        if began.elapsed() > START_MAX || server.try_wait()?.is_some() {
            break None;
        }
        std::thread::sleep(LOOK_INTERVAL);
    };
    stop(&mut server)?;
    Ok(millis(became_ready.context("serve did not become ready: try it by hand on such an archive")?))
}

fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(admin)?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn stop(server: &mut Child) -> anyhow::Result<()> {
    // One that ended by itself is not there to be signalled; its status below says the same.
    let _ = rustix::process::kill_process(Pid::from_child(server), Signal::TERM);
    let status = server.wait()?;
    ensure!(status.success(), "serve ended with {status}");
    Ok(())
}

/// `transcript CHAT_ID` for many chats, from the start of the process to its end.
pub fn transcripts(database: &Path, chat: &mut dyn FnMut() -> String, cache: Cache) -> anyhow::Result<Latencies> {
    let mut runs = Vec::new();
    for _ in 0..TRANSCRIPTS {
        let chat_id = chat();
        if cache == Cache::Cold {
            forget(database)?;
        }
        let began = Instant::now();
        let output = Command::new(PROGRAM).args(["transcript", &chat_id, "--database"]).arg(database).output()?;
        runs.push(millis(began.elapsed()));
        if !output.status.success() || output.stdout.is_empty() {
            bail!("transcript {chat_id}: {} {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(Latencies { p50_ms: quantile(&mut runs, 0.5), p99_ms: quantile(&mut runs, 0.99) })
}

/// `search QUESTION` for many questions, from the start of the process to its end.
pub fn searches(database: &Path, question: &mut dyn FnMut() -> String) -> anyhow::Result<Latencies> {
    let mut runs = Vec::new();
    for _ in 0..SEARCHES {
        let question = question();
        let began = Instant::now();
        let output = Command::new(PROGRAM).args(["search", &question, "--database"]).arg(database).output()?;
        runs.push(millis(began.elapsed()));
        ensure!(
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains('«'),
            "search {question}: {} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(Latencies { p50_ms: quantile(&mut runs, 0.5), p99_ms: quantile(&mut runs, 0.99) })
}

/// Fills the full-text index. How long that takes, in seconds.
pub fn index(database: &Path) -> anyhow::Result<f64> {
    let began = Instant::now();
    let output = Command::new(PROGRAM).args(["search", "order", "--index", "--database"]).arg(database).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(began.elapsed().as_secs_f64())
}

/// Runs a command on the archive, once. How long that takes, in seconds.
pub fn once(database: &Path, words: &[&str]) -> anyhow::Result<f64> {
    let began = Instant::now();
    let output = Command::new(PROGRAM).args(words).arg("--database").arg(database).output()?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(began.elapsed().as_secs_f64())
}

/// Makes an archive with nothing in it, as the first start of `serve` does.
pub fn make_empty(database: &Path) -> anyhow::Result<()> {
    let node = TcpListener::bind(("127.0.0.1", 0))?;
    start_once(database, node.local_addr()?).map(drop)
}

/// Asks the kernel to drop what it holds of the file. Nothing else has it open.
fn forget(database: &Path) -> anyhow::Result<()> {
    let file = File::open(database)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

/// A port that was free a moment ago.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The value below which a share of them lie.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}
