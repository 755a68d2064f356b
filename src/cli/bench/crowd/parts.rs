//! The processes of a crowd, seen from the lead.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use super::CrowdArgs;
use super::part::{Order, Progress};
use crate::cli::bench::error::BenchError;

/// How long a part may take to end.
const END_WAIT: Duration = Duration::from_secs(60);

/// All parts. Whatever happens, none outlives this.
pub struct Parts(Vec<Part>);

struct Part {
    child: Child,
    orders: ChildStdin,
    lines: Receiver<Progress>,
    last: Progress,
    /// It says nothing more.
    ended: bool,
}

impl Parts {
    /// Starts as many as the connections need; each opens its part.
    pub fn start(args: &CrowdArgs) -> Result<Self, BenchError> {
        let count = args.connections.div_ceil(args.per_process);
        let window = (args.opening / count).max(1);
        let program = std::env::current_exe()?;
        let mut parts = Self(Vec::new());
        for index in 0..count {
            // The first ones take one more where it does not come out even.
            let connections = args.connections / count + usize::from(index < args.connections % count);
            let mut command = Command::new(&program);
            command.args(["bench", "crowd-part", "--addr", &args.common.addr.to_string(), "--channel", &args.channel]);
            command.args(["--connections", &connections.to_string(), "--window", &window.to_string()]);
            command.args(["--time-max", &args.common.time_max.to_string(), "--stall", &args.common.stall.to_string()]);
            command.args(["--io", args.common.io.name()]);
            command.args(args.common.api_key.iter().flat_map(|key| ["--api-key", key]));
            parts.0.push(Part::start(&mut command)?);
        }
        Ok(parts)
    }

    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes in what they have said.
    ///
    /// # Errors
    /// When one has ended by itself: it has printed why.
    pub fn look(&mut self) -> Result<Progress, BenchError> {
        for part in &mut self.0 {
            part.listen();
            if part.ended {
                return Err(BenchError::Part);
            }
        }
        Ok(self.sum())
    }

    /// Tells them that one more broadcast comes.
    pub fn expect(&mut self) -> Result<(), BenchError> {
        self.0.iter_mut().try_for_each(|part| part.tell(Order::Expect))
    }

    /// Ends them and returns the last that they said.
    pub fn end(mut self) -> Result<Progress, BenchError> {
        for part in &mut self.0 {
            part.tell(Order::End)?;
        }
        let deadline = Instant::now() + END_WAIT;
        for part in &mut self.0 {
            while !part.ended && Instant::now() < deadline {
                part.listen_for(Duration::from_millis(100));
            }
        }
        Ok(self.sum())
    }

    /// How far they are together.
    fn sum(&self) -> Progress {
        self.0.iter().map(|part| part.last).reduce(Progress::and).unwrap_or_default()
    }
}

impl Part {
    fn start(command: &mut Command) -> Result<Self, BenchError> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(orders), Some(output)) = (child.stdin.take(), child.stdout.take()) else { return Err(BenchError::Part) };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Its table and its last line are no progress.
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            for progress in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                if sender.send(progress).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, orders, lines, last: Progress::default(), ended: false })
    }

    fn listen(&mut self) {
        loop {
            match self.lines.try_recv() {
                Ok(progress) => self.last = progress,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.ended = true;
                    return;
                }
            }
        }
    }

    fn listen_for(&mut self, patience: Duration) {
        match self.lines.recv_timeout(patience) {
            Ok(progress) => self.last = progress,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => self.ended = true,
        }
    }

    fn tell(&mut self, order: Order) -> Result<(), BenchError> {
        let line = serde_json::to_string(&order).map_err(std::io::Error::from)?;
        writeln!(self.orders, "{line}").map_err(|_| BenchError::Part)
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for part in &mut self.0 {
            // One that has ended already is only waited for.
            _ = part.child.kill();
            _ = part.child.wait();
        }
    }
}
