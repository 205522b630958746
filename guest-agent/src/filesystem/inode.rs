//! A file or directory of one container.
//!
//! A directory owns its entries; an entry that is not there yet is looked for in the directory's
//! lower one, the image directory it stands for, and made from it. A removed lower entry stays as
//! a mark (`None`), so that it is not found again.

mod saved;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::content::Content;
use super::image::{self, Image, NodeId};
use super::lock::Locks;
use super::record_lock::RecordLocks;
use crate::errno::Errno;
use crate::file::device::Device;
use crate::file::stat::{Stat, kind};
use crate::memory::Account;

pub use saved::SavedTree;

/// Where numbers of files that come from no image start.
const OWN_NUMBERS: u64 = 1 << 48;
/// Files a container may add; its memory limit usually says less.
const OWN_FILES_MAX: u64 = 1 << 20;
/// Pages charged for a name and the file behind it.
const ENTRY_PAGES: u64 = 1;

/// What all files of a container share.
#[derive(Debug)]
pub struct Ground {
    account: Rc<Account>,
    next: Cell<u64>,
    /// Something in the tree is other than when it was made.
    has_changed: Cell<bool>,
}

impl Ground {
    /// The ground of a new tree.
    #[must_use]
    pub fn new(account: Rc<Account>) -> Rc<Self> {
        Rc::new(Self { account, next: Cell::new(OWN_NUMBERS), has_changed: Cell::new(false) })
    }

    /// What the tree's pages are charged to.
    #[must_use]
    pub fn account(&self) -> &Rc<Account> {
        &self.account
    }

    fn number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        self.has_changed.set(true);
        number
    }
}

/// What can be changed about any file.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Mode without the type.
    pub permissions: u32,
    /// Last read, nanoseconds since the Unix epoch.
    pub accessed_nanos: u64,
    /// Last write.
    pub modified_nanos: u64,
    /// Last change of anything.
    pub changed_nanos: u64,
}

impl Meta {
    /// Everything happened at `nanos`.
    #[must_use]
    pub fn new(permissions: u32, nanos: u64) -> Self {
        Self { permissions, accessed_nanos: nanos, modified_nanos: nanos, changed_nanos: nanos }
    }
}

/// What a file is.
#[derive(Debug)]
pub enum Body {
    /// A directory.
    Directory(RefCell<Directory>),
    /// A regular file.
    File(RefCell<Content>),
    /// A symbolic link.
    Symlink(Box<[u8]>),
    /// A device.
    Device(Device),
    /// The place of `/proc`.
    Processes,
}

#[derive(Clone, Debug)]
struct Entry {
    inode: Rc<Inode>,
    is_charged: bool,
}

/// A directory's entries and its place.
#[derive(Debug)]
pub struct Directory {
    /// `None`: the lower entry of this name is gone.
    entries: BTreeMap<Box<[u8]>, Option<Entry>>,
    lower: Option<(Rc<Image>, NodeId)>,
    parent: Weak<Inode>,
    name: Box<[u8]>,
    is_removed: bool,
}

/// A file or directory.
#[derive(Debug)]
pub struct Inode {
    number: u64,
    ground: Rc<Ground>,
    is_read_only: bool,
    is_mount: Cell<bool>,
    links: Cell<u32>,
    meta: Cell<Meta>,
    locks: Locks,
    records: RecordLocks,
    body: Body,
}

impl Inode {
    /// The root of a tree, standing for the root of `image`.
    #[must_use]
    pub fn root(ground: &Rc<Ground>, image: &Rc<Image>) -> Rc<Self> {
        let root = Self::from_image(ground, image, NodeId::ROOT, false, (&Weak::new(), b""));
        root.is_mount.set(true);
        root
    }

    /// A file that stands for a node of an image.
    fn from_image(
        ground: &Rc<Ground>,
        image: &Rc<Image>,
        id: NodeId,
        is_read_only: bool,
        (parent, name): (&Weak<Self>, &[u8]),
    ) -> Rc<Self> {
        let node = image.node(id);
        let body = match &node.kind {
            image::Kind::Directory(_) => Body::Directory(RefCell::new(Directory {
                entries: BTreeMap::new(),
                lower: Some((Rc::clone(image), id)),
                parent: Weak::clone(parent),
                name: name.into(),
                is_removed: false,
            })),
            image::Kind::File(data) => {
                let account = Rc::clone(&ground.account);
                let content = Content::over(Rc::clone(image), data.clone(), account);
                Body::File(RefCell::new(content))
            }
            image::Kind::Symlink(target) => Body::Symlink(target.clone()),
            image::Kind::Device(device) => Body::Device(*device),
            image::Kind::Processes => Body::Processes,
        };
        Rc::new(Self {
            number: image.inode_number(id),
            ground: Rc::clone(ground),
            is_read_only,
            is_mount: Cell::new(matches!(body, Body::Processes)),
            links: Cell::new(node.links),
            meta: Cell::new(Meta::new(node.permissions, node.modified_nanos)),
            locks: Locks::default(),
            records: RecordLocks::default(),
            body,
        })
    }

