//! A bucket: an object a checkpoint, or a file of a delivery, made once and locked.

mod signature;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::uri::{Authority, Uri};
use http::{Request, StatusCode};
use jiff::{SignedDuration, Timestamp};
use md5::Md5;
use sha2::{Digest, Sha256};

use super::config::{Lock, S3, endpoint};
use super::web::{Answer, Web};
use super::{Refusal, Signed};

use crate::archive::export::hex;

use signature::{Credentials, sign};

const MODE: &str = "x-amz-object-lock-mode";
const UNTIL: &str = "x-amz-object-lock-retain-until-date";
/// Of a file, by which it is known again: no service gives it another meaning, as some do an ETag.
const CONTENT: &str = "x-amz-meta-sha256";
/// A file is given this long, and a second for each so many bytes.
const FILE_TIME: Duration = Duration::from_secs(60);
const FILE_BYTES_A_SECOND: u64 = 128 << 10;
/// What is read of a file at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// What is known of a bucket's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::archive) enum Known {
    /// The bucket has one, or none is wanted.
    Locks,
    /// It would not say: then the first object has to show its lock.
    Nothing,
}

/// Asks the bucket, before anything is put there.
///
/// # Errors
/// It has no object lock; or it does not answer, or wants nothing to do with us.
pub(in crate::archive) fn ask_for_lock(config: &S3, web: &Web) -> Result<Known, String> {
    if config.lock == Lock::None {
        return Ok(Known::Locks);
    }
    let answer = exchange(config, web, Request::get(uri(config, "?object-lock")?), Vec::new())?;
    let body = String::from_utf8_lossy(&answer.body);
    match (answer.status, code(&body)) {
        (StatusCode::OK, _) if body.contains("<ObjectLockEnabled>Enabled</ObjectLockEnabled>") => Ok(Known::Locks),
        (StatusCode::OK, _) | (_, "ObjectLockConfigurationNotFoundError") => Err(no_lock(config)),
        (
            _,
            "NoSuchBucket" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "RequestTimeTooSkewed" | "ExpiredToken",
        ) => Err(refused(&answer)),
        (StatusCode::FORBIDDEN | StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED, _) => Ok(Known::Nothing),
        _ => Err(refused(&answer)),
    }
}

fn no_lock(config: &S3) -> String {
    format!(
        "the bucket {} has NO OBJECT LOCK: whoever has its credentials can replace and delete what is in it; make a bucket with \
         object lock, or say lock = \"none\"",
        config.bucket
    )
}

/// Puts a checkpoint there, once: what is there already has to be the same.
pub(super) fn put(config: &S3, web: &Web, signed: &Signed, known: &mut Option<Known>) -> Result<(), Refusal> {
    let lock = lock_of(config, web, known)?;
    let (path, at) = (key(config, signed), from_now(signed.checkpoint.at));
    let bytes = signed.note.clone().into_bytes();
    let digests = (Md5::digest(&bytes).into(), Sha256::digest(&bytes).into());
    let request = once(config, &path, digests, at)?.header("content-type", "text/plain; charset=utf-8");
    let answer = exchange(config, web, request, bytes)?;
    let at = match answer.status {
        StatusCode::OK => at,
        StatusCode::PRECONDITION_FAILED => {
            compare(config, web, signed, &path)?;
            signed.checkpoint.at // it was put there before
        }
        _ => return Err(answer.refusal(refused(&answer))),
    };
    shown(config, web, lock, at, &path, known)
}

/// A file of a delivery.
#[derive(Debug)]
pub(in crate::archive) struct Parcel<'p> {
    /// Where it lies.
    pub file: &'p Path,
    /// What it is called in the bucket, after the prefix.
    pub key: &'p str,
    /// Its SHA-256, hex.
    pub sha256: &'p str,
    /// From when on it is locked, or from when it is put there if that is later; milliseconds since the epoch.
    pub at: i64,
    /// It may be there already: an earlier attempt was cut off.
    pub may_be_there: bool,
}

/// Puts a file there, once: what is there already has to be the same, and is not sent again.
pub(in crate::archive) fn put_file(
    config: &S3,
    web: &Web,
    parcel: &Parcel<'_>,
    known: &mut Option<Known>,
) -> Result<(), Refusal> {
    let lock = lock_of(config, web, known)?;
    let Parcel { key, sha256, at, .. } = *parcel;
    let path = format!("{}{key}", config.prefix);
    if parcel.may_be_there && is_there(config, web, &path, sha256)? {
        return Ok(());
    }
    let told = |error| Refusal::Now(format!("{}: {error}", parcel.file.display()));
    let mut file = File::open(parcel.file).map_err(told)?;
    let (digests, bytes) = digests(&mut file).map_err(told)?;
    if hex(&digests.1) != sha256 {
        return Err(Refusal::Forever(format!("{} is not what was written there", parcel.file.display())));
    }
    let at = from_now(at);
    let request =
        once(config, &path, digests, at)?.header("content-type", "application/octet-stream").header(CONTENT, sha256);
    let mut request = request.body(file).map_err(|error| error.to_string())?;
    sign(&mut request, sha256, &Credentials::read(&config.credentials)?, &config.region, Timestamp::now())?;
    let answer = web.send_file(request, FILE_TIME + Duration::from_secs(bytes / FILE_BYTES_A_SECOND))?;
    match answer.status {
        StatusCode::OK => {}
        StatusCode::PRECONDITION_FAILED if is_there(config, web, &path, sha256)? => {}
        _ => return Err(refused(&answer).into()),
    }
    shown(config, web, lock, at, &path, known)
}

