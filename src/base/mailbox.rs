//! How workers speak: one bounded single-producer single-consumer ring per ordered pair, and a doorbell per receiver.
//!
//! Nothing here waits and nothing is dropped: a full ring gives the message back and the sender keeps it in its own order
//! until there is room. Bells are rung once per turn and receiver ([`Post::ring_bells`]), not once per message.

use std::sync::Arc;

use super::{Doorbell, ShardId};

/// Messages in flight per ordered pair.
pub const MAILBOX_ENTRIES: usize = 1024;
/// The same where there are more than [`PEERS_FEW_MAX`] peers: the number of pairs grows with the square.
pub const MAILBOX_ENTRIES_MANY: usize = 64;
/// Peers up to which each pair gets the large ring.
pub const PEERS_FEW_MAX: usize = 17;

/// One peer's end of all its mailboxes. Sends to and receives from every peer, itself included.
pub struct Post<T> {
    me: ShardId,
    outgoing: Vec<rtrb::Producer<T>>,
    incoming: Vec<rtrb::Consumer<T>>,
    bells: Arc<[Doorbell]>,
    /// Receivers written to since the last [`Self::ring_bells`].
    touched: Vec<ShardId>,
    is_touched: Vec<bool>,
    /// Senders whose mailbox is known to hold something, in the order in which they are served.
    pending: Vec<usize>,
    is_pending: Vec<bool>,
}

/// The ends for `peers` peers, in their order.
#[must_use]
pub fn post_office<T>(peers: u16) -> Vec<Post<T>> {
    let count = usize::from(peers);
    let entries = if count <= PEERS_FEW_MAX { MAILBOX_ENTRIES } else { MAILBOX_ENTRIES_MANY };
    let bells: Arc<[Doorbell]> = (0..count).map(|_| Doorbell::new(count)).collect();
    let mut posts: Vec<Post<T>> = (0..peers).map(|peer| Post::new(ShardId(peer), count, bells.clone())).collect();
    for sender in 0..count {
        for receiver in 0..count {
            let (producer, consumer) = rtrb::RingBuffer::new(entries);
            posts[sender].outgoing.push(producer);
            posts[receiver].incoming.push(consumer);
        }
    }
    posts
}

impl<T> Post<T> {
    fn new(me: ShardId, peers: usize, bells: Arc<[Doorbell]>) -> Self {
        Self {
            me,
            outgoing: Vec::with_capacity(peers),
            incoming: Vec::with_capacity(peers),
            bells,
            touched: Vec::new(),
            is_touched: vec![false; peers],
            pending: Vec::new(),
            is_pending: vec![false; peers],
        }
    }

    /// Peers there are, this one included.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether a message to `to` would be taken now.
    #[must_use]
    pub fn has_room(&self, to: ShardId) -> bool {
        self.outgoing.get(to.index()).is_some_and(|mailbox| !mailbox.is_full())
    }

    /// Puts a message into the mailbox of `to`, or gives it back when the mailbox is full or there is no such peer.
    ///
    /// # Errors
    /// The message itself.
    pub fn try_send(&mut self, to: ShardId, message: T) -> Result<(), T> {
        let Some(mailbox) = self.outgoing.get_mut(to.index()) else { return Err(message) };
        mailbox.push(message).map_err(|rtrb::PushError::Full(message)| message)?;
        if !std::mem::replace(&mut self.is_touched[to.index()], true) {
            self.touched.push(to);
        }
        Ok(())
    }

    /// Tells every receiver written to since the last call; `wake` is called for those that sleep.
    pub fn ring_bells(&mut self, mut wake: impl FnMut(ShardId)) {
        for to in self.touched.drain(..) {
            self.is_touched[to.index()] = false;
            if self.bells[to.index()].ring(self.me.index()) {
                wake(to);
            }
        }
    }

    /// Hands in at most `max` messages, in each sender's order; the rest stays for the next call. Returns how many.
    pub fn receive(&mut self, max: usize, mut take: impl FnMut(ShardId, T)) -> usize {
        self.find_senders();
        let mut taken = 0;
        while let Some(&sender) = self.pending.first() {
            while taken < max {
                let Ok(message) = self.incoming[sender].pop() else { break };
                take(ShardId(u16::try_from(sender).unwrap_or(u16::MAX)), message);
                taken += 1;
            }
            if taken == max {
                // Whoever was cut short goes to the back, so that one flooding sender does not starve the others.
                self.pending.rotate_left(1);
                break;
            }
            self.pending.remove(0);
            self.is_pending[sender] = false;
        }
        taken
    }

