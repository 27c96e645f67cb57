//! `serve`: the proxy, the recorder and the admin listener, from start report to orderly stop.

mod handover;
mod open_files;
mod sockets;
mod systemd;

use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::{Common, check};
use crate::admin::control::{self, Control, Serving};
use crate::admin::{self, Watched};
use crate::config::{Config, Key};
use crate::proxy::access::Access;
use crate::proxy::affinity::Cookies;
use crate::proxy::health::{self, Check};
use crate::proxy::{Claim, Door, Http2, NodeAddress, Nodes, Proxy, Start, tls};
use crate::recorder::courier::Couriers;
use crate::recorder::indexer::Indexer;
use crate::recorder::keeper::Keeper;
use crate::recorder::{self, Create, Deliver, Recorder, WhenUnavailable, WriterThread, now_ms};
use crate::store::growth::Growth;
use crate::store::place::{FileSystemKind, Place};
use crate::store::{self, ArchiveLock, ErrorKind, Options, Run, Store};
use crate::telemetry::access::AccessLog;
use crate::telemetry::{self, Logging, metrics::Metrics};

use handover::{Estate, Predecessor, Program, Successor};
use sockets::Sockets;

/// How often the free space and the open files are looked at.
const ROOM_INTERVAL: Duration = Duration::from_secs(5);
/// How long the archive is asked for again while a predecessor writes into it: each of its commits takes milliseconds.
const BUSY_MAX: Duration = Duration::from_secs(10);

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
    /// A GMS node, http(s)://host:port or name=http(s)://host:port; again for each [env: GMS_RECORDER_UPSTREAM]
    #[arg(long = "upstream", value_name = "URL")]
    pub upstreams: Vec<String>,
    /// Where probes and metrics are served [env: GMS_RECORDER_ADMIN] [default: 127.0.0.1:9180]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
}

/// Serves until SIGTERM or SIGINT, then drains. A second signal ends it at once. SIGHUP reads the configuration anew,
/// SIGUSR2 hands over to the program that is now at this one's path.
///
/// # Errors
/// Where it cannot start.
pub async fn run(args: &Args, common: &Common) -> anyhow::Result<()> {
    let (mut config, _) = common.load(args)?;
    let logging = telemetry::start_logging(&config.log)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut upgrade_asked = signal(SignalKind::user_defined2())?;
    let program = Program::of_this_process()?;
    let running = match Predecessor::of_this_process().await? {
        Some((predecessor, sockets)) => Running::take_over(&config, predecessor, sockets).await?,
        None => Running::start_on(&config, Sockets::of_systemd()?, None).await?,
    };
    systemd::ready(&running.status());
    let mut upgrade: Option<Pin<Box<dyn Future<Output = anyhow::Result<Successor>>>>> = None;
    let successor = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv() => {
                systemd::reloading();
                running.access_log.iter().for_each(|log| log.reopen());
                match common.load(args) {
                    Ok((new, _)) => running.configure(&mut config, new, &logging),
                    Err(problems) => {
                        let problems = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                        tracing::error!(problems, "the configuration is not right; the one that was read before stays");
                    }
                }
                systemd::ready(&running.status());
            }
            _ = upgrade_asked.recv() => match running.estate() {
                _ if upgrade.is_some() => tracing::warn!("an upgrade is under way already"),
                Ok(estate) => {
                    let start_max = config.proxy.upgrade_start_max;
                    upgrade = Some(Box::pin(handover::upgrade(program.clone(), estate, start_max)));
                }
                Err(error) => running.not_upgraded(&error),
            },
            outcome = async { upgrade.as_mut().expect("it is under way").await }, if upgrade.is_some() => {
                upgrade = None;
                match outcome {
                    Ok(successor) => break Some(successor),
                    Err(error) => running.not_upgraded(&error),
                }
            }
        }
    };
    drop(upgrade); // a successor that does not serve yet is ended
    let ending = running.proxy.ending();
    let mut is_told = successor.is_none();
    let mut end: Pin<Box<dyn Future<Output = ()>>> = match successor {
        None => {
            systemd::stopping("finishing what is in flight");
            Box::pin(running.stop(config.proxy.drain_delay))
        }
        Some(successor) => Box::pin(running.leave_to(successor, config.proxy.upgrade_drain_max)),
    };
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if is_told {
            anyhow::bail!("stopped at once by a second signal; what was not yet written is lost");
        }
        is_told = true;
        ending.stop();
    }
}

