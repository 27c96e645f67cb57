//! The whole program from outside: one file a concern.

mod cli;
