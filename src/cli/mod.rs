//! Verbs and flags: serve, check, config, doctor, bench, version.

mod bench;
mod logging;
mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Config, Flags, Mode};

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
    Check(ConfigArgs),
    /// Print configuration.
    Config {
        #[command(subcommand)]
        what: ConfigVerb,
    },
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

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address to listen on, instead of the configured ones; may be given several times.
    #[arg(long, value_name = "ADDR")]
    listen: Vec<SocketAddr>,
    /// Threads; 0 is one per core.
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Development lets everybody in.
    #[arg(long)]
    mode: Option<ModeArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    Production,
    Development,
}

/// Parses the command line and runs the verb it names. Exit status: 0 done, 1 failed, 2 not understood or misconfigured.
pub fn main() -> ExitCode {
    match Command::parse().verb {
        Verb::Serve(args) => serve::run(&flags(args)),
        Verb::Check(args) => check(&Flags { config: args.config, ..Flags::default() }),
        Verb::Config { what: ConfigVerb::Default } => {
            print!("{}", Config::default_text());
            ExitCode::SUCCESS
        }
        Verb::Bench(args) => bench::run(&args),
        Verb::Version => {
            println!("ringmain {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn flags(args: ServeArgs) -> Flags {
    let mode = args.mode.map(|mode| match mode {
        ModeArg::Production => Mode::Production,
        ModeArg::Development => Mode::Development,
    });
    Flags { config: args.config.config, listen: args.listen, workers: args.workers, mode }
}

fn check(flags: &Flags) -> ExitCode {
    match Config::load(flags, std::env::vars()) {
        Ok(config) => {
            let from = config.path.as_ref().map_or_else(|| "no file, all defaults".to_owned(), |path| path.display().to_string());
            println!("the configuration is good ({from})");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ringmain: {error}");
            ExitCode::from(2)
        }
    }
}
