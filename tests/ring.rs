//! The shell on the real kernel, seen from outside: connections, workers, limits, drain. `ARCHITECTURE.md` has the table of pitfalls.
//!
//! On io_uring, or where `RINGMAIN_SERVER__IO=epoll` says so on epoll; `scripts/test.sh` runs both. What a test provokes in a ring
//! alone it asks [`on_epoll`] about.

#[path = "support/skip.rs"]
mod skip;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringmain::net::{Interface, Io, Running, ServeOptions, start};
use ringmain::shard;

const PATIENCE: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn options(workers: usize) -> ServeOptions {
    let mut shard = shard::Options::default();
    shard.server.echo = true;
    shard.server.drain_timeout = Duration::from_secs(1);
    let mut options = ServeOptions::new(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))], Arc::new(shard));
    options.workers = workers;
    options.io = if on_epoll() { Io::Epoll } else { Io::Uring };
    options
}

fn on_epoll() -> bool {
    std::env::var("RINGMAIN_SERVER__IO").is_ok_and(|io| io == "epoll")
}

/// Whether the test needs io_uring and has to do without.
#[track_caller]
fn without_uring() -> bool {
    on_epoll() || skip::without("uring")
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
    if skip::without("uring") {
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
    if skip::without("uring") {
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
    if skip::without("uring") {
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

/// Small tables and few buffers, so that they run out.
fn cramped(workers: usize, files_max: u32, buffers: u16) -> ServeOptions {
    let mut options = options(workers);
    options.ring.files_max = files_max;
    options.ring.buffers = buffers;
    options
}

/// Waits until `done`, trying again and again.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::yield_now();
    }
}

/// Waits until every slot is free again, which takes the last completion of each connection.
fn everybody_is_gone(running: &Running) {
    eventually("every slot is free again", || running.connections().iter().all(|&connections| connections == 0));
}

/// Closes with a reset instead of an orderly end.
fn reset(client: TcpStream) {
    socket2::Socket::from(client).set_linger(Some(Duration::ZERO)).expect("a socket option");
}

#[test]
fn pitfall_04_enobufs_storm() {
    if skip::without("uring") {
        return;
    }
    let running = serve(&cramped(1, 4096, 8));
    let mut clients: Vec<_> = (0..1000).map(|_| connect(&running)).collect();
    assert!(clients.iter_mut().all(answers), "everybody is known before the storm");
    // Every client sends a request in two parts; nearly all of them find the eight buffers taken.
    for part in [&REQUEST[..20], &REQUEST[20..]] {
        for client in &mut clients {
            client.write_all(part).expect("connected");
        }
    }
    for client in &mut clients {
        let mut answer = [0; 4096];
        let bytes = client.read(&mut answer).expect("an answer");
        assert!(answer[..bytes].starts_with(b"HTTP/1.1 200"));
    }
    let facts = running.stop().expect("the workers worked").remove(0);
    assert!(on_epoll() || facts.enobufs > 0, "the buffers never ran out: nothing was tested");
    assert!(facts.enobufs < 20_000, "a hot loop: {} receives failed", facts.enobufs);
}

#[test]
fn pitfall_07_slots_are_reused_under_churn() {
    if skip::without("uring") {
        return;
    }
    let running = serve(&cramped(2, 512, 64));
    let address = running.bound.listen[0];
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            std::thread::spawn(move || {
                for round in 0..8000 {
                    let mut client = TcpStream::connect(address).expect("the server listens");
                    client.set_read_timeout(Some(PATIENCE)).expect("a socket option");
                    match (round + thread) % 4 {
                        0 => assert!(answers(&mut client), "a stranger's completion disturbed this one"),
                        1 => client.write_all(&REQUEST[..30]).expect("connected"),
                        2 => client.write_all(REQUEST).expect("connected"),
                        _ => {}
                    }
                    reset(client);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("every answer came");
    }
    let mut client = connect(&running);
    assert!(answers(&mut client));
    drop(client);
    everybody_is_gone(&running);
    for facts in running.stop().expect("the workers worked") {
        assert_eq!(facts.stale_completions, 0);
        assert!(on_epoll() || facts.buffers_free == 64, "a buffer was lost");
    }
}

#[test]
fn pitfall_11_full_table_and_recovery() {
    if skip::without("uring") {
        return;
    }
    let running = serve(&cramped(1, 64, 64));
    let mut clients: Vec<_> = (0..60).map(|_| connect(&running)).collect();
    assert!(clients.iter_mut().all(answers));
    // More than there are slots: they wait in the listener's queue and none is lost.
    let mut waiting: Vec<_> = (0..40).map(|_| connect(&running)).collect();
    for client in &mut waiting {
        client.write_all(REQUEST).expect("connected");
    }
    assert!(clients.iter_mut().all(answers), "a full table disturbs nobody");
    clients.into_iter().for_each(reset);
    for client in &mut waiting {
        let mut answer = [0; 4096];
        let bytes = client.read(&mut answer).expect("an answer once there is room");
        assert!(answer[..bytes].starts_with(b"HTTP/1.1 200"));
    }
    running.stop().expect("the workers worked");
}

#[test]
fn pitfall_12_reset_with_queued_output() {
    if skip::without("uring") {
        return;
    }
    let running = serve(&options(1));
    for _ in 0..50 {
        let url = format!("ws://{}/echo", running.bound.listen[0]);
        let (mut socket, _) = tungstenite::client(url, connect(&running)).expect("the echo door");
        // More than both sockets hold, unread: the server is left with queued output when the reset comes.
        let message = tungstenite::Message::binary(vec![7u8; 60_000]);
        socket.get_mut().set_write_timeout(Some(Duration::from_millis(5))).expect("a socket option");
        while socket.send(message.clone()).is_ok() {}
        let client = socket.get_ref().try_clone().expect("a descriptor");
        drop(socket);
        reset(client);
    }
    let mut client = connect(&running);
    assert!(answers(&mut client));
    drop(client);
    everybody_is_gone(&running);
    let facts = running.stop().expect("a connection that closed twice would have panicked").remove(0);
    assert_eq!(facts.stale_completions, 0);
}

#[test]
fn pitfall_24_one_full_table_among_others_with_room() {
    if skip::without("uring") {
        return;
    }
    // Which worker a connection comes to is chance; a few tries fill one table before the others.
    let mut handed_over = 0;
    for _ in 0..20 {
        let running = serve(&cramped(3, 64, 64));
        let mut clients: Vec<_> = (0..170).map(|_| connect(&running)).collect();
        assert!(clients.iter_mut().all(answers), "somebody sits unserved before a worker that is full");
        assert!(clients.iter_mut().all(answers));
        drop(clients);
        let facts = running.stop().expect("the workers worked");
        handed_over = facts.iter().map(|facts| facts.handed_over).sum();
        if handed_over > 0 {
            break;
        }
    }
    assert!(handed_over > 0, "no table was ever full: nothing was tested");
}

/// Connects until `worker` has the connection; the others go to `aside`.
fn connect_to(running: &Running, worker: usize, aside: &mut Vec<TcpStream>) -> TcpStream {
    loop {
        let before = running.connections()[worker];
        let mut client = connect(running);
        assert!(answers(&mut client));
        if running.connections()[worker] > before {
            return client;
        }
        aside.push(client);
    }
}

#[test]
fn pitfall_24_full_tables_fill_up_again_wherever_there_is_room() {
    if skip::without("uring") {
        return;
    }
    let running = serve(&cramped(2, 64, 64));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    while running.connections()[0] < 62 {
        let client = connect_to(&running, 0, &mut theirs);
        ours.push(client);
    }
    while running.connections()[1] < 62 {
        let client = connect_to(&running, 1, &mut ours);
        theirs.push(client);
    }
    // Both tables are full. One worker's connections go; the other's listener still gets its share of what comes.
    theirs.into_iter().for_each(reset);
    let mut fresh: Vec<_> = (0..40).map(|_| connect(&running)).collect();
    assert!(fresh.iter_mut().all(answers), "somebody sits unserved before a worker that is full while the other has room");
    assert!(ours.iter_mut().all(answers));
    running.stop().expect("the workers worked");
}

#[test]
fn pitfall_25_drain_serves_who_had_connected() {
    if skip::without("uring") {
        return;
    }
    for workers in [1, 2] {
        let mut running = serve(&options(workers));
        let mut idle = connect(&running);
        assert!(answers(&mut idle));
        let mut clients: Vec<_> = (0..300).map(|_| connect(&running)).collect();
        for client in &mut clients {
            client.write_all(REQUEST).expect("connected");
        }
        running.drain(Duration::from_secs(1));
        for client in &mut clients {
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).expect("an orderly end, not a reset");
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        }
        assert_eq!(idle.read(&mut [0; 64]).expect("an orderly end"), 0);
        drop((clients, idle));
        wait_for_drain(&mut running, workers);
        assert!(TcpStream::connect(running.bound.listen[0]).is_err(), "nobody listens any more");
        running.stop().expect("the workers worked");
    }
}

fn wait_for_drain(running: &mut Running, workers: usize) {
    let mut drained = 0;
    eventually("every worker drained", || {
        drained += running.drained();
        drained == workers
    });
}

/// As a server does that is told to end in a burst of connections: stopped as soon as every worker says that it is drained, and
/// only then looked at by its clients.
#[test]
fn pitfall_25_drain_waits_for_who_is_being_accepted() {
    if skip::without("uring") {
        return;
    }
    for round in 0..60 {
        let mut running = serve(&cramped(1 + round % 2, 2000, 64));
        let mut clients: Vec<_> = (0..50).map(|_| connect(&running)).collect();
        for client in &mut clients {
            client.write_all(REQUEST).expect("connected");
        }
        running.drain(Duration::from_secs(1));
        let reading: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                std::thread::spawn(move || {
                    let mut answer = Vec::new();
                    client.read_to_end(&mut answer).map(|_| answer)
                })
            })
            .collect();
        wait_for_drain(&mut running, 1 + round % 2);
        running.stop().expect("the workers worked");
        for client in reading {
            let answer = client.join().expect("no panic").expect("an orderly end, not a reset");
            assert!(answer.starts_with(b"HTTP/1.1 200"), "round {round}: {:?}", String::from_utf8_lossy(&answer));
        }
    }
}

#[test]
fn pitfall_25_a_drain_takes_over_more_connections_than_there_are_slots() {
    if skip::without("uring") {
        return;
    }
    let mut running = serve(&cramped(1, 64, 64));
    let mut clients: Vec<_> = (0..60).map(|_| connect(&running)).collect();
    assert!(clients.iter_mut().all(answers));
    let mut waiting: Vec<_> = (0..40).map(|_| connect(&running)).collect();
    for client in &mut waiting {
        client.write_all(REQUEST).expect("connected");
    }
    running.drain(Duration::from_secs(20));
    drop(clients);
    for client in &mut waiting {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("an orderly end, not a reset");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
    }
    drop(waiting);
    wait_for_drain(&mut running, 1);
    running.stop().expect("the workers worked");
}

#[test]
fn a_busy_port_is_refused_with_the_remedy() {
    if skip::without("uring") {
        return;
    }
    let running = serve(&options(1));
    let mut second = options(1);
    second.listen = running.bound.listen.clone();
    let error = start(&second).err().expect("the port is taken");
    assert!(error.to_string().contains("already in use") && error.to_string().contains("--listen"), "{error}");
    running.stop().expect("the workers worked");
}

#[test]
fn quiet_connections_are_parked_and_wake() {
    if skip::without("uring") {
        return;
    }
    let mut options = options(1);
    options.quiet_after = Duration::from_millis(40);
    let running = serve(&options);
    let mut busy = connect(&running);
    let mut quiet_for = |pause: u64| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(pause) {
            assert!(answers(&mut busy), "the busy one is served all the time");
        }
    };
    let mut clients: Vec<_> = (0..50).map(|_| connect(&running)).collect();
    for pause in [0, 10, 150, 0, 150, 70, 0, 100] {
        assert!(clients.iter_mut().all(answers), "before a quiet time of {pause} ms");
        quiet_for(pause);
    }
    let mut half_closed = clients.pop().expect("fifty");
    half_closed.write_all(REQUEST).expect("connected");
    half_closed.shutdown(Shutdown::Write).expect("connected");
    let mut answer = Vec::new();
    half_closed.read_to_end(&mut answer).expect("an orderly end");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "the request comes before the hang-up");
    quiet_for(200);
    let facts = running.stop().expect("the workers worked").remove(0);
    assert_eq!(facts.parked, if on_epoll() { 0 } else { 49 });
}

