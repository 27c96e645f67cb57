use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::store::seal::merkle::HASH_BYTES;

const LONG: Duration = Duration::from_secs(3_600);

fn signed(note: &str) -> Arc<Signed> {
    let checkpoint =
        Checkpoint { archive_id: "15cd".into(), size: 7, root: [7; HASH_BYTES], number: 1, at: 1_795_439_368_001 };
    Arc::new(Signed { checkpoint, note: note.into() })
}

fn file(path: PathBuf, interval: Duration) -> (Anchor, Receiver<News>) {
    let (said, news) = channel();
    let config = Config::File(config::File { path, interval });
    let anchor = Anchor::start("a".into(), config, move |one| drop(said.send(one))).expect("a thread");
    (anchor, news)
}

fn close(anchor: Anchor) -> Vec<(String, usize)> {
    Anchor::close(vec![anchor], Duration::from_secs(30))
}

#[test]
fn notes_are_appended_in_order_and_what_was_torn_stays_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("anchor");
    std::fs::write(&path, "torn").expect("the folder is ours");
    let (anchor, news) = file(path.clone(), Duration::ZERO);
    anchor.offer(signed("a\n"));
    assert_eq!(news.recv(), Ok(News::Took(1)));
    anchor.offer(signed("b\n"));
    assert_eq!(close(anchor), []);
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "torn\na\n\nb\n\n");
}

#[test]
fn an_anchor_that_is_down_holds_nothing_up_and_gets_all_of_it_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("missing/anchor");
    let (anchor, news) = file(path.clone(), Duration::ZERO);
    anchor.offer(signed("a\n"));
    assert!(matches!(news.recv(), Ok(News::Refused(why)) if why.contains("missing/anchor")));
    for n in 0..2 * WAITING_MAX {
        anchor.offer(signed(&format!("{n}\n")));
    }
    std::fs::create_dir(folder.path().join("missing")).expect("the folder is ours");
    while !matches!(news.recv(), Ok(News::Took(_))) {}
    assert_eq!(close(anchor), []);
    let text = std::fs::read_to_string(&path).expect("it is there");
    let last = format!("{}\n\n", 2 * WAITING_MAX - 1);
    assert!(text.ends_with(&last) && text.lines().count() <= 2 * WAITING_MAX, "the oldest went");
}

#[test]
fn at_the_stop_one_more_attempt_is_made_and_what_is_left_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let (anchor, _) = file(folder.path().join("missing/anchor"), Duration::ZERO);
    anchor.offer(signed("a\n"));
    assert_eq!(close(anchor), [("a".to_owned(), 1)]);
}

#[test]
fn an_interval_lets_the_first_one_through_and_the_last_one_at_the_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("anchor");
    let (anchor, news) = file(path.clone(), LONG);
    anchor.offer(signed("first\n"));
    assert_eq!(news.recv(), Ok(News::Took(1)));
    ["second\n", "third\n", "last\n"].into_iter().for_each(|note| anchor.offer(signed(note)));
    assert!(news.recv_timeout(Duration::from_millis(300)).is_err(), "it would take them within one");
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "first\n\n");
    assert_eq!(close(anchor), []);
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "first\n\nlast\n\n");
}

#[test]
fn a_look_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let look = |path: PathBuf| look(&Config::File(config::File { path, interval: Duration::ZERO }));
    assert_eq!(look(folder.path().join("anchor")), Ok("would be made".into()));
    assert_eq!(std::fs::read_dir(folder.path()).expect("it is ours").count(), 0);
    assert!(look(folder.path().join("missing/anchor")).expect_err("no folder").contains("missing"));
    assert!(look(folder.path().into()).is_err());
    std::fs::write(folder.path().join("anchor"), "").expect("the folder is ours");
    assert_eq!(look(folder.path().join("anchor")), Ok("can be appended to".into()));
}

#[test]
fn files_and_objects_are_named_in_the_order_of_the_leaves() {
    assert_eq!(signed("a").stem(), "00000000000000000007-20261123T130928.001Z");
}

#[test]
fn an_address_has_no_secrets_in_it() {
    for url in ["https://audit.example.com/checkpoints", "http://127.0.0.1:9000", "https://[::1]/"] {
        assert!(config::endpoint(url).is_ok(), "{url}");
    }
    for url in ["", "audit.example.com", "ftp://a", "https://", "https://u:SECRET@a/", "https://a/?key=SECRET"] {
        let said = config::endpoint(url).expect_err(url);
        assert!(!said.contains("SECRET"), "{said}");
    }
}
