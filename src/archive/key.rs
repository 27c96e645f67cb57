//! The file of the private key: made with the archive, read by its owner alone, and never made anew for an archive that had
//! one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::note::{ORIGIN, PublicKey, Signer, Succession};
use crate::store::beside;

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
    match check(path, known) {
        Ok(Some(signer)) => Ok(signer),
        Ok(None) => {
            let text = make(path, archive_id).map_err(at(path))?;
            of_archive(path, &text, known)
        }
        Err(error) => finish_rotation(path, known)?.ok_or(error),
    }
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

/// Makes another key, and says that it follows the present one: `introduce` is given its public key and the statement, and
/// brings both into the archive. Then it takes the file's place; the former one stays beside it.
///
/// # Errors
/// The present key is not there, or `introduce` failed: then nothing has changed.
pub fn rotate<E: From<Error>>(
    path: &Path,
    archive_id: &str,
    known: &[String],
    now: i64,
    introduce: impl FnOnce(&str, &str) -> Result<(), E>,
) -> Result<PublicKey, E> {
    if known.is_empty() {
        return Err(Error::Missing(path.to_owned()).into());
    }
    let present = open(path, archive_id, known)?;
    let text = make(&next(path), archive_id).map_err(at(&next(path)))?;
    give_to_owner_of(path, &next(path))?;
    let later = of_archive(&next(path), &text, &[])?;
    let vkey = later.public().vkey();
    let succession = Succession { archive_id: archive_id.into(), next: vkey.clone(), at: now };
    introduce(&vkey, &succession.signed(&present, &later))?;
    finish_rotation(path, &[present.public().vkey(), vkey])?;
    Ok(later.public().clone())
}

/// The archive knows the next key already: it takes the place of the one before. A running `serve` does it, too.
fn finish_rotation(path: &Path, known: &[String]) -> Result<Option<Signer>, Error> {
    let Ok(Some(signer)) = check(&next(path), known).or_else(|_| check(path, known)) else { return Ok(None) };
    if let Ok(text) = std::fs::read_to_string(path)
        && let Some(former) = Signer::parse(&text).filter(|former| former.public() != signer.public())
    {
        let aside = aside(path, former.public());
        match write(&aside, &text) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(&aside)(error)),
            _ => give_to_owner_of(path, &aside)?,
        }
    }
    match std::fs::rename(next(path), path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(Some(signer)),
    }
}

/// Whoever rotates as root does it for the user of `serve`.
fn give_to_owner_of(path: &Path, file: &Path) -> Result<(), Error> {
    let owner = |path: &Path| std::fs::metadata(path).map(|found| (found.uid(), found.gid()));
    let wanted = owner(path).map_err(at(path))?;
    if owner(file).map_err(at(file))? == wanted {
        return Ok(());
    }
    std::os::unix::fs::chown(file, Some(wanted.0), Some(wanted.1)).map_err(at(file))
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

/// On disk before it is used: what it signs outlives a power cut.
fn make(path: &Path, archive_id: &str) -> io::Result<String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let text = Signer::written(&format!("{ORIGIN}{archive_id}"), &seed).ok_or(io::ErrorKind::InvalidData)?;
    let part = beside(path, ".part");
    // What a crash has left of another attempt signs nothing.
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write(&part, &text)?;
    std::fs::rename(&part, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok(text)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
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
        let failed = rotate(&path, "15cd", &known, 1, |_, _| Err(Error::Malformed("no archive".into())));
        assert!(matches!(failed, Err(Error::Malformed(_))));
        assert_eq!(open(&path, "15cd", &known).expect("nothing has changed").public().vkey(), first);

        let mut introduced = None;
        let later = rotate(&path, "15cd", &known, 1, |vkey, _| {
            introduced = Some((vkey.to_owned(), std::fs::read(&path).expect("still the former one")));
            Ok::<_, Error>(())
        });
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
}
