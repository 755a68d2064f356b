//! The closed set of facts a worker's core is told, and of acts it asks for. The shell (`net/`) speaks only this.
//!
//! Rules of the conversation:
//! - A [`ConnId`] is alive from `Accepted`/`Connected` until the shard emits `Close` or is told `Gone`. After either, neither
//!   side mentions it again: the shell alone sees the slot through its last completions before it reuses it.
//! - After one `Send` for a connection the shard sends nothing more to it before the next [`flush`](super::Shard::flush); the
//!   shell guarantees that a `Taken` for that send is handed in before the next flush.
//! - `Bytes` are valid during the call only and may be changed in place (WebSocket unmasking).

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::{ConnId, Frames, ShardId};
use crate::hub::Message;
use crate::metrics::LoopFacts;

/// What the world tells a shard.
#[derive(Debug)]
pub enum Input<'a> {
    /// A client connected (or was handed over by another worker before a byte was read).
    Accepted {
        /// The shell's choice of a slot, and its generation.
        conn: ConnId,
        /// Decides which doors there are behind it.
        listener: ListenerId,
        /// For log lines, and for what upstreams are told of the client.
        peer: SocketAddr,
    },
    /// Bytes arrived.
    Bytes {
        /// A client's, or one to an upstream.
        conn: ConnId,
        /// In the order of the stream, cut anywhere.
        bytes: &'a mut [u8],
    },
    /// The peer will send nothing more; everything it sent has been handed in.
    Eof {
        /// Can still be sent to: only the peer's half is closed.
        conn: ConnId,
    },
    /// The kernel took only `taken` bytes of the last send. `frames` come back (same order; `skip` as they were sent) and no
    /// further send may be made until `Writable`, which the shell has armed.
    Taken {
        /// The one of the last [`Output::Send`] to it.
        conn: ConnId,
        /// All of that send's, those that were taken whole included.
        frames: Frames,
        /// As that send had it.
        skip: u32,
        /// Counted from behind the skipped bytes; 0 where the socket was full.
        taken: u32,
    },
    /// The socket has room again.
    Writable {
        /// One that a `Taken` was told of.
        conn: ConnId,
    },
    /// The socket is dead (reset, timed out, refused by the kernel); the shell is already closing it.
    Gone {
        /// Neither side mentions it after this.
        conn: ConnId,
        /// For log lines: whatever it is, what waited to be sent is lost.
        cause: GoneCause,
    },
    /// An [`Output::Connect`] succeeded.
    Connected {
        /// Alive from here on, and in the connection's own slot.
        conn: ConnId,
        /// As the [`Output::Connect`] had it.
        token: u32,
    },
    /// An [`Output::Connect`] failed; there is no connection.
    ConnectFailed {
        /// As the [`Output::Connect`] had it.
        token: u32,
        /// Decides what the waiting client is answered.
        cause: ConnectCause,
    },
    /// What the shell counts: answer to [`Output::AskFacts`].
    Facts(Box<LoopFacts>),
    /// What the worker's thread has worked: wanted where [`wants_work_measured`](super::Shard::wants_work_measured) says so at the
    /// end of a turn.
    Worked {
        /// Processor time since its start.
        thread_time: Duration,
    },
    /// A message from another worker (or from this one's own loop).
    Message {
        /// By whose FIFO it came: answers go back there.
        from: ShardId,
        /// The next one in the order in which that worker sent them.
        message: Message,
    },
}

/// What a shard asks of the world.
#[derive(Debug)]
pub enum Output {
    /// Send `frames`, leaving out the first `skip` bytes of the first one. At most one per connection and flush.
    Send {
        /// Not one that a `Writable` is still due for.
        conn: ConnId,
        /// The shell's until they are taken or come back by `Taken`.
        frames: Frames,
        /// What the kernel took of it with an earlier send.
        skip: u32,
    },
    /// Close the connection. What was sent before still goes out unless the way is `Abort`.
    Close {
        /// Neither side mentions it after this.
        conn: ConnId,
        /// Whether the peer is given time to read the last response.
        how: CloseHow,
    },
    /// Open a TCP connection to an upstream; answered by `Connected` or `ConnectFailed` with the same token.
    Connect {
        /// The shard's name for the attempt, while there is no connection.
        token: u32,
        /// One of the upstream's servers: names were resolved with the configuration.
        address: SocketAddr,
    },
    /// Somebody wants this worker's counters; answered by [`Input::Facts`].
    AskFacts,
    /// Stop (true) or resume (false) reading from the connection: its bytes have nowhere to go.
    PauseReading {
        /// A client's, or one to an upstream.
        conn: ConnId,
        /// Takes time: bytes that are on their way still come.
        paused: bool,
    },
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseHow {
    /// Shut down the sending side, then discard input up to 64 KiB or 2 s, so that a reset does not destroy the last response.
    Linger,
    /// At once: the peer is dead, slow or hostile.
    Abort,
}

/// Which of the configured listeners a connection came in by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListenerId {
    /// `[server] listen`.
    Public,
    /// `[server] internal_listen`.
    Internal,
}

/// Why a socket is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GoneCause {
    /// ECONNRESET, EPIPE.
    Reset,
    /// ETIMEDOUT: the peer acknowledged nothing for TCP_USER_TIMEOUT.
    TimedOut,
    /// ENOMEM and whatever else the kernel may say.
    Kernel,
}

/// Why a connection to an upstream could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectCause {
    /// Nobody listens there (ECONNREFUSED, ECONNRESET).
    Refused,
    /// No way leads there, or a rule of a firewall is in it (EHOSTUNREACH, ENETUNREACH, EACCES and the like).
    Unreachable,
    /// The kernel gave up (ETIMEDOUT), or the shell after `connect_timeout`.
    TimedOut,
    /// Out of descriptors or memory on this host.
    Local,
}
