//! What the operations of Chat V2 do to a chat, whichever way they were asked for: over REST, chat-ntf or CometD.
//! The rules of the documentation live here; how requests and answers are written does not.

use super::chats::{Chats, KeyForm};
use super::params::Params;
use super::refusal::{Complaint, Refusal, media_server, unexpected};

/// An operation of Chat V2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    RequestChat,
    RequestNotifications,
    Send,
    Refresh,
    Disconnect,
    StartTyping,
    StopTyping,
    PushUrl,
    UpdateNickname,
    CustomNotice,
    UpdateData,
    ReadReceipt,
    Upload,
    Limits,
    Download,
    Delete,
}

const NAMES: [(Operation, &str); 16] = [
    (Operation::RequestChat, "requestChat"),
    (Operation::RequestNotifications, "requestNotifications"),
    (Operation::Send, "send"),
    (Operation::Refresh, "refresh"),
    (Operation::Disconnect, "disconnect"),
    (Operation::StartTyping, "startTyping"),
    (Operation::StopTyping, "stopTyping"),
    (Operation::PushUrl, "pushUrl"),
    (Operation::UpdateNickname, "updateNickname"),
    (Operation::CustomNotice, "customNotice"),
    (Operation::UpdateData, "updateData"),
    (Operation::ReadReceipt, "readReceipt"),
    (Operation::Upload, "file"),
    (Operation::Limits, "fileLimits"),
    (Operation::Download, "fileDownload"),
    (Operation::Delete, "fileDelete"),
];

impl Operation {
    /// The name it is counted under.
    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(operation, _)| *operation == self).map_or("", |(_, name)| name)
    }

    fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(operation, _)| *operation)
    }

    /// The operation of a path behind `/genesys/2/chat/{service}/{chatId}/`, and the file it names.
    pub(super) fn of_path<'p>(segments: &[&'p str]) -> Option<(Self, Option<&'p str>)> {
        match segments {
            ["file", "limits"] => Some((Self::Limits, None)),
            ["file", id, "download"] => Some((Self::Download, Some(id))),
            ["file", id, "delete"] => Some((Self::Delete, Some(id))),
            [name]
                if !matches!(
                    *name,
                    "requestChat" | "requestNotifications" | "fileLimits" | "fileDownload" | "fileDelete"
                ) =>
            {
                Some((Self::named(name)?, None))
            }
            _ => None,
        }
    }

    /// The `operation` of a CometD publish.
    pub(super) fn of_publish(name: &str) -> Option<Self> {
        match name {
            "sendMessage" => Some(Self::Send),
            "send" | "refresh" | "file" | "fileLimits" | "fileDownload" | "fileDelete" => None,
            name => Self::named(name),
        }
    }

    /// The `operation` of chat-ntf. The iOS library asks for `fileGetsLimits`.
    pub(super) fn of_notify(name: &str) -> Option<Self> {
        match name {
            "fileUpload" => Some(Self::Upload),
            "fileGetLimits" | "fileGetsLimits" => Some(Self::Limits),
            "fileDownload" => Some(Self::Download),
            "fileDelete" => Some(Self::Delete),
            _ => None,
        }
    }

    /// From which event on the answer holds the transcript; none: no events.
    pub(super) fn wanted(self, params: &Params) -> Option<u64> {
        match (self, params.position()) {
            (Self::RequestNotifications, position) => Some(position.unwrap_or(1).max(1)),
            (Self::RequestChat | Self::Refresh, None) => Some(1),
            // The position of a receipt says what was read, not what is asked for.
            (Self::ReadReceipt, _) => None,
            (_, position) => position.filter(|position| *position > 0),
        }
    }

    /// The text a client says with it.
    pub(super) fn said(self, params: &Params) -> Option<&str> {
        matches!(self, Self::Send | Self::Refresh).then(|| params.text("message")).flatten()
    }
}

