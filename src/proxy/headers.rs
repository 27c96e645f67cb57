//! Fields on their way through (R1): which go, which are added, which are secret.

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    PROXY_AUTHORIZATION, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use ipnet::IpNet;

use crate::chat::Secret;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Of one connection only (RFC 9110, section 7.6.1). `Trailer` passes: it announces what passes too.
const HOP_BY_HOP: [HeaderName; 6] = [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE];

/// No peer can name these away in its `Connection` field.
const NEVER_NAMED: [HeaderName; 8] =
    [HOST, CONTENT_LENGTH, COOKIE, AUTHORIZATION, VIA, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST];

/// Request fields whose values are credentials. GMS deployments put API keys into the last two.
const CREDENTIALS: [HeaderName; 4] =
    [AUTHORIZATION, PROXY_AUTHORIZATION, HeaderName::from_static("x-api-key"), HeaderName::from_static("apikey")];

/// What the proxy itself needs of a request's fields: noted in one pass, before they go to the node.
#[derive(Debug, Default)]
pub struct Noted {
    /// `Content-Type`.
    pub content_type: Option<HeaderValue>,
    /// `Origin`.
    pub origin: Option<HeaderValue>,
    /// `X-Request-Id`.
    pub request_id: Option<HeaderValue>,
    /// The protocol that the client would change to.
    pub upgrade: Option<HeaderValue>,
    /// It takes trailers.
    pub takes_trailers: bool,
    cookies: Vec<HeaderValue>,
    credentials: Vec<HeaderValue>,
}

impl Noted {
    /// Looks through the fields of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut noted = Self::default();
        for (name, value) in headers {
            match name {
                name if name == CONTENT_TYPE => noted.content_type = noted.content_type.or_else(|| Some(value.clone())),
                name if name == COOKIE => noted.cookies.push(value.clone()),
                name if name == ORIGIN => noted.origin = Some(value.clone()),
                name if name == UPGRADE => noted.upgrade = upgrade_of(headers),
                name if name == TE => noted.takes_trailers = accepts_trailers(headers),
                name if name == REQUEST_ID => noted.request_id = noted.request_id.or_else(|| Some(value.clone())),
                name if CREDENTIALS.contains(name) => noted.credentials.push(value.clone()),
                _ => {}
            }
        }
        noted
    }

    /// The value of a cookie.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let lines = self.cookies.iter().filter_map(|value| value.to_str().ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The credentials among an exchange's fields: to be scrubbed from whatever is kept of it (R5).
    pub fn credentials(&self, answer: &HeaderMap) -> Vec<Secret> {
        let mut found = Vec::new();
        for value in self.credentials.iter().filter_map(|value| value.to_str().ok()) {
            found.extend(Secret::new(value));
            found.extend(value.split_once(' ').and_then(|(_, token)| Secret::new(token.trim())));
        }
        let sent = self.cookies.iter().filter_map(|value| value.to_str().ok());
        let given = answer.get_all(SET_COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let pairs = sent.flat_map(|line| line.split(';')).chain(given.filter_map(|line| line.split(';').next()));
        found.extend(pairs.filter_map(|pair| pair.split_once('=')).filter_map(|(_, value)| Secret::new(value.trim())));
        found
    }
}

/// Removes hop-by-hop fields and those that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .filter(|name| !NEVER_NAMED.contains(name))
            .collect();
        named.iter().for_each(|name| drop(headers.remove(name)));
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The comma-separated tokens of a field, all its lines.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// Whether the peer takes trailers.
fn accepts_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"))
}

/// The protocol asked for by an upgrade, if the request asks for one.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    headers.get(UPGRADE).filter(|_| wants).cloned()
}

/// Whoever is at the other end of a client's connection: found out once, used for each of its requests.
#[derive(Debug, Clone)]
pub struct Peer {
    address: IpAddr,
    /// As X-Forwarded-For names it.
    field: HeaderValue,
    /// It is of a trusted network.
    is_believed: bool,
}

impl Peer {
    /// At an address, believed if a trusted network holds it.
    pub fn new(address: IpAddr, trusted: &[IpNet]) -> Self {
        let field = HeaderValue::try_from(address.to_string()).expect("an address is a field's value");
        Self { address, field, is_believed: trusted.iter().any(|network| network.contains(&address)) }
    }
}

