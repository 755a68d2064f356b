//! `ringmain doctor`: what this host gives, compared with what a load needs.
//!
//! ```text
//!   host (reads facts) ──┐
//!                        ├─► findings: system, limits, network (pure rules) ─► report: text or JSON
//!   config ──► load ─────┘        └── sysctl: remedies are lines of tuning/90-ringmain.conf
//! ```
//! Only [`host`] touches the system.

mod finding;
mod findings;
mod host;
mod limits;
mod load;
mod network;
mod report;
mod sysctl;
mod system;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Args;

use super::{ServeArgs, misconfigured, say};
use crate::config::Config;
use findings::examine;
use host::Host;
use load::Load;

/// The load to compare with: the server's flags, and how many are to come.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Connections that the server is to hold at the same time.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    connections: u64,
    /// Print one JSON line instead.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    serve: ServeArgs,
}

/// Prints every finding. Exit status: 0 all is good, 1 something is to be improved or fixed, 2 the configuration is wrong or, with
/// nothing else to say, something could not be looked at.
pub(super) fn run(args: &DoctorArgs) -> ExitCode {
    let config = match Config::load(&args.serve.sources()) {
        Ok(config) => config,
        Err(errors) => return misconfigured(&errors),
    };
    let host = Host::read();
    let load = Load::new(&config, args.connections, host.cpus);
    let findings = examine(&host, &load);
    say(&if args.json { report::json(&load, &findings) } else { report::text(&load, &findings) });
    ExitCode::from(report::status(&findings))
}
