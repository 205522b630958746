//! A node that runs: the check no looking replaces.

use std::time::{Duration, Instant};

use pilotlight::client::{Client, Package};
use pilotlight::socket::request::Invoke;
use pilotlight::{Config, Flavour, Node};
use serde_json::Value;

use super::super::fault::Fault;
use super::super::programs;
use super::super::serve::flavour_words;
use super::check::Check;
use super::primitive::{Primitive, Stopwatch, now};

/// Invokes of the program that does nothing.
const INVOKES: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What came of it.
pub(super) struct Trial(Result<Ran, String>);

struct Ran {
    flavour: Flavour,
    isolation: &'static str,
    warning: Option<String>,
    cgroups: String,
    /// Bytes of memory a warm VM has for itself, as far as it can be seen.
    idle_bytes: Option<u64>,
    status: Value,
    start: Primitive,
    invoke: Primitive,
}

/// Starts a node in a temporary folder and runs a program in it.
pub(super) fn run() -> Trial {
    Trial(try_run().map_err(|fault| fault.to_string()))
}

fn try_run() -> Result<Ran, Fault> {
    let state = tempfile::Builder::new().prefix("pilotlight-doctor-").tempdir()?;
    let mut config = Config::default();
    config.paths.state = state.path().to_owned();
    let began = now();
    let node = Node::start(config)?;
    let mut client = node.client()?;
    let warm = wait_for_warm(&mut client, began)?;
    let mut start = Stopwatch::new();
    start.record(began.elapsed(), 1);
    let start = start.read("node_start", "node start to first warm VM");
    client.deploy(("doctor", "noop"), &Package::of_elf("noop", programs::NOOP))?;
    let invoke = invokes(&mut client)?;
    let status = client.status()?;
    drop(client);
    let ran = Ran {
        flavour: node.flavour(),
        isolation: node.isolation(),
        warning: node.warning().map(str::to_owned),
        cgroups: status["cgroups"].as_str().unwrap_or_default().to_owned(),
        idle_bytes: idle_bytes(&warm),
        status,
        start,
        invoke,
    };
    node.stop();
    Ok(ran)
}

/// The status with a warm VM in it.
fn wait_for_warm(client: &mut Client, began: Instant) -> Result<Value, Fault> {
    loop {
        let status = client.status()?;
        if status["pools"]["warm"].as_u64().unwrap_or(0) > 0 {
            return Ok(status);
        }
        if began.elapsed() > PATIENCE {
            return Err(Fault::new("no VM could be restored; the lines above say why"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Memory of the first warm VM, its VMM process included.
fn idle_bytes(status: &Value) -> Option<u64> {
    let vms = status["vms"].as_array()?;
    let warm = vms.iter().find(|vm| vm["state"] == "warm")?;
    let pid = u32::try_from(warm["pid"].as_u64()?).ok()?;
    pilotlight::private_bytes(pid).ok()
}

fn invokes(client: &mut Client) -> Result<Primitive, Fault> {
    let mut stopwatch = Stopwatch::new();
    let invoke = Invoke { user: "doctor", ..Invoke::new("noop", b"") };
    for _ in 0..INVOKES {
        let began = now();
        let completed = client.invoke(&invoke)?;
        if completed.outcome.detail != 0 {
            return Err(Fault::new(format!("a program that does nothing failed: {completed:?}")));
        }
        stopwatch.record(began.elapsed(), 1);
    }
    Ok(stopwatch.read("warm_invoke", "invoke of a program, warm"))
}

impl Trial {
    /// `stock` or `pvm`, if a node ran.
    pub(super) fn flavour(&self) -> Option<&'static str> {
        self.0.as_ref().ok().map(|ran| flavour_words(ran.flavour).0)
    }

    /// `vm+container` or `vm`, if a node ran.
    pub(super) fn isolation(&self) -> Option<&'static str> {
        self.0.as_ref().ok().map(|ran| ran.isolation)
    }

    /// What it says about the host. `is_explained`: a lack was found before.
    pub(super) fn checks(&self, is_explained: bool) -> Vec<Check> {
        let ran = match &self.0 {
            Ok(ran) => ran,
            Err(error) => {
                let fix = match is_explained {
                    true => "what else is marked LACK comes first",
                    false => "what the line above says",
                };
                return vec![Check::lack("node", error, fix)];
            }
        };
        let root_image = match &ran.warning {
            None => Check::ok("root image", "busybox and CA certificates of this host"),
            Some(warning) => {
                let fix = "apt-get install busybox-static ca-certificates";
                Check::note("root image", warning.split(". Fix").next().unwrap_or(warning), fix)
            }
        };
        let restore = Check::ok("restore", ran.status["restore"].as_str().unwrap_or_default());
        let memory = ran.idle_bytes.map(memory);
        let checks = [flavour(ran), cgroups(&ran.cgroups), restore, root_image];
        checks.into_iter().chain(memory).collect()
    }

    /// What it took.
    pub(super) fn primitives(&self) -> Vec<Primitive> {
        let Ok(ran) = &self.0 else { return Vec::new() };
        let restore = &ran.status["latency_nanos"]["restore"];
        let of = |key: &str| restore[key].as_u64().unwrap_or(0);
        let (key, name) = ("vm_restore", "VM restored from snapshot");
        let restores = Primitive { key, name, p50: of("p50"), p99: of("p99"), count: of("count") };
        vec![restores, ran.invoke.clone(), ran.start.clone()]
    }
}

fn flavour(ran: &Ran) -> Check {
    let words = match ran.flavour {
        Flavour::Stock => {
            "hardware virtualisation; each VM is a wall, and so is each container in it"
        }
        Flavour::Pvm => {
            "virtualisation without hardware support; each VM is a wall, containers in one VM \
             (always of one user) are not"
        }
    };
    let flavour = flavour_words(ran.flavour).1;
    Check::ok("flavour", format!("{flavour}, isolation {}: {words}", ran.isolation))
}

fn memory(idle_bytes: u64) -> Check {
    let finding = format!("{} KiB of its own for each warm VM, VMM included", idle_bytes >> 10);
    Check::ok("memory", finding)
}

fn cgroups(found: &str) -> Check {
    if found.starts_with("none") {
        return Check::note(
            "cgroups",
            format!("{found}: a VM's memory is bounded, its CPU time is not"),
            "run the node as root, or give it a group of its own: systemd-run --user --scope \
             -p Delegate=yes pilotlight serve",
        );
    }
    Check::ok("cgroups", format!("{found}: memory and CPU time of each VM are bounded"))
}
