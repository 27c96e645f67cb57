//! Rows of settings and what becomes of them.

use std::fs;

use super::*;

const DOCUMENTED: &str = include_str!("../../config/gms-recorder.toml");

/// What a configuration needs to be whole.
const NODE: &str = "[proxy]\nupstreams = [\"http://gms\"]\n";

type Variables<'a> = &'a [(&'a str, &'a str)];

fn load(text: &str, variables: Variables<'_>, flags: &Flags) -> Result<(Config, Origins), String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("test.toml");
    fs::write(&file, text).expect("a temporary file");
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let loaded = Config::load_traced(Some(&file), variables, flags);
    let folder = format!("{}/", folder.path().display());
    loaded.map_err(|problems| problems.to_string().replace(&folder, ""))
}

/// The settings in `text`, beside a node so that nothing else is wrong, are objected to in exactly these lines.
#[track_caller]
fn check(text: &str, lines: &[&str]) {
    let said = load(text, &[("GMS_RECORDER_UPSTREAM", "http://gms")], &Flags::default()).expect_err(text);
    assert_eq!(said.lines().collect::<Vec<_>>(), lines, "{text}");
}

#[test]
fn the_documented_file_names_every_option_with_its_default() {
    let documented: toml::Table = DOCUMENTED.parse().expect("the documented file is TOML");
    let mut documented: Vec<_> = documented
        .into_iter()
        .flat_map(|(section, settings)| {
            let settings = settings.as_table().expect("sections only").clone();
            settings.into_iter().map(move |(name, value)| (format!("{section}.{name}"), value))
        })
        .collect();
    let options = written::options(&Config::default());
    let mut defaults: Vec<_> = options.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
    documented.sort_by(|a, b| a.0.cmp(&b.0));
    defaults.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(documented, defaults);
}

#[test]
fn every_option_of_the_documented_file_is_explained() {
    let mut previous = "";
    for line in DOCUMENTED.lines() {
        let is_option = !line.is_empty() && !line.starts_with(['#', '[']);
        assert!(!is_option || previous.starts_with('#'), "nothing says why: {line}");
        previous = line;
    }
}

