//! The address that clients connect to, from the moment it is claimed until there are threads that accept.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};

/// Connections the kernel completes for us before they are accepted.
const BACKLOG: i32 = 4096;

/// An address that is ours. Clients are refused there until it is listened at: one that was let in before the archive is open
/// would be cut off where the start fails.
#[derive(Debug)]
pub struct Claim {
    socket: OwnedFd,
    address: SocketAddr,
}

impl Claim {
    /// Port 0 takes one that is free.
    ///
    /// # Errors
    /// Where the address cannot be had: another program listens there, or the machine has no such address.
    pub fn of(address: SocketAddr) -> io::Result<Self> {
        let socket = socket(address)?;
        bind(&socket, &address)?;
        let address = getsockname(&socket)?.try_into()?;
        Ok(Self { socket, address })
    }

    /// As many listeners as there are threads. They share the address among each other (SO_REUSEPORT) and with nobody else:
    /// the first listens before it shares.
    ///
    /// # Errors
    /// Where another has been faster since the claim.
    pub fn listen(self, threads: usize) -> io::Result<Vec<TcpListener>> {
        listen(&self.socket, BACKLOG)?;
        sockopt::set_socket_reuseport(&self.socket, true)?;
        let another = |_| {
            let socket = socket(self.address)?;
            sockopt::set_socket_reuseport(&socket, true)?;
            bind(&socket, &self.address)?;
            listen(&socket, BACKLOG)?;
            Ok(socket.into())
        };
        let others = (1..threads).map(another).collect::<io::Result<Vec<TcpListener>>>()?;
        Ok(std::iter::once(self.socket.into()).chain(others).collect())
    }
}

fn socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?; // connections of a run before this one may linger there
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn clients_are_refused_until_it_is_listened_at() {
        let claim = Claim::of(ANY_PORT).expect("loopback has free ports");
        let address = claim.address;
        let refused = TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listeners = claim.listen(3).expect("it is ours");
        assert!(listeners.iter().all(|listener| listener.local_addr().is_ok_and(|own| own == address)));
        assert_eq!(listeners.len(), 3);
        TcpStream::connect(address).expect("somebody listens");
    }

    #[test]
    fn an_address_has_one_owner() {
        let listeners = Claim::of(ANY_PORT).and_then(|claim| claim.listen(2)).expect("loopback has free ports");
        let address = listeners[0].local_addr().expect("it is bound");
        let taken = Claim::of(address).expect_err("it is another's");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        let [slow, fast] = [(); 2].map(|()| Claim::of(address).expect("it is free again"));
        let listeners = fast.listen(2).expect("it is ours");
        assert_eq!(slow.listen(2).expect_err("another was faster").kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
    }
}
