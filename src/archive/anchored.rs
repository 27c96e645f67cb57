//! What an anchor gives back to an auditor: its file, or a folder as it was downloaded from a bucket.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::anchor::Config;
use super::note::{self, Checkpoint, PublicKey};

/// Folders in folders: a prefix with some slashes, and the archive's. Deeper ones are somebody's circle.
const DEPTH_MAX: usize = 16;

/// The end of an anchor's file: some two hundred notes.
const TAIL_BYTES: u64 = 1 << 16;
/// Notes at the end of a folder that are looked at: others may be of other archives.
const LAST_MAX: usize = 50;

/// What cannot be read, and why.
type Failed = (PathBuf, io::Error);

/// An anchor's files.
#[derive(Debug)]
pub(super) struct Anchor {
    /// As it was given.
    pub path: PathBuf,
    /// In the order of their names.
    pub files: Vec<Notes>,
}

/// A file with one note or more.
#[derive(Debug)]
pub(super) struct Notes {
    pub path: PathBuf,
    pub text: String,
    /// The time stamp beside it: `X.tsr` beside `X.note`.
    pub stamp: Option<(PathBuf, Vec<u8>)>,
}

impl Anchor {
    /// A file; or of a folder all that end in `.note`, in the folders in it, too.
    ///
    /// # Errors
    /// Which file or folder cannot be read, and why.
    pub fn read(path: &Path) -> Result<Self, Failed> {
        let mut files = Vec::new();
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => read_folder(path, DEPTH_MAX, &mut files)?,
            _ => files.push(Notes { path: path.into(), text: text(path)?, stamp: None }),
        }
        Ok(Self { path: path.into(), files })
    }
}

/// The last checkpoint of an archive that an anchor has which lies here, in a file or a folder. None of others, and where
/// there is none or it cannot be read.
pub(super) fn last(config: &Config, archive_id: &str, keys: &[PublicKey]) -> Option<Checkpoint> {
    let text = match config {
        Config::File(file) => tail(&file.path).ok()?,
        Config::TimeStamp(stamps) => last_notes(&stamps.folder).ok()?,
        Config::Http(_) | Config::S3(_) => return None,
    };
    let checkpoints = note::split(&text).into_iter().filter_map(|one| Some(note::open(one, keys).ok()?.0));
    checkpoints.filter(|checkpoint| checkpoint.archive_id == archive_id).max_by_key(|checkpoint| checkpoint.at)
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Their names are in the order of leaves.
fn last_notes(folder: &Path) -> io::Result<String> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension() == Some(OsStr::new("note")));
    paths.sort_unstable();
    paths.iter().rev().take(LAST_MAX).map(|path| Ok(text(path).map_err(|(_, error)| error)? + "\n")).collect()
}

fn read_folder(folder: &Path, depth: usize, files: &mut Vec<Notes>) -> Result<(), Failed> {
    let told = |error| (folder.to_owned(), error);
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(told)?;
    let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
    paths.sort_unstable();
    for path in paths {
        if path.is_dir() {
            let too_deep = || io::Error::other(format!("folders lie {DEPTH_MAX} deep in each other"));
            let depth = depth.checked_sub(1).ok_or_else(|| (path.clone(), too_deep()))?;
            read_folder(&path, depth, files)?;
        } else if path.extension() == Some(OsStr::new("note")) {
            let (text, stamp) = (text(&path)?, stamp(path.with_extension("tsr"))?);
            files.push(Notes { path, text, stamp });
        }
    }
    Ok(())
}

fn stamp(path: PathBuf) -> Result<Option<(PathBuf, Vec<u8>)>, Failed> {
    match fs::read(&path) {
        Ok(bytes) => Ok(Some((path, bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err((path, error)),
    }
}

fn text(path: &Path) -> Result<String, Failed> {
    let bytes = fs::read(path).map_err(|error| (path.to_owned(), error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
