//! What a service manager does with the program and hears of it: sockets it opened, signs of life.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Origin, PATIENCE, eventually, folder, free_address, get, json_answer, runs};

/// Runs what follows with its standard input as the socket that systemd gives it (sd_listen_fds(3)).
const ACTIVATE: &str = "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&0 0</dev/null; exec \"$@\"";

/// What is told until a message has all of these lines.
fn await_message(told: &UnixDatagram, lines: &[&str]) -> String {
    let mut buffer = [0; 4096];
    loop {
        let length = told.recv(&mut buffer).unwrap_or_else(|error| panic!("never told {lines:?}: {error}"));
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if lines.iter().all(|line| message.lines().any(|told| told.starts_with(line))) {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_opens_the_socket_and_hears_how_it_goes() {
    let origin = Origin::canned(json_answer("{}"));
    let (folder, admin) = (folder(), free_address());
    let told = UnixDatagram::bind(folder.path().join("notify")).expect("a free path");
    told.set_read_timeout(Some(PATIENCE)).expect("a sound timeout");
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    let log = std::fs::File::create(folder.path().join("log")).expect("the folder is ours");
    let mut server = Command::new("sh")
        .args(["-c", ACTIVATE, "sh", env!("CARGO_BIN_EXE_gms-recorder"), "serve", "--listen", "127.0.0.1:1"])
        .args(["--upstream", &format!("http://{}", origin.address), "--admin", &admin.to_string()])
        .arg("--database")
        .arg(folder.path().join("transcripts.db"))
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .env("WATCHDOG_USEC", "2000000")
        .env("LISTEN_FDNAMES", "proxy")
        .env("GMS_RECORDER_PROXY_DRAIN_DELAY", "10ms")
        .env("GMS_RECORDER_PROXY_THREADS", "3")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stderr(log)
        .spawn()
        .expect("there is a shell");

    // Who came before it began is served, too.
    let early = tokio::spawn(async move { get(address, "/genesys/early").await });
    let ready = await_message(&told, &["READY=1", "STATUS="]);
    assert!(ready.contains(&format!("STATUS=recording chats that come to {address}")), "{ready}");
    assert_eq!(early.await.expect("no panic").expect("an answer").0, StatusCode::OK);
    for n in 0..12 {
        let answer = get(address, &format!("/genesys/{n}")).await.expect("each thread accepts from the one socket");
        assert_eq!(answer.0, StatusCode::OK);
    }
    assert_eq!(get(admin, "/live").await.expect("an answer"), (StatusCode::OK, "alive\n".into()));
    let metrics = get(admin, "/metrics").await.expect("an answer").1;
    let limit =
        metrics.lines().find_map(|line| line.strip_prefix("gms_recorder_open_files_max ")).expect("it is known");
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    assert_eq!(limit.parse().ok(), hard, "raised to the hard limit");

    await_message(&told, &["WATCHDOG=1"]);
    let pid = Pid::from_child(&server);
    kill_process(pid, Signal::HUP).expect("it runs");
    await_message(&told, &["RELOADING=1", "MONOTONIC_USEC="]);
    await_message(&told, &["READY=1", "STATUS=recording"]);

    // An upgrade: the service manager follows the successor, and the socket is its own still, whatever is configured.
    kill_process(pid, Signal::USR2).expect("it runs");
    let main = await_message(&told, &["MAINPID="]);
    let successor: i32 = main.trim().strip_prefix("MAINPID=").and_then(|pid| pid.parse().ok()).expect("a number");
    await_message(&told, &["READY=1", "STATUS=recording"]);
    let status = eventually("the end", async || server.try_wait().expect("it is our child")).await;
    assert!(status.success(), "{status}");
    assert_eq!(get(address, "/genesys/late").await.expect("an answer").0, StatusCode::OK);
    await_message(&told, &["WATCHDOG=1"]);
    let successor = Pid::from_raw(successor).expect("a number");
    kill_process(successor, Signal::TERM).expect("it runs");
    await_message(&told, &["STOPPING=1", "STATUS=finishing"]);
    let program = Path::new(env!("CARGO_BIN_EXE_gms-recorder"));
    eventually("the successor's end", async || (!runs(successor, program)).then_some(())).await;
}

#[test]
fn a_socket_of_another_name_is_refused_with_a_sentence() {
    let folder = folder();
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let refused = Command::new("sh")
        .args(["-c", ACTIVATE, "sh", env!("CARGO_BIN_EXE_gms-recorder"), "serve", "--upstream", "http://127.0.0.1:9"])
        .env("LISTEN_FDNAMES", "gms-recorder.socket")
        .current_dir(folder.path())
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .output()
        .expect("there is a shell");
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("FileDescriptorName= must be proxy, or admin once"), "{words}");
}
