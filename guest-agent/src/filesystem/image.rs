//! A read-only tree, made once from an archive and shared by the containers that show it.
//!
//! File data stays where it is: in the image window, or in the archive's bytes if it came through
//! a ring. Nodes are numbered; node 0 is the root.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use abi::layout::{PAGE_BYTES, WINDOW_GPA};

use super::tar::{self, TarError};
use crate::file::device::Device;

/// Most files and directories an image may have.
pub const NODES_MAX: usize = 200_000;

/// Position of a node in its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// The root directory.
    pub const ROOT: Self = Self(0);

    /// The number itself.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// The bytes an image's files lie in.
#[derive(Debug)]
pub enum Archive {
    /// In the image window, at this offset.
    Window {
        /// Offset of the first byte.
        offset: u64,
        /// All of it.
        bytes: &'static [u8],
    },
    /// In memory of the kernel.
    Owned(Vec<u8>),
}

impl Archive {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Window { bytes, .. } => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Where a file's bytes are.
#[derive(Clone, Debug)]
pub enum Data {
    /// In the archive; the range was checked against it.
    Archive {
        /// First byte.
        start: usize,
        /// Length.
        bytes: usize,
    },
    /// Here.
    Own(Rc<[u8]>),
}

/// What a node is.
#[derive(Debug)]
pub enum Kind {
    /// Names and nodes, sorted by name.
    Directory(Vec<(Box<[u8]>, NodeId)>),
    /// A regular file.
    File(Data),
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A device.
    Device(Device),
    /// The place of `/proc`.
    Processes,
}

/// A file or directory.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Mode without the type.
    pub permissions: u32,
    /// Names it has.
    pub links: u32,
    /// Last change, nanoseconds since the Unix epoch.
    pub modified_nanos: u64,
}

/// Why an archive is not an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The archive cannot be read.
    Tar(TarError),
    /// A path goes through something that is not a directory, or out of the image.
    BadPath,
    /// A hard link to a file that is not there.
    BadLink,
    /// More files than an image may have.
    TooMany,
}

/// The tree.
#[derive(Debug)]
pub struct Image {
    archive: Archive,
    nodes: Vec<Node>,
    serial: u64,
}

impl Image {
    /// The tree of a tar archive. `serial` tells images apart in file numbers.
    ///
    /// # Errors
    /// [`ImageError`]: nothing of a bad archive is shown.
    pub fn from_tar(archive: Archive, serial: u64) -> Result<Self, ImageError> {
        let mut builder = Builder::new();
        tar::read(archive.bytes(), &mut builder)?;
        Ok(builder.finish(archive, serial))
    }

    /// The node with this number.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        // Numbers are only made by the builder of this image.
        &self.nodes[id.0 as usize]
    }

    /// File number of a node, unique among all images.
    #[must_use]
    pub fn inode_number(&self, id: NodeId) -> u64 {
        (self.serial << 32) | (u64::from(id.0) + 1)
    }

    /// The node called `name` in directory `id`.
    #[must_use]
    pub fn lookup(&self, id: NodeId, name: &[u8]) -> Option<NodeId> {
        let entries = self.entries(id);
        let place = entries.binary_search_by(|(entry, _)| (**entry).cmp(name)).ok()?;
        Some(entries[place].1)
    }

    /// Names and nodes in directory `id`; empty for anything else.
    #[must_use]
    pub fn entries(&self, id: NodeId) -> &[(Box<[u8]>, NodeId)] {
        if let Kind::Directory(entries) = &self.node(id).kind { entries } else { &[] }
    }

    /// A file's bytes.
    #[must_use]
    pub fn bytes<'a>(&'a self, data: &'a Data) -> &'a [u8] {
        match data {
            Data::Archive { start, bytes } => {
                self.archive.bytes().get(*start..*start + *bytes).unwrap_or_default()
            }
            Data::Own(bytes) => bytes,
        }
    }

    /// Guest-physical address of the page at `offset` of a file, when it is whole, page aligned
    /// and in the window.
    #[must_use]
    pub fn window_page(&self, data: &Data, offset: u64) -> Option<u64> {
        let (Archive::Window { offset: base, .. }, Data::Archive { start, bytes }) =
            (&self.archive, data)
        else {
            return None;
        };
        let end = offset.checked_add(PAGE_BYTES)?;
        let address = WINDOW_GPA + base + *start as u64 + offset;
        (end <= *bytes as u64 && address.is_multiple_of(PAGE_BYTES)).then_some(address)
    }
}

