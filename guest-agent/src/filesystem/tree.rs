//! One container's files: its root directory, and where packages and credentials are mounted.

use alloc::rc::Rc;
use core::cell::Cell;

use super::image::{Archive, Builder, Data, Image, ImageError, Kind, Node};
use super::inode::{Ground, Inode, SavedTree};
use crate::errno::Errno;
use crate::file::device::Device;
use crate::memory::Account;
use crate::world::World;

/// Where a container finds its package.
pub const PACKAGE: &[u8] = b"/var/task";
/// Where a container finds the credentials of its logging service.
pub const CREDENTIALS: &[u8] = b"/run/credentials/logging";

const DIRECTORIES: [(&[u8], u32); 10] = [
    (b"dev", 0o755),
    (b"dev/shm", 0o1777),
    (b"etc", 0o755),
    (b"root", 0o700),
    (b"run", 0o755),
    (b"run/credentials", 0o755),
    (b"run/credentials/logging", 0o700),
    (b"tmp", 0o1777),
    (b"var/task", 0o755),
    (b"var/tmp", 0o1777),
];

const DEVICES: [(&[u8], Device); 6] = [
    (b"dev/null", Device::Null),
    (b"dev/zero", Device::Zero),
    (b"dev/full", Device::Full),
    (b"dev/random", Device::Random),
    (b"dev/urandom", Device::Random),
    (b"dev/tty", Device::Terminal),
];

const LINKS: [(&[u8], &[u8]); 4] = [
    (b"dev/fd", b"/proc/self/fd"),
    (b"dev/stdin", b"/proc/self/fd/0"),
    (b"dev/stdout", b"/proc/self/fd/1"),
    (b"dev/stderr", b"/proc/self/fd/2"),
];

/// Made when the root image has none. Names are resolved outside the VM.
const FILES: [(&[u8], &[u8]); 5] = [
    (b"etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    (b"etc/group", b"root:x:0:\nnogroup:x:65534:\n"),
    (b"etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n"),
    (b"etc/resolv.conf", b""),
    (b"etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files\n"),
];

/// Adds to a root image what every container has: mount points, devices, `/proc`.
///
/// # Errors
/// [`ImageError::BadPath`] when the root image has a file where a directory belongs.
pub fn with_skeleton(image: Option<Image>, serial: u64) -> Result<Image, ImageError> {
    let (mut builder, archive) = match image {
        Some(image) => Builder::from_image(image),
        None => (Builder::new(), Archive::Owned(alloc::vec::Vec::new())),
    };
    for (path, permissions) in DIRECTORIES {
        builder.directory(path, permissions, 0)?;
    }
    for (path, device) in DEVICES {
        builder.put(path, node(Kind::Device(device), 0o666))?;
    }
    for (path, target) in LINKS {
        builder.put(path, node(Kind::Symlink(target.into()), 0o777))?;
    }
    for (path, text) in FILES {
        if builder.find(path).is_none() {
            builder.put(path, node(Kind::File(Data::Own(text.into())), 0o644))?;
        }
    }
    if builder.find(b"proc").is_none() {
        builder.put(b"proc", node(Kind::Processes, 0o555))?;
    } else {
        builder.replace_directory(b"proc", node(Kind::Processes, 0o555))?;
    }
    Ok(builder.finish(archive, serial))
}

/// A small image of files made here, each readable by its owner only.
///
/// # Errors
/// [`ImageError::BadPath`] for a name that is a path out of the image.
pub fn secret_files<'a>(
    files: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    serial: u64,
) -> Result<Image, ImageError> {
    let mut builder = Builder::new();
    builder.directory(b"", 0o700, 0)?;
    for (name, bytes) in files {
        builder.put(name, node(Kind::File(Data::Own(bytes.into())), 0o400))?;
    }
    Ok(builder.finish(Archive::Owned(alloc::vec::Vec::new()), serial))
}

fn node(kind: Kind, permissions: u32) -> Node {
    Node { kind, permissions, links: 1, modified_nanos: 0 }
}

/// The files of one container.
#[derive(Debug)]
pub struct Tree {
    root: Rc<Inode>,
    account: Rc<Account>,
    world: World,
    boot_id: Cell<Option<[u8; 16]>>,
}

