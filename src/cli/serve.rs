//! `ringmain serve`: configuration in, a running server out, and the lines to paste.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use super::logging;
use crate::config::{Config, Flags, Mode};
use crate::net::{self, Bound, ServeOptions};
use crate::shard;

/// Bytes of a generated API key, before they are written in hexadecimal.
const KEY_BYTES: usize = 12;

/// Serves until a signal ends it.
pub fn run(flags: &Flags) -> ExitCode {
    let mut config = match Config::load(flags, std::env::vars()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("ringmain: {error}");
            return ExitCode::from(2);
        }
    };
    logging::start(&config);
    if config.mode == Mode::Development && config.shard.server.api_key.is_empty() {
        config.shard.server.api_key = generated_key();
    }
    let options = ServeOptions {
        internal_listen: config.internal_listen,
        workers: config.workers,
        congestion: (!config.congestion_control.is_empty()).then(|| config.congestion_control.clone()),
        ..ServeOptions::new(config.listen.clone(), Arc::new(config.shard.clone()))
    };
    match net::serve(&options, |bound| announce(&config, bound), || reload(flags, &config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringmain: {error}");
            ExitCode::FAILURE
        }
    }
}

fn generated_key() -> String {
    let mut bytes = [0; KEY_BYTES];
    // Without entropy at start there is no key, and without a key nobody can publish: the safe side.
    if getrandom::fill(&mut bytes).is_err() {
        return String::new();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads the configuration again and says what of it applies.
fn reload(flags: &Flags, running: &Config) -> Option<Arc<shard::Options>> {
    let mut fresh = match Config::load(flags, std::env::vars()) {
        Ok(fresh) => fresh,
        Err(error) => {
            tracing::error!(%error, "the new configuration is not good: the old one stays");
            return None;
        }
    };
    if fresh.shard.server.api_key.is_empty() && fresh.mode == Mode::Development {
        fresh.shard.server.api_key.clone_from(&running.shard.server.api_key);
    }
    let fixed = [
        ("server.listen", fresh.listen != running.listen),
        ("server.internal_listen", fresh.internal_listen != running.internal_listen),
        ("server.workers", fresh.workers != running.workers),
        ("server.mode", fresh.mode != running.mode),
        ("io", fresh.buffer_bytes != running.buffer_bytes || fresh.congestion_control != running.congestion_control),
        ("log", fresh.log_level != running.log_level || fresh.log_format != running.log_format),
    ];
    for (key, _) in fixed.into_iter().filter(|(_, changed)| *changed) {
        tracing::warn!(key, "changed in the configuration: needs a restart");
    }
    tracing::info!("configuration reloaded: namespaces, limits, origins, key and routes apply from now on");
    Some(Arc::new(fresh.shard))
}

/// What was bound and where to look first.
fn announce(config: &Config, bound: &Bound) {
    println!("ringmain {}", env!("CARGO_PKG_VERSION"));
    for address in &bound.listen {
        println!("listening on {address}");
    }
    if let Some(address) = bound.internal_listen {
        println!("internal on {address}");
    }
    let workers = if bound.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", bound.workers) };
    let bells = if bound.ring_doorbells { "ring doorbells" } else { "eventfd doorbells" };
    println!("{workers}, {bells}, {} open files allowed to each", open_files());
    println!("kernel: {}", bound.features);
    if config.mode == Mode::Development
        && let Some(address) = bound.listen.first()
    {
        print_hints(config, *address);
    }
}

fn open_files() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Four lines to paste.
fn print_hints(config: &Config, address: SocketAddr) {
    let server = &config.shard.server;
    let (prefix, key) = (&server.door_prefix, &server.api_key);
    println!();
    println!("  event stream  curl -N 'http://{address}{prefix}/channels/news?via=sse'");
    println!("  poll          curl 'http://{address}{prefix}/channels/news?wait=20'");
    println!("  playground    http://{address}{prefix}/");
    println!("  publish       curl -H 'X-API-Key: {key}' -d '{{\"hello\":\"world\"}}' http://{address}{prefix}/channels/news");
}
