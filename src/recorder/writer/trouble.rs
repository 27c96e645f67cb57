//! The road back from each kind of trouble with the archive.
//!
//! | SQLite says | kind | what is done |
//! |---|---|---|
//! | BUSY, LOCKED, PROTOCOL | `locked` | the same connection tries again; recording counts as down after `commit_wait_max` |
//! | FULL | `disk_full` | the reserve is given back; the same connection tries again |
//! | READONLY | `read_only` | opened anew: a connection that began as a reader never writes |
//! | READONLY_DBMOVED; another file at the path | `file_replaced` | opened anew: gone on with if it is an archive |
//! | no file at the path | `file_missing` | tried again until it is back; never made anew |
//! | IOERR of every kind | `io_error` | the batch is not recorded, whatever it looks like: closed, opened anew, written again |
//! | CANTOPEN | `cannot_open` | tried again |
//! | CORRUPT | `corrupt` | closed and not written to any more; opened anew, in case that a sound file was put there |
//! | NOTADB | `not_an_archive` | as for corrupt |
//! | SCHEMA, NOMEM, MISUSE and all others | `other` | opened anew, written again |
//! | CONSTRAINT, TOOBIG, MISMATCH | `row` | no trouble of the file: the row becomes a finding, the others go on |
//!
//! In each case the batch stays, in memory or in the spool, and is written once there is a file that takes it. Pauses between
//! attempts grow to a second. Only `corrupt`, `file_missing` and `not_an_archive` need a hand.

use crate::store::ErrorKind;

/// What is done about one kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Road {
    /// The same connection goes on. After all else the file is read anew: a failed sync, a damaged page and another file
    /// must not be known from memory.
    pub keeps_connection: bool,
    /// It passes by itself within moments, mostly.
    pub is_waited_out: bool,
    /// For the operator: what to do, and with which command.
    pub hint: &'static str,
}

pub(super) fn road_back(kind: ErrorKind) -> Road {
    let reopened = |hint| Road { keeps_connection: false, is_waited_out: false, hint };
    match kind {
        ErrorKind::Busy => Road {
            keeps_connection: true,
            is_waited_out: true,
            hint: "another process holds the write lock: look for a backup tool or an open sqlite3 shell",
        },
        ErrorKind::Full => Road {
            keeps_connection: true,
            is_waited_out: false,
            hint: "free space on the file system of the archive; recording then goes on by itself",
        },
        ErrorKind::ReadOnly => {
            reopened("make the file and its folder writable for this user; recording then goes on by itself")
        }
        ErrorKind::Missing => reopened("put the archive back at its path; it is never made anew while serving"),
        ErrorKind::Replaced => {
            reopened("another file is at the archive's path; recording goes on in it if it is an archive")
        }
        ErrorKind::Corrupt => reopened(
            "see how much of it is sound with `gms-recorder sql 'PRAGMA quick_check'`; keep the file, and put a backup or a \
             snapshot at its path by mv: recording goes on in it by itself",
        ),
        ErrorKind::Io => reopened("look into the kernel log for disk errors; recording then goes on by itself"),
        ErrorKind::CannotOpen => reopened("check that the folder exists and is writable"),
        ErrorKind::NotAnArchive => reopened("put the archive back at its path"),
        ErrorKind::Row | ErrorKind::Altered | ErrorKind::Other => reopened("see the error"),
    }
}
