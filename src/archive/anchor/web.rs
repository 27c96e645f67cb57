//! One exchange over HTTP with an anchor: bounded in time and bytes, its server always verified. Blocking, as the anchor's
//! thread wants it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Error};

use super::Refusal;

/// For one exchange, from the look-up of the name to the answer's end. A checkpoint is some hundred bytes, and an authority
/// takes a second for a stamp.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);
/// An answer. A time stamp with all its certificates takes less than 10 KiB.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// Its head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// A file of CAs: as for nodes.
const CA_BYTES_MAX: u64 = 4 << 20;

/// A way to one server.
#[derive(Debug)]
pub(in crate::archive) struct Web(Agent);

/// What it said, whatever that is.
#[derive(Debug)]
pub(in crate::archive) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header as text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// What it means that it is no success: 4xx is about what was sent, unless it is about who sent it (401, 403, 407), how
    /// fast or how early (408, 425, 429).
    pub fn refusal(&self, why: String) -> Refusal {
        match self.status.as_u16() {
            401 | 403 | 407 | 408 | 425 | 429 => Refusal::Now(why),
            400..500 => Refusal::ThisOne(why),
            _ => Refusal::Now(why),
        }
    }
}

impl Web {
    /// Reads the CAs: those of a file, or those that the operating system has. A proxy is taken from the environment
    /// (HTTPS_PROXY, NO_PROXY, …).
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn new(ca: &Path) -> Result<Self, String> {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::from(certificates(ca)?))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(EXCHANGE_MAX))
            .max_response_header_size(HEAD_BYTES_MAX)
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent("gms-recorder")
            .build();
        Ok(Self(config.into()))
    }

    /// Sends a request; its body is not empty, or there is none.
    ///
    /// # Errors
    /// Why there is no whole answer.
    pub fn ask(&self, request: Request<Vec<u8>>) -> Result<Answer, String> {
        let (head, body) = request.into_parts();
        let response = match body.is_empty() {
            true => self.0.run(Request::from_parts(head, ())),
            false => self.0.run(Request::from_parts(head, body)),
        };
        answer(response, EXCHANGE_MAX)
    }

    /// The same of a file, which takes its time.
    ///
    /// # Errors
    /// Why there is no whole answer.
    pub fn send_file(&self, request: Request<File>, within: Duration) -> Result<Answer, String> {
        let request = self.0.configure_request(request).timeout_global(Some(within)).build();
        answer(self.0.run(request), within)
    }
}

fn answer(response: Result<http::Response<Body>, Error>, within: Duration) -> Result<Answer, String> {
    let (head, mut body) = response.map_err(|error| told(&error, within))?.into_parts();
    let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(|error| told(&error, within))?;
    Ok(Answer { status: head.status, headers: head.headers, body })
}

fn told(error: &Error, within: Duration) -> String {
    match error {
        Error::Timeout(_) => format!("there was no whole answer within {} s", within.as_secs()),
        Error::BodyExceedsLimit(_) => format!("its answer is longer than {ANSWER_BYTES_MAX} bytes"),
        Error::HostNotFound => "no address is known for its name".into(),
        Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

fn certificates(ca: &Path) -> Result<Vec<Certificate<'static>>, String> {
    if ca.as_os_str().is_empty() {
        let system = rustls_native_certs::load_native_certs().certs;
        return Ok(system.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect());
    }
    let told = |why: String| format!("{}: {why}", ca.display());
    let pem = super::read_up_to(ca, CA_BYTES_MAX).map_err(told)?;
    let items = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(_) => Some(Err(told("is no PEM: a section in it is damaged".into()))),
    });
    let certificates: Vec<_> = items.collect::<Result<_, _>>()?;
    match certificates.is_empty() {
        true => Err(told("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".into())),
        false => Ok(certificates),
    }
}
