//! Listening sockets that somebody else opened for us.

use std::net::TcpListener;

use anyhow::{Context, bail};
use listenfd::ListenFd;

/// What is inherited; without any, the configured addresses are bound.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Where clients connect.
    pub proxy: Vec<TcpListener>,
    /// Where probes and metrics are.
    pub admin: Option<TcpListener>,
}

impl Sockets {
    /// From systemd, by their names: `FileDescriptorName=proxy` and `admin` of a socket unit (sd_listen_fds(3)).
    ///
    /// # Errors
    /// For a name that says nothing, and for what is no TCP socket.
    pub fn of_systemd() -> anyhow::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut given = ListenFd::from_env();
        let mut sockets = Self::default();
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
}
