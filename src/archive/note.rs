//! Checkpoints as text: C2SP tlog-checkpoint in a C2SP signed-note, with Ed25519. Any tool that knows these formats can
//! check one.
//!
//! ```text
//! gms-recorder/15cdc285fb96438fd6652e28557f98a9      the origin: which archive
//! 20852                                              leaves
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=       the root
//! number 17                                          of the archive's checkpoints
//! time 2026-11-26T07:00:00.000Z
//!
//! — gms-recorder/15cd… Az3grlgtzPICa5OS8npVmf1Myq…   who signed, 4 bytes that name the key, the signature
//! ```

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::store::seal::merkle::Hash;

/// Begins the line of a signature.
const SIGNATURE: &str = "— ";
/// The signature type of Ed25519 in signed notes.
const ED25519_TYPE: u8 = 1;
const KEY_BYTES: usize = 32;
/// 4 bytes of the key's and 64 of the signature, in base64.
const SIGNATURE_CHARS: usize = 92;
const PRIVATE: &str = "PRIVATE+KEY+";

/// Begins every origin.
pub const ORIGIN: &str = "gms-recorder/";

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which archive: 32 hex digits.
    pub archive_id: String,
    /// Leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// Which one of the archive's.
    pub number: i64,
    /// When, milliseconds since the epoch.
    pub at: i64,
}

impl Checkpoint {
    /// What is signed.
    pub fn text(&self) -> String {
        let Self { archive_id, size, root, number, at } = self;
        let (root, at) = (BASE64_STANDARD.encode(root), iso(*at));
        format!("{ORIGIN}{archive_id}\n{size}\n{root}\nnumber {number}\ntime {at}\n")
    }

    /// Only what [`Checkpoint::text`] writes: a number has one form.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let archive_id = lines.next()?.strip_prefix(ORIGIN)?.to_owned();
        let size = lines.next()?.parse().ok()?;
        let root = BASE64_STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
        let number = lines.next()?.strip_prefix("number ")?.parse().ok()?;
        let at = lines.next()?.strip_prefix("time ")?.parse::<Timestamp>().ok()?.as_millisecond();
        let checkpoint = Self { archive_id, size, root, number, at };
        (checkpoint.text() == text).then_some(checkpoint)
    }
}

fn iso(at: i64) -> String {
    Timestamp::from_millisecond(at).map_or_else(|_| "1970-01-01T00:00:00.000Z".into(), |at| format!("{at:.3}"))
}

/// That a key follows another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Succession {
    /// Of which archive's keys.
    pub archive_id: String,
    /// The later one.
    pub next: String,
    /// When, milliseconds since the epoch.
    pub at: i64,
}

impl Succession {
    fn text(&self) -> String {
        format!("{ORIGIN}{}\nnext key {}\ntime {}\n", self.archive_id, self.next, iso(self.at))
    }

    /// Signed with both: who has the earlier one gives it up, who has the later one takes over.
    pub fn signed(&self, earlier: &Signer, later: &Signer) -> String {
        let text = self.text();
        format!("{text}\n{}{}", earlier.signature(&text), later.signature(&text))
    }

    /// Whether a note says that, signed with the earlier key.
    pub fn is_stated(archive_id: &str, next: &str, note: &str, earlier: &PublicKey) -> bool {
        let Ok((text, _)) = open_text(note, std::slice::from_ref(earlier)) else { return false };
        text.starts_with(&format!("{ORIGIN}{archive_id}\nnext key {next}\ntime "))
    }
}

/// Why a note is none to count on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is no note, or no checkpoint of ours.
    #[error("it is not a signed checkpoint of gms-recorder")]
    Form,
    /// None of the keys has signed it.
    #[error("no key that is known has signed it")]
    Unsigned,
    /// A key is named, and its signature does not fit.
    #[error("its signature is wrong: the note was changed")]
    Signature,
}

/// Reads a checkpoint that one of these keys has signed, and with which.
///
/// # Errors
/// Why it is none.
pub fn open<'k>(note: &str, keys: &'k [PublicKey]) -> Result<(Checkpoint, &'k PublicKey), Flaw> {
    let (text, key) = open_text(note, keys)?;
    Ok((Checkpoint::parse(&text).ok_or(Flaw::Form)?, key))
}

