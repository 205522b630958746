//! Processes that have ended and are put back for another request.

use alloc::boxed::Box;

use super::Processes;
use crate::process::{Fresh, Process, ProcessId};

impl Processes {
    /// Ends a process; if it can be rewound it rests.
    pub fn halt(&mut self, id: ProcessId) {
        let process = self.processes.remove(&id);
        self.kill(id);
        if let Some(process) = process {
            self.rest(process);
        }
    }

    /// Whether a process has ended and can be rewound.
    #[must_use]
    pub fn is_resting(&self, id: ProcessId) -> bool {
        self.resting.contains_key(&id)
    }

    /// A process that rests.
    #[must_use]
    pub fn resting(&self, id: ProcessId) -> Option<&Process> {
        self.resting.get(&id).map(|process| &**process)
    }

    /// Puts a resting process back to its point; `false` when it could not be and is gone.
    pub fn rewind(&mut self, id: ProcessId, fresh: Fresh) -> bool {
        let Some(process) = self.resting.get_mut(&id) else { return false };
        let is_back = process.go_back(fresh).is_ok();
        if !is_back {
            self.resting.remove(&id);
        }
        is_back
    }

    /// Lets a process that was rewound serve a request; `false` when it cannot and is gone.
    pub fn resume(&mut self, id: ProcessId, invoke: u64) -> bool {
        let Some(mut process) = self.resting.remove(&id) else { return false };
        let world = self.world();
        let Ok(task) = process.take_up(invoke, |bytes| world.random(bytes)) else { return false };
        self.processes.insert(id, process);
        self.begin(Box::new(task));
        self.begin_invoke(id);
        true
    }

    pub(super) fn rest(&mut self, mut process: Box<Process>) {
        if process.can_rewind() {
            process.close_files();
            self.resting.insert(process.id, process);
        }
    }
}
