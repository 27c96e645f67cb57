//! What is told of an exchange: the audit, the findings, the metrics, the access log. Free of the secrets that it named (R5).

use std::net::IpAddr;
use std::sync::Arc;

use super::super::answer::{self, Reach, Refusal};
use super::super::body::Reply;
use super::super::file;
use super::super::limits;
use super::super::trail::Trail;
use super::{Asked, Gate};
use crate::chat::{ChatId, Secret};
use crate::gms::files::{Direction, FileRequest, Outcome};
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
        let route = Route::parse(method, &path, &self.config.base_path);
        let error = answer::audited(refusal, Reach::NotForwarded, None, &route);
        let facts = ExchangeFacts {
            method: method.into(),
            path: path.clone(),
            client: client.to_string(),
            ..ExchangeFacts::default()
        };
        self.recorder.audit(error, &facts.into());
    }
}

impl Asked<'_> {
    /// A row in the audit. A client may have put its key anywhere in the path.
    pub(super) fn audit(&self, mut error: ApiError) {
        let secrets = self.secrets();
        error.chat_id = error.chat_id.filter(|id| !is_among(&secrets, id));
        scrub_words([&mut error.service, &mut error.operation].into_iter().flatten(), &secrets);
        self.gate.recorder.audit(error, &self.facts());
    }

    pub(super) fn find(&self, mut finding: Finding) {
        finding.chat_id = finding.chat_id.filter(|id| !is_among(&self.secrets(), id));
        self.gate.recorder.find(finding, &self.facts());
    }

    /// The files of the request's form, once: their rows, with what became of them.
    pub(super) fn tell_files(&self, became: impl FnOnce() -> (Option<String>, Outcome)) {
        let files = self.request.upload.take_files();
        if files.is_empty() {
            return;
        }
        let (file_id, became) = became();
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

    /// What is kept of the exchange with an error or a finding: free of the secrets that it named (R5).
    pub(super) fn facts(&self) -> Arc<ExchangeFacts> {
        self.note(Trail::audited);
        let (path, request_id) = self.clean_words();
        Arc::new(ExchangeFacts {
            method: self.request.head.method().into(),
            path,
            node: self.node.borrow().clone(),
            client: self.client.to_string(),
            request_id,
            trace_id: self.noted.trace_id.map(String::from),
            duration_ms: self.request.began.elapsed().as_millis() as i64,
        })
    }

    /// The path and the request's id.
    pub(super) fn clean_words(&self) -> (String, Option<String>) {
        let mut path = self.request.target.path.to_string();
        let mut request_id = self.noted.request_id.map(String::from);
        scrub_path_parameters(&mut path);
        scrub_words([&mut path].into_iter().chain(&mut request_id), &self.secrets());
        (path, request_id)
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

fn is_among(secrets: &[Secret], id: &ChatId) -> bool {
    secrets.iter().any(|secret| secret.expose() == id.as_str())
}
