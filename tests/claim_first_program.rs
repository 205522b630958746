//! A program from the host runs in a restored VM. Needs KVM.

use pilotlight::client::Package;
use pilotlight::socket::request::Invoke;
use pilotlight::{Config, Node};

#[test]
fn busybox_counts_words() {
    let state = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.paths.state = state.path().to_owned();
    let node = Node::start(config).unwrap();
    let mut client = node.client().unwrap();
    let mut package = Package::read(std::path::Path::new("/bin/busybox")).unwrap();
    package.settings.arguments = vec!["wc".into(), "-w".into()];
    client.deploy(("ada", "count"), &package).unwrap();
    let invoke = Invoke {
        user: "ada",
        function: "count",
        options: pilotlight::socket::request::OPTION_WANT_LOG,
        timeout_nanos: 0,
        logging: None,
        body: b"one two three\n",
    };
    let done = client.invoke(&invoke).unwrap();
    println!("{done:?}");
    let status = client.status().unwrap();
    println!("{status:#}");
    assert_eq!(String::from_utf8_lossy(&done.response), "3\n");
    node.stop();
}
