//! `node`: what the nodes of a running `serve` are given, seen and changed.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use super::output::{self, Cell, Format, Ink, Look, Output, Table, shown};
use super::when::{self, Clock};
use crate::admin::control::{self, Answer, Request};
use crate::proxy::nodes::Report;
use crate::proxy::standing::State;

const EXAMPLE: &str = "\
Example:
  gms-recorder node list
  gms-recorder node drain gms-1     before its restart: stop it once it has no exchanges
  gms-recorder node restore gms-1

A drained node is given no new chats. Chats over REST go on at other nodes with their next
request, since any GMS node serves any chat; CometD sessions stay until they end. After a
restart of `serve` no node is drained.";

/// See how the nodes of a running `serve` fare; drain one, or restore it.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    action: Action,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// List the nodes: how they fare, and what they have to do
    List,
    /// Give a node nothing new
    Drain {
        /// Its name, as `node list` shows it
        name: String,
    },
    /// Give a node its share again
    Restore {
        /// Its name, as `node list` shows it
        name: String,
    },
}

/// Runs the command. `socket` is where the running `serve` listens for it.
///
/// # Errors
/// What to tell the user: no `serve` runs there, or it has no such node.
pub async fn run(args: Args, socket: PathBuf) -> anyhow::Result<()> {
    let request = match args.action {
        Action::List => Request::List,
        Action::Drain { name } => Request::Drain { node: name },
        Action::Restore { name } => Request::Restore { node: name },
    };
    let nodes = ask(&socket, &request).await?;
    let look = Look { format: args.format, ..Look::default() };
    output::to_stdout(look, async |output| print(&nodes, output)).await
}

async fn ask(socket: &Path, request: &Request) -> anyhow::Result<Vec<Report>> {
    let told = || {
        format!(
            "no `serve` answers at {}; name its configuration or archive with --config or --database",
            socket.display()
        )
    };
    match control::ask(socket, request).await.with_context(told)? {
        Answer::Nodes(nodes) => Ok(nodes),
        Answer::Serving(_) => anyhow::bail!("`serve` answered something else than was asked"),
        Answer::Error(sentence) => anyhow::bail!(shown(&sentence)),
    }
}

const NAMES: [&str; 11] = [
    "node",
    "state",
    "drained",
    "exchanges",
    "connections",
    "waiting",
    "address",
    "resolved",
    "detail",
    "last_failure",
    "last_failed_at",
];

fn print(nodes: &[Report], output: &mut Output<'_>) -> anyhow::Result<()> {
    output.header(&NAMES)?;
    let names = ["node", "state", "exchanges>", "connections>", "waiting>", "address", "last failure"];
    let mut table = Table::new(&names).keeping(1);
    for node in nodes {
        match output.format {
            Format::Text => table.push(row(node)),
            Format::Json | Format::Csv => output.record(&NAMES, &record(node))?,
        }
    }
    Ok(table.print(output)?)
}

fn row(node: &Report) -> Vec<String> {
    let state = if node.drained { format!("{}, drained", node.state) } else { node.state.to_string() };
    let is_quiet = node.state == State::Well && !node.drained;
    vec![
        shown(&node.name),
        if is_quiet { state } else { Ink::Yellow.on(&state) },
        node.exchanges.to_string(),
        node.connections.to_string(),
        node.waiting.to_string(),
        shown(&node.address),
        shown(&trouble(node)),
    ]
}

/// What is said against it now, and what went wrong last, once where they are the same.
fn trouble(node: &Report) -> String {
    let last = node.last_failed_at.map(|at| format!("{}: {}", Clock::now(false).date_time(at), node.last_failure));
    match last {
        None => node.detail.clone(),
        Some(last) if node.detail.is_empty() || node.detail.ends_with(&node.last_failure) => last,
        Some(last) => format!("{}; last {last}", node.detail),
    }
}

fn record(node: &Report) -> [Cell; NAMES.len()] {
    let count = |number: usize| Cell::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    [
        node.name.as_str().into(),
        node.state.to_string().into(),
        Cell::Json(node.drained.to_string()),
        count(node.exchanges),
        count(node.connections),
        count(node.waiting),
        node.address.as_str().into(),
        Cell::Json(serde_json::json!(node.resolved).to_string()),
        node.detail.as_str().into(),
        node.last_failure.as_str().into(),
        node.last_failed_at.and_then(when::iso).into(),
    ]
}
