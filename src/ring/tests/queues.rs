//! Queues that overflow or fill up, and when completions appear.

use super::*;

#[test]
fn pitfall_09_completion_queue_overflow() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&Options { sq_entries: 8, cq_entries: 16, buffers: 512, ..options() });
    let pairs: Vec<_> = (0..40).map(|_| bench.pair()).collect();
    let servers: Vec<ConnId> = pairs.iter().map(|(_, server)| *server).collect();
    for (mut client, server) in pairs {
        client.write_all(&pattern(u64::from(server.slot), 9000)).expect("connected");
    }
    // An overflow also ends multishot receives in the middle of their data: those are armed again.
    let (got, _) = receive_all(&mut bench, &servers, 40 * 9000);
    assert!(bench.ring.counters().cq_overflows > 0, "the queue never overflowed: nothing was tested");
    for server in servers {
        assert!(got[&server.slot] == pattern(u64::from(server.slot), 9000), "{server}");
    }
}

/// The kernel runs 20 pieces of deferred work in an enter; what it leaves waits for a whole turn, and so does all behind it.
#[test]
fn all_that_became_ready_comes_in_one_enter() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let mut pairs: Vec<_> = (0..200).map(|_| bench.pair()).collect();
    for (_, server) in &pairs {
        bench.ring.poll_in(*server);
    }
    bench.ring.enter(Wait::No).expect("enter");
    assert!(bench.ring.pop().is_none(), "nothing is ready yet");
    for (client, _) in &mut pairs {
        client.write_all(b"ready").expect("connected");
    }
    bench.ring.enter(Wait::No).expect("enter");
    let ready = std::iter::from_fn(|| bench.ring.pop()).filter(|seen| seen.token.kind == Kind::PollIn).count();
    assert_eq!(ready, pairs.len());
}

#[test]
fn what_comes_gathers_up_to_a_number_or_for_a_time() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let mut pairs: Vec<_> = (0..4).map(|_| bench.pair()).collect();
    for (_, server) in &pairs {
        bench.ring.receive_multishot(*server);
    }
    bench.ring.enter(Wait::No).expect("enter");
    pairs[0].0.write_all(b"early").expect("connected");
    bench.until("the first", |_, completion| completion.lease.is_some().then_some(()));
    let mut late: Vec<_> = pairs.drain(1..).map(|(client, _)| client).collect();
    let sender = std::thread::spawn(move || {
        late.iter_mut().for_each(|client| client.write_all(b"late").expect("connected"));
        late
    });
    bench.ring.enter(Wait::Gather { completions: 3, at_most: Duration::from_secs(60) }).expect("all three come long before");
    let came = std::iter::from_fn(|| bench.ring.pop()).filter(|completion| completion.lease.is_some()).count();
    assert_eq!(came, 3);
    let before = Instant::now();
    bench.ring.enter(Wait::Gather { completions: 1, at_most: Duration::from_millis(20) }).expect("nobody else sends");
    assert!(before.elapsed() >= Duration::from_millis(20) && !bench.ring.has_completions());
    sender.join().expect("it has sent");
}

#[test]
fn pitfall_10_submission_queue_full_in_a_slice() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&Options { sq_entries: 8, ..options() });
    let mut pairs: Vec<_> = (0..100).map(|_| bench.pair()).collect();
    for (_, server) in &pairs {
        bench.ring.push_send(*server, one(&pattern(u64::from(server.slot), 500)), 0);
    }
    bench.ring.enter(Wait::No).expect("enter");
    assert!(bench.ring.counters().sq_full >= 10);
    assert!(bench.ring.pop_refused().is_none());
    for (client, server) in &mut pairs {
        let mut got = [0; 500];
        client.read_exact(&mut got).expect("the frame");
        assert!(got[..] == pattern(u64::from(server.slot), 500));
    }
}

#[test]
fn pitfall_10_the_kernel_takes_fewer_than_offered() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let mut pairs: Vec<_> = (0..5).map(|_| bench.pair()).collect();
    for (_, server) in &pairs {
        bench.ring.push_send(*server, one(b"frame"), 0);
    }
    bench.ring.enter_partly(2).expect("enter");
    let busy: Vec<bool> = pairs.iter().map(|(_, server)| bench.ring.is_sending(*server)).collect();
    assert_eq!(busy, [false, false, true, true, true], "what was not consumed is not sent");
    bench.ring.enter(Wait::No).expect("enter");
    assert_eq!(bench.ring.undecided_sends(), 0);
    for (client, _) in &mut pairs {
        client.read_exact(&mut [0; 5]).expect("the frame");
    }
}

#[test]
fn pitfall_10_nothing_waits_behind_what_the_queue_had_no_room_for() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&Options { sq_entries: 8, ..options() });
    let mut pairs: Vec<_> = (0..12).map(|_| bench.pair()).collect();
    bench.ring.begin_backlog();
    for (_, server) in &pairs {
        bench.ring.push_send(*server, one(b"frame"), 0);
    }
    let (before, wait) = (Instant::now(), Duration::from_secs(5));
    bench.ring.enter(Wait::AtMost(wait)).expect("enter");
    assert!(before.elapsed() < wait, "silent sends filled the queue, and the rest waited for something to happen");
    assert_eq!(bench.ring.undecided_sends(), 0);
    for (client, _) in &mut pairs {
        client.read_exact(&mut [0; 5]).expect("the frame");
    }
}

#[test]
fn pitfall_14_doorbells_into_a_full_or_closing_ring() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&Options { cq_entries: 64, ..options() });
    let (give, take) = std::sync::mpsc::channel();
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let receiver = std::thread::spawn(move || {
        let mut receiver = Bench::new(&Options { sq_entries: 8, cq_entries: 16, ..options() });
        give.send(receiver.ring.as_fd().try_clone_to_owned().expect("a descriptor")).expect("the test waits");
        finished.recv().expect("the test rings first");
        let mut rung = 0;
        receiver.until("forty bells", |_, seen| {
            rung += i32::from(seen.token.kind == Kind::Doorbell);
            (rung == 40).then_some(())
        });
    });
    let ring = take.recv().expect("the receiver started");
    for number in 0..40 {
        bench.ring.ring_doorbell(ring.as_fd(), number);
    }
    bench.ring.enter(Wait::No).expect("enter");
    done.send(()).expect("the receiver waits");
    receiver.join().expect("no bell was lost");
    // Its thread is gone: a bell for it fails here and is told, or reaches a ring that nobody reads; it harms nobody.
    bench.ring.ring_doorbell(ring.as_fd(), 7);
    bench.ring.enter(Wait::No).expect("enter");
    if let Some(failed) = bench.ring.pop() {
        assert_eq!((failed.token.kind, failed.token.slot), (Kind::DoorbellFailed, 7));
    }
    drop(ring);
    // A descriptor that is no ring at all.
    bench.ring.ring_doorbell(bench.listener.as_fd(), 8);
    let failed = bench.until("failure", |_, seen| (seen.token.kind == Kind::DoorbellFailed).then_some(seen.token.slot));
    assert_eq!(failed, 8);
}

#[test]
fn pitfall_19_completions_come_only_inside_enter() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let (mut client, server) = bench.pair();
    bench.ring.receive_multishot(server);
    bench.ring.enter(Wait::No).expect("enter");
    client.write_all(b"x").expect("connected");
    client.shutdown(Shutdown::Write).expect("connected");
    assert_eq!(bench.ring.unread_completions(), 0, "nothing comes by itself");
    // An enter that submits and waits for nothing still asks for events.
    bench.ring.enter(Wait::No).expect("enter");
    assert!(bench.ring.has_completions());
}
