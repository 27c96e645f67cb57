//! The only SQL: open, migrate, append, read back.

pub mod inspect;
pub mod place;
