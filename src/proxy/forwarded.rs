//! The Forwarded field (RFC 7239): what proxies say of those before them. Pure; whom to believe is the caller's business.

use std::net::IpAddr;

use super::headers::address;

/// What one proxy said of who asked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// `for`; none where it is not said, unknown, or a name that proxy made up.
    pub address: Option<IpAddr>,
    /// `proto`, where it is said.
    pub is_https: Option<bool>,
}

/// The hops of all lines of the field, the client's first. None where any of it is malformed: then nothing of it is worth
/// believing.
pub fn hops<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    for line in lines {
        for element in split(line, b',')?.into_iter().filter(|element| !element.is_empty()) {
            hops.push(hop(element)?);
        }
    }
    Some(hops)
}

fn hop(element: &str) -> Option<Hop> {
    let mut hop = Hop { address: None, is_https: None };
    let mut seen: Vec<&str> = Vec::new();
    for pair in split(element, b';')? {
        let (name, value) = pair.split_once('=')?;
        let is_token = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        };
        let value = match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(quoted) => quoted,
            None if is_token(value) => value,
            None => return None,
        };
        // Each parameter once (section 4).
        if !is_token(name) || seen.iter().any(|seen| seen.eq_ignore_ascii_case(name)) {
            return None;
        }
        seen.push(name);
        if name.eq_ignore_ascii_case("for") {
            hop.address = address(value);
        } else if name.eq_ignore_ascii_case("proto") {
            hop.is_https = Some(value.eq_ignore_ascii_case("https"));
        }
    }
    Some(hop)
}

/// The parts between separators that stand in no quotes. None where quotes do not end.
fn split(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut is_quoted, mut is_escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ if byte == separator && !is_quoted => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    (!is_quoted).then_some(parts)
}

/// What we say of who asks us.
pub fn element(address: IpAddr, host: Option<&str>, is_https: bool) -> String {
    let client = match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    let host = host.map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
    format!("for={client}{host};proto={}", if is_https { "https" } else { "http" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_read_strictly() {
        let check = |lines: &[&str], expected: Option<&[(&str, &str)]>| {
            let said = hops(lines.iter().copied()).map(|hops| {
                let shown = |hop: &Hop| {
                    let address = hop.address.map_or("-".into(), |address| address.to_string());
                    (address, hop.is_https.map_or("-", |is_https| if is_https { "https" } else { "http" }).to_string())
                };
                hops.iter().map(shown).collect::<Vec<_>>()
            });
            let expected = expected.map(|hops| hops.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect());
            assert_eq!(said, expected, "{lines:?}");
        };
        check(&["for=192.0.2.43"], Some(&[("192.0.2.43", "-")]));
        check(&["For=\"[2001:db8:cafe::17]:4711\""], Some(&[("2001:db8:cafe::17", "-")]));
        check(&["for=192.0.2.60;proto=http;by=203.0.113.43"], Some(&[("192.0.2.60", "http")]));
        check(
            &["for=192.0.2.43, for=198.51.100.17;proto=HTTPS"],
            Some(&[("192.0.2.43", "-"), ("198.51.100.17", "https")]),
        );
        check(&["for=192.0.2.43", "for=\"198.51.100.17:80\""], Some(&[("192.0.2.43", "-"), ("198.51.100.17", "-")]));
        check(&["for=_hidden, for=unknown, proto=https"], Some(&[("-", "-"), ("-", "-"), ("-", "https")]));
        check(&["host=\"a,b;for=1.2.3.4\";for=192.0.2.1"], Some(&[("192.0.2.1", "-")]));
        check(&["host=\"a\\\",for=1.2.3.4\";for=192.0.2.1"], Some(&[("192.0.2.1", "-")]));
        check(&[], Some(&[]));
        for malformed in [
            "for",
            "for=\"192.0.2.1",
            "for=192.0.2.1;for=192.0.2.2",
            "for=[::1]",
            "=x",
            "for=1.2.3.4;;",
            "for =1.2.3.4",
        ] {
            check(&["for=192.0.2.9", malformed], None);
        }
    }

    #[test]
    fn what_is_said_is_read_again() {
        for text in ["203.0.113.7", "2001:db8::1", "::ffff:203.0.113.7"] {
            let address: IpAddr = text.parse().expect("an address");
            let said = element(address, Some("gms.example.com:443"), true);
            let expected = Hop { address: Some(address.to_canonical()), is_https: Some(true) };
            assert_eq!(hops([said.as_str()].into_iter()), Some(vec![expected]), "{said}");
        }
    }
}
