//! What requests may be, and how much of them a shard holds.

use abi::layout;
use serde::{Deserialize, Serialize};

use super::{BODY_BYTES_MAX, ConfigError, MIB, between};

/// What one request may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Requests {
    /// Bytes of a body.
    pub body_bytes_max: u64,
    /// Bytes of a response.
    pub response_bytes_max: u64,
    /// Bytes of a package. It has to fit the image window beside the root image.
    pub package_bytes_max: u64,
    /// Client connections of one shard.
    pub connections_max: u32,
    /// Of those, clients that use shared memory: 1 MiB each.
    pub shared_connections_max: u32,
    /// Requests one connection may have open.
    pub pipeline_max: u32,
    /// Bytes of bodies that one shard holds for VMs that have not taken them: of invokes without a
    /// VM, and what does not fit a VM's rings. With more, clients are not read from, and an invoke
    /// that would have to wait is answered "busy".
    pub waiting_bytes_max: u64,
    /// Of those, bytes of one client. A whole body fits.
    pub waiting_bytes_per_client_max: u64,
    /// Bytes of answers that one shard holds for clients that have not read them. While it is more
    /// than half of that, each such client may have an equal share waiting; programs that answer
    /// others wait.
    pub output_bytes_max: u64,
    /// Bytes of packages that one shard holds while they come in and are stored. With more, a
    /// deploy is answered "busy".
    pub deploy_bytes_max: u64,
    /// Memory of a function that does not say, MiB.
    pub memory_mib_default: u32,
    /// Timeout of a function that does not say, milliseconds.
    pub timeout_millis_default: u64,
    /// Functions one user may have deployed.
    pub functions_per_user_max: u32,
    /// Bytes the packages of one user's functions may have together; a package of several functions
    /// counts for each.
    pub package_bytes_per_user_max: u64,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            body_bytes_max: BODY_BYTES_MAX,
            response_bytes_max: BODY_BYTES_MAX,
            package_bytes_max: 256 * MIB,
            connections_max: 1024,
            shared_connections_max: 64,
            pipeline_max: 256,
            waiting_bytes_max: 64 * MIB,
            waiting_bytes_per_client_max: 8 * MIB,
            output_bytes_max: 256 * MIB,
            deploy_bytes_max: 512 * MIB,
            memory_mib_default: 128,
            timeout_millis_default: 3_000,
            functions_per_user_max: 1024,
            package_bytes_per_user_max: 4096 * MIB,
        }
    }
}

impl Requests {
    /// Checks that its limits fit each other, and the memory a VM can promise.
    pub(super) fn check(&self, memory_mib_max: u32) -> Result<(), ConfigError> {
        let requests = self;
        between("requests.memory_mib_default", requests.memory_mib_default, 1, memory_mib_max)?;
        between("requests.body_bytes_max", requests.body_bytes_max, 1, BODY_BYTES_MAX)?;
        between("requests.response_bytes_max", requests.response_bytes_max, 1, BODY_BYTES_MAX)?;
        let window = layout::WINDOW_BYTES;
        between("requests.package_bytes_max", requests.package_bytes_max, 1, window)?;
        between("requests.connections_max", requests.connections_max, 1, 1 << 16)?;
        let shared = requests.shared_connections_max;
        between("requests.shared_connections_max", shared, 0, 1 << 16)?;
        let body = requests.body_bytes_max;
        let own = requests.waiting_bytes_per_client_max;
        between("requests.waiting_bytes_per_client_max", own, body, 1 << 30)?;
        between("requests.waiting_bytes_max", requests.waiting_bytes_max, own, 1 << 40)?;
        between("requests.output_bytes_max", requests.output_bytes_max, MIB, 1 << 40)?;
        let package = requests.package_bytes_max;
        between("requests.deploy_bytes_max", requests.deploy_bytes_max, package, 1 << 40)?;
        between("requests.pipeline_max", requests.pipeline_max, 1, 1 << 16)
    }
}
