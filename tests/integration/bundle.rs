//! Bundles: this program and one in another language find them sound, with nothing but the public key, and find any byte that
//! was changed.

use std::path::{Path, PathBuf};
use std::process::Command;

use gms_recorder::archive::note::{Signer, Succession};
use gms_recorder::store::seal::{FORMS, Form};
use rusqlite::Connection;

use crate::evidence::{busy, fill};
use crate::export::{export, hostile, tree};
use crate::support::{Server, count, folder, free_address, run};

/// An archive whose last checkpoint covers all that is in it, and the file with its public key.
pub fn signed(folder: &Path, database: &Path) -> PathBuf {
    let mut server = Server::start_with_database(folder, database, &[free_address()], "");
    assert!(server.stop().success());
    let connection = Connection::open(database).expect("an archive");
    let vkey: String = connection.query_row("SELECT vkey FROM keys", (), |row| row.get(0)).expect("a key");
    let key = folder.join("vkey");
    std::fs::write(&key, vkey).expect("the folder is ours");
    key
}

/// The script knows nothing of this program.
fn bundle_py(bundle: &Path, key: &Path) -> (bool, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/bundle.py");
    let output = Command::new("/usr/bin/python3").arg(script).arg(bundle).arg(key).output();
    let output = output.expect("tests/run installs python3");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

fn verify(bundle: &Path, key: &Path) -> (i32, String, String) {
    run(&["verify", "--bundle", &bundle.display().to_string(), "--key", &key.display().to_string()])
}

#[track_caller]
fn sound(bundle: &Path, key: &Path) -> String {
    let (is_proved, told) = bundle_py(bundle, key);
    assert!(is_proved, "{told}");
    let (code, said, error) = verify(bundle, key);
    assert_eq!(code, 0, "{said}{error}");
    assert!(said.starts_with("its rows are what was recorded and signed\n"), "{said}");
    told + &said
}

#[track_caller]
fn unsound(bundle: &Path, key: &Path, what: &str) {
    let (is_proved, told) = bundle_py(bundle, key);
    assert!(!is_proved && told.contains("NOT PROVED"), "{what}: {told}");
    let (code, said, error) = verify(bundle, key);
    assert!(code == 1, "{what}: {said}{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_convinces_a_program_in_another_language_and_no_byte_of_it_may_change() {
    let folder = folder();
    let database = busy(folder.path()).await;
    let key = signed(folder.path(), &database);
    let bundle = folder.path().join("bundle");
    for format in ["html", "eml", "csv", "actiance", "jsonl"] {
        let _ = std::fs::remove_dir_all(&bundle);
        export(&database, &bundle, &["--bundle", "--format", format, "--errors"]);
        sound(&bundle, &key);
    }
    let again = folder.path().join("again");
    export(&database, &again, &["--bundle", "--format", "jsonl", "--errors"]);
    assert!(tree(&bundle) == tree(&again), "the same archive gives other bytes");
    let removals = std::fs::read_to_string(bundle.join("data/coverage/removals.csv")).expect("there");
    assert!(removals.lines().count() > 1, "a chat was erased: {removals}");

    for (name, content) in tree(&bundle) {
        let path = bundle.join(&name);
        for at in places(&content) {
            let mut changed = content.clone();
            match changed.get_mut(at) {
                Some(byte) => *byte ^= 1,
                None => changed.push(b'\n'),
            }
            std::fs::write(&path, changed).expect("ours");
            unsound(&bundle, &key, &format!("{}, byte {at}", name.display()));
        }
        std::fs::remove_file(&path).expect("ours");
        unsound(&bundle, &key, &format!("{} is gone", name.display()));
        std::fs::write(&path, content).expect("ours");
    }
    std::fs::write(bundle.join("data/more"), "").expect("ours");
    unsound(&bundle, &key, "a file too many");
    std::fs::remove_file(bundle.join("data/more")).expect("ours");
    sound(&bundle, &key);
    let (code, _, error) = verify(folder.path(), &key);
    assert!(code == 1 && error.contains("is no bundle"), "{error}");
}

/// One byte in the beginning, one in the middle, one at the end, one too many.
fn places(content: &[u8]) -> Vec<usize> {
    let mut places = vec![0, content.len() / 2, content.len().saturating_sub(1), content.len()];
    places.dedup();
    places
}

/// Whoever changes a row can make the manifests anew; the signature they cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_manifests_do_not_hide_a_changed_row() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    hostile(&database).await;
    let key = signed(folder.path(), &database);
    let bundle = folder.path().join("bundle");
    export(&database, &bundle, &["--bundle"]);
    assert!(sound(&bundle, &key).contains("; 0 newer rows are not proved"));

    let rows = std::fs::read_to_string(bundle.join("data/rows.jsonl")).expect("there");
    let about = std::fs::read_to_string(bundle.join("data/export/export.json")).expect("there");
    let one_less = rows.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>();
    let twice = format!("{}\n{rows}", rows.lines().next().expect("a row"));
    let exchanged = |one: &str, other: &str| {
        let (one, other) = (format!("[\"{one}\","), format!("[\"{other}\","));
        rows.replace(&one, "[\"\",").replace(&other, &one).replace("[\"\",", &other)
    };
    let misnamed = rows.replacen("[\"text\",", "[\"Text\",", 1);
    let changes = [
        ("data/rows.jsonl", exchanged("nickname", "text")),
        ("data/rows.jsonl", exchanged("message_type", "user_data")),
        ("data/rows.jsonl", misnamed.clone()),
        ("data/rows.jsonl", rows.replacen("\"event_index\",\"I\",7", "\"event_index\",\"I\",8", 1)),
        ("data/rows.jsonl", rows.replacen("\"leaf\":5,", "\"leaf\":500,", 1)),
        ("data/rows.jsonl", one_less),
        ("data/rows.jsonl", twice),
        ("data/export/export.json", about.replace("\"events\": 210", "\"events\": 209")),
        ("data/nodes.bin", String::new()),
        ("data/nodes.bin", "x".repeat(3_200)),
    ];
    for (name, content) in changes {
        let path = bundle.join(name);
        let before = std::fs::read(&path).expect("there");
        assert_ne!(before, content.as_bytes(), "{name}: nothing was changed");
        std::fs::write(&path, content).expect("ours");
        bag_anew(&bundle);
        unsound(&bundle, &key, name);
        std::fs::write(&path, before).expect("ours");
    }
    std::fs::write(bundle.join("data/rows.jsonl"), misnamed).expect("ours");
    bag_anew(&bundle);
    let said = verify(&bundle, &key).1;
    let one_less = format!("  proved    {} rows\n", rows.lines().count() - 1);
    assert!(said.contains(": its columns are not named as those of its table") && said.contains(&one_less), "{said}");
    // Which rows were sealed later no hash of the bundle tells, and nobody says that it is proved.
    let later = rows.replacen("\"sealed_later_at\":null", "\"sealed_later_at\":1795439368001", 1);
    for (content, said) in [(&later, 1), (&rows, 0)] {
        std::fs::write(bundle.join("data/rows.jsonl"), content).expect("ours");
        bag_anew(&bundle);
        let told = sound(&bundle, &key);
        assert!(told.contains(&format!("not proved, only said: {said} rows were sealed later")), "{told}");
        assert!(told.contains(&format!("only said {said} row")) && told.contains("nothing proves how many"), "{told}");
    }

    let other = crate::support::folder();
    let another = other.path().join("transcripts.db");
    fill(&another, 30).await;
    unsound(&bundle, &signed(other.path(), &another), "the key of another archive");
}

/// Both say that nothing is proved by this key, and accuse nobody.
#[track_caller]
fn unproved(bundle: &Path, key: &Path) {
    let (is_proved, told) = bundle_py(bundle, key);
    let what = "it is signed by another key than those given, and by none that follows one of them";
    assert!(!is_proved && told.contains("NOT PROVED") && told.contains(what), "{told}");
    let (code, said, error) = verify(bundle, key);
    assert!(code == 1 && error.contains("the bundle is not proved by the keys given"), "{code} {said}{error}");
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.starts_with("NOT PROVED\n") && words.contains(what), "{said}");
}

