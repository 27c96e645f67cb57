//! What the program says of itself: logs, counters.

pub mod access;
pub mod metrics;
pub mod pulse;

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use access::Access;

/// The `[log]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How a line looks.
    pub format: Format,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,gms_recorder::proxy=debug`.
    pub level: String,
    /// How a line an exchange looks, if there is one.
    pub access: Access,
    /// The file of these lines; empty: stdout.
    pub access_file: PathBuf,
    /// Which part of the lines is written, 0 to 1, of those that are neither errors nor audited.
    pub access_sample: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            format: Format::Text,
            level: "info".into(),
            access: Access::None,
            access_file: PathBuf::new(),
            access_sample: 1.0,
        }
    }
}

/// `format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `level` cannot be read.
    #[error("{0}")]
    Level(String),
    /// Something in this process logs already.
    #[error("logging was started before")]
    Started,
}

/// The running log.
pub struct Logging {
    replace: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

impl Logging {
    /// Takes another `level`, from the next line on.
    ///
    /// # Errors
    /// A level that cannot be read; the former one stays.
    pub fn set_level(&self, level: &str) -> Result<(), Error> {
        let filter = parse_level(level).map_err(Error::Level)?;
        let is_replaced = (self.replace)(filter);
        is_replaced.then_some(()).ok_or_else(|| Error::Level("the log has ended".into()))
    }
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").finish_non_exhaustive()
    }
}

/// Sends the log lines of the whole process to stderr; results own stdout. To be called once, before the first line.
///
/// # Errors
/// A level that cannot be read, or logging that was started before.
pub fn start_logging(config: &Config) -> Result<Logging, Error> {
    // A log that cannot be written (stderr closed, disk full) must not take the chats with it: no panic, no complaint.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parse_level(&config.level).map_err(Error::Level)?)
        .with_writer(io::stderr)
        .log_internal_errors(false);
    let (started, replace): (_, Box<dyn Fn(EnvFilter) -> bool + Send + Sync>) = match config.format {
        Format::Text => {
            let lines = lines.with_ansi(colour_wanted()).with_filter_reloading();
            let filter = lines.reload_handle();
            (lines.try_init(), Box::new(move |new| filter.reload(new).is_ok()))
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            let lines = lines.with_filter_reloading();
            let filter = lines.reload_handle();
            (lines.try_init(), Box::new(move |new| filter.reload(new).is_ok()))
        }
    };
    started.map_err(|_| Error::Started)?;
    // What an HTTP client says at `trace` are the bytes of its connections, and tokens are among them.
    log::set_max_level(log::max_level().min(log::LevelFilter::Debug));
    Ok(Logging { replace })
}

fn colour_wanted() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Reads `level`. Stricter than the filter's own grammar, which takes a misspelt level for the name of a module.
///
/// # Errors
/// A sentence that says what would be right.
pub fn parse_level(text: &str) -> Result<EnvFilter, String> {
    let wanted =
        "a level (error, warn, info, debug, trace, off) or a filter such as \"info,gms_recorder::proxy=debug\"";
    let levels_are_known = text.split(',').all(|part| {
        let level = part.rsplit('=').next().unwrap_or_default().trim();
        !level.is_empty() && level.parse::<LevelFilter>().is_ok()
    });
    let filter = if levels_are_known { EnvFilter::try_new(text.replace(' ', "")).ok() } else { None };
    filter.ok_or_else(|| format!("\"{text}\" is not {wanted}"))
}

/// Keeps one place in the code from flooding the log: at most `lines_max` lines a period.
///
/// ```
/// use std::time::{Duration, Instant};
/// use gms_recorder::telemetry::Repeated;
///
/// static UNREADABLE: Repeated = Repeated::new(10, Duration::from_secs(60));
/// if let Some(not_shown) = UNREADABLE.admit(Instant::now()) {
///     tracing::warn!(not_shown, "an answer could not be read");
/// }
/// ```
#[derive(Debug)]
pub struct Repeated {
    lines_max: u64,
    period: Duration,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    started: Option<Instant>,
    shown: u64,
    not_shown: u64,
}

impl Repeated {
    /// At most `lines_max` lines in any `period` that begins with a line.
    pub const fn new(lines_max: u64, period: Duration) -> Self {
        Self { lines_max, period, window: Mutex::new(Window { started: None, shown: 0, not_shown: 0 }) }
    }

    /// Whether a line may be shown now; if so, how many were not shown since the last one that was.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = window.started.is_none_or(|started| now.saturating_duration_since(started) >= self.period);
        if is_over {
            window.started = Some(now);
            window.shown = 0;
        }
        if window.shown >= self.lines_max {
            window.not_shown += 1;
            return None;
        }
        window.shown += 1;
        Some(std::mem::take(&mut window.not_shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_and_misspelt_ones_refused() {
        for good in ["info", "WARN", "off", "info,gms_recorder::proxy=debug", "warn, hyper=trace"] {
            assert!(parse_level(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,", "gms_recorder=loud", "info,debgu"] {
            let sentence = parse_level(bad).expect_err(bad);
            assert!(sentence.starts_with(&format!("\"{bad}\" is not a level (error, warn,")), "{sentence}");
        }
    }

    #[test]
    fn repeated_lines_are_held_back_and_counted() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let lines = Repeated::new(2, Duration::from_secs(60));
        let rows = [
            (0, Some(0)),
            (1, Some(0)),
            (2, None),
            (59, None),
            (60, Some(2)), // a new period begins
            (61, Some(0)),
            (62, None),
            (200, Some(1)),
        ];
        for (seconds, admitted) in rows {
            assert_eq!(lines.admit(at(seconds)), admitted, "at {seconds} s");
        }
    }
}
