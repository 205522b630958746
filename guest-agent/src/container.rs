//! One container: what it runs, the request it serves, and how its answer leaves.
//!
//! ```text
//!   ACQUIRE ─► Container ◄─ INVOKE, BODY, CANCEL        RELEASE ends it
//!                │  program: a process and files per request
//!                │  stream: one resident process, requests and responses framed
//!                ▼
//!   log records, then RESPONSE ..., then OUTCOME, each when its ring has room
//! ```
//! A container serves one request at a time; the node sees to that.

mod prepare;
mod rewind;

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::frame::invoke::{Acquire, Contract, Freshness};
use abi::frame::outcome::{self, Outcome, Status};
use abi::frame::stream::Address;
use abi::frame::{FLAG_MORE, Header, log};
use abi::layout::region;
use abi::wire::Writer;
use machine::clock::realtime_nanos;

use crate::filesystem::{Image, Tree, View, tree};
use crate::identity::ProcessId;
use crate::memory::Account;
use crate::process::exec;
use crate::process::{Notice, Processes, Start, Until, Usage};
use crate::program_io::{News, ProgramIo};
use crate::response::Framing;
use crate::rings::Rings;
use crate::socket::Network;
use crate::socket::connection::Connections;
use crate::time::NEVER;
use crate::world::World;

/// Bytes of one RESPONSE frame.
const RESPONSE_BYTES: usize = region::OUTCOME.slot_bytes() - Header::BYTES;
/// Text bytes of one log record.
const RECORD_BYTES: usize = region::LOG.slot_bytes() - Header::BYTES - log::Line::FIXED_BYTES;
/// Most bytes of a reason: a sentence or two.
const REASON_BYTES_MAX: usize = 512;
/// Bytes of an OUTCOME in front of the response's last bytes.
const OUTCOME_HEAD_MAX: usize = Outcome::FIXED_BYTES + REASON_BYTES_MAX;
/// Bytes of the response that always fit an OUTCOME.
const TAIL_BYTES_MAX: usize = RESPONSE_BYTES - OUTCOME_HEAD_MAX;
/// Bytes of a request body that a `stream` program gets at once, behind its length.
const BODY_BYTES_MAX: usize = 6 << 20;
/// The variable with a request's id; a function may set it to what it likes.
const ID_NAME: &[u8] = b"PILOTLIGHT_INVOKE_ID=";
/// What programs get when nothing else is said.
const ENVIRONMENT: [&str; 2] =
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp"];

/// A package, or why it is none.
pub type Package = Result<Rc<Image>, &'static str>;

/// The logging service as programs see it.
#[derive(Debug, Default)]
pub struct Assignment {
    /// `NAME=VALUE` entries.
    pub environment: Vec<Vec<u8>>,
    /// Where it is: connections there always leave the VM.
    pub address: Option<Address>,
    /// Files of `/run/credentials/logging`.
    pub credentials: Option<Rc<Image>>,
}

/// What the containers of a VM share.
#[derive(Debug)]
pub struct Shared {
    /// Events and entropy.
    pub world: World,
    /// The root image with what every container has.
    pub root: Rc<Image>,
    /// The logging service.
    pub assignment: Assignment,
    /// Connections out of the VM.
    pub connections: Rc<Connections>,
    /// Set when a program did something to look at.
    pub news: News,
    /// The VM's number.
    pub vm: u64,
}

/// What a container is to run.
#[derive(Debug)]
struct Settings {
    contract: Contract,
    freshness: Freshness,
    memory_bytes: u64,
    entry: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    environment: Vec<Vec<u8>>,
}

/// How a request ended; told to the node when everything before it has left.
#[derive(Debug)]
struct Final {
    status: Status,
    detail: u32,
    reason: String,
    usage: Usage,
}