/// One operation that a client asks for.
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    /// Absent where the way of asking has none (chat-ntf).
    pub(super) service: Option<&'a str>,
    /// Absent where the chat is found by its secureKey alone.
    pub(super) chat_id: Option<&'a str>,
    pub(super) file_id: Option<&'a str>,
    pub(super) params: &'a Params,
    pub(super) key_form: KeyForm,
    pub(super) now: i64,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) chat_id: String,
    /// The file that was uploaded or is downloaded.
    pub(super) file_id: Option<String>,
}

/// Executes an operation, or says why not.
pub(super) fn execute(chats: &mut Chats, services: &[String], call: &Call<'_>) -> Result<Done, Refusal> {
    if call.service.is_some_and(|service| !services.iter().any(|known| known == service)) {
        return Err(Refusal::UnknownService);
    }
    let complaints = complaints(call);
    if !complaints.is_empty() {
        return Err(Refusal::Invalid(complaints));
    }
    if call.operation == Operation::RequestChat {
        return Ok(open(chats, call));
    }
    let chat_id = session(chats, call)?;
    let file_id = act(chats, &chat_id, call)?;
    Ok(Done { chat_id, file_id })
}

fn complaints(call: &Call<'_>) -> Vec<Complaint> {
    let missing = |name: &'static str, code| call.params.text(name).is_none().then(|| Complaint::new(code, name));
    let session = (call.operation != Operation::RequestChat).then(|| missing("secureKey", 153)).flatten();
    let own = match call.operation {
        Operation::RequestChat => return of_request_chat(call.params),
        Operation::Send | Operation::CustomNotice => missing("message", 162),
        Operation::PushUrl => missing("pushUrl", 163),
        Operation::UpdateNickname => missing("nickname", 161),
        _ => None,
    };
    session.into_iter().chain(own).collect()
}

fn of_request_chat(params: &Params) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    if nickname(params).is_none() {
        let missing = [("firstName", 102), ("lastName", 103)];
        let missing = missing.into_iter().filter(|(name, _)| params.text(name).is_none());
        // The old format blames the nickname for either.
        complaints.extend(missing.map(|(_, code)| Complaint::new(code, "nickname")));
    }
    if params.text("emailAddress").is_some_and(|address| !is_address(address)) {
        complaints.push(Complaint::new(364, "emailAddress"));
    }
    complaints
}

fn nickname(params: &Params) -> Option<String> {
    let both = || Some(format!("{} {}", params.text("firstName")?, params.text("lastName")?));
    params.text("nickname").map(str::to_owned).or_else(both)
}

/// An address has one @ with something on both sides of it, and no blanks.
pub(super) fn is_address(text: &str) -> bool {
    let parts = text.split_once('@');
    parts.is_some_and(|(who, at)| !who.is_empty() && !at.is_empty() && !at.contains('@')) && !text.contains(' ')
}

fn open(chats: &mut Chats, call: &Call<'_>) -> Done {
    let service = call.service.unwrap_or_default();
    let chat_id = chats.open(service, nickname(call.params).unwrap_or_default(), call.key_form, call.now);
    if let Some(chat) = chats.chat(&chat_id) {
        chat.client_updates(call.params);
    }
    if let Some(text) = call.params.text("text") {
        chats.say(&chat_id, text, None, call.now);
    }
    Done { chat_id, file_id: None }
}

/// The chat that the request may act on.
fn session(chats: &mut Chats, call: &Call<'_>) -> Result<String, Refusal> {
    let key = call.params.text("secureKey").unwrap_or_default();
    let named = call.chat_id.or_else(|| chats.id_of_key(key)).unwrap_or_default().to_owned();
    let ended_refreshes = chats.conduct.ended_refreshes;
    let ended = match chats.chat(&named) {
        None => call.chat_id.map(|_| true),
        // Whose session it is not, learns nothing of it.
        Some(chat) if chat.secure_key != key => None,
        Some(chat) => {
            let lets = !chat.ended || (reads(call.operation) && chat.may_refresh(ended_refreshes));
            if lets {
                return Ok(named);
            }
            Some(true)
        }
    };
    Err(Refusal::Final { complaint: media_server(chats.reference()), ended })
}

fn reads(operation: Operation) -> bool {
    matches!(operation, Operation::Refresh | Operation::RequestNotifications)
}

