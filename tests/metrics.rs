//! Promise: a node's metrics are a page Prometheus understands, over the socket and, if the operator
//! wants it, over HTTP; the page names nobody. Needs what `scripts/setup test` unpacks of Debian's
//! package `prometheus`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use self::support::node::{TestNode, run, stream_package, wait_until};
use self::support::served::Served;

fn tool(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join("debian/prometheus/usr/bin").join(name);
    assert!(path.exists(), "no {}: run scripts/setup test", path.display());
    path
}

/// Fails unless `promtool` finds nothing to say about a page.
fn check(page: &str) {
    let mut command = Command::new(tool("promtool"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}\n{page}");
    assert!(output.stderr.is_empty(), "{output:?}\n{page}");
}

/// A node with a listener on a port of its own choice, and some invokes behind it.
fn exporting() -> (TestNode, SocketAddr) {
    let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let node = TestNode::with(|config| config.metrics.listen = listen);
    let mut client = node.client();
    client.deploy(("ada", "secret-name"), &stream_package("echo-stream", &[])).unwrap();
    for _ in 0..10 {
        run(&mut client, "ada", "secret-name", b"x");
    }
    let address = node.metrics_address();
    (node, address)
}

/// What is answered to bytes, and nothing if the connection is closed without.
fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n";

#[test]
fn the_page_is_well_formed_and_names_nobody() {
    let (_node, address) = exporting();
    let answer = ask(address, SCRAPE);
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", page.len())), "{head}");
    check(page);
    for line in [
        "pilotlight_invokes_total 10",
        "pilotlight_outcomes_total{outcome=\"exited\"} 10",
        "pilotlight_invoke_duration_seconds_count 10",
        "pilotlight_invoke_duration_seconds_bucket{le=\"+Inf\"} 10",
        "pilotlight_functions 1",
        "pilotlight_boots_total 1",
    ] {
        assert!(page.lines().any(|it| it == line), "no {line} in {page}");
    }
    for name in ["ada", "secret-name", "vm-"] {
        assert!(!page.contains(name), "{name} is nobody's business: {page}");
    }
}

#[test]
fn the_command_prints_the_same_page_without_a_listener() {
    let node = Served::start_with(&[], Stdio::null());
    node.deploy("true", &["--", "true"]);
    assert!(node.run("invoke", &["true"]).status.success());
    let output = node.run("status", &["--metrics"]);
    let page = String::from_utf8(output.stdout).unwrap();
    check(&page);
    assert!(page.contains("\npilotlight_invokes_total 1\n"), "{page}");
}

#[test]
fn strangers_are_refused_and_hold_up_nobody() {
    let (mut node, address) = exporting();
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "404"),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "413"),
        (b"DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        (b"\x16\x03\x01\x02\x00", "400"),
        (&[b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 8192]].concat(), "431"),
    ] {
        let answer = ask(address, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    // Fewer than may be at once say nothing: others are served.
    let silent: Vec<_> = (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(ask(address, SCRAPE).starts_with("HTTP/1.1 200 "));
    // As many as may be at once: they are thrown out when their time is up.
    let many: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    for mut stream in silent.into_iter().chain(many) {
        // Closed or reset, but over.
        drop(stream.read_to_end(&mut Vec::new()));
    }
    // The last of their threads may still be on its way out.
    wait_until("room again", || {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(SCRAPE).and_then(|()| stream.read_to_string(&mut answer));
        answer.starts_with("HTTP/1.1 200 ")
    });
    // However often it is asked for, a shard is asked once a second.
    let pages: Vec<_> = (0..20).map(|_| ask(address, SCRAPE)).collect();
    let uptime = |page: &str| {
        page.lines().find(|line| line.starts_with("pilotlight_uptime")).unwrap().to_owned()
    };
    let mut uptimes: Vec<_> = pages.iter().map(|page| uptime(page)).collect();
    uptimes.dedup();
    assert!(uptimes.len() < 10, "{uptimes:?}");
    node.stop();
    assert!(TcpStream::connect(address).is_err(), "it ends with its node");
}

#[test]
fn an_address_in_use_is_a_reason_not_to_start() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut config = pilotlight::Config::default();
    let state = tempfile::tempdir().unwrap();
    config.paths.state = state.path().to_owned();
    config.metrics.listen = Some(taken.local_addr().unwrap());
    let error = pilotlight::Node::start(config).err().unwrap().to_string();
    assert!(error.contains("metrics.listen") && error.contains("in use"), "{error}");
}

/// A Prometheus of a test's own, killed with it.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn scraping(target: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs:\n- job_name: node\n  static_configs: [{{ targets: ['{target}'] }}]\n"
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let child = Command::new(tool("prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address, _folder: folder }
    }

    /// What its API answers to a path, once it does.
    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: prometheus\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// The value of an instant query with one result.
    fn query(&self, query: &str) -> Option<String> {
        let answer = self.get(&format!("/api/v1/query?query={query}"))?;
        Some(answer["data"]["result"][0]["value"][1].as_str()?.to_owned())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_real_prometheus_scrapes_it() {
    let (node, address) = exporting();
    let prometheus = Prometheus::scraping(address);
    wait_until("a scrape", || prometheus.query("up").as_deref() == Some("1"));
    wait_until("the invokes so far", || {
        prometheus.query("pilotlight_invokes_total").as_deref() == Some("10")
    });
    let mut client = node.client();
    run(&mut client, "ada", "secret-name", b"x");
    wait_until("one more", || {
        prometheus.query("pilotlight_invokes_total").as_deref() == Some("11")
    });
    // Buckets are what a quantile can be had from.
    let quantile = "histogram_quantile(0.5,pilotlight_invoke_duration_seconds_bucket)";
    let median: f64 = prometheus.query(quantile).unwrap().parse().unwrap();
    assert!(median > 0.0 && median < 10.0, "{median} s");
    let targets = prometheus.get("/api/v1/targets").unwrap();
    assert_eq!(targets["data"]["activeTargets"][0]["lastError"], "", "{targets:#}");
}