/// A request.
#[derive(Debug)]
struct Running {
    invoke: u64,
    deadline_nanos: u64,
    /// The body of a `stream` request until it is complete.
    body: Vec<u8>,
    has_body_ended: bool,
    is_started: bool,
    framing: Framing,
    log_records: u64,
    end: Option<Final>,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    number: u32,
    package: u64,
    settings: Settings,
    io: Rc<ProgramIo>,
    process: Option<ProcessId>,
    /// A process that has ended and serves the next request, and whether it is back at its point.
    resting: Option<(ProcessId, bool)>,
    /// Its program, loaded before its first request.
    image: Option<exec::Image>,
    /// A process was started in it.
    is_used: bool,
    /// What a PREPARE frame is to be answered with, once the package is there.
    prepares: Option<u64>,
    /// Its process has not passed its point: it does not see its input.
    is_before_point: bool,
    running: Option<Running>,
}

impl Container {
    /// The container an ACQUIRE frame describes.
    #[must_use]
    pub fn new(number: u32, package: u64, acquire: &Acquire<'_>, shared: &Shared) -> Self {
        let settings = Settings {
            contract: acquire.contract,
            freshness: acquire.freshness,
            memory_bytes: acquire.memory_bytes,
            entry: acquire.entry.as_bytes().to_vec(),
            arguments: acquire.arguments.iter().map(<[u8]>::to_vec).collect(),
            environment: acquire.environment.iter().map(<[u8]>::to_vec).collect(),
        };
        let io = ProgramIo::new(&shared.world, &shared.news);
        Self {
            number,
            package,
            settings,
            io,
            process: None,
            resting: None,
            image: None,
            is_used: false,
            prepares: None,
            is_before_point: false,
            running: None,
        }
    }

    /// The package it runs.
    #[must_use]
    pub fn package(&self) -> u64 {
        self.package
    }

    /// The request it serves.
    #[must_use]
    pub fn invoke(&self) -> Option<u64> {
        self.running.as_ref().map(|running| running.invoke)
    }

    /// When its request has to be over.
    #[must_use]
    pub fn deadline_nanos(&self) -> u64 {
        let running = self.running.as_ref().filter(|running| running.end.is_none());
        running.map_or(NEVER, |running| running.deadline_nanos)
    }

    /// Begins a request; its program is started by [`Container::start`].
    pub fn begin(&mut self, shared: &Shared, invoke: u64, deadline_nanos: u64) {
        let has_process = self.process.is_some() || self.resting.is_some();
        if !has_process {
            self.io = ProgramIo::new(&shared.world, &shared.news);
        }
        self.running = Some(Running {
            invoke,
            deadline_nanos,
            body: Vec::new(),
            has_body_ended: false,
            is_started: false,
            framing: Framing::default(),
            log_records: 0,
            end: None,
        });
        if self.io.output_length() > 0 {
            self.break_contract("it wrote without a request");
        }
    }

    /// Takes bytes of the request's body.
    pub fn body(&mut self, bytes: &[u8], has_more: bool) {
        let Some(running) = self.running.as_mut().filter(|running| !running.has_body_ended) else {
            return;
        };
        running.has_body_ended = !has_more;
        let is_kept = match self.settings.contract {
            Contract::Program => {
                let given = self.io.give(bytes);
                if !has_more {
                    self.io.end_input();
                }
                given.is_ok()
            }
            Contract::Stream => {
                let fits = running.body.len() + bytes.len() <= BODY_BYTES_MAX;
                let fits = fits && running.body.try_reserve(bytes.len()).is_ok();
                if fits {
                    running.body.extend_from_slice(bytes);
                }
                fits && (has_more || give_framed(&self.io, &core::mem::take(&mut running.body)))
            }
        };
        if !is_kept {
            self.finish(Status::NoRoom, 0, "the VM has no room for the request's body");
        }
    }

