//! TLS toward clients: which certificate, which clients, which versions. `[tls]`

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::ServerName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::facts::Facts;
use super::files::{Authorities, Identity, Problem, Problems};
use super::{Current, provider, renewed};
use crate::units;

/// The `[tls]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// PEM files, each a certificate and the chain above it; none: clients speak clear text. The first is for whoever
    /// names no server, or one that none of them stands for.
    pub certificates: Vec<PathBuf>,
    /// Their private keys, PEM files in the same order.
    pub keys: Vec<PathBuf>,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
    /// Who issues those, a PEM file; empty where they are not asked for.
    pub client_ca: PathBuf,
    /// The oldest version that is spoken.
    pub version_min: Version,
    /// From the connection to the end of the handshake.
    #[serde(deserialize_with = "units::duration")]
    pub handshake_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            keys: Vec::new(),
            client_certificates: ClientCertificates::None,
            client_ca: PathBuf::new(),
            version_min: Version::Tls12,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Whether clients speak TLS at all.
    pub fn is_on(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// The files it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let client_ca = (self.client_certificates != ClientCertificates::None).then_some(&self.client_ca);
        self.certificates.iter().chain(&self.keys).chain(client_ca)
    }
}

/// `client_certificates`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// They are not asked for.
    None,
    /// Whoever shows one is held to it.
    Optional,
    /// Nobody is let in without.
    Required,
}

impl ClientCertificates {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// `version_min`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Version {
    /// RFC 5246
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446
    #[serde(rename = "1.3")]
    Tls13,
}

impl Version {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }

    fn and_newer(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        match self {
            Self::Tls12 => &BOTH,
            Self::Tls13 => &BOTH[..1],
        }
    }
}

/// Makes TLS of clients' connections. Clones share what they hold.
#[derive(Debug, Clone)]
pub struct Server {
    current: Arc<Current<Offer>>,
    protocols: &'static [&'static [u8]],
}

/// What new connections are offered.
#[derive(Debug)]
struct Offer {
    files: Files,
    rustls: Arc<ServerConfig>,
    handshake_timeout: Duration,
}

impl Server {
    /// Reads the files. `protocols` is what may be negotiated (ALPN), best first.
    ///
    /// # Errors
    /// Every file that cannot be used.
    pub fn new(config: &Config, protocols: &'static [&'static [u8]]) -> Result<Self, Problems> {
        let (offer, problems) = Offer::read(config, protocols, None);
        match offer {
            Some(offer) if problems.is_empty() => Ok(Self { current: Arc::new(Current::new(offer)), protocols }),
            _ => Err(Problems(problems)),
        }
    }

    /// Reads the files anew, for the connections to come. A file that cannot be used is told, and what it held before stays;
    /// where it held nothing before, everything stays as it is.
    pub fn reload(&self, config: &Config) -> Vec<Problem> {
        let former = self.current.get();
        let (offer, problems) = Offer::read(config, self.protocols, Some(&former.files));
        if let Some(offer) = offer {
            self.current.set(offer);
        }
        problems
    }

    /// The handshake, within its time.
    ///
    /// # Errors
    /// A client that is too slow, speaks something else, or shows no certificate that is good here.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let offer = self.current.get();
        let handshake = TlsAcceptor::from(offer.rustls.clone()).accept(stream);
        let too_slow =
            |_| Err(io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake within tls.handshake_timeout"));
        timeout(offer.handshake_timeout, handshake).await.unwrap_or_else(too_slow)
    }

    /// The certificates in use.
    pub fn identities(&self) -> Vec<Identity> {
        self.current.get().files.identities.clone()
    }

    /// The CAs of clients in use.
    pub fn authorities(&self) -> Option<Authorities> {
        self.current.get().files.authorities.clone()
    }
}

/// The protocol that was negotiated (ALPN); none where the client named none.
pub fn protocol(stream: &TlsStream<TcpStream>) -> Option<&[u8]> {
    stream.get_ref().1.alpn_protocol()
}

/// The subject of the client's certificate, if it showed one; by then it is verified.
pub fn client_subject(stream: &TlsStream<TcpStream>) -> Option<String> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    Facts::read(certificate).map(|facts| facts.subject)
}

/// What the files hold.
#[derive(Debug)]
struct Files {
    identities: Vec<Identity>,
    authorities: Option<Authorities>,
}

impl Files {
    fn read(config: &Config, former: Option<&Self>, problems: &mut Vec<Problem>) -> Option<Self> {
        let identities: Vec<_> = config
            .certificates
            .iter()
            .zip(&config.keys)
            .map(|(certificate, key)| {
                let known =
                    former.and_then(|files| files.identities.iter().find(|known| known.is_of(certificate, key)));
                renewed(Identity::read(certificate, key), known, problems)
            })
            .collect();
        let identities: Option<Vec<_>> = identities.into_iter().collect();
        if config.client_certificates == ClientCertificates::None {
            return Some(Self { identities: identities?, authorities: None });
        }
        let known = former.and_then(|files| files.authorities.as_ref()).filter(|known| known.file == config.client_ca);
        let authorities = renewed(Authorities::read(&config.client_ca), known, problems);
        Some(Self { identities: identities?, authorities: Some(authorities?) })
    }
}

