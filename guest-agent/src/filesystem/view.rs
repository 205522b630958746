//! The tree as one process sees it: operations on paths.
//!
//! Everything runs as user 0: permission bits are kept and shown, and only execution asks for
//! them.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::inode::{Body, Inode, Meta, SavedTree};
use super::open::{self, Place};
use super::walk::{Found, Node, Walker, path_of};
use super::{Caller, PATH_BYTES_MAX, Tree};
use crate::errno::Errno;
use crate::file::stat::{MODE_BITS, Stat, kind};
use crate::file::{OpenFile, flags};

/// `RENAME_NOREPLACE`.
const RENAME_NO_REPLACE: u32 = 1;
/// `W_OK` and `X_OK` of `access`.
const ACCESS_WRITE: u32 = 2;
const ACCESS_EXECUTE: u32 = 1;
/// Mask of new files' permissions until a program sets another.
const UMASK: u32 = 0o022;

/// A process' root, current directory and umask.
#[derive(Clone, Debug)]
pub struct View {
    tree: Rc<Tree>,
    current: Node,
    umask: u32,
}

impl View {
    /// A view with the root as current directory.
    #[must_use]
    pub fn new(tree: Rc<Tree>) -> Self {
        let current = Node::Inode(Rc::clone(tree.root()));
        Self { tree, current, umask: UMASK }
    }

