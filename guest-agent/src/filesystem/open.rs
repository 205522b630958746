//! Files of the tree as open files.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use machine::frame::Frame;

use super::content::Content;
use super::inode::{Body, Inode};
use super::lock::Held;
use super::processes::{Entry, Text};
use super::record_lock::RecordLocks;
use super::walk::{self, Node};
use super::{Caller, Tree};
use crate::errno::Errno;
use crate::file::device::DeviceFile;
use crate::file::stat::{Stat, kind};
use crate::file::{DirectoryEntry, FilePage, Keeping, Object, OpenFile, flags, nothing_to_keep};
use crate::identity::ProcessId;
use crate::memory::Charge;
use crate::memory::transfer::{Sink, Source};
use crate::world::{ObjectId, World};

/// A file's name and the directory it was found in, for `/proc/self/fd`.
#[derive(Debug)]
pub struct Place {
    parent: Node,
    name: Vec<u8>,
}

impl Place {
    /// The entry `name` of `parent`.
    #[must_use]
    pub fn new(parent: Node, name: Vec<u8>) -> Self {
        Self { parent, name }
    }

    fn path(&self, tree: &Tree) -> Vec<u8> {
        let mut path = walk::path_of(tree, &self.parent);
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(&self.name);
        path
    }
}

struct RegularFile {
    inode: Rc<Inode>,
    tree: Weak<Tree>,
    place: Place,
    held: Cell<Held>,
}

/// What an entry of a listing costs besides its name.
const LISTED_BYTES: usize = 2 * size_of::<Listed>();

struct Listed {
    name: Box<[u8]>,
    inode: u64,
    kind: u8,
}

struct DirectoryFile {
    node: Node,
    tree: Weak<Tree>,
    entries: RefCell<Vec<Listed>>,
    /// What the entries cost.
    charge: RefCell<Option<Charge>>,
}

struct TextFile {
    text: Vec<u8>,
    stat: Stat,
    _charge: Charge,
}

/// A place in the tree that is neither readable nor writable (`O_PATH`).
struct PathFile {
    node: Node,
    tree: Weak<Tree>,
    place: Place,
}

/// Opens what a path led to.
///
/// # Errors
/// [`Errno::ISDIR`] and [`Errno::ROFS`] for writing what cannot be written, [`Errno::LOOP`] for
/// a symbolic link, [`Errno::NXIO`] for a device that is not there.
pub fn open(
    tree: &Rc<Tree>,
    caller: &Caller<'_>,
    node: &Node,
    place: Place,
    flags: u32,
) -> Result<Rc<OpenFile>, Errno> {
    let is_directory = node.is_directory();
    if flags & flags::DIRECTORY != 0 && !is_directory {
        return Err(Errno::NOTDIR);
    }
    if flags & flags::PATH != 0 {
        let (node, tree) = (node.clone(), Rc::downgrade(tree));
        return Ok(OpenFile::new(Rc::new(PathFile { node, tree, place }), flags));
    }
    if node.kind() == kind::SYMLINK {
        return Err(Errno::LOOP);
    }
    let changes = flags::writes(flags) || flags & flags::TRUNCATE != 0;
    if is_directory && (changes || flags & flags::CREATE != 0) {
        return Err(Errno::ISDIR);
    }
    let object: Rc<dyn Object> = match node {
        _ if is_directory => Rc::new(DirectoryFile::open(tree, caller, node)),
        Node::Inode(inode) => open_inode(tree, inode, place, flags)?,
        Node::Processes(entry) => Rc::new(open_text(tree, caller, *entry, flags)?),
        Node::Open(file) => file.shared_object(),
    };
    Ok(OpenFile::new(object, flags))
}

