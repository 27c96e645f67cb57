//! `gms-recorder simulate`: simulated GMS nodes alone, to try things against. It turns flags into the simulator's
//! configuration and knows nothing of how the nodes answer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use crate::simulator::{AgentScript, Chance, Config, ErrorFormat, Faults, Growth, Simulator};
use crate::units::parse_duration;

const MORE: &str = "\
Example:
  gms-recorder simulate --nodes 3

What goes wrong can be changed at any time; what is not named is as by default:
  curl http://127.0.0.1:8010/__faults -d '{\"unexpected\": 0.05, \"truncated\": {\"every\": 20}}'

How often: a probability from 0 to 1, or each n-th exchange.
  unexpected            error 240 as HTTP 400, not executed
  media_server          error 249 and statusCode 2 in HTTP 200, not executed
  temporary             a bare statusCode 1 in HTTP 200, not executed
  server_error          HTTP 500 with a page of HTML, not executed
  unavailable           HTTP 503 with a page of HTML, not executed
  delay                 held back, from delay_ms_min to delay_ms_max milliseconds
  reset_before_reading  the connection is reset, not executed
  reset_after_reading   executed, then the connection is reset
  truncated             the answer breaks off in its body
  malformed             the answer is no JSON
  python                the answer is written as Python prints it
  slow                  written in small pieces over slow_ms milliseconds
  gzip, deflate, zstd   the answer is encoded so
  chunked               framed in chunks
  variant               an event comes again with another text
Numbers, 0 for never:
  requests_per_connection  after so many requests a connection is closed
  idle_ms                  an idle connection is closed after so many milliseconds

GET /__account tells what was issued.";

/// Runs simulated GMS nodes that share their chats, until it is interrupted.
#[derive(Debug, Args)]
#[command(after_help = MORE)]
#[group(skip)]
pub struct Simulate {
    /// Where the first node listens; the others take the ports after it (port 0: each a free one)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8010")]
    listen: SocketAddr,
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// What chat ids, keys and faults follow from
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// A service that is configured, once for each; any other is error 306 [default: a few usual ones]
    #[arg(long = "service", value_name = "NAME")]
    services: Vec<String>,
    /// The share of requests that end in one of GMS's errors, 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = parse_rate)]
    error_rate: f64,
    /// The share of requests whose connection is reset or breaks off, 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = parse_rate)]
    break_rate: f64,
    /// How long every answer is held back at most, such as 200ms
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    delay: Option<Duration>,
    /// How long agents think before they answer, such as 2s
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    reply_delay: Duration,
    /// The agent leaves and joins again after so many replies (0: never)
    #[arg(long, value_name = "N", default_value_t = 0)]
    rejoins_every: u32,
    /// Chats grow to so many events by being refreshed (0: they do not)
    #[arg(long, value_name = "N", default_value_t = 0)]
    events_per_chat: usize,
    /// Validation errors as releases up to 8.5.103.08 write them
    #[arg(long)]
    old_errors: bool,
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// Where an address cannot be bound.
pub async fn run(args: Simulate) -> anyhow::Result<()> {
    let config = args.config()?;
    let simulator = Simulator::start(config).await.with_context(|| format!("cannot listen at {}", args.listen))?;
    for address in simulator.addresses() {
        println!("simulated GMS node at http://{address}/genesys");
    }
    let upstreams: Vec<_> =
        simulator.addresses().iter().map(|address| format!("--upstream http://{address}")).collect();
    eprintln!("in front of them: gms-recorder serve {}", upstreams.join(" "));
    eprintln!("what was issued: GET /__account; what goes wrong: POST /__faults; Ctrl-C stops");
    interrupted().await?;
    simulator.stop().await;
    Ok(())
}

impl Simulate {
    fn config(&self) -> anyhow::Result<Config> {
        let defaults = Config::default();
        Ok(Config {
            listen: self.addresses()?,
            seed: self.seed,
            faults: self.faults(),
            agent: AgentScript {
                reply_delay_ms: millis(self.reply_delay),
                rejoins_every: self.rejoins_every,
                ..AgentScript::default()
            },
            error_format: if self.old_errors { ErrorFormat::Old } else { ErrorFormat::New },
            services: if self.services.is_empty() { defaults.services.clone() } else { self.services.clone() },
            growth: Growth { events_per_chat: self.events_per_chat, events_per_poll: 5 },
            ..defaults
        })
    }

    fn addresses(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let first = self.listen.port();
        let port = |n: u16| if first == 0 { Some(0) } else { first.checked_add(n) };
        let ports = (0..self.nodes).map(port).collect::<Option<Vec<_>>>();
        let ports = ports.with_context(|| format!("there are no {} ports from {first} on", self.nodes))?;
        Ok(ports.into_iter().map(|port| SocketAddr::new(self.listen.ip(), port)).collect())
    }

    /// The rates are shared out among what they stand for.
    fn faults(&self) -> Faults {
        let (error, broken) = (shared(self.error_rate, 5), shared(self.break_rate, 3));
        Faults {
            unexpected: error,
            media_server: error,
            temporary: error,
            server_error: error,
            unavailable: error,
            reset_before_reading: broken,
            reset_after_reading: broken,
            truncated: broken,
            delay: if self.delay.is_some() { Chance::ALWAYS } else { Chance::NEVER },
            delay_ms_min: 0,
            delay_ms_max: millis(self.delay.unwrap_or_default()),
            ..Faults::default()
        }
    }
}

/// The rate at which each of so many independent faults strikes, so that any of them does at this rate.
fn shared(rate: f64, faults: i32) -> Chance {
    Chance::Rate(1.0 - (1.0 - rate).powf(1.0 / f64::from(faults)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.0..=1.0).contains(rate));
    rate.ok_or_else(|| format!("\"{text}\" is not a rate from 0 to 1, such as 0.05"))
}

async fn interrupted() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt.context("cannot listen for SIGINT"),
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        simulate: Simulate,
    }

    fn config(arguments: &str) -> Result<Config, String> {
        let words = std::iter::once("simulate").chain(arguments.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.simulate.config().map_err(|error| error.to_string())
    }

    #[test]
    fn nodes_take_the_ports_after_the_first() {
        let rows: [(&str, &[u16]); 3] = [
            ("--nodes 3", &[8010, 8011, 8012]),
            ("--listen 127.0.0.1:0 --nodes 2", &[0, 0]),
            ("--listen [::1]:9000", &[9000]),
        ];
        for (arguments, ports) in rows {
            let listen = config(arguments).expect(arguments).listen;
            assert_eq!(listen.iter().map(SocketAddr::port).collect::<Vec<_>>(), ports, "{arguments}");
        }
    }

    #[test]
    fn every_fault_is_in_the_help() {
        let faults = serde_json::to_value(Faults::default()).expect("they are plain");
        let words: Vec<&str> = MORE.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).collect();
        for name in faults.as_object().expect("fields").keys() {
            assert!(words.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn a_share_of_errors_is_shared_out() {
        for rate in [0.0, 0.1, 1.0] {
            let Chance::Rate(each) = shared(rate, 5) else { panic!("a rate stays one") };
            assert!((1.0 - (1.0 - each).powi(5) - rate).abs() < 1e-9, "{rate}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let rows = [
            ("--error-rate 2", "from 0 to 1"),
            ("--delay 5", "800ms"),
            ("--nodes 0", "1..=64"),
            ("--listen 127.0.0.1:65535 --nodes 2", "no 2 ports"),
        ];
        for (arguments, said) in rows {
            let error = config(arguments).expect_err(arguments);
            assert!(error.contains(said), "{arguments}: {error}");
        }
    }
}
