//! Packages: the node takes a client's archive apart and writes it anew. Whatever the client sent,
//! the new archive is within its limit, is its own package, and shows the guest the files that
//! another reader of archives finds in it. The guest's own reader faces any bytes, too.

use std::io::Read;

use guest_agent::filesystem::Image;
use guest_agent::filesystem::image::{Archive, Kind, NodeId};
use pilotlight::package::{self, Form};

const BLOCK: usize = 512;
/// Where a header has its checksum.
const SUM: std::ops::Range<usize> = 148..156;
/// Bytes a package may have here.
const BYTES_MAX: u64 = 1 << 20;
/// Folders in one another that are walked.
const DEPTH_MAX: usize = 64;

/// `data` is what a client sent; then that with checksums, because no mutation finds those.
pub fn check(data: &[u8]) -> bool {
    let mut is_package = make(Form::Elf, data);
    for bytes in [data, &mended(data)] {
        is_package |= make(Form::Tar, bytes);
        if let Ok(image) = Image::from_tar(Archive::Owned(bytes.to_vec()), 1) {
            let held = walk(&image, NodeId::ROOT, DEPTH_MAX);
            assert!(held.files <= bytes.len() / BLOCK, "a file has a header");
        }
    }
    is_package
}

fn make(form: Form, bytes: &[u8]) -> bool {
    let Ok(made) = package::make(form, "bootstrap", bytes, BYTES_MAX) else { return false };
    assert!(made.len() as u64 <= BYTES_MAX && made.len().is_multiple_of(4096));
    let again = package::make(Form::Tar, "bootstrap", &made, BYTES_MAX);
    assert!(again.is_ok_and(|again| again == made), "a package is the package of itself");
    let image = Image::from_tar(Archive::Owned(made.clone()), 1);
    assert!(image.is_ok(), "the guest reads what the node writes: {:?}", image.err());
    let Ok(image) = image else { return false };
    let mut archive = tar::Archive::new(made.as_slice());
    let entries = archive.entries();
    assert!(entries.is_ok(), "another reader reads it too");
    for entry in entries.into_iter().flatten() {
        assert!(entry.is_ok(), "every entry of it");
        entry.into_iter().for_each(|entry| same(&image, entry));
    }
    true
}

/// The guest shows this entry as the other reader does.
fn same(image: &Image, mut entry: tar::Entry<'_, &[u8]>) {
    let path = entry.path_bytes().into_owned();
    let mut node = Some(NodeId::ROOT);
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        node = node.and_then(|node| image.lookup(node, part));
    }
    let path = String::from_utf8_lossy(&path);
    assert!(node.is_some(), "{path:?} is there");
    let node = image.node(node.unwrap_or(NodeId::ROOT));
    assert_eq!(Some(node.permissions), entry.header().mode().ok(), "{path:?}");
    match &node.kind {
        Kind::Directory(_) => assert!(entry.header().entry_type().is_dir(), "{path:?}"),
        Kind::File(data) => {
            let mut bytes = Vec::new();
            assert!(entry.read_to_end(&mut bytes).is_ok());
            assert_eq!(image.bytes(data), bytes, "{path:?}");
            let start = usize::try_from(entry.raw_file_position()).unwrap_or(1);
            assert!(bytes.len() <= 4096 || start.is_multiple_of(4096), "{path:?} can be mapped");
        }
        Kind::Symlink(target) => {
            assert_eq!(entry.link_name_bytes().as_deref(), Some(&**target), "{path:?}");
        }
        Kind::Device(_) | Kind::Processes => panic!("{path:?}: nobody asked for a device"),
    }
}

struct Held {
    files: usize,
}

/// Visits every node: names are in order and lead somewhere, ranges of files lie in the archive.
fn walk(image: &Image, node: NodeId, depth: usize) -> Held {
    let mut held = Held { files: 0 };
    let entries = image.entries(node);
    assert!(entries.is_sorted_by(|one, other| one.0 < other.0), "each name once");
    for (name, id) in entries {
        assert!(!name.is_empty() && !name.contains(&b'/') && name.as_ref() != b"..");
        match &image.node(*id).kind {
            Kind::Directory(_) if depth > 0 => held.files += walk(image, *id, depth - 1).files,
            Kind::File(data) => {
                held.files += 1;
                if let guest_agent::filesystem::image::Data::Archive { bytes, .. } = data {
                    assert_eq!(image.bytes(data).len(), *bytes, "its bytes are all there");
                }
            }
            Kind::Directory(_) | Kind::Symlink(_) | Kind::Device(_) | Kind::Processes => {}
        }
    }
    held
}

/// The archive with the right checksum in every block that may be a header.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(data.len().next_multiple_of(BLOCK), 0);
    for block in bytes.chunks_exact_mut(BLOCK).filter(|block| block.iter().any(|byte| *byte != 0)) {
        block[SUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}
