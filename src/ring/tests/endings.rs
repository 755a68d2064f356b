//! Closing with something armed, and cancels that race with what they cancel.

use std::os::unix::net::UnixStream;

use super::*;

#[test]
fn pitfall_03_close_with_receive_and_poll_armed() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    for parked in [false, true] {
        let (mut client, server) = bench.pair();
        if parked {
            bench.ring.poll_in(server);
        } else {
            bench.ring.receive_multishot(server);
        }
        bench.ring.enter(Wait::No).expect("enter");
        bench.ring.cancel(server, if parked { Kind::PollIn } else { Kind::Receive });
        let mut left = 2;
        bench.until("two ends", |_, seen| {
            left -= i32::from(!seen.more);
            (left == 0).then_some(())
        });
        bench.ring.close(server);
        bench.until("close", |_, seen| (seen.token.kind == Kind::Close).then_some(()));
        assert_eq!(client.read(&mut [0; 8]).expect("an orderly end"), 0, "the peer saw the end");
    }
}

#[test]
fn pitfall_08_cancel_races() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let (mut client, server) = bench.pair();
    bench.ring.cancel(server, Kind::Receive);
    let result = bench.until("cancel of nothing", |_, seen| (seen.token.kind == Kind::Cancel).then_some(seen.result));
    assert_eq!(result, -libc::ENOENT);
    bench.ring.receive_multishot(server);
    bench.ring.enter(Wait::No).expect("enter");
    bench.ring.cancel(server, Kind::Receive);
    let mut results = Vec::new();
    bench.until("cancel of a waiting receive", |_, seen| {
        results.push((seen.token.kind, seen.result));
        (results.len() == 2).then_some(())
    });
    assert!(results.contains(&(Kind::Cancel, 0)) && results.contains(&(Kind::Receive, -libc::ECANCELED)), "{results:?}");
    let mut ways = std::collections::BTreeSet::new();
    for round in 0..100 {
        bench.ring.receive_multishot(server);
        if round % 2 == 0 {
            bench.ring.enter(Wait::No).expect("enter");
        }
        // The cancel may find the receive waiting, busy or ended; either completion may come first; each comes exactly once.
        client.write_all(b"x").expect("connected");
        bench.ring.cancel(server, Kind::Receive);
        let (mut ends, mut cancels) = (0, 0);
        bench.until("both ends", |ring, seen| {
            if let Some(lease) = seen.lease {
                ring.give_back(lease);
            }
            match seen.token.kind {
                Kind::Receive if seen.more => _ = ways.insert("data, and goes on"),
                Kind::Receive => {
                    ways.insert(if cancels == 0 { "ends first" } else { "is cancelled first" });
                    ends += 1;
                }
                Kind::Cancel => {
                    assert!([0, -libc::ENOENT, -libc::EALREADY].contains(&seen.result), "{}", seen.result);
                    cancels += 1;
                }
                _ => {}
            }
            (ends == 1 && cancels == 1).then_some(())
        });
    }
    assert!(ways.contains("is cancelled first"), "{ways:?}: nothing was tested");
    // The other order: the receive is over before its cancel is looked at.
    client.write_all(b"x").expect("connected");
    bench.ring.receive_once(server);
    bench.ring.cancel(server, Kind::ReceiveOnce);
    let mut order = Vec::new();
    bench.until("an end and a cancel of nothing", |ring, seen| {
        order.push((seen.token.kind, seen.result));
        seen.lease.into_iter().for_each(|lease| ring.give_back(lease));
        (order.len() == 2).then_some(())
    });
    assert_eq!(order[1], (Kind::Cancel, -libc::ENOENT), "{order:?}");
}

#[test]
fn pitfall_26_much_in_flight_is_left_to_the_kernel() {
    if skip::without("uring") {
        return;
    }
    for polls in [3usize, 5000] {
        let mut bench = Bench::new(&options());
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        for number in 0..polls as u32 {
            bench.ring.poll_descriptor(ours.as_fd(), Token::numbered(Kind::Wake, number));
        }
        bench.ring.cancel_token(Token::numbered(Kind::Wake, 0));
        assert_eq!(bench.ring.in_flight(), polls + 1);
        bench.until("a cancelled poll", |_, seen| (seen.token == Token::numbered(Kind::Wake, 0)).then_some(()));
        bench.ring.enter(Wait::No).expect("enter");
        assert_eq!(bench.ring.in_flight(), polls - 1);
        // Either way the polls end, which hold the socket.
        drop(bench);
        drop(ours);
        theirs.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        assert_eq!(read(&mut theirs), 0, "{polls}");
    }
}

/// Reads once. A ring that goes away on this thread interrupts what it does.
fn read(peer: &mut UnixStream) -> usize {
    loop {
        match peer.read(&mut [0; 8]) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => return read.expect("the peer's end"),
        }
    }
}
