//! Arguments to command to exit code.
use clap::Parser;
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    c: C,
    #[arg(long, global = true)]
    config: Option<std::path::PathBuf>,
    #[arg(long, global = true)]
    database: Option<std::path::PathBuf>,
}
#[derive(clap::Subcommand)]
enum C {
    Serve(gms_recorder::cli::serve::Args),
    Simulate(gms_recorder::cli::simulate::Simulate),
}
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let c = Cli::parse();
    match c.c {
        C::Serve(a) => {
            let cfg = gms_recorder::config::Config::load(c.config.as_deref(), std::env::vars(), &a.flags(c.database))
                .map_err(|e| anyhow::anyhow!("{e}"))?;
            gms_recorder::cli::serve::run(cfg).await
        }
        C::Simulate(a) => gms_recorder::cli::simulate::run(a).await,
    }
}
