//! The full-text index follows the archive: behind the writer of a running `serve`, by that itself or by whoever wants it now.

use std::path::Path;
use std::time::Instant;

use super::{BUSY_TIMEOUT, Custody, is_copy};
use crate::store::search::{self, Step};
use crate::store::{Error, ErrorKind, identity};

/// How much longer the index rests than it works beside a `serve`: what was recorded for years is indexed once, and chats go on.
const REST: u32 = 3;

impl Custody {
    /// Opens an archive to index it. What is lost of that in a power cut is done again: nobody waits for a disk.
    ///
    /// # Errors
    /// As [`Custody::open`]; it is a copy.
    pub fn open_to_index(path: &Path) -> Result<Self, Error> {
        let custody = Self::open_within(path, BUSY_TIMEOUT, |connection| match is_copy(connection)? {
            false => Ok(()),
            true => {
                let what = "this is a copy (`snapshot`), and its index is as it was in the archive: bring that up to date before it is copied";
                Err(Error::new(ErrorKind::Other, what))
            }
        })?;
        custody.connection.execute_batch("PRAGMA synchronous = NORMAL")?;
        Ok(custody)
    }

    /// Brings the full-text index a step further.
    ///
    /// # Errors
    /// As writing goes wrong; what earlier steps did stays.
    pub fn index(&self) -> Result<Step, Error> {
        self.check_in_place()?;
        search::step(&self.connection, &mut self.resting(REST))
    }

    /// Looks whether the full-text index is damaged; then the next steps make it anew.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn check_index(&self) -> Result<(), Error> {
        search::check(&self.connection)
    }

    /// How many rows the index does not have as they are, at most. 0 of an archive that has none.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn rows_behind(&self) -> Result<u64, Error> {
        search::behind(&self.connection)
    }

    /// Whether another file is at its path than was opened.
    pub fn has_moved(&self) -> bool {
        identity(&self.path) != Some(self.file)
    }

    /// Former words of what was removed or masked go out of the index.
    pub(super) fn settle_index(&self) -> Result<(), Error> {
        self.check_in_place()?;
        search::settle(&self.connection, &mut self.resting(1))
    }

    /// Lets others write, so many times as long as it was worked since the last time.
    fn resting(&self, times: u32) -> impl FnMut() -> Result<(), Error> {
        let mut began = Instant::now();
        move || {
            self.give_way(began.elapsed() * times)?;
            began = Instant::now();
            Ok(())
        }
    }
}
