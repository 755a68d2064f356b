//! Sends: whole or told of, one at a time, to peers that read slowly, not at all, or are gone.

use super::*;

#[test]
fn bytes_go_both_ways_and_the_peer_is_known() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    assert!(bench.ring.features().registered_ring);
    let (mut client, server) = bench.pair();
    bench.ring.peer_name(server, LOOPBACK);
    let seen = bench.until("peer name", |_, seen| (seen.token.kind == Kind::PeerName).then_some(seen.address));
    assert_eq!(seen, client.local_addr().ok());
    bench.ring.receive_multishot(server);
    client.write_all(b"hello").expect("connected");
    let got = bench.until("bytes", |ring, seen| {
        let mut lease = seen.lease?;
        let bytes = ring.bytes(&mut lease).to_vec();
        ring.give_back(lease);
        Some(bytes)
    });
    assert_eq!(got, b"hello");
    bench.ring.push_send(server, Frames::Many(vec![Frame::reply(&b"-wor"[..]), Frame::reply(&b"ld"[..])]), 1);
    bench.ring.enter(Wait::No).expect("enter");
    assert!(bench.ring.pop_refused().is_none());
    let mut reply = [0; 5];
    client.read_exact(&mut reply).expect("the reply");
    assert_eq!(&reply, b"world");
    bench.ring.cancel(server, Kind::Receive);
    bench.until("end of receive", |_, seen| (seen.token.kind == Kind::Receive && !seen.more).then_some(()));
    bench.ring.close(server);
    bench.until("close", |_, seen| (seen.token.kind == Kind::Close).then_some(()));
    assert_eq!(client.read(&mut reply).expect("eof"), 0);
}

#[test]
fn pitfall_01_silent_short_send() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::with_tiny_buffers(&options());
    let (_client, server) = bench.pair();
    bench.ring.push_send(server, one(&pattern(0, 4 << 20)), 0);
    bench.ring.enter(Wait::No).expect("enter");
    let refused = bench.ring.pop_refused().expect("a short send is not silent");
    let taken = refused.outcome.expect("the connection is whole");
    assert!(taken > 0 && taken < 4 << 20, "{taken}");
    assert_eq!(refused.frames.bytes(), 4 << 20, "the frames come back");
}

#[test]
fn pitfall_01_every_silent_send_waits_for_all() {
    let source = include_str!("../queue.rs");
    assert_eq!(source.matches("opcode::Send::new").count() + source.matches("opcode::SendMsg::new").count(), 2);
    let flagged =
        source.matches(".flags(SEND_FLAGS | extra)").count() + source.matches(".flags((SEND_FLAGS | extra) as u32)").count();
    assert_eq!(flagged, 2, "a send without SEND_FLAGS");
    const { assert!(super::queue::SEND_FLAGS & libc::MSG_WAITALL != 0 && super::queue::SEND_FLAGS & libc::MSG_DONTWAIT != 0) };
}

/// Bytes in the send queue of the connection to `client`, as the kernel counts them: unsent and unacknowledged.
fn send_queue_bytes(client: &TcpStream) -> usize {
    let [peer, own] =
        [client.local_addr(), client.peer_addr()].map(|address| format!(":{:04X}", address.expect("connected").port()));
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("/proc");
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1].ends_with(&own) && row[2].ends_with(&peer)).expect("the connection is listed");
    let (queue, _) = row[4].split_once(':').expect("two queues");
    usize::from_str_radix(queue, 16).expect("a hexadecimal number")
}

#[test]
fn a_reader_that_has_stopped_pins_little_more_than_the_limit_of_unsent_bytes() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    Socket::from(bench.listener.try_clone().expect("a descriptor")).set_tcp_notsent_lowat(16 << 10).expect("a socket option");
    let (client, server) = bench.pair();
    assert!(bench.fill(&[server], 4096)[0] > 64 << 10, "the peer's side holds some, too");
    let bytes = send_queue_bytes(&client);
    assert!(bytes <= 40 << 10, "{bytes} bytes are pinned");
}

#[test]
fn pitfall_02_two_sends_in_one_submission() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::with_tiny_buffers(&options());
    let refusals = bench.stream(2 << 20, &[1000, 1, 3000, 7]);
    assert!(refusals > 10, "the socket was never full: nothing was tested ({refusals})");
}

#[test]
#[should_panic(expected = "two sends of one connection")]
fn pitfall_02_the_ring_refuses_a_second_send() {
    if skip::without("uring") {
        panic!("two sends of one connection (skipped)");
    }
    let mut bench = Bench::new(&options());
    let (_client, server) = bench.pair();
    bench.ring.push_send(server, one(b"a"), 0);
    bench.ring.push_send(server, one(b"b"), 0);
}