/// A running server.
#[derive(Debug)]
pub struct Running {
    proxy: Proxy,
    writer: WriterThread,
    keeper: Keeper,
    indexer: Option<Indexer>,
    couriers: Couriers,
    watched: Arc<Watched>,
    certificates: Arc<tls::Watch>,
    admin_address: SocketAddr,
    drain_max: Duration,
    access_log: Option<Arc<AccessLog>>,
    tasks: Vec<JoinHandle<()>>,
    /// What a successor does instead.
    fronts: Vec<JoinHandle<()>>,
    admin: std::net::TcpListener,
    control: Option<control::Share>,
    are_activated: bool,
    // Released last.
    lock: ArchiveLock,
}

impl Running {
    /// Opens the archive, binds both listeners, starts all threads and reports what it did.
    ///
    /// # Errors
    /// Where any of that cannot be done; nothing is left running then.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        Self::start_on(config, Sockets::default(), None).await
    }

    /// The same in the place of a process that goes on until this one serves.
    async fn take_over(config: &Config, mut from: Predecessor, mut sockets: Sockets) -> anyhow::Result<Self> {
        sockets.fit(config);
        let mut running = Self::start_on(config, sockets, Some(&mut from)).await?;
        let exchange = from.serving().await;
        running.lock.sign();
        let (recorder, nodes) = (running.watched.recorder.clone(), running.watched.nodes.clone());
        running.tasks.extend(exchange.map(|exchange| tokio::spawn(exchange.run(recorder, nodes))));
        Ok(running)
    }

    /// The same on sockets that listen already.
    async fn start_on(config: &Config, sockets: Sockets, from: Option<&mut Predecessor>) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::default());
        open_files::raise(config, &metrics);
        let addresses = addresses(config)?;
        let has_tls_nodes = addresses.iter().any(|address| address.is_tls);
        let protocols = if config.proxy.http2 == Http2::Never { tls::HTTP_1 } else { tls::HTTP_2_OR_1 };
        let certificates = tls::Watch::start(&config.tls, &config.node_tls, has_tls_nodes, protocols, metrics.clone())?;
        let certificates = Arc::new(certificates);
        let place = suitable_place(config)?;
        let watch = Watch::of(config)?;
        let inherited = sockets.lock.and_then(|lock| ArchiveLock::inherit(lock, &place.path));
        let lock = match inherited.map_or_else(|| ArchiveLock::acquire(&place.path), Ok) {
            Err(error) if error.kind == ErrorKind::Busy => anyhow::bail!(served_already(config, error).await),
            acquired => acquired?,
        };
        let admin = sockets.admin.map_or_else(|| std::net::TcpListener::bind(config.admin.listen), Ok);
        let admin = admin.with_context(|| cannot_listen("admin.listen", config.admin.listen, "--admin"))?;
        admin.set_nonblocking(true)?;
        let admin_address = admin.local_addr()?;
        let control = control(config, sockets.control)?;
        let access_log = AccessLog::start(&config.log, &metrics)
            .with_context(|| format!("cannot write log.access_file = {}", config.log.access_file.display()))?
            .map(Arc::new);
        // Before the archive is made or a run begins in it: neither is to come of a start that fails.
        let door = match sockets.proxy.is_empty() {
            true => Door::Claimed(Claim::of(config.proxy.listen).with_context(|| cannot_serve_clients(config))?),
            false => Door::Open(sockets.proxy),
        };
        let tls = certificates.connector().cloned();
        let nodes = Arc::new(Nodes::new(addresses, tls, &config.proxy, &config.limits, &config.nodes, &metrics));
        health::resolve_first(&nodes).await;
        refuse_circle(config, &nodes)?;
        let (options, run) = (options(config, &place), describe_run(config));
        let opened = open(&options, &run, from.is_some()).await;
        let store = opened.with_context(|| format!("cannot open the archive {}", place.path.display()))?;
        let archive_id = store.archive_id().to_owned();
        let run_id = store.run_id();

        let (recording, evidence) = (config.recording.clone(), config.evidence.clone());
        let start = recorder::Start { config: recording, evidence, store, options, run, metrics: metrics.clone() };
        let writer = match &from {
            Some(from) => Recorder::start_with_key(start, from.digest_key)?,
            None => Recorder::start(start)?,
        };
        let recorder = writer.recorder().clone();
        let start = Start {
            config: config.proxy.clone(),
            limits: config.limits.clone(),
            access: Access::new(&config.proxy.allow, &config.proxy.deny).map_err(anyhow::Error::msg)?,
            nodes: nodes.clone(),
            cookies: watch.cookies,
            tls: certificates.server().cloned(),
            recorder: recorder.clone(),
            metrics: metrics.clone(),
            access_log: access_log.clone(),
        };
        let proxy = match begin(start, door, from).await.with_context(|| cannot_serve_clients(config)) {
            Ok(proxy) => proxy,
            Err(error) => {
                writer.close(Duration::from_secs(1));
                return Err(error);
            }
        };
        let spool = config.recording.spool_path(&place.path);
        let keeper = Keeper::start(place.path.clone(), spool, config.retention.clone(), config.export.awaited())?;
        let couriers = Couriers::start(&place.path, &config.export, &recorder)?;
        let index = || Indexer::start(place.path.clone(), recorder.clone());
        let indexer = config.recording.search.then(index).transpose()?;
        let watched = Arc::new(Watched { recorder, nodes: nodes.clone(), metrics, draining: AtomicBool::new(false) });
        let tasks = vec![
            tokio::spawn(health::watch(watched.nodes.clone(), watch.check, config.nodes.resolve_interval)),
            tokio::spawn(watch_room(place.clone(), watched.clone())),
            tokio::spawn(certificates.clone().run()),
        ];
        let mut fronts = vec![
            tokio::spawn(admin::serve(TcpListener::from_std(admin.try_clone()?)?, watched.clone())),
            tokio::spawn(systemd::watch(watched.metrics.clone())),
        ];
        let shared_control = control.as_ref().map(Control::share).transpose()?;
        if let Some(control) = control {
            let (listen, watched) = (proxy.address(), watched.clone());
            let serving = move || Serving {
                pid: std::process::id(),
                listen,
                admin: admin_address,
                draining: watched.draining.load(Ordering::Acquire),
            };
            fronts.push(tokio::spawn(control.serve(nodes, serving)));
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %proxy.address(),
            tls = certificates.server().is_some(),
            admin = %admin_address,
            nodes = config.proxy.upstreams.join(", "),
            database = %place.path.display(),
            file_system = place.file_system.name,
            free_bytes = place.free_bytes,
            archive_id,
            run_id,
            deliver = deliver(config),
            when_unavailable = when_unavailable(config),
            "recording"
        );
        Ok(Self {
            proxy,
            writer,
            keeper,
            indexer,
            couriers,
            watched,
            certificates,
            admin_address,
            drain_max: config.proxy.drain_max,
            access_log,
            tasks,
            fronts,
            admin,
            control: shared_control,
            are_activated: sockets.are_activated,
            lock,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.proxy.address()
    }

    /// Where probes and metrics are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What it does, in a line.
    fn status(&self) -> String {
        format!("recording chats that come to {}; probes and metrics at {}", self.address(), self.admin_address)
    }

    /// What the probes look at.
    pub fn watched(&self) -> &Arc<Watched> {
        &self.watched
    }

    /// Takes what of another configuration can be changed while running, and names what cannot.
    fn configure(&self, config: &mut Config, new: Config, logging: &Logging) {
        let is_taken = |key: &Key| is_taken_while_running(*key, config, &new);
        let (taken, left): (Vec<_>, Vec<_>) = config.differences(&new).into_iter().partition(is_taken);
        if !left.is_empty() {
            tracing::warn!(
                options = names(&left),
                "options have changed that are only taken at a start; restart for them"
            );
        }
        if let Err(error) = logging.set_level(&new.log.level) {
            return tracing::error!(%error, "the log's level cannot be changed");
        }
        config.log.level = new.log.level;
        if config.tls.is_on() == new.tls.is_on() {
            config.tls = new.tls;
        }
        config.node_tls = new.node_tls;
        match taken.is_empty() {
            true if left.is_empty() => tracing::info!("the configuration was read anew; nothing in it has changed"),
            true => tracing::info!("the configuration was read anew; nothing that has changed is taken now"),
            false => tracing::info!(changed = names(&taken), "the configuration was read anew"),
        }
        self.certificates.configure(config.tls.clone(), config.node_tls.clone());
    }

    /// Not ready but still accepting for `drain_delay`; then finishes what is in flight, writes what waits, closes.
    pub async fn stop(self, drain_delay: Duration) {
        self.watched.draining.store(true, Ordering::Release);
        tracing::info!(drain_delay = ?drain_delay, drain_max = ?self.drain_max, "stopping");
        tokio::time::sleep(drain_delay).await;
        self.proxy.ending().stop();
        self.end().await;
    }

    /// What a successor is given.
    fn estate(&self) -> anyhow::Result<Estate> {
        let listeners = self.proxy.listeners().iter().map(|listener| listener.try_clone().map(Into::into));
        let control = self.control.as_ref().map(|control| control.descriptor.try_clone()).transpose()?;
        Ok(Estate {
            lock: self.lock.share()?.into(),
            proxy: listeners.collect::<std::io::Result<_>>()?,
            admin: self.admin.try_clone()?.into(),
            control,
            are_activated: self.are_activated,
            recorder: self.watched.recorder.clone(),
            nodes: self.watched.nodes.clone(),
        })
    }

    fn not_upgraded(&self, error: &anyhow::Error) {
        self.watched.metrics.upgrades_failed.inc();
        tracing::error!(error = format!("{error:#}"), "the upgrade came to nothing; this process goes on");
    }

    /// Leaves new clients to a successor that serves already, finishes what is here, writes what waits, closes.
    async fn leave_to(mut self, successor: Successor, leave_max: Duration) {
        let pid = successor.pid;
        systemd::main_is(pid);
        tracing::info!(successor = pid, ?leave_max, "handed over; finishing what is in flight");
        self.control.iter().for_each(control::Share::leave);
        self.fronts.drain(..).for_each(|task| task.abort());
        match successor.leave_to().await {
            Ok(exchange) => {
                let (recorder, nodes) = (self.watched.recorder.clone(), self.watched.nodes.clone());
                self.tasks.push(tokio::spawn(exchange.run(recorder, nodes)));
            }
            Err(error) => tracing::error!(%error, "the successor has died just when it was to go on alone"),
        }
        self.watched.recorder.leave_spool();
        self.proxy.ending().hand_over(leave_max);
        self.end().await;
    }

    async fn end(self) {
        let (proxy, writer, access_log, drain_max) = (self.proxy, self.writer, self.access_log, self.drain_max);
        let (keeper, indexer, couriers) = (self.keeper, self.indexer, self.couriers);
        let stopped = tokio::task::spawn_blocking(move || {
            std::thread::scope(|scope| {
                scope.spawn(|| keeper.stop());
                scope.spawn(|| indexer.into_iter().for_each(Indexer::stop));
                couriers.stop();
            });
            proxy.join();
            writer.close(drain_max);
            access_log.iter().for_each(|log| log.close());
        });
        if stopped.await.is_err() {
            tracing::error!("the stop itself went wrong");
        }
        self.tasks.iter().chain(&self.fronts).for_each(JoinHandle::abort);
        let account = self.watched.metrics.ledger.read();
        tracing::info!(
            seen = account.seen,
            new = account.new,
            duplicate = account.duplicate,
            variant = account.variant,
            finding = account.finding,
            suppressed = account.suppressed,
            refused = account.refused,
            dropped = account.dropped,
            in_flight = account.in_flight,
            delivered_early = account.delivered_early,
            "stopped"
        );
    }
}