/// Who the client is, and what the node is told of it.
///
/// From a trusted network the fields are believed and added to; from any other they are replaced.
pub fn forwarded(headers: &mut HeaderMap, peer: &Peer, trusted: &[IpNet]) -> IpAddr {
    let believed = peer.is_believed;
    let client = if believed { claimed_client(headers, peer.address, trusted) } else { peer.address };
    let earlier = believed.then(|| joined(headers, &X_FORWARDED_FOR)).flatten();
    let chain = earlier.and_then(|earlier| HeaderValue::try_from(format!("{earlier}, {}", peer.address)).ok());
    headers.insert(X_FORWARDED_FOR, chain.unwrap_or_else(|| peer.field.clone()));
    if !believed || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !believed || !headers.contains_key(X_FORWARDED_HOST) {
        match headers.get(HOST).cloned() {
            Some(host) => drop(headers.insert(X_FORWARDED_HOST, host)),
            None => drop(headers.remove(X_FORWARDED_HOST)),
        }
    }
    headers.append(VIA, HeaderValue::from_static("1.1 gms-recorder"));
    client
}

/// The nearest address of X-Forwarded-For that is not one of our own proxies.
fn claimed_client(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let hops: Vec<IpAddr> = tokens(headers, &X_FORWARDED_FOR).map_while(address).collect();
    let outside = hops.iter().rev().find(|hop| !trusted.iter().any(|network| network.contains(*hop)));
    outside.or(hops.first()).copied().unwrap_or(peer)
}

/// `203.0.113.7`, `203.0.113.7:4711`, `2001:db8::1` or `[2001:db8::1]:4711`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split(']').next());
    let port_less = || text.rsplit_once(':').and_then(|(host, _)| host.parse().ok());
    bare.unwrap_or(text).parse().ok().or_else(port_less)
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<&str> = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// The value of a cookie that an answer sets.
pub fn given_cookie<'a>(answer: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = answer.get_all(SET_COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines.filter_map(|line| line.split(';').next()?.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn hop_by_hop_fields_go_and_named_ones_too() {
        let check = |lines: &[(&'static str, &'static str)], left: &[&str]| {
            let mut headers = fields(lines);
            strip_hop_by_hop(&mut headers);
            let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, left, "{lines:?}");
        };
        check(&[("connection", "close"), ("x-a", "1")], &["x-a"]);
        check(&[("connection", "X-A, keep-alive"), ("x-a", "1"), ("x-b", "2")], &["x-b"]);
        check(
            &[("connection", "cookie, authorization"), ("cookie", "a=b"), ("authorization", "x")],
            &["authorization", "cookie"],
        );
        check(&[("connection", "content-length"), ("content-length", "5")], &["content-length"]);
        check(&[("te", "trailers"), ("trailer", "x-sum"), ("upgrade", "h2c"), ("keep-alive", "5")], &["trailer"]);
    }

    #[test]
    fn the_client_is_believed_only_from_trusted_networks() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network")];
        let check = |peer: &str, sent: Option<&'static str>, client: &str, chain: &str| {
            let mut headers = HeaderMap::new();
            if let Some(sent) = sent {
                headers.insert(X_FORWARDED_FOR, HeaderValue::from_static(sent));
            }
            let peer = Peer::new(peer.parse().expect("an address"), &trusted);
            let found = forwarded(&mut headers, &peer, &trusted);
            assert_eq!(found.to_string(), client);
            assert_eq!(headers[X_FORWARDED_FOR], chain);
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
    }

    #[test]
    fn credentials_are_found_in_both_directions() {
        let request = fields(&[
            ("authorization", "Basic dXNlcjpwYXNz"),
            ("cookie", "a=one; BAYEUX_BROWSER=two"),
            ("apikey", "three"),
        ]);
        let answer = fields(&[("set-cookie", "JSESSIONID=four; Path=/genesys")]);
        let noted = Noted::of(&request);
        let found: Vec<String> = noted.credentials(&answer).iter().map(|s| s.expose().to_string()).collect();
        assert_eq!(found, ["Basic dXNlcjpwYXNz", "dXNlcjpwYXNz", "three", "one", "two", "four"]);
        assert_eq!(noted.cookie("BAYEUX_BROWSER"), Some("two"));
    }
}
