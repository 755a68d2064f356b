//! Listening sockets: one per worker and address, with every option that accepted connections inherit.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted, per worker; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Unsent bytes above which a socket says it is full. A stalled reader pins 4.1 MB of kernel memory without it, 53 KB with it.
const UNSENT_BYTES_MAX: u32 = 16 << 10;
/// Time without an acknowledgement after which a peer is dead.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a port may stay taken by a process that has just been killed: the kernel takes a ring and its sockets apart some
/// time after the process has gone.
const PREDECESSOR_WAIT: Duration = Duration::from_secs(1);
const PREDECESSOR_STEP: Duration = Duration::from_millis(20);

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
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// A bound socket that does not listen yet, for one of several workers on the same address.
pub fn bind(address: SocketAddr, congestion: Option<&str>) -> io::Result<Socket> {
    let socket = stream_socket(address)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_keepalive(true)?;
    if let Some(name) = congestion {
        socket.set_tcp_congestion(name.as_bytes())?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

pub fn listen(socket: &Socket) -> io::Result<()> {
    socket.listen(BACKLOG)
}

fn stream_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    Ok(socket)
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
