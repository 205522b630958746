//! Packages: the form in which a program reaches the store and the guest, a tar archive.
//!
//! What a client sends is hostile: it is taken apart, checked, and written anew, so that the same
//! tree always has the same digest, file data lies where the guest can map it, and no name leads
//! out of `/var/task`. What the guest could not run is refused here, where somebody reads why.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use abi::wire::{Malformed, Reader};

use crate::archive::Archive;
use crate::code::Code;

/// Files, folders and links a package may have.
pub const ENTRIES_MAX: usize = 65_536;
/// Bytes of a path in a package, as Linux' `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4_095;

/// What the bytes of a deploy are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One executable ELF file, to be stored under the name of the entry.
    Elf,
    /// A tar archive that has the entry.
    Tar,
}

/// Why something is no package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackageError {
    /// The entry cannot be run.
    Entry {
        /// Its name.
        entry: String,
        /// What about it.
        fault: ProgramFault,
    },
    /// The archive cannot be read.
    Archive {
        /// What about it.
        what: String,
    },
    /// A path leads out of the package, is too long, or is there twice.
    Path {
        /// It.
        path: String,
        /// What about it.
        what: &'static str,
    },
    /// More bytes than a package may have.
    TooLarge {
        /// As many it may have.
        bytes_max: u64,
    },
}

/// Why the guest cannot run a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramFault {
    /// The archive has no such file.
    Missing,
    /// It is there but is no file.
    NotAFile,
    /// None of its execute bits is set.
    NotExecutable,
    /// A script.
    Script,
    /// Not an ELF file at all.
    NotElf,
    /// An ELF file, cut short or senseless.
    Damaged,
    /// For 32-bit machines.
    Not64Bit,
    /// For another architecture.
    OtherMachine,
    /// A library or object file.
    NotAProgram,
    /// Needs a dynamic loader.
    Dynamic,
}

impl PackageError {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Entry { fault: ProgramFault::Script, .. } => Code::Script,
            Self::Entry { fault: ProgramFault::Dynamic, .. } => Code::DynamicProgram,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Entry { .. } | Self::Archive { .. } | Self::Path { .. } => Code::BadPackage,
        }
    }
}

enum Node {
    Folder { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Link { target: String },
}

/// Makes a package of what a client sent.
///
/// # Errors
/// [`PackageError`] says what to change.
pub fn make(
    form: Form,
    entry: &str,
    bytes: &[u8],
    bytes_max: u64,
) -> Result<Vec<u8>, PackageError> {
    let too_large = |length: usize| u64::try_from(length).is_ok_and(|length| length > bytes_max);
    if too_large(bytes.len()) {
        return Err(PackageError::TooLarge { bytes_max });
    }
    let mut tree = BTreeMap::new();
    match form {
        Form::Elf => {
            add(&mut tree, entry, Node::File { mode: 0o755, bytes: bytes.to_vec() })?;
        }
        Form::Tar => read_archive(bytes, &mut tree)?,
    }
    check_entry(&tree, entry)?;
    let package = write_archive(&tree)?;
    if too_large(package.len()) {
        return Err(PackageError::TooLarge { bytes_max });
    }
    Ok(package)
}

fn read_archive(bytes: &[u8], tree: &mut BTreeMap<String, Node>) -> Result<(), PackageError> {
    let unreadable =
        |error: std::io::Error| PackageError::Archive { what: format!("unreadable: {error}") };
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = entry.path_bytes().into_owned();
        let path = String::from_utf8(path).map_err(|error| PackageError::Path {
            path: String::from_utf8_lossy(error.as_bytes()).into_owned(),
            what: "is not UTF-8",
        })?;
        let path = path.strip_prefix("./").unwrap_or(&path).trim_end_matches('/');
        if path.is_empty() || path == "." {
            continue;
        }
        let mode = entry.header().mode().map_err(unreadable)? & 0o777;
        let kind = entry.header().entry_type();
        let node = if kind.is_dir() {
            Node::Folder { mode }
        } else if kind.is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(unreadable)?;
            Node::File { mode, bytes }
        } else if kind.is_symlink() {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            let target = String::from_utf8(target).unwrap_or_default();
            if target.is_empty() || target.len() > PATH_BYTES_MAX {
                let what = "is a link to a name that is empty, too long or not UTF-8";
                return Err(PackageError::Path { path: path.to_owned(), what });
            }
            Node::Link { target }
        } else {
            let what = "is neither file, folder nor symbolic link";
            return Err(PackageError::Path { path: path.to_owned(), what });
        };
        add(tree, path, node)?;
    }
    Ok(())
}

