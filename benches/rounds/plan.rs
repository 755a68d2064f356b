//! What is run: each group is one load, put on several servers in turn.

use crate::contender::Contender::{self, Deflate, Epoll, Glommio, Monoio, Nchan, Ringmain, Tungstenite, Uring, Write};

/// One load and whom it is put on, alternated.
pub struct Group {
    /// How bars and tables name it.
    pub name: &'static str,
    pub load: &'static [&'static str],
    pub contenders: &'static [Contender],
    pub rounds: usize,
}

pub const FAN_OUT: &str = "fan-out 1 × 5,000";
pub const FAN_OUT_LARGE: &str = "fan-out 1 × 19,000";
/// Large enough that compressing it once is some work, and that fewer bytes to send could show.
pub const BROADCAST: &str = "broadcast of 1 KiB, 1 × 1,000";
pub const WINDOWED: &str = "coalesced fan-out 1 × 1,000, 16 publications in flight";
/// Where next to nothing is shared: each publication goes to ten.
pub const CHANNELS: &str = "500 channels × 10, 16 publications in flight";
pub const EVENTS: &str = "event stream 1 × 1,000";
pub const LINES: &str = "NDJSON 1 × 1,000";
pub const POLLS: &str = "long poll 1 × 1,000";
pub const STREAM: &str = "coalesced stream 1,000 × 1,000/s";
pub const ECHO: &str = "echo 64 B, 500 connections";
pub const PIPELINED: &str = "echo 64 B, 500 connections, 8 in flight each";
pub const CONNECT: &str = "connect, upgrade, subscribe";
pub const STORM: &str = "reconnect storm of 10,000";
pub const STALL: &str = "1 % stalled, 1 KiB payloads";
pub const STALL_LARGE: &str = "1 % stalled, 4 KiB payloads";
pub const IDLE: &str = "idle 19,000";
/// Read after a round of pings: what pings leave free in the heap would otherwise hide what connections take, or their peak would
/// not be seen at all; the worse slope counts.
pub const IDLE_PINGED: &str = "idle 19,000, after pings";
pub const IDLE_OWN: &str = "idle 19,000 on 19,000 channels";

/// Groups whose figures are memory.
pub const IDLES: [&str; 3] = [IDLE, IDLE_PINGED, IDLE_OWN];
pub const BESIDE_BROADCAST: &str = "echo beside a broadcast to 19,000";
pub const BESIDE_STORM: &str = "echo beside 15,000 that come";

/// Groups of echoes beside something large.
pub const BESIDES: [&str; 2] = [BESIDE_BROADCAST, BESIDE_STORM];
/// Groups whose bars are the last percentiles: server and load go before everything else on their cores, or what is measured is how
/// long some daemon of the host ran there.
pub const LATENCIES: [(&str, First); 6] = [
    (STREAM, First::Nice),
    (CHANNELS, First::RealTime),
    (BESIDE_BROADCAST, First::Nice),
    (BESIDE_STORM, First::RealTime),
    (STALL, First::RealTime),
    (STALL_LARGE, First::RealTime),
];

/// How a server goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum First {
    Nice,
    /// Not for a server that is never at rest: the kernel takes a twentieth of each second away from it.
    RealTime,
}

impl First {
    /// How servers of this group do, where they do.
    pub fn of(group: &str) -> Option<Self> {
        LATENCIES.into_iter().find(|(name, _)| *name == group).map(|(_, first)| first)
    }

    /// The command that starts the command after it so.
    pub const fn command(self) -> &'static [&'static str] {
        match self {
            Self::Nice => &["nice", "-n", "-20"],
            Self::RealTime => &["chrt", "--fifo", "10"],
        }
    }
}

/// Groups with readers that stop.
pub const STALLS: [&str; 2] = [STALL, STALL_LARGE];

const OF_A_THOUSAND: [&str; 4] = ["--subscribers", "1000", "--publications", "100"];
/// More than there is time for: a loop ends by its seconds, so that a slow host takes no longer.
const MANY: &str = "1000000";

