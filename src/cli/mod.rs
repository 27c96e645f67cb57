//! The command line: one file a command. Each takes its own `Args` and returns what went wrong; how that is told and
//! which exit code it gets is decided here, once. Results go to stdout, logs and errors to stderr.

pub mod output;
pub mod actor;
pub mod when;
pub mod scope;
pub mod reading;
pub mod custody;
pub mod progress;
pub mod serve;
pub mod check;
pub mod demo;
pub mod simulate;
pub mod chats;
pub mod transcript;
pub mod errors;
pub mod search;
pub mod holes;
pub mod report;
pub mod reconcile;
pub mod sql;
pub mod snapshot;
pub mod export;
pub mod access;
pub mod mask;
pub mod backup;
pub mod restore;
pub mod merge;
pub mod verify;
pub mod prove;
pub mod hold;
pub mod erase;
pub mod purge;
pub mod key;
pub mod node;

use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::Value;

use crate::config::{self, CONFIG_VARIABLE, Config, Flags, Origins, Problems, VARIABLE_PREFIX};
use crate::proxy::tls;

use reading::Reading;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: what was asked for could not be done, or was not found
  2  wrong usage or configuration: nothing was done

Every option of the configuration has an environment variable, GMS_RECORDER_<SECTION>_<KEY>:
GMS_RECORDER_RECORDING_WHEN_UNAVAILABLE=refuse. Flags override variables, variables the file.

Example:
  gms-recorder serve --upstream http://gms:8080      record into ./transcripts.db";

/// Records every Genesys chat that passes through it, once, before it is delivered.
///
/// A reverse proxy that stands in front of Genesys Mobile Services (GMS) nodes: it forwards everything unchanged, and
/// keeps each event of every Chat V2 transcript, and every API error, in one SQLite file.
#[derive(Debug, Parser)]
#[command(name = "gms-recorder", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What all commands take.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Common {
    /// The configuration file (TOML); without one the defaults hold [env: GMS_RECORDER_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The archive, a SQLite file; chats, transcript, errors, search, holes, report,
    /// reconcile and sql take several, and read them as one
    /// [env: GMS_RECORDER_DATABASE] [default: transcripts.db]
    #[arg(long, global = true, value_name = "PATH")]
    pub database: Vec<PathBuf>,
    /// What the command line asks for, as it is recorded of a read. Filled by [`Cli::of_process`].
    #[arg(skip)]
    asked: Value,
}

impl Cli {
    /// The command line of this process. What is wrong with it is told, and the process ends; so it is with `--help`.
    ///
    /// It is parsed once: the twenty-odd commands and their options are a millisecond or two of each start.
    pub fn of_process() -> Self {
        let mut command = Self::command();
        let matches = command.get_matches_mut();
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
        cli.common.asked = reading::asked(&matches);
        cli
    }
}

/// The commands, in the order of the help.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Forward and record: run the proxy until it is told to stop
    Serve(serve::Args),
    /// Show the effective configuration and what can be reached through it
    Check(check::Args),
    /// Play a conversation through simulated nodes and the proxy, then show what was stored
    Demo(demo::Args),
    /// Run simulated GMS nodes alone
    Simulate(simulate::Simulate),
    /// List chats
    Chats(chats::Args),
    /// Print one chat as one would read it
    Transcript(transcript::Args),
    /// List API errors and what to do about them
    Errors(errors::Args),
    /// Find what was said, by its words
    Search(search::Args),
    /// List what of a transcript was never seen
    Holes(holes::Args),
    /// Report on a day, a week or a month, for whoever signs it
    Report(report::Args),
    /// Compare chat ids from elsewhere with the archive
    Reconcile(reconcile::Args),
    /// Run one read-only SQL statement
    Sql(sql::Args),
    /// Copy a live archive, consistently
    Snapshot(snapshot::Args),
    /// Write chats out: tables, pages, mails, XML; all that are asked for, or what is new
    Export(export::Args),
    /// List who read what, and what was erased, held or masked
    Access(access::Args),
    /// Apply a rule of masking to what was recorded before it
    Mask(mask::Args),
    /// Back up a live archive: a copy that is verified before it gets its name
    Backup(backup::Args),
    /// Put a backup in the place of an archive, which is kept beside it
    Restore(restore::Args),
    /// Bring another proxy's archive into this one
    Merge(merge::Args),
    /// Hold everything recorded against its seals: is it whole and unaltered?
    Verify(verify::Args),
    /// Prove that a chat's rows are what was recorded, to somebody who has not the archive
    Prove(prove::Args),
    /// Put chats on hold: what is held is neither erased nor purged
    Hold(hold::Args),
    /// Release a hold
    Unhold(hold::Unhold),
    /// Erase chats or a customer's, to the last byte, with a certificate
    Erase(erase::Args),
    /// Remove what the schedule of retention says is due
    Purge(purge::Args),
    /// See the public keys of an archive's checkpoints; change to another one
    Key(key::Args),
    /// See how the nodes of a running `serve` fare; drain or restore one
    Node(node::Args),
}

