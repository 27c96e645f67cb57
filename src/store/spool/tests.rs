use std::sync::Arc;

use super::*;
use crate::chat::{ChatId, Covered, EventIndex, Masking, Party, TranscriptEvent};
use crate::gms::files::{Direction, Outcome};
use crate::gms::{
    ApiError, Attribute, AttributeSource, Ended, ErrorClass, ErrorFormat, Finding, FindingKind, Origin as Whose,
};
use crate::store::{ChatRecord, ErrorRecord, ExchangeFacts, FileTransfer};

const PLENTY: u64 = 1 << 20;

fn open(folder: &tempfile::TempDir, bytes_max: u64) -> (Spool, Vec<u8>) {
    Spool::open(&folder.path().join("spool"), 0o640, bytes_max, true).expect("it can be made").expect("it was made")
}

fn masked(field: &str) -> Vec<Masking> {
    vec![Masking { rule: "cards".into(), field: field.into(), at: 3, characters: 19 }]
}

/// An entry that says everything an entry can say.
pub(crate) fn full(index: i64) -> Entry {
    let chat_id = ChatId::parse("00001aCY6K8U003T").expect("valid");
    let event = TranscriptEvent {
        index: EventIndex::new(index).expect("valid"),
        kind: Some("Message".into()),
        utc_time: Some(1_493_000_000_000),
        from: Party {
            participant_id: Some(7), nickname: Some("Änne \"☃\"".into()), party_type: Some("Client".into())
        },
        text: Some("a\n\u{fffd}b".into()),
        message_type: Some("text".into()),
        user_data: Some("{\"a\":1}".into()),
        event_attributes: Some("{}".into()),
        raw: format!("{{\"index\":{index},\"text\":\"a\"}}"),
        maskings: masked("/text"),
    };
    let attribute = Attribute {
        name: "nickname".into(),
        value: "Anna".into(),
        source: AttributeSource::Request,
        maskings: masked("value"),
    };
    let record = ChatRecord {
        service: Some("customer-support".into()),
        events: vec![event],
        covered: Covered::new(1, index + 1),
        next_position: Some(index + 1),
        ended: Some(Ended::WithError),
        is_async: true,
        attributes: vec![attribute],
        ..ChatRecord::of(chat_id.clone())
    };
    let error = ApiError {
        origin: Whose::ChatServer,
        format: ErrorFormat::ValidationError,
        http_status: Some(400),
        status_code: Some(2),
        code: Some(249),
        class: ErrorClass::MediaServer,
        meaning: Some("a meaning".into()),
        field: Some("nickname".into()),
        detail: Some("a detail".into()),
        advice: Some("{}".into()),
        reference_id: Some("10016629".into()),
        service: Some("customer-support".into()),
        operation: Some("send".into()),
        chat_id: Some(chat_id.clone()),
        alias: Some("117".into()),
        maskings: masked("/advice"),
    };
    let exchange = ExchangeFacts {
        method: "POST".into(),
        path: "/genesys/2/chat".into(),
        node: Some("gms-1".into()),
        client: "10.0.0.7".into(),
        request_id: Some("r-1".into()),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        duration_ms: 12,
        maskings: masked("path"),
    };
    let finding = Finding {
        kind: FindingKind::NotJson,
        chat_id: Some(chat_id.clone()),
        detail: "no JSON".into(),
        raw: vec![0, 255, b'x'],
        raw_length: 9,
        events: 2,
        maskings: masked(""),
    };
    Entry {
        at: 1_700_000_000_000 + index,
        node: Some(Arc::from("gms-1")),
        chats: vec![record],
        errors: vec![ErrorRecord { error, exchange: Arc::new(exchange) }],
        findings: vec![finding],
        files: vec![FileTransfer {
            chat_id: Some(chat_id),
            file_id: Some("f1".into()),
            direction: Direction::Up,
            bytes: 3,
            sha256: "ab".repeat(32),
            outcome: Outcome::Refused,
        }],
    }
}

fn append(spool: &mut Spool, indices: std::ops::RangeInclusive<i64>) {
    let payloads: Vec<_> = indices.map(|index| Payload::Entry(Cow::Owned(full(index)))).collect();
    spool.append(&payloads).expect("there is room");
}

/// The indices of the events that come back, and 0 for what is damaged.
fn indices(spool: &Spool) -> Vec<i64> {
    let pieces = spool.read(u64::MAX).expect("readable");
    let index = |piece: &Piece| match &piece.content {
        Content::Whole(Payload::Entry(entry)) => entry.chats[0].events[0].index.get(),
        Content::Whole(Payload::Began(_)) => -1,
        Content::Damaged(..) => 0,
    };
    pieces.iter().map(index).collect()
}

