//! Socket addresses in the kernel's form, at an address that stays put while an operation needs it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for an IPv4 or IPv6 address and its length, written or read by the kernel.
#[derive(Debug)]
#[repr(C)]
pub struct AddressBuffer {
    storage: libc::sockaddr_in6,
    pub length: libc::socklen_t,
}

const IPV4_BYTES: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;
const IPV6_BYTES: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;

/// Bytes of an address of the family of `like`.
pub const fn length_of(like: IpAddr) -> libc::socklen_t {
    match like {
        IpAddr::V4(_) => IPV4_BYTES,
        IpAddr::V6(_) => IPV6_BYTES,
    }
}

impl AddressBuffer {
    /// Room for the kernel to write into.
    pub fn empty() -> Box<Self> {
        // SAFETY: all fields of `sockaddr_in6` are integers, for which zero is a value.
        Box::new(Self { storage: unsafe { std::mem::zeroed() }, length: IPV6_BYTES })
    }

    /// An address for the kernel to read.
    pub fn of(address: SocketAddr) -> Box<Self> {
        let mut buffer = Self::empty();
        match address {
            SocketAddr::V4(v4) => buffer.write_v4(v4),
            SocketAddr::V6(v6) => buffer.write_v6(v6),
        }
        buffer
    }

    fn write_v4(&mut self, address: SocketAddrV4) {
        self.length = IPV4_BYTES;
        let v4 = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
            sin_zero: [0; 8],
        };
        // SAFETY: `sockaddr_in` is smaller than the storage and needs no stricter alignment.
        unsafe { std::ptr::from_mut(&mut self.storage).cast::<libc::sockaddr_in>().write(v4) };
    }

    fn write_v6(&mut self, address: SocketAddrV6) {
        self.length = IPV6_BYTES;
        self.storage.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        self.storage.sin6_port = address.port().to_be();
        self.storage.sin6_flowinfo = address.flowinfo();
        self.storage.sin6_addr.s6_addr = address.ip().octets();
        self.storage.sin6_scope_id = address.scope_id();
    }

    /// What the kernel wrote. `None` for a family that is neither IPv4 nor IPv6.
    pub fn address(&self) -> Option<SocketAddr> {
        match i32::from(self.storage.sin6_family) {
            libc::AF_INET => {
                // SAFETY: the storage is larger than `sockaddr_in`, suitably aligned, and every bit pattern is a value.
                let v4 = unsafe { std::ptr::from_ref(&self.storage).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let v6 = &self.storage;
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    pub fn as_ptr(&self) -> *const libc::sockaddr {
        std::ptr::from_ref(&self.storage).cast()
    }

    pub fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        std::ptr::from_mut(&mut self.storage).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_kernels_form() {
        for text in ["127.0.0.1:8000", "1.2.3.4:65535", "[::1]:80", "[2001:db8::7%5]:443"] {
            let address: SocketAddr = text.parse().expect("an address");
            let buffer = AddressBuffer::of(address);
            assert_eq!(buffer.address(), Some(address));
            assert_eq!(buffer.length, length_of(address.ip()));
        }
    }

    #[test]
    fn an_unwritten_buffer_is_no_address() {
        assert_eq!(AddressBuffer::empty().address(), None);
    }
}
