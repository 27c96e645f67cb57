//! The configuration: each part's own section composed into one, read from file, environment and flags, and checked
//! once, here. Parts take their section as it is; they neither read files nor check again.
//!
//! Flags override the environment, which overrides the file. The environment has a variable for every option
//! (`GMS_RECORDER_<SECTION>_<KEY>`, lists separated by commas) and short ones for the flags (`GMS_RECORDER_CONFIG`,
//! `_LISTEN`, `_UPSTREAM`, `_DATABASE`, `_ADMIN`), which win over the long ones.

mod layers;
mod problems;
mod sense;
mod written;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::gms::mask;
use crate::{admin, archive, proxy, recorder, telemetry};

use layers::Layers;

pub use problems::{Origin, Problem, Problems};
pub use written::Key;

/// What the names of our environment variables begin with.
pub const VARIABLE_PREFIX: &str = "GMS_RECORDER_";

/// Names the file, where `--config` does not.
pub const CONFIG_VARIABLE: &str = "GMS_RECORDER_CONFIG";

/// Everything that can be configured, checked.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `[proxy]`
    pub proxy: proxy::Config,
    /// `[limits]`
    pub limits: proxy::limits::Config,
    /// `[nodes]`
    pub nodes: proxy::nodes::Config,
    /// `[tls]`
    pub tls: proxy::tls::server::Config,
    /// `[node_tls]`
    pub node_tls: proxy::tls::connector::Config,
    /// `[recording]`
    pub recording: recorder::Config,
    /// `[masking]`
    pub masking: mask::Config,
    /// `[evidence]`
    pub evidence: archive::Config,
    /// `[retention]`
    pub retention: archive::retention::Config,
    /// `[export]`
    pub export: archive::delivery::Config,
    /// `[admin]`
    pub admin: admin::Config,
    /// `[log]`
    pub log: telemetry::Config,
}

/// What the command line says of the configuration, as it was written there.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--listen`
    pub listen: Option<String>,
    /// `--upstream`, as often as it was given; replaces the file's whole list.
    pub upstreams: Vec<String>,
    /// `--database`
    pub database: Option<PathBuf>,
    /// `--admin`
    pub admin: Option<String>,
}

/// Where each option was set that was set at all.
#[derive(Debug, Clone, Default)]
pub struct Origins(BTreeMap<Key, Origin>);

impl Config {
    /// What `serve` runs under. Without a file the defaults hold.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<Self, Problems> {
        Ok(Self::load_traced(file, environment, flags)?.0)
    }

    /// The same, and where each option was set.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_traced(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<(Self, Origins), Problems> {
        let mut layers = Layers::lay(file, environment, flags);
        let config = layers.config();
        if layers.is_file_read() {
            sense::check(&config, &mut layers);
        }
        let origins = Origins(layers.origins());
        Problems::or(layers.into_problems())?;
        Ok((config, origins))
    }

    /// SHA-256 of the effective configuration, in hex: two runs with the same one behaved by the same rules.
    pub fn hash(&self) -> String {
        Sha256::digest(self.to_toml()).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes all that is written to it");
            hex
        })
    }

    /// The effective configuration as one would write it. Reading it gives the same configuration.
    pub fn to_toml(&self) -> String {
        written::toml(self, |_| true, |_| None)
    }

    /// The same, with a remark behind each option that was set: where.
    pub fn to_toml_traced(&self, origins: &Origins) -> String {
        written::toml(self, |_| true, |key| origins.remark(key))
    }

    /// The same, of what is not as it would be by default.
    pub fn to_toml_changed(&self, origins: &Origins) -> String {
        let changed = self.differences(&Self::default());
        written::toml(self, |key| changed.contains(&key), |key| origins.remark(key))
    }

    /// The effective configuration for programs: an object a section, values as in TOML.
    pub fn to_json(&self) -> serde_json::Value {
        let mut sections = serde_json::Map::new();
        for (key, value) in written::options(self) {
            let section = sections.entry(key.section).or_insert_with(|| serde_json::json!({}));
            section[key.name] = serde_json::json!(value);
        }
        sections.into()
    }

    /// The Unix socket of `gms-recorder node`.
    pub fn control(&self) -> PathBuf {
        let configured = &self.admin.control;
        if !configured.as_os_str().is_empty() {
            return configured.clone();
        }
        let mut beside = self.recording.database.as_os_str().to_owned();
        beside.push("-control");
        beside.into()
    }

    /// The private key of the archive's checkpoints.
    pub fn key_file(&self) -> PathBuf {
        self.evidence.key_path(&self.recording.database)
    }

    /// What of the recorder's is not in the archive yet.
    pub fn spool(&self) -> PathBuf {
        self.recording.spool_path(&self.recording.database)
    }

    /// The options whose values differ, in the order in which they are documented.
    pub fn differences(&self, other: &Self) -> Vec<Key> {
        let (ours, theirs) = (written::options(self), written::options(other));
        let pairs = ours.into_iter().zip(theirs);
        pairs.filter(|(ours, theirs)| ours.1 != theirs.1).map(|(ours, _)| ours.0).collect()
    }

    /// Sentences about what is allowed but seldom meant.
    pub fn warnings(&self) -> Vec<String> {
        sense::warnings(self)
    }
}

impl Origins {
    fn remark(&self, key: Key) -> Option<String> {
        self.0.get(&key).map(Origin::to_string)
    }
}

/// What the commands need that work with an archive: its place, key, spool and schedule, and how reads of it are recorded.
/// They need nothing else: a file without nodes is as good.
///
/// # Errors
/// What is wrong with the file's form or with `recording.database`.
pub fn of_archive(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &Flags,
) -> Result<Config, Problems> {
    looked_at(file, environment, flags, |_, _| {})
}

/// The same with the rules of masking.
///
/// # Errors
/// As [`of_archive`]; what is wrong with the rules.
pub fn of_archive_with_rules(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &Flags,
) -> Result<Config, Problems> {
    looked_at(file, environment, flags, |config, layers| sense::check_masking(&config.masking, layers))
}

/// The same with the targets of continuous exports.
///
/// # Errors
/// As [`of_archive`]; what is wrong with the targets.
pub fn of_archive_with_targets(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &Flags,
) -> Result<Config, Problems> {
    looked_at(file, environment, flags, sense::check_export)
}

fn looked_at(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &Flags,
    check: impl FnOnce(&Config, &mut Layers),
) -> Result<Config, Problems> {
    let mut layers = Layers::lay(file, environment, flags);
    let config = layers.config();
    sense::check_database(&config.recording, &mut layers);
    check(&config, &mut layers);
    Problems::or(layers.into_problems())?;
    Ok(config)
}

#[cfg(test)]
mod tests;