#[test]
fn what_is_read_back_is_what_was_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = open(&folder, PLENTY);
    let began = Began { at: 5, reason: "locked".into(), detail: "database is locked".into() };
    spool.append(&[Payload::Began(began.clone()), Payload::Entry(Cow::Owned(full(1)))]).expect("there is room");
    append(&mut spool, 2..=3);
    assert_eq!(spool.backlog(), Backlog { records: 4, events: 9, oldest_at: Some(5) });
    drop(spool);

    let (spool, torn) = open(&folder, PLENTY);
    assert!(torn.is_empty());
    assert_eq!(spool.backlog(), Backlog { records: 4, events: 9, oldest_at: Some(5) });
    let pieces = spool.read(u64::MAX).expect("readable");
    let said: Vec<String> = pieces.iter().map(|piece| format!("{:?}", piece.content)).collect();
    let wanted = [Payload::Began(began), Payload::Entry(Cow::Owned(full(1))), Payload::Entry(Cow::Owned(full(2)))];
    for (n, payload) in wanted.into_iter().enumerate() {
        assert_eq!(said[n], format!("{:?}", Content::Whole(payload)));
    }
    assert_eq!(pieces.iter().map(|piece| piece.events).sum::<u64>(), 9);
}

/// A crash may have torn the last write at any byte.
#[test]
fn a_torn_end_is_cut_off_and_the_rest_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = open(&folder, PLENTY);
    append(&mut spool, 1..=2);
    let whole = spool.end();
    append(&mut spool, 3..=3);
    let end = spool.end();
    drop(spool);
    let path = folder.path().join("spool");
    let bytes = std::fs::read(&path).expect("it is ours");
    for length in (whole..end).step_by(37).chain([end - 1]) {
        std::fs::write(&path, &bytes[..length as usize]).expect("it is ours");
        let (mut spool, torn) = open(&folder, PLENTY);
        assert_eq!((spool.end(), torn.len() as u64), (whole, length - whole), "cut at {length}");
        assert_eq!(indices(&spool), [1, 2], "cut at {length}");
        append(&mut spool, 4..=4);
        assert_eq!(indices(&spool), [1, 2, 4], "cut at {length}");
    }
    // Pages may come to the disk in any order: the length is there, the bytes are not.
    let mut zeroed = bytes.clone();
    zeroed[whole as usize + 10..].fill(0);
    std::fs::write(&path, zeroed).expect("it is ours");
    let (spool, torn) = open(&folder, PLENTY);
    assert_eq!((indices(&spool), torn.len() as u64), (vec![1, 2], end - whole));
}

#[test]
fn a_damaged_stretch_costs_what_is_in_it_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = open(&folder, PLENTY);
    append(&mut spool, 1..=1);
    let first = spool.end() as usize;
    append(&mut spool, 2..=2);
    let second = spool.end() as usize;
    append(&mut spool, 3..=3);
    drop(spool);
    let path = folder.path().join("spool");
    let bytes = std::fs::read(&path).expect("it is ours");
    for at in (first..second).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, damaged).expect("it is ours");
        let (spool, torn) = open(&folder, PLENTY);
        assert!(torn.is_empty());
        assert_eq!(indices(&spool), [1, 0, 3], "damaged at {at}");
        assert_eq!(spool.backlog().events, 6, "what cannot be read was not counted");
    }
}

#[test]
fn it_is_emptied_once_all_is_drained_and_nothing_of_it_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = open(&folder, PLENTY);
    append(&mut spool, 1..=5);
    let (before, old) = (spool.id(), std::fs::read(folder.path().join("spool")).expect("it is ours"));
    let first = spool.read(3).expect("readable");
    assert!(first.len() < 5);
    assert_eq!(spool.drained(&first), None);
    let drained_to = first.last().expect("some").end;
    assert!(spool.backlog().oldest_at > Some(1_700_000_000_001));
    drop(spool);

    // The same process again, told by the archive how far it was.
    let (mut spool, _) = open(&folder, PLENTY);
    spool.skip_to(drained_to + 1).expect("readable");
    assert_eq!(spool.backlog().records, 5, "no record begins there: all of it again");
    spool.skip_to(drained_to).expect("readable");
    assert_eq!(spool.backlog().records, 5 - first.len() as u64);
    let rest = spool.read(u64::MAX).expect("readable");
    assert_eq!(spool.drained(&rest), Some(0));
    assert!(spool.is_empty());
    assert_ne!(spool.id(), before, "another filling");
    assert_eq!(std::fs::metadata(folder.path().join("spool")).expect("it stays").len(), HEAD_BYTES);

    append(&mut spool, 9..=9);
    let end = spool.end() as usize;
    drop(spool);
    // Blocks of the file may still hold what was there before.
    let mut bytes = std::fs::read(folder.path().join("spool")).expect("it is ours");
    bytes.extend_from_slice(&old[end..]);
    std::fs::write(folder.path().join("spool"), bytes).expect("it is ours");
    let (spool, torn) = open(&folder, PLENTY);
    assert_eq!((indices(&spool), torn.len()), (vec![9], old.len() - end));
}

