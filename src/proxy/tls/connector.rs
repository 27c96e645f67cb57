//! TLS toward nodes: whom to believe, who we are, which name they must have. `[node_tls]`

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fault::Fault;
use super::files::{Authorities, Identity, Problem, Problems};
use super::{Current, HTTP_1, provider, renewed};

/// The `[node_tls]` section. It holds for the nodes that are reached by `https://`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who issues the nodes' certificates, a PEM file; empty: whom the operating system believes.
    pub ca: PathBuf,
    /// Our certificate and the chain above it, a PEM file; empty: we show none.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The name that every node's certificate must stand for; empty: the host of its URL.
    pub server_name: String,
}

impl Config {
    /// The files it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.ca, &self.certificate, &self.key].into_iter().filter(|file| !is_unset(file))
    }
}

fn is_unset(file: &Path) -> bool {
    file.as_os_str().is_empty()
}

/// Whether a certificate can stand for this host at all.
pub fn is_server_name(host: &str) -> bool {
    ServerName::try_from(host).is_ok()
}

/// Makes TLS of connections to nodes. Clones share what they hold.
#[derive(Debug, Clone)]
pub struct Connector(Arc<Current<Terms>>);

/// What new connections are held to.
#[derive(Debug)]
struct Terms {
    files: Files,
    rustls: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Connector {
    /// Reads the files.
    ///
    /// # Errors
    /// Every file that cannot be used.
    pub fn new(config: &Config) -> Result<Self, Problems> {
        let (terms, problems) = Terms::read(config, None);
        match terms {
            Some(terms) if problems.is_empty() => Ok(Self(Arc::new(Current::new(terms)))),
            _ => Err(Problems(problems)),
        }
    }

    /// Reads the files anew, as [`super::Server::reload`] does.
    pub fn reload(&self, config: &Config) -> Vec<Problem> {
        let former = self.0.get();
        let (terms, problems) = Terms::read(config, Some(&former.files));
        if let Some(terms) = terms {
            self.0.set(terms);
        }
        problems
    }

    /// The handshake with the node at `host`, a DNS name or an address. It takes as long as the node likes: the caller
    /// sets its time, together with the connection's.
    ///
    /// # Errors
    /// A node whose certificate is not good for that name, or that is no TLS server. Nothing was sent to it then.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>, Fault> {
        let terms = self.0.get();
        let failed = |error: io::Error| Fault::of_handshake(&error);
        let name = match &terms.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host).map_err(|error| failed(io::Error::other(error)))?.to_owned(),
        };
        TlsConnector::from(terms.rustls.clone()).connect(name, stream).await.map_err(failed)
    }

    /// Our certificate, if we show one.
    pub fn identity(&self) -> Option<Identity> {
        self.0.get().files.identity.clone()
    }

    /// The CAs in use, if they come from a file of ours.
    pub fn authorities(&self) -> Option<Authorities> {
        self.0.get().files.authorities.clone()
    }
}

/// What the files hold.
#[derive(Debug)]
struct Files {
    authorities: Option<Authorities>,
    identity: Option<Identity>,
}

impl Files {
    fn read(config: &Config, former: Option<&Self>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Config { ca, certificate, key, server_name: _ } = config;
        let authorities = (!is_unset(ca)).then(|| {
            let known = former.and_then(|files| files.authorities.as_ref()).filter(|known| known.file == *ca);
            renewed(Authorities::read(ca), known, problems)
        });
        let identity = (!is_unset(certificate)).then(|| {
            let known = former.and_then(|files| files.identity.as_ref()).filter(|known| known.is_of(certificate, key));
            renewed(Identity::read(certificate, key), known, problems)
        });
        // Each is either not asked for, or there.
        let is_whole = !matches!(authorities, Some(None)) && !matches!(identity, Some(None));
        is_whole.then(|| Self { authorities: authorities.flatten(), identity: identity.flatten() })
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, Problem> {
        self.authorities.as_ref().map_or_else(system_roots, |authorities| Ok(authorities.roots.clone()))
    }
}

/// Whom the operating system believes: `/etc/ssl/certs`, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Stores hold
/// certificates that rustls does not take; they are left out.
fn system_roots() -> Result<Arc<RootCertStore>, Problem> {
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if taken == 0 {
        let store = Path::new("the system's certificates");
        return Err(Problem::new(store, "there are none; install ca-certificates, or set node_tls.ca"));
    }
    Ok(Arc::new(roots))
}

impl Terms {
    fn read(config: &Config, former: Option<&Files>) -> (Option<Self>, Vec<Problem>) {
        let mut problems = Vec::new();
        let terms = Files::read(config, former, &mut problems).and_then(|files| {
            let rustls = rustls(&files).map_err(|problem| problems.push(problem)).ok()?;
            let server_name = ServerName::try_from(config.server_name.clone()).ok();
            Some(Self { files, rustls: Arc::new(rustls), server_name })
        });
        (terms, problems)
    }
}

fn rustls(files: &Files) -> Result<ClientConfig, Problem> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("AWS-LC knows both versions").with_root_certificates(files.roots()?);
    let mut rustls = match &files.identity {
        Some(identity) => builder
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity.certified.clone()))),
        None => builder.with_no_client_auth(),
    };
    rustls.alpn_protocols = HTTP_1.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(rustls)
}
