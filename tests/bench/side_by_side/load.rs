//! The load generator: customers who ask as fast as they are answered, or at times fixed beforehand. A process of its own.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::process;
use crate::secure::{self, Secure};
use crate::traffic::{ChatIds, Content, Customer, Template, Traffic};
use crate::wire::{self, Poller, Read};

/// Customers with a connection each.
const CUSTOMERS: usize = 64;

/// How long answers may be late at the end before they count as lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Whole, right answers.
    pub answers: u64,
    /// Connections that broke, answers that were wrong or never came.
    pub errors: u64,
    pub seconds: f64,
    /// Half of the answers came within this time; at a fixed rate it counts from when they were due to be asked for.
    pub p50_us: f64,
    pub p99_us: f64,
    /// What the load generator itself took.
    pub cpu_seconds: f64,
}

/// When requests are sent.
enum Pace {
    /// When the answer before is there.
    Closed,
    /// At random times (Poisson) at this rate, whatever became of the ones before: a proxy that stalls is not spared
    /// the requests that would have come meanwhile.
    Open { interval: Duration, next: Instant, due: VecDeque<Instant>, dice: Dice },
}

/// Sends `traffic` to `proxy` for `seconds`, `rate` a second if that is not 0.
pub fn run(proxy: SocketAddr, certificate: &Path, traffic: Traffic, seconds: f64, rate: u32) -> anyhow::Result<Report> {
    // Open loops sleep until a request is due: the kernel's usual 50 us of slack would be counted as latency.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000))?;
    let start = Instant::now();
    let pace = match rate {
        0 => Pace::Closed,
        rate => {
            let interval = Duration::from_secs(1) / rate;
            Pace::Open { interval, next: start, due: VecDeque::new(), dice: Dice(0x9e37_79b9_7f4a_7c15) }
        }
    };
    let mut ids = ChatIds::new();
    let customers = (0..CUSTOMERS).map(|_| Line::new(Customer::new(&mut ids))).collect();
    let load = Load {
        proxy: Proxy { address: proxy, tls: traffic.is_tls.then(|| secure::config(certificate)).transpose()? },
        traffic,
        pace,
        end: start + Duration::from_secs_f64(seconds),
        ids,
        poller: Poller::new()?,
        lines: customers,
        idle: (0..CUSTOMERS).collect(),
        body_bytes: Content::ALL.map(|content| Template::new(content).bytes()),
        latencies_ns: Vec::new(),
        errors: 0,
    };
    load.run(start)
}

/// The proxy, and what customers know of it where they come by TLS.
struct Proxy {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

struct Load {
    proxy: Proxy,
    traffic: Traffic,
    pace: Pace,
    end: Instant,
    ids: ChatIds,
    poller: Poller,
    lines: Vec<Line>,
    /// Lines that wait for nothing, longest idle first.
    idle: VecDeque<usize>,
    body_bytes: [usize; 3],
    latencies_ns: Vec<u32>,
    errors: u64,
}

impl Load {
    fn run(mut self, start: Instant) -> anyhow::Result<Report> {
        let mut ready = Vec::new();
        loop {
            let now = Instant::now();
            self.send_what_is_due(now);
            let is_over = now >= self.end && self.idle.len() == self.lines.len();
            if is_over || now > self.end + PATIENCE {
                break;
            }
            let timeout = self.until_next(now);
            self.poller.wait(&mut ready, timeout)?;
            for number in ready.iter().copied() {
                self.receive(number);
            }
        }
        self.errors += (self.lines.len() - self.idle.len() + self.pace.unsent()) as u64;
        Ok(self.report(start.elapsed()))
    }

    fn send_what_is_due(&mut self, now: Instant) {
        self.pace.advance(now.min(self.end));
        while !self.idle.is_empty()
            && let Some(due) = self.pace.next_due(now, self.end)
        {
            let number = self.idle.pop_front().expect("it is not empty");
            let line = &mut self.lines[number];
            if line.send(due, &self.proxy, &self.traffic, &mut self.ids, &self.poller, number).is_err() {
                self.fail(number);
            }
        }
    }

    fn until_next(&self, now: Instant) -> Duration {
        const TURN: Duration = Duration::from_millis(50); // often enough to notice the end
        match &self.pace {
            Pace::Open { next, .. } if now < self.end => next.saturating_duration_since(now).min(TURN),
            _ => TURN,
        }
    }

    fn receive(&mut self, number: usize) {
        let line = &mut self.lines[number];
        let Some(socket) = &line.socket else { return };
        let read = match &mut line.secure {
            Some(secure) => secure.read(socket, &mut line.inbox),
            None => wire::read(socket, &mut line.inbox),
        };
        let is_end = matches!(read, Ok(Read::End));
        // A ticket for another session may come at any time.
        let is_unasked = !line.is_asking && line.secure.is_none();
        if read.is_err() || (is_end && !self.traffic.is_closed) || is_unasked {
            return self.fail(number);
        }
        // Where each request has its connection, the answer is over when the proxy has closed it, as it said it would.
        if self.traffic.is_closed && !is_end {
            return;
        }
        match whole_answer(&line.inbox) {
            Some((200, body_bytes)) if body_bytes == self.body_bytes[line.content as usize] => {
                self.latencies_ns.push(u32::try_from(line.due.elapsed().as_nanos()).unwrap_or(u32::MAX));
                line.rest(self.traffic.is_closed);
                self.idle.push_back(number);
            }
            Some(_) => self.fail(number),
            None if is_end => self.fail(number),
            None => {}
        }
    }

    /// Starts again with another connection.
    fn fail(&mut self, number: usize) {
        self.errors += 1;
        let line = &mut self.lines[number];
        if line.is_asking {
            self.idle.push_back(number);
        }
        line.rest(true);
    }