#[test]
fn at_its_bound_and_without_its_file_it_takes_nothing_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = open(&folder, 4_000);
    append(&mut spool, 1..=1);
    let many: Vec<_> = (2..20).map(|index| Payload::Entry(Cow::Owned(full(index)))).collect();
    assert_eq!(spool.append(&many).expect_err("no room").kind, ErrorKind::Full);
    append(&mut spool, 2..=2);
    assert_eq!(indices(&spool), [1, 2], "all or nothing");

    std::fs::remove_file(folder.path().join("spool")).expect("it is ours");
    assert_eq!(spool.append(&many[..1]).expect_err("gone").kind, ErrorKind::Replaced);
    let pieces = spool.read(u64::MAX).expect("it is open");
    assert_eq!(pieces.len(), 2, "what was in it is still to be had");
    assert_eq!(spool.drained(&pieces), Some(0));
    append(&mut spool, 3..=3);
    assert_eq!(indices(&spool), [3], "made anew");
    assert!(folder.path().join("spool").exists());
}

#[test]
fn what_is_no_spool_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("spool");
    assert!(Spool::open(&path, 0o600, PLENTY, false).expect("no trouble").is_none(), "none is made");
    let (spool, _) = open(&folder, PLENTY);
    assert_eq!(Spool::open(&path, 0o600, PLENTY, false).expect_err("taken").kind, ErrorKind::Busy);
    drop(spool);
    let sound = std::fs::read(&path).expect("it is ours");
    let with = |at: usize, byte: u8| {
        let mut bytes = sound.clone();
        bytes[at] = byte;
        bytes.extend_from_slice(&[1; 100]);
        bytes
    };
    let rows = [
        (b"a letter to a friend, of some length".to_vec(), ErrorKind::NotAnArchive, "move it away"),
        (with(7, 2), ErrorKind::NotAnArchive, "newer release"),
        (with(9, !sound[9]), ErrorKind::Corrupt, "keep the file"),
    ];
    for (bytes, kind, words) in rows {
        std::fs::write(&path, &bytes).expect("it is ours");
        let error = Spool::open(&path, 0o600, PLENTY, true).expect_err(words);
        assert_eq!(error.kind, kind);
        assert!(error.message.contains(words), "{error}");
        assert_eq!(std::fs::read(&path).expect("it is ours"), bytes, "untouched");
    }
}

/// Files of every format that was ever written are read.
#[test]
fn spools_of_past_releases_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/spool_1");
    std::fs::copy(fixture, folder.path().join("spool")).expect("a fixture");
    let (spool, torn) = open(&folder, PLENTY);
    assert!(torn.is_empty());
    let pieces = spool.read(u64::MAX).expect("readable");
    let mut entry = full(1);
    // Its records knew neither traces nor maskings nor files yet.
    entry.files.clear();
    for record in &mut entry.errors {
        record.error.maskings.clear();
        let exchange = Arc::make_mut(&mut record.exchange);
        (exchange.trace_id, exchange.maskings) = (None, Vec::new());
    }
    entry.findings.iter_mut().for_each(|finding| finding.maskings.clear());
    for chat in &mut entry.chats {
        chat.events.iter_mut().for_each(|event| event.maskings.clear());
        chat.attributes.iter_mut().for_each(|attribute| attribute.maskings.clear());
    }
    let wanted = [
        Payload::Began(Began { at: 5, reason: "locked".into(), detail: "database is locked".into() }),
        Payload::Entry(Cow::Owned(entry)),
    ];
    assert_eq!(pieces.len(), wanted.len());
    for (piece, payload) in pieces.iter().zip(wanted) {
        assert_eq!(format!("{:?}", piece.content), format!("{:?}", Content::Whole(payload)));
    }
}
