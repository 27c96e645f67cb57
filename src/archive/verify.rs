//! What an auditor asks: is everything as it was sealed, and who says so? The rows and the tree come from the archive;
//! checkpoints from the archive and from anchors; keys from the archive, or from the auditor, who should have his own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::anchored::Anchor;
use super::note::{self, Checkpoint, Flaw, PublicKey, Succession};
use super::time_stamp;
use crate::store;
use crate::store::audit::{Faults, Found, Snapshot, StoredCheckpoint, StoredKey};
use crate::store::seal::merkle::Hash;

/// What is held against the archive.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Files of anchors, and folders with a file a checkpoint.
    pub anchors: Vec<PathBuf>,
    /// The public keys that count; none: those that the archive itself has.
    pub keys: Vec<PublicKey>,
    /// It is a copy from before: that anchors know more is no fault.
    pub is_copy: bool,
    /// The archive that it is a copy of: the keys count, too, that follow there by the word of those before them.
    pub copy_of: Option<PathBuf>,
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
    /// The last of the checkpoints of anchors that a copy from before does not have.
    pub later: Option<Checkpoint>,
    /// Time stamps of anchors that are of the checkpoint that they lie beside.
    pub stamps: u64,
    /// The last of them.
    pub last_stamp: Option<Stamped>,
    /// What is no fault, and seldom innocent.
    pub warnings: Vec<String>,
    /// Of the faults, those of what anchors have.
    pub against_anchors: u64,
    /// The keys given sign only what came after others of the archive's: one of the faults, and nobody's.
    pub is_of_later_key: bool,
}

/// A time stamp, as far as it can be read without the authority's certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    /// Its file; the note's lies beside it.
    pub file: PathBuf,
    /// When, as the authority says; milliseconds since the epoch.
    pub at: i64,
    /// Of what: leaves, and the recorder's own word for when.
    pub checkpoint: Checkpoint,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// An anchor's file or folder.
    #[error("the anchor {}: {error}", path.display())]
    Anchor {
        /// Which.
        path: PathBuf,
        /// What came of it.
        error: std::io::Error,
    },
    /// An anchor's file or folder without a note.
    #[error("the anchor {}: no notes in it: name the file, or a folder of .note files", .0.display())]
    NoNotes(PathBuf),
}

/// Holds an archive against everything that is known of it.
///
/// # Errors
/// What cannot be read. What can be read and is wrong is in the answer.
pub fn verify(path: &Path, question: &Question, progress: &mut dyn FnMut(u64, u64)) -> Result<Answer, Error> {
    // Before the snapshot: an anchor may not know more than the archive that is looked at.
    let read = |path: &PathBuf| Anchor::read(path).map_err(|(path, error)| Error::Anchor { path, error });
    let anchors = question.anchors.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let mut snapshot = Snapshot::open_whole(path)?;
    let (size, stored) = (snapshot.size()?, snapshot.checkpoints()?);
    let mut faults = Faults::default();
    let mut given = &question.keys[..];
    if let Some(other) = other_archive(given, snapshot.archive_id()) {
        let what = format!(
            "it is of the archive {other}, and this one is {}: take the key of this archive, or another file has been put in its place",
            snapshot.archive_id()
        );
        faults.add("--key", what);
        given = &[]; // what it would have vouched for is held against the archive's own
    }
    if store::has_journal(path) {
        let what = "a rollback journal lies beside it, which SQLite would write into it: gms-recorder makes none";
        faults.add(path.display(), what);
    }
    let own_keys = keys_of(&snapshot, &mut faults)?;
    let later = question.copy_of.iter().flat_map(|of| later_keys(of, &snapshot, &own_keys));
    let known: Vec<OwnKey> = own_keys.iter().cloned().chain(later).collect();
    let mut keys =
        Keys { trusted: trusted(&known, given), earlier: earlier(&own_keys, given), left_out: BTreeSet::new() };
    let own = checkpoints(&snapshot, &stored, &mut keys, &mut faults);
    let before = faults.count;
    let anchored: Vec<Vec<Claim>> = anchors
        .iter()
        .map(|anchor| claims(anchor, &snapshot, &mut keys, &mut faults, question.is_copy))
        .collect::<Result<_, _>>()?;
    let against_anchors = faults.count - before;
    let claims = own.iter().chain(anchored.iter().flatten());
    let roots_at: BTreeSet<u64> = claims.map(|claim| claim.checkpoint.size).collect();
    let found = snapshot.verify(&roots_at, &mut |done| progress(done, size))?;
    let mut answer = Answer { faults, found, against_anchors, ..Answer::default() };
    answer.hold_keys(own.iter(), &own_keys);
    answer.hold(own.iter(), false);
    let before = answer.faults.count;
    for claims in &anchored {
        let (claims, later) = known_then(claims, &stored, answer.found.leaves, question.is_copy);
        answer.hold_keys(claims.iter().copied(), &own_keys);
        answer.hold(claims.iter().copied(), true);
        answer.hold_against_stored(claims.iter().copied(), &stored);
        answer.later = later.into_iter().chain(answer.later.take()).max_by_key(|later| later.size);
    }
    anchored.iter().flatten().for_each(|claim| answer.hold_stamp(claim));
    answer.against_anchors += answer.faults.count - before;
    if !keys.left_out.is_empty() {
        answer.tell_later_key(own.first().map(|first| first.checkpoint.number), keys.left_out.len());
    }
    answer.warn(!own_keys.is_empty());
    Ok(answer)
}

