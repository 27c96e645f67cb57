//! `check`: whether `serve` would do, and with what. Changes nothing and makes no file.

mod anchors;
mod listeners;
mod nodes;

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use crate::archive::key;
use crate::config::{Config, Origins, Problems};
use crate::gms::RouteClass;
use crate::proxy::affinity::Cookies;
use crate::proxy::health::Check;
use crate::proxy::tls;
use crate::recorder::Create;
use crate::store::audit::Snapshot;
use crate::store::inspect::{self, Migrations};
use crate::store::place::Place;
use crate::{proxy, units};

use anchors::{Anchor, Target};
use listeners::Listener;
use nodes::Node;

use super::{Common, serve};

pub(super) use listeners::serving;

const EXAMPLE: &str = "\
Example:
  gms-recorder check --config /etc/gms-recorder/gms-recorder.toml

Exit codes:
  0  the configuration is right, its addresses are free (or this archive's own running `serve` has
     them), every node was reached and is well, certificates and database can be used
  1  a node, an anchor or a target of exports cannot be reached or is not well (`serve` starts all
     the same); an address to listen on cannot be had; or a certificate, another file named for the
     nodes or the database cannot be used
  2  the configuration is not right; everything that is wrong is listed";

/// Less free space than this is warned of: some days of chats, and room for the journal.
const FREE_BYTES_WANTED: u64 = 1 << 30;

/// The flags of `check`: those of `serve`, as if it were started with them.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// What `serve` would be given.
    #[command(flatten)]
    pub serve: serve::Args,
    /// How the result is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Show every option and every route, not only what differs from the defaults
    #[arg(long)]
    pub all: bool,
}

/// `--format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// Prints what was found.
///
/// # Errors
/// [`Problems`] of the configuration; nodes or a database that cannot be used.
pub async fn run(args: &Args, common: &Common) -> anyhow::Result<()> {
    let (config, origins) = match common.load(&args.serve) {
        Ok(loaded) => loaded,
        Err(problems) => return Err(tell_problems(problems, args.format)?.into()),
    };
    let report = Report::of(&config, &origins).await;
    let mut stdout = io::stdout().lock();
    match args.format {
        Format::Text => report.write_text(args.all, &mut stdout)?,
        Format::Json => writeln!(stdout, "{}", serde_json::to_string(&report)?)?,
    }
    stdout.flush()?;
    match report.verdict() {
        None => Ok(()),
        Some(verdict) => anyhow::bail!(verdict),
    }
}

/// Who asked for JSON gets the problems so too; stderr has them as text in any case.
fn tell_problems(problems: Problems, format: Format) -> io::Result<Problems> {
    if format == Format::Json {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        writeln!(io::stdout(), "{}", serde_json::json!({ "problems": lines }))?;
    }
    Ok(problems)
}

#[derive(Debug, Serialize)]
struct Report {
    config: serde_json::Value,
    config_hash: String,
    #[serde(skip)]
    toml: String,
    /// Of what differs from the defaults.
    #[serde(skip)]
    changed: String,
    warnings: Vec<String>,
    listeners: Vec<Listener>,
    routes: Vec<Passage>,
    certificates: Vec<Certificates>,
    nodes: Vec<Node>,
    /// Files with secrets that cannot be used.
    files: Vec<String>,
    anchors: Vec<Anchor>,
    targets: Vec<Target>,
    database: Database,
}

/// Whether requests of a class, or under a prefix, are let through.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Passage {
    route: String,
    passes: bool,
    why: &'static str,
}

/// A file of certificates.
#[derive(Debug, Serialize)]
struct Certificates {
    option: &'static str,
    file: String,
    names: Vec<String>,
    /// Of the one that ends first.
    subject: Option<String>,
    not_after: Option<Timestamp>,
    days_left: Option<i64>,
    problem: Option<String>,
    warnings: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct Database {
    path: String,
    exists: bool,
    file_system: Option<String>,
    free_bytes: Option<u64>,
    total_bytes: Option<u64>,
    is_served: Option<bool>,
    pending_migrations: Option<usize>,
    newer_migrations: Option<usize>,
    problem: Option<String>,
    warnings: Vec<String>,
}

impl Report {
    async fn of(config: &Config, origins: &Origins) -> Self {
        let check = Check::of(&config.nodes);
        let files = [check.as_ref().err().cloned(), Cookies::of(&config.nodes).err()];
        let database = look_at_database(config).await;
        Self {
            config: config.to_json(),
            config_hash: config.hash(),
            toml: config.to_toml_traced(origins),
            changed: config.to_toml_changed(origins),
            warnings: config.warnings(),
            listeners: listeners::look_at(config, database.is_served == Some(true)).await,
            routes: passages(&config.proxy),
            certificates: look_at_certificates(config, Timestamp::now()),
            nodes: nodes::look_at(config, check.ok().flatten()).await,
            files: files.into_iter().flatten().collect(),
            anchors: anchors::look_at(config).await,
            targets: anchors::look_at_targets(config).await,
            database,
        }
    }