/// Whoever was given the first key believes those that came after, by the word of each before it; and a file may have them all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_key_proves_what_later_ones_have_signed() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    hostile(&database).await;
    let first = signed(folder.path(), &database);
    let (before, bundle) = (folder.path().join("before"), folder.path().join("bundle"));
    export(&database, &before, &["--bundle"]);
    let key = |action: &str| {
        let (code, keys, error) = run(&["key", action, "--database", &database.display().to_string()]);
        assert_eq!(code, 0, "{error}");
        keys
    };
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path
    };
    key("rotate");
    key("rotate");
    let first = file("first", &std::fs::read_to_string(first).expect("there"));
    signed(folder.path(), &database);
    export(&database, &bundle, &["--bundle"]);
    let listed = key("list");
    let all = file("all", &listed);
    let [_, second, last] = listed.lines().collect::<Vec<_>>()[..] else { panic!("three keys: {listed}") };
    let (second, last) = (file("second", second), file("last", last));
    for key in [&first, &all, &second, &last] {
        sound(&bundle, key);
    }
    sound(&before, &first);
    sound(&before, &all);
    unproved(&before, &last);
    let name = listed.split('+').next().expect("a name");
    let stranger = Signer::of(name, &[7; 32]).expect("a key");
    unproved(&bundle, &file("stranger", &stranger.public().vkey()));
    let (is_proved, told) = bundle_py(&bundle, &file("none", "no key"));
    assert!(!is_proved && told.contains("no public key of signed notes: no key"), "{told}");

    // Without what leads from the first key to the last, as of an earlier release, the one that has signed it proves it.
    let path = bundle.join("data/successions.json");
    let statements = std::fs::read_to_string(&path).expect("there");
    let list: Vec<String> = serde_json::from_str(&statements).expect("a list");
    let archive_id = name.split('/').nth(1).expect("an archive").to_owned();
    let next = listed.lines().last().expect("a key").to_owned();
    let of_stranger = Succession { archive_id, next, at: 1 }.signed(&stranger, &stranger);
    let changes = [
        statements.replace("next key ", "next  key "),
        serde_json::json!([list[0]]).to_string(),
        serde_json::json!([list[1]]).to_string(),
        serde_json::json!([list[0], of_stranger]).to_string(),
        "[]".to_owned(),
    ];
    for changed in changes {
        std::fs::write(&path, changed).expect("ours");
        bag_anew(&bundle);
        unproved(&bundle, &first);
        sound(&bundle, &last);
    }
    std::fs::write(&path, "no list").expect("ours");
    bag_anew(&bundle);
    unsound(&bundle, &last, "no list");
    std::fs::remove_file(&path).expect("ours");
    bag_anew(&bundle);
    unproved(&bundle, &first);
    sound(&bundle, &last);
}

