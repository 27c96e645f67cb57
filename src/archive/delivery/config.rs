//! Where continuous exports go, and what they bring. Secrets have no place in it: they lie in files, or in the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::archive::anchor::config::{Lock, S3, region, yes};
use crate::archive::export::{Errors, Format, Plan};
use crate::store::audit::extract::Scope;
use crate::store::custody::delivery::Delivery;
use crate::units;

/// The `[export]` section.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What no target has yet is not purged by `serve`.
    pub purge_waits: bool,
    /// By name.
    pub targets: BTreeMap<String, Target>,
}

/// A table under `[export.targets]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// As what.
    pub format: Format,
    /// With errors.
    #[serde(default)]
    pub errors: bool,
    /// As bundles that prove themselves.
    #[serde(default)]
    pub bundle: bool,
    /// From one delivery to the next, on the clock: `"1h"` is at each full hour, UTC.
    #[serde(default = "day", deserialize_with = "units::duration")]
    pub every: Duration,
    /// A chat that is over goes when nothing was seen of it for so long.
    #[serde(default = "minutes", deserialize_with = "units::duration")]
    pub settle: Duration,
    /// Whole chats in one delivery; more go in further ones, at once.
    #[serde(default = "chats_max")]
    pub chats_max: usize,
    /// Chats of this service; empty: all.
    #[serde(default)]
    pub service: String,
    /// Chats with this party; empty: all.
    #[serde(default)]
    pub party: String,
    /// As [`Plan::mail_domain`].
    #[serde(default = "nobody")]
    pub mail_domain: String,
    /// A folder, in which each delivery is a folder; empty: a bucket.
    #[serde(default)]
    pub folder: PathBuf,
    /// As [`S3::url`]; empty: a folder.
    #[serde(default)]
    pub url: String,
    /// As [`S3::bucket`].
    #[serde(default)]
    pub bucket: String,
    /// As [`S3::region`].
    #[serde(default = "region")]
    pub region: String,
    /// As [`S3::prefix`].
    #[serde(default)]
    pub prefix: String,
    /// As [`S3::path_style`].
    #[serde(default = "yes")]
    pub path_style: bool,
    /// As [`S3::credentials`].
    #[serde(default)]
    pub credentials: PathBuf,
    /// As [`S3::lock`].
    #[serde(default)]
    pub lock: Lock,
    /// How long a delivery is locked, from when it was made.
    #[serde(default, deserialize_with = "units::duration")]
    pub retention: Duration,
    /// As [`S3::ca`].
    #[serde(default)]
    pub ca: PathBuf,
}

impl Config {
    /// Those that a purge waits for.
    pub fn awaited(&self) -> Vec<String> {
        self.targets.keys().filter(|_| self.purge_waits).cloned().collect()
    }
}

fn day() -> Duration {
    Duration::from_secs(86_400)
}

/// Widgets go on polling for a moment after the end, and what they bring belongs to the chat.
fn minutes() -> Duration {
    Duration::from_secs(300)
}

fn chats_max() -> usize {
    10_000
}

fn nobody() -> String {
    "invalid".into()
}

impl Target {
    /// Where it is a bucket.
    pub fn s3(&self) -> Option<S3> {
        let Self { url, bucket, region, prefix, path_style, credentials, lock, retention, ca, .. } = self.clone();
        let interval = Duration::ZERO;
        (!url.is_empty()).then_some(S3 {
            url,
            bucket,
            region,
            prefix,
            path_style,
            credentials,
            lock,
            retention,
            ca,
            interval,
        })
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        match self.s3() {
            Some(s3) => s3.place(),
            None => self.folder.display().to_string(),
        }
    }

    /// Whether others wait for their turn after this one.
    pub fn is_full(&self, delivery: &Delivery) -> bool {
        delivery.chats >= self.chats_max as u64
    }

    /// What is exported to it.
    pub fn plan(&self) -> Plan {
        let named = |name: &String| (!name.is_empty()).then(|| name.clone());
        let scope = Scope { service: named(&self.service), party: named(&self.party), ..Scope::default() };
        let errors = if self.errors { Errors::With } else { Errors::Without };
        Plan { scope, search: None, format: self.format, errors, mail_domain: self.mail_domain.clone(), delivery: None }
    }
}
