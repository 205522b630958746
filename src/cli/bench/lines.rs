//! Connections of the client to the node, and the requests open on them: answers find their
//! requests by number, in whatever order they come.
//!
//! ```text
//!   closed: as many open as told, the next when one lands          timed from its send
//!   open:   sent when its arrival is due, whatever is open         timed from its arrival
//! ```

use std::collections::HashMap;
use std::time::Duration;

use perf::{Arrivals, Latencies, Watch};
use pilotlight::client::{Client, ClientError, Collector, Completed};
use pilotlight::socket::request::Invoke;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::fault::Fault;

/// Requests open on one connection: well below what a node allows (`requests.pipeline_max`).
pub(super) const OPEN_PER_LINE: usize = 128;
/// Requests sent in a row before answers are looked for: who is behind with sending and reads nothing
/// meanwhile measures itself.
const SENDS_IN_A_ROW: u32 = 8;
/// How long no answer at all may come while some are open.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections with nothing open, or with what was sent and has not been answered.
pub(super) struct Lines<'a> {
    lines: Vec<Line<'a>>,
    watch: Watch,
    open: usize,
}

struct Line<'a> {
    client: &'a mut Client,
    flights: HashMap<u64, Flight>,
}

/// A request on its way.
struct Flight {
    tag: Tag,
    since: Duration,
    sent: Duration,
    collector: Collector,
}

/// Which request it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tag {
    /// What part of the load it belongs to.
    pub(super) phase: usize,
    /// Which of that part's requests, from 0.
    pub(super) number: u64,
}

/// A request that was answered.
pub(super) struct Landed {
    pub(super) tag: Tag,
    /// From its send, or from when it was to be sent.
    pub(super) took: Duration,
    /// From its send in any case: what the node took to answer, whoever was late before.
    pub(super) from_send: Duration,
    pub(super) answer: Result<Completed, ClientError>,
}

/// Takes what lands; an error ends the run.
pub(super) type Take<'t> = &'t mut dyn FnMut(Landed) -> Result<(), Fault>;

/// What became of the arrivals of an open loop, beside those that landed.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// How much later than they arrived they were sent.
    pub(super) lateness: Latencies,
    /// Those that were not sent at all: how long they had waited when their time was over.
    pub(super) unsent: Vec<Duration>,
}

impl<'a> Lines<'a> {
    /// Lines of these clients, with which nothing is open.
    pub(super) fn new(clients: impl IntoIterator<Item = &'a mut Client>) -> Self {
        let line = |client| Line { client, flights: HashMap::new() };
        let lines = clients.into_iter().map(line).collect();
        Self { lines, watch: Watch::start(), open: 0 }
    }