#[test]
fn a_client_that_sends_ahead_is_paused_and_loses_nothing() {
    if skip::without("uring") {
        return;
    }
    let mut shard = shard::Options::default();
    shard.hub.namespaces[0].allow_subscribe = ringmain::hub::Access::Anyone;
    let mut options = options(1);
    options.shard = Arc::new(shard);
    let running = serve(&options);
    let mut client = connect(&running);
    // The poll holds the connection for a second; what comes behind it has nowhere to go meanwhile.
    let poll = b"GET /channels/news?via=poll&wait=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.write_all(poll).expect("connected");
    let mut writer = client.try_clone().expect("a descriptor");
    let writing = std::thread::spawn(move || (0..3000).try_for_each(|_| writer.write_all(REQUEST)));
    let (mut answers, mut text, mut buffer) = (0, Vec::new(), [0; 16_384]);
    while answers < 3001 {
        let bytes = client.read(&mut buffer).expect("answers");
        assert!(bytes > 0, "closed after {answers} answers: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..bytes]);
        let status = b"HTTP/1.1 200 ";
        answers += text.windows(status.len()).filter(|window| window == status).count();
        // Only what could be the beginning of a status line is looked at again.
        text.drain(..text.len().saturating_sub(status.len() - 1));
    }
    writing.join().expect("no panic").expect("all written");
    running.stop().expect("the workers worked");
}

/// Unasked-for pongs (RFC 6455 section 5.5.3): nobody answers them, so nothing holds their sender back.
fn send_pongs_until(stop: &std::sync::atomic::AtomicBool, mut client: TcpStream) {
    let pong = [&[0x8a, 0x80 | 125, 0, 0, 0, 0][..], &[7; 125]].concat();
    let pongs = pong.repeat(8000);
    client.set_write_timeout(Some(PATIENCE)).expect("a socket option");
    while !stop.load(std::sync::atomic::Ordering::Relaxed) && client.write_all(&pongs).is_ok() {}
}

#[test]
fn clients_that_never_stop_sending_starve_nobody() {
    if skip::without("uring") {
        return;
    }
    let running = serve(&options(1));
    let mut idle = connect(&running);
    assert!(answers(&mut idle));
    let url = format!("ws://{}/echo", running.bound.listen[0]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let (socket, _) = tungstenite::client(&url, connect(&running)).expect("the echo door");
            let client = socket.get_ref().try_clone().expect("a descriptor");
            let stop = &stop;
            scope.spawn(move || send_pongs_until(stop, client));
        }
        let start = Instant::now();
        let served = (0..20).all(|_| answers(&mut idle) && answers(&mut connect(&running)));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(served, "nobody else was served for {:?}", start.elapsed());
    });
    running.stop().expect("the workers worked");
}

