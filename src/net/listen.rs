//! Listening sockets: one per worker and address, with every option that accepted connections inherit.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::shard::ListenerId;

/// Connections that may wait to be accepted, per worker; the kernel caps it at `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;
/// Unsent bytes above which a socket says it is full. A stalled reader pins 4.1 MB of kernel memory without it, 53 KB with it.
const UNSENT_BYTES_MAX: u32 = 16 << 10;
/// Time without an acknowledgement after which a peer is dead.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a port may stay taken by a process that has just been killed: the kernel takes a ring and its sockets apart some
/// time after the process has gone.
const PREDECESSOR_WAIT: Duration = Duration::from_secs(1);
const PREDECESSOR_STEP: Duration = Duration::from_millis(20);

/// How long another server's start-up on the same port is waited for. Whoever holds the claim for longer is not one that will
/// listen soon, and must not be able to keep a server from starting.
const CLAIM_WAIT: Duration = Duration::from_secs(10);

/// Whether a drain leaves such a listener open. Health and metrics are asked for until the end: only so can a balancer see that
/// this server is not ready any more.
pub const fn stays_in_drain(listener: ListenerId) -> bool {
    matches!(listener, ListenerId::Internal)
}

/// The right to start on some ports, one server at a time: between a server's [`probe`] and its listening nobody can see it, and
/// two that probe at once would both go on. Held until dropped, or until the process ends, however it does.
///
/// An abstract Unix address is exclusive among all users, belongs to the network namespace as ports do, and leaves nothing behind.
pub struct Claim(#[allow(dead_code, reason = "held for as long as it lives; only tests look at it")] Vec<UnixDatagram>);

impl Claim {
    /// Waits for the ports' turn. Where there is none to be had in time the probe alone has to do.
    pub fn wait(ports: impl IntoIterator<Item = u16>) -> Self {
        Self::wait_until(ports, Instant::now() + CLAIM_WAIT)
    }

    fn wait_until(ports: impl IntoIterator<Item = u16>, end: Instant) -> Self {
        // In one order for all, so that no two wait for each other.
        let ports: BTreeSet<u16> = ports.into_iter().filter(|port| *port != 0).collect();
        Self(ports.into_iter().filter_map(|port| claim(port, end)).collect())
    }
}

fn claim(port: u16, end: Instant) -> Option<UnixDatagram> {
    let address = UnixAddress::from_abstract_name(format!("ringmain-start-{port}")).ok()?;
    loop {
        match UnixDatagram::bind_addr(&address) {
            Ok(held) => return Some(held),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => std::thread::sleep(PREDECESSOR_STEP),
            Err(error) => {
                tracing::warn!(port, %error, "cannot tell whether another server is starting on the port");
                return None;
            }
        }
    }
}

/// Binds without `SO_REUSEPORT`, which fails if anybody listens there already. With it, two processes would share the port, and
/// publications would land in one while subscribers sit in the other.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    let end = Instant::now() + PREDECESSOR_WAIT;
    loop {
        match probe_once(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => std::thread::sleep(PREDECESSOR_STEP),
            result => return result,
        }
    }
}

fn probe_once(address: SocketAddr) -> io::Result<()> {
    let socket = stream_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// A bound socket that does not listen yet, for one of several workers on the same address.
pub fn bind(address: SocketAddr, congestion: Option<&str>) -> io::Result<Socket> {
    let socket = stream_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    set_connection_options(&socket)?;
    if let Some(name) = congestion {
        socket.set_tcp_congestion(name.as_bytes())?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

pub fn listen(socket: &Socket) -> io::Result<()> {
    socket.listen(BACKLOG)
}

/// A socket on its way to an upstream at this address, with the options of our other connections.
pub fn upstream_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = stream_socket(address)?;
    set_connection_options(&socket)?;
    Ok(socket)
}

fn set_connection_options(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_keepalive(true)
}

fn stream_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))
}

/// Any address of the family of `address`: what its peers' addresses look like.
pub const fn family_of(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    #[test]
    fn a_port_that_is_listened_on_is_found_out() {
        let first = bind(loopback(), None).expect("a port");
        listen(&first).expect("listening");
        let address = first.local_addr().ok().and_then(|address| address.as_socket()).expect("bound");
        assert_eq!(probe(address).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        bind(address, None).expect("our own workers may share it");
    }

    #[test]
    fn a_port_is_claimed_by_one_at_a_time() {
        // Ports that nobody else's test claims: ephemeral ones that are ours for as long as these sockets live.
        let sockets = [0; 2].map(|_| bind(loopback(), None).expect("a port"));
        let [one, two] = sockets
            .each_ref()
            .map(|socket| socket.local_addr().ok().and_then(|address| address.as_socket()).expect("bound").port());
        let now = Instant::now();
        let first = Claim::wait_until([one, 0, one], now);
        assert_eq!(first.0.len(), 1);
        assert_eq!(Claim::wait_until([one, two], now).0.len(), 1, "the other port is free");
        let waiting = std::thread::spawn(move || Claim::wait([two, one]).0.len());
        drop(first);
        assert_eq!(waiting.join().expect("no panic"), 2);
    }

    #[test]
    fn accepted_connections_inherit_the_options() {
        let listener = bind(loopback(), Some("reno")).expect("a port");
        listen(&listener).expect("listening");
        let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("bound");
        let _client = std::net::TcpStream::connect(address).expect("listening");
        let (accepted, _) = listener.accept().expect("connected");
        assert!(accepted.tcp_nodelay().expect("an option"));
        assert!(accepted.keepalive().expect("an option"));
        assert_eq!(accepted.tcp_notsent_lowat().expect("an option"), UNSENT_BYTES_MAX);
        assert_eq!(accepted.tcp_user_timeout().expect("an option"), Some(USER_TIMEOUT));
        let name = accepted.tcp_congestion().expect("an option");
        assert!(name.starts_with(b"reno"));
    }
}
