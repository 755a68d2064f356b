//! When must a sender wake a receiver? Only when it sleeps, and never too seldom.
//!
//! ```text
//! sender                                receiver
//! put the message into the mailbox      sleeping := true
//! dirty[me] := true                     any dirty?  yes: sleeping := false, go on
//! sleeping was true? -> wake it                     no:  sleep in the kernel
//! ```
//!
//! Both sides write before they read, with a sequentially consistent fence between, so at least one of them sees the other: a
//! message is
//! either found by the receiver before it sleeps, or its sender wakes it. The first sender to see the flag takes it down,
//! so one sleep costs one wake however many senders there are. `tests::no_message_is_slept_through` checks every
//! interleaving under loom.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// Senders that share one word of the bitmap.
const SENDERS_PER_WORD: usize = 64;

/// The bell of one receiver: whether it sleeps, and which senders have left something.
#[derive(Debug)]
pub struct Doorbell {
    sleeping: AtomicBool,
    /// One bit per sender.
    dirty: Box<[AtomicU64]>,
}

impl Doorbell {
    /// A bell that `senders` may ring, for a receiver that is awake.
    #[must_use]
    pub fn new(senders: usize) -> Self {
        let words = senders.div_ceil(SENDERS_PER_WORD).max(1);
        Self { sleeping: AtomicBool::new(false), dirty: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Says that `sender` has left something. True when the receiver sleeps and the caller, alone, must wake it.
    #[must_use = "a receiver that is not woken sleeps through the message"]
    pub fn ring(&self, sender: usize) -> bool {
        let Some(word) = self.dirty.get(sender / SENDERS_PER_WORD) else { return false };
        word.fetch_or(1 << (sender % SENDERS_PER_WORD), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // The plain load keeps a busy receiver's flag in the shared state of every cache.
        self.sleeping.load(Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst)
    }

    /// The receiver is about to sleep. False when something came in meanwhile: then it must not.
    #[must_use = "sleeping regardless sleeps through a message"]
    pub fn doze(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let quiet = self.dirty.iter().all(|word| word.load(Ordering::SeqCst) == 0);
        if !quiet {
            self.wake();
        }
        quiet
    }

    /// The receiver is awake, for whatever reason.
    pub fn wake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Takes the marks down and names each sender that had left one.
    pub fn collect(&self, mut found: impl FnMut(usize)) {
        for (index, word) in self.dirty.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                found(index * SENDERS_PER_WORD + bit);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn collected(bell: &Doorbell) -> Vec<usize> {
        let mut senders = Vec::new();
        bell.collect(|sender| senders.push(sender));
        senders
    }

    #[test]
    fn an_awake_receiver_is_not_woken() {
        let bell = Doorbell::new(2);
        assert!(!bell.ring(1));
        assert_eq!(collected(&bell), [1]);
        assert!(collected(&bell).is_empty());
    }

    #[test]
    fn a_sleeper_is_woken_once() {
        let bell = Doorbell::new(3);
        assert!(bell.doze());
        assert!(bell.ring(0));
        assert!(!bell.ring(2));
        assert_eq!(collected(&bell), [0, 2]);
    }

    #[test]
    fn nobody_sleeps_on_something_unread() {
        let bell = Doorbell::new(1);
        assert!(!bell.ring(0));
        assert!(!bell.doze());
        assert!(!bell.ring(0), "the refused doze left the receiver marked as awake");
    }

    #[test]
    fn more_senders_than_a_word_has_bits() {
        let bell = Doorbell::new(130);
        for sender in [0, 63, 64, 129] {
            assert!(!bell.ring(sender));
        }
        assert!(!bell.doze());
        assert_eq!(collected(&bell), [0, 63, 64, 129]);
        assert!(bell.doze());
    }

    #[test]
    fn a_sender_that_was_never_announced_is_ignored() {
        assert!(!Doorbell::new(1).ring(64));
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;
    use loom::thread;

    /// One receiver and two senders with a message each. Whatever the interleaving, the receiver either finds the message
    /// itself or is woken; a wake is modelled by a count that the sleeping receiver waits for.
    #[test]
    fn no_message_is_slept_through() {
        loom::model(|| {
            let bell = Arc::new(Doorbell::new(2));
            let sent: Arc<[AtomicUsize; 2]> = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
            let wakes = Arc::new(AtomicUsize::new(0));
            let senders: Vec<_> = (0..2)
                .map(|me| {
                    let (bell, sent, wakes) = (bell.clone(), sent.clone(), wakes.clone());
                    thread::spawn(move || {
                        sent[me].store(1, Ordering::Release);
                        if bell.ring(me) {
                            wakes.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            let mut read = receive(&bell, &sent);
            let asleep = bell.doze();
            for sender in senders {
                sender.join().expect("the sender ran");
            }
            if asleep && read < 2 {
                assert_eq!(wakes.load(Ordering::SeqCst), 1, "asleep with a message unread");
            }
            bell.wake();
            read += receive(&bell, &sent);
            assert_eq!(read, 2);
        });
    }

    /// Reads the mailboxes of the senders that left a mark.
    fn receive(bell: &Doorbell, sent: &[AtomicUsize; 2]) -> usize {
        let mut read = 0;
        bell.collect(|sender| read += sent[sender].swap(0, Ordering::Acquire));
        read
    }
}
