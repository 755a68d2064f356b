//! Pure pieces, each alone and on hot caches: nanoseconds an operation, best and median of some rounds.
//!
//! They say where time goes when the whole has become slower, not how fast the whole is: there is no kernel in them.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringmain::base::{ConnId, Nanos, Now, ShardId, WallMs};
use ringmain::http;
use ringmain::http::head::HeadReader;
use ringmain::hub::{Access, Namespace};
use ringmain::shard::{Input, ListenerId, Options, Output, Shard};
use ringmain::ws::{self, Decoder, Event, Opcode, Role, Scratch, encode};

const ROUNDS: usize = 9;
const ROUND_TIME: Duration = Duration::from_millis(60);
const MASK: [u8; 4] = [1, 2, 3, 4];
const SUBSCRIBERS: usize = 1000;
const FAN_OUT_SLICE: u32 = 2000;
const HEAD: &[u8] = b"GET /channels/news?via=ws HTTP/1.1\r\nHost: example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
    Accept-Language: en\r\nOrigin: http://example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn main() {
    println!("| piece | best ns | median ns |\n|---|---|---|");
    head();
    for bytes in [64, 16 << 10] {
        mask(bytes);
        decode(bytes);
    }
    let mut world = World::new(SUBSCRIBERS);
    time("publish, fan out and flush, for each of 1,000 subscribers", SUBSCRIBERS as u64, || world.publish());
    let mut world = World::new(0);
    time("publish over HTTP to nobody, answered", 1, || world.publish());
}

/// Times `act`, which does `operations`, and prints a row.
fn time(name: &str, operations: u64, mut act: impl FnMut()) {
    let mut nanos: Vec<f64> = (0..ROUNDS).map(|_| round(operations, &mut act)).collect();
    nanos.sort_by(f64::total_cmp);
    println!("| {name} | {:.1} | {:.1} |", nanos[0], nanos[ROUNDS / 2]);
}

fn round(operations: u64, act: &mut impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < ROUND_TIME {
        // The clock is read once for many.
        (0..16).for_each(|_| act());
        count += 16;
    }
    began.elapsed().as_nanos() as f64 / (count * operations) as f64
}

fn head() {
    let options = http::Options::default();
    time("parse the head of an upgrade", 1, || {
        let parsed = HeadReader::default().feed(black_box(HEAD), &options);
        assert!(matches!(black_box(parsed), Ok(Some((_, HEAD_BYTES)))));
    });
}

const HEAD_BYTES: usize = HEAD.len();

fn mask(bytes: usize) {
    let mut payload = vec![b'x'; bytes];
    time(&format!("unmask {bytes} B"), 1, || ws::apply_mask(black_box(&mut payload), MASK, 0));
}

/// Copying the frame in is part of it: decoding unmasks in place.
fn decode(bytes: usize) {
    let frame = encode::masked(Opcode::Text, &vec![b'x'; bytes], MASK);
    let (mut decoder, mut scratch, options) = (Decoder::new(Role::Server, false), Scratch::default(), ws::Options::default());
    let mut received = frame.clone();
    time(&format!("copy and decode a text message of {bytes} B"), 1, || {
        received.copy_from_slice(&frame);
        let mut rest = received.as_mut_slice();
        let event = decoder.next(&mut rest, &mut scratch, &options);
        assert!(matches!(black_box(event), Ok(Some(Event::Text(text))) if text.len() == bytes));
    });
}

/// One shard with subscribers and a publisher on fake sockets that take everything.
struct World {
    shard: Shard,
    now: Now,
    subscribers: usize,
    publisher: ConnId,
    request: Vec<u8>,
}

impl World {
    fn new(subscribers: usize) -> Self {
        let mut options = Options::default();
        options.server.api_key = "k".to_owned();
        options.hub.namespaces = vec![Namespace { allow_subscribe: Access::Anyone, ..Namespace::default() }];
        let now = Now { monotonic: Nanos(1_000_000_000), wall: WallMs(1_700_000_000_000) };
        let payload = format!("{{\"fill\":\"{}\"}}", "x".repeat(117));
        let head = "POST /channels/news HTTP/1.1\r\nHost: example.com\r\nX-API-Key: k\r\nContent-Type: application/json\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{payload}", payload.len()).into_bytes();
        let shard = Shard::new(ShardId(0), 1, Arc::new(options), 1, now);
        let mut world = Self { shard, now, subscribers: 0, publisher: ConnId { slot: 0, generation: 1 }, request };
        world.accept(world.publisher);
        for slot in 1..=subscribers {
            let conn = ConnId { slot: slot as u32, generation: 1 };
            world.accept(conn);
            world.shard.handle(Input::Bytes { conn, bytes: &mut HEAD.to_vec() }, now);
        }
        world.turn();
        world.subscribers = subscribers;
        world
    }

    fn accept(&mut self, conn: ConnId) {
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        self.shard.handle(Input::Accepted { conn, listener: ListenerId::Public, peer }, self.now);
    }

    fn publish(&mut self) {
        let mut request = self.request.clone();
        self.shard.handle(Input::Bytes { conn: self.publisher, bytes: &mut request }, self.now);
        let sends = self.turn();
        assert_eq!(sends, self.subscribers + 1, "one frame for each subscriber, one answer for the publisher");
    }

    /// A turn as the shell makes it; returns how many sends it came to.
    fn turn(&mut self) -> usize {
        self.now.monotonic = self.now.monotonic + Duration::from_micros(100);
        while self.shard.fan_out(FAN_OUT_SLICE, self.now).more {}
        self.shard.handle_timeout(self.now);
        self.shard.flush();
        let mut sends = 0;
        while let Some(output) = self.shard.poll_output() {
            sends += usize::from(matches!(black_box(output), Output::Send { .. }));
        }
        sends
    }
}
