//! Listening sockets that somebody else opened for us.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use anyhow::{Context, bail};
use listenfd::ListenFd;

use crate::config::Config;

/// What is inherited; without any, the configured addresses are bound.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Where clients connect.
    pub proxy: Vec<TcpListener>,
    /// Where probes and metrics are.
    pub admin: Option<TcpListener>,
    /// Where operators connect.
    pub control: Option<UnixListener>,
    /// The archive's lock.
    pub lock: Option<File>,
    /// The service manager opened them, here or before an upgrade: they are used whatever the configuration says.
    pub are_activated: bool,
}

impl Sockets {
    /// From systemd, by their names: `FileDescriptorName=proxy` and `admin` of a socket unit (sd_listen_fds(3)).
    ///
    /// # Errors
    /// For a name that says nothing, and for what is no TCP socket.
    pub fn of_systemd() -> anyhow::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut given = ListenFd::from_env();
        let mut sockets = Self { are_activated: given.len() > 0, ..Self::default() };
        let names: Vec<&str> = names.split(':').collect();
        for place in 0..given.len() {
            let name = names.get(place).copied().unwrap_or_default();
            let listener = || format!("socket {} (\"{name}\") of the service manager", place + 1);
            let socket = given.take_tcp_listener(place).with_context(listener)?.with_context(listener)?;
            match name {
                "proxy" => sockets.proxy.push(socket),
                "admin" if sockets.admin.is_none() => sockets.admin = Some(socket),
                _ => bail!("{}: FileDescriptorName= must be proxy, or admin once", listener()),
            }
        }
        Ok(sockets)
    }

    /// Lets go of those that a predecessor had by another configuration.
    pub fn fit(&mut self, config: &Config) {
        if self.are_activated {
            return;
        }
        self.proxy.retain(|socket| is_at(socket, config.proxy.listen));
        self.admin = self.admin.take().filter(|socket| is_at(socket, config.admin.listen));
    }
}

/// Port 0 is any.
fn is_at(socket: &TcpListener, wanted: SocketAddr) -> bool {
    let bound = socket.local_addr();
    bound.is_ok_and(|bound| bound.ip() == wanted.ip() && (wanted.port() == 0 || bound.port() == wanted.port()))
}