    /// Starts the program of the request, or tells the resident one that a request begins.
    pub fn start(&mut self, shared: &Shared, package: &Package, processes: &mut Processes) {
        let Some(running) = &mut self.running else { return };
        if running.is_started || running.end.is_some() {
            return;
        }
        running.is_started = true;
        if let Some(process) = self.process {
            return processes.begin_invoke(process);
        }
        let invoke = running.invoke;
        if let Some((process, true)) = self.resting.take()
            && processes.resume(process, invoke)
        {
            self.process = Some(process);
            return;
        }
        let started = match package {
            Ok(image) => self.spawn(shared, image, invoke, processes),
            Err(reason) => Err((*reason).to_string()),
        };
        match started {
            Ok(process) => {
                self.process = Some(process);
                self.is_before_point = self.io.gate().get();
            }
            Err(reason) => self.finish(Status::NotExecutable, 0, &reason),
        }
    }

    /// Ends the request now.
    pub fn cancel(&mut self, processes: &mut Processes) {
        self.stop(processes, Status::Cancelled, "cancelled");
    }

    /// Ends a request whose deadline has come.
    pub fn expire(&mut self, now_nanos: u64, processes: &mut Processes) {
        if self.deadline_nanos() <= now_nanos {
            self.stop(processes, Status::DeadlineExceeded, "it was not over at its deadline");
        }
    }

    /// Ends the container.
    pub fn release(&mut self, processes: &mut Processes) {
        processes.kill_container(self.number);
        self.process = None;
        self.resting = None;
        self.running = None;
    }

    /// Its process is over.
    pub fn ended(&mut self, notice: Notice, processes: &mut Processes) {
        let Notice::Ended { process, status, detail, reason, usage, .. } = notice else { return };
        if self.process != Some(process) {
            return;
        }
        self.process = None;
        self.resting = processes.is_resting(process).then_some((process, false));
        let is_stream = self.settings.contract == Contract::Stream;
        let Some(running) = self.running.as_mut().filter(|running| running.end.is_none()) else {
            return;
        };
        let end = if is_stream && status == Status::Exited && !running.framing.is_complete() {
            let reason = format!("it ended with status {detail} before it answered");
            Final { status: Status::ContractBroken, detail, reason, usage }
        } else {
            Final { status, detail, reason, usage }
        };
        running.end = Some(end);
    }

    /// Sends what there is to send while the rings have room; `true` when anything was.
    pub fn serve(&mut self, rings: &mut Rings, processes: &mut Processes) -> bool {
        if self.running.is_none() {
            return false;
        }
        let mut moved = self.look_for_point(processes);
        if self.settings.contract == Contract::Stream {
            moved |= self.look_for_response(processes);
        }
        moved |= self.send_log(rings);
        moved |= self.send_response(rings);
        moved |= self.send_outcome(rings, processes);
        moved
    }

    fn spawn(
        &mut self,
        shared: &Shared,
        image: &Rc<Image>,
        invoke: u64,
        processes: &mut Processes,
    ) -> Result<ProcessId, String> {
        let loaded = self.image.take();
        let account = match &loaded {
            Some(image) => Rc::clone(image.account()),
            None => Account::new(self.settings.memory_bytes),
        };
        let view = view(shared, image, &account)?;
        let path = [tree::PACKAGE, b"/", &self.settings.entry].concat();
        let network = self.network(shared, &account);
        // Saving a process for later costs its first request more than all the rest, so that runs
        // without, and what it leaves is started again behind the answer. One that is to be copied
        // once it has initialised itself does that only once.
        let is_first = !core::mem::replace(&mut self.is_used, true);
        let rewinds = self.rewinds(invoke);
        let rewinds = rewinds.filter(|rewinds| !is_first || rewinds.until == Until::Wait);
        self.io.gate().set(rewinds.is_some());
        processes.start(Start {
            container: self.number,
            view,
            account,
            network,
            path,
            arguments: self.settings.arguments.clone(),
            environment: self.environment(shared, invoke, rewinds.is_some()),
            stdio: self.io.files(),
            rewinds,
            image: loaded,
        })
    }

    fn network(&self, shared: &Shared, account: &Rc<Account>) -> Rc<Network> {
        let service = shared.assignment.address;
        Network::new(self.number, &shared.connections, account, service)
    }