/// A checkpoint whose signature is right, and where it comes from.
struct Claim {
    source: String,
    checkpoint: Checkpoint,
    key: PublicKey,
    stamp: Option<Beside>,
}

/// A time stamp that lies beside a note: its file, its bytes, and the hash of the note's file.
struct Beside {
    file: PathBuf,
    bytes: Vec<u8>,
    imprint: Hash,
}

/// What of an anchor an archive can know, and the last checkpoint that a copy is too old for: one of more leaves, or of the same
/// and of a number that it has not come to.
fn known_then<'c>(
    claims: &'c [Claim],
    stored: &[StoredCheckpoint],
    leaves: u64,
    is_copy: bool,
) -> (Vec<&'c Claim>, Option<Checkpoint>) {
    let last_number = stored.last().map_or(0, |last| last.number);
    let is_later =
        |claim: &&Claim| is_copy && (claim.checkpoint.size > leaves || claim.checkpoint.number > last_number);
    let (later, known): (Vec<&Claim>, Vec<&Claim>) = claims.iter().partition(is_later);
    (known, later.into_iter().map(|claim| claim.checkpoint.clone()).max_by_key(|later| later.size))
}

/// A key of the archive's own.
#[derive(Clone)]
struct OwnKey {
    key: PublicKey,
    /// By the word of the one before it; the first by its own.
    is_stated: bool,
}

/// Who may have signed.
struct Keys {
    /// Those that count.
    trusted: Vec<PublicKey>,
    /// The archive's own before the first one that somebody has brought: nobody vouches for them.
    earlier: Vec<PublicKey>,
    /// The numbers of checkpoints that only an earlier one has signed.
    left_out: BTreeSet<i64>,
}

impl Keys {
    /// Whether only an earlier one has signed it: then it is remembered.
    fn leaves_out(&mut self, note: &str, flaw: Flaw) -> bool {
        let of_earlier = note::open(note, &self.earlier).ok().filter(|_| flaw == Flaw::Unsigned);
        of_earlier.map(|(checkpoint, _)| self.left_out.insert(checkpoint.number)).is_some()
    }
}

impl Answer {
    /// One fault for all that the keys given cannot vouch for, since they came later.
    fn tell_later_key(&mut self, first: Option<i64>, left_out: usize) {
        let (checkpoints, are) = if left_out == 1 { ("checkpoint", "is") } else { ("checkpoints", "are") };
        let signs = match first {
            Some(first) => format!("it signs from checkpoint {first} on"),
            None => "it has signed no checkpoint yet".into(),
        };
        let what = format!(
            "it is not the first key of this archive: {signs}, and {left_out} {checkpoints} that {are} signed with the key before it \
             cannot be checked. Give the first key, which all others follow: `gms-recorder key list` prints it first; hold it against \
             what you have kept from the first day"
        );
        self.faults.add("--key", what);
        self.is_of_later_key = true;
    }

