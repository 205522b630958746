//! The text of `/proc/self/maps`.

use alloc::format;
use alloc::vec::Vec;

use super::{Kind, Memory};

impl Memory {
    /// Writes one line per area, as Linux does; `executable` is the program's path.
    pub fn describe(&self, executable: &[u8], text: &mut Vec<u8>) {
        for (range, area) in self.areas() {
            let mark = |is_set: bool, letter: char| if is_set { letter } else { '-' };
            let access = area.access;
            let line = format!(
                "{:08x}-{:08x} {}{}{}{} 00000000 00:00 0 ",
                range.start,
                range.end,
                mark(access.is_readable, 'r'),
                mark(access.is_writable, 'w'),
                mark(access.is_executable, 'x'),
                if area.kind.is_shared() || area.kind == Kind::SharedLater { 's' } else { 'p' },
            );
            let name: &[u8] = match area.kind {
                Kind::Mapped | Kind::SharedLater | Kind::Shared | Kind::SharedReadOnly => b"",
                Kind::Image => executable,
                Kind::Heap => b"[heap]",
                Kind::Stack => b"[stack]",
                Kind::Kernel if access.is_executable => b"[vdso]",
                Kind::Kernel => b"[vvar]",
            };
            text.extend_from_slice(line.as_bytes());
            if !name.is_empty() {
                text.resize(text.len() + 73_usize.saturating_sub(line.len()), b' ');
                text.extend_from_slice(name);
            }
            text.push(b'\n');
        }
    }
}
