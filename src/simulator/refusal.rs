//! How GMS says no: the codes, the shapes they come in by release, and the entry each leaves in the account.
//! It knows what errors look like, not when they are due.

use serde_json::{Map, Value, json};

use super::ErrorFormat;
use super::account::IssuedError;

/// One entry of `errors[]`, or of `fields{}` in the old format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) code: u16,
    pub(super) field: &'static str,
    pub(super) advice: Option<String>,
}

impl Complaint {
    pub(super) fn new(code: u16, field: &'static str) -> Self {
        Self { code, field, advice: None }
    }

    pub(super) fn advising(code: u16, field: &'static str, advice: impl Into<String>) -> Self {
        Self { code, field, advice: Some(advice.into()) }
    }

    fn json(&self) -> Value {
        match &self.advice {
            Some(advice) => json!({"code": self.code, "advice": advice}),
            None => json!({"code": self.code}),
        }
    }

    fn sentence(&self) -> &'static str {
        match self.code {
            102 | 103 if self.field == "nickname" => "either nickname or firstName and lastName should be supplied",
            100..200 => "missing",
            _ => "invalid",
        }
    }
}

/// Why an operation was not executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// HTTP 400: what is missing, out of range or malformed.
    Invalid(Vec<Complaint>),
    /// HTTP 404 with code 306: no such service.
    UnknownService,
    /// statusCode 2 inside HTTP 200. `ended` is absent where the session is not the caller's to know of.
    Final { complaint: Complaint, ended: Option<bool> },
    /// A bare statusCode 1 inside HTTP 200: try again.
    Temporary,
}

/// A refusal as it goes onto the wire, and what the account says of it.
#[derive(Debug)]
pub(super) struct Spoken {
    pub(super) http_status: u16,
    pub(super) body: Map<String, Value>,
    pub(super) issued: Vec<IssuedError>,
}

impl Refusal {
    /// As a REST answer.
    pub(super) fn over_rest(&self, format: ErrorFormat) -> Spoken {
        match self {
            Self::Invalid(complaints) => validation(400, complaints, format),
            Self::UnknownService => validation(404, &[Complaint::new(306, "serviceName")], format),
            Self::Final { complaint, ended } => failed(complaint, *ended),
            Self::Temporary => temporary(),
        }
    }

    /// As the data of a CometD delivery, which has no HTTP status of its own.
    pub(super) fn over_cometd(&self) -> Spoken {
        let mut spoken = self.over_rest(ErrorFormat::New);
        if spoken.http_status != 200 {
            spoken.body.insert("statusCode".into(), json!(2));
            spoken.issued.iter_mut().for_each(|error| error.status_code = Some(2));
        }
        spoken.http_status = 200;
        spoken.issued.iter_mut().for_each(|error| error.http_status = 200);
        spoken
    }
}

fn validation(http_status: u16, complaints: &[Complaint], format: ErrorFormat) -> Spoken {
    // The old format has no place for a code: only what a parameter can be blamed for is said in it.
    let old = format == ErrorFormat::Old && complaints.iter().all(|complaint| !complaint.field.is_empty());
    let issued = |complaint: &Complaint| IssuedError {
        code: (!old).then_some(complaint.code),
        field: old.then(|| complaint.field.to_owned()),
        advice: complaint.advice.clone().filter(|_| !old),
        reference_id: complaint.advice.as_deref().and_then(reference_id),
        http_status,
        ..IssuedError::default()
    };
    let body = if old {
        let fields: Map<_, _> = complaints.iter().map(|c| (c.field.to_owned(), json!(c.sentence()))).collect();
        json!({"error": "validationError", "fields": fields})
    } else {
        json!({"errors": complaints.iter().map(Complaint::json).collect::<Vec<_>>()})
    };
    let mut issued: Vec<IssuedError> = complaints.iter().map(issued).collect();
    // Two complaints about one field are one entry of `fields`.
    issued.dedup_by(|later, earlier| old && later.field == earlier.field);
    Spoken { http_status, body: members(body), issued }
}

