//! What a kernel may refuse, whose thread may enter, and how a ring goes.

use super::*;

#[test]
fn pitfall_16_every_flag_refused() {
    if skip::without("uring") {
        return;
    }
    let mut all = SetupFlags::NONE;
    for (flag, name) in SetupFlags::ALL {
        all |= flag;
        for refused in [flag, all] {
            let mut bench = Bench::with_tiny_buffers(&Options { refused, ..options() });
            let features = bench.ring.features();
            assert!(features.missing.contains(flag) && !features.setup.intersects(refused), "{name}: {features}");
            bench.stream(100_000, &[3000, 10]);
        }
    }
}

#[test]
fn pitfall_16_the_reason_is_named() {
    for (errno, error) in
        [(libc::EPERM, RingError::Seccomp), (libc::ENOSYS, RingError::OldKernel), (libc::ENOMEM, RingError::Memlock)]
    {
        let said = crate::ring::setup::refusal(errno);
        // Where the sysctl is set, EPERM means that.
        assert!(said == error || matches!((errno, said), (libc::EPERM, RingError::Disabled { .. })), "{said}");
    }
}

#[test]
fn pitfall_18_only_its_own_thread_may_enter() {
    if skip::without("uring") {
        return;
    }
    let bench = Bench::new(&options());
    if !bench.ring.features().setup.contains(SetupFlags::SINGLE_ISSUER) {
        return;
    }
    let fd = bench.ring.as_fd().as_raw_fd();
    let refused = std::thread::spawn(move || {
        let ring = super::sys::RingFd { fd, registered: None };
        super::sys::enter(ring, 0, 0, Some(Duration::ZERO)).err().and_then(|error| error.raw_os_error())
    });
    assert_eq!(refused.join().expect("no panic"), Some(libc::EEXIST));
    let flags = rustix::io::fcntl_getfd(bench.ring.as_fd()).expect("flags");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "a child process must not inherit the ring");
}

#[test]
fn pitfall_18_a_ring_may_go_with_everything_in_flight() {
    if skip::without("uring") {
        return;
    }
    for _ in 0..20 {
        let mut bench = Bench::new(&options());
        let pairs: Vec<_> = (0..10).map(|_| bench.pair()).collect();
        for (client, server) in &pairs {
            bench.ring.receive_multishot(*server);
            bench.ring.poll_out(*server);
            bench.ring.enter(Wait::No).expect("enter");
            (&*client).write_all(b"too late").expect("connected");
            bench.ring.push_send(*server, one(b"never entered"), 0);
        }
        drop(bench);
        // The sockets went with the ring: each client sees its connection end.
        for (mut client, _) in pairs {
            while client.read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {}
        }
    }
}

#[test]
fn a_descriptor_is_placed_where_it_is_to_be() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let mut client = TcpStream::connect(bench.address()).expect("the listener listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    let (server, _) = bench.listener.accept().expect("a connection");
    bench.ring.place(7, server.as_fd()).expect("a slot");
    // The slot holds the socket.
    drop(server);
    bench.ring.push_send(conn(7), one(b"placed"), 0);
    bench.ring.enter(Wait::No).expect("enter");
    let mut got = [0; 6];
    client.read_exact(&mut got).expect("the bytes");
    assert_eq!(&got, b"placed");
    bench.ring.close(conn(7));
    bench.until("close", |_, seen| (seen.token.kind == Kind::Close && seen.result == 0).then_some(()));
    assert_eq!(client.read(&mut got).expect("its end"), 0);
    let files = bench.ring.features().files;
    assert!(bench.ring.place(files, client.as_fd()).is_err(), "no such slot");
}
