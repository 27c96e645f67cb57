//! As much DER (X.690) as time stamps take: reading values one after the other, and writing some.

/// BOOLEAN
pub const BOOLEAN: u8 = 0x01;
/// INTEGER
pub const INTEGER: u8 = 0x02;
/// OCTET STRING
pub const OCTET_STRING: u8 = 0x04;
/// NULL
pub const NULL: u8 = 0x05;
/// OBJECT IDENTIFIER
pub const OID: u8 = 0x06;
/// UTF8String
pub const UTF8_STRING: u8 = 0x0c;
/// GeneralizedTime
pub const TIME: u8 = 0x18;
/// SEQUENCE, SEQUENCE OF
pub const SEQUENCE: u8 = 0x30;
/// SET, SET OF
pub const SET: u8 = 0x31;
/// `[0]`, constructed.
pub const CONTEXT_0: u8 = 0xa0;

/// What is left to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next value's content, if it is of this type.
    pub fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&found, rest) = self.0.split_first()?;
        if found != tag {
            return None;
        }
        let (length, rest) = length(rest)?;
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    /// The same, to read on in it.
    pub fn enter(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self)
    }

    /// Nothing is left.
    pub fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

/// In at most four bytes, and in no more than it takes.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let count = usize::from(first & 0x7f);
    if first < 0x80 {
        return Some((count, rest));
    }
    let (length, rest) = rest.split_at_checked(count)?;
    let is_shortest = (1..=4).contains(&count) && length[0] != 0 && (count > 1 || length[0] >= 0x80);
    is_shortest.then(|| (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest))
}

/// Whether a value of this type begins and has not all of its bytes.
pub fn is_cut(bytes: &[u8], tag: u8) -> bool {
    match bytes.split_first() {
        None => true,
        Some((found, rest)) if *found == tag => match length(rest) {
            Some((length, content)) => content.len() < length,
            None => rest.len() < 5, // its length is cut
        },
        Some(_) => false,
    }
}

/// A value of less than 128 bytes.
pub fn value(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let content = contents.concat();
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 0x80);
    let mut value = vec![tag, length.expect("only short values are written")];
    value.extend(content);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_were_written_and_nothing_beyond_their_end() {
        let inner = value(INTEGER, &[&[5]]);
        let outer = value(SEQUENCE, &[&inner, &value(NULL, &[])]);
        let mut reader = Reader(&outer);
        let mut sequence = reader.enter(SEQUENCE).expect("it is one");
        assert!(reader.is_at_end());
        assert_eq!(sequence.take(OID), None);
        assert_eq!(sequence.take(INTEGER), Some(&[5][..]));
        assert_eq!(sequence.take(NULL), Some(&[][..]));
        assert!(sequence.is_at_end() && sequence.take(NULL).is_none());
        for cut in 0..outer.len() {
            assert_eq!(Reader(&outer[..cut]).take(SEQUENCE), None, "cut after {cut}");
            assert!(is_cut(&outer[..cut], SEQUENCE), "cut after {cut}");
        }
        assert!(!is_cut(&outer, SEQUENCE) && !is_cut(&outer, SET));
        let long: Vec<u8> = [&[OCTET_STRING, 0x81, 0x80][..], &[7; 0x80]].concat();
        assert_eq!(Reader(&long).take(OCTET_STRING), Some(&[7; 0x80][..]));
        for wrong in
            [&[0x04, 0x81, 0x01, 0][..], &[0x04, 0x80, 0], &[0x04, 0x82, 0, 1, 0], &[0x04, 0x85, 1, 0, 0, 0, 0]]
        {
            assert_eq!(Reader(wrong).take(OCTET_STRING), None, "{wrong:?}");
        }
    }
}
