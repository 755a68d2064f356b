//! `ringmain bench`: loads for a running server, which check every byte that comes back.
//!
//! ```text
//! fan_out, channels, stall, storm, echo,
//! disturb, connect, idle, crowd ──► fleet ──► session ──► checker     (connections / bytes / was it right, and when)
//!        │            │         │      └─► sockets: io_uring or epoll
//!        │            │         └─────► publisher
//!        │            └─► pace: when the next is due, open or closed
//!        └─► verdict: does the run count      server: /proc of the server      report: the table and the JSON line
//! ```
//!
//! A load is bounded in count and in time, and measures latency from the moment a message was meant to be sent.
//! The exit status is 1 when the run does not count (anything was lost, repeated, out of order or wrong, or nothing came at
//! all: `reasons` in the JSON line says what), and 2 when the load could not be run.

mod channel;
mod channels;
mod checker;
mod connect;
mod crowd;
mod deflate;
mod dialect;
mod disturb;
mod echo;
mod error;
mod fan_out;
mod fleet;
mod idle;
mod pace;
mod payload;
mod progress;
mod publisher;
mod report;
mod server;
mod session;
mod sockets;
mod stall;
mod storm;
mod verdict;
mod wire;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use dialect::Dialect;
use error::BenchError;
use fleet::{Bounds, Fleet};
use report::Report;
use server::Server;
use session::{Doing, Request, Transport};
use sockets::Io;
use verdict::Verdict;

/// Measures a running server.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand, Debug)]
enum Load {
    /// WebSocket messages to the echo door and back, each connection one at a time.
    Echo(echo::EchoArgs),
    /// One channel, many subscribers: what a delivery costs and how long it takes.
    FanOut(fan_out::FanOutArgs),
    /// Many channels with few subscribers each: what publications and deliveries cost when neither is shared widely.
    Channels(channels::ChannelsArgs),
    /// One channel with a coalescing window, publications at a steady rate.
    Stream(fan_out::StreamArgs),
    /// Subscribed WebSockets that do nothing: what one of them costs in memory.
    Idle(idle::IdleArgs),
    /// Connect, upgrade, subscribe, close: how many a second.
    Connect(connect::ConnectArgs),
    /// A million subscribed WebSockets, held by many processes: how fast they come, what they cost, and one broadcast to all.
    Crowd(crowd::CrowdArgs),
    /// One process's part of a crowd.
    #[command(hide = true)]
    CrowdPart(crowd::PartArgs),
    /// Some subscribers stop reading: what one of them costs, and whether the others notice.
    Stall(stall::StallArgs),
    /// All subscribers lose their connections at once and come back: how fast, at what cost, and with all that they missed.
    Storm(storm::StormArgs),
    /// Echoes beside a broadcast to a crowd, or beside a crowd that comes: whether they notice.
    Disturb(disturb::DisturbArgs),
}

/// Where the server is and what is measured of it.
#[derive(Args, Clone, Debug)]
struct Common {
    /// The server's address.
    #[arg(long, default_value = "127.0.0.1:8000")]
    addr: SocketAddr,
    /// The key to publish with (and to subscribe with, where it is given). Default: RINGMAIN_API__KEY.
    #[arg(long)]
    api_key: Option<String>,
    /// The server's process: its CPU time and memory are measured.
    #[arg(long)]
    pid: Option<u32>,
    /// The core that the server is pinned to: how busy it is is measured.
    #[arg(long)]
    server_cpu: Option<u32>,
    /// The core to pin the load to.
    #[arg(long)]
    cpu: Option<u32>,
    /// Whose doors the server has.
    #[arg(long, value_enum, default_value = "ringmain")]
    dialect: Dialect,
    /// On which kernel interface the load's sockets are.
    #[arg(long, value_enum, default_value = "auto")]
    io: Io,
    /// Connections being opened at a time.
    #[arg(long, default_value_t = 128)]
    window: usize,
    /// Seconds after which the load gives up.
    #[arg(long, default_value_t = 180)]
    time_max: u64,
    /// Seconds without a sign of life after which the load gives up.
    #[arg(long, default_value_t = 10)]
    stall: u64,
    /// Print the JSON line alone.
    #[arg(long)]
    json: bool,
}

/// What came of a load: its figures, and whether they count.
struct Outcome {
    report: Report,
    sound: bool,
}

