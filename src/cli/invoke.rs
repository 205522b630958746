//! `pilotlight invoke`: runs a function once and passes on what it says.
//!
//! ```text
//!  payload ──► exchange ──► node       exchange: body out, response, log and outcome in
//!              exchange ──► verdict    verdict: what the outcome means for whoever called
//! ```

mod payload;
mod logging;
mod exchange;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use pilotlight::client::ClientError;
use pilotlight::invoke::LogProtocol;
use pilotlight::socket::request::{self, OPTION_SETTLE_LOGS, OPTION_WANT_LOG};

use self::exchange::{Exchange, Passing};
use self::payload::Payload;
use super::deploy::timeout;
use super::fault::Fault;
use super::report::Report;
use super::target::Target;

/// What the command ends with when there is no outcome to speak of.
const NO_OUTCOME: u8 = 125;

const AFTER_HELP: &str = "\
Exit status: the program's own; 128+N when signal N ended it (139: bad memory access or stack
overflow, 137: memory exhausted); 124 deadline; 125 the node did not run it; 126 it cannot be
executed or breaks its contract; 130 cancelled (Ctrl-C; a second one does not wait for the answer).

The object of --json: invoke, vm, container, pool (\"warming\", \"active\"); status (\"exited\",
\"signalled\", \"deadline-exceeded\", ..), exit_status, signal, reason; exit_code (of this command);
response, or response_base64 when it is not UTF-8; log: [{sequence, realtime_nanos, text or
text_base64, has_more}]; log_account: {produced, handed_over, acknowledged, dropped, waiting},
log_reason; run_nanos, memory_peak_bytes; timings_nanos: {accept, route, acquire, load, run, reply}.";

/// Run a function once
///
/// The response goes to standard output as it comes; the program's log and an account of the
/// invoke go to standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Invoke {
    /// Name of the function
    name: String,
    /// Body of the request: the text itself, @FILE for a file's bytes, - for standard input as it
    /// comes; at most 6 MiB
    #[arg(
        long,
        value_name = "TEXT|@FILE|-",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    payload: Payload,
    /// Whose function [default: your login]
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// How long it may take, if less than the function's own limit, as in 500ms, 3s, 2m
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    timeout: Option<Duration>,
    /// Your logging service
    #[arg(long, value_name = "HOST:PORT")]
    log_address: Option<String>,
    /// How it is spoken to
    #[arg(long, value_name = "syslog-tls|syslog-tcp|none", default_value = "none")]
    log_protocol: LogProtocol,
    /// Folder with your credentials for it: token, ca.pem, cert.pem, key.pem, each if needed
    #[arg(long, value_name = "DIR")]
    log_credentials: Option<PathBuf>,
    /// Name in the service's certificate [default: the HOST]
    #[arg(long, value_name = "NAME")]
    log_server_name: Option<String>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    report: Report,
}

impl Invoke {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        self.invoke().map_err(|fault| {
            let status = verdict::status_of_code(fault.code()).unwrap_or(NO_OUTCOME);
            fault.with_status(status).told(self.report)
        })
    }

    fn invoke(&self) -> Result<ExitCode, Fault> {
        let mut service = self.service()?;
        let body = self.payload.read()?;
        let interrupts = exchange::interrupts()?;
        let mut client = self.target.connect()?;
        let settle = if service.is_some() { OPTION_SETTLE_LOGS } else { 0 };
        let timeout = self.timeout.map_or(0, |timeout| timeout.as_nanos());
        let invoke = request::Invoke {
            user: &self.user,
            function: &self.name,
            options: OPTION_WANT_LOG | settle,
            timeout_nanos: u64::try_from(timeout).unwrap_or(u64::MAX),
            logging: service.as_mut().map(logging::Service::encode).transpose()?,
            body: &body,
        };
        let id = match self.payload {
            Payload::Input => client.submit_open(&invoke)?,
            Payload::Text(_) | Payload::File(_) => client.submit(&invoke)?,
        };
        let mut exchange = Exchange::new(&mut client, id, &interrupts);
        if matches!(self.payload, Payload::Input) {
            exchange = exchange.with_input();
        }
        if self.report.json {
            let completed = exchange.collect()?;
            self.report.object(&verdict::object(&completed))?;
            return Ok(verdict::status(&completed.outcome).into());
        }
        let completed = exchange.pass(&mut Passing::default())?;
        eprintln!("{}", verdict::line(&completed));
        Ok(verdict::status(&completed.outcome).into())
    }

    fn service(&self) -> Result<Option<logging::Service>, Fault> {
        let Some(address) = &self.log_address else {
            let is_named = self.log_credentials.is_some() || self.log_server_name.is_some();
            if self.log_protocol != LogProtocol::None || is_named {
                return Err(Fault::new("where to? Add --log-address HOST:PORT"));
            }
            return Ok(None);
        };
        if self.log_protocol == LogProtocol::None {
            return Err(Fault::new(
                "an address needs a protocol: add --log-protocol syslog-tls (or syslog-tcp)",
            ));
        }
        let credentials = self.log_credentials.as_deref();
        let mut service = logging::Service::new(self.log_protocol, address, credentials)?;
        if let Some(name) = &self.log_server_name {
            service.server_name.clone_from(name);
        }
        Ok(Some(service))
    }
}

/// An answer the protocol does not allow.
fn out_of_turn() -> ClientError {
    ClientError::Protocol("its answer is none to an invoke")
}
