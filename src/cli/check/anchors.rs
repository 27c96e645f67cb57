//! Whether each anchor would take checkpoints now, and each target of exports deliveries, as far as that shows without leaving
//! anything there; and the key's mode.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::archive::{anchor, delivery};
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

/// A target of exports, and how it is.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    name: String,
    format: &'static str,
    place: String,
    found: Option<String>,
    pub problem: Option<String>,
}

/// The same of targets of exports.
pub(super) async fn look_at_targets(config: &Config) -> Vec<Target> {
    let mut looks = JoinSet::new();
    for (name, target) in config.export.targets.clone() {
        looks.spawn_blocking(move || Target::of(name, &target));
    }
    let mut targets = looks.join_all().await;
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    targets
}

impl Target {
    fn of(name: String, target: &delivery::Target) -> Self {
        let looked = delivery::look(target);
        let (format, place) = (target.format.as_str(), target.place());
        Self { name, format, place, found: looked.as_ref().ok().cloned(), problem: looked.err() }
    }

    /// As [`Anchor::write_text`].
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { name, format, place, found, problem } = self;
        write_text(out, [name, format, place], found.as_deref(), problem.as_deref(), "GETS NO EXPORTS")
    }
}

/// A line, and one more for what is wrong.
fn write_text(
    out: &mut impl Write,
    [name, kind, place]: [&str; 3],
    found: Option<&str>,
    problem: Option<&str>,
    verdict: &str,
) -> io::Result<()> {
    write!(out, "{name}  {kind}  {place}")?;
    match (found, problem) {
        (Some(found), _) => writeln!(out, "  {found}"),
        (_, Some(problem)) => writeln!(out, "\n{verdict}: {problem}"),
        _ => writeln!(out),
    }
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
        let Self { name, kind, place, found, problem } = self;
        write_text(out, [name, kind, place], found.as_deref(), problem.as_deref(), "TAKES NO CHECKPOINTS")
    }
}

/// Whoever can read the key can sign for the archive.
pub(super) fn key_mode_warning(key: &Path) -> Option<String> {
    let mode = key.metadata().ok()?.mode() & 0o7777;
    let remedy = "who can read it can sign for this archive; chmod 0600";
    (mode & OTHERS != 0).then(|| format!("the key {} can be used by others (mode {mode:04o}): {remedy}", key.display()))
}