    fn report(mut self, elapsed: Duration) -> Report {
        self.latencies_ns.sort_unstable();
        let percentile = |share: f64| {
            let at = (self.latencies_ns.len() as f64 * share) as usize;
            self.latencies_ns.get(at).map_or(0.0, |ns| f64::from(*ns) / 1e3)
        };
        Report {
            answers: self.latencies_ns.len() as u64,
            errors: self.errors,
            seconds: elapsed.as_secs_f64(),
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            cpu_seconds: process::cpu(std::process::id()).as_secs_f64(),
        }
    }
}

impl Pace {
    /// Notes the requests that are due by `now`.
    fn advance(&mut self, now: Instant) {
        let Self::Open { interval, next, due, dice } = self else { return };
        while *next <= now {
            due.push_back(*next);
            *next += interval.mul_f64(dice.exponential());
        }
    }

    /// When the next request is, or was, to be sent; None while there is none.
    fn next_due(&mut self, now: Instant, end: Instant) -> Option<Instant> {
        match self {
            Self::Closed => (now < end).then_some(now),
            Self::Open { due, .. } => due.pop_front(),
        }
    }

    fn unsent(&self) -> usize {
        match self {
            Self::Closed => 0,
            Self::Open { due, .. } => due.len(),
        }
    }
}

/// One customer's line to the proxy.
struct Line {
    customer: Customer,
    socket: Option<TcpStream>,
    secure: Option<Box<Secure>>,
    request: Vec<u8>,
    inbox: Vec<u8>,
    is_asking: bool,
    due: Instant,
    content: Content,
}

impl Line {
    fn new(customer: Customer) -> Self {
        let (request, inbox) = (Vec::new(), Vec::new());
        Self {
            customer,
            socket: None,
            secure: None,
            request,
            inbox,
            is_asking: false,
            due: Instant::now(),
            content: Content::Empty,
        }
    }

    fn send(
        &mut self,
        due: Instant,
        proxy: &Proxy,
        traffic: &Traffic,
        ids: &mut ChatIds,
        poller: &Poller,
        number: usize,
    ) -> io::Result<()> {
        (self.due, self.is_asking) = (due, true);
        self.request.clear();
        self.content = self.customer.ask(traffic, ids, &mut self.request);
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let socket = TcpStream::connect_timeout(&proxy.address, PATIENCE)?;
                socket.set_nonblocking(true)?;
                socket.set_nodelay(true)?;
                poller.watch(&socket, number)?;
                self.secure = proxy.tls.as_ref().map(Secure::new).transpose()?.map(Box::new);
                self.socket.insert(socket)
            }
        };
        if let Some(secure) = &mut self.secure {
            return secure.write(socket, &self.request);
        }
        // A request is far smaller than a socket's buffer, which is empty: all of it is taken at once.
        match wire::write(socket, &self.request)? {
            written if written == self.request.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn rest(&mut self, hang_up: bool) {
        self.is_asking = false;
        self.inbox.clear();
        if hang_up {
            (self.socket, self.secure) = (None, None);
        }
    }
}

/// Status and length of the body, once all of the answer is there.
fn whole_answer(answer: &[u8]) -> Option<(usize, usize)> {
    let (head, body) = answer.split_at(wire::head_length(answer)?);
    let status = wire::number(head.get(9..12)?)?;
    match wire::field(head, "content-length") {
        Some(length) => {
            let length = wire::number(length)?;
            // More than was announced is as wrong as less: it is taken for the length, and found to be another.
            (body.len() >= length).then_some((status, body.len()))
        }
        None => Some((status, wire::chunked_length(body)?)),
    }
}

/// Random numbers, the same ones each time (xorshift): all proxies get the same load.
struct Dice(u64);

impl Dice {
    /// Exponentially distributed, 1 on average.
    fn exponential(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let uniform = ((self.0 >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        -uniform.ln()
    }
}

/// What came of holding connections.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Held {
    /// Connections that were opened and answered on.
    pub opened: u64,
    /// Those that answered again after they had all been idle.
    pub alive: u64,
}

/// Opening them all, and asking on all, takes a second or two; a proxy that needs longer than this does not hold them.
const HOLD_MAX: Duration = Duration::from_secs(20);

/// Opens `count` connections, asks once on each, says that they are held, waits to be told to go on, and asks again.
pub fn hold(proxy: SocketAddr, traffic: Traffic, count: usize) -> anyhow::Result<Held> {
    let mut ids = ChatIds::new();
    let mut lines = Vec::new();
    let start = Instant::now();
    while lines.len() < count && start.elapsed() < HOLD_MAX {
        let Ok(socket) = TcpStream::connect_timeout(&proxy, PATIENCE) else { break };
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut customer = Customer::new(&mut ids);
        if ask(&socket, &mut customer, &traffic, &mut ids).is_err() {
            break;
        }
        lines.push((socket, customer));
    }
    println!("held");
    io::stdout().flush()?;
    io::stdin().lock().read_line(&mut String::new())?;
    let (mut alive, start) = (0, Instant::now());
    for (socket, customer) in &mut lines {
        if start.elapsed() > HOLD_MAX {
            break;
        }
        alive += u64::from(ask(socket, customer, &traffic, &mut ids).is_ok());
    }
    Ok(Held { opened: lines.len() as u64, alive })
}

fn ask(mut socket: &TcpStream, customer: &mut Customer, traffic: &Traffic, ids: &mut ChatIds) -> io::Result<()> {
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    customer.ask(traffic, ids, &mut request);
    socket.write_all(&request)?;
    let mut buffer = [0; 4096];
    while whole_answer(&answer).is_none() {
        match socket.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    match whole_answer(&answer) {
        Some((200, _)) => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
