//! Keeps the runtime from oversleeping.
//!
//! glommio 0.9.0 (`LocalExecutor::run`) goes to sleep with runnable tasks in its queue when its
//! preemption timer, or anything else on its latency ring, fires between arming that timer and
//! looking at the queue: `run_task_queues` then returns `false` as if there were nothing to run,
//! and the event that fired wakes nobody. On a busy machine it happens a few times a minute, and
//! the shard then stood still until somebody else's event came. The runtime never sleeps past its
//! next timer, so timers that are always pending bound what such a sleep costs. One is not enough:
//! it may itself be among what fired and was not run. Each further one is needed only when the
//! thread was kept off its core for as long as the one before it takes.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use glommio::timer::Timer;

/// The first costs a thousandth of a core, the last is never meant to be reached.
const STEPS: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(60),
    Duration::from_millis(400),
    Duration::from_secs(4),
];

/// A ladder of timers of which some are always pending.
pub(super) struct Pulse(glommio::Task<()>);

impl Pulse {
    /// Starts it inside its executor.
    pub(super) fn start() -> Self {
        Self(glommio::spawn_local(async {
            loop {
                first_of(STEPS.map(Timer::new)).await;
            }
        }))
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        self.0.cancel().await;
    }
}

/// Completes with the first; all are pending until then.
async fn first_of(mut timers: [Timer; STEPS.len()]) {
    poll_fn(|context| {
        let mut first = Poll::Pending;
        for timer in &mut timers {
            if Pin::new(timer).poll(context).is_ready() {
                first = Poll::Ready(());
            }
        }
        first
    })
    .await;
}