fn failed(complaint: &Complaint, ended: Option<bool>) -> Spoken {
    let mut spoken = validation(200, std::slice::from_ref(complaint), ErrorFormat::New);
    spoken.body.insert("statusCode".into(), json!(2));
    if let Some(ended) = ended {
        spoken.body.insert("chatEnded".into(), json!(ended));
    }
    spoken.issued.iter_mut().for_each(|error| error.status_code = Some(2));
    spoken
}

fn temporary() -> Spoken {
    let issued = IssuedError { http_status: 200, status_code: Some(1), ..IssuedError::default() };
    Spoken { http_status: 200, body: members(json!({"statusCode": 1})), issued: vec![issued] }
}

pub(super) fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// The reference ID of the advices written here: the last run of digits.
fn reference_id(advice: &str) -> Option<String> {
    if !advice.to_ascii_lowercase().contains("referenceid") {
        return None;
    }
    advice.rsplit(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty()).map(str::to_owned)
}

/// Code 240, as the page describes it: the advice includes the ReferenceID.
pub(super) fn unexpected(reference: u64) -> Complaint {
    Complaint::advising(240, "", format!("An unexpected error occurred. ReferenceID: {reference}"))
}

/// Code 249, in the words of the one advice that was seen in the wild.
pub(super) fn media_server(reference: u64) -> Complaint {
    Complaint::advising(249, "", format!("Media server was not able to execute request. referenceId[{reference}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(refusal: Refusal, format: ErrorFormat, status: u16, body: Value, references: &[Option<&str>]) {
        let spoken = refusal.over_rest(format);
        assert_eq!((spoken.http_status, Value::Object(spoken.body)), (status, body), "{refusal:?}");
        let issued: Vec<_> = spoken.issued.iter().map(|error| error.reference_id.as_deref()).collect();
        assert_eq!(issued, references, "{refusal:?}");
    }

    #[test]
    fn errors_have_the_shapes_of_the_page() {
        let names = || Refusal::Invalid(vec![Complaint::new(102, "nickname"), Complaint::new(103, "nickname")]);
        let sentence = "either nickname or firstName and lastName should be supplied";
        let old = json!({"error": "validationError", "fields": {"nickname": sentence}});
        check(names(), ErrorFormat::New, 400, json!({"errors": [{"code": 102}, {"code": 103}]}), &[None, None]);
        check(names(), ErrorFormat::Old, 400, old, &[None]);
        check(Refusal::UnknownService, ErrorFormat::New, 404, json!({"errors": [{"code": 306}]}), &[None]);
        check(Refusal::Temporary, ErrorFormat::New, 200, json!({"statusCode": 1}), &[None]);
        let advice = "Media server was not able to execute request. referenceId[10016629]";
        let body = json!({"errors": [{"code": 249, "advice": advice}], "statusCode": 2, "chatEnded": true});
        let failed = Refusal::Final { complaint: media_server(10_016_629), ended: Some(true) };
        check(failed, ErrorFormat::Old, 200, body, &[Some("10016629")]);
        let body = json!({"errors": [{"code": 240, "advice": "An unexpected error occurred. ReferenceID: 10016630"}]});
        check(Refusal::Invalid(vec![unexpected(10_016_630)]), ErrorFormat::Old, 400, body, &[Some("10016630")]);
    }

    #[test]
    fn over_cometd_the_status_is_in_the_data() {
        let spoken = Refusal::Invalid(vec![Complaint::new(153, "secureKey")]).over_cometd();
        assert_eq!(Value::Object(spoken.body), json!({"errors": [{"code": 153}], "statusCode": 2}));
        assert_eq!((spoken.issued[0].http_status, spoken.issued[0].status_code), (200, Some(2)));
    }
}
