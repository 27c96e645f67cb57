//! Certificates, keys and CAs as they lie on disk: read, checked, and told why not. Nothing of a key's file is ever told.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys, RootCertStore};

use super::facts::Facts;
use super::provider;

/// All public CAs together take a quarter of a MiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which; as the configuration names it.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Problem {
    pub(super) fn new(file: &Path, reason: impl Into<String>) -> Self {
        Self { file: file.into(), reason: reason.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.reason)
    }
}

/// Why a side cannot begin: every file's problem, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("certificates, keys or CAs cannot be used")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl std::error::Error for Problems {}

/// A certificate, the chain above it, and its key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The file of the chain.
    pub certificate: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
    /// The certificate first, then what stands above it in the file.
    pub chain: Vec<Facts>,
    pub(super) certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Reads both files. They fit together, or there is no identity.
    ///
    /// # Errors
    /// The file that cannot be used.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, Problem> {
        let (certificates, chain) = certificates(certificate)?;
        let certified = CertifiedKey::from_der(certificates, private_key(key)?, &provider());
        let certified = certified.map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                Problem::new(key, format!("is not the key of the certificate in {}", certificate.display()))
            }
            Error::InvalidCertificate(error) => Problem::new(certificate, format!("cannot be used: {error}")),
            _ => Problem::new(key, "its kind of key is not known here; RSA, ECDSA and Ed25519 are"),
        })?;
        Ok(Self { certificate: certificate.into(), key: key.into(), chain, certified: Arc::new(certified) })
    }

    pub(super) fn is_of(&self, certificate: &Path, key: &Path) -> bool {
        self.certificate == certificate && self.key == key
    }

    /// What of it ends first, a certificate of the chain above included.
    pub fn ends_first(&self) -> &Facts {
        ends_first(&self.chain)
    }

    /// What lets it be used all the same, but not by everybody or not safely. How long it lasts is told by
    /// [`Facts::urgency`].
    pub fn doubts(&self, now: Timestamp) -> Vec<Problem> {
        let leaf = &self.chain[0];
        let no_name = || "stands for no name: it has no subjectAltName, and clients look at nothing else".into();
        let doubts = [
            not_yet_valid(&self.chain, now),
            self.broken_chain(now),
            self.lone_leaf(),
            leaf.names.is_empty().then(no_name),
        ];
        let doubts = doubts.into_iter().flatten().map(|reason| Problem::new(&self.certificate, reason));
        doubts.chain(readable_by_others(&self.key)).collect()
    }

    /// Public CAs issue through intermediates, and peers know roots: whoever is not sent what is between follows no chain.
    fn lone_leaf(&self) -> Option<String> {
        let [leaf] = &self.chain[..] else { return None };
        (leaf.issuer != leaf.subject).then(|| {
            format!(
                "does not hold the certificate of \"{}\", who issued it: peers that do not know that one already refuse it; \
                 append it (what the CA calls intermediate, chain or fullchain), unless all peers have it among their roots",
                leaf.issuer
            )
        })
    }

    /// Follows the file from the certificate to the last one above it. Whether peers trust that one is theirs to know.
    fn broken_chain(&self, now: Timestamp) -> Option<String> {
        let misplaced = self.chain.windows(2).position(|pair| pair[0].issuer != pair[1].subject);
        if let Some(n) = misplaced {
            let (below, above) = (&self.chain[n], &self.chain[n + 1]);
            return Some(format!(
                "its chain does not build: certificate {} was issued by \"{}\", and what follows is \"{}\"",
                n + 1,
                below.issuer,
                above.subject
            ));
        }
        let [leaf, above @ .., top] = self.certified.cert.as_slice() else { return None };
        let mut roots = RootCertStore::empty();
        let (Ok(leaf), Ok(())) = (ParsedCertificate::try_from(leaf), roots.add(top.clone())) else {
            return Some("its chain does not build: a certificate in it cannot be used as one".into());
        };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().unsigned_abs()));
        let algorithms = provider().signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&leaf, &roots, above, now, algorithms) {
            Ok(()) => None,
            Err(Error::InvalidCertificate(error)) if is_no_matter_of_the_chain(&error) => None,
            Err(error) => Some(format!("its chain does not build: {error}")),
        }
    }
}

