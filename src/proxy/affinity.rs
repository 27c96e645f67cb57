//! The affinity cookie: a CometD session's node, in the client's own keeping, so that several proxies agree on it without
//! talking. And what is added to the nodes' own cookies. Bytes in, bytes out: knows neither nodes nor connections.
//!
//! The value is `<node>~<MAC>`: HMAC-SHA-256 under a key that the proxies share, its first 16 bytes in base64url. A client
//! learns a node's name from it, and cannot make one up.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::nodes;
use crate::archive::private;

/// The cookie's name.
pub const COOKIE: &str = "gms_recorder_node";
/// What the key signs beside the name: it is good for nothing else.
const PURPOSE: &[u8] = b"gms-recorder node affinity 1\0";
/// 128 bits: nobody guesses them, and a cookie is sent with every request.
const MAC_BYTES: usize = 16;
/// A key that is shorter can be found by trying (RFC 2104, section 3: no less than the hash's length).
const KEY_BYTES_MIN: usize = 32;

/// What is done about cookies.
#[derive(Debug, Clone, Default)]
pub struct Cookies {
    /// With it, CometD sessions get the affinity cookie.
    pub key: Option<Key>,
    /// For the nodes' own.
    pub rules: Vec<Rule>,
}

impl Cookies {
    /// As configured.
    ///
    /// # Errors
    /// A sentence about a key that cannot be had, or a rule that cannot be read.
    pub fn of(config: &nodes::Config) -> Result<Self, String> {
        let has_key = !config.affinity_key.as_os_str().is_empty();
        let key = has_key.then(|| Key::read(&config.affinity_key)).transpose()?;
        let rules = config.cookie_attributes.iter().map(|text| Rule::parse(text)).collect::<Result<_, _>>()?;
        Ok(Self { key, rules })
    }
}

/// The key that the proxies of one cluster share.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// From a file that only its owner can read; line breaks at its end do not count.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = private::read(path)?;
        Self::new(bytes.trim_ascii_end()).ok_or_else(|| {
            let remedy = "`openssl rand -base64 48` makes a good one";
            format!("the key in {} has less than {KEY_BYTES_MIN} bytes; {remedy}", path.display())
        })
    }

    /// From its bytes; none where they are fewer than 32.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mac = Hmac::new_from_slice(bytes).ok()?.chain_update(PURPOSE);
        (bytes.len() >= KEY_BYTES_MIN).then_some(Self(mac))
    }

    /// The cookie's value for a node.
    pub fn sign(&self, node: &str) -> String {
        let mac = self.0.clone().chain_update(node).finalize().into_bytes();
        format!("{node}~{}", URL_SAFE_NO_PAD.encode(&mac[..MAC_BYTES]))
    }

    /// The node that a value names, if one of us wrote it. Takes as long for a wrong MAC as for a right one.
    pub fn verify<'a>(&self, value: &'a str) -> Option<&'a str> {
        let (node, mac) = value.rsplit_once('~')?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok().filter(|mac| mac.len() == MAC_BYTES)?;
        self.0.clone().chain_update(node).verify_truncated_left(&mac).ok()?;
        Some(node)
    }

    /// The whole `Set-Cookie` for a node. It is kept for as long as the browser runs, like GMS's own.
    ///
    /// Widgets live in pages of other sites: over TLS it goes along with their requests, each site having its own.
    pub fn set_cookie(&self, node: &str, base_path: &str, over_tls: bool) -> String {
        let value = self.sign(node);
        let attributes = if over_tls { "; SameSite=None; Secure; Partitioned" } else { "; SameSite=Lax" };
        format!("{COOKIE}={value}; Path={base_path}; HttpOnly{attributes}")
    }
}

/// What is added to the cookies of one name that nodes give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    name: String,
    attributes: Vec<String>,
}

impl Rule {
    /// Reads `NAME; Attribute; Attribute=value`.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_string();
        let attributes: Vec<String> = parts.map(String::from).collect();
        // RFC 6265, section 4.1.1: a name is a token, an attribute anything but controls and semicolons.
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        let is_attribute = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if is_name && !attributes.is_empty() && attributes.iter().all(is_attribute) {
            return Ok(Self { name, attributes });
        }
        Err(format!("\"{text}\" is not written as \"BAYEUX_BROWSER; SameSite=None; Secure; Partitioned\""))
    }
}

/// The value of a `Set-Cookie` with what its rule adds; none where no rule names its cookie.
///
/// Name, value and other attributes stay as they are, byte for byte. An attribute that is there already gets the rule's
/// value.
pub fn amended(set_cookie: &[u8], rules: &[Rule]) -> Option<Vec<u8>> {
    let mut parts = set_cookie.split(|byte| *byte == b';');
    let pair = parts.next()?;
    let name = pair.split(|byte| *byte == b'=').next()?.trim_ascii();
    let rule = rules.iter().find(|rule| rule.name.as_bytes() == name)?;
    let is_replaced = |part: &[u8]| rule.attributes.iter().any(|added| same_name(part, added.as_bytes()));
    let kept = std::iter::once(pair).chain(parts.filter(|part| !is_replaced(part)));
    let mut whole = kept.collect::<Vec<_>>().join(&b';');
    for attribute in &rule.attributes {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(attribute.as_bytes());
    }
    Some(whole)
}

