//! Whether each anchor would take checkpoints now, as far as that shows without leaving one there; and the key's mode.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::archive::anchor;
use crate::config::Config;

/// What others than the owner may do with a file.
const OTHERS: u32 = 0o077;

/// An anchor, and how it is.
#[derive(Debug, Serialize)]
pub(super) struct Anchor {
    name: String,
    kind: &'static str,
    place: String,
    found: Option<String>,
    pub problem: Option<String>,
}

/// All at one time: each takes some seconds at most.
pub(super) async fn look_at(config: &Config) -> Vec<Anchor> {
    let mut looks = JoinSet::new();
    for (name, config) in config.evidence.all_anchors() {
        looks.spawn_blocking(move || Anchor::of(name, &config));
    }
    let mut anchors = looks.join_all().await;
    anchors.sort_by(|a, b| a.name.cmp(&b.name));
    anchors
}

impl Anchor {
    fn of(name: String, config: &anchor::Config) -> Self {
        let (found, problem) = match anchor::look(config) {
            Ok(found) => (Some(found), None),
            Err(problem) => (None, Some(problem)),
        };
        Self { name, kind: config.kind(), place: config.place(), found, problem }
    }

    /// A line, and one more for what is wrong.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{}  {}  {}", self.name, self.kind, self.place)?;
        match (&self.found, &self.problem) {
            (Some(found), _) => writeln!(out, "  {found}"),
            (_, Some(problem)) => writeln!(out, "\nTAKES NO CHECKPOINTS: {problem}"),
            _ => writeln!(out),
        }
    }
}

/// Whoever can read the key can sign for the archive.
pub(super) fn key_mode_warning(key: &Path) -> Option<String> {
    let mode = key.metadata().ok()?.mode() & 0o7777;
    let remedy = "who can read it can sign for this archive; chmod 0600";
    (mode & OTHERS != 0).then(|| format!("the key {} can be used by others (mode {mode:04o}): {remedy}", key.display()))
}
