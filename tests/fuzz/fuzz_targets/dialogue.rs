//! CometD over a WebSocket: nothing panics, every event has a key and is an object, and the session's key survives nowhere.
//!
//! Messages are separated by NUL: those of the client begin with `>`.
#![no_main]

use gms_recorder::chat::Secret;
use gms_recorder::gms::mask::Masks;
use gms_recorder::gms::{Dialogue, Observation, Policy};
use libfuzzer_sys::fuzz_target;

const KEY: &str = "e4071047872b7820630f";

fuzz_target!(|input: &[u8]| {
    let policy = Policy {
        decoded_bytes_max: 1 << 18,
        finding_bytes_max: 4_096,
        attributes: vec!["nickname".into(), "userData[*]".into()],
        keep_typing_text: false,
        masks: Masks::default(),
        digest_key: [7; 32],
    };
    let mut dialogue = Dialogue::new(Secret::new(KEY).into_iter().collect());
    for message in input.split(|byte| *byte == 0) {
        match message.strip_prefix(b">") {
            Some(said) => check(&dialogue.said(said, &policy)),
            None => check(&dialogue.told(message, &policy, &|_| Vec::new())),
        }
    }
});

fn check(seen: &Observation) {
    for event in seen.chats.iter().flat_map(|chat| &chat.events) {
        assert!(event.index.get() >= 1);
        assert!(event.raw.starts_with('{') && event.raw.ends_with('}'));
    }
    assert!(seen.errors.iter().all(|error| error.http_status.is_none()));
    assert!(!format!("{seen:?}").contains(KEY));
    for finding in &seen.findings {
        assert!(!finding.raw.windows(KEY.len()).any(|window| window == KEY.as_bytes()));
    }
}