/// Bytes of a proxied response in the tests, each telling its place.
const PROXIED_BYTES: usize = 4 << 20;

fn proxied_byte(place: usize) -> u8 {
    (place ^ place >> 8 ^ place >> 16) as u8
}

/// One worker before a backend that answers everybody with [`PROXIED_BYTES`]. The backend ends with the test.
fn serve_before_a_backend() -> Running {
    let backend = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = backend.local_addr().expect("bound");
    std::thread::spawn(move || {
        for peer in backend.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer_at_length(peer));
        }
    });
    let mut shard = shard::Options::default();
    let upstream = ringmain::proxy::Upstream { connections_max: 100, ..ringmain::proxy::Upstream::new("app", vec![address]) };
    shard.proxy.upstreams = vec![upstream];
    shard.proxy.routes = vec![ringmain::proxy::Route { host: None, path: "/".into(), upstream: 0 }];
    let mut options = options(1);
    options.shard = Arc::new(shard);
    serve(&options)
}

fn answer_at_length(mut peer: TcpStream) {
    let mut request = [0; 4096];
    let bytes: Vec<u8> = (0..PROXIED_BYTES).map(proxied_byte).collect();
    while peer.read(&mut request).is_ok_and(|bytes| bytes > 0) {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {PROXIED_BYTES}\r\n\r\n");
        if peer.write_all(head.as_bytes()).and_then(|()| peer.write_all(&bytes)).is_err() {
            return;
        }
    }
}

