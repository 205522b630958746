//! The tree of files a container sees.
//!
//! ```text
//!  archive (tar) ─► Image, read-only, shared by containers
//!                     ▲ lower
//!  View (root, cwd) ─► Tree ─► Inode ─► Directory | Content | ...      one per container
//!                       └────► /proc, made up while it is read
//! ```
//! Every directory and file of a container is an [`inode::Inode`] in memory; one that comes from
//! an image is made when it is first looked up, points at its original, and takes only what is
//! changed into pages of its own. So a new container costs a handful of small objects however
//! large its root is. Everything a program adds is charged to its container's account.

pub mod view;
pub mod open;
pub mod walk;
pub mod processes;
pub mod tree;
pub mod inode;
pub mod lock;
pub mod record_lock;
pub mod content;
pub mod tar;
pub mod image;

pub use image::Image;
pub use tree::Tree;
pub use view::View;

use crate::file::Descriptors;

/// Bytes of a path, its NUL included (`PATH_MAX`).
pub const PATH_BYTES_MAX: usize = 4096;
/// Bytes of a name (`NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;
/// Device number of `/proc`; the tree's is 1.
pub const PROC_DEVICE: u64 = 2;
/// Symbolic links followed in one path, as Linux.
pub const LINKS_FOLLOWED_MAX: usize = 40;

/// Who looks: what `/proc` shows about the calling process.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// Its number.
    pub process: u32,
    /// Its parent's number.
    pub parent: u32,
    /// The calling thread's number.
    pub task: u32,
    /// Path of the file it executes.
    pub executable: &'a [u8],
    /// Its arguments, a NUL after each.
    pub command_line: &'a [u8],
    /// Its short name.
    pub name: &'a [u8],
    /// Writes the text of `/proc/self/maps`.
    pub memory: &'a dyn Fn(&mut alloc::vec::Vec<u8>),
    /// Its open files.
    pub descriptors: &'a Descriptors,
}
