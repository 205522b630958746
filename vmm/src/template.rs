//! What a restored VM came from and is put back to: the snapshot, for as long as the VM lives.
//!
//! ```text
//! runs   pages the snapshot holds, mapped privately; everything else is zeros
//! warm   pages a restored guest writes at once, and free frames its first program gets: made
//!        private and present up front, by mapping and writing to them or by copying
//! ```

use crate::flavour::{self, Cpu};
use crate::gone::Gone;
use crate::machine::contents;
use crate::memory::{Page, Ram, ZEROS};
use crate::snapshot::{Run, Snapshot, SnapshotFault, VcpuState, join_runs};
use abi::control::{Restoring, Start};
use abi::layout::{Flavour, PAGE_BYTES, boot};
use kvm_bindings::Msrs;
use region::Contents;
use std::io;
use std::os::fd::OwnedFd;

/// Free frames that are made private and present up front: the lowest, which the guest hands out
/// first. It writes to them as it wakes (`machine::boot::touch`), and a first program's pages and
/// tables land here; each saves a fault of 11 to 38 us. 96 frames are 384 KiB of the 1 MiB an idle
/// VM may cost.
const FREE_FRAMES_WARM: usize = 96;

/// A snapshot that was checked and is one of such a VM; whether this machine can run it is for
/// [`Template::check`].
#[derive(Debug)]
pub(crate) struct Template {
    memfd: OwnedFd,
    file: Contents,
    /// Flavour and CPU.
    made_on: (Flavour, u64),
    /// Runs of kept pages, ascending, with the place of each in the file.
    runs: Vec<(Run, u64)>,
    warm: Vec<Run>,
    free: Vec<Run>,
    restoring: Restoring,
    /// The vCPU's registers.
    pub(crate) state: VcpuState,
    /// Those of them that are model-specific, as KVM takes them.
    pub(crate) msrs: Msrs,
}

impl Template {
    /// Reads the snapshot a `Start` names.
    pub(crate) fn read(start: &Start, memfd: OwnedFd) -> Result<Self, Gone> {
        let file = contents(&memfd, "map the snapshot")?;
        let (snapshot, pages_offset) = Snapshot::parse(&file).map_err(Gone::Snapshot)?;
        let sizes = (snapshot.ram_bytes, snapshot.root_image_bytes);
        if sizes != (start.ram_bytes, start.root_image_bytes) {
            return Err(Gone::Snapshot(SnapshotFault::OtherMachine));
        }
        Self::of(snapshot, pages_offset, start.restoring, (memfd, file))
    }

    /// Whether the snapshot was made on such a CPU.
    pub(crate) fn check(&self, cpu: &Cpu) -> Result<(), Gone> {
        if self.made_on == (cpu.flavour, cpu.key) {
            Ok(())
        } else {
            Err(Gone::Snapshot(SnapshotFault::OtherCpu))
        }
    }

    fn of(
        snapshot: Snapshot,
        pages_offset: u64,
        restoring: Restoring,
        (memfd, file): (OwnedFd, Contents),
    ) -> Result<Self, Gone> {
        let free = free_frames(&snapshot);
        let made_on = (snapshot.flavour, snapshot.cpu_key);
        let Snapshot { state, runs, warm, .. } = snapshot;
        let places = runs.iter().scan(pages_offset, |end, run| {
            let start = *end;
            *end += run.bytes();
            Some((*run, start))
        });
        let runs = places.collect();
        let msrs = flavour::msr_list(&state.msrs)?;
        Ok(Self { memfd, file, made_on, runs, warm, free, restoring, state, msrs })
    }

    /// Makes all of RAM what the snapshot says, with what the first moments need in place.
    /// Whatever was there before is forgotten.
    pub(crate) fn lay_out(&self, ram: &mut Ram) -> io::Result<()> {
        ram.clear()?;
        for (run, offset) in &self.runs {
            ram.overlay(*run, &self.memfd, *offset)?;
        }
        for run in &self.warm {
            match self.restoring {
                Restoring::Map => ram.populate(*run)?,
                Restoring::Copy => self.copy(*run, ram)?,
            }
        }
        for run in &self.free {
            ram.populate(*run)?;
        }
        for (run, _) in &self.runs {
            ram.populate_shared(*run)?;
        }
        Ok(())
    }

    fn copy(&self, run: Run, ram: &mut Ram) -> io::Result<()> {
        ram.renew(run)?;
        for number in run.numbers() {
            if let Some(page) = self.kept(number) {
                ram.write(u64::from(number) * PAGE_BYTES, page)?;
            }
        }
        Ok(())
    }

