//! How many bytes of bodies wait for VMs, of all clients and of each: counted as they come and go,
//! because the question is asked for every request that has to wait.

use std::collections::HashMap;

use super::clients::ClientId;

/// The counts.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    bytes: usize,
    of_clients: HashMap<ClientId, usize>,
}

impl Bodies {
    /// Bytes of this client's are kept.
    pub(super) fn add(&mut self, client: ClientId, bytes: usize) {
        if bytes > 0 {
            self.bytes += bytes;
            *self.of_clients.entry(client).or_default() += bytes;
        }
    }

    /// They are not kept any more.
    pub(super) fn remove(&mut self, client: ClientId, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.bytes -= bytes;
        if let Some(kept) = self.of_clients.get_mut(&client) {
            *kept -= bytes;
            if *kept == 0 {
                self.of_clients.remove(&client);
            }
        }
    }

    /// Of all clients.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Of one.
    pub(super) fn of(&self, client: ClientId) -> usize {
        self.of_clients.get(&client).copied().unwrap_or(0)
    }
}
