//! What kinds of anchors there are, and what each wants to know. Secrets have no place in it: they lie in files, or in the
//! environment.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde::Deserialize;

use crate::units;

/// A table under `[evidence.anchors]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Config {
    /// Appended to.
    File(File),
    /// Posted to.
    Http(Http),
    /// An object a checkpoint.
    S3(S3),
    /// A time stamp a checkpoint.
    TimeStamp(TimeStamp),
}

/// `kind = "file"`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The file.
    pub path: PathBuf,
    /// No more than one checkpoint in this time, and the last one at a stop; 0: each.
    #[serde(default, deserialize_with = "units::duration")]
    pub interval: Duration,
}

/// `kind = "http"`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// `https://host/path`
    pub url: String,
    /// The bearer token, in a file that its owner alone can read; empty: none is sent.
    #[serde(default)]
    pub token_file: PathBuf,
    /// Who issues the server's certificate, a PEM file; empty: whom the operating system believes.
    #[serde(default)]
    pub ca: PathBuf,
    /// As [`File::interval`].
    #[serde(default, deserialize_with = "units::duration")]
    pub interval: Duration,
}

/// `kind = "s3"`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// `https://host`: the service, without the bucket.
    pub url: String,
    /// The bucket.
    pub bucket: String,
    /// What requests are signed for.
    #[serde(default = "region")]
    pub region: String,
    /// Begins every key.
    #[serde(default)]
    pub prefix: String,
    /// The bucket's name is in the path of requests, and not before the host's.
    #[serde(default = "yes")]
    pub path_style: bool,
    /// A file as `~/.aws/credentials`, which its owner alone can read; empty: the environment has them.
    #[serde(default)]
    pub credentials: PathBuf,
    /// Who may still delete.
    #[serde(default)]
    pub lock: Lock,
    /// How long an object is locked, from its checkpoint's time on, or from when it is put there if that is later.
    #[serde(default, deserialize_with = "units::duration")]
    pub retention: Duration,
    /// As [`Http::ca`].
    #[serde(default)]
    pub ca: PathBuf,
    /// As [`File::interval`].
    #[serde(default, deserialize_with = "units::duration")]
    pub interval: Duration,
}

impl S3 {
    /// Where it is, for people: what its keys begin with.
    pub fn place(&self) -> String {
        format!("{}/{}/{}", self.url.trim_end_matches('/'), self.bucket, self.prefix)
    }
}

/// `lock`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lock {
    /// Nobody before the time is over.
    #[default]
    Compliance,
    /// Who has a permission of his own for that.
    Governance,
    /// Who may delete at all.
    None,
}

impl Lock {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compliance => "compliance",
            Self::Governance => "governance",
            Self::None => "none",
        }
    }
}

/// `kind = "time_stamp"`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeStamp {
    /// Of the authority (RFC 3161, section 3.4).
    pub url: String,
    /// Where checkpoints and their time stamps are kept.
    pub folder: PathBuf,
    /// As [`Http::ca`].
    #[serde(default)]
    pub ca: PathBuf,
    /// As [`File::interval`].
    #[serde(default = "hour", deserialize_with = "units::duration")]
    pub interval: Duration,
}

pub(in crate::archive) fn region() -> String {
    "us-east-1".into()
}

pub(in crate::archive) fn yes() -> bool {
    true
}

/// Authorities count, and some bill, each.
fn hour() -> Duration {
    Duration::from_secs(3_600)
}

impl Config {
    /// The kind, as the configuration writes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Http(_) => "http",
            Self::S3(_) => "s3",
            Self::TimeStamp(_) => "time_stamp",
        }
    }

    /// No more than one checkpoint in this time; 0: each.
    pub fn interval(&self) -> Duration {
        match self {
            Self::File(File { interval, .. })
            | Self::Http(Http { interval, .. })
            | Self::S3(S3 { interval, .. })
            | Self::TimeStamp(TimeStamp { interval, .. }) => *interval,
        }
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        match self {
            Self::File(file) => file.path.display().to_string(),
            Self::Http(http) => http.url.clone(),
            Self::S3(s3) => s3.place(),
            Self::TimeStamp(stamp) => format!("{}, kept in {}", stamp.url, stamp.folder.display()),
        }
    }
}

/// An address by HTTP, without a secret in it.
///
/// # Errors
/// What would be right; without the address, which may hold a password.
pub fn endpoint(url: &str) -> Result<Uri, String> {
    let wanted = "wanted is one such as \"https://audit.example.com/checkpoints\"";
    let uri: Uri = url.parse().map_err(|_| format!("it is no address; {wanted}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(format!("it begins neither with http:// nor with https:// and a host; {wanted}"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) || uri.query().is_some() {
        return Err("credentials and queries do not belong into it: they would be shown; secrets have files".into());
    }
    Ok(uri)
}
