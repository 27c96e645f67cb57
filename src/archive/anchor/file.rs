//! An append-only file.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, access};

use super::Signed;

/// A line between notes; one more, where something torn lies before. Synced.
pub(super) fn append(path: &Path, notes: &[Arc<Signed>]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
    let mut bytes = if ends_in_line(&mut file)? { String::new() } else { "\n".to_owned() };
    for signed in notes {
        bytes.push_str(&signed.note);
        bytes.push('\n');
    }
    file.write_all(bytes.as_bytes())?;
    file.sync_data()
}

fn ends_in_line(file: &mut std::fs::File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Whether [`append`] would do. Makes nothing.
pub(super) fn look(path: &Path) -> Result<String, String> {
    match OpenOptions::new().read(true).append(true).open(path) {
        Ok(file) if file.metadata().is_ok_and(|found| !found.is_file()) => Err("it is no file".into()),
        Ok(_) => Ok("can be appended to".into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            look_at_folder(folder).map(|()| "would be made".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Whether files can be made in it.
pub(in crate::archive) fn look_at_folder(folder: &Path) -> Result<(), String> {
    let told = |why: String| format!("the folder {}: {why}", folder.display());
    match std::fs::metadata(folder) {
        Ok(found) if !found.is_dir() => Err(told("it is no folder".into())),
        Err(error) => Err(told(error.to_string())),
        Ok(_) => access(folder, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| told(format!("this user may not make files in it ({error})"))),
    }
}
