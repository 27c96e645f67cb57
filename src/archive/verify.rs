//! What an auditor asks: is everything as it was sealed, and who says so? The rows and the tree come from the archive;
//! checkpoints from the archive and from anchors; keys from the archive, or from the auditor, who should have his own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::note::{self, Checkpoint, Flaw, PublicKey, Succession};
use crate::store;
use crate::store::audit::{Faults, Found, Snapshot, StoredCheckpoint};

/// What is held against the archive.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Files of anchors.
    pub anchors: Vec<PathBuf>,
    /// The public keys that count; none: those that the archive itself has.
    pub keys: Vec<PublicKey>,
}

/// The answer.
#[derive(Debug, Default)]
pub struct Answer {
    /// What is wrong.
    pub faults: Faults,
    /// What the rows and the tree told.
    pub found: Found,
    /// Checkpoints of the archive that fit.
    pub checkpoints: u64,
    /// The last of them.
    pub last: Option<Checkpoint>,
    /// Checkpoints of anchors that fit.
    pub anchored: u64,
    /// The last of them.
    pub last_anchored: Option<Checkpoint>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// An anchor's file.
    #[error("the anchor {}: {error}", path.display())]
    Anchor {
        /// Which.
        path: PathBuf,
        /// What came of it.
        error: std::io::Error,
    },
}

/// Holds an archive against everything that is known of it.
///
/// # Errors
/// What cannot be read. What can be read and is wrong is in the answer.
pub fn verify(path: &Path, question: &Question, progress: &mut dyn FnMut(u64, u64)) -> Result<Answer, Error> {
    // Before the snapshot: an anchor may not know more than the archive that is looked at.
    let anchors = question.anchors.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let snapshot = Snapshot::open(path)?;
    let (size, stored) = (snapshot.size()?, snapshot.checkpoints()?);
    let mut faults = Faults::default();
    let own_keys = keys_of(&snapshot, &mut faults)?;
    let keys = trusted(&own_keys, &question.keys);
    let own = checkpoints(&snapshot, &stored, &keys, &mut faults);
    let anchored: Vec<Vec<Claim>> =
        anchors.iter().map(|anchor| claims(anchor, &snapshot, &keys, &mut faults)).collect();
    let claims = own.iter().chain(anchored.iter().flatten());
    let roots_at: BTreeSet<u64> = claims.map(|claim| claim.checkpoint.size).collect();
    let found = snapshot.verify(&roots_at, &mut |done| progress(done, size))?;
    let mut answer = Answer { faults, found, ..Answer::default() };
    answer.hold_keys(&own, &own_keys);
    answer.hold(&own, false);
    for claims in &anchored {
        answer.hold_keys(claims, &own_keys);
        answer.hold(claims, true);
    }
    Ok(answer)
}

/// A checkpoint whose signature is right, and where it comes from.
struct Claim {
    source: String,
    checkpoint: Checkpoint,
    key: PublicKey,
}

/// A key of the archive's own.
struct OwnKey {
    key: PublicKey,
    /// By the word of the one before it; the first by its own.
    is_stated: bool,
}

impl Answer {
    /// A key that was replaced signs nothing that came after.
    fn hold_keys(&mut self, claims: &[Claim], keys: &[OwnKey]) {
        for Claim { source, checkpoint, key } in claims {
            let place = keys.iter().position(|own| own.key == *key);
            let until = place.and_then(|place| self.found.keys.get(place + 1));
            if until.is_some_and(|leaf| checkpoint.size > *leaf) {
                self.faults.add(source, "it is signed with a key that had been replaced by then");
            }
        }
    }

    /// Compares roots. The faults of rows come first: they say more precisely what is wrong.
    fn hold(&mut self, claims: &[Claim], is_anchor: bool) {
        for Claim { source, checkpoint, .. } in claims {
            let (size, leaves) = (checkpoint.size, self.found.leaves);
            let fits = match self.found.roots.get(&size) {
                Some(root) if *root == checkpoint.root => true,
                Some(_) => {
                    let what =
                        format!("the first {size} leaves are not those that it signs: leaves were changed or replaced");
                    self.faults.add(source, what);
                    false
                }
                None => {
                    let what = format!(
                        "it signs {size} leaves, and the archive has {leaves}: the archive was cut or rolled back, or it is a copy from before"
                    );
                    self.faults.add(source, what);
                    false
                }
            };
            if !fits {
                continue;
            }
            let (count, last) = match is_anchor {
                true => (&mut self.anchored, &mut self.last_anchored),
                false => (&mut self.checkpoints, &mut self.last),
            };
            *count += 1;
            if last.as_ref().is_none_or(|last| last.size <= checkpoint.size) {
                *last = Some(checkpoint.clone());
            }
        }
    }