/// The socket for `gms-recorder node`. Chats do not depend on it: where the place beside the archive does not take one,
/// there is none.
fn control(config: &Config, inherited: Option<UnixListener>) -> anyhow::Result<Option<Control>> {
    let path = config.control();
    match inherited.map_or_else(|| Control::bind(&path), |listener| Control::inherit(listener, &path)) {
        Ok(control) => Ok(Some(control)),
        Err(error) if config.admin.control.as_os_str().is_empty() => {
            tracing::warn!(path = %path.display(), %error, "nodes cannot be drained: set admin.control to another path");
            Ok(None)
        }
        Err(error) => Err(anyhow::Error::new(error)).with_context(|| format!("cannot listen on {}", path.display())),
    }
}

/// What the nodes are watched with and kept to by, out of files that only we may read.
struct Watch {
    check: Option<Check>,
    cookies: Cookies,
}

impl Watch {
    fn of(config: &Config) -> anyhow::Result<Self> {
        let check =
            Check::of(&config.nodes).map_err(anyhow::Error::msg).context("the nodes' health cannot be checked")?;
        let cookies = Cookies::of(&config.nodes).map_err(anyhow::Error::msg);
        Ok(Self { check, cookies: cookies.context("sessions cannot be kept to their nodes")? })
    }
}