/// Of what goes over an archive that may be recorded into at the same time: below the writer of a `serve`, which is below its
/// proxy.
const NICENESS: i32 = 10;

impl Command {
    /// Whether it may be long at work, and the chats that go on meanwhile come first.
    fn steps_aside(&self) -> bool {
        matches!(
            self,
            Self::Search(_)
                | Self::Report(_)
                | Self::Reconcile(_)
                | Self::Sql(_)
                | Self::Snapshot(_)
                | Self::Export(_)
                | Self::Mask(_)
                | Self::Backup(_)
                | Self::Merge(_)
                | Self::Verify(_)
                | Self::Erase(_)
                | Self::Purge(_)
        )
    }

    /// Only what shows rows takes several.
    fn check_databases(&self, common: &Common) -> Result<(), output::Usage> {
        let takes_several = matches!(
            self,
            Self::Chats(_)
                | Self::Transcript(_)
                | Self::Errors(_)
                | Self::Search(_)
                | Self::Holes(_)
                | Self::Report(_)
                | Self::Reconcile(_)
                | Self::Sql(_)
        );
        match takes_several || common.database.len() <= 1 {
            true => Ok(()),
            false => Err(output::Usage(
                "one --database: only chats, transcript, errors, search, holes, report, reconcile and sql read several at once"
                    .into(),
            )),
        }
    }
}

impl Common {
    /// The whole configuration, with what the command line of `serve` says of it, and where each option was set.
    ///
    /// # Errors
    /// [`Problems`], all of them.
    pub fn load(&self, args: &serve::Args) -> Result<(Config, Origins), Problems> {
        Config::load_traced(self.config_file().as_deref(), environment(), &self.flags(args))
    }

    /// What a command needs that works with an archive.
    ///
    /// # Errors
    /// [`Problems`] that stand in the way of knowing which.
    pub fn archive(&self) -> Result<Config, Problems> {
        config::of_archive(self.config_file().as_deref(), environment(), &self.flags(&serve::Args::default()))
    }

    /// The same with the rules of masking in force.
    ///
    /// # Errors
    /// As [`Common::archive`]; what is wrong with the rules.
    fn archive_with_rules(&self) -> Result<Config, Problems> {
        config::of_archive_with_rules(
            self.config_file().as_deref(),
            environment(),
            &self.flags(&serve::Args::default()),
        )
    }

    /// The same with the targets of continuous exports.
    ///
    /// # Errors
    /// As [`Common::archive`]; what is wrong with the targets.
    fn archive_with_targets(&self) -> Result<Config, Problems> {
        config::of_archive_with_targets(
            self.config_file().as_deref(),
            environment(),
            &self.flags(&serve::Args::default()),
        )
    }

    /// The archive's file.
    fn database(&self) -> Result<PathBuf, Problems> {
        Ok(self.archive()?.recording.database)
    }

    /// All that a reading command opens, which are read as one.
    fn databases(&self) -> Result<Vec<PathBuf>, Problems> {
        if self.database.len() > 1 { Ok(self.database.clone()) } else { Ok(vec![self.database()?]) }
    }

    /// The same, and how reads of its content are recorded.
    fn reading(&self) -> Result<Reading, Problems> {
        Ok(Reading::new(self.archive()?, self.databases()?, self.asked.clone()))
    }

