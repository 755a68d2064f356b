//! What the kernel's refusals mean, to the shard and to a loop of accepts.

use crate::shard::{ConnectCause, GoneCause};

/// What a broken connection's errno means to the shard.
pub fn gone_cause(errno: i32) -> GoneCause {
    match errno {
        libc::ECONNRESET | libc::EPIPE | libc::ENOTCONN | libc::ECONNABORTED => GoneCause::Reset,
        libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH => GoneCause::TimedOut,
        _ => GoneCause::Kernel,
    }
}

/// What a failed connect's errno means to the shard.
pub fn connect_cause(errno: i32) -> ConnectCause {
    match errno {
        libc::ECONNREFUSED | libc::ECONNRESET => ConnectCause::Refused,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EACCES | libc::EPERM => ConnectCause::Unreachable,
        libc::ETIMEDOUT | libc::ECANCELED => ConnectCause::TimedOut,
        _ => ConnectCause::Local,
    }
}

/// Errors of accept that say nothing about the next one (accept(2): errors of the new connection are passed on), and our own
/// cancelling.
pub fn concerns_one_connection(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECANCELED
            | libc::ECONNABORTED
            | libc::EINTR
            | libc::EAGAIN
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
    )
}
