//! RFC 3161 time stamps: what is asked of an authority, what its answer must say, and what a stored one says. Whether the
//! authority's signature is right is a matter of its certificates, and for `openssl ts -verify`.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use super::der::{self, Reader};
use crate::store::seal::merkle::Hash;

/// SHA-256, 2.16.840.1.101.3.4.2.1
const SHA_256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// id-signedData, 1.2.840.113549.1.7.2
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// id-ct-TSTInfo, 1.2.840.113549.1.9.16.1.4
const TST_INFO: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01, 0x04];

/// 64 bits, the first two 01: a positive number of just so many bytes. Authorities need not take longer ones.
pub type Nonce = [u8; 8];

/// Why an answer is no time stamp to keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is no TimeStampResp in DER, or not a whole one.
    #[error("it is no time stamp response (RFC 3161, in DER), or not a whole one")]
    Form,
    /// The authority does not want to.
    #[error("the authority refuses (status {status}){}", told(words))]
    Refused {
        /// PKIStatus
        status: u8,
        /// What it says about that.
        words: String,
    },
    /// Another hash.
    #[error("it stamps something else than this checkpoint")]
    Imprint,
    /// Another nonce, or none: it may be an old one.
    #[error("it does not have the nonce of our request: it is not the answer to it")]
    Nonce,
}

fn told(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// What a time stamp says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Of what.
    pub imprint: Hash,
    /// genTime, milliseconds since the epoch.
    pub at: i64,
    nonce: Vec<u8>,
}

/// A number nobody has asked with before.
///
/// # Errors
/// The system has no random numbers.
pub fn nonce() -> Result<Nonce, getrandom::Error> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce)?;
    nonce[0] = nonce[0] & 0x3f | 0x40;
    Ok(nonce)
}

/// A TimeStampReq (section 2.4.1) that wants the authority's certificate, too.
pub fn request(imprint: &Hash, nonce: &Nonce) -> Vec<u8> {
    let algorithm = der::value(der::SEQUENCE, &[&der::value(der::OID, &[SHA_256]), &der::value(der::NULL, &[])]);
    let imprint = der::value(der::SEQUENCE, &[&algorithm, &der::value(der::OCTET_STRING, &[imprint])]);
    let version = der::value(der::INTEGER, &[&[1]]);
    let nonce = der::value(der::INTEGER, &[nonce]);
    der::value(der::SEQUENCE, &[&version, &imprint, &nonce, &der::value(der::BOOLEAN, &[&[0xff]])])
}

/// What is stamped of a note.
pub fn imprint(note: &[u8]) -> Hash {
    Sha256::digest(note).into()
}

/// The time stamp that was asked for.
///
/// # Errors
/// Why it is none.
pub fn answer(response: &[u8], imprint: &Hash, nonce: &Nonce) -> Result<Stamp, Flaw> {
    let stamp = read(response)?;
    match () {
        () if stamp.imprint != *imprint => Err(Flaw::Imprint),
        () if stamp.nonce != nonce => Err(Flaw::Nonce),
        () => Ok(stamp),
    }
}

/// What a TimeStampResp (section 2.4.2) says, as it is kept.
///
/// # Errors
/// [`Flaw::Form`], [`Flaw::Refused`].
pub fn read(response: &[u8]) -> Result<Stamp, Flaw> {
    let mut all = Reader(response);
    let mut response = all.enter(der::SEQUENCE).filter(|_| all.is_at_end()).ok_or(Flaw::Form)?;
    granted(response.enter(der::SEQUENCE).ok_or(Flaw::Form)?)?;
    token(response).ok_or(Flaw::Form)
}

/// Whether it ends before it says that it does: a write that a crash cut short.
pub fn is_torn(response: &[u8]) -> bool {
    der::is_cut(response, der::SEQUENCE)
}

