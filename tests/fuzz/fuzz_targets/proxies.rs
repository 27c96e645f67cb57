//! What proxies in front say: a header of the PROXY protocol, cut anywhere, and Forwarded. Nothing panics; what was a header
//! stays the same one whatever follows it, and no part of it is one.
#![no_main]

use gms_recorder::proxy::{forwarded, proxy_protocol};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match proxy_protocol::read(input) {
        Ok(Some(header)) => {
            assert!(header.length <= input.len());
            assert_eq!(proxy_protocol::read(&input[..header.length]), Ok(Some(header)));
            assert_eq!(proxy_protocol::read(&input[..header.length - 1]), Ok(None));
        }
        Ok(None) => assert!(input.len() < proxy_protocol::HEADER_BYTES_MAX),
        Err(malformed) => assert_eq!(proxy_protocol::read(&[input, b"\r\n"].concat()), Err(malformed)),
    }
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = forwarded::hops(text.lines());
    }
});
