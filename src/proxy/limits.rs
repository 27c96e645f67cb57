//! What clients may take of the proxy: how much, for how long, and how many of them at one time. Every bound is here or in
//! `[proxy]`, with its metric in [`Limit`]. Knows no sockets: it is told what happens.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::answer::Refusal;
use super::framing::Framing;
use super::head::{FIELDS_MAX, HEAD_BYTES_MAX, Head};
use crate::telemetry::metrics::{Limit, Metrics};
use crate::units;

/// The `[limits]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Connections of one client address (IPv6: one /64) at one time; 0: as many as there are.
    pub client_connections_max: usize,
    /// Percent of connections, of the nodes' connections and of held bytes that are kept for chats in progress.
    pub reserve_percent: usize,
    /// A request's head, its empty line included.
    #[serde(deserialize_with = "units::size")]
    pub head_bytes_max: usize,
    /// Fields of a request.
    pub head_fields_max: usize,
    /// A request's target.
    #[serde(deserialize_with = "units::size")]
    pub target_bytes_max: usize,
    /// From the first byte of a request to the end of its head; at first, from the connection on.
    #[serde(deserialize_with = "units::duration")]
    pub head_timeout: Duration,
    /// A request's body.
    #[serde(deserialize_with = "units::size")]
    pub body_bytes_max: usize,
    /// So much of a body, or its rest, a client sends or takes within `pace_time`.
    #[serde(deserialize_with = "units::size")]
    pub pace_bytes: usize,
    /// What a client has for `pace_bytes`. Waiting for a node does not count.
    #[serde(deserialize_with = "units::duration")]
    pub pace_time: Duration,
    /// From a request's head to the end of its answer.
    #[serde(deserialize_with = "units::duration")]
    pub exchange_time_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            client_connections_max: 12_288,
            reserve_percent: 10,
            head_bytes_max: HEAD_BYTES_MAX,
            head_fields_max: FIELDS_MAX,
            target_bytes_max: 16 << 10,
            head_timeout: Duration::from_secs(10),
            body_bytes_max: 4 << 30,
            pace_bytes: 10 << 10,
            pace_time: Duration::from_secs(20),
            exchange_time_max: Duration::from_secs(3_600),
        }
    }
}

impl Config {
    /// What of so much is for everybody, where the rest is kept for chats in progress. No bound where nothing is: then the
    /// other limits do.
    pub fn for_all(&self, most: usize) -> usize {
        let kept = most / 100 * self.reserve_percent + most % 100 * self.reserve_percent / 100;
        if kept == 0 { usize::MAX } else { most - kept }
    }

    /// Whether a request keeps to the bounds that its head shows.
    ///
    /// # Errors
    /// What its client is answered where it does not.
    pub fn admit(&self, head: &Head, framing: Framing) -> Result<(), Refusal> {
        match framing {
            _ if head.target().len() > self.target_bytes_max => Err(Refusal::LongTarget),
            _ if head.length() > self.head_bytes_max || head.fields_count() > self.head_fields_max => {
                Err(Refusal::LongHead)
            }
            Framing::Length(length) if length > self.body_bytes_max as u64 => Err(Refusal::LargeBody),
            _ => Ok(()),
        }
    }
}

/// How a client moves a body: a little at a time is not for ever. Only the time in which it alone is waited for counts.
#[derive(Debug)]
pub struct Pace {
    bytes: u64,
    time: Duration,
    /// Of what `bytes` have not come yet.
    moved: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        let bytes = config.pace_bytes as u64;
        Self { bytes, time: config.pace_time, moved: 0, waited: Duration::ZERO, waiting_since: None }
    }

    /// The client is waited for; `now` is asked for where that is new.
    pub fn wait(&mut self, now: impl FnOnce() -> Instant) {
        self.waiting_since.get_or_insert_with(now);
    }

    /// Somebody else is.
    pub fn rest(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now().saturating_duration_since(since);
        }
    }

    /// The client moved so many bytes, and need not be waited for at the moment.
    pub fn moved(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        self.rest(now);
        self.moved += bytes as u64;
        if self.moved >= self.bytes {
            (self.moved, self.waited) = (0, Duration::ZERO);
        }
    }

    /// When its time is over; none while somebody else is waited for.
    pub fn due(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + self.time.saturating_sub(self.waited))
    }
}

/// The clients that are connected, of the whole process.
#[derive(Debug)]
pub struct Guests {
    open: AtomicUsize,
    open_max: usize,
    open_for_all: usize,
    of_client: Mutex<HashMap<IpAddr, usize>>,
    of_client_max: usize,
    metrics: Arc<Metrics>,
}