/// Everything that `make bench` runs, in its order.
pub const PLAN: &[Group] = &[
    Group {
        name: FAN_OUT,
        load: &["fan-out", "--subscribers", "5000", "--publications", MANY, "--seconds", "3"],
        contenders: &[Ringmain, Epoll, Write, Uring, Nchan],
        rounds: 7,
    },
    Group {
        name: FAN_OUT_LARGE,
        load: &["fan-out", "--subscribers", "19000", "--publications", MANY, "--warmup", "10", "--seconds", "4"],
        contenders: &[Ringmain, Write, Uring, Nchan],
        rounds: 3,
    },
    Group {
        name: BROADCAST,
        load: &["fan-out", "--payload", "1024", "--subscribers", "1000", "--publications", MANY, "--seconds", "3"],
        contenders: &[Ringmain, Deflate],
        rounds: 3,
    },
    Group {
        name: WINDOWED,
        // Into the namespace that coalesces: what is gathered there is what it is about.
        load: &[
            "fan-out",
            "--subscribers",
            "1000",
            "--publications",
            MANY,
            "--seconds",
            "4",
            "--in-flight",
            "16",
            "--closed",
            "--channel",
            "stream:bench",
        ],
        contenders: &[Ringmain, Nchan],
        rounds: 3,
    },
    Group {
        name: CHANNELS,
        load: &["channels", "--publications", MANY, "--seconds", "4", "--lead", "1"],
        contenders: &[Ringmain, Epoll, Nchan],
        rounds: 5,
    },
    Group {
        name: EVENTS,
        load: &["fan-out", "--transport", "sse", OF_A_THOUSAND[0], OF_A_THOUSAND[1], OF_A_THOUSAND[2], OF_A_THOUSAND[3]],
        contenders: &[Ringmain, Nchan],
        rounds: 3,
    },
    Group {
        name: POLLS,
        load: &["fan-out", "--transport", "poll", OF_A_THOUSAND[0], OF_A_THOUSAND[1], OF_A_THOUSAND[2], OF_A_THOUSAND[3]],
        contenders: &[Ringmain, Nchan],
        rounds: 3,
    },
    Group {
        name: LINES,
        load: &["fan-out", "--transport", "ndjson", OF_A_THOUSAND[0], OF_A_THOUSAND[1], OF_A_THOUSAND[2], OF_A_THOUSAND[3]],
        contenders: &[Ringmain],
        rounds: 2,
    },
    Group { name: STREAM, load: &["stream"], contenders: &[Ringmain], rounds: 3 },
    Group { name: ECHO, load: &["echo", "--seconds", "2"], contenders: &[Ringmain, Monoio, Glommio, Tungstenite], rounds: 5 },
    Group {
        name: PIPELINED,
        load: &["echo", "--seconds", "2", "--pipeline", "8", "--closed"],
        contenders: &[Ringmain, Monoio, Glommio, Tungstenite],
        rounds: 2,
    },
    Group { name: BESIDE_BROADCAST, load: &["disturb", "--by", "broadcast"], contenders: &[Ringmain], rounds: 3 },
    Group { name: BESIDE_STORM, load: &["disturb", "--by", "storm"], contenders: &[Ringmain, Epoll], rounds: 3 },
    Group { name: STALL, load: &["stall", "--stalled", "10", "--payload", "1024"], contenders: &[Ringmain], rounds: 1 },
    Group { name: STALL_LARGE, load: &["stall", "--stalled", "10", "--payload", "4096"], contenders: &[Ringmain], rounds: 1 },
    Group { name: IDLE, load: &["idle", "--settle", "3"], contenders: &[Ringmain, Nchan, Monoio, Glommio, Tungstenite], rounds: 1 },
    Group { name: IDLE_PINGED, load: &["idle", "--settle", "30"], contenders: &[Ringmain], rounds: 1 },
    Group { name: IDLE_OWN, load: &["idle", "--settle", "3", "--own-channels"], contenders: &[Ringmain], rounds: 1 },
    // Last: their connections end as clients' do, and are remembered for a minute.
    Group { name: CONNECT, load: &["connect"], contenders: &[Ringmain, Nchan], rounds: 2 },
    Group { name: STORM, load: &["storm"], contenders: &[Ringmain], rounds: 2 },
];
