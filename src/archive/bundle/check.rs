//! What the receiver of a bundle asks: did it come over whole, are its rows what was recorded, and who signed that? With nothing
//! but the bundle and a public key; neither an archive nor the network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{ABOUT, BAGIT, CHECKPOINT, MANIFEST, NODES, ROWS, SUCCESSIONS, TAG_MANIFEST, UNPROVED};
use crate::archive::export::hex;
use crate::archive::note::{self, Checkpoint, Flaw, ORIGIN, PublicKey, Succession};
use crate::store::audit::Faults;
use crate::store::seal::merkle::{HASH_BYTES, Hash, LEAF_PREFIX, node};
use crate::store::seal::{FORMS, SALT_BYTES};

/// Of a line of rows: a row is of one answer of a node, or of one finding, and both are far smaller.
const LINE_BYTES_MAX: u64 = 256 << 20;
/// Of a file that is read whole: notes, manifests of tags. Five of a bundle's, of some hundred bytes each, and for each key that was
/// replaced.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// What was found.
#[derive(Debug, Default)]
pub struct Answer {
    /// What is wrong.
    pub faults: Faults,
    /// Files of the payload that are as the manifest says.
    pub files: u64,
    /// Rows that are leaves of the signed tree.
    pub proved: u64,
    /// Of these, sealed later than written: the bundle says so, and nothing proves it. What would, the leaf of a whole
    /// transaction, names rows of other chats.
    pub sealed_later: u64,
    /// Rows that nothing vouches for yet.
    pub unproved: u64,
    /// Who signed what, where the signature is right.
    pub checkpoint: Option<Checkpoint>,
    /// That none of the keys leads to who signed it: counted among the faults, and nobody's fault.
    pub is_signer_unknown: bool,
}

/// A file of the bundle that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct Error {
    path: PathBuf,
    #[source]
    error: io::Error,
}

/// Holds a bundle against the public keys that somebody was given, and those that follow them by the word of one before.
///
/// # Errors
/// What cannot be read. What can be read and is wrong is in the answer.
pub fn check(bundle: &Path, keys: &[PublicKey]) -> Result<Answer, Error> {
    let mut bag = Bag { folder: bundle, answer: Answer::default(), misnamed: 0 };
    bag.bag()?;
    let (leaves, mut counts) = bag.rows()?;
    bag.unproved(&mut counts)?;
    bag.counts(&counts)?;
    bag.signature(keys)?;
    bag.root(leaves)?;
    Ok(bag.answer)
}

struct Bag<'b> {
    folder: &'b Path,
    answer: Answer,
    /// Rows with other names than those of their table: what they would say is not what was recorded.
    misnamed: u64,
}

/// Rows by the name of their table.
type Counts = BTreeMap<String, u64>;