fn open_text<'k>(note: &str, keys: &'k [PublicKey]) -> Result<(String, &'k PublicKey), Flaw> {
    let (text, signatures) = note.split_once("\n\n").ok_or(Flaw::Form)?;
    let text = format!("{text}\n");
    let mut signed_with = None;
    for line in signatures.lines() {
        let (name, signature) = line.strip_prefix(SIGNATURE).and_then(|rest| rest.split_once(' ')).ok_or(Flaw::Form)?;
        let bytes = BASE64_STANDARD.decode(signature).map_err(|_| Flaw::Form)?;
        let (id, signature) = bytes.split_first_chunk::<4>().ok_or(Flaw::Form)?;
        // Others may have signed it too: who is not known is passed over.
        let Some(key) = keys.iter().find(|key| key.name == name && key.id() == *id) else { continue };
        key.check(text.as_bytes(), signature)?;
        signed_with = Some(key);
    }
    match signed_with {
        _ if !signatures.ends_with('\n') => Err(Flaw::Form),
        None => Err(Flaw::Unsigned),
        Some(key) => Ok((text, key)),
    }
}

/// A public key, as signed notes name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    bytes: [u8; KEY_BYTES],
}

impl PublicKey {
    /// Whose it is: `gms-recorder/` and the archive's id, of one that was made with an archive.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From `name+8 hex digits+base64`: a verifier key of signed notes.
    pub fn parse(vkey: &str) -> Option<Self> {
        let mut parts = vkey.trim().splitn(3, '+');
        let (name, id, encoded) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes = BASE64_STANDARD.decode(encoded).ok()?;
        let key = Self { name: name.into(), bytes: bytes.strip_prefix(&[ED25519_TYPE])?.try_into().ok()? };
        (key.id_in_hex() == id && is_name(name)).then_some(key)
    }

    /// The same the other way round.
    pub fn vkey(&self) -> String {
        format!("{}+{}+{}", self.name, self.id_in_hex(), typed(&self.bytes))
    }

    fn id(&self) -> [u8; 4] {
        let hasher = Sha256::new().chain_update(&self.name).chain_update([b'\n', ED25519_TYPE]);
        *hasher.chain_update(self.bytes).finalize().first_chunk().expect("a hash has more than 4 bytes")
    }

    /// The number that a signature names it by.
    pub fn id_in_hex(&self) -> String {
        self.id().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn check(&self, text: &[u8], signature: &[u8]) -> Result<(), Flaw> {
        UnparsedPublicKey::new(&ED25519, self.bytes).verify(text, signature).map_err(|_| Flaw::Signature)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+')
}

fn typed(bytes: &[u8; KEY_BYTES]) -> String {
    let mut all = vec![ED25519_TYPE];
    all.extend_from_slice(bytes);
    BASE64_STANDARD.encode(all)
}

/// A private key. It cannot be printed.
pub struct Signer {
    public: PublicKey,
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.public.vkey())
    }
}

impl Signer {
    /// From 32 random bytes.
    pub fn of(name: &str, seed: &[u8; KEY_BYTES]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let bytes = pair.public_key().as_ref().try_into().ok()?;
        Some(Self { public: PublicKey { name: name.into(), bytes }, pair })
    }

    /// From `PRIVATE+KEY+name+8 hex digits+base64`, as tools for signed notes make it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().strip_prefix(PRIVATE)?.splitn(3, '+');
        let (name, id, encoded) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes = BASE64_STANDARD.decode(encoded).ok()?;
        let signer = Self::of(name, bytes.strip_prefix(&[ED25519_TYPE])?.try_into().ok()?)?;
        (signer.public.id_in_hex() == id && is_name(name)).then_some(signer)
    }

    /// The same the other way round: for the file of a key that is made.
    pub fn written(name: &str, seed: &[u8; KEY_BYTES]) -> Option<String> {
        let id = Self::of(name, seed)?.public.id_in_hex();
        Some(format!("{PRIVATE}{name}+{id}+{}\n", typed(seed)))
    }

    /// What its signatures are checked with.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The note of a checkpoint.
    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        let text = checkpoint.text();
        format!("{text}\n{}", self.signature(&text))
    }

    /// The line of a signature.
    fn signature(&self, text: &str) -> String {
        let mut signature = self.public.id().to_vec();
        signature.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        format!("{SIGNATURE}{} {}\n", self.public.name, BASE64_STANDARD.encode(signature))
    }
}

/// The notes in a file that they were appended to: each from the line of its origin to its last signature. One that was torn
/// stands for itself.
pub fn split(text: &str) -> Vec<&str> {
    let is_start = |at: usize| at == 0 || text.as_bytes()[at - 1] == b'\n';
    let starts: Vec<usize> = text.match_indices(ORIGIN).map(|(at, _)| at).filter(|at| is_start(*at)).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| up_to_last_signature(&text[*start..end])).collect()
}

