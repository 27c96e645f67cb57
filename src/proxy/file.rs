//! A file on its way to a customer: hashed as it goes by, and told of when it is gone, however that came.

use std::sync::Arc;

use crate::gms::files::{Direction, FileRequest, Hashed, Outcome};
use crate::recorder::Recorder;
use crate::store::FileTransfer;

/// A download under way.
#[derive(Debug)]
pub struct Download {
    recorder: Arc<Recorder>,
    request: FileRequest,
    node: Option<Arc<str>>,
    hashed: Hashed,
    /// If it has come whole.
    becomes: Outcome,
    is_whole: bool,
}

impl Download {
    /// As it was asked for, from the node that answers. `status` is the answer's.
    pub fn new(recorder: &Arc<Recorder>, request: FileRequest, node: Option<Arc<str>>, status: u16) -> Self {
        let becomes = if status == 206 { Outcome::Partial } else { Outcome::Complete };
        Self { recorder: recorder.clone(), request, node, hashed: Hashed::default(), becomes, is_whole: false }
    }

    /// Takes the next stretch, and whether that is the last.
    pub fn take(&mut self, part: &[u8], is_last: bool) {
        self.hashed.take(part);
        self.is_whole |= is_last;
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let outcome = if self.is_whole { self.becomes } else { Outcome::BrokenOff };
        let file = transfer(Direction::Down, self.request.file_id.take(), &self.hashed, outcome);
        self.recorder.transferred(self.request.chat.as_ref(), file, self.node.take());
    }
}

/// The row of a file; the recorder adds its chat.
pub fn transfer(direction: Direction, file_id: Option<String>, hashed: &Hashed, outcome: Outcome) -> FileTransfer {
    FileTransfer { chat_id: None, file_id, direction, bytes: hashed.bytes(), sha256: hashed.sha256(), outcome }
}
