//! Erasing, purging, holding: what is removed is gone to the last byte, what is held stays, and the evidence stands.

use std::path::{Path, PathBuf};

use gms_recorder::store::Store;
use gms_recorder::store::custody::{Act, Actor, Cleaned, Custody, Customer, How, Kind, Outcome, Scope, Target};

use crate::evidence::{a_run, entries, fill, options, sealed};
use crate::support::folder;

pub fn actor() -> Actor {
    Actor { who: "officer".into(), via: None, host: "here".into(), case_ref: Some("C-7".into()) }
}

fn act<'a>(kind: Kind, actor: &'a Actor) -> Act<'a> {
    Act {
        kind,
        at: 1_795_600_000_000,
        actor,
        asked: serde_json::json!({"command": kind.as_str()}),
        reason: Some("asked for"),
    }
}

/// Erases chats, and cleans.
fn erase(database: &Path, chats: &[&str]) -> Vec<Outcome> {
    let custody = Custody::open(database).expect("an archive");
    let actor = actor();
    let act_id = custody.begin(&act(Kind::Erase, &actor)).expect("noted");
    let targets: Vec<Target> = chats.iter().map(|chat| Target::of(*chat)).collect();
    let mut outcomes = Vec::new();
    custody
        .remove(act_id, How::Erased, &targets, || 1_795_600_000_001, &mut |_, outcome| outcomes.push(outcome))
        .expect("removed");
    custody.end(act_id, 1_795_600_000_002, outcomes.len() as i64).expect("noted");
    assert_eq!(custody.clean(&mut |_, _| {}).expect("cleaned"), Cleaned::All);
    outcomes
}

/// Each kind of act: a hold that is released and one that is not, a chat that waits because of it, and one that is erased.
pub fn acts(database: &Path, held: &str, erased: &str) {
    let custody = Custody::open(database).expect("an archive");
    let actor = actor();
    let released = custody.hold(&act(Kind::Hold, &actor), &Scope::Chat("x".into())).expect("held");
    assert!(custody.release(&act(Kind::Unhold, &actor), released).expect("released"));
    assert!(!custody.release(&act(Kind::Unhold, &actor), released).expect("nothing to release"));
    let customer = Customer::parse("email=ANNA@example.com").expect("a customer");
    let by = custody.hold(&act(Kind::Hold, &actor), &Scope::Customer(customer)).expect("held");
    let outcomes = erase(database, &[held, erased]);
    assert!(matches!(outcomes[..], [Outcome::Held(held_by), Outcome::Removed { .. }] if held_by == by), "{outcomes:?}");
    let erasing = custody.begin(&act(Kind::Erase, &actor)).expect("noted");
    custody.let_wait(erasing, 1_795_600_000_003, &[(held.into(), by)]).expect("noted");
    custody.end(erasing, 1_795_600_000_003, 0).expect("noted");
    assert_eq!(custody.waiting().expect("read").len(), 1);
}

/// Every file of the database.
fn files(database: &Path) -> Vec<PathBuf> {
    let name = database.file_name().expect("a file").to_string_lossy().into_owned();
    let folder = database.parent().expect("in a folder").read_dir().expect("it is there");
    let of_it = folder.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()); // no socket
    of_it.filter(|path| path.file_name().is_some_and(|found| found.to_string_lossy().starts_with(&name))).collect()
}

/// No byte of it, in any file.
#[track_caller]
pub fn gone(database: &Path, texts: &[String]) {
    for file in files(database) {
        let bytes = std::fs::read(&file).expect("it is ours");
        for text in texts {
            assert!(memchr::memmem::find(&bytes, text.as_bytes()).is_none(), "{text:?} is in {}", file.display());
        }
    }
}

#[tokio::test]
async fn what_is_erased_is_gone_and_the_rest_is_as_it_was_sealed() {
    let folder = folder();
    let database = folder.path().join("a.db");
    fill(&database, 3_000).await;
    let before = sealed(&database).found.leaves;
    let chats = ["chat000000000003", "chat000000000050"];
    assert_eq!(erase(&database, &chats), [Outcome::Removed { events: 30, rows: 32 }; 2]);
    let after = sealed(&database).found;
    assert_eq!((after.removals, after.is_unclean), ((2, 1), false));
    assert!(after.leaves > before && after.erased > 64, "{after:?}");
    let texts: Vec<String> =
        ["3", "50"].iter().flat_map(|chat| (0..30).map(move |n| format!("message {n} of chat {chat}:"))).collect();
    gone(&database, &texts);
    assert_eq!(erase(&database, &chats), [Outcome::Nothing; 2]);
    sealed(&database);

    let mut store = Store::open(&options(&database), &a_run()).await.expect("an archive");
    let again = store.append(&entries(90, 30), &[], true).expect("stored");
    let sum = again.tallies.iter().fold(gms_recorder::store::Tally::default(), |sum, one| sum.plus(*one));
    assert_eq!((sum.suppressed, sum.new, sum.duplicate), (30, 0, 0));
    store.finish(1_795_500_000_000, "{}").expect("noted");
    store.close().expect("closed");
    sealed(&database);
    gone(&database, &texts);
}