    /// What the snapshot has in a page of RAM.
    pub(crate) fn page(&self, number: u32) -> &Page {
        self.kept(number).unwrap_or(&ZEROS)
    }

    fn kept(&self, number: u32) -> Option<&Page> {
        let index = self.runs.partition_point(|(run, _)| run.end() <= u64::from(number));
        let (run, offset) = self.runs.get(index)?;
        let distance = number.checked_sub(run.first)?;
        let at = usize::try_from(offset + u64::from(distance) * PAGE_BYTES).ok()?;
        self.file.get(at..)?.first_chunk()
    }

    /// Runs of pages the snapshot holds, ascending.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Run> {
        self.runs.iter().map(|(run, _)| *run)
    }

    /// Runs of pages a restored guest writes at once, ascending.
    pub(crate) fn warm(&self) -> &[Run] {
        &self.warm
    }

    /// Pages that are private from the start.
    pub(crate) fn warm_pages(&self) -> u64 {
        self.warm.iter().chain(&self.free).map(|run| u64::from(run.pages)).sum()
    }
}

/// The lowest frames that hold nothing: where the guest's memory begins, and above all that is in
/// use. Zeros below the kernel's image may belong to a program; it will write there all the same.
fn free_frames(snapshot: &Snapshot) -> Vec<Run> {
    let number = |bytes: u64| u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX);
    let taken = || snapshot.runs.iter().chain(&snapshot.warm);
    let used = taken().map(|run| run.end()).max().unwrap_or(0).max(boot::KERNEL / PAGE_BYTES);
    let low = number(boot::STACK_TOP)..number(boot::KERNEL);
    let high = u32::try_from(used).unwrap_or(u32::MAX)..number(snapshot.ram_bytes);
    let is_taken = |number: u32| {
        taken().any(|run| (u64::from(run.first)..run.end()).contains(&u64::from(number)))
    };
    let free = low.filter(|number| !is_taken(*number)).chain(high);
    join_runs(free.take(FREE_FRAMES_WARM), 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use abi::layout::RAM_BYTES_MIN;

    fn snapshot(runs: Vec<Run>) -> Snapshot {
        Snapshot {
            flavour: abi::layout::Flavour::Pvm,
            cpu_key: 5,
            ram_bytes: RAM_BYTES_MIN,
            root_image_bytes: 0,
            state: VcpuState::blank(),
            runs,
            warm: Vec::new(),
        }
    }

    /// One that keeps these runs; each page's bytes are its number, cut short.
    pub(crate) fn template(runs: &[Run]) -> Template {
        let snapshot = snapshot(runs.to_vec());
        let mut file = snapshot.head();
        let pages_offset = file.len() as u64;
        let numbers = runs.iter().copied().flat_map(Run::numbers);
        file.extend(numbers.flat_map(|number| [number.to_le_bytes()[0]; 4096]));
        let memfd = region::sealed::frozen("test", &file).unwrap();
        let contents = Contents::map(&memfd).unwrap();
        Template::of(snapshot, pages_offset, Restoring::Copy, (memfd, contents)).unwrap()
    }

    #[test]
    fn free_frames_are_the_lowest_ones() {
        let image = Run { first: 512, pages: 100 };
        let free = free_frames(&snapshot(vec![Run { first: 1, pages: 40 }, image]));
        assert_eq!(free, [Run { first: 41, pages: 96 }]);
        let full = free_frames(&snapshot(vec![Run { first: 1, pages: 501 }, image]));
        assert_eq!(full, [Run { first: 502, pages: 10 }, Run { first: 612, pages: 86 }]);
        let whole = Run { first: 0, pages: 8192 };
        assert_eq!(free_frames(&snapshot(vec![whole])), []);
    }

    #[test]
    fn pages_are_found_in_their_runs() {
        let template = template(&[Run { first: 3, pages: 2 }, Run { first: 9, pages: 1 }]);
        let mut ram = Ram::reserved(RAM_BYTES_MIN).unwrap();
        template.lay_out(&mut ram).unwrap();
        for (number, byte) in [(2, 0), (3, 3), (4, 4), (5, 0), (9, 9), (10, 0), (8191, 0)] {
            assert_eq!(template.page(number), &[byte; 4096], "{number}");
            assert!(ram.holds(number, &[byte; 4096]).unwrap(), "{number}");
        }
    }
}
