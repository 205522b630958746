//! The librarian: the node's side threads for what blocks, the code store and name look-ups.
//!
//! ```text
//!  shard ── Deploy, Remove, Open ──► librarian ── files ──► store
//!        ── Resolve ───────────────► resolver ─── the host's resolver
//!  shards ◄── Stored, Removed, Opened, Resolved, Refused
//! ```
//! What changes the set of functions is told to every shard; the answer to the client travels with
//! the letter to the shard that asked. A package is removed when no function names it and every shard
//! has let go of it, so that invokes that were accepted before still find it. A slow name look-up holds up other look-ups only.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use region::Contents;

use crate::code::{Code, Turn};
use crate::inbox::Inbox;
use crate::invoke::{Digest, Function, FunctionName, InvokeId, User};
use crate::maker::Order;
use crate::package::Form;
use crate::pool::PackageRef;
use crate::shard::Letter;
use crate::socket::settings::{PackageForm, Settings};
use crate::store::{Deployment, Store, StoreError};

/// Who asked, and under which number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(crate) shard: u16,
    pub(crate) client: u64,
    pub(crate) request: u64,
}

/// What a shard asks for.
pub(crate) enum Job {
    /// Store a function.
    Deploy { ticket: Ticket, user: User, name: FunctionName, settings: Settings, package: Vec<u8> },
    /// Forget one.
    Remove { ticket: Ticket, user: User, name: FunctionName },
    /// No function of this package is left on this shard, nor an invoke of one.
    Release { shard: u16, digest: Digest },
    /// Verify a package into sealed memory.
    Open { shard: u16, package: PackageRef, digest: Digest },
    /// Look a logging service's name up.
    Resolve { shard: u16, invoke: InvokeId, address: String },
}

/// An answer for a client.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) client: u64,
    pub(crate) request: u64,
    pub(crate) json: String,
}

/// A verified package in memory.
pub(crate) struct OpenPackage {
    /// Sealed: nobody changes it any more.
    pub(crate) memfd: OwnedFd,
    pub(crate) contents: Contents,
}

/// What became of it.
pub(crate) enum Report {
    /// There is a function now, or another one under the same name.
    Stored { function: Box<Function>, reply_to: Option<Reply> },
    /// There is one less.
    Removed { user: User, name: FunctionName, reply_to: Option<Reply> },
    /// A job for a client could not be done.
    Refused { client: u64, request: u64, code: Code, message: String },
    /// A package is verified; or cannot be used, which was reported to the operator.
    Opened { package: PackageRef, open: Option<OpenPackage> },
    /// A name was looked up; the text says what is wrong with it.
    Resolved { invoke: InvokeId, found: Result<SocketAddr, String> },
}