/// Whether a note that cannot be opened ends before its signature does: a write that a crash or a full disk cut short.
pub fn is_torn(note: &str) -> bool {
    let last = note.lines().next_back().unwrap_or_default();
    let signature = last.strip_prefix(SIGNATURE).and_then(|rest| rest.split_once(' '));
    signature.is_none_or(|(_, signature)| signature.len() < SIGNATURE_CHARS)
}

fn up_to_last_signature(text: &str) -> &str {
    let last = text.rfind(&format!("\n{SIGNATURE}"));
    let end = last.and_then(|at| Some(at + 2 + text[at + 1..].find('\n')?));
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::seal::merkle::HASH_BYTES;

    fn checkpoint() -> Checkpoint {
        Checkpoint { archive_id: "15cd".into(), size: 20_852, root: [7; HASH_BYTES], number: 17, at: 1_795_439_368_001 }
    }

    /// The example of golang.org/x/mod/sumdb/note, which the specification was written after.
    #[test]
    fn keys_and_signatures_are_those_of_signed_notes() {
        let skey = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
        let vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let signer = Signer::parse(skey).expect("a private key");
        assert_eq!(signer.public().vkey(), vkey);
        assert_eq!(PublicKey::parse(vkey).as_ref(), Some(signer.public()));
        let text =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let signature = BASE64_STANDARD
            .decode("x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=")
            .expect("base64");
        assert_eq!(signature[..4], signer.public().id());
        assert_eq!(signer.public().check(text.as_bytes(), &signature[4..]), Ok(()));
        assert_eq!(signer.pair.sign(text.as_bytes()).as_ref(), &signature[4..]);
    }

    #[test]
    fn a_note_is_read_as_it_was_signed_and_no_byte_of_it_may_change() {
        let signer = Signer::of("gms-recorder/15cd", &[9; KEY_BYTES]).expect("a key");
        let written = Signer::written("gms-recorder/15cd", &[9; KEY_BYTES]).expect("a key");
        assert_eq!(Signer::parse(&written).map(|read| read.public().vkey()), Some(signer.public().vkey()));
        let keys = [signer.public().clone()];
        let note = signer.sign(&checkpoint());
        assert_eq!(open(&note, &keys), Ok((checkpoint(), &keys[0])));
        assert_eq!(open(&note, &[]), Err(Flaw::Unsigned));
        for at in 0..note.len() {
            for bit in 0..8 {
                let mut bytes = note.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let Ok(changed) = String::from_utf8(bytes) else { continue };
                assert!(open(&changed, &keys).is_err(), "{changed}");
            }
        }
        let co_signed = format!("{note}{SIGNATURE}witness {}\n", BASE64_STANDARD.encode([0; 68]));
        assert_eq!(open(&co_signed, &keys), Ok((checkpoint(), &keys[0])));
        let later = Signer::of("gms-recorder/15cd", &[8; KEY_BYTES]).expect("a key");
        let next = later.public().vkey();
        let stated = Succession { archive_id: "15cd".into(), next: next.clone(), at: 1 }.signed(&signer, &later);
        assert!(Succession::is_stated("15cd", &next, &stated, &keys[0]));
        assert!(!Succession::is_stated("15cd", &keys[0].vkey(), &stated, &keys[0]));
        assert!(!Succession::is_stated("15ce", &next, &stated, &keys[0]));
        assert!(!Succession::is_stated("15cd", &next, &note, &keys[0]));
    }

    #[test]
    fn an_anchor_s_file_is_split_into_its_notes_whatever_was_torn() {
        let signer = Signer::of("gms-recorder/15cd", &[9; KEY_BYTES]).expect("a key");
        let keys = [signer.public().clone()];
        let note = signer.sign(&checkpoint());
        for at in 0..note.len() {
            let Some(torn) = note.get(..at) else { continue };
            let file = format!("{note}{torn}\n{note}");
            let whole = split(&file).into_iter().filter(|note| open(note, &keys).is_ok()).count();
            // The line that follows a torn note may be all that it wanted.
            let wanted = if at == note.len() - 1 { 3 } else { 2 };
            assert_eq!(whole, wanted, "torn after {at}: {file}");
            let torn = split(&file).into_iter().filter(|note| open(note, &keys).is_err());
            assert!(torn.into_iter().all(is_torn), "torn after {at}: {file}");
        }
    }
}
