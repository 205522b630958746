//! The other processes of a bench: this executable again, as a node or as an echo server.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use perf::EchoKind;
use pilotlight::{Config, Node};

use super::super::fault::Fault;

/// What the node says when it listens.
pub(super) const LISTENING: &str = "listening";

/// How large a node is, and how long it keeps what nobody uses.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Shape {
    /// VMs it keeps warm. None: not even as many as were taken lately, so that every invoke for a
    /// new user finds none.
    #[arg(long, hide = true, default_value = "0")]
    pub(super) warm: u32,
    /// VMs of any kind.
    #[arg(long, hide = true, default_value = "1")]
    pub(super) vms_max: u32,
    /// A user's VM without an invoke for this long goes.
    #[arg(long, hide = true, default_value = "300")]
    pub(super) idle_seconds: u64,
}

impl Shape {
    fn apply(self, config: &mut Config) {
        let pools = &mut config.pools;
        (pools.warm_min, pools.warm_target) = (self.warm, self.warm);
        (pools.warm_max, pools.vms_max) = (self.warm.max(1), self.vms_max);
        pools.idle_expiry_seconds = self.idle_seconds;
        if self.warm == 0 {
            pools.demand_window_millis = 1;
        }
    }

    fn arguments(self) -> [String; 6] {
        let pairs = [
            ("--warm", u64::from(self.warm)),
            ("--vms-max", u64::from(self.vms_max)),
            ("--idle-seconds", self.idle_seconds),
        ];
        let [[a, b], [c, d], [e, f]] = pairs.map(|(name, value)| [name.into(), value.to_string()]);
        [a, b, c, d, e, f]
    }
}

/// Which process this is, when it is not the bench itself.
#[derive(Debug, clap::Args)]
pub(super) struct Role {
    #[arg(long = "role", value_enum, hide = true)]
    role: Option<Part>,
    /// Holds its socket, and a node's state.
    #[arg(long, hide = true, default_value = ".")]
    folder: PathBuf,
    #[arg(long, hide = true, default_value = "0")]
    core: u32,
    #[arg(long, hide = true, default_value = "0")]
    guest_core: u32,
    #[arg(long, hide = true, default_value = "0")]
    message_bytes: usize,
    #[command(flatten)]
    shape: Shape,
}

/// The processes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Part {
    Node,
    EchoBlocking,
    EchoRuntime,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::EchoBlocking => "echo-blocking",
            Self::EchoRuntime => "echo-runtime",
        }
    }

    /// Its socket in `folder`.
    pub(super) fn socket(self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.sock", self.name()))
    }

    /// An echo server's command line.
    pub(super) fn echo(self, folder: &Path, core: u32, bytes: usize) -> io::Result<Command> {
        let mut command = self.command(folder, core)?;
        command.arg("--message-bytes").arg(bytes.to_string());
        Ok(command)
    }

    /// A node's command line.
    pub(super) fn node(
        folder: &Path,
        (shard_core, guest_core): (u32, u32),
        shape: Shape,
    ) -> io::Result<Command> {
        let mut command = Self::Node.command(folder, shard_core)?;
        command.arg("--guest-core").arg(guest_core.to_string()).args(shape.arguments());
        Ok(command)
    }

    fn command(self, folder: &Path, core: u32) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "--role", self.name(), "--folder"]).arg(folder);
        command.arg("--core").arg(core.to_string());
        Ok(command)
    }
}

impl Role {
    pub(super) fn is_given(&self) -> bool {
        self.role.is_some()
    }

    /// Is that process until it is over.
    pub(super) fn play(&self) -> Result<ExitCode, Fault> {
        let echo = |part: Part, kind: EchoKind| {
            kind.serve(&part.socket(&self.folder), self.message_bytes, self.core)
        };
        match self.role {
            Some(Part::Node) => self.node()?,
            Some(Part::EchoBlocking) => echo(Part::EchoBlocking, EchoKind::Blocking)?,
            Some(Part::EchoRuntime) => echo(Part::EchoRuntime, EchoKind::Runtime)?,
            None => {}
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A node with nothing special but its size; it ends when its standard input does, and so
    /// with the bench, however that ends.
    fn node(&self) -> Result<(), Fault> {
        let mut config = Config::default();
        config.paths.state = self.folder.join("state");
        config.cores.shards = vec![self.core];
        config.cores.guests = vec![self.guest_core];
        self.shape.apply(&mut config);
        let mut node = Node::start(config)?;
        node.listen(&Part::Node.socket(&self.folder))?;
        let mut output = io::stdout().lock();
        writeln!(output, "{LISTENING}")?;
        output.flush()?;
        let ended = io::stdin().lock().read_to_end(&mut Vec::new());
        node.stop();
        Ok(ended.map(drop)?)
    }
}
