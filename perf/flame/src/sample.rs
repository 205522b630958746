//! What `perf script --show-task-events` prints: a paragraph for each sample, its first line the
//! process, the others its stack from the innermost frame outwards; and lines about processes that
//! came and went.

use std::io::{self, BufRead};

/// Lines that are no samples have this in them.
const EVENT: &str = "PERF_RECORD_";
/// Of them, a process (or thread) that came: `FORK(PID:TID):(PARENT:TID)`.
const FORK: &str = "PERF_RECORD_FORK(";
/// A sample without a stack was taken inside a guest, whose stack the host's kernel does not walk.
const GUEST_FRAME: &str = "\t               0 guest ([guest])\n";

/// One sample, as printed.
#[derive(Debug)]
pub(crate) struct Sample {
    /// The thread's name.
    pub(crate) thread: String,
    pub(crate) pid: i32,
    text: String,
}

/// All samples, in their order, and who started whom.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    pub(crate) samples: Vec<Sample>,
    /// A process and its parent, in the order of their beginnings.
    pub(crate) forks: Vec<(i32, i32)>,
}

impl Recording {
    /// Reads to the end.
    ///
    /// # Errors
    /// The input's own, or a paragraph without a process: it is not perf's output.
    pub(crate) fn read(mut input: impl BufRead) -> io::Result<Self> {
        let mut recording = Self::default();
        let mut paragraph = String::new();
        loop {
            let mut line = Vec::new();
            let has_ended = input.read_until(b'\n', &mut line)? == 0;
            // Names of threads need not be UTF-8.
            let line = String::from_utf8_lossy(&line);
            if line.contains(EVENT) {
                recording.forks.extend(fork(&line));
                continue;
            }
            if !line.trim().is_empty() {
                paragraph.push_str(&line);
            } else if !paragraph.is_empty() {
                recording.samples.push(Sample::parse(std::mem::take(&mut paragraph))?);
            }
            if has_ended {
                return Ok(recording);
            }
        }
    }

    /// The samples of some processes as perf printed them, and how many.
    pub(crate) fn text_of(&self, is_wanted: impl Fn(i32) -> bool) -> (Vec<u8>, usize) {
        let wanted = self.samples.iter().filter(|sample| is_wanted(sample.pid));
        wanted.fold((Vec::new(), 0), |(mut text, count), sample| {
            text.extend_from_slice(sample.text.as_bytes());
            text.push(b'\n');
            (text, count + 1)
        })
    }
}

fn fork(line: &str) -> Option<(i32, i32)> {
    let (_, ids) = line.split_once(FORK)?;
    let (child, parent) = ids.split_once("):(")?;
    let pid = |ids: &str| ids.split_once(':')?.0.parse().ok();
    let (child, parent) = (pid(child)?, pid(parent)?);
    // The others are threads.
    (child != parent).then_some((child, parent))
}

impl Sample {
    /// `THREAD PID/TID ...`; a thread's name may have spaces and digits, and of one that has just
    /// ended perf knows no number but -1.
    fn parse(mut text: String) -> io::Result<Self> {
        let first = text.lines().next().unwrap_or_default();
        let words = first.split_whitespace();
        let mut ids = words.filter_map(|word| {
            let (pid, tid) = word.split_once('/')?;
            Some((word, pid.parse().ok()?, tid.parse::<i32>().ok()?))
        });
        let Some((word, pid, _)) = ids.next_back() else {
            return Err(io::Error::other(format!("not what `perf script` prints: {first:?}")));
        };
        let end = first.rfind(word).unwrap_or(0);
        let thread = first[..end].trim().to_owned();
        if text.lines().nth(1).is_none() {
            text.push_str(GUEST_FRAME);
        }
        Ok(Self { thread, pid, text })
    }

    /// Whether a frame of its stack is in a file whose name contains `file`.
    pub(crate) fn is_in(&self, file: &str) -> bool {
        self.text.lines().skip(1).any(|frame| {
            frame.rsplit_once(" (").is_some_and(|(before, last)| {
                // A file that was deleted is `(NAME (deleted))`.
                last.contains(file) || last.starts_with("deleted") && before.contains(file)
            })
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const TEXT: &str = "\
swapper     0/0  4.000000: PERF_RECORD_FORK(10:10):(9:9)
pilotlight 10/10  4.000001: PERF_RECORD_FORK(11:11):(10:10)
pilotlight 11/11  4.000002: PERF_RECORD_FORK(11:12):(11:11)
shard-0-1 11/12  4.000003: PERF_RECORD_COMM: shard-0-1:11/12
shard-0-1 11/12  5.000001: cpu-clock:
\tffffffff81e31688 __sys_recvfrom ([kernel.kallsyms])
\t          10a974 __libc_recv (/usr/lib/libc.so.6)

keeper 11/12  4.000002: PERF_RECORD_FORK(13:13):(11:12)
4 2/9 13/13  5.000002: cpu-clock:
\tffffffff81e31688 kvm_vcpu_ioctl ([kernel.kallsyms])
\t           78347 [unknown] (/memfd:pilotlight-vmm (deleted))

4 2/9 13/13  5.000003: cpu-clock: \n
pilotlight 10/10  5.000004: cpu-clock:
\t          10a974 __libc_recv (/usr/lib/libc.so.6)

shard-0-1 20/21  5.000005: cpu-clock:
\t          10a974 read (/usr/lib/libc.so.6)

4 22/22  5.000006: cpu-clock:
\t           78347 [unknown] (/memfd:pilotlight-vmm (deleted))

:-1 14/-1  5.000007: cpu-clock:
\t          10a974 read (/usr/lib/libc.so.6)
";

    #[test]
    fn a_sample_knows_its_process_and_files() {
        let recording = Recording::read(TEXT.as_bytes()).unwrap();
        let samples = &recording.samples;
        let found: Vec<_> = samples.iter().map(|one| (one.thread.as_str(), one.pid)).collect();
        let expected = [
            ("shard-0-1", 11),
            ("4 2/9", 13),
            ("4 2/9", 13),
            ("pilotlight", 10),
            ("shard-0-1", 20),
            ("4", 22),
            (":-1", 14),
        ];
        assert_eq!(found, expected);
        let is_vmm = samples.iter().map(|one| one.is_in("memfd:pilotlight-vmm"));
        assert_eq!(is_vmm.collect::<Vec<_>>(), [false, true, false, false, false, true, false]);
        assert_eq!(recording.forks, [(10, 9), (11, 10), (13, 11)]);
    }

    #[test]
    fn samples_are_passed_on_and_guests_get_a_frame() {
        let recording = Recording::read(TEXT.as_bytes()).unwrap();
        let (text, count) = recording.text_of(|pid| pid == 14);
        assert_eq!((count, text.len()), (1, TEXT.len() - TEXT.find(":-1 ").unwrap() + 1));
        let (text, count) = recording.text_of(|pid| pid == 13);
        let text = String::from_utf8(text).unwrap();
        assert_eq!((count, text.matches("guest ([guest])").count()), (2, 1));
    }

    #[test]
    fn other_text_is_refused() {
        assert!(Recording::read(&b"no samples here\n"[..]).is_err());
        assert!(Recording::read(&b""[..]).unwrap().samples.is_empty());
    }
}
