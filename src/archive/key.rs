//! The file of the private key: made with the archive, read by its owner alone, and never made anew for an archive that had
//! one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::note::{ORIGIN, Signer};

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
    #[error("the key {} is another one than this archive is signed with ({wanted}): put the right one there", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// The public key of the right one.
        wanted: String,
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
/// yet, and the file does not exist, it is made.
///
/// # Errors
/// Why nothing can be signed.
pub fn open(path: &Path, archive_id: &str, known: &[String]) -> Result<Signer, Error> {
    let at = |error| Error::Io { path: path.to_owned(), error };
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && known.is_empty() => {
            make(path, archive_id).map_err(at)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing(path.to_owned())),
        read => read.map_err(at)?,
    };
    of_archive(path, &text, known)
}

/// Whether [`open`] would find it, of an archive that was signed before. Makes none.
///
/// # Errors
/// Why nothing could be signed.
pub fn check(path: &Path, known: &[String]) -> Result<(), Error> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && known.is_empty() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing(path.to_owned())),
        Err(error) => Err(Error::Io { path: path.to_owned(), error }),
        Ok(text) => of_archive(path, &text, known).map(drop),
    }
}

fn of_archive(path: &Path, text: &str, known: &[String]) -> Result<Signer, Error> {
    let signer = Signer::parse(text).ok_or_else(|| Error::Malformed(path.to_owned()))?;
    match known.last().filter(|wanted| **wanted != signer.public().vkey()) {
        None => Ok(signer),
        Some(wanted) => Err(Error::Other { path: path.to_owned(), wanted: wanted.clone() }),
    }
}

/// On disk before it is used: what it signs outlives a power cut.
fn make(path: &Path, archive_id: &str) -> io::Result<String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let text = Signer::written(&format!("{ORIGIN}{archive_id}"), &seed).ok_or(io::ErrorKind::InvalidData)?;
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    // What a crash has left of another attempt signs nothing.
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok(text)
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
        assert!(matches!(check(&path, &known), Err(Error::Missing(_))) && check(&path, &[]).is_ok());
        assert!(!path.exists());
    }
}