/// Puts a node into the tree, and the folders above it that are not there yet.
fn add(tree: &mut BTreeMap<String, Node>, path: &str, node: Node) -> Result<(), PackageError> {
    let bad = |what| Err(PackageError::Path { path: path.to_owned(), what });
    if path.len() > PATH_BYTES_MAX || path.split('/').any(|part| part.len() > 255) {
        return bad("is too long");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return bad("leads out of the package or has an empty part");
    }
    if path.contains(['\0', '\n']) {
        return bad("has a character that cannot be stored");
    }
    for (end, _) in path.match_indices('/') {
        let above = &path[..end];
        match tree.get(above) {
            Some(Node::Folder { .. }) => {}
            Some(_) => return bad("lies below something that is no folder"),
            None => {
                tree.insert(above.to_owned(), Node::Folder { mode: 0o755 });
            }
        }
    }
    match (tree.get_mut(path), node) {
        // A folder may be named after what is in it.
        (Some(Node::Folder { mode }), Node::Folder { mode: given }) => *mode = given,
        (Some(_), _) => return bad("is there twice"),
        (None, node) => {
            tree.insert(path.to_owned(), node);
        }
    }
    if tree.len() > ENTRIES_MAX {
        return bad("is one too many: a package has at most 65536 files, folders and links");
    }
    Ok(())
}

fn check_entry(tree: &BTreeMap<String, Node>, entry: &str) -> Result<(), PackageError> {
    let fault = match tree.get(entry) {
        None => Some(ProgramFault::Missing),
        Some(Node::Folder { .. }) => Some(ProgramFault::NotAFile),
        // A link may lead to a program of the root image, which is not known here.
        Some(Node::Link { .. }) => None,
        Some(Node::File { mode, .. }) if mode & 0o111 == 0 => Some(ProgramFault::NotExecutable),
        Some(Node::File { bytes, .. }) => check_program(bytes).err(),
    };
    match fault {
        Some(fault) => Err(PackageError::Entry { entry: entry.to_owned(), fault }),
        None => Ok(()),
    }
}

fn write_archive(tree: &BTreeMap<String, Node>) -> Result<Vec<u8>, PackageError> {
    let mut archive = Archive::new();
    for (path, node) in tree {
        let added = match node {
            Node::Folder { mode } => archive.folder(path, *mode),
            Node::File { mode, bytes } => archive.file(path, *mode, bytes),
            Node::Link { target } => archive.link(path, target),
        };
        added.map_err(|unfit| PackageError::Path { path: unfit.path, what: "cannot be stored" })?;
    }
    Ok(archive.finish())
}

const PROGRAM_HEADER_BYTES: u16 = 56;
const MACHINE_X86_64: u16 = 62;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const SEGMENT_INTERPRETER: u32 = 3;

/// Whether the guest can run a program: a static ELF file for x86-64 (System V ABI, chapters 4
/// and 5).
///
/// # Errors
/// [`ProgramFault`] says why not.
pub fn check_program(bytes: &[u8]) -> Result<(), ProgramFault> {
    if bytes.starts_with(b"#!") {
        return Err(ProgramFault::Script);
    }
    if !bytes.starts_with(b"\x7fELF") {
        return Err(ProgramFault::NotElf);
    }
    let is_dynamic = read_header(bytes).map_err(|_| ProgramFault::Damaged)??;
    if is_dynamic { Err(ProgramFault::Dynamic) } else { Ok(()) }
}

/// Whether the program names an interpreter.
fn read_header(bytes: &[u8]) -> Result<Result<bool, ProgramFault>, Malformed> {
    let mut reader = Reader::new(bytes);
    let identity: [u8; 16] = reader.array()?;
    // Class and byte order.
    if identity[4] != 2 || identity[5] != 1 {
        return Ok(Err(ProgramFault::Not64Bit));
    }
    let (kind, machine) = (reader.u16()?, reader.u16()?);
    if machine != MACHINE_X86_64 {
        return Ok(Err(ProgramFault::OtherMachine));
    }
    if kind != TYPE_EXECUTABLE && kind != TYPE_SHARED {
        return Ok(Err(ProgramFault::NotAProgram));
    }
    let (_version, entry, headers) = (reader.u32()?, reader.u64()?, reader.u64()?);
    let (_sections, _flags, _size) = (reader.u64()?, reader.u32()?, reader.u16()?);
    let (header_bytes, count) = (reader.u16()?, reader.u16()?);
    if header_bytes != PROGRAM_HEADER_BYTES || count == 0 {
        return Ok(Err(ProgramFault::NotAProgram));
    }
    let start = usize::try_from(headers).map_err(|_| Malformed)?;
    let mut headers = Reader::new(bytes.get(start..).ok_or(Malformed)?);
    let mut is_dynamic = false;
    for _ in 0..count {
        let mut header = Reader::new(headers.bytes(usize::from(PROGRAM_HEADER_BYTES))?);
        is_dynamic |= header.u32()? == SEGMENT_INTERPRETER;
    }
    // A shared library has the type of a position-independent program but nowhere to start.
    Ok(if entry == 0 { Err(ProgramFault::NotAProgram) } else { Ok(is_dynamic) })
}

