//! Why TLS with a node failed, in words that say what to do; and whether something that was taken for clear text is TLS.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, InvalidMessage, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::provider;

/// A certificate may stand for hundreds of names, which rustls tells all.
const REASON_CHARS_MAX: usize = 300;

/// The three that a peer's side of TLS can show (RFC 9209, sections 2.3.16 to 2.3.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its certificate is not good here.
    Certificate,
    /// It refused us, and said why.
    Alert,
    /// Anything else: it speaks no TLS, or none that we do.
    Protocol,
}

/// Why TLS with a node failed. Holds nothing that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In which of three ways.
    pub kind: Kind,
    /// What it was.
    reason: String,
    /// What to do about it, where that can be told.
    hint: Option<&'static str>,
}

impl Fault {
    /// Of an error from a stream by TLS; none where TLS was not to blame.
    pub fn of(error: &io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        let (kind, reason, hint) = match error {
            Error::InvalidCertificate(error) => {
                let (reason, hint) = of_certificate(error);
                (Kind::Certificate, reason, hint)
            }
            Error::NoCertificatesPresented => (Kind::Certificate, error.to_string(), None),
            Error::AlertReceived(alert) => {
                let reason = format!("the node refused with the alert {alert:?}");
                (Kind::Alert, reason, is_about_ours(*alert).then_some(SHOW_ONE))
            }
            // The first byte that came begins no TLS.
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                (Kind::Protocol, "what answers there is no TLS".into(), Some("if it speaks clear text, write http://"))
            }
            error => (Kind::Protocol, error.to_string(), None),
        };
        Some(Self { kind, reason: shortened(reason), hint })
    }

    /// Of a handshake that failed. A node that closed the connection within it says no more than that.
    pub(super) fn of_handshake(error: &io::Error) -> Self {
        let closed = || Self {
            kind: Kind::Protocol,
            reason: format!("the handshake broke off: {error}"),
            hint: Some("does it speak TLS at all? Clear text is written http://"),
        };
        Self::of(error).unwrap_or_else(closed)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its TLS is not accepted: {}", self.reason)?;
        self.hint.map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// Begins with rustls' name of it, which can be searched for.
fn of_certificate(error: &CertificateError) -> (String, Option<&'static str>) {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
        UnknownIssuer,
    };
    let (reason, hint) = match error {
        UnknownIssuer => (
            "UnknownIssuer: none of the CAs that are believed here has issued its certificate".into(),
            "name a file with its CA in node_tls.ca; or the node does not send its intermediate",
        ),
        NotValidForName | NotValidForNameContext { .. } => {
            (format!("NotValidForName: {error}"), "name the node so in proxy.upstreams, or set node_tls.server_name")
        }
        Expired => ("its certificate has expired".into(), RENEW),
        ExpiredContext { not_after, .. } => (format!("its certificate has expired on {}", at(*not_after)), RENEW),
        NotValidYet => ("its certificate is not valid yet".into(), CLOCK),
        NotValidYetContext { not_before, .. } => {
            (format!("its certificate is not valid before {}", at(*not_before)), CLOCK)
        }
        // What webpki adds to rustls' list.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => (
            "CaUsedAsEndEntity: its certificate is a CA's own, as self-signed ones mostly are".into(),
            "give it one that a CA has issued, and name that CA in node_tls.ca",
        ),
        other => return (other.to_string(), None),
    };
    (reason, Some(hint))
}

/// Whether a peer objects to the certificate that we show, or that we show none.
fn is_about_ours(alert: AlertDescription) -> bool {
    use AlertDescription::{
        BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown, NoCertificate,
        UnknownCA, UnsupportedCertificate,
    };
    matches!(
        alert,
        BadCertificate
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | NoCertificate
            | UnknownCA
            | UnsupportedCertificate
    )
}

const SHOW_ONE: &str = "it wants a certificate of ours that it knows: node_tls.certificate and node_tls.key";
const RENEW: &str = "renew it at the node";
const CLOCK: &str = "look at this machine's clock";

fn at(time: UnixTime) -> Timestamp {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

fn shortened(mut reason: String) -> String {
    if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS_MAX) {
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

/// Whether these are the first bytes of a TLS record: an alert, or a handshake (RFC 8446, section 5.1).
pub fn begins_record(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, ..])
}

/// Whether something speaks TLS, whomever its certificate stands for. Nothing but the beginning of a handshake is sent.
pub async fn speaks_tls(stream: TcpStream) -> bool {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("AWS-LC knows both versions").with_root_certificates(RootCertStore::empty());
    // An address is not named in a handshake: any server answers as it would answer one that names none.
    let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    let handshake = TlsConnector::from(Arc::new(builder.with_no_client_auth())).connect(name, stream).await;
    // Without any CA it ends with the certificate, or before.
    let Err(error) = handshake else { return true };
    let error = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    matches!(
        error,
        Some(
            Error::InvalidCertificate(_)
                | Error::AlertReceived(_)
                | Error::PeerIncompatible(_)
                | Error::PeerMisbehaved(_)
        )
    )
}