#[test]
fn the_documented_file_can_be_started_with() {
    let (config, _) = load(DOCUMENTED, &[("GMS_RECORDER_UPSTREAM", "http://gms")], &Flags::default()).expect("whole");
    let upstreams = vec!["http://gms".to_string()];
    let wanted = Config { proxy: proxy::Config { upstreams, ..Default::default() }, ..Default::default() };
    assert_eq!(config.to_toml(), wanted.to_toml());
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn what_is_written_reads_the_same() {
    let text = "[proxy]\nlisten = '[::1]:80'\nupstreams = ['a=http://gms-1', 'b=http://[::1]:81']\ndeny = ['/genesys/1/']\n\
                trusted_proxies = ['10.0.0.0/8']\nthreads = 0x10\n[recording]\ndatabase = 'a \"b\\.db'\n\
                when_unavailable = 'refuse'\ncreate = 'never'\ndeliver = 'immediately'\nkeep_typing_text = true\n\
                body_max = '1536KiB'\nattributes = []\n[log]\nformat = 'json'\n";
    let (first, _) = load(text, &[], &Flags::default()).expect("right");
    let (second, _) = load(&first.to_toml(), &[], &Flags::default()).expect("what is written can be read");
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    assert_eq!(first.hash(), second.hash());
    assert_eq!(first.hash().len(), 64);
    assert_ne!(first.hash(), Config::default().hash());
    assert_eq!(first.to_json()["proxy"]["threads"], 16);
    assert_eq!(first.to_json()["recording"]["body_max"], "1536KiB");
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let file = "[proxy]\nlisten = \"127.0.0.1:1\"\nupstreams = [\"http://file\"]\n";
    let long = ("GMS_RECORDER_PROXY_LISTEN", "127.0.0.1:2");
    let short = ("GMS_RECORDER_LISTEN", "127.0.0.1:3");
    let flag = Flags { listen: Some("127.0.0.1:4".into()), ..Flags::default() };
    let rows: [(Variables<'_>, &Flags, u16, &str); 5] = [
        (&[], &Flags::default(), 1, "test.toml:2"),
        (&[long], &Flags::default(), 2, "GMS_RECORDER_PROXY_LISTEN"),
        (&[short], &Flags::default(), 3, "GMS_RECORDER_LISTEN"),
        (&[short, long], &Flags::default(), 3, "GMS_RECORDER_LISTEN"),
        (&[long, short], &flag, 4, "--listen"),
    ];
    for (variables, flags, port, origin) in rows {
        let (config, origins) = load(file, variables, flags).expect("right");
        assert_eq!(config.proxy.listen.port(), port, "{variables:?}");
        let written = config.to_toml_traced(&origins);
        let line = written.lines().find(|line| line.starts_with("listen")).expect("it is written");
        assert!(line.ends_with(origin), "{line}");
    }
}

#[test]
fn every_option_has_a_variable() {
    let variables: [(&str, &str, &str); 7] = [
        ("GMS_RECORDER_UPSTREAM", "http://a, b=http://b,", "upstreams = [\"http://a\", \"b=http://b\"]"),
        ("GMS_RECORDER_PROXY_THREADS", "4", "threads = 4"),
        ("GMS_RECORDER_RECORDING_WHEN_UNAVAILABLE", "refuse", "when_unavailable = \"refuse\""),
        ("GMS_RECORDER_RECORDING_KEEP_TYPING_TEXT", "true", "keep_typing_text = true"),
        ("GMS_RECORDER_RECORDING_ATTRIBUTES", "", "attributes = []"),
        ("GMS_RECORDER_DATABASE", "/srv/a.db", "database = \"/srv/a.db\""),
        ("GMS_RECORDER_ADMIN", "127.0.0.1:9", "listen = \"127.0.0.1:9\""),
    ];
    let given: Vec<_> = variables.iter().map(|(name, value, _)| (*name, *value)).collect();
    let (config, _) = load("", &given, &Flags::default()).expect("right");
    for (name, _, line) in variables {
        assert!(config.to_toml().lines().any(|written| written == line), "{name}: {line}");
    }
    for (key, _) in written::options(&Config::default()) {
        let wrong = format!("{}X", key.variable());
        let said = load(NODE, &[(&wrong, "")], &Flags::default()).expect_err(&wrong);
        assert_eq!(said, format!("{wrong}: unknown variable; did you mean {}?", key.variable()));
    }
}

#[test]
fn rules_of_masking_are_a_table_and_checked_one_by_one() {
    let variable = ("GMS_RECORDER_MASKING_RULES", r"a = '\d{7}', b = 'x'");
    let (config, _) = load(NODE, &[variable], &Flags::default()).expect("right");
    assert_eq!(config.masking.rules["a"], r"\d{7}");
    assert_eq!(config.recording.masks.names(), ["cards", "cvv", "a", "b"]);
    let (again, _) = load(&config.to_toml(), &[], &Flags::default()).expect("what is written can be read");
    assert_eq!(again.masking, config.masking);
    assert_eq!(again.to_json()["masking"]["rules"]["b"], "x");
    let (off, _) = load(&format!("{NODE}[masking]\ncards = false"), &[], &Flags::default()).expect("right");
    assert!(off.recording.masks.names().is_empty() && off.warnings()[0].contains("masking.cards is off"));
    check(
        "[masking.rules]\nz = 'a'\nb = '('\ncvv = 'x'",
        &[
            "test.toml:3: masking.rules: rule \"b\" is no regular expression: unclosed group",
            "test.toml:4: masking.rules: \"cvv\" is a rule of the program: masking.cards switches it; choose another name",
        ],
    );
    let wanted = "a table of texts is wanted, such as { name = '…' }";
    check("[masking]\nrules = ['a']", &[&format!("test.toml:2: masking.rules: {wanted}")]);
    check(
        "[masking.rules]\ngood = 'a'\na = 5\nb = ['x']\nc = 1.5",
        &[
            "test.toml:3: masking.rules: a is 5; a text in single quotes is wanted, such as a = '…'",
            "test.toml:4: masking.rules: b is a list; a text in single quotes is wanted, such as b = '…'",
            "test.toml:5: masking.rules: c is no text; a text in single quotes is wanted, such as c = '…'",
        ],
    );
    for (text, sentence) in [
        (
            r"patient = \d+",
            r#""patient = \d+" cannot be read; wanted are names and texts in single quotes, as in name = '…', other = '…'"#,
        ),
        ("a = 'x', n = 5", "n is 5; a text in single quotes is wanted, such as n = '…'"),
        ("a = '('", "rule \"a\" is no regular expression: unclosed group"),
    ] {
        let variable = ("GMS_RECORDER_MASKING_RULES", text);
        let problems = load(NODE, &[variable], &Flags::default()).expect_err("wrong").to_string();
        assert_eq!(problems, format!("GMS_RECORDER_MASKING_RULES: {sentence}"));
    }
}

#[test]
fn flags_replace_whole_lists() {
    let flags = Flags {
        upstreams: vec!["http://x".into(), "http://y".into()],
        database: Some("z.db".into()),
        admin: Some("127.0.0.1:7".into()),
        ..Flags::default()
    };
    let (config, _) = load(NODE, &[], &flags).expect("right");
    assert_eq!(config.proxy.upstreams, ["http://x", "http://y"]);
    assert_eq!(config.recording.database, Path::new("z.db"));
    assert_eq!(config.admin.listen.port(), 7);
}

#[test]
fn a_schedule_that_is_too_short_is_told_with_the_shortest() {
    let why = "\"12h\" is not a time to keep chats for: it is less than a day, and the shortest is \"1d\"";
    check("[retention]\nkeep = '12h'", &[&format!("test.toml:2: retention.keep: {why}")]);
    let months = why.replace("12h", "6m") + "; `m` are minutes, and months are written in days, such as \"180d\"";
    check("[retention]\nkeep = '6m'", &[&format!("test.toml:2: retention.keep: {months}")]);
    let services = "[retention.services]\nnews = '12h'";
    let said = load(services, &[("GMS_RECORDER_UPSTREAM", "http://gms")], &Flags::default()).expect_err(services);
    assert!(said.contains(why) && !said.contains("wanted is"), "{said}");
}

#[test]
fn unknown_names_are_told_with_their_nearest() {
    check(
        "\n[recording]\ncommit_wait_maxx = '1s'",
        &["test.toml:3: recording.commit_wait_maxx: unknown key; did you mean commit_wait_max?"],
    );
    check("[proxy]\nuptreams = []", &["test.toml:2: proxy.uptreams: unknown key; did you mean upstreams?"]);
    check("[admin]\nlisten_on = 'x'", &["test.toml:2: admin.listen_on: unknown key; did you mean listen?"]);
    check(
        "[log]\ncolour = true",
        &["test.toml:2: log.colour: unknown key; [log] has format, level, access, access_file, access_sample"],
    );
    check("[proxy]\ndatabase = 'x'", &["test.toml:2: proxy.database: unknown key; it belongs under [recording]"]);
    check(
        "[record]\nx = 1",
        &[
            "test.toml:1: record: unknown section; there are [proxy], [limits], [nodes], [tls], [node_tls], [recording], [masking], [evidence], [retention], [export], [admin] and [log]",
        ],
    );
    check("[recordings]\nx = 1", &["test.toml:1: recordings: unknown section; did you mean [recording]?"]);
    check("database = 'x'", &["test.toml:1: database: stands in no section; it belongs under [recording]"]);
    check("proxy = 1", &["test.toml:1: proxy: is a section: write [proxy]"]);
    check("[[proxy]]", &["test.toml:1: proxy: is a section: write [proxy]"]);
    check(
        "x = 1",
        &[
            "test.toml:1: x: unknown key, and in no section; there are [proxy], [limits], [nodes], [tls], [node_tls], [recording], [masking], [evidence], [retention], [export], [admin] and [log]",
        ],
    );
    check(
        "recording.x.y = 1",
        &["test.toml:1: recording.x: unknown key; [recording] has database, file_mode, create, \
        deliver, when_unavailable, spool, spool_bytes_max, reserve, commit_wait_max, body_max, inspected_bytes_max, request_bytes_max, finding_bytes_max, \
        queue_bytes_max, batch_events_max, memory_events_max, attributes, keep_typing_text, search, quiet_after, async_quiet_after"],
    );
}

#[test]
fn checkpoints_and_keys_have_files_of_their_own() {
    check(
        "[evidence]\nkey_file = 'transcripts.db'\nanchor_file = 'transcripts.db-spool'",
        &[
            "test.toml:2: evidence.key_file: is the archive or its spool; the key needs a file of its own",
            "test.toml:3: evidence.anchor_file: is the archive, its spool or its key; checkpoints are appended to a file of their own",
        ],
    );
    check(
        "[evidence]\nanchor_file = 'transcripts.db.key'",
        &[
            "test.toml:2: evidence.anchor_file: is the archive, its spool or its key; checkpoints are appended to a file of their own",
        ],
    );
}

const ANCHORS: &str = "\
[evidence.anchors.disk]
kind = 'file'
path = '/mnt/a'
[evidence.anchors.collector]
kind = 'http'
url = 'https://audit.example.com/checkpoints'
token_file = '/etc/token'
[evidence.anchors.vault]
kind = 's3'
url = 'https://s3.example.com'
bucket = 'audit'
retention = '2557d'
path_style = false
[evidence.anchors.tsa]
kind = 'time_stamp'
url = 'http://tsa.example.com'
folder = '/mnt/stamps'
";

#[test]
fn anchors_are_tables_of_their_kind_and_read_as_written() {
    let (config, _) = load(&format!("{NODE}{ANCHORS}"), &[], &Flags::default()).expect("right");
    let kinds: Vec<_> =
        config.evidence.all_anchors().map(|(name, anchor)| format!("{name} {}", anchor.kind())).collect();
    assert_eq!(kinds, ["collector http", "disk file", "tsa time_stamp", "vault s3"]);
    let hours: Vec<_> = config.evidence.anchors.values().map(|anchor| anchor.interval().as_secs() / 3_600).collect();
    assert_eq!(hours, [0, 0, 1, 0]);
    assert!(config.to_toml().contains("region = \"us-east-1\"") && config.warnings().is_empty());
    let (again, _) = load(&config.to_toml(), &[], &Flags::default()).expect("what is written can be read");
    assert_eq!(again.evidence.anchors, config.evidence.anchors);
    let variable = ("GMS_RECORDER_EVIDENCE_ANCHORS", "disk = { kind = 'file', path = '/mnt/a' }");
    let (config, _) = load(NODE, &[variable], &Flags::default()).expect("right");
    assert_eq!(config.evidence.all_anchors().count(), 1);
}

/// The tables that are shown in a remark of the documented file, from these words on, can be had, and each of their options is told
/// there; so can those that the README shows, of which there are so many.
fn shown_tables_can_be_had(remark: &str, section: &str, name: &str, in_readme: usize) -> Config {
    let header = format!("[{section}.{name}");
    let told = DOCUMENTED.split_once(remark).and_then(|(_, rest)| rest.split_once(&format!("\n{header}]\n")));
    let (told, _) = told.expect("a remark before the table");
    let shown: String =
        told.lines().filter_map(|line| line.strip_prefix("#   ")).map(|line| format!("{line}\n")).collect();
    let (config, _) = load(&format!("{NODE}{shown}"), &[], &Flags::default()).expect("right");
    for table in config.to_json()[section][name].as_object().expect("tables").values() {
        for option in table.as_object().expect("a table").keys() {
            let is_told = told.contains(&format!("{option} = ")) || told.contains(&format!("`{option}`"));
            assert!(is_told, "nothing says what {option} is");
        }
    }
    let readme = include_str!("../../README.md");
    let shown = readme.split("```toml\n").filter_map(|rest| rest.split("```").next());
    let shown = shown.filter(|shown| shown.contains(&format!("{header}."))).collect::<String>();
    let (of_readme, _) = load(&format!("{NODE}{shown}"), &[], &Flags::default()).expect("right");
    assert_eq!(of_readme.to_json()[section][name].as_object().map(serde_json::Map::len), Some(in_readme));
    config
}

#[test]
fn anchors_and_targets_that_are_shown_can_be_had_and_all_their_options_are_named() {
    let config = shown_tables_can_be_had("\n# More anchors", "evidence", "anchors", 3);
    let kinds: Vec<_> = config.evidence.anchors.values().map(archive::anchor::Config::kind).collect();
    assert_eq!(kinds, ["http", "file", "time_stamp", "s3"]);
    let config = shown_tables_can_be_had("\n# Where `serve` brings", "export", "targets", 2);
    assert_eq!(config.export.targets.len(), 2);
}

const TARGETS: &str = "\
[export.targets.smarsh]
format = 'eml'
every = '1h'
folder = '/srv/smarsh'
[export.targets.lake]
format = 'parquet'
errors = true
url = 'https://s3.example.com'
bucket = 'chats'
retention = '2557d'
";

#[test]
fn targets_are_folders_or_buckets_and_read_as_written() {
    let (config, _) = load(&format!("{NODE}{TARGETS}"), &[], &Flags::default()).expect("right");
    let places: Vec<_> = config.export.targets.values().map(archive::delivery::Target::place).collect();
    assert_eq!(places, ["https://s3.example.com/chats/", "/srv/smarsh"]);
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
    let (again, _) = load(&config.to_toml(), &[], &Flags::default()).expect("what is written can be read");
    assert_eq!(again.export.targets, config.export.targets);
    let variable = ("GMS_RECORDER_EXPORT_TARGETS", "a = { format = 'csv', folder = '/mnt/a' }");
    let (config, _) = load(NODE, &[variable], &Flags::default()).expect("right");
    assert_eq!(config.export.targets.len(), 1);
}

#[test]
fn targets_that_cannot_be_meant_are_told() {
    let rows = [
        (
            "[export]\ntargets = 1",
            "test.toml:2: export.targets: tables are wanted, such as [export.targets.smarsh] with format = \"eml\" under it",
        ),
        ("[export.targets.a]\nfolder = 'x'", "test.toml:1: export.targets: a: format is missing"),
        (
            "[export.targets.a]\nformat = 'xlsx'",
            "test.toml:1: export.targets: a: \"xlsx\" cannot be chosen; there is \"jsonl\", \"csv\", \"parquet\", \"html\", \"eml\", \"actiance\"",
        ),
        (
            "[export.targets.a]\nformat = 'csv'\nfolders = 'x'",
            "test.toml:1: export.targets: a: unknown key folders; did you mean folder?",
        ),
        (
            "[export.targets.a]\nformat = 'csv'",
            "test.toml:1: export.targets: a: name a folder, or a bucket with url and bucket",
        ),
        (
            "[export.targets.a]\nformat = 'csv'\nfolder = 'x'\nurl = 'https://s3'",
            "test.toml:1: export.targets: a: folder and url are both named: a target is one of them",
        ),
        (
            "[export.targets.a]\nformat = 'csv'\nurl = 'https://s3'\nbucket = 'chats'",
            "test.toml:1: export.targets: a: retention: say how long objects are locked, \"1d\" to a hundred years, such as \"2557d\"; or lock = \"none\"",
        ),
        (
            "[export.targets.a]\nformat = 'csv'\nfolder = 'x'\nevery = '0s'",
            "test.toml:1: export.targets: a: every: at least 1s is wanted, such as \"1h\" or \"1d\"",
        ),
        (
            "[export.targets.a]\nformat = 'csv'\nfolder = 'x'\nmail_domain = 'a b'",
            "test.toml:1: export.targets: a: mail_domain: \"a b\" is no domain such as archive.example.com",
        ),
        (
            "[export.targets.'a/b']\nformat = 'csv'\nfolder = 'x'",
            "test.toml:1: export.targets: a/b: a target's name has up to 40 letters, digits, - and _; files and metrics show it",
        ),
        (
            "[export.targets.a]\nformat = 'csv'\nfolder = 'x'\n[export.targets.b]\nformat = 'csv'\nfolder = 'x'",
            "test.toml:4: export.targets: b: folder: another target has this folder",
        ),
    ];
    for (text, wanted) in rows {
        check(text, &[wanted]);
    }
}

/// Each stands at the line of its table.
#[test]
fn anchors_that_cannot_be_meant_are_told_without_their_secrets() {
    let rows = [
        (
            "[evidence]\nanchors = ['a']",
            "test.toml:2: evidence.anchors: tables are wanted, such as [evidence.anchors.audit] with kind = \"file\" under it",
        ),
        (
            "[evidence.anchors]\na = 'b'",
            "test.toml:1: evidence.anchors: tables are wanted, such as [evidence.anchors.audit] with kind = \"file\" under it",
        ),
        ("[evidence.anchors.a]\npath = 'b'", "test.toml:1: evidence.anchors: a: kind is missing"),
        (
            "[evidence.anchors.a]\nkind = 'ftp'",
            "test.toml:1: evidence.anchors: a: \"ftp\" cannot be chosen; there is \"file\", \"http\", \"s3\", \"time_stamp\"",
        ),
        ("[evidence.anchors.a]\nkind = 'file'", "test.toml:1: evidence.anchors: a: path is missing"),
        (
            "[evidence.anchors.a]\nkind = 'http'\nurl = 'https://a'\ntokenfile = 'x'",
            "test.toml:1: evidence.anchors: a: unknown key tokenfile; did you mean token_file?",
        ),
        (
            "[evidence.anchors.a]\nkind = 'file'\npath = 'x'\nsecret = 'SECRET'",
            "test.toml:1: evidence.anchors: a: unknown key secret; there are path, interval, kind",
        ),
        (
            "[evidence.anchors.a]\nkind = 'file'\npath = 'x'\ninterval = 'often'",
            "test.toml:1: evidence.anchors: a: \"often\" is not a duration such as \"800ms\", \"2s\", \"5m\", \"1h\" or \"7d\"",
        ),
        (
            "[evidence.anchors.b]\nkind = 'file'\npath = 'x'\n[evidence.anchors.a]\nkind = 'file'\npath = 'x'",
            "test.toml:1: evidence.anchors: b: path: another anchor has this file",
        ),
        (
            "[evidence.anchors.a]\nkind = 'file'\npath = 'transcripts.db'",
            "test.toml:1: evidence.anchors: a: path: is the archive, its spool or its key; checkpoints are appended to a file of their own",
        ),
        (
            "[evidence.anchors.anchor_file]\nkind = 'file'\npath = 'x'",
            "test.toml:1: evidence.anchors: anchor_file: evidence.anchor_file is called so among the anchors; choose another name",
        ),
        (
            "[evidence.anchors.'a b']\nkind = 'file'\npath = 'x'",
            "test.toml:1: evidence.anchors: a b: an anchor's name has up to 40 letters, digits, - and _; metrics and logs show it",
        ),
        (
            "[evidence.anchors.a]\nkind = 'http'\nurl = 'https://me:SECRET@a'",
            "test.toml:1: evidence.anchors: a: url: credentials and queries do not belong into it: they would be shown; secrets have files",
        ),
        (
            "[evidence.anchors.a]\nkind = 'http'\nurl = 'http://a'\nca = 'x'",
            "test.toml:1: evidence.anchors: a: ca: certificates are for https://, and url begins with http://",
        ),
        (
            "[evidence.anchors.a]\nkind = 's3'\nurl = 'https://a'\nbucket = 'b'\nretention = '1d'",
            "test.toml:1: evidence.anchors: a: bucket: \"b\" is no name of a bucket: 3 to 63 letters, digits, . and -",
        ),
        (
            "[evidence.anchors.a]\nkind = 's3'\nurl = 'https://a'\nbucket = 'bucket'",
            "test.toml:1: evidence.anchors: a: retention: say how long objects are locked, \"1d\" to a hundred years, such as \"2557d\"; or lock = \"none\"",
        ),
        (
            "[evidence.anchors.a]\nkind = 's3'\nurl = 'https://a/b'\nbucket = 'bucket'\nlock = 'none'",
            "test.toml:1: evidence.anchors: a: url: is the service's, without a path; bucket and prefix are options of their own",
        ),
        (
            "[evidence.anchors.a]\nkind = 's3'\nurl = 'https://a'\nbucket = 'bucket'\nlock = 'none'\nprefix = 'é'",
            "test.toml:1: evidence.anchors: a: prefix: \"é\" is not made of up to 500 letters, digits, /, ., _ and -, without an empty or dotted part",
        ),
        (
            "[evidence.anchors.a]\nkind = 's3'\nurl = 'https://a'\nbucket = 'bucket'\nlock = 'none'\nprefix = 'a/../b/'",
            "test.toml:1: evidence.anchors: a: prefix: \"a/../b/\" is not made of up to 500 letters, digits, /, ., _ and -, without an empty or dotted part",
        ),
        (
            "[evidence.anchors.a]\nkind = 'time_stamp'\nurl = 'https://a'\nfolder = ''",
            "test.toml:1: evidence.anchors: a: folder: no folder is named; time stamps are kept in one",
        ),
    ];
    for (text, line) in rows {
        check(text, &[line]);
    }
    let many: String = (0..33).map(|n| format!("[evidence.anchors.a{n}]\nkind = 'file'\npath = '{n}'\n")).collect();
    let said = load(&format!("{NODE}{many}"), &[], &Flags::default()).expect_err("too many");
    assert!(said.contains("there are 33; each has a thread of its own"), "{said}");
    let unlocked = "[evidence.anchors.a]\nkind = 's3'\nurl = 'https://a'\nbucket = 'bucket'\nlock = 'none'\n\
                    [evidence.anchors.b]\nkind = 'http'\nurl = 'http://a'\ntoken_file = 'x'";
    let warnings = load(&format!("{NODE}{unlocked}"), &[], &Flags::default()).expect("right").0.warnings();
    assert!(warnings[0].contains("anchors.a: lock is") && warnings[1].contains("anchors.b: its token"), "{warnings:?}");
}

#[test]
fn a_case_that_nobody_notes_is_not_asked_for() {
    check(
        "[evidence]\nrecord_reads = 'never'\nrequire_case = true",
        &[
            "test.toml:3: evidence.require_case: asks readers for a case that record_reads = \"never\" notes nowhere; set that to \"when_possible\" or \"required\"",
        ],
    );
}

#[test]
fn wrong_variables_and_flags_are_told_by_name() {
    let rows: [(Variables<'_>, &str); 7] = [
        (&[("GMS_RECORDER_LISTN", "x")], "GMS_RECORDER_LISTN: unknown variable; did you mean GMS_RECORDER_LISTEN?"),
        (
            &[("GMS_RECORDER_RECORDING_FILEMODE", "0600")],
            "GMS_RECORDER_RECORDING_FILEMODE: unknown variable; did you mean GMS_RECORDER_RECORDING_FILE_MODE?",
        ),
        (
            &[("GMS_RECORDER_X", "")],
            "GMS_RECORDER_X: unknown variable; variables are named GMS_RECORDER_<SECTION>_<KEY>, such as GMS_RECORDER_PROXY_LISTEN",
        ),
        (
            &[("GMS_RECORDER_PROXY_THREADS", "many")],
            "GMS_RECORDER_PROXY_THREADS: a whole number from 0 is wanted, such as 0",
        ),
        (
            &[("GMS_RECORDER_RECORDING_KEEP_TYPING_TEXT", "yes")],
            "GMS_RECORDER_RECORDING_KEEP_TYPING_TEXT: true or false is wanted",
        ),
        (
            &[("GMS_RECORDER_DATABASE", "")],
            "GMS_RECORDER_DATABASE: no file is named; name one such as \"transcripts.db\"",
        ),
        (&[("GMS_RECORDER_DATABASE", "a\u{FFFD}.db")], "GMS_RECORDER_DATABASE: is not UTF-8"),
    ];
    for (variables, line) in rows {
        assert_eq!(load(NODE, variables, &Flags::default()).expect_err(line), line);
    }
    let flags = Flags { listen: Some("8080".into()), ..Flags::default() };
    let line = "--listen: \"8080\" cannot be read (invalid socket address syntax); \
                wanted is an address and a port, such as \"0.0.0.0:8080\"";
    assert_eq!(load(NODE, &[], &flags).expect_err(line), line);
    assert!(load(NODE, &[("PATH", "/bin"), ("GMS_RECORDER_CONFIG", "x")], &Flags::default()).is_ok());
}

#[test]
fn variables_of_kubernetes_services_are_not_taken_for_ours() {
    let variables = [
        ("GMS_RECORDER_SERVICE_HOST", "10.0.0.1"),
        ("GMS_RECORDER_SERVICE_PORT", "80"),
        ("GMS_RECORDER_SERVICE_PORT_HTTP", "80"),
        ("GMS_RECORDER_PORT", "tcp://10.0.0.1:80"),
        ("GMS_RECORDER_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("GMS_RECORDER_PORT_80_TCP_PROTO", "tcp"),
        ("GMS_RECORDER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("GMS_RECORDER_ADMIN_SERVICE_HOST", "10.0.0.2"),
        ("GMS_RECORDER_ADMIN_PORT", "tcp://10.0.0.2:9180"),
    ];
    assert!(load(NODE, &variables, &Flags::default()).is_ok());
    assert!(load(NODE, &[("GMS_RECORDER_PORT", "8080")], &Flags::default()).is_err(), "somebody meant us");
}

#[test]
fn wrong_values_are_told_with_what_would_be_right() {
    let rows = [
        ("[proxy]\nlisten = 8080", "test.toml:2: proxy.listen: a text in quotes is wanted, such as \"0.0.0.0:8080\""),
        (
            "[admin]\nlisten = 'localhost:1'",
            "test.toml:2: admin.listen: \"localhost:1\" cannot be read (invalid socket address syntax); wanted is an address and a port, such as \"127.0.0.1:9180\"",
        ),
        ("[proxy]\nthreads = -1", "test.toml:2: proxy.threads: a whole number from 0 is wanted, such as 0"),
        ("[proxy]\nthreads = 1.5", "test.toml:2: proxy.threads: a whole number from 0 is wanted, such as 0"),
        (
            "[proxy]\nthreads = 99999999999999999999",
            "test.toml:2: proxy.threads: a whole number from 0 is wanted, such as 0",
        ),
        ("[proxy]\nthreads = 2000", "test.toml:2: proxy.threads: 2000 is out of bounds: 0 to 1024"),
        ("[proxy]\nconnections_max = 0", "test.toml:2: proxy.connections_max: 0 is out of bounds: 1 to 1048576"),
        ("[proxy]\nallow = 'chat'", "test.toml:2: proxy.allow: a list of texts is wanted, such as [\"…\", \"…\"]"),
        (
            "[proxy]\ntrusted_proxies = [\n  '10.0.0.0/8',\n  '10.0.0.7',\n]",
            "test.toml:4: proxy.trusted_proxies: \"10.0.0.7\" cannot be read (invalid IP address syntax); \
             wanted is a network such as \"10.0.0.0/8\", or \"10.0.0.7/32\" for one address",
        ),
        (
            "[proxy]\nchat_timeout = '2.8s'",
            "test.toml:2: proxy.chat_timeout: \"2.8s\" is not a duration such as \"800ms\", \"2s\", \"5m\", \"1h\" or \"7d\"",
        ),
        (
            "[proxy]\nchat_timeout = 3",
            "test.toml:2: proxy.chat_timeout: a text in quotes is wanted, such as \"2800ms\"",
        ),
        (
            "[proxy]\nclient_timeout = '0s'",
            "test.toml:2: proxy.client_timeout: 0 would be over before it begins; at least 1ms is wanted",
        ),
        (
            "[recording]\nbody_max = '8MB'",
            "test.toml:2: recording.body_max: \"8MB\" is not a size such as \"512B\", \"64KiB\", \"8MiB\" or \"1GiB\"",
        ),
        (
            "[recording]\nrequest_bytes_max = '0B'",
            "test.toml:2: recording.request_bytes_max: 0B is too little; at least 1KiB is wanted",
        ),
        (
            "[recording]\nwhen_unavailable = 'maybe'",
            "test.toml:2: recording.when_unavailable: \"maybe\" cannot be chosen; there is one of \"pass\", \"refuse\", \"spool\"",
        ),
        ("[recording]\nkeep_typing_text = 'yes'", "test.toml:2: recording.keep_typing_text: true or false is wanted"),
        (
            "[recording]\nbatch_events_max = 0",
            "test.toml:2: recording.batch_events_max: 0 is out of bounds: 1 to 100000",
        ),
        (
            "[log]\naccess = 'apache'",
            "test.toml:2: log.access: \"apache\" cannot be chosen; there is one of \"none\", \"combined\", \"json\"",
        ),
        (
            "[log]\naccess_sample = 1.5",
            "test.toml:2: log.access_sample: 1.5 is out of bounds: 0 (none but errors) to 1 (all)",
        ),
        ("[log]\naccess_sample = nan", "test.toml:2: log.access_sample: a number is wanted, such as 1.0"),
        (
            "[log]\nlevel = 'inof'",
            "test.toml:2: log.level: \"inof\" is not a level (error, warn, info, debug, trace, off) or a filter such as \"info,gms_recorder::proxy=debug\"",
        ),
    ];
    for (text, line) in rows {
        check(text, &[line]);
    }
}

#[test]
fn what_makes_no_sense_is_told_with_a_remedy() {
    let classes = "chat, chat_ntf, cometd, email, openmedia, chat_v1, other";
    let mode = "\"0600\" keeps it to the owner, \"0640\" lets a group read";
    let long_control = format!("[admin]\ncontrol = '/{}'", "x".repeat(107));
    let rows = [
        (
            "[proxy]\nallow = [\"chat\",\n\"chats\"]",
            format!("test.toml:3: proxy.allow: \"chats\" is neither a route class ({classes}) nor a path prefix that begins with /"),
        ),
        ("[proxy]\ndeny = ['/a?b']", "test.toml:2: proxy.deny: \"/a?b\" is no path prefix: a query takes no part".into()),
        (
            "[proxy]\nbase_path = '/genesys/'",
            "test.toml:2: proxy.base_path: \"/genesys/\" is no path such as \"/genesys\": it begins with / and does not end with one".into(),
        ),
        (
            "[proxy]\ncors_origins = ['https://a.example/']",
            "test.toml:2: proxy.cors_origins: \"https://a.example/\" is no origin such as \"https://www.example.com\" or \"http://localhost:3000\"".into(),
        ),
        (
            "[proxy]\nlisten = '0.0.0.0:9180'",
            "admin.listen: 127.0.0.1:9180 is taken by proxy.listen = \"0.0.0.0:9180\"; probes and metrics need a port of their own".into(),
        ),
        (
            "[recording]\ndatabase = 'postgres://db/chats'",
            "test.toml:2: recording.database: the archive is a SQLite file for now, and PostgreSQL is not supported; name a file such as \"transcripts.db\"".into(),
        ),
        (
            "[recording]\ndatabase = 'sqlite://a.db'",
            "test.toml:2: recording.database: is a path and no URL; name a file such as \"/var/lib/gms-recorder/transcripts.db\"".into(),
        ),
        (
            "[recording]\ndatabase = ':memory:'",
            "test.toml:2: recording.database: an archive in memory would be lost with the process; name a file such as \"transcripts.db\"".into(),
        ),
        ("[recording]\nfile_mode = '0x600'", format!("test.toml:2: recording.file_mode: \"0x600\" is no octal mode; {mode}")),
        ("[recording]\nfile_mode = '0689'", format!("test.toml:2: recording.file_mode: \"0689\" is no octal mode; {mode}")),
        (
            "[recording]\nfile_mode = '0666'",
            format!("test.toml:2: recording.file_mode: \"0666\" does not fit an archive, which its owner reads and writes and others may only read; {mode}"),
        ),
        (
            "[recording]\nbody_max = '65MiB'\nqueue_bytes_max = '1GiB'",
            "recording.inspected_bytes_max: 64MiB cannot hold one answer of body_max = \"65MiB\"; raise it, or lower body_max".into(),
        ),
        (
            "[recording]\nqueue_bytes_max = '1MiB'",
            "test.toml:2: recording.queue_bytes_max: 1MiB cannot take in one answer of body_max = \"8MiB\"; raise it, or lower body_max".into(),
        ),
        (
            "[nodes]\nhealth_path = 'status'",
            "test.toml:2: nodes.health_path: \"status\" is no path such as \"/genesys/1/admin/node/status\"".into(),
        ),
        (
            "[nodes]\nhealth_text = 'ONLINE'",
            "test.toml:2: nodes.health_text: without health_path nothing is asked of the nodes".into(),
        ),
        ("[nodes]\nhealth_status = 700", "test.toml:2: nodes.health_status: 700 is out of bounds: 200 to 599".into()),
        ("[nodes]\nrefusals_max = 0", "test.toml:2: nodes.refusals_max: 0 is out of bounds: 1 to 100".into()),
        (
            "[nodes]\nresolve_interval = '0s'",
            "test.toml:2: nodes.resolve_interval: 0 would be over before it begins; at least 1ms is wanted".into(),
        ),
        (
            "[nodes]\ncookie_attributes = ['A; Secure',\n'Secure']",
            "test.toml:3: nodes.cookie_attributes: \"Secure\" is not written as \"BAYEUX_BROWSER; SameSite=None; Secure; Partitioned\"".into(),
        ),
        (
            &long_control,
            "test.toml:2: admin.control: is longer than the 107 bytes that a Unix socket's path may have".into(),
        ),
        (
            "[recording]\nattributes = ['secureKey']",
            "test.toml:2: recording.attributes: \"secureKey\" is a secret: it lets its holder act in the chat, and is never stored".into(),
        ),
    ];
    for (text, line) in rows {
        check(text, &[&line]);
    }
}

#[test]
fn tls_is_whole_or_objected_to() {
    let rows = [
        (
            "[tls]\ncertificates = ['a.crt', 'b.crt']\nkeys = ['a.key']",
            "test.toml:3: tls.keys: 1 key for 2 certificates in tls.certificates; each has its key at the same place of the list",
        ),
        (
            "[tls]\nclient_certificates = 'required'\nclient_ca = 'ca.crt'",
            "test.toml:2: tls.client_certificates: only TLS shows certificates; name ours in tls.certificates, or write \"none\"",
        ),
        (
            "[tls]\ncertificates = ['a.crt']\nkeys = ['a.key']\nclient_certificates = 'optional'\nclient_ca = ''",
            "test.toml:5: tls.client_ca: no file is named; client certificates are held against the CAs in it",
        ),
        (
            "[tls]\nversion_min = '1.1'",
            "test.toml:2: tls.version_min: \"1.1\" cannot be chosen; there is \"1.2\" or \"1.3\"",
        ),
        (
            "[tls]\nhandshake_timeout = '0s'",
            "test.toml:2: tls.handshake_timeout: 0 would be over before it begins; at least 1ms is wanted",
        ),
        (
            "[node_tls]\nkey = 'a.key'",
            "test.toml:2: node_tls.key: node_tls.certificate and node_tls.key belong together: name both files, or neither",
        ),
        (
            "[node_tls]\nserver_name = 'a b'",
            "test.toml:2: node_tls.server_name: \"a b\" is neither a DNS name nor an IP address",
        ),
    ];
    for (text, line) in rows {
        check(text, &[line]);
    }
}

#[test]
fn nodes_are_checked_each_at_its_line() {
    let text = "[proxy]\nupstreams = [\n'http://a',\n'https://b..c',\n'http://c/x',\n'http://u:password@d',\n'http://a:80',\n]\n";
    let said = load(text, &[], &Flags::default()).expect_err("four are wrong");
    let lines = [
        "test.toml:4: proxy.upstreams: no certificate can stand for \"b..c\"; give a DNS name or an IP address",
        "test.toml:5: proxy.upstreams: a node's URL holds no path or query: requests keep their own; write http://host:port",
        "test.toml:6: proxy.upstreams: a node's URL holds no user or password: credentials pass through from the clients",
        "test.toml:7: proxy.upstreams: two nodes are named a:80; rows and metrics could not tell them apart",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), lines);
    let none = "proxy.upstreams: no GMS node is named; add --upstream http://gms:8080, or upstreams = [\"http://gms:8080\"] under [proxy]";
    assert_eq!(load("", &[], &Flags::default()).expect_err(none), none);
    let many: Vec<String> = (0..65).map(|n| format!("'http://gms-{n}'")).collect();
    let many = load(&format!("[proxy]\nupstreams = [{}]", many.join(", ")), &[], &Flags::default());
    assert_eq!(
        many.expect_err("too many"),
        "test.toml:2: proxy.upstreams: 65 nodes are named; at most 64 can be served"
    );
    assert_eq!(load("[proxy]\nupstreams = 1", &[], &Flags::default()).expect_err("one complaint").lines().count(), 1);
}

#[test]
fn all_problems_are_told_in_the_order_of_the_file() {
    let text = "[recording]\ncreate = 'always'\ncreat = 1\n[proxy]\nthreads = 9999\ndeny = ['x']\n[log]\nlevel = 'x'\n";
    let flags = Flags { admin: Some("x".into()), ..Flags::default() };
    let said = load(text, &[("GMS_RECORDER_Y", "")], &flags).expect_err("all of it");
    let starts = [
        "test.toml:2: recording.create: ",
        "test.toml:3: recording.creat: ",
        "test.toml:5: proxy.threads: ",
        "test.toml:6: proxy.deny: ",
        "test.toml:8: log.level: ",
        "GMS_RECORDER_Y: ",
        "--admin: ",
        "proxy.upstreams: ",
    ];
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), starts.len(), "{said}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line} does not start with {start}");
    }
}

#[test]
fn broken_files_are_told_by_line() {
    let rows: [(&str, &[usize]); 5] = [
        ("[proxy]\nlisten = \n", &[2]),
        ("[proxy]\nthreads = 1\nthreads = 2\n", &[3]),
        ("[proxy\n", &[1]),
        ("\n\u{0}", &[2, 2]),
        ("[proxy]\nlisten = \nthreads = \n[log\nformat = 'x'", &[2, 3, 4]),
    ];
    for (text, lines) in rows {
        let said = load(text, &[], &Flags::default()).expect_err(text);
        assert_eq!(said.lines().count(), lines.len(), "nothing else follows: {said}");
        for (said, line) in said.lines().zip(lines) {
            assert!(said.starts_with(&format!("test.toml:{line}: ")), "{text:?}: {said}");
        }
    }
    let missing = Config::load(Some(Path::new("no/such.toml")), std::iter::empty(), &Flags::default());
    let said = missing.expect_err("there is no such file").to_string();
    assert!(said.starts_with("no/such.toml: the configuration cannot be read: No such file"), "{said}");
    let endless = Config::load(Some(Path::new("/dev/zero")), std::iter::empty(), &Flags::default());
    assert!(endless.expect_err("it never ends").to_string().contains("larger than 1 MiB"));
}

#[test]
fn what_is_seldom_meant_is_warned_of() {
    let rows = [
        (
            "[recording]\ncommit_wait_max = '2800ms'",
            "recording.commit_wait_max (2800ms) is not below proxy.chat_timeout (2800ms)",
        ),
        ("[proxy]\nchat_timeout = '3s'", "proxy.chat_timeout (3s): chat widgets give up"),
        ("[proxy]\nconnect_timeout = '5s'", "proxy.connect_timeout (5s) is not below"),
        ("[proxy]\nnode_idle_timeout = '5m'", "proxy.node_idle_timeout (5m): nodes close"),
        ("[nodes]\nwait_max = '3s'", "nodes.wait_max (3s) is not below proxy.chat_timeout (2800ms)"),
        ("[recording]\ndeliver = 'immediately'", "recording.deliver is \"immediately\""),
        ("[recording]\nkeep_typing_text = true", "recording.keep_typing_text"),
    ];
    for (text, start) in rows {
        let (config, _) = load(text, &[("GMS_RECORDER_UPSTREAM", "http://gms")], &Flags::default()).expect(text);
        let warnings = config.warnings();
        assert!(warnings.len() == 1 && warnings[0].starts_with(start), "{text}: {warnings:?}");
    }
}

#[test]
fn the_control_socket_is_beside_the_archive_unless_told_otherwise() {
    for (text, path) in [
        ("", "transcripts.db-control"),
        ("[recording]\ndatabase = '/srv/a.db'", "/srv/a.db-control"),
        ("[recording]\ndatabase = '/srv/a.db'\n[admin]\ncontrol = '/run/gms/control'", "/run/gms/control"),
    ] {
        let (config, _) = load(text, &[("GMS_RECORDER_UPSTREAM", "http://gms")], &Flags::default()).expect(text);
        assert_eq!(config.control(), Path::new(path), "{text}");
    }
    let config = of_archive(None, std::iter::empty(), &Flags::default()).expect("the defaults");
    assert_eq!(config.control(), Path::new("transcripts.db-control"));
}

#[test]
fn readers_need_no_node() {
    let variables = || [("GMS_RECORDER_DATABASE".to_string(), "a.db".to_string())].into_iter();
    let config = of_archive(None, variables(), &Flags::default()).expect("an archive");
    assert_eq!(config.recording.database, Path::new("a.db"));
    assert_eq!((config.key_file(), config.spool()), ("a.db.key".into(), "a.db-spool".into()));
    let flags = Flags { database: Some("postgres://x".into()), ..Flags::default() };
    assert!(of_archive(None, variables(), &flags).is_err());
}
