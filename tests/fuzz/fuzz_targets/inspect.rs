//! Whole exchanges: nothing panics, every event has a key and is an object, and the session's key survives nowhere.
//!
//! The first three bytes choose route, status and encoding; the rest is the request body, a NUL, and the answer.
#![no_main]

use gms_recorder::chat::Secret;
use gms_recorder::gms::mask::Masks;
use gms_recorder::gms::{Exchange, Observation, Policy, Route, inspect};
use libfuzzer_sys::fuzz_target;

const KEY: &str = "e4071047872b7820630f";
const PATHS: [&str; 8] = [
    "/genesys/2/chat/support",
    "/genesys/2/chat/support/00001aCY6K8U003T/refresh",
    "/genesys/2/chat/support/00001aCY6K8U003T/file/f1/download",
    "/genesys/2/chat-ntf",
    "/genesys/cometd",
    "/genesys/2/email/support",
    "/genesys/2/openmedia/support",
    "/genesys/elsewhere",
];
const STATUSES: [u16; 6] = [200, 200, 200, 400, 404, 500];
const ENCODINGS: [Option<&str>; 8] =
    [None, None, None, None, Some("gzip"), Some("deflate"), Some("br"), Some("zstd")];

fuzz_target!(|input: &[u8]| {
    let [path, status, encoding, rest @ ..] = input else { return };
    let mut parts = rest.splitn(2, |byte| *byte == 0);
    let (request_body, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let route = Route::parse("POST", PATHS[usize::from(*path) % PATHS.len()], "/genesys");
    let credentials: Vec<Secret> = Secret::new(KEY).into_iter().collect();
    let exchange = Exchange {
        route: &route,
        query: None,
        request_content_type: None,
        request_body,
        request_complete: *encoding % 2 == 0,
        credentials: &credentials,
        status: STATUSES[usize::from(*status) % STATUSES.len()],
        content_encoding: ENCODINGS[usize::from(*encoding) % ENCODINGS.len()],
        body,
        body_complete: *encoding < 200,
    };
    let policy = Policy {
        decoded_bytes_max: 1 << 18,
        finding_bytes_max: 4_096,
        attributes: vec!["nickname".into(), "userData[*]".into()],
        keep_typing_text: false,
        masks: Masks::default(),
        digest_key: [7; 32],
    };
    check(&inspect(&exchange, &policy, &|_| Vec::new()));
});

fn check(seen: &Observation) {
    for event in seen.chats.iter().flat_map(|chat| &chat.events) {
        assert!(event.index.get() >= 1);
        assert!(event.raw.starts_with('{') && event.raw.ends_with('}'));
    }
    assert!(!format!("{seen:?}").contains(KEY));
    for finding in &seen.findings {
        assert!(finding.raw.len() <= 4_096 && finding.raw.len() <= finding.raw_length.max(finding.raw.len()));
        assert!(!finding.raw.windows(KEY.len()).any(|window| window == KEY.as_bytes()));
    }
}
