//! The address of a GMS node as people write it. Knows neither whether the node exists nor how to reach it.

use std::fmt;
use std::net::Ipv6Addr;

/// One GMS node: `http://gms-1:8080`, or `gms-1=http://10.0.0.1:8080`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddress {
    /// What rows, logs and metrics call it; `host:port` unless given.
    pub name: String,
    /// A DNS name or an IP address, IPv6 without brackets.
    pub host: String,
    /// 80 unless given.
    pub port: u16,
}

impl NodeAddress {
    /// Reads `http://host:port` or `name=http://host:port`.
    ///
    /// # Errors
    /// A sentence that says what would be right. It never repeats the text, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, url) = split_name(text.trim());
        let (host, port) = split_authority(authority(url)?)?;
        check_host(&host)?;
        let name = name.map_or_else(|| written(&host, port), String::from);
        check_name(&name)?;
        Ok(Self { name, host, port })
    }

    /// `host:port`, with IPv6 in brackets: what is connected to.
    pub fn authority(&self) -> String {
        written(&self.host, self.port)
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=http://{}", self.name, self.authority())
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

fn authority(url: &str) -> Result<&str, String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err("a node is written http://host:port, or name=http://host:port".into());
    };
    match scheme.to_ascii_lowercase().as_str() {
        "http" => {}
        "https" => return Err("TLS to nodes comes later: for now a node is reached by http:// only".into()),
        _ => return Err("a node is reached by http:// only".into()),
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err("a node's URL holds no user or password: credentials pass through from the clients".into());
    }
    if rest.contains(['/', '?', '#']) {
        return Err("a node's URL holds no path or query: requests keep their own; write http://host:port".into());
    }
    Ok(rest)
}

fn split_authority(authority: &str) -> Result<(String, u16), String> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let wrong = || "an IPv6 node is written http://[2001:db8::1]:8080".to_string();
        let (host, rest) = bracketed.split_once(']').ok_or_else(wrong)?;
        let host: Ipv6Addr = host.parse().map_err(|_| wrong())?;
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) };
        return Ok((host.to_string(), parse_port(port)?));
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            Err("IPv6 addresses stand in brackets: http://[2001:db8::1]:8080".into())
        }
        Some((host, port)) => Ok((host.into(), parse_port(Some(port))?)),
        None => Ok((authority.into(), parse_port(None)?)),
    }
}

fn parse_port(text: Option<&str>) -> Result<u16, String> {
    let Some(text) = text else { return Ok(80) };
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
        ];
        for (text, name, host, port) in rows {
            let wanted = NodeAddress { name: name.into(), host: host.into(), port };
            assert_eq!(NodeAddress::parse(text).as_ref(), Ok(&wanted), "{text}");
            assert_eq!(NodeAddress::parse(&wanted.to_string()), Ok(wanted), "{text}, written and read again");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let rows = [
            ("gms:8080", "a node is written http://host:port"),
            ("", "a node is written http://host:port"),
            ("https://gms", "TLS to nodes comes later"),
            ("ftp://gms", "by http:// only"),
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
