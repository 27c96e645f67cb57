//! The reserve: a file beside the archive that does nothing but take up room. On a full disk it is given back to the file
//! system, so that what must go on can go on: commits, purges, a backup, an operator who looks around.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::beside;
use super::place::Place;

/// It is made only where so many times its size are free: it must not be what fills the disk.
const ROOM: u64 = 4;
/// What is written at one time where the file system cannot allocate.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The reserve of an archive.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// `<database>-reserve`, of so many bytes. 0: there is to be none.
    pub fn new(database: &Path, bytes: u64) -> Self {
        Self { path: beside(database, "-reserve"), bytes }
    }

    /// Bytes that it is to have.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that it takes up on the disk now.
    pub fn held(&self) -> u64 {
        std::fs::metadata(&self.path)
            .map_or(0, |found| if found.len() == self.bytes { found.blocks() * 512 } else { 0 })
    }

    /// Makes it with blocks of its own, not as a hole.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] where less than four times its size is free; else as making a file goes wrong. None is
    /// left then.
    pub fn make(&self) -> io::Result<()> {
        if self.bytes == 0 {
            return self.give_back();
        }
        let free = Place::of(&self.path)?.free_bytes;
        if free < self.bytes.saturating_mul(ROOM) {
            let words = format!("{free} bytes are free, and {ROOM} times the reserve's {} are wanted", self.bytes);
            return Err(io::Error::new(io::ErrorKind::StorageFull, words));
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        let allocated = match fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_out(&file),
            allocated => allocated.map_err(io::Error::from),
        };
        allocated.inspect_err(|_| {
            let _ = self.give_back();
        })
    }

    /// Gives it back to the file system. Nothing where there is none.
    ///
    /// # Errors
    /// As removing a file goes wrong.
    pub fn give_back(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn write_out(&self, mut file: &File) -> io::Result<()> {
        let mut left = self.bytes;
        while left > 0 {
            let next = left.min(ZEROS.len() as u64);
            file.write_all(&ZEROS[..next as usize])?;
            left -= next;
        }
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_up_room_until_it_is_given_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("a.db");
        let reserve = Reserve::new(&database, 1 << 20);
        assert_eq!(reserve.held(), 0);
        reserve.make().expect("there is room");
        assert!(reserve.held() >= 1 << 20, "no hole");
        reserve.write_out(&File::create(&reserve.path).expect("it is ours")).expect("there is room");
        assert!(reserve.held() >= 1 << 20, "nor where it is written out");
        assert_eq!(Reserve::new(&database, 2 << 20).held(), 0, "one of another size is none");
        reserve.give_back().expect("it is ours");
        reserve.give_back().expect("nothing to do");
        assert_eq!(reserve.held(), 0);

        let too_much = Reserve::new(&database, u64::MAX / 8);
        assert_eq!(too_much.make().expect_err("no room").kind(), io::ErrorKind::StorageFull);
        reserve.make().expect("there is room");
        Reserve::new(&database, 0).make().expect("none is wanted");
        assert!(!reserve.path.exists());
    }
}
