//! Receives: data that comes last or with an end, buffers that must come home, wakes of parked connections.

use super::*;

#[test]
fn pitfall_05_data_with_the_last_completion() {
    if skip::without("uring") {
        return;
    }
    for buffers in [1, 4] {
        let mut bench = Bench::new(&Options { buffers, ..options() });
        let (mut client, server) = bench.pair();
        client.write_all(&pattern(0, 10_000)).expect("connected");
        drop(client);
        let (got, _) = receive_all(&mut bench, &[server], 10_000);
        assert!(got[&server.slot] == pattern(0, 10_000), "{buffers} buffers");
    }
    // A queue too small for what comes ends receives with the data that they carry.
    let mut bench = Bench::new(&Options { sq_entries: 8, cq_entries: 16, buffers: 512, ..options() });
    let pairs: Vec<_> = (0..40).map(|_| bench.pair()).collect();
    let servers: Vec<ConnId> = pairs.iter().map(|(_, server)| *server).collect();
    for (mut client, _) in pairs {
        client.write_all(&pattern(0, 9000)).expect("connected");
    }
    let (got, last_with_data) = receive_all(&mut bench, &servers, 40 * 9000);
    assert!(last_with_data > 0, "no receive ended with data: nothing was tested");
    assert!(got.values().all(|bytes| *bytes == pattern(0, 9000)));
}

#[test]
fn pitfall_06_buffers_come_home() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let all = bench.ring.buffers_free();
    for round in 0..200 {
        let (mut client, server) = bench.pair();
        bench.ring.receive_multishot(server);
        client.write_all(&pattern(0, 100 + round * 20)).expect("connected");
        if round % 2 == 0 {
            drop(client);
        } else {
            bench.ring.enter(Wait::No).expect("enter");
            bench.ring.cancel(server, Kind::Receive);
        }
        bench.until("the receive's end", |ring, seen| {
            if let Some(lease) = seen.lease {
                ring.give_back(lease);
            }
            (seen.token.kind == Kind::Receive && !seen.more).then_some(())
        });
        bench.ring.close(server);
    }
    assert_eq!(bench.ring.buffers_free(), all);
    // Counted as free is not yet free: the kernel must be able to take every one of them.
    let pairs: Vec<_> = (0..=all).map(|_| bench.pair()).collect();
    for (client, server) in &pairs {
        (&*client).write_all(b"x").expect("connected");
        bench.ring.receive_once(*server);
    }
    let (mut leases, mut refused) = (Vec::new(), 0);
    bench.until("a buffer for everybody but one", |_, seen| {
        refused += u16::from(seen.result == -libc::ENOBUFS);
        leases.extend(seen.lease);
        (leases.len() == usize::from(all) && refused == 1).then_some(())
    });
    leases.into_iter().for_each(|lease| bench.ring.give_back(lease));
}

#[test]
fn pitfall_06_large_buffers_run_out_and_come_home() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    assert_eq!(bench.ring.bulk_buffers_free(), None, "nobody has needed them");
    let pairs: Vec<_> = (0..40).map(|_| bench.pair()).collect();
    for round in 0..3 {
        let sent: Vec<u8> = pattern(round, 5000);
        for (client, server) in &pairs {
            (&*client).write_all(&sent).expect("connected");
            bench.ring.receive_bulk(*server);
        }
        // One receive brings what eight small buffers would have; who finds none asks again.
        let (mut leases, mut refused) = (Vec::new(), Vec::new());
        bench.until("everybody's first receive", |ring, mut seen| {
            match seen.lease.take() {
                Some(mut lease) => {
                    assert_eq!(ring.bytes(&mut lease), sent);
                    leases.push(lease);
                }
                None if seen.result == -libc::ENOBUFS => refused.push(seen.token.slot),
                None => {}
            }
            (leases.len() + refused.len() == pairs.len()).then_some(())
        });
        assert_eq!((leases.len(), bench.ring.bulk_buffers_free()), (32, Some(0)));
        leases.into_iter().for_each(|lease| bench.ring.give_back(lease));
        for &slot in &refused {
            bench.ring.receive_bulk(conn(slot));
        }
        let mut left = refused.len();
        bench.until("everybody else's", |ring, seen| {
            if let Some(lease) = seen.lease {
                ring.give_back(lease);
                left -= 1;
            }
            (left == 0).then_some(())
        });
        assert_eq!((bench.ring.bulk_buffers_free(), bench.ring.buffers_free()), (Some(32), 64));
    }
}