/// Dates are told apart, and what we show to nodes need not be a server's.
fn is_no_matter_of_the_chain(error: &CertificateError) -> bool {
    use CertificateError::{
        Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext, NotValidYet, NotValidYetContext,
    };
    matches!(
        error,
        Expired
            | ExpiredContext { .. }
            | NotValidYet
            | NotValidYetContext { .. }
            | InvalidPurpose
            | InvalidPurposeContext { .. }
    )
}

/// CA certificates: whom to believe.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// Their file.
    pub file: PathBuf,
    /// All of them.
    pub certificates: Vec<Facts>,
    pub(super) roots: Arc<RootCertStore>,
}

impl Authorities {
    /// Reads a file of CA certificates.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn read(file: &Path) -> Result<Self, Problem> {
        let (ders, certificates) = certificates(file)?;
        let mut roots = RootCertStore::empty();
        for (n, der) in ders.into_iter().enumerate() {
            let unusable = |error| Problem::new(file, format!("its certificate {} is no CA's: {error}", n + 1));
            roots.add(der).map_err(unusable)?;
        }
        Ok(Self { file: file.into(), certificates, roots: Arc::new(roots) })
    }

    /// What of it ends first.
    pub fn ends_first(&self) -> &Facts {
        ends_first(&self.certificates)
    }

    /// As [`Identity::doubts`].
    pub fn doubts(&self, now: Timestamp) -> Vec<Problem> {
        let early = not_yet_valid(&self.certificates, now);
        early.map(|reason| Problem::new(&self.file, reason)).into_iter().collect()
    }
}

fn ends_first(certificates: &[Facts]) -> &Facts {
    certificates.iter().min_by_key(|facts| facts.not_after).expect("a file without a certificate is refused")
}

fn not_yet_valid(certificates: &[Facts], now: Timestamp) -> Option<String> {
    let early = certificates.iter().find(|facts| now < facts.not_before)?;
    Some(format!("its certificate \"{}\" is not valid before {}", early.subject, early.not_before))
}

/// A group may read it: that is how Debian's `ssl-cert` works.
fn readable_by_others(key: &Path) -> Option<Problem> {
    let mode = key.metadata().ok()?.mode();
    let remedy =
        format!("is a private key that everybody on this machine may read (mode {:04o}); chmod o=", mode & 0o7777);
    (mode & 0o006 != 0).then(|| Problem::new(key, remedy))
}

fn certificates(file: &Path) -> Result<(Vec<CertificateDer<'static>>, Vec<Facts>), Problem> {
    let text = read(file)?;
    let ders = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().map_err(|_| no_pem(file))?;
    if ders.is_empty() {
        return Err(Problem::new(file, "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"));
    }
    let unreadable = |n| Problem::new(file, format!("its certificate {} cannot be read as X.509", n + 1));
    let facts = ders.iter().enumerate().map(|(n, der)| Facts::read(der).ok_or_else(|| unreadable(n)));
    let facts = facts.collect::<Result<_, _>>()?;
    Ok((ders, facts))
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Problem> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            Problem::new(file, "holds no private key in PEM (PKCS #8, PKCS #1 or SEC 1); encrypted ones cannot be read")
        }
        _ => no_pem(file),
    })
}

/// The parser's own words repeat lines of the file.
fn no_pem(file: &Path) -> Problem {
    Problem::new(file, "is no PEM: a section in it is damaged or not whole")
}

fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    let mut text = Vec::new();
    let length = File::open(file).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text));
    match length {
        Ok(length) if length as u64 > FILE_BYTES_MAX => Err(Problem::new(file, "is larger than 4 MiB")),
        Ok(_) => Ok(text),
        Err(error) => Err(Problem::new(file, cannot_be_read(&error))),
    }
}

fn cannot_be_read(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}
