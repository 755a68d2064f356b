//! One worker: a thread, a shell, a shard, and the turn that joins them.
//!
//! ```text
//! send and wait ─► refused sends ─► what happened ─► mail in ─► fan-out slice ─► deadlines ─► flush ─► mail out ─► end of turn
//!        ▲                                                                                                          │
//!        └──────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! What a turn does to sockets goes through a [`Shell`], of which there is one for each kernel interface. One enter per turn, one
//! clock reading behind it. Each step is bounded, so that an accept storm, a flooding client and a giant broadcast cannot starve
//! one another; what is left over makes the next turn not wait.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Resource, getrlimit};

use super::busy::Busy;
use super::shell::{Handed, Shell, ShellError};
use crate::base::{Nanos, Now, Post, ShardId, WallMs};
use crate::hub::Message;
use crate::metrics::{LoopFacts, TURN_BOUNDS};
use crate::ring::Wait;
use crate::shard::{Input, Options, Output, Shard};

/// What happened to sockets, as far as it is handed to the shard per turn.
const INPUTS_MAX: usize = 4096;
/// How long that take per turn, and after how many the clock is looked at.
const INPUT_TIME: Duration = Duration::from_millis(5);
const INPUTS_PER_LOOK: usize = 64;
/// On a worker without idle time, where as much as this happened in the last turn, the next one waits until so much has happened, or
/// for so long: larger turns cost less for each thing in them.
const GATHER_FROM_INPUTS: usize = 8;
const GATHER_INPUTS: u32 = 128;
const GATHER_TIME: Duration = Duration::from_micros(50);
/// Messages handed to the shard per turn.
const MESSAGES_MAX: usize = 4096;
/// Sends per slice of fan-out at most.
const SENDS_MAX: u32 = 2000;
const SENDS_MIN: u32 = 64;
/// What a slice of fan-out may cost while other work waits.
const SLICE: Duration = Duration::from_millis(1);
/// When nothing else waits: whoever comes meanwhile waits for the rest of it.
const SLICE_ALONE: Duration = Duration::from_micros(2500);
/// What a send is taken to cost before one was measured.
const SEND_NANOS_GUESS: u64 = 4000;
/// Sends below this say more about the enter than about themselves. From here on they have an enter that waits for nothing, so that
/// what they cost can be measured and what they hold is let go before a sleep.
const SENDS_TO_MEASURE: u64 = 16;
/// What the first words of new connections may cost per turn. Whoever is here already waits for the rest of a turn and for the next.
const NEWCOMERS_TIME: Duration = Duration::from_micros(100);
/// Where turns are long by themselves, newcomers get one part in so many: a worker that broadcasts must not shut them out.
const NEWCOMERS_SHARE: u32 = 4;
const NEWCOMERS_MAX: u32 = 64;
const NEWCOMERS_MIN: u32 = 2;
/// How soon a full mailbox is tried again.
const FULL_MAILBOX_RETRY: Duration = Duration::from_millis(1);

/// What goes between workers and the control thread.
#[derive(Debug)]
pub enum Parcel {
    /// Between shards.
    Message(Message),
    /// A fresh connection, from a worker with less room. Where tables of descriptors are the kernel's it goes from table to table, and
    /// by mail only from one that has no slot left.
    Handed(Handed),
    /// Use this configuration from now on.
    Reload(Arc<Options>),
    /// A configuration was refused; the one there is stays.
    NotReloaded,
    /// Stop listening and finish within this time.
    Drain(Duration),
    /// To the control thread: this worker has nothing left to wait for.
    Drained,
    /// End now.
    Stop,
}

