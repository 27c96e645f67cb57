//! Fields on their way through (R1): which go, which are added, which are secret; and what a request must say to be one.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::Config;
use super::affinity::{self, Rule};
use super::body::Outgoing;
use super::forwarded::{self, Hop};
use super::framing::{Ambiguous, Framing};
use super::head::{Head, Kind, Known};
use crate::chat::Secret;

/// What a forwarded request is told to have passed, and by which version it came (RFC 9110, section 7.6.3).
const VIA_HTTP_1: &[u8] = b"1.1 gms-recorder";
const VIA_HTTP_2: &[u8] = b"2.0 gms-recorder";

/// Room for most heads, and for the body of a poll behind one. The allocator has pieces of up to 1,032 bytes at hand; for a
/// larger one it tidies up.
const HEAD_BYTES: usize = 1_000;

/// Why a request is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// None, several, or one that is no authority.
    #[error("a Host field that is not one host")]
    Host,
    /// Neither a path nor our own address before one.
    #[error("a target that is not a path here")]
    Target,
    /// CONNECT and TRACE: a reverse proxy forwards neither.
    #[error("a method that is not forwarded")]
    Method,
    /// Its end cannot be told.
    #[error("{0}")]
    Framing(#[from] Ambiguous),
}

/// What a request asks for, as a node is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Path and query.
    pub whole: &'a str,
    /// The path alone.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Of a request that can be forwarded (RFC 9112, section 3.2).
    ///
    /// # Errors
    /// Where its target or its Host is not one that every reader reads alike.
    pub fn of(head: &'a Head) -> Result<Self, Unfit> {
        if matches!(head.method(), "CONNECT" | "TRACE") {
            return Err(Unfit::Method);
        }
        let host = match head.raw_value(Known::Host) {
            Some(host) if is_authority(host) && !head.repeats(Known::Host) => Some(host),
            None if head.is_http_10() => None,
            _ => return Err(Unfit::Host),
        };
        let target = head.target();
        let is_path = target.starts_with('/') || (target == "*" && head.method() == "OPTIONS");
        let whole = if is_path { target } else { path_of_absolute(target, host).ok_or(Unfit::Target)? };
        let (path, query) = whole.split_once('?').map_or((whole, None), |(path, query)| (path, Some(query)));
        Ok(Self { whole, path, query })
    }
}

/// The path of an absolute target. It names the host once more, which must be the same one.
fn path_of_absolute<'a>(target: &'a str, host: Option<&[u8]>) -> Option<&'a str> {
    let (scheme, rest) = target.split_once("://")?;
    let is_http = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let is_ours = host.is_none_or(|host| host.eq_ignore_ascii_case(authority.as_bytes()));
    match path {
        _ if !is_http || !is_ours => None,
        "" => Some("/"),
        path => path.starts_with('/').then_some(path),
    }
}

/// A host and perhaps a port: nothing that another reader could take for user information or a path.
fn is_authority(host: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]%".contains(byte);
    !host.is_empty() && host.iter().all(allowed)
}

/// What the proxy itself needs of a request's fields: noted in one pass.
#[derive(Debug, Default)]
pub struct Noted<'a> {
    /// `Content-Type`.
    pub content_type: Option<&'a str>,
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `X-Request-Id`.
    pub request_id: Option<&'a str>,
    /// The trace that `traceparent` puts it into.
    pub trace_id: Option<&'a str>,
    /// The protocol that the client would change to: WebSocket, or none. Another one would be traffic unread.
    pub upgrade: Option<&'a str>,
    /// It takes trailers.
    pub takes_trailers: bool,
    cookies: Vec<&'a str>,
    credentials: Vec<&'a str>,
}

impl<'a> Noted<'a> {
    /// Looks through the fields of a request.
    pub fn of(head: &'a Head, framing: Framing) -> Self {
        let mut noted = Self::default();
        for (known, _, value) in head.fields() {
            let text = || std::str::from_utf8(value).ok();
            match known {
                Known::ContentType => noted.content_type = noted.content_type.or_else(text),
                Known::Cookie => noted.cookies.extend(text()),
                Known::Origin => noted.origin = text(),
                Known::Upgrade if matches!(framing, Framing::None | Framing::Length(0)) => {
                    noted.upgrade = upgrade_of(head)
                }
                Known::Te => noted.takes_trailers = head.takes_trailers(),
                Known::TraceParent if !head.repeats(known) => noted.trace_id = text().and_then(trace_id),
                Known::RequestId => noted.request_id = noted.request_id.or_else(text),
                Known::Authorization | Known::ProxyAuthorization | Known::ApiKey => noted.credentials.extend(text()),
                _ => {}
            }
        }
        noted
    }

