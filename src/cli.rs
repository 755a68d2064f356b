//! Verbs and flags: serve, check, config, doctor, bench, version.

use std::process::ExitCode;

/// Parses the command line and runs the verb it names.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