/// MD5 and SHA-256 of all of a file, which is at its beginning again then; and its length.
fn digests(file: &mut File) -> io::Result<(Digests, u64)> {
    let (mut md5, mut sha256, mut bytes) = (Md5::new(), Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            file.rewind()?;
            return Ok(((md5.finalize().into(), sha256.finalize().into()), bytes));
        }
        md5.update(&chunk[..read]);
        sha256.update(&chunk[..read]);
        bytes += read as u64;
    }
}

/// Whether a file is there. Something else is an error for good.
fn is_there(config: &S3, web: &Web, path: &str, sha256: &str) -> Result<bool, Refusal> {
    let answer = exchange(config, web, Request::head(uri(config, path)?), Vec::new())?;
    match answer.status {
        StatusCode::NOT_FOUND => Ok(false),
        StatusCode::OK if answer.header(CONTENT) == sha256 => Ok(true),
        StatusCode::OK => Err(Refusal::Forever(format!("SOMETHING ELSE IS AT {path}"))),
        _ => Err(refused(&answer).into()),
    }
}

/// MD5 and SHA-256.
type Digests = ([u8; 16], [u8; 32]);

/// A request that makes an object where there is none, and locks it.
fn once(config: &S3, path: &str, (md5, sha256): Digests, at: i64) -> Result<http::request::Builder, String> {
    let request = Request::put(uri(config, path)?)
        .header("content-md5", BASE64_STANDARD.encode(md5))
        .header("x-amz-sdk-checksum-algorithm", "SHA256")
        .header("x-amz-checksum-sha256", BASE64_STANDARD.encode(sha256))
        .header("if-none-match", "*");
    Ok(match config.lock {
        Lock::None => request,
        lock => request.header(MODE, lock.as_str().to_ascii_uppercase()).header(UNTIL, until(config, at)?),
    })
}

fn lock_of(config: &S3, web: &Web, known: &mut Option<Known>) -> Result<Known, String> {
    Ok(match *known {
        Some(lock) => lock,
        None => *known.insert(ask_for_lock(config, web)?),
    })
}

/// Where the bucket would not say whether it locks, its first object does.
fn shown(config: &S3, web: &Web, lock: Known, at: i64, path: &str, known: &mut Option<Known>) -> Result<(), Refusal> {
    if lock == Known::Nothing {
        show_lock(config, web, at, path)?;
        *known = Some(Known::Locks);
    }
    Ok(())
}

/// The archive, and all that the name of a file of it says.
fn key(config: &S3, signed: &Signed) -> String {
    format!("{}{}/{}.note", config.prefix, signed.checkpoint.archive_id, signed.stem())
}

/// No service locks an object until a time that is over: that of a checkpoint may lie years back, where a clock was wrong.
fn from_now(at: i64) -> i64 {
    at.max(Timestamp::now().as_millisecond())
}

fn until(config: &S3, at: i64) -> Result<String, String> {
    let told = |_| "the time until which it is to be locked is beyond all calendars".to_owned();
    let retention = SignedDuration::try_from(config.retention).map_err(told)?;
    let at = Timestamp::from_millisecond(at).and_then(|at| at.checked_add(retention)).map_err(told)?;
    Ok(at.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string())
}

/// An answer that was lost leaves the object there.
fn compare(config: &S3, web: &Web, signed: &Signed, path: &str) -> Result<(), Refusal> {
    let answer = exchange(config, web, Request::get(uri(config, path)?), Vec::new())?;
    match answer.status {
        StatusCode::OK if answer.body == signed.note.as_bytes() => Ok(()),
        StatusCode::OK => Err(Refusal::Forever(format!(
            "ANOTHER CHECKPOINT IS AT {path}: this archive was copied and goes on in two places, or somebody else has its key"
        ))),
        // Others need not be asked for: this one alone was put there already.
        status if status.is_client_error() => Err(Refusal::ThisOne(refused(&answer))),
        _ => Err(refused(&answer).into()),
    }
}

