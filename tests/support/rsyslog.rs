//! A real rsyslogd (Debian packages `rsyslog` and `rsyslog-gnutls`) as a logging service: in the
//! foreground, in a folder of its own, on a loopback port of its own, ended with the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use tempfile::TempDir;

/// Name in the certificate of the service.
pub(crate) const SERVER_NAME: &str = "logs.example";
/// Name in the client certificates the service accepts.
pub(crate) const CLIENT_NAME: &str = "ada.example";

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub(crate) pem: String,
}

/// A certificate and its key.
pub(crate) struct Identity {
    /// The certificate.
    pub(crate) certificate: String,
    /// The private key (PKCS #8).
    pub(crate) key: String,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy)]
pub(crate) enum Validity {
    /// Now.
    Current,
    /// Until some years ago.
    Expired,
}

impl Authority {
    /// A new one, self-signed.
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.key_usages =
            vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
        parameters.distinguished_name.push(DnType::CommonName, name);
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// Signs a certificate for `name`.
    pub(crate) fn sign(&self, name: &str, validity: Validity) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        if matches!(validity, Validity::Expired) {
            parameters.not_before = rcgen::date_time_ymd(2019, 1, 1);
            parameters.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

/// One record as rsyslog understood it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) priority: String,
    pub(crate) timestamp: String,
    pub(crate) hostname: String,
    pub(crate) app_name: String,
    pub(crate) process_id: String,
    pub(crate) message_id: String,
    pub(crate) structured_data: String,
    pub(crate) message: String,
}

/// Between the fields of a record in the file; rsyslog replaces control characters in messages.
const SEPARATOR: char = '\u{1f}';

/// How clients are to authenticate themselves.
enum Door<'a> {
    Tcp,
    Tls { authority: &'a Authority, identity: Identity },
}

/// A running rsyslogd.
pub(crate) struct Rsyslog {
    folder: TempDir,
    child: Option<Child>,
    address: SocketAddr,
}

impl Rsyslog {
    /// Plain TCP with octet counting.
    pub(crate) fn tcp() -> Self {
        Self::new(&Door::Tcp)
    }

    /// TLS; clients need a certificate for [`CLIENT_NAME`] signed by `authority`, which also
    /// signs the service's own, for [`SERVER_NAME`].
    pub(crate) fn tls(authority: &Authority) -> Self {
        let identity = authority.sign(SERVER_NAME, Validity::Current);
        Self::new(&Door::Tls { authority, identity })
    }

    fn new(door: &Door<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The port is ours from here to the start; what happens in between is seen by `start`.
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        fs::write(folder.path().join("rsyslog.conf"), configure(folder.path(), door, port))
            .unwrap();
        let mut rsyslog = Self { folder, child: None, address };
        rsyslog.start();
        rsyslog
    }

    /// Where it listens, also while it does not run.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process, while it runs.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it (again, on the same port) and waits until it listens.
    pub(crate) fn start(&mut self) {
        let diagnostics = fs::File::create(self.folder.path().join("diagnostics")).unwrap();
        // A standard environment would send rsyslogd to the system's configuration or log.
        let child = Command::new(program())
            .arg("-n")
            .arg("-f")
            .arg(self.folder.path().join("rsyslog.conf"))
            .arg("-i")
            .arg(self.folder.path().join("rsyslogd.pid"))
            .stdin(Stdio::null())
            .stdout(diagnostics.try_clone().unwrap())
            .stderr(diagnostics)
            .spawn()
            .expect("rsyslogd: install the packages rsyslog and rsyslog-gnutls");
        self.child = Some(child);
        let listens = || {
            let child = self.child.as_mut().unwrap();
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "rsyslogd ended: {}", read(self.folder.path(), "diagnostics"));
            is_listening(self.address.port())
        };
        wait_until("rsyslogd listens", listens);
    }

    /// Ends it at once, as a crash would; what it wrote stays.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The records it has written so far.
    pub(crate) fn records(&self) -> Vec<Record> {
        let text = read(self.folder.path(), "records");
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(parse).collect()
    }