    fn make(&self, body: Body, meta: Meta) -> Rc<Self> {
        Rc::new(Self {
            number: self.ground.number(),
            ground: Rc::clone(&self.ground),
            is_read_only: false,
            is_mount: Cell::new(false),
            links: Cell::new(0),
            meta: Cell::new(meta),
            locks: Locks::default(),
            records: RecordLocks::default(),
            body,
        })
    }

    /// A regular file without a name, in the tree of `self`.
    #[must_use]
    pub fn new_file(&self, meta: Meta) -> Rc<Self> {
        let content = Content::empty(Rc::clone(&self.ground.account));
        self.make(Body::File(RefCell::new(content)), meta)
    }

    /// A symbolic link without a name.
    #[must_use]
    pub fn new_symlink(&self, target: &[u8], meta: Meta) -> Rc<Self> {
        self.make(Body::Symlink(target.into()), meta)
    }

    /// A directory without a place.
    #[must_use]
    pub fn new_directory(&self, meta: Meta) -> Rc<Self> {
        let directory = Directory {
            entries: BTreeMap::new(),
            lower: None,
            parent: Weak::new(),
            name: Box::default(),
            is_removed: false,
        };
        self.make(Body::Directory(RefCell::new(directory)), meta)
    }

    /// What it is.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// Its locks.
    #[must_use]
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Locks of its parts.
    #[must_use]
    pub fn records(&self) -> &RecordLocks {
        &self.records
    }

    /// Whether nothing about it can be changed.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Whether something is mounted here, so that it can neither go nor move.
    #[must_use]
    pub fn is_mount(&self) -> bool {
        self.is_mount.get()
    }

    /// What can be changed about it.
    #[must_use]
    pub fn meta(&self) -> Meta {
        self.meta.get()
    }

    /// Changes what can be changed.
    pub fn set_meta(&self, change: impl FnOnce(&mut Meta)) {
        let mut meta = self.meta.get();
        change(&mut meta);
        self.meta.set(meta);
        self.note_change();
    }

    /// Notes that something in its tree is other than when it was made.
    pub fn note_change(&self) {
        self.ground.has_changed.set(true);
    }

    /// Whether anything in its tree is other than when it was made.
    #[must_use]
    pub fn has_changed_tree(&self) -> bool {
        self.ground.has_changed.get()
    }

