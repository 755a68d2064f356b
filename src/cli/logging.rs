//! Log lines: for people on a terminal, JSON otherwise, always on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogLevel, LogOptions};

/// Starts logging as configured.
pub fn start(options: LogOptions) {
    let human = match options.format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter(options.level))).with_writer(std::io::stderr);
    // A second start (tests in one process) keeps the first.
    let _ = if human { builder.with_target(false).try_init() } else { builder.json().flatten_event(true).try_init() };
}

const fn filter(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}
