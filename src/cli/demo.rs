//! `demo`: simulated nodes, the real proxy before them, and a customer who chats through it. Then what was stored, and that it
//! is whole.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::serve::Running;
use super::{errors, sql, transcript, verify};
use crate::config::{Config, Flags};
use crate::simulator::{self, AgentScript, Chance, Faults, Simulator};

const FORM: &str = "application/x-www-form-urlencoded";
const SERVICE: &str = "customer-support";
const MASKED: &str = "SELECT event_index, field, rule, at_character, characters FROM maskings";

/// Flags of `demo`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Example:\n  gms-recorder demo")]
#[group(skip)]
pub struct Args {}

/// Plays the conversation and shows what was kept of it.
///
/// # Errors
/// Where something does not start, or does not answer as it should.
pub async fn run(_: Args, database: Option<PathBuf>) -> anyhow::Result<()> {
    let database = match database {
        Some(database) if database.exists() => {
            bail!("{} exists; the demo writes only to a new file", database.display())
        }
        Some(database) => database,
        None => own_folder()?.join("transcripts.db"),
    };
    let agent = AgentScript {
        nickname: "Tom".into(),
        replies: ["Hello! You said: {text}", "One moment, I look it up.", "I am back. It left our house this morning."]
            .map(String::from)
            .into(),
        rejoins_every: 2,
        hidden_every: 0,
        ..AgentScript::default()
    };
    let simulator = Simulator::start(simulator::Config { agent, ..simulator::Config::nodes(2) }).await?;
    let running = Running::start(&config(&simulator, &database)?).await?;
    println!("2 simulated GMS nodes, and gms-recorder in front of them at http://{}\n", running.address());

    let chat_id = converse(running.address(), &simulator).await?;
    running.stop(Duration::ZERO).await;
    simulator.stop().await;

    println!("\n── the transcript, as recorded ──\n");
    transcript::run(transcript::Args::of(&chat_id), std::slice::from_ref(&database)).await?;
    println!("\n── the error, as audited ──\n");
    errors::run(errors::Args::of_chat(&chat_id), std::slice::from_ref(&database)).await?;
    println!("\n── what was masked before it was written ──\n");
    sql::run(sql::Args::of(MASKED), std::slice::from_ref(&database)).await?;
    println!("\n── is it as it was recorded? (verify) ──\n");
    verify::run(verify::Args::default(), &database).await?;
    let database = database.display();
    let program = std::env::args().next().unwrap_or_else(|| "gms-recorder".into());
    println!("\n── look for yourself ──\n");
    println!("  sqlite3 -readonly {database} 'SELECT at, who, type, text FROM transcript'");
    println!("  {program} chats --database {database}");
    println!("  {program} transcript {chat_id} --errors --database {database}");
    println!("  {program} sql 'SELECT * FROM completeness' --database {database}");
    println!("  {program} verify --database {database}");
    Ok(())
}

fn own_folder() -> anyhow::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("gms-recorder-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

fn config(simulator: &Simulator, database: &Path) -> anyhow::Result<Config> {
    let nodes = simulator.addresses();
    let flags = Flags {
        listen: Some("127.0.0.1:0".into()),
        admin: Some("127.0.0.1:0".into()),
        upstreams: nodes.iter().enumerate().map(|(n, node)| format!("gms-{}=http://{node}", n + 1)).collect(),
        database: Some(database.into()),
    };
    Ok(Config::load(None, std::iter::empty(), &flags)?)
}

/// The customer's side: writes, reads, meets an error, tries again, leaves.
async fn converse(proxy: SocketAddr, simulator: &Simulator) -> anyhow::Result<String> {
    let mut customer = Customer::connect(proxy).await?;
    let opened = customer.ask("", "nickname=Anna&emailAddress=anna%40example.com&subject=My+order").await?;
    let text =
        |name: &str| opened[name].as_str().map(String::from).with_context(|| format!("the answer has no {name}"));
    let (chat_id, key) = (text("chatId")?, text("secureKey")?);
    let path = |operation: &str| format!("/{chat_id}/{operation}");
    let form = |more: &str| format!("secureKey={key}&{more}");

    customer.ask(&path("send"), &form("message=Where+is+my+order+4711%3F&transcriptPosition=1")).await?;
    simulator.replace_faults(Faults { media_server: Chance::ALWAYS, ..Faults::default() });
    customer.ask(&path("send"), &form("message=Are+you+still+there%3F&transcriptPosition=1")).await?;
    simulator.replace_faults(Faults::default());
    customer.ask(&path("send"), &form("message=Are+you+still+there%3F&transcriptPosition=1")).await?;
    let thanks = "message=Thank+you%21+%F0%9F%91%8B+My+card+is+4111+1111+1111+1111%2C+cvv+123&transcriptPosition=1";
    customer.ask(&path("send"), &form(thanks)).await?;
    customer.ask(&path("disconnect"), &form("")).await?;
    customer.ask(&path("refresh"), &form("transcriptPosition=1")).await?;
    Ok(chat_id)
}

/// A client with one connection to the proxy, as a chat widget has.
struct Customer {
    proxy: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Customer {
    async fn connect(proxy: SocketAddr) -> anyhow::Result<Self> {
        let stream = tokio::net::TcpStream::connect(proxy).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { proxy, sender })
    }

    /// Posts a form and says in one line what came of it.
    async fn ask(&mut self, path: &str, form: &str) -> anyhow::Result<Value> {
        let request = Request::post(format!("/genesys/2/chat/{SERVICE}{path}")).header(HOST, self.proxy.to_string());
        let request = request.header(CONTENT_TYPE, FORM).body(Full::from(form.to_string()))?;
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let answer: Value = serde_json::from_slice(&body).context("the answer is no JSON")?;
        let operation = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("requestChat");
        let events = answer["messages"].as_array().map_or(0, Vec::len);
        let plural = if events == 1 { "" } else { "s" };
        let error = answer["errors"].get(0).map(|error| format!(", error {}", error["code"])).unwrap_or_default();
        println!(
            "  {operation:<12} HTTP {}, statusCode {}, {events} event{plural}{error}",
            head.status.as_u16(),
            answer["statusCode"]
        );
        if !head.status.is_success() {
            bail!("{operation} was answered with {}", head.status);
        }
        Ok(answer)
    }
}