impl Tree {
    /// A fresh tree over the root image, with package and credentials mounted read-only.
    #[must_use]
    pub fn new(
        world: &World,
        account: &Rc<Account>,
        root: &Rc<Image>,
        package: Option<&Rc<Image>>,
        credentials: Option<&Rc<Image>>,
    ) -> Rc<Self> {
        let ground = Ground::new(Rc::clone(account));
        let root = Inode::root(&ground, root);
        for (path, image) in [(PACKAGE, package), (CREDENTIALS, credentials)] {
            if let Some(image) = image {
                mount(&root, path, image);
            }
        }
        let (account, world) = (Rc::clone(account), world.clone());
        Rc::new(Self { root, account, world, boot_id: Cell::new(None) })
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> &Rc<Inode> {
        &self.root
    }

    /// Whether anything in it is other than when it was made.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.root.has_changed_tree()
    }

    /// Saves it as it is now, and the files `besides`, which may have no name any more.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when RAM is used up.
    pub fn save(&self, besides: impl Iterator<Item = Rc<Inode>>) -> Result<SavedTree, Errno> {
        SavedTree::new(&self.root, besides)
    }

    /// What the tree is charged to.
    #[must_use]
    pub fn account(&self) -> &Rc<Account> {
        &self.account
    }

    /// The world of its devices.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// `/proc/sys/kernel/random/boot_id`: the same for the life of the tree.
    #[must_use]
    pub fn boot_id(&self) -> [u8; 16] {
        if let Some(id) = self.boot_id.get() {
            return id;
        }
        let mut id = [0; 16];
        self.world.random(&mut id);
        self.boot_id.set(Some(id));
        self.root.note_change();
        id
    }
}

/// Mounts `image` at `path`, whose parents the skeleton has.
fn mount(root: &Rc<Inode>, path: &[u8], image: &Rc<Image>) {
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
    let mut at = Rc::clone(root);
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            at.mount(name, image, true);
            return;
        }
        match at.lookup(name) {
            Ok(Some(next)) => at = next,
            // The skeleton has every parent; without it there is nowhere to mount.
            _ => return,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::filesystem::inode::Body;

    /// Gives this thread physical memory.
    pub(crate) fn machine_ready() {
        machine::host::init(64 << 20);
    }

    #[test]
    fn the_skeleton_keeps_what_the_root_image_has() {
        let mut builder = Builder::new();
        let hosts = Kind::File(Data::Own(b"mine".as_slice().into()));
        builder.put(b"etc/hosts", node(hosts, 0o600)).unwrap();
        builder.directory(b"proc", 0o755, 0).unwrap();
        let image = builder.finish(Archive::Owned(alloc::vec::Vec::new()), 1);
        let image = Rc::new(with_skeleton(Some(image), 2).unwrap());
        let tree = Tree::new(&World::new(), &Account::new(1 << 20), &image, None, None);
        let etc = tree.root().lookup(b"etc").unwrap().unwrap();
        assert_eq!(etc.lookup(b"hosts").unwrap().unwrap().stat().bytes, 4);
        assert!(etc.lookup(b"passwd").unwrap().is_some());
        let proc = tree.root().lookup(b"proc").unwrap().unwrap();
        assert!(matches!(proc.body(), Body::Processes));
    }

    #[test]
    fn mounts_are_read_only_and_charged_to_nobody() {
        let world = World::new();
        let account = Account::new(1 << 20);
        let root = Rc::new(with_skeleton(None, 1).unwrap());
        let files = [(b"token".as_slice(), b"secret".as_slice())];
        let secrets = Rc::new(secret_files(files.into_iter(), 2).unwrap());
        let tree = Tree::new(&world, &account, &root, Some(&secrets), Some(&secrets));
        let mut at = Rc::clone(tree.root());
        for name in [b"run".as_slice(), b"credentials", b"logging"] {
            at = at.lookup(name).unwrap().unwrap();
        }
        let token = at.lookup(b"token").unwrap().unwrap();
        assert_eq!(token.stat().mode & 0o777, 0o400);
        assert!(token.is_read_only() && at.is_mount());
        assert_eq!(at.remove(b"token").err(), Some(crate::errno::Errno::ROFS));
        assert_eq!(account.used_bytes(), 0);
    }
}