    /// Saves the tree, with the files behind `open` and the current directory.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when RAM is used up.
    pub fn save<'a>(
        &self,
        open: impl Iterator<Item = &'a Rc<OpenFile>>,
    ) -> Result<SavedTree, Errno> {
        let nodes = open.filter_map(|file| open::node_of(file)).chain([self.current.clone()]);
        let inodes: Vec<_> = nodes.filter_map(|node| node.inode().cloned().ok()).collect();
        self.tree.save(inodes.into_iter())
    }

    /// The tree it shows.
    #[must_use]
    pub fn tree(&self) -> &Rc<Tree> {
        &self.tree
    }

    fn walk(
        &self,
        caller: Option<&Caller<'_>>,
        at: Option<&OpenFile>,
        path: &[u8],
        follows: bool,
    ) -> Result<Found, Errno> {
        let start = match at {
            Some(file) if !path.starts_with(b"/") => open::node_of(file).ok_or(Errno::NOTDIR)?,
            _ => self.current.clone(),
        };
        Walker { tree: &self.tree, current: &self.current, caller }.walk(start, path, follows)
    }

    /// `openat`: flags and mode as a program gives them.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open(
        &self,
        caller: &Caller<'_>,
        at: Option<&OpenFile>,
        path: &[u8],
        flags: u32,
        mode: u32,
    ) -> Result<Rc<OpenFile>, Errno> {
        let is_new = flags & flags::CREATE != 0 && flags & flags::EXCLUSIVE != 0;
        let follows = flags & flags::NO_FOLLOW == 0 && !is_new;
        let found = self.walk(Some(caller), at, path, follows)?;
        if flags & flags::TEMPORARY != 0 && flags & flags::PATH == 0 {
            return self.open_temporary(caller, &found, flags, mode);
        }
        if found.node.is_none() && flags & flags::CREATE != 0 && flags & flags::PATH == 0 {
            return self.create(caller, found, flags, mode);
        }
        let node = found.existing()?.clone();
        if is_new {
            return Err(Errno::EXIST);
        }
        open::open(&self.tree, caller, &node, Place::new(found.parent, found.name), flags)
    }

    fn create(
        &self,
        caller: &Caller<'_>,
        found: Found,
        flags: u32,
        mode: u32,
    ) -> Result<Rc<OpenFile>, Errno> {
        if found.wants_directory {
            return Err(Errno::ISDIR);
        }
        let parent = found.parent.inode().map_err(|_| Errno::NOENT)?;
        let inode = parent.new_file(self.new_meta(mode));
        parent.enter(&found.name, &inode)?;
        open::touch(parent);
        let node = Node::Inode(inode);
        let flags = flags & !flags::TRUNCATE;
        open::open(
            &self.tree,
            caller,
            &node,
            Place::new(found.parent, found.name),
            flags & !flags::CREATE,
        )
    }

    fn open_temporary(
        &self,
        caller: &Caller<'_>,
        found: &Found,
        flags: u32,
        mode: u32,
    ) -> Result<Rc<OpenFile>, Errno> {
        let parent = found.existing()?.inode()?;
        if !flags::writes(flags) {
            return Err(Errno::INVAL);
        }
        if parent.kind() != kind::DIRECTORY {
            return Err(Errno::NOTDIR);
        }
        if parent.is_read_only() {
            return Err(Errno::ROFS);
        }
        let node = Node::Inode(parent.new_file(self.new_meta(mode)));
        let place = Place::new(Node::Inode(Rc::clone(parent)), b"#temporary".to_vec());
        let flags = flags & !(flags::DIRECTORY | flags::TEMPORARY | flags::CREATE);
        open::open(&self.tree, caller, &node, place, flags)
    }

    fn new_meta(&self, mode: u32) -> Meta {
        Meta::new(mode & MODE_BITS & !self.umask, machine::clock::realtime_nanos())
    }

    /// `stat`, or `lstat` when links are not followed.
    ///
    /// # Errors
    /// As `stat(2)`.
    pub fn stat(
        &self,
        caller: &Caller<'_>,
        at: Option<&OpenFile>,
        path: &[u8],
        follows: bool,
    ) -> Result<Stat, Errno> {
        self.walk(Some(caller), at, path, follows)?.existing()?.stat()
    }

    /// `access`: as user 0, only execution needs a bit.
    ///
    /// # Errors
    /// As `access(2)`.
    pub fn access(
        &self,
        caller: &Caller<'_>,
        at: Option<&OpenFile>,
        path: &[u8],
        mode: u32,
    ) -> Result<(), Errno> {
        let found = self.walk(Some(caller), at, path, true)?;
        let node = found.existing()?;
        let stat = node.stat()?;
        let is_read_only = node.inode().is_ok_and(|inode| inode.is_read_only());
        if mode & ACCESS_WRITE != 0 && is_read_only {
            return Err(Errno::ROFS);
        }
        let is_executable = stat.is_directory() || stat.mode & 0o111 != 0;
        if mode & ACCESS_EXECUTE != 0 && !is_executable {
            return Err(Errno::ACCES);
        }
        Ok(())
    }

    /// `readlink`: copies the target, cut short at the buffer's end.
    ///
    /// # Errors
    /// [`Errno::INVAL`] when it is no symbolic link.
    pub fn read_link(
        &self,
        caller: &Caller<'_>,
        at: Option<&OpenFile>,
        path: &[u8],
        target: &mut [u8],
    ) -> Result<usize, Errno> {
        let found = self.walk(Some(caller), at, path, false)?;
        let walker = Walker { tree: &self.tree, current: &self.current, caller: Some(caller) };
        let text = walker.link_text(found.existing()?)?.ok_or(Errno::INVAL)?;
        let count = text.len().min(target.len());
        target[..count].copy_from_slice(&text[..count]);
        Ok(count)
    }

    /// `mkdir`.
    ///
    /// # Errors
    /// As `mkdir(2)`.
    pub fn make_directory(
        &self,
        at: Option<&OpenFile>,
        path: &[u8],
        mode: u32,
    ) -> Result<(), Errno> {
        let found = self.walk(None, at, path, false)?;
        let parent = found.vacant()?;
        parent.enter(&found.name, &parent.new_directory(self.new_meta(mode)))?;
        open::touch(parent);
        Ok(())
    }

    /// `symlink`: `path` will say `target`.
    ///
    /// # Errors
    /// As `symlink(2)`.
    pub fn symlink(&self, target: &[u8], at: Option<&OpenFile>, path: &[u8]) -> Result<(), Errno> {
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        if target.len() >= PATH_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let found = self.walk(None, at, path, false)?;
        let parent = found.vacant()?;
        if found.wants_directory {
            return Err(Errno::NOENT);
        }
        let meta = Meta::new(0o777, machine::clock::realtime_nanos());
        parent.enter(&found.name, &parent.new_symlink(target, meta))?;
        open::touch(parent);
        Ok(())
    }

    /// `link`: another name for the file at `path`.
    ///
    /// # Errors
    /// As `link(2)`.
    pub fn link(
        &self,
        at: Option<&OpenFile>,
        path: &[u8],
        to: Option<&OpenFile>,
        to_path: &[u8],
    ) -> Result<(), Errno> {
        let old = self.walk(None, at, path, false)?;
        let inode = old.existing()?.inode()?;
        if inode.kind() == kind::DIRECTORY {
            return Err(Errno::PERM);
        }
        let new = self.walk(None, to, to_path, false)?;
        let parent = new.vacant()?;
        if inode.is_read_only() {
            return Err(if parent.is_read_only() { Errno::ROFS } else { Errno::XDEV });
        }
        if new.wants_directory {
            return Err(Errno::NOENT);
        }
        parent.enter(&new.name, inode)?;
        open::touch(parent);
        Ok(())
    }

    /// `unlink`.
    ///
    /// # Errors
    /// As `unlink(2)`.
    pub fn unlink(&self, at: Option<&OpenFile>, path: &[u8]) -> Result<(), Errno> {
        let found = self.walk(None, at, path, false)?;
        let node = found.existing()?;
        if node.is_directory() {
            return Err(Errno::ISDIR);
        }
        let parent = found.parent.inode()?;
        node.inode()?;
        parent.remove(&found.name)?;
        open::touch(parent);
        Ok(())
    }

    /// `rmdir`.
    ///
    /// # Errors
    /// As `rmdir(2)`.
    pub fn remove_directory(&self, at: Option<&OpenFile>, path: &[u8]) -> Result<(), Errno> {
        if last_name(path) == b"." {
            return Err(Errno::INVAL);
        }
        let found = self.walk(None, at, path, false)?;
        let node = found.existing()?;
        if !node.is_directory() {
            return Err(Errno::NOTDIR);
        }
        let inode = node.inode().map_err(|_| Errno::BUSY)?;
        if inode.is_mount() {
            return Err(Errno::BUSY);
        }
        if found.name.is_empty() || !inode.is_empty_directory() {
            return Err(Errno::NOTEMPTY);
        }
        let parent = found.parent.inode()?;
        parent.remove(&found.name)?.mark_removed();
        open::touch(parent);
        Ok(())
    }

    /// `renameat2`.
    ///
    /// # Errors
    /// As `rename(2)`; exchanging is not offered ([`Errno::INVAL`]).
    pub fn rename(
        &self,
        at: Option<&OpenFile>,
        path: &[u8],
        to: Option<&OpenFile>,
        to_path: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        if flags & !RENAME_NO_REPLACE != 0 {
            return Err(Errno::INVAL);
        }
        let old = self.walk(None, at, path, false)?;
        let new = self.walk(None, to, to_path, false)?;
        let moved = old.existing()?;
        if old.name.is_empty() || new.name.is_empty() {
            return Err(Errno::BUSY);
        }
        let moved = moved.inode().map_err(|_| Errno::XDEV)?;
        let (from, into) = (old.parent.inode()?, new.parent.inode().map_err(|_| Errno::XDEV)?);
        if from.is_read_only() || into.is_read_only() {
            return Err(if from.is_read_only() == into.is_read_only() {
                Errno::ROFS
            } else {
                Errno::XDEV
            });
        }
        let is_directory = moved.kind() == kind::DIRECTORY;
        if new.wants_directory && !is_directory {
            return Err(Errno::NOTDIR);
        }
        if let Some(target) = &new.node {
            if flags & RENAME_NO_REPLACE != 0 {
                return Err(Errno::EXIST);
            }
            let target = target.inode().map_err(|_| Errno::BUSY)?;
            if Rc::ptr_eq(target, moved) {
                return Ok(());
            }
            check_replaces(is_directory, target)?;
        }
        if moved.is_mount() {
            return Err(Errno::BUSY);
        }
        if is_directory && into.is_within(moved) {
            return Err(Errno::INVAL);
        }
        from.rename(&old.name, into, &new.name)?;
        open::touch(from);
        open::touch(into);
        Ok(())
    }

    /// `truncate`.
    ///
    /// # Errors
    /// As `truncate(2)`.
    pub fn truncate(
        &self,
        caller: &Caller<'_>,
        at: Option<&OpenFile>,
        path: &[u8],
        bytes: u64,
    ) -> Result<(), Errno> {
        let found = self.walk(Some(caller), at, path, true)?;
        let node = found.existing()?;
        if node.is_directory() {
            return Err(Errno::ISDIR);
        }
        let inode = changeable(node)?;
        i64::try_from(bytes).map_err(|_| Errno::INVAL)?;
        let Body::File(content) = inode.body() else { return Err(Errno::INVAL) };
        content.borrow_mut().truncate(bytes)?;
        open::touch(inode);
        Ok(())
    }

    /// `chmod`.
    ///
    /// # Errors
    /// As `chmod(2)`.
    pub fn set_mode(
        &self,
        caller: &Caller<'_>,
        at: Option<&OpenFile>,
        path: &[u8],
        mode: u32,
    ) -> Result<(), Errno> {
        let found = self.walk(Some(caller), at, path, true)?;
        set_mode(found.existing()?, mode)
    }

    /// `utimensat`: access and modification time; `None` leaves one as it is.
    ///
    /// # Errors
    /// As `utimensat(2)`.
    pub fn set_times(
        &self,
        caller: &Caller<'_>,
        at: Option<&OpenFile>,
        path: &[u8],
        times: [Option<u64>; 2],
        follows: bool,
    ) -> Result<(), Errno> {
        let found = self.walk(Some(caller), at, path, follows)?;
        set_times(found.existing()?, times)
    }

    /// `chdir`.
    ///
    /// # Errors
    /// [`Errno::NOTDIR`] when it is no directory.
    pub fn change_directory(&mut self, at: Option<&OpenFile>, path: &[u8]) -> Result<(), Errno> {
        let found = self.walk(None, at, path, true)?;
        let node = found.existing()?;
        if !node.is_directory() {
            return Err(Errno::NOTDIR);
        }
        self.current = node.clone();
        Ok(())
    }

    /// `fchdir`.
    ///
    /// # Errors
    /// [`Errno::NOTDIR`] when the file is no directory.
    pub fn change_to(&mut self, file: &OpenFile) -> Result<(), Errno> {
        let node = open::node_of(file).filter(Node::is_directory).ok_or(Errno::NOTDIR)?;
        self.current = node;
        Ok(())
    }

    /// The current directory's path.
    #[must_use]
    pub fn current_directory(&self) -> Vec<u8> {
        path_of(&self.tree, &self.current)
    }

    /// Sets the umask and returns the one before.
    pub fn set_umask(&mut self, umask: u32) -> u32 {
        core::mem::replace(&mut self.umask, umask & 0o777)
    }
}