fn open_inode(
    tree: &Rc<Tree>,
    inode: &Rc<Inode>,
    place: Place,
    flags: u32,
) -> Result<Rc<dyn Object>, Errno> {
    match inode.body() {
        Body::Device(device) => {
            let path = place.path(tree);
            let file = DeviceFile::open(*device, tree.world().clone(), inode.stat(), path)?;
            Ok(Rc::new(file))
        }
        Body::File(content) => {
            let truncates = flags & flags::TRUNCATE != 0;
            if inode.is_read_only() && (flags::writes(flags) || truncates) {
                return Err(Errno::ROFS);
            }
            if truncates {
                content.borrow_mut().truncate(0)?;
                touch(inode);
            }
            let (inode, tree) = (Rc::clone(inode), Rc::downgrade(tree));
            Ok(Rc::new(RegularFile { inode, tree, place, held: Cell::default() }))
        }
        Body::Directory(_) | Body::Symlink(_) | Body::Processes => Err(Errno::INVAL),
    }
}

fn open_text(
    tree: &Tree,
    caller: &Caller<'_>,
    entry: Entry,
    flags: u32,
) -> Result<TextFile, Errno> {
    let Entry::Text(text) = entry else { return Err(Errno::INVAL) };
    if flags::writes(flags) {
        return Err(Errno::ACCES);
    }
    let stat = Node::Processes(entry).stat()?;
    let text = Text::write(text, caller, tree);
    let charge = Charge::new(tree.account(), text.len())?;
    Ok(TextFile { text, stat, _charge: charge })
}

/// The node behind an open file of the tree.
#[must_use]
pub fn node_of(file: &OpenFile) -> Option<Node> {
    if let Some(regular) = file.object::<RegularFile>() {
        return Some(Node::Inode(Rc::clone(&regular.inode)));
    }
    if let Some(directory) = file.object::<DirectoryFile>() {
        return Some(directory.node.clone());
    }
    file.object::<PathFile>().map(|path| path.node.clone())
}

/// Notes that a file's bytes have changed now.
pub fn touch(inode: &Inode) {
    let now = machine::clock::realtime_nanos();
    inode.set_meta(|meta| {
        meta.modified_nanos = now;
        meta.changed_nanos = now;
    });
}

/// `flock`: changes what an open file holds of its file's lock.
///
/// # Errors
/// What to wait for while others hold it; `None` when the file cannot be locked.
pub fn lock(file: &OpenFile, wanted: Held, world: &World) -> Result<(), Option<ObjectId>> {
    let regular = file.object::<RegularFile>().ok_or(None)?;
    regular.inode.locks().change(&regular.held, wanted, world).map_err(Some)
}

/// The locks of a file's parts; `None` when it has no parts.
#[must_use]
pub fn records(file: &OpenFile) -> Option<&RecordLocks> {
    file.object::<RegularFile>().map(|regular| regular.inode.records())
}

/// A process has closed a descriptor of the file, and by that let go of what it had locked.
pub fn forget_records(file: &OpenFile, owner: ProcessId) {
    if let Some(records) = records(file) {
        records.forget(owner);
    }
}

impl Drop for RegularFile {
    fn drop(&mut self) {
        self.inode.locks().release(&self.held);
    }
}

impl RegularFile {
    fn content(&self) -> Result<&RefCell<Content>, Errno> {
        match self.inode.body() {
            Body::File(content) => Ok(content),
            Body::Directory(_) | Body::Symlink(_) | Body::Device(_) | Body::Processes => {
                Err(Errno::IO)
            }
        }
    }
}

impl Object for RegularFile {
    /// Its bytes are the tree's business; a lock is not put back.
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        (self.held.get() == Held::Nothing).then(nothing_to_keep).flatten()
    }

    fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        self.content()?.borrow().read(offset, sink)
    }

    fn write_at(&self, offset: u64, source: &mut Source<'_>) -> Result<usize, Errno> {
        let written = Content::write(self.content()?, offset, source)?;
        if written > 0 {
            touch(&self.inode);
        }
        Ok(written)
    }

    fn length(&self) -> Option<u64> {
        Some(self.content().map_or(0, |content| content.borrow().bytes()))
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(self.inode.stat())
    }

    fn truncate(&self, bytes: u64) -> Result<(), Errno> {
        self.content()?.borrow_mut().truncate(bytes)?;
        touch(&self.inode);
        Ok(())
    }

    fn map_page(&self, offset: u64) -> Result<FilePage, Errno> {
        Ok(self.content()?.borrow().map_page(offset))
    }

    fn share_page(&self, offset: u64) -> Result<Frame, Errno> {
        if self.inode.is_read_only() {
            return Err(Errno::NODEV);
        }
        self.inode.note_change();
        self.content()?.borrow_mut().share_page(offset)
    }

    fn path(&self) -> Vec<u8> {
        self.tree.upgrade().map(|tree| self.place.path(&tree)).unwrap_or_default()
    }
}

