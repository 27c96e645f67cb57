//! The folder that an export becomes: written as `DEST.partial`, and named when all of it is there and on disk. What is
//! interrupted has only ever had the other name.

use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use sha2::{Digest, Sha256};

use super::Error;

/// A folder under its other name. Dropped before [`Folder::finish`], it is removed.
#[derive(Debug)]
pub struct Folder {
    partial: PathBuf,
    dest: PathBuf,
    mode: u32,
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
    /// Makes it, its files with these permissions.
    ///
    /// # Errors
    /// The name is taken; an interrupted export is left; the file system's.
    pub fn begin(dest: &Path, mode: u32) -> Result<Self, Error> {
        if dest.symlink_metadata().is_ok() {
            return Err(Error::Exists(dest.to_owned()));
        }
        let partial = crate::store::beside(dest, ".partial");
        let folder = Self { partial, dest: dest.to_owned(), mode, is_named: false, ledger: RefCell::default() };
        match folder.make(&folder.partial) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let left = folder.partial.clone();
                std::mem::forget(folder); // it is not ours to remove
                Err(Error::Left(left))
            }
            made => made.map_err(|error| at(&folder.partial, error)).map(|()| folder),
        }
    }

    /// Whoever may read a file may look into its folder.
    fn make(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(self.mode | (self.mode & 0o444) >> 2).create(path)
    }

    /// A folder within.
    ///
    /// # Errors
    /// The file system's.
    pub fn within(&self, name: &str) -> Result<(), Error> {
        let path = self.partial.join(name);
        self.make(&path).map_err(|error| at(&path, error))
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
        Ok(Document { name, path, file, digest: Sha256::new(), bytes: 0 })
    }

    /// Ends a file of it.
    ///
    /// # Errors
    /// The file system's.
    pub fn close(&self, document: Document) -> Result<Written, Error> {
        let written = document.close()?;
        let mut ledger = self.ledger.borrow_mut();
        ledger.files += 1;
        ledger.bytes += written.bytes;
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

    /// Where it is while it is written.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Puts all of it on disk, and gives it its name.
    ///
    /// # Errors
    /// The file system's; [`Error::Exists`] where the name was taken meanwhile.
    pub fn finish(mut self) -> Result<(), Error> {
        // One for the whole file system: a sync for each of ten thousand files takes minutes.
        let synced = File::open(&self.partial).and_then(|folder| Ok(rustix::fs::syncfs(&folder)?));
        synced.map_err(|error| at(&self.partial, error))?;
        self.name().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists(self.dest.clone()),
            _ => at(&self.dest, error),
        })?;
        self.is_named = true;
        let above = self.dest.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(above).and_then(|above| above.sync_all()).map_err(|error| at(above, error))
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
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn at(path: &Path, error: io::Error) -> Error {
    Error::File { path: path.to_owned(), error }
}
