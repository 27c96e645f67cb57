//! Where a node's name leads: looked up beforehand and never while a request waits. Several addresses are tried in turn,
//! each with its TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::address::NodeAddress;
use super::stream::Stream;
use super::tls::{self, Connector, Fault};
use crate::telemetry::Repeated;

/// Addresses of one name. A connection tries them one after another within `connect_timeout`: of more, none would have
/// time enough.
const ADDRESSES_MAX: usize = 8;

/// Why a node could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// No address of it is known.
    #[error("its name was not resolved yet")]
    Unresolved,
    /// It takes no connection.
    #[error("{0}")]
    Refused(#[from] io::Error),
    /// It is not who it should be, or speaks no TLS that we know.
    #[error("{0}")]
    Tls(Fault),
}

impl Unreached {
    /// It could not be made for want of descriptors, memory or ports: of ours. The node is as well as before.
    pub fn is_ours(&self) -> bool {
        const OURS: [Errno; 6] =
            [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL, Errno::ADDRINUSE];
        let Self::Refused(error) = self else { return false };
        Errno::from_io_error(error).is_some_and(|errno| OURS.contains(&errno))
    }

    /// Whether it is ours. Then the log says so, now and then.
    pub fn is_told_as_ours(&self) -> bool {
        // Without a descriptor or a port each request and each check would say so.
        static UNCONNECTED: Repeated = Repeated::new(2, Duration::from_secs(60));
        if self.is_ours()
            && let Some(not_shown) = UNCONNECTED.admit(std::time::Instant::now())
        {
            tracing::warn!(error = %self, not_shown, "no connection to a node can be made here");
        }
        self.is_ours()
    }
}

/// The addresses of one node.
#[derive(Debug)]
pub struct Places {
    known: RwLock<Arc<[SocketAddr]>>,
    /// The one that took a connection last: tried first.
    first: AtomicUsize,
    /// How often they have changed.
    version: AtomicU32,
    /// The last look-up failed.
    is_missed: AtomicBool,
    connect_timeout: Duration,
    /// For a node that is reached by TLS, and the name or address that its certificate is to stand for.
    tls: Option<(Connector, String)>,
}

impl Places {
    /// Of a node: known where it was configured by its address, otherwise to be learnt.
    /// `tls` is used where the node wants it.
    pub fn new(address: &NodeAddress, tls: Option<Connector>, connect_timeout: Duration) -> Self {
        let fixed = address.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, address.port));
        Self {
            known: RwLock::new(fixed.into_iter().collect()),
            first: AtomicUsize::new(0),
            version: AtomicU32::new(0),
            is_missed: AtomicBool::new(false),
            connect_timeout,
            tls: tls.filter(|_| address.is_tls).map(|tls| (tls, address.host.clone())),
        }
    }

    /// All of them, in the order in which they are tried.
    pub fn all(&self) -> Arc<[SocketAddr]> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a look-up found. Returned where it is something else than before.
    pub fn learn(&self, mut found: Vec<SocketAddr>) -> Option<Arc<[SocketAddr]>> {
        self.is_missed.store(false, Ordering::Relaxed);
        // Name servers turn the order round with each answer: that alone is no news.
        found.sort_unstable();
        found.dedup();
        let found: Arc<[SocketAddr]> = interleaved(&found).into();
        if found == self.all() {
            return None;
        }
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = found.clone();
        self.first.store(0, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Relaxed);
        Some(found)
    }

    /// A look-up failed: what is known is kept. Whether that is news.
    pub fn miss(&self) -> bool {
        !self.is_missed.swap(true, Ordering::Relaxed)
    }

    /// Whether the last look-up failed.
    pub fn is_missed(&self) -> bool {
        self.is_missed.load(Ordering::Relaxed)
    }

    /// Changes whenever the addresses do: a connection made before may lead to where the node was.
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Relaxed)
    }

    /// Connects to the first address that takes it, TLS included, within `connect_timeout` for all of them together.
    ///
    /// # Errors
    /// The last address's.
    pub async fn connect(&self) -> Result<Stream, Unreached> {
        let addresses = self.all();
        let deadline = Instant::now() + self.connect_timeout;
        let first = self.first.load(Ordering::Relaxed);
        let mut last = Unreached::Unresolved;
        for turn in 0..addresses.len() {
            let at = (first + turn) % addresses.len();
            // One that is silent must leave time for the others.
            let share = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - turn) as u32;
            match timeout(share, self.reach(addresses[at])).await {
                Ok(Ok(stream)) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::Error::from(io::ErrorKind::TimedOut).into(),
            }
        }
        Err(last)
    }

    /// Whether it speaks TLS, although it is reached in clear text. To be asked where it does not answer as it should.
    pub async fn speaks_tls(&self) -> bool {
        match self.connect().await {
            Ok(Stream::Clear(stream)) => timeout(self.connect_timeout, tls::speaks_tls(stream)).await.unwrap_or(false),
            _ => false,
        }
    }

    async fn reach(&self, address: SocketAddr) -> Result<Stream, Unreached> {
        let stream = TcpStream::connect(address).await?;
        match &self.tls {
            Some((tls, name)) => {
                let stream = tls.connect(stream, name).await.map_err(Unreached::Tls)?;
                Ok(Stream::Tls(Box::new(stream.into())))
            }
            None => Ok(Stream::Clear(stream)),
        }
    }
}

