//! The address of a GMS node as people write it. Knows neither whether the node exists nor how to reach it.

use std::fmt;
use std::net::Ipv6Addr;

/// One GMS node: `http://gms-1:8080`, or `gms-1=https://10.0.0.1:8443`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddress {
    /// What rows, logs and metrics call it; `host:port` unless given.
    pub name: String,
    /// A DNS name or an IP address, IPv6 without brackets.
    pub host: String,
    /// 80 unless given, 443 with TLS.
    pub port: u16,
    /// Whether it is reached by TLS: `https://`.
    pub is_tls: bool,
}

impl NodeAddress {
    /// Reads `http://host:port` or `name=http://host:port`, or the same with `https://`.
    ///
    /// # Errors
    /// A sentence that says what would be right. It never repeats the text, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, url) = split_name(text.trim());
        let (is_tls, authority) = authority(url)?;
        let (host, port) = split_authority(authority, if is_tls { 443 } else { 80 })?;
        check_host(&host)?;
        let name = name.map_or_else(|| written(&host, port), String::from);
        check_name(&name)?;
        Ok(Self { name, host, port, is_tls })
    }

    /// `host:port`, with IPv6 in brackets: what is connected to.
    pub fn authority(&self) -> String {
        written(&self.host, self.port)
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{}={scheme}://{}", self.name, self.authority())
    }
}

fn written(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// `=` stands for a name only before the scheme: it may also stand in a query, which is refused later.
fn split_name(text: &str) -> (Option<&str>, &str) {
    let scheme_at = text.find("://").unwrap_or(text.len());
    match text[..scheme_at].split_once('=') {
        Some((name, _)) => (Some(name.trim()), text[name.len() + 1..].trim_start()),
        None => (None, text),
    }
}

/// Whether it is TLS, and what follows the scheme.
fn authority(url: &str) -> Result<(bool, &str), String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err("a node is written http://host:port, or name=http://host:port".into());
    };
    let is_tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err("a node is reached by http:// or https:// only".into()),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err("a node's URL holds no user or password: credentials pass through from the clients".into());
    }
    if rest.contains(['/', '?', '#']) {
        return Err("a node's URL holds no path or query: requests keep their own; write http://host:port".into());
    }
    Ok((is_tls, rest))
}

fn split_authority(authority: &str, default_port: u16) -> Result<(String, u16), String> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let wrong = || "an IPv6 node is written http://[2001:db8::1]:8080".to_string();
        let (host, rest) = bracketed.split_once(']').ok_or_else(wrong)?;
        let host: Ipv6Addr = host.parse().map_err(|_| wrong())?;
        let port = match rest {
            "" => default_port,
            _ => parse_port(rest.strip_prefix(':').ok_or_else(wrong)?)?,
        };
        return Ok((host.to_string(), port));
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            Err("IPv6 addresses stand in brackets: http://[2001:db8::1]:8080".into())
        }
        Some((host, port)) => Ok((host.into(), parse_port(port)?)),
        None => Ok((authority.into(), default_port)),
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let port = if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None };
    port.filter(|port| *port != 0).ok_or_else(|| "a port is a number from 1 to 65535".into())
}

/// 253 is the longest DNS name (RFC 1035 section 2.3.4).
fn check_host(host: &str) -> Result<(), String> {
    let is_ip = host.contains(':');
    let is_name = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if (is_ip || is_name) && host.len() <= 253 { Ok(()) } else { Err("a host is a DNS name or an IP address".into()) }
}

/// A name becomes a metric's label and a column: short and plain. 300 holds the longest `host:port`.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    let fits = !name.is_empty() && name.len() <= 300;
    if is_plain && fits { Ok(()) } else { Err("a node's name is made of letters, digits, '-', '.' and '_'".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let rows = [
            ("http://gms:8080", "gms:8080", "gms", 8080),
            ("http://gms", "gms:80", "gms", 80),
            ("HTTP://gms:8080/", "gms:8080", "gms", 8080),
            ("gms-1=http://10.0.0.1:8080", "gms-1", "10.0.0.1", 8080),
            (" gms-1 = http://10.0.0.1:8080 ", "gms-1", "10.0.0.1", 8080),
            ("http://[2001:db8::1]:8080", "[2001:db8::1]:8080", "2001:db8::1", 8080),
            ("six=http://[::1]", "six", "::1", 80),
            ("http://gms_1.example.com:1", "gms_1.example.com:1", "gms_1.example.com", 1),
            ("https://gms", "gms:443", "gms", 443),
            ("HTTPS://gms:8443/", "gms:8443", "gms", 8443),
            ("gms-1=https://[::1]", "gms-1", "::1", 443),
        ];
        for (text, name, host, port) in rows {
            let is_tls = text.to_lowercase().contains("https:");
            let wanted = NodeAddress { name: name.into(), host: host.into(), port, is_tls };
            assert_eq!(NodeAddress::parse(text).as_ref(), Ok(&wanted), "{text}");
            assert_eq!(NodeAddress::parse(&wanted.to_string()), Ok(wanted), "{text}, written and read again");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let rows = [
            ("gms:8080", "a node is written http://host:port"),
            ("", "a node is written http://host:port"),
            ("ftp://gms", "by http:// or https:// only"),
            ("http://gms/genesys", "no path or query"),
            ("http://gms?a=b", "no path or query"),
            ("http://gms#a", "no path or query"),
            ("http://anna:secret@gms", "no user or password"),
            ("http://", "a host is"),
            ("http://a b", "a host is"),
            ("http://:80", "a host is"),
            ("http://gms:0", "a port is"),
            ("http://gms:65536", "a port is"),
            ("http://gms:", "a port is"),
            ("http://gms:+80", "a port is"),
            ("http://::1:80", "brackets"),
            ("http://[::1", "http://[2001:db8::1]:8080"),
            ("http://[gms]:80", "http://[2001:db8::1]:8080"),
            ("http://[::1]80", "http://[2001:db8::1]:8080"),
            ("=http://gms", "a node's name"),
            ("gms 1=http://gms", "a node's name"),
        ];
        for (text, sentence) in rows {
            let said = NodeAddress::parse(text).expect_err(text);
            assert!(said.contains(sentence), "{text}: {said}");
            assert!(!said.contains("secret"), "{text}: {said}");
        }
    }
}