impl Outcome {
    fn new(mut report: Report, verdict: &Verdict) -> Self {
        verdict.write(&mut report);
        Self { report, sound: verdict.is_sound() }
    }
}

/// Runs the load that the flags name.
#[must_use]
pub fn run(args: &BenchArgs) -> ExitCode {
    match args.load.run() {
        Ok(outcome) => {
            print(&outcome.report, args.load.common().json);
            ExitCode::from(u8::from(!outcome.sound))
        }
        Err(error) => {
            eprintln!("ringmain bench: {error}");
            // Programs that read the line must not take silence for success.
            super::say(&format!("{}\n", Verdict::without_figures(args.load.name(), error.to_string()).json()));
            ExitCode::from(2)
        }
    }
}

impl Load {
    fn run(&self) -> Result<Outcome, BenchError> {
        match self {
            Self::Echo(args) => echo::run(args),
            Self::FanOut(args) => fan_out::run(args),
            Self::Channels(args) => channels::run(args),
            Self::Stream(args) => fan_out::run_stream(args),
            Self::Idle(args) => idle::run(args),
            Self::Connect(args) => connect::run(args),
            Self::Crowd(args) => crowd::run(args),
            Self::CrowdPart(args) => crowd::run_part(args),
            Self::Stall(args) => stall::run(args),
            Self::Storm(args) => storm::run(args),
            Self::Disturb(args) => disturb::run(args),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Echo(_) => "echo",
            Self::FanOut(_) => "fan-out",
            Self::Channels(_) => "channels",
            Self::Stream(_) => "stream",
            Self::Idle(_) => "idle",
            Self::Connect(_) => "connect",
            Self::Crowd(_) => "crowd",
            Self::CrowdPart(_) => "crowd-part",
            Self::Stall(_) => "stall",
            Self::Storm(_) => "storm",
            Self::Disturb(_) => "disturb",
        }
    }

    fn common(&self) -> &Common {
        match self {
            Self::Echo(args) => &args.common,
            Self::FanOut(args) => &args.common,
            Self::Channels(args) => &args.common,
            Self::Stream(args) => &args.common,
            Self::Idle(args) => &args.common,
            Self::Connect(args) => &args.common,
            Self::Crowd(args) => &args.common,
            Self::CrowdPart(args) => &args.common,
            Self::Stall(args) => &args.common,
            Self::Storm(args) => &args.common,
            Self::Disturb(args) => &args.common,
        }
    }
}

fn print(report: &Report, json: bool) {
    let table = if json { String::new() } else { report.table() };
    super::say(&format!("{table}{}\n", report.json()));
}

impl Common {
    fn server(&self) -> Server {
        Server { pid: self.pid, cpu: self.server_cpu }
    }

    fn api_key(&self) -> String {
        self.api_key.clone().or_else(|| std::env::var("RINGMAIN_API__KEY").ok()).unwrap_or_default()
    }

    /// What connections to `path` say.
    fn request(&self, path: String, doing: Doing) -> Request {
        Request {
            path,
            channels: None,
            deflate: false,
            host: self.addr.to_string(),
            authorization: self.api_key.clone(),
            doing,
            dialect: self.dialect,
        }
    }

    /// What subscribers of `channel` say.
    fn subscribe(&self, channel: &str, transport: Transport) -> Request {
        self.request(self.dialect.subscribe_path(channel), Doing::Subscribe(transport))
    }

    /// Pins the load and makes its fleet, for at most `connections` at a time.
    fn fleet(&self, request: Request, checker: checker::Checker, connections: usize) -> Result<Fleet, BenchError> {
        if let Some(cpu) = self.cpu {
            let mut set = rustix::thread::CpuSet::new();
            set.set(cpu as usize);
            rustix::thread::sched_setaffinity(None, &set)?;
        }
        let bounds = Bounds { time_max_seconds: self.time_max, stall_seconds: self.stall };
        Fleet::new(self.io, connections, self.addr, request, checker, bounds)
    }
}

/// A payload must hold its own number.
fn check_payload(bytes: usize) -> Result<(), BenchError> {
    if (payload::PAYLOAD_BYTES_MIN..=wire::UNIT_BYTES_MAX / 2).contains(&bytes) {
        return Ok(());
    }
    Err(BenchError::Flag { flag: "--payload", rule: "must be from 34 to 98304 bytes" })
}
