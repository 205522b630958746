//! `pilotlight serve`: a node in the foreground, until a signal ends it.

use std::path::PathBuf;
use std::process::ExitCode;

use pilotlight::{Config, Flavour, Node, available_cores};
use serde_json::json;
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::fault::Fault;
use super::notify;
use super::report::{self, Report};
use super::trace::{Format, Level, Trace};

/// Run a node in the foreground
///
/// Prints one line when it is ready, and what happens to standard error. SIGTERM or SIGINT (Ctrl-C)
/// lets running invokes finish, delivers their logs, and stops; a second one ends everything at once. As
/// a service of systemd (Type=notify) it also says there when it is ready and when it stops.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// Configuration (TOML); every key has a default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the code store [default: ~/.local/state/pilotlight, as root /var/lib/pilotlight]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Socket to listen at [default: $XDG_RUNTIME_DIR/pilotlight/node.sock, as root
    /// /run/pilotlight/node.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Say whether a node would start with this configuration, and start none
    #[arg(long)]
    check_config: bool,
    /// Form of the lines on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: Format,
    /// Which of them are written
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    log_level: Level,
    #[command(flatten)]
    report: Report,
}

/// What a node that was ended by a second signal leaves with: 128 and SIGINT's number.
const ENDED_AT_ONCE: i32 = 130;

impl Serve {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        if self.check_config {
            return self.check().map_err(|fault| fault.told(self.report));
        }
        let _trace = Trace::start(self.log_format, self.log_level);
        self.serve().map_err(|fault| {
            let fault = fault.told(self.report);
            match self.log_format {
                // Told as any command tells its failure.
                Format::Text => fault,
                Format::Json => {
                    tracing::error!(code = fault.code(), "{fault}");
                    fault.traced()
                }
            }
        })
    }

    fn config(&self) -> Result<Config, Fault> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if let Some(state) = &self.state {
            config.paths.state.clone_from(state);
        }
        Ok(config)
    }

    fn serve(&self) -> Result<ExitCode, Fault> {
        let config = self.config()?;
        let socket = self.socket.clone().unwrap_or_else(|| config.paths.socket.clone());
        // From here on a signal waits until the node is up, so that it always stops in order.
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "starting");
        let mut node = Node::start(config)?;
        node.listen(&socket)?;
        self.ready(&node, &socket)?;
        notify::tell(notify::READY);
        let signal = signals.forever().next();
        tracing::info!(signal, "stopping");
        notify::tell(notify::STOPPING);
        let ending = socket.clone();
        std::thread::spawn(move || {
            signals.forever().next();
            // VMMs die with their parent; a path has to be taken away.
            drop(std::fs::remove_file(ending));
            std::process::exit(ENDED_AT_ONCE);
        });
        node.stop();
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    }

    /// What [`Node::start`] looks at before it touches anything.
    fn check(&self) -> Result<ExitCode, Fault> {
        let config = self.config()?;
        config.check()?;
        let cores = config.core_split(&available_cores()?)?;
        self.report.print(&json!({ "shards": cores.shards, "guests": cores.guests }), || {
            format!("ok: shards on cores {:?}, VMs on {:?}\n", cores.shards, cores.guests)
        })
    }

    fn ready(&self, node: &Node, socket: &std::path::Path) -> Result<(), Fault> {
        if let Some(warning) = node.warning() {
            tracing::warn!("{warning}");
        }
        let flavour = flavour_words(node.flavour());
        let (path, isolation) = (socket.display().to_string(), node.isolation());
        tracing::info!(socket = path, flavour = flavour.0, isolation, "ready");
        if self.report.json {
            let ready = json!({
                "socket": socket,
                "flavour": flavour.0,
                "isolation": node.isolation(),
                "warnings": node.warning().into_iter().collect::<Vec<_>>(),
                "pid": std::process::id(),
            });
            return Ok(report::write(format!("{ready}\n").as_bytes())?);
        }
        let line = format!(
            "ready at {} ({}, isolation {})\n",
            socket.display(),
            flavour.1,
            node.isolation()
        );
        Ok(report::write(line.as_bytes())?)
    }
}

/// A flavour's stable name, and how people say it.
pub(crate) fn flavour_words(flavour: Flavour) -> (&'static str, &'static str) {
    match flavour {
        Flavour::Stock => ("stock", "stock KVM"),
        Flavour::Pvm => ("pvm", "KVM of the PVM kind"),
    }
}
