//! The whole kernel on the host.

mod prepare;
mod rewind;

use super::{CLOCK_MARGIN_NANOS, looks_in_time};
use crate::time::NEVER;

#[test]
fn the_vmm_is_asked_to_look_unless_it_will_in_time() {
    let (now, wanted) = (50_000_000, 70_000_000);
    for look in [now + CLOCK_MARGIN_NANOS, now + 2 * CLOCK_MARGIN_NANOS, wanted] {
        assert!(looks_in_time(look, now, wanted), "{look}");
    }
    // It may have looked before it was told, looks too late, or not at all.
    for look in [0, now, now + CLOCK_MARGIN_NANOS - 1, wanted + 1, NEVER] {
        assert!(!looks_in_time(look, now, wanted), "{look}");
    }
    assert!(!looks_in_time(now + CLOCK_MARGIN_NANOS, now, now), "what is due at once is asked for");
}