    /// The file's kind as a `DT_*` number.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match &self.body {
            Body::Directory(_) | Body::Processes => kind::DIRECTORY,
            Body::File(_) => kind::REGULAR,
            Body::Symlink(_) => kind::SYMLINK,
            Body::Device(_) => kind::CHARACTER,
        }
    }

    /// What `stat` says.
    #[must_use]
    pub fn stat(&self) -> Stat {
        let meta = self.meta.get();
        let plain = Stat::plain(self.kind(), meta.permissions, self.number);
        let (bytes, blocks, links, special) = match &self.body {
            Body::Directory(directory) => (4096, 8, directory.borrow().links(), 0),
            Body::File(content) => {
                let content = content.borrow();
                (content.bytes(), content.blocks(), u64::from(self.links.get()), 0)
            }
            Body::Symlink(target) => (target.len() as u64, 0, u64::from(self.links.get()), 0),
            Body::Device(device) => (0, 0, 1, device.number()),
            Body::Processes => (0, 0, 2, 0),
        };
        Stat {
            links,
            special,
            bytes,
            blocks,
            accessed_nanos: meta.accessed_nanos,
            modified_nanos: meta.modified_nanos,
            changed_nanos: meta.changed_nanos,
            ..plain
        }
    }

    fn directory(&self) -> Result<&RefCell<Directory>, Errno> {
        match &self.body {
            Body::Directory(directory) => Ok(directory),
            Body::File(_) | Body::Symlink(_) | Body::Device(_) | Body::Processes => {
                Err(Errno::NOTDIR)
            }
        }
    }

    /// The entry `name` of this directory.
    ///
    /// # Errors
    /// [`Errno::NOTDIR`] when it is none.
    pub fn lookup(self: &Rc<Self>, name: &[u8]) -> Result<Option<Rc<Self>>, Errno> {
        let mut directory = self.directory()?.borrow_mut();
        if let Some(entry) = directory.entries.get(name) {
            return Ok(entry.as_ref().map(|entry| Rc::clone(&entry.inode)));
        }
        let Some((image, id)) = &directory.lower else { return Ok(None) };
        let Some(child) = image.lookup(*id, name) else { return Ok(None) };
        let place = (&Rc::downgrade(self), name);
        let inode = Self::from_image(&self.ground, image, child, self.is_read_only, place);
        let entry = Entry { inode: Rc::clone(&inode), is_charged: false };
        directory.entries.insert(name.into(), Some(entry));
        Ok(Some(inode))
    }

    /// Where this directory lies; `None` for the root and for one that was removed.
    #[must_use]
    pub fn parent(&self) -> Option<Rc<Self>> {
        self.directory().ok()?.borrow().parent.upgrade()
    }

    /// Name of this directory in its parent.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        self.directory().map(|directory| directory.borrow().name.to_vec()).unwrap_or_default()
    }

    /// Whether this directory was removed: nothing can be made in it.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.directory().is_ok_and(|directory| directory.borrow().is_removed)
    }

    /// Shows name, number and kind of each entry.
    ///
    /// # Errors
    /// [`Errno::NOTDIR`] when it is no directory.
    pub fn list(&self, visit: &mut dyn FnMut(&[u8], u64, u8)) -> Result<(), Errno> {
        let directory = self.directory()?.borrow();
        for (name, entry) in &directory.entries {
            if let Some(entry) = entry {
                visit(name, entry.inode.number, entry.inode.kind());
            }
        }
        let Some((image, id)) = &directory.lower else { return Ok(()) };
        for (name, child) in image.entries(*id) {
            if !directory.entries.contains_key(name) {
                visit(name, image.inode_number(*child), lower_kind(image, *child));
            }
        }
        Ok(())
    }

    /// Whether this directory has no entries.
    #[must_use]
    pub fn is_empty_directory(&self) -> bool {
        let mut is_empty = true;
        self.list(&mut |_, _, _| is_empty = false).is_ok() && is_empty
    }

    /// Enters `inode` as `name`, in place of nothing.
    ///
    /// # Errors
    /// [`Errno::ROFS`], [`Errno::NOENT`] in a removed directory, [`Errno::NOSPC`] when the
    /// account is used up.
    pub fn enter(self: &Rc<Self>, name: &[u8], inode: &Rc<Self>) -> Result<(), Errno> {
        self.check_changes()?;
        let ground = &self.ground;
        if ground.next.get() - OWN_NUMBERS > OWN_FILES_MAX {
            return Err(Errno::NOSPC);
        }
        ground.account.charge(ENTRY_PAGES).map_err(|_| Errno::NOSPC)?;
        self.note_change();
        self.attach(name, inode, true);
        Ok(())
    }

    /// Puts a mounted tree at `name`, over whatever was there.
    pub fn mount(self: &Rc<Self>, name: &[u8], image: &Rc<Image>, is_read_only: bool) {
        let place = (&Rc::downgrade(self), name);
        let root = Self::from_image(&self.ground, image, NodeId::ROOT, is_read_only, place);
        root.is_mount.set(true);
        self.attach(name, &root, false);
    }

    fn attach(self: &Rc<Self>, name: &[u8], inode: &Rc<Self>, is_charged: bool) {
        let Ok(directory) = self.directory() else { return };
        let entry = Entry { inode: Rc::clone(inode), is_charged };
        directory.borrow_mut().entries.insert(name.into(), Some(entry));
        if let Body::Directory(child) = &inode.body {
            let mut child = child.borrow_mut();
            child.parent = Rc::downgrade(self);
            child.name = name.into();
        } else {
            inode.links.set(inode.links.get().saturating_add(1));
        }
    }

    /// Takes the entry `name` out and returns what it was.
    ///
    /// # Errors
    /// [`Errno::ROFS`], [`Errno::NOENT`].
    pub fn remove(self: &Rc<Self>, name: &[u8]) -> Result<Rc<Self>, Errno> {
        self.check_changes()?;
        self.lookup(name)?.ok_or(Errno::NOENT)?;
        self.note_change();
        let mut directory = self.directory()?.borrow_mut();
        let is_lower =
            directory.lower.as_ref().is_some_and(|(image, id)| image.lookup(*id, name).is_some());
        let removed = directory.entries.remove(name).flatten().ok_or(Errno::NOENT)?;
        if is_lower {
            directory.entries.insert(name.into(), None);
        }
        if removed.is_charged {
            self.ground.account.release(ENTRY_PAGES);
        }
        let inode = removed.inode;
        if inode.kind() != kind::DIRECTORY {
            inode.links.set(inode.links.get().saturating_sub(1));
        }
        Ok(inode)
    }

    /// Moves the entry `name` to `to`, in place of what is there; whether that may go is the
    /// caller's business.
    ///
    /// # Errors
    /// As [`Inode::enter`] and [`Inode::remove`]; nothing has moved then.
    pub fn rename(
        self: &Rc<Self>,
        name: &[u8],
        to: &Rc<Self>,
        to_name: &[u8],
    ) -> Result<(), Errno> {
        self.check_changes()?;
        to.check_changes()?;
        self.lookup(name)?.ok_or(Errno::NOENT)?;
        self.ground.account.charge(ENTRY_PAGES).map_err(|_| Errno::NOSPC)?;
        if let Ok(replaced) = to.remove(to_name) {
            replaced.mark_removed();
        }
        let moved = self.remove(name)?;
        to.attach(to_name, &moved, true);
        Ok(())
    }

    /// Marks a directory that was taken out for good.
    pub fn mark_removed(&self) {
        if let Ok(directory) = self.directory() {
            directory.borrow_mut().is_removed = true;
        }
    }

    /// Whether `self` is `other` or lies below it.
    #[must_use]
    pub fn is_within(self: &Rc<Self>, other: &Rc<Self>) -> bool {
        let mut at = Some(Rc::clone(self));
        while let Some(directory) = at {
            if Rc::ptr_eq(&directory, other) {
                return true;
            }
            at = directory.parent();
        }
        false
    }

    fn check_changes(&self) -> Result<(), Errno> {
        if self.is_read_only {
            return Err(Errno::ROFS);
        }
        if self.is_removed() { Err(Errno::NOENT) } else { Ok(()) }
    }
}