    /// An empty variable names none: that is how compose files and units unset one.
    fn config_file(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os(CONFIG_VARIABLE).filter(|file| !file.is_empty());
        self.config.clone().or_else(|| variable().map(PathBuf::from))
    }

    fn flags(&self, args: &serve::Args) -> Flags {
        Flags {
            listen: args.listen.clone(),
            upstreams: args.upstreams.clone(),
            database: self.database.first().cloned(),
            admin: args.admin.clone(),
        }
    }
}

/// Our variables. What is not UTF-8 keeps a replacement character, which the configuration refuses.
fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    std::env::vars_os()
        .map(move |(name, value)| (text(name), text(value)))
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
}

/// Does what the command line says.
///
/// # Errors
/// What went wrong, for [`report`].
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let common = cli.common;
    cli.command.check_databases(&common)?;
    if cli.command.steps_aside() {
        // Not permitted where somebody has forbidden it: then it has the priority of all.
        let _ = rustix::process::nice(NICENESS);
    }
    match cli.command {
        Command::Serve(args) => wait_for(serve::run(&args, &common)), // the proxy's threads are its own
        Command::Check(args) => wait_for(check::run(&args, &common)),
        Command::Demo(args) => wait_for(demo::run(args, common.database.into_iter().next())),
        Command::Simulate(args) => wait_for(simulate::run(args)),
        Command::Chats(args) => wait_for(chats::run(args, &common.reading()?)),
        Command::Transcript(args) => wait_for(transcript::run(args, &common.reading()?)),
        Command::Errors(args) => wait_for(errors::run(args, &common.reading()?)),
        Command::Search(args) => wait_for(search::run(args, &common.reading()?)),
        Command::Holes(args) => wait_for(holes::run(args, &common.databases()?)),
        Command::Report(args) => wait_for(report::run(args, &common.reading()?, &common.archive()?.evidence)),
        Command::Reconcile(args) => wait_for(reconcile::run(args, &common.reading()?)),
        Command::Sql(args) => wait_for(sql::run(args, &common.reading()?)),
        Command::Snapshot(args) => wait_for(snapshot::run(args, &common.reading()?)),
        Command::Export(args) if args.is_of_targets() => {
            wait_for(export::run_of_targets(args, &common.archive_with_targets()?))
        }
        Command::Export(args) => wait_for(export::run(args, &common.reading()?)),
        Command::Access(args) => wait_for(access::run(args, &common.database()?)),
        Command::Mask(args) => wait_for(mask::run(args, common.archive_with_rules()?)).map_err(custody::with_hint),
        Command::Backup(args) => {
            let config = common.archive()?;
            let left_out = backup::LeftOut { key_file: config.key_file(), spool: config.spool() };
            wait_for(backup::run(args, &common.reading()?, left_out))
        }
        Command::Restore(args) => wait_for(restore::run(args, &common.archive()?, common.config_file())),
        Command::Merge(args) => wait_for(merge::run(args, common.archive_with_rules()?)),
        Command::Verify(args) => wait_for(verify::run(args, &common.database()?)),
        Command::Prove(args) => wait_for(prove::run(args, &common.reading()?, &common.archive()?.key_file())),
        Command::Hold(args) => wait_for(hold::run(args, &common.archive()?)).map_err(custody::with_hint),
        Command::Unhold(args) => wait_for(hold::release(args, &common.archive()?)).map_err(custody::with_hint),
        Command::Erase(args) => wait_for(erase::run(args, &common.archive()?)).map_err(custody::with_hint),
        Command::Purge(args) => wait_for(purge::run(args, &common.archive()?)).map_err(custody::with_hint),
        Command::Key(args) => wait_for(key::run(args, &common.archive()?)).map_err(custody::with_hint),
        Command::Node(args) => wait_for(node::run(args, common.archive()?.control())),
    }
}

/// Runs a command that needs one thread only.
fn wait_for(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let outcome = runtime.block_on(command);
    // A name server that does not answer would otherwise keep the process after its last word.
    runtime.shutdown_background();
    outcome
}

