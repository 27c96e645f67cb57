//! The parameters of a request, however they were sent: a form, multipart, JSON, or a Bayeux message's data.
//! It reads what is there and judges nothing.

use bytes::Bytes;
use memchr::memmem;
use serde_json::{Map, Value};

/// A file inside a multipart body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upload {
    pub(super) name: String,
    pub(super) content: Bytes,
}

/// Named values in the order they came, and files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Params {
    fields: Vec<(String, String)>,
    pub(super) files: Vec<Upload>,
}

impl Params {
    /// Reads a body by its content type; a body that opens with a brace is JSON under any type, since clients do that.
    pub(super) fn parse(content_type: &str, body: &Bytes) -> Self {
        if let Some(boundary) = boundary(content_type) {
            return Self::from_multipart(&boundary, body);
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => Self::from_json(&members),
            _ => Self { fields: form_urlencoded::parse(body).into_owned().collect(), files: Vec::new() },
        }
    }

    /// Objects are flattened the way forms write them: `userData[key]`.
    pub(super) fn from_json(members: &Map<String, Value>) -> Self {
        let mut params = Self::default();
        for (name, value) in members {
            match value {
                Value::Object(inner) => {
                    params.fields.extend(inner.iter().map(|(key, value)| (format!("{name}[{key}]"), plain(value))));
                }
                value => params.fields.push((name.clone(), plain(value))),
            }
        }
        params
    }

    fn from_multipart(boundary: &str, body: &Bytes) -> Self {
        let mut params = Self::default();
        for part in parts(boundary, body) {
            let Some(blank) = memmem::find(&part, b"\r\n\r\n") else { continue };
            let (head, content) = (String::from_utf8_lossy(&part[..blank]).into_owned(), part.slice(blank + 4..));
            match (attribute(&head, "name"), attribute(&head, "filename")) {
                (_, Some(name)) => params.files.push(Upload { name, content }),
                (Some(name), None) => params.fields.push((name, String::from_utf8_lossy(&content).into_owned())),
                (None, None) => {}
            }
        }
        params
    }

    /// The first value of this name; an empty one counts as not given (widgets send `secureKey=` on the first request).
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let given = |(key, value): &&(String, String)| key == name && !value.is_empty();
        self.fields.iter().find(given).map(|(_, value)| value.as_str())
    }

    /// `transcriptPosition`, where it is a number.
    pub(super) fn position(&self) -> Option<u64> {
        self.text("transcriptPosition")?.trim().parse().ok()
    }

    /// The pairs written `userData[key]=value`.
    pub(super) fn user_data(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().filter_map(|(name, value)| {
            let key = name.strip_prefix("userData[")?.strip_suffix(']')?;
            Some((key, value.as_str()))
        })
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn boundary(content_type: &str) -> Option<String> {
    let is_multipart = content_type.trim_start().to_ascii_lowercase().starts_with("multipart/");
    is_multipart.then(|| attribute(content_type, "boundary")).flatten()
}

/// The value of `name=` or `name="…"` among the `;`-separated attributes of a header.
fn attribute(header: &str, name: &str) -> Option<String> {
    header.split([';', '\r', '\n']).find_map(|piece| {
        let (key, value) = piece.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// The parts between the delimiters, each without the line break that belongs to the delimiter after it.
fn parts(boundary: &str, body: &Bytes) -> Vec<Bytes> {
    let delimiter = format!("--{boundary}");
    let starts: Vec<usize> = memmem::find_iter(body, delimiter.as_bytes()).collect();
    let between = starts.windows(2).map(|pair| (pair[0] + delimiter.len() + 2, pair[1].saturating_sub(2)));
    between.filter(|(from, to)| from <= to).map(|(from, to)| body.slice(from..to)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MULTIPART: &str = "--XX\r\nContent-Disposition: form-data; name=\"nickname\"\r\n\r\nAnna\r\n--XX\r\n\
        Content-Disposition: form-data; name=\"userData[TimeZone]\"\r\n\r\n-480\r\n--XX--\r\n";

    #[test]
    fn every_way_of_sending_reads_the_same() {
        let rows = [
            ("application/x-www-form-urlencoded", "nickname=Anna&userData%5BTimeZone%5D=-480&alias="),
            ("application/json", r#"{"nickname":"Anna","userData":{"TimeZone":-480},"alias":null}"#),
            ("application/x-www-form-urlencoded", r#"{"nickname":"Anna","userData":{"TimeZone":"-480"}}"#),
            ("multipart/form-data; boundary=XX", MULTIPART),
            ("Multipart/Form-Data; charset=utf-8; boundary=\"XX\"", MULTIPART),
        ];
        for (content_type, body) in rows {
            let params = Params::parse(content_type, &Bytes::from_static(body.as_bytes()));
            assert_eq!(params.text("nickname"), Some("Anna"), "{content_type} {body}");
            assert_eq!(params.user_data().collect::<Vec<_>>(), [("TimeZone", "-480")], "{content_type} {body}");
            assert_eq!(params.text("alias"), None, "{content_type} {body}");
        }
    }

    #[test]
    fn files_keep_their_bytes() {
        let body = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n\r\n\r\n\x00\xff\r\n\r\n--b--";
        let params = Params::parse("multipart/form-data; boundary=b", &Bytes::from_static(body));
        assert_eq!(params.files, [Upload { name: "a.png".into(), content: Bytes::from_static(b"\r\n\x00\xff\r\n") }]);
    }

    #[test]
    fn nonsense_is_no_parameters() {
        for (content_type, body) in
            [("multipart/form-data; boundary=b", "--b"), ("multipart/form-data", ""), ("", "[1]")]
        {
            let params = Params::parse(content_type, &Bytes::from_static(body.as_bytes()));
            assert_eq!((params.text("nickname"), params.files.len()), (None, 0), "{content_type} {body}");
        }
    }
}
