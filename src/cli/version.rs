//! What `pilotlight --version` says: which build this is, and what it can work with.

use std::sync::LazyLock;

use pilotlight::socket::frame;

/// The commit this was built from, as `build.rs` tells it; empty where that does not know.
pub(crate) const COMMIT: &str = match option_env!("PILOTLIGHT_COMMIT") {
    Some(commit) => commit,
    None => "",
};
/// The kind of build.
pub(crate) const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// The commit, for people.
pub(crate) fn commit() -> &'static str {
    if COMMIT.is_empty() { "unknown" } else { COMMIT }
}

/// What follows the name of the command. VMMs, guest kernels and snapshots of another ABI version
/// are refused, and so are clients that speak none of these protocol versions.
pub(super) fn long() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{}\ncommit {} ({PROFILE} build)\nguest ABI {}\nprotocol {} to {}",
            env!("CARGO_PKG_VERSION"),
            commit(),
            abi::ABI_VERSION,
            frame::VERSION_MIN,
            frame::VERSION_MAX,
        )
    });
    &TEXT
}
