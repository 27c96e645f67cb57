//! What is told of an exchange: the audit, the findings, the metrics, the access log. Free of the secrets that it named
//! (R5), and masked.

use std::net::IpAddr;
use std::sync::Arc;

use super::super::answer::{self, Reach, Refusal};
use super::super::body::Reply;
use super::super::file;
use super::super::limits;
use super::super::trail::Trail;
use super::{Asked, Gate};
use crate::chat::{ChatId, Secret};
use crate::gms::files::{Direction, FileRequest, Outcome, is_of_fields};
use crate::gms::mask::Masks;
use crate::gms::request::{secrets_of, secrets_of_query};
use crate::gms::scrub::{scrub_path_parameters, scrub_words};
use crate::gms::{ApiError, Finding, Route};
use crate::store::ExchangeFacts;

impl Gate {
    /// Counts and audits a client that is refused before its request can be forwarded.
    pub fn turn_away(&self, refusal: Refusal, client: IpAddr, method: &str, target: &str) {
        limits::behind(refusal).into_iter().for_each(|limit| self.metrics.reached(limit));
        // What is no path may hold anything, a password before a host too.
        let is_path = target.starts_with('/') && target.len() <= self.limits.target_bytes_max;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut path = path.to_string();
        if !is_path {
            path.clear();
        }
        scrub_path_parameters(&mut path);
        scrub_words([&mut path], &secrets_of_query(query));
        let mut method = method.to_string();
        let maskings = self.masks().words([("method", &mut method), ("path", &mut path)]);
        let route = Route::parse(&method, &path, &self.config.base_path);
        let error = answer::audited(refusal, Reach::NotForwarded, None, &route);
        let facts = ExchangeFacts {
            method: method.clone(),
            path: path.clone(),
            client: client.to_string(),
            maskings,
            ..ExchangeFacts::default()
        };
        self.recorder.audit(error, &facts.into());
    }

    pub(super) fn masks(&self) -> &Masks {
        &self.recorder.policy().masks
    }
}

impl Asked<'_> {
    /// A row in the audit. A client may have put its key anywhere in the path.
    pub(super) fn audit(&self, mut error: ApiError) {
        let secrets = self.secrets();
        error.chat_id = error.chat_id.filter(|id| self.is_public(&secrets, id));
        scrub_words([&mut error.service, &mut error.operation].into_iter().flatten(), &secrets);
        error.mask(self.gate.masks());
        self.gate.recorder.audit(error, &self.facts());
    }

    pub(super) fn find(&self, mut finding: Finding) {
        finding.chat_id = finding.chat_id.filter(|id| self.is_public(&self.secrets(), id));
        self.gate.recorder.find(finding, &self.facts());
    }

    /// The files of the request, once: their rows, with what became of them.
    pub(super) fn tell_files(&self, became: impl FnOnce() -> (Option<String>, Outcome)) {
        let files = self.request.upload.take_files();
        if files.is_empty() {
            return;
        }
        let (file_id, became) = became();
        if became != Outcome::Complete && is_of_fields(self.noted.content_type.unwrap_or_default()) {
            return;
        }
        let chat = self.file_request().and_then(|request| request.chat);
        for file in files {
            let outcome = if file.is_whole || became != Outcome::Complete { became } else { Outcome::BrokenOff };
            let row = file::transfer(Direction::Up, file_id.clone(), &file.hashed, outcome);
            self.gate.recorder.transferred(chat.as_ref(), row, self.node.borrow().clone());
        }
    }

    /// What the request asks of a file, if it does.
    pub(super) fn file_request(&self) -> Option<FileRequest> {
        let kept = self.request.upload.kept();
        FileRequest::read(&self.said(&kept), self.request.target.path, self.gate.recorder.policy())
    }

    /// Whether what stands in a chat's place names no secret and no card.
    fn is_public(&self, secrets: &[Secret], id: &ChatId) -> bool {
        !secrets.iter().any(|secret| secret.expose() == id.as_str()) && !self.gate.masks().is_card(id.as_str())
    }

    /// What is kept of the exchange with an error or a finding: free of the secrets that it named (R5), and masked.
    pub(super) fn facts(&self) -> Arc<ExchangeFacts> {
        self.note(Trail::audited);
        Arc::new(ExchangeFacts {
            node: self.node.borrow().clone(),
            client: self.client.to_string(),
            trace_id: self.noted.trace_id.map(String::from),
            duration_ms: self.request.began.elapsed().as_millis() as i64,
            ..self.clean_words()
        })
    }

    /// The method, the path and the request's id; of everything else nothing.
    pub(super) fn clean_words(&self) -> ExchangeFacts {
        let mut method = self.request.head.method().to_string();
        let mut path = self.request.target.path.to_string();
        let mut request_id = self.noted.request_id.map(String::from);
        scrub_path_parameters(&mut path);
        scrub_words([&mut path].into_iter().chain(&mut request_id), &self.secrets());
        let words = [("method", &mut method), ("path", &mut path)].into_iter();
        let words = words.chain(request_id.as_mut().map(|request_id| ("request_id", request_id)));
        let maskings = self.gate.masks().words(words);
        ExchangeFacts { method, path, request_id, maskings, ..ExchangeFacts::default() }
    }

    /// All that its client named.
    fn secrets(&self) -> Vec<Secret> {
        let mut secrets = self.noted.request_credentials();
        secrets.extend(self.secrets_said());
        secrets
    }

    /// The secrets in query and body.
    fn secrets_said(&self) -> Vec<Secret> {
        secrets_of(&self.said(&self.request.upload.kept()))
    }

    /// For the access log, if there is one.
    pub(super) fn note(&self, notice: impl FnOnce(&Trail)) {
        if let Some(trail) = self.request.trail {
            notice(trail);
        }
    }

    /// What it is told in any case, whatever became of the exchange.
    pub(super) fn tell(&self) {
        self.note(|trail| {
            trail.routed(&self.route);
            trail.learn(self.secrets_said());
        });
    }

    pub(super) fn count(&self, reply: &Reply) {
        let counted = self.gate.tally.of(self.route.class);
        counted.answered(reply.head().status(), self.request.began.elapsed());
    }
}