impl Guests {
    /// At most so many, and of one client as the configuration says.
    pub fn new(open_max: usize, config: &Config, metrics: Arc<Metrics>) -> Arc<Self> {
        let (open, of_client) = (AtomicUsize::new(0), Mutex::default());
        let (open_for_all, of_client_max) = (config.for_all(open_max), config.client_connections_max);
        Arc::new(Self { open, open_max, open_for_all, of_client, of_client_max, metrics })
    }

    /// Whether only places for chats in progress are left.
    pub fn is_crowded(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.open_for_all
    }

    /// Lets one more in.
    ///
    /// # Errors
    /// [`Refusal::TooManyConnections`]
    pub fn enter(self: &Arc<Self>) -> Result<Guest, Refusal> {
        let more = |open: usize| (open < self.open_max).then_some(open + 1);
        let entered = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        entered.map_err(|_| Refusal::TooManyConnections)?;
        self.metrics.connections.inc();
        Ok(Guest { guests: self.clone(), client: None })
    }

    fn of_client(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.of_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Guest {
    guests: Arc<Guests>,
    client: Option<IpAddr>,
}

impl Guest {
    /// Who it is. Of proxies that are trusted nobody asks: they stand for many.
    ///
    /// # Errors
    /// [`Refusal::TooManyOfClient`]
    pub fn introduce(&mut self, client: IpAddr) -> Result<(), Refusal> {
        if self.guests.of_client_max == 0 || self.client.is_some() {
            return Ok(());
        }
        let client = network_of(client);
        let mut counts = self.guests.of_client();
        let count = counts.entry(client).or_default();
        if *count >= self.guests.of_client_max {
            return Err(Refusal::TooManyOfClient);
        }
        *count += 1;
        drop(counts);
        self.client = Some(client);
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.open.fetch_sub(1, Ordering::Relaxed);
        self.guests.metrics.connections.dec();
        let Some(client) = self.client else { return };
        let mut counts = self.guests.of_client();
        if let Some(count) = counts.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&client);
            }
        }
    }
}