/// Makes an image, one path after another. Missing parents are made on the way.
#[derive(Debug)]
pub struct Builder {
    nodes: Vec<Node>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// Only a root directory.
    #[must_use]
    pub fn new() -> Self {
        Self { nodes: alloc::vec![directory(0o755, 0)] }
    }

    /// A copy of the tree of `image` to add to; its files stay in the image's archive.
    #[must_use]
    pub fn from_image(image: Image) -> (Self, Archive) {
        (Self { nodes: image.nodes }, image.archive)
    }

    /// The image, whose [`Data::Archive`] ranges lie in `archive`.
    #[must_use]
    pub fn finish(self, archive: Archive, serial: u64) -> Image {
        Image { archive, nodes: self.nodes, serial }
    }

    /// The node at `path`; links are not followed.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<NodeId> {
        let mut node = NodeId::ROOT;
        for name in components(path).ok()? {
            node = self.child(node, name)?;
        }
        Some(node)
    }

    /// Makes a directory, or gives the one that is there these permissions.
    ///
    /// # Errors
    /// [`ImageError::BadPath`] when something else is there.
    pub fn directory(
        &mut self,
        path: &[u8],
        permissions: u32,
        modified_nanos: u64,
    ) -> Result<NodeId, ImageError> {
        let mut node = NodeId::ROOT;
        for name in components(path)? {
            node = self.step(node, name)?;
        }
        let made = &mut self.nodes[node.0 as usize];
        made.permissions = permissions;
        made.modified_nanos = modified_nanos;
        Ok(node)
    }

    /// Puts a node that is not a directory at `path`, in place of what was there.
    ///
    /// # Errors
    /// [`ImageError::BadPath`] when a directory is there, or its parent cannot be one.
    pub fn put(&mut self, path: &[u8], node: Node) -> Result<NodeId, ImageError> {
        let (parent, name) = self.parent_of(path)?;
        let id = self.add(node)?;
        self.enter(parent, &name, id)?;
        Ok(id)
    }

    /// Puts `node` in the place of the directory at `path` and all it holds.
    ///
    /// # Errors
    /// [`ImageError::BadPath`] when there is none.
    pub fn replace_directory(&mut self, path: &[u8], node: Node) -> Result<(), ImageError> {
        let id = self.find(path).ok_or(ImageError::BadPath)?;
        self.nodes[id.0 as usize] = node;
        Ok(())
    }

    /// Gives the file at `target` another name.
    ///
    /// # Errors
    /// [`ImageError::BadLink`] when there is no such file.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), ImageError> {
        let id = self.find(target).ok_or(ImageError::BadLink)?;
        if matches!(self.nodes[id.0 as usize].kind, Kind::Directory(_)) {
            return Err(ImageError::BadLink);
        }
        let (parent, name) = self.parent_of(path)?;
        self.nodes[id.0 as usize].links += 1;
        self.enter(parent, &name, id)
    }

    fn parent_of(&mut self, path: &[u8]) -> Result<(NodeId, Vec<u8>), ImageError> {
        let mut names: Vec<&[u8]> = components(path)?.collect();
        let name = names.pop().ok_or(ImageError::BadPath)?.to_vec();
        let mut parent = NodeId::ROOT;
        for name in names {
            parent = self.step(parent, name)?;
        }
        Ok((parent, name))
    }

    /// The directory `name` in `parent`, made when it is missing.
    fn step(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, ImageError> {
        if let Some(child) = self.child(parent, name) {
            let is_directory = matches!(self.nodes[child.0 as usize].kind, Kind::Directory(_));
            return if is_directory { Ok(child) } else { Err(ImageError::BadPath) };
        }
        let id = self.add(directory(0o755, 0))?;
        self.enter(parent, name, id)?;
        Ok(id)
    }

    fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let Kind::Directory(entries) = &self.nodes[parent.0 as usize].kind else { return None };
        let place = entries.binary_search_by(|(entry, _)| (**entry).cmp(name)).ok()?;
        Some(entries[place].1)
    }

    fn add(&mut self, node: Node) -> Result<NodeId, ImageError> {
        if self.nodes.len() >= NODES_MAX {
            return Err(ImageError::TooMany);
        }
        let id = u32::try_from(self.nodes.len()).map_err(|_| ImageError::TooMany)?;
        self.nodes.push(node);
        Ok(NodeId(id))
    }

    fn enter(&mut self, parent: NodeId, name: &[u8], id: NodeId) -> Result<(), ImageError> {
        if name.len() > super::NAME_BYTES_MAX {
            return Err(ImageError::BadPath);
        }
        let old = self.child(parent, name);
        if let Some(old) = old {
            let old = &mut self.nodes[old.0 as usize];
            if matches!(old.kind, Kind::Directory(_)) {
                return Err(ImageError::BadPath);
            }
            old.links = old.links.saturating_sub(1);
        }
        let Kind::Directory(entries) = &mut self.nodes[parent.0 as usize].kind else {
            return Err(ImageError::BadPath);
        };
        match entries.binary_search_by(|(entry, _)| (**entry).cmp(name)) {
            Ok(place) => entries[place].1 = id,
            Err(place) => entries.insert(place, (name.into(), id)),
        }
        Ok(())
    }
}

