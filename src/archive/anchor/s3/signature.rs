//! AWS Signature Version 4 in the Authorization field, as S3 wants it: of a request whose path and query are made of
//! characters that need no escaping.

use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::archive::export::hex;
use crate::archive::private;

/// Who asks. It cannot be printed.
pub(super) struct Credentials {
    access_key: String,
    secret_key: String,
    session_token: Option<String>,
}

impl Credentials {
    /// From a file as `~/.aws/credentials` (its first profile); without one, from the environment.
    ///
    /// # Errors
    /// What is wrong, without a word of what was read.
    pub fn read(file: &Path) -> Result<Self, String> {
        if file.as_os_str().is_empty() {
            let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            let found = Self::of(|name| variable(&name.to_ascii_uppercase()));
            return found
                .ok_or("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, and no credentials file is".into());
        }
        let bytes = private::read(file)?;
        let text = String::from_utf8_lossy(&bytes);
        let profile = |line: &&str| !line.trim_start().starts_with('[');
        let lines: Vec<&str> = text.lines().skip_while(|line| !profile(line)).take_while(profile).collect();
        let value = |name: &str| {
            let (_, value) =
                lines.iter().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == name)?;
            Some(value.trim().to_owned())
        };
        let wanted = || format!("{} has no aws_access_key_id and aws_secret_access_key", file.display());
        Self::of(value).ok_or_else(wanted)
    }

    fn of(value: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let (access_key, secret_key) = (value("aws_access_key_id")?, value("aws_secret_access_key")?);
        Some(Self { access_key, secret_key, session_token: value("aws_session_token") })
    }
}

/// Signs all of a request, of whose body this is the SHA-256 in hex: its fields get their Authorization, and what goes with it.
///
/// # Errors
/// A credential that no field can carry.
pub(super) fn sign<B>(
    request: &mut Request<B>,
    content: &str,
    credentials: &Credentials,
    region: &str,
    now: Timestamp,
) -> Result<(), String> {
    let host = request.uri().authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let at = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut fields =
        vec![(HOST.as_str(), host), ("x-amz-date", at.clone()), ("x-amz-content-sha256", content.to_owned())];
    fields.extend(credentials.session_token.iter().map(|token| ("x-amz-security-token", token.clone())));
    for (name, value) in fields {
        insert(request, HeaderName::from_static(name), &value)?;
    }
    let (signed, canonical) = canonical(request, content);
    let scope = format!("{}/{region}/s3/aws4_request", &at[..8]);
    let to_sign = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let first = format!("AWS4{}", credentials.secret_key).into_bytes();
    let key = scope.split('/').fold(first, |key, part| mac(&key, part));
    let (who, signature) = (&credentials.access_key, hex(&mac(&key, &to_sign)));
    let value = format!("AWS4-HMAC-SHA256 Credential={who}/{scope}, SignedHeaders={signed}, Signature={signature}");
    insert(request, AUTHORIZATION, &value)
}

fn insert<B>(request: &mut Request<B>, name: HeaderName, value: &str) -> Result<(), String> {
    let mut value = HeaderValue::from_str(value).map_err(|_| "a credential has characters that none may have")?;
    value.set_sensitive(name == AUTHORIZATION);
    request.headers_mut().insert(name, value);
    Ok(())
}

/// The names of all fields, and the canonical request.
fn canonical<B>(request: &Request<B>, content: &str) -> (String, String) {
    let fields = request.headers().iter();
    let mut fields: Vec<_> = fields.map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default())).collect();
    fields.sort_unstable();
    let signed = fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = fields.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let (method, path) = (request.method(), request.uri().path());
    // A name without a value has an empty one.
    let query = request.uri().query().map(|name| format!("{name}=")).unwrap_or_default();
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{signed}\n{content}");
    (signed, canonical)
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.chain_update(text).finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

    fn example() -> Credentials {
        let (access_key, secret_key) = ("AKIAIOSFODNN7EXAMPLE".into(), SECRET.into());
        Credentials { access_key, secret_key, session_token: None }
    }

    /// "Authenticating Requests: Using the Authorization Header" of the S3 API reference: its GET of an object, and of a
    /// bucket's lifecycle.
    #[test]
    fn signatures_are_those_of_the_documentation() {
        let rows = [
            (
                "https://examplebucket.s3.amazonaws.com/test.txt",
                Some(("range", "bytes=0-9")),
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                "https://examplebucket.s3.amazonaws.com/?lifecycle",
                None,
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
        ];
        for (uri, field, signature) in rows {
            let mut request = Request::get(uri).body(()).expect("a sound request");
            if let Some((name, value)) = field {
                request.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            let now = "2013-05-24T00:00:00Z".parse().expect("a time");
            sign(&mut request, &hex(&Sha256::digest([])), &example(), "us-east-1", now).expect("signed");
            let value = request.headers()[AUTHORIZATION].to_str().expect("text");
            assert!(value.ends_with(&format!("Signature={signature}")), "{uri}: {value}");
        }
    }

    #[test]
    fn credentials_are_read_from_a_private_file_and_never_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("credentials");
        let check = |text: &str, wanted: Option<(&str, &str, Option<&str>)>| {
            std::fs::write(&file, text).expect("the folder is ours");
            std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("the file is ours");
            match Credentials::read(&file) {
                Ok(read) => {
                    let found = (&*read.access_key, &*read.secret_key, read.session_token.as_deref());
                    assert_eq!(Some(found), wanted, "{text}");
                }
                Err(said) => assert!(wanted.is_none() && !said.contains("SECRET"), "{text}: {said}"),
            }
        };
        check("[default]\naws_access_key_id = A\naws_secret_access_key=SECRET\n", Some(("A", "SECRET", None)));
        check(
            "aws_access_key_id=A\naws_secret_access_key=SE=CRET\naws_session_token = T\n[other]\naws_access_key_id=B\n",
            Some(("A", "SE=CRET", Some("T"))),
        );
        check("[default]\naws_access_key_id = A\n[other]\naws_secret_access_key=SECRET\n", None);
        check("SECRET", None);
    }
}
