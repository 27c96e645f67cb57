//! TLS for those rows that come by it: a certificate for the proxies, and a customer's end of a connection.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::wire::Read;

/// What the certificate is for.
const NAME: &str = "gms.example.com";

/// Files in PEM.
#[derive(Debug)]
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
    /// Both in one, as HAProxy wants them.
    pub both: PathBuf,
}

impl Certificate {
    /// Issued by itself, ECDSA on P-256.
    pub fn issue(folder: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let (chain, key) = (CertificateParams::new([NAME.to_string()])?.self_signed(&key)?.pem(), key.serialize_pem());
        let files = Self { chain: folder.join("tls.crt"), key: folder.join("tls.key"), both: folder.join("tls.pem") };
        fs::write(&files.chain, &chain)?;
        fs::write(&files.key, &key)?;
        fs::write(&files.both, chain + &key)?;
        Ok(files)
    }
}

/// What every customer knows. None of them resumes an earlier session.
pub fn config(certificate: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let builder =
        ClientConfig::builder_with_provider(default_provider().into()).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config.into())
}

/// One connection's end.
pub struct Secure(ClientConnection);

impl Secure {
    pub fn new(config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        Ok(Self(ClientConnection::new(config.clone(), name).map_err(io::Error::other)?))
    }

    /// Sends a request, as soon as the handshake lets it.
    pub fn write(&mut self, socket: &TcpStream, request: &[u8]) -> io::Result<()> {
        self.0.writer().write_all(request)?;
        self.flush(socket)
    }

    /// Reads once, to the end of `inbox`.
    pub fn read(&mut self, mut socket: &TcpStream, inbox: &mut Vec<u8>) -> io::Result<Read> {
        match self.0.read_tls(&mut socket) {
            Ok(0) => return Ok(Read::End),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Read::NothingYet),
            Err(error) => return Err(error),
        }
        let state = self.0.process_new_packets().map_err(io::Error::other)?;
        let at = inbox.len();
        inbox.resize(at + state.plaintext_bytes_to_read(), 0);
        self.0.reader().read_exact(&mut inbox[at..])?;
        self.flush(socket)?;
        Ok(if state.peer_has_closed() { Read::End } else { Read::Bytes })
    }

    /// What a customer says is far smaller than a socket's buffer.
    fn flush(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(&mut socket)?;
        }
        Ok(())
    }
}