    /// The value of a cookie.
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.cookies.iter().flat_map(|line| line.split(';'));
        pairs.find_map(|pair| pair.trim().split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| value)
    }

    /// The credentials among an exchange's fields: to be scrubbed from whatever is kept of it (R5).
    pub fn credentials(&self, answer: &Head) -> Vec<Secret> {
        let given = answer.values(Known::SetCookie).filter_map(|line| line.split(';').next());
        self.request_credentials().into_iter().chain(given.filter_map(cookie_value)).collect()
    }

    /// Those of the request alone.
    pub fn request_credentials(&self) -> Vec<Secret> {
        let mut found = Vec::new();
        for value in &self.credentials {
            found.extend(Secret::new(*value));
            found.extend(value.split_once(' ').and_then(|(_, token)| Secret::new(token.trim())));
        }
        found.extend(self.cookies.iter().flat_map(|line| line.split(';')).filter_map(cookie_value));
        found
    }
}

fn cookie_value(pair: &str) -> Option<Secret> {
    Secret::new(pair.split_once('=')?.1.trim())
}

/// The trace of a `traceparent` (W3C Trace Context, section 3.2.2): of version 00, or of a later one as far as that is alike.
fn trace_id(traceparent: &str) -> Option<&str> {
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |text: &str, length| text.len() == length && is_hex(text) && text.bytes().any(|byte| byte != b'0');
    let mut parts = traceparent.splitn(5, '-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_version = version.len() == 2 && is_hex(version) && version != "ff";
    let is_all = parts.next().is_none() || version != "00";
    let is_sound = is_version && is_id(trace, 32) && is_id(parent, 16) && flags.len() == 2 && is_hex(flags) && is_all;
    is_sound.then_some(trace)
}

/// The protocol asked for by an upgrade, if the request asks for one.
fn upgrade_of(head: &Head) -> Option<&str> {
    let wants = head.method() == "GET" && !head.is_http_10() && head.has_token(Known::Connection, "upgrade");
    head.value(Known::Upgrade).filter(|protocol| wants && protocol.eq_ignore_ascii_case("websocket"))
}

/// Whether a field is of one connection only (RFC 9110, section 7.6.1). `Trailer` passes: it announces what passes too.
fn is_hop_by_hop(known: Known) -> bool {
    use Known::{Connection, KeepAlive, ProxyConnection, Te, TransferEncoding, Upgrade};
    matches!(known, Connection | KeepAlive | ProxyConnection | Te | TransferEncoding | Upgrade)
}

/// Whether a peer may name a field away in its `Connection` field.
fn is_nameable(known: Known) -> bool {
    use Known::{Authorization, ContentLength, Cookie, Forwarded, Host, Via};
    use Known::{XForwardedFor, XForwardedHost, XForwardedProto};
    let are_ours = matches!(known, Forwarded | XForwardedFor | XForwardedProto | XForwardedHost | Via);
    !(are_ours || matches!(known, Host | ContentLength | Cookie | Authorization))
}

/// Whether a field of a head passes: not those of one connection, and not those that `Connection` names.
fn passes(head: &Head) -> impl Fn(Known, &[u8]) -> bool {
    let names = head.has(Known::Connection);
    move |known, name| {
        let is_named = || {
            let name = std::str::from_utf8(name).unwrap_or_default();
            is_nameable(known) && head.has_token(Known::Connection, name)
        };
        !(is_hop_by_hop(known) || names && is_named())
    }
}

/// Whether a length stands in an answer's head: where there is one, or where there would be (HEAD, 304).
fn has_length(head: &Head, outgoing: Outgoing) -> bool {
    !matches!(outgoing, Outgoing::Chunked | Outgoing::UntilClose) && head.status() != 204
}

fn write(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whoever is at the other end of a client's connection: found out once, used for each of its requests.
#[derive(Debug, Clone)]
pub struct Peer {
    address: IpAddr,
    /// As X-Forwarded-For names it.
    field: String,
    /// It is of a trusted network.
    is_believed: bool,
    /// It came over TLS.
    is_tls: bool,
    /// The nodes are told of it by Forwarded, too.
    is_told_twice: bool,
    via: &'static [u8],
}

impl Peer {
    /// At an address, believed if a trusted network holds it.
    pub fn new(address: IpAddr, is_tls: bool, config: &Config) -> Self {
        let is_believed = config.trusted_proxies.iter().any(|network| network.contains(&address));
        let (field, is_told_twice) = (address.to_string(), config.forwarded);
        Self { address, field, is_believed, is_tls, is_told_twice, via: VIA_HTTP_1 }
    }

    /// The same, by HTTP/2.
    pub fn over_http2(self) -> Self {
        Self { via: VIA_HTTP_2, ..self }
    }

    /// Its own address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether the client's own connection is one of TLS: from a trusted network as X-Forwarded-Proto says, or else as the
    /// nearest hop of Forwarded that says so: those before it may be the client's own invention.
    pub fn is_tls(&self, head: &Head) -> bool {
        if let Some(proto) = head.value(Known::XForwardedProto).filter(|_| self.is_believed) {
            return proto.eq_ignore_ascii_case("https");
        }
        self.hops(head).iter().rev().find_map(|hop| hop.is_https).unwrap_or(self.is_tls)
    }

    /// Who the client is: from a trusted network as X-Forwarded-For says, or Forwarded where there is no such field; from
    /// any other the peer itself.
    pub fn client(&self, head: &Head, trusted: &[IpNet]) -> IpAddr {
        match () {
            () if !self.is_believed => self.address,
            () if head.has(Known::XForwardedFor) => {
                nearest_outside(head.tokens(Known::XForwardedFor).map(address).collect(), self.address, trusted)
            }
            () => nearest_outside(self.hops(head).iter().map(|hop| hop.address).collect(), self.address, trusted),
        }
    }

    /// What Forwarded says that is to be believed: not where X-Forwarded-For stands beside it.
    fn hops(&self, head: &Head) -> Vec<Hop> {
        let is_to_be_read = self.is_believed && head.has(Known::Forwarded) && !head.has(Known::XForwardedFor);
        let hops = is_to_be_read.then(|| forwarded::hops(head.values(Known::Forwarded))).flatten();
        hops.unwrap_or_default()
    }
}

/// The nearest address that is not one of our own proxies. What stands before something else than an address is worth
/// nothing: it may be the client's own invention.
fn nearest_outside(hops: Vec<Option<IpAddr>>, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut nearest = peer;
    for hop in hops.into_iter().rev().map_while(|hop| hop) {
        nearest = hop;
        if !trusted.iter().any(|network| network.contains(&hop)) {
            break;
        }
    }
    nearest
}

/// `203.0.113.7`, `203.0.113.7:4711`, `2001:db8::1` or `[2001:db8::1]:4711`.
pub fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split(']').next());
    let port_less = || text.rsplit_once(':').and_then(|(host, _)| host.parse().ok());
    bare.unwrap_or(text).parse().ok().or_else(port_less)
}