/// Asks for what the backend has, and takes as little as it can.
fn ask_and_stop(running: &Running) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a socket option");
    socket.connect(&running.bound.listen[0].into()).expect("the server listens");
    let mut client = TcpStream::from(socket);
    client.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    client.write_all(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("connected");
    client
}

/// Reads the rest of the answer and checks every byte.
fn read_at_length(client: TcpStream) {
    let mut client = BufReader::new(client);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(client.read_line(&mut line).expect("the head") > 0);
    }
    let mut bytes = vec![0; PROXIED_BYTES];
    client.read_exact(&mut bytes).expect("the body");
    assert!(bytes.into_iter().enumerate().all(|(place, byte)| byte == proxied_byte(place)));
}

/// Bytes that wait for clients that are behind.
fn queued_bytes(running: &Running) -> usize {
    let mut client = connect(running);
    client.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("connected");
    let mut text = String::new();
    client.read_to_string(&mut text).expect("the metrics");
    let line = text.lines().find_map(|line| line.strip_prefix("ringmain_send_queue_bytes "));
    line.expect("the gauge").parse().expect("a number")
}

#[test]
fn a_proxied_reader_that_stops_holds_one_receive() {
    if skip::without("uring") {
        return;
    }
    let running = serve_before_a_backend();
    let client = ask_and_stop(&running);
    eventually("something waits", || queued_bytes(&running) > 0);
    for _ in 0..100 {
        let queued = queued_bytes(&running);
        assert!(queued <= 32 << 10, "{queued} bytes wait: more was read than could be passed on");
    }
    read_at_length(client);
    running.stop().expect("the workers worked");
}

