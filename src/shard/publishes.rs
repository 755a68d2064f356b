//! What a WebSocket publishes: answered when the homes have replied, and held back when they do not keep up.
//!
//! So much may be on its way from one connection, and nothing more towards a home whose worker is congested
//! ([`Outbox::congested`](super::outbox::Outbox::congested)). Whoever reaches that is not refused: its next messages are held
//! where they are, and soon it is not read ([`held`](super::held)). It goes on when half of what is allowed is left and every
//! congested home has room again.

use std::collections::VecDeque;

use super::Shard;
use super::connections::Pause;
use super::stage::Stage;
use super::websocket::WebSocket;
use crate::base::{ConnId, ShardId};
use crate::hub::{Draft, PublishError, PublishRef, Stored, Via, WorkerSet, home_of};
use crate::protocol::codes::ErrorCode;

/// Publications of one connection on their way to their homes.
const COUNT_MAX: usize = 1024;
/// Bytes of the same; a larger single one still goes, alone.
const BYTES_MAX: usize = 256 << 10;

/// Publications of one connection that their homes have not answered.
#[derive(Debug, Default)]
pub struct Publishes {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Homes that it published to while they were congested.
    congested: WorkerSet,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// Our number for it.
    request: u32,
    /// The client's, where it wants an answer.
    id: Option<u64>,
    bytes: usize,
}

impl Publishes {
    /// Whether nothing more may be published for now.
    fn is_full(&self) -> bool {
        self.waiting.len() >= COUNT_MAX || self.bytes >= BYTES_MAX || !self.congested.is_empty()
    }

    /// Whether so little is left that it is worth going on.
    fn has_room(&self) -> bool {
        self.waiting.len() <= COUNT_MAX / 2 && self.bytes <= BYTES_MAX / 2 && self.congested.is_empty()
    }

    fn answered(&mut self, request: u32) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| waiting.request == request)?;
        let waiting = self.waiting.remove(at)?;
        self.bytes -= waiting.bytes;
        Some(waiting)
    }
}

impl Shard {
    /// Sends a WebSocket's publication to its home. `id` is the client's number for it, where it wants an answer.
    pub(super) fn publish_for_websocket(&mut self, conn: ConnId, socket: &mut WebSocket, id: Option<u64>, draft: Draft) {
        self.requests = self.requests.wrapping_add(1);
        let (request, bytes, home) = (self.requests, draft.bytes(), home_of(&draft.channel, self.shards));
        let publishes = socket.publishes.get_or_insert_default();
        publishes.waiting.push_back(Waiting { request, id, bytes });
        publishes.bytes += bytes;
        if self.outbox.congested(home) {
            publishes.congested.insert(home);
            self.held_publishers.push(conn);
        }
        self.send_draft(PublishRef { conn, request, place: 0, via: Via::WebSocket }, draft);
    }

    /// Whether the connection's next message has to wait.
    pub(super) fn publishes_too_fast(&mut self, conn: ConnId, socket: &WebSocket) -> bool {
        let full = !socket.close_sent && socket.publishes.as_deref().is_some_and(Publishes::is_full);
        if full {
            self.connections.pause(conn, Pause::PUBLISHING);
        }
        full
    }

    /// A home has answered a publication of this connection.
    pub(super) fn published_from_websocket(&mut self, reference: PublishRef, result: Result<Stored, PublishError>) {
        let conn = reference.conn;
        let Some(Stage::WebSocket(socket)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        let (deflate, closing) = (socket.deflate, socket.close_sent);
        let Some(waiting) = socket.publishes.as_deref_mut().and_then(|publishes| publishes.answered(reference.request)) else {
            return;
        };
        // Nothing goes out behind a close frame (RFC 6455 section 5.5.1).
        if let Some(id) = waiting.id.filter(|_| !closing) {
            self.answer_publish_request(conn, deflate, id, result.map_err(ErrorCode::from));
        }
        self.publish_again(conn);
    }

    /// Goes on with the publishers that waited for these workers.
    pub(super) fn relieve_publishers(&mut self, relieved: WorkerSet) {
        if relieved.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut self.held_publishers);
        held.retain(|&conn| {
            let Some(Stage::WebSocket(socket)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return false };
            let Some(publishes) = socket.publishes.as_deref_mut() else { return false };
            relieved.iter().for_each(|worker: ShardId| publishes.congested.remove(worker));
            let waits = !publishes.congested.is_empty();
            if !waits {
                self.publish_again(conn);
            }
            waits
        });
        self.held_publishers = held;
    }

    fn publish_again(&mut self, conn: ConnId) {
        let Some(Stage::WebSocket(socket)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        let Some(publishes) = socket.publishes.as_deref().filter(|publishes| publishes.has_room()) else { return };
        if publishes.waiting.is_empty() {
            socket.publishes = None;
        }
        if self.connections.is_paused_by(conn, Pause::PUBLISHING) {
            self.connections.resume(conn, Pause::PUBLISHING);
            self.ready_for_held(conn);
        }
    }
}