/// Tells an error on stderr, and which exit code it means.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS; // whoever read our output (`head`, a pager) has enough
    }
    // Nobody is left to be told that stderr is closed.
    let _ = write!(io::stderr(), "{}", told(error));
    ExitCode::from(exit_code(error))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let has_no_notes = matches!(error.downcast_ref(), Some(crate::archive::verify::Error::NoNotes(_)));
    let is_taken = error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(crate::store::read::Error::Exists(_)))
            || matches!(cause.downcast_ref(), Some(crate::store::backup::Error::Exists(_)))
            || matches!(cause.downcast_ref(), Some(crate::archive::export::Error::Exists(_)))
    });
    let is_usage = error.is::<Problems>() || error.is::<tls::Problems>() || error.is::<output::Usage>();
    let is_usage = is_usage || has_no_notes || is_taken;
    if is_usage { 2 } else { 1 }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io_errors.into_iter().any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The error, its causes, and what can be done.
fn told(error: &anyhow::Error) -> String {
    if let Some(problems) = error.downcast_ref::<Problems>() {
        let hint = "config/gms-recorder.toml of the distribution explains every option";
        return format!("error: the configuration is not right\n{problems}\nhint: {hint}\n");
    }
    let mut told = format!("error: {error}\n");
    let mut above = error.to_string();
    for cause in error.chain().skip(1) {
        let cause_text = cause.to_string();
        // Some errors repeat their cause in their own words.
        if !above.contains(&cause_text) {
            told += &format!("  because: {cause_text}\n");
        }
        above = cause_text;
    }
    if let Some(hint) = hint(error) {
        told += &format!("hint: {hint}\n");
    }
    told
}

fn hint(error: &anyhow::Error) -> Option<&'static str> {
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)?;
    match kind {
        io::ErrorKind::AddrInUse => Some("another program listens there; `ss -ltnp` names it"),
        io::ErrorKind::AddrNotAvailable => Some("this machine has no such address; `ip address` lists those it has"),
        io::ErrorKind::PermissionDenied => Some(
            "look at the owner and the mode of the file and its folder; ports below 1024 need CAP_NET_BIND_SERVICE",
        ),
        io::ErrorKind::StorageFull => {
            Some("free some space on that file system; `gms-recorder check` shows what is left")
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("the file system is mounted read-only; choose another --database"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in
            ["gms-recorder --config a.toml --database b.db check", "gms-recorder check --config a.toml --database b.db"]
        {
            let common = parse(line).expect(line).common;
            assert_eq!((common.config, common.database), (Some("a.toml".into()), vec!["b.db".into()]), "{line}");
        }
        let Command::Serve(args) =
            parse("gms-recorder serve --upstream http://a --upstream http://b").expect("right").command
        else {
            panic!("serve was asked for");
        };
        assert_eq!(args.upstreams, ["http://a", "http://b"]);
        assert!(parse("gms-recorder serve http://a").is_err());
        assert!(parse("gms-recorder").is_err());
    }

    #[test]
    fn every_help_has_an_example() {
        let mut cli = Cli::command();
        cli.build();
        assert!(cli.render_help().to_string().contains("Exit codes:"));
        for command in cli.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_help().to_string();
            let example = format!("Example:\n  gms-recorder {}", command.get_name());
            assert!(help.contains(&example), "{help}");
            assert!(help.contains("--config <FILE>") && help.contains("--database <PATH>"), "{help}");
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        }
    }

    #[test]
    fn errors_are_told_with_causes_and_a_hint() {
        let in_use = io::Error::from(io::ErrorKind::AddrInUse);
        let words = in_use.to_string();
        let error = anyhow::Error::new(in_use).context("cannot listen on 0.0.0.0:80");
        assert_eq!(
            told(&error),
            format!(
                "error: cannot listen on 0.0.0.0:80\n  because: {words}\nhint: another program listens there; `ss -ltnp` names it\n"
            )
        );
        assert_eq!(exit_code(&error), 1);

        let problems = Config::load(None, std::iter::empty(), &Flags::default()).expect_err("no node");
        let error = anyhow::Error::new(problems);
        assert!(
            told(&error).starts_with("error: the configuration is not right\nproxy.upstreams: no GMS node is named")
        );
        assert_eq!(exit_code(&error), 2);

        assert!(is_broken_pipe(&anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("printing")));
    }
}
