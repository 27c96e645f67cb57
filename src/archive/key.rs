//! The file of the private key: made with the archive, read by its owner alone, and never made anew for an archive that had
//! one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::note::{ORIGIN, PublicKey, Signer, Succession};
use crate::store::beside;

/// How long a rotation waits for another one, which takes milliseconds, and seconds where the archive is busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether it has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Why nothing can be signed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was there once.
    #[error(
        "the key {} is missing, and this archive was signed with it: put it back (from the backup of keys); it is not made \
         anew", .0.display()
    )]
    Missing(PathBuf),
    /// No key.
    #[error("{} is no private key for signed notes (PRIVATE+KEY+…)", .0.display())]
    Malformed(PathBuf),
    /// Another archive's, or somebody's.
    #[error("the key {} is another one than this archive is signed with ({wanted}): put the right one there{}", path.display(), hint(former.as_deref()))]
    Other {
        /// The file.
        path: PathBuf,
        /// The public key of the right one.
        wanted: String,
        /// The right one, where a rotation has left it beside the file.
        former: Option<PathBuf>,
    },
    /// Two at once would take each other's files away.
    #[error("another rotation of the key {} is at work: run it again when that one has ended", .0.display())]
    Busy(PathBuf),
    /// The file system.
    #[error("the key {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
}

/// Reads the key of an archive that was signed with `known` ones before, the last of them at present. Where there is none
/// yet, and the file does not exist, it is made. A rotation that was cut short is finished.
///
/// # Errors
/// Why nothing can be signed.
pub fn open(path: &Path, archive_id: &str, known: &[String]) -> Result<Signer, Error> {
    let rotation = match check(path, known) {
        Ok(Some(signer)) => return Ok(signer),
        Ok(None) => Rotation::wait(path, PATIENCE)?,
        Err(error) => {
            let Ok(Some(signer)) = check(&next(path), known).or_else(|_| check(path, known)) else { return Err(error) };
            match Rotation::try_begin(path) {
                Ok(Some(rotation)) => rotation,
                _ => return Ok(signer), // whoever is at it moves the file
            }
        }
    };
    rotation.open(archive_id, known)
}

/// The key, where [`open`] would find it. Makes none.
///
/// # Errors
/// Why nothing could be signed.
pub fn check(path: &Path, known: &[String]) -> Result<Option<Signer>, Error> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && known.is_empty() => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing(path.to_owned())),
        Err(error) => Err(at(path)(error)),
        Ok(text) => of_archive(path, &text, known).map(Some),
    }
}

/// The change of a key, at most one at a time: a lock file beside the key's admits it, until this is dropped or the process
/// dies. What the archive knows has to be read after it has begun.
#[derive(Debug)]
pub struct Rotation {
    /// The key's file.
    path: PathBuf,
    _lock: File,
}

impl Rotation {
    /// Waits a moment where another one is at work.
    ///
    /// # Errors
    /// There is no key; another one is still at work; or the lock file cannot be made.
    pub fn begin(path: &Path) -> Result<Self, Error> {
        if !path.exists() && !next(path).exists() {
            return Err(Error::Missing(path.to_owned()));
        }
        Self::wait(path, PATIENCE)
    }

    fn wait(path: &Path, patience: Duration) -> Result<Self, Error> {
        let until = Instant::now() + patience;
        loop {
            match Self::try_begin(path).map_err(at(path))? {
                Some(rotation) => return Ok(rotation),
                None if Instant::now() < until => sleep(LOOK_INTERVAL),
                None => return Err(Error::Busy(path.to_owned())),
            }
        }
    }

