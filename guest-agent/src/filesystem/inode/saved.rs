//! A tree as it was at one moment, and the way back: the same files, so that what is open stays
//! open.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;

use super::{Body, Directory, ENTRY_PAGES, Entry, Ground, Inode, Meta};
use crate::errno::Errno;
use crate::filesystem::content::SavedContent;

#[derive(Debug)]
enum SavedBody {
    Directory {
        entries: BTreeMap<Box<[u8]>, Option<Entry>>,
        parent: Weak<Inode>,
        name: Box<[u8]>,
        is_removed: bool,
    },
    File(SavedContent),
    /// It cannot change.
    Other,
}

/// All files that had been looked at, as they were; others still are as the image has them.
#[derive(Debug)]
pub struct SavedTree {
    files: Vec<(Rc<Inode>, Meta, u32, SavedBody)>,
    next: u64,
}

impl SavedTree {
    /// Saves the tree of `root` and the files `besides`, which may have no name any more.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when RAM is used up.
    pub fn new(root: &Rc<Inode>, besides: impl Iterator<Item = Rc<Inode>>) -> Result<Self, Errno> {
        let mut files: Vec<(Rc<Inode>, Meta, u32, SavedBody)> = Vec::new();
        let mut open: Vec<Rc<Inode>> = besides.chain([Rc::clone(root)]).collect();
        let mut seen = alloc::collections::BTreeSet::new();
        while let Some(inode) = open.pop() {
            if !seen.insert(Rc::as_ptr(&inode)) {
                continue;
            }
            let body = match &inode.body {
                Body::Directory(directory) => {
                    let directory = directory.borrow();
                    open.extend(
                        directory.entries.values().flatten().map(|it| Rc::clone(&it.inode)),
                    );
                    SavedBody::directory(&directory)
                }
                Body::File(content) => SavedBody::File(content.borrow().save()?),
                Body::Symlink(_) | Body::Device(_) | Body::Processes => SavedBody::Other,
            };
            files.push((Rc::clone(&inode), inode.meta.get(), inode.links.get(), body));
        }
        root.ground.has_changed.set(false);
        Ok(Self { files, next: root.ground.next.get() })
    }

    /// Puts the tree back; does nothing when nothing has changed in it.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when what comes back cannot be paid for; the tree is of no use then.
    pub fn put_back(&self) -> Result<(), Errno> {
        let Some((first, ..)) = self.files.first() else { return Ok(()) };
        let ground = &first.ground;
        if !ground.has_changed.replace(false) {
            return Ok(());
        }
        // What goes first makes room for what comes back.
        let mut gone = Vec::new();
        for (inode, ..) in &self.files {
            if let Body::Directory(directory) = &inode.body {
                gone.push(core::mem::take(&mut directory.borrow_mut().entries));
            }
        }
        let charged = gone.iter().flat_map(|entries| entries.values().flatten());
        let count = charged.filter(|entry| entry.is_charged).count() as u64;
        ground.account.release(count * ENTRY_PAGES);
        for (inode, meta, links, body) in &self.files {
            inode.meta.set(*meta);
            inode.links.set(*links);
            match (&inode.body, body) {
                (Body::File(content), SavedBody::File(saved)) => {
                    content.borrow_mut().put_back(saved)?;
                }
                (Body::Directory(directory), saved) => {
                    saved.put_back(&mut directory.borrow_mut(), ground)?;
                }
                _ => {}
            }
        }
        ground.next.set(self.next);
        Ok(())
    }
}

impl SavedBody {
    fn directory(directory: &Directory) -> Self {
        Self::Directory {
            entries: directory.entries.clone(),
            parent: Weak::clone(&directory.parent),
            name: directory.name.clone(),
            is_removed: directory.is_removed,
        }
    }

    fn put_back(&self, directory: &mut Directory, ground: &Ground) -> Result<(), Errno> {
        let Self::Directory { entries, parent, name, is_removed } = self else { return Ok(()) };
        let charged = entries.values().flatten().filter(|entry| entry.is_charged).count() as u64;
        ground.account.charge(charged * ENTRY_PAGES)?;
        directory.entries = entries.clone();
        directory.parent = Weak::clone(parent);
        directory.name = name.clone();
        directory.is_removed = *is_removed;
        Ok(())
    }
}
