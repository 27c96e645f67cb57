//! The folder that an export becomes: written as `DEST.partial`, and named when all of it is there and on disk. What is
//! interrupted has only ever had the other name; what a process that was killed has left under it, the next one takes over.

use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use sha2::{Digest, Sha256};

use super::Error;

/// Says of a folder that it is an export that is not finished.
const MARK: &str = ".unfinished-export";
/// Files are put on disk by pieces of so many bytes: who syncs the write-ahead log of an archive on the same file system would
/// wait for all that is not there yet.
const SYNC_EACH: u64 = 4 << 20;
/// What is written last: a folder without the mark that has one of them was about to get its name.
const LAST: [&str; 2] = ["export.json", "data/export/export.json"];

/// A folder under its other name. Dropped before [`Folder::finish`], it is removed.
#[derive(Debug)]
pub struct Folder {
    partial: PathBuf,
    dest: PathBuf,
    mode: u32,
    /// Open as long as this is: its lock says that somebody is at it.
    lock: File,
    is_named: bool,
    /// Who wants to know what was written, in the order in which it was closed.
    ledger: RefCell<Ledger>,
}

/// What was written so far.
#[derive(Debug, Default)]
struct Ledger {
    /// A line for each file, where a bag is made of it.
    manifest: Option<Document>,
    files: u64,
    bytes: u64,
    /// Of files that were closed, since all of them were put on disk.
    unsynced: u64,
}

/// A file of it, while it is written.
#[derive(Debug)]
pub struct Document {
    /// From the folder on, with slashes.
    pub name: String,
    path: PathBuf,
    file: BufWriter<File>,
    digest: Sha256,
    bytes: u64,
    /// Of these, what was not put on disk by itself.
    unsynced: u64,
}

/// A file of it that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// From the folder on, with slashes.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

impl Folder {
    /// Makes it, its files with these permissions; or empties the one that an export has left which was killed.
    ///
    /// # Errors
    /// The name is taken; another export goes on; something else has the other name; the file system's.
    pub fn begin(dest: &Path, mode: u32) -> Result<Self, Error> {
        if dest.symlink_metadata().is_ok() {
            return Err(Error::Exists(dest.to_owned()));
        }
        let partial = crate::store::beside(dest, ".partial");
        let is_left = match make(&partial, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
            made => made.map(|()| false).map_err(|error| at(&partial, error))?,
        };
        let lock = lock(&partial)?;
        if is_left {
            empty(&partial, mode)?;
        }
        let folder = Self { partial, dest: dest.to_owned(), mode, lock, is_named: false, ledger: RefCell::default() };
        let mark = folder.partial.join(MARK);
        File::create(&mark).map_err(|error| at(&mark, error))?;
        Ok(folder)
    }

    /// A folder within.
    ///
    /// # Errors
    /// The file system's.
    pub fn within(&self, name: &str) -> Result<(), Error> {
        let path = self.partial.join(name);
        make(&path, self.mode).map_err(|error| at(&path, error))
    }

