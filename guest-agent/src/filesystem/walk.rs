//! From a path to a file.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::inode::{Body, Inode};
use super::processes::{Entry, Link};
use super::{Caller, LINKS_FOLLOWED_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, PROC_DEVICE, Tree};
use crate::errno::Errno;
use crate::file::OpenFile;
use crate::file::stat::{Stat, kind};

/// Something a path leads to.
#[derive(Clone, Debug)]
pub enum Node {
    /// A file of the tree.
    Inode(Rc<Inode>),
    /// Something in `/proc`.
    Processes(Entry),
    /// An open file without a place in the tree, reached through `/proc/self/fd`.
    Open(Rc<OpenFile>),
}

impl Node {
    /// The file's kind as a `DT_*` number.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Inode(inode) => inode.kind(),
            Self::Processes(entry) => entry.kind(),
            Self::Open(file) => file.stat().map_or(0, |stat| stat.kind()),
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind() == kind::DIRECTORY
    }

    /// What `stat` says.
    ///
    /// # Errors
    /// When the file cannot tell.
    pub fn stat(&self) -> Result<Stat, Errno> {
        match self {
            Self::Inode(inode) => Ok(inode.stat()),
            Self::Processes(entry) => {
                let permissions = match entry.kind() {
                    kind::DIRECTORY => 0o555,
                    kind::SYMLINK => 0o777,
                    _ => 0o444,
                };
                let plain = Stat::plain(entry.kind(), permissions, entry.inode_number());
                Ok(Stat { device: PROC_DEVICE, ..plain })
            }
            Self::Open(file) => file.stat(),
        }
    }

    /// The inode, for operations `/proc` and open files do not know.
    ///
    /// # Errors
    /// [`Errno::PERM`] for those.
    pub fn inode(&self) -> Result<&Rc<Inode>, Errno> {
        match self {
            Self::Inode(inode) => Ok(inode),
            Self::Processes(_) | Self::Open(_) => Err(Errno::PERM),
        }
    }
}

/// Where a path ends.
#[derive(Debug)]
pub struct Found {
    /// The directory the last name is looked up in.
    pub parent: Node,
    /// The last name; empty when the path ends in `/`-only, `.` or `..`.
    pub name: Vec<u8>,
    /// What is there.
    pub node: Option<Node>,
    /// Whether only a directory will do: the path ends in a slash.
    pub wants_directory: bool,
}

impl Found {
    /// What is there.
    ///
    /// # Errors
    /// [`Errno::NOENT`] when nothing is, [`Errno::NOTDIR`] when it should be a directory.
    pub fn existing(&self) -> Result<&Node, Errno> {
        let node = self.node.as_ref().ok_or(Errno::NOENT)?;
        if self.wants_directory && !node.is_directory() {
            return Err(Errno::NOTDIR);
        }
        Ok(node)
    }

    /// The directory in which something new called `name` is to be made.
    ///
    /// # Errors
    /// [`Errno::EXIST`] when something is there, [`Errno::PERM`] in `/proc`.
    pub fn vacant(&self) -> Result<&Rc<Inode>, Errno> {
        if self.node.is_some() || self.name.is_empty() {
            return Err(Errno::EXIST);
        }
        self.parent.inode()
    }
}

enum Target {
    Text(Vec<u8>),
    Jump(Node),
}

/// Walks paths of one process.
pub struct Walker<'a> {
    /// Its tree.
    pub tree: &'a Tree,
    /// Its current directory.
    pub current: &'a Node,
    /// The process itself; without it `/proc/self` leads nowhere.
    pub caller: Option<&'a Caller<'a>>,
}