    fn find_senders(&mut self) {
        let (pending, is_pending) = (&mut self.pending, &mut self.is_pending);
        self.bells[self.me.index()].collect(|sender| {
            if let Some(flag) = is_pending.get_mut(sender)
                && !std::mem::replace(flag, true)
            {
                pending.push(sender);
            }
        });
    }

    /// Messages that wait for this peer, for a gauge: counts what is visible now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.incoming.iter().map(rtrb::Consumer::slots).sum()
    }

    /// This peer is about to sleep in the kernel. False when something waits: then it must not.
    #[must_use = "sleeping regardless sleeps through a message"]
    pub fn doze(&self) -> bool {
        self.pending.is_empty() && self.bells[self.me.index()].doze()
    }

    /// This peer is awake again.
    pub fn wake(&self) {
        self.bells[self.me.index()].wake();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn received(post: &mut Post<u32>, max: usize) -> Vec<(u16, u32)> {
        let mut got = Vec::new();
        post.receive(max, |from, message| got.push((from.0, message)));
        got
    }

    fn rung(post: &mut Post<u32>) -> Vec<u16> {
        let mut woken = Vec::new();
        post.ring_bells(|to| woken.push(to.0));
        woken
    }

    #[test]
    fn a_message_arrives_once_its_bell_is_rung() {
        let mut posts = post_office::<u32>(2);
        assert!(posts[1].doze());
        posts[0].try_send(ShardId(1), 7).expect("the mailbox is empty");
        assert_eq!(rung(&mut posts[0]), [1]);
        assert!(rung(&mut posts[0]).is_empty(), "one bell per turn");
        posts[1].wake();
        assert_eq!(received(&mut posts[1], 10), [(0, 7)]);
        assert!(posts[1].doze());
    }

    #[test]
    fn a_full_mailbox_gives_the_message_back_and_keeps_the_order() {
        let mut posts = post_office::<u32>(2);
        let mut sent = 0;
        while posts[0].try_send(ShardId(1), sent).is_ok() {
            sent += 1;
        }
        assert_eq!(sent as usize, MAILBOX_ENTRIES);
        assert!(!posts[0].has_room(ShardId(1)));
        let _ = rung(&mut posts[0]);
        let got: Vec<u32> = received(&mut posts[1], usize::MAX).into_iter().map(|(_, message)| message).collect();
        assert_eq!(got, (0..sent).collect::<Vec<_>>());
        assert!(posts[0].has_room(ShardId(1)));
    }

    #[test]
    fn what_was_not_taken_keeps_the_peer_awake_and_others_get_their_turn() {
        let mut posts = post_office::<u32>(3);
        for sender in [0, 1] {
            for message in 0..3 {
                posts[sender].try_send(ShardId(2), message).expect("room");
            }
            let _ = rung(&mut posts[sender]);
        }
        assert_eq!(received(&mut posts[2], 2), [(0, 0), (0, 1)]);
        assert!(!posts[2].doze());
        assert_eq!(received(&mut posts[2], 2), [(1, 0), (1, 1)]);
        assert_eq!(received(&mut posts[2], 9), [(0, 2), (1, 2)]);
        assert!(posts[2].doze());
    }

    #[test]
    fn a_peer_may_write_to_itself_and_to_nobody_else_by_mistake() {
        let mut posts = post_office::<u32>(1);
        posts[0].try_send(ShardId(0), 1).expect("room");
        assert_eq!(posts[0].try_send(ShardId(1), 2), Err(2));
        let _ = rung(&mut posts[0]);
        assert!(!posts[0].doze());
        assert_eq!(received(&mut posts[0], 9), [(0, 1)]);
    }

    #[test]
    fn many_peers_get_small_mailboxes() {
        let mut posts = post_office::<u32>(18);
        let room = (0..).take_while(|&message| posts[0].try_send(ShardId(17), message).is_ok()).count();
        assert_eq!(room, MAILBOX_ENTRIES_MANY);
    }
}