/// IPv6 and IPv4 by turns, so that a family that leads nowhere costs one try and not all (RFC 8305, section 4).
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let (six, four): (Vec<SocketAddr>, Vec<SocketAddr>) = addresses.iter().partition(|address| address.is_ipv6());
    let longer = six.len().max(four.len());
    (0..longer).flat_map(|n| [six.get(n), four.get(n)]).flatten().take(ADDRESSES_MAX).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn named() -> Places {
        let address = NodeAddress { name: "gms".into(), host: "gms.example.com".into(), port: 80, is_tls: false };
        Places::new(&address, None, Duration::from_millis(500))
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn families_take_turns_and_the_order_of_an_answer_is_no_news() {
        let check = |found: &[&str], kept: &[&str]| {
            let places = named();
            assert_eq!(places.learn(addresses(found)).as_deref(), Some(&*addresses(kept)), "{found:?}");
            let turned: Vec<_> = addresses(found).into_iter().rev().collect();
            assert_eq!(places.learn(turned), None, "{found:?}");
        };
        check(&["10.0.0.1:80"], &["10.0.0.1:80"]);
        check(&["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"], &["10.0.0.1:80", "10.0.0.2:80"]);
        check(
            &["10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80", "[2001:db8::2]:80", "10.0.0.3:80"],
            &["[2001:db8::1]:80", "10.0.0.1:80", "[2001:db8::2]:80", "10.0.0.2:80", "10.0.0.3:80"],
        );
        let many: Vec<String> = (1..30).map(|n| format!("10.0.0.{n}:80")).collect();
        let places = named();
        places.learn(addresses(&many.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(places.all().len(), ADDRESSES_MAX);
    }

    #[test]
    fn a_look_up_that_fails_keeps_what_is_known() {
        let places = named();
        assert!(places.miss());
        places.learn(addresses(&["10.0.0.1:80"]));
        assert!(!places.is_missed());
        assert!(places.miss() && !places.miss(), "news only once");
        assert_eq!((&*places.all(), places.version()), (&*addresses(&["10.0.0.1:80"]), 1));
    }

    #[test]
    fn what_we_lack_ourselves_is_no_word_about_a_node() {
        let ours = |errno: Errno| Unreached::from(io::Error::from(errno)).is_ours();
        assert!([Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ADDRNOTAVAIL].into_iter().all(ours));
        assert!(![Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::TIMEDOUT].into_iter().any(ours));
        assert!(!Unreached::Unresolved.is_ours());
    }

    #[tokio::test]
    async fn the_address_that_answers_is_found_and_kept_to() {
        let places = named();
        assert!(matches!(places.connect().await, Err(Unreached::Unresolved)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let found = ["127.0.0.2", "127.0.0.3", "127.0.0.1"].map(|ip| SocketAddr::new(ip.parse().expect("an IP"), port));
        places.learn(found.to_vec());
        for _ in 0..2 {
            let stream = places.connect().await.expect("one of three listens");
            assert_eq!(stream.tcp().peer_addr().expect("it is connected").ip(), Ipv4Addr::LOCALHOST);
        }
        assert_eq!(places.all()[places.first.load(Ordering::Relaxed)].ip(), Ipv4Addr::LOCALHOST);
        drop(listener);
        let refused = places.connect().await.expect_err("none listens");
        assert!(matches!(&refused, Unreached::Refused(error) if error.kind() == io::ErrorKind::ConnectionRefused));
    }
}
