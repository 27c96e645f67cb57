//! The archive on disk: the only SQL of the program.

pub mod read;