fn directory(permissions: u32, modified_nanos: u64) -> Node {
    Node { kind: Kind::Directory(Vec::new()), permissions, links: 1, modified_nanos }
}

/// The names in a path. Leading slashes and `.` count for nothing; `..` is refused, since an
/// archive has no business outside itself.
fn components(path: &[u8]) -> Result<impl Iterator<Item = &[u8]>, ImageError> {
    let names = |path| <[u8]>::split(path, |byte| *byte == b'/');
    if path.len() >= super::PATH_BYTES_MAX || names(path).any(|name| name == b"..") {
        return Err(ImageError::BadPath);
    }
    Ok(names(path).filter(|name| !name.is_empty() && *name != b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8]) -> Node {
        let kind = Kind::File(Data::Own(text.into()));
        Node { kind, permissions: 0o644, links: 1, modified_nanos: 5 }
    }

    #[test]
    fn parents_are_made_and_names_are_found() {
        let mut builder = Builder::new();
        builder.put(b"./usr/bin/tool", file(b"x")).unwrap();
        builder.directory(b"usr/", 0o700, 9).unwrap();
        builder.hard_link(b"/bin/t", b"usr/bin/tool").unwrap();
        let image = builder.finish(Archive::Owned(Vec::new()), 3);
        let usr = image.lookup(NodeId::ROOT, b"usr").unwrap();
        assert_eq!(image.node(usr).permissions, 0o700);
        let bin = image.lookup(NodeId::ROOT, b"bin").unwrap();
        let tool = image.lookup(bin, b"t").unwrap();
        assert_eq!((image.node(tool).links, image.inode_number(tool) >> 32), (2, 3));
        assert_eq!(image.lookup(NodeId::ROOT, b"lib"), None);
    }

    #[test]
    fn a_path_stays_inside_and_goes_through_directories() {
        let mut builder = Builder::new();
        builder.put(b"a", file(b"x")).unwrap();
        assert_eq!(builder.put(b"a/b", file(b"y")), Err(ImageError::BadPath));
        assert_eq!(builder.put(b"../b", file(b"y")), Err(ImageError::BadPath));
        assert_eq!(builder.put(b"./", file(b"y")), Err(ImageError::BadPath));
        assert_eq!(builder.directory(b"a", 0o755, 0), Err(ImageError::BadPath));
        assert_eq!(builder.hard_link(b"c", b"nothing"), Err(ImageError::BadLink));
        builder.put(b"a", file(b"z")).unwrap();
    }

    #[test]
    fn only_whole_aligned_pages_of_the_window_are_mapped() {
        let bytes: &'static [u8] = std::vec![0; 20_000].leak();
        let archive = Archive::Window { offset: 0x10_0000, bytes };
        let image = Builder::new().finish(archive, 1);
        let aligned = Data::Archive { start: 4096, bytes: 5000 };
        assert_eq!(image.window_page(&aligned, 0), Some(WINDOW_GPA + 0x10_1000));
        assert_eq!(image.window_page(&aligned, 4096), None);
        assert_eq!(image.window_page(&Data::Archive { start: 512, bytes: 9000 }, 0), None);
        assert_eq!(image.window_page(&Data::Own([0; 4096].into()), 0), None);
    }
}
