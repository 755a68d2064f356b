//! Who is measured: how its server is started and ended, and one load put on it.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Flags;
use crate::host::Counters;
use crate::plan::First;

const START_WAIT: Duration = Duration::from_secs(10);
const END_WAIT: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const API_KEY: &str = "bench";
/// What nginx is given, with places to fill in.
const NGINX_CONFIG: &str = include_str!("../nchan.conf");

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contender {
    Ringmain,
    /// The same binary with `io = "epoll"`.
    Epoll,
    /// The same server with subscribers that have their messages compressed.
    Deflate,
    Write,
    Uring,
    Nchan,
    Monoio,
    Glommio,
    Tungstenite,
}

impl Contender {
    /// A bare loop: what there is to be saved, and how steady the machine is.
    pub const fn is_floor(self) -> bool {
        matches!(self, Self::Write | Self::Uring)
    }

    /// Somebody else's server, or a small one on somebody else's runtime.
    pub const fn is_peer(self) -> bool {
        matches!(self, Self::Nchan | Self::Monoio | Self::Glommio | Self::Tungstenite)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Ringmain => "ringmain",
            Self::Epoll => "ringmain on epoll",
            Self::Deflate => "ringmain, compressed",
            Self::Write => "bare write()",
            Self::Uring => "bare io_uring",
            Self::Nchan => "nginx + nchan",
            Self::Monoio => "monoio",
            Self::Glommio => "glommio",
            Self::Tungstenite => "tokio-tungstenite",
        }
    }

    /// Whether it is to be measured.
    pub const fn is_there(self, flags: &Flags) -> bool {
        match self {
            Self::Write | Self::Uring => true,
            Self::Ringmain | Self::Epoll | Self::Deflate => !flags.floors_only,
            Self::Nchan => !flags.floors_only && flags.nginx_modules.is_some(),
            Self::Monoio | Self::Glommio | Self::Tungstenite => !flags.floors_only && flags.peers.is_some(),
        }
    }

    /// Flags of a load on it that are not the load's own.
    const fn load_flags(self) -> &'static [&'static str] {
        match self {
            Self::Nchan => &["--dialect", "nchan"],
            Self::Deflate => &["--deflate"],
            Self::Ringmain | Self::Epoll | Self::Write | Self::Uring | Self::Monoio | Self::Glommio | Self::Tungstenite => &[],
        }
    }

    /// How its server is started; what it needs to be there is put into `folder`.
    fn command(self, flags: &Flags, first: Option<First>, address: SocketAddr, folder: &Path) -> io::Result<Command> {
        let cpu = flags.server_cpu.to_string();
        let start = [first.map_or(&[][..], First::command), &["taskset", "-c", &cpu]].concat();
        let mut command = Command::new(start[0]);
        command.args(&start[1..]);
        let listen = address.to_string();
        match self {
            Self::Ringmain | Self::Epoll | Self::Deflate => {
                command.arg(&flags.ringmain).args(["serve", "--listen", &listen, "--workers", "1"]);
                command.args(["--io", if self == Self::Epoll { "epoll" } else { "uring" }]);
                command.arg("--config").arg(&flags.config);
            }
            Self::Write => _ = command.arg(&flags.floor).args(["--listen", &listen, "--send", "write"]),
            Self::Uring => _ = command.arg(&flags.floor).args(["--listen", &listen, "--send", "uring"]),
            Self::Nchan => {
                let config = folder.join("nginx.conf");
                let modules = flags.nginx_modules.as_deref().unwrap_or(Path::new("/usr/lib/nginx/modules"));
                let text = NGINX_CONFIG
                    .replace("@MODULES@", &modules.display().to_string())
                    .replace("@DIRECTORY@", &folder.display().to_string())
                    .replace("@LISTEN@", &listen);
                fs::write(&config, text)?;
                command.args(["nginx", "-e", "stderr", "-c"]).arg(config);
            }
            Self::Monoio | Self::Glommio | Self::Tungstenite => {
                command.arg(flags.peers.as_deref().unwrap_or(Path::new(".")).join(self.name())).arg(&listen);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }
}

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    Start {
        contender: Contender,
        error: io::Error,
    },
    NotListening {
        contender: Contender,
        address: SocketAddr,
    },
    /// The load could not be run.
    Load {
        contender: Contender,
        load: String,
        reasons: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { contender, error } => write!(f, "starting {}: {error}", contender.name()),
            Self::NotListening { contender, address } => {
                write!(f, "{} does not listen on {address} (or something else does)", contender.name())
            }
            Self::Load { contender, load, reasons } => write!(f, "`{load}` against {}: {reasons}", contender.name()),
        }
    }
}