impl Bag<'_> {
    fn open(&self, name: &str) -> Result<BufReader<File>, Error> {
        let path = self.folder.join(name);
        File::open(&path).map(BufReader::new).map_err(|error| Error { path, error })
    }

    fn text(&self, name: &str) -> Result<String, Error> {
        let mut text = String::new();
        let read = self.open(name)?.take(TEXT_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| Error { path: self.folder.join(name), error })?;
        Ok(text)
    }

    fn fault(&mut self, subject: &str, what: impl Into<String>) {
        self.answer.faults.add(subject, what);
    }

    /// Every file is in a manifest, and as that says; and the manifests have no other lines.
    fn bag(&mut self) -> Result<(), Error> {
        if self.text("bagit.txt")? != BAGIT {
            self.fault("bagit.txt", "it is not as gms-recorder writes it");
        }
        let mut there = self.files()?;
        there.remove(TAG_MANIFEST); // of this file nothing is said: it says all of the others
        let tags = self.manifest(TAG_MANIFEST, &mut there)?;
        for name in [MANIFEST, "bagit.txt", "bag-info.txt", "README.txt"] {
            if !tags.iter().any(|tag| tag == name) {
                self.fault(TAG_MANIFEST, format!("it does not say what {name} is"));
            }
        }
        self.answer.files = self.manifest(MANIFEST, &mut there)?.len() as u64;
        for name in &there {
            self.answer.faults.add(name, "no manifest names it: somebody put it there");
        }
        Ok(())
    }

    /// All that is there, by name.
    fn files(&self) -> Result<BTreeSet<String>, Error> {
        let (mut folders, mut files) = (vec![self.folder.to_owned()], BTreeSet::new());
        while let Some(folder) = folders.pop() {
            let at = |error| Error { path: folder.clone(), error };
            for entry in std::fs::read_dir(&folder).map_err(at)? {
                let path = entry.map_err(at)?.path();
                match path.symlink_metadata().map_err(at)?.is_dir() {
                    true => folders.push(path),
                    false => {
                        let name = path.strip_prefix(self.folder).unwrap_or(&path).to_string_lossy().into_owned();
                        files.insert(name);
                    }
                }
            }
        }
        Ok(files)
    }

    /// Its names. What is named is taken out of what is there.
    fn manifest(&mut self, manifest: &str, there: &mut BTreeSet<String>) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        let mut lines = self.open(manifest)?;
        let path = self.folder.join(manifest);
        let mut line = String::new();
        while lines
            .by_ref()
            .take(TEXT_BYTES_MAX)
            .read_line(&mut line)
            .map_err(|error| Error { path: path.clone(), error })?
            > 0
        {
            let parts = line.strip_suffix('\n').and_then(|line| line.split_once("  "));
            match parts {
                Some((sha256, name)) if there.remove(name) => {
                    if self.digest(name)? != sha256 {
                        self.fault(name, format!("it is not what {manifest} says: it was changed, or came over badly"));
                    }
                    names.push(name.to_owned());
                }
                Some((_, name)) => self.fault(name, format!("{manifest} names it, and it is not there (any more)")),
                None => self.fault(manifest, "it has a line that is none of a manifest: it was changed"),
            }
            line.clear();
        }
        Ok(names)
    }

    fn digest(&self, name: &str) -> Result<String, Error> {
        let (mut digest, mut file) = (Sha256::new(), self.open(name)?);
        loop {
            let read = file.fill_buf().map_err(|error| Error { path: self.folder.join(name), error })?;
            if read.is_empty() {
                return Ok(hex(&digest.finalize()));
            }
            digest.update(read);
            let taken = read.len();
            file.consume(taken);
        }
    }

    /// The leaves that the rows are: 40 bytes of memory each.
    fn rows(&mut self) -> Result<(Vec<(u64, Hash)>, Counts), Error> {
        let (mut leaves, mut counts) = (Vec::new(), Counts::new());
        self.each_line(ROWS, |bag, number, line| match Row::parse(line) {
            Some(row) => {
                if !row.is_named {
                    bag.misnamed += 1;
                    let what = "its columns are not named as those of its table: names are not signed, and these were changed, or a \
                                later release has made the bundle";
                    bag.fault(ROWS, format!("line {number}: {what}"));
                }
                leaves.push((row.leaf, row.hash));
                bag.answer.sealed_later += u64::from(row.is_sealed_later);
                *counts.entry(row.table).or_default() += 1;
            }
            None => bag.fault(ROWS, format!("line {number} is no row: it was changed")),
        })?;
        leaves.sort_unstable();
        if leaves.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            self.fault(ROWS, "two rows claim to be the same leaf");
        }
        Ok((leaves, counts))
    }

    fn unproved(&mut self, counts: &mut Counts) -> Result<(), Error> {
        self.each_line(UNPROVED, |bag, number, line| {
            let row: Option<Value> = serde_json::from_slice(line).ok();
            match row.as_ref().and_then(|row| row["table"].as_str()) {
                Some(table) => {
                    bag.answer.unproved += 1;
                    *counts.entry(table.to_owned()).or_default() += 1;
                }
                None => bag.fault(UNPROVED, format!("line {number} is no row: it was changed")),
            }
        })
    }

    fn each_line(&mut self, name: &str, mut take: impl FnMut(&mut Self, u64, &[u8])) -> Result<(), Error> {
        let mut lines = self.open(name)?;
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            if read.map_err(|error| Error { path: self.folder.join(name), error })? == 0 {
                break;
            }
            take(self, number, &line);
        }
        Ok(())
    }

    /// What there is to be read has as many chats and events as what is proved.
    fn counts(&mut self, counts: &Counts) -> Result<(), Error> {
        let about: Value = serde_json::from_str(&self.text(ABOUT)?).unwrap_or_default();
        for table in ["chats", "events"] {
            let (told, found) = (about["rows"][table].as_u64(), counts.get(table).copied().unwrap_or_default());
            if told != Some(found) {
                let told = told.map_or("no number".into(), |told| told.to_string());
                self.fault(ABOUT, format!("it says {told} of {table}, and the rows have {found}"));
            }
        }
        Ok(())
    }

    fn signature(&mut self, given: &[PublicKey]) -> Result<(), Error> {
        let note = self.text(CHECKPOINT)?;
        let keys = self.with_successors(given, &note)?;
        match note::open(&note, &keys) {
            Ok((checkpoint, _)) => self.answer.checkpoint = Some(checkpoint),
            Err(Flaw::Unsigned) => {
                self.answer.is_signer_unknown = true;
                let what = "it is signed by another key than those given, and by none that follows one of them: nothing is proved. \
                            Give all public keys of the archive (`gms-recorder key list`)";
                self.fault(CHECKPOINT, what);
            }
            Err(flaw) => self.fault(CHECKPOINT, flaw.to_string()),
        }
        Ok(())
    }

    /// The keys that were given, and those of which one before them has signed that they follow in the archive of a checkpoint.
    fn with_successors(&mut self, given: &[PublicKey], checkpoint: &str) -> Result<Vec<PublicKey>, Error> {
        let mut keys = given.to_vec();
        if !self.folder.join(SUCCESSIONS).exists() {
            return Ok(keys);
        }
        let Ok(statements) = serde_json::from_str::<Vec<String>>(&self.text(SUCCESSIONS)?) else {
            self.fault(SUCCESSIONS, "it is no list of statements: it was changed");
            return Ok(keys);
        };
        let archive_id = checkpoint.lines().next().and_then(|origin| origin.strip_prefix(ORIGIN)).unwrap_or_default();
        for statement in &statements {
            let next = statement.lines().nth(1).and_then(|line| PublicKey::parse(line.strip_prefix("next key ")?));
            let is_stated = |next: &PublicKey| {
                keys.iter().any(|earlier| Succession::is_stated(archive_id, &next.vkey(), statement, earlier))
            };
            if let Some(next) = next.filter(is_stated) {
                keys.push(next);
            }
        }
        Ok(keys)
    }

    /// From the leaves up, with the hashes that the bundle has for what is not in it.
    fn root(&mut self, leaves: Vec<(u64, Hash)>) -> Result<(), Error> {
        let Some(Checkpoint { size, root, .. }) = self.answer.checkpoint else { return Ok(()) };
        let mut climb = Climb { nodes: self.open(NODES)?, is_short: false };
        let is_within = leaves.last().is_some_and(|(leaf, _)| *leaf < size);
        let found = if is_within { climb.root(0, size, &leaves) } else { None };
        let is_left_over = climb.nodes.fill_buf().is_ok_and(|rest| !rest.is_empty());
        match found {
            Some(found) if found == root && !climb.is_short && !is_left_over => {
                self.answer.proved = leaves.len() as u64 - self.misnamed;
            }
            _ => self
                .fault(ROWS, "these rows, with nodes.bin, do not lead to the root that was signed: a row was changed"),
        }
        Ok(())
    }
}

