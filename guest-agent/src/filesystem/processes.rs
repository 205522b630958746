//! `/proc`: what programs ask about themselves and the machine, made up while it is read.
//!
//! Only the calling process is shown; other containers' processes never are.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use abi::layout::PAGE_BYTES;

use super::{Caller, Tree};
use crate::file::stat::kind;

/// `uname -r`.
pub const RELEASE: &str = "6.12.0-pilotlight";
/// `uname -n`.
pub const HOST_NAME: &str = "pilotlight";
/// `uname -v`.
pub const VERSION: &str = "#1 SMP";

/// A file or directory of `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `/proc`.
    Root,
    /// `/proc/<process>`.
    Process,
    /// `/proc/<process>/task`.
    Tasks,
    /// `/proc/<process>/fd`.
    Descriptors,
    /// `/proc/<process>/fd/<number>`.
    Descriptor(i32),
    /// A directory of settings.
    Settings(Settings),
    /// A symbolic link.
    Link(Link),
    /// A file.
    Text(Text),
}

/// Directories below `/proc/sys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// `/proc/sys`.
    All,
    /// `/proc/sys/kernel`.
    Kernel,
    /// `/proc/sys/kernel/random`.
    Random,
    /// `/proc/sys/vm`.
    Memory,
}

/// Symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// `/proc/self`.
    Own,
    /// `/proc/thread-self`.
    OwnTask,
    /// `/proc/mounts`.
    Mounts,
    /// The file the process executes.
    Executable,
    /// Its current directory.
    CurrentDirectory,
    /// Its root directory.
    Root,
}

/// Files by what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the file in /proc")]
pub enum Text {
    CommandLine,
    Comm,
    Maps,
    Mounts,
    Stat,
    Statm,
    Status,
    Cgroup,
    CpuInfo,
    LoadAverage,
    MemInfo,
    SystemStat,
    Uptime,
    Version,
    HostName,
    OsRelease,
    OsType,
    PidMax,
    BootId,
    Uuid,
    Overcommit,
}