impl fmt::Display for PackageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry { entry, fault } => write!(formatter, "{entry:?} {fault}"),
            Self::Archive { what } => write!(formatter, "the archive is {what}"),
            Self::Path { path, what } => write!(formatter, "{path:?} in the package {what}"),
            Self::TooLarge { bytes_max } => write!(
                formatter,
                "the package has more bytes than it may have (requests.package_bytes_max = \
                 {bytes_max}); leave files out"
            ),
        }
    }
}

impl fmt::Display for ProgramFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Missing => "is not in the package; a directory needs an executable `bootstrap`",
            Self::NotAFile => "is a folder, not a program",
            Self::NotExecutable => "is not executable; `chmod +x` it and deploy again",
            Self::Script => {
                "is a script; deploy the interpreter as the program, with the script in a directory \
                 beside it and its path as an argument"
            }
            Self::NotElf => "is not an ELF program",
            Self::Damaged => "is an ELF file that is cut short or damaged",
            Self::Not64Bit => "is not a 64-bit program; build it for x86_64",
            Self::OtherMachine => "is for another machine; build it for x86_64",
            Self::NotAProgram => "is an ELF file, but a library or object file",
            Self::Dynamic => {
                "needs a dynamic loader; link it statically (Rust: --target \
                 x86_64-unknown-linux-musl, C: -static, Go: CGO_ENABLED=0)"
            }
        })
    }
}