    /// None where another one is at work.
    fn try_begin(path: &Path) -> io::Result<Option<Self>> {
        let lock = beside(path, "-lock");
        let mut writing = OpenOptions::new();
        let writing = writing.write(true).mode(0o600);
        let file = match writing.clone().create_new(true).open(&lock) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => writing.open(&lock)?,
            made => {
                let made = made?;
                let _ = give_to_owner_of(path, &made); // or root alone finishes what a crash cuts short
                made
            }
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), _lock: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Makes another key, and says that it follows the present one: `introduce` is given the present public key, the next
    /// one, and the statement, and brings both into the archive, if the present one is the archive's still. Then the file
    /// takes the other one's place; the former one stays beside it.
    ///
    /// # Errors
    /// The present key is not there, or `introduce` failed: then nothing has changed.
    pub fn rotate<E: From<Error>>(
        &self,
        archive_id: &str,
        known: &[String],
        now: i64,
        introduce: impl FnOnce(&str, &str, &str) -> Result<(), E>,
    ) -> Result<PublicKey, E> {
        let path = &self.path;
        if known.is_empty() {
            return Err(Error::Missing(path.to_owned()).into());
        }
        let present = self.open(archive_id, known)?;
        let text = make(&next(path), archive_id, Some(path))?;
        let later = of_archive(&next(path), &text, &[])?;
        self.keep_former(&later)?;
        let (former, vkey) = (present.public().vkey(), later.public().vkey());
        let succession = Succession { archive_id: archive_id.into(), next: vkey.clone(), at: now };
        introduce(&former, &vkey, &succession.signed(&present, &later))?;
        Ok(self.finish(&[former, vkey])?.public().clone())
    }

    /// As [`open`].
    fn open(&self, archive_id: &str, known: &[String]) -> Result<Signer, Error> {
        match check(&self.path, known) {
            Ok(Some(signer)) => Ok(signer),
            Ok(None) => of_archive(&self.path, &make(&self.path, archive_id, None)?, known),
            Err(_) => self.finish(known),
        }
    }

    /// Where the archive knows the next key already, that takes the place of the one before.
    ///
    /// # Errors
    /// The present key is not in its place then.
    fn finish(&self, known: &[String]) -> Result<Signer, Error> {
        let path = &self.path;
        if let Ok(Some(signer)) = check(&next(path), known) {
            self.keep_former(&signer)?;
            match std::fs::rename(next(path), path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path)(error)),
                _ => sync_folder_of(path).map_err(at(path))?, // or a `serve` of an earlier release has moved it
            }
        }
        check(path, known)?.ok_or_else(|| Error::Missing(path.to_owned()))
    }

    /// A copy of what is in the file's place, on disk before `later` goes there: it may be the only one, and older backups
    /// want it.
    fn keep_former(&self, later: &Signer) -> Result<(), Error> {
        let path = &self.path;
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(at(path))?,
        };
        let former = Signer::parse(&text).ok_or_else(|| Error::Malformed(path.to_owned()))?;
        if former.public() == later.public() {
            return Ok(());
        }
        let aside = aside(path, former.public());
        let found = match std::fs::read(&aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(at(&aside))?),
        };
        let kept = found.as_deref().and_then(|bytes| Signer::parse(std::str::from_utf8(bytes).ok()?));
        match kept.map(|kept| kept.public() == former.public()) {
            Some(true) => File::open(&aside).and_then(|file| file.sync_all()).and_then(|()| sync_folder_of(&aside)),
            Some(false) => Err(io::ErrorKind::AlreadyExists.into()),
            None => put(&aside, &text, Some(path)), // what is there, if anything, is what a crash has left of it
        }
        .map_err(at(&aside))
    }
}

/// Whoever rotates as root does it for the user of `serve`.
fn give_to_owner_of(path: &Path, file: &File) -> io::Result<()> {
    let (wanted, found) = (std::fs::metadata(path)?, file.metadata()?);
    if (wanted.uid(), wanted.gid()) == (found.uid(), found.gid()) {
        return Ok(());
    }
    fchown(file, Some(wanted.uid()), Some(wanted.gid()))
}

fn next(path: &Path) -> PathBuf {
    beside(path, ".next")
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::Io { path, error }
}

fn of_archive(path: &Path, text: &str, known: &[String]) -> Result<Signer, Error> {
    let signer = Signer::parse(text).ok_or_else(|| Error::Malformed(path.to_owned()))?;
    match known.last().filter(|wanted| **wanted != signer.public().vkey()) {
        None => Ok(signer),
        Some(wanted) => {
            let former = PublicKey::parse(wanted).map(|wanted| aside(path, &wanted)).filter(|former| former.exists());
            Err(Error::Other { path: path.to_owned(), wanted: wanted.clone(), former })
        }
    }
}

fn hint(former: Option<&Path>) -> String {
    former.map_or(String::new(), |former| {
        format!(", and keep the one that is there elsewhere. It is the former one, {}", former.display())
    })
}

