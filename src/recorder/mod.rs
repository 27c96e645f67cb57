//! From an observation to a durable row.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::units;

/// The `[recording]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The SQLite file.
    pub database: PathBuf,
    /// Permissions of a file that is created, octal.
    pub file_mode: String,
    /// Whether a missing file is made.
    pub create: Create,
    /// When an answer with something new goes to the client.
    pub deliver: Deliver,
    /// What happens to answers that cannot be recorded.
    pub when_unavailable: WhenUnavailable,
    /// How long an answer waits for its commit.
    #[serde(deserialize_with = "units::duration")]
    pub commit_wait_max: Duration,
    /// The longest answer that is held and read.
    #[serde(deserialize_with = "units::size")]
    pub body_max: usize,
    /// All answers held at one time together.
    #[serde(deserialize_with = "units::size")]
    pub inspected_bytes_max: usize,
    /// How much of a request body is read for attributes, positions and secrets.
    #[serde(deserialize_with = "units::size")]
    pub request_bytes_max: usize,
    /// How much of an unreadable body a finding keeps.
    #[serde(deserialize_with = "units::size")]
    pub finding_bytes_max: usize,
    /// What may wait to be written.
    #[serde(deserialize_with = "units::size")]
    pub queue_bytes_max: usize,
    /// Events in one transaction at most.
    pub batch_events_max: usize,
    /// Committed events remembered, so that repeated ones need no look at the file.
    pub memory_events_max: usize,
    /// Form fields of requestChat and updateData that become chat attributes.
    pub attributes: Vec<String>,
    /// Keep what customers typed and did not send.
    pub keep_typing_text: bool,
    /// A chat without traffic this long counts as over.
    #[serde(deserialize_with = "units::duration")]
    pub quiet_after: Duration,
    /// The same for asynchronous chats.
    #[serde(deserialize_with = "units::duration")]
    pub async_quiet_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            database: "transcripts.db".into(),
            file_mode: "0600".into(),
            create: Create::Missing,
            deliver: Deliver::AfterCommit,
            when_unavailable: WhenUnavailable::Pass,
            commit_wait_max: Duration::from_millis(800),
            body_max: 8 << 20,
            inspected_bytes_max: 64 << 20,
            request_bytes_max: 64 << 10,
            finding_bytes_max: 64 << 10,
            queue_bytes_max: 32 << 20,
            batch_events_max: 1000,
            memory_events_max: 200_000,
            attributes: ["nickname", "firstName", "lastName", "emailAddress", "subject", "userData[*]"]
                .map(String::from)
                .into(),
            keep_typing_text: false,
            quiet_after: Duration::from_secs(3600),
            async_quiet_after: Duration::from_secs(7 * 86_400),
        }
    }
}

/// `create`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Create {
    /// Make the file if there is none.
    Missing,
    /// Refuse to start without one.
    Never,
}

/// `deliver`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deliver {
    /// Commit and sync first.
    AfterCommit,
    /// Deliver at once and write behind.
    Immediately,
}

/// `when_unavailable`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenUnavailable {
    /// Deliver, and account for it.
    Pass,
    /// Let nothing unrecorded out.
    Refuse,
}
