//! WebSockets: what their clients say and are told.

use super::World;
use crate::base::ConnId;
use crate::ws::encode::masked;
use crate::ws::{Decoder, Event, Opcode, Options, Role, Scratch};

/// What a handshake needs besides `Host`.
pub const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// What a client gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Text(String),
    Binary(Vec<u8>),
    Close(u16, String),
    Other,
}

/// A client's unfragmented frame.
pub fn frame(opcode: Opcode, payload: impl AsRef<[u8]>) -> Vec<u8> {
    masked(opcode, payload.as_ref(), [1, 2, 3, 4])
}

impl World {
    /// A WebSocket after its handshake.
    #[track_caller]
    pub fn websocket(&mut self, target: &str, headers: &str) -> ConnId {
        let conn = self.open(target, &format!("{UPGRADE}{headers}"));
        let answer = self.answer(conn);
        assert_eq!(answer.status, 101, "{answer:?}");
        conn
    }

    #[track_caller]
    pub fn send_text(&mut self, conn: ConnId, text: &str) {
        self.send(conn, frame(Opcode::Text, text));
    }

    #[track_caller]
    pub fn send_binary(&mut self, conn: ConnId, bytes: &[u8]) {
        self.send(conn, frame(Opcode::Binary, bytes));
    }

    /// The messages that have come.
    pub fn told(&mut self, conn: ConnId) -> Vec<Told> {
        let mut bytes = self.read_bytes(conn);
        let (mut rest, mut scratch) = (bytes.as_mut_slice(), Scratch::default());
        let mut decoder = Decoder::new(Role::Client, false);
        let mut told = Vec::new();
        let options = Options { message_bytes_max: 1 << 20, ..Options::default() };
        while let Some(event) = decoder.next(&mut rest, &mut scratch, &options).expect("frames") {
            told.push(match event {
                Event::Text(text) => Told::Text(text.to_owned()),
                Event::Binary(bytes) => Told::Binary(bytes.to_vec()),
                Event::Close { code, reason } => Told::Close(code.map_or(1005, |code| code.number()), reason.to_owned()),
                Event::Ping(_) | Event::Pong(_) => Told::Other,
            });
        }
        told
    }

    /// The text messages that have come; anything else is a failure.
    #[track_caller]
    pub fn texts(&mut self, conn: ConnId) -> Vec<String> {
        let text = |told| match told {
            Told::Text(text) => text,
            other => panic!("{other:?}"),
        };
        self.told(conn).into_iter().map(text).collect()
    }

    /// The same, as JSON.
    #[track_caller]
    pub fn items(&mut self, conn: ConnId) -> Vec<serde_json::Value> {
        self.texts(conn).iter().map(|text| serde_json::from_str(text).expect("JSON")).collect()
    }

    /// The code of the close frame that has come, and in how many milliseconds its reason says to come back.
    #[track_caller]
    pub fn close_and_retry(&mut self, conn: ConnId) -> (u16, u64) {
        let (code, reason) = self.close_frame(conn);
        let delay = reason.split_once(", retry in ").and_then(|(_, rest)| rest.strip_suffix(" ms")?.parse().ok());
        (code, delay.unwrap_or_else(|| panic!("no delay: {reason:?}")))
    }

    /// The close frame that has come, and nothing else of interest before it.
    #[track_caller]
    pub fn close_frame(&mut self, conn: ConnId) -> (u16, String) {
        match self.told(conn).pop() {
            Some(Told::Close(code, reason)) => (code, reason),
            other => panic!("no close frame: {other:?}"),
        }
    }
}
