//! Whether `serve` could listen where it is to. Binds, and lets go; nobody could connect meanwhile.

use std::io;
use std::net::SocketAddr;

use serde::Serialize;
use tokio::net::TcpSocket;

use crate::admin::control::{self, Answer, Request, Serving};
use crate::config::Config;

/// One address to listen on.
#[derive(Debug, Serialize)]
pub(super) struct Listener {
    pub(super) option: &'static str,
    pub(super) address: SocketAddr,
    /// The process of the `serve` on this archive, where that has it.
    pub(super) served_by: Option<u32>,
    pub(super) problem: Option<String>,
}

/// Both of them. `is_served`: a `serve` has this archive.
pub(super) async fn look_at(config: &Config, is_served: bool) -> Vec<Listener> {
    let serving = if is_served { serving(config).await } else { None };
    let ours = serving.as_ref();
    vec![
        Listener::of("proxy.listen", config.proxy.listen, is_served, ours.map(|serving| (serving.pid, serving.listen))),
        Listener::of("admin.listen", config.admin.listen, is_served, ours.map(|serving| (serving.pid, serving.admin))),
    ]
}

/// Who has this archive, as that says itself.
pub(in crate::cli) async fn serving(config: &Config) -> Option<Serving> {
    match control::ask(&config.control(), &Request::Serving).await {
        Ok(Answer::Serving(serving)) => Some(serving),
        _ => None, // an earlier release, or another user's
    }
}

impl Listener {
    /// `ours`: the process that has this archive, and where it listens, as far as it can be asked.
    fn of(option: &'static str, address: SocketAddr, is_served: bool, ours: Option<(u32, SocketAddr)>) -> Self {
        let free = Self { option, address, served_by: None, problem: None };
        let Err(error) = bind(address) else { return free };
        match (error.kind(), ours) {
            (io::ErrorKind::AddrInUse, Some((pid, has))) if has.port() == address.port() => {
                Self { served_by: Some(pid), ..free }
            }
            // It cannot be asked: that it is the one is likelier than anything else.
            (io::ErrorKind::AddrInUse, None) if is_served => free,
            _ => Self { problem: Some(objection(&error)), ..free },
        }
    }

    pub(super) fn told(&self) -> String {
        let Self { option, address, .. } = self;
        match (&self.problem, self.served_by) {
            (Some(problem), _) => format!("{option}  {address}  CANNOT BE HAD: {problem}"),
            (None, Some(pid)) => {
                format!("{option}  {address}  in use by the serve that runs on this archive (process {pid})")
            }
            (None, None) => format!("{option}  {address}"),
        }
    }
}

/// As `serve` would, but for listening.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

fn objection(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there (`ss -ltnp` names it; for a socket unit that is systemd, and right); stop that, or \
             choose another address"
                .into()
        }
        io::ErrorKind::PermissionDenied => "this user may not: ports below 1024 need CAP_NET_BIND_SERVICE \
            (systemd: AmbientCapabilities=), or look as the user that serves"
            .into(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; `ip address` lists those it has".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_is_free_ours_or_another_s() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("it is bound");
        let check = |is_served, ours, served_by, begins: Option<&str>| {
            let listener = Listener::of("proxy.listen", address, is_served, ours);
            assert_eq!(listener.served_by, served_by, "{listener:?}");
            let problem = listener.problem.as_deref();
            assert_eq!(problem.is_some(), begins.is_some(), "{listener:?}");
            assert!(problem.unwrap_or_default().starts_with(begins.unwrap_or_default()), "{listener:?}");
        };
        check(false, None, None, Some("another program listens there"));
        check(true, None, None, None);
        check(true, Some((7, address)), Some(7), None);
        check(true, Some((7, ([127, 0, 0, 1], 1).into())), None, Some("another program listens there"));
        drop(taken);
        check(false, None, None, None);
        let nobody_s = Listener::of("proxy.listen", ([192, 0, 2, 1], 80).into(), false, None);
        assert!(nobody_s.told().contains("CANNOT BE HAD: this machine has no such address"), "{nobody_s:?}");
    }
}