impl std::error::Error for PackageError {}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest program the checks let through, followed by `tail`.
    pub(crate) fn program(tail: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        for half in [TYPE_EXECUTABLE, MACHINE_X86_64] {
            bytes.extend_from_slice(&half.to_le_bytes());
        }
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        for word in [0x40_0000_u64, 64, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        for half in [64_u16, PROGRAM_HEADER_BYTES, 1, 0, 0, 0] {
            bytes.extend_from_slice(&half.to_le_bytes());
        }
        bytes.resize(64 + 56, 0);
        bytes[64] = 1;
        bytes.extend_from_slice(tail);
        bytes
    }

    fn with(place: usize, byte: u8) -> Vec<u8> {
        let mut bytes = program(b"");
        bytes[place] = byte;
        bytes
    }

    fn tar_of(entries: &[(&str, u8, u32, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, mode, data) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(tar::EntryType::new(*kind));
            header.set_mode(*mode);
            header.set_mtime(12345);
            let data = if *kind == b'2' {
                header.set_link_name_literal(data).unwrap();
                b"".as_slice()
            } else {
                data
            };
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn fault_of(bytes: &[u8]) -> ProgramFault {
        check_program(bytes).unwrap_err()
    }

    #[test]
    fn programs_are_told_from_what_is_none() {
        assert_eq!(check_program(&program(b"")), Ok(()));
        assert_eq!(fault_of(b"#!/bin/sh\n"), ProgramFault::Script);
        assert_eq!(fault_of(b"hello"), ProgramFault::NotElf);
        assert_eq!(fault_of(&program(b"")[..70]), ProgramFault::Damaged);
        assert_eq!(fault_of(&with(4, 1)), ProgramFault::Not64Bit);
        assert_eq!(fault_of(&with(18, 183)), ProgramFault::OtherMachine);
        assert_eq!(fault_of(&with(16, 1)), ProgramFault::NotAProgram);
        assert_eq!(fault_of(&with(64, 3)), ProgramFault::Dynamic);
        let advice = ProgramFault::Dynamic.to_string();
        assert!(advice.contains("statically"), "{advice}");
    }

    #[test]
    fn the_hosts_own_programs_are_judged_rightly() {
        // The test runner itself is a dynamic program of this machine.
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(fault_of(&own), ProgramFault::Dynamic);
    }

    #[test]
    fn an_elf_file_becomes_a_package_of_one() {
        let package = make(Form::Elf, "tool", &program(&[9; 9000]), 1 << 20).unwrap();
        let mut archive = tar::Archive::new(package.as_slice());
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path_bytes().as_ref(), b"tool");
        assert!(entry.raw_file_position().is_multiple_of(4096), "can be mapped");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, program(&[9; 9000]));
        assert!(entries.next().is_none());
    }

    #[test]
    fn the_same_tree_gives_the_same_package() {
        let elf = program(b"");
        let one = tar_of(&[("bootstrap", b'0', 0o755, &elf), ("d/x", b'0', 0o644, b"x")]);
        let other = tar_of(&[
            ("./", b'5', 0o700, b""),
            ("./d/", b'5', 0o755, b""),
            ("./d/x", b'0', 0o644, b"x"),
            ("./bootstrap", b'0', 0o755, &elf),
        ]);
        let make = |tar: &[u8]| make(Form::Tar, "bootstrap", tar, 1 << 20).unwrap();
        assert_ne!(one, other);
        assert_eq!(make(&one), make(&other));
    }

    #[test]
    fn paths_that_lead_astray_are_refused() {
        let elf = program(b"");
        for path in ["../x", "a/../../x", "/etc/x", "a//b", "a/./b"] {
            let tar = tar_of(&[("bootstrap", b'0', 0o755, &elf), (path, b'0', 0o644, b"x")]);
            let error = make(Form::Tar, "bootstrap", &tar, 1 << 20).unwrap_err();
            assert!(matches!(error, PackageError::Path { .. }), "{path}: {error}");
        }
        let twice = tar_of(&[("a", b'0', 0o644, b"1"), ("a", b'0', 0o644, b"2")]);
        assert!(make(Form::Tar, "a", &twice, 1 << 20).unwrap_err().to_string().contains("twice"));
        let below = tar_of(&[("a", b'2', 0o777, b"/etc"), ("a/b", b'0', 0o644, b"2")]);
        assert!(make(Form::Tar, "a", &below, 1 << 20).is_err());
        let device = tar_of(&[("a", b'3', 0o644, b"")]);
        assert!(make(Form::Tar, "a", &device, 1 << 20).is_err());
    }

    #[test]
    fn an_entry_that_cannot_run_is_refused() {
        let tar = tar_of(&[
            ("plain", b'0', 0o644, &program(b"")),
            ("folder/in", b'0', 0o755, b""),
            ("link", b'2', 0o777, b"/bin/busybox"),
        ]);
        let fault = |entry| match make(Form::Tar, entry, &tar, 1 << 20) {
            Err(PackageError::Entry { fault, .. }) => Some(fault),
            _ => None,
        };
        assert_eq!(fault("plain"), Some(ProgramFault::NotExecutable));
        assert_eq!(fault("folder"), Some(ProgramFault::NotAFile));
        assert_eq!(fault("nothing"), Some(ProgramFault::Missing));
        assert_eq!(fault("link"), None, "may lead into the root image");
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let large = program(&[1; 10_000]);
        let error = make(Form::Elf, "tool", &large, 10_000).unwrap_err();
        assert_eq!(error, PackageError::TooLarge { bytes_max: 10_000 });
        // The archive around it counts too.
        let exact = large.len() as u64;
        assert!(make(Form::Elf, "tool", &large, exact).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_reach_a_panic(bytes: Vec<u8>, head: bool) {
            let mut whole = if head { program(b"")[..64].to_vec() } else { Vec::new() };
            whole.extend_from_slice(&bytes);
            let _ = check_program(&whole);
            let _ = make(Form::Tar, "bootstrap", &whole, 1 << 20);
            let _ = make(Form::Elf, "bootstrap", &whole, 1 << 20);
        }

        #[test]
        fn no_change_to_an_archive_reaches_a_panic(
            place in 0_usize..4096,
            byte: u8,
            cut in 0_usize..4096,
        ) {
            let tar = tar_of(&[
                ("bootstrap", b'0', 0o755, &program(b"")),
                ("d/", b'5', 0o755, b""),
                ("d/l", b'2', 0o755, b"../bootstrap"),
            ]);
            let mut tar = tar;
            let length = tar.len();
            tar[place % length] = byte;
            tar.truncate(length - cut % length);
            let _ = make(Form::Tar, "bootstrap", &tar, 1 << 20);
        }

        #[test]
        fn any_tree_reads_back(
            files in proptest::collection::btree_map(
                "[a-z]{1,3}(/[a-z.]{4,120}){0,2}",
                proptest::collection::vec(proptest::num::u8::ANY, 0..6000),
                0..6,
            ),
        ) {
            let mut tree = BTreeMap::new();
            let mut expected = BTreeMap::new();
            for (path, bytes) in files {
                let node = Node::File { mode: 0o640, bytes: bytes.clone() };
                if add(&mut tree, &path, node).is_ok() {
                    expected.insert(path, bytes);
                }
            }
            let package = write_archive(&tree).unwrap();
            let mut again = BTreeMap::new();
            read_archive(&package, &mut again).unwrap();
            let mut found = BTreeMap::new();
            for (path, node) in again {
                if let Node::File { mode, bytes } = node {
                    proptest::prop_assert_eq!(mode, 0o640);
                    found.insert(path, bytes);
                }
            }
            proptest::prop_assert_eq!(found, expected);
        }
    }
}
