//! A consistent copy of an archive that may be written to meanwhile: `VACUUM INTO` a temporary name beside the wanted
//! one, synced, then named. What is interrupted has only ever had the temporary name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::{Archive, Error, Totals};

const STAR: &str = include_str!("star.sql");

/// A copy under its temporary name. Dropped before [`Copy::finish`], it is removed.
#[derive(Debug)]
pub struct Copy {
    part: PathBuf,
    dest: PathBuf,
}

impl Copy {
    /// Reserves the temporary name, with the permissions of the archive unless told others: a transcript is as private in
    /// the copy.
    ///
    /// # Errors
    /// [`Error::Exists`] where `dest` is taken; else as the file system.
    pub fn begin(archive: &Path, dest: &Path, mode: Option<u32>) -> Result<Self, Error> {
        if dest.symlink_metadata().is_ok() {
            return Err(Error::Exists(dest.to_owned()));
        }
        let mode = mode.unwrap_or(archive.metadata().map_err(at(archive))?.mode() & 0o777);
        let mut part = dest.as_os_str().to_owned();
        part.push(format!(".{}.part", std::process::id()));
        let part = PathBuf::from(part);
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&part).map_err(at(&part))?;
        Ok(Self { part, dest: dest.to_owned() })
    }

    /// Bytes copied so far.
    pub fn bytes(&self) -> u64 {
        self.part.metadata().map_or(0, |found| found.len())
    }

    /// Copies the archive, as it is at this moment; what is written meanwhile is not in it.
    ///
    /// # Errors
    /// As SQLite and the file system.
    pub async fn fill(&self, archive: &Path) -> Result<(), Error> {
        // VACUUM INTO writes to the copy, which `query_only` would not let it; the archive itself is open read-only.
        let mut archive = Archive::connect(archive, false).await?;
        let name = self.part.to_str().ok_or_else(|| {
            at(&self.part)(io::Error::new(io::ErrorKind::InvalidInput, "SQLite takes only names that are UTF-8"))
        })?;
        sqlx::query("VACUUM INTO ?").bind(name).execute(&mut archive.connection).await?;
        archive.check_undisturbed()?;
        archive.close().await
    }

    /// Adds the tables of a star, for analysts (`star.sql`).
    ///
    /// # Errors
    /// As SQLite; the archive is of an earlier release.
    pub async fn add_star(&self) -> Result<(), Error> {
        let mut copy = Archive::open(&self.part).await?;
        let is_of_this_release = copy.has("accounts").await?;
        copy.close().await?;
        if !is_of_this_release {
            let what = "the archive is of an earlier release: start `serve` of this one with it once, which brings it up to date";
            return Err(Error::Refused(what.into()));
        }
        let options = SqliteConnectOptions::new().filename(&self.part).disable_statement_logging();
        let mut copy = options.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {STAR}; COMMIT"))).execute(&mut copy).await?;
        Ok(copy.close().await?)
    }

    /// Counts what the copy holds, which shows that it opens; syncs it and gives it its name.
    ///
    /// # Errors
    /// As SQLite and the file system; [`Error::Exists`] where the name was taken meanwhile.
    pub async fn finish(self) -> Result<Totals, Error> {
        let mut copy = Archive::open(&self.part).await?;
        let totals = copy.totals().await?;
        copy.close().await?;
        File::open(&self.part).and_then(|file| file.sync_all()).map_err(at(&self.part))?;
        rename_to_free(&self.part, &self.dest).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists(self.dest.clone()),
            _ => at(&self.dest)(error),
        })?;
        let folder = folder(&self.dest);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
        Ok(totals)
    }
}

/// Gives a file a name that nobody has; [`io::ErrorKind::AlreadyExists`] where somebody does.
pub(in crate::store) fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems (NFS) do not know it: look, then rename.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match to.symlink_metadata() {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => std::fs::rename(from, to),
        },
        other => Ok(other?),
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // After `finish` the name is gone; else nobody may take the rest for a snapshot.
        let _ = std::fs::remove_file(&self.part);
        let mut journal = self.part.as_os_str().to_owned();
        journal.push("-journal");
        let _ = std::fs::remove_file(journal);
    }
}

/// The folder that a file is in.
pub(in crate::store) fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::File { path, error }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::super::fixture::Fixture;
    use super::*;

    fn names(fixture: &Fixture) -> Vec<String> {
        let directory = fixture.path.parent().expect("a directory");
        let entries = std::fs::read_dir(directory).expect("readable");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| !name.starts_with("transcripts.db"));
        names
    }

    #[tokio::test]
    async fn a_live_archive_is_copied_whole_and_as_private() {
        let fixture = Fixture::example().await;
        std::fs::set_permissions(&fixture.path, Permissions::from_mode(0o640)).expect("own file");
        let dest = fixture.beside("it's a copy.db");
        // A writer in the middle of a transaction neither waits nor is waited for.
        let mut writer = fixture.writer().await;
        sqlx::raw_sql("BEGIN IMMEDIATE; DELETE FROM chats").execute(&mut writer).await.expect("a transaction");
        let copy = Copy::begin(&fixture.path, &dest, None).expect("begun");
        copy.fill(&fixture.path).await.expect("filled");
        assert!(copy.bytes() > 0 && !dest.exists());
        assert_eq!(copy.finish().await.expect("named"), Totals { chats: 3, events: 18 });
        sqlx::raw_sql("COMMIT").execute(&mut writer).await.expect("the writer goes on");
        writer.close().await.expect("closed");

        assert_eq!(dest.metadata().expect("there").mode() & 0o777, 0o640);
        assert_eq!(names(&fixture), ["it's a copy.db"]);
        let mut copy = Archive::open(&dest).await.expect("the copy is an archive");
        assert!(copy.chat("c1").await.expect("read").is_some());
    }

    #[tokio::test]
    async fn nothing_is_overwritten() {
        let fixture = Fixture::example().await;
        let dest = fixture.beside("taken");
        std::fs::write(&dest, "precious").expect("written");
        assert!(matches!(Copy::begin(&fixture.path, &dest, None), Err(Error::Exists(_))));

        // Taken while the copy was being made.
        let late = fixture.beside("late");
        let copy = Copy::begin(&fixture.path, &late, None).expect("begun");
        copy.fill(&fixture.path).await.expect("filled");
        std::fs::write(&late, "precious").expect("written");
        assert!(matches!(copy.finish().await, Err(Error::Exists(_))));
        for path in [dest, late] {
            assert_eq!(std::fs::read(path).expect("there"), b"precious");
        }
        assert_eq!(names(&fixture).len(), 2);
    }

    #[tokio::test]
    async fn what_is_not_finished_leaves_nothing() {
        let fixture = Fixture::example().await;
        let dest = fixture.beside("copy.db");
        let copy = Copy::begin(&fixture.path, &dest, None).expect("begun");
        copy.fill(&fixture.path).await.expect("filled");
        assert!(names(&fixture).iter().all(|name| name.ends_with(".part")), "{:?}", names(&fixture));
        drop(copy);
        assert!(names(&fixture).is_empty());
        let nowhere = fixture.beside("no/such/directory/copy.db");
        assert!(matches!(Copy::begin(&fixture.path, &nowhere, None), Err(Error::File { .. })));
    }
}
