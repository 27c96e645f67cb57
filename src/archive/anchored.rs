//! What an anchor gives back to an auditor: its file, or a folder as it was downloaded from a bucket.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Folders in folders: a prefix with some slashes, and the archive's. Deeper ones are somebody's circle.
const DEPTH_MAX: usize = 16;

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
