//! TLS, both ways: [`Server`] toward clients, [`Connector`] toward nodes, [`Watch`] for the files of both.
//!
//! A side reads its files whole, checks them, and only then lets new connections have them; connections that exist keep
//! what they began with. Knows neither HTTP nor what goes through the streams.
//!
//! rustls does the work, with AWS-LC's cryptography, which is named wherever a configuration is built and never looked up
//! in the process. Peers are always verified: there is no switch for that.

pub mod connector;
mod facts;
mod fault;
mod files;
mod inspected;
pub mod server;
mod watch;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use connector::Connector;
pub use facts::{Facts, Urgency};
pub use fault::{Fault, Kind as FaultKind, begins_record, speaks_tls};
pub use files::{Authorities, Identity, Problem, Problems};
pub use inspected::{Inspected, inspect};
pub use server::Server;
pub use watch::Watch;

/// What is negotiated with nodes, and with clients that may not speak HTTP/2 (RFC 7301).
pub const HTTP_1: &[&[u8]] = &[b"http/1.1"];
/// What is negotiated with clients that may, the better one first.
pub const HTTP_2_OR_1: &[&[u8]] = &[b"h2", b"http/1.1"];

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

/// What new connections get; shared by all threads, looked at once a connection.
#[derive(Debug)]
struct Current<T>(Mutex<Arc<T>>);

impl<T> Current<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(Arc::new(value)))
    }

    fn get(&self) -> Arc<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

/// A file that is read anew: if that fails and it was read before, what it held then stays.
fn renewed<T: Clone>(read: Result<T, Problem>, former: Option<&T>, problems: &mut Vec<Problem>) -> Option<T> {
    read.map_or_else(
        |problem| {
            problems.push(problem);
            former.cloned()
        },
        Some,
    )
}