/// Names of attributes know no case (RFC 6265, section 5.2).
fn same_name(one: &[u8], other: &[u8]) -> bool {
    let name =
        |attribute: &[u8]| attribute.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii().to_vec();
    name(one).eq_ignore_ascii_case(&name(other))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> Key {
        Key::new(&[byte; KEY_BYTES_MIN]).expect("it is long enough")
    }

    #[test]
    fn a_value_is_written_the_same_by_every_release() {
        assert_eq!(key(7).sign("gms-1"), "gms-1~9cz7UyDFszMRk6ORMGJSNA");
        assert_eq!(format!("{:?}", key(7)), "Key(…)");
        assert!(Key::new(&[7; KEY_BYTES_MIN - 1]).is_none());
    }

    #[test]
    fn only_what_was_signed_is_believed() {
        let value = key(7).sign("gms-1");
        let mac = value.rsplit_once('~').expect("it has a MAC").1;
        let rows = [
            (value.clone(), Some("gms-1")),
            (format!("gms-2~{mac}"), None),
            (format!("gms-1~{}", &mac[1..]), None),
            (format!("gms-1~{mac}A"), None),
            (format!("gms-1~{mac}="), None),
            ("gms-1~".into(), None),
            ("gms-1".into(), None),
            ("~".into(), None),
            (String::new(), None),
        ];
        for (value, node) in rows {
            assert_eq!(key(7).verify(&value), node, "{value}");
            assert_eq!(key(8).verify(&value), None, "{value} under another key");
        }
    }

    #[test]
    fn attributes_follow_the_client_s_connection() {
        let check = |base_path: &str, over_tls: bool, attributes: &str| {
            let cookie = key(7).set_cookie("gms-1", base_path, over_tls);
            assert_eq!(cookie, format!("gms_recorder_node={}; {attributes}", key(7).sign("gms-1")));
        };
        check("/genesys", true, "Path=/genesys; HttpOnly; SameSite=None; Secure; Partitioned");
        check("/", false, "Path=/; HttpOnly; SameSite=Lax");
    }

    #[test]
    fn named_cookies_are_amended_and_no_others() {
        let rules = ["BAYEUX_BROWSER; SameSite=None; Secure; Partitioned", "JSESSIONID; Path=/"];
        let rules = rules.map(|rule| Rule::parse(rule).expect("a rule"));
        let rows = [
            ("BAYEUX_BROWSER=a1", Some("BAYEUX_BROWSER=a1; SameSite=None; Secure; Partitioned")),
            (
                "BAYEUX_BROWSER=a1;Path=/x; samesite = lax ;HttpOnly",
                Some("BAYEUX_BROWSER=a1;Path=/x;HttpOnly; SameSite=None; Secure; Partitioned"),
            ),
            (" BAYEUX_BROWSER =a=b", Some(" BAYEUX_BROWSER =a=b; SameSite=None; Secure; Partitioned")),
            ("JSESSIONID=x; path=/genesys; HttpOnly", Some("JSESSIONID=x; HttpOnly; Path=/")),
            ("bayeux_browser=a1", None),
            ("OTHER=BAYEUX_BROWSER=1; BAYEUX_BROWSER=2", None),
            ("", None),
        ];
        for (given, wanted) in rows {
            let amended = amended(given.as_bytes(), &rules);
            assert_eq!(amended.as_deref(), wanted.map(str::as_bytes), "{given}");
        }
        for wrong in ["", "X", "X;", "X; ", "a b; Secure", "; Secure", "X; a\nb"] {
            assert!(Rule::parse(wrong).expect_err(wrong).contains("is not written as"));
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back_and_nothing_else_is_believed(name in "[A-Za-z0-9._:\\[\\]-]{1,60}", at in 0..100_usize, bit in 0..7_u32) {
            let value = key(7).sign(&name);
            prop_assert_eq!(key(7).verify(&value), Some(&*name));
            let mut forged = value.clone().into_bytes();
            let at = at % forged.len();
            forged[at] ^= 1 << bit;
            // Also in the last character's spare bits: there is one way to write a MAC.
            if let Ok(forged) = String::from_utf8(forged) {
                prop_assert!(key(7).verify(&forged).is_none(), "{}", forged);
            }
        }

        #[test]
        fn amending_keeps_the_pair_and_what_is_amended_stays(tail in "[ -~]{0,80}", value in "[!-:<-~]{0,20}") {
            let rules = [Rule::parse("C; SameSite=None; Secure").expect("a rule")];
            let once = amended(format!("C={value};{tail}").as_bytes(), &rules).expect("the rule names it");
            let start = format!("C={value}");
            prop_assert!(once.starts_with(start.as_bytes()));
            prop_assert_eq!(amended(&once, &rules), Some(once));
        }
    }
}
