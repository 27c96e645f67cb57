//! Bodies in any coding: nothing panics, and the bound on what comes out holds.
#![no_main]

use gms_recorder::gms::decode::{Trouble, decode};
use libfuzzer_sys::fuzz_target;

const BYTES_MAX: usize = 1 << 16;
const ENCODINGS: [&str; 7] = ["", "gzip", "deflate", "br", "zstd", "gzip, br", "identity"];

fuzz_target!(|input: &[u8]| {
    let Some((first, body)) = input.split_first() else { return };
    let encoding = ENCODINGS[usize::from(*first) % ENCODINGS.len()];
    let decoded = decode(body, Some(encoding), BYTES_MAX);
    assert!(decoded.bytes.len() <= BYTES_MAX || decoded.trouble == Some(Trouble::TooLong));
});
