//! A server that takes each checkpoint by HTTP POST.

use http::{Method, Request, Uri, header};

use super::config::{Http, endpoint};
use super::web::{Answer, Web};
use super::{Refusal, Signed, private_text};

/// Posts a checkpoint. After an answer that was lost it is posted again: the server may get one twice.
pub(super) fn post(config: &Http, web: &Web, signed: &Signed) -> Result<(), Refusal> {
    let answer = ask(config, web, Method::POST, signed.note.clone().into_bytes())?;
    match answer.status.is_success() {
        true => Ok(()),
        false => Err(answer.refusal(format!("it answers {}", answer.status))),
    }
}

/// Whether it is there, and takes the token. HEAD changes nothing; what it is answered is the server's affair.
pub(super) fn look(config: &Http) -> Result<String, String> {
    let answer = ask(config, &Web::new(&config.ca)?, Method::HEAD, Vec::new())?;
    match answer.status.as_u16() {
        401 | 403 | 407 => Err(format!("it answers {} to HEAD: see token_file", answer.status)),
        500.. => Err(format!("it answers {} to HEAD", answer.status)),
        _ => Ok(format!(
            "reached; it answers {} to HEAD, and whether it takes checkpoints shows the first",
            answer.status
        )),
    }
}

fn ask(config: &Http, web: &Web, method: Method, body: Vec<u8>) -> Result<Answer, String> {
    let uri: Uri = endpoint(&config.url)?;
    let mut request = Request::builder().method(method).uri(uri);
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
    }
    if !config.token_file.as_os_str().is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", private_text(&config.token_file)?));
    }
    web.ask(request.body(body).map_err(|error| error.to_string())?)
}
