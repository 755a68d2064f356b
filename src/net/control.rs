//! The control thread: signals, drain, reload. One more peer of the workers' mailboxes, and the one that waits for them all.

use std::future::poll_fn;
use std::io::IsTerminal;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::start::{Bound, Running, ServeError, ServeOptions, start};
use super::worker::Parcel;
use crate::base::ShardId;
use crate::metrics::LoopFacts;
use crate::shard;

/// Time beyond the drain's own limit after which workers are stopped without being asked again.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// A drain by Ctrl-C on a terminal takes at most this long.
const TERMINAL_DRAIN: Duration = Duration::from_secs(1);

impl Running {
    /// Stops listening and lets every connection finish within a time.
    pub fn drain(&mut self, limit: Duration) {
        self.tell_all(|| Parcel::Drain(limit));
    }

    /// Replaces the shards' configuration.
    pub fn reload(&mut self, options: &Arc<shard::Options>) {
        self.tell_all(|| Parcel::Reload(options.clone()));
    }

    /// Counts a reload that was refused.
    pub fn not_reloaded(&mut self) {
        self.tell_all(|| Parcel::NotReloaded);
    }

    /// Ends all workers now, waits for their threads, and returns what each has counted.
    ///
    /// # Errors
    /// The first worker that had ended by itself.
    pub fn stop(mut self) -> Result<Vec<LoopFacts>, ServeError> {
        self.tell_all(|| Parcel::Stop);
        let threads = self.threads.into_iter().enumerate();
        threads
            .map(|(worker, thread)| match thread.join() {
                Ok(Ok(facts)) => Ok(facts),
                Ok(Err(error)) => Err(ServeError::of(worker, error)),
                Err(_) => Err(ServeError::Worker { worker }),
            })
            .collect()
    }

    /// Workers that have reported themselves drained since the last call.
    pub fn drained(&mut self) -> usize {
        let mut drained = 0;
        self.post.wake();
        self.post.receive(usize::MAX, |_, parcel| drained += usize::from(matches!(parcel, Parcel::Drained)));
        drained
    }

    /// Whether a worker has ended by itself.
    fn has_lost_a_worker(&self) -> bool {
        self.threads.iter().any(std::thread::JoinHandle::is_finished)
    }

    fn tell_all(&mut self, parcel: impl Fn() -> Parcel) {
        for worker in 0..u16::try_from(self.bound.workers).unwrap_or(u16::MAX) {
            // Orders are far fewer than a mailbox holds; a worker that reads none any more is not worth waiting for.
            if self.post.try_send(ShardId(worker), parcel()).is_err() {
                tracing::error!(worker, "the worker does not read its mail");
            }
        }
        let bells = &self.bells;
        self.post.ring_bells(|to| bells.wake(to));
    }
}

/// Serves until a signal ends it: SIGTERM and SIGINT drain, a second one ends at once, SIGHUP asks `reload` for new options.
///
/// # Errors
/// When it could not start, or a worker failed.
pub fn serve(
    options: &ServeOptions,
    ready: impl FnOnce(&Bound),
    mut reload: impl FnMut() -> Option<Arc<shard::Options>>,
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ServeError::System { what: "the control thread's runtime", error })?;
    let mut drain_timeout = options.shard.server.drain_timeout;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut running = start(options)?;
        let mut mail = Mail::new(&running)?;
        ready(&running.bound);
        let (limit, grace) = loop {
            match signals.next(&mut mail).await {
                Event::Reload => match reload() {
                    Some(options) => {
                        drain_timeout = options.server.drain_timeout;
                        running.reload(&options);
                    }
                    None => running.not_reloaded(),
                },
                Event::Interrupt if std::io::stdin().is_terminal() => break (drain_timeout.min(TERMINAL_DRAIN), Duration::ZERO),
                Event::Interrupt | Event::Terminate => break (drain_timeout, DRAIN_GRACE),
                Event::Mail | Event::Tick if running.has_lost_a_worker() => return running.stop().map(drop),
                Event::Mail | Event::Tick => {}
            }
        };
        let connections: u32 = running.connections().iter().sum();
        tracing::info!(connections, "draining");
        running.drain(limit);
        wait_for_drain(&mut running, &mut signals, &mut mail, limit + grace).await;
        running.stop().map(drop)
    })
}

/// Returns when all workers are drained, the time is up, or somebody insists.
async fn wait_for_drain(running: &mut Running, signals: &mut Signals, mail: &mut Mail, limit: Duration) {
    let end = Instant::now() + limit;
    let mut left = running.bound.workers;
    while left > 0 && Instant::now() < end && !running.has_lost_a_worker() {
        left = left.saturating_sub(running.drained());
        if left == 0 || !running.post.doze() {
            continue;
        }
        match signals.next(mail).await {
            Event::Interrupt | Event::Terminate => return,
            Event::Reload | Event::Mail | Event::Tick => {}
        }
    }
}

/// What the control thread waits for.
enum Event {
    Reload,
    Interrupt,
    Terminate,
    /// A worker has written.
    Mail,
    /// Time to look after the workers.
    Tick,
}

/// How often workers are looked after.
const TICK: Duration = Duration::from_millis(200);

struct Signals {
    hang_up: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, ServeError> {
        let on = |kind| signal(kind).map_err(|error| ServeError::System { what: "a signal handler", error });
        Ok(Self {
            hang_up: on(SignalKind::hangup())?,
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self, mail: &mut Mail) -> Event {
        let mut tick = pin!(tokio::time::sleep(TICK));
        poll_fn(|context| {
            // In this order, and none after the first that is ready: polling a signal takes it.
            if self.hang_up.poll_recv(context).is_ready() {
                Poll::Ready(Event::Reload)
            } else if self.interrupt.poll_recv(context).is_ready() {
                Poll::Ready(Event::Interrupt)
            } else if self.terminate.poll_recv(context).is_ready() {
                Poll::Ready(Event::Terminate)
            } else if mail.poll_arrived(context).is_ready() {
                Poll::Ready(Event::Mail)
            } else {
                tick.as_mut().poll(context).map(|()| Event::Tick)
            }
        })
        .await
    }
}

/// The control thread's own bell: it cannot be an eventfd, which tokio takes only with `unsafe`.
struct Mail {
    bell: UnixStream,
}

impl Mail {
    fn new(running: &Running) -> Result<Self, ServeError> {
        let failed = |error| ServeError::System { what: "the control thread's bell", error };
        let bell = running.bell.try_clone().map_err(failed)?;
        Ok(Self { bell: UnixStream::from_std(bell).map_err(failed)? })
    }

    fn poll_arrived(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Poll::Ready(Ok(())) = self.bell.poll_read_ready(context) else { return Poll::Pending };
        // Emptied, so that it becomes ready again only with the next ring.
        while self.bell.try_read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {}
        Poll::Ready(())
    }
}
