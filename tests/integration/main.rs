//! The one integration binary: real sockets, real SQLite files, the real program.

mod access_log;
mod again;
mod architecture;
mod cli;
mod cometd;
mod config_files;
mod crash;
mod crowd;
mod faults;
mod http2;
mod limits;
mod load;
mod nodes;
mod power;
mod operation;
mod reading;
mod seed;
mod soak;
mod socket;
mod spool;
mod support;
mod survival;
mod tls;
mod transparency;
mod upgrade;
mod websocket;