/// What one load printed.
pub struct Figures(pub Value);

impl Figures {
    /// A figure; NaN where there is none, so that nothing passes a bar by being absent.
    pub fn number(&self, name: &str) -> f64 {
        self.0.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    /// The figure to be seen while the run goes on.
    pub fn headline(&self) -> String {
        let [cpu, memory] = ["server_cpu_us_each", "bytes_per_connection"].map(|name| self.number(name));
        if memory.is_nan() { format!("{cpu:.3} µs CPU each") } else { format!("{memory:.0} B each") }
    }

    /// All that was expected came, and nothing was repeated, out of order or wrong.
    pub fn is_sound(&self) -> bool {
        self.0.get("sound") == Some(&Value::Bool(true))
    }

    /// Why it is not.
    pub fn reasons(&self) -> String {
        let reasons = self.0.get("reasons").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        reasons.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
    }
}

/// A started server; ended, by its own process id, when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM);
        let deadline = Instant::now() + END_WAIT;
        while Instant::now() < deadline {
            match self.0.try_wait() {
                Ok(None) => std::thread::sleep(LOOK_AGAIN),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Starts the contender's server on a port, puts one load on it, ends it. Both go `first` on their cores, where that is asked for and
/// allowed.
pub fn run(flags: &Flags, contender: Contender, load: &[&str], first: Option<First>, port: u16) -> Result<Figures, Failure> {
    let first = first.filter(|_| may_go_first());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let start = |error| Failure::Start { contender, error };
    let folder = tempfile::tempdir().map_err(start)?;
    // Whatever is started first becomes the server, so the child's process id is the server's.
    let child = contender.command(flags, first, address, folder.path()).and_then(|mut command| command.spawn()).map_err(start)?;
    let mut server = Server(child);
    wait_until_listening(&mut server, address).ok_or(Failure::NotListening { contender, address })?;
    let before = Counters::now();
    let output = load_command(flags, load, first.is_some())
        .args(contender.load_flags())
        .args(["--json", "--addr", &address.to_string(), "--api-key", API_KEY])
        .args(["--pid", &server.0.id().to_string(), "--server-cpu", &flags.server_cpu.to_string()])
        .args(["--cpu", &flags.load_cpu.to_string()])
        .stderr(Stdio::inherit())
        .output();
    let output = output.map_err(start)?;
    let failure = |reasons| Failure::Load { contender, load: load.join(" "), reasons };
    let mut figures: Value = serde_json::from_slice(&output.stdout).map_err(|_| failure("no figures".to_owned()))?;
    figures["went_first"] = first.is_some().into();
    for (name, count) in Counters::now().since(&before).named() {
        figures[name] = count.into();
    }
    let figures = Figures(figures);
    match output.status.code() {
        Some(0 | 1) => Ok(figures),
        _ => Err(failure(figures.reasons())),
    }
}

/// Whether this user may let a process go before all others on its core.
fn may_go_first() -> bool {
    let [chrt, real_time @ ..] = First::RealTime.command() else { return false };
    let tried = Command::new(chrt).args(real_time).arg("true").stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

fn load_command(flags: &Flags, load: &[&str], first: bool) -> Command {
    let mut command = Command::new(if first { Path::new("chrt") } else { &flags.ringmain });
    if first {
        // Its first thread alone: a crowd that it has beside it is in nobody's way.
        command.args(["--reset-on-fork", "--fifo", "10"]).arg(&flags.ringmain);
    }
    command.arg("bench").args(load);
    command
}

fn wait_until_listening(server: &mut Server, address: SocketAddr) -> Option<()> {
    let deadline = Instant::now() + START_WAIT;
    while Instant::now() < deadline {
        if !matches!(server.0.try_wait(), Ok(None)) {
            return None;
        }
        if TcpStream::connect_timeout(&address, LOOK_AGAIN).is_ok() {
            return Some(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    None
}