/// By which a client is counted: one household or phone has a /64 of IPv6, and as many addresses as it likes in it.
fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// Which limit stands behind an answer of the proxy's own, if one does.
pub fn behind(refusal: Refusal) -> Option<Limit> {
    Some(match refusal {
        Refusal::TooManyConnections => Limit::Connections,
        Refusal::TooManyOfClient => Limit::ClientConnections,
        Refusal::LongHead => Limit::Head,
        Refusal::LongTarget => Limit::Target,
        Refusal::LateRequest => Limit::HeadTime,
        Refusal::LargeBody => Limit::Body,
        Refusal::SlowBody => Limit::BodyPace,
        Refusal::NodesFull => Limit::NodeConnections,
        Refusal::Overload => Limit::Reserve,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_judged_by_what_it_moves_while_it_is_waited_for() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(&Config::default());
        assert_eq!(pace.due(), None);
        pace.wait(|| at(0));
        pace.wait(|| at(5)); // it still is
        assert_eq!(pace.due(), Some(at(20)));
        pace.moved(1, || at(3));
        assert_eq!(pace.due(), None);
        pace.wait(|| at(100)); // a node took its time
        assert_eq!(pace.due(), Some(at(117)));
        pace.moved(10 << 10, || at(116));
        pace.wait(|| at(116));
        assert_eq!(pace.due(), Some(at(136)));
        pace.rest(|| at(130));
        assert_eq!(pace.due(), None);
        pace.wait(|| at(140));
        assert_eq!(pace.due(), Some(at(146)));
    }

    #[test]
    fn clients_are_counted_together_and_each() {
        let metrics = Arc::new(Metrics::default());
        let config = Config { client_connections_max: 2, ..Config::default() };
        let guests = Guests::new(4, &config, metrics.clone());
        let enter = |client: &str| {
            let mut guest = guests.enter()?;
            guest.introduce(client.parse().expect("an address")).map(|()| guest)
        };
        let first = enter("203.0.113.7").expect("there is room");
        let _second = enter("::ffff:203.0.113.7").expect("there is room");
        assert_eq!(enter("203.0.113.7").expect_err("its third"), Refusal::TooManyOfClient);
        let _third = enter("2001:db8::1").expect("another");
        let fourth = enter("2001:db8::ffff").expect("another");
        assert_eq!(enter("203.0.113.8").expect_err("the fifth of all"), Refusal::TooManyConnections);
        drop(fourth);
        assert_eq!(metrics.connections.get(), 3);
        assert_eq!(enter("203.0.113.7").expect_err("its third"), Refusal::TooManyOfClient);
        drop(first);
        assert!(enter("203.0.113.7").is_ok());
        assert_eq!(guests.of_client().len(), 2, "who has gone is forgotten");
    }

    #[test]
    fn a_client_is_one_address_or_one_network_and_is_introduced_once() {
        let introduced = |client_connections_max, clients: &[&str]| {
            let config = Config { client_connections_max, ..Config::default() };
            let guests = Guests::new(9, &config, Arc::new(Metrics::default()));
            let enter = |client: &&str| {
                let mut guest = guests.enter().expect("there is room");
                guest.introduce(client.parse().expect("an address")).map(|()| guest)
            };
            clients.iter().map(enter).collect::<Result<Vec<_>, _>>().map(|_guests| guests.of_client().len())
        };
        let network = ["2001:db8::1", "2001:db8::ffff:0:0:1"];
        assert_eq!(introduced(1, &network), Err(Refusal::TooManyOfClient));
        assert_eq!(introduced(2, &network), Ok(1));
        assert_eq!(introduced(1, &["2001:db8::1", "2001:db8:0:1::1", "203.0.113.7"]), Ok(3));
        assert_eq!(introduced(0, &["203.0.113.7"; 3]), Ok(0), "nobody is counted");

        let config = Config { client_connections_max: 1, ..Config::default() };
        let guests = Guests::new(9, &config, Arc::new(Metrics::default()));
        let mut guest = guests.enter().expect("there is room");
        assert_eq!(
            ["203.0.113.7", "203.0.113.7"].map(|ip| guest.introduce(ip.parse().expect("an address"))),
            [Ok(()); 2]
        );
        drop(guest);
        assert_eq!(guests.of_client().len(), 0, "who has gone is forgotten");
    }

    #[test]
    fn a_head_is_admitted_up_to_its_bounds() {
        let text = "POST /four5678 HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n";
        let head = Head::parse(text.into(), crate::proxy::head::Kind::Request).expect("a head");
        let exact = || Config {
            target_bytes_max: "/four5678".len(),
            head_bytes_max: text.len(),
            head_fields_max: 2,
            body_bytes_max: 5,
            ..Config::default()
        };
        let check =
            |config: Config, framing, expected| assert_eq!(config.admit(&head, framing), expected, "{config:?}");
        for framing in [Framing::None, Framing::Length(5), Framing::Chunked] {
            check(exact(), framing, Ok(()));
        }
        check(exact(), Framing::Length(6), Err(Refusal::LargeBody));
        check(Config { target_bytes_max: "/four567".len(), ..exact() }, Framing::None, Err(Refusal::LongTarget));
        check(Config { head_bytes_max: text.len() - 1, ..exact() }, Framing::None, Err(Refusal::LongHead));
        check(Config { head_fields_max: 1, ..exact() }, Framing::None, Err(Refusal::LongHead));
    }

    #[test]
    fn each_limit_has_the_refusals_that_it_stands_behind() {
        let limits = [
            (Refusal::TooManyConnections, Limit::Connections),
            (Refusal::TooManyOfClient, Limit::ClientConnections),
            (Refusal::LongHead, Limit::Head),
            (Refusal::LongTarget, Limit::Target),
            (Refusal::LateRequest, Limit::HeadTime),
            (Refusal::LargeBody, Limit::Body),
            (Refusal::SlowBody, Limit::BodyPace),
            (Refusal::NodesFull, Limit::NodeConnections),
            (Refusal::Overload, Limit::Reserve),
        ];
        for (refusal, limit) in limits {
            assert_eq!(behind(refusal), Some(limit));
        }
        assert_eq!([Refusal::Denied, Refusal::NoNode].map(behind), [None; 2]);
    }

    #[test]
    fn a_part_is_kept_for_chats_in_progress() {
        let config = Config::default();
        assert_eq!([0, 1, 9].map(|most| config.for_all(most)), [usize::MAX; 3]);
        let kept = [10, 99, 100, 1_024, usize::MAX].map(|most| most - config.for_all(most));
        assert_eq!(kept, [1, 9, 10, 102, usize::MAX / 10]);
        let guests = Guests::new(10, &config, Arc::new(Metrics::default()));
        let nine: Vec<_> = (0..9).map(|_| guests.enter().expect("there is room")).collect();
        assert!(!guests.is_crowded());
        let _tenth = guests.enter().expect("there is room");
        assert!(guests.is_crowded());
        drop(nine);
        assert!(!guests.is_crowded());
        let config = Config { reserve_percent: 0, ..Config::default() };
        let guests = Guests::new(1, &config, Arc::new(Metrics::default()));
        let _one = guests.enter().expect("there is room");
        assert!(!guests.is_crowded());
    }
}