impl Walker<'_> {
    /// Walks `path` from `start`, if it does not start at the root. A symbolic link at its end is
    /// followed when `follows` or a slash comes after it.
    ///
    /// # Errors
    /// As `path_resolution(7)`: [`Errno::NOENT`], [`Errno::NOTDIR`], [`Errno::LOOP`],
    /// [`Errno::NAMETOOLONG`].
    pub fn walk(&self, start: Node, path: &[u8], follows: bool) -> Result<Found, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let mut pending = checked(path.to_vec())?;
        let mut at = if pending[0] == b'/' { self.root() } else { start };
        let mut next = 0;
        let mut links = 0;
        loop {
            next += pending[next..].iter().take_while(|byte| **byte == b'/').count();
            let rest = &pending[next..];
            if rest.is_empty() {
                return directory_itself(at);
            }
            let length = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let (name, behind) = rest.split_at(length);
            let is_last = behind.iter().all(|byte| *byte == b'/');
            if name.len() > NAME_BYTES_MAX {
                return Err(Errno::NAMETOOLONG);
            }
            if !at.is_directory() {
                return Err(Errno::NOTDIR);
            }
            if let Some(stepped) = self.step_special(&at, name)? {
                at = stepped;
                next += length;
                continue;
            }
            let wants_directory = is_last && !behind.is_empty();
            let Some(child) = self.child(&at, name)? else {
                let name = name.to_vec();
                let missing = Found { parent: at, name, node: None, wants_directory };
                return if is_last { Ok(missing) } else { Err(Errno::NOENT) };
            };
            let is_followed = !is_last || follows || wants_directory;
            let target = if is_followed { self.target(&child)? } else { None };
            match target {
                Some(Target::Text(target)) => {
                    links += 1;
                    if links > LINKS_FOLLOWED_MAX {
                        return Err(Errno::LOOP);
                    }
                    if target.is_empty() {
                        return Err(Errno::NOENT);
                    }
                    if target[0] == b'/' {
                        at = self.root();
                    }
                    pending = checked([&target, behind].concat())?;
                    next = 0;
                }
                Some(Target::Jump(node)) if !is_last => (at, next) = (node, next + length),
                None if !is_last => (at, next) = (child, next + length),
                jumped => {
                    let node = if let Some(Target::Jump(node)) = jumped { node } else { child };
                    let name = name.to_vec();
                    return Ok(Found { parent: at, name, node: Some(node), wants_directory });
                }
            }
        }
    }

    fn root(&self) -> Node {
        Node::Inode(Rc::clone(self.tree.root()))
    }

    /// Where `.` and `..` lead; `None` for every other name.
    fn step_special(&self, at: &Node, name: &[u8]) -> Result<Option<Node>, Errno> {
        match name {
            b"." => Ok(Some(at.clone())),
            b".." => self.parent(at).map(Some),
            _ => Ok(None),
        }
    }

    fn parent(&self, at: &Node) -> Result<Node, Errno> {
        match at {
            Node::Inode(inode) if Rc::ptr_eq(inode, self.tree.root()) => Ok(self.root()),
            Node::Inode(inode) => inode.parent().map(Node::Inode).ok_or(Errno::NOENT),
            Node::Processes(entry) => Ok(entry.parent().map_or(self.root(), Node::Processes)),
            Node::Open(_) => Err(Errno::NOTDIR),
        }
    }

    fn child(&self, at: &Node, name: &[u8]) -> Result<Option<Node>, Errno> {
        match at {
            Node::Inode(inode) => {
                let child = inode.lookup(name)?;
                Ok(child.map(|child| match child.body() {
                    Body::Processes => Node::Processes(Entry::Root),
                    Body::Directory(_) | Body::File(_) | Body::Symlink(_) | Body::Device(_) => {
                        Node::Inode(child)
                    }
                }))
            }
            Node::Processes(entry) => Ok(entry.lookup(name, self.caller).map(Node::Processes)),
            Node::Open(_) => Err(Errno::NOTDIR),
        }
    }

    fn target(&self, node: &Node) -> Result<Option<Target>, Errno> {
        if let Node::Processes(Entry::Descriptor(number)) = node {
            let caller = self.caller.ok_or(Errno::NOENT)?;
            let file = caller.descriptors.get(*number)?;
            let node = super::open::node_of(&file).unwrap_or(Node::Open(file));
            return Ok(Some(Target::Jump(node)));
        }
        Ok(self.link_text(node)?.map(Target::Text))
    }

    /// What a symbolic link says; `None` for anything else.
    ///
    /// # Errors
    /// [`Errno::NOENT`] for a link about a process that is not known.
    pub fn link_text(&self, node: &Node) -> Result<Option<Vec<u8>>, Errno> {
        match node {
            Node::Inode(inode) => match inode.body() {
                Body::Symlink(target) => Ok(Some(target.to_vec())),
                Body::Directory(_) | Body::File(_) | Body::Device(_) | Body::Processes => Ok(None),
            },
            Node::Processes(Entry::Descriptor(number)) => {
                let caller = self.caller.ok_or(Errno::NOENT)?;
                Ok(Some(caller.descriptors.get(*number)?.path()))
            }
            Node::Processes(Entry::Link(link)) => self.process_link(*link).map(Some),
            Node::Processes(_) | Node::Open(_) => Ok(None),
        }
    }

    fn process_link(&self, link: Link) -> Result<Vec<u8>, Errno> {
        let caller = self.caller.ok_or(Errno::NOENT);
        match link {
            Link::Own => Ok(alloc::format!("{}", caller?.process).into_bytes()),
            Link::OwnTask => {
                let Caller { process, task, .. } = *caller?;
                Ok(alloc::format!("{process}/task/{task}").into_bytes())
            }
            Link::Mounts => Ok(b"self/mounts".to_vec()),
            Link::Executable => Ok(caller?.executable.to_vec()),
            Link::CurrentDirectory => Ok(path_of(self.tree, self.current)),
            Link::Root => Ok(b"/".to_vec()),
        }
    }
}

fn checked(path: Vec<u8>) -> Result<Vec<u8>, Errno> {
    if path.len() >= PATH_BYTES_MAX { Err(Errno::NAMETOOLONG) } else { Ok(path) }
}

/// The end of a path without a last name.
fn directory_itself(at: Node) -> Result<Found, Errno> {
    let node = Some(at.clone());
    Ok(Found { parent: at, name: Vec::new(), node, wants_directory: true })
}

/// The absolute path of a directory, as far as it is in the tree.
#[must_use]
pub fn path_of(tree: &Tree, directory: &Node) -> Vec<u8> {
    let mut names = Vec::new();
    match directory {
        Node::Inode(inode) => {
            let mut at = Rc::clone(inode);
            while !Rc::ptr_eq(&at, tree.root()) {
                names.push(at.name());
                let Some(parent) = at.parent() else { break };
                at = parent;
            }
        }
        Node::Processes(_) => names.push(b"proc".to_vec()),
        Node::Open(file) => return file.path(),
    }
    let mut path = Vec::new();
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() { b"/".to_vec() } else { path }
}