    /// What keeps `serve` from doing its work.
    fn verdict(&self) -> Option<String> {
        let untaken: Vec<_> = self.listeners.iter().filter(|listener| listener.problem.is_some()).collect();
        let untaken =
            untaken.iter().map(|listener| format!("{} = {} cannot be had", listener.option, listener.address));
        let lost = self.nodes.iter().filter(|node| node.problem.is_some()).count();
        let nodes = (lost > 0).then(|| format!("{lost} of {} nodes cannot be reached", self.nodes.len()));
        let unwell = self.nodes.iter().filter(|node| node.unwell.is_some()).count();
        let unwell = (unwell > 0).then(|| format!("{unwell} of {} nodes are not well", self.nodes.len()));
        let files = (!self.files.is_empty()).then(|| self.files.join(", and "));
        let unusable = self.certificates.iter().filter(|file| file.problem.is_some()).count();
        let certificates = (unusable > 0)
            .then(|| format!("{unusable} of {} certificate files cannot be used", self.certificates.len()));
        let down = self.anchors.iter().filter(|anchor| anchor.problem.is_some()).count();
        let anchors = (down > 0).then(|| format!("{down} of {} anchors take no checkpoints", self.anchors.len()));
        let down = self.targets.iter().filter(|target| target.problem.is_some()).count();
        let targets = (down > 0).then(|| format!("{down} of {} targets get no exports", self.targets.len()));
        let database = self.database.problem.as_ref().map(|_| "the database cannot be used".to_string());
        let others = [nodes, unwell, files, certificates, anchors, targets, database].into_iter().flatten();
        let parts: Vec<String> = untaken.chain(others).collect();
        (!parts.is_empty()).then(|| parts.join(", and "))
    }

    fn warning_count(&self) -> usize {
        let of_certificates: usize = self.certificates.iter().map(|file| file.warnings.len()).sum();
        self.warnings.len() + of_certificates + self.database.warnings.len()
    }

    /// What matters first.
    fn write_text(&self, all: bool, out: &mut impl Write) -> io::Result<()> {
        match (self.verdict(), self.warning_count()) {
            (Some(verdict), _) => writeln!(out, "NOT WELL: {verdict}")?,
            (None, 0) => writeln!(out, "all is well: `serve` can run with this")?,
            (None, 1) => writeln!(out, "`serve` can run with this; there is 1 warning")?,
            (None, count) => writeln!(out, "`serve` can run with this; there are {count} warnings")?,
        }
        self.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))?;
        writeln!(out, "\n# listening")?;
        self.listeners.iter().try_for_each(|listener| writeln!(out, "{}", listener.told()))?;
        writeln!(out, "\n# nodes")?;
        let width = self.nodes.iter().map(|node| node.name.chars().count()).max().unwrap_or(0);
        for node in &self.nodes {
            writeln!(out, "{:width$}  {}", node.name, node.told())?;
        }
        self.files.iter().try_for_each(|file| writeln!(out, "CANNOT BE USED: {file}"))?;
        if !self.certificates.is_empty() {
            writeln!(out, "\n# certificates")?;
        }
        self.certificates.iter().try_for_each(|certificates| certificates.write_text(out))?;
        if !self.anchors.is_empty() {
            writeln!(out, "\n# anchors")?;
        }
        self.anchors.iter().try_for_each(|anchor| anchor.write_text(out))?;
        if !self.targets.is_empty() {
            writeln!(out, "\n# exports")?;
        }
        self.targets.iter().try_for_each(|target| target.write_text(out))?;
        writeln!(out, "\n# database")?;
        self.database.write_text(out)?;
        self.write_routes(all, out)?;
        match all {
            true => write!(out, "\n# configuration, SHA-256 {}\n{}", self.config_hash, self.toml),
            false => write!(
                out,
                "\n# what differs from the defaults (--all shows every option), SHA-256 {}\n{}",
                self.config_hash, self.changed
            ),
        }
    }

    /// All of them, or nothing where all pass anyway.
    fn write_routes(&self, all: bool, out: &mut impl Write) -> io::Result<()> {
        if !all && self.routes.iter().all(|passage| passage.passes) {
            return Ok(());
        }
        writeln!(out, "\n# routes")?;
        let width = self.routes.iter().map(|passage| passage.route.chars().count()).max().unwrap_or(0);
        self.routes.iter().try_for_each(|Passage { route, passes, why }| {
            writeln!(out, "{route:width$}  {}  {why}", if *passes { "passes " } else { "refused" })
        })
    }
}