    /// A key that was replaced signs nothing that came after.
    fn hold_keys<'c>(&mut self, claims: impl Iterator<Item = &'c Claim>, keys: &[OwnKey]) {
        for Claim { source, checkpoint, key, stamp: _ } in claims {
            let place = keys.iter().position(|own| own.key == *key);
            let until = place.and_then(|place| self.found.keys.get(place + 1));
            if until.is_some_and(|leaf| checkpoint.size > *leaf) {
                self.faults.add(source, "it is signed with a key that had been replaced by then");
            }
        }
    }

    /// Compares roots. The faults of rows come first: they say more precisely what is wrong.
    fn hold<'c>(&mut self, claims: impl Iterator<Item = &'c Claim>, is_anchor: bool) {
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

    /// An anchor is given a checkpoint once its row is on disk. While nothing is recorded a later one takes its place.
    fn hold_against_stored<'c>(&mut self, claims: impl Iterator<Item = &'c Claim>, stored: &[StoredCheckpoint]) {
        for Claim { source, checkpoint, .. } in claims {
            let is_it = |stored: &&StoredCheckpoint| {
                (stored.number, stored.size.cast_unsigned()) == (checkpoint.number, checkpoint.size)
            };
            // Of one that is not covered `hold` has told.
            if checkpoint.size <= self.found.leaves && !stored.iter().any(|stored| is_it(&stored)) {
                let what = format!(
                    "the archive has no checkpoint {} of {} leaves: checkpoints were taken away",
                    checkpoint.number, checkpoint.size
                );
                self.faults.add(source, what);
            }
        }
    }

    /// What `serve` never leaves behind while it has its key.
    fn warn(&mut self, has_keys: bool) {
        if self.found.has_unknown_views {
            let what = "the archive says that a newer release has changed it: its views were not compared; use that release, or read the \
                        tables";
            self.warnings.push(what.into());
        }
        if self.found.alterations > 0 {
            let what = format!(
                "a `serve` has met what somebody altered by hand, and may have altered back since (findings: {}): SELECT * FROM findings \
                 WHERE kind = 'altered'",
                self.found.alterations
            );
            self.warnings.push(what);
        }
        if let [first, ..] = self.found.open_acts[..] {
            let others = match self.found.open_acts.len() - 1 {
                0 => String::new(),
                others => format!(" and {others} more"),
            };
            let what = format!(
                "act {first}{others} of erasing, purging, masking or merging has no end: it is under way, or was killed, and then a `serve` ends it within a \
                 minute; what is removed in its name before that is taken for its own (`gms-recorder access`)"
            );
            self.warnings.push(what);
        }
        if has_keys && self.checkpoints == 0 && !self.is_of_later_key {
            let what = "the archive has a key and no checkpoint that holds: it was killed in its first moments, or checkpoints were \
                        taken away";
            self.warnings.push(what.into());
        }
        let signed = self.last.as_ref().map_or(0, |last| last.size);
        if let Some((run_id, leaf)) = self.found.last_stop
            && self.checkpoints > 0
            && leaf >= signed
        {
            let what = format!(
                "run {run_id} ended in order, which is always signed, and no checkpoint covers it: its key was missing then, or \
                 checkpoints were taken away"
            );
            self.warnings.push(what);
        }
    }

    /// Whose it is, and when. One that was cut short by a crash is none.
    fn hold_stamp(&mut self, claim: &Claim) {
        let Some(Beside { file, bytes, imprint }) = &claim.stamp else { return };
        match time_stamp::read(bytes) {
            Ok(stamp) if stamp.imprint == *imprint => {
                self.stamps += 1;
                let stamped = Stamped { file: file.clone(), at: stamp.at, checkpoint: claim.checkpoint.clone() };
                if self.last_stamp.as_ref().is_none_or(|last| last.at <= stamped.at) {
                    self.last_stamp = Some(stamped);
                }
            }
            Ok(_) => self.faults.add(file.display(), "it is the time stamp of something else than the note beside it"),
            Err(_) if time_stamp::is_torn(bytes) => {}
            Err(flaw) => self.faults.add(file.display(), flaw.to_string()),
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
    for StoredKey { vkey, statement, .. } in snapshot.keys()? {
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

/// The archive that keys are of, by their names, if they all are of others than this one.
fn other_archive<'k>(keys: &'k [PublicKey], archive_id: &str) -> Option<&'k str> {
    let of = |key: &'k PublicKey| key.name().strip_prefix("gms-recorder/");
    let is_other = |key| of(key).is_some_and(|of| of != archive_id);
    keys.first().and_then(of).filter(|_| keys.iter().all(is_other))
}

/// What follows the keys of a copy in the archive that it was made of. None where that cannot be read, or is another one.
fn later_keys(archive: &Path, copy: &Snapshot, own: &[OwnKey]) -> Vec<OwnKey> {
    let known = Snapshot::open(archive).ok().filter(|archive| archive.archive_id() == copy.archive_id());
    let keys = known.and_then(|archive| keys_of(&archive, &mut Faults::default()).ok()).unwrap_or_default();
    let is_same = own.iter().zip(&keys).filter(|(own, key)| own.key == key.key).count() == own.len();
    match is_same {
        true => keys.into_iter().skip(own.len()).take_while(|key| key.is_stated).collect(),
        false => Vec::new(),
    }
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

/// Those of the archive before the first one that the auditor has.
fn earlier(own: &[OwnKey], of_auditor: &[PublicKey]) -> Vec<PublicKey> {
    let first = own.iter().position(|own| of_auditor.contains(&own.key)).unwrap_or(0);
    own[..first].iter().map(|own| own.key.clone()).collect()
}

fn checkpoints(snapshot: &Snapshot, stored: &[StoredCheckpoint], keys: &mut Keys, faults: &mut Faults) -> Vec<Claim> {
    let (mut claims, mut last_size) = (Vec::new(), None);
    for (wanted, stored) in (1..).zip(stored) {
        let source = format!("checkpoint {}", stored.number);
        if stored.number != wanted && faults.count == 0 {
            faults.add(&source, format!("it should be number {wanted}: checkpoints were deleted or inserted"));
        }
        match note::open(&stored.note, &keys.trusted).map(|(checkpoint, key)| (checkpoint, key.clone())) {
            Err(flaw) if keys.leaves_out(&stored.note, flaw) => {}
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
                claims.push(Claim { source, checkpoint, key, stamp: None });
            }
        }
    }
    claims
}

/// What an anchor has of this archive. Of others it may have some, too; one without any is of another archive, or this
/// archive is another one.
fn claims(
    anchor: &Anchor,
    snapshot: &Snapshot,
    keys: &mut Keys,
    faults: &mut Faults,
    is_copy: bool,
) -> Result<Vec<Claim>, Error> {
    let (mut claims, mut last_flaw, mut count) = (Vec::new(), None, 0);
    for file in &anchor.files {
        for (number, note) in (1..).zip(note::split(&file.text)) {
            count += 1;
            let source = format!("anchor {}, note {number}", file.path.display());
            match note::open(note, &keys.trusted).map(|(checkpoint, key)| (checkpoint, key.clone())) {
                Ok((checkpoint, key)) if checkpoint.archive_id == snapshot.archive_id() => {
                    let stamp = file.stamp.as_ref().map(|(stamp, bytes)| Beside {
                        file: stamp.clone(),
                        bytes: bytes.clone(),
                        imprint: time_stamp::imprint(file.text.as_bytes()),
                    });
                    claims.push(Claim { source, checkpoint, key, stamp });
                }
                Ok(_) => {}
                // The next one stands for it.
                Err(Flaw::Form) if note::is_torn(note) => last_flaw = Some(Flaw::Form),
                Err(Flaw::Unsigned) if !note.contains(snapshot.archive_id()) => {}
                Err(flaw) if keys.leaves_out(note, flaw) => last_flaw = Some(flaw),
                Err(flaw) => {
                    let hint = match (flaw, is_copy) {
                        (Flaw::Unsigned, true) => {
                            "; one that came after the copy? Give --key FILE with all public keys (`key list`)"
                        }
                        _ => "",
                    };
                    faults.add(source, format!("{flaw}{hint}"));
                    last_flaw = Some(flaw);
                }
            }
        }
    }
    if count == 0 {
        return Err(Error::NoNotes(anchor.path.clone()));
    }
    if claims.is_empty() && last_flaw.is_none_or(|flaw| flaw == Flaw::Form) {
        let what = format!(
            "none of its {count} notes is of this archive ({}): one of the two files was swapped",
            snapshot.archive_id()
        );
        faults.add(format!("anchor {}", anchor.path.display()), what);
    }
    Ok(claims)
}
