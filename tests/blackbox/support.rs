//! A server of its own for each test, and raw sockets to talk to it. Everything waits for a condition with a deadline.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::answer::Answer;
use crate::skip;

pub const KEY: &str = "test-key";
/// How long anything that should happen may take.
pub const SOON: Duration = Duration::from_secs(10);
/// How often [`wait_for`] looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whether servers run on epoll: they read the variable themselves.
pub fn on_epoll() -> bool {
    std::env::var("RINGMAIN_SERVER__IO").is_ok_and(|io| io == "epoll")
}

/// A running `ringmain serve`, ended by its own pid when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    log: Log,
}

/// The lines of a server's log so far.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics over it").clone()
    }
}

impl Server {
    /// A development server with these settings of the environment.
    pub fn start(environment: &[(&str, &str)]) -> Self {
        Self::start_with(&["--listen", "127.0.0.1:0", "--workers", "2"], environment)
    }

    pub fn start_with(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringmain"));
        command.arg("serve").args(flags).env("RINGMAIN_API__KEY", KEY).envs(environment.iter().copied());
        Self::spawn(command)
    }

    /// Starts a prepared command and waits until it says where it listens.
    pub fn spawn(mut command: Command) -> Self {
        assert!(!skip::is_left_out("uring"), "a test that starts a server begins with `if skip::without(\"uring\") {{ return; }}`");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let (tell, told) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        let stderr = BufReader::new(child.stderr.take().expect("its log"));
        let log = Log::default();
        let lines = log.clone();
        // A full pipe would stop the server.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.0.lock().expect("nobody panics over it").push(line);
            }
        });
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(address) =
                    line.strip_prefix("listening on http://").and_then(|text| text.split_whitespace().next()?.parse().ok())
                {
                    let _ = tell.send(address);
                }
            }
        });
        match told.recv_timeout(SOON) {
            Ok(address) => Self { child, address, log },
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the server does not listen: {:?}", log.lines());
            }
        }
    }

    /// Its process, as a flag takes it.
    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the server runs");
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Waits for the process to end by itself.
    pub fn ended(&mut self) -> ExitStatus {
        wait_for("the server's end", || self.child.try_wait().expect("a child"))
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own, read to its end.
    pub fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    pub fn get(&self, target: &str) -> Answer {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
    }

    pub fn post(&self, target: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.ask(&format!("POST {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-API-Key: {KEY}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
    }

    /// Publishes to a channel and returns the position.
    pub fn publish(&self, channel: &str, body: &str) -> String {
        let answer = self.post(&format!("/channels/{channel}"), "", body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["position"].as_str().expect("a position").to_owned()
    }

    /// What a metric without labels says now.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let text = self.ask(&format!("GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-API-Key: {KEY}\r\n\r\n")).body;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// The sum of a family's samples; a name with labels picks those that start so.
    pub fn metric_sum(&self, name: &str) -> f64 {
        let text = self.ask(&format!("GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-API-Key: {KEY}\r\n\r\n")).body;
        let samples = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn websocket(&self, target: &str) -> tungstenite::WebSocket<TcpStream> {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        tungstenite::client(format!("ws://{}{target}", self.address), stream).expect("a handshake").0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A raw connection.
pub struct Client {
    stream: TcpStream,
    wire: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("a connection"))
    }

    /// One whose kernel takes little that is not read.
    pub fn connect_narrow(address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a socket option");
        socket.connect(&address.into()).expect("a connection");
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        Self { stream, wire: Vec::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("the server reads");
    }

    /// Says that nothing more will be sent; what comes can still be read.
    pub fn finish_sending(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("connected");
    }

    /// Reads until the text has come; returns everything up to its end.
    pub fn read_until(&mut self, wanted: &str) -> String {
        self.read_until_one_of(&[wanted])
    }

    /// The same for whichever of several texts comes first.
    pub fn read_until_one_of(&mut self, wanted: &[&str]) -> String {
        let end =
            |wire: &[u8], text: &str| Some(wire.windows(text.len()).position(|window| window == text.as_bytes())? + text.len());
        loop {
            if let Some(end) = wanted.iter().filter_map(|text| end(&self.wire, text)).min() {
                return String::from_utf8_lossy(&self.wire.drain(..end).collect::<Vec<u8>>()).into_owned();
            }
            assert!(self.fill() > 0, "closed before {wanted:?}: {:?}", String::from_utf8_lossy(&self.wire));
        }
    }

    /// Reads so many bytes.
    pub fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.wire.len() < count {
            assert!(self.fill() > 0, "closed before {count} bytes");
        }
        self.wire.drain(..count).collect()
    }

    /// Whether the server closes the connection, whatever it says before.
    pub fn closes(&mut self) -> String {
        while self.fill() > 0 {}
        String::from_utf8_lossy(&self.wire).into_owned()
    }

    pub fn answer(&mut self) -> Answer {
        let (answer, length) = loop {
            match Answer::begin(&mut self.wire) {
                Some(begun) => break begun,
                None => assert!(self.fill() > 0, "closed before an answer: {:?}", String::from_utf8_lossy(&self.wire)),
            }
        };
        // To a HEAD nothing comes of it.
        while self.wire.len() < length && self.fill() > 0 {}
        answer.with_body(&mut self.wire, length)
    }

    fn fill(&mut self) -> usize {
        let mut buffer = [0; 16 << 10];
        let read = self.stream.read(&mut buffer).unwrap_or_else(|error| match error.kind() {
            std::io::ErrorKind::ConnectionReset => 0,
            _ => panic!("nothing came in time: {error}, after {:?}", String::from_utf8_lossy(&self.wire)),
        });
        self.wire.extend_from_slice(&buffer[..read]);
        read
    }
}

/// Asks again until there is an answer, or the time is up.
pub fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON + SOON;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < end, "{what} did not come in time");
        std::thread::park_timeout(LOOK_AGAIN);
    }
}