    /// A file within.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(&self, name: impl Into<String>) -> Result<Document, Error> {
        let name = name.into();
        let path = self.partial.join(&name);
        let opened = OpenOptions::new().write(true).create_new(true).mode(self.mode).open(&path);
        let file = BufWriter::new(opened.map_err(|error| at(&path, error))?);
        Ok(Document { name, path, file, digest: Sha256::new(), bytes: 0, unsynced: 0 })
    }

    /// Ends a file of it.
    ///
    /// # Errors
    /// The file system's.
    pub fn close(&self, document: Document) -> Result<Written, Error> {
        let unsynced = document.unsynced;
        let written = document.close()?;
        let mut ledger = self.ledger.borrow_mut();
        ledger.files += 1;
        ledger.bytes += written.bytes;
        ledger.unsynced += unsynced;
        if ledger.unsynced >= SYNC_EACH {
            self.sync()?;
            ledger.unsynced = 0;
        }
        if let Some(manifest) = &mut ledger.manifest {
            writeln!(manifest, "{}  {}", written.sha256, written.name)?;
        }
        Ok(written)
    }

    /// From here on every file that is closed gets its line in this one.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep_manifest(&self, name: &str) -> Result<(), Error> {
        self.ledger.borrow_mut().manifest = Some(self.create(name)?);
        Ok(())
    }

    /// Ends the manifest: itself, how many files it has, and of how many bytes.
    ///
    /// # Errors
    /// The file system's.
    pub fn end_manifest(&self) -> Result<(Option<Written>, u64, u64), Error> {
        let mut ledger = self.ledger.borrow_mut();
        let manifest = ledger.manifest.take().map(Document::close).transpose()?;
        Ok((manifest, ledger.files, ledger.bytes))
    }

    /// Files that were closed so far, and their bytes.
    pub fn written(&self) -> (u64, u64) {
        let ledger = self.ledger.borrow();
        (ledger.files, ledger.bytes)
    }

    /// Where it is while it is written.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Puts all of it on disk, and gives it its name.
    ///
    /// # Errors
    /// The file system's; [`Error::Exists`] where the name was taken meanwhile.
    pub fn finish(mut self) -> Result<(), Error> {
        let mark = self.partial.join(MARK);
        std::fs::remove_file(&mark).map_err(|error| at(&mark, error))?;
        self.sync()?;
        self.name().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists(self.dest.clone()),
            _ => at(&self.dest, error),
        })?;
        self.is_named = true;
        let above = self.dest.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(above).and_then(|above| above.sync_all()).map_err(|error| at(above, error))
    }

    /// One for the whole file system: a sync for each of ten thousand files takes minutes.
    fn sync(&self) -> Result<(), Error> {
        rustix::fs::syncfs(&self.lock).map_err(|error| at(&self.partial, error.into()))
    }

    fn name(&self) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, &self.partial, CWD, &self.dest, RenameFlags::NOREPLACE) {
            // Some file systems (NFS) do not know it; renaming a folder replaces at most an empty one.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match self.dest.symlink_metadata() {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => std::fs::rename(&self.partial, &self.dest),
            },
            other => Ok(other?),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_named {
            let _ = std::fs::remove_dir_all(&self.partial); // what stays has no other name than this
        }
    }
}

impl Document {
    fn close(mut self) -> Result<Written, Error> {
        self.file.flush().map_err(|error| at(&self.path, error))?;
        let sha256 = super::hex(&self.digest.finalize());
        Ok(Written { name: self.name, bytes: self.bytes, sha256 })
    }
}

impl Write for Document {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        self.unsynced += written as u64;
        if self.unsynced >= SYNC_EACH {
            self.file.flush()?;
            self.file.get_ref().sync_data()?;
            self.unsynced = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Whoever may read a file may look into its folder.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(folder_mode(mode)).create(path)
}

fn folder_mode(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}

/// The folder, locked. The path has to lead to it still: whoever had it before may have given it its name meanwhile.
fn lock(partial: &Path) -> Result<File, Error> {
    if !partial.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return Err(Error::Foreign(partial.to_owned()));
    }
    let folder = File::open(partial).map_err(|error| at(partial, error))?;
    match folder.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::UnderWay(partial.to_owned())),
        Err(TryLockError::Error(error)) => return Err(at(partial, error)),
    }
    let identity = |found: io::Result<std::fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
    match identity(folder.metadata()) == identity(partial.symlink_metadata()) {
        true => Ok(folder),
        false => Err(Error::UnderWay(partial.to_owned())),
    }
}

/// Takes everything out of a folder that is an export's.
fn empty(partial: &Path, mode: u32) -> Result<(), Error> {
    let told = |error| at(partial, error);
    let within: Vec<_> = std::fs::read_dir(partial).and_then(Iterator::collect).map_err(told)?;
    let is_ours = |name: &&str| partial.join(name).symlink_metadata().is_ok();
    if !within.is_empty() && !std::iter::once(&MARK).chain(&LAST).any(is_ours) {
        return Err(Error::Foreign(partial.to_owned()));
    }
    // The mark at last: if this is interrupted, too, it is known again.
    let (mark, others): (Vec<_>, Vec<_>) = within.into_iter().partition(|entry| entry.file_name() == MARK);
    for entry in others.into_iter().chain(mark) {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let path = entry.path();
        let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(|error| at(&path, error))?;
    }
    std::fs::set_permissions(partial, Permissions::from_mode(folder_mode(mode))).map_err(told)
}

fn at(path: &Path, error: io::Error) -> Error {
    Error::File { path: path.to_owned(), error }
}
