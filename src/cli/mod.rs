//! Verbs and flags: serve, check, config, doctor, bench, version.
//!
//! Exit status of all of them: 0 done, 1 failed (or the doctor found something), 2 not understood or misconfigured (or the doctor could
//! not look).

mod bench;
mod doctor;
mod logging;
mod serve;
mod startup;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigErrors, Flag, Sources, print_default};

/// Names the configuration file where no flag does.
const CONFIG_VARIABLE: &str = "RINGMAIN_CONFIG";
/// What was asked for cannot be done as asked.
const MISCONFIGURED: u8 = 2;

/// A real-time edge proxy: WebSocket, event stream, HTTP stream and poll in front of your backends.
#[derive(Debug, Parser)]
#[command(name = "ringmain", version, arg_required_else_help = true)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve until a signal says otherwise. Without a config file: a development server on this machine.
    Serve(ServeArgs),
    /// Read the configuration, say what is wrong with it, and end.
    Check(ServeArgs),
    /// Print configuration.
    Config {
        #[command(subcommand)]
        what: ConfigVerb,
    },
    /// Compare this host with what a load needs, and say what to change.
    Doctor(doctor::DoctorArgs),
    /// Put a load on a running server and check every byte that comes back.
    Bench(bench::BenchArgs),
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Every key with its default and what it means, as a file.
    Default,
}

/// Flags that go before the environment and the file.
#[derive(Debug, Default, Args)]
struct ServeArgs {
    /// The configuration file (TOML), also by RINGMAIN_CONFIG.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on, instead of the configured ones; may be given several times.
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Threads; 0 is one per core.
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// auto, uring or epoll: the kernel interface of the workers.
    #[arg(long, value_name = "INTERFACE")]
    io: Option<String>,
    /// production or development; development lets everybody in.
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl ServeArgs {
    /// Everything the configuration is read from.
    fn sources(&self) -> Sources {
        let text = |name: std::ffi::OsString| name.to_string_lossy().into_owned();
        let environment: Vec<_> = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        let named = environment.iter().find(|(name, path)| name == CONFIG_VARIABLE && !path.is_empty());
        let file = self.config.clone().or_else(|| named.map(|(_, path)| PathBuf::from(path)));
        Sources { file, environment, flags: self.flags() }
    }

    fn flags(&self) -> Vec<Flag> {
        let flag = |name, table, key| move |value: String| Flag { name, table, key, value };
        let listen = (!self.listen.is_empty()).then(|| self.listen.join(","));
        [
            listen.map(flag("--listen", "server", "listen")),
            self.workers.clone().map(flag("--workers", "server", "workers")),
            self.io.clone().map(flag("--io", "server", "io")),
            self.mode.clone().map(flag("--mode", "server", "mode")),
            self.log_level.clone().map(flag("--log-level", "log", "level")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Parses the command line and runs the verb it names.
pub fn main() -> ExitCode {
    match Command::parse().verb {
        Verb::Serve(args) => serve::run(&args.sources()),
        Verb::Check(args) => check(&args.sources()),
        Verb::Config { what: ConfigVerb::Default } => say(&print_default()),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Version => say(&format!("ringmain {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

fn check(sources: &Sources) -> ExitCode {
    match Config::load(sources) {
        Ok(config) => {
            let from = config.config_path.as_ref().map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
            let warnings: String = config.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
            say(&format!("{warnings}the configuration is good ({from})\n"))
        }
        Err(errors) => misconfigured(&errors),
    }
}

/// Says all that is wrong.
fn misconfigured(errors: &ConfigErrors) -> ExitCode {
    for error in &errors.0 {
        eprintln!("ringmain: {error}");
    }
    ExitCode::from(MISCONFIGURED)
}

/// Prints to standard output, whose reader may have gone: `ringmain config default | head` is no reason to panic.
fn say(text: &str) -> ExitCode {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }

    #[test]
    fn flags_become_keys() {
        let command = Command::try_parse_from([
            "ringmain",
            "serve",
            "--listen",
            "127.0.0.1:1",
            "--listen",
            "[::1]:2",
            "--workers",
            "3",
            "--log-level",
            "debug",
        ]);
        let Ok(Command { verb: Verb::Serve(args) }) = command else { panic!("{command:?}") };
        let config = Config::load(&Sources { flags: args.flags(), ..Sources::default() }).expect("a config");
        assert_eq!(config.listen, ["127.0.0.1:1".parse().expect("an address"), "[::1]:2".parse().expect("an address")]);
        assert_eq!((config.workers, config.log.level), (3, crate::config::LogLevel::Debug));
    }
}
