//! Messages of HTTP/1.1, cut anywhere: nothing panics; a head that is read is read alike after it was written again; and a
//! body is the same however its bytes come.
#![no_main]

use gms_recorder::proxy::framing::{Decoder, Framing};
use gms_recorder::proxy::head::{Head, Kind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((first, message)) = input.split_first() else { return };
    let kind = if first & 1 == 0 { Kind::Request } else { Kind::Answer };
    if let Ok(Some((head, length))) = Head::read(message, kind) {
        let head = head.bind(message[..length].to_vec().into());
        read_again(&head, message, kind);
        let framing = match kind {
            Kind::Request => Framing::of_request(&head),
            Kind::Answer => Framing::of_answer(&head, "POST"),
        };
        if let Ok(framing) = framing {
            cut_anywhere(framing, &message[length..], usize::from(*first));
        }
    }
    cut_anywhere(Framing::Chunked, message, usize::from(*first));
});

fn read_again(head: &Head, message: &[u8], kind: Kind) {
    let start = message.iter().position(|byte| *byte == b'\n').expect("a head has lines") + 1;
    let mut written = message[..start].to_vec();
    head.copy_lines(&mut written, |_, _| true);
    written.extend_from_slice(b"\r\n");
    let again = Head::parse(written.into(), kind).expect("what was read once is read again");
    let fields = |head: &Head| -> Vec<_> { head.fields().map(|(_, name, value)| (name.to_vec(), value.to_vec())).collect() };
    assert_eq!(fields(head), fields(&again));
}

fn cut_anywhere(framing: Framing, body: &[u8], cut: usize) {
    let decode = |parts: &[&[u8]]| {
        let mut decoder = Decoder::new(framing);
        let (mut data, mut used) = (Vec::new(), 0);
        for part in parts {
            let mut part = part.to_vec();
            let decoded = decoder.decode(&mut part).ok()?;
            assert!(decoded.data <= decoded.used && decoded.used <= part.len());
            data.extend_from_slice(&part[..decoded.data]);
            used += decoded.used;
        }
        Some((data, used, decoder.is_over(), decoder.take_trailer()))
    };
    let cut = cut.min(body.len());
    assert_eq!(decode(&[body]), decode(&[&body[..cut], &body[cut..]]));
}
