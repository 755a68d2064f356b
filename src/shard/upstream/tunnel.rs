//! The end of raw WebSockets that are passed through: a drain tells both sides between two frames.

use super::Link;
use crate::base::{ConnId, Now};
use crate::protocol::codes::Disconnect;
use crate::shard::Shard;
use crate::shard::stage::Stage;
use crate::ws::{self, CloseCode, Opcode};

impl Shard {
    /// A drain has come to a client of an upstream. Requests are answered and close then; a raw WebSocket has no such end.
    pub(in crate::shard) fn tell_exchange_to_go(&mut self, conn: ConnId, now: Now) {
        if let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) {
            exchanging.leaving = true;
            self.leave_tunnel(conn, now);
        }
    }

    /// Ends a tunnel that is to go, with a Close to both sides, once that does not fall into the middle of a frame.
    pub(super) fn leave_tunnel(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        let Some(tunnel) = exchanging.exchange.tunnel().filter(|_| exchanging.leaving) else { return };
        if !tunnel.down.is_at_boundary() && !tunnel.down.is_lost() {
            return;
        }
        let (tell_client, tell_upstream) = (tunnel.down.is_at_boundary(), tunnel.up.is_at_boundary());
        let upstream = exchanging.upstream;
        let Link::Open { conn: up, server, .. } = std::mem::replace(&mut exchanging.link, Link::Waiting) else { return };
        let (code, reason) = (CloseCode::GOING_AWAY, Disconnect::Shutdown.reason());
        if tell_client {
            self.say(conn, ws::encode::close(code, reason));
        }
        if tell_upstream {
            let [a, b, c, d, ..] = self.random.bits().to_ne_bytes();
            self.say(up, ws::encode::masked(Opcode::Close, &ws::encode::close_payload(code, reason), [a, b, c, d]));
        }
        self.retire(up);
        self.give_up_place(upstream, server, up, now);
        self.end(up, now);
        self.end(conn, now);
    }
}