    /// How many records it has written so far.
    pub(crate) fn line_count(&self) -> usize {
        read(self.folder.path(), "records").matches('\n').count()
    }

    /// The records once there are `count`.
    pub(crate) fn wait_for_records(&self, count: usize) -> Vec<Record> {
        let mut records = Vec::new();
        wait_until(&format!("{count} records at rsyslogd"), || {
            records = self.records();
            records.len() >= count
        });
        records
    }

    /// Connections it has open now, by the kernel's table.
    pub(crate) fn connections(&self) -> usize {
        sockets(self.address.port(), ESTABLISHED)
    }

    /// What it said about itself: why it refused a client, for one.
    pub(crate) fn diagnostics(&self) -> String {
        read(self.folder.path(), "diagnostics") + &read(self.folder.path(), "own")
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Looks again and again until `is_true`.
pub(crate) fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let mut left = PATIENCE;
    while !is_true() {
        assert!(!left.is_zero(), "waited {PATIENCE:?} in vain: {what}");
        left = left.saturating_sub(LOOK_AGAIN);
        sleep(LOOK_AGAIN);
    }
}

/// `sbin` is not on everybody's path.
fn program() -> PathBuf {
    let debian = Path::new("/usr/sbin/rsyslogd");
    if debian.exists() { debian.to_owned() } else { PathBuf::from("rsyslogd") }
}

fn configure(folder: &Path, door: &Door<'_>, port: u16) -> String {
    let place = folder.display();
    let (tls_files, tls_door) = match door {
        Door::Tcp => (String::new(), String::new()),
        Door::Tls { authority, identity } => {
            fs::write(folder.join("ca.pem"), &authority.pem).unwrap();
            fs::write(folder.join("cert.pem"), &identity.certificate).unwrap();
            fs::write(folder.join("key.pem"), &identity.key).unwrap();
            (
                format!(
                    "defaultNetstreamDriver=\"gtls\"\n  \
                     defaultNetstreamDriverCAFile=\"{place}/ca.pem\"\n  \
                     defaultNetstreamDriverCertFile=\"{place}/cert.pem\"\n  \
                     defaultNetstreamDriverKeyFile=\"{place}/key.pem\""
                ),
                format!(
                    "streamDriver.name=\"gtls\" streamDriver.mode=\"1\"\n  \
                     streamDriver.authMode=\"x509/name\" permittedPeer=[\"{CLIENT_NAME}\"]"
                ),
            )
        }
    };
    let fields = [
        "pri",
        "timereported:::date-rfc3339",
        "hostname",
        "app-name",
        "procid",
        "msgid",
        "structured-data",
        "msg",
    ]
    .map(|field| format!("%{field}%"))
    .join(&SEPARATOR.to_string());
    format!(
        r#"global(workDirectory="{place}" maxMessageSize="64k" {tls_files})
module(load="imtcp" {tls_door})
template(name="fields" type="string" string="{fields}\n")
ruleset(name="records") {{ action(type="omfile" file="{place}/records" template="fields") }}
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="records")
action(type="omfile" file="{place}/own")
"#
    )
}

fn parse(line: &str) -> Record {
    let mut fields = line.splitn(8, SEPARATOR).map(str::to_owned);
    let mut next = || fields.next().unwrap_or_else(|| panic!("a record with fewer fields: {line}"));
    Record {
        priority: next(),
        timestamp: next(),
        hostname: next(),
        app_name: next(),
        process_id: next(),
        message_id: next(),
        structured_data: next(),
        message: next(),
    }
}

fn read(folder: &Path, file: &str) -> String {
    let bytes = fs::read(folder.join(file)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// States in the kernel's table (`include/net/tcp_states.h`).
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

/// Asks the kernel's table: connecting to find out would be a client without a certificate.
fn is_listening(port: u16) -> bool {
    sockets(port, LISTEN) > 0
}

fn sockets(port: u16, state: &str) -> usize {
    let local = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let is_ours = |line: &&str| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let is_local = columns.next().is_some_and(|address| address.ends_with(&local));
        is_local && columns.nth(1) == Some(state)
    };
    table.lines().filter(is_ours).count()
}
