//! Cookies of any shape: nothing panics, nothing that was not signed is believed, what is amended keeps its pair.
#![no_main]

use gms_recorder::proxy::affinity::{Key, Rule, amended};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let key = Key::new(&[7; 32]).expect("it is long enough");
    if let Ok(text) = std::str::from_utf8(input) {
        // A MAC of 128 bits is not found by trying: what is believed is what `sign` writes.
        assert!(key.verify(text).is_none_or(|node| key.sign(node) == text));
        assert_eq!(key.verify(&key.sign(text)), Some(text));
        let _ = Rule::parse(text);
    }
    let rules = [Rule::parse("BAYEUX_BROWSER; SameSite=None; Secure").expect("a rule")];
    let cookie = [b"BAYEUX_BROWSER=", input].concat();
    let once = amended(&cookie, &rules).expect("the rule names it");
    let pair = cookie.split(|byte| *byte == b';').next().expect("there is always a first part");
    assert!(once.starts_with(pair));
    assert_eq!(amended(&once, &rules), Some(once));
});