/// PKIStatusInfo: 0 is granted, 1 granted with changes.
fn granted(mut info: Reader<'_>) -> Result<(), Flaw> {
    let status = info.take(der::INTEGER).ok_or(Flaw::Form)?;
    let &[status] = status else { return Err(Flaw::Form) };
    if status <= 1 {
        return Ok(());
    }
    let mut texts = info.enter(der::SEQUENCE).unwrap_or(Reader(&[]));
    let mut words = Vec::new();
    while let Some(text) = texts.take(der::UTF8_STRING) {
        words.push(String::from_utf8_lossy(text));
    }
    let words = words.join(", ").chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    Err(Flaw::Refused { status, words })
}

/// A ContentInfo with SignedData (RFC 5652, section 5.1) around TSTInfo.
fn token(mut response: Reader<'_>) -> Option<Stamp> {
    let mut content = response.enter(der::SEQUENCE)?;
    is(content.take(der::OID)?, SIGNED_DATA)?;
    let mut signed = content.enter(der::CONTEXT_0)?.enter(der::SEQUENCE)?;
    signed.take(der::INTEGER)?;
    signed.take(der::SET)?;
    let mut inner = signed.enter(der::SEQUENCE)?;
    is(inner.take(der::OID)?, TST_INFO)?;
    let mut octets = inner.enter(der::CONTEXT_0)?.enter(der::OCTET_STRING)?;
    info(octets.enter(der::SEQUENCE)?)
}

fn info(mut info: Reader<'_>) -> Option<Stamp> {
    info.take(der::INTEGER)?;
    info.take(der::OID)?;
    let mut message = info.enter(der::SEQUENCE)?;
    is(message.enter(der::SEQUENCE)?.take(der::OID)?, SHA_256)?;
    let imprint = message.take(der::OCTET_STRING)?.try_into().ok()?;
    info.take(der::INTEGER)?;
    let at = time(info.take(der::TIME)?)?;
    let _accuracy = info.take(der::SEQUENCE);
    let _ordering = info.take(der::BOOLEAN);
    let nonce = info.take(der::INTEGER).unwrap_or_default().to_vec();
    Some(Stamp { imprint, at, nonce })
}

fn is(found: &[u8], wanted: &[u8]) -> Option<()> {
    (found == wanted).then_some(())
}

/// `20261126073005.25Z`: the fraction is where it is not zero, and the time always UTC.
fn time(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() != 14 || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let seconds = DateTime::strptime("%Y%m%d%H%M%S", whole).ok()?;
    let ms: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    Some(seconds.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond() + ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Authorities are strangers.
        #[test]
        fn whatever_an_authority_sends_is_read_to_an_end(bytes in prop::collection::vec(prop_oneof![
            any::<u8>(), Just(der::SEQUENCE), Just(der::INTEGER), Just(der::OCTET_STRING), 0u8..40
        ], 0..200)) {
            let _ = (read(&bytes), is_torn(&bytes), time(&bytes));
        }
    }

    #[test]
    fn a_request_is_what_openssl_makes_of_the_same() {
        // openssl ts -query -digest 0101…01 -sha256 -cert, with a nonce of our form in place of its own.
        let wanted = format!(
            "304302010130313\
             00d060960864801650304020105000420{}\
             02084000000000000001\
             0101ff",
            "01".repeat(32)
        );
        let made = request(&[1; 32], &[0x40, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(made.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), wanted);
        assert_eq!(nonce().expect("random numbers")[0] & 0xc0, 0x40);
    }

    #[test]
    fn times_are_read_with_their_fractions() {
        let rows = [
            ("20261126073005Z", Some(1_795_678_205_000)),
            ("20261126073005.25Z", Some(1_795_678_205_250)),
            ("20261126073005.123456Z", Some(1_795_678_205_123)),
            ("20261126073005", None),
            ("20261126073005+0100", None),
            ("202611260730Z", None),
            ("20261326073005Z", None),
            ("2026112607300éZ", None),
        ];
        for (text, at) in rows {
            assert_eq!(time(text.as_bytes()), at, "{text}");
        }
    }
}