/// The clocks of a process, read by its workers only.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn started_now() -> Self {
        Self { start: Instant::now() }
    }

    pub fn monotonic(self) -> Nanos {
        Nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub fn now(self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { monotonic: self.monotonic(), wall: WallMs(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
    }
}

/// How sleeping peers are woken.
pub struct Bells {
    /// By a message to their ring, where the start-up test found that it works; the control thread has no ring.
    pub rings: Option<Arc<[OwnedFd]>>,
    /// One eventfd per worker; the last is the control thread's bell.
    pub eventfds: Arc<[OwnedFd]>,
}

impl Bells {
    /// Wakes by eventfd, which always works.
    pub fn wake(&self, peer: ShardId) {
        if let Some(eventfd) = self.eventfds.get(peer.index()) {
            // It can fail only when the counter is full: then the peer has a wake pending already.
            let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
        }
    }
}

/// One worker at work.
pub struct Worker<S> {
    pub id: ShardId,
    pub shard: Shard,
    pub shell: S,
    pub post: Post<Parcel>,
    pub bells: Bells,
    pub clock: Clock,
    pub state: State,
    pub cost: SendCost,
    /// The last slice of fan-out left something to hand out.
    pub more_fan_out: bool,
    /// What the last turn handed to the shard of what had happened.
    pub inputs: usize,
    pub busy: Busy,
    /// How long the last turn was, its enter included where that did not wait.
    pub turn_time: Duration,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Serving,
    /// Accepting what had already connected; the shard has this long when that is done.
    Draining(Duration),
    /// The shard has been told to finish.
    Finishing,
    /// Everything is said; waiting for the others.
    Drained,
    Stopped,
}

impl<S: Shell> Worker<S> {
    /// Runs until told to stop; returns what was counted.
    ///
    /// # Errors
    /// When the kernel interface becomes unusable.
    pub fn run(mut self) -> Result<LoopFacts, ShellError> {
        self.shell.listen(self.bells.eventfds[self.id.index()].as_fd())?;
        while self.state != State::Stopped {
            self.turn()?;
        }
        Ok(self.facts().clone())
    }

    /// The loop's counters and gauges as of now.
    pub fn facts(&mut self) -> &LoopFacts {
        let depth = self.post.depth() as u64;
        self.shell.take_stock();
        let facts = self.shell.facts();
        facts.mailbox_depth = depth;
        let process = &mut facts.process;
        // One of all workers is enough.
        process.open_fds = if self.id.0 == 0 { open_fds() } else { 0 };
        process.fd_limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        facts
    }

    fn turn(&mut self) -> Result<(), ShellError> {
        let entered = self.enter()?;
        let now = self.clock.now();
        self.shell.report(&mut self.shard, now);
        self.inputs = self.apply_inputs(now);
        let others_wait = self.inputs + self.read_mail(now) > 0;
        self.fan_out(others_wait, now);
        self.shard.handle_timeout(now);
        self.shell.handle_timeout(&mut self.shard, now);
        self.continue_drain(now);
        self.flush(now);
        self.hand_over(now);
        self.send_mail();
        self.shell.end_turn(newcomers(self.shard.handshake_time(), self.turn_time), now);
        self.tell_work(now);
        self.note_turn(entered.unwrap_or(now.monotonic), now);
        Ok(())
    }

    /// Returns when it began, unless it waited.
    fn enter(&mut self) -> Result<Option<Nanos>, ShellError> {
        let wait = self.wait();
        let (before, sends) = (self.clock.monotonic(), self.shell.sends());
        self.shell.enter(wait)?;
        self.post.wake();
        if wait == Wait::No {
            let sends = self.shell.sends() - sends;
            self.cost.measured(sends, self.clock.monotonic().since(before));
        }
        Ok((wait == Wait::No).then_some(before))
    }

    /// How long the next enter may wait. Must be the last thing before it: from here on senders ring.
    fn wait(&mut self) -> Wait {
        if self.more_fan_out || self.shell.has_work() || !self.post.doze() {
            return Wait::No;
        }
        let rest = self.time_left();
        if rest == Some(Duration::ZERO) {
            return Wait::No;
        }
        if S::GATHERS && self.inputs >= GATHER_FROM_INPUTS && self.busy.is_busy() {
            let at_most = rest.map_or(GATHER_TIME, |rest| rest.min(GATHER_TIME));
            return Wait::Gather { completions: GATHER_INPUTS, at_most };
        }
        if self.shell.sends_due() as u64 >= SENDS_TO_MEASURE {
            return Wait::No;
        }
        rest.map_or(Wait::Unbounded, Wait::AtMost)
    }

    /// Until the next deadline, if there is one.
    fn time_left(&self) -> Option<Duration> {
        let deadlines = [self.shard.poll_timeout(), self.shell.poll_timeout()];
        let rest = deadlines.into_iter().flatten().min().map(|deadline| deadline.since(self.clock.monotonic()));
        let retry = self.shard.has_messages().then_some(FULL_MAILBOX_RETRY);
        rest.into_iter().chain(retry).min()
    }

    /// Hands what happened to the shard, for a bounded time. Returns how much.
    fn apply_inputs(&mut self, now: Now) -> usize {
        for done in 0..INPUTS_MAX {
            if done % INPUTS_PER_LOOK == INPUTS_PER_LOOK - 1 && self.clock.monotonic().since(now.monotonic) > INPUT_TIME {
                return done;
            }
            if !self.shell.apply_next(&self.bells, &mut self.shard, now) {
                return done;
            }
        }
        INPUTS_MAX
    }

    // ---- mail ----

    fn read_mail(&mut self, now: Now) -> usize {
        let Self { post, shard, shell, state, .. } = self;
        post.receive(MESSAGES_MAX, |from, parcel| match parcel {
            Parcel::Message(message) => shard.handle(Input::Message { from, message }, now),
            Parcel::Handed(handed) => shell.take_over(handed, shard, now),
            Parcel::Reload(options) => {
                shell.facts().process.reloads_applied += 1;
                // The most patient upstream decides; each shard has its own deadlines below that.
                let connect_timeout = options.proxy.upstreams.iter().map(|upstream| upstream.connect_timeout).max();
                let times = shell.times();
                times.connect_timeout = connect_timeout.unwrap_or(times.connect_timeout);
                shard.reload(options);
            }
            Parcel::NotReloaded => shell.facts().process.reloads_failed += 1,
            Parcel::Drain(limit) if *state == State::Serving => {
                shell.start_drain(now);
                *state = State::Draining(limit);
            }
            Parcel::Drain(_) | Parcel::Drained => {}
            Parcel::Stop => *state = State::Stopped,
        })
    }

    /// Moves messages from the shard's outbox into the mailboxes, as far as there is room, and wakes who sleeps.
    fn send_mail(&mut self) {
        let workers = u16::try_from(self.post.peers() - 1).unwrap_or(u16::MAX);
        if self.shard.has_messages() {
            for to in (0..workers).map(ShardId) {
                self.send_mail_to(to);
            }
        }
        let Self { post, bells, shell, .. } = self;
        post.ring_bells(|to| shell.wake(to, bells));
    }

    /// Passes fresh connections on to workers with more room, where that goes by mail.
    fn hand_over(&mut self, now: Now) {
        while let Some((to, handed)) = self.shell.poll_handed() {
            if let Err(Parcel::Handed(handed)) = self.post.try_send(to, Parcel::Handed(handed)) {
                self.shell.take_back(to, handed, &mut self.shard, now);
            }
        }
    }

    fn send_mail_to(&mut self, to: ShardId) {
        // What a shard tells itself it reads itself.
        while to != self.id && self.shard.has_message(to) && self.post.has_room(to) {
            let Some(message) = self.shard.poll_message(to) else { return };
            let refused = self.post.try_send(to, Parcel::Message(message));
            debug_assert!(refused.is_ok(), "only we write to this mailbox, and it had room");
        }
    }

    // ---- out ----

    /// Hands publications out: about a millisecond's worth where others wait for their turn, more when alone.
    fn fan_out(&mut self, others_wait: bool, now: Now) {
        let slice = if others_wait || self.shell.has_inputs() { SLICE } else { SLICE_ALONE };
        self.more_fan_out = self.shard.fan_out(self.cost.sends_within(slice), now).more;
    }

    fn flush(&mut self, now: Now) {
        // With sends that the kernel has not decided, the next one of the same connection could tear its stream.
        if !self.shell.has_undecided_sends() {
            self.shard.flush();
        }
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::AskFacts => {
                    let facts = Box::new(self.facts().clone());
                    self.shard.handle(Input::Facts(facts), now);
                }
                output => self.shell.perform(output, now),
            }
        }
    }

    // ---- the end ----

    fn continue_drain(&mut self, now: Now) {
        match self.state {
            State::Draining(limit) if self.shell.has_stopped_listening() => {
                self.shard.drain(limit, now);
                self.state = State::Finishing;
            }
            State::Finishing if self.shard.is_drained(now) && (self.shell.has_no_clients() || self.shard.drain_is_over(now)) => {
                let control = ShardId(u16::try_from(self.post.peers() - 1).unwrap_or(u16::MAX));
                // A full mailbox means that control has stopped reading; it will stop us by itself.
                if self.post.try_send(control, Parcel::Drained).is_ok() {
                    self.state = State::Drained;
                }
            }
            State::Serving | State::Draining(_) | State::Finishing | State::Drained | State::Stopped => {}
        }
    }

    /// Processor time instead of the loop's: what a busy machine takes away from this thread is not what its work costs.
    fn tell_work(&mut self, now: Now) {
        if self.shard.wants_work_measured() {
            self.shard.handle(Input::Worked { thread_time: thread_time() }, now);
        }
    }

    fn note_turn(&mut self, entered: Nanos, started: Now) {
        let ended = self.clock.monotonic();
        self.turn_time = ended.since(entered);
        if S::GATHERS {
            self.busy.note(ended, thread_time);
        }
        let took = ended.since(started.monotonic);
        let class = TURN_BOUNDS.iter().position(|&end| took <= end).unwrap_or(TURN_BOUNDS.len());
        let facts = self.shell.facts();
        facts.turns[class] += 1;
        facts.turn_nanos += u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    }
}