/// What `allow` and `deny` let through: each route class, then each prefix that they name.
fn passages(config: &proxy::Config) -> Vec<Passage> {
    let has = |list: &[String], entry: &str| list.iter().any(|named| named == entry);
    let class = |class: &str| {
        let (passes, why) = match class {
            _ if has(&config.deny, class) => (false, "deny names it"),
            _ if has(&config.allow, class) => (true, "allow names it"),
            _ if config.allow.is_empty() => (true, "allow is empty"),
            _ => (false, "allow names others"),
        };
        Passage { route: class.into(), passes, why }
    };
    let is_prefix = |entry: &&String| entry.starts_with('/');
    let prefix = |passes, why| move |entry: &String| Passage { route: entry.clone(), passes, why };
    let allowed = config.allow.iter().filter(is_prefix).map(prefix(true, "allow names it, where deny does not"));
    let denied = config.deny.iter().filter(is_prefix).map(prefix(false, "deny names it"));
    RouteClass::ALL.map(RouteClass::as_str).into_iter().map(class).chain(allowed).chain(denied).collect()
}

fn look_at_certificates(config: &Config, now: Timestamp) -> Vec<Certificates> {
    let inspected = tls::inspect(&config.tls, &config.node_tls, now);
    inspected.into_iter().map(|file| Certificates::of(file, now)).collect()
}

impl Certificates {
    fn of(inspected: tls::Inspected, now: Timestamp) -> Self {
        let ends_first = inspected.ends_first;
        Self {
            option: inspected.option,
            file: inspected.file.display().to_string(),
            names: inspected.names,
            not_after: ends_first.as_ref().map(|facts| facts.not_after),
            days_left: ends_first.as_ref().map(|facts| facts.days_left(now)),
            subject: ends_first.map(|facts| facts.subject),
            problem: inspected.problem.map(|problem| problem.to_string()),
            warnings: inspected.doubts.iter().map(ToString::to_string).collect(),
        }
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{}  {}", self.option, self.file)?;
        if !self.names.is_empty() {
            write!(out, "  for {}", self.names.join(", "))?;
        }
        if let (Some(subject), Some(not_after), Some(days_left)) = (&self.subject, self.not_after, self.days_left) {
            write!(out, "  \"{subject}\" ends {not_after}, in {days_left} days")?;
        }
        writeln!(out)?;
        if let Some(problem) = &self.problem {
            writeln!(out, "CANNOT BE USED: {problem}")?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))
    }
}

async fn look_at_database(whole: &Config) -> Database {
    let config = &whole.recording;
    let place = match Place::of(&config.database) {
        Ok(place) => place,
        Err(error) => {
            let path = std::path::absolute(&config.database).unwrap_or_else(|_| config.database.clone());
            return Database {
                path: path.display().to_string(),
                problem: Some(error.to_string()),
                ..Database::default()
            };
        }
    };
    let migrations = inspect::pending(&place.path).await;
    let served = inspect::is_served(&place.path);
    let problem = database_problem(&place, config.create, &migrations);
    let mut warnings = place_warnings(&place);
    warnings.extend(served.as_ref().err().map(|error| format!("whether it is served cannot be told: {error}")));
    let key = whole.evidence.key_path(&place.path);
    warnings.extend(key_warning(&key, &place));
    warnings.extend(anchors::key_mode_warning(&key));
    let migrations = migrations.ok();
    Database {
        path: place.path.display().to_string(),
        exists: place.exists,
        file_system: Some(place.file_system.name),
        free_bytes: Some(place.free_bytes),
        total_bytes: Some(place.total_bytes),
        is_served: served.ok(),
        pending_migrations: migrations.as_ref().map(|migrations| migrations.pending.len()),
        newer_migrations: migrations.as_ref().map(|migrations| migrations.newer.len()),
        problem,
        warnings,
    }
}