struct Climb {
    nodes: BufReader<File>,
    is_short: bool,
}

impl Climb {
    /// Of the leaves from `from` up to, without, `until`, of which these are known: at least one. As deep as a tree of 2^64 leaves
    /// is, at most.
    fn root(&mut self, from: u64, until: u64, known: &[(u64, Hash)]) -> Option<Hash> {
        if until - from == 1 {
            return known.first().map(|(_, hash)| *hash);
        }
        let middle = from + (until - from).next_power_of_two() / 2;
        let (left, right) = known.split_at(known.partition_point(|(leaf, _)| *leaf < middle));
        let left_root = if left.is_empty() { None } else { Some(self.root(from, middle, left)?) };
        let right_root = if right.is_empty() { None } else { Some(self.root(middle, until, right)?) };
        let left_root = left_root.unwrap_or_else(|| self.next());
        let right_root = right_root.unwrap_or_else(|| self.next());
        Some(node(&left_root, &right_root))
    }

    fn next(&mut self) -> Hash {
        let mut hash = [0; HASH_BYTES];
        self.is_short |= self.nodes.read_exact(&mut hash).is_err();
        hash
    }
}

/// A line of rows.
struct Row {
    table: String,
    leaf: u64,
    hash: Hash,
    /// As its table is: names are not hashed.
    is_named: bool,
    is_sealed_later: bool,
}

impl Row {
    fn parse(line: &[u8]) -> Option<Self> {
        let row: Value = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
        let table = row["table"].as_str()?.to_owned();
        let salt = BASE64_STANDARD.decode(row["salt"].as_str()?).ok().filter(|salt| salt.len() == SALT_BYTES)?;
        let mut bytes = vec![LEAF_PREFIX];
        bytes.extend_from_slice(&salt);
        put(&mut bytes, b'T', table.as_bytes())?;
        let fields = row["fields"].as_array()?;
        for field in fields {
            put_field(&mut bytes, field)?;
        }
        let (is_named, is_sealed_later) = (is_named(&table, fields), !row["sealed_later_at"].is_null());
        let (leaf, hash) = (row["leaf"].as_u64()?, Sha256::digest(&bytes).into());
        Some(Self { table, leaf, hash, is_named, is_sealed_later })
    }
}

/// Whether there is a form with these columns, in this order, and no others.
fn is_named(table: &str, fields: &[Value]) -> bool {
    let names = || fields.iter().map(|field| field[0].as_str());
    FORMS.iter().any(|form| form.table == table && names().eq(form.columns.iter().map(|name| Some(*name))))
}

/// As `migrations/0005_seals.sql` has it.
fn put_field(bytes: &mut Vec<u8>, field: &Value) -> Option<()> {
    let value = field.get(2)?;
    match field.get(1)?.as_str()? {
        "N" => bytes.push(b'N'),
        "I" => {
            bytes.push(b'I');
            bytes.extend_from_slice(&value.as_i64()?.to_be_bytes());
        }
        "R" => {
            bytes.push(b'R');
            bytes.extend_from_slice(&value.as_f64()?.to_be_bytes());
        }
        "T" => put(bytes, b'T', value.as_str()?.as_bytes())?,
        "B" => put(bytes, b'B', &BASE64_STANDARD.decode(value.as_str()?).ok()?)?,
        _ => return None,
    }
    Some(())
}

fn put(bytes: &mut Vec<u8>, kind: u8, content: &[u8]) -> Option<()> {
    bytes.push(kind);
    bytes.extend_from_slice(&u32::try_from(content.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(content);
    Some(())
}