#[test]
fn pitfall_12_send_to_a_dead_peer() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let (client, server) = bench.pair();
    let client = Socket::from(client);
    client.set_linger(Some(Duration::ZERO)).expect("a socket option");
    drop(client);
    let mut errors = Vec::new();
    while errors.is_empty() {
        assert!(Instant::now() < bench.deadline);
        bench.ring.push_send(server, one(b"to nobody"), 0);
        bench.ring.enter(Wait::No).expect("enter");
        while let Some(refused) = bench.ring.pop_refused() {
            errors.push(refused.outcome);
        }
    }
    assert!(matches!(errors[..], [Err(libc::EPIPE | libc::ECONNRESET)]), "{errors:?}");
}

#[test]
fn pitfall_21_a_refusal_behind_thousands_of_receives() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::with_tiny_buffers(&Options { sq_entries: 256, cq_entries: 16_384, buffers: 8192, ..options() });
    let (full_client, full) = bench.pair();
    let listener = Socket::from(bench.listener.try_clone().expect("a descriptor"));
    listener.set_recv_buffer_size(1 << 20).expect("a socket option");
    let pairs: Vec<_> = (0..200).map(|_| bench.pair()).collect();
    for (client, _) in &pairs {
        (&*client).write_all(&pattern(0, 33 * 2048)).expect("room");
    }
    // Last of all: a late acknowledgement would make room again.
    let taken = bench.fill(&[full], 65_536)[0];
    for (_, server) in &pairs {
        bench.ring.receive_multishot(*server);
    }
    bench.ring.offer_all_buffers();
    bench.ring.push_send(full, one(&pattern(taken, 100)), 0);
    bench.ring.enter(Wait::No).expect("enter");
    // Known before a single receive was looked at.
    let refused = bench.ring.pop_refused().expect("the socket is full");
    assert_eq!((refused.conn, refused.outcome), (full, Ok(0)));
    let mut receives = 0;
    while let Some(seen) = bench.ring.pop() {
        receives += u32::from(seen.lease.is_some());
        if let Some(lease) = seen.lease {
            bench.ring.give_back(lease);
        }
    }
    assert!(receives >= 5000, "{receives} receives are too few to test anything");
    let reader = reader(full_client);
    let mut stream = Stream { offset: taken + 100, ..Stream::new(full) };
    stream.refused(&mut bench.ring, refused);
    bench.until("room", |_, seen| (seen.token.kind == Kind::PollOut).then_some(()));
    stream.blocked = false;
    stream.push(&mut bench.ring, &[]);
    bench.ring.enter(Wait::No).expect("enter");
    bench.ring.shutdown_writing(full);
    bench.ring.enter(Wait::No).expect("enter");
    assert_eq!(reader.join().expect("every byte in its place"), taken + 100);
}

#[test]
fn pitfall_22_refusals_in_an_overflowed_queue() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::with_tiny_buffers(&Options { sq_entries: 8, cq_entries: 16, ..options() });
    let pairs: Vec<_> = (0..60).map(|_| bench.pair()).collect();
    let servers: Vec<ConnId> = pairs.iter().map(|(_, server)| *server).collect();
    let taken = bench.fill(&servers, 65_536);
    let before = bench.ring.counters().cq_overflows;
    for (_, server) in &pairs {
        bench.ring.receive_multishot(*server);
    }
    bench.ring.enter(Wait::No).expect("enter");
    // The receives complete in the enter that carries the sends, more of them than the queue holds.
    for (client, _) in &pairs {
        (&*client).write_all(b"also something to read").expect("connected");
    }
    for (number, (_, server)) in pairs.iter().enumerate() {
        bench.ring.push_send(*server, one(&pattern(taken[number], 4 << 20)), 0);
    }
    bench.ring.enter(Wait::No).expect("enter");
    let mut refused = std::collections::HashSet::new();
    while let Some(seen) = bench.ring.pop_refused() {
        assert!(seen.outcome.is_ok_and(|taken| taken < 4 << 20), "{:?}", seen.outcome);
        refused.insert(seen.conn.slot);
    }
    assert_eq!(refused.len(), 60, "every refusal is known after one enter");
    assert!(bench.ring.counters().cq_overflows > before, "the queue never overflowed: nothing was tested");
    // And a whole stream through the same small queues stays whole.
    drop(pairs);
    assert!(bench.stream(2 << 20, &[1000, 1, 3000, 7]) > 0);
}
