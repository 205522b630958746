//! Nothing to do: leave the CPU to the host.

use crate::instruction;

/// Halts until the VMM goes on: when the doorbell was rung or the deadline in the region
/// (`region::DEADLINE`) is reached. May return early.
pub fn halt() {
    instruction::halt();
}