/// Where a rotation leaves the key that it replaced.
fn aside(path: &Path, former: &PublicKey) -> PathBuf {
    beside(path, &format!(".{}", former.id_in_hex()))
}

/// On disk before it is used: what it signs outlives a power cut. It belongs to whom `owner` belongs.
fn make(path: &Path, archive_id: &str, owner: Option<&Path>) -> Result<String, Error> {
    let mut seed = [0; 32];
    let seeded = getrandom::fill(&mut seed).map_err(io::Error::other);
    let text = Signer::written(&format!("{ORIGIN}{archive_id}"), &seed).ok_or(io::ErrorKind::InvalidData.into());
    let text = seeded.and(text).map_err(at(path))?;
    put(path, &text, owner).map_err(at(path))?;
    Ok(text)
}

/// A file that is there whole or not at all, in the place of what may be there.
fn put(path: &Path, text: &str, owner: Option<&Path>) -> io::Result<()> {
    let part = beside(path, ".part");
    // What a crash has left of another attempt signs nothing.
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write(&part, text, owner)?;
    std::fs::rename(&part, path)?;
    sync_folder_of(path)
}

fn write(path: &Path, text: &str, owner: Option<&Path>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    owner.map_or(Ok(()), |owner| give_to_owner_of(owner, &file))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_once_and_never_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db.key");
        let made = open(&path, "15cd", &[]).expect("made").public().vkey();
        assert!(made.starts_with("gms-recorder/15cd+"), "{made}");
        assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        let known = [made.clone()];
        assert_eq!(open(&path, "15cd", &known).expect("read").public().vkey(), made);
        assert_eq!(open(&path, "15cd", &[]).expect("a given one is taken").public().vkey(), made);
        assert!(matches!(open(&path, "15cd", &["other".into()]), Err(Error::Other { .. })));
        std::fs::write(&path, "no key").expect("the folder is ours");
        assert!(matches!(open(&path, "15cd", &known), Err(Error::Malformed(_))));
        std::fs::remove_file(&path).expect("it is there");
        assert!(matches!(open(&path, "15cd", &known), Err(Error::Missing(_))));
        assert!(matches!(check(&path, &known), Err(Error::Missing(_))) && matches!(check(&path, &[]), Ok(None)));
        assert!(!path.exists());
    }

    /// Wherever it is cut short, the archive says which key counts, and that one is found.
    #[test]
    fn a_rotation_that_was_cut_short_is_finished() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db.key");
        let first = open(&path, "15cd", &[]).expect("made").public().vkey();
        let known = [first.clone()];
        let rotation = Rotation::begin(&path).expect("no other one is at work");
        let failed = rotation.rotate("15cd", &known, 1, |_, _, _| Err(Error::Malformed("no archive".into())));
        assert!(matches!(failed, Err(Error::Malformed(_))));
        assert_eq!(open(&path, "15cd", &known).expect("nothing has changed").public().vkey(), first);

        let mut introduced = None;
        let later = rotation.rotate("15cd", &known, 1, |former, vkey, _| {
            assert_eq!(former, first);
            introduced = Some((vkey.to_owned(), std::fs::read(&path).expect("still the former one")));
            Ok::<_, Error>(())
        });
        drop(rotation);
        let (second, former) = introduced.expect("it was");
        assert_eq!(later.expect("done").vkey(), second);
        let known = [first, second.clone()];
        assert_eq!(open(&path, "15cd", &known).expect("the later one").public().vkey(), second);
        // As if it had been killed before, between, and after both renames.
        let later = std::fs::read(&path).expect("it is there");
        for (at_path, at_next) in [(Some(&former), Some(&later)), (None, Some(&later)), (Some(&later), None)] {
            for (place, bytes) in [(path.clone(), at_path), (next(&path), at_next)] {
                let _ = std::fs::remove_file(&place);
                bytes.into_iter().for_each(|bytes| std::fs::write(&place, bytes).expect("the folder is ours"));
            }
            assert_eq!(open(&path, "15cd", &known).expect("found").public().vkey(), second);
            assert!(path.exists() && !next(&path).exists());
        }
    }

    /// Whoever comes meanwhile touches no file of it, and finds the key that counts.
    #[test]
    fn one_rotation_is_at_work_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db.key");
        assert!(matches!(Rotation::begin(&path), Err(Error::Missing(_))) && !beside(&path, "-lock").exists());
        let first = open(&path, "15cd", &[]).expect("made").public().vkey();
        let (rotation, known) = (Rotation::begin(&path).expect("the first"), [first.clone()]);
        assert!(matches!(Rotation::wait(&path, Duration::ZERO), Err(Error::Busy(_))));
        let done = rotation.rotate("15cd", &known, 1, |_, vkey, _| {
            let known = [first.clone(), vkey.to_owned()];
            assert_eq!(open(&path, "15cd", &known).expect("a running `serve`").public().vkey(), vkey);
            assert!(next(&path).exists() && check(&path, &known).is_err(), "it is moved by who is at work");
            Ok::<_, Error>(())
        });
        let second = done.expect("nobody was in its way").vkey();
        // It vanishes between: that is said, and the former one is where it was.
        let known = [first, second.clone()];
        let lost = rotation.rotate("15cd", &known, 1, |_, _, _| {
            std::fs::remove_file(next(&path)).expect("it is there");
            Ok::<_, Error>(())
        });
        assert!(matches!(lost, Err(Error::Other { .. })), "{lost:?}");
        assert_eq!(open(&path, "15cd", &known).expect("still there").public().vkey(), second);
        drop(rotation);
        assert!(Rotation::begin(&path).is_ok());
    }

    /// A crash of an earlier release may have left an empty file in the former key's place, or half of it.
    #[test]
    fn a_rotation_never_takes_the_only_copy_of_the_former_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db.key");
        let mut known = vec![open(&path, "15cd", &[]).expect("made").public().vkey()];
        let stranger = Signer::written("gms-recorder/15cd", &[7; 32]).expect("a key");
        let rotate = |known: &mut Vec<String>| {
            let rotation = Rotation::begin(&path).expect("no other one is at work");
            let present = known.clone();
            rotation.rotate("15cd", &present, 1, |_, vkey, _| {
                known.push(vkey.to_owned());
                Ok::<_, Error>(())
            })
        };
        for left in [None, Some(0), Some(20), Some(usize::MAX)] {
            let text = std::fs::read(&path).expect("the present one");
            let aside = aside(&path, &PublicKey::parse(&known[known.len() - 1]).expect("a key"));
            let left = left.map(|left| &text[..text.len().min(left)]);
            left.into_iter().for_each(|left| std::fs::write(&aside, left).expect("the folder is ours"));
            rotate(&mut known).expect("done");
            assert_eq!(std::fs::read(&aside).expect("it is there"), text, "{left:?}");
            assert_eq!(open(&path, "15cd", &known).expect("the next").public().vkey(), known[known.len() - 1]);
        }
        // Another key is there, which nobody may lose either.
        let text = std::fs::read(&path).expect("the present one");
        let aside = aside(&path, &PublicKey::parse(&known[4]).expect("a key"));
        std::fs::write(&aside, &stranger).expect("the folder is ours");
        assert!(matches!(rotate(&mut known), Err(Error::Io { .. })));
        assert_eq!((known.len(), std::fs::read_to_string(&aside).expect("it is there")), (5, stranger));
        std::fs::remove_file(&aside).expect("it is there");
        // A rotation that was cut short is not finished either where that takes something away.
        let later = Signer::parse(&make(&next(&path), "15cd", None).expect("made")).expect("a key");
        known.push(later.public().vkey());
        std::fs::create_dir(&aside).expect("the folder is ours");
        assert!(matches!(open(&path, "15cd", &known), Err(Error::Io { .. })));
        assert_eq!(std::fs::read(&path).expect("it is there"), text);
        std::fs::remove_dir(&aside).expect("it is empty");
        std::fs::write(&path, "age-encryption.org/v1").expect("the folder is ours");
        assert!(matches!(open(&path, "15cd", &known), Err(Error::Malformed(_))));
        assert_eq!(std::fs::read(&path).expect("it is there"), b"age-encryption.org/v1");
        std::fs::write(&path, &text).expect("the folder is ours");
        assert_eq!(open(&path, "15cd", &known).expect("it is finished now").public(), later.public());
        assert_eq!(std::fs::read(&aside).expect("it is there"), text);
    }
}
