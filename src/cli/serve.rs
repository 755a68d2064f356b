//! `ringmain serve`: configuration in, a running server out; reloads on the way.

use std::process::ExitCode;
use std::sync::Arc;

use super::{logging, misconfigured, say, startup};
use crate::config::{Config, Mode, Sources};
use crate::net::{self, Bound, Interface, ServeOptions};
use crate::{ring, shard};

/// Serves until a signal ends it.
pub fn run(sources: &Sources) -> ExitCode {
    let config = match Config::load(sources) {
        Ok(config) => config,
        Err(errors) => return misconfigured(&errors),
    };
    logging::start(config.log);
    without_huge_pages();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    run_server(config, sources)
}

fn run_server(config: Config, sources: &Sources) -> ExitCode {
    let options = serve_options(&config);
    let announced = config.clone();
    let mut running = config;
    match net::serve(&options, |bound| announce(&announced, bound), || reload(&mut running, sources)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringmain: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The network half's share of the configuration.
fn serve_options(config: &Config) -> ServeOptions {
    let defaults = ServeOptions::new(config.listen.clone(), Arc::new(config.shard.clone()));
    let congestion = &config.io.congestion_control;
    let buffers = u16::try_from(config.io.buffers).unwrap_or(u16::MAX);
    // The ring knows no upstreams: the most patient one decides how long a connection may take.
    let connect_timeout = config.shard.proxy.upstreams.iter().map(|upstream| upstream.connect_timeout).max();
    ServeOptions {
        internal_listen: config.internal_listen,
        io: config.interface,
        workers: config.workers,
        congestion: (!congestion.is_empty()).then(|| congestion.clone()),
        quiet_after: config.io.park_after,
        connect_timeout: connect_timeout.unwrap_or(defaults.connect_timeout),
        ring: ring::Options { buffers, ..defaults.ring },
        ..defaults
    }
}

fn announce(config: &Config, bound: &Bound) {
    say(&startup::lines(config, bound, startup::open_files_max()).join("\n"));
    let mode = match config.mode {
        Mode::Production => "production",
        Mode::Development => "development",
    };
    let listen = bound.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    if let Interface::Epoll { refused: Some(error), .. } = &bound.interface {
        tracing::warn!("epoll is used instead of io_uring: {error}");
    }
    tracing::info!(listen, workers = bound.workers, io = bound.interface.name(), mode, "serving");
}

/// Reads the configuration again, says what of it applies, and hands that over. What is wrong leaves everything as it was.
fn reload(running: &mut Config, sources: &Sources) -> Option<Arc<shard::Options>> {
    let mut fresh = match Config::load(sources) {
        Ok(fresh) => fresh,
        Err(errors) => {
            for error in errors.0 {
                tracing::error!("not reloaded: {error}");
            }
            return None;
        }
    };
    keep_what_cannot_change(&mut fresh, running);
    for warning in &fresh.warnings {
        tracing::warn!("{warning}");
    }
    let changes = running.changes(&fresh);
    for key in changes.restart {
        tracing::warn!("{key} has changed and needs a restart");
    }
    tracing::info!(changed = changes.applied.join(","), "configuration reloaded");
    let shard = Arc::new(fresh.shard.clone());
    // What needs a restart is still as it was, and is said again at the next reload.
    *running = Config { shard: fresh.shard, mode: fresh.mode, ..running.clone() };
    Some(shard)
}

/// Facts about sockets that are bound already, and a key that was drawn at start.
fn keep_what_cannot_change(fresh: &mut Config, running: &Config) {
    let (new, old) = (&mut fresh.shard.server, &running.shard.server);
    new.internal_listener = old.internal_listener;
    new.loopback = old.loopback;
    if fresh.mode == Mode::Development && fresh.key_is_generated {
        new.api_key.clone_from(&old.api_key);
    }
}

/// Keeps the process's memory in pages of 4 KiB, also on a host that makes them huge by itself: what is freed between what stays
/// would be kept with it, and more than doubles what an idle connection costs. The allocator does not ask for huge pages, but only
/// the process can refuse them.
fn without_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "huge pages stay as the host has them: an idle connection may cost more memory");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn write(file: &tempfile::NamedTempFile, text: &str) {
        let mut handle = file.reopen().expect("the file");
        handle.set_len(0).expect("empty");
        handle.write_all(text.as_bytes()).expect("written");
    }

    #[test]
    fn a_reload_applies_what_it_can_and_keeps_the_rest() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
        write(&file, "[server]\nlisten = ['0.0.0.0:0']\nworkers = 1\n");
        let mut running = Config::load(&sources).expect("a config");
        write(&file, "[server]\nlisten = ['127.0.0.1:0']\ninternal_listen = '127.0.0.1:1'\nworkers = 2\n[http]\nheaders_max = 7\n");
        let options = reload(&mut running, &sources).expect("options");
        assert_eq!(options.http.headers_max, 7);
        assert!(!options.server.loopback && !options.server.internal_listener, "the sockets are what they were");
        assert_eq!(running.workers, 1);
        write(&file, "[http]\nheaders_max = 'x'\n");
        assert!(reload(&mut running, &sources).is_none());
        assert_eq!(running.shard.http.headers_max, 7);
    }

    #[test]
    fn a_generated_key_outlives_a_reload() {
        let sources = Sources::default();
        let mut running = Config::load(&sources).expect("a config");
        let key = running.shard.server.api_key.clone();
        let options = reload(&mut running, &sources).expect("options");
        assert_eq!(options.server.api_key, key);
    }
}
