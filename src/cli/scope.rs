//! Which part of the archive a command is about: when, and whose chats. Shared by the reading commands.

use std::collections::HashMap;
use std::time::Duration;

use super::output::Usage;
use super::when::{self, Clock};
use crate::store::read::{Archive, Attribute, Error};
use crate::units;

/// `--since`, `--until`, `--at`, `--window`.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Times {
    /// From this time on: 2h or 7d (ago), 2026-11-01, "2026-11-01 14:00", or RFC 3339.
    #[arg(long, value_name = "TIME", conflicts_with = "at")]
    pub since: Option<String>,
    /// Before this time, as --since: --since 2026-03-01 --until 2026-04-01 is all of March.
    #[arg(long, value_name = "TIME", conflicts_with = "at")]
    pub until: Option<String>,
    /// Around this time: 14:02 (today's, else the most recent), 2026-11-23T14:02, or RFC 3339.
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// How far around --at, either side.
    #[arg(long, value_name = "DURATION", requires = "at", default_value = "5m", value_parser = units::parse_duration)]
    pub window: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { since: None, until: None, at: None, window: Duration::from_secs(300) }
    }
}

/// The same, and `--who`.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Scope {
    /// When.
    #[command(flatten)]
    pub times: Times,
    /// A customer, by anything known of them (e-mail address, nickname, name, user data; whatever the case, whole or else
    /// in part), or a chat id.
    #[arg(long, value_name = "TEXT")]
    pub who: Option<String>,
}

/// The same, and of which service.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Selection {
    /// When, and whose.
    #[command(flatten)]
    pub scope: Scope,
    /// Of chats of this service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
}

impl Times {
    /// Whether any is named.
    pub fn are_named(&self) -> bool {
        self.since.is_some() || self.until.is_some() || self.at.is_some()
    }

    /// From when, until when, in milliseconds; both included.
    ///
    /// # Errors
    /// A time that is none.
    pub fn range(&self, clock: &Clock) -> Result<(Option<i64>, Option<i64>), Usage> {
        if let Some(at) = &self.at {
            return when::around(at, self.window, clock).map(|(from, until)| (Some(from), Some(until)));
        }
        let from = self.since.as_ref().map(|since| when::since(since, clock)).transpose()?;
        let until = self.until.as_ref().map(|until| when::until(until, clock)).transpose()?;
        if let (Some(from), Some(until)) = (from, until) {
            when::in_order(from, until)?;
        }
        Ok((from, until.map(|until| until - 1)))
    }
}

#[cfg(test)]
impl Scope {
    /// As the command line would have it.
    pub(crate) fn named(since: Option<&str>, at: Option<&str>, who: Option<&str>) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let times = Times { since: owned(since), at: owned(at), ..Times::default() };
        Self { times, who: owned(who) }
    }
}

impl Scope {
    /// The chats of `--who`; `None` where everybody is meant.
    ///
    /// # Errors
    /// As the archive.
    pub async fn chat_ids(&self, archive: &mut Archive) -> Result<Option<Vec<String>>, Error> {
        match &self.who {
            Some(who) => archive.chats_of(who).await.map(Some),
            None => Ok(None),
        }
    }
}

/// What is known of the customers of some chats.
#[derive(Debug, Default)]
pub struct Customers(HashMap<String, Vec<Attribute>>);

impl Customers {
    /// Asks for the chats that are not known yet.
    ///
    /// # Errors
    /// As the archive.
    pub async fn learn<'c>(
        &mut self,
        archive: &mut Archive,
        chat_ids: impl Iterator<Item = &'c String>,
    ) -> Result<(), Error> {
        let asked: Vec<_> = chat_ids.filter(|chat_id| !self.0.contains_key(*chat_id)).cloned().collect();
        if asked.is_empty() {
            return Ok(());
        }
        let found = archive.attributes(&asked).await?;
        self.0.extend(asked.into_iter().map(|chat_id| (chat_id, Vec::new())));
        for attribute in found {
            self.0.entry(attribute.chat_id.clone()).or_default().push(attribute);
        }
        Ok(())
    }

    /// Everything known of a chat.
    pub fn attributes(&self, chat_id: &str) -> &[Attribute] {
        self.0.get(chat_id).map_or(&[], Vec::as_slice)
    }

    /// The customer's name and address, as far as known: `Anna Berg <anna@example.com>`.
    pub fn name(&self, chat_id: &str) -> Option<String> {
        let value = |name: &str| {
            let found = self.attributes(chat_id).iter().find(|attribute| attribute.name == name)?;
            Some(found.value.as_str()).filter(|value| !value.is_empty())
        };
        let full: Vec<_> = [value("firstName"), value("lastName")].into_iter().flatten().collect();
        let name = if full.is_empty() { value("nickname").map(str::to_owned) } else { Some(full.join(" ")) };
        match (name, value("emailAddress")) {
            (Some(name), Some(address)) => Some(format!("{name} <{address}>")),
            (None, Some(address)) => Some(address.to_owned()),
            (name, None) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{chats, errors, holes, search, snapshot, sql, transcript};

    /// The reading commands as the command line has them.
    #[derive(Debug, Parser)]
    enum Reading {
        Chats(chats::Args),
        Transcript(transcript::Args),
        Errors(errors::Args),
        Search(search::Args),
        Holes(holes::Args),
        Sql(sql::Args),
        Snapshot(snapshot::Args),
    }

    #[test]
    fn the_documented_command_lines_are_understood() {
        <Reading as clap::CommandFactory>::command().debug_assert();
        let rows = [
            ("chats --since 7d --who anna --status open --limit 5 --format csv --utc", true),
            ("transcript c1 --errors --variants --typing --format json", true),
            ("errors --at 14:02 --window 5m --who anna@example.com", true),
            ("errors --code 249 --chat c1 --node gms-3 --since 2026-11-01", true),
            ("holes --since 7d --until 1d", true),
            ("chats --since 2026-11-01 --until 2026-11-02", true),
            ("errors --since 2026-11-01T00:00:00.000Z --until 2026-11-02T00:00:00.000Z --code 249", true),
            ("errors --at 14:02 --until 1d", false),
            (
                "search parcel --since 7d --until 1d --service sales --who anna --newest --index --limit 5 --format json",
                true,
            ),
            ("search parcel --chat c1 --chat c2", true),
            ("search parcel --chat c1 --who anna", false),
            ("search parcel --at 14:02 --until 1d", false),
            ("search", false),
            ("sql VALUES(1) --timeout 2s", true),
            ("snapshot copy.db", true),
            ("transcript", false),
            ("chats --since 7d --at 14:02", false),
            ("chats --limit 0", false),
            ("chats --status closed", false),
            ("errors --window 5weeks", false),
            ("chats --format xml", false),
        ];
        for (line, wanted) in rows {
            let words = std::iter::once("gms-recorder").chain(line.split(' '));
            assert_eq!(Reading::try_parse_from(words).is_ok(), wanted, "{line}");
        }
    }
}