#[test]
fn pitfall_04_more_upstreams_than_large_buffers() {
    if skip::without("uring") {
        return;
    }
    let running = serve_before_a_backend();
    let clients: Vec<_> = (0..80).map(|_| ask_and_stop(&running)).collect();
    let readers: Vec<_> = clients.into_iter().map(|client| std::thread::spawn(move || read_at_length(client))).collect();
    for reader in readers {
        reader.join().expect("every byte came, in its place");
    }
    running.stop().expect("the workers worked");
}

/// Runs one test of this file in a process of its own, under limits set by `wrapper`. The binary is copied to where any user
/// may read it.
fn in_child(test: &str, wrapper: &[&str]) {
    let place = tempfile::tempdir().expect("a directory");
    let binary = place.path().join("ring-tests");
    std::fs::copy(std::env::current_exe().expect("a path"), &binary).expect("a copy");
    for path in [place.path(), &binary] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    let output = std::process::Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(&binary)
        .args([test, "--exact", "--nocapture"])
        .env("RINGMAIN_TEST_CHILD", test)
        .current_dir("/")
        .output()
        .expect("util-linux is installed");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

fn is_child(test: &str) -> bool {
    std::env::var("RINGMAIN_TEST_CHILD").is_ok_and(|child| child == test)
}

/// The server's half of a test whose clients live in another process: says its port, and works until its input ends.
fn serve_for_parent(options: &ServeOptions) {
    let running = serve(options);
    println!("port {}", running.bound.listen[0].port());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    running.stop().expect("the workers worked");
}

#[test]
fn pitfall_17_fewer_descriptors_than_the_table() {
    let me = "pitfall_17_fewer_descriptors_than_the_table";
    if without_uring() {
        return;
    }
    if is_child(me) {
        return serve_for_parent(&options(4));
    }
    // One ring would hold 260 connections at most: rings beyond the cores hold more.
    let mut child = std::process::Command::new("prlimit")
        .arg("--nofile=260:260")
        .arg(std::env::current_exe().expect("a path"))
        .args([me, "--exact", "--nocapture"])
        .env("RINGMAIN_TEST_CHILD", me)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("util-linux is installed");
    let mut said = BufReader::new(child.stdout.take().expect("piped"));
    let port = std::iter::from_fn(|| {
        let mut line = String::new();
        said.read_line(&mut line).ok().filter(|&bytes| bytes > 0).map(|_| line)
    })
    .find_map(|line| line.split_once("port ").and_then(|(_, port)| port.trim().parse().ok()))
    .expect("the server says its port");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut clients: Vec<_> = (0..700)
        .map(|_| {
            let client = TcpStream::connect(address).expect("the server listens");
            client.set_read_timeout(Some(PATIENCE)).expect("a socket option");
            client
        })
        .collect();
    assert!(clients.iter_mut().all(answers), "four tables of 260 hold 700");
    assert!(clients.iter_mut().all(answers));
    drop((clients, child.stdin.take()));
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("the server's last words");
    assert!(child.wait().expect("the server ended").success(), "{rest}");
}

/// Runs the test in a child process as an ordinary user who may lock so much. The limit is per user, so each test has its own.
fn as_ordinary_user(test: &str, user: u32, locked_mib: u32) {
    let memlock = format!("--memlock={0}:{0}", locked_mib << 20);
    let limits = ["prlimit", &memlock, "--nofile=20000:20000"];
    let user = format!("--reuid={user}");
    let as_user = ["setpriv", &user, "--regid=65534", "--clear-groups"];
    let root = rustix::process::geteuid().is_root();
    in_child(test, &[&limits[..], if root { &as_user[..] } else { &[] }].concat());
}

#[test]
fn pitfall_23_many_workers_as_an_ordinary_user() {
    let me = "pitfall_23_many_workers_as_an_ordinary_user";
    if without_uring() {
        return;
    }
    if !is_child(me) {
        return as_ordinary_user(me, 65_534, 8);
    }
    let running = serve(&options(51));
    assert!(running.bound.interface.is_shrunk(), "{}", running.bound.interface);
    let mut clients: Vec<_> = (0..500).map(|_| connect(&running)).collect();
    assert!(clients.iter_mut().all(answers));
    running.stop().expect("the workers worked");
}

#[test]
fn pitfall_23_queues_are_halved_when_memory_may_not_be_locked() {
    let me = "pitfall_23_queues_are_halved_when_memory_may_not_be_locked";
    if without_uring() {
        return;
    }
    if !is_child(me) {
        return as_ordinary_user(me, 65_533, 6);
    }
    // Nothing is known of the limit, as when other processes of the user are near it: four rings are whole, the fifth finds ENOMEM.
    let mut options = options(5);
    options.ring.locked_bytes_max = Some(u64::MAX);
    let running = serve(&options);
    assert!(running.bound.interface.is_shrunk(), "{}", running.bound.interface);
    let mut clients: Vec<_> = (0..200).map(|_| connect(&running)).collect();
    assert!(clients.iter_mut().all(answers));
    running.stop().expect("the workers worked");
}

/// What can only be tested where a ring is refused: no memory may be locked, and this user has no rings yet.
fn as_user_without_rings(test: &str, user: u32) {
    as_ordinary_user(test, user, 0);
}

#[test]
fn auto_falls_back_to_epoll_and_says_why() {
    let me = "auto_falls_back_to_epoll_and_says_why";
    if without_uring() {
        return;
    }
    if !is_child(me) {
        return as_user_without_rings(me, 65_532);
    }
    let mut options = options(2);
    let error = start(&options).err().expect("a ring cannot be had, and is insisted on");
    assert!(error.to_string().contains("LimitMEMLOCK=infinity"), "{error}");
    options.io = Io::Auto;
    let running = serve(&options);
    let Interface::Epoll { refused: Some(error), connections } = &running.bound.interface else {
        panic!("{}", running.bound.interface)
    };
    assert!(error.to_string().contains("LimitMEMLOCK=infinity"), "{error}");
    assert!((9900..10_000).contains(connections), "half of 20,000 descriptors each, but for what else is open: {connections}");
    let mut clients: Vec<_> = (0..50).map(|_| connect(&running)).collect();
    assert!(clients.iter_mut().all(answers));
    running.stop().expect("the workers worked");
}

#[test]
fn on_epoll_the_descriptors_of_the_process_are_shared_and_never_exceeded() {
    let me = "on_epoll_the_descriptors_of_the_process_are_shared_and_never_exceeded";
    if !is_child(me) {
        return in_child(me, &["prlimit", "--nofile=400:400"]);
    }
    let mut options = options(3);
    options.io = Io::Epoll;
    let running = serve(&options);
    let Interface::Epoll { connections, .. } = running.bound.interface else { panic!("{}", running.bound.interface) };
    // Both ends are in this process: its own ones take half of what is left to the server.
    assert_eq!(connections, (400 - 32 - 3 * 4) / 3);
    let mut clients: Vec<_> = (0..150).map(|_| connect(&running)).collect();
    assert!(clients.iter_mut().all(answers));
    let facts = running.stop().expect("the workers worked");
    assert!(facts.iter().all(|facts| facts.accept_backoff.iter().next().is_none()), "the limit was run into");
}

#[test]
fn every_test_in_the_table_of_pitfalls_exists() {
    let (_, table) = include_str!("../ARCHITECTURE.md").split_once("## Kernel pitfalls").expect("the section");
    let mut sources = include_str!("ring.rs").to_owned();
    for file in [
        "ring/tests/endings.rs",
        "ring/tests/queues.rs",
        "ring/tests/receives.rs",
        "ring/tests/sends.rs",
        "ring/tests/starting.rs",
        "ring/options.rs",
        "ring/sends.rs",
        "base/doorbell.rs",
        "net/uring/tests.rs",
        "net/uring/cells.rs",
        "net/loads.rs",
        "net/room.rs",
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
        sources += &std::fs::read_to_string(path).expect("a source file");
    }
    let rows: Vec<&str> =
        table.lines().skip_while(|line| !line.starts_with('|')).skip(2).take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 26);
    for row in rows {
        let tests = row.split('|').nth(3).expect("the third column").trim();
        for name in tests.split(',').map(|name| name.trim().trim_matches('`')).filter(|&name| name != "none") {
            assert!(sources.contains(&format!("fn {name}(")), "{name} does not exist");
        }
    }
}
