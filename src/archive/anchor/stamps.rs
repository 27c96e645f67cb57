//! A folder of checkpoints, each with a time stamp of an authority (RFC 3161): `X.note`, and `X.tsr` beside it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use http::{Request, Uri, header};

use super::config::{TimeStamp, endpoint};
use super::file::look_at_folder;
use super::web::Web;
use super::{Refusal, Signed, random};
use crate::archive::time_stamp::{self, Nonce};
use crate::store::seal::merkle::Hash;

/// Has a checkpoint stamped, and keeps both. A stamp of it that is there already, of an attempt that failed after that, will do.
pub(super) fn stamp(config: &TimeStamp, web: &Web, signed: &Signed) -> Result<(), Refusal> {
    let (note, stem) = (signed.note.as_bytes(), signed.stem());
    let imprint = time_stamp::imprint(note);
    let kept = std::fs::read(file(&config.folder, &stem, "tsr"));
    let is_kept = kept.is_ok_and(|kept| time_stamp::read(&kept).is_ok_and(|stamp| stamp.imprint == imprint));
    let response = if is_kept { None } else { Some(ask(config, web, &imprint)?) };
    keep(&config.folder, &stem, note, response.as_deref()).map_err(|error| {
        let why = format!("{}: {error}", config.folder.display());
        if error.kind() == io::ErrorKind::AlreadyExists { Refusal::ThisOne(why) } else { Refusal::Now(why) }
    })
}

/// Whether the authority stamps, and the folder takes files. What it stamped is thrown away.
pub(super) fn look(config: &TimeStamp) -> Result<String, String> {
    look_at_folder(&config.folder)?;
    ask(config, &Web::new(&config.ca)?, &random().map_err(|error| error.to_string())?)?;
    Ok("reached; it stamps; files can be made in the folder".into())
}

/// The response, which was held against what was asked.
fn ask(config: &TimeStamp, web: &Web, imprint: &Hash) -> Result<Vec<u8>, String> {
    let uri: Uri = endpoint(&config.url)?;
    let nonce: Nonce = time_stamp::nonce().map_err(|error| error.to_string())?;
    let request = Request::post(uri).header(header::CONTENT_TYPE, "application/timestamp-query");
    let request = request.body(time_stamp::request(imprint, &nonce)).map_err(|error| error.to_string())?;
    let answer = web.ask(request)?;
    if !answer.status.is_success() {
        return Err(format!("it answers {}", answer.status));
    }
    time_stamp::answer(&answer.body, imprint, &nonce).map_err(|flaw| flaw.to_string())?;
    Ok(answer.body)
}

/// The checkpoint first: by itself it is worth something, too. Files that are there are never written to.
fn keep(folder: &Path, stem: &str, note: &[u8], response: Option<&[u8]>) -> io::Result<()> {
    for (ending, bytes) in [("note", Some(note)), ("tsr", response)] {
        let (path, Some(bytes)) = (file(folder, stem, ending), bytes) else { continue };
        if std::fs::read(&path).is_ok_and(|found| found == bytes) {
            continue; // of an attempt that failed after that
        }
        make(&path, bytes)?;
    }
    File::open(folder)?.sync_all()
}

fn file(folder: &Path, stem: &str, ending: &str) -> PathBuf {
    folder.join(format!("{stem}.{ending}"))
}

/// What could not be written whole is taken away again, since it is ours.
fn make(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}