/// How many new connections are heard per turn, by what a handshake costs and how long a turn is.
fn newcomers(handshake: Duration, turn: Duration) -> usize {
    let few = NEWCOMERS_TIME.max(turn / NEWCOMERS_SHARE).as_nanos() / handshake.as_nanos().max(1);
    u32::try_from(few).unwrap_or(NEWCOMERS_MAX).clamp(NEWCOMERS_MIN, NEWCOMERS_MAX) as usize
}

/// Processor time of the calling thread so far.
fn thread_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

/// Descriptors in the process's own table, the one that reads the list not counted.
fn open_fds() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |list| list.count().saturating_sub(1) as u64)
}

/// What a send costs here, measured over enters that did not wait.
#[derive(Clone, Copy, Debug)]
pub struct SendCost {
    nanos: u64,
}

impl Default for SendCost {
    fn default() -> Self {
        Self { nanos: SEND_NANOS_GUESS }
    }
}

impl SendCost {
    fn measured(&mut self, sends: u64, took: Duration) {
        if sends >= SENDS_TO_MEASURE {
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / sends;
            self.nanos = (self.nanos * 7 + nanos) / 8;
        }
    }

    fn sends_within(self, time: Duration) -> u32 {
        let sends = time.as_nanos() as u64 / self.nanos.max(1);
        u32::try_from(sends).unwrap_or(SENDS_MAX).clamp(SENDS_MIN, SENDS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_newcomers_are_heard_as_cost_little() {
        let heard =
            |turn| [1, 10, 25, 60, 5000].map(|micros| newcomers(Duration::from_micros(micros), Duration::from_micros(turn)));
        assert_eq!(heard(0), [64, 10, 4, 2, 2]);
        assert_eq!(heard(400), heard(0));
        assert_eq!(heard(4000), [64, 64, 40, 16, 2], "a long turn has a quarter for them");
    }

    #[test]
    fn slices_follow_the_measured_cost() {
        let mut cost = SendCost::default();
        assert_eq!(cost.sends_within(SLICE), 250);
        for _ in 0..100 {
            cost.measured(100, Duration::from_micros(1000));
        }
        assert!((95..=105).contains(&cost.sends_within(SLICE)));
        cost.measured(1, Duration::from_secs(1));
        assert!(cost.sends_within(SLICE) >= 95, "one send measures nothing");
        for _ in 0..100 {
            cost.measured(100, Duration::from_secs(1));
        }
        assert_eq!(cost.sends_within(SLICE), SENDS_MIN);
    }
}