fn act(chats: &mut Chats, id: &str, call: &Call<'_>) -> Result<Option<String>, Refusal> {
    let (params, now) = (call.params, call.now);
    let text = |name| params.text(name).unwrap_or_default();
    if call.operation == Operation::Refresh {
        chats.grow(id, now);
    }
    if let Some(said) = call.operation.said(params).filter(|_| chats.chat(id).is_some_and(|chat| !chat.ended)) {
        chats.say(id, said, params.text("messageType"), now);
        return Ok(None);
    }
    match call.operation {
        Operation::Upload => return upload(chats, id, call).map(Some),
        Operation::Download | Operation::Delete => return file(chats, id, call).map(Some),
        _ => {}
    }
    let Some(chat) = chats.chat(id) else { return Ok(None) };
    match call.operation {
        Operation::Disconnect => chat.client_leaves(now),
        Operation::StartTyping => chat.client_types(true, params.text("message"), now),
        Operation::StopTyping => chat.client_types(false, params.text("message"), now),
        Operation::PushUrl => chat.client_pushes_url(text("pushUrl"), now),
        Operation::UpdateNickname => chat.client_renames(text("nickname"), now),
        Operation::CustomNotice => chat.client_notices(text("message"), now),
        Operation::UpdateData => chat.client_updates(params),
        _ => {}
    }
    Ok(None)
}

fn upload(chats: &mut Chats, id: &str, call: &Call<'_>) -> Result<String, Refusal> {
    let refusal = match call.params.files.is_empty() {
        // No public code says that the file is missing.
        true => Some(Refusal::Invalid(vec![unexpected(chats.reference())])),
        false => over_limits(chats, id, call.params),
    };
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let description = call.params.user_data().find(|(key, _)| *key == "file-description").map(|(_, value)| value);
    let mut last = String::new();
    for file in &call.params.files {
        last = chats.file_id();
        if let Some(chat) = chats.chat(id) {
            chat.client_uploads(last.clone(), &file.name, file.content.clone(), description, call.now);
        }
    }
    Ok(last)
}

fn over_limits(chats: &mut Chats, id: &str, params: &Params) -> Option<Refusal> {
    let limits = chats.conduct.files.clone();
    let chat = chats.chat(id)?;
    if limits.need_agent && !chat.has_agent() {
        return Some(Refusal::Final { complaint: Complaint::new(261, ""), ended: Some(false) });
    }
    let used: usize = chat.files.iter().map(|file| file.content.len()).sum();
    let sent: usize = params.files.iter().map(|file| file.content.len()).sum();
    let mut complaints = Vec::new();
    if chat.files.len() + params.files.len() > limits.files_max {
        complaints.push(Complaint::advising(201, "file", limits.files_max.to_string()));
    }
    if params.files.iter().any(|file| file.content.len() > limits.file_bytes_max) {
        complaints.push(Complaint::advising(202, "file", limits.file_bytes_max.to_string()));
    } else if used + sent > limits.total_bytes_max {
        complaints.push(Complaint::advising(202, "file", limits.total_bytes_max.to_string()));
    }
    if params.files.iter().any(|file| !limits.allow(&file.name)) {
        complaints.push(Complaint::advising(203, "file", limits.types.join(",")));
    }
    (!complaints.is_empty()).then_some(Refusal::Invalid(complaints))
}

fn file(chats: &mut Chats, id: &str, call: &Call<'_>) -> Result<String, Refusal> {
    let wanted = call.file_id.or_else(|| call.params.text("fileId")).unwrap_or_default();
    let Some(chat) = chats.chat(id) else { return Err(Refusal::Temporary) };
    let Some(file) = chat.files.iter_mut().find(|file| file.id == wanted) else {
        return Err(Refusal::Invalid(vec![Complaint::new(241, "fileId")]));
    };
    if file.deleted {
        return Err(Refusal::Final { complaint: Complaint::new(264, ""), ended: Some(false) });
    }
    match call.operation {
        Operation::Delete => chat.client_deletes(wanted, call.now),
        _ => file.downloads += 1,
    }
    Ok(wanted.to_owned())
}
