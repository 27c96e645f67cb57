//! Durations and sizes as people write them: `"800ms"`, `"8MiB"`. For the configuration and the command line. And moments as
//! programs write them.

use std::time::Duration;

use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, Error};
use serde::{Serialize, Serializer};

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Reads a duration such as `800ms`, `2s`, `5m`, `1h` or `7d`.
///
/// # Errors
/// A sentence that says what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wanted = "a duration such as \"800ms\", \"2s\", \"5m\", \"1h\" or \"7d\"";
    scaled(text, &DURATIONS).map(Duration::from_millis).ok_or_else(|| format!("\"{text}\" is not {wanted}"))
}

/// Reads a size such as `64KiB` or `8MiB`, in bytes.
///
/// # Errors
/// A sentence that says what would be right.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let wanted = "a size such as \"512B\", \"64KiB\", \"8MiB\" or \"1GiB\"";
    scaled(text, &SIZES).and_then(|n| n.try_into().ok()).ok_or_else(|| format!("\"{text}\" is not {wanted}"))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| unit.trim() == *name)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a duration the way [`parse_duration`] reads it, in the largest unit that fits exactly.
pub fn format_duration(duration: Duration) -> String {
    exact(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATIONS)
}

/// Writes a size the way [`parse_size`] reads it, in the largest unit that fits exactly.
pub fn format_size(bytes: usize) -> String {
    exact(bytes as u64, &SIZES)
}

fn exact(amount: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| amount >= *factor && amount.is_multiple_of(*factor);
    let (name, factor) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    format!("{}{name}", amount / factor)
}

/// ISO 8601, UTC, milliseconds: as the views of the archive write it. `None` for a number no calendar holds.
pub fn iso(ms: i64) -> Option<String> {
    Timestamp::from_millisecond(ms).ok().map(|at| format!("{at:.3}"))
}

/// `#[serde(serialize_with = "units::as_iso")]`, of milliseconds since the epoch.
pub fn as_iso<S: Serializer>(ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    iso(*ms).serialize(serializer)
}

/// The same of none, perhaps.
pub fn as_iso_or_none<S: Serializer>(ms: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    ms.and_then(iso).serialize(serializer)
}

/// The same of several.
pub fn as_isos<S: Serializer>(times: &[i64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(times.iter().map(|ms| iso(*ms)))
}

/// `#[serde(deserialize_with = "units::duration")]`
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// `#[serde(deserialize_with = "units::size")]`
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    parse_size(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_written() {
        let durations = [("800ms", 800), ("2s", 2_000), ("5m", 300_000), ("1h", 3_600_000), ("7d", 604_800_000)];
        for (text, ms) in durations {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
            assert_eq!(format_duration(Duration::from_millis(ms)), text);
        }
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("8MiB", 8 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for text in ["", "5", "s", "1.5s", "-1s", "5 weeks", "99999999999999999999s"] {
            assert!(parse_duration(text).unwrap_err().contains("800ms"), "{text}");
        }
        assert!(parse_size("8MB").unwrap_err().contains("8MiB"));
    }
}
