//! Where a database lies: its absolute path, the file system under it and the room there. Opens nothing.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatFs};

/// The place of a database that exists or could be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Absolute, symbolic links resolved.
    pub path: PathBuf,
    /// Whether there is a file at the path.
    pub exists: bool,
    /// Whether this process may write there: to the file, or else into the folder.
    pub is_writable: bool,
    /// What the file system is.
    pub file_system: FileSystem,
    /// Free for this process, in bytes.
    pub free_bytes: u64,
    /// The whole file system, in bytes.
    pub total_bytes: u64,
}

impl Place {
    /// Looks at the place of `path`, where there may be no file yet.
    ///
    /// # Errors
    /// The folder is missing or may not be looked at; the path is a folder.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = resolved(path)?;
        if path.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder"));
        }
        let exists = path.try_exists()?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let stat = rustix::fs::statfs(if exists { &path } else { folder })?;
        let may_write_folder = rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok();
        let may_write_file = !exists || rustix::fs::access(&path, Access::READ_OK | Access::WRITE_OK).is_ok();
        Ok(Self {
            exists,
            // The folder too where there is a file: its journal is made beside it.
            is_writable: may_write_folder && may_write_file,
            file_system: FileSystem::of(&stat),
            free_bytes: bytes(&stat, stat.f_bavail),
            total_bytes: bytes(&stat, stat.f_blocks),
            path,
        })
    }
}

/// The folder must exist, the file need not.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => {
            let missing = |error| io::Error::new(io::Error::kind(&error), format!("{}: {error}", folder.display()));
            Ok(folder.canonicalize().map_err(missing)?.join(name))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "names no file")),
    }
}

fn bytes(stat: &StatFs, blocks: impl TryInto<u64>) -> u64 {
    let block_size = if stat.f_frsize > 0 { stat.f_frsize } else { stat.f_bsize };
    let block_size = u64::try_from(block_size).unwrap_or(0);
    blocks.try_into().unwrap_or(0).saturating_mul(block_size)
}

/// A file system and what an archive may expect of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// `ext4`, `xfs`, `nfs`, …; its number in hex where it has no name here.
    pub name: String,
    /// What kind.
    pub kind: FileSystemKind,
}

/// What a file system promises, as far as an archive is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystemKind {
    /// A local disk: locks and syncs hold.
    Local,
    /// On another machine: SQLite's locks and shared memory do not hold there.
    Network,
    /// In memory: gone with the machine.
    Memory,
    /// The writable layer of a container: gone with the container.
    Overlay,
    /// It cannot be told what is behind it.
    Unknown,
}

use FileSystemKind::{Local, Memory, Network, Overlay, Unknown};

/// The numbers are those of Linux's `statfs(2)` and `linux/magic.h`.
const FILE_SYSTEMS: [(u32, &str, FileSystemKind); 25] = [
    (0xef53, "ext4", Local), // and ext2, ext3: one number
    (0x5846_5342, "xfs", Local),
    (0x9123_683e, "btrfs", Local),
    (0x2fc1_2fc1, "zfs", Local),
    (0xf2f5_2010, "f2fs", Local),
    (0xca45_1a4e, "bcachefs", Local),
    (0x3153_464a, "jfs", Local),
    (0x5265_4973, "reiserfs", Local),
    (0x0102_1994, "tmpfs", Memory),
    (0x8584_58f6, "ramfs", Memory),
    (0x794c_7630, "overlay", Overlay),
    (0x6969, "nfs", Network),
    (0x517b, "smb", Network),
    (0xff53_4d42, "cifs", Network),
    (0xfe53_4d42, "smb2", Network),
    (0x5346_414f, "afs", Network),
    (0x00c3_6400, "ceph", Network),
    (0x0bd0_0bd0, "lustre", Network),
    (0x0116_1970, "gfs2", Network),
    (0x7461_636f, "ocfs2", Network),
    (0x4750_4653, "gpfs", Network),
    (0x6573_5546, "fuse", Unknown),
    (0x0102_1997, "9p", Unknown),
    (0x786f_4256, "vboxsf", Unknown),
    (0x2011_bab0, "exfat", Unknown),
];

impl FileSystem {
    fn of(stat: &StatFs) -> Self {
        // Some platforms sign-extend the number: only its low 32 bits are the file system's.
        Self::of_number((stat.f_type as u64 & 0xffff_ffff) as u32)
    }

    fn of_number(number: u32) -> Self {
        match FILE_SYSTEMS.iter().find(|(known, ..)| *known == number) {
            Some((_, name, kind)) => Self { name: (*name).into(), kind: *kind },
            None => Self { name: format!("0x{number:x}"), kind: Unknown },
        }
    }

    /// An archive must not lie here.
    pub fn is_network(&self) -> bool {
        self.kind == Network
    }

    /// What to think of before an archive lies here, if anything.
    pub fn caution(&self) -> Option<&'static str> {
        match self.kind {
            Local => None,
            Network => Some(
                "a network file system: SQLite's locks do not hold there, and the archive could be destroyed; \
                 use a local disk",
            ),
            Memory => Some("in memory: the archive is gone when the machine stops; use a disk"),
            Overlay => Some("a container's own layer: the archive is gone with the container; mount a volume"),
            Unknown => Some("a file system we do not know: make sure that it honours locks and syncs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_described_before_and_after_the_file_is_made() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().canonicalize().expect("it exists");
        let database = root.join("a.db");
        let before = Place::of(&folder.path().join("./a.db")).expect("the folder exists");
        assert_eq!((before.path.as_path(), before.exists, before.is_writable), (database.as_path(), false, true));
        assert!(before.free_bytes > 0 && before.total_bytes >= before.free_bytes);

        std::fs::write(&database, "").expect("a file");
        std::os::unix::fs::symlink(&database, root.join("link.db")).expect("a link");
        let after = Place::of(&root.join("link.db")).expect("it exists");
        assert_eq!((after.path, after.exists), (database, true));
    }

    #[test]
    fn what_cannot_be_a_database_is_said() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let rows = [
            (folder.path().into(), io::ErrorKind::IsADirectory, "is a folder"),
            (folder.path().join("no/a.db"), io::ErrorKind::NotFound, "/no: No such file"),
        ];
        for (path, kind, words) in rows {
            let error = Place::of(&path).expect_err(words);
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn file_systems_are_told_apart() {
        let rows = [
            (0xef53, "ext4", Local),
            (0x6969, "nfs", Network),
            (0xff53_4d42, "cifs", Network),
            (0x0102_1994, "tmpfs", Memory),
            (0x794c_7630, "overlay", Overlay),
            (0x6573_5546, "fuse", Unknown),
            (0x1234, "0x1234", Unknown),
        ];
        for (number, name, kind) in rows {
            let file_system = FileSystem::of_number(number);
            assert_eq!((file_system.name.as_str(), file_system.kind), (name, kind));
            assert_eq!(file_system.is_network(), kind == Network);
            assert_eq!(file_system.caution().is_none(), kind == Local);
        }
    }
}
