//! How long chats are kept, by their service and by when they were last seen; and what that means today.
//!
//! It knows the schedule; it does not know SQL, nor when it is looked at.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::store::Error;
use crate::store::custody::{Act, Actor, Custody, Due, How, Kind, Outcome, ServicesOf, Target};
use crate::units;

/// Whoever writes less means something else: what is older goes within the hour.
const SHORTEST: Duration = Duration::from_secs(86_400);
/// A year of a schedule: never shorter than one of the calendar.
const YEAR: Duration = Duration::from_secs(366 * 86_400);

/// The `[retention]` section.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Chats of services that are not named.
    pub keep: Keep,
    /// By service.
    pub services: BTreeMap<String, Keep>,
    /// `serve` purges, too.
    pub automatic: bool,
}

/// For how long: `"7y"`, `"90d"`, `"forever"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep(Option<Duration>);

impl Keep {
    /// Reads years, what [`units::parse_duration`] reads, and `forever`.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "forever" {
            return Ok(Self(None));
        }
        let years = text.strip_suffix('y').and_then(|years| years.trim().parse::<u32>().ok());
        let length = years.map(|years| YEAR * years).or_else(|| units::parse_duration(text).ok());
        match length.filter(|length| !length.is_zero()) {
            Some(length) if length < SHORTEST => {
                let months = if text.ends_with('m') {
                    "; `m` are minutes, and months are written in days, such as \"180d\""
                } else {
                    ""
                };
                Err(format!(
                    "\"{text}\" is not a time to keep chats for: it is less than a day, and the shortest is \"1d\"{months}"
                ))
            }
            Some(length) => Ok(Self(Some(length))),
            None => Err(format!("\"{text}\" is not a time to keep chats for, such as \"7y\", \"90d\" or \"forever\"")),
        }
    }

    /// Until when a chat must have been last seen to be due, milliseconds since the epoch. None: never.
    fn before(self, now: i64) -> Option<i64> {
        Some(now.saturating_sub(i64::try_from(self.0?.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("forever"),
            Some(length) if length.as_secs().is_multiple_of(YEAR.as_secs()) && length.subsec_nanos() == 0 => {
                write!(f, "{}y", length.as_secs() / YEAR.as_secs())
            }
            Some(length) => f.write_str(&units::format_duration(length)),
        }
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What a line of the schedule means today.
#[derive(Debug)]
pub struct Planned {
    /// None: services that are not named.
    pub service: Option<String>,
    /// For how long.
    pub keep: Keep,
    /// What was last seen before this is due, milliseconds since the epoch.
    pub before: i64,
    /// Chats that are due, the oldest first.
    pub due: Vec<Due>,
    /// Chats that would be due, and that a target of exports has not got yet.
    pub undelivered: usize,
    /// Errors, findings and files of no chat that are due.
    pub of_no_chat: i64,
}

/// What was purged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Chats.
    pub chats: i64,
    /// Rows of all tables.
    pub rows: i64,
    /// Chats that a hold kept.
    pub held: i64,
    /// Chats, and rows of no chat, that are not as they were sealed, and stay.
    pub altered: i64,
}

impl Config {
    /// Whether anything is ever due.
    pub fn is_limited(&self) -> bool {
        std::iter::once(&self.keep).chain(self.services.values()).any(|keep| keep.0.is_some())
    }

    /// What is due now, once these targets of exports have it. Removes nothing.
    ///
    /// # Errors
    /// As reading goes wrong, or it is not known what is held.
    pub fn plan(&self, custody: &Custody, now: i64, targets: &[String]) -> Result<Vec<Planned>, Error> {
        let in_force = custody.holds_in_force()?;
        let named: Vec<String> = self.services.keys().cloned().collect();
        let lines = self.services.iter().map(|(service, keep)| (Some(service.clone()), *keep));
        let mut plan = Vec::new();
        for (service, keep) in lines.chain([(None, self.keep)]) {
            let Some(before) = keep.before(now) else { continue };
            let services = service.as_deref().map_or(ServicesOf::AllBut(&named), ServicesOf::One);
            let (mut due, mut undelivered) = (Vec::new(), 0);
            for one in custody.due(before, &services, &in_force)? {
                match custody.is_delivered(&one.chat_id, targets)? {
                    true => due.push(one),
                    false => undelivered += 1,
                }
            }
            let of_no_chat = custody.due_of_no_chat(before, &services, &in_force)?;
            plan.push(Planned { service, keep, before, due, undelivered, of_no_chat });
        }
        Ok(plan)
    }

    /// Removes what is due, as one act. Where nothing is, nothing is noted.
    ///
    /// # Errors
    /// As writing goes wrong; what was removed is noted, and the act has no end.
    pub fn purge(
        &self,
        custody: &Custody,
        plan: &[Planned],
        actor: &Actor,
        now: impl Fn() -> i64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Purged, Error> {
        let free = |planned: &Planned| planned.due.iter().filter(|due| due.held_by.is_none()).count() as u64;
        let all: u64 = plan.iter().map(free).sum();
        let mut purged = Purged {
            held: plan.iter().map(|planned| planned.due.len() as i64).sum::<i64>() - all as i64,
            ..Purged::default()
        };
        if all == 0 && plan.iter().all(|planned| planned.of_no_chat == 0) {
            return Ok(purged);
        }
        let lines: Vec<_> = plan
            .iter()
            .map(|planned| serde_json::json!({ "service": planned.service, "keep": planned.keep.to_string(), "before": planned.before }))
            .collect();
        let asked = serde_json::json!({ "command": "purge", "schedule": lines });
        let act_id = custody.begin(&Act { kind: Kind::Purge, at: now(), actor, asked, reason: None })?;
        let named: Vec<String> = self.services.keys().cloned().collect();
        let mut done = 0;
        for planned in plan {
            let targets: Vec<Target> = planned
                .due
                .iter()
                .filter(|due| due.held_by.is_none())
                .map(|due| Target { not_seen_after: Some(planned.before - 1), ..Target::of(&due.chat_id) })
                .collect();
            custody.remove(act_id, How::Purged, &targets, &now, &mut |_, outcome| {
                done += 1;
                progress(done, all);
                match outcome {
                    Outcome::Removed { rows, .. } => {
                        (purged.chats, purged.rows) = (purged.chats + 1, purged.rows + rows)
                    }
                    Outcome::Held(_) => purged.held += 1,
                    Outcome::Altered(_) => purged.altered += 1,
                    Outcome::SeenAgain | Outcome::GoneBefore | Outcome::Nothing => {}
                }
            })?;
            let services = planned.service.as_deref().map_or(ServicesOf::AllBut(&named), ServicesOf::One);
            let (rows, altered) = custody.remove_of_no_chat(act_id, planned.before, &services, &now)?;
            (purged.rows, purged.altered) = (purged.rows + rows, purged.altered + altered);
        }
        purged.rows += custody.forget_released(act_id, How::Purged, now())?;
        custody.end(act_id, now(), purged.rows)?;
        Ok(purged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_keep_chats_for_are_read_and_written() {
        for text in ["7y", "90d", "36h", "forever"] {
            assert_eq!(Keep::parse(text).map(|keep| keep.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "0d", "0y", "7 years", "-1d", "7"] {
            assert!(Keep::parse(text).is_err_and(|why| why.contains("\"forever\"")), "{text}");
        }
        // Whoever writes "6m" means months.
        for text in ["6m", "12h", "1439m"] {
            assert!(Keep::parse(text).is_err_and(|why| why.contains("less than a day")), "{text}");
        }
        assert_eq!(Keep::parse("1y").expect("a year").before(400 * 86_400_000), Some(34 * 86_400_000));
        assert_eq!(Keep::default().before(0), None);
    }
}
