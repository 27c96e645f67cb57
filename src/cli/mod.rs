//! The command line: one file a command.

pub mod output;
pub mod when;
pub mod scope;
pub mod chats;
pub mod transcript;
pub mod errors;
pub mod holes;
pub mod sql;
pub mod snapshot;
