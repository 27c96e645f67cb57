//! Method and path to [`Route`].

use std::borrow::Cow;

/// Where a request goes, read from its method and path. Borrowed from the path.
#[derive(Debug, Clone)]
pub struct Route<'p> {
    /// Which API.
    pub class: RouteClass,
    /// Which chat operation, where the path says.
    pub operation: Option<Operation>,
    /// `{serviceName}`, percent-decoded.
    pub service: Option<Cow<'p, str>>,
    /// `{chatId}`, percent-decoded.
    pub chat_id: Option<Cow<'p, str>>,
    /// It looks like chat traffic but matches no route: to be warned of.
    pub looks_like_chat: bool,
}

/// The APIs of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteClass {
    /// Chat V2 over REST.
    Chat,
    /// `/2/chat-ntf`.
    ChatNtf,
    /// `/cometd`.
    Cometd,
    /// `/2/email`.
    Email,
    /// `/2/openmedia`.
    OpenMedia,
    /// Chat V1.
    ChatV1,
    /// Everything else.
    Other,
}

/// The operations of Chat V2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// requestChat
    RequestChat,
}
