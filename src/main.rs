//! Arguments to command to exit code.

use std::process::ExitCode;

use gms_recorder::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::of_process()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error),
    }
}