/// Only values are hashed: which name belongs to which of them the script has to know, and who writes one by the README.txt.
#[test]
fn the_script_and_the_words_know_the_columns() {
    let script: String = include_str!("bundle.py").split("\"\n        \"").collect();
    let words = include_str!("../../src/archive/bundle/README.txt").split_whitespace().collect::<Vec<_>>().join(" ");
    // Of the whole archive, and of acts that erase nothing.
    let in_no_bundle = [
        "runs",
        "archive",
        "spools",
        "keys",
        "merges",
        "stagings",
        "deliveries",
        "accounts",
        "holds",
        "waiting_erasures",
    ];
    let is_meant = |form: &&Form| form.whole().is_none() && !in_no_bundle.contains(&form.table);
    for Form { table, columns, .. } in FORMS.iter().filter(is_meant) {
        assert!(script.contains(&format!("\"{table}\": \"{}\",", columns.join(","))), "{table}");
        assert!(words.contains(&format!("{table} {}", columns.join(", "))), "{table}");
    }
}

fn bag_anew(bundle: &Path) {
    let script = "cd \"$1\" && find data -type f | xargs -d '\\n' sha256sum > manifest-sha256.txt &&
                  sha256sum manifest-sha256.txt bagit.txt bag-info.txt README.txt > tagmanifest-sha256.txt";
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(bundle).status();
    assert!(status.is_ok_and(|status| status.success()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_newer_than_the_checkpoint_is_said_to_be_unproved() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    let bundle = folder.path().join("bundle");
    fill(&database, 300).await;
    let arguments =
        ["export", &bundle.display().to_string(), "--bundle", "--database", &database.display().to_string()];
    let (code, _, error) = run(&arguments);
    assert!(code == 1 && error.contains("nothing is signed yet"), "{error}");
    let key = signed(folder.path(), &database);
    hostile(&database).await;
    let dest = bundle.display().to_string();
    let (code, _, error) = run(&["export", &dest, "--bundle", "--service", "support", "--database", arguments[4]]);
    assert!(code == 1 && error.contains("none of these rows is signed yet") && !bundle.exists(), "{error}");
    export(&database, &bundle, &["--bundle"]);
    let said = sound(&bundle, &key);
    assert!(said.contains("newer than the checkpoint: nothing vouches for them"), "{said}");
}

/// Ten thousand chats in full, fewer in CI.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_of_many_chats_is_verified() {
    let folder = folder();
    let database = folder.path().join("transcripts.db");
    let chats = count("TEST_BUNDLE_CHATS", 500);
    fill(&database, 30 * chats as u64).await;
    let key = signed(folder.path(), &database);
    let bundle = folder.path().join("bundle");
    let began = std::time::Instant::now();
    export(&database, &bundle, &["--bundle", "--format", "eml"]);
    let made = began.elapsed();
    let said = sound(&bundle, &key);
    eprintln!("{chats} chats in {made:?}, checked twice in {:?}", began.elapsed() - made);
    assert!(said.contains(&format!(" rows of {chats} chats are among the")), "{said}");
    let mails = bundle.join("data/export/0000");
    let one = tree(&mails).swap_remove(chats.min(1_000) / 2).0;
    let mut content = std::fs::read(mails.join(&one)).expect("there");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(mails.join(&one), content).expect("ours");
    unsound(&bundle, &key, "a mail in the midst");
}

/// What came of a chat after its erasure, and is not signed yet, is in a bundle once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_that_went_on_after_its_erasure_is_in_it_once() {
    let folder = folder();
    let database = folder.path().join("a.db");
    fill(&database, 90).await;
    let key = signed(folder.path(), &database);
    let chat = "chat000000000001";
    let line = ["erase", "--chat", chat, "--reason", "asked", "--database", &database.display().to_string()]
        .map(str::to_owned);
    assert_eq!(run(&line.each_ref().map(String::as_str)).0, 0);
    crate::deliveries::append(&database, &[crate::deliveries::event(1, 41, "after")]).await;
    let bundle = folder.path().join("bundle");
    export(&database, &bundle, &["--bundle", "--format", "jsonl", "--chat", chat]);
    sound(&bundle, &key);
    let unproved = std::fs::read_to_string(bundle.join("data/unproved.jsonl")).expect("there");
    assert_eq!(unproved.lines().filter(|line| line.contains("after")).count(), 1, "{unproved}");
}