type Child = (&'static [u8], Entry);

const ROOT: [Child; 10] = [
    (b"cpuinfo", Entry::Text(Text::CpuInfo)),
    (b"loadavg", Entry::Text(Text::LoadAverage)),
    (b"meminfo", Entry::Text(Text::MemInfo)),
    (b"mounts", Entry::Link(Link::Mounts)),
    (b"self", Entry::Link(Link::Own)),
    (b"stat", Entry::Text(Text::SystemStat)),
    (b"sys", Entry::Settings(Settings::All)),
    (b"thread-self", Entry::Link(Link::OwnTask)),
    (b"uptime", Entry::Text(Text::Uptime)),
    (b"version", Entry::Text(Text::Version)),
];
const PROCESS: [Child; 13] = [
    (b"cgroup", Entry::Text(Text::Cgroup)),
    (b"cmdline", Entry::Text(Text::CommandLine)),
    (b"comm", Entry::Text(Text::Comm)),
    (b"cwd", Entry::Link(Link::CurrentDirectory)),
    (b"exe", Entry::Link(Link::Executable)),
    (b"fd", Entry::Descriptors),
    (b"maps", Entry::Text(Text::Maps)),
    (b"mounts", Entry::Text(Text::Mounts)),
    (b"root", Entry::Link(Link::Root)),
    (b"stat", Entry::Text(Text::Stat)),
    (b"statm", Entry::Text(Text::Statm)),
    (b"status", Entry::Text(Text::Status)),
    (b"task", Entry::Tasks),
];
const SETTINGS: [Child; 2] =
    [(b"kernel", Entry::Settings(Settings::Kernel)), (b"vm", Entry::Settings(Settings::Memory))];
const KERNEL: [Child; 5] = [
    (b"hostname", Entry::Text(Text::HostName)),
    (b"osrelease", Entry::Text(Text::OsRelease)),
    (b"ostype", Entry::Text(Text::OsType)),
    (b"pid_max", Entry::Text(Text::PidMax)),
    (b"random", Entry::Settings(Settings::Random)),
];
const RANDOM: [Child; 2] =
    [(b"boot_id", Entry::Text(Text::BootId)), (b"uuid", Entry::Text(Text::Uuid))];
const MEMORY: [Child; 1] = [(b"overcommit_memory", Entry::Text(Text::Overcommit))];

impl Entry {
    /// Its kind as a `DT_*` number.
    #[must_use]
    pub fn kind(self) -> u8 {
        match self {
            Self::Root | Self::Process | Self::Tasks | Self::Descriptors | Self::Settings(_) => {
                kind::DIRECTORY
            }
            Self::Descriptor(_) | Self::Link(_) => kind::SYMLINK,
            Self::Text(_) => kind::REGULAR,
        }
    }

    /// A number no other entry has.
    #[must_use]
    pub fn inode_number(self) -> u64 {
        match self {
            Self::Root => 1,
            Self::Process => 2,
            Self::Tasks => 3,
            Self::Descriptors => 4,
            Self::Settings(settings) => 8 + settings as u64,
            Self::Link(link) => 16 + link as u64,
            Self::Text(text) => 32 + text as u64,
            Self::Descriptor(number) => 1024 + u64::from(number.unsigned_abs()),
        }
    }

    /// The directory it lies in; `None` for `/proc` itself.
    #[must_use]
    pub fn parent(self) -> Option<Self> {
        match self {
            Self::Root => None,
            Self::Tasks | Self::Descriptors => Some(Self::Process),
            Self::Descriptor(_) => Some(Self::Descriptors),
            Self::Settings(Settings::Kernel | Settings::Memory) => {
                Some(Self::Settings(Settings::All))
            }
            Self::Settings(Settings::Random) => Some(Self::Settings(Settings::Kernel)),
            Self::Process | Self::Settings(Settings::All) | Self::Link(_) | Self::Text(_) => {
                Some(Self::Root)
            }
        }
    }

    fn fixed_children(self) -> &'static [Child] {
        match self {
            Self::Root => &ROOT,
            Self::Process => &PROCESS,
            Self::Settings(Settings::All) => &SETTINGS,
            Self::Settings(Settings::Kernel) => &KERNEL,
            Self::Settings(Settings::Random) => &RANDOM,
            Self::Settings(Settings::Memory) => &MEMORY,
            Self::Tasks
            | Self::Descriptors
            | Self::Descriptor(_)
            | Self::Link(_)
            | Self::Text(_) => &[],
        }
    }

    /// The entry called `name` in this directory.
    #[must_use]
    pub fn lookup(self, name: &[u8], caller: Option<&Caller<'_>>) -> Option<Self> {
        let fixed = self.fixed_children().iter().find(|(child, _)| *child == name);
        if let Some((_, entry)) = fixed {
            return Some(*entry);
        }
        let caller = caller?;
        let number = number(name)?;
        match self {
            Self::Root => (number == caller.process).then_some(Self::Process),
            Self::Tasks => (number == caller.task).then_some(Self::Process),
            Self::Descriptors => {
                let number = i32::try_from(number).ok()?;
                caller.descriptors.get(number).ok().map(|_| Self::Descriptor(number))
            }
            Self::Process
            | Self::Descriptor(_)
            | Self::Settings(_)
            | Self::Link(_)
            | Self::Text(_) => None,
        }
    }

    /// Shows name and entry of everything in this directory.
    pub fn list(self, caller: &Caller<'_>, visit: &mut dyn FnMut(&[u8], Self)) {
        for (name, entry) in self.fixed_children() {
            visit(name, *entry);
        }
        match self {
            Self::Root => visit(format!("{}", caller.process).as_bytes(), Self::Process),
            Self::Tasks => visit(format!("{}", caller.task).as_bytes(), Self::Process),
            Self::Descriptors => {
                for number in caller.descriptors.numbers() {
                    visit(format!("{number}").as_bytes(), Self::Descriptor(number));
                }
            }
            Self::Process
            | Self::Descriptor(_)
            | Self::Settings(_)
            | Self::Link(_)
            | Self::Text(_) => {}
        }
    }
}

fn number(name: &[u8]) -> Option<u32> {
    let is_plain = name.iter().all(u8::is_ascii_digit) && (name == b"0" || !name.starts_with(b"0"));
    core::str::from_utf8(name).ok().filter(|_| is_plain)?.parse().ok()
}

impl Text {
    /// What the file says now.
    #[must_use]
    pub fn write(self, caller: &Caller<'_>, tree: &Tree) -> Vec<u8> {
        let text = match self {
            Self::CommandLine => return caller.command_line.to_vec(),
            Self::Comm => return [caller.name, b"\n"].concat(),
            Self::Maps => {
                let mut text = Vec::new();
                (caller.memory)(&mut text);
                return text;
            }
            Self::Stat => return process_stat(caller),
            Self::Status => return status(caller, tree),
            Self::Statm => statm(tree),
            Self::Mounts => String::from(
                "overlay / overlay rw 0 0\npackage /var/task overlay ro 0 0\nproc /proc proc rw 0 0\n",
            ),
            Self::Cgroup => String::from("0::/\n"),
            Self::CpuInfo => cpu_info(),
            Self::LoadAverage => format!("0.00 0.00 0.00 1/1 {}\n", caller.process),
            Self::MemInfo => memory_info(tree),
            Self::SystemStat => system_stat(),
            Self::Uptime => uptime(),
            Self::Version => format!("Linux version {RELEASE} (pilotlight) {VERSION}\n"),
            Self::HostName => format!("{HOST_NAME}\n"),
            Self::OsRelease => format!("{RELEASE}\n"),
            Self::OsType => String::from("Linux\n"),
            Self::PidMax => String::from("32768\n"),
            Self::BootId => uuid(tree.boot_id()),
            Self::Uuid => {
                let mut bytes = [0; 16];
                tree.world().random(&mut bytes);
                uuid(bytes)
            }
            Self::Overcommit => String::from("0\n"),
        };
        text.into_bytes()
    }
}

