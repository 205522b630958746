//! What a figure was measured on.

use std::fs;

use serde::Serialize;

/// A machine, as far as a reader of figures has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor's name for itself.
    pub cpu: String,
    /// Cores the system has online.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
}

impl Machine {
    /// The one this runs on; what the system does not say is empty.
    #[must_use]
    pub fn here() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: name.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
            cores: cpus.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: kernel.trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_cores() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.kernel.contains('.'), "{machine:?}");
    }
}