impl OpenFile {
    /// `fchmod`.
    ///
    /// # Errors
    /// [`Errno::PERM`] for what is not in the tree.
    pub fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        set_mode(&open::node_of(self).ok_or(Errno::PERM)?, mode)
    }

    /// `futimens`.
    ///
    /// # Errors
    /// [`Errno::PERM`] for what is not in the tree.
    pub fn set_times(&self, times: [Option<u64>; 2]) -> Result<(), Errno> {
        set_times(&open::node_of(self).ok_or(Errno::PERM)?, times)
    }
}

fn set_mode(node: &Node, mode: u32) -> Result<(), Errno> {
    let now = machine::clock::realtime_nanos();
    changeable(node)?.set_meta(|meta| {
        meta.permissions = mode & MODE_BITS;
        meta.changed_nanos = now;
    });
    Ok(())
}

fn set_times(node: &Node, [accessed, modified]: [Option<u64>; 2]) -> Result<(), Errno> {
    let now = machine::clock::realtime_nanos();
    changeable(node)?.set_meta(|meta| {
        meta.accessed_nanos = accessed.unwrap_or(meta.accessed_nanos);
        meta.modified_nanos = modified.unwrap_or(meta.modified_nanos);
        meta.changed_nanos = now;
    });
    Ok(())
}

fn changeable(node: &Node) -> Result<&Rc<Inode>, Errno> {
    let inode = node.inode()?;
    if inode.is_read_only() { Err(Errno::ROFS) } else { Ok(inode) }
}

/// Whether something may take the place of `target`.
fn check_replaces(is_directory: bool, target: &Rc<Inode>) -> Result<(), Errno> {
    match (is_directory, target.kind() == kind::DIRECTORY) {
        (true, false) => Err(Errno::NOTDIR),
        (false, true) => Err(Errno::ISDIR),
        (true, true) if target.is_mount() => Err(Errno::BUSY),
        (true, true) if !target.is_empty_directory() => Err(Errno::NOTEMPTY),
        _ => Ok(()),
    }
}

fn last_name(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'/').rfind(|name| !name.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
