//! What keeps an archive trustworthy for years: signed checkpoints of its tree, the key that signs them, the anchors that
//! keep them where nobody who can change the archive can change them too, and what an auditor finds when all of it is held
//! together.
//!
//! It knows notes, keys, files, and servers that keep notes. It does not know SQL, nor when a checkpoint is due.

pub mod anchor;
mod anchored;
mod der;
pub mod bundle;
pub mod delivery;
pub mod export;
pub mod html;
pub mod key;
pub mod note;
pub mod retention;
pub mod private;
pub mod reconcile;
pub mod report;
pub mod time_stamp;
pub mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::{store, units};

/// The `[evidence]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The private key; empty: beside the database.
    pub key_file: PathBuf,
    /// From one checkpoint to the next.
    #[serde(deserialize_with = "units::duration")]
    pub checkpoint_interval: Duration,
    /// Every checkpoint is appended to this file; empty: none.
    pub anchor_file: PathBuf,
    /// Whether reads of content are recorded.
    pub record_reads: RecordReads,
    /// Whether nobody reads content without saying what for.
    pub require_case: bool,
    /// More anchors, by name.
    pub anchors: BTreeMap<String, anchor::Config>,
}

/// `record_reads`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordReads {
    /// Where it can be done; where not, that is said, and the read goes on.
    WhenPossible,
    /// Where it cannot be done nothing is shown.
    Required,
    /// Not at all.
    Never,
}

impl RecordReads {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WhenPossible => "when_possible",
            Self::Required => "required",
            Self::Never => "never",
        }
    }
}

/// What `anchor_file` is called among the anchors.
pub const ANCHOR_FILE: &str = "anchor_file";

impl Default for Config {
    fn default() -> Self {
        Self {
            key_file: PathBuf::new(),
            checkpoint_interval: Duration::from_secs(60),
            anchor_file: PathBuf::new(),
            record_reads: RecordReads::WhenPossible,
            require_case: false,
            anchors: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Where the key of an archive lies.
    pub fn key_path(&self, database: &Path) -> PathBuf {
        if self.key_file.as_os_str().is_empty() { store::beside(database, ".key") } else { self.key_file.clone() }
    }

    /// All anchors by name, `anchor_file` first.
    pub fn all_anchors(&self) -> impl Iterator<Item = (String, anchor::Config)> {
        let file = anchor::config::File { path: self.anchor_file.clone(), interval: Duration::ZERO };
        let is_named = !self.anchor_file.as_os_str().is_empty();
        let file = is_named.then(|| (ANCHOR_FILE.to_owned(), anchor::Config::File(file)));
        file.into_iter().chain(self.anchors.iter().map(|(name, config)| (name.clone(), config.clone())))
    }
}