impl DirectoryFile {
    /// What `/proc` has is listed now, as the caller sees it; files of the tree when read.
    fn open(tree: &Rc<Tree>, caller: &Caller<'_>, node: &Node) -> Self {
        let mut entries = Vec::new();
        if let Node::Processes(entry) = node {
            entry.list(caller, &mut |name, child| {
                let (inode, kind) = (child.inode_number(), child.kind());
                entries.push(Listed { name: name.into(), inode, kind });
            });
        }
        let (node, tree) = (node.clone(), Rc::downgrade(tree));
        Self { node, tree, entries: RefCell::new(entries), charge: RefCell::default() }
    }

    /// Lists the tree's directory afresh: what was added since is seen from the start only, as
    /// `readdir` allows.
    fn refresh(&self) -> Result<(), Errno> {
        let Node::Inode(inode) = &self.node else { return Ok(()) };
        let mut entries = self.entries.borrow_mut();
        *entries = Vec::new();
        *self.charge.borrow_mut() = None;
        let (mut count, mut bytes) = (0, 0);
        inode.list(&mut |name, _, _| {
            count += 1;
            bytes += LISTED_BYTES + name.len();
        })?;
        let tree = self.tree.upgrade().ok_or(Errno::NOENT)?;
        *self.charge.borrow_mut() = Some(Charge::new(tree.account(), bytes)?);
        entries.try_reserve_exact(count).map_err(|_| Errno::NOMEM)?;
        inode.list(&mut |name, inode, kind| entries.push(Listed { name: name.into(), inode, kind }))
    }
}

impl Object for DirectoryFile {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        nothing_to_keep()
    }

    fn read_at(&self, _offset: u64, _sink: &mut Sink<'_>) -> Result<usize, Errno> {
        Err(Errno::ISDIR)
    }

    /// So that it can be sought in: the position counts entries.
    fn length(&self) -> Option<u64> {
        Some(0)
    }

    fn stat(&self) -> Result<Stat, Errno> {
        self.node.stat()
    }

    fn read_directory(
        &self,
        offset: u64,
        visit: &mut dyn FnMut(&DirectoryEntry<'_>) -> bool,
    ) -> Result<u64, Errno> {
        if offset == 0 {
            self.refresh()?;
        }
        let own = self.node.stat()?.inode;
        let entries = self.entries.borrow();
        let dots = [(b".".as_slice(), own, kind::DIRECTORY), (b"..", own, kind::DIRECTORY)];
        let listed = entries.iter().map(|entry| (&*entry.name, entry.inode, entry.kind));
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut next_offset = offset;
        for (name, inode, kind) in dots.into_iter().chain(listed).skip(skipped) {
            let entry = DirectoryEntry { inode, next_offset: next_offset + 1, kind, name };
            if !visit(&entry) {
                break;
            }
            next_offset += 1;
        }
        Ok(next_offset)
    }

    fn path(&self) -> Vec<u8> {
        let tree = self.tree.upgrade();
        tree.map(|tree| walk::path_of(&tree, &self.node)).unwrap_or_default()
    }
}

impl Object for TextFile {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        nothing_to_keep()
    }

    fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        sink.put(self.text.get(start..).unwrap_or_default())
    }

    fn length(&self) -> Option<u64> {
        Some(self.text.len() as u64)
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(self.stat)
    }

    fn path(&self) -> Vec<u8> {
        b"/proc/".to_vec()
    }
}

impl Object for PathFile {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        nothing_to_keep()
    }

    fn stat(&self) -> Result<Stat, Errno> {
        self.node.stat()
    }

    fn path(&self) -> Vec<u8> {
        self.tree.upgrade().map(|tree| self.place.path(&tree)).unwrap_or_default()
    }
}