/// Without its key an archive is recorded into, and not signed.
fn key_warning(key: &Path, place: &Place) -> Option<String> {
    let known = Snapshot::open(&place.path).and_then(|snapshot| snapshot.keys()).ok()?;
    let known: Vec<String> = known.into_iter().map(|key| key.vkey).collect();
    let checked = key::check(key, &known);
    checked.err().map(|error| format!("no checkpoints would be signed: {error}"))
}

fn database_problem(place: &Place, create: Create, migrations: &Result<Migrations, inspect::Error>) -> Option<String> {
    if place.file_system.is_network() {
        return place.file_system.caution().map(String::from);
    }
    if !place.exists && create == Create::Never {
        return Some("there is no such file, and recording.create = \"never\" does not make it".into());
    }
    if let Err(error) = migrations {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        return Some(format!("{error}{cause}"));
    }
    (!place.is_writable).then(|| "this user may not write the file, or not make files in its folder".into())
}

fn place_warnings(place: &Place) -> Vec<String> {
    let caution = place.file_system.caution().filter(|_| !place.file_system.is_network()).map(String::from);
    let is_tight = place.free_bytes < FREE_BYTES_WANTED;
    let tight = is_tight.then(|| format!("only {} are free", rounded(place.free_bytes)));
    caution.into_iter().chain(tight).collect()
}

impl Database {
    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "path         {}", self.path)?;
        if let (Some(name), Some(free), Some(total)) = (&self.file_system, self.free_bytes, self.total_bytes) {
            writeln!(out, "file         {}", if self.exists { "exists" } else { "would be made" })?;
            writeln!(out, "file system  {name}, {} free of {}", rounded(free), rounded(total))?;
        }
        if let Some(is_served) = self.is_served {
            writeln!(out, "served       {}", if is_served { "yes: a running serve holds its lock" } else { "no" })?;
        }
        if let Some(pending) = self.pending_migrations {
            let newer = self.newer_migrations.filter(|newer| *newer > 0);
            let newer = newer.map(|newer| format!(", {newer} of a newer release")).unwrap_or_default();
            writeln!(out, "migrations   {pending} pending{newer}")?;
        }
        if let Some(problem) = &self.problem {
            writeln!(out, "CANNOT BE USED: {problem}")?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))
    }
}

/// In the largest unit that leaves at least two digits: exact bytes say nothing to a person.
fn rounded(bytes: u64) -> String {
    let unit = [1_u64 << 30, 1 << 20, 1 << 10].into_iter().find(|unit| bytes >= 10 * unit).unwrap_or(1);
    units::format_size(usize::try_from(bytes - bytes % unit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_by_class_and_prefix() {
        let check = |allow: &[&str], deny: &[&str], wanted: &[(&str, bool)]| {
            let list = |entries: &[&str]| entries.iter().map(ToString::to_string).collect();
            let config = proxy::Config { allow: list(allow), deny: list(deny), ..Default::default() };
            let passages = passages(&config);
            for (route, passes) in wanted {
                let found: Vec<_> = passages.iter().filter(|passage| passage.route == *route).collect();
                assert!(found.len() == 1 && found[0].passes == *passes, "{route} of {passages:?}");
            }
        };
        check(&[], &[], &[("chat", true), ("other", true)]);
        check(&["chat"], &[], &[("chat", true), ("chat_ntf", false), ("other", false)]);
        check(&["chat", "email"], &["email"], &[("chat", true), ("email", false), ("other", false)]);
        check(&[], &["other"], &[("chat", true), ("other", false)]);
        check(
            &["chat", "/health"],
            &["/genesys/admin"],
            &[("/health", true), ("/genesys/admin", false), ("other", false)],
        );
    }

    #[test]
    fn room_is_told_in_a_unit_that_says_something() {
        let rows =
            [(0, "0B"), (9_999, "9999B"), (10 << 10, "10KiB"), ((73 << 30) + 5, "73GiB"), ((5 << 30) - 1, "5119MiB")];
        for (bytes, told) in rows {
            assert_eq!(rounded(bytes), told);
        }
    }
}