/// A request's head as the node gets it. What it is told of the client: from a trusted network the fields are believed
/// and added to; from any other they are replaced.
pub fn toward_node(head: &Head, target: &Target<'_>, noted: &Noted<'_>, peer: &Peer, framing: Framing) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES);
    out.extend_from_slice(head.method().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.whole.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let passes = passes(head);
    head.copy_lines(&mut out, |known, name| match known {
        Known::XForwardedFor => false,
        Known::Forwarded => peer.is_believed && !peer.is_told_twice,
        Known::XForwardedProto | Known::XForwardedHost => peer.is_believed,
        known => passes(known, name),
    });
    out.extend_from_slice(b"X-Forwarded-For: ");
    for line in head.values(Known::XForwardedFor).filter(|_| peer.is_believed) {
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b", ");
    }
    // What Forwarded alone says is told by the field that nodes know.
    for hop in peer.hops(head) {
        out.extend_from_slice(hop.address.map_or("unknown".into(), |address| address.to_string()).as_bytes());
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(peer.field.as_bytes());
    out.extend_from_slice(b"\r\n");
    if peer.is_told_twice {
        out.extend_from_slice(b"Forwarded: ");
        for line in head.values(Known::Forwarded).filter(|_| peer.is_believed) {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(forwarded::element(peer.address, head.value(Known::Host), peer.is_tls).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !(peer.is_believed && head.has(Known::XForwardedProto)) {
        let scheme: &[u8] = if peer.is_tls(head) { b"https" } else { b"http" };
        write(&mut out, b"X-Forwarded-Proto", scheme);
    }
    if let Some(host) = head.value(Known::Host).filter(|_| !(peer.is_believed && head.has(Known::XForwardedHost))) {
        write(&mut out, b"X-Forwarded-Host", host.as_bytes());
    }
    write(&mut out, b"Via", peer.via);
    if framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    match noted.upgrade {
        Some(protocol) => {
            out.extend_from_slice(b"Connection: upgrade\r\n");
            write(&mut out, b"Upgrade", protocol.as_bytes());
        }
        None if noted.takes_trailers => out.extend_from_slice(b"Connection: TE\r\nTE: trailers\r\n"),
        None => {}
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// An answer's head as the client gets it: nothing is added but what this connection needs.
pub fn toward_client(head: &Head, outgoing: Outgoing, connection: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES);
    let (status, reason) = head.status_and_reason();
    for piece in [b"HTTP/1.1 ", status, b" ", reason, b"\r\n"] {
        out.extend_from_slice(piece);
    }
    let (passes, has_length) = (passes(head), has_length(head, outgoing));
    head.copy_lines(&mut out, |known, name| (known != Known::ContentLength || has_length) && passes(known, name));
    if outgoing == Outgoing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if !connection.is_empty() {
        write(&mut out, b"Connection", connection.as_bytes());
    }
    if let Some(protocol) = head.value(Known::Upgrade).filter(|_| head.status() == 101) {
        write(&mut out, b"Upgrade", protocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// An answer's head with what rules add to its cookies, and with one more of ours.
pub fn with_cookies(head: Head, rules: &[Rule], added: Option<&str>) -> Head {
    if added.is_none() && (rules.is_empty() || !head.has(Known::SetCookie)) {
        return head;
    }
    let amended = |known, value: &[u8]| {
        if known == Known::SetCookie { affinity::amended(value, rules) } else { None }
    };
    let version: &[u8] = if head.is_http_10() { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    let (status, reason) = head.status_and_reason();
    let mut out = [version, status, b" ", reason, b"\r\n"].concat();
    for (known, name, value) in head.fields() {
        write(&mut out, name, amended(known, value).as_deref().unwrap_or(value));
    }
    if let Some(cookie) = added {
        write(&mut out, b"Set-Cookie", cookie.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Head::parse(out.into(), Kind::Answer).unwrap_or(head) // one that grew over the bounds goes out as it came
}

/// An answer's fields as a client of HTTP/2 gets them: all the same, their names lower.
pub fn toward_http2(head: &Head, outgoing: Outgoing, fields: &mut HeaderMap) {
    let (passes, has_length) = (passes(head), has_length(head, outgoing));
    for (known, name, value) in head.fields() {
        if (known == Known::ContentLength && !has_length) || !passes(known, name) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            fields.append(name, value);
        }
    }
}

/// The value of a cookie that an answer sets.
pub fn given_cookie<'a>(answer: &'a Head, name: &str) -> Option<&'a str> {
    let mut pairs = answer.values(Known::SetCookie).filter_map(|line| line.split(';').next()?.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &str) -> Head {
        let text = format!("POST /a HTTP/1.1\r\nHost: gms\r\n{lines}\r\n");
        Head::parse(text.into(), Kind::Request).expect("a head")
    }

    fn peer(address: &str, trusted: &[IpNet]) -> Peer {
        let config = Config { trusted_proxies: trusted.to_vec(), ..Config::default() };
        Peer::new(address.parse().expect("an address"), false, &config)
    }

    fn sent(head: &Head, peer: &Peer) -> String {
        let framing = Framing::of_request(head).expect("a framing");
        let target = Target::of(head).expect("a target");
        let out = toward_node(head, &target, &Noted::of(head, framing), peer, framing);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn hop_by_hop_fields_go_and_named_ones_too() {
        let check = |lines: &str, left: &str| {
            let out = sent(&request(lines), &peer("203.0.113.7", &[]));
            let own = out.find("X-Forwarded-For").expect("it is told");
            let expected = format!("POST /a HTTP/1.1\r\nHost: gms\r\n{left}");
            assert_eq!(out[..own], expected, "{lines:?}");
        };
        check("Connection: close\r\nX-A: 1\r\n", "X-A: 1\r\n");
        check("Connection: X-A, keep-alive\r\nx-a: 1\r\nX-b: 2\r\n", "X-b: 2\r\n");
        check(
            "Connection: cookie, host\r\nConnection: authorization\r\nCookie: a=b\r\nAuthorization: x\r\n",
            "Cookie: a=b\r\nAuthorization: x\r\n",
        );
        check("Connection: content-length\r\nContent-Length: 5\r\n", "Content-Length: 5\r\n");
        check("TE: gzip\r\nTrailer: X-Sum\r\nUpgrade: h2c\r\nKeep-Alive: 5\r\n", "Trailer: X-Sum\r\n");
        check("Transfer-Encoding: chunked\r\nProxy-Connection: x\r\n", "");
    }

    #[test]
    fn requests_that_hosts_read_differently_are_unfit() {
        let check = |text: &str, expected: Result<&str, Unfit>| {
            let head = Head::parse(text.to_string().into(), Kind::Request).expect("a head");
            assert_eq!(Target::of(&head).map(|target| target.whole), expected, "{text:?}");
        };
        check("GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n", Ok("/a?b"));
        check("GET //a HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Ok("//a"));
        check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Ok("*"));
        check("GET HTTP://a:80/b HTTP/1.1\r\nHost: A:80\r\n\r\n", Ok("/b"));
        check("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", Ok("/"));
        check("GET / HTTP/1.0\r\n\r\n", Ok("/"));
        check("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(Unfit::Target));
        check("GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n", Err(Unfit::Target));
        check("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(Unfit::Target));
        check("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Err(Unfit::Target));
        check("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Err(Unfit::Target));
        check("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", Err(Unfit::Method));
        check("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Unfit::Method));
        check("GET / HTTP/1.1\r\n\r\n", Err(Unfit::Host));
        check("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(Unfit::Host));
        for host in ["", "a b", "a/b", "u@a", "a,b", "a\u{e9}"] {
            check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), Err(Unfit::Host));
        }
    }

    #[test]
    fn the_client_is_believed_only_from_trusted_networks() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network")];
        let check = |address: &str, given: Option<&str>, client: &str, chain: &str| {
            let head = request(&given.map(|chain| format!("x-forwarded-for: {chain}\r\n")).unwrap_or_default());
            let peer = peer(address, &trusted);
            assert_eq!(peer.client(&head, &trusted).to_string(), client);
            let out = sent(&head, &peer);
            assert!(out.contains(&format!("X-Forwarded-For: {chain}\r\n")), "{out}");
            assert_eq!(out.to_lowercase().matches("x-forwarded-for").count(), 1, "{out}");
        };
        check("203.0.113.7", None, "203.0.113.7", "203.0.113.7");
        check("203.0.113.7", Some("1.2.3.4"), "203.0.113.7", "203.0.113.7");
        check("10.0.0.1", Some("198.51.100.9"), "198.51.100.9", "198.51.100.9, 10.0.0.1");
        check(
            "10.0.0.1",
            Some("1.1.1.1, 198.51.100.9, 10.0.0.2"),
            "198.51.100.9",
            "1.1.1.1, 198.51.100.9, 10.0.0.2, 10.0.0.1",
        );
        check("10.0.0.1", Some("198.51.100.9:4711"), "198.51.100.9", "198.51.100.9:4711, 10.0.0.1");
        check("10.0.0.1", None, "10.0.0.1", "10.0.0.1");
        // What stands before an entry that is no address may be the client's own invention.
        check("10.0.0.1", Some("1.1.1.1, x, 198.51.100.9"), "198.51.100.9", "1.1.1.1, x, 198.51.100.9, 10.0.0.1");
        check("10.0.0.1", Some("1.1.1.1, x, 10.0.0.2"), "10.0.0.2", "1.1.1.1, x, 10.0.0.2, 10.0.0.1");
        check("10.0.0.1", Some("10.0.0.3, 10.0.0.2"), "10.0.0.3", "10.0.0.3, 10.0.0.2, 10.0.0.1");
    }

    #[test]
    fn forwarded_is_believed_where_it_stands_alone_and_told_where_that_is_wanted() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network")];
        let check = |address: &str, fields: &str, is_told: bool, client: &str, told: &[&str]| {
            let config = Config { trusted_proxies: trusted.clone(), forwarded: is_told, ..Config::default() };
            let peer = Peer::new(address.parse().expect("an address"), false, &config);
            let head = request(fields);
            assert_eq!(peer.client(&head, &trusted).to_string(), client, "{fields}");
            let out = sent(&head, &peer);
            let lines: Vec<&str> = out.lines().filter(|line| line.to_lowercase().contains("forwarded")).collect();
            assert_eq!(lines, told, "{fields}");
        };
        let host = "X-Forwarded-Host: gms";
        let (http, https) = ("X-Forwarded-Proto: http", "X-Forwarded-Proto: https");
        check(
            "203.0.113.7",
            "Forwarded: for=1.2.3.4;proto=https\r\n",
            false,
            "203.0.113.7",
            &["X-Forwarded-For: 203.0.113.7", http, host],
        );
        check(
            "203.0.113.7",
            "Forwarded: for=1.2.3.4\r\nConnection: forwarded\r\n",
            true,
            "203.0.113.7",
            &["X-Forwarded-For: 203.0.113.7", "Forwarded: for=203.0.113.7;host=\"gms\";proto=http", http, host],
        );
        let two = "Forwarded: for=1.2.3.4;proto=http, for=198.51.100.9;proto=https\r\n";
        let kept = two.trim_end();
        check(
            "10.0.0.1",
            two,
            false,
            "198.51.100.9",
            &[kept, "X-Forwarded-For: 1.2.3.4, 198.51.100.9, 10.0.0.1", https, host],
        );
        let appended = format!("{kept}, for=10.0.0.1;host=\"gms\";proto=http");
        check(
            "10.0.0.1",
            two,
            true,
            "198.51.100.9",
            &["X-Forwarded-For: 1.2.3.4, 198.51.100.9, 10.0.0.1", &appended, https, host],
        );
        // Beside X-Forwarded-For it counts for nothing.
        let both = "Forwarded: for=1.2.3.4;proto=https\r\nX-Forwarded-For: 198.51.100.9\r\n";
        check(
            "10.0.0.1",
            both,
            false,
            "198.51.100.9",
            &["Forwarded: for=1.2.3.4;proto=https", "X-Forwarded-For: 198.51.100.9, 10.0.0.1", http, host],
        );
        // Nor where it is malformed.
        check(
            "10.0.0.1",
            "Forwarded: for=\"1.2.3.4\r\n",
            false,
            "10.0.0.1",
            &["Forwarded: for=\"1.2.3.4", "X-Forwarded-For: 10.0.0.1", http, host],
        );
        check(
            "10.0.0.1",
            "Forwarded: for=1.2.3.4, for=_hidden\r\n",
            false,
            "10.0.0.1",
            &["Forwarded: for=1.2.3.4, for=_hidden", "X-Forwarded-For: 1.2.3.4, unknown, 10.0.0.1", http, host],
        );
    }

    #[test]
    fn proto_and_host_are_told_and_believed_alike() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network")];
        let head = request("X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop\r\nVia: 1.1 edge\r\n");
        let believed = sent(&head, &peer("10.0.0.1", &trusted));
        assert!(believed.contains("X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop\r\nVia: 1.1 edge\r\n"));
        assert!(!believed.contains("X-Forwarded-Proto: http\r\n") && !believed.contains("X-Forwarded-Host: gms"));
        let replaced = sent(&head, &peer("203.0.113.7", &trusted));
        assert!(replaced.contains("X-Forwarded-Proto: http\r\nX-Forwarded-Host: gms\r\nVia: 1.1 gms-recorder\r\n"));
        assert!(!replaced.contains("https") && !replaced.contains("shop"));
    }

    #[test]
    fn a_trace_is_known_by_a_sound_traceparent_and_any_is_passed_on_as_it_came() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let check = |lines: &str, expected: Option<&str>| {
            let head = request(lines);
            assert_eq!(Noted::of(&head, Framing::None).trace_id, expected, "{lines:?}");
            assert!(sent(&head, &peer("203.0.113.7", &[])).contains(lines), "{lines:?}");
        };
        let sound = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n");
        check(&format!("{sound}tracestate: a=1,b=2\r\n"), Some(TRACE));
        check(&format!("TraceParent: 00-{TRACE}-00f067aa0ba902b7-00\r\n"), Some(TRACE));
        check(&format!("traceparent: cc-{TRACE}-00f067aa0ba902b7-01-what-the-future\r\n"), Some(TRACE));
        check(&sound.repeat(2), None);
        for wrong in [
            format!("00-{TRACE}-00f067aa0ba902b7-01-"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("0-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-00f067aa0ba902b7-1"),
            format!("00-{TRACE}-00f067aa0ba902b7-0g"),
            format!("00-{TRACE}-00f067aa0ba902b-01"),
            format!("00-{TRACE}"),
            "4bf92f35".into(),
            String::new(),
        ] {
            check(&format!("traceparent: {wrong}\r\n"), None);
        }
    }

    #[test]
    fn what_the_proxy_itself_needs_of_the_fields_is_noted() {
        let head = request(
            "Content-Type: text/a\r\nContent-Type: text/b\r\nOrigin: https://shop\r\nX-Request-Id: one\r\nX-Request-Id: two\r\n\
             TE: gzip, trailers\r\n",
        );
        let noted = Noted::of(&head, Framing::None);
        assert_eq!((noted.content_type, noted.origin), (Some("text/a"), Some("https://shop")));
        assert_eq!((noted.request_id, noted.takes_trailers), (Some("one"), true));
        let head = request("TE: gzip\r\n");
        assert!(!Noted::of(&head, Framing::None).takes_trailers);
    }

    #[test]
    fn a_node_is_told_what_its_own_connection_needs() {
        let check = |lines: &str, peer: Peer, left: &str| {
            let out = sent(&request(lines), &peer);
            let (_, own) = out.split_once("X-Forwarded-Host: gms\r\n").expect("it is told");
            assert_eq!(own, left, "{lines:?}");
        };
        let client = || peer("203.0.113.7", &[]);
        check("", client(), "Via: 1.1 gms-recorder\r\n\r\n");
        check("", client().over_http2(), "Via: 2.0 gms-recorder\r\n\r\n");
        let (trailers, chunked) = ("Connection: TE\r\nTE: trailers\r\n", "Transfer-Encoding: chunked\r\n");
        check("TE: trailers\r\n", client(), &format!("Via: 1.1 gms-recorder\r\n{trailers}\r\n"));
        check(chunked, client(), &format!("Via: 1.1 gms-recorder\r\n{chunked}\r\n"));
    }

    fn answer(text: &str) -> Head {
        Head::parse(text.to_string().into(), Kind::Answer).expect("a head")
    }

    #[test]
    fn a_client_gets_the_answers_fields_and_what_its_connection_needs() {
        let check = |text: &str, outgoing: Outgoing, connection: &str, expected: &str| {
            let out = toward_client(&answer(text), outgoing, connection);
            assert_eq!(String::from_utf8(out).expect("text"), expected, "{text:?} {outgoing:?}");
        };
        let sized = "HTTP/1.0 200 Fine\r\nx-a:1\r\nContent-Length: 4\r\nConnection: X-B\r\nX-B: 2\r\n\r\n";
        let head = "HTTP/1.1 200 Fine\r\nx-a:1\r\n";
        let (length, chunked) = ("Content-Length: 4\r\n", "Transfer-Encoding: chunked\r\n");
        check(sized, Outgoing::Sized, "", &format!("{head}{length}\r\n"));
        check(sized, Outgoing::None, "close", &format!("{head}{length}Connection: close\r\n\r\n"));
        check(sized, Outgoing::Chunked, "", &format!("{head}{chunked}\r\n"));
        check(sized, Outgoing::UntilClose, "close", &format!("{head}Connection: close\r\n\r\n"));
        let empty = "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n";
        check(empty, Outgoing::None, "", "HTTP/1.1 204 No Content\r\n\r\n");
        let h2c = "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
        check(h2c, Outgoing::None, "", "HTTP/1.1 200 OK\r\n\r\n");
        let upgraded = "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let expected = "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        check(upgraded, Outgoing::None, "upgrade", expected);
    }

    #[test]
    fn a_client_of_http_2_gets_the_answers_fields_and_no_others() {
        let check = |text: &str, outgoing: Outgoing, expected: &[(&str, &str)]| {
            let mut fields = HeaderMap::new();
            toward_http2(&answer(text), outgoing, &mut fields);
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
            assert_eq!(fields, expected, "{text:?} {outgoing:?}");
        };
        let text = "HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 4\r\nConnection: X-B\r\nX-B: 2\r\nx-a: 3\r\n\r\n";
        check(text, Outgoing::Sized, &[("x-a", "1"), ("x-a", "3"), ("content-length", "4")]);
        check(text, Outgoing::Chunked, &[("x-a", "1"), ("x-a", "3")]);
        check("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nX-A: 1\r\n\r\n", Outgoing::None, &[("x-a", "1")]);
    }

    #[test]
    fn only_a_websocket_upgrades() {
        let check = |method: &str, lines: &str, upgrade: Option<&str>| {
            let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let head = Head::parse(text.into(), Kind::Request).expect("a head");
            let framing = Framing::of_request(&head).expect("a framing");
            assert_eq!(Noted::of(&head, framing).upgrade, upgrade, "{lines:?}");
        };
        check("GET", "Connection: Upgrade\r\nUpgrade: WebSocket\r\n", Some("WebSocket"));
        check("GET", "Upgrade: websocket\r\n", None);
        check("GET", "Connection: upgrade\r\nUpgrade: h2c\r\n", None);
        check("POST", "Connection: upgrade\r\nUpgrade: websocket\r\n", None);
        check("GET", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n", None);
    }

    #[test]
    fn credentials_are_found_in_both_directions() {
        let request =
            request("Authorization: Basic dXNlcjpwYXNz\r\nCookie: a=one; BAYEUX_BROWSER=two\r\nApiKey: three\r\n");
        let answer =
            Head::parse("HTTP/1.1 200 OK\r\nSet-Cookie: JSESSIONID=four; Path=/genesys\r\n\r\n".into(), Kind::Answer);
        let answer = answer.expect("a head");
        let noted = Noted::of(&request, Framing::None);
        let found: Vec<String> = noted.credentials(&answer).iter().map(|s| s.expose().to_string()).collect();
        assert_eq!(found, ["Basic dXNlcjpwYXNz", "dXNlcjpwYXNz", "three", "one", "two", "four"]);
        assert_eq!(noted.cookie("BAYEUX_BROWSER"), Some("two"));
        assert_eq!(given_cookie(&answer, "JSESSIONID"), Some("four"));
    }

    #[test]
    fn cookies_are_amended_and_one_is_added() {
        let given =
            "HTTP/1.0 200 Fine\r\nset-cookie: BAYEUX_BROWSER=a; HttpOnly\r\nSet-Cookie: B=2\r\nX-A: \u{e9}\r\n\r\n";
        let head = |text: &str| Head::parse(text.to_string().into(), Kind::Answer).expect("a head");
        let rules = [Rule::parse("BAYEUX_BROWSER; Secure").expect("a rule")];
        let check = |rules: &[Rule], added: Option<&str>, cookies: &[&str]| {
            let head = with_cookies(head(given), rules, added);
            assert_eq!(head.values(Known::SetCookie).collect::<Vec<_>>(), cookies);
            assert_eq!((head.status_and_reason(), head.is_http_10()), ((&b"200"[..], &b"Fine"[..]), true));
            assert_eq!(head.fields().find(|(_, name, _)| *name == b"X-A").expect("kept").2, "\u{e9}".as_bytes());
        };
        check(&[], None, &["BAYEUX_BROWSER=a; HttpOnly", "B=2"]);
        check(&rules, None, &["BAYEUX_BROWSER=a; HttpOnly; Secure", "B=2"]);
        check(&rules, Some("c=3"), &["BAYEUX_BROWSER=a; HttpOnly; Secure", "B=2", "c=3"]);
        check(&[], Some("c=3"), &["BAYEUX_BROWSER=a; HttpOnly", "B=2", "c=3"]);
        let written = |head: &Head| toward_client(head, Outgoing::None, "");
        for (text, rules) in
            [("HTTP/1.1 200 OK\r\nSet-Cookie:B=2\r\n\r\n", &[][..]), ("HTTP/1.1 200 OK\r\nX-A:1\r\n\r\n", &rules)]
        {
            assert_eq!(written(&with_cookies(head(text), rules, None)), text.as_bytes(), "as it came");
        }
    }
}
