//! The shell on the real ring, seen from outside: connections, workers, limits, drain. `docs/pitfalls.md` is the table.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringmain::net::{Running, ServeOptions, start};
use ringmain::shard;

const PATIENCE: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn skipped() -> bool {
    std::env::var("RINGMAIN_TEST_SKIP").is_ok_and(|skip| skip.split(',').any(|part| part == "uring"))
}

fn options(workers: usize) -> ServeOptions {
    let mut shard = shard::Options::default();
    shard.server.echo = true;
    shard.server.drain_timeout = Duration::from_secs(5);
    let mut options = ServeOptions::new(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))], Arc::new(shard));
    options.workers = workers;
    options
}

fn serve(options: &ServeOptions) -> Running {
    start(options).unwrap_or_else(|error| panic!("{error} (or RINGMAIN_TEST_SKIP=uring)"))
}

fn connect(running: &Running) -> TcpStream {
    let client = TcpStream::connect(running.bound.listen[0]).expect("the server listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    client
}

/// Sends one request and reads the head of its answer.
fn answers(client: &mut TcpStream) -> bool {
    let mut answer = [0; 4096];
    client.write_all(REQUEST).is_ok() && client.read(&mut answer).is_ok_and(|bytes| answer[..bytes].starts_with(b"HTTP/1.1 200"))
}

#[test]
fn requests_are_answered_by_several_workers_on_one_port() {
    if skipped() {
        return;
    }
    let running = serve(&options(2));
    let mut clients: Vec<_> = (0..50).map(|_| connect(&running)).collect();
    for _ in 0..3 {
        assert!(clients.iter_mut().all(answers));
    }
    running.stop().expect("the workers worked");
}

#[test]
fn a_finished_request_is_answered_before_its_connection_closes() {
    if skipped() {
        return;
    }
    let running = serve(&options(1));
    let mut client = connect(&running);
    client.write_all(REQUEST).expect("connected");
    client.shutdown(Shutdown::Write).expect("connected");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("an orderly end");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    running.stop().expect("the workers worked");
}

#[test]
fn websocket_messages_come_back_whole_and_in_order() {
    if skipped() {
        return;
    }
    let running = serve(&options(2));
    let url = format!("ws://{}/echo", running.bound.listen[0]);
    let (mut socket, _) = tungstenite::client(url, connect(&running)).expect("the echo door");
    for bytes in [0, 1, 125, 126, 5000, 60_000] {
        let message = tungstenite::Message::binary(vec![7u8; bytes]);
        socket.send(message.clone()).expect("connected");
        assert_eq!(socket.read().expect("an echo"), message);
    }
    socket.close(None).expect("connected");
    let deadline = Instant::now() + PATIENCE;
    while socket.read().is_ok() {
        assert!(Instant::now() < deadline);
    }
    running.stop().expect("the workers worked");
}