    /// All faults, those of rows first.
    pub fn all_faults(&self) -> impl Iterator<Item = &store::audit::Fault> {
        self.found.faults.told.iter().chain(&self.faults.told)
    }

    /// How many there are.
    pub fn fault_count(&self) -> u64 {
        self.found.faults.count + self.faults.count
    }
}

fn keys_of(snapshot: &Snapshot, faults: &mut Faults) -> Result<Vec<OwnKey>, Error> {
    let mut keys: Vec<OwnKey> = Vec::new();
    for (vkey, statement) in snapshot.keys()? {
        let Some(key) = PublicKey::parse(&vkey) else {
            faults.add("keys", format!("{vkey:?} is no public key: it was changed"));
            continue;
        };
        let before = keys.last().map(|before| &before.key);
        let is_stated =
            before.is_none_or(|before| Succession::is_stated(snapshot.archive_id(), &vkey, &statement, before));
        if !is_stated {
            faults
                .add(format!("key {vkey}"), "the one before it has not signed that it follows: somebody put it there");
        }
        keys.push(OwnKey { key, is_stated });
    }
    Ok(keys)
}

/// Those of the auditor, and what the archive's were made to follow them; without any, the archive's.
fn trusted(own: &[OwnKey], of_auditor: &[PublicKey]) -> Vec<PublicKey> {
    if of_auditor.is_empty() {
        return own.iter().map(|own| own.key.clone()).collect();
    }
    let mut trusted = of_auditor.to_vec();
    for pair in own.windows(2) {
        if trusted.contains(&pair[0].key) && pair[1].is_stated && !trusted.contains(&pair[1].key) {
            trusted.push(pair[1].key.clone());
        }
    }
    trusted
}

fn checkpoints(
    snapshot: &Snapshot,
    stored: &[StoredCheckpoint],
    keys: &[PublicKey],
    faults: &mut Faults,
) -> Vec<Claim> {
    let (mut claims, mut last_size) = (Vec::new(), None);
    for (wanted, stored) in (1..).zip(stored) {
        let source = format!("checkpoint {}", stored.number);
        if stored.number != wanted && faults.count == 0 {
            faults.add(&source, format!("it should be number {wanted}: checkpoints were deleted or inserted"));
        }
        match note::open(&stored.note, keys) {
            Err(flaw) => faults.add(&source, flaw.to_string()),
            Ok((checkpoint, _)) if checkpoint.archive_id != snapshot.archive_id() => {
                faults.add(&source, "it is of another archive");
            }
            Ok((checkpoint, _))
                if (checkpoint.number, checkpoint.size.cast_signed(), checkpoint.at)
                    != (stored.number, stored.size, stored.at) =>
            {
                faults.add(&source, "its row does not say what its note says: it was changed");
            }
            Ok((checkpoint, _)) if last_size.is_some_and(|size| size >= checkpoint.size) => {
                faults.add(&source, "it signs no more leaves than the one before it");
            }
            Ok((checkpoint, key)) => {
                last_size = Some(checkpoint.size);
                claims.push(Claim { source, checkpoint, key: key.clone() });
            }
        }
    }
    claims
}

struct Anchor {
    path: PathBuf,
    text: String,
}

fn read(path: &Path) -> Result<Anchor, Error> {
    let bytes = std::fs::read(path).map_err(|error| Error::Anchor { path: path.to_owned(), error })?;
    Ok(Anchor { path: path.to_owned(), text: String::from_utf8_lossy(&bytes).into_owned() })
}

/// What an anchor has of this archive. Of others it may have some, too; one without any is of another archive, or this
/// archive is another one.
fn claims(anchor: &Anchor, snapshot: &Snapshot, keys: &[PublicKey], faults: &mut Faults) -> Vec<Claim> {
    let name = anchor.path.display();
    let notes = note::split(&anchor.text);
    let (mut claims, mut last_flaw, count) = (Vec::new(), None, notes.len());
    for (number, note) in (1..).zip(notes) {
        let source = format!("anchor {name}, note {number}");
        match note::open(note, keys) {
            Ok((checkpoint, key)) if checkpoint.archive_id == snapshot.archive_id() => {
                claims.push(Claim { source, checkpoint, key: key.clone() });
            }
            Ok(_) => {}
            // The next one stands for it.
            Err(Flaw::Form) if note::is_torn(note) => last_flaw = Some(Flaw::Form),
            Err(Flaw::Unsigned) if !note.contains(snapshot.archive_id()) => {}
            Err(flaw) => {
                faults.add(source, flaw.to_string());
                last_flaw = Some(flaw);
            }
        }
    }
    if claims.is_empty() && last_flaw.is_none_or(|flaw| flaw == Flaw::Form) {
        let what = format!(
            "none of its {count} notes is of this archive ({}): one of the two files was swapped",
            snapshot.archive_id()
        );
        faults.add(format!("anchor {name}"), what);
    }
    claims
}
