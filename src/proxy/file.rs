//! A file on its way to a customer: hashed as it goes by, and told of when it is gone, however that came.

use std::sync::Arc;

use crate::gms::files::{Direction, FileRequest, Hashed, Outcome, Received};
use crate::recorder::Recorder;
use crate::store::FileTransfer;

/// A download under way.
#[derive(Debug)]
pub struct Download {
    recorder: Arc<Recorder>,
    request: FileRequest,
    node: Option<Arc<str>>,
    received: Received,
    /// If it has come whole.
    becomes: Outcome,
    is_whole: bool,
}

impl Download {
    /// As it was asked for, from the node that answers. `status` and `content_encoding` are the answer's.
    pub fn new(
        recorder: &Arc<Recorder>,
        request: FileRequest,
        node: Option<Arc<str>>,
        status: u16,
        content_encoding: Option<&str>,
    ) -> Self {
        // A stretch of what is encoded is no whole number of characters, or of anything.
        let (becomes, received) = match status {
            206 => (Outcome::Partial, Received::new(None)),
            _ => (Outcome::Complete, Received::new(content_encoding)),
        };
        Self { recorder: recorder.clone(), request, node, received, becomes, is_whole: false }
    }

    /// Takes the next stretch, and whether that is the last.
    pub fn take(&mut self, part: &[u8], is_last: bool) {
        self.received.take(part);
        self.is_whole |= is_last;
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let received = std::mem::replace(&mut self.received, Received::new(None)).finish(self.is_whole);
        let outcome = match &received {
            _ if !self.is_whole => Outcome::BrokenOff,
            Ok(_) => self.becomes,
            Err(_) => Outcome::Encoded,
        };
        let hashed = received.unwrap_or_else(|as_it_came| as_it_came);
        let file = transfer(Direction::Down, self.request.file_id.take(), &hashed, outcome);
        self.recorder.transferred(self.request.chat.as_ref(), file, self.node.take());
    }
}

/// The row of a file; the recorder adds its chat.
pub fn transfer(direction: Direction, file_id: Option<String>, hashed: &Hashed, outcome: Outcome) -> FileTransfer {
    FileTransfer { chat_id: None, file_id, direction, bytes: hashed.bytes(), sha256: hashed.sha256(), outcome }
}