/// Certificates and the log's level. Clients that speak clear text cannot begin to speak TLS on the same port, nor the
/// other way round.
fn is_taken_while_running(key: Key, old: &Config, new: &Config) -> bool {
    match key.section {
        "tls" => old.tls.is_on() == new.tls.is_on(),
        "node_tls" => true,
        "log" => key.name == "level",
        _ => false,
    }
}

fn names(keys: &[Key]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn addresses(config: &Config) -> anyhow::Result<Vec<NodeAddress>> {
    let parse = |text: &String| NodeAddress::parse(text).map_err(anyhow::Error::msg);
    config.proxy.upstreams.iter().map(parse).collect()
}

/// Opens the archive. Beside a predecessor that writes, it may be locked for a moment.
async fn open(options: &Options, run: &Run, is_shared: bool) -> Result<Store, store::Error> {
    let until = Instant::now() + BUSY_MAX;
    loop {
        match Store::open(options, run).await {
            Err(error) if error.kind == ErrorKind::Busy && is_shared && Instant::now() < until => {}
            opened => return opened,
        }
    }
}

/// Accepts clients; in the place of a predecessor once everything is known that it knows.
async fn begin(start: Start, door: Door, from: Option<&mut Predecessor>) -> anyhow::Result<Proxy> {
    if let Some(from) = from {
        from.prepared(&start.recorder, &start.nodes).await?;
    }
    Ok(Proxy::start(start, door)?)
}

fn cannot_serve_clients(config: &Config) -> String {
    cannot_listen("proxy.listen", config.proxy.listen, "--listen")
}

/// A `serve` of another archive may be on its way out: its listeners close one after the other.
fn cannot_listen(option: &str, address: SocketAddr, flag: &str) -> String {
    format!(
        "cannot listen on {option} = {address}: choose another address with {flag}, or stop what is there; a gms-recorder \
         that was told to stop keeps it while it drains (proxy.drain_delay + proxy.drain_max)"
    )
}

/// Why this archive cannot be served, by whom it is, and what to do.
async fn served_already(config: &Config, error: store::Error) -> String {
    match check::serving(config).await {
        Some(Serving { pid, draining: true, .. }) => format!(
            "{error}: process {pid}, which was told to stop and still finishes what is in flight, for at most \
             proxy.drain_delay + proxy.drain_max; start again when it has ended"
        ),
        Some(Serving { pid, listen, .. }) => {
            format!("{error}: process {pid}, at {listen}; stop that first, or name another archive with --database")
        }
        None => format!("{error}; stop that first, or name another archive with --database"),
    }
}

/// What names the configuration gives for nodes that are this proxy itself. Addresses were looked at with it.
fn refuse_circle(config: &Config, nodes: &Nodes) -> anyhow::Result<()> {
    let listen = config.proxy.listen;
    for report in nodes.iter().map(|node| nodes.report(node)) {
        let mut resolved = report.resolved.iter().filter_map(|address| address.parse().ok());
        if let Some(address) = resolved.find(|address| Proxy::is_at(listen, *address)) {
            anyhow::bail!(
                "node {} leads to {address}, and that is proxy.listen = {listen}, our own address: requests would go \
                 round in a circle; name the GMS node's own address in proxy.upstreams",
                report.name
            );
        }
    }
    Ok(())
}

/// Network file systems lose SQLite's locks and so the archive; others only deserve a warning.
fn suitable_place(config: &Config) -> anyhow::Result<Place> {
    let database = &config.recording.database;
    let place = Place::of(database).map_err(|error| {
        let is_missing = error.kind() == std::io::ErrorKind::NotFound;
        let hint = if is_missing { ": its folder must exist; make it, or name another with --database" } else { "" };
        anyhow::Error::new(error).context(format!("cannot keep the archive at {}{hint}", database.display()))
    })?;
    let (path, file_system) = (place.path.display(), &place.file_system.name);
    if place.file_system.kind == FileSystemKind::Network {
        anyhow::bail!(
            "{path} is on a network file system ({file_system}): SQLite's locks cannot be relied on there; use a local disk"
        );
    }
    if let Some(caution) = place.file_system.caution() {
        tracing::warn!(%path, file_system, "{caution}");
    }
    Ok(place)
}

fn options(config: &Config, place: &Place) -> Options {
    let recording = &config.recording;
    Options {
        path: place.path.clone(),
        create: recording.create == Create::Missing,
        file_mode: u32::from_str_radix(&recording.file_mode, 8).unwrap_or(0o600),
        quiet_after: recording.quiet_after,
        async_quiet_after: recording.async_quiet_after,
        masks: recording.masks.clone(),
    }
}

fn describe_run(config: &Config) -> Run {
    let recording = &config.recording;
    let settings = serde_json::json!({
        "attributes": recording.attributes,
        "keep_typing_text": recording.keep_typing_text,
        "masking": { "cards": config.masking.cards, "rules": config.masking.rules },
        "commit_wait_max_ms": recording.commit_wait_max.as_millis() as u64,
        "body_max": recording.body_max,
        "base_path": config.proxy.base_path,
        "upstreams": config.proxy.upstreams,
    });
    Run {
        instance: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        started_at: now_ms(),
        deliver: deliver(config),
        when_unavailable: when_unavailable(config),
        settings: settings.to_string(),
        config_hash: config.hash(),
        resumes: None,
    }
}

fn deliver(config: &Config) -> &'static str {
    match config.recording.deliver {
        Deliver::AfterCommit => "after_commit",
        Deliver::Immediately => "immediately",
    }
}

fn when_unavailable(config: &Config) -> &'static str {
    match config.recording.when_unavailable {
        WhenUnavailable::Pass => "pass",
        WhenUnavailable::Refuse => "refuse",
        WhenUnavailable::Spool => "spool",
    }
}

async fn watch_room(place: Place, watched: Arc<Watched>) {
    let mut ticks = tokio::time::interval(ROOM_INTERVAL);
    let mut growth = Growth::default();
    loop {
        ticks.tick().await;
        if let Ok(now) = Place::of(&place.path) {
            watched.metrics.free_bytes.set(i64::try_from(now.free_bytes).unwrap_or(i64::MAX));
            let archive_bytes = std::fs::metadata(&place.path).map_or(0, |found| found.len());
            growth.note(Instant::now(), archive_bytes);
            let days_left = growth.days_left(now.free_bytes);
            watched.metrics.disk_days_left.set(days_left);
            if let Some(threshold) = growth.news(days_left) {
                let (path, free_bytes) = (place.path.display(), now.free_bytes);
                tracing::warn!(%path, days_left, free_bytes, "the disk of the archive is full in less than {threshold} days at its present rate of growth");
            }
        }
        open_files::show(&watched.metrics);
    }
}
