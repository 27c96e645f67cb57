//! The built program as a shell sees it: arguments and environment in; exit code, stdout and stderr out.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use gms_recorder::store::MIGRATIONS;

/// The program in a folder of its own, with nothing of this process's environment.
fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gms-recorder"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    // What the defaults say may be taken on this machine.
    command.envs([("GMS_RECORDER_LISTEN", "127.0.0.1:0"), ("GMS_RECORDER_ADMIN", "127.0.0.1:0")]);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    program(folder, arguments).output().expect("the program runs")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// A node that accepts connections for as long as the listener lives, and its URL.
fn node() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    (listener, url)
}

/// The URL of a node that refuses connections: on an address of its own, where no other test opens the port again.
fn dead_node() -> String {
    let listener = TcpListener::bind("127.0.0.77:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("it is bound"))
}

#[test]
fn exit_codes_and_streams_are_as_documented() {
    let folder = folder();
    let (_node, alive) = node();
    let dead = dead_node();
    fs::write(folder.path().join("wrong.toml"), "[proxy]\nuptreams = []\n").expect("a file");
    let rows: [(&[&str], i32, &str, &str); 11] = [
        (&["--version"], 0, "gms-recorder ", ""),
        (&["--help"], 0, "Exit codes:", ""),
        (&["check", "--help"], 0, "Example:", ""),
        (&[], 2, "", "Usage: gms-recorder"),
        (&["serv"], 2, "", "some similar subcommands exist: 'search', 'serve'"),
        (&["check", "--upstream", &alive], 0, "connected in", ""),
        (
            &["check", "--upstream", &alive, "--upstream", &dead],
            1,
            "NOT REACHED",
            "error: 1 of 2 nodes cannot be reached\n",
        ),
        (
            &["check", "--upstream", &alive, "--database", "no/a.db"],
            1,
            "CANNOT BE USED",
            "error: the database cannot be used\n",
        ),
        (&["check"], 2, "", "proxy.upstreams: no GMS node is named"),
        (
            &["serve", "--config", "wrong.toml"],
            2,
            "",
            "\nwrong.toml:2: proxy.uptreams: unknown key; did you mean upstreams?\n",
        ),
        (&["serve", "--config", "no.toml"], 2, "", "no.toml: the configuration cannot be read: No such file"),
    ];
    for (arguments, code, stdout, stderr) in rows {
        let output = run(folder.path(), arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        for (stream, wanted) in [(out, stdout), (err, stderr)] {
            assert!(stream.contains(wanted), "{arguments:?}: {stream}");
            assert!(!wanted.is_empty() || stream.is_empty(), "{arguments:?} should not say: {stream}");
        }
    }
}

#[test]
fn check_makes_no_file() {
    let folder = folder();
    let (_node, url) = node();
    assert!(run(folder.path(), &["check", "--upstream", &url]).status.success());
    assert_eq!(fs::read_dir(folder.path()).expect("it can be read").count(), 0);
}

#[test]
fn check_tells_where_each_option_was_set() {
    let folder = folder();
    let (_node, url) = node();
    let file = "[proxy]\nlisten = \"127.0.0.1:0\"\ndeny = [\"other\"]\nthreads = 0\n";
    fs::write(folder.path().join("a.toml"), file).expect("a file");
    let check = |all: &[&str]| {
        let output = program(folder.path(), &[&["check", "--upstream", &url], all].concat())
            .env_remove("GMS_RECORDER_LISTEN")
            .env("GMS_RECORDER_CONFIG", "a.toml")
            .env("GMS_RECORDER_LOG_FORMAT", "json")
            .output()
            .expect("the program runs");
        text(&output.stdout)
    };
    let out = check(&[]);
    assert!(out.starts_with(&format!("{}\n\n# listening\nproxy.listen  127.0.0.1:0\n", well(&out))), "{out}");
    for default in ["level = ", "threads = ", "[recording]"] {
        assert!(!out.contains(default), "{default} is as by default: {out}");
    }
    let lines = [
        "listen = \"127.0.0.1:0\"  # a.toml:2",
        &format!("upstreams = [\"{url}\"]  # --upstream"),
        "format = \"json\"  # GMS_RECORDER_LOG_FORMAT",
        "chat       passes   allow is empty",
        "other      refused  deny names it",
        &format!("migrations   {} pending", MIGRATIONS.len()),
        "served       no",
    ];
    for line in lines {
        assert!(out.lines().any(|printed| printed == line), "{line} is not in\n{out}");
    }
    let all = check(&["--all"]);
    for line in ["level = \"info\"", "threads = 0  # a.toml:4", "listen = \"127.0.0.1:0\"  # a.toml:2"] {
        assert!(all.lines().any(|printed| printed == line), "{line} is not in\n{all}");
    }
    let wrong = program(folder.path(), &["check"]).env("GMS_RECORDER_CONFIG", "").output().expect("the program runs");
    assert!(text(&wrong.stderr).contains("\nproxy.upstreams: no GMS node is named"), "an empty variable names no file");
}

/// What `check` begins with where `serve` can run. Whether the folder's file system is one to be warned of is this machine's.
fn well(out: &str) -> String {
    match out.lines().filter(|line| line.starts_with("warning: ")).count() {
        0 => "all is well: `serve` can run with this".into(),
        1 => "`serve` can run with this; there is 1 warning".into(),
        count => format!("`serve` can run with this; there are {count} warnings"),
    }
}

#[test]
fn the_demo_shows_what_was_kept_what_was_masked_and_that_it_is_whole() {
    let folder = folder();
    let output = run(folder.path(), &["demo", "--database", "t.db"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}{}", text(&output.stderr));
    for line in [
        "Client  Anna  │ Thank you! 👋 My card is **** **** **** ****, cvv ***",
        "/text  cards",
        "/text  cvv",
        "everything recorded is as it was sealed",
        "search 10016629 in the GMS log of node gms-1",
    ] {
        assert!(out.contains(line), "{line} is not in\n{out}");
    }
    assert!(!out.contains("4111"), "{out}");

    // As the README's table of exit codes says.
    for (code, arguments) in [
        (0, &["chats", "--since", "2020-01-01"][..]),
        (0, &["errors", "--who", "nobody"]),
        (0, &["holes"]),
        (0, &["verify"]),
        (0, &["key", "list"]),
        (0, &["snapshot", "copy.db"]),
        (2, &["snapshot", "copy.db"]),
        (0, &["backup", "backup.db"]),
        (2, &["backup", "backup.db"]),
        (2, &["backup", "other.db", "--rate", "0B"]),
        (1, &["merge", "backup.db"]),
        (1, &["merge", "nofile.db"]),
        (2, &["merge", "backup.db", "--key", "nofile"]),
        (0, &["restore", "backup.db"]),
        (1, &["restore", "nofile.db"]),
        (2, &["restore", "backup.db", "--key", "nofile"]),
        (1, &["transcript", "nobody"]),
        (1, &["prove", "nobody"]),
        (1, &["sql", "SELECT nothing"]),
        (1, &["node", "list"]),
        (1, &["demo"]),
        (2, &["sql", "DELETE FROM events"]),
        (2, &["verify", "--key", "nofile"]),
        (2, &["errors", "--since", "soon"]),
    ] {
        let output = run(folder.path(), &[arguments, &["--database", "t.db"]].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    }
    let missing = run(folder.path(), &["chats", "--database", "no.db"]);
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing.stderr));
}

#[test]
fn check_counts_its_warnings() {
    let folder = folder();
    let (_node, url) = node();
    let file = format!("[proxy]\nupstreams = [\"{url}\"]\nlisten = \"127.0.0.1:0\"\n[masking]\ncards = false\n");
    fs::write(folder.path().join("a.toml"), file).expect("a file");
    let output = run(folder.path(), &["check", "--config", "a.toml"]);
    let out = text(&output.stdout);
    assert_eq!((output.status.code(), out.lines().next()), (Some(0), Some(&*well(&out))), "{out}");
    assert!(out.contains("\nwarning: masking.cards is off"), "{out}");
}

#[test]
fn check_answers_programs_too() {
    let folder = folder();
    let (_node, url) = node();
    let output = run(folder.path(), &["check", "--format", "json", "--upstream", &url, "--upstream", &dead_node()]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["config"]["proxy"]["upstreams"][0], url);
    assert_eq!(report["nodes"][0]["problem"], serde_json::Value::Null);
    assert!(report["nodes"][1]["problem"].as_str().expect("it is dead").starts_with("it does not accept connections"));
    assert_eq!(report["database"]["pending_migrations"], MIGRATIONS.len());
    assert_eq!(output.status.code(), Some(1));

    let output = run(folder.path(), &["check", "--format", "json", "--admin", "x"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(2));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn check_sees_a_database_that_is_served_or_is_none() {
    let folder = folder();
    let (_node, url) = node();
    let lock = fs::File::create(folder.path().join("transcripts.db.lock")).expect("a lock file");
    lock.lock().expect("held");
    let output = run(folder.path(), &["check", "--upstream", &url]);
    assert!(text(&output.stdout).contains("served       yes"));

    fs::write(folder.path().join("text.db"), "this is no database ".repeat(200)).expect("a file");
    let output = run(folder.path(), &["check", "--upstream", &url, "--database", "text.db"]);
    assert!(text(&output.stdout).contains("CANNOT BE USED: it cannot be read as a SQLite database"));
    assert_eq!(output.status.code(), Some(1));

    let output = program(folder.path(), &["check", "--upstream", &url])
        .env("GMS_RECORDER_RECORDING_CREATE", "never")
        .output()
        .expect("the program runs");
    assert!(text(&output.stdout).contains("CANNOT BE USED: there is no such file"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn check_sees_addresses_that_cannot_be_had_and_circles() {
    let folder = folder();
    let (node, url) = node();
    let taken = node.local_addr().expect("it is bound").to_string();
    let rows: [(&[&str], i32, &str, String); 4] = [
        (&["--listen", &taken], 1, "CANNOT BE HAD: another program listens", format!("error: proxy.listen = {taken} ")),
        (
            &["--admin", "192.0.2.1:1"],
            1,
            "this machine has no such address",
            "error: admin.listen = 192.0.2.1:1 ".into(),
        ),
        (&["--listen", &taken, "--upstream", &url], 2, "", format!("\n--upstream: {taken} is proxy.listen")),
        (&["--listen", "0.0.0.0:7", "--upstream", "http://127.0.0.1:7"], 2, "", "\n--upstream: 127.0.0.1:7 is ".into()),
    ];
    let other = ["--upstream", &dead_node()].map(String::from);
    for (arguments, code, stdout, stderr) in rows {
        let mut command = program(folder.path(), &["check"]);
        if !arguments.contains(&"--upstream") {
            command.args(&other);
        }
        let output = command.args(arguments).output().expect("the program runs");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{err}");
        assert!(out.contains(stdout) && err.contains(&stderr), "{arguments:?}: {out}{err}");
    }
}

#[test]
fn a_reader_that_has_enough_ends_the_program_quietly() {
    let folder = folder();
    let (_node, url) = node();
    let mut command = program(folder.path(), &["check", "--upstream", &url]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}
