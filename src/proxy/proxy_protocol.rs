//! The PROXY protocol, versions 1 and 2 (haproxy.org, `proxy-protocol.txt`): what a load balancer says of its client before
//! that client's first byte. Pure: bytes in, an address out; whom to believe is the caller's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is read: load balancers add some hundred bytes of extensions (TLVs) to it at most.
pub const HEADER_BYTES_MAX: usize = 4 << 10;

/// The longest line of version 1, its end included (section 2.1).
const LINE_BYTES_MAX: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The client; none where the load balancer speaks for itself (its health checks), or does not know.
    pub client: Option<SocketAddr>,
    /// How many bytes it had.
    pub length: usize,
}

/// What came is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what came is no header of the PROXY protocol")]
pub struct Malformed;

/// Reads the header at the start of `bytes`; none where its end has not come.
///
/// # Errors
/// As soon as it can be no header.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let begins_like = |start: &[u8]| {
        let common = bytes.len().min(start.len());
        bytes[..common] == start[..common]
    };
    match () {
        () if begins_like(SIGNATURE) => read_version_2(bytes),
        () if begins_like(LINE_START) => read_version_1(bytes),
        () => Err(Malformed),
    }
}

/// `PROXY TCP4 203.0.113.7 10.0.0.1 51234 443`, or `PROXY UNKNOWN` and anything.
fn read_version_1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let line = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if line.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Malformed) };
    };
    let text = std::str::from_utf8(&line[LINE_START.len()..end]).map_err(|_| Malformed)?;
    let parts: Vec<&str> = text.split(' ').collect();
    let client = match parts[..] {
        ["UNKNOWN", ..] => None,
        ["TCP4", source, destination, port, to] => Some(client_of::<Ipv4Addr>(source, destination, port, to)?),
        ["TCP6", source, destination, port, to] => Some(client_of::<Ipv6Addr>(source, destination, port, to)?),
        _ => return Err(Malformed),
    };
    Ok(Some(Header { client, length: end + 2 }))
}

fn client_of<A: std::str::FromStr + Into<IpAddr>>(
    source: &str,
    destination: &str,
    port: &str,
    to: &str,
) -> Result<SocketAddr, Malformed> {
    let address = |text: &str| text.parse::<A>().map_err(|_| Malformed);
    let port_of = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| is_number).ok_or(Malformed)
    };
    let (client, port) = (address(source)?, port_of(port)?);
    address(destination)?;
    port_of(to)?;
    Ok(SocketAddr::new(client.into(), port))
}

fn read_version_2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else { return Ok(None) };
    let (command, family) = (fixed[12], fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    // Version 2: PROXY, or LOCAL. A family is a stream's; what it is of LOCAL is nobody's business.
    let needs = match (command, family) {
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        (0x21, 0x31) => 216,
        _ => return Err(Malformed),
    };
    if length < needs || FIXED_BYTES + length > HEADER_BYTES_MAX {
        return Err(Malformed);
    }
    let Some(addresses) = rest.get(..length) else { return Ok(None) };
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    // Extensions follow the addresses: skipped.
    let client = match (command, family) {
        (0x21, 0x11) => {
            let [a, b, c, d, ..] = *addresses else { return Err(Malformed) };
            Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port(8)))
        }
        (0x21, 0x21) => {
            let (address, _) = addresses.split_first_chunk::<16>().ok_or(Malformed)?;
            Some(SocketAddr::new(Ipv6Addr::from(*address).into(), port(32)))
        }
        _ => None,
    };
    Ok(Some(Header { client, length: FIXED_BYTES + length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2.
    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[test]
    fn headers_name_the_client_wherever_they_are_cut() {
        let v4 = [203, 0, 113, 7, 10, 0, 0, 1, 0xc8, 0x22, 1, 0xbb];
        let with_extension = [&v4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 1;
        v6[32..].copy_from_slice(&[0xc8, 0x22, 1, 0xbb]);
        let rows: [(Vec<u8>, Option<&str>); 11] = [
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 443\r\n".into(), Some("203.0.113.7:51234")),
            (b"PROXY TCP6 2001:db8::1 ::1 51234 443\r\n".into(), Some("[2001:db8::1]:51234")),
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 0 65535\r\n".into(), Some("203.0.113.7:0")),
            (b"PROXY UNKNOWN\r\n".into(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".into(), None),
            (version_2(0x21, 0x11, &v4), Some("203.0.113.7:51234")),
            (version_2(0x21, 0x11, &with_extension), Some("203.0.113.7:51234")),
            (version_2(0x21, 0x21, &v6), Some("[2001:db8::1]:51234")),
            (version_2(0x20, 0x00, &[]), None),
            (version_2(0x20, 0x11, &v4), None),
            (version_2(0x21, 0x31, &[0; 216]), None),
        ];
        for (header, client) in rows {
            let client = client.map(|client| client.parse().expect("an address"));
            let whole = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            let expected = Header { client, length: header.len() };
            assert_eq!(read(&whole), Ok(Some(expected)), "{}", header.escape_ascii());
            for cut in 0..header.len() {
                assert_eq!(read(&header[..cut]), Ok(None), "{} at {cut}", header.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; LINE_BYTES_MAX]].concat();
        let rows: [Vec<u8>; 22] = [
            b"GET / HTTP/1.1\r\n".into(),
            b"PROXY\r\n".into(),
            b"proxy TCP4".into(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 51234\r\n".into(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 443 \r\n".into(),
            b"PROXY TCP4  203.0.113.7 10.0.0.1 51234 443\r\n".into(),
            b"PROXY TCP4 2001:db8::1 ::1 51234 443\r\n".into(),
            b"PROXY TCP6 203.0.113.7 10.0.0.1 51234 443\r\n".into(),
            b"PROXY TCP4 203.0.113.07 10.0.0.1 51234 443\r\n".into(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 65536 443\r\n".into(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 +1 443\r\n".into(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 01 443\r\n".into(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1  443\r\n".into(),
            b"PROXY UDP4 203.0.113.7 10.0.0.1 1 443\r\n".into(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 1 \xff\r\n".into(),
            long,
            b"\r\n\r\n\0\r\nQUIX".into(),
            version_2(0x11, 0x11, &[0; 12]), // version 1 in version 2's form
            version_2(0x22, 0x11, &[0; 12]), // no such command
            version_2(0x21, 0x12, &[0; 12]), // UDP
            version_2(0x21, 0x11, &[0; 11]),
            version_2(0x20, 0x00, &[0; HEADER_BYTES_MAX]),
        ];
        for header in rows {
            assert_eq!(read(&header), Err(Malformed), "{}", header.escape_ascii());
        }
    }
}
