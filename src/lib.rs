//! A recording reverse proxy for Genesys GMS.

// The floors, ground first: a module imports only from those above its line here.
pub mod chat;
pub mod units;
pub mod telemetry;
pub mod gms;
pub mod store;
pub mod recorder;
pub mod proxy;
pub mod admin;
pub mod cli;