/// Handle to the side threads. They end when the last shard has dropped it.
pub(crate) struct Librarian {
    jobs: Option<Sender<Job>>,
    look_ups: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Librarian {
    /// Starts the threads.
    ///
    /// # Errors
    /// The process is out of threads.
    pub(crate) fn start(
        store: Arc<Store>,
        inboxes: Arc<[Arc<Inbox<Letter>>]>,
        maker: Sender<Order>,
    ) -> std::io::Result<Self> {
        let desk = Desk { store, inboxes: Arc::clone(&inboxes), maker, released: HashMap::new() };
        let (jobs, job_queue) = unbounded();
        let (look_ups, look_up_queue) = unbounded();
        let builder = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let librarian = builder("librarian").spawn(move || desk.work(&job_queue))?;
        let resolver = builder("resolver").spawn(move || resolve_all(&look_up_queue, &inboxes))?;
        Ok(Self { jobs: Some(jobs), look_ups: Some(look_ups), threads: vec![librarian, resolver] })
    }

    /// Hands a job over; never waits. Clients' open requests bound how many there are.
    pub(crate) fn ask(&self, job: Job) {
        let queue = if matches!(job, Job::Resolve { .. }) { &self.look_ups } else { &self.jobs };
        if let Some(queue) = queue {
            // The thread ends only after this sender is gone.
            drop(queue.send(job));
        }
    }
}

impl Drop for Librarian {
    fn drop(&mut self) {
        (self.jobs, self.look_ups) = (None, None);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

struct Desk {
    store: Arc<Store>,
    inboxes: Arc<[Arc<Inbox<Letter>>]>,
    maker: Sender<Order>,
    /// Shards that let go of a package since it was last deployed, while others hold on to it.
    released: HashMap<Digest, HashSet<u16>>,
}

impl Desk {
    fn work(mut self, jobs: &Receiver<Job>) {
        for job in jobs {
            match job {
                Job::Deploy { ticket, user, name, settings, package } => {
                    self.deploy(ticket, (user, name), &settings, &package);
                }
                Job::Remove { ticket, user, name } => self.remove(ticket, user, name),
                Job::Release { shard, digest } => self.release(shard, digest),
                Job::Open { shard, package, digest } => {
                    let open = self.open(&digest);
                    if let Err(error) = &open {
                        tracing::error!(%digest, error = error.to_string(), "a package cannot be used");
                    }
                    self.tell(shard, Report::Opened { package, open: open.ok() });
                }
                Job::Resolve { .. } => unreachable!("look-ups have a queue of their own"),
            }
        }
    }

    fn open(&self, digest: &Digest) -> Result<OpenPackage, StoreError> {
        let memfd = self.store.open_package(digest)?;
        let contents = Contents::map(&memfd)
            .map_err(|source| StoreError::Io { path: digest.to_string().into(), source })?;
        Ok(OpenPackage { memfd, contents })
    }

    fn release(&mut self, shard: u16, digest: Digest) {
        let released = self.released.entry(digest).or_default();
        released.insert(shard);
        if released.len() < self.inboxes.len() {
            return;
        }
        self.released.remove(&digest);
        // What is left behind is removed when the node starts next.
        if let Err(error) = self.store.drop_unused(&digest) {
            tracing::warn!(%digest, error = error.to_string(), "a package is not removed");
        }
    }

    fn deploy(
        &mut self,
        ticket: Ticket,
        (user, name): (User, FunctionName),
        settings: &Settings,
        package: &[u8],
    ) {
        let deployment = Deployment {
            user,
            name,
            form: match settings.package {
                PackageForm::Elf => Form::Elf,
                PackageForm::Tar => Form::Tar,
            },
            entry: &settings.entry,
            argv0: &settings.argv0,
            arguments: &settings.arguments,
            environment: &settings.environment,
            contract: settings.contract,
            freshness: settings.freshness,
            memory_mib: settings.memory_mib,
            timeout_millis: settings.timeout_millis,
        };
        match self.store.deploy(&deployment, package) {
            Ok(function) => {
                self.released.remove(&function.package);
                tracing::info!(
                    user = user.as_str(),
                    function = name.as_str(),
                    version = function.version,
                    digest = %function.package,
                    bytes = function.package_bytes,
                    "function deployed"
                );
                let json = serde_json::to_string(&function).unwrap_or_default();
                self.tell_all(ticket, json, |reply_to| Report::Stored {
                    function: Box::new(function.clone()),
                    reply_to,
                });
                // Behind the shards: its news are about a function they know. A maker that is
                // gone is one of a node that stops.
                drop(self.maker.send(Order::Prepare(Box::new(function))));
            }
            Err(error) => self.fail(ticket, (user, name), &error),
        }
    }

    fn remove(&self, ticket: Ticket, user: User, name: FunctionName) {
        match self.store.remove(user, name) {
            Ok(()) => {
                tracing::info!(user = user.as_str(), function = name.as_str(), "function removed");
                self.tell_all(ticket, "{}".to_owned(), |reply_to| Report::Removed {
                    user,
                    name,
                    reply_to,
                });
                drop(self.maker.send(Order::Forget(user, name)));
            }
            Err(error) => self.fail(ticket, (user, name), &error),
        }
    }

    /// Answers a job with its error; one that is no fault of the client's is the operator's to see.
    fn fail(&self, ticket: Ticket, (user, name): (User, FunctionName), error: &StoreError) {
        if error.code().turn() == Turn::Operator {
            let (user, function) = (user.as_str(), name.as_str());
            tracing::error!(user, function, error = error.to_string(), "the store failed");
        }
        self.refuse(ticket, error.code(), error.to_string());
    }

    fn refuse(&self, ticket: Ticket, code: Code, message: String) {
        let Ticket { shard, client, request } = ticket;
        self.tell(shard, Report::Refused { client, request, code, message });
    }

    /// Tells every shard; the one that asked gets the client's answer too.
    fn tell_all(&self, ticket: Ticket, json: String, report: impl Fn(Option<Reply>) -> Report) {
        for (shard, inbox) in (0_u16..).zip(self.inboxes.iter()) {
            let is_asker = shard == ticket.shard;
            let reply_to = is_asker.then(|| Reply {
                client: ticket.client,
                request: ticket.request,
                json: json.clone(),
            });
            inbox.post_blocking(Letter::Report(report(reply_to)));
        }
    }

    fn tell(&self, shard: u16, report: Report) {
        self.inboxes[usize::from(shard)].post_blocking(Letter::Report(report));
    }
}

fn resolve_all(jobs: &Receiver<Job>, inboxes: &[Arc<Inbox<Letter>>]) {
    for job in jobs {
        if let Job::Resolve { shard, invoke, address } = job {
            let found = resolve(&address);
            let letter = Letter::Report(Report::Resolved { invoke, found });
            inboxes[usize::from(shard)].post_blocking(letter);
        }
    }
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let mut found = address
        .to_socket_addrs()
        .map_err(|error| format!("{address} cannot be looked up: {error}"))?;
    found.next().ok_or_else(|| format!("{address} has no IP address"))
}