/// Where the bucket does not say whether it locks: the lock of the object itself.
fn show_lock(config: &S3, web: &Web, at: i64, path: &str) -> Result<(), String> {
    let answer = exchange(config, web, Request::head(uri(config, path)?), Vec::new())?;
    let wanted: Timestamp = until(config, at)?.parse().map_err(|error: jiff::Error| error.to_string())?;
    let is_long_enough = answer.header(UNTIL).parse::<Timestamp>().is_ok_and(|until| until >= wanted);
    match answer.header(MODE).eq_ignore_ascii_case(config.lock.as_str()) && is_long_enough {
        true => Ok(()),
        false => Err(
            "NOTHING SHOWS THAT ITS OBJECTS ARE LOCKED: allow s3:GetBucketObjectLockConfiguration or s3:GetObjectRetention, or \
             choose a service that locks"
                .into(),
        ),
    }
}

/// Whether it is there, believes us, and locks.
pub(in crate::archive) fn look(config: &S3) -> Result<String, String> {
    let web = Web::new(&config.ca)?;
    let writing = "whether objects may be put there shows the first";
    if config.lock == Lock::None {
        let answer = exchange(config, &web, Request::head(uri(config, "")?), Vec::new())?;
        return match answer.status.is_success() {
            true => Ok(format!("reached; without a lock; {writing}")),
            false => Err(refused(&answer)),
        };
    }
    Ok(match ask_for_lock(config, &web)? {
        Known::Locks => format!("reached; it has object lock; {writing}"),
        Known::Nothing => {
            format!("reached; it does not say whether it has object lock: the first object will; {writing}")
        }
    })
}

/// `rest`: a key, or a query that begins with `?`.
fn uri(config: &S3, rest: &str) -> Result<Uri, String> {
    let service = endpoint(&config.url)?;
    let (scheme, authority) = (service.scheme_str().unwrap_or("https"), host(&service)?);
    let is_key = !rest.is_empty() && !rest.starts_with('?');
    let (authority, path) = match config.path_style {
        true if is_key => (authority, format!("/{}/{rest}", config.bucket)),
        true => (authority, format!("/{}{rest}", config.bucket)),
        false => (format!("{}.{authority}", config.bucket), format!("/{rest}")),
    };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
    uri.map_err(|error| error.to_string())
}

/// Without the scheme's own port: it is not sent, and what is sent is signed.
fn host(service: &Uri) -> Result<String, String> {
    let authority: &Authority = service.authority().ok_or("url has no host")?;
    let own = if service.scheme_str() == Some("https") { 443 } else { 80 };
    match authority.port_u16() {
        Some(port) if port != own => Ok(authority.as_str().to_owned()),
        _ => Ok(authority.host().to_owned()),
    }
}

fn exchange(config: &S3, web: &Web, request: http::request::Builder, body: Vec<u8>) -> Result<Answer, String> {
    let mut request = request.body(body).map_err(|error| error.to_string())?;
    let content = hex(&Sha256::digest(request.body()));
    sign(&mut request, &content, &Credentials::read(&config.credentials)?, &config.region, Timestamp::now())?;
    web.ask(request)
}

fn refused(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body);
    match code(&body) {
        "" => format!("it answers {}", answer.status),
        code => format!("it answers {}: {code}", answer.status),
    }
}

/// Of an error's XML: one word.
fn code(body: &str) -> &str {
    let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(code, _)| code);
    let is_word = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_word { code } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_to_the_bucket_in_the_path_or_in_the_host() {
        let check = |url: &str, path_style: bool, rest: &str, wanted: &str| {
            let text = format!("url = {url:?}\nbucket = \"audit\"\npath_style = {path_style}");
            let config: S3 = toml::from_str(&text).expect("sound");
            assert_eq!(uri(&config, rest).expect("sound").to_string(), wanted);
        };
        check("https://s3.example.com", true, "a/b.note", "https://s3.example.com/audit/a/b.note");
        check("https://s3.example.com/", true, "", "https://s3.example.com/audit");
        check("https://s3.example.com:443", true, "?object-lock", "https://s3.example.com/audit?object-lock");
        check("http://[::1]:9000", true, "a", "http://[::1]:9000/audit/a");
        check("http://s3.example.com:80", false, "a/b.note", "http://audit.s3.example.com/a/b.note");
        check("https://s3.example.com", false, "?object-lock", "https://audit.s3.example.com/?object-lock");
        check("https://s3.example.com:8443", false, "", "https://audit.s3.example.com:8443/");
    }

    #[test]
    fn an_error_is_told_by_its_code_and_by_no_more_of_it() {
        let rows = [
            ("<Error><Code>AccessDenied</Code><Message>secret</Message></Error>", "AccessDenied"),
            ("<Code>no word</Code>", ""),
            ("<Code>broken", ""),
            ("", ""),
        ];
        for (body, wanted) in rows {
            assert_eq!(code(body), wanted, "{body}");
        }
    }
}
