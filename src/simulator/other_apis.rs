//! What else answers on a node: email, open media, Chat V1, each just far enough to be real. Chat V2 is not here.

use serde_json::{Value, json};

use super::faults::Fate;
use super::operations::is_address;
use super::params::Params;
use super::refusal::{Complaint, Refusal};
use super::rest::injected;
use super::wire::Answer;
use super::world::{Receipt, State, World};

/// An API beside Chat V2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api<'p> {
    /// `POST /genesys/2/email/{service}`
    Email { service: &'p str },
    /// `POST /genesys/2/openmedia/{service}`, and `/{interactionId}/{operation}` behind it.
    OpenMedia { service: &'p str, interaction: Option<&'p str> },
    /// `POST /genesys/1/service/request-chat`
    RequestChatV1,
}

impl Api<'_> {
    /// The name it is counted under.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Email { .. } => "email",
            Self::OpenMedia { .. } => "openmedia",
            Self::RequestChatV1 => "requestChatV1",
        }
    }
}

pub(super) fn answer(world: &World, node: usize, api: Api<'_>, params: &Params, fate: &Fate) -> Answer {
    let mut state = world.lock();
    let injected = fate.failure.and_then(|failure| injected(failure, &mut state.chats));
    let done = injected.map_or_else(|| execute(world, &mut state, api, params), Err);
    match done {
        Ok(body) => Answer::json(200, &body, Receipt::default()),
        Err(refusal) => {
            let spoken = refusal.over_rest(world.error_format);
            let receipt = state.ledger.issue(&spoken, node, api.name(), None);
            Answer::json(spoken.http_status, &Value::Object(spoken.body), receipt)
        }
    }
}

fn execute(world: &World, state: &mut State, api: Api<'_>, params: &Params) -> Result<Value, Refusal> {
    if let Api::Email { service } | Api::OpenMedia { service, .. } = api
        && !world.services.iter().any(|known| known == service)
    {
        return Err(Refusal::UnknownService);
    }
    let complaints = complaints(state, api, params);
    if !complaints.is_empty() {
        return Err(Refusal::Invalid(complaints));
    }
    Ok(match api {
        Api::RequestChatV1 => request_chat_v1(state),
        Api::OpenMedia { interaction: Some(id), .. } => json!({"statusCode": 0, "interactionId": id}),
        Api::Email { .. } | Api::OpenMedia { interaction: None, .. } => {
            let id = state.chats.interaction_id();
            state.interactions.insert(id.clone());
            json!({"statusCode": 0, "interactionId": id})
        }
    })
}

fn complaints(state: &State, api: Api<'_>, params: &Params) -> Vec<Complaint> {
    const EMAIL: [(&str, u16); 5] =
        [("firstName", 102), ("lastName", 103), ("subject", 104), ("fromAddress", 181), ("text", 182)];
    const OPEN_MEDIA: [(&str, u16); 3] = [("mediaType", 191), ("interactionType", 192), ("interactionSubtype", 193)];
    let missing = |names: &[(&'static str, u16)]| {
        let missing = names.iter().filter(|(name, _)| params.text(name).is_none());
        missing.map(|(name, code)| Complaint::new(*code, name)).collect::<Vec<_>>()
    };
    match api {
        Api::Email { .. } => {
            let mut complaints = missing(&EMAIL);
            let invalid = |name, code| {
                params.text(name).filter(|address| !is_address(address)).map(|_| Complaint::new(code, name))
            };
            complaints.extend(invalid("fromAddress", 381).into_iter().chain(invalid("mailbox", 383)));
            complaints
        }
        Api::OpenMedia { interaction: Some(id), .. } if !state.interactions.contains(id) => {
            vec![Complaint::new(248, "interactionId")]
        }
        Api::OpenMedia { interaction: None, .. } => {
            let mut complaints = missing(&OPEN_MEDIA);
            complaints.extend(params.user_data().next().is_none().then(|| Complaint::new(105, "userData")));
            complaints
        }
        Api::OpenMedia { .. } | Api::RequestChatV1 => Vec::new(),
    }
}

/// The address of the session, which a proxy that rewrites paths would break.
fn request_chat_v1(state: &mut State) -> Value {
    let id = state.chats.file_id();
    json!({"_chatIxnAPI-CREATE-URL": format!("/genesys/1/service/{id}/ixn/chat"), "_id": id})
}