fn lower_kind(image: &Image, id: NodeId) -> u8 {
    match image.node(id).kind {
        image::Kind::Directory(_) | image::Kind::Processes => kind::DIRECTORY,
        image::Kind::File(_) => kind::REGULAR,
        image::Kind::Symlink(_) => kind::SYMLINK,
        image::Kind::Device(_) => kind::CHARACTER,
    }
}

impl Directory {
    /// Two for itself, one for each directory in it, as file systems count.
    fn links(&self) -> u64 {
        let is_directory = |entry: &&Option<Entry>| {
            entry.as_ref().is_some_and(|entry| entry.inode.kind() == kind::DIRECTORY)
        };
        let own = self.entries.values().filter(is_directory).count();
        let lower = self.lower.as_ref().map_or(0, |(image, id)| {
            let entries = image.entries(*id).iter();
            let unseen = entries.filter(|(name, _)| !self.entries.contains_key(name));
            unseen.filter(|(_, child)| lower_kind(image, *child) == kind::DIRECTORY).count()
        });
        2 + (own + lower) as u64
    }
}

impl Drop for Inode {
    /// Takes a tree apart level by level: a program can nest directories deeper than the kernel's
    /// stack.
    fn drop(&mut self) {
        let mut open = Vec::new();
        let take = |inode: &mut Self| {
            if let Body::Directory(directory) = &mut inode.body {
                let entries = core::mem::take(&mut directory.get_mut().entries);
                let entries = entries.into_values().flatten();
                let charged = entries.inspect(|entry| {
                    inode.ground.account.release(ENTRY_PAGES * u64::from(entry.is_charged));
                });
                charged.map(|entry| entry.inode).collect()
            } else {
                Vec::new()
            }
        };
        open.extend(take(self));
        while let Some(inode) = open.pop() {
            if let Some(mut inode) = Rc::into_inner(inode) {
                open.extend(take(&mut inode));
            }
        }
    }
}
