//! Arguments to command to exit code.

use std::process::ExitCode;

use clap::Parser;

use gms_recorder::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error),
    }
}
