//! One direction of a WebSocket: nothing panics, the bound on a message holds, and the pieces that the bytes come in do not
//! matter.
//!
//! The first two bytes choose what was agreed and the size of the pieces; the rest is the stream.
#![no_main]

use gms_recorder::gms::websocket::{Item, Reader};
use libfuzzer_sys::fuzz_target;

const BYTES_MAX: usize = 1 << 14;
const AGREED: [&str; 4] = [
    "",
    "permessage-deflate",
    "permessage-deflate; server_no_context_takeover",
    "permessage-deflate; server_max_window_bits=9",
];

fuzz_target!(|input: &[u8]| {
    let [agreed, size, stream @ ..] = input else { return };
    let agreed = AGREED[usize::from(*agreed) % AGREED.len()];
    let whole = items(agreed, [stream]);
    // So many pieces at most that a rest after each does not take all the time.
    let size = usize::from(*size).max(stream.len() / 8).max(1);
    assert_eq!(whole, items(agreed, stream.chunks(size)));
});

fn items<'a>(agreed: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Item> {
    let (_, mut reader) = Reader::pair(agreed, 0, BYTES_MAX);
    let mut items = Vec::new();
    for mut piece in pieces {
        while let Some(item) = reader.next(&mut piece) {
            assert!(!matches!(&item, Item::Text(text) if text.len() > BYTES_MAX));
            items.push(item);
        }
        assert!(piece.is_empty());
        reader.rest(); // what is kept comes back as it was
    }
    items
}
