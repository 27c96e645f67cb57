//! What a certificate says of itself: for people, for the days it has left, for the order of a chain. Verifies nothing.

use std::net::IpAddr;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::time::Time;

const SECONDS_A_DAY: i64 = 86_400;

/// Of one X.509 certificate (RFC 5280).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Such as `CN=chat.example.com,O=Example` (RFC 4514); may be empty where there are names.
    pub subject: String,
    /// Who signed it, written alike.
    pub issuer: String,
    /// The DNS names and addresses it stands for, from its subjectAltName.
    pub names: Vec<String>,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

impl Facts {
    /// Reads them; none where the certificate is not in DER or not in X.509's shape.
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let content = certificate.tbs_certificate();
        let names = content.get_extension::<SubjectAltName>().ok()?;
        Some(Self {
            subject: content.subject().to_string(),
            issuer: content.issuer().to_string(),
            names: names.map(|(_, names)| names.0.iter().filter_map(name).collect()).unwrap_or_default(),
            not_before: timestamp(content.validity().not_before),
            not_after: timestamp(content.validity().not_after),
        })
    }

    /// Whole days until it is no longer valid; negative once it is not.
    pub fn days_left(&self, now: Timestamp) -> i64 {
        (self.not_after.as_second() - now.as_second()).div_euclid(SECONDS_A_DAY)
    }

    /// How urgent it is to renew it.
    pub fn urgency(&self, now: Timestamp) -> Urgency {
        match self.days_left(now) {
            ..0 => Urgency::Expired,
            0..=7 => Urgency::Week,
            8..=21 => Urgency::Weeks,
            _ => Urgency::None,
        }
    }
}

/// How soon a certificate has to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// There is time.
    None,
    /// 21 days or less: what renews by itself (ACME: 30 days before) should have done so.
    Weeks,
    /// 7 days or less.
    Week,
    /// Too late.
    Expired,
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(octets) => address(octets.as_bytes()).map(|address| address.to_string()),
        _ => None, // no server is called by the other kinds
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// "Without end" is written as the last second of 9999 (RFC 5280 section 4.1.2.5), which is more than a timestamp takes.
fn timestamp(time: Time) -> Timestamp {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn facts_are_read() {
        let check = |names: &[&str], subject: &str, days: i64| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let mut params = CertificateParams::new(names.clone()).expect("sound names");
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, subject);
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs(days as u64 * SECONDS_A_DAY as u64);
            params.not_after = end.into();
            let made = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
            let facts = Facts::read(made.der()).expect("rcgen writes X.509");
            assert_eq!(facts.names, names);
            assert_eq!(facts.subject, format!("CN={subject}"));
            assert_eq!(facts.issuer, facts.subject);
            assert_eq!(facts.not_after.as_second(), days * SECONDS_A_DAY);
        };
        check(&["chat.example.com", "*.example.com"], "chat", 20_000);
        check(&["10.0.0.1", "2001:db8::1"], "", 40_000); // after 2049 dates are written otherwise
        check(&[], "no names", 1);
        assert_eq!(Facts::read(&CertificateDer::from(&b"no certificate"[..])), None);
    }

    #[test]
    fn the_last_days_are_urgent() {
        let day = |days: i64| Timestamp::from_second(days * SECONDS_A_DAY).expect("in range");
        let facts = Facts {
            subject: String::new(),
            issuer: String::new(),
            names: Vec::new(),
            not_before: day(0),
            not_after: day(100),
        };
        let rows = [
            (0, 100, Urgency::None),
            (78, 22, Urgency::None),
            (79, 21, Urgency::Weeks),
            (92, 8, Urgency::Weeks),
            (93, 7, Urgency::Week),
            (100, 0, Urgency::Week),
            (101, -1, Urgency::Expired),
        ];
        for (today, days_left, urgency) in rows {
            assert_eq!((facts.days_left(day(today)), facts.urgency(day(today))), (days_left, urgency), "day {today}");
        }
    }
}
