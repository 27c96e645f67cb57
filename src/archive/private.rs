//! Secrets that operators keep in files: read once, and only where nobody else can read them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// A key or a password with its user takes a few dozen bytes; whatever is longer is another file.
const BYTES_MAX: u64 = 4096;
/// What others than the owner may do with the file.
const OTHERS: u32 = 0o077;

/// The bytes of a file that only its owner can read.
///
/// # Errors
/// A sentence that says what would be right, without the content.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let file = File::open(path).map_err(told)?;
    let metadata = file.metadata().map_err(told)?;
    if !metadata.is_file() {
        return Err(format!("{} is no file", path.display()));
    }
    if metadata.mode() & OTHERS != 0 {
        let mode = metadata.permissions().mode() & 0o777;
        return Err(format!("{} can be used by others (mode {mode:04o}); `chmod 0600` it", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(told)?;
    match bytes.len() as u64 {
        0 => Err(format!("{} is empty", path.display())),
        length if length > BYTES_MAX => Err(format!("{} is longer than {BYTES_MAX} bytes", path.display())),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn only_what_the_owner_alone_can_read_is_taken() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let check = |content: &[u8], mode: u32, objection: Option<&str>| {
            let path = folder.path().join("secret");
            fs::write(&path, content).expect("the folder is ours");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("the file is ours");
            match (read(&path), objection) {
                (Ok(bytes), None) => assert_eq!(bytes, content),
                (Err(said), Some(objection)) => assert!(said.contains(objection), "{said}"),
                (outcome, _) => panic!("{mode:04o}: {outcome:?}, wanted {objection:?}"),
            }
            fs::remove_file(path).expect("the file is ours");
        };
        check(b"anna:secret", 0o600, None);
        check(b"anna:secret", 0o400, None);
        check(b"anna:secret", 0o640, Some("can be used by others (mode 0640)"));
        check(b"anna:secret", 0o604, Some("can be used by others (mode 0604)"));
        check(b"", 0o600, Some("is empty"));
        check(&[b'x'; 5000], 0o600, Some("is longer than 4096 bytes"));
        assert!(read(&folder.path().join("none")).expect_err("there is none").contains("cannot be read"));
        assert!(read(folder.path()).expect_err("a folder").contains("is no file"));
    }
}