/// A version-4 UUID (RFC 9562, section 5.4) of random bytes.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(37);
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    text
}

fn cpu_info() -> String {
    String::from(
        "processor\t: 0\nvendor_id\t: Pilotlight\nmodel name\t: Pilotlight virtual CPU\n\
         physical id\t: 0\nsiblings\t: 1\ncore id\t\t: 0\ncpu cores\t: 1\n\n",
    )
}

fn memory_info(tree: &Tree) -> String {
    let total = tree.account().limit_bytes() / 1024;
    let free = total.saturating_sub(tree.account().used_bytes() / 1024);
    format!(
        "MemTotal: {total:>15} kB\nMemFree: {free:>16} kB\nMemAvailable: {free:>11} kB\n\
         Buffers: {zero:>16} kB\nCached: {zero:>17} kB\nSwapTotal: {zero:>14} kB\n\
         SwapFree: {zero:>15} kB\n",
        zero = 0,
    )
}

fn uptime() -> String {
    let hundredths = machine::clock::monotonic_nanos() / 10_000_000;
    format!("{}.{:02} 0.00\n", hundredths / 100, hundredths % 100)
}

fn system_stat() -> String {
    let now = machine::clock::realtime_nanos();
    let seconds = now.saturating_sub(machine::clock::monotonic_nanos()) / 1_000_000_000;
    format!(
        "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\nintr 0\nctxt 0\nbtime {seconds}\n\
         processes 1\nprocs_running 1\nprocs_blocked 0\n",
    )
}

fn statm(tree: &Tree) -> String {
    let pages = tree.account().used_bytes() / PAGE_BYTES;
    format!("{pages} {pages} 0 0 0 {pages} 0\n")
}

fn process_stat(caller: &Caller<'_>) -> Vec<u8> {
    let Caller { process, parent, .. } = caller;
    let mut text = format!("{process} (").into_bytes();
    text.extend_from_slice(caller.name);
    text.extend_from_slice(format!(") R {parent} {process} {process}").as_bytes());
    // Fields 7 to 52 of proc_pid_stat(5): nothing is counted.
    text.extend_from_slice(" 0".repeat(46).as_bytes());
    text.push(b'\n');
    text
}

fn status(caller: &Caller<'_>, tree: &Tree) -> Vec<u8> {
    let kilobytes = tree.account().used_bytes() / 1024;
    let mut text = b"Name:\t".to_vec();
    text.extend_from_slice(caller.name);
    let rest = format!(
        "\nState:\tR (running)\nTgid:\t{process}\nPid:\t{task}\nPPid:\t{parent}\n\
         Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nVmSize:\t{kilobytes} kB\nVmRSS:\t{kilobytes} kB\n\
         Threads:\t1\nCpus_allowed:\t1\nCpus_allowed_list:\t0\n",
        process = caller.process,
        task = caller.task,
        parent = caller.parent,
    );
    text.extend_from_slice(rest.as_bytes());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_their_parents_fit() {
        let directories = [
            Entry::Root,
            Entry::Process,
            Entry::Settings(Settings::All),
            Entry::Settings(Settings::Kernel),
            Entry::Settings(Settings::Random),
            Entry::Settings(Settings::Memory),
        ];
        for directory in directories {
            let names: Vec<_> = directory.fixed_children().iter().map(|(name, _)| *name).collect();
            assert!(names.is_sorted(), "{directory:?}");
            for (name, entry) in directory.fixed_children() {
                assert_eq!(directory.lookup(name, None), Some(*entry));
                if entry.kind() == kind::DIRECTORY && *entry != Entry::Process {
                    assert_eq!(entry.parent(), Some(directory));
                }
            }
        }
    }

    #[test]
    fn only_plain_numbers_are_processes() {
        assert_eq!((number(b"12"), number(b"0")), (Some(12), Some(0)));
        assert_eq!((number(b"012"), number(b"+1"), number(b"1x")), (None, None, None));
        assert_eq!((number(b"99999999999"), number(b"")), (None, None));
    }

    #[test]
    fn a_uuid_carries_its_version() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff\n");
    }
}
