//! `serve`: forward and record.

use crate::telemetry;

use super::Common;

const EXAMPLE: &str = "\
Example:
  gms-recorder serve --upstream http://gms-1:8080 --upstream http://gms-2:8080";

/// The flags of `serve`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// Where clients connect [env: GMS_RECORDER_LISTEN] [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// A GMS node, http://host:port or name=http://host:port; again for each node [env: GMS_RECORDER_UPSTREAM]
    #[arg(long = "upstream", value_name = "URL")]
    pub upstreams: Vec<String>,
    /// Where probes and metrics are served [env: GMS_RECORDER_ADMIN] [default: 127.0.0.1:9180]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
}

/// Runs until it is told to stop.
///
/// # Errors
/// A configuration that is not right, or what keeps the proxy from running.
pub fn run(args: &Args, common: &Common) -> anyhow::Result<()> {
    let (config, _) = common.load(args)?;
    telemetry::start_logging(&config.log)?;
    anyhow::bail!("serve is not wired up in this build");
}