impl Offer {
    fn read(config: &Config, protocols: &[&[u8]], former: Option<&Files>) -> (Option<Self>, Vec<Problem>) {
        let mut problems = Vec::new();
        let offer = Files::read(config, former, &mut problems).and_then(|files| {
            let built = rustls(config, protocols, &files);
            let rustls = built.map_err(|problem| problems.push(problem)).ok()?;
            Some(Self { files, rustls: Arc::new(rustls), handshake_timeout: config.handshake_timeout })
        });
        (offer, problems)
    }
}

/// Each configuration has tickets and sessions of its own: a session that began under another one, with other CAs of
/// clients, is not resumed but made anew.
fn rustls(config: &Config, protocols: &[&[u8]], files: &Files) -> Result<ServerConfig, Problem> {
    let failed = |error: rustls::Error| Problem::new(&config.certificates[0], error.to_string());
    let versions = config.version_min.and_newer();
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).map_err(failed)?;
    let certified = files.identities.iter().map(|identity| identity.certified.clone()).collect();
    let verifier = client_verifier(config, files.authorities.as_ref())?;
    let mut rustls = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(ByName(certified)));
    rustls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    rustls.ticketer = Ticketer::new().map_err(failed)?;
    Ok(rustls)
}

fn client_verifier(config: &Config, authorities: Option<&Authorities>) -> Result<Arc<dyn ClientCertVerifier>, Problem> {
    let Some(authorities) = authorities else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let mut builder = WebPkiClientVerifier::builder_with_provider(authorities.roots.clone(), provider());
    if config.client_certificates == ClientCertificates::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| Problem::new(&authorities.file, error.to_string()))
}

/// Chooses by the name that the client asks for (SNI), among those whose kind of key the client can verify.
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_usable = |one: &&Arc<CertifiedKey>| one.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let mut named = self.0.iter().filter(|one| name.as_ref().is_some_and(|name| stands_for(one, name)));
        let chosen = named.find(is_usable).or_else(|| self.0.iter().find(is_usable));
        chosen.cloned()
    }
}

fn stands_for(certified: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let certificate = certified.end_entity_cert().and_then(ParsedCertificate::try_from);
    certificate.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByName").field("certificates", &self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    use super::super::HTTP_1;
    use super::*;

    /// A CA that issues both sides' certificates.
    fn issuer() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a sound CA")
    }

    #[tokio::test]
    async fn protocol_and_client_are_known_after_the_handshake() {
        let (folder, ca) = (tempfile::tempdir().expect("a temporary folder"), issuer());
        let issue = |name: &str| {
            let mut params = CertificateParams::new([name.to_string()]).expect("a sound name");
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().expect("a key");
            (params.signed_by(&key, &ca).expect("a sound certificate"), key)
        };
        let (certificate, key) = issue("chat.example.com");
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("the folder is ours");
            path
        };
        let config = Config {
            certificates: vec![file("a.crt", certificate.pem())],
            keys: vec![file("a.key", key.serialize_pem())],
            client_certificates: ClientCertificates::Optional,
            client_ca: file("ca.crt", ca.pem()),
            ..Default::default()
        };
        let check = async |spoken, offered: &[&[u8]], shown: Option<&str>, protocol_wanted: Option<&[u8]>| {
            let server = Server::new(&config, spoken).expect("the files are sound");
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("free ports");
            let mut roots = RootCertStore::empty();
            roots.add(ca.der().clone()).expect("it is a CA");
            let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
            let builder = builder.expect("both are known").with_root_certificates(roots);
            let mut client = match shown.map(issue) {
                Some((certificate, key)) => {
                    let key = key.serialize_der().try_into().expect("it is PKCS #8");
                    builder.with_client_auth_cert(vec![certificate.der().clone()], key).expect("they fit")
                }
                None => builder.with_no_client_auth(),
            };
            client.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
            let stream = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
            let name = ServerName::try_from("chat.example.com").expect("a sound name");
            let handshake = TlsConnector::from(Arc::new(client)).connect(name, stream);
            let (accepted, _) = listener.accept().await.expect("a client is there");
            let (accepted, connected) = tokio::join!(server.accept(accepted), handshake);
            let accepted = accepted.expect("it is let in");
            assert_eq!(protocol(&accepted), protocol_wanted);
            assert_eq!(client_subject(&accepted), shown.map(|name| format!("CN={name}")));
            drop(accepted);
            let read = connected.expect("it is believed").read(&mut [0; 1]).await;
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        };
        let both: &[&[u8]] = &[b"h2", b"http/1.1"];
        check(HTTP_1, both, None, Some(b"http/1.1")).await;
        check(&[b"h2", b"http/1.1"], both, None, Some(b"h2")).await;
        check(&[b"h2", b"http/1.1"], &[b"http/1.1"], Some("widget"), Some(b"http/1.1")).await;
        check(HTTP_1, &[], Some("widget"), None).await;
    }
}
