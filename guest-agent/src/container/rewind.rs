//! The process of a container between two requests.

use alloc::rc::Rc;

use abi::frame::invoke::{Contract, Freshness};

use super::{Container, ID_NAME, Package, Settings, Shared, view};
use crate::identity::ProcessId;
use crate::process::{Fresh, Processes, Rewinds, Until};

impl Container {
    /// Whether its process serves more than one request by being rewound.
    pub(super) fn rewinds(&self, invoke: u64) -> Option<Rewinds> {
        let Settings { contract, freshness, environment, .. } = &self.settings;
        let until = match (contract, freshness) {
            (Contract::Program, Freshness::Reuse) => Until::Look,
            (_, Freshness::Fork) => Until::Wait,
            (Contract::Stream, Freshness::Reuse) | (_, Freshness::Vm) => return None,
        };
        let is_told = *contract == Contract::Program;
        let has_own_id = environment.iter().any(|entry| entry.starts_with(ID_NAME));
        let gate = Rc::clone(self.io.gate());
        let invoke = (is_told && !has_own_id).then_some(invoke);
        Some(Rewinds { until, gate, invoke })
    }

    /// Puts the process that has served a request back to its point, once the node has the answer.
    pub fn rewind(
        &mut self,
        shared: &Shared,
        package: Option<&Package>,
        processes: &mut Processes,
    ) {
        let Some((process, false)) = self.resting else { return };
        self.io.clear();
        let is_back = self
            .fresh(shared, package, process, processes)
            .is_some_and(|fresh| processes.rewind(process, fresh));
        self.resting = is_back.then_some((process, true));
        if !is_back {
            processes.kill_container(self.number);
        }
    }

    fn fresh(
        &self,
        shared: &Shared,
        package: Option<&Package>,
        process: ProcessId,
        processes: &Processes,
    ) -> Option<Fresh> {
        let process = processes.resting(process)?;
        let account = process.memory.account();
        let view = match package {
            _ if !process.needs_tree() => None,
            Some(Ok(image)) => Some(view(shared, image, account).ok()?),
            _ => return None,
        };
        Some(Fresh { view, network: self.network(shared, account) })
    }
}