    /// What the function says goes before what the guest says.
    fn environment(&self, shared: &Shared, invoke: u64, is_rewound: bool) -> Vec<Vec<u8>> {
        let mut environment = self.settings.environment.clone();
        let mut own: Vec<Vec<u8>> =
            ENVIRONMENT.iter().map(|entry| entry.as_bytes().into()).collect();
        own.push(format!("PILOTLIGHT_VM_ID=vm-{}", shared.vm).into_bytes());
        let is_told = self.settings.contract == Contract::Program;
        if is_told && !is_rewound {
            own.push(format!("PILOTLIGHT_INVOKE_ID={invoke:016x}").into_bytes());
        }
        own.extend(shared.assignment.environment.iter().cloned());
        let name = |entry: &[u8]| entry.split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
        own.retain(|entry| {
            !self.settings.environment.iter().any(|given| name(given) == name(entry))
        });
        environment.append(&mut own);
        environment
    }

    /// Pages the next rewind has to put back.
    fn dirty_pages(&self, processes: &Processes) -> u32 {
        let process = self.resting.and_then(|(process, _)| processes.resting(process));
        let count = process.map_or(0, |process| process.memory.changed_count());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn stop(&mut self, processes: &mut Processes, status: Status, reason: &str) {
        let usage = self.process.map_or_else(Usage::default, |process| processes.usage(process));
        self.halt(processes);
        self.finish(status, 0, reason);
        if let Some(end) = self.running.as_mut().and_then(|running| running.end.as_mut()) {
            end.usage = usage;
        }
    }

    /// Ends its process, which may serve another request.
    fn halt(&mut self, processes: &mut Processes) {
        if let Some(process) = self.process.take() {
            processes.halt(process);
            self.resting = processes.is_resting(process).then_some((process, false));
        }
    }

    fn break_contract(&mut self, reason: &str) {
        self.finish(Status::ContractBroken, 0, reason);
    }

    /// The first end counts.
    fn finish(&mut self, status: Status, detail: u32, reason: &str) {
        if let Some(running) = self.running.as_mut().filter(|running| running.end.is_none()) {
            let reason = reason.to_string();
            running.end = Some(Final { status, detail, reason, usage: Usage::default() });
        }
    }

    /// A program that is copied for each request sees its input once it has initialised itself.
    fn look_for_point(&mut self, processes: &mut Processes) -> bool {
        let Some(process) = self.process.filter(|_| self.is_before_point) else { return false };
        if self.io.gate().get() {
            let input = self.io.input_id();
            if !processes.has_initialised(process, input)
                && !processes.has_handed_on(process, input)
            {
                return false;
            }
            processes.pass_point(process);
        }
        self.is_before_point = false;
        self.io.open_gate();
        true
    }

    /// A `stream` program's answer is complete when all of it is written, not when it is sent.
    fn look_for_response(&mut self, processes: &mut Processes) -> bool {
        let Some(running) = self.running.as_mut().filter(|running| running.end.is_none()) else {
            return false;
        };
        if running.framing.missing().is_none() {
            let length = self.io.output_length().min(running.framing.length_missing());
            self.io.take_output(length, |front, back| {
                running.framing.take_length(front);
                running.framing.take_length(back);
            });
        }
        let waiting = self.io.output_length();
        match running.framing.missing() {
            Some(missing) if waiting == missing => {
                let usage =
                    self.process.map_or_else(Usage::default, |process| processes.usage(process));
                let reason = String::new();
                running.end = Some(Final { status: Status::Exited, detail: 0, reason, usage });
                // The copy has served its request.
                if self.settings.freshness == Freshness::Fork {
                    self.halt(processes);
                }
                true
            }
            Some(missing) if waiting > missing => {
                self.stop(processes, Status::ContractBroken, "it wrote more than its response");
                true
            }
            _ if self.io.is_output_closed() => {
                self.stop(processes, Status::ContractBroken, "it closed its standard output");
                true
            }
            _ => false,
        }
    }

    fn send_log(&mut self, rings: &mut Rings) -> bool {
        let Some(running) = &mut self.running else { return false };
        let is_last = running.end.is_some() && self.process.is_none();
        let mut record = [0; RECORD_BYTES];
        let mut moved = false;
        while rings.log.has_room() {
            let Some((count, has_more)) = self.io.take_record(&mut record, is_last) else { break };
            let flags = if has_more { FLAG_MORE } else { 0 };
            let header =
                Header { kind: log::LINE, flags, channel: self.number, id: running.invoke };
            let fixed = log::Line::encode_fixed(realtime_nanos(), running.log_records);
            rings.log.push(header, &[&fixed, &record[..count]]);
            running.log_records += 1;
            moved = true;
        }
        moved
    }

    /// Sends output as soon as it fills a frame; what is less rides with the outcome.
    fn send_response(&mut self, rings: &mut Rings) -> bool {
        let Some(running) = &mut self.running else { return false };
        let is_stream = self.settings.contract == Contract::Stream;
        let least = if running.end.is_some() { TAIL_BYTES_MAX + 1 } else { RESPONSE_BYTES };
        let mut moved = false;
        loop {
            let length = self.io.output_length();
            let missing = if is_stream { running.framing.missing().unwrap_or(0) } else { length };
            let count = length.min(missing).min(RESPONSE_BYTES);
            if count < least || !rings.outcome.has_room() {
                return moved;
            }
            let header = Header {
                kind: outcome::RESPONSE,
                flags: 0,
                channel: self.number,
                id: running.invoke,
            };
            self.io.take_output(count, |front, back| rings.outcome.push(header, &[front, back]));
            running.framing.take_body(if is_stream { count } else { 0 });
            moved = true;
        }
    }

    fn send_outcome(&mut self, rings: &mut Rings, processes: &Processes) -> bool {
        let dirty_pages = self.dirty_pages(processes);
        let Some(running) = &mut self.running else { return false };
        let Some(end) = &running.end else { return false };
        let length = self.io.output_length();
        let has_record = self.io.has_record(self.process.is_none());
        if has_record || length > TAIL_BYTES_MAX || !rings.outcome.has_room() {
            return false;
        }
        let outcome = Outcome {
            status: end.status,
            detail: end.detail,
            log_records: running.log_records,
            run_nanos: end.usage.run_nanos,
            memory_peak_bytes: end.usage.memory_peak_bytes,
            dirty_pages,
            reason: cut(&end.reason),
            response: &[],
        };
        let mut head = [0; OUTCOME_HEAD_MAX];
        let mut writer = Writer::new(&mut head);
        assert!(outcome.encode(&mut writer).is_ok(), "room for the head");
        let length_head = writer.length();
        let header =
            Header { kind: outcome::OUTCOME, flags: 0, channel: self.number, id: running.invoke };
        self.io.take_output(length, |front, back| {
            rings.outcome.push(header, &[&head[..length_head], front, back]);
        });
        self.running = None;
        true
    }
}

/// The files of a new container, the package's folder current.
fn view(shared: &Shared, image: &Rc<Image>, account: &Rc<Account>) -> Result<View, String> {
    let credentials = shared.assignment.credentials.as_ref();
    let files = Tree::new(&shared.world, account, &shared.root, Some(image), credentials);
    let mut view = View::new(files);
    let entered = view.change_directory(None, tree::PACKAGE);
    entered.map_err(|_| "the root image has no place for it".to_string())?;
    Ok(view)
}

fn give_framed(io: &ProgramIo, body: &[u8]) -> bool {
    let Ok(length) = u32::try_from(body.len()) else { return false };
    io.give(&length.to_le_bytes()).is_ok() && io.give(body).is_ok()
}

/// As much of a reason as fits.
fn cut(reason: &str) -> &str {
    let mut length = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(length) {
        length -= 1;
    }
    &reason[..length]
}
