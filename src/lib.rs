//! A recording reverse proxy for Genesys Mobile Services (GMS): it forwards every request to real nodes, reads the Chat V2
//! answers on their way through, and keeps each transcript event exactly once, on disk before the client has it.
//!
//! # The building
//!
//! The `mod` lines below are the floors, ground first. A module imports only from floors above its own line; a test holds
//! that. Where to look:
//!
//! | floor | what it is | what it refuses to know |
//! |---|---|---|
//! | [`chat`] | the words: chat, event, party, position; a secret that cannot be printed | HTTP, JSON, SQL |
//! | [`units`] | `"800ms"`, `"8MiB"` | what they are for |
//! | [`telemetry`] | logs, and the closed list of counters with the account of every event seen | who counts |
//! | [`gms`] | bytes in, observation out: routes, answers, errors, CometD, files, scrubbing, masking | I/O, clocks, storing |
//! | [`store`] | the only SQL: open, migrate, append a batch, read back, seal and audit; what people do to an archive (`custody`); full text (`search`); the spool's file | queues, HTTP, what to do about an error |
//! | [`archive`] | signed checkpoints, their key; anchors in files, buckets, at collectors and time stamp authorities; how long chats are kept; what an auditor finds; exports, at once or by and by; reports | SQL, when a checkpoint is due |
//! | [`recorder`] | from observation to durable row: queue, one writer, group commit, tickets, outages | HTTP, SQL |
//! | [`proxy`] | HTTP and TLS toward clients and nodes; [`proxy`]'s `forward.rs` is **the hot path** | JSON, SQL |
//! | [`admin`] | probes and metrics on a listener of their own; the socket that drains nodes | chats |
//! | [`simulator`] | GMS nodes that speak the documented API, for demo, tests and benchmarks | everything above |
//! | [`config`] | every part's section, read from file, environment and flags, checked once | what the options do |
//! | [`cli`] | one file a command; errors become words and exit codes here | |
//!
//! # The life of one answer
//!
//! ```text
//! client ─▶ proxy::client ─▶ forward: Route::parse ─▶ Pool::send ─▶ GMS node
//!                other routes: streamed through, no copy
//! client ◀────── the node's bytes ◀── Recorder::wait ◀── tap::take, up to body_max
//!                                          │
//!           Recorder::recognise ─▶ the same answer to the same request was read before, and is on disk? deliver now
//!                                          │  (most polls end here)
//!           gms::inspect ─▶ Observation { chats, errors, findings }
//!                                          │  all of it known to be on disk? deliver now
//!           Recorder::observe: queue ─▶ writer, one transaction a batch ─▶ commit + sync ─▶ ticket
//! ```
//!
//! A CometD WebSocket is the same with `proxy::socket` in forward's place: `gms::websocket` reads the frames of both
//! directions as they pass, `gms::Dialogue` makes observations of their messages, and a message with something new waits
//! for its commit before the client gets it.
//!
//! A new binary takes over from the running one with its sockets, its lock and its knowledge: `cli::serve`'s `handover`.
//!
//! Threads: one current-thread runtime for each core, each with its own listener and its own connections to the nodes; one
//! for the writer, with the one connection that writes what is recorded, and one that folds its log into the file beside it
//! (`store::folding`); the main one for signals, the admin listener, the watch over the
//! nodes (`proxy::health`) and the operators' socket (`admin::control`); one that writes the access log, and for each anchor
//! one that brings checkpoints there, where there are such; one that cleans up after what was removed, and purges
//! (`recorder::keeper`), one that indexes for `search` (`recorder::indexer`), and for each target of exports one that delivers there
//! (`recorder::courier`), with connections of their own. They share counters, how the nodes fare (`proxy::nodes`), the queue, and
//! three small locks that are never held across an await: the account, what is known of live chats, and the memory of what
//! is committed.
//!
//! A client's connection is one task. Its exchanges are straight lines in it: `proxy::client` reads a head, `forward` asks a
//! node and holds or streams the answer, `proxy::client` sends it; the node's connection is driven in the same wake-ups.
//! HTTP/1.1 is read and written by `proxy` itself (`head.rs`, `framing.rs`, `wire.rs`), so that messages pass as they stand
//! and what two readers could take differently does not pass at all; HTTP/2 is hyper's. What it costs beside nginx:
//! `tests/bench`.
//!
//! # What is never true
//!
//! - An event in a client's hands that is in no file, archive or spool, unless `delivered_early` or `dropped` counted it.
//! - A row that was overwritten or removed, but by an act that says which, by whom and why. A secret, or a card number that can be told, in a queue, a log line, a metric or a row.
//! - A request sent twice, unless it was safe, had no body, and its reused connection died before any byte of an answer.
//! - A loop, a queue, a buffer or a wait without a bound.

// The floors, ground first: a module imports only from those above its line here.
pub mod chat;
pub mod units;
pub mod telemetry;
pub mod gms;
pub mod store;
pub mod archive;
pub mod recorder;
pub mod proxy;
pub mod admin;
pub mod simulator;
pub mod config;
pub mod cli;