#[test]
fn the_buffer_that_was_given_back_last_is_used_again_soon() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&Options { buffers: 1024, ..options() });
    let (mut client, server) = bench.pair();
    bench.ring.receive_multishot(server);
    let mut used = std::collections::HashSet::new();
    for _ in 0..2000 {
        client.write_all(b"one at a time").expect("connected");
        let address = bench.until("the bytes", |ring, seen| {
            let mut lease = seen.lease?;
            let address = ring.bytes(&mut lease).as_ptr().addr();
            ring.give_back(lease);
            Some(address)
        });
        used.insert(address);
    }
    assert!(used.len() < 300, "{} buffers went through the caches", used.len());
}

#[test]
fn all_that_is_read_in_one_enter_finds_a_buffer() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&Options { sq_entries: 1024, buffers: 1024, ..options() });
    let pairs: Vec<_> = (0..600).map(|_| bench.pair()).collect();
    for round in 0..3 {
        for (client, server) in &pairs {
            (&*client).write_all(b"words").expect("connected");
            bench.ring.receive_once(*server);
        }
        let mut leases = Vec::new();
        bench.until("everybody's words", |_, seen| {
            assert_ne!(seen.result, -libc::ENOBUFS, "in round {round}, behind {} others", leases.len());
            leases.extend(seen.lease);
            (leases.len() == pairs.len()).then_some(())
        });
        leases.into_iter().for_each(|lease| bench.ring.give_back(lease));
    }
}

#[test]
fn a_burst_that_ran_out_of_buffers_finds_more_the_next_time() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&Options { sq_entries: 1024, buffers: 1024, ..options() });
    let pairs: Vec<_> = (0..30).map(|_| bench.pair()).collect();
    let mut refused = 0;
    for _ in 0..3 {
        refused = 0;
        for (client, server) in &pairs {
            (&*client).write_all(&pattern(0, 40_000)).expect("connected");
            bench.ring.receive_multishot(*server);
        }
        let mut received = 0;
        bench.until("everybody's bytes", |ring, seen| {
            received += usize::try_from(seen.result).unwrap_or(0);
            if let Some(lease) = seen.lease {
                ring.give_back(lease);
            }
            if seen.result == -libc::ENOBUFS {
                refused += 1;
                ring.receive_multishot(conn(seen.token.slot));
            }
            (received == pairs.len() * 40_000).then_some(())
        });
        for (_, server) in &pairs {
            bench.ring.cancel(*server, Kind::Receive);
        }
        let mut ends = 0;
        bench.until("the receives' ends", |_, seen| {
            ends += usize::from(seen.token.kind == Kind::Receive && !seen.more);
            (ends == pairs.len()).then_some(())
        });
    }
    assert_eq!(refused, 0);
}

#[test]
fn pitfall_13_poll_edges() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let (mut client, server) = bench.pair();
    bench.ring.poll_in(server);
    for round in 0..300u32 {
        client.write_all(&[round as u8]).expect("connected");
        bench.until("readiness", |_, seen| (seen.token.kind == Kind::PollIn && seen.more).then_some(()));
        bench.ring.receive_once(server);
        // A byte that arrives around the receive must wake the poll again, or be in this receive.
        if round % 3 == 0 {
            client.write_all(&[round as u8]).expect("connected");
        }
        let mut owed = 1 + usize::from(round % 3 == 0);
        bench.until("the bytes", |ring, seen| {
            match seen.token.kind {
                Kind::PollIn if owed > 0 => ring.receive_once(server),
                Kind::ReceiveOnce => owed -= usize::try_from(seen.result).unwrap_or(0),
                _ => {}
            }
            if let Some(lease) = seen.lease {
                ring.give_back(lease);
            }
            (owed == 0).then_some(())
        });
        // Receives that found nothing are over before the next round.
        bench.ring.enter(Wait::No).expect("enter");
        while bench.ring.pop().is_some() {}
    }
    client.write_all(b"last words").expect("connected");
    client.shutdown(Shutdown::Write).expect("connected");
    let hang_up = libc::POLLRDHUP as i32;
    bench.until("hang-up", |_, seen| (seen.token.kind == Kind::PollIn && seen.result & hang_up != 0).then_some(()));
    let mut results = Vec::new();
    for _ in 0..2 {
        bench.ring.receive_once(server);
        results.push(bench.until("receive", |ring, seen| {
            if let Some(lease) = seen.lease {
                ring.give_back(lease);
            }
            (seen.token.kind == Kind::ReceiveOnce).then_some((seen.result, seen.nonempty))
        }));
    }
    assert_eq!(results[0].0, 10, "data comes before the end of data");
    assert_eq!(results[1].0, 0);
}