    /// Keeps `concurrency` requests open until `count` have landed, or until `limit` is over: then
    /// none is sent any more, and those that are open land.
    pub(super) fn closed<'i>(
        &mut self,
        (concurrency, count, limit): (usize, u64, Duration),
        invoke: &dyn Fn(u64) -> Invoke<'i>,
        take: Take<'_>,
    ) -> Result<(), Fault> {
        let end = self.watch.elapsed().saturating_add(limit);
        let mut number = 0;
        loop {
            // The first goes in any case: a run of nothing says nothing.
            while number < count
                && self.open < concurrency
                && (number == 0 || self.watch.elapsed() < end)
            {
                let since = self.watch.elapsed();
                self.submit(Tag { phase: 0, number }, since, &invoke(number))?;
                number += 1;
            }
            if self.open == 0 {
                return Ok(());
            }
            self.await_one(take)?;
        }
    }

    /// Sends each of `arrivals` when it is due, or as soon after that as a connection has room,
    /// and takes what lands meanwhile. Ends when all are sent, or `limit` after the start.
    pub(super) fn depart<'i>(
        &mut self,
        (phase, arrivals, limit): (usize, Arrivals, Duration),
        invoke: &dyn Fn(u64) -> Invoke<'i>,
        take: Take<'_>,
    ) -> Result<Departures, Fault> {
        let start = self.watch.elapsed();
        let mut departures = Departures::default();
        let (mut number, mut sends) = (0, 0);
        while let Some(due) = arrivals.at(number) {
            let now = self.watch.elapsed() - start;
            if now >= limit {
                break;
            }
            let may_send = due <= now && self.has_room();
            if may_send && sends < SENDS_IN_A_ROW {
                sends += 1;
                self.submit(Tag { phase, number }, start + due, &invoke(number))?;
                departures.lateness.record((self.watch.elapsed() - start).saturating_sub(due));
                number += 1;
                continue;
            }
            sends = 0;
            let collected = self.collect(take)?;
            if may_send {
                // Behind: a shard on the same core gets to answer before the next handful.
                rustix::thread::sched_yield();
            } else if collected == 0 {
                let next = if due > now { due.min(limit) } else { limit };
                self.wait(Some(next - now))?;
            }
        }
        let waited = |due| (self.watch.elapsed() - start).saturating_sub(due);
        departures.unsent =
            (number..arrivals.count()).map_while(|left| arrivals.at(left)).map(waited).collect();
        Ok(departures)
    }

    /// Takes what is still open.
    pub(super) fn finish(&mut self, take: Take<'_>) -> Result<(), Fault> {
        while self.open > 0 {
            self.await_one(take)?;
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.open < self.lines.len() * OPEN_PER_LINE
    }

    fn submit(&mut self, tag: Tag, since: Duration, invoke: &Invoke<'_>) -> Result<(), Fault> {
        let with_room = self.lines.iter_mut().find(|line| line.flights.len() < OPEN_PER_LINE);
        let line = with_room.ok_or_else(|| Fault::new("no connection has room"))?;
        let sent = self.watch.elapsed();
        let id = line.client.submit(invoke)?;
        line.flights.insert(id, Flight { tag, since, sent, collector: Collector::default() });
        self.open += 1;
        Ok(())
    }

    /// Waits until something lands.
    fn await_one(&mut self, take: Take<'_>) -> Result<(), Fault> {
        // As a client with one connection does it: its receive is what is measured, polling in
        // shared memory included.
        if let [line] = self.lines.as_mut_slice() {
            if let Some(landed) = line.receive(self.watch)? {
                self.open -= 1;
                take(landed)?;
            }
            return Ok(());
        }
        let patience = self.watch.elapsed() + PATIENCE;
        while self.collect(take)? == 0 {
            let now = self.watch.elapsed();
            if now >= patience {
                return Err(Fault::new("the node answers nothing any more"));
            }
            self.wait(Some(patience - now))?;
        }
        Ok(())
    }

    /// Takes what has landed; returns how many.
    fn collect(&mut self, take: Take<'_>) -> Result<usize, Fault> {
        let mut count = 0;
        for line in &mut self.lines {
            while let Some(landed) = line.try_receive(self.watch)? {
                count += 1;
                self.open -= 1;
                take(landed)?;
            }
        }
        Ok(count)
    }

    /// Sleeps until a connection has something to read. All have been looked at before.
    fn wait(&self, limit: Option<Duration>) -> Result<(), Fault> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut entries: Vec<_> =
            self.lines.iter().map(|line| PollFd::new(&*line.client, PollFlags::IN)).collect();
        match poll(&mut entries, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Line<'_> {
    /// The next answer, waiting for its frames.
    fn receive(&mut self, watch: Watch) -> Result<Option<Landed>, Fault> {
        loop {
            let received = self.client.receive_within(PATIENCE)?;
            let Some(received) = received else {
                return Err(Fault::new("the node answers nothing any more"));
            };
            if let Some(landed) = land(&mut self.flights, watch, &received)? {
                return Ok(Some(landed));
            }
        }
    }

    /// The next answer, if all its frames are there.
    fn try_receive(&mut self, watch: Watch) -> Result<Option<Landed>, Fault> {
        while let Some(received) = self.client.try_receive()? {
            if let Some(landed) = land(&mut self.flights, watch, &received)? {
                return Ok(Some(landed));
            }
        }
        Ok(None)
    }
}

/// Takes a frame; with the last one of its request, that has landed.
fn land(
    flights: &mut HashMap<u64, Flight>,
    watch: Watch,
    received: &pilotlight::client::Received<'_>,
) -> Result<Option<Landed>, Fault> {
    let now = watch.elapsed();
    let Some(flight) = flights.get_mut(&received.id) else {
        return Err(Fault::new("the node answered a request that is not open"));
    };
    let answer = match flight.collector.take(received) {
        Ok(None) => return Ok(None),
        Ok(Some(done)) => Ok(done),
        Err(error @ ClientError::Refused { .. }) => Err(error),
        Err(error) => return Err(error.into()),
    };
    let landed = Landed {
        tag: flight.tag,
        took: now.saturating_sub(flight.since),
        from_send: now.saturating_sub(flight.sent),
        answer,
    };
    flights.remove(&received.id);
    Ok(Some(landed))
}
